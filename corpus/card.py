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
    marks = ["---:" if all(is_number(row[i]) for row in rows) else "---" for i in range(len(head))]
    lines = [head, marks, *([cell(value) for value in row] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def is_number(value):
    return isinstance(value, (int, float)) or value == "" or str(value).endswith("%")


def cell(value):
    if isinstance(value, int):
        return f"{value:,}"
    text = "" if value is None else str(value)
    return " ".join(text.replace("|", "\\|").split())


def share(part, whole):
    return f"{part / max(1, whole):.2%}"


def both(source, fact):
    """A fact of a source's two splits together."""
    return sum(source[split][fact] for split in SPLITS)


def summary(manifest):
    sources, tokenizer = manifest["sources"].values(), manifest["tokenizer"]
    train, val = (sum(s[split]["tokens"] for s in sources) for split in SPLITS)
    return (f"# {manifest['name']}\n\n{sum(both(s, 'documents') for s in sources):,} documents, "
            f"{sum(both(s, 'bytes') for s in sources):,} bytes of text, {train:,} training and {val:,} "
            f"validation tokens of a {tokenizer['kind']} tokenizer with {manifest['vocab']:,} entries "
            f"(`{tokenizer['fingerprint']}`).\n")


def sizes(manifest):
    rows = []
    for name, s in manifest["sources"].items():
        weight = "by size" if s["weight"] is None else s["weight"]
        rows.append([name, both(s, "documents"), both(s, "bytes"), s["train"]["tokens"], s["val"]["tokens"],
                     round(both(s, "bytes") / both(s, "tokens"), 2), weight])
    head = ["source", "documents", "bytes", "train tokens", "val tokens", "bytes per token", "share of rows"]
    return "## Sources\n\n" + table(head, rows)


def origins(manifest):
    asked, rows = {s["name"]: s for s in manifest["settings"]["sources"]}, []
    for name, s in manifest["sources"].items():
        common = sorted(s["licences"].items(), key=lambda item: -item[1])[:8]
        licences = [f"{licence} ({n:,})" if len(s["licences"]) > 1 else licence for licence, n in common]
        source = asked[name]
        origin = source["origin"] or source["url"]
        rows.append([name, ", ".join(licences), source["permission"], source["custodian"], origin])
    head = ["source", "licence", "permission", "custodian", "origin"]
    return "## Where they come from\n\n" + table(head, rows)


def languages(manifest):
    by, rows = {fact: Counter() for fact in ("documents", "bytes", "tokens")}, []
    for s in manifest["sources"].values():
        for fact in by:
            by[fact].update(s[f"{fact}_by_language"])
    for lang, n in by["bytes"].most_common():
        tokens = by["tokens"][lang]
        names = [name for name, s in manifest["sources"].items() if lang in s["bytes_by_language"]]
        rows.append([lang, by["documents"][lang], n, share(n, by["bytes"].total()), tokens,
                     round(n / max(1, tokens), 2), ", ".join(names)])
    head = ["language", "documents", "bytes", "share", "tokens", "bytes per token", "sources"]
    return "## Languages\n\n" + table(head, rows)


def first_dropped(out):
    """{(source, reason): the first document that dropped/ shows}"""
    found = {}
    folder = f"{out}/dropped"
    for file in sorted(os.listdir(folder)) if os.path.isdir(folder) else ():
        with open(f"{folder}/{file}", encoding="utf-8") as f:
            for document in map(json.loads, f):
                found.setdefault((document["source"], document["dropped"]), document)
    return found


def losses(out, report):
    rows, shown = [], first_dropped(out)
    for name, stages in report.items():
        for stage, facts in stages.items():
            changes, examples = facts.get("changed", {}), facts.get("examples", {})
            rows.append([name, stage, facts["in"], facts["kept"], "", "", "", ""])
            for rule in {**facts["dropped"], **changes}:
                dropped, first = facts["dropped"].get(rule, 0), shown.get((name, rule), {})
                example = first.get("place") or first.get("text", "")[:80]
                if rule in examples:
                    before, after = examples[rule]["before"], examples[rule]["after"]
                    example = (f"`{before.strip()}` became " if before else "") + f"`{after.strip()}`"
                rows.append([name, rule, "", "", dropped, changes.get(rule, 0), share(dropped, facts["in"]),
                             example])
    head = ["source", "stage or rule", "in", "kept", "dropped", "changed", "dropped share", "example"]
    return ("## What was taken out\n\nDocuments in = kept + dropped, at every stage. `changed` counts "
            "documents that stay, with a part taken out or masked. The first of the dropped documents are in "
            "`dropped/`.\n\n" + table(head, rows))


def removals(manifest):
    if not manifest["removed"]:
        return ""
    return "## Removed on request\n\n" + "\n".join(f"- {name}" for name in manifest["removed"]) + "\n"


def again(manifest):
    settings, rows = manifest["settings"], []
    for name, s in manifest["sources"].items():
        rows += [[name, split, s[split]["sha256"]] for split in SPLITS]
    return ("## How to build it again\n\nThe settings are in `manifest.json`; with the same files, program "
            f"and rules the result is the same to the byte. Validation: {settings['val_share']:.0%} of each "
            "source's documents, by a hash of their ids; no exact copy of a document is in both splits.\n\n"
            "```json\n" + json.dumps(settings, ensure_ascii=False, indent=1)
            + "\n```\n\n" + table(["source", "split", "sha256 of the tokens"], rows))


def write_card(out, manifest, report):
    sections = [summary(manifest), sizes(manifest), origins(manifest), languages(manifest),
                losses(out, report), removals(manifest), again(manifest)]
    with open(f"{out}/DATA_CARD.md", "w", encoding="utf-8") as f:
        f.write("\n".join(section for section in sections if section))
