"""Readers: files as they are found become documents with their provenance. One small function per format.

    python prepare.py --input notes.txt code/ 'crawl/*.warc.wet.gz' --name mine

A document is {"id", "text", "source"} and, where known, "lang", "licence", "url", "author", "title", "date",
"score". What cannot be a document becomes {"id", "source", "dropped": reason, "place"}: the caller counts it,
and bad content stops no reader. A reader gets an open file, its name inside the source, and the Source. Files
are read once, as streams; nothing of an archive is unpacked to disk. Readers of big dumps: corpus/dumps.py.
"""
import bz2
import functools
import glob
import gzip
import io
import json
import lzma
import os
import re

from corpus import dumps, markup, stories
from corpus.dumps import BROKEN, LARGEST, Broken, decode, dropped, known

OPEN = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
CODE = {  # the thirteen languages of ROOTS
    ".c": "c", ".h": "c", ".cc": "c++", ".cpp": "c++", ".hpp": "c++", ".cs": "c#", ".go": "go",
    ".java": "java", ".js": "javascript", ".lua": "lua", ".php": "php", ".py": "python", ".rb": "ruby",
    ".rs": "rust", ".scala": "scala", ".ts": "typescript"}
FORMAT = {
    **dict.fromkeys(CODE, "code"), ".txt": "text", ".md": "text", ".rst": "text", ".jsonl": "jsonl",
    ".json": "jsonl", ".parquet": "parquet", ".wet": "wet", ".tar": "arxiv", ".xml": "wiki"}
SAME_ENDINGS = {"gutenberg": "text", "samples": "text", "stories": "text", "stackexchange": "wiki"}
SKIPPED = {"node_modules", "__pycache__", "site-packages"}
KEPT = {"lang", "licence", "license", "url", "author", "title", "date", "timestamp", "credit", "score"}
LONGEST = 1 << 20  # bytes of a text line read at once: a file without line ends must fit in memory too
LICENCES = {  # a phrase that only this licence has; the more special before the more general
    "AGPL-3.0": "gnu affero general public license version 3, 19",
    "GPL-3.0": "gnu general public license version 3, 29",
    "GPL-2.0": "gnu general public license version 2, june",
    "LGPL-3.0": "gnu lesser general public license version 3, 29",
    "LGPL-2.1": "gnu lesser general public license version 2.1, feb",
    "LGPL-2.0": "gnu library general public license version 2, june",
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


def inside(path, wanted):
    """(file, its name inside `path`) of a file, or of a folder's files of format `wanted`; "auto": any."""
    if os.path.isfile(path):
        yield path, os.path.basename(path)
    for folder, folders, names in os.walk(path):
        folders[:] = sorted(d for d in folders if d not in SKIPPED and not d.startswith("."))
        for name in sorted(names):
            file = os.path.join(folder, name)
            form = FORMAT.get(suffixes(name)[1])
            settings = name.endswith(".json")  # a bare .json is more often settings; a .json.gz is text
            if not form or wanted not in ("auto", form) or name.startswith(".") or settings:
                continue
            if os.path.isfile(file):  # no pipes, no links to nowhere
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
            kind = f"file for the reader {source.reader}"
            if wanted == "auto":
                kind = "text, source code or other file of a known format"
            what = f"no {kind} in" if os.path.isdir(path) else "there is no file, folder or match for"
            raise ValueError(f"{what} {path}")
        files = here | files
    if len({name for _, name in files.values()}) < len(files):  # equal names: their folders tell them apart
        common = os.path.commonpath([os.path.dirname(p) for p in files])
        files = {p: (file, os.path.relpath(p, common)) for p, (file, _) in files.items()}
    listed = []
    for file, name in files.values():
        name = os.fsencode(name).decode(errors="backslashreplace").replace(os.sep, "/")
        listed.append((file, name, os.path.getsize(file)))
    return sorted(listed, key=lambda row: row[1])


def size(source):
    """Bytes on disk that read_documents() will go through."""
    return sum(n for _, _, n in found(source))


def named(paths):
    """Yield (name, path) for each path. The name tells the paths apart, without endings and wildcards.

    named(["a/en.txt", "a/fr.txt.gz"]) -> en, fr
    named(["crawl/*.warc.wet.gz"]) -> crawl
    named(["crawl/*.warc.wet.gz", "a/en.txt"]) -> crawl, a-en
    """
    stems = []
    for path in paths:
        stem = os.path.abspath(path)
        if not os.path.isdir(path):
            for _ in range(2):  # book.txt.gz -> book
                stem = os.path.splitext(stem)[0]
            stem = stem.removesuffix(".warc")
        while stem != "/" and not os.path.basename(stem).strip("*?.-"):
            stem = os.path.dirname(stem)  # all files of a folder: its name
        stems.append(stem)
    common = os.path.commonpath([os.path.dirname(s) for s in stems])
    for path, stem in zip(paths, stems):
        yield re.sub(r"[^\w.-]+", "-", os.path.relpath(stem, common)).strip("-.") or "text", path


# ---- plain text and books ----

def lines(f, longest):
    """(number, byte offset, line) of a binary file. A line above `longest` bytes comes in several parts."""
    number = 1
    at = 0
    while line := f.readline(longest):
        # a part ends between characters: a byte 10xxxxxx goes on with the one before
        while not line.endswith(b"\n") and (more := f.peek(1)[:1]) and more[0] & 0xC0 == 0x80:
            line += f.read(1)
        yield number, at, line
        number += line.endswith(b"\n")
        at += len(line)


def parts(f, split, longest):
    """(text, where its first bad byte stands or None) of each part that read_text makes a document of."""
    part, size, bad = [], 0, None
    for _, at, line in lines(f, longest):
        text, wrong = decode(line, at)
        if at == 0 and text:
            text = text.removeprefix("\ufeff")
        blank = text is not None and not text.strip()
        if size >= split and blank or size >= 4 * split:
            yield "".join(part), bad
            part, size, bad = [], 0, None
        bad = bad or wrong
        part.append(text or "")
        size += len(line if text is None else text)
    if bad or "".join(part).strip():
        yield "".join(part), bad


def read_text(f, name, source, longest=LONGEST):
    """Plain text, cut at the first blank line after `split` characters, or at a line end after 4 `split`."""
    for number, (text, bad) in enumerate(parts(f, source.split, longest)):
        key = f"{name}#{number}"
        if bad:
            yield dropped(key, "invalid_utf8", f"{name}, {bad}")
        else:
            yield {"id": key, "text": text.replace("\r\n", "\n").strip("\n")}


def whole(f, latin=None):
    """The text of a file that is read at once. `latin`: how a file says that it is in Latin-1."""
    raw = f.read(LARGEST + 1)
    if len(raw) > LARGEST:
        raise Broken(f"above {LARGEST:,} bytes", "too_large")
    text, bad = decode(raw, 0)
    if bad and latin and re.search(latin, raw[:4096], re.I):
        text, bad = raw.decode("latin-1"), None
    if bad:
        raise Broken(bad, "invalid_utf8")
    return text.removeprefix("\ufeff").replace("\r\n", "\n")


def read_gutenberg(f, name, source):
    """A Project Gutenberg book: header and footer off, the facts they name kept, cut as plain text."""
    about, body = markup.gutenberg(whole(f, rb"character set encoding: *iso[- ]?(8859|latin)-?1\b"))
    for document in read_text(io.BufferedReader(io.BytesIO(body.encode())), name, source):
        yield document | about


def read_samples(f, name, source):
    """A paragraph is a document; the file's name is its language."""
    lang = os.path.basename(name).partition(".")[0]
    for number, part in enumerate(whole(f).split("\n\n")):
        yield {"id": f"{name}#{number}", "text": part.strip("\n"), "lang": lang}


def read_stories(f, name, source):
    """Stories drawn from a grammar (corpus/stories.py); the file's name is their language."""
    grammar = stories.parse(f.read().decode(), name)
    lang = os.path.basename(name).partition(".")[0]
    for number in range(stories.PER_LANGUAGE):
        yield {"id": f"{name}#{number}", "text": stories.draw(grammar, lang, number), "lang": lang}


# ---- records ----

def from_record(record, key, place, source):
    """The document of a record of named fields, or why it is none."""
    fields = record if isinstance(record, dict) else {}
    if not isinstance(fields.get(source.field), str):
        has = ", ".join(k for k, v in fields.items() if isinstance(v, str))
        return dropped(key, "no_text", f"{place} (it has: {has or 'no text fields'})")
    document = {}
    for k, v in fields.items():
        if k in KEPT and v not in (None, "") and not isinstance(v, (dict, list)):
            number = k == "score" and isinstance(v, (int, float))
            document[k] = v if number else str(v)
    for other, ours in ("license", "licence"), ("timestamp", "date"):  # C4 has a timestamp
        if other in document:
            document.setdefault(ours, document.pop(other))
    if isinstance(fields.get("source"), str):
        document["origin"] = fields["source"]
    own = fields.get("id")
    document["id"] = str(own) if isinstance(own, (str, int)) and own != "" else key
    document["text"] = fields[source.field]
    try:
        "".join(v for v in document.values() if isinstance(v, str)).encode()
    except UnicodeEncodeError:  # JSON can spell it: "\ud800"
        return dropped(key, "invalid_utf8", f"{place}, half of a surrogate pair")
    return document


def read_jsonl(f, name, source, largest=LARGEST):
    """One JSON object per line; the text is in field `source.field`."""
    cut = 0  # number of a line that is too long: its other parts are skipped
    for number, at, line in lines(f, largest):
        key = f"{name}:{number}"
        text, bad = decode(line, at)
        if number == cut or text is not None and not text.strip("\ufeff \t\r\n"):
            continue
        if len(line) >= largest and not line.endswith(b"\n"):
            cut = number
            yield dropped(key, "too_large", key)
        elif bad:
            yield dropped(key, "invalid_utf8", f"{key}, {bad}")
        else:
            try:
                yield from_record(json.loads(text.removeprefix("\ufeff")), key, key, source)
            except (ValueError, RecursionError) as e:
                yield dropped(key, "broken_json", f"{key} ({getattr(e, 'msg', e)})")


def read_parquet(f, name, source):
    """A table in Parquet, in batches of rows; only the columns that are kept are read."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as e:
        raise ValueError("reading .parquet needs pyarrow: pip install pyarrow") from e
    number = 0
    try:
        table = pyarrow.parquet.ParquetFile(f)
        columns = [c for c in table.schema_arrow.names if c in {*KEPT, "id", "source", source.field}]
        if source.field not in columns:
            columns = None  # all: the message names the fields that there are
        for batch in table.iter_batches(256, columns=columns):
            for i in range(len(batch)):
                number += 1
                key = f"{name}:{number}"
                try:
                    yield from_record(batch.slice(i, 1).to_pylist()[0], key, key, source)
                except UnicodeDecodeError as e:
                    yield dropped(key, "invalid_utf8", f"{key}, byte {e.start} of a field")
    except pyarrow.ArrowException as e:
        raise Broken(f"row {number + 1}: {e}") from e


# ---- source code ----

@functools.lru_cache(1 << 12)
def nearest_licence(folder, levels):
    """Licence of the nearest LICENSE, LICENCE or COPYING in `folder` or up to `levels` - 1 folders above it.
    None: there is no such file, or its licence is not known."""
    for name in sorted(os.listdir(folder)):
        file = os.path.join(folder, name)
        called = re.match("(licen[cs]e|copying)(?![a-z])", name.lower())
        if called and suffixes(name)[1] not in CODE and os.path.isfile(file):
            with open(file, "rb") as f:
                text = " ".join(f.read(1 << 12).decode(errors="replace").lower().split())
            return next((licence for licence, phrase in LICENCES.items() if phrase in text), None)
    return nearest_licence(os.path.dirname(folder), levels - 1) if levels > 1 else None


def read_code(f, name, source):
    """A source file is one document. Its licence is the one that its first lines name (SPDX),
    else that of the nearest folder with a licence inside the source's path."""
    text = whole(f)
    licence = None
    spdx = re.search(r"SPDX-License-Identifier:[ \t]*([\w.+-]+(?: +(?:OR|AND|WITH) +[\w.+-]+)*)", text[:4096])
    if spdx:
        licence = spdx[1]
    elif hasattr(f, "name"):  # an opened .bz2 or .xz file has no name
        licence = nearest_licence(os.path.dirname(os.path.abspath(f.name)), name.count("/") + 1)
    yield {"id": name, "text": text} | known(lang=CODE.get(suffixes(name)[1]), licence=licence)


# ---- all of them ----

READERS = {
    "text": read_text, "gutenberg": read_gutenberg, "jsonl": read_jsonl, "parquet": read_parquet,
    "wet": dumps.read_wet, "wiki": dumps.read_wiki, "stackexchange": dumps.read_stackexchange,
    "code": read_code, "arxiv": dumps.read_arxiv, "samples": read_samples, "stories": read_stories}


def reader_of(file, source):
    """The name of a file's reader: source.reader, or by its ending; .xml and .txt by how they begin.
    None: an XML file of another kind."""
    if source.reader != "auto":
        return source.reader
    _, ending, packed = suffixes(file)
    if ending not in (".xml", ".txt"):
        return FORMAT.get(ending, "text")
    try:
        with OPEN.get(packed, open)(file, "rb") as f:
            head = f.read(4096)
    except BROKEN:
        return FORMAT[ending]
    if ending == ".txt":
        book = re.search(rb"START OF TH(E|IS) PROJECT GUTENBERG EBOOK", head, re.I)
        return "gutenberg" if book else "text"
    if b"<mediawiki" in head:
        return "wiki"
    return "stackexchange" if b"<posts" in head else None


def read_file(raw, file, name, source):
    """The documents of one open file; what breaks the file ends it."""
    packed = suffixes(file)[2]
    form = reader_of(file, source)
    if not form:
        yield dropped(name, "unknown_format", name)
        return
    try:
        yield from READERS[form](OPEN[packed](raw) if packed else raw, name, source)
    except Broken as e:
        yield dropped(name, e.reason, f"{name}, {e}")
    except BROKEN as e:
        if getattr(e, "errno", None):  # the disk's fault, not the file's
            raise
        of = " of the compressed file" if packed else ""
        yield dropped(name, "broken_file", f"{name}, byte {raw.tell()}{of}")


def read_documents(source, files=None, progress=None):
    """Yield the documents of `files`, a list as found() gives, or of all of them.
    `progress` is called with the number of bytes gone through since its last call."""
    if source.reader != "auto" and source.reader not in READERS:
        raise ValueError(f"source {source.name}: unknown reader {source.reader!r}; "
                         f"use auto or one of {', '.join(READERS)}")
    about = known(lang=source.lang, licence=source.licence)
    for file, name, *_ in found(source) if files is None else files:
        try:
            raw = open(file, "rb")
        except OSError as e:  # gone since it was listed, or not ours to read
            yield dropped(name, "unreadable", f"{name} ({e.strerror})") | {"source": source.name}
            continue
        with raw:
            done = 0
            end = os.path.getsize(file)
            for document in read_file(raw, file, name, source):
                if "dropped" not in document:
                    document = about | document | {"text": document["text"].replace("\r\n", "\n")}
                yield document | {"source": source.name}
                at = min(raw.tell(), end)
                if progress and at > done:
                    progress(at - done)
                    done = at
            if progress and end > done:
                progress(end - done)
