import math
import types

import numpy as np
import torch

import generate
from course import parts
from evaluation import scoring


def same(a, b, tolerance=1e-5):
    return np.allclose(np.asarray(a, float), np.asarray(b, float), atol=tolerance, rtol=0)


class Words:
    """A tokenizer whose tokens are words with the space before them."""
    bos, eos = 1, 2

    def __init__(self, begin=()):
        self.begin, self.known = list(begin), {}

    def encode_batch(self, texts):
        return [self.encode(text) for text in texts]

    def encode(self, text):
        words, word = [], ""
        for c in text:
            if c == " " and word.strip():
                words, word = words + [word], ""
            word += c
        return [self.known.setdefault(w, 10 + len(self.known)) for w in words + [word] if w]


# ---- texts to ids ----

def test_the_border_is_cut_by_ids():
    """Encode the whole, cut it after the ids of the context. A space at its end goes to the continuation."""
    t = Words()
    whole = t.encode("the cat sat down")
    for context, continuation in (("the cat", " sat down"), ("the cat ", "sat down"), ("the cat \n ", "sat")):
        [(c, k)] = scoring.encode(t, [(context, continuation)])
        assert list(c) == t.encode("the cat") and k == tuple(t.encode(context + continuation)[2:])
    assert [tuple(whole[2:])] == [k for _, k in scoring.encode(t, [("the cat ", "sat down")])]


def test_a_context_has_at_least_one_id():
    """The model needs something to read: what begins texts stands before, also before an empty context."""
    t = Words(begin=[2])
    (c, _), (empty, k) = scoring.encode(t, [("a b", " c"), ("", "c")])
    assert list(c) == [2, *t.encode("a b")] and empty == (2,) and list(k) == t.encode("c")
    [(empty, _)] = scoring.encode(Words(), [("", "c")])
    assert empty == (1,), "without begin it is the token that begins texts"
    assert isinstance(c, tuple), "pairs are keys of a dictionary"


def test_contexts_are_cut_on_the_left():
    """T tokens are read: context and continuation without its last token, which is predicted only."""
    pair = (1, 2, 3, 4, 5), (6, 7, 8)
    for T, kept in ((10, (1, 2, 3, 4, 5)), (7, (1, 2, 3, 4, 5)), (6, (2, 3, 4, 5)), (3, (5,))):
        assert scoring.fit(pair, T, {}) == (kept, (6, 7, 8))


def test_what_does_not_fit_is_said():
    """A continuation longer than the window, or without a token, is an error that names the item."""
    for pair, T in (((1,), (2, 3, 4)), 2), (((1,), ()), 5):
        try:
            scoring.fit(pair, T, {"where": "file.jsonl, record 7"})
        except ValueError as e:
            assert "file.jsonl, record 7" in str(e)
            continue
        raise AssertionError


# ---- ids to log-probabilities ----

class Table:
    """A model whose logits follow from the last id alone. It counts what it is asked at once."""
    def __init__(self, V=6):
        self.cfg = types.SimpleNamespace(vocab=V)
        self.table, self.most = torch.randn(V, V, generator=torch.Generator().manual_seed(0)), 0

    def __call__(self, ids, cache=None):
        self.most = max(self.most, ids.numel())
        return self.table[ids]


def test_scores_are_those_of_the_target():
    """The logits after an id are about the next one: log softmax, in float32, at the target."""
    net, ids = Table(), torch.tensor([[0, 3, 2], [5, 1, 1]])
    targets = torch.tensor([[3, 2, 4], [1, 1, 0]])
    p, likeliest = scoring.row_scores(net, ids, targets, cache=object())
    want = net.table.log_softmax(-1)[ids, targets]
    assert p.shape == (2, 3) and same(p, want)
    assert likeliest.tolist() == (net.table.argmax(-1)[ids] == targets).tolist()


def test_ignored_places_score_nothing():
    """A target of -100 is padding: its score is 0, not minus something."""
    ids = torch.tensor([[0, 3, 2]])
    p, _ = scoring.row_scores(Table(), ids, torch.tensor([[3, -100, -100]]), cache=object())
    assert p[0, 1:].tolist() == [0, 0] and p[0, 0] < 0


def test_logits_are_held_a_few_at_a_time():
    """With at_once logits in memory at most, the columns are read in parts; the scores stay the same."""
    ids = torch.randint(0, 6, (2, 9), generator=torch.Generator().manual_seed(1))
    targets = ids.flip(1)
    want = scoring.row_scores(Table(), ids, targets, cache=object())
    net = Table()
    got = scoring.row_scores(net, ids, targets, cache=object(), at_once=2 * 6 * 2)
    assert net.most <= 4 and same(got[0], want[0]) and torch.equal(got[1], want[1])
    tiny = scoring.row_scores(Table(), ids, targets, cache=object(), at_once=1)
    assert same(tiny[0], want[0]), "one column at least"


# ---- what an item gets ----

def test_the_error_of_a_mean():
    """The standard error divides by n - 1 and by the root of n; from one value nobody knows it: nan."""
    m, error = scoring.mean([1, 0, 1, 1])
    assert m == 0.75 and same(error, 0.25)
    m, error = scoring.mean([1])
    assert m == 1 and math.isnan(error)


def test_normalisations_by_hand():
    """By the sum; by the characters, without the space before; by what the choice has after "Answer:"."""
    got = scoring.rule_scores([" été", " a"], [-6.0, -1.0, -2.0, -3.0])
    assert same(got["sum"], [-6, -1]) and same(got["char"], [-2, -1]) and same(got["answer"], [-4, 2])
    assert set(scoring.rule_scores([" a", " b"], [-1.0, -2.0])) == {"sum", "char"}


def test_answers_as_they_are_compared():
    """Lower case, no articles, no signs, single spaces. An article inside a word stays."""
    for text, want in (("The  Louvre.", "louvre"), ("an apple, a day", "apple day"), ("Atheneum", "atheneum"),
                       (" A-B ", "ab"), ("a", "")):
        assert scoring.normal(text) == want


def test_numbers_as_they_are_compared():
    """The last number counts, without commas; a minus and decimals belong to it."""
    for text, want in (("so she has 1,200 eggs", "1200"), ("5 + 3 = 8. #### 1,208", "1208"),
                       ("-3.50 dollars", "-3.50"), ("none", ""), ("It is 7.", "7")):
        assert scoring.normal(text, number=True) == want


def test_the_best_choice_by_each_rule():
    """Each rule has a choice of its own: a long one may win by characters and lose by the sum."""
    item = {"context": "x", "choices": [" yes indeed", " no"], "label": 0}
    got = scoring.judge(item, [(-6.0, False), (-3.0, True)])
    assert got["scores"] == [-6.0, -3.0] and got["right"] == {"sum": False, "char": True}
    got = scoring.judge(item, [(-6.0, False), (-3.0, True), (-9.0, False), (-2.0, False)])
    assert got["right"]["answer"]


def test_targets_and_written_answers():
    """A target is right if greedy decoding writes it; an answer if it is one of the golds, as compared."""
    got = scoring.judge({"context": "x", "target": " y"}, [(-1.5, True)])
    assert got["scores"] == -1.5 and got["right"] == {"greedy": True}
    item = {"context": "x", "answer": ["The Seine", "seine river"]}
    assert scoring.judge(item, "seine.")["right"] == {"match": True}
    assert scoring.judge(item, "the Loire")["right"] == {"match": False}
    item = {"context": "x", "answer": "1200", "number": True}
    assert scoring.judge(item, "= 1,200")["right"] == {"match": True}


def test_tokenizers_are_compared_by_bytes():
    """Two tokenizers cut a text into 4 and 8 tokens with 2 and 1 nats each: the models are equally good."""
    text = "ça va bien"
    assert len(text.encode()) == 11
    want = 8 / math.log(2) / 11
    assert same(parts.bits_per_byte(4 * 2.0, text), want) and same(parts.bits_per_byte(8 * 1.0, text), want)


# ---- drawing ----

LOGITS = torch.log(torch.tensor([[0.1, 0.5, 0.25, 0.15]]))


def kept(logits=LOGITS, seen=None, **settings):
    """{id: probability} of what may follow."""
    p, ids = generate.candidates(logits, generate.Draw(**{"temperature": 1.0, **settings}), seen)
    p = p / p.sum(-1, keepdim=True)
    return {i: round(x, 3) for i, x in zip(ids[0].tolist(), p[0].tolist()) if x}


EVERYTHING, TWO, ONE = {0: 0.1, 1: 0.5, 2: 0.25, 3: 0.15}, {1: 0.667, 2: 0.333}, {1: 1.0}


def test_temperature():
    """Logits are divided by it before the softmax; 0 is the likeliest alone."""
    assert kept() == EVERYTHING and kept(temperature=0) == ONE
    assert abs(kept(temperature=0.5)[1] - 0.25 / 0.345) < 2e-3
    assert abs(kept(temperature=2.0)[0] - 0.1625) < 5e-3


def test_the_k_likeliest():
    """k of them, with their probabilities in proportion; more than there are is all."""
    assert kept(top_k=2) == TWO and kept(top_k=1) == ONE and kept(top_k=9) == EVERYTHING


def test_the_nucleus():
    """The smallest set of likeliest tokens that makes up p: the one that crosses the border belongs to it."""
    assert kept(top_p=0.51) == TWO and kept(top_p=0.5) == ONE and kept(top_p=1e-9) == ONE
    assert set(kept(top_p=0.8)) == {1, 2, 3}
    assert kept(top_k=2, top_p=0.6) == ONE, "it looks at what top-k left: 0.667 is enough"


def test_the_nucleus_of_many_tokens():
    """Two rows of 2000 tokens: a flat row needs most of them, a steep one few."""
    steep = -torch.arange(2000.0)
    logits = torch.stack((torch.zeros(2000), steep)) + 1e-6 * steep
    p, _ = generate.candidates(logits, generate.Draw(temperature=1.0, top_p=0.9))
    assert abs(int((p[0] > 0).sum()) - 1800) < 5 and int((p[1] > 0).sum()) == 3


def test_the_share_of_the_first():
    """min_p compares with the likeliest: 0.4 of 0.5 is 0.2."""
    assert kept(min_p=0.4) == TWO and kept(min_p=1.0) == ONE and set(kept(min_p=0.25)) == {1, 2, 3}


def test_the_penalty():
    """A positive logit is divided and a negative one multiplied, for tokens of the text so far only."""
    logits, seen = torch.tensor([[2.0, -1.0, 0.5]]), torch.tensor([[True, True, False]])
    want = torch.tensor([1.0, -2.0, 0.5]).softmax(-1)
    got = kept(logits, seen, penalty=2.0)
    assert same([got[i] for i in range(3)], want, 1e-3) and logits.tolist() == [[2.0, -1.0, 0.5]]
    none = kept(logits, torch.zeros(1, 3, dtype=torch.bool), penalty=2.0)
    assert same([none[i] for i in range(3)], logits[0].softmax(-1), 1e-3)


def test_draws_have_the_probabilities():
    """A number from 0 to 1 chooses the token on whose part of the line it falls."""
    n = 1000
    u = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    for settings, want in (({}, EVERYTHING), ({"top_k": 2}, TWO), ({"temperature": 0.0}, ONE)):
        draw = generate.Draw(**{"temperature": 1.0, **settings})
        ids = generate.choose(LOGITS.expand(n, 4), draw, u)
        share = torch.bincount(ids, minlength=4) / n
        assert ids.shape == (n,) and all(abs(share[i] - want.get(i, 0)) < 0.003 for i in range(4))


def test_the_ends_of_the_line():
    """0 and the number just below 1 give tokens that may follow: none with probability 0."""
    draw = generate.Draw(temperature=1.0, top_p=0.7)
    for u in (0.0, 1 - 2 ** -53):
        logits = torch.tensor([[-50.0, 1.0, 0.9, -50.0]])
        assert int(generate.choose(logits, draw, torch.tensor([u], dtype=torch.float64))) in (1, 2)
