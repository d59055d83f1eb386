"""The one loop by which a trained model reads cells: `read_cells`. Every verb (embed, annotate, ...) begins here.

What a cell gets depends on the cell alone. Its context is chosen as in the training of the model, for a network that
learnt from random expressed genes reads the most expressed ones badly. What is drawn is drawn by the hash of the cell's
counts, never by its place. So a cell has the same output alone, in any
batch and in any order, up to the rounding of sums of another shape, and copies of a cell have the same one. Batches
are made one at a time: memory is that of a batch, however many cells there are.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from loaders import SPLITS, CollateConfig, Collator, LoaderInputError

from .config import read_config
from .errors import ModelInputError
from .gene_panels import named
from .objective import make_view
from .ragged import Ragged

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy.typing as npt

    from loaders import CellBatch, Cells

    from .attention import Watch
    from .checkpoint import TrainedModel
    from .network import Encoded

    Numbers = npt.NDArray[np.int64]

AHEAD = 4_096
"""Cells that a store is told of at a time, so that it reads them in one go."""


@dataclass(frozen=True)
class InferenceOptions:
    """What is shown of each cell, and where it is read."""

    length: int | None = None
    """Genes of a context, as far as there are any; None for as many as its maker says, or else as in training."""
    batch_size: int = 64
    """Cells at a time."""
    neighbours: int = 0
    """Stored neighbours shown of each cell, the nearest; at most what the model reads."""
    device: str = "auto"
    """cpu, cuda, or whichever there is."""
    least_genes: int = 50
    """Genes that a dataset must share with the model; fewer say too little of a cell, or are the wrong ids."""
    first: int = 0
    """Cell, of those asked for, to begin with, whose batches are those they would be among all: for going on."""
    genes: tuple[str, ...] = ()
    """Feature ids that every context is, as far as the cell's dataset measured them, zeros included, whatever `length`
    says; none for contexts as in training."""


@dataclass(frozen=True, eq=False)
class ReadCells:
    """One batch through the network; tensors are where the network is."""

    numbers: Numbers
    """Which cells, int64 [cells]."""
    batch: CellBatch
    """Their contexts and labels."""
    rows: Ragged
    """Borders of the cells."""
    encoded: Encoded
    """What the network made of them as measured."""


def read_cells(
    model: TrainedModel,
    cells: Cells,
    numbers: Numbers | None = None,
    options: InferenceOptions | None = None,
    watcher: Callable[[CellBatch, Ragged], Watch] | None = None,
) -> Iterator[ReadCells]:
    """Return batches of cells as the network reads them, in order.

    While batches are taken the network is in evaluation mode and on the device; afterwards it is as it was. No random
    state is touched. Whoever calls the network on what comes does so under `torch.no_grad()`, as here.

    Parameters
    ----------
    model
        The model.
    cells
        A pack, a store or an AnnData.
    numbers
        Which cells, int64 [n], in any order, repeated or not; None for all.
    options
        What is shown; None for the defaults.
    watcher
        Is told of each batch before the network reads it, and returns what is shown the blocks' queries and keys.

    Raises
    ------
    ModelInputError
        At once: when there is no cell, an option is not allowed, or the model does not know an organism, or enough
        genes, of the cells.
    """
    options = options or InferenceOptions()
    device = _device(options.device)
    numbers = _checked(model, cells, numbers, options)
    try:
        collator = Collator(model.vocabulary, cells, context_of(model, options))
    except LoaderInputError as error:
        if not options.genes:
            raise
        raise ModelInputError("genes", named(options.genes), f"genes of the model, each once ({error})") from error
    least = min(options.least_genes, len(options.genes)) if options.genes else options.least_genes
    _prove_genes(collator, numbers, least)
    return _read(model, collator, numbers[options.first :], (options.batch_size, device), watcher)


def context_of(model: TrainedModel, options: InferenceOptions) -> CollateConfig:
    """Return how contexts are chosen: as the model's facts say it was trained, of the length that is asked for.

    A model that does not say gets the 2,200 most expressed genes of a cell and measured zeros behind them.

    Raises
    ------
    ModelInputError
        When the facts are not those of a training.
    """
    said: Any = model.facts.get("recipe")
    for name in ("data", "collate"):
        said = said.get(name) if isinstance(said, dict) else None
    try:
        trained = CollateConfig(context="most_expressed") if said is None else read_config(CollateConfig, said, "facts")
    except LoaderInputError as error:
        raise ModelInputError("facts", said, f"how a model was trained ({error})") from error
    listed: dict[str, Any] = {"context": "list", "genes": options.genes, "from_all": 0.0} if options.genes else {}
    return replace(
        trained,
        **listed,
        length=options.length or _told_length(model) or trained.length,
        zeros="random" if trained.zeros == "neighbours" and not options.neighbours else trained.zeros,
        neighbours=options.neighbours,
        fewer_neighbours=False,
        shorter_probability=0.0,
    )


def _told_length(model: TrainedModel) -> int | None:
    """Return how many genes whoever made the model found best to show it, a fact of the checkpoint."""
    told = model.facts.get("read_length")
    if told is not None and (type(told) is not int or told < 1):
        raise ModelInputError("facts", {"read_length": told}, "how many genes a model is shown of a cell, 1 or more")
    return told


def _read(
    model: TrainedModel,
    collator: Collator,
    numbers: Numbers,
    how: tuple[int, torch.device],
    watcher: Callable[[CellBatch, Ragged], Watch] | None,
) -> Iterator[ReadCells]:
    network, (size, device) = model.network, how
    training, home = network.training, next(network.parameters()).device
    network.eval().to(device)
    ahead = max(AHEAD // size, 1) * size
    cells = collator.cells
    cells.will_need(numbers[:ahead])
    try:
        for start in range(0, len(numbers), size):
            if start % ahead == 0 and len(window := numbers[start + ahead : start + 2 * ahead]):
                cells.will_need(window)  # read while the one before it is used
            some = numbers[start : start + size]
            batch = collator.collate(some, _draws(cells, some))
            sizes = tuple(batch.offsets.diff().tolist())
            batch = batch.to(device)
            rows = Ragged(batch.offsets, sizes)
            with torch.no_grad():  # not round the yield: it would reach into the caller's code
                encoded = network.encode(make_view(batch, rows), watch=watcher and watcher(batch, rows))
            yield ReadCells(some, batch, rows, encoded)
    finally:
        network.train(training).to(home)


def _draws(cells: Cells, numbers: Numbers) -> Numbers:
    """Return what a cell's draws are keyed by: its counts. Its id names the file it came in, which a copy does not."""
    return (cells.codes("count_hash_high", numbers).astype(np.uint64) >> np.uint64(1)).astype(np.int64)


def _device(name: str) -> torch.device:
    if name not in ("auto", "cpu", "cuda"):
        raise ModelInputError("device", name, "auto, cpu or cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise ModelInputError("device", name, "cpu: torch finds no GPU here")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def _checked(model: TrainedModel, cells: Cells, numbers: Numbers | None, options: InferenceOptions) -> Numbers:
    """Return the numbers as an array, after proving that the model can read the cells as asked."""
    for name, number in (("length", options.length), ("batch_size", options.batch_size)):
        if number is not None and number < 1:
            raise ModelInputError(name, number, "1 or more")
    if options.first < 0 or options.first % options.batch_size:
        raise ModelInputError("first", options.first, f"a multiple of batch_size, {options.batch_size}")
    if not 0 <= options.neighbours <= (most := model.config.expression.neighbours):
        raise ModelInputError("neighbours", options.neighbours, f"0 to {most}, which this model reads")
    found = np.arange(len(cells)) if numbers is None else np.asarray(numbers)
    if found.ndim != 1 or not len(found) or found.dtype.kind not in "iu":
        raise ModelInputError("numbers", f"{found.dtype} {found.shape}", "at least one cell number")
    if not 0 <= found.min() <= found.max() < len(cells):
        raise ModelInputError("numbers", (int(found.min()), int(found.max())), f"cells 0 to {len(cells) - 1}")
    names = [str(one["organism"]) for one in cells.about["organisms"]]
    codes = np.unique(cells.codes("organism", found.astype(np.int64)))
    if strange := [names[code] for code in codes if names[code] not in model.vocabulary.organisms]:
        known = ", ".join(model.vocabulary.organisms)
        raise ModelInputError("cells", strange[0], f"cells of {known}; with_organism adds another to a model")
    return found.astype(np.int64)


def _prove_genes(collator: Collator, numbers: Numbers, least: int) -> None:
    """Raise where a dataset measured too few of the model's genes."""
    cells = collator.cells
    pairs = np.stack([collator.choices.organisms[cells.codes("organism", numbers)], cells.codes("dataset", numbers)])
    organisms, datasets = np.unique(pairs.astype(np.int64), axis=1)
    known = collator.choices.find(organisms, datasets)[1]
    if (worst := known.argmin()) >= 0 and known[worst] < max(least, 1):
        name = cells.about["vocabulary"]["dataset"][int(datasets[worst])]
        allowed = f"at least {max(least, 1)} of the model's genes: pass all that were measured, or lower least_genes"
        raise ModelInputError("genes", f"{int(known[worst])} known genes in dataset {name}", allowed)


def cells_of_split(model: TrainedModel, cells: Cells, split: str, most: int, seed: int = 0) -> Numbers:
    """Return at most so many cells of a split, of the model's organisms, drawn alike; in rising order.

    Raises
    ------
    ModelInputError
        When there is no such split, or no such cell in it.
    """
    if split not in SPLITS:
        raise ModelInputError("split", split, f"one of {', '.join(SPLITS)}")
    names = [one["organism"] for one in cells.about["organisms"]]
    known = [code for code, name in enumerate(names) if name in model.vocabulary.organisms]
    fit = (cells.column("split") == SPLITS.index(split)) & np.isin(cells.column("organism"), known)
    found = np.flatnonzero(fit)
    if not len(found) or most < 1:
        raise ModelInputError("split", f"{split}, {len(found)} cells", "one with cells of the model's organisms")
    return np.sort(np.random.default_rng(seed).permutation(found)[:most]).astype(np.int64)
