import functools
import types

import pytest
import torch
from conftest import ROOT

import checkpoint
import config
import generate as G
import tokenizer as tok
from generate import SINKS, Draw, Past, Text, candidates, choose, continuations, generate
from model import Cache, Transformer, init

PROMPTS = ["Once upon a time", "One day, Mina heard", "", "Un"]
GREEDY = Draw(temperature=0)
LONG = "Once upon a time there was a girl. " * 9


@pytest.fixture
def bloom(runs):
    """(model, tokenizer)"""
    run = checkpoint.open_run(str(runs / "bloom"))
    return run.load()[0], run.tokenizer()


@pytest.fixture(params=["bloom", "llama"])
def both(request, runs):
    run = checkpoint.open_run(str(runs / request.param))
    return run.load()[0], run.tokenizer()


def texts(model, tokenizer, prompts, tokens=12, samples=1, **settings):
    out = [""] * len(prompts) * samples
    for r, new in continuations(model, tokenizer, prompts, tokens, samples=samples, **settings):
        out[r] += new
    return out


def shape(name, **changes):
    cfg = config.load(f"{ROOT}/configs/{name}.py").model
    vars(cfg).update(dict(layers=1, dim=32, heads=4, vocab=131, context=48) | changes)
    return cfg


def random_model(name, **changes):
    """One layer, whose keys depend on nothing but token and position."""
    model = init(Transformer(shape(name, **changes)), 0).requires_grad_(False)
    g = torch.Generator().manual_seed(1)
    for p in model.parameters():
        p.add_(0.1 * torch.randn(p.shape, generator=g))
    return model


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


def watch_steps(model):
    """A list that gets (tokens read, room in the cache) of each step of `model`."""
    seen = []

    def note(module, args, more, out):
        seen.append((args[0].shape[1], more["cache"].k.shape[3]))
    model.register_forward_hook(note, with_kwargs=True)
    return seen


# ---- one token ----

def test_each_filter_by_hand():
    logits = torch.log(torch.tensor([0.1, 0.5, 0.25, 0.15]))

    def kept(**settings):
        p, ids = candidates(logits, Draw(**{"temperature": 1.0, **settings}))
        assert p.sum() == pytest.approx(1)
        return {i: round(x, 3) for i, x in zip(ids.tolist(), p.tolist())}
    everything, two, one = {0: 0.1, 1: 0.5, 2: 0.25, 3: 0.15}, {1: 0.667, 2: 0.333}, {1: 1.0}
    assert kept() == everything == kept(top_k=9) and kept(top_k=2) == two
    assert kept(top_p=0.51) == two and kept(top_p=0.5) == kept(top_p=1e-9) == one
    assert kept(min_p=0.4) == two and kept(min_p=1.0) == one
    assert kept(top_k=2, top_p=0.6) == one, "top-p looks at what top-k left: 0.667 is enough"
    assert kept(temperature=0) == kept(temperature=1e-46) == one
    assert kept(temperature=0.5)[1] == pytest.approx(0.25 / 0.345, abs=1e-3)


def test_the_repetition_penalty_by_hand():
    logits = torch.tensor([2.0, -1.0, 0.5])
    p, _ = candidates(logits, Draw(temperature=1.0, penalty=2.0), seen=[0, 1, 1])
    assert torch.allclose(p, torch.tensor([1.0, -2.0, 0.5]).softmax(-1)), "once, however often it was there"
    assert logits.tolist() == [2.0, -1.0, 0.5]
    assert candidates(logits, Draw(temperature=0, penalty=5.0), seen=[0])[1].item() == 2


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
    p, ids = candidates(logits[0], Draw(**settings), seen[0].tolist())
    ours = torch.zeros(3000).index_put((ids,), p)
    assert torch.allclose(ours, theirs.softmax(-1)[0], atol=1e-6) and 1 < (ours > 0).sum() < 3000


@pytest.mark.parametrize("settings", [{}, dict(top_k=5), dict(top_p=0.8), dict(min_p=0.2, temperature=1.5)])
def test_drawn_tokens_have_the_exact_distribution(settings):
    """Pearson's chi-square over 5,000 draws with a fixed seed, against the 0.1% point of its distribution."""
    from scipy.stats import chi2
    logits = 1.5 * torch.randn(16, generator=torch.Generator().manual_seed(1))
    draw, g = Draw(**{"temperature": 0.9, **settings}), torch.Generator().manual_seed(2)
    p, ids = candidates(logits, draw)
    counts = torch.bincount(torch.tensor([choose(logits, draw, g) for _ in range(5_000)]), minlength=16)[ids]
    assert counts.sum() == 5_000, "no other token"
    expected = p.double() * 5_000
    assert expected.min() > 5, "or chi-square does not hold"
    assert ((counts - expected) ** 2 / expected).sum() < chi2.isf(0.001, len(p) - 1)


def test_a_token_of_probability_0_is_never_drawn(monkeypatch):
    monkeypatch.setattr(torch, "rand", lambda *a, **k: torch.zeros(1, dtype=torch.float64))
    assert choose(torch.tensor([-torch.inf, 0.0]), Draw(temperature=1.0), None) == 1


# ---- the cache ----

@pytest.mark.parametrize("name, more", [
    ("bloom", {}), ("llama", {"kv_heads": 2}), ("llama", {"position": "none"})])
@pytest.mark.parametrize("pad", [None, [0, 3, 8, 18]])
def test_a_cache_that_slid_is_that_of_the_text_without_the_middle(name, more, pad):
    """With padding, for each row what it has."""
    m, g = random_model(name, **more), torch.Generator().manual_seed(0)
    ids = torch.randint(0, 131, (4 if pad else 1, 20), generator=g)
    cache = Cache(m.cfg, len(ids), 24, torch.tensor(pad) if pad else None)
    m(ids[:, :11], cache=cache)
    m(ids[:, 11:18], cache=cache)
    assert G.slide(cache, 8) == 18 - SINKS - 8 and cache.n == SINKS + 8
    got = m(ids[:, 18:], cache=cache)
    for row, n, logits in zip(ids, pad or [0], got):
        kept = torch.cat((row[n:n + SINKS], row[18 - 8:])) if n < 6 else row[n:]
        assert torch.allclose(logits, m(kept.unsqueeze(0))[0, -2:], atol=1e-4), n


def test_a_conversation_slides_on_and_begins_again_where_its_beginning_is_gone():
    m = random_model("llama")
    past = Past(Cache(m.cfg, 1, 24))
    past.read_ids(m, torch.arange(20).unsqueeze(0))
    past.read_ids(m, torch.arange(20, 24).unsqueeze(0))
    assert past.gone == 0 and past.cache.n == 24, "it is filled to its last place"
    past.read_ids(m, torch.arange(24, 26).unsqueeze(0))
    gone = 24 - SINKS - 12
    assert past.gone == gone and past.ids == list(range(26)) and past.cache.n == 26 - gone
    assert past.rewind([*range(23), 7, 8]) == 23 and past.cache.n == 23 - gone
    assert past.rewind([0, 1, 2, 3, 4, 9]) == 0 and (past.cache.n, past.gone, past.ids) == (0, 0, [])


def test_a_conversation_is_the_text_read_at_once_and_reads_only_what_is_new(both):
    model, tokenizer = both
    past, text, seen = Past(), "", watch_steps(model)
    for typed in ("Once", " there was", ""):
        text += typed
        seen.clear()
        new = texts(model, tokenizer, [text], 5, past=past, draw=Draw(), seed=1)[0]
        if text != "Once":
            assert seen[0][0] < len(tokenizer.encode(text)) // 2
        assert new == texts(model, tokenizer, [text], 5, draw=Draw(), seed=1)[0]
        text += new


def test_a_window_bounds_the_memory_of_an_endless_text(both):
    model, tokenizer = both
    tokenizer.ends, into, seen = set(), [], watch_steps(model)
    for past, prompts in (None, [LONG, "Un"]), (Past(), [LONG]):
        list(continuations(model, tokenizer, prompts, 150, window=24, into=into, past=past, draw=Draw(1.0)))
    assert {room for _, room in seen} == {24} and [t.n for t in into] == [150] * 3


def test_beyond_the_context_alibi_goes_on_and_rope_says_no(bloom):
    alibi, rope = shape("bloom"), shape("llama")
    assert G.cache_limit(alibi, 300, 2) == 4 * 48 and G.cache_limit(alibi, 5, 2, 500) == 500
    assert G.cache_limit(rope, 46, 2) == G.cache_limit(rope, 300, 2, 48) == 48
    for *asked, words in ((46, 3, None, "more than the 48.*use --tokens 2, or --window 48"),
                          (48, 1, None, "trained on; use --window 48"), (1, 1, 64, "at most the 48")):
        with pytest.raises(ValueError, match=words):
            G.cache_limit(rope, *asked)
    assert len(bloom[1].encode(LONG)) > bloom[0].cfg.context and texts(*bloom, [LONG], 4)[0]
    with pytest.raises(ValueError, match="no memory for the keys and values of 3 texts of 1,000,000,000"):
        G.new_cache(alibi, 3, 10 ** 9, None, torch.zeros(1))


# ---- a batch ----

@pytest.mark.parametrize("draw", [GREEDY, Draw(top_p=0.95), Draw(top_k=20, min_p=0.02, penalty=1.3)])
def test_a_batch_of_unequal_prompts_equals_one_by_one(both, draw):
    batch = texts(*both, PROMPTS, draw=draw, seed=3)
    assert batch == [texts(*both, [p], draw=draw, seed=3)[0] for p in PROMPTS] and len(set(batch)) > 1


def test_sample_i_of_a_prompt_is_what_seed_plus_i_gives(both):
    together = texts(*both, PROMPTS, samples=3, draw=Draw(), seed=5)
    alone = [[texts(*both, [p], draw=Draw(), seed=5 + i)[0] for i in range(3)] for p in PROMPTS]
    assert together == sum(alone, []) and len(set(together)) > 8


def test_greedy_tokens_and_log_probabilities_are_those_of_the_uncached_model(both):
    model, tokenizer = both
    ids = G.prompt_ids(tokenizer, "Once upon a")
    for draw in GREEDY, Draw(temperature=0.5, top_k=4):
        into, before = [], list(ids)
        list(continuations(model, tokenizer, [ids], 12, into=into, logprobs=3, draw=draw))
        assert len(into[0].tokens) == 12
        for i, p, top in into[0].tokens:
            want = model(torch.tensor([before]))[0, -1, :tokenizer.vocab].log_softmax(-1)
            assert p == pytest.approx(want[i].item(), abs=1e-4), "whatever the draw"
            assert [j for j, _ in top] == want.topk(3).indices.tolist() and (draw != GREEDY or i == top[0][0])
            before.append(i)


def test_the_penalty_is_for_the_prompt_and_for_what_was_written(both):
    prompt = G.prompt_ids(both[1], "Once upon a time there was a girl")
    drawn = [i for _, i, _ in generate(*both, [prompt], 12, Draw(temperature=0, penalty=1e6))]
    assert len({*prompt, *drawn}) == len(set(prompt)) + 12


def test_a_tokenizer_that_is_loaded_alone_continues_as_that_of_the_run(bloom, runs):
    alone = tok.load(str(runs / "bloom/tokenizer"))
    assert texts(bloom[0], alone, PROMPTS, draw=GREEDY) == texts(*bloom, PROMPTS, draw=GREEDY)


def test_prompts_may_be_ids_and_each_may_have_stops_of_its_own(bloom):
    write = functools.partial(texts, *bloom, tokens=30, draw=GREEDY)
    a, b = write(PROMPTS[:2])
    stops, want = [[a[5:7]], ["\0", b[8]]], [a[:a.index(a[5:7])], b[:b.index(b[8])]]
    ids = [G.prompt_ids(bloom[1], p) for p in PROMPTS[:2]]
    assert write(PROMPTS[:2], stops=stops) == write(ids, stops=stops) == want
    assert write(PROMPTS[:1], samples=2, stops=stops[:1]) == want[:1] * 2


def test_padding_ids_are_never_drawn(bloom):
    model, tokenizer = bloom
    assert model.cfg.vocab == 512 and tokenizer.vocab == 500
    with torch.no_grad():
        model.embed.weight[500:] = 100 * model.norm.bias + 10       # make them the likeliest by far
    drawn = [i for _, i, _ in generate(model, tokenizer, [[5, 6]], 50, Draw(temperature=5.0))]
    assert drawn and max(drawn) < 500


def test_a_row_ends_with_an_id_that_ends_a_text_or_as_the_caller_says():
    tokenizer, prompts = types.SimpleNamespace(vocab=500, ends={2, 44}), [[5], [6, 7]]
    for rows, tokens, want, steps in (([7, 44, 9], [8, 2, 9]), 3, [(0, 7), (1, 8)], 2), \
            (([7, 9, 10, 11], [8, 2, 8, 8]), 4, [(0, 7), (1, 8), (0, 9), (0, 10), (0, 11)], 4):
        model = Scripted(*rows)
        assert [(r, i) for r, i, _ in generate(model, tokenizer, prompts, tokens, GREEDY)] == want
        assert model.steps == steps, "no step is made whose logits nobody needs"
    told = generate(Scripted([7, 9], [8, 10]), tokenizer, prompts, 2, GREEDY)
    assert next(told)[:2] == (0, 7) and told.send(True)[:2] == (1, 8) and told.send(None)[:2] == (1, 10)


def test_a_text_says_why_it_ended(bloom):
    def reason(**settings):
        into = []
        list(continuations(*bloom, ["Once"], into=into, draw=Draw(temperature=1.0), **settings))
        return into[0].finish, into[0].n
    assert reason(tokens=3) == ("length", 3)
    assert reason(tokens=60, stops=["e"])[0] == "stop"
    bloom[1].ends = set(range(500))
    assert reason(tokens=3) == ("end", 0)


# ---- text ----

def test_an_empty_prompt_begins_with_bos_else_eos_else_is_refused():
    def ids(bos, eos, text, begin=()):
        return G.prompt_ids(types.SimpleNamespace(bos=bos, eos=eos, begin=begin, encode=str.encode), text)
    assert ids(1, 2, "") == [1] and ids(None, 2, "") == [2]
    assert ids(1, 2, "A") == [65] and ids(1, 2, "A", [2]) == [2, 65]
    with pytest.raises(ValueError, match="no token that begins a text"):
        ids(None, None, "")


def test_streaming_never_shows_half_a_character_or_the_beginning_of_a_stop_string():
    text, shown = Text(["END", "\n\n"]), ""
    for byte in "né 🦙 E ENx EN".encode():
        shown += text.add(bytes([byte]))
    assert shown == "né 🦙 E ENx "
    assert text.add(b"D and more") == "" and text.stopped and text.text == "né 🦙 E ENx "
    half = Text()
    assert half.add("é".encode()[:1]) == "" and half.add(b"", final=True) == "\ufffd"
    several = Text(["two", "one"])
    assert several.add(b"zero one two") == "zero " and several.stopped, "the first in the text ends it"


@pytest.mark.parametrize("text, whole", [
    ("ab", "a"), ("ab ", "ab "), ("", ""), ("cafe\u0301", "caf"), ("को", ""), ("नमस्ते ", "नमस्ते "),
    ("قال الول", "قال "), ("קרא ש", "קרא "), ("שלום!", "שלום"), ("say שלום", "say ")])
def test_what_is_shown_is_not_changed_by_what_follows(text, whole):
    """Accents, and right-to-left words, whose letters take another shape when the next one comes."""
    assert text[:G.settled(text)] == whole


@pytest.mark.parametrize("text", ["cafe\u0301 نص عربي 👩‍🚀🇫🇷 שלום x", "को नमस्ते\nدانشگاه"])
def test_streamed_pieces_are_the_whole_text(text):
    streamed, shown = Text(), ""
    for byte in text.encode():
        new = streamed.add(bytes([byte]))
        assert not "\u0300" <= new[:1] <= "\u036f", "no accent is shown apart from its letter"
        shown += new
    assert shown != text and shown + streamed.add(b"", final=True) == text


def test_stop_strings_are_not_shown_wherever_the_tokens_end(bloom):
    write = functools.partial(texts, *bloom, ["Once"], 40, draw=Draw(temperature=1.0), seed=1)
    free = write()[0]
    for at in range(3, 12):
        stop = free[at:at + 3]
        assert write(stops=[stop])[0] == free[:free.index(stop)]


def test_the_space_that_sentencepiece_puts_before_a_text_is_not_shown_and_no_other(runs):
    tokenizer = tok.load(str(runs / "llama/tokenizer"))

    def written(prompt, ids):
        return texts(Scripted(ids), tokenizer, [prompt], len(ids), draw=GREEDY)[0]
    ids, space, a = tokenizer.encode("One day a girl"), tokenizer.encode("  ")[0], tokenizer.encode("a")[0]
    assert written("", ids) == "One day a girl" and written("Un", ids) == " One day a girl"
    assert written("", [space, a]) == tokenizer.decode([space, a])
