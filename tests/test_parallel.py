import contextlib
import glob
import itertools
import json
import os
import re
import shutil
import signal
import sys
import threading
import time

import pytest
import torch
from conftest import ROOT, arguments, launch, log, state, torchrun, workers
from torch.distributed import HashStore

import checkpoint
import parallel

MODELS = {"bloom": ("bloom", "model.tied=true"), "bloom-untied": ("bloom", "model.tied=false"),
          "llama": ("llama", "model.tied=false"), "llama-tied": ("llama", "model.tied=true")}
# six steps of 16 rows; 18 rows of a matrix do not divide over 4 processes
SIX = ["run.tokens=3072", "run.batch=16", "machine.save_every=6", "run.eval_every=6", "model.dim=18",
       "optim.lr=1e-3"]


def variants(world):
    """(name, arguments) of every way to cut the same six steps of 16 rows."""
    shards = {1: ["none"], 2: ["none", 1], 4: ["none", 2]}[world]
    for model, accumulation, shard in itertools.product(MODELS, (1, 4), shards):
        name, tied = MODELS[model]
        run = f"{model}-{world}-{accumulation}-{shard}"
        every = 3 if accumulation == 1 and shard == "none" else 6
        yield run, arguments(name, run, *SIX, tied, f"machine.micro={16 // world // accumulation}",
                             f"machine.shard={shard}", f"machine.save_every={every}")


def others(world):
    """(name, arguments) of runs with something special, at the same six steps."""
    one = [*SIX, "machine.micro=2"]
    if world in (1, 2):
        yield "bf16", arguments("bloom", f"bf16-{world}", *one, "machine.dtype=bfloat16")
        yield "bf16", arguments("llama", f"bf16-llama-{world}", *one, "machine.dtype=bfloat16")
        yield "recompute", arguments("bloom", f"recompute-{world}", *one, "machine.recompute=true")
    if world in (1, 4):
        six_rows = ("run.batch=6", "run.tokens=1152", "machine.micro=1")
        yield "ragged", arguments("bloom", f"ragged-{world}", *SIX, *six_rows)
    if world == 2:
        yield "nan", ["nan", *arguments("bloom", "nan", *one)]
        yield "full", ["full", *arguments("bloom", "full", *one, "machine.save_every=2")]


def resumed(world):
    """(name, arguments) of the second half of runs that were saved by another number of processes."""
    for run in ("bloom", "llama-tied"):
        for before in (1, 2):
            name, tied = MODELS[run]
            new = f"{run}-{before}-to-{world}"
            yield new, arguments(name, new, *SIX, tied, "machine.micro=4")


def half_done(name):
    """A copy of a run without its last checkpoint: as if it had been stopped after step 3."""
    run, before, _, _ = name.rsplit("-", 3)
    shutil.copytree(f"runs/{run}-{before}-1-none", f"runs/{name}")
    shutil.rmtree(f"runs/{name}/checkpoints/0000006")


@pytest.fixture(scope="module")
def cut(prepared, tmp_path_factory):
    """A folder in which every run has been trained on 1, 2 and 4 processes, each number started as seldom as
    possible."""
    folder, before = tmp_path_factory.mktemp("cut"), os.getcwd()
    os.chdir(folder)
    os.symlink(prepared / "data", "data")
    handlers = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}
    runs = {world: [args for _, args in (*variants(world), *others(world))] for world in (1, 2, 4)}
    launch(1, runs[1])
    (folder / "printed-2").write_text(launch(2, runs[2]))
    for world in (1, 4, 2):
        for name, _ in resumed(world):
            half_done(name)
        more = runs[4] if world == 4 else []
        printed = launch(world, [args for _, args in resumed(world)] + more)
        (folder / f"printed-resumed-{world}").write_text(printed)
    for s, handler in handlers.items():
        signal.signal(s, handler)
    os.chdir(before)
    return folder


def assert_close(want, got, bound=1e-5):
    a, b = log(want), log(got)
    rows = [[(x["step"], x.get("rows")) for x in records] for records in (a, b)]
    assert rows[0] == rows[1], f"{got}: other rows"
    for x, y in zip(a, b):
        if "val" in x:
            assert x["val"]["loss"] == pytest.approx(y["val"]["loss"], abs=bound), (got, x, y)
        else:
            assert x["loss"] == pytest.approx(y["loss"], abs=bound), (got, x, y)
            assert x["norm"] == pytest.approx(y["norm"], abs=bound), (got, x, y)
    a, b = state(f"runs/{want}"), state(f"runs/{got}")
    worst = max(((a[k] - b[k]).abs().max().item(), k) for k in a)
    assert worst[0] < bound, f"{got}: {worst[1]} differs by {worst[0]:.1e}"


@pytest.mark.parametrize("world", [1, 2, 4])
def test_however_a_batch_is_cut_the_step_is_the_same(cut, monkeypatch, world):
    """Law 6: processes, micro-batches, copies and shards change losses, gradient norms, weights and moments
    by rounding only: 1e-5 in float32."""
    monkeypatch.chdir(cut)
    for run, _ in variants(world):
        model, *_ = run.rsplit("-", 3)
        assert_close(f"{model}-1-1-none", run)


@pytest.mark.parametrize("world", [1, 2, 4])
def test_saved_on_n_processes_resumes_on_m(cut, monkeypatch, world):
    """Law 7. The rows of the following steps are the same too: assert_close compares their names."""
    monkeypatch.chdir(cut)
    for name, _ in resumed(world):
        model, before, _, _ = name.rsplit("-", 3)
        assert_close(f"{model}-{before}-1-none", name)
    assert world == 1 or (cut / f"printed-resumed-{world}").read_text().count("after step 3\n") == 4


def test_rows_that_do_not_divide_over_the_processes_change_nothing(cut, monkeypatch):
    monkeypatch.chdir(cut)
    assert_close("ragged-1", "ragged-4")


def test_bfloat16_on_two_processes_is_bfloat16_on_one_but_for_the_rounding_of_vectors(cut, monkeypatch):
    """On one process autocast rounds the matrices to bfloat16, on several FSDP gathers all weights so:
    embeddings, norms and biases are rounded besides, by at most 2^-9 of their size. A loss near ln 512 is a
    sum of few such terms: 2^-7 is the bound."""
    monkeypatch.chdir(cut)
    for name, plain in (("bf16", "bloom"), ("bf16-llama", "llama")):
        for a, b, c in zip(log(f"{name}-1"), log(f"{name}-2"), log(f"{plain}-1-1-none")):
            if "loss" in a:
                assert a["rows"] == b["rows"] and a["loss"] == pytest.approx(b["loss"], abs=2 ** -7)
                assert a["norm"] == pytest.approx(b["norm"], rel=2 ** -5)
                assert a["loss"] == pytest.approx(c["loss"], abs=2 ** -5), "bfloat16 is near float32"
                assert a["loss"] != c["loss"], "and is not float32"


def test_recomputed_activations_change_nothing(cut, monkeypatch):
    monkeypatch.chdir(cut)
    for world in (1, 2):
        assert_close("bloom-1-1-none", f"recompute-{world}")


def test_a_loss_that_is_no_number_on_one_process_skips_the_update_on_all(cut, monkeypatch):
    monkeypatch.chdir(cut)
    assert [(r["step"], r["skipped"][:8]) for r in log("nan") if "skipped" in r] == [(4, "loss nan")]
    assert log("nan")[-1]["step"] == 6 and all(t.isfinite().all() for t in state("runs/nan").values())


def test_a_disk_that_is_full_for_one_process_is_a_warning_on_all(cut, monkeypatch):
    monkeypatch.chdir(cut)
    assert checkpoint.steps("runs/full") == [2, 6]
    assert "warning: cannot save runs/full/checkpoints/0000004" in (cut / "printed-2").read_text()
    assert "0000004" not in os.listdir("runs/full/checkpoints")
    assert_close("bloom-1-1-none", "full")


def test_a_damaged_part_of_another_process_is_named_and_passed_over(cut, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    os.symlink(cut / "data", "data")
    shutil.copytree(cut / "runs/bloom-2-1-none", "runs/damaged")
    path, = glob.glob("runs/damaged/checkpoints/0000006/optimizer/*shard-00002*")
    with open(path, "r+b") as f:
        f.seek(-50, os.SEEK_END)
        byte = f.read(1)
        f.seek(-50, os.SEEK_END)
        f.write(bytes([byte[0] ^ 1]))
    out = launch(2, [arguments("bloom", "damaged", *SIX, "machine.micro=8", "machine.save_every=3")])
    assert f"checkpoint 6 is damaged, using the one before it: {path} has changed since" in out
    assert "continuing runs/damaged after step 3\n" in out
    a, b = state("runs/damaged"), state(cut / "runs/bloom-2-1-none")
    assert all(torch.equal(a[k], b[k]) for k in a)


def test_kill_9_in_a_step_in_a_save_and_in_an_evaluation_changes_nothing(cut, tmp_path, monkeypatch):
    """torchrun starts both again each time; the end is that of the run nobody disturbed, to the last bit."""
    monkeypatch.chdir(tmp_path)
    os.symlink(cut / "data", "data")
    settings = [*SIX, "machine.micro=8", "machine.save_every=2", "machine.keep=9"]
    out = launch(2, [["dies", *arguments("bloom", "killed", *settings)]], restarts=3)
    continued = [line for line in out.splitlines() if line.startswith("continuing")]
    assert continued == ["continuing runs/killed after step 2", "continuing runs/killed after step 4"], out
    a, b = state("runs/killed"), state(cut / "runs/bloom-2-1-none")
    assert all(torch.equal(a[k], b[k]) for k in a)
    losses = [[r.get("loss") for r in log(run)] for run in ("killed", str(cut / "runs/bloom-2-1-none"))]
    assert losses[0] == losses[1]
    assert "Traceback" not in out and "terminate" not in out, "the other says that it lost one"


@pytest.mark.parametrize("what, words", [
    ("stopped", "does not answer any more, it was at"),
    ("stuck", "is stuck at step 2: updating. Rank 0 is at step 3: forward")])
def test_a_process_that_hangs_is_named_after_the_time_out(cut, tmp_path, monkeypatch, what, words):
    monkeypatch.chdir(tmp_path)
    os.symlink(cut / "data", "data")
    settings = [what, *arguments("bloom", what, *SIX, "machine.timeout=6")]
    p = torchrun(2, "tests/worker.py", json.dumps([settings]))
    out, named = "", None
    for line in p.stdout:
        out += line
        pattern = r"error: nothing has moved for 6 s \(machine.timeout\): rank 1 \(\S+, pid (\d+)\) " + words
        if named := named or re.search(pattern, line):
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(named[1]), signal.SIGKILL)          # torchrun would do it after 30 s
    assert p.wait() == 1 and named, out


def test_sigterm_to_one_process_stops_all_of_them_after_the_same_step(cut, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    os.symlink(cut / "data", "data")
    more = ("run.tokens=384000", "machine.save_every=9999", "run.eval_every=9999")
    p = torchrun(2, "train.py", *arguments("bloom", "term", *more))
    for line in p.stdout:
        if line.startswith("step ") and "norm" in line:
            both = workers(p.pid)
            assert len(both) == 2
            os.kill(both[1], signal.SIGTERM)
            break
    rest = p.stdout.read()
    assert p.wait() == 0 and re.search("stopped by .* after step", rest), rest
    assert len(checkpoint.steps("runs/term")) == 1


def test_a_group_that_does_not_divide_the_processes_is_refused(cut, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    os.symlink(cut / "data", "data")
    out = launch(2, [arguments("bloom", "x", "machine.shard=3")], code=1)
    words = r"error: rank [01]: machine.shard=3 does not divide 2 processes; use a divisor, or none"
    assert re.search(words, out) and "]: Traceback" not in out, out


@pytest.mark.slow
def test_kills_at_random_moments_change_nothing(prepared, tmp_path, monkeypatch):
    """The short version of python tools/kill.py --kills 25."""
    monkeypatch.chdir(tmp_path)
    os.symlink(prepared / "data", "data")
    sys.path.append(f"{ROOT}/tools")
    import kill
    print(kill.compare(2, seed=1))


# ---- roll calls ----

def meet_all(store, world):
    """Everybody meets, each in a thread; returns what they agreed on."""
    names = [None] * world

    def one(rank):
        names[rank] = parallel.meet(store, rank, world, 20)
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
    """Ranks of an earlier start, or of one that was killed half way, have left their calls and answers."""
    store = HashStore()
    for rank in range(3):
        store.set(f"hello/{rank}", f"dead{rank}")
    store.set("answer/dead1", "old")
    store.set("old/1", "here")
    assert len(set(meet_all(store, 3))) == 1


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
