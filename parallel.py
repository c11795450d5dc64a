"""Everything between processes. At one process nothing is shared or sent.

    torchrun --nproc_per_node=8 train.py configs/bloom.py size=7b1

torchrun starts the program several times. Each process reads some of the rows of each batch. On GPUs it holds
some of the rows of every parameter, with their gradients and Adam's moments (FSDP2; ZeRO stage 3, Rajbhandari
et al. 2020); on a CPU it holds a copy of all.

Letters: rank, world  this process, and how many   S  processes that share one copy (machine.shard)
"""
import contextlib
import json
import math
import os
import signal
import socket
import sys
import threading
import time
import uuid
from datetime import timedelta

import torch
import torch.distributed as dist

import config
import lock

# ---- the device ----

# dense bfloat16 FLOP/s, memory in GB as sold; from the data sheets
GPUS = {"RTX 3090": (71e12, 24), "RTX 4090": (165e12, 24), "A100": (312e12, 40, 80), "H100": (989e12, 80),
        "H200": (989e12, 141), "B200": (2250e12, 180)}


def check_device(device):
    """`device`, "auto" is the fastest; a ValueError if this machine has none."""
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if device == "auto":
        return next(name for name, has in there.items() if has)
    if not there[device]:
        raise ValueError(f"device {device}: this machine has none; use cpu")
    return device


def choose_device(machine):
    """(device, dtype of the products or None for float32, a line that says both)."""
    device = check_device(machine.device)
    bf16, name = False, device
    if device == "cuda":
        bf16, name = torch.cuda.is_bf16_supported(), torch.cuda.get_device_name()
    elif device == "cpu":
        bf16, name = torch.ops.mkldnn._is_mkldnn_bf16_supported(), f"cpu, {torch.get_num_threads()} threads"
    if machine.dtype != "auto":
        bf16 = machine.dtype == "bfloat16"
    return device, torch.bfloat16 if bf16 else None, f"{name}, {'bfloat16' if bf16 else 'float32'} products"


def peak(device):
    """bfloat16 FLOP/s of this machine's GPU, or None if it is not known."""
    name = torch.cuda.get_device_name() if device == "cuda" else ""
    return next((flops for gpu, (flops, *_) in GPUS.items() if gpu in name), None)


# ---- start and end ----

def place():
    """(rank, world)"""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def start(device, timeout):
    """Join the processes that the launcher started; numbers travel by gloo, tensors on GPUs by NCCL."""
    follow_launcher()
    if int(os.environ.get("WORLD_SIZE", 1)) == 1 or dist.is_initialized():
        return
    import torch.distributed.checkpoint  # seconds of imports, before Watch counts them
    import torch.distributed.fsdp
    if device == "cuda":
        local, gpus = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if local >= gpus:
            raise ValueError(f"there are {gpus} GPUs, one for each process: use --nproc_per_node={gpus}")
        torch.cuda.set_device(local)
    store, rank, world = next(dist.rendezvous("env://", timeout=timedelta(seconds=timeout)))
    store = dist.PrefixStore(meet(store, rank, world, timeout), store)
    backend = "cpu:gloo,cuda:nccl" if device == "cuda" else "gloo"
    late = timedelta(seconds=2 * timeout)           # a collective gives up after Watch has named who hangs
    dist.init_process_group(backend, store=store, rank=rank, world_size=world, timeout=late)
    global watch
    watch = Watch(store.clone(), rank, world, timeout)
    watch.start()
    if rank:
        sys.stdout = open(os.devnull, "w")          # process 0 prints; errors go to stderr from everywhere


def one_process(command):
    """Stop a command that knows nothing of other processes."""
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise ValueError(f"{command} works in one process: start it with python, not with torchrun")


def alongside(program):
    """Run `program`, then end this process; a neighbour that was lost is one line, as other errors are. At
    one process: just run it. Gloo's threads can abort the process on its way out (PyTorch issue 190489), so
    it leaves at once."""
    message = None
    try:
        program()
    except (OSError, ValueError, RuntimeError) as e:
        message = " ".join(str(e).split())
        of_gloo = type(e) is RuntimeError and ("Connection" in message or "gloo" in message)
        lost = isinstance(e, dist.DistError) or of_gloo
        if isinstance(e, RuntimeError) and not lost:
            raise                       # a bug, or no memory: main() knows
        if lost:
            message = f"another process is lost, see what it says; torchrun --max-restarts goes on: {message}"
        if not dist.is_initialized():
            if lost:
                raise OSError(message) from e
            raise
    if dist.is_initialized():
        if message:
            sys.stderr.write(f"error: rank {place()[0]}: {message}\n")
        else:
            dist.destroy_process_group()
        sys.stdout.flush()
        os._exit(1 if message else 0)


# ---- the state of a model, shared ----

MESSAGE = 2 ** 23       # numbers, 32 MiB of gradients


def shard(model, machine, dtype, device):
    """Keep 1/S of the rows of each parameter here (FSDP2).

    A block's rows are gathered when it is used, in `dtype` if one is given; weights, gradient sums and
    moments stay float32, as in BLOOM's BF16 optimizer. S < world makes world / S copies (hybrid sharding):
    only gradients cross between them. S = 1 copies the whole model, see backward().
    """
    world = place()[1]
    if world == 1:
        return
    S = machine.shard or (1 if device == "cpu" else world)
    if world % S:
        raise ValueError(f"machine.shard={S} does not divide {world} processes; use a divisor, or none")
    if S == 1:
        return
    from torch.distributed.fsdp import (  # a second of imports, for several processes only
        MixedPrecisionPolicy,
        fully_shard,
    )
    shape, names = ((world // S, S), ("copies", "rows")) if S < world else ((world,), ("rows",))
    mesh = dist.init_device_mesh(device, shape, mesh_dim_names=names)
    policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32, cast_forward_inputs=False)
    for module in (*model.blocks, model):       # what is in no block belongs to the root
        fully_shard(module, mesh=mesh, mp_policy=policy)
        module.set_force_sum_reduction_for_comms(True)  # sums, not means: see train.gradients
        module.set_gradient_divide_factor(1.0)


class Sums:
    """Sums of gradients over the processes, where each has a copy of the model (DDP). What has been computed
    travels while the rest is computed, in messages of MESSAGE numbers: each costs time, however small."""
    def __init__(self):
        self.waiting, self.sent = [], None

    def add(self, p):
        self.waiting.append(p.grad)
        if sum(g.numel() for g in self.waiting) >= MESSAGE:
            self.send()

    def send(self):
        self.receive()
        if not self.waiting:
            return
        message = torch.cat([g.flatten() for g in self.waiting])
        self.sent = self.waiting, message, dist.all_reduce(message, async_op=True)
        self.waiting = []

    def receive(self):
        if self.sent:
            gradients, message, arriving = self.sent
            arriving.wait()
            for g, part in zip(gradients, message.split([g.numel() for g in gradients])):
                g.copy_(part.view_as(g))
            self.sent = None


@contextlib.contextmanager
def backward(model, last):
    """The context of a backward pass. In that of the `last` micro-batch the gradients of the copies are
    summed."""
    sums, hooks = Sums(), []
    if hasattr(model, "set_requires_all_reduce"):       # FSDP's: it sums by itself
        model.set_requires_all_reduce(last)
    elif place()[1] > 1 and last:
        hooks = [p.register_post_accumulate_grad_hook(sums.add) for p in model.parameters()]
    yield
    for hook in hooks:
        hook.remove()
    sums.send()
    sums.receive()


def clip(model, most):
    """Global gradient norm before it is clipped to `most`."""
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), most)
    return norm.full_tensor() if hasattr(norm, "full_tensor") else norm


def parameters(model):
    """{name: parameter} as they are kept here. After an evaluation FSDP has the root's gathered."""
    if hasattr(model, "reshard"):
        model.reshard()
    return dict(model.named_parameters())


def local_rows(p):
    """(the rows of parameter `p` that are kept here, by torch.chunk; number of the first)"""
    if not hasattr(p, "to_local"):
        return p, 0
    mesh = p.device_mesh
    return p.to_local(), min(len(p), mesh.get_local_rank("rows") * math.ceil(len(p) / mesh["rows"].size()))


# ---- sums and agreement ----

def total(x):
    """Sum of `x`, numbers or a tensor, over the processes, as a tensor on the CPU."""
    if isinstance(x, torch.Tensor):
        x = x.detach().to("cpu", copy=True)
    else:
        x = torch.tensor(x, dtype=torch.float64)
    if dist.is_initialized():
        dist.all_reduce(x)
    return x


def together(action):
    """Do `action` on every process; if it fails on one, it fails on all of them."""
    result = error = None
    try:
        result = action()
    except (OSError, ValueError) as e:
        error = e
        if place()[0]:                          # process 0 learns only how many failed
            print(f"rank {place()[0]}: {e}", file=sys.stderr, flush=True)
    failed = int(total(error is not None))
    if failed:
        raise error or OSError(f"{failed} other process(es) failed; see there")
    return result


def once(action):
    """Do `action` on process 0 while the others wait."""
    together(action if place()[0] == 0 else lambda: None)


class Stop:
    """Ctrl-C, SIGTERM or a file runs/NAME/stop ask the run to save and end after the step."""
    def __init__(self, folder):
        self.file, self.signals = f"{folder}/stop", []
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda number, frame: self.signals.append(number))

    def here(self):
        return bool(self.signals) or place()[0] == 0 and os.path.exists(self.file)

    def anywhere(self):
        """Whether any process was asked. A signal may reach one process only, so they add up what each knows
        and stop after the same step."""
        return bool(total(self.here()))

    def why(self):
        if self.signals:
            return signal.Signals(self.signals[0]).name
        return f"the file {self.file} or another process"


# ---- one launch, one writer ----

following = False   # whether this process ends with its launcher


def follow_launcher():
    """End this process within a second when its launcher is gone: whoever gives the command again must not
    find this process still writing."""
    global following
    if not lock.launched() or following:
        return
    following = True
    launcher = config.parent or os.getppid()

    def watch():
        while os.getppid() == launcher:         # an orphan gets another parent
            time.sleep(0.5)
        with contextlib.suppress(OSError):      # whoever read our output may be gone too
            print("error: the launcher is gone, this process ends", file=sys.stderr, flush=True)
        os._exit(1)
    threading.Thread(target=watch, daemon=True).start()


held = None         # this process's runs/NAME/lock: locked as long as it is open


def hold(run):
    """Let nobody else train in folder `run` until release(), or until the last process of this start has
    ended, in whatever way: the system opens a lock (flock) when its process is gone.

    Process 0 locks the file runs/NAME/lock alone, which it cannot while anybody has it, and writes into it
    who this is. Then all processes share the lock. So one that its launcher has left behind keeps others
    out."""
    global held
    once(lambda: os.makedirs(run, exist_ok=True))
    held = together(lambda: open(f"{run}/lock", "a+", encoding="utf-8"))
    once(lambda: lock.take(run, held))
    together(lambda: lock.share(run, held))


def release():
    if held:
        held.close()


# ---- who is there, who hangs ----
# The launcher keeps a small key-value store (a torch.distributed.Store). A process that waits for a lost
# neighbour inside a collective can still read it.

def meet(store, rank, world, timeout):
    """Wait for all `world` processes; returns a prefix for the keys of this start, the same on each of them.

    torchrun's store lives through restarts, with what the dead wrote (PyTorch issue 135712). So every process
    says hello by a new name, and process 0 answers names with its own until each rank has confirmed.
    """
    name, until = uuid.uuid4().hex, time.monotonic() + timeout
    store.set(f"hello/{rank}", name)
    if rank:
        try:
            store.wait([f"answer/{name}"], timedelta(seconds=timeout))
        except RuntimeError as e:
            raise OSError(f"process 0 has not come within {timeout:g} s (machine.timeout)") from e
        name = store.get(f"answer/{name}").decode()
        store.set(f"{name}/{rank}", "here")
        return name
    while missing := [r for r in range(1, world) if not store.check([f"{name}/{r}"])]:
        if time.monotonic() > until:
            raise OSError(f"only {world - len(missing)} of {world} processes have come within {timeout:g} s "
                          f"(machine.timeout); missing: rank {', '.join(map(str, missing))}")
        for r in missing:
            if store.check([f"hello/{r}"]):
                store.set(f"answer/{store.get(f'hello/{r}').decode()}", name)
        time.sleep(0.05)
    return name


watch = None        # the Watch of this process, if there are several


def at(what):
    """Note what this process does now. At one process nobody wants to know."""
    if watch:
        watch.what, watch.count, watch.since = what, watch.count + 1, time.monotonic()


class Watch(threading.Thread):
    """Ends this process when nothing has moved for `timeout` seconds, and names who is to blame: a process
    whose entry in the store stands still is frozen or gone; else the one with the fewest at()s holds up the
    rest."""
    def __init__(self, store, rank, world, timeout):
        super().__init__(daemon=True)
        self.store, self.rank, self.world, self.timeout = store, rank, world, timeout
        self.every = min(10, timeout / 5)
        self.what, self.count, self.since, self.tick = "starting", 0, time.monotonic(), 0
        self.who = f"rank {rank} ({socket.gethostname()}, pid {os.getpid()})"
        self.tell()

    def tell(self):
        self.tick += 1
        self.store.set(f"watch/{self.rank}", json.dumps([self.count, self.who, self.what, self.tick]))

    def ask(self):
        """[count of at()s, who, what, tick] of every process."""
        return [json.loads(self.store.get(f"watch/{r}")) for r in range(self.world)]

    def run(self):
        while time.monotonic() - self.since < self.timeout + self.rank:     # the first to see it speaks
            with contextlib.suppress(RuntimeError):                     # the store may be gone in the end
                self.tell()
            time.sleep(self.every)
        try:
            blame = "; ".join(self.to_blame())
        except RuntimeError as e:
            blame = f"the launcher's store does not answer: {e}"
        print(f"error: nothing has moved for {self.timeout:g} s (machine.timeout): {blame}. "
              f"Rank {self.rank} is at {self.what}", file=sys.stderr, flush=True)
        os._exit(1)

    def to_blame(self):
        before = self.ask()
        for _ in range(3):
            time.sleep(self.every)
            self.tell()
        now = self.ask()
        frozen = [entry for entry, old in zip(now, before) if entry == old]
        behind = [entry for entry in now if entry[0] == min(now)[0]]
        if frozen:
            return [f"{who} does not answer any more, it was at {what}" for _, who, what, _ in frozen]
        if len(behind) < self.world:
            return [f"{who} is stuck at {what}" for _, who, what, _ in behind]
        return ["every process is at the same place: one of them is slow there, or the network is down"]


@contextlib.contextmanager
def rehearsal(world, S):
    """Be process 0 of `world` without the others. Yields a mode in which tensors have no memory, and a
    function (model, optimizer) -> PyTorch's memory tracker."""
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.distributed._tools.fsdp2_mem_tracker import FSDPMemTracker, MemTracker
    from torch.testing._internal.distributed.fake_pg import FakeStore
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=world)
    try:
        tracker = FSDPMemTracker if S > 1 else lambda *_: MemTracker()
        yield FakeTensorMode(allow_non_fake_inputs=True), tracker
    finally:
        dist.destroy_process_group()
