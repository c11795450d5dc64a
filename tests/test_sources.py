"""Readers, each on a small file in its true format, whole and damaged.

Documents in = documents kept + documents dropped, and each drop says why and where."""
import bz2
import codecs
import gzip
import io
import json
import lzma
import os
import re
import sys

import pytest

from corpus import recipe, sources, streams

PARAGRAPHS = [f"{i}" + " The cat sat on the mat." * 8 for i in range(100)]
PACKED = {"": bytes, ".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}
try:
    import zstandard
    PACKED[".zst"] = zstandard.ZstdCompressor(write_checksum=True).compress
except ImportError:
    pass
NOT_UTF8 = ": not UTF-8; name its encoding, as in --encoding windows-1251 or utf-16-le"


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
    for name in ("se/a.7z", "se/B.7Z", "a.txt.zst"):
        write(name, b"x")
    for library in ("pyarrow", "zstandard", "compression"):
        monkeypatch.setitem(sys.modules, library, None)
    for path, reader, message in (("nowhere", "auto", "there is no nowhere"),
                                  ("code", "wiki", "no file in it for the reader wiki"),
                                  ("code", "pdf", "unknown reader 'pdf'; use auto or one of text, "),
                                  ("a.parquet", "auto", "pip install pyarrow"),
                                  ("a.txt.zst", "auto", "pip install zstandard"),
                                  ("se/a.7z", "auto", "unpack it: 7z x se/a.7z"),
                                  ("se", "auto", "unpack it: 7z x se/a.7z"),
                                  ("*/*.7Z", "auto", "unpack it: 7z x se/B.7Z")):
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


# compression with zstandard, encodings

def test_zstandard_files_of_several_frames_are_read_and_unpacked_piece_by_piece():
    pytest.importorskip("zstandard")
    pack = PACKED[".zst"]
    skipped = (0x184D2A50).to_bytes(4, "little") + (5).to_bytes(4, "little") + b"hello"
    write("a.jsonl.zst", pack(records("ab") + b"\n") + skipped + pack(b"") + pack(records("c")))
    assert split(read("a.jsonl.zst"))[0] == {"a.jsonl.zst:1": "a", "a.jsonl.zst:2": "b", "a.jsonl.zst:3": "c"}
    far = zstandard.ZstdCompressionParameters(window_log=30, enable_ldm=True)       # zstd --long=30
    frame = zstandard.ZstdCompressor(compression_params=far).compressobj()
    write("far.txt.zst", frame.compress(b"far") + frame.flush())
    assert read("far.txt.zst")[0]["text"] == "far"
    sizes = [*map(len, streams.frames(io.BytesIO(pack(bytes(1 << 28))), *streams.zstd_library()))]
    assert sum(sizes) == 1 << 28 and max(sizes) <= 1 << 27, "a bomb of 9 KB is unpacked piece by piece"


RUSSIAN = "\n\n".join(f"{n} Кот сел на коврик и долго смотрел в окно." for n in range(2000))
SPOKEN = {
    "windows-1251": RUSSIAN, "koi8-r": RUSSIAN, "latin-1": "Le café est fermé.\n\nÀ demain !",
    "windows-1252": "“Où est l’œuf ?” – 5 €", "big5": "天氣很好。\n\n我們去公園。", "euc_kr": "안녕하세요",
    "shift_jis": "今日はいい天気です。\n\nソ十表", "gb18030": "天气很好。㐀𠀀", "utf-7": "é+b",
    "utf-16": RUSSIAN, "utf-16-le": RUSSIAN, "utf-16-be": "ab\u0a0a\u0d0a\n\n\u010a𠀀", "utf-32": RUSSIAN}


@pytest.mark.parametrize("encoding", SPOKEN)
@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.py", "a.html", "a.txt.gz"])
def test_a_file_in_the_encoding_that_is_named_reads_as_in_utf8(encoding, name):
    text = SPOKEN[encoding]                     # in UTF-16 a byte 10 need not be a line end
    row = json.dumps({"text": text}, ensure_ascii=False)
    content = {"a.jsonl": f"{row}\n{row}\n", "a.html": f"<meta charset=ascii><p>{text}"}.get(name, text)
    pack = gzip.compress if name.endswith(".gz") else bytes
    expected = read(write(name, pack(content.encode())), encoding="utf-8")
    assert expected and "dropped" not in expected[0] and text[-2:] in expected[-1]["text"]
    assert read(write(name, pack(content.encode(encoding))), encoding=encoding) == expected


MARKS = {"utf-8": codecs.BOM_UTF8, "utf-16-le": codecs.BOM_UTF16_LE, "utf-16-be": codecs.BOM_UTF16_BE,
         "utf-32-le": codecs.BOM_UTF32_LE, "utf-32-be": codecs.BOM_UTF32_BE}


@pytest.mark.parametrize("encoding", MARKS)
@pytest.mark.parametrize("given", [None, "latin-1", "utf-16-le", "utf-8"])
def test_a_byte_order_mark_counts_before_what_is_named(encoding, given):
    for name, text in (("a.txt", RUSSIAN), ("a.jsonl", '{"text": "é"}\n{"text": "Ω"}'), ("a.go", "// Ω\n"),
                       ("en.txt", "Ω\n\né"), ("a.htm", "<meta charset=big5><p>Ω"), ("b.txt", BOOK)):
        reader = "samples" if name == "en.txt" else "auto"
        expected = read(write(name, text), reader=reader, encoding=name == "a.htm" and "utf-8" or None)
        marked = MARKS[encoding] + text.encode(encoding)
        assert read(write(name, marked), reader=reader, encoding=given) == expected and expected


def test_what_is_not_in_the_encoding_is_dropped_alone_and_names_the_setting():
    lines = [json.dumps({"text": t}, ensure_ascii=False).encode("cp1252") for t in ("é", "ab", "œ")]
    lines[1] = lines[1].replace(b"b", b"\x81")              # no character in windows-1252
    kept, dropped = split(read(write("a.jsonl", b"\n".join(lines)), encoding="windows-1252"))
    assert kept == {"a.jsonl:1": "é", "a.jsonl:3": "œ"}
    there = "a.jsonl:2, byte 11 of its text as UTF-8: it is not in cp1252 there"
    assert dropped == [("invalid_encoding", there)]
    whole = "one\n\ntwo".encode("utf-16-le")
    for halves in (whole.replace(b"w\0", b"\0\xd8"), whole + b"x"):      # of a pair, of a unit
        kept, dropped = split(read(write("a.txt", halves), encoding="utf-16-le", split=1))
        assert kept == {"a.txt#0": "one"} and dropped[0][0] == "invalid_encoding"
    for unmarked in ("utf-16", "utf-32"):
        kept, dropped = split(read(write("a.txt", "one".encode(f"{unmarked}-le")), encoding=unmarked))
        there = f"a.txt, it has no byte order mark: say {unmarked}-le or {unmarked}-be"
        assert not kept and dropped == [("invalid_encoding", there)]
        assert read(write("a.txt", b""), encoding=unmarked) == []
    text = "plain text\n"
    for name, content in (("a.txt", text.encode("utf-16-le")), ("a.py", text.encode("utf-32-be")),
                          ("a.jsonl", records("ab").decode().encode("utf-16-be")), ("b.txt", b"caf\xe9")):
        kept, dropped = split(read(write(name, content)))
        assert not kept and dropped == [("invalid_utf8", dropped[0][1])] and NOT_UTF8 in dropped[0][1]


def test_text_with_a_byte_0_is_read_if_its_encoding_is_known():
    content = b"one\0\n\ntwo"
    assert split(read(write("a.txt", content)))[1][0][0] == "invalid_utf8"
    for data, given in ((content, "utf-8"), (codecs.BOM_UTF8 + content, None)):
        assert split(read(write("a.txt", data), encoding=given))[0] == {"a.txt#0": "one\0\n\ntwo"}


@pytest.mark.parametrize("name, near", [
    ("windows-1215", "windows-125"), ("latin-one", "latin-1"), ("Big-5", "big5"), ("utf16be", "utf-16be"),
    *((name, "") for name in ("hex", "idna", "undefined", "a\0b", "é"))])
def test_what_is_no_encoding_is_one_line_with_a_near_miss(name, near):
    with pytest.raises(ValueError, match=f"source s: Python knows no .*, did you mean '{near}[^'\n]*'\\?$"):
        recipe.check_corpus(recipe.Corpus("c", [recipe.Source("s", "a.txt", encoding=name)]))


# text and books

def test_text_is_cut_at_blank_lines_and_nothing_is_lost():
    lines = "\ufeffone\ntwo\n\nthree\n\n\nfour" + "x" * 40 + "\nend"
    for text in (lines, lines.replace("\n", "\r\n")):
        found = [d["text"] for d in read(write("a.txt", text), split=8)]
        assert found == ["one\ntwo", "three", "four" + "x" * 40, "end"]
    kept, dropped = split(read(write("a.txt", b"first one\n\ncaf\xe9 two\n\nthird one\n\n"), split=5))
    assert kept == {"a.txt#0": "first one", "a.txt#2": "third one"}
    assert dropped == [("invalid_utf8", f"a.txt, byte 14{NOT_UTF8}")]
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
    assert bad == [("invalid_utf8", f"bad.txt, byte {BOOK.index('è')}{NOT_UTF8}")]


# pages

def test_a_page_is_a_document_in_the_encoding_that_it_declares_unless_one_is_named():
    page = "<!DOCTYPE html><html><head>{}<title>Été\n{}</title></head><body><p>“Été” – œuf: 5 €.</html>"
    for says, encoding, given in (
            ('<meta charset="iso-8859-1">', "cp1252", None),        # browsers read this as windows-1252
            ("<META http-equiv=Content-Type content='text/html; charset=windows-1252'>", "cp1252", None),
            ("<?xml version='1.0' encoding='cp1252'?>", "cp1252", None),
            ("<meta charset=utf-8>", "utf-8", None), ("<meta charset='utf-16'>", "utf-8", None),
            ("<meta charset='utf-16le'>", "utf-8", None), ("<meta charset='utf-32'>", "utf-8", None),
            ("<meta charset='nonsense'>", "utf-8", None),
            ("<meta charset='utf-8'>", "cp1252", "cp1252"), ("", "cp1252", "cp1252"), ("", "utf-8", None)):
        write("web/a.html", page.format(says, "&amp; hiver").encode(encoding))
        assert read("web", encoding=given) == [
            {"id": "a.html", "text": "“Été” – œuf: 5 €.", "title": "Été & hiver", "source": "s"}]
    place = f"a.html, byte {page.format('', '').index('É')}{NOT_UTF8}"
    write("web/a.html", page.format("", "").encode("cp1252"))
    assert split(read("web"))[1] == [("invalid_utf8", place)]
    write("web/b.HTM", "<p>one")
    assert [d["id"] for d in read("web")] == ["a.html", "b.HTM"] and "title" not in read("web")[1]


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
    (b'{"text": "\\ud800"}', "broken_json", "half of a surrogate pair")]


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
    for ending, pack in PACKED.items():
        assert [d.get("text") for d in read(write(f"b.parquet{ending}", pack(whole)))] == table["text"]
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
    assert kept["a.py"] == "pass\n" and dropped == [("invalid_utf8", f"odd/e.rs, byte 6{NOT_UTF8}")]
    alone = read("src/lib/deep/c.go")[0]
    assert "licence" not in alone, "a file given by name is looked at in its own folder only"
    write("LICENSE", "Permission is hereby granted, free of charge, to any\nperson obtaining a copy")
    sources.nearest_licence.cache_clear()
    assert "licence" not in read("src/odd")[0], "nothing above the source's path counts"
