"""Downloads, from a server on this machine that can cut the line, change the file and fail."""
import hashlib
import http.server
import os
import threading

import pytest

from corpus import fetch

DATA = os.urandom(300_000)
SHA = hashlib.sha256(DATA).hexdigest()


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        """`answers`: for each request the place at which the line is cut, or an error code; then whole."""
        s, start = self.server, 0
        answer = s.answers.pop(0) if s.answers else len(s.data)
        s.asked.append(self.headers.get("Range"))
        if isinstance(answer, str):
            return self.send_error(int(answer))
        if self.headers.get("If-Range") == s.etag:
            start = int(s.asked[-1].removeprefix("bytes=").removesuffix("-"))
        self.send_response(206 if start else 200)
        self.send_header("Content-Range", f"bytes {start + s.shift}-{len(s.data) - 1}/{len(s.data)}")
        self.send_header("Content-Length", str(len(s.data) - start))
        self.send_header("ETag", s.etag)
        self.end_headers()
        self.wfile.write(s.data[start:answer])

    def log_message(self, *args):
        pass


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as s:
        s.data, s.etag, s.shift, s.answers, s.asked = DATA, '"one"', 0, [], []
        threading.Thread(target=s.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield s
        s.shutdown()


def get(server, sha256=None):
    url = f"http://127.0.0.1:{server.server_port}/dumps/file-1.0.gz?download=true"
    with open(fetch.fetch(url, "raw", sha256, tries=3, wait=0.01), "rb") as f:
        return f.read()


def test_a_cut_line_is_continued_where_it_was_cut_and_errors_that_pass_are_tried_again(server):
    server.answers = [100_000, "503", 200_000, "429"]
    assert get(server, SHA.upper()) == DATA
    assert server.asked == [None, "bytes=100000-", "bytes=100000-", "bytes=200000-", "bytes=200000-"]
    assert os.listdir("raw") == ["file-1.0.gz"]
    with pytest.raises(ValueError, match=f"sha256 {SHA} instead of 0{{64}} for raw/file.*delete the file"):
        get(server, "0" * 64)
    assert get(server, SHA) == DATA and len(server.asked) == 5, "what is there is not asked for again"


def test_a_command_that_gave_up_goes_on_later_and_two_versions_are_never_mixed(server):
    server.answers = [120_000] * 4
    with pytest.raises(ValueError, match="120,000 of 300,000 bytes arrived; .* goes on after 120,000 bytes"):
        get(server)
    server.data, server.etag = DATA[::-1], '"two"'
    assert get(server) == DATA[::-1] and server.asked[-1] == "bytes=120000-"


@pytest.mark.parametrize("etag, shift, answers", [
    ('W/"alike"', 0, [100_000]), ('"one"', 1, [100_000]), ('"one"', 0, [100_000, "416"])])
def test_whatever_else_a_server_does_the_file_is_begun_again(server, etag, shift, answers):
    server.answers, server.etag, server.shift = answers, etag, shift
    assert get(server) == DATA and server.asked[-1] is None


def test_an_address_that_cannot_be_read_is_refused_at_once(server):
    server.answers = ["404"]
    with pytest.raises(ValueError, match="404: Not Found; try it in a browser"):
        get(server)
    for url in "file:///etc/passwd", "http:///a.txt", "https://a.org/", "https://a.org/x%2F..%2Fy":
        with pytest.raises(ValueError, match="http:// or https:// and end in a plain file name"):
            fetch.fetch(url, "raw")
