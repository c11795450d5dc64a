"""Runs graded tests on copies of the repository that have a student's files in them. grading.py starts it.

It imports the libraries once and then makes a process for each test (fork). Only that process imports the
student's files, so an endless loop, an exit, a flood or a hog ends with it. Where there is no fork the grader
starts this program once for each test.

It reads a job from standard input, one JSON object, and writes a line for each test to standard output:
[token, copy, file, test, verdict, what else]. The token is a secret between the grader and this program:
what a student's code prints is no verdict.
"""
import contextlib
import json
import os
import pathlib
import shutil
import signal
import sys
import tempfile
import time
import traceback

PASSED, WRONG, MISSING, ERROR, ENDED, LATE = "passed", "wrong", "missing", "error", "ended", "late"
NOBODY = 65534          # the user that a student's code gets where the grader runs as root
MOST_WRITTEN = 2 ** 26  # bytes of a file that a test may write


def import_libraries(source):
    """What the tests use, so that each process need not wait for it. Nothing here may be a student's."""
    import numpy  # noqa: F401
    import safetensors.torch  # noqa: F401
    import sentencepiece  # noqa: F401
    import tiktoken  # noqa: F401
    import torch
    torch.set_num_threads(1)
    if "import train" in source or "import checkpoint" in source:
        import torch.distributed.checkpoint  # checkpoint.py needs it, and it takes seconds
    if "import law" in source:
        with contextlib.suppress(ImportError):
            import scipy.optimize  # noqa: F401


def place_in(tree, e):
    """(file, line) of the last line in the student's copy that an exception came through, or None."""
    found = None
    for frame in traceback.extract_tb(e.__traceback__):
        if os.path.realpath(frame.filename).startswith(tree + os.sep):
            found = os.path.relpath(os.path.realpath(frame.filename), tree), frame.lineno
    if isinstance(e, SyntaxError) and e.filename:
        found = os.path.basename(e.filename), e.lineno
    return found


def run_test(tree, code, name):
    """(verdict, what else) of one test, run here."""
    sys.path.insert(0, tree)
    try:
        module = {"__name__": "graded"}
        exec(code, module)
        module[f"test_{name}"]()
    except NotImplementedError as e:
        return MISSING, str(e)[:200]
    except AssertionError as e:
        at = place_in(tree, e)              # an assert of the student's own is an error of their code
        return (ERROR, f"AssertionError: {e} ({at[0]}, line {at[1]})"[:300]) if at else (WRONG, "")
    except BaseException as e:
        at = place_in(tree, e)
        where = f" ({at[0]}, line {at[1]})" if at else ""
        said = e.msg if isinstance(e, SyntaxError) else e
        return ERROR, f"{type(e).__name__}: {' '.join(str(said).split())[:200]}{where}"
    return PASSED, ""


def silence():
    """Send what this process prints to nowhere."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(nowhere, number)


def memory_now():
    """Bytes of addresses in use; 0 where nobody says."""
    with contextlib.suppress(OSError):
        with open("/proc/self/statm") as f:
            return int(f.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    return 0


def limit(job, seconds):
    """Bounds on memory, processor time and files of this process, where the system has them."""
    try:
        import resource
    except ImportError:
        return
    bounds = {"RLIMIT_CPU": int(seconds) + 5, "RLIMIT_FSIZE": MOST_WRITTEN, "RLIMIT_CORE": 0}
    if now := memory_now():
        bounds["RLIMIT_AS"] = now + job["memory"]
    for kind, most in bounds.items():
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(getattr(resource, kind), (most, most))
    if job["nobody"]:
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)


def in_a_process(job, tree, code, names, seconds):
    """[verdict, what else] of each of these tests, run in a process that is ended after `seconds`. What a
    student handed in is run with one test in a process."""
    folder = tempfile.mkdtemp(dir=job["scratch"])
    os.chmod(folder, 0o777)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setsid()                             # what it starts is ended with it
            silence()
            os.closerange(3, writing)               # or who outlives this process keeps the grader waiting
            os.closerange(writing + 1, 256)
            os.chdir(folder)
            limit(job, seconds)
            verdicts = [run_test(tree, code, name) for name in names]
            os.write(writing, json.dumps([job["token"], *verdicts]).encode())
        finally:
            os._exit(0)
    os.close(writing)
    until = time.monotonic() + seconds
    while os.waitpid(child, os.WNOHANG) == (0, 0) and time.monotonic() < until:
        time.sleep(0.005)
    late = time.monotonic() >= until
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child, signal.SIGKILL)
    with contextlib.suppress(ChildProcessError):
        os.waitpid(child, 0)
    os.set_blocking(reading, False)
    said = b""
    with contextlib.suppress(BlockingIOError):
        said = os.read(reading, 2 ** 16)
    os.close(reading)
    shutil.rmtree(folder, ignore_errors=True)
    with contextlib.suppress(ValueError, TypeError, RecursionError):        # a student's code may write here
        token, *verdicts = json.loads(said)
        if token == job["token"]:
            return verdicts
    return [[LATE if late else ENDED, ""]] * len(names)


def check_open_to_all(*folders):
    """Stop if another user may not read these folders: PyTorch imports more while it runs."""
    for folder in map(pathlib.Path, folders):
        for at in (folder, *folder.parents):
            if at.stat().st_mode & 0o005 != 0o005:
                raise PermissionError(f"--nobody: the user nobody cannot read {at}, where Python is")


def main():
    job = json.load(sys.stdin)
    if job["nobody"]:
        check_open_to_all(os.path.dirname(os.__file__), sys.prefix, job["scratch"])
    out = os.fdopen(os.dup(1), "w")
    os.set_inheritable(out.fileno(), False)
    sys.dont_write_bytecode = True
    import_libraries("\n".join(job["sources"].values()))
    codes = {file: compile(source, file, "exec") for file, source in job["sources"].items()}
    for tree, file, names, seconds in job["tests"]:
        if hasattr(os, "fork"):
            verdicts = in_a_process(job, tree, codes[file], names, seconds)
        else:
            silence()
            os.chdir(job["scratch"])
            verdicts = [run_test(tree, codes[file], name) for name in names]
        for name, verdict in zip(names, verdicts):
            out.write(json.dumps([job["token"], tree, file, name, *verdict]) + "\n")
        out.flush()


if __name__ == "__main__":
    main()
