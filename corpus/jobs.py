"""Jobs over the parts of a corpus, done by processes here or on a cluster. A kill costs what is in work.

    python -m corpus.jobs < request.json        # some jobs, as run_jobs() starts them

A job writes to a folder of its own, BASE. Last comes its marker BASE/done.json: what it counted (its facts),
the names of its files, and a key, a hash of all that the result depends on. A job whose marker has the right
key is done and is not repeated. The markers alone say what is done: who runs the jobs need not remember.

A process does some jobs and ends. So the next one, on any machine, runs the program as it is then. A job may
run twice at the same time: when the command is killed, jobs on other machines go on beside those of the next
command. So a job writes to a folder with a random name, which becomes BASE when the marker is in it.
"""
import concurrent.futures
import contextlib
import glob
import hashlib
import importlib
import itertools
import json
import logging
import os
import platform
import secrets
import selectors
import shutil
import socket
import subprocess
import sys
import threading
import time
from typing import NamedTuple

import numpy as np

import config

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
COMMAND = [sys.executable, "-m", "corpus.jobs"]
SMALL = 4_000_000       # bytes below which starting a process costs more than it saves
ATTEMPTS = 3            # times that a job is tried if its process is killed
PATIENCE = 30           # seconds until a scheduler or a worker must have answered
LATE = 60               # seconds after which a shared file system shows what another machine has written


class Job(NamedTuple):
    base: str           # its folder
    key: str
    size: int           # bytes that it goes through
    function: str       # called with a Part and the arguments: "corpus.stages.perform"
    arguments: list     # plain values: they travel as JSON


def hash_of(*facts):
    """A key: a hash of plain values and of other keys."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:24]


def stamps(paths):
    """What tells that files, or those in folders, have changed: names, sizes, times."""
    files = []
    for path in paths:
        files += [path] if os.path.isfile(path) else sorted(glob.glob(f"{path}/**/*.*", recursive=True))
    return [(file, os.path.getsize(file), os.stat(file).st_mtime_ns) for file in files]


def program(rules):
    """A hash of the program and its rules: who edits them gets new results, not leftovers of old ones."""
    files = []
    for pattern in ("prepare.py", "tokenizer.py", "vocabulary.py", "corpus/*.py",
                    f"{os.path.abspath(rules)}/**/*.*"):
        files += sorted(glob.glob(os.path.join(ROOT, pattern), recursive=True))
    return hash_of([config.sha256(file) for file in files])


class Part:
    """What one job writes: files in a new folder, which finish() makes the folder BASE. The job sets `facts`,
    and calls tick(n) with the bytes it has gone through since the last call."""
    def __init__(self, base, tick=lambda n: None):
        self.base, self.tick = base, tick
        self.files, self.facts = {}, {}
        self.folder = f"{os.path.dirname(base)}/.{secrets.token_hex(8)}"
        os.mkdir(self.folder)           # its parent is there, unless the command has gone on without this job

    def file(self, name):
        """The file BASE/NAME, open for writing."""
        if name not in self.files:
            self.files[name] = open(f"{self.folder}/{name}", "wb")
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
        marker = {"key": key, "files": sorted(os.listdir(self.folder)), "facts": self.facts}
        config.write_json(f"{self.folder}/done.json", marker)
        try:
            os.rename(self.folder, self.base)
        except OSError:
            if not done(self.base, key):            # another process has done the same job
                raise
            shutil.rmtree(self.folder, ignore_errors=True)


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


def numbers(base, name, dtype, first=0, end=None):
    """The numbers first:end that a job wrote to BASE/NAME; an empty array if it wrote none."""
    file, size = f"{base}/{name}", np.dtype(dtype).itemsize
    if not os.path.exists(file):
        if name in config.read_json(f"{base}/done.json")["files"]:
            raise FileNotFoundError(f"{file} is not there, but its job is done; is the disk shared by all?")
        return np.empty(0, dtype)
    return np.fromfile(file, dtype, -1 if end is None else end - first, offset=first * size)


def function_named(name):
    """The function that is named as in "corpus.stages.perform"."""
    module, function = name.rsplit(".", 1)
    return getattr(importlib.import_module(module), function)


def run_job(job, tick):
    """Do a job in this process."""
    part = Part(job.base, tick)
    function_named(job.function)(part, *job.arguments)
    part.finish(job.key)


def not_done(jobs):
    return [job for job in jobs if not done(job.base, job.key)]


def run_jobs(what, jobs, workers=None, cluster=None, same=None, quiet=False):
    """Do each Job that is not done. A process may be killed: then its jobs are begun again.
    workers: how many processes; None: one per core; for little text none beside this one.
    cluster: instead the address of a dask scheduler. same: [folder of rules, program() of it], for the
    processes to compare with what they see. quiet: do not say `what`."""
    jobs = not_done(jobs)
    if not jobs:
        return
    if not quiet:
        print(what, flush=True)
    total = sum(job.size for job in jobs)
    tick = config.progress(f"{what}, bytes", total)
    here = total < SMALL or len(jobs) < 2 or workers == 1
    for _ in range(ATTEMPTS):
        clear(jobs)
        if cluster:
            run_on_cluster(what, jobs, tick, cluster, same)
        elif here:
            for job in jobs:
                run_job(job, tick)
        else:
            run_in_processes(what, jobs, tick, workers or os.cpu_count(), same)
        jobs = not_done(jobs)
        if not jobs:
            return
    raise ValueError(f"processes were killed {ATTEMPTS} times while {what}, for want of memory perhaps: "
                     "fewer workers need less; the same command goes on")


def in_batches(jobs, workers):
    """Lists of jobs, each for one process: one job of SMALL bytes or more, or several smaller ones."""
    most = max(1, len(jobs) // (2 * workers))
    batches, size = [], 0
    for job in jobs:
        if not batches or size + job.size > SMALL or len(batches[-1]) >= most:
            batches.append([])
            size = 0
        batches[-1].append(job)
        size += job.size
    return batches


def clear(jobs):
    """Make way for jobs: what is at their places is damaged, or was left behind by a kill."""
    for folder in {os.path.dirname(job.base) for job in jobs}:
        os.makedirs(folder, exist_ok=True)
        for left in glob.glob(f"{folder}/.*"):
            shutil.rmtree(left, ignore_errors=True)
    for job in jobs:
        shutil.rmtree(job.base, ignore_errors=True)


# ---- jobs in a process of their own ----

def request_of(jobs, same):
    """What the process reads from its standard input."""
    return json.dumps({"folder": os.getcwd(), "jobs": jobs, "same": same})


def check_end(what, code, lines):
    """After the end of a process: lines is what it printed, numbers of bytes and at the end an error."""
    error = [line for line in lines if not line.isdigit()]
    if code == 1 and error:
        raise ValueError(error[-1])
    if code > 0:
        raise RuntimeError(f"a process failed while {what}; the lines above say why")
    if code < 0:
        print(f"a process was killed while {what}; a job is tried {ATTEMPTS} times", flush=True)


def run_in_processes(what, jobs, tick, workers, same):
    """At most `workers` processes at a time. This one waits for what they print."""
    waiting = in_batches(jobs, workers)[::-1]
    running = selectors.DefaultSelector()
    try:
        while waiting or running.get_map():
            while waiting and len(running.get_map()) < workers:
                # a session of its own: Ctrl-C is for this process
                child = subprocess.Popen(COMMAND, bufsize=0, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                         cwd=ROOT, start_new_session=True)
                running.register(child.stdout, selectors.EVENT_READ, (child, []))
                with contextlib.suppress(BrokenPipeError), child.stdin:
                    child.stdin.write(request_of(waiting.pop(), same).encode())
            for key, _ in running.select():
                child, lines = key.data
                line = key.fileobj.readline().decode().strip()
                if line.isdigit():
                    tick(int(line))
                if line:
                    lines.append(line)
                else:                               # the end of its output
                    running.unregister(child.stdout)
                    check_end(what, child.wait(), lines)
    finally:
        for key in [*running.get_map().values()]:
            key.data[0].kill()
            key.data[0].wait()


def knock(host, port):
    """Wait until somebody listens there. A dask client that finds nobody stays open until Python's garbage
    collector closes it, in whatever thread that happens: none is made before."""
    end = time.monotonic() + PATIENCE
    while True:
        try:
            socket.create_connection((host, port), PATIENCE).close()
            return
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.1)


def run_on_cluster(what, jobs, tick, address, same):
    """dask (dask.org) starts the processes on its workers. A worker imports nothing of ours: it may live for
    days and still starts the program as it is now. When a worker dies, dask gives its work to another one."""
    try:
        import distributed
    except ImportError:
        raise ValueError("--cluster needs dask: pip install distributed") from None
    logging.getLogger("distributed.client").setLevel(logging.CRITICAL)      # one line says it too
    try:
        knock(*distributed.comm.get_address_host_port(address))
        client = distributed.Client(address, timeout=PATIENCE)
    except ValueError as e:
        raise ValueError(f"--cluster={address}: {e}; it is written tcp://HOST:PORT") from e
    except OSError as e:
        raise ValueError(f"no scheduler answers at {address}; docs/corpus.md says how to start one") from e
    with client:
        asked = time.monotonic()
        futures = {}
        for batch in in_batches(jobs, max(1, sum(client.nthreads().values()))):
            future = client.submit(subprocess.run, COMMAND, input=request_of(batch, same), cwd=ROOT,
                                   text=True, capture_output=True, pure=False)
            futures[future] = batch
        ended = distributed.as_completed(futures)
        try:
            while not ended.is_empty():
                if ended.has_ready():
                    future = next(ended)
                    finish_remote(what, futures.pop(future), future.result(), tick)
                    asked = time.monotonic()
                    continue
                time.sleep(0.05)
                if time.monotonic() > asked + PATIENCE:
                    asked = time.monotonic()
                    if not client.nthreads():
                        raise ValueError(f"no worker is connected to {address} while {what}; start some, "
                                         "and give the same command again")
        except distributed.KilledWorker as e:
            raise ValueError(f"while {what}, workers died one after another at the same job: out of memory? "
                             "Give a worker fewer threads; the same command goes on") from e
        except concurrent.futures.CancelledError as e:
            raise ValueError(f"the scheduler at {address} was lost while {what}; start it again, and give "
                             "the same command again") from e


def finish_remote(what, jobs, process, tick):
    """After the end of a process on another machine: wait for its markers. A shared file system (NFS) may
    show them late; listing their folder makes it look again."""
    lines = process.stdout.splitlines()
    sys.stderr.write(process.stderr)
    check_end(what, process.returncode, lines)
    tick(sum(int(line) for line in lines if line.isdigit()))
    if process.returncode != 0:                     # it was killed
        return
    for _ in range(LATE):
        missing = not_done(jobs)
        if not missing:
            return
        time.sleep(1)
        for job in missing:
            os.listdir(os.path.dirname(job.base))
    raise ValueError(f"a worker has done {missing[0].base}, but it is not here: the workers must see this "
                     "disk")


def end_with_parent():
    """End this process when its parent process has ended."""
    parent = os.getppid()

    def watch():
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)
    threading.Thread(target=watch, daemon=True).start()


def main():
    config.Parser(__doc__, prog="python -m corpus.jobs").parse_args()
    end_with_parent()
    request = json.load(sys.stdin)
    os.chdir(request["folder"])
    same = request["same"]
    pipe = sys.stdout
    went = said = 0

    def tick(n):
        nonlocal went, said
        went += n
        if time.monotonic() > said + 1:
            print(went, file=pipe, flush=True)
            went, said = 0, time.monotonic()
    try:
        with contextlib.redirect_stdout(sys.stderr):
            if same and program(same[0]) != same[1]:
                raise ValueError(f"the program or its rules on {platform.node()} differ from the command's")
            for job in itertools.starmap(Job, request["jobs"]):
                if not done(job.base, job.key):
                    run_job(job, tick)
        print(went)
    except (ValueError, OSError) as e:
        print(" ".join(str(e).split()))
        sys.exit(1)


if __name__ == "__main__":
    main()
