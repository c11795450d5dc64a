"""Decisions by small models: train a grid of choices with several seeds, and say which differences are larger
than those between seeds (BLOOM, section 3.2).

    python plan.py ablate configs/bloom.py model.position=alibi,rope,none run.name=small run.tokens=3e5
    python plan.py ablate configs/llama.py optim.lr=2e-3,4e-3,8e-3 --seeds 2 run.tokens=3e5

A setting with commas is a choice; the others, as for train.py, hold for every run. The runs are trained one
after another in runs/NAME-CHOICES-seed-N. The same command goes on where it was interrupted. Results are
printed, written to runs/NAME.json, and drawn to runs/NAME.png and .svg where matplotlib is installed.

A run is judged by bits per byte and loss on the validation split, by the loss of the same text in rows of 2
and 4 training contexts, and by accuracy on the laptop benchmark of evaluation/tasks.py, without examples.
"""
import dataclasses
import hashlib
import itertools
import math
import os
import re
import signal

import numpy as np
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


# ---- the grid ----

def split_choices(settings):
    """({setting: [values]} of the settings with commas, the other settings)"""
    axes, fixed = {}, []
    for text in settings:
        key, value = config.split_override(text)
        if "," not in value or re.search(r"[\[({]", value):             # a list in brackets is one value
            fixed.append(text)
        elif key in ("run.name", "run.seed"):
            raise ValueError(f"{text}: --seeds makes the seeds, and the choices the names")
        else:
            axes[key] = value.split(",")
    if not axes:
        raise ValueError("no setting has several values, as in model.position=alibi,rope")
    return axes, fixed


def grid(settings, seeds, path):
    """(run.name, axes {setting: [values]}, runs), checked before anything is trained. `runs` are (choices
    {setting: value}, config.Config), one seed after another."""
    axes, fixed = split_choices(settings)
    base, runs = config.load(path, fixed).run, []
    for seed in range(base.seed, base.seed + seeds):
        for values in itertools.product(*axes.values()):
            choices = dict(zip(axes, values))
            own = [f"{key}={value}" for key, value in choices.items()]
            name = re.sub("[^A-Za-z0-9_.-]+", "-", f"{base.name} {words(choices)} seed {seed}")
            own = [*fixed, *own, f"run.seed={seed}", f"run.name={name}"]
            runs.append((choices, train.load_config(path, own)))
    if len({cfg.run.name for _, cfg in runs}) < len(runs):
        raise ValueError("two choices would have runs of one name: a value is given twice, or two settings "
                         "have the same last word")
    return base.name, axes, runs


def words(choices):
    return ", ".join(f"{key.split('.')[-1]}={value}" for key, value in choices.items())


# ---- train and judge ----

def train_run(cfg):
    """Train a run of the grid, or what is left of it."""
    path = f"runs/{cfg.run.name}"
    if os.path.exists(f"{path}/config.json"):
        tokens = checkpoint.open_run(path).settings().run.tokens
        if tokens != cfg.run.tokens:        # train() would go on, with another schedule
            raise ValueError(f"{path} was trained with run.tokens={tokens}: give this grid another run.name")
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        train.train(cfg)                    # saves, when one of these signals asks it to stop
    except torch.OutOfMemoryError as e:
        raise ValueError(f"{e}. Make machine.micro={cfg.machine.micro} smaller") from e
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if data.steps_in(cfg.run, cfg.model.context) not in checkpoint.steps(path):
        raise ValueError(f"{path} was stopped before its end; the same command continues")


def zero_shot(model, tokenizer, benchmark):
    """{"zero-shot": mean accuracy, "task NAME": accuracy, ...}, each by the score that decides its task."""
    found = {}
    for name, (items, _, form) in benchmark.items():
        result = scoring.score_items(model, tokenizer, items, form)
        found[TASK + name] = result[result["rule"]][0]
    return {"zero-shot": sum(found.values()) / len(found), **found}


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
    print(f"judging {path}", flush=True)
    device, dtype, _ = parallel.choose_device(cfg.machine)
    precision = train.precision(device, dtype)
    (model, _), tokenizer = run.load(device), run.tokenizer()
    scores = {}
    for k in LOSS:                      # the same text each time, cut into rows of 1, 2 and 4 contexts
        rows = cfg.run.eval_rows and max(1, cfg.run.eval_rows // max(LOSS)) * max(LOSS) // k
        longer = dataclasses.replace(cfg.model, context=k * cfg.model.context)
        fewer = dataclasses.replace(cfg.run, eval_rows=rows)
        split = data.Rows(dataclasses.replace(cfg, model=longer, run=fewer))
        val = train.validate(model, split, fewer, max(1, cfg.machine.micro // k), device, precision)
        scores.setdefault("bits per byte", val["bits_per_byte"])
        scores[LOSS[k]] = val["loss"]
    scores |= zero_shot(model, tokenizer, benchmark)
    config.write_json(file, {**key, "scores": scores})
    return scores


def train_and_judge(runs, benchmark):
    """[{"choices", "seed", "run", "scores"}] of the grid."""
    results, tick = [], config.progress("runs", len(runs), every=0)
    for choices, cfg in runs:
        folder = f"runs/{cfg.run.name}"
        train_run(cfg)
        scores = judge(folder, benchmark)
        results.append({"choices": choices, "seed": cfg.run.seed, "run": folder, "scores": scores})
        tick(1)
    return results


# ---- compare ----

def differences(axes, results, measure):
    """[{measure, setting, from, to, difference, interval, beyond_seeds}] for each pair of values of each
    setting: the mean of to - from, and half of its 95% interval.

    Both sides of a difference have the same other settings, a cell, and the same seed: they read the same
    rows in the same order. The spread over the seeds inside a cell is averaged over the cells.
    """
    scores = np.array([r["scores"][measure] for r in results])
    scores, found = scores.reshape(-1, *map(len, axes.values())), []    # (seeds, values of each setting)
    for axis, (key, values) in enumerate(axes.items(), 1):
        for a, b in itertools.combinations(range(len(values)), 2):
            change = scores.take(b, axis) - scores.take(a, axis)
            change = change.reshape(len(scores), -1)                    # (seeds, cells)
            mean, freedom = float(change.mean()), change.size - change.shape[1]
            error = math.sqrt(change.var(0, ddof=1).mean() / change.size)
            interval = T95[min(len(T95), freedom) - 1] * error
            found.append({"measure": measure, "setting": key, "from": values[a], "to": values[b],
                          "difference": mean, "interval": interval, "beyond_seeds": abs(mean) > interval})
    return found


def by_cell(results):
    """{choices in words: {measure: [a score per seed]}}"""
    cells = {}
    for r in results:
        cell = cells.setdefault(words(r["choices"]), {})
        for measure, score in r["scores"].items():
            cell.setdefault(measure, []).append(score)
    return cells


def print_table(title, head, rows):
    """Print {name: texts} in columns under `head`."""
    print(f"\n{title}")
    for name, texts in {"": head, **rows}.items():
        print(f"{name:32}" + "".join(f"{text:>20}" for text in texts))


def report(axes, results, out):
    """Print the cells and the differences; write all to OUT.json."""
    found, means, changes = [], {}, {}
    shown = [m for m in results[0]["scores"] if not m.startswith(TASK)]
    for name, scores in by_cell(results).items():
        means[name] = [f"{np.mean(scores[m]):.4f} ± {np.std(scores[m], ddof=1):.4f}" for m in shown]
    for measure in results[0]["scores"]:
        for d in differences(axes, results, measure):
            found.append(d)
            if measure in shown:
                name = f"{d['setting'].split('.')[-1]}: {d['from']} to {d['to']}"
                text = f"{d['difference']:+.4f} ± {d['interval']:.4f}" + ("*" if d["beyond_seeds"] else " ")
                changes.setdefault(name, []).append(text)
    print_table("mean of the seeds, ± standard deviation between them", shown, means)
    print_table("differences, the rest being equal, ± 95% interval from the seeds; * 0 is outside it", shown,
                changes)
    print("A choice that does nothing gets a star once in 20. The columns are of the same models: they are "
          "not independent")
    config.write_json(f"{out}.json", {"choices": axes, "runs": results, "differences": found})
    print(f"wrote {out}.json")


def main(argv):
    ap = config.Parser(__doc__, prog="plan.py ablate")
    ap.add_argument("config", help="configs/bloom.py or configs/llama.py")
    ap.add_argument("settings", nargs="*", default=[], metavar="key=value",
                    help="choices, key=value,value,...; and settings for every run")
    ap.add_argument("--seeds", type=config.number(2, 1000), default=3,
                    help="runs of each choice (default: 3)")
    args, more = ap.parse_known_args(argv)
    name, axes, runs = grid(args.settings + more, args.seeds, args.config)
    benchmark = {task: tasks.load_items(task, shots=0) for task in tasks.BENCHMARK}
    results = train_and_judge(runs, benchmark)
    report(axes, results, f"runs/{name}")
    try:
        figures.draw_ablation(by_cell(results), ("bits per byte", "zero-shot"), LOSS, f"runs/{name}")
    except ValueError as e:                             # matplotlib is not there, the tables are
        print(e)
