"""Removal from a finished data/NAME: a person or a custodian asks, and the document or the whole source goes.

    python -m corpus.takedown data/sample --near ids.txt            # lists near copies, deletes nothing
    python prepare.py configs/data/sample.py --remove ids.txt       # a line is SOURCE or SOURCE/ID

A near copy stays unless a person adds it to ids.txt. After the removal there is nothing to compare with.

In a new folder, data/NAME.removing, the sources concerned are written and tokenized again; all other files
are hard links to the old ones. When it is complete it takes the old one's place. manifest.json and
data/NAME.removed keep the names: a later build leaves them out too. A model that was trained before has still
read the documents. Ask data.py whence which steps did so before you remove them; afterwards it refuses.
"""
import glob
import json
import os
import shutil

import numpy as np

import config
from corpus import card, dedup, recipe, stages, tokens
from corpus.stages import documents, is_removed

REWRITTEN = {"dropped", "report.json", "DATA_CARD.md", "manifest.json"}


def without(part, plan, name, number, files):
    stages.begin_facts(part)
    for document, _ in documents(files[0][0]):
        part.tick(len(document["text"].encode()))
        if is_removed(document, name, plan.removed):
            document["dropped"] = "removed"
        stages.pass_on(part, document)


def write_again(plan, out, new, name, manifest, report):
    """Write text and tokens of source `name` to folder NEW without what is removed. Corrects `manifest`, and
    the source's `report`."""
    files = sorted(glob.glob(f"{out}/corpus/{name}/*.jsonl"))
    parts = {name: [[(file, name, os.path.getsize(file))] for file in files]}
    written = plan.run_parts("write", f"removing from {name}", without, parts)
    left, before = stages.added(written[name]), report["write"]["kept"]
    report["clean"].pop("examples", None)           # texts, in what older versions made
    report["removed"] = {"in": before, "kept": left["kept"], "dropped": {"removed": before - left["kept"]}}
    print(f"source {name}: documents left: {left['kept']:,} of {before:,}")
    if not left["kept"]:
        del manifest["sources"][name]
        return
    facts = manifest["sources"][name]
    plan.hold_out(name, left, facts["held_out"])
    plan.run_parts("tokenize", f"tokenizing {name}", tokens.tokenize_part, written)
    tokens.join(plan, [name])
    facts |= tokens.put_together(plan, new, name, written[name])
    facts |= {"held_out": plan.limits[name], "dropped": stages.all_dropped(report)}


def remove_documents(out, manifest, names, workers=None):
    """Take `names` out of a finished data/NAME; returns its new manifest."""
    new, report = f"{os.path.realpath(out)}.removing", config.read_json(f"{out}/report.json")
    concerned = {name.split("/")[0] for name in names}
    skipped = {out: REWRITTEN, f"{out}/corpus": concerned, f"{out}/tokens": concerned}
    shutil.copytree(out, new, copy_function=tokens.link, ignore=lambda folder, _: skipped.get(folder, ()))
    plan = stages.Plan(None, f"{new}/work", names, workers)
    shutil.copytree(f"{out}/tokenizer", f"{plan.folder}/tokenizer")
    for name in sorted(concerned & set(manifest["sources"])):
        write_again(plan, out, new, name, manifest, report[name])
    shutil.rmtree(plan.folder)
    forget(out, new, names)
    manifest["removed"] = sorted({*manifest["removed"], *names})
    with open(f"{out}.removed.new", "w", encoding="utf-8") as f:       # for a later build
        f.writelines(f"{name}\n" for name in manifest["removed"])
    os.replace(f"{out}.removed.new", f"{out}.removed")
    config.write_json(f"{new}/report.json", report)
    card.write_card(new, manifest, report)
    config.write_json(f"{new}/manifest.json", manifest)
    finish(out)
    return manifest


def forget(out, new, names):
    """NEW/dropped: what OUT/dropped shows, without the documents that are removed."""
    os.makedirs(f"{new}/dropped")
    for file in glob.glob(f"{out}/dropped/*.jsonl"):
        with open(f"{new}/dropped/{os.path.basename(file)}", "w", encoding="utf-8") as f:
            for document, _ in documents(file):
                if not is_removed(document, document["source"], names):
                    f.write(json.dumps(document, ensure_ascii=False) + "\n")


def finish(out):
    """Put OUT.removing into the place of OUT: at once, or after a kill. Its manifest is written last; without
    one it is deleted."""
    out = os.path.realpath(out)
    new = f"{out}.removing"
    if os.path.exists(f"{new}/manifest.json"):
        shutil.rmtree(out, ignore_errors=True)
        os.rename(new, out)
    shutil.rmtree(new, ignore_errors=True)


# ---- near copies ----

def near_copies(out, names, alike):
    """Yield (similarity, name, name of the one it is like, document) for the documents of data folder `out`
    that share `alike` of their shingles or more with one of `names`. MinHash estimates it: +- 0.04."""
    files = sorted(glob.glob(f"{out}/corpus/*/*.jsonl"))
    tick = config.progress("comparing, bytes", sum(map(os.path.getsize, files)))
    asked, signatures = [], []
    for document, _ in documents(*files):
        if is_removed(document, document["source"], names):
            asked.append(f"{document['source']}/{document['id']}")
            signatures.append(dedup.signature(dedup.shingles(document["text"])))
    if not asked:
        raise ValueError(f"{out} has none of these documents; ask for near copies before you remove them")
    signatures = np.array(signatures)
    for document, _ in documents(*files):
        tick(len(json.dumps(document, ensure_ascii=False).encode()))
        if is_removed(document, document["source"], names):
            continue
        same = (signatures == dedup.signature(dedup.shingles(document["text"]))).mean(1)
        if same.max() >= alike:
            yield same.max(), f"{document['source']}/{document['id']}", asked[same.argmax()], document


def main():
    ap = config.Parser(__doc__, prog="python -m corpus.takedown")
    ap.add_argument("folder", metavar="data/NAME")
    ap.add_argument("--near", required=True, metavar="FILE",
                    help="list near copies of these; a line is SOURCE or SOURCE/ID")
    ap.add_argument("--alike", type=config.number(0.1, 1, float), default=0.5,
                    help="from this share of common shingles on (default: 0.5)")
    args = ap.parse_args()
    names = recipe.names_in_file(args.near)
    n = 0
    for same, name, other, document in near_copies(args.folder.rstrip("/"), names, args.alike):
        n += 1
        print(f"{name}   {same:.0%} like {other}: {document['text'][:60]!r}")
    print(f"{n} near copies; nothing is removed")


if __name__ == "__main__":
    config.command(main)
