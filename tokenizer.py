"""Text to ids and back: BLOOM's byte-level BPE and LLaMA's SentencePiece behind one interface.

    python tokenizer.py train --input en/ yo/ --lang en yo --vocab 32000 --alpha 0.3 --out data/wide
    python tokenizer.py report data/wide --input en/ yo/ --lang en yo --monolingual

encode(text) -> ids   encode_batch(texts)   decode(ids)   bytes_of(id)   save(folder)
vocab       how many ids there are          prompt    the ids that a text begins with
unk bos eos pad     one id each, or None    begin     the ids that generation puts before a text
ends        the ids that end a text         space     encode() puts a space before a text
lossless    every text comes back to the letter

A text that spells a special token stays text. load(folder) also opens tokenizers of other models.
merge_most_frequent() is BPE as in its paper; corpus/bpe.py does the same fast.
"""
import collections
import hashlib
import json
import os
import pathlib
import re

import sentencepiece
import tiktoken

import config

# A tokenizer.json cannot hold bytes. A byte is written as one character: itself, or the next from U+0100 on.
PRINTABLE = {*range(33, 127), *range(161, 173), *range(174, 256)}
SPARE = iter(range(256, 512))
CHAR = {b: chr(b if b in PRINTABLE else next(SPARE)) for b in range(256)}
BYTE = {c: b for b, c in CHAR.items()}
BYTES = [bytes([BYTE[c]]) for c in sorted(BYTE)]        # in the order of BLOOM's vocabulary
SPECIALS = ["<unk>", "<s>", "</s>", "<pad>"]
ROLES = "unk", "bos", "eos", "pad"
NAMES = {"clean_up_tokenization_spaces": False, "unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
KINDS = "bpe", "sentencepiece"
FILES = "tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json"

# BLOOM, section 3.3. Its tokenizer.json has REGEX: a piece is an optional space, then neither white space nor
# one of these signs; what lies between two pieces is a piece too. PIECES says this for Python and tiktoken.
REGEX = " ?[^(\\s|[.,!?…。，、।۔،])]+"
GAP = r"\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000()|.,!?…。，、।۔،"
PIECES = rf" ?[^{GAP}]+|[{GAP}]+?(?= ?[^{GAP}])|[{GAP}]+"


def merge_most_frequent(count, vocab):
    """The merges of BPE, [(bytes, bytes)], as the paper finds them (Sennrich et al. 2016, algorithm 1).

    count: {piece: how often it occurs}. Count the pairs of neighbours, join the most frequent, begin again.
    merge_most_frequent({"low": 5, "lot": 2}, 262) -> [(b"l", b"o"), (b"lo", b"w")]: found 7 and 5 times.
    A tie goes to the pair whose parts are older. A pair that occurs once is not joined.
    """
    entries = list(BYTES)
    number = {entry[0]: i for i, entry in enumerate(entries)}
    words = [([number[b] for b in piece.encode()], times) for piece, times in count.items()]
    merges = []
    while len(SPECIALS) + len(entries) < vocab:
        pairs = collections.Counter()
        for ids, times in words:
            for pair in zip(ids, ids[1:]):
                pairs[pair] += times
        best = min(pairs, key=lambda pair: (-pairs[pair], pair), default=None)
        if best is None or pairs[best] < 2:
            break
        a, b = best
        merges.append((entries[a], entries[b]))
        entries.append(entries[a] + entries[b])
        for ids, _ in words:
            for i in range(len(ids)):           # from the left; the list gets shorter meanwhile
                if ids[i:i + 2] == [a, b]:
                    ids[i:i + 2] = [len(entries) - 1]
    return merges


class Tokenizer:
    """What the kinds share. `entries`: bytes of each id, none for special ones. `special_ids`: {name: id}."""
    space = False
    lossless = True
    prompt = []
    adds_bos = False            # the prompt is `bos`
    roles = (None,) * 4         # ids of ROLES
    way = ""                    # how texts are cut, if not as in the papers
    files = {}                  # {name: bytes} of the folder that was read

    def set_roles(self, roles, imported=False):
        """In our rows a text follows the end of another; an imported model begins as its files say."""
        self.roles = self.unk, self.bos, self.eos, self.pad = roles
        if self.adds_bos and self.bos is not None:
            self.prompt = [self.bos]
        self.ends = {self.eos} - {None}
        self.begin = self.prompt if imported else [*self.ends, *self.prompt]
        for i in {*roles} - {None}:
            self.entries[i] = b""

    def encode(self, text):
        return self.encode_batch([text])[0]

    def encode_batch(self, texts):
        for text in texts:
            text.encode()       # half of a surrogate pair: Python's ValueError says where it stands
        return self.ids_of(texts)

    def bytes_of(self, i):
        return self.entries[i]

    def decode(self, ids):
        text = b"".join(self.entries[i] for i in ids).decode("utf-8", "replace")
        if self.space and text.startswith(" "):             # the space that encode() put in front
            return text[1:]
        return text

    def try_out(self, texts):
        """Find out `space` and `lossless`."""
        self.space = self.decode(self.encode("a")) == " a"
        self.lossless = all(self.decode(self.encode(text)) == text for text in texts)

    def save(self, folder):
        """Write the files that load() and transformers read; what was read is written as it was."""
        os.makedirs(folder, exist_ok=True)
        for name, data in (self.files or self.own_files()).items():
            pathlib.Path(folder, name).write_bytes(data)


class BPE(Tokenizer):
    """Byte-level BPE: ids 0-3 are SPECIALS, then 256 bytes, then the merges in order. tiktoken encodes."""
    kind = "bpe"
    special_ids = {name: i for i, name in enumerate(SPECIALS)}
    LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    SPLIT = {"type": "Split", "pattern": {"Regex": REGEX}, "behavior": "Isolated", "invert": False}
    CUT = {"type": "Sequence", "pretokenizers": [SPLIT, LEVEL]}

    def __init__(self, merges):
        self.merges = merges
        self.entries = [b""] * len(SPECIALS) + BYTES + [a + b for a, b in merges]
        self.vocab = len(self.entries)
        ranks = {entry: i for i, entry in enumerate(self.entries) if entry}
        self.tiktoken = tiktoken.Encoding("bpe", pat_str=PIECES, mergeable_ranks=ranks, special_tokens={})
        self.set_roles([0, 1, 2, 3])

    def ids_of(self, texts):
        if not any(len(text) > 50_000 and re.search(f"[{GAP}]{{50000}}", text) for text in texts):
            return self.tiktoken.encode_ordinary_batch(texts)
        encode = self.tiktoken._encode_single_piece     # its regex engine fails at about a million spaces
        return [[i for piece in re.findall(PIECES, text) for i in encode(piece)] for text in texts]

    def own_files(self):
        """tokenizer.json in Hugging Face's format, and what transformers needs beside it."""
        flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
        vocab = {printable(entry): i for i, entry in enumerate(self.entries) if entry}
        file = {
            "version": "1.0", "truncation": None, "padding": None, "normalizer": None, "post_processor": None,
            "added_tokens": [{"id": i, "content": name, **flags} for name, i in self.special_ids.items()],
            "pre_tokenizer": self.CUT, "decoder": self.LEVEL,
            "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                      "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False,
                      "vocab": self.special_ids | vocab,
                      "merges": [[printable(a), printable(b)] for a, b in self.merges]}}
        says = {"tokenizer_class": "PreTrainedTokenizerFast", **NAMES, "pad_token": "<pad>"}
        return {"tokenizer.json": json_bytes(file), "tokenizer_config.json": json_bytes(says)}

    @classmethod
    def of_file(cls, file):
        """The tokenizer of a tokenizer.json of ours, or of BLOOM's ("a b" is a merge); None for any other."""
        model = file["model"]
        after = file.get("post_processor") or cls.LEVEL
        merges = [m.split(" ") if isinstance(m, str) else m for m in model.get("merges", [])]
        names = [*SPECIALS, *sorted(BYTE), *map("".join, merges)]
        vocab = {name: i for i, name in enumerate(names)}
        has = [file.get("normalizer"), file.get("pre_tokenizer"), after["type"], added_tokens(file),
               model.get("vocab"), {key for key, value in model.items() if value}]
        if has == [None, cls.CUT, "ByteLevel", cls.special_ids, vocab, {"type", "vocab", "merges"}]:
            return cls([(from_printable(a), from_printable(b)) for a, b in merges])


def printable(entry):
    return "".join(CHAR[b] for b in entry)


def from_printable(text):
    return bytes(BYTE[c] for c in text)


def json_bytes(value):
    return json.dumps(value, indent=1, ensure_ascii=False).encode()


CHANGED = "  a  \t\u3000\n", "e\u0301\ufb01\u00bd"    # some models change these
PLAIN = "One 2, three-four!\n\tfive_6."              # no model may change this
MARK = "\U0010fffd"                                  # for private use: a character of no piece


class SentencePiece(Tokenizer):
    """SentencePiece BPE as in LLaMA: ids `<unk> <s> </s>`, 256 bytes, pieces. U+2581 stands for a space."""
    kind = "sentencepiece"

    def __init__(self, model, adds_bos=True):           # as in Meta's code
        sentencepiece.set_min_log_level(3)
        self.model = model
        self.sp = sp = sentencepiece.SentencePieceProcessor(model_proto=model)
        self.vocab = sp.vocab_size()
        self.ids = {sp.id_to_piece(i): i for i in range(self.vocab)}
        self.special_ids = {p: i for p, i in self.ids.items() if sp.is_control(i) or sp.is_unknown(i)}
        self.entries = [b"" if piece in self.special_ids else piece_bytes(piece) for piece in self.ids]
        self.adds_bos = adds_bos
        roles = sp.unk_id(), sp.bos_id(), sp.eos_id(), sp.pad_id()
        self.set_roles([i if i >= 0 else None for i in roles])
        self.sign = [self.ids[f"<0x{b:02X}>"] for b in "\u2581".encode()]
        self.try_out(CHANGED)
        self.way = ("" if self.space else "no space before") + ("" if self.lossless else "lossy")

    def ids_of(self, texts):
        batch = self.sp.encode(texts)
        for i, text in enumerate(texts):
            if "\u2581" in text:
                batch[i] = self.encode_sign(text)
        return batch

    def encode_sign(self, text):
        """U+2581 would come back as a space: it becomes its three bytes. The parts between are encoded beside
        MARK, so that no space is put before them."""
        first, *others = text.split("\u2581")
        ids = self.sp.encode(first + MARK)[:-len(MARK.encode())]
        skip = len(self.sp.encode(MARK))
        for other in others:
            ids += self.sign + self.sp.encode(MARK + other)[skip:]
        return ids

    def own_files(self):
        says = {"tokenizer_class": "LlamaTokenizer", "add_bos_token": True, "add_eos_token": False,
                "legacy": True, **NAMES}
        return {"tokenizer.model": self.model, "tokenizer_config.json": json_bytes(says)}


def piece_bytes(piece):
    """piece_bytes("▁the") -> b" the"   piece_bytes("<0x41>") -> b"A" """
    if re.fullmatch("<0x[0-9A-F]{2}>", piece):
        return bytes([int(piece[3:5], 16)])
    return piece.replace("\u2581", " ").encode()


class Foreign(Tokenizer):
    """Any other BPE in a tokenizer.json: Llama 3, SmolLM, NeoX. Hugging Face's `tokenizers` encodes."""
    def __init__(self, files):
        try:
            import tokenizers
        except ImportError as e:
            raise ValueError("its library is missing: pip install tokenizers") from e
        file = parse_json(files, "tokenizer.json") | {"truncation": None, "padding": None}
        model = file["model"]
        if model.get("type", "BPE") != "BPE":
            raise ValueError(f"its model is {model['type']}; only BPE is supported")
        self.special_ids = added_tokens(file)
        roles = find_roles(files, self.special_ids)
        added = file.get("added_tokens") or []
        added = [token for token in added if not token["special"] and token["id"] not in roles]
        plain = added_tokens({"added_tokens": added})
        vocab = {entry: i for entry, i in model["vocab"].items() if entry not in self.special_ids} | plain
        # a copy without special tokens encodes, so that no text can spell one
        copy = {"added_tokens": added, "model": model | {"vocab": vocab, "dropout": None}}
        whole = tokenizers.Tokenizer.from_str(json.dumps(file))
        self.library = tokenizers.Tokenizer.from_str(json.dumps(file | copy | {"post_processor": None}))
        ids = vocab | self.special_ids
        if whole.get_vocab() != ids:
            raise ValueError("an id is not the one that the library gives")
        byte_level = is_byte_level(file)
        self.kind = "bpe" if byte_level else "sentencepiece"
        to_bytes = from_printable if byte_level else piece_bytes
        self.vocab = 1 + max(ids.values())
        self.entries = [b""] * self.vocab
        for entry, i in vocab.items():
            self.entries[i] = entry.encode() if entry in plain else to_bytes(entry)
        if not (byte_level or model.get("byte_fallback")) or not {*BYTES} <= {*self.entries}:
            raise ValueError("it lacks some of the 256 bytes")
        self.try_out([*CHANGED, "\u2581"])
        cut = json.dumps([file.get("normalizer"), file.get("pre_tokenizer")], sort_keys=True)
        if self.decode(self.encode(PLAIN)) != PLAIN:
            raise ValueError(f"its ids do not spell a text, which is changed by {cut:.200}")
        if {*re.findall('"type": "(.*?)"', cut)} <= {"Sequence", "Prepend", "Replace", "Metaspace"}:
            self.way = "" if self.space else "no space before"      # as LLaMA's
        elif cut != json.dumps([None, BPE.CUT], sort_keys=True):
            self.way = cut
        text, whole_text = self.encode("a"), whole.encode("a").ids
        self.prompt = whole_text[:-len(text)]
        if [*self.prompt, *text] != whole_text:
            raise ValueError("it puts something after a text")

    def ids_of(self, texts):
        return [encoding.ids for encoding in self.library.encode_batch_fast(texts)]


# ---- from folders ----

def parse_json(files, name):
    """The JSON object in a file; empty if it is not there."""
    with config.blame(f"{name} is not a JSON object"):
        return dict(json.loads(files.get(name, b"{}")))


def added_tokens(file):
    return {token["content"]: token["id"] for token in file.get("added_tokens") or []}


def is_byte_level(file):
    return "ByteLevel" in json.dumps(file.get("pre_tokenizer"))


def find_roles(files, ids, own=Tokenizer.roles):
    """The ids of ROLES, as transformers finds them; those of BLOOM's names, if the files give none.
    ids: {name: id} of the special tokens."""
    said = parse_json(files, "tokenizer_config.json")
    if "added_tokens_decoder" not in said:          # else transformers does not read the other file
        said |= parse_json(files, "special_tokens_map.json")
    if not any(f"{role}_token" in said for role in ROLES):
        return [ids.get(name, i) for name, i in zip(SPECIALS, own)]
    found = list(own)
    for n, role in enumerate(ROLES):
        token = said.get(f"{role}_token")
        name = token["content"] if isinstance(token, dict) else token
        if name:
            found[n] = ids[name]
    return found


def from_files(files):
    file = parse_json(files, "tokenizer.json")
    if "tokenizer.model" in files and not is_byte_level(file):
        said = parse_json(files, "tokenizer_config.json")
        adds_bos = file.get("post_processor") if file else said.get("add_bos_token", True)
        found = SentencePiece(files["tokenizer.model"], adds_bos)
        if not file or found.lossless and found.ids == file["model"]["vocab"] | added_tokens(file):
            return found                # else tokenizer.json counts, as in transformers
    return BPE.of_file(file) or Foreign(files)


def load(folder, imported=False):
    """The tokenizer saved in `folder`, ours or another model's: it gives Hugging Face's ids, or is refused.
    imported: a text begins as its files say."""
    paths = [pathlib.Path(folder, name) for name in FILES]
    files = {path.name: path.read_bytes() for path in paths if path.is_file()}
    if not {*FILES[:2]} & {*files}:
        raise ValueError(f"no tokenizer in {folder}: it needs tokenizer.json or tokenizer.model")
    try:
        with config.blame(f"{folder} has no tokenizer that this program can use"):
            found = from_files(files)
            found.set_roles(find_roles(files, found.special_ids, found.roles), imported)
    except BaseException as e:
        # SentencePiece raises a RuntimeError, tokenizers an Exception; a panic in Rust is neither
        if type(e) in (RuntimeError, Exception) or type(e).__name__ == "PanicException":
            raise ValueError(f"{folder}: the tokenizer's library says: {e}") from e
        raise
    found.files = files
    return found


def fingerprint(tokenizer):
    """Names a tokenizer by what it does: a hash of its entries in order and of its `way`."""
    lines = [entry.hex() for entry in tokenizer.entries] + [tokenizer.way] * bool(tokenizer.way)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


if __name__ == "__main__":
    from corpus import fertility
    config.command(fertility.main)
