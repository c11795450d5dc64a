"""Text to ids and back, without loss: BLOOM's byte-level BPE, trained here, and LLaMA's SentencePiece, behind one interface.

    python tokenizer.py train --input book.txt --vocab 1000 --kind sentencepiece --out data/my-tokenizer
    python tokenizer.py train --input 'crawl/*.jsonl' --vocab 250680 --alpha 0.3 --bytes 2e8 --out data/wide
    python tokenizer.py report data/wide --input 'crawl/*.jsonl' --monolingual      # fertility by language; --show "a text" prints its pieces

Both kinds have  encode(text) -> ids   encode_batch(texts)   decode(ids)   bytes_of(id)   save(folder)
and              vocab   bos eos unk pad (ids or None)   prompt (ids a text begins with)   and load(folder) reads either.
"""
import argparse
import collections
import concurrent.futures
import contextlib
import functools
import hashlib
import heapq
import io
import itertools
import json
import multiprocessing
import os
import re

import numpy as np
import sentencepiece
import tiktoken

import config
from corpus import sources

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


LONGEST = 1000          # bytes of a piece that is counted: a base64 block or a minified file would fill the vocabulary with itself
MOST = 2_000_000        # different pieces that are kept while counting, the most frequent ones: bounds the memory on any corpus


def keep(sizes, budget, alpha):
    """{language: share of its text to train on}, so that languages of `sizes` bytes have parts of `budget` in proportion to size ** alpha.
    keep({"en": 900, "yo": 100}, 500, 0.5) -> {"en": 0.4166..., "yo": 1.0}: of 375 and 125 bytes yo has only 100. A small language is not repeated."""
    whole = sum(n ** alpha for n in sizes.values())
    budget = min(budget, sum(sizes.values()))
    return {lang: min(1.0, budget * n ** alpha / whole / n) for lang, n in sizes.items()}


def pieces_of(texts):
    return collections.Counter(piece for text in texts for piece in re.findall(PIECES, text))


def batches(texts, size=4_000_000):
    """Lists of texts, each of about `size` characters."""
    batch, n = [], 0
    for text in texts:
        batch.append(text)
        n += len(text)
        if n > size:
            yield batch
            batch, n = [], 0
    yield batch


def count_pieces(texts, workers=1):
    """(Counter of the pieces of `texts`, pieces left out for their length, for their rarity). The counts do not depend on the workers."""
    count, long, rare, waiting, parts = collections.Counter(), 0, 0, collections.deque(), batches(texts)
    with contextlib.ExitStack() as stack:
        submit = lambda part: part
        if workers > 1:
            submit = functools.partial(stack.enter_context(concurrent.futures.ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"))).submit, pieces_of)
        for part in itertools.chain(parts, [None] * workers):           # at most `workers` batches are on their way: the memory stays bounded
            if part is not None:
                waiting.append(submit(part))
            if waiting and (part is None or len(waiting) > workers):
                done = waiting.popleft()
                count.update(done.result() if workers > 1 else pieces_of(done))
                if len(count) > 2 * MOST:
                    kept = collections.Counter(dict(count.most_common(MOST)))
                    count, rare = kept, rare + count.total() - kept.total()
    for piece in [p for p in count if len(p) > LONGEST // 4 and len(p.encode()) > LONGEST]:
        long += count.pop(piece)
    return count, long, rare


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
        """A tokenizer.json of ours or of BLOOM; any other kind is refused by what differs."""
        with open(path, encoding="utf-8") as f:
            file = json.load(f)
        model, before = file["model"], file["pre_tokenizer"] or {}
        steps = before.get("pretokenizers", [before])
        if model.get("type") != "BPE" or model.get("byte_fallback") or any(model.get(k) for k in ("continuing_subword_prefix", "end_of_word_suffix", "ignore_merges")):
            raise ValueError(f"its model is {model.get('type')}{' with byte fallback' * bool(model.get('byte_fallback'))}, not byte-level BPE")
        if file.get("normalizer") or [s.get("type") for s in steps] != ["Split", "ByteLevel"] or steps[0]["pattern"].get("Regex") != REGEX or steps[1].get("use_regex") \
                or steps[1].get("add_prefix_space") or steps[0].get("behavior") != "Isolated" or steps[0].get("invert"):
            raise ValueError("its text is normalised or cut into pieces otherwise than BLOOM's")
        merges = [merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"]]
        tokenizer = cls([tuple(bytes(BYTE[c] for c in part) for part in merge) for merge in merges])
        if len(model["vocab"]) != tokenizer.vocab or any(model["vocab"].get(s) != i for i, s in enumerate(SPECIALS)) \
                or any(model["vocab"].get("".join(CHAR[b] for b in e)) != i for e, i in tokenizer.ranks.items()):
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


def train(kind, texts, vocab, workers=1):
    """A tokenizer of `vocab` entries from an iterable of texts. Prints what was left out, if anything."""
    if vocab < 300:
        raise ValueError(f"vocabulary of {vocab}: 256 bytes and the specials need at least 300")
    if kind == "sentencepiece":
        return SentencePiece(train_sentencepiece(texts, vocab))
    count, long, rare = count_pieces(texts, workers)
    if long or rare:
        print(f"{len(count):,} different pieces; left out: {long:,} longer than {LONGEST} bytes, {rare:,} rare ones beyond {MOST:,} different ones")
    return BPE(train_bpe(count, vocab))


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


def train_command(args):
    if os.path.exists(args.out) and os.listdir(args.out):
        raise ValueError(f"{args.out} is not empty; choose another --out or delete it")
    source = config.Source("input", args.input, field=args.field)
    sizes = collections.Counter()
    for d in sources.read(source):
        sizes[d.get("lang")] += len(d.get("text", "").encode())
    if not sizes.total():
        raise ValueError(f"there is no text in {' '.join(args.input)}")
    share = keep({lang: n for lang, n in sizes.items() if n}, args.bytes, args.alpha)

    def texts():
        for d in sources.read(source):
            if d.get("text") and chosen(d["id"], share[d.get("lang")]):
                yield d["text"]
    tokenizer = train(args.kind, texts(), args.vocab, args.workers)
    tokenizer.save(args.out)
    used, tokens = map(sum, zip(*((len(t.encode()), len(ids)) for part in batches(texts()) for t, ids in zip(part, tokenizer.encode_batch(part)))))
    print(f"{args.out}: {tokenizer.vocab} entries; {used:,} of {sizes.total():,} bytes were used, and are {tokens:,} tokens, {used / tokens:.2f} bytes per token")


def chosen(name, share):
    """Whether a document is among the `share` to train on: by its name alone."""
    return int.from_bytes(hashlib.sha256(str(name).encode()).digest()[8:16], "little") / 2 ** 64 < share


def main():
    from corpus import fertility            # which imports this file
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sub = ap.add_subparsers(required=True, metavar="train|report")
    t = sub.add_parser("train", help="train a tokenizer on text")
    t.add_argument("--input", nargs="+", required=True, metavar="PATH", help="files, folders or globs of any format that prepare.py reads")
    t.add_argument("--field", default="text", help="field of the records that holds the text (default: text)")
    t.add_argument("--vocab", type=int, default=32_000, help="entries, with specials and bytes (default: 32000)")
    t.add_argument("--kind", choices=KINDS, default="bpe")
    t.add_argument("--bytes", type=float, default=1e8, help="text to use, at most; documents are chosen by a hash of their ids (default: 1e8)")
    t.add_argument("--alpha", type=float, default=1.0, help="a language's share of it is its share of the text to this power (default: 1; BLOOM: 0.3)")
    t.add_argument("--workers", type=int, default=os.cpu_count(), help="processes that count (default: one per core; the result is the same)")
    t.add_argument("--out", required=True, metavar="DIR")
    t.set_defaults(run=train_command)
    fertility.add_arguments(sub.add_parser("report", help="how a tokenizer treats each source and language"))
    args = ap.parse_args()
    args.run(args)


if __name__ == "__main__":
    config.command(main)
