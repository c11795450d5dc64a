"""Readers: from files as they are found to documents with their provenance. One small function per format.

    python -c "import config; from corpus import sources; print(next(sources.read(config.Source('mine', 'samples/en.txt'))))"

A document is {"id", "text", "source"} and, where known, "lang", "licence", "url", "author", "date", ... What cannot be
a document is yielded too, as {"id", "source", "dropped": reason, "place"}: prepare.py counts it.
"""
import bz2
import glob
import gzip
import json
import lzma
import os
import zlib

from corpus import stories

OPEN = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
TEXT = {".txt", ".md", ".rst"}
CODE = {".c": "c", ".h": "c", ".cc": "c++", ".cpp": "c++", ".hpp": "c++", ".cs": "c#", ".go": "go", ".java": "java", ".js": "javascript",
        ".lua": "lua", ".php": "php", ".py": "python", ".rb": "ruby", ".rs": "rust", ".scala": "scala", ".ts": "typescript"}    # ROOTS' thirteen
SKIPPED = {"node_modules", "__pycache__", "site-packages"}
KEPT = {"lang", "licence", "license", "url", "author", "title", "date", "credit"}       # fields of a .jsonl record that stay with the text
LONGEST = 1 << 20       # bytes of a plain text line read at once: a file without line ends must fit in memory too


def suffixes(path):
    """("book.txt", ".txt", ".gz") of "book.txt.gz": the name without compression, its ending, the compression or ''."""
    name, ending = os.path.splitext(os.path.basename(path))
    if ending not in OPEN:
        name, ending = os.path.basename(path), ""
    return name, os.path.splitext(name)[1].lower(), ending


def files(path):
    """Sorted (file, name inside the source) of one path: a file, a folder (searched for known endings), or a glob of these."""
    found = []
    for p in [path] if os.path.exists(path) else sorted(glob.glob(path, recursive=True)):
        if os.path.isfile(p):
            found.append((p, os.path.basename(p)))
        for folder, inner, names in os.walk(p):
            inner[:] = sorted(d for d in inner if d not in SKIPPED and not d.startswith("."))
            found += [(os.path.join(folder, n), os.path.relpath(os.path.join(folder, n), p).replace(os.sep, "/")) for n in sorted(names)
                      if suffixes(n)[1] in {".jsonl", *TEXT, *CODE} and not n.startswith(".")]
    if not found:
        what = "no .txt, .jsonl or source files in" if os.path.isdir(path) else "there is no file, folder or match for"
        raise ValueError(f"{what} {path}")
    names = [name for _, name in found]
    if len(set(names)) < len(names):            # a glob over folders with equal names: tell them apart by their paths
        common = os.path.commonpath([os.path.dirname(p) for p, _ in found])
        found = [(p, os.path.relpath(p, common).replace(os.sep, "/")) for p, _ in found]
    return found


def lines(f, longest):
    """(number, byte offset, line) of a binary file; a line above `longest` bytes comes in parts, cut between characters."""
    number, at = 1, 0
    while line := f.readline(longest):
        while longest > 0 and not line.endswith(b"\n") and (more := f.peek(1)[:1]) and more[0] & 0xC0 == 0x80:
            line += f.read(1)
        yield number, at, line
        number, at = number + line.endswith(b"\n"), at + len(line)


def decode(line, at):
    """(text, None), or (None, where the first byte that is not UTF-8 stands)."""
    try:
        return line.decode(), None
    except UnicodeDecodeError as e:
        return None, f"byte {at + e.start}"


def read_text(f, name, source):
    """Plain text, cut at the first blank line after `split` characters, or at a line end after four times as many."""
    part, size, number, bad = [], 0, 0, None

    def document():
        if bad:
            return {"id": f"{name}#{number}", "dropped": "invalid_utf8", "place": f"{name}, {bad}"}
        return {"id": f"{name}#{number}", "text": "".join(part).strip("\n")}
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
    if size:
        yield document()


def read_jsonl(f, name, source):
    """One JSON object per line; the text is in field `source.field`."""
    for number, at, line in lines(f, -1):
        text, bad = decode(line, at)
        if bad:
            yield {"id": f"{name}:{number}", "dropped": "invalid_utf8", "place": f"{name}:{number}, {bad}"}
            continue
        if not text.strip():
            continue
        try:
            record = json.loads(text)
        except json.JSONDecodeError as e:
            raise ValueError(f"{name}:{number}: not JSON ({e.msg}, column {e.colno}); repair or delete the line") from e
        if not isinstance(record, dict) or not isinstance(record.get(source.field), str):
            has = ", ".join(k for k, v in record.items() if isinstance(v, str)) if isinstance(record, dict) else "no fields"
            raise ValueError(f"{name}:{number}: no text in field {source.field!r}; name the field with --field (the record has: {has})")
        document = {k: v for k, v in record.items() if k in KEPT and v} | {"id": str(record.get("id", f"{name}:{number}")), "text": record[source.field]}
        if "license" in document:
            document["licence"] = document.pop("license")
        if "source" in record:
            document["origin"] = record["source"]
        try:
            document["text"].encode()
            yield document
        except UnicodeEncodeError as e:         # JSON can spell half of a surrogate pair: "\ud800"
            yield {"id": document["id"], "dropped": "invalid_utf8", "place": f"{name}:{number}, character {e.start}"}


def read_code(f, name, source):
    """A source file is one document."""
    text, bad = decode(f.read(), 0)
    if bad:
        yield {"id": name, "dropped": "invalid_utf8", "place": f"{name}, {bad}"}
    else:
        yield {"id": name, "text": text, "lang": CODE.get(suffixes(name)[1])}


def read_samples(f, name, source):
    """A paragraph is a document; the file's name is its language."""
    for number, part in enumerate(f.read().decode().split("\n\n")):
        yield {"id": f"{name}#{number}", "text": part.strip("\n"), "lang": suffixes(name)[0].removesuffix(".txt")}


def read_stories(f, name, source):
    """`stories` drawn from a grammar (corpus/stories.py)."""
    grammar = stories.parse(f.read().decode(), name)
    lang = suffixes(name)[0].removesuffix(".txt")
    for number in range(stories.PER_LANGUAGE):
        yield {"id": f"{name}#{number}", "text": stories.draw(grammar, lang, number), "lang": lang}


READERS = {"text": read_text, "jsonl": read_jsonl, "code": read_code, "samples": read_samples, "stories": read_stories}


def read(source, progress=None):
    """Yield the documents of a config.Source in an order that does not change."""
    if source.reader != "auto" and source.reader not in READERS:
        raise ValueError(f"source {source.name}: unknown reader {source.reader!r}; use auto or one of {', '.join(READERS)}")
    for path in [source.path] if isinstance(source.path, str) else source.path:
        for file, name in files(path):
            ending = suffixes(name)[1]
            make = READERS["jsonl" if ending == ".jsonl" else "code" if ending in CODE else "text"] if source.reader == "auto" else READERS[source.reader]
            with open(file, "rb") as raw:
                f = OPEN.get(suffixes(file)[2], lambda raw: raw)(raw)
                before = progress.done if progress else 0
                try:
                    for document in make(f, name, source):
                        known = {"source": source.name, "lang": source.lang, "licence": source.licence}
                        yield document | {k: v for k, v in known.items() if v and (k == "source" or not document.get(k))}
                        if progress:
                            progress.at(before + raw.tell())
                except (EOFError, lzma.LZMAError, zlib.error, OSError) as e:
                    raise ValueError(f"cannot read {file}: {e}") from e
                if progress:
                    progress.at(before + os.path.getsize(file))


def size(source):
    """Bytes on disk that read() will go through."""
    return sum(os.path.getsize(file) for path in ([source.path] if isinstance(source.path, str) else source.path) for file, _ in files(path))
