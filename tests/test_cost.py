"""The planned time of a step: beside measured ones, and by hand."""
import pytest
from conftest import ROOT
from test_plan import load

import train
from planning import cost, memory

LLAMA = ["size=7b", "model.layers=24", "model.dim=2048", "model.heads=16", "model.mlp_dim=5632",
         "model.vocab=32000", "machine.recompute=false"]
BLOOM = ["size=1b7", "machine.recompute=false"]
SEVEN = ["size=7b", "model.vocab=32000", "machine.recompute=true"]


def planned_mfu(cfg, gpus, gpu, moved, peak):
    flops = train.flops_per_token(cfg.model, memory.sizes(cfg.model)[0])
    tokens = -(-cfg.run.batch // gpus) * cfg.model.context
    seconds = cost.step_seconds(cfg, gpus, cost.rates_of(gpu), flops, moved)
    return flops * tokens / seconds / peak


@pytest.mark.parametrize("name, settings, rows, gpu, moved, measured", [
    ("llama", LLAMA, 8, "H100", cost.COMPILED, 0.517), ("llama", LLAMA, 8, "H200", cost.COMPILED, 0.502),
    ("llama", LLAMA, 8, "H200", cost.EAGER, 0.362), ("bloom", BLOOM, 4, "H100", cost.COMPILED, 0.446),
    ("bloom", BLOOM, 4, "H200", cost.EAGER, 0.319), ("llama", SEVEN, 2, "H200", cost.COMPILED, 0.374),
    ("llama", SEVEN, 2, "H200", cost.EAGER, 0.302)])
def test_planned_and_measured_steps_agree_within_20_percent(name, settings, rows, gpu, moved, measured):
    """MFU against 989 TFLOP/s, measured in November 2026 (docs/speed.md)."""
    cfg = load(name, *settings, f"run.batch={rows}", f"machine.micro={rows}")
    planned = planned_mfu(cfg, 1, gpu, moved, 989e12)
    assert measured / planned == pytest.approx(1, abs=0.2)
    with open(f"{ROOT}/docs/speed.md", encoding="utf-8") as f:
        assert f"| {gpu} | {measured:.1%} | {planned:.1%} |" in f.read()


@pytest.mark.parametrize("size, tokens, hours", [
    ("7b", 1e12, 82_432), ("13b", 1e12, 135_168), ("33b", 1.4e12, 530_432), ("65b", 1.4e12, 1_022_362)])
def test_llama_needs_the_gpu_hours_of_its_table_15(size, tokens, hours):
    """On A100 of 80 GB, whose rates were not measured for the planner."""
    cfg = load("llama", f"size={size}", "model.vocab=32000")
    flops = train.flops_per_token(cfg.model, memory.sizes(cfg.model)[0])
    speed = planned_mfu(cfg, 2048, "A100", cost.COMPILED, 312e12) * 312e12 / flops
    assert tokens / speed / 3600 == pytest.approx(hours, rel=0.2)


def test_bytes_by_hand():
    """What one GPU moves: one layer of width 8, two micro-batches of one row of 4 tokens."""
    cfg = load("llama", "model.layers=1", "model.dim=8", "model.heads=2", "model.mlp_dim=16",
               "model.vocab=32", "model.context=4", "run.batch=2", "machine.micro=1")
    P, block = memory.sizes(cfg.model)
    moved = cost.Moved(passes=2, logit=3, casts=5)
    passed = 8 * memory.block_bytes(cfg.model) * 2
    want = passed + 8 * 32 * 3 + 2 * 32 * 8 * 8 + 2 * block * 5 + 32 * P
    assert cost.moved_bytes(cfg, 1, moved) == want
    cfg.run.batch = 16                  # two rows on each of 8: the state is shared, the rest is as before
    assert cost.moved_bytes(cfg, 8, moved) == want - 28 * P
    cfg.machine.recompute = True        # a third of the passes again
    assert cost.moved_bytes(cfg, 8, moved) == pytest.approx(want - 28 * P + passed / 3)
    assert cost.products_of(cfg.model, 9000, True) == 9000 + (9000 - 6 * 32 * 8) / 3


def test_what_the_network_carries_by_hand():
    """Of 8 GPUs each receives 7/8 of the weights, in bfloat16 and those of blocks twice, and of the
    gradients, in float32; and that for two micro-batches."""
    cfg = load("llama", "model.vocab=32", "run.batch=16", "machine.micro=1")
    P, block = memory.sizes(cfg.model)
    received = 2 * P + 2 * 4 * block + 4 * P
    assert cost.sent_bytes(cfg, 1) == (0, 0) and cost.sent_bytes(cfg, 8) == (2 * received * 7 / 8, 0)
    cfg.machine.shard = 2               # four copies of two: what each keeps is summed once a step
    assert cost.sent_bytes(cfg, 8) == (2 * received / 2, 8 * P / 2 * 3 / 4)
