"""Save and load a run: safetensors, written and read by torch.distributed.checkpoint. Nothing is pickled.

    runs/NAME/checkpoints/0000200/   model/*.safetensors   optimizer/*.safetensors   state.json   done

`done` is written last and holds the size and SHA-256 of every other file: without it a folder is not a checkpoint, and a file
that does not match is refused by name. Read it from save() to resume().
"""
import json
import os
import shutil
import warnings

import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.api import CheckpointException

import config


warnings.filterwarnings("ignore", message="torch.distributed is disabled")      # "assuming the intent is to save in a single process": it is


class Unusable(ValueError):
    """A checkpoint that is incomplete or damaged."""


def moments(model, optimizer):
    """AdamW's state as a flat {"name.exp_avg": tensor}, made if the optimizer has not stepped yet; loading fills it in place."""
    flat = {}
    for name, p in model.named_parameters():
        state = optimizer.state[p]
        if not state:
            state.update(step=torch.zeros((), dtype=torch.float32), exp_avg=torch.zeros_like(p), exp_avg_sq=torch.zeros_like(p))
        flat |= {f"{name}.{key}": value for key, value in state.items()}
    return flat


def save(run, step, model, optimizer, state):
    """Write checkpoint `step` of folder `run`; `state` is a dict of plain facts. A failure leaves the others as they are."""
    folder = f"{run}/checkpoints/{step:07d}"
    shutil.rmtree(folder, ignore_errors=True)       # what an interrupted save left
    try:
        for part, tensors in ("model", dict(model.named_parameters())), ("optimizer", moments(model, optimizer)):
            dcp.save(tensors, storage_writer=HuggingFaceStorageWriter(f"{folder}/{part}", save_distributed=True), no_dist=True)
        config.write_json(f"{folder}/state.json", {"step": step, **state})
        files = [os.path.join(at, f) for at, _, files in os.walk(folder) for f in files]
        config.write_json(f"{folder}/done", {os.path.relpath(f, folder): [os.path.getsize(f), config.sha256(f)] for f in files})
    except (OSError, CheckpointException) as e:
        shutil.rmtree(folder, ignore_errors=True)
        raise OSError(f"cannot save {folder}: {' '.join(str(e).split())[-200:]}; free some space and run the same command again, the checkpoint before it is intact") from e
    return folder


def steps(run):
    """Steps of the complete checkpoints, oldest first."""
    folder = f"{run}/checkpoints"
    names = os.listdir(folder) if os.path.isdir(folder) else []
    return sorted(int(n) for n in names if n.isdigit() and os.path.exists(f"{folder}/{n}/done"))


def prune(run, keep, best):
    """Delete all but the newest `keep` checkpoints and `best`, a step or None. `done` goes first, so half a deletion is no checkpoint."""
    for step in steps(run)[:-keep]:
        if step != best:
            os.remove(f"{run}/checkpoints/{step:07d}/done")
            shutil.rmtree(f"{run}/checkpoints/{step:07d}")


def verify(folder):
    """Raise Unusable, naming the file, unless every file is as `done` says."""
    try:
        with open(f"{folder}/done", encoding="utf-8") as f:
            for name, (size, digest) in json.load(f).items():
                path = f"{folder}/{name}"
                if not os.path.exists(path) or os.path.getsize(path) != size:
                    raise Unusable(f"{path} is {'missing' if not os.path.exists(path) else f'{os.path.getsize(path):,} bytes where {size:,} were written'}")
                if config.sha256(path) != digest:
                    raise Unusable(f"{path} has changed since it was written")
    except (json.JSONDecodeError, OSError) as e:
        raise Unusable(f"{folder}/done cannot be read: {e}") from e


def load(folder, model, optimizer=None):
    """Fill `model`, and `optimizer` if given, from a checkpoint; returns its state.json."""
    verify(folder)
    for part, tensors in [("model", dict(model.named_parameters()))] + ([("optimizer", moments(model, optimizer))] if optimizer else []):
        try:
            dcp.load(tensors, storage_reader=HuggingFaceStorageReader(f"{folder}/{part}"), no_dist=True)
        except CheckpointException as e:            # a BaseException: it would pass every `except Exception`
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
