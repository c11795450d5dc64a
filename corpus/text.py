"""What rules, models and signatures are made of: words and n-grams of a text; and the place of a document."""
import functools
import hashlib
import re
import unicodedata

import numpy as np

HAN = re.compile("([\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff])")


def place(source, document_id):
    """A number in [0, 1) that depends on the document's name alone: held out once, held out always."""
    digest = hashlib.sha256(f"{source}/{document_id}".encode()).digest()
    return int.from_bytes(digest[:8], "little") / 2 ** 64


@functools.cache
def special(c):
    """Whether a character is neither letter nor mark (the vowel signs of Indic scripts are marks)."""
    return unicodedata.category(c)[0] not in "LM"


@functools.lru_cache(2)
def words(text, lang=None, lower=True):
    """Words in lower case, without special characters at both ends; what is all special is no word (ROOTS).
    Chinese has no spaces: each Han character counts as a word (ROOTS cut it by a SentencePiece model).
    words("Hello, world! (2 of them)") -> ["hello", "world", "of", "them"]"""
    if lang and lang.startswith("zh"):
        text = HAN.sub(r" \1 ", text)
    found = (text.lower() if lower else text).split()
    for i, word in enumerate(found):
        if special(word[0]) or special(word[-1]):       # most words need no second look
            letters = [n for n, c in enumerate(word) if not special(c)]
            found[i] = word[letters[0]:letters[-1] + 1] if letters else ""
    return [word for word in found if word]


def codes(text):
    """(n,) uint64 code points."""
    return np.frombuffer(text.encode("utf-32-le"), "<u4").astype(np.uint64)


def ngrams(ids, n):
    """(len(ids) - n + 1,) uint64: a hash of each run of n ids."""
    if len(ids) < n:
        return np.empty(0, np.uint64)
    h = np.zeros(len(ids) - n + 1, np.uint64)
    for i in range(n):                      # a polynomial in an odd multiplier, modulo 2^64
        h = h * np.uint64(0x9E3779B97F4A7C15) + ids[i:len(ids) - n + 1 + i]
    return mixed(h)


def mixed(h):
    """Spread uint64 hashes over all bits (the finaliser of SplitMix64)."""
    h = (h ^ (h >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    h = (h ^ (h >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return h ^ (h >> np.uint64(31))


KIND = np.full(0x110000, -1, np.int8)       # special() of each code point, looked up once


def specials(ids):
    """(n,) bool: special() of each code point."""
    new = np.unique(ids[KIND[ids] < 0])
    KIND[new] = [special(chr(c)) for c in new.tolist()]
    return KIND[ids] == 1
