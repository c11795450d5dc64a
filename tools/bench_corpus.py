"""Speed of the stages of prepare.py on one core beside the tokenizer's; near duplicates beside datasketch's.

    python tools/bench_corpus.py                  # sample stories and the standard library; two minutes
    python tools/bench_corpus.py --input 'texts/*.jsonl' --clean oscar --times 5
    python tools/bench_corpus.py --planted        # how many planted near duplicates are found; half a minute
    python tools/bench_corpus.py --languages --input texts/     # how often the language is found
    python tools/bench_corpus.py --input texts/ --out data/rates.json       # speeds for plan.py corpus
    python tools/bench_corpus.py --lines 1e8      # memory and time of looking for so many lines; a minute

Prints medians of interleaved repeats. Compare the ratios: MB/s depends on the machine and what runs beside.
"""
import collections
import contextlib
import functools
import io
import itertools
import json
import os
import platform
import random
import re
import resource
import statistics
import sys
import tempfile
import time
from unittest import mock

import numpy as np

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, ROOT)
import config  # noqa: E402
import prepare  # noqa: E402
from corpus import (  # noqa: E402
    across,
    clean,
    dedup,
    jobs,
    models,
    pieces,
    recipe,
    sources,
    stages,
)
from corpus.text import mixed  # noqa: E402

ALIKE = 0.7
SENTENCE = r"(?<=[.!?।。！？])\s+|\n+"       # ends of sentences
DOCUMENT = 500                              # characters of a document made of sentences


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


# ---- languages ----

def sentences_by_language(source):
    """{language: sentences}. The language is that of the record, or the name of its folder or file."""
    found = collections.defaultdict(list)
    for document in sources.read_documents(source):
        folder, _, name = re.sub(r"[#:].*", "", document["id"]).rpartition("/")
        names = [document.get("lang") or "", os.path.basename(folder), name.partition(".")[0]]
        langs = [n for n in names if re.fullmatch(r"[a-z]{2,3}(-\w+)?", n)]
        if langs and "dropped" not in document:
            sentences = map(str.strip, re.split(SENTENCE, document["text"]))
            found[langs[0].split("-")[0]] += [s for s in sentences if sum(map(str.isalpha, s)) >= 8]
    return found


def documents_of(sentences):
    """Texts of DOCUMENT characters or a bit more."""
    text = ""
    for sentence in sentences:
        text = f"{text} {sentence}".strip()
        if len(text) >= DOCUMENT:
            yield text
            text = ""


def answers(texts):
    return [models.language(text) for text in texts]


def judge_languages(args):
    """Print how often the identifier is right of 1,000 drawn sentences and 400 documents of each language,
    and of how many documents it is so sure that the rule `language` keeps them."""
    found = sentences_by_language(recipe.Source("input", args.input))
    print("language  sentences    right  documents    right     kept  taken for")
    for lang, sentences in sorted(found.items()):
        draw, documents = random.Random(lang), list(documents_of(sentences))
        sentences = draw.sample(sentences, min(1000, len(sentences)))
        documents = draw.sample(documents, min(400, len(documents)))
        short, whole, row = *map(answers, (sentences, documents)), clean.Row(lang)
        kept = [answer == lang and score >= row.language for answer, score in whole]
        right = [[answer == lang for answer, _ in each] for each in (short, whole)]
        wrong = collections.Counter(answer for answer, _ in short + whole if answer != lang)
        shares = [f"{sum(each) / max(1, len(each)):7.1%}" for each in (*right, kept)]
        print(f"{lang:8}  {len(short):9}  {shares[0]}  {len(whole):9}  {shares[1]}  {shares[2]}  "
              f"{' '.join(answer for answer, _ in wrong.most_common(2))}", flush=True)


# ---- rates of prepare.py's stages ----

RECIPES = {"prose": ("pii", "oscar", "catalogue", "pseudo_crawl", "ccnet", "c4"),
           "code": ("roots_code", "llama_code")}


def cpu_seconds():
    """Of this process and of its children that have ended."""
    return sum(os.times()[:4])


def stage_seconds(source, tokenizer):
    """{stage: CPU seconds} of prepare.py for a source. What is in no other stage counts as write."""
    seconds, run_parts = collections.Counter(), stages.Plan.run_parts

    def timed(stage, function, *given):
        start = cpu_seconds()
        result = function(*given)
        seconds[stage] += cpu_seconds() - start
        return result

    def timed_parts(plan, stage, *rest):
        return timed(stage, run_parts, plan, stage, *rest)

    corpus = recipe.Corpus("rates", [source], recipe.Tokenizer(path=tokenizer))
    with (mock.patch.object(stages.Plan, "run_parts", timed_parts),
          mock.patch.object(across, "repeats", functools.partial(timed, "repeats", across.repeats)),
          mock.patch.object(across, "near", functools.partial(timed, "near", across.near)),
          contextlib.redirect_stdout(io.StringIO()),
          tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder)):
        start = cpu_seconds()
        prepare.prepare(corpus, workers=1)
        seconds["write"] += cpu_seconds() - start - seconds.total()
    return seconds


def rate_sources(args, folder):
    """({name: Source} of what is timed, texts). Prose is drawn from the input; code: the standard library."""
    found = sources.read_documents(recipe.Source("input", args.input))
    documents = [document for document in found if document.get("text", "").strip()]
    random.Random(0).shuffle(documents)
    texts, size = [], 0
    with open(f"{folder}/prose.jsonl", "w", encoding="utf-8") as f:
        for document in documents:
            if size > args.megabytes * 1e6:
                break
            f.write(json.dumps(document, ensure_ascii=False) + "\n")
            texts.append(document["text"])
            size += len(document["text"].encode())
    kinds = {"prose": {"path": f.name}, "code": {"path": f"{os.path.dirname(os.__file__)}/*.py"}}
    found = {kind: recipe.Source("it", **settings) for kind, settings in kinds.items()}
    for kind, names in RECIPES.items():
        for name in names:
            found[name] = recipe.Source("it", clean=name, **kinds[kind])
    for name in ("minhash", "overlap"):
        found[name] = recipe.Source("it", near=name, **kinds["prose"])
    return found, texts


def write_rates(args):
    """Write MB of text per CPU second of each stage. What a recipe costs is what its data set took longer
    than the same without it, in all stages."""
    spent = collections.defaultdict(list)
    with tempfile.TemporaryDirectory() as folder:
        found, texts = rate_sources(args, folder)
        trained = {}
        for kind in ("sentencepiece", "bpe"):
            start = cpu_seconds()
            tokenizer = pieces.train_tokenizer(kind, texts, args.vocab)
            trained[kind] = cpu_seconds() - start
        tokenizer.save(f"{folder}/tokenizer")
        for _, (name, source) in itertools.product(range(args.times), found.items()):
            spent[name].append(stage_seconds(source, f"{folder}/tokenizer"))
            print(f"{name:14} {spent[name][-1].total():6.1f} CPU seconds", flush=True)
        sizes = {kind: sources.size(found[kind]) / 1e6 for kind in RECIPES}

    def cost(name, kind, *names):
        """Seconds of the stages `names` of a data set, less those of the same without a recipe, per MB."""
        with_it, without = [statistics.median(sum(seconds[stage] for stage in names) for seconds in spent[n])
                            for n in (name, kind)]
        return max(1e-4, with_it - without * (name != kind)) / sizes[kind]
    before, size = ("read", "repeats", "clean"), sum(len(text.encode()) for text in texts) / 1e6
    oscar = cost("oscar", "prose", *before)
    seconds = {
        "read": {"jsonl": cost("prose", "prose", "read"), "code": cost("code", "code", "read")},
        "clean": {"none": cost("prose", "prose", "repeats", "clean"),
                  **{name: cost(name, kind, *before) for kind, names in RECIPES.items() for name in names}},
        "near": {name: cost(name, "prose", "clean", "near") for name in ("minhash", "overlap")},
        "tokenizer": {kind: s / size for kind, s in trained.items()},
        "tokenize": {"any": cost("prose", "prose", "tokenize")},
        "write": {"any": cost("prose", "prose", "near", "write")}}
    seconds["clean"]["rule"] = oscar / len(clean.rules("oscar"))        # any rule by itself
    rates = {"cpu": cpu_name()}
    for stage, each in seconds.items():
        rates[stage] = {name: round(1 / s, 2) for name, s in each.items()}
    config.write_json(args.out, rates)
    print(f"wrote {args.out}")


def cpu_name():
    with contextlib.suppress(OSError), open("/proc/cpuinfo") as f:
        if found := re.search(r"model name\s*: (.*)", f.read()):
            return found[1]
    return platform.machine()


# ---- speed ----

def compare_lines(n):
    """Look for copies among `n` generated line hashes in parts of a million, as prepare.py does. Half of the
    lines are one of n / 10; of the others each occurs once."""
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        source = recipe.Source("lines", "", clean=["ccnet_lines"])
        plan = stages.Plan(recipe.Corpus("generated", [source]), "work", set(), workers=1)
        plan.parts = {"lines": max(1, n // 10 ** 6)}
        os.makedirs("work/read")
        for _, _, base in plan.each("read", plan.parts):
            lines = rng.integers(1, 2 ** 64 - 1, n // plan.parts["lines"], np.uint64)
            again = rng.random(len(lines)) < 0.5
            lines[again] = mixed(rng.integers(1, n // 10 + 2, again.sum()).astype(np.uint64))
            part = jobs.Part(base)
            part.add_numbers("lines", lines, "<u8")
            part.add_numbers("counts", [len(lines)], "<i8")         # one document
            part.add_numbers("duplicate", rng.integers(1, 2 ** 64 - 1, 1, np.uint64), "<u8")
            part.facts = {"kept": 1}
            part.finish(plan.key)
        start = time.process_time()
        across.repeats(plan)
        seconds = time.process_time() - start
        cut = sum(int(jobs.numbers(base, "cut", bool).sum()) for base in plan.bases("repeats", plan.parts))
        buckets = len(os.listdir("work/read-lines-decide"))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{n:,} lines in {buckets} buckets: {seconds:.1f} CPU seconds, {peak:.0f} MiB; {cut:,} lines go")


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
    ap.add_argument("--languages", action="store_true", help="instead: is the language found?")
    ap.add_argument("--out", metavar="FILE", help="instead: write the rates of prepare.py's stages")
    ap.add_argument("--lines", type=config.number(1, 1e10), help="instead: copies of so many generated lines")
    args = ap.parse_args()
    if args.lines:
        compare_lines(args.lines)
        return
    if args.languages:
        judge_languages(args)
        return
    if args.out and not args.input:
        raise ValueError("--out needs --input: text of the kind that you will prepare")
    if args.out:
        write_rates(args)
        return
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
