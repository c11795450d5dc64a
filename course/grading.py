"""What a student hands in to points.

    results = grade("submission", get_assignment(3))

Of the submission only the files of the assignment are read. They go into a fresh copy of this repository, so
no other file of a student takes part: no conftest.py, no torch.py, no test. runner.py runs the tests there.
"""
import ast
import dataclasses
import hashlib
import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile

from course import cut
from course.assignments import HERE, read_test_file
from course.runner import ENDED, ERROR, LATE, MISSING, PASSED, WRONG

MEMORY = 2 ** 31        # bytes that a test may take more than the libraries do
STARTING = 120          # seconds until the libraries are imported, on a busy machine
MOST = 1_000_000        # bytes of a file that is handed in
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")


@dataclasses.dataclass
class Result:
    test: str
    verdict: str
    points: float
    most: float
    sentence: str           # what helps, where points were lost


def handed_in(folder, path):
    """Where a submission has file `path`: in its place, or beside the others. None: nowhere."""
    for name in (path, os.path.basename(path)):
        if os.path.isfile(f"{folder}/{name}"):
            return f"{folder}/{name}"


def build_tree(folder, assignment, tree, root=cut.ROOT):
    """A handout at `tree` with the files of a submission. Returns the names of those that are missing."""
    cut.write_handout([assignment], tree, root)
    missing = []
    for path in assignment.files():
        own = handed_in(folder, path)
        if own is None:
            missing.append(path)
            continue
        if os.path.getsize(own) > MOST:
            raise ValueError(f"{own} has more than {MOST:,} bytes: it is not a source file")
        shutil.copyfile(own, f"{tree}/{path}")
    return missing


def fingerprint(*folders):
    """A hash of the files in folders, to see whether somebody wrote there."""
    h = hashlib.sha256()
    for folder in folders:
        for at, _, names in sorted(os.walk(folder)):
            if not at.endswith("__pycache__"):
                for name in sorted(names):
                    with open(os.path.join(at, name), "rb") as f:
                        h.update(f"{at} {name} ".encode() + f.read())
    return h.hexdigest()


def run(job, tests, seconds):
    """{(copy, file, test): [verdict, what else]} of what one start of the runner says about `tests`."""
    environment = {**os.environ, **dict.fromkeys(THREADS, "1")}
    environment["OBJC_DISABLE_INITIALIZE_FORK_SAFETY"] = "YES"         # macOS: fork comes after imports
    program = subprocess.Popen([sys.executable, "-I", f"{HERE}/runner.py"], stdin=subprocess.PIPE, text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment)
    with program:
        try:
            out, errors = program.communicate(json.dumps({**job, "tests": tests}), timeout=seconds)
        except subprocess.TimeoutExpired:
            program.kill()
            out, errors = program.communicate()
    found = {}
    for line in out.splitlines():
        try:
            token, tree, file, name, *verdict = json.loads(line)
        except (ValueError, TypeError):
            continue
        if token == job["token"]:
            found[tree, file, name] = verdict
    if not found and "Error" in errors:
        why = errors.strip().splitlines()[-1]
        if why.startswith("ModuleNotFoundError"):
            why += "; `make .venv/ready` installs it, then start this command with .venv/bin/python"
        raise OSError(f"the tests cannot be run here: {why}")
    return found


def run_tests(tests, scratch, nobody=False):
    """{test: [verdict, what else]} for each of `tests`, a list of (copy of the repository, assignment, names
    of tests that share a process)."""
    sources = {str(a.number): read_test_file(a.number) for _, a, _ in tests}
    job = {"sources": sources, "token": secrets.token_hex(16), "memory": MEMORY, "nobody": nobody,
           "scratch": os.path.realpath(scratch)}
    asked = [(os.path.realpath(tree), str(a.number), list(names), a.seconds * len(names))
             for tree, a, names in tests]
    if hasattr(os, "fork"):
        found = run(job, asked, STARTING + sum(one[3] for one in asked))
    else:
        found = {}
        for one in asked:
            late = {(*one[:2], name): [LATE, ""] for name in one[2]}
            found |= run(job, [one], STARTING + one[3]) or late
    return [{name: found.get((tree, file, name), [ENDED, ""]) for name in names}
            for tree, file, names, _ in asked]


def sentence(verdict, more, hint, seconds):
    """What a student reads. It says where to look, and not what is right."""
    return {
        PASSED: "",
        WRONG: hint,
        MISSING: f"Not written yet: {more}.",
        ERROR: f"{more}. {hint}",
        ENDED: "Your code ended the program: an exit, or more memory than there is.",
        LATE: f"Not done after {seconds:g} seconds. Does each loop end?",
    }[verdict]


def hints(number):
    """{test: its docstring in one line}"""
    module = ast.parse(read_test_file(number))
    tests = [node for node in module.body if getattr(node, "name", "").startswith("test_")]
    return {node.name.removeprefix("test_"): " ".join(ast.get_docstring(node).split()) for node in tests}


def check_graded_by_tests(assignment):
    if not assignment.tests:
        raise ValueError(f"assignment {assignment.number} is graded by people: its page has the points")


def grade(folder, assignment, nobody=False):
    """(list of Results, names of the files that are missing)"""
    check_graded_by_tests(assignment)
    if not os.path.isdir(folder):
        raise ValueError(f"{folder} is no folder; give the one with {', '.join(assignment.files())}")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
        os.chmod(scratch, 0o755)
        tree = f"{scratch}/tree"
        missing = build_tree(folder, assignment, tree)
        before = fingerprint(tree, HERE)
        alone = run_tests([(tree, assignment, [name]) for name in assignment.tests], scratch, nobody)
        intact = fingerprint(tree, HERE) == before
    results, hint = [], hints(assignment.number)
    for (name, (most, _)), found in zip(assignment.tests.items(), alone):
        verdict, more = found[name]
        said = sentence(verdict, more, hint[name], assignment.seconds)
        if not intact:
            verdict, said = ENDED, "Your code wrote into the files of the grader; nothing counts."
        results.append(Result(name, verdict, most if verdict == PASSED else 0, most, said))
    return results, missing


def as_gradescope(results, missing):
    """Gradescope's results.json. A student sees the sentences; what their code printed is nowhere."""
    tests = [{"name": r.test.replace("_", " "), "score": r.points, "max_score": r.most, "output": r.sentence,
              "status": "passed" if r.verdict == PASSED else "failed", "visibility": "visible"}
             for r in results]
    return {"score": sum(r.points for r in results), "stdout_visibility": "hidden", "tests": tests,
            "output": f"Not handed in: {', '.join(missing)}" if missing else "All files are there."}
