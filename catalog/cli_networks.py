"""The commands on gene networks: grn infers one, grn-heads chooses whose attention it reads, others work with them.

Hung under `panatlas` by cli.py; bodies are in network_commands.py, network_heads.py and network_tools.py, loaded when
one runs.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path  # noqa: TC003 - cyclopts reads the annotations
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from .cli_references import Repeatable, Switch  # noqa: TC001 - cyclopts reads the annotations

if TYPE_CHECKING:
    from types import ModuleType


def _tools() -> ModuleType:
    """Return the bodies of the commands that work with networks, loaded on first use."""
    return import_module(".network_tools", __package__)


@Parameter(name="*")
@dataclass(frozen=True)
class GrnOptions:
    """Which cells and genes, and by which model."""

    regulators: Path | None = None
    """Text file of genes that may regulate, an id or symbol a line, such as transcription factors; all unless named."""
    choose: Literal["variable", "across"] = "variable"
    """Which genes a number means: those that vary most in the population, or are most unlike all other cells."""
    population: Repeatable = ()
    """Only cells with this value of a column, such as cell_type=CL:0000084. Repeatable: all have to hold."""
    cells: int | None = None
    """At most so many of them, drawn at random."""
    model: str | None = None
    """Folder of a model or a finished run, or its name in PANATLAS_HOME/models; unless named the shipped one.
    Baselines need none; if one is named they are between genes that it knows."""
    organism: str | None = None
    """Whose cells a file has; human unless named. Of a release: only these cells."""
    layer: str | None = None
    """Layer of a file with the counts, raw for .raw, X for X; chosen as an ingest does unless named."""
    seed: int = 0
    """Of everything that is drawn."""
    force: Switch = False
    """Write over an output that is there."""
    json: Switch = False
    """Print the receipt as JSON on stdout."""


@Parameter(name="*")
@dataclass(frozen=True)
class EdgeOptions:
    """How edges are scored, chosen and tested."""

    null: Literal["genes", "cells"] = "genes"
    """What is shuffled for --fdr: within a cell, genes of about the same mean; or each gene among the cells."""
    permutations: int = 20
    """Shuffles."""
    bootstraps: int = 0
    """Resamples of the cells, or of the donors, for the layer stability."""
    adjust: Repeatable = ()
    """symmetrise, apc or sinkhorn: what is done to the scores before edges are chosen. Repeatable, in this order."""
    known: Path | None = None
    """Table of edges with columns regulator and target, or a network of `panatlas grn`: only these can be kept."""
    per_target: int | None = None
    """Strongest edges that each target keeps; with all and tfs 100 unless given, else all."""
    above: float | None = None
    """Only edges of a weight above this; what a weight is, the read-out says."""
    top: int | None = None
    """Only so many strongest edges, of those that are left."""
    backbone: Switch = False
    """Only edges along the maximum spanning tree of what is left: every gene's strongest way to the others."""
    targets_at_once: int | None = None
    """Targets scored at a time, each time from the cells anew, to hold memory down; all unless given."""


@Parameter(name="*")
@dataclass(frozen=True)
class ScoreOptions:
    """What a read-out sees of the cells, and how it answers."""

    expression: Literal["log", "zscore", "counts"] = "log"
    """What baselines see."""
    trees: int | None = None
    """Trees of extra_trees, and the most of grnboost2; as many as their authors grow unless given."""
    heads: Repeatable = ("mean",)
    """Whose attention: mean, max, a file of `panatlas grn-heads`, the name of a selection that the model carries, or
    single heads such as 3:0, layer and head from 0. Repeatable for single heads."""
    layers: Annotated[list[int], Parameter(negative=(), show_default=False, consume_multiple=False)] = ()
    """Layer whose attention counts, from 0; all unless given. Repeatable."""
    perturbation: Literal["zero", "double"] = "zero"
    """What perturbation does to a regulator's count."""
    contexts: Literal["chosen", "trained"] = "chosen"
    """What the model sees of a cell: exactly the genes of the network, or a context as in training."""
    over_cells: Literal["mean", "sum"] = "mean"
    """Attention over the cells that showed both genes."""
    length: int | None = None
    """Genes shown of each cell where contexts are as in training; as many as in training unless given."""
    batch_size: int = 64
    """Cells at a time."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """cpu, cuda, or whichever there is."""


PLAIN, USUAL, SCORED = GrnOptions(), EdgeOptions(), ScoreOptions()
Stored = Annotated[str, Parameter(help="h5ad or parquet of `panatlas grn`, or the key of a network of the atlas.")]


def grn(
    source: str,
    /,
    *,
    readout: str,
    genes: str = "2000",
    fdr: float | None = None,
    output: Path | None = None,
    to_atlas: Switch = False,
    options: GrnOptions = PLAIN,
    edges: EdgeOptions = USUAL,
    scored: ScoreOptions = SCORED,
) -> int:
    """Infer the gene network of some cells: edges from regulators to targets, tested where a rate is given.

    Parameters
    ----------
    source
        h5ad, 10x h5, 10x mtx folder or zarr with raw counts; or release:NAME of the default atlas.
    readout
        attention, criss_cross, gradient, perturbation and others of a model; pearson, grnboost2 and other baselines.
    genes
        How many; a text file of them, an id or symbol a line; tfs for --regulators against all; or all.
    fdr
        False discovery rate of the edges that are kept; without one no edge is tested.
    output
        h5ad or parquet to be written; none with --to-atlas.
    to_atlas
        Write the network into the atlas, beside the cells of release:NAME, instead of into an output.
    """
    body = import_module(".network_commands", __package__).grn
    return body(source, (output, to_atlas), (readout, genes, fdr), options, edges, scored)


def grn_heads(
    source: str,
    /,
    *,
    truth: str,
    output: Path,
    genes: str = "1000",
    method: Literal["logistic", "top"] = "logistic",
    top: int = 3,
    references: Path | None = None,
    hold_out: Path | None = None,
    save_model: Path | None = None,
    options: GrnOptions = PLAIN,
) -> int:
    """Choose the heads whose attention speaks of regulation, on known edges between genes of some cells.

    Parameters
    ----------
    source
        h5ad, 10x h5, 10x mtx folder or zarr with raw counts; or release:NAME of the default atlas.
    truth
        Table of known edges with columns regulator and target; or with --references the name of one, such as collectri.
    output
        json to be written, for --heads of `panatlas grn`.
    genes
        Targets: how many, or a text file of them. Regulators are those of the truth.
    method
        logistic weighs all heads; top takes the best ones.
    top
        How many it takes.
    references
        Folder with public references as their sources distribute them.
    hold_out
        Text file of genes that are not learnt from, to be scored later; an id or symbol a line.
    save_model
        Folder to be made: the model with the selection in it, so that --heads finds it by the name of the truth.
    """
    body = import_module(".network_heads", __package__).grn_heads
    return body(source, (output, save_model), (truth, references, hold_out), genes, (method, top), options)


def grn_hubs(
    network: Stored, /, *, top: int = 20, gene_sets: Path | None = None, output: Path | None = None,
    organism: str | None = None, atlas: str | None = None, force: Switch = False, json: Switch = False,
) -> int:  # fmt: skip
    """Show the hubs and communities of a network, and the gene sets that are met in them.

    Parameters
    ----------
    network
        h5ad or parquet of `panatlas grn`, or the key of a network of the atlas.
    top
        How many hubs.
    gene_sets
        GMT file; which of its sets are among the hubs and communities more often than by chance.
    output
        Parquet or tsv with degrees, strengths, influence and community of every gene.
    organism
        Whose, where several have a network of that key.
    atlas
        Folder of the atlas; PANATLAS_HOME/atlas unless named.
    force
        Write over an output that is there.
    json
        Print JSON on stdout.
    """
    return _tools().grn_hubs(network, (top, gene_sets), output, (organism, atlas), force=force, json=json)


def grn_compare(
    first: Stored, second: Stored, /, *, top: int = 20, fdr: float = 0.05, output: Path | None = None,
    organism: str | None = None, atlas: str | None = None, force: Switch = False, json: Switch = False,
) -> int:  # fmt: skip
    """Compare two networks: shared edges, edges that moved unusually far, hubs that came and went.

    Parameters
    ----------
    first, second
        h5ad or parquet of `panatlas grn`, or keys of networks of the atlas.
    top
        How many hubs are looked at.
    fdr
        False discovery rate of the edges that are counted as different.
    output
        Parquet or tsv with every edge of either.
    organism
        Whose, where several have a network of that key.
    atlas
        Folder of the atlas; PANATLAS_HOME/atlas unless named.
    force
        Write over an output that is there.
    json
        Print JSON on stdout.
    """
    return _tools().grn_compare((first, second), (top, fdr), output, (organism, atlas), force=force, json=json)


def grn_view(
    network: Stored, /, *, gene: str, output: Path, most: int = 30, organism: str | None = None,
    atlas: str | None = None, force: Switch = False, json: Switch = False,
) -> int:  # fmt: skip
    """Draw a gene and its neighbours: a page to walk through the network from it, or one drawing.

    Parameters
    ----------
    network
        h5ad or parquet of `panatlas grn`, or the key of a network of the atlas.
    gene
        Id or symbol.
    output
        html for the page, which works offline; svg for a drawing.
    most
        Neighbours in a drawing.
    organism
        Whose, where several have a network of that key.
    atlas
        Folder of the atlas; PANATLAS_HOME/atlas unless named.
    force
        Write over an output that is there.
    json
        Print JSON on stdout.
    """
    return _tools().grn_view(network, (gene, most), output, (organism, atlas), force=force, json=json)


def grn_structure(
    network: Stored, /, *, fasta: Path, output: Path, top: int = 50, most_residues: int = 2_500,
    organism: str | None = None, atlas: str | None = None, json: Switch = False,
) -> int:  # fmt: skip
    """Write the strongest pairs of a network as jobs for AlphaFold-Multimer, ColabFold and Boltz.

    Parameters
    ----------
    network
        h5ad or parquet of `panatlas grn`, or the key of a network of the atlas.
    fasta
        Proteins, such as Ensembl's pep.all; one per gene is chosen as `panatlas references import proteins` does.
    output
        Folder to be made.
    top
        Pairs.
    most_residues
        Of both proteins of a pair.
    organism
        Whose, where several have a network of that key.
    atlas
        Folder of the atlas; PANATLAS_HOME/atlas unless named.
    json
        Print JSON on stdout.
    """
    return _tools().grn_structure(network, (fasta, top, most_residues), output, (organism, atlas), json=json)


def grn_scores(
    network: Stored, /, *, jobs: Path, results: Path, output: Path, organism: str | None = None,
    atlas: str | None = None, force: Switch = False, json: Switch = False,
) -> int:  # fmt: skip
    """Read what structure predictors said of a network's pairs back, as layers of the network.

    Parameters
    ----------
    network
        The network that the jobs are of.
    jobs
        Folder that `panatlas grn-structure` wrote.
    results
        Folder with what AlphaFold-Multimer, ColabFold or Boltz wrote, at any depth.
    output
        h5ad or parquet to be written.
    organism
        Whose, where several have a network of that key.
    atlas
        Folder of the atlas; PANATLAS_HOME/atlas unless named.
    force
        Write over an output that is there.
    json
        Print JSON on stdout.
    """
    return _tools().grn_scores(network, (jobs, results), output, (organism, atlas), force=force, json=json)


COMMANDS = (grn, grn_heads, grn_hubs, grn_compare, grn_view, grn_structure, grn_scores)
"""All of them, in the order in which help lists them."""
