"""`open_cells`: the cells at a place, whichever kind of place it is. What a command line or a configuration names.

A pack needs neither the atlas nor tiledbsoma; a release is read straight from its store.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .pack_mirror import open_pack

if TYPE_CHECKING:
    from pathlib import Path

    from .cells import Cells
    from .packing import PackOptions


def open_cells(place: str | Path, release: str | None = None, options: PackOptions | None = None) -> Cells:
    """Return the cells of a pack, or of a release of an atlas.

    Parameters
    ----------
    place
        Folder of a pack, or its `s3://` address; with a release, an atlas.
    release
        Name of a release in the atlas; None for a pack.
    options
        Organisms and splits of the release; a pack holds what it was made with.

    Raises
    ------
    PackError
        When there is no pack, or a damaged one.
    LoaderInputError
        When there is no such release, organism or split.
    """
    if release is None:
        return open_pack(place)
    from .store_cells import open_store_cells  # noqa: PLC0415 - tiledbsoma, which a pack does without

    return open_store_cells(str(place), release, options)
