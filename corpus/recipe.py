"""The recipe of a data set: a Corpus of Sources and a Tokenizer. It is checked before any work is done.

    python prepare.py configs/data/mine.py      # a data config: a file with a function config() -> Corpus
"""
import dataclasses
import os
import re
from dataclasses import dataclass, field
from typing import Literal

import config
import tokenizer as tokenizers
from corpus import clean, dedup, pieces, streams


@dataclass
class Tokenizer:
    kind: Literal["bpe", "sentencepiece"] = "bpe"
    vocab: int = 4096                   # entries, specials and bytes included
    path: str | None = None             # use this trained tokenizer instead of training one
    bytes: int = 30_000_000             # of text to train on, at most
    alpha: float = 1.0                  # languages are drawn by their size to this power (BLOOM: 0.3)
    special: list[str] | None = None    # special tokens of one's own, as <|user|>


@dataclass
class Source:
    """One source of text, with its licence, apart on disk until rows are mixed (BLOOM, section 3.1)."""
    name: str
    path: str | list[str] | None = None # files, folders, globs; None: what `url` names
    reader: str = "auto"                # a name in corpus/sources.py READERS; auto: by file name
    lang: str | None = None             # BCP 47, or a programming language; None: from the record or the file
    licence: str | None = None
    weight: float | None = None         # share of the training rows; None: its share of the tokens
    field: str = "text"                 # of a .jsonl record
    split: int = 2048                   # characters after which plain text is cut at a blank line
    encoding: str | None = None         # of its text files, as Python names it; None: UTF-8. A mark says more
    url: str | list[str] | None = None  # downloaded to data/raw/NAME
    sha256: str | list[str] | None = None       # of each url
    origin: str | None = None           # where it comes from
    custodian: str | None = None        # who keeps it and answers for it
    # gated: it is read only with accept=NAME; asked: its custodian was asked and has agreed
    permission: Literal["public", "gated", "asked"] = "public"
    licences: list[str] | None = None   # documents under any other licence are dropped; None: all are kept
    clean: str | list[str] = ()         # a recipe or rules of corpus/clean.py, in their order
    # what is dropped; minhash: documents like an earlier one of any source that says so; overlap: those of
    # which 90% is inside another one of the source (LLaMA's books)
    near: Literal["minhash", "overlap"] | None = None


@dataclass
class Corpus:
    """What prepare.py turns into data/NAME."""
    name: str
    sources: list[Source]
    tokenizer: Tokenizer = field(default_factory=Tokenizer)
    val_share: float = 0.05             # of the documents, by hash of the id (ROOTS: the last 5%)
    only: str | None = None             # of these sources: a,b; None: all
    alike: float = 0.7                  # documents are near duplicates from this share of common shingles on
    accept: str | None = None           # gated sources whose terms you have accepted: a,b
    remove: str | None = None           # file of documents to leave out: a line is SOURCE or SOURCE/ID
    rules: str | None = None            # folder of thresholds and word lists instead of corpus/rules
    models: dict[str, str] | None = None        # files of models: {'quality': 'quality.npz'}
    sizes: dict[str, float] | None = None       # {source: bytes of its text}, for plan.py corpus alone
    part: int = 32_000_000              # bytes of input files that make a job; a cluster wants 256_000_000


MODELS = ("language", "perplexity", "quality")
TAKEN = (".partial", ".removed", ".removing")       # what prepare.py puts beside data/NAME


def names_in(text):
    """names_in("a,b") -> ["a", "b"]; names_in(None) -> []"""
    return text.split(",") if text else []


def selected(corpus):
    """The corpus with those of its sources that `only` names."""
    only = names_in(corpus.only)
    return dataclasses.replace(corpus, sources=[s for s in corpus.sources if not only or s.name in only])


def with_newer_settings(settings):
    """Those of a manifest, with what a source could not have when it was written: that has its default."""
    return settings | {"sources": [config.plain(Source("")) | source for source in settings["sources"]]}


def rules_by_kind(source):
    """The rules of a source: (keys that documents must not share, line rule or None, rules for one text)."""
    names = clean.rules(source.clean)
    keys, lines, rest = ([n for n in names if n in kind] for kind in (clean.KEYS, clean.LINES, clean.RULES))
    if names != keys + lines + rest or len(lines) > 1:
        raise ValueError(f"source {source.name}: in clean, {', '.join(clean.KEYS)} come first, then at most "
                         f"one of {', '.join(clean.LINES)}, then the other rules")
    return keys, lines[0] if lines else None, rest


def corpus_from(plain):
    """The Corpus that config.plain() has made into plain values."""
    sources = [Source(**source) for source in plain["sources"]]
    return Corpus(**{**plain, "sources": sources, "tokenizer": Tokenizer(**plain["tokenizer"])})


def check_corpus(corpus):
    """Stop a corpus that cannot be prepared, or may not be."""
    config.check_types(corpus, corpus.name)
    config.check_types(corpus.tokenizer, "tokenizer")
    for s in corpus.sources:
        config.check_types(s, f"source {s.name}")
    check_names(corpus)
    if not corpus.sources:
        raise ValueError(f"{corpus.name} has no sources")
    if corpus.part < 1:
        raise ValueError(f"part={corpus.part}: it must be above 0")
    if not 0 < corpus.val_share < 1:
        raise ValueError(f"val_share={corpus.val_share}: it must be between 0 and 1")
    check_tokenizer(corpus.tokenizer)
    dedup.bands(corpus.alike)
    if corpus.rules:
        clean.table(corpus.rules)
    rules, accepted = [], names_in(corpus.accept)
    for s in selected(corpus).sources:
        rules_by_kind(s)
        rules += clean.rules(s.clean)
        if s.encoding:
            with config.blame(f"source {s.name}"):
                streams.check_encoding(s.encoding)
        if not s.path and not s.url:
            raise ValueError(f"source {s.name} has neither path nor url")
        if s.permission == "gated" and s.name not in accepted:
            raise ValueError(f"source {s.name} is gated by {s.custodian or 'its custodian'} "
                             f"({s.origin or s.licence}): read its terms, then give "
                             f"accept={','.join([*accepted, s.name])}")
    note = clean.check_rules(rules, corpus.models)
    if note:
        print(note)


def check_names(corpus):
    """Names become folders, and what only=, accept= and models= name must be there."""
    names = [s.name for s in corpus.sources]
    for key, given, known in (("only", names_in(corpus.only), names), ("models", corpus.models or (), MODELS),
                              ("accept", names_in(corpus.accept), names),
                              ("sizes", corpus.sizes or (), names)):
        unknown = ", ".join(sorted({*given} - {*known}))
        if unknown:
            raise ValueError(f"{key}: there is no {unknown}; there are {', '.join(known)}")
    for name in [corpus.name, *names]:
        if not re.fullmatch(r"\w[\w.-]*", name) or name == "raw" or name.endswith(TAKEN):
            raise ValueError(f"the name {name!r} must be letters, digits, '-', '_' and '.'; raw, and endings "
                             f"{', '.join(TAKEN)}, are taken")
        if names.count(name) > 1:
            raise ValueError(f"two sources are named {name}; a data config can name them")


def check_tokenizer(given):
    if given.vocab < pieces.LEAST:
        raise ValueError(f"vocabulary of {given.vocab}: the least is {pieces.LEAST}")
    pieces.check_special(given.special or [])
    t = tokenizers.load(given.path) if given.path else None
    if t and t.eos is None:
        raise ValueError(f"the tokenizer of {given.path} has no token that ends a text; name its eos_token "
                         "in tokenizer_config.json")
    for line in t.remarks() if t else ():
        print(f"{given.path}: {line}")


def names_in_file(file):
    """The names SOURCE or SOURCE/ID in a file, a line each."""
    with open(file, encoding="utf-8-sig") as f:
        return set(map(str.strip, f)) - {""}


def remove_list(corpus):
    """The names SOURCE or SOURCE/ID to leave out: those taken out before, and those of corpus.remove."""
    known, names = [s.name for s in corpus.sources], set()
    files = [corpus.remove] if corpus.remove else []
    if os.path.exists(f"data/{corpus.name}.removed"):
        files.append(f"data/{corpus.name}.removed")
    for file in files:
        lines = names_in_file(file)
        unknown = sorted(name for name in lines if name.split("/")[0] not in known)
        if unknown:
            raise ValueError(f"{file}: {unknown[0]!r} is in none of the sources {', '.join(known)}; "
                             "a line is SOURCE or SOURCE/ID")
        names |= lines
    return names
