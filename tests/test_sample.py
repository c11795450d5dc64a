import io
import json
import os
import re
import shutil
import sys

import pytest
import sample
from conftest import run


def command(monkeypatch, capsys, *args, typed=None):
    """(standard output, standard error) of sample.py in this process."""
    monkeypatch.setattr(sys, "argv", ["sample.py", *map(str, args)])
    if typed is not None:
        monkeypatch.setattr(sys, "stdin", io.StringIO(typed))
    sample.main()
    return capsys.readouterr()


def test_the_command_takes_its_prompt_from_argument_file_and_standard_input(runs, tmp_path, monkeypatch, capsys):
    (tmp_path / "p.txt").write_text("Once upon\nOne day\n")
    args = [runs / "bloom", "--tokens", 5, "--seed", 1]
    one = run("sample.py", *args, "--prompt", "Once upon")
    assert one.returncode == 0 and one.stdout.startswith("Once upon") and "5 tokens in" in one.stderr and "per second" in one.stderr, one.stderr
    assert command(monkeypatch, capsys, *args, typed="Once upon\n").out == one.stdout
    both = command(monkeypatch, capsys, *args, "--file", tmp_path / "p.txt").out
    assert both.split("\n---\n")[0] == one.stdout.rstrip("\n") and "One day" in both


def test_what_a_user_can_get_wrong_is_one_line(runs, tmp_path, monkeypatch, capsys):
    args = [runs / "bloom", "--prompt", "a"]
    out = run("sample.py", runs / "none", "--prompt", "a")
    assert out.returncode == 1 and "is not a run" in out.stderr and out.stderr.count("\n") == 1, out
    (tmp_path / "bad.jsonl").write_text('{"prompt": "a"}\n{"text": "a"}\n')
    for bad, words in ([*args, "--step", 7], "no checkpoint of step 7"), ([*args, "--top-p", 0], "--top-p above 0"), ([*args, "--device", "mps"], "this machine has none"), \
            ([*args, "--interactive"], "one of"), ([*args, "--out", "x"], "--out belongs to --jsonl"), ([*args, "--window", 3], "--window at least 16"), ([*args, "--min-p", 2], "--min-p from 0 to 1"), \
            ([runs / "llama", "--prompt", "a", "--window", 64], "at most the 32"), ([runs / "bloom", "--jsonl", tmp_path / "bad.jsonl"], 'line 2: it must be an object with a text "prompt"'), \
            ([runs / "bloom", "--file", tmp_path / "none.txt"], "none.txt"):
        with pytest.raises((ValueError, OSError), match=words):
            command(monkeypatch, capsys, *bad)


def test_json_lines_keep_what_they_have_and_get_samples(runs, tmp_path, monkeypatch, capsys):
    prompts = ["Once upon", "Un", "One day, a girl", "", "Il"]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps({"id": i, "prompt": p}) + "\n" for i, p in enumerate(prompts)))
    args = [runs / "bloom", "--jsonl", tmp_path / "in.jsonl", "--tokens", 6, "--samples", 2, "--batch", 5, "--logprobs", 2, "--seed", 3]
    found = [json.loads(line) for line in command(monkeypatch, capsys, *args).out.splitlines()]
    assert [(r["id"], r["prompt"], len(r["samples"])) for r in found] == [(i, p, 2) for i, p in enumerate(prompts)]
    alone = command(monkeypatch, capsys, runs / "bloom", "--prompt", "Un", "--tokens", 6, "--seed", 4).out
    assert alone == "Un" + found[1]["samples"][1]["text"] + "\n"
    s = found[0]["samples"][0]
    assert s["tokens"] == 6 and s["finish"] == "length" and len(s["logprobs"]) == 6 and "".join(t["text"] for t in s["logprobs"]) == s["text"]
    assert all(len(t["top"]) == 2 and t["top"][0][2] >= t["logprob"] for t in s["logprobs"])
    # interrupted in its third line, it goes on there
    out = tmp_path / "out.jsonl"
    command(monkeypatch, capsys, *args, "--out", out)
    whole = out.read_bytes()
    assert [json.loads(line) for line in whole.splitlines()] == found
    lines = whole.splitlines(keepends=True)
    out.write_bytes(b"".join(lines[:2]) + lines[2][:9])
    assert "has 2 of 5" in command(monkeypatch, capsys, *args, "--out", out).err
    again = [json.loads(line) for line in out.read_bytes().splitlines()]
    assert [[t["text"] for t in r["samples"]] for r in again] == [[t["text"] for t in r["samples"]] for r in found]
    (tmp_path / "in.jsonl").write_text('{"prompt": "other"}\n')
    with pytest.raises(ValueError, match="line 1 continues another prompt"):
        command(monkeypatch, capsys, *args, "--out", out)


def test_a_conversation_adds_what_is_typed(runs, monkeypatch, capsys):
    args = [runs / "bloom", "--tokens", 5, "--temperature", 0]
    said = command(monkeypatch, capsys, *args, "--interactive", "--turn", "[{}]", typed="Once upon\n\n/new\nUn\n").out.splitlines()
    first = command(monkeypatch, capsys, *args, "--prompt", "[Once upon]").out[:-1].removeprefix("[Once upon]")
    more = command(monkeypatch, capsys, *args, "--prompt", "[Once upon]" + first).out[:-1].removeprefix("[Once upon]" + first)
    other = command(monkeypatch, capsys, *args, "--prompt", "[Un]").out[:-1].removeprefix("[Un]")
    assert "\n".join(said) == "\n".join((first, more, other)).rstrip("\n")


def test_a_conversation_that_has_become_too_long_says_so_and_goes_on(runs, monkeypatch, capsys):
    out = command(monkeypatch, capsys, runs / "llama", "--tokens", 20, "--interactive", typed="Once upon a time there was a girl\nand another girl\n/new\nUn\n")
    assert out.err.count("/new begins another text") == 3 and out.err.count("are more than the 32") == 2 and out.out.strip()


def test_log_probabilities_are_listed_below_the_text(runs, monkeypatch, capsys):
    out = command(monkeypatch, capsys, runs / "bloom", "--prompt", "Once", "--tokens", 3, "--logprobs", 2, "--temperature", 0).out.splitlines()
    rows = [re.findall(r"-\d+\.\d{4}", line) for line in out[1:]]
    assert rows and all(len(r) == 3 and r[0] == r[1] and float(r[1]) > float(r[2]) for r in rows), "greedy: what was written is the likeliest"


def test_bfloat16_weights_take_half_the_memory(runs):
    model, _ = sample.load(runs / "bloom", dtype=sample.torch.bfloat16)
    assert {p.dtype for p in model.parameters()} == {sample.torch.bfloat16}


def test_a_damaged_checkpoint_is_passed_over_when_sampling(runs, tmp_path, capsys):
    shutil.copytree(runs / "bloom", tmp_path / "r")
    newest = tmp_path / "r/checkpoints/0000100/model"
    path = newest / os.listdir(newest)[0]
    path.write_bytes(path.read_bytes()[:-4])
    sample.load(tmp_path / "r")
    assert "using the one before it" in capsys.readouterr().out
