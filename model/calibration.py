"""How far a model's probabilities are to be trusted, measured on donors it was not trained on: `calibrate`.

Per label a temperature, which makes the probabilities as high as they are right, and for each threshold how many cells
of each donor were told a wrong term. `Calibration.threshold` turns a risk into a threshold by conformal risk control
(Angelopoulos et al. 2022, arXiv:2208.02814) with donors as units: cells of a donor are alike, new cells come of new
donors. Used by annotation.py; written as JSON beside a model.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from .annotation import TermChoice, Threshold, classify_cells, label_spaces, softmax
from .errors import ModelInputError
from .inference import InferenceOptions, cells_of_split, context_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

    from loaders import Cells
    from ontology import LabelSpace

    from .checkpoint import TrainedModel

    Numbers = npt.NDArray[np.int64]

FORMAT = "panatlas calibration 1"
GRID = tuple(step / 100 for step in range(1, 101))
"""Thresholds that are tried."""
COLDEST, WARMEST = 0.05, 20.0
"""Bounds of a temperature."""
BINS = 15
"""Bins of equal width of the expected calibration error."""
AT_ONCE = 1_024
"""Cells whose probabilities of all classes are in memory."""
Unit = Literal["donor", "cell"]


@dataclass(frozen=True)
class LabelCalibration:
    """What held-out cells say of one label."""

    temperature: float
    """What logits are divided by."""
    nll: tuple[float, float]
    """Mean -log P(class) before and after, nats, over cells with a class."""
    ece: tuple[float, float] | None
    """Expected calibration error of the most likely leaf before and after, over the cells whose class is a leaf; None
    where there is none. After is told of the very cells that the temperature was chosen on."""
    donors: tuple[str, ...]
    """Donors with such cells."""
    cells: tuple[int, ...]
    """Cells with a class, by donor."""
    wrong: tuple[tuple[int, ...], ...]
    """How many of them are told a wrong term, by donor, at each threshold of `GRID`. Right is their class and what lies
    above it: a term below a coarse class cannot be checked, and counts as wrong."""


@dataclass(frozen=True)
class Calibration:
    """What held-out cells say of a model's probabilities."""

    model: str
    """Digest of the model; empty for one that was never saved."""
    split: str
    """Whose cells were looked at."""
    length: int
    """Genes of a context that were shown."""
    neighbours: int
    """Stored neighbours that were shown."""
    seen: int
    """Cells of the split that were left out, as the model was trained on them."""
    labels: Mapping[str, LabelCalibration]
    """By label; those without a cell that has a class are left out."""

    def temperature(self, label: str) -> float:
        """Return what a label's logits are divided by; 1 where there was no cell to tell it from."""
        return self.labels[label].temperature if label in self.labels else 1.0

    def threshold(self, label: str, risk: float, unit: Unit = "donor") -> Threshold:
        """Return the lowest threshold of `GRID` at which terms are wrong as rarely as asked for.

        Parameters
        ----------
        label
            The label.
        risk
            Share of cells that may be told a wrong term, 0 to 1; `unknown` is never wrong.
        unit
            What is taken to be exchangeable with what comes. With `donor` the share is each donor's, and holds on
            average over new donors, however many or few cells one has. With `cell` it holds for further cells of the
            same donors, and says nothing of others.

        Returns
        -------
        Threshold
            Infinite, with the reason, where no threshold will do: nothing is said then.

        Raises
        ------
        ModelInputError
            When the risk is not between 0 and 1, or there is no such unit.
        """
        if not 0 < risk < 1:
            raise ModelInputError("risk", risk, "a share above 0 and below 1")
        if unit not in ("donor", "cell"):
            raise ModelInputError("unit", unit, "donor or cell")
        if label not in self.labels:
            return Threshold(math.inf, f"nothing is said: no {self.split} cell has a class of {label}")
        one = self.labels[label]
        cells, wrong = np.array(one.cells, dtype=np.float64), np.array(one.wrong, dtype=np.float64)
        units = len(cells) if unit == "donor" else int(cells.sum())
        losses = (wrong / cells[:, None]).mean(0) if unit == "donor" else wrong.sum(0) / cells.sum()
        found = lowest_threshold(losses, units, risk)
        kind, new = ("donors", "new donors") if unit == "donor" else ("cells", "new cells of these donors")
        if found is not None:
            return Threshold(found, f"at most {risk:g} of the cells told a wrong term, for {new}, by {units} {kind}")
        if units < (need := math.ceil(1 / risk - 1)):
            return Threshold(math.inf, f"nothing is said: a risk of {risk:g} takes {need} {kind}, there are {units}")
        return Threshold(math.inf, f"nothing is said: no threshold keeps a risk of {risk:g} on {units} {kind}")

    def prove_of(self, model: TrainedModel, options: InferenceOptions) -> None:
        """Raise ModelInputError where this is the calibration of another model, or of cells shown otherwise."""
        if self.model != model.digest:
            raise ModelInputError("calibration", self.model[:12], f"one of this model, {model.digest[:12]}")
        shown = self.length, self.neighbours
        if shown != (context_of(model, options).length, options.neighbours):
            allowed = f"options that show as much: length {shown[0]}, neighbours {shown[1]}; or calibrate with these"
            raise ModelInputError("options", options, allowed)

    def to_json(self) -> str:
        """Return the calibration as JSON text."""
        return json.dumps({"format": FORMAT, **asdict(self)}, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Calibration:
        """Return the calibration that `to_json` wrote.

        Raises
        ------
        ModelInputError
            When the text is none.
        """
        try:
            return _calibration_of(**json.loads(text))
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise ModelInputError("calibration", text[:40], f"the JSON of {FORMAT} ({error})"[:200]) from error


def lowest_threshold(losses: npt.NDArray[np.float64], units: int, risk: float) -> float | None:
    """Return the lowest of `GRID` whose loss is under control, or None.

    A loss at threshold t counts as the largest at t or above, so that it never rises. Then the lowest t with
    (n * loss + 1) / (n + 1) <= risk has an expected loss of at most `risk` for one more unit that is exchangeable
    with the n that were measured, each of a loss from 0 to 1.

    Parameters
    ----------
    losses
        Mean over the units at each threshold of `GRID`.
    units
        How many there are.
    risk
        Allowed loss.
    """
    highest = np.maximum.accumulate(losses[::-1])[::-1]
    fit = np.flatnonzero((units * highest + 1) / (units + 1) <= risk)
    return GRID[fit[0]] if len(fit) else None


def calibrate(
    model: TrainedModel,
    cells: Cells,
    split: str = "validation",
    *,
    options: InferenceOptions | None = None,
    most: int = 16_384,
    seed: int = 0,
) -> Calibration:
    """Return how far a model's probabilities are to be trusted, by cells it was not trained on.

    The temperature and the thresholds are chosen on the same cells. It is one number per label, which hardly moves
    the thresholds' guarantee; whoever wants it whole measures it on a third split.

    Parameters
    ----------
    model
        The model.
    cells
        A pack, a store or an AnnData with splits, donors and labels.
    split
        Whose cells.
    options
        What is shown of each, as `annotate` will show it; None for the defaults.
    most
        Cells at most, drawn by `seed`.
    seed
        Of the draw.

    Raises
    ------
    ModelInputError
        As `read_cells`; when the model tells no classes apart, or has been trained on all cells of the split.
    """
    options, spaces = options or InferenceOptions(), label_spaces(model)
    chosen = cells_of_split(model, cells, split, most, seed)
    roles = model.ledger.roles_of(*(cells.codes(f"{name}_high", chosen) for name in ("count_hash", "cell_id")))
    unseen = chosen[roles <= 0]  # not found, or used to choose the weights only
    if not len(unseen):
        raise ModelInputError("split", f"{split}, all of it trained on", "cells the model was not trained on")
    parts = list(classify_cells(model, cells, unseen, options))
    classes, donors = (np.concatenate([getattr(one, name) for one in parts]) for name in ("classes", "donors"))
    names, labels = cells.about["vocabulary"]["donor"], {}
    for column, label in enumerate(model.vocabulary.labels):
        if label in spaces and (known := classes[:, column] >= 0).any():
            logits = np.concatenate([one.logits[label] for one in parts])[known]
            labels[label] = calibrate_label(
                spaces[label], logits, classes[known, column], np.array(names)[donors[known]]
            )
    seen = len(chosen) - len(unseen)
    length = context_of(model, options).length
    return Calibration(model.digest, split, length, options.neighbours, seen, labels)


def fit_temperature(space: LabelSpace, logits: npt.NDArray, codes: Numbers) -> float:
    """Return the temperature of the lowest -log P(class); 1 where no other is better.

    Parameters
    ----------
    space
        Classes.
    logits
        Of the leaves, [cells, leaves].
    codes
        Class of each cell, [cells], leaf or not.
    """
    from scipy.optimize import minimize_scalar  # noqa: PLC0415

    found = minimize_scalar(
        lambda x: negative_log_likelihood(space, logits, codes, math.exp(x)),
        bounds=(math.log(COLDEST), math.log(WARMEST)), method="bounded", options={"xatol": 1e-5},
    )  # fmt: skip
    plain = negative_log_likelihood(space, logits, codes, 1.0)
    return float(math.exp(found.x)) if found.fun < plain else 1.0


def negative_log_likelihood(space: LabelSpace, logits: npt.NDArray, codes: Numbers, temperature: float) -> float:
    """Return the mean of -log P(class), nats; see `fit_temperature`."""
    from scipy.special import logsumexp  # noqa: PLC0415

    scaled = logits.astype(np.float64) / temperature
    mine = np.where(space.below[codes], scaled, -np.inf)
    return float((logsumexp(scaled, axis=1) - logsumexp(mine, axis=1)).mean())


def calibration_error(confidence: npt.NDArray, right: npt.NDArray) -> float:
    """Return the expected calibration error: the mean distance of confidence from accuracy over bins, by their cells.

    Parameters
    ----------
    confidence
        Probability of what is told, [cells].
    right
        Whether it is right, bool [cells].
    """
    places = np.minimum((confidence * BINS).astype(np.int64), BINS - 1)
    gaps = np.bincount(places, confidence.astype(np.float64) - right, minlength=BINS)
    return float(np.abs(gaps).sum() / len(confidence))


def calibrate_label(
    space: LabelSpace, logits: npt.NDArray[np.float32], codes: Numbers, donors: npt.NDArray[np.str_]
) -> LabelCalibration:
    """Return the calibration of one label.

    Parameters
    ----------
    space
        Its classes.
    logits
        Of the leaves, [cells, leaves].
    codes
        Class of each cell, leaf or not, [cells].
    donors
        Names of their donors, [cells].
    """
    temperature = fit_temperature(space, logits, codes)
    nll = tuple(negative_log_likelihood(space, logits, codes, one) for one in (1.0, temperature))
    sharp, ece = codes < space.n_leaves, None
    if sharp.any():
        shares = [softmax(logits[sharp], one) for one in (1.0, temperature)]
        ece = tuple(calibration_error(one.max(1), one.argmax(1) == codes[sharp]) for one in shares)
    names, places = np.unique(donors, return_inverse=True)
    wrong, choice = np.zeros((len(names), len(GRID)), dtype=np.int64), TermChoice(space)
    right = np.concatenate([space.positive, np.ones((len(space), 1), bool)], axis=1)  # the last column is unknown
    for start in range(0, len(codes), AT_ONCE):
        some = slice(start, start + AT_ONCE)
        likely = choice.probabilities(softmax(logits[some], temperature).astype(np.float32))
        said = choice.deepest(likely, GRID)
        np.add.at(wrong, places[some], ~right[codes[some], said].T)
    return LabelCalibration(
        temperature, nll, ece, tuple(names.tolist()), tuple(np.bincount(places).tolist()),
        tuple(tuple(row) for row in wrong.tolist()),
    )  # fmt: skip


def _calibration_of(**said: Any) -> Calibration:
    """Return a calibration from its JSON values."""
    if said["format"] != FORMAT:
        raise ValueError(f"format {said['format']}")
    labels = {str(label): _label_of(**one) for label, one in said["labels"].items()}
    shown = (int(said[name]) for name in ("length", "neighbours", "seen"))
    return Calibration(str(said["model"]), str(said["split"]), *shown, labels)


def _label_of(**said: Any) -> LabelCalibration:
    """Return a label's calibration from its JSON values."""
    one = LabelCalibration(
        float(said.pop("temperature")), tuple(map(float, said.pop("nll"))),
        None if (ece := said.pop("ece")) is None else tuple(map(float, ece)),
        tuple(map(str, said.pop("donors"))), tuple(map(int, said.pop("cells"))),
        tuple(tuple(map(int, row)) for row in said.pop("wrong")), **said,
    )  # fmt: skip
    shapes = {len(one.donors), len(one.cells), len(one.wrong)}
    if len(shapes) > 1 or any(len(row) != len(GRID) for row in one.wrong) or min(one.cells, default=1) < 1:
        raise ValueError("donors, cells and counts do not fit each other")
    if not (COLDEST <= one.temperature <= WARMEST):
        raise ValueError(f"a temperature of {one.temperature}")
    return one
