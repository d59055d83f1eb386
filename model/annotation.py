"""The verb `annotate`: the classes of cells for every label, as far down the ontology as the model is sure.

The network tells leaves apart; a coarser class has the sum of its leaves, so probabilities never contradict the
graph. Of the classes that are likely enough, the deepest is said, and `unknown` where none is. How likely is enough is
a number (more likely than not), or follows from a risk and a calibration on held-out donors (calibration.py).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from .errors import ModelInputError
from .inference import InferenceOptions, read_cells

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    import numpy.typing as npt

    from loaders import Cells
    from ontology import LabelSpace

    from .calibration import Calibration
    from .checkpoint import TrainedModel
    from .inference import ReadCells

    Numbers = npt.NDArray[np.int64]
    Shares = npt.NDArray[np.float64]

UNKNOWN = -1
"""Code where no class is said."""
LIKELIER_THAN_NOT = 0.5
"""Least probability of a term that is said, where nothing else is asked for."""


@dataclass(frozen=True)
class Threshold:
    """From which probability on a term is said."""

    value: float
    """Above 0; infinite where nothing may be said."""
    promise: str
    """What holds for it, in words."""


@dataclass(frozen=True, eq=False)
class LabelAnnotation:
    """What is said of one label."""

    space: LabelSpace
    """Its classes."""
    probabilities: npt.NDArray[np.float32]
    """Of its leaves, [cells, leaves]; each row adds up to 1."""
    said: npt.NDArray[np.int32]
    """Code of the term that is said, [cells]; -1 for unknown."""
    said_probability: npt.NDArray[np.float32]
    """Probability of that term, [cells]; NaN for unknown."""
    threshold: Threshold
    """From which probability on a term was said."""
    temperature: float
    """What the logits were divided by."""

    @property
    def terms(self) -> npt.NDArray[np.object_]:
        """Return the ids of the terms that are said, [cells]; `unknown` for none."""
        return np.array([*self.space.classes, "unknown"], dtype=object)[self.said]

    @property
    def names(self) -> npt.NDArray[np.object_]:
        """Return the names of these terms."""
        return np.array([*self.space.labels, "unknown"], dtype=object)[self.said]

    @property
    def leaf(self) -> npt.NDArray[np.int32]:
        """Return the code of the most likely leaf, said or not, [cells]."""
        return self.probabilities.argmax(1).astype(np.int32)

    @property
    def leaf_terms(self) -> npt.NDArray[np.object_]:
        """Return the ids of the most likely leaves, [cells]."""
        return np.array(self.space.classes, dtype=object)[self.leaf]

    @property
    def leaf_probability(self) -> npt.NDArray[np.float32]:
        """Return the probability of the most likely leaf, [cells]."""
        return self.probabilities.max(1)

    @property
    def class_probabilities(self) -> Shares:
        """Return the probability of every class, leaves first, [cells, classes]."""
        return TermChoice(self.space).probabilities(self.probabilities)


@dataclass(frozen=True, eq=False)
class Annotation:
    """What is said of cells."""

    numbers: Numbers
    """Which cells, int64 [cells]."""
    labels: Mapping[str, LabelAnnotation]
    """By label; those of fewer than two classes are left out."""
    embedding: npt.NDArray[np.float32]
    """Where the model puts the cells, [cells, dimensions]; what `embed` returns."""
    novelty: npt.NDArray[np.float32] | None = None
    """How often a known cell would be as unlike the others, [cells]: a p-value. No larger share of known cells than `a`
    has one of at most `a` (novelty.py). None without a calibration that says so."""

    def __len__(self) -> int:
        """Return the number of cells."""
        return len(self.numbers)

    def of(self, label: str) -> LabelAnnotation:
        """Return what is said of a label.

        Raises
        ------
        ModelInputError
            When the model tells no two classes of it apart.
        """
        if label not in self.labels:
            told = ", ".join(self.labels)
            raise ModelInputError("label", label, f"one the model has two classes of ({told}); with_classes adds some")
        return self.labels[label]


@dataclass(frozen=True, eq=False)
class Classified:
    """Cells and what the network makes of their labels."""

    numbers: Numbers
    """Which cells, int64 [cells]."""
    logits: Mapping[str, npt.NDArray[np.float32]]
    """Of the leaves, [cells, leaves], by label."""
    classes: npt.NDArray[np.int64]
    """What the cells are labelled, a code per label of the vocabulary, -1 unknown, [cells, labels]."""
    donors: npt.NDArray[np.int64]
    """The cells' codes of their donors, [cells]."""
    embedding: npt.NDArray[np.float32]
    """Codes of their tokens side by side, [cells, dimensions]."""


class TermChoice:
    """Which class of a label is said, given the probabilities of its leaves.

    Said is the class of the fewest leaves of those of at least a threshold, so that there is no such class below it.
    Where several have as few (a term may have two parents, and below a half any two may reach it), it is the likeliest.

    Parameters
    ----------
    space
        The classes.
    """

    def __init__(self, space: LabelSpace) -> None:
        self._leaves = space.below.T.astype(np.float64)
        self._sizes = 2.0 * space.below.sum(1)  # twice, so that no probability outweighs a leaf
        # A class with one class below it in use has the same leaves and probability: the lower of them says more.
        heights, same = space.above.sum(1), {}
        for code in np.argsort(heights, kind="stable"):
            same[space.below[code].tobytes()] = code
        self._lowest = np.array([same[row.tobytes()] for row in space.below], dtype=np.int32)

    def probabilities(self, leaves: npt.NDArray) -> Shares:
        """Return the probability of every class, float64 [cells, classes], of those of the leaves."""
        return np.minimum(leaves.astype(np.float64) @ self._leaves, 1.0)

    def deepest(self, classes: Shares, thresholds: Sequence[float]) -> npt.NDArray[np.int32]:
        """Return the code of the class that is said, [thresholds, cells]; -1 for none.

        Parameters
        ----------
        classes
            Probability of every class, [cells, classes].
        thresholds
            Above 0.
        """
        score, cells = classes - self._sizes, np.arange(len(classes))
        said = np.empty((len(thresholds), len(classes)), dtype=np.int32)
        for row, threshold in enumerate(thresholds):
            fit = classes >= threshold
            best = np.where(fit, score, -np.inf).argmax(1)
            said[row] = np.where(fit[cells, best], self._lowest[best], UNKNOWN)
        return said


def annotate(
    model: TrainedModel,
    cells: Cells,
    numbers: Numbers | None = None,
    *,
    options: InferenceOptions | None = None,
    calibration: Calibration | None = None,
    alpha: float | None = None,
    threshold: float = LIKELIER_THAN_NOT,
) -> Annotation:
    """Return what the model says of cells.

    Parameters
    ----------
    model
        The model.
    cells
        A pack, a store or an AnnData; labels they have are not looked at.
    numbers
        Which cells, int64 [n], in any order; None for all.
    options
        What is shown of each; None for the defaults.
    calibration
        Of this model; its temperatures are used. None takes probabilities as they are.
    alpha
        Share of cells that may be told a wrong term (neither theirs nor above it), 0 to 1: thresholds then follow from
        the calibration, label by label. None says every term of at least `threshold`.
    threshold
        Least probability of a term that is said, above 0.

    Raises
    ------
    ModelInputError
        As `read_cells`; when the model tells no classes apart, a number is not allowed, or the calibration is of
        another model or other options.
    """
    how = {"options": options, "calibration": calibration, "alpha": alpha, "threshold": threshold}
    return join_annotations(list(annotate_blocks(model, cells, numbers, **how)))


def annotate_blocks(
    model: TrainedModel,
    cells: Cells,
    numbers: Numbers | None = None,
    *,
    options: InferenceOptions | None = None,
    calibration: Calibration | None = None,
    alpha: float | None = None,
    threshold: float = LIKELIER_THAN_NOT,
) -> Iterator[Annotation]:
    """Return the same as `annotate`, a batch at a time, in order: for more cells than memory holds."""
    spaces = label_spaces(model)
    options = options or InferenceOptions()
    if calibration is not None:
        calibration.prove_of(model, options)
    if alpha is None:
        if not 0 < threshold <= 1:
            raise ModelInputError("threshold", threshold, "a probability above 0")
        limit = Threshold(threshold, f"a probability of at least {threshold:g}")
        limits = dict.fromkeys(spaces, limit)
    elif calibration is None:
        raise ModelInputError("alpha", alpha, "none without a calibration, which `calibrate` makes on held-out cells")
    else:
        limits = {label: calibration.threshold(label, alpha) for label in spaces}
    warmth = {label: 1.0 if calibration is None else calibration.temperature(label) for label in spaces}
    choices = {label: TermChoice(space) for label, space in spaces.items()}
    found = classify_cells(model, cells, numbers, options)

    def said_of(label: str, logits: npt.NDArray[np.float32]) -> LabelAnnotation:
        shares = softmax(logits, warmth[label]).astype(np.float32)
        classes = choices[label].probabilities(shares)
        said = choices[label].deepest(classes, [limits[label].value])[0]
        sure = np.where(said == UNKNOWN, np.nan, classes[np.arange(len(said)), said]).astype(np.float32)
        return LabelAnnotation(spaces[label], shares, said, sure, limits[label], warmth[label])

    novelty = None if calibration is None else calibration.novelty
    unit = "donor" if calibration is None else calibration.unit

    def annotated(some: Classified) -> Annotation:
        new = None if novelty is None else novelty.p_values(novelty.scores(some.embedding), unit)
        labels = {label: said_of(label, some.logits[label]) for label in spaces}
        return Annotation(some.numbers, labels, some.embedding, new)

    return map(annotated, found)


def join_annotations(parts: Sequence[Annotation]) -> Annotation:
    """Return annotations of some cells each, one at least, as one of all."""

    def joined(arrays: Iterable[npt.NDArray]) -> npt.NDArray:
        return np.concatenate(list(arrays))

    labels = {
        label: replace(
            first,
            probabilities=joined(one.labels[label].probabilities for one in parts),
            said=joined(one.labels[label].said for one in parts),
            said_probability=joined(one.labels[label].said_probability for one in parts),
        )
        for label, first in parts[0].labels.items()
    }
    new = None if parts[0].novelty is None else joined(one.novelty for one in parts)
    return Annotation(joined(one.numbers for one in parts), labels, joined(one.embedding for one in parts), new)


def label_spaces(model: TrainedModel) -> dict[str, LabelSpace]:
    """Return the classes of the labels that a model tells apart, in the vocabulary's order.

    Raises
    ------
    ModelInputError
        When there is none.
    """
    spaces = {name: space for name, space in model.vocabulary.labels.items() if name in model.network.labels.read}
    if not spaces:
        allowed = "one with two classes of some label; with_classes adds them, and training teaches them"
        raise ModelInputError("model", "no label with two classes", allowed)
    return spaces


def classify_cells(
    model: TrainedModel, cells: Cells, numbers: Numbers | None, options: InferenceOptions
) -> Iterator[Classified]:
    """Return batches of cells with their logits; errors as `read_cells`."""

    def classify(read: ReadCells) -> Classified:
        with torch.no_grad():
            logits = model.network.classify(read.encoded)
        found = {label: some.float().cpu().numpy() for label, some in logits.items()}
        known = (one.cpu().numpy() for one in (read.batch.labels, read.batch.donor))
        return Classified(read.numbers, found, *known, read.encoded.embedding.float().cpu().numpy())

    return map(classify, read_cells(model, cells, numbers, options))


def softmax(logits: npt.NDArray, temperature: float = 1.0) -> Shares:
    """Return shares that add up to 1 in each row, float64, of logits over a temperature."""
    scaled = logits.astype(np.float64) / temperature
    shares = np.exp(scaled - scaled.max(1, keepdims=True))
    return shares / shares.sum(1, keepdims=True)
