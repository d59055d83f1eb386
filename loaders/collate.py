"""Collation: cells by number become a `CellBatch`, by choosing the genes that a model is shown of each.

`Collator.gather` reads the records of a batch and of its neighbours and settles all that is small: labels, lengths,
keys. `Collator.fill` chooses the genes and lays the counts on them, by one call of a compiled kernel (kernels.py); on
a GPU, device.py does the same from the same `RecordBatch`. Random choices are words of counters.py, keyed by (seed,
key, epoch, position) and gene: batch mates, workers and machines change nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import torch

from .batch import CellBatch
from .cells import NO_CELL
from .choices import GeneChoices
from .counters import make_key, random_units, random_words
from .errors import LoaderInputError, PackError
from .record_batch import RecordBatch

if TYPE_CHECKING:
    from .cells import Cells
    from .vocabulary import Vocabulary

Numbers = npt.NDArray[np.int64]
Arrays = dict[str, npt.NDArray]
RECORDS = ("data", "starts", "nnz", "low", "large")
"""Fields of PackedCells and of RecordBatch."""
Context = Literal["random_expressed", "most_expressed", "variable", "list"]
Zeros = Literal["random", "neighbours", "none"]
LIMIT = 127
"""Most neighbours: the sum of so many counts of 2^24 still is an int32."""


@dataclass(frozen=True)
class CollateConfig:
    """Which genes a model is shown of a cell, and what besides."""

    context: Context = "random_expressed"
    """Expressed genes drawn alike; those of the highest counts; the first `length` of `genes` that the dataset
    measured; or all of `genes` that it measured."""
    length: int = 2200
    """Genes of a context, as far as there are any; `list` has no use for it."""
    zeros: Zeros = "random"
    """What follows where a cell expresses fewer genes than `length`: measured genes it does not express, drawn alike;
    first those that its neighbours express most, then such; or nothing."""
    from_all: float = 0.0
    """Share of the length that is drawn from all measured genes, expressed or not, where others go by expression."""
    shorter_probability: float = 0.0
    """Share of the batches whose length is drawn from `shortest`..`length`, each alike."""
    shortest: int = 800
    """Shortest length that is drawn."""
    neighbours: int = 6
    """Slots for neighbours: the nearest."""
    fewer_neighbours: bool = False
    """Draw for each cell how many of 0..`neighbours` it gets, each alike, and then which of all that it has."""
    genes: tuple[str, ...] = ()
    """Feature ids for `variable` (the most variable first) and `list`, of one organism or several."""
    seed: int = 0
    """Seed of all draws here."""

    def __post_init__(self) -> None:
        _one_of("context", self.context, get_args(Context))
        _one_of("zeros", self.zeros, get_args(Zeros))
        if self.length < 1:
            raise LoaderInputError("length", self.length, "at least 1 gene")
        if not 0 <= self.from_all < 1:
            raise LoaderInputError("from_all", self.from_all, "a share from 0 to below 1")
        if self.from_all and (self.needs_genes or self.zeros != "random"):
            raise LoaderInputError("from_all", self.from_all, "0 but for expressed genes followed by random zeros")
        if not 0 <= self.shorter_probability <= 1:
            raise LoaderInputError("shorter_probability", self.shorter_probability, "a share from 0 to 1")
        if self.shorter_probability and not 1 <= self.shortest <= self.length:
            raise LoaderInputError("shortest", self.shortest, f"1 to length, which is {self.length}")
        if self.shorter_probability and self.context == "list":
            raise LoaderInputError("shorter_probability", self.shorter_probability, "0: a list has the length it has")
        if not 0 <= self.neighbours <= LIMIT:
            raise LoaderInputError("neighbours", self.neighbours, f"0 to {LIMIT}")
        if self.zeros == "neighbours" and not self.neighbours:
            raise LoaderInputError("neighbours", 0, "at least 1 where zeros='neighbours'")
        if isinstance(self.genes, str) or self.needs_genes != bool(self.genes):
            raise LoaderInputError(
                "genes", self.genes, "feature ids for the contexts variable and list, none for others"
            )

    @property
    def needs_genes(self) -> bool:
        """Return whether the context is a list that is given."""
        return self.context in ("variable", "list")


class Collator:
    """Makes batches of some cells for one vocabulary; one per thread, as it reuses memory.

    Parameters
    ----------
    vocabulary
        What tokens and label codes mean.
    cells
        A pack, a store or an AnnData.
    config
        Which genes are chosen.

    Raises
    ------
    LoaderInputError
        When the configuration names genes that the vocabulary lacks.
    """

    def __init__(self, vocabulary: Vocabulary, cells: Cells, config: CollateConfig | None = None) -> None:
        self.vocabulary, self.cells, self.config = vocabulary, cells, config or CollateConfig()
        self.choices = GeneChoices(cells, vocabulary, self.config.genes)
        self._labels = {label: _recode(vocabulary, cells, label) for label in vocabulary.labels}
        self._scratch: Any = None

    @property
    def reach(self) -> int:
        """Return how many of a cell's neighbours, nearest first, a batch may read: what a stream has to announce."""
        if self.config.neighbours and self.config.fewer_neighbours:  # drawn from all
            return self.cells.neighbours(np.empty(0, dtype=np.int64))[0].shape[1]
        return self.config.neighbours

    def __reduce__(self) -> tuple[type[Collator], tuple[Vocabulary, Cells, CollateConfig]]:
        """Return how another process makes it again."""
        return Collator, (self.vocabulary, self.cells, self.config)

    def collate(self, cells: Numbers, positions: Numbers, epoch: int = 0, key: int = 0) -> CellBatch:
        """Return a batch.

        Parameters
        ----------
        cells
            Cell numbers, int64 [B].
        positions
            Their positions in the epoch, int64 [B].
        epoch
            Epoch from 0.
        key
            Of the stream, such as the sampler's; another one draws other genes.

        Raises
        ------
        LoaderInputError
            When there is no such cell, or the vocabulary has not its organism.
        """
        return self.fill(self.gather(cells, positions, epoch, key))

    def gather(self, cells: Numbers, positions: Numbers, epoch: int = 0, key: int = 0) -> RecordBatch:
        """Return the records of a batch and all but its genes; parameters and errors as of `collate`."""
        cells, positions = self._checked(cells, positions)
        stream = make_key("collate", self.config.seed, key, epoch)
        keys = random_words(stream, 0, positions.astype(np.uint64))
        per_cell = self._per_cell(cells, positions)
        near, distances = self._neighbours(cells, keys)
        there = near != NO_CELL
        packed = self.cells.read(np.concatenate([cells, near[there]]))
        # One kind of array, so one compilation.
        arrays = {name: np.require(getattr(packed, name), requirements="CW") for name in RECORDS}
        _check_records(arrays)
        per_cell["neighbour_distances"] = distances
        per_cell["n_expressed"] = packed.nnz[: len(cells)].astype(np.int32)
        per_cell["n_measured"] = self.choices.find(per_cell["organism"], per_cell["dataset"])[1].astype(np.int32)
        arrays["keys"] = keys.view(np.int64)
        arrays["neighbours"] = np.where(there, len(cells) - 1 + there.cumsum().reshape(there.shape), NO_CELL)
        arrays["offsets"] = np.zeros(len(cells) + 1, dtype=np.int64)
        np.cumsum(self._sizes(arrays, per_cell, stream), out=arrays["offsets"][1:])
        return RecordBatch(**_tensors(arrays), cells=_tensors(per_cell))

    def fill(self, batch: RecordBatch) -> CellBatch:
        """Return a gathered batch with its genes chosen and counts in place, on the CPU."""
        from . import kernels  # noqa: PLC0415 - numba takes a second to import

        if self._scratch is None:
            self._scratch = kernels.make_scratch()
        how = {"random_expressed": kernels.RANDOM_EXPRESSED, "most_expressed": kernels.MOST_EXPRESSED}
        size, lengths = int(batch.offsets[-1]), batch.offsets.diff().numpy()
        drawn = (lengths * self.config.from_all).astype(np.int64)
        slots, genes = batch.neighbours.shape[1], torch.empty(size, dtype=torch.int32)
        # One element ahead of the counts takes what is outside the first context (kernels.py).
        counts, around = torch.empty(1 + size), torch.empty(1 + slots * size)
        organisms = batch.cells["organism"].numpy()
        first, sizes = self.choices.find(organisms, batch.cells["dataset"].numpy())
        kernels.collate_records(
            _views({name: getattr(batch, name).numpy() for name in RECORDS}),
            kernels.Contexts(
                batch.keys.numpy().view(np.uint64), batch.offsets.numpy(), lengths - drawn, organisms, first, sizes,
                batch.neighbours.numpy(),
            ),
            kernels.Tables(self.choices.tokens, self.choices.pool),
            self._scratch,
            kernels.Output(genes.numpy(), counts.numpy(), around.numpy()),
            how.get(self.config.context, kernels.LISTED),
            self.config.zeros == "neighbours",
        )  # fmt: skip
        return CellBatch(genes, counts[1:], batch.offsets, around[1:].view(slots, size), **batch.cells)

    def _checked(self, cells: Numbers, positions: Numbers) -> tuple[Numbers, Numbers]:
        # Copies: they go into the batch, and the caller's arrays may change.
        cells, positions = np.array(cells, dtype=np.int64), np.array(positions, dtype=np.int64)
        if cells.ndim != 1 or cells.shape != positions.shape:
            raise LoaderInputError("positions", positions.shape, f"one position for each of the cells {cells.shape}")
        if len(cells) and not 0 <= cells.min() <= cells.max() < len(self.cells):
            raise LoaderInputError("cells", (int(cells.min()), int(cells.max())), f"0 to {len(self.cells) - 1}")
        if len(cells) and positions.min() < 0:
            raise LoaderInputError("positions", int(positions.min()), "none negative")
        return cells, positions

    def _per_cell(self, cells: Numbers, positions: Numbers) -> dict[str, npt.NDArray]:
        """Return what is known of the cells without their records, by field of CellBatch."""
        codes = self.cells.codes
        organism = self.choices.organisms[codes("organism", cells)]
        if (organism < 0).any():
            names = ", ".join(self.vocabulary.organisms)
            raise LoaderInputError(
                "cells", int(cells[organism.argmin()]), f"cells of the vocabulary's organisms: {names}"
            )
        labels = np.full((len(cells), len(self._labels)), -1, dtype=np.int64)
        for column, (label, recoded) in enumerate(self._labels.items()):
            if recoded is not None:
                labels[:, column] = recoded[codes(label, cells)]
        return {
            "depth": codes("depth", cells).astype(np.float32),
            "labels": labels,
            "organism": organism,
            "dataset": codes("dataset", cells).astype(np.int64),
            "donor": codes("donor", cells).astype(np.int64),
            "cell": cells,
            "position": positions,
        }

    def _neighbours(self, cells: Numbers, keys: npt.NDArray[np.uint64]) -> tuple[Numbers, npt.NDArray[np.float32]]:
        """Return the neighbours that are shown of each cell, nearest first, and their distances, [B, K]."""
        slots = self.config.neighbours
        ids = np.full((len(cells), slots), NO_CELL, dtype=np.int64)
        distances = np.full((len(cells), slots), np.inf, dtype=np.float32)
        if not slots or not len(cells):
            return ids, distances
        near, far = self.cells.neighbours(cells)
        shown = near != NO_CELL
        if self.config.fewer_neighbours:
            shown &= self._drawn(shown, keys)
        # What is shown moves to the left and stays in order: nearest first.
        order = np.argsort(~shown, axis=1, kind="stable")[:, :slots]
        shown = np.take_along_axis(shown, order, axis=1)
        width = order.shape[1]
        ids[:, :width] = np.where(shown, np.take_along_axis(near, order, axis=1), NO_CELL)
        distances[:, :width] = np.where(shown, np.take_along_axis(far, order, axis=1), np.inf)
        return ids, distances

    def _drawn(self, there: npt.NDArray[np.bool_], keys: npt.NDArray[np.uint64]) -> npt.NDArray[np.bool_]:
        """Return which neighbours a cell gets of those it has: how many, then the smallest of one word for each."""
        from .kernels import HOW_MANY, WHICH, words_of  # noqa: PLC0415

        units = (words_of(keys, HOW_MANY, 1) >> np.uint64(11)) * 2.0**-53
        wanted = (units * (self.config.neighbours + 1)).astype(np.int64)
        words = words_of(keys, WHICH, there.shape[1])
        words[~there] = np.uint64(2**64 - 1)
        return there & (words.argsort(axis=1).argsort(axis=1) < wanted)

    def _sizes(self, records: Arrays, per_cell: Arrays, stream: int) -> Numbers:
        """Return the length of each context."""
        organisms = per_cell["organism"]
        sizes = self.choices.find(organisms, per_cell["dataset"])[1]
        if self.config.context == "list":
            return sizes
        if self.config.zeros == "none" and not self.config.needs_genes:
            from .kernels import count_known  # noqa: PLC0415

            sizes = count_known(_views(records), organisms, self.choices.tokens)
        return np.minimum(sizes, self._length(stream, per_cell["position"][:1]))

    def _length(self, stream: int, position: Numbers) -> int:
        """Return the length of a batch that begins at a position."""
        config, where = self.config, position.astype(np.uint64)
        if not len(where) or random_units(stream, 1, where)[0] >= config.shorter_probability:
            return config.length
        lengths = config.length - config.shortest + 1
        return config.shortest + int(random_units(stream, 2, where)[0] * lengths)


def _views(arrays: Arrays) -> Any:
    """Return what the kernels read, of the same memory."""
    from .record_kernels import Views  # noqa: PLC0415

    data = arrays["data"]
    return Views(data, data.view("<u2"), data.view("<u4"), *(arrays[name] for name in RECORDS[1:]))


def _check_records(arrays: Arrays) -> None:
    """Raise where a record is not whole; the kernels do not look."""
    from .kernels import find_damaged  # noqa: PLC0415

    if (record := find_damaged(_views(arrays))) >= 0:
        raise PackError(
            f"record {record} of the batch", "ends outside its bytes or names a gene it has not", "pack again"
        )


def _recode(vocabulary: Vocabulary, cells: Cells, label: str) -> Numbers | None:
    """Return the class code by the cells' code, with -1 at the end for -1; None where the cells lack the label."""
    if label not in cells.columns:
        return None
    return np.append(vocabulary.encode(label, cells.about["vocabulary"][label]), -1).astype(np.int64)


def _tensors(arrays: Arrays) -> dict[str, torch.Tensor]:
    """Return arrays as tensors of the same memory, or of a copy where that may only be read."""
    return {name: torch.from_numpy(np.require(array, requirements="CW")) for name, array in arrays.items()}


def _one_of(field: str, value: object, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise LoaderInputError(field, value, ", ".join(allowed))
