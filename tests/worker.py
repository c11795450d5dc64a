"""Several training runs in one start of the processes: torchrun --nproc_per_node=4 tests/worker.py '[["configs/bloom.py", "run.name=a"], ...]'

Starting four processes takes seconds and a tiny run takes one, so the tests put what they want to run into one call. A run may
begin with the name of something that shall happen to it: ["nan", "configs/bloom.py", ...].
"""
import json
import os
import resource
import signal
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import config
import data
import parallel
import train
from model import Transformer


def when_reading(action):
    """Do action(step) on process 1 before it reads the rows of `step`, counted from 1."""
    rows = data.Rows.rows

    def read(self, step, rank=0, world=1):
        if rank == 1:
            action(step + 1)
        return rows(self, step, rank, world)
    data.Rows.rows = read


def nan():
    """The loss of step 4 is not a number, on process 1 only."""
    forward, now = Transformer.forward, [0]
    when_reading(lambda step: now.__setitem__(0, step))

    def poisoned(self, ids, targets=None, **k):
        return forward(self, ids, targets, **k) * (float("nan") if now[0] == 4 and self.training and targets is not None else 1)
    Transformer.forward = poisoned


def full():
    """Process 1 cannot write a file of more than 500 bytes while steps 3 to 5 run: the save of step 4 fails there."""
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    when_reading(lambda step: resource.setrlimit(resource.RLIMIT_FSIZE, (500 if 3 <= step <= 5 else hard, hard)))


def stopped():
    """Process 1 is frozen in step 3."""
    when_reading(lambda step: step == 3 and os.kill(os.getpid(), signal.SIGSTOP))


def stuck():
    """Process 1 never comes back from reading in step 3, as from a file system that hangs."""
    when_reading(lambda step: step == 3 and time.sleep(1000))


def dies():
    """kill -9 of process 1 in step 2; after a restart of process 0 in the save of step 4, all but marked complete; then of 1 in the evaluation after step 6."""
    attempt, rank, write, evaluate = int(os.environ["TORCHELASTIC_RESTART_COUNT"]), int(os.environ["RANK"]), config.write_json, train.evaluate

    def die(*when):
        if (attempt, rank) == when:
            os.kill(os.getpid(), signal.SIGKILL)

    def written(path, value):
        if path.endswith("0000004/done"):
            die(1, 0)
        write(path, value)

    def evaluating(model, rows, run, device, precision, asked):
        return evaluate(model, rows, run, device, precision, lambda: die(2, 1) or asked())
    when_reading(lambda step: step == 2 and die(0, 1))
    config.write_json, train.evaluate = written, evaluating


HAPPENS = {f.__name__: f for f in (nan, full, stopped, stuck, dies)}


def main():
    rows, forward = data.Rows.rows, Transformer.forward
    for args in json.loads(sys.argv[1]):
        data.Rows.rows, Transformer.forward = rows, forward
        if args[0] in HAPPENS:
            HAPPENS[args.pop(0)]()
        train.train(train.load_config(args[0], args[1:]))


if __name__ == "__main__":
    config.command(lambda: parallel.alongside(main))
