"""Decisions by small models: train a grid of choices with several seeds, and say which differences are larger than the seeds' (BLOOM, section 3.2).

    python plan.py ablate configs/bloom.py model.position=alibi,rope,none model.embed_norm=true,false --seeds 3 run.name=small model.layers=3 run.tokens=3e5
    python plan.py ablate configs/llama.py optim.lr=2e-3,4e-3,8e-3 --seeds 2

A setting with commas is a choice; the others, as for train.py, hold for every run. The runs are trained one after another, each seed through the whole
grid before the next, in runs/NAME-CHOICES-seed-N. The same command goes on: finished runs are not trained again, an interrupted one continues. Then the
table and the differences are printed and written to runs/NAME.json, and drawn to runs/NAME.png and .svg (--out) where matplotlib is installed.

Each run is judged by bits per byte and loss on the validation split, by the loss of the same text in rows of 2 and 4 times the training context, and by
zero-shot accuracy on the laptop benchmark (tasks.py). Read it from grid() to main().
"""
import argparse
import contextlib
import dataclasses
import datetime
import functools
import hashlib
import itertools
import math
import os
import re
import signal
import statistics
import subprocess
import sys
import time

import torch

import checkpoint
import config
import data
import parallel
import sample
import train
from evaluation import scoring, tasks
from planning import law

TIMES = (1, 2, 4)       # contexts a run is judged at, in training contexts
LOSS = {1: "loss", 2: "loss at 2x", 4: "loss at 4x"}
# the factor of the standard error that makes a 95% interval, by degrees of freedom 1, 2, ... (Student's t); more take the last
T95 = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23)


def grid(settings, seeds, path):
    """(run.name, {setting: [values]}, [({setting: value}, seed, settings for train.py, Config)]), all checked before anything is trained."""
    axes = {key: values.split(",") for key, _, values in (s.removeprefix("--").partition("=") for s in settings) if "," in values and not re.search(r"[\[({]", values)}
    fixed = [s for s in settings if s.removeprefix("--").partition("=")[0] not in axes]
    if not axes:
        raise ValueError("no setting has several values: write a choice with commas, as in model.position=alibi,rope,none")
    for key, values in axes.items():
        if key in ("run.name", "run.seed") or len(set(values)) < len(values) or "" in values:
            raise ValueError(f"{key}={','.join(values)}: " + ("--seeds and the choices make seeds and names" if key.startswith("run.") else "a value is empty or named twice"))
    base, runs = config.load(path, fixed), []
    for seed, values in itertools.product(range(base.run.seed, base.run.seed + seeds), itertools.product(*axes.values())):
        cell = dict(zip(axes, values))
        name = "-".join([base.run.name, *(f"{key.split('.')[-1]}-{re.sub('[^A-Za-z0-9_.-]', '_', value)}" for key, value in cell.items()), "seed", str(seed)])
        own = [*fixed, *(f"{key}={value}" for key, value in cell.items()), f"run.seed={seed}", f"run.name={name}"]
        runs.append((cell, seed, own, train.load_config(path, own)))
    if len({cfg.run.name for *_, cfg in runs}) < len(runs):
        raise ValueError("two choices have the same last word and values: their runs would have one name")
    return base.run.name, axes, runs


def finished(cfg):
    """Whether the run of these settings has its last checkpoint; stops if the folder was trained with other settings or other data."""
    run = f"runs/{cfg.run.name}"
    if not os.path.exists(f"{run}/config.json"):
        return False
    facts, want = config.read_json(f"{run}/config.json"), config.plain(cfg)
    for key, old, new in config.differences({k: facts[k] for k in want}, want):
        if key != "model.vocab":                        # that of the tokenizer, unless it is set
            raise ValueError(f"{run} was trained with {key}={old}, now it is {new}: give this grid another run.name")
    if {s: v["train"]["sha256"] for s, v in data.read_manifest(f"data/{cfg.data.name}")["sources"].items()} != facts["data_sha256"]:
        raise ValueError(f"{run} was trained on other data than data/{cfg.data.name} holds now: give this grid another run.name")
    return os.path.exists(f"{run}/checkpoints/{data.steps_in(cfg.run, cfg.model.context):07d}/done")


def train_one(path, settings):
    """train.py as a process of its own. Ctrl-C reaches it too, SIGTERM is handed on: it saves, and then we stop."""
    p, interrupted = subprocess.Popen([sys.executable, os.path.join(train.HERE, "train.py"), path, *settings]), False
    before = signal.signal(signal.SIGTERM, lambda number, frame: p.send_signal(number))
    while p.returncode is None:
        try:
            p.wait()
        except KeyboardInterrupt:
            interrupted = True
    signal.signal(signal.SIGTERM, before)
    if interrupted or p.returncode in (-signal.SIGINT, 130):
        raise KeyboardInterrupt
    if p.returncode:
        raise ValueError(f"runs/{settings[-1].removeprefix('run.name=')} ended with exit code {p.returncode}, see above; the same command continues")


@functools.cache
def benchmark():
    """{task: (items, how many were left out, form)} of the laptop benchmark, without examples."""
    return {name: tasks.load_items(name, shots=0) for name in tasks.BENCHMARK}


def zero_shot(model, tokenizer):
    """{"zero-shot": mean accuracy, "task NAME": accuracy, ...}, each by the score that decides its task."""
    found = {}
    for name, (items, _, form) in benchmark().items():
        result = scoring.score_items(model, tokenizer, items, form)
        found[f"task {name}"] = result[result["rule"]][0]
    return {"zero-shot": statistics.mean(found.values()), **found}


def judge(run):
    """{measure: value} of a finished run, kept in its ablation.json until the run or the benchmark is another."""
    facts, path = config.read_json(f"{run}/config.json"), f"{run}/ablation.json"
    key = {"tokens": facts["run"]["tokens"], "benchmark": hashlib.sha256(repr([(name, items) for name, (items, *_) in benchmark().items()]).encode()).hexdigest()}
    if os.path.exists(path) and (old := config.read_json(path)).items() >= key.items():
        return old["scores"]
    cfg = checkpoint.open_run(run).settings()
    device, dtype, _ = parallel.choose_device(cfg.machine)
    precision = (lambda: torch.autocast(device, dtype)) if dtype else contextlib.nullcontext
    model, tokenizer = sample.load(run, device)
    scores, quarter = {}, cfg.run.eval_rows and max(1, cfg.run.eval_rows // TIMES[-1])
    for k in TIMES:                     # the same text each time, cut into rows of 1, 2 and 4 contexts
        m = dataclasses.replace(cfg.model, context=k * cfg.model.context)
        micro, r = max(1, cfg.machine.micro // k), dataclasses.replace(cfg.run, eval_rows=quarter and quarter * TIMES[-1] // k)
        val = train.validate(model, data.Rows(dataclasses.replace(cfg, model=m, run=r)), r, micro, device, precision)
        scores |= ({"bits per byte": val["bits_per_byte"]} if k == 1 else {}) | {LOSS[k]: val["loss"]}
    scores |= zero_shot(model, tokenizer)
    config.write_json(path, {**key, "scores": scores})
    return scores


def differences(axes, results, measure):
    """[{measure, setting, from, to, difference, interval}] for each pair of values of each setting: the mean of to - from, and half of its 95% interval.

    The other settings and the seed are the same on both sides of a difference: runs with one seed read the same rows in the same order.
    Its spread is that over the seeds inside each cell of the other settings, pooled over the cells as if they were independent; one seed has none (None)."""
    by = {(frozenset(r["choices"].items()), r["seed"]): r["scores"][measure] for r in results}
    seeds, found = sorted({r["seed"] for r in results}), []
    for key, values in axes.items():
        others = [frozenset(o) for o in itertools.product(*([(k, v) for v in vs] for k, vs in axes.items() if k != key))]
        for a, b in itertools.combinations(values, 2):
            d = [[by[o | {(key, b)}, seed] - by[o | {(key, a)}, seed] for seed in seeds] for o in others]
            interval = None
            if len(seeds) > 1:
                pooled, freedom = statistics.mean(map(statistics.variance, d)), len(d) * (len(seeds) - 1)
                interval = T95[min(len(T95), freedom) - 1] * math.sqrt(pooled / len(d) / len(seeds))
            found.append({"measure": measure, "setting": key, "from": a, "to": b, "difference": statistics.mean(map(statistics.mean, d)), "interval": interval})
    return found


def beyond(d):
    return d["interval"] is not None and abs(d["difference"]) > d["interval"]


def words(choices):
    return ", ".join(f"{key.split('.')[-1]}={value}" for key, value in choices.items())


def by_cell(results):
    """{words of the choices: the scores of its seeds}"""
    cells = {}
    for r in results:
        cells.setdefault(words(r["choices"]), []).append(r["scores"])
    return cells


def report(axes, results, out):
    """Print the table of cells, that of differences and what of it is more than the seeds; write all of it."""
    seeds, cells = len({r["seed"] for r in results}), by_cell(results)
    measures = [m for m in results[0]["scores"] if all(m in r["scores"] for r in results)]
    shown = [m for m in measures if not m.startswith("task ")]
    found = {m: differences(axes, results, m) for m in measures}
    pairs = [f"{d['setting'].split('.')[-1]}: {d['from']} to {d['to']}" for d in found[measures[0]]]
    wide = max(map(len, [*cells, *pairs]))

    def row(name, numbers, width=20):
        print((f"{name:{wide}}" + "".join(f"{text:>{width}}" for text in numbers)).rstrip())
    print(f"\nmean of {seeds} seed{'s' * (seeds > 1)}{', ± standard deviation between them' * (seeds > 1)}")
    row("", shown)
    for name, scores in cells.items():
        row(name, [f"{statistics.mean(v):.4f}" + (f" ± {statistics.stdev(v):.4f}" if seeds > 1 else "") for v in ([s[m] for s in scores] for m in shown)])
    if by_task := [m for m in measures if m not in shown]:
        print("\nzero-shot accuracy by task, mean of the seeds")
        row("", [m.removeprefix("task ") for m in by_task], 10)
        for name, scores in cells.items():
            row(name, [f"{statistics.mean(s[m] for s in scores):.3f}" for m in by_task], 10)
    print(f"\ndifferences, the rest being equal{', ± 95% interval from the seeds; * is outside it' * (seeds > 1)}")
    row("", shown)
    for i, name in enumerate(pairs):
        row(name, [f"{d['difference']:+.4f}" + (f" ± {d['interval']:.4f}" if seeds > 1 else "") + ("*" if beyond(d) else " ") for d in (found[m][i] for m in shown)])
    larger = [d for m in shown for d in found[m] if beyond(d)]
    if seeds == 1:
        print("\none seed has no spread, so none of these differences says anything yet: use --seeds 3")
    else:
        print(f"\n{len(larger)} of {len(pairs) * len(shown)} differences are larger than the seeds' spread; by chance alone it would be about {0.05 * len(pairs) * len(shown):.0f}")
    for d in larger:
        print(f"  {d['setting']}={d['to']} instead of {d['from']}: {d['measure']} {d['difference']:+.4f} ({d['difference'] - d['interval']:+.4f} to {d['difference'] + d['interval']:+.4f})")
    os.makedirs(os.path.dirname(out) or ".", exist_ok=True)
    config.write_json(f"{out}.json", {"choices": axes, "runs": results, "differences": [{**d, "beyond_seeds": beyond(d)} for m in measures for d in found[m]]})
    print(f"\nwrote {out}.json")


def draw(results, out):
    """Each choice has a row, a colour for its first setting and a dot per seed; the last panel has the loss against the context it is read in."""
    cells, measures = by_cell(results), ["bits per byte", *(m for m in results[0]["scores"] if m == "zero-shot")]
    firsts = list(dict.fromkeys(name.split(", ")[0] for name in cells))
    fig, axes = law.blank(2 + 2.6 * (1 + len(measures)), 0.3 * len(cells) + 1.2, 1 + len(measures))
    for y, (name, scores) in enumerate(cells.items()):
        first = firsts.index(name.split(", ")[0])
        nth = [n for n in cells if n.split(", ")[0] == firsts[first]].index(name)
        style = {"color": f"C{first % 10}", "marker": "os^vD*"[nth % 6]}
        for ax, m in zip(axes, measures):
            v = [s[m] for s in scores]
            ax.plot(v, [y] * len(v), linestyle="", alpha=0.7, markersize=5, **style)
            ax.plot([statistics.mean(v)], [y], "|", color="black", markersize=14)
        axes[-1].plot(TIMES, [statistics.mean(s[LOSS[k]] for s in scores) for k in TIMES], ["-", "--", ":"][nth % 3], linewidth=1.2, markersize=5, **style)
    for ax, m in zip(axes, measures):
        ax.set(xlabel=m, yticks=range(len(cells)), yticklabels=cells if ax is axes[0] else [""] * len(cells), ylim=(len(cells) - 0.5, -0.5))
    axes[-1].set(xscale="log", xlabel="context, in training contexts", ylabel="validation loss", xticks=TIMES, xticklabels=[f"{k}x" for k in TIMES])
    axes[-1].minorticks_off()
    for ax in axes:
        ax.grid(alpha=0.3, linewidth=0.5)
    law.save(fig, out)


def main(argv):
    ap = argparse.ArgumentParser(prog="plan.py ablate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("config", help="configs/bloom.py or configs/llama.py")
    ap.add_argument("settings", nargs="*", metavar="key=value", help="choices, key=value,value,...; and settings for every run")
    ap.add_argument("--seeds", type=int, default=3, help="runs of each choice, from run.seed on (default: 3)")
    ap.add_argument("--out", metavar="PATH", help="where table and figure go, without an ending (default: runs/NAME)")
    args, more = ap.parse_known_args(argv)
    if args.seeds < 1:
        raise ValueError(f"--seeds {args.seeds}: at least 1, and a spread needs 2")
    name, axes, runs = grid(args.settings + more, args.seeds, args.config)
    out = args.out or f"runs/{name}"
    done = [finished(cfg) for *_, cfg in runs]          # all are looked at before one is trained
    print(f"{len(runs)} runs: {' x '.join(f'{len(v)} {k}' for k, v in axes.items())} x {args.seeds} seeds; {sum(done)} are finished")
    results, began, trained = [], time.time(), 0
    for i, ((choices, seed, settings, cfg), there) in enumerate(zip(runs, done), 1):
        if not there:
            left = f"   {datetime.timedelta(seconds=round((time.time() - began) / trained * (len(runs) - sum(done) - trained)))} left" if trained else ""
            print(f"\nrun {i}/{len(runs)}: {words(choices)}, seed {seed}{left}", flush=True)
            train_one(args.config, settings)
            trained += 1
            if not finished(cfg):
                raise ValueError(f"runs/{cfg.run.name} was stopped before its end; the same command continues")
        scores = judge(f"runs/{cfg.run.name}")
        results.append({"choices": choices, "seed": seed, "run": f"runs/{cfg.run.name}", "scores": scores})
        print(f"judged {i}/{len(runs)}: {cfg.run.name}   " + "   ".join(f"{m} {v:.4f}" for m, v in scores.items() if not m.startswith("task ")), flush=True)
    report(axes, results, out)
    try:
        draw(results, out)
    except ValueError as e:                             # without matplotlib the table is there all the same
        print(e)


if __name__ == "__main__":
    config.command(lambda: main(sys.argv[1:]))
