"""The step that a GPU records is computed here without recording: the same texts as one_by_one() writes."""
import types

import pytest
import torch
import torch.nn.functional as F
from conftest import ROOT

import config
from fast import decode, forms
from generate import Draw, generate
from model import Transformer, init

gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
DEVICES = ["cpu", pytest.param("cuda", marks=gpu)]


def build(name, device="cpu"):
    cfg = config.load(f"{ROOT}/configs/{name}.py").model
    vars(cfg).update(layers=2, dim=32, heads=4, vocab=131, context=48)
    model = init(Transformer(cfg, **forms.of_writing(cfg, device, torch.float32)), 0)
    g = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.2 * torch.randn(p.shape, generator=g))
    return model.eval().to(device)


def write(model, prompts, tokens, steps, ends, **settings):
    tokenizer = types.SimpleNamespace(vocab=120, ends=ends)
    rows = [[] for _ in prompts for _ in range(settings.get("samples", 1))]
    for r, i, _ in generate(model, tokenizer, prompts, tokens, steps=steps, **settings):
        rows[r].append(i)
    return rows


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", ["bloom", "llama"])
@pytest.mark.parametrize("settings", [
    dict(draw=Draw(temperature=0)), dict(draw=Draw(), samples=3),
    dict(draw=Draw(penalty=1.5, top_k=9), seed=5),
    dict(draw=Draw(top_p=0.9, min_p=0.01), window=16)])
def test_steps_in_flights_write_what_single_steps_write(name, settings, device):
    model, prompts = build(name, device), [[5, 9, 30], [8], [1, 2, 3, 4, 5, 6]]
    ends = {7}
    if "window" in settings:
        prompts[0], ends = [*range(10, 42)], set()      # it fills the cache before the first step
    for tokens in (1, decode.FLIGHT, 29):
        want = write(model, prompts, tokens, decode.one_by_one, ends, **settings)
        assert write(model, prompts, tokens, decode.in_flights, ends, **settings) == want
    assert len(set(map(tuple, want))) > 1 and max(map(len, want)) == 29


def test_the_fast_product_of_a_few_rows_is_the_library_s():
    g = torch.Generator().manual_seed(0)
    for rows in (7, 48, 64):            # 1 piece, and 16
        w, b, x = (torch.randn(*shape, generator=g) for shape in ((rows, 20), (rows,), (2, 4, 20)))
        for few in (x, x[:1, :1], x[0, 0]):
            for bias in (None, b):
                want = F.linear(few, w, bias)
                torch.testing.assert_close(decode.linear(few, w, bias), want, atol=1e-5, rtol=0)


def test_a_gpu_flies_unless_the_host_needs_the_logits():
    assert decode.choose_steps("cuda") is decode.in_flights
    assert decode.choose_steps("cuda", 5) is decode.choose_steps("cpu") is decode.one_by_one
