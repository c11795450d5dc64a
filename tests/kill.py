"""Kill a training run again and again, and compare its end with that of a run nobody disturbed.

    python tests/kill.py --kills 25

Two processes under torchrun, which restarts them; kill -9 hits one of the two at a random moment after the run has moved, whatever it
does then: a step, a save, an evaluation. Ends with exit code 1 if a restart finds a checkpoint that is marked complete and is not, or
unless weights, moments and log at the end are the same to the last bit.
"""
import argparse
import contextlib
import os
import random
import signal
import sys
import tempfile
import time

sys.path[:0] = [os.path.dirname(os.path.dirname(os.path.abspath(__file__))), os.path.dirname(os.path.abspath(__file__))]

import torch

from conftest import arguments, log, prepare_tiny, state, torchrun, workers


def saving(run):
    """Whether a checkpoint is being written: the newest folder has no `done`."""
    folder = f"runs/{run}/checkpoints"
    there = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
    return bool(there) and not os.path.exists(f"{folder}/{there[-1]}/done")


def train(run, steps, kills=0, seed=0):
    """Train `run`, striking `kills` times; returns (kills done, those during a save, what was printed)."""
    draw, done, in_save, out, fresh = random.Random(seed), 0, 0, "", True
    p = torchrun(2, "train.py", *arguments("bloom", run, f"run.tokens={128 * steps}", "run.save_every=2", "run.eval_every=7", "run.keep=3"), restarts=kills)
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


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--kills", type=int, default=25)
    ap.add_argument("--seed", type=int, default=0)
    args = ap.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        prepare_tiny()
        print(compare(args.kills, args.seed))


if __name__ == "__main__":
    main()
