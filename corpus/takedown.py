"""Removal from a finished data/NAME: a person or a custodian asks, and the document or the whole source goes, everywhere it was written.

    python prepare.py configs/data/sample.py --remove ids.txt       # a line is SOURCE or SOURCE/ID

Only the sources concerned are written and tokenized again. The names are kept in manifest.json, so that a later build leaves them out too.
A model that was trained before has still read them: ask data.py whence which steps did before you remove, afterwards it refuses.
"""
import glob
import json
import os
import shutil
from collections import Counter

import config
import tokenizer as tokenizers
from corpus import card, jobs, recipe
from corpus.stages import LANGUAGES, added, documents, join_tokens, keep, tokenize_part


def without(base, key, source, file, gone):
    """The documents of one of our files but those named in `gone`."""
    with jobs.Part(base, key) as part:
        part.facts = {"in": 0, "kept": 0, "bytes": 0, "dropped": Counter(), **{k: Counter() for k in LANGUAGES}, "lowest": 1.0}
        part.open("jsonl")
        for document, _ in documents(file):
            part.facts["in"] += 1
            if {source, f"{source}/{document['id']}"} & gone:
                part.facts["dropped"]["removed"] += 1
            else:
                keep(part, document, source)


def remove(out, manifest, names, workers=None):
    """Take documents out of a finished data/NAME: their sources are written and tokenized again, the others are not touched.

    All is made ready in OUT/removing first; commit() then exchanges it, now or after an interruption."""
    new, tokenizer, report = f"{out}/removing", tokenizers.load(f"{out}/tokenizer"), config.read_json(f"{out}/report.json")
    shutil.rmtree(new, ignore_errors=True)
    for name in sorted({n.split("/")[0] for n in names} & set(manifest["sources"])):
        s, files = manifest["sources"][name], sorted(glob.glob(f"{out}/corpus/{name}/*.jsonl"))
        bases = [f"{new}/parts/{name}-{n:05}" for n in range(len(files))]
        for b, file in zip(bases, files):
            without(b, "", name, file, names)
        left = added([jobs.facts(b) for b in bases])
        before = report[name].get("removed", {"in": left["in"], "dropped": {}})
        report[name]["removed"] = {"in": before["in"], "kept": left["kept"], "dropped": dict(Counter(before["dropped"]) + Counter(left["dropped"]))}
        if not left["kept"]:
            del manifest["sources"][name]
            continue
        s["held_out"] = max(s["held_out"], left["lowest"]) if left["kept"] > 1 else -1
        todo = [(f"{new}/parts/tokens/{name}-{n:05}", "", recipe.Source(name), b, {name: s["held_out"]}, f"{out}/tokenizer", tokenizers.fingerprint(tokenizer)) for n, b in enumerate(bases)]
        jobs.run("tokenize", tokenize_part, todo, left["bytes"], workers)
        s.update(join_tokens(f"{new}/tokens/{name}", [job[0] for job in todo]), **{k: left[k] for k in LANGUAGES})
        s["dropped"]["removed"] = s["dropped"].get("removed", 0) + left["dropped"].get("removed", 0)
        os.makedirs(f"{new}/corpus/{name}")
        for n, b in enumerate(bases):
            os.replace(f"{b}.jsonl", f"{new}/corpus/{name}/{n:05}.jsonl")
    os.makedirs(f"{new}/dropped")
    for file in glob.glob(f"{out}/dropped/*.jsonl"):            # nor may a copy stay among what was dropped, or in the report
        with open(f"{new}/dropped/{os.path.basename(file)}", "w", encoding="utf-8") as f:
            f.writelines(json.dumps(d, ensure_ascii=False) + "\n" for d, _ in documents(file) if not {d["source"], f"{d['source']}/{d['id']}"} & names)
    for name, stages in report.items():
        stages["clean"]["examples"] = {r: e for r, e in stages["clean"]["examples"].items() if not {name, f"{name}/{e['id']}"} & names}
        stages["read"]["first"] = {r: place for r, place in stages["read"]["first"].items() if not {name, place} & names}
    gone = sum(stages.get("removed", {"dropped": {}})["dropped"].get("removed", 0) for stages in report.values())
    print(f"{gone:,} documents are removed by {len({*manifest['removed'], *names}):,} names of documents and sources, this time and before")
    manifest["removed"] = sorted({*manifest["removed"], *names})
    with open(f"{out}.removed.new", "w", encoding="utf-8") as f:       # beside the folder: a later build reads it
        f.writelines(f"{name}\n" for name in manifest["removed"])
    os.replace(f"{out}.removed.new", f"{out}.removed")
    config.write_json(f"{new}/report.json", report)
    card.write(new, manifest, report)
    config.write_json(f"{new}/manifest.json", manifest)
    shutil.rmtree(f"{new}/parts", ignore_errors=True)
    config.write_json(f"{new}/ready", True)
    commit(out)
    return manifest


def commit(out):
    """Exchange what remove() made ready; the manifest last."""
    new = f"{out}/removing"
    if not os.path.exists(f"{new}/ready"):
        return
    if os.path.exists(f"{new}/manifest.json"):
        left = config.read_json(f"{new}/manifest.json")["sources"]
        for old in glob.glob(f"{out}/corpus/*") + glob.glob(f"{out}/tokens/*"):
            if os.path.basename(old) not in left:
                shutil.rmtree(old)
        for path in sorted(glob.glob(f"{new}/corpus/*") + glob.glob(f"{new}/tokens/*") + glob.glob(f"{new}/dropped")):
            shutil.rmtree(f"{out}/{os.path.relpath(path, new)}", ignore_errors=True)
            os.rename(path, f"{out}/{os.path.relpath(path, new)}")
        for file in ("report.json", "DATA_CARD.md", "manifest.json"):
            if os.path.exists(f"{new}/{file}"):
                os.replace(f"{new}/{file}", f"{out}/{file}")
    shutil.rmtree(new)
