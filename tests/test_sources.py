"""Readers, each on a small file in its true format, whole and damaged: documents in = documents kept + dropped, and each drop says why and where."""
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

from corpus import dumps, recipe, sources

WORDS = "the cat sat on the mat and looked at the dog near the old house".split()
PARAGRAPHS = [" ".join(WORDS[(i * 7 + k * (i + 1)) % len(WORDS)] for k in range(40)) + f" {i}." for i in range(100)]


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def write(path, content):
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    with open(path, "wb") as f:
        f.write(content if isinstance(content, bytes) else content.encode())
    return path


def read(path, **settings):
    return list(sources.read(recipe.Source("s", path, **settings)))


def split(documents):
    """({id: text}, [(reason, place)]), and no two documents with one id."""
    kept = [d for d in documents if "dropped" not in d]
    assert len({d["id"] for d in kept}) == len(kept) and all(d["source"] == "s" for d in documents)
    return {d["id"]: d["text"] for d in kept}, [(d["dropped"], d["place"]) for d in documents if "dropped" in d]


# finding files

def test_folders_globs_and_code_are_found_and_named():
    for name in ("src/a.py", "src/inner/b.rs", "src/c.bin", "src/.git/d.py", "src/settings.json", "src/node_modules/e.js"):
        write(name, f"text of {name}")
    assert {d["id"]: d.get("lang") for d in read("src")} == {"a.py": "python", "inner/b.rs": "rust"}
    for lang in ("sw", "fr"):
        write(f"t/{lang}/data.txt", lang)
    assert [d["id"] for d in read("t/*/data.txt")] == ["fr/data.txt#0", "sw/data.txt#0"]


def test_files_are_found_once_in_one_order_with_their_sizes():
    for name in ("t/b.txt", "t/a.txt", "u/a.txt"):
        write(name, name * 3)
    expected = [("t/a.txt", "t/a.txt", 21), ("t/b.txt", "t/b.txt", 21), ("u/a.txt", "u/a.txt", 21)]
    for path in (["t", "u"], ["u", "t"], ["t/b.txt", "u/a.txt", "t/a.txt"], ["t", "u", "t/*.txt"], "[tu]"):
        found = sources.found(recipe.Source("s", path))
        assert [(os.path.relpath(f), n, size) for f, n, size in found] == expected
    assert sources.size(recipe.Source("s", ["t", "u"])) == 63
    assert sources.found(recipe.Source("s", "t"))[0][1] == "a.txt"


def test_settings_that_cannot_be_are_one_clear_line(monkeypatch):
    write("code/a.py", "pass")
    for path, reader, message in (("nowhere", "auto", "there is no file, folder or match for nowhere"), ("code", "wiki", "no file for the reader wiki in code"),
                                  ("code", "pdf", "unknown reader 'pdf'; use auto or one of text, ")):
        with pytest.raises(ValueError, match=message):
            read(path, reader=reader)
    write("a.parquet", b"x")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ValueError, match="pip install pyarrow"):
        read("a.parquet")


def test_documents_do_not_depend_on_how_files_are_grouped_and_progress_adds_up():
    for i in range(5):
        write(f"t/{i}.txt", "\n\n".join(PARAGRAPHS[i * 20:i * 20 + 20]))
    write("t/5.jsonl.gz", gzip.compress(b"".join(json.dumps({"text": t}).encode() + b"\n" for t in PARAGRAPHS)))
    source, done = recipe.Source("s", "t", lang="en", licence="CC0-1.0"), []
    whole = list(sources.read(source, progress=done.append))
    files = sources.found(source)
    assert whole == [d for file in files for d in sources.read(source, [file])] == list(sources.read(source, [f[:2] for f in files]))
    assert sum(done) == sources.size(source) and min(done) > 0 and all(d["lang"] == "en" and d["licence"] == "CC0-1.0" for d in whole)
    assert list(sources.read(source, [])) == []


# compression

@pytest.mark.parametrize("ending, pack", [("", bytes), (".gz", gzip.compress), (".bz2", bz2.compress), (".xz", lzma.compress)])
def test_compressed_files_read_as_plain_ones(ending, pack):
    write(f"a.txt{ending}", pack("\n\n".join(PARAGRAPHS).encode()))
    write(f"empty.txt{ending}", pack(b""))
    documents = read(["a.txt" + ending, "empty.txt" + ending])
    assert "\n".join(d["text"] for d in documents).split() == " ".join(PARAGRAPHS).split() and len(documents) > 5


@pytest.mark.parametrize("ending, pack", [(".gz", gzip.compress), (".bz2", bz2.compress), (".xz", lzma.compress)])
def test_a_truncated_file_keeps_what_comes_before_and_does_not_stop_the_next(ending, pack):
    records = [json.dumps({"text": os.urandom(3000).hex()}) for _ in range(200)]          # several blocks of bzip2, so that some of it can be read
    packed = pack("\n".join(records).encode())
    write(f"a.jsonl{ending}", packed[:-20])
    write(f"b.jsonl{ending}", pack(b'{"text": "fine"}'))
    kept, dropped = split(read("*.jsonl*"))
    assert kept.pop(f"b.jsonl{ending}:1") == "fine" and dropped == [("broken_file", f"a.jsonl{ending}, byte {len(packed) - 20} of the compressed file")]
    assert 50 < len(kept) < 200 and list(kept.values()) == [json.loads(r)["text"] for r in records[:len(kept)]]
    write(f"c.jsonl{ending}", b"not compressed at all, " * 10)
    assert [reason for reason, _ in split(read(f"c.jsonl{ending}"))[1]] == ["broken_file"]


def test_a_failing_disk_is_not_taken_for_a_broken_file(monkeypatch):
    def fails(f, name, source):
        raise OSError(5, "Input/output error")
        yield
    monkeypatch.setitem(sources.READERS, "text", fails)
    with pytest.raises(OSError, match="Input/output"):
        read(write("a.txt", "text"))


# text and books

def test_text_is_cut_at_blank_lines_and_nothing_is_lost():
    lines = "\ufeffone\ntwo\n\nthree\n\n\nfour" + "x" * 40 + "\nend"
    for text in (lines, lines.replace("\n", "\r\n")):
        assert [d["text"] for d in read(write("a.txt", text), split=8)] == ["one\ntwo", "three", "four" + "x" * 40, "end"]
    assert read(write("empty.txt", "")) == []


def test_invalid_utf8_drops_its_document_and_says_where():
    kept, dropped = split(read(write("a.txt", b"first one\n\ncaf\xe9 two\n\nthird one\n\n"), split=5))
    assert kept == {"a.txt#0": "first one", "a.txt#2": "third one"} and dropped == [("invalid_utf8", "a.txt, byte 14")]


def test_a_line_longer_than_memory_is_read_in_parts_between_characters(monkeypatch):
    monkeypatch.setattr(sources, "LONGEST", 10)
    assert "".join(split(read(write("a.txt", "é" * 100), split=20))[0].values()) == "é" * 100


BOOK = ("The Project Gutenberg EBook of Emma\r\n\r\nTitle: Emma\r\nAuthor: Jane Austen\r\nLanguage: French\r\nCharacter set encoding: {}\r\n[EBook #158]\r\n\r\n"
        "*** START OF THIS PROJECT GUTENBERG EBOOK EMMA ***\r\n\r\n" + "Première ligne.\r\n\r\n" * 50 + "*** END OF THIS PROJECT GUTENBERG EBOOK EMMA ***\r\nlicence")


def test_a_gutenberg_book_is_known_by_its_marker_and_read_in_its_encoding():
    for name, text in ("utf8.txt", b"\xef\xbb\xbf" + BOOK.format("UTF-8").encode()), ("latin.txt", BOOK.format("ISO-8859-1").encode("latin-1")):
        documents = read(write(name, text), split=100)
        assert "".join(d["text"] for d in documents).count("Première ligne.") == 50 and len(documents) > 3 and "\r" not in documents[0]["text"]
        assert {k: v for k, v in documents[1].items() if k != "text"} == {"id": f"{name}#1", "source": "s", "title": "Emma", "author": "Jane Austen", "lang": "fr", "url": "https://www.gutenberg.org/ebooks/158"}
    assert split(read(write("bad.txt", BOOK.format("UTF-8").encode("latin-1"))))[1] == [("invalid_utf8", f"bad.txt, byte {BOOK.format('UTF-8').index('è')}")]


# records

def test_json_records_keep_their_provenance_and_broken_ones_are_dropped_one_by_one():
    good = {"text": "one\r\ntwo", "id": 7, "license": "CC-BY-4.0", "url": "u", "timestamp": "2019-04-25T12:57:54Z", "lang": "fr", "score": 0, "other": 1, "title": None, "author": ["a"], "source": "web"}
    rows = ["\ufeff" + json.dumps(good), "", '{"text": ', '["text"]', '{"body": "b", "url": "u", "n": 1}', '{"text": 5}', '{"text": "half \\ud800"}', '{"text": "fine", "url": "\\ud800"}',
            "[" * 100_000, '{"text": "n", "x": ' + "9" * 5000 + "}", json.dumps({"text": "last", "id": None})]
    data = "\r\n".join(rows).encode().replace(b'"fine"', b'"f\xffne"')
    documents = read(write("a.jsonl", data), licence="other", lang="en")
    assert documents[0] == {"id": "7", "text": "one\ntwo", "licence": "CC-BY-4.0", "url": "u", "date": "2019-04-25T12:57:54Z", "lang": "fr", "score": 0, "origin": "web", "source": "s"}
    assert documents[-1] == {"id": "a.jsonl:11", "text": "last", "licence": "other", "lang": "en", "source": "s"}
    dropped = split(documents)[1]
    assert len(dropped) == 8 and dropped[0][0] == "broken_json" and dropped[0][1].startswith("a.jsonl:3 ")
    assert dropped[1:4] == [("no_text", "a.jsonl:4 (it has: no text fields)"), ("no_text", "a.jsonl:5 (it has: body, url)"), ("no_text", "a.jsonl:6 (it has: no text fields)")]
    assert dropped[4] == ("invalid_utf8", "a.jsonl:7, half of a surrogate pair") and dropped[5][0] == "invalid_utf8" and dropped[5][1].startswith("a.jsonl:8, byte ")
    assert [(r, p.split()[0]) for r, p in dropped[6:]] == [("broken_json", "a.jsonl:9"), ("broken_json", "a.jsonl:10")]
    assert split(read("a.jsonl", field="body"))[0] == {"a.jsonl:5": "b"}


def test_a_json_line_that_is_too_long_is_dropped_once(monkeypatch):
    monkeypatch.setattr(sources, "LARGEST", 50)
    rows = [json.dumps({"text": "x" * n}) for n in (5, 500, 7)]
    assert split(read(write("c4.json.gz", gzip.compress("\n".join(rows).encode())))) == ({"c4.json.gz:1": "x" * 5, "c4.json.gz:3": "x" * 7}, [("too_large", "c4.json.gz:2")])


def test_parquet_rows_are_documents_in_batches():
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet
    n = 600
    table = {"text": [f"text {i}" for i in range(n)], "id": [f"d{i}" for i in range(n)], "url": ["u"] * n, "embedding": [[0.5]] * n, "license": ["MIT"] * n}
    table["text"][300], table["id"][2] = None, None
    parquet.write_table(pyarrow.table(table), "a.parquet", row_group_size=250)
    done = []
    documents = list(sources.read(recipe.Source("s", "a.parquet"), progress=done.append))
    assert sum(done) == os.path.getsize("a.parquet") and len(documents) == n
    assert documents[3] == {"id": "d3", "text": "text 3", "url": "u", "licence": "MIT", "source": "s"} and documents[2]["id"] == "a.parquet:3"
    assert split(documents)[1] == [("no_text", "a.parquet:301 (it has: id, url, license)")]
    assert {d["dropped"] for d in read("a.parquet", field="body")} == {"no_text"}
    text = pyarrow.array([b"good", b"b\xffd"], pyarrow.binary())
    parquet.write_table(pyarrow.table({"text": pyarrow.Array.from_buffers(pyarrow.string(), 2, text.buffers())}), "b.parquet")
    assert split(read("b.parquet"))[1] == [("invalid_utf8", "b.parquet:2, byte 1 of a field")]
    whole = open("a.parquet", "rb").read()
    for damaged in (whole[:-30], whole[:100] + bytes(2000) + whole[2100:], b"no parquet", b""):
        write("c.parquet", damaged)
        write("d.parquet", whole)
        documents = read(["c.parquet", "d.parquet"])
        assert [d["dropped"] for d in documents if "dropped" in d] == ["broken_file", "no_text"] and len(documents) >= n + 1


# Common Crawl

def record(kind, body, number, length=None, lang="eng"):
    extra = f"WARC-Target-URI: https://example.org/{number}\r\n" + f"WARC-Identified-Content-Language: {lang}\r\n" * bool(lang) if kind == "conversion" else ""
    head = (f"WARC/1.0\r\nWARC-Type: {kind}\r\n{extra}WARC-Date: 2024-02-20T21:05:0{number}Z\r\nWARC-Record-ID: <urn:uuid:0000-{number}>\r\n"
            f"Content-Type: text/plain\r\nContent-Length: {len(body) if length is None else length}\r\n\r\n")
    return head.encode() + body + b"\r\n\r\n"


def crawl(**changes):
    """A warcinfo record and six pages of which some texts are changed. Page 3 quotes the format."""
    bodies = {i: f"Page {i}\nwith two lines é\r\n\r\n".encode() for i in range(1, 7)} | {3: b"A WARC file:\r\n\r\nWARC/1.0\r\nWARC-Type: conversion\r\n\r\n"}
    return [record("warcinfo", b"Software-Info: x\r\n", 0)] + [changes.get(f"page{i}") or record("conversion", b, i) for i, b in bodies.items()]


@pytest.mark.parametrize("ending, pack", [("", lambda r: b"".join(r)), (".gz", lambda r: b"".join(map(gzip.compress, r))), (".gz", lambda r: gzip.compress(b"".join(r))), (".bz2", lambda r: bz2.compress(b"".join(r)))])
def test_a_crawl_gives_pages_with_address_date_and_language(ending, pack):
    documents = read(write(f"CC-MAIN-1.warc.wet{ending}", pack(crawl(page2=record("conversion", b"Deux", 2, lang="fra,eng"), page4=record("conversion", b"caf\xe9", 4), page5=record("conversion", b"?", 5, lang=None)))), licence="CC-BY")
    assert documents[0] == {"id": "urn:uuid:0000-1", "text": "Page 1\nwith two lines é\n\n", "url": "https://example.org/1", "date": "2024-02-20T21:05:01Z", "lang": "en", "licence": "CC-BY", "source": "s"}
    kept, dropped = split(documents)
    assert [k[-1] for k in kept] == ["1", "2", "3", "5", "6"] and documents[1]["lang"] == "fr" and "lang" not in documents[4] and "WARC/1.0" in documents[2]["text"]
    assert len(dropped) == 1 and dropped[0][0] == "invalid_utf8" and dropped[0][1].startswith(f"CC-MAIN-1.warc.wet{ending}, byte ")


@pytest.mark.parametrize("damaged", [record("conversion", b"short", 4, length=500), record("conversion", b"longer than it says", 4, length=3), record("conversion", b"x", 4, length="many"), record("conversion", b"x", 4, length=10 ** 8),
                                     b"WARC/1.0\r\nnothing else\r\n", b"garbage \x00\xff in between\r\n" * 9000])
def test_a_broken_record_of_a_crawl_costs_only_itself(damaged):
    parts = crawl(page4=damaged)
    kept, dropped = split(read(write("a.wet", b"".join(parts))))
    assert [k[-1] for k in kept] == ["1", "2", "3", "5", "6"] and dropped == [("broken_record", f"a.wet, byte {len(b''.join(parts[:4]))}")]


def test_a_broken_gzip_member_costs_only_itself_and_a_cut_only_the_end():
    parts = [gzip.compress(r) for r in crawl()]
    at = len(b"".join(parts[:4]))
    broken = b"".join(parts[:4]) + parts[4][:12] + b"\xff\xff\xff\xff" + parts[4][16:] + b"".join(parts[5:])
    kept, dropped = split(read(write("a.wet.gz", broken)))
    assert [k[-1] for k in kept] == ["1", "2", "3", "5", "6"] and ("broken_file", f"a.wet.gz, byte {at} of the compressed file") in dropped
    kept, dropped = split(read(write("b.wet.gz", b"".join(parts)[:-30])))
    assert [k[-1] for k in kept] == ["1", "2", "3", "4", "5"] and dropped[-1] == ("broken_file", f"b.wet.gz, byte {len(b''.join(parts)) - 30} of the compressed file")
    assert split(read(write("c.wet.gz", b"no gzip " * 50_000)))[1] == [("broken_file", "c.wet.gz, byte 0 of the compressed file")]
    assert split(read(write("d.wet", b"no crawl " * 50_000)))[1] == [("broken_record", "d.wet, byte 0")]
    assert read(write("e.wet.gz", b"")) == []


# MediaWiki

def page(number, title, text, ns=0, more=""):
    return (f"  <page>\n    <title>{title}</title>\n    <ns>{ns}</ns>\n    <id>{number}</id>\n{more}    <revision>\n      <id>9{number}</id>\n      <timestamp>2024-01-0{number}T00:00:00Z</timestamp>\n"
            f"      <contributor>\n        <username>A</username>\n        <id>77</id>\n      </contributor>\n      <format>text/x-wiki</format>\n      <text bytes=\"9\" xml:space=\"preserve\">{text}</text>\n"
            "    </revision>\n  </page>\n")


WIKI = """<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.{version}/" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" version="0.{version}" xml:lang="fr">
  <siteinfo>
    <sitename>Wikipédia</sitename>
    <dbname>frwiki</dbname>
    <base>https://fr.wikipedia.org/wiki/Accueil</base>
    <namespaces>
      <namespace key="0" case="first-letter" />
      <namespace key="6" case="first-letter">Fichier</namespace>
      <namespace key="14" case="first-letter">Catégorie</namespace>
    </namespaces>
  </siteinfo>
"""
PAGES = [page(1, "Pluie &amp; vent", "La '''pluie''' est de l'[[eau|eau]].{{note|&lt;b&gt;}}&lt;ref&gt;x&lt;/ref&gt;\n[[Fichier:A.jpg|vue]]\n[[Catégorie:Eau]]"), page(2, "Neige", "#REDIRECTION [[Pluie]]", more='    <redirect title="Pluie" />\n'),
         page(3, "Discussion:Eau", "bonjour", ns=1), page(4, "Vide", "{{ébauche}}"), page(5, "Grêle?", "La grêle.")]


@pytest.mark.parametrize("version, pack, name", [(10, bytes, "a.xml"), (11, bz2.compress, "a.xml.bz2"), (11, lambda x: bz2.compress(x[:900]) + bz2.compress(x[900:]), "a.xml.bz2")])
def test_a_wiki_export_gives_its_articles(version, pack, name):
    documents = read(write(name, pack(("\ufeff" + WIKI.format(version=version) + "".join(PAGES) + "</mediawiki>\n").encode())), licence="CC-BY-SA-4.0")
    assert documents[0] == {"id": "frwiki:1", "text": "La pluie est de l'eau.", "lang": "fr", "title": "Pluie & vent", "date": "2024-01-01T00:00:00Z",
                            "url": "https://fr.wikipedia.org/wiki/Pluie_%26_vent", "licence": "CC-BY-SA-4.0", "source": "s"}
    kept, dropped = split(documents)
    assert kept["frwiki:5"] == "La grêle." and documents[-1]["url"].endswith("Gr%C3%AAle%3F")
    assert dropped == [("redirect", f"{name}, page 2 (Neige)"), ("not_article", f"{name}, page 3 (Discussion:Eau)"), ("empty", f"{name}, page 4 (Vide)")]


def test_a_broken_wiki_keeps_the_pages_before_and_a_document_type_is_refused():
    text = WIKI.format(version=11) + PAGES[0] + PAGES[4]
    for rest in ("", "  <page><title>A & B</title>", "</page>"):
        kept, dropped = split(read(write("a.xml", text + rest)))
        assert list(kept) == ["frwiki:1", "frwiki:5"] and len(dropped) == 1 and dropped[0][0] == "broken_file" and dropped[0][1].startswith("a.xml, byte ")
        assert 0 <= int(re.search(r"byte (\d+)", dropped[0][1])[1]) - len(text.encode()) <= len(rest)
    write("a.xml", "<!--" + " " * 5000 + '--><!DOCTYPE lol [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]>\n' + text.replace("grêle", "&b;") + "</mediawiki>")
    (reason, place), = split(read("a.xml", reader="wiki"))[1]
    assert reason == "broken_file" and "DOCTYPE" in place
    assert split(read(write("b.xml", "<feed></feed>")))[1] == [("unknown_format", "b.xml")]
    assert "the first element is <feed>, not <mediawiki>" in split(read("b.xml", reader="wiki"))[1][0][1]
    assert "broken_file" in split(read(write("c.xml", "<mediawiki>" + "<a>" * 30_000)))[1][0]


# Stack Exchange

POSTS = """\ufeff<?xml version="1.0" encoding="utf-8"?>
<posts>
  <row Id="3" PostTypeId="2" ParentId="1" CreationDate="2020-01-03T00:00:00.000" Score="2" Body="&lt;p&gt;Second.&lt;/p&gt;" ContentLicense="CC BY-SA 4.0" />
  <row Id="1" PostTypeId="1" CreationDate="2020-01-01T00:00:00.000" Score="5" Body="&lt;p&gt;Why &amp;amp; how?&lt;/p&gt;&#xA;&#xA;&lt;pre&gt;&lt;code&gt;a &amp;lt; b&#xA;  c&lt;/code&gt;&lt;/pre&gt;" OwnerDisplayName="Ann" Title="Rain &amp; snow" Tags="&lt;water&gt;" ContentLicense="CC BY-SA 3.0" />
  <row Id="4" PostTypeId="2" ParentId="1" Score="-1" Body="&lt;p&gt;Third.&lt;/p&gt;" />
  <row Id="5" PostTypeId="2" ParentId="1" Score="9" Body="&lt;p&gt;First.&lt;/p&gt;" />
  <row Id="6" PostTypeId="2" ParentId="99" Score="1" Body="&lt;p&gt;Lost.&lt;/p&gt;" />
  <row Id="7" PostTypeId="5" Score="1" Body="wiki" />
  <row Id="eight" PostTypeId="1" Score="1" Body="x" Title="x" />
  <row Id="9" PostTypeId="1" Score="1" Title="No body" />
  <row Id="10" PostTypeId="1" Score="0" Body="&lt;p&gt;Alone.&lt;/p&gt;" Title="Two" ContentLicense="CC BY-SA 4.0" />
"""


def test_questions_come_with_their_answers_best_first():
    documents = read(write("Posts.xml", POSTS + "</posts>"), lang="en")
    kept, dropped = split(documents)
    first = next(d for d in documents if d["id"] == "Posts.xml:1")
    assert first == {"id": "Posts.xml:1", "score": 5, "title": "Rain & snow", "licence": "CC BY-SA 3.0", "author": "Ann", "date": "2020-01-01T00:00:00.000", "lang": "en", "source": "s",
                     "text": "Q: Rain & snow\n\nWhy & how?\n\na < b\n  c\n\nA: First.\n\nA: Second.\n\nA: Third."}
    assert kept["Posts.xml:10"] == "Q: Two\n\nAlone." and len(kept) == 2
    assert sorted(dropped) == [("broken_record", "Posts.xml, post 9"), ("broken_record", "Posts.xml, post eight"), ("no_question", "Posts.xml, post 6"), ("not_post", "Posts.xml, post 7")]
    assert POSTS.count("<row") == 9 == sum(t.count("\nA: ") + 1 for t in kept.values()) + len(dropped)


def test_a_cut_dump_keeps_the_questions_before():
    kept, dropped = split(read(write("Posts.xml", POSTS + '  <row Id="11" PostTypeId="1" Bo')))
    assert len(kept) == 2 and dropped[-1][0] == "broken_file" and dropped[-1][1].startswith("Posts.xml, byte ")
    kept, dropped = split(read(write("Posts.xml.gz", gzip.compress((POSTS + "</posts>").encode())[:-20])))
    assert dropped[-1][0] == "broken_file" and dropped[-1][1].endswith("of the compressed file")


# code

MIT = "MIT License\n\nCopyright (c) 2020 A\n\nPermission is hereby granted, free of charge, to any\nperson obtaining a copy of this software"


def test_code_carries_the_licence_it_names_or_the_nearest_one():
    write("src/LICENSE", "                    GNU GENERAL PUBLIC LICENSE\n                       Version 3, 29 June 2007\n")
    write("src/a.py", "\ufeffpass\r\n")
    write("src/b.c", "// SPDX-License-Identifier: GPL-2.0-only WITH Linux-syscall-note */\nint x;")
    write("src/lib/COPYING.md", MIT)
    write("src/lib/deep/c.go", "package c")
    write("src/odd/LICENCE.txt", "Do what you like on Sundays.")
    write("src/odd/d.rs", "fn d() {}")
    write("src/odd/e.rs", b"// caf\xe9")
    kept = {d["id"]: (d.get("lang"), d.get("licence")) for d in read("src", reader="code", licence="own") if "text" in d}
    assert kept == {"a.py": ("python", "GPL-3.0"), "b.c": ("c", "GPL-2.0-only WITH Linux-syscall-note"), "lib/deep/c.go": ("go", "MIT"), "odd/d.rs": ("rust", "own")}
    assert split(read("src", reader="code"))[0]["a.py"] == "pass\n" and split(read("src"))[1] == [("invalid_utf8", "odd/e.rs, byte 6")]
    assert "licence" not in read("src/lib/deep/c.go")[0], "a file given by name is looked at in its own folder only"
    write("LICENSE", MIT)
    sources.nearest_licence.cache_clear()
    assert "licence" not in read("src/odd")[0], "nothing above the source's path counts"


@pytest.mark.parametrize("licence, text", [
    ("Apache-2.0", "                                 Apache License\n                           Version 2.0, January 2004\n"), ("MIT", MIT), ("Unlicense", "This is free and unencumbered software released into the public domain."),
    ("BSD-2-Clause", "Redistribution and use in source and binary forms, with or without\nmodification, are permitted"), ("ISC", "Permission to use, copy, modify, and/or distribute this software for any\npurpose with or without fee is hereby granted, provided that the above"),
    ("BSD-3-Clause", "Redistribution and use in source and binary forms, with\n3. Neither the name of the copyright holder may be used to endorse or promote products derived"),
    ("GPL-2.0", "GNU GENERAL PUBLIC LICENSE\n  Version 2, June 1991"), ("LGPL-2.1", "GNU LESSER GENERAL PUBLIC LICENSE\n Version 2.1, February 1999"), ("LGPL-3.0", "GNU LESSER GENERAL PUBLIC LICENSE\n Version 3, 29 June 2007"),
    ("AGPL-3.0", "GNU AFFERO GENERAL PUBLIC LICENSE\n Version 3, 19 November 2007"), ("MPL-2.0", "Mozilla Public License Version 2.0\n=====")])
def test_licences_are_known_by_their_own_words(licence, text):
    write("p/LICENSE", text)
    write("p/a.py", "pass")
    assert read("p")[0]["licence"] == licence


# arXiv

def tar(path, files, damage=lambda data: data, mode="w"):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as t:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            t.addfile(info, io.BytesIO(data))
    data = damage(out.getvalue())
    return write(path, data) if path else data


ONE = rb"\documentclass{article}\begin{document}Front.\section{One} Text. % no" + b"\n" + rb"\end{document}"
TWO = {"main.tex": b"\\documentclass{article}\n\\newcommand{\\R}{\\mathbb{R}}\n\\begin{document}\n% \\input{old}\n\\input{intro}\\input{intro}\n\\include{parts/more.tex}\n\\input{missing}\n\\end{document}",
       "intro.tex": b"\\section{Intro} On $\\R$.", "old.tex": b"Old.", "parts/more.tex": b"\\section{More} \\input{main}Loops end.", "fig.pdf": b"%PDF", "letter.tex": b"\\documentclass{letter} Dear editor"}
PAPERS = {"1001/1001.0001.gz": gzip.compress(ONE), "1001/1001.0002.gz": gzip.compress(tar(None, TWO)), "1001/1001.0003.pdf": b"%PDF-1.4", "1001/hep-th0001004.gz": gzip.compress(ONE.replace(b"One", b"Two")),
          "1001/1001.0005.gz": b"not gzip", "1001/1001.0006.gz": gzip.compress(b"%!PS-Adobe"), "1001/1001.0007.gz": gzip.compress(ONE.replace(b"Text", b"T\xe9xt")),
          "1001/1001.0008.gz": gzip.compress(ONE.replace(b"\\begin", b"\\usepackage[latin1]{inputenc}\\begin").replace(b"Text", b"T\xe9xt")), "1001/1001.0009.gz": gzip.compress(ONE)[:-20],
          "1001/1001.0010.gz": gzip.compress(tar(None, TWO)[:1000])}


@pytest.mark.parametrize("ending, mode", [("", "w"), (".gz", "w:gz"), (".bz2", "w:bz2")])
def test_papers_are_read_from_bulk_archives(ending, mode, monkeypatch):
    monkeypatch.setattr(dumps, "LARGEST", 100_000)
    big = {"1001/1001.0011.gz": gzip.compress(bytes(200_000)), "1001/1001.0012.gz": os.urandom(200_000)}
    documents = read(tar(f"arXiv_src_1001_001.tar{ending}", PAPERS | big, mode=mode))
    kept, dropped = split(documents)
    assert documents[0] == {"id": "1001.0001", "text": "\\section{One} Text.", "url": "https://arxiv.org/abs/1001.0001", "source": "s"}
    assert kept["1001.0002"] == "\\section{Intro} On $\\mathbb{R}$.\n\\section{More} Loops end." and kept["hep-th/0001004"] == "\\section{Two} Text." and kept["1001.0008"] == "\\section{One} Téxt."
    name = f"arXiv_src_1001_001.tar{ending}, 1001/1001"
    assert dropped[0] == ("no_source", f"{name}.0003.pdf") and dropped[3] == ("invalid_utf8", f"{name}.0007.gz, main.tex, byte {ONE.index(b'Text') + 1}")
    assert [r for r, _ in dropped] == ["no_source", "broken_record", "no_source", "invalid_utf8", "broken_record", "broken_record", "too_large", "too_large"]
    assert len(kept) + len(dropped) == len(PAPERS) + 2 and os.listdir() == [f"arXiv_src_1001_001.tar{ending}"]


def test_a_single_paper_and_damaged_archives():
    documents = read([tar("2302.13971.tar.gz", TWO, mode="w:gz"), tar("mine.tar", {"a/ms.tex": ONE})])
    assert [(d["id"], d.get("url")) for d in documents] == [("2302.13971", "https://arxiv.org/abs/2302.13971"), ("mine.tar", None)] and "Loops end." in documents[0]["text"]

    def header_lost(data):
        at = data.index(b"1001/1001.0003.pdf")
        return data[:at] + b"\xff" * 512 + data[at + 512:]
    for damage in (header_lost, lambda data: data[:data.index(b"1001/1001.0003.pdf")], lambda data: data[:data.index(b"1001/1001.0003.pdf") + 300]):
        kept, dropped = split(read(tar("a.tar", PAPERS, damage)))
        assert list(kept) == ["1001.0001", "1001.0002"] and len(dropped) == 1 and dropped[0][0] == "broken_file" and dropped[0][1].startswith("a.tar, byte ")
    assert split(read(write("b.tar", b"no tar " * 1000)))[1][0][0] == "broken_file"
    assert split(read(tar("c.tar", {"a.jpg": b"x"})))[1] == [("no_source", "c.tar")]
