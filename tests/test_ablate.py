import re
import signal

import numpy as np
import pytest
import torch
from conftest import ROOT, arguments, log

import checkpoint
import config
import train
from evaluation import formats
from model import Transformer
from planning import ablate, figures

BLOOM = f"{ROOT}/configs/bloom.py"
CHOICES = ["model.position=alibi,none", "model.embed_norm=true,false"]


@pytest.mark.parametrize("argv, words", [
    (["model.layers=2"], "no setting has several values"), (["run.seed=1,2"], "--seeds makes"),
    (["model.position=alibi,alibi"], "runs of one name"),
    (["model.position=alibi,rop"], "model.position=rop: it must be one of"),
    (["model.position=alibi,none", "--seeds", "1"], "1 must be a whole number from 2")])
def test_wrong_requests_are_told(argv, words):
    with pytest.raises(ValueError) as error:
        ablate.main([BLOOM, *argv])
    assert words in str(error.value)


def test_a_grid_is_trained_once_in_its_order_and_goes_on_where_it_was_interrupted(work, monkeypatch):
    """The third run gets SIGTERM in its first step."""
    trained, train_whole = [], train.train
    monkeypatch.setattr(ablate, "judge", lambda path, benchmark: {"loss": 1.0})

    def train_run(cfg):
        def stop(training):
            if len(trained) == 3 and training.step == 1:
                signal.raise_signal(signal.SIGTERM)
        trained.append(cfg.run.name)
        train_whole(cfg, after=stop)
    monkeypatch.setattr(train, "train", train_run)

    def go(*more):
        settings = [*arguments("bloom", "small")[1:], "run.tokens=1280", *CHOICES, *more]
        _, _, runs = ablate.grid(settings, 2, BLOOM)
        return ablate.train_and_judge(runs, {})
    handler = signal.getsignal(signal.SIGTERM)
    with pytest.raises(ValueError, match="seed-42 was stopped before its end; the same command continues"):
        go()
    assert signal.getsignal(signal.SIGTERM) == handler
    results = go("machine.micro=4")
    names = [f"small-position-{p}-embed_norm-{e}-seed-{s}"
             for s in (42, 43) for p in ("alibi", "none") for e in ("true", "false")]
    assert trained == [*names[:3], *names] and [r["run"] for r in results] == [f"runs/{n}" for n in names]
    for name in names:
        starts = [r["step"] for r in checkpoint.read_log(f"runs/{name}/log.jsonl") if "start" in r]
        assert starts == ([0, 2] if name == names[2] else [0]), "each once, and the interrupted one goes on"
    for changed in ("optim.lr=1e-3", "run.tokens=2560"):
        with pytest.raises(ValueError, match=f"{names[0]} was trained with .*another run.name"):
            go(changed)


class Bytes:
    """A tokenizer of bytes."""
    eos, bos, prompt, begin = 0, 1, [], [0]

    def encode_batch(self, texts):
        return [list(text.encode()) for text in texts]


def items(rule):
    found = [("bbb", "b", 1), ("b", "bb", 0), ("b", "bbb", 1)]
    found = [{"context": "a", "choices": [a, b], "label": label} for a, b, label in found]
    return found, 0, formats.Format(None, [None], rule)


def test_zero_shot_is_the_deciding_score_of_each_task_and_their_mean():
    """To this model all tokens are equally likely. The shorter choice wins where the sum decides, and the
    first where it is per character."""
    settings = ["model.vocab=256", "model.dim=8", "model.heads=2", "model.layers=1"]
    model = Transformer(train.load_config(f"{ROOT}/configs/llama.py", settings).model)
    torch.nn.init.zeros_(model.head.weight)
    found = ablate.zero_shot(model, Bytes(), {rule: items(rule) for rule in ("sum", "char")})
    third = pytest.approx(1 / 3)
    assert found == {"zero-shot": 0.5, "task sum": pytest.approx(2 / 3), "task char": third}


def test_a_run_is_judged_once_for_a_benchmark(runs, monkeypatch):
    monkeypatch.chdir(runs.parent)
    path, benchmark = "runs/bloom", {"x": items("char")}
    scores = ablate.judge(path, benchmark)
    assert list(scores) == ["bits per byte", "loss", "loss at 2x", "loss at 4x", "zero-shot", "task x"]
    assert scores["loss"] == pytest.approx(log("bloom")[-1]["val"]["loss"], abs=1e-6)
    config.write_json(f"{path}/ablation.json", config.read_json(f"{path}/ablation.json") | {"scores": "kept"})
    assert ablate.judge(path, benchmark) == "kept"
    assert ablate.judge(path, {"y": items("sum")})["loss"] == scores["loss"], "another benchmark"


AXES = {"m.a": ["x", "y"], "m.b": ["1", "2"]}


def results(scores):
    """Results of a grid of 2 x 2 choices: {(a, b): [loss by seed]}, in the order of the program."""
    found = []
    for seed in range(3):
        for (a, b), losses in scores.items():
            choices = {"m.a": a, "m.b": b}
            found.append({"choices": choices, "seed": seed, "run": "", "scores": {"loss": losses[seed]}})
    return found


def test_a_difference_is_held_against_the_seeds_by_hand():
    """b moves the loss by 1.0, 1.1 and 1.2 in one cell of a and by 2.0, 2.1 and 2.2 in the other: 1.6 on
    average. The variance is 0.01 in both, so the standard error is sqrt(0.01 / 6), with 4 degrees of freedom
    times 2.78. a moves it by 0, 0.3, -0.3 and 1, 1.3, 0.7: 0.5 +- 2.78 sqrt(0.09 / 6)."""
    got = {("x", "1"): [0, 0, 0], ("x", "2"): [1.0, 1.1, 1.2],
           ("y", "1"): [0, 0.3, -0.3], ("y", "2"): [2.0, 2.4, 1.9]}
    a, b = ablate.differences(AXES, results(got), "loss")
    assert (b["setting"], b["from"], b["to"]) == ("m.b", "1", "2")
    assert b["difference"] == pytest.approx(1.6) and b["interval"] == pytest.approx(2.78 * (0.01 / 6) ** 0.5)
    assert a["difference"] == pytest.approx(0.5) and a["interval"] == pytest.approx(2.78 * (0.09 / 6) ** 0.5)
    assert a["beyond_seeds"] and b["beyond_seeds"]


def test_choices_that_do_nothing_are_called_different_as_rarely_as_promised():
    random, false = np.random.default_rng(0), 0
    for _ in range(300):
        shared = random.normal(0, 1, 3)             # of the seed: it cancels, the rows are the same
        cells = {(a, b): shared + random.normal(0, 0.1, 3) for a in "xy" for b in "12"}
        false += sum(d["beyond_seeds"] for d in ablate.differences(AXES, results(cells), "loss"))
    assert 10 <= false <= 55, f"{false} of 600 differences of nothing are called larger; 30 are expected"


def test_what_is_larger_than_the_seeds_has_a_star(tmp_path, capsys):
    got = results({("x", "1"): [3.0, 3.1, 3.2], ("x", "2"): [2.0, 2.11, 2.2],
                   ("y", "1"): [3.01, 3.08, 3.2], ("y", "2"): [2.01, 2.1, 2.21]})
    ablate.report(AXES, got, str(tmp_path / "table"))
    out = capsys.readouterr().out
    assert "3.1000 ± 0.1000\n" in out, "a cell"
    assert re.search(r"a: x to y +[+-]0.0000 ± 0.0154 \n", out)
    assert re.search(r"b: 1 to 2 +-0.9933 ± 0.0093\*\n", out)
    written = config.read_json(tmp_path / "table.json")["differences"]
    assert [d["beyond_seeds"] for d in written] == [False, True]


def test_a_grid_is_drawn_with_a_legend(tmp_path):
    pytest.importorskip("matplotlib")
    scores = {"bits per byte": [1.0, 1.1], "loss": [3.0], "loss at 2x": [3.1], "loss at 4x": [3.5]}
    cells = {"a=x": scores, "a=y": scores}
    figures.draw_ablation(cells, ["bits per byte"], ablate.LOSS, str(tmp_path / "table"))
    svg = (tmp_path / "table.svg").read_text()
    assert "context, in training contexts" in svg and svg.count(">a=x<") == 2, "axis and legend"
