"""What did a step read? The documents of a global batch, with sources and licences: for a spike of the loss, and for a request to remove a text.

    python data.py whence runs/bloom-toy step=120            # or step=100:120, the end excluded
    python data.py whence runs/bloom-toy step=120 --json     # every document in full, a line each

Ask before you remove a document: afterwards the data is another, and the question is refused. The rows of a step are a function of data, seed and step (data.py), so nothing was written down during training.
"""
import argparse
import collections
import json
import types

import numpy as np

import config
import data


def documents(rows, step):
    """Yield (row, source, epoch, first token, end, document) for each document in a row of `step`, counted from 1; tokens are counted within it."""
    numbers = np.arange(data.rows_before(step - 1, rows.run), data.rows_before(step, rows.run))
    for row, (s, epoch, window) in enumerate(np.stack(rows.windows(numbers)).T.tolist()):
        name, tokens = rows.sources[s], len(rows.train[s].tokens)
        folder = f"{rows.folder}/tokens/{name}/train"
        starts, places = np.memmap(f"{folder}.idx", "<i8", "r"), np.memmap(f"{folder}.doc", "<i8", "r").reshape(-1, 2)
        first, end = window * rows.T, min((window + 1) * rows.T + 1, tokens)
        for d in range(np.searchsorted(starts, first, "right") - 1, np.searchsorted(starts, end)):
            with open(f"{rows.folder}/corpus/{name}/{places[d, 0]:05}.jsonl", "rb") as f:
                f.seek(places[d, 1])
                document = json.loads(f.readline())
            start, stop = starts[d], starts[d + 1] if d + 1 < len(starts) else tokens
            yield row, name, epoch, int(max(first - start, 0)), int(min(end, stop) - start), document


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("command", choices=["whence"])
    ap.add_argument("run", help="runs/NAME")
    ap.add_argument("step", help="step=NUMBER or step=FIRST:END, as the log counts them")
    ap.add_argument("--json", action="store_true", help="a JSON line for each document, its text included")
    args = ap.parse_args()
    facts = config.read_json(f"{args.run.rstrip('/')}/config.json")
    if "data" not in facts:
        raise ValueError(f"{args.run} was imported; what it was trained on is not known here")
    cfg = types.SimpleNamespace(model=config.Model(**facts["model"]), run=config.Run(**facts["run"]), data=config.Data(**facts["data"]))
    rows = data.Rows(cfg)
    changed = [s for s, h in facts["data_sha256"].items() if rows.manifest["sources"].get(s, {}).get("train", {}).get("sha256") != h]
    if changed:
        raise ValueError(f"{rows.folder} is not what {args.run} was trained on: {', '.join(changed)} changed since; prepare the data as it was to ask what a step read")
    first, _, end = args.step.removeprefix("step=").partition(":")
    steps = range(int(first), int(end or int(first) + 1)) if (first + end).isdecimal() else ()
    if not steps or steps[0] < 1:
        raise ValueError(f"{args.step}: give step=NUMBER, counted from 1 as in the log, or step=FIRST:END with the end excluded")
    last = max([0, *(json.loads(line)["step"] for line in open(f"{args.run}/log.jsonl", encoding="utf-8") if line.endswith("\n"))])
    if steps[-1] > last:
        raise ValueError(f"{args.step}: {args.run} has read {last:,} steps so far")
    licences, seen = collections.Counter(), collections.defaultdict(collections.Counter)
    for step in steps:
        for row, name, epoch, at, stop, d in documents(rows, step):
            licence = d.get("licence", "no licence named")
            seen[name][d["id"]] += stop - at
            licences[licence] += stop - at
            print(json.dumps({"step": step, "row": row, "epoch": epoch, "tokens": [at, stop], **d}, ensure_ascii=False) if args.json else
                  f"step {step}  row {row:4}  {name}/{d['id']}  tokens {at}:{stop}  epoch {epoch}  {d.get('lang', '')}  {licence}  {d.get('url', '')}".rstrip())
    if not args.json:
        print(f"{sum(map(len, seen.values()))} documents: " + ", ".join(f"{name} {len(ids)} ({ids.total():,} tokens)" for name, ids in seen.items()))
        print("licences by tokens: " + ", ".join(f"{k} {n:,}" for k, n in licences.most_common()))
