"""The merges of byte-pair encoding, fast. tokenizer.merge_most_frequent() defines which merges these are.

    train_bpe({"low": 5, "lot": 2}, 262)  ->  [(b"l", b"o"), (b"lo", b"w")]

The definition counts all pairs again for each merge. Here each pair has a list of its places in the text, and
three steps keep these lists:
    born      a pair exists for the first time: count its places, put it into a heap
    recount   the pair on top of the heap may have lost places: look at them again
    join      write the new entry at the places of the most frequent pair
"""
import heapq

import numpy as np

import config
from vocabulary import BYTES, SPECIALS

LEAST = 300             # entries of a vocabulary: 256 bytes, the specials, and some merges


class TooManyEntries(ValueError):
    """More entries were asked for than the text gives; `most` is how many it gives."""
    def __init__(self, vocab, most):
        smaller = f", or --vocab {most} (in a data config tokenizer.vocab={most})" if most >= LEAST else ""
        super().__init__(f"vocabulary of {vocab}: this text gives at most {most} entries; give more text"
                         f"{smaller}")
        self.most = most


class Places:
    """The different pieces of a text in one array `ids`, with a -1 after each, and where each pair stands.

    Where two ids are joined, the left place gets the new id and the right place falls out; `after` and
    `before` link the places in use. `times` says how often the piece of a place occurs. A pair (a, b) is one
    number, a * 2^32 + b, because numpy can sort numbers. `heap` has each pair once: (-count, pair, places).
    A pair is born, with all the places that it will ever have, when the younger of its two ids is. So a count
    in the heap may be too high, but it is never too low.
    """
    def __init__(self, count):
        number = np.zeros(256, np.int32)
        number[[entry[0] for entry in BYTES]] = np.arange(256)
        pieces = [piece.encode() for piece in count]
        sizes = np.array([len(piece) + 1 for piece in pieces], np.int64)
        self.ids = number[np.frombuffer(b"\0".join([*pieces, b""]), np.uint8)]
        self.ids[np.cumsum(sizes) - 1] = -1
        self.times = np.repeat(np.array([*count.values()], np.int64), sizes)
        self.after = np.arange(1, len(self.ids) + 1, dtype=np.int32)
        self.before = self.after - 2
        self.heap = []
        at = np.flatnonzero((self.ids[:-1] >= 0) & (self.ids[1:] >= 0)).astype(np.int32)
        self.born((self.ids[at].astype(np.int64) << 32) + self.ids[at + 1], at)

    def born(self, pairs, at):
        """Put new pairs into the heap. The left part of pairs[i] stands at place at[i]."""
        order = np.argsort(pairs, kind="stable")            # stable: the places of a pair stay in order
        pairs, at = pairs[order], at[order]
        starts = np.flatnonzero(np.diff(pairs, prepend=-1))
        ends = np.append(starts, len(at))[1:]
        counts = np.add.reduceat(self.times[at], starts) if len(at) else starts
        often = np.flatnonzero(counts > 1)
        lists = [x[often].tolist() for x in (counts, pairs[starts], starts, ends)]
        for n, pair, start, end in zip(*lists):
            heapq.heappush(self.heap, (-n, pair, at[start:end]))

    def recount(self):
        """The most frequent pair as (a, b, its places), or None. If the count on top of the heap still holds,
        no pair occurs more often. If not, the pair goes back with its present count."""
        while self.heap:
            n, pair, at = heapq.heappop(self.heap)
            a, b = pair >> 32, pair & 0xffffffff
            at = at[(self.ids[at] == a) & (self.ids[self.after[at]] == b)]
            now = int(self.times[at].sum())
            if now == -n:
                return a, b, at
            if now > 1:
                heapq.heappush(self.heap, (-now, pair, at))

    def join(self, a, b, at, new):
        """Write id `new` for a and b at the places `at`. The pairs of `new` with its neighbours are born."""
        ids, after, before = self.ids, self.after, self.before
        if a == b:                      # in a run of a's every second pair is joined, from the left
            starts = np.flatnonzero(np.r_[True, at[1:] != after[at[:-1]]])
            first = np.repeat(starts, np.diff(np.r_[starts, len(at)]))
            at = at[(np.arange(len(at)) - first) % 2 == 0]
        gone = after[at]
        ids[at] = new
        ids[gone] = -1
        after[at] = after[gone]
        before[after[at]] = at
        left = ids[before[at]].astype(np.int64)
        right = ids[after[at]].astype(np.int64)
        mine = (left >= 0) & (left != new)          # new beside new is counted once, as the left one's pair
        self.born((left[mine] << 32) + new, before[at[mine]])
        mine = right >= 0
        self.born((new << 32) + right[mine], at[mine])


def train_bpe(count, vocab, special=0):
    """As merge_most_frequent(count, vocab - special), or TooManyEntries. special: ids for further tokens."""
    vocab -= special
    entries = list(BYTES)
    merges = []
    places = Places(count)
    tick = config.progress("joining pairs", vocab - len(SPECIALS) - len(BYTES))
    while len(SPECIALS) + len(entries) < vocab:
        best = places.recount()
        if best is None:
            raise TooManyEntries(vocab + special, len(SPECIALS) + len(entries) + special)
        a, b, at = best
        places.join(a, b, at, new=len(entries))
        merges.append((entries[a], entries[b]))
        entries.append(entries[a] + entries[b])
        tick(1)
    return merges
