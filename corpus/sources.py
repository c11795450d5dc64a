"""Readers: from files as they are found to documents with their provenance. One small function per format.

    python -c "import config; from corpus import sources; print(next(sources.read(recipe.Source('mine', 'samples/en.txt'))))"

A document is {"id", "text", "source"} and, where known, "lang", "licence", "url", "author", "title", "date", "score". What cannot be
a document is yielded too, as {"id", "source", "dropped": reason, "place"}: bad content never stops a reader, prepare.py counts it.
Files are read once, as streams; nothing of an archive is unpacked to disk.
"""
import bz2
import collections
import functools
import glob
import gzip
import io
import json
import lzma
import os
import re

from corpus import dumps, markup, stories
from corpus.dumps import BROKEN, LARGEST, Broken, Members, decode, dropped

OPEN = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
TEXT = {".txt", ".md", ".rst"}
CODE = {".c": "c", ".h": "c", ".cc": "c++", ".cpp": "c++", ".hpp": "c++", ".cs": "c#", ".go": "go", ".java": "java", ".js": "javascript",
        ".lua": "lua", ".php": "php", ".py": "python", ".rb": "ruby", ".rs": "rust", ".scala": "scala", ".ts": "typescript"}    # ROOTS' thirteen
FORMAT = {**dict.fromkeys(TEXT, "text"), **dict.fromkeys(CODE, "code"), ".jsonl": "jsonl", ".json": "jsonl",
          ".parquet": "parquet", ".wet": "wet", ".tar": "arxiv", ".xml": "wiki"}
ALIKE = {"gutenberg": "text", "samples": "text", "stories": "text", "stackexchange": "wiki"}       # readers of files with the same endings
SKIPPED = {"node_modules", "__pycache__", "site-packages"}
KEPT = {"lang", "licence", "license", "url", "author", "title", "date", "timestamp", "credit", "score"}     # fields of a record that stay with the text
LONGEST = 1 << 20       # bytes of a plain text line read at once: a file without line ends must fit in memory too
LICENCES = {                                    # a phrase that only this licence has; the more special before the more general
    "AGPL-3.0": "gnu affero general public license version 3, 19", "GPL-3.0": "gnu general public license version 3, 29",
    "GPL-2.0": "gnu general public license version 2, june", "LGPL-3.0": "gnu lesser general public license version 3, 29",
    "LGPL-2.1": "gnu lesser general public license version 2.1, feb", "LGPL-2.0": "gnu library general public license version 2, june",
    "Apache-2.0": "apache license version 2.0", "MPL-2.0": "mozilla public license version 2.0", "Unlicense": "this is free and unencumbered software",
    "MIT": "permission is hereby granted, free of charge, to any person obtaining a copy", "ISC": "for any purpose with or without fee is hereby granted, provided",
    "BSD-4-Clause": "all advertising materials mentioning", "BSD-3-Clause": "to endorse or promote products", "BSD-2-Clause": "redistribution and use in source and binary"}


def suffixes(path):
    """("book.txt", ".txt", ".gz") of "book.txt.gz": the name without compression, its ending, the compression or ''."""
    name, ending = os.path.splitext(os.path.basename(path))
    if ending not in OPEN:
        name, ending = os.path.basename(path), ""
    return name, os.path.splitext(name)[1].lower(), ending


def readable(name, wanted):
    """Whether a file of a folder is one of the reader's. A bare .json is more often settings than text."""
    form = FORMAT.get(suffixes(name)[1])
    return form and wanted in ("auto", form) and not name.startswith(".") and not name.endswith(".json")


def passed_over(source):
    """Counter of the endings of the files in source.path's folders that found() leaves out."""
    others = collections.Counter()
    for path in [source.path] if isinstance(source.path, str) else source.path:
        for _, inner, names in os.walk(path):
            inner[:] = [d for d in inner if d not in SKIPPED and not d.startswith(".")]
            others.update(os.path.splitext(n)[1] or n for n in names if not readable(n, ALIKE.get(source.reader, source.reader)) and not n.startswith("."))
    return others


def found(source):
    """[(file, its name inside the source, bytes)] of source.path, sorted by name: files, folders (searched for known endings), globs of these."""
    files, wanted = {}, ALIKE.get(source.reader, source.reader)
    for path in [source.path] if isinstance(source.path, str) else source.path:
        here = []
        for p in [path] if os.path.exists(path) else sorted(glob.glob(path, recursive=True)):
            if os.path.isfile(p):               # no pipes, no links to nowhere
                here.append((p, os.path.basename(p)))
            for folder, inner, names in os.walk(p):
                inner[:] = sorted(d for d in inner if d not in SKIPPED and not d.startswith("."))
                names = [n for n in sorted(names) if n[0] != "." and not n.endswith(".json")]          # a bare .json is more often settings than text
                here += [(file := os.path.join(folder, n), os.path.relpath(file, p)) for n in names
                         if readable(n, wanted) and os.path.isfile(os.path.join(folder, n))]
        if not here:
            kind = "text, source code or other file of a known format" if wanted == "auto" else f"file for the reader {source.reader}"
            what = f"no {kind} in" if os.path.isdir(path) else "there is no file, folder or match for"
            raise ValueError(f"{what} {path}")
        files = {os.path.abspath(file): (file, name) for file, name in here} | files         # a file that two paths name counts once
    names = [name for _, name in files.values()]
    if len(set(names)) < len(names):            # folders with equal names: tell them apart by their paths
        common = os.path.commonpath([os.path.dirname(p) for p in files])
        files = {p: (file, os.path.relpath(p, common)) for p, (file, _) in files.items()}
    return sorted(((file, os.fsencode(name).decode(errors="backslashreplace").replace(os.sep, "/"), os.path.getsize(file)) for file, name in files.values()), key=lambda f: f[1])


def lines(f, longest):
    """(number, byte offset, line) of a binary file; a line above `longest` bytes comes in parts, cut between characters."""
    number, at = 1, 0
    while line := f.readline(longest):
        while not line.endswith(b"\n") and (more := f.peek(1)[:1]) and more[0] & 0xC0 == 0x80:
            line += f.read(1)
        yield number, at, line
        number, at = number + line.endswith(b"\n"), at + len(line)


def read_text(f, name, source):
    """Plain text, cut at the first blank line after `split` characters, or at a line end after four times as many."""
    part, size, number, bad = [], 0, 0, None

    def document():
        if bad:
            return dropped(f"{name}#{number}", "invalid_utf8", f"{name}, {bad}")
        return {"id": f"{name}#{number}", "text": "".join(part).replace("\r\n", "\n").strip("\n")}
    for _, at, line in lines(f, LONGEST):
        text, wrong = decode(line, at)
        if at == 0 and text:
            text = text.removeprefix("\ufeff")
        if size >= source.split and text is not None and not text.strip() or size >= 4 * source.split:
            yield document()
            part, size, number, bad = [], 0, number + 1, None
        bad = bad or wrong
        part.append(text or "")
        size += len(line) if text is None else len(text)
    if bad or "".join(part).strip():
        yield document()


def read_gutenberg(f, name, source):
    """A Project Gutenberg book: header and footer off, the facts they name kept, cut as plain text. Old ones are in Latin-1 and say so."""
    raw = f.read(LARGEST + 1)
    text, bad = decode(raw, 0)
    if bad and re.search(rb"character set encoding: *iso[- ]?(8859|latin)-?1\b", raw[:4096], re.I):
        text, bad = raw.decode("latin-1"), None
    if bad or len(raw) > LARGEST:
        yield dropped(name, "invalid_utf8" if bad else "too_large", f"{name}, {bad or f'above {LARGEST:,} bytes'}")
        return
    about, body = markup.gutenberg(text.removeprefix("\ufeff").replace("\r\n", "\n"))
    for document in read_text(io.BufferedReader(io.BytesIO(body.encode())), name, source):
        yield document | about


def from_record(record, key, place, source):
    """The document of a record of named fields, or why it is none."""
    if not isinstance(record, dict) or not isinstance(record.get(source.field), str):
        has = ", ".join(k for k, v in record.items() if isinstance(v, str)) if isinstance(record, dict) else ""
        return dropped(key, "no_text", f"{place} (it has: {has or 'no text fields'})")
    document = {k: v if k == "score" and isinstance(v, (int, float)) else str(v) for k, v in record.items() if k in KEPT and v not in (None, "") and not isinstance(v, (dict, list))}
    for other, ours in ("license", "licence"), ("timestamp", "date"):       # timestamp: C4
        if other in document:
            document.setdefault(ours, document.pop(other))
    if isinstance(record.get("source"), str):
        document["origin"] = record["source"]
    document |= {"id": str(record["id"]) if isinstance(record.get("id"), (str, int)) and record["id"] != "" else key, "text": record[source.field]}
    try:
        "".join(v for v in document.values() if isinstance(v, str)).encode()
    except UnicodeEncodeError:                  # JSON can spell it: "\ud800"
        return dropped(key, "invalid_utf8", f"{place}, half of a surrogate pair")
    return document


def read_jsonl(f, name, source):
    """One JSON object per line; the text is in field `source.field`."""
    cut = 0                                     # number of a line that is too long: its other parts are skipped
    for number, at, line in lines(f, LARGEST):
        key = place = f"{name}:{number}"
        text, bad = decode(line, at)
        if number == cut or text is not None and not text.strip("\ufeff \t\r\n"):
            continue
        if len(line) >= LARGEST and not line.endswith(b"\n"):
            cut = number
            yield dropped(key, "too_large", place)
        elif bad:
            yield dropped(key, "invalid_utf8", f"{place}, {bad}")
        else:
            try:
                yield from_record(json.loads(text.removeprefix("\ufeff")), key, place, source)
            except (ValueError, RecursionError) as e:
                yield dropped(key, "broken_json", f"{place} ({getattr(e, 'msg', e)})")


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
        for batch in table.iter_batches(256, columns=columns if source.field in columns else None):
            for i in range(len(batch)):
                number += 1
                key = place = f"{name}:{number}"
                try:
                    yield from_record(batch.slice(i, 1).to_pylist()[0], key, place, source)
                except UnicodeDecodeError as e:
                    yield dropped(key, "invalid_utf8", f"{place}, byte {e.start} of a field")
    except pyarrow.ArrowException as e:
        raise Broken(f"row {number + 1}: {e}") from e


@functools.lru_cache(1 << 12)
def nearest_licence(folder, levels):
    """Licence of the nearest LICENSE, LICENCE or COPYING in `folder` or up to `levels` - 1 above it, by a phrase that only this licence has; None: no file, or an unknown one."""
    for n in sorted(os.listdir(folder)):
        if re.match("(licen[cs]e|copying)(?![a-z])", n.lower()) and suffixes(n)[1] not in CODE and os.path.isfile(os.path.join(folder, n)):
            with open(os.path.join(folder, n), "rb") as f:
                text = " ".join(f.read(1 << 12).decode(errors="replace").lower().split())
            return next((licence for licence, phrase in LICENCES.items() if phrase in text), None)
    return nearest_licence(os.path.dirname(folder), levels - 1) if levels > 1 else None


def read_code(f, name, source):
    """A source file is one document. Its licence is the one that its first lines name (SPDX), else that of the nearest folder with one inside the source's path."""
    raw = f.read(LARGEST + 1)
    text, bad = decode(raw, 0)
    if bad or len(raw) > LARGEST:
        yield dropped(name, "too_large" if len(raw) > LARGEST else "invalid_utf8", f"{name}, {bad or f'above {LARGEST:,} bytes'}")
        return
    spdx = re.search(r"SPDX-License-Identifier:[ \t]*([\w.+-]+(?: +(?:OR|AND|WITH) +[\w.+-]+)*)", text[:4096])
    licence = spdx[1] if spdx else nearest_licence(os.path.dirname(os.path.abspath(f.name)), name.count("/") + 1) if hasattr(f, "name") else None     # no name: in .bz2 or .xz
    about = {"lang": CODE.get(suffixes(name)[1]), "licence": licence}
    yield {"id": name, "text": text.removeprefix("\ufeff")} | {k: v for k, v in about.items() if v}


def read_samples(f, name, source):
    """A paragraph is a document; the file's name is its language."""
    text, bad = decode(f.read(), 0)
    if bad:
        yield dropped(name, "invalid_utf8", f"{name}, {bad}")
    for number, part in enumerate(text.replace("\r\n", "\n").split("\n\n") if text else ()):
        yield {"id": f"{name}#{number}", "text": part.strip("\n"), "lang": suffixes(name)[0].removesuffix(".txt")}


def read_stories(f, name, source):
    """`stories` drawn from a grammar (corpus/stories.py)."""
    grammar = stories.parse(f.read().decode(), name)
    lang = suffixes(name)[0].removesuffix(".txt")
    for number in range(stories.PER_LANGUAGE):
        yield {"id": f"{name}#{number}", "text": stories.draw(grammar, lang, number), "lang": lang}


READERS = {"text": read_text, "gutenberg": read_gutenberg, "jsonl": read_jsonl, "parquet": read_parquet, "wet": dumps.read_wet, "wiki": dumps.read_wiki,
           "stackexchange": dumps.read_stackexchange, "code": read_code, "arxiv": dumps.read_arxiv, "samples": read_samples, "stories": read_stories}


def reader(file, source):
    """The name of a file's reader: source.reader, or by its ending; .xml and .txt by how they begin. None: an XML of another kind."""
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
    if ending == ".xml":
        return "wiki" if b"<mediawiki" in head else "stackexchange" if b"<posts" in head else None
    return "gutenberg" if re.search(rb"START OF TH(E|IS) PROJECT GUTENBERG EBOOK", head, re.I) else "text"


def read_file(raw, file, name, source):
    """The documents of one open file; what breaks it ends it."""
    form, packed = reader(file, source), suffixes(file)[2]
    f = io.BufferedReader(Members(raw)) if form == "wet" and packed == ".gz" else OPEN[packed](raw) if packed else raw
    try:
        if form:
            yield from READERS[form](f, name, source)
        else:
            yield dropped(name, "unknown_format", name)
    except Broken as e:
        yield dropped(name, "broken_file", f"{name}, {e}")
    except BROKEN as e:
        if getattr(e, "errno", None):           # the disk's fault, not the file's
            raise
        yield dropped(name, "broken_file", f"{name}, byte {raw.tell()}{' of the compressed file' * bool(packed)}")
    for at in f.raw.broken if form == "wet" and packed == ".gz" else ():
        yield dropped(name, "broken_file", f"{name}, byte {at} of the compressed file")


def read(source, files=None, progress=None):
    """Yield the documents of `files`, a list as found() gives, or of all of them. `progress` is called with the bytes gone through since its last call."""
    if source.reader != "auto" and source.reader not in READERS:
        raise ValueError(f"source {source.name}: unknown reader {source.reader!r}; use auto or one of {', '.join(READERS)}")
    known = {k: v for k, v in {"lang": source.lang, "licence": source.licence}.items() if v}
    for file, name, *_ in found(source) if files is None else files:
        try:
            raw = open(file, "rb")
        except OSError as e:                    # gone since it was listed, or not ours to read
            yield dropped(name, "unreadable", f"{name} ({e.strerror})") | {"source": source.name}
            continue
        with raw:
            done, end = 0, os.path.getsize(file)
            for document in read_file(raw, file, name, source):
                if "\r\n" in document.get("text", ""):
                    document["text"] = document["text"].replace("\r\n", "\n")
                yield (document if "dropped" in document else known | document) | {"source": source.name}
                if progress and (at := min(raw.tell(), end)) > done:
                    progress(at - done)
                    done = at
        if progress and end > done:
            progress(end - done)


def size(source):
    """Bytes on disk that read() will go through."""
    return sum(n for _, _, n in found(source))


def named(paths):
    """A source per path: named by what tells the paths apart. ["a/en.txt", "a/fr.txt"] -> en, fr"""
    bare = [p.rstrip("/") for p in paths]
    common = os.path.commonpath([os.path.dirname(os.path.abspath(p)) for p in bare])
    for path, p in zip(paths, bare):
        name = os.path.relpath(os.path.abspath(p), common)
        for _ in range(2):                  # book.txt.gz -> book
            name = os.path.splitext(name)[0] if not os.path.isdir(p) else name
        yield re.sub(r"[^\w.-]+", "-", name).strip("-.") or "text", path
