import types

import numpy as np

import train
from planning import ablate, law

LAW = {"E": 1.2, "A": 60.0, "B": 90.0, "alpha": 0.35, "beta": 0.30}
LAWS = (law.HOFFMANN, LAW)


def near(a, b, share=1e-6):
    return bool(np.allclose(np.asarray(a, float), np.asarray(b, float), rtol=share, atol=1e-12))


# ---- the law ----

def test_the_law_by_hand():
    """E + A / N^alpha + B / D^beta, for numbers and for arrays. With powers 1/2 and 1 it is easy by hand."""
    one = {"E": 2.0, "A": 30.0, "B": 400.0, "alpha": 0.5, "beta": 1.0}
    assert near(law.predict(one, 100, 800), 2 + 3 + 0.5)
    assert near(law.predict(one, np.array([100.0, 900.0]), np.array([800.0, 400.0])), [5.5, 4.0])


def test_flops_by_hand():
    """6 for each weight in a product, 12 per layer and width for each key seen, none for a lookup."""
    m = types.SimpleNamespace(tied=True, vocab=100, dim=10, layers=2, context=50)
    assert train.flops_per_token(m, 5000) == 6 * 5000 + 12 * 2 * 10 * 50
    m.tied = False
    assert train.flops_per_token(m, 5000) == 6 * 4000 + 12 * 2 * 10 * 50


def grid():
    return (v.ravel() for v in np.meshgrid([1e5, 2e5, 4e5, 1e6], [1e5, 2e5, 4e5, 1e6]))


def test_the_fit_finds_the_constants():
    """Losses that obey a law exactly: the fit must find its five constants. Fit logarithms, from several
    starts."""
    N, D = grid()
    for one in (LAW, {"E": 2.0, "A": 400.0, "B": 200.0, "alpha": 0.5, "beta": 0.4}):
        found, laws = law.fit(N, D, law.predict(one, N, D), 2)
        assert len(laws) == 2
        for key, value in one.items():
            assert near(found[key], value, 1e-3)


def test_one_bad_run_moves_little():
    """One loss is 30% too high: squares would let it pull everything, Huber's loss does not."""
    N, D = grid()
    L = law.predict(LAW, N, D)
    L[5] *= 1.3
    found, _ = law.fit(N, D, L, 1)
    assert near(found["alpha"], LAW["alpha"], 0.15) and near(found["beta"], LAW["beta"], 0.15)


def test_resamplings_show_the_noise():
    """Ten times the noise: the exponents of the resamplings lie further apart, and around the right ones."""
    N, D = grid()

    def spread(noise):
        errors = np.random.default_rng(1).normal(0, noise, len(N))
        _, laws = law.fit(N, D, law.predict(LAW, N, D) * np.exp(errors), 12)
        return np.std([one["alpha"] for one in laws])
    assert 0 < spread(0.0004) < spread(0.004) / 3


# ---- the budget ----

def test_the_best_use_of_training():
    """Along 6ND = C no other size has a lower loss: try them all."""
    for one in LAWS:
        for C in (1e18, 5.76e23):
            N, D = law.compute_optimal(one, C)
            assert near(6 * N * D, C)
            sizes = N * np.geomspace(0.1, 10, 2001)
            assert near(N, sizes[law.predict(one, sizes, C / 6 / sizes).argmin()], 3e-3)


def test_the_cheapest_model_reaches_its_loss():
    """Whatever it will serve, the model reaches the loss that is asked for; without serving it is the best
    of its training FLOPs."""
    for one in LAWS:
        for served in (0, 1e9, 1e12):
            assert near(law.predict(one, *law.cheapest(one, 2.0, served)), 2.0)
        N, D = law.compute_optimal(one, 1e20)
        assert near(law.cheapest(one, float(law.predict(one, N, D)), 0), (N, D), 1e-3)


def test_the_cheapest_life():
    """FLOPs of a life are 6ND + 2NI: try all sizes that reach the loss. More to serve, a smaller model."""
    one = law.HOFFMANN
    for served in (0, 1e12, 1e14):
        N = np.geomspace(1e8, 1e12, 400_001)
        room = 2.0 - one["E"] - one["A"] / N ** one["alpha"]
        N, room = N[room > 0], room[room > 0]
        cost = 6 * N * (one["B"] / room) ** (1 / one["beta"]) + 2 * N * served
        size, tokens = law.cheapest(one, 2.0, served)
        assert near(6 * size * tokens + 2 * size * served, cost.min(), 1e-4)
    sizes = [law.cheapest(one, 2.0, served)[0] for served in (0, 1e11, 1e12, 1e13)]
    assert sizes == sorted(sizes, reverse=True) and sizes[0] > 1.2 * sizes[-1]


def test_a_loss_out_of_reach():
    """No model falls below E: say so with a ValueError."""
    for loss in (LAW["E"], 0.5):
        try:
            law.cheapest(LAW, loss, 0)
        except ValueError:
            continue
        raise AssertionError


# ---- curves and ablations ----

def test_smoothing_by_hand():
    """The mean of y and its neighbours: a fifth of those before it on each side, so the beginning stays
    sharp."""
    y = np.array([5.0, 9.0, 1.0, 7.0, 3.0, 8.0, 6.0])
    got = law.smooth(y)
    assert near(got[:5], y[:5]) and near(got[5], (3 + 8 + 6) / 3) and near(got[6], (8 + 6) / 2)
    assert near(law.smooth(np.arange(100.0))[:80], np.arange(80.0)), "a straight line stays"


def results(scores):
    found = []
    for seed in range(3):
        for (a, b), losses in scores.items():
            choices = {"m.a": a, "m.b": b}
            found.append({"choices": choices, "seed": seed, "run": "", "scores": {"loss": losses[seed]}})
    return found


AXES = {"m.a": ["x", "y"], "m.b": ["1", "2"]}
SCORES = {
    ("x", "1"): [0, 0, 0],
    ("x", "2"): [1.0, 1.1, 1.2],
    ("y", "1"): [0, 0.3, -0.3],
    ("y", "2"): [2.0, 2.4, 1.9],
}


def test_differences_by_hand():
    """b moves the loss by 1.0, 1.1, 1.2 where a is x and by 2.0, 2.1, 2.2 where it is y: 1.6 on average."""
    a, b = ablate.differences(AXES, results(SCORES), "loss")
    assert (a["setting"], a["from"], a["to"], a["measure"]) == ("m.a", "x", "y", "loss")
    assert (b["setting"], b["from"], b["to"]) == ("m.b", "1", "2")
    assert near(b["difference"], 1.6) and near(a["difference"], 0.5)
    three = ablate.differences({"m.a": ["x", "y", "z"], "m.b": ["1"]}, results(
        {("x", "1"): [1, 2, 3], ("y", "1"): [2, 3, 4], ("z", "1"): [4, 5, 6]}), "loss")
    got = [(d["from"], d["to"], round(d["difference"], 6)) for d in three]
    assert got == [("x", "y", 1), ("x", "z", 3), ("y", "z", 2)]


def test_intervals_come_from_the_seeds():
    """The variance is that between seeds inside a cell, divided by n - 1; two cells of three seeds have 4
    degrees of freedom."""
    a, b = ablate.differences(AXES, results(SCORES), "loss")
    assert near(b["interval"], 2.78 * (0.01 / 6) ** 0.5, 1e-3)
    assert near(a["interval"], 2.78 * (0.09 / 6) ** 0.5, 1e-3)


def test_what_the_seeds_share_cancels():
    """All runs of a seed read the same rows: compare inside a seed, or a bad seed hides everything."""
    shared = np.array([0.0, 5.0, -5.0])
    cells = {("x", "1"): shared, ("x", "2"): shared + [0.1, 0.11, 0.09],
             ("y", "1"): shared, ("y", "2"): shared + 0.1}
    b = ablate.differences(AXES, results(cells), "loss")[1]
    assert near(b["difference"], 0.1) and b["interval"] < 0.02 and b["beyond_seeds"]
    none = {key: [0.5, -0.5, 0.1] if key == ("x", "2") else [0, 0, 0] for key in SCORES}
    assert not ablate.differences(AXES, results(none), "loss")[1]["beyond_seeds"]
