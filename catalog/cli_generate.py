"""The commands around cell tokens: counterfactual, verdict and embed-genes. Words in, values out.

Hung under `panatlas` by cli.py; their bodies are in generate_commands.py, loaded when one runs.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path  # noqa: TC003 - cyclopts reads the annotations
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from .cli_reading import ReadingOptions
from .cli_references import Repeatable, Switch  # noqa: TC001 - cyclopts reads the annotations

if TYPE_CHECKING:
    from types import ModuleType


def _commands(name: str = "generate_commands") -> ModuleType:
    """Return the commands' bodies, loaded on first use."""
    return import_module(f".{name}", __package__)


PLAIN = ReadingOptions()


@Parameter(name="*")
@dataclass(frozen=True)
class CounterfactualOptions:
    """What is swapped, and what it is compared with."""

    to: Annotated[list[str], Parameter(name="--set", negative=(), show_default=False, consume_multiple=False)]
    """What becomes of a cell token: disease=COVID-19, or disease:condition=stimulated where the obs column has another
    name. Repeatable: cells of the target have all of them."""
    mix: float = 1.0
    """Weight of what is swapped in; below 1 the cell keeps a part of its own."""
    reference: str | None = None
    """Input with cells of the target, where they are not in INPUT."""
    reference_organism: str | None = None
    """Whose cells it has; those of INPUT unless named. Of another organism, genes are compared by one-to-one orthologs
    and the organism's token has to be set."""
    by: str | None = None
    """obs column of groups, such as cell types, in which changes are compared."""
    donors: str | None = None
    """obs column of donors, none of which is in both halves of the comparison; cells are, unless it is named."""
    genes: Path | None = None
    """Text file of genes that are decoded, an id or symbol a line."""
    n_genes: int = 2_000
    """Genes that are decoded where no file names them: those that vary most over the cells."""
    gene_sets: Path | None = None
    """Gene sets to look for in the changes: .gmt, or a table of set and gene."""
    seed: int = 0
    """Of the halves, and of what is swapped in at random."""


def counterfactual(source: str, /, *, output: Path, how: CounterfactualOptions, options: ReadingOptions = PLAIN) -> int:
    """Say what cells would express with another disease, sex or organism, and compare it with cells that have it.

    Parameters
    ----------
    source
        h5ad, 10x h5, 10x mtx folder or zarr with raw counts; or release:NAME of the default atlas.
    output
        h5ad to be written: layers["panatlas_factual"] and layers["panatlas_counterfactual"], tables in uns.
    """
    return _commands().counterfactual(source, output, how, options)


def embed_genes(
    source: str | None = None,
    /,
    *,
    output: Path,
    only: Repeatable = (),
    least_cells: int = 10,
    options: ReadingOptions = PLAIN,
) -> int:
    """Embed genes: as the network reads them, or, with cells, as it leaves them there on average.

    Parameters
    ----------
    source
        Cells in which genes are read, as the other commands take them; none for genes before any cell.
    output
        h5ad to be written: a row per gene, obsm["X_panatlas"].
    only
        Only cells with this value of an obs column, e.g. "cell_type=T cell". Repeatable.
    least_cells
        Cells whose context must have a gene.
    """
    return _commands().embed_genes(source, output, (only, least_cells), options)


def verdict(
    embedded: Path,
    /,
    *,
    label: str | None = None,
    batch: str | None = None,
    key: str = "X_panatlas",
    counts: str | None = None,
    organism: str | None = None,
    layer: str | None = None,
    neighbours: int = 15,
    most: int = 5_000,
    seed: int = 0,
    json: Switch = False,
) -> int:
    """Say whether an embedding has collapsed, whether it beats PCA on these cells, and what batch tells of it.

    Parameters
    ----------
    embedded
        h5ad with the embedding in obsm, such as `panatlas embed` writes.
    label
        obs column of what cells are held to be, e.g. cell_type.
    batch
        obs column of what neighbours must not share, e.g. donor_id.
    key
        Name in obsm; names that go on with _ are its parts.
    counts
        Input with the raw counts of the same cells, for PCA; looked for in the file itself unless named.
    organism
        Whose cells they are; human unless named.
    layer
        Layer with the counts.
    neighbours
        Nearest cells that vote.
    most
        Cells that are looked at; of more, so many are drawn.
    seed
        Of that draw and the intervals'.
    json
        Print the verdict and its tables as JSON on stdout.
    """
    options = (neighbours, most, seed)
    return _commands("verdict_commands").verdict(
        embedded, (label, batch, key), (counts, organism, layer), options, json=json
    )
