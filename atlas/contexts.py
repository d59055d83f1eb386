"""In which TileDB context an array is opened: TileDB's own for a folder, one that knows the server for `s3://`.

Whoever opens an array of an atlas asks here, for the array (`opened`) or for settings where it has a context of its own
(`settings_of`), so that arrays behave the same wherever they lie; a process which lost its place as the writer learns
it before it touches another array.
"""

from __future__ import annotations

import errno
import functools
import gc
import os
import re
import sys
import traceback
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import tiledbsoma as soma

from .errors import AtlasError, StoreError
from .lease import hold_on
from .object_store import SCHEME, explained, tiledb_settings

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


BULK: dict[str, str | float] = {"sm.mem.malloc_trim": "false", "soma.init_buffer_bytes": 16 << 20}
"""For many queries one after another. Else all free memory is given back to the system after each, and each maps 1 GiB
a column anew; the system then spends as long on filling pages with zeros as TileDB on the query."""
IN_ORDER: dict[str, str | float] = BULK | {
    "sm.check_global_order": "false", "sm.check_coord_dups": "false", "sm.check_coord_oob": "false",
}  # fmt: skip
"""For writes whose coordinates are known to be in order, unlike and inside: TileDB would look at each pair again, which
takes as long as all else it does to write them."""
MAKE_ROOM = "what is published is as it was; make room there, then run this again"
"""What to do where a disk is full."""
_FULL = tuple(os.strerror(number) for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG))


def settings_of(uri: object) -> dict[str, str | float]:
    """Return the TileDB settings that an address needs, none for a folder."""
    return dict(tiledb_settings()) if str(uri).startswith(SCHEME) else {}


def context_of(uri: object, more: Mapping[str, str | float] | None = None) -> soma.SOMATileDBContext | None:
    """Return the context in which what lies at `uri` is opened; None, which is TileDB's own, for a folder.

    `more` are settings beside those the address needs.

    Raises
    ------
    StoreError
        If this process writes the atlas `uri` is in, and somebody else may by now.
    """
    hold_on(uri)
    settings = settings_of(uri) | dict(more or {})
    return _context(tuple(sorted(settings.items()))) if settings else None


@functools.lru_cache(maxsize=4)
def _context(settings: tuple[tuple[str, str | float], ...]) -> soma.SOMATileDBContext:
    """Return a context of these settings, made once: each has threads and connections of its own."""
    return soma.SOMATileDBContext(tiledb_config=dict(settings))


def opened(
    kind: Any, uri: object, mode: str = "r", at: int | None = None, more: Mapping[str, str | float] | None = None
) -> Any:
    """Return an array or collection of an atlas, opened; close it, or use it in a `with`.

    Parameters
    ----------
    kind
        `soma.DataFrame` and the like.
    uri
        Where it is: an address, or a place as `store.place_of` gives.
    mode
        `r`, `w` or `d`.
    at
        Moment to read it at, in milliseconds since 1970; None for now.
    more
        Settings beside those the address needs: `IN_ORDER`, `IN_BLOCKS`.
    """
    return kind.open(str(uri), mode, context=context_of(uri, more), tiledb_timestamp=at)


def let_go() -> None:
    """Let go of what the error that is being handled holds, and of all that was opened for it.

    A group that could not be closed, its disk being full, is written once more when its last holder goes: to be called
    before what was written is taken back, for afterwards it would be there again.
    """
    exc = sys.exc_info()[1]
    while exc is not None:
        traceback.clear_frames(exc.__traceback__)
        exc = exc.__context__
    gc.collect()


@contextmanager
def faults_told(uri: object, step: str) -> Iterator[None]:
    """Tell TileDB's faults with a server, or with a full disk, as StoreError, with the remedy; others stay as they are.

    What TileDB says of a full disk names three files at length before it comes to the point; of a group that cannot be
    closed tiledbsoma tells it as a RuntimeError.
    """
    try:
        yield
    except AtlasError:
        raise
    except (soma.SOMAError, RuntimeError) as exc:
        if str(uri).startswith(SCHEME) and isinstance(exc, soma.SOMAError):
            raise StoreError(str(uri), step, explained(_plain(str(exc)))) from exc
        full = next((said for said in _FULL if said in str(exc)), None)
        if full is None:
            raise
        raise StoreError(str(uri), step, f"{full} on the disk it is on; {MAKE_ROOM}") from exc


def _plain(said: str) -> str:
    """Return what a server said without the headers TileDB repeats."""
    return re.sub(r"\s*\[(?:Headers|Remote IP|Request ID|Error Type):? [^\]]*\]", "", said)
