"""Frames that every ingest writes to, written anew so that they read as quickly as at first.

TileDB lays all writings of a frame over another when it reads: var of 79,000 genes takes 20 ms of CPU for each more, a
table of census_info half a millisecond. `ingest` renews them every `EVERY` datasets, so that what it costs does not
grow with their number; `consolidate` does so when it is asked. The former stay for who reads an earlier moment.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import tiledbsoma as soma

from . import editions, layout, store
from .contexts import context_of, opened
from .errors import StoreError
from .ledger import Ledger, behind, now_ms
from .object_store import ObjectPlace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import pyarrow as pa

    Place = Path | ObjectPlace
    Progress = Callable[[str, int, int], None]

EVERY = 32
"""Datasets after which an ingest looks for frames to renew: it lists their fragments, and members of a group that took
each other's place are read one by one (0.1 ms each) whenever it is opened."""
MOST_OF_VAR, MOST_OF_TABLE = 24, 96
"""More writings than so many are too many for an ingest, which reads var whole and little of the tables."""


def too_many(name: str) -> int:
    """Return the most writings of a frame that an ingest leaves as they are."""
    return MOST_OF_VAR if name == "var" else MOST_OF_TABLE


def slow_frames(root: Place, most: Callable[[str], int]) -> Iterator[tuple[Place, str, int]]:
    """Yield collection, name and fragments of each frame that has more than `most` says for its name."""
    homes = [root / layout.DATA / editions.edition_at(root, name) for name in store.experiments(root)]
    frames = [(home / layout.MEASUREMENT, "var") for home in homes]
    with opened(soma.Collection, root / layout.INFO) as info:
        frames += [(root / layout.INFO, name) for name in sorted(info)]
    for parent, name in frames:
        fragments = written_names(store.place_of(editions.member_at(parent, name)) / "__fragments")
        if len(fragments) > most(name):
            yield parent, name, len(fragments)


def renew_frames(root: Place, ledger: Ledger, slow: list[tuple[Place, str, int]], progress: Progress) -> None:
    """Write frames anew and publish the moment from which on these are read; the caller takes back what fails.

    Parameters
    ----------
    root, ledger
        The atlas, of which the caller is the writer.
    slow
        From `slow_frames`.
    progress
        Called with a stage, frames done and frames in all.

    Raises
    ------
    StoreError
        If the clock is behind, or a frame reads back differently.
    """
    if (published := ledger.published_ms()) >= (now := now_ms()):
        raise StoreError(str(root), "consolidate", behind(now, published))
    ledger.begin()
    made = []
    for done, (parent, name, _) in enumerate(slow):
        made.append((parent, name, _write_anew(parent, name)))
        progress("rewrite tables", done + 1, len(slow))
    for one in made:
        editions.take_member(*one)
    store.tick()
    ledger.publish_upkeep(now_ms())


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


def written_names(place: Place) -> list[str]:
    """Return the names of what is in a place, without those that TileDB did not give."""
    if isinstance(place, ObjectPlace):
        names = {name.partition("/")[0] for name in place.inside()}
    else:
        names = {p.name for p in place.glob("*")}
    return sorted(name for name in names if len(name.split("_")) > 4)
