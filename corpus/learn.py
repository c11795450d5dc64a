"""Train the quality model of corpus/models.py, and say how good it is on a tenth that it has not read.

    python -m corpus.learn quality --reference references/ --random crawl/ --out quality.npz

Then set models={'quality': 'quality.npz'} in a data config, and the rule "reference" in its `clean`.
"""
import os

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

import config
from corpus import models, recipe, sources


def train_quality(reference, others):
    """(weights, labels, probabilities of a tenth held out). Both sets weigh the same, however large."""
    pages = [torch.from_numpy(models.places(text)) for text in [*reference, *others]]
    y = torch.cat([torch.ones(len(reference)), torch.zeros(len(others))])
    order = np.random.default_rng(0).permutation(len(y))
    held_out = np.concatenate([order[y[order] == label][::10] for label in (0, 1)])
    order = order[~np.isin(order, held_out)]
    counts = torch.bincount(y[order].long(), minlength=2)
    if counts.min() == 0:
        raise ValueError(f"{len(reference)} reference and {len(others)} random pages: both need several")
    weigh = len(order) / 2 / counts

    bag = nn.EmbeddingBag(models.WEIGHTS, 1, mode="sum", sparse=True)
    nn.init.zeros_(bag.weight)
    torch.sparse.check_sparse_tensor_invariants.disable()       # else torch warns that it does not
    optim = torch.optim.Adagrad(bag.parameters(), lr=0.1, initial_accumulator_value=1e-3)

    def logits(some):
        lengths = torch.tensor([len(pages[i]) for i in some])
        starts = lengths.cumsum(0) - lengths
        return bag(torch.cat([pages[i] for i in some]), starts)[:, 0] / lengths.clamp(min=1).sqrt()

    for _ in range(5):
        for some in np.split(order, range(32, len(order), 32)):       # the order is random already
            loss = F.binary_cross_entropy_with_logits(
                logits(some), y[some], weight=weigh[y[some].long()], reduction="sum")
            optim.zero_grad()
            loss.backward()
            optim.step()
    with torch.no_grad():
        return bag.weight[:, 0].numpy(), y[held_out].numpy(), logits(held_out).sigmoid().numpy()


def texts_of(paths):
    return [d["text"] for d in sources.read_documents(recipe.Source("text", paths)) if "dropped" not in d]


def main():
    ap = config.Parser(__doc__, prog="python -m corpus.learn")
    ap.add_argument("kind", choices=["quality"])
    ap.add_argument("--reference", nargs="+", required=True, metavar="PATH", help="good pages")
    ap.add_argument("--random", nargs="+", required=True, metavar="PATH", help="any pages")
    ap.add_argument("--out", required=True, metavar="FILE.npz")
    args = ap.parse_args()
    weights, y, p = train_quality(texts_of(args.reference), texts_of(args.random))
    print(f"{len(y):,} held out: {np.mean((p > 0.5) == y):.1%} right at 0.5")
    os.makedirs(os.path.dirname(args.out) or ".", exist_ok=True)
    with open(args.out, "wb") as f:
        np.savez_compressed(f, weights=weights)
    print(f"wrote {args.out}")


if __name__ == "__main__":
    config.command(main)
