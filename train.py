"""Train. The same command continues a run that was stopped.

    python train.py configs/bloom.py                              # toy size: minutes on a laptop
    python train.py configs/llama.py run.name=try1 optim.lr=2e-3 data.name=mine
    python train.py configs/llama.py init_from=runs/smol run.name=mine data.name=mine
    torchrun --nproc_per_node=8 train.py configs/bloom.py size=7b1          # docs/launch.md has the rest

Writes runs/NAME: config.json, log.jsonl, tokenizer/, checkpoints/, lock. Ctrl-C, SIGTERM or a file
runs/NAME/stop saves at the end of the step. go_on(), near the end, is the loop; what it uses stands above it.

Letters: B rows   T tokens
"""
import contextlib
import dataclasses
import functools
import math
import os
import shlex
import subprocess
import sys
import time

if __name__ == "__main__":      # before the imports that take seconds
    import config
    import lock
    config.command(lambda: lock.look(sys.argv[1:]))

import torch

import checkpoint
import config
import data
import parallel
from fast import forms
from model import Transformer, count, init

HERE = os.path.dirname(os.path.abspath(__file__))

# ---- the recipe ----

def lr_at(tokens, o, total):
    """Learning rate after `tokens` tokens: linear warmup to o.lr, then cosine to o.min_lr."""
    end = o.decay or total
    if tokens < o.warmup:
        return o.lr * tokens / o.warmup
    done = min(1.0, (tokens - o.warmup) / max(1, end - o.warmup))
    return o.min_lr + 0.5 * (o.lr - o.min_lr) * (1 + math.cos(math.pi * done))


def adamw(model, o):
    """AdamW; weight decay on matrices, the embedding included, not on biases and norms (both papers)."""
    matrices = [p for p in model.parameters() if p.dim() > 1]
    vectors = [p for p in model.parameters() if p.dim() < 2]
    groups = [{"params": matrices, "weight_decay": o.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=o.lr, betas=(o.beta1, o.beta2), eps=o.eps, fused=True)


def precision(device, dtype):
    """A function that makes the context of a forward pass: products in `dtype`, sums and norms in float32."""
    return functools.partial(torch.autocast, device, dtype) if dtype else contextlib.nullcontext


def gradients(model, x, y, valid, micro, precision):
    """Forward and backward of the rows x, y (B, T) of this process; returns its part of the mean loss.

    They are computed `micro` at a time. Losses are summed, then divided by `valid`, the number of targets in
    the batch of all processes. So the result does not depend on how the batch is cut.
    """
    total, pieces = 0.0, list(zip(x.split(micro), y.split(micro)))
    for i, (a, b) in enumerate(pieces):
        with precision():
            loss = model(a, b) / valid
        with parallel.backward(model, last=i == len(pieces) - 1):
            loss.backward()
        total += loss.detach()
    return total


def flops_per_token(m, parameters):
    """Training FLOPs per token: 6 per parameter in a product; for each key 12 C per layer: scores and
    weighted sums, forward and backward. An untied embedding is only looked up."""
    multiplied = parameters if m.tied else parameters - m.vocab * m.dim
    return 6 * multiplied + 12 * m.layers * m.dim * m.context


@torch.no_grad()
def validate(model, rows, run, micro, device, precision, asked=lambda: False):
    """{"loss" in nats per token, "bits_per_byte", "mix", "sources": {name: the first two}} of the validation
    split. "loss" weighs the sources by size, "mix" by their shares of the training rows. None if `asked()`
    says stop."""
    rank, world = parallel.place()
    sources, nats, tokens, size = {}, 0.0, 0, 0.0
    for name, split, in_file in zip(rows.sources, rows.val, rows.val_bytes):
        windows = min(split.windows, run.eval_rows or split.windows)
        B = max(1, min(micro, math.ceil(windows / world)))
        mine = 0.0
        for first in range(rank * B, windows + rank * B, B * world):        # as often on every process
            parallel.at(f"evaluating {name}: reading rows")
            x, y = rows.read([(split, w) for w in range(first, min(first + B, windows))], B)
            parallel.at(f"evaluating {name}")
            if asked():
                return None
            with precision():
                mine += model(torch.from_numpy(x).to(device), torch.from_numpy(y).to(device)).item()
        n = min(windows * split.T, max(0, len(split.tokens) - 1))
        if n:
            all_nats = float(parallel.total(mine))
            read = in_file * n / (len(split.tokens) - 1)                    # bytes of the part that was read
            sources[name] = {"loss": all_nats / n, "bits_per_byte": all_nats / math.log(2) / read}
            nats, tokens, size = nats + all_nats, tokens + n, size + read
    if not tokens:
        raise ValueError(f"{rows.folder} has an empty validation split; add text and prepare it again")
    shares = {name: float(share) for name, share in zip(rows.sources, rows.weights) if name in sources}
    mix = sum(share * sources[name]["loss"] for name, share in shares.items())
    mix /= sum(shares.values()) or math.nan
    return {"loss": nats / tokens, "bits_per_byte": nats / math.log(2) / size, "mix": mix, "sources": sources}


# ---- settings and data ----

def load_config(path, settings):
    """config.load(), checked. With init_from the shape is that of the other run; settings may change its
    context."""
    cfg = config.load(path, settings)
    if isinstance(cfg, config.Config) and cfg.init_from:
        cfg.init_from = cfg.init_from.rstrip("/")
        own = f"runs/{cfg.run.name}"            # once begun it has the shape itself: the other may be gone
        other = own if os.path.exists(own) and not os.path.exists(cfg.init_from) else cfg.init_from
        cfg.model = checkpoint.open_run(other).shape
        for key, value in map(config.split_override, settings):
            if key.startswith("model."):
                config.override(cfg, key, value)
    return config.check_config(cfg)


def prepare_data(cfg):
    """Make data/NAME by prepare.py if it is not there, and machine.prepare says how."""
    if not cfg.machine.prepare or os.path.exists(f"data/{cfg.data.name}/manifest.json"):
        return
    file, *settings = shlex.split(cfg.machine.prepare)
    file = file if os.path.exists(file) else os.path.join(HERE, file)
    if config.load(file, settings).name == cfg.data.name:   # else the user changed data.name
        done = subprocess.run([sys.executable, os.path.join(HERE, "prepare.py"), file, *settings])
        if done.returncode:
            raise ValueError(f"prepare.py could not make data/{cfg.data.name}; see above")


# ---- begin ----

@dataclasses.dataclass
class Training:
    """What the loop works with."""
    cfg: config.Config
    folder: str
    rows: data.Rows
    model: Transformer
    optimizer: torch.optim.Optimizer
    device: str
    precision: object               # a function that makes the context in which products are computed
    log: checkpoint.Log
    step: int                       # the step that is being done, or the last one done
    steps: int                      # steps of the whole run
    skipped: list                   # steps whose loss or gradient was not finite
    saved: int | None               # step of the newest whole checkpoint

    def tokens(self):
        """Tokens read up to the end of `step`."""
        return data.rows_before(self.step, self.cfg.run) * self.cfg.model.context


def build(cfg, device, dtype):
    """The model, this process's part of it, without memory: to_empty() gives it some, init() or a
    checkpoint fills it."""
    how, compiled = forms.of_training(cfg, device, dtype, flops_per_token)
    with torch.device("meta"):
        model = Transformer(cfg.model, **how)
    if compiled:
        for block in model.blocks:
            block.compile()             # before sharding; compiling the whole model renames its parameters
    parallel.shard(model, cfg.machine, dtype, device)
    return model


def begin(cfg):
    """The Training of a new run, or of one that goes on from its newest whole checkpoint."""
    run = f"runs/{cfg.run.name}"
    device, dtype, hardware = parallel.choose_device(cfg.machine)
    parallel.start(device, cfg.machine.timeout)
    parallel.at("preparing the data")
    parallel.once(lambda: prepare_data(cfg))
    rows = data.Rows(cfg)
    if cfg.init_from and not checkpoint.steps(run):
        checkpoint.open_run(cfg.init_from).check_weights_for(cfg, rows)
    entries = rows.manifest["vocab"]
    cfg.model.vocab = cfg.model.vocab or math.ceil(entries / 128) * 128
    if entries > cfg.model.vocab:
        raise ValueError(f"the tokenizer of {rows.folder} has {entries:,} entries and "
                         f"model.vocab={cfg.model.vocab:,} rows; use model.vocab=none, or other data")
    parallel.hold(run)
    changed = parallel.together(lambda: checkpoint.check_same_recipe(run, cfg, rows))
    model = build(cfg, device, dtype).to_empty(device=device)
    optimizer = adamw(model, cfg.optim)
    parallel.once(lambda: checkpoint.write_folder(run, cfg, rows))
    steps = data.steps_in(cfg.run, cfg.model.context)
    print(described(cfg, count(model), steps, hardware))

    parallel.at("loading a checkpoint")
    state = checkpoint.newest(run, model, optimizer)
    if state is None and cfg.init_from:
        if checkpoint.newest(cfg.init_from, model) is None:
            raise ValueError(f"init_from={cfg.init_from} has no checkpoint yet")
        print(f"beginning with the weights of {cfg.init_from}")
    elif state is None:
        init(model, cfg.run.seed, parallel.local_rows)
    state = state or {"step": 0}
    step = state["step"]
    log = checkpoint.Log(run, step)
    t = Training(cfg, run, rows, model, optimizer, device, precision(device, dtype), log, step, steps,
                 skipped=state.get("skipped", []), saved=step or None)
    say_changes(t, changed)
    if step < steps:
        world = parallel.place()[1]
        t.log.write(step=step, start={"processes": world, "hardware": hardware, "changed": changed})
    return t


def described(cfg, parameters, steps, hardware):
    m, r, tokens = cfg.model, cfg.run, data.rows_before(steps, cfg.run) * cfg.model.context
    parts = ("layers", "dim", "heads", "position", "norm", "mlp", "bias", "embed_norm", "tied", "vocab",
             "context")
    shape = ", ".join(f"{part} {getattr(m, part)}" for part in parts)
    return (f"{r.name}: {parameters:,} parameters: {shape}\n{steps:,} steps of {r.batch} rows = {tokens:,} "
            f"tokens; {parallel.place()[1]} process(es) on {hardware}")


def say_changes(t, changed):
    """A longer run has another schedule: say what becomes of the learning rate."""
    for key, (old, new) in changed.items():
        print(f"changed since {t.folder} was last started: {key} {old} -> {new}")
    if "run.tokens" in changed and t.cfg.optim.decay is None:
        old, new = changed["run.tokens"]
        was, now = (lr_at(t.tokens(), t.cfg.optim, total) for total in (old, new))
        print(f"the learning rate at step {t.step} was {was:.2e}, now it is {now:.2e}; optim.decay={old} "
              "would keep the old schedule")


# ---- what is printed and logged ----

class Speed:
    """Tokens per second, share of the GPU's peak (MFU) and time left, from the steps since the last line."""
    def __init__(self, t):
        self.began = time.monotonic()
        self.tokens = self.steps = self.seconds = 0
        peak = parallel.peak(t.device)
        flops = flops_per_token(t.cfg.model, count(t.model)) / parallel.place()[1]
        self.flops_of_peak = flops / peak if peak else None

    def add(self, tokens, began):
        """A step that began at `began` is over."""
        self.tokens += tokens
        self.steps += 1
        self.seconds += time.monotonic() - began

    def measure(self, left):
        """(tokens per second, MFU or None, time for `left` steps), then begin anew."""
        speed = self.tokens / self.seconds
        remaining = config.duration(self.seconds / self.steps * left)
        self.tokens = self.steps = self.seconds = 0
        return speed, speed * self.flops_of_peak if self.flops_of_peak else None, remaining


def report_losses(t, val):
    t.log.write(step=t.step, tokens=t.tokens(), val=val)
    by_source = "   ".join(f"{name} {v['loss']:.3f}" for name, v in list(val["sources"].items())[:6])
    print(f"step {t.step:>6}/{t.steps}   validation loss {val['loss']:.4f}   {val['bits_per_byte']:.3f} bits "
          f"per byte   mixed as the rows {val['mix']:.3f}   {by_source}")


def report_step(t, speed, which, loss, norm, lr):
    """`which` (B, 3) names the rows of the step: (source, epoch, window)."""
    per_second, mfu, left = speed.measure(t.steps - t.step)
    rows = which.tolist() if len(which) <= 64 else None
    t.log.write(step=t.step, tokens=t.tokens(), loss=loss, lr=lr, norm=norm, rows=rows,
                sources=t.rows.seen(t.step), seconds=round(time.monotonic() - speed.began, 3),
                tokens_per_second=round(per_second), mfu=mfu)
    share = f"   MFU {mfu:.1%}" if mfu else ""
    print(f"step {t.step:>6}/{t.steps}   loss {loss:.4f}   lr {lr:.2e}   norm {norm:5.2f}   "
          f"{per_second / 1000:.1f}k tok/s{share}   {left} left", flush=True)


def report_bad_step(t, which, loss, norm):
    """Log and print a step that is not finite; too many of them in a row stop the run."""
    t.skipped.append(t.step)
    names = [(t.rows.sources[s], epoch, window) for s, epoch, window in which[:8].tolist()]
    line = (f"loss {loss}, gradient norm {norm}: not finite, no update. "
            f"Its rows begin with (source, epoch, window): {str(names)[1:-1]}")
    t.log.write(step=t.step, tokens=t.tokens(), skipped=line, rows=which.tolist())
    print(f"step {t.step:>6}/{t.steps}   {line}", flush=True)
    most = t.cfg.machine.bad_steps
    if all(t.step - i in t.skipped for i in range(most)):
        raise ValueError(f"step {t.step}: {line}. That is {most} steps in a row (machine.bad_steps); "
                         f"the last checkpoint is {t.saved or 'none'}. If the data is to blame, "
                         f"machine.skip_steps={t.step - most + 1}:{t.step + 1} goes on without these steps")


def save(t):
    """Write a checkpoint and delete older ones. If that fails the run goes on."""
    parallel.at(f"step {t.step}: saving")
    try:
        checkpoint.save(t.folder, t.step, t.model, t.optimizer, {"tokens": t.tokens(), "skipped": t.skipped})
        t.saved = t.step
        parallel.once(lambda: checkpoint.prune(t.folder, t.cfg.machine.keep, t.log.losses(), t.step))
    except OSError as e:
        print(f"warning: {e}; the run goes on, earlier checkpoints are intact", flush=True)


def finish(t, stop):
    parallel.once(lambda: os.path.exists(stop.file) and os.remove(stop.file))
    if t.saved != t.step:
        raise OSError(f"cannot save {t.folder}/checkpoints/{t.step:07d}, see the warning; make room, or see "
                      "what is wrong, and run the same command again")
    if t.step < t.steps:
        print(f"stopped by {stop.why()} after step {t.step}, saved in {t.folder}; the same command continues")
        return
    seen = [f"{name} {n:,} tokens, {epochs} epochs" for name, (n, epochs) in t.rows.seen(t.steps).items()]
    print(f"read: {'   '.join(seen[:6])}\nwrote {t.folder}: log.jsonl, checkpoints/{t.step:07d}\n"
          f"now: python sample.py {t.folder} --prompt \"...\"")


# ---- the loop ----

def train(cfg, after=lambda training: None):
    """The whole run. `after(training)` is called when it has begun and after every step: tests use it."""
    try:
        go_on(begin(cfg), after)
    finally:
        parallel.release()              # a notebook lives on


def go_on(t, after):
    """The loop."""
    cfg, r, machine = t.cfg, t.cfg.run, t.cfg.machine
    if t.step >= t.steps:
        loss = t.log.losses().get(t.step, math.nan)
        print(f"{t.folder} is complete: {t.step:,} steps, validation loss {loss:.4f}. "
              "A larger run.tokens continues it")
        return
    if t.step:
        print(f"continuing {t.folder} after step {t.step}")
    (rank, world), left_out = parallel.place(), config.steps_left_out(machine.skip_steps)
    stop, speed, stopping = parallel.Stop(t.folder), Speed(t), False
    after(t)
    while True:
        last = t.step == t.steps
        if (t.step % r.eval_every == 0 or last) and t.step not in t.log.losses() and not stopping:
            val = validate(t.model, t.rows, r, machine.micro, t.device, t.precision, stop.anywhere)
            stopping = val is None
            if val:
                report_losses(t, val)
        if (t.step and t.step % machine.save_every == 0 or last or stopping) and t.saved != t.step:
            save(t)
        if stopping or last:
            return finish(t, stop)

        t.step += 1
        if any(t.step in steps for steps in left_out):
            t.log.write(step=t.step, tokens=t.tokens(), skipped="machine.skip_steps")
            print(f"step {t.step:>6}/{t.steps}   left out, as machine.skip_steps says", flush=True)
            stopping = stop.anywhere()
            continue
        began = time.monotonic()
        parallel.at(f"step {t.step}: reading rows")
        x, y, which, valid = t.rows.rows(t.step - 1, rank, world)
        x, y = torch.from_numpy(x).to(t.device), torch.from_numpy(y).to(t.device)
        parallel.at(f"step {t.step}: forward and backward")
        loss = gradients(t.model, x, y, valid, machine.micro, t.precision)
        norm = float(parallel.clip(t.model, cfg.optim.clip))
        parallel.at(f"step {t.step}: updating")
        loss, asked = parallel.total([float(loss), stop.here()]).tolist()   # one sum for both
        stopping = asked > 0
        finite = math.isfinite(loss) and math.isfinite(norm)        # all processes know the same numbers
        lr = lr_at(t.tokens(), cfg.optim, r.tokens)
        if finite:
            for group in t.optimizer.param_groups:
                group["lr"] = lr
            t.optimizer.step()
        t.optimizer.zero_grad(set_to_none=True)
        speed.add(len(which) * cfg.model.context, began)
        if not finite:
            report_bad_step(t, which, loss, norm)
        elif t.step % machine.log_every == 0 or t.step == t.steps:
            report_step(t, speed, which, loss, norm, lr)
        after(t)


def main():
    ap = config.Parser(__doc__)
    ap.add_argument("config", help="configs/bloom.py or configs/llama.py")
    ap.add_argument("settings", nargs="*", default=[], metavar="section.field=value",
                    help="size=7b1, optim.lr=2e-4, ...; config.py has them all")
    args, more = ap.parse_known_args()
    cfg = load_config(args.config, args.settings + more)
    try:
        parallel.alongside(lambda: train(cfg))
    except torch.OutOfMemoryError as e:
        raise ValueError(f"{e}. Make machine.micro={cfg.machine.micro} smaller, set "
                         "machine.recompute=true, or use more GPUs; plan.py says what fits") from e


if __name__ == "__main__":
    config.command(main)
