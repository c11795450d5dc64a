"""Our tokenizer beside Hugging Face's Rust, in one interleaved run: training, peak memory, compression of text held back, encoding.

    python tools/bench_tokenizer.py --input 'texts/*.jsonl' --megabytes 25 --vocab 32000 --times 3
    python tools/bench_tokenizer.py --input 'texts/*.jsonl' --sweep              # vocabulary sizes, exponents, deduplication, both kinds
    python tools/bench_tokenizer.py --input 'texts/*.jsonl' --vocab 250680 --ours          # BLOOM's size, ours alone

Each training runs in a process of its own with the documents in a file; its time includes reading that file, its memory is the highest resident set.
"""
import argparse
import collections
import itertools
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
import numpy as np

import config
import tokenizer as T
from corpus import dedup, recipe, sources


def hugging_face(texts, vocab):
    import tokenizers as hf
    t = hf.Tokenizer(hf.models.BPE())
    split = hf.pre_tokenizers.Split(hf.Regex(T.REGEX), "isolated")
    t.pre_tokenizer = hf.pre_tokenizers.Sequence([split, hf.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    t.train_from_iterator(texts, hf.trainers.BpeTrainer(vocab_size=vocab, special_tokens=T.SPECIALS, initial_alphabet=hf.pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    return t


def train_here(who, file, vocab, out):
    """In a process of its own: train, save, print seconds and the highest memory (MiB) before saving."""
    start = time.perf_counter()
    with open(file, encoding="utf-8") as f:
        texts = (json.loads(line) for line in f)
        if who == "ours":
            t = T.train("bpe", texts, vocab, workers=os.cpu_count())
        else:
            t = hugging_face(texts, vocab)
    seconds = time.perf_counter() - start
    memory = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss + resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * (who == "ours")) / 1024
    os.makedirs(out, exist_ok=True)
    t.save(out if who == "ours" else f"{out}/tokenizer.json")
    print(json.dumps([seconds, memory]))


def train(who, file, vocab, out):
    return json.loads(subprocess.run([sys.executable, __file__, "--train", who, file, str(vocab), out], check=True, capture_output=True, text=True).stdout.splitlines()[-1])


def write(texts, file):
    with open(file, "w", encoding="utf-8") as f:
        f.writelines(json.dumps(t, ensure_ascii=False) + "\n" for t in texts)


def part(documents, megabytes):
    size, found = 0, []
    for t, _ in documents:
        if size > megabytes * 1e6:
            break
        found.append(t)
        size += len(t.encode())
    return found


def median(runs):
    return [statistics.median(x) for x in zip(*runs)]


def compare(documents, args, folder):
    some, less, held = part(documents, args.megabytes), part(documents, args.megabytes / 10), [t for t, _ in documents[-500:]]
    write(some, f"{folder}/some"), write(less, f"{folder}/less")
    runs = collections.defaultdict(list)
    for _ in range(args.times):
        for who in ["ours"] + ["theirs"] * (not args.ours):
            runs[who].append(train(who, f"{folder}/some", args.vocab, f"{folder}/{who}"))
        runs["less"].append(train("ours", f"{folder}/less", min(args.vocab, 8000), f"{folder}/less.out"))
        runs["more"].append(train("ours", f"{folder}/some", min(args.vocab, 8000), f"{folder}/more.out"))
    size, ours = sum(len(t.encode()) for t in some), median(runs["ours"])
    print(f"training {args.vocab:,} entries on {size / 1e6:.1f} MB: {ours[0]:.1f} s, {ours[1]:.0f} MiB")
    print(f"ten times the text: {median(runs['more'])[0] / median(runs['less'])[0]:.1f} times the time, {median(runs['more'])[1] / median(runs['less'])[1]:.1f} times the memory")
    if args.ours:
        return
    theirs = median(runs["theirs"])
    print(f"beside Hugging Face: {ours[0] / theirs[0]:.2f} times its time, {ours[1] / theirs[1]:.2f} times its memory")
    import tokenizers as hf
    mine, other = T.load(f"{folder}/ours"), hf.Tokenizer.from_file(f"{folder}/theirs/tokenizer.json")
    same = config.read_json(f"{folder}/ours/tokenizer.json")["model"]["vocab"] == other.get_vocab()
    counts = sum(map(len, mine.encode_batch(held))), sum(len(e) for e in other.encode_batch_fast(held, add_special_tokens=False))
    print(f"the entries are {'the same' if same else 'not the same'}; text held back: {counts[0]:,} tokens and {counts[1]:,}")
    seconds = collections.defaultdict(list)
    for _ in range(args.times):
        for name, encode in ("ours", lambda: np.fromiter(itertools.chain.from_iterable(mine.encode_batch(some)), np.uint32)), ("theirs", lambda: [e.ids for e in other.encode_batch_fast(some, add_special_tokens=False)]):
            start = time.perf_counter()
            encode()
            seconds[name].append(time.perf_counter() - start)
    mine_s, other_s = (statistics.median(seconds[k]) for k in ("ours", "theirs"))
    print(f"encoding, documents to one array: {other_s / mine_s:.1f} times as fast as encode_batch_fast, {size / mine_s / 1e6:.1f} MB/s")
    for name, unit in ("one letter", "a"), ("two letters", "ab"), ("Chinese", "中文"), ("spaces", " "), ("full stops", "."), ("random letters", None):
        long = unit * (1_000_000 // len(unit)) if unit else "".join(random.Random(0).choices("abcdefghijklmnopqrstuvwxyz", k=1_000_000))
        times = []
        for text in (long[:100_000], long):
            start = time.perf_counter()
            mine.encode(text)
            times.append(time.perf_counter() - start)
        print(f"a word of 1,000,000 characters, {name}: {times[1]:.2f} s, {times[1] / times[0]:.0f} times one of 100,000")


def sweep(documents, args):
    """Bytes per token on text held back, the mean of the languages and the worst; and entries that no held-back text uses."""
    held = collections.defaultdict(list)
    for t, lang in documents[::10]:
        held[lang].append(t)
    rest = [d for i, d in enumerate(documents) if i % 10]
    seen, sizes = set(), collections.Counter()
    for t, lang in rest:
        sizes[lang] += len(t.encode())

    def lines(t):                               # each line once in the whole text
        kept = []
        for line in t.split("\n"):
            if (k := dedup.key(line)) not in seen:
                seen.add(k)
                kept.append(line)
        return "\n".join(kept)
    print(f"{len(held)} languages; megabytes by language: " + ", ".join(f"{k} {n / 1e6:.1f}" for k, n in sizes.most_common()))
    print("kind           entries  alpha  repeated lines  bytes/token, mean of languages   worst        largest      by bytes  never used")
    for kind in args.kinds:
        for vocab in args.vocabs:
            for alpha, once in [(a, False) for a in ((0.3, 0.7, 1.0) if kind == "bpe" else (1.0,))] + [(1.0, True)] * (kind == "bpe"):
                share = T.keep(sizes, args.megabytes * 1e6, alpha)
                seen.clear()
                chosen = ((lines(t) if once else t) for i, (t, lang) in enumerate(rest) if T.chosen(i, share[lang]))
                try:
                    tokenizer = T.train(kind, chosen, vocab)
                except ValueError as e:         # fewer entries than there are characters
                    print(f"{kind:13} {vocab:8,}  {e}")
                    continue
                counts = {lang: (sum(len(t.encode()) for t in texts), tokenizer.encode_batch(texts)) for lang, texts in held.items()}
                each = {lang: n / max(1, sum(map(len, ids))) for lang, (n, ids) in counts.items()}
                used = {i for _, ids in counts.values() for one in ids for i in one}
                worst, largest = min(each, key=each.get), max(sizes, key=sizes.get)
                print(f"{kind:13} {vocab:8,}  {alpha:5}  {'taken out' if once else 'kept':14}  {statistics.mean(each.values()):31.3f}   {worst} {each[worst]:.2f}  {largest:>6} {each[largest]:.2f}  "
                      f"{sum(n for n, _ in counts.values()) / sum(len(i) for _, ids in counts.values() for i in ids):12.3f}  {tokenizer.vocab - len(used):10,}", flush=True)


def main():
    if sys.argv[1:2] == ["--train"]:
        return train_here(sys.argv[2], sys.argv[3], int(sys.argv[4]), sys.argv[5])
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--input", nargs="+", required=True, metavar="PATH", help="text in several languages; records with a field lang")
    ap.add_argument("--megabytes", type=float, default=25)
    ap.add_argument("--vocab", type=int, default=32_000)
    ap.add_argument("--vocabs", type=int, nargs="+", default=[4096, 16384, 65536], help="of --sweep")
    ap.add_argument("--kinds", nargs="+", choices=T.KINDS, default=list(T.KINDS), help="of --sweep")
    ap.add_argument("--times", type=int, default=3)
    ap.add_argument("--ours", action="store_true", help="leave Hugging Face out")
    ap.add_argument("--sweep", action="store_true")
    args = ap.parse_args()
    documents = [(d["text"], d.get("lang") or "unknown") for d in sources.read(recipe.Source("input", args.input)) if d.get("text", "").strip()]
    random.Random(0).shuffle(documents)
    if args.sweep:
        return sweep(documents, args)
    with tempfile.TemporaryDirectory() as folder:
        compare(documents, args, folder)


if __name__ == "__main__":
    main()
