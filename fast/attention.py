"""Faster forms of model.attention(), which is the equation. choose() picks one when a model is built.

Every form takes what attention() takes and gives what it gives, up to rounding; tests/test_attention.py
compares them, backward too. Rows with padding or a cache go to fused() from each of them. Without this file
Transformer(cfg) works, and is slower.

    form      for                                          what it does
    fused     RoPE, or none; ALiBi's short rows on a CPU   one kernel, the bias is a mask
    blocks    short rows in bfloat16 on a CPU              plain products, the unseen half is left out
    flex      ALiBi on a GPU, compiled                     one kernel that computes the bias itself
    folded    ALiBi's long rows on a CPU                   one kernel, the bias hides in more coordinates
              ALiBi on a GPU, not compiled, or of narrow heads

Letters: B batch   T queries   S keys   H heads   K key heads   D head width
"""
import math

import torch
import torch.nn.functional as F

from model import attention

BLOCKS = 4              # blocks of queries in blocks(): the last looks at all keys, the first at a quarter
SHORT = 256             # tokens up to which plain bfloat16 products beat a CPU's kernel (docs/speed.md)
MASKED = 512            # tokens up to which a CPU reads the bias as a mask as fast as folded() hides it
NARROWEST = 16          # the least head width that FlexAttention has a kernel for
EXTRA = 8               # coordinates that folded() adds: three are used, kernels like multiples of 8


def choose(shape, device, dtype, compiled):
    """The form for a model of `shape`, a config.Model, on `device`, with products in `dtype`. `compiled`: the
    blocks will be."""
    T = shape.context
    if device == "cpu" and dtype == torch.bfloat16 and T <= SHORT:
        return blocks
    if shape.position != "alibi" or device == "cpu" and T <= MASKED:
        return fused
    has_flex = device == "cuda" and shape.dim // shape.heads >= NARROWEST
    return flex(T, device) if compiled and has_flex else folded


def bias(q, S, pos, mask, slopes):
    """The mask (B or 1, H, T, S) of numbers for a fused kernel: ALiBi's bias, -inf where nobody may look."""
    key = torch.arange(S, device=q.device)
    if mask is None:                            # the queries are the last of the keys
        mask = key <= key[-q.shape[2]:].unsqueeze(1)
    distance = (key - pos.unsqueeze(-1)).unsqueeze(1)
    found = (slopes.view(-1, 1, 1) * distance).masked_fill(~mask, -math.inf)
    return (found - found.amax(-1, keepdim=True)).to(q.dtype)       # near keys have small numbers: exact


def fused(q, k, v, pos, mask=None, slopes=None):
    """PyTorch's own kernels. A causal mask costs them nothing, a mask of numbers is read from memory."""
    if slopes is not None:
        mask = bias(q, k.shape[2], pos, mask, slopes)
    in_order = mask is None and q.shape[2] > 1
    shared = q.shape[1] != k.shape[1]
    return F.scaled_dot_product_attention(q, k, v, mask, is_causal=in_order, enable_gqa=shared)


def blocks(q, k, v, pos, mask=None, slopes=None):
    """The equation for a block of queries after the other. A block leaves out the keys behind its end."""
    T = q.shape[2]
    if mask is not None or T != k.shape[2] or T < 2 * BLOCKS:
        return fused(q, k, v, pos, mask, slopes)
    rows = math.ceil(T / BLOCKS)
    done = []
    for first in range(0, T, rows):
        end = min(first + rows, T)
        block = q[:, :, first:end], k[:, :, :end], v[:, :, :end], pos[:, first:end]
        done.append(attention(*block, None, slopes))
    return torch.cat(done, 2)


def sees(b, h, i, j):
    """Whether query i may look at key j, in any row and head."""
    return i >= j


def flex(T, device):
    """The form for rows of T tokens by FlexAttention: it generates a kernel that adds slope * (j - i) to each
    score where it computes it."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention
    kernel = torch.compile(flex_attention, dynamic=False)
    seen = create_block_mask(sees, None, None, T, T, device=device)

    def attend(q, k, v, pos, mask=None, slopes=None):
        if mask is not None or not q.shape[2] == k.shape[2] == T:
            return fused(q, k, v, pos, mask, slopes)

        def add_bias(score, b, h, i, j):
            return score + slopes[h] * (j - i)
        return kernel(q, k, v, score_mod=add_bias, block_mask=seen, enable_gqa=q.shape[1] != k.shape[1])
    return attend


def folded(q, k, v, pos, mask=None, slopes=None):
    """q' and k' with q'.k' = q.k + slope * j * sqrt(D): each q gets ones, each k gets slope * j * sqrt(D).

    So every causal kernel works as it is. The factor sqrt(D) is there because the kernel divides by it, and
    -slope * i is left out because it is constant along a row of scores. One bfloat16 number cannot tell the
    keys near position 2048 apart: three coordinates hold the number as a sum. v is padded to the same width.
    """
    (B, H, T, D), K = q.shape, k.shape[1]
    if mask is not None or T != k.shape[2]:
        return fused(q, k, v, pos, mask, slopes)
    rest = slopes.view(1, H, 1) * pos.unsqueeze(1) * math.sqrt(D)
    key = torch.zeros(B, H, T, EXTRA, device=q.device, dtype=q.dtype)
    for i in range(3):
        key[..., i] = rest
        rest = rest - key[..., i].float()
    k, v = k.repeat_interleave(H // K, 1), v.repeat_interleave(H // K, 1)       # a head, a slope
    q, k = torch.cat((q, torch.ones_like(key)), -1), torch.cat((k, key), -1)
    y = F.scaled_dot_product_attention(q, k, F.pad(v, (0, EXTRA)), is_causal=True, scale=D ** -0.5)
    return y[..., :D]
