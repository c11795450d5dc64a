"""Markup to text: examples of the docstrings, and what pages, papers and books hold."""
import collections
import inspect
import re
import sys
import time

import pytest

from corpus import markup
from corpus.markup import gutenberg, html, latex, wikitext


@pytest.mark.parametrize("name", "wikitext page html uncommented expanded latex gutenberg".split())
def test_the_example_of_each_docstring_is_true(name):
    if name == "wikitext":
        pytest.importorskip("mwparserfromhell")
    doc = inspect.getdoc(getattr(markup, name))
    call, result = re.search(rf"(\b{name}\(.*\))\s-> (.*)\Z", doc, re.S).groups()
    assert eval(call, vars(markup)) == eval(result), doc


PAGE = """{{Infobox city
| name = Lyon
| map = {{map|{{coord|1|2}}}}
}}
'''Lyon''' ({{IPA|fr|x}}; ) is a [[city (place)|city]] in [[France]].<!-- hidden --> It has [[bridge]]s.<ref
name="a">Some {{cite|b}}</ref><ref name=b/>
[[File:A.jpg|thumb|left|A [[river]] at [[dusk|night]].]]
{| class="wikitable"
! a !! b
|-
| {{yes}} ||
{| nested
| x
|}
|}
== History ==
=== Rome ===
* first
*# second &mdash; ''with'' <b>tags</b>
See [https://example.org/a_b the site], [http://example.org] and <nowiki>{{not a template}}</nowiki>.
:<math>\\frac{{a}}{b_{{c}}}</math> <code>f() # {{x}}</code>
__NOTOC__
== Notes ==
<references/>
=== Empty ===
[[Category:Cities]] [[fr:Lyon]] [[Catégorie:Ville]] [[:Category:Rivers]]
== Last ==
"""


LAKE = ("The lake covers {{convert|12|km2|sqmi}} and lies {{convert|340|m|ft}} above sea level, formed "
        "{{circa|1200}}, has {{formatnum:24000}} visitors and {{nowrap|3 islands}}.")


@pytest.mark.parametrize("text, expected", [
    (LAKE, "The lake covers 12 km2 and lies 340 m above sea level, formed c. 1200, has 24000 visitors and "
           "3 islands."),
    ("{{convert|12|to|15|km|mi|0}}, {{cvt|5|ft|11|in|cm|0}}, {{Convert|25|C}}, {{convert|9|sqmi|1|lk=on}}",
     "12 to 15 km, 5 ft 11 in, 25 °C, 9 sq mi"),
    ("{{đổi|1.200|km}} {{convertir|19,12|km|ft|2}} {{konversi|−3|C}} {{تحويل|٣|كم}} {{Convert|१२|km}}",
     "1.200 km 19,12 km −3 °C ٣ كم १२ km"),
    ("{{unité|12|km|2}}, {{Nombre|24000|habitants}}, {{unidad|3|m}}, {{fmtn|7|pessoas}}, {{unitats|4|m}}",
     "12 km2, 24000 habitants, 3 m, 7 pessoas, 4 m"),
    ("{{lang|fr|{{nowrap|le ''grand'' lac}}}} {{lang-ar|بحيرة}} {{transl|ar|ALA|buḥayra}} {{transl|ar|lac}}",
     "le grand lac بحيرة buḥayra lac"),
    ("{{lc:ABC É}} {{uc:abc é}} {{ucfirst:abc Def}} {{lcfirst:Abc Def}}", "abc é ABC É Abc Def abc Def"),
    ("{{val|1|2|3}}; {{val|1|2|3|e=6|u=m}}; {{val|1|3=2}}", "1 +2 −3; 1 +2 −3×10^6 m; 1"),
    ("{{val|1.5|e=6|u=m}}; {{val|12|0.5|ul=kg}}; {{frac|3|1|2}}; {{frac|1|2}}; {{sfrac|4}}; {{val|3|e= }}",
     "1.5×10^6 m; 12 ± 0.5 kg; 3 1/2; 1/2; 1/4; 3"),
    ("{{As of|2020|5|3}}, {{as of|2020|May}}, {{as of|1999}}, {{as of|2020|alt=now}}",
     "As of 3 May 2020, As of May 2020, As of 1999, now"),
    ("{{s|XIX|e}}, {{1er}} {{date|12|mars|1920}}, {{siglo|XX}}, {{séc|XV}}, {{segle|II}}",
     "XIXe siècle, 1er 12 mars 1920, siglo XX, século XV, segle II"),
    ("孫{{bd|1900年|1月1日|1950年}} {{le|湖|Lake}} {{tsl|en|Lake|湖泊}} {{nihongo|Lake|湖|ko}} {{إنج|Lake}}",
     "孫（1900年1月1日－1950年） 湖 湖泊 Lake (湖, ko) بالإنجليزية: Lake"),
    ("a{{snd}}b{{'s}} {{abbr|km|kilometre}} {{sic|teh}} {{sic}} {{nowrap|1=x=y}} {{US$|12}} {{unknown|3}}",
     "a – b's km teh [sic] x=y US$12"),
    ("He said:{{quote|text=No.}}Then {{circa|10|20}} {{math|{a}<}} {{ill|Lake|fr|Lac}} {{lang}}",
     "He said:\nNo.\nThen c. 10 – c. 20 {a}< Lake"),
])
def test_templates_that_stand_for_words_and_numbers_keep_them(text, expected):
    pytest.importorskip("mwparserfromhell")
    assert wikitext(text) == expected


def test_templates_that_leave_nothing_are_counted_by_name():
    pytest.importorskip("mwparserfromhell")
    lost = collections.Counter()
    text = "{{Infobox_city|a={{nowrap|x}}}}{{ infobox city }}{{DEFAULTSORT:A, B}}{{#if:a|b}}{{lang|fr}}c"
    assert wikitext(text + "{{circa| }}<ref>{{cite}}</ref>", lost=lost) == "c"
    assert lost == {"infobox city": 2, "defaultsort:": 1, "#if:": 1, "lang": 1, "circa": 1}


def test_a_page_of_marks_left_open_is_given_up_at_once_and_a_long_one_of_templates_is_read():
    pytest.importorskip("mwparserfromhell")
    began = time.process_time()
    for part in ("{{a|", "{|\n", "[http://a "):
        assert wikitext("word " + part * 30_000) == ""
    assert time.process_time() - began < 5          # each took minutes
    assert wikitext("{{nowrap|a}} [http://a b] {{" * 20 + "{{nowrap|a}} [[b]] " * 400).count("a b") >= 400


def test_wikitext_keeps_what_a_reader_sees():
    pytest.importorskip("mwparserfromhell")
    assert wikitext(PAGE, ["Catégorie"]) == """Lyon is a city in France. It has bridges.

History

Rome
first
second — with tags
See the site, and {{not a template}}.
\\frac{{a}}{b_{{c}}} f() # {{x}}

Notes

Empty
Category:Rivers"""
    page = "a\n== See also ==\n=== Books ===\n{{list}}\n== Notes ==\nb\n== Sources ==\n=== More ==="
    assert wikitext(page) == "a\n\nNotes\nb", "a title without text goes"
    assert wikitext("a{{b|{{{c|}}}}}d e{{b\n|c=1\n|}}f &amp;lt; http://a.org") == "ad ef &lt; http://a.org"
    assert wikitext("f(x) = {x | x > {y}}, a}}b") == "f(x) = {x | x > {y}}, a}}b"


def test_what_reads_wikis_is_named_where_it_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "mwparserfromhell", None)
    with pytest.raises(ValueError, match="pip install mwparserfromhell"):
        wikitext("a")


SHOWN = {           # what a browser shows
    '<?xml version="1.0"?>\n<!DOCTYPE html PUBLIC "-//W3C//DTD XHTML 1.0//EN" "http://a.b">\n<p>a': "a",
    "<td>1</td><td>2</td><th>3</th>": "1 2 3", "<li>1<li>2<p>3<p>4": "1\n2\n\n3\n\n4",
    """<a title='x > y' href="b>c" data-z='"<p>"'>z</a>""": "z", "<p\nclass='a\n>b'>r</p\n>s": "r\n\ns",
    "a<!-- x > y <b> -- -->b<!-->c<!--->d<!-- e --!>f<!-- to the end": "abcdf",
    "a<script>if (a<b) {'<p>' + '</b>'}</SCRIPT >b<style>p > a {}</style>c": "abc",
    "a<Template><p>q</Template>b<noscript>x</noscript><iframe src=x>y</iframe>c<object>z</object>d": "abcd",
    "a<title/>b<script>c": "ab", "<title>A &lt; B</title>x<svg><title>C</title></svg>": "x",
    "&#150; &#x80; &#146; &eacute; &Eacute &nosuch;": "– € ’ é É &nosuch;",
    "&amp;lt; &copy2 &#0; &#x110000; &": "&lt; ©2 \ufffd \ufffd &", "<textarea>t</textarea>": "t",
    "1<sup>2</sup> a<b>b</b>c<br>d<br/>e<hr>f": "12 abc\nd\ne\n\nf",
    "I <3 you, a < b": "I <3 you, a < b",
    "<header>a</header><main>b<figure>c<figcaption>d</figcaption></figure></main>": "a\n\nb\n\nc\nd",
    "<select><option>a<option>b</select>": "a\nb"}


def test_html_keeps_code_as_it_is_written_and_decodes_entities_once():
    page = """<p>First   line
of <a href="x" title="a > b">a link</a>&nbsp;&amp;lt; &notit;</p><!-- language: py -->
<ul><li>one</li><li>two<br/>three</li></ul>
<pre class="lang-py"><code>def f():

    return a &lt; b


# end
</code></pre>
<p>After.</p><table><tr><td>1</td><td>2</td></tr><tr><th>3</th></tr></table>"""
    code = "def f():\n\n    return a < b\n\n\n# end"
    lines = f"First line of a link &lt; ¬it;\n\none\n\ntwo\nthree\n\n{code}\n\nAfter.\n\n1 2\n\n3"
    assert html(page) == lines
    for text in ("", "a < b and c > d", "cut in &am"):
        assert html(text) == text
    assert markup.page("<title>A &lt;\nB</title>x<svg><title>C</title></svg>") == ("A < B", "x")
    for text, expected in SHOWN.items():
        assert html(text) == expected, text
    assert html("<!DOCTYPE html><![if IE]>a<![CDATA[x]]>b<![z>") == "ab"


@pytest.mark.parametrize("text, expected", [
    (r"\newcommand*{\R}{\mathbb{R}}$\R\Rx$", r"$\mathbb{R}\Rx$"),      # names are whole words
    (r"\newcommand\a{\mathbf{\b}}\def \b {y\}}$\a$", r"$\mathbf{y\}}$"),      # macros in macros
    (r"\def\be{\begin{math}}\def\ee{\end{math}}\be a = b \ee", r"\begin{math} a = b \end{math}"),
    (r"\def\a{1}\def\a{2}\a", "2"),
    (r"\definecolor{a}\renewcommand{\section}{\old}\section{B}", r"\definecolor{a}\section{B}"),
    (r"\DeclareMathOperator{\Tr}{Tr}\def\phi{\varphi\phi}$\Tr\phi$", r"$Tr\phi$"),     # not into itself
    (r"\def\half#1{\frac{#1}{2}}\half{x}", r"\def\half#1{\frac{#1}{2}}\half{x}"),    # with arguments
])
def test_latex_writes_out_what_authors_define(text, expected):
    assert latex("\\section{A}\n" + text) == "\\section{A}\n" + expected


def test_latex_drops_comments_front_matter_and_bibliography():
    paper = r"""\documentclass{article} % class
\newcommand{\R}{\mathbb{R}}
% \section{Old}
\begin{document}
\begin{abstract}We show.\end{abstract}
\section{Introduction}\label{a}
A 50\% share of $\R$ % a comment
and a break\\% another
  % alone
\begin{comment}
\section{Hidden}
\end{comment}
ends.
\bibliographystyle{plain}
\bibliography{refs}
\begin{thebibliography}{9}\bibitem{x} Someone.\end{thebibliography}
\appendix
\section{Proof}
Done.
\end{document}
rest"""
    assert latex(paper) == ("\\section{Introduction}\\label{a}\nA 50\\% share of $\\mathbb{R}$ \n"
                            "and a break\\\\\nends.\n\n\\appendix\n\\section{Proof}\nDone.")
    assert latex(r"\documentclass{revtex}\begin{document}A letter.\end{document}") == "A letter."


def test_gutenberg_texts_lose_their_frame_and_keep_the_facts():
    frame = """\ufeffThe Project Gutenberg EBook of A Long

Title: A Long
       Title
Author: A. Writer
Release Date: May, 1999 [EBook #1777]
Language: French

***START OF THIS PROJECT GUTENBERG EBOOK A LONG TITLE***

Une ligne.

Fin.

End of the Project Gutenberg EBook of A Long Title, by A. Writer

*** END OF THIS PROJECT GUTENBERG EBOOK ***
licence"""
    about, body = gutenberg(frame)
    assert about == {"title": "A Long Title", "author": "A. Writer", "lang": "fr",
                     "url": "https://www.gutenberg.org/ebooks/1777"}
    assert body == "Une ligne.\n\nFin." and gutenberg("no frame\n") == ({}, "no frame")


def test_latex_that_never_closes_is_read_in_linear_time():
    for part in ("{", "\\def\\a{", "\\", "%", "\\def\\a{{{{", "\\def\\a ", "\\bibliography{", "\n "):
        for frame in ("{}", "\\def\\a{}"):     # what is quadratic in the length takes minutes
            assert len(latex(frame.replace("{}", part * (100_000 // len(part))))) <= 100_010


def test_a_page_that_the_library_cannot_read_is_empty(monkeypatch):
    library = pytest.importorskip("mwparserfromhell")

    def parse(*args, **kwargs):
        raise library.parser.ParserError("lost")
    monkeypatch.setattr(library, "parse", parse)
    assert wikitext("a") == ""
