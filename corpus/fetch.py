"""Downloads that go on where they stopped. A file is NAME.part until it is whole.

    python -c "from corpus import fetch; fetch.fetch('https://www.gutenberg.org/cache/epub/11/pg11.txt', '.')"

NAME.part.json holds the server's mark of the version, an ETag. A part is continued if the server sends the
rest of the same version. Whatever else it sends, the file is begun again.
"""
import http.client
import os
import re
import sys
import time
import urllib.error
import urllib.parse
import urllib.request

import config

PASSING = (408, 416, 429)  # errors below 500 that pass; 416: the file has nothing after this byte


def fetch(url, folder, sha256=None, tries=5, wait=2.0):
    """Path of the file at `url` in `folder`, downloaded unless it is there. Gives up after `tries` attempts
    in a row without a new byte, `wait`, 2 `wait`, 4 `wait`, ... seconds apart."""
    name = urllib.parse.unquote(urllib.parse.urlsplit(url).path.rpartition("/")[2])
    if not re.match("https?://[^/]", url) or not re.fullmatch(r"\w[\w.,+=@-]*", name):
        raise ValueError(f"cannot download {url}: it must be http:// or https:// and end in a plain file "
                         "name; give a file on this machine as path")
    os.makedirs(folder, exist_ok=True)
    path = os.path.join(folder, name)
    part = f"{path}.part"
    best = failed = 0
    while not os.path.exists(path):
        try:
            download(url, part)
            os.replace(part, path)
            os.remove(f"{part}.json")
        except (OSError, http.client.HTTPException) as e:
            code = getattr(e, "code", 500)
            if code < 500 and code not in PASSING:
                raise ValueError(f"cannot download {url}: {e}; try it in a browser") from e
            if code == 416 and os.path.exists(part):
                os.remove(part)
            size = os.path.getsize(part) if os.path.exists(part) else 0
            failed = 0 if size > best else failed + 1
            best = max(size, best)
            if failed >= tries:
                raise ValueError(f"cannot download {url}: {e}; the same command goes on "
                                 f"after {size:,} bytes") from e
            time.sleep(wait * 2 ** max(0, failed - 1))
    there = config.sha256(path) if sha256 else None
    if sha256 and there != sha256.lower():
        raise ValueError(f"sha256 {there} instead of {sha256} for {path}; delete the file to download it "
                         "again, or correct the sha256")
    return path


def download(url, part):
    """One attempt: continue `part`, or begin it."""
    at = 0
    headers = {"User-Agent": "bloom-and-llama (educational)"}
    if os.path.exists(part) and os.path.exists(f"{part}.json"):
        known = config.read_json(f"{part}.json")
        if known["url"] == url and str(known["mark"]).startswith('"'):  # not W/"...": alike, not equal
            at = os.path.getsize(part)
            headers |= {"Range": f"bytes={at}-", "If-Range": known["mark"]}
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=60) as response:
        if response.status == 200:
            at = 0
        elif not response.headers.get("Content-Range", "").startswith(f"bytes {at}-"):
            os.remove(part)
            raise ConnectionError("the server did not send what follows")
        print(f"downloading {url} from byte {at:,} on", file=sys.stderr, flush=True)
        length = int(response.headers["Content-Length"] or 0)  # some servers do not know it
        total = at + length
        tick = config.progress("downloading, bytes", length)
        with open(part, "ab" if at else "wb") as f:
            if not at:  # the old part is gone: a mark must not stand beside bytes of another version
                config.write_json(f"{part}.json", {"url": url, "mark": response.headers["ETag"]})
            while data := response.read1(1 << 18):
                f.write(data)
                at += len(data)
                if length:
                    tick(len(data))
    if length and at != total:
        raise ConnectionError(f"{at:,} of {total:,} bytes arrived")
