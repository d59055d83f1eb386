"""The verb `finetune`: a trained model goes on with a user's own cells, for new labels, batches or an organism.

It is a run like any other (pretrain.py): resumable, guarded against leaks between splits, its result an ordinary
checkpoint whose facts name the base and whose ledger has the cells of both. Only what is trained differs (tuning.py):
the cell tokens alone (XPEFT), or everything. Splits are by donor, so that a score is of people the tuning never saw;
whether the base saw them is asked of its ledger and told.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from loaders import NO_CLASS, SPLITS, SamplerConfig, SamplingPlan

from .annotation import classify_cells
from .errors import ModelInputError
from .growth import with_classes, with_label, with_organism
from .inference import InferenceOptions, context_of
from .ledger import seen_before
from .pretrain import Beginning, train
from .recipe import DataRecipe, Recipe
from .tuning import Tuning, count_weights

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import numpy.typing as npt

    from loaders import Cells

    from .checkpoint import TrainedModel
    from .pretrain import TrainingRun
    from .protein_vectors import ProteinVectors
    from .recipe import Machine

    Numbers = npt.NDArray[np.int64]

RATES = {"cells": 1.0, "all": 0.5}
"""Learning rate by what is tuned, in the highest of the base's own training: a few modules bear more than a network
that knows something."""
USUAL_RATE = 5e-4
"""Stands for a base that does not say how it was trained; that of the size small."""


@dataclass(frozen=True)
class TuningPlan:
    """How long, and on what; `recipe` makes a recipe of it."""

    steps: int = 500
    """Steps of the optimiser, at most."""
    batch_size: int = 64
    """Cells per step; no more than are trained on."""
    learning_rate: float | None = None
    """The highest; None for a share of the base's own, `RATES`."""
    looks: int = 20
    """Validations, evenly spaced."""
    patience: int = 5
    """Validations without a better loss after which tuning ends; 0 for all steps."""
    length: int | None = None
    """Genes of a context; None for as many as in the base's training."""
    seed: int = 0
    """Of order, codes and new weights."""

    def recipe(self, model: TrainedModel, cells: Cells, tuning: Tuning) -> Recipe:
        """Return the recipe for some cells.

        Cells are drawn level over the classes of the labels, and over batches where these are compared. Contexts are
        those that the verbs show, so that what is tuned is what is used.

        Raises
        ------
        ModelInputError
            When no cell is of the split `train`.
        """
        splits = np.bincount(np.asarray(cells.column("split")), minlength=len(SPLITS))
        if not splits[0]:
            raise ModelInputError("cells", "none of the split train", "cells to train on; donor_splits makes splits")
        every = max(1, self.steps // max(self.looks, 1)) if splits[1] else 0
        labels = tuning.labels or ("cell_type",)
        labels += (tuning.between,) if tuning.mmd and tuning.between not in labels else ()
        sampler = SamplerConfig(kind="balanced", seed=self.seed)
        collate = replace(context_of(model, InferenceOptions(length=self.length)), seed=self.seed)
        return Recipe(
            linear_rate=1.0,  # the path has learnt its way; a head start would only fit the few cells there are
            steps=self.steps,
            batch_size=min(self.batch_size, int(splits[0])),
            learning_rate=self.learning_rate or RATES[tuning.parts] * _own_rate(model),
            warm_up=max(1, self.steps // 10),
            clip=1.0,
            seed=self.seed,
            validate_every=every,
            patience=self.patience if every else 0,
            data=DataRecipe(SamplingPlan(labels=labels, config=sampler), collate),
            tuning=tuning,
        )


def _own_rate(model: TrainedModel) -> float:
    """Return the highest learning rate of a model's pre-training."""
    said = model.facts.get("recipe")
    found = said.get("learning_rate") if isinstance(said, dict) else None
    return float(found) if isinstance(found, int | float) and found > 0 else USUAL_RATE


def finetune(
    model: TrainedModel,
    cells: Cells,
    folder: Path | str,
    *,
    tuning: Tuning,
    plan: TuningPlan | None = None,
    machine: Machine | None = None,
    vectors: Mapping[str, ProteinVectors] | None = None,
) -> TrainingRun:
    """Train a model further on some cells.

    Parameters
    ----------
    model
        The base; not changed.
    cells
        A pack, a store, an AnnData, or any of them relabelled, with splits; see `donor_splits`.
    folder
        Of the run; the same call goes on with a run that was stopped.
    tuning
        What is trained, for which labels, and whether batches are drawn together.
    plan
        How long; None for the defaults.
    machine
        Where and how fast.
    vectors
        Protein vectors by experiment name, for organisms the base does not know.

    Returns
    -------
    TrainingRun
        Its `model` is the tuned one. Facts: those of a run, and `base` (digest), `tuned_weights` (by part), `seen` (by
        split, how the base had used these cells) and `unlearnt` (by label, values only held-out cells have).

    Raises
    ------
    ModelInputError
        When nothing could be tuned so: no such column, a label of one class, no training cells.
    LeakageError
        When a donor or a copied cell is on both sides of a split.
    TrainingDivergedError
        When the loss is no number, or leaves and does not come back.
    """
    plan = plan or TuningPlan()
    recipe = plan.recipe(model, cells, tuning)
    start, unlearnt = prepare_base(model, cells, tuning, vectors or {})
    run = train(cells, start.config, recipe, folder, machine=machine, beginning=Beginning(model=start))
    seen = {}
    for code, split in enumerate(SPLITS):
        if len(mine := np.flatnonzero(np.asarray(cells.column("split")) == code)):
            seen[split] = seen_before(model.ledger, cells, mine.astype(np.int64))
    facts = {
        "base": start.facts["base"], "parts": tuning.parts, "seen": seen, "unlearnt": unlearnt,
        "tuned_weights": count_weights(start.network, tuning.parts),
    }  # fmt: skip
    return replace(run, facts={**run.facts, **facts})


def prepare_base(
    model: TrainedModel, cells: Cells, tuning: Tuning, vectors: Mapping[str, ProteinVectors]
) -> tuple[TrainedModel, dict[str, list[str]]]:
    """Return the base with the organisms and classes that the training cells have besides, and what is left unlearnt.

    Raises
    ------
    ModelInputError
        When the cells lack a label that is tuned, or no training cell has a value of it.
    ReferenceMissingError
        When there is no gene table of a new organism.
    """
    out, unlearnt = model, {}
    for one in cells.about["organisms"]:
        if (name := str(one["organism"])) not in out.vocabulary.organisms:
            out = with_organism(out, name, vectors=vectors.get(name))
    splits = np.asarray(cells.column("split"))
    for label in tuning.labels:
        if label not in cells.columns:
            raise ModelInputError("tuning.labels", label, f"a column of the cells: {', '.join(cells.columns)}")
        words = np.array(cells.about["vocabulary"][label], dtype=object)
        codes = np.asarray(cells.column(label))
        known = codes >= 0
        learnt, held = (set(words[np.unique(codes[known & some])]) - NO_CLASS for some in (splits == 0, splits != 0))
        if not learnt:
            allowed = "a label that some training cell has; name the column with --column"
            raise ModelInputError("tuning.labels", f"{label}, which no training cell has", allowed)
        classes = out.vocabulary.labels[label].classes if label in out.vocabulary.labels else ()
        if label not in out.config.cell.labels:
            out = with_label(out, label, sorted(learnt))
        elif new := sorted(learnt - set(classes)):
            out = with_classes(out, label, new)
        if missed := sorted(held - set(out.vocabulary.labels[label].classes)):
            unlearnt[label] = missed
    return replace(out, facts={**out.facts, "base": model.digest or model.facts.get("base", "")}), unlearnt


def donor_splits(cells: Cells, *, validation: float = 0.2, test: float = 0.0, seed: int = 0) -> npt.NDArray[np.object_]:
    """Return a split for each cell, such that no donor is in two.

    Donors are drawn in a random order and taken into a split as long as they fit its share; where none fits, the
    smallest is taken. Cells whose donor nobody named count as one donor of their dataset.

    Parameters
    ----------
    cells
        The cells; their own splits are not looked at.
    validation, test
        Shares of the cells, 0 for none.
    seed
        Of the order.

    Returns
    -------
    train, validation or test, [cells].

    Raises
    ------
    ModelInputError
        When shares leave nothing to train on, or there are fewer donors than splits.
    """
    shares = {"validation": validation, "test": test}
    if not all(0 <= share < 1 for share in shares.values()) or validation + test >= 1:
        raise ModelInputError("validation, test", (validation, test), "shares that add up to less than 1")
    wanted = [split for split, share in shares.items() if share]
    donors = np.asarray(cells.column("donor"))
    sizes = np.bincount(donors, minlength=len(cells.about["vocabulary"]["donor"]))
    free = [int(one) for one in np.random.default_rng(seed).permutation(np.flatnonzero(sizes))]
    if len(free) <= len(wanted):
        allowed = f"cells of {len(wanted) + 1} donors at least; name the column of donors, or hold nothing out"
        raise ModelInputError("donors", len(free), allowed)
    out = np.full(len(cells), "train", dtype=object)
    for later, split in enumerate(wanted):
        room, taken = shares[split] * len(cells), []
        for donor in list(free):
            if sizes[donor] <= room and len(free) > len(wanted) - later:
                taken.append(donor)
                free.remove(donor)
                room -= sizes[donor]
        if not taken:
            taken = [min(free, key=lambda one: (sizes[one], one))]
            free.remove(taken[0])
        out[np.isin(donors, taken)] = split
    return out


def label_accuracy(
    model: TrainedModel, cells: Cells, label: str, numbers: Numbers, options: InferenceOptions | None = None
) -> dict[str, float]:
    """Return how often a model's most likely leaf of a label is what cells are labelled.

    Cells are scored by ids, so that models of other classes can be compared: a model that lacks a class is wrong on
    its cells.

    Returns
    -------
    dict
        `cells` scored, those with a value; `accuracy`, the share that is told right; `balanced`, the mean of it over
        values; all told wrong where the model tells no two classes of the label.
    """
    words = np.array([*cells.about["vocabulary"][label], ""], dtype=object)
    truth = words[np.asarray(cells.codes(label, numbers))]
    scored = ~np.isin(truth.astype(str), sorted(NO_CLASS))
    numbers, truth = numbers[scored], truth[scored]
    if not len(numbers):
        raise ModelInputError("numbers", f"no cell with a {label}", "cells that have one")
    right = np.zeros(len(numbers), dtype=bool)
    if label in model.network.labels.read:
        leaves = np.array(model.vocabulary.labels[label].classes, dtype=object)
        blocks = classify_cells(model, cells, numbers, options or InferenceOptions())
        told = np.concatenate([block.logits[label].argmax(1) for block in blocks])
        right = leaves[told] == truth
    balanced = float(np.mean([right[truth == one].mean() for one in np.unique(truth.astype(str))]))
    return {"cells": len(numbers), "accuracy": float(right.mean()), "balanced": balanced}
