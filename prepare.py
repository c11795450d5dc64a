"""From files as they are found to token files. Each source stays apart, with its licence.

    python prepare.py configs/data/sample.py
    python prepare.py --input book.txt notes/ 'crawl/*.jsonl' --name mine --clean oscar --near minhash
    python prepare.py configs/data/sample.py --remove ids.txt       # take documents out again

The stages are the tables below. At each one documents in = kept + dropped, by reason (report.json):

    read        files to documents; leaves out what is broken, empty, under another licence or to be removed
    repeats     finds exact copies of documents, and lines that repeat in a source
    clean       leaves them out, and applies the source's rules by language (corpus/clean.py)
    near        finds near duplicates (corpus/dedup.py)
    write       writes the documents that are left
    tokenizer   is trained on the training documents
    tokenize    makes prompt + text + </s> of a document

Writes data/NAME: corpus/SOURCE/*.jsonl, dropped/REASON.jsonl, tokenizer/, tokens/SOURCE/*.{bin,idx,doc},
report.json, DATA_CARD.md, manifest.json. The work is done in data/NAME.partial, which is renamed when all is
there. The same command goes on where it was stopped.
"""
import argparse
import contextlib
import dataclasses
import fcntl
import glob
import itertools
import os
import shutil
from collections import Counter
from typing import Callable, NamedTuple

import config
import tokenizer as tokenizers
from corpus import card, clean, fetch, jobs, recipe, sources, stages, takedown, tokens

PART = 32_000_000               # bytes of input files that make a job
LEAST = 1024                    # tokens below which there is nothing to train on


# ---- the stages ----

class Stage(NamedTuple):
    name: str
    doing: str                  # is printed
    function: Callable          # (part, plan, source, number, what it reads): a job for each part of a source
    depends: Callable = lambda corpus, source: None     # the settings that its result depends on
    whole: bool = False         # one job for all: function(part, plan, parts)


def reading_settings(corpus, source):
    """All settings of a source but those that only later stages use."""
    return {**config.plain(source), "weight": None, "near": None, "clean": stages.rules_by_kind(source)[:2]}


FILES_TO_TEXT = [
    Stage("read", "reading files", stages.read_part, reading_settings),
    Stage("repeats", "looking for copies", stages.repeats, whole=True),
    Stage("clean", "cleaning", stages.clean_part, lambda c, s: [s.clean, s.near, c.rules, c.models]),
    Stage("near", "looking for near duplicates", stages.near, lambda c, _: c.alike, whole=True),
    Stage("write", "writing documents", stages.write_part)]
TEXT_TO_TOKENS = [
    Stage("tokenizer", "making the tokenizer", tokens.train_tokenizer,
          lambda c, _: [config.plain(c.tokenizer), c.val_share, jobs.stamp(c.tokenizer.path)], whole=True),
    Stage("tokenize", "tokenizing", tokens.tokenize_part)]


def run_stages(table, plan, parts, key):
    """Run the stages of a table, each on what the one before it made. The key of a stage is a hash of the key
    before it and of its own settings: after a change of these, it and the later stages are done again.

    parts: {source: [what a job of the first stage reads]}.
    Returns {stage: {source: [BASE of each job]}} and the last key.
    """
    made = {}
    for stage in table:
        todo = []
        if stage.whole:
            key = jobs.hash_of(key, stage.depends(plan.corpus, None))
            todo.append(jobs.Job(f"{plan.folder}/{stage.name}", key, 0, (plan, parts)))
        else:
            made[stage.name] = {name: [] for name in parts}
            for source in plan.corpus.sources:
                for number, reads in enumerate(parts.get(source.name, ())):
                    todo.append(job_for_part(stage, plan, source, number, reads, key))
                    made[stage.name][source.name].append(todo[-1].base)
            parts = made[stage.name]
        jobs.run_jobs(stage.doing, stage.function, todo, 0 if stage.whole else plan.workers)
        key = jobs.hash_of([job.key for job in todo])
    return made, key


def job_for_part(stage, plan, source, number, reads, key):
    """reads: BASE of what an earlier stage wrote; or files, as sources.found() gives them."""
    if isinstance(reads, str):
        size, stamps = jobs.facts(reads)["bytes"], None
    else:
        size, stamps = total_bytes(reads), [jobs.stamp(file) for file, _, _ in reads]
    key = jobs.hash_of(key, stage.depends(plan.corpus, source), stamps)
    base = f"{plan.folder}/{stage.name}/{source.name}-{number:05}"
    return jobs.Job(base, key, size, (plan, source, number, reads))


def total_bytes(files):
    return sum(size for _, _, size in files)


def program(corpus):
    """A hash of the program and its rules: who edits a rule gets new results, not leftovers of old ones."""
    here = os.path.dirname(os.path.abspath(__file__))
    files = [f"{here}/prepare.py", f"{here}/tokenizer.py"]
    for folder in ("corpus", "samples"):
        files += glob.glob(f"{here}/{folder}/**/*.*", recursive=True)
    files = sorted(f for f in files if f.endswith((".py", ".toml", ".txt")))
    if corpus.rules:
        files += sorted(glob.glob(f"{corpus.rules}/**/*.*", recursive=True))
    return jobs.hash_of([config.sha256(f) for f in files])


# ---- from files to data/NAME ----

def in_parts(found, most):
    """Files, as sources.found() gives them, in lists of `most` bytes or a bit more."""
    parts, size = [[]], 0
    for file in found:
        if size > most:
            parts.append([])
            size = 0
        parts[-1].append(file)
        size += file[2]
    return parts


def build(corpus, found, out, removed, workers, most):
    """All stages, in OUT/work. Then what they made is put together in OUT. found: {source: its files}."""
    plan = stages.Plan(corpus, f"{out}/work", removed, workers)
    model_files = [jobs.stamp(path) for path in (corpus.models or {}).values()]
    key = jobs.hash_of(program(corpus), sorted(removed), model_files)
    parts = {name: in_parts(files, most) for name, files in found.items()}
    made, key = run_stages(FILES_TO_TEXT, plan, parts, key)
    report = {name: {} for name in found}
    for stage, bases in made.items():
        for name in found:
            report[name][stage] = stages.added(map(jobs.facts, bases[name]))
    check_enough(corpus, report)

    written = {name: bases for name, bases in made["write"].items() if report[name]["write"]["kept"]}
    sizes = Counter()
    for name in written:
        facts = report[name]["write"]
        sizes += Counter(facts["bytes_by_language"])
        # of a small source one document is held out, that with the lowest place, but never its only one
        plan.limits[name] = max(corpus.val_share, facts["lowest"]) if facts["kept"] > 1 else -1
    plan.sizes = dict(sizes)
    made |= run_stages(TEXT_TO_TOKENS, plan, written, key)[0]
    return assemble(out, plan, made, report, sum(map(total_bytes, found.values())))


def assemble(out, plan, made, report, input_bytes):
    """Put together in OUT what the stages made, the manifest last; returns the manifest."""
    corpus, written = plan.corpus, made["tokenize"]
    tokenizer = tokenizers.load(f"{plan.folder}/tokenizer")
    for name in ("corpus", "dropped", "tokens", "tokenizer"):
        shutil.rmtree(f"{out}/{name}", ignore_errors=True)
    tokenizer.save(f"{out}/tokenizer")
    manifest = {"name": corpus.name, "dtype": tokens.token_dtype(tokenizer), "vocab": tokenizer.vocab,
                "tokenizer": {"kind": tokenizer.kind, "fingerprint": tokenizers.fingerprint(tokenizer)},
                "sources": {}, "removed": sorted(plan.removed), "settings": config.plain(corpus),
                "input_bytes": input_bytes, "program": program(corpus)}
    for source in corpus.sources:
        name = source.name
        if name not in written:
            continue
        os.makedirs(f"{out}/corpus/{name}")
        for number, base in enumerate(made["write"][name]):
            shutil.copyfile(f"{base}.jsonl", f"{out}/corpus/{name}/{number:05}.jsonl")
        dropped = sum((Counter(facts["dropped"]) for facts in report[name].values()), Counter())
        manifest["sources"][name] = {
            "weight": source.weight, "licence": source.licence, "held_out": plan.limits[name],
            **{key: report[name]["write"][key] for key in stages.LANGUAGES}, "dropped": dict(dropped),
            **tokens.join_tokens(f"{out}/tokens/{name}", written[name])}
    bases = []
    for stage in ("read", "clean", "write"):
        bases += itertools.chain(*made[stage].values())
    stages.write_dropped(out, bases)
    config.write_json(f"{out}/report.json", report)
    card.write_card(out, manifest, report)
    config.write_json(f"{out}/manifest.json", manifest)
    return manifest


def check_enough(corpus, report):
    """Say what was dropped as broken; stop if nothing is left to train on."""
    broken, dropped, size, count = [], Counter(), 0, 0
    for name, facts in report.items():
        for reason, n in facts["read"]["dropped"].items():
            if reason not in ("empty", "removed", "licence"):
                broken.append(f"source {name}: {n} document{'s' if n > 1 else ''} dropped as {reason}; "
                              f"the first at {facts['read']['first'][reason]}")
        for stage in facts.values():
            dropped += Counter(stage["dropped"])
        size += facts["write"]["bytes"]
        count += facts["write"]["kept"]
    for line in broken:
        print(line)
    for name, facts in report.items():
        if "code" in facts["clean"]:
            print(f"source {name}: {facts['clean']['code']:,} documents are source code; {clean.CODE_NOTE}")
        if not facts["write"]["kept"]:
            print(f"source {name}: nothing is left of its {facts['read']['in']:,} documents")
    if size + count < LEAST or count < 2:
        why = ", ".join(f"{n} {reason}" for reason, n in dropped.items()) or "none"
        raise ValueError(f"{corpus.name}: {size:,} bytes in {count} document{'s' if count != 1 else ''} are "
                         f"at most {size + count:,} tokens; at least {LEAST:,} tokens and 2 documents are "
                         f"needed (one is held out): add text. Dropped: {why}. {'; '.join(broken)}")


def gather(corpus):
    """Download what has an address. Returns the corpus with all its paths, and {source: its files}."""
    gathered, found = [], {}
    for s in corpus.sources:
        urls = [s.url] if isinstance(s.url, str) else s.url or []
        sums = [s.sha256] if isinstance(s.sha256, str) else s.sha256 or []
        if sums and len(sums) != len(urls):
            raise ValueError(f"source {s.name}: {len(urls)} url and {len(sums)} sha256; give one for each")
        fetched = []
        for url, sha256 in itertools.zip_longest(urls, sums):
            folder = f"data/raw/{s.name}/{jobs.hash_of(url)[:8]}"       # addresses may end in the same name
            fetched.append(fetch.fetch(url, folder, sha256))
        gathered.append(dataclasses.replace(s, path=s.path or fetched))
        try:
            found[s.name] = sources.found(gathered[-1])
        except ValueError as e:
            origin = f"; it comes from {s.origin}" if s.origin else ""
            raise ValueError(f"source {s.name}: {e}{origin}") from e
    return dataclasses.replace(corpus, sources=gathered), found


# ---- the command ----

@contextlib.contextmanager
def alone(name):
    """Wait until no other command works on data/NAME. The lock goes with its process, however that ends."""
    os.makedirs("data", exist_ok=True)
    with open(f"data/.{name}.lock", "w") as f:
        try:
            fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"waiting for another command that prepares data/{name}", flush=True)
            fcntl.flock(f, fcntl.LOCK_EX)
        yield


def prepare(corpus, workers=None, most=PART):
    """Build data/NAME unless it is there; returns its manifest. most: bytes of files that make a job."""
    recipe.check_corpus(corpus)
    with alone(corpus.name):
        out, names = f"data/{corpus.name}", recipe.remove_list(corpus)
        takedown.finish(out)
        if os.path.exists(f"{out}/manifest.json"):
            return prepared_before(recipe.selected(corpus), out, names, workers)
        if os.path.exists(out):
            raise ValueError(f"{out} is there and is no prepared data: it has no manifest.json; "
                             "move it away, or use another name")
        return prepare_new(recipe.selected(corpus), out, names, workers, most)


def prepared_before(corpus, out, names, workers):
    """Take out of a complete data/NAME what is to be removed, or say that there is nothing to do."""
    manifest = config.read_json(f"{out}/manifest.json")
    new = names - set(manifest["removed"])
    if new:                                         # this needs no input files: they may be gone
        manifest = takedown.remove_documents(out, manifest, new, workers)
        print_table(manifest)
        return manifest
    corpus, found = gather(corpus)
    changed = [key for key, _, _ in config.differences(manifest["settings"], config.plain(corpus))]
    changed = [key for key in changed if key not in ("remove", "accept")]
    other = f"other settings: {', '.join(changed)}" if changed else ""
    if not changed and manifest["input_bytes"] != sum(map(total_bytes, found.values())):
        other = "files that have changed since"
    if other:
        raise ValueError(f"{out} was prepared from {other}; use another name, or delete it to do so again")
    if manifest["program"] == program(corpus):
        print(f"{out} is complete")
    else:
        print(f"{out} is complete, prepared by another version of program or rules: "
              "delete it to prepare it again")
    return manifest


def prepare_new(corpus, out, names, workers, most):
    corpus, found = gather(corpus)
    partial = f"{out}.partial"
    try:
        os.makedirs(partial, exist_ok=True)
        shutil.rmtree(f"{partial}.work", ignore_errors=True)
        manifest = build(corpus, found, partial, names, workers, most)
        # away at once: half of it would look like work that is done
        os.rename(f"{partial}/work", f"{partial}.work")
        os.rename(partial, out)
        shutil.rmtree(f"{partial}.work", ignore_errors=True)
    except OSError as e:
        file = f" ({e.filename})" if e.filename else ""
        raise ValueError(f"cannot write {out}: {e.strerror or e}{file}; the parts that are done stay in "
                         f"{partial}, and the same command goes on from there") from e
    print_table(manifest)
    print(f"wrote {out}; read {out}/DATA_CARD.md")
    return manifest


def print_table(manifest):
    found = manifest["sources"]
    if not found:
        print(f"nothing is left in data/{manifest['name']}")
        return
    width = max(8, *map(len, found))
    print(f"{'source':{width}}  documents    dropped          bytes   train tokens  val tokens  "
          "bytes per token")
    for name, s in found.items():
        train, val = s["train"], s["val"]
        size, count = train["bytes"] + val["bytes"], train["tokens"] + val["tokens"]
        print(f"{name:{width}}  {train['documents'] + val['documents']:9,}  {sum(s['dropped'].values()):9,}  "
              f"{size:13,}  {train['tokens']:13,}  {val['tokens']:10,}  {size / count:15.2f}")
    if 1 < len(found) <= 8:
        print(f'shares of the training rows, to change and give train.py: "data.weights={row_shares(found)}"')


def row_shares(found):
    """{source: its share of the training rows}, by the weights of the data config or by size."""
    weights = {name: s["weight"] for name, s in found.items()}
    if None in weights.values():
        weights = {name: s["train"]["tokens"] for name, s in found.items()}
    whole = sum(weights.values()) or 1
    return {name: max(0.001, round(weight / whole, 3)) for name, weight in weights.items()}


SOURCE_OPTIONS = ("field", "lang", "licence", "clean", "near")
TOKENIZER_OPTIONS = ("kind", "vocab", "path")


def corpus_of_inputs(given):
    """The Corpus that --input and the options beside it mean."""
    options = {key: given[key] for key in SOURCE_OPTIONS if key in given}
    if given.get("near") == "overlap":
        options["split"] = 10 ** 9                  # books are compared whole
    found = [recipe.Source(name, path, **options) for name, path in sources.named(given["input"])]
    tokenizer = recipe.Tokenizer(**{key: given[key] for key in TOKENIZER_OPTIONS if key in given})
    return recipe.Corpus(given["name"], found, tokenizer)


def main():
    ap = config.Parser(__doc__, argument_default=argparse.SUPPRESS)
    ap.add_argument("config", nargs="?", help="a data config; or use --input")
    ap.add_argument("settings", nargs="*", metavar="field=value",
                    help="changes to the data config, as in tokenizer.vocab=8000 accept=oscar")
    ap.add_argument("--remove", metavar="FILE",
                    help="leave out, or take out of a finished data/NAME: a line is SOURCE or SOURCE/ID")
    ap.add_argument("--workers", type=config.number(1, 1024),
                    help="processes (default: one per core; the result is the same)")
    ap.add_argument("--input", nargs="+", metavar="PATH",
                    help="files, folders or globs, each a source: text, .jsonl, .parquet, source code, "
                         ".warc.wet.gz, Wikipedia's .xml.bz2, Posts.xml, arXiv's .tar; also .gz .bz2 .xz")
    more = ap.add_argument_group("with --input")
    more.add_argument("--name", help="data/NAME")
    more.add_argument("--field", help="field of the records that holds the text (default: text)")
    more.add_argument("--kind", choices=tokenizers.KINDS, help="tokenizer to train (default: bpe)")
    more.add_argument("--vocab", type=config.number(300, 1e7), help="its entries (default: 4096)")
    more.add_argument("--tokenizer", metavar="DIR", dest="path", help="use this trained tokenizer instead")
    more.add_argument("--lang", help="language of the input, where its records do not say")
    more.add_argument("--licence", help="licence of the input, where its records do not say")
    more.add_argument("--clean", nargs="+", metavar="RULE",
                      help=f"recipes or rules of corpus/clean.py: {' '.join(clean.RECIPES)} (default: none)")
    more.add_argument("--near", choices=("minhash", "overlap"),
                      help="drop near duplicates among all inputs, or texts inside a longer one of an input")
    args, settings = ap.parse_known_args()
    given = vars(args)
    unknown = [s for s in settings if "=" not in s or "input" in given]
    if unknown:
        ap.error(f"unknown argument {unknown[0]}")
    if ("config" in given) == ("input" in given):
        ap.error("give a data config, or --input PATH... --name NAME")
    if "input" in given:
        if "name" not in given:
            ap.error("--input needs --name")
        corpus = corpus_of_inputs(given)
    else:
        for key in ("name", *SOURCE_OPTIONS, *TOKENIZER_OPTIONS):
            if key in given:
                option = "tokenizer" if key == "path" else key
                ap.error(f"--{option} belongs to --input; with a data config write field=value, "
                         "as in name=mine tokenizer.vocab=8000")
        corpus = config.load(given["config"], given.get("settings", []) + settings)
        if not isinstance(corpus, recipe.Corpus):
            raise ValueError(f"{given['config']} is a training config; a data config such as "
                             "configs/data/sample.py is needed")
    corpus.remove = given.get("remove", corpus.remove)
    prepare(corpus, given.get("workers"))


if __name__ == "__main__":
    config.command(main)
