"""Readers: files as they are found become documents with their provenance. One small function per format.

    python prepare.py --input notes.txt code/ 'crawl/*.warc.wet.gz' --name mine

A document is {"id", "text", "source"} and, where known, "lang", "licence", "url", "author", "title", "date".
A wiki's page can have "lost", a Counter of its templates of which nothing is in the text.
What cannot be a document becomes {"id", "source", "dropped": reason, "place"}, and the caller counts it. A
reader gets an open file in UTF-8 (corpus/streams.py), its name inside the source, and the Source. Readers of
big dumps: corpus/dumps.py.
"""
import functools
import glob
import io
import json
import os
import re

from corpus import dumps, markup, stories, streams
from corpus.dumps import LARGEST, decode, dropped, known, tried
from corpus.streams import BROKEN, OPEN, Broken

CODE = {  # the thirteen languages of ROOTS
    ".c": "c", ".h": "c", ".cc": "c++", ".cpp": "c++", ".hpp": "c++", ".cs": "c#", ".go": "go",
    ".java": "java", ".js": "javascript", ".lua": "lua", ".php": "php", ".py": "python", ".rb": "ruby",
    ".rs": "rust", ".scala": "scala", ".ts": "typescript"}
FORMAT = {
    **dict.fromkeys(CODE, "code"), ".txt": "text", ".md": "text", ".rst": "text", ".jsonl": "jsonl",
    ".json": "jsonl", ".parquet": "parquet", ".wet": "wet", ".tar": "arxiv", ".xml": "wiki", ".html": "html",
    ".htm": "html"}
TEXT = {"text", "gutenberg", "jsonl", "code", "html", "samples", "stories"}     # readers that heed `encoding`
ARCHIVES = {".7z": "7z x", ".zip": "unzip", ".rar": "unrar x"}      # what is not read, and what unpacks it
SAME_ENDINGS = {"gutenberg": "text", "samples": "text", "stories": "text", "stackexchange": "wiki"}
SKIPPED = {"node_modules", "__pycache__", "site-packages"}
LICENCES = {  # a phrase of each licence; the more special before the more general
    "AGPL-3.0": "gnu affero general public license version 3, 19",
    "GPL-3.0": "gnu general public license version 3, 29",
    "GPL-2.0": "gnu general public license version 2, june",
    "LGPL-3.0": "gnu lesser general public license version 3, 29",
    "LGPL-2.1": "gnu lesser general public license version 2.1, feb",
    "Apache-2.0": "apache license version 2.0",
    "MPL-2.0": "mozilla public license version 2.0",
    "Unlicense": "this is free and unencumbered software",
    "MIT": "permission is hereby granted, free of charge, to any person obtaining a copy",
    "ISC": "for any purpose with or without fee is hereby granted, provided",
    "BSD-4-Clause": "all advertising materials mentioning",
    "BSD-3-Clause": "to endorse or promote products",
    "BSD-2-Clause": "redistribution and use in source and binary"}


# ---- finding files ----

def suffixes(path):
    """Name, ending, compression of a file: suffixes("a/book.txt.gz") -> ("book.txt", ".txt", ".gz")"""
    name = os.path.basename(path)
    stem, packed = os.path.splitext(name)
    if packed not in OPEN:
        stem, packed = name, ""
    return stem, os.path.splitext(stem)[1].lower(), packed


def refuse_archive(file):
    command = ARCHIVES.get(os.path.splitext(file)[1].lower())
    if command and os.path.isfile(file):
        raise ValueError(f"{file} is an archive of a kind that is not read; unpack it: {command} {file}")


def inside(path, wanted):
    """(file, its name inside `path`) of a file, or of a folder's files of format `wanted`."""
    if os.path.isfile(path):
        refuse_archive(path)
        yield path, os.path.basename(path)
    for folder, folders, names in os.walk(path):
        folders[:] = [d for d in folders if d not in SKIPPED and not d.startswith(".")]
        for name in names:
            form = FORMAT.get(suffixes(name)[1])
            if not form or wanted not in ("auto", form) or name.startswith(".") or name.endswith(".json"):
                continue  # a bare .json is more often settings
            file = os.path.join(folder, name)
            if os.path.isfile(file):  # no link to nowhere
                yield file, os.path.relpath(file, path)


def found(source):
    """[(file, its name inside the source, bytes)] of source.path (files, folders, globs), sorted by name."""
    wanted = SAME_ENDINGS.get(source.reader, source.reader)
    files = {}  # by absolute path: a file that two paths name counts once
    for path in [source.path] if isinstance(source.path, str) else source.path:
        here = {}
        for p in [path] if os.path.exists(path) else sorted(glob.glob(path, recursive=True)):
            here |= {os.path.abspath(file): (file, name) for file, name in inside(p, wanted)}
        if not here:
            for file in glob.iglob(f"{glob.escape(path)}/**", recursive=True):
                refuse_archive(file)
            raise ValueError(f"there is no {path}, or no file in it for the reader {source.reader}")
        files = here | files
    if len({name for _, name in files.values()}) < len(files):  # folders tell equal names apart
        common = os.path.commonpath([os.path.dirname(p) for p in files])
        files = {p: (file, os.path.relpath(p, common)) for p, (file, _) in files.items()}
    listed = [(file, os.fsencode(name).decode(errors="backslashreplace"), os.path.getsize(file))
              for file, name in files.values()]
    return sorted(listed, key=lambda row: row[1])


def size(source):
    """Bytes on disk that read_documents() will go through."""
    return sum(n for _, _, n in found(source))


def named(paths):
    """(name, path) of each path. The name tells the paths apart.

    named(["a/en.txt", "a/fr.txt.gz"]) -> en, fr
    named(["crawl/*.warc.wet.gz", "a/en.txt"]) -> crawl, a-en
    """
    stems = []
    for path in paths:
        stem = os.path.abspath(path)
        if not os.path.isdir(path):
            stem = re.sub(r"(\.warc)?(\.[^./]*){1,2}$", "", stem)  # book.txt.gz -> book
        while stem != "/" and not os.path.basename(stem).strip("*?.-"):
            stem = os.path.dirname(stem)  # all files of a folder: its name
        stems.append(stem)
    common = os.path.commonpath([os.path.dirname(s) for s in stems])
    for path, stem in zip(paths, stems):
        yield re.sub(r"[^\w.-]+", "-", os.path.relpath(stem, common)).strip("-.") or "text", path


# ---- plain text and books ----

def parts(f, split):
    """(byte offset, bytes) of each part that read_text makes a document of."""
    at, part, characters = 0, bytearray(), 0
    while line := f.readline(1 << 20):
        # a longer line is cut between characters: a byte 10xxxxxx goes on with the one before
        while not line.endswith(b"\n") and (more := f.peek(1)[:1]) and more[0] & 0xC0 == 0x80:
            line += f.read(1)
        text = line.decode("utf-8-sig", "replace")
        if characters >= split and not text.strip() or characters >= 4 * split:
            yield at, part
            at, part, characters = at + len(part), bytearray(), 0
        part += line
        characters += len(text)
    if part.strip():
        yield at, part


def piece(data, at):
    return {"text": decode(data, at).strip("\r\n")}


def read_text(f, name, source):
    """Plain text, cut at the first blank line after `split` characters, or at a line end after 4 `split`.
    A line above 1 MiB is several lines."""
    for number, (at, part) in enumerate(parts(f, source.split)):
        yield tried(f"{name}#{number}", name, piece, part, at)


def whole(f, latin=None):
    """The text of a file that is read at once."""
    raw = f.read(LARGEST + 1)
    if len(raw) > LARGEST:
        raise Broken(f"above {LARGEST:,} bytes", "too_large")
    return decode(raw, latin=latin and re.search(latin, raw[:4096], re.I)).replace("\r\n", "\n")


def read_gutenberg(f, name, source):
    """A Project Gutenberg book: header and footer off, the facts they name kept, cut as plain text."""
    latin = rb"character set encoding: *iso[- ]?(8859|latin)-?1\b"
    about, body = markup.gutenberg(whole(f, latin))
    for document in read_text(io.BufferedReader(io.BytesIO(body.encode())), name, source):
        yield document | about


def read_samples(f, name, source):
    """A paragraph is a document; the file's name is its language."""
    lang = os.path.basename(name).partition(".")[0]
    for number, part in enumerate(whole(f).split("\n\n")):
        yield {"id": f"{name}#{number}", "text": part.strip("\n"), "lang": lang}


def read_stories(f, name, source):
    """Stories drawn from a grammar (corpus/stories.py); the file's name is their language."""
    grammar = stories.parse(whole(f), name)
    lang = os.path.basename(name).partition(".")[0]
    for number in range(stories.PER_LANGUAGE):
        yield {"id": f"{name}#{number}", "text": stories.draw(grammar, lang, number), "lang": lang}


def read_html(f, name, source):
    """A web page is one document."""
    title, text = markup.page(whole(f))
    yield {"id": name, "text": text} | known(title=title)


# ---- records ----

# fields of a record that a document keeps, and under which name; C4 has a timestamp
KEPT = {k: k for k in ("id", "lang", "licence", "url", "author", "title", "date")}
KEPT |= {"license": "licence", "timestamp": "date", "source": "origin"}


def from_record(record, source):
    """The document of a record of named fields."""
    fields = record if isinstance(record, dict) else {}
    text = fields.get(source.field)
    if not isinstance(text, str):
        has = [k for k, v in fields.items() if isinstance(v, str)]
        raise Broken(f"it has: {', '.join(has) or 'no text fields'}", "no_text")
    document = {"text": text}
    for field, ours in KEPT.items():
        value = fields.get(field)
        if value not in (None, "") and not isinstance(value, (dict, list)):
            document.setdefault(ours, str(value))
    try:
        json.dumps(document, ensure_ascii=False).encode()
    except UnicodeEncodeError as e:  # JSON can spell it: "\ud800"
        raise Broken("half of a surrogate pair", "broken_json") from e
    return document


def from_line(line, source):
    text = decode(line)
    try:
        record = json.loads(text)
    except (ValueError, RecursionError) as e:
        raise Broken(e, "broken_json") from e
    return from_record(record, source)


def read_jsonl(f, name, source):
    """One JSON object per line."""
    number = 0
    while line := f.readline(LARGEST):
        number += 1
        key = f"{name}:{number}"
        if len(line) == LARGEST:
            while line and not line.endswith(b"\n"):
                line = f.readline(LARGEST)
            yield dropped(key, "too_large", f"{key}, {LARGEST:,} bytes or more")
        elif line.strip():
            yield tried(key, key, from_line, line, source)


def read_parquet(f, name, source):
    """A table in Parquet; only the columns that are kept are read."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as e:
        raise ValueError("reading .parquet needs pyarrow: pip install pyarrow") from e
    number = 0
    try:
        # a table is read from its end on
        table = pyarrow.parquet.ParquetFile(f if f.seekable() else io.BytesIO(f.read()))
        names = table.schema_arrow.names
        if source.field not in names:
            raise Broken(f"it has no {source.field}, but {', '.join(names)}", "no_text")
        for batch in table.iter_batches(256, columns=[c for c in names if c in {*KEPT, source.field}]):
            for record in batch.to_pylist():
                number += 1
                key = f"{name}:{number}"
                yield tried(key, key, from_record, record, source)
    except (pyarrow.ArrowException, UnicodeDecodeError) as e:
        raise Broken(f"rows from {number + 1} on: {e}") from e


# ---- source code ----

@functools.lru_cache(1 << 12)
def nearest_licence(folder, levels):
    """Licence of the nearest LICENSE, LICENCE or COPYING in `folder` or `levels` - 1 folders above it."""
    for name in sorted(os.listdir(folder)):
        file = os.path.join(folder, name)
        called = re.match("(licen[cs]e|copying)(?![a-z])", name.lower())
        if called and suffixes(name)[1] not in CODE and os.path.isfile(file):
            with open(file, "rb") as f:
                text = " ".join(f.read(1 << 12).decode(errors="replace").lower().split())
            return next((licence for licence, phrase in LICENCES.items() if phrase in text), None)
    return nearest_licence(os.path.dirname(folder), levels - 1) if levels > 1 else None


def read_code(f, name, source):
    """A source file is one document. Its first lines name its licence (SPDX), or the nearest LICENSE does."""
    text = whole(f)
    spdx = re.search(r"SPDX-License-Identifier:[ \t]*([\w.+-]+(?: +(?:OR|AND|WITH) +[\w.+-]+)*)", text[:4096])
    licence, path = spdx and spdx[1], getattr(f, "name", None)      # an opened .bz2 or .xz file has no name
    if not spdx and path:
        licence = nearest_licence(os.path.dirname(os.path.abspath(path)), name.count("/") + 1)
    yield {"id": name, "text": text} | known(lang=CODE.get(suffixes(name)[1]), licence=licence)


# ---- all of them ----

READERS = {
    "text": read_text, "gutenberg": read_gutenberg, "jsonl": read_jsonl, "parquet": read_parquet,
    "wet": dumps.read_wet, "wiki": dumps.read_wiki, "stackexchange": dumps.read_stackexchange,
    "code": read_code, "html": read_html, "arxiv": dumps.read_arxiv, "samples": read_samples,
    "stories": read_stories}


def kind_of(f, reader):
    """The reader of an open file for which its ending says `reader`: text and XML are of two kinds each."""
    head = f.peek(4096)[:4096] if reader in ("text", "wiki") else b""
    if re.search(rb"START OF TH(E|IS) PROJECT GUTENBERG EBOOK", head, re.I):
        return "gutenberg"
    if reader != "wiki" or b"<mediawiki" in head:
        return reader
    if b"<posts" in head:
        return "stackexchange"
    raise Broken("XML of another kind", "unknown_format")


def explained(document, encoding):
    """A document. If it is dropped since it is not in `encoding`, its place says how to name another. None is
    the encoding of formats that have one only."""
    if document.get("dropped") != "invalid_utf8" or not encoding:
        return document
    if encoding == "utf-8":
        return document | {"place": f"{document['place']}: not UTF-8; name its encoding, as in "
                                    "--encoding windows-1251 or utf-16-le"}
    return document | {"dropped": "invalid_encoding",
                       "place": f"{document['place']} of its text as UTF-8: it is not in {encoding} there"}


def read_file(raw, name, source):
    """The documents of one open file; what breaks the file ends it."""
    _, ending, packed = suffixes(raw.name)
    reader = source.reader
    if reader == "auto":
        reader = FORMAT.get(ending, "text")
    encoding = "utf-8" if reader in TEXT else None
    try:
        f = OPEN[packed](raw) if packed else raw
        if encoding:
            f, encoding = streams.as_utf8(f, source.encoding, reader == "html")
        if source.reader == "auto":
            reader = kind_of(f, reader)
        for document in READERS[reader](f, name, source):
            yield explained(document, encoding)
    except Broken as e:
        yield explained(dropped(name, e.reason or "broken_file", f"{name}, {e}"), encoding)
    except BROKEN as e:
        if getattr(e, "errno", None):  # the disk's fault, not the file's
            raise
        yield dropped(name, "broken_file", f"{name}, byte {raw.tell()} of the compressed file")


def read_documents(source, files=None, progress=None):
    """Yield the documents of `files`, a list as found() gives, or of all of them.
    progress(n) is called with the bytes gone through since its last call."""
    if source.reader not in ("auto", *READERS):
        raise ValueError(f"source {source.name}: unknown reader {source.reader!r}; use auto or one of "
                         f"{', '.join(READERS)}")
    about = known(lang=source.lang, licence=source.licence)
    for file, name, size in found(source) if files is None else files:
        with open(file, "rb") as raw:
            done = 0
            for document in read_file(raw, name, source):
                if "dropped" not in document:
                    document = about | document | {"text": document["text"].replace("\r\n", "\n")}
                yield document | {"source": source.name}
                if progress:
                    progress(raw.tell() - done)
                    done = raw.tell()
            if progress:
                progress(size - done)
