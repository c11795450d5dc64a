"""A faster form of model.cross_entropy(): the loss and its gradient in one pass, by chunks of rows.

With BLOOM's 250,880 entries the logits of one row of 2048 tokens are 2 GiB in float32, and as many again for
their gradient. Here a chunk of logits is made, its loss and the gradients that follow from it are computed at
once, and it is forgotten. So logits are neither kept for the backward pass nor computed a second time.
Without this file Transformer(cfg) works, and needs more memory.

Letters: n rows (positions)   C model width   V vocabulary
"""
import torch
import torch.nn.functional as F

from data import IGNORE
from model import LOGITS

TILE = 256              # rows: a GPU computes products in tiles, and one that is not full takes as long


def rows_at_once(V, at_once=LOGITS):
    """Rows of a chunk of at most `at_once` logits: whole tiles, if it is more than one."""
    rows = max(1, at_once // V)
    return rows - rows % TILE if rows > TILE else rows


def add_product(total, a, b):
    """total += a^T b, summed in float32, for a (n, V) and b (n, C) in any dtype."""
    if a.dtype == total.dtype:
        total.addmm_(a.t(), b)
    elif total.is_cuda:             # one kernel that reads and writes `total` once
        torch.addmm(total, a.t(), b, out_dtype=total.dtype, out=total)
    else:                           # a CPU's products have one dtype
        total += a.t() @ b


def loss_and_gradient(logits, targets):
    """(summed loss, its gradient with respect to logits (n, V)). That gradient is softmax - 1 at the target,
    softmax elsewhere, and 0 in a row that is not scored."""
    scored = (targets != IGNORE).float().unsqueeze(1)
    at = targets.clamp(min=0).unsqueeze(1)
    log_p = torch.log_softmax(logits.float(), -1)
    loss = -(log_p.gather(1, at) * scored).sum()
    return loss, log_p.exp_().mul_(scored).scatter_add_(1, at, -scored)


class SummedLoss(torch.autograd.Function):
    """The loss is one number, so the gradients that forward() made need only be multiplied by the one that
    comes from above."""
    @staticmethod
    def forward(ctx, x, weight, targets, at_once, part):
        device = x.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
        matrix = weight.to(dtype)
        wanted = any(ctx.needs_input_grad)
        total = torch.zeros((), device=x.device)
        dx = torch.empty_like(x) if wanted else None
        dweight = torch.zeros(weight.shape, device=x.device) if wanted else None    # summed in float32
        rows = rows_at_once(len(weight), at_once)
        for first in range(0, len(x), rows):
            chunk = slice(first, first + rows)
            some = x[chunk].to(dtype)
            loss, gradient = part(F.linear(some, matrix), targets[chunk])
            total += loss
            if wanted:
                gradient = gradient.to(dtype)
                dx[chunk] = gradient @ matrix
                add_product(dweight, gradient, some)
        ctx.gradients = dx, dweight
        return total

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, upstream):
        dx, dweight = ctx.gradients
        ctx.gradients = None            # they are given away: the matrix's may be gigabytes
        return dx.mul_(upstream), dweight.mul_(upstream), None, None, None


def cross_entropy(x, weight, targets, at_once=LOGITS, part=loss_and_gradient):
    """As model.cross_entropy(), at most `at_once` logits in memory. Products have the dtype of autocast or of
    x; what follows is float32. `part` is loss_and_gradient(), or a compiled form of it."""
    if not torch.is_grad_enabled():
        x, weight = x.detach(), weight.detach()         # or the gradients would be computed all the same
    return SummedLoss.apply(x, weight, targets, at_once, part)
