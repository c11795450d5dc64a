import numpy as np
import pytest
from conftest import ROOT, tiny

import config
from data import CYCLE, IGNORE, Rows, Split, batch_at, permuted, quotas, rows_before, steps_in


@pytest.mark.parametrize("n", [1, 2, 3, 17, 256, 1000, 65_536])
def test_the_permutation_visits_every_number_once(n):
    order = permuted(np.arange(n), n, (1, 2))
    assert sorted(order) == list(range(n))
    for i in range(0, n, max(1, n // 7)):
        assert permuted(i, n, (1, 2))[0] == order[i], "one index alone gives the same"
    if n > 100:
        other = permuted(np.arange(n), n, (1, 3))
        assert (order != other).mean() > 0.9 and (order != np.arange(n)).mean() > 0.9
        assert abs(np.corrcoef(order[:-1], order[1:])[0, 1]) < 0.15, "neighbours are strangers"


def test_the_permutation_reaches_beyond_what_memory_could_list():
    order = permuted(np.arange(0, 10 ** 15, 10 ** 12), 10 ** 15, (0,))
    assert len(set(order)) == 1000 and order.max() < 10 ** 15


def test_bloom_batch_ramp_is_that_of_the_public_training_log():
    run = config.load(f"{ROOT}/configs/bloom.py", ["size=176b"]).run
    for seen, batch in ((0, 192), (84_186, 192), (84_187, 208), (1_000_000, 368), (5_000_000, 1136),
                        (9_765_625, 2048), (10 ** 8, 2048)):
        assert batch_at(seen, run) == batch
    assert rows_before(12_695, run) == 9_841_584 and rows_before(95_000, run) == 178_402_224
    assert rows_before(12_658, run) >= 9_765_625 > rows_before(12_657, run), "it ends at iteration 12,658"
    seen = 0
    for step in range(3000):        # the closed form is the walk
        assert rows_before(step, run) == seen
        seen += batch_at(seen, run)


@pytest.mark.parametrize("size, steps", [
    ("560m", 659_489), ("1b1", 657_784), ("1b7", 336_873), ("3b", 337_713), ("7b1", 337_713)])
def test_steps_to_341_billion_tokens(size, steps):
    run = config.load(f"{ROOT}/configs/bloom.py", [f"size={size}"]).run
    assert abs(steps_in(run, 2048) - steps) <= 1, "our count is to 341e9, rounded up to whole steps"


def test_rows_depend_on_data_seed_and_step_only(work):
    a, b = Rows(tiny("bloom", "a")), Rows(tiny("bloom", "b", "machine.micro=1"))
    for step in (0, 7, 1000, 7):
        assert all(np.array_equal(p, q) for p, q in zip(a.rows(step), b.rows(step)))
    assert not np.array_equal(a.rows(0)[2], Rows(tiny("bloom", "a", "run.seed=1")).rows(0)[2])
    big = Rows(tiny("bloom", "a", "run.batch=8"))
    four, two = [a.rows(s)[2] for s in range(4)], [big.rows(s)[2] for s in range(2)]
    assert np.array_equal(np.concatenate(four), np.concatenate(two)), "the batch only cuts the stream of rows"


def test_each_window_comes_once_per_epoch_of_its_source_in_a_new_order(work):
    rows = Rows(tiny("bloom", "a"))
    source, epoch, window = rows.windows(np.arange(6000))
    for s, split in enumerate(rows.train):
        epochs = range(epoch[source == s].max())
        orders = [window[(source == s) & (epoch == e)].tolist() for e in epochs]
        assert len(orders) > 2 and orders[0] != orders[1]
        assert all(sorted(order) == list(range(split.windows)) for order in orders)


def test_rows_do_not_depend_on_what_was_asked_before(work):
    """Also across the border of two cycles, in any order."""
    straight, jumping = Rows(tiny("bloom", "a")), Rows(tiny("bloom", "a"))
    border = CYCLE // 4
    want = {step: straight.rows(step)[2] for step in range(border - 2, border + 2)}
    for step in (border, 0, border - 1, 3 * border, border + 1, border - 2):
        if step in want:
            assert np.array_equal(jumping.rows(step)[2], want[step])
        else:
            jumping.rows(step)


def test_weights_are_kept_exactly_over_a_cycle(work):
    rows = Rows(tiny("bloom", "a", "data.weights={'en': 0.75, 'fr': 0.25}"))
    assert np.bincount(rows.where(np.arange(CYCLE, 2 * CYCLE))[0]).tolist() == [CYCLE * 3 // 4, CYCLE // 4]
    only = Rows(tiny("bloom", "a", "data.weights={'fr': 1}"))
    assert set(only.windows(np.arange(100))[0]) == {1}


@pytest.mark.parametrize("weights, words", [
    ("{'de': 1}", "'de'.*en, fr"), ("{'en': -1, 'fr': 2}", "not be negative"),
                                            ("{'en': 0}", "one must be above 0")])
def test_weights_that_mean_nothing_are_refused(work, weights, words):
    with pytest.raises(ValueError, match=words):
        Rows(tiny("bloom", "a", f"data.weights={weights}"))


def test_quotas_by_hand():
    third = CYCLE // 3
    assert sorted(quotas(np.full(3, 1 / 3)).tolist()) == [third, third, third + 1]
    few = quotas(np.array([1 - 1e-9, 1e-9, 0])).tolist()
    assert few == [CYCLE - 1, 1, 0], "any weight gets a row, none gets none"


def test_tokens_seen_by_source_are_those_that_were_read(work):
    rows = Rows(tiny("bloom", "a"))
    source = np.concatenate([rows.rows(s)[2][:, 0] for s in range(50)])
    want = {name: int((source == i).sum()) * 32 for i, name in enumerate(rows.sources)}
    assert {name: tokens for name, (tokens, _) in rows.seen(50).items()} == want


def test_windows_cover_every_token_after_the_first_exactly_once(tmp_path):
    np.arange(100, dtype="<u2").tofile(tmp_path / "x.bin")
    split = Split(tmp_path / "x.bin", "<u2", 100, 32)
    x, y = zip(*(split.window(w) for w in range(split.windows)))
    y = np.concatenate(y)
    assert y[y != IGNORE].tolist() == list(range(1, 100)) and x[3][:3].tolist() == [96, 97, 98]
    with pytest.raises(ValueError, match="200 bytes .* 202"):
        Split(tmp_path / "x.bin", "<u2", 101, 32)


@pytest.mark.parametrize("world", [1, 2, 3, 4, 5, 7])
def test_processes_read_each_row_of_a_step_once(work, world):
    rows = Rows(tiny("bloom", "a", "run.batch=7"))
    for step in (0, 3, 40):
        x, y, which, valid = rows.rows(step)
        parts = [rows.rows(step, rank, world) for rank in range(world)]
        assert len({p[0].shape for p in parts}) == 1, "everybody has as many forward passes"
        assert all(np.array_equal(p[2], which) and p[3] == valid for p in parts)
        assert valid == (y != IGNORE).sum()
        read_x, read_y = (np.concatenate([p[i] for p in parts]) for i in (0, 1))
        assert np.array_equal(read_y[:7], y) and (read_y[7:] == IGNORE).all()
        assert np.array_equal(read_x[:7], x)
