r"""From markup to plain text: MediaWiki, HTML, LaTeX, the frame of a Project Gutenberg book.

    python -c "from corpus import markup; print(markup.html('<p>Rain is <b>wet</b> &amp; cold.</p>'))"

prints "Rain is wet & cold." Pages of MediaWiki are read by a library: pip install mwparserfromhell.
"""
import re
from collections import Counter
from html import unescape
from html.parser import HTMLParser
from typing import NamedTuple

from corpus import templates

# ---- MediaWiki ----

REMOVED = {"ref", "references", "gallery", "timeline", "imagemap", "score", "table"}
VERBATIM = {"nowiki", "math", "pre", "syntaxhighlight", "source", "code"}   # markup inside them is text
# What the library leaves. The last one is where a template was: "Paris () is".
TRACES = re.compile(r"</?[a-zA-Z][^<>]*>|'{2,}|__[^\W\d_]+__|\([\s,;]*\)")
HELD = str.maketrans({c: f"&#{ord(c)};" for c in "(_'<"})       # hides verbatim text from TRACES
HEADING = "\1"              # begins the line of a title: HEADING, level as a digit, title
PAIRS = ("{{", "}}"), ("{|", "|}"), ("[", "]")
MOST = 20_000_000           # characters that may be gone through for marks left open: some seconds


class Wiki(NamedTuple):
    """What is known of a page while it is read."""
    hidden: set         # links into these namespaces show nothing
    lost: Counter       # how often a template left nothing, by name


def parsed(text):
    """The library's tree of a page; None of a page that is too broken for it."""
    try:
        import mwparserfromhell
    except ImportError as e:
        raise ValueError("to read pages of a wiki: pip install mwparserfromhell") from e
    for opens, closes in PAIRS:                 # for each mark left open it goes through the rest of the page
        if (text.count(opens) - text.count(closes)) * len(text) > MOST:
            return None
    try:
        return mwparserfromhell.parse(text, skip_style_tags=True)
    except (RecursionError, mwparserfromhell.parser.ParserError):
        return None


def shown(tree, wiki):
    """Yield the pieces that a reader sees, entities not decoded. Comments show nothing."""
    for node in tree.nodes:
        match type(node).__name__:
            case "Text" | "HTMLEntity":
                yield str(node)
            case "Heading":
                yield f"\n{HEADING}{node.level}{''.join(shown(node.title, wiki))}\n"
            case "ExternalLink" if node.title is not None:
                yield from shown(node.title, wiki)
            case "ExternalLink" if not node.brackets:       # an address in the text
                yield str(node)
            case "Wikilink":
                yield from shown_link(node, wiki)
            case "Tag":
                yield from shown_tag(node, wiki)
            case "Template":
                yield shown_template(node, wiki)


def shown_template(node, wiki):
    """{{name|first|key=value}} as corpus/templates.py says, with what templates in its arguments leave."""
    name = " ".join("".join(shown(node.name, wiki)).replace("_", " ").split())
    name, colon, first = name.partition(":")        # {{formatnum:24000}}
    name = name.lower() + colon
    text = ""
    if templates.lines_for(name):
        arguments = {str(p.name).strip(): "".join(shown(p.value, wiki)) for p in node.params}
        text = templates.text_of(name, arguments | ({"1": first} if colon else {}))
    if not text:
        wiki.lost[name[:60]] += 1
    return text


def shown_link(node, wiki):
    """[[target|label]] -> label. Links into the namespaces `hidden` and to other languages show nothing."""
    target = "".join(shown(node.title, wiki))
    space, colon, _ = target.partition(":")
    if colon and (space.strip().lower() in wiki.hidden or re.fullmatch("[a-z]{2,3}(-[a-z]+)*", space)):
        return
    label = "".join(shown(node.text, wiki)) if node.text is not None else ""
    yield label or target.removeprefix(":")


def shown_tag(node, wiki):
    name = str(node.tag).strip().lower()
    if name in ("br", "hr"):
        yield "\n"
    elif name in VERBATIM and not node.self_closing:
        yield str(node.contents).translate(HELD)
    elif name not in REMOVED and not node.self_closing:     # marks of a list are self-closing tags too
        yield from shown(node.contents, wiki)
        yield "\n" if name == "p" else ""


def wikitext(text, hidden=(), lost=None):
    r"""A page of a MediaWiki as text: a line is a paragraph, list item or section title. Titles with nothing
    below go. A broken page is empty. `hidden` adds the language's names of the namespaces File and Category;
    the Counter `lost` gets the templates that left nothing.
    wikitext("'''Rain''' is [[water|wet]]{{a|{{b}}}} &amp; cold.\n== Notes ==") -> 'Rain is wet & cold.'"""
    text = re.sub(r"(<\w+)\n", r"\1 ", text)      # the library knows no "<ref\nname=a>"
    tree = parsed(text)
    if tree is None:
        return ""
    hidden = {"file", "image", "media", "category", *(h.lower() for h in hidden)}
    wiki = Wiki(hidden, Counter() if lost is None else lost)
    text = TRACES.sub("", "".join(shown(tree, wiki)))
    out, below = [], 0                              # below: level of what follows, text 9, the end 0
    for line in reversed(re.sub("[ \t]+", " ", text).split("\n")):
        line = line.strip()
        level = int(line[1]) if line.startswith(HEADING) else 9 if line else below
        if level < below or level == 9 or not line:
            out.append(line)
            below = level
    text = re.sub(rf"{HEADING}\d *(.*)\n*", r"\n\1\n", "\n".join(reversed(out)))
    return re.sub("\n{3,}", "\n\n", unescape(text)).strip()


# ---- HTML ----

BLOCKS = ("p pre blockquote h1 h2 h3 h4 h5 h6 ul ol dl table div section article hr address aside details "
          "dialog fieldset figure footer form header hgroup main nav").split()
LINES = "br li tr dt dd caption figcaption legend option summary".split()
BREAKS = {**dict.fromkeys(BLOCKS, "\n\n"), **dict.fromkeys(LINES, "\n"), "td": " ", "th": " "}
CODE = str.maketrans(" \n", "\0\1")         # spaces and line ends of <pre>, kept out of the way
UNSEEN = {"script", "style", "template", "noscript", "iframe", "object", "title"}     # not in the page's text


class Page(HTMLParser):
    """A page's text in pieces, with line ends where blocks begin and end."""
    def __init__(self):
        super().__init__()
        self.out, self.title, self.pre = [], "", False
        self.unseen = None                          # the element of UNSEEN that is open

    def add_break(self, tag):
        if not self.unseen:
            self.out.append(BREAKS.get(tag, ""))

    def handle_starttag(self, tag, attrs):
        if tag in UNSEEN and not self.unseen:
            self.unseen = tag
        self.pre = self.pre or tag == "pre"
        self.add_break(tag)

    def handle_startendtag(self, tag, attrs):       # <br/> is one tag, not two; <title/> hides nothing
        self.add_break(tag)

    def handle_endtag(self, tag):
        if tag == self.unseen:
            self.unseen = None
        self.pre = self.pre and tag != "pre"
        self.add_break(tag)

    def handle_data(self, data):
        if self.unseen == "title":
            self.title = self.title or data.strip()
        if self.unseen:
            return
        self.out.append(data.translate(CODE) if self.pre else re.sub(r"\s+", " ", data))

    def parse_html_declaration(self, i):        # <!DOCTYPE html>, <![if IE]>: the library fails on some
        return self.rawdata.find(">", i) + 1 or -1

    def parse_comment(self, i, report=True):    # as a browser: <!--> and <!-- a --!> are whole
        end = re.compile("<!--(?:-?>|.*?--!?>)", re.S).match(self.rawdata, i)
        return end.end() if end else -1


def page(text):
    r"""(title, text) of a page of HTML.
    page("<title>Rain</title><p>It is\nwet.") -> ('Rain', 'It is wet.')"""
    parser = Page()
    parser.feed(text.replace("\r\n", "\n"))
    if not parser.rawdata.startswith("<"):      # an unfinished tag: close() takes quadratic time
        parser.handle_data(unescape(parser.rawdata))
    text = re.sub(" ?\n ?", "\n", re.sub(" +", " ", "".join(parser.out)))
    text = re.sub("(?:(?<!\1)\1+)?\n{2,}\1*", "\n\n", text)     # no empty lines at the edges of <pre>
    return " ".join(parser.title.split()), text.strip("\n ").translate({0: " ", 1: "\n"}).strip("\n")


def html(text):
    r"""Without tags. A paragraph, list item or table row starts a line; <pre> keeps its spaces and line ends.
    html("<p>Use <b>a</b>\nor:</p><pre>if a &lt; b:\n  c</pre>") -> 'Use a or:\n\nif a < b:\n  c'"""
    return page(text)[1]


# ---- LaTeX ----

COMMAND = r"\\(?:[a-zA-Z@]+|.)"
INSIDE = r"(?:\\.|[^{}\\])"                         # of braces: \{ is a sign, not a brace
BODY = rf"(?:{INSIDE}|\{{(?:{INSIDE}|\{{(?:{INSIDE}|\{{{INSIDE}*+\}})*+\}})*+\}})*+"    # braces four deep
STRUCTURE = {f"\\{name}" for name in "section begin end cite ref label item bibliography".split()}
DEFINE = re.compile(
    r"\\(?:newcommand\*?|renewcommand\*?|providecommand\*?|DeclareMathOperator\*?|def)\s*+"
    rf"(?:\{{\s*+({COMMAND})\s*+\}}|({COMMAND}))\s*+\{{({BODY})\}}", re.S)
REFERENCES = re.compile(
    r"\\begin\{thebibliography\}.*?(?:\\end\{thebibliography\}|\Z)"
    r"|\\(?:bibliography|bibliographystyle|printbibliography)(?![a-zA-Z])(?:\[[^\[\]]*\])?(?:\{[^{}]*\})?",
    re.S)


def uncommented(text):
    r"""Without TeX comments. uncommented("50\\% sure % I think") -> '50\\% sure '"""
    text = re.sub(r"^[ \t]*%.*\n?", "", text, flags=re.M)
    text = re.sub(r"(?<!\\)((?:\\\\)*+)%.*", r"\1", text)
    return re.sub(r"\\begin\{comment\}.*?\\end\{comment\}\n?", "", text, flags=re.S)


def expanded(text):
    r"""Without definitions of macros, and with what they stand for in their place; those with arguments stay.
    expanded("\\def\\R{\\mathbb{R}} $\\R$") -> ' $\\mathbb{R}$'"""
    macros = {braced or bare: body for braced, bare, body in DEFINE.findall(text)}      # the last one counts
    macros = {name: body for name, body in macros.items()
              if name not in STRUCTURE and name not in re.findall(COMMAND, body)}
    text = DEFINE.sub("", text)
    for _ in range(4):      # macros stand in macros
        text = re.sub(COMMAND, lambda m: macros.get(m[0], m[0]), text, flags=re.S)
    return text


def latex(text):
    r"""A paper as LLaMA read it (section 2.1): no comments, nothing before the first section, no references,
    the authors' macros written out. Of a text without sections (a letter) the whole body stays.
    latex("\\def\\R{\\mathbb{R}} x \\section{One} In $\\R$. % why") -> '\\section{One} In $\\mathbb{R}$.'"""
    text = REFERENCES.sub("", expanded(uncommented(text)))
    text = text.partition("\\end{document}")[0]
    first = re.search(r"\\(?:part|chapter|section)\*?\s*[\[{]", text)
    text = text[first.start():] if first else text.partition("\\begin{document}")[2] or text
    return re.sub(r"\n\s*\n", "\n\n", text).strip()


# ---- Project Gutenberg ----

LANGUAGES = dict(pair.split(":") for pair in (
    "english:en french:fr german:de spanish:es portuguese:pt italian:it dutch:nl finnish:fi swedish:sv "
    "danish:da norwegian:no polish:pl czech:cs hungarian:hu catalan:ca latin:la greek:el russian:ru "
    "chinese:zh japanese:ja esperanto:eo tagalog:tl").split())
START = r"\*\*\* ?START OF TH(?:E|IS) PROJECT GUTENBERG EBOOK[^*]{0,300}\*\*\*"
END = r"\*\*\* ?END OF TH(?:E|IS) PROJECT GUTENBERG EBOOK"


def gutenberg(text):
    r"""(what the header says, the book without header and footer) of a Project Gutenberg text.
    gutenberg("Title: Emma\n*** START OF THE PROJECT GUTENBERG EBOOK EMMA ***\nEmma was handsome.\n"
              "*** END OF THE PROJECT GUTENBERG EBOOK EMMA ***\nlicence")
    -> ({'title': 'Emma'}, 'Emma was handsome.')"""
    start = re.search(START, text, re.I)
    head, body = (text[:start.start()], text[start.end():]) if start else ("", text)
    end = re.search(END, body, re.I)
    body = body[:end.start()] if end else body
    body = re.sub(r"\n[ \t]*End of (?:the )?Project Gutenberg[^\n]*\s*\Z", "", body, flags=re.I)
    fields = re.findall(r"^(Title|Author|Language): *(\S.*(?:\n +\S.*)*)", head, re.M)
    said = {name.lower(): " ".join(value.split()) for name, value in fields}
    number = re.search(r"\[e(?:book|text) #(\d+)\]", head, re.I)
    about = {"title": said.get("title"), "author": said.get("author"),
             "lang": LANGUAGES.get(said.get("language", "").lower()),
             "url": f"https://www.gutenberg.org/ebooks/{number[1]}" if number else None}
    return {k: v for k, v in about.items() if v}, body.strip()
