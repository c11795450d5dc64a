"""One writer of a run folder. Two real commands: test_train.py; a killed launcher: tools/kill.py."""
import contextlib
import errno
import fcntl
import json
import os
import socket
import subprocess
import sys

import pytest
from conftest import ROOT

import config
import lock
import parallel


def test_a_shell_that_sets_world_size_is_no_launcher(monkeypatch):
    """Who starts a run there with nohup and goes would lose it."""
    monkeypatch.setattr(parallel, "following", False)
    monkeypatch.setenv("WORLD_SIZE", "1")
    parallel.follow_launcher()
    assert not lock.launched() and not parallel.following
    assert not lock.leaving({"host": socket.gethostname(), "launcher": os.getppid()})


@contextlib.contextmanager
def locked_by(**who):
    """Another process's lock on runs/r, as lock.take() leaves it."""
    os.makedirs("runs/r", exist_ok=True)
    who = {"host": socket.gethostname(), "pid": 4711, "since": "2026-11-27 05:16:39", **who}
    with open("runs/r/lock", "w") as f:
        json.dump(who, f)
        f.flush()
        fcntl.flock(f, fcntl.LOCK_SH)
        yield f


def gone():
    """The process id of one that has ended."""
    p = subprocess.Popen(["true"])
    p.wait()
    return p.pid


def refused():
    words = "^another command trains runs/r: .*, pid 4711, since 2026-11-27 05:16:39; stop that one"
    with pytest.raises(ValueError, match=words):
        parallel.hold("runs/r")


@pytest.mark.parametrize("who", [
    {"launcher": None}, {"launcher": os.getpid()}, {"launcher": 1, "host": "node7"}])
def test_a_live_run_is_not_waited_for(tmp_path, monkeypatch, who):
    """It has no launcher, or one that lives; or it is of another machine, of which one knows nothing."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(lock.time, "sleep", lambda seconds: pytest.fail("it waits"))
    with locked_by(**who):
        before = (tmp_path / "runs/r/lock").read_text()
        refused()
        assert (tmp_path / "runs/r/lock").read_text() == before


@pytest.mark.parametrize("content", [b"", b'{"host": "no', b"\0\0", b"\xff", b"[]", b'{"pid": 4711}'])
def test_a_lock_whose_file_is_half_written_or_damaged_is_refused_in_one_line(tmp_path, monkeypatch, content):
    monkeypatch.chdir(tmp_path)
    with locked_by():
        (tmp_path / "runs/r/lock").write_bytes(content)
        with pytest.raises(ValueError, match=r"^another command trains runs/r: \?, pid \?, since just now; "):
            parallel.hold("runs/r")


@pytest.mark.parametrize("launcher", [gone, os.getppid])
def test_processes_whose_launcher_is_gone_or_starts_again_are_waited_for(tmp_path, monkeypatch, launcher):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    with locked_by(launcher=launcher()) as other:
        monkeypatch.setattr(lock.time, "sleep", lambda seconds: fcntl.flock(other, fcntl.LOCK_UN))
        parallel.hold("runs/r")
        who = config.read_json("runs/r/lock")
        assert (who["pid"], who["launcher"]) == (os.getpid(), os.getppid())
        parallel.release()


def test_a_process_that_does_not_end_keeps_the_next_start_out(tmp_path, monkeypatch):
    """It may be frozen; and process 0 may be gone, but not process 1."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(lock, "LEAVE", 0.3)
    with locked_by(launcher=gone()):
        refused()
    parallel.hold("runs/r")
    with open("runs/r/lock") as f:
        fcntl.flock(f, fcntl.LOCK_SH | fcntl.LOCK_NB)           # as process 1 does
        parallel.release()
        with open("runs/r/lock") as other, pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_file_system_without_locks_is_a_warning(tmp_path, monkeypatch, capsys):
    def flock(file, how):
        raise OSError(errno.ENOLCK, "No locks available")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(fcntl, "flock", flock)
    parallel.hold("runs/r")
    parallel.release()
    lock.look([f"{ROOT}/configs/bloom.py", "run.name=r"])
    out = capsys.readouterr().out
    assert out.count("\n") == 1 and out.startswith("warning: runs/r/lock cannot be locked (No locks av")


def test_the_second_command_is_refused_before_it_imports_pytorch(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "torch.py").write_text("raise SystemExit('this is PyTorch')")
    command = [sys.executable, f"{ROOT}/train.py", f"{ROOT}/configs/bloom.py", "run.name=r"]

    def second(**more):
        done = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(tmp_path), **more},
                              capture_output=True, text=True)
        assert done.returncode == 1 and not done.stdout
        return done.stderr
    assert second() == "this is PyTorch\n", "there is no run"
    with locked_by(launcher=None):
        assert second().startswith("error: another command trains runs/r: ")
        assert second(RANK="1") == "this is PyTorch\n", "process 0 says it for all"
    with locked_by(launcher=gone()):
        assert second() == "this is PyTorch\n", "it is about to end"
    command[2:] = ["configs/none.py", "run.name"]
    assert second() == "this is PyTorch\n", "others say what is wrong with that"
