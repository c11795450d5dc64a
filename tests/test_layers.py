"""The house rules: who may import whom, what an import may cost, how long lines, functions and files may
be."""
import ast
import glob
import os
import subprocess
import sys

import pytest
from conftest import ROOT

CORE = ["config", "model", "vocabulary", "tokenizer", "data", "lock", "parallel", "checkpoint", "train",
        "generate", "sample"]
COMMANDS = ["prepare", "evaluate", "plan", "convert"]
FOLDERS = ["corpus", "evaluation", "planning", "hub", "fast"]
ON_TOP = "course"       # imports anything; nothing imports it, and it can be deleted
ACROSS = {("hub", "corpus.card"), ("planning", "evaluation"), ("evaluation", "corpus.stories")}


def files():
    """Every Python file of the program, by its dotted name."""
    found = {}
    for pattern in ("*.py", *(f"{folder}/*.py" for folder in (*FOLDERS, ON_TOP))):
        for path in glob.glob(f"{ROOT}/{pattern}"):
            found[os.path.relpath(path, ROOT).removesuffix(".py").replace("/", ".")] = path
    return found


FILES = files()


def imports(path):
    """What a file imports of ours, also inside functions, but not under `if __name__ == "__main__":`."""
    with open(path, encoding="utf-8") as f:
        tree = ast.parse(f.read())
    main = [node for node in tree.body if isinstance(node, ast.If) and "__main__" in ast.dump(node.test)]
    inside = {id(child) for node in main for child in ast.walk(node)}
    names = set()
    for node in ast.walk(tree):
        if id(node) in inside:
            continue
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                names.add(whole if whole in FILES else node.module)
    return {name for name in names if name in FILES}


def allowed(name, other):
    """Whether file `name` may import file `other`."""
    if ON_TOP in (name.split(".")[0], other.split(".")[0]):
        return name.startswith(f"{ON_TOP}.")
    if other in CORE or other.startswith("fast."):          # the equations' fast forms belong to the core
        return True
    if name in CORE or name.startswith("fast.") or other in COMMANDS:
        return False
    folder, theirs = name.split(".")[0], other.split(".")[0]
    if name in COMMANDS or folder == theirs:
        return True
    return (folder, theirs) in ACROSS or (folder, other) in ACROSS


@pytest.mark.parametrize("name", sorted(FILES))
def test_a_file_imports_its_own_layer_and_below(name):
    wrong = {other for other in imports(FILES[name]) if not allowed(name, other)}
    assert not wrong, f"{name} must not import {', '.join(wrong)}"


def test_the_root_has_fifteen_files_and_imports_make_no_circle():
    assert sorted(name for name in FILES if "." not in name) == sorted(CORE + COMMANDS)
    graph, done = {name: imports(path) for name, path in FILES.items()}, set()

    def visit(name, way):
        assert name not in way, f"a circle: {' -> '.join([*way, name])}"
        if name not in done:
            for other in graph[name]:
                visit(other, [*way, name])
            done.add(name)
    for name in graph:
        visit(name, [])


IMPORT = """
import sys
import {names}
ours = [m for m in sys.modules if m.split(".")[0] in ("corpus", "evaluation", "planning", "hub", "prepare")]
assert not ours, ours
assert "{names}" not in ("model", "data") or not {"torch.distributed.fsdp", "parallel"} & {*sys.modules}
"""


@pytest.mark.parametrize("names", ["model", "data", ", ".join(CORE)])
def test_importing_the_core_loads_the_core_only(names):
    program = IMPORT.replace("{names}", names)
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def sources():
    return {os.path.relpath(path, ROOT): open(path, encoding="utf-8").read()
            for folder in (".", *FOLDERS, ON_TOP, f"{ON_TOP}/tests", "configs", "configs/data", "tests",
                           "tools")
            for path in glob.glob(f"{ROOT}/{folder}/*.py")}


LONG = {}           # functions of more than 60 lines, and the reason
LISTS = {"course/wrong.py"}     # long, but one subject: an entry after the other


def test_sizes():
    """Bytes of files of at most 110 columns, and lines of functions."""
    for path, text in sources().items():
        wide = [n for n, line in enumerate(text.split("\n"), 1) if len(line) > 110]
        assert not wide, f"{path}: lines {wide} are wider than 110 columns"
        if not path.startswith(("tests", "tools")) and path not in LISTS:
            assert len(text.encode()) <= 20_000, f"{path} is past 20 KB: it has two subjects"
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef) and node.name not in LONG:
                lines = node.end_lineno - node.lineno + 1
                assert lines <= 60, f"{path}: {node.name} has {lines} lines"


KNOW_OF_PROCESSES = {
    "parallel.py", "checkpoint.py",
    "course/runner.py",         # imports what checkpoint.py needs, once for all processes that it makes
    "course/tests/test_7.py",   # starts two processes without a launcher
}


def test_nothing_is_pickled_and_few_files_know_of_processes():
    for path, text in sources().items():
        if path.startswith(("tests", "tools")):
            continue
        for node in ast.walk(ast.parse(text)):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            if isinstance(node, ast.ImportFrom):
                names = [node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)]
            assert "pickle" not in names, path
            if any(name.startswith("torch.distributed") for name in names):
                assert path in KNOW_OF_PROCESSES, path
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("torch.load", "torch.save"):
                assert "weights_only=True" in ast.unparse(node), path


def test_ruff_finds_nothing():
    """Columns, unused names, import order, complexity at most 15, no ambiguous names: pyproject.toml."""
    done = subprocess.run([sys.executable, "-m", "ruff", "check", "."], cwd=ROOT, capture_output=True,
                          text=True)
    assert done.returncode == 0, done.stdout


SCRIPTS = ["train", "prepare", "tokenizer", "sample", "plan", "data", "evaluate", "convert", "tools/kill",
           "tools/harness", "tools/bench_corpus", "tools/bench_tokenizer", "tools/bench_decode",
           "tools/bench_train", "tools/gpu", "tools/pictures"]


HELP = """
import contextlib, io, runpy, sys
for script in sys.argv[1:]:
    sys.argv, said = [script, "--help"], io.StringIO()
    with contextlib.redirect_stdout(said):
        try:
            runpy.run_path(script, run_name="__main__")
        except SystemExit as e:
            assert not e.code, (script, e.code)
    assert f"python {script}" in said.getvalue(), f"{script}: --help shows no example"
"""


def test_every_command_has_help_with_an_example():
    """All in one process: each imports PyTorch, which takes seconds."""
    command = [sys.executable, "-c", HELP, *(f"{script}.py" for script in SCRIPTS)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True,
                          env={**os.environ, "PYTHONPATH": ROOT})
    assert done.returncode == 0, done.stderr
