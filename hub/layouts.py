"""What stands where in the files of others: tensors and settings of BLOOM and LLaMA at Hugging Face, and of LLaMA as Meta hands it out, beside ours.

convert.py uses it in both directions. Read it from NAMES to their_config().

Letters: C model width   H heads   K key heads   D head width (C // H)   F mlp width
"""
import dataclasses
import json
import re

import torch

import config
from model import mlp_width

# Our parameters, and the tensors they are made of: of BLOOM and LLaMA at Hugging Face, and of LLaMA in Meta's files. N is the layer.
NAMES = {
    "embed":             ("transformer.word_embeddings",                       "model.embed_tokens",                       "tok_embeddings"),
    "embed_norm":        ("transformer.word_embeddings_layernorm",             None,                                       None),
    "blocks.N.norm1":    ("transformer.h.N.input_layernorm",                   "model.layers.N.input_layernorm",           "layers.N.attention_norm"),
    "blocks.N.attn.qkv": ("transformer.h.N.self_attention.query_key_value",    "model.layers.N.self_attn.{q,k,v}_proj",    "layers.N.attention.w{q,k,v}"),
    "blocks.N.attn.out": ("transformer.h.N.self_attention.dense",              "model.layers.N.self_attn.o_proj",          "layers.N.attention.wo"),
    "blocks.N.norm2":    ("transformer.h.N.post_attention_layernorm",          "model.layers.N.post_attention_layernorm",  "layers.N.ffn_norm"),
    "blocks.N.mlp.gate": (None,                                                "model.layers.N.mlp.gate_proj",             "layers.N.feed_forward.w1"),
    "blocks.N.mlp.up":   ("transformer.h.N.mlp.dense_h_to_4h",                 "model.layers.N.mlp.up_proj",               "layers.N.feed_forward.w3"),
    "blocks.N.mlp.down": ("transformer.h.N.mlp.dense_4h_to_h",                 "model.layers.N.mlp.down_proj",             "layers.N.feed_forward.w2"),
    "norm":              ("transformer.ln_f",                                  "model.norm",                               "norm"),
    "head":              ("lm_head",                                           "lm_head",                                  "output"),
}
LAYOUTS = ("bloom", "llama", "meta")        # the columns
SWITCHES = {"bloom": dict(position="alibi", norm="layer", mlp="gelu", bias=True, embed_norm=True),
            "llama": dict(position="rope", norm="rms", mlp="swiglu", bias=False, embed_norm=False)}
# Our settings: the value that stands where none is given, transformers' default; then the keys in config.json or params.json. An export writes the first key
KEYS = {
    "bloom": {"layers": (2, "n_layer", "num_hidden_layers"), "dim": (64, "hidden_size", "n_embed"), "heads": (8, "n_head", "num_attention_heads"), "eps": (1e-5, "layer_norm_epsilon"),
              "init_std": (0.02, "initializer_range"), "context": (2048, "seq_length"), "vocab": (250_880, "vocab_size")},
    "llama": {"layers": (32, "num_hidden_layers"), "dim": (4096, "hidden_size"), "heads": (32, "num_attention_heads"), "eps": (1e-6, "rms_norm_eps"), "init_std": (0.02, "initializer_range"),
              "context": (2048, "max_position_embeddings"), "vocab": (32_000, "vocab_size"), "kv_heads": (None, "num_key_value_heads"), "mlp_dim": (11_008, "intermediate_size"),
              "theta": (1e4, "rope_theta", "rope_parameters.rope_theta")},
    "meta": {"layers": ("needed", "n_layers"), "dim": ("needed", "dim"), "heads": ("needed", "n_heads"), "eps": ("needed", "norm_eps"), "init_std": (0.02,), "context": (2048, "max_seq_len"),
             "vocab": ("needed", "vocab_size"), "kv_heads": (None, "n_kv_heads"), "mlp_dim": (None,), "theta": (1e4, "rope_theta")},
}
# with any other value of these it is another model
PLAIN = {"bloom": {"apply_residual_connection_post_layernorm": False, "n_inner": None, "quantization_config": None},
         "llama": {"hidden_act": "silu", "attention_bias": False, "mlp_bias": False, "sliding_window": None, "num_local_experts": None, "num_experts": None,
                   "partial_rotary_factor": 1, "rope_interleaved": False, "quantization_config": None},
         "meta": {"use_scaled_rope": False}}


def names(layout, ours):
    """The tensors that make our parameter. names("llama", "blocks.3.attn.out.weight") -> ["model.layers.3.self_attn.o_proj.weight"]"""
    part, kind = ours.rsplit(".", 1)
    layer = re.search(r"\.\d+\.", part)
    theirs = NAMES[re.sub(r"\.\d+\.", ".N.", part)][LAYOUTS.index(layout)]
    theirs = f"{theirs.replace('.N.', layer[0]) if layer else theirs}.{kind}"
    return [theirs.replace("{q,k,v}", x) for x in "qkv"] if "{" in theirs else [theirs]


def to_ours(layout, ours, parts, cfg):
    """Their tensors as our parameter `ours`. The rows of qkv are ({q, k, v}, head, D) here; BLOOM's are (head, {q, k, v}, D), and LLaMA's are three
    matrices. In Meta's, RoPE turns rows (2i, 2i + 1) of each head of q and k; here and at Hugging Face (i, i + D/2)."""
    H, D = cfg.heads, cfg.dim // cfg.heads
    if layout == "bloom" and "qkv" in ours:
        return parts[0].unflatten(0, (H, 3, D)).transpose(0, 1).flatten(0, 2)
    if layout == "meta" and "qkv" in ours:
        parts = [p.unflatten(0, (-1, D // 2, 2)).transpose(1, 2).flatten(0, 2) for p in parts[:2]] + parts[2:]
    return torch.cat(parts) if len(parts) > 1 else parts[0]


def to_theirs(layout, ours, p, cfg):
    """The other way. On the meta device this tells the shapes, which is all that is asked of Meta's layout."""
    H, K, D = cfg.heads, cfg.kv_heads or cfg.heads, cfg.dim // cfg.heads
    if "qkv" not in ours:
        return [p]
    return [p.unflatten(0, (3, H, D)).transpose(0, 1).flatten(0, 2)] if layout == "bloom" else [x.clone() for x in p.split((H * D, K * D, K * D))]


def read(path):
    """The object in a JSON file."""
    facts = config.read_json(path)
    if not isinstance(facts, dict):
        raise ValueError(f"{path} holds no JSON object")
    return facts


def settings(layout, facts, path, **known):
    """The config.Model that a JSON object describes; `known` are settings that stand elsewhere. What the paper's rule gives is None, as in a config of ours."""
    for key, plain in PLAIN[layout].items():
        if facts.get(key) not in (None, plain):
            raise ValueError(f"{path}: {key}={facts[key]!r:.80} is not supported; it must be {json.dumps(plain)}")
    for name, (default, *keys) in KEYS[layout].items():
        there, kind = {k: facts[k] for k in keys if facts.get(k) is not None}, float if name in ("eps", "init_std", "theta") else int
        for key, v in there.items():
            if name not in known and (type(v) not in (int, float) or not 0 < v < (2 ** 24 if kind is int else 1e12) or kind is int and v != int(v)):
                raise ValueError(f"{path}: {key}={v!r:.40} must be a {'whole ' * (kind is int)}number above 0 and not absurdly large")
            if v != next(iter(there.values())):
                raise ValueError(f"{path}: {' and '.join(f'{k}={v!r:.40}' for k, v in there.items())} contradict each other")
        value = next(iter(there.values()), default)
        if value == "needed" and name not in known:
            raise ValueError(f"{path} does not say {keys[0]}")
        known.setdefault(name, value if value is None else kind(value))
    m = config.Model(**SWITCHES["bloom" if layout == "bloom" else "llama"], **known)
    if m.dim % m.heads or m.heads % (m.kv_heads or 1) or m.position == "rope" and m.dim // m.heads % 2:
        raise ValueError(f"{path}: width {m.dim}, {m.heads} heads and {m.kv_heads or m.heads} key heads do not go together")
    rule = mlp_width(m.mlp, m.dim)
    return dataclasses.replace(m, mlp_dim=None if m.mlp_dim == rule else m.mlp_dim, kv_heads=None if m.kv_heads == m.heads else m.kv_heads)


def read_config(folder):
    """(family, config.Model) from the config.json of a Hugging Face folder. A key that is missing means transformers' default."""
    path = f"{folder}/config.json"
    facts = read(path)
    family, classes = facts.get("model_type"), facts.get("architectures") or []
    if family not in ("bloom", "llama") or not isinstance(classes, list) or any(c not in (f"{family.title()}ForCausalLM", f"{family.title()}Model") for c in classes):
        raise ValueError(f"{path}: model_type={family!r:.40}, architectures={classes!r:.80} is not supported; BloomForCausalLM and LlamaForCausalLM are")
    tied = facts.get("tie_word_embeddings", family == "bloom")
    if type(tied) is not bool:
        raise ValueError(f"{path}: tie_word_embeddings={tied!r:.40} must be true or false")
    rope = {}
    for key in ("rope_scaling", "rope_parameters"):         # the second is transformers 5's, and has theta in it
        if not isinstance(facts.get(key) or {}, dict):
            raise ValueError(f"{path}: {key}={facts[key]!r:.40} must be an object")
        part = facts.get(key) or {}
        if [part.get("rope_type", "default"), part.get("type", "default")] != ["default", "default"] or part.get("partial_rotary_factor", 1) != 1 or any(isinstance(v, dict) for v in part.values()):
            raise ValueError(f"{path}: RoPE as in {key}={part!r:.200} is not supported; only rope_type 'default' is")
        rope |= part
    cfg = settings(family, {**facts, "rope_parameters.rope_theta": rope.get("rope_theta")}, path, tied=tied)
    if facts.get("head_dim") not in (None, cfg.dim // cfg.heads):
        raise ValueError(f"{path}: head_dim={facts['head_dim']!r:.40} is not supported; it must be hidden_size / num_attention_heads = {cfg.dim // cfg.heads}")
    return family, cfg


def family_of(cfg, run):
    """Which of transformers' two models has these choices. A mixture that neither has is refused, naming what the nearer one has not."""
    wrong = {family: [f"model.{k}={getattr(cfg, k)}" for k, v in switches.items() if getattr(cfg, k) != v] for family, switches in SWITCHES.items()}
    wrong["bloom"] += [f"model.{k}={v}" for k, v, only in (("kv_heads", cfg.kv_heads, cfg.heads), ("mlp_dim", cfg.mlp_dim, 4 * cfg.dim)) if v not in (None, only)]
    family = min(wrong, key=lambda f: len(wrong[f]))
    if wrong[family]:
        raise ValueError(f"{run} cannot be exported: transformers' {family.title()} has no {', '.join(wrong[family])}")
    return family


def their_config(family, cfg, F, tokenizer, eos, dtype):
    """config.json as transformers reads it, version 4 the one theta, 5 the other."""
    values = {**dataclasses.asdict(cfg), "kv_heads": cfg.kv_heads or cfg.heads, "mlp_dim": F}
    return {"architectures": [f"{family.title()}ForCausalLM"], "model_type": family, **{keys[0]: values[name] for name, (_, *keys) in KEYS[family].items()},
            **({"hidden_act": "silu", "head_dim": cfg.dim // cfg.heads, "rope_parameters": {"rope_type": "default", "rope_theta": cfg.theta}} if family == "llama" else {}),
            "tie_word_embeddings": cfg.tied, "dtype": str(dtype).removeprefix("torch."), "bos_token_id": tokenizer.bos, "eos_token_id": eos, "pad_token_id": tokenizer.pad}
