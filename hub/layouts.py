"""Where things stand in the files of Hugging Face, beside ours: names of tensors, order of rows, settings.

Letters: H heads   K key heads   D head width
"""
import dataclasses
import json

import torch

import config
from model import mlp_width

COLUMN = {"bloom": 0, "llama": 1}                           # in NAMES and KEYS
PREFIX = {"bloom": "transformer.", "llama": "model."}       # of all tensors but the head
NAMES = {
    "embed":      ("word_embeddings",                "embed_tokens"),
    "embed_norm": ("word_embeddings_layernorm",      None),
    "norm1":      ("input_layernorm",                "input_layernorm"),
    "attn.qkv":   ("self_attention.query_key_value", "self_attn.{q,k,v}_proj"),
    "attn.out":   ("self_attention.dense",           "self_attn.o_proj"),
    "norm2":      ("post_attention_layernorm",       "post_attention_layernorm"),
    "mlp.gate":   (None,                             "mlp.gate_proj"),
    "mlp.up":     ("mlp.dense_h_to_4h",              "mlp.up_proj"),
    "mlp.down":   ("mlp.dense_4h_to_h",              "mlp.down_proj"),
    "norm":       ("ln_f",                           "norm"),
    "head":       ("lm_head",                        "lm_head"),
}
# Keys in config.json. Of two keys the first that is there counts; an export writes the first.
KEYS = {
    "layers":   ("n_layer num_hidden_layers",  "num_hidden_layers"),
    "dim":      ("hidden_size n_embed",        "hidden_size"),
    "heads":    ("n_head num_attention_heads", "num_attention_heads"),
    "vocab":    ("vocab_size",                 "vocab_size"),
    "eps":      ("layer_norm_epsilon",         "rms_norm_eps"),
    "init_std": ("initializer_range",          "initializer_range"),
    "context":  ("seq_length",                 "max_position_embeddings"),
    "kv_heads": ("",                           "num_key_value_heads"),
    "mlp_dim":  ("",                           "intermediate_size"),
    "theta":    ("",                           "rope_theta"),
    "scaling":  ("",                           "rope_scaling"),
}
# The arguments of model.llama3_scaling(). The first alone is linear_scaling().
SCALING = {"factor": "factor", "low": "low_freq_factor", "high": "high_freq_factor",
           "original": "original_max_position_embeddings"}
SWITCHES = {"bloom": {"position": "alibi", "norm": "layer", "mlp": "gelu", "bias": True, "embed_norm": True},
            "llama": {"position": "rope", "norm": "rms", "mlp": "swiglu", "bias": False, "embed_norm": False}}
# With another value of these keys it is another model. Null is the default of each, which is this value.
PLAIN = {
    "bloom": {"apply_residual_connection_post_layernorm": False, "slow_but_exact": False,
              "quantization_config": None},
    "llama": {"hidden_act": "silu", "attention_bias": False, "mlp_bias": False, "sliding_window": None,
              "partial_rotary_factor": 1, "original_max_position_embeddings": None,
              "quantization_config": None}}


# ---- tensors ----

def names(family, ours):
    """The tensors that make our parameter.

    names("llama", "blocks.3.attn.out.weight") -> ["model.layers.3.self_attn.o_proj.weight"]
    """
    part, kind = ours.rsplit(".", 1)
    before = "" if part == "head" else PREFIX[family]
    if part.startswith("blocks."):
        _, layer, part = part.split(".", 2)
        before += f"{'h' if family == 'bloom' else 'layers'}.{layer}."
    theirs = f"{before}{NAMES[part][COLUMN[family]]}.{kind}"
    if "{q,k,v}" not in theirs:
        return [theirs]
    return [theirs.replace("{q,k,v}", x) for x in "qkv"]


def to_ours(family, ours, parts, cfg):
    """Their tensors `parts` as our parameter `ours`.

    The rows of our qkv are ({q, k, v}, head, D), and BLOOM's (head, {q, k, v}, D). LLaMA has three matrices.
    """
    if ".attn.qkv." not in ours:
        return parts[0]
    if family == "bloom":
        return parts[0].unflatten(0, (cfg.heads, 3, -1)).transpose(0, 1).flatten(0, 2)
    return torch.cat(parts)


def to_theirs(family, ours, p, cfg):
    """The other way."""
    H, K, D = cfg.heads, cfg.kv_heads or cfg.heads, cfg.dim // cfg.heads
    if ".attn.qkv." not in ours:
        return [p]
    if family == "bloom":
        return [p.unflatten(0, (3, H, D)).transpose(0, 1).flatten(0, 2)]
    return [part.clone() for part in p.split((H * D, K * D, K * D))]


# ---- settings ----

def read_scaling(rope):
    """The scaling of a rope_parameters or rope_scaling, as ours, or None."""
    kind = rope.get("rope_type") or rope.get("type") or "default"
    kinds = {"default": [], "linear": ["factor"], "llama3": list(SCALING)}
    wanted = [SCALING[name] for name in kinds.get(kind, [])]
    given = {}
    for key, x in rope.items():
        changes = x not in (None, 1) and key not in ("rope_type", "type", "rope_theta")
        if key in wanted or changes:
            given[key] = x
    if kind not in kinds or set(given) != set(wanted):
        raise ValueError(f"RoPE of kind {kind!r} with {given!r:.200} is not supported; default, linear and "
                         "llama3 are")
    scaling = {name: float(given[SCALING[name]]) for name in kinds[kind]}
    if scaling and not scaling["factor"] > 0 or scaling.get("low", 0) >= scaling.get("high", 1):
        raise ValueError(f"RoPE scaled by {given!r:.200}: the factor must be above 0, and low_freq_factor "
                         "below high_freq_factor")
    return scaling or None


def read_rope(facts):
    """(base, scaling as ours or None). Version 4 of transformers has rope_theta and rope_scaling, version 5
    has both in rope_parameters, and prefers rope_scaling. If a file has both, they must say the same."""
    theta = facts.get("rope_theta") or 10_000.0
    ropes = [dict(facts[key]) for key in ("rope_parameters", "rope_scaling") if facts.get(key)] or [{}]
    scalings = [read_scaling(rope) for rope in ropes]
    thetas = {rope.get("rope_theta") or theta for rope in ropes}
    if facts.get("rope_theta"):
        thetas.add(theta)
    if len(thetas) > 1 or scalings[0] != scalings[-1]:
        raise ValueError("rope_theta, rope_parameters and rope_scaling say different things; keep one")
    return thetas.pop(), scalings[0]


def their_rope(cfg):
    """rope_parameters of transformers 5."""
    kind = "default" if not cfg.scaling else "linear" if len(cfg.scaling) == 1 else "llama3"
    scaling = {SCALING[name]: value for name, value in (cfg.scaling or {}).items()}
    return {"rope_type": kind, "rope_theta": cfg.theta, **scaling}


def read_config(folder):
    """(family, config.Model) from config.json of a folder."""
    path = f"{folder}/config.json"
    facts = config.read_json(path)
    with config.blame(path):
        family = facts.get("model_type")
        if family not in SWITCHES:
            raise ValueError(f"model_type {family!r:.40} is not supported; bloom and llama are")
        for key, plain in PLAIN[family].items():
            if facts.get(key) not in (None, plain):
                raise ValueError(f"{key}={facts[key]!r:.80} is not supported; it must be {json.dumps(plain)}")
        facts["rope_theta"], facts["rope_scaling"] = read_rope(facts)
        found = {"tied": facts.get("tie_word_embeddings", family == "bloom")}
        for name, columns in KEYS.items():
            given = {key: facts[key] for key in columns[COLUMN[family]].split() if facts.get(key) is not None}
            for value in given.values():
                if value != found.setdefault(name, value):
                    raise ValueError(f"{given} say different things; keep one of them")
            if not given and name in ("layers", "dim", "heads", "vocab", "eps"):
                raise KeyError(columns[COLUMN[family]])
        cfg = config.Model(**SWITCHES[family], **{"init_std": 0.02, **found})
    config.check_types(cfg, path)
    with config.blame(path):
        config.check_model(cfg)
        if facts.get("head_dim") not in (None, cfg.dim / cfg.heads):
            raise ValueError(f"head_dim={facts['head_dim']!r:.80} is not supported; it must be hidden_size / "
                             f"num_attention_heads, {cfg.dim} / {cfg.heads}")
    return family, cfg


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
        theirs["rope_parameters"] = their_rope(cfg)
        theirs["rope_scaling"] = their_rope(cfg) if cfg.scaling else None
    return theirs | {"tie_word_embeddings": cfg.tied, "dtype": dtype}


def family_of(cfg, run):
    """The model of transformers that has these choices. The MLP says which one a mixture should have been."""
    family = "bloom" if cfg.mlp == "gelu" else "llama"
    allowed = {key: [value] for key, value in SWITCHES[family].items()}
    if family == "bloom":
        allowed |= {"kv_heads": [None, cfg.heads], "mlp_dim": [None, 4 * cfg.dim]}
    wrong = [f"model.{key}={getattr(cfg, key)}" for key, values in allowed.items()
             if getattr(cfg, key) not in values]
    if wrong:
        raise ValueError(f"{run} cannot be exported: {family.title()}ForCausalLM has no {', '.join(wrong)}")
    return family
