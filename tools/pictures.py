"""Draw the pictures of README.md and docs/ from the program's own functions: docs/pictures/*.svg.

    python tools/pictures.py                        # all of them, as make pictures does: seconds
    python tools/pictures.py decoders mask          # these
    python tools/pictures.py toy --run runs/try1    # the curves of a run that was trained and evaluated

decoders    both decoders, their six switches, and the shapes between their parts
data        from a file to a batch; sources stay apart until the rows are mixed
positions   ALiBi's biases and slopes, RoPE's turns
mask        who sees whom: causal, with left padding, with a cache
tokens      one sentence in six languages, cut by both tokenizers
shards      what each of four processes keeps and sends, and the memory of one of them
toy         learning rate, loss and bits per byte by language of a run; without the run it is left as it is

matplotlib draws positions and toy, which are in this file. The others are in diagrams.py.
"""
import io
import os
import re
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path[:0] = [ROOT, f"{ROOT}/tools"]

import diagrams
import numpy as np
import torch

import checkpoint
import config
import train
from model import alibi_slopes, rope_angles
from planning import figures


def blank(width, columns, height):
    """figures.blank() without marks beside the axes: they are most of the bytes."""
    fig, axes = figures.blank(width, columns, height)
    import matplotlib
    matplotlib.rcParams["font.sans-serif"] = ["DejaVu Sans", "Verdana"]
    for ax in axes:
        ax.tick_params(length=0)
    return fig, axes


def slim(text):
    """matplotlib's SVG as a shorter text that looks the same: two decimals in what is not text, no names of
    groups, no indents."""
    text = re.sub(r" transform=\"rotate\(-0 [^\"]*\"", "", text)
    text = re.sub(r"<g id=\"\w+\">", "<g>", re.sub(r"<g id=\"\w+\"/>\n", "", text))
    text = re.sub(r"(?<![>−.\d])\d+\.\d{3,}", lambda m: f"{float(m[0]):.2f}", text)
    return re.sub("^ +| +$", "", text, flags=re.M)


def figure_svg(fig):
    out = io.BytesIO()
    for ax in fig.axes:
        ax.minorticks_off()
    fig.savefig(out, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    return slim(out.getvalue().decode())


# ---- positions ----

def alibi_bias(H, distances):
    """(H, len(distances)) what each head adds to the score of a key that is so many tokens back."""
    return -alibi_slopes(H).unsqueeze(1) * torch.as_tensor(distances)


def rope_turns(D, distances, theta):
    """(D/2, len(distances)) how far rope() turns each pair of a head: the cosine of the angle."""
    cos, _ = rope_angles(torch.as_tensor(distances).unsqueeze(0), D, theta)
    return cos[0, 0].T


def positions():
    bloom, llama = diagrams.settings("bloom", "176b").model, diagrams.settings("llama", "toy").model
    fig, (left, middle, right) = blank(9.6, 3, 3.1)
    H, ends = 8, [0, 64]
    for h, bias in enumerate(alibi_bias(H, ends).tolist()):
        left.plot(ends, bias, color=f"C{h}", label=f"{h + 1}")
    left.legend(title="head", ncols=4, frameon=False, loc="lower left", fontsize=7, columnspacing=1)
    left.set(title=f"ALiBi's bias, {H} heads", xlabel="distance of the key, tokens",
             ylabel="added to the score", xlim=ends, xticks=[0, 32, 64], yticks=[0, -16, -32])
    middle.plot(range(1, bloom.heads + 1), alibi_slopes(bloom.heads).tolist(), linewidth=1)
    middle.set(title=f"slopes of BLOOM-176B's {bloom.heads} heads", xlabel="head", ylabel="slope",
               yscale="log", xticks=[1, 64, 112])
    D, distances = llama.dim // llama.heads, range(65)
    turns = rope_turns(D, distances, llama.theta).tolist()
    for pair in (0, 2, 4, 8):
        right.plot(distances, turns[pair], label=f"pair {pair}", linewidth=1)
    right.set(title=f"RoPE's turn, {D // 2} pairs in a head", xlabel="distance of the key, tokens",
              ylabel="cosine", xlim=ends, ylim=(-1.1, 1.9), xticks=[0, 32, 64], yticks=[-1, 0, 1])
    right.legend(frameon=False, ncols=2, loc="upper center")
    return figure_svg(fig)


# ---- a run ----

def losses_of(run):
    return f"{run}/evaluations/loss.json"


def languages(run, least=100):
    """{language: bits per byte} of the validation split, the lowest first, of at least so many bytes."""
    path = losses_of(run)
    if not os.path.exists(path):
        raise ValueError(f"there is no {path}; python evaluate.py {run} --tasks loss makes it")
    found = config.read_json(path)["languages"].items()
    bits = {lang: facts["bits_per_byte"] for lang, facts in found if facts["bytes"] >= least}
    return dict(sorted(bits.items(), key=lambda entry: entry[1]))


def toy(run):
    folder = checkpoint.open_run(run)
    cfg, records = folder.settings(), folder.records()
    fig, (left, middle, right) = blank(9.6, 3, 3.1)
    steps = [r for r in records if "loss" in r]
    seen = [r["tokens"] / 1e6 for r in steps]
    points = np.linspace(0, cfg.run.tokens, 50)
    rate = [train.lr_at(tokens, cfg.optim, cfg.run.tokens) for tokens in points]
    left.plot(points / 1e6, rate, color="black", linewidth=1)
    left.set(title="learning rate", xlabel="training tokens, millions", ylim=(0, None))
    middle.plot(seen, [r["loss"] for r in steps], color="0.6", linewidth=1, label="training")
    judged = [r for r in records if "val" in r]
    at = [r["tokens"] / 1e6 for r in judged]
    for key, name in (("mix", "validation, mixed as the rows"), ("loss", "validation, by size")):
        middle.plot(at, [r["val"][key] for r in judged], marker=".", linewidth=1, label=name)
    middle.set(title=f"loss of {cfg.run.name}, nats per token", xlabel="training tokens, millions",
               ylim=(0, None))
    middle.legend(frameon=False, fontsize=7)
    bits = languages(run)
    right.barh(list(bits), list(bits.values()), color="C0")
    right.set(title="bits per byte by language")
    right.tick_params(axis="y", labelsize=7)
    right.grid(axis="y", visible=False)
    return figure_svg(fig)


PICTURES = {"decoders": diagrams.decoders, "data": diagrams.file_to_batch, "positions": positions,
            "mask": diagrams.mask, "tokens": diagrams.tokens, "shards": diagrams.shards}


def main():
    ap = config.Parser(__doc__)
    ap.add_argument("names", nargs="*", help=f"default: all of {' '.join(PICTURES)} toy")
    ap.add_argument("--run", default="runs/bloom-toy", help="the run of the picture toy")
    ap.add_argument("--out", default=f"{ROOT}/docs/pictures", help="folder to write to")
    args = ap.parse_args()
    known = {**PICTURES, "toy": lambda: toy(args.run)}
    for name in args.names:
        if name not in known:
            raise ValueError(f"there is no picture {name!r}; there are {', '.join(known)}")
    there = os.path.exists(losses_of(args.run))
    names = args.names
    if not names:
        names = [name for name in known if name != "toy" or there]
    for name in names:
        path = f"{args.out}/{name}.svg"
        text = known[name]()
        with open(path, "w", encoding="utf-8") as f:
            f.write(text)
        print(f"wrote {path}, {len(text.encode()):,} bytes")
    if not args.names and not there:
        print(f"left toy.svg as it is: there is no {losses_of(args.run)}")


if __name__ == "__main__":
    config.command(main)
