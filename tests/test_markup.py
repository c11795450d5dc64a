"""Markup to text: the examples of the docstrings, cases that papers and pages have, and inputs written to take for ever."""
import inspect
import re

import pytest

from corpus import markup
from corpus.markup import gutenberg, html, latex, wikitext


@pytest.mark.parametrize("name", ["without", "templates", "wikitext", "html", "uncommented", "latex", "gutenberg"])
def test_the_example_of_each_docstring_is_true(name):
    doc = inspect.getdoc(getattr(markup, name))
    call, result = re.search(rf"(\b{name}\(.*\)) -> (.*)\Z", doc, re.S).groups()
    assert eval(call, vars(markup)) == eval(result), doc


def test_wikitext_keeps_what_a_reader_sees():
    page = """{{Infobox city
| name = Lyon
| map = {{map|{{coord|1|2}}}}
}}
'''Lyon''' ({{IPA|fr|x}}; ) is a [[city (place)|city]] in [[France]].<!-- hidden --> It has [[bridge]]s.<ref name="a">Some {{cite|b}}</ref><ref name=b/>
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
:<math>\\frac{{a}}{b_{{c}}}</math>
__NOTOC__
== Notes ==
<references/>
=== Empty ===
[[Category:Cities]] [[fr:Lyon]] [[Catégorie:Ville]] [[:Category:Rivers]]
== Last ==
"""
    assert wikitext(page, ["Catégorie"]) == """Lyon is a city in France. It has bridges.

History

Rome
first
second — with tags
See the site, and {{not a template}}.
\\frac{{a}}{b_{{c}}}

Notes

Empty
Category:Rivers"""
    assert wikitext("a\n== See also ==\n=== Books ===\n{{list}}\n== Notes ==\nb\n== Sources ==\n=== More ===") == "a\n\nNotes\nb"         # a title without text goes


def test_templates_and_tables_close_each_other_as_mediawiki_reads_them():
    assert markup.templates("a{{b|{{{c|}}}}}d") == "ad"                     # a parameter in a template
    assert markup.templates("a{{b\n|c=1\n|}}d") == "ad"                     # "|}}" is no end of a table here
    assert markup.templates("a\n{|\n| x\n|}\nd") == "a\n\nd"
    assert markup.templates("{{a|\n{|\n| x\n|}}}d") == "d"                  # the last line closes both
    assert markup.templates("{{a|\n{|\n| x\n}}d") == "d"                    # a table that is not closed ends with its template
    assert markup.templates("{{{{a}}b") == "{{b" and markup.templates("a}}b") == "a}}b" and markup.templates("f(x) = {x | x > {y}}") == "f(x) = {x | x > {y}}"


def test_html_keeps_code_as_it_is_written_and_decodes_entities_once():
    page = """<p>First   line
of <a href="x">a link</a>&nbsp;&amp;lt;</p>
<ul><li>one</li><li>two<br>three</li></ul>
<pre class="lang-py"><code>def f():

    return a &lt; b


# end
</code></pre>
<p>After.</p><script>alert("<p>no</p>")</script><style>p {}</style><!-- no -->"""
    assert html(page) == "First line of a link &lt;\n\none\n\ntwo\nthree\n\ndef f():\n\n    return a < b\n\n\n# end\n\nAfter."
    assert html("a < b and c > d") == "a < b and c > d" and html("") == "" and html("&#99999999999;x&#xD800;") == "x\ufffd"


def test_latex_expands_what_authors_define():
    def body(text):
        return latex("\\section{A}\n" + text).partition("\n")[2]
    assert body(r"\def\half#1{\frac{#1}{2}}$\half{x}\half3\half\pi$") == r"$\frac{x}{2}\frac{3}{2}\frac{\pi}{2}$"
    assert body(r"\newcommand*{\norm}[2][2]{\|#2\|_{#1}}\norm{x} \norm[1]{y}") == r"\|x\|_{2} \|y\|_{1}"
    assert body(r"\renewcommand\vec[1]{\mathbf{#1}}\newcommand{\vx}{\vec{x}}$\vx + \vxx$") == r"$\mathbf{x} + \vxx$"     # names are whole words
    assert body(r"\DeclareMathOperator*{\argmax}{arg\,max}\argmax_x") == r"\operatorname*{arg\,max}_x"
    assert body(r"\def\be{\begin{equation}}\def\ee{\end{equation}}\be a = b \ee") == r"\begin{equation} a = b \end{equation}"
    assert body(r"\newcommand{\g}[1]{\gamma#1}\g{x}\g1") == r"\gamma x\gamma1"                      # "\gammax" would be another name
    assert body(r"\renewcommand{\section}{\oldsection}\def\x#1.{no}\x a. \definecolor{a}") == r"\def\x#1.{no}\x a. \definecolor{a}"


def test_latex_drops_comments_front_matter_and_bibliography():
    paper = r"""\documentclass{article} % class
\newcommand{\R}{\mathbb{R}}
% \section{Old}
\begin{document}
\title{T}\maketitle
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
    assert latex(paper) == "\\section{Introduction}\\label{a}\nA 50\\% share of $\\mathbb{R}$ \nand a break\\\\\nends.\n\n\\appendix\n\\section{Proof}\nDone."
    assert latex(r"\documentclass{revtex}\begin{document}A letter.\end{document}") == "A letter."


def test_gutenberg_texts_lose_their_frame_and_keep_the_facts():
    frame = ("\ufeffThe Project Gutenberg EBook of A Long\r\n\r\nTitle: A Long\r\n       Title\r\nAuthor: A. Writer\r\nRelease Date: May, 1999 [EBook #1777]\r\nLanguage: French\r\n\r\n"
             "***START OF THIS PROJECT GUTENBERG EBOOK A LONG TITLE***\r\n\r\n\r\nUne ligne.\r\n\r\nFin.\r\n\r\n"
             "End of the Project Gutenberg EBook of A Long Title, by A. Writer\r\n\r\n*** END OF THIS PROJECT GUTENBERG EBOOK ***\r\nlicence").replace("\r\n", "\n")
    about, body = gutenberg(frame)
    assert about == {"title": "A Long Title", "author": "A. Writer", "lang": "fr", "url": "https://www.gutenberg.org/ebooks/1777"} and body == "Une ligne.\n\nFin."
    assert gutenberg("no frame\n") == ({}, "no frame")


SIZE = 1 << 18          # a quarter of a megabyte: what is quadratic in it does not finish


def repeated(part, closing=""):
    n = SIZE // (len(part) + len(closing))
    return part * n + closing * n


@pytest.mark.parametrize("attack, result", [
    (repeated("{{"), repeated("{{")), (repeated("{{", "}}"), ""), (repeated("{{a|", "}}"), ""), (repeated("\n{|"), None), (repeated("\n{|", "\n|}"), ""),
    (repeated("[["), None), (repeated("[[a|", "]]"), None), (repeated("[[File:a|", "]]"), None), (repeated("[//"), None), ("[//" + "a" * SIZE, None),
    (repeated("<!--"), ""), (repeated("<ref>"), ""), (repeated("<ref "), None), (repeated("<nowiki>", "</nowiki>"), None), ("(" + " " * SIZE, "("),
    (repeated("="), None), (repeated("= "), None), ("=" * SIZE + "x", None), ("&#" + "9" * SIZE, ""), (repeated("'"), ""), (repeated("__"), None), (repeated("_"), None)])
def test_hostile_wikitext_is_read_in_linear_time(attack, result):
    text = wikitext(attack)
    assert result is None and len(text) <= SIZE + 8 or text == result


@pytest.mark.parametrize("attack", [repeated("<"), repeated("<p"), repeated("<p>"), repeated("<b> </b>"), repeated("<!--"), repeated("<script>"), repeated("<pre>", "</pre>"),
                                    "<pre>" + "\n" * SIZE, "<pre>" + " " * SIZE + "</pre>", " " * SIZE, repeated("&"), "&#x" + "f" * SIZE, repeated("<p \n")])
def test_hostile_html_is_read_in_linear_time(attack):
    assert len(html(attack)) <= SIZE


@pytest.mark.parametrize("attack", [
    repeated("{"), repeated("{", "}"), repeated("\\def\\a{"), repeated("\\def\\a{", "}"), "\\def\\a" + " " * SIZE, repeated("\\newcommand{\\a}["), "\\" * SIZE, repeated("%"), repeated("\\a["),
    "\\def\\a#1{x}" + repeated("\\a{", "}"), "\\newcommand{\\a}[1][y]{x}" + repeated("\\a["), repeated("\\begin{comment}"), repeated("\\begin{thebibliography}"), repeated("\\bibliography{"),
    "\n" * SIZE, repeated("\n "), repeated("\\section")])
def test_hostile_latex_is_read_in_linear_time(attack):
    assert len(latex(attack)) <= SIZE + 100


def test_a_macro_bomb_stays_below_ten_times_its_size():
    bomb = "".join(f"\\def\\{chr(98 + i)}{{" + f"\\{chr(97 + i)}" * 10 + "}" for i in range(20)) + "\\def\\a{" + "x" * 1000 + "}\\section{A} \\u \\a"
    assert len(latex(bomb)) < 10 * len(bomb) + 200_000
    wide = "\\newcommand{\\w}[1]{" + "#1" * 5000 + "}\\section{A} \\w{" + "y" * 100_000 + "}"
    assert latex(wide).startswith("\\section{A} \\w{yyy")
    assert latex(r"\def\a{\a\a}\section{A}\a") == r"\section{A}\a"          # never expanded: it would not end
    assert len(latex(r"\def\a{\b\b}\def\b{\a\a}\section{A}\a")) < 5000
