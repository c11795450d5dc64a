"""Settings: typed dataclasses, config files, overrides. Below them stands what every command uses.

    python train.py configs/llama.py size=7b run.name=try1 optim.lr=2e-4      (--optim.lr=2e-4 is the same)

A config file is short Python. Its function config() returns a Config for train.py, or a corpus.recipe.Corpus
for prepare.py.
"""
import argparse
import ast
import contextlib
import dataclasses
import datetime
import difflib
import hashlib
import importlib.util
import json
import os
import sys
import time
import types
import typing
from dataclasses import dataclass, field
from typing import Literal


@dataclass
class Model:
    """The decoder. The six switches are `position norm mlp bias embed_norm tied`."""
    layers: int
    dim: int
    heads: int
    position: Literal["alibi", "rope", "none"]
    norm: Literal["layer", "rms"]
    mlp: Literal["gelu", "swiglu"]
    bias: bool                          # on every Linear inside the blocks
    embed_norm: bool                    # LayerNorm after the embedding, on the input side only
    tied: bool                          # the output projection is the embedding matrix
    eps: float                          # of the norms
    init_std: float
    context: int = 2048                 # tokens in a training row
    vocab: int | None = None            # rows of the embedding; None: the tokenizer's entries, up to 128 more
    kv_heads: int | None = None         # grouped-query attention; None: one key head per query head
    mlp_dim: int | None = None          # width of the MLP; None: the papers', see model.mlp_width
    theta: float = 10_000.0             # RoPE base
    # of RoPE, for longer texts than the first training's: {"factor": 4}, or as model.llama3_scaling says
    scaling: dict[str, float] | None = None


@dataclass
class Optim:
    lr: float                           # peak
    min_lr: float
    warmup: int                         # tokens
    decay: int | None = None            # tokens at which the cosine reaches min_lr; None: the whole run
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-8
    weight_decay: float = 0.1           # on matrices, embeddings included; not on biases and norms
    clip: float = 1.0                   # global gradient norm


@dataclass
class Run:
    name: str                           # runs/NAME
    tokens: int                         # length of the run; the one setting of a run that may grow later
    batch: int                          # rows per step
    ramp: tuple[int, int, int] | None = None    # (first rows per step, increment, rows until it is `batch`)
    seed: int = 42                      # BLOOM's
    eval_every: int = 1000              # steps
    eval_rows: int | None = None        # rows of each source's validation split; None: all of it


@dataclass
class Data:
    name: str = "sample"                # data/NAME
    weights: dict[str, float] | None = None     # share of the rows by source; None: the manifest's


@dataclass
class Machine:
    """How this machine does the work. These settings may change at every start. They change the result by
    rounding at most; only `skip_steps` does more, it leaves out steps that spoil a run."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    micro: int = 1                      # rows per forward pass
    # what is computed again in the backward pass instead of kept: all of a block, or what is cheap in it
    recompute: Literal[False, "cheap", True] = False
    compile: Literal["auto", True, False] = "auto"      # torch.compile each block; auto: if the run is long
    stream: Literal["float32", "bfloat16"] = "float32"  # the sum that every block adds to
    deterministic: bool = True          # a GPU computes the same bits every time; False: PyTorch's choice
    shard: int | None = None            # processes that share one copy of the state; None: all, on a CPU 1
    timeout: int = 600                  # seconds without progress until the processes end
    prepare: str | None = None          # what makes data/NAME: a data config and settings for prepare.py
    log_every: int = 10                 # steps
    save_every: int = 100               # steps; BLOOM's last choice, about 3 hours
    keep: int = 2                       # newest checkpoints to keep; the best one is always kept
    bad_steps: int = 3                  # so many not finite steps in a row stop the run
    skip_steps: str | None = None       # steps to leave out, the last number excluded: "14:17,200:210"


@dataclass
class Config:
    size: str
    model: Model
    optim: Optim
    run: Run
    data: Data = field(default_factory=Data)
    machine: Machine = field(default_factory=Machine)
    init_from: str | None = None        # runs/NAME whose shape, weights and tokenizer the run begins with


def load(path, overrides=()):
    """The settings of config file `path` with `overrides`, a list of "section.field=value"."""
    if not os.path.isfile(path):
        raise ValueError(f"no config file {path}; there are configs/bloom.py and configs/llama.py")
    spec = importlib.util.spec_from_file_location("config_file", path)
    module = importlib.util.module_from_spec(spec)
    with blame(f"{path} is not a config file"):
        spec.loader.exec_module(module)
        make, sizes = module.config, getattr(module, "SIZES", {})
    pairs = [split_override(text) for text in overrides]
    size = dict(pairs).get("size")
    if size and size not in sizes:
        raise ValueError(f"unknown size {size!r} in {path}; it has {', '.join(sizes) or 'none'}")
    cfg = make(size) if size else make()
    for key, value in pairs:
        override(cfg, key, value)
    return cfg


def split_override(text):
    """split_override("--optim.lr=2e-4") -> ("optim.lr", "2e-4")"""
    key, equals, value = text.removeprefix("--").partition("=")
    if not equals:
        raise ValueError(f"cannot read {text!r}: settings are written section.field=value")
    return key, value


def take_own(cfg, settings):
    """Set those of `settings`, a list of "field=value", that dataclass `cfg` has; returns the others."""
    others = []
    for text in settings:
        key, value = split_override(text)
        if key in vars(cfg):
            override(cfg, key, value)
        else:
            others.append(text)
    return others


def override(cfg, key, text):
    """Set one dotted `key` of `cfg` from `text`, checked against the field's type."""
    known = list(keys(cfg))
    *sections, name = key.split(".")
    if key not in known:
        near = [k for k in known if k.split(".")[-1] == name]           # it lives in another section
        near += difflib.get_close_matches(key, known, 1, 0)
        raise ValueError(f"unknown setting {key!r}, did you mean {near[0]!r}?")
    for section in sections:
        cfg = getattr(cfg, section)
    setattr(cfg, name, parse(text, typing.get_type_hints(type(cfg))[name], key))


def keys(cfg, prefix=""):
    """Every dotted name of a setting, in order."""
    for name, value in vars(cfg).items():
        if dataclasses.is_dataclass(value):
            yield from keys(value, f"{prefix}{name}.")
        else:
            yield prefix + name


def fit(value, kind):
    """`value` as the annotated type `kind`, or a TypeError.

    fit(1e9, int) -> 1000000000   fit(None, str | None) -> None   fit("gate", Literal["gated"]) -> TypeError
    """
    origin, inside = typing.get_origin(kind) or kind, typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        for k in inside:
            with contextlib.suppress(TypeError):
                return fit(value, k)
    elif origin is Literal and any(type(each) is type(value) and each == value for each in inside):
        return value
    elif origin is list and isinstance(value, (list, tuple)):
        return [fit(v, inside[0]) for v in value]
    elif origin is tuple and isinstance(value, (list, tuple)) and len(value) == len(inside):
        return tuple(fit(v, k) for v, k in zip(value, inside))
    elif origin is dict and isinstance(value, dict):
        return {fit(k, inside[0]): fit(v, inside[1]) for k, v in value.items()}
    elif origin is float and type(value) in (int, float):
        return float(value)
    elif origin is int and type(value) in (int, float) and value == value // 1:
        return int(value)
    elif type(value) is kind:               # str, bool, None, a dataclass; True is not an int here
        return value
    raise TypeError(f"{value!r} is not of type {in_words(kind)}")


def in_words(kind):
    """in_words(int | None) -> "int | None"; in_words(Literal["a", "b"]) -> "one of a, b" """
    if typing.get_origin(kind) is Literal:
        return f"one of {', '.join(map(str, typing.get_args(kind)))}"
    return kind.__name__ if isinstance(kind, type) else str(kind)


def parse(text, kind, key):
    """`text`, given for `key`, as a value of type `kind`. parse("1e9", int, "run.tokens") -> 1000000000"""
    value = text
    with contextlib.suppress(ValueError, SyntaxError):
        value = ast.literal_eval({"true": "True", "false": "False", "none": "None"}.get(text.lower(), text))
    for candidate in (value, text):         # "123" is a fine name of a run
        with contextlib.suppress(TypeError):
            return fit(candidate, kind)
    raise ValueError(f"{key}={text}: it must be {in_words(kind)}")


def check_types(cfg, name):
    """Stop a dataclass, called `name`, that holds a value of another type than it says."""
    for key, kind in typing.get_type_hints(type(cfg)).items():
        try:
            fit(getattr(cfg, key), kind)
        except TypeError:
            raise ValueError(f"{name}: {key}={getattr(cfg, key)!r} must be {in_words(kind)}") from None


MAY_BE_ZERO = ("seed", "min_lr", "warmup", "weight_decay")


def check_above_0(section, part):
    for key, value in vars(part).items():
        if type(value) in (int, float) and key not in MAY_BE_ZERO and not value > 0:
            raise ValueError(f"{section}.{key}={value}: it must be above 0")


def check_model(m):
    """Stop a Model that cannot be built."""
    check_above_0("model", m)
    if m.scaling and set(m.scaling) not in ({"factor"}, {"factor", "low", "high", "original"}):
        raise ValueError(f"model.scaling={m.scaling}: it has a factor, or factor, low, high and original")
    pairs = 2 if m.position == "rope" else 1            # RoPE turns pairs
    if m.dim % (m.heads * pairs):
        near = max(1, m.dim // (m.heads * pairs)) * m.heads * pairs
        raise ValueError(f"model.dim={m.dim} must be a multiple of {m.heads * pairs} for {m.heads} heads; "
                         f"use {near}")
    if m.heads % (m.kv_heads or 1):
        raise ValueError(f"model.heads={m.heads} is not a multiple of model.kv_heads={m.kv_heads}")


def check_config(cfg):
    """Stop a Config that cannot run; returns it."""
    if not isinstance(cfg, Config):
        raise ValueError(f"{cfg.name} is a data config, for prepare.py; use configs/bloom.py")
    o = cfg.optim
    check_model(cfg.model)
    for section in ("optim", "run", "machine"):
        check_above_0(section, getattr(cfg, section))
    if o.min_lr > o.lr:
        raise ValueError(f"optim.min_lr={o.min_lr} is above optim.lr={o.lr}; set optim.min_lr={o.lr / 10:g}")
    steps_left_out(cfg.machine.skip_steps)
    for name in (cfg.run.name, cfg.data.name):
        if not name or os.path.basename(name) != name or name.startswith("."):
            raise ValueError(f"the name {name!r} must be a plain folder name, for runs/NAME or data/NAME")
    return cfg


def steps_left_out(text):
    """machine.skip_steps as ranges. steps_left_out("14:17,200:210") -> [range(14, 17), range(200, 210)]"""
    with blame(f"machine.skip_steps={text}: it must be first:end, the end excluded, as in 14:17,200:210"):
        pairs = [part.split(":") for part in text.split(",")] if text else []
        ranges = [range(int(first), int(end)) for first, end in pairs]
        if not all(ranges):
            raise ValueError("a range is empty")
        return ranges


def differences(old, new, prefix=""):
    """Yield (key, old, new) for each setting that differs, from two nested dicts."""
    for key in {**old, **new}:
        a, b = old.get(key), new.get(key)
        if isinstance(a, dict) and isinstance(b, dict) and key != "weights":
            yield from differences(a, b, f"{prefix}{key}.")
        elif a != b:
            yield prefix + key, a, b


def plain(cfg):
    """A dataclass as it is after a trip through JSON: tuples become lists."""
    return json.loads(json.dumps(dataclasses.asdict(cfg)))


# ---- what every command uses: files, errors, options, progress ----

def write_json(path, value):
    """Write whole or not at all: to a new file, then renamed over the old one."""
    with open(f"{path}.new", "w", encoding="utf-8") as f:
        json.dump(value, f, indent=1, ensure_ascii=False)
    os.replace(f"{path}.new", path)


def read_json(path):
    with open(path, encoding="utf-8") as f, blame(f"{path} is not JSON"):
        return json.load(f)


def sha256(path):
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


@contextlib.contextmanager
def blame(where):
    """Say where an error comes from: `with blame(f"{path}, line {n}"):`"""
    try:
        yield
    except (ValueError, LookupError, TypeError, AttributeError, NameError, ImportError, SyntaxError,
            RecursionError) as e:
        what = f"{e} is missing" if isinstance(e, KeyError) else e
        raise ValueError(f"{where}: {what}") from e


class Parser(argparse.ArgumentParser):
    """Options of a command. --help prints `doc`; a wrong option is one line, as any error."""
    def __init__(self, doc, **more):
        super().__init__(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter, **more)

    def error(self, message):
        raise ValueError(f"{message}; --help lists the options")


def number(least, most, kind=int):
    """An argparse type: a number from `least` to `most`. "1e6" is a whole number too."""
    def read(text):
        with contextlib.suppress(ValueError, OverflowError):
            value = float(text)
            if least <= value <= most and kind(value) == value:
                return kind(value)
        whole = "whole " if kind is int else ""
        raise argparse.ArgumentTypeError(f"{text} must be a {whole}number from {least:g} to {most:g}")
    return read


def duration(seconds):
    """duration(90) -> "0:01:30" """
    return str(datetime.timedelta(seconds=round(seconds)))


def progress(what, total, every=5):
    """A function to call with how many more are done. Every few seconds it prints the time left."""
    began = said = time.monotonic()
    done = 0

    def tick(n):
        nonlocal done, said
        done += n
        if time.monotonic() - said > every:
            said = time.monotonic()
            left = duration((said - began) / done * max(0, total - done)) if done else "?"
            print(f"{what}: {done:,} of {total:,}   {left} left", file=sys.stderr, flush=True)
    return tick


parent = None       # process id of who started this command, as long as that one lived at the beginning


def begin_command():
    """Before a command imports PyTorch, which takes seconds: Ctrl-C is one line, not a traceback (the shell
    gets 130), and the parent is noted before it can be gone."""
    global parent

    def hook(kind, error, trace):
        if kind is KeyboardInterrupt:
            sys.stderr.write("stopped\n")
        else:
            sys.__excepthook__(kind, error, trace)
    sys.excepthook = hook
    parent = parent or os.getppid()


def command(main):
    """Run `main()`; what a user can cause ends in one line and exit code 1, without a traceback."""
    begin_command()
    try:
        main()
    except BrokenPipeError:             # whoever read our output has gone: head, say
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except (ValueError, OSError) as e:
        rank = f"rank {os.environ['RANK']}: " if "RANK" in os.environ else ""
        line = " ".join(str(e).split())
        sys.stderr.write(f"error: {rank}{line}\n")      # one write: lines of several processes do not mix
        sys.exit(1)
