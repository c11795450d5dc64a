import contextlib
import json
import math
import os
import re
import signal
import statistics
import sys

import numpy as np
import pytest
import torch
from conftest import ROOT, arguments, log, run

import config
import plan
import train
from evaluation import tasks
from model import Transformer, count
from planning import ablate
from planning import law as scaling


def load(name, *settings):
    return config.check_config(config.load(f"{ROOT}/configs/{name}.py", settings))


def test_bloom_176b_on_its_384_gpus_takes_the_days_its_log_says_and_those_of_the_empty_rows():
    """104 tokens/s per A100, 36% of its peak, is what the public log's 105 s per step come to: 106 days. Here 2048 rows do not divide over
    384 processes, 6 rows each are 2304; BLOOM's 8 copies of the model, 48 GPUs each, had 256 rows each."""
    out = run("plan.py", f"{ROOT}/configs/bloom.py", "size=176b", "gpus=384", "mfu=0.36").stdout
    assert "176,247,271,424 parameters, 3,596,615,680 of them in the embedding" in out and "1,082.1 GFLOPs per token (2.3% of them attention)" in out
    a100 = next(line for line in out.splitlines() if re.match(r"A100 +80 GB", line)).split()
    assert a100[3] == "yes" and float(a100[6]) == pytest.approx(106.3 * 2304 / 2048, abs=0.1) and "256 of 2304 empty" in out
    assert "2,115.0 GB" in out, "12 bytes per parameter; BLOOM's 2.3 TB had a bfloat16 copy besides"


def test_bytes_of_the_state_by_hand():
    """16 bytes per parameter in all (FSDP with float32 weights): 7,069,016,064 of them are 105.3 GiB, 13.2 on each of 8 GPUs."""
    got = plan.memory(load("bloom", "size=7b1"), 8)
    assert (got["weights"] + got["gradients"] + got["moments"]) * 8 / 2 ** 30 == pytest.approx(105.3, abs=0.05)
    copies, halves = plan.memory(load("bloom", "size=7b1", "machine.shard=1"), 8), plan.memory(load("bloom", "size=7b1", "machine.shard=4"), 8)
    assert copies["moments"] == 8 * 7_069_016_064 and halves["moments"] == copies["moments"] / 4
    assert halves["gathered"] == got["gathered"] == 2 * (1_027_604_480 + 4 * 4096) + 4 * 201_379_840


def test_recompute_keeps_one_float32_row_per_block():
    with_, without = (plan.memory(load("llama", "size=7b", f"machine.recompute={r}"), 64)["activations"] for r in ("true", "false"))
    assert with_ == 2048 * (32 * 4 * 4096 + 10 * 4096) and without > 10 * with_


@pytest.mark.parametrize("name, size, capacity, recompute", [("bloom", "7b1", 80, True), ("llama", "65b", 80, True), ("llama", "7b", 40, False), ("bloom", "1b1", 24, False)])
def test_the_fewest_gpus_fit_and_one_fewer_does_not(name, size, capacity, recompute):
    cfg = load(name, f"size={size}", f"machine.recompute={recompute}")
    n = plan.fewest(cfg, capacity * 10 ** 9)
    assert n > 1 and plan.fits(cfg, n, capacity * 10 ** 9) and not plan.fits(cfg, n - 1, capacity * 10 ** 9), n
    in_eights = plan.fewest(load(name, f"size={size}", f"machine.recompute={recompute}", "machine.shard=8"), capacity * 10 ** 9)
    assert in_eights in (None, 1) or in_eights % 8 == 0


def test_what_fits_nowhere_is_said_plainly():
    out = run("plan.py", f"{ROOT}/configs/bloom.py", "size=176b", "gpus=8", "machine.recompute=false").stdout
    assert "It fits on none of these with 8 GPUs; what helps: more GPUs, machine.recompute=true\n" in out


@pytest.mark.parametrize("settings, words", [(["gpus=0"], "gpus=0: it must be above 0"), (["mfu=40"], "mfu=40: it must be above 0 and at most 1"), (["gpus=8", "machine.shard=3"], "machine.shard=3 does not divide gpus=8"),
                                             (["gpu=8"], "unknown setting 'gpu'"), (["size=toy"], "model.vocab=4096")])
def test_wrong_settings_are_one_line(settings, words):
    out = run("plan.py", f"{ROOT}/configs/bloom.py", "size=560m", *settings)
    assert out.returncode == 1 and words in out.stderr and out.stderr.count("\n") == 1


def test_a_data_config_is_refused():
    out = run("plan.py", f"{ROOT}/configs/data/sample.py")
    assert out.returncode == 1 and "sample is a data config" in out.stderr


def agree(cfg, gpus):
    want, seen = plan.memory(cfg, gpus), plan.rehearse(cfg, gpus)
    assert want.keys() == seen.keys()
    for part in want:
        assert want[part] == pytest.approx(seen[part], rel=0.15), f"{part} on {gpus}: {want[part] / 2 ** 20:.1f} MiB by formula, {seen[part] / 2 ** 20:.1f} MiB counted"


@pytest.mark.parametrize("name", ["bloom", "llama"])
@pytest.mark.parametrize("gpus, settings", [(1, []), (1, ["machine.recompute=true"]), (8, []), (8, ["machine.recompute=true", "machine.micro=2"]), (8, ["machine.shard=4"]), (4, ["machine.shard=1"])])
def test_the_formulas_are_what_pytorch_counts(name, gpus, settings):
    """A step of the real program on tensors without memory, small but with the paper's proportions: each part within 15%."""
    agree(load(name, "model.layers=3", "model.dim=512", "model.heads=8", "model.context=512", "model.vocab=50048", "run.batch=256", "machine.micro=1", *settings), gpus)


@pytest.mark.slow
@pytest.mark.parametrize("name, size, gpus", [("bloom", "560m", 32), ("bloom", "1b1", 32), ("bloom", "1b7", 64), ("bloom", "3b", 64), ("bloom", "7b1", 128), ("bloom", "176b", 384),
                                              ("llama", "7b", 128), ("llama", "13b", 256), ("llama", "33b", 1024), ("llama", "65b", 2048)])
def test_every_published_size_rehearses(name, size, gpus):
    agree(load(name, f"size={size}"), gpus)


LAW = {"E": 1.2, "A": 60.0, "B": 90.0, "alpha": 0.35, "beta": 0.30}


def family(folder, dims=(16, 32, 64, 128), lengths=(2 ** 17, 2 ** 18, 2 ** 19, 2 ** 20), noise=0.0, **changes):
    """Run folders of several sizes and lengths as train.py leaves them, whose losses obey LAW. Returns their paths."""
    random, runs = np.random.default_rng(0), []
    for dim in dims:
        for tokens in lengths:
            cfg = load("llama", "model.vocab=512", f"model.dim={dim}", "model.heads=2", "model.layers=2", f"run.tokens={tokens}")
            run = folder / f"scale-{dim}-{tokens}"
            run.mkdir(parents=True)
            config.write_json(run / "config.json", {**config.plain(cfg), "tokenizer": {"fingerprint": "1"}, "data_sha256": {"a": "1"}, **changes})
            N = count(Transformer(cfg.model)) - 512 * dim
            records = [{"step": i, "tokens": tokens * i // 8, "loss": scaling.predict(LAW, N, tokens * i / 8)} for i in range(1, 9)]
            records.append({"step": 8, "tokens": tokens, "val": {"loss": scaling.predict(LAW, N, tokens) * math.exp(random.normal(0, noise))}})
            (run / "log.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records) + '{"step": 9, "los')          # a line that is being written
            runs.append(str(run))
    return runs


def test_the_fit_finds_the_constants_that_made_the_losses(tmp_path):
    scaling.main(["fit", *family(tmp_path)])
    found = config.read_json(tmp_path / "fit.json")
    assert found["law"] == pytest.approx(LAW, rel=1e-6) and len(found["runs"]) == 16


def test_intervals_hold_the_constants_behind_noisy_losses_and_shrink_with_the_noise():
    """Eight sets with 1% of noise: an exact 90% interval holds its exponent in seven of them, and in fewer than six once in 26 times."""
    N, D = (v.ravel() for v in np.meshgrid([1e5, 2e5, 4e5, 1e6], [1e5, 2e5, 4e5, 1e6]))

    def intervals(noise, seed):
        _, laws = scaling.fit(N, D, scaling.predict(LAW, N, D) * np.exp(np.random.default_rng(seed).normal(0, noise, len(N))))
        return {key: np.quantile([law[key] for law in laws], (0.05, 0.95)) for key in ("alpha", "beta")}
    noisy, exact = [intervals(0.01, seed) for seed in range(8)], intervals(0.001, 0)
    for key in ("alpha", "beta"):
        inside = [low <= LAW[key] <= high for low, high in (one[key] for one in noisy)]
        assert sum(inside) >= 6 and np.ptp(exact[key]) < np.ptp(noisy[0][key]) / 3, (key, noisy, exact)


def test_one_run_that_went_wrong_does_not_move_the_fit():
    """The Huber loss: a run whose loss is 30% too high moves the exponents as little as one that is 3% too high."""
    N, D = (v.ravel() for v in np.meshgrid([1e5, 2e5, 4e5, 1e6], [1e5, 2e5, 4e5, 1e6]))
    L = scaling.predict(LAW, N, D)
    L[5] *= 1.3
    law, _ = scaling.fit(N, D, L)
    assert law["alpha"] == pytest.approx(LAW["alpha"], rel=0.15) and law["beta"] == pytest.approx(LAW["beta"], rel=0.15)


def test_without_inference_the_cheapest_model_is_the_compute_optimal_one():
    """Two closed forms, derived from either side: the least loss for C, and the least C for that loss."""
    for law in (scaling.HOFFMANN, LAW):
        for C in (1e18, 5.76e23):
            N, D = scaling.compute_optimal(law, C)
            assert scaling.cheapest(law, scaling.predict(law, N, D), 0) == pytest.approx((N, D), rel=1e-6)
            assert law["alpha"] * law["A"] / N ** law["alpha"] == pytest.approx(law["beta"] * law["B"] / D ** law["beta"]), "the loss's two slopes along 6ND = C"


@pytest.mark.parametrize("I", [0, 1e9, 1e12, 1e14, 1e17])
def test_the_budget_is_what_trying_every_size_gives(I):
    law, loss = scaling.HOFFMANN, 2.0
    N = np.geomspace(1e8, 1e12, 400_001)
    with np.errstate(over="ignore"):
        D = np.where(loss - law["E"] - law["A"] / N ** law["alpha"] > 0, (law["B"] / np.maximum(1e-300, loss - law["E"] - law["A"] / N ** law["alpha"])) ** (1 / law["beta"]), np.inf)
    cost = 6 * N * D + 2 * N * I
    size, tokens = scaling.cheapest(law, loss, I)
    assert size == pytest.approx(N[cost.argmin()], rel=1e-3) and 6 * size * tokens + 2 * size * I == pytest.approx(cost.min(), rel=1e-6)
    assert scaling.predict(law, size, tokens) == pytest.approx(loss)


def test_the_budget_table_says_what_it_is_about(tmp_path, capsys):
    scaling.main(["budget", "--train-flops", "5.76e23", "--inference-tokens", "1e13"])
    out = capsys.readouterr().out
    assert "Hoffmann et al. 2022" in out and "a loss of 1.9307" in out
    sizes = [float(line.split()[1].rstrip("B")) for line in out.splitlines() if line.rstrip().endswith(("%", "asked"))]
    assert all(more < less for less, more in zip(sizes, sizes[1:])) and len(sizes) == 9, "more inference, smaller models"
    scaling.main(["fit", *family(tmp_path, noise=0.01)])
    scaling.main(["budget", "--loss", "3", "--inference-tokens", "1e6", "--law", str(tmp_path / "fit.json")])
    assert "of the fit's resamplings say" in capsys.readouterr().out


def test_a_figure_is_two_files_and_the_same_bytes_again(tmp_path):
    pytest.importorskip("matplotlib")
    runs = family(tmp_path, lengths=(2 ** 20,))
    for out in ("a/loss", "b/loss.png"):
        scaling.main(["figure", *runs, "--out", str(tmp_path / out)])
    for end in ("png", "svg"):
        assert (tmp_path / f"a/loss.{end}").read_bytes() == (tmp_path / f"b/loss.{end}").read_bytes()
    svg = (tmp_path / "a/loss.svg").read_text()
    for text in ("training tokens", "training FLOPs", "training loss, nats per token", *(scaling.short(scaling.read(r)["N"]) for r in runs)):
        assert text in svg, text


def test_smoothing_keeps_what_is_straight_and_takes_noise_away():
    assert scaling.smooth([5.0] * 50) == pytest.approx([5.0] * 50) and scaling.smooth(np.arange(100.0))[:80] == pytest.approx(np.arange(80))
    noise = np.random.default_rng(0).normal(0, 1, 1000)
    assert abs(scaling.smooth(noise)[500:]).max() < 0.4


def test_figures_without_matplotlib_name_the_command(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ValueError, match="pip install matplotlib"):
        scaling.main(["figure", *family(tmp_path, lengths=(2 ** 20,))])


def stopped(folder):
    runs = family(folder / "stopped", dims=(16,), lengths=(2 ** 20,))
    path = folder / "stopped" / os.path.basename(runs[0]) / "log.jsonl"
    path.write_text(path.read_text().replace('"tokens": 1048576, "val"', '"tokens": 1048000, "val"'))
    return runs


@pytest.mark.parametrize("arguments, words", [
    (lambda f: ["fit", *family(f / "a", dims=(16, 32))], "8 runs of 2 sizes and 4 lengths: five constants need"),
    (lambda f: ["fit", *stopped(f)], "scale-16-1048576 is not finished"),
    (lambda f: ["fit", *family(f / "a"), *family(f / "b", tokenizer={"fingerprint": "2"})], "different tokens: their losses cannot be compared"),
    (lambda f: ["figure", f"{f}/nothing"], "nothing is not a run"),
    (lambda f: ["budget", "--loss", "1.6"], "1.6 is out of reach: this law's never falls below E=1.69"),
    (lambda f: ["budget", "--train-flops", "-1"], "--train-flops=-1: it must be above 0"),
    (lambda f: ["budget", "--loss", "2", "--law", family(f / "a", dims=(16,), lengths=(2 ** 17,))[0] + "/config.json"], "is not a law: plan.py fit writes one"),
    (lambda f: ["ablate", f"{ROOT}/configs/bloom.py", "model.layers=2"], "no setting has several values"),
    (lambda f: ["ablate", f"{ROOT}/configs/bloom.py", "model.position=alibi,rop"], "model.position=rop: it must be one of"),
    (lambda f: ["ablate", f"{ROOT}/configs/bloom.py", "model.position=alibi,alibi"], "empty or named twice"),
    (lambda f: ["ablate", f"{ROOT}/configs/bloom.py", "model.position=alibi,none", "--seeds", "0"], "--seeds 0: at least 1")])
def test_wrong_requests_are_one_line(tmp_path, monkeypatch, capsys, arguments, words):
    monkeypatch.setattr(sys, "argv", ["plan.py", *arguments(tmp_path)])
    with pytest.raises(SystemExit):
        config.command(plan.main)
    err = capsys.readouterr().err
    assert words in err and err.count("\n") == 1


@pytest.mark.parametrize("command", ["ablate", "figure", "fit", "budget"])
def test_each_command_has_help_with_an_example(command, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["plan.py", command, "--help"])
    with pytest.raises(SystemExit) as end:
        plan.main()
    assert end.value.code == 0 and f"python plan.py {command}" in capsys.readouterr().out


GRID = ["model.position=alibi,none", "model.embed_norm=true,false", "--seeds", "2"]


def small(*more):
    return [ROOT + "/configs/bloom.py", *arguments("bloom", "small")[1:], "run.tokens=1280", *more]


def test_a_grid_is_trained_once_in_its_order_and_goes_on_where_it_was_interrupted(work, monkeypatch, capsys):
    """With train.py's loop in this process. The third run finds a file `stop` after two steps."""
    asked, judged, lr_at = [], [], train.lr_at

    def here(path, settings):
        asked.append(settings[-1].removeprefix("run.name="))
        with monkeypatch.context() as patch:
            if len(asked) == 3:
                patch.setattr(train, "lr_at", lambda tokens, o, total: open(f"runs/{asked[-1]}/stop", "a").close() or lr_at(tokens, o, total))
            train.train(config.check_config(config.load(path, settings)))
    monkeypatch.setattr(ablate, "train_one", here)
    monkeypatch.setattr(ablate, "benchmark", lambda: {"x": ([1], 0, None)})
    monkeypatch.setattr(ablate, "zero_shot", lambda model, tokenizer: judged.append(model) or {"zero-shot": 0.5, "task x": 0.5})
    with pytest.raises(ValueError, match="seed-42 was stopped before its end; the same command continues"):
        ablate.main(small(*GRID))
    ablate.main(small(*GRID))
    names = [f"small-position-{p}-embed_norm-{e}-seed-{s}" for s in (42, 43) for p in ("alibi", "none") for e in ("true", "false")]
    assert asked == [*names[:3], *names[2:]], "each once, in order, and the interrupted one again"
    assert f"continuing runs/{names[2]} after step 2" in capsys.readouterr().out
    ablate.main(small(*GRID))
    assert len(asked) == 9 and len(judged) == 8, "a finished grid trains and judges nothing"
    monkeypatch.setattr(ablate, "benchmark", lambda: {"x": ([1, 2], 0, None)})
    ablate.main(small(*GRID))
    assert len(asked) == 9 and len(judged) == 16, "another benchmark judges again, and trains nothing"
    table = config.read_json("runs/small.json")
    assert [r["run"] for r in table["runs"]] == [f"runs/{n}" for n in names] and list(table["runs"][0]["scores"])[:4] == ["bits per byte", "loss", "loss at 2x", "loss at 4x"]
    logged = log(names[0])[-1]["val"]
    assert table["runs"][0]["scores"]["loss"] == pytest.approx(logged["loss"], abs=1e-6) and table["runs"][0]["scores"]["bits per byte"] == pytest.approx(logged["bits_per_byte"], abs=1e-6)
    with pytest.raises(ValueError, match="was trained with optim.lr=0.004, now it is 0.001: give this grid another run.name"):
        ablate.main(small(*GRID, "optim.lr=1e-3"))
    config.write_json(f"runs/{names[5]}/config.json", config.read_json(f"runs/{names[5]}/config.json") | {"data_sha256": {}})
    with pytest.raises(ValueError, match=f"{names[5]} was trained on other data than data/tiny holds now"):
        ablate.main(small(*GRID))


@pytest.mark.parametrize("script, error, words", [("sys.exit(3)", ValueError, "runs/x ended with exit code 3"),
                                                  ("os.kill(os.getppid(), signal.SIGINT); time.sleep(0.3); open('saved', 'w')", KeyboardInterrupt, None),
                                                  ("signal.signal(signal.SIGTERM, lambda *_: open('saved', 'w')); os.kill(os.getppid(), signal.SIGTERM); time.sleep(0.3)", None, None)])
def test_a_training_process_that_fails_is_named_and_one_that_is_stopped_may_save(tmp_path, monkeypatch, script, error, words):
    (tmp_path / "train.py").write_text(f"import os, signal, sys, time\n{script}")
    monkeypatch.setattr(train, "HERE", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)       # it is ignored where the tests run in the background of a shell
    try:
        with pytest.raises(error, match=words) if error else contextlib.nullcontext():
            ablate.train_one("configs/bloom.py", ["run.name=x"])
    finally:
        signal.signal(signal.SIGINT, before)
    assert "saved" not in script or os.path.exists("saved")


def results(scores):
    """Results of a grid of 2 x 2 choices and as many seeds as each cell has scores: {(a, b): [loss by seed]}"""
    return [{"choices": {"m.a": a, "m.b": b}, "seed": s, "run": "", "scores": {"loss": v}} for (a, b), values in scores.items() for s, v in enumerate(values)]


def test_a_difference_is_held_against_the_seeds_by_hand():
    """b moves the loss by 1.0, 1.1 and 1.2 in one cell of a and by 2.0, 2.1 and 2.2 in the other: 1.6 on average; variance 0.01 in both, so the
    standard error is sqrt(0.01 / 6), with 4 degrees of freedom times 2.78. a moves it by 0, 0.3, -0.3 and 1, 1.3, 0.7: 0.5 +- 2.78 sqrt(0.09 / 6)."""
    axes, got = {"m.a": ["x", "y"], "m.b": ["1", "2"]}, {("x", "1"): [0, 0, 0], ("x", "2"): [1.0, 1.1, 1.2], ("y", "1"): [0, 0.3, -0.3], ("y", "2"): [2.0, 2.4, 1.9]}
    a, b = ablate.differences(axes, results(got), "loss")
    assert (b["setting"], b["from"], b["to"]) == ("m.b", "1", "2") and b["difference"] == pytest.approx(1.6) and b["interval"] == pytest.approx(2.78 * math.sqrt((0.01 + statistics.variance([2.0, 2.1, 2.2])) / 2 / 6))
    assert a["difference"] == pytest.approx(0.5) and a["interval"] == pytest.approx(2.78 * math.sqrt(0.09 / 6)) and ablate.beyond(a) and ablate.beyond(b)
    one = ablate.differences(axes, results({k: v[:1] for k, v in got.items()}), "loss")
    assert one[1]["difference"] == pytest.approx(1.5) and not any(map(ablate.beyond, one)), "one seed has no spread: nothing is claimed"


def test_choices_that_do_nothing_are_called_different_as_rarely_as_promised():
    random, false = np.random.default_rng(0), 0
    for _ in range(300):
        shared = random.normal(0, 1, 3)             # of the seed: it cancels, the rows are the same
        cells = {(a, b): shared + random.normal(0, 0.1, 3) for a in "xy" for b in "12"}
        false += sum(map(ablate.beyond, ablate.differences({"m.a": ["x", "y"], "m.b": ["1", "2"]}, results(cells), "loss")))
    assert 10 <= false <= 55, f"{false} of 600 differences of nothing were called larger than the seeds'; 30 are expected"


def test_what_is_larger_than_the_seeds_is_said_and_what_is_not_is_not(tmp_path, capsys):
    got = results({("x", "1"): [3.0, 3.1, 3.2], ("x", "2"): [2.0, 2.11, 2.2], ("y", "1"): [3.01, 3.08, 3.2], ("y", "2"): [2.01, 2.1, 2.21]})
    ablate.report({"m.a": ["x", "y"], "m.b": ["1", "2"]}, got, str(tmp_path / "table"))
    out = capsys.readouterr().out
    assert "1 of 2 differences are larger than the seeds' spread" in out and "m.b=2 instead of 1: loss -0.99" in out and "m.a=y instead" not in out
    assert [d["beyond_seeds"] for d in config.read_json(tmp_path / "table.json")["differences"]] == [False, True]


def test_zero_shot_is_the_deciding_score_of_each_task_and_their_mean(monkeypatch):
    """A model for which every token is as likely as any other: the shorter choice wins where the sum decides, and the first where it is per character."""
    class Bytes:
        eos, bos, prompt = 0, 1, []

        def encode_batch(self, texts):
            return [list(text.encode()) for text in texts]
    cfg = load("llama", "model.vocab=256", "model.dim=8", "model.heads=2", "model.layers=1").model
    model = Transformer(cfg)
    torch.nn.init.zeros_(model.head.weight)
    items = [{"context": "a", "choices": ["bbb", "b"], "label": 1}, {"context": "a", "choices": ["b", "bb"], "label": 0}, {"context": "a", "choices": ["b", "bbb"], "label": 1}]
    monkeypatch.setattr(ablate, "benchmark", lambda: {rule: (items, 0, tasks.Format(None, [None], rule)) for rule in ("sum", "char")})
    assert ablate.zero_shot(model, Bytes()) == {"zero-shot": pytest.approx(0.5), "task sum": pytest.approx(2 / 3), "task char": pytest.approx(1 / 3)}


def test_a_grid_is_drawn(tmp_path):
    pytest.importorskip("matplotlib")
    scores = {"bits per byte": 1.0, "loss": 3.0, "loss at 2x": 3.1, "loss at 4x": 3.5, "zero-shot": 0.5}
    ablate.draw([{"choices": {"m.a": a}, "seed": s, "run": "", "scores": scores} for a in "xyz" for s in (1, 2)], str(tmp_path / "table"))
    assert (tmp_path / "table.png").stat().st_size > 5000 and "context, in training contexts" in (tmp_path / "table.svg").read_text()
