"""Removal from a finished data/NAME: a person or a custodian asks, and the document or the whole source goes.

    python prepare.py configs/data/sample.py --remove ids.txt       # a line is SOURCE or SOURCE/ID

A new folder, data/NAME.removing, is made beside the old one. The sources concerned are written and tokenized
again; all other files are hard links to the old ones. When it is complete it takes the old one's place.
manifest.json and data/NAME.removed keep the names: a later build leaves them out too.
A model that was trained before has still read the documents. Ask data.py whence which steps did so before you
remove them; afterwards it refuses.
"""
import glob
import json
import os
import shutil
from collections import Counter

import config
from corpus import card, jobs, recipe, stages, tokens
from corpus.stages import documents, is_removed

REWRITTEN = ("dropped", "removing", "report.json", "DATA_CARD.md", "manifest.json")      # never linked


def without(part, name, file, gone):
    """The documents of one of our files but those that `gone` names."""
    stages.begin_written_facts(part)
    for document, _ in documents(file):
        part.tick(len(document["text"].encode()))
        part.facts["in"] += 1
        if is_removed(document, name, gone):
            part.facts["dropped"]["removed"] += 1
        else:
            stages.keep_written(part, document, name)


def link(old, new):
    """A second name for a file; a copy where the file system has no such thing."""
    try:
        os.link(old, new)
    except OSError:
        shutil.copyfile(old, new)


def write_again(out, new, name, facts, gone, workers):
    """Write source `name`, text and tokens, without the documents of `gone` to folder NEW. Returns the
    counts. `facts`, what the manifest says of the source, is brought up to date."""
    plan = stages.Plan(None, f"{new}/work", gone, workers)
    shutil.copytree(f"{out}/tokenizer", f"{plan.folder}/tokenizer")
    files = sorted(glob.glob(f"{out}/corpus/{name}/*.jsonl"))
    bases = [f"{plan.folder}/text/{name}-{number:05}" for number in range(len(files))]
    todo = [jobs.Job(b, "", os.path.getsize(file), (name, file, gone)) for b, file in zip(bases, files)]
    jobs.run_jobs(f"removing from {name}", without, todo, workers)
    left = stages.added([jobs.facts(b) for b in bases])
    if left["kept"]:
        facts["held_out"] = max(facts["held_out"], left["lowest"]) if left["kept"] > 1 else -1
        plan.limits[name] = facts["held_out"]
        todo = []
        for number, b in enumerate(bases):
            base = f"{plan.folder}/tokens/{name}-{number:05}"
            todo.append(jobs.Job(base, "", jobs.facts(b)["bytes"], (plan, recipe.Source(name), number, b)))
        jobs.run_jobs(f"tokenizing {name}", tokens.tokenize_part, todo, workers)
        facts |= tokens.join_tokens(f"{new}/tokens/{name}", [job.base for job in todo])
        facts |= {key: left[key] for key in stages.LANGUAGES}
        facts["dropped"]["removed"] = facts["dropped"].get("removed", 0) + left["dropped"].get("removed", 0)
        os.makedirs(f"{new}/corpus/{name}")
        for number, b in enumerate(bases):
            os.replace(f"{b}.jsonl", f"{new}/corpus/{name}/{number:05}.jsonl")
    shutil.rmtree(plan.folder)
    return left


def remove_documents(out, manifest, names, workers=None):
    """Take the documents and sources of `names` out of a finished data/NAME; returns its new manifest."""
    new, report = f"{os.path.realpath(out)}.removing", config.read_json(f"{out}/report.json")
    shutil.rmtree(new, ignore_errors=True)
    concerned = {name.split("/")[0] for name in names}

    def written_again(folder, _):
        """What is not linked of a folder."""
        inside = os.path.relpath(folder, out)
        if inside in ("corpus", "tokens"):
            return concerned
        return REWRITTEN if inside == "." else ()
    shutil.copytree(out, new, copy_function=link, ignore=written_again)
    for name in sorted(concerned & set(manifest["sources"])):
        left = write_again(out, new, name, manifest["sources"][name], names, workers)
        before = report[name].get("removed", {"in": left["in"], "dropped": {}})
        dropped = Counter(before["dropped"]) + Counter(left["dropped"])
        report[name]["removed"] = {"in": before["in"], "kept": left["kept"], "dropped": dict(dropped)}
        if not left["kept"]:
            del manifest["sources"][name]
    forget(out, new, report, names)
    gone = sum(s["removed"]["dropped"].get("removed", 0) for s in report.values() if "removed" in s)
    manifest["removed"] = sorted({*manifest["removed"], *names})
    print(f"{gone:,} documents are removed by {len(manifest['removed']):,} names of documents and sources, "
          "this time and before")
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
