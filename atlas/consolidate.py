"""Keeping an atlas of many datasets quick to open: what each ingest added a fragment to is read as one again.

Two things, and neither takes anything from an earlier moment. Frames that every ingest writes as a whole (var, the
tables of census_info) are read slower with each, for TileDB lays all writings over another; they are written anew,
beside, and published as a moment of their own (`fresh_frames`, which long runs of ingests use too). Of the large
arrays, whose fragments lie side by side, only the fragments' metadata are joined in one file, which is read in place of
one a fragment. TileDB's consolidation of fragments is not used: to be of use it must vacuum, and so remove what
releases read.
"""

from __future__ import annotations

import os
import shutil
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import tiledbsoma as soma

from . import layout, store
from .contexts import context_of
from .doctor import later_than
from .errors import StoreError
from .fresh_frames import renew_frames, slow_frames, written_names
from .handle import open_atlas
from .ingest import recover
from .ledger import Ledger, writer_lock
from .object_store import ObjectPlace

if TYPE_CHECKING:
    from collections.abc import Callable

    Place = Path | ObjectPlace
    Progress = Callable[[str, int, int], None]

MOST_FRAGMENTS = 8
"""A frame of more than so many writings is written anew; var of 79,000 genes takes 20 ms of CPU for each more."""
WORKSHOP = ".part-consolidation"
"""Folder of the atlas in which metadata are joined before they are seen."""
_META = "__fragment_meta"


@dataclass(frozen=True)
class Consolidation:
    """What was done, or is to be done."""

    status: Literal["consolidated", "unchanged", "planned"]
    """`unchanged` where nothing was to do, `planned` in a dry run."""
    rewritten: dict[str, int]
    """Frames that were written anew, with the fragments they had; they have one."""
    joined: dict[str, int]
    """Arrays whose fragments' metadata are in one file now, with their fragments."""
    published_ms: int
    """The newest published moment, which is a new one where frames were written anew."""
    seconds: float = 0.0
    """Wall-clock time, in seconds."""

    def to_dict(self) -> dict[str, Any]:
        """Return the result as plain values, ready for JSON."""
        return asdict(self)


def consolidate(
    uri: str, *, dry_run: bool = False, progress: Progress = lambda _stage, _done, _total: None
) -> Consolidation:
    """Make an atlas open and read as quickly as one of few ingests; what it holds, at every moment, stays as it is.

    Parameters
    ----------
    uri
        Folder of the atlas.
    dry_run
        Say what would be done.
    progress
        Called with a stage, arrays done and arrays in all.

    Raises
    ------
    StoreError
        If another process is writing, or something in the store was never published.
    """
    began = time.monotonic()
    atlas = open_atlas(uri)
    root, folder = atlas.place, atlas.place / store.LEDGER
    if dry_run:
        frames = {_name(root, parent, name): n for parent, name, n in slow_frames(root, lambda _name: MOST_FRAGMENTS)}
        return Consolidation("planned", frames, _unjoined(root), atlas.published_ms)
    with writer_lock(folder), Ledger(folder / "ledger.sqlite") as ledger:
        recover(root, ledger)
        if late := later_than(root, ledger.published_ms()):  # joined with what is published, it could not be removed
            said = f"{len(late)} files are newer than the published moment, e.g. {late[0]}"
            raise StoreError(uri, "consolidate", f"{said}; `panatlas doctor --repair` removes them")
        slow = list(slow_frames(root, lambda _name: MOST_FRAGMENTS))
        if slow:
            try:
                renew_frames(root, ledger, slow, progress)
            except BaseException:
                recover(root, ledger)
                raise
        joined = _unjoined(root)
        for done, (name, _) in enumerate(joined.items()):
            _join_metadata(root, root / name)
            progress("join metadata", done + 1, len(joined))
        rewritten = {_name(root, parent, name): n for parent, name, n in slow}
        status = "consolidated" if rewritten or joined else "unchanged"
        seconds = round(time.monotonic() - began, 3)
        return Consolidation(status, rewritten, joined, ledger.published_ms(), seconds)


def _unjoined(root: Place) -> dict[str, int]:
    """Return the arrays with fragments whose metadata are in no common file yet, and how many fragments each has."""
    found = {}
    for name in _arrays(root):
        newest = max((n.split("_")[3] for n in written_names(root / name / _META)), default="")
        fragments = written_names(root / name / "__fragments")
        if len(fragments) > 1 and max(n.split("_")[3] for n in fragments) > newest:
            found[name] = len(fragments)
    return found


def _arrays(root: Place) -> list[str]:
    """Return the paths of all arrays of an atlas below its folder, sorted; members or not, for moments read these."""
    if isinstance(root, ObjectPlace):
        parts = (name.partition("/__fragments/") for name in root.inside())
        return sorted({array for array, cut, _ in parts if cut})
    found = []
    for top in (layout.INFO, layout.DATA):
        for folder, inside, _ in os.walk(root / top):
            if "__fragments" in inside:
                found.append(Path(folder).relative_to(root).as_posix())
            inside[:] = [name for name in inside if not name.startswith("__")]
    return sorted(found)


def _join_metadata(root: Place, array: Place) -> None:
    """Join the metadata of an array's fragments in one file, which is there whole or not at all.

    TileDB writes the file in its place, and an array with half of one cannot be opened at all. In a folder it is
    therefore made in a workshop that borrows the array's other folders, and renamed; object storage has no half
    objects. The file before the last is removed: whoever opened the array just now may be about to read the last.
    """
    if isinstance(array, ObjectPlace):
        before = sorted((array / _META).inside(), key=lambda name: name.split("_")[3])
        _consolidate(array)
        (array / _META).remove(before[:-1])
        return
    assert isinstance(root, Path)
    workshop = root / WORKSHOP
    shutil.rmtree(workshop, ignore_errors=True)
    workshop.mkdir()
    try:
        for part in array.iterdir():
            if part.name != _META:
                (workshop / part.name).symlink_to(part, target_is_directory=part.is_dir())
        _consolidate(workshop)
        former = sorted((array / _META).glob("*"), key=lambda p: p.name.split("_")[3])
        (array / _META).mkdir(exist_ok=True)
        for made in (workshop / _META).glob("*.meta"):
            with made.open("rb") as file:
                os.fsync(file.fileno())
            made.rename(array / _META / made.name)
        for old in former[:-1]:
            old.unlink()
    finally:
        shutil.rmtree(workshop, ignore_errors=True)


def _consolidate(array: Place) -> None:
    """Let TileDB join the metadata of fragments, and nothing else: its vacuum is of fragments that were joined."""
    with soma.open(str(array), "w", context=context_of(array)) as handle:
        handle._handle.consolidate_and_vacuum(["fragment_meta"])  # public only as a part of a write, with more modes


def _name(root: Place, parent: Place, name: str) -> str:
    """Return what a frame is called, below the atlas' folder."""
    return f"{parent}/{name}".removeprefix(f"{root}/")
