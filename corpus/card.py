"""DATA_CARD.md: what is in data/NAME, under which licences, and what each rule took out.
A function per section.

    python prepare.py configs/data/sample.py        # then read data/sample/DATA_CARD.md
"""
from collections import Counter

from corpus import stages


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
    return source["train"][fact] + source["val"][fact]


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
            f"tokenizer with {manifest['vocab']:,} entries. Held out for validation: "
            f"{manifest['settings']['val_share']:.0%} of each source, by a hash of the documents' ids. "
            "manifest.json has the settings and the sha256 of all tokens.\n\n"
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
        rows.append([lang, by["documents"][lang], n, f"{n / by['bytes'].total():.2%}", by["tokens"][lang],
                     round(n / by["tokens"][lang], 2)])
    head = ["language", "documents", "bytes", "share", "tokens", "bytes per token"]
    return "## Languages\n\n" + table(head, rows)


def losses(out, report):
    rows, shown = [], stages.first_dropped(out)
    for name, by_stage in report.items():
        for stage, facts in by_stage.items():
            changes, dropped = facts.get("changed", {}), facts["dropped"]
            rows.append([name, stage, facts["in"], facts["kept"], sum(dropped.values()), 0, ""])
            for rule in {**dropped, **changes}:
                first = shown.get((name, rule), {})
                example = first.get("place") or first.get("text", "")[:80]
                rows.append([name, rule, "", "", dropped.get(rule, 0), changes.get(rule, 0), example])
    lost = Counter()
    for by_stage in report.values():
        lost.update(by_stage["read"].get("lost_templates", {}))
    names = ", ".join(f"{cell(name)} ({n:,})" for name, n in lost.most_common(10))
    note = f"\nThe templates of wikis that most often left nothing: {names}\n" if names else ""
    head = ["source", "stage or rule", "in", "kept", "dropped", "changed", "example"]
    return ("## What was taken out\n\nDocuments in = kept + dropped, at every stage. `changed` counts "
            "documents that stay, with a part taken out or masked. The first of the dropped documents are in "
            "`dropped/`.\n\n" + table(head, rows) + note)


def write_card(out, manifest, report):
    with open(f"{out}/DATA_CARD.md", "w", encoding="utf-8") as f:
        f.write("\n".join([sizes(manifest), origins(manifest), languages(manifest), losses(out, report)]))
