"""What every rule, model and signature is made of: the words and the n-grams of a text.

    python -c "from corpus import text; print(text.words('Hello, world! (2 of them)', 'en'))"      # ['hello', 'world', 'of', 'them']
"""
import functools
import re
import unicodedata

import numpy as np

HAN = re.compile("([\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff])")


@functools.cache
def special(c):
    """Whether a character is neither letter nor mark: digits, punctuation, symbols, spaces, emoji. The vowel signs of Indic scripts are marks."""
    return unicodedata.category(c)[0] not in "LM"


@functools.lru_cache(2)
def words(text, lang=None, lower=True):
    """Words, in lower case, without special characters at both ends; what is special throughout is no word (ROOTS).

    Chinese has no spaces: each Han character counts as a word (ROOTS cut it by a SentencePiece model)."""
    if lang and lang.startswith("zh"):
        text = HAN.sub(r" \1 ", text)
    found = []
    for w in (text.lower() if lower else text).split():
        if special(w[0]) or special(w[-1]):
            first, last = 0, len(w)
            while first < last and special(w[first]):
                first += 1
            while first < last and special(w[last - 1]):
                last -= 1
            w = w[first:last]
        if w:
            found.append(w)
    return found


def codes(text):
    """(n,) uint64 code points."""
    return np.frombuffer(text.encode("utf-32-le"), "<u4").astype(np.uint64)


def ngrams(ids, n):
    """(len(ids) - n + 1,) uint64: a hash of each run of n ids. Equal runs have equal hashes; of 10^6 runs two others share one once in 10^7 texts."""
    if len(ids) < n:
        return np.empty(0, np.uint64)
    h = np.zeros(len(ids) - n + 1, np.uint64)
    for i in range(n):                      # a polynomial in an odd multiplier, modulo 2^64
        h = h * np.uint64(0x9E3779B97F4A7C15) + ids[i:len(ids) - n + 1 + i]
    return mixed(h)


def mixed(h):
    """Spread uint64 hashes over all bits (the finaliser of SplitMix64): any bits of the result may serve as a table index."""
    h = (h ^ (h >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    h = (h ^ (h >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return h ^ (h >> np.uint64(31))


KIND = np.full(0x110000, -1, np.int8)       # special() of each code point, looked up once


def specials(ids):
    """(n,) bool of code points: special()."""
    new = np.unique(ids[KIND[ids] < 0])
    KIND[new] = [special(chr(c)) for c in new.tolist()]
    return KIND[ids] == 1
