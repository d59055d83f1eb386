"""In which TileDB context an array is opened: TileDB's own for a folder, one that knows the server for `s3://`.

Every opening of an array of an atlas asks here, so that arrays behave the same wherever they lie, and so that a process
which lost its place as the writer learns it before it touches another array.
"""

from __future__ import annotations

import functools
import re
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import tiledbsoma as soma

from .errors import StoreError
from .lease import hold_on
from .object_store import SCHEME, explained, tiledb_settings

if TYPE_CHECKING:
    from collections.abc import Iterator


def settings_of(uri: object) -> dict[str, str | float]:
    """Return the TileDB settings that an address needs, none for a folder."""
    return dict(tiledb_settings()) if str(uri).startswith(SCHEME) else {}


def context_of(uri: object) -> soma.SOMATileDBContext | None:
    """Return the context in which what lies at `uri` is opened; None, which is TileDB's own, for a folder.

    Raises
    ------
    StoreError
        If this process writes the atlas `uri` is in, and somebody else may by now.
    """
    hold_on(uri)
    settings = settings_of(uri)
    return _context(tuple(sorted(settings.items()))) if settings else None


@functools.lru_cache(maxsize=4)
def _context(settings: tuple[tuple[str, str | float], ...]) -> soma.SOMATileDBContext:
    """Return a context of these settings, made once: each has threads and connections of its own."""
    return soma.SOMATileDBContext(tiledb_config=dict(settings))


def opened(kind: Any, uri: object, mode: str = "r", at: int | None = None) -> Any:
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
    """
    return kind.open(str(uri), mode, context=context_of(uri), tiledb_timestamp=at)


@contextmanager
def faults_told(uri: object, step: str) -> Iterator[None]:
    """Tell TileDB's faults with a server as StoreError, with the remedy; those with a folder stay as they are."""
    try:
        yield
    except soma.SOMAError as exc:
        if not str(uri).startswith(SCHEME):
            raise
        raise StoreError(str(uri), step, explained(_plain(str(exc)))) from exc


def _plain(said: str) -> str:
    """Return what a server said without the headers TileDB repeats."""
    return re.sub(r"\s*\[(?:Headers|Remote IP|Request ID|Error Type):? [^\]]*\]", "", said)
