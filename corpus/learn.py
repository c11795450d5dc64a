"""Learn the models of corpus/models.py from text of yours, and say how good they are on text they have not learnt from.

    python -m corpus.learn language --input samples --out language.npz         # files or folders named by language, or records with "lang"
    python -m corpus.learn perplexity --input samples mine/en --out models     # models/LANG.npz
    python -m corpus.learn quality --reference references/ --random crawl/ --out quality.npz

Then set models={'language': 'language.npz', 'perplexity': 'models', 'quality': 'quality.npz'} in a data config.
"""
import argparse
import collections
import math
import os
import re

import numpy as np

import config
from corpus import recipe, sources
from corpus.models import save, train_language, train_perplexity, train_quality


def documents(paths, split=2048):
    """Yield (language or None, text): the language is the record's, else the name of the folder or file if it looks like one: en/data.txt, samples/zh-Hans.txt."""
    for path in paths:
        for p in sorted(os.path.join(path, name) for name in os.listdir(path)) if os.path.isdir(path) else [path]:
            folder, name = os.path.split(os.path.abspath(p))
            known = [n for n in (os.path.basename(folder), name.partition(".")[0]) if re.fullmatch(r"[a-z]{2,3}(-\w+)?", n)]
            for d in sources.read(recipe.Source("text", p, split=split)):
                if "dropped" not in d:
                    yield str(d.get("lang") or (known or [""])[0]).split("-")[0] or None, d["text"]


def labelled(paths):
    """[(lang, text)], in paragraphs of some length: what has no language, or no plain word for one, is left out."""
    found = [(lang, t) for lang, t in documents(paths, split=250) if re.fullmatch(r"[\w+#]+", lang or "")]
    if not found:
        raise ValueError(f"no text of a known language in {', '.join(paths)}; name files or folders by language (en.txt, en/), or give records a field lang")
    return found


def report_language(tried):
    """Table by language, and what scores are worth."""
    print("language     texts  right of documents  right of 60 characters  most confused with")
    for lang in sorted({lang for lang, *_ in tried}):
        own = [(whole, answer) for l, whole, answer, _ in tried if l == lang]
        whole, part = ([answer == lang for w, answer in own if w == size] for size in (1, 0))
        wrong = collections.Counter(answer for _, answer in own if answer != lang).most_common(1)
        print(f"{lang:11}  {len(whole):5,}  {np.mean(whole):18.1%}  {np.mean(part):22.1%}  {wrong[0][0] if wrong else '-'}")
    for cut in (0.5, 0.7, 0.8, 0.9, 0.95):
        kept = [lang == answer for lang, _, answer, score in tried if score >= cut]
        print(f"score {cut:4}: {len(kept) / len(tried):6.1%} of them have it or more, {np.mean(kept) if kept else math.nan:6.1%} of these are right")


def main():
    ap = argparse.ArgumentParser(prog="python -m corpus.learn", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = ap.add_subparsers(dest="kind", required=True)
    for kind, inputs, out in ("language", ["input"], "FILE.npz"), ("perplexity", ["input"], "DIR"), ("quality", ["reference", "random"], "FILE.npz"):
        sub = kinds.add_parser(kind, epilog=next(line.partition("#")[0].strip() for line in __doc__.splitlines() if f"learn {kind}" in line))
        for name in inputs:
            sub.add_argument(f"--{name}", nargs="+", required=True, metavar="PATH", help="files, folders or globs of text")
        sub.add_argument("--out", required=True, metavar=out)
    args = ap.parse_args()
    if args.kind == "language":
        model, tried = train_language(labelled(args.input))
        report_language(tried)
        save(model, "language", args.out)
    elif args.kind == "perplexity":
        found = labelled(args.input)
        print("language     documents  held out: median perplexity    cut-off")
        for lang in sorted({lang for lang, _ in found}):
            model, held_out = train_perplexity([t for l, t in found if l == lang])
            print(f"{lang:11}  {sum(l == lang for l, _ in found):9,}  {np.median(held_out or [np.nan]):27.2f}  {model['cut']:9.2f}")
            save(model, "perplexity", f"{args.out}/{lang}.npz")
    else:
        model, y, p = train_quality(*([t for _, t in documents(paths)] for paths in (args.reference, args.random)))
        above = np.mean((p[y == 1][:, None] > p[y == 0]) + 0.5 * (p[y == 1][:, None] == p[y == 0]))
        print(f"{len(y):,} held out: {np.mean((p > 0.5) == y):.1%} right at 0.5, ROC-AUC {above:.3f}")
        save(model, "quality", args.out)


if __name__ == "__main__":
    config.command(main)
