"""The stages of prepare.py from files to documents; corpus/tokens.py has the last ones.
Each works on one part of a source, or on the hashes that all parts left, and reads what the one before wrote.

    read_part -> repeats -> clean_part -> near -> write_part -> train_tokenizer -> tokenize_part

A stage is function(part, plan, ...): `part` is what it writes (jobs.Part), `plan` what all stages share.
The facts of a part are numbers that add up: documents in = kept + dropped, by reason.
"""
import functools
import itertools
import json
import os
from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from corpus import clean, dedup, jobs, models, sources
from corpus.text import place

SHOWN = 1000            # dropped documents written out per reason, and characters of each; counts are exact
LANGUAGES = ("bytes_by_language", "documents_by_language", "licences")


@dataclass
class Plan:
    """What all stages share. `sizes` and `limits` are known when the documents are written."""
    corpus: object                                  # a recipe.Corpus
    folder: str                                     # a part of a stage is FOLDER/STAGE/SOURCE-NUMBER.*
    removed: set                                    # names SOURCE or SOURCE/ID
    workers: int | None = None
    sizes: dict = field(default_factory=dict)       # {language: bytes}
    limits: dict = field(default_factory=dict)      # {source: the highest place() that is held out}


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
    """Every stage that passes documents on counts these."""
    part.facts = {"in": 0, "kept": 0, "bytes": 0, "dropped": Counter(), **more}
    part.file("jsonl")


def begin_written_facts(part):
    begin_facts(part, **{name: Counter() for name in LANGUAGES}, lowest=1.0)


def keep(part, document):
    """Pass a document on. Returns its bytes."""
    size = len(document["text"].encode())
    part.add_line("jsonl", document)
    part.facts["kept"] += 1
    part.facts["bytes"] += size
    return size


def keep_written(part, document, source):
    """Pass a document on to corpus/, and count what the manifest says of it."""
    size, lang = keep(part, document), document.get("lang") or "unknown"
    part.facts["bytes_by_language"][lang] += size
    part.facts["documents_by_language"][lang] += 1
    part.facts["licences"][document.get("licence") or "unknown"] += 1
    part.facts["lowest"] = min(part.facts["lowest"], place(source, document["id"]))


def drop(part, document, reason):
    """Count a document and write it to .dropped, without its text if it is a copy or is to be removed."""
    part.facts["dropped"][reason] += 1
    if part.facts["dropped"][reason] <= SHOWN:
        shown = {key: value for key, value in document.items() if key != "text"}
        if "text" in document and reason not in ("removed", "duplicate", *clean.KEYS):
            shown["text"] = document["text"][:SHOWN]
        part.add_line("dropped", shown | {"dropped": reason})


def rules_by_kind(source):
    """The rules of a source: (keys that documents must not share, line rule or None, rules for one text)."""
    names = clean.rules(source.clean)
    keys = [n for n in names if n in clean.KEYS]
    lines = [n for n in names if n in clean.LINES]
    rest = [n for n in names if n in clean.RULES]
    if len(lines) > 1:
        raise ValueError(f"source {source.name}: {' and '.join(lines)} cannot be used together; choose one")
    if names != keys + lines + rest:
        raise ValueError(f"source {source.name}: {', '.join(keys + lines)} must come before the rules "
                         f"that read one text: {', '.join(rest)}")
    return keys, lines[0] if lines else None, rest


# ---- read ----

def read_part(part, plan, source, number, files):
    """Files to documents, and hashes to find copies: in .keys a row per document, in .lines one per line."""
    keys, line_rule, _ = rules_by_kind(source)
    begin_facts(part, first={})
    for document in sources.read_documents(source, files, part.tick):
        part.facts["in"] += 1
        reason = document.pop("dropped", None) or unwanted(document, source, plan.removed)
        if reason:
            part.facts["first"].setdefault(reason, document.get("place", f"{source.name}/{document['id']}"))
            if reason == "removed":
                part.add_numbers("removed", [dedup.key(document["text"])], "<u8")
            drop(part, document, reason)
            continue
        text = document["text"]
        values = [text, *(clean.KEYS[k](document) for k in keys)]
        part.add_numbers("keys", [dedup.key(value) for value in values], "<u8")
        if line_rule:
            least, _, _, normal = clean.LINES[line_rule]
            hashes = dedup.lines(text, least, normal)
            part.add_numbers("lines", hashes, "<u8")
            part.add_numbers("counts", [len(hashes)], "<i8")
        keep(part, document)


def unwanted(document, source, removed):
    """Why a document that was read is not taken, or None."""
    if is_removed(document, source.name, removed):
        return "removed"
    if not document["text"].strip():
        return "empty"
    if source.licences is not None and document.get("licence") not in source.licences:
        return "licence"
    return None


# ---- repeats ----

KEPT, REMOVED, DUPLICATE = range(3)


def reasons(keys):
    """What repeats() writes for a document is an index of this list. 2 + i is for column i of .keys."""
    return [None, "removed", "duplicate", *keys]


def per_part(array, sizes):
    """An array over all documents, cut into one of each size. per_part([1, 2, 3], [2, 1]) -> [[1, 2], [3]]"""
    ends = np.cumsum(sizes, dtype=int)
    return [array[end - size:end] for end, size in zip(ends, sizes)]


def repeats(part, plan, parts):
    """For each part .drop, the reason for each document; if there is a line rule .cut, a bit for each line.

    parts: {source: [BASE of read_part]}. A copy of a document that was asked to be removed is removed too.
    """
    keys, gone = {}, []
    for source in plan.corpus.sources:
        columns = 1 + len(rules_by_kind(source)[0])
        for base in parts[source.name]:
            keys[base] = jobs.numbers(base, "keys", "<u8").reshape(-1, columns)
            gone.append(jobs.numbers(base, "removed", "<u8"))
    answers = {base: np.full(len(rows), KEPT, np.uint8) for base, rows in keys.items()}
    exact = dedup.repeated([rows[:, 0] for rows in keys.values()])          # among all sources
    gone = np.concatenate(gone)
    for base, again in zip(keys, exact):
        answers[base][again] = DUPLICATE
        answers[base][np.isin(keys[base][:, 0], gone)] = REMOVED
    for source in plan.corpus.sources:
        bases = parts[source.name]
        key_rules, line_rule, _ = rules_by_kind(source)
        for column in range(1, 1 + len(key_rules)):
            alive = [answers[base] == KEPT for base in bases]
            found = dedup.repeated([keys[base][:, column] for base in bases], alive=alive)
            for base, again in zip(bases, found):
                answers[base][again] = DUPLICATE + column
        for base in bases:
            put(part, base, "drop", answers[base])
        if line_rule:
            repeated_lines(part, bases, line_rule, [answers[base] == KEPT for base in bases])


def repeated_lines(part, bases, line_rule, alive):
    """Write .cut. `alive` has an array for each part: the documents that are not dropped already."""
    _, least, first_stays, _ = clean.LINES[line_rule]
    lines = [jobs.numbers(base, "lines", "<u8") for base in bases]
    alive = [np.repeat(a, jobs.numbers(base, "counts", "<i8")) for base, a in zip(bases, alive)]
    for base, cut in zip(bases, dedup.repeated(lines, least, first_stays, alive)):
        put(part, base, "cut", np.packbits(cut))


def put(part, base, name, array):
    """Write what belongs to the part BASE, as SOURCE-NUMBER.NAME. It is closed: there may be thousands."""
    name = f"{os.path.basename(base)}.{name}"
    part.add_numbers(name, array, array.dtype)
    part.file(name).close()


def put_there(plan, stage, base, name):
    """What `stage` put for the part BASE: an array of bytes."""
    return jobs.numbers(f"{plan.folder}/{stage}", f"{os.path.basename(base)}.{name}", np.uint8)


# ---- clean ----

def clean_part(part, plan, source, number, read):
    """Leave out what repeats, then apply the rules of the source, document by document."""
    keys, line_rule, rules = rules_by_kind(source)
    begin_facts(part, changed=Counter(), examples={})
    why = reasons(keys)
    answers = put_there(plan, "repeats", read, "drop")
    assert len(answers) == jobs.facts(read)["kept"]
    if line_rule:
        bits = np.unpackbits(put_there(plan, "repeats", read, "cut")).astype(bool)
        cuts = per_part(bits, jobs.numbers(read, "counts", "<i8"))
    for i, (document, _) in enumerate(documents(f"{read}.jsonl")):
        text, reason, changed = document["text"], why[answers[i]], {}
        part.tick(len(text.encode()))
        part.facts["in"] += 1
        if line_rule and not reason and cuts[i].any():
            lines = text.split("\n")
            text = "\n".join(line for line, cut in zip(lines, cuts[i]) if not cut)
            changed[line_rule] = document["text"], text
            reason = None if text.strip() else line_rule
        if not reason:
            text, reason, more = apply_rules(document, text, rules, plan.corpus)
            changed |= more
            if not all(clean.applies(rule, document.get("lang")) for rule in rules):
                part.facts["code"] = part.facts.get("code", 0) + 1
        if reason:
            drop(part, document, reason)
            continue
        note_changes(part, document["id"], changed)
        document["text"] = text
        keep(part, document)
        part.add_numbers("exact", [dedup.key(text)], "<u8")     # rules can make copies of what was different
        add_signature(part, text, source.near)


def apply_rules(document, text, rules, corpus):
    """What clean.run says of the text. A document whose language is needed and not known gets it here."""
    given = corpus.models or {}
    if {"language", "ccnet_language"} & {*rules} and not document.get("lang"):
        found, _ = models.language(text, given.get("language"))
        if found:
            document["lang"] = found
    row = thresholds(document.get("lang"), corpus.rules, tuple(sorted(given.items())))
    return clean.run(text, rules, row)


@functools.lru_cache(1000)
def thresholds(lang, folder, given):
    return clean.Row(lang, folder, dict(given))


def note_changes(part, name, changed):
    """Count the rules that changed a document: {rule: (before, after)}. The first of each is shown, with
    20 characters before it; what was masked as personal is not."""
    for rule, (before, after) in changed.items():
        part.facts["changed"][rule] += 1
        if rule in part.facts["examples"]:
            continue
        shorter = min(len(before), len(after))
        differs = next((i for i in range(shorter) if before[i] != after[i]), shorter)
        at = slice(max(0, differs - 20), max(0, differs - 20) + 80)
        shown = None if rule.startswith("pii_") else before[at]
        part.facts["examples"][rule] = {"id": name, "before": shown, "after": after[at]}


def add_signature(part, text, kind):
    """What near() compares: .signatures has a row per document; .shingles some hashes, .sizes how many."""
    if kind == "minhash":
        part.add_numbers("signatures", dedup.signature(dedup.shingles(text)), "<u2")
    elif kind == "overlap":
        sample = dedup.sampled(dedup.shingles(text))
        part.add_numbers("shingles", sample, "<u8")
        part.add_numbers("sizes", [len(sample)], "<i8")


# ---- near ----

NEAR_REASONS = [None, "near_duplicate", "duplicate"]        # what near() writes is an index of this list
LIKE, COPY = 1, 2


def near(part, plan, parts):
    """For each part .near, the reason for each document. Rules may have made copies of what was different.

    parts: {source: [BASE of clean_part]}
    """
    bases = list(itertools.chain.from_iterable(parts[s.name] for s in plan.corpus.sources))
    answers = {base: np.full(jobs.facts(base)["kept"], KEPT, np.uint8) for base in bases}

    alike = []                          # parts compared by MinHash, among all sources that say so
    for source in plan.corpus.sources:
        if source.near == "minhash":
            alike += [base for base in parts[source.name] if len(answers[base])]
        elif source.near == "overlap":
            sizes = [jobs.numbers(base, "sizes", "<i8") for base in parts[source.name]]
            books = []
            for base, each in zip(parts[source.name], sizes):
                books += per_part(jobs.numbers(base, "shingles", "<u8"), each)
            found = per_part(dedup.overlapping(books), [len(each) for each in sizes])
            for base, inside in zip(parts[source.name], found):
                answers[base][inside] = LIKE
    if alike:
        for base in alike:              # one file of all signatures: it need not fit in memory
            part.file("signatures").write(jobs.numbers(base, "signatures", np.uint8).tobytes())
        part.file("signatures").flush()
        signatures = np.memmap(part.file("signatures").name, "<u2", "r").reshape(-1, dedup.HASHES)
        found = per_part(dedup.near(signatures, plan.corpus.alike), [len(answers[base]) for base in alike])
        for base, like in zip(alike, found):
            answers[base][like] = LIKE

    copies = dedup.repeated([jobs.numbers(base, "exact", "<u8") for base in bases])
    for base, again in zip(bases, copies):
        answers[base][again] = COPY
        put(part, base, "near", answers[base])


# ---- write ----

def write_part(part, plan, source, number, cleaned):
    """The documents that are left, as they go to corpus/."""
    begin_written_facts(part)
    answers = put_there(plan, "near", cleaned, "near")
    for (document, _), answer in zip(documents(f"{cleaned}.jsonl"), answers, strict=True):
        part.tick(len(document["text"].encode()))
        part.facts["in"] += 1
        reason = NEAR_REASONS[answer]
        if reason:
            drop(part, document, reason)
        else:
            keep_written(part, document, source.name)


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


def added(facts):
    """The facts of a stage's parts as one: numbers are summed, by key too; of examples the first stay."""
    total = {}
    for part in facts:
        for key, value in part.items():
            if key == "lowest":
                total[key] = min(total.get(key, 1.0), value)
            elif key in ("examples", "first"):
                total[key] = {**value, **total.get(key, {})}
            elif isinstance(value, dict):
                total[key] = dict(Counter(total.get(key, {})) + Counter(value))
            else:
                total[key] = total.get(key, 0) + value
    return total
