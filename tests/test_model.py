import pytest
import torch
import torch.nn.functional as F
from conftest import ROOT

import config
import model as M
from model import IGNORE, SINKS, Cache, Transformer, alibi_slopes, count, flops_per_token, init

PUBLISHED = {      # BLOOM: counted from its published checkpoints; LLaMA: from the shapes in the paper's Table 2
    "bloom": {"560m": 559_214_592, "1b1": 1_065_314_304, "1b7": 1_722_408_960, "3b": 3_002_557_440, "7b1": 7_069_016_064, "176b": 176_247_271_424},
    "llama": {"7b": 6_738_415_616, "13b": 13_015_864_320, "33b": 32_528_943_616, "65b": 65_285_660_672}}
BOTH = pytest.mark.parametrize("name", ["bloom", "llama"])


def small(name, heads=4, **changes):
    cfg = config.load(f"{ROOT}/configs/{name}.py").model
    for key, value in (dict(layers=2, dim=8 * heads, heads=heads, vocab=131, context=48) | changes).items():
        setattr(cfg, key, value)
    return cfg


def build(name, heads=4, noise=0.1, **changes):
    """A model whose biases and norms are not at their starting values: a wrong one would show."""
    model = init(Transformer(small(name, heads, **changes)), 0)
    g = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(noise * torch.randn(p.shape, generator=g))
    return model


@pytest.mark.parametrize("name, size", [(n, s) for n in PUBLISHED for s in PUBLISHED[n]])
def test_parameters_are_as_many_as_published(name, size):
    cfg = config.load(f"{ROOT}/configs/{name}.py", [f"size={size}"]).model
    with torch.device("meta"):
        assert count(Transformer(cfg)) == PUBLISHED[name][size]


def test_flops_per_token_by_hand():
    cfg = small("llama")        # 6 per weight that multiplies; scores and their use: 2 x 2 x C x T forward, three times that with backward
    n = count(Transformer(cfg))
    assert flops_per_token(cfg, n) == 6 * (n - 131 * 32) + 12 * 2 * 32 * 48
    assert flops_per_token(small("bloom"), 1000) == 6000 + 12 * 2 * 32 * 48, "a tied embedding multiplies, as the head"


def hugging_face(name, m):
    """The same weights in transformers' class."""
    import transformers
    cfg, H, D = m.cfg, m.cfg.heads, m.cfg.dim // m.cfg.heads
    w = {k: v.detach() for k, v in m.named_parameters()}
    out = {}
    if name == "bloom":
        hf = transformers.BloomForCausalLM(transformers.BloomConfig(vocab_size=cfg.vocab, hidden_size=cfg.dim, n_layer=cfg.layers, n_head=H, layer_norm_epsilon=cfg.eps))
        ours = {"embed": "word_embeddings", "embed_norm": "word_embeddings_layernorm", "norm": "ln_f"}
        inner = {"norm1": "input_layernorm", "norm2": "post_attention_layernorm", "attn.qkv": "self_attention.query_key_value",
                 "attn.out": "self_attention.dense", "mlp.up": "mlp.dense_h_to_4h", "mlp.down": "mlp.dense_4h_to_h"}
        for key, value in w.items():
            part, kind = key.rsplit(".", 1)
            if "qkv" in part:           # [q, k, v] of all heads -> head by head
                value = value.view(3, H, D, *value.shape[1:]).transpose(0, 1).reshape(value.shape)
            layer = part.split(".", 2)
            out["transformer." + (f"h.{layer[1]}.{inner[layer[2]]}" if layer[0] == "blocks" else ours[part]) + "." + kind] = value
        out["lm_head.weight"] = w["embed.weight"]
    else:
        K = cfg.kv_heads or H
        hf = transformers.LlamaForCausalLM(transformers.LlamaConfig(vocab_size=cfg.vocab, hidden_size=cfg.dim, num_hidden_layers=cfg.layers, num_attention_heads=H,
                                           num_key_value_heads=K, intermediate_size=m.blocks[0].mlp.up.out_features, rms_norm_eps=cfg.eps, tie_word_embeddings=cfg.tied))
        inner = {"norm1": "input_layernorm", "norm2": "post_attention_layernorm", "attn.out": "self_attn.o_proj",
                 "mlp.gate": "mlp.gate_proj", "mlp.up": "mlp.up_proj", "mlp.down": "mlp.down_proj"}
        for key, value in w.items():
            part = key.removesuffix(".weight")
            layer = part.split(".", 2)
            if "qkv" in part:
                for n, v in zip("qkv", value.split((H * D, K * D, K * D))):
                    out[f"model.layers.{layer[1]}.self_attn.{n}_proj.weight"] = v
            else:
                out[{"embed": "model.embed_tokens", "norm": "model.norm", "head": "lm_head"}.get(part) or f"model.layers.{layer[1]}.{inner[layer[2]]}"] = value
        out = {k.removesuffix(".weight") + ".weight": v for k, v in out.items()} | ({"lm_head.weight": w["embed.weight"]} if cfg.tied else {})
    hf.load_state_dict(out)
    return hf


@BOTH
@pytest.mark.parametrize("heads", [4, 6, 7])
def test_logits_and_gradients_are_those_of_transformers(name, heads):
    m = build(name, heads)
    hf = hugging_face(name, m)
    ids = torch.randint(0, 131, (2, 33), generator=torch.Generator().manual_seed(2))
    ours, theirs = m(ids), hf(ids).logits
    assert (ours - theirs).abs().max() < 1e-4, "float32 products in another order differ in the sixth digit"
    loss = m(ids[:, :-1], ids[:, 1:]) / ids[:, 1:].numel()
    loss.backward()
    F.cross_entropy(theirs[:, :-1].flatten(0, 1), ids[:, 1:].flatten()).backward()
    embed = hf.transformer.word_embeddings if name == "bloom" else hf.model.embed_tokens
    assert torch.allclose(m.embed.weight.grad, embed.weight.grad, atol=1e-5)
    block, theirs = m.blocks[0], (hf.transformer.h if name == "bloom" else hf.model.layers)[0]
    for a, b in (block.mlp.down, theirs.mlp.dense_4h_to_h if name == "bloom" else theirs.mlp.down_proj), (block.norm1, theirs.input_layernorm), \
                (block.attn.out, theirs.self_attention.dense if name == "bloom" else theirs.self_attn.o_proj):
        assert torch.allclose(a.weight.grad, b.weight.grad, atol=1e-5)


def test_grouped_query_logits_are_those_of_transformers():
    m = build("llama", 6, kv_heads=2)
    ids = torch.arange(30).view(1, 30)
    assert (m(ids) - hugging_face("llama", m)(ids).logits).abs().max() < 1e-4


def test_alibi_slopes_by_hand():
    assert alibi_slopes(8).tolist() == [2.0 ** -i for i in range(1, 9)]
    assert alibi_slopes(3).tolist() == [1 / 16, 1 / 256, 1 / 4]
    s = alibi_slopes(112)       # BLOOM-176B: 64 slopes of a 64-head model, then every other one of a 128-head model
    assert torch.allclose(s[:64], 2.0 ** (-torch.arange(1, 65) / 8)) and torch.allclose(s[64:], 2.0 ** (-(2 * torch.arange(1, 49) - 1) / 16))


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-4), (torch.bfloat16, 0.05)])
def test_alibi_coordinates_equal_the_textbook_mask_also_far_away(dtype, tolerance):
    """Near key 2000 one bfloat16 coordinate would round the bias by 4; three leave the rounding of the scores."""
    g = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, 4, 2048, 16, generator=g).to(dtype) for _ in range(3))
    pos = torch.arange(2048)
    distance = alibi_slopes(4).view(1, 4, 1, 1) * (pos - pos.view(-1, 1))           # slope * (j - i)
    mask = distance.masked_fill(pos > pos.view(-1, 1), -torch.inf)
    want = F.scaled_dot_product_attention(q.float(), k.float(), v.float(), mask)
    got = F.scaled_dot_product_attention(*M.alibi(q, k, v, pos.unsqueeze(0), None), is_causal=True, scale=16 ** -0.5)[..., :16]
    assert (got.float() - want).abs().max() < tolerance


def test_rope_scores_depend_on_the_distance_only():
    g = torch.Generator().manual_seed(0)
    q, k = torch.randn(2, 1, 1, 4, 16, generator=g)
    pos = torch.arange(4).unsqueeze(0)
    scores = [a @ b.transpose(-1, -2) for a, b, _ in (M.rope(q, k, k, pos + shift, 10_000.0) for shift in (0, 100))]
    assert torch.allclose(*scores, atol=1e-4)
    turned, _, _ = M.rope(torch.tensor([[[[1.0, 0.0]]]]), k[:, :, :1, :2], k, torch.tensor([[1]]), 10_000.0)
    assert torch.allclose(turned.flatten(), torch.tensor([1.0]).cos().new_tensor([0.5403, 0.8415]), atol=1e-4), "pair 0 at position 1 turns by one radian"


@BOTH
def test_future_tokens_change_nothing(name):
    m = build(name).eval()
    ids = torch.randint(0, 131, (1, 20), generator=torch.Generator().manual_seed(0))
    other = ids.clone()
    other[:, 12:] = (other[:, 12:] + 1) % 131
    assert torch.equal(m(ids)[:, :12], m(other)[:, :12]) and not torch.equal(m(ids)[:, 12:], m(other)[:, 12:])


@BOTH
@pytest.mark.parametrize("parts", [[20], [5, 15], [1] * 20, [7, 1, 1, 11]])
def test_cached_equals_uncached(name, parts):
    m = build(name, heads=6).eval()
    ids = torch.randint(0, 131, (2, 20), generator=torch.Generator().manual_seed(0))
    cache = Cache(m.cfg, 2, 20)
    got = torch.cat([m(part, cache=cache) for part in ids.split(parts, 1)], 1)
    assert torch.allclose(got, m(ids), atol=1e-5)


@BOTH
def test_left_padding_changes_nothing(name):
    m = build(name).eval()
    ids = torch.randint(0, 131, (1, 9), generator=torch.Generator().manual_seed(0))
    padded = torch.cat((torch.tensor([[5, 6, 7]]), ids), 1)
    both = torch.cat((padded, torch.randint(0, 131, (1, 12))), 0)
    cache = Cache(m.cfg, 2, 12, pad=torch.tensor([3, 0]))
    got = torch.cat((m(both[:, :8], cache=cache), m(both[:, 8:9], cache=cache), m(both[:, 9:], cache=cache)), 1)
    assert torch.allclose(got[:1, 3:], m(ids), atol=1e-5)


@BOTH
def test_loss_in_chunks_has_the_same_value_and_gradient(name, monkeypatch):
    m = build(name)
    ids = torch.randint(0, 131, (2, 24), generator=torch.Generator().manual_seed(0))
    targets = ids.roll(-1, 1)
    targets[0, 5:9] = IGNORE
    results = []
    for logits in (M.LOGITS, 5 * 131):
        monkeypatch.setattr(M, "LOGITS", logits)
        m.zero_grad()
        loss = m(ids, targets)
        loss.backward()
        results.append([loss, *(p.grad for p in m.parameters())])
    plain = F.cross_entropy(m(ids).flatten(0, 1), targets.flatten(), ignore_index=IGNORE, reduction="sum")
    assert torch.allclose(results[0][0], plain)
    assert all(torch.allclose(a, b, rtol=1e-5, atol=1e-5) for a, b in zip(*results))


@BOTH
def test_initial_weights_follow_the_module_roles(name):
    cfg = small(name, heads=32, init_std=0.0048)
    m = init(Transformer(cfg), 0)
    for b in m.blocks:
        for linear in (b.attn.qkv, b.mlp.up):
            assert linear.weight.std().item() == pytest.approx(0.0048, rel=0.02)
        for linear in (b.attn.out, b.mlp.down):
            assert linear.weight.std().item() == pytest.approx(0.0048 / 2, rel=0.02), "residual outputs are divided by sqrt(2 * layers)"
    assert m.embed.weight.std().item() == pytest.approx(0.0048, rel=0.03)
    assert all((p == 0).all() for n, p in m.named_parameters() if n.endswith("bias")) and (m.norm.weight == 1).all()
    again, other = init(Transformer(cfg), 0), init(Transformer(cfg), 1)
    assert torch.equal(m.blocks[1].mlp.up.weight, again.blocks[1].mlp.up.weight) and not torch.equal(m.embed.weight, other.embed.weight)
    assert not torch.equal(m.blocks[0].mlp.up.weight, m.blocks[1].mlp.up.weight), "each matrix has draws of its own"


def test_processes_draw_their_rows_of_the_initial_weights_and_no_more(monkeypatch):
    """Put together, the parts that 3 processes draw are what one process draws, in blocks that do not end where the parts do."""
    cfg = small("bloom", heads=4)
    monkeypatch.setattr(M, "DRAWS", 32 * 7)                 # 7 rows of the embedding's 131
    whole = init(Transformer(cfg), 0)
    drawn = []
    empty = torch.empty
    for rank in range(3):
        def part(p, rank=rank):
            first = min(len(p), rank * -(-len(p) // 3))
            return p[first:first + -(-len(p) // 3)], first
        monkeypatch.setattr(M.distributed, "part", part)
        mine = Transformer(cfg)
        with torch.no_grad():
            for p in mine.parameters():
                p.fill_(torch.nan)
        monkeypatch.setattr(M.torch, "empty", lambda *shape: drawn.append(shape) or empty(*shape))
        init(mine, 0)
        monkeypatch.setattr(M.torch, "empty", empty)
        for (name, a), b in zip(whole.named_parameters(), mine.parameters()):
            if a.dim() == 2:
                rows, first = part(b)
                assert torch.equal(rows, a[first:first + len(rows)]), name
                outside = torch.cat((b[:first], b[first + len(rows):]))
                assert outside.isnan().all(), f"{name}: rows of other processes were written"
    assert max(n * C for n, C in drawn) <= 32 * 7, "no more memory than a block is needed"
    assert sum(n for n, C in drawn if C == 32) < 1.5 * sum(len(p) for p in whole.parameters() if p.dim() == 2 and p.shape[1] == 32), "and little is drawn twice"


def test_the_residual_stream_and_the_norms_are_float32_inside_a_bfloat16_model():
    """A stream rounded to 8 bits loses what late layers add: near 256 bfloat16 cannot tell 256 from 257."""
    for norm in (M.LayerNorm(8, eps=1e-5), M.RMSNorm(8, eps=1e-5)):
        x = 256 + torch.arange(8.0)
        want = norm(x)
        got = norm.bfloat16()(x)
        assert got.dtype == torch.bfloat16 and torch.allclose(got.float(), want, rtol=2 ** -8)
    m = build("llama").bfloat16()
    seen = []
    m.blocks[1].register_forward_pre_hook(lambda block, args: seen.append(args[0].dtype))
    with torch.autocast("cpu", torch.bfloat16):
        m(torch.arange(8).view(1, 8))
    assert seen == [torch.float32]


@BOTH
def test_the_width_of_the_mlp_is_the_one_that_is_set(name):
    mlp = build(name, mlp_dim=40).blocks[0].mlp
    assert mlp.up.weight.shape[0] == mlp.down.weight.shape[1] == 40


def test_the_first_four_tokens_of_a_text_are_kept():
    assert SINKS == 4, "--window says so"
