"""The model card: README.md of the folder that `python convert.py export` writes.

Everything in it is read from the run: config.json, log.jsonl, evaluations/*.json, and the data card of
data/NAME if that is still there. A function makes a section in Markdown.
"""
import glob
import json
import os
import re

import checkpoint
import config
from corpus.card import table


def beginning(run, n, tokenizer):
    m = run.shape
    text = (f"# {os.path.basename(os.path.abspath(run.path))}\n\n{n:,} parameters: {m.layers} layers of "
            f"width {m.dim}, {m.heads} heads, rows of {m.context:,} tokens. Tokenizer: {tokenizer.kind}, "
            f"{tokenizer.vocab:,} entries.\n")
    if run.imported:
        text += (f"\nThis is the model imported from `{run.imported['from']}`. Its data, training, "
                 "evaluation and terms are on its own card, and are not repeated here.\n")
    if run.facts.get("init_from"):
        other = os.path.basename(run.facts["init_from"].rstrip("/"))
        text += f"\nIts training began from the weights of `{other}`, whose data is not named here.\n"
    return text


def settings(**sections):
    rows = []
    for name, part in sections.items():
        rows += [[f"{name}.{key}", str(value)] for key, value in vars(part).items()]
    return "## Settings\n\n" + table(["setting of train.py", "value"], rows)


def data(run):
    """The data card without the part that shows what was taken out."""
    folder = f"data/{run.settings().data.name}"
    sums = run.facts["data_sha256"]
    manifest, card = f"{folder}/manifest.json", f"{folder}/DATA_CARD.md"
    there = os.path.exists(manifest) and os.path.exists(card)
    if not there or checkpoint.hashes(config.read_json(manifest)) != sums:
        return (f"## Data\n\n{folder} was not there, or had changed, when this was written. Its sources: "
                f"{', '.join(sums)}; their licences and permissions are not known here.\n")
    with open(card, encoding="utf-8") as f:
        text = f.read().partition("## What was taken out")[0]
    return "## Data\n\n" + re.sub("^#", "##", text, flags=re.M)


def training(run, state):
    """What the log says of the exported step, or of the last one before it that was measured."""
    last = {}                           # {a key of a record: the last record that has it}
    for record in run.records():
        if record["step"] <= state["step"]:
            last |= dict.fromkeys(record, record)
    text = (f"## Training\n\n{state['tokens']:,} tokens in {state['step']:,} steps, with torch "
            f"{run.facts['torch']}.\n")
    if "sources" in last:
        rows = [[name, *seen] for name, seen in last["sources"]["sources"].items()]
        text += "\n" + table(["source", "tokens read", "epochs"], rows)
    if "val" in last:
        step, val = last["val"]["step"], last["val"]["val"]
        rows = []
        for name, v in {"all": val, **val["sources"]}.items():
            rows.append([name, round(v["loss"], 4), round(v["bits_per_byte"], 4)])
        text += "\n" + table([f"validation at step {step:,}", "nats per token", "bits per byte"], rows)
    return text


def tasks(run, step):
    """What evaluate.py measured of this step: a row for each prompt."""
    rows = []
    for path in sorted(glob.glob(f"{glob.escape(run.path)}/evaluations/*.json")):
        e = config.read_json(path)
        for p in e.get("prompts", []) if e.get("step") == step else []:
            score = p[p["rule"]]                # a mean with its standard error, or a perplexity
            score = score[0] if isinstance(score, list) else score
            chance = round(p["chance"], 4) if "chance" in p else ""
            prompt = f"{p.get('prompt', 0) + 1} {p.get('prompt_text', ''):.80}"
            rows.append([e["task"], prompt, e["shots"], e.get("context", run.shape.context), p["items"],
                         p["rule"], round(score, 4), chance])
    head = ["task", "prompt", "shots", "window", "items", "scored by", "value", "chance"]
    return "## Tasks\n\n" + table(head, rows) if rows else ""


def card(run, state, n, tokenizer, licence):
    """The card of `run`, a checkpoint.RunFolder, of `n` parameters; `state` is that of the checkpoint."""
    head = f"license: {json.dumps(licence)}\n" if licence else ""           # a JSON string is one of YAML
    parts = [f"---\n{head}library_name: transformers\npipeline_tag: text-generation\n---\n",
             beginning(run, n, tokenizer)]
    if run.imported:
        parts += [settings(model=run.shape), tasks(run, state["step"])]
    else:
        cfg = run.settings()
        parts += [
            data(run), settings(model=cfg.model, optim=cfg.optim, run=cfg.run), training(run, state),
            tasks(run, state["step"]),
            f"## How a text begins\n\nWith the ids `{tokenizer.begin}`, which the tokenizer of this folder "
            "puts before it.\n",
            "## Limits\n\nIt was not evaluated for safety, bias or truth.\n"]
        licence = licence or "None was given, which permits nothing. The program's licence is another."
    if licence:
        parts.append(f"## Licence\n\n{licence}\n")
    return "\n".join(part for part in parts if part)
