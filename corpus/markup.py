r"""From markup to plain text: MediaWiki, HTML, LaTeX, the frame of a Project Gutenberg book. Pure functions.

    python -c "from corpus import markup; print(markup.wikitext('[[Rain]] is {{small|[[water|wet]]}} \'\'water\'\'.'))"        # Rain is water.

Every function takes time in proportion to the text, whatever the text: no pattern is tried twice on the same characters,
nesting is matched by a stack, and what is not closed is text.
"""
import html as entities
import re

LANGUAGES = dict(p.split(":") for p in "english:en french:fr german:de spanish:es portuguese:pt italian:it dutch:nl finnish:fi swedish:sv danish:da norwegian:no "
                 "polish:pl czech:cs hungarian:hu catalan:ca latin:la greek:el russian:ru chinese:zh japanese:ja esperanto:eo tagalog:tl".split())


def without(text, start, end, put=""):
    """Replace what stands from a match of `start` to the next match of `end` by put(the text between). Without an end there is none
    for a later start either, so the search ends. without("a<b>c<d", "<", ">") -> "ac<d" """
    start, end, out, at = re.compile(start, re.I), re.compile(end, re.I), [], 0
    while (a := start.search(text, at)) and (b := end.search(text, a.end())):
        out += [text[at:a.start()], put and put(text[a.end():b.start()])]
        at = b.end()
    return "".join(out) + text[at:]


def unescape(text):
    """Decode HTML entities. Numbers that no character has are removed first: Python refuses to read very long ones."""
    return entities.unescape(re.sub("&#x?[0-9a-f]{8,};?", "", text, flags=re.I))


HELD = str.maketrans({c: f"&#{ord(c)};" for c in "{}[]|=*:'_<>"})       # what <nowiki> and <math> protect, spelled as entities until the end
BRACES = re.compile(r"\{{2,}|^[ \t:]*\{\||\}{2,}|^[ \t]*\|\}+", re.M)    # a table opens and closes at the start of a line


def templates(text):
    """Remove templates {{ }} and tables {| |}, nested in any way; what is not closed stays. templates("a{{b|{{c}}}}d{{e") -> "ad{{e" """
    spans, stack = [], []                   # [start, braces open]: one for a table; a run of braces may open or close several templates
    for m in BRACES.finditer(text):
        closing = m[0].count("}")
        if not closing:
            stack.append([m.start(), m[0].count("{")])
        elif "|" in m[0] and stack and stack[-1][1] == 1:
            closing -= 1
            spans.append((stack.pop()[0], m.end() - closing))
        while closing > 1 and stack:
            start, left = stack.pop()
            n = min(closing, left)
            if n > 1:                       # else a table that its template did not close
                closing -= n
                spans.append((start + left - n, m.end() - closing))
            if left - n > 1:
                stack.append([start, left - n])
    out, at = [], len(text)
    for a, b in reversed(spans):            # sorted by their ends: from the back, an outer one comes before those it holds
        if b <= at:
            out.append(text[b:at])
            at = a
    return text[:at] + "".join(reversed(out))


def links(text, hidden):
    """[[target|label]] -> label; those into the namespaces `hidden` and to other languages vanish with all they hold."""
    stack, at, deep = [[]], 0, 0            # pieces of each open link; below the fifth level (no page needs three) brackets are only counted
    for m in re.finditer(r"\[\[|\]\]", text):
        stack[-1].append(text[at:m.start()])
        at = m.end()
        if m[0] == "[[":
            deep, stack = (deep, stack + [[]]) if len(stack) < 5 else (deep + 1, stack)
        elif deep:
            deep -= 1
        elif len(stack) > 1:
            target, _, label = "".join(stack.pop()).partition("|")
            space, colon, _ = target.partition(":")
            gone = colon and (space.strip().lower() in hidden or re.fullmatch("[a-z]{2,3}(-[a-z]+)*", space))
            stack[-1].append("" if gone else label or target.removeprefix(":"))
    return "[[".join("".join(pieces) for pieces in stack) + text[at:]


def wikitext(text, hidden=()):
    r"""A page of a MediaWiki as text: one line per paragraph, list item or section title; titles with nothing below them go too.
    `hidden` adds the language's own names of the namespaces File and Category.
    wikitext("'''Rain''' is [[water|wet]]{{a|{{b}}}} &amp; cold.<ref>x</ref>\n== Notes ==\n[[Category:A]]") -> 'Rain is wet & cold.'"""
    hidden = {"file", "image", "media", "category", *(h.lower() for h in hidden)}
    text = without(text, "<!--", r"-->|\Z")
    for tag in "nowiki", "math", "pre", "syntaxhighlight", "source", "code":
        text = without(text, rf"<{tag}(?:\s[^<>]*)?(?<!/)>", rf"</{tag}\s*>", lambda inner: inner.translate(HELD).replace("\n#", "\n&#35;"))
    text = re.sub(r"<ref\b[^<>]*/>", "", text, flags=re.I)
    for tag in "ref", "gallery", "timeline", "imagemap", "score":
        text = without(text, rf"<{tag}\b[^<>]*>", rf"</{tag}\s*>")
    text = links(templates(text), hidden)
    text = re.sub(r"\[(?:[a-z]{3,6}:)?//[^\s\[\]<>]*+ *+([^\[\]\n]*)\]", r"\1", text)       # [url label]
    text = re.sub(r"<br\s*/?>|</p\s*>", "\n", text, flags=re.I)
    text = re.sub(r"</?[a-zA-Z][^<>]*>|'{2,}|__[^\W\d_]+__", "", text)
    text = re.sub(r"\([\s,;]*\)", "", text)                                                # what a template leaves: "Paris () is"
    out, titles = [], []                                                                    # (level, title) still without text
    for line in re.sub(r"[ \t]+", " ", text).split("\n"):
        line = line.strip()
        if len(line) > 2 and line[0] == line[-1] == "=":
            level = len(line) - len(line.lstrip("="))
            while titles and titles[-1][0] >= level:
                titles.pop()
            titles.append((level, line.strip("= ")))
        elif line := line.lstrip("*#:;").strip():
            out += [*(part for _, title in titles for part in ("", title)), line]
            titles = []
        elif not titles:
            out.append("")
    return re.sub("\n{3,}", "\n\n", unescape("\n".join(out))).strip()


BREAKS = {**dict.fromkeys("p pre blockquote h1 h2 h3 h4 h5 h6 ul ol dl table div section article hr".split(), "\n\n"), **dict.fromkeys("br li tr dt dd".split(), "\n")}
CODE = str.maketrans(" \n", "\0\1")         # spaces and line ends of <pre>, kept out of the way


def html(text):
    r"""Tags removed; a paragraph, list item or table row starts a line; <pre> keeps its spaces and line ends.
    html("<p>Use <b>a</b>\nor:</p><pre><code>if a &lt; b:\n  c</code></pre>") -> 'Use a or:\n\nif a < b:\n  c'"""
    text = without(text.replace("\r\n", "\n").replace("\0", "").replace("\1", ""), "<!--", r"-->|\Z")
    for tag in "script", "style":
        text = without(text, rf"<{tag}\b[^<>]*>", rf"</{tag}\s*>")
    out, pre = [], False
    for i, part in enumerate(re.split(r"(</?[a-zA-Z][^<>]*>)", text)):
        if i % 2:                           # a tag
            close, name = re.match(r"<(/?)(\w+)", part.lower()).groups()
            pre = not close if name == "pre" else pre
            out.append(BREAKS.get(name, ""))
        else:
            out.append(unescape(part).translate(CODE) if pre else re.sub(r"\s+", " ", unescape(part)))
    text = re.sub(" ?\n ?", "\n", re.sub(" +", " ", "".join(out)))
    text = re.sub("(?:(?<!\1)\1+)?\n{2,}\1*", "\n\n", text)      # empty lines at the edges of <pre> are not its own
    return text.strip("\n ").translate({0: " ", 1: "\n"}).strip("\n")


NAME = r"\\(?:[a-zA-Z@]+|.)"
USE = re.compile(NAME, re.S)
DEFINE = re.compile(rf"\\(newcommand|renewcommand|providecommand|DeclareRobustCommand|DeclareMathOperator|[egx]?def)(\*?)\s*+(?:\{{\s*+({NAME})\s*+\}}|({NAME}))\s*+"
                    r"(?:\[(\d)\]\s*+)?+(?:\[([^\[\]]{0,200})\]\s*+)?+((?:#\d)*+)\s*+(?=\{)")      # the name, the arguments, the first one's default
STRUCTURE = {f"\\{name}" for name in "part chapter section subsection subsubsection paragraph begin end cite ref label item caption".split()}   # stay what they are


def uncommented(text):
    r"""Without TeX comments. uncommented("50\\% sure % I think") -> '50\\% sure '"""
    text = re.sub(r"^[ \t]*%.*\n?", "", text, flags=re.M)
    return without(re.sub(r"(?<!\\)((?:\\\\)*+)%.*", r"\1", text), r"\\begin\{comment\}", r"\\end\{comment\}\n?")


def braces(text):
    """{place of each "{": place of its "}"}, as far as they match."""
    pairs, stack = {}, []
    for m in re.finditer(r"\\.|[{}]", text, re.S):
        if m[0] == "{":
            stack.append(m.start())
        elif m[0] == "}" and stack:
            pairs[stack.pop()] = m.start()
    return pairs


def definitions(text):
    r"""(text without its macro definitions, {name: (arguments, default of the first, body)}); the last definition of a name counts."""
    pairs, macros, out, at = braces(text), {}, [], 0
    for m in DEFINE.finditer(text):
        kind, star, name, bare, count, default, hashes = m.groups()
        close = pairs.get(m.end())
        if m.start() >= at and close:
            body = text[m.end() + 1:close]
            macros[name or bare] = int(count or len(hashes) // 2), default, f"\\operatorname{star}{{{body}}}" if kind == "DeclareMathOperator" else body
            out.append(text[at:m.start()])
            at = close + 1
    return "".join(out) + text[at:], {k: v for k, v in macros.items() if k not in STRUCTURE and k not in USE.findall(v[2])}


def arguments(text, at, count, default, pairs):
    """([the arguments of the macro whose name ends at `at`], where they end); None when they are not there."""
    args = []
    if default is not None and count:
        close = text.find("]", at, at + 200) if text.startswith("[", at) else -1
        args, at = ([text[at + 1:close]], close + 1) if close > 0 else ([default], at)
    while len(args) < count:
        at = re.compile(r"\s*").match(text, at).end()
        close = pairs.get(at)
        if close is None and text[at:at + 1] in ("", "{", "}"):
            return None, at
        end = close + 1 if close else USE.match(text, at).end() if USE.match(text, at) else at + 1
        args.append(text[at + 1:close] if close else text[at:end])
        at = end
    return args, at


def expand(text, macros):
    """Replace macros by what they stand for, ten levels deep, until the text is ten times as long: definitions can be written to explode."""
    limit = 10 * len(text) + 100_000
    for _ in range(10):
        pairs, out, at, size = braces(text), [], 0, len(text)
        for m in USE.finditer(text):
            if m.start() < at or m[0] not in macros:
                continue
            count, default, body = macros[m[0]]
            args, end = arguments(text, m.end(), count, default, pairs)
            if args is None:
                continue
            size += len(body) + sum(len(a) * body.count(f"#{i}") for i, a in enumerate(args, 1)) - (end - m.start())
            if size > limit:
                return "".join(out) + text[at:]

            def put(p):                     # "\foo#1" with x is "\foo x"
                arg = args[int(p[2]) - 1] if 0 < int(p[2]) <= count else f"#{p[2]}"
                return (p[1] or "") + (" " if p[1] and arg[:1].isalpha() else "") + arg
            out += [text[at:m.start()], re.sub(r"(\\[a-zA-Z@]+)?#(\d)", put, body)]
            at = end
        if not out:
            break
        text = "".join(out) + text[at:]
    return text


def latex(text):
    r"""A paper as LLaMA read it (section 2.1): without comments, without what comes before the first section, without the bibliography,
    the authors' own macros expanded. Without sections (a letter) all of the document's body stays.
    latex("\\newcommand{\\R}[1]{\\mathbb{R}^{#1}} Abstract \\section{One} In $\\R2$. % why") -> '\\section{One} In $\\mathbb{R}^{2}$.'"""
    text = expand(*definitions(uncommented(text)))
    text = without(text, r"\\begin\{thebibliography\}", r"\\end\{thebibliography\}|\Z").partition("\\end{document}")[0]
    text = re.sub(r"\\(?:bibliography|bibliographystyle|printbibliography)(?![a-zA-Z])(?:\[[^\[\]]*\])?(?:\{[^{}]*\})?", "", text)
    first = re.search(r"\\(?:part|chapter|section)\*?\s*[\[{]", text)
    text = text[first.start():] if first else text.partition("\\begin{document}")[2] or text
    return re.sub(r"\n\s*\n", "\n\n", text).strip()


def gutenberg(text):
    r"""(what the header says, the book without header and footer) of a Project Gutenberg text.
    gutenberg("Title: Emma\nAuthor: Jane Austen\nLanguage: English\n*** START OF THE PROJECT GUTENBERG EBOOK EMMA ***\nEmma was handsome.\n"
              "*** END OF THE PROJECT GUTENBERG EBOOK EMMA ***\nlicence") -> ({'title': 'Emma', 'author': 'Jane Austen', 'lang': 'en'}, 'Emma was handsome.')"""
    start = re.search(r"\*\*\* ?START OF TH(?:E|IS) PROJECT GUTENBERG EBOOK[^*]{0,300}\*\*\*", text, re.I)
    head, body = (text[:start.start()], text[start.end():]) if start else ("", text)
    end = re.search(r"\*\*\* ?END OF TH(?:E|IS) PROJECT GUTENBERG EBOOK", body, re.I)
    body = re.sub(r"\n[ \t]*End of (?:the )?Project Gutenberg[^\n]*\s*\Z", "", body[:end.start()] if end else body, flags=re.I)
    said = {k.lower(): " ".join(v.split()) for k, v in re.findall(r"^(Title|Author|Language): *(\S.*(?:\n +\S.*)*)", head, re.M)}
    number = re.search(r"\[e(?:book|text) #(\d+)\]", head, re.I)
    about = {"title": said.get("title"), "author": said.get("author"), "lang": LANGUAGES.get(said.get("language", "").lower()),
             "url": number and f"https://www.gutenberg.org/ebooks/{number[1]}"}
    return {k: v for k, v in about.items() if v}, body.strip()
