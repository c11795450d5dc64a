"""Before you train: how much memory each GPU needs, whether that fits, how long it takes.

    python plan.py configs/bloom.py
    python plan.py configs/bloom.py size=176b gpus=384 mfu=0.36
    python plan.py configs/bloom.py size=7b1 gpus=32 machine.micro=2 --rehearse

Settings are those of train.py, and two more: gpus, and mfu, model FLOPs utilisation, the share of the GPUs'
peak speed that is useful work. --rehearse also runs a step of the real sharded model on tensors without
memory, and prints what PyTorch counts beside the formulas.

Smaller runs decide what to train. Each of these commands has --help:

    python plan.py ablate configs/bloom.py model.position=alibi,rope --seeds 3   # which choice is better
    python plan.py figure runs/NAME                                     # losses and learning rate of a run
    python plan.py figure runs/A runs/B                                 # loss against tokens and FLOPs
    python plan.py fit runs/A runs/B ...                                # the law of loss, size and tokens
    python plan.py budget --train-flops 5.76e23 --inference-tokens 1e13 # the size with the cheapest life
"""
import math
import os
import sys
from dataclasses import dataclass

import config
import data
import train
from planning import memory

GB, GIB = 10 ** 9, 2 ** 30
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
    if cfg.model.vocab is None:                         # the tokenizer's, as the toy has it
        folder, entries = f"data/{cfg.data.name}", TOY_VOCAB
        if os.path.exists(f"{folder}/manifest.json"):
            entries = data.read_manifest(folder)["vocab"]
        else:
            print(f"{folder} is not prepared yet; model.vocab={entries} is a guess")
        cfg.model.vocab = math.ceil(entries / 128) * 128
    return cluster, cfg


def print_run(cfg, gpus, P, block, flops):
    """Size and length of the run; `flops` are per token."""
    m, r = cfg.model, cfg.run
    rows = math.ceil(r.batch / gpus)
    again = ", and a third more for machine.recompute" if cfg.machine.recompute else ""
    print(f"{r.name}: {P:,} parameters, {m.vocab * m.dim:,} of them in the embedding, {block:,} in each of "
          f"{m.layers} blocks\n"
          f"{flops / 1e9:,.3f} GFLOPs per token{again}\n"
          f"{data.steps_in(r, m.context):,} steps, {r.tokens:,} tokens; {r.batch} rows of {m.context} per "
          f"step are {rows} on each GPU, {gpus * rows - r.batch} of {gpus * rows} empty; "
          f"{min(rows, cfg.machine.micro)} at a time (machine.micro)\n"
          f"{cfg.machine.shard or gpus} of {gpus} GPUs share one copy of weights, gradients and moments "
          "(machine.shard)\n")


def print_memory(cfg, gpus, rehearsal):
    """The parts of a step's memory, by formula and, if asked, as PyTorch counts them."""
    want, seen = memory.memory(cfg, gpus), {}
    if rehearsal:
        print("rehearsing a step: up to some minutes", file=sys.stderr, flush=True)
        seen = memory.rehearse(cfg, gpus)
    more = "  rehearsed  difference" if seen else ""
    print(f"{'GiB per GPU, each part at its largest':52} {'formula':>9}{more}")
    for part, words in memory.PARTS.items():
        if part in want:
            line = f"{words:52} {want[part] / GIB:9.3f}"
            if seen:
                line += f"  {seen[part] / GIB:9.3f}  {want[part] / seen[part] - 1:+10.1%}"
            print(line)


def print_gpus(cfg, gpus, mfu, flops):
    """Which GPUs it fits on, and how long they take."""
    rows = math.ceil(cfg.run.batch / gpus)              # on each GPU: empty ones are computed too
    print(f"\ngpus={gpus} together, at mfu={mfu:g} of their peak speed:\n"
          f"{'GPU':10} {'memory':>7}  {'fits':4}  {'fewest GPUs':>11}  {'tokens/s':>11}  {'days':>9}")
    somewhere = False
    for name, (peak, *capacities) in train.GPUS.items():
        for capacity in capacities:
            fits = memory.fits(cfg, gpus, capacity * GB)
            somewhere = somewhere or fits
            least = memory.fewest(cfg, capacity * GB) or "no number"
            speed = cfg.run.batch / rows * mfu * peak / flops
            print(f"{name:10} {capacity:4} GB  {'yes' if fits else 'no':4}  {least:>11}  {speed:11,.0f}  "
                  f"{cfg.run.tokens / speed / 86400:9,.1f}")
    if not somewhere:
        print("It fits on none of these. What helps: more GPUs, machine.recompute=true, a smaller "
              "machine.micro, a larger machine.shard")


def print_plan(path, settings, rehearsal=False):
    cluster, cfg = load_settings(path, settings)
    P, block = memory.sizes(cfg.model)
    flops = train.flops_per_token(cfg.model, P)
    print_run(cfg, cluster.gpus, P, block, flops)
    print_memory(cfg, cluster.gpus, rehearsal)
    print_gpus(cfg, cluster.gpus, cluster.mfu, flops)
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
