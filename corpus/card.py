"""DATA_CARD.md: what is in data/NAME, under which licences, what each rule took out, how to build it again.
A function per section.

    python prepare.py configs/data/sample.py        # then read data/sample/DATA_CARD.md
"""
import json
import os
from collections import Counter

SPLITS = ("train", "val")


def table(head, rows):
    """A Markdown table. Numbers are set to the right, with thousands."""
    marks = ["---:" if isinstance(value, (int, float)) else "---" for value in (rows or [head])[0]]
    lines = [head, marks, *([cell(value) for value in row] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def cell(value):
    if isinstance(value, int):
        return f"{value:,}"
    text = "" if value is None else str(value)
    return " ".join(text.replace("|", "\\|").split())


def both(source, fact):
    return sum(source[split][fact] for split in SPLITS)


def sizes(manifest):
    sources, tokenizer = manifest["sources"], manifest["tokenizer"]
    documents, size = (sum(both(s, fact) for s in sources.values()) for fact in ("documents", "bytes"))
    rows = []
    for name, s in sources.items():
        weight = "by size" if s["weight"] is None else s["weight"]
        rows.append([name, both(s, "documents"), both(s, "bytes"), s["train"]["tokens"], s["val"]["tokens"],
                     round(both(s, "bytes") / both(s, "tokens"), 2), weight])
    head = ["source", "documents", "bytes", "train tokens", "val tokens", "bytes per token", "share of rows"]
    return (f"# {manifest['name']}\n\n{documents:,} documents, {size:,} bytes of text; a {tokenizer['kind']} "
            f"tokenizer with {manifest['vocab']:,} entries (`{tokenizer['fingerprint']}`).\n\n"
            "## Sources\n\n" + table(head, rows))


def origins(manifest):
    rows = []
    for source in manifest["settings"]["sources"]:
        facts = manifest["sources"].get(source["name"])
        if facts:
            licences = [f"{name} ({n:,})" for name, n in Counter(facts["licences"]).most_common()]
            rows.append([source["name"], ", ".join(licences), source["permission"], source["custodian"],
                         source["origin"] or source["url"]])
    head = ["source", "licence (documents)", "permission", "custodian", "origin"]
    return "## Where they come from\n\n" + table(head, rows)


def languages(manifest):
    by, rows = {fact: Counter() for fact in ("documents", "bytes", "tokens")}, []
    for s in manifest["sources"].values():
        for fact in by:
            by[fact].update(s[f"{fact}_by_language"])
    for lang, n in by["bytes"].most_common():
        names = [name for name, s in manifest["sources"].items() if lang in s["bytes_by_language"]]
        rows.append([lang, by["documents"][lang], n, f"{n / by['bytes'].total():.2%}", by["tokens"][lang],
                     round(n / by["tokens"][lang], 2), ", ".join(names)])
    head = ["language", "documents", "bytes", "share", "tokens", "bytes per token", "sources"]
    return "## Languages\n\n" + table(head, rows)


def first_dropped(out):
    """{(source, reason): the first document that dropped/ shows}"""
    found = {}
    for file in sorted(os.listdir(f"{out}/dropped")):
        with open(f"{out}/dropped/{file}", encoding="utf-8") as f:
            for document in map(json.loads, f):
                found.setdefault((document["source"], document["dropped"]), document)
    return found


def losses(out, report):
    rows, shown = [], first_dropped(out)
    for name, stages in report.items():
        for stage, facts in stages.items():
            changes, examples = facts.get("changed", {}), facts.get("examples", {})
            rows.append([name, stage, facts["in"], facts["kept"], sum(facts["dropped"].values()), 0, ""])
            for rule in {**facts["dropped"], **changes}:
                first = shown.get((name, rule), {})
                example = first.get("place") or first.get("text", "")[:80]
                if rule in examples:
                    before, after = examples[rule]["before"], examples[rule]["after"]
                    example = (f"`{before.strip()}` became " if before else "") + f"`{after.strip()}`"
                dropped, changed = facts["dropped"].get(rule, 0), changes.get(rule, 0)
                rows.append([name, rule, "", "", dropped, changed, example])
    head = ["source", "stage or rule", "in", "kept", "dropped", "changed", "example"]
    return ("## What was taken out\n\nDocuments in = kept + dropped, at every stage. `changed` counts "
            "documents that stay, with a part taken out or masked. The first of the dropped documents are in "
            "`dropped/`.\n\n" + table(head, rows))


def removals(manifest):
    if not manifest["removed"]:
        return ""
    return "## Removed on request\n\n" + "\n".join(f"- {name}" for name in manifest["removed"]) + "\n"


def again(manifest):
    rows = []
    for name, s in manifest["sources"].items():
        rows += [[name, split, s[split]["sha256"]] for split in SPLITS]
    return ("## How to build it again\n\nThe settings in `manifest.json` give the same bytes again from the "
            "same files, program and rules. Validation: "
            f"{manifest['settings']['val_share']:.0%} of each source, by a hash of the documents' ids; "
            "no exact copy of a document is in both splits.\n\n"
            + table(["source", "split", "sha256 of the tokens"], rows))


def write_card(out, manifest, report):
    sections = [sizes(manifest), origins(manifest), languages(manifest), losses(out, report),
                removals(manifest), again(manifest)]
    with open(f"{out}/DATA_CARD.md", "w", encoding="utf-8") as f:
        f.write("\n".join(section for section in sections if section))
