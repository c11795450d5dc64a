import glob
import os
import re
import signal
import subprocess
import sys
import time

import pytest
from conftest import ROOT

FILES = sorted(glob.glob(f"{ROOT}/*.py") + glob.glob(f"{ROOT}/corpus/*.py") + glob.glob(f"{ROOT}/configs/**/*.py", recursive=True))


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.removeprefix(ROOT + "/"))
def test_every_file_begins_with_how_to_run_or_read_it(path):
    text = open(path, encoding="utf-8").read()
    doc = re.match(r'r?"""(.*?)"""', text, re.S)
    assert doc and re.search(r"python|Read ", doc[1])


SCRIPTS = ["train.py", "prepare.py", "tokenizer.py", "sample.py", "plan.py", "data.py", "evaluate.py", "convert.py", "tools/kill.py", "tools/harness.py", "tools/bench_corpus.py", "tools/bench_tokenizer.py", "tools/bench_decode.py"]


def test_every_command_has_help_with_an_example():
    started = {script: subprocess.Popen([sys.executable, f"{ROOT}/{script}", "--help"], stdout=subprocess.PIPE, text=True) for script in SCRIPTS}
    for script, p in started.items():
        out, _ = p.communicate()
        assert p.returncode == 0 and f"python {script}" in out, script


def test_nothing_is_pickled_and_one_file_knows_of_processes():
    for path in FILES:
        text = open(path, encoding="utf-8").read()
        assert not re.search(r"import pickle|torch\.save\(|torch\.load\((?!.*weights_only=True)", text), path
        assert path.endswith(("checkpoint.py", "distributed.py")) or "torch.distributed" not in re.sub(r'""".*?"""', "", text, flags=re.S), path


@pytest.mark.parametrize("how, requeued", [("signal", True), ("end", False), ("failure", False)])
def test_the_slurm_script_saves_before_the_limit_and_queues_itself_again(tmp_path, how, requeued):
    """With stand-ins: srun is a run that ends when it finds the file `stop`, scontrol writes down what it is asked."""
    bin = tmp_path / "bin"
    bin.mkdir()
    end = {"signal": "until [ -e runs/x/stop ]; do sleep 0.05; done", "end": "true", "failure": "exit 3"}[how]
    (bin / "srun").write_text(f'#!/bin/bash\necho "$@" > asked\n{end}\n')
    (bin / "scontrol").write_text('#!/bin/bash\n[ $1 = show ] && echo node0 && echo node1 || echo "$@" > requeued\n')
    for f in bin.iterdir():
        f.chmod(0o755)
    (tmp_path / "runs/x").mkdir(parents=True)
    (tmp_path / "runs/x/stop").touch()          # left by the job before
    env = {**os.environ, "PATH": f"{bin}:{os.environ['PATH']}", "NAME": "x", "SLURM_NNODES": "5", "SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "node[0-4]"}
    p = subprocess.Popen(["bash", f"{ROOT}/docs/train.slurm", "configs/bloom.py", "size=7b1"], cwd=tmp_path, env=env)
    if how == "signal":
        while not (tmp_path / "asked").exists():
            assert p.poll() is None
            time.sleep(0.02)
        p.send_signal(signal.SIGUSR1)
    assert p.wait(timeout=30) == (3 if how == "failure" else 0)
    assert (tmp_path / "requeued").exists() == requeued
    assert "--nnodes=4:5" in (asked := (tmp_path / "asked").read_text()) and asked.endswith("train.py configs/bloom.py size=7b1 run.name=x\n") and "node0:29500" in asked
