"""What people read about an exported model: README.md of the folder that convert.py export writes.

Everything in it is read from the run's files: config.json, log.jsonl, evaluations/*.json, and the data card of data/NAME where it is still there.
Read it from data_of() to card().
"""
import dataclasses
import json
import os
import re

import config
from corpus.card import table
from model import count


def data_of(facts):
    """(Markdown about the data of a run, its languages): the data card without the part that shows what was taken out."""
    name, note = facts["data"]["name"], ""
    if not all(os.path.exists(f"data/{name}/{f}") for f in ("manifest.json", "DATA_CARD.md")):
        return f"data/{name} was not there when this was written. Its sources: {', '.join(facts['data_sha256'])}; their licences and permissions are not known here.\n", []
    sources = config.read_json(f"data/{name}/manifest.json")["sources"]
    if {s: v["train"]["sha256"] for s, v in sources.items()} != facts["data_sha256"]:
        note = "It has changed since the training; this is what it is now.\n\n"
    with open(f"data/{name}/DATA_CARD.md", encoding="utf-8") as f:
        text = f.read().partition("## What was taken out")[0]
    return note + re.sub(r"^#", "##", text, flags=re.M), sorted({lang for s in sources.values() for lang in s["bytes_by_language"] if re.fullmatch("[a-z]{2,3}", lang)})


def card(run, facts, cfg, model, tokenizer, state, licence):
    """The model card as Markdown: what the run's files say, and what they do not."""
    step, imported, n, languages = state["step"], facts.get("imported"), count(model), []
    body = [f"# {os.path.basename(os.path.abspath(run))}\n", f"{n:,} parameters: {cfg.layers} layers of width {cfg.dim}, {cfg.heads} heads, rows of {cfg.context:,} tokens.\n"]
    if imported:
        body.append(f"This is the model imported from `{imported['from']}`. Its data, training, evaluation and terms are on its own card, "
                    "and are not repeated here.\n")
    if facts.get("init_from"):
        body.append(f"Its training began from the weights of `{os.path.basename(facts['init_from'].rstrip('/'))}`; what those were trained on is not said here.\n")
    body += ["## Architecture\n", table(["choice", "value"], [[k, str(v)] for k, v in dataclasses.asdict(cfg).items() if v is not None and (k != "theta" or cfg.position == "rope")]), "## Tokenizer\n",
             f"{tokenizer.kind}, {tokenizer.vocab:,} entries" + f"; the embedding's {cfg.vocab - tokenizer.vocab:,} rows beyond them stand for nothing" * (cfg.vocab > tokenizer.vocab) + ".\n"]
    if "run" in facts:
        data, languages = data_of(facts)
        o, r, read, trained, judged = facts["optim"], facts["run"], {}, None, None
        with open(f"{run}/log.jsonl", encoding="utf-8") as f:
            for record in (json.loads(line) for line in f if line.endswith("\n")):
                if record["step"] <= step:
                    read, trained, judged = record.get("sources", read), record if "loss" in record else trained, record if "val" in record else judged
        body += ["## Data\n", data, "## Training\n", f"{state['tokens']:,} tokens in {step:,} steps of {r['batch']} rows{', fewer in the beginning' * bool(r['ramp'])}. "
                 f"AdamW, betas {o['beta1']} and {o['beta2']}, eps {o['eps']}, weight decay {o['weight_decay']}, gradient norm up to {o['clip']}. "
                 f"Learning rate {o['lr']} after a warmup of {o['warmup']:,} tokens, by a cosine to {o['min_lr']} at {o['decay'] or r['tokens']:,}. "
                 f"Weights in float32, products as machine.dtype={r['dtype']} says; seed {r['seed']}; torch {facts['torch']}.\n",
                 *([table(["source", "tokens read", "epochs"], [[s, *v] for s, v in read.items()])] if read else []), "## Losses\n"]
        if trained:
            body.append(f"Training loss at step {trained['step']:,}: {trained['loss']:.4f} nats per token.\n")
        if judged:                              # of this step or the last one that was evaluated before it
            losses = {"all": judged["val"], **judged["val"]["sources"]}
            body.append(table([f"validation at step {judged['step']:,}", "nats per token", "bits per byte"], [[s, round(v["loss"], 4), round(v["bits_per_byte"], 4)] for s, v in losses.items()]))
    folder, rows = f"{run}/evaluations", []
    for file in sorted(os.listdir(folder)) if os.path.isdir(folder) else ():
        e = config.read_json(f"{folder}/{file}")
        for p in e.get("prompts", []) if e.get("step") == step else ():
            v = p[p["rule"]]                    # a mean with its standard error, or a perplexity
            rows.append([e["task"], e["shots"], p["items"], p["rule"], round(v[0] if isinstance(v, list) else v, 4), round(p["chance"], 4) if "chance" in p else ""])
    if rows:
        body += ["## Tasks\n", table(["task", "shots", "items", "scored by", "value", "chance"], rows)]
    if "run" in facts:
        body += ["## How a text begins\n", "In the training rows a text follows the end of another, `</s>` in the papers' tokenizers. A prompt that begins a text is better preceded by it too: "
                 f"ids `{[tokenizer.eos, *tokenizer.prompt]}`, then the text's.\n"]
    if not imported:
        body += ["## Limits\n", "It is a small model: it writes in the manner of its data and knows next to nothing. " * (n < 1e8) + "It was not evaluated for safety, bias or truth.\n"]
    if licence or not imported:
        body += ["## Licence\n", f"{licence}\n" if licence else "None was given, which permits nothing. The licence of the program is not the model's.\n"]
    head = [f"license: {json.dumps(licence)}"] * bool(licence) + ["language:", *(f"- {json.dumps(lang)}" for lang in languages)] * bool(languages)       # a JSON string is one of YAML
    return "\n".join(["---", *head, "library_name: transformers", "pipeline_tag: text-generation", "---", "", *body])
