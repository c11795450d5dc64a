import contextlib
import glob
import os
import re
import shutil
import signal
import sys
import threading
import time

import pytest
import torch
from conftest import ROOT, arguments, damage, handlers_kept, launch, log, state
from torch.distributed import HashStore

import checkpoint
import config
import parallel

MODELS = ("bloom", "llama")         # the head is the embedding; a head of its own
# six steps of 16 rows; 18 rows of a matrix do not divide over 4 processes
SIX = ["run.tokens=3072", "run.batch=16", "machine.save_every=6", "run.eval_every=6", "model.dim=18",
       "optim.lr=1e-3"]
# (micro-batches, processes that share a copy); on a CPU "none" is a copy each
CUTS = {1: [(1, "none"), (4, "none")], 2: [(1, 2), (4, "none")], 4: [(1, 4), (4, 2), (2, 1)]}


def six(model, name, *more):
    return arguments(model, name, *SIX, *more)


def variants(world):
    """{name: arguments} of ways to cut the same six steps: micro-batches, and processes that share a copy."""
    found = {}
    for model in MODELS:
        for accumulation, shard in CUTS[world]:
            name = f"{model}-{world}-{accumulation}-{shard}"
            micro = 16 // world // accumulation
            found[name] = six(model, name, f"machine.micro={micro}", f"machine.shard={shard}")
    return found


def others(world):
    """Arguments of runs with something special, at the same six steps."""
    four = f"machine.shard={world}", "machine.micro=4"
    if world in (1, 2):
        for model in MODELS:
            yield six(model, f"bf16-{model}-{world}", *four, "machine.dtype=bfloat16")
        yield six("bloom", f"recompute-{world}", *four, "machine.recompute=true")
    if world in (1, 4):
        yield six("bloom", f"ragged-{world}", *four, "run.batch=6", "run.tokens=1152", "machine.micro=1")
    if world in (2, 4):
        yield six("bloom", "damaged", *four, "machine.save_every=3")
    if world == 2:
        yield ["nan 4", *six("bloom", "nan", *four)]
        yield ["full 4", *six("bloom", "full", *four, "machine.save_every=2")]
        yield six("llama", "bf16-copies", "machine.micro=4", "machine.dtype=bfloat16")
        yield ["messages 1000", *six("bloom", "messages", "machine.micro=2")]


def link(chain, world, shard, *stop):
    """Arguments of the part that `world` processes have in a run of changing numbers of processes."""
    cut = f"machine.micro={8 // world}", f"machine.shard={shard}"
    return [[*stop, *six(model, f"{model}-{chain}", *cut)] for model in MODELS]


@pytest.fixture(scope="module")
def cut(prepared, tmp_path_factory):
    """A folder in which every run has been trained. Starting processes takes longest: 4 and 2 start once."""
    folder = tmp_path_factory.mktemp("cut")
    os.symlink(prepared / "data", folder / "data")
    runs = {world: [*variants(world).values(), *others(world)] for world in (1, 2, 4)}
    refused = six("bloom", "refused", "machine.shard=3")
    frozen = ["freeze 2", *six("bloom", "frozen", "machine.micro=4", "machine.shard=2")]
    with contextlib.chdir(folder), handlers_kept():
        launch(1, runs[1] + link("1-4-2", 1, 1, "stop_after 2"))
        printed = launch(4, [*runs[4], *link("1-4-2", 4, 4, "stop_after 4"), refused], code=1)
        path, = glob.glob("runs/damaged/checkpoints/0000006/optimizer/*shard-00002*")
        damage(path)
        runs[2] += [*link("1-4-2", 2, 1), *link("2-1", 2, 2, "stop_after 2"), frozen]
        printed += launch(2, runs[2], code=1)
        (folder / "printed").write_text(f"{path}\n{printed}")
        launch(1, link("2-1", 1, 1))
    return folder


@pytest.fixture
def inside(cut, monkeypatch):
    """What several processes printed; the current folder is `cut`."""
    monkeypatch.chdir(cut)
    return (cut / "printed").read_text()


def assert_close(want, got, bound=1e-5):
    a, b = log(want), log(got)
    rows = [[(x["step"], x.get("rows")) for x in records] for records in (a, b)]
    assert rows[0] == rows[1], f"{got}: other rows"
    for x, y in zip(a, b):
        numbers = [(r["val"]["loss"], 0) if "val" in r else (r["loss"], r["norm"]) for r in (x, y)]
        assert numbers[0] == pytest.approx(numbers[1], abs=bound), (got, x, y)
    a, b = state(f"runs/{want}"), state(f"runs/{got}")
    worst = max(((a[k] - b[k]).abs().max().item(), k) for k in a)
    assert worst[0] < bound, f"{got}: {worst[1]} differs by {worst[0]:.1e}"


@pytest.mark.parametrize("world", [1, 2, 4])
def test_however_a_batch_is_cut_the_step_is_the_same(inside, world):
    """Law 6: processes, micro-batches, copies and shards change losses, gradient norms, weights and moments
    by rounding only: 1e-5 in float32."""
    for run in variants(world):
        assert_close(f"{run.split('-')[0]}-1-1-none", run)


def test_gradients_that_travel_in_small_messages_are_the_same(inside):
    a, b = state("runs/messages"), state("runs/bloom-2-4-none")
    assert all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize("chain", ["1-4-2", "2-1"])
def test_saved_on_n_processes_resumes_on_m(inside, chain):
    """Law 7, through shards and through copies. SIGTERM to one process stopped all of them after the same
    step, and others went on."""
    for model in MODELS:
        run = f"{model}-{chain}"
        assert_close(f"{model}-1-1-none", run)
        records = checkpoint.read_log(f"runs/{run}/log.jsonl")
        starts = [(r["step"], r["start"]["processes"]) for r in records if "start" in r]
        assert starts == [(2 * i, int(world)) for i, world in enumerate(chain.split("-"))]
    assert inside.count("after step 2, saved in runs/") == inside.count("after step 4, saved in runs/") == 2


def test_rows_that_do_not_divide_over_the_processes_change_nothing(inside):
    assert_close("ragged-1", "ragged-4")


def test_recomputed_activations_change_nothing(inside):
    for world in (1, 2):
        assert_close("bloom-1-1-none", f"recompute-{world}")


def test_bfloat16_on_two_processes_is_bfloat16_on_one_but_for_the_rounding_of_vectors(inside):
    """On one process autocast rounds the matrices to bfloat16, on two that share FSDP gathers all weights so:
    embeddings, norms and biases are rounded besides, by at most 2^-9 of their size. A loss near ln 512 is a
    sum of few such terms: 2^-7 is the bound."""
    for model in MODELS:
        for a, b, c in zip(log(f"bf16-{model}-1"), log(f"bf16-{model}-2"), log(f"{model}-1-1-none")):
            if "loss" in a:
                assert a["rows"] == b["rows"] and a["loss"] == pytest.approx(b["loss"], abs=2 ** -7)
                assert a["norm"] == pytest.approx(b["norm"], rel=2 ** -5)
                assert a["loss"] == pytest.approx(c["loss"], abs=2 ** -5), "bfloat16 is near float32"
                assert a["loss"] != c["loss"], "and is not float32"


def test_bfloat16_on_copies_is_bfloat16_on_one_process(inside):
    """Autocast on both: only gradients are summed in another order."""
    assert_close("bf16-llama-1", "bf16-copies", 1e-3)


def test_a_loss_that_is_no_number_on_one_process_skips_the_update_on_all(inside):
    assert [(r["step"], r["skipped"][:8]) for r in log("nan") if "skipped" in r] == [(4, "loss nan")]
    assert log("nan")[-1]["step"] == 6 and all(t.isfinite().all() for t in state("runs/nan").values())


def test_a_disk_that_is_full_for_one_process_is_a_warning_on_all(inside):
    assert checkpoint.steps("runs/full") == [2, 6]
    assert "warning: cannot save runs/full/checkpoints/0000004" in inside
    assert "0000004" not in os.listdir("runs/full/checkpoints")
    assert_close("bloom-1-1-none", "full")


def test_a_damaged_part_of_another_process_is_named_and_passed_over(inside):
    """Four processes saved it, two go on from the one before."""
    path = inside.split("\n")[0]
    assert f"checkpoint 6 is damaged, using the one before it: {path} is missing, or has changed" in inside
    assert "continuing runs/damaged after step 3\n" in inside
    assert_close("bloom-1-1-none", "damaged")


def test_an_error_is_one_line_of_each_process(inside):
    words = "machine.shard=3 does not divide 4 processes; use a divisor, or none\n"
    assert all(f"error: rank {rank}: {words}" in inside for rank in range(4))
    assert "]: Traceback" not in inside, inside


def test_a_process_that_hangs_is_named(inside):
    words = (r"error: nothing has moved for 3 s \(machine.timeout\): rank 1 \(\S+, pid \d+\) does not answer "
             r"any more, it was at .*\. Rank 0 is at step 3: forward and backward\n")
    assert len(re.findall(words, inside)) == 1, inside


def test_kill_9_changes_nothing(cut, tmp_path, monkeypatch):
    """torchrun starts both again; the end is that of the run nobody disturbed, to the last bit."""
    monkeypatch.chdir(tmp_path)
    os.symlink(cut / "data", "data")
    settings = six("bloom", "killed", "machine.micro=8", "machine.save_every=2", "machine.shard=2")
    out = launch(2, [["kill_in_save 4", *settings]], restarts=1)
    assert out.count("continuing runs/killed after step 2\n") == 1, out
    assert "another process is lost" in out and "Traceback" not in out and "terminate" not in out, out
    whole = cut / "runs/bloom-2-1-2"
    a, b = state("runs/killed"), state(whole)
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert [r.get("loss") for r in log("killed")] == [r.get("loss") for r in log(str(whole))]


def test_who_hangs_is_told_from_what_the_processes_write(monkeypatch):
    store = HashStore()
    a, b, c = watches = [parallel.Watch(store, rank, 3, 1) for rank in range(3)]

    def blamed(*alive):
        monkeypatch.setattr(parallel.time, "sleep", lambda seconds: [watch.tell() for watch in alive])
        return " ".join(c.to_blame())
    for watch in watches:
        watch.count, watch.what = 7, "step 3"
        watch.tell()
    assert blamed(a, b).startswith("every process is at the same place")
    b.count, b.what = 6, "step 2"
    assert re.fullmatch(r"rank 1 \(\S+, pid \d+\) is stuck at step 2", blamed(a, b))
    assert re.fullmatch(r"rank 0 \(\S+, pid \d+\) does not answer any more, it was at step 3", blamed(b))


@pytest.mark.slow
def test_kills_at_random_moments_change_nothing(prepared, tmp_path, monkeypatch):
    """The short version of python tools/kill.py --kills 25, and with --what launcher."""
    monkeypatch.chdir(tmp_path)
    os.symlink(prepared / "data", "data")
    sys.path.append(f"{ROOT}/tools")
    import kill
    print(kill.compare(2, seed=1))
    for name in ("killed", "whole"):
        shutil.rmtree(f"runs/{name}")
    print(kill.compare(2, seed=1, disturbed=kill.train_without_launcher))


# ---- one launch, one writer ----

def test_a_process_ends_when_its_launcher_is_gone(monkeypatch):
    """Two processes are forked: a launcher, and a worker, which else would say that it is alive."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setattr(parallel, "following", False)
    monkeypatch.setattr(config, "parent", None)
    from_worker, to_test = os.pipe()
    launcher = os.fork()
    if not launcher:
        if not os.fork():
            parallel.follow_launcher()
            os.write(to_test, b"follows")
            time.sleep(60)
            os.write(to_test, b"alive")
        time.sleep(60)
        os._exit(0)
    os.close(to_test)
    assert os.read(from_worker, 99) == b"follows"
    os.kill(launcher, signal.SIGKILL)
    os.waitpid(launcher, 0)
    assert os.read(from_worker, 99) == b"", "the pipe ends with the worker"
    os.close(from_worker)


# ---- roll calls ----

def meet_all(store, world):
    """Everybody meets, each in a thread; returns what they agreed on."""
    names = set()
    threads = [threading.Thread(target=lambda rank=rank: names.add(parallel.meet(store, rank, world, 20)))
               for rank in range(world)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(20)
    return names


def test_each_start_gets_a_name_of_its_own_whatever_the_dead_have_written():
    """Ranks of an earlier start, or of one that was killed half way, have left their calls and answers."""
    store = HashStore()
    for rank in range(3):
        store.set(f"hello/{rank}", f"dead{rank}")
    store.set("answer/dead1", "old")
    store.set("old/1", "here")
    first, second = meet_all(store, 4), meet_all(store, 4)
    assert len(first) == len(second) == 1 and first != second and "old" not in first


def test_a_process_that_does_not_come_is_named():
    store = HashStore()
    threading.Thread(target=parallel.meet, args=(store, 2, 4, 5), daemon=True).start()
    time.sleep(0.1)
    words = r"only 2 of 4 processes have come within 0.5 s \(machine.timeout\); missing: rank 1, 3"
    with pytest.raises(OSError, match=words):
        parallel.meet(store, 0, 4, 0.5)
    with pytest.raises(OSError, match=r"process 0 has not come within 0.5 s \(machine.timeout\)"):
        parallel.meet(HashStore(), 1, 2, 0.5)


def test_at_one_process_everything_is_itself():
    parallel.at("step 1: reading rows")
    assert parallel.watch is None and parallel.place() == (0, 1)
    assert parallel.total([1.5, 2]).tolist() == [1.5, 2.0] and parallel.together(lambda: 3) == 3
    rows, first = parallel.local_rows(p := torch.ones(3, 2))
    assert rows is p and first == 0
