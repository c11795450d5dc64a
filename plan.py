"""Before you train: how much memory each GPU needs, whether that fits, how long it takes.

    python plan.py configs/bloom.py
    python plan.py configs/bloom.py size=176b gpus=384 mfu=0.36
    python plan.py configs/bloom.py size=7b1 gpus=32 machine.micro=2 --rehearse

Settings are those of train.py, and two more: gpus, and mfu, model FLOPs utilisation, the share of the GPUs'
peak speed that is useful work. --rehearse also runs a step of the real sharded model on tensors without
memory, and prints what PyTorch counts.

Smaller runs decide what to train. Each of these commands has --help:

    python plan.py ablate configs/bloom.py model.position=alibi,rope --seeds 3   # which choice is better
    python plan.py figure runs/NAME                                     # losses and learning rate of a run
    python plan.py figure runs/A runs/B                                 # loss against tokens and FLOPs
    python plan.py fit runs/A runs/B ...                                # the law of loss, size and tokens
    python plan.py budget --train-flops 5.76e23 --inference-tokens 1e13 # the size with the cheapest life
"""
import math
import sys
from dataclasses import dataclass

import config
import data
import parallel
import train
from planning import memory

GB, GIB = 10 ** 9, 2 ** 30
USABLE = 0.92           # of a GPU's memory; CUDA, NCCL and gaps take the rest. A rule of thumb, not measured
TOY_VOCAB = 4096


@dataclass
class Cluster:
    gpus: int = 8
    mfu: float = 0.4


def load_settings(path, settings):
    """(Cluster, config.Config)"""
    cluster, others = Cluster(), []
    for text in settings:
        key, value = config.split_override(text)
        if key in vars(cluster):
            config.override(cluster, key, value)
        else:
            others.append(text)
    gpus, cfg = cluster.gpus, train.load_config(path, others)
    if gpus < 1 or not 0 < cluster.mfu <= 1:
        raise ValueError(f"gpus={gpus} must be above 0, mfu={cluster.mfu:g} too and at most 1")
    if gpus % (cfg.machine.shard or 1):
        raise ValueError(f"machine.shard={cfg.machine.shard} does not divide gpus={gpus}")
    if cfg.model.vocab is None:
        cfg.model.vocab = TOY_VOCAB
        print(f"model.vocab={TOY_VOCAB} is a guess: the tokenizer decides")
    return cluster, cfg


def print_run(cfg, gpus, P, flops):
    """Size and length of the run; `flops` are per token."""
    m, r = cfg.model, cfg.run
    rows = math.ceil(r.batch / gpus)
    again = ", and a third more for machine.recompute" if cfg.machine.recompute is True else ""
    print(f"{r.name}: {P:,} parameters, {m.vocab * m.dim:,} of them in the embedding\n"
          f"{flops / 1e9:,.3f} GFLOPs per token{again}\n"
          f"{data.steps_in(r, m.context):,} steps, {r.tokens:,} tokens; {r.batch} rows of {m.context} per "
          f"step are {rows} on each GPU, {gpus * rows - r.batch} of {gpus * rows} empty\n")


def print_memory(formula, rehearsed):
    print(f"{'GiB per GPU, each part at its largest':52}   formula{'  rehearsed' if rehearsed else ''}")
    for part, size in formula.items():
        seen = f"{rehearsed[part] / GIB:11.3f}" if part in rehearsed else ""
        print(f"{memory.PARTS[part]:52} {size / GIB:9.3f}{seen}")


def print_gpus(run, cluster, most, flops):
    """Which GPUs `most` bytes fit on, and how long they take."""
    rows = math.ceil(run.batch / cluster.gpus)          # on each GPU: empty ones are computed too
    print(f"\ngpus={cluster.gpus} together, at mfu={cluster.mfu:g} of their peak speed:\n"
          f"{'GPU':10} {'memory':>7}  {'fits':4}  {'tokens/s':>11}  {'days':>9}")
    for name, (peak, *capacities) in parallel.GPUS.items():
        for capacity in capacities:
            fits = "yes" if most <= USABLE * capacity * GB else "no"
            speed = run.batch / rows * cluster.mfu * peak / flops
            print(f"{name:10} {capacity:4} GB  {fits:4}  {speed:11,.0f}  {run.tokens / speed / 86400:9,.1f}")
    print("If it does not fit: more GPUs, machine.recompute=true, a smaller machine.micro, a larger "
          "machine.shard")


def print_plan(path, settings, rehearsal=False):
    cluster, cfg = load_settings(path, settings)
    P, _ = memory.sizes(cfg.model)
    flops, rehearsed = train.flops_per_token(cfg.model, P), {}
    print_run(cfg, cluster.gpus, P, flops)
    if rehearsal:
        print("rehearsing a step: up to some minutes", file=sys.stderr, flush=True)
        rehearsed = memory.rehearse(cfg, cluster.gpus)
    formula = memory.memory(cfg, cluster.gpus)
    print_memory(formula, rehearsed)
    print_gpus(cfg.run, cluster, formula["peak"], flops)
    print(f"\ncheckpoint: 12 bytes per parameter, {12 * P / GB:,.1f} GB")


def main():
    command, *rest = sys.argv[1:] or [""]
    if command == "ablate":
        from planning import ablate  # here and below: other commands do not wait for it
        return ablate.main(rest)
    if command in ("figure", "fit", "budget"):
        from planning import law
        return law.main(sys.argv[1:])
    ap = config.Parser(__doc__)
    ap.add_argument("config", help="configs/bloom.py or configs/llama.py")
    ap.add_argument("settings", nargs="*", default=[], metavar="key=value",
                    help="gpus=8, mfu=0.4 (defaults), and settings as for train.py")
    ap.add_argument("--rehearse", action="store_true", help="let PyTorch count too: minutes")
    args, more = ap.parse_known_args()
    print_plan(args.config, args.settings + more, args.rehearse)


if __name__ == "__main__":
    config.command(main)
