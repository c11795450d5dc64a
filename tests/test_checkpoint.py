"""Checkpoints that are damaged, pruned, or meet a full disk. Those of several processes: test_parallel.py."""
import math
import os

import pytest
import torch
from conftest import damage, log, state, tiny
from test_train import after, ask, assert_same_state
from worker import limit_files

import checkpoint
import train

# ---- damaged ones ----

@pytest.mark.parametrize("part, harm", [("model", damage), ("optimizer", lambda path: damage(path, 100)),
                                        ("model", os.remove), ("done", os.remove)])
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(work, capsys, part, harm):
    train.train(tiny("bloom", "r"))
    want = state("runs/r")
    path = f"runs/r/checkpoints/0000020/{part}"
    if part != "done":
        path = f"{path}/{os.listdir(path)[0]}"
    harm(path)
    capsys.readouterr()
    train.train(tiny("bloom", "r"))
    out = capsys.readouterr().out
    assert "continuing runs/r after step 10" in out
    assert part == "done" or f"checkpoint 20 is damaged, using the one before it: {path} is missing" in out
    assert all(torch.equal(t, want[k]) for k, t in state("runs/r").items())


def test_when_every_checkpoint_is_damaged_it_does_not_start_over_silently(work):
    train.train(tiny("bloom", "r"))
    for step in (10, 20):
        os.remove(f"runs/r/checkpoints/{step:07d}/state.json")
    with pytest.raises(ValueError, match="none of the 2 checkpoints"):
        train.train(tiny("bloom", "r"))


def test_a_damaged_checkpoint_never_takes_the_place_of_a_good_one(work):
    """keep=1: the newest is damaged, the run goes on from the one before and stops early. What it saves then
    must stay."""
    train.train(tiny("bloom", "r", "run.eval_every=1000"))
    folder = "runs/r/checkpoints/0000020/model"
    damage(f"{folder}/{os.listdir(folder)[0]}")
    train.train(tiny("bloom", "r", "machine.keep=1", "run.eval_every=1000"), after(step14=ask))
    assert checkpoint.steps("runs/r") == [15, 20]


def test_only_the_newest_and_the_best_checkpoints_are_kept(work):
    for step in range(1, 7):
        os.makedirs(f"runs/r/checkpoints/{step:07d}")
        open(f"runs/r/checkpoints/{step:07d}/done", "w").close()
    os.makedirs("runs/r/checkpoints/0000000")
    checkpoint.prune("runs/r", 2, {2: 5.0, 3: 4.0, 4: math.nan, 5: 4.5}, 5)
    assert checkpoint.steps("runs/r") == [3, 4, 5, 6], "6 is damaged: the run went on from one before it"
    assert len(os.listdir("runs/r/checkpoints")) == 4, "what was half saved is gone too"
    checkpoint.prune("runs/r", 2, {3: 4.0, 4: math.nan}, 6)
    assert checkpoint.steps("runs/r") == [3, 5, 6], "a loss that is no number is not the best"


# ---- full disks ----

def test_a_full_disk_during_a_save_is_a_warning_and_the_next_save_is_tried(work, capsys):
    train.train(tiny("bloom", "whole", "machine.save_every=5"))
    capsys.readouterr()
    try:
        train.train(tiny("bloom", "r", "machine.save_every=5"),
                    after(step9=lambda: limit_files(500), step16=lambda: limit_files(None)))
    finally:
        limit_files(None)
    out = capsys.readouterr().out
    assert out.count("warning: cannot save runs/r/checkpoints/00000") == 2 and "the run goes on" in out
    assert "cannot write runs/r/log.jsonl" in out
    assert sorted(os.listdir("runs/r/checkpoints")) == ["0000005", "0000020"]
    assert_same_state("whole", "r")
    assert [r for r in log("whole") if not 9 < r["step"] < 17] == log("r")


def test_a_last_save_that_fails_is_an_error(work, capsys):      # capsys: printing must not need a file
    try:
        with pytest.raises(OSError, match="cannot save runs/r/checkpoints/0000020.*make room"):
            train.train(tiny("bloom", "r"), after(step19=lambda: limit_files(500)))
    finally:
        limit_files(None)
    assert os.listdir("runs/r/checkpoints") == ["0000010"]
