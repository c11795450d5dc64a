import json
import math
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time

import pytest
import torch
from conftest import ROOT, arguments, log, run, tiny
from safetensors.torch import load

import checkpoint
import config
import data
import train
from model import Transformer, init

BOTH = pytest.mark.parametrize("name", ["bloom", "llama"])


def weights(run, step=20):
    """Every tensor of a checkpoint, optimizer included."""
    folder = f"runs/{run}/checkpoints/{step:07d}"
    return {part + name: t for part in ("model", "optimizer") for f in os.listdir(f"{folder}/{part}") if f.endswith(".safetensors")
            for name, t in load(open(f"{folder}/{part}/{f}", "rb").read()).items()}


def assert_same_run(a, b):
    assert log(a) == log(b), "rows, losses, norms and learning rates must be the same to the last bit"
    x, y = weights(a), weights(b)
    assert x.keys() == y.keys() and all(torch.equal(x[k], y[k]) for k in x), [k for k in x if not torch.equal(x[k], y[k])]


DIES = """
import os, signal, sys
import checkpoint, data, train
rows, write = data.Rows.rows, checkpoint.config.write_json
def read(self, step, *place):
    if "{where}" == "step" and step == 14: os.kill(os.getpid(), signal.SIGKILL)
    return rows(self, step, *place)
def written(path, value):
    if "{where}" == "save" and path.endswith("0000020/done"): os.kill(os.getpid(), signal.SIGKILL)
    write(path, value)
data.Rows.rows, checkpoint.config.write_json = read, written
train.main()
"""


@BOTH
@pytest.mark.parametrize("where", ["step", "save"])
def test_kill_and_resume_equals_not_stopping(work, name, where):
    train.train(tiny(name, "whole"))
    killed = subprocess.run([sys.executable, "-c", DIES.replace("{where}", where), *arguments(name, "killed")], env={**os.environ, "PYTHONPATH": ROOT}, capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL and checkpoint.steps("runs/killed") == [10], killed.stderr
    train.train(tiny(name, "killed"))
    assert_same_run("whole", "killed")


def test_sigterm_saves_at_the_step_boundary_and_exits_0_also_twice(work):
    train.train(tiny("bloom", "whole", "run.tokens=38400", "machine.save_every=1000", "run.eval_every=1000"))       # 300 steps
    args = arguments("bloom", "stopped", "run.tokens=38400", "machine.save_every=1000", "run.eval_every=1000")
    for _ in range(2):
        p = subprocess.Popen([sys.executable, f"{ROOT}/train.py", *args], stdout=subprocess.PIPE, text=True)
        for line in p.stdout:
            if line.startswith("step ") and "loss" in line and "validation" not in line:
                p.send_signal(signal.SIGTERM)
                break
        rest = p.stdout.read()
        assert p.wait() == 0 and "stopped by SIGTERM" in rest, rest
        assert 0 < checkpoint.steps("runs/stopped")[-1] < 300
    train.train(tiny("bloom", "stopped", "run.tokens=38400", "machine.save_every=1000", "run.eval_every=1000"))
    assert log("whole") == log("stopped")
    a, b = weights("whole", 300), weights("stopped", 300)
    assert all(torch.equal(a[k], b[k]) for k in a)


@BOTH
def test_micro_batches_do_not_change_the_result(work, name):
    for micro in (1, 4):
        train.train(tiny(name, f"m{micro}", f"machine.micro={micro}"))
    for a, b in zip(log("m1"), log("m4")):
        if "loss" in a:
            assert a["loss"] == pytest.approx(b["loss"], abs=1e-5) and a["rows"] == b["rows"]


def test_the_loss_goes_down_and_twice_is_the_same(work):
    """A golden toy run: from about ln 512 = 6.2 at the start to clearly less."""
    for name in ("a", "b"):
        train.train(tiny("bloom", name, "run.tokens=12800", "optim.lr=1e-2", "machine.save_every=100", "run.eval_every=50"))
    val = [r["val"]["loss"] for r in log("a") if "val" in r]
    assert 6.0 < val[0] < 6.8 and val[-1] < 5.0 and val[-1] < val[1] < val[0]
    assert log("a") == log("b")


def test_decay_is_for_matrices_only(work):
    model = init(Transformer(tiny_model()), 0)
    decayed, plain = train.adamw(model, config.load(f"{ROOT}/configs/bloom.py").optim).param_groups
    names = {id(p): n for n, p in model.named_parameters()}
    assert decayed["weight_decay"] == 0.1 and plain["weight_decay"] == 0
    assert "embed.weight" in [names[id(p)] for p in decayed["params"]]
    assert all("norm" in names[id(p)] or names[id(p)].endswith("bias") for p in plain["params"]) and len(plain["params"]) > 0


def tiny_model():
    cfg = config.load(f"{ROOT}/configs/bloom.py", ["model.layers=1", "model.dim=16", "model.heads=2", "model.vocab=64"])
    return cfg.model


@pytest.mark.parametrize("name", ["bloom", "llama"])
def test_a_run_begins_with_the_weights_of_another_and_a_schedule_of_its_own(work, name):
    train.train(tiny(name, "first", "model.mlp_dim=40"))
    settings = ["run.tokens=1280", "optim.lr=1e-4", "optim.min_lr=1e-5", "init_from=runs/first", "run.seed=7", "machine.save_every=5", "optim.decay=1280"]
    train.train(tiny(name, "second", *settings))
    records = log("second")
    assert json.load(open("runs/second/config.json"))["model"]["mlp_dim"] == 40, "the shape is that of the other run too"
    assert records[0]["val"] == next(r["val"] for r in log("first") if r["step"] == 20 and "val" in r) and records[1]["lr"] == pytest.approx(1e-4 * 128 / 512)
    # stopped and continued it goes on from its own checkpoint, not from the other run's weights
    train.train(tiny(name, "third", *settings, "run.tokens=640"))
    train.train(tiny(name, "third", *settings))
    assert all(torch.equal(t, weights("second", 10)[k]) for k, t in weights("third", 10).items())


def test_context_and_init_std_of_a_run_that_begins_with_another_are_its_own(work):
    train.train(tiny("bloom", "first", "run.tokens=128"))
    path, *settings = arguments("bloom", "r", "run.tokens=128", "model.context=16", "model.init_std=0.5", "init_from=runs/first")
    cfg = config.check_config(config.load(path, settings))
    assert (cfg.model.context, cfg.model.init_std) == (16, 0.5)
    train.train(cfg)


def test_a_run_that_cannot_begin_with_another_s_weights_says_why(work):
    train.train(tiny("bloom", "first", "run.tokens=128"))
    with pytest.raises(ValueError, match="runs/none is not a run.*convert.py import makes one of a Hugging Face folder"):
        tiny("bloom", "r", "init_from=runs/none")
    with pytest.raises(ValueError, match="holds a model with position=alibi, model.position=none is another one"):
        train.train(tiny("bloom", "r", "init_from=runs/first", "model.position=none"))
    with pytest.raises(ValueError, match="another tokenizer than that of runs/first.*--tokenizer runs/first/tokenizer"):
        train.train(tiny("bloom", "r", "init_from=runs/first", "data.name=tiny-sp"))
    train.train(tiny("bloom", "r", "init_from=runs/first/", "run.tokens=128", "model.context=16"))
    with pytest.raises(ValueError, match="began with init_from=runs/first, now it is None"):
        train.train(tiny("bloom", "r", "run.tokens=256", "model.context=16"))
    os.rename("runs/first", "runs/gone")
    train.train(tiny("bloom", "r", "init_from=runs/first", "run.tokens=256", "model.context=16"))         # it has begun: the other may be gone
    assert log("r")[-1]["step"] == 4
    os.rename("runs/gone", "runs/first")
    os.rename("runs/first/checkpoints", "runs/first/gone")
    with pytest.raises(ValueError, match="has no checkpoint yet"):
        train.train(tiny("bloom", "s", "init_from=runs/first"))
    facts = json.load(open("runs/first/config.json"))
    json.dump({**facts, "imported": {"from": "x", "eos": [2]}}, open("runs/first/config.json", "w"))
    with pytest.raises(ValueError, match="is an imported model; train.py goes on from it with init_from=runs/first"):
        train.train(tiny("bloom", "first"))


def test_one_step_is_adamw_on_the_clipped_mean_gradient(work):
    """The first step by hand: Adam moves each weight by lr * sign(g), and decays matrices by lr * 0.1."""
    cfg = tiny("bloom", "one", "run.tokens=128", "machine.save_every=1", "optim.warmup=128", "optim.lr=1e-3", "optim.decay=256")
    train.train(cfg)
    before, after = init(Transformer(cfg.model), cfg.run.seed).embed.weight.detach(), weights("one", 1)
    x, y, *_ = data.Rows(cfg).rows(0)
    model = init(Transformer(cfg.model), cfg.run.seed)
    (model(torch.from_numpy(x), torch.from_numpy(y)) / (y >= 0).sum()).backward()
    norm = torch.sqrt(sum((p.grad ** 2).sum() for p in model.parameters()))
    g = model.embed.weight.grad * min(1, 1 / (norm + 1e-6))
    want = before * (1 - 1e-3 * 0.1) - 1e-3 * g / (g.abs() + 1e-8)
    assert torch.allclose(after["modelembed.weight"], want, atol=2e-6)
    assert log("one")[1]["norm"] == pytest.approx(norm.item(), rel=1e-4)


def test_finished_and_changed_runs_say_so(work, capsys):
    train.train(tiny("bloom", "r"))
    capsys.readouterr()
    train.train(tiny("bloom", "r"))
    assert "runs/r is complete: 20 steps" in capsys.readouterr().out
    train.train(tiny("bloom", "r", "run.tokens=3840", "optim.clip=0.5"))
    out = capsys.readouterr().out
    assert "optim.clip 1.0 -> 0.5" in out and "continuing runs/r after step 20" in out and log("r")[-1]["step"] == 30
    for setting, words in ("model.dim=48", "another shape: model.dim is 24 there and 48 here"), ("run.seed=7", "run.seed=42"), ("data.name=tiny-sp", "another tokenizer|data"):
        with pytest.raises(ValueError, match=words):
            train.train(tiny("bloom", "r", setting))


def test_only_the_newest_and_the_best_checkpoints_are_kept(work):
    for step in range(1, 7):
        os.makedirs(f"runs/r/checkpoints/{step:07d}")
        open(f"runs/r/checkpoints/{step:07d}/done", "w").close()
    checkpoint.prune("runs/r", 2, {2: 5.0, 3: 4.0, 4: math.nan, 5: 4.5}, 5)
    assert checkpoint.steps("runs/r") == [3, 4, 5, 6], "6 is none of the newest: the run went on from one before it"
    checkpoint.prune("runs/r", 2, {3: 4.0, 4: math.nan}, 6)
    assert checkpoint.steps("runs/r") == [3, 5, 6], "a loss that is no number is not the best"


@pytest.mark.parametrize("damage", ["truncate", "flip", "delete", "not done"])
@pytest.mark.parametrize("part", ["model", "optimizer"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(work, capsys, damage, part):
    train.train(tiny("bloom", "r"))
    want = weights("r")
    folder = "runs/r/checkpoints/0000020"
    path = f"{folder}/done" if damage == "not done" else f"{folder}/{part}/{os.listdir(f'{folder}/{part}')[0]}"
    if damage in ("delete", "not done"):
        os.remove(path)
    else:
        content = bytearray(open(path, "rb").read())
        content[-100] ^= 1
        open(path, "wb").write(content if damage == "flip" else content[:-8])
    capsys.readouterr()
    train.train(tiny("bloom", "r"))
    out = capsys.readouterr().out
    assert "continuing runs/r after step 10" in out
    assert damage == "not done" or path in out and "using the one before it" in out
    assert all(torch.equal(t, want[k]) for k, t in weights("r").items())


def test_when_every_checkpoint_is_damaged_it_does_not_start_over_silently(work):
    train.train(tiny("bloom", "r"))
    for step in (10, 20):
        os.remove(f"runs/r/checkpoints/{step:07d}/state.json")
    with pytest.raises(ValueError, match="none of the 2 checkpoints"):
        train.train(tiny("bloom", "r"))


def test_a_reader_of_a_run_that_goes_on_takes_the_checkpoint_that_took_the_place_of_a_deleted_one(work, monkeypatch, capsys):
    train.train(tiny("bloom", "r"))
    shutil.move("runs/r/checkpoints/0000010", "later")
    with torch.device("meta"):
        model = Transformer(config.Model(**json.load(open("runs/r/config.json"))["model"]))
    model, load = model.to_empty(device="cpu"), checkpoint.load

    def pruned(folder, *args):
        if os.path.exists("later"):
            shutil.rmtree(folder)
            shutil.move("later", "runs/r/checkpoints/0000030")
        return load(folder, *args)
    monkeypatch.setattr(checkpoint, "load", pruned)
    assert checkpoint.newest("runs/r", model)["step"] == 10, "what its state.json says"
    assert "damaged" not in capsys.readouterr().out


def poison(monkeypatch, what, steps):
    """Make the first micro-batch of these steps (two each, counted from 1) give a loss or a gradient that is not finite."""
    forward, calls = Transformer.forward, []

    class Inf(torch.autograd.Function):         # adds 0 to the loss and infinity to the gradient
        @staticmethod
        def forward(ctx, w):
            ctx.shape = w.shape
            return w.new_zeros(())

        @staticmethod
        def backward(ctx, g):
            return torch.full(ctx.shape, float("inf"))

    def poisoned(self, ids, targets=None, **k):
        out = forward(self, ids, targets, **k)
        if torch.is_grad_enabled():
            calls.append(1)
            if len(calls) in [2 * step - 1 for step in steps]:
                return out * float("nan") if what == "loss" else out + Inf.apply(self.embed.weight)
        return out
    monkeypatch.setattr(Transformer, "forward", poisoned)


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_a_step_that_is_not_finite_updates_nothing_and_is_counted(work, monkeypatch, capsys, what):
    poison(monkeypatch, what, [14, 15, 17])
    train.train(tiny("bloom", "r", "machine.save_every=1", "machine.keep=20"))
    for step in range(12, 20):
        a, b = weights("r", step), weights("r", step + 1)
        same = all(torch.equal(a[k], b[k]) for k in a)
        assert same == (step + 1 in (14, 15, 17)), f"step {step + 1}: weights and moments, step count included, change exactly where the update is finite"
    assert [r["step"] for r in log("r") if "skipped" in r] == [14, 15, 17] and log("r")[-1]["step"] == 20
    with open("runs/r/checkpoints/0000020/state.json") as f:
        assert json.load(f)["skipped"] == [14, 15, 17]
    assert "step     14/20   loss" in (out := capsys.readouterr().out) and "Its rows (source, epoch, window): ('" in out


def test_three_such_steps_in_a_row_stop_the_run(work, monkeypatch):
    poison(monkeypatch, "loss", [9, 10, 11])
    with pytest.raises(ValueError, match=r"step 11: loss nan.*3 steps in a row \(run.bad_steps\).*last checkpoint is 10.*machine.skip_steps=9:12"):
        train.train(tiny("bloom", "r"))
    assert checkpoint.steps("runs/r") == [10]


def test_the_count_of_such_steps_survives_a_restart(work):
    write = train.Log.write

    def ask(self, step, **record):
        write(self, step=step, **record)
        if step == 9:
            open("runs/r/stop", "w").close()
    with pytest.MonkeyPatch.context() as m:
        poison(m, "loss", [9, 10])
        m.setattr(train.Log, "write", ask)
        train.train(tiny("bloom", "r"))
    assert checkpoint.steps("runs/r") == [10] and not os.path.exists("runs/r/stop"), "the file stops the run at the next step boundary, once"
    with pytest.MonkeyPatch.context() as m:
        poison(m, "loss", [1])          # the first step of this process: 11
        with pytest.raises(ValueError, match="3 steps in a row"):
            train.train(tiny("bloom", "r"))


def test_skip_steps_leaves_out_exactly_those_rows(work):
    """As if the steps' gradients had never been: the same weights as a run whose steps 6 and 7 were not finite; other rows and rates unmoved."""
    train.train(tiny("bloom", "plain"))
    train.train(tiny("bloom", "left", "machine.skip_steps=6:8"))
    plain, left = ({r["step"]: r for r in log(name) if "val" not in r} for name in ("plain", "left"))
    assert left[6]["skipped"] == left[7]["skipped"] == "run.skip_steps"
    assert plain[5] == left[5] and plain[8]["loss"] != left[8]["loss"]
    assert all(plain[s]["lr"] == left[s]["lr"] and plain[s]["rows"] == left[s]["rows"] for s in plain if s not in (6, 7))
    with pytest.MonkeyPatch.context() as m:
        poison(m, "loss", [6, 7])
        train.train(tiny("bloom", "poisoned"))
    a, b = weights("left"), weights("poisoned")
    assert all(torch.equal(a[k], b[k]) for k in a)


def test_a_full_disk_during_a_save_is_a_warning_and_the_next_save_is_tried(work, monkeypatch, capsys):
    """The operating system refuses to write more than a few hundred bytes into any file while steps 10 to 15 run."""
    train.train(tiny("bloom", "whole", "machine.save_every=5"))
    capsys.readouterr()
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    step_log = train.Log.write

    def full(self, step, **record):
        resource.setrlimit(resource.RLIMIT_FSIZE, (500 if 10 <= step < 16 else hard, hard))
        step_log(self, step=step, **record)
    monkeypatch.setattr(train.Log, "write", full)
    try:
        train.train(tiny("bloom", "r", "machine.save_every=5"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    out = capsys.readouterr().out
    assert out.count("warning: cannot save runs/r/checkpoints/00000") == 2 and "the run goes on" in out and "cannot write runs/r/log.jsonl" in out
    assert sorted(os.listdir("runs/r/checkpoints")) == ["0000005", "0000020"]
    assert_same_run("whole", "r")


def test_a_last_save_that_fails_is_an_error(work, monkeypatch):
    def full(path, value):
        raise OSError(28, "No space left on device")
    train.train(tiny("bloom", "r", "run.tokens=1280"))
    monkeypatch.setattr(checkpoint.config, "write_json", lambda path, value, write=config.write_json: full(path, value) if "checkpoints" in path else write(path, value))
    with pytest.raises(OSError, match="cannot save runs/r/checkpoints/0000020.*No space left.*make room"):
        train.train(tiny("bloom", "r"))
    assert checkpoint.steps("runs/r") == [10] and os.listdir("runs/r/checkpoints") == ["0000010"]


def test_bad_settings_and_data_are_one_clear_line(own_data):
    def failure(*more, model="bloom"):
        began = time.time()
        out = run("train.py", *arguments(model, "x", *more))
        assert out.returncode == 1 and out.stderr.startswith("error: ") and out.stderr.count("\n") == 1 and not os.path.exists("runs"), (out, time.time() - began)
        return out.stderr
    assert "unknown size '9b'" in failure("size=9b")
    assert "did you mean 'optim.lr'" in failure("optim.lrr=1")
    assert "no prepared data in data/nothing" in failure("data.name=nothing")
    e = failure("model.context=100000")
    assert "training tokens" in e and "100,001" in e
    assert "500 entries" in failure("model.vocab=300")
    with open("data/tiny/tokens/en/train.bin", "ab") as f:
        f.write(b"xx")
    assert "train.bin has" in failure()


def test_data_made_again_with_another_tokenizer_is_refused(own_data):
    train.train(tiny("bloom", "r"))
    with open("data/tiny/manifest.json") as f:
        manifest = json.load(f)
    manifest["tokenizer"]["fingerprint"] = "other"
    config.write_json("data/tiny/manifest.json", manifest)
    with pytest.raises(ValueError, match="another tokenizer than that of data/tiny"):
        train.train(tiny("bloom", "r"))


def test_training_goes_on_while_a_background_save_is_written_and_the_end_waits_for_it(work, monkeypatch):
    train.train(tiny("bloom", "whole"))
    write, record, later = checkpoint.write, train.Log.write, threading.Event()

    def slow(folder, *rest):
        if folder.endswith("0000010"):
            assert later.wait(20), "step 12 was not reached while step 10 was being saved"
        time.sleep(0.2)
        write(folder, *rest)

    def seen(self, step, **facts):
        record(self, step=step, **facts)
        if step == 12:
            later.set()
    monkeypatch.setattr(checkpoint, "write", slow)
    monkeypatch.setattr(train.Log, "write", seen)
    train.train(tiny("bloom", "r", "run.background=true"))
    assert checkpoint.steps("runs/r") == [10, 20], "when train() returns the last save is complete"
    assert_same_run("whole", "r")
    a, b = weights("whole", 10), weights("r", 10)
    assert all(torch.equal(a[k], b[k]) for k in a), "what is saved is the copy taken at step 10, not what the weights have become"


def test_one_background_save_is_in_flight_at_most(work, monkeypatch):
    write, now, most = checkpoint.write, [], []

    def slow(*args):
        now.append(1)
        most.append(len(now))
        time.sleep(0.1)
        write(*args)
        now.pop()
    monkeypatch.setattr(checkpoint, "write", slow)
    train.train(tiny("bloom", "r", "run.background=true", "machine.save_every=1", "run.tokens=1280"))
    assert most == [1] * 10


def test_each_block_is_compiled_and_the_numbers_stay(work, monkeypatch):
    compiled = []
    monkeypatch.setattr(train, "can_compile", lambda device: True)
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self: compiled.append(type(self).__name__))
    train.train(tiny("bloom", "r", "machine.compile=true"))
    assert compiled == ["Block"] * 2
    train.train(tiny("bloom", "whole"))
    assert all(torch.equal(t, weights("r")[k]) for k, t in weights("whole").items()), "and parameters keep their names"


def test_without_a_compiler_the_run_says_so_and_goes_on(work, monkeypatch, capsys):
    def broken(*args, **kwargs):
        raise RuntimeError("no C++ compiler found")
    monkeypatch.setattr(torch, "compile", broken)
    train.train(tiny("bloom", "r", "machine.compile=true"))
    err = capsys.readouterr().err
    assert err.count("compile: not possible here, going on without (RuntimeError: no C++ compiler found)") == 1 and log("r")[-1]["step"] == 20


@pytest.mark.slow
@BOTH
def test_compiled_blocks_give_the_losses_of_eager_ones(work, name):
    """With a real compiler, and both with and without recomputation."""
    train.train(tiny(name, "eager"))
    for recompute in ("true", "false"):
        train.train(tiny(name, f"compiled-{recompute}", "machine.compile=true", f"machine.recompute={recompute}"))
        for a, b in zip(log("eager"), log(f"compiled-{recompute}")):
            assert "loss" not in a or a["loss"] == pytest.approx(b["loss"], abs=1e-4)


def test_out_of_memory_is_one_line_with_a_way_out(work, monkeypatch):
    def full(*args):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
    monkeypatch.setattr(train, "gradients", full)
    monkeypatch.setattr(sys, "argv", ["train.py", *arguments("bloom", "r")])
    with pytest.raises(ValueError, match="Tried to allocate 2.00 GiB. Make machine.micro=2 smaller, set machine.recompute=true"):
        train.main()


def test_what_fails_in_a_background_save_and_is_no_full_disk_ends_the_run(work, monkeypatch):
    def broken(*args):
        raise RuntimeError("a bug")
    monkeypatch.setattr(checkpoint, "write", broken)
    for background in ("true", "false"):
        with pytest.raises(RuntimeError, match="a bug"):
            train.train(tiny("bloom", f"r-{background}", f"run.background={background}"))


def test_a_damaged_checkpoint_never_takes_the_place_of_a_good_one(work, monkeypatch):
    """keep=1: the newest is damaged, the run goes on from the one before and stops early. What it saves then must stay."""
    train.train(tiny("bloom", "r", "machine.keep=2", "run.eval_every=1000"))
    path = next(os.path.join("runs/r/checkpoints/0000020/model", f) for f in os.listdir("runs/r/checkpoints/0000020/model"))
    with open(path, "r+b") as f:
        f.truncate(100)
    write = train.Log.write
    monkeypatch.setattr(train.Log, "write", lambda self, step, **facts: (write(self, step=step, **facts), step == 13 and open("runs/r/stop", "w").close()))
    train.train(tiny("bloom", "r", "machine.keep=1", "run.eval_every=1000"))
    assert 14 in checkpoint.steps("runs/r")
    train.train(tiny("bloom", "r", "machine.keep=1", "run.eval_every=1000"))
    assert checkpoint.steps("runs/r") == [20] and log("r")[-1]["step"] == 20


@pytest.mark.parametrize("file, text, words", [("log.jsonl", "nonsense\n", "log.jsonl, line 1 is no record"), ("log.jsonl", "{}\n", "log.jsonl, line 1 is no record"), ("config.json", "{", "runs/r/config.json is not JSON")])
def test_a_broken_file_of_a_run_is_named(work, file, text, words):
    train.train(tiny("bloom", "r", "run.tokens=1280"))
    with open(f"runs/r/{file}", "w") as f:
        f.write(text)
    with pytest.raises(ValueError, match=words):
        train.train(tiny("bloom", "r", "run.tokens=1280"))


def test_what_cannot_be_read_back_is_no_checkpoint(work, monkeypatch, capsys):
    sha256 = config.sha256

    def broken(path):
        if "0000010/optimizer" in path:
            raise OSError(5, "Input/output error")
        return sha256(path)
    monkeypatch.setattr(config, "sha256", broken)
    train.train(tiny("bloom", "r"))
    assert checkpoint.steps("runs/r") == [20] and "warning: cannot save runs/r/checkpoints/0000010: not every process can read back every file" in capsys.readouterr().out
