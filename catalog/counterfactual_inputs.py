"""Who is changed to what, and what that is compared with: the words of `panatlas counterfactual` as cells and genes.

Cells of the target are those that have every value that is set; the others are changed. Values are looked up in the
input's own obs. Of another organism, genes are those with one ortholog on either side.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from model import Population, halve, variable_genes
from ontology import one_to_one_orthologs

from . import model_places as places
from .errors import CatalogInputError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt

    from loaders import Cells
    from model import Halves, TrainedModel

    from .cli_generate import CounterfactualOptions
    from .task_inputs import TaskInput

    Numbers = npt.NDArray[np.int64]

SETTING = re.compile(r"([A-Za-z_]+)(?::([^=]+))?=(.+)")
"""Token, column where it has another name, and value."""
ORGANISM = "organism"


@dataclass(frozen=True, eq=False)
class Asked:
    """What is to be done."""

    tokens: tuple[str, ...]
    """Tokens that are swapped."""
    halves: Halves
    """Cells that are compared, and what that takes."""
    changed: Numbers
    """All cells that are changed, rising."""
    roles: pd.Categorical
    """What each cell of the input is in this."""
    genes: tuple[Sequence[str], Sequence[str]]
    """Feature ids that are decoded: of the cells' organism, and of the target's."""
    orthologs: tuple[str, Sequence[str]] | None
    """The other organism and its genes, where it is another."""
    organisms: tuple[str, str]
    """Of the cells, and of the target."""
    facts: Mapping[str, Any]
    """For the receipt."""


def ask(model: TrainedModel, given: TaskInput, other: TaskInput, how: CounterfactualOptions) -> Asked:
    """Return what is to be done.

    Parameters
    ----------
    model
        The model.
    given
        The input.
    other
        Cells with those of the target; the input itself where there is no other.
    how
        The words.

    Raises
    ------
    CatalogInputError
        When a word is none, no cell is of the target or is not, or an organism is swapped without its token.
    ModelInputError
        When there are too few cells to compare.
    """
    settings = [_setting(one, model) for one in how.to]
    if not settings:
        raise CatalogInputError("set", None, "--set TOKEN=VALUE once or more, e.g. --set disease=normal")
    organisms = _organism(given, "input"), _organism(other, "reference")
    goal = _matching(other, settings, organisms[1])
    alike = other is given
    rest = ~goal if alike else ~_matching(given, settings, organisms[0], strict=False)
    if not goal.any() or not rest.any():
        said = " and ".join(how.to)
        raise CatalogInputError("set", said, "a value that some cells have, and cells to change that have another")
    if organisms[0] != organisms[1] and ORGANISM not in {token for token, _, _ in settings}:
        raise CatalogInputError("set", " and ".join(how.to), f"--set organism={organisms[1]} too, as the reference is")
    source = _population(given, np.flatnonzero(rest), how)
    target = _population(other, np.flatnonzero(goal), how)
    halves = halve(source, target, how.seed)
    genes = _genes(model, (given, other), organisms, how)
    roles = np.full(len(rest), "not changed", dtype=object)
    roles[rest] = "changed"
    roles[np.isin(given.numbers, halves.source.numbers)] = "changed, compared"
    facts = {
        "changed": int(rest.sum()), "compared": len(halves.source.numbers), "target": len(halves.target.numbers),
        "reference": len(halves.reference.numbers), "groups": list(halves.groups),
        "halves_by": how.donors or "cells", "decoded_genes": len(genes[0]),
    }  # fmt: skip
    return Asked(
        tuple(token for token, _, _ in settings), halves, source.numbers, pd.Categorical(roles), genes,
        None if organisms[0] == organisms[1] else (organisms[1], genes[1]), organisms, facts,
    )  # fmt: skip


def chosen_cells(obs: pd.DataFrame, only: Sequence[str]) -> npt.NDArray[np.bool_]:
    """Return which cells have all of some values, such as `cell_type=T cell`.

    Raises
    ------
    CatalogInputError
        When a column or value is not there, or no cell has all.
    """
    out = np.ones(len(obs), dtype=bool)
    for one in only:
        column, _, value = one.partition("=")
        out &= _has(obs, column, value, "only")
    if not out.any():
        raise CatalogInputError("only", list(only), "values that some cells have together")
    return out


def _setting(text: str, model: TrainedModel) -> tuple[str, str, str]:
    """Return token, column and value of a word."""
    found = SETTING.fullmatch(text)
    names = model.network.reader.names
    if found is None or found[1] not in names:
        allowed = f"TOKEN=VALUE or TOKEN:COLUMN=VALUE with a token among {', '.join(names)}"
        raise CatalogInputError("set", text, allowed)
    return found[1], found[2] or found[1], found[3]


def _matching(
    asked: TaskInput, settings: Sequence[tuple[str, str, str]], organism: str, *, strict: bool = True
) -> npt.NDArray[np.bool_]:
    """Return which cells have every value; where a column is not there and need not be, none has."""
    out = np.ones(len(asked.numbers), dtype=bool)
    for token, column, value in settings:
        if token == column == ORGANISM:
            out &= value in (organism, organism.replace("_", " ").capitalize())
        elif strict or _column(asked.obs, column) is not None:
            out &= _has(asked.obs, column, value, "set", strict=strict)
        else:
            out &= False
    return out


def _has(obs: pd.DataFrame, column: str, value: str, field: str, *, strict: bool = True) -> npt.NDArray[np.bool_]:
    name = _column(obs, column)
    if name is None:
        raise CatalogInputError(field, column, f"a column of obs: {', '.join(map(str, obs.columns))}")
    texts = obs[name].astype(str).to_numpy(dtype=object)
    if strict and not (texts == value).any():
        there = sorted(set(texts.tolist()))
        more = f" and {len(there) - 10} more" if len(there) > 10 else ""
        raise CatalogInputError(field, f"{column}={value}", f"a value of {name}: {', '.join(there[:10])}{more}")
    return texts == value


def _column(obs: pd.DataFrame, column: str) -> str | None:
    """Return the name a column has in obs; labels of a release are ids."""
    return next((name for name in (column, f"{column}_ontology_term_id") if name in obs), None)


def _organism(asked: TaskInput, field: str) -> str:
    names = [str(one["organism"]) for one in asked.cells.about["organisms"]]
    there = np.unique(asked.cells.codes("organism", asked.numbers))
    if len(there) != 1:
        raise CatalogInputError(field, [names[code] for code in there], "cells of one organism; --organism chooses")
    return names[int(there[0])]


def _population(asked: TaskInput, rows: Numbers, how: CounterfactualOptions) -> Population:
    """Return some cells of an input with their groups and donors."""
    columns = []
    for field, column in (("by", how.by), ("donors", how.donors)):
        name = None if column is None else _column(asked.obs, column)
        if column is not None and name is None:
            raise CatalogInputError(field, column, f"a column of obs: {', '.join(map(str, asked.obs.columns))}")
        columns.append(None if name is None else asked.obs[name].astype(str).to_numpy(dtype=object)[rows])
    groups, units = columns
    numbers = asked.numbers[rows]
    if units is None:
        units = np.array([f"{one:020d}" for one in _hashes(asked.cells, numbers)], dtype=object)
    return Population(asked.cells, numbers, np.full(len(rows), "", dtype=object) if groups is None else groups, units)


def _hashes(cells: Cells, numbers: Numbers) -> list[int]:
    """Return the hashes of cells' counts: copies of a cell are never on both sides."""
    return cells.codes("count_hash_high", numbers).astype(np.uint64).tolist()


def _genes(
    model: TrainedModel, inputs: tuple[TaskInput, TaskInput], organisms: tuple[str, str], how: CounterfactualOptions
) -> tuple[Sequence[str], Sequence[str]]:
    """Return the genes that are decoded, of either organism."""
    if how.n_genes < 2:
        raise CatalogInputError("n_genes", how.n_genes, "2 or more")
    measured = [_measured(model, asked, organism) for asked, organism in zip(inputs, organisms, strict=True)]
    links = one_to_one_orthologs(*organisms)
    known, there = dict(zip(links["first"], links["second"], strict=True)), set(measured[1])
    pairs = {gene: known[gene] for gene in measured[0] if known.get(gene) in there}
    genes = list(pairs)
    if how.genes is not None:
        wanted = set(places.read_genes(how.genes, [organisms[0]], "genes")[0])
        genes = [gene for gene in genes if gene in wanted]
    if len(genes) < 2:
        raise CatalogInputError("genes", len(genes), "two or more that the model knows and both inputs measured")
    if how.genes is None and len(genes) > how.n_genes:
        genes = _most_variable(inputs, genes, how.n_genes)
    return genes, [pairs[gene] for gene in genes]


def _most_variable(inputs: tuple[TaskInput, TaskInput], genes: list[str], most: int) -> list[str]:
    """Return the genes that vary most over the input's cells, and over the reference's where it has them."""
    first, other = inputs
    table = other.cells.genes()
    if other is first or not set(genes) <= set(table["feature_id"]):
        return variable_genes(first.cells, first.numbers, genes, most)
    half = variable_genes(first.cells, first.numbers, genes, -(-most // 2))
    rest = [gene for gene in variable_genes(other.cells, other.numbers, genes, most) if gene not in set(half)]
    kept = set(half) | set(rest[: most - len(half)])
    return [gene for gene in genes if gene in kept]


def _measured(model: TrainedModel, asked: TaskInput, organism: str) -> list[str]:
    """Return the genes that the model knows and all datasets of an input measured."""
    cells, code = asked.cells, int(asked.cells.codes("organism", asked.numbers[:1])[0])
    table = cells.genes()
    ids = table.loc[table["organism"] == code, "feature_id"].to_numpy(dtype=object)
    kept = model.vocabulary.gene_tokens(organism, ids.tolist()) >= 0
    for dataset in np.unique(cells.codes("dataset", asked.numbers)).tolist():
        kept = kept & np.asarray(cells.measured(int(dataset), code), dtype=bool)[: len(ids)]
    return ids[kept].tolist()
