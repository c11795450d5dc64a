"""Models of others become runs, and runs become folders that transformers opens: python convert.py

What is not exactly one of the two models is refused by name. Nothing in a folder is run: weights are
safetensors, or Meta's .pth files, of which PyTorch reads tensors alone. All .safetensors files of a folder
are read, so no path that stands in a file is followed. Their tensors are mapped: one takes memory when used.
"""
import contextlib
import dataclasses
import functools
import glob
import os
import shutil

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

import checkpoint
import config
import tokenizer as tokenizers
from hub import layouts
from hub.card import card
from model import Transformer, count

BUFFERS = ("inv_freq", "masked_bias", "rope.freqs")     # computed, not learned; some versions store them
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


# ---- what is in a folder ----

def tensors_in(folder, pattern):
    """Yield (path, {name: tensor}) for each file of weights."""
    for path in sorted(glob.glob(f"{glob.escape(folder)}/{pattern}")):
        try:
            if path.endswith(".pth"):
                tensors = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
            else:
                tensors = load_file(path)
        except Exception as e:          # pickle, zip, torch and safetensors have an error each
            raise ValueError(f"{path} is damaged, or holds more than tensors ({type(e).__name__})") from e
        yield path, tensors


def open_safetensors(folder, family):
    """{name with its prefix: [tensor]}"""
    found = {}
    prefix = layouts.PREFIX[family]
    for path, tensors in tensors_in(folder, "*.safetensors"):
        for name, t in tensors.items():
            full = name if name.startswith((prefix, "lm_head.")) else prefix + name
            if full in found:
                raise ValueError(f"{path}: the tensor {name} is in another file too; move one of them away")
            found[full] = [t]
    if not found:
        raise ValueError(f"{folder} has no .safetensors files. A pickle such as pytorch_model.bin can run "
                         "any program when opened. If you trust it, transformers makes safetensors of it: "
                         "AutoModelForCausalLM.from_pretrained(DIR).save_pretrained(NEW)")
    return found


def joined(slices, shape):
    """The tensor of `shape`. Meta cuts a matrix by rows or by columns; a vector is whole in each file."""
    if len(slices) == 1 or len(shape) == 1:
        return slices[0]
    return torch.cat(slices, 0 if slices[0].shape[1] == shape[1] else 1)


def open_folder(folder):
    """(layout, config.Model, {name: slices}) of a folder of weights."""
    if os.path.exists(f"{folder}/config.json"):
        layout, cfg = layouts.read_config(folder)
        found = open_safetensors(folder, layout)
    elif os.path.exists(f"{folder}/consolidated.00.pth"):
        files = [tensors for _, tensors in tensors_in(folder, "consolidated.*.pth")]
        with config.blame(f"{folder}/consolidated.*.pth"):
            found = {name: [part[name] for part in files] for name in files[0]}
        layout, cfg = "meta", layouts.read_params(folder, found)
    else:
        raise ValueError(f"{folder} has neither config.json (Hugging Face) nor consolidated.00.pth (Meta)")
    return layout, cfg, {name: slices for name, slices in found.items() if not name.endswith(BUFFERS)}


def check_tensors(layout, model, found):
    """{name: shape} of the tensors that make `model`. Stop unless those found are just these."""
    left = dict(found)
    head = left.pop("lm_head.weight", None) if model.cfg.tied else None     # some files have it twice
    shapes = {}
    for ours, p in model.named_parameters():
        theirs = layouts.to_theirs(layout, ours, p, model.cfg)
        for name, t in zip(layouts.names(layout, ours), theirs):
            if name not in left:
                raise ValueError(f"there is no tensor {name}; is a file missing?")
            has = joined([part.to("meta") for part in left.pop(name)], t.shape)
            if has.shape != t.shape or has.dtype not in DTYPES:
                raise ValueError(f"{name} is {list(has.shape)}, {has.dtype}; with these settings it must be "
                                 f"{list(t.shape)}, float32, bfloat16 or float16")
            shapes[name] = t.shape
    if left:
        raise ValueError(f"the tensor {min(left)} is none of this model's")
    if head and not torch.equal(head[0], found[layouts.names(layout, "embed.weight")[0]][0]):
        raise ValueError("lm_head.weight is not the embedding, but tie_word_embeddings says so")
    return shapes


def end_ids(folder, tokenizer):
    """Ids that end a text: those of generation_config.json, else of config.json, else the tokenizer's."""
    for path in (f"{folder}/generation_config.json", f"{folder}/config.json"):
        ids = config.read_json(path).get("eos_token_id") if os.path.exists(path) else None
        if ids is not None:
            return ids if isinstance(ids, list) else [ids]
    return sorted(tokenizer.ends)


# ---- writing ----

@contextlib.contextmanager
def new_folder(folder):
    """A folder to write to, which gets its name at the end. An error or Ctrl-C leaves nothing."""
    if os.path.exists(folder) and os.listdir(folder):
        raise ValueError(f"{folder} is there and not empty; choose another name, or delete it")
    os.makedirs(f"{folder}.new")        # of a conversion that was killed, if it is there
    try:
        yield f"{folder}.new"
        os.rename(f"{folder}.new", folder)
    except BaseException:
        shutil.rmtree(f"{folder}.new", ignore_errors=True)
        raise


def write_tensors(folder, sizes, read, most, what):
    """Write the tensors read(key), a dict, for each key of {key: bytes}, to files of at most `most` bytes, or
    of one key. Returns {tensor: file}. Memory holds the tensors of one file."""
    groups = []                         # of keys, one for each file
    room = 0
    for key, size in sizes.items():
        if not groups or size > room:
            groups.append([])
            room = most
        groups[-1].append(key)
        room -= size
    os.makedirs(folder, exist_ok=True)
    tick = config.progress(f"{what}, bytes", sum(sizes.values()))
    files = {}
    for i, group in enumerate(groups, 1):
        file = f"model-{i:05d}-of-{len(groups):05d}.safetensors" if len(groups) > 1 else "model.safetensors"
        tensors = {}
        for key in group:
            tensors |= read(key)
            tick(sizes[key])
        try:
            save_file(tensors, f"{folder}/{file}", {"format": "pt"})
        except SafetensorError as e:        # a full disk
            raise OSError(f"cannot write {folder}/{file}: {e}") from e
        os.chmod(f"{folder}/{file}", 0o644)     # save_file makes it for its owner alone
        files |= dict.fromkeys(tensors, file)
    return files


# ---- in and out ----

def import_folder(folder, run, place=None, size=5e9, context=None):
    """Make runs/NAME of a folder, with the tokenizer of `place`; the weights become checkpoint 0."""
    layout, cfg, found = open_folder(folder)
    cfg.context = context or cfg.context
    with config.blame(folder), torch.device("meta"):
        model = Transformer(cfg)
        shapes = check_tensors(layout, model, found)
    with config.blame("with --tokenizer DIR another one is taken"):
        tokenizer = tokenizers.load(place or folder, imported=True)
        if tokenizer.vocab > cfg.vocab:
            raise ValueError(f"it has {tokenizer.vocab:,} entries and the embedding {cfg.vocab:,} rows")
    dtype = functools.reduce(torch.promote_types, (t[0].dtype for t in found.values()))     # loses nothing
    sizes = {ours: p.numel() * dtype.itemsize for ours, p in model.named_parameters()}

    def read(ours):
        parts = []
        for name in layouts.names(layout, ours):
            part = joined(found[name], shapes[name])
            if not all(x.isfinite() for x in part.aminmax()):
                raise ValueError(f"{folder}: {name} has values that are NaN or infinite")
            parts.append(part.to(dtype))
        return {ours: layouts.to_ours(layout, ours, parts, cfg)}

    origin = {"from": os.path.basename(os.path.abspath(folder)), "eos": end_ids(folder, tokenizer),
              "dtype": str(dtype).removeprefix("torch.")}
    identity = {"kind": tokenizer.kind, "fingerprint": tokenizers.fingerprint(tokenizer)}
    facts = {"size": "imported", "model": dataclasses.asdict(cfg), "tokenizer": identity,
             "torch": torch.__version__, "imported": origin}
    with new_folder(run) as new:
        at = f"{new}/checkpoints/{0:07d}"
        write_tensors(f"{at}/model", sizes, read, size, f"importing {folder}")
        tokenizer.save(f"{new}/tokenizer")
        config.write_json(f"{new}/config.json", facts)
        checkpoint.seal(at, {"step": 0, "tokens": 0})
    if not tokenizer.lossless:
        print("its tokenizer changes a text before it encodes it (it drops extra spaces, say), and other "
              "readers of its file may give other ids")
    print(f"wrote {run}: {count(model):,} parameters, rows of {cfg.context:,} tokens, a tokenizer of "
          f"{tokenizer.vocab:,} entries\nnow: python sample.py {run} --prompt \"...\"")


def export_run(path, out, step=None, size=5e9, licence=None):
    """Write the model of a run as a folder that transformers opens, with a model card."""
    run = checkpoint.open_run(path)
    cfg, tokenizer = run.shape, run.tokenizer()
    family = layouts.family_of(cfg, path)
    dtype = (run.imported or {}).get("dtype", "float32")        # older imports do not say theirs
    model, state = run.load(dtype=getattr(torch, dtype), step=step)
    parameters = {name: p.detach() for name, p in model.named_parameters()}
    sizes = {name: p.nbytes for name, p in parameters.items()}

    def read(ours):
        return dict(zip(layouts.names(family, ours), layouts.to_theirs(family, ours, parameters[ours], cfg)))

    ends = sorted(tokenizer.ends)
    ids = {"bos_token_id": tokenizer.bos, "eos_token_id": ends[0] if len(ends) == 1 else ends or None,
           "pad_token_id": tokenizer.pad}
    unnamed = list(range(tokenizer.vocab, cfg.vocab))           # rows of the embedding without an entry
    drawing = {"do_sample": True, "temperature": 0.8, "top_p": 0.95, "top_k": 0}        # sample.py's
    generation = ids | {"suppress_tokens": unnamed or None} | ({} if run.imported else drawing)
    with new_folder(out) as new:
        files = write_tensors(new, sizes, read, size, f"exporting {path}")
        if len(set(files.values())) > 1:
            index = {"metadata": {"total_size": sum(sizes.values())}, "weight_map": files}
            config.write_json(f"{new}/model.safetensors.index.json", index)
        config.write_json(f"{new}/config.json", layouts.their_config(family, cfg, dtype) | ids)
        config.write_json(f"{new}/generation_config.json", generation)
        tokenizer.save(new)
        with open(f"{new}/README.md", "w", encoding="utf-8") as f:
            f.write(card(run, state, count(model), tokenizer, licence))
    hint = "" if licence else "; without --licence it permits nothing"
    print(f"wrote {out}: {count(model):,} parameters of step {state['step']} as {family.title()}ForCausalLM, "
          f"tokenizer and model card\nnow: read {out}/README.md{hint}")
