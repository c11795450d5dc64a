"""Readers, each on a small file in its true format, whole and damaged.

Documents in = documents kept + documents dropped, and each drop says why and where."""
import bz2
import gzip
import json
import lzma
import os
import re
import sys

import pytest

from corpus import recipe, sources

PARAGRAPHS = [f"{i}" + " The cat sat on the mat." * 8 for i in range(100)]
PACKED = {"": bytes, ".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def write(path, content):
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    with open(path, "wb") as f:
        f.write(content if isinstance(content, bytes) else content.encode())
    return path


def records(texts):
    return "\n".join(json.dumps({"text": text}) for text in texts).encode()


def read(path, **settings):
    return list(sources.read_documents(recipe.Source("s", path, **settings)))


def split(documents):
    """({id: text}, [(reason, place)]), and no two documents with one id."""
    kept = [d for d in documents if "dropped" not in d]
    assert len({d["id"] for d in kept}) == len(kept) and all(d["source"] == "s" for d in documents)
    dropped = [(d["dropped"], d["place"]) for d in documents if "dropped" in d]
    return {d["id"]: d["text"] for d in kept}, dropped


# finding files

def test_files_are_found_once_in_one_order_with_their_sizes():
    for name in "a.py", "inner/b.rs", "c.bin", ".git/d.py", "settings.json", "node_modules/e.js":
        write(f"src/{name}", f"text of {name}")
    assert {d["id"]: d.get("lang") for d in read("src")} == {"a.py": "python", "inner/b.rs": "rust"}
    assert split(read(write("a.json", '{"text": "named"}')))[0] == {"a.json:1": "named"}
    for name in ("t/b.txt", "t/a.txt", "u/a.txt"):
        write(name, name * 3)
    for path in (["t", "u"], ["t/b.txt", "u/a.txt", "t/a.txt"], ["t", "u", "t/*.txt"], "[tu]"):
        found = [(os.path.relpath(f), n, size) for f, n, size in sources.found(recipe.Source("s", path))]
        assert found == [(n, n, 21) for n in ("t/a.txt", "t/b.txt", "u/a.txt")]


def test_sources_are_named_by_what_tells_their_paths_apart():
    examples = re.findall(r"named\((\[.*?\])\) -> (.*)", sources.named.__doc__)
    assert len(examples) == 2
    for paths, names in [*examples, ('["src/**/*.py"]', "src"),
                         ('["mine/", "d/part-*.wet.gz", "CC-1.warc.wet.gz"]', "mine, d-part, CC-1")]:
        paths = json.loads(paths)
        assert list(sources.named(paths)) == list(zip(names.split(", "), paths))


def test_settings_that_cannot_be_are_one_clear_line(monkeypatch):
    write("code/a.py", "pass")
    write("a.parquet", b"x")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    for path, reader, message in (("nowhere", "auto", "there is no nowhere"),
                                  ("code", "wiki", "no file in it for the reader wiki"),
                                  ("code", "pdf", "unknown reader 'pdf'; use auto or one of text, "),
                                  ("a.parquet", "auto", "pip install pyarrow")):
        with pytest.raises(ValueError, match=message):
            read(path, reader=reader)


def test_documents_do_not_depend_on_how_files_are_grouped_and_progress_adds_up():
    for i in range(5):
        write(f"t/{i}.txt", "\n\n".join(PARAGRAPHS[i * 20:i * 20 + 20]))
    write("t/5.jsonl.gz", gzip.compress(records(PARAGRAPHS)))
    source, done = recipe.Source("s", "t", lang="en", licence="CC0-1.0"), []
    whole = list(sources.read_documents(source, progress=done.append))
    apart = [list(sources.read_documents(source, [file])) for file in sources.found(source)]
    assert whole == sum(apart, []) and all(d["lang"] == "en" and d["licence"] == "CC0-1.0" for d in whole)
    assert sum(done) == sources.size(source) and min(done) >= 0 and len(done) > len(whole)


# compression

@pytest.mark.parametrize("ending", PACKED)
def test_compressed_files_read_as_plain_ones_and_a_damaged_one_up_to_the_damage(ending):
    write(f"a.txt{ending}", PACKED[ending]("\n\n".join(PARAGRAPHS).encode()))
    write(f"empty.txt{ending}", PACKED[ending](b""))
    documents = read(["a.txt" + ending, "empty.txt" + ending])
    assert "\n\n".join(d["text"] for d in documents) == "\n\n".join(PARAGRAPHS) and len(documents) > 5
    if not ending:
        return
    texts = [os.urandom(3000).hex() for _ in range(200)]  # several blocks of bzip2
    packed = PACKED[ending](records(texts))
    write(f"a.jsonl{ending}", packed[:-20])
    write(f"b.jsonl{ending}", PACKED[ending](b'{"text": "fine"}'))
    write(f"c.jsonl{ending}", b"not compressed at all, " * 10)
    kept, [a, c] = split(read("*.jsonl*"))
    assert kept.pop(f"b.jsonl{ending}:1") == "fine" and c[0] == "broken_file"
    assert a == ("broken_file", f"a.jsonl{ending}, byte {len(packed) - 20} of the compressed file")
    assert 50 < len(kept) < 200 and list(kept.values()) == texts[:len(kept)]


def test_a_failing_disk_is_not_taken_for_a_broken_file():
    with pytest.raises(OSError, match="Input/output"):
        read("/proc/self/mem", reader="text")  # nothing can be read at its byte 0


# text and books

def test_text_is_cut_at_blank_lines_and_nothing_is_lost():
    lines = "\ufeffone\ntwo\n\nthree\n\n\nfour" + "x" * 40 + "\nend"
    for text in (lines, lines.replace("\n", "\r\n")):
        found = [d["text"] for d in read(write("a.txt", text), split=8)]
        assert found == ["one\ntwo", "three", "four" + "x" * 40, "end"]
    kept, dropped = split(read(write("a.txt", b"first one\n\ncaf\xe9 two\n\nthird one\n\n"), split=5))
    assert kept == {"a.txt#0": "first one", "a.txt#2": "third one"}
    assert dropped == [("invalid_utf8", "a.txt, byte 14")]
    parts = read(write("a.txt", "x" + "é" * (1 << 20)))
    assert "".join(split(parts)[0].values()) == "x" + "é" * (1 << 20) and len(parts) > 1, "one line of 2 MiB"


BOOK = ("Title: Emma\r\nAuthor: Jane Austen\r\nLanguage: French\r\n[EBook #158]"
        "*** START OF THIS PROJECT GUTENBERG EBOOK EMMA ***\r\n\r\n" + "Première ligne.\r\n\r\n" * 50
        + "*** END OF THIS PROJECT GUTENBERG EBOOK EMMA ***\r\nlicence")


def test_a_gutenberg_book_is_known_by_its_marker():
    documents = read(write("a.txt", "\ufeff" + BOOK), split=100)
    assert "\n\n".join(d["text"] for d in documents) == "\n\n".join(["Première ligne."] * 50)
    assert len(documents) > 3 and documents[1].pop("text")
    assert documents[1] == {"id": "a.txt#1", "source": "s", "title": "Emma", "author": "Jane Austen",
                            "lang": "fr", "url": "https://www.gutenberg.org/ebooks/158"}
    said = BOOK.replace("Language:", "Character set encoding: ISO-8859-1\r\nLanguage:").encode("latin-1")
    assert "è" in read(write("latin.txt", said))[0]["text"]
    bad = split(read(write("bad.txt", BOOK.encode("latin-1"))))[1]
    assert bad == [("invalid_utf8", f"bad.txt, byte {BOOK.index('è')}")]


# records

def test_json_records_keep_their_provenance():
    record = {"text": "one\r\ntwo", "id": 7, "license": "MIT", "url": "u", "timestamp": "2019", "lang": "fr",
              "other": 1, "title": None, "author": ["a"], "source": "web"}
    rows = "\ufeff" + json.dumps(record) + "\r\n\r\n" + json.dumps({"text": "last", "id": None})
    assert read(write("a.jsonl", rows), licence="other", lang="en") == [
        {"id": "7", "text": "one\ntwo", "licence": "MIT", "url": "u", "date": "2019", "lang": "fr",
         "origin": "web", "source": "s"},
        {"id": "a.jsonl:3", "text": "last", "licence": "other", "lang": "en", "source": "s"}]


BAD_RECORDS = [  # a line, the reason, what follows its place
    (b'{"text": ', "broken_json", "Expecting value"), (b"[" * 100_000, "broken_json", ""),
    (b'["text"]', "no_text", "it has: no text fields"),
    (b'{"body": "b", "url": "u", "n": 1, "text": 5}', "no_text", "it has: body, url"),
    (b'{"text": "f\xff"}', "invalid_utf8", "byte 11"),
    (b'{"text": "\\ud800"}', "invalid_utf8", "half of a surrogate pair")]


def test_broken_json_records_are_dropped_one_by_one(monkeypatch):
    lines = [line for line, _, _ in BAD_RECORDS]
    kept, dropped = split(read(write("a.jsonl", b"\n".join([*lines, b'{"text": "fine"}']))))
    assert kept == {"a.jsonl:7": "fine"} and len(dropped) == len(lines)
    for n, ((_, expected, more), (reason, place)) in enumerate(zip(BAD_RECORDS, dropped), 1):
        assert reason == expected and place.startswith(f"a.jsonl:{n}, {more}")
    assert split(read("a.jsonl", field="body"))[0] == {"a.jsonl:4": "b"}
    monkeypatch.setattr(sources, "LARGEST", 50)
    kept, dropped = split(read(write("a.jsonl", records(["xxxxx", "x" * 500, "xxxxxxx"]))))
    assert list(kept) == ["a.jsonl:1", "a.jsonl:3"]
    assert dropped == [("too_large", "a.jsonl:2, 50 bytes or more")]


def test_parquet_rows_are_documents_in_batches():
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet
    table = {"text": ["text"] * 290 + [None, "last"], "id": [None] + ["d"] * 290 + ["e"],
             "embedding": [[0.5]] * 292, "license": ["MIT"] * 292}
    parquet.write_table(pyarrow.table(table), "a.parquet")
    documents = read("a.parquet")
    assert documents[0]["id"] == "a.parquet:1" and len(documents) == 292
    assert documents[291] == {"id": "e", "text": "last", "licence": "MIT", "source": "s"}
    assert documents[290]["place"] == "a.parquet:291, it has: id, license"
    assert split(read("a.parquet", field="body"))[1] == [
        ("no_text", "a.parquet, it has no body, but text, id, embedding, license")]
    whole = open("a.parquet", "rb").read()
    for damaged in (whole[:-30], b"no parquet"):
        assert read(write("c.parquet", damaged))[-1]["dropped"] == "broken_file"


# code

def test_code_carries_the_licence_it_names_or_the_nearest_one():
    write("src/LICENSE", "     GNU GENERAL PUBLIC LICENSE\n        Version 3, 29 June 2007\n")
    write("src/a.py", "\ufeffpass\r\n")
    write("src/b.c", "// SPDX-License-Identifier: GPL-2.0-only WITH Linux-syscall-note */\nint x;")
    bsd = "Redistribution and use in source\nand binary forms to endorse or promote products"
    write("src/lib/COPYING.md", bsd)
    write("src/lib/deep/c.go", "package c")
    write("src/odd/LICENCE.txt", "Do what you like on Sundays.")
    write("src/odd/d.rs", "fn d() {}")
    write("src/odd/e.rs", b"// caf\xe9")
    documents = read("src", reader="code", licence="own")
    assert {d["id"]: (d.get("lang"), d.get("licence")) for d in documents if "text" in d} == {
        "a.py": ("python", "GPL-3.0"), "b.c": ("c", "GPL-2.0-only WITH Linux-syscall-note"),
        "lib/deep/c.go": ("go", "BSD-3-Clause"), "odd/d.rs": ("rust", "own")}
    kept, dropped = split(documents)
    assert kept["a.py"] == "pass\n" and dropped == [("invalid_utf8", "odd/e.rs, byte 6")]
    alone = read("src/lib/deep/c.go")[0]
    assert "licence" not in alone, "a file given by name is looked at in its own folder only"
    write("LICENSE", "Permission is hereby granted, free of charge, to any\nperson obtaining a copy")
    sources.nearest_licence.cache_clear()
    assert "licence" not in read("src/odd")[0], "nothing above the source's path counts"
