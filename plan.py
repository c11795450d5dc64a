"""Before you train: how much memory each GPU needs, whether that fits, how long it takes.

    python plan.py configs/bloom.py
    python plan.py configs/bloom.py size=176b gpus=384 mfu=0.36
    python plan.py configs/bloom.py size=7b1 gpus=32 machine.micro=2 --rehearse

Settings are those of train.py, and two more: gpus, and mfu, model FLOPs utilisation, the share of the GPUs'
peak speed that is useful work. Without mfu the planner computes it for each GPU (planning/cost.py), for
compiled blocks and a network that nobody waits for; the last columns say how fast that network must be.
--rehearse also runs a step of the real sharded model on tensors without memory, and prints what PyTorch
counts.

Smaller runs decide what to train. Each of these commands has --help:

    python plan.py ablate configs/bloom.py model.position=alibi,rope --seeds 3   # which choice is better
    python plan.py figure runs/NAME                                     # losses and learning rate of a run
    python plan.py figure runs/A runs/B                                 # loss against tokens and FLOPs
    python plan.py fit runs/A runs/B ...                                # the law of loss, size and tokens
    python plan.py budget --train-flops 5.76e23 --inference-tokens 1e13 # the size with the cheapest life

And before text is prepared:

    python plan.py corpus configs/data/llama.py machines=64     # core-hours, memory, disk, files
"""
import math
import sys
from dataclasses import dataclass

if __name__ == "__main__":      # before the imports that take seconds
    import config
    config.begin_command()

import config
import data
import parallel
import train
from planning import cost, memory

GB, GIB = 10 ** 9, 2 ** 30
USABLE = 0.92           # of a GPU's memory; CUDA, NCCL and gaps take the rest. A rule of thumb, not measured
TOY_VOCAB = 4096


@dataclass
class Cluster:
    gpus: int = 8
    mfu: float | None = None            # None: computed for each GPU


def load_settings(path, settings):
    """(Cluster, config.Config)"""
    cluster = Cluster()
    cfg = train.load_config(path, config.take_own(cluster, settings))
    gpus = cluster.gpus
    if gpus < 1 or cluster.mfu is not None and not 0 < cluster.mfu <= 1:
        raise ValueError(f"gpus={gpus} must be above 0, mfu={cluster.mfu} too and at most 1")
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


def print_gpus(cfg, cluster, most, flops):
    """Which GPUs `most` bytes fit on, how long they take, and what each must receive meanwhile."""
    run, gpus = cfg.run, cluster.gpus
    rows = math.ceil(run.batch / gpus)                  # on each GPU: empty ones are computed too
    inside, between = cost.sent_bytes(cfg, gpus)
    print(f"\n{f'gpus={gpus} together:':56}  GB/s in  between")
    print(f"{'GPU':10} {'memory':>7}  {'fits':4}  {'MFU':>6}  {'tokens/s':>11}  {'days':>9}  {'a copy':>7}  "
          f"{'copies':>7}")
    for name, (peak, *capacities) in parallel.GPUS.items():
        of_row = flops * cfg.model.context / peak       # seconds, at an MFU of 1
        seconds = cost.step_seconds(cfg, gpus, cost.rates_of(name), flops)
        mfu = cluster.mfu or rows * of_row / seconds
        seconds = rows * of_row / mfu
        speed = run.batch * cfg.model.context / seconds
        for capacity in capacities:
            fits = "yes" if most <= USABLE * capacity * GB else "no"
            print(f"{name:10} {capacity:4} GB  {fits:4}  {mfu:6.1%}  {speed:11,.0f}  "
                  f"{run.tokens / speed / 86400:9,.1f}  {inside / seconds / GB:7,.1f}  "
                  f"{between / seconds / GB:7,.1f}")
    print("If it does not fit: more GPUs, machine.recompute=true, a smaller machine.micro, a larger "
          "machine.shard.\nIf a GPU cannot receive so many GB/s it waits: a larger machine.micro, or a "
          "machine.shard of one node")


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
    print_gpus(cfg, cluster, formula["peak"], flops)
    print(f"\ncheckpoint: 12 bytes per parameter, {12 * P / GB:,.1f} GB")


def main():
    command, *rest = sys.argv[1:] or [""]
    if command == "ablate":
        from planning import ablate  # here and below: other commands do not wait for it
        return ablate.main(rest)
    if command in ("figure", "fit", "budget"):
        from planning import law
        return law.main(sys.argv[1:])
    if command == "corpus":
        from corpus import recipe, sources
        from planning import corpus
        return corpus.main(rest, recipe, sources.found)
    ap = config.Parser(__doc__)
    ap.add_argument("config", help="configs/bloom.py or configs/llama.py")
    ap.add_argument("settings", nargs="*", default=[], metavar="key=value",
                    help="gpus (default: 8), mfu, and settings as for train.py")
    ap.add_argument("--rehearse", action="store_true", help="let PyTorch count too: minutes")
    args, more = ap.parse_known_args()
    print_plan(args.config, args.settings + more, args.rehearse)


if __name__ == "__main__":
    config.command(main)
