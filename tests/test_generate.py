import types

import pytest
import torch
from conftest import ROOT

import checkpoint
import config
import generate as G
import tokenizer as tok
from generate import SINKS, Draw, Text, candidates, choose, continuations, generate
from model import Cache, Transformer, init

PROMPTS = ["Once upon a time", "One day, Mina heard", "", "Un"]
GREEDY = Draw(temperature=0)
LONG = "Once upon a time there was a girl. " * 9


@pytest.fixture(params=["bloom", "llama"])
def both(request, runs):
    """(model, tokenizer)"""
    run = checkpoint.open_run(str(runs / request.param))
    return run.load()[0], run.tokenizer()


only_bloom = pytest.mark.parametrize("both", ["bloom"], indirect=True)      # long enough without a window


def texts(model, tokenizer, prompts, tokens=12, samples=1, **settings):
    out = [""] * len(prompts) * samples
    for r, new in continuations(model, tokenizer, prompts, tokens, samples=samples, **settings):
        out[r] += new
    return out


def shape(name, **changes):
    cfg = config.load(f"{ROOT}/configs/{name}.py").model
    vars(cfg).update(dict(layers=1, dim=32, heads=4, vocab=131, context=48) | changes)
    return cfg


class Scripted:
    """A model that writes `rows` of ids, greedily, whatever it reads."""
    def __init__(self, *rows):
        self.cfg, self.rows, self.steps = shape("bloom"), rows, 0
        self.embed = types.SimpleNamespace(weight=torch.zeros(1))

    def __call__(self, ids, cache, last):
        cache.n += ids.shape[1]
        self.steps += 1
        now = torch.tensor([row[self.steps - 1] for row in self.rows])
        return torch.nn.functional.one_hot(now, 500).float().unsqueeze(1)


# ---- one token ----

def test_each_filter_by_hand():
    logits = torch.log(torch.tensor([[0.1, 0.5, 0.25, 0.15]]))

    def kept(**settings):
        p, ids = candidates(logits, Draw(**{"temperature": 1.0, **settings}))
        p = p / p.sum()
        return {i: round(x, 3) for i, x in zip(ids[0].tolist(), p[0].tolist()) if x}
    everything, two, one = {0: 0.1, 1: 0.5, 2: 0.25, 3: 0.15}, {1: 0.667, 2: 0.333}, {1: 1.0}
    assert kept() == everything == kept(top_k=9) and kept(top_k=2) == two
    assert kept(top_p=0.51) == two and kept(top_p=0.5) == kept(top_p=1e-9) == one
    assert kept(min_p=0.4) == two and kept(min_p=1.0) == one
    assert kept(top_k=2, top_p=0.6) == one, "top-p looks at what top-k left: 0.667 is enough"
    assert kept(temperature=0) == kept(temperature=1e-46) == one
    assert kept(temperature=0.5)[1] == pytest.approx(0.25 / 0.345, abs=1e-3)


def test_the_repetition_penalty_by_hand():
    logits, seen = torch.tensor([[2.0, -1.0, 0.5]] * 2), torch.tensor([[True, True, False], [False] * 3])
    p, _ = candidates(logits, Draw(temperature=1.0, penalty=2.0), seen)
    assert torch.allclose(p, torch.tensor([[1.0, -2.0, 0.5], [2.0, -1.0, 0.5]]).softmax(-1))
    assert logits.tolist() == [[2.0, -1.0, 0.5]] * 2


@pytest.mark.parametrize("settings", [
    dict(temperature=0.7, top_k=50), dict(temperature=1.3, top_p=0.9), dict(temperature=1.0, min_p=0.05),
    dict(temperature=3.0, top_p=0.999), dict(penalty=1.2, temperature=0.9, top_k=100, top_p=0.8, min_p=0.02)])
def test_the_distribution_is_that_of_transformers(settings):
    """Thousands of candidates, so that more than the FIRST likeliest are needed, and few."""
    from transformers import generation as t
    logits = 2 * torch.randn(1, 3000, generator=torch.Generator().manual_seed(0))
    seen = torch.tensor([[5, 17, 17, 2999]])
    makers = {"penalty": t.RepetitionPenaltyLogitsProcessor, "temperature": t.TemperatureLogitsWarper,
              "top_k": t.TopKLogitsWarper, "top_p": t.TopPLogitsWarper, "min_p": t.MinPLogitsWarper}
    theirs = logits.clone()
    for key, value in settings.items():
        theirs = makers[key](value)(seen, theirs)
    before = torch.zeros(1, 3000, dtype=torch.bool).scatter(1, seen, True)
    p, ids = candidates(logits, Draw(**settings), before if "penalty" in settings else None)
    ours = torch.zeros(3000).index_put((ids[0],), p[0] / p.sum())
    assert torch.allclose(ours, theirs.softmax(-1)[0], atol=1e-6) and 1 < (ours > 0).sum() < 3000


@pytest.mark.parametrize("settings", [{}, dict(top_k=5), dict(top_p=0.8), dict(min_p=0.2, temperature=1.5)])
def test_drawn_tokens_have_the_exact_distribution(settings):
    """Pearson's chi-square over 5,000 draws with a fixed seed, against the 0.1% point of its distribution."""
    from scipy.stats import chi2
    logits = 1.5 * torch.randn(1, 16, generator=torch.Generator().manual_seed(1))
    draw, g = Draw(**{"temperature": 0.9, **settings}), torch.Generator().manual_seed(2)
    p, ids = candidates(logits, draw)
    p, ids = p[p > 0] / p.sum(), ids[p > 0]
    drawn = choose(logits.expand(5_000, 16), draw, torch.rand(5_000, generator=g, dtype=torch.float64))
    counts = torch.bincount(drawn, minlength=16)[ids]
    assert counts.sum() == 5_000, "no other token"
    expected = p.double() * 5_000
    assert expected.min() > 5, "or chi-square does not hold"
    assert ((counts - expected) ** 2 / expected).sum() < chi2.isf(0.001, len(p) - 1)


# ---- the cache ----

@pytest.mark.parametrize("name, more", [
    ("bloom", {}), ("llama", {"kv_heads": 2}), ("llama", {"scaling": {"factor": 4.0}}),
    ("llama", {"position": "none"})])
@pytest.mark.parametrize("pad", [None, [0, 3, 8, 18]])
def test_a_cache_that_slid_is_that_of_the_text_without_the_middle(name, more, pad):
    """With padding, for each row what it has. In one layer keys depend on nothing but token and position."""
    m, g = init(Transformer(shape(name, **more)), 0).requires_grad_(False), torch.Generator().manual_seed(0)
    for p in m.parameters():
        p.add_(0.1 * torch.randn(p.shape, generator=g))
    ids = torch.randint(0, 131, (4 if pad else 1, 20), generator=g)
    cache = Cache(m.cfg, len(ids), 24, torch.tensor(pad) if pad else None)
    m(ids[:, :11], cache=cache)
    m(ids[:, 11:18], cache=cache)
    G.slide(cache, 8)
    got = m(ids[:, 18:], cache=cache)
    for row, n, logits in zip(ids, pad or [0], got):
        kept = torch.cat((row[n:n + SINKS], row[18 - 8:])) if n < 6 else row[n:]
        assert torch.allclose(logits, m(kept.unsqueeze(0))[0, -2:], atol=1e-4), n


def test_a_window_bounds_the_memory_of_an_endless_text(both):
    model, tokenizer = both
    tokenizer.ends, into, room = set(), [], set()

    def note(module, args, more, out):
        room.add(more["cache"].k.shape[3])
    model.register_forward_hook(note, with_kwargs=True)
    list(continuations(model, tokenizer, [LONG, "Un"], 150, window=24, into=into, draw=Draw(1.0)))
    assert room == {24} and [t.n for t in into] == [150] * 2


def test_beyond_the_context_alibi_goes_on_and_rope_says_no():
    alibi, rope = shape("bloom"), shape("llama")
    assert G.cache_limit(alibi, 302) == 4 * 48 and G.cache_limit(alibi, 7, 500) == 500
    assert G.cache_limit(rope, 48) == G.cache_limit(rope, 302, 48) == 48
    for asked in (49, None), (2, 64):
        with pytest.raises(ValueError, match="more than the 48 this model was trained on.*--window 48"):
            G.cache_limit(rope, *asked)


# ---- a batch ----

@pytest.mark.parametrize("draw", [GREEDY, Draw(), Draw(top_k=20, min_p=0.02, penalty=1.3)])
def test_a_batch_of_unequal_prompts_equals_one_by_one_and_sample_i_is_that_of_seed_plus_i(both, draw):
    batch = texts(*both, PROMPTS, draw=draw, seed=3, samples=2)
    assert batch == [texts(*both, [p], draw=draw, seed=3 + i)[0] for p in PROMPTS for i in range(2)]
    assert len(set(batch)) > 1


def test_equal_prompts_slide_and_are_copied_for_their_samples(both):
    two = texts(*both, [LONG, LONG], 9, draw=GREEDY, samples=2, window=16)
    assert two == texts(*both, [LONG], 9, draw=GREEDY, window=16) * 4


def test_equal_scores_are_drawn_alike_alone_and_beside_a_row_that_needs_more_candidates():
    """bfloat16 has many ties, and a sort may order them otherwise than topk does."""
    g = torch.Generator().manual_seed(0)
    narrow, wide = torch.randn(1, 3000, generator=g).mul(4).bfloat16().float(), torch.zeros(1, 3000)
    u, draw = torch.rand(200, generator=g, dtype=torch.float64), Draw(temperature=1.0, top_p=0.9)
    for each in u:
        both_rows = choose(torch.cat((narrow, wide)), draw, each.repeat(2))
        assert both_rows[0] == choose(narrow, draw, each.view(1))[0]


def test_tokens_and_log_probabilities_are_those_of_the_uncached_model(both):
    model, tokenizer = both
    ids = G.prompt_ids(tokenizer, "Once upon a")
    for draw in GREEDY, Draw(temperature=0.5, top_k=4):
        into, before = [], list(ids)
        list(continuations(model, tokenizer, [ids], 12, into=into, logprobs=3, draw=draw))
        assert len(into[0].logprobs) == 12
        for token in into[0].logprobs:
            want = model(torch.tensor([before]))[0, -1, :tokenizer.vocab].log_softmax(-1)
            assert token["logprob"] == pytest.approx(want[token["id"]].item(), abs=1e-4), "whatever the draw"
            assert [i for i, *_ in token["top"]] == want.topk(3).indices.tolist()
            assert draw != GREEDY or token["id"] == token["top"][0][0]
            before.append(token["id"])


def test_the_penalty_is_for_the_prompt_and_for_what_was_written(both):
    prompt = G.prompt_ids(both[1], "Once upon a time there was a girl")
    drawn = [i for _, i, _ in generate(*both, [prompt], 12, Draw(temperature=0, penalty=1e6))]
    assert len({*prompt, *drawn}) == len(set(prompt)) + len(drawn) and len(drawn) > 1


@only_bloom
def test_prompts_may_be_ids_and_each_may_have_stops_of_its_own(both):
    a, b = texts(*both, PROMPTS[:2], 30, draw=GREEDY)
    stops, want = [[a[5:7]], ["\0", b[8]]], [a[:a.index(a[5:7])], b[:b.index(b[8])]]
    ids = [G.prompt_ids(both[1], p) for p in PROMPTS[:2]]
    for prompts in PROMPTS[:2], ids:
        assert texts(*both, prompts, 30, draw=GREEDY, stops=stops) == want
    assert texts(*both, ids[:1], 30, samples=2, draw=GREEDY, stops=stops[0]) == want[:1] * 2


@only_bloom
def test_padding_ids_are_never_drawn(both):
    model, tokenizer = both
    assert model.cfg.vocab == 512 and tokenizer.vocab == 500
    head = model.head_weight()
    with torch.no_grad():
        head[500:] = 100 * head[:12]            # make them the likeliest by far
    drawn = [i for _, i, _ in generate(model, tokenizer, [[5, 6]], 50, Draw(temperature=5.0))]
    assert drawn and max(drawn) < 500


def test_a_row_ends_with_an_id_that_ends_a_text_or_as_the_caller_says():
    tokenizer, prompts = types.SimpleNamespace(vocab=500, ends={2, 44}), [[5], [6, 7]]
    for rows, tokens, want, steps in (([7, 44, 9], [8, 2, 9]), 3, [(0, 7), (1, 8)], 2), \
            (([7, 9, 10, 11], [8, 2, 8, 8]), 4, [(0, 7), (1, 8), (0, 9), (0, 10), (0, 11)], 4):
        model = Scripted(*rows)
        assert [(r, i) for r, i, _ in generate(model, tokenizer, prompts, tokens, GREEDY)] == want
        assert model.steps == steps, "no step is made whose logits nobody needs"
    told = generate(Scripted([7, 9], [8, 10]), tokenizer, prompts, 2, GREEDY, ended={0})
    assert [(r, i) for r, i, _ in told] == [(0, 7), (1, 8), (1, 10)]


@only_bloom
def test_a_text_says_why_it_ended(both):
    def reason(**settings):
        into = []
        list(continuations(*both, ["Once"], into=into, draw=Draw(temperature=1.0), **settings))
        return into[0].finish, into[0].n
    assert reason(tokens=3) == ("length", 3)
    assert reason(tokens=60, stops=["e"])[0] == "stop"
    both[1].ends = set(range(500))
    assert reason(tokens=3) == ("end", 0)


# ---- text ----

def test_an_empty_prompt_begins_with_bos_else_eos_else_is_refused():
    def ids(bos, eos, text, begin=()):
        return G.prompt_ids(types.SimpleNamespace(bos=bos, eos=eos, begin=begin, encode=str.encode), text)
    assert ids(1, 2, "") == [1] and ids(None, 2, "") == [2]
    assert ids(1, 2, "A") == [65] and ids(1, 2, "A", [2]) == [2, 65]
    with pytest.raises(ValueError, match="no token that begins a text"):
        ids(None, None, "")


def stream(text, piece):
    return "".join(text.add(bytes([byte])) for byte in piece)


def test_streaming_never_shows_half_a_character_or_the_beginning_of_a_stop_string():
    text = Text(["END", "\n\n"])
    assert stream(text, "né 🦙 E ENx EN".encode()) == "né 🦙 E ENx "
    assert text.add(b"D and more") == "" and text.finish == "stop" and text.text == "né 🦙 E ENx "
    half = Text()
    assert half.add("é".encode()[:1]) == "" and half.add(b"", final=True) == "\ufffd"
    several = Text(["two", "one"])
    assert several.add(b"zero one two") == "zero " and several.finish, "the first in the text ends it"
    accents = Text()
    for whole, more in ("caf", "cafe\u0301"), ("e\u0301 ", " क"), ("", "\u094b"), ("को", "x"):
        assert stream(accents, more.encode()) == whole, "no accent is shown apart from its letter"
    assert accents.add(b"", final=True) == "x" and accents.text == "cafe\u0301 कोx"


@only_bloom
def test_stop_strings_are_not_shown_wherever_the_tokens_end(both):
    free = texts(*both, ["Once"], 40, draw=Draw(temperature=1.0), seed=1)[0]
    for at in range(3, 12):
        stop = free[at:at + 3]
        found = texts(*both, ["Once"], 40, draw=Draw(temperature=1.0), seed=1, stops=[stop])[0]
        assert found == free[:free.index(stop)]


def test_the_space_that_sentencepiece_puts_before_a_text_is_not_shown_and_no_other(runs):
    tokenizer = tok.load(str(runs / "llama/tokenizer"))

    def written(prompt, ids):
        return texts(Scripted(ids), tokenizer, [prompt], len(ids), draw=GREEDY)[0]
    ids, space, a = tokenizer.encode("One day a girl"), tokenizer.encode("  ")[0], tokenizer.encode("a")[0]
    assert written("", ids) == "One day a girl" and written("Un", ids) == " One day a girl"
    assert written("", [space, a]) == tokenizer.decode([space, a])
