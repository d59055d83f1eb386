"""`CellLoader`: what a trainer iterates. Batches of a `CellStream`, made by worker processes, with an exact state.

The state names the position after the batch last handed out, not what workers have prefetched, counted over all ranks:
a stream can be taken up again by another number of workers or ranks. Workers are spawned, never forked, and open their
own files. datamodule.py gives such loaders to Lightning; a plain loop needs no more than this.
"""

from __future__ import annotations

import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import DataLoader, IterableDataset

from .errors import LoaderInputError, WorkerError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

    from .stream import CellStream


@dataclass(frozen=True)
class LoaderOptions:
    """How batches are made; none of it changes a batch."""

    workers: int = 0
    """Processes that make batches; 0 makes them in the trainer's own. A script that has some needs
    `if __name__ == "__main__":`, because they are spawned."""
    prefetch: int = 4
    """Batches each worker makes ahead."""
    persistent: bool = True
    """Keep workers between epochs: starting one takes seconds."""
    pin_memory: bool | None = None
    """Hand out batches in page-locked memory, which a GPU fetches without waiting; None where there is one."""

    def __post_init__(self) -> None:
        """Refuse what cannot work."""
        for name, least in (("workers", 0), ("prefetch", 1)):
            if getattr(self, name) < least:
                raise LoaderInputError(name, getattr(self, name), f"at least {least}")


class _Moving(IterableDataset):
    """A stream in a worker that outlives the epoch: begins wherever shared memory says."""

    def __init__(self, stream: CellStream, place: torch.Tensor) -> None:
        self._stream, self._place = stream, place

    def __iter__(self) -> Iterator[Any]:
        epoch, position = self._place.tolist()
        return iter(self._stream.at(epoch, position))


class CellLoader:
    """Batches of one rank, epoch by epoch: `set_epoch(0)`, iterate, `set_epoch(1)`, iterate; docs/loaders.md shows it.

    Without `set_epoch`, an iteration that follows one that was finished is of the next epoch. One that follows an
    iteration that was broken off begins the same epoch again.

    Parameters
    ----------
    stream
        What is loaded.
    options
        Workers and memory.
    """

    def __init__(self, stream: CellStream, options: LoaderOptions | None = None) -> None:
        self.stream, self.options = stream, options or LoaderOptions()
        self._epoch, self._position, self._before, self._resumed = 0, 0, 0, False
        self._finished = False
        self._turn = 0
        self._place: torch.Tensor | None = None
        self._batches: DataLoader | None = None
        self._iterator: Any = None  # so called because Lightning shuts workers down by this name when it ends

    def __len__(self) -> int:
        """Return the batches of a whole epoch, for this rank; the same for each."""
        return len(self.stream)

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch the next iteration is of; it begins at 0 unless a state of this very epoch was loaded."""
        self._finished = False
        if epoch != self._epoch:
            self._epoch, self._position, self._before, self._resumed = epoch, 0, 0, False

    def state_dict(self) -> dict[str, Any]:
        """Return where the batch last handed out ends, over all ranks: the stream's fingerprint and two numbers."""
        return self.stream.sampler.state_dict(self._epoch, self._position)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Let the next iteration begin where a saved one stood.

        Raises
        ------
        StateMismatchError
            When it was saved by another release, plan, configuration or seed.
        """
        epoch, position = self.stream.sampler.resume(state)
        self._epoch, self._position, self._before, self._resumed = epoch, position, position, True
        self._finished = False

    def _state_before(self) -> dict[str, Any]:
        """Return where the batch last handed out begins."""
        return self.stream.sampler.state_dict(self._epoch, self._before)

    def __iter__(self) -> Iterator[Any]:
        """Yield the batches of the epoch, or what is left of it after a state was loaded.

        An iteration starts with its first batch, so that the epoch can be set until then; it ends when another starts.

        Raises
        ------
        WorkerError
            When a worker failed or died.
        """
        if self._finished:
            self.set_epoch(self._epoch + 1)
        self._turn += 1
        turn, epoch, start = self._turn, self._epoch, self._position if self._resumed else 0
        self._position, self._before, self._resumed = start, start, False
        shares = self.stream.shares(start)
        done = 0
        try:
            for batch in self._made(epoch, start, turn):
                done += 1
                self._before, self._position = self._position, shares.after(done)
                yield batch
        except BaseException as error:
            if turn == self._turn and not (self.options.persistent and isinstance(error, GeneratorExit)):
                self.close()
            raise
        assert done == len(shares), f"{done} of {len(shares)} batches"
        self._finished = True
        if not self.options.persistent:
            self.close()

    def _made(self, epoch: int, position: int, turn: int) -> Iterator[Any]:
        """Yield what the workers make, naming those that died."""
        if self.options.workers == 0:
            batches = DataLoader(self.stream.at(epoch, position), batch_size=None, pin_memory=self._pinned)
        else:
            batches = self._by_workers(epoch, position)
        iterator = self._iterator = iter(batches)
        while turn == self._turn:
            try:
                batch = next(iterator)
            except StopIteration:
                return
            except RuntimeError as error:
                if self.options.workers == 0:
                    raise
                raise WorkerError(_ending(iterator) or str(error)) from error
            yield batch
        raise LoaderInputError("iteration", turn, "the latest one; another was started, or the loader was closed")

    @property
    def _pinned(self) -> bool:
        return torch.cuda.is_available() if self.options.pin_memory is None else self.options.pin_memory

    def _by_workers(self, epoch: int, position: int) -> DataLoader:
        """Return the workers, started or kept, told where to begin."""
        options = self.options
        if self._batches is None or self._iterator is None or self._place is None:
            self._place = torch.zeros(2, dtype=torch.int64).share_memory_()
            self._batches = DataLoader(
                _Moving(self.stream, self._place),
                batch_size=None,
                num_workers=options.workers,
                multiprocessing_context="spawn",
                prefetch_factor=options.prefetch,
                persistent_workers=options.persistent,
                pin_memory=self._pinned,
            )
        self._place[:] = torch.tensor([epoch, position])
        return self._batches

    def close(self) -> None:
        """End the iteration and stop the workers; the next iteration starts new ones."""
        self._turn += 1
        iterator, self._iterator, self._batches = self._iterator, None, None
        if hasattr(iterator, "_shutdown_workers"):  # waiting for it to be collected would keep them as long as an error
            iterator._shutdown_workers()

    def __enter__(self) -> CellLoader:
        """Return itself."""
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Stop the workers."""
        self.close()


def _ending(iterator: Any) -> str | None:
    """Return how a worker ended that should not have, if one did."""
    for worker in getattr(iterator, "_workers", ()):
        worker.join(timeout=0.1)
        if worker.exitcode is not None and worker.exitcode < 0:
            name = signal.Signals(-worker.exitcode).name
            hint = "; mostly because memory ran out: use fewer workers" if name == "SIGKILL" else ""
            return f"worker {worker.pid} was killed by {name}{hint}"
        if worker.exitcode:
            return (
                f"worker {worker.pid} ended with exit code {worker.exitcode}; its message is above. A script that has "
                'workers needs `if __name__ == "__main__":` around what it runs'
            )
    return None
