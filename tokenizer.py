"""Text to ids and back, without loss: BLOOM's byte-level BPE, trained here, and LLaMA's SentencePiece, behind one interface.

    python tokenizer.py train --input book.txt --vocab 1000 --kind sentencepiece --out data/my-tokenizer

Both kinds have  encode(text) -> ids   encode_batch(texts)   decode(ids)   bytes_of(id)   save(folder)
and              vocab   bos eos unk pad (ids or None)   prompt (ids a text begins with)   and load(folder) reads either.
"""
import argparse
import collections
import hashlib
import heapq
import io
import json
import os
import re

import sentencepiece
import tiktoken

import config

# BLOOM, section 3.3. Its tokenizer.json holds REGEX: a piece is an optional space and what is neither white space nor one of
# these signs; what lies between two pieces is a piece too. The nested class in it means, written plainly:
REGEX = " ?[^(\\s|[.,!?…。，、।۔،])]+"
GAP = r"\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000()|.,!?…。，、।۔،"      # Python's \s also takes \x1c-\x1f
PIECES = rf" ?[^{GAP}]+|[{GAP}]+?(?= ?[^{GAP}])|[{GAP}]+"
SPECIALS = ["<unk>", "<s>", "</s>", "<pad>"]
# The printable stand-in of each byte in tokenizer.json: itself, or the next unused character from U+0100 on.
PRINTABLE = {*range(33, 127), *range(161, 173), *range(174, 256)}
spare = iter(range(256, 512))
CHAR = {b: chr(b if b in PRINTABLE else next(spare)) for b in range(256)}
BYTE = {c: b for b, c in CHAR.items()}


def train_bpe(texts, vocab):
    """The merges of byte-level BPE (Sennrich et al. 2016) as a list of (bytes, bytes): always join the most frequent pair.

    A tie goes to the pair whose parts are older. Pairs seen once are not joined. Pieces never cross the pre-tokeniser's borders.
    """
    entries = [bytes([BYTE[c]]) for c in sorted(BYTE)]
    number = {e[0]: i for i, e in enumerate(entries)}
    count = collections.Counter()
    for text in texts:
        count.update(re.findall(PIECES, text))
    words = [[number[b] for b in piece.encode()] for piece in count]
    times = list(count.values())
    pairs, where = collections.Counter(), collections.defaultdict(set)      # how often, and in which words
    for w, ids in enumerate(words):
        for pair in zip(ids, ids[1:]):
            pairs[pair] += times[w]
            where[pair].add(w)
    heap = [(-n, pair) for pair, n in pairs.items()]
    heapq.heapify(heap)
    merges = []
    while len(SPECIALS) + len(entries) < vocab:
        n, pair = heapq.heappop(heap) if heap else (0, None)
        if -n < 2:
            raise ValueError(f"vocabulary of {vocab}: this text gives {len(SPECIALS) + len(entries)} entries and no more; ask for fewer, or give more text")
        if pairs[pair] != -n:               # an old count: put the pair back where it belongs now
            if pairs[pair]:
                heapq.heappush(heap, (-pairs[pair], pair))
            continue
        merges.append((entries[pair[0]], entries[pair[1]]))
        entries.append(entries[pair[0]] + entries[pair[1]])
        grown = set()
        for w in where.pop(pair):
            for p, change in join(words[w], pair, len(entries) - 1):
                pairs[p] += change * times[w]
                if change > 0:
                    where[p].add(w)
                    grown.add(p)
        del pairs[pair]
        for p in grown:
            heapq.heappush(heap, (-pairs[p], p))
    return merges


def join(ids, pair, new):
    """Replace each `pair` in the list `ids` by `new`, from the left, and return what that did to the counts of its neighbours.
    ids = [1, 2, 3]: join(ids, (1, 2), 9) -> [((2, 3), -1), ((9, 3), 1)], and ids is [9, 3]"""
    changes, i = [], 0
    while i < len(ids) - 1:
        if ids[i] == pair[0] and ids[i + 1] == pair[1]:
            if i > 0:
                changes += ((ids[i - 1], pair[0]), -1), ((ids[i - 1], new), 1)
            if i + 2 < len(ids):
                changes += ((pair[1], ids[i + 2]), -1), ((new, ids[i + 2]), 1)
            ids[i:i + 2] = [new]
        i += 1
    return changes


class BPE:
    """Byte-level BPE: ids 0-3 are SPECIALS, then 256 bytes, then the merges in order. tiktoken does the encoding."""
    kind, file = "bpe", "tokenizer.json"

    def __init__(self, merges):
        self.merges = merges
        entries = [bytes([BYTE[c]]) for c in sorted(BYTE)] + [a + b for a, b in merges]
        self.entries = [b""] * len(SPECIALS) + entries
        self.vocab = len(self.entries)
        self.unk, self.bos, self.eos, self.pad = range(4)
        self.prompt = []                            # BLOOM puts nothing before a text
        self.ranks = {e: i for i, e in enumerate(self.entries) if e}
        self.tiktoken = tiktoken.Encoding("bpe", pat_str=PIECES, mergeable_ranks=self.ranks, special_tokens={})

    def encode(self, text):
        return self.encode_batch([text])[0]

    def encode_batch(self, texts):
        for text in texts:
            utf8(text)
        ids = self.tiktoken.encode_ordinary_batch([t if self.short(t) else "" for t in texts])
        return [i if self.short(t) else self.encode_long(t) for t, i in zip(texts, ids)]

    def short(self, text):      # tiktoken's regex engine gives up inside a run of about a million spaces
        return len(text) < 50_000 or not re.search(f"[{GAP}]{{50000}}", text)

    def encode_long(self, text):
        return [i for piece in re.findall(PIECES, text) for i in self.tiktoken._encode_single_piece(piece)]

    def bytes_of(self, i):
        return self.entries[i]

    def decode(self, ids):
        return b"".join(map(self.bytes_of, ids)).decode("utf-8", "replace")

    def save(self, folder):
        """tokenizer.json in Hugging Face's format, and what transformers needs beside it."""
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
    def read(cls, path):
        with open(path, encoding="utf-8") as f:
            model = json.load(f)["model"]
        tokenizer = cls([tuple(bytes(BYTE[c] for c in part) for part in merge) for merge in model["merges"]])
        if len(model["vocab"]) != tokenizer.vocab or any(model["vocab"].get(s) != i for i, s in enumerate(SPECIALS)):
            raise ValueError("its ids are not specials, bytes and merges in this order")
        return tokenizer


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
        self.model = model
        self.sp = sp = sentencepiece.SentencePieceProcessor(model_proto=model)
        self.vocab = sp.vocab_size()
        self.unk, self.bos, self.eos, self.pad = sp.unk_id(), sp.bos_id(), sp.eos_id(), None
        self.prompt = [self.bos]                    # as in Meta's inference code
        self.entries = [b"" if sp.is_control(i) or sp.is_unknown(i) else bytes([int(sp.id_to_piece(i)[3:5], 16)]) if sp.is_byte(i)
                        else sp.id_to_piece(i).replace("\u2581", " ").encode() for i in range(self.vocab)]
        self.byte = {self.entries[i][0]: i for i in range(self.vocab) if sp.is_byte(i)}

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
        private = [c for c in map(chr, range(0xE000, 0xF900)) if self.sp.piece_to_id(c) == self.unk]
        return next(c + d for c in private for d in private if c != d and c + d not in text)

    def bytes_of(self, i):
        return self.entries[i]

    def decode(self, ids):
        text = b"".join(map(self.bytes_of, ids)).decode("utf-8", "replace")
        return text[1:] if text.startswith(" ") else text       # the space that encode() put in front

    def save(self, folder):
        os.makedirs(folder, exist_ok=True)
        with open(os.path.join(folder, self.file), "wb") as f:
            f.write(self.model)
        config.write_json(os.path.join(folder, "tokenizer_config.json"), {"tokenizer_class": "LlamaTokenizer", "add_bos_token": True, "add_eos_token": False, "legacy": True,
              "clean_up_tokenization_spaces": False, "unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"})

    @classmethod
    def read(cls, path):
        with open(path, "rb") as f:
            return cls(f.read())


KINDS = {"bpe": BPE, "sentencepiece": SentencePiece}


def utf8(text):
    """Refuse what has no UTF-8 form: half of a surrogate pair, from a broken conversion somewhere before."""
    try:
        text.encode()
    except UnicodeEncodeError as e:
        raise ValueError(f"character {e.start} of the text is the lone surrogate {text[e.start]!r}: it is not Unicode text; repair or drop it") from e


def train(kind, texts, vocab):
    if vocab < 300:
        raise ValueError(f"vocabulary of {vocab}: 256 bytes and the specials need at least 300")
    return BPE(train_bpe(texts, vocab)) if kind == "bpe" else SentencePiece(train_sentencepiece(texts, vocab))


def load(folder):
    """The tokenizer saved in `folder`, of either kind."""
    for cls in KINDS.values():
        path = os.path.join(folder, cls.file)
        if os.path.exists(path):
            try:
                return cls.read(path)
            except (ValueError, KeyError, TypeError, RuntimeError) as e:
                raise ValueError(f"{path} is not a tokenizer this program can use: {e}") from e
    raise ValueError(f"no tokenizer in {folder}: it needs tokenizer.json or tokenizer.model")


def fingerprint(tokenizer):
    """Names a tokenizer by what it does: the hash of its entries in order."""
    return hashlib.sha256(b"\n".join(e.hex().encode() for e in tokenizer.entries)).hexdigest()[:16]


def main():
    from corpus import sources
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sub = ap.add_subparsers(required=True, metavar="train")
    t = sub.add_parser("train", help="train a tokenizer on text")
    t.add_argument("--input", nargs="+", required=True, metavar="PATH", help="files, folders or globs: .txt .jsonl or source code, also .gz .bz2 .xz")
    t.add_argument("--field", default="text", help="field of the .jsonl records that holds the text (default: text)")
    t.add_argument("--vocab", type=int, default=32_000, help="entries, with specials and bytes (default: 32000)")
    t.add_argument("--kind", choices=KINDS, default="bpe")
    t.add_argument("--out", required=True, metavar="DIR")
    args = ap.parse_args()
    if os.path.exists(args.out) and os.listdir(args.out):
        raise ValueError(f"{args.out} is not empty; choose another --out or delete it")
    docs = [d["text"] for d in sources.read(config.Source("input", args.input, field=args.field)) if "text" in d]
    if not any(docs):
        raise ValueError(f"there is no text in {' '.join(args.input)}")
    tokenizer = train(args.kind, docs, args.vocab)
    tokenizer.save(args.out)
    tokens, size = sum(map(len, tokenizer.encode_batch(docs))), sum(len(d.encode()) for d in docs)
    print(f"{args.out}: {tokenizer.vocab} entries; {size:,} bytes of this text are {tokens:,} tokens, {size / tokens:.2f} bytes per token")


if __name__ == "__main__":
    config.command(main)
