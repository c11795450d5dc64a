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

PROGRAM = os.path.abspath(__file__)
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
    os.makedirs(out, exist_ok=True)
    tokenizer.save(out if who == "ours" else f"{out}/tokenizer.json")
    print(json.dumps([seconds, memory / 1024]))


def train_apart(who, file, vocab, out):
    command = [sys.executable, PROGRAM, "--train", who, file, str(vocab), out]
    told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return json.loads(told.splitlines()[-1])


def write_texts(texts, file):
    with open(file, "w", encoding="utf-8") as f:
        f.writelines(json.dumps(text, ensure_ascii=False) + "\n" for text in texts)


def first(documents, megabytes):
    """The texts of the first documents, about so many megabytes."""
    size, found = 0, []
    for text, _ in documents:
        if size > megabytes * 1e6:
            break
        found.append(text)
        size += len(text.encode())
    return found


def median(runs):
    return [statistics.median(x) for x in zip(*runs)]


def seconds_of(work):
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def compare_training(some, less, args, folder):
    """Train in turns; returns the bytes of text."""
    write_texts(some, f"{folder}/some")
    write_texts(less, f"{folder}/less")
    small = min(args.vocab, 8000)
    runs = collections.defaultdict(list)
    tick = config.progress("rounds of training", args.times)
    for _ in range(args.times):
        runs["ours"].append(train_apart("ours", f"{folder}/some", args.vocab, f"{folder}/ours"))
        if not args.ours:
            runs["theirs"].append(train_apart("theirs", f"{folder}/some", args.vocab, f"{folder}/theirs"))
        runs["less"].append(train_apart("ours", f"{folder}/less", small, f"{folder}/less.out"))
        runs["more"].append(train_apart("ours", f"{folder}/some", small, f"{folder}/more.out"))
        tick(1)
    size = sum(len(text.encode()) for text in some)
    ours, less, more = (median(runs[name]) for name in ("ours", "less", "more"))
    print(f"training {args.vocab:,} entries on {size / 1e6:.1f} MB: {ours[0]:.1f} s, {ours[1]:.0f} MiB")
    print(f"ten times the text: {more[0] / less[0]:.1f} times the time, "
          f"{more[1] / less[1]:.1f} times the memory")
    if not args.ours:
        theirs = median(runs["theirs"])
        print(f"beside Hugging Face: {ours[0] / theirs[0]:.2f} times its time, "
              f"{ours[1] / theirs[1]:.2f} times its memory")
    return size


def compare_encoding(some, held, size, times, folder):
    import tokenizers as hf
    mine, other = T.load(f"{folder}/ours"), hf.Tokenizer.from_file(f"{folder}/theirs/tokenizer.json")
    entries = config.read_json(f"{folder}/ours/tokenizer.json")["model"]["vocab"]
    same = "the same" if entries == other.get_vocab() else "not the same"
    own = sum(map(len, mine.encode_batch(held)))
    its = sum(len(e) for e in other.encode_batch_fast(held, add_special_tokens=False))
    print(f"the entries are {same}; text held back: {own:,} tokens and {its:,}")

    def ours():
        return np.fromiter(itertools.chain.from_iterable(mine.encode_batch(some)), np.uint32)

    def theirs():
        return [e.ids for e in other.encode_batch_fast(some, add_special_tokens=False)]
    runs = [(seconds_of(ours), seconds_of(theirs)) for _ in range(times)]
    own, its = median(runs)
    print(f"encoding, documents to one array: {its / own:.1f} times as fast as encode_batch_fast, "
          f"{size / own / 1e6:.1f} MB/s")
    letters = "".join(random.Random(0).choices("abcdefghijklmnopqrstuvwxyz", k=1_000_000))
    words = {name: unit * (1_000_000 // len(unit)) for name, unit in LONG.items()}
    words["random letters"] = letters
    for name, word in words.items():
        short, long = (seconds_of(lambda text=text: mine.encode(text)) for text in (word[:100_000], word))
        print(f"a word of 1,000,000 characters, {name}: {long:.2f} s, {long / short:.0f} times a tenth of it")


def compare(documents, args):
    with tempfile.TemporaryDirectory() as folder:
        some = first(documents, args.megabytes)
        size = compare_training(some, first(documents, args.megabytes / 10), args, folder)
        if not args.ours:
            compare_encoding(some, [text for text, _ in documents[-500:]], size, args.times, folder)


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
    for text, lang in documents[::10]:
        held[lang].append(text)
    rest = [document for i, document in enumerate(documents) if i % 10]
    for text, lang in rest:
        sizes[lang] += len(text.encode())
    of_each = ", ".join(f"{lang} {n / 1e6:.1f}" for lang, n in sizes.most_common())
    print(f"{len(held)} languages; megabytes by language: {of_each}")
    print("kind           entries  alpha  repeated lines  bytes/token, mean of languages   worst     "
          "   largest      by bytes  never used")
    ways = {"bpe": [(0.3, False), (0.7, False), (1.0, False), (1.0, True)], "sentencepiece": [(1.0, False)]}
    for kind, vocab in itertools.product(args.kinds, args.vocabs):
        for alpha, once in ways[kind]:
            share = shares(sizes, args.megabytes * 1e6, alpha)
            texts = (text for i, (text, lang) in enumerate(rest) if chosen(i, share[lang]))
            try:
                tokenizer = train_tokenizer(kind, lines_once(texts) if once else texts, vocab)
            except ValueError as e:         # fewer entries than there are characters
                print(f"{kind:13} {vocab:8,}  {e}")
                continue
            way = f"{alpha:5}  {'taken out' if once else 'kept':14}"
            report_sweep(tokenizer, held, max(sizes, key=sizes.get), way)


def report_sweep(tokenizer, held, largest, way):
    each, used = {}, set()
    all_bytes = all_tokens = 0
    for lang, texts in held.items():
        batch = tokenizer.encode_batch(texts)
        size, tokens = sum(len(text.encode()) for text in texts), sum(map(len, batch))
        each[lang] = size / max(1, tokens)
        all_bytes += size
        all_tokens += tokens
        used.update(*batch)
    worst = min(each, key=each.get)
    mean = statistics.mean(each.values())
    print(f"{tokenizer.kind:13} {tokenizer.vocab:8,}  {way}  {mean:31.3f}   {worst} {each[worst]:.2f}  "
          f"{largest:>6} {each[largest]:.2f}  {all_bytes / all_tokens:12.3f}  "
          f"{tokenizer.vocab - len(used):10,}", flush=True)


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
    parser.add_argument("--kinds", nargs="+", choices=T.KINDS, default=list(T.KINDS), help="of --sweep")
    parser.add_argument("--times", type=int, default=3)
    parser.add_argument("--ours", action="store_true", help="leave Hugging Face out")
    parser.add_argument("--sweep", action="store_true")
    args = parser.parse_args()
    found = sources.read_documents(recipe.Source("input", args.input))
    documents = [(d["text"], d.get("lang") or "unknown") for d in found if d.get("text", "").strip()]
    random.Random(0).shuffle(documents)
    if args.sweep:
        return sweep(documents, args)
    print(f"{args.times} rounds of training; each takes some seconds to minutes", flush=True)
    compare(documents, args)


if __name__ == "__main__":
    config.command(main)
