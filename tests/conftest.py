"""Shared by the tests: a small prepared corpus of each tokenizer kind, and settings that train on it in a
second."""
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys

import pytest
import torch
import worker

import checkpoint
import prepare
import train
from corpus import recipe, stories

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def prepare_tiny():
    """Make data/tiny (bpe) and data/tiny-sp (sentencepiece) in the current folder: two languages as two
    sources."""
    for lang in ("en", "fr"):
        with open(f"{ROOT}/samples/stories/{lang}.txt", encoding="utf-8") as f:
            grammar = stories.parse(f.read(), lang)
        os.makedirs(lang)
        for i in range(60):
            with open(f"{lang}/{i:03d}.txt", "w", encoding="utf-8") as f:
                f.write(stories.draw(grammar, lang, i))
    for name, kind in (("tiny", "bpe"), ("tiny-sp", "sentencepiece")):
        sources = [recipe.Source(lang, lang, lang=lang) for lang in ("en", "fr")]
        prepare.prepare(recipe.Corpus(name, sources, recipe.Tokenizer(kind, 500)))


@pytest.fixture(scope="session")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("prepared")
    with contextlib.chdir(folder):
        prepare_tiny()
    return folder


@contextlib.contextmanager
def handlers_kept():
    """train() answers signals in its own way; afterwards they are answered as before."""
    handlers = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}
    yield
    for s, handler in handlers.items():
        signal.signal(s, handler)


@pytest.fixture
def work(prepared, tmp_path, monkeypatch):
    """An empty current folder that sees the prepared corpus."""
    monkeypatch.chdir(tmp_path)
    os.symlink(prepared / "data", tmp_path / "data")
    with handlers_kept():
        yield tmp_path


@pytest.fixture
def own_data(work, prepared):
    """As `work`, with a copy of the corpus that the test may damage."""
    os.remove("data")
    shutil.copytree(prepared / "data", "data")
    return work


def arguments(model, name, *more):
    """A 20-step run with accumulation, two micro-batches of two rows, as train.py's arguments."""
    data = "tiny" if model == "bloom" else "tiny-sp"
    return [f"{ROOT}/configs/{model}.py", "model.layers=2", "model.dim=24", "model.heads=3",
            "model.context=32", "run.batch=4", "machine.micro=2", "run.tokens=2560", "machine.save_every=10",
            "run.eval_every=10",
            "run.eval_rows=4", "machine.log_every=1", "optim.warmup=512", "machine.device=cpu",
            "machine.dtype=float32", f"data.name={data}", f"run.name={name}", *more]


def tiny(model, name, *more):
    path, *settings = arguments(model, name, *more)
    return train.load_config(path, settings)


def run(script, *args, **kwargs):
    """A command as a user types it."""
    command = [sys.executable, f"{ROOT}/{script}", *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, **kwargs)


def torchrun(world, script, *args, restarts=0, **kwargs):
    """A command as several processes on this machine: the rendezvous picks a free port. Returns the Popen."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={world}",
               f"--max_restarts={restarts}", f"{ROOT}/{script}", *map(str, args)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                            text=True, **kwargs)


def workers(parent, word=b"train.py"):
    """Process ids of what process `parent` has started with `word` in its command, a torchrun its processes
    say."""
    found = []
    with open(f"/proc/{parent}/task/{parent}/children") as f:
        for child in f.read().split():
            with open(f"/proc/{child}/cmdline", "rb") as command:
                if word in command.read():
                    found.append(int(child))
    return found


def launch(world, runs, restarts=0, code=0):
    """Train several configurations on `world` processes; returns what they printed. A process that is named
    because it hangs is killed: torchrun would do it after 30 seconds."""
    if world == 1:
        worker.train_all(runs)
        return ""
    p, out = torchrun(world, "tests/worker.py", json.dumps(runs), restarts=restarts), ""
    for line in p.stdout:
        out += line
        if hangs := re.search(r"nothing has moved .* pid (\d+)\)", line):
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(hangs[1]), signal.SIGKILL)
    assert p.wait() == code, out
    return out


def damage(path, size=None):
    """Change the last byte of a file, or cut the file to `size` bytes."""
    with open(path, "rb+") as f:
        f.seek(-1, os.SEEK_END)
        byte = f.read()[0]
        f.seek(-1, os.SEEK_END)
        f.write(bytes([byte ^ 1]))
        if size:
            f.truncate(size)


TIMINGS = {"seconds", "tokens_per_second", "mfu"}


def log(run):
    """The records of a run, a name or a path, without timings and without the lines that a start writes."""
    path = f"{run}/log.jsonl" if os.path.isabs(run) else f"runs/{run}/log.jsonl"
    records = [r for r in checkpoint.read_log(path) if "start" not in r]
    return [{k: v for k, v in r.items() if k not in TIMINGS} for r in records]


def state(run, step=None):
    """Every tensor of a checkpoint, moments included, put together from the parts that the processes
    wrote."""
    model, _ = checkpoint.open_run(str(run)).load(step=step)
    optimizer = torch.optim.AdamW(model.parameters())
    checkpoint.newest(str(run), model, optimizer, step)
    moments = checkpoint.moments(model, optimizer)
    return dict(model.named_parameters()) | {k: v for k, v in moments.items() if not k.endswith("step")}


@pytest.fixture(scope="session")
def runs(prepared, tmp_path_factory):
    """A BLOOM and a LLaMA that have seen some stories."""
    folder = tmp_path_factory.mktemp("runs")
    os.symlink(prepared / "data", folder / "data")
    more = ("run.tokens=12800", "optim.lr=1e-2", "machine.save_every=50", "run.eval_every=100")
    with contextlib.chdir(folder), handlers_kept():
        for name in ("bloom", "llama"):
            train.train(tiny(name, name, *more))
    return folder / "runs"
