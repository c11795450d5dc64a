import doctest
import glob
import os
import re
import signal
import subprocess
import sys
import time

import pytest
from conftest import ROOT


@pytest.mark.parametrize("how, requeued", [("signal", True), ("end", False), ("failure", False)])
def test_the_slurm_script_saves_before_the_limit_and_queues_itself_again(tmp_path, how, requeued):
    """With stand-ins: srun is a run that ends when it finds the file `stop`, scontrol writes down what it is
    asked."""
    bin = tmp_path / "bin"
    bin.mkdir()
    end = {"signal": "until [ -e runs/x/stop ]; do sleep 0.05; done", "end": "true", "failure": "exit 3"}[how]
    (bin / "srun").write_text(f'#!/bin/bash\necho "$@" > asked\n{end}\n')
    scontrol = '[ $1 = show ] && echo node0 && echo node1 || echo "$@" > requeued'
    (bin / "scontrol").write_text(f"#!/bin/bash\n{scontrol}\n")
    for f in bin.iterdir():
        f.chmod(0o755)
    (tmp_path / "runs/x").mkdir(parents=True)
    (tmp_path / "runs/x/stop").touch()          # left by the job before
    env = {**os.environ, "PATH": f"{bin}:{os.environ['PATH']}", "NAME": "x", "SLURM_NNODES": "5",
           "SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "node[0-4]"}
    p = subprocess.Popen(["bash", f"{ROOT}/docs/train.slurm", "configs/bloom.py", "size=7b1"], cwd=tmp_path,
                         env=env)
    if how == "signal":
        while not (tmp_path / "asked").exists():
            assert p.poll() is None
            time.sleep(0.02)
        p.send_signal(signal.SIGUSR1)
    assert p.wait(timeout=30) == (3 if how == "failure" else 0)
    assert (tmp_path / "requeued").exists() == requeued
    asked = (tmp_path / "asked").read_text()
    assert "--nnodes=4:5" in asked and "node0:29500" in asked
    assert asked.endswith("train.py configs/bloom.py size=7b1 run.name=x\n")


PAGES = ["README.md", *sorted(f"docs/{name}" for name in os.listdir(f"{ROOT}/docs") if name.endswith(".md"))]


def test_the_quick_blocks_of_every_page_run_as_printed():
    """The others take minutes: make docs-check."""
    command = [sys.executable, f"{ROOT}/tools/docs_check.py", *PAGES, "--quick"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") >= 3


@pytest.mark.parametrize("page", PAGES)
def test_commands_and_links_of_a_page_exist(page):
    with open(f"{ROOT}/{page}", encoding="utf-8") as f:
        text = f.read()
    for script in re.findall(r"\bpython ([\w/]+\.py)", text):
        assert os.path.exists(f"{ROOT}/{script}"), f"{page} names {script}"
    for link in re.findall(r"\]\(([^)#:]+)\)", text):
        assert os.path.exists(os.path.join(ROOT, os.path.dirname(page), link)), f"{page} links to {link}"


@pytest.mark.parametrize("page", PAGES)
def test_every_table_of_a_page_has_a_head(page):
    """An empty line inside a table ends it: the rows below would be printed as they stand."""
    with open(f"{ROOT}/{page}", encoding="utf-8") as f:
        text = re.sub(r"^```.*?^```$", "", f.read(), flags=re.M | re.S)
    for table in re.findall(r"(?:^\|.*\n)+", text, re.M):
        assert re.match(r"\|.*\n\|[-:| ]+\|\n", table), f"{page}: {table.splitlines()[0]}"


def letters_of(path):
    """The letters that the first lines of a Python file explain, after `Letters:`."""
    with open(path, encoding="utf-8") as f:
        legend = re.search(r"^Letters:(.*?)(?:\n\n|\"\"\")", f.read(), re.M | re.S)
    return re.findall(r"(?:^|   )([A-Za-z])(?= )", " " * 3 + legend[1].strip(), re.M) if legend else []


def test_the_glossary_has_the_letters_of_every_file():
    with open(f"{ROOT}/docs/glossary.md", encoding="utf-8") as f:
        cells = re.findall(r"^\| ([A-Za-z](?:, [A-Za-z])*) \|", f.read(), re.M)
    known, found = {letter for cell in cells for letter in cell.split(", ")}, set()
    for path in glob.glob(f"{ROOT}/*.py") + glob.glob(f"{ROOT}/*/*.py"):
        found |= set(letters_of(path))
    assert {"B", "T", "C", "H", "D", "V", "S", "R", "n"} <= found <= known, f"unknown: {found - known}"


def blocks_of(page, language):
    with open(f"{ROOT}/docs/{page}", encoding="utf-8") as f:
        return re.findall(rf"^```{language}\n(.*?)^```$", f.read(), re.M | re.S)


def test_the_lines_that_the_reading_quotes_are_in_the_program():
    blocks = blocks_of("reading.md", "python")
    assert len(blocks) > 9
    for block in blocks:
        place, *lines = block.splitlines()
        path, name = place.removeprefix("# ").split(", ")
        with open(f"{ROOT}/{path}", encoding="utf-8") as f:
            _, found, body = f.read().partition(f"def {name}(")
        assert found, f"{path} has no function {name}"
        body = [line.strip() for line in re.split(r"\n(?= *def )", body)[0].splitlines()]
        assert lines and set(lines) <= set(body), f"{path}, {name} has no line {set(lines) - set(body)}"


def test_what_the_reading_prints_is_what_python_says(monkeypatch):
    """Its examples and its answers are typed one after another, as a reader does."""
    monkeypatch.chdir(ROOT)
    runner, text = doctest.DocTestRunner(), "".join(blocks_of("reading.md", "pycon"))
    runner.run(doctest.DocTestParser().get_doctest(text, {}, "reading.md", "docs/reading.md", 0))
    assert runner.tries > 20 and runner.failures == 0


def test_the_readme_can_be_skimmed():
    assert os.path.getsize(f"{ROOT}/README.md") <= 9_000
