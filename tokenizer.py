"""Text to ids and back: BLOOM's byte-level BPE and LLaMA's SentencePiece behind one interface.

    python tokenizer.py train --input en/ yo/ --lang en yo --vocab 32000 --alpha 0.3 --out data/wide
    python tokenizer.py report data/wide --input en/ yo/ --lang en yo --monolingual

encode(text) -> ids   encode_batch(texts)   decode(ids)   bytes_of(id)   save(folder)
encode(text, special=True)      a special token that the text spells becomes its one id, as a prompt needs it
vocab       how many ids there are          prompt    the ids that a text begins with
unk bos eos pad     one id each, or None    begin     the ids that generation puts before a text
ends        the ids that end a text         space     encode() puts a space before a text
lost        {what comes back: the texts that it stands for}, among those of TRIED that come back changed

A text that spells a special token stays text. load(folder) also opens tokenizers of other models.
merge_most_frequent() is BPE as in its paper; corpus/bpe.py does the same fast. vocabulary.py knows files.
"""
import collections
import hashlib
import itertools
import json
import os
import pathlib
import re

import sentencepiece
import tiktoken

import config
import vocabulary
from vocabulary import BYTES, FILES, ROLES, SPECIALS, from_printable, json_bytes, piece_bytes, printable

KINDS = "bpe", "sentencepiece"

# BLOOM, section 3.3. Its tokenizer.json has REGEX: a piece is an optional space, then neither white space nor
# one of these signs; what lies between two pieces is a piece too. PIECES says this for Python and tiktoken.
REGEX = " ?[^(\\s|[.,!?…。，、।۔،])]+"
GAP = r"\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000()|.,!?…。，、।۔،"
PIECES = rf" ?[^{GAP}]+|[{GAP}]+?(?= ?[^{GAP}])|[{GAP}]+"

# Texts that some tokenizers change: spaces, characters with two spellings, letters of several scripts.
TRIED = "  a  ", "\t\n", "\u3000", "e\u0301", "\ufb01", "½", "\u2581", *"ßЖ你नعกあ😀"


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
    """A kind has ids_of(texts); `entries`, the bytes of each id, or none; `special_ids`, {name: id}."""
    ids = {}                    # of entries by their names in the file, where they have names
    space = False
    lost = {}
    prompt = []
    imported = False
    says = {}                   # its tokenizer_config.json
    after_end = False           # its files put `eos` before a text, and token files have it there already
    way = ""                    # how texts are cut, if not as in the papers
    files = {}                  # {name: bytes} of the folder that was read

    def set_roles(self, says):
        ids = self.special_ids
        for role, name in zip(ROLES, vocabulary.role_names(says)):
            if says.get(f"{role}_token") and name not in ids:
                raise ValueError(f"its {role}_token {name!r} is not one of its special tokens")
            setattr(self, role, ids.get(name))
        self.ends = {self.eos} - {None}

    @property
    def begin(self):
        """As in our rows, where a text without `prompt` follows the end of another. An imported model begins
        as its files say."""
        if self.prompt or self.eos is None or self.imported and not self.after_end:
            return self.prompt
        return [self.eos]

    def encode(self, text, special=False):
        if not special:
            return self.encode_batch([text])[0]
        text.encode()
        return self.ids_with_special(text)

    def encode_batch(self, texts):
        for text in texts:
            text.encode()       # half of a surrogate pair: Python's ValueError says where it stands
        return self.ids_of(texts)

    def ids_with_special(self, text):
        """Where two names begin, the longer one counts."""
        names = sorted(self.special_ids, key=len, reverse=True)
        before, *rest = re.split("(" + "|".join(map(re.escape, names)) + ")", text)
        ids = self.encode(before)
        for name, part in zip(rest[::2], rest[1::2]):
            ids += [self.special_ids[name], *self.ids_after_special(part)]
        return ids

    def ids_after_special(self, text):
        return self.encode(text)

    def bytes_of(self, i):
        return self.entries[i]

    def decode(self, ids):
        text = b"".join(self.entries[i] for i in ids).decode("utf-8", "replace")
        if self.space and text.startswith(" "):             # the space that encode() put in front
            return text[1:]
        return text

    def try_out(self):
        """Find out `space` and `lost`."""
        self.space = self.decode(self.encode("a")) == " a"
        self.lost = collections.defaultdict(list)
        for text in TRIED:
            back = self.decode(self.encode(text))
            if back != text:
                self.lost[back].append(text)

    def remarks(self):
        """Lines that say what else a person should know who brings this tokenizer."""
        if self.lost:
            each = []
            for back, texts in self.lost.items():
                unknown = " (<unk>)" if self.unk in self.encode(texts[0]) else ""
                each.append(f"{', '.join(map(repr, texts))} as {back!r}{unknown}")
            yield f"its tokenizer is not lossless; it gives back {'; '.join(each)}"
        if "Llama" not in (self.says.get("tokenizer_class") or "") or self.kind == "bpe":
            return
        theirs = self.says.get("add_prefix_space") is not False
        if theirs != self.space or self.space and self.encode(" a") != self.encode("a"):
            yield ("transformers 5 gives other ids: as LlamaTokenizer it puts a space before a text if "
                   "add_prefix_space says so, and no second one; here the other files count")

    def save(self, folder):
        """Write the files that load() and transformers read; what was read is written as it was."""
        os.makedirs(folder, exist_ok=True)
        for name, data in (self.files or self.own_files()).items():
            pathlib.Path(folder, name).write_bytes(data)


class BPE(Tokenizer):
    """Byte-level BPE: ids 0-3 are SPECIALS, then 256 bytes, the merges in order, special tokens of one's own.
    tiktoken encodes."""
    kind = "bpe"

    def __init__(self, merges, says={}, special=()):
        self.merges = merges
        self.entries = [b""] * len(SPECIALS) + BYTES + [a + b for a, b in merges]
        self.special_ids = {name: i for i, name in enumerate(SPECIALS)}
        for name in special:
            self.special_ids[name] = len(self.entries)
            self.entries.append(b"")
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
        pairs = [(printable(a), printable(b)) for a, b in self.merges]
        file = vocabulary.bpe_file(pairs, [*self.special_ids][len(SPECIALS):], REGEX)
        says = {"tokenizer_class": "PreTrainedTokenizerFast", **vocabulary.NAMES, "pad_token": "<pad>"}
        return {"tokenizer.json": json_bytes(file), "tokenizer_config.json": json_bytes(says)}

    @classmethod
    def of_file(cls, file, says):
        """The tokenizer of a tokenizer.json of ours or BLOOM's, None for any other."""
        if parts := vocabulary.read_bpe_file(file, REGEX):
            pairs, special = parts
            found = cls([(from_printable(a), from_printable(b)) for a, b in pairs], says, special)
            if (file.get("post_processor") or {}).get("single") == vocabulary.END_FIRST:
                found.prompt = [found.eos]
            return found


NO_PREFIX = b"\x1a\x02\x18\x00"       # of protobuf: normalizer_spec { add_dummy_prefix: false }


class SentencePiece(Tokenizer):
    """A tokenizer.model. LLaMA's has ids `<unk> <s> </s>`, 256 bytes, pieces. U+2581 stands for a space.

    keep_sign: U+2581 in a text becomes its three bytes; to the library it would be a space. Ours keep it.
    legacy: what is put before a text is put behind a special token too, as in LLaMA's and ours.
    """
    kind = "sentencepiece"

    def __init__(self, model, says={}, keep_sign=True):
        sentencepiece.set_min_log_level(3)
        self.model = model
        self.sp = sp = sentencepiece.SentencePieceProcessor(model_proto=model)
        self.within = sentencepiece.SentencePieceProcessor(model_proto=model + NO_PREFIX)
        self.vocab = sp.vocab_size()
        self.ids = {sp.id_to_piece(i): i for i in range(self.vocab)}
        self.keep_sign = keep_sign and sp.is_byte(self.ids.get("<0xE2>", 0))
        self.legacy = says.get("legacy", True)
        if says.get("add_eos_token"):
            raise ValueError("it ends every text with a token, which we do not")
        self.special_ids = {p: i for p, i in self.ids.items() if sp.is_control(i) or sp.is_unknown(i)}
        self.entries = [b"" if piece in self.special_ids else piece_bytes(piece) for piece in self.ids]
        if "<0x00>" not in self.ids:            # unknown characters become <unk>, and are shown as it
            self.entries[sp.unk_id()] = sp.decode([sp.unk_id()]).encode()
        roles = {"unk": sp.unk_id(), "bos": sp.bos_id(), "eos": sp.eos_id(), "pad": sp.pad_id()}
        own = {f"{role}_token": sp.id_to_piece(i) for role, i in roles.items() if i >= 0}
        self.set_roles(own | says)
        if says.get("add_bos_token", True) and self.bos is not None:
            self.prompt = [self.bos]
        self.try_out()
        lossy = {*itertools.chain(*self.lost.values())} - {"\u2581"}
        self.way = ("" if self.space else "no space before") + ("lossy" if lossy else "")

    def ids_of(self, texts):
        batch = self.sp.encode(texts)
        for i, text in enumerate(texts):
            if self.keep_sign and "\u2581" in text:
                batch[i] = self.ids_within(" " * self.space + text)
        return batch

    def ids_after_special(self, text):
        return self.encode(text) if self.legacy else self.ids_within(text)

    def ids_within(self, text):
        """The ids of a text that no space is put before."""
        if not self.keep_sign:
            return self.within.encode(text)
        first, *others = self.within.encode(text.split("\u2581"))
        sign = [self.ids[f"<0x{b:02X}>"] for b in "\u2581".encode()]
        return first + [i for other in others for i in sign + other]

    def own_files(self):
        says = vocabulary.EARLIER | {"keep_sign": True}
        return {"tokenizer.model": self.model, "tokenizer_config.json": json_bytes(says)}


class Llama3(Tokenizer):
    """Llama 3's own tokenizer.model. tiktoken encodes, as in its published code."""
    kind, way = "bpe", "llama3"

    def __init__(self, data, says):
        ranks = vocabulary.read_tiktoken(data)
        self.tiktoken = tiktoken.Encoding("llama3", pat_str=vocabulary.LLAMA3, mergeable_ranks=ranks,
                                          special_tokens={})
        names = vocabulary.llama3_names()
        self.special_ids = {name: i for i, name in enumerate(names, len(ranks))}
        self.entries = sorted(ranks, key=ranks.get) + [b""] * len(names)
        self.vocab = len(self.entries)
        self.set_roles(vocabulary.LLAMA3_ROLES | says)
        if says.get("add_bos_token", True) and self.bos is not None:
            self.prompt = [self.bos]

    def remarks(self):
        yield "its tokenizer.model is read as Llama 3's"

    def ids_of(self, texts):
        """A million spaces in a row are too much for tiktoken: such a run is cut."""
        encode = self.tiktoken.encode_ordinary
        return [[i for part in re.split(r"(\s{400000})", text) for i in encode(part)] for text in texts]


PLAIN = "One 2, three-four!\n\tfive_6."              # no model may change this


class Foreign(Tokenizer):
    """Another BPE in a tokenizer.json. `tokenizers` encodes."""
    def __init__(self, file, says):
        try:
            import tokenizers
        except ImportError as e:
            raise ValueError("its library is missing: pip install tokenizers") from e
        model_type = file["model"].get("type", "BPE")
        if model_type != "BPE":
            raise ValueError(f"its model is {model_type}; only BPE is supported, and tokenizer.model of "
                             "SentencePiece without a tokenizer.json")
        is_special = {}
        for token in file.get("added_tokens") or []:
            token["special"] |= token["content"] in vocabulary.role_names(says)
            is_special[token["content"]] = token["special"]
        file["model"]["dropout"] = None                 # it is for training
        self.library = tokenizers.Tokenizer.from_str(json.dumps(file))
        self.library.no_truncation()
        self.library.no_padding()
        self.library.encode_special_tokens = True       # a text that spells one stays text
        byte_level = vocabulary.is_byte_level(file)
        self.kind = "bpe" if byte_level else "sentencepiece"
        unk = file["model"].get("unk_token")
        self.ids = ids = self.library.get_vocab()
        self.special_ids = {name: ids[name] for name, special in is_special.items() if special}
        self.set_roles(says)
        self.vocab = 1 + max(ids.values())
        self.entries = [b""] * self.vocab
        for name, i in ids.items():
            if byte_level and name not in is_special and vocabulary.BYTE.keys() >= {*name}:
                self.entries[i] = from_printable(name)
            elif name not in is_special:
                self.entries[i] = piece_bytes(name)
            elif not is_special[name]:
                self.entries[i] = name.encode()
        if unk in ids and not {*BYTES} <= {*self.entries}:
            self.entries[ids[unk]] = unk.encode()       # so that a text shows what was lost
        cut = json.dumps([file.get("normalizer"), file.get("pre_tokenizer")], sort_keys=True)
        self.try_out()
        if self.decode(self.encode(PLAIN)) != PLAIN:
            raise ValueError(f"its ids do not spell every text, which is changed by {cut:.200}")
        for name, i in self.special_ids.items():
            if i in self.encode(name) and name != unk:
                raise ValueError(f"a text that spells {name!r} could not stay text")
        if {*re.findall('"type": "(.*?)"', cut)} <= {"Sequence", "Prepend", "Replace", "Metaspace"}:
            self.way = "" if self.space else "no space before"      # as LLaMA's
        elif cut != json.dumps([None, vocabulary.bpe_file([], [], REGEX)["pre_tokenizer"]], sort_keys=True):
            self.way = cut
        begun = self.library.encode("a")
        if begun.special_tokens_mask[-1]:
            raise ValueError("it ends every text with a token, which we do not")
        self.prompt = begun.ids[:begun.special_tokens_mask.index(0)]

    def ids_of(self, texts):
        return [encoding.ids for encoding in self.library.encode_batch_fast(texts, add_special_tokens=False)]

    def ids_with_special(self, text):
        self.library.encode_special_tokens = False
        try:
            return self.ids_of([text])[0]
        finally:
            self.library.encode_special_tokens = True


# ---- from folders ----

def from_files(files):
    """The tokenizer of {name: bytes}."""
    file, says, added = vocabulary.read_json_files(files)
    if file or "tokenizer.model" not in files:          # tokenizer.json counts, as in transformers
        found = BPE.of_file(file, says) or Foreign(file, says)
    else:
        found = from_model(files["tokenizer.model"], says)
    found.says = says
    if found.prompt == [found.eos]:     # as convert.py export writes it: token files have it once
        found.prompt, found.after_end = [], True
    for name, i in added.items():
        if (found.special_ids | found.ids).get(name) != i:
            raise ValueError(f"its added token {name!r} is not among the entries; save_pretrained() of "
                             "transformers' AutoTokenizer writes a tokenizer.json that has it")
    return found


def from_model(model, says):
    if vocabulary.TIKTOKEN.match(model):
        return Llama3(model, says)
    try:
        return SentencePiece(model, says, says.get("keep_sign", says == vocabulary.EARLIER))
    except RuntimeError as e:
        raise ValueError("its tokenizer.model is neither SentencePiece's nor in tiktoken's format; is it a "
                         "pointer of Git LFS? git lfs pull fetches it") from e


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
