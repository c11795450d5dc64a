"""The stages of prepare.py that look across parts: exact copies, lines that repeat, near duplicates.

    repeats(plan)   after read_part: which documents go, and which lines
    near(plan)      after clean_part: which documents go

No process holds the hashes of all parts. Equal hashes have equal top bits, so these divide them into buckets
that can be looked at one by one, on many machines:

    spread      each part sorts its hashes: those of a bucket are a slice of them
    decide      each bucket reads its slices of all parts, and gives a verdict on each hash
    gather      each part collects the verdicts on its own hashes

The first copy stays, in the order of the sources and their parts. The result does not depend on the number of
buckets. A place is a number: which of the compared parts, times 2^32, plus which document of it.
"""
import math
import os

import numpy as np

from corpus import clean, dedup, jobs
from corpus.recipe import rules_by_kind

BUCKET = 400_000_000    # bytes of memory that a bucket takes: what bounds the memory of these stages
ROW = 64                # of it for a hash
# What gather() writes for a document is an index of this list
REASONS = [None, "removed", "duplicate", "near_duplicate", *clean.KEYS]
REMOVED = 3             # a verdict more than those of dedup.py: equal to what was asked to be removed


# ---- buckets ----

def buckets_for(rows):
    """How many buckets so many hashes need: a power of two."""
    return 2 ** max(0, math.ceil(math.log2(max(1, rows * ROW / BUCKET))))


def cuts(values, buckets):
    """(buckets + 1,) where the slice of each bucket begins in sorted uint64 values, and the end of the last.
    cuts([1, 2^63], 2) -> [0, 1, 2]"""
    least = np.array([(2 ** 64 // buckets) * bucket for bucket in range(buckets)], np.uint64)
    return np.r_[np.searchsorted(values, least), len(values)]


def slices(bases, bucket, name, dtype, cut="cuts"):
    """The slices of a bucket, a list of an array for each part."""
    found = []
    for base in bases:
        first, end = jobs.numbers(base, cut, "<i8", bucket, bucket + 2)
        found.append(jobs.numbers(base, name, dtype, first, end))
    return found


def rows_in(base, file):
    """How many hashes a job wrote to BASE/FILE."""
    return os.path.getsize(f"{base}/{file}") // 8 if os.path.exists(f"{base}/{file}") else 0


def joined(arrays, dtype):
    return np.concatenate([np.empty(0, dtype), *arrays])


# ---- exact copies, and lines that repeat ----
# A round compares one kind of hash, in the file named `file`, among the parts of the sources `names`. What it
# drops does not take part in later rounds. So a job is told the rounds before, each as [stage, file, names].

def spread(part, plan, name, number, stage, file, buckets, before):
    """One part in a round."""
    base = plan.base(stage, name, number)
    alive = answers(plan, name, number, stage, before) == 0
    if file == "lines":
        alive = np.repeat(alive, jobs.numbers(base, "counts", "<i8"))
    hashes = jobs.numbers(base, file, "<u8")
    values, counts, order = dedup.distinct(hashes, alive)
    part.tick(hashes.nbytes)
    part.add_numbers("values", values, "<u8")
    part.add_numbers("counts", counts, "<u4")
    part.add_numbers("order", order, "<u4")
    part.add_numbers("cuts", cuts(values, buckets), "<i8")
    removed = np.sort(jobs.numbers(base, "removed", "<u8"))
    part.add_numbers("removed", removed, "<u8")
    part.add_numbers("removed.cuts", cuts(removed, buckets), "<i8")


def decide(part, plan, stage, file, names, bucket, least, first_stays):
    """One bucket of a round: the verdicts, part after part."""
    bases = plan.bases(f"{stage}-{file}-spread", names)
    values = slices(bases, bucket, "values", "<u8")
    sizes = [len(v) for v in values]
    values = joined(values, "<u8")
    counts = joined(slices(bases, bucket, "counts", "<u4"), "<u4")
    verdicts = dedup.repeated(values, counts, least, first_stays)
    part.tick(values.nbytes)
    if file == "duplicate":             # copies of what was asked to be removed go too, all of them
        removed = joined(slices(bases, bucket, "removed", "<u8", "removed.cuts"), "<u8")
        verdicts[np.isin(values, removed)] = REMOVED
    part.add_numbers("verdicts", verdicts, np.uint8)
    part.add_numbers("cuts", np.cumsum([0, *sizes]), "<i8")


def gathered(plan, name, number, n, stage, file, names):
    """(n,) the verdicts of a round on the hashes of a part, in the order of the documents or lines."""
    base = plan.base(f"{stage}-{file}-spread", name, number)
    position = plan.bases(stage, names).index(plan.base(stage, name, number))
    verdicts = []
    for bucket in range(len(jobs.numbers(base, "cuts", "<i8")) - 1):
        decided = plan.base(f"{stage}-{file}-decide", names[0], bucket)
        verdicts += slices([decided], position, "verdicts", np.uint8)
    counts, order = (jobs.numbers(base, kind, "<u4") for kind in ("counts", "order"))
    return dedup.gathered(n, counts, order, joined(verdicts, np.uint8))


def answers(plan, name, number, stage, rounds):
    """For each document of a part an index of REASONS, after these rounds."""
    found = np.zeros(jobs.facts(plan.base(stage, name, number))["kept"], np.uint8)
    for _, file, names in rounds:
        verdicts = gathered(plan, name, number, len(found), stage, file, names)
        found[verdicts > 0] = REASONS.index(file)
        found[verdicts == REMOVED] = REASONS.index("removed")
    return found


def compare(plan, stage, doing, groups, rounds):
    """A round for several groups of sources: groups is a list of (file, names, least, first_stays). rounds:
    {source: its rounds before}, to which this one is added."""
    spreads, decides = [], []
    for file, names, least, first_stays in groups:
        rows = {base: rows_in(base, file) for base in plan.bases(stage, names)}
        buckets = buckets_for(sum(rows.values()))
        for name, number, base in plan.each(stage, names):
            spreads.append([plan.base(f"{stage}-{file}-spread", name, number), 8 * rows[base],
                            [name, number, stage, file, buckets, rounds[name]]])
        for bucket in range(buckets):
            base = plan.base(f"{stage}-{file}-decide", names[0], bucket)
            size = 8 * sum(rows.values()) // buckets
            decides.append([base, size, [stage, file, names, bucket, least, first_stays]])
    plan.run(doing, spread, spreads)
    plan.run(doing, decide, decides)
    for file, names, _, _ in groups:
        for name in names:
            rounds[name] = [*rounds[name], [stage, file, names]]


def gather(part, plan, name, number, stage, rounds, line_round, more):
    """What a part needs of all rounds: `drop`, an index of REASONS for each document; `cut`, whether each
    line goes. more: a job that wrote the places of near duplicates, and the sources that it compared."""
    base = plan.base(stage, name, number)
    drop = answers(plan, name, number, stage, rounds)
    if more:
        near, names = more
        position = plan.bases(stage, names).index(base)
        mine, = slices([f"{plan.folder}/{near}"], position, "places", "<i8")
        mine = mine & 0xffffffff
        drop[mine[drop[mine] == 0]] = REASONS.index("near_duplicate")
    part.add_numbers("drop", drop, np.uint8)
    if line_round:
        verdicts = gathered(plan, name, number, rows_in(base, "lines"), *line_round)
        part.add_numbers("cut", verdicts > 0, bool)


def repeats(plan):
    """After it repeats/PART has the `drop` of each part of read/, and `cut` if its source has a line rule. A
    copy of a document that was asked to be removed is removed too."""
    doing = "looking for copies and repeated lines"
    rounds = {name: [] for name in plan.parts}
    compare(plan, "read", doing, [("duplicate", [*plan.parts], 2, True)], rounds)   # among all sources
    kinds = {name: rules_by_kind(plan.source(name)) for name in plan.parts}
    for turn in range(len(clean.KEYS)):
        groups = [(kinds[name][0][turn], [name], 2, True) for name in plan.parts if kinds[name][0][turn:]]
        compare(plan, "read", doing, groups, rounds)
    documents = dict(rounds)
    groups = []
    for name, (_, rule, _) in kinds.items():
        if rule:
            _, least, first_stays, _ = clean.LINES[rule]
            groups.append(("lines", [name], least, first_stays))
    compare(plan, "read", doing, groups, rounds)
    todo = []
    for name, number, base in plan.each("read", plan.parts):
        line_round = rounds[name][-1] if kinds[name][1] else None
        todo.append([plan.base("repeats", name, number), 8 * rows_in(base, "lines"),
                     [name, number, "read", documents[name], line_round, None]])
    plan.run(doing, gather, todo)


# ---- near duplicates ----

class Signatures:
    """The signatures of all parts, on disk, by place."""
    def __init__(self, bases):
        self.bases = bases

    def __getitem__(self, places):
        """(n, HASHES) for places in ascending order."""
        parts, starts = np.unique(places >> 32, return_index=True)
        found = [np.empty((0, dedup.HASHES), "<u2")]
        for number, rows in zip(parts, np.split(places & 0xffffffff, starts[1:])):
            rows_there = np.memmap(f"{self.bases[number]}/signatures", "<u2", "r").reshape(-1, dedup.HASHES)
            found.append(rows_there[rows])
        return np.concatenate(found)


def spread_bands(part, plan, name, number, buckets):
    """The band values of one part, band after band; the cuts of a band are those of its buckets."""
    signatures = jobs.numbers(plan.base("clean", name, number), "signatures", "<u2")
    signatures = signatures.reshape(-1, dedup.HASHES)
    part.tick(signatures.nbytes)
    for band in range(dedup.bands(plan.corpus.alike)[0]):
        values = dedup.band_values(signatures, band, plan.corpus.alike)
        order = np.argsort(values, kind="stable")
        part.add_numbers("values", values[order], "<u8")
        part.add_numbers("order", order, "<u4")
        part.add_numbers("cuts", cuts(values[order], buckets) + band * len(order), "<i8")


def find_pairs(part, plan, names, buckets, band, bucket):
    """The pairs of near duplicates in one bucket of one band."""
    bases = plan.bases("bands", names)
    at = band * (buckets + 1) + bucket
    values = joined(slices(bases, at, "values", "<u8"), "<u8")
    part.tick(values.nbytes)
    places = [order.astype(np.int64) + (i << 32)
              for i, order in enumerate(slices(bases, at, "order", "<u4"))]
    signatures = Signatures(plan.bases("clean", names))
    found = dedup.pairs_in(values, joined(places, "<i8"), signatures, plan.corpus.alike)
    part.add_numbers("pairs", found, "<i8")


def add_places(part, places, parts):
    """Places of documents that go, in ascending order; the cuts are those of the parts."""
    part.add_numbers("places", places, "<i8")
    part.add_numbers("cuts", np.searchsorted(places, np.arange(parts + 1) << 32), "<i8")


def join_pairs(part, plan, names, buckets):
    """The places that are not the first of their component. Of each band only what is new is kept."""
    known = np.zeros((0, 2), np.int64)
    for band in range(dedup.bands(plan.corpus.alike)[0]):
        bases = [f"{plan.folder}/pairs/{band:02}-{bucket:05}" for bucket in range(buckets)]
        pairs = [jobs.numbers(base, "pairs", "<i8").reshape(-1, 2) for base in bases]
        known = dedup.forest(np.concatenate([known, *pairs]))
    add_places(part, known[:, 1], len(plan.bases("clean", names)))


def find_books(part, plan, name):
    """The places of books of a source that are inside another one."""
    books, places = [], []
    for number, base in enumerate(plan.bases("clean", [name])):
        sizes = jobs.numbers(base, "sizes", "<i8")
        books += np.split(jobs.numbers(base, "shingles", "<u8"), np.cumsum(sizes))[:-1]
        places.append(np.arange(len(sizes)) + (number << 32))
    add_places(part, joined(places, "<i8")[dedup.overlapping(books)], plan.parts[name])


def near(plan):
    """After it near/PART has the `drop` of each part of clean/. Rules may have made copies too."""
    doing = "looking for near duplicates"
    rounds = {name: [] for name in plan.parts}
    compare(plan, "clean", doing, [("duplicate", [*plan.parts], 2, True)], rounds)
    kinds = {name: plan.source(name).near for name in plan.parts}
    alike = [name for name in plan.parts if kinds[name] == "minhash"]       # compared with one another
    if alike:
        find_alike(plan, doing, alike)
    books = [name for name in plan.parts if kinds[name] == "overlap"]
    plan.run(doing, find_books, [[f"{plan.folder}/books/{name}", 0, [name]] for name in books])
    todo = []
    for name, number, _ in plan.each("clean", plan.parts):
        more = {"minhash": ["alike", alike], "overlap": [f"books/{name}", [name]]}.get(kinds[name])
        todo.append([plan.base("near", name, number), 0, [name, number, "clean", rounds[name], None, more]])
    plan.run(doing, gather, todo)


def find_alike(plan, doing, names):
    """Near duplicates by MinHash among the sources `names`: alike/places."""
    kept = {base: jobs.facts(base)["kept"] for base in plan.bases("clean", names)}
    buckets = buckets_for(sum(kept.values()))
    spreads, finds = [], []
    for name, number, base in plan.each("clean", names):
        size = 2 * dedup.HASHES * kept[base]
        spreads.append([plan.base("bands", name, number), size, [name, number, buckets]])
    for band in range(dedup.bands(plan.corpus.alike)[0]):
        for bucket in range(buckets):
            base = f"{plan.folder}/pairs/{band:02}-{bucket:05}"
            finds.append([base, 8 * sum(kept.values()) // buckets, [names, buckets, band, bucket]])
    plan.run(doing, spread_bands, spreads)
    plan.run(doing, find_pairs, finds)
    plan.run(doing, join_pairs, [[f"{plan.folder}/alike", 0, [names, buckets]]])
