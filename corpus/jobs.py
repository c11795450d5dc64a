"""Jobs over the parts of a corpus, done by several processes. A kill costs only the parts that are in work.

A job writes its files under temporary names. When they are complete it renames them and writes its marker
BASE.json. The marker holds what the job counted (its facts), the names of its files, and a key: a hash of all
that the result depends on. A job whose marker has the right key is done and is not repeated.
"""
import concurrent.futures
import contextlib
import glob
import hashlib
import json
import multiprocessing
import os
import signal
import tempfile
import threading
from typing import NamedTuple

import numpy as np

import config

SMALL = 20_000_000      # bytes below which starting processes costs more than it saves


class Job(NamedTuple):
    base: str           # its files are BASE.NAME
    key: str
    size: int           # bytes that it goes through
    arguments: tuple    # plain values: they travel to another process


def hash_of(*facts):
    """A key: a hash of plain values and of other keys."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:24]


def stamp(path):
    """What tells that a file, or one in a folder, has changed: names, sizes, times. None without a path."""
    if not path:
        return None
    files = [path] if os.path.isfile(path) else sorted(glob.glob(f"{path}/**/*.*", recursive=True))
    return [(f, os.path.exists(f) and (os.path.getsize(f), os.stat(f).st_mtime_ns)) for f in files]


class Part:
    """What one job writes. The job sets `facts`, and calls tick(n) with the bytes it has gone through since
    the last call."""
    def __init__(self, base, key, tick=lambda n: None):
        self.base, self.key, self.tick = base, key, tick
        self.files, self.facts = {}, {}
        os.makedirs(os.path.dirname(base), exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            os.remove(f"{base}.json")           # an old marker must not stand beside new files

    def file(self, name):
        """The file BASE.NAME, open for writing."""
        if name not in self.files:
            self.files[name] = open(f"{self.base}.{name}.{os.getpid()}", "wb")
        return self.files[name]

    def add_line(self, name, value):
        """Add a JSON line to BASE.NAME."""
        self.file(name).write(json.dumps(value, ensure_ascii=False).encode() + b"\n")

    def add_numbers(self, name, values, dtype):
        """Add numbers to BASE.NAME. Without a type NumPy makes floats of a list of large integers."""
        self.file(name).write(np.asarray(values, dtype).tobytes())

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        for name, f in self.files.items():
            f.close()
            if kind is None:
                os.replace(f.name, f"{self.base}.{name}")
            else:
                os.remove(f.name)
        if kind is None:
            marker = {"key": self.key, "files": sorted(self.files), "facts": self.facts}
            config.write_json(f"{self.base}.json", marker)


def facts(base):
    """What the job counted."""
    return config.read_json(f"{base}.json")["facts"]


def done(base, key):
    """Whether a job with this key has left all that it wrote."""
    try:
        marker = config.read_json(f"{base}.json")
    except (FileNotFoundError, ValueError):         # a full disk can leave half of one
        return False
    return marker["key"] == key and all(os.path.exists(f"{base}.{name}") for name in marker["files"])


def path(base, name):
    """The file BASE.NAME that the last job wrote, or None. Files of an earlier job may still lie about."""
    return f"{base}.{name}" if name in config.read_json(f"{base}.json")["files"] else None


def numbers(base, name, dtype):
    """The numbers that a job wrote to BASE.NAME; an empty array if it wrote none."""
    file = path(base, name)
    return np.memmap(file, dtype, "r") if file and os.path.getsize(file) else np.empty(0, dtype)


def run_jobs(what, function, jobs, workers=None):
    """function(part, *arguments) for each Job that is not done. `function` stands at the top of a module.

    workers: how many processes; None: one per core, but none beside this one for little text; 0: none.
    """
    jobs = [job for job in jobs if not done(job.base, job.key)]
    if not jobs:
        return
    total = sum(job.size for job in jobs)
    print(what, flush=True)
    tick = config.progress(f"{what}, bytes", total)
    if workers == 0 or workers is None and (total < SMALL or len(jobs) < 2):
        for job in jobs:
            run_job(function, job, tick)
    else:
        run_in_processes(what, function, jobs, tick, min(workers or os.cpu_count(), len(jobs)))


def run_job(function, job, tick):
    with Part(job.base, job.key, tick) as part:
        function(part, *job.arguments)


def run_in_processes(what, function, jobs, tick, workers):
    """Each job counts its bytes in its own place of a small file, which this process reads."""
    context, counted = multiprocessing.get_context("spawn"), 0
    pool = concurrent.futures.ProcessPoolExecutor(workers, context, start_worker)
    with tempfile.NamedTemporaryFile() as file:
        counts = np.memmap(file.name, np.int64, "w+", shape=len(jobs))
        try:
            waiting = {pool.submit(run_in_worker, function, job, i, file.name) for i, job in enumerate(jobs)}
            while waiting:
                finished, waiting = concurrent.futures.wait(waiting, 1, concurrent.futures.FIRST_COMPLETED)
                for future in finished:
                    future.result()
                now = int(counts.sum())
                tick(now - counted)
                counted = now
        except concurrent.futures.process.BrokenProcessPool as e:
            raise ValueError(f"a worker died while {what}: killed, or out of memory; the same command goes "
                             "on from the parts that are done; fewer --workers need less memory") from e
        except BaseException:
            for worker in multiprocessing.active_children():
                worker.terminate()
            raise
        finally:
            pool.shutdown(cancel_futures=True)


def run_in_worker(function, job, number, counts_file):
    counts = np.memmap(counts_file, np.int64, "r+")

    def tick(n):
        counts[number] += n
    run_job(function, job, tick)


def start_worker():
    """Leave Ctrl-C to the parent process, and end when that has died."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch():
        multiprocessing.parent_process().join()
        os._exit(1)
    threading.Thread(target=watch, daemon=True).start()
