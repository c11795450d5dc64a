import io
import types

import numpy as np
import torch
from safetensors.torch import load

import config
import data
from course import parts

# ---- an order that is not stored ----

def test_every_number_comes_once():
    """For each n the numbers 0 ... n-1 come, each once; powers of two are not enough."""
    for n in (1, 2, 3, 5, 17, 64, 100, 1000, 1025):
        assert sorted(data.permuted(np.arange(n), n, (1, 2)).tolist()) == list(range(n))


def test_one_number_alone_is_the_same():
    """Number i of the order depends on i, n and the key, not on what else is asked, or was before."""
    n = 1000
    whole = data.permuted(np.arange(n), n, (7, 1))
    for i in (0, 1, 500, 999):
        assert int(data.permuted(i, n, (7, 1))[0]) == whole[i]
    some = np.array([999, 3, 3, 500])
    assert data.permuted(some, n, (7, 1)).tolist() == whole[some].tolist()
    assert some.tolist() == [999, 3, 3, 500]
    assert data.permuted(np.arange(n), n, (7, 1)).tolist() == whole.tolist()


def test_another_key_is_another_order():
    """Any number of the key changes the order, and the order is not nearly the one from 0 to n-1."""
    n = 1000
    first = data.permuted(np.arange(n), n, (1, 2, 3))
    for key in ((1, 2, 4), (0, 2, 3), (2, 1, 3)):
        assert (data.permuted(np.arange(n), n, key) != first).mean() > 0.9
    assert (first != np.arange(n)).mean() > 0.9 and abs(np.corrcoef(first[:-1], first[1:])[0, 1]) < 0.15


def test_an_order_too_long_for_memory():
    """n = 10^15: nothing of size n may be made."""
    found = data.permuted(np.arange(0, 10 ** 15, 10 ** 12), 10 ** 15, (0,))
    assert len(set(found.tolist())) == 1000 and found.min() >= 0 and found.max() < 10 ** 15


# ---- the batch ----

def run_of(batch, ramp=None, seed=1):
    return config.Run("x", tokens=1, batch=batch, ramp=ramp, seed=seed)


def test_the_ramp_by_hand():
    """From 2 rows by 2 up to 8 in 30 rows: three increments, so each size lasts for 10 rows."""
    run = run_of(8, (2, 2, 30))
    assert [data.batch_at(n, run) for n in (0, 9, 10, 19, 20, 29, 31, 10 ** 9)] == [2, 2, 4, 4, 6, 6, 8, 8]
    assert data.batch_at(0, run_of(5)) == data.batch_at(99, run_of(5)) == 5
    bloom = run_of(2048, (192, 16, 9_765_625))
    assert [data.batch_at(n, bloom) for n in (84_186, 84_187, 5_000_000)] == [192, 208, 1136]


def test_rows_before_a_step_are_the_sum_of_its_batches():
    """Walk through the steps one by one and add up batch_at(): rows_before() must say the same."""
    for run in (run_of(8, (2, 2, 30)), run_of(2048, (192, 16, 9_765_625)), run_of(7, (1, 3, 50)), run_of(5)):
        seen = 0
        for step in range(400):
            assert data.rows_before(step, run) == seen
            seen += data.batch_at(seen, run)


def test_rows_before_a_late_step_come_at_once():
    """Step 10^12: a walk over all steps would not end. How many different batch sizes are there?"""
    assert data.rows_before(10 ** 12, run_of(5)) == 5 * 10 ** 12
    assert data.rows_before(95_000, run_of(2048, (192, 16, 9_765_625))) == 178_402_224
    late = data.rows_before(10 ** 12, run_of(8, (2, 2, 30)))
    assert late == data.rows_before(1000, run_of(8, (2, 2, 30))) + 8 * (10 ** 12 - 1000)


# ---- windows and sources ----

def split_of(tokens, T=4):
    split = object.__new__(data.Split)
    split.tokens, split.T = np.array(tokens, np.uint16), T
    split.windows = -(-max(0, len(tokens) - 1) // T)
    return split


def test_a_window_has_the_token_after_it():
    """y is x one token later. Windows share no target; the last target of one is the first x of the next."""
    split = split_of(range(10, 19))
    assert split.windows == 2
    for w in (0, 1):
        x, y = split.window(w)
        assert x.tolist() == list(range(10 + 4 * w, 14 + 4 * w))
        assert y.tolist() == list(range(11 + 4 * w, 15 + 4 * w))
        assert x.dtype == y.dtype == np.int64


def test_the_last_window_is_filled_up():
    """What is missing in the last window is not scored: its targets are IGNORE, and T stays T."""
    x, y = split_of([7, 8, 9, 1, 2, 3, 4]).window(1)
    assert x.tolist() == [2, 3, 0, 0] and y.tolist() == [3, 4, -100, -100]


def test_shares_become_whole_rows():
    """Quotas sum up to the length of a cycle. Each is off by less than a row; no share above 0 gets none."""
    cycle = data.CYCLE
    quota = data.quotas(np.array([0.5, 0.3, 0.2]))
    assert quota.sum() == cycle and np.abs(quota - np.array([0.5, 0.3, 0.2]) * cycle).max() < 1
    thirds = data.quotas(np.array([1, 1, 1]) / 3)
    assert sorted(thirds.tolist()) == [21845, 21845, 21846]
    quota = data.quotas(np.array([1 - 1e-9, 1e-9, 0.0]))
    assert quota.tolist() == [cycle - 1, 1, 0]


def rows_of(windows=(5, 3), quota=(40_000, 25_536), batch=4, seed=1, T=4):
    """Rows of sources that have so many windows, without files. Token numbers say source and place."""
    rows = object.__new__(data.Rows)
    rows.run, rows.T, rows.cycles = run_of(batch, seed=seed), T, {}
    rows.quota = np.array(quota)
    rows.train = [split_of(np.arange(n * T) + 1000 * s, T) for s, n in enumerate(windows)]
    rows.sources = [f"s{s}" for s in range(len(windows))]
    return rows


def test_a_cycle_holds_each_share_exactly():
    """A cycle is a random order of sources that follows from (seed, cycle). It counts the rows of each."""
    rows = rows_of()
    sources, nth = rows.cycle(3)
    assert np.bincount(sources).tolist() == [40_000, 25_536]
    for s in (0, 1):
        assert nth[sources == s].tolist() == list(range(rows.quota[s])), "how many came before it"
    assert np.array_equal(rows_of().cycle(3)[0], sources), "the same again"
    for other in (rows.cycle(4)[0], rows_of(seed=2).cycle(3)[0]):
        assert (other != sources).mean() > 0.3
    assert 0.5 < sources[:1000].mean() / sources.mean() < 1.5, "sources are mixed all the way"


def test_numbers_go_on_over_cycles():
    """Row r is number n of its source, counted over all the cycles before; rows may be asked in any order."""
    rows = rows_of()
    asked = np.array([data.CYCLE + 5, 7, 2 * data.CYCLE, 7])
    source, number = rows.where(asked)
    for r, s, n in zip(asked.tolist(), source.tolist(), number.tolist()):
        c, slot = divmod(r, data.CYCLE)
        sources, nth = rows.cycle(c)
        assert s == sources[slot] and n == c * rows.quota[s] + nth[slot]


def test_each_window_comes_once_per_epoch():
    """When a source has been read once, each of its windows has come once; then it is read in a new order."""
    rows = rows_of(windows=(50, 31))
    source, epoch, window = rows.windows(np.arange(3000))
    orders = set()
    for s, n in enumerate((50, 31)):
        for e in range(epoch[source == s].max()):
            came = window[(source == s) & (epoch == e)].tolist()
            assert sorted(came) == list(range(n))
            orders.add((s, *came))
    assert len(orders) > 50, "each epoch has an order of its own"
    other = rows_of(windows=(50, 31), seed=2).windows(np.arange(3000))[2]
    assert (other != window).mean() > 0.5, "the seed changes it"


def test_processes_share_a_step():
    """1 to 4 processes: together they read the rows of the step, each once. What is left has no target."""
    rows = rows_of(windows=(50, 31), batch=6)
    for step in (0, 5):
        x, y, which, valid = rows.rows(step)
        assert x.shape == y.shape == (6, 4) and which.shape == (6, 3) and valid == (y != -100).sum()
        for world in (2, 3, 4):
            parts_ = [rows.rows(step, rank, world) for rank in range(world)]
            assert len({part[0].shape for part in parts_}) == 1
            assert np.concatenate([part[0] for part in parts_])[:6].tolist() == x.tolist()
            assert np.concatenate([part[1] for part in parts_])[:6].tolist() == y.tolist()
            if world == 4:
                assert (parts_[-1][1] == -100).all(), "2, 2, 2 and no row"
            for part in parts_:
                assert part[3] == valid and part[2].tolist() == which.tolist(), "of the whole step"


def test_the_batch_only_cuts_the_stream():
    """Steps of 6 rows and steps of 3 rows read the same rows in the same order."""
    big, small = rows_of(windows=(50, 31), batch=6), rows_of(windows=(50, 31), batch=3)
    two = np.concatenate([small.rows(8)[0], small.rows(9)[0]])
    assert big.rows(4)[0].tolist() == two.tolist()


# ---- resume ----

def training(seed=0):
    torch.manual_seed(seed)
    net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1))
    return net, torch.optim.AdamW(net.parameters(), lr=0.05, weight_decay=0.1)


def train_on(net, optimizer, steps):
    for step in steps:
        x = torch.randn(5, 3, generator=torch.Generator().manual_seed(step))
        for group in optimizer.param_groups:
            group["lr"] = 0.05 / (1 + step)
        optimizer.zero_grad()
        net(x).square().mean().backward()
        optimizer.step()


def test_resume_equals_not_stopping():
    """Stop after 4 steps and go on in a new program: after 8, each weight is the same to the last bit."""
    never, optimizer = training()
    train_on(never, optimizer, range(8))
    net, optimizer = training()
    train_on(net, optimizer, range(4))
    parts.save_state("saved", net, optimizer, 4)
    train_on(net, optimizer, range(2))              # what comes after is not in the file
    again, optimizer = training(seed=1)
    step = parts.load_state("saved", again, optimizer)
    assert step == 4
    train_on(again, optimizer, range(step, 8))
    for a, b in zip(never.parameters(), again.parameters()):
        assert torch.equal(a, b)


def test_a_state_fits_into_any_file():
    """`out` may be an open file too, and safetensors can read it. A run that has not begun has no moments."""
    net, optimizer = training()
    file = io.BytesIO()
    parts.save_state(file, net, optimizer, 0)
    kept = load(file.getvalue()).values()
    assert all(any(torch.equal(p, tensor) for tensor in kept) for p in net.parameters())
    file.seek(0)
    again, other = training(seed=1)
    assert parts.load_state(file, again, other) == 0 and not other.state_dict()["state"]
    for a, b in zip(net.parameters(), again.parameters()):
        assert torch.equal(a, b)


def test_settings_of_the_optimizer_come_back():
    """The learning rate and the decay of each group are part of the state too."""
    net, optimizer = training()
    optimizer.param_groups[0].update(lr=0.125, weight_decay=0.5)
    same_rate = types.SimpleNamespace(param_groups=[], zero_grad=lambda: None, step=optimizer.step)
    train_on(net, same_rate, range(1))
    parts.save_state("saved", net, optimizer, 1)
    again, other = training(seed=1)
    parts.load_state("saved", again, other)
    group = other.param_groups[0]
    assert group["lr"] == 0.125 and group["weight_decay"] == 0.5 and tuple(group["betas"]) == (0.9, 0.999)
