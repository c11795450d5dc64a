"""Before you train: how much memory each GPU needs, whether that fits, how long it takes.

    python plan.py configs/bloom.py
    python plan.py configs/bloom.py size=176b gpus=384 mfu=0.36
    python plan.py configs/bloom.py size=7b1 gpus=32 machine.micro=2 --rehearse

Settings are those of train.py, and three more: gpus; mfu, model FLOPs utilisation, the share of the GPUs'
peak speed that is useful work; disk, GB per second of the file system. --rehearse also runs a step of the
real sharded model on tensors without memory, and prints what PyTorch counts beside the formulas.

Smaller runs decide what to train. Each of these commands has --help:

    python plan.py ablate configs/bloom.py model.position=alibi,rope --seeds 3   # which choice is better
    python plan.py figure runs/NAME                                     # losses and learning rate of a run
    python plan.py figure runs/A runs/B                                 # loss against tokens and FLOPs
    python plan.py fit runs/A runs/B ...                                # the law of loss, size and tokens
    python plan.py budget --train-flops 5.76e23 --inference-tokens 1e13 # the size with the cheapest life
"""
import dataclasses
import math
import os
import shlex
import sys

import config
import data
import train
from planning import memory

GB, GIB = 10 ** 9, 2 ** 30
REHEARSAL = 10, 1.5         # seconds on two cores: in any case, and for each block


def counted(n, word):
    """counted(1, "GPU") -> "1 GPU"; counted(2000, "GPU") -> "2,000 GPUs" """
    return f"{n:,} {word}" if n == 1 else f"{n:,} {word}s"


def choose_vocab(cfg):
    """Set the vocabulary where the config leaves it to the tokenizer, as the toy does, and say so."""
    folder, recipe = f"data/{cfg.data.name}", None
    if cfg.machine.prepare:
        file, *settings = shlex.split(cfg.machine.prepare)
        recipe = config.load(file if os.path.exists(file) else os.path.join(train.HERE, file), settings)
    if os.path.exists(f"{folder}/manifest.json"):
        entries, source = data.read_manifest(folder)["vocab"], f"of {folder}"
    elif recipe and recipe.name == cfg.data.name:
        entries, source = recipe.tokenizer.vocab, f"that {cfg.machine.prepare} makes"
    else:
        raise ValueError(f"the vocabulary is that of the tokenizer in {folder}, which is not there; "
                         "say how large it will be, as in model.vocab=4096")
    cfg.model.vocab = math.ceil(entries / 128) * 128
    print(f"model.vocab={cfg.model.vocab}: the tokenizer {source} has {entries:,} entries")


def print_run(cfg, gpus, z, flops):
    """Size and length of the run. `z` are the numbers of parameters, memory.Sizes; `flops` are per token."""
    m, r = cfg.model, cfg.run
    rows = math.ceil(r.batch / gpus)
    empty = gpus * rows - r.batch
    again = ", and a third more for machine.recompute" if cfg.machine.recompute else ""
    wasted = f", {empty} of {gpus * rows} empty because they do not divide" if empty else ""
    attention = 12 * m.layers * m.dim * m.context / flops
    print(f"{r.name} on {counted(gpus, 'GPU')}: {z.all:,} parameters, {z.head:,} of them in the embedding, "
          f"{z.block:,} in each of {m.layers} blocks\n"
          f"{flops / 1e9:,.3f} GFLOPs per token ({attention:.1%} of them attention){again}\n"
          f"{data.steps_in(r, m.context):,} steps, {r.tokens:,} tokens; {r.batch} rows of {m.context} per "
          f"step are {rows} per GPU, {min(rows, cfg.machine.micro)} at a time (machine.micro){wasted}\n")


def print_memory(cfg, gpus, z, rehearsal):
    """The parts of a step's memory, by formula and, if asked, as PyTorch counts them."""
    want, seen = memory.memory(cfg, gpus, z), {}
    if rehearsal:
        start, block = REHEARSAL
        print(f"rehearsing two micro-batches through {cfg.model.layers} blocks without memory: about "
              f"{start + block * cfg.model.layers:.0f} s on two cores", file=sys.stderr, flush=True)
        seen = memory.rehearse(cfg, gpus)
    if gpus > 1:
        print(f"{counted(cfg.machine.shard or gpus, 'GPU')} share one copy of weights, gradients and moments "
              "(ZeRO stage 3; machine.shard sets how many)")
    more = "  rehearsed  difference" if seen else ""
    print(f"{'GiB per GPU, each part at its largest':52} {'formula':>9}{more}")
    for part, words in memory.PARTS.items():
        if part in want:
            line = f"{words:52} {want[part] / GIB:9.3f}"
            if part in seen:
                line += f"  {seen[part] / GIB:9.3f}  {want[part] / seen[part] - 1:+10.1%}"
            print(line)
    kept = {}
    for recompute in (True, False):
        machine = dataclasses.replace(cfg.machine, recompute=recompute)
        other = memory.memory(dataclasses.replace(cfg, machine=machine), gpus, z)
        kept[recompute] = f"{other['activations'] / GIB:,.2f} GiB"
    print(f"activations are {kept[True]} with machine.recompute=true, {kept[False]} without\n")


def print_gpus(cfg, gpus, mfu, z, flops):
    """Which GPUs it fits on, and how long they take."""
    rows = math.ceil(cfg.run.batch / gpus)              # on each GPU: empty ones are computed too
    print(f"Speed of {counted(gpus, 'GPU')} together, and days for the whole run, at {mfu:.0%} MFU (model "
          "FLOPs utilisation:\nthe share of the GPUs' peak speed that is useful work)\n"
          f"{'GPU':10} {'memory':>7}  {'fits':4}  {'fewest GPUs':>11}  {'tokens/s':>11}  {'days':>9}")
    here = somewhere = False
    for name, (peak, *capacities) in train.GPUS.items():
        for capacity in capacities:
            fits = memory.fits(cfg, gpus, capacity * GB, z)
            least = memory.fewest(cfg, capacity * GB, z)
            here, somewhere = here or fits, somewhere or bool(least)
            speed = cfg.run.batch / rows * mfu * peak / flops
            print(f"{name:10} {capacity:4} GB  {'yes' if fits else 'no':4}  {least or 'no number':>11}  "
                  f"{speed:11,.0f}  {cfg.run.tokens / speed / 86400:9,.1f}")
    if not here:
        ways = {"more GPUs": somewhere, "machine.recompute=true": not cfg.machine.recompute,
                "a smaller machine.micro": cfg.machine.micro > 1,
                "a larger machine.shard": cfg.machine.shard is not None}
        helps = ", ".join(way for way, possible in ways.items() if possible) or "a smaller model"
        print(f"It fits on none of these with {counted(gpus, 'GPU')}; what helps: {helps}")


def split_settings(settings):
    """({"gpus", "mfu", "disk"}, the settings for train.py)"""
    own, others = {"gpus": 8, "mfu": 0.4, "disk": 10.0}, []
    for text in settings:
        key, _, value = text.removeprefix("--").partition("=")
        if key not in own:
            others.append(text)
            continue
        own[key] = config.parse(value, type(own[key]), key)
        if not own[key] > 0 or key == "mfu" and own[key] > 1:
            raise ValueError(f"{text}: it must be above 0{' and at most 1' if key == 'mfu' else ''}")
    return own, others


def print_plan(path, settings, rehearsal=False):
    own, settings = split_settings(settings)
    gpus, cfg = own["gpus"], train.load_config(path, settings)
    if gpus % (cfg.machine.shard or 1):
        raise ValueError(f"machine.shard={cfg.machine.shard} does not divide gpus={gpus}")
    if cfg.model.vocab is None:
        choose_vocab(cfg)
    z = memory.sizes(cfg.model)
    flops = train.flops_per_token(cfg.model, z.all)
    print_run(cfg, gpus, z, flops)
    print_memory(cfg, gpus, z, rehearsal)
    print_gpus(cfg, gpus, own["mfu"], z, flops)
    size, disk = 12 * z.all / GB, own["disk"]
    print(f"\ncheckpoint: 12 bytes per parameter, {size:,.1f} GB, {size / disk:,.0f} s at {disk:g} GB/s")


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
                    help="gpus=8, mfu=0.4, disk=10 (defaults), and settings as for train.py: size=7b1, "
                         "machine.micro=2, machine.shard=8, ...")
    ap.add_argument("--rehearse", action="store_true", help="let PyTorch count too: minutes")
    args, more = ap.parse_known_args()
    print_plan(args.config, args.settings + more, args.rehearse)


if __name__ == "__main__":
    config.command(main)
