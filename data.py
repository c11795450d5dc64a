"""Token files to training rows. Which row comes when is a function of (data, seed, row number) and nothing
else.

So any number of processes, any micro-batch, any stop and restart read the same rows. Sources are mixed here,
and only here: every CYCLE rows hold each source's share exactly, in a random order. Inside a source each
window of tokens comes once per epoch. Read it from permuted() to Rows.

    python data.py whence runs/bloom-toy step=200        # which documents a training step has read

Letters: B rows   T tokens in a row (model.context)
"""
import math
import os

import numpy as np

import config

IGNORE = -100           # target of a position that is not scored: what torch's cross entropy leaves out
CYCLE = 65_536          # rows after which every source has had exactly its share


def permuted(i, n, key):
    """Number `i` (an array of ints below n) of a random order of 0 ... n-1. The order is computed, not
    stored.

    A Feistel network permutes the smallest power of four that is not below n; numbers that land outside [0,
    n) go through it again (Black and Rogaway 2002). `key` is a tuple of ints, hashed into the round keys.
    """
    half = max(1, math.ceil(math.log2(max(n, 2)) / 2))
    mask = np.uint64(2 ** half - 1)
    rounds = np.random.SeedSequence(key).generate_state(6, np.uint64)
    x = np.atleast_1d(np.asarray(i)).astype(np.uint64)

    def once(x):
        left, right = x >> np.uint64(half), x & mask
        for k in rounds:
            h = (right + k) * np.uint64(0x9E3779B97F4A7C15)         # products wrap: that mixes the bits
            h = (h ^ (h >> np.uint64(32))) * np.uint64(0xD6E8FEB86659FD93)
            left, right = right, left ^ ((h >> np.uint64(40)) & mask)
        return left << np.uint64(half) | right
    x = once(x)
    while (outside := x >= n).any():
        x[outside] = once(x[outside])
    return x.astype(np.int64)


def batch_at(seen, run):
    """Rows in the step that starts after `seen` rows: run.batch, or BLOOM's ramp up to it (first,
    increment, rows until it is full)."""
    if run.ramp is None or seen > run.ramp[2]:
        return run.batch
    first, increment, until = run.ramp
    per = until / ((run.batch - first) / increment)
    return first + int(seen / per) * increment


def rows_before(step, run):
    """Rows read before `step` (counted from 0). Walks the levels of the ramp, not the steps."""
    seen = 0
    if run.ramp is not None:
        first, increment, until = run.ramp
        per = until / ((run.batch - first) / increment)
        while step and seen <= until:
            batch = batch_at(seen, run)
            end = until + 1 if batch == run.batch else (int(seen / per) + 1) * per
            steps = min(step, max(1, math.ceil((end - seen) / batch)))
            seen, step = seen + steps * batch, step - steps
    return seen + step * run.batch


def steps_in(run, T):
    """Steps until run.tokens tokens have been read."""
    low, high = 0, math.ceil(run.tokens / T / min(run.batch, run.ramp[0] if run.ramp else run.batch)) + 1
    while low < high:
        middle = (low + high) // 2
        low, high = (middle + 1, high) if rows_before(middle, run) * T < run.tokens else (low, middle)
    return low


class Split:
    """One source's token file as windows of T tokens, each with the token after it. The last window is filled
    up with IGNOREd targets."""
    def __init__(self, path, dtype, tokens, T):
        size = os.path.getsize(path) if os.path.exists(path) else 0
        wanted = tokens * np.dtype(dtype).itemsize
        if size != wanted:
            raise ValueError(f"{path} has {size:,} bytes where the manifest says {wanted:,}; "
                             "delete its data folder and prepare it again")
        self.tokens, self.T = np.memmap(path, dtype, "r") if tokens else np.empty(0, dtype), T
        self.windows = math.ceil(max(0, tokens - 1) / T)

    def window(self, w):
        """x, y (T,) int64."""
        row = self.tokens[w * self.T:(w + 1) * self.T + 1].astype(np.int64)
        x, y = np.zeros(self.T, np.int64), np.full(self.T, IGNORE, np.int64)
        x[:len(row) - 1], y[:len(row) - 1] = row[:-1], row[1:]
        return x, y


def shares(manifest, given, splits, folder):
    """(sources,) the share of the rows of each source: data.weights, or the manifest's weights, or by
    size."""
    sources = manifest["sources"]
    for name in given or ():
        if name not in sources:
            raise ValueError(f"data.weights names {name!r}; {folder} has {', '.join(sources)}")
    if given is None and all(source["weight"] is not None for source in sources.values()):
        given = {name: source["weight"] for name, source in sources.items()}
    if given is None:
        given = {name: len(split.tokens) for name, split in zip(sources, splits)}
    weights = [given.get(name, 0) if split.windows else 0 for name, split in zip(sources, splits)]
    weights = np.array(weights, float)
    if not (weights >= 0).all() or not weights.sum() > 0:
        raise ValueError(f"weights {given}: they must not be negative, and one must be above 0")
    return weights / weights.sum()


def quotas(weights):
    """(sources,) rows of each source in a CYCLE, by largest remainder. A source with any weight gets one at
    least."""
    exact = weights * CYCLE
    quota = np.maximum(exact.astype(int), weights > 0)
    for s in np.argsort(quota - exact)[:max(0, CYCLE - quota.sum())]:
        quota[s] += 1
    quota[quota.argmax()] += CYCLE - quota.sum()
    return quota


class Rows:
    """Rows of data/NAME for a Config. `sources` are their names; `weights` their shares of the rows."""
    def __init__(self, cfg):
        self.run, self.T, self.folder = cfg.run, cfg.model.context, f"data/{cfg.data.name}"
        self.manifest = read_manifest(self.folder)
        self.sources = list(self.manifest["sources"])
        self.train, self.val = self.splits("train"), self.splits("val")
        self.val_bytes = [source["val"]["bytes"] for source in self.manifest["sources"].values()]
        total = sum(len(s.tokens) for s in self.train)
        if total < self.T + 1:
            raise ValueError(f"{self.folder} has {total:,} training tokens; a row of model.context={self.T} "
                             f"needs {self.T + 1:,}: add text, or shorten the context")
        self.weights = shares(self.manifest, cfg.data.weights, self.train, self.folder)
        self.quota = quotas(self.weights)
        self.cycles = {}                # the last two cycles that were computed: a step can touch two

    def splits(self, part):
        dtype, sources = self.manifest["dtype"], self.manifest["sources"]
        return [Split(f"{self.folder}/tokens/{name}/{part}.bin", dtype, sources[name][part]["tokens"], self.T)
                for name in self.sources]

    def cycle(self, c):
        """Cycle `c` of the run: the source of each of its CYCLE rows, and how many rows of that source came
        before it in the cycle."""
        if c not in self.cycles:
            sources = np.repeat(np.arange(len(self.quota)), self.quota)
            sources = np.random.default_rng([self.run.seed, c]).permutation(sources)
            nth = np.empty(CYCLE, np.int64)
            nth[np.argsort(sources, kind="stable")] = np.concatenate([np.arange(q) for q in self.quota])
            self.cycles = {k: v for k, v in self.cycles.items() if k == c - 1} | {c: (sources, nth)}
        return self.cycles[c]

    def where(self, rows):
        """Row numbers of the run (array) to their (source, number within the source)."""
        source, number = np.empty((2, len(rows)), np.int64)
        cycle, slot = np.divmod(rows, CYCLE)
        for c in np.unique(cycle).tolist():
            sources, nth = self.cycle(c)
            at = cycle == c
            source[at] = sources[slot[at]]
            number[at] = c * self.quota[source[at]] + nth[slot[at]]
        return source, number

    def windows(self, rows):
        """Row numbers to (source, epoch, window): each window once per epoch of its source, each epoch in a
        new order."""
        source, number = self.where(rows)
        n = np.array([s.windows for s in self.train])[source]
        epoch, window = np.divmod(number, np.maximum(n, 1))
        for s, e in set(zip(source.tolist(), epoch.tolist())):
            at = (source == s) & (epoch == e)
            # 2: another number would be another order
            window[at] = permuted(window[at], self.train[s].windows, (self.run.seed, 2, s, e))
        return source, epoch, window

    def rows(self, step, rank=0, world=1):
        """What process `rank` of `world` reads in `step`, counted from 0: (x, y, which, valid). The log
        counts from 1.

        x, y are two (B, T) int64 arrays; B is the same on each process, and where the rows do not divide, the
        last processes get rows without a target. `which` (rows of the whole step, 3) names them: (source,
        epoch, window). `valid` is the number of targets of the whole step that are scored.
        """
        first, end = rows_before(step, self.run), rows_before(step + 1, self.run)
        which = np.stack(self.windows(np.arange(first, end)))
        source, _, window = which
        B = math.ceil((end - first) / world)
        mine = slice(rank * B, (rank + 1) * B)
        x, y = self.read([(self.train[s], w) for s, w in zip(source[mine], window[mine])], B)
        tokens = np.array([len(s.tokens) for s in self.train])
        return x, y, which.T, int(np.minimum(self.T, tokens[source] - 1 - window * self.T).sum())

    def read(self, windows, B):
        """x, y (B, T) of a list of at most B (split, window); what is missing has no target."""
        x, y = np.zeros((B, self.T), np.int64), np.full((B, self.T), IGNORE, np.int64)
        for i, (split, w) in enumerate(windows):
            x[i], y[i] = split.window(w)
        return x, y

    def seen(self, step):
        """{source: (tokens of its rows before `step`, epochs)}, padding and left-out steps included."""
        full, rest = divmod(rows_before(step, self.run), CYCLE)
        counts = full * self.quota + np.bincount(self.cycle(full)[0][:rest], minlength=len(self.sources))
        epochs = [round(int(n) / max(1, split.windows), 3) for n, split in zip(counts, self.train)]
        return {name: (int(n) * self.T, e) for name, n, e in zip(self.sources, counts, epochs)}


def read_manifest(folder):
    """manifest.json of data folder `folder`."""
    if not os.path.exists(f"{folder}/manifest.json"):
        raise ValueError(f"there is no prepared data in {folder}; make it with "
                         f"python prepare.py --input PATH --name {os.path.basename(folder)}")
    return config.read_json(f"{folder}/manifest.json")


if __name__ == "__main__":
    # not core: it only runs when this file is the command
    from corpus import whence
    config.command(whence.main)
