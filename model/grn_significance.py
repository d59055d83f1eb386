"""Whether an edge is real: the same read-out on shuffled cells, z-scores, p-values, false discovery rate and stability.

`assess_edges` takes any read-out as a function of cells, so that the model's own and the baselines are judged alike. An
edge is compared with itself on shuffled cells (shuffled_cells.py): what a read-out says whatever the cells, such as a
model's memory of two genes, is no evidence from these cells. Few shuffles suffice since the z-scores of edges between
genes of about the same expression make one null. infer_grn (grn_inference.py) lays the results on a network as layers.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from .errors import ModelInputError
from .shuffled_cells import Shuffle, ShuffledCells, gene_totals

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy.typing as npt

    from loaders import Cells

    from .grn_scores import EdgeScores

    Numbers = npt.NDArray[np.int64]
    Matrix = npt.NDArray[np.float64]
    ReadOut = Callable[[Cells, Numbers], EdgeScores]

Resample = Literal["auto", "cells", "donors"]
FEWEST_SHUFFLES = 3
"""Values that a spread is taken from at least, one of them left out."""
FEWEST_DONORS = 5
"""Donors from which on `auto` draws donors instead of cells: fewer make too few different resamples."""
MOST_BYTES = 2**32
"""Of memory that shuffles take, 4 GiB."""
WORKING = 48
"""Bytes per shuffle and edge on the way to the z-scores of one pool."""


@dataclass(frozen=True)
class NullOptions:
    """How the null is made, and how stability is."""

    kind: Shuffle = "genes"
    """`genes`: within each cell, among genes of about the same mean; `cells`: each gene among the cells."""
    permutations: int = 20
    """Shuffles, 3 or more."""
    shuffle_bins: int = 25
    """Bins of mean expression inside of which `genes` shuffles."""
    pool_bins: int = 5
    """Bins of mean expression of regulators, and of targets: edges of one pair of bins share a null."""
    bootstraps: int = 0
    """Resamples for stability; 0 for none."""
    resample: Resample = "auto"
    """What is drawn with replacement: cells, or donors with their cells; `auto` draws donors from 5 known ones on."""
    fdr: float = 0.05
    """False discovery rate of the edges whose stability is asked."""
    seed: int = 0
    """Of shuffles and resamples."""

    def __post_init__(self) -> None:
        """Refuse what cannot be done before anything is read."""
        if self.permutations < FEWEST_SHUFFLES:
            raise ModelInputError("permutations", self.permutations, "3 or more: a spread needs them")
        if self.pool_bins < 1:
            raise ModelInputError("pool_bins", self.pool_bins, "1 or more")
        if self.bootstraps < 0:
            raise ModelInputError("bootstraps", self.bootstraps, "0 or more")
        if self.resample not in get_args(Resample):
            raise ModelInputError("resample", self.resample, ", ".join(get_args(Resample)))
        if not 0 < self.fdr < 1:
            raise ModelInputError("fdr", self.fdr, "a share above 0 and below 1")


@dataclass(frozen=True, eq=False)
class EdgeSignificance:
    """What the null says of each edge; arrays are [regulators, targets], NaN where there is no edge to judge."""

    scores: EdgeScores
    """What the read-out says of the real cells."""
    z: npt.NDArray[np.float32]
    """How far above its values on shuffled cells, in their standard deviations."""
    p_values: npt.NDArray[np.float64]
    """Share of the null that is as far above, (r + 1) / (n + 1), one-sided."""
    q_values: npt.NDArray[np.float64]
    """Smallest false discovery rate at which the edge is among those called (Benjamini and Hochberg)."""
    stability: npt.NDArray[np.float32] | None
    """Share of the resamples in which the edge is among as many strongest ones, of the same sign; None if not asked."""
    resampled: str
    """cells or donors; empty where nothing was resampled."""
    options: NullOptions
    """How it was made."""

    def layers(self) -> dict[str, npt.NDArray]:
        """Return what a network keeps of each edge, by name of the layer, [regulators, targets]."""
        out: dict[str, npt.NDArray] = {
            "z": self.z,
            "p_value": self.p_values.astype(np.float32),
            "q_value": self.q_values.astype(np.float32),
        }
        if self.scores.signs is not None:
            out["sign"] = self.scores.signs
        return out if self.stability is None else {**out, "stability": self.stability}

    def called(self, fdr: float) -> npt.NDArray[np.bool_]:
        """Return which edges are called at a false discovery rate, bool [regulators, targets]."""
        return np.nan_to_num(self.q_values, nan=np.inf) <= fdr


def assess_edges(
    read_out: ReadOut, cells: Cells, numbers: Numbers | None = None, options: NullOptions | None = None
) -> EdgeSignificance:
    """Return how far each edge is beyond what the read-out says of shuffled cells.

    Parameters
    ----------
    read_out
        Function of (cells, numbers) that returns `EdgeScores`, such as a call of `score_edges` with all else given.
        Larger values are stronger edges; it is called once per shuffle and once per resample.
    cells
        The real cells.
    numbers
        Which of them, int64 [n]; None for all. They are shuffled among each other.
    options
        How; None for the defaults.

    Raises
    ------
    ModelInputError
        When the cells are of several organisms, donors are to be drawn and fewer than two are known, or shuffles and
        edges are too many, as `prove_room` says.

    Notes
    -----
    z = (value - mean of the shuffles) / spread, where the variance is the mean of the edge's own and that of its pool,
    so that an edge that hardly varies does not win by chance (as in Smyth 2004, doi:10.2202/1544-6115.1027, with a
    fixed weight). The null of a pool are the z-scores of its shuffled edges, each against the other shuffles of the
    same edge. p = (r + 1) / (n + 1) is never 0 (Phipson and Smyth 2010, doi:10.2202/1544-6115.1585). q is Benjamini
    and Hochberg's (1995, doi:10.1111/j.2517-6161.1995.tb02031.x), which holds for edges that depend positively. Memory
    is that of `prove_room`: some 6 bytes per shuffle and edge where pools are 5 x 5.
    """
    options = options or NullOptions()
    found = np.arange(len(cells), dtype=np.int64) if numbers is None else np.asarray(numbers, dtype=np.int64)
    resampled = _resampled(cells, found, options) if options.bootstraps else ""
    observed = read_out(cells, found)
    prove_room(observed.values.size, options)
    pools = _pools(cells, found, observed, options.pool_bins)
    null = np.empty((options.permutations, *observed.values.shape), dtype=np.float32)
    for turn in range(options.permutations):
        bins, seed = options.shuffle_bins, _seed(options.seed, turn)
        shuffled = ShuffledCells(cells, found, kind=options.kind, bins=bins, seed=seed)
        null[turn] = _same_edges(observed, read_out(shuffled, found)).values
    values = observed.values.astype(np.float64)
    centre, spread, z, p_values = (np.full(values.shape, np.nan) for _ in range(4))
    for pool in np.unique(
        pools
    ):  # one at a time: what is made of the shuffles on the way takes several times their room
        mine = (pools == pool) & np.isfinite(values)
        centre[mine], spread[mine], pooled = standardise(null[:, mine])
        z[mine] = _over(values[mine] - centre[mine], spread[mine])
        p_values[mine] = pool_p_values(z[mine], pooled)
    q_values = false_discovery(p_values)
    stability = None
    if options.bootstraps:
        calls = int((np.nan_to_num(q_values, nan=np.inf) <= options.fdr).sum())
        kept = np.zeros(z.shape, dtype=np.int64)
        for turn in range(options.bootstraps):
            drawn = read_out(cells, _drawn(cells, found, resampled, _seed(options.seed, turn, "bootstrap")))
            again = _over(_same_edges(observed, drawn).values.astype(np.float64) - centre, spread)
            kept += _strongest(again, calls) & _same_signs(observed, drawn)
        stability = np.where(np.isfinite(z), kept / options.bootstraps, np.nan).astype(np.float32)
    return EdgeSignificance(observed, z.astype(np.float32), p_values, q_values, stability, resampled, options)


def prove_room(pairs: int, options: NullOptions) -> None:
    """Raise ModelInputError where the shuffles of so many pairs would take more than 4 GiB.

    They take 4 bytes per shuffle and pair, and 48 while z-scores are made, of one pool at a time. `assess_edges` can
    only ask when it has seen the real cells' scores; who knows the pairs asks before anything is read.
    """
    each = options.permutations * (4 + WORKING / min(options.pool_bins**2, max(pairs, 1)))
    if pairs * each > MOST_BYTES:
        got = f"{options.permutations} shuffles of {pairs} pairs, {pairs * each / 2**30:.1f} GiB"
        remedy = f"at most 4 GiB, {int(MOST_BYTES / each)} pairs: fewer genes, named regulators or fewer permutations"
        raise ModelInputError("permutations", got, remedy)


def standardise(null: npt.NDArray[np.float32]) -> tuple[Matrix, Matrix, Matrix]:
    """Return the mean and the spread of each edge over the shuffles, and the z-score of each shuffle among the others.

    Parameters
    ----------
    null
        What shuffles say of the edges of one pool, [shuffles, edges].

    Returns
    -------
    mean [edges]; spread of one more value [edges]; z [shuffles, edges]. NaN where fewer than three shuffles have a
    value of an edge: a gene that is nowhere expressed after a shuffle has none.
    """
    valid = np.isfinite(null)
    n = valid.sum(0)
    known = n >= FEWEST_SHUFFLES
    n = np.where(known, n, FEWEST_SHUFFLES).astype(np.float64)  # no warnings where there is no edge
    centre = np.where(known, np.where(valid, null, 0).sum(0, dtype=np.float64) / n, np.nan)
    away = np.where(valid, null - centre, 0)  # first, so that the squares of small deviations are not lost
    squares = np.square(away).sum(0)
    usual = (squares / (n - 1))[known].mean() if known.any() else np.nan
    # The others' mean, away from the mean of all, is -x / (n - 1).
    others = (squares - np.square(away) * n / (n - 1)) / (n - 2)
    wide = np.sqrt((np.maximum(others, 0) + usual) / 2 * (1 + 1 / (n - 1)))
    z = np.where(valid, _over(away * n / (n - 1), wide), np.nan)
    return centre, np.sqrt((squares / (n - 1) + usual) / 2 * (1 + 1 / n)), z


def pool_p_values(z: Matrix, null: Matrix) -> Matrix:
    """Return (r + 1) / (n + 1) per edge, r of the n values of its pool's null being as large; NaN for NaN."""
    sample = np.sort(null[np.isfinite(null)])
    reached = len(sample) - np.searchsorted(sample, z, side="left")
    return np.where(np.isfinite(z), (reached + 1) / (len(sample) + 1), np.nan)


def false_discovery(p_values: Matrix) -> Matrix:
    """Return Benjamini and Hochberg's q of each p-value; NaN stays."""
    from scipy.stats import false_discovery_control  # noqa: PLC0415 - takes a second to import

    out = np.full(p_values.shape, np.nan)
    known = np.isfinite(p_values)
    if known.any():
        out[known] = false_discovery_control(p_values[known], method="bh")
    return out


def _over(difference: Matrix, spread: Matrix) -> Matrix:
    """Return the quotient; where nothing varies, not even among like edges, no difference says anything: 0."""
    return np.where(np.isnan(spread), np.nan, np.where(spread > 0, difference, 0) / np.where(spread > 0, spread, 1))


def _seed(*parts: object) -> int:
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=7).digest(), "little")


def _pools(cells: Cells, numbers: Numbers, scores: EdgeScores, bins: int) -> npt.NDArray[np.int64]:
    """Return the pool of each edge: the bin of its regulator and the bin of its target by mean expression."""
    totals = gene_totals(cells, numbers)
    if len(organisms := {organism for organism, _ in totals}) > 1:
        names = [str(cells.about["organisms"][code]["organism"]) for code in sorted(organisms)]
        raise ModelInputError("numbers", names, "cells of one organism at a time")
    code = organisms.pop()
    genes = cells.genes()
    ids = genes.loc[genes["organism"] == code, "feature_id"].tolist()
    total = dict(zip(ids, np.sum(list(totals.values()), axis=0)[: len(ids)].tolist(), strict=True))

    def binned(wanted: Sequence[str]) -> npt.NDArray[np.int64]:
        order = np.argsort([total.get(gene, 0.0) for gene in wanted], kind="stable")
        out = np.empty(len(wanted), dtype=np.int64)
        out[order] = np.arange(len(wanted)) * bins // max(len(wanted), 1)
        return out

    return binned(scores.regulators)[:, None] * bins + binned(scores.targets)[None, :]


def _same_edges(observed: EdgeScores, other: EdgeScores) -> EdgeScores:
    if observed.regulators != other.regulators or observed.targets != other.targets:
        raise ModelInputError("read_out", "other genes on other cells", "a function that scores the same edges always")
    return other


def _resampled(cells: Cells, numbers: Numbers, options: NullOptions) -> str:
    """Return what is drawn: cells or donors."""
    donors = len(np.unique(cells.codes("donor", numbers)))
    if options.resample == "donors" and donors < 2:
        raise ModelInputError("resample", "donors", f"cells: the cells are of {donors} known donor")
    return ("donors" if donors >= FEWEST_DONORS else "cells") if options.resample == "auto" else options.resample


def _drawn(cells: Cells, numbers: Numbers, what: str, seed: int) -> Numbers:
    """Return cells, or all cells of donors, drawn with replacement as often as there are."""
    draw = np.random.Generator(np.random.Philox(key=np.array([seed, 0], dtype=np.uint64)))
    if what == "cells":
        return np.sort(draw.choice(numbers, len(numbers)))
    owners = cells.codes("donor", numbers)
    donors = np.unique(owners)
    return np.concatenate([numbers[owners == one] for one in np.sort(draw.choice(donors, len(donors)))])


def _strongest(z: Matrix, most: int) -> npt.NDArray[np.bool_]:
    """Return which edges are among so many strongest; of those tied at the border, none."""
    values = np.sort(z[np.isfinite(z)])[::-1]
    if most == 0 or not len(values):
        return np.zeros(z.shape, dtype=bool)
    border = values[most] if most < len(values) else -np.inf
    return np.nan_to_num(z, nan=-np.inf) > border


def _same_signs(one: EdgeScores, other: EdgeScores) -> npt.NDArray[np.bool_]:
    if one.signs is None or other.signs is None:
        return np.ones(one.values.shape, dtype=bool)
    return np.asarray(one.signs == other.signs)
