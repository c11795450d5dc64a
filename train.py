"""Train. The whole run is here, as one straight story; the same command continues a run that was stopped.

    python train.py configs/bloom.py                              # toy size: minutes on a laptop
    python train.py configs/llama.py run.name=try1 optim.lr=2e-3 data.name=mine
    python train.py configs/llama.py init_from=runs/smol run.name=mine data.name=mine model.context=256      # weights of another run, or imported ones
    torchrun --nproc_per_node=8 train.py configs/bloom.py size=7b1          # eight GPUs; docs/launch.md has the rest

Writes runs/NAME: config.json, log.jsonl, tokenizer/, checkpoints/. Ctrl-C, SIGTERM or a file runs/NAME/stop saves at the end of the step.

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
import distributed
import prepare
import watch
from model import Transformer, can_compile, count, flops_per_token, init

HERE = os.path.dirname(os.path.abspath(__file__))
# dense bfloat16 FLOP/s, and the memory in 10^9 bytes it is sold with; from the data sheets
GPUS = {"RTX 3090": (71e12, 24), "RTX 4090": (165e12, 24), "A100": (312e12, 40, 80), "H100": (989e12, 80), "H200": (989e12, 141), "B200": (2250e12, 180)}


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


def build(cfg, device, dtype):
    """The model, this process's part of it, on the meta device: to_empty() gives it memory, init() or a checkpoint fills it."""
    with torch.device("meta"):
        model = Transformer(cfg.model, cfg.run.recompute)
    if cfg.run.compile and can_compile(device):
        for block in model.blocks:
            block.compile()             # before they are sharded; compiling the whole model would rename its parameters
    distributed.shard(model, cfg.run, dtype, device)
    return model


def gradients(model, x, y, valid, run, precision):
    """Forward and backward of this process's rows x, y (B, T) in micro-batches; returns its part of the mean loss over the step's
    `valid` targets. Losses are summed over the global batch, then divided by all its targets, so how it is cut changes nothing."""
    total, pieces = 0.0, list(zip(x.split(run.micro), y.split(run.micro)))
    for i, (a, b) in enumerate(pieces):
        distributed.before_backward(model, last=i == len(pieces) - 1)
        with precision():
            loss = model(a, b) / valid
        loss.backward()
        total += loss.detach()
    return total


@torch.no_grad()
def evaluate(model, rows, run, device, precision, asked):
    """{source: loss in nats per token, bits per byte} over the validation split in file order, and over all of it; None if `asked` to stop."""
    result, all_nats, all_tokens, all_bytes = {}, 0.0, 0, 0.0
    rank, world = distributed.place()
    for name, split, size in zip(rows.sources, rows.val, rows.val_bytes):
        nats, windows = 0.0, min(split.windows, run.eval_rows or split.windows)
        tokens, B = min(windows * split.T, max(0, len(split.tokens) - 1)), min(run.micro, math.ceil(windows / world))
        for first in range(rank * B, windows + rank * B, B * world if B else 1):        # as many times on every process, with or without rows left
            watch.at(f"evaluating {name}: reading rows")
            x, y = map(torch.from_numpy, rows.read([(split, w) for w in range(first, min(first + B, windows))], B))
            watch.at(f"evaluating {name}")
            if asked():
                return None
            with precision():
                nats += model(x.to(device), y.to(device)).item()
        if tokens:
            nats, size = float(distributed.sum(nats)), size * tokens / (len(split.tokens) - 1)      # bytes of the part that was read
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
                for n, line in enumerate(f, 1):
                    try:
                        if line.endswith("\n") and (record := json.loads(line))["step"] <= step:      # the last one may be half written
                            self.records.append(record)
                    except (ValueError, KeyError, TypeError) as e:
                        raise ValueError(f"{self.path}, line {n} is no record: {line[:60]!r}; put the line right, or move the file away") from e
        lines, self.waiting = "".join(json.dumps(r) + "\n" for r in self.records).encode(), b""

        def cut():
            with open(f"{self.path}.new", "wb") as f:
                f.write(lines)
            os.replace(f"{self.path}.new", self.path)
        distributed.once(cut)
        self.size = len(lines)

    def write(self, **record):
        """Append a line, on process 0. Where the disk is full it waits for the next one: a log is no reason to stop."""
        self.records.append(record)
        if distributed.place()[0]:
            return
        self.waiting += json.dumps(record).encode() + b"\n"
        try:
            with open(self.path, "r+b") as f:
                f.seek(self.size)
                f.write(self.waiting)
                f.truncate()                        # what a failed write left
            self.size, self.waiting = self.size + len(self.waiting), b""
        except OSError as e:
            print(f"warning: cannot write {self.path}: {e}; the lines wait")

    def evaluated(self):
        """{step: validation loss}"""
        return {r["step"]: r["val"]["loss"] for r in self.records if "val" in r}


def start(run, cfg, rows):
    """Make or check config.json in folder `run`. A run keeps its model, seed and data for life."""
    facts = {**config.plain(cfg), "torch": torch.__version__, "tokenizer": rows.manifest["tokenizer"],
             "data_sha256": {s: v["train"]["sha256"] for s, v in rows.manifest["sources"].items()}}
    if os.path.exists(f"{run}/config.json"):
        before = config.read_json(f"{run}/config.json")
        if "imported" in before:
            raise ValueError(f"{run} is an imported model; train.py goes on from it with init_from={run} and another run.name")
        for key, old, new in config.differences(before, facts):
            if key.startswith("model."):
                raise ValueError(f"{run} holds a model of another shape: {key} is {old} there and {new} here; use another run.name")
            if key.startswith("tokenizer."):
                raise ValueError(f"{run} was trained with another tokenizer than that of {rows.folder} ({old}, not {new}); use another run.name or the data it began with")
            if key == "init_from":
                raise ValueError(f"{run} began with init_from={old}, now it is {new}; use another run.name")
            if key.startswith(("data", "run.seed", "run.batch", "run.ramp")):
                raise ValueError(f"{run} was trained with {key}={old}, now it is {new}: its rows would come in another order; use another run.name")
            print(f"changed since {run} was last started: {key} {old} -> {new}")
    os.makedirs(run, exist_ok=True)
    if not os.path.exists(f"{run}/tokenizer"):
        shutil.copytree(f"{rows.folder}/tokenizer", f"{run}/tokenizer.new", dirs_exist_ok=True)
        os.rename(f"{run}/tokenizer.new", f"{run}/tokenizer")
    config.write_json(f"{run}/config.json", facts)


def same_model(cfg, rows):
    """Stop a run that begins with another's weights and cannot use them: another shape, another tokenizer."""
    facts = config.read_run(cfg.init_from)
    for key, old, new in config.differences(facts["model"], config.plain(cfg.model)):
        if key not in ("context", "init_std"):
            raise ValueError(f"init_from={cfg.init_from} holds a model with {key}={old}, model.{key}={new} is another one; leave model.{key} away")
    if facts["tokenizer"] != rows.manifest["tokenizer"]:
        raise ValueError(f"{rows.folder} was made with another tokenizer than that of {cfg.init_from}: its tokens mean something else; "
                         f"prepare it with --tokenizer {cfg.init_from}/tokenizer")


def prepare_data(cfg):
    if cfg.data.prepare and not os.path.exists(f"data/{cfg.data.name}/manifest.json"):
        file, *settings = cfg.data.prepare.split()
        corpus = config.load(file if os.path.exists(file) else os.path.join(HERE, file), settings)
        if corpus.name == cfg.data.name:
            prepare.prepare(corpus)


def train(cfg):
    r, run = cfg.run, f"runs/{cfg.run.name}"
    device, dtype, line = choose_device(r)
    precision = (lambda: torch.autocast(device, dtype)) if dtype else contextlib.nullcontext
    distributed.start(device, r.timeout)
    watch.at("preparing the data")
    distributed.once(lambda: prepare_data(cfg))
    rows, T = data.Rows(cfg), cfg.model.context
    if cfg.init_from and not checkpoint.steps(run):
        same_model(cfg, rows)
    entries = rows.manifest["vocab"]
    cfg.model.vocab = cfg.model.vocab or math.ceil(entries / 128) * 128
    if entries > cfg.model.vocab:
        raise ValueError(f"the tokenizer of {rows.folder} has {entries:,} entries and model.vocab={cfg.model.vocab:,} rows; use model.vocab=none or data made with a smaller tokenizer")
    model = build(cfg, device, dtype).to_empty(device=device)
    optimizer = adamw(model, cfg.optim)
    distributed.once(lambda: start(run, cfg, rows))
    (rank, world), parameters, steps = distributed.place(), count(model), data.steps_in(r, T)
    flops = flops_per_token(cfg.model, parameters)
    peak = next((p * world for name, (p, *_) in GPUS.items() if device == "cuda" and name in torch.cuda.get_device_name()), None)
    m = cfg.model
    print(f"{r.name}: {parameters:,} parameters, {m.layers} layers of {m.dim}, {m.heads} heads; {m.position}, {m.norm} norm, {m.mlp}"
          f"{', bias' * m.bias}{', embedding norm' * m.embed_norm}{', tied' * m.tied}; vocabulary {m.vocab:,}, context {T}\n"
          f"{steps:,} steps of {r.batch} rows = {data.rows_before(steps, r) * T:,} tokens; {f'{world} processes, ' * (world > 1)}{line}")

    watch.at("loading a checkpoint")
    state = checkpoint.newest(run, model, optimizer)
    if state is None and cfg.init_from:
        if checkpoint.newest(cfg.init_from, model) is None:
            raise ValueError(f"init_from={cfg.init_from} has no checkpoint yet")
        print(f"beginning with the weights of {cfg.init_from}")
    elif state is None:
        init(model, r.seed)
    step, skipped = (state["step"], state.get("skipped", [])) if state else (0, [])         # skipped: the steps whose update was not finite
    log = Log(run, step)
    if step >= steps:
        return print(f"{run} is complete: {step:,} steps, validation loss {log.evaluated().get(step, math.nan):.4f}. A larger run.tokens would continue it")
    if step:
        print(f"continuing {run} after step {step}")

    signals, stopping = [], False
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, frame: signals.append(number))

    def wanted():
        return bool(signals) or rank == 0 and os.path.exists(f"{run}/stop")

    def asked():                        # a signal may reach one process a step before another: they stop when all know
        return bool(distributed.sum(wanted()))
    saver, left_out = checkpoint.Saver(run, r.keep, r.background), config.steps_left_out(r.skip_steps)
    saver.last = step if state else None
    began = last = time.time()
    done_here = tokens_since = 0
    while True:
        if (step % r.eval_every == 0 or step == steps) and step not in log.evaluated() and not stopping:
            val = evaluate(model, rows, r, device, precision, asked)
            stopping = val is None
            if val:
                log.write(step=step, tokens=data.rows_before(step, r) * T, val=val)
                print(f"step {step:>6}/{steps}   validation loss {val['loss']:.4f}   {val['bits_per_byte']:.3f} bits per byte   "
                      + "   ".join(f"{name} {v['loss']:.3f}" for name, v in list(val["sources"].items())[:6]))
            last = time.time()
        if (step and step % r.save_every == 0 or step == steps or stopping) and saver.last != step:
            watch.at(f"step {step}: saving")
            saver.save(step, model, optimizer, {"tokens": data.rows_before(step, r) * T, "skipped": skipped}, log.evaluated())
            last = time.time()
        if stopping or step == steps:
            break

        step += 1
        tokens = data.rows_before(step, r) * T
        if any(step in part for part in left_out):
            log.write(step=step, tokens=tokens, skipped="run.skip_steps")
            print(f"step {step:>6}/{steps}   left out, as run.skip_steps says", flush=True)
            stopping = asked()
            continue
        watch.at(f"step {step}: reading rows")
        x, y, which, valid = rows.rows(step - 1, rank, world)
        x, y = (torch.from_numpy(part).to(device, non_blocking=True) for part in (x, y))
        watch.at(f"step {step}: forward and backward")
        loss = gradients(model, x, y, valid, r, precision)
        norm = float(distributed.clip(model, cfg.optim.clip))
        watch.at(f"step {step}: updating")
        loss, stopping = distributed.sum([float(loss), wanted()]).tolist()
        if math.isfinite(loss) and math.isfinite(norm):         # the same numbers on every process: they all update, or none does
            lr = lr_at(tokens, cfg.optim, r.tokens)
            for group in optimizer.param_groups:
                group["lr"] = lr
            optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        done_here, tokens_since = done_here + 1, tokens_since + len(which) * T
        if not (math.isfinite(loss) and math.isfinite(norm)):
            skipped = [*skipped, step]
            names = [(rows.sources[s], e, w) for s, e, w in which[:8].tolist()]
            line = f"loss {loss}, gradient norm {norm}: not finite, no update. Its rows (source, epoch, window): {str(names)[1:-1]}{', ...' * (len(which) > 8)}"
            log.write(step=step, tokens=tokens, skipped=line, rows=which.tolist())
            print(f"step {step:>6}/{steps}   {line}", flush=True)
            if all(step - i in skipped for i in range(r.bad_steps)):
                saver.wait()
                raise ValueError(f"step {step}: {line}. That is {r.bad_steps} steps in a row (run.bad_steps); the last checkpoint is {saver.last or 'none'}. "
                                 f"If the data is to blame, run.skip_steps={step - r.bad_steps + 1}:{step + 1} goes on without these steps")
        elif step % r.log_every == 0 or step == steps:
            now = time.time()
            speed, left = tokens_since / (now - last), (now - began) / done_here * (steps - step)
            mfu = speed * flops / peak if peak else None
            log.write(step=step, tokens=tokens, loss=loss, lr=lr, norm=norm, rows=which.tolist() if len(which) <= 64 else None,
                      sources=rows.seen(step), seconds=round(now - began, 3), tokens_per_second=round(speed), mfu=mfu)
            print(f"step {step:>6}/{steps}   loss {loss:.4f}   lr {lr:.2e}   norm {norm:5.2f}   {speed / 1000:.1f}k tok/s"
                  f"{f'   MFU {mfu:.1%}' if mfu else ''}   {datetime.timedelta(seconds=round(left))} left", flush=True)
            last, tokens_since = now, 0
    distributed.once(lambda: os.path.exists(f"{run}/stop") and os.remove(f"{run}/stop"))
    if error := saver.wait():
        raise OSError(f"{error}; make room, or see what is wrong, and run the same command again")
    if step < steps:
        by = signal.Signals(signals[0]).name if signals else f"the file {run}/stop or another process"
        return print(f"stopped by {by} after step {step}, saved in {run}; the same command continues")
    seen = "   ".join(f"{name} {t:,} tokens, {e} epochs" for name, (t, e) in list(rows.seen(steps).items())[:6])
    print(f"read: {seen}\nwrote {run}: log.jsonl and checkpoint {run}/checkpoints/{step:07d}\nnow: python sample.py {run} --prompt \"...\"")


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("config", help="configs/bloom.py or configs/llama.py")
    ap.add_argument("settings", nargs="*", metavar="section.field=value", help="size=7b1, optim.lr=2e-4, ...; config.py has them all")
    args, more = ap.parse_known_args()
    cfg = config.load(args.config, args.settings + more)
    try:
        distributed.alongside(lambda: train(config.check(cfg)))
    except torch.OutOfMemoryError as e:
        raise ValueError(f"{e}. Make run.micro={cfg.run.micro} smaller, set run.recompute=true, or use more GPUs; plan.py says what fits") from e


if __name__ == "__main__":
    config.command(main)
