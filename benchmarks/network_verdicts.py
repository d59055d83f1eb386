"""From scores to rows, intervals and words: who finds more of what is known, and whether that is more than chance.

Intervals of pooled scores are Student's over seeds, which share cells and so say little; those per regulator, and of
differences between two methods over the same regulators, are what verdicts rest on. Used by networks.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.stats import t

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from model.grn_metrics import NetworkScore
    from model.grn_scores import EdgeScores
    from model.grn_truths import EdgeTruth


@dataclass(frozen=True, eq=False)
class Told:
    """What all seeds say of one method beside one reference."""

    scores: Sequence[NetworkScore]
    enriched: Sequence[float]
    seconds: float

    @property
    def lifts(self) -> pd.Series:
        """Average precision over chance of each regulator, mean over seeds."""
        return pd.concat([one.per_regulator["lift"] for one in self.scores]).groupby(level=0).mean()

    def row(self) -> dict[str, Any]:
        """Return the row of the table."""
        one = [score.pooled for score in self.scores]
        density = np.array([score.density for score in self.scores])
        area = np.array([pooled["auprc"] for pooled in one]) / density
        odds = np.exp([np.mean([np.log(pooled[name]) for pooled in one]) for name in ("odds_ratio", "low", "high")])
        return {
            "AP / chance": over_seeds([pooled["lift"] for pooled in one]),
            "AUPRC / density": over_seeds(area),
            "EPR": over_seeds([pooled["epr"] for pooled in one]),
            "odds ratio": f"{odds[0]:.2f} [{odds[1]:.2f}, {odds[2]:.2f}]",
            "AP / chance per regulator": between(self.lifts.to_numpy()),
            "regulons enriched": f"{np.mean(self.enriched):.2f}",
            "s": f"{self.seconds:.3g}",
        }


def over_seeds(values: Sequence[float] | npt.NDArray[np.float64]) -> str:
    """Return the mean and half of the 95% t interval over seeds."""
    values = np.asarray(values, dtype=np.float64)
    if len(values) < 2:
        return f"{values.mean():.3f}"
    return f"{values.mean():.3f} ± {t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / len(values) ** 0.5:.3f}"


def interval(values: npt.NDArray[np.float64]) -> tuple[float, float, float]:
    """Return the mean and the 95% t interval over regulators."""
    if len(values) < 2:
        return (float(values.mean()) if len(values) else np.nan), np.nan, np.nan
    half = t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / len(values) ** 0.5
    return float(values.mean()), float(values.mean() - half), float(values.mean() + half)


def between(values: npt.NDArray[np.float64]) -> str:
    """Return mean and interval as text."""
    return "{:.2f} [{:.2f}, {:.2f}]".format(*interval(values))


def compared(one: Told, other: Told) -> tuple[float, float, float]:
    """Return the mean difference of lifts over the regulators that both have, and its 95% interval."""
    both = pd.concat([one.lifts, other.lifts], axis=1, join="inner").to_numpy()
    return interval(both[:, 0] - both[:, 1])


def words(difference: tuple[float, float, float]) -> str:
    """Return what a difference says."""
    mean, low, high = difference
    span = f"{mean:+.2f} [{low:+.2f}, {high:+.2f}]"
    if np.isnan(low):
        return "cannot be told, too few regulators"
    return f"{'better by' if low > 0 else 'worse by' if high < 0 else 'no difference that shows,'} {span}"


def claim(tables: Mapping[str, Mapping[str, Told]], pair: tuple[str, str], apart: Mapping[str, set[str]]) -> str:
    """Return in words what references bear out of one method against another: two witnesses at least, none against.

    Parameters
    ----------
    tables
        By reference, what each method is worth beside it.
    pair
        The method, and the one that it is compared with.
    apart
        By reference, those that are no part of it, nor it of them.
    """
    one, other = pair
    said: dict[str, dict[str, str]] = {"better": {}, "worse": {}, "no difference": {}}
    for truth, told in tables.items():
        if one not in told or other not in told:
            continue
        mean, low, high = compared(told[one], told[other])
        if np.isnan(low):
            continue
        side = "better" if low > 0 else "worse" if high < 0 else "no difference"
        said[side][truth] = f"{truth} {mean:+.2f} [{low:+.2f}, {high:+.2f}]"
    if not any(said.values()):
        return "cannot be told: too few regulators"
    parts = [f"{side} beside {', '.join(mine.values())}" for side, mine in said.items() if mine]
    sides = [side for side in ("better", "worse") if said[side]]
    if not sides:
        return f"no difference that shows: {parts[0]}"
    if len(sides) > 1:
        return f"references disagree: {'; '.join(parts)}"
    mine = list(said[sides[0]])
    if not any(second in apart[first] for first in mine for second in mine):
        return f"one witness only, no claim: {'; '.join(parts)}"
    return f"{sides[0]}: {'; '.join(parts)}"


def called_beside(called: EdgeScores, truth: EdgeTruth) -> dict[str, Any]:
    """Return what is known of called edges, scored 1, among all, scored 0; nothing where none is called or comparable.

    The odds ratio has Woolf's interval, with half added to each field of the table where one is empty.
    """
    from scipy.stats import hypergeom, norm

    from model import ModelInputError
    from model.grn_metrics import universe_of

    try:
        universe = universe_of(called, truth)
    except ModelInputError:
        return {}
    values, known = universe.pooled()
    mine = values == 1
    n, most, drawn, found = len(known), int(known.sum()), int(mine.sum()), int((mine & known).sum())
    if not drawn:
        return {}
    table = np.array([found, drawn - found, most - found, n - most - drawn + found], dtype=np.float64)
    table += 0.5 * bool((table <= 0).any())
    middle = np.log(table[0] * table[3] / (table[1] * table[2]))
    half = norm.ppf(0.975) * np.sqrt((1 / table).sum())
    low, odds, high = np.exp([middle - half, middle, middle + half])
    return {
        "called": drawn, "known": found, "precision / chance": f"{found / drawn / (most / n):.2f}",
        "odds ratio": f"{odds:.2f} [{low:.2f}, {high:.2f}]", "p": f"{hypergeom.sf(found - 1, n, most, drawn):.2g}",
    }  # fmt: skip


def best_of(told: Mapping[str, Told], names: Sequence[str]) -> str:
    """Return the method of the highest mean lift over regulators, among those that ran."""
    mean = {name: told[name].lifts.mean() for name in names if name in told}
    return max((name for name in mean if not np.isnan(mean[name])), key=lambda name: mean[name], default="")


def verdict(told: Mapping[str, Told], ours: Sequence[str], simple: Sequence[str]) -> str:
    """Return in words how the model stands beside the simple methods, and both beside no network at all."""
    first, rival = best_of(told, ours), best_of(told, simple)
    if not first or not rival:
        return "Too few regulators with known targets to compare."
    shown = {name: between(told[name].lifts.to_numpy()) for name in (first, rival)}
    parts = [
        f"The model's best is {first}, {shown[first]}; the best simple method is {rival}, {shown[rival]} "
        f"(both chosen in hindsight). The model against it: {words(compared(told[first], told[rival]))}."
    ]
    if "attention" in told and first != "attention":
        parts.append(f"Attention, named beforehand: {words(compared(told['attention'], told[rival]))}.")
    pooled = {name: np.mean([one.pooled["lift"] for one in told[name].scores]) for name in told}
    top = max((name for name in (*ours, *simple) if name in pooled), key=lambda name: pooled[name])
    parts.append(f"Pooled, {top} is first with {pooled[top]:.2f}")
    if (hubs := "hub degree of the other references") in pooled:
        beats = sum(pooled[name] > pooled[hubs] for name in (*ours, *simple) if name in pooled)
        parts[-1] += f"; degrees from other references alone have {pooled[hubs]:.2f}, which {beats} read-outs beat"
    return " ".join(parts) + "."
