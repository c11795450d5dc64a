"""Small corpora for the tests of prepare.py and corpus/, and what is in data/ afterwards."""
import gzip
import json
import os
import pathlib
import random

import numpy as np

import config
import prepare
import tokenizer as tokenizers
from corpus.recipe import Corpus, Source, Tokenizer


def texts(n):
    """`n` different texts of about 160 letters."""
    words = "the cat sat on the mat and looked at the dog near the old house".split()
    return [" ".join([*random.Random(i).choices(words, k=40), f"{i}."]) for i in range(n)]


def write(path, text):
    pathlib.Path(path).write_text(text, encoding="utf-8")


def write_records(path, records):
    write(path, "".join(json.dumps(r) + "\n" for r in records))


def write_texts(found):
    """a.jsonl, with ids 0, 1, 2 ..."""
    write_records("a.jsonl", [{"text": text, "id": str(i)} for i, text in enumerate(found)])


def records(path):
    with open(path, encoding="utf-8") as f:
        return [json.loads(line) for line in f]


def make(name, *paths, vocab=300, **more):
    found = [Source(os.path.splitext(path)[0], path, **more) for path in paths]
    return prepare.prepare(Corpus(name, found, Tokenizer("bpe", vocab)))


def there():
    """What is in data/, but for locks."""
    return sorted(n for n in os.listdir("data") if not n.startswith(".")) if os.path.isdir("data") else []


def tree(folder):
    """{file: its bytes} of everything below a folder."""
    found = pathlib.Path(folder).rglob("*")
    return {str(path.relative_to(folder)): path.read_bytes() for path in found if path.is_file()}


def decoded(name, source, split):
    """The texts in a token file, and what the manifest says of it."""
    manifest = config.read_json(f"data/{name}/manifest.json")
    tokenizer = tokenizers.load(f"data/{name}/tokenizer")
    ids = np.fromfile(f"data/{name}/tokens/{source}/{split}.bin", manifest["dtype"])
    starts = np.fromfile(f"data/{name}/tokens/{source}/{split}.idx", "<i8")
    parts = np.split(ids, starts[1:])
    assert all(part[-1] == tokenizer.eos for part in parts)
    facts = manifest["sources"][source][split]
    assert (facts["tokens"], facts["documents"]) == (len(ids), len(starts))
    return [tokenizer.decode(part[:-1].tolist()) for part in parts]


def everything():
    """Folders of files with each kind of loss: copies, repeated lines, near copies, short and broken files,
    licences, gated terms, books inside books."""
    for folder in ("web", "code", "books"):
        os.makedirs(folder)
    t = texts(96)
    for part in range(6):
        docs = [{"id": f"{part}-{i}", "lang": ["en", "fr"][i % 2],
                 "text": f"Menu of the site\n{x} {x[::-1]} {x}\nwrite to me{i}@example.org"}
                for i, x in enumerate(t[part * 16:part * 16 + 16])]
        docs += [{**docs[3], "id": f"{part}-again"}, {"id": f"{part}-short", "text": "short"},
                 {**docs[5], "id": f"{part}-near", "text": docs[5]["text"].replace(".", " too.")},
                 {"id": f"{part}-none", "text": " "}]
        with gzip.open(f"web/{part}.jsonl.gz", "wt", encoding="utf-8") as f:
            f.write("".join(json.dumps(d) + "\n" for d in docs) + '{"broken": \n')
        lines = "\n".join(f"x{i} = {i * part}" for i in range(200))
        write(f"code/{part}.py", f"# SPDX-License-Identifier: {['MIT', 'GPL-3.0-only'][part % 2]}\n{lines}")
    with open("web/3.jsonl.gz", "r+b") as f:
        f.truncate(os.path.getsize("web/3.jsonl.gz") - 40)
    draw = random.Random(0)
    story = "".join(draw.choices("abcdefgh ", k=30_000))
    write("books/whole.txt", story)
    write("books/inside.txt", story[500:29_000])
    write("books/other.txt", "".join(draw.choices("ijklmnop ", k=20_000)))
    web = Source("web", "web", clean=["ccnet_lines", "pii", "lines_with_code", "bytes_300"], near="minhash",
                 licence="CC0-1.0", origin="made here", custodian="the tests", permission="gated")
    code = Source("code", "code", licences=["MIT"], permission="asked")
    books = Source("books", "books", split=10 ** 9, near="overlap")
    return Corpus("all", [web, code, books], Tokenizer("bpe", 400), accept="web")
