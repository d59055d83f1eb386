"""The commands that teach a trained model more: finetune, grow, and transfer. Words in, values out.

Hung under `panatlas` by cli.py; their bodies are in finetune_commands.py, loaded when one runs.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path  # noqa: TC003 - cyclopts reads the annotations
from typing import TYPE_CHECKING, Literal

from cyclopts import Parameter

from .cli_references import Repeatable, Switch  # noqa: TC001 - cyclopts reads the annotations

if TYPE_CHECKING:
    from types import ModuleType


def _commands() -> ModuleType:
    """Return the commands' bodies, loaded on first use."""
    return import_module(".finetune_commands", __package__)


@Parameter(name="*")
@dataclass(frozen=True)
class LearningOptions:
    """How long is trained, where, and on how much of each cell."""

    steps: int = 500
    """Steps at most."""
    batch_size: int = 64
    """Cells per step."""
    learning_rate: float | None = None
    """The highest; unless given that of the model's own training for the cell parts, half of it for all."""
    patience: int = 5
    """Validations, of 20, without a better loss after which it ends; 0 for all steps."""
    length: int | None = None
    """Genes shown of each cell; as many as in the model's training unless given."""
    seed: int = 0
    """Of donors held out, order and new weights."""
    minutes: float = 0.0
    """Stop after this time; the same command goes on."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """cpu, cuda, or whichever there is."""


@Parameter(name="*")
@dataclass(frozen=True)
class SplitOptions:
    """Which donors are held out of a file's cells."""

    donor: str | None = None
    """obs column with the donors; found as an ingest finds it unless named."""
    split: str | None = None
    """obs column with train, validation and test; by donor unless named."""
    validation: float = 0.2
    """Share of the cells whose donors say when to stop."""
    test: float = 0.0
    """Share of the cells whose donors only score the result."""


LEARNING, SPLITTING = LearningOptions(), SplitOptions()


def finetune(
    source: str,
    /,
    *,
    output: Path,
    model: str | None = None,
    label: str | None = None,
    column: str | None = None,
    batch: str | None = None,
    mmd: float = 1.0,
    parts: Literal["cells", "all"] = "cells",
    organism: str | None = None,
    layer: str | None = None,
    vectors: str | None = None,
    splitting: SplitOptions = SPLITTING,
    learning: LearningOptions = LEARNING,
    dry_run: Switch = False,
    json: Switch = False,
) -> int:
    """Train a model further on labelled cells: new classes, a label of your own, batches drawn together, an organism.

    Parameters
    ----------
    source
        h5ad, 10x h5, 10x mtx folder or zarr with raw counts; or release:NAME of the default atlas.
    output
        Folder of the run; the model is in its folder model.
    model
        Folder of a model or a finished run, or its name in PANATLAS_HOME/models; unless named the shipped one.
    label
        Label that is learnt, cell_type unless a column is named.
    column
        obs column with the label's values; without --label it is a label of its own, of words.
    batch
        obs column with batches that are drawn together, within each cell type; of a release: dataset, donor or a label.
    mmd
        Weight of the discrepancy between batches.
    parts
        What is trained: cell tokens and their heads, or everything.
    organism
        Whose cells a file has; human unless named. One the model lacks is added.
    layer
        Layer of a file with the counts, raw for .raw, X for X; chosen as an ingest does unless named.
    vectors
        Protein vectors of a new organism by this embedder, or none; those at hand unless named.
    dry_run
        Say what would be trained on what, and train nothing.
    json
        Print the run's facts as JSON on stdout.
    """
    columns = {"label": label, "column": column, "batch": batch}
    tuned = {"parts": parts, "mmd": mmd, "vectors": vectors}
    where = {"model": model, "organism": organism, "layer": layer}
    return _commands().finetune(source, output, where, columns, tuned, (splitting, learning), (dry_run, json))


def grow(
    organism: str,
    /,
    *,
    output: Path,
    model: str | None = None,
    vectors: str | None = None,
    json: Switch = False,
) -> int:
    """Give a model the genes of an organism it never saw, from protein vectors, positions and orthologs; no training.

    Parameters
    ----------
    organism
        Any spelling; it has a gene table. `panatlas embed-proteins` makes vectors of its proteins.
    output
        Folder of the new model; must not exist.
    model
        Folder of a model or a finished run, or its name in PANATLAS_HOME/models; unless named the shipped one.
    vectors
        Protein vectors by this embedder, or none; those at hand unless named.
    json
        Print the facts as JSON on stdout.
    """
    return _commands().grow(organism, output, model, vectors, json=json)


@Parameter(name="*")
@dataclass(frozen=True)
class TransferOptions:
    """What is read of both inputs, and where."""

    model: str | None = None
    """Folder of a model or a finished run, or its name in PANATLAS_HOME/models; unless named the shipped one."""
    organism: str | None = None
    """Whose cells the query file has; human unless named. Of a release: only these cells."""
    layer: str | None = None
    """Layer of the query file with the counts."""
    reference_organism: str = "human"
    """Whose cells the reference file has."""
    reference_layer: str | None = None
    """Layer of the reference file with the counts."""
    length: int | None = None
    """Genes shown of each cell; as many as in training unless given."""
    batch_size: int = 64
    """Cells at a time."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """cpu, cuda, or whichever there is."""
    force: Switch = False
    """Write over an output that is there."""
    json: Switch = False
    """Print the receipt as JSON on stdout."""


TRANSFER = TransferOptions()


def transfer(
    reference: str,
    query: str,
    /,
    *,
    output: Path,
    label: str | None = None,
    column: str | None = None,
    token: str | None = None,
    neighbours: int = 15,
    split: Repeatable = (),
    options: TransferOptions = TRANSFER,
) -> int:
    """Label cells by their nearest labelled cells, of the same organism or another, beside orthologs' counts.

    Parameters
    ----------
    reference
        Labelled cells: h5ad, 10x, mtx folder or zarr with raw counts; or release:NAME of the default atlas.
    query
        Cells to be labelled, of the same kinds.
    output
        h5ad to be written: obs columns panatlas_transfer_LABEL and ortholog_transfer_LABEL, with probabilities.
    label
        Label that is transferred, cell_type unless a column is named.
    column
        obs column of the reference with its values; without --label it is a label of its own.
    token
        Part of the embedding whose neighbours vote, e.g. cell_type; all of it unless named.
    neighbours
        Reference cells that vote.
    split
        Only reference cells of this split of a release. Repeatable.
    """
    return _commands().transfer((reference, query), output, (label, column, split), (token, neighbours), options)
