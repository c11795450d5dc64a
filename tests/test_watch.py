import threading
import time

import pytest
import watch
from torch.distributed import HashStore


def meet_all(store, world):
    """Everybody meets, each in a thread; returns what they agreed on."""
    names = [None] * world

    def one(rank):
        names[rank] = watch.meet(store, rank, world, 20)
    threads = [threading.Thread(target=one, args=(r,)) for r in range(world)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(20)
    return names


def test_each_start_gets_a_name_of_its_own_that_all_know():
    store = HashStore()
    first, second = meet_all(store, 4), meet_all(store, 4)
    assert len(set(first)) == len(set(second)) == 1 and first[0] and first != second


def test_what_the_dead_have_written_leads_nobody_astray():
    """Ranks of an earlier start, or of one that was killed half way, have left their calls and answers in the store."""
    store = HashStore()
    for rank in range(3):
        store.set(f"hello/{rank}", f"dead{rank}")
    store.set("answer/dead1", "old")
    store.set("old/1", "here")
    assert len(set(meet_all(store, 3))) == 1


def test_one_that_does_not_come_is_named():
    store = HashStore()
    with pytest.raises(OSError, match=r"only 2 of 4 processes have come within 0.5 s \(run.timeout\); missing: rank 1, 3"):
        other = threading.Thread(target=watch.meet, args=(store, 2, 4, 5), daemon=True)
        other.start()
        time.sleep(0.1)
        watch.meet(store, 0, 4, 0.5)


def test_process_0_is_named_if_it_is_the_one():
    with pytest.raises(OSError, match=r"process 0 has not come within 0.5 s \(run.timeout\)"):
        watch.meet(HashStore(), 1, 2, 0.5)


def test_nothing_is_watched_where_there_is_one_process():
    watch.at("step 1: reading rows")
    assert watch.current is None
