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
ROLES = {"unk": "<unk>", "bos": "<s>", "eos": "</s>", "pad": "<pad>"}       # BLOOM's names
SPECIALS = [*ROLES.values()]
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
    """What the kinds share. A kind has ids_of(texts); `entries`, the bytes of each id, none for special ones;
    and `special_ids`, {name: id}."""
    space = False
    lossless = True
    prompt = []
    imported = False
    way = ""                    # how texts are cut, if not as in the papers
    files = {}                  # {name: bytes} of the folder that was read

    def set_roles(self, says):
        ids = self.special_ids
        for role, name in zip(ROLES, role_names(says)):
            if says.get(f"{role}_token") and name not in ids:
                raise ValueError(f"its {role}_token {name!r} is not one of its special tokens")
            setattr(self, role, ids.get(name))
        self.ends = {self.eos} - {None}

    @property
    def begin(self):
        """In our rows a text follows the end of another. An imported model begins as its files say."""
        if self.imported or self.eos is None:
            return self.prompt
        return [self.eos, *self.prompt]

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

    def try_out(self):
        """Find out `space` and `lossless` with texts that some models change."""
        self.space = self.decode(self.encode("a")) == " a"
        texts = "  a  \t\u3000\n", "e\u0301\ufb01\u00bd", "\u2581"
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

    def __init__(self, merges, says={}):
        self.merges = merges
        self.entries = [b""] * len(SPECIALS) + BYTES + [a + b for a, b in merges]
        self.vocab = len(self.entries)
        ranks = {entry: i for i, entry in enumerate(self.entries) if entry}
        self.tiktoken = tiktoken.Encoding("bpe", pat_str=PIECES, mergeable_ranks=ranks, special_tokens={})
        self.set_roles(says)

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
    def of_file(cls, file, says):
        """The tokenizer of a tokenizer.json of ours, or of BLOOM's ("a b" is a merge); None for any other."""
        model = file["model"]
        after = file.get("post_processor") or cls.LEVEL
        merges = [m.split(" ") if isinstance(m, str) else m for m in model.get("merges", [])]
        names = [*SPECIALS, *sorted(BYTE), *map("".join, merges)]
        has = [file.get("normalizer"), file.get("pre_tokenizer"), after["type"], added_tokens(file),
               model.get("vocab"), {key for key, value in model.items() if value}]
        if has == [None, cls.CUT, "ByteLevel", cls.special_ids, {name: i for i, name in enumerate(names)},
                   {"type", "vocab", "merges"}]:
            return cls([(from_printable(a), from_printable(b)) for a, b in merges], says)


# in the tokenizer_config.json of both kinds
NAMES = {"clean_up_tokenization_spaces": False, "unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}


def role_names(says):
    """The names of ROLES in `says`, a tokenizer_config.json, or else BLOOM's."""
    tokens = [says.get(f"{role}_token") or name for role, name in ROLES.items()]
    return [token["content"] if isinstance(token, dict) else token for token in tokens]


def printable(entry):
    return "".join(CHAR[b] for b in entry)


def from_printable(text):
    return bytes(BYTE[c] for c in text)


def json_bytes(value):
    return json.dumps(value, indent=1, ensure_ascii=False).encode()


def added_tokens(file):
    return {token["content"]: token["id"] for token in file.get("added_tokens") or []}


MARK = "\U0010fffd"             # for private use: a character of no piece


class SentencePiece(Tokenizer):
    """SentencePiece BPE as in LLaMA: ids `<unk> <s> </s>`, 256 bytes, pieces. U+2581 stands for a space."""
    kind = "sentencepiece"

    def __init__(self, model, says={}, adds_bos=True):
        sentencepiece.set_min_log_level(3)
        self.model = model
        self.sp = sp = sentencepiece.SentencePieceProcessor(model_proto=model)
        self.vocab = sp.vocab_size()
        self.ids = {sp.id_to_piece(i): i for i in range(self.vocab)}
        self.special_ids = {p: i for p, i in self.ids.items() if sp.is_control(i) or sp.is_unknown(i)}
        self.entries = [b"" if piece in self.special_ids else piece_bytes(piece) for piece in self.ids]
        self.sign = [self.ids[f"<0x{b:02X}>"] for b in "\u2581".encode()]
        self.set_roles(says)
        if adds_bos and self.bos is not None:
            self.prompt = [self.bos]
        self.try_out()
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


PLAIN = "One 2, three-four!\n\tfive_6."              # no model may change this


class Foreign(Tokenizer):
    """Any other BPE in a tokenizer.json: Llama 3, SmolLM, NeoX. Hugging Face's `tokenizers` encodes."""
    def __init__(self, file, says):
        try:
            import tokenizers
        except ImportError as e:
            raise ValueError("its library is missing: pip install tokenizers") from e
        model_type = file["model"].get("type", "BPE")
        if model_type != "BPE":
            raise ValueError(f"its model is {model_type}; only BPE is supported")
        special = {}
        for token in file.get("added_tokens") or []:
            token["special"] |= token["content"] in role_names(says)
            special[token["content"]] = token["special"]
        self.library = tokenizers.Tokenizer.from_str(json.dumps(file))
        self.library.no_truncation()
        self.library.no_padding()
        self.library.encode_special_tokens = True       # a text that spells one stays text
        byte_level = is_byte_level(file)
        self.kind = "bpe" if byte_level else "sentencepiece"
        to_bytes = from_printable if byte_level else piece_bytes
        ids = self.library.get_vocab()
        self.special_ids = {name: ids[name] for name in special}
        self.set_roles(says)
        self.vocab = 1 + max(ids.values())
        self.entries = [b""] * self.vocab
        for name, i in ids.items():
            if name not in special:
                self.entries[i] = to_bytes(name)
            elif not special[name]:
                self.entries[i] = name.encode()
        self.try_out()
        cut = json.dumps([file.get("normalizer"), file.get("pre_tokenizer")], sort_keys=True)
        if not {*BYTES} <= {*self.entries} or self.decode(self.encode(PLAIN)) != PLAIN:
            raise ValueError(f"its ids do not spell every text, which is changed by {cut:.200}")
        if {*re.findall('"type": "(.*?)"', cut)} <= {"Sequence", "Prepend", "Replace", "Metaspace"}:
            self.way = "" if self.space else "no space before"      # as LLaMA's
        elif cut != json.dumps([None, BPE.CUT], sort_keys=True):
            self.way = cut
        begun = self.library.encode("a")
        if begun.special_tokens_mask[-1]:
            raise ValueError("it puts a token behind every text, which this program does not")
        self.prompt = begun.ids[:begun.special_tokens_mask.index(0)]

    def ids_of(self, texts):
        return [encoding.ids for encoding in self.library.encode_batch_fast(texts, add_special_tokens=False)]


def is_byte_level(file):
    return "ByteLevel" in json.dumps(file.get("pre_tokenizer"))


# ---- from folders ----

def from_files(files):
    """The tokenizer of {name: bytes}."""
    file, says, also = (json.loads(files.get(name, b"{}")) for name in (FILES[0], *FILES[2:]))
    if "added_tokens_decoder" not in says:          # else transformers does not read the other file
        says |= also
    if "tokenizer.model" in files and not is_byte_level(file):
        adds_bos = file.get("post_processor") if file else says.get("add_bos_token", True)
        found = SentencePiece(files["tokenizer.model"], says, adds_bos)
        if not file or found.lossless and found.ids == file["model"]["vocab"] | added_tokens(file):
            return found                # else tokenizer.json counts, as in transformers
    return BPE.of_file(file, says) or Foreign(file, says)


def load(folder, imported=False):
    """The tokenizer saved in `folder`, ours or another model's: it gives Hugging Face's ids, or is refused.
    imported: a text begins as its files say."""
    paths = [pathlib.Path(folder, name) for name in FILES]
    files = {path.name: path.read_bytes() for path in paths if path.is_file()}
    if not {*FILES[:2]} & {*files}:
        raise ValueError(f"no tokenizer in {folder}: it needs tokenizer.json or tokenizer.model")
    try:
        found = from_files(files)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as e:          # the libraries raise plain ones; Rust's panic is no Exception
        raise ValueError(f"{folder} has no tokenizer that this program can use: {e!r:.300}") from e
    found.files, found.imported = files, imported
    return found


def fingerprint(tokenizer):
    """Names a tokenizer by what it does: a hash of its entries in order and of its `way`."""
    lines = [entry.hex() for entry in tokenizer.entries] + [tokenizer.way] * bool(tokenizer.way)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


if __name__ == "__main__":
    from corpus import fertility
    config.command(fertility.main)
