"""Duplicates: near duplicates by MinHash, exact copies of documents and lines, books inside books.

    python -m corpus.dedup 0.7      # the S-curve: how likely two documents are found, by how alike they are

They read hashes, which prepare.py's stages leave on disk. The first copy stays.
"""
import collections
import hashlib
import itertools
import math
import unicodedata

import numpy as np

import config
from corpus.text import codes, mixed, ngrams, specials

HASHES = 128  # entries of a signature
SHINGLE = 8  # letters. ROOTS took 6 characters, or 6 words in English
ROUNDS = 16  # firsts of a bucket that the rest is compared with
FETCHED = 200_000  # pairs whose signatures are in memory at once, 512 bytes each
SAMPLED = 64  # one in so many shingles of a book is looked at
INSIDE = 0.9  # share of a book found in a longer one (LLaMA, section 2.1)
FEWEST = 16  # sampled shingles, of about a thousand letters: fewer say nothing
CROWD = 50  # with more books, each is compared with its neighbour and the first of them, not with all


# ---- near duplicates: MinHash (Broder 1997) ----
# Two texts are as alike as their sets of shingles: J = |A and B| / |A or B|, the Jaccard similarity.
# A random hash has its minimum over A and over B at the same shingle with probability J. A signature is a
# list of such minima. The share of entries in which two signatures agree estimates J.

def shingles(text):
    """(n,) uint64 hashes of the runs of SHINGLE letters. A shorter text is one shingle."""
    ids = codes(text.lower())
    signs = specials(ids)  # spaces, digits and punctuation
    if not signs.all():  # in a list of numbers they count
        ids = ids[~signs]
    return ngrams(ids, min(SHINGLE, max(1, len(ids))))


def signature(found):
    """(HASHES,) uint16 from shingles().

    One hash per shingle is enough (one permutation hashing: Li, Owen, Zhang 2012): its remainder chooses an
    entry, its quotient competes to be the minimum there. An entry without shingles borrows from another one,
    chosen by a hash of its place (Shrivastava 2017). Of each minimum 16 bits are kept (Li, Koenig 2010)."""
    none = np.uint64(2 ** 64 - 1)
    minima = np.full(HASHES, none)
    np.minimum.at(minima, found % HASHES, found // HASHES)
    full = minima != none
    source = np.arange(HASHES, dtype=np.uint64)  # the entry that each one takes its minimum from
    attempt = 0
    while full.any() and not full[source].all():
        attempt += 1
        empty = np.flatnonzero(~full[source]).astype(np.uint64)
        source[empty] = mixed(empty + attempt * HASHES) % HASHES
    return mixed(minima)[source].astype(np.uint16)


def meeting(j, b, r):
    """The S-curve: probability that texts of similarity j agree in all r entries of one of b bands."""
    return 1 - (1 - j ** r) ** b


def bands(alike):
    """(bands b, entries r in each): the longest bands in which 98% of pairs of similarity `alike` meet."""
    for r in (32, 16, 8, 4):  # fewer than 4 entries of 16 bits would meet by chance
        if 0 < alike <= 1 and meeting(alike, HASHES // r, r) >= 0.98:
            return HASHES // r, r
    raise ValueError(f"alike={alike}: the share of common shingles must be from 0.6 to 1")


def found_with(j, alike):
    """Probability that near() finds texts of similarity j: they meet, and `alike` of all entries agree."""
    enough = range(math.ceil(alike * HASHES), HASHES + 1)
    agreeing = sum(math.comb(HASHES, k) * j ** k * (1 - j) ** (HASHES - k) for k in enough)
    return meeting(j, *bands(alike)) * agreeing


def agree(signatures, left, right, alike):
    """(n,) bool: whether documents left[i] and right[i] agree in a share `alike` of their entries."""
    match = np.empty(len(left), bool)
    for at in range(0, len(left), 10_000):  # few rows at a time fit in memory
        here = slice(at, at + 10_000)
        match[here] = (signatures[left[here]] == signatures[right[here]]).mean(1) >= alike
    return match


def near(signatures, alike):
    """(n,) bool: True for near duplicates of an earlier document, by chains too (connected components).
    signatures: (n, HASHES) uint16. corpus/across.py does the same by parts and buckets."""
    n = len(signatures)
    pairs = [np.zeros((0, 2), np.int64)]
    for band in range(bands(alike)[0]):
        pairs.append(pairs_in(band_values(signatures, band, alike), np.arange(n), signatures, alike))
    found = np.zeros(n, bool)
    found[forest(np.concatenate(pairs))[:, 1]] = True
    return found


def band_values(signatures, band, alike):
    """(n,) uint64: two documents meet in a band if these are equal."""
    _, r = bands(alike)
    values = np.zeros(len(signatures), np.uint64)
    for column in range(band * r, band * r + r):
        values = mixed(values + signatures[:, column])
    return values


def pairs_in(values, places, signatures, alike):
    """(n, 2) int64, the places of two documents that meet in a band, since their values are equal, and are
    alike; the earlier one first. signatures: what gives rows for places in ascending order."""
    order = np.argsort(values, kind="stable")  # a bucket is a run of equal values in this order
    found = [np.zeros((0, 2), np.int64)]
    for _ in range(ROUNDS):  # compare with the first of the bucket; what is unlike goes on without it
        starts = runs(values[order])
        first = np.repeat(order[starts], np.diff(np.r_[starts, len(order)]))
        left, right = first[first != order], order[first != order]
        match = agree_there(signatures, places[left], places[right], alike)
        found.append(np.stack([places[left[match]], places[right[match]]], 1))
        order = right[~match]
    return np.concatenate(found)


def agree_there(signatures, left, right, alike):
    """As agree(). Signatures may be on disk: they are fetched for FETCHED pairs at once, in their order."""
    match = np.empty(len(left), bool)
    for at in range(0, len(left), FETCHED):
        here = slice(at, at + FETCHED)
        rows, index = np.unique(np.r_[left[here], right[here]], return_inverse=True)
        match[here] = agree(signatures[rows], *np.split(index, 2), alike)
    return match


def forest(pairs):
    """Connected components: (m, 2), for each place but the first of its component that first one and itself,
    sorted by the latter. forest([[2, 5], [5, 7], [1, 9]]) -> [[2, 5], [2, 7], [1, 9]]"""
    places, ends = np.unique(pairs, return_inverse=True)
    left, right = ends.reshape(-1, 2).T
    label = np.arange(len(places))  # of each place: the lowest one it is known to be connected with
    while (label[left] != label[right]).any():
        low, high = np.sort([label[left], label[right]], axis=0)
        np.minimum.at(label, high, low)
        while (label[label] != label).any():
            label = label[label]
    later = np.flatnonzero(label != np.arange(len(places)))
    return np.stack([places[label[later]], places[later]], 1)


# ---- exact copies ----

def key(text):
    """8 bytes. Of 10^9 different documents two share one in 1 of 37 corpora."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


class Normal(dict):
    """A table for str.translate, filled as characters come."""
    def __missing__(self, code):
        kind = unicodedata.category(chr(code))
        self[code] = "0" if kind == "Nd" else code
        if kind[0] in "PC" and chr(code) not in "\n\t":
            self[code] = None
        return self[code]


NORMAL = Normal()


def lines(text, least=0, normal=False):
    """(lines,) uint64, a hash of each; 0 for one that is empty or shorter than `least` characters.
    `normal`: as CCNet compares them, lower case, digits 0, no punctuation: "Page 12." is "page 00"."""
    found = text.lower().translate(NORMAL) if normal else text
    stripped = map(str.strip, found.split("\n"))
    return np.array([key(line) if line and len(line) >= least else 0 for line in stripped], np.uint64)


def runs(ordered):
    """Where each run of equal values begins. runs([3, 3, 5, 7, 7]) -> [0, 2, 3]"""
    return np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]][:len(ordered)])


STAYS, GOES, ALL_BUT_FIRST_GO = range(3)  # verdicts on a value


def distinct(values, alive):
    """(values, counts, order) of an array of hashes (uint64): its values, sorted, how often each occurs, and
    the places of them all, one value after the other. 0 does not count, nor what `alive` leaves out.
    distinct([7, 5, 0, 7], True) -> [5, 7], [1, 2], [1, 0, 3]"""
    order = np.flatnonzero((values != 0) & alive)
    order = order[np.argsort(values[order], kind="stable")]
    ordered = values[order]
    starts = runs(ordered)
    return ordered[starts], np.diff(np.r_[starts, len(ordered)]), order


def repeated(values, counts, least=2, first_stays=True):
    """For each value of several arrays, joined, as distinct() gives them, the verdict on its places: they go
    if there are `least` or more in all arrays together, but if `first_stays`, not the first of all."""
    order = np.argsort(values, kind="stable")
    starts = runs(values[order])
    many = np.add.reduceat(counts[order], starts) >= least if len(starts) else np.zeros(0, bool)
    found = np.repeat(np.where(many, GOES, STAYS).astype(np.uint8), np.diff(np.r_[starts, len(values)]))
    if first_stays:
        found[starts[many]] = ALL_BUT_FIRST_GO
    verdicts = np.empty(len(values), np.uint8)
    verdicts[order] = found
    return verdicts


def gathered(n, counts, order, verdicts):
    """(n,) the verdicts on values, as verdicts on the places of an array of which distinct() was made."""
    each = np.repeat(verdicts, counts)
    first = np.cumsum(counts) - counts
    each[first[verdicts == ALL_BUT_FIRST_GO]] = STAYS
    found = np.zeros(n, np.uint8)
    found[order] = each
    return found


# ---- books inside books ----

def sampled(found):
    """Sorted distinct shingles whose hash is a multiple of SAMPLED: the same ones in every text."""
    return np.unique(found[found % SAMPLED == 0])


def overlapping(books):
    """(n,) bool: True for books of which more than INSIDE is in a longer one, or in an earlier one as long.
    books: a list of sampled() arrays."""
    book = np.repeat(np.arange(len(books)), [len(b) for b in books])
    shingle = np.concatenate([*books, np.empty(0, np.uint64)])
    order = np.argsort(shingle, kind="stable")
    common = collections.Counter()  # (book, book): shingles that both have
    for owners in np.split(book[order], runs(shingle[order])[1:]):
        owners = owners.tolist()
        pairs = itertools.combinations(owners, 2)
        if len(owners) > CROWD:
            pairs = {*itertools.pairwise(owners), *itertools.product(owners[:1], owners[1:])}
        common.update(pairs)
    drop = np.zeros(len(books), bool)
    for (a, b), n in common.items():
        small = a if len(books[a]) < len(books[b]) else b
        drop[small] |= n > INSIDE * len(books[small]) and len(books[small]) >= FEWEST
    return drop


def main():
    ap = config.Parser(__doc__, prog="python -m corpus.dedup")
    ap.add_argument("alike", type=float, nargs="?", default=0.7, help="the threshold (default: 0.7)")
    alike = ap.parse_args().alike
    b, r = bands(alike)
    print(f"{b} bands of {r}; kept apart unless {alike:.0%} of the shingles are common")
    print("similarity  same band    found")
    for j in np.arange(30, 101, 5) / 100:
        print(f"{j:10.2f}  {meeting(j, b, r):9.4f}  {found_with(j, alike):7.4f}")


if __name__ == "__main__":
    config.command(main)
