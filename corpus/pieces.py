"""The text a tokenizer is trained on: which documents of each language, and how often each piece of them occurs.

    keep({"en": 900, "yo": 100}, 500, 0.5)  ->  {"en": 0.4166..., "yo": 1.0}     shares of each language's text
    chosen("d17", 0.4166)                   ->  whether this document is in the share
    count_pieces(PIECES, texts)             ->  the counts that BPE starts from

tokenizer.py and prepare.py use it. Read it from keep() to count_pieces().
"""
import collections
import concurrent.futures
import contextlib
import functools
import hashlib
import itertools
import multiprocessing
import re

import tokenizer as tokenizers

LONGEST = 1000          # bytes of a piece that is counted: a base64 block or a minified file would fill the vocabulary with itself
MOST = 2_000_000        # different pieces that are kept while counting, the most frequent ones: bounds the memory on any corpus


def keep(sizes, budget, alpha):
    """{language: share of its text to train on}, so that languages of `sizes` bytes have parts of `budget` in proportion to size ** alpha.
    keep({"en": 900, "yo": 100}, 500, 0.5) -> {"en": 0.4166..., "yo": 1.0}: of 375 and 125 bytes yo has only 100. A small language is not repeated."""
    whole = sum(n ** alpha for n in sizes.values())
    budget = min(budget, sum(sizes.values()))
    return {lang: min(1.0, budget * n ** alpha / whole / n) for lang, n in sizes.items()}


def chosen(name, share):
    """Whether a document is among the `share` to train on: by its name alone."""
    return int.from_bytes(hashlib.sha256(str(name).encode()).digest()[8:16], "little") / 2 ** 64 < share


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


def pieces_of(pattern, texts):
    return collections.Counter(piece for text in texts for piece in re.findall(pattern, text))


def count_pieces(pattern, texts, workers=1):
    """(Counter of the pieces of `texts`, pieces left out for their length, for their rarity). The counts do not depend on the workers."""
    count, long, rare, waiting, parts = collections.Counter(), 0, 0, collections.deque(), batches(texts)
    with contextlib.ExitStack() as stack:
        submit = lambda part: part
        if workers > 1:
            pool = stack.enter_context(concurrent.futures.ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")))
            submit = functools.partial(pool.submit, pieces_of, pattern)
        for part in itertools.chain(parts, [None] * workers):           # at most `workers` batches are on their way: the memory stays bounded
            if part is not None:
                waiting.append(submit(part))
            if waiting and (part is None or len(waiting) > workers):
                done = waiting.popleft()
                count.update(done.result() if workers > 1 else pieces_of(pattern, done))
                if len(count) > 2 * MOST:
                    kept = collections.Counter(dict(count.most_common(MOST)))
                    count, rare = kept, rare + count.total() - kept.total()
    for piece in [p for p in count if len(p) > LONGEST // 4 and len(p.encode()) > LONGEST]:
        long += count.pop(piece)
    return count, long, rare


def train_tokenizer(kind, texts, vocab, workers=1):
    """A tokenizer of `vocab` entries from an iterable of texts. Prints what was left out, if anything."""
    if vocab < 300:
        raise ValueError(f"vocabulary of {vocab}: 256 bytes and the specials need at least 300")
    if kind == "sentencepiece":
        return tokenizers.SentencePiece(tokenizers.train_sentencepiece(texts, vocab))
    count, long, rare = count_pieces(tokenizers.PIECES, texts, workers)
    if long or rare:
        print(f"{len(count):,} different pieces; left out: {long:,} longer than {LONGEST} bytes, {rare:,} rare ones beyond {MOST:,} different ones")
    return tokenizers.BPE(tokenizers.train_bpe(count, vocab))
