"""From files as they are found to token files: read, clean, deduplicate, train the tokenizer, tokenize. Each source stays apart, with its licence.

    python prepare.py configs/data/sample.py
    python prepare.py --input book.txt notes/ 'crawl/*.jsonl.gz' --name mine --vocab 8000 --clean oscar --near minhash
    python prepare.py configs/data/sample.py --remove ids.txt       # a line is SOURCE or SOURCE/ID: taken out, and written down

    read      files to documents: what cannot be read, is empty, is under another licence or was asked to be removed is dropped
    repeats   documents that are exact copies, and lines that repeat in a source
    clean     the source's rules, by language (corpus/clean.py)
    near      near duplicates (corpus/dedup.py)
    write     what is left: then the tokenizer is trained on the training documents, and
    tokenize  a document is prompt + text + </s>

Writes data/NAME: corpus/SOURCE/*.jsonl, dropped/REASON.jsonl, tokenizer/, tokens/SOURCE/{train,val}.{bin,idx,doc}, report.json, DATA_CARD.md and
manifest.json. The work is done in data/NAME.partial, which is renamed when it is complete; the same command goes on where it was stopped.
At every stage documents in = kept + dropped, by reason; report.json has the numbers.
"""
import argparse
import contextlib
import fcntl
import glob
import itertools
import os
import re
import shutil
from collections import Counter

import config
import tokenizer as tokenizers
from corpus import card, clean, dedup, fetch, jobs, pieces, recipe, sources, stages, takedown
from corpus.stages import LANGUAGES, added, documents, place

PART = 32_000_000               # bytes of input files that make a job
LEAST = 1024                    # tokens below which there is nothing to train on


def make_tokenizer(corpus, sizes, limits, files, workers):
    """The corpus's own tokenizer, trained on its training documents, or the one given. sizes: {language: bytes}."""
    t = corpus.tokenizer
    if t.path:
        return tokenizers.load(t.path)
    share = pieces.keep(sizes, t.bytes, t.alpha)

    def texts():
        for name in files:
            for d, _ in itertools.chain.from_iterable(map(documents, files[name])):
                if place(name, d["id"]) > limits[name] and pieces.chosen(f"{name}/{d['id']}", share[d.get("lang") or "unknown"]):
                    yield d["text"]
    print(f"training a {t.kind} tokenizer of {t.vocab} entries")
    return pieces.train_tokenizer(t.kind, texts(), t.vocab, workers or os.cpu_count() if sum(sizes.values()) > jobs.SMALL else 1)


def program(corpus):
    """A hash of the program that cleans, and of other rules: who edits a rule gets new results, not the leftovers of an interrupted command."""
    here = os.path.dirname(os.path.abspath(__file__))
    files = [f"{here}/prepare.py", f"{here}/tokenizer.py", *glob.glob(f"{here}/corpus/**/*.*", recursive=True), *glob.glob(f"{here}/samples/**/*.txt", recursive=True)]
    files = sorted(f for f in files if f.endswith((".py", ".toml", ".txt"))) + (sorted(glob.glob(f"{corpus.rules}/**/*.*", recursive=True)) if corpus.rules else [])
    return jobs.key([config.sha256(f) for f in files])


def stamp(path):
    """What tells that a file, or one in a folder, has changed; None without a path."""
    return path and [(f, os.path.exists(f) and (os.path.getsize(f), os.stat(f).st_mtime_ns)) for f in ([path] if os.path.isfile(path) else sorted(glob.glob(f"{path}/**/*.*", recursive=True)))]


def inputs(source):
    """{part: its (file, name, bytes)}: files in order, until they are PART bytes."""
    parts, size = [[]], 0
    for found in sources.found(source):
        if size > PART:
            parts, size = [*parts, []], 0
        parts[-1].append(found)
        size += found[2]
    return parts


def build(corpus, out, workers):
    """All stages, in OUT/work; then what they made is put together in OUT, the manifest last."""
    work, removed, by_name = f"{out}/work", remove_list(corpus), {s.name: s for s in corpus.sources}

    def each(stage, function, parts, total, *more):
        """function(BASE, key, source, part, *more) for each part of {source: [(part, key), ...]}. Returns {source: [BASE, ...]} and the stage's key."""
        todo = [(f"{work}/{stage}/{name}-{n:05}", key, by_name[name], part, *more) for name in parts for n, (part, key) in enumerate(parts[name])]
        jobs.run(stage, function, todo, total, workers)
        return {name: [job[0] for job in todo if job[2].name == name] for name in parts}, jobs.key([job[:2] for job in todo])

    def kept(bases):
        return sum(jobs.facts(b)["bytes"] for b in itertools.chain(*bases.values()))
    files = {s.name: inputs(s) for s in corpus.sources}
    size = sum(found[2] for parts in files.values() for part in parts for found in part)
    first = jobs.key(program(corpus), sorted(removed), [stamp(path) for path in (corpus.models or {}).values()])
    read, made = each("read", stages.read_part, {
        s.name: [(part, jobs.key(first, {**config.plain(s), "weight": None, "near": None, "clean": stages.special_rules(s)[:2]}, [stamp(found[0]) for found in part]))
                 for part in files[s.name]] for s in corpus.sources}, size, removed)
    jobs.run("repeats", stages.repeats, [(f"{work}/repeats", made, corpus, read)], 0, 0)
    cleaned, made = each("clean", stages.clean_part, {
        name: [(b, jobs.key(made, by_name[name].clean, by_name[name].near, corpus.rules, corpus.models)) for b in read[name]] for name in read}, kept(read), corpus)
    jobs.run("near", stages.near, [(f"{work}/near", made := jobs.key(made, corpus.alike), corpus, cleaned)], 0, 0)
    written, made = each("write", stages.write_part, {name: [(b, made) for b in cleaned[name]] for name in cleaned}, kept(cleaned))
    report = {name: {stage: added([jobs.facts(b) for b in bases[name]]) for stage, bases in (("read", read), ("clean", cleaned), ("write", written))} for name in by_name}
    enough(corpus, report)

    written = {name: bases for name, bases in written.items() if report[name]["write"]["kept"]}
    # held out: documents whose place is not above this: val_share, or that of the lowest of a small source
    limits = {name: max(corpus.val_share, report[name]["write"]["lowest"]) if report[name]["write"]["kept"] > 1 else -1 for name in written}
    made = jobs.key(made, config.plain(corpus.tokenizer), corpus.val_share, stamp(corpus.tokenizer.path))
    if not jobs.done(f"{work}/tokenizer", made):
        with jobs.Part(f"{work}/tokenizer", made):
            sizes = sum((Counter(report[name]["write"]["bytes_by_language"]) for name in written), Counter())
            make_tokenizer(corpus, sizes, limits, {name: [f"{b}.jsonl" for b in bases] for name, bases in written.items()}, workers).save(f"{work}/tokenizer")
    tokenizer = tokenizers.load(f"{work}/tokenizer")
    tokens, _ = each("tokenize", stages.tokenize_part, {name: [(b, made) for b in bases] for name, bases in written.items()}, kept(written),
                     limits, f"{work}/tokenizer", tokenizers.fingerprint(tokenizer))

    for name in ("corpus", "dropped", "tokens", "tokenizer"):
        shutil.rmtree(f"{out}/{name}", ignore_errors=True)
    tokenizer.save(f"{out}/tokenizer")
    manifest = {"name": corpus.name, "dtype": stages.token_dtype(tokenizer), "vocab": tokenizer.vocab,
                "tokenizer": {"kind": tokenizer.kind, "fingerprint": tokenizers.fingerprint(tokenizer)}, "sources": {}, "removed": sorted(removed),
                "settings": config.plain(corpus), "input_bytes": size, "program": program(corpus)}
    for name, bases in written.items():
        os.makedirs(f"{out}/corpus/{name}")
        for n, b in enumerate(bases):
            shutil.copyfile(f"{b}.jsonl", f"{out}/corpus/{name}/{n:05}.jsonl")
        manifest["sources"][name] = {
            "weight": by_name[name].weight, "licence": by_name[name].licence, "held_out": limits[name], **{k: report[name]["write"][k] for k in LANGUAGES},
            "dropped": dict(sum((Counter(facts["dropped"]) for facts in report[name].values()), Counter())), **stages.join_tokens(f"{out}/tokens/{name}", tokens[name])}
    stages.write_dropped(out, [b for bases in (read, cleaned, written) for b in itertools.chain(*bases.values())])
    config.write_json(f"{out}/report.json", report)
    card.write(out, manifest, report)
    config.write_json(f"{out}/manifest.json", manifest)
    return manifest


def enough(corpus, report):
    """Say what was dropped as broken; stop if nothing is left to train on."""
    broken = [f"source {name}: {n} document{'s' * (n > 1)} dropped as {reason}; the first at {s['read']['first'][reason]}"
              for name, s in report.items() for reason, n in s["read"]["dropped"].items() if reason not in ("empty", "removed", "licence")]
    nothing = [f"source {name}: nothing is left of its {s['read']['in']:,} documents" for name, s in report.items() if not s["write"]["kept"]]
    print("".join(f"{line}\n" for line in broken + nothing), end="")
    size, count = (sum(s["write"][k] for s in report.values()) for k in ("bytes", "kept"))
    if size + count < LEAST or count < 2:
        total = sum((Counter(f["dropped"]) for s in report.values() for f in s.values()), Counter())
        raise ValueError(f"{corpus.name}: {size:,} bytes in {count} document{'s' * (count != 1)} are at most {size + count:,} tokens; at least {LEAST:,} tokens and 2 documents "
                         f"are needed (one is held out): add text. Dropped: {', '.join(f'{n} {r}' for r, n in total.items()) or 'none'}. {'; '.join(broken)}")


def remove_list(corpus):
    """Names SOURCE or SOURCE/ID: those taken out of data/NAME before, which data/NAME.removed keeps, and those of the file corpus.remove."""
    names = set()
    for file in (f"data/{corpus.name}.removed", corpus.remove):
        if file and (file == corpus.remove or os.path.exists(file)):
            with open(file, encoding="utf-8-sig") as f:
                names |= {line.strip() for line in f} - {""}
    for name in names:
        if name.split("/")[0] not in corpus.everything:
            raise ValueError(f"{corpus.remove or f'data/{corpus.name}.removed'}: {name!r} is in none of the sources {', '.join(corpus.everything)}; a line is SOURCE or SOURCE/ID")
    return names


def check(corpus):
    """Stop what cannot be prepared, or may not be."""
    config.check_types(corpus, corpus.name), config.check_types(corpus.tokenizer, "tokenizer")
    for s in corpus.sources:
        config.check_types(s, f"source {s.name}")
    corpus.everything = names = [s.name for s in corpus.sources]
    only = corpus.only.split(",") if corpus.only else names
    for key, given in ("only", only), ("accept", accepted := [n for n in (corpus.accept or "").split(",") if n]), ("models", list(corpus.models or ())):
        known = names if key != "models" else ["language", "perplexity", "quality"]
        if unknown := set(given) - set(known):
            raise ValueError(f"{key}={','.join(given)}: there is no {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    corpus.sources = [s for s in corpus.sources if s.name in only]
    for name in [corpus.name, *names]:
        if not re.fullmatch(r"\w[\w.-]*", name) or name == "raw" or name.endswith((".partial", ".removed")):
            raise ValueError(f"the name {name!r} must be letters, digits, '-', '_' and '.', and not raw, *.partial or *.removed")
        if names.count(name) > 1:
            raise ValueError(f"two sources are named {name}: give an input once, and inputs with different names; in a data config each source needs its own")
    if not 0 < corpus.val_share < 1:
        raise ValueError(f"val_share={corpus.val_share}: the share of documents held out is between 0 and 1")
    if corpus.tokenizer.vocab < 300:
        raise ValueError(f"vocabulary of {corpus.tokenizer.vocab}: 256 bytes and the specials need at least 300")
    for what, file in ("rules", corpus.rules), ("remove", corpus.remove), ("tokenizer", corpus.tokenizer.path), *(corpus.models or {}).items():
        if file and not os.path.exists(file):
            raise ValueError(f"{what}: there is no {file}")
    if corpus.tokenizer.path:
        given = tokenizers.load(corpus.tokenizer.path)
        if given.eos is None:
            raise ValueError(f"the tokenizer of {corpus.tokenizer.path} has no token that ends a text, and documents must not run into each other; name its eos_token in tokenizer_config.json")
        if not given.lossless:
            print(f"warning: the tokenizer of {corpus.tokenizer.path} changes texts before it reads them (extra spaces go, say): the tokens do not give them back to the letter")
    if corpus.rules:
        clean.table(corpus.rules)
    dedup.bands(corpus.alike)
    for s in corpus.sources:
        stages.special_rules(s)
        if not s.path and not s.url:
            raise ValueError(f"source {s.name} has neither path nor url")
        if s.permission == "gated" and s.name not in accepted:
            raise ValueError(f"source {s.name} is gated by {s.custodian or 'its custodian'} ({s.origin or s.licence or 'see its licence'}): "
                             f"read its terms, then give accept={','.join([*accepted, s.name])}")


def gather(corpus):
    """Download what has an address; then every source has a path with files, or an error says where they come from."""
    for s in corpus.sources:
        urls, sums = ([v] if isinstance(v, str) else v or [] for v in (s.url, s.sha256))
        if sums and len(sums) != len(urls):
            raise ValueError(f"source {s.name}: {len(urls)} url and {len(sums)} sha256; give one for each")
        fetched = [fetch.fetch(u, f"data/raw/{s.name}/{jobs.key(u)[:8]}", h) for u, h in itertools.zip_longest(urls, sums)]     # two addresses may end in the same name
        s.path = s.path or fetched
        try:
            sources.found(s)
        except ValueError as e:
            raise ValueError(f"source {s.name}: {e}" + (f"; it comes from {s.origin}" if s.origin else "")) from e
        if other := sources.passed_over(s):
            print(f"source {s.name}: {other.total():,} files of other kinds are not read: {', '.join(f'{k} {n:,}' for k, n in other.most_common(8))}")


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


def prepare(corpus, workers=None):
    """Build data/NAME unless it is there; returns its manifest."""
    check(corpus)
    with alone(corpus.name):
        return prepare_alone(corpus, workers)


def prepare_alone(corpus, workers):
    settings, names = config.plain(corpus), remove_list(corpus)
    out, partial = f"data/{corpus.name}", f"data/{corpus.name}.partial"
    takedown.commit(out)
    if os.path.exists(f"{out}/manifest.json"):
        manifest = config.read_json(f"{out}/manifest.json")
        changed = [key for key, _, _ in config.differences(manifest["settings"], settings) if key not in ("remove", "accept")]
        if names - set(manifest["removed"]):            # this needs no input files: they may be gone
            manifest = takedown.remove(out, manifest, names - set(manifest["removed"]), workers)
            report(manifest)
            return manifest
        gather(corpus)
        if changed or manifest["input_bytes"] != sum(sources.size(s) for s in corpus.sources):
            raise ValueError(f"{out} was prepared from {'other settings: ' + ', '.join(changed) if changed else 'files that have changed since'}; "
                             "use another name, or delete it to prepare it again")
        print(f"{out} is complete" + (", prepared by another version of program or rules: delete it to prepare it again" if manifest["program"] != program(corpus) else ""))
        return manifest
    if os.path.exists(out):
        raise ValueError(f"{out} is there and is no prepared data: it has no manifest.json; move it away, or use another name")
    gather(corpus)
    try:
        os.makedirs(partial, exist_ok=True)
        shutil.rmtree(f"{partial}.work", ignore_errors=True)
        manifest = build(corpus, partial, workers)
        os.rename(f"{partial}/work", f"{partial}.work")         # away at once: a half deleted one would be taken for work that is done
        os.rename(partial, out)
        shutil.rmtree(f"{partial}.work", ignore_errors=True)
    except OSError as e:
        raise ValueError(f"cannot write {out}: {e.strerror or e}{f' ({e.filename})' * bool(e.filename)}; the parts that are done stay in {partial}, and the same command goes on from there") from e
    report(manifest)
    print(f"wrote {out}; read {out}/DATA_CARD.md")
    return manifest


def report(manifest):
    if not manifest["sources"]:
        return print(f"nothing is left in data/{manifest['name']}")
    width = max(8, *map(len, manifest["sources"]))
    print(f"{'source':{width}}  documents    dropped          bytes   train tokens  val tokens  bytes per token")
    for name, s in manifest["sources"].items():
        train, val = s["train"], s["val"]
        print(f"{name:{width}}  {train['documents'] + val['documents']:9,}  {sum(s['dropped'].values()):9,}  {train['bytes'] + val['bytes']:13,}  "
              f"{train['tokens']:13,}  {val['tokens']:10,}  {(train['bytes'] + val['bytes']) / (train['tokens'] + val['tokens']):15.2f}")


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("config", nargs="?", help="a data config; or use --input")
    ap.add_argument("settings", nargs="*", metavar="field=value", help="changes to the data config, e.g. tokenizer.vocab=8000 accept=oscar")
    ap.add_argument("--input", nargs="+", metavar="PATH", help="files, folders or globs, each a source: text, .jsonl, .parquet, source code, .warc.wet.gz, "
                                                               "Wikipedia's .xml.bz2, Posts.xml, arXiv's .tar; also .gz .bz2 .xz")
    ap.add_argument("--name", help="data/NAME")
    ap.add_argument("--field", default="text", help="field of the records that holds the text (default: text)")
    ap.add_argument("--kind", default="bpe", choices=tokenizers.KINDS, help="tokenizer to train (default: bpe)")
    ap.add_argument("--vocab", type=int, default=4096, help="its entries (default: 4096)")
    ap.add_argument("--tokenizer", metavar="DIR", help="use this trained tokenizer instead")
    ap.add_argument("--lang", help="language of the input, where its records do not say")
    ap.add_argument("--licence", help="licence of the input, where its records do not say")
    ap.add_argument("--clean", nargs="+", default=[], metavar="RULE", help=f"recipes or rules of corpus/clean.py: {' '.join(clean.RECIPES)} (default: none)")
    ap.add_argument("--near", choices=("minhash", "overlap"), help="drop near duplicates among all inputs, or what is inside a longer document of its input")
    ap.add_argument("--remove", metavar="FILE", help="leave out, or take out of a finished data/NAME: a line is SOURCE or SOURCE/ID")
    ap.add_argument("--workers", type=int, help="processes (default: one per core; the result is the same)")
    args, more = ap.parse_known_args()
    if bool(args.config) == bool(args.input):
        ap.error("give a data config, or --input PATH... --name NAME")
    if args.workers is not None and args.workers < 1:
        ap.error(f"--workers {args.workers}: it must be 1 or more")
    own = [f"--{n}" for n in ("name", "field", "kind", "vocab", "tokenizer", "lang", "licence", "clean", "near") if getattr(args, n) != ap.get_default(n)]
    if args.config and own:
        ap.error(f"{own[0]} belongs to --input; with a data config write field=value, e.g. name=mine tokenizer.vocab=8000")
    if args.input:
        if not args.name or more:
            ap.error(f"unknown argument {more[0]}" if more else "--input needs --name")
        corpus = recipe.Corpus(args.name, [recipe.Source(n, p, field=args.field, lang=args.lang, licence=args.licence, clean=args.clean, near=args.near, split=10 ** 9 if args.near == "overlap" else 2048) for n, p in sources.named(args.input)],
                               recipe.Tokenizer(args.kind, args.vocab, args.tokenizer))
    else:
        corpus = config.load(args.config, args.settings + more)
        if not isinstance(corpus, recipe.Corpus):
            raise ValueError(f"{args.config} is a training config; a data config such as configs/data/sample.py is needed")
    corpus.remove = args.remove or corpus.remove
    prepare(corpus, args.workers)


if __name__ == "__main__":
    config.command(main)
