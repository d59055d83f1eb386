"""The sampling plan: which cells are drawn and how they are grouped, turned into a `Sampler` by `make_sampler`.

A plan names splits and organisms, the labels whose combinations are levelled, and what is known besides: coarse labels,
labels of whole studies, expressed genes per cell. The groups are made once per cells and plan, and kept in the cache
(group_files.py); every worker of every run maps the same files.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ontology import UnknownOrganismError, cache_dir, get_organism

from .cells import SPLITS
from .errors import LoaderInputError
from .group_files import GROUPS, MAXIMA, SUMS, WEIGHTS, MappedSampler, keep_groups, save_facts
from .groups import build_groups, group_maxima
from .joint_labels import joint_labels, spans
from .sampler import GroupFacts, Sampler, SamplerConfig
from .weighted_draws import sum_weights
from .weights import compatible_groups

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from .cells import Cells, Numbers
    from .joint_labels import JointLabels
    from .vocabulary import Vocabulary

FORMAT = "panatlas groups 1"
WEIGHTS_FORMAT = 2
"""Of the files for weighted draws, and of how cells are drawn by them."""


@dataclass(frozen=True)
class SamplingPlan:
    """Which cells are drawn, and how often."""

    splits: tuple[str, ...] = ("train",)
    """Only cells of these splits of the release."""
    organisms: tuple[str, ...] = ()
    """Only these, in any spelling (`human`, `homo_sapiens`); empty for all."""
    labels: tuple[str, ...] = ("cell_type", "disease", "tissue", "assay", "sex", "development_stage")
    """Columns whose combinations are levelled; only `balanced` looks at them."""
    config: SamplerConfig = field(default_factory=SamplerConfig)
    """The order of cells."""
    expressed_weights: bool = False
    """Draw a cell of a group the more often the more genes it expresses: 1 + 999 / (1 + exp(-0.003 (genes - 2000)))."""
    ontology_aware: bool = True
    """A coarse or unknown label is no class of its own; its cells come as often as those they may be one of."""
    study_confidence: float = 1.0
    """Factor on a cell's group for each of its labels that was given to a whole study; 1 trusts them all alike."""

    def __post_init__(self) -> None:
        """Refuse what chooses nothing, and what `SamplerConfig` would not use."""
        if not self.splits or not set(self.splits) <= set(SPLITS):
            raise LoaderInputError("splits", self.splits, f"some of {', '.join(SPLITS)}")
        if not 0 < self.study_confidence <= 1:
            raise LoaderInputError("study_confidence", self.study_confidence, "above 0, at most 1")
        if self.expressed_weights and not (self.config.kind == "balanced" and self.config.replacement):
            raise LoaderInputError("expressed_weights", self.config, "kind balanced with replacement")


def make_sampler(
    cells: Cells, plan: SamplingPlan, vocabulary: Vocabulary | None = None, cache: Path | None = None
) -> Sampler:
    """Return the sampler of a plan.

    Parameters
    ----------
    cells
        The cells to draw from.
    plan
        Which of them, and how often.
    vocabulary
        Says which labels are coarse; None makes one of these cells. Needed only by a balanced plan that is aware of it.
    cache
        Folder of the groups; None is `groups` in the cache of this user's panatlas.

    Returns
    -------
    Sampler
        Over mapped files; pickles to their place, so that workers share them.

    Raises
    ------
    LoaderInputError
        When the cells have no such organism or label, do not say what the plan builds on, or none is left.
    """
    balanced = plan.config.kind == "balanced"
    if not (balanced and plan.ontology_aware):
        vocabulary = None
    elif vocabulary is None:
        from .cell_vocabulary import make_vocabulary  # noqa: PLC0415 - reads ontologies

        vocabulary = make_vocabulary(cells)
    classes = {} if vocabulary is None else {label: vocabulary.labels.get(label) for label in plan.labels}
    what = {
        "format": FORMAT,
        "cells": cells.fingerprint,
        "splits": sorted(plan.splits),
        "organisms": sorted(organism_codes(cells, plan.organisms)),
        "labels": list(plan.labels) if balanced else [],
        "classes": {label: space.digest for label, space in classes.items() if space},
        "expressed_weights": WEIGHTS_FORMAT if plan.expressed_weights else False,
        "study_confidence": plan.study_confidence if balanced else 1.0,
    }
    digest = hashlib.sha256(json.dumps(what).encode()).hexdigest()[:32]
    folder = (cache or cache_dir() / "groups") / digest
    keep_groups(folder, lambda part: _build(part, cells, plan, vocabulary))
    return MappedSampler(folder, plan.config)


def _build(folder: Path, cells: Cells, plan: SamplingPlan, vocabulary: Vocabulary | None) -> None:
    """Write groups, facts and weights into a folder."""
    labels = plan.labels if plan.config.kind == "balanced" else ()
    codes = folder / "codes.npy"
    joint = joint_labels(cells, labels, _chosen(cells, plan), codes)
    if not len(joint.table):
        raise LoaderInputError("splits, organisms", (plan.splits, plan.organisms), "a choice that some cell belongs to")
    groups = build_groups(joint.blocks(), len(joint.table), len(cells), folder / GROUPS)
    specific, compatible = (None, None) if vocabulary is None else _sharpness(cells, joint, labels, vocabulary)
    confidence = _confidence(cells, joint, labels, plan.study_confidence) if labels else None
    save_facts(folder, GroupFacts(specific, compatible, confidence))
    codes.unlink()
    if plan.expressed_weights:
        weights = _save_weights(cells, folder / WEIGHTS)
        np.save(folder / MAXIMA, group_maxima(groups, weights))
        sum_weights(groups, weights, folder / SUMS)


def organism_codes(cells: Cells, organisms: Sequence[str]) -> list[int]:
    """Return the codes of organisms in any spelling; of all where none is named."""
    names = [known["organism"] for known in cells.about["organisms"]]
    wanted = {_experiment_name(name, names) for name in organisms}
    if unknown := sorted(wanted - set(names)):
        raise LoaderInputError("organisms", unknown, f"some of {', '.join(names)}")
    return [code for code, name in enumerate(names) if not wanted or name in wanted]


def _experiment_name(name: str, known: Sequence[str]) -> str:
    try:
        return name if name in known else get_organism(name).experiment
    except UnknownOrganismError:
        return name


def _chosen(cells: Cells, plan: SamplingPlan) -> Callable[[Numbers], npt.NDArray[np.bool_]]:
    splits, organisms = [SPLITS.index(split) for split in plan.splits], organism_codes(cells, plan.organisms)
    return lambda some: np.isin(cells.codes("split", some), splits) & np.isin(cells.codes("organism", some), organisms)


def _sharpness(
    cells: Cells, joint: JointLabels, labels: Sequence[str], vocabulary: Vocabulary
) -> tuple[npt.NDArray[np.bool_], list[npt.NDArray[np.int64]]]:
    """Return which groups have sharp labels only, and for the others which of those their cells may belong to."""
    specific, below = [], []
    for label in labels:
        words = cells.about["vocabulary"][label]
        if label not in vocabulary.labels:  # datasets and donors: each is what it is, and unknown is one more
            specific.append(np.ones(len(words) + 1, dtype=bool))
            below.append(np.ones((1, 1), dtype=bool))  # never looked into
            continue
        space = vocabulary.labels[label]
        classes = np.append(vocabulary.encode(label, words), -1)  # the last one answers for -1
        known = classes >= 0
        sharp = known & (classes < space.n_leaves)
        # A label that is sharp for nobody leaves no group to compare with: its values are classes as they are.
        specific.append(sharp if sharp[joint.table[:, len(specific)]].any() else np.ones(len(classes), dtype=bool))
        inside = np.ones((len(classes), len(classes)), dtype=bool)  # an unknown label may be any
        inside[known] = False
        inside[np.ix_(known, known)] = space.positive[np.ix_(classes[known], classes[known])].T
        below.append(inside)
    whole = np.stack([leaf[joint.table[:, i]] for i, leaf in enumerate(specific)], axis=1).all(axis=1)
    return whole, compatible_groups(joint.table, specific, below)


def _confidence(
    cells: Cells, joint: JointLabels, labels: Sequence[str], study_confidence: float
) -> npt.NDArray[np.float64] | None:
    """Return the mean over a group's cells of `study_confidence` to the number of their labels of whole studies."""
    if study_confidence == 1:
        return None
    scopes = cells.about.get("label_scopes")
    if scopes is None:
        raise LoaderInputError("study_confidence", study_confidence, "1; these cells do not tell labels of studies")
    of_studies = np.zeros(len(cells.about["vocabulary"]["dataset"]))
    for label in labels:
        of_studies += [scope == "study" for scope in scopes.get(label, [""] * len(of_studies))]
    factors = study_confidence**of_studies
    total, sizes = np.zeros(len(joint.table)), np.zeros(len(joint.table))
    for first, last in spans(len(cells)):
        kept = np.flatnonzero(joint.codes[first:last] >= 0)
        group = joint.codes[first + kept]
        total += np.bincount(group, factors[cells.codes("dataset", first + kept)], len(total))
        sizes += np.bincount(group, minlength=len(total))
    return total / sizes


def _save_weights(cells: Cells, file: Path) -> npt.NDArray[np.float32]:
    """Write the weight of every cell by its expressed genes, scPRINT-2's, and return it mapped."""
    weights = np.lib.format.open_memmap(file, mode="w+", dtype=np.float32, shape=(len(cells),))
    for first, last in spans(len(cells)):
        numbers = np.arange(first, last)
        genes = cells.codes("nnz", numbers).astype(np.float64)
        exact = 1 + 999 / (1 + np.exp(-0.003 * (genes - 2000)))
        weights[first:last] = np.rint(exact * 1024) / 1024  # machines round exp differently in the last bit
    weights.flush()
    return weights
