"""Where things stand in the files of others, beside ours: names of tensors, order of their rows, settings.

There are three layouts: "bloom" and "llama" are those of Hugging Face, "meta" is LLaMA as Meta hands it out.
`python convert.py` reads all three, and writes the first two.

Letters: H heads   K key heads   D head width
"""
import dataclasses
import json
import typing

import torch

import config
from model import mlp_width

COLUMN = {"bloom": 0, "llama": 1, "meta": 2}                            # in NAMES and KEYS
PREFIX = {"bloom": "transformer.", "llama": "model.", "meta": ""}       # of all tensors but the head
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
    "mlp_dim":  ("",                           "intermediate_size",       "mlp_dim"),
    "theta":    ("",                           "rope_theta",              "rope_theta"),
}
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


# ---- tensors ----

def names(layout, ours):
    """The tensors that make our parameter.

    names("llama", "blocks.3.attn.out.weight") -> ["model.layers.3.self_attn.o_proj.weight"]
    """
    part, kind = ours.rsplit(".", 1)
    before = "" if part == "head" else PREFIX[layout]
    if part.startswith("blocks."):
        _, layer, part = part.split(".", 2)
        before += f"{'h' if layout == 'bloom' else 'layers'}.{layer}."
    theirs = f"{before}{NAMES[part][COLUMN[layout]]}.{kind}"
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

def settings(layout, facts, tied):
    """The config.Model that a JSON object describes."""
    for key, plain in PLAIN[layout].items():
        if facts.get(key) not in (None, plain):
            raise ValueError(f"{key}={facts[key]!r:.80} is not supported; it must be {json.dumps(plain)}")
    found = {"init_std": 0.02, "tied": tied}
    types = typing.get_type_hints(config.Model)
    for name, columns in KEYS.items():
        keys = columns[COLUMN[layout]].split()
        there = [key for key in keys if facts.get(key) is not None]
        if there:
            with config.blame(there[0]):
                found[name] = config.fit(facts[there[0]], types[name])
                if not found[name] > 0:
                    raise ValueError(f"{found[name]} must be above 0")
        elif name in NEEDED:
            raise ValueError(f"it does not say {keys[0]}")
    return config.Model(**SWITCHES["bloom" if layout == "bloom" else "llama"], **found)


def rope_theta(facts):
    """The base of RoPE; transformers 5 writes it in rope_parameters. Only the plain RoPE is accepted."""
    theta = facts.get("rope_theta")
    for key in ("rope_scaling", "rope_parameters"):
        rope = dict(facts.get(key) or {})
        theta = rope.pop("rope_theta", theta)
        if any(value not in (None, 1, "default") for value in rope.values()):
            raise ValueError(f"RoPE as in {key}={rope!r:.200} is not supported; only rope_type 'default' is")
    return theta


def read_config(folder):
    """(layout, config.Model) from config.json of a Hugging Face folder."""
    path = f"{folder}/config.json"
    facts = config.read_json(path)
    with config.blame(path):
        family, classes = facts.get("model_type"), facts.get("architectures") or []
        title = str(family).title()
        if family not in SWITCHES or not set(classes) <= {f"{title}ForCausalLM", f"{title}Model"}:
            raise ValueError(f"{family!r:.40}, {classes!r:.80} is not supported; BloomForCausalLM and "
                             "LlamaForCausalLM are")
        facts["rope_theta"] = rope_theta(facts)
        return family, settings(family, facts, facts.get("tie_word_embeddings", family == "bloom"))


def read_params(folder, found):
    """config.Model from Meta's params.json, and from {name: slices} of its tensors what that does not say."""
    path = f"{folder}/params.json"
    facts = config.read_json(path)
    with config.blame(path):
        for key, name in {"vocab_size": "output", "mlp_dim": "layers.0.feed_forward.w1"}.items():
            facts[key] = sum(len(part) for part in found[f"{name}.weight"])
        return settings("meta", facts, tied=False)


# ---- settings, the other way ----

def family_of(cfg, run):
    """The model of transformers that has these choices. The error says what the nearer one lacks."""
    wrong = {}
    for family, switches in SWITCHES.items():
        wrong[family] = [f"model.{k}={getattr(cfg, k)}" for k, v in switches.items() if getattr(cfg, k) != v]
    for key, only in {"kv_heads": cfg.heads, "mlp_dim": 4 * cfg.dim}.items():
        if getattr(cfg, key) not in (None, only):
            wrong["bloom"].append(f"model.{key}={getattr(cfg, key)}")
    family = min(wrong, key=lambda f: len(wrong[f]))
    if wrong[family]:
        lacks = ", ".join(wrong[family])
        raise ValueError(f"{run} cannot be exported: transformers' {family.title()} has no {lacks}")
    return family


def their_config(family, cfg, dtype):
    """config.json as transformers reads it."""
    ours = dataclasses.asdict(cfg)
    ours["kv_heads"] = cfg.kv_heads or cfg.heads
    ours["mlp_dim"] = cfg.mlp_dim or mlp_width(cfg.mlp, cfg.dim)
    theirs = {"architectures": [f"{family.title()}ForCausalLM"], "model_type": family}
    for name, columns in KEYS.items():
        for key in columns[COLUMN[family]].split()[:1]:
            theirs[key] = ours[name]
    if family == "llama":       # version 4 of transformers reads rope_theta, version 5 rope_parameters
        theirs["hidden_act"] = "silu"
        theirs["head_dim"] = cfg.dim // cfg.heads
        theirs["rope_parameters"] = {"rope_type": "default", "rope_theta": cfg.theta}
    return theirs | {"tie_word_embeddings": cfg.tied, "dtype": dtype}
