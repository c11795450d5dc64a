"""Duplicates: exact documents and lines, near duplicates by MinHash, books inside books.

    python -m corpus.dedup 0.7            # the S-curve: how likely two documents are found, by how alike they are

All of them read numbers that the stages of prepare.py left on disk, never texts; n documents, m lines:
repeated() needs 2 bytes x m, and MEMORY for its sorting; near() 40 bytes x n; overlapping() 40 bytes x n x s / SAMPLED for n books of
s letters. A signature is 2 x HASHES bytes per document on disk. The first copy, in the order of sources and files, is the one that stays.
"""
import argparse
import hashlib
import itertools
import math
import unicodedata

import numpy as np

import config
from corpus.text import codes, mixed, ngrams, specials

HASHES = 128            # minima in a signature
SHINGLE = 8             # letters; spaces, digits and punctuation do not count. ROOTS took 6 characters, or 6 words in English
SAMPLED = 64            # one in so many shingles of a book is looked at
INSIDE = 0.9            # share of a book found in a longer one (LLaMA, section 2.1)
FEWEST = 16             # sampled shingles, of about a thousand letters: of fewer nothing can be said
CROWD = 50              # books that share a shingle, above which each is compared with two of them and not with all
ROUNDS = 16             # firsts of a bucket that the rest is compared with: more matter only in crowds of half-alike texts
MEMORY = 400_000_000    # bytes for the hashes of one pass


def key(text):
    """8 bytes: two different texts share one with probability 2^-64; among 10^9 documents that happens once in 37 corpora."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


class Normal(dict):
    """What str.translate makes of a character: digits 0, punctuation and what does not print nothing. Filled as characters are met."""
    def __missing__(self, code):
        kind = unicodedata.category(chr(code))
        self[code] = code if chr(code) in "\n\t" else "0" if kind == "Nd" else None if kind[0] in "PC" else code
        return self[code]


NORMAL = Normal()


def lines(text, least=0, normal=False):
    """(lines,) uint64, a hash of each; 0 for one that is empty or shorter than `least` characters. `normal`: as CCNet compares them,
    in lower case, digits 0, without punctuation: "Page 12." is "page 00"."""
    found = text.lower().translate(NORMAL) if normal else text
    return np.array([key(line) if line and len(line) >= least else 0 for line in map(str.strip, found.split("\n"))], np.uint64)


def repeated(arrays, least=2, first_stays=True, alive=None):
    """For each array of hashes (uint64) a bool array: True where the value occurs `least` times or more in all of them together
    (but at its first place, if that stays). The value 0 does not count, nor what `alive`, bool arrays, leaves out."""
    total = sum(map(len, arrays))
    passes = max(1, math.ceil(40 * total / MEMORY))
    answers = [np.zeros(len(a), bool) for a in arrays]
    for p in range(passes):
        places = [np.flatnonzero((a % np.uint64(passes) == p) & (a != 0) & live) for a, live in zip(arrays, alive or itertools.repeat(True))]
        values = np.concatenate([a[at] for a, at in zip(arrays, places)] or [np.empty(0, np.uint64)])
        order = np.argsort(values, kind="stable")
        starts = np.flatnonzero(np.r_[True, values[order][1:] != values[order][:-1]]) if len(values) else np.empty(0, int)
        counts = np.diff(np.r_[starts, len(values)])
        many = np.repeat(counts >= least, counts)
        if first_stays:
            many[starts] = False
        answer = np.empty(len(values), bool)
        answer[order] = many
        for a, at, part in zip(answers, places, np.split(answer, np.cumsum([len(at) for at in places])[:-1])):
            a[at] = part
    return answers


def shingles(text):
    """(n,) uint64 hashes of the runs of SHINGLE letters; a shorter text is one shingle."""
    ids = codes(text.lower())
    ids = ids[~specials(ids)] if not specials(ids).all() else ids          # a list of numbers is all signs: then they count
    return ngrams(ids, SHINGLE) if len(ids) >= SHINGLE else ngrams(ids, max(1, len(ids)))


def signature(found):
    """(HASHES,) uint16: two texts have equal entries at a share of places that estimates the Jaccard similarity of their shingles.

    One hash per shingle, not HASHES of them: its low bits choose the place, the others compete to be the minimum there (one permutation
    hashing: Li, Owen, Zhang 2012). Empty places borrow from others, chosen by a hash of the place (Shrivastava 2017). 16 bits of each
    minimum, mixed, are kept (Li, Koenig 2010): others agree by chance once in 65,536."""
    none = np.uint64(2 ** 64 - 1)
    s = np.full(HASHES, none)
    np.minimum.at(s, (found % np.uint64(HASHES)).astype(np.int64), found // np.uint64(HASHES))
    full = s != none
    source, empty, attempt = np.arange(HASHES), np.flatnonzero(~full), 0
    while len(empty) and full.any():
        attempt += 1
        lent = (mixed(np.uint64(attempt * HASHES) + empty.astype(np.uint64)) % np.uint64(HASHES)).astype(np.int64)
        source[empty] = lent
        empty = empty[~full[lent]]
    return mixed(s)[source].astype(np.uint16)


def bands(alike):
    """(number of bands, entries in each) of a signature: the longest bands that still find 98% of the pairs at similarity `alike`."""
    for r in (32, 16, 8, 4):            # fewer than 4 entries of 16 bits would meet by chance
        if 0 < alike <= 1 and 1 - (1 - alike ** r) ** (HASHES // r) >= 0.98:
            return HASHES // r, r
    raise ValueError(f"alike={alike}: the share of common shingles from which documents are near duplicates must be from 0.6 to 1")


def found_with(j, alike):
    """Probability that two documents of similarity j are found: they meet in a band, and their signatures agree in a share `alike` of places."""
    b, r = bands(alike)
    agree = sum(math.comb(HASHES, k) * j ** k * (1 - j) ** (HASHES - k) for k in range(math.ceil(alike * HASHES), HASHES + 1))
    return (1 - (1 - j ** r) ** b) * agree


def near(signatures, alike):
    """(n,) bool: True for documents that are near duplicates of an earlier one, by chains too (connected components, as ROOTS).

    signatures: (n, HASHES) uint16, may be a memmap."""
    n, (b, r) = len(signatures), bands(alike)
    parent = np.arange(n)

    def root(i):
        while parent[i] != i:
            parent[i] = i = parent[parent[i]]
        return i
    for band in range(b):
        values = np.zeros(n, np.uint64)
        for column in range(band * r, band * r + r):
            values = mixed(values + signatures[:, column])
        order = np.argsort(values, kind="stable")
        for _ in range(ROUNDS):         # compare all in a bucket with its first; what is not like it is compared again, without it
            if not len(order):
                break
            same = np.r_[False, values[order][1:] == values[order][:-1]]
            first = order[np.maximum.accumulate(np.where(same, 0, np.arange(len(order))))]
            left, right = first[same], order[same]
            match = np.concatenate([np.empty(0, bool), *((signatures[left[at:at + 10_000]] == signatures[right[at:at + 10_000]]).mean(1) >= alike
                                                         for at in range(0, len(left), 10_000))])
            for i, j in zip(left[match].tolist(), right[match].tolist()):
                i, j = root(i), root(j)
                parent[max(i, j)] = min(i, j)
            order = right[~match]
    return parent != np.arange(n)       # a document with a parent has an earlier one like it


def sampled(found):
    """Sorted distinct shingles whose hash is a multiple of SAMPLED: the same ones in every text that has them."""
    return np.unique(found[found % np.uint64(SAMPLED) == 0])


def overlapping(books):
    """(n,) bool: True for books of which more than INSIDE is inside another that is longer, or as long and earlier.

    books: a list of sampled() arrays."""
    book = np.repeat(np.arange(len(books)), [len(b) for b in books])
    shingle = np.concatenate([*books, np.empty(0, np.uint64)])
    order = np.argsort(shingle, kind="stable")
    shingle, book = shingle[order], book[order]
    starts = np.flatnonzero(np.r_[True, shingle[1:] != shingle[:-1]]) if len(shingle) else []
    common = {}
    for owners in np.split(book, starts[1:]) if len(shingle) else []:
        owners = owners.tolist()
        if len(owners) > 1:
            pairs = [(a, b) for i, a in enumerate(owners) for b in owners[i + 1:]] if len(owners) <= CROWD else \
                {*zip(owners, owners[1:]), *((owners[0], b) for b in owners[1:])}
            for pair in pairs:
                common[pair] = common.get(pair, 0) + 1
    drop = np.zeros(len(books), bool)
    for (a, b), n in common.items():
        small, large = (a, b) if len(books[a]) < len(books[b]) else (b, a)
        drop[small] |= n > INSIDE * len(books[small]) and len(books[small]) >= FEWEST
    return drop


def main():
    ap = argparse.ArgumentParser(prog="python -m corpus.dedup", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("alike", type=float, nargs="?", default=0.7, help="share of common shingles from which documents are near duplicates (default: 0.7)")
    alike = ap.parse_args().alike
    b, r = bands(alike)
    print(f"{b} bands of {r}; kept apart unless {alike:.0%} of the shingles are common\nsimilarity  same band    found")
    for j in (0.3, 0.4, 0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 1.0):
        print(f"{j:10.2f}  {1 - (1 - j ** r) ** b:9.4f}  {found_with(j, alike):7.4f}")


if __name__ == "__main__":
    config.command(main)
