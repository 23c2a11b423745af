"""A loopback server that hands out files as a web server does, and as S3 and Google's storage do.

    with Store({"train.csv": b"..."}) as store:
        read_rows(f"{store.endpoint}/train.csv")

An S3 client asks for `/bucket/name`, Google's for `/storage/v1/b/bucket/o/name`: the bucket is `bucket`.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Mapping
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote
from xml.sax.saxutils import escape

TIME = "2026-01-02T03:04:05.000Z"


class Handler(BaseHTTPRequestHandler):
    """One request for each connection."""

    protocol_version = "HTTP/1.1"  # Google's client gives up on an answer of 1.0

    server: Server

    def do_GET(self) -> None:
        """A file, a part of it, a list of files, or why not."""
        store = self.server.store
        path, _, query = self.path.partition("?")
        path, asked = unquote(path).lstrip("/"), parse_qs(query)
        store.requests.append(f"{self.command} /{path}")
        if store.status:
            self.send(store.status, b"told to fail")
        elif "list-type" in asked:
            self.send(200, self.s3_list(asked.get("prefix", [""])[0]))
        elif match := re.fullmatch(r"(?:download/)?storage/v1/b/bucket/o(?:/(.+))?", path):
            self.google(match[1], asked)
        elif path in ("bucket", "bucket/"):
            self.send(200, b"")
        else:
            name = path.removeprefix("bucket/")
            if name in store.files:
                self.send_file(store.files[name])
            else:
                self.send(404, b"<Error><Code>NoSuchKey</Code></Error>")

    do_HEAD = do_GET

    def google(self, name: str | None, asked: dict[str, list[str]]) -> None:
        """As the JSON interface of Google's storage describes objects."""
        files = self.server.store.files

        def described(each: str) -> dict[str, Any]:
            return {
                "kind": "storage#object",
                "bucket": "bucket",
                "name": each,
                "size": str(len(files[each])),
                "updated": TIME,
                "generation": "1",
                "contentType": "text/csv",
            }

        if name is None:
            prefix = asked.get("prefix", [""])[0]
            items = [described(each) for each in sorted(files) if each.startswith(prefix)]
            self.send(200, json.dumps({"kind": "storage#objects", "items": items}).encode())
        elif name not in files:
            self.send(404, json.dumps({"error": {"code": 404, "message": "none"}}).encode())
        elif asked.get("alt") == ["media"]:
            self.send_file(files[name])
        else:
            self.send(200, json.dumps(described(name)).encode())

    def s3_list(self, prefix: str) -> bytes:
        """As ListObjectsV2 of S3 answers."""
        found = {
            name: content for name, content in self.server.store.files.items() if name.startswith(prefix)
        }
        items = "".join(
            f"<Contents><Key>{escape(name)}</Key><Size>{len(content)}</Size><LastModified>{TIME}</LastModified>"
            "</Contents>"
            for name, content in sorted(found.items())
        )
        return (
            '<?xml version="1.0"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
            f"<Name>bucket</Name><KeyCount>{len(found)}</KeyCount><IsTruncated>false</IsTruncated>{items}"
            "</ListBucketResult>"
        ).encode()

    def send_file(self, content: bytes) -> None:
        """The bytes that are asked for; half of them where the store is told to break off."""
        headers = {
            "ETag": f'"{hashlib.md5(content).hexdigest()}"',
            "x-goog-generation": "1",
            "Last-Modified": formatdate(1e9, usegmt=True),
        }
        span = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if span:
            start, end = int(span[1]), min(int(span[2] or len(content)), len(content) - 1)
            headers["Content-Range"] = f"bytes {start}-{end}/{len(content)}"
            self.send(206, content[start : end + 1], headers)
        else:
            self.send(200, content, headers)

    def send(self, status: int, body: bytes, headers: Mapping[str, str] | None = None) -> None:
        """Answers; the whole length is announced, however much is sent."""
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.send_header("Connection", "close")
        self.close_connection = True
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[: len(body) // 2] if self.server.store.breaks_off else body)

    def log_message(self, format: str, *args: Any) -> None:
        """Keeps quiet."""


class Server(ThreadingHTTPServer):
    """The listening socket, and a daemon thread for each open connection."""

    daemon_threads = True

    def __init__(self, store: Store) -> None:
        self.store = store
        super().__init__(("127.0.0.1", 0), Handler)


class Store:
    """Files by name, served for as long as the `with` block lasts.

    Attributes:
        requests: method and path of each request so far.
        status: answers everything with that, where it is not 0.
        breaks_off: sends half of what it announces.
    """

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = files
        self.requests: list[str] = []
        self.status = 0
        self.breaks_off = False
        self._server = Server(self)
        self.endpoint = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Store:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
