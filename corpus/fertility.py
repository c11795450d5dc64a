"""The two commands of tokenizer.py: train a tokenizer, and report how it treats each language.

    python tokenizer.py report data/wide --input en/ yo/ --lang en yo --monolingual
    python tokenizer.py report data/wide --show "a text"

fertility    tokens per word, a word encoded with a space before it (BLOOM, section 3.3; Acs 2019)
continued    share of the words that are cut into two tokens or more (Rust et al. 2021)
single       share of the tokens that are one byte: the tokenizer knows such text badly
alone        fertility with a tokenizer of the same kind and size for this language alone
worse        by which share alone is lower; BLOOM's limit is 0.1
A word stands between spaces; in Chinese a Han character is a word. Thai, Lao, Khmer, Burmese and Japanese
have no spaces: compare their bytes per token.
"""
import collections
import os

import config
import tokenizer as tokenizers
from corpus import recipe, sources
from corpus.bpe import TooManyEntries
from corpus.pieces import chosen, shares, train_tokenizer
from corpus.text import HAN, words

HELD_OUT = 10           # with --monolingual one document in so many is measured, the others train


def figures(tokenizer, texts, lang):
    """A row of the report: what `tokenizer` makes of texts of one language."""
    batch = tokenizer.encode_batch(texts)
    count = collections.Counter(word for text in texts for word in words(text, lang, False))
    # SentencePiece puts the space before a word itself; before a Han character there is none
    alone = [word if tokenizer.space or HAN.fullmatch(word) else " " + word for word in count]
    pieces = cut = 0
    for ids, times in zip(tokenizer.encode_batch(alone), count.values()):
        pieces += len(ids) * times
        cut += (len(ids) > 1) * times
    single = sum(len(tokenizer.bytes_of(i)) == 1 for ids in batch for i in ids)
    size, tokens, n = sum(len(text.encode()) for text in texts), sum(map(len, batch)), count.total()
    return {"bytes": size, "words": n, "tokens": tokens, "bytes/token": size / tokens,
            "fertility": pieces / max(1, n), "continued": cut / max(1, n), "single": single / tokens}


def largest(kind, texts, vocab):
    """A tokenizer of `vocab` entries or as many as the texts give; None if these are too few."""
    try:
        return train_tokenizer(kind, texts, vocab)
    except TooManyEntries as e:
        return largest(kind, texts, e.most)
    except ValueError:                  # SentencePiece needs an entry for each character
        return None


def monolingual(tokenizer, languages):
    """BLOOM's criterion for each language, on a tenth of its documents. languages: {lang: [text]}"""
    result = {}
    tick = config.progress("tokenizers for one language", len(languages))
    for lang, texts in languages.items():
        rest = [text for i, text in enumerate(texts) if i % HELD_OUT]
        alone = largest(tokenizer.kind, rest, tokenizer.vocab) if rest else None
        if alone:
            ours, theirs = (figures(t, texts[::HELD_OUT], lang)["fertility"] for t in (tokenizer, alone))
            result[lang] = {"fertility": ours, "alone": theirs, "worse": (ours - theirs) / max(ours, 1e-9)}
        tick(1)
    return result


def show(tokenizer, text):
    """Print the pieces in turning colours; bytes that are no whole character as \\x.."""
    ids = tokenizer.encode(text)
    for n, i in enumerate(ids):
        print(f"\033[{41 + n % 6}m{tokenizer.bytes_of(i).decode('utf-8', 'backslashreplace')}\033[0m", end="")
    print(f"\n{len(ids)} tokens: {ids}")


def print_table(rows):
    columns = next(iter(rows.values()), {})
    print(f"{'':10}" + "".join(f"{key:>13}" for key in columns))
    for lang, row in sorted(rows.items()):
        print(f"{lang:10}" + "".join(f"{x:13,}" if type(x) is int else f"{x:13.3f}" for x in row.values()))
    print()


# ---- the commands ----

def documents(args):
    """The documents that have text, each with its language."""
    langs = args.lang or [None]
    if len(langs) == 1:
        langs = langs * len(args.input)
    if len(langs) != len(args.input):
        raise ValueError(f"--lang: {len(langs)} languages for {len(args.input)} paths")
    inputs = [recipe.Source(*named, lang=lang) for named, lang in zip(sources.named(args.input), langs)]
    tick = config.progress("reading", sum(map(sources.size, inputs)))
    for source in inputs:
        for d in sources.read_documents(source, progress=tick):
            if d.get("text", "").strip():
                yield d | {"lang": d.get("lang") or "unknown"}


def report(args):
    tokenizer = tokenizers.load(args.tokenizer)
    if args.show:
        return show(tokenizer, args.show)
    languages = collections.defaultdict(list)
    for d in documents(args):
        languages[d["lang"]].append(d["text"])
    print_table({lang: figures(tokenizer, texts, lang) for lang, texts in languages.items()})
    if args.monolingual:
        print_table(monolingual(tokenizer, languages))


def train(args):
    if os.path.exists(args.out) and os.listdir(args.out):
        raise ValueError(f"{args.out} is not empty; choose another --out or delete it")
    sizes = collections.Counter()
    for d in documents(args):
        sizes[d["lang"]] += len(d["text"].encode())
    share = shares(sizes, args.bytes, args.alpha)
    texts = (d["text"] for d in documents(args) if chosen(d["id"], share[d["lang"]]))
    tokenizer = train_tokenizer(args.kind, texts, args.vocab, os.cpu_count(), args.special)
    tokenizer.save(args.out)
    print(f"wrote {args.out}: {tokenizer.vocab} entries")


def main():
    parser = config.Parser(tokenizers.__doc__)
    commands = parser.add_subparsers(required=True, metavar="train|report")
    t = commands.add_parser("train", doc="", help="train one on text")
    t.set_defaults(run=train)
    t.add_argument("--vocab", type=config.number(1, 1e7), default=32_000, help="entries (default: 32000)")
    t.add_argument("--kind", choices=tokenizers.KINDS, default="bpe")
    t.add_argument("--bytes", type=config.number(1, 1e15), default=1e8, help="of text at most (default: 1e8)")
    t.add_argument("--alpha", type=config.number(0, 10, float), default=1.0,
                   help="languages are drawn by their size to this power (default: 1; BLOOM: 0.3)")
    t.add_argument("--special", nargs="+", default=[], metavar="TOKEN", help="special tokens of your own")
    t.add_argument("--out", required=True, metavar="DIR")
    r = commands.add_parser("report", doc=__doc__, help="how one treats each language")
    r.set_defaults(run=report)
    r.add_argument("tokenizer", metavar="DIR")
    r.add_argument("--monolingual", action="store_true", help="compare with one language's own")
    what = r.add_mutually_exclusive_group(required=True)
    what.add_argument("--show", metavar="TEXT", help="print this text's pieces, coloured")
    paths = {"nargs": "+", "metavar": "PATH", "help": "files, folders or globs that prepare.py reads"}
    t.add_argument("--input", required=True, **paths)
    what.add_argument("--input", **paths)
    for one in t, r:
        one.add_argument("--lang", nargs="+", help="one for all paths, or one for each")
    args = parser.parse_args()
    args.run(args)
