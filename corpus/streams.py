"""From a file on disk to a stream of UTF-8 bytes: unpacked, and out of the encoding that it is in.

    python prepare.py --input old/*.txt.zst --encoding windows-1251 --name old

The readers of corpus/sources.py know UTF-8 only. What stands between them and a file is here: compression,
byte order marks and encodings. No encoding is guessed: a file is in UTF-8 unless its mark, its source or, in
HTML, the page itself says otherwise. Nothing is unpacked to disk.
"""
import bz2
import codecs
import difflib
import functools
import gzip
import io
import lzma
import re
import zlib
from encodings.aliases import aliases

BROKEN = (EOFError, OSError, lzma.LZMAError, zlib.error)  # what a damaged compressed file raises


class Broken(Exception):
    """What cannot be read, and where. `reason` is what the loss is counted as."""
    def __init__(self, where, reason=None):
        super().__init__(where)
        self.reason = reason


class Chunks(io.RawIOBase):
    """A stream of the bytes that a generator yields. io.BufferedReader makes a file of it."""
    def __init__(self, chunks, name):
        self.chunks, self.left = chunks, memoryview(b"")
        self.name = name                        # of the file they come from, None if it has none

    def readable(self):
        return True

    def readinto(self, room):
        while not self.left:
            chunk = next(self.chunks, None)
            if chunk is None:
                return 0
            self.left = memoryview(chunk)
        n = min(len(room), len(self.left))
        room[:n] = self.left[:n]
        self.left = self.left[n:]
        return n


def stream(chunks, f):
    return io.BufferedReader(Chunks(chunks, getattr(f, "name", None)))


# ---- compression ----

def zstd_library():
    """(a function that makes an unpacker of one frame, the error of a damaged one). zstd --long is read."""
    try:
        from compression import zstd  # Python 3.14
        longest = {zstd.DecompressionParameter.window_log_max: 31}
        return functools.partial(zstd.ZstdDecompressor, options=longest), zstd.ZstdError
    except ImportError:
        pass
    try:
        import zstandard
    except ImportError as e:
        raise ValueError("reading .zst needs zstandard: pip install zstandard") from e
    return zstandard.ZstdDecompressor(max_window_size=1 << 31).decompressobj, zstandard.ZstdError


def frames(f, make, error):
    """Yield what is in a .zst file, a series of frames. 4 KB at a time: they can hold 128 MB."""
    packed = b""
    try:
        while packed := packed or f.read(1 << 12):
            frame = make()
            while not frame.eof:
                if not packed:
                    raise EOFError("the last frame has no end")
                yield frame.decompress(packed)
                packed = frame.unused_data or b"" if frame.eof else f.read(1 << 12)
    except error as e:
        raise EOFError(e) from e


def open_zst(f):
    return stream(frames(f, *zstd_library()), f)


OPEN = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open, ".zst": open_zst}


# ---- encodings ----

MARKS = {  # UTF-32 first: the two bytes of UTF-16's mark begin the four of UTF-32's
    codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16", codecs.BOM_UTF8: "utf-8"}
# What pages say, and what browsers take it for: a larger set that has the same characters and more
BROWSERS = {"iso8859-1": "cp1252", "ascii": "cp1252", "iso8859-9": "cp1254", "gb2312": "gb18030",
            "gbk": "gb18030", "shift_jis": "cp932", "euc_kr": "cp949", "big5": "big5hkscs"}
SAID = re.compile(rb"""(?:<meta\s[^>]*?charset|<\?xml\s[^>]*?encoding)\s*=\s*["']?\s*([\w.:-]+)""", re.I)


def unreadable(error):
    """Half of a surrogate pair in the place of bytes that an encoding does not have. UTF-8 does not allow it:
    the reader drops the record around it, as one of invalid UTF-8."""
    return "\udcff", error.end


def decoder(encoding):
    codecs.register_error("unreadable", unreadable)
    return codecs.getincrementaldecoder(encoding)("unreadable")


def python_name(encoding):
    """utf-8 of UTF8, say. None of what Python does not know, or does not know as an encoding of text: hex."""
    try:
        "a".encode(encoding)
        decoder(encoding).decode(b"a")
        return codecs.lookup(encoding).name
    except (LookupError, ValueError):
        return None


def check_encoding(name):
    if not python_name(name):
        known = filter(python_name, sorted({*aliases, *aliases.values()}))
        near = difflib.get_close_matches(name.lower().replace("-", "_"), known, 1, 0)[0].replace("_", "-")
        raise ValueError(f"Python knows no encoding {name!r}, did you mean {near!r}?")


def declared(head):
    """The encoding that a page of HTML or XHTML says it is in; None if it says none that Python knows."""
    said = SAID.search(head)
    name = said and python_name(said[1].decode())
    if name and name.startswith(("utf-16", "utf-32")):      # in these the words above would not be found
        return "utf-8"
    return BROWSERS.get(name, name)


def recoded(f, encoding):
    """Yield the text of a stream in `encoding` as UTF-8."""
    text = decoder(encoding)
    while data := f.read(1 << 16):
        yield text.decode(data).encode("utf-8", "surrogatepass")
    yield text.decode(b"", True).encode("utf-8", "surrogatepass")


def as_utf8(f, encoding=None, page=False):
    """(a stream of UTF-8, the encoding that the file is in). A mark counts before `encoding`, and that before
    what a `page` of HTML declares."""
    head = f.peek(1 << 12)[:1 << 12]
    marked = [name for mark, name in MARKS.items() if head.startswith(mark)]
    said = marked[0] if marked else encoding
    if not said and page:
        said = declared(head)
    name = python_name(said or "utf-8")
    if name in ("utf-16", "utf-32") and head and not marked:    # Python wants a mark then
        raise Broken(f"it has no byte order mark: say {name}-le or {name}-be", "invalid_encoding")
    if name not in ("utf-8", "utf-8-sig"):
        return stream(recoded(f, name), f), name
    if 0 in head and not encoding and not marked:       # git takes this for a sign of no text
        raise Broken(f"byte {head.index(0)} is 0, as in UTF-16 without a mark", "invalid_utf8")
    return f, "utf-8"
