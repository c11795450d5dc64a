"""Where things stand in the files of others, beside ours: names of tensors, order of their rows, settings.

There are three layouts: "bloom" and "llama" are those of Hugging Face, "meta" is LLaMA as Meta hands it out.
`python convert.py` reads all three, and writes the first two. Read it from NAMES to their_config().

Letters: C model width   H heads   K key heads   D head width (C // H)
"""
import contextlib
import dataclasses
import json
import math

import torch

import config
from model import mlp_width

LAYOUTS = ("bloom", "llama", "meta")                                    # the columns of NAMES and KEYS
PREFIX = {"bloom": "transformer.", "llama": "model.", "meta": ""}       # of all tensors but the head
BLOCK = {"bloom": "h", "llama": "layers", "meta": "layers"}              # our blocks.3 is layers.3 there
NAMES = {
    "embed":      ("word_embeddings",                "embed_tokens",             "tok_embeddings"),
    "embed_norm": ("word_embeddings_layernorm",      None,                       None),
    "norm1":      ("input_layernorm",                "input_layernorm",          "attention_norm"),
    "attn.qkv":   ("self_attention.query_key_value", "self_attn.{q,k,v}_proj",   "attention.w{q,k,v}"),
    "attn.out":   ("self_attention.dense",           "self_attn.o_proj",         "attention.wo"),
    "norm2":      ("post_attention_layernorm",       "post_attention_layernorm", "ffn_norm"),
    "mlp.gate":   (None,                             "mlp.gate_proj",            "feed_forward.w1"),
    "mlp.up":     ("mlp.dense_h_to_4h",              "mlp.up_proj",              "feed_forward.w3"),
    "mlp.down":   ("mlp.dense_4h_to_h",              "mlp.down_proj",            "feed_forward.w2"),
    "norm":       ("ln_f",                           "norm",                     "norm"),
    "head":       ("lm_head",                        "lm_head",                  "output"),
}
# Keys in config.json or params.json. Of two keys the first that is there counts; an export writes the first.
KEYS = {
    "layers":   ("n_layer num_hidden_layers",  "num_hidden_layers",       "n_layers"),
    "dim":      ("hidden_size n_embed",        "hidden_size",             "dim"),
    "heads":    ("n_head num_attention_heads", "num_attention_heads",     "n_heads"),
    "vocab":    ("vocab_size",                 "vocab_size",              "vocab_size"),
    "eps":      ("layer_norm_epsilon",         "rms_norm_eps",            "norm_eps"),
    "init_std": ("initializer_range",          "initializer_range",       ""),
    "context":  ("seq_length",                 "max_position_embeddings", "max_seq_len"),
    "kv_heads": ("",                           "num_key_value_heads",     "n_kv_heads"),
    "mlp_dim":  ("",                           "intermediate_size",       ""),
    "theta":    ("",                           "rope_theta",              "rope_theta"),
}
DEFAULTS = {"bloom": {"eps": 1e-5}, "llama": {"eps": 1e-6}, "meta": {}}     # those of transformers
NEEDED = ("layers", "dim", "heads", "vocab", "eps")
SWITCHES = {"bloom": {"position": "alibi", "norm": "layer", "mlp": "gelu", "bias": True, "embed_norm": True},
            "llama": {"position": "rope", "norm": "rms", "mlp": "swiglu", "bias": False, "embed_norm": False}}
# With any other value of these keys it is another model. What a model has too much also shows in its tensors.
PLAIN = {
    "bloom": {"apply_residual_connection_post_layernorm": False},
    "llama": {"hidden_act": "silu", "attention_bias": False, "mlp_bias": False, "sliding_window": None,
              "partial_rotary_factor": 1},
    "meta": {"use_scaled_rope": False},
}
PLAIN_ROPE = {"rope_type": "default", "type": "default", "partial_rotary_factor": 1}
LARGEST = 2 ** 24       # a larger size is damage, and PyTorch could not count the numbers of a matrix


# ---- tensors ----

def names(layout, ours):
    """The tensors that make our parameter.

    names("llama", "blocks.3.attn.out.weight") -> ["model.layers.3.self_attn.o_proj.weight"]
    """
    part, kind = ours.rsplit(".", 1)
    before = "" if part == "head" else PREFIX[layout]
    if part.startswith("blocks."):
        _, layer, part = part.split(".", 2)
        before += f"{BLOCK[layout]}.{layer}."
    theirs = f"{before}{NAMES[part][LAYOUTS.index(layout)]}.{kind}"
    if "{q,k,v}" not in theirs:
        return [theirs]
    return [theirs.replace("{q,k,v}", x) for x in "qkv"]


def to_ours(layout, ours, parts, cfg):
    """Their tensors `parts` as our parameter `ours`.

    The rows of our qkv are ({q, k, v}, head, D), and BLOOM's (head, {q, k, v}, D). LLaMA has three matrices.
    RoPE turns rows (i, i + D/2) of each head here and at Hugging Face, but (2i, 2i + 1) in Meta's q and k.
    """
    H, D = cfg.heads, cfg.dim // cfg.heads
    if ".attn.qkv." not in ours:
        return parts[0]
    if layout == "bloom":
        return parts[0].unflatten(0, (H, 3, D)).transpose(0, 1).flatten(0, 2)
    if layout == "meta":
        q, k = [p.unflatten(0, (-1, D // 2, 2)).transpose(1, 2).flatten(0, 2) for p in parts[:2]]
        parts = [q, k, parts[2]]
    return torch.cat(parts)


def to_theirs(layout, ours, p, cfg):
    """The other way, for Hugging Face. Of Meta's layout only the shapes are right, and only they are used."""
    H, K, D = cfg.heads, cfg.kv_heads or cfg.heads, cfg.dim // cfg.heads
    if ".attn.qkv." not in ours:
        return [p]
    if layout == "bloom":
        return [p.unflatten(0, (3, H, D)).transpose(0, 1).flatten(0, 2)]
    return [part.clone() for part in p.split((H * D, K * D, K * D))]


# ---- settings ----

def setting(name, key, value):
    """The value of somebody's `key` for our setting `name`: a number above 0, and whole if it is a size."""
    size = name not in ("eps", "init_std", "theta")
    with contextlib.suppress(TypeError, OverflowError):
        found = config.fit(value, int if size else float)
        if 0 < found < (LARGEST if size else math.inf):
            return found
    raise ValueError(f"{key}={value!r:.40} must be a number above 0; a size is whole and below {LARGEST:,}")


def settings(layout, facts, **known):
    """The config.Model that a JSON object describes; `known` are settings that stand elsewhere."""
    for key, plain in PLAIN[layout].items():
        if facts.get(key) not in (None, plain):
            raise ValueError(f"{key}={facts[key]!r:.80} is not supported; it must be {json.dumps(plain)}")
    found = {"init_std": 0.02} | DEFAULTS[layout]
    for name, columns in KEYS.items():
        keys = columns[LAYOUTS.index(layout)].split()
        there = [key for key in keys if facts.get(key) is not None]
        if there and name not in known:
            found[name] = setting(name, there[0], facts[there[0]])
        elif name in NEEDED and name not in found | known:
            raise ValueError(f"it does not say {keys[0]}")
    switches = SWITCHES["bloom" if layout == "bloom" else "llama"]
    m = config.Model(**switches, **found | known)
    K = m.kv_heads or m.heads
    if m.dim % m.heads or m.heads % K or m.position == "rope" and m.dim // m.heads % 2:
        raise ValueError(f"width {m.dim}, {m.heads} heads and {K} key heads do not go together")
    return m


def rope_theta(facts):
    """The base of RoPE; transformers 5 writes it in rope_parameters. Only the plain RoPE is accepted."""
    theta = facts.get("rope_theta")
    for key in ("rope_scaling", "rope_parameters"):
        rope = facts.get(key) or {}
        scaled = any(rope.get(k) not in (None, plain) for k, plain in PLAIN_ROPE.items())
        if scaled or any(isinstance(v, dict) for v in rope.values()):
            raise ValueError(f"RoPE as in {key}={rope!r:.200} is not supported; only rope_type 'default' is")
        theta = rope.get("rope_theta", theta)
    return theta


def read_config(folder):
    """(layout, config.Model) from config.json of a Hugging Face folder."""
    path = f"{folder}/config.json"
    facts = config.read_json(path)
    with config.blame(path):
        family, classes = facts.get("model_type"), facts.get("architectures") or []
        title = str(family).title()
        if family not in SWITCHES or not set(classes) <= {f"{title}ForCausalLM", f"{title}Model"}:
            raise ValueError(f"model_type={family!r:.40}, architectures={classes!r:.80} is not supported; "
                             "BloomForCausalLM and LlamaForCausalLM are")
        with config.blame("tie_word_embeddings"):
            tied = config.fit(facts.get("tie_word_embeddings", family == "bloom"), bool)
        if family == "llama":
            facts["rope_theta"] = rope_theta(facts)
        cfg = settings(family, facts, tied=tied)
        D = cfg.dim // cfg.heads
        if facts.get("head_dim") not in (None, D):
            raise ValueError(f"head_dim={facts['head_dim']!r:.40} is not supported; it must be hidden_size / "
                             f"num_attention_heads = {D}")
    return family, cfg


def read_params(folder, shapes):
    """config.Model from Meta's params.json; {name: shape} of its tensors says what that file leaves out."""
    path = f"{folder}/params.json"
    facts = config.read_json(path)
    with config.blame(path):
        known = {"tied": False, "mlp_dim": shapes["layers.0.feed_forward.w1.weight"][0]}
        if facts.get("vocab_size") == -1:
            known["vocab"] = shapes["output.weight"][0]
        return settings("meta", facts, **known)


# ---- settings, the other way ----

def family_of(cfg, run):
    """The model of transformers that has these choices. The error says what the nearer one lacks."""
    wrong = {}
    for family, switches in SWITCHES.items():
        wrong[family] = [f"model.{k}={getattr(cfg, k)}" for k, v in switches.items() if getattr(cfg, k) != v]
    for key, value, only in ("kv_heads", cfg.kv_heads, cfg.heads), ("mlp_dim", cfg.mlp_dim, 4 * cfg.dim):
        if value not in (None, only):
            wrong["bloom"].append(f"model.{key}={value}")
    family = min(wrong, key=lambda f: len(wrong[f]))
    if wrong[family]:
        lacks = f"transformers' {family.title()} has no {', '.join(wrong[family])}"
        raise ValueError(f"{run} cannot be exported: {lacks}")
    return family


def their_config(family, cfg, dtype):
    """config.json as transformers reads it. Version 4 reads rope_theta, version 5 rope_parameters."""
    ours = dataclasses.asdict(cfg)
    ours["kv_heads"] = cfg.kv_heads or cfg.heads
    ours["mlp_dim"] = cfg.mlp_dim or mlp_width(cfg.mlp, cfg.dim)
    theirs = {"architectures": [f"{family.title()}ForCausalLM"], "model_type": family}
    for name, columns in KEYS.items():
        for key in columns[LAYOUTS.index(family)].split()[:1]:
            theirs[key] = ours[name]
    if family == "llama":
        theirs["hidden_act"] = "silu"
        theirs["head_dim"] = cfg.dim // cfg.heads
        theirs["rope_parameters"] = {"rope_type": "default", "rope_theta": cfg.theta}
    return theirs | {"tie_word_embeddings": cfg.tied, "dtype": dtype}
