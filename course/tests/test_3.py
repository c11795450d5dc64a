import math

import torch
import torch.nn.functional as F

import config
import model


def near(a, b, tolerance=1e-5):
    return a.shape == b.shape and bool((a.double() - b.double()).abs().max() <= tolerance)


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# ---- norms and MLPs ----

def test_layer_norm_by_hand():
    """Which deviation is divided by, and does eps stand under the root? Try x = (1, 3) with eps = 3."""
    one, zero = torch.ones(2), torch.zeros(2)
    assert near(model.layer_norm(torch.tensor([[1.0, 3.0]]), one, zero, 3.0), torch.tensor([[-0.5, 0.5]]))
    x, weight, bias = draw(4, 3, 7), draw(7, seed=1), draw(7, seed=2)
    assert near(model.layer_norm(x, weight, bias, 0.1), F.layer_norm(x, (7,), weight, bias, 0.1))


def test_rms_norm_by_hand():
    """Try x = (1, 7) with eps = 24: what stands under the root? The mean of x is not taken away."""
    got = model.rms_norm(torch.tensor([[1.0, 7.0]]), torch.tensor([1.0, 2.0]), 24.0)
    assert near(got, torch.tensor([[1 / 7, 2.0]]))
    x, weight = draw(4, 3, 7) + 1, draw(7, seed=1)
    assert near(model.rms_norm(x, weight, 0.1), F.rms_norm(x, (7,), weight, 0.1))


def test_norms_survive_half_precision():
    """300 squared is no float16: compute in float32, and give back the dtype of the weight."""
    x = torch.tensor([[300.0, -300.0, 100.0, 0.0]], dtype=torch.float16)
    one = torch.ones(4, dtype=torch.float16)
    for got in (model.rms_norm(x, one, 1e-6), model.layer_norm(x, one, 0 * one, 1e-6)):
        assert got.dtype == torch.float16 and bool(got.isfinite().all()) and float(got[0, 0]) > 1
    stream = torch.tensor([[1.0, 2.0]])
    weight = torch.ones(2, dtype=torch.bfloat16)
    assert model.rms_norm(stream, weight, 1e-6).dtype == torch.bfloat16
    assert model.layer_norm(stream, weight, 0 * weight, 1e-6).dtype == torch.bfloat16


def test_gelu_in_its_tanh_form():
    """BLOOM's GELU is the tanh form: at 2 it is 1.9546, where the exact one is 1.9545."""
    x = torch.linspace(-5, 5, 201)
    want = 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x ** 3)))
    assert near(model.gelu(x), want, 1e-6)


def test_swiglu_by_hand():
    """Only the first argument goes through SiLU, and silu(g) = g * sigmoid(g)."""
    got = model.swiglu(torch.tensor([2.0, 0.0, -1.0]), torch.tensor([3.0, 5.0, 2.0]))
    assert near(got, torch.tensor([6 / (1 + math.exp(-2)), 0.0, -2 / (1 + math.exp(1))]))


# ---- positions ----

def test_rope_turns_a_pair_by_its_angle():
    """At position p the pair (i, i + D/2) turns by p * theta^(-2i/D). Which coordinates are a pair here, and
    does (1, 0) become (cos, sin)? Position 0 turns nothing, and the dtype stays."""
    x = torch.tensor([1.0, 2.0, 3.0, 4.0]).view(1, 1, 1, 4)
    c, s, cc, ss = math.cos(2), math.sin(2), math.cos(0.2), math.sin(0.2)
    want = torch.tensor([c - 3 * s, 2 * cc - 4 * ss, 3 * c + s, 4 * cc + 2 * ss])
    angles = model.rope_angles(torch.tensor([[2]]), 4, theta=100.0)
    assert near(model.rope(x, angles).flatten(), want)
    assert model.rope(x.bfloat16(), angles).dtype == torch.bfloat16
    assert near(model.rope(x, model.rope_angles(torch.tensor([[0]]), 4)), x), "position 0 turns nothing"


def test_rope_scales_its_frequencies():
    """`scaling` changes the frequencies: through linear_scaling() if it has one entry, else through
    llama3_scaling()."""
    pos = torch.tensor([[2]])
    slower = model.rope_angles(torch.tensor([[8]]), 4, theta=100.0, scaling={"factor": 4.0})
    for got, want in zip(slower, model.rope_angles(pos, 4, theta=100.0)):
        assert near(got, want)
    scaling = {"factor": 4.0, "low": 1.0, "high": 3.0, "original": 40 * math.pi}
    # the pairs turn 20 times and twice: the first stays 1, half of the second is divided: 0.05 + 0.05 / 4
    mixed = model.rope_angles(pos, 4, theta=100.0, scaling=scaling)
    for got, want in zip(mixed, model.rope_angles(pos, 4, theta=0.0625 ** -2)):
        assert near(got, want)


def test_rope_scores_depend_on_the_distance():
    """Turn q at i and k at j: their product must be the same for all i and j of one distance."""
    q, k = draw(1, 2, 1, 8), draw(1, 2, 1, 8, seed=1)

    def turned(x, position):
        return model.rope(x, model.rope_angles(torch.tensor([[position]]), 8))

    def score(i, j):
        return (turned(q, i) * turned(k, j)).sum(-1)
    assert near(score(3, 1), score(103, 101), 1e-4)
    assert not near(score(3, 1), score(3, 2), 1e-2), "another distance has another score"
    assert not near(score(3, 1), score(1, 3), 1e-2), "so has the other direction"
    assert near(turned(q, 77).norm(dim=-1), q.norm(dim=-1), 1e-4), "lengths stay"


def test_rope_takes_a_position_for_each_row():
    """pos may be (B, T): with left padding each row of the batch begins elsewhere."""
    x = draw(2, 3, 4, 8)
    pos = torch.tensor([[0, 1, 2, 3], [-2, -1, 0, 1]])
    got = model.rope(x, model.rope_angles(pos, 8))
    for b in range(2):
        for t in range(4):
            one = model.rope(x[b:b + 1, :, t:t + 1], model.rope_angles(pos[b:b + 1, t:t + 1], 8))
            assert near(got[b:b + 1, :, t:t + 1], one)


def test_slopes_of_a_power_of_two():
    """8 heads have the slopes 1/2, 1/4, ... 1/256; 16 heads begin with 1 / sqrt(2)."""
    assert near(model.alibi_slopes(8), torch.tensor([2.0 ** -i for i in range(1, 9)]), 1e-7)
    assert near(model.alibi_slopes(16), torch.tensor([2.0 ** (-i / 2) for i in range(1, 17)]), 1e-6)
    assert near(model.alibi_slopes(1), torch.tensor([2.0 ** -8]), 1e-9)


def test_slopes_of_any_number_of_heads():
    """3 heads have 1/16, 1/256, 1/4. After those of 2 heads come the slopes of 4 heads that are not there."""
    assert near(model.alibi_slopes(3), torch.tensor([1 / 16, 1 / 256, 1 / 4]), 1e-7)
    for H, p in ((6, 4), (12, 8), (112, 64)):
        slopes = model.alibi_slopes(H)
        twice = [2.0 ** (-8 * i / (2 * p)) for i in range(1, 2 * (H - p), 2)]
        alone = [2.0 ** (-8 * i / p) for i in range(1, p + 1)]
        assert near(slopes, torch.tensor(alone + twice), 1e-6)


# ---- attention ----

def whole(q):
    return torch.arange(q.shape[2]).unsqueeze(0)


def test_attention_by_hand():
    """One head of width 4, two tokens: by which number is q k^T divided, and over what is the softmax?"""
    q = torch.tensor([[4.0, 0, 0, 0], [2.0, 0, 0, 0]]).view(1, 1, 2, 4)
    k = torch.tensor([[0.0, 0, 0, 0], [math.log(3), 0, 0, 0]]).view(1, 1, 2, 4)
    v = torch.tensor([[1.0, 0, 0, 0], [0, 1.0, 0, 0]]).view(1, 1, 2, 4)
    want = torch.tensor([[1.0, 0, 0, 0], [0.25, 0.75, 0, 0]]).view(1, 1, 2, 4)
    assert near(model.attention(q, k, v, whole(q)), want)
    q, k, v = draw(2, 3, 5, 8), draw(2, 3, 5, 8, seed=1), draw(2, 3, 5, 8, seed=2)
    assert near(model.attention(q, k, v, whole(q)), F.scaled_dot_product_attention(q, k, v, is_causal=True))


def test_attention_looks_back_only():
    """A token sees itself and what is before it: change a later key or value and nothing may move."""
    q, k, v = draw(1, 2, 6, 4), draw(1, 2, 6, 4, seed=1), draw(1, 2, 6, 4, seed=2)
    before = model.attention(q, k, v, whole(q))
    for t in range(6):
        k2, v2 = k.clone(), v.clone()
        k2[:, :, t], v2[:, :, t] = 9.0, -9.0
        after = model.attention(q, k2, v2, whole(q))
        if t:
            assert near(before[:, :, :t], after[:, :, :t])
        assert not near(before[:, :, t], after[:, :, t], 1e-2), "a token sees itself"


def test_attention_of_the_last_queries():
    """Fewer queries than keys, as with a cache: the T queries are the last T of S tokens."""
    q, k, v = draw(1, 2, 6, 4), draw(1, 2, 6, 4, seed=1), draw(1, 2, 6, 4, seed=2)
    whole_text = model.attention(q, k, v, whole(q))
    for T in (1, 2, 5):
        pos = torch.arange(6 - T, 6).unsqueeze(0)
        assert near(model.attention(q[:, :, -T:], k, v, pos), whole_text[:, :, -T:])


def test_attention_obeys_a_mask():
    """Where a mask is given, a query sees a key where it is True, and nothing else decides."""
    q, k, v = draw(2, 2, 3, 4), draw(2, 2, 5, 4, seed=1), draw(2, 2, 5, 4, seed=2)
    mask = torch.tensor([[[1, 0, 0, 1, 0], [0, 1, 1, 0, 0], [0, 0, 0, 0, 1]],
                         [[0, 0, 1, 0, 0], [1, 1, 1, 1, 1], [1, 0, 1, 0, 1]]]).bool().unsqueeze(1)
    got = model.attention(q, k, v, torch.tensor([[2, 3, 4]]), mask)
    assert near(got, F.scaled_dot_product_attention(q, k, v, mask))
    assert near(got[0, :, 2], v[0, :, 4]), "who sees one key gets its value"


def test_attention_shares_key_heads():
    """6 query heads and 2 key heads: the first three query heads use the first key head."""
    q, k, v = draw(1, 6, 4, 8), draw(1, 2, 4, 8, seed=1), draw(1, 2, 4, 8, seed=2)
    got = model.attention(q, k, v, whole(q))
    for h in range(6):
        one = k[:, h // 3:h // 3 + 1], v[:, h // 3:h // 3 + 1]
        assert near(got[:, h:h + 1], F.scaled_dot_product_attention(q[:, h:h + 1], *one, is_causal=True))


def test_attention_adds_the_bias_of_alibi():
    """The bias is slope * (j - i): 0 for the token itself, negative before it, not divided by sqrt(D)."""
    q, k, v = draw(1, 3, 5, 4), draw(1, 3, 5, 4, seed=1), draw(1, 3, 5, 4, seed=2)
    slopes = torch.tensor([2.0, 0.5, 0.125])
    distance = torch.arange(5) - torch.arange(5).unsqueeze(1)
    bias = (slopes.view(3, 1, 1) * distance).masked_fill(distance > 0, -math.inf)
    got = model.attention(q, k, v, whole(q), None, slopes)
    assert near(got, F.scaled_dot_product_attention(q, k, v, bias.unsqueeze(0)))
    everything = torch.ones(1, 1, 1, 5, dtype=torch.bool)
    last = model.attention(q[:, :, 4:], k, v, torch.tensor([[4]]), everything, slopes)
    assert near(last, got[:, :, 4:]), "pos says where the queries are"


# ---- cache and padding ----

def test_places_of_a_whole_text_and_of_one_token():
    """Without padding the positions are the columns, and these two need no mask: None."""
    for columns, S in ((torch.arange(5), 5), (torch.tensor([7]), 8)):
        pos, mask = model.places(columns, S)
        assert mask is None and pos.tolist() == [columns.tolist()]
    pos, mask = model.places(torch.tensor([3, 4]), 5)
    assert pos.tolist() == [[3, 4]] and mask.shape == (1, 1, 2, 5)
    assert mask[0, 0].int().tolist() == [[1, 1, 1, 1, 0], [1, 1, 1, 1, 1]]


def test_positions_begin_behind_the_padding():
    """Behind 2 tokens of padding the positions of a row are -2, -1, 0, 1: those of padding are negative."""
    pos, _ = model.places(torch.arange(4), 4, torch.tensor([0, 2]))
    assert pos.tolist() == [[0, 1, 2, 3], [-2, -1, 0, 1]]
    pos, _ = model.places(torch.tensor([4]), 5, torch.tensor([1, 3]))
    assert pos.tolist() == [[3], [1]]


def test_no_token_sees_the_padding():
    """With padding there is a mask (B, 1, T, S), for one token too: a token sees itself and what is before
    it, but no padding."""
    _, mask = model.places(torch.arange(4), 4, torch.tensor([0, 2]))
    assert mask.shape == (2, 1, 4, 4)
    assert mask[0, 0].int().tolist() == [[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1]]
    assert mask[1, 0, 2:].int().tolist() == [[0, 0, 1, 0], [0, 0, 1, 1]]
    _, mask = model.places(torch.tensor([4]), 5, torch.tensor([1, 3]))
    assert mask[:, 0, 0].int().tolist() == [[0, 1, 1, 1, 1], [0, 0, 0, 1, 1]]


def test_padding_sees_itself():
    """A row of the mask without a key would be nan after the softmax: padding sees at least itself."""
    _, mask = model.places(torch.arange(4), 4, torch.tensor([0, 2]))
    assert bool(mask.any(-1).all())


def test_heads_are_cut_and_put_together():
    """(B, T, C) to heads and back: q comes first, then k, then v, and head h is D numbers in a row."""
    seen = {}

    def attend(q, k, v, pos, mask, slopes):
        seen.update(q=q, k=k, v=v, slopes=slopes)
        return q + torch.arange(4.0).view(1, 4, 1, 1)
    module = model.Attention(8, 4, 2, bias=False, attend=attend)
    x = draw(2, 3, 8)
    with torch.no_grad():
        module.qkv.weight.copy_(draw(16, 8, seed=1))
        module.out.weight.copy_(torch.eye(8))
        got = module(x, model.Positions(torch.arange(3).unsqueeze(0)))
        flat = x @ module.qkv.weight.t()
    assert seen["q"].shape == (2, 4, 3, 2) and seen["k"].shape == seen["v"].shape == (2, 2, 3, 2)
    assert near(seen["q"][:, 1], flat[..., 2:4]) and near(seen["k"][:, 1], flat[..., 10:12])
    assert near(seen["v"][:, 0], flat[..., 12:14]) and seen["slopes"] is None
    assert near(got, flat[..., :8] + torch.arange(4.0).repeat_interleave(2))


def test_positions_turn_q_and_k_or_give_slopes():
    """Where there are angles both q and k are turned, v is not, with `past` as without. Slopes go to
    attention, and turn nothing."""
    x, pos = draw(1, 3, 8), torch.tensor([[4, 5, 6]])
    angles, slopes = (draw(1, 1, 3, 2), draw(1, 1, 3, 2, seed=2)), torch.tensor([0.5, 0.25])
    module = model.Attention(8, 2, 2, bias=False)

    def what_attention_gets(at, past=None):
        seen = {}

        def attend(q, k, v, pos, mask, slopes):
            seen.update(q=q, k=k, v=v, pos=pos, slopes=slopes)
            return q
        module.attend = attend
        with torch.no_grad():
            module.qkv.weight.copy_(draw(24, 8, seed=1))
            module(x, at, past)
        return seen
    plain = what_attention_gets(model.Positions(pos))
    alibi = what_attention_gets(model.Positions(pos, slopes=slopes))
    rotary = model.Positions(pos, angles=angles)
    assert near(plain["pos"], pos) and plain["slopes"] is None
    assert near(alibi["q"], plain["q"]) and near(alibi["slopes"], slopes)
    past = torch.zeros(1, 2, 9, 4), torch.zeros(1, 2, 9, 4), torch.arange(3), 3
    for turned in what_attention_gets(rotary), what_attention_gets(rotary, past):
        assert near(turned["q"], model.rope(plain["q"], angles))
        assert near(turned["k"], model.rope(plain["k"], angles))
        assert near(turned["v"], plain["v"]) and turned["slopes"] is None


def test_keys_and_values_go_into_the_memory():
    """`past`: k and v are written at `columns` and nowhere else; attention gets the first S columns."""
    seen = {}

    def attend(q, k, v, pos, mask, slopes):
        seen.update(k=k, v=v)
        return q
    module = model.Attention(8, 2, 2, bias=False, attend=attend)
    keys, values = draw(1, 2, 9, 4), draw(1, 2, 9, 4, seed=1)
    columns, x = torch.tensor([4, 5, 6]), draw(1, 3, 8, seed=2)
    with torch.no_grad():
        at = model.Positions(columns.unsqueeze(0))
        module(x, at)
        want = {"k": keys[:, :, :7].clone(), "v": values[:, :, :7].clone()}
        for name in want:
            want[name][:, :, 4:] = seen[name]
        module(x, at, (keys, values, columns, 7))
    assert near(seen["k"], want["k"]) and near(seen["v"], want["v"])
    assert near(keys[:, :, :7], want["k"]) and near(values[:, :, :7], want["v"])


def same_with_a_cache(**choices):
    """Read 7 tokens in parts of 3, 1, 2, 1 behind a cache, two rows, one of them padded."""
    cfg = config.Model(layers=2, dim=24, heads=3, bias=False, tied=True, eps=1e-5, init_std=0.5, vocab=11,
                       mlp_dim=32, **choices)
    net = model.init(model.Transformer(cfg), 0)
    ids = torch.tensor([[1, 2, 3, 4, 5, 6, 7], [0, 0, 8, 9, 1, 2, 3]])
    cache = model.Cache(cfg, 2, 9, torch.tensor([0, 2]))
    with torch.no_grad():
        alone = net(ids[:1])[0], net(ids[1:, 2:])[0]
        parts = torch.cat([net(part, cache=cache) for part in ids.split((3, 1, 2, 1), 1)], 1)
    assert near(parts[0], alone[0], 1e-4) and near(parts[1, 2:], alone[1], 1e-4)


def test_cached_equals_uncached_in_bloom():
    """Put all parts together: a text read in pieces, behind padding, has the logits of the whole text."""
    same_with_a_cache(position="alibi", norm="layer", mlp="gelu", embed_norm=True)


def test_cached_equals_uncached_in_llama():
    """Put all parts together: a text read in pieces, behind padding, has the logits of the whole text."""
    same_with_a_cache(position="rope", norm="rms", mlp="swiglu", embed_norm=False)
