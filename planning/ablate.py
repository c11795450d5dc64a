"""Decisions by small models: train a grid of choices with several seeds, and say which differences are larger
than those between seeds (BLOOM, section 3.2).

    python plan.py ablate configs/bloom.py model.position=alibi,rope,none run.name=small run.tokens=3e5
    python plan.py ablate configs/llama.py optim.lr=2e-3,4e-3,8e-3 --seeds 2 run.tokens=3e5

A setting with commas is a choice; the others, as for train.py, hold for every run. The runs are trained in
runs/NAME-CHOICES-seed-N, one after another, one seed after another. The same command goes on: finished runs
are not trained again, an interrupted one continues. Tables are printed and written to runs/NAME.json (--out),
and drawn to runs/NAME.png and .svg where matplotlib is installed.

A run is judged by bits per byte and loss on the validation split, by the loss of the same text in rows of 2
and 4 training contexts, and by accuracy on the laptop benchmark of evaluation/tasks.py, without examples.
Read it from grid() to main().
"""
import contextlib
import dataclasses
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
from typing import NamedTuple

import torch

import checkpoint
import config
import data
import parallel
import train
from evaluation import scoring, tasks
from planning import figures

LOSS = {1: "loss", 2: "loss at 2x", 4: "loss at 4x"}    # contexts it is judged at, in training contexts
TASK = "task "          # before the name of a measure that is one task's
# A 95% interval: standard error times this, by degrees of freedom 1, 2, ... (Student's t); then the last.
T95 = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23)
TOY_SPEED = 4000        # tokens per second of the toy on two cores
CONTINUES = "the same command continues"


# ---- the grid ----

class Run(NamedTuple):
    """One run of the grid: its choices {setting: value}, and what they come to."""
    choices: dict
    seed: int
    settings: list      # for train.py
    cfg: config.Config

    @property
    def path(self):
        return f"runs/{self.cfg.run.name}"


def split_choices(settings):
    """({setting: [values]} of the settings with commas, the other settings)"""
    axes, fixed = {}, []
    for text in settings:
        key, _, value = text.removeprefix("--").partition("=")
        if "," not in value or re.search(r"[\[({]", value):             # a list in brackets is one value
            fixed.append(text)
            continue
        axes[key] = value.split(",")
        if key in ("run.name", "run.seed"):
            raise ValueError(f"{text}: --seeds makes the seeds, and the choices the names")
        if "" in axes[key] or len(set(axes[key])) < len(axes[key]):
            raise ValueError(f"{text}: a value is empty or named twice")
    if not axes:
        raise ValueError("no setting has several values: write a choice with commas, as in "
                         "model.position=alibi,rope")
    return axes, fixed


def grid(settings, seeds, path):
    """(run.name, {setting: [values]}, [Run]), all checked before anything is trained."""
    axes, fixed = split_choices(settings)
    base, runs = config.load(path, fixed).run, []
    for seed in range(base.seed, base.seed + seeds):
        for values in itertools.product(*axes.values()):
            choices = dict(zip(axes, values))
            name = base.name
            for key, value in choices.items():
                name += f"-{key.split('.')[-1]}-{re.sub('[^A-Za-z0-9_.-]', '_', value)}"
            own = [f"{key}={value}" for key, value in choices.items()]
            own = [*fixed, *own, f"run.seed={seed}", f"run.name={name}-seed-{seed}"]
            runs.append(Run(choices, seed, own, train.load_config(path, own)))
    if len({run.path for run in runs}) < len(runs):
        raise ValueError("two choices have the same last word and values: their runs would have one name")
    return base.name, axes, runs


def finished(cfg):
    """Whether the run of these settings has its last checkpoint. Stops if it has another recipe or data."""
    path = f"runs/{cfg.run.name}"
    if not os.path.exists(f"{path}/config.json"):
        return False
    run = checkpoint.open_run(path)
    vocab = cfg.model.vocab or run.shape.vocab          # the tokenizer's, unless it is set
    asked = dataclasses.replace(cfg, model=dataclasses.replace(cfg.model, vocab=vocab))
    with config.blame("give this grid another run.name"):
        changed = checkpoint.check_same_recipe(path, asked, data.Rows(cfg))
        if "run.tokens" in changed:                     # train.py would go on, with another schedule
            raise ValueError(f"{path} was trained with run.tokens={changed['run.tokens'][0]}")
    return data.steps_in(cfg.run, cfg.model.context) in run.steps()


# ---- train and judge ----

def train_one(path, settings):
    """train.py as a process. Ctrl-C reaches it too, SIGTERM is handed on: it saves, and then we stop."""
    p = subprocess.Popen([sys.executable, os.path.join(train.HERE, "train.py"), path, *settings])
    before = signal.signal(signal.SIGTERM, lambda number, frame: p.send_signal(number))
    interrupted = False
    while p.returncode is None:
        try:
            p.wait()
        except KeyboardInterrupt:
            interrupted = True
    signal.signal(signal.SIGTERM, before)
    if interrupted or p.returncode in (-signal.SIGINT, 130):
        raise KeyboardInterrupt
    if p.returncode:
        name = settings[-1].removeprefix("run.name=")
        raise ValueError(f"runs/{name} ended with exit code {p.returncode}, see above; {CONTINUES}")


def load_benchmark():
    """{task: (items, how many were left out, form)} of the laptop benchmark, without examples."""
    return {name: tasks.load_items(name, shots=0) for name in tasks.BENCHMARK}


def zero_shot(model, tokenizer, benchmark, tick=lambda n: None):
    """{"zero-shot": mean accuracy, "task NAME": accuracy, ...}, each by the score that decides its task."""
    found = {}
    for name, (items, _, form) in benchmark.items():
        result = scoring.score_items(model, tokenizer, items, form, begin="training", T=model.cfg.context,
                                     batch=16, tick=tick)
        found[TASK + name] = result[result["rule"]][0]
    return {"zero-shot": statistics.mean(found.values()), **found}


def judge(path, benchmark):
    """{measure: value} of a finished run. ablation.json keeps it until the run or the benchmark changes."""
    run, file = checkpoint.open_run(path), f"{path}/ablation.json"
    cfg = run.settings()
    items = repr([(name, items) for name, (items, *_) in benchmark.items()])
    key = {"tokens": cfg.run.tokens, "benchmark": hashlib.sha256(items.encode()).hexdigest()}
    if os.path.exists(file):
        old = config.read_json(file)
        if old.items() >= key.items():
            return old["scores"]
    device, dtype, _ = parallel.choose_device(cfg.machine)
    precision = functools.partial(torch.autocast, device, dtype) if dtype else contextlib.nullcontext
    (model, _), tokenizer = run.load(device), run.tokenizer()
    scores = {}
    for k in LOSS:                      # the same text each time, cut into rows of 1, 2 and 4 contexts
        rows = cfg.run.eval_rows and max(1, cfg.run.eval_rows // max(LOSS)) * max(LOSS) // k
        longer = dataclasses.replace(cfg.model, context=k * cfg.model.context)
        fewer = dataclasses.replace(cfg.run, eval_rows=rows)
        split = data.Rows(dataclasses.replace(cfg, model=longer, run=fewer))
        val = train.validate(model, split, fewer, max(1, cfg.machine.micro // k), device, precision)
        if k == 1:
            scores["bits per byte"] = val["bits_per_byte"]
        scores[LOSS[k]] = val["loss"]
    choices = sum(len(item["choices"]) for items, *_ in benchmark.values() for item in items)
    tick = config.progress(f"{path}: scoring choices", choices)
    scores |= zero_shot(model, tokenizer, benchmark, tick)
    config.write_json(file, {**key, "scores": scores})
    return scores


def train_and_judge(path, runs, benchmark, train_run=train_one, judge_run=judge):
    """[{"choices", "seed", "run", "scores"}] of the grid; what is finished is not trained again."""
    missing = [run for run in runs if not finished(run.cfg)]        # all are looked at before one is trained
    tokens = sum(run.cfg.run.tokens for run in missing)
    print(f"{len(runs)} runs, {len(runs) - len(missing)} finished; {tokens:,} tokens to train. At the toy's "
          f"speed, {TOY_SPEED:,} tokens per second on two cores, that takes "
          f"{config.duration(tokens / TOY_SPEED)}", flush=True)
    results, began, trained = [], time.monotonic(), 0
    for number, run in enumerate(runs, 1):
        if run in missing:
            left = ""
            if trained:
                seconds = (time.monotonic() - began) / trained * (len(missing) - trained)
                left = f"   {config.duration(seconds)} left"
            print(f"\nrun {number}/{len(runs)}: {words(run.choices)}, seed {run.seed}{left}", flush=True)
            train_run(path, run.settings)
            trained += 1
            if not finished(run.cfg):
                raise ValueError(f"{run.path} was stopped before its end; {CONTINUES}")
        scores = judge_run(run.path, benchmark)
        results.append({"choices": run.choices, "seed": run.seed, "run": run.path, "scores": scores})
        shown = "   ".join(f"{m} {value:.4f}" for m, value in scores.items() if not m.startswith(TASK))
        print(f"judged {number}/{len(runs)}: {run.path}   {shown}", flush=True)
    return results


# ---- compare ----

def differences(axes, results, measure):
    """[{measure, setting, from, to, difference, interval}] for each pair of values of each setting: the mean
    of to - from, and half of its 95% interval.

    Both sides of a difference have the same other settings and the same seed: runs with one seed read the
    same rows in the same order. A cell is one combination of the other settings. The interval comes from the
    spread over the seeds inside a cell, averaged over the cells as if independent. One seed has no interval.
    """
    scores = {(frozenset(r["choices"].items()), r["seed"]): r["scores"][measure] for r in results}
    seeds, found = sorted({r["seed"] for r in results}), []
    for key, values in axes.items():
        others = [[(k, v) for v in vs] for k, vs in axes.items() if k != key]
        cells = [frozenset(cell) for cell in itertools.product(*others)]
        for a, b in itertools.combinations(values, 2):
            pairs, interval = [], None
            for cell in cells:
                pairs.append([scores[cell | {(key, b)}, s] - scores[cell | {(key, a)}, s] for s in seeds])
            if len(seeds) > 1:
                freedom = len(cells) * (len(seeds) - 1)
                variance = statistics.mean(map(statistics.variance, pairs))
                interval = T95[min(len(T95), freedom) - 1] * math.sqrt(variance / len(cells) / len(seeds))
            mean = statistics.mean(map(statistics.mean, pairs))
            found.append({"measure": measure, "setting": key, "from": a, "to": b, "difference": mean,
                          "interval": interval})
    return found


def beyond(d):
    return d["interval"] is not None and abs(d["difference"]) > d["interval"]


def words(choices):
    return ", ".join(f"{key.split('.')[-1]}={value}" for key, value in choices.items())


def by_cell(results):
    """{choices in words: {measure: [a score per seed]}} of the measures that all runs have."""
    measures = [m for m in results[0]["scores"] if all(m in r["scores"] for r in results)]
    cells = {}
    for r in results:
        cell = cells.setdefault(words(r["choices"]), {m: [] for m in measures})
        for m in measures:
            cell[m].append(r["scores"][m])
    return cells


def mean_and_spread(values):
    """ "3.1000 ± 0.1000", the standard deviation behind the mean"""
    mean = f"{statistics.mean(values):.4f}"
    return f"{mean} ± {statistics.stdev(values):.4f}" if len(values) > 1 else mean


def described(d):
    """ "+0.0330 ± 0.0121*": a difference; the star says that 0 is outside its interval."""
    if d["interval"] is None:
        return f"{d['difference']:+.4f}"
    return f"{d['difference']:+.4f} ± {d['interval']:.4f}{'*' if beyond(d) else ' '}"


def print_table(title, rows):
    """Print rows of texts in columns. The first row is the head, the first column has the names."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    print(f"\n{title}")
    for name, *texts in rows:
        columns = [f"   {text:>{width}}" for text, width in zip(texts, widths[1:])]
        print((f"{name:{widths[0]}}" + "".join(columns)).rstrip())


def report(axes, results, out):
    """Print cells, tasks and differences, say which differences exceed the seeds'; write all to OUT.json."""
    cells, several = by_cell(results), len({r["seed"] for r in results}) > 1
    measures = list(next(iter(cells.values())))
    shown = [m for m in measures if not m.startswith(TASK)]
    of_tasks = [m for m in measures if m.startswith(TASK)]
    found = {m: differences(axes, results, m) for m in measures}
    rows = [[name, *(mean_and_spread(scores[m]) for m in shown)] for name, scores in cells.items()]
    print_table("mean of the seeds, ± standard deviation between them", [["", *shown], *rows])
    if of_tasks:
        rows = [["", *(m.removeprefix(TASK) for m in of_tasks)]]
        for name, scores in cells.items():
            rows.append([name, *(f"{statistics.mean(scores[m]):.3f}" for m in of_tasks)])
        print_table("zero-shot accuracy by task, mean of the seeds", rows)
    rows = [["", *shown]]
    for ds in zip(*(found[m] for m in shown)):
        setting = ds[0]["setting"].split(".")[-1]
        rows.append([f"{setting}: {ds[0]['from']} to {ds[0]['to']}", *map(described, ds)])
    print_table("differences, the rest being equal, ± 95% interval from the seeds; * is outside it", rows)
    every = [d for m in shown for d in found[m]]
    larger = [d for d in every if beyond(d)]
    if several:
        print(f"\n{len(larger)} of {len(every)} differences are larger than the seeds' spread. A choice "
              "that does nothing gets a star once in 20.\nThe columns of a line are of the same models: they "
              "are not independent")
    else:
        print("\none seed has no spread, so none of these differences says anything yet: use --seeds 3")
    for d in larger:
        low, high = d["difference"] - d["interval"], d["difference"] + d["interval"]
        print(f"  {d['setting']}={d['to']} instead of {d['from']}: {d['measure']} {d['difference']:+.4f} "
              f"({low:+.4f} to {high:+.4f})")
    os.makedirs(os.path.dirname(out) or ".", exist_ok=True)
    told = [{**d, "beyond_seeds": beyond(d)} for m in measures for d in found[m]]
    config.write_json(f"{out}.json", {"choices": axes, "runs": results, "differences": told})
    print(f"\nwrote {out}.json")


def draw(results, out):
    """The figure. Without matplotlib one line says so, and the tables are there all the same."""
    try:
        figures.draw_ablation(by_cell(results), ("bits per byte", "zero-shot"), LOSS, out)
    except ValueError as e:
        print(e)


def main(argv):
    ap = config.Parser(__doc__, prog="plan.py ablate")
    ap.add_argument("config", help="configs/bloom.py or configs/llama.py")
    ap.add_argument("settings", nargs="*", default=[], metavar="key=value",
                    help="choices, key=value,value,...; and settings for every run")
    ap.add_argument("--seeds", type=config.number(1, 1000), default=3,
                    help="runs of each choice, from run.seed on (default: 3)")
    ap.add_argument("--out", metavar="PATH", help="tables and figure, without ending (default: runs/NAME)")
    args, more = ap.parse_known_args(argv)
    name, axes, runs = grid(args.settings + more, args.seeds, args.config)
    out = args.out or f"runs/{name}"
    print(" x ".join(f"{len(values)} {key}" for key, values in axes.items()) + f" x {args.seeds} seeds")
    results = train_and_judge(args.config, runs, load_benchmark())
    report(axes, results, out)
    draw(results, out)
