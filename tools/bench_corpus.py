"""Speed of the stages of prepare.py on one core, beside the tokenizer; and of near duplicates beside datasketch's MinHashLSH, in one run.

    python tools/bench_corpus.py                                # text drawn from the sample grammars and the standard library
    python tools/bench_corpus.py --input 'texts/*.jsonl' --clean oscar --times 5
    python tools/bench_corpus.py --planted                      # near duplicates with 5%, 10% and 30% of the words exchanged: how many are found

Prints medians of interleaved repeats. The ratios are what to compare: MB/s depends on the machine and on what else runs on it.
"""
import argparse
import itertools
import os
import statistics
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
import config
import tokenizer as tokenizers
from corpus import clean, dedup, models, recipe, sources


def texts(args):
    if args.input:
        found = (d for d in sources.read(recipe.Source("input", args.input)) if "text" in d)
    else:
        corpus = config.load(os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "configs/data/sample.py"))
        found = itertools.chain.from_iterable(sources.read(s) for s in corpus.sources)
    size = 0
    for d in found:
        if "text" in d and d["text"].strip():
            size += len(d["text"])
            yield d["text"], d.get("lang")
        if size > args.megabytes * 1e6:
            return


def theirs(found, alike):
    """Near duplicates as datasketch finds them, from the same shingles."""
    import datasketch
    index, drop = datasketch.MinHashLSH(threshold=alike, num_perm=dedup.HASHES), []
    for i, t in enumerate(found):
        m = datasketch.MinHash(dedup.HASHES)
        m.update_batch([s.tobytes() for s in dedup.shingles(t)])
        drop.append(bool(index.query(m)))
        index.insert(i, m)
    return drop


def ours(found, alike):
    import numpy as np
    return dedup.near(np.stack([dedup.signature(dedup.shingles(t)) for t in found]), alike).tolist()


def planted(found):
    """A third of the documents gets a copy with a share of its words exchanged for others of the same text. Prints what is found, and the S-curve's word for it."""
    import random

    import numpy as np
    found = [t for t, again in zip(found, ours(found, 0.6)) if not again and len(t.split()) > 50]         # what is alike already would blur the counts
    known = [w for t in found for w in t.split()]
    print(f"{len(found):,} documents, {len(found) // 3:,} of them with an edited copy\nwords exchanged  mean similarity  alike   recall  as the S-curve says  precision")
    for share in (0.05, 0.1, 0.3):
        draw = random.Random(share)
        copies = [" ".join(draw.choice(known) if draw.random() < share else w for w in t.split(" ")) for t in found[::3]]
        pairs = [[set(dedup.shingles(x).tolist()) for x in pair] for pair in zip(found[::3], copies)]
        similar = [len(a & b) / len(a | b) for a, b in pairs]
        for alike in (0.6, 0.7, 0.8):
            drop = ours(found + copies, alike)
            right, wrong = sum(drop[len(found):]), sum(drop[:len(found)])
            print(f"{share:15.0%}  {statistics.mean(similar):15.2f}  {alike:5}  {right / len(copies):7.1%}  {np.mean([dedup.found_with(j, alike) for j in similar]):19.1%}  "
                  f"{f'{right / (right + wrong):.1%}' if right + wrong else 'none':>9}")


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--input", nargs="+", metavar="PATH")
    ap.add_argument("--clean", nargs="+", default=["oscar"], help="recipes to time, rule by rule (default: oscar)")
    ap.add_argument("--megabytes", type=float, default=4)
    ap.add_argument("--times", type=int, default=3)
    ap.add_argument("--planted", action="store_true", help="instead: recall and precision on planted near duplicates")
    args = ap.parse_args()
    documents = list(texts(args))
    if args.planted:
        return planted([t for t, _ in documents])
    found, size = [t for t, _ in documents], sum(len(t.encode()) for t, _ in documents)
    tokenizer = tokenizers.train("bpe", found[:2000], 4096)
    rows = [clean.Row(lang) for _, lang in documents]
    models.language("warm up"), models.perplexity("warm up", "en")
    rules = [n for n in clean.rules(args.clean) if n in clean.RULES and n != "reference"]
    stages = {"tokenizer": lambda: [tokenizer.encode(t) for t in found],
              "exact": lambda: [dedup.key(t) for t in found], "lines (ccnet)": lambda: [dedup.lines(t, 0, True) for t in found],
              **{f"rule {n}": lambda n=n: [clean.RULES[n](t, r) for t, r in zip(found, rows)] for n in rules},
              f"all of {' '.join(args.clean)}": lambda: [clean.run(t, rules, r) for t, r in zip(found, rows)],
              "near (minhash)": lambda: ours(found, 0.7), "near (overlap)": lambda: dedup.overlapping([dedup.sampled(dedup.shingles(t)) for t in found])}
    if args.input:
        stages["read"] = lambda: sum(1 for _ in texts(args))
    few = found[::8]
    try:
        agree = sum(a == b for a, b in zip(ours(few, 0.7), theirs(few, 0.7))) / len(few)
        stages |= {"ours, an eighth": lambda: ours(few, 0.7), "datasketch, an eighth": lambda: theirs(few, 0.7)}
    except ImportError:
        print("pip install datasketch to compare with it")
    seconds = {name: [] for name in stages}
    for _, (name, stage) in itertools.product(range(args.times), stages.items()):
        start = time.perf_counter()
        stage()
        seconds[name].append(time.perf_counter() - start)
    middle = {name: statistics.median(s) for name, s in seconds.items()}
    print(f"{len(found):,} documents, {size / 1e6:.1f} MB\n{'stage':28} MB/s per core   times the tokenizer's speed")
    for name, s in middle.items():
        if "eighth" not in name:
            print(f"{name:28} {size / s / 1e6:13.1f}   {middle['tokenizer'] / s:.2f}")
    if "datasketch, an eighth" in middle:
        print(f"near duplicates: {middle['datasketch, an eighth'] / middle['ours, an eighth']:.1f} times as fast as datasketch's MinHashLSH on the same {len(few):,} documents; "
              f"the same verdict on {agree:.1%} of them")


if __name__ == "__main__":
    main()
