import pytest
from conftest import ROOT

import config
from train import lr_at

BLOOM, LLAMA = f"{ROOT}/configs/bloom.py", f"{ROOT}/configs/llama.py"


def test_overrides_are_read_by_the_type_of_the_setting():
    cfg = config.load(LLAMA, ["size=7b", "run.name=try1", "--optim.lr=2e-4", "run.tokens=1e9", "model.bias=true", "run.ramp=(8, 4, 100)", "model.vocab=none"])
    assert (cfg.run.name, cfg.optim.lr, cfg.run.tokens, cfg.model.bias, cfg.run.ramp, cfg.model.vocab) == ("try1", 2e-4, 10 ** 9, True, (8, 4, 100), None)
    assert type(cfg.run.tokens) is int and config.parse("1e9", int, "x") == 1000000000


@pytest.mark.parametrize("setting, words", [
    ("optim.lrr=1", ["unknown setting 'optim.lrr'", "did you mean 'optim.lr'?"]),
    ("layers=3", ["unknown setting 'layers'", "'model.layers'"]),
    ("optim=3", ["unknown setting"]),
    ("optim.lr=fast", ["optim.lr=fast", "float"]),
    ("model.layers=2.5", ["model.layers=2.5", "int"]),
    ("model.bias=1", ["model.bias=1", "bool"]),
    ("model.norm=batch", ["model.norm=batch", "layer, rms"]),
    ("size=8b", ["unknown size '8b'", "7b1", "176b"]),
    ("optim.lr", ["section.field=value"])])
def test_a_wrong_setting_is_one_clear_message(setting, words):
    with pytest.raises(ValueError) as e:
        config.load(BLOOM, [setting])
    assert all(w in str(e.value) for w in words) and "\n" not in str(e.value), e.value


@pytest.mark.parametrize("setting", ["model.heads=5", "run.batch=0", "optim.clip=0", "run.name=../x", "model.kv_heads=3", "optim.lr=1e-5"])
def test_settings_that_cannot_run_are_refused(setting):
    with pytest.raises(ValueError, match=setting.split("=")[0].split(".")[1] + "|name"):
        config.check_config(config.load(BLOOM, [setting]))


def test_bloom_learning_rates_are_those_of_the_public_training_log():
    """The 176B run, counted in rows of 2048 tokens: its log prints 5.969e-05, 5.279e-05 and 4.475e-05."""
    cfg = config.load(BLOOM, ["size=176b"])
    for rows, lr in (183_105, 6e-5), (9_841_584, 5.969e-5), (47_770_544, 5.279e-5), (71_455_664, 4.475e-5), (100_000_000, 3.3039e-5), (178_402_224, 7.5417e-6), (200_000_000, 6e-6), (220_000_000, 6e-6):
        assert lr_at(rows * 2048, cfg.optim, cfg.run.tokens) == pytest.approx(lr, rel=2e-4), f"at {rows} rows"
    assert lr_at(183_105 * 1024, cfg.optim, cfg.run.tokens) == pytest.approx(3e-5), "half of the warmup is half of the peak"


def test_llama_learning_rate_ends_at_a_tenth_of_the_peak():
    cfg = config.load(LLAMA, ["size=65b"])
    o, total = cfg.optim, cfg.run.tokens
    assert lr_at(o.warmup, o, total) == pytest.approx(1.5e-4) and lr_at(total, o, total) == pytest.approx(1.5e-5)
    assert lr_at((o.warmup + total) // 2, o, total) == pytest.approx(0.55 * 1.5e-4), "half way down the cosine"


def test_steps_to_leave_out():
    assert config.steps_left_out("14:17,200:210") == [range(14, 17), range(200, 210)] and config.steps_left_out(None) == []
    for wrong in ("14", "17:14", "0:3", "a:b", "1:2:3", "5:5"):
        with pytest.raises(ValueError, match="machine.skip_steps=.*14:17"):
            config.check_config(config.load(BLOOM, [f"machine.skip_steps={wrong}"]))
