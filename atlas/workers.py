"""Many processes look at sources while this one writes: a dask cluster on this machine, or one that is there already.

What a look at a source costs (fetching, proving, measuring, doublets, neighbours) depends on nothing but the source, so
any number of them run at once. What depends on the order (joinids, copies of cells that came before, running totals) is
done here, source by source in the order given, by the one process that holds the writer's place; so the atlas is the
same whatever the number of workers. A worker never touches the atlas: one that dies, hangs or runs full has written
into a scratch folder only.
"""

from __future__ import annotations

import fcntl
import logging
import shutil
import signal
import tempfile
import time
from collections import deque
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ontology import cache_dir

from .allocation import reusing_memory
from .errors import AtlasInputError, ClusterError
from .handover import Failed, ask, hand_over
from .ingest import settle, writing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from .findings import Receipt
    from .handover import HandedOver
    from .ingest import Place
    from .prepare import IngestOptions
    from .sources import Source

_LOG = logging.getLogger(__name__)
_PREFIX = "handover-"
_NONE_LEFT_S = 60.0  # without any worker after which our own are started anew
_LEAST_AHEAD = 4  # sources looked at beyond the one being written, where there are fewer than two workers
_CONNECT = "20s"
_POLL_S = 1.0
_TRIES = 3  # looks at a source whose worker died; another source on the same worker may have killed it
_SETTINGS = {
    "distributed.worker.multiprocessing-method": "spawn",  # TileDB hangs in forked children
    "distributed.scheduler.allowed-failures": 0,  # whether it is tried again is decided here
    "distributed.worker.memory.target": False,  # a look holds no results dask could spill
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": False,  # a worker that was paused may never go on: memory is given back late
    "distributed.worker.memory.terminate": 0.95,
    "distributed.deploy.lost-worker-timeout": "1h",  # on a busy machine one that is replaced takes long to start
    "distributed.scheduler.http.routes": [],
    "distributed.worker.http.routes": [],
}


@dataclass(frozen=True)
class Workers:
    """Which processes look at sources; either a number of them on this machine, or a dask scheduler.

    Examples
    --------
    >>> Workers(count=4).scheduler
    ''
    """

    count: int = 0
    """Processes to start on this machine, one thread each; 0 where there is a scheduler."""
    scheduler: str = ""
    """Address of a running dask scheduler, `tcp://host:port` or `tls://host:port`."""
    scratch: Path | None = None
    """Folder for what workers hand over, shared by all machines; None for one in PANATLAS_HOME."""

    def __post_init__(self) -> None:
        """Refuse what names no workers, or two kinds of them."""
        if self.count < 0:
            raise AtlasInputError("workers", self.count, "a positive number of processes")
        if self.scheduler and "://" not in self.scheduler:
            raise AtlasInputError("scheduler", self.scheduler, "an address, such as tcp://node1:8786")
        if bool(self.count) == bool(self.scheduler):
            got = f"{self.count} workers, scheduler {self.scheduler!r}"
            raise AtlasInputError("workers", got, "either a number of processes or a scheduler's address")


@contextmanager
def ingest_with(
    workers: Workers, sources: Sequence[Source], uri: str, options: IngestOptions
) -> Iterator[Callable[[Source], Receipt]]:
    """Give a function that ingests one source, to be called with each of `sources` in their order.

    It is `ingest` with the source looked at by a worker, mostly before it is asked for: the same receipts, the same
    errors, the same atlas. The atlas' writer's place is held throughout.

    Parameters
    ----------
    workers
        Who looks.
    sources
        Everything that will be asked for; those not asked for are left alone.
    uri
        Folder of the atlas.
    options
        Policy and switches.

    Raises
    ------
    StoreError
        If the atlas cannot be written, or another process is writing.
    ClusterError
        If the scheduler cannot be reached. The function raises it, too, for a source whose workers were lost.
    """
    with (
        reusing_memory(),
        writing(uri, options) as place,
        _scratch(workers) as scratch,
        _client(workers, scratch) as client,
    ):
        yield _Ahead(client, scratch, place, options, sources)


class _Ahead:
    """Sources in their order, some of them looked at ahead of being asked for."""

    def __init__(
        self, client: Any, scratch: Path, place: Place, options: IngestOptions, sources: Sequence[Source]
    ) -> None:
        self._client, self._scratch, self._place, self._options = client, scratch, place, options
        self._waiting = deque(enumerate(sources))
        self._flying: deque[tuple[Source, Any]] = deque()
        self._total = len(sources)
        self._lost = ""
        self._submit()

    def __call__(self, source: Source) -> Receipt:
        """Return the receipt of the next source."""
        if self._lost:
            raise ClusterError("the scheduler", self._lost)
        self._submit()
        due, future = self._flying.popleft()
        assert due is source, "sources are asked for in the order they were given"
        seen = self._seen(source, future)
        self._submit()  # workers look at others while this one is written
        try:
            return settle(seen, self._place, self._options, time.monotonic())
        finally:
            seen.clear()

    def _submit(self) -> None:
        """Send out so many sources that no worker waits, and no more: what they hand over takes disk."""
        most = max(_LEAST_AHEAD, 2 * self._count())
        while self._waiting and len(self._flying) < most:
            number, source = self._waiting[0]
            if any(source.uri == other.uri for other, _ in self._flying):
                return  # two downloads of one address at once would take each other's place
            self._flying.append((source, self._send(source, -number)))
            self._waiting.popleft()

    def _count(self) -> int:
        """Return how many workers there are."""
        try:
            return len(self._client.ncores())
        except OSError as exc:
            raise self._gone(exc) from exc

    def _gone(self, exc: Exception) -> ClusterError:
        """Return the error of a scheduler that is lost, which every further source meets too."""
        self._lost = f"it was lost ({exc}); run again"
        return ClusterError("the scheduler", self._lost)

    def _send(self, source: Source, priority: int) -> Any:
        """Have a source looked at, and return its future; those of higher priority come first."""
        asked = ask(self._options, source.organism, self._scratch, self._place.ledger)
        # pure=False: the same source twice is looked at twice. Errors are told, not retried.
        return self._client.submit(hand_over, source, asked, pure=False, retries=0, priority=priority)

    def _seen(self, source: Source, future: Any) -> HandedOver:
        """Return what a worker saw, waiting for it."""
        from dask.distributed import CancelledError, KilledWorker  # noqa: PLC0415 - only ingests with workers pay

        workers = f"the workers of {source.id or source.uri}"
        for left in reversed(range(_TRIES)):
            try:
                self._wait(future)
                seen = future.result()
                break
            except KilledWorker as exc:
                if not left:
                    remedy = "run again, with fewer workers if memory ran out"
                    raise ClusterError(workers, f"{_TRIES} died while they looked at it; {remedy}") from exc
                future = self._send(source, 1)
            except CancelledError as exc:
                raise self._gone(exc) from exc
        if isinstance(seen, Failed):
            raise seen.error()
        return seen

    def _wait(self, future: Any) -> None:
        """Wait for a future, telling how many sources are looked at; Ctrl-C is heard meanwhile."""
        from dask.distributed import wait  # noqa: PLC0415

        seen = time.monotonic()  # when a worker was last seen
        while not future.done():
            looked = self._total - len(self._waiting) - sum(not f.done() for _, f in self._flying) - 1
            self._options.progress("looked at", looked, self._total)
            with suppress(TimeoutError), self._client.as_current():
                wait(future, timeout=_POLL_S)
            if self._count():
                seen = time.monotonic()
            elif self._client.cluster is not None and time.monotonic() - seen > _NONE_LEFT_S:
                _start_anew(self._client.cluster)  # dask does not replace one that died while it started
                seen = time.monotonic()


@contextmanager
def _scratch(workers: Workers) -> Iterator[Path]:
    """Give a folder for one run's handovers, which goes with it; one whose run was killed goes with the next."""
    parent = workers.scratch or cache_dir() / "handovers"
    parent.mkdir(parents=True, exist_ok=True)
    for folder in parent.glob(f"{_PREFIX}*"):
        # Held by its run, for as long as that lives; NFS lets nobody lock what is open for reading only.
        with suppress(OSError), (folder / "lock").open("r+") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder)
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent)).absolute()
    try:
        with (folder / "lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX)
            except OSError as exc:
                said = f"its files cannot be locked ({exc}); pass --scratch with another that all machines share"
                raise ClusterError(f"the scratch folder {parent}", said) from exc
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _start_anew(cluster: Any) -> None:
    """Start as many workers as there were, whatever became of those."""
    count = len(cluster.worker_spec)
    _LOG.warning("no worker is left; starting %d anew", count)
    cluster.scale(0)
    cluster.scale(count)


def _check_versions(client: Any) -> None:
    """Refuse a scheduler or workers without this panatlas: dask reads our classes there before code of ours could run.

    A worker that cannot ends without a word, and one after the other would.
    """
    told, own = client.get_versions(packages=["panatlas"]), version("panatlas")
    for place, facts in {"the scheduler": told["scheduler"], **told["workers"]}.items():
        if (found := facts["packages"].get("panatlas")) != own:
            what = place if place == "the scheduler" else f"the worker at {place}"
            raise ClusterError(what, f"it has {f'panatlas {found}' if found else 'no panatlas'}; install {own} there")


def dask_setup(_worker: Any) -> None:
    """Leave Ctrl-C, which a terminal sends to all, to the process that writes; dask calls this in our own workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _own_keys() -> Any:
    """Return keys that only this run's processes have; None, and messages anybody on this machine could send, without.

    dask makes keys with the package `cryptography`, which is not among its dependencies, nor ours.
    """
    from dask.distributed import Security  # noqa: PLC0415

    try:
        return Security.temporary()
    except ImportError:
        said = "without the package cryptography, whoever is on this machine could send work to these workers"
        _LOG.warning("%s; install it where others are", said)
        return None


@contextmanager
def _client(workers: Workers, scratch: Path) -> Iterator[Any]:
    """Give a dask client; of a cluster of our own, which ends with it, unless there is a scheduler."""
    import dask  # noqa: PLC0415 - only ingests with workers pay for the import
    from dask.distributed import Client, LocalCluster  # noqa: PLC0415

    if workers.scheduler:
        try:
            client = Client(workers.scheduler, timeout=_CONNECT, set_as_default=False)
        except (OSError, ValueError) as exc:
            raise ClusterError(workers.scheduler, f"{exc}; start the scheduler, or correct the address") from exc
        with client:
            _check_versions(client)
            if not client.ncores():
                _LOG.warning("the scheduler at %s has no worker yet; waiting for one", workers.scheduler)
            yield client
        return
    with (
        dask.config.set(_SETTINGS),
        LocalCluster(
            n_workers=workers.count,
            threads_per_worker=1,
            processes=True,
            memory_limit=1 / (workers.count + 1),  # of the machine's; this process needs its share too
            local_directory=str(scratch),
            dashboard_address="127.0.0.1:0",  # any free port; nothing is served there
            silence_logs=logging.CRITICAL,  # what goes wrong is told as an error of ours
            security=_own_keys(),
            preload=[__name__],  # whose `dask_setup` each of them calls
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield client
