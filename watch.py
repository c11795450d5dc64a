"""Roll calls among the processes of a run: who is there when it starts, and who holds it up when it hangs. distributed.py uses it.

The processes talk through a small key-value store that the launcher keeps (a torch.distributed.Store); one that waits for a lost
neighbour inside a collective can still read it. train.py says at() what it does. Read it from meet() to Watch.
"""
import contextlib
import os
import socket
import sys
import threading
import time
import uuid
from datetime import timedelta


def meet(store, rank, world, timeout):
    """Wait for all `world` processes; returns a prefix for the keys of this start of the program, the same on each of them.

    torchrun keeps one store through its restarts, so what earlier processes wrote is still there, the addresses of the dead included
    (PyTorch issue 135712), and its restart count may differ between machines. So everybody calls out a new name; process 0 answers
    each name it hears with its own, also those of the dead, until every number has come back with that answer.
    """
    name, until = uuid.uuid4().hex, time.monotonic() + timeout
    store.set(f"hello/{rank}", name)
    if rank:
        try:
            store.wait([f"answer/{name}"], timedelta(seconds=timeout))
        except RuntimeError as e:
            raise OSError(f"process 0 has not come within {timeout:g} s (run.timeout): {e}") from e
        start = store.get(f"answer/{name}").decode()
        store.set(f"{start}/{rank}", "here")
        return start
    while missing := [r for r in range(1, world) if not store.check([f"{name}/{r}"])]:
        if time.monotonic() > until:
            raise OSError(f"only {world - len(missing)} of {world} processes have come within {timeout:g} s (run.timeout); missing: rank {', '.join(map(str, missing))}")
        for r in missing:
            if store.check([f"hello/{r}"]):
                store.set(f"answer/{store.get(f'hello/{r}').decode()}", name)
        time.sleep(0.05)
    return name


current = None      # the Watch of this process, if there are several


def start(store, rank, world, timeout):
    global current
    current = Watch(store, rank, world, timeout)
    current.start()


def at(what):
    """Note what this process does now; without other processes nobody wants to know."""
    if current:
        current.what, current.count, current.since = what, current.count + 1, time.monotonic()


class Watch(threading.Thread):
    """Ends this process, which the launcher then starts again, when nothing has moved for `timeout` seconds, and names who is to blame.

    A collective waits for the slowest process without a word. So each process keeps a tick and what it does in the store. The one
    whose tick stands still is frozen or gone; otherwise the one that has counted the fewest at()s holds up the rest.
    """
    def __init__(self, store, rank, world, timeout):
        super().__init__(daemon=True)
        self.store, self.rank, self.world, self.timeout, self.every = store, rank, world, timeout, min(10, timeout / 5)
        self.what, self.count, self.since, self.tick = "starting", 0, time.monotonic(), 0
        self.write()

    def write(self):
        self.tick += 1
        self.store.set(f"watch/{self.rank}", f"{self.tick}|{self.count}|{socket.gethostname()}, pid {os.getpid()}|{self.what}")

    def read(self):
        tick, count, who, what = zip(*(self.store.get(f"watch/{r}").decode().split("|", 3) for r in range(self.world)))
        return tick, [*map(int, count)], [f"rank {r} ({w})" for r, w in enumerate(who)], what

    def run(self):
        while time.monotonic() - self.since < self.timeout + self.rank:         # the first to see it speaks, and the launcher ends the others
            with contextlib.suppress(RuntimeError):                             # the store may be gone when all is over
                self.write()
            time.sleep(self.every)
        try:
            before, *_ = self.read()
            for _ in range(3):
                time.sleep(self.every)
                self.write()
            tick, count, who, what = self.read()
            names = [f"{who[r]} does not answer any more, it was at {what[r]}" for r in range(self.world) if tick[r] == before[r]] \
                or [f"{who[r]} is stuck at {what[r]}" for r in range(self.world) if min(count) == count[r] < max(count)] \
                or ["every process is at the same place: one of them is slow there, or the network is down"]
        except RuntimeError as e:
            names = [f"the launcher's store does not answer: {e}"]
        print(f"error: nothing has moved for {self.timeout:g} s (run.timeout): {'; '.join(names)}. Rank {self.rank} is at {self.what}", file=sys.stderr, flush=True)
        os._exit(1)
