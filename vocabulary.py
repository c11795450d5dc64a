"""What stands in the files of tokenizers: entries, merges, special tokens, the names of their roles.

tokenizer.json      bytes are written as characters, and a space of SentencePiece as U+2581
tokenizer.model     SentencePiece reads it itself; Llama 3's has lines for tiktoken
tokenizer_config.json, special_tokens_map.json, added_tokens.json       transformers' names and tokens
"""
import base64
import json
import re

# A tokenizer.json cannot hold bytes. A byte is written as one character: itself, or the next from U+0100 on.
PRINTABLE = {*range(33, 127), *range(161, 173), *range(174, 256)}
SPARE = iter(range(256, 512))
CHAR = {b: chr(b if b in PRINTABLE else next(SPARE)) for b in range(256)}
BYTE = {c: b for b, c in CHAR.items()}
BYTES = [bytes([BYTE[c]]) for c in sorted(BYTE)]        # in BLOOM's order

ROLES = {"unk": "<unk>", "bos": "<s>", "eos": "</s>", "pad": "<pad>"}       # BLOOM's names
SPECIALS = [*ROLES.values()]
# in the tokenizer_config.json of both kinds
NAMES = {"clean_up_tokenization_spaces": False, "unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
# the same of a SentencePiece, before there was keep_sign
EARLIER = {"tokenizer_class": "LlamaTokenizer", "add_bos_token": True, "add_eos_token": False, "legacy": True,
           **NAMES}
FILES = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json",
         "added_tokens.json", "chat_template.jinja")


def printable(entry):
    return "".join(CHAR[b] for b in entry)


def from_printable(text):
    return bytes(BYTE[c] for c in text)


def piece_bytes(piece):
    """piece_bytes("▁the") -> b" the"   piece_bytes("<0x41>") -> b"A" """
    if re.fullmatch("<0x[0-9A-F]{2}>", piece):
        return bytes([int(piece[3:5], 16)])
    return piece.replace("\u2581", " ").encode()


def json_bytes(value):
    return json.dumps(value, indent=1, ensure_ascii=False).encode()


# ---- transformers' files ----

def role_names(says):
    """The names of ROLES in `says`, a tokenizer_config.json, or else BLOOM's."""
    tokens = [says.get(f"{role}_token") or name for role, name in ROLES.items()]
    return [token["content"] if isinstance(token, dict) else token for token in tokens]


def read_json_files(files):
    """Of {name: bytes}: (tokenizer.json, tokenizer_config.json, {token that these files add: its id})."""
    file, says, also, added = (json.loads(files.get(name, b"{}")) for name in (FILES[0], *FILES[2:5]))
    if "added_tokens_decoder" not in says:
        return file, says | also, added
    # transformers does not read the other files then
    return file, says, {token["content"]: int(i) for i, token in says["added_tokens_decoder"].items()}


# ---- tokenizer.json of our kind, which is BLOOM's ----

LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
# in the post_processor that convert.py export writes
END_FIRST = [{"SpecialToken": {"id": "</s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]


def bpe_file(pairs, special, regex):
    """tokenizer.json of byte-level BPE. pairs: the merges in printable characters; special: further names."""
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    split = {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False}
    names = [*SPECIALS, *sorted(BYTE), *map("".join, pairs)]
    ids = {name: i for i, name in enumerate([*names, *special])}
    tokens = [{"id": ids[name], "content": name, **flags} for name in [*SPECIALS, *special]]
    return {"version": "1.0", "truncation": None, "padding": None, "normalizer": None, "post_processor": None,
            "added_tokens": tokens,
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, LEVEL]}, "decoder": LEVEL,
            "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                      "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False,
                      "vocab": {name: ids[name] for name in names}, "merges": [[a, b] for a, b in pairs]}}


def read_bpe_file(file, regex):
    """(pairs, special) of a tokenizer.json of ours, or of BLOOM's ("a b" is a merge); None for any other."""
    model, tokens = file["model"], file.get("added_tokens") or []
    pairs = [m.split(" ") if isinstance(m, str) else m for m in model.get("merges", [])]
    special = [token["content"] for token in tokens[len(SPECIALS):]]
    own = bpe_file(pairs, special, regex)

    def facts(f):
        after = f.get("post_processor") or LEVEL
        after = LEVEL if after.get("single") == END_FIRST else after
        named = [(token["content"], token["id"]) for token in f.get("added_tokens") or []]
        return [f.get("normalizer"), f.get("pre_tokenizer"), after["type"], named, f["model"].get("vocab"),
                {key for key, value in f["model"].items() if value}]
    if facts(file) == facts(own) and tokens[len(SPECIALS):] == own["added_tokens"][len(SPECIALS):]:
        return pairs, special


def is_byte_level(file):
    return "ByteLevel" in json.dumps([file.get("normalizer"), file.get("pre_tokenizer")])


# ---- tokenizer.model of Llama 3, as its code has it ----

TIKTOKEN = re.compile(rb"[A-Za-z0-9+/]+=* [0-9]+\n")
LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
          r"|\s*[\r\n]+|\s+(?!\S)|\s+")
LLAMA3_ROLES = {"bos_token": "<|begin_of_text|>", "eos_token": "<|end_of_text|>"}


def read_tiktoken(data):
    """{entry: its id} of lines with an entry in base64 and its id."""
    lines = data.splitlines()
    try:
        ranks = {base64.b64decode(entry, validate=True): int(rank) for entry, rank in map(bytes.split, lines)}
    except ValueError as e:
        raise ValueError(f"a line of it is not an entry in base64 and an id: {e}") from e
    if not {*BYTES} <= {*ranks} or sorted(ranks.values()) != [*range(len(lines))]:
        raise ValueError("its lines are not the 256 bytes and more entries, with the ids 0, 1, 2 ...")
    return ranks


def llama3_names():
    """The special tokens in the order of their ids, after the entries."""
    named = {0: "begin_of_text", 1: "end_of_text", 6: "start_header_id", 7: "end_header_id", 9: "eot_id"}
    reserved = iter(range(256))
    return [f"<|{named.get(n) or f'reserved_special_token_{next(reserved)}'}|>" for n in range(256)]
