import json
import math
import os
import pathlib
import shutil
import signal
import subprocess
import sys

import pytest
import torch
from conftest import ROOT, arguments, log, run, state, tiny

import checkpoint
import config
import data
import train
from model import Transformer, init

BOTH = pytest.mark.parametrize("name", ["bloom", "llama"])


def assert_same_state(a, b, steps=(20, 20)):
    """Weights and moments to the last bit."""
    x, y = state(f"runs/{a}", steps[0]), state(f"runs/{b}", steps[1])
    assert x.keys() == y.keys()
    assert [k for k in x if not torch.equal(x[k], y[k])] == []


def assert_same_run(a, b):
    assert log(a) == log(b), "rows, losses, norms and learning rates must be the same to the last bit"
    assert_same_state(a, b)


def after(**actions):
    """A hook for train(): after(step14=f) calls f() after step 14."""
    def hook(training):
        actions.get(f"step{training.step}", lambda: None)()
    return hook


def ask():
    open("runs/r/stop", "w").close()


# ---- stop and go on ----

@pytest.mark.parametrize("name, what", [("bloom", "kill_after 13"), ("llama", "kill_in_save 20")])
def test_kill_9_and_resume_equals_not_stopping(work, name, what):
    train.train(tiny(name, "whole"))
    killed = run("tests/worker.py", json.dumps([[what, *arguments(name, "killed")]]))
    assert killed.returncode == -signal.SIGKILL and checkpoint.steps("runs/killed") == [10], killed.stderr
    train.train(tiny(name, "killed"))
    assert_same_run("whole", "killed")


def test_sigterm_saves_at_the_step_boundary_and_exits_0_and_so_does_ctrl_c(work, capsys):
    more = ("run.tokens=19200", "machine.save_every=1000", "run.eval_every=1000")           # 150 steps
    train.train(tiny("bloom", "whole", *more))
    command = [sys.executable, f"{ROOT}/train.py", *arguments("bloom", "r", *more)]
    p = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    for line in p.stdout:
        if line.startswith("step ") and "norm" in line:
            p.send_signal(signal.SIGTERM)
            break
    rest = p.stdout.read()
    assert p.wait() == 0 and "stopped by SIGTERM" in rest and 0 < checkpoint.steps("runs/r")[-1] < 148, rest
    train.train(tiny("bloom", "r", *more), after(step148=lambda: os.kill(os.getpid(), signal.SIGINT)))
    assert checkpoint.steps("runs/r")[-1] == 149 and "stopped by SIGINT" in capsys.readouterr().out
    train.train(tiny("bloom", "r", *more))
    assert log("whole") == log("r")
    assert_same_state("whole", "r", (150, 150))


def files(folder):
    """{path: bytes} of everything below it."""
    return {path: path.read_bytes() for path in pathlib.Path(folder).rglob("*") if path.is_file()}


def test_a_second_writer_is_refused_and_changes_nothing_until_the_first_is_gone(work):
    """The first one stands still, so that the folder does."""
    train.train(tiny("bloom", "whole"))
    command = [sys.executable, f"{ROOT}/train.py", *arguments("bloom", "r")]
    p = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    next(line for line in p.stdout if line.startswith("step ") and "norm" in line)
    p.send_signal(signal.SIGSTOP)
    before = files("runs/r")
    words = rf"^another command trains runs/r: \S+, pid {p.pid}, since 2\d+-"
    for more in ([], ["machine.micro=4"]):
        with pytest.raises(ValueError, match=words):
            train.train(tiny("bloom", "r", *more))
    assert files("runs/r") == before
    p.kill()
    p.wait()
    train.train(tiny("bloom", "r"))
    assert_same_run("whole", "r")


# ---- the recipe ----

def test_the_loss_goes_down_and_twice_is_the_same(work):
    """A golden toy run: from about ln 512 = 6.2 at the start to clearly less."""
    for name in ("a", "b"):
        train.train(tiny("bloom", name, "run.tokens=12800", "optim.lr=1e-2", "run.eval_every=50"))
    val = [r["val"]["loss"] for r in log("a") if "val" in r]
    assert 6.0 < val[0] < 6.8 and val[-1] < 5.0 and val[-1] < val[1] < val[0]
    assert log("a") == log("b")


def test_decay_is_for_matrices_only(work):
    settings = ["model.layers=1", "model.dim=16", "model.heads=2", "model.vocab=64"]
    cfg = config.load(f"{ROOT}/configs/bloom.py", settings)
    model = init(Transformer(cfg.model), 0)
    decayed, plain = train.adamw(model, cfg.optim).param_groups
    names = {id(p): n for n, p in model.named_parameters()}
    assert decayed["weight_decay"] == 0.1 and plain["weight_decay"] == 0
    assert "embed.weight" in [names[id(p)] for p in decayed["params"]]
    vectors = [names[id(p)] for p in plain["params"]]
    assert vectors and all("norm" in n or n.endswith("bias") for n in vectors)


def test_one_step_is_adamw_on_the_clipped_mean_gradient(work):
    """The first step by hand: Adam moves each weight by lr * sign(g), and decays matrices by lr * 0.1."""
    cfg = tiny("bloom", "one", "run.tokens=128", "optim.warmup=128", "optim.lr=1e-3", "optim.decay=256")
    train.train(cfg)
    before, moved = init(Transformer(cfg.model), cfg.run.seed).embed.weight.detach(), state("runs/one", 1)
    x, y, *_ = data.Rows(cfg).rows(0)
    model = init(Transformer(cfg.model), cfg.run.seed)
    (model(torch.from_numpy(x), torch.from_numpy(y)) / (y >= 0).sum()).backward()
    norm = torch.sqrt(sum((p.grad ** 2).sum() for p in model.parameters()))
    g = model.embed.weight.grad * min(1, 1 / (norm + 1e-6))
    want = before * (1 - 1e-3 * 0.1) - 1e-3 * g / (g.abs() + 1e-8)
    assert torch.allclose(moved["embed.weight"], want, atol=2e-6)
    assert log("one")[1]["norm"] == pytest.approx(norm.item(), rel=1e-4)


def test_flops_per_token_by_hand():
    """6 per weight in a product; scores and their use: 2 x 2 x C x T forward, three times that with
    backward."""
    scores = 12 * 2 * 32 * 48
    for name, weights in (("llama", 10_000 - 131 * 32), ("bloom", 10_000)):     # a tied embedding multiplies
        settings = ["model.vocab=131", "model.layers=2", "model.dim=32", "model.context=48"]
        cfg = config.load(f"{ROOT}/configs/{name}.py", settings)
        assert train.flops_per_token(cfg.model, 10_000) == 6 * weights + scores


def test_the_loss_mixed_as_the_rows_is_the_sources_losses_by_their_shares(work):
    train.train(tiny("bloom", "r", "run.tokens=128", "data.weights={'en': 3, 'fr': 1}"))
    val = log("r")[-1]["val"]
    en, fr = (val["sources"][name]["loss"] for name in ("en", "fr"))
    assert val["mix"] == pytest.approx(0.75 * en + 0.25 * fr) and en != fr


@pytest.mark.slow
@BOTH
def test_compiled_blocks_give_the_losses_of_eager_ones(work, name):
    """With a real compiler, with and without recomputation. The parameters keep their names."""
    train.train(tiny(name, "eager"))
    for recompute in ("true", "cheap", "false"):
        train.train(tiny(name, f"compiled-{recompute}", "machine.compile=true",
                         f"machine.recompute={recompute}"))
        assert state(f"runs/compiled-{recompute}").keys() == state("runs/eager").keys()
        for a, b in zip(log("eager"), log(f"compiled-{recompute}")):
            assert "loss" not in a or a["loss"] == pytest.approx(b["loss"], abs=1e-4)


def test_without_a_compiler_the_run_says_so_and_goes_on(work, monkeypatch, capsys):
    def fail(function):
        raise RuntimeError("no C++ compiler")
    monkeypatch.setattr(torch, "compile", fail)
    train.train(tiny("bloom", "r", "machine.compile=true", "run.tokens=128"))
    assert "compile: not possible here, going on without (no C++ compiler)" in capsys.readouterr().err
    assert log("r")[-1]["step"] == 1


# ---- begin with another run's weights ----

@BOTH
def test_a_run_begins_with_the_weights_of_another_and_a_schedule_of_its_own(work, name):
    train.train(tiny(name, "first", "model.mlp_dim=40"))
    settings = ["run.tokens=1280", "optim.lr=1e-4", "optim.min_lr=1e-5", "init_from=runs/first", "run.seed=7",
                "machine.save_every=5"]
    train.train(tiny(name, "second", *settings))
    records = log("second")
    assert checkpoint.open_run("runs/second").shape.mlp_dim == 40, "the shape is that of the other run too"
    last = next(r["val"] for r in log("first") if r["step"] == 20 and "val" in r)
    assert records[0]["val"] == last and records[1]["lr"] == pytest.approx(1e-4 * 128 / 512)
    # stopped and continued it goes on from its own checkpoint, not from the other run's weights
    train.train(tiny(name, "r", *settings), after(step4=ask))
    assert checkpoint.steps("runs/r") == [5]
    train.train(tiny(name, "r", *settings))
    assert_same_state("second", "r", (10, 10))


def test_a_run_that_cannot_begin_with_another_s_weights_says_why(work):
    train.train(tiny("bloom", "first", "run.tokens=128"))

    def refused(words, *more, name="r"):
        with pytest.raises(ValueError, match=words):
            train.train(tiny("bloom", name, *more))
    refused("runs/none is not a run.*convert.py import makes one of a Hugging Face folder",
            "init_from=runs/none")
    refused("holds a model with position=alibi, not none; leave model.position away", "init_from=runs/first",
            "model.position=none")
    refused("another tokenizer than that of runs/first.*--tokenizer runs/first/tokenizer",
            "init_from=runs/first", "data.name=tiny-sp")
    own = ["model.context=16", "model.init_std=0.5"]                # these two may differ
    train.train(tiny("bloom", "r", "init_from=runs/first/", "run.tokens=128", *own))
    refused("init_from=runs/first, now it is None", "run.tokens=256", *own)
    os.rename("runs/first", "runs/gone")            # the run has begun: the other may be gone
    train.train(tiny("bloom", "r", "init_from=runs/first", "run.tokens=256", *own))
    assert log("r")[-1]["step"] == 4
    facts = config.read_json("runs/gone/config.json")
    config.write_json("runs/gone/config.json", {**facts, "imported": {"from": "x", "eos": [2]}})
    refused("is an imported model.*; init_from=runs/gone and another run.name go on from it", name="gone")
    shutil.rmtree("runs/gone/checkpoints")
    refused("has no checkpoint yet", "init_from=runs/gone", name="s")


# ---- the record of a run is what was trained ----

def test_a_finished_run_is_not_trained_again_and_keeps_its_recipe(work, capsys):
    train.train(tiny("bloom", "r"))
    capsys.readouterr()
    before, facts = log("r"), config.read_json("runs/r/config.json")
    train.train(tiny("bloom", "r"))
    assert "runs/r is complete: 20 steps, validation loss" in capsys.readouterr().out
    for setting, words in (
            ("optim.lr=1e-2", "with optim.lr=0.004, now it is 0.01: a run keeps its recipe.*; use another"),
            ("model.dim=48", "model.dim=24"), ("run.tokens=1280", "tokens=2560, now it is 1280.*may grow"),
            ("optim.decay=2560", "optim.decay=None"), ("data.weights={'en': 1, 'fr': 2}", "weights=None"),
            ("data.name=tiny-sp", "data/tiny-sp was made with another tokenizer than that of runs/r")):
        with pytest.raises(ValueError, match=words):
            train.train(tiny("bloom", "r", setting))
    assert log("r") == before and config.read_json("runs/r/config.json") == facts


def test_a_longer_run_says_what_becomes_of_the_learning_rate(work, capsys):
    train.train(tiny("bloom", "r"))
    train.train(tiny("bloom", "r", "run.tokens=3840"))
    out = capsys.readouterr().out
    assert "changed since runs/r was last started: run.tokens 2560 -> 3840" in out
    assert "the learning rate at step 20 was 4.00e-04, now it is" in out
    assert "optim.decay=2560 would keep the old schedule" in out
    assert log("r")[-1]["step"] == 30 and config.read_json("runs/r/config.json")["run"]["tokens"] == 3840
    train.train(tiny("bloom", "kept"))
    train.train(tiny("bloom", "kept", "run.tokens=3840", "optim.decay=2560"))
    assert all(r["lr"] == pytest.approx(4e-4) for r in log("kept") if r["step"] > 20 and "lr" in r)


def test_each_start_is_a_line_of_the_log_with_what_changed(work):
    train.train(tiny("bloom", "r"), after(step11=ask))
    train.train(tiny("bloom", "r", "machine.micro=4"))
    starts = [r for r in checkpoint.open_run("runs/r").records() if "start" in r]
    assert [(r["step"], r["start"]["changed"]) for r in starts] == [(0, {}), (12, {"machine.micro": [2, 4]})]


def test_runs_made_before_settings_of_the_machine_had_a_section_go_on(work):
    """Their config.json has these settings in `run` and `data`."""
    train.train(tiny("bloom", "whole"))
    train.train(tiny("bloom", "r"), after(step11=ask))
    facts = config.read_json("runs/r/config.json")
    machine = facts.pop("machine")
    facts["data"]["prepare"] = machine.pop("prepare")
    facts["run"] |= machine | {"background": False}
    config.write_json("runs/r/config.json", facts)
    train.train(tiny("bloom", "r"))
    assert_same_run("whole", "r")


def test_data_made_again_is_refused(own_data):
    train.train(tiny("bloom", "r"))
    manifest = config.read_json("data/tiny/manifest.json")
    manifest["sources"]["en"]["train"]["sha256"] = "0" * 64
    config.write_json("data/tiny/manifest.json", manifest)
    with pytest.raises(ValueError, match="^runs/r was trained on other data than data/tiny holds now$"):
        train.train(tiny("bloom", "r"))
    manifest["tokenizer"]["fingerprint"] = "other"
    config.write_json("data/tiny/manifest.json", manifest)
    with pytest.raises(ValueError, match="another tokenizer than that of runs/r"):
        train.train(tiny("bloom", "r"))


# ---- bad steps ----

class Infinite(torch.autograd.Function):
    """Adds 0 to the loss and infinity to the gradient."""
    @staticmethod
    def forward(ctx, w):
        ctx.shape = w.shape
        return w.new_zeros(())

    @staticmethod
    def backward(ctx, g):
        return torch.full(ctx.shape, float("inf"))


def poison(what):
    """A hook for train() that gives step n a what[n], "loss" or "gradient", that is not finite."""
    hooks = []

    def hook(training):
        while hooks:
            hooks.pop().remove()
        bad = what.get(training.step + 1)

        def spoil(model, args, loss):
            if not torch.is_grad_enabled():
                return loss
            return loss * math.nan if bad == "loss" else loss + Infinite.apply(model.embed.weight)
        if bad:
            hooks.append(training.model.register_forward_hook(spoil))
    return hook


def test_a_step_that_is_not_finite_updates_nothing_and_is_counted(work, capsys):
    bad = {4: "loss", 5: "loss", 7: "gradient"}
    train.train(tiny("bloom", "r", "run.tokens=1280", "machine.save_every=1", "machine.keep=20"), poison(bad))
    states = {step: state("runs/r", step) for step in range(2, 10)}
    for step in range(3, 10):
        a, b = states[step - 1], states[step]
        same = all(torch.equal(a[k], b[k]) for k in a)
        assert same == (step in bad), f"step {step}: all change, or none does"
    assert [r["step"] for r in log("r") if "skipped" in r] == [*bad] and log("r")[-1]["step"] == 10
    assert config.read_json("runs/r/checkpoints/0000010/state.json")["skipped"] == [*bad]
    out = capsys.readouterr().out
    assert "step      4/10   loss" in out and "Its rows begin with (source, epoch, window): ('" in out


def test_three_such_steps_in_a_row_stop_the_run_also_over_a_restart(work):
    words = (r"step 11: loss nan.*3 steps in a row \(machine.bad_steps\).*last checkpoint is 10.*"
             "machine.skip_steps=9:12")
    with pytest.raises(ValueError, match=words):
        train.train(tiny("bloom", "r"), poison(dict.fromkeys([9, 10, 11], "loss")))
    assert checkpoint.steps("runs/r") == [10]
    with pytest.raises(ValueError, match="3 steps in a row"):
        train.train(tiny("bloom", "r"), poison({11: "loss"}))


def test_skip_steps_leaves_out_exactly_those_rows(work):
    """As if the steps' gradients had never been; the rows and rates of other steps do not move."""
    train.train(tiny("bloom", "plain"))
    train.train(tiny("bloom", "left", "machine.skip_steps=6:8"))
    plain, left = ({r["step"]: r for r in log(name) if "val" not in r} for name in ("plain", "left"))
    assert left[6]["skipped"] == left[7]["skipped"] == "machine.skip_steps"
    assert plain[5] == left[5] and plain[8]["loss"] != left[8]["loss"]
    for step in plain.keys() - {6, 7}:
        assert plain[step]["lr"] == left[step]["lr"] and plain[step]["rows"] == left[step]["rows"]
    train.train(tiny("bloom", "poisoned"), poison({6: "loss", 7: "loss"}))
    assert_same_state("left", "poisoned")


# ---- wrong settings and data ----

@pytest.mark.parametrize("model, settings, words", [
    ("bloom", ["data.name=nothing"], "no prepared data in data/nothing"),
    ("bloom", ["model.context=100000"], "100,001"), ("bloom", ["model.vocab=300"], "500 entries"),
    ("llama", ["data.name=tiny", "data.weights={'de': 1}"], "data.weights names 'de'; data/tiny has en, fr"),
    ("bloom", ["machine.device=cuda"], "device cuda: this machine has none")])
def test_settings_that_do_not_fit_the_data_or_the_machine_are_refused(work, model, settings, words):
    if "cuda" in words and torch.cuda.is_available():
        pytest.skip("this machine has one")
    with pytest.raises(ValueError, match=words):
        train.train(tiny(model, "x", *settings))
    assert not os.path.exists("runs/x")


def test_damaged_data_is_refused(own_data):
    with open("data/tiny/tokens/en/train.bin", "ab") as f:
        f.write(b"xx")
    with pytest.raises(ValueError, match="train.bin has"):
        train.train(tiny("bloom", "x"))
    assert not os.path.exists("runs")


def test_missing_data_is_prepared_by_the_recipe_of_that_name_only(work):
    """The recipe's own name must be data.name: with another name it is not what the user asked for."""
    os.remove("data")
    with open("recipe.py", "w") as f:
        source = f"Source('fr', '{ROOT}/samples/stories/fr.txt', reader='stories')"
        f.write("from corpus.recipe import Corpus, Source, Tokenizer\n\n"
                f"def config():\n    return Corpus('fresh', [{source}], Tokenizer('bpe', 400))\n")
    with pytest.raises(ValueError, match="no prepared data in data/other"):
        train.train(tiny("bloom", "x", "data.name=other", "machine.prepare=recipe.py"))
    train.train(tiny("bloom", "x", "data.name=fresh", "run.tokens=256", "machine.prepare=recipe.py"))
    assert log("x")[-1]["step"] == 2


def test_a_broken_line_of_the_log_is_named(work):
    train.train(tiny("bloom", "r", "run.tokens=1280"))
    with open("runs/r/log.jsonl", "a") as f:
        f.write("{broken}\n")
    with pytest.raises(ValueError, match="log.jsonl, line .* is not a record"):
        train.train(tiny("bloom", "r", "run.tokens=2560"))
