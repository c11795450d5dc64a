import multiprocessing
import multiprocessing.connection
import os
from datetime import timedelta

import torch
import torch.distributed as dist
import torch.nn.functional as F

import parallel
from course import parts

WAIT = 15           # seconds until a process gives up on another that does not come


# not by parallel.start(): that file is the student's, and it takes seconds to start
def join(rank, world, path, pipe, work):
    try:
        dist.init_process_group("gloo", init_method=f"file://{path}", rank=rank, world_size=world,
                                timeout=timedelta(seconds=WAIT))
        pipe.send((None, work(rank)))
    except BaseException as e:
        pipe.send((type(e).__name__, str(e)))
    os._exit(0)


def on(world, work):
    """[work(rank) for each of `world` processes], plain numbers and lists. The first that fails is an
    error."""
    context = multiprocessing.get_context("fork")
    path, pipes = os.path.abspath(f"store-{os.urandom(8).hex()}"), {}
    for rank in range(world):
        mine, theirs = context.Pipe()
        context.Process(target=join, args=(rank, world, path, theirs, work), daemon=True).start()
        theirs.close()
        pipes[mine] = rank
    found = [None] * world
    while pipes:
        for pipe in multiprocessing.connection.wait(list(pipes)):
            error, value = pipe.recv()
            if error == "NotImplementedError":
                raise NotImplementedError(value)
            if error:
                raise RuntimeError(f"process {pipes[pipe]}: {error}: {value}")
            found[pipes.pop(pipe)] = value
    return found


def close(a, b, tolerance=1e-5):
    a, b = torch.as_tensor(a).double(), torch.as_tensor(b).double()
    return a.shape == b.shape and bool(((a - b).abs() <= tolerance).all())


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# ---- sums ----

def test_a_total_by_hand():
    """Process 0 has 1 and process 1 has 10: both get 11. A list of numbers is summed place by place."""
    assert on(2, lambda rank: parallel.total([1.0, 10.0][rank]).item()) == [11, 11]
    assert on(2, lambda rank: parallel.total([rank, 2.0, 1.5]).tolist()) == [[1, 4, 3]] * 2
    assert parallel.total(3).item() == 3 and parallel.total([1, 2]).tolist() == [1, 2]


def test_a_total_loses_nothing():
    """Numbers are summed in float64: 16,777,217 is no float32. The tensor that is given stays as it was."""
    def work(rank):
        mine = torch.tensor([rank + 1.0], requires_grad=True)
        whole = parallel.total(mine)
        return [parallel.total(16_777_217).item(), whole.item(), mine.item(), float(whole.requires_grad)]
    assert on(2, work) == [[33_554_434, 3, 1, 0], [33_554_434, 3, 2, 0]]
    alone = torch.tensor([5.0])
    parallel.total(alone).add_(1)
    assert alone.item() == 5


# ---- rows ----

def test_rows_are_those_of_chunk():
    """7 rows on 4 processes: 2, 2, 2, 1. On 3 processes 4 rows are 2, 2 and none."""
    assert [parts.rows_of(7, r, 4) for r in range(4)] == [(0, 2), (2, 4), (4, 6), (6, 7)]
    for n in (0, 1, 4, 5, 12, 13):
        for world in (1, 2, 3, 5):
            cut = [list(range(n))[slice(*parts.rows_of(n, r, world))] for r in range(world)]
            chunks = [c.tolist() for c in torch.arange(n).chunk(world)] if n else []
            assert [c for c in cut if c] == [c for c in chunks if c]
            bounds = [parts.rows_of(n, r, world) for r in range(world)]
            assert all(0 <= first <= end <= n for first, end in bounds)


def test_each_process_keeps_its_rows_of_the_sum():
    """Gradients of different batches are added, not averaged; then each process keeps some of the rows."""
    grads = [draw(5, 3), draw(5, 3, seed=1)]

    def work(rank):
        mine = grads[rank].clone()
        rows = parts.reduce_scatter(mine, dist.all_reduce)
        return rows.tolist(), mine.tolist()
    (first, mine), (second, _) = on(2, work)
    whole = grads[0] + grads[1]
    assert close(first, whole[:3]) and close(second, whole[3:]) and close(mine, grads[0])


def test_rows_are_put_together_again():
    """5 rows from 3 and 2, and one row from 1 and none: in the order of the processes, without filling."""
    for n in (5, 4, 1):
        whole = draw(n, 3)

        def work(rank):
            mine = whole[slice(*parts.rows_of(n, rank, 2))].clone()
            return parts.gather(mine, n, dist.all_gather).tolist()
        got = on(2, work)
        assert close(got[0], whole) and close(got[1], whole)


def test_the_norm_of_what_is_kept_apart():
    """Squares are summed over the processes, and the root comes last: 3 here and 4 there are 5."""
    def norms(*kept):
        return on(2, lambda rank: parts.norm_of_rows(kept[rank], dist.all_reduce))
    assert close(norms([torch.tensor([3.0])], [torch.tensor([4.0])]), [5, 5])
    rows = [draw(3, 2), draw(2), draw(1, 2, seed=1)]
    want = torch.cat([r.flatten() for r in rows]).norm()
    assert close(norms(rows[:2], rows[2:]), [want, want])
    assert norms([], []) == [0, 0]


# ---- gradients ----

class Bigram(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.table = torch.nn.Parameter(draw(7, 7))

    def forward(self, ids, targets):
        return F.cross_entropy(self.table[ids].flatten(0, 1), targets.flatten(), reduction="sum")


def batch(lengths):
    ids = torch.randint(0, 7, (len(lengths), 7), generator=torch.Generator().manual_seed(3))
    y = ids[:, 1:].clone()
    for row, n in zip(y, lengths):
        row[n:] = -100
    return ids[:, :-1], y, sum(lengths)


def compare(lengths):
    """Two processes with half of the rows each, beside one that has all of them."""
    x, y, valid = batch(lengths)
    half = len(lengths) // 2

    def work(rank):
        net, mine = Bigram(), slice(rank * half, (rank + 1) * half)
        loss = parts.sum_of_gradients(net, x[mine], y[mine], valid, dist.all_reduce)
        return loss.item(), net.table.grad.tolist(), float(loss.requires_grad)
    net = Bigram()
    want = net(x, y) / valid
    want.backward()
    for loss, grad, attached in on(2, work):
        assert close(loss, want.item()) and close(grad, net.table.grad, 1e-6) and not attached


def test_two_processes_equal_one():
    """The same rows on one process and on two: the same loss and the same gradient, on both."""
    compare([6, 6, 6, 6])


def test_targets_weigh_the_same_on_every_process():
    """12 targets here, 3 there: the mean of two means is not the mean. What is divided by what, and when?"""
    compare([6, 6, 1, 2])
    compare([6, 6, 0, 0])


def test_who_has_no_gradient_takes_part():
    """A parameter that one process did not use: the other one waits for its sum, and zero is a gradient
    too."""
    class Two(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = torch.nn.Parameter(torch.ones(2)), torch.nn.Parameter(torch.ones(2))

        def forward(self, x, y):
            return (self.a * x).sum() if y is None else (self.a * x).sum() + (self.b * y).sum()

    def work(rank):
        net = Two()
        y = None if rank else torch.full((2,), 3.0)
        parts.sum_of_gradients(net, torch.ones(2), y, 4, dist.all_reduce)
        return [net.a.grad.tolist(), net.b.grad.tolist()]
    for got in on(2, work):
        assert close(got, [[0.5, 0.5], [0.75, 0.75]])


def test_a_sharded_step_equals_a_whole_one():
    """Each process updates its rows with the sum of the gradients, clipped by the norm of all; then they
    meet."""
    weight, grads = draw(5, 3), [draw(5, 3, seed=s) for s in (1, 2)]
    whole = grads[0] + grads[1]
    momentum = weight * 0.1
    want = weight - 0.5 * (0.9 * momentum + whole / whole.norm())

    def work(rank):
        mine = slice(*parts.rows_of(5, rank, 2))
        kept = parts.reduce_scatter(grads[rank].clone(), dist.all_reduce)
        moved = 0.9 * momentum[mine] + kept / parts.norm_of_rows([kept], dist.all_reduce)
        return parts.gather(weight[mine] - 0.5 * moved, 5, dist.all_gather).tolist()
    for got in on(2, work):
        assert close(got, want)
