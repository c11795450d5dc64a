"""After you have trained a few sizes: how the loss falls with size and tokens, and which size to train next.

    python plan.py figure runs/NAME                 # one run: training and validation loss, learning rate
    python plan.py figure runs/scale-*              # loss against tokens and against FLOPs (LLaMA, Figure 1)
    python plan.py fit runs/scale-*                 # L(N, D) = E + A / N^alpha + B / D^beta, to runs/fit.json
    python plan.py budget --train-flops 5.76e23 --inference-tokens 1e13
    python plan.py budget --loss 2.0 --inference-tokens 1e12 --law runs/fit.json

`fit` needs scipy, and `figure` matplotlib.

Letters: N parameters that multiply (an embedding that is only looked up is left out)   D tokens of training
         L loss, nats per token   C training FLOPs, 6ND   I tokens that the model reads and writes in its life
"""
import itertools
import math
import os

import numpy as np
import torch

import checkpoint
import config
from model import Transformer, count
from planning import figures
from train import flops_per_token

# Hoffmann et al. 2022 (arXiv 2203.15556), appendix D.3, as printed; N there counts every parameter
HOFFMANN = {"E": 1.69, "A": 406.4, "B": 410.7, "alpha": 0.34, "beta": 0.28}
# Beyond this an error of log L counts by its size, not by its square. Hoffmann: 1e-3, for some 400 runs; here
# toy runs that differ only by the seed differ by about a hundredth.
HUBER = 1e-2
RESAMPLINGS = 400
MOST_POWER, LEAST_E = 5, 1e-3       # bounds of alpha and beta; of E, as a share of the lowest loss


# ---- the runs ----

def short(x):
    """short(6.7e9) -> "6.7B", short(131072) -> "131K" """
    for letter, unit in (("T", 1e12), ("B", 1e9), ("M", 1e6), ("K", 1e3)):
        if x >= 0.9995 * unit:
            return f"{x / unit:.3g}{letter}"
    return f"{x:.3g}"


def open_runs(paths):
    """[(RunFolder, N, FLOPs per token, records of its log)], smallest first. All read the same tokens."""
    found = []
    for path in paths:
        run = checkpoint.open_run(path)
        m = run.settings().model                        # refuses an imported model
        with torch.device("meta"):
            P = count(Transformer(m))
        N = P if m.tied else P - m.vocab * m.dim
        found.append((run, N, flops_per_token(m, P), run.records()))
        for key in ("data_sha256", "tokenizer"):
            if run.facts[key] != found[0][0].facts[key]:
                raise ValueError(f"{path} and {paths[0]} were trained on different tokens: their losses "
                                 "cannot be compared")
    return sorted(found, key=lambda one: (one[1], one[0].facts["run"]["tokens"]))


def smooth(y):
    """Each y's mean with its neighbours: a fifth of those before it, to either side."""
    i, total = np.arange(len(y)), np.concatenate([[0], np.cumsum(y)])
    first, end = i - i // 5, np.minimum(i + i // 5 + 1, len(y))
    return (total[end] - total[first]) / (end - first)


def figure(paths):
    """One run by itself; several against tokens and FLOPs."""
    lines = []
    for run, N, flops, records in open_runs(paths):
        steps = [(r["tokens"], r["loss"], r.get("lr", math.nan)) for r in records if "loss" in r]
        tokens, loss, rate = np.array(steps, float).reshape(-1, 3).T
        lines.append((short(N), tokens, tokens * flops, smooth(loss)))
    if len(lines) > 1:
        return figures.draw_runs(lines, os.path.join(os.path.dirname(run.path), "loss"))
    curves = {"training": (tokens, smooth(loss))}
    for r in records:
        if "val" in r:
            for name, val in {"all": r["val"], **r["val"].get("sources", {})}.items():
                at, values = curves.setdefault(f"validation: {name}", ([], []))
                at.append(r["tokens"])
                values.append(val["loss"])
    figures.draw_run(run.path, (tokens, loss, rate), curves, f"{run.path}/loss")


# ---- the law and its fit ----

def predict(law, N, D):
    return law["E"] + law["A"] / N ** law["alpha"] + law["B"] / D ** law["beta"]


def fit(N, D, L, resamplings):
    """(law, laws): the constants with the least Huber loss of log L (Hoffmann, equation 3) for losses L (n,)
    of sizes N and tokens D; those of the resamplings. Stops if a constant ends on its bound.

    A resampling is the fitted losses with errors drawn from the fit's own, scaled up, for the five constants
    took some away. To draw runs instead, as Hoffmann does, would leave whole sizes of a small grid out.
    """
    try:
        from scipy.optimize import least_squares
    except ImportError as e:
        raise ValueError("the fit needs scipy, which is not installed: pip install scipy") from e
    log_n, log_d, target = np.log(N), np.log(D), np.log(L)
    x, y = log_n - log_n.mean(), log_d - log_d.mean()
    low = np.array([target.min() + math.log(LEAST_E), -30, -30, 0, 0])
    high = np.array([target.max(), 30, 30, MOST_POWER, MOST_POWER])

    def fitted(theta):
        e, a, b, alpha, beta = theta                        # the first three are logarithms
        return np.log(np.exp(e) + np.exp(a - alpha * x) + np.exp(b - beta * y))

    def descend(start, target):
        start = np.clip(start, low + 1e-3, high - 1e-3)
        return least_squares(lambda theta: fitted(theta) - target, start, "cs", bounds=(low, high),
                             loss="huber", f_scale=HUBER, xtol=1e-9, ftol=1e-9, gtol=1e-9)

    def law(theta):
        e, a, b, alpha, beta = theta.tolist()
        return {"E": math.exp(e), "A": math.exp(a + alpha * log_n.mean()),
                "B": math.exp(b + beta * log_d.mean()), "alpha": alpha, "beta": beta}
    found = []
    for e, power in itertools.product((0.2, 0.9), (0.2, 0.6)):      # E's share of the loss, both powers
        level = np.log([e, (1 - e) / 2, (1 - e) / 2]) + target.mean()
        found.append(descend([*level, power, power], target))
    best = min(found, key=lambda one: one.cost).x
    if best[0] < low[0] + math.log(2) or min(best[3:]) < 0.03 or max(best[3:]) > MOST_POWER - 0.03:
        constants = ", ".join(f"{key} {value:.2g}" for key, value in law(best).items())
        raise ValueError(f"{constants}: E, alpha or beta is on a bound of the fit, so no budget follows: "
                         "train more sizes and lengths, further apart")
    n, errors = len(L), target - fitted(best)
    errors = (errors - errors.mean()) * math.sqrt(n / (n - 5))
    laws, tick = [], config.progress("fits to resampled losses", resamplings)
    for draw in np.random.default_rng(0).integers(n, size=(resamplings, n)):
        laws.append(law(descend(best, fitted(best) + errors[draw]).x))
        tick(1)
    return law(best), laws


def final_losses(paths):
    """[(path, N, D, validation loss at the end)] of finished runs."""
    points = []
    for run, N, _, records in open_runs(paths):
        last = [r for r in records if "val" in r][-1:]
        # a loss before the end is not that of a shorter run: its learning rate was still high
        if not last or last[0]["tokens"] < run.facts["run"]["tokens"]:
            raise ValueError(f"{run.path} is not finished: continue it, or leave it out")
        points.append((run.path, N, last[0]["tokens"], last[0]["val"]["loss"]))
    _, sizes, lengths, _ = map(set, zip(*points))
    if len(points) < 6 or len(sizes) < 3 or len(lengths) < 3:
        raise ValueError(f"{len(points)} runs of {len(sizes)} sizes and {len(lengths)} lengths: a fit needs "
                         "six runs, three sizes and three lengths")
    return points


def report_fit(paths):
    """Fit the final losses of runs; print constants and errors, and write fit.json beside the runs."""
    points = final_losses(paths)
    out = os.path.join(os.path.dirname(points[0][0]), "fit.json")
    _, N, D, L = zip(*points)
    law, laws = fit(N, D, L, RESAMPLINGS)
    print(f"{'run':32} {'N':>7} {'D':>7}  {'loss':>7}  difference from the fit")
    for name, n, d, loss in points:
        print(f"{name:32} {short(n):>7} {short(d):>7}  {loss:7.4f}  {loss / predict(law, n, d) - 1:+10.2%}")
    print(f"\nL(N, D) = E + A / N^alpha + B / D^beta            90% of {len(laws)} resamplings")
    interval = {}
    for key, value in law.items():
        low, high = interval[key] = np.quantile([one[key] for one in laws], (0.05, 0.95)).tolist()
        print(f"  {key:6} {value:12.4g}{'':22}{low:.4g} to {high:.4g}")
    runs = [dict(zip(("run", "N", "D", "loss"), point)) for point in points]
    config.write_json(out, {"law": law, "interval": interval, "runs": runs})
    print(f"wrote {out}")


# ---- the budget ----

def compute_optimal(law, C):
    """(N, D) with the lowest loss that C = 6ND FLOPs reach (Hoffmann, equation 4)."""
    A, B, a, b = law["A"], law["B"], law["alpha"], law["beta"]
    N = (a * A / (b * B) * (C / 6) ** b) ** (1 / (a + b))
    return N, C / 6 / N


def cheapest(law, loss, served):
    """(N, D) that reach `loss` with the fewest FLOPs in all, 6ND + 2NI; I is `served`.

    Without inference the two terms of the loss are in the ratio beta : alpha at the best point. With it the
    model is smaller, down to where no number of tokens is enough.
    """
    A, a, b, room = law["A"], law["alpha"], law["beta"], loss - law["E"]
    if room <= 0:
        raise ValueError(f"the loss {loss:g} is out of reach: this law's never falls below E={law['E']:.4g}")
    N = np.geomspace((A / room) ** (1 / a), (A * (a + b) / (b * room)) ** (1 / a), 10_001)[1:]
    D = (law["B"] / (room - A / N ** a)) ** (1 / b)
    i = (N * (6 * D + 2 * served)).argmin()
    return float(N[i]), float(D[i])


def report_budget(law, loss, served):
    """Print how the cheapest model for a loss changes with the tokens it will serve."""
    N0, D0 = cheapest(law, loss, 0)
    print(f"L(N, D) = {law['E']:.4g} + {law['A']:.4g} / N^{law['alpha']:.3g} + {law['B']:.4g} / "
          f"D^{law['beta']:.3g}\nthe cheapest models with a loss of {loss:.4f}. FLOPs of a life: 6ND to "
          f"train, 2N per token served. Saved: beside {short(N0)}\n\n"
          f"{'tokens served':>13} {'parameters':>11} {'training tokens':>16} {'training FLOPs':>15} "
          f"{'FLOPs of a life':>16}  {'saved':>6}")
    for tokens in sorted({served, *(D0 * times for times in (0, 0.1, 0.3, 1, 3, 10, 30, 100))}):
        N, D = cheapest(law, loss, tokens)
        life, plain = N * (6 * D + 2 * tokens), N0 * (6 * D0 + 2 * tokens)
        asked = "  <- asked" if tokens == served else ""
        print(f"{short(tokens):>13} {short(N):>11} {short(D):>16} {6 * N * D:15.3g} {life:16.3g}  "
              f"{1 - life / plain:6.1%}{asked}")


# ---- the commands ----

def main(argv):
    ap = config.Parser(__doc__, prog="plan.py")
    commands = ap.add_subparsers(dest="command", required=True)
    for name in ("figure", "fit"):
        commands.add_parser(name, doc=__doc__).add_argument("runs", nargs="+", metavar="runs/NAME")
    p = commands.add_parser("budget", doc=__doc__)
    target = p.add_mutually_exclusive_group(required=True)
    target.add_argument("--train-flops", type=config.number(1, 1e40, float), metavar="C",
                        help="the target loss is the best that C training FLOPs reach")
    target.add_argument("--loss", type=config.number(0.01, 100, float), metavar="L", help="nats per token")
    p.add_argument("--inference-tokens", type=config.number(0, 1e30, float), default=0.0, metavar="I")
    p.add_argument("--law", metavar="FILE", help="what plan.py fit wrote (default: Hoffmann et al. 2022)")
    args = ap.parse_args(argv)
    if args.command != "budget":
        return {"figure": figure, "fit": report_fit}[args.command](args.runs)
    law = HOFFMANN
    if args.law:
        with config.blame(f"{args.law} is not a law"):
            law = {key: float(config.read_json(args.law)["law"][key]) for key in HOFFMANN}
    loss = args.loss or float(predict(law, *compute_optimal(law, args.train_flops)))
    report_budget(law, loss, args.inference_tokens)
