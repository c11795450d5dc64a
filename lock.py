"""One writer of a run: whoever trains in runs/NAME has locked the file runs/NAME/lock, which says who it is.

parallel.hold() locks it for all processes of a start. The system opens a lock (flock) when its process is
gone, in whatever way. Nothing here needs PyTorch, so train.py looks before it imports that.
"""
import json
import os
import socket
import time

import config


def launched():
    """Whether torchrun, or a launcher like it, has started this process: it sets both variables. One of them
    alone may stand in a shell, which is no launcher."""
    return {"RANK", "WORLD_SIZE"} <= os.environ.keys()


LEAVE = 30          # seconds that processes without a launcher get to end; one with a GPU may take some


def take(run, file):
    """Lock `file`, which is that of folder `run`, and say in it who this is; then let other processes share
    the lock. If it is locked by a start whose launcher is gone, its processes are about to end: wait."""
    until = None
    while not locked(file, warn=True):
        who = holder(file)
        if not leaving(who) or until and time.monotonic() > until:
            refuse(run, who)
        if not until:
            until = time.monotonic() + LEAVE
            print(f"waiting for {who['host']}, pid {who['pid']}, whose launcher is gone", flush=True)
        time.sleep(0.2)
    file.truncate(0)
    launcher = os.getppid() if launched() else None
    json.dump({"host": socket.gethostname(), "pid": os.getpid(), "launcher": launcher,
               "since": time.strftime("%Y-%m-%d %H:%M:%S")}, file)
    file.flush()
    os.fsync(file.fileno())                     # other machines read it
    share(run, file)


def share(run, file):
    if not locked(file, shared=True):           # another start came between the two
        refuse(run, holder(file))


def locked(file, shared=False, warn=False):
    """Whether `file` is locked now for this process, alone or shared; or cannot be, on this file system."""
    import fcntl  # here: Windows has none, and only training needs it
    try:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as e:
        if warn:
            print(f"warning: {file.name} cannot be locked ({e.strerror}): see to it that no second command "
                  "trains this run", flush=True)
    return True


def holder(file):
    """What take() has written; {} if that is half written, as another machine may see it, or damaged."""
    file.seek(0)
    try:
        who = json.loads(file.read())
        return {key: who[key] for key in ("host", "pid", "launcher", "since")}
    except (ValueError, LookupError, TypeError):
        return {}


def leaving(who):
    """Whether `who`, a holder(), is of this machine and its launcher is gone, or is the one of this process,
    which has started again."""
    if not who.get("launcher") or who["host"] != socket.gethostname():
        return False
    try:
        os.kill(who["launcher"], 0)             # signal 0 only asks whether it is there
    except ProcessLookupError:
        return True
    except PermissionError:                     # another user's
        return False
    return launched() and who["launcher"] == os.getppid()


def refuse(run, who):
    who = {"host": "?", "pid": "?", "since": "just now", **who}
    raise ValueError(f"another command trains {run}: {who['host']}, pid {who['pid']}, since {who['since']}; "
                     "stop that one, or use another run.name")


def look(arguments):
    """Stop if another command trains the run that train.py's `arguments` name. What else may be wrong with
    them is train.py's to say."""
    if os.environ.get("RANK", "0") != "0":
        return
    try:
        run = f"runs/{config.load(arguments[0], arguments[1:]).run.name}"
        with open(f"{run}/lock", "r+", encoding="utf-8") as file:
            who = None if locked(file) else holder(file)
    except (OSError, ValueError, LookupError, AttributeError):
        return
    if who is not None and not leaving(who):
        refuse(run, who)
