"""Readers of big published dumps: Common Crawl's WET, MediaWiki exports, Stack Exchange, arXiv's bulk source.

    python prepare.py --input enwiki-latest-pages-articles.xml.bz2 --name wiki

corpus/sources.py calls them and says what they yield. The helpers that both files share come first.
"""
import io
import itertools
import json
import lzma
import os
import re
import sqlite3
import tarfile
import urllib.parse
import zlib
from xml.parsers import expat

from corpus import markup

LARGEST = 1 << 26  # bytes of a record or archive member; the largest real ones are a few MB
BROKEN = (EOFError, OSError, lzma.LZMAError, zlib.error)  # what a damaged compressed file raises
WARC_LANGUAGES = dict(pair.split(":") for pair in (  # ISO 639-3 to BCP 47
    "ara:ar asm:as ben:bn bul:bg cat:ca ces:cs dan:da deu:de ell:el eng:en eus:eu fas:fa fin:fi fra:fr "
    "guj:gu heb:he hin:hi hrv:hr hun:hu ibo:ig ind:id ita:it jpn:ja kan:kn kin:rw kor:ko mal:ml mar:mr "
    "nep:ne nld:nl nor:no ori:or pan:pa pol:pl por:pt ron:ro rus:ru slk:sk slv:sl spa:es srp:sr swa:sw "
    "swe:sv tam:ta tel:te tha:th tur:tr ukr:uk urd:ur vie:vi wol:wo xho:xh yor:yo zho:zh zul:zu").split())
HEADER = 1 << 14  # bytes of a WARC record's header, at most


class Broken(Exception):
    """A file that cannot be read further; the message is where. `reason` is what the loss is counted as."""
    def __init__(self, where, reason="broken_file"):
        super().__init__(where)
        self.reason = reason


def dropped(document_id, reason, place):
    return {"id": document_id, "dropped": reason, "place": place}


def known(**facts):
    """The facts that are not empty. known(lang="fr", url=None) -> {"lang": "fr"}"""
    return {k: v for k, v in facts.items() if v}


def decode(data, at):
    """(text, None) of bytes from place `at` on, or (None, where the first byte that is not UTF-8 stands)."""
    try:
        return data.decode(), None
    except UnicodeDecodeError as e:
        return None, f"byte {at + e.start}"


# ---- Common Crawl ----

def next_record(f, at):
    """(header fields, header, body) of the WARC record at byte `at`; None at the end of the file."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        line = f.readline(HEADER)
        if not head and not line:
            return None
        first = line.startswith(b"WARC/1.")
        if not line or len(head) > HEADER or first == bool(head):  # two records, or none
            raise Broken(f"byte {at}: this is no WARC record")
        head += line
    fields = dict(re.findall(r"^([\w-]+): *(.*?)\r?$", head.decode(errors="replace"), re.M))
    size = fields.get("Content-Length", "")
    if re.fullmatch(r"\d{1,9}", size) and int(size) <= LARGEST:
        body = f.read(int(size) + 4)
        if len(body) == int(size) + 4 and body.endswith(b"\r\n\r\n"):
            return fields, head, body[:-4]
    raise Broken(f"byte {at}: a WARC record is longer or shorter than it says")


def read_wet(f, name, source):
    """Common Crawl's texts: WARC records of type conversion. What follows a broken record is not read."""
    at = 0
    while record := next_record(f, at):
        fields, head, body = record
        if fields.get("WARC-Type") == "conversion":
            key = fields.get("WARC-Record-ID", f"{name}@{at}").strip("<>")
            text, bad = decode(body, at + len(head))
            guess = fields.get("WARC-Identified-Content-Language", "").split(",")[0]
            about = known(url=fields.get("WARC-Target-URI"), date=fields.get("WARC-Date"),
                          lang=source.lang or WARC_LANGUAGES.get(guess))
            yield dropped(key, "invalid_utf8", f"{name}, {bad}") if bad else {"id": key, "text": text} | about
        at += len(head) + len(body) + 4


# ---- XML ----

def elements(f, root):
    """(tag, attributes, text) of each XML element when it ends; of the root already when it begins.
    A document type is refused: entities can be written to explode."""
    parser = expat.ParserCreate()
    stack = []  # the elements that are open: (tag, attributes, texts)
    out = []

    def start(tag, attributes):
        if not stack:
            if tag != root:
                raise Broken(f"byte {parser.CurrentByteIndex}: the first element is <{tag}>, not <{root}>")
            out.append((tag, attributes, ""))
        stack.append((tag, attributes, []))

    def text_of(text):
        stack[-1][2].append(text)

    def end(_):
        tag, attributes, texts = stack.pop()
        out.append((tag, attributes, "".join(texts)))

    def refuse(*_):
        raise Broken(f"byte {parser.CurrentByteIndex}: a document type (DOCTYPE) is not read")

    parser.buffer_text = True
    parser.StartElementHandler = start
    parser.CharacterDataHandler = text_of
    parser.EndElementHandler = end
    parser.StartDoctypeDeclHandler = refuse
    try:
        while data := f.read(1 << 16):
            parser.Parse(data)
            yield from out
            out.clear()
            if len(stack) > 100 or stack and sum(map(len, stack[-1][2])) > LARGEST:
                raise Broken(f"byte {parser.CurrentByteIndex}: an element is too large")
        parser.Parse(b"", True)
    except (expat.ExpatError, ValueError, LookupError) as e:    # the last two: an unknown encoding
        yield from out
        raise Broken(f"byte {parser.CurrentByteIndex}: {e}") from e


def article(page, site, lang, hidden, name):
    """The document of a page of a wiki, or why it is none. `hidden`: names of links that are not text."""
    title, number = page.get("title"), page.get("id")
    text, reason = "", "empty"
    if not title or not number:
        reason = "broken_record"
    elif page.get("ns", "0") != "0":
        reason = "not_article"
    elif "redirect" in page:
        reason = "redirect"
    else:
        text = markup.wikitext(page.get("text", ""), hidden)
    key = f"{site.get('dbname', name)}:{number}"
    if not text:
        return dropped(key, reason, f"{name}, page {number} ({title})")
    url = None
    if "base" in site:
        path = urllib.parse.quote(title.replace(" ", "_"), "/:,()!'*@")
        url = f"{site['base'].rpartition('/')[0]}/{path}"
    return {"id": key, "text": text} | known(lang=lang, title=title, date=page.get("timestamp"), url=url)


def read_wiki(f, name, source):
    """A MediaWiki export (dumps.wikimedia.org, pages-articles): articles only, without redirects."""
    page, site = {}, {}
    hidden, lang = [], None
    for tag, attributes, text in elements(f, "mediawiki"):
        if tag == "mediawiki":
            lang = attributes.get("xml:lang")
        elif tag in ("base", "dbname"):
            site[tag] = text
        elif tag == "namespace" and attributes.get("key") in ("6", "14"):
            hidden.append(text)  # File and Category in the wiki's language
        elif tag == "page":
            yield article(page, site, lang, hidden, name)
            page = {}
        elif tag not in ("id", "title", "ns") or tag not in page:
            page[tag] = text  # the first id is the page's; its revision's and author's follow


# ---- Stack Exchange ----

QUESTION, ANSWER = "1", "2"  # PostTypeId


def put_posts(f, name, posts):
    """Posts.xml into a table; yields what is neither question nor answer."""
    posts.execute("CREATE TABLE post (question INTEGER, answer BOOLEAN, score INTEGER, id INTEGER, "
                  "body TEXT, about TEXT)")
    for tag, a, _ in elements(f, "posts"):
        if tag != "row":
            continue
        key, place = f"{name}:{a.get('Id')}", f"{name}, post {a.get('Id')}"
        kind = a.get("PostTypeId")
        if kind not in (QUESTION, ANSWER):
            yield dropped(key, "not_post", place)
            continue
        about = {"title": a.get("Title"), "licence": a.get("ContentLicense"),
                 "author": a.get("OwnerDisplayName"), "date": a.get("CreationDate")}
        try:
            question = int(a["ParentId" if kind == ANSWER else "Id"])
            score, own = int(a.get("Score", 0)), int(a["Id"])
            row = (question, kind == ANSWER, score, own, a["Body"], json.dumps(about))
            posts.execute("INSERT INTO post VALUES (?, ?, ?, ?, ?, ?)", row)
        except (KeyError, ValueError, OverflowError):
            yield dropped(key, "broken_record", place)


def get_posts(name, posts):
    """Each question with its answers, the best first: the order of LLaMA, section 2.1."""
    order = "question, answer, score DESC, id"
    posts.execute(f"CREATE INDEX of_question ON post ({order})")
    rows = posts.execute(f"SELECT * FROM post ORDER BY {order}")
    for _, group in itertools.groupby(rows, lambda row: row[0]):
        document, text = {}, []
        for _, answer, score, post, body, about in group:
            key, place = f"{name}:{post}", f"{name}, post {post}"
            if answer and not document:
                yield dropped(key, "no_question", place)
            elif document and not answer:
                yield dropped(key, "broken_record", place)
            elif answer:
                text.append(f"A: {markup.html(body)}")
            else:
                about = json.loads(about)
                document = {"id": key, "score": score} | known(**about)
                text.append(f"Q: {about['title'] or ''}\n\n{markup.html(body)}")
        if document:
            yield document | {"text": "\n\n".join(text)}


def read_stackexchange(f, name, source):
    """Posts.xml of a Stack Exchange site, joined in a temporary database on disk as large as the file."""
    posts = sqlite3.connect("")  # sqlite's own temporary file
    broken = None
    try:
        try:
            yield from put_posts(f, name, posts)
        except (Broken, *BROKEN) as e:  # what came before it is kept
            broken = e
        yield from get_posts(name, posts)
    except sqlite3.OperationalError as e:
        raise ValueError(f"joining {name}: {e}; set SQLITE_TMPDIR to a folder with as much space "
                         "as the file takes unpacked") from e
    if broken:
        raise broken


# ---- arXiv ----

ARXIV = re.compile(r"(?:.*/)?(?:(\d{4}\.\d{4,5})|([a-z-]+)(\d{7}))(?:v\d+)?(\.gz|\.pdf|)")
INCLUDE = re.compile(r"\\(?:input|include|subfile)\s*\{\s*([^{}\s]+)\s*\}|\\input\s+([^\s{}\\]+)")
MOST = 200  # files that one text includes


def members(f, largest):
    """(name, bytes) of each plain file of a tar; None for the bytes of one that is larger than `largest`."""
    try:
        with tarfile.open(fileobj=f, mode="r:") as tar:
            for m in tar:
                if m.isreg() and not m.issparse():      # a sparse one holds more than the archive is long
                    yield m.name, tar.extractfile(m).read() if m.size <= largest else None
            f.seek(tar.offset)
            if f.read(512) != bytes(512):               # tarfile takes a damaged header for the end
                raise Broken(f"byte {tar.offset}: neither a file's header nor the end")
    except (tarfile.TarError, ValueError, OverflowError) as e:
        raise Broken(f"byte {f.tell()}: {e}") from e


def included(main, texts):
    """The text of file `main` with what it includes put in its place, each file once."""
    used = {main}

    def put(m):
        file = os.path.normpath(os.path.join(os.path.dirname(main), m[1] or m[2]))
        if file not in texts:
            file += ".tex"
        if file not in texts or file in used or len(used) > MOST:
            return ""
        used.add(file)
        return INCLUDE.sub(put, texts[file])

    return INCLUDE.sub(put, texts[main])


def paper(files, key, place, largest):
    """The document of one paper, from its {name: bytes}: the longest text of a file with \\documentclass."""
    sources = files.values()
    if not any(re.search(rb"\\document(class|style)", data) for data in sources):
        return dropped(key, "no_source", place)
    if sum(map(len, sources)) > largest // 8:
        return dropped(key, "too_large", place)
    latin = any(re.search(rb"\\usepackage\s*\[latin[19]\]\s*\{inputenc\}", data) for data in sources)
    texts = {}
    for file, data in files.items():
        text, bad = decode(data, 0)
        if bad and not latin:
            return dropped(key, "invalid_utf8", f"{place}, {file}, {bad}")
        text = data.decode("latin-1") if bad else text
        texts[os.path.normpath(file)] = markup.uncommented(text.removeprefix("\ufeff").replace("\r\n", "\n"))
    mains = [file for file, text in texts.items() if re.search(r"\\document(class|style)", text)]
    found = [included(file, texts) for file in mains[:20]]
    best = max(found, key=lambda text: ("\\begin{document}" in text, len(text)), default="")
    document = {"id": key, "text": markup.latex(best)}
    if re.fullmatch(r"[\d.]+|[a-z-]+/\d+", key):
        document["url"] = f"https://arxiv.org/abs/{key}"
    return document


def packed_paper(data, key, place, largest):
    """The document of one .gz of arXiv's bulk data: it holds a .tex, or a .tar of several."""
    unzip = zlib.decompressobj(31)
    try:
        data = unzip.decompress(data, largest)
        if not unzip.eof:
            return dropped(key, "too_large" if unzip.unconsumed_tail else "broken_record", place)
        files = {"main.tex": data}
        if data[257:262] == b"ustar":
            inner = members(io.BytesIO(data), largest)
            files = {n: d for n, d in inner if n.endswith(".tex") and d is not None}
        return paper(files, key, place, largest)
    except (Broken, zlib.error) as e:
        return dropped(key, "broken_record", f"{place}, {e}")


def read_arxiv(f, name, source, largest=LARGEST):
    """A .tar of arXiv's bulk data (a .gz for each paper, or a .pdf without source), or of one paper."""
    own = {}  # the .tex files of an archive of one paper
    bulk = False
    for member, data in members(f, largest):
        place = f"{name}, {member}"
        m = ARXIV.fullmatch(member)
        if not m or not m[4]:
            if member.endswith(".tex"):
                own[member] = data
            continue
        bulk = True
        key = m[1] or f"{m[2]}/{m[3]}"
        if data is None:
            yield dropped(key, "too_large", place)
        elif m[4] == ".pdf":
            yield dropped(key, "no_source", place)
        else:
            yield packed_paper(data, key, place, largest)
    if own:
        m = ARXIV.match(name)
        key = (m[1] or f"{m[2]}/{m[3]}") if m else name
        yield dropped(key, "too_large", name) if None in own.values() else paper(own, key, name, largest)
    elif not bulk:
        yield dropped(name, "no_source", name)
