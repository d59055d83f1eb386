"""Whether published cells have certain hashes: asked of all of them at a cost that does not grow with the atlas.

Copies are found by hash (`copies`), and every ingest asks for all its cells. Reading two columns of obs for that would
cost each ingest as much as all those before it brought. So the hashes of published cells are kept sorted in the cache
of this machine, in runs that are merged as they come to be alike in size: n cells are in about log2(n) of them, and
each question is a search in each. The cache follows from obs and is no part of the atlas: a run is named after what
the ledger says of its datasets, one that fits no longer is left out and made anew, and nothing depends on its being
there. Few cells, and cells that are not published, are read from obs.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import re
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import tiledbsoma as soma

from ontology import cache_dir

from .contexts import opened
from .store import array_uri

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from .ledger import DatasetRow
    from .object_store import ObjectPlace

_LOG = logging.getLogger(__name__)

KINDS = ("count_hash", "core_hash")
LEAST = 65_536  # cells of a run; fewer are read from obs, in about 50 ms
BUILT = 1 << 22  # most cells of a run that is made from obs: 130 MB of hashes
MOST = 1 << 24  # most cells of a run that is merged from two: 0.7 GB while that is done, and 21 runs for 350 M cells
READ = 1 << 18  # rows of obs read at once
_PART, _STOPPED_S = ".part-", 3600.0  # files of a process that was stopped, and their age in seconds
_NAME = re.compile(r"(\d+)-(\d+)-([0-9a-f]{32})")


def hash_lanes(values: Sequence[str]) -> np.ndarray:
    """Return hashes of 32 hex digits as two 64-bit numbers each: uint64 [2, n].

    Examples
    --------
    >>> hash_lanes(["0000000000000001" "00000000000000ff"]).ravel().tolist()
    [1, 255]
    """
    raw = np.frombuffer(bytes.fromhex("".join(values)), ">u8")
    return np.ascontiguousarray(raw.reshape(-1, 2).T.astype(np.uint64))


def find_hashes(
    root: Path | ObjectPlace,
    organism: str,
    n_stored: int,
    asked: dict[str, np.ndarray],
    rows: Sequence[DatasetRow] = (),
) -> dict[str, np.ndarray]:
    """Return, per kind of hash, a bool per hash that is asked for: one of the first `n_stored` cells has it.

    Parameters
    ----------
    root, organism, n_stored
        Where the cells are; `organism` may be an edition.
    asked
        Per kind, one of `KINDS`, the hashes as `hash_lanes` gives them.
    rows
        The organism's datasets in joinid order, all published; those within `n_stored` cells are asked by the index.
    """
    orders = {kind: np.argsort(lanes[0], kind="stable") for kind, lanes in asked.items()}
    ordered = {kind: asked[kind][:, order] for kind, order in orders.items()}
    found = {kind: np.zeros(len(order), bool) for kind, order in orders.items()}
    for held in _held(root, organism, n_stored, rows):
        for kind, lanes in ordered.items():
            found[kind] |= _among(held[kind], lanes)
    out = {}
    for kind, order in orders.items():
        out[kind] = np.empty(len(order), bool)
        out[kind][order] = found[kind]
    return out


@dataclass(frozen=True)
class _Run:
    """The hashes of consecutive cells in files, one a kind: uint64 [2, n], ascending by the first lane."""

    folder: Path
    """Where its files are."""
    first: int
    """Joinid of its first cell."""
    stop: int
    """Joinid after its last cell."""
    digest: str
    """Of what the ledger says of its datasets."""

    def path(self, kind: str) -> Path:
        return self.folder / f"{self.first}-{self.stop}-{self.digest}.{kind}.npy"

    @property
    def n_cells(self) -> int:
        return self.stop - self.first

    def load(self) -> dict[str, np.ndarray]:
        return {kind: np.load(self.path(kind), mmap_mode="r", allow_pickle=False) for kind in KINDS}

    def remove(self) -> None:
        for kind in KINDS:
            self.path(kind).unlink(missing_ok=True)


def _held(
    root: Path | ObjectPlace, organism: str, n_stored: int, rows: Sequence[DatasetRow]
) -> Iterator[dict[str, np.ndarray]]:
    """Yield the hashes of the first `n_stored` cells in parts, each ascending by the first lane."""
    first = 0
    for run in _runs(root, organism, [row for row in rows if row.first_joinid + row.n_cells <= n_stored]):
        try:
            yield run.load()
        except (OSError, ValueError) as error:  # another process merged it just now, or the file is damaged
            _LOG.info("hashes are read from obs: %s", error)
            run.remove()
            for held in _read(root, organism, run.first, run.stop):
                yield {kind: _in_order(lanes) for kind, lanes in held.items()}
        first = run.stop
    for held in _read(root, organism, first, n_stored):
        yield {kind: _in_order(lanes) for kind, lanes in held.items()}


def _runs(root: Path | ObjectPlace, organism: str, rows: Sequence[DatasetRow]) -> list[_Run]:
    """Return runs that hold the datasets' cells from the first on, made or merged as need be; the last few have none.

    Where the cache cannot be written there are as many as it has.
    """
    if not rows or rows[-1].first_joinid + rows[-1].n_cells < LEAST:
        return []
    folder = cache_dir() / "copies" / hashlib.sha256(f"{root}\n{organism}".encode()).hexdigest()[:32]
    runs = _chain(folder, rows)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for part in _parts(rows, runs[-1].stop if runs else 0):
            held = list(_read(root, organism, part[0].first_joinid, part[-1].first_joinid + part[-1].n_cells))
            made = {kind: _in_order(np.concatenate([one[kind] for one in held], axis=1)) for kind in KINDS}
            runs.append(_save(folder, part, made))
            while len(runs) > 1 and _alike(*runs[-2:]):
                runs[-2:] = [_merge(folder, rows, *runs[-2:])]
        kept = {run.path(kind) for run in runs for kind in KINDS}
        stopped = (path for path in folder.glob(f"{_PART}*") if path.stat().st_mtime < time.time() - _STOPPED_S)
        for path in {*folder.glob("*.npy"), *stopped} - kept:
            path.unlink(missing_ok=True)
    except (OSError, ValueError) as error:
        _LOG.info("hashes are read from obs: %s", error)
    return runs


def _chain(folder: Path, rows: Sequence[DatasetRow]) -> list[_Run]:
    """Return the runs that are there and fit the datasets, each beginning where the one before ends."""
    starts = {row.first_joinid: i for i, row in enumerate(rows)}
    stops = {row.first_joinid + row.n_cells: i + 1 for i, row in enumerate(rows)}
    at: dict[int, _Run] = {}
    for path in sorted(folder.glob(f"*.{KINDS[0]}.npy")):
        if (named := _NAME.fullmatch(path.name.partition(".")[0])) is None:
            continue
        first, stop = int(named[1]), int(named[2])
        run = _Run(folder, first, stop, named[3])
        fits = first in starts and stop in stops and run.digest == _digest(rows[starts[first] : stops[stop]])
        if fits and run.path(KINDS[1]).exists() and (first not in at or stop > at[first].stop):
            at[first] = run
    runs: list[_Run] = []
    while (run := at.get(runs[-1].stop if runs else 0)) is not None:
        runs.append(run)
    return runs


def _parts(rows: Sequence[DatasetRow], first: int) -> Iterator[Sequence[DatasetRow]]:
    """Yield the datasets from a joinid on, as many as one run is made of; the last ones may be too few for one."""
    part: list[DatasetRow] = []
    cells = 0
    for row in rows:
        if row.first_joinid < first:
            continue
        part.append(row)
        cells += row.n_cells
        if cells >= BUILT:
            yield part
            part, cells = [], 0
    if cells >= LEAST:
        yield part


def _digest(rows: Sequence[DatasetRow]) -> str:
    """Return a digest of what the ledger says of datasets: another where they were moved or others took their place."""
    told = [f"{r.dataset_id} {r.first_joinid} {r.n_cells} {r.content_sha256} {r.published_ms}" for r in rows]
    return hashlib.sha256("\n".join(told).encode()).hexdigest()[:32]


def _save(folder: Path, rows: Sequence[DatasetRow], hashes: dict[str, np.ndarray]) -> _Run:
    """Write a run; the file by which it is found comes last, and each is whole when it has its name."""
    last = rows[-1]
    run = _Run(folder, rows[0].first_joinid, last.first_joinid + last.n_cells, _digest(rows))
    for kind in reversed(KINDS):
        with tempfile.NamedTemporaryFile(dir=folder, prefix=_PART, delete=False) as file:
            try:
                np.save(file, hashes[kind])
                file.flush()
                os.fsync(file.fileno())
                Path(file.name).replace(run.path(kind))
            except BaseException:
                with contextlib.suppress(OSError):
                    Path(file.name).unlink()
                raise
    return run


def _alike(one: _Run, other: _Run) -> bool:
    """Return whether two runs are to be one: the first is not twice as large, and both together not too large."""
    return one.n_cells < 2 * other.n_cells and one.n_cells + other.n_cells <= MOST


def _merge(folder: Path, rows: Sequence[DatasetRow], one: _Run, other: _Run) -> _Run:
    """Return two runs as one."""
    held = [row for row in rows if one.first <= row.first_joinid < other.stop]
    parts = [run.load() for run in (one, other)]
    merged = {kind: _in_order(np.concatenate([part[kind] for part in parts], axis=1)) for kind in KINDS}
    return _save(folder, held, merged)


def _read(root: Path | ObjectPlace, organism: str, first: int, stop: int) -> Iterator[dict[str, np.ndarray]]:
    """Yield the hashes of some cells as they are in obs; cells without one are left out."""
    if first >= stop:
        return
    with opened(soma.DataFrame, array_uri(root, organism, "obs")) as frame:
        for start in range(first, stop, READ):
            table = frame.read((slice(start, min(start + READ, stop) - 1),), column_names=list(KINDS)).concat()
            yield {kind: hash_lanes([text for text in table[kind].to_pylist() if text]) for kind in KINDS}


def _in_order(lanes: np.ndarray) -> np.ndarray:
    """Return hashes in ascending order of their first lane; runs of ascending ones are merged, not sorted."""
    return lanes[:, np.argsort(lanes[0], kind="stable")]


def _among(held: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """Return which of the hashes that are asked for are among others; both ascending by their first lane."""
    found = np.zeros(asked.shape[1], bool)
    at = np.searchsorted(held[0], asked[0])
    left = np.arange(asked.shape[1])
    while len(left):  # ends after one turn unless two hashes agree in 64 of their 128 bits
        left = left[at[left] < held.shape[1]]
        left = left[held[0][at[left]] == asked[0][left]]
        found[left] = held[1][at[left]] == asked[1][left]
        left = left[~found[left]]
        at[left] += 1
    return found
