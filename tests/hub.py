"""A stand-in for the Hugging Face Hub: local folders served on 127.0.0.1, as far as our clients ask for it.

    with Hub(models={"owner/tiny-bert": folder}, datasets={"owner/tiny-emotion": other}) as hub:
        subprocess.run([...], env={**os.environ, "HF_ENDPOINT": hub.endpoint, "HF_HOME": fresh}, check=True)

The clients read HF_ENDPOINT when they are imported, hence a fresh process. A repository has one commit, known
as `main` and by its sha. Reading needs no token; uploads need the one that may write, and go the way without
Xet (HF_HUB_DISABLE_XET=1).
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import socketserver
import sys
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path, PurePosixPath
from typing import Any, Literal
from urllib.parse import parse_qs, unquote

FILE_URL = re.compile(r"/(datasets/)?([^/]+(?:/[^/]+)?)/resolve/([^/]+)/(.+)")
API_URL = re.compile(
    r"/api/(models|datasets)/([^/]+(?:/[^/]+)??)(?:/(revision|tree|paths-info)/([^/]+)(?:/(.+))?)?"
)
UPLOAD_URL = re.compile(
    r"/api/(?:repos/(create)|(validate-yaml)|models/([^/]+/[^/]+)/(preupload|commit)/main)"
    r"|/([^/]+/[^/]+)\.git/info/lfs/objects/(batch)|/lfs/([0-9a-f]{64})"
)
LICENCES = ("apache-2.0", "mit", "other")  # a few of those that the Hub knows
REGULAR = (".md", ".json", ".txt")  # ends of names of files that come within the commit, the others before it


class Repo:
    """Files as they are at one time; the sha follows from names and contents."""

    def __init__(self, files: Mapping[str, bytes]) -> None:
        self.files = dict(sorted(files.items()))
        self.folders = {str(parent) for path in self.files for parent in PurePosixPath(path).parents}
        contents = "".join(f"{path} {etag(content)}\n" for path, content in self.files.items())
        self.sha = hashlib.sha1(contents.encode()).hexdigest()

    @classmethod
    def of(cls, folder: Path) -> Repo:
        """A folder, read once."""
        paths = (path for path in folder.rglob("*") if path.is_file())
        return cls({path.relative_to(folder).as_posix(): path.read_bytes() for path in paths})

    def entry(self, path: str) -> dict[str, Any]:
        """A file or a folder, as the tree and paths-info calls describe it."""
        content = self.files.get(path)
        kind = "directory" if content is None else "file"
        return {"type": kind, "path": path, "size": len(content or b""), "oid": etag(content or b"")}


def etag(content: bytes) -> str:
    """What stands for a file's content."""
    return hashlib.sha1(content).hexdigest()


class Handler(BaseHTTPRequestHandler):
    """One request for each connection, so that nothing outlives `Hub.close`."""

    server: Server

    def do_GET(self) -> None:
        """Answers any method: fails if told to, else finds what is asked for."""
        posted = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path, _, query = self.path.partition("?")
        hub = self.server.hub
        hub.requests.append(f"{self.command} {path}")
        if hub.fail == "hang":
            hub.closing.wait()
        elif isinstance(hub.fail, int):
            self.send(hub.fail, b"told to fail", {"X-Error-Code": "GatedRepo"} if hub.fail == 403 else {})
        elif self.command in ("POST", "PUT") and (match := UPLOAD_URL.fullmatch(path)):
            create, yaml, repo_id, step, lfs_id, batch, oid = match.groups()
            self.take(create or yaml or step or batch or "put", repo_id or lfs_id or oid, posted)
        elif match := FILE_URL.fullmatch(path):
            kind, repo_id, revision, name = (unquote(part or "models") for part in match.groups())
            if repo := self.repo(kind.rstrip("/"), repo_id, revision):
                self.send_file(repo, repo_id, name)
        elif match := API_URL.fullmatch(path):
            kind, repo_id, verb, revision, below = (unquote(part or "") for part in match.groups())
            if repo := self.repo(kind, repo_id, revision or "main"):
                asked = parse_qs(query) | parse_qs(posted.decode())
                self.send(200, json.dumps(self.describe(repo, repo_id, verb, below, asked)).encode())
        else:
            self.send(404, b"no such page")

    do_HEAD = do_POST = do_PUT = do_GET

    def take(self, step: str, name: str | None, posted: bytes) -> None:
        """One step of an upload: by a token that may write, but for the file itself, whose address is secret.

        Args:
            step: `create`, `validate-yaml`, `preupload`, `batch`, `put` or `commit`, as clients ask.
            name: of the repository or, to `put`, the file's SHA-256.
            posted: the request's body.
        """
        hub, sent = self.server.hub, self.headers.get("Authorization")
        if step != "put" and sent != f"Bearer {hub.token}":
            self.send(403 if sent else 401, json.dumps({"error": "not with this token"}).encode())
            return
        answer: dict[str, Any] = {}
        if step == "put":
            if hashlib.sha256(posted).hexdigest() != name:
                self.send(400, b"another file was announced")
                return
            hub.stored[str(name)] = posted
        elif step == "commit":
            lines = [json.loads(line) for line in posted.splitlines()]
            answer = {"commitUrl": f"{hub.endpoint}/{name}/commit/{hub.commit(str(name), lines)}"}
            answer["commitOid"] = answer["commitUrl"].rpartition("/")[2]
        else:
            asked = json.loads(posted)
            if step == "create":
                repo_id = f"{asked['organization']}/{asked['name']}"
                hub.created[repo_id] = asked.get("visibility", "public")
                hub.repos["models"].setdefault(repo_id, Repo({}))
                answer = {"url": f"{hub.endpoint}/{repo_id}"}
            elif step == "validate-yaml":
                named = re.search(r"^license: (.+)$", asked["content"], re.MULTILINE)
                known = named is not None and named[1] in LICENCES
                errors = [] if known else [{"message": '"license" must be one of those known'}]
                self.send(400 if errors else 200, json.dumps({"errors": errors, "warnings": []}).encode())
                return
            elif step == "preupload":
                modes = {
                    each["path"]: "regular" if each["path"].endswith(REGULAR) else "lfs"
                    for each in asked["files"]
                }
                answer["files"] = [
                    {"path": path, "uploadMode": mode, "shouldIgnore": False} for path, mode in modes.items()
                ]
            else:
                answer["objects"] = [
                    {**each, "actions": {"upload": {"href": f"{hub.endpoint}/lfs/{each['oid']}"}}}
                    for each in asked["objects"]
                ]
        self.send(200, json.dumps(answer).encode())

    def repo(self, kind: str, repo_id: str, revision: str) -> Repo | None:
        """The repository, or None after an answer that says what is unknown."""
        repo = self.server.hub.repos[kind].get(repo_id)
        if repo is None:
            self.send(401, b"{}", {"X-Error-Code": "RepoNotFound"})
        elif revision not in ("main", repo.sha):
            self.send(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
        else:
            return repo
        return None

    def describe(self, repo: Repo, repo_id: str, verb: str, below: str, asked: dict[str, list[str]]) -> Any:
        """The answer to a call under /api."""
        there = sorted({*repo.files, *repo.folders} - {"."})
        if verb == "paths-info":
            return [repo.entry(path) for path in asked.get("paths", []) if path in there]
        if verb == "tree":
            deep = asked.get("recursive", [""])[0].lower() in ("1", "true")
            parent = PurePosixPath(below)
            inside = [path for path in map(PurePosixPath, there) if parent in path.parents]
            return [repo.entry(str(path)) for path in inside if deep or path.parent == parent]
        return {"id": repo_id, "sha": repo.sha, "siblings": [{"rfilename": path} for path in repo.files]}

    def send_file(self, repo: Repo, repo_id: str, name: str) -> None:
        """A file or, as a client that resumes asks for, the rest of it."""
        content = repo.files.get(name)
        if content is None:
            self.send(404, b"{}", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": repo.sha})
            return
        headers = {"X-Repo-Commit": repo.sha, "ETag": f'"{etag(content)}"'}
        resumed = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        start = int(resumed[1]) if resumed else 0
        if resumed:
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        # Truncated, it ends at its middle however it is asked for, so that resuming gets a client no further.
        hub = self.server.hub
        cut = hub.fail == "truncate" and f"{repo_id}/{name}" in hub.truncated
        end = len(content) // 2 if cut else len(content)
        self.send(206 if resumed else 200, content[start:end], headers, len(content) - start)

    def send(
        self, status: int, body: bytes, headers: Mapping[str, str] | None = None, length: int | None = None
    ) -> None:
        """Answers; `length` is what is announced where the body is to fall short of it."""
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": length or len(body)}.items():
            self.send_header(name, str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Keeps quiet."""


class Server(ThreadingHTTPServer):
    """The listening socket, and a daemon thread for each open connection."""

    daemon_threads = True

    def __init__(self, hub: Hub) -> None:
        self.hub = hub
        super().__init__(("127.0.0.1", 0), Handler)

    def server_bind(self) -> None:
        """Binds without the reverse look-up of the host's name that `HTTPServer` makes."""
        socketserver.TCPServer.server_bind(self)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Leaves no traceback for a client that went away; a fault of this file still shows."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class Hub:
    """A Hub of local folders, serving for as long as its `with` block lasts, or until `close`.

    Attributes:
        requests: method and path of each request so far, failed ones too.
        fail: how to fail from now on: answer everything with that status (403 as for a repository behind an
            agreement), leave requests unanswered until the Hub closes, or announce whole files and send half.
        truncated: the files, as `owner/name/path`, that "truncate" is about.
        token: the one that may write.
        created: visibility of each repository that a client made or found.
        commits: repository, message and names of the files of each upload.
    """

    def __init__(self, models: Mapping[str, Path], datasets: Mapping[str, Path]) -> None:
        self.repos = {
            kind: {repo_id: Repo.of(folder) for repo_id, folder in repos.items()}
            for kind, repos in {"models": models, "datasets": datasets}.items()
        }
        self.requests: list[str] = []
        self.fail: int | Literal["hang", "truncate"] | None = None
        self.truncated: set[str] = set()
        self.token = "hf_may_write"
        self.created: dict[str, str] = {}
        self.commits: list[tuple[str, str, list[str]]] = []
        self.stored: dict[str, bytes] = {}  # large files by SHA-256, before a commit names them
        self.closing = threading.Event()
        self._server = Server(self)
        self.endpoint = f"http://127.0.0.1:{self._server.server_address[1]}"

    def revision(self, repo_id: str) -> str:
        """The commit a repository is served at, 40 hex digits."""
        return (self.repos["models"] | self.repos["datasets"])[repo_id].sha

    def commit(self, repo_id: str, lines: list[dict[str, Any]]) -> str:
        """Adds files to a repository, as the lines of a commit say. Returns the new revision."""
        message = lines[0]["value"]["summary"]
        added: dict[str, bytes] = {}
        for key, value in ((line["key"], line["value"]) for line in lines[1:]):
            large = key == "lfsFile"
            added[value["path"]] = self.stored[value["oid"]] if large else base64.b64decode(value["content"])
        self.repos["models"][repo_id] = Repo(self.repos["models"][repo_id].files | added)
        self.commits.append((repo_id, message, sorted(added)))
        return self.revision(repo_id)

    def close(self) -> None:
        """Stops serving: hanging requests are cut off, new connections are refused."""
        if not self.closing.is_set():
            self.closing.set()
            self._server.shutdown()
            self._server.server_close()

    def __enter__(self) -> Hub:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
