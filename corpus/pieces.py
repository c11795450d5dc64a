"""The text that a tokenizer is trained on, the pieces in it, and the training.

    share = shares({"en": 900, "yo": 100}, 500, 0.5)        # of each language: {"en": 0.4166..., "yo": 1.0}
    train_tokenizer("bpe", (t for t in texts if chosen(t, share["en"])), 32_000)
"""
import collections
import concurrent.futures
import hashlib
import io
import multiprocessing
import re

import sentencepiece

import tokenizer as tokenizers
from corpus import jobs
from corpus.bpe import LEAST, TooManyEntries, train_bpe
from vocabulary import SPECIALS

LONGEST = 1000          # bytes of a piece: base64 would fill the vocabulary with itself
MOST = 2_000_000        # different pieces that are kept while counting: bounds the memory
BATCH = 4_000_000       # characters counted at once


def shares(sizes, budget, alpha):
    """{language: share of its text}: languages of `sizes` bytes get parts of `budget` bytes in proportion to
    size ** alpha. In the example en gets 375, and yo 100 of its 125: a small language is not repeated."""
    whole = sum(n ** alpha for n in sizes.values())
    budget = min(budget, sum(sizes.values()))
    return {lang: min(1.0, budget * n ** alpha / whole / n) for lang, n in sizes.items()}


def chosen(name, share):
    """Whether a document is in the share, by its name alone. corpus.text.place() takes other bytes."""
    return int.from_bytes(hashlib.sha256(str(name).encode()).digest()[8:16], "little") / 2 ** 64 < share


def between(texts, special):
    """The parts of texts between special tokens: nothing is learned across one, or from its letters."""
    if not special:
        return texts
    names = re.compile("|".join(map(re.escape, sorted(special, key=len, reverse=True))))
    return (part for text in texts for part in names.split(text))


def batches(texts):
    """Lists of texts, each of about BATCH characters."""
    batch, n = [], 0
    for text in texts:
        batch.append(text)
        n += len(text)
        if n > BATCH:
            yield batch
            batch, n = [], 0
    yield batch


def pieces_of(texts):
    return collections.Counter(piece for text in texts for piece in re.findall(tokenizers.PIECES, text))


def counted(texts, workers):
    """The pieces_of() each batch, in order. At most one batch more than workers is in memory."""
    if workers == 1:
        yield from map(pieces_of, batches(texts))
        return
    waiting = collections.deque()
    spawn = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(workers, spawn, jobs.end_with_parent) as pool:
        for batch in batches(texts):
            waiting.append(pool.submit(pieces_of, batch))
            if len(waiting) > workers:
                yield waiting.popleft().result()
        for future in waiting:
            yield future.result()


def count_pieces(texts, workers=1, most=MOST):
    """(Counter of the pieces, how many were left out as too long or too rare)."""
    count, found = collections.Counter(), 0
    for part in counted(texts, workers):
        found += part.total()
        count.update(part)
        if len(count) > 2 * most:
            count = collections.Counter(dict(count.most_common(most)))
    for piece in [piece for piece in count if len(piece.encode()) > LONGEST]:
        del count[piece]
    return count, found - count.total()


# LLaMA's settings. Digits are split, unknown characters become bytes (section 2.1).
LLAMA = dict(
    model_type="bpe", character_coverage=0.99995, input_sentence_size=200_000_000, max_sentence_length=4192,
    shuffle_input_sentence=True, max_sentencepiece_length=16, split_by_unicode_script=True, split_digits=True,
    split_by_whitespace=True, split_by_number=True, treat_whitespace_as_suffix=False, byte_fallback=True,
    allow_whitespace_only_pieces=True, normalization_rule_name="identity", add_dummy_prefix=True,
    remove_extra_whitespaces=False, unk_id=0, bos_id=1, eos_id=2, pad_id=-1, unk_surface=" \u2047 ")


def short_lines(texts):
    """Lines of at most 1000 characters: SentencePiece skips much longer ones."""
    for text in texts:
        for line in text.split("\n"):
            for i in range(0, len(line), 1000):
                yield line[i:i + 1000]


def train_sentencepiece(texts, vocab, special=()):
    """The bytes of a tokenizer.model. The ids of special tokens follow those of <unk> <s> </s>."""
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(sentence_iterator=short_lines(texts), model_writer=model,
                                                 vocab_size=vocab, minloglevel=2,
                                                 control_symbols=list(special), **LLAMA)
    except RuntimeError as e:           # only its text tells the limit
        if found := re.search(r"too high.*value <= (\d+)", str(e)):
            raise TooManyEntries(vocab, int(found[1])) from e
        raise ValueError(f"SentencePiece cannot train on this text: {e}") from e
    return model.getvalue()


def check_special(names):
    """Stop names of special tokens that no tokenizer could tell from text or from each other."""
    for name in names:
        if len(name) < 2 or re.search(r"\s|\u2581", name) or name in SPECIALS or names.count(name) > 1:
            raise ValueError(f"special token {name!r}: a name has two characters or more and no space, is "
                             f"given once, and is none of {' '.join(SPECIALS)}")


def train_tokenizer(kind, texts, vocab, workers=1, special=()):
    """A tokenizer of `vocab` entries from an iterable of texts. special: names of further special tokens."""
    check_special(list(special))
    if vocab < LEAST + len(special):
        raise ValueError(f"vocabulary of {vocab}: 256 bytes and the specials need at least "
                         f"{LEAST + len(special)}")
    texts = between(texts, special)
    if kind == "sentencepiece":
        print("SentencePiece reads the text, then trains; it does not say how long that takes")
        return tokenizers.SentencePiece(train_sentencepiece(texts, vocab, special))
    count, left_out = count_pieces(texts, workers)
    if left_out:
        print(f"left out: {left_out:,} pieces, above {LONGEST} bytes or beyond the {MOST:,} most frequent")
    return tokenizers.BPE(train_bpe(count, vocab, len(special)), special=special)
