"""How much memory a training step needs on one GPU: by formulas, and by rehearsal. plan.py prints both.

held() lists what lies in memory, and the moments of a step between which it is there. The peak is the largest
sum at one moment. rehearse() runs the real step on tensors without memory, and PyTorch's tracker counts.
Weights are float32, 4 bytes; products and what they multiply are bfloat16, 2 bytes.

Letters: n tokens in a micro-batch   S GPUs that share one copy of the state   P parameters   C width
         H heads   K key heads   D head width   F mlp width
"""
import bisect
import collections
import dataclasses
import math

import torch

import checkpoint
import parallel
import train
from model import EXTRA, LOGITS, Transformer, count, mlp_width

USABLE = 0.92           # of a GPU's memory; CUDA, NCCL and gaps take the rest. A rule of thumb, not measured
MOST_GPUS = 2 ** 16
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
    attention = {"alibi": 4 * H * (D + EXTRA),          # q, k, v and the result, with ALiBi's coordinates
                 "rope": (C + K * D) + qkv + C,         # q, k turned; v is a view that keeps all of qkv
                 "none": qkv + C}[m.position]
    joined = C                                          # the result again, heads side by side
    mlp = {"gelu": 2 * F, "swiglu": 4 * F}[m.mlp]       # up, gelu(up); gate, silu(gate), up, their product
    softmax = 4 * H                                     # its sums, float32
    return 2 * norm_bytes(m) + 2 * (attention + joined + mlp) + softmax


def held(cfg, gpus):
    """[(its part of the table or "", bytes, first moment, last moment)] of all tensors on one of `gpus`."""
    m, (P, block) = cfg.model, sizes(cfg.model)
    head, root = m.vocab * m.dim, P - m.layers * block
    S = (cfg.machine.shard or gpus) if gpus > 1 else 1
    n = min(cfg.machine.micro, math.ceil(cfg.run.batch / gpus)) * m.context
    logits = min(n, max(1, LOGITS // m.vocab)) * m.vocab            # in memory at once
    chunks = logits < n * m.vocab                                   # then gradients of the head are added up
    kept = n * block_bytes(m)
    outside = n * (norm_bytes(m) + (4 * m.dim if m.embed_norm else 0))
    found = [("weights", 4 * P / S, "blocks", "end"),
             ("gradients", 4 * P / S, "blocks", "end"),
             ("moments", 8 * P / S, "blocks", "end"),
             ("activations", outside, "blocks", "block"),           # outside the blocks
             ("", 8 * logits, "loss", "logits"),                    # logits and log-softmax
             ("", 4 * logits, "logits", "logits")]                  # gradient of the logits
    if cfg.machine.recompute:
        found += [("activations", 4 * n * m.dim * m.layers, "blocks", "block"),  # inputs of the blocks
                  ("", kept, "block", "block")]                     # the last block's, computed again
    else:
        found += [("activations", kept, "blocks", "head"),          # of the last block, of the others
                  ("activations", kept * (m.layers - 1), "blocks", "block")]
    if chunks:
        found.append(("", 2 * head, "logits", "logits"))            # the head's gradient so far
    if gpus == 1:                                   # autocast's copies of matrices; float32 gradients
        last = "loss" if cfg.machine.recompute else "head"          # recompute makes the copies again
        return found + [("activations", 2 * m.layers * block, "blocks", last),
                        ("", 2 * head, "loss", "logits"),           # copy of the head
                        ("", 2 * head, "head", "head"),             # its gradient, and in float32
                        ("", 4 * head, "head", "block"),
                        ("", 4 * block, "block", "block")]          # a block's gradient
    found += [("gathered", 2 * root, "blocks", "root"),             # FSDP: gathered weights
              ("gathered", 4 * block, "blocks", "travel"),          # of a block and the next
              ("", 2 * head, "head", "block"),                      # gradients: the head's, a block's
              ("", 2 * block, "block", "block"),
              ("reduced", 4 * block, "block", "travel"),
              ("reduced", 2 * root, "travel", "travel"),            # the root's
              ("", 2 * root, "root", "root"),
              ("", 4 * root / S, "root", "root"),                   # what is kept here of it
              ("reduced", 4 * root, "root", "end")]
    if not m.tied:
        found.append(("reduced", 2 * head, "end", "end"))
    if chunks:
        found.append(("", 4 * head, "head", "head"))                # that of a chunk, and the sum
    return found


def memory(cfg, gpus):
    """{part: bytes on one GPU} of a step, each part at its largest. "peak" is the most at one time."""
    whole, parts = collections.Counter(), collections.defaultdict(collections.Counter)
    for part, size, first, last in held(cfg, gpus):
        for moment in MOMENTS[MOMENTS.index(first):MOMENTS.index(last) + 1]:
            whole[moment] += size
            parts[part][moment] += size
    found = {part: max(parts[part].values()) for part in PARTS if part in parts}
    found["loss"] = max(whole["loss"], whole["logits"], whole["head"]) - whole["blocks"]
    if cfg.machine.shard == 1:                      # each GPU keeps the whole gradient
        found.pop("reduced", None)
    return found | {"peak": max(whole.values())}


def fits(cfg, gpus, capacity):
    return memory(cfg, gpus)["peak"] <= USABLE * capacity


def fewest(cfg, capacity):
    """The smallest number of GPUs of `capacity` bytes that the step fits on, a multiple of machine.shard, or
    None. The GPUs share the state, but a block and its activations are on each of them."""
    S = cfg.machine.shard or 1
    numbers = [n for n in range(S, MOST_GPUS + 1, S) if n > 1]
    if fits(cfg, 1, capacity):
        return 1
    first = bisect.bisect_left(numbers, True, key=lambda n: fits(cfg, n, capacity))
    return numbers[first] if first < len(numbers) else None


# ---- the rehearsal ----

def by_kind(snapshot):
    """Counter {kind of tensor: bytes} of one of the tracker's snapshots."""
    kinds = {getattr(kind, "value", kind).lower(): size for kind, size in snapshot[CPU].items()}
    return collections.Counter(kinds)


def most_in_backward(tracker, *kinds):
    """The most bytes of these kinds together, where the backward pass of any module begins or ends."""
    sums = [0]
    for module in tracker.memory_tracking.values():
        for state, snapshots in module.snapshots.items():
            if "Backward" in state.value:
                sums += [sum(by_kind(s)[kind] for kind in kinds) for s in snapshots]
    return max(sums)


def autocast():
    return torch.autocast("cpu", torch.bfloat16)


def rehearse(cfg, gpus):
    """memory(), counted in two micro-batches of process 0 of `gpus`, on tensors without memory."""
    rows = min(cfg.machine.micro, math.ceil(cfg.run.batch / gpus))
    most, there = [], []            # highest point since the mark before; Counter by kind at the mark

    def mark(*_):
        most.append(tracker._peak_mem.pop(CPU, 0))      # there is no public way to begin anew
        there.append(by_kind(tracker.get_tracker_snapshot("current")))
    with parallel.rehearsal(gpus) as (fake, tracker_of):
        model = train.build(cfg, "cpu", torch.bfloat16)
        with fake:
            optimizer = train.adamw(model.to_empty(device="cpu"), cfg.optim)
            checkpoint.moments(model, optimizer)
            x = torch.zeros(rows, cfg.model.context, dtype=torch.long)
            tracker = tracker_of(model, optimizer)
            tracker.track_external(*([optimizer] if gpus > 1 else [model, optimizer]))
            model.norm.register_forward_hook(mark)                              # before the loss
            model.blocks[-1].register_full_backward_pre_hook(mark)              # after its backward pass
            with tracker:
                for _ in range(2):                      # the second begins with the gradients of the first
                    tracker.reset_mod_stats()
                    train.gradients(model, x, x, x.numel(), cfg.machine.micro, autocast)
                    mark()
            # The update is not counted: DTensor finds the shapes of its results on tensors of full size, and
            # the tracker would take them for real ones.
            torch.nn.utils.clip_grad_norm_(model.parameters(), cfg.optim.clip)
            optimizer.step()
    before, after, *_, end = there              # the first micro-batch's loss; the end of the second
    parts = {"weights": end["sharded param"] + end["parameter"], "moments": end["optstate"],
             "gradients": end["sharded grad"] + end["gradient"], "activations": before["activation"]}
    others = parts["weights"] + parts["moments"] + parts["activations"]         # there are no gradients yet
    parts["loss"] = most[1] - others - after["unsharded param"] - after["all gather"]
    if gpus > 1:
        parts["gathered"] = most_in_backward(tracker, "unsharded param", "all gather")
        if cfg.machine.shard != 1:
            parts["reduced"] = most_in_backward(tracker, "unsharded grad", "reduce scatter")
    return parts | {"peak": max(most)}
