"""Where an organism's arrays are at a moment: in its own folder, or in an edition of it that a retraction wrote.

Joinids are dense, so where a dataset is taken out the cells after it move up; an array that held both would be read
slowly from then on (TileDB sorts what overlaps). A retraction therefore writes the cells that stay into new arrays
below `<experiment>/edition-N`, and makes these the Experiment's `obs` and `ms` in place of the former, which stay for
who reads an earlier moment. Official clients follow the members of the group; `edition_at` does too. Frames that every
ingest writes as a whole are replaced likewise, by a consolidation, as `<name>~N` beside them: `member_at`.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import tiledbsoma as soma

from . import layout
from .contexts import opened
from .object_store import ObjectPlace

if TYPE_CHECKING:
    from pathlib import Path

EDITION = "edition-"
"""How the folders begin; the first arrays, in the Experiment's own folder, count as edition 1."""
MEMBERS = {"obs": soma.DataFrame, "ms": soma.Collection}
_TICK_S = 0.002  # TileDB orders schema versions by millisecond; two in one millisecond may lose the first


def tick() -> None:
    """Wait until the clock shows a later millisecond than anything written so far."""
    time.sleep(_TICK_S)


def edition_at(root: Path | ObjectPlace, experiment: str, at: int | None = None) -> str:
    """Return the folder, below census_data, that holds an organism's arrays at a moment, None for now."""
    home = root / layout.DATA / experiment
    if not _named(home, EDITION):
        return experiment
    with opened(soma.Experiment, home, at=at) as held:
        return held["obs"].uri.rpartition(f"/{layout.DATA}/")[2].removesuffix("/obs")


def free_edition(root: Path | ObjectPlace, experiment: str) -> str:
    """Return the folder, below census_data, of the next edition; there is nothing yet."""
    taken = _named(root / layout.DATA / experiment, EDITION)
    number = next(n for n in range(2, len(taken) + 3) if f"{EDITION}{n}" not in taken)
    return f"{experiment}/{EDITION}{number}"


def member_at(parent: Path | ObjectPlace, name: str, at: int | None = None) -> str:
    """Return the path of a frame of a collection at a moment, None for now; a consolidation may have replaced it."""
    if not _named(parent, f"{name}~"):
        return str(parent / name)
    with opened(soma.Measurement if name == "var" else soma.Collection, parent, at=at) as held:
        return held[name].uri.removeprefix("file://")


def free_member(parent: Path | ObjectPlace, name: str) -> Path | ObjectPlace:
    """Return a place for the next frame of this name, where there is nothing yet."""
    taken = _named(parent, f"{name}~")
    return parent / next(f"{name}~{n}" for n in range(2, len(taken) + 3) if f"{name}~{n}" not in taken)


def take_member(parent: Path | ObjectPlace, name: str, place: Path | ObjectPlace) -> None:
    """Make a frame the collection's member of a name; the former is none any more, and stays where it is."""
    kind = soma.Measurement if name == "var" else soma.Collection
    with opened(kind, parent, "d") as held:
        del held[name]
    tick()
    with opened(kind, parent, "w") as held, opened(soma.DataFrame, place) as member:
        held.set(name, member, use_relative_uri=True)
    tick()


def _named(home: Path | ObjectPlace, start: str) -> set[str]:
    """Return the names of the folders in a place that begin so."""
    return home.folders(start) if isinstance(home, ObjectPlace) else {p.name for p in home.glob(f"{start}*")}


def take_edition(root: Path | ObjectPlace, experiment: str, edition: str) -> None:
    """Make an edition the organism's arrays; the former are no members any more, and stay where they are."""
    home = root / layout.DATA
    with opened(soma.Experiment, home / experiment, "d") as held:
        for name in MEMBERS:
            del held[name]
    tick()
    with opened(soma.Experiment, home / experiment, "w") as held:
        for name, kind in MEMBERS.items():
            with opened(kind, home / edition / name) as member:
                held.set(name, member, use_relative_uri=True)
    tick()


def take_away(root: Path | ObjectPlace, experiment: str) -> None:
    """Take an organism that has no cells any more out of the atlas; who reads an earlier moment still has it."""
    with opened(soma.Collection, root / layout.DATA, "d") as held:
        del held[experiment]
    tick()


def is_former(root: Path | ObjectPlace, experiment: str) -> bool:
    """Return whether there are arrays of an organism, a member of the atlas or not."""
    return (root / layout.DATA / experiment / "__group").exists()


def bring_back(root: Path | ObjectPlace, experiment: str) -> None:
    """Make an organism that was taken out a member again: its newest edition, which is empty."""
    with (
        opened(soma.Collection, root / layout.DATA, "w") as held,
        opened(soma.Experiment, root / layout.DATA / experiment) as member,
    ):
        held.set(experiment, member, use_relative_uri=True)
    tick()
