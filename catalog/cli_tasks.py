"""The commands that use a trained model: embed, annotate, denoise and impute. Words in, values out.

Hung under `panatlas` by cli.py; their bodies are in task_commands.py, loaded when one runs.
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
    return import_module(".task_commands", __package__)


@Parameter(name="*")
@dataclass(frozen=True)
class TaskOptions:
    """What all of them take."""

    model: str | None = None
    """Folder of a model or a finished run, or its name in PANATLAS_HOME/models; unless named the shipped one."""
    organism: str | None = None
    """Whose cells a file has; human unless named. Of a release: only these cells."""
    layer: str | None = None
    """Layer of a file with the counts, raw for .raw, X for X; chosen as an ingest does unless named."""
    preset: Literal["default", "fast"] = "default"
    """fast shows a twelfth of the genes, of more cells at a time; docs/read_cells.md says what it costs."""
    length: int | None = None
    """Genes shown of each cell; as many as the model was chosen with unless given, or the preset's."""
    batch_size: int | None = None
    """Cells at a time; 64 unless given, or the preset's."""
    neighbours: int = 0
    """Stored neighbours of a release's cells that are shown."""
    least_genes: int = 50
    """Genes the model must know of an input."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """cpu, cuda, or whichever there is."""
    to_atlas: Switch = False
    """Write what is found into the atlas, beside the cells of release:NAME, instead of into an output."""
    plots: Switch = False
    """Draw figures, as PNG and SVG, and a report with them, in OUTPUT.plots beside OUTPUT.h5ad."""
    force: Switch = False
    """Write over an output that is there."""
    json: Switch = False
    """Print the receipt as JSON on stdout."""


PLAIN = TaskOptions()


def embed(source: str, /, *, output: Path | None = None, options: TaskOptions = PLAIN) -> int:
    """Embed cells: obsm["X_panatlas"], and a part of it for each label.

    Parameters
    ----------
    source
        h5ad, 10x h5, 10x mtx folder or zarr with raw counts; or release:NAME of the default atlas.
    output
        h5ad to be written; none with --to-atlas.
    """
    return _commands().embed(source, output, options)


def annotate(
    source: str,
    /,
    *,
    output: Path | None = None,
    label: Repeatable = (),
    threshold: float = 0.5,
    calibration: Path | None = None,
    alpha: float | None = None,
    unit: Literal["donor", "cell"] | None = None,
    novelty: float = 0.05,
    smooth: float | None = None,
    graph: str | None = None,
    options: TaskOptions = PLAIN,
) -> int:
    """Name cells: cell type, tissue, disease and more, as obs columns with ids and probabilities.

    Parameters
    ----------
    source
        h5ad, 10x h5, 10x mtx folder or zarr with raw counts; or release:NAME of the default atlas.
    output
        h5ad to be written; none with --to-atlas.
    label
        Only this label, e.g. cell_type. Repeatable.
    threshold
        Least probability of a term that is said; the deepest such term is, else unknown.
    calibration
        JSON that `panatlas calibrate` wrote for this model, or none; the one beside the model unless named.
    alpha
        Share of cells that may be told a wrong term: thresholds then follow from the calibration, label by label.
    unit
        What alpha is for: cells of new donors, or only further cells of the calibration's; as calibrated unless given.
    novelty
        Share of known cells that may be called a new kind: with a calibration, cells are marked so.
    smooth
        Share of a cell's probabilities that comes of its neighbours, such as 0.5; none unless given.
    graph
        Neighbours of an h5ad's cells, such as connectivities in its obsp; the nearest in the embedding unless named.
    """
    how = {"threshold": threshold, "calibration": calibration, "alpha": alpha, "unit": unit}
    how |= {"novelty": novelty, "smooth": smooth, "graph": graph}
    body = import_module(".annotate_command", __package__)
    return body.annotate(source, output, label, how, options)


def denoise(
    source: str,
    /,
    *,
    output: Path | None = None,
    genes: Path | None = None,
    depth: float = 1.0,
    told: Literal["genes", "cell"] = "genes",
    variance: Switch = False,
    options: TaskOptions = PLAIN,
) -> int:
    """Say what counts cells would be expected to have: layers["panatlas_denoised"].

    Parameters
    ----------
    source
        h5ad, 10x h5, 10x mtx folder or zarr with raw counts; or release:NAME of the default atlas.
    output
        h5ad to be written; its genes are the model's ids. None with --to-atlas, which takes --genes.
    genes
        Text file of genes that were measured, an id or symbol a line; all of them unless named.
    depth
        Counts asked for, in multiples of each cell's own.
    told
        What expressed genes are told from: off themselves, or from the cell tokens and their own counts.
    variance
        Write layers["panatlas_denoised_variance"] too.
    """
    return _commands().denoise(source, output, (genes, variance, {"depth": depth, "told": told}), options)


def impute(
    source: str,
    /,
    *,
    output: Path | None = None,
    genes: Path | None = None,
    depth: float = 1.0,
    variance: Switch = False,
    options: TaskOptions = PLAIN,
) -> int:
    """Say what counts genes would have that were not measured: layers["panatlas_imputed"].

    Parameters
    ----------
    source
        h5ad, 10x h5, 10x mtx folder or zarr with raw counts; or release:NAME of the default atlas.
    output
        h5ad to be written; its genes are the model's ids. None with --to-atlas, which takes --genes.
    genes
        Text file of genes, an id or symbol a line; all that the model knows and the input lacks unless named.
    depth
        Counts asked for, in multiples of each cell's own.
    variance
        Write layers["panatlas_imputed_variance"] too.
    """
    return _commands().impute(source, output, (genes, variance, {"depth": depth}), options)
