"""Jobs on many machines: a dask scheduler and its worker on this one; and what is true of jobs anywhere."""
import concurrent.futures
import json
import os
import random
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from conftest import ROOT
from corpora import Dask, jobs_running, result, strike, tree, wait_until, write, write_rich
from some_jobs import die, write_slowly

import config
import prepare
from corpus import across, jobs


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(jobs, "PATIENCE", 2)


def job(function, *arguments, name="a", key="k", size=0):
    return jobs.Job(f"stage/{name}", key, size, f"tests.some_jobs.{function.__name__}", [*arguments])


# ---- jobs ----

def test_small_jobs_share_a_process_and_large_ones_have_their_own():
    sizes = [1, 2, 3, jobs.SMALL, 4, jobs.SMALL * 3, 5, 6]
    batches = jobs.in_batches([job(write_slowly, size=size) for size in sizes], 1)
    assert [[j.size for j in batch] for batch in batches] == [
        [1, 2, 3], [jobs.SMALL], [4], [jobs.SMALL * 3], [5, 6]]
    assert [len(b) for b in jobs.in_batches([job(write_slowly)] * 9, 2)] == [2, 2, 2, 2, 1]


def test_a_job_that_runs_twice_at_once_is_done_once_and_whole():
    """As when a command is killed and given again, while its jobs go on elsewhere."""
    os.mkdir("stage")
    one, two = jobs.Part("stage/a"), jobs.Part("stage/a")
    for part in (one, two):
        part.add_line("a", "text")
    one.finish("k")
    assert jobs.done("stage/a", "k")
    before = tree("stage/a")
    two.finish("k")
    assert tree("stage/a") == before and os.listdir("stage") == ["a"]
    with pytest.raises(OSError):                # of another key it would be damage: the command clears it
        three = jobs.Part("stage/a")
        three.finish("other")
    jobs.run_jobs("writing", [job(write_slowly, "text", key="other")])
    assert os.listdir("stage") == ["a"] and jobs.done("stage/a", "other") and not jobs.done("stage/a", "k")


def test_a_file_that_a_job_wrote_and_that_is_not_there_is_no_empty_one():
    jobs.run_jobs("writing", [job(write_slowly, "text")])
    assert len(jobs.numbers("stage/a", "b", "<i8")) == 0
    os.remove("stage/a/a")
    with pytest.raises(FileNotFoundError, match="its job is done"):
        jobs.numbers("stage/a", "a", np.uint8)


def ask(request):
    return subprocess.run(jobs.COMMAND, cwd=ROOT, input=json.dumps(request), text=True, capture_output=True)


def test_a_process_refuses_to_run_another_program_than_the_command():
    os.makedirs("rules")
    write("rules/a.txt", "a")
    os.mkdir("stage")
    request = {"folder": os.getcwd(), "jobs": [job(write_slowly, "text")],
               "same": [os.path.abspath("rules"), jobs.program("rules")]}
    assert ask(request).returncode == 0 and jobs.facts("stage/a") == {"text": "text"}
    write("rules/a.txt", "b")
    done = ask(request)
    assert done.returncode == 1 and "differ from the command's" in done.stdout and not done.stderr


def test_a_killed_process_is_begun_again_and_in_the_end_named(monkeypatch, capsys):
    monkeypatch.setattr(jobs, "SMALL", 1)
    two = [job(write_slowly, "text", name="a", size=9), job(die, "self", name="b", size=9)]
    with pytest.raises(ValueError, match="killed 3 times while testing"):
        jobs.run_jobs("testing", two, 2)
    assert jobs.done("stage/a", "k")
    assert capsys.readouterr().out.count("a process was killed while testing") == 3


def test_a_process_ends_when_its_parent_dies():
    os.mkdir("stage")
    request = {"folder": os.getcwd(), "jobs": [job(write_slowly, "text", 60)], "same": None}
    program = (f"import subprocess; subprocess.run({jobs.COMMAND}, cwd={ROOT!r}, text=True, "
               f"input={json.dumps(request)!r})")
    parent = subprocess.Popen([sys.executable, "-c", program])
    wait_until(jobs_running)
    parent.kill()
    parent.wait()
    wait_until(lambda: not jobs_running(), 10)      # or it would work on, for nobody


# ---- buckets ----

def test_the_cuts_of_buckets():
    values = np.array([1, 5, 2 ** 62, 2 ** 63, 2 ** 64 - 1], np.uint64)
    assert across.cuts(values, 1).tolist() == [0, 5]
    assert across.cuts(values, 4).tolist() == [0, 2, 3, 4, 5]
    assert across.cuts(values[:0], 2).tolist() == [0, 0, 0]
    rows = across.BUCKET // across.ROW
    assert [across.buckets_for(n) for n in (0, 1, rows, rows + 1, 4 * rows)] == [1, 1, 1, 2, 4]


@pytest.mark.parametrize("part, several", [
    pytest.param(10 ** 6, [1, 4], id="whole"),
    pytest.param(8000, [1, 16, 256], id="in parts", marks=pytest.mark.slow)])
def test_the_number_of_buckets_changes_no_byte(part, several, monkeypatch):
    write_rich()
    found = []
    for buckets in several:
        monkeypatch.setattr(across, "buckets_for", lambda rows, n=buckets: n)
        prepare.prepare(config.load("rich.py", [f"part={part}", f"name={buckets}"]))
        found.append(result(str(buckets)))
    assert found[1:] == found[:-1]


# ---- a cluster that is not as it should be ----

def test_without_dask_one_line_names_the_command_that_installs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(ValueError, match="pip install distributed"):
        jobs.run_jobs("testing", [job(write_slowly, "text")], cluster="tcp://127.0.0.1:1")


def test_a_scheduler_that_is_not_there_and_one_without_workers_are_named(tmp_path):
    pytest.importorskip("distributed")
    one = [job(write_slowly, "text")]
    with pytest.raises(ValueError, match="no scheduler answers at tcp://127.0.0.1:1;"):
        jobs.run_jobs("testing", one, cluster="tcp://127.0.0.1:1")
    with pytest.raises(ValueError, match="--cluster=garbage"):
        jobs.run_jobs("testing", one, cluster="garbage")
    assert "IO loop" not in {thread.name for thread in threading.enumerate()}, "a dask client was left open"
    with Dask(tmp_path / "away") as dask:
        jobs.run_jobs("testing", one, cluster=dask.address)         # the happy path
        assert jobs.facts("stage/a") == {"text": "text"}
        dask.kill("worker")
        with pytest.raises(ValueError, match="no worker is connected to .* while testing"):
            jobs.run_jobs("testing", [job(write_slowly, "text", key="other")], cluster=dask.address)


@pytest.mark.slow
def test_a_job_that_kills_its_workers_and_a_lost_scheduler_are_named(tmp_path):
    pytest.importorskip("distributed")
    with Dask(tmp_path / "away") as dask, concurrent.futures.ThreadPoolExecutor() as pool:
        for name in ("b", "c", "d", "e"):
            dask.start_worker(name)
        with pytest.raises(ValueError, match="workers died one after another"):
            jobs.run_jobs("testing", [job(die, "parent")], cluster=dask.address)
        for name in ("worker", "b", "c", "d", "e"):
            dask.kill(name)
        dask.start_worker()
        running = pool.submit(jobs.run_jobs, "testing", [job(write_slowly, "text", 60)], None, dask.address)
        wait_until(jobs_running)
        dask.kill("scheduler")
        with pytest.raises(ValueError, match="scheduler at .* was lost while testing"):
            running.result()


# ---- a whole corpus ----

COMMAND = [sys.executable, f"{ROOT}/prepare.py", "rich.py"]


def start(*more):
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen([*COMMAND, *more], **pipes)


def finish(p):
    """(exit code, what it said)"""
    out, _ = p.communicate(timeout=600)
    assert "Traceback" not in out, out
    return p.returncode, out


@pytest.mark.slow
def test_a_cluster_makes_the_same_bytes_whoever_is_killed(tmp_path):
    """kill -9 of a job, a worker, the scheduler, the command."""
    pytest.importorskip("distributed")
    write_rich()
    assert finish(start("name=alone"))[0] == 0
    expected = result("alone")
    draw = random.Random(0)
    with Dask(tmp_path / "away") as dask:
        cluster = ["--cluster", dask.address]
        assert finish(start(*cluster))[0] == 0
        assert result("all") == expected
        for victim in ("job", "worker", "scheduler", "command"):
            os.rename("data/all", f"data/before-{victim}")
            p = start(*cluster)
            time.sleep(draw.uniform(2, 8))
            wait_until(jobs_running)
            assert strike(dask, victim, p)
            code, out = finish(p)
            if victim in ("scheduler", "command"):
                last = out.strip().split("\n")[-1]
                assert code == -9 if victim == "command" else (code, last[:7]) == (1, "error: "), out
                code, out = finish(start(*cluster))     # at once: jobs of the other one may still run
            assert code == 0, out
            assert result("all") == expected, victim


@pytest.mark.slow
def test_a_rule_that_is_edited_between_two_commands_is_in_force_everywhere(tmp_path):
    pytest.importorskip("distributed")
    write_rich()
    assert finish(start("name=before"))[0] == 0
    with Dask(tmp_path / "away") as dask:
        p = start("--cluster", dask.address)
        wait_until(lambda: os.path.exists("data/all.partial") and jobs_running())
        time.sleep(3)
        p.kill()
        text = tree("rules")["thresholds.toml"].decode()
        write("rules/thresholds.toml", text.replace("code_signs = [", 'code_signs = ["cat sat", '))
        assert finish(start("--cluster", dask.address))[0] == 0         # the same worker
    assert finish(start("name=edited"))[0] == 0
    assert result("all") == result("edited") != result("before")
