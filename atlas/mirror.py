"""What lies beside an atlas on object storage, on this machine: its releases, and tables and reports made from it.

Releases never change, so a copy of one is as good as the original: it is fetched once, whole, and put up once, its
manifest last and only where there is none of that name. Tables and reports are made anew on each machine.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from pathlib import Path

from ontology import cache_dir

from .errors import StoreError
from .object_store import ObjectChangedError, ObjectPlace
from .store import place_of

RELEASES = "releases"
MANIFEST = "manifest.json"
"""The file of a release that is written last: with it the release is whole."""


def side_folder(uri: str) -> Path:
    """Return the folder of what lies beside an atlas' store: releases, tables, reports.

    Of an atlas on object storage it is a folder in the cache of this machine, where its releases are mirrored first.
    """
    place = place_of(uri)
    return _mirror(place) if isinstance(place, ObjectPlace) else place


def _mirror(root: ObjectPlace) -> Path:
    """Return the folder in the cache that stands for an atlas, after fetching the releases it lacks."""
    folder = cache_dir() / "atlases" / hashlib.sha256(str(root).encode()).hexdigest()[:32]
    home = folder / RELEASES
    home.mkdir(parents=True, exist_ok=True)
    there = root / RELEASES
    names = there.inside()
    for name in sorted(name.removesuffix(f"/{MANIFEST}") for name in names if name.endswith(f"/{MANIFEST}")):
        if "/" not in name and not (home / name).exists():
            _fetch(there, [one for one in names if one.startswith(f"{name}/")], home, name)
    return folder


def _fetch(there: ObjectPlace, files: list[str], home: Path, name: str) -> None:
    """Bring one release; it has its name when it is whole."""
    part = Path(tempfile.mkdtemp(prefix=".part-", dir=home))
    try:
        part.chmod(0o755)
        for file in files:
            found = (there / file).read()
            path = part / file.removeprefix(f"{name}/")
            if found is None or not path.resolve().is_relative_to(part.resolve()):
                raise StoreError(
                    str(there / file), "fetch", "it is not there, or not a file of a release; run this again"
                )
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(found.data)
        try:
            part.rename(home / name)
        except OSError:
            if not (home / name / MANIFEST).is_file():  # not merely another process that was quicker
                raise
    finally:
        shutil.rmtree(part, ignore_errors=True)


def upload_release(uri: str, folder: Path) -> None:
    """Put a release, made in the side folder, beside its atlas, the manifest last; a local one is there already.

    Raises
    ------
    StoreError
        If another release of its name is there: then this one is not kept here either.
    """
    root = place_of(uri)
    if not isinstance(root, ObjectPlace):
        return
    there = root / RELEASES / folder.name
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    for path in sorted(files, key=lambda p: (p.name == MANIFEST, p)):
        place, data = there / path.relative_to(folder).as_posix(), path.read_bytes()
        try:
            place.write(data, None)
        except ObjectChangedError as exc:
            now = place.read()
            if now is None or now.data != data:
                shutil.rmtree(folder)
                said = f"a release {folder.name} is there already, or in the making, with another {path.name}"
                raise StoreError(str(there), "release", f"{said}; name another") from exc
