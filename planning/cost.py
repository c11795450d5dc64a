"""How long a step takes on one GPU: FLOPs over the rate of matrix products, and bytes over that of memory.
plan.py prints it, with what the network must give so that nobody waits for it.

    seconds = FLOPs / products + bytes / copies

Products and copies do not overlap: a GPU does one after the other. The bytes are those of activations (so
many passes over what a block keeps), of the loss, of the copies that products need, and of AdamW. Both rates
are measured ones: a data sheet promises more than a large matrix product reaches. The constants below were
chosen on measured steps. docs/speed.md has planned and measured times side by side.

Letters: n tokens of a step on one GPU   P parameters   S GPUs that share one copy of the state
"""
import math
from typing import NamedTuple

import parallel
from fast.loss import rows_at_once
from planning import memory


class Rates(NamedTuple):
    products: float     # FLOP/s of one large matrix product
    copies: float       # bytes/s, read and written ones together


MEASURED = {"H100": Rates(736e12, 2.7e12), "H200": Rates(791e12, 4.3e12)}
# Bytes/s of the data sheets. What was not measured is taken to reach the same shares of its data sheet.
BANDWIDTH = {"RTX 3090": 0.94e12, "RTX 4090": 1.01e12, "A100": 2.04e12, "B200": 8e12}
OF_PRODUCTS, OF_BANDWIDTH = 0.77, 0.85


class Moved(NamedTuple):
    passes: float       # how often what a block keeps is read or written in a step
    logit: float        # bytes for each logit
    casts: float        # bytes per parameter of blocks and micro-batch: to bfloat16, and the gradient back


# A compiled block joins neighbours into one kernel; an eager one writes every step of a norm, of RoPE, of a
# change of dtype. On a CPU products are float32, and the arithmetic of these steps counts as bytes too.
COMPILED = Moved(passes=4.5, logit=20, casts=14)
EAGER = Moved(passes=20, logit=38, casts=14)
CPU = Moved(passes=34, logit=60, casts=0)
AGAIN = 1 / 3           # of the passes and of the products of blocks: the forward pass, if it is done twice
HEAD = 8                # bytes per number of the head and chunk of logits: its gradient is added up
ADAMW = 32              # bytes per parameter: weight, gradient, two moments, the norm before


def rates_of(gpu):
    """The Rates of a name in parallel.GPUS."""
    if gpu in MEASURED:
        return MEASURED[gpu]
    return Rates(OF_PRODUCTS * parallel.GPUS[gpu][0], OF_BANDWIDTH * BANDWIDTH[gpu])


def products_of(m, flops, recompute):
    """FLOPs per token that are really done; `flops` are train.flops_per_token()."""
    if recompute is not True:                   # "cheap" keeps products
        return flops
    outside = 6 * m.vocab * m.dim
    return flops + AGAIN * (flops - outside)


def parts_of(cfg, gpus):
    """(n, micro-batches of a step on one of `gpus`, S)"""
    rows = math.ceil(cfg.run.batch / gpus)
    return rows * cfg.model.context, math.ceil(rows / cfg.machine.micro), memory.sharing(cfg, gpus)


def moved_bytes(cfg, gpus, moved):
    """Bytes read and written in a step on one of `gpus`, beside those of the products themselves."""
    m = cfg.model
    P, block = memory.sizes(m)
    n, pieces, S = parts_of(cfg, gpus)
    passes = moved.passes * (1 + AGAIN * bool(cfg.machine.recompute))
    head = m.vocab * m.dim
    chunks = math.ceil(n / pieces / rows_at_once(m.vocab)) * pieces
    return (n * m.layers * memory.block_bytes(m) * passes
            + n * m.vocab * moved.logit + head * chunks * HEAD
            + m.layers * block * pieces * moved.casts
            + ADAMW * P / S)


def step_seconds(cfg, gpus, rates, flops, moved=COMPILED):
    """Seconds of a step on one of `gpus`, if it never waits for the others."""
    n, _, _ = parts_of(cfg, gpus)
    products = n * products_of(cfg.model, flops, cfg.machine.recompute)
    return products / rates.products + moved_bytes(cfg, gpus, moved) / rates.copies


def sent_bytes(cfg, gpus):
    """(bytes that one of `gpus` receives in a step from those that share its copy of the state, from other
    copies). It sends as many. FSDP gathers a block's weights in bfloat16 for the forward and for the backward
    pass of each micro-batch, the others once for both, and sums the gradients in float32. Copies sum what
    they keep once a step."""
    _, pieces, S = parts_of(cfg, gpus)
    P, block = memory.sizes(cfg.model)
    copies = gpus // S
    gathered = 2 * P + 2 * cfg.model.layers * block
    return (gathered + 4 * P) * (S - 1) / S * pieces, 8 * P / S * (copies - 1) / copies
