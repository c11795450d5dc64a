"""Settings: typed dataclasses, config files, overrides. Nothing here knows what the settings are used for.

    python train.py configs/llama.py size=7b run.name=try1 optim.lr=2e-4      (--optim.lr=2e-4 is the same)

A config file is short Python with a function `config(size)` that returns a Config (configs/bloom.py), or
`config()` that returns a Corpus (configs/data/sample.py). One wrong word stops the program before it starts.
"""
import ast
import dataclasses
import difflib
import hashlib
import importlib.util
import json
import os
import sys
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
    vocab: int | None = None            # rows of the embedding; None: the tokenizer's entries, rounded up to 128
    kv_heads: int | None = None         # grouped-query attention; None: one key head per query head
    mlp_dim: int | None = None          # width of the MLP; None: the papers', 4C or 8C/3 rounded up to 256
    theta: float = 10_000.0             # RoPE base


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
    tokens: int                         # length of the run
    batch: int                          # rows per step
    micro: int = 1                      # rows per forward pass: memory against speed, never the result
    ramp: tuple[int, int, int] | None = None    # batch size grows: (first rows, increment, rows until it is full)
    seed: int = 42                      # BLOOM's
    log_every: int = 10                 # steps
    eval_every: int = 1000              # steps
    eval_rows: int | None = None        # rows of each source's validation split; None: all of it
    save_every: int = 100               # steps; BLOOM's last choice, about 3 hours
    keep: int = 2                       # newest checkpoints to keep; the best one is always kept
    background: bool = False            # save while training goes on, from a copy in host memory
    bad_steps: int = 3                  # steps in a row whose loss or gradient is not finite after which the run stops; each is left out
    skip_steps: str | None = None       # steps to leave out, as in "14:17" or "14:17,200:210", the last number excluded
    timeout: int = 600                  # seconds without progress, of several processes, after which they end and say who holds them up
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    shard: int | None = None            # processes that share one copy of weights, gradients and moments; None: all, 1: each has its own
    recompute: bool = False             # keep only the input of each block for the backward pass: less memory, a third more work
    compile: bool = False               # torch.compile each block


@dataclass
class Data:
    name: str = "sample"                # data/NAME
    prepare: str | None = None          # what to give prepare.py when data/NAME is not there: a data config and its settings
    weights: dict[str, float] | None = None     # share of the rows by source; None: the manifest's


@dataclass
class Config:
    size: str
    model: Model
    optim: Optim
    run: Run
    data: Data = field(default_factory=Data)
    init_from: str | None = None        # runs/NAME whose model, weights and tokenizer the run begins with, an imported one say


@dataclass
class Tokenizer:
    kind: Literal["bpe", "sentencepiece"] = "bpe"
    vocab: int = 4096                   # entries, specials and bytes included
    path: str | None = None             # use this trained tokenizer instead of training one
    bytes: int = 30_000_000             # of text to train on, at most
    alpha: float = 1.0                  # a language's share of that text is its share of the corpus to this power, rescaled (BLOOM: 0.3)


@dataclass
class Source:
    """One source of text, kept apart on disk with its licence until rows are mixed (BLOOM, section 3.1)."""
    name: str
    path: str | list[str] | None = None # files, folders, globs; None: what `url` names
    reader: str = "auto"                # a name in corpus/sources.py READERS; auto: by file name
    lang: str | None = None             # BCP 47, or a programming language; None: from the record or the file
    licence: str | None = None
    weight: float | None = None         # share of the training rows; None: its share of the tokens
    field: str = "text"                 # of a .jsonl record
    split: int = 2048                   # characters after which a plain text is cut into documents at a blank line
    url: str | list[str] | None = None  # downloaded to data/raw/NAME
    sha256: str | list[str] | None = None       # of each url
    origin: str | None = None           # where it comes from, for a reader of the data card
    custodian: str | None = None        # who keeps it and answers for it
    permission: Literal["public", "gated", "asked"] = "public"      # gated: needs accept=NAME; asked: its custodian was asked, and agreed
    licences: list[str] | None = None   # documents under any other licence are dropped; None: all are kept
    clean: str | list[str] = ()         # a recipe or rules of corpus/clean.py, in their order
    near: Literal["minhash", "overlap"] | None = None   # near duplicates: alike among all sources that say so, or 90% inside one of the source (LLaMA's books)


@dataclass
class Corpus:
    """What prepare.py turns into data/NAME."""
    name: str
    sources: list[Source]
    tokenizer: Tokenizer = field(default_factory=Tokenizer)
    val_share: float = 0.05             # of the documents, by hash of the id (ROOTS: the last 5% of each dataset)
    only: str | None = None             # of these sources: a,b; None: all
    alike: float = 0.7                  # share of shingles from which two documents are near duplicates
    accept: str | None = None           # gated sources whose terms you have accepted: a,b
    remove: str | None = None           # file of documents to leave out: a line is SOURCE or SOURCE/ID
    rules: str | None = None            # folder of thresholds and word lists to use instead of corpus/rules
    models: dict[str, str] | None = None        # {'language': 'lid.176.bin', 'perplexity': 'kenlm/', 'quality': 'quality.npz'} instead of our own


def load(path, overrides=()):
    """The resolved settings of config file `path` with `overrides`, a list of "section.field=value"."""
    if not os.path.isfile(path):
        raise ValueError(f"no config file {path}; the ones that come with the project are configs/bloom.py and configs/llama.py")
    spec = importlib.util.spec_from_file_location("config_file", path)
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        make, sizes = module.config, getattr(module, "SIZES", None)
    except (SyntaxError, AttributeError, ImportError, NameError, TypeError) as e:
        raise ValueError(f"{path} is not a config file: {type(e).__name__}: {e}; it needs a function config()") from e
    overrides = [o.removeprefix("--").partition("=") for o in overrides]
    sized = {key: value for key, _, value in overrides if key == "size"} if sizes else {}
    if sized and sized["size"] not in sizes:
        raise ValueError(f"unknown size {sized['size']!r} in {path}; it has {', '.join(sizes)}")
    try:
        cfg = make(**sized)
    except TypeError as e:
        raise ValueError(f"{path}: {e}") from e
    for key, equals, value in sorted(overrides, key=lambda o: o[0] != "init_from"):
        if not equals:
            raise ValueError(f"cannot read {key!r}: settings are written section.field=value")
        override(cfg, key, value)
        if key == "init_from" and cfg.init_from:
            cfg.init_from, own = cfg.init_from.rstrip("/"), dict((k, v) for k, _, v in overrides).get("run.name", cfg.run.name)
            # a run that has begun has the shape itself: the other may be gone by then
            there = cfg.init_from if os.path.exists(cfg.init_from) or not os.path.exists(f"runs/{own}/config.json") else f"runs/{own}"
            cfg.model = Model(**read_run(there)["model"])               # what follows may change the context, say
    return cfg


def override(cfg, key, text):
    """Set one dotted `key` of `cfg` from `text`, checked against the field's type."""
    *sections, name = key.split(".")
    at = cfg
    for section in sections:
        at = getattr(at, section, None)
    if not dataclasses.is_dataclass(at) or name not in (hints := typing.get_type_hints(type(at))) \
            or dataclasses.is_dataclass(hints[name]):
        known = list(keys(cfg))
        near = difflib.get_close_matches(key, known, 1, 0.5) or [k for k in known if k.split(".")[-1] == name][:1]
        raise ValueError(f"unknown setting {key!r}" + (f", did you mean {near[0]!r}?" if near else f"; known: {', '.join(known)}"))
    setattr(at, name, parse(text, hints[name], key))


def fits(value, kind):
    """Whether a value is of an annotated type. fits(None, str | None) -> True; fits("gate", Literal["gated"]) -> False"""
    if typing.get_origin(kind) is Literal:
        return value in typing.get_args(kind)
    if typing.get_origin(kind) in (types.UnionType, typing.Union):
        return any(fits(value, k) for k in typing.get_args(kind))
    if typing.get_origin(kind) is list:
        return isinstance(value, (list, tuple)) and all(fits(v, typing.get_args(kind)[0]) for v in value)
    origin = typing.get_origin(kind) or kind
    return isinstance(value, (int, float) if origin is float else origin) and (origin is bool or not isinstance(value, bool))


def check_types(cfg, name):
    """Stop a dataclass written in a config file that holds a value of another type than it says."""
    for field_, kind in typing.get_type_hints(type(cfg)).items():
        if not fits(value := getattr(cfg, field_), kind):
            choices = [c for k in [kind, *typing.get_args(kind)] if typing.get_origin(k) is Literal for c in typing.get_args(k)]
            raise ValueError(f"{name}: {field_}={value!r} must be {'one of ' + ', '.join(choices) if choices else str(kind).replace('NoneType', 'None')}")


def keys(cfg, prefix=""):
    for f in dataclasses.fields(cfg):
        value = getattr(cfg, f.name)
        if dataclasses.is_dataclass(value):
            yield from keys(value, prefix + f.name + ".")
        else:
            yield prefix + f.name


def parse(text, kind, key):
    """`text` as a value of type `kind`. parse("1e9", int, ...) -> 1000000000"""
    kinds = typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,)
    if typing.get_origin(kind) is Literal:
        if text in typing.get_args(kind):
            return text
        raise ValueError(f"{key}={text}: it must be one of {', '.join(typing.get_args(kind))}")
    try:
        value = ast.literal_eval({"true": "True", "false": "False", "none": "None"}.get(text.lower(), text))
    except (ValueError, SyntaxError):
        value = text
    for k in kinds:
        k = typing.get_origin(k) or k
        if k is type(None) and value is None or k is bool and isinstance(value, bool):
            return value
        if k is float and type(value) in (int, float) or k is int and type(value) in (int, float) and value == int(value):
            return k(value)
        if k in (tuple, list, dict) and isinstance(value, k):
            return value
        if k is str and value is not None:
            return text
    names = " or ".join(k.__name__ if isinstance(k, type) and not typing.get_args(k) else str(k) for k in kinds)
    raise ValueError(f"{key}={text}: it must be {names.replace('NoneType', 'None')}")


def check(cfg):
    """Stop a Config that cannot run, naming the setting, the rule and the way out."""
    if not isinstance(cfg, Config):
        raise ValueError(f"{cfg.name} is a data config; prepare.py reads it. The training configs are configs/bloom.py and configs/llama.py")
    m, r, o = cfg.model, cfg.run, cfg.optim
    for section in (m, o, r):
        for f in dataclasses.fields(section):
            v = getattr(section, f.name)
            if f.name not in ("seed", "min_lr", "warmup", "weight_decay") and type(v) in (int, float) and not v > 0:
                raise ValueError(f"{type(section).__name__.lower()}.{f.name}={v}: it must be above 0")
    if o.min_lr > o.lr:
        raise ValueError(f"optim.min_lr={o.min_lr} is above optim.lr={o.lr}: the learning rate would rise where it should fall; set optim.min_lr={o.lr / 10:g}, say")
    if m.dim % m.heads:
        raise ValueError(f"model.dim={m.dim} does not divide into {m.heads} heads; use {m.dim // m.heads * m.heads or m.heads}")
    if m.position == "rope" and m.dim // m.heads % 2:
        raise ValueError(f"model.dim={m.dim} over {m.heads} heads is an odd head width; RoPE turns pairs, use an even one")
    steps_left_out(r.skip_steps)
    if m.heads % (m.kv_heads or 1):
        raise ValueError(f"model.heads={m.heads} is not a multiple of model.kv_heads={m.kv_heads}")
    for name in (r.name, cfg.data.name):
        if not name or os.path.basename(name) != name or name.startswith("."):
            raise ValueError(f"the name {name!r} must be a plain folder name; it becomes runs/NAME or data/NAME")
    return cfg


def steps_left_out(text):
    """run.skip_steps as ranges. steps_left_out("14:17,200:210") -> [range(14, 17), range(200, 210)]"""
    try:
        ranges = [range(*map(int, part.split(":"))) for part in text.split(",")] if text else []
        if all(len(r) and r.start > 0 and r.step == 1 for r in ranges):
            return ranges
    except (TypeError, ValueError):
        pass
    raise ValueError(f"run.skip_steps={text}: it must be ranges of steps, first:end with the end excluded, as in 14:17 or 14:17,200:210")


def differences(old, new, prefix=""):
    """Yield (key, old, new) for each setting that differs, from two nested dicts."""
    for key in {**old, **new}:
        a, b = old.get(key), new.get(key)
        if isinstance(a, dict) and isinstance(b, dict) and key != "weights":
            yield from differences(a, b, prefix + key + ".")
        elif a != b:
            yield prefix + key, a, b


def plain(cfg):
    """A dataclass as it is after a trip through JSON: tuples become lists."""
    return json.loads(json.dumps(dataclasses.asdict(cfg)))


def write_json(path, value):
    """Write whole or not at all: to a new file, then renamed over the old one."""
    with open(f"{path}.new", "w", encoding="utf-8") as f:
        json.dump(value, f, indent=1, ensure_ascii=False)
    os.replace(f"{path}.new", path)


def read_json(path):
    with open(path, encoding="utf-8") as f:
        try:
            return json.load(f)
        except (ValueError, RecursionError) as e:
            raise ValueError(f"{path} is not JSON: {e}") from e


def read_run(run):
    """config.json of a run folder."""
    facts = read_json(f"{run}/config.json") if os.path.exists(f"{run}/config.json") else {}
    if not isinstance(facts, dict) or "model" not in facts:
        raise ValueError(f"{run} is not a run: it has no config.json of one; train.py makes a run, and convert.py import makes one of a Hugging Face folder")
    return facts


def sha256(path):
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def command(main):
    """Run `main()`; what a user can cause ends in one line and exit code 1, without a traceback."""
    try:
        main()
    except BrokenPipeError:             # whoever read our output has gone: head, say
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except (ValueError, OSError) as e:
        rank = f"rank {os.environ['RANK']}: " if "RANK" in os.environ else ""
        sys.stderr.write(f"error: {rank}{' '.join(str(e).split())}\n")      # one write: the lines of several processes do not mix
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
