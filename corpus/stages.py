"""The stages of prepare.py from files to documents; corpus/tokens.py has the last ones.
Each works on one part of a source, or on the hashes that all parts left, and reads what the one before wrote.

    read_part -> repeats -> clean_part -> near -> write_part

A stage writes to its `part` (jobs.Part). The facts of a part are numbers that add up: in = kept + dropped.
"""
import itertools
import json
import os
from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from corpus import clean, dedup, jobs, models, sources
from corpus.text import place

SHOWN = 1000            # dropped documents written out per reason, and characters of each; counts are exact
COUNTED = ("bytes_by_language", "documents_by_language", "licences")
# What repeats() and near() write for a document is an index of this list
REASONS = [None, "removed", "duplicate", "near_duplicate", *clean.KEYS]


@dataclass
class Plan:
    """What all stages share, and how they run."""
    corpus: object                                  # a recipe.Corpus
    folder: str                                     # a part of a stage is FOLDER/STAGE/SOURCE-NUMBER.*
    removed: set                                    # names SOURCE or SOURCE/ID
    workers: int | None = None
    key: str = ""                                   # of the jobs
    sizes: dict = field(default_factory=dict)       # {language: bytes that are left}
    limits: dict = field(default_factory=dict)      # {source: the highest place() that is held out}

    def source(self, name):
        return next(s for s in self.corpus.sources if s.name == name)

    def held_out(self, name, document):
        return place(name, document["id"]) <= self.limits[name]

    def run_parts(self, stage, doing, function, parts):
        """A job for each part: function(part, plan, name, number, what it reads). parts: {name of a source:
        [BASE of an earlier stage, or files as sources.found() gives them]}. Returns {name: [BASE]}."""
        made, todo = {name: [] for name in parts}, []
        for name in parts:
            for number, reads in enumerate(parts[name]):
                earlier = isinstance(reads, str)
                size = jobs.facts(reads)["bytes"] if earlier else sum(size for *_, size in reads)
                made[name].append(f"{self.folder}/{stage}/{name}-{number:05}")
                todo.append(jobs.Job(made[name][-1], self.key, size, (self, name, number, reads)))
        jobs.run_jobs(doing, function, todo, self.workers)
        return made

    def run_whole(self, stage, doing, function, parts):
        """One job for all: function(part, plan, parts)."""
        jobs.run_jobs(doing, function, [jobs.Job(f"{self.folder}/{stage}", self.key, 0, (self, parts))], 0)


# ---- documents ----

def documents(path):
    """(document, byte it begins at) of a .jsonl file of ours."""
    with open(path, "rb") as f:
        at = 0
        for line in f:
            yield json.loads(line), at
            at += len(line)


def is_removed(document, source, names):
    """Whether one of `names`, SOURCE or SOURCE/ID, means this document."""
    return source in names or f"{source}/{document['id']}" in names


def begin_facts(part, **more):
    part.facts = {"in": 0, "kept": 0, "bytes": 0, "dropped": Counter(), "lowest": 1.0, **more}
    part.facts |= {name: Counter() for name in COUNTED}
    part.file("jsonl")


def pass_on(part, document):
    """Count a document, and write it to .jsonl, or to .dropped if it has "dropped", the reason."""
    facts = part.facts
    facts["in"] += 1
    if "dropped" in document:
        drop(part, document)
        return
    size, lang = len(document["text"].encode()), document.get("lang") or "unknown"
    part.add_line("jsonl", document)
    facts["kept"] += 1
    facts["bytes"] += size
    facts["bytes_by_language"][lang] += size
    facts["documents_by_language"][lang] += 1
    facts["licences"][document.get("licence") or "unknown"] += 1
    facts["lowest"] = min(facts["lowest"], place(document["source"], document["id"]))


def drop(part, document):
    """Without its text if it is a copy or is to be removed."""
    reason = document["dropped"]
    part.facts["dropped"][reason] += 1
    if part.facts["dropped"][reason] <= SHOWN:
        shown = {key: document[key] for key in document if key not in ("text", "dropped")}
        if "text" in document and reason not in ("removed", "duplicate", *clean.KEYS):
            shown["text"] = document["text"][:SHOWN]
        part.add_line("dropped", shown | {"dropped": reason})


def rules_by_kind(source):
    """The rules of a source: (keys that documents must not share, line rule or None, rules for one text)."""
    names = clean.rules(source.clean)
    keys = [n for n in names if n in clean.KEYS]
    lines = [n for n in names if n in clean.LINES]
    rest = [n for n in names if n in clean.RULES]
    if names != keys + lines + rest or len(lines) > 1:
        raise ValueError(f"source {source.name}: in clean, {', '.join(clean.KEYS)} come first, then at most "
                         f"one of {', '.join(clean.LINES)}, then the rules that read one text")
    return keys, lines[0] if lines else None, rest


# ---- read ----

def read_part(part, plan, name, number, files):
    """Files to documents, and hashes to find copies."""
    source = plan.source(name)
    keys, line_rule, _ = rules_by_kind(source)
    begin_facts(part, first={})
    for document in sources.read_documents(source, files, part.tick):
        reason = document.get("dropped") or unwanted(document, source, plan.removed)
        if reason:
            document["dropped"] = reason
            part.facts["first"].setdefault(reason, document.get("place", f"{name}/{document['id']}"))
        if reason == "removed":
            part.add_numbers("removed", [dedup.key(document["text"])], "<u8")
        if not reason:
            part.add_numbers("duplicate", [dedup.key(document["text"])], "<u8")
            for rule in keys:
                part.add_numbers(rule, [dedup.key(clean.KEYS[rule](document))], "<u8")
            if line_rule:
                least, _, _, normal = clean.LINES[line_rule]
                hashes = dedup.lines(document["text"], least, normal)
                part.add_numbers("lines", hashes, "<u8")
                part.add_numbers("counts", [len(hashes)], "<i8")
        pass_on(part, document)


def unwanted(document, source, removed):
    """Why a document that was read is not taken, or None."""
    if is_removed(document, source.name, removed):
        return "removed"
    if not document["text"].strip():
        return "empty"
    if source.licences is not None and document.get("licence") not in source.licences:
        return "licence"
    return None


# ---- repeats and near: copies among the parts ----

def answers_for(parts):
    """{BASE: for each document an index of REASONS}, with no reason yet."""
    bases = itertools.chain.from_iterable(parts.values())
    return {base: np.zeros(jobs.facts(base)["kept"], np.uint8) for base in bases}


def mark(answers, bases, found, reason):
    """Drop what has no reason yet and is True in `found`, an array for each of `bases`."""
    for base, dropped in zip(bases, found):
        answers[base][dropped & (answers[base] == 0)] = REASONS.index(reason)


def mark_copies(answers, bases, reason):
    """Drop documents whose hash in the file named `reason` an earlier one has that is not dropped."""
    hashes = [jobs.numbers(base, reason, "<u8") for base in bases]
    mark(answers, bases, dedup.repeated(hashes, alive=[answers[base] == 0 for base in bases]), reason)


def per_part(array, sizes):
    """An array over all documents, cut into one of each size. per_part([1, 2, 3], [2, 1]) -> [1, 2], [3]"""
    return np.split(array, np.cumsum(sizes))[:-1]


def put(part, base, name, array):
    """Write what belongs to the part BASE, as SOURCE-NUMBER.NAME. It is closed: there may be thousands."""
    name = f"{os.path.basename(base)}.{name}"
    part.add_numbers(name, array, array.dtype)
    part.file(name).close()


def put_there(plan, stage, base, name, dtype):
    return jobs.numbers(f"{plan.folder}/{stage}", f"{os.path.basename(base)}.{name}", dtype)


def repeats(part, plan, parts):
    """For each part .drop, its answers; if there is a line rule .cut, whether each line goes.
    parts: {source: [BASE of read_part]}. A copy of a document that was asked to be removed is removed too."""
    answers = answers_for(parts)
    gone = np.concatenate([jobs.numbers(base, "removed", "<u8") for base in answers])
    copied = [np.isin(jobs.numbers(base, "duplicate", "<u8"), gone) for base in answers]
    mark(answers, answers, copied, "removed")
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
            sizes = np.concatenate([jobs.numbers(base, "sizes", "<i8") for base in bases])
            shingles = np.concatenate([jobs.numbers(base, "shingles", "<u8") for base in bases])
            inside = dedup.overlapping(per_part(shingles, sizes))
            mark(answers, bases, per_part(inside, [len(answers[base]) for base in bases]), "near_duplicate")
    sizes = [len(answers[base]) for base in alike]
    if sum(sizes):
        for base in alike:              # one file of all signatures: it need not fit in memory
            part.file("signatures").write(jobs.numbers(base, "signatures", np.uint8).tobytes())
        part.file("signatures").flush()
        signatures = np.memmap(part.file("signatures").name, "<u2", "r").reshape(-1, dedup.HASHES)
        mark(answers, alike, per_part(dedup.near(signatures, plan.corpus.alike), sizes), "near_duplicate")
    for base, answer in answers.items():
        put(part, base, "drop", answer)


# ---- clean and write ----

def judged(part, plan, base, stage):
    """The documents of a part; those that `stage` found a reason against have it as "dropped"."""
    answers = put_there(plan, stage, base, "drop", np.uint8)
    for (document, _), answer in zip(documents(f"{base}.jsonl"), answers, strict=True):
        part.tick(len(document["text"].encode()))
        if answer:
            document["dropped"] = REASONS[answer]
        yield document


def clean_part(part, plan, name, number, read):
    """Leave out what repeats, then apply the rules of the source, document by document."""
    source, line = plan.source(name), 0
    _, line_rule, rules = rules_by_kind(source)
    cuts = put_there(plan, "repeats", read, "cut", bool)
    begin_facts(part, changed=Counter(), examples={})
    for document in judged(part, plan, read, "repeats"):
        text, changed = document["text"], {}
        if line_rule:
            lines = text.split("\n")
            cut = cuts[line:line + len(lines)]
            line += len(lines)
            if cut.any() and clean.applies(line_rule, document.get("lang")):
                text = "\n".join(itertools.compress(lines, ~cut))
                changed[line_rule] = document["text"], text
                if not text.strip():
                    document.setdefault("dropped", line_rule)
        if "dropped" not in document:
            text, reason, more = apply_rules(part, document, text, rules, plan.corpus)
            if reason:
                document["dropped"] = reason
            else:
                note_changes(part, document["id"], changed | more)
                document["text"] = text
                part.add_numbers("duplicate", [dedup.key(text)], "<u8")
                add_signature(part, text, source.near)
        pass_on(part, document)


def apply_rules(part, document, text, rules, corpus):
    """What clean.run() says. A document whose language is needed and not known gets it here."""
    given = corpus.models or {}
    if {"language", "ccnet_language"} & {*rules} and not document.get("lang"):
        found, _ = models.language(text, given.get("language"))
        if found:
            document["lang"] = found
    if not all(clean.applies(rule, document.get("lang")) for rule in rules):
        part.facts["code"] = part.facts.get("code", 0) + 1
    return clean.run(text, rules, clean.Row(document.get("lang"), corpus.rules, given))


def note_changes(part, name, changed):
    """Count the rules that changed a document: {rule: (before, after)}. The first change of each is shown;
    what was masked as personal is not."""
    for rule, (before, after) in changed.items():
        part.facts["changed"][rule] += 1
        if rule not in part.facts["examples"]:
            first = max(0, len(os.path.commonprefix([before, after])) - 20)
            shown = None if rule.startswith("pii_") else before[first:first + 80]
            part.facts["examples"][rule] = {"id": name, "before": shown, "after": after[first:first + 80]}


def add_signature(part, text, kind):
    """What near() compares: .signatures has a row per document; .shingles some hashes, .sizes how many."""
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

def write_dropped(out, bases):
    """OUT/dropped/REASON.jsonl: the first SHOWN of each reason, in order."""
    os.makedirs(f"{out}/dropped")
    shown = Counter()
    for file in filter(None, (jobs.path(base, "dropped") for base in bases)):
        for document, _ in documents(file):
            reason = document["dropped"]
            shown[reason] += 1
            if shown[reason] <= SHOWN:
                with open(f"{out}/dropped/{reason}.jsonl", "a", encoding="utf-8") as f:
                    f.write(json.dumps(document, ensure_ascii=False) + "\n")


def added(bases):
    """The facts of jobs as one: numbers are summed, by key too; of examples the first stay."""
    total = {}
    for base in bases:
        for key, value in jobs.facts(base).items():
            if key == "lowest":
                total[key] = min(total.get(key, 1.0), value)
            elif key in ("examples", "first"):
                total[key] = {**value, **total.get(key, {})}
            elif isinstance(value, dict):
                counts = Counter(total.get(key, {}))
                counts.update(value)            # unlike +, it keeps a 0
                total[key] = dict(counts)
            else:
                total[key] = total.get(key, 0) + value
    return total
