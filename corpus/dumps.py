"""Readers of big published dumps: Common Crawl's WET, MediaWiki exports, Stack Exchange, arXiv's bulk source.

    python prepare.py --input enwiki-latest-pages-articles.xml.bz2 --name wiki

corpus/sources.py says what they yield. What cannot be a document raises Broken; tried() notes the loss.
"""
import io
import itertools
import json
import os
import re
import sqlite3
import tarfile
import urllib.parse
from collections import Counter
from xml.etree import ElementTree

from corpus import markup
from corpus.streams import BROKEN, OPEN, Broken

LARGEST = 1 << 26  # bytes of a record; the largest real ones are a few MB
PAPER = 1 << 23  # bytes of a paper's LaTeX
WARC_LANGUAGES = dict(pair.split(":") for pair in (  # ISO 639-3 to BCP 47
    "ara:ar asm:as ben:bn bul:bg cat:ca ces:cs dan:da deu:de ell:el eng:en eus:eu fas:fa fin:fi fra:fr "
    "guj:gu heb:he hin:hi hrv:hr hun:hu ibo:ig ind:id ita:it jpn:ja kan:kn kin:rw kor:ko mal:ml mar:mr "
    "nep:ne nld:nl nor:no ori:or pan:pa pol:pl por:pt ron:ro rus:ru slk:sk slv:sl spa:es srp:sr swa:sw "
    "swe:sv tam:ta tel:te tha:th tur:tr ukr:uk urd:ur vie:vi wol:wo xho:xh yor:yo zho:zh zul:zu").split())


def dropped(document_id, reason, place):
    return {"id": document_id, "dropped": reason, "place": place}


def tried(key, place, make, *given):
    """The document `key` with what make(*given) says of it; if that cannot be read, why it is dropped."""
    try:
        return {"id": key} | make(*given)
    except (Broken, ValueError) as e:           # ValueError: an entity of 5,000 digits, say
        reason = e.reason if isinstance(e, Broken) else None
        return dropped(key, reason or "broken_record", f"{place}, {e}")


def known(**facts):
    """The facts that are not empty. known(lang="fr", url=None) -> {"lang": "fr"}"""
    return {k: v for k, v in facts.items() if v}


def decode(data, at=0, latin=False):
    """The text of bytes from byte `at` of a file on: UTF-8, or Latin-1 if the file says so."""
    try:
        text = data.decode()
    except UnicodeDecodeError as e:
        if latin:
            return data.decode("latin-1")
        raise Broken(f"byte {at + e.start}", "invalid_utf8") from e
    return text if at else text.removeprefix("\ufeff")


# ---- Common Crawl ----

def read_wet(f, name, source):
    """Common Crawl's texts: WARC records of type conversion. What follows a broken record is not read."""
    at = 0
    while head := f.readline(LARGEST):
        line = head
        while line.strip() and len(head) < 1 << 14:
            line = f.readline(LARGEST)
            head += line
        fields = dict(re.findall(r"^([\w-]+): *(.*?)\r?$", head.decode(errors="replace"), re.M))
        size = fields.get("Content-Length", "")
        body = f.read(int(size)) if re.fullmatch(r"\d{1,8}", size) else b""
        if head.rfind(b"WARC/1.") != 0 or f.read(4) != b"\r\n\r\n":
            raise Broken(f"byte {at}: no WARC record of the length that it says")
        if fields.get("WARC-Type") == "conversion":
            key = fields.get("WARC-Record-ID", f"{name}@{at}").strip("<>")
            yield tried(key, name, page_of_crawl, fields, body, at + len(head), source)
        at += len(head) + len(body) + 4


def page_of_crawl(fields, body, at, source):
    guess = fields.get("WARC-Identified-Content-Language", "").split(",")[0]
    return {"text": decode(body, at)} | known(url=fields.get("WARC-Target-URI"), date=fields.get("WARC-Date"),
                                              lang=source.lang or WARC_LANGUAGES.get(guess))


# ---- XML ----

def elements(f, root):
    """(tag, attributes, text) of each XML element when it ends; of the root already when it begins."""
    stack = []  # the elements that are open
    try:
        for event, e in ElementTree.iterparse(f, ("start", "end")):
            tag = e.tag.rpartition("}")[2]
            if event == "end":
                yield tag, e.attrib, e.text or ""
                stack.pop()
                if stack:
                    stack[-1].remove(e)  # what was read need not stay in memory
                continue
            if not stack:
                if tag != root:
                    raise Broken(f"the first element is <{tag}>, not <{root}>")
                yield tag, e.attrib, ""
            stack.append(e)
    except (ElementTree.ParseError, LookupError) as e:       # LookupError: an encoding that nobody knows
        raise Broken(e) from e


def article(page, site, hidden):
    """What a document says of a page of a wiki. `hidden`: names of links that are not text."""
    title = page.get("title", "")
    where = f"page {page.get('id')} ({title})"
    if page.get("ns", "0") != "0":
        raise Broken(where, "not_article")
    if "redirect" in page:
        raise Broken(where, "redirect")
    lost = Counter()
    text = markup.wikitext(page.get("text", ""), hidden, lost)
    if not text:
        raise Broken(where, "empty")
    base = site.get("base", "").rpartition("/")[0]
    path = urllib.parse.quote(title.replace(" ", "_"), "/:,()!'*@")
    return {"text": text} | known(lang=site["lang"], title=title, date=page.get("timestamp"),
                                  url=base and f"{base}/{path}", lost=lost)


def read_wiki(f, name, source):
    """A MediaWiki export (dumps.wikimedia.org, pages-articles): articles only, without redirects."""
    page, site, hidden = {}, {}, []
    for tag, attributes, text in elements(f, "mediawiki"):
        if tag == "mediawiki":
            site["lang"] = attributes.get("{http://www.w3.org/XML/1998/namespace}lang")
        elif tag in ("base", "dbname"):
            site[tag] = text
        elif tag == "namespace" and attributes.get("key") in ("6", "14"):
            hidden.append(text)  # File and Category in the wiki's language
        elif tag == "page":
            yield tried(f"{site.get('dbname', name)}:{page.get('id')}", name, article, page, site, hidden)
            page = {}
        elif tag not in ("id", "title", "ns") or tag not in page:
            page[tag] = text  # the first id is the page's; its revision's and author's follow


# ---- Stack Exchange ----

QUESTION, ANSWER = "1", "2"  # PostTypeId


def put_post(posts, a):
    """Put a row of Posts.xml, its attributes `a`, into the table."""
    kind = a.get("PostTypeId")
    if kind not in (QUESTION, ANSWER):
        raise Broken("neither question nor answer", "not_post")
    try:
        question = a["ParentId" if kind == ANSWER else "Id"]
        body = a.pop("Body")
        row = int(question), kind, int(a.get("Score", 0)), int(a["Id"]), body, json.dumps(a)
        posts.execute("INSERT INTO post VALUES (?, ?, ?, ?, ?, ?)", row)
    except (KeyError, ValueError, OverflowError, sqlite3.IntegrityError) as e:
        raise Broken(e) from e
    return {}


def join_posts(posts, name):
    """Each question with its answers, the best first: the order of LLaMA, section 2.1."""
    rows = posts.execute("SELECT * FROM post ORDER BY question, kind, score DESC, id")
    for _, group in itertools.groupby(rows, lambda row: row[0]):
        document = {}
        for _, kind, score, post, body, a in group:
            text = markup.html(body)
            if kind == QUESTION:
                a = json.loads(a)
                document = {"id": f"{name}:{post}", "score": score} | known(
                    title=a.get("Title"), licence=a.get("ContentLicense"),
                    author=a.get("OwnerDisplayName"), date=a.get("CreationDate"))
                document["text"] = f"Q: {a.get('Title', '')}\n\n{text}"
            elif document:
                document["text"] += f"\n\nA: {text}"
            else:
                yield dropped(f"{name}:{post}", "no_question", f"{name}, post {post}")
        if document:
            yield document


def read_stackexchange(f, name, source):
    """Posts.xml of a Stack Exchange site, joined in a temporary database on disk."""
    posts = sqlite3.connect("")  # sqlite's own temporary file
    posts.execute("CREATE TABLE post (question, kind, score, id INTEGER PRIMARY KEY, body, a)")
    broken = None
    try:
        try:
            for tag, a, _ in elements(f, "posts"):
                if tag == "row":
                    post = tried(f"{name}:{a.get('Id')}", f"{name}, post {a.get('Id')}", put_post, posts, a)
                    if "dropped" in post:
                        yield post
        except (Broken, *BROKEN) as e:  # what came before it is kept
            broken = e
        yield from join_posts(posts, name)
    except sqlite3.OperationalError as e:
        raise ValueError(f"joining {name}: {e}; set SQLITE_TMPDIR to a folder with more space") from e
    if broken:
        raise broken


# ---- arXiv ----

INCLUDE = re.compile(r"\\(?:input|include|subfile)\s*\{\s*([^{}\s]+)\s*\}|\\input\s+([^\s{}\\]+)")


def paper_id(path):
    """paper_id("1001/hep-th0001004.gz") -> "hep-th/0001004"; None if no paper is called so."""
    m = re.match(r"(?:(\d{4}\.\d{4,5})|([a-z-]+)(\d{7}))(v\d+)?\b", os.path.basename(path))
    return m and (m[1] or f"{m[2]}/{m[3]}")


class Tape:
    """What tarfile needs of a stream that cannot go back, and what it read last."""
    def __init__(self, f):
        self.f, self.at, self.last = f, 0, b""

    def tell(self):
        return self.at

    def read(self, n):
        self.last = self.f.read(n)
        self.at += len(self.last)
        return self.last

    def seek(self, to):
        while self.at < to and self.read(min(to - self.at, 1 << 20)):
            pass


def members(f, most):
    """(name, its first `most` + 1 bytes) of each file of a paper in a tar. A .pdf is not read."""
    tape = Tape(f)
    try:
        with tarfile.open(fileobj=tape, mode="r:") as tar:
            for m in tar:
                if m.isreg() and m.name.endswith((".tex", *OPEN)):
                    yield m.name, tar.extractfile(m).read(most + 1)
                elif m.isreg() and m.name.endswith(".pdf"):
                    yield m.name, b""
            if tape.last != bytes(512):  # tarfile takes a damaged header for the end
                raise Broken(f"byte {tar.offset}: neither a file's header nor the end")
    except (tarfile.TarError, OverflowError, ValueError) as e:
        raise Broken(f"byte {tape.at}: {e}") from e


def included(main, texts):
    """The text of file `main` with what it includes put in its place, each file once."""
    used = {main}

    def put(m):
        file = os.path.normpath(os.path.join(os.path.dirname(main), m[1] or m[2]))
        if file not in texts:
            file += ".tex"
        if file not in texts or file in used:
            return ""
        used.add(file)
        return INCLUDE.sub(put, texts[file])

    return INCLUDE.sub(put, texts[main])


def paper(files, number):
    """The longest text that a file with \\documentclass makes, from the {name: bytes} of one paper."""
    mains = [os.path.normpath(file) for file, data in files.items()
             if re.search(rb"\\document(class|style)", data)]
    if not mains:
        raise Broken("no LaTeX in it", "no_source")
    if sum(map(len, files.values())) > PAPER:
        raise Broken(f"above {PAPER:,} bytes of LaTeX", "too_large")
    latin = any(re.search(rb"\\usepackage\s*\[latin[19]\]\s*\{inputenc\}", data) for data in files.values())
    texts = {os.path.normpath(file): markup.uncommented(decode(data, latin=latin).replace("\r\n", "\n"))
             for file, data in files.items()}
    found = [included(main, texts) for main in mains]
    best = max(found, key=lambda text: ("\\begin{document}" in text, len(text)))
    return {"text": markup.latex(best)} | known(url=number and f"https://arxiv.org/abs/{number}")


def add_latex(files, member, data):
    """Put a .tex file into the {name: bytes} of a paper, unless that is too large already."""
    if member.endswith(".tex") and sum(map(len, files.values())) <= PAPER:
        files[member] = data


def packed_paper(data, packed, number):
    """One paper of arXiv's bulk data, a .gz, say. It holds a .tex, or a .tar of several."""
    if len(data) > LARGEST:
        raise Broken(f"above {LARGEST:,} bytes", "too_large")
    try:
        f = OPEN[packed](io.BytesIO(data))
        if f.peek(512)[257:262] == b"ustar":
            files = {}
            for member, tex in members(f, PAPER):
                add_latex(files, member, tex)
        else:
            files = {"main.tex": f.read(PAPER + 1)}
    except BROKEN as e:
        raise Broken(e) from e
    return paper(files, number)


def read_arxiv(f, name, source):
    """A .tar of arXiv's bulk data (a .gz for each paper, or a .pdf without source), or of one paper."""
    bulk, own = False, {}  # own: the .tex files of an archive of one paper
    for member, data in members(f, LARGEST):
        number, packed = paper_id(member), os.path.splitext(member)[1]
        add_latex(own, member, data)
        if number and packed == ".pdf":
            bulk = True
            yield dropped(number, "no_source", f"{name}, {member}")
        elif number and packed != ".tex":
            bulk = True
            yield tried(number, f"{name}, {member}", packed_paper, data, packed, number)
    if own or not bulk:
        number = paper_id(name)
        yield tried(number or name, name, paper, own, number)
