"""How far a task of a trained model is, and when it will be done: a bar at a terminal, elsewhere a line at times."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from rich.console import Console

TOLD_S = 30.0
"""Seconds between lines of progress where there is no terminal."""


class TaskProgress:
    """Cells that are done; call it with each portion.

    Parameters
    ----------
    people
        Where it is told.
    verb
        What is done.
    total
        Cells in all.
    """

    def __init__(self, people: Console, verb: str, total: int) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._bar = Progress(*columns, console=people, transient=True, disable=not people.is_terminal)
        self._task = self._bar.add_task(verb, total=total)
        self._people, self._verb, self._total = people, verb, total
        self._before, self._done, self._began = 0, 0, time.monotonic()
        self._told = self._began

    def __enter__(self) -> TaskProgress:
        """Start drawing."""
        self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        """Stop drawing."""
        self._bar.stop()

    def __call__(self, cells: int, before: bool = False) -> None:
        """Add cells that were done, now or before by a process that was stopped; the latter say nothing of speed."""
        self._done, now = self._done + cells, time.monotonic()
        if before:
            self._before += cells
            if cells:
                self._people.print(f"{self._verb}: {cells:,} of {self._total:,} cells were done before")
            self._bar.reset(self._task, completed=self._done)
            return
        self._bar.update(self._task, completed=self._done)
        if not self._people.is_terminal and now - self._told > TOLD_S:
            self._told = now
            left = (now - self._began) / (self._done - self._before) * (self._total - self._done)
            self._people.print(f"{self._verb}: {self._done:,} of {self._total:,} cells, {left:,.0f} s left")
