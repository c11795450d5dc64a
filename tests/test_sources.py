"""Readers, each on a small file in its true format, whole and damaged.

Documents in = documents kept + documents dropped, and each drop says why and where."""
import bz2
import gzip
import io
import json
import lzma
import os
import re
import sys
import tarfile

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
    assert list(kept) == ["a.jsonl:1"] and dropped == [("too_large", "a.jsonl, line 2 has 50 bytes or more")]


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


# Common Crawl

def record(number, body, length=None, lang="eng", kind="conversion"):
    head = (f"WARC/1.0\r\nWARC-Type: {kind}\r\nWARC-Target-URI: https://example.org/{number}\r\n"
            f"WARC-Date: 2024-02-20T21:05:0{number}Z\r\nWARC-Record-ID: <urn:uuid:{number}>\r\n"
            f"WARC-Identified-Content-Language: {lang}\r\nContent-Length: {length or len(body)}\r\n\r\n")
    return head.encode() + body + b"\r\n\r\n"


CRAWL = [record(0, b"Software-Info: x\r\n", kind="warcinfo"), record(1, "é\r\n\r\n".encode()),
         record(2, b"A WARC file:\r\n\r\nWARC/1.0\r\nWARC-Type: conversion\r\n\r\n", lang="fra,eng"),
         record(3, b"caf\xe9"), record(4, b"?", lang="?")]


def test_a_crawl_gives_pages_with_address_date_and_language():
    name = "CC-MAIN-1.warc.wet.gz"
    packed = b"".join(map(gzip.compress, CRAWL))  # as Common Crawl: a gzip member for each record
    documents = read(write(name, packed), licence="CC-BY")
    assert documents[0] == {
        "id": "urn:uuid:1", "text": "é\n\n", "url": "https://example.org/1",
        "date": "2024-02-20T21:05:01Z", "lang": "en", "licence": "CC-BY", "source": "s"}
    assert documents[1]["lang"] == "fr" and "lang" not in documents[3] and "WARC/1.0" in documents[1]["text"]
    at = b"".join(CRAWL).index(b"\xe9")
    assert split(documents)[1] == [("invalid_utf8", f"{name}, byte {at}")]


def test_after_a_broken_record_the_rest_of_a_crawl_is_dropped_and_counted():
    whole = b"".join(CRAWL[:3])
    for damaged in (record(3, b"short", length=500), record(3, b"longer than it says", length=3),
                    record(3, b"x", length="many"), b"garbage \x00\xff in between\r\n" * 9000):
        kept, [(reason, place)] = split(read(write("a.wet", whole + damaged + CRAWL[4])))
        assert len(kept) == 2 and reason == "broken_file" and place.startswith(f"a.wet, byte {len(whole)}: ")


# MediaWiki

def page(number, title, text, ns=0, more=""):
    return f"""<page><title>{title}</title><ns>{ns}</ns><id>{number}</id>{more}
    <revision><id>9{number}</id><timestamp>2024-01-0{number}T00:00:00Z</timestamp>
    <contributor><username>A</username><id>7</id></contributor><text bytes="9">{text}</text></revision></page>
"""


WIKI = """<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.11/" version="0.11" xml:lang="fr">
  <siteinfo><sitename>Wikipédia</sitename><dbname>frwiki</dbname>
  <base>https://fr.wikipedia.org/wiki/Accueil</base><namespaces><namespace key="0" />
  <namespace key="6">Fichier</namespace><namespace key="14">Catégorie</namespace></namespaces></siteinfo>
"""
RAIN = "La '''pluie''' est de l'[[eau|eau]].\n[[Fichier:A.jpg|vue]]\n[[Catégorie:Eau]]"
PAGES = [page(1, "Pluie &amp; vent", RAIN), page(4, "Vide", "{{ébauche}}"), page(5, "Grêle?", "La grêle."),
         page(2, "Neige", "#REDIRECTION [[Pluie]]", more='<redirect title="Pluie" />'),
         page(3, "Discussion:Eau", "bonjour", ns=1)]


def test_a_wiki_export_gives_its_articles_up_to_where_it_is_broken():
    name, export = "a.xml.bz2", ("\ufeff" + WIKI + "".join(PAGES) + "</mediawiki>\n").encode()
    streams = bz2.compress(export[:900]) + bz2.compress(export[900:])
    documents = read(write(name, streams), licence="CC-BY-SA-4.0")
    assert documents[0] == {
        "id": "frwiki:1", "text": "La pluie est de l'eau.", "lang": "fr", "title": "Pluie & vent",
        "date": "2024-01-01T00:00:00Z", "url": "https://fr.wikipedia.org/wiki/Pluie_%26_vent",
        "licence": "CC-BY-SA-4.0", "source": "s"}
    kept, dropped = split(documents)
    assert kept["frwiki:5"] == "La grêle." and documents[2]["url"].endswith("Gr%C3%AAle%3F")
    assert dropped == [("empty", f"{name}, page 4 (Vide)"), ("redirect", f"{name}, page 2 (Neige)"),
                       ("not_article", f"{name}, page 3 (Discussion:Eau)")]
    text = WIKI + PAGES[0] + PAGES[2]
    for rest in ("", "  <page><title>A & B</title>", "</page>"):
        kept, [(reason, place)] = split(read(write("a.xml", text + rest)))
        assert list(kept) == ["frwiki:1", "frwiki:5"] and reason == "broken_file"
        assert int(re.search(r": line (\d+), column", place)[1]) == text.count("\n") + 1


def test_xml_that_is_no_wiki_is_counted():
    for reader, drop in (("wiki", ("broken_file", "a.xml, the first element is <feed>, not <mediawiki>")),
                         ("auto", ("unknown_format", "a.xml, XML of another kind"))):
        assert split(read(write("a.xml", "<feed></feed>"), reader=reader))[1] == [drop]


# Stack Exchange

POSTS = """\ufeff<?xml version="1.0" encoding="utf-8"?>
<posts>
  <row Id="3" PostTypeId="2" ParentId="1" Score="2" Body="&lt;p&gt;Second.&lt;/p&gt;" />
  <row Id="1" PostTypeId="1" CreationDate="2020-01-01T00:00:00.000" Score="5" OwnerDisplayName="Ann"
       Body="&lt;p&gt;Why &amp;amp; how?&lt;/p&gt;&#xA;&#xA;&lt;pre&gt;a &amp;lt; b&#xA;  c&lt;/pre&gt;"
       Title="Rain &amp; snow" Tags="&lt;water&gt;" ContentLicense="CC BY-SA 3.0" />
  <row Id="4" PostTypeId="2" ParentId="1" Score="-1" Body="Third." />
  <row Id="5" PostTypeId="2" ParentId="1" Score="9" Body="First." />
  <row Id="6" PostTypeId="2" ParentId="99" Score="1" Body="Lost." />
  <row Id="7" PostTypeId="5" Score="1" Body="wiki" />
  <row Id="eight" PostTypeId="1" Score="1" Body="x" Title="x" />
  <row Id="9" PostTypeId="1" Score="1" Title="No body" />
  <row Id="10" PostTypeId="1" Score="0" Body="Alone." Title="Two" />
"""


def test_questions_come_with_their_answers_best_first_also_of_a_cut_dump():
    documents = read(write("Posts.xml", POSTS + "</posts>"), lang="en")
    kept, dropped = split(documents)
    assert next(d for d in documents if d["id"] == "Posts.xml:1") == {
        "id": "Posts.xml:1", "score": 5, "title": "Rain & snow", "licence": "CC BY-SA 3.0", "author": "Ann",
        "date": "2020-01-01T00:00:00.000", "lang": "en", "source": "s",
        "text": "Q: Rain & snow\n\nWhy & how?\n\na < b\n  c\n\nA: First.\n\nA: Second.\n\nA: Third."}
    assert kept["Posts.xml:10"] == "Q: Two\n\nAlone." and len(kept) == 2
    assert sorted(dropped) == [
        ("broken_record", "Posts.xml, post 9, 'Body'"),
        ("broken_record", "Posts.xml, post eight, invalid literal for int() with base 10: 'eight'"),
        ("no_question", "Posts.xml, post 6"), ("not_post", "Posts.xml, post 7, neither question nor answer")]
    assert POSTS.count("<row") == 9 == sum(t.count("\nA: ") + 1 for t in kept.values()) + len(dropped)
    kept, [*_, (reason, place)] = split(read(write("Posts.xml", POSTS + '  <row Id="11" PostTypeId="1" Bo')))
    assert len(kept) == 2 and reason == "broken_file" and place.endswith(": line 14, column 2")


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


# arXiv

def tar(path, files, mode="w"):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as t:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            t.addfile(info, io.BytesIO(data))
    return write(path, out.getvalue()) if path else out.getvalue()


ONE = rb"\documentclass{article}\begin{document}Front.\section{One} Text. % no" + b"\n" + rb"\end{document}"
TWO = {"main.tex": rb"""\documentclass{article}
\newcommand{\R}{\mathbb{R}}
\begin{document}
% \input{old}
\input{intro}\input{intro}
\include{parts/more.tex}
\input{missing}
\end{document}""",
       "intro.tex": rb"\section{Intro} On $\R$.", "old.tex": b"Old.", "fig.pdf": b"%PDF",
       "parts/more.tex": rb"\section{More} \input{main}Loops end.",
       "letter.tex": rb"\documentclass{letter} Dear editor"}
PAPERS = {
    "1001/1001.0001.gz": gzip.compress(ONE), "1001/1001.0002.gz": gzip.compress(tar(None, TWO)),
    "1001/1001.0003.pdf": b"%PDF-1.4", "1001/hep-th0001004.gz": gzip.compress(ONE.replace(b"One", b"Two")),
    "1001/1001.0005.gz": b"not gzip", "1001/1001.0006.gz": gzip.compress(b"%!PS-Adobe"),
    "1001/1001.0007.gz": gzip.compress(ONE.replace(b"Text", b"T\xe9xt")),
    "1001/1001.0008.gz": gzip.compress(ONE)[:-20], "1001/1001.0009.gz": gzip.compress(tar(None, TWO)[:1000]),
    "1001/1001.0010.gz": gzip.compress(ONE * 100_000)}


def test_papers_are_read_from_bulk_archives():
    name = "arXiv_src_1001_001.tar"
    documents = read(tar(name, PAPERS))
    assert documents[0] == {"id": "1001.0001", "text": "\\section{One} Text.", "source": "s",
                            "url": "https://arxiv.org/abs/1001.0001"}
    kept, dropped = split(documents)
    assert kept["1001.0002"] == "\\section{Intro} On $\\mathbb{R}$.\n\\section{More} Loops end."
    assert kept["hep-th/0001004"] == "\\section{Two} Text."
    assert [reason for reason, _ in dropped] == [
        "no_source", "broken_record", "no_source", "invalid_utf8", "broken_record", "broken_record",
        "too_large"]
    assert dropped[0][1] == f"{name}, 1001/1001.0003.pdf"
    assert dropped[3][1] == f"{name}, 1001/1001.0007.gz, byte {ONE.index(b'Text') + 1}"
    assert len(kept) + len(dropped) == len(PAPERS) and os.listdir() == [name]


def test_a_single_paper_is_read_and_a_damaged_archive_up_to_the_damage():
    documents = read([tar("2302.13971.tar.gz", TWO, mode="w:gz"), tar("mine.tar", {"a/ms.tex": ONE})])
    assert [(d["id"], d.get("url")) for d in documents] == [
        ("2302.13971", "https://arxiv.org/abs/2302.13971"), ("mine.tar", None)]
    assert "Loops end." in documents[0]["text"]
    assert split(read(tar("c.tar", {"a.jpg": b"x"})))[1] == [("no_source", "c.tar, no LaTeX in it")]
    data = tar(None, PAPERS)
    at = data.index(b"1001/1001.0003.pdf")
    for damaged in (data[:at] + b"\xff" * 512 + data[at + 512:], data[:at], data[:at + 300]):
        kept, [(reason, place)] = split(read(write("a.tar", damaged)))
        assert list(kept) == ["1001.0001", "1001.0002"]
        assert reason == "broken_file" and place.startswith("a.tar, byte ")
