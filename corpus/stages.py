"""The stages of prepare.py from files to documents; corpus/tokens.py has the last ones.

    read_part -> repeats -> clean_part -> near -> write_part

Each works on one part of a source, or on the hashes that all parts left. It reads what the one before wrote,
and writes to its `part` (jobs.Part). The facts of a part are numbers that add up: in = kept + dropped.
"""
import glob
import itertools
import json
import os
import shutil
from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from corpus import clean, dedup, jobs, models, sources
from corpus.text import place

SHOWN = 1000            # dropped documents written out per source and reason, and characters of each
# What repeats() and near() write for a document is an index of this list
REASONS = [None, "removed", "duplicate", "near_duplicate", *clean.KEYS]


@dataclass
class Plan:
    """What all stages share, and how they run."""
    corpus: object                                  # a recipe.Corpus
    folder: str                                     # the folder of a job is FOLDER/STAGE/SOURCE-NUMBER
    removed: set                                    # names SOURCE or SOURCE/ID
    workers: int | None = None
    key: str = ""                                   # of the jobs
    sizes: Counter = field(default_factory=Counter)     # {language: bytes that are left}
    limits: dict = field(default_factory=dict)      # {source: the highest place() that is held out}

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

    def run_parts(self, stage, doing, function, parts):
        """A job for each part: function(part, plan, name, number, what it reads). parts: {name of a source:
        [BASE of an earlier stage, or files as sources.found() gives them]}. Returns {name: [BASE]}."""
        made, todo = {name: [] for name in parts}, []
        for name, inputs in parts.items():
            for number, reads in enumerate(inputs):
                base = f"{self.folder}/{stage}/{name}-{number:05}"
                earlier = isinstance(reads, str)
                size = jobs.facts(reads)["bytes"] if earlier else sum(size for _, _, size in reads)
                made[name].append(base)
                todo.append(jobs.Job(base, self.key, size, (self, name, number, reads)))
        jobs.run_jobs(doing, function, todo, self.workers)
        return made

    def run_whole(self, stage, doing, function, parts):
        """One job for all: function(part, plan, parts)."""
        jobs.run_jobs(doing, function, [jobs.Job(f"{self.folder}/{stage}", self.key, 0, (self, parts))], 0)


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


def rules_by_kind(source):
    """The rules of a source: (keys that documents must not share, line rule or None, rules for one text)."""
    names = clean.rules(source.clean)
    keys, lines, rest = ([n for n in names if n in kind] for kind in (clean.KEYS, clean.LINES, clean.RULES))
    if names != keys + lines + rest or len(lines) > 1:
        raise ValueError(f"source {source.name}: in clean, {', '.join(clean.KEYS)} come first, then at most "
                         f"one of {', '.join(clean.LINES)}, then the other rules")
    return keys, lines[0] if lines else None, rest


# ---- read ----

def read_part(part, plan, name, number, files):
    """Files to documents, and hashes to find copies."""
    source = plan.source(name)
    keys, line_rule, _ = rules_by_kind(source)
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


# ---- repeats and near: copies among the parts ----

def answers_for(parts):
    """{BASE: for each document an index of REASONS}, with no reason yet."""
    bases = itertools.chain.from_iterable(parts.values())
    return {base: np.zeros(jobs.facts(base)["kept"], np.uint8) for base in bases}


def joined(bases, name, dtype):
    return np.concatenate([jobs.numbers(base, name, dtype) for base in bases])


def per_part(array, sizes):
    """An array over all documents, cut into one of each size. per_part([1, 2, 3], [2, 1]) -> [1, 2], [3]"""
    return np.split(array, np.cumsum(sizes))[:-1]


def mark(answers, bases, found, reason):
    """Drop what has no reason yet and is True in `found`, an array over all documents of `bases`."""
    for base, dropped in zip(bases, per_part(found, [len(answers[base]) for base in bases])):
        answers[base][dropped & (answers[base] == 0)] = REASONS.index(reason)


def mark_copies(answers, bases, reason):
    """Drop documents whose hash in the file named `reason` an earlier one has that is not dropped."""
    hashes = [jobs.numbers(base, reason, "<u8") for base in bases]
    copies = dedup.repeated(hashes, alive=[answers[base] == 0 for base in bases])
    mark(answers, bases, np.concatenate(copies), reason)


def put(part, base, name, array):
    """Write what belongs to the part BASE, as SOURCE-NUMBER.NAME. It is closed: there may be thousands."""
    name = f"{os.path.basename(base)}.{name}"
    part.add_numbers(name, array, array.dtype)
    part.file(name).close()


def put_there(plan, stage, base, name, dtype):
    return jobs.numbers(f"{plan.folder}/{stage}", f"{os.path.basename(base)}.{name}", dtype)


def repeats(part, plan, parts):
    """For each part .drop, its answers; if there is a line rule .cut, whether each line goes. A copy of a
    document that was asked to be removed is removed too. parts: {source: [BASE of read_part]}"""
    answers = answers_for(parts)
    gone = np.isin(joined(answers, "duplicate", "<u8"), joined(answers, "removed", "<u8"))
    mark(answers, answers, gone, "removed")
    mark_copies(answers, answers, "duplicate")              # among all sources
    for name, bases in parts.items():
        keys, line_rule, _ = rules_by_kind(plan.source(name))
        for rule in keys:
            mark_copies(answers, bases, rule)
        if line_rule:
            _, least, first_stays, _ = clean.LINES[line_rule]
            lines = [jobs.numbers(base, "lines", "<u8") for base in bases]
            alive = [np.repeat(answers[base] == 0, jobs.numbers(base, "counts", "<i8")) for base in bases]
            for base, cut in zip(bases, dedup.repeated(lines, least, first_stays, alive)):
                put(part, base, "cut", cut)
    for base, answer in answers.items():
        put(part, base, "drop", answer)


def near(part, plan, parts):
    """For each part .drop. Rules may have made copies too. parts: {source: [BASE of clean_part]}"""
    answers = answers_for(parts)
    mark_copies(answers, answers, "duplicate")
    alike = []                          # parts compared by MinHash, among all sources that say so
    for name, bases in parts.items():
        if plan.source(name).near == "minhash":
            alike += bases
        elif plan.source(name).near == "overlap":
            books = per_part(joined(bases, "shingles", "<u8"), joined(bases, "sizes", "<i8"))
            mark(answers, bases, dedup.overlapping(books), "near_duplicate")
    if any(len(answers[base]) for base in alike):
        file = part.file("signatures")  # of all parts: they need not fit in memory
        for base in alike:
            file.write(jobs.numbers(base, "signatures", np.uint8).tobytes())
        file.flush()
        signatures = np.memmap(file.name, "<u2", "r").reshape(-1, dedup.HASHES)
        mark(answers, alike, dedup.near(signatures, plan.corpus.alike), "near_duplicate")
    for base, answer in answers.items():
        put(part, base, "drop", answer)


# ---- clean and write ----

def judged(part, plan, base, stage):
    """The documents of a part; those that `stage` found a reason against have it as "dropped"."""
    answers = put_there(plan, stage, base, "drop", np.uint8)
    for (document, _), answer in zip(documents(f"{base}/kept.jsonl"), answers, strict=True):
        part.tick(len(document["text"].encode()))
        if answer:
            document["dropped"] = REASONS[answer]
        yield document


def clean_part(part, plan, name, number, read):
    """Leave out what repeats, then apply the rules of the source, document by document."""
    source, given = plan.source(name), plan.corpus.models or {}
    _, line_rule, rules = rules_by_kind(source)
    cuts = put_there(plan, "repeats", read, "cut", bool)
    begin_facts(part, changed=Counter())
    for document in judged(part, plan, read, "repeats"):
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
    for document in judged(part, plan, cleaned, "near"):
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


def write_dropped(out, bases):
    """OUT/dropped/REASON.jsonl: the first SHOWN of each source and reason, in order."""
    shutil.rmtree(f"{out}/dropped", ignore_errors=True)
    os.makedirs(f"{out}/dropped")
    shown = Counter()
    for document, _ in documents(*(f"{base}/dropped.jsonl" for base in bases)):
        reason = document["dropped"]
        shown[document["source"], reason] += 1
        if shown[document["source"], reason] <= SHOWN:
            with open(f"{out}/dropped/{reason}.jsonl", "a", encoding="utf-8") as f:
                f.write(json.dumps(document, ensure_ascii=False) + "\n")


def first_dropped(out):
    """{(source, reason): the first document in OUT/dropped}"""
    found = {}
    for document, _ in documents(*glob.glob(f"{out}/dropped/*.jsonl")):
        found.setdefault((document["source"], document["dropped"]), document)
    return found
