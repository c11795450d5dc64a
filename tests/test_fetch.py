"""Downloads, from a server on this machine that can cut the line, change the file, refuse ranges and fail."""
import hashlib
import http.server
import json
import os
import threading

import pytest

from corpus import fetch

DATA = os.urandom(300_000)


class Server(http.server.ThreadingHTTPServer):
    """`answers` is what to do for each request in turn: send bytes up to this place of the file and cut the line, or answer with an error code; then whole. `seen`: what was asked and how much was sent."""
    daemon_threads = True
    data, etag, ranges, careless, answers = DATA, '"one"', True, False, []        # careless: sends the part of any version


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        server, start, data = self.server, 0, self.server.data
        answer = server.answers.pop(0) if server.answers else len(data)
        asked = self.headers.get("Range")
        server.seen.append([asked, self.headers.get("If-Range"), 0])
        if isinstance(answer, str):
            return self.send_error(int(answer))
        if asked and server.ranges and (server.careless or self.headers.get("If-Range") == server.etag):
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
        if start >= len(data):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(data)}")
            self.send_header("Content-Length", "0")
            return self.end_headers()
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start + server.shift}-{len(data) - 1}/{len(data)}")
        self.send_header("Content-Length", str(len(data) - start))
        if server.etag:
            self.send_header("ETag", server.etag)
        self.end_headers()
        server.seen[-1][2] = len(data[start:answer])
        self.wfile.write(data[start:answer])
        self.close_connection = True

    def log_message(self, *args):
        pass


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    s = Server(("127.0.0.1", 0), Handler)
    s.seen, s.answers, s.shift = [], [], 0
    s.url = f"http://127.0.0.1:{s.server_port}/dumps/file-1.0.json.gz"
    thread = threading.Thread(target=s.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield s
    s.shutdown()
    s.server_close()
    thread.join()


def get(server, **more):
    path = fetch.fetch(f"{server.url}?download=true", "raw", **{"wait": 0.01, "tries": 3, **more})
    with open(path, "rb") as f:
        return path, f.read()


SHA = hashlib.sha256(DATA).hexdigest()


def test_a_file_is_downloaded_once_and_verified_once(server, monkeypatch):
    assert get(server, sha256=SHA.upper()) == ("raw/file-1.0.json.gz", DATA)
    assert sorted(os.listdir("raw")) == ["file-1.0.json.gz", "file-1.0.json.gz.sha256"]
    assert open("raw/file-1.0.json.gz.sha256").read() == f"{SHA}  file-1.0.json.gz\n"
    monkeypatch.setattr(fetch.config, "sha256", None)                   # not called again
    assert get(server, sha256=SHA)[1] == get(server)[1] == DATA and len(server.seen) == 1


def test_a_cut_line_is_continued_and_only_the_rest_is_sent(server):
    server.answers = [100_000, 200_000, 200_000]
    assert get(server, sha256=SHA)[1] == DATA
    assert server.seen == [[None, None, 100_000], ["bytes=100000-", '"one"', 100_000], ["bytes=200000-", '"one"', 0], ["bytes=200000-", '"one"', 100_000]]


def test_a_command_run_again_goes_on(server):
    server.answers = [120_000] * 4
    with pytest.raises(ValueError, match="120,000 of 300,000 bytes arrived; the same command later goes on after 120,000 bytes"):
        get(server)
    assert sorted(os.listdir("raw")) == ["file-1.0.json.gz.part", "file-1.0.json.gz.part.json"] and json.load(open("raw/file-1.0.json.gz.part.json"))["mark"] == '"one"'
    del server.answers[:], server.seen[:]
    assert get(server)[1] == DATA and server.seen == [["bytes=120000-", '"one"', 180_000]]


@pytest.mark.parametrize("careless", [False, True])
def test_two_versions_are_never_mixed(server, careless):
    server.answers = [100_000]
    with pytest.raises(ValueError):
        get(server, tries=0)
    server.data, server.etag, server.careless = DATA[::-1], '"two"', careless
    assert get(server)[1] == DATA[::-1] and server.seen[1][:2] == ["bytes=100000-", '"one"'] and server.seen[-1][2] == 300_000


@pytest.mark.parametrize("etag", [None, 'W/"weak"'])
def test_a_version_without_a_mark_is_begun_again(server, etag):
    server.answers, server.etag = [100_000], etag
    assert get(server)[1] == DATA and server.seen[1] == [None, None, 300_000]


def test_a_server_without_ranges_sends_everything_again(server):
    server.answers, server.ranges = [100_000], False
    assert get(server)[1] == DATA and server.seen[1] == ["bytes=100000-", '"one"', 300_000]
    os.remove("raw/file-1.0.json.gz")
    server.answers = [200_000] * 10                                     # no progress is no success: the attempts end
    with pytest.raises(ValueError, match="200,000 of 300,000 bytes"):
        get(server)
    assert len(server.seen) == 2 + 4


def test_a_server_that_sends_another_part_than_asked_for_is_not_believed(server):
    server.answers, server.shift = [100_000], 1
    assert get(server)[1] == DATA and [s[0] for s in server.seen] == [None, "bytes=100000-", None]


def test_a_complete_part_is_only_renamed(server):
    server.answers = [299_999]
    with pytest.raises(ValueError):
        get(server, tries=0)
    with open("raw/file-1.0.json.gz.part", "ab") as f:
        f.write(DATA[-1:])
    assert get(server, sha256=SHA)[1] == DATA and [s[2] for s in server.seen] == [299_999, 0]
    os.remove("raw/file-1.0.json.gz")
    server.answers = [200_000]
    with pytest.raises(ValueError):
        get(server, tries=0)
    server.data = DATA[:150_000]                                        # same mark, shorter file: begun again
    assert get(server)[1] == DATA[:150_000]


def test_a_wrong_hash_deletes_the_part_and_names_both(server):
    with pytest.raises(ValueError) as e:
        get(server, sha256="0" * 64)
    assert SHA in str(e.value) and "0" * 64 in str(e.value) and "run the command again" in str(e.value) and "\n" not in str(e.value)
    assert not [n for n in os.listdir("raw") if not n.endswith(".json")]
    get(server, sha256=SHA)
    with pytest.raises(ValueError, match="delete it to download it again"):
        get(server, sha256="0" * 64)
    assert os.path.exists("raw/file-1.0.json.gz")


def test_errors_of_the_server_are_tried_again_and_ours_are_not(server):
    server.answers = ["503", "429"]
    assert get(server)[1] == DATA and len(server.seen) == 3
    os.remove("raw/file-1.0.json.gz")
    for code in ("404", "403"):
        server.answers, server.seen[:] = [code], []
        with pytest.raises(ValueError, match=f"{code} .*try the address in a browser"):
            get(server)
        assert len(server.seen) == 1
    server.answers = ["503"] * 9
    with pytest.raises(ValueError, match="Service Unavailable"):
        get(server)
    server.server_close()
    with pytest.raises(ValueError, match="refused"):
        get(server)


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://a.org/b.txt", "/etc/passwd", "http:///a.txt", "https://a.org/", "https://a.org/..", "https://a.org/x%2F..%2F..%2Fy", "https://a.org/.bashrc", "https://a.org/a%00b"])
def test_addresses_that_are_not_a_plain_file_are_refused(url, tmp_path):
    with pytest.raises(ValueError, match="http:// or https:// and end in a plain file name"):
        fetch.fetch(url, str(tmp_path / "raw"))
    assert os.listdir(tmp_path) == []
