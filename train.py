"""Train. The whole run is here, as one straight story; the same command continues a run that was stopped.

    python train.py configs/bloom.py                              # toy size: minutes on a laptop
    python train.py configs/llama.py run.name=try1 optim.lr=2e-3 data.name=mine

Writes runs/NAME: config.json, log.jsonl, tokenizer/, checkpoints/. Ctrl-C or SIGTERM saves at the end of the step.

Letters: B rows in a micro-batch   T tokens   V vocabulary
"""
import argparse
import contextlib
import datetime
import json
import math
import os
import shutil
import signal
import time

import torch

import checkpoint
import config
import data
import prepare
from model import IGNORE, Transformer, count, flops_per_token, init

HERE = os.path.dirname(os.path.abspath(__file__))
PEAK = {"A100": 312e12, "H100": 989e12, "H200": 989e12}        # dense bfloat16 FLOP/s, from the data sheets


def lr_at(tokens, o, total):
    """Learning rate once `tokens` tokens have been read: linear warmup to o.lr, then cosine to o.min_lr at o.decay or the end."""
    end = o.decay or total
    if tokens < o.warmup:
        return o.lr * tokens / o.warmup
    done = min(1.0, (tokens - o.warmup) / max(1, end - o.warmup))
    return o.min_lr + 0.5 * (o.lr - o.min_lr) * (1 + math.cos(math.pi * done))


def adamw(model, o):
    """AdamW; weight decay on matrices, the embedding included, not on biases and norms (both papers)."""
    matrices, vectors = ([p for p in model.parameters() if (p.dim() > 1) == wanted] for wanted in (True, False))
    groups = [{"params": matrices, "weight_decay": o.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=o.lr, betas=(o.beta1, o.beta2), eps=o.eps, fused=True)


def choose_device(run):
    """(device, autocast dtype or None, one line that says why)."""
    device = run.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    elif device == "cuda" and not torch.cuda.is_available() or device == "mps" and not torch.backends.mps.is_available():
        raise ValueError(f"run.device={device}: this machine has none; use run.device=auto")
    good = device == "cuda" and torch.cuda.is_bf16_supported() or device == "cpu" and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    bf16 = run.dtype == "bfloat16" or run.dtype == "auto" and good
    why = "as set" if run.dtype != "auto" else "the device is good at it" if good else "the device has no fast bfloat16"
    name = torch.cuda.get_device_name() if device == "cuda" else f"{torch.get_num_threads()} threads" if device == "cpu" else device
    return device, torch.bfloat16 if bf16 else None, f"{device} ({name}), {'bfloat16 products, float32 weights' if bf16 else 'float32'}: {why}"


@torch.no_grad()
def evaluate(model, rows, run, device, precision, stop):
    """{source: loss in nats per token, bits per byte} over the validation split in file order, and over all of it; None if `stop` asks."""
    result, all_nats, all_tokens, all_bytes = {}, 0.0, 0, 0.0
    for name, split, size in zip(rows.sources, rows.val, rows.val_bytes):
        nats, tokens = 0.0, 0
        windows = range(min(split.windows, run.eval_rows or split.windows))
        for first in range(0, len(windows), run.micro):
            if stop:
                return None
            x, y = (torch.stack(part) for part in zip(*(map(torch.from_numpy, split.window(w)) for w in windows[first:first + run.micro])))
            with precision():
                nats += model(x.to(device), y.to(device)).item()
            tokens += (y != IGNORE).sum().item()
        if tokens:
            size *= tokens / (len(split.tokens) - 1)        # bytes of the part that was read
            result[name] = {"loss": nats / tokens, "bits_per_byte": nats / math.log(2) / size}
            all_nats, all_tokens, all_bytes = all_nats + nats, all_tokens + tokens, all_bytes + size
    if not all_tokens:
        raise ValueError(f"{rows.folder} has an empty validation split; add text and prepare it again")
    return {"loss": all_nats / all_tokens, "bits_per_byte": all_nats / math.log(2) / all_bytes, "sources": result}


class Log:
    """runs/NAME/log.jsonl: one object per line. What was written after the checkpoint a run continues from is cut off, and written again."""
    def __init__(self, run, step):
        self.path, self.records = f"{run}/log.jsonl", []
        if os.path.exists(self.path):
            with open(self.path, encoding="utf-8") as f:
                self.records = [json.loads(line) for line in f if line.endswith("\n")]       # the last one may be half written
        self.records = [r for r in self.records if r["step"] <= step]
        with open(f"{self.path}.new", "w", encoding="utf-8") as f:
            f.writelines(json.dumps(r) + "\n" for r in self.records)
        os.replace(f"{self.path}.new", self.path)

    def write(self, **record):
        self.records.append(record)
        with open(self.path, "a", encoding="utf-8") as f:
            f.write(json.dumps(record) + "\n")

    def evaluated(self):
        """{step: validation loss}"""
        return {r["step"]: r["val"]["loss"] for r in self.records if "val" in r}


def start(cfg, rows):
    """Make or check runs/NAME/config.json; returns the folder. A run keeps its model, seed and data for life."""
    run = f"runs/{cfg.run.name}"
    facts = {**config.plain(cfg), "torch": torch.__version__, "tokenizer": rows.manifest["tokenizer"],
             "data_sha256": {s: v["train"]["sha256"] for s, v in rows.manifest["sources"].items()}}
    if os.path.exists(f"{run}/config.json"):
        with open(f"{run}/config.json", encoding="utf-8") as f:
            before = json.load(f)
        for key, old, new in config.differences(before, facts):
            if key.startswith("model."):
                raise ValueError(f"{run} holds a model of another shape: {key} is {old} there and {new} here; use another run.name")
            if key.startswith("tokenizer."):
                raise ValueError(f"{run} was trained with another tokenizer than that of {rows.folder} ({old}, not {new}); use another run.name or the data it began with")
            if key.startswith(("data", "run.seed", "run.batch", "run.ramp")):
                raise ValueError(f"{run} was trained with {key}={old}, now it is {new}: its rows would come in another order; use another run.name")
            print(f"changed since {run} was last started: {key} {old} -> {new}")
    os.makedirs(run, exist_ok=True)
    if not os.path.exists(f"{run}/tokenizer"):
        shutil.copytree(f"{rows.folder}/tokenizer", f"{run}/tokenizer.new", dirs_exist_ok=True)
        os.rename(f"{run}/tokenizer.new", f"{run}/tokenizer")
    config.write_json(f"{run}/config.json", facts)
    return run


def train(cfg):
    if cfg.data.prepare and not os.path.exists(f"data/{cfg.data.name}/manifest.json"):
        file, *settings = cfg.data.prepare.split()
        corpus = config.load(file if os.path.exists(file) else os.path.join(HERE, file), settings)
        if corpus.name == cfg.data.name:
            prepare.prepare(corpus)
    rows, r = data.Rows(cfg), cfg.run
    entries, T = rows.manifest["vocab"], cfg.model.context
    cfg.model.vocab = cfg.model.vocab or math.ceil(entries / 128) * 128
    if entries > cfg.model.vocab:
        raise ValueError(f"the tokenizer of {rows.folder} has {entries:,} entries and model.vocab={cfg.model.vocab:,} rows; use model.vocab=none or data made with a smaller tokenizer")
    device, dtype, line = choose_device(r)
    precision = (lambda: torch.autocast(device, dtype)) if dtype else contextlib.nullcontext
    model = init(Transformer(cfg.model), r.seed).to(device)
    optimizer = adamw(model, cfg.optim)
    run, parameters, steps = start(cfg, rows), count(model), data.steps_in(r, T)
    flops, peak = flops_per_token(cfg.model, parameters), next((p for name, p in PEAK.items() if device == "cuda" and name in torch.cuda.get_device_name()), None)
    m = cfg.model
    print(f"{r.name}: {parameters:,} parameters, {m.layers} layers of {m.dim}, {m.heads} heads; {m.position}, {m.norm} norm, {m.mlp}"
          f"{', bias' * m.bias}{', embedding norm' * m.embed_norm}{', tied' * m.tied}; vocabulary {m.vocab:,}, context {T}\n"
          f"{steps:,} steps of {r.batch} rows = {data.rows_before(steps, r) * T:,} tokens; {line}")

    state = checkpoint.newest(run, model, optimizer)
    step = state["step"] if state else 0
    log = Log(run, step)
    if step >= steps:
        return print(f"{run} is complete: {step:,} steps, validation loss {log.evaluated().get(step, math.nan):.4f}. A larger run.tokens would continue it")
    if step:
        print(f"continuing {run} after step {step}")

    stop = []       # signals received
    for s in (signal.SIGINT, signal.SIGTERM):
        signal.signal(s, lambda number, frame: stop.append(number))
    began = last = time.time()
    done_here = tokens_since = 0
    saved = step if state else None
    while True:
        if (step % r.eval_every == 0 or step == steps) and step not in log.evaluated():
            val = evaluate(model, rows, r, device, precision, stop)
            if val:
                log.write(step=step, tokens=data.rows_before(step, r) * T, val=val)
                print(f"step {step:>6}/{steps}   validation loss {val['loss']:.4f}   {val['bits_per_byte']:.3f} bits per byte   "
                      + "   ".join(f"{name} {v['loss']:.3f}" for name, v in list(val["sources"].items())[:6]))
            last = time.time()
        if (step and step % r.save_every == 0 or step == steps or stop) and saved != step:
            folder = checkpoint.save(run, step, model, optimizer, {"tokens": data.rows_before(step, r) * T})
            saved, evaluated = step, log.evaluated()
            checkpoint.prune(run, r.keep, min((s for s in checkpoint.steps(run) if s in evaluated), key=evaluated.get, default=None))
            last = time.time()
        if stop:
            return print(f"stopped by {signal.Signals(stop[0]).name} after step {step}, saved in {run}; the same command continues")
        if step == steps:
            break

        x, y, which = rows.rows(step)
        valid, total, tokens = int((y != IGNORE).sum()), 0.0, data.rows_before(step + 1, r) * T
        for at in range(0, len(x), r.micro):        # summed over the global batch, then divided by all its valid tokens
            a, b = (torch.from_numpy(part[at:at + r.micro]).to(device, non_blocking=True) for part in (x, y))
            with precision():
                loss = model(a, b) / valid
            loss.backward()
            total += loss.detach()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), cfg.optim.clip)
        loss, norm = float(total), float(norm)
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise ValueError(f"step {step + 1}: loss {loss}, gradient norm {norm}: not finite, so nothing was updated or saved; the last checkpoint is "
                             f"{saved if saved is not None else 'none'}. Its rows (source, epoch, window): {which[:8].tolist()}...")
        lr = lr_at(tokens, cfg.optim, r.tokens)
        for group in optimizer.param_groups:
            group["lr"] = lr
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        step, done_here, tokens_since = step + 1, done_here + 1, tokens_since + x.size
        if step % r.log_every == 0 or step == steps:
            now = time.time()
            speed, left = tokens_since / (now - last), (now - began) / done_here * (steps - step)
            mfu = speed * flops / peak if peak else None
            log.write(step=step, tokens=tokens, loss=loss, lr=lr, norm=norm, rows=which.tolist() if len(which) <= 64 else None,
                      sources=rows.seen(step), seconds=round(now - began, 3), tokens_per_second=round(speed), mfu=mfu)
            print(f"step {step:>6}/{steps}   loss {loss:.4f}   lr {lr:.2e}   norm {norm:5.2f}   {speed / 1000:.1f}k tok/s"
                  f"{f'   MFU {mfu:.1%}' if mfu else ''}   {datetime.timedelta(seconds=round(left))} left", flush=True)
            last, tokens_since = now, 0
    seen = "   ".join(f"{name} {t:,} tokens, {e} epochs" for name, (t, e) in list(rows.seen(steps).items())[:6])
    print(f"read: {seen}\nwrote {run}: log.jsonl and checkpoint {folder}\nnow: python sample.py {run} --prompt \"...\"")


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("config", help="configs/bloom.py or configs/llama.py")
    ap.add_argument("settings", nargs="*", metavar="section.field=value", help="size=7b1, optim.lr=2e-4, ...; config.py has them all")
    args, more = ap.parse_known_args()
    cfg = config.load(args.config, args.settings + more)
    if not isinstance(cfg, config.Config):
        raise ValueError(f"{args.config} is a data config; python prepare.py {args.config} reads it")
    train(config.check(cfg))


if __name__ == "__main__":
    config.command(main)
