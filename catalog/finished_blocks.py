"""What a long task has finished, on disk block by block, so that one that was killed goes on where it stopped.

`task_commands.py` keeps the rows of a verb here, in PANATLAS_HOME/tasks, under a digest of all that decides them:
cells, model, options, versions. A block is there whole or not at all. Blocks begin where batches do, so that a task
that goes on works out the same batches, and writes the same bytes, as one that was never stopped.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import zipfile
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import numpy as np

from ontology import home

from .errors import CatalogInputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    import numpy.typing as npt

    Numbers = npt.NDArray[np.int64]
    Rows = Mapping[str, npt.NDArray]
    Make = Callable[[int], Iterator[Rows]]

FORMAT = "panatlas task blocks 1"
PART = ".part-"
"""Begins the names of folders that are no result; `panatlas doctor` finds those that nobody fills any more."""
BLOCK_CELLS = 512
"""Cells of a block, as far as whole batches have so many: a minute of work, or less, is lost with a process."""
DAMAGE = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile)


class FinishedBlocks:
    """Rows of a task, a block at a time; `finished_blocks` makes one.

    Parameters
    ----------
    folder
        Where they lie.
    n_cells
        Cells in all.
    batch_size
        Cells that a verb works out together.
    """

    def __init__(self, folder: Path, n_cells: int, batch_size: int) -> None:
        self.folder, self.n_cells = folder, n_cells
        self.step = max(BLOCK_CELLS // max(batch_size, 1), 1) * max(batch_size, 1)

    def rows(self, make: Make, tell: Callable[[int, bool], None]) -> Iterator[Rows]:
        """Yield the rows of all cells, block after block, once everything is worked out that was not kept.

        Parameters
        ----------
        make
            Called with the place of the first cell that is left; gives arrays by name, their first axis the cells, in
            portions that end where a block does. The last block is always worked out, so that `make` is never idle.
        tell
            Called with the cells that are done, and whether they were before.
        """
        blocks = -(-self.n_cells // self.step)
        kept = self._count(blocks - 1)
        tell(kept * self.step, True)
        last: Rows = {}
        parts: list[Rows] = []
        place = kept
        for some in make(kept * self.step):
            parts.append(some)
            tell(_length(some), False)
            if sum(map(_length, parts)) >= self._size(place):
                last = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
                if place < blocks - 1:
                    self._keep(place, last)
                parts, place = [], place + 1
        for number in range(blocks - 1):
            with np.load(self._path(number), allow_pickle=False) as found:
                yield {name: found[name] for name in found.files}
        yield last

    def _count(self, most: int) -> int:
        """Return how many blocks, from the first, are there whole; what comes after a damaged one is not counted."""
        for number in range(most):
            try:
                with zipfile.ZipFile(self._path(number)) as found:
                    if found.testzip() is not None:
                        return number
            except DAMAGE:
                return number
        return most

    def _keep(self, number: int, rows: Rows) -> None:
        part = self.folder / "writing"
        with part.open("wb") as file:
            np.savez(file, **rows)
            file.flush()
            os.fsync(file.fileno())
        part.replace(self._path(number))

    def _size(self, number: int) -> int:
        return min(self.step, self.n_cells - number * self.step)

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:08d}.npz"


@contextmanager
def finished_blocks(
    decides: Mapping[str, Any], numbers: Numbers, batch_size: int
) -> Iterator[tuple[str, FinishedBlocks]]:
    """Give the digest and the finished blocks of a task, which are removed when the block of code ends well.

    Parameters
    ----------
    decides
        Everything that decides the rows, but for the cells' numbers: JSON values.
    numbers
        The cells, in order.
    batch_size
        Cells that a verb works out together.

    Raises
    ------
    CatalogInputError
        When another process is at this very task.
    """
    digest = hashlib.sha256(json.dumps([FORMAT, BLOCK_CELLS, decides], sort_keys=True).encode())
    digest.update(np.ascontiguousarray(numbers, dtype="<i8").tobytes())
    key, place = digest.hexdigest()[:32], home() / "tasks"
    folder = place / f"{PART}{key}"
    folder.mkdir(parents=True, exist_ok=True)
    with _held(place, fcntl.LOCK_SH), _held(folder, fcntl.LOCK_EX | fcntl.LOCK_NB) as alone:
        if not alone:
            raise CatalogInputError("task", key, "one that no other process is at; wait for it, it will be as good")
        try:
            yield key, FinishedBlocks(folder, len(numbers), batch_size)
        except BaseException:
            with suppress(OSError):  # what was refused before a block was finished leaves nothing
                folder.rmdir()
            raise
        shutil.rmtree(folder)


@contextmanager
def _held(folder: Path, how: int) -> Iterator[bool]:
    """Lock a folder while the block of code runs; give False where somebody else has it and it is not waited for."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(handle, how)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(handle)


def _length(rows: Rows) -> int:
    return len(next(iter(rows.values())))
