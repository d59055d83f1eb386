"""Keeping memory that was freed for what is asked for next, while an ingest makes and drops arrays by the thousand.

The C library gives an array of many megabytes back to the system when it is freed, and the system fills every page of
the next one with zeros: a third of an ingest's time. Only glibc can be told otherwise; elsewhere nothing is done.
"""

from __future__ import annotations

import ctypes
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of malloc.h
_KEPT = 1 << 30  # bytes: larger arrays are mapped, and as much may stay unused
_USUAL = 32 << 20  # what glibc comes to by itself in a process that frees such arrays; it trims at twice that


@contextmanager
def reusing_memory() -> Iterator[None]:
    """Keep freed memory in the process as long as the block lasts, then give it back."""
    library = ctypes.CDLL(None)
    if not hasattr(library, "mallopt") or not hasattr(library, "malloc_trim"):
        yield
        return
    library.mallopt(_MMAP_THRESHOLD, _KEPT)
    library.mallopt(_TRIM_THRESHOLD, _KEPT)
    try:
        yield
    finally:
        library.mallopt(_MMAP_THRESHOLD, _USUAL)
        library.mallopt(_TRIM_THRESHOLD, 2 * _USUAL)
        library.malloc_trim(0)
