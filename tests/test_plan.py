import re

import config
import plan
import pytest
from conftest import ROOT, run


def load(name, *settings):
    return config.check(config.load(f"{ROOT}/configs/{name}.py", settings))


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
    copies, halves = plan.memory(load("bloom", "size=7b1", "run.shard=1"), 8), plan.memory(load("bloom", "size=7b1", "run.shard=4"), 8)
    assert copies["moments"] == 8 * 7_069_016_064 and halves["moments"] == copies["moments"] / 4
    assert halves["gathered"] == got["gathered"] == 2 * (1_027_604_480 + 4 * 4096) + 4 * 201_379_840


def test_recompute_keeps_one_float32_row_per_block():
    with_, without = (plan.memory(load("llama", "size=7b", f"run.recompute={r}"), 64)["activations"] for r in ("true", "false"))
    assert with_ == 2048 * (32 * 4 * 4096 + 10 * 4096) and without > 10 * with_


@pytest.mark.parametrize("name, size, capacity, recompute", [("bloom", "7b1", 80, True), ("llama", "65b", 80, True), ("llama", "7b", 40, False), ("bloom", "1b1", 24, False)])
def test_the_fewest_gpus_fit_and_one_fewer_does_not(name, size, capacity, recompute):
    cfg = load(name, f"size={size}", f"run.recompute={recompute}")
    n = plan.fewest(cfg, capacity * 10 ** 9)
    assert n > 1 and plan.fits(cfg, n, capacity * 10 ** 9) and not plan.fits(cfg, n - 1, capacity * 10 ** 9), n
    in_eights = plan.fewest(load(name, f"size={size}", f"run.recompute={recompute}", "run.shard=8"), capacity * 10 ** 9)
    assert in_eights in (None, 1) or in_eights % 8 == 0


def test_what_fits_nowhere_is_said_plainly():
    out = run("plan.py", f"{ROOT}/configs/bloom.py", "size=176b", "gpus=8", "run.recompute=false").stdout
    assert "It fits on none of these with 8 GPUs; what helps: more GPUs, run.recompute=true\n" in out


@pytest.mark.parametrize("settings, words", [(["gpus=0"], "gpus=0: it must be above 0"), (["mfu=40"], "mfu=40: it must be above 0 and at most 1"), (["gpus=8", "run.shard=3"], "run.shard=3 does not divide gpus=8"),
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
@pytest.mark.parametrize("gpus, settings", [(1, []), (1, ["run.recompute=true"]), (8, []), (8, ["run.recompute=true", "run.micro=2"]), (8, ["run.shard=4"]), (4, ["run.shard=1"])])
def test_the_formulas_are_what_pytorch_counts(name, gpus, settings):
    """A step of the real program on tensors without memory, small but with the paper's proportions: each part within 15%."""
    agree(load(name, "model.layers=3", "model.dim=512", "model.heads=8", "model.context=512", "model.vocab=50048", "run.batch=256", "run.micro=1", *settings), gpus)


@pytest.mark.slow
@pytest.mark.parametrize("name, size, gpus", [("bloom", "560m", 32), ("bloom", "1b1", 32), ("bloom", "1b7", 64), ("bloom", "3b", 64), ("bloom", "7b1", 128), ("bloom", "176b", 384),
                                              ("llama", "7b", 128), ("llama", "13b", 256), ("llama", "33b", 1024), ("llama", "65b", 2048)])
def test_every_published_size_rehearses(name, size, gpus):
    agree(load(name, f"size={size}"), gpus)
