"""Which forms of its parts a model gets on this machine: the equations of model.py, or faster ones.

Every fast form is beside its equation in a test, and none is needed: Transformer(cfg) uses the equations.
"""
import contextlib
import ctypes
import functools
import os
import sys

import torch
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts

from fast import attention, loss
from model import Block, Transformer, count

# machine.compile=auto compiles a run of more FLOPs than these: it takes a minute, and must pay
COMPILE_FROM = {"cpu": 2e13, "cuda": 1e16, "mps": float("inf")}
STREAM = {"float32": torch.float32, "bfloat16": torch.bfloat16}
aten = torch.ops.aten
# what is dear to compute again
DEAR = [aten.mm.default, aten.addmm.default, aten.bmm.default, torch.ops.higher_order.flex_attention,
        aten._scaled_dot_product_flash_attention.default,
        aten._scaled_dot_product_flash_attention_for_cpu.default,
        aten._scaled_dot_product_efficient_attention.default,
        aten._scaled_dot_product_cudnn_attention.default]


class Recomputed(Block):
    """Keeps only its input for the backward pass, and computes the rest again there."""
    further = {}

    def forward(self, x, at, past=None):
        forward = super().forward
        if not torch.is_grad_enabled():
            return forward(x, at, past)
        return checkpoint(forward, x, at, past, use_reentrant=False, preserve_rng_state=False, **self.further)


class RecomputedCheap(Recomputed):
    """Keeps what is dear too: products and attention."""
    further = {"context_fn": functools.partial(create_selective_checkpoint_contexts, DEAR)}


BLOCKS = {False: Block, True: Recomputed, "cheap": RecomputedCheap}      # by machine.recompute


def can_compile(device):
    """Whether torch.compile works here: it needs a C++ compiler, or Triton for a GPU. Says so if not."""
    try:
        torch.compile(lambda x: x * 2)(torch.ones(8, device=device))
        return True
    except Exception as e:              # whatever it is, the program can do without
        cause = " ".join(str(e).split())[:150]
        print(f"compile: not possible here, going on without ({cause})", file=sys.stderr)
        return False


def keep_memory():
    """Let the C library keep what is freed, for the next step or batch. By itself it returns large pieces to
    the system, and gets them back filled with zeros, page by page. Only glibc has these settings (malloc.h).
    """
    M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
    with contextlib.suppress(AttributeError, OSError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_MMAP_MAX, 0)                  # no piece of memory is a mapping of its own
        mallopt(M_TRIM_THRESHOLD, -1)           # nothing is returned


def repeatable(wanted):
    """Whether a GPU computes the same bits every time. By itself the backward pass of attention may sum in
    the order in which its parts get done. PyTorch also wants a fixed workspace of matrix products for it."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")         # it is read at the first product
    torch.utils.deterministic.fill_uninitialized_memory = False         # nothing reads it: not needed, slow
    torch.use_deterministic_algorithms(wanted)


def of_training(cfg, device, dtype, count_flops):
    """(arguments of Transformer, whether to compile its blocks). `count_flops` is train.flops_per_token()."""
    if device == "cpu":
        keep_memory()
    if device == "cuda":
        repeatable(cfg.machine.deterministic)
    compiled = cfg.machine.compile
    if compiled == "auto":
        with torch.device("meta"):
            parameters = count(Transformer(cfg.model))
        compiled = count_flops(cfg.model, parameters) * cfg.run.tokens > COMPILE_FROM[device]
    compiled = compiled and can_compile(device)
    part = torch.compile(loss.loss_and_gradient) if compiled else loss.loss_and_gradient
    how = {"block": BLOCKS[cfg.machine.recompute], "stream": STREAM[cfg.machine.stream],
           "attend": attention.choose(cfg.model, device, dtype, compiled),
           "loss": functools.partial(loss.cross_entropy, part=part)}
    return how, compiled


def of_writing(shape, device, dtype):
    """Arguments of Transformer for a model that reads and writes text."""
    if device == "cpu":
        keep_memory()
    return {"attend": attention.choose(shape, device, dtype, compiled=False),
            "loss": loss.cross_entropy}
