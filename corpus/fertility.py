"""How a tokenizer treats each source and language: the report of tokenizer.py, and BLOOM's criterion.

    python tokenizer.py report data/mine/tokenizer --input 'texts/*.jsonl' --monolingual --json report.json
    python tokenizer.py report data/mine/tokenizer --show "A text, un texte, 一段文字"

fertility    tokens per word, a word encoded with a space before it (BLOOM, section 3.3; Acs 2019)
continued    share of the words that are cut into two tokens or more (Rust et al. 2021)
single       share of the tokens that are one byte: far from what the tokenizer has seen, or scripts it has no room for
A word is what stands between spaces, without signs at its ends. Chinese has none: each Han character is one. Thai, Lao, Khmer, Burmese and Japanese
write without them too, and are marked *: there a word is a run between spaces or signs, and only bytes per token can be compared.
"""
import argparse
import collections
import os
import re

import config
import tokenizer as tokenizers
from corpus import recipe, sources
from corpus.pieces import batches, chosen, keep, train_tokenizer
from corpus.text import HAN, words

WORST = 0.10            # BLOOM: no more than 10 points of fertility above a tokenizer for the language alone, as a share of BLOOM's own
UNSPACED = {"th", "lo", "km", "my", "ja"}
HELD_OUT = 10           # with --monolingual one document in so many is measured, the others train
ADDRESS = re.compile(rb"https?|www|://|\.(com|org|net|html?)\b")


class Count:
    """What a list of texts of one source and language amounts to."""
    def __init__(self, tokenizer, texts, lang):
        ids = tokenizer.encode_batch(texts)
        found = collections.Counter(w for t in texts for w in words(t, lang, False))
        spaced = not tokenizer.space               # SentencePiece puts the space itself; before a Han character there is none
        cut = [len(tokens) for tokens in tokenizer.encode_batch([" " + w if spaced and not HAN.fullmatch(w) else w for w in found])]
        self.documents, self.tokens, self.words = len(texts), sum(map(len, ids)), found.total()
        self.bytes, self.characters = sum(len(t.encode()) for t in texts), sum(map(len, texts))
        self.pieces = sum(n * times for n, times in zip(cut, found.values()))
        self.cut = sum(times for n, times in zip(cut, found.values()) if n > 1)
        self.single = sum(len(tokenizer.bytes_of(i)) == 1 for part in ids for i in part)
        self.used = collections.Counter(i for part in ids for i in part)

    def facts(self):
        return {"documents": self.documents, "bytes": self.bytes, "characters": self.characters, "words": self.words, "tokens": self.tokens,
                "bytes_per_token": self.bytes / max(1, self.tokens), "fertility": self.pieces / max(1, self.words), "continued": self.cut / max(1, self.words),
                "single": self.single / max(1, self.tokens)}


def read(paths, field):
    """{(source, lang): [text]}"""
    groups = collections.defaultdict(list)
    for name, path in sources.named(paths):
        for d in sources.read(recipe.Source(name, path, field=field)):
            if d.get("text", "").strip():
                groups[name, d.get("lang") or "unknown"].append(d["text"])
    if not groups:
        raise ValueError(f"there is no text in {' '.join(paths)}")
    return groups


def by_language(groups):
    joined = collections.defaultdict(list)
    for (_, lang), texts in groups.items():
        joined[lang] += texts
    return joined


def monolingual(tokenizer, groups):
    """{lang: facts}: fertility of the tokenizer and of one of its kind and size for the language alone, on the held-out tenth of its documents."""
    result = {}
    for lang, texts in sorted(by_language(groups).items()):
        held, rest = texts[::HELD_OUT], [t for i, t in enumerate(texts) if i % HELD_OUT]
        vocab = tokenizer.vocab
        while rest:
            try:
                alone = train_tokenizer(tokenizer.kind, rest, vocab)
                break
            except ValueError as e:             # its text does not give so many entries: take all it gives
                limit = re.search(r"gives (\d+)|at most (\d+)", str(e))
                if not limit or int(limit[1] or limit[2]) < 300:
                    alone = None
                    break
                vocab = int(limit[1] or limit[2])
        if not rest or alone is None:
            continue
        ours, theirs = (Count(t, held, lang).facts()["fertility"] for t in (tokenizer, alone))
        result[lang] = {"fertility": ours, "alone": theirs, "entries": vocab, "worse": (ours - theirs) / max(ours, 1e-9)}
    return result


def vocabulary(tokenizer, used):
    """What its entries are for: never used in this text; alike but for case and spaces; parts of addresses."""
    entries = [tokenizer.bytes_of(i) for i in range(tokenizer.vocab)]
    text = [i for i, e in enumerate(entries) if len(e) > 1]
    alike = collections.defaultdict(list)
    for i in text:
        try:
            alike[entries[i].decode().strip().lower()].append(i)
        except UnicodeDecodeError:
            pass
    address = [i for i in text if ADDRESS.search(entries[i])]
    longest = sorted(text, key=lambda i: -len(entries[i]))[:10]
    return {"entries": tokenizer.vocab, "never_used": sum(not used[i] for i in text), "alike": sum(len(a) - 1 for a in alike.values() if len(a) > 1),
            "addresses": len(address), "examples_of_addresses": [shown(entries[i]) for i in address[:10]], "longest": [shown(entries[i]) for i in longest]}


def shown(piece):
    """Bytes as a person can read them; what is no whole character as hexadecimal."""
    try:
        return piece.decode().replace("\n", "\\n").replace("\t", "\\t")
    except UnicodeDecodeError:
        return "".join(f"<{b:02X}>" for b in piece)


def show(tokenizer, text):
    """Its pieces in turning colours, then their ids."""
    ids = tokenizer.encode(text)
    print("".join(f"\033[{41 + n % 6}m{shown(tokenizer.bytes_of(i))}\033[0m" for n, i in enumerate(ids)))
    print(f"{len(ids)} tokens: " + " ".join(f"{i}:{shown(tokenizer.bytes_of(i))!r}" for i in ids))


def figure(languages, path):
    try:
        import matplotlib
    except ImportError as e:
        raise ValueError("a figure needs matplotlib: pip install matplotlib") from e
    matplotlib.use("Agg")
    from matplotlib import pyplot
    names = sorted(languages, key=lambda lang: languages[lang]["fertility"])
    fig, ax = pyplot.subplots(figsize=(5, 0.22 * len(names) + 1))
    ax.barh(names, [languages[lang]["fertility"] for lang in names])
    ax.set_xlabel("tokens per word")
    fig.tight_layout()
    fig.savefig(path)
    print(f"wrote {path}")


def report(args):
    tokenizer = tokenizers.load(args.tokenizer)
    if args.show is not None:
        return show(tokenizer, args.show)
    if not args.input:
        raise ValueError("give --input PATH..., or --show TEXT")
    groups = read(args.input, args.field)
    counts = {key: Count(tokenizer, texts, key[1]) for key, texts in groups.items()}
    languages = {lang: Count(tokenizer, texts, lang).facts() for lang, texts in by_language(groups).items()}
    result = {"tokenizer": args.tokenizer, "kind": tokenizer.kind, "languages": languages, "sources": {f"{s}/{lang}": c.facts() for (s, lang), c in counts.items()},
              "vocabulary": vocabulary(tokenizer, sum((c.used for c in counts.values()), collections.Counter()))}
    if args.monolingual:
        result["monolingual"] = monolingual(tokenizer, groups)
    width = max(8, *map(len, result["sources"]))
    print(f"{'':{width}}        bytes  characters      words     tokens  bytes/token  fertility  continued  single")
    for title in ("languages", "sources"):
        for name, f in sorted(result[title].items()) if title == "languages" or len(result["sources"]) > len(languages) else ():
            mark = "*" if name.split("/")[-1] in UNSPACED else ""
            print(f"{name + mark:{width}}  {f['bytes']:11,} {f['characters']:11,} {f['words']:10,} {f['tokens']:10,}  {f['bytes_per_token']:11.2f}  {f['fertility']:9.2f}  {f['continued']:9.1%}  {f['single']:6.1%}")
        print()
    if args.monolingual:
        print(f"{'':{width}}  fertility  alone  of entries  worse by   (one document in {HELD_OUT} measured, the others train the tokenizer of the language alone)")
        for lang, f in result["monolingual"].items():
            print(f"{lang:{width}}  {f['fertility']:9.2f}  {f['alone']:5.2f}  {f['entries']:10,}  {f['worse']:8.1%}{'   above ' + f'{WORST:.0%}' if f['worse'] > WORST else ''}")
        print()
    v = result["vocabulary"]
    print(f"of {v['entries']:,} entries {v['never_used']:,} are never used in this text; {v['alike']:,} differ from another by case or a space only; "
          f"{v['addresses']:,} are parts of addresses: {' '.join(v['examples_of_addresses'])}\nlongest: {' | '.join(v['longest'])}")
    if args.json:
        config.write_json(args.json, result)
        print(f"wrote {args.json}")
    if args.figure:
        figure(languages, args.figure)


def add_arguments(ap):
    ap.add_argument("tokenizer", metavar="DIR", help="folder of a trained tokenizer, e.g. data/sample/tokenizer")
    ap.add_argument("--input", nargs="+", metavar="PATH", help="files, folders or globs, each a source")
    ap.add_argument("--field", default="text", help="field of the records that holds the text (default: text)")
    ap.add_argument("--monolingual", action="store_true", help="compare with a tokenizer of the same kind and size for each language alone")
    ap.add_argument("--json", metavar="FILE", help="write all numbers there too")
    ap.add_argument("--figure", metavar="FILE", help="fertility by language as a picture (needs matplotlib)")
    ap.add_argument("--show", metavar="TEXT", help="only print this text's pieces, coloured")
    ap.set_defaults(run=report)


def train_command(args):
    if os.path.exists(args.out) and os.listdir(args.out):
        raise ValueError(f"{args.out} is not empty; choose another --out or delete it")
    source = recipe.Source("input", args.input, field=args.field)
    sizes = collections.Counter()
    for d in sources.read(source):
        sizes[d.get("lang")] += len(d.get("text", "").encode())
    if not sizes.total():
        raise ValueError(f"there is no text in {' '.join(args.input)}")
    share = keep({lang: n for lang, n in sizes.items() if n}, args.bytes, args.alpha)

    def texts():
        for d in sources.read(source):
            if d.get("text") and chosen(d["id"], share[d.get("lang")]):
                yield d["text"]
    tokenizer = train_tokenizer(args.kind, texts(), args.vocab, args.workers)
    tokenizer.save(args.out)
    used, tokens = map(sum, zip(*((len(t.encode()), len(ids)) for part in batches(texts()) for t, ids in zip(part, tokenizer.encode_batch(part)))))
    print(f"{args.out}: {tokenizer.vocab} entries; {used:,} of {sizes.total():,} bytes were used, and are {tokens:,} tokens, {used / tokens:.2f} bytes per token")


def main():
    ap = argparse.ArgumentParser(description=tokenizers.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sub = ap.add_subparsers(required=True, metavar="train|report")
    t = sub.add_parser("train", help="train a tokenizer on text")
    t.add_argument("--input", nargs="+", required=True, metavar="PATH", help="files, folders or globs of any format that prepare.py reads")
    t.add_argument("--field", default="text", help="field of the records that holds the text (default: text)")
    t.add_argument("--vocab", type=int, default=32_000, help="entries, with specials and bytes (default: 32000)")
    t.add_argument("--kind", choices=tokenizers.KINDS, default="bpe")
    t.add_argument("--bytes", type=float, default=1e8, help="text to use, at most; documents are chosen by a hash of their ids (default: 1e8)")
    t.add_argument("--alpha", type=float, default=1.0, help="a language's share of it is its share of the text to this power (default: 1; BLOOM: 0.3)")
    t.add_argument("--workers", type=int, default=os.cpu_count(), help="processes that count (default: one per core; the result is the same)")
    t.add_argument("--out", required=True, metavar="DIR")
    t.set_defaults(run=train_command)
    add_arguments(sub.add_parser("report", help="how a tokenizer treats each source and language"))
    args = ap.parse_args()
    args.run(args)
