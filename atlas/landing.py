"""How files arrive in the cache: whole or not at all, and never more than the disk holds.

Used by `fetch` and `census`. Where things come from is theirs to know; what is in them is `preflight`'s.
"""

from __future__ import annotations

import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING

from .errors import SourceError

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_BYTES = 512 * 2**30  # bytes of one source; the largest published h5ad files take about 100 GB
SPARE_BYTES = 2**30  # disk left free beside a download
BLOCK = 2**20


def room_for(folder: Path) -> int:
    """Return the bytes a source may take in a folder: what is free less a spare gigabyte, 512 GiB at most."""
    return min(MAX_BYTES, shutil.disk_usage(folder).free - SPARE_BYTES)


@contextmanager
def arriving(folder: Path) -> Iterator[Path]:
    """Give a temporary folder beside `folder`; what the block leaves there replaces `folder` when it succeeds."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        yield scratch
        if folder.exists():
            old = Path(tempfile.mkdtemp(prefix=f".{folder.name}-old-", dir=folder.parent))
            folder.rename(old / "old")
            scratch.rename(folder)
            shutil.rmtree(old)
        else:
            scratch.rename(folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def copy_stream(stream: IO[bytes], out: IO[bytes], length: int | None, uri: str) -> None:
    """Copy a download, refusing one that is too large, too large for the disk, or cut short."""
    limit = room_for(Path(out.name).parent)
    if length is not None and length > limit:
        raise SourceError(uri, f"at most {limit:,} bytes", f"{length:,}; free disk space or slice the file")
    got = 0
    while block := stream.read(BLOCK):
        got += len(block)
        if got > limit:
            raise SourceError(uri, f"at most {limit:,} bytes", "more; free disk space or slice the file")
        out.write(block)
    if length is not None and got != length:
        raise SourceError(uri, f"{length:,} bytes", f"{got:,}: the download was cut short; try again")
