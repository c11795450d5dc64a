"""Kill a command again and again, and compare its end with that of one nobody disturbed.

    python tools/kill.py --kills 25                     # train.py
    python tools/kill.py --kills 20 --what launcher     # torchrun itself
    python tools/kill.py --kills 20 --what prepare      # prepare.py
    python tools/kill.py --kills 20 --what cluster      # prepare.py --cluster (pip install distributed)

train.py: two processes that share a copy of the state, under torchrun, which restarts them. kill -9 hits one
of the two at a random moment after the run has moved: in a step, a save, an evaluation. Exit code 1 if a
restart finds a checkpoint that is marked complete and is not, or unless weights, moments and log at the end
are the same to the last bit.

torchrun: kill -9 hits the launcher of two processes at a random moment, also while they start, and the same
command follows at once. The processes that are left must end by themselves; the end must be the same again.

prepare.py: two workers. kill -9 hits the command (its workers must then end by themselves) or one worker (the
command must then begin its jobs again), at random moments. The same command is given again until it is done:
the folder must be the same to the byte.

cluster: a dask scheduler and a worker of two threads. kill -9 hits the command, a job, the worker or the
scheduler, at random moments. What runs for all is started again, and the command if it has ended: each folder
that it makes must be the one that it makes without a cluster, to the byte.
"""
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
from collections import Counter

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path[:0] = [ROOT, f"{ROOT}/tests"]

import corpora
import torch
from conftest import arguments, log, prepare_tiny, state, torchrun, workers

import config
from corpus import stories


def saving(run, since=0):
    """Whether a checkpoint is being written: the newest folder has no `done`, and is not left from before the
    time `since`."""
    folder = f"runs/{run}/checkpoints"
    there = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
    if not there or os.path.exists(f"{folder}/{there[-1]}/done"):
        return False
    return os.path.getmtime(f"{folder}/{there[-1]}") > since


def settings(run, steps):
    return arguments("bloom", run, f"run.tokens={128 * steps}", "machine.save_every=2", "run.eval_every=7",
                     "machine.keep=3", "machine.shard=2")


def train(run, steps, kills=0, seed=0):
    """Train `run`, striking `kills` times; returns (kills done, those during a save, what was printed)."""
    draw, out = random.Random(seed), ""
    done = in_save = 0
    moved = True                            # since the last start a step was made
    p = torchrun(2, "train.py", *settings(run, steps), restarts=kills)
    for line in p.stdout:
        out += line
        moved = moved or " parameters: " in line        # the first line of each start
        if moved and line.startswith("step ") and done < kills:
            moved = False
            time.sleep(draw.uniform(0, 0.5))
            # the run may just have ended
            with contextlib.suppress(ProcessLookupError, FileNotFoundError):
                victim, during = draw.choice(workers(p.pid)), saving(run)
                os.kill(victim, signal.SIGKILL)
                done, in_save = done + 1, in_save + during
                print(f"kill {done} after {line.split('/')[0]}{', during a save' if during else ''}",
                      flush=True)
    if p.wait():
        raise SystemExit(f"{run} did not come to its end:\n{out[-3000:]}")
    return done, in_save, out


def train_without_launcher(run, steps, kills, seed=0):
    """As train(), but it is torchrun that is struck, and the same command that follows."""
    draw, left, in_save = random.Random(seed), [], 0
    for done in range(1, kills + 1):
        began = time.time()
        p = torchrun(2, "train.py", *settings(run, steps))
        if draw.random() < 0.25:
            when = "during the start"
            time.sleep(draw.uniform(0, 10))
        else:
            when = next(f"after {line.split('/')[0]}" for line in p.stdout if line.startswith("step "))
            time.sleep(draw.uniform(0, 0.5))
        assert p.poll() is None, f"the run ended before kill {done}"
        in_save += saving(run, began)
        p.kill()
        p.wait()
        left.append(p)
        print(f"kill {done} {when}", flush=True)
    last = torchrun(2, "train.py", *settings(run, steps))
    out = last.communicate()[0]
    if last.returncode:
        raise SystemExit(f"{run} did not come to its end:\n{out[-3000:]}")
    for p in left:                          # the pipe of a launch ends with its last process
        p.communicate(timeout=60)
    return kills, in_save, out


def compare(kills, seed, disturbed=train):
    """One line that says how it went; raises AssertionError if the ends differ."""
    steps = 40 * kills + 60
    done, in_save, out = disturbed("killed", steps, kills, seed)
    train("whole", steps)
    damaged = [line for line in out.splitlines() if "is damaged" in line]
    a, b = state("runs/killed"), state("runs/whole")
    assert done == kills, f"the run ended after {done} of {kills} kills"
    assert not damaged, damaged
    assert a.keys() == b.keys() and [k for k in a if not torch.equal(a[k], b[k])] == []
    assert log("killed") == log("whole")
    return (f"{kills} kills, {in_save} of them during a save, over {steps} steps: no checkpoint unreadable; "
            "weights, moments and log as undisturbed, to the last bit")


def prepare_once(name, after=None, victim=None):
    """Start prepare.py; kill it or one of its workers after some seconds. (Whether one was killed, whether
    the command came to its end, seconds.)"""
    start = time.time()
    killed = False
    command = [sys.executable, f"{ROOT}/prepare.py", "--input", "text/*.jsonl", "--name", name,
               "--vocab", "1000", "--clean", "ccnet_lines", "oscar", "--near", "minhash", "--workers", "2"]
    p = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if after is not None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            p.wait(after)
        with contextlib.suppress(OSError):
            below = workers(p.pid, b"corpus.jobs")
            pid = random.choice(below) if victim == "worker" and below else p.pid
            if p.poll() is None:
                os.kill(pid, signal.SIGKILL)
                killed = True
    out, _ = p.communicate()
    expected = (0, 1, -9) if killed else (0,)
    if p.returncode not in expected or "Traceback" in out:
        raise SystemExit(f"prepare.py ended with {p.returncode}:\n{out[-3000:]}")
    return killed, p.returncode == 0, time.time() - start


def write_texts(draw):
    """text/*.jsonl: 24 files of 300 stories in four languages."""
    grammars = {lang: corpora.grammar(lang) for lang in ("en", "fr", "es", "pt")}
    os.makedirs("text")
    for number in range(24):
        with open(f"text/{number:02}.jsonl", "w", encoding="utf-8") as f:
            for i in range(300):
                lang = draw.choice(list(grammars))
                text = "\n".join(stories.draw(grammars[lang], lang, draw.randrange(4000)) for _ in range(3))
                record = {"id": f"{number}-{i}", "lang": lang, "text": text}
                f.write(json.dumps(record, ensure_ascii=False) + "\n")


def hashes(folder):
    """{file: SHA-256} of everything below a folder."""
    found = {}
    for at, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(at, name)
            found[os.path.relpath(path, folder)] = config.sha256(path)
    return found


def compare_prepared(kills, seed):
    draw, done = random.Random(seed), 0
    random.seed(seed)
    write_texts(draw)
    seconds = prepare_once("whole")[2]
    while done < kills:
        victim = draw.choice(["command", "worker"])
        killed, ended, _ = prepare_once("killed", after=draw.uniform(0, seconds * 0.7), victim=victim)
        done += killed
        if ended:                       # begin anew
            same_folders()
            shutil.rmtree("data/killed")
    prepare_once("killed")
    files = same_folders()
    return f"{done} kills: {files} files as undisturbed, to the byte"


def same_folders():
    """Stop unless data/killed is data/whole, but for its name. Returns how many files there are."""
    a, b = hashes("data/whole"), hashes("data/killed")
    named = ("manifest.json", "DATA_CARD.md")           # these two hold the name
    assert [f for f in {**a, **b} if a.get(f) != b.get(f) and f not in named] == []
    for file in named:
        texts = []
        for name in ("whole", "killed"):
            with open(f"data/{name}/{file}", encoding="utf-8") as f:
                texts.append(f.read().replace(name, ""))
        assert texts[0] == texts[1], file
    return len(a)


def compare_cluster(kills, seed):
    draw, killed, made = random.Random(seed), Counter(), 0
    corpora.write_rich()
    command = [sys.executable, f"{ROOT}/prepare.py", "rich.py"]
    subprocess.run([*command, "name=whole"], check=True, stdout=subprocess.DEVNULL)
    with corpora.Dask(os.path.abspath("away")) as dask:
        while killed.total() < kills or not made:
            p = subprocess.Popen([*command, "--cluster", dask.address], stdout=subprocess.PIPE,
                                 stderr=subprocess.STDOUT, text=True)
            if killed.total() < kills:
                time.sleep(draw.uniform(1, 20))
                victim = draw.choice(["command", "job", "worker", "scheduler"])
                killed[victim] += corpora.strike(dask, victim, p)
            out, _ = p.communicate()
            if p.returncode not in (0, 1, -9) or "Traceback" in out:
                raise SystemExit(f"prepare.py ended with {p.returncode}:\n{out[-3000:]}")
            if p.returncode == 0:
                assert corpora.result("all") == corpora.result("whole")
                shutil.rmtree("data/all")
                made += 1
    return f"kills: {dict(killed)}; {made} folders made, each as without a cluster, to the byte"


WAYS = {"train": train, "launcher": train_without_launcher}


def main():
    ap = config.Parser(__doc__)
    ap.add_argument("--kills", type=config.number(1, 1000), default=25)
    ap.add_argument("--seed", type=int, default=0)
    ap.add_argument("--what", choices=("train", "launcher", "prepare", "cluster"), default="train")
    args = ap.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        if args.what == "prepare":
            print(compare_prepared(args.kills, args.seed))
        elif args.what == "cluster":
            print(compare_cluster(args.kills, args.seed))
        else:
            prepare_tiny()
            print(compare(args.kills, args.seed, WAYS[args.what]))


if __name__ == "__main__":
    config.command(main)
