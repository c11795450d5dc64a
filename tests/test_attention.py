"""Every form of attention() beside the equation, forward and backward."""
import types

import pytest
import torch

import model
from fast import attention as A
from fast import forms

FORMS = {"fused": A.fused, "blocks": A.blocks, "folded": A.folded}
gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="FlexAttention has no backward pass on a CPU")


def inputs(K, T, S, dtype=torch.float32, D=16, device="cpu"):
    g = torch.Generator().manual_seed(0)
    shapes = (2, 6, T, D), (2, K, S, D), (2, K, S, D), (2, 6, T, D)
    q, k, v, up = (torch.randn(shape, generator=g).to(device, dtype) for shape in shapes)
    return [q.requires_grad_(), k.requires_grad_(), v.requires_grad_()], up


def slopes(position, device="cpu"):
    return model.alibi_slopes(6, device) if position == "alibi" else None


def compare(form, position, K, dtype, tolerance, device="cpu", T=33):
    """float32 forms differ in the order of sums; bfloat16 ones also in what they round between."""
    qkv, up = inputs(K, T, T, dtype, device=device)
    pos = torch.arange(T, device=device).unsqueeze(0)
    exact = [x.float().detach().requires_grad_() for x in qkv]
    want = model.attention(*exact, pos, None, slopes(position, device))
    got = form(*qkv, pos, None, slopes(position, device))
    gradients = zip(torch.autograd.grad(got, qkv, up), torch.autograd.grad(want, exact, up.float()))
    for a, b in [(got, want), *gradients]:
        assert (a.float() - b).abs().max() < tolerance * b.abs().max()


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
@pytest.mark.parametrize("K", [6, 2])
@pytest.mark.parametrize("form, position", [
    ("fused", "rope"), ("fused", "alibi"), ("blocks", "rope"), ("blocks", "alibi"), ("folded", "alibi")])
def test_a_fast_form_has_the_values_and_gradients_of_the_equation(form, position, K, dtype, tolerance):
    compare(FORMS[form], position, K, dtype, tolerance)


@gpu
@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-3), (torch.bfloat16, 2e-2)])
@pytest.mark.parametrize("form", [*FORMS, "flex"])
def test_a_fast_form_has_the_values_and_gradients_of_the_equation_on_a_gpu(form, dtype, tolerance):
    form = A.flex(256, "cuda") if form == "flex" else FORMS[form]
    compare(form, "alibi", 2, dtype, tolerance, "cuda", T=256)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("position", ["alibi", "rope"])
def test_a_mask_hides_the_same_keys_in_every_form(form, position):
    """Three new queries behind five keys, the second row with two columns of padding."""
    (q, k, v), _ = inputs(2, 3, 8)
    pos, mask = model.places(torch.arange(5, 8), 8, torch.tensor([0, 2]))
    want = model.attention(q, k, v, pos, mask, slopes(position))
    assert torch.allclose(FORMS[form](q, k, v, pos, mask, slopes(position)), want, atol=1e-5)
    alone = model.attention(q[1:], k[1:, :, 2:], v[1:, :, 2:], pos[1:], None, slopes(position))
    assert torch.allclose(want[1:], alone, atol=1e-5), "padding changes nothing"


def test_much_padding_does_not_round_the_bias():
    """Positions begin behind the padding, columns do not: the difference must not be rounded to bfloat16."""
    (q, k, v), _ = inputs(6, 1, 1100, torch.bfloat16)
    pos, mask = model.places(torch.tensor([1099]), 1100, torch.tensor([1000, 1000]))
    want = model.attention(q.float(), k.float(), v.float(), pos, mask, slopes("alibi"))
    assert (A.fused(q, k, v, pos, mask, slopes("alibi")).float() - want).abs().max() < 0.02


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-4), (torch.bfloat16, 0.05)])
def test_folded_alibi_is_exact_far_away_too(dtype, tolerance):
    """Near key 2000 one bfloat16 coordinate would round the bias by 4; three leave the rounding of the
    scores."""
    (q, k, v), _ = inputs(6, 2048, 2048, dtype)
    pos = torch.arange(2048).unsqueeze(0)
    with torch.no_grad():
        want = model.attention(q.float(), k.float(), v.float(), pos, None, slopes("alibi"))
        assert (A.folded(q, k, v, pos, None, slopes("alibi")).float() - want).abs().max() < tolerance


def test_the_form_is_chosen_by_device_length_and_positions():
    bf16 = torch.bfloat16

    def form(position, device, T, dtype, compiled, dim=64):
        shape = types.SimpleNamespace(position=position, context=T, dim=dim, heads=4)
        return A.choose(shape, device, dtype, compiled)
    assert form("rope", "cuda", 2048, bf16, True) is form("none", "mps", 64, bf16, False) is A.fused
    assert form("alibi", "cuda", 2048, bf16, False) is A.folded
    assert form("alibi", "cuda", 2048, bf16, True, dim=32) is A.folded, "heads of 8 are too narrow for flex"
    assert form("alibi", "cpu", 512, bf16, True) is form("alibi", "cpu", 64, None, True) is A.fused
    assert form("alibi", "cpu", 1024, None, True) is A.folded, "a mask of numbers grows with the square"
    assert form("alibi", "cpu", 64, bf16, False) is form("rope", "cpu", 64, bf16, False) is A.blocks


@gpu
@pytest.mark.parametrize("form", ["fused", "folded"])
def test_a_gpu_computes_the_same_gradients_every_time(form):
    (q, k, v), up = inputs(6, 2048, 2048, torch.bfloat16, D=64, device="cuda")
    pos = torch.arange(2048, device="cuda").unsqueeze(0)
    bias = slopes("alibi", "cuda") if form == "folded" else None

    def gradients():
        return torch.autograd.grad(FORMS[form](q, k, v, pos, None, bias), (q, k, v), up)
    forms.repeatable(True)
    try:
        first = gradients()
        for _ in range(4):
            assert all(torch.equal(a, b) for a, b in zip(first, gradients()))
    finally:
        forms.repeatable(False)
