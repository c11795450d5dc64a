"""Speed of the stages of prepare.py on one core beside the tokenizer's; near duplicates beside datasketch's.

    python tools/bench_corpus.py                  # sample stories and the standard library; two minutes
    python tools/bench_corpus.py --input 'texts/*.jsonl' --clean oscar --times 5
    python tools/bench_corpus.py --planted        # how many planted near duplicates are found; half a minute

Prints medians of interleaved repeats. Compare the ratios: MB/s depends on the machine and what runs beside.
"""
import itertools
import os
import random
import statistics
import sys
import time

import numpy as np

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, ROOT)
import config  # noqa: E402
from corpus import clean, dedup, pieces, recipe, sources  # noqa: E402

ALIKE = 0.7


def texts(args):
    """(text, language) of the input, or of the sources of configs/data/sample.py, until there are enough."""
    if args.input:
        found = [recipe.Source("input", args.input)]
    else:
        found = config.load(f"{ROOT}/configs/data/sample.py").sources
    size = 0
    for document in itertools.chain.from_iterable(map(sources.read_documents, found)):
        if document.get("text", "").strip():
            size += len(document["text"])
            yield document["text"], document.get("lang")
        if size > args.megabytes * 1e6:
            return


def theirs(found):
    """Near duplicates as datasketch finds them, from the same shingles."""
    import datasketch
    index, drop = datasketch.MinHashLSH(threshold=ALIKE, num_perm=dedup.HASHES), []
    for i, text in enumerate(found):
        signature = datasketch.MinHash(dedup.HASHES)
        signature.update_batch([shingle.tobytes() for shingle in dedup.shingles(text)])
        drop.append(bool(index.query(signature)))
        index.insert(i, signature)
    return drop


def ours(found, alike=ALIKE):
    signatures = [dedup.signature(dedup.shingles(text)) for text in found]
    return dedup.near(np.stack(signatures), alike).tolist()


def exchanged(text, share, known, draw):
    """The text with a share of its words exchanged for others."""
    words = text.split(" ")
    return " ".join(draw.choice(known) if draw.random() < share else word for word in words)


def similarity(a, b):
    a, b = set(dedup.shingles(a).tolist()), set(dedup.shingles(b).tolist())
    return len(a & b) / len(a | b)


def planted(found):
    """Give every third document a copy with some words exchanged. Print how many copies are found, and how
    many the S-curve says."""
    alike_already = ours(found, 0.6)            # such documents would blur the counts
    found = [t for t, again in zip(found, alike_already) if not again and len(t.split()) > 50]
    known = [word for text in found for word in text.split()]
    print(f"{len(found):,} documents, {len(found[::3]):,} of them with an edited copy")
    print("words exchanged  mean similarity  alike   recall  as the S-curve says  precision")
    for share in (0.05, 0.1, 0.3):
        draw = random.Random(share)
        copies = [exchanged(text, share, known, draw) for text in found[::3]]
        similar = [similarity(text, copy) for text, copy in zip(found[::3], copies)]
        for alike in (0.6, 0.7, 0.8):
            drop = ours(found + copies, alike)
            right, wrong = sum(drop[len(found):]), sum(drop[:len(found)])
            expected = np.mean([dedup.found_with(j, alike) for j in similar])
            precision = f"{right / (right + wrong):.1%}" if right + wrong else "none"
            print(f"{share:15.0%}  {statistics.mean(similar):15.2f}  {alike:5}  {right / len(copies):7.1%}  "
                  f"{expected:19.1%}  {precision:>9}")


def timed_stages(args, found, rows):
    """{name: function without arguments} of what is timed."""
    tokenizer = pieces.train_tokenizer("bpe", found, args.vocab)
    rules = [name for name in clean.rules(args.clean) if name in clean.RULES and name != "reference"]
    stages = {"tokenizer": lambda: [tokenizer.encode(t) for t in found],
              "exact": lambda: [dedup.key(t) for t in found],
              "lines (ccnet)": lambda: [dedup.lines(t, 0, True) for t in found]}
    for name in rules:
        stages[f"rule {name}"] = lambda rule=clean.RULES[name]: [rule(t, row) for t, row in zip(found, rows)]
    together = f"all of {' '.join(args.clean)}"
    stages[together] = lambda: [clean.run(t, rules, row) for t, row in zip(found, rows)]
    stages["near (minhash)"] = lambda: ours(found)
    stages["near (overlap)"] = lambda: dedup.overlapping([dedup.sampled(dedup.shingles(t)) for t in found])
    if args.input:
        stages["read"] = lambda: sum(1 for _ in texts(args))
    return stages


def medians(stages, times):
    """{name: seconds}. The stages are repeated in turn: a busy moment of the machine meets all of them."""
    seconds = {name: [] for name in stages}
    for _, (name, stage) in itertools.product(range(times), stages.items()):
        start = time.perf_counter()
        stage()
        seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(s) for name, s in seconds.items()}


def main():
    ap = config.Parser(__doc__)
    ap.add_argument("--input", nargs="+", metavar="PATH")
    ap.add_argument("--clean", nargs="+", default=["oscar"], help="recipes to time (default: oscar)")
    ap.add_argument("--megabytes", type=config.number(0.1, 1e4, float), default=4, help="of text (4)")
    ap.add_argument("--vocab", type=config.number(300, 1e6), default=4096, help="of the tokenizer (4096)")
    ap.add_argument("--times", type=config.number(1, 1000), default=3, help="repeats (default: 3)")
    ap.add_argument("--planted", action="store_true", help="instead: recall and precision on planted copies")
    args = ap.parse_args()
    documents = list(texts(args))
    found = [text for text, _ in documents]
    if args.planted:
        planted(found)
        return
    characters = sum(map(len, found))
    print(f"{len(found):,} documents, {characters / 1e6:.1f} M characters, {args.times} times", flush=True)
    stages = timed_stages(args, found, [clean.Row(lang) for _, lang in documents])
    few = found[::8]
    try:
        agree = sum(a == b for a, b in zip(ours(few), theirs(few))) / len(few)
        stages |= {"ours, an eighth": lambda: ours(few), "datasketch, an eighth": lambda: theirs(few)}
    except ImportError:
        print("pip install datasketch to compare with it")
    middle, size = medians(stages, args.times), sum(len(t.encode()) for t in found)
    print(f"{'stage':28} MB/s per core   times the tokenizer's speed")
    for name, seconds in middle.items():
        if "eighth" not in name:
            print(f"{name:28} {size / seconds / 1e6:13.1f}   {middle['tokenizer'] / seconds:.2f}")
    if "datasketch, an eighth" in middle:
        faster = middle["datasketch, an eighth"] / middle["ours, an eighth"]
        print(f"near duplicates: {faster:.1f} times as fast as datasketch's MinHashLSH on the same "
              f"{len(few):,} documents; the same verdict on {agree:.1%} of them")


if __name__ == "__main__":
    config.command(main)
