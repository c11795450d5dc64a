"""After you have trained a few sizes: how the loss falls with size and tokens, and which size to train next.

    python plan.py figure runs/NAME                 # one run: training and validation loss, learning rate
    python plan.py figure runs/scale-*              # loss against tokens and against FLOPs (LLaMA, Figure 1)
    python plan.py fit runs/scale-*                 # L(N, D) = E + A / N^alpha + B / D^beta, to runs/fit.json
    python plan.py budget --train-flops 5.76e23 --inference-tokens 1e13
    python plan.py budget --loss 2.0 --inference-tokens 1e12 --law runs/fit.json

`figure` and `fit` read the folders of runs; docs/decisions.md trains runs/scale-*. `fit` needs scipy, and
`figure` matplotlib: pip install scipy matplotlib. Read it from the runs to the law, its fit, and the budget.

Letters: N parameters that multiply (an embedding that is only looked up is left out)   D tokens of training
         L loss, nats per token   C training FLOPs, 6ND   I tokens that the model reads and writes in its life
"""
import math
import os

import numpy as np
import torch

import checkpoint
import config
from model import Transformer, count
from planning import figures
from train import flops_per_token

# Hoffmann et al. 2022 (arXiv 2203.15556), appendix D.3, as printed; N there counts every parameter. For
# Chinchilla's 5.76e23 FLOPs this law says fewer parameters and more tokens than 70B on 1.4T tokens, which is
# what the paper's two other methods say.
HOFFMANN = {"E": 1.69, "A": 406.4, "B": 410.7, "alpha": 0.34, "beta": 0.28}
# Beyond this an error of log L counts by its size, not by its square. Hoffmann: 1e-3, for some 400 runs. Toy
# runs that differ only by the seed differ by about a hundredth, and a dozen runs are few.
HUBER = 1e-2
MOST_POWER, LEAST_E = 5, 1e-3       # bounds of alpha and beta; of E, as a share of the lowest loss
RESAMPLINGS = 400
MORE_RUNS = ("a run is made by a command like this: python train.py configs/llama.py model.dim=64 "
             "run.tokens=2e5 run.name=scale-64-2e5")


# ---- the runs ----

def short(x):
    """Three figures and a letter. short(6.7e9) -> "6.7B", short(131072) -> "131K" """
    x = float(f"{x:.3g}")
    if x >= 1e15:
        return f"{x:.3g}"
    thousands = min(4, int(math.log10(x) / 3)) if x >= 1 else 0
    return f"{x / 1000 ** thousands:.3g}{' KMBT'[thousands].strip()}"


def open_runs(paths):
    """[(RunFolder, N, FLOPs per token, records of its log)], smallest first. All read the same tokens."""
    found = []
    for path in paths:
        if not os.path.isdir(path):
            raise ValueError(f"there is no run {path}; {MORE_RUNS}")
        run = checkpoint.open_run(path)
        run.settings()                                  # refuses an imported model
        m = run.shape
        with torch.device("meta"):
            P = count(Transformer(m))
        N = P if m.tied else P - m.vocab * m.dim
        found.append((run, N, flops_per_token(m, P), run.records()))
    found.sort(key=lambda one: (one[1], one[0].facts["run"]["tokens"]))
    first = found[0][0]
    for run, *_ in found[1:]:
        for key, what in (("data_sha256", "data"), ("tokenizer", "tokens")):
            if run.facts[key] != first.facts[key]:
                raise ValueError(f"{run.path} and {first.path} were trained on different {what}: "
                                 "their losses cannot be compared")
    return found


def smooth(y):
    """Each y's mean with its neighbours: a fifth of those before it, to either side. On a logarithmic
    axis that is one width."""
    i, total = np.arange(len(y)), np.concatenate([[0], np.cumsum(y)])
    first, end = i - i // 5, np.minimum(i + i // 5 + 1, len(y))
    return (total[end] - total[first]) / (end - first)


def training(run, records):
    """(tokens, loss, learning rate) of the steps in the log, three arrays."""
    points = [(r["tokens"], r["loss"], r.get("lr", math.nan)) for r in records if "loss" in r]
    if len(points) < 2:
        raise ValueError(f"{run.path}/log.jsonl has {len(points)} logged steps: a line needs two; train "
                         "longer or with a smaller machine.log_every")
    return np.array(points, float).T


def validation(records):
    """{"all" and each source: (tokens, losses)} of the validations in the log."""
    found = {}
    for r in records:
        if "val" in r:
            losses = {"all": r["val"], **r["val"].get("sources", {})}
            for name, value in losses.items():
                tokens, values = found.setdefault(name, ([], []))
                tokens.append(r["tokens"])
                values.append(value["loss"])
    return found


def beside(path):
    return os.path.dirname(path) or "."


def figure(paths, out):
    """One run by itself; several against tokens and FLOPs."""
    runs = open_runs(paths)
    if len(runs) == 1:
        run, _, _, records = runs[0]
        tokens, loss, rate = training(run, records)
        lines = {"training": (tokens, smooth(loss))}
        for name, points in validation(records).items():
            lines[f"validation: {name}"] = points
        figures.draw_run(run.path, (tokens, loss, rate), lines, out or f"{run.path}/loss")
        return
    lines = []
    for run, N, flops, records in runs:
        tokens, loss, _ = training(run, records)
        lines.append((short(N), tokens, tokens * flops, smooth(loss)))
    figures.draw_runs(lines, out or f"{beside(paths[0])}/loss")


# ---- the law and its fit ----

def predict(law, N, D):
    return law["E"] + law["A"] / N ** law["alpha"] + law["B"] / D ** law["beta"]


def descend(start, x, y, target):
    """(theta, cost) of the least Huber loss of log L that is found from `start` (Hoffmann, equation 3).

    theta is (log E, log A, log B, alpha, beta) for N and D in units of their geometric means. x, y and target
    (n,) are the logarithms of N and D in these units, and of L.
    """
    try:
        from scipy.optimize import least_squares
    except ImportError as e:
        raise ValueError("the fit needs scipy, which is not installed: pip install scipy") from e

    def terms(theta):
        e, a, b, alpha, beta = theta
        return np.exp([e + 0 * x, a - alpha * x, b - beta * y])                     # (3, n)

    def errors(theta):
        return np.log(terms(theta).sum(0)) - target

    def slopes(theta):
        e, a, b = terms(theta) / terms(theta).sum(0)
        return np.stack([e, a, b, -a * x, -b * y], 1)                               # (n, 5)
    low = np.array([target.min() + math.log(LEAST_E), -30, -30, 0, 0])
    high = np.array([target.max(), 30, 30, MOST_POWER, MOST_POWER])
    found = least_squares(errors, np.clip(start, low + 1e-3, high - 1e-3), slopes, bounds=(low, high),
                          loss="huber", f_scale=HUBER, xtol=1e-9, ftol=1e-9, gtol=1e-9)
    return found.x, found.cost


def fit(N, D, L, resamplings=RESAMPLINGS):
    """(law, laws): the constants that fit losses L (n,) of sizes N and tokens D; those of the resamplings."""
    N, D, L = (np.asarray(v, float) for v in (N, D, L))
    log_n, log_d, target = np.log(N).mean(), np.log(D).mean(), np.log(L)
    x, y = np.log(N) - log_n, np.log(D) - log_d

    def law(theta):
        e, a, b, alpha, beta = theta.tolist()
        return {"E": math.exp(e), "A": math.exp(a + alpha * log_n), "B": math.exp(b + beta * log_d),
                "alpha": alpha, "beta": beta}
    found = []
    for e in (0.2, 0.6, 0.9):                           # share of E in the loss
        for a in (0.25, 0.75):                          # share of the size's term in the rest
            for power in (0.2, 0.6):
                level = np.log([e, (1 - e) * a, (1 - e) * (1 - a)]) + target.mean()
                found.append(descend([*level, power, power], x, y, target))
    theta, _ = min(found, key=lambda one: one[1])
    fitted, laws = np.log(predict(law(theta), N, D)), []
    tick = config.progress("fits to resampled losses", resamplings)
    for drawn in resampled(fitted, target - fitted, resamplings):
        laws.append(law(descend(theta, x, y, drawn)[0]))
        tick(1)
    return law(theta), laws


def resampled(fitted, errors, times):
    """`times` sets of log losses (n,): the fitted ones, with errors drawn from the fit's own. They are
    scaled up, for the five constants took some away. Hoffmann draws runs instead: from a small grid that
    leaves whole sizes out, and then alpha is anything."""
    n = len(fitted)
    errors = (errors - errors.mean()) * math.sqrt(n / (n - 5))
    return fitted + errors[np.random.default_rng(0).integers(n, size=(times, n))]


def undecided(law, losses):
    """What the runs do not decide, in words, or "": constants of the fit that are on their bounds."""
    found = []
    if law["E"] < 2 * LEAST_E * min(losses, default=0):
        found.append(f"E is {law['E']:.2g}, where does the loss level off?")
    for key, what in (("alpha", "sizes"), ("beta", "lengths")):
        if not 0.01 < law[key] < 0.99 * MOST_POWER:
            found.append(f"{key} is {law[key]:.2g}, how fast does the loss fall over the {what}?")
    if not found:
        return ""
    return (f"constants are on their bounds: {' '.join(found)} These runs do not say, so no budget follows. "
            "Train more sizes and lengths, further apart")


def final_losses(runs):
    """[(path, N, D, validation loss at the end)] of finished runs."""
    points = []
    for run, N, _, records in runs:
        last = next((r for r in reversed(records) if "val" in r), None)
        # a loss before the end is not that of a shorter run: its learning rate was still high
        if not last or last["tokens"] < run.facts["run"]["tokens"]:
            raise ValueError(f"{run.path} is not finished: the command that began it continues it, or leave "
                             "it out")
        points.append((run.path, N, last["tokens"], last["val"]["loss"]))
    _, sizes, lengths, _ = map(set, zip(*points))
    if len(points) < 6 or len(sizes) < 3 or len(lengths) < 3:
        raise ValueError(f"{len(points)} runs of {len(sizes)} sizes and {len(lengths)} lengths: five "
                         f"constants need at least six runs, three sizes and three lengths; {MORE_RUNS}")
    return points


def report_fit(paths, out):
    """Fit the final losses of runs, print constants and errors, and write them to `out`."""
    points = final_losses(open_runs(paths))
    _, N, D, L = zip(*points)
    law, laws = fit(N, D, L, resamplings=0)
    if not undecided(law, L):
        law, laws = fit(N, D, L)
    print(f"{'run':32} {'N':>7} {'D':>7}  {'loss':>7}  {'fitted':>7}  difference")
    for name, n, d, loss in points:
        fitted = predict(law, n, d)
        print(f"{name:32} {short(n):>7} {short(d):>7}  {loss:7.4f}  {fitted:7.4f}  "
              f"{loss / fitted - 1:+10.2%}")
    print(f"\nL(N, D) = E + A / N^alpha + B / D^beta            90% of {len(laws)} resamplings")
    interval = {}
    for key, value in law.items():
        line = f"  {key:6} {value:12.4g}"
        if laws:
            low, high = interval[key] = np.quantile([one[key] for one in laws], (0.05, 0.95)).tolist()
            line += f"{'':22}{low:.4g} to {high:.4g}"
        print(line)
    os.makedirs(beside(out), exist_ok=True)
    config.write_json(out, {"law": law, "interval": interval, "laws": laws,
                            "runs": [dict(zip(("run", "N", "D", "loss"), point)) for point in points]})
    if not laws:
        print(f"{undecided(law, L)}\nwrote {out}")
        return
    powers = [one["beta"] / (one["alpha"] + one["beta"]) for one in laws]
    low, high = np.quantile(powers, (0.05, 0.95))
    power = law["beta"] / (law["alpha"] + law["beta"])
    print(f"the best size for C FLOPs grows as C^{power:.2f} ({low:.2f} to {high:.2f}), its tokens as "
          f"C^{1 - power:.2f}\nwrote {out}; now: python plan.py budget --loss {min(L):.2f} "
          f"--inference-tokens {max(D)} --law {out}")


# ---- the budget ----

def compute_optimal(law, C):
    """(N, D) with the lowest loss that C = 6ND FLOPs reach (Hoffmann, equation 4)."""
    A, B, a, b = law["A"], law["B"], law["alpha"], law["beta"]
    N = (a * A / (b * B) * (C / 6) ** b) ** (1 / (a + b))
    return N, C / 6 / N


def tokens_for(law, loss, N):
    """D that takes a model of N parameters to `loss`; infinite where it cannot get there."""
    room = loss - law["E"] - law["A"] / N ** law["alpha"]
    with np.errstate(divide="ignore", over="ignore"):
        return (law["B"] / np.maximum(room, 0)) ** (1 / law["beta"])


def cheapest(law, loss, served):
    """(N, D) that reach `loss` with the fewest FLOPs in all, 6ND + 2NI; I is `served`.

    Without inference the two terms of the loss are in the ratio beta : alpha at the best point. With it the
    model is smaller, down to where no number of tokens is enough.
    """
    A, a, b, room = law["A"], law["alpha"], law["beta"], loss - law["E"]
    if room <= 0:
        raise ValueError(f"the loss {loss:g} is out of reach: this law's never falls below E={law['E']:.4g}")
    best = (A * (a + b) / (b * room)) ** (1 / a)
    if served == 0:
        return best, float(tokens_for(law, loss, best))
    low, high = math.log(A / room) / a, math.log(best)
    for _ in range(6):                                  # each look narrows it 500 times
        sizes = np.linspace(low, high, 1001)
        N = np.exp(sizes)
        i = int((N * (6 * tokens_for(law, loss, N) + 2 * served)).argmin())
        low, high = sizes[max(0, i - 1)], sizes[min(1000, i + 1)]
    return float(N[i]), float(tokens_for(law, loss, N[i]))


def load_law(path):
    """(law, laws of the resamplings, where they come from); Hoffmann's without a path."""
    if not path:
        return HOFFMANN, [], "Hoffmann et al. 2022, appendix D.3"
    found = config.read_json(path)
    with config.blame(f"{path} is not a law as plan.py fit writes one"):
        law = {key: float(found["law"][key]) for key in HOFFMANN}
        laws, losses = found.get("laws", []), [run["loss"] for run in found.get("runs", [])]
        if min(law.values()) <= 0:
            raise ValueError("a constant is not above 0")
    if undecided(law, losses):
        raise ValueError(f"{path}: {undecided(law, losses)}")
    return law, laws, path


def best_size(law, train_flops, loss, served):
    """cheapest() for `loss`, or if it is None for the best loss that `train_flops` reach; and that loss."""
    loss = loss or float(predict(law, *compute_optimal(law, train_flops)))
    return *cheapest(law, loss, served), loss


def report_budget(train_flops, loss, served, path):
    """Print how the cheapest model for a loss changes with the tokens it will serve."""
    law, laws, source = load_law(path)
    answers = []
    for one in laws:
        try:
            answers.append(best_size(one, train_flops, loss, served))
        except (ValueError, ZeroDivisionError, OverflowError):
            pass                            # its E is above the loss, or one of its terms has vanished
    N, D, loss = best_size(law, train_flops, loss, served)
    N0, D0 = cheapest(law, loss, 0)
    print(f"L(N, D) = {law['E']:.4g} + {law['A']:.4g} / N^{law['alpha']:.3g} + "
          f"{law['B']:.4g} / D^{law['beta']:.3g}   ({source})\n"
          f"target: a loss of {loss:.4f}, cheapest to train with {short(N0)} parameters on {short(D0)} "
          f"tokens, {6 * N0 * D0:.3g} FLOPs\n"
          f"cheapest in all with {short(served)} tokens served: {short(N)} parameters on {short(D)} tokens, "
          f"{6 * N * D:.3g} FLOPs and {2 * N * served:.3g} for serving\n\n"
          f"{'tokens served':>13} {'parameters':>11} {'training tokens':>16} {'tokens per N':>13} "
          f"{'of the size':>12} {'training FLOPs':>15} {'FLOPs of a life':>16}  {'saved':>6}")
    for tokens in sorted({0.0, served, *(D0 * times for times in (0.1, 0.3, 1, 3, 10, 30, 100))}):
        n, d = cheapest(law, loss, tokens)
        train, life, plain = 6 * n * d, 6 * n * d + 2 * n * tokens, 6 * N0 * D0 + 2 * N0 * tokens
        print(f"{short(tokens):>13} {short(n):>11} {short(d):>16} {short(d / n):>13} {n / N0:12.0%} "
              f"{train / (6 * N0 * D0):14.2f}x {life:16.3g}  {1 - life / plain:6.1%}"
              f"{'  <- asked' if tokens == served else ''}")
    print(f"FLOPs of a life: 6 N D to train, 2 N per token served. Size and savings are beside the "
          f"{short(N0)} that are cheapest to train")
    if answers:
        (n5, d5, _), (n95, d95, _) = np.quantile(answers, (0.05, 0.95), axis=0)
        lost = len(laws) - len(answers)
        print(f"with {short(served)} tokens served, 90% of the fit's resamplings say {short(n5)} to "
              f"{short(n95)} parameters on {short(d5)} to {short(d95)} tokens"
              f"{f'; {lost} of {len(laws)} cannot reach the loss' if lost else ''}")


# ---- the commands ----

def main(argv):
    ap = config.Parser(__doc__, prog="plan.py")
    commands = ap.add_subparsers(dest="command", required=True)
    for name, words in (("figure", "draw one run, or several"), ("fit", "fit L(N, D) to six runs or more")):
        p = commands.add_parser(name, doc=__doc__, help=words)
        p.add_argument("runs", nargs="+", metavar="runs/NAME")
        p.add_argument("--out", metavar="PATH", help="default: runs/NAME/loss.png and .svg for one run; for "
                       "several loss.png and .svg, or fit.json, beside the first")
    p = commands.add_parser("budget", doc=__doc__, help="the size with the cheapest life")
    target = p.add_mutually_exclusive_group(required=True)
    target.add_argument("--train-flops", type=config.number(1, 1e40, float), metavar="C",
                        help="the target loss is the best that C training FLOPs reach")
    target.add_argument("--loss", type=config.number(0.01, 100, float), metavar="L",
                        help="the target loss, nats per token")
    p.add_argument("--inference-tokens", type=config.number(0, 1e30, float), default=0.0, metavar="I",
                   help="tokens that the model will read and write in its life (default: 0)")
    p.add_argument("--law", metavar="FILE", help="what plan.py fit wrote (default: Hoffmann et al. 2022)")
    args = ap.parse_args(argv)
    if args.command == "budget":
        return report_budget(args.train_flops, args.loss, args.inference_tokens, args.law)
    paths = [path.rstrip("/") for path in args.runs]
    if args.command == "fit":
        return report_fit(paths, args.out or f"{beside(paths[0])}/fit.json")
    figure(paths, args.out and args.out.removesuffix(".png").removesuffix(".svg"))
