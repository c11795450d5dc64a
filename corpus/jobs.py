"""Jobs over parts of a corpus, in several processes, that a kill at any moment costs only the parts in work.

A job writes its files under names of its own and renames them when they are complete; its marker, a small JSON file with what it counted,
comes last. The marker also holds a key, the hash of everything the job depends on: a job whose marker has the right key is not done again.
Read Part, then run(). What a job writes does not depend on who does it, so neither the number of workers nor a leftover worker of a killed command changes a byte.
"""
import concurrent.futures
import contextlib
import hashlib
import json
import multiprocessing
import os
import signal
import sys
import threading
import time

import config

SMALL = 20_000_000      # bytes below which starting processes costs more than it saves
counter = [0, 0]        # bytes and documents done in the present stage; shared memory where there are workers


def tick(size, documents=0):
    with counter.get_lock() if hasattr(counter, "get_lock") else contextlib.nullcontext():
        counter[0] += size
        counter[1] += documents


def key(*facts):
    """A hash of plain values and of other keys."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:24]


class Part:
    """The files BASE.NAME of one job: with Part(base, key) as p: p.open("jsonl") ...; p.facts = {...}."""
    def __init__(self, base, key):
        self.base, self.key, self.files, self.facts, self.beside = base, key, {}, {}, []       # beside: files of other names that it writes
        os.makedirs(os.path.dirname(base), exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            os.remove(f"{base}.json")           # an old marker must not stand beside new files

    def open(self, name):
        if name not in self.files:
            self.files[name] = open(f"{self.base}.{name}.{os.getpid()}", "wb")
        return self.files[name]

    def write(self, name, value):
        """A JSON line. Returns the place it begins at."""
        f = self.open(name)
        at = f.tell()
        f.write(json.dumps(value, ensure_ascii=False).encode() + b"\n")
        return at

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
            config.write_json(f"{self.base}.json", {"key": self.key, "files": [f"{self.base}.{name}" for name in sorted(self.files)] + self.beside, "facts": self.facts})


def facts(base):
    return config.read_json(f"{base}.json")["facts"]


def done(base, key):
    """Whether a job with this key has left all it writes."""
    try:
        marker = config.read_json(f"{base}.json")
    except (FileNotFoundError, ValueError):         # a full disk can leave half of one
        return False
    return marker["key"] == key and all(map(os.path.exists, marker["files"]))


def path(base, name):
    """The file BASE.name that the last job wrote there, or None: one of an earlier job may still lie about."""
    return f"{base}.{name}" if f"{base}.{name}" in config.read_json(f"{base}.json")["files"] else None


def begin(shared, parent):
    """In a worker: count where the others count, and end when the parent has died."""
    global counter
    counter = shared

    def watch():
        while os.getppid() == parent:
            time.sleep(0.2)
        os._exit(1)
    threading.Thread(target=watch, daemon=True).start()


def progress(what, total, start):
    seconds, (size, documents) = time.time() - start, counter[:2]
    if size:
        print(f"{what} {min(1, size / total):4.0%}   {size / seconds / 1e6:.1f} MB/s   {documents / seconds:,.0f} documents/s   "
              f"{seconds * max(0, total / size - 1):.0f}s left", file=sys.stderr, flush=True)


def run(what, function, jobs, total, workers=None):
    """function(base, key, *arguments) for each job (base, key, *arguments) that is not done, with `workers` processes.

    None: as many as there are cores, and none for a small total (bytes); 0: none. `function` is a module's, its arguments plain."""
    global counter
    jobs = [job for job in jobs if not done(*job[:2])]
    start, total = time.time(), max(total, 1)
    if workers == 0 or workers is None and (total < SMALL or len(jobs) < 2) or not jobs:
        counter, shown = [0, 0], start
        for job in jobs:
            function(*job)
            if time.time() - shown > 5:
                shown = time.time()
                progress(what, total, start)
        return
    context = multiprocessing.get_context("spawn")
    counter, shown = context.Array("q", 2), start
    pool = concurrent.futures.ProcessPoolExecutor(min(workers or os.cpu_count(), len(jobs)), context, begin, (counter, os.getpid()))
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN) if threading.current_thread() is threading.main_thread() else None      # the workers inherit it: Ctrl-C is the parent's
    try:
        waiting = {pool.submit(function, *job) for job in jobs}
        if handler is not None:
            signal.signal(signal.SIGINT, handler)
        while waiting:
            finished, waiting = concurrent.futures.wait(waiting, 1, concurrent.futures.FIRST_COMPLETED)
            for future in finished:
                future.result()
            if time.time() - shown > 5:
                shown = time.time()
                progress(what, total, start)
    except concurrent.futures.process.BrokenProcessPool as e:
        raise ValueError(f"a worker died while {what}: killed, or out of memory; the same command goes on from the parts that are done; fewer --workers need less memory") from e
    except BaseException:
        for worker in multiprocessing.active_children():
            worker.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)
