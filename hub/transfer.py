"""Models of others become runs, and runs become folders that transformers opens: python convert.py

What is not exactly one of the two models is refused by name. Nothing in a folder is run: weights are
safetensors, or Meta's .pth files, of which PyTorch reads tensors alone. All .safetensors files of a folder
are read, so no path that stands in a file is followed. Read it from open_safetensors() to export_run().
"""
import collections
import contextlib
import dataclasses
import functools
import glob
import math
import os
import re
import shutil

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

import checkpoint
import config
import tokenizer as tokenizers
from hub import layouts
from hub.card import card
from model import Transformer, count

# some versions store these tensors, which are computed and not learned
BUFFERS = r"(\.rotary_emb\.inv_freq|\.(self_attention|attention|attn)\.(masked_)?bias|^rope\.freqs)$"
DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
Found = collections.namedtuple("Found", "shape dtype read")     # a tensor of theirs; read() returns it


# ---- what is in a folder ----

def open_safetensors(folder, family, stack):
    """{name with its prefix: Found}. The files stay open in `stack`: only what is read takes memory."""
    found = {}
    prefix = layouts.PREFIX[family]
    for path in sorted(glob.glob(f"{glob.escape(folder)}/*.safetensors")):
        try:
            f = stack.enter_context(safe_open(path, framework="pt"))
        except SafetensorError as e:
            raise ValueError(f"{path} is not a whole safetensors file: {e}") from e
        for name in f.keys():
            full = name if name.startswith((prefix, "lm_head.")) else prefix + name
            if full in found:
                raise ValueError(f"{path}: the tensor {name} is in another file too; move one of them away")
            piece = f.get_slice(name)
            dtype = DTYPES.get(piece.get_dtype(), piece.get_dtype())
            found[full] = Found(tuple(piece.get_shape()), dtype, functools.partial(f.get_tensor, name))
    if not found:
        raise ValueError(f"{folder} has no weights in .safetensors files. A pickle such as pytorch_model.bin "
                         "can run any program when it is opened. If you trust it, transformers makes "
                         "safetensors of it: AutoModelForCausalLM.from_pretrained(DIR).save_pretrained(NEW)")
    return found


def open_meta(folder):
    """{name: Found} of Meta's consolidated.00.pth, 01, ...: each has a slice of every matrix."""
    slices = []
    for path in sorted(glob.glob(f"{glob.escape(folder)}/consolidated.*.pth")):
        try:
            part = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
            slices.append({name: t.detach() for name, t in part.items()})
        except Exception as e:          # pickle, zip and torch have an error each
            raise ValueError(f"{path} does not hold tensors alone, or is damaged ({type(e).__name__}); "
                             "it is not opened any other way") from e
    with config.blame(f"{folder}/consolidated.*.pth"):
        found = {}
        C = len(slices[0]["norm.weight"])
        for name, t in slices[0].items():
            parts = [part[name] for part in slices]
            if t.dim() != 2:
                found[name] = Found(tuple(t.shape), t.dtype, t.clone)
                continue
            # wo and w2 are cut by columns, and so is the embedding of Llama 1 and 2; all others by rows
            narrow = name == "tok_embeddings.weight" and t.shape[1] != C
            side = 1 if narrow or name.endswith((".wo.weight", ".w2.weight")) else 0
            shape = list(t.shape)
            shape[side] = sum(p.shape[side] for p in parts)
            found[name] = Found(tuple(shape), t.dtype, functools.partial(torch.cat, parts, side))
    return found


def open_folder(folder, stack):
    """(layout, config.Model, {name: Found}) of a folder of weights."""
    if os.path.exists(f"{folder}/config.json"):
        layout, cfg = layouts.read_config(folder)
        found = open_safetensors(folder, layout, stack)
    elif os.path.exists(f"{folder}/params.json") and os.path.exists(f"{folder}/consolidated.00.pth"):
        layout, found = "meta", open_meta(folder)
        cfg = layouts.read_params(folder, {name: f.shape for name, f in found.items()})
    else:
        raise ValueError(f"{folder} is no folder with config.json (Hugging Face), or params.json and "
                         "consolidated.00.pth (Meta)")
    return layout, cfg, {name: f for name, f in found.items() if not re.search(BUFFERS, name)}


def check_tensors(layout, cfg, found):
    """Stop unless the tensors found are those of the model; returns our parameters on the meta device."""
    if cfg.layers > len(found):             # first: a model of 10^6 layers takes long to build
        raise ValueError(f"{cfg.layers} layers are more than its {len(found)} tensors; is a file missing?")
    with torch.device("meta"):
        parameters = dict(Transformer(cfg).named_parameters())
    left = dict(found)
    head = left.pop("lm_head.weight", None) if cfg.tied else None       # some files have the embedding twice
    for ours, p in parameters.items():
        theirs = layouts.names(layout, ours)
        for name, t in zip(theirs, layouts.to_theirs(layout, ours, p, cfg)):
            if name not in left:
                if name == "lm_head.weight":
                    raise ValueError(f"there is no tensor {name}, and the head is not tied to the embedding")
                raise ValueError(f"there is no tensor {name}; is a file missing?")
            shape, dtype, _ = left.pop(name)
            if shape != t.shape:
                raise ValueError(f"{name} is {list(shape)}; with these settings it must be {list(t.shape)}")
            if dtype not in DTYPES.values():
                raise ValueError(f"{name} is {dtype}; it must be float32, bfloat16 or float16")
    if left:
        raise ValueError(f"the tensor {min(left)} is none of this model's")
    embed = found[layouts.names(layout, "embed.weight")[0]]
    if head and not torch.equal(head.read().float(), embed.read().float()):
        raise ValueError("lm_head.weight is not the embedding, but tie_word_embeddings says so")
    return parameters


def our_tensors(layout, cfg, parameters, found, dtype):
    """Pairs (our name, tensor); one of them is in memory at a time."""
    for ours in parameters:
        parts = []
        for name in layouts.names(layout, ours):
            part = found[name].read()
            if not all(math.isfinite(x) for x in part.aminmax()):
                raise ValueError(f"{name} has values that are NaN or infinite")
            parts.append(part.to(dtype))
        yield ours, layouts.to_ours(layout, ours, parts, cfg)


def end_ids(folder, tokenizer, rows):
    """Ids that end a text: those of generation_config.json, else of config.json, else the tokenizer's."""
    for path in (f"{folder}/generation_config.json", f"{folder}/config.json"):
        facts = config.read_json(path) if os.path.exists(path) else {}
        with config.blame(path):
            ids = facts.get("eos_token_id")
            if ids is not None:
                ids = ids if isinstance(ids, list) else [ids]
                if not all(type(i) is int and 0 <= i < rows for i in ids):
                    raise ValueError(f"eos_token_id={ids!r:.80} must be ids from 0 to {rows - 1}")
                return ids
    return sorted(tokenizer.ends)


def load_tokenizer(place, folder, layout, rows):
    """The tokenizer in folder `place`, or in `folder`. Meta's sizes share one, in the folder above theirs."""
    if place is None:
        beside = any(os.path.exists(f"{folder}/tokenizer.{kind}") for kind in ("model", "json"))
        place = folder if beside or layout != "meta" else f"{folder}/.."
    try:
        tokenizer = tokenizers.load(place, imported=True)
    except ValueError as e:
        raise ValueError(f"{e}; a tokenizer that is elsewhere is given by --tokenizer DIR") from e
    if tokenizer.vocab > rows:
        raise ValueError(f"the tokenizer of {place} has {tokenizer.vocab:,} entries and the embedding "
                         f"{rows:,} rows: they do not belong together")
    return tokenizer


# ---- writing ----

@contextlib.contextmanager
def new_folder(folder):
    """A folder to write to, which gets its name at the end. An error or Ctrl-C leaves nothing."""
    if os.path.lexists(folder) and (not os.path.isdir(folder) or os.listdir(folder)):
        raise ValueError(f"{folder} is there and not empty; choose another name, or delete it")
    if os.path.lexists(f"{folder}.new"):
        raise ValueError(f"{folder}.new is there, of a conversion that was killed or still runs; delete it")
    os.makedirs(f"{folder}.new")
    try:
        yield f"{folder}.new"
        os.rename(f"{folder}.new", folder)
    except BaseException:
        shutil.rmtree(f"{folder}.new", ignore_errors=True)
        raise


def write_tensors(folder, tensors, size, tick):
    """Write pairs (name, tensor) to files of at most `size` bytes, or of one tensor; returns {name: file}.
    Memory holds the tensors of one file."""
    os.makedirs(folder, exist_ok=True)
    groups = []             # names of the tensors in each file
    part = {}               # what the next file will hold

    def flush():
        path = f"{folder}/{len(groups)}"
        try:
            save_file(part, path, {"format": "pt"})
        except SafetensorError as e:        # a full disk
            raise OSError(f"cannot write to {folder}: {e}") from e
        os.chmod(path, 0o644)               # save_file makes it for its owner alone
        groups.append(list(part))
        part.clear()

    for name, t in tensors:
        if part and sum(p.nbytes for p in part.values()) + t.nbytes > size:
            flush()
        part[name] = t
        tick(t.nbytes)
    flush()
    n = len(groups)
    files = {}
    for i, group in enumerate(groups):
        file = f"model-{i + 1:05d}-of-{n:05d}.safetensors" if n > 1 else "model.safetensors"
        os.rename(f"{folder}/{i}", f"{folder}/{file}")
        files |= dict.fromkeys(group, file)
    return files


# ---- in and out ----

def import_folder(folder, run, place=None, size=5e9, context=None):
    """Make runs/NAME of a folder: config.json, the tokenizer, and the weights as checkpoint 0.

    `place` is the tokenizer's folder, `size` the bytes of a file, `context` the length of its training rows.
    """
    with contextlib.ExitStack() as stack:
        layout, cfg, found = open_folder(folder, stack)
        cfg = dataclasses.replace(cfg, context=context or cfg.context)
        with config.blame(folder):
            parameters = check_tensors(layout, cfg, found)
        tokenizer = load_tokenizer(place, folder, layout, cfg.vocab)
        dtype = functools.reduce(torch.promote_types, (f.dtype for f in found.values()))    # loses nothing
        family = "llama" if layout == "meta" else layout
        origin = {"from": os.path.basename(os.path.abspath(folder)), "architecture": family,
                  "eos": end_ids(folder, tokenizer, cfg.vocab), "dtype": str(dtype).removeprefix("torch.")}
        identity = {"kind": tokenizer.kind, "fingerprint": tokenizers.fingerprint(tokenizer)}
        facts = {"size": "imported", "model": dataclasses.asdict(cfg), "tokenizer": identity,
                 "torch": torch.__version__, "imported": origin}
        total = sum(p.numel() for p in parameters.values())
        tensors = our_tensors(layout, cfg, parameters, found, dtype)
        tick = config.progress(f"importing {folder}, bytes", total * dtype.itemsize)
        with new_folder(run) as new:
            at = f"{new}/checkpoints/{0:07d}"
            with config.blame(folder):
                write_tensors(f"{at}/model", tensors, size, tick)
            tokenizer.save(f"{new}/tokenizer")
            config.write_json(f"{new}/config.json", facts)
            checkpoint.seal(at, {"step": 0, "tokens": 0})
    if not tokenizer.lossless:
        print("its tokenizer changes a text before it encodes it (it drops extra spaces, say): decoding does "
              "not give them back, and other readers of its file may give other ids")
    print(f"wrote {run}: {total:,} parameters, {cfg.layers} layers of {cfg.dim}, {cfg.heads} heads, rows of "
          f"{cfg.context:,} tokens; tokenizer of {tokenizer.vocab:,} entries\n"
          f"now: python sample.py {run} --prompt \"...\"")


def export_run(path, out, step=None, size=5e9, licence=None):
    """Write the model of a run as a folder that transformers opens, with a model card."""
    run = checkpoint.open_run(path)
    cfg, tokenizer = run.shape, run.tokenizer()
    family = layouts.family_of(cfg, path)
    dtype = (run.imported or {}).get("dtype", "float32")        # older imports do not say theirs
    model, state = run.load(dtype=getattr(torch, dtype), step=step)
    total = sum(p.nbytes for p in model.parameters())
    ends = sorted(tokenizer.ends)
    ids = {"bos_token_id": tokenizer.bos, "eos_token_id": ends[0] if len(ends) == 1 else ends or None,
           "pad_token_id": tokenizer.pad}
    unnamed = list(range(tokenizer.vocab, cfg.vocab))           # rows of the embedding without an entry
    drawing = {"do_sample": True, "temperature": 0.8, "top_p": 0.95, "top_k": 0}        # sample.py's
    settings = ids | {"suppress_tokens": unnamed or None} | ({} if run.imported else drawing)

    def tensors():
        for ours, p in model.named_parameters():
            theirs = layouts.to_theirs(family, ours, p.detach(), cfg)
            yield from zip(layouts.names(family, ours), theirs)

    with new_folder(out) as new:
        files = write_tensors(new, tensors(), size, config.progress(f"exporting {path}, bytes", total))
        if len(set(files.values())) > 1:
            index = {"metadata": {"total_size": total}, "weight_map": files}
            config.write_json(f"{new}/model.safetensors.index.json", index)
        config.write_json(f"{new}/config.json", layouts.their_config(family, cfg, dtype) | ids)
        config.write_json(f"{new}/generation_config.json", settings)
        tokenizer.save(new)
        with open(f"{new}/README.md", "w", encoding="utf-8") as f:
            f.write(card(run, state, count(model), tokenizer, licence))
    hint = "" if licence else "; without --licence it permits nothing"
    print(f"wrote {out}: {count(model):,} parameters of step {state['step']} as {family.title()}ForCausalLM, "
          f"tokenizer and model card\nnow: read {out}/README.md{hint}")
