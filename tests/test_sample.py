import io
import json
import os
import re
import shutil
import sys

import pytest
import torch
from conftest import run

import sample
from model import Cache, Transformer


def command(monkeypatch, capsys, *args, typed=None):
    """(standard output, standard error) of sample.py in this process."""
    monkeypatch.setattr(sys, "argv", ["sample.py", *map(str, args)])
    if typed is not None:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(typed.encode())))
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
    for bad, words in ([*args, "--step", 7], "no checkpoint of step 7"), ([*args, "--top-p", 0], "--top-p 0.0: it must be from"), ([*args, "--device", "mps"], "this machine has none"), \
            ([*args, "--interactive"], "one of"), ([*args, "--out", "x"], "--out belongs to --jsonl"), ([*args, "--temperature", "nan"], "--temperature nan"), ([*args, "--seed", 2 ** 70], "--seed"), \
            ([runs / "bloom", "--interactive", "--logprobs", 1], "without log-probabilities"), ([runs / "bloom", "--interactive", "--turn", ""], "--turn must have"), \
            ([*args, "--tokens", 10 ** 9, "--window", 10 ** 9], "there is no memory for the keys and values"), ([*args, "--window", 3], "--window 3: it must be from 16"), ([*args, "--min-p", 2], "--min-p 2.0: it must be from 0 to 1"), \
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


@pytest.mark.parametrize("there", [b"my notes without an end", b'{"a": 1,\n "b": 2}', b"[1]\n", b'{"prompt": "b"}\n', b'{"prompt": "a"}\n', b'{"prompt": "a", "samples": [{}, {}]}\n',
                                   b'{"prompt": "a", "samples": [{}]}\n{"prompt": "b", "samples": [{}]}\n', b'{"prompt": "a", "samples": [{}]}\n{"pro'])
def test_a_file_that_is_not_from_these_prompts_is_left_as_it_is(runs, tmp_path, monkeypatch, capsys, there):
    (tmp_path / "in.jsonl").write_text('{"prompt": "a"}\n')
    out = tmp_path / "out.jsonl"
    out.write_bytes(there)
    with pytest.raises(ValueError, match=r"out.jsonl, line \d is not from these prompts and --samples 1; choose another --out"):
        command(monkeypatch, capsys, runs / "bloom", "--jsonl", tmp_path / "in.jsonl", "--out", out, "--tokens", 2)
    assert out.read_bytes() == there
    with pytest.raises(ValueError, match="must be a file of its own"):
        command(monkeypatch, capsys, runs / "bloom", "--jsonl", tmp_path / "in.jsonl", "--out", tmp_path / "in.jsonl")


def test_json_lines_may_begin_with_a_mark_and_have_empty_lines_and_name_a_bad_one(runs, tmp_path, monkeypatch, capsys):
    path, args = tmp_path / "in.jsonl", [runs / "bloom", "--jsonl", tmp_path / "in.jsonl", "--tokens", 2, "--batch", 1]
    path.write_bytes(b'\xef\xbb\xbf{"prompt": "a"}\n\n{"prompt": "b\xe2\x80\xa8c"}\n')
    assert [json.loads(line)["prompt"] for line in command(monkeypatch, capsys, *args).out.split("\n")[:-1]] == ["a", "b\u2028c"]
    for line in b'{"prompt": "a", "x": "\\ud800"}', b'{"prompt": "a", "samples": 1}', b'{"prompt": "\xff"}', b"[" * 100_000:
        path.write_bytes(b'{"prompt": "a"}\n' + line)
        with pytest.raises(ValueError, match="in.jsonl, line 2: "):
            command(monkeypatch, capsys, *args)
    path.write_text(json.dumps({"prompt": "Once upon a time there was a girl. " * 20}))
    with pytest.raises(ValueError, match="in.jsonl, prompts 1 to 1: a prompt of"):
        command(monkeypatch, capsys, runs / "llama", *args[1:])


def test_a_conversation_adds_what_is_typed(runs, monkeypatch, capsys):
    args = [runs / "bloom", "--tokens", 5, "--temperature", 0]
    said = command(monkeypatch, capsys, *args, "--interactive", "--turn", "[{}]", typed="Once upon\n\n/new\nUn\n").out.splitlines()
    first = command(monkeypatch, capsys, *args, "--prompt", "[Once upon]").out[:-1].removeprefix("[Once upon]")
    more = command(monkeypatch, capsys, *args, "--prompt", "[Once upon]" + first).out[:-1].removeprefix("[Once upon]" + first)
    other = command(monkeypatch, capsys, *args, "--prompt", "[Un]").out[:-1].removeprefix("[Un]")
    assert "\n".join(said) == "\n".join((first, more, other)).rstrip("\n")


def test_a_line_that_is_too_long_for_a_conversation_is_not_added(runs, monkeypatch, capsys):
    out = command(monkeypatch, capsys, runs / "llama", "--tokens", 20, "--interactive", typed="Once upon a time there was a girl\nand another girl\n/new\nUn\n")
    assert out.err.count("are more than the 32") == 1 and len(out.out.strip().splitlines()) >= 2


def test_log_probabilities_are_listed_below_the_text(runs, monkeypatch, capsys):
    out = command(monkeypatch, capsys, runs / "bloom", "--prompt", "Once", "--tokens", 3, "--logprobs", 2, "--temperature", 0).out.splitlines()
    rows = [re.findall(r"-\d+\.\d{4}", line) for line in out[1:]]
    assert rows and all(len(r) == 3 and r[0] == r[1] and float(r[1]) > float(r[2]) for r in rows), "greedy: what was written is the likeliest"


def test_bfloat16_weights_take_half_the_memory(runs):
    model, _ = sample.load(runs / "bloom", dtype=torch.bfloat16)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}


def test_a_damaged_checkpoint_is_passed_over_when_sampling(runs, tmp_path, capsys):
    shutil.copytree(runs / "bloom", tmp_path / "r")
    newest = tmp_path / "r/checkpoints/0000100/model"
    path = newest / os.listdir(newest)[0]
    path.write_bytes(path.read_bytes()[:-4])
    sample.load(tmp_path / "r")
    out = capsys.readouterr()
    assert "using the one before it" in out.err and not out.out


def test_a_conversation_reads_only_what_is_new_and_keeps_to_its_window(runs, monkeypatch, capsys):
    sizes, lengths, forward = [], [], Transformer.forward
    monkeypatch.setattr(sample, "Cache", lambda cfg, B, S, **k: sizes.append(S) or Cache(cfg, B, S, **k))
    monkeypatch.setattr(Transformer, "forward", lambda self, ids, **k: lengths.append(ids.shape[1]) or forward(self, ids, **k))
    out = command(monkeypatch, capsys, runs / "llama", "--tokens", 6, "--window", 24, "--temperature", 0, "--interactive", typed="Once upon a time\n\n\n\n\n")
    assert sizes == [24] and "error" not in out.err and max(lengths[1:]) < lengths[0]


def test_ctrl_c_ends_the_text_that_is_written_and_not_the_conversation(runs, monkeypatch, capsys):
    continuations, asked, shown = sample.continuations, [], []

    def interrupted(model, tokenizer, prompts, past, **settings):
        asked.append((prompts[0], past.cache.n))
        for part in continuations(model, tokenizer, prompts, past=past, **settings):
            shown.append(part[1])
            yield part
            if len(shown) == 2:
                raise KeyboardInterrupt
    monkeypatch.setattr(sample, "continuations", interrupted)
    command(monkeypatch, capsys, runs / "bloom", "--tokens", 9, "--temperature", 3, "--interactive", typed="Once upon\n\n")
    assert asked == [("Once upon", 0), ("Once upon" + "".join(shown[:2]), 0)] and len(shown) > 2, "what the interrupted step has left in the cache is not used"


def test_json_lines_come_from_standard_input_in_batches_of_so_many_rows(runs, monkeypatch, capsys):
    rows, continuations = [], sample.continuations
    monkeypatch.setattr(sample, "continuations", lambda m, t, prompts, **k: rows.append(len(prompts) * k["samples"]) or continuations(m, t, prompts, **k))
    typed = "".join(json.dumps({"prompt": p}) + "\n" for p in ("Un", "Once", "One"))
    for batch, want in (5, [4, 2]), (1, [2, 2, 2]):
        out = command(monkeypatch, capsys, runs / "bloom", "--jsonl", "-", "--tokens", 2, "--samples", 2, "--batch", batch, typed=typed).out
        assert rows == want and [json.loads(line)["prompt"] for line in out.splitlines()] == ["Un", "Once", "One"]
        rows.clear()


@pytest.mark.parametrize("key, value", [("tokens", 0), ("temperature", -1), ("top-k", 0), ("samples", 0), ("batch", 0), ("penalty", 0), ("logprobs", -1), ("penalty", "nan")])
def test_numbers_that_mean_nothing_are_refused(key, value, runs, monkeypatch, capsys):
    with pytest.raises(ValueError, match=f"--{key} {value}.*: it must be from"):
        command(monkeypatch, capsys, runs / "bloom", "--prompt", "a", f"--{key}", value)


def test_a_conversation_has_one_sample(runs, monkeypatch, capsys):
    with pytest.raises(ValueError, match="--interactive writes one text"):
        command(monkeypatch, capsys, runs / "bloom", "--interactive", "--samples", 2, typed="")


def test_each_option_reaches_what_it_is_about(runs, tmp_path, monkeypatch, capsys):
    def text(*more, name="bloom"):
        return command(monkeypatch, capsys, runs / name, "--prompt", "Once", "--tokens", 12, "--temperature", 3, *more).out
    greedy = text("--temperature", 0)
    assert text("--top-k", 1) == text("--min-p", 1) == text("--top-p", 1e-9) == greedy != text()
    assert text("--temperature", 0, "--penalty", 10) != greedy
    assert text("--temperature", 0, "--stop", greedy[4]) == "Once\n" != greedy
    with pytest.raises(ValueError, match="more than the 32"):
        text("--tokens", 60, name="llama")
    assert text("--tokens", 60, "--window", 24, name="llama").startswith("Once")
    (tmp_path / "p.txt").write_text("Un\n")
    four = text("--samples", 2, "--file", tmp_path / "p.txt").rstrip("\n").split("\n---\n")
    assert [t.startswith(p) for t, p in zip(four, ["Once", "Once", "Un", "Un"], strict=True)] == [True] * 4


def test_a_text_that_ends_at_once_is_its_prompt(runs, monkeypatch, capsys):
    model, tokenizer = sample.load(runs / "bloom")
    tokenizer.ends = set(range(500))
    monkeypatch.setattr(sample, "load", lambda *a: (model, tokenizer))
    assert command(monkeypatch, capsys, runs / "bloom", "--prompt", "Once", "--tokens", 3).out == "Once\n"


def test_dtype_and_compile_are_asked_for_by_option(runs, monkeypatch, capsys):
    seen = []
    monkeypatch.setattr(sample, "can_compile", lambda device: True)
    monkeypatch.setattr(sample, "compile", lambda model: seen.append(model.embed.weight.dtype))
    for more in ["--dtype", "bfloat16", "--compile"], ["--dtype", "float32", "--compile"], []:
        command(monkeypatch, capsys, runs / "bloom", "--prompt", "Once", "--tokens", 2, *more)
    assert seen == [torch.bfloat16, torch.float32]


def test_several_samples_of_a_bfloat16_model(runs, monkeypatch, capsys):
    out = command(monkeypatch, capsys, runs / "bloom", "--prompt", "Once", "--tokens", 3, "--samples", 2, "--dtype", "bfloat16").out
    assert out.count("Once") == 2
