"""Windows of draws read ahead: all cells of a window in one go, the next while this one is handed out.

A store gives a thousand cells here and there at a fraction of what a thousand single reads cost. So a stream announces
the draws to come, a window at a time; each is sorted, every cell in it read once, by a thread of its own. The two last
of each stream are held, so that a validation in the middle of an epoch costs the training nothing. What does not fit
into the budget is read when asked for. store_cells.py is the one user.
"""

from __future__ import annotations

import logging
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .records import join_records

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future

    from .cells import Numbers
    from .records import PackedCells

log = logging.getLogger(__name__)

WINDOWS = 2
"""Windows held of a stream: the one handed out and the one that is read."""


@dataclass(frozen=True, eq=False)
class _Window:
    """Cells read ahead."""

    stream: int
    """Whose draws they are."""
    cells: Numbers
    """Ascending, each once."""
    size: int
    """Most bytes of their records."""
    records: Future[PackedCells]
    """Theirs, in this order."""


class WindowCache:
    """Cells read ahead, and others.

    Parameters
    ----------
    read
        Returns the records of cells that ascend, each once. Called in one thread only.
    sizes
        Returns the most bytes that the record of each of some cells takes.
    budget
        Most bytes of records held.
    """

    def __init__(
        self, read: Callable[[Numbers], PackedCells], sizes: Callable[[Numbers], Numbers], budget: int
    ) -> None:
        self._read, self._sizes, self._budget = read, sizes, budget
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="panatlas-window")
        self._windows: deque[_Window] = deque()  # as they were announced

    def close(self) -> None:
        """Let go of everything; what is being read is waited for."""
        self._windows.clear()
        self._thread.shutdown(wait=True, cancel_futures=True)

    @property
    def held(self) -> int:
        """Return the bytes of records held, those included that are being read."""
        return sum(len(window.records.result().data) for window in self._windows)

    def announce(self, cells: Numbers, stream: int = 0) -> None:
        """Begin to read a window; the one before the last of its stream is let go, and others where room is needed.

        Parameters
        ----------
        cells
            In the order they will be asked for; where not all fit, the first ones are read ahead.
        stream
            Number of the stream that asks.
        """
        # Each cell once, in the order of its first draw, as far as half of the budget goes.
        known, first = np.unique(cells, return_index=True)
        known = known[np.argsort(first)]
        sizes = np.cumsum(self._sizes(known))
        fits = int(np.searchsorted(sizes, self._budget // WINDOWS, side="right"))
        if fits < len(known):
            log.warning("%d of the %d cells of a window exceed the memory allowed", len(known) - fits, len(known))
        size = int(sizes[fits - 1]) if fits else 0
        mine = [window for window in self._windows if window.stream == stream]
        if len(mine) == WINDOWS:
            self._let_go(mine[0])
        while sum(window.size for window in self._windows) + size > self._budget:
            # Of the others first: what this stream hands out now is still to be read.
            self._let_go(next((window for window in self._windows if window.stream != stream), self._windows[0]))
        wanted = np.sort(known[:fits])
        self._windows.append(_Window(stream, wanted, size, self._thread.submit(self._read, wanted)))

    def read(self, cells: Numbers) -> PackedCells:
        """Return the records of these cells, in this order, cells repeated or not."""
        rest = np.arange(len(cells))
        places, parts = np.empty(len(cells), dtype=np.int64), []
        for window in list(self._windows):
            known, future = window.cells, window.records
            at = np.searchsorted(known, cells[rest])
            held = np.zeros(len(rest), dtype=np.bool_)
            held[at < len(known)] = known[at[at < len(known)]] == cells[rest][at < len(known)]
            parts.append((rest[held], future, at[held]))
            rest = rest[~held]
        if len(rest):
            known, at = np.unique(cells[rest], return_inverse=True)
            parts.append((rest, self._thread.submit(self._read, known), at))
        parts = [part for part in parts if len(part[0])]
        if len(parts) == 1:
            return parts[0][1].result().take(parts[0][2])
        taken, before = [], 0
        for mine, future, at in parts:
            taken.append(future.result().take(at))
            places[mine] = before + np.arange(len(mine))
            before += len(mine)
        return join_records(taken).take(places)

    def _let_go(self, window: _Window) -> None:
        window.records.cancel()
        self._windows.remove(window)
