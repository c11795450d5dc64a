"""Save and load a run: safetensors, written and read by torch.distributed.checkpoint. Nothing is pickled.

    runs/NAME/config.json  log.jsonl  tokenizer/
    runs/NAME/checkpoints/0000200/   model/*.safetensors   optimizer/*.safetensors   state.json   done

Each process writes the rows it keeps and reads the rows it needs, so M processes can go on from what N
processes saved. `done` is written last, with the size and SHA-256 of every other file. A folder without it
is not a checkpoint, and a checkpoint with a file that differs is refused by name. RunFolder answers every
question about the folder of a run.
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
from model import Transformer

warnings.filterwarnings("ignore", message="torch.distributed is disabled")      # at one process that is meant


class Unusable(ValueError):
    """A checkpoint that is incomplete or damaged."""


# ---- write ----

def moments(model, optimizer):
    """AdamW's state as a flat {"name.exp_avg": tensor}, made if the optimizer has not stepped yet; loading
    fills it in place."""
    flat = {}
    for name, p in parallel.parameters(model).items():
        state = optimizer.state[p]
        if not state:
            state["step"] = torch.zeros((), device=p.device)
            state["exp_avg"] = torch.zeros_like(p)
            state["exp_avg_sq"] = torch.zeros_like(p)
        flat |= {f"{name}.{key}": value for key, value in state.items()}
    return flat


def read_back(folder, files):
    """[size, SHA-256 in hexadecimal] of each of `files`, zeros where one cannot be read. The processes
    share the reading."""
    rank, world = parallel.place()
    table = torch.zeros(len(files), 33, dtype=torch.int64)
    for i in range(rank, len(files), world):
        path = f"{folder}/{files[i]}"
        with contextlib.suppress(OSError):
            table[i] = torch.tensor([os.path.getsize(path), *bytes.fromhex(config.sha256(path))])
    return [[size, bytes(digest).hex()] for size, *digest in parallel.total(table).tolist()]


def seal(folder, state):
    """Make a folder whose tensors are written a checkpoint: state.json, then `done` with size and SHA-256
    of every file."""
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
    """Write checkpoint `step` of folder `run`; `state` is a dict of plain facts. All processes together.
    Where it fails on one process it is an OSError on all of them, and nothing is left."""
    import torch.distributed.checkpoint as dcp  # here and in load(): a second that only a run needs
    folder = f"{run}/checkpoints/{step:07d}"
    parallel.once(lambda: shutil.rmtree(folder, ignore_errors=True))    # what an interrupted save left
    try:
        parts = {"model": parallel.parameters(model), "optimizer": moments(model, optimizer)}
        for part, tensors in parts.items():
            writer = dcp.HuggingFaceStorageWriter(f"{folder}/{part}", save_distributed=True)
            dcp.save(tensors, storage_writer=writer, no_dist=parallel.place()[1] == 1)
        seal(folder, {"step": step, **state})
    except (OSError, dcp.api.CheckpointException) as e:     # a BaseException: no `except Exception` takes it
        parallel.once(lambda: shutil.rmtree(folder, ignore_errors=True))
        cause = next(iter(e.failures.values()))[0] if isinstance(e, dcp.api.CheckpointException) else e
        raise OSError(f"cannot save {folder}: {' '.join(str(cause).split())[:300]}") from e


def steps(run):
    """Steps of the complete checkpoints of folder `run`, oldest first."""
    folder = f"{run}/checkpoints"
    names = os.listdir(folder) if os.path.isdir(folder) else []
    return sorted(int(n) for n in names if n.isdigit() and os.path.exists(f"{folder}/{n}/done"))


def prune(run, keep, losses, newest):
    """Delete all but the newest `keep` checkpoints and the best by `losses`, {step: validation loss}. Those
    after `newest`, the one just written, are damaged ones: they stay. `done` goes first, so half a deletion
    is not a checkpoint."""
    there = [s for s in steps(run) if s <= newest]
    judged = [s for s in there if math.isfinite(losses.get(s, math.nan))]
    best = min(judged, key=losses.get, default=None)
    for step in there[:-keep]:
        if step != best:
            os.remove(f"{run}/checkpoints/{step:07d}/done")
    for name in os.listdir(f"{run}/checkpoints"):
        if name.isdigit() and int(name) < newest and not os.path.exists(f"{run}/checkpoints/{name}/done"):
            shutil.rmtree(f"{run}/checkpoints/{name}")         # deleted now, or half saved, or half deleted


# ---- read ----

def verify(folder):
    """Raise Unusable, naming the file, unless every file is as `done` says."""
    try:
        facts = parallel.together(lambda: config.read_json(f"{folder}/done"))
    except (ValueError, OSError) as e:
        raise Unusable(f"{folder}/done cannot be read: {e}") from e
    for (name, was), now in zip(facts.items(), read_back(folder, list(facts))):
        if now != was:
            what = f"has changed since it was written, {was[0]:,} bytes then, {now[0]:,} now"
            raise Unusable(f"{folder}/{name} {what if now[0] else 'is missing'}")


def load(folder, model, optimizer=None):
    """Fill `model`, and `optimizer` if given, from a checkpoint; returns its state.json."""
    import torch.distributed.checkpoint as dcp
    verify(folder)
    parts = {"model": parallel.parameters(model)}
    if optimizer:
        parts["optimizer"] = moments(model, optimizer)
    for part, tensors in parts.items():
        try:
            reader = dcp.HuggingFaceStorageReader(f"{folder}/{part}")
            dcp.load(tensors, storage_reader=reader, no_dist=parallel.place()[1] == 1)
        except dcp.api.CheckpointException as e:
            cause = " ".join(str(e).split())[-200:]
            raise Unusable(f"{folder}/{part} does not fit this model: {cause}") from e
    return config.read_json(f"{folder}/state.json")


def newest(run, model, optimizer=None, step=None, say=print):
    """Load checkpoint `step`, or the newest one that is whole, naming each one passed over. Returns its
    state, or None if there is none."""
    there = steps(run)
    if step is not None:
        if step not in there:
            raise ValueError(f"{run} has no checkpoint of step {step}; it has {there}")
        return load(f"{run}/checkpoints/{step:07d}", model, optimizer)
    for s in reversed(there):
        try:
            return load(f"{run}/checkpoints/{s:07d}", model, optimizer)
        except (Unusable, FileNotFoundError) as e:
            say(f"checkpoint {s} is damaged, using the one before it: {e}")
    if there:
        raise ValueError(f"none of the {len(there)} checkpoints of {run} can be read; move the folder away")
    return None


# ---- the folder of a run ----

def read_log(path, upto=math.inf):
    """The records of a log.jsonl up to step `upto`. The last line may be half written: it is passed over."""
    records = []
    if os.path.exists(path):
        with open(path, encoding="utf-8") as f:
            for n, line in enumerate(f, 1):
                if line.endswith("\n"):
                    with config.blame(f"{path}, line {n} is not a record, mend it or move the file away"):
                        record = json.loads(line)
                        if record["step"] <= upto:
                            records.append(record)
    return records


class Log:
    """runs/NAME/log.jsonl, one object per line. Lines after step `step` are cut off: they will be written
    again."""
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
            with open(self.path, "ab", buffering=0) as f:
                line = json.dumps(record).encode() + b"\n"
                if f.write(line) < len(line):
                    raise OSError("no space is left")
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
    # of a model that convert.py imported: where it comes from; None for a run of train.py
    imported: dict | None

    def settings(self):
        """The config.Config it was trained with; settings that were known under other names are left at
        their defaults."""
        if self.imported:
            raise ValueError(f"{self.path} is an imported model: it does not say how it was trained")
        sections = {"optim": config.Optim, "run": config.Run, "data": config.Data, "machine": config.Machine}
        built = {}
        for name, section in sections.items():
            facts = self.facts.get(name, {})
            built[name] = section(**{key: facts[key] for key in section.__dataclass_fields__ if key in facts})
        return config.Config(self.facts["size"], self.shape, **built, init_from=self.facts.get("init_from"))

    def records(self):
        """The records of log.jsonl."""
        return read_log(f"{self.path}/log.jsonl")

    def steps(self):
        """Steps of the complete checkpoints, oldest first."""
        return steps(self.path)

    def check_data(self, manifest, folder):
        """Stop if data folder `folder` with this manifest.json is not what the run was trained on, to the
        byte."""
        if hashes(manifest) != self.facts.get("data_sha256"):
            raise ValueError(f"{self.path} was trained on other data than {folder} holds now")

    def check_tokenizer(self, facts, folder):
        """Stop if the tokens of data folder `folder`, whose manifest has `facts` of its tokenizer, mean
        something else here."""
        if facts != self.facts["tokenizer"]:
            raise ValueError(f"{folder} was made with another tokenizer than that of {self.path}: its tokens "
                             f"mean something else; prepare it with --tokenizer {self.path}/tokenizer")

    def check_weights_for(self, cfg, rows):
        """Stop a run that cannot begin with these weights: another shape, another tokenizer."""
        for key, old, new in config.differences(config.plain(self.shape), config.plain(cfg.model)):
            if key not in ("context", "init_std"):      # these two are not the model's shape
                raise ValueError(f"init_from={self.path} holds a model with {key}={old}, model.{key}={new} "
                                 f"is another one; leave model.{key} away")
        self.check_tokenizer(rows.manifest["tokenizer"], rows.folder)

    def tokenizer(self):
        """The tokenizer of the run. An imported model begins and ends a text as its own files say; in our
        training rows a text follows the end of another."""
        import tokenizer  # here: to train, only its files are copied
        found = tokenizer.load(f"{self.path}/tokenizer", imported=bool(self.imported))
        if tokenizer.fingerprint(found) != self.facts["tokenizer"]["fingerprint"]:
            raise ValueError(f"{self.path}/tokenizer is not the one of its training; put that one back, or "
                             "import an imported model again")
        if self.imported:
            found.ends = set(self.imported["eos"])
        return found

    def load(self, device="cpu", dtype=torch.float32, step=None, say=print):
        """(model, state) of the newest whole checkpoint or that of `step`; state["step"] is the one that
        was loaded."""
        with torch.device("meta"):
            model = Transformer(self.shape).to(dtype)
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
        raise ValueError(f"{path} is not a run: it has no config.json of one; train.py makes a run, and "
                         "convert.py import makes one of a Hugging Face folder")
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
    """{setting: [old, new]} of what changed since the run in folder `path` was last started. A run keeps
    its recipe for life, so that config.json says what was trained: only settings of `machine` may change,
    and run.tokens may grow. Any other change is a ValueError."""
    if not os.path.exists(f"{path}/config.json"):
        return {}
    run = open_run(path)
    if run.imported:
        raise ValueError(f"{path} is an imported model; train.py goes on from it with init_from={path} "
                         "and another run.name")
    run.check_tokenizer(rows.manifest["tokenizer"], rows.folder)
    run.check_data(rows.manifest, rows.folder)
    before, found = run.settings(), {}
    for key, old, new in config.differences(config.plain(before), config.plain(cfg)):
        of_machine = key.startswith("machine.") or key == "run.name"        # the folder may be renamed
        longer = key == "run.tokens" and new > old
        same_schedule = key == "optim.decay" and old is None and new == before.run.tokens < cfg.run.tokens
        if not (of_machine or longer or same_schedule):
            way = "use another run.name" + (", or a larger run.tokens" if key == "run.tokens" else "")
            raise ValueError(f"{path} was trained with {key}={old}, now it is {new}: a run keeps its recipe; "
                             f"{way}")
        if "machine" in run.facts or not of_machine:    # older runs have no such section
            found[key] = [old, new]
    return found
