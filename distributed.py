"""The only file that knows there can be several processes. At one process its functions do nothing, and no process group is made.

    torchrun --nproc_per_node=8 train.py configs/bloom.py size=7b1

torchrun starts the program several times and says in the environment which copy is which. Each process holds some of the rows of every
parameter, with gradients and Adam's moments, and reads some of the rows of each batch (FSDP2; ZeRO stage 3, Rajbhandari et al. 2020).
Read it from start() to rehearsal(). Letters: rank, world  this process, and how many   S  processes that share one copy (run.shard)
"""
import contextlib
import math
import os
import sys
from datetime import timedelta

import torch
import torch.distributed as dist
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

import watch


def place():
    """(rank, world)"""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def start(device, timeout):
    """Join the processes the launcher started; `timeout`: see watch.Watch, which has names and so speaks before a collective gives up.
    Numbers on the CPU travel by gloo, tensors on GPUs by NCCL."""
    if int(os.environ.get("WORLD_SIZE", 1)) == 1 or dist.is_initialized():
        return
    if device == "cuda":
        if (local := int(os.environ["LOCAL_RANK"])) >= (gpus := torch.cuda.device_count()):
            raise ValueError(f"process {local} of this machine has no GPU of its own, there are {gpus}; use torchrun --nproc_per_node={gpus}")
        torch.cuda.set_device(local)
    store, rank, world = next(dist.rendezvous("env://", timeout=timedelta(seconds=timeout)))
    store = dist.PrefixStore(watch.meet(store, rank, world, timeout), store)
    dist.init_process_group("cpu:gloo,cuda:nccl" if device == "cuda" else "gloo", store=store, rank=rank, world_size=world, timeout=timedelta(seconds=2 * timeout))
    watch.start(store.clone(), rank, world, timeout)
    if rank:
        sys.stdout = open(os.devnull, "w")              # one voice; errors go to stderr from everywhere


def alongside(program):
    """Run `program`, then end this process; a neighbour that was lost is one line, as other errors are. At one process: just run it.
    Gloo's threads can outlive Python's and abort the process on its way out (PyTorch issue 190489), so it leaves at once."""
    try:
        program()
        said = None
    except (OSError, ValueError, RuntimeError) as e:
        lost = isinstance(e, dist.DistError) or type(e) is RuntimeError and ("Connection" in str(e) or "gloo" in str(e))
        said = f"{'another process is lost, see what it says; torchrun --max-restarts=N goes on from the last checkpoint: ' * lost}{' '.join(str(e).split())[:500]}"
        if not dist.is_initialized() or isinstance(e, RuntimeError) and not lost:
            raise OSError(said) if lost else e
    if dist.is_initialized():
        sys.stderr.write(f"error: rank {place()[0]}: {said}\n") if said else dist.destroy_process_group()
        sys.stdout.flush()
        os._exit(1 if said else 0)


def shard(model, run, dtype, device):
    """Keep 1/S of the rows of each parameter here (FSDP2). Around its use a block's rows are gathered, in `dtype` if one is given;
    weights, gradient sums and moments stay float32, as in BLOOM's BF16 optimizer. S < world makes world / S copies (hybrid sharding):
    gathering stays inside a group of S neighbours, a node say, and only gradients cross. S = 1 copies the whole model (DDP)."""
    if (world := place()[1]) == 1:
        return
    S = run.shard or world
    if world % S:
        raise ValueError(f"run.shard={S} does not divide {world} processes; use a divisor of {world}, or none to share the state among all")
    shape, names = ((world // S, S), ("copies", "rows")) if S < world else ((world,), ("rows",))
    mesh = dist.init_device_mesh(device, shape, mesh_dim_names=names)
    policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32, cast_forward_inputs=False)
    for part in (*model.blocks, model):                 # what is in no block, a tied embedding above all, belongs to the root
        fully_shard(part, mesh=mesh, mp_policy=policy)
        part.set_force_sum_reduction_for_comms(True)    # the loss is divided by the tokens of the whole batch: sums, not means
        part.set_gradient_divide_factor(1.0)


def before_backward(model, last):
    """How gradients of several micro-batches are accumulated: each is summed over a group at once, in float32, into the rows kept
    here, so memory stays that of a shard. The sum over the copies, which needs no more memory, waits for the `last` micro-batch."""
    if isinstance(model, FSDPModule):
        model.set_requires_all_reduce(last)


def clip(model, most):
    """Global gradient norm before it is clipped to `most`."""
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), most)
    return norm.full_tensor() if isinstance(norm, DTensor) else norm


def parameters(model):
    """{name: parameter} as they are kept here. A forward pass without a backward leaves the root's gathered: those are other tensors."""
    if isinstance(model, FSDPModule):
        model.reshard()
    return dict(model.named_parameters())


def part(p):
    """(the rows of parameter `p` that are kept here, number of the first): torch.chunk's pieces, or all of it."""
    mesh = p.device_mesh if isinstance(p, DTensor) else None
    return (p.to_local(), min(len(p), mesh.get_local_rank("rows") * math.ceil(len(p) / mesh["rows"].size()))) if mesh else (p, 0)


def sum(x, group=None):
    """Sum of `x`, numbers or a tensor, over the processes, as a tensor on the CPU."""
    x = x.detach().to("cpu", copy=True) if isinstance(x, torch.Tensor) else torch.tensor(x, dtype=torch.float64)
    if dist.is_initialized():
        dist.all_reduce(x, group=group)
    return x


def together(action, group=None):
    """Do `action` on every process; if it fails on one, it fails on all of them."""
    result = error = None
    try:
        result = action()
    except (OSError, ValueError) as e:
        error = e
        if place()[0]:                                  # its stdout is closed, and process 0 knows only that somebody failed
            print(f"rank {place()[0]}: {e}", file=sys.stderr, flush=True)
    if failed := int(sum(error is not None, group)):
        raise error or OSError(f"{failed} other process{'es' * (failed > 1)} failed; see there")
    return result


def once(action, group=None):
    """Do `action` on process 0 while the others wait."""
    together(action if place()[0] == 0 else lambda: None, group)


@contextlib.contextmanager
def rehearsal(world):
    """Be process 0 of `world` without the others. Yields a mode in which tensors have no memory, and PyTorch's memory tracker for it."""
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.distributed._tools.fsdp2_mem_tracker import FSDPMemTracker, MemTracker
    from torch.testing._internal.distributed.fake_pg import FakeStore
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=world)
    try:
        yield FakeTensorMode(allow_non_fake_inputs=True), FSDPMemTracker if world > 1 else lambda model, optimizer: MemTracker()
    finally:
        dist.destroy_process_group()
