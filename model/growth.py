"""New words for a trained model: `with_organism` gives it an organism's genes, `with_classes` a label's classes.

`with_label` gives it a label it had no token for.

Everything that was there keeps its weights to the bit, and so its tokens, codes and expression; only rows are added:
genes at the end, classes where the hierarchy puts them. New genes have tokens at once, from protein, ortholog group,
position and biotype. New classes start where they say nothing yet (`leaf_mixes`), until the model is trained on. Used
before `train(..., beginning=Beginning(model=grown))`, or on its own for an organism that no cell was ever seen of.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from loaders import Vocabulary

from .errors import ModelInputError
from .network import Network
from .prior_bias import PriorBias
from .token_table import ARRAYS, TokenTable, make_token_table

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from torch import Tensor

    from ontology import LabelSpace

    from .checkpoint import TrainedModel
    from .config import ModelConfig
    from .protein_vectors import ProteinVectors

SEED = 0
"""Of the hidden layers of a label head that was not there before."""


def with_organism(
    model: TrainedModel, organism: str, feature_ids: Sequence[str] = (), vectors: ProteinVectors | None = None
) -> TrainedModel:
    """Return the model with an organism more, or with the genes it lacks of one.

    Where the model tells organisms, the new one is one of the classes it tells.

    Parameters
    ----------
    model
        Not changed.
    organism
        Any spelling, such as mouse or mus_musculus.
    feature_ids
        Genes to add; those that are there already are passed over. None given: all of its gene table.
    vectors
        Of its proteins, by the embedder that made the model's own; genes without one are told apart by ortholog group,
        position, biotype and a hash of their id. Genes that are there already keep theirs.

    Returns
    -------
    TrainedModel
        With the same ledger, and no digest until it is saved; its facts name what was added, and to which model.

    Raises
    ------
    ModelInputError
        When the model has all of these genes, or vectors are another organism's, of another width, or of no gene
        that is added.
    UnknownOrganismError, ReferenceMissingError
        When there is no such organism, or no gene table of it; the message says what to run.
    """
    from ontology import get_organism, load_gene_table  # noqa: PLC0415 - importing a model is light

    found = get_organism(organism)
    name, before = found.experiment, model.vocabulary
    asked = [feature_ids] if isinstance(feature_ids, str) else feature_ids
    ids = tuple(asked) or tuple(load_gene_table(found).ids.tolist())
    have = set(before.genes[before.organisms.index(name)]) if name in before.organisms else set()
    new = tuple(one for one in ids if one not in have)
    if not new:
        raise ModelInputError("organism", organism, f"one that lacks genes; the model has all {len(ids)} of them")
    if vectors is not None:
        _check_vectors(vectors, model.table, found.name, new)
    vocabulary = before.with_organism(name, new)
    if "organism" in before.labels and "organism" in model.config.cell.labels:
        vocabulary = vocabulary.with_classes("organism", [found.term_id])
    entry = {"organism": name, "genes": len(new), "vectors": None if vectors is None else dict(vectors.about)}
    return _grown(model, vocabulary, _longer(model.table, name, new, vectors), entry)


def with_classes(model: TrainedModel, label: str, values: Iterable[str]) -> TrainedModel:
    """Return the model with further classes of a label.

    Parameters
    ----------
    model
        Not changed.
    label
        One of the labels it has a cell token for.
    values
        Values as cells carry them: term ids, several joined by two bars, or words for cell_culture. Those that are
        there already are passed over.

    Returns
    -------
    TrainedModel
        As of `with_organism`; `leaf_mixes` says what the new classes start as.

    Raises
    ------
    ModelInputError
        When the model has no such label, or has all of these classes.
    VocabularyError
        When a value is no id, or not in its ontology.
    OntologyError
        When the ontology is not at hand.
    """
    if label not in model.config.cell.labels:
        raise ModelInputError("label", label, f"one of {', '.join(model.config.cell.labels)}")
    before = model.vocabulary
    values = [values] if isinstance(values, str) else list(values)
    vocabulary = before.with_classes(label, values)
    old = before.labels[label].classes if label in before.labels else ()
    added = sorted(set(vocabulary.labels[label].classes) - set(old))
    if not added:
        allowed = f"a class of {label} that the model lacks; it has {len(old)}"
        raise ModelInputError("values", values, allowed)
    return _grown(model, vocabulary, model.table, {"label": label, "classes": added})


def with_label(model: TrainedModel, label: str, values: Iterable[str]) -> TrainedModel:
    """Return the model with a label that it had no cell token for, one of the nine or a user's own.

    Its token, bottleneck and head are new; the other tokens read it as they read each other, so that what they say
    moves a little. Nothing that is read off the genes moves.

    Parameters
    ----------
    model
        Not changed.
    label
        Letters, digits and underscores; it names columns of results. One of the model's labels gets classes only.
    values
        As of `with_classes`; of a label of one's own, words, none above another.

    Raises
    ------
    ModelInputError
        When the name cannot be a label's, or there are fewer than two classes.
    VocabularyError, OntologyError
        As of `with_classes`.
    """
    before = model.vocabulary
    if label in model.config.cell.labels:
        return with_classes(model, label, values)
    config = model.config.changed(cell={"labels": (*model.config.cell.labels, label)})
    values = [values] if isinstance(values, str) else list(values)
    vocabulary = before.with_classes(label, values)
    if vocabulary.labels[label].n_leaves < 2:
        raise ModelInputError("values", values[:3], f"two classes of {label} at least")
    entry = {"label": label, "classes": list(vocabulary.labels[label].classes), "token": True}
    return _grown(model, vocabulary, model.table, entry, config)


def leaf_mixes(old: LabelSpace, new: LabelSpace, moved: npt.NDArray[np.int32]) -> tuple[Tensor, Tensor]:
    """Return what the leaves of a longer label start as: new logits = shares @ old logits + added.

    Only differences of logits count, so no constant is small or neutral: it would win in one cell and vanish in the
    next. A new leaf therefore starts as the mean of all old leaves, in every cell: it never beats the best of them, and
    m new ones beside k old ones have at most m / (k + m) of the probability (Jensen), little where the model is sure.
    Leaves that are new below an old one share that one's probability: its logit less log(their number), so that a
    model that told T cells goes on telling them, and takes no side among the kinds of T cell. A leaf that is new below
    several old ones starts as the mean of what each would give it.

    Parameters
    ----------
    old, new
        Classes before and after.
    moved
        Code after of each class before, from `Vocabulary.moved_classes`.

    Returns
    -------
    (shares, added)
        float64 [new leaves, old leaves] and [new leaves].
    """
    shares, added = np.zeros((new.n_leaves, old.n_leaves)), np.zeros(new.n_leaves)
    places = moved[: old.n_leaves]
    kept = places < new.n_leaves
    shares[places[kept], np.flatnonzero(kept)] = 1
    fresh = np.flatnonzero(~shares.any(1))
    split = np.flatnonzero(~kept)  # leaves that now have classes below them
    heirs = np.asarray(new.above)[np.ix_(fresh, places[split])]
    numbers = np.log(np.maximum(heirs.sum(0), 1))
    for leaf, mine in zip(fresh, heirs, strict=True):
        shares[leaf, split[mine] if mine.any() else slice(None)] = 1 / (mine.sum() or old.n_leaves)
        added[leaf] = -numbers[mine].mean() if mine.any() else 0
    return torch.from_numpy(shares), torch.from_numpy(added)


def _grown(
    model: TrainedModel,
    vocabulary: Vocabulary,
    table: TokenTable,
    entry: dict[str, Any],
    config: ModelConfig | None = None,
) -> TrainedModel:
    """Return the model rebuilt for a longer vocabulary and table, or with further tokens at the end."""
    former, old, config = model.network, model.vocabulary, config or model.config
    vocabulary = replace(vocabulary, tokens={**(vocabulary.tokens or {}), "sha256": table.digest})
    prior = former.prior and PriorBias(former.prior.edges, former.prior.weights, vocabulary.n_genes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        network = Network(config, vocabulary, table, prior)
    network.to(next(former.parameters()))
    network.tokens = former.tokens.extended(table)
    if network.linear is not None and former.linear is not None:
        network.linear.inherit(former.linear, former.tokens.table, table)
    moved = vocabulary.moved_classes(old)
    mixes = {name: leaf_mixes(old.labels[name], vocabulary.labels[name], moved[name]) for name in former.labels.read}
    network.labels.inherit(former.labels, mixes)
    rest = {n: value for n, value in former.state_dict().items() if not n.startswith(("tokens.", "labels.", "linear."))}
    fresh = network.state_dict()
    start = rest["reader.start"]
    rest["reader.start"] = torch.cat([start, fresh["reader.start"][len(start) :]])
    network.load_state_dict({**fresh, **rest})
    entries = [*([] if model.digest else model.facts.get("added", [])), entry]  # since what `grown_from` names
    facts = {**model.facts, "grown_from": model.digest or model.facts.get("grown_from", ""), "added": entries}
    return replace(model, network=network.eval(), vocabulary=vocabulary, facts=facts, digest="")


def _check_vectors(vectors: ProteinVectors, table: TokenTable, organism: str, new: Sequence[str]) -> None:
    """Refuse vectors that the model cannot read."""
    width, trained = vectors.vectors.shape[1], table.vectors.shape[1]
    if vectors.organism.name != organism:
        raise ModelInputError("vectors", f"those of {vectors.organism.name}", f"vectors of {organism}")
    if width != trained:
        allowed = f"{trained}, by the model's own embedder" if trained else "none, as it was trained"
        raise ModelInputError("vectors", f"{width} numbers each", allowed)
    if not set(vectors.genes.tolist()).intersection(new):
        raise ModelInputError("vectors", f"genes such as {vectors.genes[0]}", f"genes such as {new[0]}, which is added")


def _longer(table: TokenTable, organism: str, ids: tuple[str, ...], vectors: ProteinVectors | None) -> TokenTable:
    """Return the table with an organism's genes at the end; rows that were there are taken over, not looked up anew."""
    known = {} if vectors is None else {organism: vectors}
    new = make_token_table(Vocabulary((organism,), (ids,)), known, table.vectors.shape[1])
    had = set(table.groups)
    groups = (*table.groups, *(name for name in new.groups if name not in had))
    places = {name: place for place, name in enumerate(groups)}
    numbers = np.array([*(places[name] for name in new.groups), -1], dtype=np.int32)
    parts = {name: np.concatenate([getattr(table, name), getattr(new, name)]) for name in ARRAYS}
    parts["group"] = np.concatenate([table.group, numbers[new.group]])
    return TokenTable(**parts, groups=groups)
