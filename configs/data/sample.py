"""The embedded default corpus: no download, ready in seconds.

    python prepare.py configs/data/sample.py
    python prepare.py configs/data/sample.py name=sample-sentencepiece tokenizer.kind=sentencepiece
"""
import os

from corpus.recipe import Corpus, Source, Tokenizer

HERE = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
PYTHON = os.path.dirname(os.__file__)           # the standard library of the Python that runs this


def config():
    return Corpus("sample", [
        Source("samples", f"{HERE}/samples/*.txt", reader="samples", licence="CC0-1.0", weight=0.10),
        Source("stories", f"{HERE}/samples/stories/*.txt", reader="stories", licence="CC0-1.0", weight=0.60),
        Source("python", f"{PYTHON}/*.py", reader="code", licence="PSF-2.0", weight=0.30),
    ], Tokenizer("bpe", 4096))
