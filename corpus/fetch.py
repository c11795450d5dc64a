"""Downloads that go on where they stopped. A file is NAME.part until it is whole and its sha256 is right; then it is renamed.

    python -c "from corpus import fetch; print(fetch.fetch('https://www.gutenberg.org/cache/epub/1342/pg1342.txt', 'data/raw'))"

NAME.part.json holds the server's mark of the version (ETag or date): only a part of the same version is continued.
"""
import http.client
import os
import re
import ssl
import sys
import time
import urllib.error
import urllib.parse
import urllib.request

import config

BROKEN = (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError, ssl.SSLError)   # not OSError: a full disk is no reason to try again


def fetch(url, folder, sha256=None, tries=5, wait=2.0):
    """Path of the file at `url` in `folder`, downloaded unless it is there. Gives up after `tries` attempts in a row without a new byte, `wait`, 2 `wait`, ... seconds apart."""
    parts = urllib.parse.urlsplit(url)
    name = urllib.parse.unquote(parts.path.rpartition("/")[2])
    if parts.scheme not in ("http", "https") or not parts.netloc or not re.fullmatch(r"\w[\w.,+=@-]*", name):
        raise ValueError(f"cannot download {url}: it must be http:// or https:// and end in a plain file name; give a file on this machine as path")
    path, part, best, failed = os.path.join(folder, name), os.path.join(folder, f"{name}.part"), 0, 0
    os.makedirs(folder, exist_ok=True)
    while not os.path.exists(path):
        try:
            download(url, part, name)
            check(part, path, sha256, f"{url}: it was deleted; run the command again, or correct the sha256 if the publisher's has changed")
            os.replace(part, path)
            os.remove(f"{part}.json")
        except BROKEN as e:
            if isinstance(e, urllib.error.HTTPError) and e.code < 500 and e.code not in (408, 429):
                raise ValueError(f"cannot download {url}: {e.code} {e.reason}; try the address in a browser") from e
            size = os.path.getsize(part) if os.path.exists(part) else 0
            failed, best = 0 if size > best else failed + 1, max(size, best)
            if failed >= tries:
                raise ValueError(f"cannot download {url}: {getattr(e, 'reason', e)}; the same command later goes on after {size:,} bytes") from e
            time.sleep(wait * 2 ** max(0, failed - 1))
    check(path, path, sha256, f"{path}: delete it to download it again")
    return path


def check(file, path, sha256, hint):
    """Compare with the expected hash, once: PATH.sha256 (as sha256sum writes it) remembers. A .part that differs is deleted."""
    done = f"{path}.sha256"
    if not sha256 or os.path.exists(done) and file == path and open(done).read().split()[:1] == [sha256.lower()]:
        return
    found = config.sha256(file)
    if found != sha256.lower():
        if file != path:
            os.remove(file)
        raise ValueError(f"sha256 {found} instead of {sha256.lower()} for {hint}")
    with open(done, "w") as f:
        f.write(f"{found}  {os.path.basename(path)}\n")


def download(url, part, name):
    """One attempt: continue `part`, or begin it. Raises one of BROKEN when the line breaks."""
    known = config.read_json(f"{part}.json") if os.path.exists(f"{part}.json") and os.path.exists(part) else {}
    at = os.path.getsize(part) if known.get("url") == url and known.get("mark") else 0
    resume = {"Range": f"bytes={at}-", "If-Range": known["mark"]} if at else {}
    try:
        response = urllib.request.urlopen(urllib.request.Request(url, headers={"User-Agent": "bloom-and-llama (educational)", **resume}), timeout=60)
    except urllib.error.HTTPError as e:
        if e.code != 416 or not at:
            raise
        if e.headers.get("Content-Range") == f"bytes */{at}":       # all of it is here
            return
        os.remove(part)
        raise ConnectionError("the server's file is shorter than the part of it that was here") from e
    with response:
        marks = [m for m in (response.headers.get("ETag"), response.headers.get("Last-Modified")) if m and not m.startswith("W/")]     # W/: alike is not the same
        total = int(response.headers["Content-Length"]) if response.headers.get("Content-Length") else None
        if response.status == 206:
            sent = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", response.headers.get("Content-Range", ""))
            if not sent or int(sent[1]) != at or known["mark"] not in marks:
                os.remove(part)
                raise ConnectionError("the server sent another part, or of another version, than it was asked for")
            total = int(sent[2])
        else:
            at = 0
        start, first, shown = time.time(), at, time.time()
        with open(part, "ab" if at else "wb") as f:
            if not at:                      # after the old part is cut to nothing: a mark must not stand beside bytes of another version
                config.write_json(f"{part}.json", {"url": url, "mark": marks[0] if marks else None})
            while data := response.read1(1 << 18):
                f.write(data)
                at += len(data)
                if (now := time.time()) - shown > 5:
                    shown, rate = now, (at - first) / (now - start)
                    left = f"{at / total:4.0%}   {(total - at) / rate:.0f}s left" if total else f"{at / 1e6:.0f} MB"
                    print(f"downloading {name} {left}   {rate / 1e6:.1f} MB/s", file=sys.stderr, flush=True)
    if total is not None and at != total:
        raise ConnectionError(f"{at:,} of {total:,} bytes arrived")
