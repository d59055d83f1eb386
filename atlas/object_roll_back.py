"""Taking an atlas on object storage back to its last published moment: which objects go, and in which order.

The rules are those of `store.roll_back`. There are no folders here, so what is hollow is told by the keys that stay:
of an array or group no schema, members or metadata are left.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import layout
from .lease import hold_on

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .object_store import ObjectPlace

_MADE_OF = ("__schema", "__group", "__meta")
_FIRST = {"__commits": 0, "__schema": 1}
_OURS = (layout.INFO, layout.DATA, layout.SPATIAL, "__group", "__meta", "__tiledb_group.tdb")


def written_after(name: str, published_ms: int) -> bool:
    """Return whether the name of a TileDB file or folder carries a timestamp later than `published_ms`."""
    parts = name.split("_")
    stamped = len(parts) > 4 and parts[2].isdigit() and parts[3].isdigit()
    return stamped and int(parts[3]) > published_ms


def later_than(names: Iterable[str], published_ms: int) -> list[str]:
    """Return the keys of what was written after a moment, those first through which the rest would be visible."""
    late = []
    for name in names:
        parts = name.split("/")
        place = next((i for i, part in enumerate(parts) if written_after(part, published_ms)), None)
        if place is not None:
            late.append((_FIRST.get(parts[place - 1], 2) if place else 2, name))
    return [name for _, name in sorted(late)]


def hollow(names: Iterable[str]) -> list[str]:
    """Return the keys in arrays and groups of which nothing is left that they were made of."""
    held: dict[str, list[str]] = {}
    made = set()
    for name in names:
        parts = name.split("/")
        inner = next((i for i, part in enumerate(parts) if part.startswith("__")), None)
        if not inner:  # something of somebody else's, or of the atlas' own group
            continue
        home = "/".join(parts[:inner])
        held.setdefault(home, []).append(name)
        if parts[inner] in _MADE_OF and len(parts) > inner + 1 and len(parts[inner + 1].split("_")) > 4:
            made.add(home)
    return sorted(name for home, inside in held.items() if home not in made for name in inside)


def unpublished(root: ObjectPlace, published_ms: int) -> list[str]:
    """Return the keys of what `roll_back` would remove, below the atlas' folder."""
    names = [name for name in root.inside() if name.split("/")[0] in _OURS]
    if published_ms == 0:
        return names
    late = later_than(names, published_ms)
    return [*late, *hollow(set(names) - set(late))]


def roll_back(root: ObjectPlace, published_ms: int) -> int:
    """Remove everything written after `published_ms`, and return how many objects and uploads that was.

    Raises
    ------
    StoreError
        If this process is not the atlas' writer any more: what is there is another's.
    """
    hold_on(root)
    names, uploads = unpublished(root, published_ms), root.unfinished()
    root.abort(uploads)
    hold_on(root)
    root.remove(names)
    return len(names) + len(uploads)
