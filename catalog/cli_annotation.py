"""The commands about labels: calibrate and score those that are told, audit those that cells have.

Hung under `panatlas` by cli.py; their bodies are in annotation_commands.py, loaded when one runs. `annotate` itself is
in cli_tasks.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path  # noqa: TC003 - cyclopts reads the annotations
from typing import TYPE_CHECKING, Literal

from cyclopts import Parameter

from .cli_reading import ReadingOptions
from .cli_references import Repeatable, Switch  # noqa: TC001 - cyclopts reads the annotations

if TYPE_CHECKING:
    from types import ModuleType


def _commands() -> ModuleType:
    """Return the commands' bodies, loaded on first use."""
    return import_module(".annotation_commands", __package__)


@Parameter(name="*")
@dataclass(frozen=True)
class LabelledOptions(ReadingOptions):
    """How labelled cells are found and shown to a model."""

    donor: str | None = None
    """obs column of a file with the donors; found as an ingest finds it unless named."""


PLAIN = LabelledOptions()


def calibrate(
    source: str,
    /,
    *,
    output: Path | None = None,
    split: Repeatable = (),
    testing: float = 0.5,
    cells: int = 16_384,
    seed: int = 0,
    alpha: float = 0.1,
    unit: Literal["donor", "cell"] = "donor",
    options: LabelledOptions = PLAIN,
) -> int:
    """Learn how far a model's labels are to be trusted, from donors it was not trained on, and test it on others.

    Parameters
    ----------
    source
        Labelled cells: release:NAME of the default atlas, pack:FOLDER, or a file as `annotate` takes it.
    output
        JSON to be written; beside the model, where `annotate` looks for it, unless named.
    split
        Only donors of this split: validation or test, both unless named; of a file all. Repeatable.
    testing
        Share of the donors that test the calibration and have no part in it.
    cells
        Cells at most that calibrate, and as many that test.
    seed
        Of which donors test.
    alpha
        Share of wrong terms, and of false alarms of a new kind of cell, for which is told what holds. The file serves
        any.
    unit
        What is like what comes: other donors, or only further cells of these donors.
    """
    held = {"splits": tuple(split), "testing": testing, "most": cells, "seed": seed}
    return _commands().calibrate(source, output, held, (alpha, unit), options)


def audit(
    source: str,
    /,
    *,
    output: Path,
    label: str = "cell_type",
    column: str | None = None,
    calibration: Path | None = None,
    threshold: float = 0.5,
    markers: int = 25,
    genes: int = 20,
    seed: int = 0,
    options: LabelledOptions = PLAIN,
) -> int:
    """Find cells whose given label the model and their markers contradict, and the genes that show it.

    Parameters
    ----------
    source
        Labelled cells of one organism: a file as `annotate` takes it, release:NAME or pack:FOLDER.
    output
        Table of the cells in doubt, .csv or .parquet; NAME.groups and NAME.genes of the same kind go beside it.
    label
        Which label.
    column
        obs column of a file with the label; found as an ingest finds it unless named.
    calibration
        JSON of a calibration of this model, or none; the one beside the model unless named.
    threshold
        Least probability of a term that contradicts a label.
    markers
        Genes of either side that place a cell, at most.
    genes
        Genes that are shown of each group, either way.
    seed
        Of the cells that are compared where there are many.
    """
    how = {"threshold": threshold, "markers": markers, "genes": genes, "seed": seed}
    return _commands().audit(source, output, (label, column, calibration), how, options)


def score(
    annotated: Path,
    /,
    *,
    truth: str,
    label: str = "cell_type",
    told: str | None = None,
    donor: str | None = None,
    organism: str = "human",
    output: Path | None = None,
    force: Switch = False,
    json: Switch = False,
) -> int:
    """Compare told labels with true ones: exactly, along the ontology, and how many were told, side by side.

    Parameters
    ----------
    annotated
        h5ad that `annotate` wrote, or any with both columns.
    truth
        obs column with the labels held to be true, ids or names.
    label
        Which label.
    told
        obs column with what was told, ids or names; panatlas_LABEL_ontology_term_id unless named.
    donor
        obs column with the donors, whose number says how sure the scores are.
    organism
        Whose cells they are; decides which ontology names are looked up in.
    output
        Table of the confusion matrix, .csv or .parquet, a row per pair that occurs.
    force
        Write over an output that is there.
    json
        Print the scores as JSON on stdout.
    """
    return _commands().score(annotated, (label, truth, told, donor), organism, (output, force), json=json)
