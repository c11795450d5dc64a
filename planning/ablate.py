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
import contextlib
import dataclasses
import functools
import hashlib
import itertools
import math
import os
import re
import signal
import subprocess
import sys
from typing import NamedTuple

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

class Run(NamedTuple):
    """One run of the grid: its choices {setting: value}, and what they come to."""
    choices: dict
    seed: int
    settings: list      # for train.py
    cfg: config.Config


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
    """(run.name, {setting: [values]}, [Run], one seed after another), checked before anything is trained."""
    axes, fixed = split_choices(settings)
    base, runs = config.load(path, fixed).run, []
    for seed in range(base.seed, base.seed + seeds):
        for values in itertools.product(*axes.values()):
            choices = dict(zip(axes, values))
            own = [f"{key}={value}" for key, value in choices.items()]
            name = re.sub("[^A-Za-z0-9_.-]+", "-", f"{base.name} {words(choices)} seed {seed}")
            own = [*fixed, *own, f"run.seed={seed}", f"run.name={name}"]
            runs.append(Run(choices, seed, own, train.load_config(path, own)))
    if len({run.cfg.run.name for run in runs}) < len(runs):
        raise ValueError("two choices would have runs of one name: a value is given twice, or two settings "
                         "have the same last word")
    return base.name, axes, runs


def words(choices):
    return ", ".join(f"{key.split('.')[-1]}={value}" for key, value in choices.items())


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
    """train.py as a process. When we are stopped, it saves first."""
    p = subprocess.Popen([sys.executable, os.path.join(train.HERE, "train.py"), path, *settings])
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        p.wait()
    except KeyboardInterrupt:
        p.terminate()
        p.wait()
        raise ValueError("stopped; the same command continues") from None
    finally:
        signal.signal(signal.SIGTERM, before)
    if p.returncode:
        raise ValueError(f"{settings[-1]} ended with exit code {p.returncode}, see above")


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
    precision = functools.partial(torch.autocast, device, dtype) if dtype else contextlib.nullcontext
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


def train_and_judge(path, runs, benchmark, train_run=train_one, judge_run=judge):
    """[{"choices", "seed", "run", "scores"}] of the grid; what is finished is not trained again."""
    missing = [run for run in runs if not finished(run.cfg)]        # all are looked at before one is trained
    print(f"{len(runs)} runs, {len(runs) - len(missing)} of them finished", flush=True)
    results, tick = [], config.progress("runs trained", len(missing), every=0)
    for run in runs:
        folder = f"runs/{run.cfg.run.name}"
        if run in missing:
            train_run(path, run.settings)
            if not finished(run.cfg):
                raise ValueError(f"{folder} was stopped before its end; the same command continues")
            tick(1)
        scores = judge_run(folder, benchmark)
        results.append({"choices": run.choices, "seed": run.seed, "run": folder, "scores": scores})
    return results


# ---- compare ----

def differences(axes, results, measure):
    """[{measure, setting, from, to, difference, interval, beyond_seeds}] for each pair of values of each
    setting: the mean of to - from, and half of its 95% interval.

    Both sides of a difference have the same other settings and the same seed: runs with one seed read the
    same rows in the same order. A cell is one combination of the other settings. The interval comes from the
    spread over the seeds inside a cell, averaged over the cells as if independent.
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
    print(f"\n{title}\n{'':32}" + "".join(f"{text:>20}" for text in head))
    for name, texts in rows.items():
        print(f"{name:32}" + "".join(f"{text:>20}" for text in texts))


def report(axes, results, out):
    """Print the cells and the differences; write all to OUT.json."""
    found = list(itertools.chain(*(differences(axes, results, m) for m in results[0]["scores"])))
    shown = [m for m in results[0]["scores"] if not m.startswith(TASK)]
    means, changes = {}, {}
    for name, scores in by_cell(results).items():
        means[name] = [f"{np.mean(scores[m]):.4f} ± {np.std(scores[m], ddof=1):.4f}" for m in shown]
    for d in found:
        if d["measure"] in shown:
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
    results = train_and_judge(args.config, runs, benchmark)
    report(axes, results, f"runs/{name}")
    try:
        figures.draw_ablation(by_cell(results), ("bits per byte", "zero-shot"), LOSS, f"runs/{name}")
    except ValueError as e:                             # matplotlib is not there, the tables are
        print(e)
