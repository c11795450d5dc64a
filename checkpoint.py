"""Save and load a run: safetensors, written and read by torch.distributed.checkpoint. Nothing is pickled.

    runs/NAME/checkpoints/0000200/   model/*.safetensors   optimizer/*.safetensors   state.json   done

Each process writes the rows it keeps, and reads those it needs, so a run saved by N processes goes on with M. `done` is written
last and holds the size and SHA-256 of every other file: without it a folder is not a checkpoint, and a file that does not match is
refused by name. Processes share one file system. Read it from moments() to newest().
"""
import json
import os
import shutil
import threading
import warnings

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.staging import BlockingAsyncStager

import config
import distributed


warnings.filterwarnings("ignore", message="torch.distributed is disabled")      # "assuming the intent is to save in a single process": it is


class Unusable(ValueError):
    """A checkpoint that is incomplete or damaged."""


def moments(model, optimizer):
    """AdamW's state as a flat {"name.exp_avg": tensor}, made if the optimizer has not stepped yet; loading fills it in place."""
    flat = {}
    for name, p in distributed.parameters(model).items():
        state = optimizer.state[p]
        if not state:
            state.update(step=torch.zeros((), dtype=torch.float32), exp_avg=torch.zeros_like(p), exp_avg_sq=torch.zeros_like(p))
        flat |= {f"{name}.{key}": value for key, value in state.items()}
    return flat


def write(folder, tensors, state, group=None):
    """Write a checkpoint: `tensors` is {"model": {name: tensor}, "optimizer": ...}, `state` a dict of plain facts. All processes
    together; where it fails on one it is an OSError on all, and no folder is left."""
    rank, world = distributed.place()
    try:
        for part, values in tensors.items():
            dcp.save(values, storage_writer=HuggingFaceStorageWriter(f"{folder}/{part}", save_distributed=True), process_group=group, no_dist=world == 1)
        distributed.once(lambda: config.write_json(f"{folder}/state.json", state), group)
        files = sorted(os.path.relpath(os.path.join(at, f), folder) for at, _, names in os.walk(folder) for f in names)
        facts = distributed.sum(distributed.together(lambda: digests(folder, files), group), group)
        done = {f: [os.path.getsize(f"{folder}/{f}"), bytes(row.tolist()).hex()] for f, row in zip(files, facts)}
        distributed.once(lambda: config.write_json(f"{folder}/done", done), group)
    except (OSError, CheckpointException) as e:         # a BaseException: it passes every `except Exception`
        distributed.once(lambda: shutil.rmtree(folder, ignore_errors=True), group)
        raise OSError(f"cannot save {folder}: {' '.join(str(e).split())[-200:]}") from e


def digests(folder, files):
    """(files, 32) bytes: the SHA-256 of those this process reads, every world-th, and zeros for the sum with the others' to fill."""
    rank, world = distributed.place()
    rows = torch.zeros(len(files), 32, dtype=torch.uint8)
    for i in range(rank, len(files), world):
        rows[i] = torch.frombuffer(bytearray.fromhex(config.sha256(f"{folder}/{files[i]}")), dtype=torch.uint8)
    return rows


class Saver:
    """Saves checkpoints of folder `run`. In the background, if asked: a copy is taken at once, one save is in flight at most."""
    def __init__(self, run, keep, background):
        self.run, self.keep = run, keep
        self.last = None                        # step of the newest checkpoint that is whole
        self.thread, self.error = None, None
        self.background, self.group = background, dist.new_group(backend="gloo") if background and dist.is_initialized() else None

    def save(self, step, model, optimizer, state, losses):
        """Write checkpoint `step`, then delete all but the newest `keep` and the best by `losses`, {step: validation loss}."""
        self.wait()
        folder, tensors = f"{self.run}/checkpoints/{step:07d}", {"model": distributed.parameters(model), "optimizer": moments(model, optimizer)}
        distributed.once(lambda: shutil.rmtree(folder, ignore_errors=True))         # what an interrupted save left

        def job():
            try:
                write(folder, tensors, {"step": step, **state}, self.group)
                self.last, self.error = step, None
                distributed.once(lambda: prune(self.run, self.keep, losses), self.group)
            except OSError as e:
                self.error = e
                print(f"warning: {e}; the run goes on, the checkpoint before it is intact", flush=True)
        if self.background:
            tensors = BlockingAsyncStager(cache_staged_state_dict=False).stage(tensors)
            self.thread = threading.Thread(target=job)
            self.thread.start()
        else:
            job()

    def wait(self):
        """Wait for a save in flight; returns the error of the newest save, or None."""
        if self.thread:
            self.thread.join()
        self.thread = None
        return self.error


def steps(run):
    """Steps of the complete checkpoints, oldest first."""
    folder = f"{run}/checkpoints"
    names = os.listdir(folder) if os.path.isdir(folder) else []
    return sorted(int(n) for n in names if n.isdigit() and os.path.exists(f"{folder}/{n}/done"))


def prune(run, keep, losses):
    """Delete all but the newest `keep` checkpoints and the best one. `done` goes first, so half a deletion is no checkpoint."""
    there = steps(run)
    best = min((s for s in there if s in losses), key=losses.get, default=None)
    for step in there[:-keep]:
        if step != best:
            os.remove(f"{run}/checkpoints/{step:07d}/done")
            shutil.rmtree(f"{run}/checkpoints/{step:07d}")


def verify(folder):
    """Raise Unusable, naming the file, unless every file is as `done` says. The processes share the reading."""
    def read():
        with open(f"{folder}/done", encoding="utf-8") as f:
            return [(f"{folder}/{name}", size, digest) for name, (size, digest) in json.load(f).items()]
    try:
        facts = distributed.together(read)
    except (ValueError, OSError) as e:
        raise Unusable(f"{folder}/done cannot be read: {e}") from e
    (rank, world), wrong = distributed.place(), torch.zeros(len(facts), dtype=torch.int64)
    for i in range(rank, len(facts), world):
        path, size, digest = facts[i]
        wrong[i] = 1 if not os.path.exists(path) else 2 if os.path.getsize(path) != size else 3 if config.sha256(path) != digest else 0
    for (path, size, _), w in zip(facts, distributed.sum(wrong).tolist()):
        if w:
            raise Unusable(f"{path} {['is missing', f'does not have the {size:,} bytes that were written', 'has changed since it was written'][w - 1]}")


def load(folder, model, optimizer=None):
    """Fill `model`, and `optimizer` if given, from a checkpoint; returns its state.json."""
    verify(folder)
    for part, tensors in [("model", distributed.parameters(model))] + ([("optimizer", moments(model, optimizer))] if optimizer else []):
        try:
            dcp.load(tensors, storage_reader=HuggingFaceStorageReader(f"{folder}/{part}"), no_dist=distributed.place()[1] == 1)
        except CheckpointException as e:
            raise Unusable(f"{folder}/{part} does not fit this model: {' '.join(str(e).split())[-200:]}") from e
    with open(f"{folder}/state.json", encoding="utf-8") as f:
        return json.load(f)


def newest(run, model, optimizer=None, step=None):
    """Load checkpoint `step`, or the newest one that is whole, naming each one passed over; returns its state, or None without any."""
    there = steps(run)
    if step is not None and step not in there:
        raise ValueError(f"{run} has no checkpoint of step {step}; it has {', '.join(map(str, there)) or 'none'}")
    for s in reversed(there) if step is None else [step]:
        try:
            return load(f"{run}/checkpoints/{s:07d}", model, optimizer)
        except Unusable as e:
            if step is not None:
                raise
            print(f"checkpoint {s} is damaged, using the one before it: {e}")
    if there:
        raise ValueError(f"none of the {len(there)} checkpoints of {run} can be read; move the folder away to start again")
