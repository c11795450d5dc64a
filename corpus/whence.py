"""What did a step read? The documents of a global batch, with sources and licences: for a spike of the loss,
and for a request to remove a text.

    python data.py whence runs/bloom-toy step=120            # or step=100:120, the end excluded
    python data.py whence runs/bloom-toy step=120 --json     # every document in full, a line each

The rows of a step are a function of data, seed and step (data.py). Ask before you remove a document:
afterwards the data is another, and the question is refused.
"""
import json
import re
from collections import Counter

import numpy as np

import checkpoint
import config
import data


def read_documents(rows, step):
    """Yield (row, source, epoch, first token, end, document) for each document in a row of `step`.
    Steps are counted from 1, tokens within the document."""
    numbers = np.arange(data.rows_before(step - 1, rows.run), data.rows_before(step, rows.run))
    for row, (s, epoch, window) in enumerate(np.stack(rows.windows(numbers)).T.tolist()):
        name = rows.sources[s]
        tokens = len(rows.train[s].tokens)
        starts = np.memmap(f"{rows.folder}/tokens/{name}/train.idx", "<i8", "r")
        places = np.memmap(f"{rows.folder}/tokens/{name}/train.doc", "<i8", "r").reshape(-1, 2)
        first, end = window * rows.T, min((window + 1) * rows.T + 1, tokens)
        for d in range(np.searchsorted(starts, first, "right") - 1, np.searchsorted(starts, end)):
            with open(f"{rows.folder}/corpus/{name}/{places[d, 0]:05}.jsonl", "rb") as f:
                f.seek(places[d, 1])
                document = json.loads(f.readline())
            start = starts[d]
            stop = starts[d + 1] if d + 1 < len(starts) else tokens
            yield row, name, epoch, int(max(first - start, 0)), int(min(end, stop) - start), document


def steps_asked(text, last, path):
    """What is asked of a run of `last` steps. steps_asked("step=3:5", 9, "runs/r") -> range(3, 5)"""
    found = re.fullmatch(r"step=(\d+)(?::(\d+))?", text) or ("", 0, 0)
    first = int(found[1])
    steps = range(first, int(found[2] or first + 1))
    if not steps or steps[0] < 1 or steps[-1] > last:
        raise ValueError(f"{text}: {path} has read {last:,} steps so far; give step=NUMBER, counted from 1, "
                         "or step=FIRST:END with the end excluded")
    return steps


def main():
    ap = config.Parser(__doc__)
    ap.add_argument("command", choices=["whence"])
    ap.add_argument("run", help="runs/NAME")
    ap.add_argument("step", help="step=NUMBER or step=FIRST:END")
    ap.add_argument("--json", action="store_true", help="a JSON line for each document")
    args = ap.parse_args()
    run = checkpoint.open_run(args.run)
    cfg = run.settings()
    folder = f"data/{cfg.data.name}"
    run.check_data(data.read_manifest(folder), folder)
    rows = data.Rows(cfg)
    steps = steps_asked(args.step, max([0, *(record["step"] for record in run.records())]), run.path)
    tokens = {"sources": Counter(), "licences": Counter()}
    for step in steps:
        for row, name, epoch, at, end, d in read_documents(rows, step):
            licence = d.get("licence", "no licence named")
            tokens["sources"][name] += end - at
            tokens["licences"][licence] += end - at
            if args.json:
                facts = {"step": step, "row": row, "epoch": epoch, "tokens": [at, end], **d}
                print(json.dumps(facts, ensure_ascii=False))
            else:
                print(f"step {step}  row {row:4}  {name}/{d['id']}  tokens {at}:{end}  epoch {epoch}  "
                      f"{d.get('lang', '')}  {licence}  {d.get('url', '')}".rstrip())
    for what, counts in tokens.items() if not args.json else ():
        print(f"tokens by {what}: " + ", ".join(f"{name} {n:,}" for name, n in counts.most_common()))
