"""What lies beside an atlas on object storage, on this machine: its releases, and tables and reports made from it.

Releases never change, so a copy of one is as good as the original: it is fetched once, whole, and put up once, its
manifest last and only where there is none of that name; what has a name here is there. Tables and reports are made anew
on each machine. Whoever makes or fetches a release does so in a folder of its own (`release_part`).
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from ontology import cache_dir

from .errors import StoreError
from .object_store import ObjectChangedError, ObjectPlace, endpoint
from .store import place_of

if TYPE_CHECKING:
    from collections.abc import Iterator

RELEASES = "releases"
MANIFEST = "manifest.json"
"""The file of a release that is written last: with it the release is whole."""


def side_folder(uri: str) -> Path:
    """Return the folder of what lies beside an atlas' store: releases, tables, reports.

    Of an atlas on object storage it is a folder in the cache of this machine, where its releases are mirrored first.
    """
    place = place_of(uri)
    return _mirror(place) if isinstance(place, ObjectPlace) else place


@contextmanager
def release_part(home: Path) -> Iterator[Path]:
    """Make a folder for a release in the making, which is removed if it gets no name; first those of killed makers.

    Parameters
    ----------
    home
        Folder of the atlas' releases. Every maker shares a lock on it that the kernel drops with the process, so who
        gets it alone is the only one.
    """
    home.mkdir(parents=True, exist_ok=True)
    handle = os.open(home, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with suppress(OSError):  # somebody is making a release, or the file system has no locks: sweep another time
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for left in home.glob(".part-*"):
                shutil.rmtree(left, ignore_errors=True)
        with suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_SH)
        part = Path(tempfile.mkdtemp(prefix=".part-", dir=home))
        try:
            yield part
        finally:
            shutil.rmtree(part, ignore_errors=True)
    finally:
        os.close(handle)


def _mirror(root: ObjectPlace) -> Path:
    """Return the folder in the cache that stands for an atlas, after fetching the releases it lacks.

    It is this very atlas': another server, or an atlas made anew at the same address, has another one.
    """
    made = next(iter((root / "__group").inside()), "")  # what a SOMA tree is made with; its name has a random part
    known = json.dumps([endpoint(), str(root), made])
    folder = cache_dir() / "atlases" / hashlib.sha256(known.encode()).hexdigest()[:32]
    home = folder / RELEASES
    home.mkdir(parents=True, exist_ok=True)
    there = root / RELEASES
    files = [tuple(name.split("/")) for name in there.inside()]
    for name in sorted(one[0] for one in files if one[1:] == (MANIFEST,) and not one[0].startswith(".")):
        if not (home / name / MANIFEST).is_file():
            _fetch(there / name, [one[1] for one in files if one[0] == name and len(one) == 2], home / name)
    return folder


def _fetch(there: ObjectPlace, files: list[str], target: Path) -> None:
    """Bring one release; it has its name when it is whole."""
    with release_part(target.parent) as part:
        for file in files:
            found = (there / file).read()
            if found is None or file in ("", ".", ".."):
                said = "it is not there, or not a file of a release; run this again"
                raise StoreError(str(there / file), "fetch", said)
            with (part / file).open("wb") as out:
                out.write(found.data)
                out.flush()
                os.fsync(out.fileno())
        part.chmod(0o755)
        if not (target / MANIFEST).is_file():  # what lacks it is no release
            shutil.rmtree(target, ignore_errors=True)
        try:
            part.rename(target)
        except OSError:
            if not (target / MANIFEST).is_file():  # not merely another process that was quicker
                raise


def upload_release(uri: str, folder: Path, name: str) -> None:
    """Put a release beside its atlas, the manifest last, before it has its name here; a local atlas needs nothing.

    What an earlier call put up of the same release is left as it is, so one that failed is finished by the next.

    Raises
    ------
    StoreError
        If another release of its name is there.
    """
    root = place_of(uri)
    if not isinstance(root, ObjectPlace):
        return
    there = root / RELEASES / name
    files = sorted(p for p in folder.iterdir() if p.is_file())
    for path in sorted(files, key=lambda p: p.name == MANIFEST):
        place, data = there / path.name, path.read_bytes()
        try:
            place.write(data, None)
        except ObjectChangedError as exc:
            now = place.read()
            if now is None or now.data != data:
                said = f"a release {name} is there already, or in the making, with another {path.name}"
                raise StoreError(str(there), "release", f"{said}; name another") from exc
