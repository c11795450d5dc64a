import math

import pytest
import torch
import torch.nn.functional as F
from conftest import ROOT

import config
import model as M
from data import IGNORE
from model import Cache, Transformer, alibi_slopes, count, init

PUBLISHED = {  # BLOOM: counted from its published checkpoints; LLaMA: from the shapes in the paper's Table 2
    "bloom": {
        "560m": 559_214_592,
        "1b1": 1_065_314_304,
        "1b7": 1_722_408_960,
        "3b": 3_002_557_440,
        "7b1": 7_069_016_064,
        "176b": 176_247_271_424,
    },
    "llama": {"7b": 6_738_415_616, "13b": 13_015_864_320, "33b": 32_528_943_616, "65b": 65_285_660_672},
}
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


def hugging_face(name, m):
    """The same weights in transformers' class."""
    import transformers
    cfg, H, D = m.cfg, m.cfg.heads, m.cfg.dim // m.cfg.heads
    K = cfg.kv_heads or H
    if name == "bloom":
        theirs = transformers.BloomForCausalLM(
            transformers.BloomConfig(
                vocab_size=cfg.vocab,
                hidden_size=cfg.dim,
                n_layer=cfg.layers,
                n_head=H,
                layer_norm_epsilon=cfg.eps,
            )
        )
        body, layers = theirs.transformer, theirs.transformer.h
        pairs = [
            (body.word_embeddings, m.embed),
            (body.word_embeddings_layernorm, m.embed_norm),
            (body.ln_f, m.norm),
        ]
    else:
        theirs = transformers.LlamaForCausalLM(transformers.LlamaConfig(
            vocab_size=cfg.vocab, hidden_size=cfg.dim, num_hidden_layers=cfg.layers, num_attention_heads=H,
            num_key_value_heads=K, intermediate_size=m.blocks[0].mlp.up.out_features, rms_norm_eps=cfg.eps,
            tie_word_embeddings=cfg.tied))
        body, layers = theirs.model, theirs.model.layers
        pairs = [(body.embed_tokens, m.embed), (body.norm, m.norm)]
        if m.head is not None:
            pairs.append((theirs.lm_head, m.head))
    for layer, block in zip(layers, m.blocks):
        pairs += [(layer.input_layernorm, block.norm1), (layer.post_attention_layernorm, block.norm2)]
        if name == "bloom":
            pairs += [(layer.self_attention.dense, block.attn.out), (layer.mlp.dense_h_to_4h, block.mlp.up),
                      (layer.mlp.dense_4h_to_h, block.mlp.down)]
        else:
            pairs += [(layer.self_attn.o_proj, block.attn.out), (layer.mlp.gate_proj, block.mlp.gate),
                      (layer.mlp.up_proj, block.mlp.up), (layer.mlp.down_proj, block.mlp.down)]
    with torch.no_grad():
        for theirs_part, ours in pairs:
            for key, value in ours.named_parameters():
                getattr(theirs_part, key).copy_(value)
        for layer, block in zip(layers, m.blocks):
            qkv = block.attn.qkv
            if name == "bloom":         # ours: all q, all k, all v; theirs: q, k, v of each head
                for key, value in qkv.named_parameters():
                    by_head = value.view(3, H, D, *value.shape[1:]).transpose(0, 1).reshape(value.shape)
                    getattr(layer.self_attention.query_key_value, key).copy_(by_head)
            else:
                for n, value in zip("qkv", qkv.weight.split((H * D, K * D, K * D))):
                    getattr(layer.self_attn, f"{n}_proj").weight.copy_(value)
    return theirs


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
    block = m.blocks[0]
    if name == "bloom":
        layer = hf.transformer.h[0]
        pairs = [(m.embed, hf.transformer.word_embeddings), (block.mlp.down, layer.mlp.dense_4h_to_h),
                 (block.attn.out, layer.self_attention.dense)]
    else:
        layer = hf.model.layers[0]
        pairs = [(m.embed, hf.model.embed_tokens), (block.mlp.down, layer.mlp.down_proj),
                 (block.attn.out, layer.self_attn.o_proj)]
    for a, b in [*pairs, (block.norm1, layer.input_layernorm)]:
        assert torch.allclose(a.weight.grad, b.weight.grad, atol=1e-5)


def test_grouped_query_logits_are_those_of_transformers():
    m = build("llama", 6, kv_heads=2)
    ids = torch.arange(30).view(1, 30)
    assert (m(ids) - hugging_face("llama", m)(ids).logits).abs().max() < 1e-4


def test_alibi_slopes_by_hand():
    assert alibi_slopes(8).tolist() == [2.0 ** -i for i in range(1, 9)]
    assert alibi_slopes(3).tolist() == [1 / 16, 1 / 256, 1 / 4]
    s = alibi_slopes(
        112
    )  # BLOOM-176B: 64 slopes of a 64-head model, then every other one of a 128-head model
    assert torch.allclose(s[:64], 2.0 ** (-torch.arange(1, 65) / 8))
    assert torch.allclose(s[64:], 2.0 ** (-(2 * torch.arange(1, 49) - 1) / 16))


def test_the_equations_by_hand():
    x = torch.tensor([[1.0, 3.0]])
    assert torch.allclose(M.layer_norm(x, torch.ones(2), torch.zeros(2), 0.0), torch.tensor([[-1.0, 1.0]]))
    assert torch.allclose(
        M.layer_norm(x, torch.tensor([2.0, 2.0]), torch.ones(2), 0.0), torch.tensor([[-1.0, 3.0]])
    )
    assert torch.allclose(M.rms_norm(x, torch.ones(2), 0.0), x / math.sqrt(5)), (
        "the root of the mean of 1 and 9"
    )
    assert torch.allclose(M.rms_norm(x, torch.ones(2), 4.0), x / 3), "eps stands inside the root"
    assert M.gelu(torch.tensor(1.0)).item() == pytest.approx(0.8412, abs=1e-4)
    assert M.swiglu(torch.tensor(2.0), torch.tensor(3.0)).item() == pytest.approx(6 / (1 + math.exp(-2)))
    assert M.cross_entropy(torch.zeros(3, 2), torch.ones(4, 2), torch.tensor([0, 3, IGNORE])).item() == \
        pytest.approx(2 * math.log(4)), "two scored rows, four equal entries"
    q, k = torch.tensor([[[[1.0], [1.0]]]]), torch.tensor([[[[0.0], [math.log(3)]]]])
    v = torch.tensor([[[[0.0], [4.0]]]])
    pos = torch.arange(2).unsqueeze(0)
    assert torch.allclose(M.attention(q, k, v, pos).flatten(), torch.tensor([0.0, 3.0])), (
        "weights 1; then 1/4 and 3/4"
    )
    mask = torch.tensor([[[[True, False], [True, False]]]])
    assert torch.allclose(M.attention(q, k, v, pos, mask).flatten(), torch.zeros(2))
    assert torch.allclose(M.attention(q, 0 * k, v, pos, None, torch.tensor([math.log(3)])).flatten(),
                          torch.tensor([0.0, 3.0])), "ALiBi: the key one step back weighs a third"
    assert [M.mlp_width("gelu", 4096), M.mlp_width("swiglu", 4096)] == [16384, 11008]


def test_rope_scores_depend_on_the_distance_only():
    g = torch.Generator().manual_seed(0)
    q, k = torch.randn(2, 1, 1, 4, 16, generator=g)
    pos = torch.arange(4).unsqueeze(0)

    def scores(shift):
        angles = M.rope_angles(pos + shift, 16)
        return M.rope(q, angles) @ M.rope(k, angles).transpose(-1, -2)
    assert torch.allclose(scores(0), scores(100), atol=1e-4)
    turned = M.rope(torch.tensor([[[[1.0, 0.0]]]]), M.rope_angles(torch.tensor([[1]]), 2))
    assert torch.allclose(turned.flatten(), torch.tensor([0.5403, 0.8415]), atol=1e-4), (
        "one radian at position 1"
    )


def test_scaled_rope_by_hand():
    """With `original` 2 pi a pair turns as often as its frequency says: 8 turns are above `high`, 4 lie in
    the middle between the two, 1 is below `low`."""
    frequency = torch.tensor([8.0, 4.0, 1.0])
    scaled = M.llama3_scaling(frequency, factor=4, low=2, high=6, original=2 * math.pi)
    assert torch.allclose(scaled, torch.tensor([8.0, (4 + 1) / 2, 0.25]))
    pos = torch.arange(5).unsqueeze(0)
    for scaled, plain in zip(M.rope_angles(pos * 4, 8, scaling={"factor": 4.0}), M.rope_angles(pos, 8)):
        assert torch.allclose(scaled, plain, atol=1e-6)


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
    got = torch.cat([m(part, cache=cache) for part in both.split((8, 1, 3), 1)], 1)
    assert torch.allclose(got[:1, 3:], m(ids), atol=1e-5)


@BOTH
def test_initial_weights_follow_the_module_roles(name):
    cfg = small(name, heads=32, init_std=0.0048)
    m = init(Transformer(cfg), 0)
    for b in m.blocks:
        for linear in (b.attn.qkv, b.mlp.up):
            assert linear.weight.std().item() == pytest.approx(0.0048, rel=0.02)
        for linear in (b.attn.out, b.mlp.down):
            assert linear.weight.std().item() == pytest.approx(0.0048 / 2, rel=0.02), (
                "divided by sqrt(2 * layers)"
            )
    assert m.embed.weight.std().item() == pytest.approx(0.0048, rel=0.03)
    assert all((p == 0).all() for n, p in m.named_parameters() if n.endswith("bias"))
    assert (m.norm.weight == 1).all()
    again, other = init(Transformer(cfg), 0), init(Transformer(cfg), 1)
    assert torch.equal(m.blocks[1].mlp.up.weight, again.blocks[1].mlp.up.weight)
    assert not torch.equal(m.embed.weight, other.embed.weight)
    assert not torch.equal(m.blocks[0].mlp.up.weight, m.blocks[1].mlp.up.weight), (
        "each matrix has its own draws"
    )


def test_processes_draw_their_rows_of_the_initial_weights_and_no_others():
    """Put together, the rows that 3 processes draw are what one process draws; blocks of 7 rows end
    elsewhere."""
    whole = torch.empty(131, 32)
    M.fill(whole, 0, whole.shape, 1.0, "0 embed", draws=32 * 7)
    assert whole.std() == pytest.approx(1.0, rel=0.05)
    for first in range(0, 131, 44):
        rows = torch.full((min(44, 131 - first), 32), torch.nan)
        M.fill(rows, first, whole.shape, 1.0, "0 embed", draws=32 * 7)
        assert torch.equal(rows, whole[first:first + 44])
    M.fill(torch.empty(0, 32), 131, whole.shape, 1.0, "0 embed")


def test_a_process_initialises_the_rows_it_holds():
    cfg = small("bloom")
    whole, mine = init(Transformer(cfg), 0), Transformer(cfg)

    def last_half(p):
        return p[len(p) // 2:], len(p) // 2
    init(mine, 0, last_half)
    for (name, a), b in zip(whole.named_parameters(), mine.parameters()):
        if a.dim() == 2:
            assert torch.equal(last_half(a)[0], last_half(b)[0]), name
            assert not torch.equal(a[: len(a) // 2], b[: len(b) // 2]), (
                f"{name}: rows of another process were written"
            )


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
