"""Several training runs in one start of the processes.

    torchrun --nproc_per_node=4 tests/worker.py '[["configs/bloom.py", "run.name=a"], ...]'

Starting four processes takes seconds and a tiny run takes one, so the tests put what they want to run into
one call. A run may begin with the name of something that shall happen to it: ["nan", "configs/bloom.py",
...]. Each such function returns the hook that train() calls when the run has begun and after every step.
"""
import json
import os
import resource
import signal
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import torch

import config
import parallel
import train


def on_process_1(actions):
    """A hook that does actions[step](training) on process 1 after `step`."""
    def after(training):
        if parallel.place()[0] == 1 and training.step in actions:
            actions[training.step](training)
    return after


def kill():
    os.kill(os.getpid(), signal.SIGKILL)


def nan():
    """The loss of step 4 is not a number, on process 1 only."""
    hooks = []

    def poison(training):
        hooks.append(training.model.register_forward_hook(lambda model, args, loss: loss * float("nan")))
    return on_process_1({3: poison, 4: lambda training: hooks.pop().remove()})


def full():
    """Process 1 cannot write a file of more than 500 bytes while steps 4 and 5 run: the save of step 4 fails
    there."""
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limit(size):
        return lambda training: resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    return on_process_1({3: limit(500), 5: limit(hard)})


def stopped():
    """Process 1 is frozen after step 2."""
    return on_process_1({2: lambda training: os.kill(os.getpid(), signal.SIGSTOP)})


def stuck():
    """Process 1 does not come back from step 2, as from a file system that hangs."""
    return on_process_1({2: lambda training: time.sleep(1000)})


def dies():
    """kill -9 of process 1 after step 1; after a restart of process 0 in the save of step 4, when all but
    `done` is written; after another restart of process 1 in the evaluation after step 6."""
    attempt, rank = int(os.environ["TORCHELASTIC_RESTART_COUNT"]), int(os.environ["RANK"])

    def opening(event, args):               # Python calls this whenever a file is opened
        if event == "open" and str(args[0]).endswith("0000004/done.new"):
            kill()
    if (attempt, rank) == (1, 0):
        sys.addaudithook(opening)

    def evaluating(model, args):
        if not torch.is_grad_enabled():
            kill()

    def after(training):
        if (attempt, rank, training.step) == (0, 1, 1):
            kill()
        if (attempt, rank, training.step) == (2, 1, 5):
            training.model.register_forward_pre_hook(evaluating)
    return after


HAPPENS = {f.__name__: f for f in (nan, full, stopped, stuck, dies)}


def main():
    for args in json.loads(sys.argv[1]):
        after = [HAPPENS[args.pop(0)]()] if args[0] in HAPPENS else []
        train.train(train.load_config(args[0], args[1:]), *after)


if __name__ == "__main__":
    config.command(lambda: parallel.alongside(main))
