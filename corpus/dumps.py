"""Readers of the big published dumps: Common Crawl's WET, MediaWiki exports, Stack Exchange, arXiv's bulk source. One story per format.

    python prepare.py --input enwiki-latest-pages-articles.xml.bz2 --name wiki

Used by corpus/sources.py. Files are read once, as streams; nothing of an archive is unpacked to disk.
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

LARGEST = 1 << 26       # bytes of a record or archive member; the largest real ones are a few MB
BROKEN = (EOFError, OSError, lzma.LZMAError, zlib.error)        # what a damaged compressed file raises
ARXIV = re.compile(r"(?:.*/)?(?:(\d{4}\.\d{4,5})|([a-z-]+)(\d{7}))(?:v\d+)?(\.gz|\.pdf|)")
INCLUDE = re.compile(r"\\(?:input|include|subfile)\s*\{\s*([^{}\s]+)\s*\}|\\input\s+([^\s{}\\]+)")
WARC_LANGUAGES = dict(p.split(":") for p in "ara:ar asm:as ben:bn bul:bg cat:ca ces:cs dan:da deu:de ell:el eng:en eus:eu fas:fa fin:fi fra:fr guj:gu heb:he hin:hi hrv:hr hun:hu "
                      "ibo:ig ind:id ita:it jpn:ja kan:kn kin:rw kor:ko mal:ml mar:mr nep:ne nld:nl nor:no ori:or pan:pa pol:pl por:pt ron:ro rus:ru slk:sk slv:sl spa:es srp:sr "
                      "swa:sw swe:sv tam:ta tel:te tha:th tur:tr ukr:uk urd:ur vie:vi wol:wo xho:xh yor:yo zho:zh zul:zu".split())     # ISO 639-3 to BCP 47


class Broken(Exception):
    """A file that cannot be read further; the message is where."""


def dropped(document_id, reason, place):
    return {"id": document_id, "dropped": reason, "place": place}


def decode(line, at):
    """(text, None), or (None, where the first byte that is not UTF-8 stands)."""
    try:
        return line.decode(), None
    except UnicodeDecodeError as e:
        return None, f"byte {at + e.start}"


class Members(io.RawIOBase):
    """A gzip file that is read on after a broken member: Common Crawl writes one for each record. `broken` are their places in compressed bytes."""
    def __init__(self, raw):
        self.raw, self.rest, self.unzip, self.lost, self.broken = raw, b"", None, False, []

    def readable(self):
        return True

    def readinto(self, out):
        while True:
            if len(self.rest) < 3:
                self.rest += self.raw.read(1 << 16)
            here = self.raw.tell() - len(self.rest)
            try:
                if not self.unzip:
                    start = self.rest.find(b"\x1f\x8b\x08")
                    if start and self.rest and not self.lost:
                        raise zlib.error("not the start of a member")
                    if len(self.rest) < 3:
                        return 0
                    if start < 0:
                        self.rest = self.rest[-2:]
                        continue
                    self.rest, self.unzip, self.lost = self.rest[start:], zlib.decompressobj(31), False
                data = self.unzip.decompress(self.rest, len(out))
                if not data and not self.rest and not self.unzip.eof:
                    raise zlib.error("ends in the middle")
                self.rest = self.unzip.unused_data if self.unzip.eof else self.unzip.unconsumed_tail
                self.unzip = None if self.unzip.eof else self.unzip
            except zlib.error:
                data, self.rest, self.unzip, self.lost = b"", self.rest[1:], None, True
                self.broken.append(here)
            if data:
                out[:len(data)] = data
                return len(data)


def read_wet(f, name, source):
    """Common Crawl's texts (WARC/1.0, records of type conversion). What is no record, or longer or shorter than it says, is left out up to the next one."""
    rest, at = bytearray(), 0                   # bytes read and not used yet; where they start

    def have(n):
        while len(rest) < n and (more := f.read(max(n - len(rest), 1 << 16))):
            rest.extend(more)
        return len(rest) >= n
    while have(1):
        have(1 << 14)
        end = rest.find(b"\r\n\r\n", 0, 1 << 14) + 4
        head = dict(re.findall(r"^([\w-]+): *(.*?)\r?$", rest[:max(end, 4)].decode(errors="replace"), re.M))
        size = int(head.get("Content-Length", "")) if re.fullmatch(r"\d{1,9}", head.get("Content-Length", "")) else LARGEST + 1
        key, place, stop = head.get("WARC-Record-ID", f"{name}@{at}").strip("<>"), f"{name}, byte {at}", end + size
        whole = rest.startswith(b"WARC/1.") and end > 4 and size <= LARGEST and rest.find(b"\nWARC/1.", 0, end) < 0
        if whole and have(stop + 4) and rest[stop:stop + 4] == b"\r\n\r\n":
            if head.get("WARC-Type") == "conversion":
                text, bad = decode(rest[end:stop], at + end)
                lang = source.lang or WARC_LANGUAGES.get(head.get("WARC-Identified-Content-Language", "").split(",")[0])      # Common Crawl's is a guess
                about = {"url": head.get("WARC-Target-URI"), "date": head.get("WARC-Date"), "lang": lang}
                yield dropped(key, "invalid_utf8", f"{name}, {bad}") if bad else {"id": key, "text": text} | {k: v for k, v in about.items() if v}
            stop += 4
        else:
            yield dropped(key, "broken_record", place)
            while (stop := rest.find(b"\nWARC/1.", 1) + 1) == 0 and have(len(rest) + 1):
                at += max(0, len(rest) - (1 << 17))
                del rest[:-(1 << 17)]
            stop = stop or len(rest)
        del rest[:stop]
        at += stop


def elements(f, root):
    """(tag, attributes, text) of each XML element when it ends; of the root already when it begins. A document type is refused: entities can be written to explode."""
    out, stack, parser = [], [], expat.ParserCreate()

    def start(tag, attributes):
        if not stack and tag != root:
            raise Broken(f"byte {parser.CurrentByteIndex}: the first element is <{tag}>, not <{root}>")
        if not stack:
            out.append((tag, attributes, ""))
        stack.append((tag, attributes, []))

    def refuse(*_):
        raise Broken(f"byte {parser.CurrentByteIndex}: a document type (DOCTYPE) is not read")
    parser.StartElementHandler, parser.StartDoctypeDeclHandler, parser.buffer_text = start, refuse, True
    parser.EndElementHandler = lambda _: out.append((stack[-1][0], stack[-1][1], "".join(stack.pop()[2])))
    parser.CharacterDataHandler = lambda text: stack[-1][2].append(text)
    try:
        while data := f.read(1 << 16):
            parser.Parse(data)
            yield from out
            out.clear()
            if len(stack) > 100 or stack and sum(map(len, stack[-1][2])) > LARGEST:
                raise Broken(f"byte {parser.CurrentByteIndex}: an element is too large")
        parser.Parse(b"", True)
    except (expat.ExpatError, ValueError, LookupError) as e:        # the last two: an encoding that Python does not know
        yield from out
        raise Broken(f"byte {parser.CurrentByteIndex}: {e}") from e


def read_wiki(f, name, source):
    """A MediaWiki export (dumps.wikimedia.org, pages-articles): articles only, without redirects."""
    page, site, hidden, lang = {}, {}, [], None
    for tag, attributes, text in elements(f, "mediawiki"):
        if tag == "mediawiki":
            lang = attributes.get("xml:lang")
        elif tag in ("base", "dbname"):
            site[tag] = text
        elif tag == "namespace" and attributes.get("key") in ("6", "14"):      # File and Category in the wiki's language
            hidden.append(text)
        elif tag != "page":
            if tag not in ("id", "title", "ns") or tag not in page:             # the first id is the page's; its revision's and author's follow
                page[tag] = text
        else:
            title, number = page.get("title"), page.get("id")
            reason = "broken_record" if not title or not number else "not_article" if page.get("ns", "0") != "0" else "redirect" if "redirect" in page else None
            text = "" if reason else markup.wikitext(page.get("text", ""), hidden)
            key = f"{site.get('dbname', name)}:{number}"
            if text:
                url = "base" in site and site["base"].rpartition("/")[0] + "/" + urllib.parse.quote(title.replace(" ", "_"), "/:,()!'*@")
                about = {"lang": lang, "title": title, "date": page.get("timestamp"), "url": url}
                yield {"id": key, "text": text} | {k: v for k, v in about.items() if v}
            else:
                yield dropped(key, reason or "empty", f"{name}, page {number} ({title})")
            page = {}


def put_posts(f, name, posts):
    """Posts.xml into a table; yields what is neither question nor answer."""
    posts.execute("CREATE TABLE post (question INTEGER, answer INTEGER, score INTEGER, id INTEGER, body TEXT, about TEXT)")
    for tag, a, _ in elements(f, "posts"):
        if tag == "row":
            key, place = f"{name}:{a.get('Id')}", f"{name}, post {a.get('Id')}"
            answer = {"1": 0, "2": 1}.get(a.get("PostTypeId"))
            about = {"title": a.get("Title"), "licence": a.get("ContentLicense"), "author": a.get("OwnerDisplayName"), "date": a.get("CreationDate")}
            try:
                if answer is None:
                    yield dropped(key, "not_post", place)
                else:
                    row = int(a["ParentId" if answer else "Id"]), answer, int(a.get("Score", 0)), int(a["Id"]), a["Body"], json.dumps(about)
                    posts.execute("INSERT INTO post VALUES (?, ?, ?, ?, ?, ?)", row)
            except (KeyError, ValueError, OverflowError):
                yield dropped(key, "broken_record", place)


def get_posts(name, posts):
    """Each question with its answers, the best first: the order of LLaMA, section 2.1."""
    posts.execute("CREATE INDEX of_question ON post (question, answer, score DESC, id)")
    for _, group in itertools.groupby(posts.execute("SELECT * FROM post ORDER BY question, answer, score DESC, id"), lambda row: row[0]):
        document, text = {}, []
        for _, answer, score, post, body, about in group:
            if bool(answer) != bool(document):
                yield dropped(f"{name}:{post}", "no_question" if answer else "broken_record", f"{name}, post {post}")
            elif answer:
                text.append(f"A: {markup.html(body)}")
            else:
                about = json.loads(about)
                document = {"id": f"{name}:{post}", "score": score} | {k: v for k, v in about.items() if v}
                text.append(f"Q: {about['title'] or ''}\n\n{markup.html(body)}")
        if document:
            yield document | {"text": "\n\n".join(text)}


def read_stackexchange(f, name, source):
    """Posts.xml of a Stack Exchange site, joined in a temporary database on disk, about as large as the file."""
    posts, broken = sqlite3.connect(""), None       # "": sqlite's own temporary file
    try:
        try:
            yield from put_posts(f, name, posts)
        except (Broken, *BROKEN) as e:              # what came before it is kept
            broken = e
        yield from get_posts(name, posts)
    except sqlite3.OperationalError as e:
        raise ValueError(f"joining {name}: {e}; set SQLITE_TMPDIR to a folder with as much space as the file takes unpacked") from e
    if broken:
        raise broken


def members(f):
    """(name, bytes) of each plain file of a tar, None for the bytes of one that is too large."""
    try:
        with tarfile.open(fileobj=f, mode="r:") as tar:
            for m in tar:
                if m.isreg() and not m.issparse():      # a sparse one holds more than the archive is long
                    yield m.name, tar.extractfile(m).read() if m.size <= LARGEST else None
            f.seek(tar.offset)
            if f.read(512) != bytes(512):               # tarfile takes a damaged header for the end
                raise Broken(f"byte {tar.offset}: neither a file's header nor the end")
    except (tarfile.TarError, ValueError, OverflowError) as e:
        raise Broken(f"byte {f.tell()}: {e}") from e


def paper(files, key, place):
    """The document of one paper, from its {name: bytes}: the file with \\documentclass, with what it includes put in its place, once."""
    texts, latin = {}, any(re.search(rb"\\usepackage\s*\[latin[19]\]\s*\{inputenc\}", data) for data in files.values())
    if not any(re.search(rb"\\document(class|style)", data) for data in files.values()):
        return dropped(key, "no_source", place)
    if sum(map(len, files.values())) > LARGEST // 8:
        return dropped(key, "too_large", place)
    for n, data in files.items():
        text, bad = decode(data, 0)
        if bad and not latin:
            return dropped(key, "invalid_utf8", f"{place}, {n}, {bad}")
        texts[os.path.normpath(n)] = markup.uncommented((data.decode("latin-1") if bad else text).removeprefix("\ufeff").replace("\r\n", "\n"))

    def whole(main):
        used = {main}

        def put(m):
            n = os.path.normpath(os.path.join(os.path.dirname(main), m[1] or m[2]))
            n = n if n in texts else f"{n}.tex"
            if n not in texts or n in used or len(used) > 200:
                return ""
            used.add(n)
            return INCLUDE.sub(put, texts[n])
        return INCLUDE.sub(put, texts[main])
    mains = [whole(n) for n, text in texts.items() if re.search(r"\\document(class|style)", text)][:20]
    text = markup.latex(max(mains, key=lambda t: ("\\begin{document}" in t, len(t)), default=""))
    url = f"https://arxiv.org/abs/{key}" if re.fullmatch(r"[\d.]+|[a-z-]+/\d+", key) else None
    return {"id": key, "text": text} | ({"url": url} if url else {})


def read_arxiv(f, name, source):
    """A .tar of arXiv's bulk data (one .gz for each paper, holding a .tex or a .tar of several, or a .pdf without source), or of a single paper."""
    own, seen = {}, False
    for member, data in members(f):
        m, place = ARXIV.fullmatch(member), f"{name}, {member}"
        if not m or not m[4]:
            if member.endswith(".tex"):
                own[member] = data
            continue
        seen = True
        key = m[1] or f"{m[2]}/{m[3]}"
        if m[4] == ".pdf" or data is None:
            yield dropped(key, "too_large" if data is None else "no_source", place)
            continue
        unzip = zlib.decompressobj(31)
        try:
            data = unzip.decompress(data, LARGEST)
            if not unzip.eof:
                yield dropped(key, "too_large" if unzip.unconsumed_tail else "broken_record", place)
            elif data[257:262] == b"ustar":
                yield paper({n: d for n, d in members(io.BytesIO(data)) if n.endswith(".tex") and d is not None}, key, place)
            else:
                yield paper({"main.tex": data}, key, place)
        except (Broken, zlib.error) as e:
            yield dropped(key, "broken_record", f"{place}, {e}")
    if own:
        m = ARXIV.match(name)
        key = (m[1] or f"{m[2]}/{m[3]}") if m else name
        yield paper(own, key, name) if None not in own.values() else dropped(key, "too_large", name)
    elif not seen:
        yield dropped(name, "no_source", name)
