"""How much memory a training step needs on one GPU: by formulas, and by rehearsal. plan.py prints both.

held() lists what lies in memory, and the moments of a step between which it is there. The peak is the largest
sum at one moment. rehearse() runs the real step on tensors without memory, and PyTorch's tracker counts.
Weights are float32, 4 bytes; products and what they multiply are bfloat16, 2 bytes.

Letters: n tokens in a micro-batch   S GPUs that share one copy of the state   P parameters   C width
         H heads   K key heads   D head width   F mlp width
"""
import collections
import dataclasses
import math

import torch

import checkpoint
import parallel
import train
from fast import attention
from fast.loss import rows_at_once
from model import Transformer, count, mlp_width

CPU = torch.device("cpu")
# The lines of the printed table.
PARTS = {"weights": "weights, float32", "gradients": "gradients, float32",
         "moments": "Adam's two moments, float32",
         "gathered": "gathered weights, bfloat16: the root's, two blocks'",
         "activations": "activations kept for the backward pass",
         "loss": "loss: logits and the head's gradient",
         "reduced": "gradients being summed over the GPUs", "peak": "highest point of a step"}
# Moments of a step, in order: the blocks are done; the loss is known; gradients of the logits, of the head,
# of the last block; a block's travel; the root's (of what is in no block) turn to float32; they travel.
MOMENTS = ("blocks", "loss", "logits", "head", "block", "travel", "root", "end")


# ---- the formulas ----

def sizes(m):
    """(P, parameters of a block) of a config.Model."""
    with torch.device("meta"):
        model = Transformer(dataclasses.replace(m, layers=1))
    block = count(model.blocks[0])
    return count(model) + (m.layers - 1) * block, block


def norm_bytes(m):
    """Bytes per token that a norm keeps: its input, float32, and its result. RMSNorm also keeps what its
    weight multiplies."""
    return {"layer": 6, "rms": 10}[m.norm] * m.dim


def block_bytes(m):
    """Bytes per token that a block keeps for its backward pass."""
    C, H, K = m.dim, m.heads, m.kv_heads or m.heads
    D, F = C // H, m.mlp_dim or mlp_width(m.mlp, C)
    qkv = C + 2 * K * D
    turned = C + K * D if m.position == "rope" else 0   # q and k; v is a view that keeps all of qkv
    attention = turned + qkv + C                        # and the result
    joined = C                                          # the result again, heads side by side
    mlp = {"gelu": 2 * F, "swiglu": 4 * F}[m.mlp]       # up, gelu(up); gate, silu(gate), up, their product
    softmax = 4 * H                                     # its sums, float32
    return 2 * norm_bytes(m) + 2 * (attention + joined + mlp) + softmax


def dear_bytes(m):
    """Bytes per token of a block's products and attention, which machine.recompute=cheap keeps."""
    C, D, F = m.dim, m.dim // m.heads, m.mlp_dim or mlp_width(m.mlp, m.dim)
    up = {"gelu": F, "swiglu": 2 * F}[m.mlp]
    return 2 * (C + 2 * (m.kv_heads or m.heads) * D + C + C + up + C) + 4 * m.heads


def sharing(cfg, gpus):
    """S, how many of `gpus` share one copy of the state."""
    return (cfg.machine.shard or gpus) if gpus > 1 else 1


def one_at_once(cfg, gpus):
    """Whether a step is one micro-batch on each GPU: it begins without gradients of others."""
    return cfg.run.batch <= cfg.machine.micro * gpus


def held(cfg, gpus):
    """[(line of the table or "", bytes, first moment, last moment)] of all tensors on one of `gpus`."""
    m, (P, block) = cfg.model, sizes(cfg.model)
    head, root = m.vocab * m.dim, P - m.layers * block
    S = sharing(cfg, gpus)
    n = min(cfg.machine.micro, math.ceil(cfg.run.batch / gpus)) * m.context
    logits = min(n, rows_at_once(m.vocab)) * m.vocab                # in memory at once
    kept = n * block_bytes(m)
    outside = n * (norm_bytes(m) + (4 * m.dim if m.embed_norm else 0))
    found = [("weights", 4 * P / S, "blocks", "end"),
             ("gradients", 4 * P / S, "end" if one_at_once(cfg, gpus) else "blocks", "end"),
             ("moments", 8 * P / S, "blocks", "end"),
             ("activations", outside, "blocks", "block"),           # outside the blocks
             ("loss", 10 * logits, "loss", "loss"),                 # logits, in float32, log-softmax
             ("loss", 6 * logits + 2 * head, "logits", "logits"),   # their gradient, a chunk's of the head
             ("loss", 4 * head + 4 * n * m.dim, "loss", "logits")]  # gradients of the head and of its input
    if cfg.machine.recompute:
        dear = dear_bytes(m) if cfg.machine.recompute == "cheap" else 0
        found += [("activations", n * (4 * m.dim + dear) * m.layers, "blocks", "block"),    # inputs of blocks
                  ("", kept - n * dear, "block", "block")]          # what is computed again, of the last
    else:
        found += [("activations", kept, "blocks", "head"),          # of the last block, of the others
                  ("activations", kept * (m.layers - 1), "blocks", "block")]
    if S == 1:                                      # autocast's copies of matrices; float32 gradients
        last = "loss" if cfg.machine.recompute else "head"          # recompute makes the copies again
        return found + [("activations", 2 * m.layers * block, "blocks", last),
                        ("loss", 2 * head, "loss", "logits"),       # copy of the head
                        ("loss", 4 * head, "head", "block"),        # its gradient waits for the embedding's
                        ("", 4 * block, "block", "block")]          # a block's gradient
    found += [("gathered", 2 * root, "blocks", "root"),             # FSDP: gathered weights
              ("gathered", 4 * block, "blocks", "blocks"),          # of a block and the next
              ("gathered", 4 * block, "head", "travel"),
              ("loss", 4 * head, "head", "head"),                   # the head's gradient, in bfloat16 too
              ("loss", 2 * head, "head", "block"),                  # gradients: the head's, a block's
              ("", 2 * block, "block", "block"),
              ("reduced", 4 * block, "block", "travel"),
              ("reduced", 2 * root, "travel", "travel"),            # the root's
              ("", 2 * root, "root", "root"),
              ("", 4 * root / S, "root", "root"),                   # what is kept here of it
              ("reduced", 4 * root, "root", "end")]
    if not m.tied:
        found.append(("reduced", 2 * head, "end", "end"))
    return found


def memory(cfg, gpus):
    """{line of the table: bytes on one GPU} of a step, each at its largest."""
    lines = collections.defaultdict(collections.Counter)
    for line, size, first, last in held(cfg, gpus):
        for moment in MOMENTS[MOMENTS.index(first):MOMENTS.index(last) + 1]:
            lines[line][moment] += size
            lines["peak"][moment] += size
    return {line: max(lines[line].values()) for line in PARTS if line in lines}


# ---- the rehearsal ----

def rehearse(cfg, gpus):
    """The state, the activations and the peak of memory(), counted in two micro-batches of process 0 of
    `gpus`, on tensors without memory. The second begins as one in a run does."""
    S = sharing(cfg, gpus)
    cfg = dataclasses.replace(cfg, machine=dataclasses.replace(cfg.machine, compile=False, shard=S))
    rows = min(cfg.machine.micro, math.ceil(cfg.run.batch / gpus))
    weights, gradients = ("sharded param", "sharded grad") if S > 1 else ("parameter", "gradient")
    seen = []                                           # {kind of tensor: bytes}

    def look(*_):
        kinds = tracker.get_tracker_snapshot("current")[CPU].items()
        seen.append({getattr(kind, "value", kind).lower(): size for kind, size in kinds})
    with parallel.rehearsal(gpus, S) as (fake, tracker_of):
        model = train.build(cfg, "cpu", torch.bfloat16)
        for block in model.blocks:                      # the kernels of a GPU keep what this one keeps
            block.attn.attend = lambda q, k, v, pos, mask, slopes: attention.fused(q, k, v, pos)
        with fake:
            optimizer = train.adamw(model.to_empty(device="cpu"), cfg.optim)
            checkpoint.moments(model, optimizer)
            x = torch.zeros(rows, cfg.model.context, dtype=torch.long)
            tracker = tracker_of(model, optimizer)
            tracker.track_external(*([optimizer] if S > 1 else [model, optimizer]))
            model.norm.register_forward_hook(look)      # before the loss
            with tracker:
                for _ in range(2):
                    tracker.reset_mod_stats()
                    if one_at_once(cfg, gpus):
                        optimizer.zero_grad()
                    train.gradients(model, x, x, x.numel(), cfg.machine.micro,
                                    train.precision("cpu", torch.bfloat16))
                look()
    before, *_, end = seen
    return {"weights": end[weights], "gradients": end[gradients], "moments": end["optstate"],
            "activations": before["activation"],
            "peak": tracker.get_tracker_snapshot("peak")[CPU]["Total"]}
