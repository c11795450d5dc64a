"""How much memory a training step needs on one GPU: by formulas, and by rehearsal. plan.py prints both.

tensors() lists what lies in memory, one line per tensor, and the moments of a step between which it is there.
The peak is the largest sum over the tensors of one moment. rehearse() runs the real step on tensors without
memory instead, and PyTorch's tracker counts. Products are bfloat16. Read it from tensors() to rehearse().

Letters: n tokens in a micro-batch   S GPUs that share one copy of the state   C width   H heads   K key heads
         D head width   F mlp width   z Sizes of the model
"""
import collections
import math
from typing import NamedTuple

import torch

import checkpoint
import parallel
import train
from model import EXTRA, LOGITS, Transformer, count

FLOAT32, BFLOAT16, BYTE = 4, 2, 1
USABLE = 0.92           # of a GPU's memory; CUDA, NCCL and gaps take the rest. A rule of thumb, not measured
MOST_GPUS = 2 ** 16

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


class Sizes(NamedTuple):
    """Numbers of parameters, and F."""
    all: int
    block: int
    root: int
    head: int           # in the matrix that makes logits
    width: int


def sizes(m):
    """The Sizes of a config.Model. To build the model takes a moment, so it is done once and handed on."""
    with torch.device("meta"):
        model = Transformer(m)
    P, block, mlp = count(model), count(model.blocks[0]), model.blocks[0].mlp
    return Sizes(P, block, P - m.layers * block, m.vocab * m.dim, mlp.up.out_features)


# ---- the formulas ----

class Tensor(NamedTuple):
    """`count` numbers of `dtype` bytes, there from moment `first` to moment `last`. `part` is its line of the
    table, or None if it counts in the peak only."""
    part: str | None
    name: str
    dtype: int
    count: float
    first: str = MOMENTS[0]
    last: str = MOMENTS[-1]


def norm_bytes(m):
    """Bytes per token that a norm keeps: its input, which is float32, and its result. RMSNorm also
    keeps what its weight multiplies."""
    return (FLOAT32 + BFLOAT16 + (FLOAT32 if m.norm == "rms" else 0)) * m.dim


def block_bytes(m, F):
    """Bytes per token that a block keeps for its backward pass. What matrices multiply is bfloat16."""
    C, H, K = m.dim, m.heads, m.kv_heads or m.heads
    D = C // H
    qkv = C + 2 * K * D
    attention = {"alibi": 4 * H * (D + EXTRA),          # q, k, v and the result, with ALiBi's coordinates
                 "rope": (C + K * D) + qkv + C,         # q, k turned; v is a view that keeps all of qkv
                 "none": qkv + C}[m.position]
    joined = C                                          # the result again, heads side by side
    mlp = {"gelu": 2 * F, "swiglu": 4 * F}[m.mlp]       # up, gelu(up); gate, silu(gate), up, their product
    softmax = FLOAT32 * H                               # its sums
    return 2 * norm_bytes(m) + BFLOAT16 * (attention + joined + mlp) + softmax


def tensors(cfg, gpus, z):
    """[Tensor] of a step on one of `gpus` GPUs."""
    m, several = cfg.model, gpus > 1
    S = (cfg.machine.shard or gpus) if several else 1
    n = min(cfg.machine.micro, math.ceil(cfg.run.batch / gpus)) * m.context
    logits = min(n, max(1, LOGITS // m.vocab)) * m.vocab            # in memory at once
    chunks = logits < n * m.vocab                                   # then gradients of the head are added up
    kept = n * block_bytes(m, z.width)
    outside = n * (norm_bytes(m) + (FLOAT32 * m.dim if m.embed_norm else 0))
    found = [Tensor("weights", "", FLOAT32, z.all / S),
             Tensor("gradients", "", FLOAT32, z.all / S),
             Tensor("moments", "", FLOAT32, 2 * z.all / S),
             Tensor("activations", "outside the blocks", BYTE, outside, last="block"),
             Tensor(None, "logits and log-softmax", FLOAT32, 2 * logits, "loss", "logits"),
             Tensor(None, "gradient of the logits", FLOAT32, logits, "logits", "logits")]
    if cfg.machine.recompute:
        inputs = n * m.dim * m.layers
        found += [Tensor("activations", "inputs of the blocks", FLOAT32, inputs, last="block"),
                  Tensor(None, "the last block's, computed again", BYTE, kept, "block", "block")]
    else:
        found += [Tensor("activations", "of the last block", BYTE, kept, last="head"),
                  Tensor("activations", "of the others", BYTE, kept * (m.layers - 1), last="block")]
    if chunks:
        found.append(Tensor(None, "the head's gradient so far", BFLOAT16, z.head, "logits", "logits"))
    return found + (sharded(m, S, z, chunks) if several else alone(cfg, z))


def sharded(m, S, z, chunks):
    """What several GPUs hold besides (FSDP): gathered weights, and gradients on their way."""
    found = [Tensor("gathered", "the root's weights", BFLOAT16, z.root, last="root"),
             Tensor("gathered", "those of a block and the next", BFLOAT16, 2 * z.block, last="travel"),
             Tensor(None, "the head's gradient", BFLOAT16, z.head, "head", "block"),
             Tensor(None, "a block's gradient", BFLOAT16, z.block, "block", "block"),
             Tensor("reduced", "a block's gradient", FLOAT32, z.block, "block", "travel"),
             Tensor("reduced", "the root's gradient", BFLOAT16, z.root, "travel", "travel"),
             Tensor(None, "the root's gradient", BFLOAT16, z.root, "root", "root"),
             Tensor(None, "what is kept here of it", FLOAT32, z.root / S, "root", "root"),
             Tensor("reduced", "the root's gradient", FLOAT32, z.root, "root", "end")]
    if not m.tied:
        found.append(Tensor("reduced", "the head's gradient", BFLOAT16, z.head, "end", "end"))
    if chunks:
        found.append(Tensor(None, "that of a chunk, and the sum", BFLOAT16, 2 * z.head, "head", "head"))
    return found


def alone(cfg, z):
    """What one GPU holds besides: autocast's bfloat16 copies of matrices, and gradients, float32 at once."""
    last = "loss" if cfg.machine.recompute else "head"          # recompute makes the copies again
    blocks = cfg.model.layers * z.block
    return [Tensor("activations", "copies of matrices", BFLOAT16, blocks, last=last),
            Tensor(None, "copy of the head", BFLOAT16, z.head, "loss", "logits"),
            Tensor(None, "the head's gradient", BFLOAT16, z.head, "head", "head"),
            Tensor(None, "the head's gradient", FLOAT32, z.head, "head", "block"),
            Tensor(None, "a block's gradient", FLOAT32, z.block, "block", "block")]


def memory(cfg, gpus, z):
    """{part: bytes on one GPU} of a step, each part at its largest. "peak" is the most at one time."""
    whole, parts = collections.Counter(), collections.defaultdict(collections.Counter)
    for t in tensors(cfg, gpus, z):
        for moment in MOMENTS[MOMENTS.index(t.first):MOMENTS.index(t.last) + 1]:
            whole[moment] += t.dtype * t.count
            parts[t.part][moment] += t.dtype * t.count
    found = {part: max(parts[part].values()) for part in PARTS if part in parts}
    found["loss"] = max(whole["loss"], whole["logits"], whole["head"]) - whole["blocks"]
    if gpus > 1 and cfg.machine.shard == 1:             # each GPU keeps the whole gradient
        del found["reduced"]
    return found | {"peak": max(whole.values())}


def fits(cfg, gpus, capacity, z):
    return memory(cfg, gpus, z)["peak"] <= USABLE * capacity


def fewest(cfg, capacity, z):
    """The smallest number of GPUs of `capacity` bytes that the step fits on, a multiple of machine.shard, or
    None. The GPUs share the state, but a block and its activations are on each of them."""
    if fits(cfg, 1, capacity, z):
        return 1
    S = cfg.machine.shard or 1
    low, high = 1, MOST_GPUS // S
    if not fits(cfg, high * S, capacity, z):
        return None
    while low < high:
        middle = (low + high) // 2
        if fits(cfg, middle * S, capacity, z):
            high = middle
        else:
            low = middle + 1
    return max(2, low * S)


# ---- the rehearsal ----

CPU = torch.device("cpu")


def by_kind(snapshot):
    """Counter {kind of tensor: bytes} of one of the tracker's snapshots."""
    sizes = {getattr(kind, "value", kind).lower(): size for kind, size in snapshot[CPU].items()}
    return collections.Counter(sizes)


class Observer:
    """What PyTorch's tracker sees at marks in a micro-batch: before the loss, after its backward pass, at the
    end."""
    def __init__(self, tracker):
        self.tracker = tracker
        self.most = []          # bytes at the highest point since the mark before
        self.there = []         # bytes by kind at the mark

    def mark(self, *_):
        """A hook: what PyTorch calls it with is not needed."""
        self.most.append(self.tracker._peak_mem.pop(CPU, 0))    # there is no public way to begin anew
        self.there.append(by_kind(self.tracker.get_tracker_snapshot("current")))

    def in_backward(self, *kinds):
        """The most bytes of these kinds together, where the backward pass of any module begins or ends."""
        sums = [0]
        for module in self.tracker.memory_tracking.values():
            for state, snapshots in module.snapshots.items():
                if "Backward" in state.value:
                    sums += [sum(by_kind(s)[kind] for kind in kinds) for s in snapshots]
        return max(sums)


def autocast():
    return torch.autocast("cpu", torch.bfloat16)


def rehearse(cfg, gpus):
    """memory(), counted in two micro-batches of process 0 of `gpus`, on tensors without memory."""
    rows = min(cfg.machine.micro, math.ceil(cfg.run.batch / gpus))
    with parallel.rehearsal(gpus) as (fake, tracker_of):
        model = train.build(cfg, "cpu", torch.bfloat16)
        with fake:
            optimizer = train.adamw(model.to_empty(device="cpu"), cfg.optim)
            checkpoint.moments(model, optimizer)
            x = torch.zeros(rows, cfg.model.context, dtype=torch.long)
            seen = Observer(tracker_of(model, optimizer))
            seen.tracker.track_external(*([optimizer] if gpus > 1 else [model, optimizer]))
            model.norm.register_forward_hook(seen.mark)
            model.blocks[-1].register_full_backward_pre_hook(seen.mark)
            with seen.tracker:
                for _ in range(2):                      # the second begins with the gradients of the first
                    seen.tracker.reset_mod_stats()
                    train.gradients(model, x, x, x.numel(), cfg.machine.micro, autocast)
                    seen.mark()
            # The update is not counted: DTensor finds the shapes of its results on tensors of full size, and
            # the tracker would take them for real ones.
            torch.nn.utils.clip_grad_norm_(model.parameters(), cfg.optim.clip)
            optimizer.step()
    before, after, *_, end = seen.there         # the first micro-batch's loss; the end of the second
    parts = {"weights": end["sharded param"] + end["parameter"], "moments": end["optstate"],
             "gradients": end["sharded grad"] + end["gradient"], "activations": before["activation"]}
    others = parts["weights"] + parts["moments"] + parts["activations"]         # there are no gradients yet
    others += after["unsharded param"] + after["all gather"]
    parts["loss"] = seen.most[1] - others
    if gpus > 1:
        parts["gathered"] = seen.in_backward("unsharded param", "all gather")
        if cfg.machine.shard != 1:
            parts["reduced"] = seen.in_backward("unsharded grad", "reduce scatter")
    return parts | {"peak": max(seen.most)}
