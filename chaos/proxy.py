"""Between a lake and its store: an HTTP proxy on loopback that spoils chosen requests."""

from __future__ import annotations

import http.client
import re
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar
from urllib.parse import urlsplit

ANSWERS = {
    "slow down": (503, "SlowDown", "Please reduce your request rate."),
    "expired": (400, "ExpiredToken", "The provided token has expired."),
    "denied": (403, "AccessDenied", "Access Denied"),
    "no bucket": (404, "NoSuchBucket", "The specified bucket does not exist"),
}
HOW = (*ANSWERS, "silence", "cut", "lost reply")
"""What can be done to a request: one of four answers of S3's; no answer for longer than a client waits; the connection
cut within the request's body; and the connection cut after the store has done what was asked."""

ALL = ("GET", "HEAD", "PUT", "POST", "DELETE")
"""The methods of all requests."""
_PART = re.compile(r"/lake/(ops/)?[a-z]+/")


@dataclass
class Trouble:
    """Which requests are spoiled, and how.

    Attributes:
        how: One of :data:`HOW`.
        methods: Their methods.
        path: What their path has in it, a regular expression.
        after: How many such requests get through first.
        times: How many are then spoiled; the rest gets through.
        seconds: How long silence lasts.
        spoiled: How many were.
    """

    how: str
    methods: tuple[str, ...] = ALL
    path: str = ""
    after: int = 0
    times: int = 1
    seconds: float = 10.0
    spoiled: int = 0

    def __post_init__(self) -> None:
        self._lock, self._seen = threading.Lock(), 0

    def __str__(self) -> str:
        return f"{self.how}, {self.times} of {'/'.join(self.methods)} {self.path} after {self.after}"

    def befalls(self, method: str, path: str) -> bool:
        """Whether it befalls a request; counts it."""
        if method not in self.methods or not re.search(self.path, path):
            return False
        with self._lock:
            self._seen += 1
            mine = self.after < self._seen <= self.after + self.times
            self.spoiled += mine
            return mine


class Proxy:
    """The proxy.

    Attributes:
        trouble: What it makes; None for a proxy that only hands on.
        seen: How many requests there were, by method and the part of a lake that they are about, as ``/lake/gold/``.
        endpoint: Its address.
    """

    def __init__(self, store: str) -> None:
        self.trouble: Trouble | None = None
        self.seen = Counter[tuple[str, str]]()
        self._lock = threading.Lock()
        self._server = _Server(store, self)
        self.endpoint = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @contextmanager
    def troubled(self, trouble: Trouble) -> Iterator[Trouble]:
        """Make trouble while the block runs."""
        self.trouble = trouble
        try:
            yield trouble
        finally:
            self.trouble = None

    def befalls(self, method: str, path: str) -> str:
        """What befalls a request, one of :data:`HOW`, or nothing; counts it."""
        part = _PART.search(path)
        with self._lock:
            self.seen[method, part[0] if part else ""] += 1
        return self.trouble.how if self.trouble and self.trouble.befalls(method, path) else ""

    def close(self) -> None:
        """Stop."""
        self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def __init__(self, store: str, proxy: Proxy) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.store, self.proxy = urlsplit(store), proxy

    def handle_error(self, *_: object) -> None:
        """A client that hangs up is what is wanted here."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server
    # Without it each answer waits for the client's acknowledgement of its head.
    disable_nagle_algorithm: ClassVar[bool] = True

    def _handle(self) -> None:
        trouble = self.server.proxy.trouble
        how = self.server.proxy.befalls(self.command, self.path)
        if how in ANSWERS:
            self.rfile.read(self._length)
            self._refuse(*ANSWERS[how])
            return
        if how == "cut":
            self.rfile.read(self._length // 2)
            self._hang_up()
            return
        body = self.rfile.read(self._length)
        if how == "silence":
            assert trouble
            time.sleep(trouble.seconds)
            self._hang_up()
            return
        status, headers, content = self._forward(body)
        if how == "lost reply":
            self._hang_up()
            return
        self.send_response_only(status)
        for name, value in headers:
            if name.lower() not in ("connection", "transfer-encoding", "content-length"):
                self.send_header(name, value)
        length = {name.lower(): value for name, value in headers}.get("content-length", str(len(content)))
        self.send_header("Content-Length", length if self.command == "HEAD" else str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _handle  # noqa: N815

    @property
    def _length(self) -> int:
        return int(self.headers.get("Content-Length") or 0)

    def _forward(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        store = http.client.HTTPConnection(self.server.store.hostname or "", self.server.store.port, timeout=120)
        headers = {name: value for name, value in self.headers.items() if name.lower() not in ("expect", "connection")}
        store.request(self.command, self.path, body, headers)
        answer = store.getresponse()
        found = answer.status, answer.getheaders(), answer.read()
        store.close()
        return found

    def _refuse(self, status: int, code: str, text: str) -> None:
        content = f'<?xml version="1.0"?><Error><Code>{code}</Code><Message>{text}</Message></Error>'.encode()
        self.send_response_only(status)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _hang_up(self) -> None:
        self.close_connection = True
        self.connection.close()

    def log_message(self, *_: object) -> None:
        """Nothing: what was spoiled is counted."""
