"""How far counterfactual changes are those that are observed: by gene and cell type, beside what is simple.

Half of the cells, by donor where donors are known, give the tokens that are swapped in, and the mean shift that is the
baseline to beat; the other half is what both are compared with. counterfactual.py decodes, expression_change.py has
the scores, `panatlas counterfactual` writes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import scipy.sparse as sp

from .counterfactual import Swap, counterfactual_blocks, mean_codes
from .embedding import embed_blocks
from .errors import ModelInputError
from .expression_change import (
    ShareSums,
    change,
    membership,
    observed_means,
    read_counts,
    score_changes,
    shares_differ,
)
from .inference import InferenceOptions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    import numpy.typing as npt

    from loaders import Cells

    from .checkpoint import TrainedModel
    from .counterfactual import Counterfactual
    from .embedding import Embedding

    Numbers = npt.NDArray[np.int64]
    Matrix = npt.NDArray[np.float64]
    Names = npt.NDArray[np.object_]

LEAST = 20
"""Cells a group must have in each half of both sides to be told apart."""
EVERYTHING = "all"
"""Name of the group of all cells."""


@dataclass(frozen=True, eq=False)
class Population:
    """Cells of one class: those that are changed, or those of the class they are changed to."""

    cells: Cells
    """Where they are."""
    numbers: Numbers
    """Which cells, each once, of one organism, int64 [n]."""
    groups: Names
    """Group of each as text, such as its cell type, [n]."""
    units: Names
    """What is never cut in two, such as donors, as text, [n]; a cell's own name where nothing is known."""

    def part(self, which: npt.NDArray[np.bool_]) -> Population:
        """Return some of the cells."""
        return replace(self, numbers=self.numbers[which], groups=self.groups[which], units=self.units[which])


@dataclass(frozen=True, eq=False)
class Halves:
    """Two populations, each cut in two: what is compared, and what tokens and baselines are made of."""

    source: Population
    """Cells to be changed, of which the changes are compared."""
    others: Population
    """The other cells of their kind."""
    target: Population
    """Cells of the other class, with which they are compared."""
    reference: Population
    """The other cells of that class: their mean tokens are swapped in."""
    groups: tuple[str, ...]
    """`all`, and the groups of which all four have 20 cells or more, sorted."""


@dataclass(frozen=True, eq=False)
class ChangeReport:
    """What a counterfactual changes, and what is observed to be changed."""

    changes: pd.DataFrame
    """A row per group and gene: mean counts per 10^4, decoded (factual, own_class, counterfactual) and observed
    (source, target); log2 changes, one added, of the counterfactual over the factual (change) and over the swap to the
    cells' own class (change_over_own), and the observed one, with its p and q (`shares_differ`)."""
    scores: pd.DataFrame
    """A row per group and method (counterfactual, over own class, mean shift, random swap, no change), as
    `score_changes` says."""


def halve(source: Population, target: Population, seed: int = 0) -> Halves:
    """Return both populations cut in two; units that both have, such as donors before and after, on the same side.

    Raises
    ------
    ModelInputError
        When a half of either would be empty.
    """
    rng = np.random.default_rng(seed)
    mine, theirs = set(source.units.tolist()), set(target.units.tolist())
    compared: set[Any] = set()
    odd = (
        len(mine & theirs) % 2
    )  # where the other half has a shared unit more, this one takes its share of each side's own
    for units, more in ((mine & theirs, 0), (mine - theirs, odd), (theirs - mine, odd)):
        drawn = rng.permutation(np.array(sorted(units), dtype=object))
        compared |= set(drawn[: (len(drawn) + more) // 2].tolist())
    cut = [np.array([one in compared for one in each.units], dtype=bool) for each in (source, target)]
    if any(half.all() or not half.any() for half in cut):
        counted = f"{len(mine)} and {len(theirs)}, {len(mine & theirs)} of them in both"
        raise ModelInputError("units", counted, "two or more of source and of target cells: one half is compared")
    parts = source.part(cut[0]), source.part(~cut[0]), target.part(cut[1]), target.part(~cut[1])
    counts = [pd.Series(part.groups).value_counts() for part in parts]
    enough = set.intersection(*(set(one.index[one >= LEAST]) for one in counts)) - {EVERYTHING, ""}
    return Halves(*parts, (EVERYTHING, *sorted(map(str, enough))))


def swaps_to(
    model: TrainedModel, reference: Population, tokens: Sequence[str], weight: float, options: InferenceOptions
) -> list[Swap]:
    """Return swaps of tokens to their means over a population."""
    codes = mean_codes(model, reference.cells, reference.numbers, options=options)
    if unknown := [token for token in tokens if token not in codes]:
        raise ModelInputError("token", unknown[0], f"one of {', '.join(codes)}")
    return [Swap(token, codes[token], weight) for token in tokens]


def class_codes(
    halves: Halves, read: Callable[[str, Population], Iterable[Embedding]], seed: int = 0
) -> dict[str, dict[str, npt.NDArray[np.float32]]]:
    """Return the mean codes of cell tokens that a counterfactual and its baselines are made of.

    Parameters
    ----------
    halves
        What `halve` gave.
    read
        Gives the embedding of the cells of `others` and of `reference`, each once, block by block and in order.
    seed
        Of the cells drawn at random.

    Returns
    -------
    dict
        By token: of the `target`'s class; of the cells' `own`; `random`, of as many cells as the target's, drawn from
        both classes whichever they are of.
    """
    pools = {"others": halves.others, "reference": halves.reference}
    sizes = [len(pool.numbers) for pool in pools.values()]
    drawn = np.zeros(sum(sizes), dtype=bool)
    drawn[np.random.default_rng(seed).permutation(len(drawn))[: sizes[1]]] = True
    sums, mixed = {}, np.float64(0)
    for (name, pool), mine in zip(pools.items(), (drawn[: sizes[0]], drawn[sizes[0] :]), strict=True):
        total, start = np.float64(0), 0
        for block in read(name, pool):
            some = mine[start : start + len(block)]
            total = total + block.values.sum(0, dtype=np.float64)
            mixed = mixed + block.values[some].sum(0, dtype=np.float64)
            start += len(block)
        sums[name] = total / start
    means = {"target": sums["reference"], "own": sums["others"], "random": mixed / sizes[1]}
    return {
        name: {token: mean[columns].astype(np.float32) for token, columns in block.columns.items()}
        for name, mean in means.items()
    }


def control_swaps(swaps: Sequence[Swap], codes: Mapping[str, Mapping[str, npt.NDArray[np.float32]]]) -> list[Swap]:
    """Return the swaps of baselines: to the cells' own class before, and to cells of either class after.

    Parameters
    ----------
    swaps
        Those that are judged.
    codes
        What `class_codes` gave.
    """
    return [Swap(one.token, codes["random"][one.token], one.weight, codes["own"][one.token]) for one in swaps]


def decoded_means(blocks: Iterable[Counterfactual], source: Population, groups: Sequence[str]) -> tuple[Matrix, Matrix]:
    """Return the mean counts per 10^4 molecules of factual and counterfactual, [groups, genes].

    Cells of the blocks that are not of the population are left out.
    """
    places = pd.Series(np.arange(len(source.numbers)), index=source.numbers)
    sums: tuple[ShareSums, ShareSums] | None = None
    for block in blocks:
        sums = sums or (ShareSums(len(groups), len(block.genes)), ShareSums(len(groups), len(block.genes)))
        place = places.reindex(block.numbers, fill_value=-1).to_numpy()
        mine = place >= 0
        members = membership(source.groups[place[mine]], groups)
        for one, counts in zip(sums, (block.factual, block.expected), strict=True):
            one.add(counts[mine], block.depth[mine], members)
    if sums is None:
        raise ModelInputError("blocks", "none", "one or more")
    return sums[0].means(), sums[1].means()


def compare_changes(
    halves: Halves, made: tuple[Matrix, Matrix], means: tuple[Matrix, Matrix], genes: tuple[Sequence[str], ...]
) -> ChangeReport:
    """Return what a counterfactual changes beside what is observed and what is simple.

    Parameters
    ----------
    halves
        The cells.
    made
        What `decoded_means` gave of the swap, over `halves.source` and `halves.groups`.
    means
        The same of two other swaps: to the mean of the cells' own class, and to the random one.
    genes
        Feature ids of the source's organism, and in the same places those of the target's.
    """
    parts, names = (halves.source, halves.others, halves.target, halves.reference), halves.groups
    counted = [
        observed_means(part.cells, part.numbers, genes[place // 2], part.groups, names)
        for place, part in enumerate(parts)
    ]
    seen = change(counted[2], counted[0])
    said = {
        "counterfactual": change(made[1], made[0]),
        "over own class": change(made[1], means[0]),
        "mean shift": change(counted[3], counted[1]),
        "random swap": change(means[1], made[0]),
        "no change": np.zeros_like(seen),
    }
    shares = [_shares(part, genes[place]) for place, part in enumerate((halves.source, halves.target))]
    rows, tables = [], []
    for place, name in enumerate(names):
        inside = [part.groups == name if place else slice(None) for part in (halves.source, halves.target)]
        here = [share[mine] for share, mine in zip(shares, inside, strict=True)]
        about = {"group": name, "source_cells": here[0].shape[0], "target_cells": here[1].shape[0]}
        rows += [{**about, "method": who, **score_changes(what[place], seen[place])} for who, what in said.items()]
        p, q = shares_differ(*here)
        columns = {
            "gene": np.array(genes[0], dtype=object), "gene_after": np.array(genes[1], dtype=object),
            "factual": made[0][place], "own_class": means[0][place], "counterfactual": made[1][place],
            "change": said["counterfactual"][place], "change_over_own": said["over own class"][place],
            "source": counted[0][place], "target": counted[2][place], "observed_change": seen[place], "p": p, "q": q,
        }  # fmt: skip
        tables.append(pd.DataFrame({"group": name, **columns}))
    return ChangeReport(pd.concat(tables, ignore_index=True), pd.DataFrame(rows))


def report_counterfactual(
    model: TrainedModel,
    halves: Halves,
    swaps: Sequence[Swap],
    genes: Sequence[str],
    *,
    orthologs: tuple[str, Sequence[str]] | None = None,
    options: InferenceOptions | None = None,
    seed: int = 0,
) -> ChangeReport:
    """Swap tokens of cells, and return what that changes beside what is observed and what is simple.

    Parameters
    ----------
    model
        The model.
    halves
        What `halve` gave.
    swaps
        What `swaps_to` gave of `halves.reference`.
    genes
        Feature ids that are decoded and compared.
    orthologs
        Where the organism is swapped: the other one, and the gene of it in place of each of `genes`.
    options
        What is shown of each cell; None for the defaults.
    seed
        Of the cells whose mean is swapped in at random.

    Raises
    ------
    ModelInputError
        As `counterfactual_blocks`.

    Notes
    -----
    A cell's own token has what sets it apart from its class, a mean has not, so replacing one by the other changes
    expression whichever class the mean is of. `over own class` leaves that out: both sides are decoded from means.

    Baselines: `mean shift` is the change between the halves that are not compared, which any counterfactual has to
    beat; `random swap` swaps in the mean tokens of cells of either class, so what it changes is the swapping's doing.
    """
    options = options or InferenceOptions()
    how = {"genes": genes, "orthologs": orthologs, "options": options}
    source = halves.source
    codes = class_codes(halves, lambda _, some: embed_blocks(model, some.cells, some.numbers, options=options), seed)
    made, means = (
        decoded_means(counterfactual_blocks(model, source.cells, each, source.numbers, **how), source, halves.groups)
        for each in (swaps, control_swaps(swaps, codes))
    )
    return compare_changes(halves, made, means, (genes, genes if orthologs is None else orthologs[1]))


def _shares(part: Population, genes: Sequence[str]) -> sp.csr_matrix:
    """Return the shares of molecules of a population, [cells, genes]."""
    counts = read_counts(part.cells, part.numbers, genes).astype(np.float64)
    depth = np.maximum(part.cells.codes("depth", part.numbers).astype(np.float64), 1)
    return sp.csr_matrix(sp.diags_array(1 / depth) @ counts)
