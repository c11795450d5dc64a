import argparse
import os
import signal
from typing import Literal

import pytest
from conftest import ROOT, run

import config
from train import lr_at

BLOOM, LLAMA = f"{ROOT}/configs/bloom.py", f"{ROOT}/configs/llama.py"


def test_overrides_are_read_by_the_type_of_the_setting():
    cfg = config.load(LLAMA, ["size=7b", "run.name=123", "--optim.lr=2e-4", "run.tokens=1e9",
                              "model.bias=true", "run.ramp=(8, 4, 100)", "model.vocab=none",
                              "model.position=none", "data.weights={'a': 1}"])
    assert (cfg.run.name, cfg.optim.lr, cfg.model.bias, cfg.run.ramp) == ("123", 2e-4, True, (8, 4, 100))
    assert (cfg.model.vocab, cfg.model.position, cfg.data.weights) == (None, "none", {"a": 1.0})
    assert cfg.run.tokens == 10 ** 9 and type(cfg.run.tokens) is int


@pytest.mark.parametrize("value, kind, want", [
    (1e9, int, 10 ** 9), (3, float, 3.0), (None, str | None, None), ("a", str | list[str], "a"),
    (("a", "b"), str | list[str], ["a", "b"]), ("gated", Literal["gated"], "gated"),
    (2.5, int, TypeError), (True, int, TypeError), (1, bool, TypeError), ("x", int | None, TypeError),
    ([1], list[str], TypeError), ("gate", Literal["gated"], TypeError),
    ((1, 2), tuple[int, int, int], TypeError)])
def test_a_value_fits_its_type_or_is_refused(value, kind, want):
    if want is TypeError:
        with pytest.raises(TypeError):
            config.fit(value, kind)
    else:
        got = config.fit(value, kind)
        assert got == want and type(got) is type(want)


@pytest.mark.parametrize("setting, words", [
    ("optim.lrr=1", "unknown setting 'optim.lrr', did you mean 'optim.lr'?"),
    ("layers=3", "unknown setting 'layers', did you mean 'model.layers'?"),
    ("run.device=cpu", "did you mean 'machine.device'?"), ("data.prepare=x", "mean 'machine.prepare'?"),
    ("optim=3", "unknown setting 'optim'"), ("optim.lr=fast", "optim.lr=fast: it must be float"),
    ("model.layers=2.5", "model.layers=2.5: it must be int"), ("model.bias=1", "it must be bool"),
    ("model.vocab=x", "it must be int | None"),
    ("model.norm=batch", "model.norm=batch: it must be one of layer, rms"),
    ("size=8b", "unknown size '8b' in"), ("optim.lr", "section.field=value"),
    ("model.heads=5", "model.dim=128 must be a multiple of 5 for 5 heads; use 125"),
    ("model.kv_heads=3", "not a multiple of model.kv_heads=3"),
    ("model.scaling={'factor': 2, 'low': 1}", "it has a factor, or factor, low, high and original"),
    ("run.batch=0", "run.batch=0: it must be above 0"), ("optim.clip=0", "optim.clip=0.0: it must"),
    ("run.name=../x", "plain folder name"), ("optim.lr=1e-5", "set optim.min_lr=1e-06"),
    *[(f"machine.skip_steps={wrong}", f"machine.skip_steps={wrong}: it must be first:end")
      for wrong in ("14", "17:14", "a:b", "1:2:3", "5:5")]])
def test_a_wrong_setting_is_one_clear_message(setting, words):
    with pytest.raises(ValueError) as e:
        config.check_config(config.load(BLOOM, [setting]))
    assert words in str(e.value) and "\n" not in str(e.value), e.value


def test_rope_turns_pairs():
    with pytest.raises(ValueError, match="model.dim=132 must be a multiple of 8 for 4 heads; use 128"):
        config.check_config(config.load(LLAMA, ["model.dim=132"]))


def test_a_data_config_is_told_apart():
    with pytest.raises(ValueError, match="sample is a data config, for prepare.py"):
        config.check_config(config.load(f"{ROOT}/configs/data/sample.py"))


def test_bloom_learning_rates_are_those_of_the_public_training_log():
    """The 176B run, counted in rows of 2048 tokens: its log prints 5.969e-05, 5.279e-05 and 4.475e-05."""
    cfg = config.load(BLOOM, ["size=176b"])
    for rows, lr in ((183_105, 6e-5), (9_841_584, 5.969e-5), (47_770_544, 5.279e-5), (71_455_664, 4.475e-5),
                     (100_000_000, 3.3039e-5), (178_402_224, 7.5417e-6), (200_000_000, 6e-6),
                     (220_000_000, 6e-6)):
        assert lr_at(rows * 2048, cfg.optim, cfg.run.tokens) == pytest.approx(lr, rel=2e-4), f"at {rows} rows"
    assert lr_at(183_105 * 1024, cfg.optim,
                 cfg.run.tokens) == pytest.approx(3e-5), "half of the warmup is half of the peak"


def test_llama_learning_rate_ends_at_a_tenth_of_the_peak():
    cfg = config.load(LLAMA, ["size=65b"])
    o, total = cfg.optim, cfg.run.tokens
    for tokens, lr in ((o.warmup, 1.5e-4), ((o.warmup + total) // 2, 0.55 * 1.5e-4), (total, 1.5e-5)):
        assert lr_at(tokens, o, total) == pytest.approx(lr)


def test_steps_to_leave_out():
    assert config.steps_left_out("14:17,200:210") == [range(14, 17), range(200, 210)]
    assert config.steps_left_out(None) == []


def test_numbers_of_options_have_a_range():
    whole, share = config.number(1, 1e6), config.number(0, 1, float)
    assert whole("1e3") == 1000 and type(whole("1e3")) is int and share("0.5") == 0.5
    for read, text, words in ((whole, "0", "0 must be a whole number from 1 to 1e"),
                              (whole, "2.5", "whole number"), (whole, "many", "many must be"),
                              (share, "1.5", "1.5 must be a number from 0 to 1"), (share, "nan", "nan must")):
        with pytest.raises(argparse.ArgumentTypeError, match=words):
            read(text)


def test_a_wrong_option_is_one_line():
    ap = config.Parser("What it does.")
    ap.add_argument("--tokens", type=config.number(1, 10))
    words = "argument --tokens: 11 must be a whole number from 1 to 10; --help"
    with pytest.raises(ValueError, match=words):
        ap.parse_args(["--tokens", "11"])


def test_blame_says_where():
    for error, words in ((KeyError("text"), "here: 'text' is missing"), (ValueError("odd"), "here: odd")):
        with pytest.raises(ValueError, match=words), config.blame("here"):
            raise error


def test_a_command_ends_in_one_line_and_1(capsys):
    def main():
        raise ValueError("two\nlines")
    with pytest.raises(SystemExit) as e:
        config.command(main)
    assert e.value.code == 1 and capsys.readouterr().err == "error: two lines\n"


def test_json_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "a.json"
    config.write_json(path, {"a": "é"})
    with pytest.raises(TypeError):
        config.write_json(path, {"a": object()})
    assert config.read_json(path) == {"a": "é"}
    path.write_text("{")
    with pytest.raises(ValueError, match="a.json is not JSON"):
        config.read_json(path)


# ---- Ctrl-C ----

@pytest.mark.parametrize("command", ["train.py", "evaluate.py", "plan.py", "sample.py"])
def test_ctrl_c_is_one_line_also_while_pytorch_is_imported(tmp_path, command):
    """A PyTorch whose import is struck by it."""
    (tmp_path / "torch.py").write_text(                 # a test that runs in the background ignores Ctrl-C
        "import signal\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "signal.raise_signal(signal.SIGINT)\n")
    done = run(command, "x", env={**os.environ, "PYTHONPATH": str(tmp_path)})
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, "", "stopped\n")
