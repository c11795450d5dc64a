"""The decoder of both papers: one Transformer, six choices (configs/bloom.py and configs/llama.py set them).

    choice      BLOOM                    LLaMA
    position    alibi  bias on scores    rope   rotation of q and k
    norm        layer  mean and variance rms    root mean square only
    mlp         gelu   C -> 4C -> C      swiglu gated, 8C/3
    bias        on every Linear          none
    embed_norm  LayerNorm after lookup   none
    tied        head = embedding         head of its own

Read it from the parts to the whole: norms, MLPs, positions, attention, block, Transformer; then the cache and the initialisation.

Letters: B batch   T tokens   C model width   H heads   K key heads   D head width (C // H)   F mlp width   V vocabulary   S keys seen
"""
import hashlib
import math
import sys

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

import distributed

LOGITS = 2 ** 27        # float32 logits held at once by the loss: 512 MiB; more are computed in chunks
EXTRA = 8               # coordinates ALiBi adds to a head: three are used, attention kernels like multiples of 8
DRAWS = 2 ** 20         # initial weights drawn at once: a row block of a matrix, with a generator of its own
IGNORE = -100           # target of a position that is not scored
SINKS = 4               # first tokens of a text that are never forgotten


class LayerNorm(nn.LayerNorm):
    """(x - mean) / deviation * weight + bias over the last axis; float32 inside, whatever the weights are."""
    def forward(self, x):
        return F.layer_norm(x.float(), x.shape[-1:], self.weight.float(), self.bias.float(), self.eps).type_as(self.weight)


class RMSNorm(nn.Module):
    """x / rms(x) * weight over the last axis, float32 inside (LLaMA, section 2.2; Zhang and Sennrich 2019)."""
    def __init__(self, C, eps):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(C)), eps

    def forward(self, x):
        y = x.float()                                   # squares overflow in half precision
        y = y * torch.rsqrt(y.square().mean(-1, keepdim=True) + self.eps)
        return (y * self.weight.float()).type_as(self.weight)


NORM = {"layer": LayerNorm, "rms": RMSNorm}


def linear(x, weight, bias=None):
    """x (..., C) times weight (N, C) transposed. When texts are written token by token x is a few rows, and the work is to read the weights from memory.
    On a CPU the libraries let one core do it, at a fraction of the memory's speed: as a batch of pieces, or compiled from a multiply and a sum, all do."""
    rows = x.numel() // x.shape[-1]
    if x.device.type == "cpu" and rows <= 8 and weight.dtype == torch.float32:
        pieces = weight.view(math.gcd(len(weight), 16), -1, weight.shape[1])
        y = torch.bmm(pieces, x.reshape(rows, -1).t().expand(len(pieces), -1, -1)).view(-1, rows).t()
    elif x.device.type == "cpu" and rows == 1 and torch.compiler.is_compiling():
        y = (weight.float() * x.reshape(-1).float()).sum(-1).type_as(weight)
    else:
        return F.linear(x, weight, bias)
    y = y.reshape(*x.shape[:-1], len(weight))
    return y if bias is None else y + bias


class Linear(nn.Linear):
    def forward(self, x):
        return linear(x, self.weight, self.bias)


class GELU(nn.Module):
    """C -> 4C -> C with the tanh form of GELU, the one BLOOM's fused kernel computes."""
    def __init__(self, C, width, bias):
        super().__init__()
        width = width or 4 * C
        self.up, self.down = Linear(C, width, bias=bias), Linear(width, C, bias=bias)

    def forward(self, x):
        return self.down(F.gelu(self.up(x), approximate="tanh"))


class SwiGLU(nn.Module):
    """down(silu(gate x) * up x) (LLaMA, section 2.2; Shazeer 2020): 2/3 of 4C, rounded up to 256, costs what 4C costs without a gate."""
    def __init__(self, C, width, bias):
        super().__init__()
        width = width or 256 * math.ceil((8 * C // 3) / 256)
        self.gate, self.up = Linear(C, width, bias=bias), Linear(C, width, bias=bias)
        self.down = Linear(width, C, bias=bias)

    def forward(self, x):
        return self.down(F.silu(self.gate(x)) * self.up(x))


MLP = {"gelu": GELU, "swiglu": SwiGLU}


def alibi_slopes(H):
    """(H,) one slope per head (ALiBi, section 3). H need not be a power of two: BLOOM has 112 heads.

    A power of two takes the geometric sequence from 2^(-8/H). Otherwise the heads left over take every other slope
    of the sequence twice as long. alibi_slopes(3) -> [1/16, 1/256, 1/4]
    """
    p = 2 ** math.floor(math.log2(H))
    slopes = [2 ** (-8 * i / p) for i in range(1, p + 1)]
    return torch.tensor(slopes + [2 ** (-4 * i / p) for i in range(1, 2 * (H - p), 2)])


def alibi(q, k, v, pos, theta):
    """Add slope * j to the score of key j, with `pos` (B or 1, T) the j's, as a few more coordinates of q and k.

    The softmax ignores what is constant along a row, so slope * j does what slope * (j - i) does, and as a product of
    coordinates it needs no (H, T, S) mask: every fused causal kernel works as it is. Three coordinates hold the value
    as a sum, because one bfloat16 cannot tell the keys near position 2048 apart. v is padded to the same width.
    """
    (B, H, T, D), K = q.shape, k.shape[1]
    bias = alibi_slopes(H).to(q.device).view(1, H, 1) * pos.unsqueeze(1) * math.sqrt(D)      # the score is divided by sqrt(D)
    key = torch.zeros(B, H, T, EXTRA, device=q.device, dtype=q.dtype)
    for i in range(3):
        key[..., i] = bias
        bias = bias - key[..., i].float()
    query = torch.ones_like(key)
    if K < H:       # grouped keys are shared by heads with different slopes: give each its own
        k, v = k.repeat_interleave(H // K, 1), v.repeat_interleave(H // K, 1)
    return torch.cat((q, query), -1), torch.cat((k, key), -1), F.pad(v, (0, EXTRA))


def rope(q, k, v, pos, theta):
    """Turn pair (i, i + D/2) of q and k by the angle pos * theta^(-2i/D) (RoFormer; Su et al. 2021), `pos` (B or 1, T).

    The scores then depend on distances only. Pairs are half a head apart, as in Hugging Face's checkpoints; Meta's
    pair neighbours (2i, 2i+1), which is the same model with the rows of the q and k matrices in another order.
    """
    D = q.shape[-1]
    angle = pos.float().unsqueeze(-1) * theta ** (-torch.arange(0, D, 2, device=q.device).float() / D)
    cos, sin = angle.cos().unsqueeze(1), angle.sin().unsqueeze(1)       # (B or 1, 1, T, D/2)

    def turn(x):
        a, b = x.float().chunk(2, -1)
        return torch.cat((a * cos - b * sin, b * cos + a * sin), -1).type_as(x)
    return turn(q), turn(k), v


POSITION = {"alibi": alibi, "rope": rope, "none": lambda q, k, v, pos, theta: (q, k, v)}


class Attention(nn.Module):
    def __init__(self, cfg):
        super().__init__()
        self.H, self.K, self.D = cfg.heads, cfg.kv_heads or cfg.heads, cfg.dim // cfg.heads
        self.place, self.theta = POSITION[cfg.position], cfg.theta
        self.qkv = Linear(cfg.dim, (self.H + 2 * self.K) * self.D, bias=cfg.bias)
        self.out = Linear(cfg.dim, cfg.dim, bias=cfg.bias)

    def forward(self, x, pos, mask, past):
        B, T, C = x.shape
        q, k, v = self.qkv(x).view(B, T, -1, self.D).transpose(1, 2).split((self.H, self.K, self.K), 1)     # (B, H or K, T, D)
        q, k, v = self.place(q, k, v, pos, self.theta)
        if past is not None:
            keys, values, n = past
            keys[:, :, n:n + T], values[:, :, n:n + T] = k, v
            k, v = keys[:, :, :n + T], values[:, :, :n + T]                                                   # (B, H or K, S, D)
        y = F.scaled_dot_product_attention(q, k, v, mask, is_causal=mask is None and T > 1, scale=self.D ** -0.5,
                                           enable_gqa=q.shape[1] != k.shape[1])
        return self.out(y[..., :self.D].transpose(1, 2).reshape(B, T, C))


class Block(nn.Module):
    """`recompute` keeps only the block's input for the backward pass and computes the rest again (activation checkpointing, Chen et al. 2016)."""
    def __init__(self, cfg, recompute=False):
        super().__init__()
        self.recompute = recompute
        self.norm1, self.attn = NORM[cfg.norm](cfg.dim, eps=cfg.eps), Attention(cfg)
        self.norm2, self.mlp = NORM[cfg.norm](cfg.dim, eps=cfg.eps), MLP[cfg.mlp](cfg.dim, cfg.mlp_dim, cfg.bias)
        self.attn.out.residual = self.mlp.down.residual = True      # they write to the residual stream: init() scales them

    def forward(self, x, pos, mask=None, past=None):
        if self.recompute and torch.is_grad_enabled():
            return checkpoint(self.compute, x, pos, mask, past, use_reentrant=False, preserve_rng_state=False)     # nothing here is random
        return self.compute(x, pos, mask, past)

    def compute(self, x, pos, mask, past):                          # pre-norm, both papers
        x = x + self.attn(self.norm1(x), pos, mask, past)
        return x + self.mlp(self.norm2(x))


class Transformer(nn.Module):
    """Token ids to logits. `cfg` is config.Model with `vocab` set. Build it under torch.device("meta"), to_empty() where it shall live, then init()."""
    def __init__(self, cfg, recompute=False):
        super().__init__()
        self.cfg = cfg
        self.embed = nn.Embedding(cfg.vocab, cfg.dim)
        self.embed_norm = LayerNorm(cfg.dim, eps=cfg.eps) if cfg.embed_norm else nn.Identity()
        self.blocks = nn.ModuleList(Block(cfg, recompute) for _ in range(cfg.layers))
        self.norm = NORM[cfg.norm](cfg.dim, eps=cfg.eps)
        self.head = None if cfg.tied else Linear(cfg.dim, cfg.vocab, bias=False)

    def forward(self, ids, targets=None, cache=None, last=False):
        """(B, T) ids to (B, T, V) logits, of the `last` token only if asked; with targets (B, T) to the sum of their losses, IGNOREd ones left out."""
        n, T = (cache.n if cache else 0), ids.shape[1]
        pos = torch.arange(n, n + T, device=ids.device).unsqueeze(0)
        mask = None
        if cache and (cache.pad is not None or n and T > 1):        # the fused causal mask knows neither padding nor a past
            key, query = torch.arange(n + T, device=ids.device), pos.unsqueeze(-1)              # (S,), (1, T, 1)
            mask = key <= query
            if cache.pad is not None:
                mask = mask & (key >= cache.pad.view(-1, 1, 1)) | (key == query)                # padding sees itself, or softmax has nothing
                pos = pos - cache.pad.unsqueeze(1)
            mask = mask.unsqueeze(1)                                                            # (B or 1, 1, T, S)
        x = self.embed_norm(self.embed(ids)).float()                # the residual stream is float32
        for i, block in enumerate(self.blocks):
            x = block(x, pos, mask, (cache.k[i], cache.v[i], n) if cache else None)
        x = self.norm(x)
        if cache:
            cache.n += T
        return self.logits(x[:, -1:] if last else x) if targets is None else self.loss(x, targets)

    def logits(self, x):
        return linear(x, self.embed.weight if self.head is None else self.head.weight)

    def loss(self, x, targets):
        """Sum of the cross entropies of x (B, T, C) against targets (B, T), in nats.

        For 250,880 entries the logits of one BLOOM row are 2 GiB in float32: above LOGITS numbers they are computed
        chunk by chunk, and again in the backward pass.
        """
        def part(x, targets):
            return F.cross_entropy(self.logits(x).float(), targets, ignore_index=IGNORE, reduction="sum")
        x, targets = x.flatten(0, 1), targets.flatten()
        rows = max(1, LOGITS // self.cfg.vocab)
        if len(x) <= rows:
            return part(x, targets)
        return sum(checkpoint(part, a, b, use_reentrant=False) for a, b in zip(x.split(rows), targets.split(rows)))


class Cache:
    """Keys and values of the `n` tokens seen, in memory set aside once, for S tokens. `pad` (B,): tokens of left padding in each row, or None."""
    def __init__(self, cfg, B, S, pad=None, device=None, dtype=torch.float32):
        alibi = cfg.position == "alibi"
        K, D = cfg.heads if alibi else cfg.kv_heads or cfg.heads, cfg.dim // cfg.heads + EXTRA * alibi
        self.cfg, self.n, self.pad = cfg, 0, pad
        try:                            # a CPU hands out the pages as they are written
            self.k, self.v = (torch.empty(cfg.layers, B, K, S, D, device=device, dtype=dtype) for _ in "kv")
        except RuntimeError as e:
            raise ValueError(f"there is no memory for the keys and values of {B} texts of {S:,} tokens; use fewer tokens, a smaller window or batch") from e

    def rows(self, index, S):
        """A copy of the rows of `index` (B,), with room for S tokens."""
        new, n = Cache(self.cfg, len(index), S, None if self.pad is None else self.pad[index], self.k.device, self.k.dtype), self.n
        new.k[:, :, :, :n], new.v[:, :, :, :n], new.n = self.k[:, index, :, :n], self.v[:, index, :, :n], n
        return new

    def slide(self, m):
        """Forget all but the first SINKS tokens of a text and its last `m`, and move these up to them, as if nothing had been between (Xiao
        et al. 2023: without the first tokens, on which heads rest that look for nothing, a model fails). Memory stays bounded; returns how
        many tokens are gone. A row that is shorter than that loses padding instead."""
        B, d = self.k.shape[1], self.n - SINKS - m
        pad = torch.zeros(B, dtype=torch.long, device=self.k.device) if self.pad is None else self.pad
        index = torch.arange(SINKS + m, device=pad.device).repeat(B, 1)
        index = torch.where(index < SINKS, index + pad.clamp(max=d).unsqueeze(1), index + d)                # (B, SINKS + m)
        was, pad = index - pad.unsqueeze(1), (pad - d).clamp(min=0)
        now, place, D = torch.arange(SINKS + m, device=pad.device) - pad.unsqueeze(1), POSITION[self.cfg.position], self.cfg.dim // self.cfg.heads
        for layer in range(len(self.k)):
            k, v = (x[layer].transpose(1, 2)[torch.arange(B, device=pad.device).unsqueeze(1), index].transpose(1, 2) for x in (self.k, self.v))
            # keys that hold their position as coordinates are given new ones, keys that are turned are turned on by the difference
            _, k, v = place(k[..., :D], k[..., :D], v[..., :D], now if self.cfg.position == "alibi" else now - was, self.cfg.theta)
            self.k[layer, :, :, :SINKS + m], self.v[layer, :, :, :SINKS + m] = k, v
        self.n, self.pad = SINKS + m, pad if pad.any() else None
        return d


@torch.no_grad()
def init(model, seed):
    """Normal(0, init_std) for matrices and embeddings, divided by sqrt(2 * layers) where they write to the residual stream;
    biases 0, norms 1. Each block of rows has a generator of its own, so weights depend on (seed, name) and nothing else, and a
    process that holds some rows draws little more than those (BLOOM-176B's embedding has 3.6 billion numbers)."""
    for name, m in model.named_modules():
        if isinstance(m, (nn.Linear, nn.Embedding)):
            std = model.cfg.init_std / (math.sqrt(2 * model.cfg.layers) if getattr(m, "residual", False) else 1)
            rows, first = distributed.part(m.weight)
            n, C = max(1, DRAWS // m.weight.shape[1]), m.weight.shape[1]
            for i in range(first // n, math.ceil((first + len(rows)) / n) if len(rows) else 0):
                digest = hashlib.sha256(f"{seed} {name} {i}".encode()).digest()
                generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little", signed=True))       # on the CPU: the same on every device
                block = torch.empty(min(n, len(m.weight) - i * n), C).normal_(0, std, generator=generator)
                a, b = max(first, i * n), min(first + len(rows), i * n + len(block))
                rows[a - first:b - first] = block[a - i * n:b - i * n]
        elif isinstance(m, (nn.LayerNorm, RMSNorm)):
            m.weight.fill_(1)
        if getattr(m, "bias", None) is not None:
            m.bias.zero_()
    return model


def count(model):
    return sum(p.numel() for p in model.parameters())


def flops_per_token(cfg, parameters):
    """Training FLOPs per token: 6 per parameter in a product, and attention's scores over a whole row of `context` keys.
    An untied embedding is only looked up; a tied one is also the head."""
    multiplied = parameters - (0 if cfg.tied else cfg.vocab * cfg.dim)
    return 6 * multiplied + 12 * cfg.layers * cfg.dim * cfg.context


def can_compile(device):
    """Whether torch.compile works here; says why not. It needs a C++ compiler for the CPU, Triton for a GPU."""
    try:
        torch.compile(lambda x: x * 2)(torch.ones(8, device=device))
        return True
    except Exception as e:              # whatever it is, the run can do without
        print(f"compile: not possible here, going on without ({type(e).__name__}: {' '.join(str(e).split())[:150]})", file=sys.stderr)
        return False
