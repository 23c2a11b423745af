"""Files on other machines, by fsspec: `https://`, `s3://`, `gs://`, `hf://` and others.

They are fetched into the cache and read there, and fetched again when the server says that they changed.

python -m lit_bert fit --data.dataset s3://bucket/train.csv.gz
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from lit_bert import UserError, require_package
from lit_bert.io import escape, files

HTTP = ("http", "https")
ADDRESS = re.compile(r"[a-z][a-z0-9+.]*://")
CONNECT_S, REQUEST_S = 10, 60  # seconds until a server counts as gone
SECRET = re.compile(r"sig|token|key|secret|pass|credential|auth", re.IGNORECASE)  # in the name of a parameter
VERSION = (
    "ETag",
    "etag",
    "Content-MD5",
    "md5Hash",
    "Last-Modified",
    "LastModified",
    "last_modified",
    "generation",
    "blob_id",
    "mtime",
    "updated",
)  # what servers say that changes with the content


def is_address(place: object) -> bool:
    return ADDRESS.match(str(place)) is not None


def refuse_secrets(address: str) -> None:
    """Raises a UserError where an address holds what nobody else may know: runs and checkpoints keep it."""
    parts = urlsplit(address)
    if parts.password is not None or any(SECRET.search(name) for name, _ in parse_qsl(parts.query, True)):
        raise UserError(
            f"the address on {escape.line(parts.hostname, 100)} holds a password or a key, which runs and "
            "checkpoints would keep. Leave it out: passwords for https come from ~/.netrc, keys of s3 and gs "
            "from the environment or their configuration; or download the file first."
        )


def fetched(address: str, folder: Path) -> list[Path]:
    """The file of an address, or those that fit its pattern, in order, in the cache.

    Args:
        folder: of the cache.

    Raises:
        UserError: it is not there, or the connection fails; nothing half-fetched is left.
    """
    refuse_secrets(address)
    protocol = address.partition("://")[0]
    require_package("fsspec", "files")
    if protocol in HTTP:
        require_package("aiohttp", "files")
    with _said(address):
        system, path = _system(protocol, address)
        found = sorted(system.glob(path)) if re.search(r"[*\[]", path) else [path]
        if not found:
            raise FileNotFoundError
        return [_fetch(system, each, protocol, folder) for each in found]


def _system(protocol: str, address: str) -> tuple[Any, str]:
    """The file system of an address, and the path there."""
    import fsspec

    if protocol in ("s3", "gs"):  # by pyarrow, which has both without another package
        from fsspec.implementations.arrow import ArrowFSWrapper

        store = _s3(address) if protocol == "s3" else _gs()
        return ArrowFSWrapper(store, use_listings_cache=False), address.partition("://")[2]
    try:
        settings = {"client_kwargs": {"trust_env": True}} if protocol in HTTP else {}
        return fsspec.core.url_to_fs(address, use_listings_cache=False, skip_instance_cache=True, **settings)
    except (ValueError, ImportError) as error:
        raise UserError(
            f"{escape.line(address, 200)} cannot be opened: {escape.line(escape.first_line(error))}. "
            "Expected an address that begins with https://, s3://, gs:// or hf://."
        ) from None


def _s3(address: str) -> Any:
    """S3, or what answers like it at $AWS_ENDPOINT_URL; keys come from where AWS's own tools find them."""
    from pyarrow.fs import S3FileSystem, resolve_s3_region

    settings: dict[str, Any] = {"connect_timeout": CONNECT_S, "request_timeout": REQUEST_S}
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    if endpoint := os.environ.get("AWS_ENDPOINT_URL"):
        scheme, _, host = endpoint.rpartition("://")
        settings |= {"endpoint_override": host.rstrip("/"), "scheme": scheme or "https"}
    elif not region:
        region = resolve_s3_region(address.partition("://")[2].partition("/")[0])
    return S3FileSystem(region=region or "us-east-1", **settings)


def _gs() -> Any:
    """Google's, or what answers like it at $STORAGE_EMULATOR_HOST; keys as Google's own tools find them."""
    from pyarrow.fs import GcsFileSystem

    settings: dict[str, Any] = {"retry_time_limit": datetime.timedelta(seconds=REQUEST_S)}
    if endpoint := os.environ.get("STORAGE_EMULATOR_HOST"):
        scheme, _, host = endpoint.rpartition("://")
        settings |= {"endpoint_override": host.rstrip("/"), "scheme": scheme or "http", "anonymous": True}
    return GcsFileSystem(**settings)


def _fetch(system: Any, path: str, protocol: str, folder: Path) -> Path:
    """One file in the cache, under a name that changes with what the server says of it."""
    info = system.info(path)
    version = {name: str(info[name]) for name in VERSION if info.get(name) is not None}
    if info.get("type") == "directory":
        raise IsADirectoryError
    size = info.get("size")
    key = json.dumps([protocol, path, version, size], sort_keys=True)
    name = PurePosixPath(urlsplit(path).path).name or "file"
    final = folder / hashlib.sha256(key.encode()).hexdigest()[:32] / name
    if version and final.is_file():
        return final
    final.parent.mkdir(parents=True, exist_ok=True)
    once: dict[str, Any] = {"block_size": 0} if protocol in HTTP else {}  # in one request, from start to end
    if protocol in ("s3", "gs"):
        once = {"seekable": False}
    with files.whole(final) as partial:
        with system.open(path, "rb", **once) as source, partial.open("wb") as target:
            shutil.copyfileobj(source, target, 1 << 20)
        if size is not None and partial.stat().st_size != size:
            raise OSError(f"{partial.stat().st_size:,} of {size:,} bytes came")
    return final


@contextlib.contextmanager
def _said(address: str) -> Iterator[None]:
    """Says in one line why an address cannot be read."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # libraries of every protocol have their own
        cause = error.__cause__ or error  # fsspec calls whatever keeps it from a web page a missing file
        status = getattr(cause, "status", None)
        if isinstance(error, FileNotFoundError) and (cause is error or status in (404, 410)):
            raise UserError(f"there is nothing at {escape.line(address, 200)}. Check the address.") from None
        why = f"status {status}" if status else escape.line(escape.first_line(cause))
        raise UserError(
            f"{escape.line(address, 200)} cannot be fetched ({why}). Check the address, your rights and the "
            "connection, and run again."
        ) from None
