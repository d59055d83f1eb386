"""Packs on S3, mirrored piece by piece into the cache and opened there like any other.

Each file is proved by its digest as it comes, and gets its name only then; one that came before is proved again and not
fetched twice. The mirror has its own name only when it is whole. Reached as sources are (atlas/fetch.py): credentials
from the ordinary environment, `?region=`, `?endpoint=` and `?anonymous=1` behind the address.
"""

from __future__ import annotations

import hashlib
import shutil
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ontology import cache_dir, locked, write_whole

from .errors import PackError
from .index import FORMATS
from .pack import Pack
from .verified import ROOT, is_inside, note_verified, read_facts, sha256_of

if TYPE_CHECKING:
    from collections.abc import Callable

BLOCK = 1 << 22
"""Bytes that each thread holds."""
THREADS = 8
"""Files fetched side by side."""
SPARE_BYTES = 1 << 30
"""Disk left free beside a mirror."""


def open_pack(place: str | Path, progress: Callable[[str, int, int], None] = lambda stage, done, total: None) -> Pack:
    """Open a pack, wherever it lies.

    Parameters
    ----------
    place
        Its folder, or `s3://bucket/prefix`, which is mirrored into the cache first.
    progress
        Called with "fetch", bytes there and bytes in all.

    Raises
    ------
    PackError
        When there is no pack, a piece of it is missing or has other bytes (it is named), or the disk is too small.
    """
    if not str(place).startswith("s3://"):
        return Pack(Path(str(place).removeprefix("file://")).expanduser())
    return Pack(_mirror(str(place), progress))


def _mirror(uri: str, progress: Callable[[str, int, int], None]) -> Path:
    """Return the folder of a pack's copy on this machine, fetching what is not there."""
    from pyarrow import fs  # noqa: PLC0415 - the object store's client, for those who need it

    from atlas import fetch, sources  # noqa: PLC0415 - loads tiledbsoma

    location = sources.parse_uri(uri)
    key = location.target.rstrip("/")
    try:
        system = fs.S3FileSystem(**fetch.s3_settings(location))
        with system.open_input_stream(f"{key}/{ROOT}", compression=None) as stream:
            root = stream.read()
        folder = cache_dir() / "packs" / hashlib.sha256(root).hexdigest()[:32]
        with locked(folder):
            if not (folder / "pack").exists():
                write_whole(folder / "part" / ROOT, root)
                sizes = {f.path: f.size for f in system.get_file_info(fs.FileSelector(key, recursive=True))}
                _fetch(_Remote(uri.partition("?")[0], key, system, sizes), folder / "part", progress)
                (folder / "part").rename(folder / "pack")
    except OSError as error:
        raise PackError(uri, f"not fetched ({error})", "check address, region, credentials and disk") from error
    return folder / "pack"


@dataclass(frozen=True)
class _Remote:
    """A pack on S3."""

    uri: str
    """Its address, for errors."""
    key: str
    """Bucket and prefix."""
    system: Any
    """Client."""
    sizes: dict[str, int]
    """Bytes of each object below the prefix."""

    def size(self, name: str) -> int:
        """Return the bytes of a file of the pack."""
        if (size := self.sizes.get(f"{self.key}/{name}")) is None:
            raise PackError(f"{self.uri}/{name}", "missing", "upload the pack again")
        return size


def _fetch(remote: _Remote, folder: Path, progress: Callable[[str, int, int], None]) -> None:
    """Bring every file into a folder that holds the root already."""
    files = read_facts(folder, FORMATS)["files"]
    if outside := [name for name in files if not is_inside(folder, name)]:
        raise PackError(f"{remote.uri}/{outside[0]}", "outside of the pack", "upload the pack again")
    total = sum(remote.size(name) for name in files)
    needed = total - sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    if needed + SPARE_BYTES > shutil.disk_usage(folder).free:
        raise PackError(remote.uri, f"{needed:,} bytes more than fit on the disk of {folder}", "free disk space first")
    done = 0
    with ThreadPoolExecutor(THREADS) as threads:
        fetched = {threads.submit(_fetch_file, remote, folder, name, digest): name for name, digest in files.items()}
        try:
            for future in as_completed(fetched):
                future.result()
                done += remote.size(fetched[future])
                progress("fetch", done, total)
        except BaseException:
            threads.shutdown(cancel_futures=True)
            raise
    note_verified(folder, files)


def _fetch_file(remote: _Remote, folder: Path, name: str, digest: str) -> None:
    """Bring one file, unless it is there with the right bytes."""
    target, proof = folder / name, hashlib.sha256()
    if target.is_file() and sha256_of(target) == digest:
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}")
    with part.open("wb") as out, remote.system.open_input_stream(f"{remote.key}/{name}", compression=None) as stream:
        while block := stream.read(BLOCK):
            proof.update(block)
            out.write(block)
    if proof.hexdigest() != digest:
        part.unlink()
        raise PackError(f"{remote.uri}/{name}", "other bytes than were packed", "upload the pack again")
    part.replace(target)
