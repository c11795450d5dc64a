"""Markup to text: examples of the docstrings, and what pages, papers and books hold."""
import inspect
import re
import sys

import pytest

from corpus import markup
from corpus.markup import gutenberg, html, latex, wikitext


@pytest.mark.parametrize("name", ["wikitext", "html", "uncommented", "expanded", "latex", "gutenberg"])
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
