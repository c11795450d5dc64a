import json
import os
import shutil

import pytest
import sample
from conftest import run
from test_generate import runs


def test_the_command_takes_its_prompt_from_argument_file_and_standard_input(runs, tmp_path):
    (tmp_path / "p.txt").write_text("Once upon\nOne day\n")
    args = [runs / "bloom", "--tokens", 5, "--seed", 1]
    one = run("sample.py", *args, "--prompt", "Once upon")
    assert one.returncode == 0 and one.stdout.startswith("Once upon"), one.stderr
    assert run("sample.py", *args, input="Once upon\n").stdout == one.stdout
    both = run("sample.py", *args, "--file", tmp_path / "p.txt").stdout
    assert both.split("\n---\n")[0] == one.stdout.rstrip("\n") and "One day" in both
    for bad, words in ([runs / "none", "--prompt", "a"], "is not a run"), ([*args, "--prompt", "a", "--step", 7], "no checkpoint of step 7"), ([*args, "--prompt", "a", "--top-p", 0], "--top-p above 0"), ([*args, "--prompt", "a", "--device", "mps"], "this machine has none"):
        out = run("sample.py", *bad)
        assert out.returncode == 1 and words in out.stderr and out.stderr.count("\n") == 1, out


def test_a_damaged_checkpoint_is_passed_over_when_sampling(runs, tmp_path, capsys):
    shutil.copytree(runs / "bloom", tmp_path / "r")
    newest = tmp_path / "r/checkpoints/0000100/model"
    path = newest / os.listdir(newest)[0]
    path.write_bytes(path.read_bytes()[:-4])
    sample.load(tmp_path / "r")
    assert "using the one before it" in capsys.readouterr().out
