"""The decoder of both papers: one Transformer, six choices (configs/bloom.py and configs/llama.py set them).

    choice      BLOOM                    LLaMA
    position    alibi  bias on scores    rope   rotation of q and k
    norm        layer  mean and variance rms    root mean square only
    mlp         gelu   C -> 4C -> C      swiglu gated, 8C/3
    bias        on every Linear          none
    embed_norm  LayerNorm after lookup   none
    tied        head = embedding         head of its own

Read it from the equations to the whole: norms, MLPs, positions, attention and loss are functions of plain
tensors. Then come the modules that hold the weights, the Transformer, the cache, the initial weights.

Letters: B batch   T tokens   C model width   H heads   K key heads   D head width (C // H)   V vocabulary
         S keys seen   n rows
"""
import hashlib
import math
import typing

import torch
import torch.nn as nn
import torch.nn.functional as F

LOGITS = 2 ** 27        # float32 logits that anybody should hold at once: 512 MiB
DRAWS = 2 ** 20         # initial weights drawn at once: a block of rows, with a random generator of its own


# ---- the equations ----

def layer_norm(x, weight, bias, eps):
    """(x - mean) / deviation * weight + bias over the last axis; float32 inside, whatever the weights are."""
    return F.layer_norm(x.float(), x.shape[-1:], weight.float(), bias.float(), eps).type_as(weight)


def rms_norm(x, weight, eps):
    """x / rms(x) * weight over the last axis; float32 inside (LLaMA, section 2.2)."""
    y = x.float()                                       # squares overflow in half precision
    y = y * torch.rsqrt(y.square().mean(-1, keepdim=True) + eps)
    return (y * weight.float()).type_as(weight)


def gelu(x):
    """x times the normal distribution function of x, in the tanh form that BLOOM's fused kernel computes."""
    return F.gelu(x, approximate="tanh")


def swiglu(gate, x):
    """silu(gate) * x, where silu(g) = g * sigmoid(g) (LLaMA, section 2.2; Shazeer 2020)."""
    return F.silu(gate) * x


def linear_scaling(frequency, factor):
    """As if positions were closer together by `factor` (Chen et al. 2023)."""
    return frequency / factor


def llama3_scaling(frequency, factor, low, high, original):
    """Llama 3.1's: a pair that turns `high` times or more in `original` tokens keeps its frequency; one that
    turns `low` times or less has it divided by `factor`; what lies between is a mixture."""
    turns = original * frequency / (2 * math.pi)
    kept = ((turns - low) / (high - low)).clamp(0, 1)
    return kept * frequency + (1 - kept) * frequency / factor


def rope_angles(pos, D, theta=10_000.0, scaling=None):
    """(cos, sin), both (B or 1, 1, T, D/2), of the angles pos * theta^(-2i/D) by which rope() turns pair i;
    `pos` (B or 1, T). `scaling` is not in the paper: the arguments of linear_scaling() or llama3_scaling().
    """
    frequency = theta ** (-torch.arange(0, D, 2, device=pos.device).float() / D)
    if scaling:
        frequency = (linear_scaling if len(scaling) == 1 else llama3_scaling)(frequency, **scaling)
    angle = (pos.float().unsqueeze(-1) * frequency).unsqueeze(1)        # (B or 1, 1, T, D/2)
    return angle.cos(), angle.sin()


def rope(x, angles):
    """Turn each pair (i, i + D/2) of x (B, H, T, D) by its angle of rope_angles().

    If q and k are both turned, their product depends on the distance of their positions only (Su et al.
    2021). Pairs are half a head apart, as in Hugging Face's checkpoints. Meta's pair neighbours (2i, 2i+1),
    which is the same model with the rows of the q and k matrices in another order.
    """
    cos, sin = angles
    a, b = x.float().chunk(2, -1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), -1).type_as(x)


def alibi_slopes(H, device=None):
    """(H,) one slope per head (ALiBi, section 3). H need not be a power of two: BLOOM has 112 heads.

    A power of two takes the geometric sequence from 2^(-8/H). Otherwise the heads left over take every
    other slope of the sequence twice as long. alibi_slopes(3) -> [1/16, 1/256, 1/4]
    """
    p = 2 ** math.floor(math.log2(H))
    powers = torch.cat((torch.arange(p, device=device) + 1.0, torch.arange(H - p, device=device) + 0.5))
    return 2 ** (-8 / p * powers)


def attention(q, k, v, pos, mask=None, slopes=None):
    """softmax(q k^T / sqrt(D) + bias) v for q (B, H, T, D), k and v (B, K, S, D); K divides H.

    `pos` (B or 1, T) are the positions of the queries. A query sees a key where `mask` (B or 1, 1, T, S) is
    True; no mask is causal: the queries are the last T of S. With `slopes` (H,) the bias is ALiBi's: slope *
    (j - i) for key j and query i. With left padding j counts the padding and `pos` does not. That adds one
    number to all scores of a query, which the softmax ignores.
    """
    T, S, shared = q.shape[2], k.shape[2], q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(shared, 1), v.repeat_interleave(shared, 1)
    key = torch.arange(S, device=q.device)
    if mask is None:
        mask = key <= key[S - T:].unsqueeze(1)
    scores = (q @ k.transpose(-1, -2)).float() / math.sqrt(q.shape[-1])
    if slopes is not None:
        scores = scores + slopes.view(-1, 1, 1) * (key - pos.unsqueeze(-1)).unsqueeze(1)
    return scores.masked_fill(~mask, -math.inf).softmax(-1).type_as(v) @ v


def cross_entropy(x, weight, targets):
    """Sum of -log softmax(x weight^T)[target], in nats, over the rows of x (n, C); targets (n,), -100: not
    scored."""
    return F.cross_entropy(F.linear(x, weight).float(), targets, reduction="sum")


# ---- the modules: what holds weights ----
# A Transformer is built without memory: what is 1 or 0 here is written again by init().

class LayerNorm(nn.Module):
    def __init__(self, C, eps):
        super().__init__()
        self.weight, self.bias, self.eps = nn.Parameter(torch.ones(C)), nn.Parameter(torch.zeros(C)), eps

    def forward(self, x):
        return layer_norm(x, self.weight, self.bias, self.eps)


class RMSNorm(nn.Module):
    def __init__(self, C, eps):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(C)), eps

    def forward(self, x):
        return rms_norm(x, self.weight, self.eps)


class GeluMLP(nn.Module):
    """C -> width -> C; the width is 4C in the paper."""
    def __init__(self, C, width, bias):
        super().__init__()
        self.up, self.down = nn.Linear(C, width, bias=bias), nn.Linear(width, C, bias=bias)

    def forward(self, x):
        return self.down(gelu(self.up(x)))


class SwiGluMLP(nn.Module):
    """down(silu(gate x) * up x)"""
    def __init__(self, C, width, bias):
        super().__init__()
        self.gate, self.up = nn.Linear(C, width, bias=bias), nn.Linear(C, width, bias=bias)
        self.down = nn.Linear(width, C, bias=bias)

    def forward(self, x):
        return self.down(swiglu(self.gate(x), self.up(x)))


# a third one stands in config.Model and planning.memory.norm_bytes() too
NORM = {"layer": LayerNorm, "rms": RMSNorm}
MLP = {"gelu": GeluMLP, "swiglu": SwiGluMLP}


def mlp_width(kind, C):
    """The papers' width: 4C; for SwiGLU, which has a third matrix, 2/3 of that, rounded up to 256."""
    return {"gelu": 4 * C, "swiglu": 256 * math.ceil((8 * C // 3) / 256)}[kind]


class Positions(typing.NamedTuple):
    """What all blocks know of where tokens are. pos and mask are those of places()."""
    pos: torch.Tensor
    mask: torch.Tensor | None = None
    angles: tuple | None = None                 # rope_angles(), if the model has RoPE
    slopes: torch.Tensor | None = None          # alibi_slopes(), if it has ALiBi


class Attention(nn.Module):
    """H query heads and K key heads of width C // H. `attend` is attention(), or a faster form of it."""
    def __init__(self, C, H, K, bias, attend=attention):
        super().__init__()
        self.H, self.K, self.D = H, K, C // H
        self.attend = attend
        self.qkv = nn.Linear(C, (H + 2 * K) * self.D, bias=bias)
        self.out = nn.Linear(C, C, bias=bias)

    def forward(self, x, at, past=None):
        """`past` is None, or (keys, values, columns, S): k and v are written there at `columns`, and the
        first S columns are looked at."""
        B, T, C = x.shape
        qkv = self.qkv(x).view(B, T, -1, self.D).transpose(1, 2)            # (B, H + 2K, T, D)
        q, k, v = qkv.split((self.H, self.K, self.K), 1)
        if at.angles is not None:
            q, k = rope(q, at.angles), rope(k, at.angles)
        if past is not None:
            keys, values, columns, S = past
            keys.index_copy_(2, columns, k)
            values.index_copy_(2, columns, v)
            k, v = keys[:, :, :S], values[:, :, :S]                         # (B, K, S, D)
        y = self.attend(q, k, v, at.pos, at.mask, at.slopes)
        return self.out(y.transpose(1, 2).reshape(B, T, C))


class Block(nn.Module):
    """Attention and MLP read the stream through a norm each, and add to it."""
    def __init__(self, cfg, attend=attention):
        super().__init__()
        C = cfg.dim
        self.norm1 = NORM[cfg.norm](C, cfg.eps)
        self.attn = Attention(C, cfg.heads, cfg.kv_heads or cfg.heads, cfg.bias, attend)
        self.norm2 = NORM[cfg.norm](C, cfg.eps)
        self.mlp = MLP[cfg.mlp](C, cfg.mlp_dim or mlp_width(cfg.mlp, C), cfg.bias)
        self.attn.out.residual = self.mlp.down.residual = True      # init() scales what writes to the stream

    def forward(self, x, at, past=None):                            # pre-norm, both papers
        x = (x + self.attn(self.norm1(x), at, past)).type_as(x)             # the stream keeps its dtype
        return (x + self.mlp(self.norm2(x))).type_as(x)


class Transformer(nn.Module):
    """Token ids to logits. `cfg` is a config.Model with `vocab` set. Build it under torch.device("meta"),
    give it memory with to_empty(), fill it with init() or a checkpoint.

    `attend`, `loss` and `block` are attention(), cross_entropy() and Block, or other forms of them. `stream`
    is the dtype of the sum that every block adds to.
    """
    def __init__(self, cfg, attend=attention, loss=cross_entropy, block=Block, stream=torch.float32):
        super().__init__()
        self.cfg, self.cross_entropy, self.stream = cfg, loss, stream
        self.embed = nn.Embedding(cfg.vocab, cfg.dim)
        self.embed_norm = LayerNorm(cfg.dim, cfg.eps) if cfg.embed_norm else nn.Identity()
        self.blocks = nn.ModuleList(block(cfg, attend) for _ in range(cfg.layers))
        self.norm = NORM[cfg.norm](cfg.dim, cfg.eps)
        self.head = None if cfg.tied else nn.Linear(cfg.dim, cfg.vocab, bias=False)

    def forward(self, ids, targets=None, cache=None, last=False):
        """(B, T) ids to (B, T, V) logits, or those of the `last` token. With targets (B, T): their summed
        loss."""
        T = ids.shape[1]
        columns, S = cache.columns(T) if cache else (torch.arange(T, device=ids.device), T)
        at = self.positions(*places(columns, S, cache.pad if cache else None))
        x = self.embed_norm(self.embed(ids)).to(self.stream)
        for i, block in enumerate(self.blocks):
            x = block(x, at, (cache.k[i], cache.v[i], columns, S) if cache else None)
        x = self.norm(x)
        if cache:
            cache.n += T
        if targets is not None:
            return self.loss(x, targets)
        return self.logits(x[:, -1:] if last else x)

    def positions(self, pos, mask):
        cfg, angles, slopes = self.cfg, None, None
        if cfg.position == "rope":
            angles = rope_angles(pos, cfg.dim // cfg.heads, cfg.theta, cfg.scaling)
        if cfg.position == "alibi":
            slopes = alibi_slopes(cfg.heads, pos.device)
        return Positions(pos, mask, angles, slopes)

    def head_weight(self):
        return self.embed.weight if self.head is None else self.head.weight

    def logits(self, x):
        return F.linear(x, self.head_weight())

    def loss(self, x, targets):
        return self.cross_entropy(x.flatten(0, 1), self.head_weight(), targets.flatten())


def count(model):
    """Number of parameters; a tied head counts once."""
    return sum(p.numel() for p in model.parameters())


# ---- the cache ----

class Cache:
    """Keys and values of the `n` tokens seen, in memory for S tokens that is set aside once. `pad` (B,) is
    the number of tokens of left padding in each row, or None."""
    def __init__(self, cfg, B, S, pad=None, device=None, dtype=torch.float32):
        shape = cfg.layers, B, cfg.kv_heads or cfg.heads, S, cfg.dim // cfg.heads
        self.cfg, self.n, self.pad = cfg, 0, pad
        self.k = torch.empty(shape, device=device, dtype=dtype)
        self.v = torch.empty(shape, device=device, dtype=dtype)

    def columns(self, T):
        """(the columns (T,) of T new tokens, number of columns that anybody looks at)"""
        return torch.arange(self.n, self.n + T, device=self.k.device), self.n + T


def places(columns, S, pad=None):
    """(pos, mask) of the tokens in `columns` (T,) of S: their positions (B or 1, T), and which columns they
    may see (B or 1, 1, T, S). The mask is None where the order of the columns is enough: attention() and its
    fast forms then apply it themselves."""
    pos = columns.unsqueeze(0)
    if pad is None and len(columns) in (1, S):
        return pos, None
    key, query = torch.arange(S, device=columns.device), columns.unsqueeze(1)       # (S,), (T, 1)
    mask = key <= query
    if pad is not None:
        mask = mask & (key >= pad.view(-1, 1, 1)) | (key == query)      # padding sees itself: no empty row
        pos = pos - pad.unsqueeze(1)
    return pos, mask.view(-1, 1, len(columns), S)


# ---- the initial weights ----

@torch.no_grad()
def init(model, seed, local_rows=lambda p: (p, 0)):
    """Normal(0, init_std) for matrices and embeddings, divided by sqrt(2 * layers) where they write to the
    residual stream; biases 0, norms 1. `local_rows(p)` gives the rows of `p` that this process holds, and
    the number of the first.

    Each block of rows has a generator of its own, seeded by (seed, name, number). So the weights do not
    depend on the number of processes, and a process that holds some rows draws little more than those:
    BLOOM-176B's embedding has 3.6 billion numbers.
    """
    for name, m in model.named_modules():
        if isinstance(m, (nn.Linear, nn.Embedding)):
            std = model.cfg.init_std
            if getattr(m, "residual", False):
                std /= math.sqrt(2 * model.cfg.layers)
            fill(*local_rows(m.weight), m.weight.shape, std, f"{seed} {name}")
        elif isinstance(m, tuple(NORM.values())):
            m.weight.fill_(1)
        if getattr(m, "bias", None) is not None:
            m.bias.zero_()
    return model


def fill(rows, first, shape, std, name, draws=DRAWS):
    """Fill `rows`, those from number `first` of a matrix of `shape`, from the generators called `name`."""
    n = max(1, draws // shape[1])                                   # rows in a block
    end = first + len(rows)
    for i in range(first // n, math.ceil(end / n) if len(rows) else 0):
        digest = hashlib.sha256(f"{name} {i}".encode()).digest()
        seed = int.from_bytes(digest[:8], "little", signed=True)
        generator = torch.Generator().manual_seed(seed)         # on the CPU: the same on every device
        block = torch.empty(min(n, shape[0] - i * n), shape[1]).normal_(0, std, generator=generator)
        a, b = max(first, i * n), min(end, i * n + len(block))
        rows[a - first:b - first] = block[a - i * n:b - i * n]
