"""Files that are whole or absent: `write_whole` writes beside, syncs and renames; `locked` lets in one writer at once.

Every floor writes its small files so. For files of the cache, `keep` also records a digest and `intact` verifies it
before they are believed; those can be deleted and come back on next use (wheels, genes, term_table, biomart_pages).
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

log = logging.getLogger(__name__)


def write_whole(path: Path, data: bytes) -> None:
    """Write a file whole or not at all; its folder is made. It is on disk when this returns.

    Parameters
    ----------
    path
        The file; a former one is replaced in one step.
    data
        Its bytes.
    """
    write_together({path: data})


def write_together(files: Mapping[Path, bytes]) -> None:
    """Write several files so that what can fail (no space, no right to write) fails before the first is replaced.

    All are on disk under other names before any gets its own. Only a machine that dies between two renames, which
    take microseconds, leaves some replaced and others not.
    """
    parts: dict[Path, Path] = {}
    try:
        for path, data in files.items():
            parts[path] = _part_of(path)
            with parts[path].open("wb") as out:
                out.write(data)
                _sync(out)
        for path, part in parts.items():
            part.replace(path)
    finally:
        for part in parts.values():
            part.unlink(missing_ok=True)


@contextmanager
def whole_file(target: Path) -> Iterator[IO[bytes]]:
    """Open a file that becomes `target` when the block ends well, and vanishes when it does not; for long ones.

    Until then it lies under another name, which is the stream's `name`.
    """
    part = _part_of(target)
    try:
        with part.open("w+b") as out:
            yield out
            _sync(out)
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Wait until no other process or thread writes in a folder, and keep them out while the block runs.

    The folder is made; its file `.lock` stays. Not for nesting: a block that asks for the same folder waits for ever.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextmanager
def keep(target: Path) -> Iterator[IO[bytes]]:
    """Open a temporary file that becomes `target` when the block ends well, and vanishes when it does not.

    Parameters
    ----------
    target
        Final path; its folder is made. Its sha256 is recorded beside it as `<name>.sha256`.
    """
    with whole_file(target) as out:
        yield out
        out.flush()
        # The digest goes first: a crash between the two renames leaves a file that reads as absent, not as sound.
        write_whole(_record_path(target), f"{_digest(Path(out.name))}\n".encode("ascii"))


def intact(target: Path) -> bool:
    """Tell whether a cached file is there with the bytes it was written with; a damaged one counts as absent."""
    record = _record_path(target)
    if not (target.is_file() and record.is_file()):
        return False
    sound = _digest(target) == record.read_text(encoding="ascii", errors="replace").strip()
    if not sound:
        log.warning("%s was damaged in the cache and is made again", target.name)
    return sound


def _digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _record_path(target: Path) -> Path:
    return target.with_name(f"{target.name}.sha256")


def _part_of(target: Path) -> Path:
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=".part-")
    os.close(handle)
    return Path(name)


def _sync(out: IO[bytes]) -> None:
    out.flush()
    os.fsync(out.fileno())
