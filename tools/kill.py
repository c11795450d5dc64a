"""Kill a command again and again, and compare its end with that of one nobody disturbed.

    python tools/kill.py --kills 25                     # train.py
    python tools/kill.py --kills 20 --what prepare      # prepare.py

train.py: two processes under torchrun, which restarts them; kill -9 hits one of the two at a random moment after the run has moved, whatever it
does then: a step, a save, an evaluation. Ends with exit code 1 if a restart finds a checkpoint that is marked complete and is not, or
unless weights, moments and log at the end are the same to the last bit.

prepare.py: two workers; kill -9 hits the command (its workers must then end by themselves) or one worker (the command must then stop with one
line), at random moments from its start to its end. The same command is given again until it is done: the folder must be the same to the byte.
"""
import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time

sys.path[:0] = [os.path.dirname(os.path.dirname(os.path.abspath(__file__))), os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "tests")]

import torch
from conftest import ROOT, arguments, log, prepare_tiny, state, torchrun, workers

import config
from corpus import stories


def saving(run):
    """Whether a checkpoint is being written: the newest folder has no `done`."""
    folder = f"runs/{run}/checkpoints"
    there = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
    return bool(there) and not os.path.exists(f"{folder}/{there[-1]}/done")


def train(run, steps, kills=0, seed=0):
    """Train `run`, striking `kills` times; returns (kills done, those during a save, what was printed)."""
    draw, done, in_save, out, fresh = random.Random(seed), 0, 0, "", True
    p = torchrun(2, "train.py", *arguments("bloom", run, f"run.tokens={128 * steps}", "machine.save_every=2", "run.eval_every=7", "machine.keep=3"), restarts=kills)
    for line in p.stdout:
        out += line
        fresh = fresh or " parameters, " in line                # the first line of each start
        if fresh and line.startswith("step ") and done < kills:
            fresh = False
            time.sleep(draw.uniform(0, 0.5))
            with contextlib.suppress(ProcessLookupError, FileNotFoundError):        # the run may just have ended
                victim, during = draw.choice(workers(p.pid)), saving(run)
                os.kill(victim, signal.SIGKILL)
                done, in_save = done + 1, in_save + during
                print(f"kill {done} after {line.split('/')[0]}{', during a save' * during}", flush=True)
    if p.wait():
        raise SystemExit(f"{run} did not come to its end:\n{out[-3000:]}")
    return done, in_save, out


def compare(kills, seed):
    """One line that says how it went; raises AssertionError if the ends differ."""
    steps = 40 * kills + 60
    done, in_save, out = train("killed", steps, kills, seed)
    train("whole", steps)
    damaged = [line for line in out.splitlines() if "is damaged" in line]
    a, b = state("runs/killed"), state("runs/whole")
    assert done == kills, f"the run ended after {done} of {kills} kills"
    assert not damaged, damaged
    assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a), [k for k in a if not torch.equal(a[k], b[k])]
    assert log("killed") == log("whole")
    return f"{kills} kills, {in_save} of them during a save, over {steps} steps: no checkpoint unreadable; weights, moments and log as undisturbed, to the last bit"


def prepare_once(name, workers=2, after=None, victim=None):
    """Start prepare.py; kill it or one of its workers after some seconds. Returns whether it was killed, and the seconds it took."""
    start = time.time()
    p = subprocess.Popen([sys.executable, f"{ROOT}/prepare.py", "--input", "text/*.jsonl", "--name", name, "--vocab", "1000", "--clean", "ccnet_lines", "oscar",
                          "--near", "minhash", "--workers", str(workers)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    killed = None
    if after is not None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            p.wait(after)
        with contextlib.suppress(OSError):
            with open(f"/proc/{p.pid}/task/{p.pid}/children") as f:
                below = [int(c) for c in f.read().split() if b"spawn_main" in open(f"/proc/{c}/cmdline", "rb").read()]
            killed = random.choice(below) if victim == "worker" and below else p.pid
            if p.poll() is None:
                os.kill(killed, signal.SIGKILL)
    out, _ = p.communicate()
    if p.returncode not in ((0,) if killed is None else (0, 1, -9)) or "Traceback" in out:
        raise SystemExit(f"prepare.py ended with {p.returncode}:\n{out[-3000:]}")
    return p.returncode != 0, time.time() - start


def compare_prepared(kills, seed):
    draw, done = random.Random(seed), 0
    random.seed(seed)
    os.makedirs("text")
    stories_ = {lang: stories.parse(open(f"{ROOT}/samples/stories/{lang}.txt", encoding="utf-8").read(), lang) for lang in ("en", "fr", "es", "pt")}
    for number in range(24):
        with open(f"text/{number:02}.jsonl", "w", encoding="utf-8") as f:
            for i in range(300):
                lang = draw.choice(list(stories_))
                f.write(json.dumps({"id": f"{number}-{i}", "lang": lang, "text": "\n".join(stories.draw(stories_[lang], lang, draw.randrange(4000)) for _ in range(3))}, ensure_ascii=False) + "\n")
    _, seconds = prepare_once("whole")
    while done < kills:
        killed, _ = prepare_once("killed", after=draw.uniform(0, seconds * 0.7), victim=draw.choice(["command", "worker"]))
        done += killed
        if not killed:                  # it came to its end: begin anew
            shutil.rmtree("data/killed")
    prepare_once("killed")

    def tree(folder):
        return {os.path.relpath(os.path.join(at, name), folder): config.sha256(os.path.join(at, name)) for at, _, names in os.walk(folder) for name in names}
    a, b = tree("data/whole"), tree("data/killed")
    differ = [f for f in {**a, **b} if a.get(f) != b.get(f) and f not in ("manifest.json", "DATA_CARD.md")]      # these two hold the name
    same = [open(f"data/{n}/{f}", encoding="utf-8").read().replace(n, "") for f in ("manifest.json", "DATA_CARD.md") for n in ("whole", "killed")]
    assert not differ and same[0] == same[1] and same[2] == same[3], differ
    return f"{done} kills: {len(a)} files as undisturbed, to the byte"


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--kills", type=int, default=25)
    ap.add_argument("--seed", type=int, default=0)
    ap.add_argument("--what", choices=("train", "prepare"), default="train")
    args = ap.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        if args.what == "prepare":
            print(compare_prepared(args.kills, args.seed))
        else:
            prepare_tiny()
            print(compare(args.kills, args.seed))


if __name__ == "__main__":
    main()
