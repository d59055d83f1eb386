"""What every command takes that reads cells with a trained model and says nothing of where they are written.

Declared once for cli_generate.py and cli_annotation.py; cyclopts spells it out in the help of each command.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from cyclopts import Parameter

from .cli_references import Switch  # noqa: TC001 - cyclopts reads the annotations


@Parameter(name="*")
@dataclass(frozen=True)
class ReadingOptions:
    """How cells are found and shown to a model."""

    model: str | None = None
    """Folder of a model or a finished run, or its name in PANATLAS_HOME/models; unless named the shipped one."""
    organism: str | None = None
    """Whose cells a file has; human unless named. Of a release: only these cells."""
    layer: str | None = None
    """Layer of a file with the counts, raw for .raw, X for X; chosen as an ingest does unless named."""
    length: int | None = None
    """Genes shown of each cell; as many as the model was chosen with unless given."""
    batch_size: int = 64
    """Cells at a time."""
    least_genes: int = 50
    """Genes the model must know of an input."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """cpu, cuda, or whichever there is."""
    force: Switch = False
    """Write over an output that is there."""
    json: Switch = False
    """Print the receipt as JSON on stdout."""
