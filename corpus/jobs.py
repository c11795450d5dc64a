"""Jobs over the parts of a corpus, done by several processes. A kill costs only the parts that are in work.

A job writes to a folder of its own, BASE. Last comes its marker BASE/done.json: what it counted (its facts),
the names of its files, and a key, a hash of all that the result depends on. A job whose marker has the right
key is done and is not repeated.
"""
import concurrent.futures
import glob
import hashlib
import json
import multiprocessing
import os
import shutil
import signal
import tempfile
import threading
from typing import NamedTuple

import numpy as np

import config

SMALL = 20_000_000      # bytes below which starting processes costs more than it saves


class Job(NamedTuple):
    base: str           # its folder
    key: str
    size: int           # bytes that it goes through
    arguments: tuple    # plain values: they travel to another process


def hash_of(*facts):
    """A key: a hash of plain values and of other keys."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:24]


def stamps(paths):
    """What tells that files, or those in folders, have changed: names, sizes, times."""
    files = []
    for path in paths:
        files += [path] if os.path.isfile(path) else sorted(glob.glob(f"{path}/**/*.*", recursive=True))
    return [(file, os.path.getsize(file), os.stat(file).st_mtime_ns) for file in files]


class Part:
    """What one job writes: files in the folder BASE. The job sets `facts`, and calls tick(n) with the bytes
    it has gone through since the last call."""
    def __init__(self, base, tick=lambda n: None):
        self.base, self.tick = base, tick
        self.files, self.facts = {}, {}
        shutil.rmtree(base, ignore_errors=True)     # of another key, or of a job that was killed
        os.makedirs(base, exist_ok=True)

    def file(self, name):
        """The file BASE/NAME, open for writing."""
        if name not in self.files:
            self.files[name] = open(f"{self.base}/{name}", "wb")
        return self.files[name]

    def add_line(self, name, value):
        """Add a JSON line to BASE/NAME."""
        self.file(name).write(json.dumps(value, ensure_ascii=False).encode() + b"\n")

    def add_numbers(self, name, values, dtype):
        """Add numbers to BASE/NAME. Without a type NumPy makes floats of a list of large integers."""
        self.file(name).write(np.asarray(values, dtype).tobytes())

    def finish(self, key):
        for f in self.files.values():
            f.close()
        marker = {"key": key, "files": sorted(os.listdir(self.base)), "facts": self.facts}
        config.write_json(f"{self.base}/done.json", marker)


def facts(base):
    """What the job counted."""
    return config.read_json(f"{base}/done.json")["facts"]


def done(base, key):
    """Whether a job with this key has left all that it wrote."""
    try:
        marker = config.read_json(f"{base}/done.json")
    except (FileNotFoundError, ValueError):         # a crash of the machine can leave half of one
        return False
    return marker["key"] == key and all(os.path.exists(f"{base}/{name}") for name in marker["files"])


def numbers(base, name, dtype):
    """The numbers that a job wrote to BASE/NAME; an empty array if it wrote none."""
    file = f"{base}/{name}"
    there = os.path.exists(file) and os.path.getsize(file)
    return np.memmap(file, dtype, "r") if there else np.empty(0, dtype)


def run_jobs(what, function, jobs, workers=None):
    """function(part, *arguments) for each Job that is not done.
    workers: how many processes; None: one per core, but none beside this one for little text; 0: none."""
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
    part = Part(job.base, tick)
    function(part, *job.arguments)
    part.finish(job.key)


def run_in_processes(what, function, jobs, tick, workers):
    """Each job counts its bytes in its own place of a small file, which this process reads."""
    pool = concurrent.futures.ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), start_worker)
    counted = 0
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
                             "on; fewer --workers need less memory") from e
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
