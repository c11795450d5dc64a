"""data.py whence: what a step has read."""
import json
import sys

import pytest
from conftest import run, tiny

import data
import tokenizer as tokenizers
import train
from corpus import whence


def test_whence_names_the_documents_of_a_step(work, capsys, monkeypatch):
    train.train(tiny("bloom", "r"))

    def ask(*words):
        monkeypatch.setattr(sys, "argv", ["data.py", "whence", "runs/r", *words])
        capsys.readouterr()
        whence.main()
        return capsys.readouterr().out.splitlines()
    found = list(map(json.loads, ask("step=3", "--json")))
    rows, tokenizer = data.Rows(tiny("bloom", "r")), tokenizers.load("data/tiny/tokenizer")
    x, y, which, _ = rows.rows(2)
    for row in range(len(x)):
        ids, here = [], [d for d in found if d["row"] == row]
        for d in here:
            ids += [*tokenizer.encode(d["text"]), tokenizer.eos][slice(*d["tokens"])]
        assert ids == [x[row][0], *(t for t in y[row] if t >= 0)], "the documents' tokens are the row's"
        assert {d["source"] for d in here} == {rows.sources[which[row][0]]}
    every = list(map(json.loads, ask("step=1:21", "--json")))
    assert all(d["tokens"][0] < d["tokens"][1] for d in every), "each document has a token in the row"
    assert ask("step=1:3")[-1].startswith("tokens by licences: no licence named ")
    assert run("data.py", "whence", "runs/r", "step=2").returncode == 0


@pytest.mark.parametrize("text, words", [
    ("step=0", "counted from 1"), ("step=x", "counted from 1"), ("step=5:5", "counted from 1"),
    ("step=1200", "runs/r has read 245 steps so far")])
def test_a_step_that_was_not_made_is_named(text, words):
    assert whence.steps_asked("step=3:5", 245, "runs/r") == range(3, 5)
    with pytest.raises(ValueError, match=words):
        whence.steps_asked(text, 245, "runs/r")
