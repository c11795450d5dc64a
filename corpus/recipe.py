"""What prepare.py turns into data/NAME: a Corpus of Sources and a Tokenizer. A data config (configs/data/) returns a Corpus."""
from dataclasses import dataclass, field
from typing import Literal


@dataclass
class Tokenizer:
    kind: Literal["bpe", "sentencepiece"] = "bpe"
    vocab: int = 4096                   # entries, specials and bytes included
    path: str | None = None             # use this trained tokenizer instead of training one
    bytes: int = 30_000_000             # of text to train on, at most
    alpha: float = 1.0                  # a language's share of that text is its share of the corpus to this power, rescaled (BLOOM: 0.3)


@dataclass
class Source:
    """One source of text, kept apart on disk with its licence until rows are mixed (BLOOM, section 3.1)."""
    name: str
    path: str | list[str] | None = None # files, folders, globs; None: what `url` names
    reader: str = "auto"                # a name in corpus/sources.py READERS; auto: by file name
    lang: str | None = None             # BCP 47, or a programming language; None: from the record or the file
    licence: str | None = None
    weight: float | None = None         # share of the training rows; None: its share of the tokens
    field: str = "text"                 # of a .jsonl record
    split: int = 2048                   # characters after which a plain text is cut into documents at a blank line
    url: str | list[str] | None = None  # downloaded to data/raw/NAME
    sha256: str | list[str] | None = None       # of each url
    origin: str | None = None           # where it comes from, for a reader of the data card
    custodian: str | None = None        # who keeps it and answers for it
    permission: Literal["public", "gated", "asked"] = "public"      # gated: needs accept=NAME; asked: its custodian was asked, and agreed
    licences: list[str] | None = None   # documents under any other licence are dropped; None: all are kept
    clean: str | list[str] = ()         # a recipe or rules of corpus/clean.py, in their order
    near: Literal["minhash", "overlap"] | None = None   # near duplicates: alike among all sources that say so, or 90% inside one of the source (LLaMA's books)


@dataclass
class Corpus:
    """What prepare.py turns into data/NAME."""
    name: str
    sources: list[Source]
    tokenizer: Tokenizer = field(default_factory=Tokenizer)
    val_share: float = 0.05             # of the documents, by hash of the id (ROOTS: the last 5% of each dataset)
    only: str | None = None             # of these sources: a,b; None: all
    alike: float = 0.7                  # share of shingles from which two documents are near duplicates
    accept: str | None = None           # gated sources whose terms you have accepted: a,b
    remove: str | None = None           # file of documents to leave out: a line is SOURCE or SOURCE/ID
    rules: str | None = None            # folder of thresholds and word lists to use instead of corpus/rules
    models: dict[str, str] | None = None        # {'language': 'lid.176.bin', 'perplexity': 'kenlm/', 'quality': 'quality.npz'} instead of our own
