"""Files in the cache that are whole or absent: written beside, digested, renamed; verified before they are believed.

Used by wheels (fetched members) and genes (derived tables). Anything here can be deleted and comes back on next use.
"""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

log = logging.getLogger(__name__)


@contextmanager
def keep(target: Path) -> Iterator[IO[bytes]]:
    """Open a temporary file that becomes `target` when the block ends well, and vanishes when it does not.

    Parameters
    ----------
    target
        Final path; its folder is made. Its sha256 is recorded beside it as `<name>.sha256`.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=".part-")
    part = Path(name)
    try:
        with os.fdopen(handle, "w+b") as out:
            yield out
            out.flush()
            os.fsync(out.fileno())
        # The digest goes first: a crash between the two renames leaves a file that reads as absent, not as sound.
        _record(target, _digest(part))
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


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


def _record(target: Path, digest: str) -> None:
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=".part-")
    with os.fdopen(handle, "w", encoding="ascii") as out:
        out.write(f"{digest}\n")
    Path(name).replace(_record_path(target))
