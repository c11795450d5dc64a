"""Save and load a run: safetensors, written and read by torch.distributed.checkpoint. Nothing is pickled.

    runs/NAME/checkpoints/0000200/   model/*.safetensors   optimizer/*.safetensors   state.json   done

Each process writes the rows it keeps and reads those it needs: what N processes saved, M go on from. `done` is written last, with size and
SHA-256 of the other files; without it a folder is no checkpoint, and a file that differs is refused by name. Read it from moments() to newest().
"""
import contextlib
import math
import os
import shutil
import threading
import warnings

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp

import config
import distributed

warnings.filterwarnings("ignore", message="torch.distributed is disabled")      # "assuming the intent is to save in a single process": it is


class Unusable(ValueError):
    """A checkpoint that is incomplete or damaged."""


def moments(model, optimizer):
    """AdamW's state as a flat {"name.exp_avg": tensor}, made if the optimizer has not stepped yet; loading fills it in place."""
    flat = {}
    for name, p in distributed.parameters(model).items():
        if not (state := optimizer.state[p]):
            state.update(step=torch.zeros((), device=p.device), exp_avg=torch.zeros_like(p), exp_avg_sq=torch.zeros_like(p))
        flat |= {f"{name}.{key}": value for key, value in state.items()}
    return flat


def read_back(folder, files, group=None):
    """[size, SHA-256 in hexadecimal] of each of `files`, zeros where one cannot be read. The processes share the reading."""
    (rank, world), table = distributed.place(), torch.zeros(len(files), 33, dtype=torch.int64)
    for i in range(rank, len(files), world):
        with contextlib.suppress(OSError):
            table[i] = torch.tensor([os.path.getsize(f"{folder}/{files[i]}"), *bytes.fromhex(config.sha256(f"{folder}/{files[i]}"))])
    return [[size, bytes(digest).hex()] for size, *digest in distributed.sum(table, group).tolist()]


def seal(folder, state, group=None):
    """Make a folder whose tensors are written a checkpoint: state.json, and `done` with size and SHA-256 of every file."""
    distributed.once(lambda: config.write_json(f"{folder}/state.json", state), group)
    files = sorted(os.path.relpath(os.path.join(at, f), folder) for at, _, names in os.walk(folder) for f in names)
    facts = read_back(folder, files, group) if distributed.sum(len(files), group) == len(files) * distributed.place()[1] else [[0]]
    if not all(size for size, *_ in facts):
        raise OSError("not every process can read back every file: runs/ must be on a file system they share")
    distributed.once(lambda: config.write_json(f"{folder}/done", dict(zip(files, facts))), group)


def write(folder, tensors, state, group=None):
    """Write a checkpoint: `tensors` is {"model": {name: tensor}, "optimizer": ...}, `state` a dict of plain facts. All processes
    together; where it fails on one it is an OSError on all, and no folder is left."""
    try:
        for part, values in tensors.items():
            dcp.save(values, storage_writer=dcp.HuggingFaceStorageWriter(f"{folder}/{part}", save_distributed=True), process_group=group, no_dist=distributed.place()[1] == 1)
        seal(folder, state, group)
    except (OSError, dcp.api.CheckpointException) as e:         # a BaseException: it passes every `except Exception`
        distributed.once(lambda: shutil.rmtree(folder, ignore_errors=True), group)
        cause = next(iter(e.failures.values()))[0] if isinstance(e, dcp.api.CheckpointException) else e
        raise OSError(f"cannot save {folder}: {' '.join(str(cause).split())[:300]}") from e


class Saver:
    """Saves checkpoints of folder `run`. In the background, if asked: a copy is taken at once, one save is in flight at most."""
    def __init__(self, run, keep, background):
        self.run, self.keep, self.background = run, keep, background
        self.last = self.thread = self.error = None         # last: step of the newest checkpoint that is whole
        self.group = dist.new_group(backend="gloo") if background and dist.is_initialized() else None

    def save(self, step, model, optimizer, state, losses):
        """Write checkpoint `step`, then delete all but the newest `keep` and the best by `losses`, {step: validation loss}."""
        self.wait()
        folder, tensors = f"{self.run}/checkpoints/{step:07d}", {"model": distributed.parameters(model), "optimizer": moments(model, optimizer)}
        distributed.once(lambda: shutil.rmtree(folder, ignore_errors=True))         # what an interrupted save left

        def job():
            try:
                write(folder, tensors, {"step": step, **state}, self.group)
                self.last, self.error = step, None
                distributed.once(lambda: prune(self.run, self.keep, losses, step), self.group)
            except BaseException as e:                  # in a thread it would be lost: wait() raises what is no failed write
                self.error = e if self.last != step else None
                print(f"warning: {e}; the run goes on, earlier checkpoints are intact" if isinstance(e, OSError) else e, flush=True)
        if self.background:
            tensors = dcp.staging.BlockingAsyncStager(cache_staged_state_dict=False).stage(tensors)
            self.thread = threading.Thread(target=job)
            self.thread.start()
        else:
            job()
            self.wait()

    def wait(self):
        """Wait for a save in flight; returns the OSError of the newest save, or None."""
        if self.thread:
            self.thread.join()
        if self.error and not isinstance(self.error, OSError):
            raise self.error
        return self.error


def steps(run):
    """Steps of the complete checkpoints, oldest first."""
    folder = f"{run}/checkpoints"
    names = os.listdir(folder) if os.path.isdir(folder) else []
    return sorted(int(n) for n in names if n.isdigit() and os.path.exists(f"{folder}/{n}/done"))


def prune(run, keep, losses, step):
    """Delete all but the newest `keep` and the best, of those up to `step`: later ones are damaged. `done` goes first: half a deletion is no checkpoint."""
    there = [s for s in steps(run) if s <= step]
    best = min((s for s in there if math.isfinite(losses.get(s, math.nan))), key=losses.get, default=None)
    for step in there[:-keep]:
        if step != best:
            os.remove(f"{run}/checkpoints/{step:07d}/done")
            shutil.rmtree(f"{run}/checkpoints/{step:07d}")


def verify(folder):
    """Raise Unusable, naming the file, unless every file is as `done` says."""
    try:
        facts = distributed.together(lambda: config.read_json(f"{folder}/done"))
    except (ValueError, OSError) as e:
        raise Unusable(f"{folder}/done cannot be read: {e}") from e
    for (name, was), now in zip(facts.items(), read_back(folder, list(facts))):
        if now != was:
            raise Unusable(f"{folder}/{name} {'is missing' if not now[0] else 'has changed since it was written' if now[0] == was[0] else f'is {now[0]:,} bytes where {was[0]:,} were written'}")


def load(folder, model, optimizer=None):
    """Fill `model`, and `optimizer` if given, from a checkpoint; returns its state.json."""
    verify(folder)
    for part, tensors in [("model", distributed.parameters(model))] + ([("optimizer", moments(model, optimizer))] if optimizer else []):
        try:
            dcp.load(tensors, storage_reader=dcp.HuggingFaceStorageReader(f"{folder}/{part}"), no_dist=distributed.place()[1] == 1)
        except dcp.api.CheckpointException as e:
            raise Unusable(f"{folder}/{part} does not fit this model: {' '.join(str(e).split())[-200:]}") from e
    return config.read_json(f"{folder}/state.json")


def newest(run, model, optimizer=None, step=None):
    """Load checkpoint `step`, or the newest one that is whole, naming each one passed over; returns its state, or None without any."""
    there = steps(run)
    if step is not None and step not in there:
        raise ValueError(f"{run} has no checkpoint of step {step}; it has {', '.join(map(str, there)) or 'none'}")
    for s in reversed(there) if step is None else [step]:
        try:
            return load(f"{run}/checkpoints/{s:07d}", model, optimizer)
        except (Unusable, FileNotFoundError) as e:
            if step is not None:
                raise
            if steps(run) != there and distributed.place()[1] == 1:
                return newest(run, model, optimizer)            # the run goes on, and newer checkpoints have taken the place of these
            print(f"checkpoint {s} is damaged, using the one before it: {e}")
    if there:
        raise ValueError(f"none of the {len(there)} checkpoints of {run} can be read; move the folder away to start again")
