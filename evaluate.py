"""How good is a model? Its loss on the whole validation split, by source and language, and tasks in zero or a few shots (tasks.py says what is asked).

    python evaluate.py runs/bloom-toy                                       # loss, and the laptop benchmark
    python evaluate.py runs/bloom-toy --tasks who mine.jsonl xcopa.it=xcopa.val.it.jsonl --shots 4
    python evaluate.py runs/llama-7b --tasks boolq=dev.jsonl mmlu=data/test --begin harness --device cuda --dtype bfloat16
    python evaluate.py runs/bloom-toy --tasks loss --context 512            # beyond the rows it was trained on: ALiBi's promise

A choice is scored by the sum of its tokens' log-probabilities; per character; per byte; or less that of the choice after "Answer:" alone. Each task has
one that decides (marked *), all are shown. Where a task has several prompts, each is run, and the spread shown (BLOOM, section 4.1).
Writes runs/NAME/evaluations/loss.json, TASK.json or TASK.K-shot.json, with every item. Read it from encode() to task().

Letters: B rows   T tokens   V vocabulary
"""
import argparse
import collections
import datetime
import json
import math
import os
import statistics
import sys
import time

import numpy as np
import torch

import checkpoint
import config
import data
import sample
import tokenizer as tokenizers
from data import IGNORE
from evaluation import tasks
from evaluation.scoring import BEGIN, RULES, SHOWN, read, score_items


@torch.inference_mode()
def losses(model, folder, T=None, batch=16, tick=lambda n: None):
    """Over the whole validation split of `folder` (data/NAME), in windows of T tokens as train.py cuts them: {"all", "sources": {name: ...}, "languages": {name: ...}},
    each {"loss" nats per token, "perplexity", "bits_per_byte", "tokens", "bytes"}. A token's loss goes to the language of the document it stands in."""
    T, device, manifest = T or model.cfg.context, next(model.parameters()).device, data.read_manifest(folder)
    found = {part: collections.defaultdict(lambda: np.zeros(3)) for part in ("all", "sources", "languages")}         # nats, tokens, bytes
    for name, s in manifest["sources"].items():
        path, nats = f"{folder}/tokens/{name}/val", []
        split = data.Split(f"{path}.bin", manifest["dtype"], s["val"]["tokens"], T)
        for first in range(0, split.windows, batch):
            x, y = (torch.from_numpy(np.stack(part)).to(device) for part in zip(*(split.window(w) for w in range(first, min(first + batch, split.windows)))))
            p, _ = read(model, x, y)
            nats.append(-p.double()[y != IGNORE].cpu().numpy())
            tick(len(x))
        if not nats:
            continue
        nats, starts, places = np.concatenate(nats), np.fromfile(f"{path}.idx", "<i8"), np.fromfile(f"{path}.doc", "<i8").reshape(-1, 2)
        documents = np.searchsorted(starts, np.arange(1, len(nats) + 1), "right") - 1             # token 0 of the file is predicted by nothing
        sums, tokens = np.bincount(documents, nats, len(starts)), np.bincount(documents, minlength=len(starts))
        for d, (part, byte) in enumerate(places.tolist()):
            with open(f"{folder}/corpus/{name}/{part:05}.jsonl", "rb") as f:
                f.seek(byte)
                document = json.loads(f.readline())
            for kind, key in ("all", "all"), ("sources", name), ("languages", document.get("lang") or "unknown"):
                found[kind][key] += sums[d], tokens[d], len(document["text"].encode())
    if not found["all"]:
        raise ValueError(f"{folder} has an empty validation split; add text and prepare it again")
    result = {kind: {key: {"loss": n / t, "perplexity": math.exp(n / t), "bits_per_byte": n / math.log(2) / b, "tokens": int(t), "bytes": int(b)}
                     for key, (n, t, b) in sorted(values.items(), key=lambda v: -v[1][1]) if t} for kind, values in found.items()}
    return {**result, "all": result["all"]["all"]}


def progress(what, total):
    """A function to call with how many are done; every ten seconds it says so, with the time left."""
    began, last, done = time.time(), time.time(), 0

    def tick(n):
        nonlocal last, done
        done += n
        if time.time() - last > 10:
            last = time.time()
            print(f"{what}: {done:,} of {total:,}   {datetime.timedelta(seconds=round((last - began) / done * max(0, total - done)))} left", file=sys.stderr, flush=True)
    return tick


def show_losses(result):
    print(f"{'validation':22} {'loss':>8} {'perplexity':>11} {'bits per byte':>14} {'tokens':>11} {'bytes':>12}")
    for kind, rows in (("", {"all": result["all"]}), ("source ", result["sources"]), ("", result["languages"])):
        for name, r in rows.items():
            print(f"{kind + name:22} {r['loss']:8.4f} {r['perplexity']:11.2f} {r['bits_per_byte']:14.3f} {r['tokens']:11,} {r['bytes']:12,}")


def show_task(name, results):
    """One line a prompt, then the spread over prompts, then accuracy by language under the rule that decides."""
    for r in results:
        label = f", prompt {r['prompt'] + 1}" * (len(results) > 1)
        cells = [f"{SHOWN.get(k, k)}{'*' * (k == r['rule'])} " + (f"{v[0]:.3f} ± {v[1]:.3f}" if isinstance(v, tuple) else f"{v:.3f}")
                 for k, v in r.items() if k in (*RULES, "match", "greedy", "perplexity", "bits_per_byte")]
        print(f"{name + label:18} {r['items']:6,} items   " + (f"chance {r['chance']:.3f}   " if "chance" in r else "")
              + "   ".join(cells) + f"   {r['cut']:,} contexts cut" * (r["cut"] > 0) + f"   {r['malformed']:,} malformed items left out" * (r["malformed"] > 0))
    if len(results) > 1:
        v = sorted(r[r["rule"]][0] for r in results)
        print(f"{'':18} over {len(v)} prompts: median {statistics.median(v):.3f}, lowest {v[0]:.3f}, highest {v[-1]:.3f}")
    if len(results[0].get("languages", ())) > 1:
        print(f"{'':18} " + "   ".join(f"{lang} {m:.2f}" for lang, (m, _) in results[0]["languages"].items()))


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("run", metavar="runs/NAME", help="a run of train.py, or what convert.py imported")
    ap.add_argument("--tasks", nargs="+", metavar="TASK",
                    help=f"loss, {', '.join(tasks.BENCHMARK)}, FILE.jsonl, FORMAT=PATH or FORMAT.LANG=PATH with {', '.join(tasks.FORMATS)} (default: the named ones, and the loss where the data is known)")
    ap.add_argument("--shots", type=int, help="solved examples before each item (default: 0; MMLU 5)")
    ap.add_argument("--shots-file", help="take the first ones of this file; without it other items of the task, drawn by the seed")
    ap.add_argument("--seed", type=int, default=0, help="of the examples")
    ap.add_argument("--prompt", type=int, help="only this prompt of the task, counted from 1 (default: each)")
    ap.add_argument("--begin", choices=BEGIN, help="what stands before a text: the end of another, as in the training rows, or what lm-evaluation-harness puts there (default: harness for an imported model, else training)")
    ap.add_argument("--skip-bad", action="store_true", help="leave malformed items out, and count them")
    ap.add_argument("--data", metavar="NAME", help="data/NAME for the loss (default: what the run was trained on)")
    ap.add_argument("--context", type=int, metavar="T", help="tokens in the window (default: the model's)")
    ap.add_argument("--batch", type=int, default=16, help="rows at once; changes the memory, not the result")
    ap.add_argument("--step", type=int, help="use the checkpoint of this step (default: the newest)")
    ap.add_argument("--device", choices=["cpu", "cuda", "mps"], default="cuda" if torch.cuda.is_available() else "cpu", help="default: cuda if there, else cpu")
    ap.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32", help="of weights and products (default: float32)")
    args = ap.parse_args()
    run = args.run.rstrip("/")
    facts = checkpoint.open_run(run).facts
    name = args.data or facts.get("data", {}).get("name")
    args.tasks = args.tasks or ["loss"] * bool(name) + list(tasks.BENCHMARK)
    args.begin = args.begin or ("harness" if "imported" in facts else "training")
    for key, least in ("batch", 1), ("context", 2), ("prompt", 1), ("shots", 0):
        if (value := getattr(args, key)) is not None and value < least:
            raise ValueError(f"--{key} {value}: it is at least {least}")
    if args.device == "cuda" and not torch.cuda.is_available() or args.device == "mps" and not torch.backends.mps.is_available():
        raise ValueError(f"--device {args.device}: this machine has none; use --device cpu")
    # every task is read before the first is scored: a wrong name or line stops at once
    read_tasks = {}
    for spec in (s for s in dict.fromkeys(args.tasks) if s != "loss"):
        form = tasks.FORMATS.get(spec.partition("=")[0].partition(".")[0]) if "=" in spec else None
        prompts = range(len(form.prompts) if form else 1)
        if args.prompt and args.prompt > len(prompts):
            raise ValueError(f"--prompt {args.prompt}: {spec} has {len(prompts)}")
        read_tasks[spec] = {k: tasks.load_items(spec, k, args.shots, args.shots_file, args.seed, args.skip_bad) for k in prompts if args.prompt in (None, k + 1)}
    model, tokenizer = sample.load(run, args.device, args.step, getattr(torch, args.dtype))
    T, out = args.context or model.cfg.context, f"{run}/evaluations"
    os.makedirs(out, exist_ok=True)
    settings = {"run": run, "step": args.step or max(int(s) for s in os.listdir(f"{run}/checkpoints") if os.path.exists(f"{run}/checkpoints/{s}/done")), "context": T,
                "dtype": args.dtype, "torch": torch.__version__}
    if "loss" in args.tasks:
        if not name:
            raise ValueError(f"{run} does not say which data it was trained on; give --data NAME, or --tasks without loss")
        manifest = data.read_manifest(f"data/{name}")
        if manifest["tokenizer"]["fingerprint"] != tokenizers.fingerprint(tokenizer):
            raise ValueError(f"data/{name} was made with another tokenizer than that of {run}: its tokens mean something else; prepare it with --tokenizer {run}/tokenizer")
        total = sum(math.ceil(max(0, s["val"]["tokens"] - 1) / T) for s in manifest["sources"].values())
        result = losses(model, f"data/{name}", T, args.batch, progress("validation loss, rows", total))
        show_losses(result)
        config.write_json(f"{out}/loss.json", {**settings, "data": name, **result})
        print(f"wrote {out}/loss.json")
    for spec, by_prompt in read_tasks.load_items():
        left, _, name = spec.partition("=") if "=" in spec else ("", "", spec)
        name, results = left + "-" * bool(left) + os.path.splitext(os.path.basename(name.rstrip("/")))[0], []
        for k, (items, malformed, form) in by_prompt.items():
            if not items:
                raise ValueError(f"{spec} has no items" + (f": {malformed} were malformed" if malformed else ""))
            total = sum(len(i.get("choices", [0])) for i in items)
            results.append({"prompt": k, "malformed": malformed, **score_items(model, tokenizer, items, form, args.begin, T, args.batch, progress(f"{spec}, continuations", total))})
        show_task(name, results)
        shots = form.shots if args.shots is None else args.shots
        path = f"{out}/{name}{f'.{shots}-shot' if shots else ''}.json"
        config.write_json(path, {**settings, "task": spec, "begin": args.begin, "shots": shots, "shots_file": args.shots_file, "seed": args.seed, "prompts": results})
        print(f"{'':18} wrote {path}")


if __name__ == "__main__":
    config.command(main)
