"""Save and load a run: safetensors, written and read by torch.distributed.checkpoint. Nothing is pickled.

    runs/NAME/config.json  log.jsonl  tokenizer/
    runs/NAME/checkpoints/0000200/   model/*.safetensors   optimizer/*.safetensors   state.json   done

Each process reads the rows it needs. It writes the rows it keeps, or a part of them if others keep them too.
So M processes can go on from what N processes saved. `done` is written last, with the size and SHA-256 of
every other file: a folder without it is no checkpoint, and a file that differs is refused by name. RunFolder
says what the folder of a run holds.
"""
import contextlib
import dataclasses
import json
import math
import os
import shutil
import warnings

import torch

import config
import parallel
from fast import forms
from model import Transformer

warnings.filterwarnings("ignore", message="torch.distributed is disabled")      # at one process that is meant


class Unusable(ValueError):
    """A checkpoint that is incomplete or damaged."""


# ---- write ----

def moments(model, optimizer):
    """AdamW's state as a flat {"name.exp_avg": tensor}, made if missing: loading fills it in place."""
    flat = {}
    for name, p in parallel.parameters(model).items():
        state = optimizer.state[p]
        if not state:
            state["step"] = torch.zeros((), device=p.device)
            state["exp_avg"] = torch.zeros_like(p)
            state["exp_avg_sq"] = torch.zeros_like(p)
        flat |= {f"{name}.{key}": value for key, value in state.items()}
    return flat


def parts_of(model, optimizer):
    """{folder in a checkpoint: its tensors by name}"""
    parts = {"model": parallel.parameters(model)}
    if optimizer:
        parts["optimizer"] = moments(model, optimizer)
    return parts


def cause_of(e):
    """The first failure in a CheckpointException (PyTorch's, a BaseException), or `e` itself."""
    failures = getattr(e, "failures", {0: (e,)})
    return next(iter(failures.values()))[0]


def read_back(folder, files):
    """[size, SHA-256] of each of `files`, zeros where one cannot be read. The processes share the reading."""
    rank, world = parallel.place()
    table = torch.zeros(len(files), 33, dtype=torch.int64)
    for i in range(rank, len(files), world):
        path = f"{folder}/{files[i]}"
        with contextlib.suppress(OSError):
            table[i] = torch.tensor([os.path.getsize(path), *bytes.fromhex(config.sha256(path))])
    return [[size, bytes(digest).hex()] for size, *digest in parallel.total(table).tolist()]


def seal(folder, state):
    """Make a folder whose tensors are written a checkpoint: state.json, then `done`."""
    parallel.once(lambda: config.write_json(f"{folder}/state.json", state))
    files = []
    for at, _, names in os.walk(folder):
        files += [os.path.relpath(os.path.join(at, name), folder) for name in names]
    files.sort()
    same_everywhere = parallel.total(len(files)) == len(files) * parallel.place()[1]
    facts = read_back(folder, files) if same_everywhere else []
    if not facts or not all(size for size, _ in facts):
        raise OSError("not every process can read back every file: runs/ must be on a file system they share")
    parallel.once(lambda: config.write_json(f"{folder}/done", dict(zip(files, facts))))


def save(run, step, model, optimizer, state):
    """Write checkpoint `step` of folder `run`; `state` is a dict of plain facts. What fails on one process is
    an OSError on all of them, and nothing is left."""
    import torch.distributed.checkpoint as dcp  # here and in load(): a second that only a run needs
    folder = f"{run}/checkpoints/{step:07d}"
    parallel.once(lambda: shutil.rmtree(folder, ignore_errors=True))    # what an interrupted save left
    try:
        for part, tensors in parts_of(model, optimizer).items():
            writer = dcp.HuggingFaceStorageWriter(f"{folder}/{part}", save_distributed=True)
            dcp.save(tensors, storage_writer=writer, no_dist=parallel.place()[1] == 1)
        seal(folder, {"step": step, **state})
    except (OSError, dcp.api.CheckpointException) as e:
        parallel.once(lambda: shutil.rmtree(folder, ignore_errors=True))
        raise OSError(f"cannot save {folder}: {cause_of(e)}") from e


def steps(run):
    """Steps of the complete checkpoints of folder `run`, oldest first."""
    folder = f"{run}/checkpoints"
    names = os.listdir(folder) if os.path.isdir(folder) else []
    return sorted(int(n) for n in names if n.isdigit() and os.path.exists(f"{folder}/{n}/done"))


def prune(run, keep, losses, newest):
    """Delete all but the newest `keep` checkpoints and the best by `losses`, {step: validation loss}. Those
    after `newest`, the one just written, are damaged ones: they stay."""
    there = [s for s in steps(run) if s <= newest]
    judged = [s for s in there if math.isfinite(losses.get(s, math.nan))]
    kept = {*there[-keep:], min(judged, key=losses.get, default=None)}
    for name in os.listdir(f"{run}/checkpoints"):
        folder = f"{run}/checkpoints/{name}"
        if name.isdigit() and int(name) < newest and int(name) not in kept:
            with contextlib.suppress(FileNotFoundError):    # it was half saved or half deleted
                os.remove(f"{folder}/done")                 # first: what is half deleted is no checkpoint
            shutil.rmtree(folder)


# ---- read ----

def verify(folder):
    """Raise Unusable, naming the file, unless every file is as `done` says."""
    try:
        facts = parallel.together(lambda: config.read_json(f"{folder}/done"))
    except (ValueError, OSError) as e:
        raise Unusable(f"{folder}/done cannot be read: {e}") from e
    for (name, was), now in zip(facts.items(), read_back(folder, list(facts))):
        if now != was:
            raise Unusable(f"{folder}/{name} is missing, or has changed since it was written")


def load(folder, model, optimizer=None):
    """Fill `model`, and `optimizer` if given, from a checkpoint; returns its state.json."""
    import torch.distributed.checkpoint as dcp
    verify(folder)
    for part, tensors in parts_of(model, optimizer).items():
        try:
            reader = dcp.HuggingFaceStorageReader(f"{folder}/{part}")
            dcp.load(tensors, storage_reader=reader, no_dist=parallel.place()[1] == 1)
        except dcp.api.CheckpointException as e:
            raise Unusable(f"{folder}/{part} does not fit this model: {cause_of(e)}") from e
    return config.read_json(f"{folder}/state.json")


def newest(run, model, optimizer=None, step=None, say=print):
    """Load checkpoint `step`, or the newest whole one, naming each one passed over; returns its state or
    None."""
    there = steps(run)
    if step is not None:
        if step not in there:
            raise ValueError(f"{run} has no checkpoint of step {step}; it has {there}")
        return load(f"{run}/checkpoints/{step:07d}", model, optimizer)
    for s in reversed(there):
        try:
            return load(f"{run}/checkpoints/{s:07d}", model, optimizer)
        except Unusable as e:
            say(f"checkpoint {s} is damaged, using the one before it: {e}")
    if there:
        raise ValueError(f"none of the {len(there)} checkpoints of {run} can be read; move the folder away")
    return None


# ---- the folder of a run ----

def read_log(path, upto=math.inf):
    """The records of a log.jsonl up to step `upto`. A last line that is half written is passed over."""
    if not os.path.exists(path):
        return []
    with open(path, encoding="utf-8") as f:
        lines = [line for line in f if line.endswith("\n")]
    records = []
    for n, line in enumerate(lines, 1):
        with config.blame(f"{path}, line {n} is not a record, mend it or move the file away"):
            record = json.loads(line)
            if record["step"] <= upto:
                records.append(record)
    return records


class Log:
    """runs/NAME/log.jsonl, one object per line. Lines after step `step` are cut off."""
    def __init__(self, run, step):
        self.path = f"{run}/log.jsonl"
        self.records = read_log(self.path, step)
        parallel.once(self.cut)

    def cut(self):
        with open(f"{self.path}.new", "w", encoding="utf-8") as f:
            f.writelines(json.dumps(record) + "\n" for record in self.records)
        os.replace(f"{self.path}.new", self.path)

    def write(self, **record):
        """Append a line, on process 0. On a full disk it is lost: a log is no reason to stop."""
        self.records.append(record)
        if parallel.place()[0]:
            return
        end = os.path.getsize(self.path)
        try:
            with open(self.path, "a", encoding="utf-8") as f:
                f.write(json.dumps(record) + "\n")
        except OSError as e:
            os.truncate(self.path, end)             # not half a line
            print(f"warning: cannot write {self.path}: {e}; a line is missing there")

    def losses(self):
        """{step: validation loss}"""
        return {r["step"]: r["val"]["loss"] for r in self.records if "val" in r}


@dataclasses.dataclass
class RunFolder:
    """What the folder of a run says. open_run() makes one."""
    path: str
    facts: dict                 # its config.json
    shape: config.Model
    imported: dict | None       # where a model comes from that convert.py imported; None: train.py made it

    def settings(self):
        """The config.Config it was trained with, unknown names left out."""
        if self.imported:
            raise ValueError(f"{self.path} is an imported model: it does not say how it was trained; "
                             f"init_from={self.path} and another run.name go on from it")
        sections = {"optim": config.Optim, "run": config.Run, "data": config.Data, "machine": config.Machine}
        built = {}
        for name, section in sections.items():
            facts = self.facts.get(name, {})
            built[name] = section(**{key: facts[key] for key in section.__dataclass_fields__ if key in facts})
        return config.Config(self.facts["size"], self.shape, **built, init_from=self.facts.get("init_from"))

    def records(self):
        return read_log(f"{self.path}/log.jsonl")

    def steps(self):
        return steps(self.path)

    def check_data(self, manifest, folder):
        """Stop if data folder `folder` is not, to the byte, what the run was trained on."""
        if hashes(manifest) != self.facts.get("data_sha256"):
            raise ValueError(f"{self.path} was trained on other data than {folder} holds now")

    def check_tokenizer(self, facts, folder):
        """Stop if data folder `folder`, by the `facts` of its tokenizer, has other tokens."""
        if facts != self.facts["tokenizer"]:
            raise ValueError(f"{folder} was made with another tokenizer than that of {self.path}; prepare it "
                             f"with --tokenizer {self.path}/tokenizer")

    def check_weights_for(self, cfg, rows):
        """Stop a run that cannot begin with these weights: another shape, another tokenizer."""
        for key, old, new in config.differences(config.plain(self.shape), config.plain(cfg.model)):
            if key not in ("context", "init_std"):      # these two are not the model's shape
                raise ValueError(f"init_from={self.path} holds a model with {key}={old}, not {new}; leave "
                                 f"model.{key} away")
        self.check_tokenizer(rows.manifest["tokenizer"], rows.folder)

    def tokenizer(self):
        """The tokenizer of the run. An imported model begins and ends a text as its own files say."""
        import tokenizer  # here: to train, only its files are copied
        found = tokenizer.load(f"{self.path}/tokenizer", imported=bool(self.imported))
        if tokenizer.fingerprint(found) != self.facts["tokenizer"]["fingerprint"]:
            raise ValueError(f"{self.path}/tokenizer is not the one of its training; put that one back")
        if self.imported:
            found.ends = set(self.imported["eos"])
        return found

    def load(self, device="cpu", dtype=torch.float32, step=None, say=print):
        """(model, state) of the newest whole checkpoint, or that of `step`."""
        with torch.device("meta"):
            model = Transformer(self.shape, **forms.of_writing(self.shape, device, dtype)).to(dtype)
        model.to_empty(device=device)
        state = newest(self.path, model, step=step, say=say)
        if state is None:
            raise ValueError(f"{self.path} has no checkpoint yet")
        return model.eval(), state


def open_run(path):
    """The RunFolder of `path`; a ValueError if it is none."""
    path = path.rstrip("/")
    facts = config.read_json(f"{path}/config.json") if os.path.exists(f"{path}/config.json") else {}
    if not isinstance(facts, dict) or "model" not in facts:
        raise ValueError(f"{path} is not a run: train.py makes one, and convert.py import makes one of a "
                         "Hugging Face folder")
    with config.blame(f"{path}/config.json"):
        return RunFolder(path, facts, config.Model(**facts["model"]), facts.get("imported"))


def hashes(manifest):
    """{source: SHA-256 of its training tokens} of a data folder's manifest.json."""
    return {name: source["train"]["sha256"] for name, source in manifest["sources"].items()}


def write_folder(path, cfg, rows):
    """config.json and the tokenizer of a run in folder `path`."""
    os.makedirs(path, exist_ok=True)
    if not os.path.exists(f"{path}/tokenizer"):
        shutil.copytree(f"{rows.folder}/tokenizer", f"{path}/tokenizer.new", dirs_exist_ok=True)
        os.rename(f"{path}/tokenizer.new", f"{path}/tokenizer")
    facts = {"torch": torch.__version__, "tokenizer": rows.manifest["tokenizer"],
             "data_sha256": hashes(rows.manifest)}
    config.write_json(f"{path}/config.json", config.plain(cfg) | facts)


def check_same_recipe(path, cfg, rows):
    """{setting: [old, new]} of what changed since the run in folder `path` was last started. Only settings of
    `machine` may change, and run.tokens may grow: config.json says what was trained."""
    if not os.path.exists(f"{path}/config.json"):
        return {}
    run = open_run(path)
    before, found = run.settings(), {}
    run.check_tokenizer(rows.manifest["tokenizer"], rows.folder)
    run.check_data(rows.manifest, rows.folder)
    for key, old, new in config.differences(config.plain(before), config.plain(cfg)):
        of_machine = key.startswith("machine.") or key == "run.name"        # the folder may be renamed
        longer = key == "run.tokens" and new > old
        same_schedule = key == "optim.decay" and old is None and new == before.run.tokens < cfg.run.tokens
        if not (of_machine or longer or same_schedule):
            raise ValueError(f"{path} was trained with {key}={old}, now it is {new}: a run keeps its recipe, "
                             "only run.tokens may grow; use another run.name")
        found[key] = [old, new]
    return found
