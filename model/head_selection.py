"""Which attention heads speak of regulation: chosen on part of a ground truth, so that the rest can judge them.

Most heads do other work, and their mean drowns the few that matter. Heads are weighed by what they say of the edges of
some regulators; a network is then fair to score on other regulators only, whose edges, as sources and as targets, the
choice never saw. `nested_scores` does that in folds, head_transfer.py between populations. A `HeadSelection` is a few
numbers as JSON: it goes with its model (`with_heads` puts it into the facts of a checkpoint) and serves any population.
scPRINT-2 scores networks on the truth that chose their heads, in part. Used by attention_maps.py, the command
`panatlas grn-heads` and the benchmark.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from .errors import ModelInputError

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    import numpy.typing as npt

    from .attention_maps import HeadMaps
    from .checkpoint import TrainedModel
    from .grn_truths import EdgeTruth

    Floats = npt.NDArray[np.float32]

Method = Literal["logistic", "top"]
FORMAT = "panatlas heads 1"
STRENGTH = 1.0
"""Inverse strength of the logistic regression's L2 penalty, scikit-learn's default."""


@dataclass(frozen=True)
class HeadSelection:
    """What each head weighs, and what it was chosen on.

    Raises
    ------
    ModelInputError
        When weights are not a rectangle of numbers from 0 that add up to 1.
    """

    weights: tuple[tuple[float, ...], ...]
    """By layer and head; from 0, and 1 together."""
    method: str
    """`logistic`, `top` or `given`."""
    truth: str
    """Name of the ground truth."""
    truth_digest: str
    """sha256 of its edges."""
    regulators: tuple[str, ...]
    """Feature ids whose edges were learnt from: these are not fair to score."""
    model: str
    """Digest of the weights of the model whose heads they are."""
    precision: tuple[tuple[float, ...], ...] = ()
    """Average precision of each head on what was learnt from, over the share of true edges."""
    facts: dict[str, Any] = field(default_factory=dict)
    """More, as JSON values, such as the population."""
    targets: tuple[str, ...] = ()
    """Feature ids that were learnt from as targets."""

    def __post_init__(self) -> None:
        found = (
            np.array(self.weights, dtype=np.float64) if len({len(one) for one in self.weights}) == 1 else np.empty(0)
        )
        if found.ndim != 2 or not found.size or not (found >= 0).all() or not np.isclose(found.sum(), 1):
            raise ModelInputError("weights", self.weights, "numbers from 0 by layer and head that add up to 1")

    @property
    def digest(self) -> str:
        """Return a sha256 of all of it."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    def to_json(self) -> str:
        """Return it as JSON text."""
        return json.dumps({"format": FORMAT, **asdict(self)}, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> HeadSelection:
        """Return what `to_json` wrote.

        Raises
        ------
        ModelInputError
            When the text is none.
        """
        try:
            said = json.loads(text)
            if not isinstance(said, dict) or said.pop("format", None) != FORMAT:
                raise ModelInputError("text", text[:60], f"the JSON of {FORMAT}")
            said.setdefault("targets", [])  # which the first ones did not have
            if set(said) != {one.name for one in fields(cls)}:
                raise ModelInputError("text", sorted(said), "what HeadSelection.to_json wrote")
            for name in ("weights", "precision"):
                said[name] = tuple(tuple(float(one) for one in row) for row in said[name])
            return cls(**said | {name: tuple(map(str, said[name])) for name in ("regulators", "targets")})
        except (TypeError, ValueError, AttributeError, RecursionError) as error:
            if isinstance(error, ModelInputError):
                raise
            raise ModelInputError("text", text[:60], f"what HeadSelection.to_json wrote ({error})") from error


def select_heads(
    maps: HeadMaps,
    truth: EdgeTruth,
    *,
    method: Method = "logistic",
    top: int = 3,
    held_out: Collection[str] = (),
    seed: int = 0,
) -> HeadSelection:
    """Return heads chosen on the edges of the regulators that the truth knows and that are not held out.

    Parameters
    ----------
    maps
        The heads' maps.
    truth
        Known edges. A regulator without any is unknown, and not learnt from; so is a gene that it never names as a
        target.
    method
        `logistic`: an L2-regularised logistic regression on the standardised logarithms of the heads' weights, whose
        coefficients above 0 become weights. `top`: heads of the highest average precision, all weighing alike.
    top
        How many heads `top` takes.
    held_out
        Genes that are not learnt from, neither as regulators nor as targets.
    seed
        Of the draw of pairs without an edge, at most 20 for one with.

    Raises
    ------
    ModelInputError
        When the truth has no edge among what is left, or every pair.
    """
    from sklearn.metrics import average_precision_score  # noqa: PLC0415 - a second, for those who choose heads

    if method not in get_args(Method):
        raise ModelInputError("method", method, "logistic or top")
    layers, heads = maps.values.shape[:2]
    if method == "top" and not 1 <= top <= layers * heads:
        raise ModelInputError("top", top, f"1 to {layers * heads} heads")
    features, labels, learnt, read = _pairs(maps, truth, set(held_out), seed)
    if not 0 < labels.sum() < len(labels):
        got = f"{int(labels.sum())} edges of {len(labels)} pairs of {len(learnt)} regulators"
        raise ModelInputError("truth", got, "edges, and pairs without, between genes of the maps that are not held out")
    precision = np.array([average_precision_score(labels, one) for one in features.T]) / labels.mean()
    if method == "logistic":
        weights = _logistic(features, labels)
        if not weights.any():  # no head helps
            weights = (precision == precision.max()).astype(float)
    else:
        weights = np.zeros(layers * heads)
        weights[np.argsort(-precision, kind="stable")[:top]] = 1
    weights = (weights / weights.sum()).reshape(layers, heads)
    return HeadSelection(
        tuple(map(tuple, weights.tolist())), method, truth.name, truth.digest, tuple(learnt), maps.model,
        tuple(map(tuple, precision.reshape(layers, heads).round(6).tolist())), {"seed": seed}, tuple(read),
    )  # fmt: skip


def given_heads(model: TrainedModel, heads: Collection[tuple[int, int]]) -> HeadSelection:
    """Return a selection of some heads, named as (layer, head) from 0, that weigh alike; no truth chose them.

    Raises
    ------
    ModelInputError
        When there is none, or the model has no such head.
    """
    from .checkpoint import weights_digest  # noqa: PLC0415 - which reads networks; selections are read without

    shape = model.config.trunk.layers, model.config.trunk.heads
    weights = np.zeros(shape)
    for layer, head in heads:
        if not (0 <= layer < shape[0] and 0 <= head < shape[1]):
            allowed = f"layer:head, from 0:0 to {shape[0] - 1}:{shape[1] - 1}"
            raise ModelInputError("heads", f"{layer}:{head}", allowed)
        weights[layer, head] = 1
    if not heads:
        raise ModelInputError("heads", heads, "one head or more")
    return HeadSelection(
        tuple(map(tuple, (weights / weights.sum()).tolist())), "given", "none", "", (), weights_digest(model)
    )


def nested_scores(
    maps: HeadMaps,
    truth: EdgeTruth,
    *,
    method: Method = "logistic",
    top: int = 3,
    folds: int = 5,
    seed: int = 0,
) -> tuple[Floats, tuple[HeadSelection, ...]]:
    """Return scores of each regulator's edges by heads that were chosen without it, and these choices.

    Parameters
    ----------
    maps, truth, method, top, seed
        As of `select_heads`.
    folds
        Parts that the regulators of the truth are dealt out to.

    Returns
    -------
    tuple
        Values [regulators, targets], NaN in rows of regulators that the truth does not know; one selection per fold.

    Raises
    ------
    ModelInputError
        As `select_heads`; when there are fewer regulators than folds.
    """
    sources, columns = set(truth.regulators), set(maps.targets)
    named = set(truth.edges.loc[truth.edges["target"].isin(columns), "regulator"]) & sources
    known = np.array([row for row, gene in enumerate(maps.regulators) if gene in named], dtype=np.int64)
    if not 2 <= folds <= len(known):
        raise ModelInputError("folds", folds, f"2 to {len(known)}, the regulators that the truth knows")
    dealt = np.random.default_rng(seed).permutation(known)
    values = np.full(maps.values.shape[2:], np.nan, dtype=np.float32)
    chosen = []
    for fold in range(folds):
        mine = dealt[fold::folds]
        held_out = [maps.regulators[row] for row in mine]
        selection = select_heads(maps, truth, method=method, top=top, held_out=held_out, seed=seed)
        values[mine] = weighed(maps, selection)[mine]
        chosen.append(selection)
    return values, tuple(chosen)


def weighed(maps: HeadMaps, selection: HeadSelection) -> Floats:
    """Return the heads' maps put together as a selection weighs them, [regulators, targets].

    Raises
    ------
    ModelInputError
        When it was made for other heads.
    """
    if selection.model != maps.model or np.shape(selection.weights) != maps.values.shape[:2]:
        raise ModelInputError("selection", selection.digest, "heads that were selected for this model; select anew")
    return np.einsum("lh,lhrt->rt", np.array(selection.weights), maps.values).astype(np.float32)


def with_heads(model: TrainedModel, selection: HeadSelection) -> TrainedModel:
    """Return the model with a selection in its facts, from where `save_model` takes it to disk.

    A later one of a truth of the same name takes its place. The model has no digest until it is saved.

    Raises
    ------
    ModelInputError
        When it was made for another model.
    """
    from .checkpoint import weights_digest  # noqa: PLC0415 - which reads networks; selections are read without

    if selection.model != weights_digest(model):
        raise ModelInputError("selection", selection.truth, "heads that were selected for this model; select anew")
    kept = {**model.facts.get("heads", {}), selection.truth: json.loads(selection.to_json())}
    return replace(model, facts={**model.facts, "heads": kept}, digest="")


def heads_of(model: TrainedModel, truth: str) -> HeadSelection:
    """Return the selection that a model carries.

    Raises
    ------
    ModelInputError
        When it carries none of that name.
    """
    kept = model.facts.get("heads", {})
    if not isinstance(kept, dict) or truth not in kept:
        raise ModelInputError("truth", truth, f"one of the model's: {', '.join(kept) or 'it carries none'}")
    return HeadSelection.from_json(json.dumps(kept[truth]))


def _pairs(
    maps: HeadMaps, truth: EdgeTruth, held_out: set[str], seed: int
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_], Sequence[str], Sequence[str]]:
    """Return attention [pairs, heads] and whether there is an edge, of known regulators, these, and the targets."""
    rows = {gene: row for row, gene in enumerate(maps.regulators) if gene not in held_out}
    edges = truth.edges[~truth.edges["regulator"].isin(held_out)]
    named = set(edges["target"]) - held_out  # not the truth's targets, to which the held-out ones contribute
    columns = {gene: column for column, gene in enumerate(maps.targets) if gene in named}
    mine = edges[edges["regulator"].isin(rows.keys()) & edges["target"].isin(columns.keys())]
    edge = np.zeros(maps.values.shape[2:], dtype=bool)
    edge[mine["regulator"].map(rows).to_numpy(dtype=int), mine["target"].map(columns).to_numpy(dtype=int)] = True
    usable = np.isfinite(maps.values).all((0, 1)) & edge.any(1)[:, None]
    usable[:, np.setdiff1d(np.arange(len(maps.targets)), list(columns.values()))] = False
    there, without = np.argwhere(usable & edge), np.argwhere(usable & ~edge)
    drawn = np.sort(np.random.default_rng(seed).permutation(len(without))[: 20 * max(len(there), 1)])
    at = np.concatenate([there, without[drawn]])
    heads = maps.values.shape[0] * maps.values.shape[1]
    features = maps.values[:, :, at[:, 0], at[:, 1]].reshape(heads, len(at)).T.astype(np.float64)
    labels = np.arange(len(at)) < len(there)
    learnt = [gene for gene, row in rows.items() if (usable & edge)[row].any()]
    return features, labels, learnt, [gene for gene, column in columns.items() if usable[:, column].any()]


def _logistic(features: npt.NDArray[np.float64], labels: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    """Return weights of the raw maps, from 0."""
    from sklearn.linear_model import LogisticRegression  # noqa: PLC0415

    logs = np.log(np.maximum(features, 1e-12))
    spread = logs.std(0)
    spread[spread == 0] = 1
    fitted = LogisticRegression(C=STRENGTH, class_weight="balanced", max_iter=1000)
    fitted.fit((logs - logs.mean(0)) / spread, labels)
    # A head's own scale is taken out again: maps are mixed as they are.
    return np.maximum(fitted.coef_[0], 0) / features.mean(0).clip(1e-12)
