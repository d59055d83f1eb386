"""Our loaders as a user opens them, for the benchmark of loaders: records, rows and model-ready batches.

Same interface as loader_peers.py. The proofs at the end run after the timed window and read the store by its own
library, not by our records.
"""

from __future__ import annotations

import itertools
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from loaders import (
    CellLoader,
    CellStream,
    CollateConfig,
    Collator,
    LoaderOptions,
    Pack,
    SamplerConfig,
    SamplingPlan,
    StreamOptions,
    make_sampler,
    make_vocabulary,
    open_store_cells,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from loaders import CellRows, Cells, PackedCells, Sampler

    Batches = Iterator[tuple[Any, np.ndarray, bool]]

SEED = 11
BATCH = 128
WINDOW = {"packs": 8192, "store": 65_536}  # draws planned ahead; the store reads a window in its own order
LENGTH, NEIGHBOURS = 2200, 6  # the reference's context


def open_cells(folder: Path, where: str) -> Cells:
    """Return the cells: those of the pack, or those of the store."""
    return Pack(folder / "pack") if where == "packs" else open_store_cells(str(folder / "atlas"), "bench")


def plan_of(draw: str) -> SamplingPlan:
    """Return the plan of a row: all splits, so that all loaders read the same cells; labels taken as they are."""
    config = SamplerConfig(
        kind="balanced" if draw == "weighted" else "uniform", replacement=draw == "weighted", seed=SEED
    )
    return SamplingPlan(
        splits=("train", "validation", "test"), labels=("cell_type", "sex"), config=config, ontology_aware=False
    )


def records(folder: Path, *, draw: str, workers: int, where: str) -> Batches:
    """Open a stream of packed records, as they leave the CPU for a GPU."""
    cells = open_cells(folder, where)
    return stream(folder, cells, draw, workers, lambda batch: batch.cells, PlainCollator(cells, decoded=False))


def rows(folder: Path, *, draw: str, workers: int, where: str) -> Batches:
    """Open a stream of sparse rows."""
    cells = open_cells(folder, where)
    return stream(folder, cells, draw, workers, lambda batch: batch.cells, PlainCollator(cells, decoded=True))


@dataclass(frozen=True, eq=False)
class PlainBatch:
    """What peers hand out as well: counts and cell types; no tuple, whose arrays torch would turn into tensors."""

    counts: PackedCells | CellRows
    cell_type: np.ndarray
    cells: np.ndarray


class PlainCollator:
    """Reads the cells of a batch and their cell types; a stream's own raw batches hold all nine labels."""

    def __init__(self, cells: Cells, *, decoded: bool) -> None:
        self.cells, self.decoded = cells, decoded

    def __call__(self, cells: np.ndarray, positions: np.ndarray, epoch: int, key: int) -> PlainBatch:
        """Return the batch."""
        packed = self.cells.read(cells)
        return PlainBatch(packed.decode() if self.decoded else packed, self.cells.codes("cell_type", cells), cells)


def contexts(folder: Path, *, draw: str, workers: int, where: str) -> Batches:
    """Open a stream of model-ready batches: contexts of 2,200 genes, 6 neighbours, all labels."""
    cells = open_cells(folder, where)
    return stream(folder, cells, draw, workers, lambda batch: batch.cell.numpy(), collator_of(cells).collate)


def collator_of(cells: Cells) -> Collator:
    """Return what makes model-ready batches of the cells."""
    return Collator(make_vocabulary(cells), cells, CollateConfig(length=LENGTH, neighbours=NEIGHBOURS, seed=SEED))


def decoding(folder: Path, *, draw: str, workers: int, where: str) -> Batches:
    """Decode records that are in memory: what rows cost beyond reading."""
    assert not workers
    cells = open_cells(folder, where)
    sampler = sampler_of(folder, cells, draw)
    held = [(cells.read(batch), batch) for batch in itertools.islice(sampler.batches(0, BATCH), 64)]
    return ((packed.decode(), batch, True) for packed, batch in itertools.cycle(held))


def sampler_of(folder: Path, cells: Cells, draw: str) -> Sampler:
    """Return the sampler of a row; its groups are made once for all rows."""
    return make_sampler(cells, plan_of(draw), cache=folder / "groups")


def stream(
    folder: Path,
    cells: Cells,
    draw: str,
    workers: int,
    numbers: Callable[[Any], np.ndarray],
    collate: Callable[..., Any],
) -> Batches:
    """Return the batches of a stream, epoch after epoch; `numbers` takes the cells' numbers out of a batch."""
    window = WINDOW["packs" if isinstance(cells, Pack) else "store"]
    options = StreamOptions(batch_size=BATCH, window=window)
    chosen = CellStream(cells, sampler_of(folder, cells, draw), collate, options)
    loader = CellLoader(chosen, LoaderOptions(workers=workers))

    def batches() -> Batches:
        for epoch in itertools.count():
            loader.set_epoch(epoch)
            for i, batch in enumerate(loader):
                yield batch, numbers(batch), i % (window // BATCH) == 0

    return batches()


def stored(folder: Path) -> Any:
    """Return the store's counts of the cells by number, read by its own library from X: CSR."""
    import anndata as ad

    return ad.read_h5ad(folder / "x.h5ad").X.tocsr()


def decoded(batch: Any) -> CellRows:
    """Return the rows of a batch of any of the kinds above but contexts."""
    counts = batch.counts if isinstance(batch, PlainBatch) else batch
    return counts.decode() if hasattr(counts, "decode") else counts


def differs(found: CellRows, expected: Any) -> bool:
    """Return whether decoded rows are not those of the store."""
    pairs = ((found.indptr, expected.indptr), (found.indices, expected.indices), (found.counts, expected.data))
    return not all(np.array_equal(ours, theirs) for ours, theirs in pairs)


def prove_records(folder: Path, kept: list[Any], seen: list[np.ndarray], where: str = "packs") -> int:
    """Compare kept batches as they are, and all batches of the window read again; return how many were equal."""
    counts, cells = stored(folder), open_cells(folder, where)
    for batch, numbers in kept:
        if differs(decoded(batch), counts[numbers]):
            sys.exit("a batch differs from the store")
    for numbers in seen:
        if differs(cells.read(numbers).decode(), counts[numbers]):
            sys.exit("a batch that was read again differs from the store")
    return len(seen)


def prove_stored(folder: Path, kept: list[Any], seen: list[np.ndarray]) -> int:
    """Compare batches that came from the store's records."""
    return prove_records(folder, kept, seen, "store")


def prove_contexts(folder: Path, kept: list[Any], seen: list[np.ndarray]) -> int:
    """Look up every count of the kept contexts and of their neighbours in the store; return how many batches."""
    del seen  # a context cannot be read again from the store; those handed out are proof enough
    counts, cells = stored(folder), open_cells(folder, "packs")
    for batch, numbers in kept:
        near, _ = cells.neighbours(numbers)
        lengths, genes = np.diff(batch.offsets.numpy()), batch.genes.numpy()
        row = np.repeat(np.arange(len(numbers)), lengths)
        wrong = (counts[numbers].toarray()[row, genes] != batch.counts.numpy()).any()
        for slot in range(NEIGHBOURS):
            known = near[:, slot] >= 0
            expected = counts[np.where(known, near[:, slot], 0)].toarray() * known[:, None]
            wrong |= (expected[row, genes] != batch.neighbour_counts[slot].numpy()).any()
        if (
            wrong
            or batch.depth.numpy().astype(np.int64).tolist() != counts[numbers].sum(axis=1).A1.astype(int).tolist()
        ):
            sys.exit("a context differs from the store")
    return len(kept)
