"""Folders that say of each of their files which bytes it has: `verify_files` proves it, and notes what was proved.

Packs and indexes are such folders (index.py), and are mirrored file by file (pack_mirror.py). The list of digests is in
the folder's zarr.json, which is proved by a digest of its own.
"""

from __future__ import annotations

import hashlib
import json
import logging
from typing import TYPE_CHECKING, Any

from ontology import cache_dir, write_whole

from .errors import PackError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

log = logging.getLogger(__name__)

ROOT = "zarr.json"
VERIFIED = "verified.json"
"""Note of which files were found sound here; a copy of the folder does not believe it."""
REMEDY = "copy it again, or make it again"


def digest_of(facts: Mapping[str, Any]) -> str:
    """Return the sha256 of JSON values, whatever the order of keys."""
    return hashlib.sha256(json.dumps(dict(facts), sort_keys=True).encode()).hexdigest()


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def read_facts(path: Path, formats: Mapping[str, int]) -> dict[str, Any]:
    """Return what a folder says of itself, its own digest proved.

    Parameters
    ----------
    path
        The folder.
    formats
        The attribute that holds the format's number, and the number that this version reads.

    Raises
    ------
    PackError
        When it is no such folder, of another format, or was edited.
    """
    try:
        facts = json.loads((path / ROOT).read_text(encoding="utf-8"))["attributes"]
        facts = dict(facts)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise PackError(str(path), f"no pack ({error})", "name the folder that `panatlas pack` made") from error
    for name, number in formats.items():
        if facts.get(name) != number:
            raise PackError(str(path), f"format {facts.get(name)}", f"make it again; this version reads {number}")
    if facts.pop("digest", None) != digest_of(facts):
        raise PackError(str(path / ROOT), "changed since it was made", REMEDY)
    return facts


def verify_files(path: Path, files: Mapping[str, str]) -> None:
    """Prove the digest of each file of a folder that changed since it was last proved.

    Parameters
    ----------
    path
        The folder.
    files
        sha256 of each file, by its name in the folder.

    Raises
    ------
    PackError
        Naming the first file that is missing or has other bytes.
    """
    known, fresh = _noted(path), {}
    for name, digest in files.items():
        file = path / name
        if not is_inside(path, name) or not file.is_file():
            raise PackError(str(file), "missing", REMEDY)
        fresh[name] = _state(file)
        if known.get(name) != fresh[name] and sha256_of(file) != digest:
            raise PackError(str(file), "other bytes than were written", REMEDY)
    if fresh != known:
        _note(path, fresh)


def note_verified(path: Path, files: Iterable[str]) -> None:
    """Note that these files were proved while they were written."""
    _note(path, {name: _state(path / name) for name in files})


def is_inside(path: Path, name: str) -> bool:
    """Return whether a name leads to a place inside a folder."""
    return path.resolve() in (path / name).resolve().parents


def _note(path: Path, states: Mapping[str, list[int]]) -> None:
    for place in _note_places(path):
        try:
            write_whole(place, json.dumps(states).encode())
        except OSError as error:
            log.info("no note of the verification in %s: %s", place.parent, error)
        else:
            return


def _noted(path: Path) -> dict[str, list[int]]:
    for place in _note_places(path):
        try:
            return dict(json.loads(place.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            continue
    return {}


def _note_places(path: Path) -> tuple[Path, Path]:
    """Return where a note is kept: in the folder, or in the cache where the folder may not be written."""
    name = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:32]
    return path / VERIFIED, cache_dir() / "verified" / f"{name}.json"


def _state(file: Path) -> list[int]:
    """Return what changes with a file; device and inode too: a copy keeps size and time, and has not been proved."""
    stat = file.stat()
    return [stat.st_size, stat.st_mtime_ns, stat.st_dev, stat.st_ino]
