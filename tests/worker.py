"""Several training runs in one start of the processes.

    torchrun --nproc_per_node=4 tests/worker.py '[["configs/bloom.py", "run.name=a"], ...]'

Starting four processes takes seconds, so the tests put what they want to run into one call. A run may begin
with what shall happen to it, and a number, mostly the step: ["nan 4", "configs/bloom.py", ...]. These
functions return the hook that train() calls when the run has begun and after every step.
"""
import json
import os
import resource
import signal
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import config
import parallel
import train


def limit_files(size):
    """No file may grow beyond `size` bytes, as on a full disk; None takes the limit away."""
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size or hard, hard))


def kill():
    os.kill(os.getpid(), signal.SIGKILL)


def kill_after(step):
    return lambda training: training.step == step and kill()


def kill_in_save(step):
    """kill -9 of process 0 when all of the checkpoint but `done` is written, at the first start only."""
    def opening(event, args):               # Python calls this whenever a file is opened
        if event == "open" and str(args[0]).endswith(f"{step:07d}/done.new"):
            kill()
    if os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0" and os.environ.get("RANK", "0") == "0":
        sys.addaudithook(opening)
    return lambda training: None


def stop_after(step):
    """SIGTERM to the last process in time to stop all of them after `step`."""
    def after(training):
        rank, world = parallel.place()
        if rank == world - 1 and training.step == step - 1:
            os.kill(os.getpid(), signal.SIGTERM)
    return after


def on_process_1(actions):
    """A hook that does actions[step](training) on process 1 after `step`."""
    def after(training):
        if parallel.place()[0] == 1 and training.step in actions:
            actions[training.step](training)
    return after


def nan(step):
    """The loss of `step` is not a number, on process 1 only."""
    hooks = []

    def poison(training):
        hooks.append(training.model.register_forward_hook(lambda model, args, loss: loss * float("nan")))
    return on_process_1({step - 1: poison, step: lambda training: hooks.pop().remove()})


def full(step):
    """The disk of process 1 is full for `step` and the one after."""
    return on_process_1({step - 1: lambda training: limit_files(500),
                         step + 1: lambda training: limit_files(None)})


def messages(size):
    """Copies send their gradients by so many numbers."""
    before, parallel.MESSAGE = parallel.MESSAGE, size

    def after(training):
        if training.step == training.steps:
            parallel.MESSAGE = before
    return after


def freeze(step):
    """Process 1 is frozen after `step`. Watch is impatient from then on: a start may be slow."""
    def after(training):
        if training.step == step:
            parallel.watch.timeout, parallel.watch.every = 3, 0.5
            if parallel.place()[0] == 1:
                os.kill(os.getpid(), signal.SIGSTOP)
    return after


HAPPENS = {f.__name__: f for f in (kill_after, kill_in_save, stop_after, nan, full, messages, freeze)}


def train_all(runs):
    for args in runs:
        what, _, step = args[0].partition(" ")
        hooks = [HAPPENS[what](int(step))] if step else []
        path, *settings = args[len(hooks):]
        train.train(train.load_config(path, settings), *hooks)


if __name__ == "__main__":
    config.command(lambda: parallel.alongside(lambda: train_all(json.loads(sys.argv[1]))))
