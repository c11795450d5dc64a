"""Removal from a finished data/NAME: a person or a custodian asks, and the document or the whole source goes.

    python prepare.py configs/data/sample.py --remove ids.txt       # a line is SOURCE or SOURCE/ID

In a new folder, data/NAME.removing, the sources concerned are written and tokenized again; all other files
are hard links to the old ones. When it is complete it takes the old one's place. manifest.json and
data/NAME.removed keep the names: a later build leaves them out too. A model that was trained before has still
read the documents. Ask data.py whence which steps did so before you remove them; afterwards it refuses.
"""
import glob
import json
import os
import shutil
from collections import Counter

import config
from corpus import card, stages, tokens
from corpus.stages import documents, is_removed

REWRITTEN = {"dropped", "report.json", "DATA_CARD.md", "manifest.json"}


def without(part, plan, name, number, files):
    stages.begin_facts(part)
    for document, _ in documents(files[0][0]):
        part.tick(len(document["text"].encode()))
        if is_removed(document, name, plan.removed):
            document["dropped"] = "removed"
        stages.pass_on(part, document)


def link(old, new):
    """A second name for a file; a copy where the file system has no such thing."""
    try:
        os.link(old, new)
    except OSError:
        shutil.copyfile(old, new)


def write_again(plan, out, new, name, facts):
    """Write text and tokens of source `name` to folder NEW without what is removed, and correct `facts`, what
    the manifest says of it. Returns the counts."""
    files = sorted(glob.glob(f"{out}/corpus/{name}/*.jsonl"))
    parts = {name: [[(file, name, os.path.getsize(file))] for file in files]}
    written = plan.run_parts("text", f"removing from {name}", without, parts)
    left = stages.added(written[name])
    if left["kept"]:
        facts["held_out"] = max(facts["held_out"], left["lowest"]) if left["kept"] > 1 else -1
        plan.limits[name] = facts["held_out"]
        made = plan.run_parts("tokens", f"tokenizing {name}", tokens.tokenize_part, written)
        facts |= tokens.join_tokens(f"{new}/tokens/{name}", made[name])
        facts |= {key: left[key] for key in stages.COUNTED}
        facts["dropped"] = dict(Counter(facts["dropped"]) + Counter(left["dropped"]))
        os.makedirs(f"{new}/corpus/{name}")
        for number, base in enumerate(written[name]):
            os.replace(f"{base}.jsonl", f"{new}/corpus/{name}/{number:05}.jsonl")
    return left


def remove_documents(out, manifest, names, workers=None):
    """Take `names` out of a finished data/NAME; returns its new manifest."""
    new, report = f"{os.path.realpath(out)}.removing", config.read_json(f"{out}/report.json")
    shutil.rmtree(new, ignore_errors=True)
    concerned = {name.split("/")[0] for name in names}
    shutil.copytree(out, new, copy_function=link, ignore=lambda at, _: REWRITTEN if at == out else ())
    for name in concerned:
        shutil.rmtree(f"{new}/corpus/{name}", ignore_errors=True)
        shutil.rmtree(f"{new}/tokens/{name}", ignore_errors=True)
    plan = stages.Plan(None, f"{new}/work", names, workers)
    shutil.copytree(f"{out}/tokenizer", f"{plan.folder}/tokenizer")
    for name in sorted(concerned & set(manifest["sources"])):
        left = write_again(plan, out, new, name, manifest["sources"][name])
        before = report[name].get("removed", {"in": left["in"], "dropped": {}})
        dropped = Counter(before["dropped"]) + Counter(left["dropped"])
        report[name]["removed"] = {"in": before["in"], "kept": left["kept"], "dropped": dict(dropped)}
        if not left["kept"]:
            del manifest["sources"][name]
    shutil.rmtree(plan.folder)
    forget(out, new, report, names)
    manifest["removed"] = sorted({*manifest["removed"], *names})
    gone = sum(s["removed"]["dropped"].get("removed", 0) for s in report.values() if "removed" in s)
    print(f"{gone:,} documents are removed by {len(manifest['removed']):,} names, this time and before")
    with open(f"{out}.removed.new", "w", encoding="utf-8") as f:       # for a later build
        f.writelines(f"{name}\n" for name in manifest["removed"])
    os.replace(f"{out}.removed.new", f"{out}.removed")
    config.write_json(f"{new}/report.json", report)
    card.write_card(new, manifest, report)
    config.write_json(f"{new}/manifest.json", manifest)
    finish(out)
    return manifest


def forget(out, new, report, names):
    """No copy may stay among the dropped documents that are shown, in NEW/dropped, or in the report."""
    os.makedirs(f"{new}/dropped")
    for file in glob.glob(f"{out}/dropped/*.jsonl"):
        with open(f"{new}/dropped/{os.path.basename(file)}", "w", encoding="utf-8") as f:
            for document, _ in documents(file):
                if not is_removed(document, document["source"], names):
                    f.write(json.dumps(document, ensure_ascii=False) + "\n")
    for name, facts in report.items():
        examples, first = facts["clean"]["examples"], facts["read"]["first"]
        facts["clean"]["examples"] = {k: e for k, e in examples.items() if not is_removed(e, name, names)}
        facts["read"]["first"] = {k: at for k, at in first.items() if not {name, at} & names}


def finish(out):
    """Put OUT.removing, if it is complete, into the place of OUT: at once, or later after a kill in between.
    Its manifest is written last, so a folder with one is complete. The old folder is deleted."""
    out = os.path.realpath(out)
    new, old = f"{out}.removing", f"{out}.removing.old"
    if os.path.exists(f"{new}/manifest.json"):
        if os.path.exists(out):
            shutil.rmtree(old, ignore_errors=True)
            os.rename(out, old)
        os.rename(new, out)
    shutil.rmtree(new, ignore_errors=True)
    if os.path.exists(out):
        shutil.rmtree(old, ignore_errors=True)
