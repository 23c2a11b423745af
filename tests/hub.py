"""A small stand-in for the Hugging Face Hub, for tests: local folders served over HTTP on 127.0.0.1.

It speaks as much of the Hub's API as `huggingface_hub`, `transformers` and `datasets` need to download a
model or a data set of parquet files, so the real clients can be tested without a network:

    with Hub(models={"owner/tiny-bert": model_folder}, datasets={"owner/tiny-emotion": data_folder}) as hub:
        env = {**os.environ, "HF_ENDPOINT": hub.endpoint, "HF_HOME": str(fresh), "NO_PROXY": "127.0.0.1"}
        subprocess.run([sys.executable, "script.py", hub.revision("owner/tiny-bert")], env=env, check=True)
        assert any("resolve" in request for request in hub.requests)

`HF_ENDPOINT` is read when the clients are imported, hence the fresh process. No Xet headers are sent, so the
clients download over plain HTTP. There are no tokens, no pages of results, no uploads, and one commit per
repository, known as `main` and by its sha.
"""

import hashlib
import json
import re
import socket
import socketserver
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Any, Literal
from urllib.parse import parse_qs, unquote

Fail = Literal["404", "500", "hang", "truncate"]

_BLOCK = 1 << 20
_LFS_SUFFIXES = frozenset({".arrow", ".bin", ".gz", ".h5", ".onnx", ".parquet", ".pt", ".safetensors"})
_DATE = "2024-01-01T00:00:00.000Z"

_FILE_URL = re.compile(r"/(?P<kind>datasets/)?(?P<repo>[^/]+(?:/[^/]+)?)/resolve/(?P<rev>[^/]+)/(?P<path>.+)")
_API_URL = re.compile(
    r"/api/(?P<kind>models|datasets)/(?P<repo>[^/]+(?:/[^/]+)??)"
    r"(?:/(?P<verb>revision|tree|paths-info)/(?P<rev>[^/]+)(?:/(?P<path>.+))?)?"
)
_RANGE = re.compile(r"bytes=(\d*)-(\d*)")


@dataclass(frozen=True)
class _File:
    """One file of a repository, with the names git and git-lfs would give its contents."""

    path: str
    source: Path
    size: int
    oid: str
    lfs: dict[str, Any] | None

    @property
    def etag(self) -> str:
        """What the Hub sends as ETag: the sha256 of an LFS file, the git blob id of any other."""
        return str(self.lfs["oid"]) if self.lfs else self.oid


def _read_file(path: str, source: Path) -> _File:
    """Hash one file, as a git blob or, by its suffix, as an LFS object."""
    size = source.stat().st_size
    blob, sha256 = hashlib.sha1(b"blob %d\0" % size), hashlib.sha256()
    with source.open("rb") as stream:
        while block := stream.read(_BLOCK):
            blob.update(block)
            sha256.update(block)
    if source.suffix.lower() not in _LFS_SUFFIXES:
        return _File(path, source, size, blob.hexdigest(), None)
    digest = sha256.hexdigest()
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{digest}\nsize {size}\n".encode()
    oid = hashlib.sha1(b"blob %d\0" % len(pointer) + pointer).hexdigest()
    return _File(path, source, size, oid, {"oid": digest, "size": size, "pointerSize": len(pointer)})


class _Repo:
    """A folder read once into the shape of a repository at its only commit."""

    def __init__(self, repo_id: str, folder: Path) -> None:
        """Hash every file under a folder.

        Args:
            repo_id: The name the repository is served under.
            folder: The folder whose files are the repository.
        """
        if not folder.is_dir():
            raise NotADirectoryError(f"{repo_id}: not a folder: {folder}")
        self.id = repo_id
        paths = {p.relative_to(folder).as_posix(): p for p in folder.rglob("*") if p.is_file()}
        self.files = {path: _read_file(path, paths[path]) for path in sorted(paths)}
        parents = {str(parent) for path in paths for parent in PurePosixPath(path).parents}
        self.folders = sorted(parents - {"."})
        self.sha = self._digest("")

    def _digest(self, prefix: str) -> str:
        lines = (f"{file.oid} {path}\n" for path, file in self.files.items() if path.startswith(prefix))
        return hashlib.sha1("".join(lines).encode()).hexdigest()

    def entry(self, path: str, expand: bool) -> dict[str, Any]:
        """Describe a file or a folder as the tree and paths-info calls do."""
        last = {"lastCommit": {"id": self.sha, "title": "The only commit", "date": _DATE}} if expand else {}
        file = self.files.get(path)
        if file is None:
            return {"type": "directory", "oid": self._digest(f"{path}/"), "size": 0, "path": path, **last}
        lfs = {"lfs": file.lfs} if file.lfs else {}
        return {"type": "file", "oid": file.oid, "size": file.size, "path": path, **lfs, **last}

    def info(self, blobs: bool) -> dict[str, Any]:
        """Describe the repository as the model and data set calls do."""
        siblings: list[dict[str, Any]] = []
        for path, file in self.files.items():
            sibling: dict[str, Any] = {"rfilename": path}
            if blobs:
                sibling |= {"blobId": file.oid, "size": file.size}
                if file.lfs:
                    sibling["lfs"] = {"sha256": file.lfs["oid"], **file.lfs}
            siblings.append(sibling)
        return {
            "_id": self.sha[:24],
            "id": self.id,
            "modelId": self.id,
            "author": self.id.partition("/")[0],
            "sha": self.sha,
            "private": False,
            "gated": False,
            "disabled": False,
            "downloads": 0,
            "likes": 0,
            "tags": [],
            "createdAt": _DATE,
            "lastModified": _DATE,
            "siblings": siblings,
        }


class _Server(ThreadingHTTPServer):
    """The listening socket, and one daemon thread for each open connection."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, hub: "Hub") -> None:
        self.hub = hub
        self.closing = threading.Event()
        self.workers: dict[threading.Thread, socket.socket] = {}
        super().__init__(("127.0.0.1", 0), _Handler)

    def server_bind(self) -> None:
        """Bind without the reverse look-up of the host's name that `HTTPServer` makes."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = "127.0.0.1", self.socket.getsockname()[1]

    def run(self) -> None:
        """Accept connections, blocking between them, until `stop`."""
        while not self.closing.is_set():
            self.handle_request()

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Turn away the connection with which `stop` wakes `run`."""
        return not self.closing.is_set()

    def process_request(self, request: Any, client_address: Any) -> None:
        """Serve one connection in a thread of its own, and remember both for `stop`."""
        self.workers = {thread: sock for thread, sock in self.workers.items() if thread.is_alive()}
        arguments = (request, client_address)
        worker = threading.Thread(target=self.process_request_thread, args=arguments, daemon=True)
        self.workers[worker] = request
        worker.start()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Leave no traceback for a client that went away; a fault of this file still shows."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)

    def stop(self, acceptor: threading.Thread | None) -> None:
        """Release hanging requests, cut every connection and wait for the threads to end."""
        self.closing.set()
        if acceptor is not None:
            with suppress(OSError):
                socket.create_connection(("127.0.0.1", self.server_port), timeout=5).close()
            acceptor.join(5)
        self.server_close()
        for sock in self.workers.values():
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for worker in self.workers:
            worker.join(5)


class _Handler(BaseHTTPRequestHandler):
    """Answers the requests of one connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def do_GET(self) -> None:
        """Answer any request: record it, fail if told to, else find what it asks for."""
        posted = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path, _, query = self.path.partition("?")
        hub = self.server.hub
        hub.requests.append(f"{self.command} {path}")
        fail = hub.fail
        if fail == "hang":
            self.server.closing.wait()
            self.close_connection = True
        elif fail == "404" or fail == "500":
            self._send(int(fail), b"told to fail", {"Content-Type": "text/plain"})
        elif match := _FILE_URL.fullmatch(path):
            kind = "datasets" if match["kind"] else "models"
            self._resolve(kind, *map(unquote, match.group("repo", "rev", "path")))
        elif match := _API_URL.fullmatch(path):
            arguments = parse_qs(query) | parse_qs(posted.decode("utf-8", "replace"))
            self._api(match, arguments)
        else:
            self._error(404, None, "Sorry, we can't find the page you are looking for.")

    do_HEAD = do_POST = do_GET

    def log_message(self, format: str, *args: Any) -> None:
        """Keep quiet."""

    def _find(self, kind: str, repo_id: str, revision: str) -> _Repo | None:
        """Look a repository and its revision up, answering the request with an error if either is unknown."""
        repo = self.server.hub._repos[kind].get(repo_id)
        if repo is None:
            self._error(401, "RepoNotFound", "Repository not found")
        elif revision not in ("main", repo.sha):
            self._error(404, "RevisionNotFound", "Invalid rev id")
            repo = None
        return repo

    def _api(self, match: re.Match[str], arguments: dict[str, list[str]]) -> None:
        """Answer a call under /api."""
        repo = self._find(match["kind"], unquote(match["repo"]), unquote(match["rev"] or "main"))
        if repo is None:
            return

        def flag(name: str) -> bool:
            return arguments.get(name, [""])[0].lower() in ("1", "true")

        verb, path = match["verb"], unquote(match["path"] or "").strip("/")
        answer: Any
        if verb == "paths-info":
            wanted = [asked.strip("/") for asked in arguments.get("paths", [])]
            answer = [repo.entry(p, flag("expand")) for p in wanted if p in repo.files or p in repo.folders]
        elif verb == "tree":
            if path and path not in repo.folders:
                self._error(404, "EntryNotFound", "Entry not found", repo)
                return
            inside = [p for p in sorted([*repo.files, *repo.folders]) if not path or p.startswith(f"{path}/")]
            if not flag("recursive"):
                inside = [p for p in inside if str(PurePosixPath(p).parent) == (path or ".")]
            answer = [repo.entry(p, flag("expand")) for p in inside]
        else:
            answer = repo.info(flag("blobs"))
        self._send(200, json.dumps(answer).encode(), {"Content-Type": "application/json"})

    def _resolve(self, kind: str, repo_id: str, revision: str, path: str) -> None:
        """Answer a request for a file, or for the part of it that a Range header names."""
        repo = self._find(kind, repo_id, revision)
        if repo is None:
            return
        file = repo.files.get(path)
        if file is None:
            self._error(404, "EntryNotFound", "Entry not found", repo)
            return
        status, start, end = 200, 0, file.size
        headers = {"Content-Type": "application/octet-stream", "Accept-Ranges": "bytes"}
        headers |= {"X-Repo-Commit": repo.sha, "ETag": f'"{file.etag}"'}
        if file.lfs:
            headers |= {"X-Linked-ETag": f'"{file.etag}"', "X-Linked-Size": str(file.size)}
        asked = _RANGE.fullmatch(self.headers.get("Range", ""))
        if asked and (asked[1] or asked[2]):
            if asked[1]:
                start, end = int(asked[1]), min(int(asked[2] or file.size) + 1, file.size)
            else:
                start = max(file.size - int(asked[2]), 0)
            if start >= end:
                headers["Content-Range"] = f"bytes */{file.size}"
                self._send(416, b"", headers)
                return
            status = 206
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{file.size}"
        self._head(status, end - start, headers)
        if self.command == "HEAD":
            return
        # A truncated file ends at its middle however it is asked for, so resuming gets a client no further.
        stop = min(end, file.size // 2) if self.server.hub.fail == "truncate" else end
        with file.source.open("rb") as stream:
            stream.seek(start)
            left = stop - start
            while left > 0 and (block := stream.read(min(left, _BLOCK))):
                self.wfile.write(block)
                left -= len(block)
        if stop < end:
            self.close_connection = True

    def _error(self, status: int, code: str | None, message: str, repo: _Repo | None = None) -> None:
        """Answer with an error as the Hub words it, in the headers and the body."""
        headers = {"Content-Type": "application/json", "X-Error-Message": message}
        if code:
            headers["X-Error-Code"] = code
        if repo:
            headers["X-Repo-Commit"] = repo.sha
        self._send(status, json.dumps({"error": message}).encode(), headers)

    def _head(self, status: int, length: int, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(length))
        self.end_headers()

    def _send(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        self._head(status, len(body), headers)
        if self.command != "HEAD":
            self.wfile.write(body)


class Hub:
    """A Hub of local folders, listening on 127.0.0.1 for as long as its `with` block lasts.

    The folders are hashed when the object is made and read again for each download, so they must not change
    in between.

    Attributes:
        requests: The method and path of each request so far, failed ones too, such as
            `"HEAD /owner/tiny-bert/resolve/main/config.json"`. No query; the path is as sent, not unquoted.
        fail: How to fail every request from now on, or None to serve them. `"404"` and `"500"` answer with
            that status and no Hub error code; `"hang"` accepts requests and leaves them unanswered until the
            Hub closes; `"truncate"` announces whole files but sends nothing past their middle, and drops the
            connection there.
    """

    requests: list[str]
    fail: Fail | None

    def __init__(
        self, models: Mapping[str, Path] | None = None, datasets: Mapping[str, Path] | None = None
    ) -> None:
        """Read the folders and take a free port; the `with` block then serves them.

        Args:
            models: Model repositories, as repository id to the folder whose files are the repository.
            datasets: Data set repositories, likewise. No id may be in both.

        Raises:
            NotADirectoryError: A folder does not exist.
            ValueError: An id names both a model and a data set.
        """
        given = {"models": models or {}, "datasets": datasets or {}}
        if both := given["models"].keys() & given["datasets"].keys():
            raise ValueError(f"both a model and a data set: {', '.join(sorted(both))}")
        self.requests = []
        self.fail = None
        self._repos = {
            kind: {repo_id: _Repo(repo_id, Path(folder)) for repo_id, folder in repos.items()}
            for kind, repos in given.items()
        }
        self._server = _Server(self)
        self._acceptor: threading.Thread | None = None

    @property
    def endpoint(self) -> str:
        """The address to give the clients as `HF_ENDPOINT`, without a slash at its end."""
        return f"http://127.0.0.1:{self._server.server_port}"

    def revision(self, repo_id: str) -> str:
        """Return the commit a repository is served at: 40 hex digits that follow from the folder's contents.

        Args:
            repo_id: A model's or a data set's id.

        Raises:
            KeyError: The Hub has no such repository.
        """
        return (self._repos["models"] | self._repos["datasets"])[repo_id].sha

    def close(self) -> None:
        """Stop serving: requests still open are cut off, new connections are refused, and the threads end."""
        acceptor, self._acceptor = self._acceptor, None
        self._server.stop(acceptor)

    def __enter__(self) -> "Hub":
        """Start serving."""
        self._acceptor = threading.Thread(target=self._server.run, name="hub", daemon=True)
        self._acceptor.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop serving."""
        self.close()
