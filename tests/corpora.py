"""Small corpora for the tests of prepare.py and corpus/, and what is in data/ afterwards."""
import contextlib
import gzip
import json
import os
import pathlib
import random
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
from conftest import ROOT

import config
import prepare
import tokenizer as tokenizers
from corpus import clean, stories
from corpus.recipe import Corpus, Source, Tokenizer


def texts(n):
    """`n` different texts of about 160 letters."""
    words = "the cat sat on the mat and looked at the dog near the old house".split()
    return [" ".join([*random.Random(i).choices(words, k=40), f"{i}."]) for i in range(n)]


def write(path, text):
    pathlib.Path(path).write_text(text, encoding="utf-8")


def write_records(path, records):
    write(path, "".join(json.dumps(r) + "\n" for r in records))


def write_texts(found):
    """a.jsonl, with ids 0, 1, 2 ..."""
    write_records("a.jsonl", [{"text": text, "id": str(i)} for i, text in enumerate(found)])


def records(path):
    with open(path, encoding="utf-8") as f:
        return [json.loads(line) for line in f]


def make(name, *paths, vocab=300, **more):
    found = [Source(os.path.splitext(path)[0], path, **more) for path in paths]
    return prepare.prepare(Corpus(name, found, Tokenizer("bpe", vocab)))


def there():
    """What is in data/, but for locks."""
    return sorted(n for n in os.listdir("data") if not n.startswith(".")) if os.path.isdir("data") else []


def tree(folder):
    """{file: its bytes} of everything below a folder."""
    found = pathlib.Path(folder).rglob("*")
    return {str(path.relative_to(folder)): path.read_bytes() for path in found if path.is_file()}


def decoded(name, source, split):
    """The texts in a token file, and what the manifest says of it."""
    manifest = config.read_json(f"data/{name}/manifest.json")
    tokenizer = tokenizers.load(f"data/{name}/tokenizer")
    ids = np.fromfile(f"data/{name}/tokens/{source}/{split}.bin", manifest["dtype"])
    starts = np.fromfile(f"data/{name}/tokens/{source}/{split}.idx", "<i8")
    parts = np.split(ids, starts[1:])
    assert all(part[-1] == tokenizer.eos for part in parts)
    facts = manifest["sources"][source][split]
    assert (facts["tokens"], facts["documents"]) == (len(ids), len(starts))
    return [tokenizer.decode(part[:-1].tolist()) for part in parts]


def everything():
    """Folders of files with each kind of loss: copies, repeated lines, near copies, short and broken files,
    licences, gated terms, books inside books."""
    for folder in ("web", "code", "books"):
        os.makedirs(folder)
    t = texts(96)
    for part in range(6):
        docs = [{"id": f"{part}-{i}", "lang": ["en", "fr"][i % 2],
                 "text": f"Menu of the site\n{x} {x[::-1]} {x}\nwrite to me{i}@example.org"}
                for i, x in enumerate(t[part * 16:part * 16 + 16])]
        docs += [{**docs[3], "id": f"{part}-again"}, {"id": f"{part}-short", "text": "short"},
                 {**docs[5], "id": f"{part}-near", "text": docs[5]["text"].replace(".", " too.")},
                 {"id": f"{part}-none", "text": " "}]
        with gzip.open(f"web/{part}.jsonl.gz", "wt", encoding="utf-8") as f:
            f.write("".join(json.dumps(d) + "\n" for d in docs) + '{"broken": \n')
        lines = "\n".join(f"x{i} = {i * part}" for i in range(200))
        write(f"code/{part}.py", f"# SPDX-License-Identifier: {['MIT', 'GPL-3.0-only'][part % 2]}\n{lines}")
    with open("web/3.jsonl.gz", "r+b") as f:
        f.truncate(os.path.getsize("web/3.jsonl.gz") - 40)
    draw = random.Random(0)
    story = "".join(draw.choices("abcdefgh ", k=30_000))
    write("books/whole.txt", story)
    write("books/inside.txt", story[500:29_000])
    write("books/other.txt", "".join(draw.choices("ijklmnop ", k=20_000)))
    web = Source("web", "web", clean=["ccnet_lines", "pii", "lines_with_code", "bytes_300"], near="minhash",
                 licence="CC0-1.0", origin="made here", custodian="the tests", permission="gated")
    code = Source("code", "code", licences=["MIT"], permission="asked")
    books = Source("books", "books", split=10 ** 9, near="overlap")
    return Corpus("all", [web, code, books], Tokenizer("bpe", 400), accept="web")


# ---- a corpus for many machines, and a scheduler with a worker on this one ----

RICH = """
from corpus.recipe import Corpus, Source, Tokenizer

def config():
    web = Source("web", "web", clean=["ccnet_lines", "pii", "lines_with_code", "bytes_300"], near="minhash")
    code = Source("code", "code", licences=["MIT"], clean=["same_signs"])
    books = Source("books", "books", split=10 ** 9, near="overlap")
    tales = Source("tales", "tales", near="minhash",
                   clean=["same_url", "same_letters", "ccnet_lines", "oscar", "gopher"])
    return Corpus("all", [web, code, books, tales], Tokenizer("bpe", 400), remove="ids.txt", rules="rules",
                  part=8000)
"""


def grammar(lang):
    """What the stories of a language are drawn from."""
    with open(f"{ROOT}/samples/stories/{lang}.txt", encoding="utf-8") as f:
        return stories.parse(f.read(), lang)


def write_rich():
    """rich.py, the data config of a corpus of some twenty parts that needs each stage, and its files."""
    everything()
    grammars = {lang: grammar(lang) for lang in ("en", "fr")}
    os.makedirs("tales")
    draw = random.Random(1)
    for number in range(4):
        found = []
        for i in range(20):
            lang = draw.choice(["en", "fr"])
            text = "\n".join(stories.draw(grammars[lang], lang, draw.randrange(50)) for _ in range(2))
            found.append({"id": f"{number}-{i}", "lang": lang, "text": f"{text}\nto a{i}@example.org",
                          "url": f"http://example.org/{draw.randrange(70)}"})
        write_records(f"tales/{number}.jsonl", found)
    write("ids.txt", "web/0-3\ntales/1-1\n")
    shutil.copytree(clean.RULES_FOLDER, "rules")
    write("rich.py", RICH)


def wait_until(happened, seconds=60):
    """Wait for something that other processes do. A test that waits for ever says nothing."""
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)


class Dask:
    """A scheduler and a worker of two threads, started from the folder `away` and without PYTHONPATH."""
    def __init__(self, away):
        self.away, self.processes = away, {}
        os.makedirs(away)
        self.start("scheduler", "scheduler", "--host", "127.0.0.1", "--port", "0")
        self.address = self.wait_for("scheduler", r"Scheduler at: +(tcp:\S+)")
        self.start_worker()

    def start(self, name, *arguments):
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
        program, *arguments = arguments
        command = [sys.executable, "-m", f"distributed.cli.dask_{program}", *arguments, "--no-dashboard"]
        with open(f"{self.away}/{name}.log", "ab") as log:
            self.processes[name] = subprocess.Popen(command, cwd=self.away, env=environment, stdout=log,
                                                    stderr=log)

    def wait_for(self, name, pattern):
        """What the group of `pattern` is in the log of a process, as soon as it is there."""
        log = pathlib.Path(f"{self.away}/{name}.log")
        wait_until(lambda: re.search(pattern, log.read_text()))
        return re.search(pattern, log.read_text())[1]

    def start_worker(self, name="worker"):
        """It is there when it has said so."""
        pathlib.Path(f"{self.away}/{name}.log").unlink(missing_ok=True)
        self.start(name, "worker", self.address, "--nthreads", "2", "--no-nanny")
        self.wait_for(name, "Registered (to)")

    def start_scheduler(self):
        """Again, at the same address."""
        host, port = self.address.removeprefix("tcp://").split(":")
        self.start("scheduler", "scheduler", "--host", host, "--port", port)

    def kill(self, name):
        self.processes[name].kill()
        self.processes[name].wait()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for name in self.processes:
            self.kill(name)


def jobs_running():
    """Process ids of python -m corpus.jobs, whoever started them, that work in this folder."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError), open(f"/proc/{pid}/cmdline", "rb") as f:
            if b"\0-m\0corpus.jobs" in f.read() and os.path.samefile(f"/proc/{pid}/cwd", "."):
                found.append(int(pid))
    return found


def strike(dask, victim, command):
    """kill -9 of a job, the worker, the scheduler or the command, and start again what runs for all. Returns
    whether there was something to kill."""
    if victim == "job":
        running = jobs_running()
        for pid in running[:1]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return bool(running)
    if victim == "command":
        if command.poll() is None:
            command.kill()
        return command.wait() == -signal.SIGKILL
    dask.kill(victim)
    if victim == "scheduler":
        dask.kill("worker")
        dask.start_scheduler()
    dask.start_worker()
    return True


def result(name):
    """What prepare.py made, without the two files that tell its version of the program."""
    found = tree(f"data/{name}")
    return {file: found[file] for file in found if file not in ("manifest.json", "DATA_CARD.md")}
