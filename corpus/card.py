"""DATA_CARD.md: what is in data/NAME, by source and language, under which licences, what each rule took out, and how to build it again.
Read one: python prepare.py configs/data/sample.py, then data/sample/DATA_CARD.md."""
import collections
import json
import os


def table(head, rows):
    """A Markdown table; numbers are set to the right, with thousands."""
    def cell(v):
        return f"{v:,}" if isinstance(v, int) else " ".join(str("" if v is None else v).replace("|", "\\|").split())
    right = [all(isinstance(r[i], (int, float)) or r[i] == "" or str(r[i]).endswith("%") for r in rows) for i in range(len(head))]
    return "\n".join(["| " + " | ".join(row) + " |" for row in [head, ["---:" if r else "---" for r in right], *[list(map(cell, r)) for r in rows]]]) + "\n"


def share(part, whole):
    return f"{part / max(1, whole):.2%}"


def first_dropped(out):
    """{(source, reason): the first document that dropped/ shows}"""
    found = {}
    folder = f"{out}/dropped"
    for file in sorted(os.listdir(folder)) if os.path.isdir(folder) else ():
        with open(f"{folder}/{file}", encoding="utf-8") as f:
            for d in map(json.loads, f):
                found.setdefault((d["source"], d["dropped"]), d)
    return found


def write(out, manifest, report):
    sources, settings = manifest["sources"], manifest["settings"]
    asked = {s["name"]: s for s in settings["sources"]}
    total = {split: sum(s[split]["tokens"] for s in sources.values()) for split in ("train", "val")}
    lines = [f"# {manifest['name']}\n", f"{sum(s[x]['documents'] for s in sources.values() for x in total):,} documents, "
             f"{sum(s[x]['bytes'] for s in sources.values() for x in total):,} bytes of text, {total['train']:,} training and {total['val']:,} validation tokens of a "
             f"{manifest['tokenizer']['kind']} tokenizer with {manifest['vocab']:,} entries (`{manifest['tokenizer']['fingerprint']}`).\n", "## Sources\n"]
    lines.append(table(["source", "documents", "bytes", "train tokens", "val tokens", "bytes per token", "share of rows"], [
        [name, s["train"]["documents"] + s["val"]["documents"], s["train"]["bytes"] + s["val"]["bytes"], s["train"]["tokens"], s["val"]["tokens"],
         round((s["train"]["bytes"] + s["val"]["bytes"]) / (s["train"]["tokens"] + s["val"]["tokens"]), 2), "by size" if s["weight"] is None else s["weight"]] for name, s in sources.items()]))
    lines += ["## Where they come from\n", table(["source", "licence", "permission", "custodian", "origin"], [
        [name, ", ".join(f"{k} ({n:,})" if len(s["licences"]) > 1 else k for k, n in sorted(s["licences"].items(), key=lambda x: -x[1])[:8]),
         asked[name]["permission"], asked[name]["custodian"], asked[name]["origin"] or asked[name]["url"]] for name, s in sources.items()])]
    lines += ["## Languages\n"]
    by = {k: collections.Counter() for k in ("documents", "bytes", "tokens")}
    for s in sources.values():
        for k in by:
            by[k].update(s[f"{k}_by_language"])
    lines.append(table(["language", "documents", "bytes", "share", "tokens", "bytes per token", "sources"], [
        [lang, by["documents"][lang], n, share(n, by["bytes"].total()), by["tokens"][lang], round(n / max(1, by["tokens"][lang]), 2),
         ", ".join(name for name, s in sources.items() if lang in s["bytes_by_language"])] for lang, n in by["bytes"].most_common()]))
    lines += ["## What was taken out\n", "Documents in = kept + dropped, at every stage. `changed` counts documents that stay, with a part taken out or masked. "
              "The first of the dropped documents are in `dropped/`.\n"]
    rows, shown = [], first_dropped(out)
    for name, stages in report.items():
        for stage, facts in stages.items():
            rows.append([name, stage, facts["in"], facts["kept"], "", "", "", ""])
            for rule in {**facts["dropped"], **facts.get("changed", {})}:
                n, d, e = facts["dropped"].get(rule, 0), shown.get((name, rule), {}), facts.get("examples", {}).get(rule)
                example = (f"`{e['before'].strip()}` became " if e["before"] else "") + f"`{e['after'].strip()}`" if e else d.get("place") or d.get("text", "")[:80]
                rows.append([name, rule, "", "", n, facts.get("changed", {}).get(rule, 0), share(n, facts["in"]), example])
    lines.append(table(["source", "stage or rule", "in", "kept", "dropped", "changed", "dropped share", "example"], rows))
    if manifest["removed"]:
        lines += ["## Removed on request\n", "\n".join(f"- {name}" for name in manifest["removed"]) + "\n"]
    lines += ["## How to build it again\n", f"The settings are in `manifest.json`; with the same files, program and rules the result is the same to the byte. Validation: {settings['val_share']:.0%} of each "
              "source's documents, by a hash of their ids; no exact copy of a document is in both splits.\n", "```json", json.dumps(settings, ensure_ascii=False, indent=1), "```", "",
              table(["source", "split", "sha256 of the tokens"], [[name, split, s[split]["sha256"]] for name, s in sources.items() for split in ("train", "val")])]
    with open(f"{out}/DATA_CARD.md", "w", encoding="utf-8") as f:
        f.write("\n".join(lines))
