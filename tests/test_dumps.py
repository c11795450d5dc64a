"""Readers of what is published as one large dump: crawls, wikis, questions, papers."""
import bz2
import gzip
import io
import os
import re
import tarfile

import pytest
from corpora import texts
from test_sources import PACKED, here, read, split, write  # noqa: F401

import config
import prepare
from corpus import dumps, recipe

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


def test_templates_of_which_nothing_is_in_the_text_are_counted():
    text = "{{Infobox lac|a={{b}}}} Le lac de {{unité|12|km|2}}{{ref}}, {{Infobox_lac}}."
    documents = read(write("a.xml", WIKI + page(1, "Lac", text) + page(2, "B", "b") + "</mediawiki>"))
    assert documents[0]["text"] == "Le lac de 12 km2, ." and "lost" not in documents[1]
    assert documents[0]["lost"] == {"infobox lac": 2, "ref": 1}
    for n in range(3):
        pages = [page(i, "T", f"{said} {n} " + text * 9) for i, said in enumerate(texts(5))]
        write(f"wiki/{n}.xml", WIKI + "".join(pages) + "</mediawiki>")
    prepare.prepare(recipe.Corpus("w", [recipe.Source("wiki", "wiki")], recipe.Tokenizer("bpe", 300)))
    assert config.read_json("data/w/report.json")["wiki"]["read"]["lost_templates"] == {
        "infobox lac": 3 * 5 * 9 * 2, "ref": 3 * 5 * 9}
    with open("data/w/DATA_CARD.md", encoding="utf-8") as f:
        assert "most often left nothing: infobox lac (270), ref (135)\n" in f.read()
    with open("data/w/corpus/wiki/00000.jsonl", encoding="utf-8") as f:
        assert "lost" not in f.read()


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
    "1001/1001.0011.gz": gzip.compress(
        ONE.replace(b"Text", b"T\xe9xt").replace(rb"\begin{d", rb"\usepackage[latin1]{inputenc}\begin{d")),
    "1001/1001.0008.gz": gzip.compress(ONE)[:-20], "1001/1001.0009.gz": gzip.compress(tar(None, TWO)[:1000]),
    "1001/1001.0010.gz": gzip.compress(ONE * 100_000)}


def test_papers_are_read_from_bulk_archives():
    name = "arXiv_src_1001_001.tar"
    documents = read(tar(name, PAPERS))
    assert documents[0] == {"id": "1001.0001", "text": "\\section{One} Text.", "source": "s",
                            "url": "https://arxiv.org/abs/1001.0001"}
    kept, dropped = split(documents)
    assert kept["1001.0002"] == "\\section{Intro} On $\\mathbb{R}$.\n\\section{More} Loops end."
    assert kept["hep-th/0001004"] == "\\section{Two} Text." and kept["1001.0011"] == "\\section{One} Téxt."
    assert [reason for reason, _ in dropped] == [
        "no_source", "broken_record", "no_source", "invalid_utf8", "broken_record", "broken_record",
        "too_large"]
    assert dropped[0][1] == f"{name}, 1001/1001.0003.pdf"
    assert dropped[3][1] == f"{name}, 1001/1001.0007.gz, byte {ONE.index(b'Text') + 1}"
    assert len(kept) + len(dropped) == len(PAPERS) and os.listdir() == [name]


@pytest.mark.parametrize("ending", PACKED)
def test_papers_and_archives_may_be_packed_in_any_way(ending):
    papers = {f"1001/1001.000{n}{ending or '.gz'}": (PACKED[ending] if ending else gzip.compress)(data)
              for n, data in enumerate((ONE, tar(None, TWO)))}
    write(f"a.tar{ending}", PACKED[ending](tar(None, papers | {"1001/1001.0009.pdf": b"%PDF"})))
    documents = read(f"a.tar{ending}")
    assert [d["id"] for d in documents] == ["1001.0000", "1001.0001", "1001.0009"]
    assert "Loops end." in documents[1]["text"] and documents[2]["dropped"] == "no_source"
    if ending:
        data = PACKED[ending](ONE * 99)
        write("a.tar", tar(None, {f"1001/1001.0000{ending}": data[:len(data) // 2]}))
        assert split(read("a.tar"))[1][0][0] == "broken_record"


def test_of_a_member_no_more_is_read_than_may_be_kept(monkeypatch):
    monkeypatch.setattr(dumps, "LARGEST", 3000)
    monkeypatch.setattr(dumps, "PAPER", 3000)
    noise = os.urandom(9000).hex().encode()
    big, many = gzip.compress(ONE + noise), {f"{n}.tex": ONE + b" " * 2900 for n in range(9)}
    papers = {"1001/1001.0001.gz": big, "1001/1001.0002.gz": gzip.compress(tar(None, many)),
              "1001/1001.0003.pdf": noise, "1001/1001.0004.gz": gzip.compress(ONE)}
    kept, dropped = split(read(tar("a.tar", papers)))
    assert list(kept) == ["1001.0004"]
    assert [reason for reason, _ in dropped] == ["too_large", "too_large", "no_source"]
    with open("a.tar", "rb") as f:
        sizes = [len(data) for _, data in dumps.members(f, 3000)]
    assert sizes[0] == 3001 and sizes[2] == 0
    assert dropped[0][1] == "a.tar, 1001/1001.0001.gz, above 3,000 bytes"
    assert dropped[1][1] == "a.tar, 1001/1001.0002.gz, above 3,000 bytes of LaTeX"


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
