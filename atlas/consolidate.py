"""Keeping an atlas of many datasets quick to open: what each ingest added a fragment to is read as one again.

Two things, and neither takes anything from an earlier moment. Frames that every ingest writes as a whole (var, the
tables of census_info) are read slower with each, for TileDB lays all writings over another; they are written anew,
beside, and published as a moment of their own (`editions.take_member`). Of the large arrays, whose fragments lie side
by side, only the fragments' metadata are joined in one file, which is read in place of one a fragment. TileDB's
consolidation of fragments is not used: to be of use it must vacuum, and so remove what releases read.
"""

from __future__ import annotations

import os
import shutil
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import tiledbsoma as soma

from . import editions, layout, store
from .contexts import context_of, opened
from .doctor import later_than
from .errors import StoreError
from .handle import open_atlas
from .ingest import recover
from .ledger import Ledger, behind, now_ms, writer_lock
from .object_store import ObjectPlace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import pyarrow as pa

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
        frames = {_name(root, parent, name): n for parent, name, n in _slow_frames(root)}
        return Consolidation("planned", frames, _unjoined(root), atlas.published_ms)
    with writer_lock(folder), Ledger(folder / "ledger.sqlite") as ledger:
        recover(root, ledger)
        if late := later_than(root, ledger.published_ms()):  # joined with what is published, it could not be removed
            said = f"{len(late)} files are newer than the published moment, e.g. {late[0]}"
            raise StoreError(uri, "consolidate", f"{said}; `panatlas doctor --repair` removes them")
        slow = list(_slow_frames(root))
        if slow:
            _renew_frames(root, ledger, slow, progress)
        joined = _unjoined(root)
        for done, (name, _) in enumerate(joined.items()):
            _join_metadata(root, root / name)
            progress("join metadata", done + 1, len(joined))
        rewritten = {_name(root, parent, name): n for parent, name, n in slow}
        status = "consolidated" if rewritten or joined else "unchanged"
        seconds = round(time.monotonic() - began, 3)
        return Consolidation(status, rewritten, joined, ledger.published_ms(), seconds)


def _slow_frames(root: Place) -> Iterator[tuple[Place, str, int]]:
    """Yield collection, name and fragments of each frame that has too many."""
    homes = [root / layout.DATA / editions.edition_at(root, name) for name in store.experiments(root)]
    frames = [(home / layout.MEASUREMENT, "var") for home in homes]
    with opened(soma.Collection, root / layout.INFO) as info:
        frames += [(root / layout.INFO, name) for name in sorted(info)]
    for parent, name in frames:
        fragments = _names(store.place_of(editions.member_at(parent, name)) / "__fragments")
        if len(fragments) > MOST_FRAGMENTS:
            yield parent, name, len(fragments)


def _renew_frames(root: Place, ledger: Ledger, slow: list[tuple[Place, str, int]], progress: Progress) -> None:
    """Write frames anew and publish the moment from which on these are read."""
    if (published := ledger.published_ms()) >= (now := now_ms()):
        raise StoreError(str(root), "consolidate", behind(now, published))
    ledger.begin()
    try:
        made = []
        for done, (parent, name, _) in enumerate(slow):
            made.append((parent, name, _write_anew(parent, name)))
            progress("rewrite tables", done + 1, len(slow))
        for one in made:
            editions.take_member(*one)
        store.tick()
        ledger.publish_upkeep(now_ms())
    except BaseException:
        recover(root, ledger)
        raise


def _write_anew(parent: Place, name: str) -> Place:
    """Write a frame's rows and metadata as one fragment of a new frame beside it, read it back, and return its place.

    Its categories would be lost here; the frames this is for have none.
    """
    place = editions.free_member(parent, name)
    with opened(soma.DataFrame, editions.member_at(parent, name)) as frame:
        rows, metadata = _rows_of(frame), {k: v for k, v in frame.metadata.items() if not k.startswith("soma_")}
        last = frame.domain[0][1]
        soma.DataFrame.create(
            str(place), schema=frame.schema, index_column_names=["soma_joinid"], domain=[[0, last]],
            platform_config=layout.frame_options(), context=context_of(place),
        ).close()  # fmt: skip
    store.tick()
    with opened(soma.DataFrame, place, "w") as frame:
        frame.write(rows)
        for key, value in metadata.items():
            frame.metadata[key] = value
    store.tick()
    with opened(soma.DataFrame, place) as frame:
        if not _rows_of(frame).equals(rows):
            raise StoreError(str(place), "verify", "it reads back differently; check the disk, and run this again")
    return place


def _rows_of(frame: soma.DataFrame) -> pa.Table:
    """Return a frame's rows in order of joinids."""
    return frame.read().concat().sort_by("soma_joinid").combine_chunks()


def _unjoined(root: Place) -> dict[str, int]:
    """Return the arrays with fragments whose metadata are in no common file yet, and how many fragments each has."""
    found = {}
    for name in _arrays(root):
        newest = max((n.split("_")[3] for n in _names(root / name / _META)), default="")
        fragments = _names(root / name / "__fragments")
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
        _consolidate(array)
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
    """Let TileDB join the metadata of fragments, and nothing else."""
    with soma.open(str(array), "w", context=context_of(array)) as handle:
        handle._handle.consolidate_and_vacuum(["fragment_meta"])  # public only as a part of a write, with more modes


def _names(place: Place) -> list[str]:
    """Return the names of what is in a place, without those that TileDB did not give."""
    if isinstance(place, ObjectPlace):
        names = {name.partition("/")[0] for name in place.inside()}
    else:
        names = {p.name for p in place.glob("*")}
    return sorted(name for name in names if len(name.split("_")) > 4)


def _name(root: Place, parent: Place, name: str) -> str:
    """Return what a frame is called, below the atlas' folder."""
    return f"{parent}/{name}".removeprefix(f"{root}/")
