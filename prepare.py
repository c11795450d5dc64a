"""From files as they are found to token files. Each source stays apart, with its licence.

    python prepare.py configs/data/sample.py name=other tokenizer.vocab=8000
    python prepare.py --input book.txt notes/ 'crawl/*.jsonl' --name mine --clean oscar --near minhash
    python prepare.py configs/data/sample.py --remove ids.txt       # take documents out again
    python prepare.py configs/data/llama.py part=256e6 --cluster tcp://HOST:8786     # docs/corpus.md

The stages; at each one documents in = kept + dropped, by reason (report.json):

    read        files to documents; leaves out what is broken, empty, under another licence or to be removed
    repeats     finds exact copies of documents, and lines that repeat in a source
    clean       leaves them out, and applies the source's rules by language (corpus/clean.py)
    near        finds near duplicates (corpus/dedup.py)
    write       writes the documents that are left
    tokenizer   is trained on the training documents
    tokenize    makes prompt + text + </s> of a document

The work is done in data/NAME.partial, which becomes data/NAME when all is there: corpus/SOURCE/*.jsonl,
dropped/REASON.jsonl, tokenizer/, tokens/SOURCE/*.{bin,idx,doc}, report.json, DATA_CARD.md, manifest.json.
The same command goes on where it was stopped.
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

import config
import tokenizer as tokenizers
from corpus import across, card, clean, fetch, jobs, recipe, sources, stages, takedown, tokens

LEAST = 1024                    # bytes that give the smallest vocabulary


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


def build(corpus, found, out, removed, workers, cluster):
    """All stages, in OUT/work. Then what they made is put together in OUT. found: {source: its files}."""
    files = [file for file, _, _ in itertools.chain(*found.values())]
    stamps = jobs.stamps([*files, *(corpus.models or {}).values()])
    settings = {**config.plain(corpus), "tokenizer": None, "val_share": None, "sizes": None}
    rules = corpus.rules or clean.RULES_FOLDER
    same = [rules, jobs.program(rules)]
    key = jobs.hash_of(same[1], sorted(removed), settings, stamps)
    keep_only(f"{out}/work", [key])
    plan = stages.Plan(corpus, f"{out}/work/{key}", removed, workers, cluster, same, key)
    parts = {name: in_parts(listed, corpus.part) for name, listed in found.items()}
    made, report = {}, {}
    made["read"] = plan.run_parts("read", "reading files", stages.read_part, parts)
    across.repeats(plan)
    made["clean"] = plan.run_parts("clean", "cleaning", stages.clean_part, made["read"])
    across.near(plan)
    made["write"] = plan.run_parts("write", "writing documents", stages.write_part, made["clean"])
    for name in found:
        report[name] = {stage: stages.added(bases[name]) for stage, bases in made.items()}
    stages.write_dropped(out, made)
    check_enough(plan, report, stages.first_dropped(out))
    return tokenize(out, plan, made["write"], found, report)


def keep_only(work, keys):
    """Each key has a folder of its own, so that a job of an earlier command that still runs somewhere cannot
    write into this one's. Here go the folders of other settings, files or rules."""
    for folder in set(glob.glob(f"{work}/*")) - {f"{work}/{key}" for key in keys}:
        shutil.rmtree(folder, ignore_errors=True)


def tokenize(out, plan, written, found, report):
    """The tokenizer and the tokens. Another tokenizer needs no other text, so these jobs have another key."""
    corpus, work = plan.corpus, os.path.dirname(plan.folder)
    t = corpus.tokenizer
    key = jobs.hash_of(plan.key, config.plain(t), corpus.val_share, jobs.stamps([t.path] if t.path else []))
    keep_only(work, [plan.key, key])
    written = {name: bases for name, bases in written.items() if report[name]["write"]["kept"]}
    for name in written:
        facts = report[name]["write"]
        plan.sizes.update(facts["bytes_by_language"])
        plan.hold_out(name, facts, corpus.val_share)
    texts = plan
    plan = dataclasses.replace(plan, folder=f"{work}/{key}", key=key)
    if not t.path:
        plan.run_parts("sample", "drawing texts for the tokenizer", tokens.sample_part, written)
    plan.run("making the tokenizer", tokens.train_tokenizer, [[f"{plan.folder}/tokenizer", 0, []]])
    plan.run_parts("tokenize", "tokenizing", tokens.tokenize_part, written)
    tokens.join(plan, written)
    return assemble(out, texts, plan, found, report)


def total_bytes(found):
    return sum(size for _, _, size in itertools.chain(*found.values()))


def assemble(out, texts, plan, found, report):
    """Put together in OUT what the stages made, the manifest last; returns the manifest."""
    corpus, tokenizer = plan.corpus, tokenizers.load(f"{plan.folder}/tokenizer")
    for name in ("corpus", "tokens", "tokenizer"):
        shutil.rmtree(f"{out}/{name}", ignore_errors=True)
    tokenizer.save(f"{out}/tokenizer")
    manifest = {"name": corpus.name, "dtype": tokens.token_dtype(tokenizer), "vocab": tokenizer.vocab,
                "tokenizer": {"kind": tokenizer.kind, "fingerprint": tokenizers.fingerprint(tokenizer)},
                "sources": {}, "removed": sorted(plan.removed), "settings": config.plain(corpus),
                "input_bytes": total_bytes(found), "program": plan.same[1]}
    for name in plan.limits:
        source = plan.source(name)
        manifest["sources"][name] = {
            "weight": source.weight, "licence": source.licence, "held_out": plan.limits[name],
            "dropped": stages.all_dropped(report[name]),
            **tokens.put_together(plan, out, name, texts.bases("write", [name]))}
    config.write_json(f"{out}/report.json", report)
    card.write_card(out, manifest, report)
    config.write_json(f"{out}/manifest.json", manifest)
    return manifest


def check_enough(plan, report, shown):
    """Say what was dropped as broken; stop if nothing is left to train on. shown: see first_dropped()."""
    dropped, count, size = Counter(), 0, 0
    for name, stage in report.items():
        read, left = stage["read"], stage["write"]
        for reason, n in read["dropped"].items():
            if place := shown[name, reason].get("place"):       # it could not be read
                print(f"source {name}: {n:,} dropped as {reason}; the first at {place}")
        rules, langs = clean.rules(plan.source(name).clean), left["bytes_by_language"]
        if not all(clean.applies(*pair) for pair in itertools.product(rules, langs)):
            print(f"source {name}: {clean.CODE_NOTE}")
        if note := clean.not_judged(rules, langs, plan.corpus.models):
            print(f"source {name}: {note}")
        if not left["kept"]:
            print(f"source {name}: nothing is left of its {read['in']:,} documents")
        dropped.update(stages.all_dropped(stage))
        count += left["kept"]
        size += left["bytes"]
    if count < 2 or size < LEAST:
        why = ", ".join(f"{n} {reason}" for reason, n in dropped.items()) or "none"
        raise ValueError(f"{plan.corpus.name}: documents left: {count}, bytes: {size:,}. 2 and {LEAST:,} are "
                         f"needed: add text, or set a smaller split. Dropped: {why}")


def gather(corpus):
    """Download what has an address. Returns the corpus with all its paths, and {source: its files}."""
    gathered, found = [], {}
    for s in corpus.sources:
        urls = [s.url] if isinstance(s.url, str) else s.url or []
        sums = [s.sha256] if isinstance(s.sha256, str) else s.sha256 or [None] * len(urls)
        if len(sums) != len(urls):
            raise ValueError(f"source {s.name}: give one sha256 for each url")
        with config.blame(f"source {s.name}" + (f", which comes from {s.origin}" if s.origin else "")):
            # a folder for each address: they may end in the same name
            fetched = [fetch.fetch(url, f"data/raw/{s.name}/{jobs.hash_of(url)[:8]}", sha256)
                       for url, sha256 in zip(urls, sums)]
            gathered.append(dataclasses.replace(s, path=s.path or fetched))
            found[s.name] = sources.found(gathered[-1])
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


def prepare(corpus, workers=None, cluster=None):
    """Build data/NAME unless it is there; returns its manifest. cluster: the address of a dask scheduler."""
    recipe.check_corpus(corpus)
    with alone(corpus.name):
        out, names = f"data/{corpus.name}", recipe.remove_list(corpus)
        takedown.finish(out)
        corpus = recipe.selected(corpus)
        if os.path.exists(f"{out}/manifest.json"):
            return prepared_before(corpus, out, names, workers)
        if os.path.exists(out):
            raise ValueError(f"{out} is no prepared data: it has no manifest.json; use another name")
        corpus, found = gather(corpus)
        partial = f"{out}.partial"
        os.makedirs(partial, exist_ok=True)
        manifest = build(corpus, found, partial, names, workers, cluster)
        os.rename(partial, out)
        shutil.rmtree(f"{out}/work", ignore_errors=True)
        print_table(manifest)
        print(f"wrote {out}; read {out}/DATA_CARD.md")
        return manifest


def prepared_before(corpus, out, names, workers):
    """Take out of a complete data/NAME what is to be removed, or say that there is nothing to do."""
    manifest = config.read_json(f"{out}/manifest.json")
    shutil.rmtree(f"{out}/work", ignore_errors=True)        # a kill can leave it
    new = names - set(manifest["removed"])
    if new:                                         # this needs no input files: they may be gone
        manifest = takedown.remove_documents(out, manifest, new, workers)
        print_table(manifest)
        return manifest
    corpus, found = gather(corpus)
    before = recipe.with_newer_settings(manifest["settings"])
    changed = [key for key, _, _ in config.differences(before, config.plain(corpus))
               if key not in ("remove", "accept", "part", "sizes")]
    if changed or manifest["input_bytes"] != total_bytes(found):
        raise ValueError(f"{out} was prepared from other {', '.join(changed) or 'files'}; use another name, "
                         "or delete it to do so again")
    print(f"{out} is complete")
    if manifest["program"] != jobs.program(corpus.rules or clean.RULES_FOLDER):
        print("it was made by another version of the program or rules: delete it to prepare it again")
    return manifest


def print_table(manifest):
    found = manifest["sources"]
    width = max(6, *map(len, found), 0)
    print(f"{'source':{width}}  documents    dropped          bytes   train tokens  val tokens")
    for name, s in found.items():
        print(f"{name:{width}}  {card.both(s, 'documents'):9,}  {sum(s['dropped'].values()):9,}  "
              f"{card.both(s, 'bytes'):13,}  {s['train']['tokens']:13,}  {s['val']['tokens']:10,}")


OPTIONS = {recipe.Corpus: {"name", "remove"}, recipe.Tokenizer: {"kind", "vocab", "path"},
           recipe.Source: {"field", "lang", "licence", "clean", "near", "split", "encoding"}}


def corpus_of(given, settings):
    """The Corpus of a data config or of --input, with the options and settings of the command line."""
    if "input" in given and "name" in given:
        found = [recipe.Source(name, path) for name, path in sources.named(given["input"])]
        corpus = recipe.Corpus(given["name"], found)
        for setting in settings:
            config.override(corpus, *config.split_override(setting))
    elif settings and "input" not in given:
        corpus = config.load(settings[0], settings[1:])
    else:
        raise ValueError("give a data config, or --input PATH... --name NAME")
    if not isinstance(corpus, recipe.Corpus):
        raise ValueError(f"{settings[0]} is a training config; give one of configs/data")
    if given.get("near") == "overlap":
        given["split"] = 10 ** 9                    # books are compared whole
    for part in (corpus, corpus.tokenizer, *corpus.sources):
        for key in OPTIONS[type(part)] & set(given):
            setattr(part, key, given[key])
    return corpus


def main():
    ap = config.Parser(__doc__, argument_default=argparse.SUPPRESS)
    ap.add_argument("settings", nargs="*", metavar="CONFIG field=value",
                    help="a data config, and changes to it, as in tokenizer.vocab=8000")
    ap.add_argument("--input", nargs="+", metavar="PATH",
                    help="instead: files, folders or globs, each a source (formats: docs/corpus.md)")
    ap.add_argument("--remove", metavar="FILE", help="take these out: a line is SOURCE or SOURCE/ID")
    ap.add_argument("--workers", type=config.number(1, 1024), help="processes (default: one per core)")
    ap.add_argument("--cluster", metavar="tcp://HOST:8786",
                    help="instead: the dask scheduler whose workers do the work (see docs/corpus.md)")
    ap.add_argument("--name", help="data/NAME")
    ap.add_argument("--kind", choices=tokenizers.KINDS, help="tokenizer to train (default: bpe)")
    ap.add_argument("--vocab", type=config.number(300, 1e7), help="its entries (default: 4096)")
    ap.add_argument("--tokenizer", metavar="DIR", dest="path", help="use this trained tokenizer instead")
    more = ap.add_argument_group("of every source")
    more.add_argument("--field", help="field of the records that holds the text (default: text)")
    more.add_argument("--encoding", help="of text files without a mark: windows-1251, say (default: utf-8)")
    more.add_argument("--lang", help="language, where records do not say")
    more.add_argument("--licence", help="licence, where records do not say")
    more.add_argument("--clean", nargs="+", metavar="RULE",
                      help=f"recipes or rules of corpus/clean.py: {' '.join(clean.RECIPES)}")
    more.add_argument("--near", choices=("minhash", "overlap"),
                      help="drop near duplicates, or texts that are inside a longer one of their source")
    args, unknown = ap.parse_known_args()
    given = vars(args)
    for word in unknown:                            # --field=value is a setting too
        config.split_override(word)
    prepare(corpus_of(given, given.get("settings", []) + unknown), given.get("workers"), given.get("cluster"))


if __name__ == "__main__":
    config.command(main)
