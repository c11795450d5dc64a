"""The jobs of prepare.py, each over one part of a source or over the hashes that the parts left. A stage reads what the one before it wrote.
Read them in this order, after prepare.py:

    read_part  ->  repeats  ->  clean_part  ->  near  ->  write_part  ->  (the tokenizer)  ->  tokenize_part  ->  join_tokens

A part's facts are numbers that add up: documents in = kept + dropped, by reason.
"""
import functools
import hashlib
import itertools
import json
import os
from collections import Counter

import numpy as np

import config
import tokenizer as tokenizers
from corpus import clean, dedup, jobs, models, sources

SHOWN = 1000            # dropped documents written out per reason, and the first characters of each; the counts are exact
BATCH = 1_000_000       # characters tokenized at once
REMOVED = 255
LANGUAGES = ("bytes_by_language", "documents_by_language", "licences")


def place(source, document_id):
    """A number in [0, 1) that depends on the document's name alone: what is held out stays held out when the corpus grows."""
    return int.from_bytes(hashlib.sha256(f"{source}/{document_id}".encode()).digest()[:8], "little") / 2 ** 64


def documents(path):
    """(document, byte it begins at) of a .jsonl file of ours."""
    with open(path, "rb") as f:
        at = 0
        for line in f:
            yield json.loads(line), at
            at += len(line)


def drop(part, document, reason):
    """Count it; write the first of them out, a copy or what is to be removed without its text."""
    part.facts["dropped"][reason] += 1
    if part.facts["dropped"][reason] <= SHOWN:
        text = {} if reason in ("removed", "duplicate", *clean.KEYS) or "text" not in document else {"text": document["text"][:SHOWN]}
        part.write("dropped", {k: v for k, v in document.items() if k != "text"} | text | {"dropped": reason})


def special_rules(source):
    """The keys of a document, the line rule or None, and the rules that read one text, of a source."""
    names = clean.rules(source.clean)
    keys, lines = [n for n in names if n in clean.KEYS], [n for n in names if n in clean.LINES]
    rest = [n for n in names if n in clean.RULES]
    if len(lines) > 1:
        raise ValueError(f"source {source.name}: {' and '.join(lines)} cannot be used together; choose one")
    if names != keys + lines + rest:
        raise ValueError(f"source {source.name}: {', '.join(keys + lines)} must come before the rules that read one text: {', '.join(rest)}")
    return keys, lines[0] if lines else None, rest


def read_part(base, key, source, files, removed):
    """Files to documents, with the hashes that find their copies."""
    keys, line_rule, _ = special_rules(source)
    with jobs.Part(base, key) as part:
        part.facts = {"in": 0, "kept": 0, "bytes": 0, "dropped": Counter(), "first": {}}
        part.open("jsonl"), part.open("keys")
        for document in sources.read(source, files, jobs.tick):
            jobs.tick(0, 1)
            part.facts["in"] += 1
            name = f"{source.name}/{document['id']}"
            reason = document.pop("dropped", None) or ("removed" if {name, source.name} & removed else "empty" if not document["text"].strip() else
                                                       "licence" if source.licences is not None and document.get("licence") not in source.licences else None)
            if reason:
                part.facts["first"].setdefault(reason, document.get("place", name))
                if reason == "removed":
                    part.open("removed").write(np.array([dedup.key(document["text"])], "<u8").tobytes())
                drop(part, document, reason)
                continue
            text = document["text"]
            part.open("keys").write(np.array([dedup.key(text), *(dedup.key(clean.KEYS[k](document)) for k in keys)], "<u8").tobytes())
            if line_rule:
                least, _, _, normal = clean.LINES[line_rule]
                hashes = dedup.lines(text, least, normal)
                part.open("lines").write(hashes.astype("<u8").tobytes())
                part.open("counts").write(np.array([len(hashes)], "<i8").tobytes())
            part.write("jsonl", document)
            part.facts["kept"] += 1
            part.facts["bytes"] += len(text.encode())


def load(base, name, dtype):
    """An array that a job wrote, or that repeats() or near() put beside; empty if there is none."""
    path = f"{base}.{name}" if name in ("drop", "cut", "near") else jobs.path(base, name)
    return np.memmap(path, dtype, "r") if path and os.path.getsize(path) else np.empty(0, dtype)


def repeats(base, key, corpus, parts):
    """Beside each part .drop, a byte per document (0; 1 + the key it shares with an earlier one; REMOVED for a copy of one that is removed), and .cut, a bit per line."""
    with jobs.Part(base, key) as part:
        rules = {s.name: special_rules(s) for s in corpus.sources}
        keys = {name: [load(b, "keys", "<u8").reshape(-1, 1 + len(rules[name][0])) for b in bases] for name, bases in parts.items()}
        exact = iter(dedup.repeated([k[:, 0] for name in parts for k in keys[name]]))
        gone = np.concatenate([load(b, "removed", "<u8") for bases in parts.values() for b in bases] or [np.empty(0, "<u8")])
        for name, bases in parts.items():
            dropped = [next(exact).astype(np.uint8) for _ in bases]
            for d, k in zip(dropped, keys[name]):
                d[np.isin(k[:, 0], gone)] = REMOVED
            for column in range(1, 1 + len(rules[name][0])):
                for d, again in zip(dropped, dedup.repeated([k[:, column] for k in keys[name]], alive=[d == 0 for d in dropped])):
                    d[again] = 1 + column
            for b, d in zip(bases, dropped):
                d.tofile(f"{b}.drop")
                part.beside.append(f"{b}.drop")
            if rules[name][1]:
                _, least, first_stays, _ = clean.LINES[rules[name][1]]
                alive = [np.repeat(d == 0, load(b, "counts", "<i8")) for b, d in zip(bases, dropped)]
                for b, cut in zip(bases, dedup.repeated([load(b, "lines", "<u8") for b in bases], least, first_stays, alive)):
                    np.packbits(cut).tofile(f"{b}.cut")
                    part.beside.append(f"{b}.cut")


def clean_part(base, key, source, read, corpus):
    """The rules of the source, document by document."""
    keys, line_rule, rules = special_rules(source)
    with jobs.Part(base, key) as part:
        part.facts = {"in": 0, "kept": 0, "bytes": 0, "dropped": Counter(), "changed": Counter(), "examples": {}}
        part.open("jsonl"), part.open("exact")
        dropped, counts, line = load(read, "drop", np.uint8), load(read, "counts", "<i8"), 0
        assert len(dropped) == jobs.facts(read)["kept"]
        cut = np.unpackbits(load(read, "cut", np.uint8)).astype(bool) if line_rule else None
        for number, (document, _) in enumerate(documents(f"{read}.jsonl")):
            text = document["text"]
            jobs.tick(len(text.encode()), 1)
            part.facts["in"] += 1
            changed, reason = {}, None if not dropped[number] else "removed" if dropped[number] == REMOVED else ["duplicate", *keys][dropped[number] - 1]
            if line_rule:
                gone = cut[line:line + counts[number]]
                line += counts[number]
                if not reason and gone.any():
                    text = "\n".join(s for s, g in zip(text.split("\n"), gone) if not g)
                    changed, reason = {line_rule: (document["text"], text)}, None if text.strip() else line_rule
            if not reason:
                if {"language", "ccnet_language"} & {*rules} and not document.get("lang"):
                    document["lang"] = models.language(text, (corpus.models or {}).get("language"))[0]
                text, reason, more = clean.run(text, rules, row(document.get("lang"), corpus))
                changed |= more
            if reason:
                drop(part, document, reason)
                continue
            for rule, (before, after) in changed.items():
                part.facts["changed"][rule] += 1
                if rule not in part.facts["examples"]:
                    at = max(0, next((i for i, (a, b) in enumerate(zip(before, after)) if a != b), min(len(before), len(after))) - 20)
                    part.facts["examples"][rule] = {"id": document["id"], "before": None if rule.startswith("pii_") else before[at:at + 80], "after": after[at:at + 80]}
            document["text"] = text
            part.write("jsonl", document)
            part.facts["kept"] += 1
            part.facts["bytes"] += len(text.encode())
            part.open("exact").write(np.array([dedup.key(text)], "<u8").tobytes())       # rules can make copies of what was different
            if source.near == "minhash":
                part.open("signatures").write(dedup.signature(dedup.shingles(text)).tobytes())
            elif source.near:
                sample = dedup.sampled(dedup.shingles(text))
                part.open("shingles").write(sample.tobytes())
                part.open("sizes").write(np.array([len(sample)], "<i8").tobytes())


@functools.lru_cache(1000)
def row_of(lang, folder, models):
    return clean.Row(lang, folder, dict(models))


def row(lang, corpus):
    return row_of(lang, corpus.rules, tuple(sorted((corpus.models or {}).items())))


def near(base, key, corpus, parts):
    """Beside each part .near, a byte per document: 1 for a near duplicate, 2 for a copy of an earlier one after cleaning."""
    answers = {b: np.zeros(jobs.facts(b)["kept"], np.uint8) for bases in parts.values() for b in bases}
    with jobs.Part(base, key) as part:
        alike = [b for s in corpus.sources if s.near == "minhash" for b in parts[s.name] if len(answers[b])]
        for b in alike:
            part.open("signatures").write(load(b, "signatures", np.uint8).tobytes())
        if alike:
            part.open("signatures").flush()
            signatures = np.memmap(part.open("signatures").name, np.uint16, "r").reshape(-1, dedup.HASHES)
            answers.update(zip(alike, np.split(dedup.near(signatures, corpus.alike), np.cumsum([len(answers[b]) for b in alike])[:-1])))
        for s in corpus.sources:
            if s.near == "overlap":
                sizes = [load(b, "sizes", "<i8") for b in parts[s.name]]
                books = [book for b, z in zip(parts[s.name], sizes) for book in np.split(load(b, "shingles", "<u8"), np.cumsum(z))[:-1]]
                answers.update(zip(parts[s.name], np.split(dedup.overlapping(books), np.cumsum([len(z) for z in sizes])[:-1])))
        for b, again in zip(answers, dedup.repeated([load(b, "exact", "<u8") for b in answers])):
            (answers[b].astype(np.uint8) * ~again + 2 * again).astype(np.uint8).tofile(f"{b}.near")
            part.beside.append(f"{b}.near")


def write_part(base, key, source, cleaned):
    """What is left: the kept documents as they go to corpus/."""
    with jobs.Part(base, key) as part:
        part.facts = {"in": 0, "kept": 0, "bytes": 0, "dropped": Counter(), **{k: Counter() for k in LANGUAGES}, "lowest": 1.0}
        part.open("jsonl")
        for (document, _), again in zip(documents(f"{cleaned}.jsonl"), load(cleaned, "near", np.uint8), strict=True):
            jobs.tick(len(document["text"].encode()), 1)
            part.facts["in"] += 1
            if again:
                drop(part, document, ["near_duplicate", "duplicate"][again - 1])
                continue
            keep(part, document, source.name)


def keep(part, document, source):
    size, lang = len(document["text"].encode()), document.get("lang") or "unknown"
    part.write("jsonl", document)
    part.facts["kept"] += 1
    part.facts["bytes"] += size
    part.facts["bytes_by_language"][lang] += size
    part.facts["documents_by_language"][lang] += 1
    part.facts["licences"][document.get("licence") or "unknown"] += 1
    part.facts["lowest"] = min(part.facts["lowest"], place(source, document["id"]))


tokenizer_of = functools.lru_cache(1)(lambda folder, fingerprint: tokenizers.load(folder))


def tokenize_part(base, key, source, written, limits, folder, fingerprint):
    """BASE.{train,val}.{bin,idx,doc}: tokens, where each document begins, and (part, byte) of the document in corpus/."""
    tokenizer, number = tokenizer_of(folder, fingerprint), int(base.split("-")[-1])
    dtype = token_dtype(tokenizer)
    with jobs.Part(base, key) as part:
        part.facts = {split: {"tokens": 0, "documents": 0, "bytes": 0} for split in ("train", "val")} | {"tokens_by_language": Counter()}
        for split, end in itertools.product(("train", "val"), ("bin", "idx", "doc")):
            part.open(f"{split}.{end}")
        batch, size = [], 0

        def flush():
            for (d, at), ids in zip(batch, tokenizer.encode_batch([d["text"] for d, _ in batch])):
                ids = np.array([*tokenizer.prompt, *ids, tokenizer.eos])
                assert ids.max() < tokenizer.vocab      # a larger id would wrap around in silence
                split = "val" if place(source.name, d["id"]) <= limits[source.name] else "train"
                r = part.facts[split]
                part.open(f"{split}.idx").write(np.array([r["tokens"]], "<i8").tobytes())
                part.open(f"{split}.doc").write(np.array([number, at], "<i8").tobytes())
                part.open(f"{split}.bin").write(ids.astype(dtype).tobytes())
                r["tokens"], r["documents"], r["bytes"] = r["tokens"] + len(ids), r["documents"] + 1, r["bytes"] + len(d["text"].encode())
                part.facts["tokens_by_language"][d.get("lang") or "unknown"] += len(ids)
                jobs.tick(len(d["text"].encode()), 1)
            batch.clear()
        for document, at in documents(f"{written}.jsonl"):
            batch.append((document, at))
            size += len(document["text"])
            if size > BATCH:
                flush()
                size = 0
        flush()


def token_dtype(tokenizer):
    return np.dtype("<u2" if tokenizer.vocab <= 65_536 else "<u4").str


def join_tokens(out, bases):
    """The tokens of a source's parts as one file per split. Returns their counts and hashes."""
    os.makedirs(out)
    result = {split: {"tokens": 0, "documents": 0, "bytes": 0} for split in ("train", "val")} | {"tokens_by_language": Counter()}
    for split in ("train", "val"):
        r = result[split]
        with open(f"{out}/{split}.bin", "wb") as tokens, open(f"{out}/{split}.idx", "wb") as starts, open(f"{out}/{split}.doc", "wb") as places:
            for base in bases:
                (load(base, f"{split}.idx", "<i8") + r["tokens"]).tofile(starts)
                load(base, f"{split}.doc", "<i8").tofile(places)
                load(base, f"{split}.bin", np.uint8).tofile(tokens)
                for fact in r:
                    r[fact] += jobs.facts(base)[split][fact]
        r["sha256"] = config.sha256(f"{out}/{split}.bin")
    for base in bases:
        result["tokens_by_language"].update(jobs.facts(base)["tokens_by_language"])
    result["tokens_by_language"] = dict(result["tokens_by_language"].most_common())
    return result


def write_dropped(out, bases):
    """dropped/REASON.jsonl: the first SHOWN of each reason, in order."""
    os.makedirs(f"{out}/dropped")
    shown = Counter()
    for b in bases:
        for document, _ in documents(jobs.path(b, "dropped")) if jobs.path(b, "dropped") else ():
            shown[document["dropped"]] += 1
            if shown[document["dropped"]] <= SHOWN:
                with open(f"{out}/dropped/{document['dropped']}.jsonl", "a", encoding="utf-8") as f:
                    f.write(json.dumps(document, ensure_ascii=False) + "\n")


def added(facts):
    """The facts of a stage's parts as one: numbers are summed, by key too; of examples and places the first stay."""
    total = {}
    for f in facts:
        for k, v in f.items():
            if k == "lowest":
                total[k] = min(total.get(k, 1.0), v)
            elif k in ("examples", "first"):
                total[k] = {**v, **total.get(k, {})}
            elif isinstance(v, dict):
                total[k] = dict(Counter(total.get(k, {})) + Counter(v))
            else:
                total[k] = total.get(k, 0) + v
    return total
