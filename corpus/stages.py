"""The stages of prepare.py from files to documents; corpus/tokens.py has the last ones.

    read_part -> repeats -> clean_part -> near -> write_part

Each works on one part of a source, but for repeats and near, which are in corpus/across.py. It reads what the
one before wrote, and writes to its `part` (jobs.Part). The facts of a part are numbers that add up:
in = kept + dropped.
"""
import glob
import itertools
import json
import os
import shutil
from collections import Counter
from dataclasses import dataclass, field

import numpy as np

import config
from corpus import across, clean, dedup, jobs, models, recipe, sources
from corpus.text import place

SHOWN = 1000            # dropped documents written out per source and reason, and characters of each


@dataclass
class Plan:
    """What all stages share, and how they run."""
    corpus: recipe.Corpus | None                    # None: of a removal
    folder: str                                     # the folder of a job is FOLDER/STAGE/SOURCE-NUMBER
    removed: set                                    # names SOURCE or SOURCE/ID
    workers: int | None = None
    cluster: str | None = None                      # see jobs.run_jobs()
    same: list | None = None
    key: str = ""                                   # of the jobs
    parts: dict = field(default_factory=dict)       # {source: how many parts it has}
    sizes: Counter = field(default_factory=Counter)     # {language: bytes that are left}
    limits: dict = field(default_factory=dict)      # {source: the highest place() that is held out}
    said: str = ""                                  # what the last jobs did

    def source(self, name):
        return next(s for s in self.corpus.sources if s.name == name)

    def hold_out(self, name, facts, share):
        """Of a small source one document is held out, that with the lowest place, but never its only one."""
        self.limits[name] = max(share, facts["lowest"])
        if facts["kept"] == 1:
            self.limits[name] = -1
            print(f"source {name}: nothing is held out for validation, since it has one document")

    def held_out(self, name, document):
        return place(name, document["id"]) <= self.limits[name]

    def base(self, stage, name, number):
        return f"{self.folder}/{stage}/{name}-{number:05}"

    def each(self, stage, names):
        """(name, number, BASE) of each part of the sources `names`."""
        for name in names:
            for number in range(self.parts[name]):
                yield name, number, self.base(stage, name, number)

    def bases(self, stage, names):
        return [base for _, _, base in self.each(stage, names)]

    def run(self, doing, function, todo):
        """Do jobs: function(part, plan, *arguments) for each [BASE, bytes, arguments]."""
        os.makedirs(self.folder, exist_ok=True)
        facts = {**vars(self), "removed": sorted(self.removed)}
        facts["corpus"] = self.corpus and config.plain(self.corpus)
        config.write_json(f"{self.folder}/plan.json", facts)
        where = f"{function.__module__}.{function.__name__}"
        todo = [jobs.Job(base, self.key, size, "corpus.stages.perform", [self.folder, where, arguments])
                for base, size, arguments in todo]
        jobs.run_jobs(doing, todo, self.workers, self.cluster, self.same, quiet=doing == self.said)
        self.said = doing

    def run_parts(self, stage, doing, function, parts):
        """A job for each part: function(part, plan, name, number, what it reads). parts: {name of a source:
        [BASE of an earlier stage, or files as sources.found() gives them]}. Returns {name: [BASE]}."""
        todo = []
        self.parts |= {name: len(inputs) for name, inputs in parts.items()}
        for name, inputs in parts.items():
            for number, reads in enumerate(inputs):
                earlier = isinstance(reads, str)
                size = jobs.facts(reads)["bytes"] if earlier else sum(size for _, _, size in reads)
                todo.append([self.base(stage, name, number), size, [name, number, reads]])
        self.run(doing, function, todo)
        return {name: self.bases(stage, [name]) for name in parts}


def perform(part, folder, where, arguments):
    """One job. where: its function, as in corpus.stages.read_part; folder: the plan's."""
    facts = config.read_json(f"{folder}/plan.json")
    facts |= {"removed": {*facts["removed"]}, "sizes": Counter(facts["sizes"])}
    facts["corpus"] = facts["corpus"] and recipe.corpus_from(facts["corpus"])
    jobs.function_named(where)(part, Plan(**facts), *arguments)


# ---- documents ----

def documents(*paths):
    """(document, byte of its file it begins at) of .jsonl files of ours."""
    for path in paths:
        with open(path, "rb") as f:
            at = 0
            for line in f:
                yield json.loads(line), at
                at += len(line)


def language_of(document):
    return document.get("lang") or "unknown"


def is_removed(document, source, names):
    """Whether one of `names`, SOURCE or SOURCE/ID, means this document."""
    return source in names or f"{source}/{document['id']}" in names


def begin_facts(part, **more):
    part.facts = {"in": 0, "kept": 0, "bytes": 0, "lowest": 1.0, **more}
    part.facts |= {"dropped": Counter(), "bytes_by_language": Counter()}
    part.file("kept.jsonl")
    part.file("dropped.jsonl")


def pass_on(part, document):
    """Count a document, and write it to kept.jsonl, or to dropped.jsonl if it has "dropped", the reason."""
    facts = part.facts
    facts["in"] += 1
    if "dropped" in document:
        drop(part, document)
        return
    size = len(document["text"].encode())
    part.add_line("kept.jsonl", document)
    facts["kept"] += 1
    facts["bytes"] += size
    facts["bytes_by_language"][language_of(document)] += size
    facts["lowest"] = min(facts["lowest"], place(document["source"], document["id"]))


def drop(part, document):
    """Without its text if it is a copy or is to be removed."""
    reason = document["dropped"]
    part.facts["dropped"][reason] += 1
    if part.facts["dropped"][reason] <= SHOWN:
        shown = {key: document[key] for key in document if key not in ("text", "dropped")}
        if "text" in document and reason not in ("removed", "duplicate", *clean.KEYS):
            shown["text"] = document["text"][:SHOWN]
        part.add_line("dropped.jsonl", shown | {"dropped": reason})


# ---- read ----

def read_part(part, plan, name, number, files):
    """Files to documents, and hashes to find copies."""
    source = plan.source(name)
    keys, line_rule, _ = recipe.rules_by_kind(source)
    begin_facts(part, lost_templates=Counter())
    for document in sources.read_documents(source, files, part.tick):
        part.facts["lost_templates"].update(document.pop("lost", {}))
        if "dropped" in document:
            pass
        elif is_removed(document, name, plan.removed):
            document["dropped"] = "removed"
            part.add_numbers("removed", [dedup.key(document["text"])], "<u8")
        elif not document["text"].strip():
            document["dropped"] = "empty"
        elif source.licences is not None and document.get("licence") not in source.licences:
            document["dropped"] = "licence"
        else:
            part.add_numbers("duplicate", [dedup.key(document["text"])], "<u8")
            for rule in keys:
                part.add_numbers(rule, [dedup.key(clean.KEYS[rule](document))], "<u8")
            if line_rule:
                least, _, _, normal = clean.LINES[line_rule]
                hashes = dedup.lines(document["text"], least, normal)
                part.add_numbers("lines", hashes, "<u8")
                part.add_numbers("counts", [len(hashes)], "<i8")
        pass_on(part, document)


# ---- clean and write ----

def judged(part, base, answers):
    """The documents of a part; those that across.py found a reason against have it as "dropped"."""
    drop = jobs.numbers(answers, "drop", np.uint8)
    for (document, _), answer in zip(documents(f"{base}/kept.jsonl"), drop, strict=True):
        part.tick(len(document["text"].encode()))
        if answer:
            document["dropped"] = across.REASONS[answer]
        yield document


def clean_part(part, plan, name, number, read):
    """Leave out what repeats, then apply the rules of the source, document by document."""
    source, given = plan.source(name), plan.corpus.models or {}
    _, line_rule, rules = recipe.rules_by_kind(source)
    repeats = plan.base("repeats", name, number)
    cuts = jobs.numbers(repeats, "cut", bool)
    begin_facts(part, changed=Counter())
    for document in judged(part, read, repeats):
        text, changed = document["text"], []
        if line_rule:
            lines = text.split("\n")
            cut, cuts = np.split(cuts, [len(lines)])
            if cut.any() and clean.applies(line_rule, document.get("lang")):
                text = "\n".join(itertools.compress(lines, ~cut))
                changed = [line_rule]
                if not text.strip():
                    document.setdefault("dropped", line_rule)
        if "dropped" not in document:
            if {"language", "ccnet_language"} & {*rules} and not document.get("lang"):
                found, _ = models.language(text, given.get("language"))
                if found:
                    document["lang"] = found
            row = clean.Row(document.get("lang"), plan.corpus.rules, given)
            text, reason, more = clean.run(text, rules, row)
            if reason:
                document["dropped"] = reason
            else:
                part.facts["changed"].update([*changed, *more])
                document["text"] = text
                part.add_numbers("duplicate", [dedup.key(text)], "<u8")
                add_signature(part, text, source.near)
        pass_on(part, document)


def add_signature(part, text, kind):
    """What near() compares: `signatures` has a row per document; `shingles` some hashes, `sizes` how many."""
    if kind == "minhash":
        part.add_numbers("signatures", dedup.signature(dedup.shingles(text)), "<u2")
    elif kind == "overlap":
        sample = dedup.sampled(dedup.shingles(text))
        part.add_numbers("shingles", sample, "<u8")
        part.add_numbers("sizes", [len(sample)], "<i8")


def write_part(part, plan, name, number, cleaned):
    begin_facts(part)
    for document in judged(part, cleaned, plan.base("near", name, number)):
        pass_on(part, document)


# ---- what the parts counted, put together ----

def added(bases):
    """The facts of jobs as one: numbers are summed, by key too; the lowest `lowest` stays."""
    total = {}
    for base in bases:
        for key, value in jobs.facts(base).items():
            if isinstance(value, dict):
                total.setdefault(key, Counter()).update(value)
            elif key == "lowest":
                total[key] = min(total.get(key, 1.0), value)
            else:
                total[key] = total.get(key, 0) + value
    return total


def all_dropped(stages):
    """{reason: documents} of a source, from {stage: its facts}."""
    return sum((Counter(facts["dropped"]) for facts in stages.values()), Counter())


def write_dropped(out, made):
    """OUT/dropped/REASON.jsonl: the first SHOWN of each source and reason, in order. made: {stage: {source:
    [BASE]}}"""
    shutil.rmtree(f"{out}/dropped", ignore_errors=True)
    os.makedirs(f"{out}/dropped")
    shown = Counter()
    for stage in made.values():
        for name, bases in stage.items():
            add_dropped(out, name, bases, shown)


def add_dropped(out, name, bases, shown):
    """Add what one stage dropped of source `name`. shown: {(source, reason): documents so far}"""
    for base in bases:
        if all(shown[name, reason] >= SHOWN for reason in jobs.facts(base)["dropped"]):
            continue                    # of thousands of parts the first ones have them all
        for document, _ in documents(f"{base}/dropped.jsonl"):
            reason = document["dropped"]
            shown[name, reason] += 1
            if shown[name, reason] <= SHOWN:
                with open(f"{out}/dropped/{reason}.jsonl", "a", encoding="utf-8") as f:
                    f.write(json.dumps(document, ensure_ascii=False) + "\n")


def first_dropped(out):
    """{(source, reason): the first document in OUT/dropped}"""
    found = {}
    for document, _ in documents(*glob.glob(f"{out}/dropped/*.jsonl")):
        found.setdefault((document["source"], document["dropped"]), document)
    return found
