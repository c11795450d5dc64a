"""What preparing a corpus takes: core-hours, wall time, memory of the largest job, disk, files.

    python plan.py corpus configs/data/llama.py machines=64
    python plan.py corpus configs/data/roots.py only=code sizes="{'code': 10e9}" cores=2
    python plan.py corpus configs/data/mine.py rates=data/rates.json kept=0.5

Settings are those of the data config, and those of the class Work. How large a source is stands in the
config's `sizes`; where it does not, the files that are there are measured.
"""
import math
from dataclasses import dataclass

import config

# MB of text per CPU second, as tools/bench_corpus.py --out writes it. Under clean, "none" is passing
# documents on without a rule, "rule" a rule that is no recipe. Dumps were measured by hand, on made-up pages
RATES = {
    "cpu": "AMD EPYC, two cores shared with other programs",
    "read": {"jsonl": 21.2, "code": 31.3, "wiki": 0.7, "stackexchange": 2.3, "arxiv": 6.7},
    "clean": {"none": 19.7, "pii": 4.26, "oscar": 0.76, "catalogue": 4.04, "pseudo_crawl": 3.86,
              "ccnet": 1.42, "c4": 13.3, "roots_code": 5.95, "llama_code": 11.9, "rule": 10.7},
    "near": {"minhash": 11.0, "overlap": 9.1},
    "tokenizer": {"bpe": 1.13, "sentencepiece": 3.94},
    "tokenize": {"any": 5.24},
    "write": {"any": 11.2}}
PACKED = (".gz", ".bz2", ".xz", ".zst", ".tar", ".parquet")
STAGES = ("read", "clean", "near", "write", "tokenize")

# What is assumed of the text, and printed
DOCUMENT = 3000                 # bytes
TOKEN = 3.4                     # bytes: LLaMA's 4.75 TB are 1.4T tokens
JSON = 1.1                      # bytes of a document on disk, with its facts, for a byte of its text

# What the program does: prepare.py, corpus/jobs.py, corpus/dedup.py
FILES = 55                      # of a part, in all stages
STARTS, START = 5, 0.42         # processes that are started for a part, CPU seconds of each before it works
PROCESS = 150e6                 # bytes of a worker: its libraries, long documents
MEMORY = {                      # job: (bytes, and bytes for each of what it holds)
    "a bucket of hashes": (400e6, {}),          # across.BUCKET
    # 100 for each that has a near copy: one in five is assumed to have one
    "joining pairs of near duplicates": (0, {"compared document": 20}),
    "training the tokenizer": (0, {"byte to train on": 12})}


@dataclass
class Work:
    machines: int = 1
    cores: int = 16             # of each machine
    kept: float = 0.8           # share of the bytes that rules and near duplicates leave: a guess
    rates: str | None = None    # the file that tools/bench_corpus.py --out wrote; None: RATES


def load(path, settings, recipe):
    """(Work, recipe.Corpus with the sources that `only` names). recipe: corpus/recipe.py"""
    work = Work()
    corpus = config.load(path, config.take_own(work, settings))
    if not hasattr(corpus, "sources"):
        raise ValueError(f"{path} is a training config; give one of configs/data")
    if min(work.machines, work.cores, corpus.part) < 1 or not 0 < work.kept <= 1:
        raise ValueError(f"machines={work.machines}, cores={work.cores}, part={corpus.part} and "
                         f"kept={work.kept:g} must be above 0, and kept at most 1")
    recipe.check_names(corpus)
    corpus = recipe.selected(corpus)
    for source in corpus.sources:
        recipe.rules_by_kind(source)
    return work, corpus


def size_of(source, stated, found):
    """Bytes of text of a source: `stated`, or those of its files. found: corpus.sources.found"""
    way_out = f"give sizes=\"{{'{source.name}': BYTES}}\""
    if stated or not source.path:
        if not stated or stated < 0:
            raise ValueError(f"source {source.name} has no size and no files; {way_out}")
        return stated
    with config.blame(f"source {source.name}: {way_out}"):
        files = found(source)
    packed = [name for _, name, _ in files if name.endswith(PACKED)]
    if packed:
        raise ValueError(f"source {source.name}: {packed[0]} is packed; {way_out} of text")
    return sum(size for _, _, size in files)


def load_rates(path):
    """RATES, and instead of them what the file says."""
    if not path:
        return RATES
    given = config.read_json(path)
    with config.blame(f"{path} is not what tools/bench_corpus.py --out writes"):
        rates = {stage: RATES[stage] | given[stage] for stage in STAGES + ("tokenizer",)}
        slowest = min(min(each.values()) for each in rates.values())
        if not slowest > 0:
            raise ValueError(f"a speed of {slowest}")
        return {"cpu": given["cpu"], **rates}


def seconds(source, size, kept, rates):
    """{stage: CPU seconds} for `size` bytes of a source."""
    whole, left, clean = size / 1e6, kept * size / 1e6, rates["clean"]
    recipes = [source.clean] if isinstance(source.clean, str) else source.clean
    reader = rates["read"].get(source.reader, rates["read"]["jsonl"])
    return {"read": whole / reader,
            "clean": sum(whole / clean.get(name, clean["rule"]) for name in ["none", *recipes]),
            "near": left / rates["near"][source.near] if source.near else 0,
            "write": left / rates["write"]["any"],
            "tokenize": left / rates["tokenize"]["any"]}


def training(corpus, size, kept, rates):
    """(bytes of text that the tokenizer is trained on, CPU seconds)"""
    t = corpus.tokenizer
    read = 0 if t.path else min(t.bytes, kept * size)
    return read, read / 1e6 / rates["tokenizer"][t.kind]


def memory(compared, trained):
    """(bytes, name) of the largest job. compared: bytes of the text that MinHash compares."""
    counts = {"compared document": compared / DOCUMENT, "byte to train on": trained}
    jobs = []
    for name, (fixed, each) in MEMORY.items():
        jobs.append((PROCESS + fixed + sum(n * counts[what] for what, n in each.items()), name))
    return max(jobs)


def disk(size, kept, vocab):
    """(bytes while the command runs, bytes of what it leaves)"""
    tokens = kept * size / TOKEN * (2 if vocab <= 65_536 else 4)
    left = JSON * kept * size + tokens
    return JSON * size * (1 + kept) + left + tokens, left


def short(x):
    """Three digits. short(1234.5) -> "1,234"; short(0.012345) -> "0.0123" """
    return f"{x:,.0f}" if x >= 1000 else f"{x:.3g}"


def print_table(sizes, spent):
    print(f"{'core-hours':16} {'GB of text':>10} " + " ".join(f"{stage:>9}" for stage in (*STAGES, "all")))
    rows = {name: [sizes[name], *spent[name].values()] for name in spent}
    rows["all"] = [sum(column) for column in zip(*rows.values())]
    for name, (size, *each) in rows.items():
        hours = " ".join(f"{short(s / 3600):>9}" for s in (*each, sum(each)))
        print(f"{name:16} {short(size / 1e9):>10} {hours}")


def print_plan(path, settings, recipe, found):
    """recipe is corpus/recipe.py, found is corpus.sources.found."""
    work, corpus = load(path, settings, recipe)
    rates = load_rates(work.rates)
    sizes = {s.name: size_of(s, (corpus.sizes or {}).get(s.name), found) for s in corpus.sources}
    size = sum(sizes.values())
    spent = {s.name: seconds(s, sizes[s.name], work.kept, rates) for s in corpus.sources}
    print_table(sizes, spent)
    trained, alone = training(corpus, size, work.kept, rates)
    parts = sum(math.ceil(n / corpus.part) for n in sizes.values())
    shared = sum(sum(each.values()) for each in spent.values()) + parts * STARTS * START
    wall = shared / (work.machines * work.cores) + alone
    compared = sum(sizes[s.name] for s in corpus.sources if s.near == "minhash")
    largest, job = memory(compared, trained)
    working, left = disk(size, work.kept, corpus.tokenizer.vocab)
    print(f"""
core-hours   {short((shared + alone) / 3600)}, of which {short(alone / 3600)} train the tokenizer, and \
{short(parts * STARTS * START / 3600)} start processes
wall time    {short(wall / 3600)} hours on machines={work.machines} with cores={work.cores}; one process
             trains the tokenizer, all cores do the rest
memory       {short(largest / 1e9)} GB for the largest job, {job}; {short(PROCESS / 1e9)} GB for most
disk         {short(working / 1e9)} GB while it runs, of which {short(left / 1e9)} GB stay
files        {parts * FILES:,.0f} while it runs, for {parts:,} parts

Speeds are of a core of: {rates["cpu"]}.
Assumed: rules and near duplicates leave kept={work.kept:g} of the bytes; documents have {DOCUMENT:,} bytes,
tokens {TOKEN}; disks keep up with the cores; no file is much larger than a part.""")


def main(rest, recipe, found):
    ap = config.Parser(__doc__, prog="plan.py corpus")
    ap.add_argument("config", help="a data config")
    ap.add_argument("settings", nargs="*", default=[], metavar="key=value")
    args, more = ap.parse_known_args(rest)
    print_plan(args.config, args.settings + more, recipe, found)
