"""How far a model's probabilities are to be trusted, measured on donors it was not trained on: `calibrate`.

Per label a temperature, which makes the probabilities as high as they are right, and for each threshold how many cells
of each donor were told a wrong term. `Calibration.threshold` turns a risk into a threshold by conformal risk control
(donor_counts.py) with donors as units. Donors that had no part in it are counted beside them, so that coverage.py can
say whether it holds. Used by annotation.py; written as JSON beside a model, sealed by its own digest.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from .annotation import TermChoice, Threshold, classify_cells, label_spaces, softmax
from .calibration_donors import held_out_donors
from .donor_counts import DonorCounter, DonorCounts, lowest_threshold
from .embedding import embed_blocks
from .errors import ModelInputError
from .inference import InferenceOptions, context_of
from .novelty import NoveltyCalibration, calibrate_novelty

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

    from loaders import Cells
    from ontology import LabelSpace

    from .calibration_donors import HeldOutDonors
    from .checkpoint import TrainedModel

    Numbers = npt.NDArray[np.int64]

FORMAT = "panatlas calibration 2"
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
    calibrated: DonorCounts
    """Cells with a class, and how many of them are told a wrong term at each threshold of `GRID`. Right is their class
    and what lies above it: a term below a coarse class cannot be checked, and counts as wrong."""
    tested: DonorCounts | None = None
    """The same of donors that had no part in it."""


@dataclass(frozen=True)
class Calibration:
    """What held-out cells say of a model's probabilities."""

    model: str
    """Digest of the model; empty for one that was never saved."""
    split: str
    """Whose cells were looked at: names of splits, or `all`."""
    length: int
    """Genes of a context that were shown."""
    neighbours: int
    """Stored neighbours that were shown."""
    seen: int
    """Cells that were left out, as the model was trained on cells of their donors."""
    labels: Mapping[str, LabelCalibration]
    """By label; those without a cell that has a class are left out."""
    novelty: NoveltyCalibration | None = None
    """How unlike known cells a cell may be."""
    unit: Unit = "donor"
    """What is taken to be exchangeable with what comes; see `threshold`."""

    def temperature(self, label: str) -> float:
        """Return what a label's logits are divided by; 1 where there was no cell to tell it from."""
        return self.labels[label].temperature if label in self.labels else 1.0

    def threshold(self, label: str, risk: float, unit: Unit | None = None) -> Threshold:
        """Return the lowest threshold of `GRID` at which terms are wrong as rarely as asked for.

        Parameters
        ----------
        label
            The label.
        risk
            Share of cells that may be told a wrong term, 0 to 1; `unknown` is never wrong.
        unit
            What is taken to be exchangeable with what comes; None for the calibration's own. With `donor` the share is
            each donor's, and holds on average over new donors, however many or few cells one has. With `cell` it holds
            for further cells of the same donors, and says nothing of others.

        Returns
        -------
        Threshold
            Infinite, with the reason, where no threshold will do: nothing is said then.

        Raises
        ------
        ModelInputError
            When the risk is not between 0 and 1, or there is no such unit.
        """
        unit = unit or self.unit
        if not 0 < risk < 1:
            raise ModelInputError("risk", risk, "a share above 0 and below 1")
        if unit not in ("donor", "cell"):
            raise ModelInputError("unit", unit, "donor or cell")
        if label not in self.labels:
            return Threshold(math.inf, f"nothing is said: no {self.split} cell has a class of {label}")
        losses, units = self.labels[label].calibrated.losses(unit)
        found = lowest_threshold(losses, units, risk, GRID)
        kind, new = ("donors", "new donors") if unit == "donor" else ("cells", "new cells of these donors")
        if found is not None:
            return Threshold(found, f"at most {risk:g} of the cells told a wrong term, for {new}, by {units} {kind}")
        if units < (need := math.ceil(1 / risk - 1)):
            return Threshold(math.inf, f"nothing is said: a risk of {risk:g} takes {need} {kind}, there are {units}")
        return Threshold(math.inf, f"nothing is said: no threshold keeps a risk of {risk:g} on {units} {kind}")

    def fits(self, model: TrainedModel, options: InferenceOptions) -> bool:
        """Return whether it is of this model, and of cells shown so."""
        shown = (context_of(model, options).length, options.neighbours)
        return self.model == model.digest and (self.length, self.neighbours) == shown

    def prove_of(self, model: TrainedModel, options: InferenceOptions) -> None:
        """Raise ModelInputError where this is the calibration of another model, or of cells shown otherwise."""
        if self.model != model.digest:
            raise ModelInputError("calibration", self.model[:12], f"one of this model, {model.digest[:12]}")
        shown = self.length, self.neighbours
        if shown != (context_of(model, options).length, options.neighbours):
            allowed = f"options that show as much: length {shown[0]}, neighbours {shown[1]}; or calibrate with these"
            raise ModelInputError("options", options, allowed)

    def to_json(self) -> str:
        """Return the calibration as JSON text, with a sha256 that tells when it was changed."""
        said = {"format": FORMAT, **asdict(self)}
        return json.dumps({**said, "sha256": _digest(said)}, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Calibration:
        """Return the calibration that `to_json` wrote.

        Raises
        ------
        ModelInputError
            When the text is none, or was changed.
        """
        try:
            return _calibration_of(json.loads(text))
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError, OverflowError) as error:
            raise ModelInputError("calibration", text[:40], f"the JSON of {FORMAT} ({error})"[:200]) from error


def calibrate(
    model: TrainedModel,
    cells: Cells,
    held: HeldOutDonors | None = None,
    *,
    options: InferenceOptions | None = None,
) -> Calibration:
    """Return how far a model's probabilities are to be trusted, by donors it was not trained on.

    The temperature and the thresholds are chosen on the same cells. It is one number per label, which hardly moves
    the thresholds' guarantee; the donors that test show it whole.

    Parameters
    ----------
    model
        The model.
    cells
        A pack, a store or an AnnData with donors and labels.
    held
        Whose cells calibrate, and whose test; None for those that `held_out_donors` finds.
    options
        What is shown of each, as `annotate` will show it; None for the defaults.

    Raises
    ------
    ModelInputError
        As `read_cells` and `held_out_donors`; when the model tells no classes apart.
    """
    options, spaces = options or InferenceOptions(), label_spaces(model)
    held = held_out_donors(model, cells) if held is None else held
    here = _read(model, cells, held.calibrating, options)
    there = _read(model, cells, held.testing, options) if len(held.testing) else None
    labels = {}
    for column, label in enumerate(model.vocabulary.labels):
        if label in spaces and (mine := here.of(label, column)) is not None:
            others = None if there is None else there.of(label, column)
            labels[label] = calibrate_label(spaces[label], mine, others)
    novelty = None
    if len(held.known):
        known = np.concatenate([one.values for one in embed_blocks(model, cells, held.known, options=options)])
        tested = (None, None) if there is None else (there.embedding, there.owners)
        novelty = calibrate_novelty(known, here.embedding, here.owners, *tested)
    length = context_of(model, options).length
    return Calibration(model.digest, held.source, length, options.neighbours, held.seen_cells, labels, novelty)


@dataclass(frozen=True, eq=False)
class LabelledLogits:
    """What a network makes of one label of cells that have a class of it."""

    logits: npt.NDArray[np.float32]
    """Of the leaves, [cells, leaves]."""
    codes: Numbers
    """Class of each cell, leaf or not, [cells]."""
    donors: npt.NDArray
    """Names of their donors, [cells]."""
    datasets: npt.NDArray
    """Names of their datasets, [cells]."""


@dataclass(frozen=True, eq=False)
class _Read:
    """Held-out cells as the network reads them."""

    logits: Mapping[str, npt.NDArray[np.float32]]
    """Of the leaves by label, [cells, leaves]."""
    classes: Numbers
    """A code per label of the vocabulary, -1 for none, [cells, labels]."""
    embedding: npt.NDArray[np.float32]
    """Codes of their tokens side by side, [cells, dimensions]."""
    owners: tuple[npt.NDArray, npt.NDArray]
    """Names of their donors and datasets."""

    def of(self, label: str, column: int) -> LabelledLogits | None:
        """Return the cells with a class of a label; None where there is none."""
        known = self.classes[:, column] >= 0
        if not known.any():
            return None
        donors, datasets = self.owners
        return LabelledLogits(self.logits[label][known], self.classes[known, column], donors[known], datasets[known])


def _read(model: TrainedModel, cells: Cells, numbers: Numbers, options: InferenceOptions) -> _Read:
    parts = list(classify_cells(model, cells, numbers, options))
    classes, embedding = (np.concatenate([getattr(one, name) for one in parts]) for name in ("classes", "embedding"))
    logits = {label: np.concatenate([one.logits[label] for one in parts]) for label in parts[0].logits}
    words = cells.about["vocabulary"]
    names = (np.array(words[name], dtype=str)[cells.codes(name, numbers)] for name in ("donor", "dataset"))
    return _Read(logits, classes, embedding, tuple(names))


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


def calibrate_label(space: LabelSpace, here: LabelledLogits, there: LabelledLogits | None = None) -> LabelCalibration:
    """Return the calibration of one label.

    Parameters
    ----------
    space
        Its classes.
    here
        Cells that calibrate.
    there
        Cells of other donors, that test; None for none.
    """
    logits, codes = here.logits, here.codes
    temperature = fit_temperature(space, logits, codes)
    nll = tuple(negative_log_likelihood(space, logits, codes, one) for one in (1.0, temperature))
    sharp, ece = codes < space.n_leaves, None
    if sharp.any():
        shares = [softmax(logits[sharp], one) for one in (1.0, temperature)]
        ece = tuple(calibration_error(one.max(1), one.argmax(1) == codes[sharp]) for one in shares)
    tested = None if there is None else _count(space, there, temperature)
    return LabelCalibration(temperature, nll, ece, _count(space, here, temperature), tested)


def _count(space: LabelSpace, known: LabelledLogits, temperature: float) -> DonorCounts:
    """Return how many cells are told a term, and a wrong one, by donor, at each threshold of `GRID`."""
    counter, choice = DonorCounter(known.donors, known.datasets, len(GRID)), TermChoice(space)
    right = np.concatenate([space.positive, np.ones((len(space), 1), bool)], axis=1)  # the last column is unknown
    for start in range(0, len(known.codes), AT_ONCE):
        some = slice(start, start + AT_ONCE)
        likely = choice.probabilities(softmax(known.logits[some], temperature).astype(np.float32))
        said = choice.deepest(likely, GRID)
        counter.add(some, ~right[known.codes[some], said].T, (said >= 0).T)
    return counter.counts()


def _digest(said: Mapping[str, Any]) -> str:
    """Return a sha256 of what a calibration says."""
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def _calibration_of(said: Any) -> Calibration:
    """Return a calibration from its JSON values."""
    if said["format"] != FORMAT:
        raise ValueError(f"format {said['format']!r:.60}; calibrate again")
    if said.pop("sha256") != _digest(said):
        raise ValueError("it was changed since it was written; calibrate again, or copy it again")
    labels = {str(label): _label_of(**one) for label, one in said["labels"].items()}
    shown = (int(said[name]) for name in ("length", "neighbours", "seen"))
    novelty = None if said["novelty"] is None else NoveltyCalibration.from_json(said["novelty"])
    if said["unit"] not in ("donor", "cell"):
        raise ValueError(f"a unit of {said['unit']!r:.60}")
    return Calibration(str(said["model"]), str(said["split"]), *shown, labels, novelty, said["unit"])


def _label_of(**said: Any) -> LabelCalibration:
    """Return a label's calibration from its JSON values."""
    tested = said.pop("tested")
    one = LabelCalibration(
        float(said.pop("temperature")), tuple(map(float, said.pop("nll"))),
        None if (ece := said.pop("ece")) is None else tuple(map(float, ece)),
        DonorCounts.from_json(said.pop("calibrated"), len(GRID)),
        None if tested is None else DonorCounts.from_json(tested, len(GRID)), **said,
    )  # fmt: skip
    if not (COLDEST <= one.temperature <= WARMEST):
        raise ValueError(f"a temperature of {one.temperature}")
    return one
