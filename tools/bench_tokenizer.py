"""Our tokenizer beside Hugging Face's Rust: training, peak memory, compression of text held back, encoding.

    python tools/bench_tokenizer.py --input 'texts/*.jsonl' --megabytes 25 --vocab 32000 --times 3
    python tools/bench_tokenizer.py --input 'texts/*.jsonl' --sweep     # vocabularies, alphas, repeated lines
    python tools/bench_tokenizer.py --input 'texts/*.jsonl' --vocab 250680 --ours      # BLOOM's size

The two take turns. Each training is a process of its own that reads the documents from a file. Its time
includes that; its memory is the highest resident set. Below some 25 MB ours is the slower one.
"""
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
from corpus.pieces import chosen, shares, train_tokenizer

LONG = {"one letter": "a", "two letters": "ab", "Chinese": "中文", "spaces": " ", "full stops": "."}


def hugging_face(texts, vocab):
    import tokenizers as hf
    split = hf.pre_tokenizers.Split(hf.Regex(T.REGEX), "isolated")
    level = hf.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer = hf.Tokenizer(hf.models.BPE())
    tokenizer.pre_tokenizer = hf.pre_tokenizers.Sequence([split, level])
    tokenizer.train_from_iterator(texts, hf.trainers.BpeTrainer(
        vocab_size=vocab, special_tokens=T.SPECIALS, initial_alphabet=level.alphabet(), show_progress=False))
    return tokenizer


def train_here(who, file, vocab, out):
    """In a process of its own: train, save, print seconds and the highest memory (MiB) before saving."""
    start = time.perf_counter()
    with open(file, encoding="utf-8") as f:
        texts = (json.loads(line) for line in f)
        if who == "ours":
            tokenizer = train_tokenizer("bpe", texts, vocab, workers=os.cpu_count())
        else:
            tokenizer = hugging_face(texts, vocab)
    seconds = time.perf_counter() - start
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if who == "ours":
        memory += resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    os.makedirs(out)
    tokenizer.save(out if who == "ours" else f"{out}/tokenizer.json")
    print(json.dumps([seconds, memory / 1024]))


def train_apart(who, args, folder, number):
    command = [sys.executable, os.path.abspath(__file__), "--train", who, f"{folder}/texts", str(args.vocab),
               f"{folder}/{who}{number}"]
    told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return json.loads(told.splitlines()[-1])


def medians(runs):
    return [statistics.median(x) for x in zip(*runs)]


def seconds_of(work):
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def compare(documents, args):
    with tempfile.TemporaryDirectory() as folder:
        some, size = [], 0
        for text, _ in documents:
            if size < args.megabytes * 1e6:
                some.append(text)
                size += len(text.encode())
        with open(f"{folder}/texts", "w", encoding="utf-8") as f:
            f.writelines(json.dumps(text, ensure_ascii=False) + "\n" for text in some)
        runs = collections.defaultdict(list)
        tick = config.progress("rounds of training", args.times)
        for number in range(args.times):
            for who in ["ours"] if args.ours else ["ours", "theirs"]:
                runs[who].append(train_apart(who, args, folder, number))
            tick(1)
        ours = medians(runs["ours"])
        print(f"training {args.vocab:,} entries on {size / 1e6:.1f} MB: {ours[0]:.1f} s, {ours[1]:.0f} MiB")
        if not args.ours:
            theirs = medians(runs["theirs"])
            print(f"beside Hugging Face: {ours[0] / theirs[0]:.2f} times its time, "
                  f"{ours[1] / theirs[1]:.2f} times its memory")
            compare_encoding(some, [text for text, _ in documents[-500:]], size, args.times, folder)


def compare_encoding(some, held, size, times, folder):
    import tokenizers as hf
    mine, other = T.load(f"{folder}/ours0"), hf.Tokenizer.from_file(f"{folder}/theirs0/tokenizer.json")
    entries = config.read_json(f"{folder}/ours0/tokenizer.json")["model"]["vocab"]
    same = "the same" if entries == other.get_vocab() else "not the same"
    own = sum(map(len, mine.encode_batch(held)))
    its = sum(len(e) for e in other.encode_batch_fast(held, add_special_tokens=False))
    print(f"the entries are {same}; text held back: {own:,} tokens and {its:,}")

    def ours():
        return np.fromiter(itertools.chain.from_iterable(mine.encode_batch(some)), np.uint32)

    def theirs():
        return [e.ids for e in other.encode_batch_fast(some, add_special_tokens=False)]
    own, its = medians([(seconds_of(ours), seconds_of(theirs)) for _ in range(times)])
    print(f"encoding, documents to one array: {its / own:.1f} times as fast as encode_batch_fast, "
          f"{size / own / 1e6:.1f} MB/s")
    for name, unit in LONG.items():
        seconds = seconds_of(lambda text=unit * (1_000_000 // len(unit)): mine.encode(text))
        print(f"a word of 1,000,000 characters, {name}: {seconds:.2f} s")


def lines_once(texts):
    """Each text without the lines that stood in an earlier one."""
    seen = set()
    for text in texts:
        kept = []
        for line in text.split("\n"):
            key = dedup.key(line)
            if key not in seen:
                seen.add(key)
                kept.append(line)
        yield "\n".join(kept)


def sweep(documents, args):
    """Bytes per token on text held back: mean of the languages, and the worst; entries never used there."""
    held, sizes = collections.defaultdict(list), collections.Counter()
    rest = [document for i, document in enumerate(documents) if i % 10]
    for text, lang in documents[::10]:
        held[lang].append(text)
    for text, lang in rest:
        sizes[lang] += len(text.encode())
    print(f"{len(held)} languages; bytes per token on text held back")
    print("kind           entries  alpha  lines once   mean     worst  largest  by bytes  never used")
    ways = {"bpe": [(0.3, False), (0.7, False), (1.0, False), (1.0, True)], "sentencepiece": [(1.0, False)]}
    for kind, vocab in itertools.product(ways, args.vocabs):
        for alpha, once in ways[kind]:
            share = shares(sizes, args.megabytes * 1e6, alpha)
            texts = (text for i, (text, lang) in enumerate(rest) if chosen(i, share[lang]))
            try:
                tokenizer = train_tokenizer(kind, lines_once(texts) if once else texts, vocab)
            except ValueError as e:         # fewer entries than there are characters
                print(f"{kind:13} {vocab:8,}  {e}")
                continue
            print(f"{kind:13} {vocab:8,}  {alpha:5}  {once!s:10}" + row(tokenizer, held, sizes), flush=True)


def row(tokenizer, held, sizes):
    each, used = {}, set()
    bytes_and_tokens = np.zeros(2)
    for lang, texts in held.items():
        batch = tokenizer.encode_batch(texts)
        n = np.array([sum(len(text.encode()) for text in texts), sum(map(len, batch))])
        each[lang] = n[0] / n[1]
        bytes_and_tokens += n
        used.update(*batch)
    worst, largest = min(each, key=each.get), max(sizes, key=sizes.get)
    return (f"  {statistics.mean(each.values()):5.3f}  {worst:>3} {each[worst]:.2f}  {largest:>3} "
            f"{each[largest]:.2f}  {bytes_and_tokens[0] / bytes_and_tokens[1]:8.3f}  "
            f"{tokenizer.vocab - len(used):10,}")


def main():
    if sys.argv[1:2] == ["--train"]:
        who, file, vocab, out = sys.argv[2:]
        return train_here(who, file, int(vocab), out)
    parser = config.Parser(__doc__)
    parser.add_argument("--input", nargs="+", required=True, metavar="PATH",
                        help="text in several languages; records with a field lang")
    parser.add_argument("--megabytes", type=float, default=25)
    parser.add_argument("--vocab", type=int, default=32_000)
    parser.add_argument("--vocabs", type=int, nargs="+", default=[4096, 16384, 65536], help="of --sweep")
    parser.add_argument("--times", type=int, default=3)
    parser.add_argument("--ours", action="store_true", help="leave Hugging Face out")
    parser.add_argument("--sweep", action="store_true")
    args = parser.parse_args()
    found = sources.read_documents(recipe.Source("input", args.input))
    documents = [(d["text"], d.get("lang") or "unknown") for d in found if d.get("text", "").strip()]
    random.Random(0).shuffle(documents)
    if args.sweep:
        return sweep(documents, args)
    compare(documents, args)


if __name__ == "__main__":
    config.command(main)
