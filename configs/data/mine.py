"""A data config to copy: two sources, and a tokenizer of their own.

    cp configs/data/mine.py configs/data/notes.py       # then change it
    python prepare.py configs/data/mine.py              # makes data/small
    python train.py configs/bloom.py data.name=small run.name=small

A source has one origin and one licence. corpus/recipe.py lists all that can be said of it.
"""
from corpus.recipe import Corpus, Source, Tokenizer


def config():
    english = Source(
        name="english",                     # data/small/tokens/english
        path="samples/en.txt",              # files, folders or globs, seen from where the command runs
        split=200,                          # cut into documents at a blank line after 200 characters
        lang="en",                          # rules and thresholds are those of this language
        licence="CC0-1.0",
        clean=["uniform_whitespace", "pii"],    # rules or recipes of corpus/clean.py, in this order
        weight=0.6)                         # share of the training rows
    others = Source(
        name="others",
        path=["samples/fr.txt", "samples/es.txt", "samples/pt.txt"],
        reader="samples",                   # a paragraph is a document, the file's name its language
        licence="CC0-1.0",
        near="minhash",                     # near duplicates are dropped
        weight=0.4)
    return Corpus("small", [english, others], Tokenizer("bpe", vocab=600))
