"""How good is a model? Its loss on the validation split by source and language; tasks in zero or a few shots.

    python evaluate.py runs/bloom-toy                               # the loss, and the laptop benchmark
    python evaluate.py runs/bloom-toy --tasks who mine.jsonl xcopa.it=xcopa.val.it.jsonl --shots 4
    python evaluate.py runs/llama-7b --tasks boolq=dev.jsonl mmlu=data/test --device cuda --dtype bfloat16
    python evaluate.py runs/bloom-toy --tasks loss --context 512    # longer than its rows: ALiBi's promise

loss            mean of -log p(token | the tokens before it), with the natural logarithm: its unit is the nat
perplexity      e to the loss: the model is as unsure as if it chose among so many equally likely tokens
bits per byte   the same sum in bits, divided by the bytes of the text. Losses of models with different
                tokenizers cannot be compared, because their tokens differ in length. Bits per byte can.
shot            a solved example that stands before each item of a task; zero-shot: there is none

A choice is scored by the sum of its tokens' log-probabilities; by that sum per character; per byte; or by
that sum less the one of the same choice after "Answer:" alone. One of the scores decides, marked * in the
output. Where a task has several prompts, each is run (BLOOM, section 4.1). evaluation/tasks.py says what a
task is. Writes runs/NAME/evaluations/loss.json and TASK.json, with every item. With shots, or in a window
that is not the trained one, the name says so: TASK.4-shot.json, loss.512-context.json.
"""
import collections
import json
import math
import os
import statistics
import sys

import numpy as np
import torch

import checkpoint
import config
import data
import parallel
import tokenizer as tokenizers
from data import IGNORE
from evaluation import scoring, tasks

# the programming languages that corpus/sources.py knows: "lang" of a document of source code
CODE = {"c", "c++", "c#", "go", "java", "javascript", "lua", "php", "python", "ruby", "rust", "scala",
        "typescript"}
HUGE = 10 ** 12


# ---- the loss ----

def token_losses(model, split, batch, tick):
    """Nats of each token of a validation file but the first one, which nothing predicts."""
    device, found = next(model.parameters()).device, [np.empty(0)]
    for first in range(0, split.windows, batch):
        rows = [split.window(w) for w in range(first, min(first + batch, split.windows))]
        x, y = (torch.from_numpy(np.stack(part)).to(device) for part in zip(*rows))
        p, _ = scoring.row_scores(model, x, y)
        found.append(-p[y != IGNORE].cpu().double().numpy())
        tick(len(rows))
    return np.concatenate(found)


def documents(folder, source):
    """Yield (place of its first token, document) of the validation split of one source of `folder`."""
    starts = np.fromfile(f"{folder}/tokens/{source}/val.idx", "<i8")
    places = np.fromfile(f"{folder}/tokens/{source}/val.doc", "<i8").reshape(-1, 2)
    for start, (part, byte) in zip(starts.tolist(), places.tolist()):
        with open(f"{folder}/corpus/{source}/{part:05}.jsonl", "rb") as f:
            f.seek(byte)
            yield start, json.loads(f.readline())


def summary(sums):
    """{name: its losses} of {name: (nats, tokens, bytes)}, the one with the most tokens first."""
    found = {}
    for name, (nats, tokens, size) in sorted(sums.items(), key=lambda entry: -entry[1][1]):
        if tokens:
            loss, bits = nats / tokens, nats / math.log(2)
            found[name] = {"loss": loss, "perplexity": math.exp(loss), "bits_per_byte": bits / size,
                           "tokens": int(tokens), "bytes": int(size)}
    return found


@torch.inference_mode()
def losses(model, folder, T=None, batch=16, tick=lambda n: None):
    """{"all", "sources": {name: ...}, "languages": {name: ...}} over the validation split of `folder`.

    It is cut into windows of T tokens as in train.py. A token's language is that of its document.
    """
    manifest, T = data.read_manifest(folder), T or model.cfg.context
    whole, sources, languages = (collections.defaultdict(lambda: np.zeros(3)) for _ in range(3))
    for source, facts in manifest["sources"].items():
        tokens = facts["val"]["tokens"]
        split = data.Split(f"{folder}/tokens/{source}/val.bin", manifest["dtype"], tokens, T)
        nats = token_losses(model, split, batch, tick)
        found = list(documents(folder, source)) if len(nats) else []
        ends = [start for start, _ in found[1:]] + [tokens]
        for (start, document), end in zip(found, ends):
            own = nats[max(0, start - 1):end - 1]           # the loss of token i is at i - 1
            add = own.sum(), len(own), len(document["text"].encode())
            whole["all"] += add
            sources[source] += add
            languages[document.get("lang") or "unknown"] += add
    if not whole:
        raise ValueError(f"{folder} has an empty validation split; add text and prepare it again")
    return {**summary(whole), "sources": summary(sources), "languages": summary(languages)}


def show_losses(result, manifest):
    rows = {"validation split": result["all"]}
    rows |= {f"source {name}": r for name, r in result["sources"].items()}
    for name, r in result["languages"].items():
        rows[f"code {name}" if name in CODE else f"language {name}"] = r
    print(f"{'':22} {'loss':>8} {'perplexity':>11} {'bits per byte':>14} {'tokens':>11} {'bytes':>12}")
    for name, r in rows.items():
        print(f"{name:22} {r['loss']:8.4f} {r['perplexity']:11.2f} {r['bits_per_byte']:14.3f} "
              f"{r['tokens']:11,} {r['bytes']:12,}")
    prepared = set()
    for source in manifest["sources"].values():
        prepared |= set(source.get("bytes_by_language", ()))
    missing = sorted(prepared - set(result["languages"]))
    if missing:
        print(f"no text in the validation split: {len(missing)} more languages, {' '.join(missing)}")
    print("loss: nats per token; perplexity: e to the loss; bits per byte can be compared between tokenizers")


def evaluate_loss(model, folder, T, args, settings):
    manifest = data.read_manifest(folder)
    windows = sum(math.ceil(max(0, s["val"]["tokens"] - 1) / T) for s in manifest["sources"].values())
    result = losses(model, folder, T, args.batch, config.progress("validation loss, rows", windows))
    show_losses(result, manifest)
    write_record("loss", {**settings, "data": os.path.basename(folder), **result}, model.cfg.context)


# ---- tasks ----

def read_task(spec, args):
    """[(number of a prompt, its items, how many were left out)] for the prompts of a task that are asked."""
    prompts = tasks.parse(spec)[0].prompts
    if args.prompt and args.prompt > len(prompts):
        raise ValueError(f"--prompt {args.prompt}: {spec} has {len(prompts)}")
    found = []
    for k in range(len(prompts)):
        if args.prompt in (None, k + 1):
            items, bad, _ = tasks.load_items(spec, k, shots=args.shots, shots_file=args.shots_file,
                                             seed=args.seed, skip_bad=args.skip_bad)
            if not items:
                raise ValueError(f"{spec} has no items" + (f": {bad} were malformed" if bad else ""))
            found.append((k, items, bad))
    return found


def figure(value):
    """A mean with its standard error, or one number."""
    return f"{value[0]:.3f} ± {value[1]:.3f}" if isinstance(value, tuple) else f"{value:.3f}"


def show_task(name, results):
    """A line for each prompt, the spread over prompts, the accuracy by language (score that decides)."""
    for r in results:
        cells = [f"{r['items']:6,} items"]
        if "chance" in r:
            cells.append(f"chance {r['chance']:.3f}")
        for key, shown in scoring.SHOWN.items():
            if key in r:
                star = "*" if key == r["rule"] else ""
                cells.append(f"{shown}{star} {figure(r[key])}")
        if r["cut"]:
            cells.append(f"{r['cut']:,} contexts cut")
        if r["malformed"]:
            cells.append(f"{r['malformed']:,} malformed items left out")
        label = f"{name}, prompt {r['prompt'] + 1}" if len(results) > 1 else name
        print(f"{label:18} {'   '.join(cells)}")
    if len(results) > 1:
        values = sorted(r[r["rule"]][0] for r in results)
        print(f"{'':18} over {len(values)} prompts: median {statistics.median(values):.3f}, "
              f"lowest {values[0]:.3f}, highest {values[-1]:.3f}")
    if len(results[0]["languages"]) > 1:
        by_language = [f"{lang} {m:.2f}" for lang, (m, _) in results[0]["languages"].items()]
        print(f"{'':18} by language: {'   '.join(by_language)}")


def evaluate_task(model, tokenizer, spec, by_prompt, T, args, settings):
    form, results = tasks.parse(spec)[0], []
    for k, items, bad in by_prompt:
        total = sum(len(item.get("choices", [0])) for item in items)
        tick = config.progress(f"{spec}, continuations", total)
        got = scoring.score_items(model, tokenizer, items, form, args.begin, T, args.batch, tick)
        text = "".join(form.prompts[k] or ())
        results.append({"prompt": k, "prompt_text": text, "malformed": bad, **got})
    name = task_name(spec)
    show_task(name, results)
    shots = form.shots if args.shots is None else args.shots
    record = {**settings, "task": spec, "begin": args.begin, "shots": shots, "shots_file": args.shots_file,
              "seed": args.seed, "prompts": results}
    write_record(f"{name}.{shots}-shot" if shots else name, record, model.cfg.context)


def task_name(spec):
    """task_name("xcopa.it=data/xcopa.val.it.jsonl") -> "xcopa.it-xcopa.val.it" """
    left, _, path = spec.partition("=") if "=" in spec else ("", "", spec)
    name = os.path.splitext(os.path.basename(path.rstrip("/")))[0]
    return f"{left}-{name}" if left else name


def write_record(name, record, trained):
    """Write runs/NAME/evaluations/`name`.json. In another window than the `trained` one it is another
    measurement: it does not replace the first."""
    if record["context"] != trained:
        name = f"{name}.{record['context']}-context"
    path = f"{record['run']}/evaluations/{name}.json"
    os.makedirs(os.path.dirname(path), exist_ok=True)
    config.write_json(path, record)
    print(f"{'':18} wrote {path}", flush=True)


# ---- the command ----

def options():
    ap = config.Parser(__doc__)
    ap.add_argument("run", metavar="runs/NAME", help="a run of train.py, or what convert.py imported")
    ap.add_argument("--tasks", nargs="+", metavar="TASK",
                    help=f"loss, {', '.join(tasks.BENCHMARK)}, FILE.jsonl, FORMAT=PATH or FORMAT.LANG=PATH. "
                         f"Formats: {', '.join(tasks.FORMATS)} (default: ours, and the loss of known data)")
    ap.add_argument("--shots", type=config.number(0, HUGE), metavar="K",
                    help="solved examples before each item (default: 0; MMLU 5)")
    ap.add_argument("--shots-file", metavar="FILE",
                    help="take its first items; without it other items of the task, drawn by the seed")
    ap.add_argument("--seed", type=int, default=0, help="of the examples (default: 0)")
    ap.add_argument("--prompt", type=config.number(1, HUGE), metavar="N",
                    help="only this prompt of the task, counted from 1 (default: each)")
    ap.add_argument("--begin", choices=scoring.BEGIN,
                    help="what stands before a text: the end of another, as in the training rows, or what "
                         "lm-evaluation-harness puts there (default: harness if imported, else training)")
    ap.add_argument("--skip-bad", action="store_true", help="leave malformed items out, and count them")
    ap.add_argument("--data", metavar="NAME", help="data/NAME for the loss (default: that of the training)")
    ap.add_argument("--context", type=config.number(2, HUGE), metavar="T",
                    help="tokens in the window (default: as many as in its training)")
    ap.add_argument("--batch", type=config.number(1, HUGE), default=16,
                    help="rows at once; changes the memory, not the result (default: 16)")
    ap.add_argument("--step", type=config.number(0, HUGE), help="of the checkpoint (default: the newest)")
    ap.add_argument("--device", choices=["cpu", "cuda", "mps"], help="default: cuda if there, else cpu",
                    default="cuda" if torch.cuda.is_available() else "cpu")
    ap.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32",
                    help="of weights and products (default: float32)")
    return ap


def load_tokenizer(run, begin):
    """The tokenizer of a run. With --begin training also an imported model begins a text as our rows do."""
    tokenizer = run.tokenizer()
    if run.imported and begin == "training":
        ends, tokenizer = tokenizer.ends, tokenizers.load(f"{run.path}/tokenizer")
        tokenizer.ends = ends
    return tokenizer


def main():
    args = options().parse_args()
    run = checkpoint.open_run(args.run)
    parallel.check_device(args.device)
    args.begin = args.begin or ("harness" if run.imported else "training")
    name = args.data or run.facts.get("data", {}).get("name")
    specs = args.tasks or (["loss"] if name else []) + tasks.BENCHMARK
    if "loss" in specs:
        if not name:
            raise ValueError(f"{run.path} does not say which data it was trained on; give --data NAME, "
                             "or --tasks without loss")
        run.check_tokenizer(data.read_manifest(f"data/{name}")["tokenizer"], f"data/{name}")
    # every task is read before the first one is scored: a wrong name or line stops at once
    by_task = {spec: read_task(spec, args) for spec in dict.fromkeys(specs) if spec != "loss"}
    tokenizer = load_tokenizer(run, args.begin)
    model, state = run.load(args.device, getattr(torch, args.dtype), args.step,
                            say=lambda line: print(line, file=sys.stderr))
    T = args.context or model.cfg.context
    step = state["step"]            # the one that was loaded: the newest may be damaged
    settings = {"run": run.path, "step": step, "context": T, "dtype": args.dtype, "torch": torch.__version__}
    print(f"{run.path}, step {step:,}, {args.dtype} on {args.device}, windows of {T:,} tokens", flush=True)
    if "loss" in specs:
        evaluate_loss(model, f"data/{name}", T, args, settings)
    if by_task:
        print("tasks: share of right answers ± its standard error, beside what chance gives\n"
              "* marks the score that decides, the papers' for their tasks; --help explains the scores")
    for spec, by_prompt in by_task.items():
        evaluate_task(model, tokenizer, spec, by_prompt, T, args, settings)


if __name__ == "__main__":
    config.command(main)
