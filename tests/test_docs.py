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


def test_the_readme_can_be_skimmed():
    assert os.path.getsize(f"{ROOT}/README.md") <= 9_000
