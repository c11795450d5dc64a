"""Before you train: how much memory each GPU needs, whether that fits, how long it takes.

    python plan.py configs/bloom.py size=176b gpus=384 machine.recompute=true mfu=0.36
    python plan.py configs/llama.py size=7b gpus=8
    python plan.py configs/bloom.py size=7b1 gpus=32 --rehearse

What to train is decided by smaller runs; these commands are in files of their own, and each has --help:

    python plan.py ablate configs/bloom.py model.position=alibi,rope --seeds 3      # ablate.py: which choice is better
    python plan.py figure runs/A runs/B                                             # law.py: loss against tokens and FLOPs,
    python plan.py fit runs/A runs/B ...                                            #   the law of loss, size and tokens,
    python plan.py budget --train-flops 5.76e23 --inference-tokens 1e13             #   and the size with the cheapest life

Settings are those of train.py, and gpus, mfu (model FLOPs utilisation, the share of the peak that is useful work) and disk (GB/s of the
file system). --rehearse builds the real sharded model with tensors that have no memory, runs train.py's step through it as process 0 of
`gpus`, lets PyTorch's memory tracker count, and prints its figures beside the formulas'. The formulas are for bfloat16.

Letters: n tokens in a micro-batch   P parameters   S GPUs that share a copy   T tokens in a row   C width   H heads   K key heads
D head width   F mlp width   V vocabulary
"""
import argparse
import collections
import dataclasses
import math
import sys
from unittest import mock

import torch

import checkpoint
import config
import data
import parallel
import train
from model import LOGITS, Transformer, count
from planning import ablate, law
from train import flops_per_token

USABLE = 0.92           # of a GPU's memory: the rest for the CUDA context, NCCL's buffers and fragmentation; a rule of thumb, not measured
GB, GIB = 10 ** 9, 2 ** 30


def block_bytes(m, F):
    """Bytes per token that a block keeps for its backward pass. The residual stream is float32, what matrices multiply is bfloat16."""
    C, H, K = m.dim, m.heads, m.kv_heads or m.heads
    D = C // H
    norm = {"layer": 4 * C + 2 * C, "rms": 4 * C + 4 * C + 2 * C}[m.norm]           # input, what the weight multiplies, output
    attention = {"alibi": 4 * 2 * H * (D + 8),                                      # q, k, v and the result, with ALiBi's coordinates
                 "rope": 2 * C + 2 * K * D + 2 * (C + 2 * K * D) + 2 * C,           # q and k turned; v is a view that keeps all of qkv; the result
                 "none": 2 * (C + 2 * K * D) + 2 * C}[m.position]
    mlp = {"gelu": 2 * F + 2 * F, "swiglu": 4 * 2 * F}[m.mlp]
    return 2 * norm + attention + 2 * C + 4 * H + mlp                               # 2C: the result again, heads side by side; 4H: softmax sums


def memory(cfg, gpus):
    """{part: bytes on one GPU} of a training step, each at its largest; "peak" is the most that is there at one time."""
    m, r = cfg.model, cfg.run
    with torch.device("meta"):
        model = Transformer(m)
    P, block, many = count(model), count(model.blocks[0]), gpus > 1
    S = (cfg.machine.shard or gpus) if many else 1
    root, head, C, kept = P - m.layers * block, m.vocab * m.dim, m.dim, block_bytes(m, model.blocks[0].mlp.up.out_features)
    n = min(cfg.machine.micro, math.ceil(r.batch / gpus)) * m.context
    chunk = min(n, max(1, LOGITS // m.vocab)) * m.vocab             # logits at once
    several = chunk < n * m.vocab                                   # chunks, whose gradients of the head are added up
    state = {"weights": 4 * P / S, "gradients": 4 * P / S, "moments": 8 * P / S}
    parts = {"activations": n * (m.layers * (4 * C if cfg.machine.recompute else kept) + (4 * C if m.embed_norm else 0) + {"layer": 6, "rms": 10}[m.norm] * C)}
    if many:
        parts["gathered"] = 2 * root + 4 * block                    # the root's bfloat16 weights, those of a block, and of the next
        parts["loss"] = max(2 * head * several + 12 * chunk, (6 if several else 2) * head)      # log-softmax and two like it; the head's gradient: so far, new, sum
        if S > 1:
            parts["reduced"] = max(2 * root + 4 * block, 4 * root + (0 if m.tied else 2 * head))        # bfloat16 gradients, float32 ones on their way
        last = 2 * head + 6 * block + (n * kept if cfg.machine.recompute else -n * kept)  # what the backward pass of a block adds and, without recompute, has freed
        end = (2 + 2 + 4 + 4 / S) * root                            # the root's weights, gradients, float32 gradients, their sum
        high = max(parts["gathered"] + parts["activations"] + max(parts["loss"], last), end)
    else:                                                           # autocast keeps bfloat16 copies of the matrices, and gradients are float32 at once
        copies, backward = 2 * m.layers * block, max((4 if several else 2) * head + 12 * chunk, 6 * head)
        last = 4 * head + 4 * block + (n * kept if cfg.machine.recompute else -n * kept)
        parts["loss"] = max(8 * chunk + 2 * head, backward - copies) if cfg.machine.recompute else backward       # recompute drops the copies before the backward pass
        high = max(parts["activations"] + copies + parts["loss"], parts["activations"] + max(backward, last))
        parts["activations"] += copies
    return state | parts | {"peak": sum(state.values()) + high}


def fits(cfg, gpus, capacity):
    return memory(cfg, gpus)["peak"] <= USABLE * capacity


def fewest(cfg, capacity):
    """The smallest number of GPUs that the step fits on, or None: the state is divided among them, a block and its activations are not."""
    S = cfg.machine.shard or 1
    if fits(cfg, 1, capacity):
        return 1
    low, high = 1, 2 ** 16 // S
    if not fits(cfg, high * S, capacity):
        return None
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if fits(cfg, middle * S, capacity) else (middle + 1, high)
    return max(2, low * S)


def rehearse(cfg, gpus):
    """memory(), counted by PyTorch's tracker in the micro-batches of process 0 of `gpus`, on tensors without memory."""
    cpu, n, peaks, at_loss = torch.device("cpu"), min(cfg.machine.micro, math.ceil(cfg.run.batch / gpus)), [], []
    with parallel.rehearsal(gpus) as (fake, track):
        model = train.build(cfg, "cpu", torch.bfloat16)
        with fake:
            optimizer = train.adamw(model.to_empty(device="cpu"), cfg.optim)
            checkpoint.moments(model, optimizer)
            x, tracker = torch.zeros(n, cfg.model.context, dtype=torch.long), track(model, optimizer)
            tracker.track_external(*([optimizer] if gpus > 1 else [model, optimizer]))

            def named(snapshot):
                return collections.Counter({getattr(k, "value", k).lower(): v for k, v in snapshot[cpu].items()})

            def now():
                return named(tracker.get_tracker_snapshot("current"))

            def highest():
                """The most bytes at one time since the last call."""
                peaks.append(tracker._peak_mem.pop(cpu, 0))         # the tracker has no public way to begin anew
                return peaks[-1]
            loss = model.loss

            def watched(hidden, targets):
                highest()
                at_loss.append(now())
                return loss(hidden, targets)

            def before_blocks(module, gradient):                    # the loss's own backward pass is over
                at_loss.extend([highest(), now()])
            model.blocks[-1].register_full_backward_pre_hook(before_blocks)
            with tracker, mock.patch.object(model, "loss", watched):
                for _ in range(2):                                  # the second begins with the gradients of the first
                    train.gradients(model, x, x, x.numel(), cfg.machine.micro, lambda: torch.autocast("cpu", torch.bfloat16))
                    highest()
                    if not peaks[3:]:
                        tracker.reset_mod_stats()
            end = now()
            # the update runs uncounted: DTensor finds the shapes of its results on tensors of full size, which the tracker would take for real
            parallel.clip(model, cfg.optim.clip)
            optimizer.step()
            backward = [named(s) for module in tracker.memory_tracking.values() for state, snapshots in module.snapshots.items()
                        if "Backward" in state.value for s in snapshots]
    start, most, then = at_loss[:3]                                 # of the first micro-batch, before there are gradients
    parts = {"weights": end["sharded param"] + end["parameter"], "gradients": end["sharded grad"] + end["gradient"], "moments": end["optstate"],
             "activations": start["activation"]}
    if gpus > 1:
        parts["gathered"] = max(s["unsharded param"] + s["all gather"] for s in backward)
    if gpus > 1 and cfg.machine.shard != 1:
        parts["reduced"] = max(s["unsharded grad"] + s["reduce scatter"] for s in backward)
    state = parts["weights"] + parts["moments"] + parts["activations"]
    return parts | {"loss": most - state - then["unsharded param"] - then["all gather"], "peak": max(peaks)}


PARTS = {"weights": "weights, float32", "gradients": "gradients, float32", "moments": "Adam's two moments, float32",
         "gathered": "gathered weights, bfloat16: the root's, two blocks'", "activations": "activations kept for the backward pass",
         "loss": "loss: logits and the head's gradient", "reduced": "gradients being summed over the GPUs", "peak": "highest point of a step"}


def report(cfg, gpus, mfu, disk, rehearsal):
    """Print the plan."""
    m, r = cfg.model, cfg.run
    with torch.device("meta"):
        model = Transformer(m)
    P, F = count(model), flops_per_token(m, count(model))
    steps, rows = data.steps_in(r, m.context), math.ceil(r.batch / gpus)
    empty = gpus * rows - r.batch
    print(f"{r.name} on {gpus} GPU{'s' * (gpus > 1)}: {P:,} parameters, {m.vocab * m.dim:,} of them in the embedding, {count(model.blocks[0]):,} in each of {m.layers} blocks\n"
          f"{F / 1e9:,.1f} GFLOPs per token ({12 * m.layers * m.dim * m.context / F:.1%} of them attention){', and a third more for machine.recompute' * cfg.machine.recompute}\n"
          f"{steps:,} steps, {r.tokens:,} tokens; {r.batch} rows of {m.context} per step are {rows} per GPU in {math.ceil(rows / cfg.machine.micro)} micro-batch{'es' * (rows > cfg.machine.micro)}"
          f"{f', {empty} of {gpus * rows} empty because they do not divide' * (empty > 0)}\n")
    want, seen = memory(cfg, gpus), rehearse(cfg, gpus) if rehearsal else {}
    print(f"{'GiB per GPU, each part at its largest':52} {'formula':>9}" + "  rehearsed  difference" * rehearsal)
    for part, words in PARTS.items():
        if part in want:
            print(f"{words:52} {want[part] / GIB:9.3f}" + (f"  {seen[part] / GIB:9.3f}  {want[part] / seen[part] - 1:+10.1%}" if part in seen else ""))

    def activations(recompute):
        return memory(dataclasses.replace(cfg, machine=dataclasses.replace(cfg.machine, recompute=recompute)), gpus)["activations"] / GIB
    print(f"activations are {activations(True):,.2f} GiB with machine.recompute=true, {activations(False):,.2f} GiB without\n")
    sold = [(name, flops, size) for name, (flops, *sizes) in train.GPUS.items() for size in sizes]
    print(f"{'GPU':10} {'memory':>7}  {'fits':4}  {'fewest GPUs':>11}  {'tokens/s':>10}  {'days':>8}   at {mfu:.0%} MFU")
    for name, flops, size in sold:
        least, speed = fewest(cfg, size * GB), r.batch / rows * mfu * flops / F          # empty rows are computed too
        print(f"{name:10} {size:4} GB  {'yes' if fits(cfg, gpus, size * GB) else 'no':4}  {least or 'no number':>11}  {speed:10,.0f}  {r.tokens / speed / 86400:8,.1f}")
    if not any(fits(cfg, gpus, size * GB) for _, _, size in sold):
        ways = ["more GPUs"] * any(fewest(cfg, size * GB) for _, _, size in sold) + ["machine.recompute=true"] * (not cfg.machine.recompute) + ["a smaller machine.micro"] * (cfg.machine.micro > 1) + ["a larger machine.shard"] * (cfg.machine.shard is not None)
        print(f"It fits on none of these with {gpus} GPU{'s' * (gpus > 1)}; what helps: {', '.join(ways) or 'a smaller model'}")
    print(f"\ncheckpoint: 12 bytes per parameter, {12 * P / GB:,.1f} GB, {12 * P / disk / GB:,.0f} s at {disk:g} GB/s")


def main():
    if sys.argv[1:2] == ["ablate"]:
        return ablate.main(sys.argv[2:])
    if sys.argv[1:2] and sys.argv[1] in law.COMMANDS:
        return law.main(sys.argv[1:])
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("config", help="configs/bloom.py or configs/llama.py")
    ap.add_argument("settings", nargs="*", metavar="key=value", help="gpus=8 mfu=0.4 disk=10, and settings as for train.py: size=7b1, machine.micro=2, machine.shard=8, ...")
    ap.add_argument("--rehearse", action="store_true", help="count it with PyTorch's memory tracker too")
    args, more = ap.parse_known_args()
    own = {"gpus": 8, "mfu": 0.4, "disk": 10.0}
    settings = [s.removeprefix("--") for s in args.settings + more]
    for s in [s for s in settings if s.partition("=")[0] in own]:
        settings.remove(s)
        key, _, value = s.partition("=")
        own[key] = config.parse(value, type(own[key]), key)
        if not own[key] > 0 or key == "mfu" and own[key] > 1:
            raise ValueError(f"{s}: it must be above 0{' and at most 1' * (key == 'mfu')}")
    cfg = train.load_config(args.config, settings)
    if cfg.model.vocab is None:
        raise ValueError("the toy's vocabulary is that of its tokenizer: say how large, model.vocab=4096")
    if own["gpus"] % (cfg.machine.shard or 1):
        raise ValueError(f"machine.shard={cfg.machine.shard} does not divide gpus={own['gpus']}")
    report(cfg, **own, rehearsal=args.rehearse)


if __name__ == "__main__":
    config.command(main)
