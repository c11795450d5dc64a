"""Text to ids and back, without loss: BLOOM's byte-level BPE, trained here, and LLaMA's SentencePiece, behind one interface.

    python tokenizer.py train --input book.txt --vocab 1000 --kind sentencepiece --out data/my-tokenizer
    python tokenizer.py train --input 'crawl/*.jsonl' --vocab 250680 --alpha 0.3 --bytes 2e8 --out data/wide
    python tokenizer.py report data/wide --input 'crawl/*.jsonl' --monolingual      # fertility by language; --show "a text" prints its pieces

Both kinds have  encode(text) -> ids   encode_batch(texts)   decode(ids)   bytes_of(id)   save(folder)
and              vocab   bos eos unk pad (ids or None)   prompt (ids a text begins with)   ends (set of the ids that end one)   space (whether
encode() puts one before a text)   lossless. load(folder) reads either, also from models on Hugging Face, with the same ids as there, or refuses. A text that
spells a special token stays text: no text gives bos, eos or an added token.
"""
import hashlib
import heapq
import io
import os
import re

import numpy as np
import sentencepiece
import tiktoken

import config
from corpus import tokenizer_json
from corpus.tokenizer_json import BYTE, CHAR

# BLOOM, section 3.3. Its tokenizer.json holds REGEX: a piece is an optional space and what is neither white space nor one of
# these signs; what lies between two pieces is a piece too. The nested class in it means, written plainly:
REGEX = " ?[^(\\s|[.,!?…。，、।۔،])]+"
GAP = r"\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000()|.,!?…。，、।۔،"      # Python's \s also takes \x1c-\x1f
PIECES = rf" ?[^{GAP}]+|[{GAP}]+?(?= ?[^{GAP}])|[{GAP}]+"
SPECIALS = ["<unk>", "<s>", "</s>", "<pad>"]


def train_bpe(count, vocab):
    """The merges of byte-level BPE (Sennrich et al. 2016) as a list of (bytes, bytes): always join the most frequent pair.

    count: {piece: how often}. A tie goes to the pair whose parts are older. Pairs seen once are not joined. Merges never cross a piece's borders.

    All pieces lie in one array of ids, a -1 after each; `after` and `before` link the places that are still in use. A pair is born when the younger
    of its two ids is: all its places are known then, and from then on it can only lose some. So each pair is in the heap once, with its places and a
    count that may be too high. When it comes to the top, its places are looked at again: if the count holds, it is the most frequent pair there is;
    if not, it goes back with the right one.
    """
    entries = [bytes([BYTE[c]]) for c in sorted(BYTE)]
    number = np.zeros(256, np.int32)
    number[[e[0] for e in entries]] = np.arange(len(entries))
    pieces = [piece.encode() for piece in count]
    sizes = np.fromiter(map(len, pieces), np.int64, len(pieces)) + 1
    ids = number[np.frombuffer(b"\0".join([*pieces, b""]), np.uint8)]
    ids[np.cumsum(sizes) - 1] = -1
    times = np.repeat(np.fromiter(count.values(), np.int64, len(pieces)), sizes)
    after, before = np.arange(1, len(ids) + 1, dtype=np.int32), np.arange(-1, len(ids) - 1, dtype=np.int32)
    heap, merges = [], []

    def born(pairs, at):
        """Put pairs, numbers left * 2^32 + right, with their places into the heap."""
        order = np.argsort(pairs, kind="stable")            # stable: the places of a pair stay in order
        pairs, at = pairs[order], at[order]
        starts = np.flatnonzero(np.r_[True, pairs[1:] != pairs[:-1]])
        sums, ends = np.add.reduceat(times[at], starts), np.r_[starts[1:], len(at)]
        often = np.flatnonzero(sums > 1)
        for n, pair, start, end in zip(sums[often].tolist(), pairs[starts[often]].tolist(), starts[often].tolist(), ends[often].tolist()):
            heapq.heappush(heap, (-n, pair, at[start:end]))
    at = np.flatnonzero((ids[:-1] >= 0) & (ids[1:] >= 0)).astype(np.int32)
    if len(at):
        born((ids[at].astype(np.int64) << 32) + ids[at + 1], at)
    while len(SPECIALS) + len(entries) < vocab:
        if not heap:
            raise ValueError(f"vocabulary of {vocab}: this text gives {len(SPECIALS) + len(entries)} entries and no more; ask for fewer, or give more text")
        n, pair, at = heapq.heappop(heap)
        a, b = pair >> 32, pair & 0xffffffff
        at = at[(ids[at] == a) & (ids[after[at]] == b)]
        now = int(times[at].sum())
        if now != -n:
            if now > 1:
                heapq.heappush(heap, (-now, pair, at))
            continue
        if a == b:                      # in a run of a's every second pair is joined, from the left
            starts = np.flatnonzero(np.r_[True, at[1:] != after[at[:-1]]])
            at = at[(np.arange(len(at)) - np.repeat(starts, np.diff(np.r_[starts, len(at)]))) % 2 == 0]
        new, gone = len(entries), after[at]
        merges.append((entries[a], entries[b]))
        entries.append(entries[a] + entries[b])
        ids[at], ids[gone] = new, -1
        after[at] = after[gone]
        before[after[at]] = at
        left, right = ids[before[at]].astype(np.int64), ids[after[at]].astype(np.int64)
        for mine, pairs, places in ((left >= 0) & (left != new), (left << 32) + new, before[at]), (right >= 0, (new << 32) + right, at):
            if mine.any():              # new beside new is counted once, by its left one
                born(pairs[mine], places[mine])
    return merges


class BPE:
    """Byte-level BPE: ids 0-3 are SPECIALS, then 256 bytes, then the merges in order; from elsewhere any ids. tiktoken does the encoding."""
    kind, file, space, lossless = "bpe", "tokenizer.json", False, True

    def __init__(self, merges, ranks=None, shown={}, pattern=PIECES):
        """ranks: {bytes: id} of other ids than BLOOM's, shown: {id: bytes} of their added tokens; a younger entry has a higher id."""
        self.merges, self.pattern, self.way, self.files = merges, pattern, pattern if pattern != PIECES else "", {}
        entries = [bytes([BYTE[c]]) for c in sorted(BYTE)] + [a + b for a, b in merges]
        self.ranks = ranks or {e: i for i, e in enumerate(entries, len(SPECIALS))}
        self.vocab = 1 + max([*self.ranks.values(), *shown])
        self.entries = [b""] * self.vocab
        for i, entry in *((i, e) for e, i in self.ranks.items()), *shown.items():
            self.entries[i] = entry
        self.unk, self.bos, self.eos, self.pad = range(4)
        self.prompt, self.ends = [], {self.eos}     # BLOOM puts nothing before a text
        self.tiktoken = tiktoken.Encoding("bpe", pat_str=pattern, mergeable_ranks=self.ranks, special_tokens={})

    def encode(self, text):
        return self.encode_batch([text])[0]

    def encode_batch(self, texts):
        for text in texts:
            utf8(text)
        ids = self.tiktoken.encode_ordinary_batch([t if self.short(t) else "" for t in texts])
        return [i if self.short(t) else self.encode_long(t) for t, i in zip(texts, ids)]

    def short(self, text):      # tiktoken's regex engine gives up inside a run of about a million spaces
        return len(text) < 50_000 or not re.search(r"(?s).{400000}" if self.way else f"[{GAP}]{{50000}}", text)

    def encode_long(self, text):
        pieces = tokenizer_json.spelled_out(self.pattern).findall(text) if self.way else re.findall(PIECES, text)
        return [i for piece in pieces for i in self.tiktoken._encode_single_piece(piece)]

    def bytes_of(self, i):
        return self.entries[i]

    def decode(self, ids):
        return b"".join(map(self.bytes_of, ids)).decode("utf-8", "replace")

    def save(self, folder):
        """tokenizer.json in Hugging Face's format, and what transformers needs beside it; or the files it was read from, as they were."""
        if self.files:
            return tokenizer_json.write(folder, self.files)
        def text(entry):
            return "".join(CHAR[b] for b in entry)
        byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
        os.makedirs(folder, exist_ok=True)
        split = {"type": "Split", "pattern": {"Regex": REGEX}, "behavior": "Isolated", "invert": False}
        config.write_json(os.path.join(folder, self.file), {
            "version": "1.0", "truncation": None, "padding": None, "normalizer": None, "post_processor": None,
            "added_tokens": [{"id": i, "content": s, "single_word": False, "lstrip": False, "rstrip": False,
                              "normalized": False, "special": True} for i, s in enumerate(SPECIALS)],
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, byte_level]},
            "decoder": byte_level,
            "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                      "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False,
                      "vocab": {s: i for i, s in enumerate(SPECIALS)} | {text(e): i for e, i in self.ranks.items()},
                      "merges": [[text(a), text(b)] for a, b in self.merges]}})
        config.write_json(os.path.join(folder, "tokenizer_config.json"), {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False,
              "unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"})

    @classmethod
    def read(cls, files):
        """(Tokenizer, {special token: id}) of files that load() found."""
        ranks, shown, ids, pattern = tokenizer_json.byte_level(files)
        return cls([], ranks, shown, PIECES if pattern == REGEX else tokenizer_json.total(pattern)), ids


# LLaMA's trainer settings, read from its tokenizer.model; digits are split and unknown characters become bytes (section 2.1)
LLAMA = dict(
    model_type="bpe", character_coverage=0.99995, input_sentence_size=200_000_000, shuffle_input_sentence=True,
    max_sentence_length=4192, max_sentencepiece_length=16, split_by_unicode_script=True, split_by_whitespace=True,
    split_by_number=True, split_digits=True, treat_whitespace_as_suffix=False, allow_whitespace_only_pieces=True,
    byte_fallback=True, normalization_rule_name="identity", add_dummy_prefix=True, remove_extra_whitespaces=False,
    unk_id=0, bos_id=1, eos_id=2, pad_id=-1, unk_surface=" \u2047 ")


def train_sentencepiece(texts, vocab):
    """The bytes of a tokenizer.model with LLaMA's settings."""
    lines = (line[i:i + 1000] for text in texts for line in text.split("\n") for i in range(0, len(line), 1000))   # longer ones would be skipped
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(sentence_iterator=lines, model_writer=model, vocab_size=vocab, minloglevel=2, **LLAMA)
    except RuntimeError as e:
        limit = re.search(r"value <= (\d+)", str(e)) or re.search(r"smaller than required_chars\. \d+ vs (\d+)", str(e))
        if "too high" in str(e) or "smaller" in str(e):
            way = f"it must be {'at most' if 'too high' in str(e) else 'above'} {limit[1]}" if limit else str(e)
            raise ValueError(f"vocabulary of {vocab}: for this text {way}") from e
        raise ValueError(f"SentencePiece cannot train on this text: {e}") from e
    return model.getvalue()


class SentencePiece:
    """SentencePiece BPE as LLaMA uses it: ids 0-2 `<unk> <s> </s>`, then 256 bytes, then pieces; a space is written U+2581."""
    kind, file = "sentencepiece", "tokenizer.model"

    def __init__(self, model):
        sentencepiece.set_min_log_level(3)          # what is wrong with a file is said by us
        self.model, self.files = model, {}
        self.sp = sp = sentencepiece.SentencePieceProcessor(model_proto=model)
        self.vocab = sp.vocab_size()
        self.unk, self.bos, self.eos, self.pad = (None if i < 0 else i for i in (sp.unk_id(), sp.bos_id(), sp.eos_id(), sp.pad_id()))
        self.prompt, self.ends = [i for i in [self.bos] if i is not None], {self.eos} - {None}      # as in Meta's inference code
        self.entries = [b"" if sp.is_control(i) or sp.is_unknown(i) else bytes([int(sp.id_to_piece(i)[3:5], 16)]) if sp.is_byte(i)
                        else sp.id_to_piece(i).replace("\u2581", " ").encode() for i in range(self.vocab)]
        self.byte = {self.entries[i][0]: i for i in range(self.vocab) if sp.is_byte(i)}
        self.space = self.entries_of("a") == b" a"
        # models from elsewhere may drop extra spaces, SentencePiece's default, or write compatible characters in one way
        self.lossless = all(self.entries_of(text) == b" " * self.space + text.encode() for text in ("  a  \t\u3000\n", "e\u0301\ufb01\u00bd"))
        self.way = "no space before" * (not self.space) + "lossy" * (not self.lossless)
        if len(self.byte) < 256:
            raise ValueError("it has not all 256 bytes, so that some texts have no ids")

    def entries_of(self, text):
        return b"".join(self.entries[i] for i in self.sp.encode(text))

    def encode(self, text):
        return self.encode_batch([text])[0]

    def encode_batch(self, texts):
        for text in texts:
            utf8(text)
        stand_in = {i: self.stand_in(t) for i, t in enumerate(texts) if "\u2581" in t}
        batch = self.sp.encode([t.replace("\u2581", stand_in[i]) if i in stand_in else t for i, t in enumerate(texts)])
        for i, chars in stand_in.items():
            old, ids = [self.byte[b] for b in chars.encode()], batch[i]
            for at in range(len(ids) - len(old), -1, -1):
                if ids[at:at + len(old)] == old:
                    ids[at:at + len(old)] = [self.byte[b] for b in "\u2581".encode()]
        return batch

    def stand_in(self, text):
        """U+2581 in a text would come back as a space. This is a pair of different characters that neither the text nor the
        vocabulary has: it is encoded in its place, as bytes, which are then exchanged."""
        private = [c for c in map(chr, range(0xE000, 0xF900)) if self.sp.piece_to_id(c) == self.sp.unk_id()]
        return next(c + d for c in private for d in private if c != d and c + d not in text)

    def bytes_of(self, i):
        return self.entries[i]

    def decode(self, ids):
        text = b"".join(map(self.bytes_of, ids)).decode("utf-8", "replace")
        return text[1:] if self.space and text.startswith(" ") else text        # the space that encode() put in front

    def save(self, folder):
        tokenizer_json.write(folder, self.files or {self.file: self.model})
        if not self.files:
            config.write_json(os.path.join(folder, "tokenizer_config.json"), {"tokenizer_class": "LlamaTokenizer", "add_bos_token": True, "add_eos_token": False, "legacy": True,
                  "clean_up_tokenization_spaces": False, "unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"})

    @classmethod
    def read(cls, files):
        """From a tokenizer.model, else of the same entries in a tokenizer.json."""
        file = tokenizer_json.parse(files, "tokenizer.json")
        tokenizer = cls(files[cls.file] if cls.file in files else tokenizer_json.sentencepiece_model(file))
        if file and not tokenizer.lossless:         # transformers reads the other file, which says nothing of what this one does to a text
            tokenizer = cls(tokenizer_json.sentencepiece_model(file))
        ids = {tokenizer.sp.id_to_piece(i): i for i in range(tokenizer.vocab)}
        if file and ids != {e: i[0] if isinstance(i, tuple) else i for part in tokenizer_json.vocabulary(file) for e, i in part.items()}:
            raise ValueError("tokenizer.json beside it has other entries; without tokenizer.model that one is read")
        return tokenizer, {e: i for e, i in ids.items() if not tokenizer.entries[i]}


KINDS = {"bpe": BPE, "sentencepiece": SentencePiece}


def utf8(text):
    """Refuse what has no UTF-8 form: half of a surrogate pair, from a broken conversion somewhere before."""
    try:
        text.encode()
    except UnicodeEncodeError as e:
        raise ValueError(f"character {e.start} of the text is the lone surrogate {text[e.start]!r}: it is not Unicode text; repair or drop it") from e


def load(folder, imported=False):
    """The tokenizer saved in `folder`, of either kind, ours or Hugging Face's. What it cannot encode exactly as there it refuses (ValueError, one line)."""
    files = tokenizer_json.read(folder)
    name = next((n for n in (BPE.file, SentencePiece.file) if n in files), None)
    if not name:
        raise ValueError(f"no tokenizer in {folder}: it needs tokenizer.json or tokenizer.model")
    try:
        cls = BPE if name == BPE.file and tokenizer_json.is_byte_level(files) else SentencePiece
        name = cls.file if cls.file in files else name
        tokenizer, ids = cls.read(files)
        own = {role: getattr(tokenizer, role) for role in tokenizer_json.ROLES if name == SentencePiece.file}
        vars(tokenizer).update(tokenizer_json.facts(files, ids, tokenizer.vocab, own), files=files)
    except (ValueError, LookupError, TypeError, AttributeError, RuntimeError, OverflowError, re.error) as e:
        said = " ".join(str(e).split()) if isinstance(e, (ValueError, RuntimeError)) else f"it is malformed ({type(e).__name__}: {e})"
        raise ValueError(f"{os.path.join(folder, name)} is not a tokenizer this program can use: {said:.400}") from e
    for i in {getattr(tokenizer, role) for role in tokenizer_json.ROLES} - {None}:
        tokenizer.entries[i] = b""                  # also one that the file says is not special
    tokenizer.begin = tokenizer.prompt if imported or tokenizer.eos is None else [tokenizer.eos, *tokenizer.prompt]
    return tokenizer


def fingerprint(tokenizer):
    """Names a tokenizer by what it does: the hash of its entries in order, and of how it cuts or begins a text if that is not BLOOM's or LLaMA's way."""
    lines = [e.hex() for e in tokenizer.entries] + [tokenizer.way] * bool(tokenizer.way)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


if __name__ == "__main__":
    from corpus import fertility
    config.command(fertility.main)
