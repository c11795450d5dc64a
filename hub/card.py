"""The model card: README.md of the folder that `python convert.py export` writes.

Everything in it is read from the run: config.json, log.jsonl, evaluations/*.json, and the data card of
data/NAME if that is still there. A function makes a section: Markdown, or "" if there is nothing to say.
"""
import collections
import dataclasses
import glob
import json
import os
import re

import checkpoint
import config
from corpus.card import table


def section(title, *paragraphs):
    text = "\n".join(p for p in paragraphs if p)
    return f"## {title}\n\n{text}" if text else ""


def beginning(run, n):
    m = run.shape
    name = os.path.basename(os.path.abspath(run.path))
    text = (f"# {name}\n\n{n:,} parameters: {m.layers} layers of width {m.dim}, {m.heads} heads, rows of "
            f"{m.context:,} tokens.\n")
    if run.imported:
        text += (f"\nThis is the model imported from `{run.imported['from']}`. Its data, training, "
                 "evaluation and terms are on its own card, and are not repeated here.\n")
    if run.facts.get("init_from"):
        other = os.path.basename(run.facts["init_from"].rstrip("/"))
        text += (f"\nIts training began from the weights of `{other}`; what those were trained on is not "
                 "said here.\n")
    return text


def architecture(m):
    choices = {key: str(value) for key, value in dataclasses.asdict(m).items() if value is not None}
    if m.position != "rope":
        del choices["theta"]
    return section("Architecture", table(["choice", "value"], list(choices.items())))


def vocabulary(m, tokenizer):
    text = f"{tokenizer.kind}, {tokenizer.vocab:,} entries"
    if m.vocab > tokenizer.vocab:
        text += f"; the embedding's {m.vocab - tokenizer.vocab:,} rows beyond them stand for nothing"
    return section("Tokenizer", f"{text}.\n")


def data(run):
    """(the section, languages): the data card without the part that shows what was taken out."""
    folder = f"data/{run.settings().data.name}"
    sums = run.facts["data_sha256"]
    if not all(os.path.exists(f"{folder}/{file}") for file in ("manifest.json", "DATA_CARD.md")):
        text = (f"{folder} was not there when this was written. Its sources: {', '.join(sums)}; their "
                "licences and permissions are not known here.\n")
        return section("Data", text), []
    manifest = config.read_json(f"{folder}/manifest.json")
    changed = checkpoint.hashes(manifest) != sums
    note = "It has changed since the training; this is what it is now.\n" if changed else ""
    with open(f"{folder}/DATA_CARD.md", encoding="utf-8") as f:
        text = f.read().partition("## What was taken out")[0]
    names = {name for source in manifest["sources"].values() for name in source["bytes_by_language"]}
    languages = sorted(name for name in names if re.fullmatch("[a-z]{2,3}", name))      # not "python"
    return section("Data", note, re.sub("^#", "##", text, flags=re.M)), languages


def training(run, state, records):
    o, r = run.settings().optim, run.settings().run
    fewer = ", fewer in the beginning" if r.ramp else ""
    text = (f"{state['tokens']:,} tokens in {state['step']:,} steps of {r.batch} rows{fewer}. "
            f"AdamW, betas {o.beta1} and {o.beta2}, eps {o.eps}, weight decay {o.weight_decay}, gradient "
            f"norm up to {o.clip}. Learning rate {o.lr} after a warmup of {o.warmup:,} tokens, by a cosine "
            f"to {o.min_lr} at {o.decay or r.tokens:,}. Seed {r.seed}; torch {run.facts['torch']}.\n")
    changes = read = ""
    for record in records:
        start = record.get("start", {})
        where = f"Processes: {start.get('processes')}; {start.get('hardware')}.\n"
        if start and where not in text:
            text += where
        for key, (old, new) in start.get("changed", {}).items():
            if not key.startswith("machine."):          # those do not change the result
                changes += f"- After step {record['step']:,} {key} was changed from {old} to {new}.\n"
        if record.get("sources"):
            rows = [[name, *seen] for name, seen in record["sources"].items()]
            read = table(["source", "tokens read", "epochs"], rows)
    return section("Training", text, changes, read)


def losses(records):
    """Of the exported step, or of the last one before it that was logged or evaluated."""
    loss = val = ""
    for record in records:
        if "loss" in record:
            loss = f"Training loss at step {record['step']:,}: {record['loss']:.4f} nats per token.\n"
        if "val" in record:
            by_source = {"all": record["val"], **record["val"]["sources"]}
            rows = [[key, round(v["loss"], 4), round(v["bits_per_byte"], 4)] for key, v in by_source.items()]
            if "mix" in record["val"]:
                rows.append(["mixed as the training rows", round(record["val"]["mix"], 4), ""])
            val = table([f"validation at step {record['step']:,}", "nats per token", "bits per byte"], rows)
    return section("Losses", loss, val)


def tasks(run, step):
    """What evaluate.py measured of this step: a row for each prompt, a table for each context."""
    trained = run.shape.context
    rows = collections.defaultdict(list)        # by context
    for path in sorted(glob.glob(f"{glob.escape(run.path)}/evaluations/*.json")):
        e = config.read_json(path)
        for p in e.get("prompts", []) if e.get("step") == step else []:
            score = p[p["rule"]]                # a mean with its standard error, or a perplexity
            score = score[0] if isinstance(score, list) else score
            chance = round(p["chance"], 4) if "chance" in p else ""
            prompt = f"{p.get('prompt', 0) + 1} {p.get('prompt_text', ''):.80}"
            row = [e["task"], prompt, e["shots"], p["items"], p["rule"], round(score, 4), chance]
            rows[e.get("context", trained)].append(row)
    head = ["task", "prompt", "shots", "items", "scored by", "value", "chance"]
    tables = []
    for context in sorted(rows, key=lambda context: context != trained):
        other = "" if context == trained else f", where the training had {trained:,}"
        tables.append(f"In windows of {context:,} tokens{other}:\n\n{table(head, rows[context])}")
    return section("Tasks", *tables)


def notes(tokenizer, n):
    """What a user of a model that was trained here must know."""
    start = ("In the training rows a text follows the end of another, `</s>` in the papers' tokenizers. A "
             "prompt that begins a text is better preceded by it too: "
             f"ids `{tokenizer.begin}`, then the text's.\n")
    small = "It is a small model: it writes in the manner of its data and knows next to nothing.\n"
    limits = section("Limits", small if n < 1e8 else "", "It was not evaluated for safety, bias or truth.\n")
    return section("How a text begins", start, limits)


def card(run, state, n, tokenizer, licence):
    """The card of `run`, a checkpoint.RunFolder, of `n` parameters; `state` is that of the checkpoint."""
    step = state["step"]
    languages = []
    terms = licence
    parts = [beginning(run, n), architecture(run.shape), vocabulary(run.shape, tokenizer)]
    if not run.imported:
        records = [record for record in run.records() if record["step"] <= step]
        about_data, languages = data(run)
        parts += [about_data, training(run, state, records), losses(records)]
    parts.append(tasks(run, step))
    if not run.imported:
        parts.append(notes(tokenizer, n))
        none = "None was given, which permits nothing. The licence of the program is not the model's."
        terms = licence or none
    parts.append(section("Licence", terms))
    head = [f"license: {json.dumps(licence)}"] if licence else []       # a JSON string is one of YAML
    if languages:
        head += ["language:", *(f"- {json.dumps(name)}" for name in languages)]
    head = ["---", *head, "library_name: transformers", "pipeline_tag: text-generation", "---", ""]
    return "\n".join([*head, *(part for part in parts if part)])
