"""Models of others become runs, and runs become folders that transformers opens: python convert.py

What is not exactly one of the two models is refused by name. Nothing in a folder is run: weights are
safetensors. All .safetensors files of a folder are read, so no path that stands in a file is followed. Their
tensors are mapped: one takes memory when used.
"""
import contextlib
import dataclasses
import functools
import glob
import os
import pathlib
import shutil

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

import checkpoint
import config
import tokenizer as tokenizers
from hub import layouts, tokenizer_files
from hub.card import card
from model import Transformer, count

SHARD = 5e9                                 # bytes of a file of weights, at most
BUFFERS = ("inv_freq", "masked_bias")       # computed, not learned; some versions store them
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


# ---- what is in a folder ----

def open_tensors(folder, family):
    """{name with its prefix: tensor}"""
    found = {}
    prefix = layouts.PREFIX[family]
    for path in sorted(glob.glob(f"{glob.escape(folder)}/*.safetensors")):
        try:
            tensors = load_file(path)
        except SafetensorError as e:
            raise ValueError(f"{path} is damaged, or no safetensors file: {e}") from e
        for name, t in tensors.items():
            full = name if name.startswith((prefix, "lm_head.")) else prefix + name
            if full in found:
                raise ValueError(f"{path}: the tensor {name} is in another file too; move one of them away")
            if not name.endswith(BUFFERS):
                found[full] = t
    if not found:
        raise ValueError(f"{folder} has no .safetensors files. A pickle such as pytorch_model.bin can run "
                         "any program when opened. If you trust it, transformers makes safetensors of it: "
                         "AutoModelForCausalLM.from_pretrained(DIR).save_pretrained(NEW)")
    return found


def check_tensors(family, model, found):
    """Stop unless the tensors found are just those that make `model`."""
    if model.cfg.tied and "lm_head.weight" in found:        # some files have it twice
        embed, = layouts.names(family, "embed.weight")
        if not torch.equal(found.pop("lm_head.weight"), found[embed]):
            raise ValueError("lm_head.weight is not the embedding, but tie_word_embeddings says so")
    needed = {}
    for ours, p in model.named_parameters():
        needed |= zip(layouts.names(family, ours), layouts.to_theirs(family, ours, p, model.cfg))
    strange = sorted(needed.keys() ^ found.keys())
    if strange:
        is_what = "missing" if strange[0] in needed else "not of this model"
        raise ValueError(f"the tensor {strange[0]} is {is_what}")
    for name, t in needed.items():
        has = found[name]
        if has.shape != t.shape or has.dtype not in DTYPES:
            raise ValueError(f"{name} is {list(has.shape)}, {has.dtype}; with these settings it must be "
                             f"{list(t.shape)}, float32, bfloat16 or float16")


def end_ids(folder, tokenizer):
    """Ids that end a text: those of generation_config.json, else of config.json, else the tokenizer's."""
    for path in (f"{folder}/generation_config.json", f"{folder}/config.json"):
        ids = config.read_json(path).get("eos_token_id") if os.path.exists(path) else None
        if ids is not None:
            ids = ids if isinstance(ids, list) else [ids]
            if not all(type(i) is int for i in ids):
                raise ValueError(f"{path}: eos_token_id={ids!r:.80} must be whole numbers")
            return ids
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
    finally:
        shutil.rmtree(f"{folder}.new", ignore_errors=True)


def write_tensors(folder, sizes, read):
    """Write the tensors read(key), a dict, for each key of {key: bytes}, to files of at most SHARD bytes, or
    of one key. Returns {tensor: file}. Memory holds the tensors of one file."""
    groups = []                         # of keys, one for each file
    room = 0
    for key, size in sizes.items():
        if size > room:
            groups.append([])
            room = SHARD
        groups[-1].append(key)
        room -= size
    os.makedirs(folder, exist_ok=True)
    tick = config.progress(f"writing {folder}, bytes", sum(sizes.values()))
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

def import_folder(folder, run):
    """Make runs/NAME of a folder of Hugging Face; the weights become checkpoint 0."""
    family, cfg = layouts.read_config(folder)
    found = open_tensors(folder, family)
    tokenizer = tokenizers.load(folder, imported=True)
    with config.blame(folder), torch.device("meta"):
        model = Transformer(cfg)
        check_tensors(family, model, found)
        if tokenizer.vocab > cfg.vocab:
            raise ValueError(f"its tokenizer has {tokenizer.vocab:,} entries, and its embedding "
                             f"{cfg.vocab:,} rows")
    dtype = functools.reduce(torch.promote_types, (t.dtype for t in found.values()))        # loses nothing
    sizes = {ours: p.numel() * dtype.itemsize for ours, p in model.named_parameters()}

    def read(ours):
        parts = [found[name].to(dtype) for name in layouts.names(family, ours)]
        return {ours: layouts.to_ours(family, ours, parts, cfg)}

    origin = {"from": os.path.basename(os.path.abspath(folder)), "eos": end_ids(folder, tokenizer),
              "dtype": str(dtype).removeprefix("torch.")}
    identity = {"kind": tokenizer.kind, "fingerprint": tokenizers.fingerprint(tokenizer)}
    facts = {"size": "imported", "model": dataclasses.asdict(cfg), "tokenizer": identity,
             "torch": torch.__version__, "imported": origin}
    with new_folder(run) as new:
        at = f"{new}/checkpoints/{0:07d}"
        write_tensors(f"{at}/model", sizes, read)
        tokenizer.save(f"{new}/tokenizer")
        config.write_json(f"{new}/config.json", facts)
        checkpoint.seal(at, {"step": 0, "tokens": 0})
    for line in tokenizer.remarks():
        print(line)
    print(f"wrote {run}: {count(model):,} parameters, rows of {cfg.context:,} tokens, a tokenizer of "
          f"{tokenizer.vocab:,} entries\nnow: python sample.py {run} --prompt \"...\"")


def export_run(path, out, step=None, licence=None):
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
    bos = (tokenizer.begin or [tokenizer.bos])[0]
    ids = {"bos_token_id": bos, "eos_token_id": ends[0] if len(ends) == 1 else ends or None,
           "pad_token_id": tokenizer.pad}
    unnamed = list(range(tokenizer.vocab, cfg.vocab))           # rows of the embedding without an entry
    drawing = {"do_sample": True, "temperature": 0.8, "top_p": 0.95, "top_k": 0}        # sample.py's
    generation = ids | {"suppress_tokens": unnamed or None} | ({} if run.imported else drawing)
    with new_folder(out) as new:
        files = write_tensors(new, sizes, read)
        if len(set(files.values())) > 1:
            index = {"metadata": {"total_size": sum(sizes.values())}, "weight_map": files}
            config.write_json(f"{new}/model.safetensors.index.json", index)
        config.write_json(f"{new}/config.json", layouts.their_config(family, cfg, dtype) | ids)
        config.write_json(f"{new}/generation_config.json", generation)
        for name, content in tokenizer_files.files_of(tokenizer).items():
            pathlib.Path(new, name).write_bytes(content)
        with open(f"{new}/README.md", "w", encoding="utf-8") as f:
            f.write(card(run, state, count(model), tokenizer, licence))
    hint = "" if licence else "; without --licence it permits nothing"
    print(f"wrote {out}: {count(model):,} parameters of step {state['step']} as {family.title()}ForCausalLM, "
          f"tokenizer and model card\nnow: read {out}/README.md{hint}")
