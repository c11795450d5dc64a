"""Hugging Face folders in and out: weights, configuration and tokenizer of BLOOM and LLaMA models. LLaMA as Meta hands it out comes in too.

    python convert.py import HF_DIR runs/NAME           # sample.py, evaluate.py and train.py init_from=runs/NAME go on from there
    python convert.py export runs/bloom-toy OUT --licence cc-by-4.0         # opens with AutoModelForCausalLM and AutoTokenizer; README.md is the model card

What is not exactly one of the two models is refused by name. Nothing in a folder is run: weights are safetensors, or pickles that may hold nothing but
tensors. They pass file by file, in the dtype they have. layouts.py says what stands where. Read it from files_of() to export_run().
"""
import argparse
import collections
import contextlib
import dataclasses
import functools
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
from config import progress
from hub.card import card
from hub.layouts import KEYS, family_of, names, read, read_config, settings, their_config, to_ours, to_theirs
from model import Transformer, count

BUFFERS = r"(\.rotary_emb\.inv_freq|\.(self_attention|attention|self_attn|attn)\.(masked_)?bias|^rope\.freqs)$"        # stored by some versions, never learned
DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
Found = collections.namedtuple("Found", "file shape dtype read")        # a tensor of theirs; read() returns it


def files_of(folder):
    """{file of weights: names of the tensors an index says are in it, or None without an index}"""
    there, index = sorted(os.listdir(folder)), "model.safetensors.index.json"
    single = [f for f in there if f.endswith(".safetensors")]
    if "model.safetensors" in there or index not in there and len(single) == 1:
        return {"model.safetensors" if "model.safetensors" in there else single[0]: None}
    pickles = [f for f in there if f.endswith((".bin", ".pt", ".pth"))]
    if index not in there and not single and pickles:
        raise ValueError(f"{folder} has its weights in {pickles[0]}, a pickle, which can run any program when it is opened; where you trust it, "
                         "transformers makes safetensors of it: AutoModelForCausalLM.from_pretrained(DIR).save_pretrained(NEW)")
    if index not in there:
        raise ValueError(f"{folder} has {len(single)} .safetensors files, and no model.safetensors or {index}")
    places, files = read(f"{folder}/{index}").get("weight_map"), collections.defaultdict(set)
    if not isinstance(places, dict) or not places:
        raise ValueError(f"{folder}/{index} has no weight_map")
    for name, file in places.items():
        if not isinstance(file, str) or not re.fullmatch(r"\w[\w.-]*\.safetensors", file):
            raise ValueError(f"{folder}/{index}: {name} is said to be in {file!r:.80}, which is not the plain name of a .safetensors file")
        files[file].add(name)
    return files


def open_safetensors(folder, family, stack):
    """{name with its prefix: Found}. The files stay open in `stack`, mapped: only what is read takes memory."""
    found, prefix = {}, {"bloom": "transformer.", "llama": "model."}[family]
    for file, promised in files_of(folder).items():
        path = f"{folder}/{file}"
        try:
            f = stack.enter_context(safe_open(path, framework="pt"))
        except SafetensorError as e:
            raise ValueError(f"{path} is not a whole safetensors file: {e}") from e
        if promised and (wrong := promised ^ set(f.keys())):
            raise ValueError(f"{path} {'lacks' if min(wrong) in promised else 'has'} the tensor {min(wrong)}, and the index says otherwise")
        for name in f.keys():
            full, piece = name if name.startswith((prefix, "lm_head.")) else prefix + name, f.get_slice(name)
            if full in found:
                raise ValueError(f"{path}: the tensor {name} is there twice, also in {found[full].file}")
            if not re.search(BUFFERS, full):
                dtype = piece.get_dtype()
                found[full] = Found(path, tuple(piece.get_shape()), DTYPES.get(dtype, dtype), functools.partial(f.get_tensor, name))
    return found


def open_meta(folder):
    """(config.Model, {name: Found}) of Meta's layout: params.json, and consolidated.00.pth, 01, ..., each with a slice of every matrix."""
    path, parts, found = f"{folder}/params.json", [], {}
    facts = read(path)
    if more := facts.keys() - {k for _, *keys in KEYS["meta"].values() for k in keys} - {"multiple_of", "ffn_dim_multiplier", "max_batch_size", "use_scaled_rope"}:
        raise ValueError(f"{path}: {', '.join(sorted(more))} is not supported")
    files = sorted(f for f in os.listdir(folder) if re.fullmatch(r"consolidated\..*\.pth", f))
    if files != [f"consolidated.{i:02d}.pth" for i in range(len(files))]:
        raise ValueError(f"{folder} has {', '.join(files)[:200]}: these are not all slices, numbered from 00 on")
    for file in files:
        try:
            parts.append(torch.load(f"{folder}/{file}", map_location="cpu", mmap=True, weights_only=True))
        except Exception as e:          # pickle, zip and torch have an error each
            raise ValueError(f"{folder}/{file} does not hold tensors alone, or is damaged ({type(e).__name__}); it is not opened any other way") from e
        if not isinstance(parts[-1], dict) or parts[-1].keys() != parts[0].keys() \
                or not all(isinstance(k, str) and isinstance(t, torch.Tensor) and t.layout == torch.strided and t.dim() in (1, 2) and not t.is_meta for k, t in parts[-1].items()):
            raise ValueError(f"{folder}/{file} does not hold the tensors of one slice of a model")
        parts[-1] = {name: t.detach() for name, t in parts[-1].items()}
    n, file, sizes = len(parts), f"{folder}/consolidated.*.pth", {}
    for name, t in parts[0].items():
        slices = [p[name] for p in parts]
        if len({(s.shape, s.dtype) for s in slices}) > 1 or t.dim() == 1 and not all(torch.equal(t, s) for s in slices):
            raise ValueError(f"{file}: the slices of {name} do not go together")
        # wo and w2 are cut on their input side, the embedding of Llama 1 and 2 across its width, the others on their output side
        side = 1 if name.endswith((".wo.weight", ".w2.weight")) or name == "tok_embeddings.weight" and t.shape[-1] != facts.get("dim") else 0
        if not re.search(BUFFERS, name):
            found[name] = Found(file, tuple(t.shape), t.dtype, t.clone) if t.dim() != 2 else \
                Found(file, (len(t), t.shape[1] * n) if side else (len(t) * n, t.shape[1]), t.dtype, functools.partial(torch.cat, slices, side))
    if (k := "layers.0.feed_forward.w1.weight") in found:
        sizes["mlp_dim"] = found[k].shape[0]
    if facts.get("vocab_size") == -1:
        if "output.weight" not in found:
            raise ValueError(f"{file}: there is no tensor output.weight")
        sizes["vocab"] = found["output.weight"].shape[0]
    return settings("meta", facts, path, tied=False, **sizes), found


def fit(layout, cfg, found, where):
    """Stop unless the tensors found are those of the model, none less or more; returns our parameters on the meta device."""
    layers = {m[1] for name in found if (m := re.search(r"(?:^|\.)(?:h|layers)\.([0-9]+)\.", name))}
    if len(layers) != cfg.layers:           # first: a model of 10^6 layers takes long to build
        raise ValueError(f"{where}: the configuration has {cfg.layers} layers, and there are tensors of {len(layers)}")
    with torch.device("meta"):
        parameters, wanted = dict(Transformer(cfg).named_parameters()), {"lm_head.weight"} if cfg.tied else set()
    for ours, p in parameters.items():
        theirs = names(layout, ours)
        wanted.update(theirs)
        for name, t in zip(theirs, to_theirs(layout, ours, p, cfg)):
            if name not in found:
                raise ValueError(f"{where}: there is no tensor {name}" + ", and the head is not tied to the embedding" * (ours == "head.weight"))
            file, size, dtype, _ = found[name]
            if size != t.shape:
                raise ValueError(f"{file}: {name} is {list(size)}, and with these settings it must be {list(t.shape)}" + "; are all slices there?" * (layout == "meta"))
            if dtype not in DTYPES.values() or dtype != found[theirs[0]].dtype:
                raise ValueError(f"{file}: {name} is {dtype}; it must be float32, bfloat16 or float16, the same for q, k and v")
    if more := found.keys() - wanted:
        raise ValueError(f"{found[min(more)].file}: the tensor {min(more)} is none of this model's")
    head, embed = found.get("lm_head.weight"), found[names(layout, "embed.weight")[0]]
    if cfg.tied and head and not (head.dtype == embed.dtype and torch.equal(head.read(), embed.read())):
        raise ValueError(f"{head.file}: lm_head.weight is not the embedding, and the configuration says that they are tied")
    return parameters


@contextlib.contextmanager
def whole(folder):
    """A new folder to write to, which gets its name at the end; an error or Ctrl-C leaves nothing."""
    if not os.path.basename(folder):
        raise ValueError(f"{folder!r} is no name for a new folder")
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


def write(folder, tensors, size, what, total):
    """Write pairs (name, tensor) as they come, to files of `size` bytes at most, or of one tensor; returns {name: file}. Holds one file's tensors."""
    parts, part, tick = [], {}, progress(f"{what}, bytes", total)

    def flush():
        try:
            save_file(part, f"{folder}/{len(parts)}", {"format": "pt"})
        except SafetensorError as e:
            raise OSError(f"cannot write to {folder}: {e}") from e
        parts.append(list(part))
        part.clear()
    os.makedirs(folder, exist_ok=True)
    for name, t in tensors:
        if part and sum(p.nbytes for p in part.values()) + t.nbytes > size:
            flush()
        part[name] = t
        tick(t.nbytes)
    flush()
    files = [f"model-{i + 1:05d}-of-{len(parts):05d}.safetensors" if len(parts) > 1 else "model.safetensors" for i in range(len(parts))]
    for i, file in enumerate(files):
        os.chmod(f"{folder}/{i}", 0o644)            # save_file makes them for their owner alone
        os.rename(f"{folder}/{i}", f"{folder}/{file}")
    return {name: file for part, file in zip(parts, files) for name in part}


def ends(folder, tokenizer, rows):
    """Ids that end a text: generation_config.json's, else config.json's, else the tokenizer's."""
    for path in (f"{folder}/generation_config.json", f"{folder}/config.json"):
        if os.path.exists(path) and (ids := read(path).get("eos_token_id")) is not None:
            ids = ids if isinstance(ids, list) else [ids]
            if not all(type(i) is int and 0 <= i < rows for i in ids):
                raise ValueError(f"{path}: eos_token_id={ids!r:.80} must be ids from 0 to {rows - 1}")
            return ids
    return sorted(tokenizer.ends)


def import_folder(folder, run, place=None, size=5e9, context=None):
    """Make runs/NAME of a folder: config.json, the tokenizer (that of `place`, if it is not beside the weights), and the weights as checkpoint 0."""
    if not os.path.isdir(folder):
        raise ValueError(f"there is no folder {folder}")
    there = set(os.listdir(folder))
    with contextlib.ExitStack() as stack:
        if "config.json" in there:
            layout, cfg = read_config(folder)
            found = open_safetensors(folder, layout, stack)
        elif {"params.json", "consolidated.00.pth"} <= there:
            layout, (cfg, found) = "meta", open_meta(folder)
        else:
            raise ValueError(f"{folder} has neither config.json (Hugging Face) nor params.json and consolidated.00.pth (Meta)")
        cfg = dataclasses.replace(cfg, context=context or cfg.context)
        parameters = fit(layout, cfg, found, folder)
        place = place or (f"{folder}/.." if layout == "meta" and not {"tokenizer.model", "tokenizer.json"} & there else folder)        # Meta's sizes share one
        try:
            tokenizer = tokenizers.load(place)
        except ValueError as e:
            raise ValueError(f"{e}; a tokenizer that is elsewhere is given by --tokenizer DIR") from e
        if tokenizer.vocab > cfg.vocab:
            raise ValueError(f"the tokenizer of {place} has {tokenizer.vocab:,} entries and the embedding {cfg.vocab:,} rows: they do not belong together")
        facts = {"size": "imported", "model": dataclasses.asdict(cfg), "tokenizer": {"kind": tokenizer.kind, "fingerprint": tokenizers.fingerprint(tokenizer)}, "torch": torch.__version__,
                 "imported": {"from": os.path.basename(os.path.abspath(folder)), "architecture": "llama" if layout == "meta" else layout, "eos": ends(folder, tokenizer, cfg.vocab)}}

        def tensors():
            for ours in parameters:
                parts = {name: found[name].read() for name in names(layout, ours)}
                for name, t in parts.items():
                    if not all(map(math.isfinite, t.aminmax())):
                        raise ValueError(f"{found[name].file}: {name} has values that are NaN or infinite")
                yield ours, to_ours(layout, ours, list(parts.values()), cfg)
        with whole(run) as new:
            at = f"{new}/checkpoints/{0:07d}"
            write(f"{at}/model", tensors(), size, f"importing {folder}", sum(math.prod(f.shape) * f.dtype.itemsize for f in found.values()))
            tokenizer.save(f"{new}/tokenizer")
            config.write_json(f"{new}/config.json", facts)
            checkpoint.seal(at, {"step": 0, "tokens": 0})
    if not tokenizer.lossless:
        print("its tokenizer changes texts before it reads them, as SentencePiece was told to (extra spaces go, say): they do not come back to the letter, and other "
              "readers of the same file, transformers 5 among them, may leave that out and give other ids")
    print(f"wrote {run}: {sum(p.numel() for p in parameters.values()):,} parameters, {cfg.layers} layers of {cfg.dim}, {cfg.heads} heads, rows of {cfg.context:,} tokens; tokenizer of {tokenizer.vocab:,} entries\n"
          f"now: python sample.py {run} --prompt \"...\"")


def empty(cfg, run, step):
    """A model without values, each parameter in the dtype that the run's checkpoints have."""
    dtypes = {}
    for s in checkpoint.steps(run) if step is None else [step]:
        folder = f"{run}/checkpoints/{s:07d}/model"
        for file in os.listdir(folder) if os.path.isdir(folder) else ():
            with contextlib.suppress(SafetensorError), safe_open(f"{folder}/{file}", framework="pt") as f:       # of a damaged one checkpoint.newest() speaks
                dtypes |= {name: DTYPES[f.get_slice(name).get_dtype()] for name in f.keys()}
    with torch.device("meta"):
        model = Transformer(cfg)
    for name, p in model.named_parameters():
        p.data = p.data.to(dtypes.get(name, torch.float32))
    return model.to_empty(device="cpu")


def export_run(run, out, step=None, size=5e9, licence=None):
    """Write a run's model as a folder that transformers opens, with a model card."""
    facts = checkpoint.open_run(run).facts
    tokenizer = checkpoint.open_run(run).tokenizer()
    cfg = config.Model(**facts["model"])
    family, model = family_of(cfg, run), empty(cfg, run, step)
    if (state := checkpoint.newest(run, model, step=step)) is None:
        raise ValueError(f"{run} has no checkpoint yet")
    eos = facts.get("imported", {}).get("eos", sorted(tokenizer.ends))
    theirs = their_config(family, cfg, model.blocks[0].mlp.up.out_features, tokenizer, eos[0] if len(eos) == 1 else eos or None,
                          functools.reduce(torch.promote_types, (p.dtype for p in model.parameters())))
    draws = {"do_sample": True, "temperature": 0.8, "top_p": 0.95, "top_k": 0} if "run" in facts else {}        # as sample.py does; transformers' own top_k is 50
    tensors = ((name, t) for ours, p in model.named_parameters() for name, t in zip(names(family, ours), to_theirs(family, ours, p.detach(), cfg)))
    with whole(out) as new:
        total = sum(p.nbytes for p in model.parameters())
        files = write(new, tensors, size, f"exporting {run}", total)
        if len(set(files.values())) > 1:
            config.write_json(f"{new}/model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": files})
        config.write_json(f"{new}/config.json", theirs)
        config.write_json(f"{new}/generation_config.json", {**{k: theirs[k] for k in ("bos_token_id", "eos_token_id", "pad_token_id")}, **draws,
                                                            "suppress_tokens": list(range(tokenizer.vocab, cfg.vocab)) or None})        # rows without an entry
        tokenizer.save(new)
        with open(f"{new}/README.md", "w", encoding="utf-8") as f:
            f.write(card(run, facts, cfg, model, tokenizer, state, licence))
    print(f"wrote {out}: {count(model):,} parameters of step {state['step']} as {family.title()}ForCausalLM, tokenizer and model card\nnow: read {out}/README.md"
          + "; without --licence it permits nothing" * (not licence))


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sub = ap.add_subparsers(required=True, dest="act", metavar="import|export")
    i = sub.add_parser("import", help="a folder from Hugging Face or Meta becomes runs/NAME")
    i.add_argument("folder", metavar="HF_DIR", help="with config.json; or Meta's, with params.json")
    i.add_argument("run", metavar="runs/NAME")
    i.add_argument("--tokenizer", metavar="DIR", help="where tokenizer.json or tokenizer.model is (default: HF_DIR; for Meta's, which share one, the folder above)")
    i.add_argument("--context", type=int, help="tokens in a row of its training (default: what config.json says; Meta's files do not, 2048)")
    e = sub.add_parser("export", help="runs/NAME becomes a folder for transformers")
    e.add_argument("run", metavar="runs/NAME")
    e.add_argument("out", metavar="DIR")
    e.add_argument("--step", type=int, help="the checkpoint of this step (default: the newest)")
    e.add_argument("--licence", metavar="TEXT", help="the model's, for its card; of the names Hugging Face knows, such as cc-by-4.0")
    for p in (i, e):
        p.add_argument("--shard-size", type=float, default=5e9, metavar="BYTES", help="of a file of weights, at most (default: 5e9)")
    a = ap.parse_args()
    if a.act == "import" and a.context is not None and a.context < 1:
        raise ValueError(f"--context {a.context}: it is a number of tokens above 0")
    if not a.shard_size > 0:
        raise ValueError(f"--shard-size {a.shard_size:g}: it is a number of bytes above 0")
    if a.act == "import":
        import_folder(a.folder.rstrip("/") or "/", a.run.rstrip("/"), a.tokenizer, a.shard_size, a.context)
    else:
        export_run(a.run.rstrip("/"), a.out.rstrip("/"), a.step, a.shard_size, a.licence)


if __name__ == "__main__":
    config.command(main)
