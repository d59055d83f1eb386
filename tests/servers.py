"""Two small servers on this machine for the tests of fetching: files over http, objects over the S3 protocol."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, unquote, urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterator


class Files(BaseHTTPRequestHandler):
    """Serve `server.files` with ETags; odd paths misbehave: /cut, /endless, /missing, /elsewhere, /busy."""

    def log_message(self, *args):
        """Stay silent."""

    def do_GET(self):
        """Answer a request and remember its path."""
        self.server.seen.append(self.path)
        name = urlsplit(self.path).path.lstrip("/")
        if name in ("missing", "busy"):
            self.send_error(404 if name == "missing" else 503)
            return
        if name == "elsewhere":
            self.send_response(302)
            self.send_header("Location", "http://198.51.100.1/x")
            self.end_headers()
            return
        body = self.server.files["cells.h5ad" if name in ("cut", "endless") else name]
        tag = f'"{hash(body)}"'
        if self.headers.get("If-None-Match") == tag:
            self.send_response(304)
            self.end_headers()
            return
        self.send_response(200)
        self.send_header("ETag", tag)
        self.send_header("Content-Length", str({"cut": 2 * len(body), "endless": 2**60}.get(name, len(body))))
        self.end_headers()
        self.wfile.write(body)


class Objects(BaseHTTPRequestHandler):
    """Serve `server.files`, keys of one bucket, as an S3 endpoint does: HEAD, GET and ListObjectsV2."""

    def log_message(self, *args):
        """Stay silent."""

    def do_HEAD(self):
        """Answer with an object's size, or 404."""
        key = unquote(urlsplit(self.path).path.lstrip("/")).partition("/")[2]
        known = key in self.server.files
        self.send_response(200 if known or not key else 404)
        self.send_header("Content-Length", str(len(self.server.files[key])) if known else "0")
        self.send_header("Last-Modified", "Sat, 01 Nov 2025 00:00:00 GMT")
        self.end_headers()

    def do_GET(self):
        """Answer with an object, a range of it, or a listing."""
        parts = urlsplit(self.path)
        bucket, _, key = unquote(parts.path.lstrip("/")).partition("/")
        if not key:
            self._send(200, self._listing(bucket, parse_qs(parts.query)), "application/xml")
            return
        if key not in self.server.files:
            self._send(404, b"<Error><Code>NoSuchKey</Code></Error>", "application/xml")
            return
        body, wanted = self.server.files[key], self.headers.get("Range")
        if not wanted:
            self._send(200, body, "binary/octet-stream")
            return
        low, high = (int(n) for n in wanted.removeprefix("bytes=").split("-"))
        self._send(206, body[low : high + 1], "binary/octet-stream")

    def _listing(self, bucket: str, query: dict[str, list[str]]) -> bytes:
        prefix = query.get("prefix", [""])[0]
        keys = [key for key in sorted(self.server.files) if key.startswith(prefix)]
        contents = "".join(
            f"<Contents><Key>{key}</Key><Size>{len(self.server.files[key])}</Size>"
            "<LastModified>2025-11-01T00:00:00.000Z</LastModified></Contents>"
            for key in keys
        )
        head = f"<Name>{bucket}</Name><Prefix>{prefix}</Prefix><KeyCount>{len(keys)}</KeyCount><MaxKeys>1000</MaxKeys>"
        return f"<ListBucketResult>{head}<IsTruncated>false</IsTruncated>{contents}</ListBucketResult>".encode()

    def _send(self, status: int, body: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Last-Modified", "Sat, 01 Nov 2025 00:00:00 GMT")
        self.end_headers()
        self.wfile.write(body)


@contextmanager
def serving(handler: type[BaseHTTPRequestHandler], files: dict[str, bytes]) -> Iterator[ThreadingHTTPServer]:
    """Run a server on a free port of this machine; `server.files` may be changed, `server.seen` lists requests."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.files, server.seen = files, []
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
