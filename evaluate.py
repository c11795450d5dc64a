"""How good is a model? Its loss on the validation split by source and language; tasks in zero or a few shots.

    python evaluate.py runs/bloom-toy                               # the loss, and the laptop benchmark
    python evaluate.py runs/llama-7b --tasks who boolq=dev.jsonl mine.jsonl --shots 4 --device cuda
    python evaluate.py runs/bloom-toy --tasks loss --context 512    # longer than its rows: ALiBi's promise

loss            mean of -log p(token | the tokens before it), in nats; perplexity is e to the loss
bits per byte   the same sum in bits, divided by the bytes of the text: it can be compared between tokenizers
shot            a solved example that stands before each item of a task
sum             a choice is scored by the sum of its tokens' log-probabilities; char: by that sum per
                character; answer: by that sum less the one of the same choice after "Answer:" alone
match, greedy   the written answer is a right one; greedy decoding writes the target

One score decides, marked * in the output. Each prompt of a task is run (BLOOM, section 4.1). What a task is
says evaluation/tasks.py. Writes runs/NAME/evaluations/loss.json and TASK.json, with every item; with shots
TASK.4-shot.json, in another window than the trained one loss.512-context.json.
"""
import collections
import json
import math
import os
import sys

if __name__ == "__main__":      # before the imports that take seconds
    import config
    config.begin_command()

import numpy as np
import torch

import checkpoint
import config
import data
import parallel
from evaluation import scoring, tasks

# ---- the loss ----

def token_losses(model, split, batch, tick):
    """Nats of each token of a validation file but the first one, which nothing predicts."""
    device, found = next(model.parameters()).device, [np.empty(0)]
    for first in range(0, split.windows, batch):
        rows = [split.window(w) for w in range(first, min(first + batch, split.windows))]
        x, y = (torch.from_numpy(np.stack(part)).to(device) for part in zip(*rows))
        p, _ = scoring.row_scores(model, x, y)
        found.append(-p[y != data.IGNORE].cpu().double().numpy())
        tick(len(found[-1]))
    return np.concatenate(found)


def documents(folder, source):
    """Yield the documents of the validation split of one source of `folder`."""
    places = np.fromfile(f"{folder}/tokens/{source}/val.doc", "<i8").reshape(-1, 2)
    for part, byte in places.tolist():
        with open(f"{folder}/corpus/{source}/{part:05}.jsonl", "rb") as f:
            f.seek(byte)
            yield json.loads(f.readline())


@torch.inference_mode()
def losses(model, folder, T=None, batch=16, tick=lambda n: None):
    """{"all", "sources": {name: ...}, "languages": {name: ...}}, the most tokens first, of the validation
    split of `folder`. It is cut into windows of T tokens as in train.py."""
    manifest, T = data.read_manifest(folder), T or model.cfg.context
    sums = collections.defaultdict(lambda: np.zeros(3))         # nats, tokens, bytes
    for source, facts in manifest["sources"].items():
        path, tokens = f"{folder}/tokens/{source}/val", facts["val"]["tokens"]
        nats = token_losses(model, data.Split(f"{path}.bin", manifest["dtype"], tokens, T), batch, tick)
        starts = np.fromfile(f"{path}.idx", "<i8").tolist()
        for start, end, document in zip(starts, [*starts[1:], tokens], documents(folder, source)):
            own = nats[max(0, start - 1):end - 1]               # the loss of token i is at i - 1
            lang = document.get("lang") or "unknown"
            for key in ("all", ""), ("sources", source), ("languages", lang):
                sums[key] += own.sum(), len(own), len(document["text"].encode())
    if not sums:
        raise ValueError(f"{folder} has an empty validation split; add text and prepare it again")
    result = {"all": {}, "sources": {}, "languages": {}}
    for (part, name), (nats, tokens, size) in sorted(sums.items(), key=lambda entry: -entry[1][1]):
        loss, bits = nats / tokens, nats / math.log(2)
        result[part][name] = {"loss": loss, "perplexity": math.exp(loss), "bits_per_byte": bits / size,
                              "tokens": int(tokens), "bytes": int(size)}
    return {**result, "all": result["all"][""]}


def show_losses(result):
    """A line for each source and each language; of source code the programming language is its language."""
    rows = {"validation split": result["all"]}
    rows |= {f"source {name}": r for name, r in result["sources"].items()}
    rows |= {f"text in {name}": r for name, r in result["languages"].items()}
    print(f"{'':22} {'loss':>8} {'perplexity':>11} {'bits per byte':>14} {'tokens':>11}")
    for name, r in rows.items():
        print(f"{name:22} {r['loss']:8.4f} {r['perplexity']:11.2f} {r['bits_per_byte']:14.3f} "
              f"{r['tokens']:11,}")
    print("languages without text in the validation split have no line")


# ---- tasks ----

def show_scores(label, r):
    """A line of what score_items() found, and the accuracy by language."""
    cells = [f"{r['items']:6,} items"]
    if "chance" in r:
        cells.append(f"chance {r['chance']:.3f}")
    for score, value in r.items():
        if isinstance(value, tuple):            # accuracy, standard error
            star = "*" if score == r["rule"] else ""
            cells.append("{}{} {:.3f} ± {:.3f}".format(score, star, *value))
    if "perplexity" in r:
        cells.append(f"perplexity {r['perplexity']:.3f}")
    if r["left_out"]:
        cells.append(f"{r['left_out']:,} items left out")
    if r["cut"]:
        cells.append(f"{r['cut']:,} contexts cut")
    print(f"{label:18} {'   '.join(cells)}")
    if len(r["languages"]) > 1:
        cells = [f"{lang} {accuracy:.2f}" for lang, (accuracy, _) in r["languages"].items()]
        print(f"{'':18} by language: {'   '.join(cells)}")


def evaluate_task(model, tokenizer, spec, prompts, T, args):
    """What the record says of a task: `prompts` are what load_items() gives for each."""
    results = []
    for k, (items, text, form) in enumerate(prompts):
        total = sum(len(item.get("choices", [0])) for item in items)
        tick = config.progress(f"{spec}, continuations", total)
        found = scoring.score_items(model, tokenizer, items, form, T, args.batch, tick, args.skip_bad)
        show_scores(f"{spec}, prompt {k + 1}" if len(prompts) > 1 else spec, found)
        results.append({"prompt": k, "prompt_text": text, **found})
    shots = form.shots if args.shots is None else args.shots
    return {"shots": shots, "shots_file": args.shots_file, "seed": args.seed, "prompts": results}


def write_record(record, trained):
    """Write runs/NAME/evaluations/TASK.json, xcopa.it-val.json for xcopa.it=a/val.jsonl. Shots, and another
    window than the `trained` one, stand in the name: they are another measurement."""
    *left, path = record["task"].split("=", 1)
    name = "-".join([*left, os.path.splitext(os.path.basename(path.rstrip("/")))[0]])
    if record.get("shots"):
        name += f".{record['shots']}-shot"
    if record["context"] != trained:
        name += f".{record['context']}-context"
    path = f"{record['run']}/evaluations/{name}.json"
    os.makedirs(os.path.dirname(path), exist_ok=True)
    config.write_json(path, record)
    print(f"{'':18} wrote {path}", flush=True)


# ---- the command ----

def options():
    count, natural = config.number(0, 10 ** 12), config.number(1, 10 ** 12)
    ap = config.Parser(__doc__)
    ap.add_argument("run", metavar="runs/NAME", help="a run of train.py, or what convert.py imported")
    ap.add_argument("--tasks", nargs="+", metavar="TASK",
                    help=f"loss, {', '.join(tasks.BENCHMARK)}, FILE.jsonl, FORMAT=PATH or FORMAT.LANG=PATH. "
                         f"Formats: {', '.join(tasks.FORMATS)} (default: ours, and the loss of known data)")
    ap.add_argument("--shots", type=count, metavar="K", help="examples before an item (default: 0; MMLU 5)")
    ap.add_argument("--shots-file", metavar="FILE", help="of examples (default: other items)")
    ap.add_argument("--seed", type=int, default=0, help="by which other items are drawn (default: 0)")
    ap.add_argument("--skip-bad", action="store_true",
                    help="name records that are malformed or too long, and leave them out")
    ap.add_argument("--data", metavar="NAME", help="data/NAME for the loss (default: that of the training)")
    ap.add_argument("--context", type=natural, metavar="T", help="tokens in the window (default: as trained)")
    ap.add_argument("--batch", type=natural, default=16, help="rows at once (default: 16)")
    ap.add_argument("--step", type=count, help="of the checkpoint (default: the newest)")
    ap.add_argument("--device", choices=["cpu", "cuda", "mps"], help="(default: cuda if there, else cpu)",
                    default="cuda" if torch.cuda.is_available() else "cpu")
    ap.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32", help="of the weights")
    return ap


def main():
    args = options().parse_args()
    parallel.one_process("evaluate.py")
    run = checkpoint.open_run(args.run)
    parallel.check_device(args.device)
    name = args.data or run.facts.get("data", {}).get("name")
    specs = dict.fromkeys(args.tasks or (["loss"] if name else []) + tasks.BENCHMARK)
    if "loss" in specs:
        if not name:
            raise ValueError(f"{run.path} does not say which data it was trained on; give --data NAME")
        manifest = data.read_manifest(f"data/{name}")
        run.check_tokenizer(manifest["tokenizer"], f"data/{name}")
    # every task is read before the first one is scored: a wrong name or line stops at once
    for spec in [spec for spec in specs if spec != "loss"]:
        specs[spec] = [tasks.load_items(spec, k, args.shots, args.shots_file, args.seed, args.skip_bad)
                       for k in range(len(tasks.parse(spec)[0].prompts))]
    model, state = run.load(args.device, getattr(torch, args.dtype), args.step,
                            say=lambda line: print(line, file=sys.stderr))
    T, tokenizer = args.context or model.cfg.context, run.tokenizer()
    step = state["step"]            # the one that was loaded: the newest may be damaged
    settings = {"run": run.path, "step": step, "context": T, "dtype": args.dtype, "torch": torch.__version__}
    print(f"{run.path}, step {step:,}, {args.dtype} on {args.device}, windows of {T:,} tokens", flush=True)
    for spec, prompts in specs.items():
        if spec == "loss":
            total = sum(source["val"]["tokens"] for source in manifest["sources"].values())
            tick = config.progress("validation loss, tokens", total)
            record = {"data": name, **losses(model, f"data/{name}", T, args.batch, tick)}
            show_losses(record)
        else:
            record = evaluate_task(model, tokenizer, spec, prompts, T, args)
        write_record({**settings, "task": spec, **record}, model.cfg.context)
    if specs.keys() - {"loss"}:
        print("share of right answers ± its standard error, beside what chance gives; * decides, see --help")


if __name__ == "__main__":
    config.command(main)
