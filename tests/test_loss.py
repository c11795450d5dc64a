import pytest
import torch

import model
from data import IGNORE
from fast import loss

gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def inputs(dtype=torch.float32):
    g = torch.Generator().manual_seed(0)
    x, weight = torch.randn(48, 16, generator=g).to(dtype), torch.randn(131, 16, generator=g).to(dtype)
    targets = torch.randint(0, 131, (48,), generator=g)
    targets[5:9] = IGNORE
    return x.requires_grad_(), weight.requires_grad_(), targets


@pytest.mark.parametrize("at_once", [model.LOGITS, 5 * 131, 1])
def test_the_loss_in_chunks_has_the_value_and_gradients_of_the_equation(at_once):
    x, weight, targets = inputs()
    want, got = model.cross_entropy(x, weight, targets), loss.cross_entropy(x, weight, targets, at_once)
    assert torch.allclose(got, want, rtol=1e-6), "sums in another order"
    for a, b in zip(torch.autograd.grad(got / 7, (x, weight)), torch.autograd.grad(want / 7, (x, weight))):
        assert torch.allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=gpu)])
def test_in_bfloat16_the_matrix_gradient_is_summed_in_float32(device):
    """48 chunks of one row: summed in bfloat16, what comes late would be rounded away."""
    x, weight, targets = (tensor.detach().to(device) for tensor in inputs())
    wanted = x.requires_grad_(), weight.requires_grad_()
    exact = torch.autograd.grad(model.cross_entropy(x, weight, targets), wanted)
    with torch.autocast(device, torch.bfloat16):
        total = loss.cross_entropy(x, weight, targets, at_once=131)
        assert total.dtype == torch.float32
    for got, want in zip(torch.autograd.grad(total, wanted), exact):
        assert got.dtype == torch.float32 and (got - want).abs().max() < 2e-2 * want.abs().max()


def test_the_loss_needs_no_gradient():
    x, weight, targets = inputs()
    with torch.no_grad():
        got = loss.cross_entropy(x, weight, targets, 500, lambda *a: (loss.loss_and_gradient(*a)[0], None))
        assert torch.allclose(got, model.cross_entropy(x, weight, targets)), "no gradient is made"
    only_weight = loss.cross_entropy(x.detach(), weight, targets, 500)
    want = torch.autograd.grad(model.cross_entropy(x, weight, targets), weight)[0]
    assert torch.allclose(torch.autograd.grad(only_weight, weight)[0], want, rtol=1e-5, atol=1e-6)


def test_a_chunk_of_rows_is_whole_tiles():
    assert [loss.rows_at_once(V) for V in (250_880, 32_000, 4096)] == [512, 4096, 32_768]
    assert [loss.rows_at_once(131, at_once) for at_once in (5 * 131, 300 * 131, 1)] == [5, 256, 1]
