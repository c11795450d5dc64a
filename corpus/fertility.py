"""The two commands of tokenizer.py: train a tokenizer, and report how it treats each language.

    python tokenizer.py report data/wide --input en/ yo/ --lang en yo --monolingual --json report.json

fertility    tokens per word, a word encoded with a space before it (BLOOM, section 3.3; Acs 2019)
continued    share of the words that are cut into two tokens or more (Rust et al. 2021)
single       share of the tokens that are one byte: the tokenizer knows such text badly
A word is what stands between spaces, without signs at its ends. Chinese has no spaces: a Han character is a
word. Thai, Lao, Khmer, Burmese and Japanese have none either; they are marked *: compare bytes per token.
"""
import collections
import contextlib
import os

import config
import tokenizer as tokenizers
from corpus import recipe, sources
from corpus.bpe import LEAST, TooManyEntries
from corpus.pieces import batches, chosen, shares, train_tokenizer
from corpus.text import HAN, words

WORST = 0.10            # BLOOM's limit: share of its fertility above that of a tokenizer for one language
UNSPACED = {"th", "lo", "km", "my", "ja"}
HELD_OUT = 10           # with --monolingual one document in so many is measured, the others train


def count_tokens(tokenizer, texts, lang):
    """(Counter of what texts of one language amount to, Counter of the ids used). Both may be added up."""
    used, found = collections.Counter(), collections.Counter()
    for ids in tokenizer.encode_batch(texts):
        used.update(ids)
    for text in texts:
        found.update(words(text, lang, False))
    # SentencePiece puts the space before a word itself; before a Han character there is none
    alone = [word if tokenizer.space or HAN.fullmatch(word) else " " + word for word in found]
    cut = [len(ids) for ids in tokenizer.encode_batch(alone)]
    n = collections.Counter(documents=len(texts), words=found.total(), tokens=used.total())
    n["bytes"] = sum(len(text.encode()) for text in texts)
    n["characters"] = sum(len(text) for text in texts)
    n["pieces"] = sum(k * times for k, times in zip(cut, found.values()))
    n["cut"] = sum(times for k, times in zip(cut, found.values()) if k > 1)
    n["single"] = sum(times for i, times in used.items() if len(tokenizer.bytes_of(i)) == 1)
    return n, used


def figures(n):
    """The figures of a report from the counts of count_tokens()."""
    tokens, word_count = max(1, n["tokens"]), max(1, n["words"])
    return {name: n[name] for name in ("documents", "bytes", "characters", "words", "tokens")} | {
        "bytes_per_token": n["bytes"] / tokens, "fertility": n["pieces"] / word_count,
        "continued": n["cut"] / word_count, "single": n["single"] / tokens}


def largest(kind, texts, vocab):
    """A tokenizer of `vocab` entries, or of as many as the texts give; None if they give too few."""
    try:
        return train_tokenizer(kind, texts, vocab)
    except TooManyEntries as e:
        return largest(kind, texts, e.most) if LEAST <= e.most < vocab else None
    except ValueError:                  # SentencePiece needs an entry for each character
        return None


def monolingual(tokenizer, languages):
    """{lang: figures}: fertility of the tokenizer, and of one of its kind and size for that language alone
    on the held-out tenth of its documents. languages: {lang: [text]}"""
    result = {}
    tick = config.progress("tokenizers for one language", len(languages))
    for lang, texts in sorted(languages.items()):
        held = texts[::HELD_OUT]
        rest = [text for i, text in enumerate(texts) if i % HELD_OUT]
        alone = largest(tokenizer.kind, rest, tokenizer.vocab) if rest else None
        if alone:
            ours, theirs = (figures(count_tokens(t, held, lang)[0])["fertility"] for t in (tokenizer, alone))
            result[lang] = {"fertility": ours, "alone": theirs, "entries": alone.vocab,
                            "worse": (ours - theirs) / max(ours, 1e-9)}
        tick(1)
    return result


def vocabulary(tokenizer, used):
    """What its entries are for: never used in this text; alike but for case and spaces."""
    alike, never = collections.Counter(), 0
    for i in range(tokenizer.vocab):
        entry = tokenizer.bytes_of(i)
        if len(entry) > 1:
            never += not used[i]
            with contextlib.suppress(UnicodeDecodeError):
                alike[entry.decode().strip().lower()] += 1
    return {"entries": tokenizer.vocab, "never_used": never, "alike": sum(n - 1 for n in alike.values())}


def shown(piece):
    """Bytes as a person can read them; what is no whole character as hexadecimal."""
    try:
        return piece.decode().replace("\n", "\\n").replace("\t", "\\t")
    except UnicodeDecodeError:
        return "".join(f"<{b:02X}>" for b in piece)


def show(tokenizer, text):
    """Print the pieces in turning colours, then their ids."""
    ids = tokenizer.encode(text)
    pieces = [shown(tokenizer.bytes_of(i)) for i in ids]
    print("".join(f"\033[{41 + n % 6}m{piece}\033[0m" for n, piece in enumerate(pieces)))
    print(f"{len(ids)} tokens: " + " ".join(f"{i}:{piece!r}" for i, piece in zip(ids, pieces)))


# ---- the commands ----

def languages_of(args):
    """The language of each path of --input: --lang has one for all, or one for each."""
    langs = args.lang or [None]
    if len(langs) == 1:
        langs = langs * len(args.input)
    if len(langs) != len(args.input):
        raise ValueError(f"--lang: {len(langs)} languages for {len(args.input)} paths; give one for all, "
                         "or one for each in the same order")
    return langs


def documents(inputs, doing):
    """The documents of some Sources that have text. What takes long says how far it is."""
    tick = config.progress(doing, sum(map(sources.size, inputs)))
    for source in inputs:
        for document in sources.read_documents(source, progress=tick):
            if document.get("text", "").strip():
                yield document


def print_table(rows):
    width = max(8, *map(len, rows))
    print(f"{'':{width}}        bytes  characters      words     tokens  "
          "bytes/token  fertility  continued  single")
    for name, f in sorted(rows.items()):
        mark = "*" if name.split("/")[-1] in UNSPACED else ""
        print(f"{name + mark:{width}}  {f['bytes']:11,} {f['characters']:11,} {f['words']:10,} "
              f"{f['tokens']:10,}  {f['bytes_per_token']:11.2f}  {f['fertility']:9.2f}  "
              f"{f['continued']:9.1%}  {f['single']:6.1%}")
    print()


def print_monolingual(rows):
    print("          fertility  alone  of entries  worse by   (one document in "
          f"{HELD_OUT} is measured; the others train the tokenizer of the language alone)")
    for lang, f in rows.items():
        above = f"   above {WORST:.0%}" if f["worse"] > WORST else ""
        print(f"{lang:8}  {f['fertility']:9.2f}  {f['alone']:5.2f}  {f['entries']:10,}  "
              f"{f['worse']:8.1%}{above}")
    print()


def report(args):
    tokenizer = tokenizers.load(args.tokenizer)
    if args.show is not None:
        return show(tokenizer, args.show)
    if not args.input:
        raise ValueError("give --input PATH..., or --show TEXT")
    inputs = [recipe.Source(name, path, lang=lang, field=args.field)
              for (name, path), lang in zip(sources.named(args.input), languages_of(args))]
    groups, languages = collections.defaultdict(list), collections.defaultdict(list)
    for d in documents(inputs, "reading"):
        lang = d.get("lang") or "unknown"
        groups[d["source"], lang].append(d["text"])
        languages[lang].append(d["text"])
    if not groups:
        raise ValueError(f"there is no text in {' '.join(args.input)}")
    totals = collections.defaultdict(collections.Counter)
    by_source, used = {}, collections.Counter()
    tick = config.progress("sources encoded", len(groups))
    for (name, lang), texts in groups.items():
        counts, ids = count_tokens(tokenizer, texts, lang)
        by_source[f"{name}/{lang}"] = figures(counts)
        totals[lang] += counts
        used += ids
        tick(1)
    result = {"tokenizer": args.tokenizer, "kind": tokenizer.kind, "sources": by_source,
              "languages": {lang: figures(counts) for lang, counts in totals.items()},
              "vocabulary": vocabulary(tokenizer, used)}
    print_table(result["languages"])
    if len(by_source) > len(totals):
        print_table(by_source)
    if args.monolingual:
        result["monolingual"] = monolingual(tokenizer, languages)
        print_monolingual(result["monolingual"])
    v = result["vocabulary"]
    print(f"of {v['entries']:,} entries {v['never_used']:,} are never used in this text; {v['alike']:,} "
          "differ from another by case or a space only")
    if args.json:
        config.write_json(args.json, result)
        print(f"wrote {args.json}")


def train(args):
    if os.path.exists(args.out) and os.listdir(args.out):
        raise ValueError(f"{args.out} is not empty; choose another --out or delete it")
    paths = collections.defaultdict(list)
    for path, lang in zip(args.input, languages_of(args)):
        paths[lang].append(path)
    inputs = [recipe.Source("input", part, lang=lang, field=args.field) for lang, part in paths.items()]
    sizes = collections.Counter()
    for d in documents(inputs, "measuring the text"):
        sizes[d.get("lang")] += len(d["text"].encode())
    if not sizes:
        raise ValueError(f"there is no text in {' '.join(args.input)}")
    share = shares(sizes, args.bytes, args.alpha)

    def texts(doing):
        for d in documents(inputs, doing):
            if chosen(d["id"], share[d.get("lang")]):
                yield d["text"]
    print(f"training a {args.kind} tokenizer of {args.vocab} entries", flush=True)
    tokenizer = train_tokenizer(args.kind, texts("reading the text"), args.vocab, args.workers)
    tokenizer.save(args.out)
    used = tokens = 0
    for batch in batches(texts("encoding the text")):
        used += sum(len(text.encode()) for text in batch)
        tokens += sum(map(len, tokenizer.encode_batch(batch)))
    print(f"{args.out}: {tokenizer.vocab} entries; {used:,} of {sizes.total():,} bytes were used, and are "
          f"{tokens:,} tokens, {used / tokens:.2f} bytes per token")


def main():
    parser = config.Parser(tokenizers.__doc__)
    commands = parser.add_subparsers(required=True, metavar="train|report")
    t = commands.add_parser("train", doc="", help="train a tokenizer on text")
    r = commands.add_parser("report", doc="", help="how a tokenizer treats each source and language")
    r.add_argument("tokenizer", metavar="DIR", help="folder of a tokenizer, e.g. data/sample/tokenizer")
    for one in t, r:
        one.add_argument("--input", nargs="+", required=one is t, metavar="PATH",
                         help="files, folders or globs of any format that prepare.py reads")
        one.add_argument("--lang", nargs="+", help="one language for all paths, or one for each")
        one.add_argument("--field", default="text", help="field of records with the text (default: text)")
    t.add_argument("--vocab", type=config.number(LEAST, 10_000_000), default=32_000,
                   help="entries, with specials and bytes (default: 32000)")
    t.add_argument("--kind", choices=tokenizers.KINDS, default="bpe")
    t.add_argument("--bytes", type=config.number(1, 1e15), default=1e8,
                   help="text to use, at most; documents are chosen by a hash of their ids (default: 1e8)")
    t.add_argument("--alpha", type=config.number(0, 10, float), default=1.0,
                   help="a language's share is its share of the text to this power (default: 1; BLOOM: 0.3)")
    t.add_argument("--workers", type=config.number(1, 1024), default=os.cpu_count(),
                   help="processes that count (default: one per core; the result is the same)")
    t.add_argument("--out", required=True, metavar="DIR")
    t.set_defaults(run=train)
    r.add_argument("--monolingual", action="store_true",
                   help="compare with a tokenizer of the same kind and size for each language alone")
    r.add_argument("--json", metavar="FILE", help="write all numbers there too")
    r.add_argument("--show", metavar="TEXT", help="only print this text's pieces, coloured")
    r.set_defaults(run=report)
    args = parser.parse_args()
    args.run(args)
