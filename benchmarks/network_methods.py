"""What is asked of each set of cells in the benchmark of networks: every read-out, its variants, nulls and hubs.

Each answer is kept in a file of its own under a key of all it depends on, sources included: a run that was stopped goes
on where it was. Used by networks.py.
"""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import numpy.typing as npt

    from benchmarks.network_cells import NetworkStudy
    from model import TrainedModel
    from model.attention_maps import HeadMaps
    from model.grn_query import ReadoutOptions
    from model.grn_scores import EdgeScores
    from model.grn_truths import EdgeTruth

    Numbers = npt.NDArray[np.int64]

HERE = Path(__file__).resolve().parent
SLOW_CELLS = {"perturbation": 20, "gradient": 3}
"""Cells of read-outs that take a pass of the network per cell and gene."""
TREES = {"extra_trees": 30, "grnboost2": 60}
"""Trees, instead of the authors' 1,000 and at most 5,000: what 2 cores have time for."""
HEADS = "attention, heads chosen on other regulators"
TESTED = ("pearson", "spearman", "attention", "criss_cross")
"""Read-outs whose edges are tested."""


@dataclass(frozen=True)
class Method:
    """One row of every table."""

    label: str
    """What it is called."""
    readout: str
    """Name of the read-out."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Fields of ReadoutOptions that are not the defaults."""
    null: str = ""
    """How the cells are shuffled before they are read; empty for not at all."""
    square: bool = False
    """Whether all genes are regulators, for the enrichment of hubs."""
    shuffles: int = 0
    """Of the cells, beyond which the read-out is, as z (`assess_edges`); 0 for the read-out itself."""


@dataclass(frozen=True)
class Significance:
    """How edges are tested."""

    permutations: int
    """Shuffles."""
    shuffled: bool = False
    """Whether the cells are shuffled themselves, so that every called edge is a false one."""


def main_methods() -> list[Method]:
    """Return every read-out as it is, then the nulls."""
    from model.grn_scores import READOUTS

    found = [Method(name, name, {"trees": TREES[name]} if name in TREES else {}) for name in READOUTS]
    nulls = [(name, kind) for name in ("pearson", "attention") for kind in ("genes", "cells")]
    return found + [Method(f"{name}, {kind} shuffled", name, null=kind) for name, kind in nulls]


VARIANTS = [
    Method("pearson, counts", "pearson", {"expression": "counts"}),
    Method("mean_product, counts", "mean_product", {"expression": "counts"}),
    Method("attention, own contexts, mean", "attention", {"contexts": "trained"}),
    Method("attention, own contexts, sum", "attention", {"contexts": "trained", "over_cells": "sum"}),
    Method("attention, z", "attention", shuffles=10),
]
"""What old arguments are about, beside the main rows. Gene by gene z-scored input is not among them: no correlation
changes with it, and the mean product of z-scores is 0."""
SQUARES = ("attention", "criss_cross", "token_similarity", "pearson", "spearman", "partial_correlation", "mean_product")
"""Read-outs whose hubs are looked at: those that take no longer for all genes as regulators."""


@dataclass(frozen=True, eq=False)
class Bench:
    """Where answers are kept, and whose they are."""

    model: TrainedModel
    model_key: str
    folder: Path

    def ask(self, study: NetworkStudy, method: Method, numbers: Numbers) -> tuple[EdgeScores, float]:
        """Return what a method says of some cells, and the seconds it took; from its file where it is there."""
        from model.grn_scores import EdgeScores

        numbers = some_of(numbers, SLOW_CELLS.get(method.readout, len(numbers)))
        regulators = study.genes if method.square else study.regulators
        targets = study.genes if method.square else study.targets

        def make() -> dict[str, Any]:
            began = time.perf_counter()
            found = self.read(study, method, numbers)
            signs = {} if found.signs is None else {"signs": found.signs}
            return {"values": found.values, "seconds": time.perf_counter() - began, **signs}

        kept = self._kept(study, numbers, asdict(method), make)
        return EdgeScores(regulators, targets, kept["values"], kept.get("signs")), float(kept["seconds"])

    def significance(self, study: NetworkStudy, method: Method, numbers: Numbers, how: Significance) -> dict[str, Any]:
        """Return p_values and q_values [regulators, targets] of a method on some cells, or on these shuffled."""
        from model.grn_significance import NullOptions, assess_edges
        from model.shuffled_cells import ShuffledCells

        def make() -> dict[str, Any]:
            cells = ShuffledCells(study.cells, numbers, seed=77) if how.shuffled else study.cells
            found = assess_edges(
                lambda some, few: self.read(study, method, few, some), cells, numbers,
                NullOptions(permutations=how.permutations),
            )  # fmt: skip
            return {"p_values": found.p_values, "q_values": found.q_values}

        return self._kept(study, numbers, [asdict(method), asdict(how)], make)

    def _kept(self, study: NetworkStudy, numbers: Numbers, what: Any, make: Callable[[], dict[str, Any]]) -> Any:
        """Return arrays from their file, or make them and keep them there."""
        said = [what, study.cells.fingerprint, study.regulators, study.targets, numbers.tolist()]
        text = json.dumps([*said, self.model_key, sources_digest()], sort_keys=True)
        path = self.folder / f"{hashlib.sha256(text.encode()).hexdigest()[:24]}.npz"
        if not path.exists():
            part = path.with_suffix(".part.npz")
            np.savez(part, **make())
            part.replace(path)
        with np.load(path, allow_pickle=False) as kept:
            return dict(kept)

    def read(self, study: NetworkStudy, method: Method, numbers: Numbers, cells: Any = None) -> EdgeScores:
        """Return what a method says, from the cells themselves or from those given."""
        from model.grn_scores import EdgeScores, score_edges
        from model.grn_significance import NullOptions, assess_edges
        from model.shuffled_cells import ShuffledCells

        cells = study.cells if cells is None else cells
        if method.shuffles:
            raw, options = replace(method, shuffles=0), NullOptions(permutations=method.shuffles)
            found = assess_edges(lambda some, few: self.read(study, raw, few, some), cells, numbers, options)
            return EdgeScores(found.scores.regulators, found.scores.targets, found.z, None)
        if method.null:
            cells = ShuffledCells(cells, numbers, kind=method.null, seed=1)  # type: ignore[arg-type]
        regulators = study.genes if method.square else study.regulators
        targets = study.genes if method.square else study.targets
        return score_edges(
            method.readout, self.model, cells, numbers, regulators=regulators, targets=targets,
            options=options_of(method),
        )  # fmt: skip

    def head_maps(self, study: NetworkStudy, numbers: Numbers) -> HeadMaps:
        """Return the mean attention of every head."""
        from model.attention_maps import HeadMaps, head_maps

        def make() -> dict[str, Any]:
            found = head_maps(
                self.model, study.cells, numbers, regulators=study.regulators, targets=study.targets,
                options=options_of(Method(HEADS, "attention")),
            )  # fmt: skip
            return {"values": found.values, "seen": found.seen}

        kept = self._kept(study, numbers, HEADS, make)
        return HeadMaps(study.regulators, study.targets, kept["values"], kept["seen"], self.model_key)


def some_of(numbers: Numbers, most: int) -> Numbers:
    """Return cells drawn from these, rising; the first ones of a file are those of one batch or donor."""
    if most >= len(numbers):
        return numbers
    return np.sort(np.random.default_rng((most, len(numbers))).permutation(numbers)[:most])


def chosen_heads(maps: HeadMaps, truth: EdgeTruth) -> EdgeScores | None:
    """Return attention by heads that were chosen on other regulators of the truth; None where there are too few."""
    from model import ModelInputError
    from model.grn_scores import EdgeScores
    from model.head_selection import nested_scores

    try:
        values, _ = nested_scores(maps, truth)
    except ModelInputError as error:
        print(f"  {HEADS}: {error}", flush=True)
        return None
    return EdgeScores(maps.regulators, maps.targets, values, None)


def options_of(method: Method) -> ReadoutOptions:
    """Return the options of a method; on the CPU, as all others."""
    from model.grn_query import ReadoutOptions
    from model.inference import InferenceOptions

    return ReadoutOptions(inference=InferenceOptions(device="cpu", batch_size=16), **method.options)


def hub_degree(study: NetworkStudy, truth: str, others: Sequence[str]) -> EdgeScores:
    """Return the product of the degrees of regulator and target in some references: no edge is known, only hubs are."""
    from model.grn_scores import EdgeScores

    values = np.zeros((len(study.regulators), len(study.targets)))
    for name in others or (truth,):
        edges = study.truths[name].edges
        edges = edges[edges["regulator"].isin(study.regulators) & edges["target"].isin(study.targets)]
        out, into = edges.groupby("regulator").size(), edges.groupby("target").size()
        rows = np.array([out.get(gene, 0) for gene in study.regulators], dtype=np.float64)
        columns = np.array([into.get(gene, 0) for gene in study.targets], dtype=np.float64)
        values += np.log1p(rows)[:, None] + np.log1p(columns)[None, :]
    own = np.array(study.regulators, dtype=object)[:, None] == np.array(study.targets, dtype=object)[None, :]
    return EdgeScores(study.regulators, study.targets, np.where(own, np.nan, values).astype(np.float32), None)


def sources_digest() -> str:
    """Return the digest of the files that say what a read-out is: all of the model's, which any may lean on."""
    files = [*sorted((HERE.parent / "model").glob("*.py")), HERE / "network_cells.py", HERE / "network_methods.py"]
    return hashlib.sha256(b"\0".join(path.read_bytes() for path in files)).hexdigest()[:16]
