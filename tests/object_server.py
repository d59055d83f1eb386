"""A real S3 server on this machine, in a process of its own, in front of which faults can be put.

moto answers; `Faults` stands before it and, as it is told over HTTP, delays answers, fails them, breaks connections
before or after a request was carried out, or calls the credentials expired. A process of its own, because TileDB holds
Python's lock while it waits for an answer.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

CONTROL = "/.faults"
BUCKET = "shelf"
KEYS = {"AWS_ACCESS_KEY_ID": "someone", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_REGION": "us-east-1"}
_XML = "<?xml version='1.0'?><Error><Code>{0}</Code><Message>{0} said</Message></Error>"
_STATUS = {
    "SlowDown": "503 Slow Down",
    "InternalError": "500 Internal",
    "ExpiredToken": "400 Bad Request",
    "AccessDenied": "403 Forbidden",
}


class Faults:
    """What stands before the server: rules, each a fault, which requests it is for, and how often.

    A rule is a mapping: `fault` (`delay`, `drop`, `drop-after`, or a code of S3), `method` and `part` (of the path)
    that a request must have, `after` how many of these it begins, at `every` which, and of a delay the `seconds`.
    """

    def __init__(self, app: Any) -> None:
        self.app, self.rules, self.seen = app, [], []
        self.lock, self.alone = threading.Lock(), threading.Lock()

    def __call__(self, environ: dict[str, Any], start: Any) -> Any:
        """Answer one request."""
        path, method = environ["PATH_INFO"], environ["REQUEST_METHOD"]
        if path == CONTROL:
            return self._control(environ, start)
        with self.lock:
            self.seen.append(f"{method} {path}")
            rule = next((r for r in self.rules if self._meant(r, method, path)), None)
        fault = rule["fault"] if rule else ""
        if fault == "delay":
            time.sleep(rule["seconds"])
        elif fault == "drop":
            return self._drop(environ)
        elif fault in _STATUS:
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            start(_STATUS[fault], [("Content-Type", "application/xml")])
            return [_XML.format(fault).encode()]
        # moto looks at a condition and then writes, which two threads can do at once; S3 promises one step.
        conditional = "HTTP_IF_MATCH" in environ or "HTTP_IF_NONE_MATCH" in environ
        if not conditional:
            answer = self.app(environ, start)
        else:
            with self.alone:
                answer = list(self.app(environ, start))
        return self._drop(environ) if fault == "drop-after" else answer

    def _meant(self, rule: dict[str, Any], method: str, path: str) -> bool:
        if rule.get("method", method) != method or rule.get("part", "") not in path:
            return False
        if rule.get("after", 0) > 0:
            rule["after"] -= 1
            return False
        rule["turn"] = rule.get("turn", 0) + 1
        return not rule["turn"] % rule.get("every", 1)

    def _drop(self, environ: dict[str, Any]) -> list[bytes]:
        environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
        raise ConnectionError  # which the server takes for a client that went away

    def _control(self, environ: dict[str, Any], start: Any) -> list[bytes]:
        with self.lock:
            if environ["REQUEST_METHOD"] == "PUT":
                self.rules = json.loads(environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"])))
                self.seen = []
            body = json.dumps(self.seen).encode()
        start("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
        return [body]


def main() -> None:
    """Serve until standard input ends, which is when the parent is gone."""
    import logging

    from moto.moto_server.werkzeug_app import create_backend_app
    from werkzeug.serving import WSGIRequestHandler, make_server

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    WSGIRequestHandler.protocol_version = "HTTP/1.1"  # connections stay, as they do with S3
    app = Faults(create_backend_app("s3"))  # moto would look for the service of each request, a third of its time
    server = make_server("127.0.0.1", 0, app, threaded=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(server.server_port, flush=True)  # noqa: T201 - how the parent learns the port
    sys.stdin.read()


class ObjectServer:
    """The running server, as a test sees it."""

    def __init__(self, port: int) -> None:
        self.endpoint = f"http://127.0.0.1:{port}"
        self.environment = {"AWS_ENDPOINT_URL": self.endpoint, "AWS_EC2_METADATA_DISABLED": "true", **KEYS}

    def faults(self, *rules: dict[str, Any]) -> None:
        """Put these faults in place of those before, and forget which requests there were."""
        body = json.dumps(rules).encode()
        urllib.request.urlopen(urllib.request.Request(self.endpoint + CONTROL, body, method="PUT")).close()

    def seen(self) -> list[str]:
        """Return method and path of every request since faults were last set."""
        with urllib.request.urlopen(self.endpoint + CONTROL) as answer:
            return json.loads(answer.read())


@contextmanager
def object_server() -> Iterator[ObjectServer]:
    """Run the server with one empty bucket."""
    command = [sys.executable, str(Path(__file__).resolve())]
    env = {k: v for k, v in os.environ.items() if not k.startswith("AWS_")} | KEYS
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env)
    try:
        server = ObjectServer(int(process.stdout.readline()))
        urllib.request.urlopen(urllib.request.Request(f"{server.endpoint}/{BUCKET}", b"", method="PUT")).close()
        yield server
    finally:
        process.stdin.close()
        process.wait(10)
        process.stdout.close()


@contextmanager
def served() -> Iterator[ObjectServer]:
    """Run the server and have the environment name it, and nothing else of the sort."""
    import pytest

    with object_server() as running, pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name.startswith("AWS_"):
                patch.delenv(name)
        for name, value in running.environment.items():
            patch.setenv(name, value)
        yield running


if __name__ == "__main__":
    main()
