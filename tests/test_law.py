import json
import sys

import numpy as np
import pytest
from conftest import ROOT

import config
import train
from model import Transformer, count
from planning import law

LAW = {"E": 1.2, "A": 60.0, "B": 90.0, "alpha": 0.35, "beta": 0.30}
LENGTHS = (2 ** 17, 2 ** 18, 2 ** 19, 2 ** 20)


def family(folder, dims=(16, 32, 64, 128), lengths=LENGTHS, **changes):
    """Run folders of several sizes and lengths as train.py leaves them; losses obey LAW. Returns paths."""
    runs = []
    for dim in dims:
        for tokens in lengths:
            shape = ["model.vocab=512", f"model.dim={dim}", "model.heads=2", "model.layers=2"]
            cfg = train.load_config(f"{ROOT}/configs/llama.py", [*shape, f"run.tokens={tokens}"])
            run = folder / f"scale-{dim}-{tokens}"
            run.mkdir(parents=True)
            facts = {"tokenizer": {"fingerprint": "1"}, "data_sha256": {"a": "1"}, **changes}
            config.write_json(run / "config.json", {**config.plain(cfg), **facts})
            N = count(Transformer(cfg.model)) - 512 * dim
            records = []
            for i in range(1, 9):
                at = tokens * i // 8
                records.append({"step": i, "tokens": at, "loss": law.predict(LAW, N, at), "lr": 0.1 / i})
            val = {"loss": law.predict(LAW, N, tokens), "sources": {"stories": {"loss": 2}}}
            records.append({"step": 8, "tokens": tokens, "val": val})
            lines = [json.dumps(r) + "\n" for r in records]
            (run / "log.jsonl").write_text("".join(lines) + '{"step": 9, "los')     # a line is being written
            runs.append(str(run))
    return runs


def grid():
    return (v.ravel() for v in np.meshgrid([1e5, 2e5, 4e5, 1e6], [1e5, 2e5, 4e5, 1e6]))


def test_the_fit_finds_the_constants_that_made_the_losses_and_a_budget_follows(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(law, "RESAMPLINGS", 20)
    law.main(["fit", *family(tmp_path)])
    found = config.read_json(tmp_path / "fit.json")
    assert found["law"] == pytest.approx(LAW, rel=1e-6) and len(found["runs"]) == 16
    law.main(["budget", "--loss", "3", "--inference-tokens", "1e6", "--law", str(tmp_path / "fit.json")])
    assert "L(N, D) = 1.2 + 60 / N^0.35 + 90 / D^0.3\n" in capsys.readouterr().out
    law.main(["budget", "--train-flops", "5.76e23", "--inference-tokens", "1e13"])
    out = capsys.readouterr().out
    sizes = [float(line.split()[1].rstrip("B")) for line in out.splitlines() if line.endswith(("%", "asked"))]
    assert "a loss of 1.9307" in out and sizes == sorted(sizes, reverse=True) and len(sizes) == 9


def test_intervals_hold_the_constants_behind_noisy_losses_and_shrink_with_the_noise():
    """Five sets with 0.4% of noise: exact 90% intervals hold their exponent in fewer than three of them once
    in 117 times."""
    N, D = grid()

    def intervals(noise, seed):
        errors = np.random.default_rng(seed).normal(0, noise, len(N))
        _, laws = law.fit(N, D, law.predict(LAW, N, D) * np.exp(errors), 20)
        return {key: np.quantile([one[key] for one in laws], (0.05, 0.95)) for key in ("alpha", "beta")}
    noisy, exact = [intervals(0.004, seed) for seed in range(5)], intervals(0.0004, 0)
    for key in ("alpha", "beta"):
        inside = [one[key][0] <= LAW[key] <= one[key][1] for one in noisy]
        assert sum(inside) >= 3 and np.ptp(exact[key]) < np.ptp(noisy[0][key]) / 3, (key, noisy, exact)


def test_one_run_that_went_wrong_does_not_move_the_fit():
    """The Huber loss: a run whose loss is 30% too high moves the exponents as little as one 3% too high."""
    N, D = grid()
    L = law.predict(LAW, N, D)
    L[5] *= 1.3
    found, _ = law.fit(N, D, L, 1)
    for key in ("alpha", "beta"):
        assert found[key] == pytest.approx(LAW[key], rel=0.15)


def test_a_fit_on_its_bounds_is_said_and_no_budget_follows():
    """Losses that never level off, and of which only the smallest size is worse."""
    N, D = grid()
    L = 30 * D ** -0.2 * np.where(N < 150_000, 3, 1)
    with pytest.raises(ValueError, match="E 0.0.*, alpha (5|4.9).*on a bound.* no budget follows"):
        law.fit(N, D, L, 0)


def test_without_inference_the_cheapest_model_is_the_compute_optimal_one():
    """Two closed forms, derived from either side: the least loss for C, and the least C for that loss."""
    for one in (law.HOFFMANN, LAW):
        for C in (1e18, 5.76e23):
            N, D = law.compute_optimal(one, C)
            assert law.cheapest(one, law.predict(one, N, D), 0) == pytest.approx((N, D), rel=1e-6)
            slopes = [one["alpha"] * one["A"] / N ** one["alpha"], one["beta"] * one["B"] / D ** one["beta"]]
            assert slopes[0] == pytest.approx(slopes[1]), "the loss's two slopes along 6ND = C"


@pytest.mark.parametrize("served", [0, 1e12, 1e17])
def test_the_budget_is_what_trying_every_size_gives(served):
    one, loss = law.HOFFMANN, 2.0
    N = np.geomspace(1e8, 1e12, 400_001)
    room = loss - one["E"] - one["A"] / N ** one["alpha"]
    N, room = N[room > 0], room[room > 0]
    cost = 6 * N * (one["B"] / room) ** (1 / one["beta"]) + 2 * N * served
    size, tokens = law.cheapest(one, loss, served)
    assert size == pytest.approx(N[cost.argmin()], rel=1e-3)
    assert 6 * size * tokens + 2 * size * served == pytest.approx(cost.min(), rel=1e-6)
    assert law.predict(one, size, tokens) == pytest.approx(loss)


def test_figures_say_what_they_show_and_are_the_same_bytes_again(tmp_path):
    pytest.importorskip("matplotlib")
    runs = family(tmp_path, lengths=(2 ** 20,))
    sizes = [law.short(N) for _, N, _, _ in law.open_runs(runs)]
    for paths, texts in ((runs, ("training tokens", "training FLOPs", "training loss", *sizes)),
                         (runs[:1], ("validation: all", "validation: stories", "learning rate"))):
        file, found = tmp_path / "loss", []
        if len(paths) == 1:
            file = tmp_path / "scale-16-1048576/loss"
        for _ in range(2):
            law.main(["figure", *paths])
            found.append([file.with_suffix(end).read_bytes() for end in (".png", ".svg")])
        assert found[0] == found[1]
        assert all(text in found[0][1].decode() for text in texts), texts


def test_smoothing_keeps_what_is_straight_and_takes_noise_away():
    assert law.smooth(np.arange(100.0))[:80] == pytest.approx(np.arange(80))
    assert abs(law.smooth(np.random.default_rng(0).normal(0, 1, 1000))[500:]).max() < 0.4


def stopped(folder):
    run, = family(folder, dims=(16,), lengths=(2 ** 20,))
    path = folder / "scale-16-1048576/log.jsonl"
    path.write_text(path.read_text().replace('"tokens": 1048576, "val"', '"tokens": 1048000, "val"'))
    return run


@pytest.mark.parametrize("request_of, words", [
    (lambda f: ["fit", *family(f, dims=(16, 32))], "8 runs of 2 sizes and 4 lengths: a fit needs"),
    (lambda f: ["fit", stopped(f)], "scale-16-1048576 is not finished"),
    (lambda f: ["fit", *family(f / "a"), *family(f / "b", tokenizer={"fingerprint": "2"})], "different tok"),
    (lambda f: ["figure", f"{f}/scale-*"], "is not a run"),
    (lambda f: ["budget", "--loss", "1.6"], "1.6 is out of reach: this law's never falls below E=1.69"),
    (lambda f: ["budget", "--train-flops", "-1"], "-1 must be a number from 1"),
    (lambda f: ["budget", "--loss", "2", "--law", f"{stopped(f)}/config.json"], "'law' is missing")])
def test_wrong_requests_are_told(tmp_path, request_of, words):
    with pytest.raises(ValueError) as error:
        law.main(request_of(tmp_path))
    assert words in str(error.value)


@pytest.mark.parametrize("library, command", [("matplotlib", "figure"), ("scipy.optimize", "fit")])
def test_a_missing_library_is_named_with_its_command(tmp_path, monkeypatch, library, command):
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(ValueError, match=f"pip install {library.split('.')[0]}"):
        law.main([command, *family(tmp_path, dims=(16, 32, 64), lengths=LENGTHS[:3])])
