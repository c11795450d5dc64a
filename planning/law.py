"""After you have trained a few sizes: how the loss falls with parameters and tokens, and what that says about the size to train next.

    python plan.py figure runs/scale-* --out docs/loss          # training loss against tokens and against FLOPs (LLaMA, Figure 1)
    python plan.py fit runs/scale-*                             # L(N, D) = E + A / N^alpha + B / D^beta; writes runs/fit.json
    python plan.py budget --train-flops 5.76e23 --inference-tokens 1e13
    python plan.py budget --loss 2.0 --inference-tokens 1e12 --law runs/fit.json

`figure` and `fit` read finished or running folders that train.py wrote; `budget` needs none. The files are written where --out says, the same bytes
for the same logs. Read it from read() to the law, its fit, and the budget.

Letters: N parameters that multiply (an embedding that is only looked up is left out)   D tokens read in training   L loss, nats per token
C training FLOPs, 6ND   I tokens read and written by the model in its life, 2N FLOPs each   n runs   R fits done at once
"""
import argparse
import json
import math
import os

import numpy as np
import torch

import config
from model import Transformer, count
from train import flops_per_token

# Hoffmann et al. 2022 (arXiv 2203.15556), appendix D.3, as printed; N there counts every parameter. The paper's own answer for Chinchilla's 5.76e23 FLOPs,
# 70B on 1.4T tokens, is that of its two other methods: this law says fewer parameters and more tokens.
HOFFMANN = {"E": 1.69, "A": 406.4, "B": 410.7, "alpha": 0.34, "beta": 0.28}
HUBER = 1e-2            # of a log loss; Hoffmann: 1e-3 for some 400 runs. Toy runs that differ only by the seed differ by about a hundredth, and a dozen is few
BOOTSTRAP = 400


def short(x):
    """Three figures and a letter. short(6.7e9) -> '6.7B', short(131072) -> '131K'"""
    e = min(4, max(0, int(math.floor(math.log10(float(f"{x:.3g}")) / 3)))) if x else 0
    return f"{float(f'{x:.3g}') / 1000 ** e:.3g}{' KMBT'[e].strip()}" if x < 1e15 else f"{x:.3g}"


def read(run):
    """What a run folder says: its settings, N, FLOPs per token, and the records of its log."""
    if not os.path.exists(f"{run}/config.json") or not os.path.exists(f"{run}/log.jsonl"):
        raise ValueError(f"{run} is not a run: it has no {'log.jsonl' if os.path.exists(f'{run}/config.json') else 'config.json'}; train.py makes one")
    facts, records = config.read_json(f"{run}/config.json"), []
    with open(f"{run}/log.jsonl", encoding="utf-8") as f:
        for n, line in enumerate(f, 1):
            try:
                if line.endswith("\n"):                 # the last one may be half written
                    records.append(json.loads(line))
            except ValueError as e:
                raise ValueError(f"{run}/log.jsonl, line {n} is no record: {line[:60]!r}") from e
    m = config.Model(**facts["model"])
    with torch.device("meta"):
        P = count(Transformer(m))
    return {"run": run, "facts": facts, "N": P - (0 if m.tied else m.vocab * m.dim), "flops": flops_per_token(m, P), "records": records}


def read_all(runs):
    """read() of each, smallest first; losses of other data or of another tokenizer's tokens are not the same quantity."""
    found = sorted(map(read, runs), key=lambda r: (r["N"], r["facts"]["run"]["tokens"]))
    for r in found[1:]:
        for key in ("data_sha256", "tokenizer"):
            if r["facts"][key] != found[0]["facts"][key]:
                raise ValueError(f"{r['run']} and {found[0]['run']} were trained on different {'data' if key == 'data_sha256' else 'tokens'}: their losses cannot be compared")
    return found


def blank(width, height, columns):
    """(figure, axes) of matplotlib, which is optional."""
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError as e:
        raise ValueError("figures need matplotlib, which is not installed: pip install matplotlib") from e
    matplotlib.rcParams.update({"svg.hashsalt": "0", "svg.fonttype": "none", "font.size": 9})       # a salt: the same figure is the same file
    fig = Figure((width, height), layout="constrained")
    return fig, fig.subplots(1, columns)


def save(fig, out):
    if os.path.dirname(out):
        os.makedirs(os.path.dirname(out), exist_ok=True)
    fig.savefig(f"{out}.png", dpi=160)
    fig.savefig(f"{out}.svg", metadata={"Date": None})
    print(f"wrote {out}.png and {out}.svg")


def smooth(y):
    """Each y's mean with its neighbours, a fifth of those so far on either side: the same width everywhere on a logarithmic axis."""
    i, total = np.arange(len(y)), np.concatenate([[0], np.cumsum(y)])
    first, end = i - i // 5, np.minimum(i + i // 5 + 1, len(y))
    return (total[end] - total[first]) / (end - first)


def figure(runs, out):
    """Training loss, smoothed, against tokens and against FLOPs: a line per run, a colour per size, both axes logarithmic."""
    runs = read_all(runs)
    fig, axes = blank(7.2, 3.3, 2)
    sizes = sorted({r["N"] for r in runs})
    from matplotlib import colormaps, ticker
    for r in runs:
        points = [(s["tokens"], s["loss"]) for s in r["records"] if "loss" in s]
        if len(points) < 2:
            raise ValueError(f"{r['run']}/log.jsonl has {len(points)} logged steps: a line needs two; train longer or with a smaller run.log_every")
        tokens, loss = np.array(points, float).T
        color = colormaps["viridis"](0.85 * sizes.index(r["N"]) / max(1, len(sizes) - 1))
        for ax, x in zip(axes, (tokens, tokens * r["flops"])):
            ax.plot(x, smooth(loss), color=color, linewidth=1.6, label=None if any(t.get_label() == short(r["N"]) for t in ax.lines) else short(r["N"]))
    for ax, label in zip(axes, ("training tokens", "training FLOPs")):
        ax.set(xscale="log", yscale="log", xlabel=label)
        ax.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 1.5, 2, 2.5, 3, 4, 5, 6, 8)))
        ax.yaxis.set_minor_locator(ticker.NullLocator())
        ax.yaxis.set_major_formatter(ticker.StrMethodFormatter("{x:g}"))
        ax.grid(alpha=0.3, linewidth=0.5)
    axes[0].set_ylabel("training loss, nats per token")
    axes[1].legend(title="parameters", frameon=False)
    save(fig, out)


def predict(law, N, D):
    return law["E"] + law["A"] / N ** law["alpha"] + law["B"] / D ** law["beta"]


def descend(theta, x, y, target, steps=200):
    """Levenberg-Marquardt on the Huber loss of log L (Hoffmann, equation 3), R problems at once; returns theta (R, 5) and costs (R,).

    A row of theta is (log E, log A, log B, alpha, beta) for N and D in units of their geometric means, x and y (n,) their logarithms,
    target (R or 1, n) log L. A residual beyond HUBER is weighted down to HUBER / its size, which gives the Huber loss's gradient."""
    def residual(theta):
        parts = np.exp(np.clip(np.stack([theta[:, :1] + 0 * x, theta[:, 1:2] - theta[:, 3:4] * x, theta[:, 2:3] - theta[:, 4:] * y]), -50, 50))     # (3, R, n)
        whole = parts.sum(0)
        return np.log(whole) - target, parts / whole

    def cost(r):
        return np.where(abs(r) <= HUBER, r * r / 2, HUBER * (abs(r) - HUBER / 2)).sum(-1)
    (r, share), damp = residual(theta), np.full(len(theta), 1e-2)
    for _ in range(steps):
        J = np.stack([*share, -x * share[1], -y * share[2]], -1)                                # (R, n, 5)
        WJ = J * np.minimum(1, HUBER / np.maximum(abs(r), 1e-300))[..., None]
        H, g = WJ.swapaxes(1, 2) @ J, WJ.swapaxes(1, 2) @ r[..., None]
        scale = np.einsum("rii->ri", H)[:, :, None] * np.eye(5) + 1e-12 * np.eye(5)
        new = theta - np.linalg.solve(H + damp[:, None, None] * scale, g)[..., 0]
        new[:, 3:] = np.clip(new[:, 3:], 0, 5)
        r_new, share_new = residual(new)
        better = cost(r_new) < cost(r)
        damp = np.clip(np.where(better, damp / 3, damp * 4), 1e-9, 1e9)
        theta = np.where(better[:, None], new, theta)
        r, share = np.where(better[:, None], r_new, r), np.where(better[:, None], share_new, share)
    return theta, cost(r)


def best(x, y, target):
    """The best of the descents from several starts for each row of target (R, n): (R, 5)."""
    level = np.log([(e, (1 - e) * s, (1 - e) * (1 - s)) for e in (0.2, 0.6, 0.9) for s in (0.25, 0.75)]) + target.mean()
    starts = np.array([(*v, a, b) for v in level for a in (0.2, 0.6) for b in (0.2, 0.6)])      # (S, 5)
    R, S = len(target), len(starts)
    theta, cost = descend(np.tile(starts, (R, 1)), x, y, np.repeat(target, S, 0))
    return theta.reshape(R, S, 5)[np.arange(R), cost.reshape(R, S).argmin(1)]


def fit(N, D, L):
    """(law, laws): the constants that fit losses L (n,) of sizes N and tokens D, and those of BOOTSTRAP resamplings.

    A resampled set has the same N and D, and the fitted losses with residuals drawn from the fit's own, scaled up for the five constants
    they were fitted with. Hoffmann draws runs instead: of a small grid that leaves whole sizes out, and then alpha is anything."""
    N, D, L = (np.asarray(v, float) for v in (N, D, L))
    n, log_n, log_d, target = len(L), np.log(N).mean(), np.log(D).mean(), np.log(L)[None]
    x, y = np.log(N) - log_n, np.log(D) - log_d

    def law(theta):
        e, a, b, alpha, beta = theta.tolist()
        return {"E": math.exp(e), "A": math.exp(min(700, a + alpha * log_n)), "B": math.exp(min(700, b + beta * log_d)), "alpha": alpha, "beta": beta}
    theta = best(x, y, target)
    fitted = np.log(predict(law(theta[0]), N, D))
    left = target[0] - fitted
    left = (left - left.mean()) * math.sqrt(n / (n - 5))
    drawn = fitted + left[np.random.default_rng(0).integers(n, size=(BOOTSTRAP, n))]
    near = np.concatenate([theta, theta + [-0.5, 0.3, 0.3, 0.1, 0.1], theta + [0.2, -0.5, -0.5, 0.2, 0.2]])             # around the best fit
    again, cost = descend(np.tile(near, (BOOTSTRAP, 1)), x, y, np.repeat(drawn, len(near), 0))
    chosen = again.reshape(BOOTSTRAP, -1, 5)[np.arange(BOOTSTRAP), cost.reshape(BOOTSTRAP, -1).argmin(1)]
    return law(theta[0]), [law(t) for t in chosen]


def report_fit(runs, out):
    """Fit the final validation losses of finished runs, print constants and residuals, and write them to `out`."""
    points = []
    for r in read_all(runs):
        last = next((s for s in reversed(r["records"]) if "val" in s), None)
        if not last or last["tokens"] < r["facts"]["run"]["tokens"]:        # its learning rate was still high: not the loss of a run of that length
            raise ValueError(f"{r['run']} is not finished: the command that began it continues it, or leave it out")
        points.append((r["run"], r["N"], last["tokens"], last["val"]["loss"]))
    names, N, D, L = zip(*points)
    if len(points) < 6 or len(set(N)) < 3 or len(set(D)) < 3:
        raise ValueError(f"{len(points)} runs of {len(set(N))} sizes and {len(set(D))} lengths: five constants need at least six runs, three sizes and three lengths")
    law, laws = fit(N, D, L)
    print(f"{'run':32} {'N':>7} {'D':>7}  {'loss':>7}  {'fitted':>7}  difference")
    for name, n, d, loss in points:
        print(f"{name:32} {short(n):>7} {short(d):>7}  {loss:7.4f}  {predict(law, n, d):7.4f}  {loss / predict(law, n, d) - 1:+10.2%}")
    print(f"\nL(N, D) = E + A / N^alpha + B / D^beta{'':12}90% of {len(laws)} resamplings")
    interval = {k: np.quantile([one[k] for one in laws], (0.05, 0.95)).tolist() for k in law}
    for key, value in law.items():
        print(f"  {key:6} {value:12.4g}{'':22}{interval[key][0]:.4g} to {interval[key][1]:.4g}")
    powers = [one["beta"] / max(1e-9, one["alpha"] + one["beta"]) for one in (law, *laws)]
    low, high = np.quantile(powers[1:], (0.05, 0.95))
    print(f"the best size for C FLOPs grows as C^{powers[0]:.2f} ({low:.2f} to {high:.2f}), its tokens as C^{1 - powers[0]:.2f}")
    os.makedirs(os.path.dirname(out) or ".", exist_ok=True)
    config.write_json(out, {"law": law, "interval": interval, "laws": laws, "runs": [dict(zip(("run", "N", "D", "loss"), p)) for p in points]})
    print(f"wrote {out}; now: python plan.py budget --loss {min(L):.2f} --inference-tokens {max(D)} --law {out}")


def compute_optimal(law, C):
    """(N, D) with the lowest loss that C = 6ND FLOPs reach (Hoffmann, equation 4)."""
    A, B, a, b = (law[k] for k in ("A", "B", "alpha", "beta"))
    N = (a * A / (b * B) * (C / 6) ** b) ** (1 / (a + b))
    return N, C / 6 / N


def tokens_for(law, loss, N):
    """D that takes a model of N parameters to `loss`; infinite where it cannot get there."""
    room = loss - law["E"] - law["A"] / N ** law["alpha"]
    with np.errstate(divide="ignore", over="ignore"):
        return (law["B"] / np.maximum(room, 0)) ** (1 / law["beta"])


def cheapest(law, loss, I):
    """(N, D) that reach `loss` with the fewest FLOPs in all, 6ND + 2NI. Without inference the two terms of the loss are in the ratio
    beta : alpha at the best point; with it the model is smaller, down to where no number of tokens is enough."""
    A, a, b, room = law["A"], law["alpha"], law["beta"], loss - law["E"]
    if room <= 0:
        raise ValueError(f"the loss {loss:g} is out of reach: this law's never falls below E={law['E']:.4g}")
    best_size = (A * (a + b) / (b * room)) ** (1 / a)
    if I == 0:
        return best_size, float(tokens_for(law, loss, best_size))
    low, high = math.log(A / room) / a, math.log(best_size)
    for _ in range(6):                                  # each look narrows it 500 times
        sizes = np.linspace(low, high, 1001)
        N = np.exp(sizes)
        i = int((N * (6 * tokens_for(law, loss, N) + 2 * I)).argmin())
        low, high = sizes[max(0, i - 1)], sizes[min(1000, i + 1)]
    return float(N[i]), float(tokens_for(law, loss, N[i]))


def report_budget(train_flops, loss, I, file):
    """Print how the cheapest model for a loss changes with the tokens it will serve."""
    law, laws, source = HOFFMANN, [], "Hoffmann et al. 2022, appendix D.3"
    if file:
        found = config.read_json(file)
        if not isinstance(found, dict) or not isinstance(found.get("law"), dict) or found["law"].keys() != HOFFMANN.keys():
            raise ValueError(f"{file} is not a law: plan.py fit writes one, {{\"law\": {{{', '.join(HOFFMANN)}}}}}")
        law, laws, source = found["law"], found.get("laws", []), file
    if not all(v > 0 for v in law.values()):
        raise ValueError(f"{source} has a constant that is not above 0: {law}; with it the best size is not defined")
    asked = loss
    if train_flops:
        loss = float(predict(law, *compute_optimal(law, train_flops)))
    (N0, D0), (best_N, best_D) = cheapest(law, loss, 0), cheapest(law, loss, I)
    print(f"L(N, D) = {law['E']:.4g} + {law['A']:.4g} / N^{law['alpha']:.3g} + {law['B']:.4g} / D^{law['beta']:.3g}   ({source})\n"
          f"target: a loss of {loss:.4f}, cheapest to train with {short(N0)} parameters on {short(D0)} tokens, {6 * N0 * D0:.3g} FLOPs\n"
          f"cheapest in all with {short(I)} tokens served: {short(best_N)} parameters on {short(best_D)} tokens, {6 * best_N * best_D:.3g} FLOPs and {2 * best_N * I:.3g} for serving\n\n"
          f"{'tokens served':>13} {'parameters':>11} {'training tokens':>16} {'tokens per N':>13} {'of the size':>12} {'training FLOPs':>15} {'FLOPs of a life':>16}  {'saved':>6}")
    rows = sorted({0.0, float(I), *(D0 * m for m in (0.1, 0.3, 1, 3, 10, 30, 100))})
    for served in rows:
        N, D = cheapest(law, loss, served)
        whole, plain = 6 * N * D + 2 * N * served, 6 * N0 * D0 + 2 * N0 * served
        print(f"{short(served):>13} {short(N):>11} {short(D):>16} {short(D / N):>13} {N / N0:12.0%} {6 * N * D / (6 * N0 * D0):14.2f}x {whole:16.3g}  {1 - whole / plain:6.1%}{'  <- asked' * (served == I)}")
    print(f"FLOPs of a life: 6 N D to train, 2 N per token served; of the size, saved: beside the {short(N0)} that are cheapest to train")
    if laws:
        answers = []
        for one in laws:
            try:
                to = asked or float(predict(one, *compute_optimal(one, train_flops)))
                answers.append(cheapest(one, to, I))
            except (ValueError, ZeroDivisionError, OverflowError):      # a resampling whose E is above the loss, or whose term has vanished
                pass
        if answers:
            (n5, d5), (n95, d95) = np.quantile(np.array(answers), (0.05, 0.95), axis=0)
            print(f"with {short(I)} tokens served, 90% of the fit's resamplings say {short(n5)} to {short(n95)} parameters on {short(d5)} to {short(d95)} tokens"
                  + f"; {len(laws) - len(answers)} of {len(laws)} cannot reach the loss" * (len(answers) < len(laws)))


COMMANDS = {"figure": "draw training loss against tokens and FLOPs", "fit": "fit L(N, D) to finished runs, at least six", "budget": "the size with the cheapest life"}


def main(argv):
    ap = argparse.ArgumentParser(prog="plan.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = ap.add_subparsers(dest="command", required=True)
    for name, words in COMMANDS.items():
        p = commands.add_parser(name, help=words, description=f"{words}\n\n{__doc__}", formatter_class=argparse.RawDescriptionHelpFormatter)
        if name == "budget":
            target = p.add_mutually_exclusive_group(required=True)
            target.add_argument("--train-flops", type=float, metavar="C", help="the target loss is the best that C training FLOPs reach")
            target.add_argument("--loss", type=float, metavar="L", help="the target loss, nats per token")
            p.add_argument("--inference-tokens", type=float, default=0.0, metavar="I", help="tokens the model will read and write in its life (default: 0)")
            p.add_argument("--law", metavar="FILE", help="constants that `plan.py fit` wrote (default: those of Hoffmann et al. 2022)")
        else:
            p.add_argument("runs", nargs="+", metavar="runs/NAME")
            p.add_argument("--out", metavar="PATH", help="default: loss.png and loss.svg, or fit.json, beside the first run")
    args = ap.parse_args(argv)
    if args.command == "budget":
        for key in ("train_flops", "loss", "inference_tokens"):
            value = getattr(args, key)
            if value is not None and not (0 <= value < math.inf and (value or key == "inference_tokens")):
                raise ValueError(f"--{key.replace('_', '-')}={value:g}: it must be {'at least' if key == 'inference_tokens' else 'above'} 0, and finite")
        return report_budget(args.train_flops, args.loss, args.inference_tokens, args.law)
    beside = os.path.dirname(args.runs[0].rstrip("/")) or "."
    if args.command == "fit":
        return report_fit([r.rstrip("/") for r in args.runs], args.out or f"{beside}/fit.json")
    figure([r.rstrip("/") for r in args.runs], (args.out or f"{beside}/loss").removesuffix(".png").removesuffix(".svg"))


if __name__ == "__main__":
    import sys
    config.command(lambda: main(sys.argv[1:]))
