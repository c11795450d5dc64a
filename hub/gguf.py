"""A run as one file for llama.cpp: `python convert.py export runs/bloom-toy toy.gguf --gguf`.

GGUF holds metadata (settings, vocabulary) and tensors. llama.cpp knows models and ways to cut texts by name,
so only the two models with their two kinds of tokenizer can be written. Needs `gguf`.
"""
import contextlib
import os

import torch

import checkpoint
from hub import layouts, tokenizer_files
from model import llama3_scaling, mlp_width
from tokenizer import BPE
from vocabulary import printable

NAMES = {
    "embed": "token_embd", "embed_norm": "token_embd_norm", "norm": "output_norm", "head": "output",
    "norm1": "attn_norm", "attn.qkv": "attn_qkv", "attn.out": "attn_output", "norm2": "ffn_norm",
    "mlp.gate": "ffn_gate", "mlp.up": "ffn_up", "mlp.down": "ffn_down"}


# ---- tensors ----

def interleaved(t, heads):
    """RoPE turns pairs half a head apart in ours, and neighbours there: the rows of q and k change places."""
    return t.unflatten(0, (heads, 2, -1)).transpose(1, 2).reshape(t.shape)


def to_theirs(family, ours, p, cfg, entries):
    """[(name, tensor)] of our parameter. Rows of the embedding without an entry are left out."""
    part, kind = ours.rsplit(".", 1)
    block = ""
    if part.startswith("blocks."):
        _, layer, part = part.split(".", 2)
        block = f"blk.{layer}."
    if part in ("embed", "head"):
        p = p[:entries]
    if part != "attn.qkv" or family == "bloom":         # BLOOM's rows are ({q, k, v}, head, D) in both
        return [(f"{block}{NAMES[part]}.{kind}", p)]
    q, k, v = layouts.to_theirs(family, ours, p, cfg)
    q, k = interleaved(q, cfg.heads), interleaved(k, cfg.kv_heads or cfg.heads)
    return [(f"{block}attn_{x}.{kind}", t) for x, t in zip("qkv", (q, k, v))]


def rope_factors(cfg):
    """By what Llama 3's scaling divides each frequency."""
    D = cfg.dim // cfg.heads
    frequency = cfg.theta ** (-torch.arange(0, D, 2).float() / D)
    return frequency / llama3_scaling(frequency, **cfg.scaling)


# ---- metadata ----

def write_shape(w, family, cfg, entries):
    w.add_vocab_size(entries)
    w.add_context_length(cfg.context)
    w.add_embedding_length(cfg.dim)
    w.add_block_count(cfg.layers)
    w.add_feed_forward_length(cfg.mlp_dim or mlp_width(cfg.mlp, cfg.dim))
    w.add_head_count(cfg.heads)
    w.add_head_count_kv(cfg.kv_heads or cfg.heads)
    if family == "bloom":
        w.add_layer_norm_eps(cfg.eps)
        return
    w.add_layer_norm_rms_eps(cfg.eps)
    w.add_rope_dimension_count(cfg.dim // cfg.heads)
    w.add_rope_freq_base(cfg.theta)
    if cfg.scaling and len(cfg.scaling) == 1:
        w.add_string("llama.rope.scaling.type", "linear")
        w.add_rope_scaling_factor(cfg.scaling["factor"])


def write_vocabulary(w, tokenizer, types):
    """`types` is gguf.TokenType."""
    special = {i: name for name, i in tokenizer.special_ids.items()}
    if type(tokenizer) is BPE:
        w.add_tokenizer_model("gpt2")
        w.add_tokenizer_pre("bloom")
        w.add_token_list([special.get(i, printable(entry)) for i, entry in enumerate(tokenizer.entries)])
        w.add_token_types([types.CONTROL if i in special else types.NORMAL for i in range(tokenizer.vocab)])
        w.add_token_merges([f"{printable(a)} {printable(b)}" for a, b in tokenizer.merges])
    elif tokenizer_files.is_plain(tokenizer):
        sp, ids = tokenizer.sp, range(tokenizer.vocab)
        normal = tokenizer_files.normal_ids(tokenizer)
        kinds = dict.fromkeys(ids, types.BYTE) | dict.fromkeys(normal, types.NORMAL)
        kinds |= dict.fromkeys(special, types.CONTROL) | {sp.unk_id(): types.UNKNOWN}
        w.add_tokenizer_model("llama")
        w.add_tokenizer_pre("default")
        w.add_token_list([sp.id_to_piece(i) for i in ids])
        w.add_token_scores([sp.get_score(i) for i in ids])
        w.add_token_types([kinds[i] for i in ids])
    else:
        raise ValueError("its tokenizer cannot be written: llama.cpp knows the ways to cut a text by name, "
                         "and this program those of BLOOM and LLaMA (SentencePiece BPE with byte fallback)")
    first = tokenizer_files.first_id(tokenizer)
    if len(tokenizer.ends) > 1:
        raise ValueError(f"the ids {sorted(tokenizer.ends)} end its texts; only one id can be written")
    ids = {"unk": tokenizer.unk, "pad": tokenizer.pad, "eos": next(iter(tokenizer.ends), None),
           "bos": tokenizer.bos if first is None else first}
    for role, i in ids.items():
        if i is not None:
            getattr(w, f"add_{role}_token_id")(i)
    w.add_add_bos_token(first is not None)
    w.add_add_space_prefix(tokenizer.space)


# ---- the file ----

def export_run(path, out, step=None, licence=None, dtype="float32"):
    """Write the model of a run to the file `out`. Vectors are always float32, as llama.cpp wants them."""
    try:
        import gguf
    except ImportError as e:
        raise ValueError("--gguf needs a library: pip install gguf") from e
    if os.path.exists(out):
        raise ValueError(f"{out} is there; choose another name, or delete it")
    run = checkpoint.open_run(path)
    cfg, tokenizer = run.shape, run.tokenizer()
    family = layouts.family_of(cfg, path)
    model, state = run.load(step=step)
    w = gguf.GGUFWriter(f"{out}.new", family)
    w.add_name(os.path.basename(path))
    if licence:
        w.add_license(licence)
    w.add_file_type(gguf.LlamaFileType.MOSTLY_F16 if dtype == "float16" else gguf.LlamaFileType.ALL_F32)
    write_shape(w, family, cfg, tokenizer.vocab)
    write_vocabulary(w, tokenizer, gguf.TokenType)
    if cfg.scaling and len(cfg.scaling) > 1:
        w.add_tensor("rope_freqs.weight", rope_factors(cfg).numpy())
    for ours, p in model.named_parameters():
        p = p.detach()
        if dtype == "float16" and p.dim() > 1:
            p = p.half()
            if not p.isfinite().all():
                raise ValueError(f"{ours} has numbers that float16 cannot hold; leave --dtype away")
        for name, t in to_theirs(family, ours, p, cfg, tokenizer.vocab):
            w.add_tensor(name, t.numpy())
    try:
        w.write_header_to_file()
        w.write_kv_data_to_file()
        w.write_tensors_to_file()
        w.close()
        os.rename(f"{out}.new", out)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.remove(f"{out}.new")
    print(f"wrote {out}: the model of step {state['step']} for llama.cpp, {dtype}")
