"""How well a model does on cells it was not trained on, on scales that its own losses have no part in.

The additive study (study.py) compares variants that minimise different things, so none of their losses will do. Here
every model reads the same cells, genes, thinned molecules and hidden genes. Thinning splits a cell's molecules in seen
and unseen ones at random; what a model predicts of the seen ones is judged on the unseen ones, beside two predictions
that need no network.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from loaders import CollateConfig, Collator

from .denoising import counts_of
from .inference import cells_of_split
from .label_loss import LabelLoss
from .likelihoods import share_error
from .objective import make_view
from .ragged import Ragged
from .views import mask, seeded, thin

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import numpy.typing as npt

    from loaders import CellBatch, Cells, Vocabulary

    from .checkpoint import TrainedModel

    Numbers = npt.NDArray[np.int64]

LOST, HIDDEN = 0.6, 0.3
"""Share of molecules thinned away, and of genes hidden."""
MIXTURES = tuple(part / 10 for part in range(1, 10))
"""Parts of the gene means in the smoothed counts; the best of them on the very cells is told, which flatters it."""
NEAREST = 10
"""Neighbours that vote for a cell's type."""
HIGHER_IS_BETTER = ("_accuracy", "knn_cell_type")
"""Ends of the names of scores that are shares of cells told right; of all others less is better."""


def held_out_scores(
    model: TrainedModel,
    cells: Cells,
    *,
    split: str = "validation",
    most: int = 2_048,
    seed: int = 0,
    collate: CollateConfig | None = None,
    batch_size: int = 64,
) -> dict[str, float]:
    """Return scores that mean the same for every model, whatever it was trained to minimise.

    Expression is scored in nats per molecule: counts x of a cell's context, N of them, are Poisson of mean N times
    the predicted shares p, and the score is the mean over cells of -log P(x) / N.

    Parameters
    ----------
    model
        The model; its network is in evaluation mode while it is scored.
    cells
        A pack, a store or an AnnData with splits.
    split
        Whose cells are scored.
    most
        Cells that are scored at most, drawn by `seed`; as many training cells give gene means and neighbours.
    seed
        Of the cells, thinned molecules and hidden genes.
    collate
        Which genes are shown; no more neighbours than the model reads. None shows 2,200 and up to 6 neighbours.
    batch_size
        Cells at a time; another one draws other molecules.

    Returns
    -------
    dict
        - `denoise_nll`, `generate_nll`: unseen molecules, told from the 40% seen ones, off the genes or off cell tokens
          alone; `denoise_nll_gene_mean`, `denoise_nll_smoothed`: the same told from the mean shares of training cells,
          and from these mixed with the seen counts;
        - `denoise_nll_neighbours`: with the cell's stored neighbours shown, as thinned. They were found by its whole
          counts, which flatters it; no other expression score shows any;
        - `denoise_error`: mean squared error of log(1 + 10^4 share) of the whole cell, told from the seen molecules;
        - `masked_nll`, `masked_nll_gene_mean`: molecules of the hidden genes among each other;
        - `<label>_nll`: mean of -log P(class) over cells whose class is known; `<label>_accuracy`: mean over leaf
          classes of the share of their cells whose most likely leaf is right;
        - `knn_cell_type`: the same, of the vote of the 10 training cells with the nearest embeddings.

    Raises
    ------
    ModelInputError
        When the split, or training, has no cell of the model's organisms.
    """
    config = collate or CollateConfig(seed=seed)
    config = replace(config, neighbours=min(config.neighbours, model.config.expression.neighbours))
    config = replace(config, fewer_neighbours=config.fewer_neighbours and config.neighbours > 0)
    collator = Collator(model.vocabulary, cells, config)
    held = cells_of_split(model, cells, split, most, seed)
    train = cells_of_split(model, cells, "train", most, seed)
    network = model.network
    means = gene_means(cells, train, model.vocabulary).to(next(network.parameters()).device)
    before = network.training
    network.eval()
    try:
        with torch.no_grad():
            expression = [
                _expression(model, (batch, rows), means, (seed, number))
                for number, (batch, rows) in enumerate(_batches(model, collator, held, batch_size))
            ]
            embedding, codes, logits = _read(model, _batches(model, collator, held, batch_size))
            known, known_codes, _ = _read(model, _batches(model, collator, train, batch_size))
    finally:
        network.train(before)
    scores = {name: float(torch.cat([one[name] for one in expression]).nanmean()) for name in expression[0]}
    scores["denoise_nll_smoothed"] = min(scores.pop(f"smoothed/{part}") for part in MIXTURES)
    for label, found in logits.items():
        scores |= _label_scores(model.vocabulary, label, found, codes[label])
    if "cell_type" in codes:
        leaves = model.vocabulary.labels["cell_type"].n_leaves
        voted = _vote((known, known_codes["cell_type"]), (embedding, codes["cell_type"]), leaves)
        scores |= {} if voted is None else {"knn_cell_type": voted}
    return scores


def gene_means(cells: Cells, numbers: Numbers, vocabulary: Vocabulary) -> Tensor:
    """Return each gene's share of the molecules of those cells that measured it, one molecule added; float64 [tokens].

    Parameters
    ----------
    cells, numbers
        The cells, and which of them are looked at.
    vocabulary
        Whose tokens.
    """
    counts, depths = np.ones(vocabulary.n_genes), np.zeros(vocabulary.n_genes)
    genes, organisms = cells.genes(), cells.codes("organism", numbers)
    datasets, depth = cells.codes("dataset", numbers), cells.codes("depth", numbers).astype(np.float64)
    for code in np.unique(organisms):
        name = cells.about["organisms"][int(code)]["organism"]
        tokens = vocabulary.gene_tokens(name, genes["feature_id"][genes["organism"] == code].tolist())
        mine = np.flatnonzero(organisms == code)
        rows = cells.read(numbers[mine]).decode()
        found = tokens[rows.indices]
        np.add.at(counts, found[found >= 0], rows.counts[found >= 0])
        for dataset in np.unique(datasets[mine]):
            there = tokens[cells.measured(int(dataset), int(code))]
            depths[there[there >= 0]] += depth[mine][datasets[mine] == dataset].sum()
    return torch.from_numpy(counts / (depths + vocabulary.n_genes))


def molecule_nll(counts: Tensor, shares: Tensor, rows: Ragged) -> Tensor:
    """Return each cell's Poisson -log P(counts) over its molecules, nats, float64 [cells]; NaN for a cell of none.

    Parameters
    ----------
    counts
        Observed, [rows].
    shares
        Predicted, of any scale: they are made to add up to 1 in each cell, [rows].
    rows
        Borders of the cells.
    """
    total = rows.sum(counts.double())
    shares = shares.double().clamp(min=1e-12)
    mean = shares * rows.spread(total / rows.sum(shares))
    return rows.sum(mean - torch.xlogy(counts.double(), mean) + torch.lgamma(counts.double() + 1)) / total


def _batches(
    model: TrainedModel, collator: Collator, numbers: Numbers, size: int
) -> Iterator[tuple[CellBatch, Ragged]]:
    """Yield cells in order, with their borders, where the network is."""
    device = next(model.network.parameters()).device
    for start in range(0, len(numbers), size):
        some = numbers[start : start + size]
        batch = collator.collate(some, np.arange(start, start + len(some)))
        sizes = tuple(batch.offsets.diff().tolist())
        batch = batch.to(device)
        yield batch, Ragged(batch.offsets, sizes)


def _expression(
    model: TrainedModel, cells: tuple[CellBatch, Ragged], means: Tensor, draws: tuple[int, int]
) -> dict[str, Tensor]:
    """Return the expression scores of each cell, [cells]; NaN where a cell has no molecule to be scored on."""
    batch, rows = cells
    network, full, total = model.network, make_view(batch, rows), rows.sum(batch.counts)
    # The stored neighbours of a cell were found by its whole counts, so who they are tells of the unseen molecules.
    around, full = full, replace(full, neighbour_counts=None, neighbour_distances=None)
    # One generator each: thinning draws more where there are neighbours.
    thinning, masking = (seeded(*draws, task, device=batch.counts.device) for task in (0, 1))
    config, plain = model.config, means[batch.genes.long()]
    seen = thin(full, torch.full((len(rows),), LOST, device=batch.counts.device), thinning)
    unseen = batch.counts - seen.counts
    encoded = network.encode(seen)
    predicted = counts_of(config, network.express(encoded, rows, batch.depth, total))
    made = counts_of(config, network.generate(encoded.compressed.restored, batch.genes, rows, batch.depth, total))
    out = {
        "denoise_nll": molecule_nll(unseen, predicted, rows),
        "generate_nll": molecule_nll(unseen, made, rows),
        "denoise_error": share_error(batch.counts, predicted, rows).double(),
        "denoise_nll_gene_mean": molecule_nll(unseen, plain, rows),
    }
    if around.neighbour_counts is not None and around.neighbour_counts.shape[0]:
        drawing = seeded(*draws, 0, device=batch.counts.device)  # the same molecules of the cell as above
        near = network.encode(thin(around, torch.full((len(rows),), LOST, device=batch.counts.device), drawing))
        told = counts_of(config, network.express(near, rows, batch.depth, total))
        out["denoise_nll_neighbours"] = molecule_nll(unseen, told, rows)
    own, usual = (x / rows.spread(rows.sum(x).clamp(min=1e-300)) for x in (seen.counts.double(), plain))
    for part in MIXTURES:
        out[f"smoothed/{part}"] = molecule_nll(unseen, part * usual + (1 - part) * own, rows)

    shown = mask(full, HIDDEN, masking)
    predicted = counts_of(config, network.express(network.encode(shown), rows, batch.depth, total))
    hidden = batch.counts * shown.hidden
    for name, shares in (("masked_nll", predicted), ("masked_nll_gene_mean", plain)):
        out[name] = _hidden_nll(hidden, shares, shown.hidden, rows)
    return out


def _hidden_nll(counts: Tensor, shares: Tensor, hidden: Tensor, rows: Ragged) -> Tensor:
    """Return `molecule_nll` among the hidden genes alone."""
    sizes = tuple(int(one) for one in rows.sum(hidden.long()))
    offsets = torch.tensor([0, *sizes], device=counts.device).cumsum(0)
    return molecule_nll(counts[hidden], shares[hidden], Ragged(offsets, sizes))


def _read(
    model: TrainedModel, batches: Iterator[tuple[CellBatch, Ragged]]
) -> tuple[Tensor, Mapping[str, Tensor], Mapping[str, Tensor]]:
    """Return embeddings, classes by label, and leaf logits by label, on the CPU; cells as measured."""
    embeddings, labels, logits = [], [], []
    for batch, rows in batches:
        encoded = model.network.encode(make_view(batch, rows))
        embeddings.append(encoded.embedding.float().cpu())
        labels.append(batch.labels.cpu())
        logits.append({name: found.float().cpu() for name, found in model.network.classify(encoded).items()})
    codes = dict(zip(model.vocabulary.labels, torch.cat(labels).T, strict=True))
    return torch.cat(embeddings), codes, {name: torch.cat([one[name] for one in logits]) for name in logits[0]}


def _label_scores(vocabulary: Vocabulary, label: str, logits: Tensor, codes: Tensor) -> dict[str, float]:
    """Return the likelihood and the accuracy of one label; nothing where no cell has a class."""
    space, out = vocabulary.labels[label], {}
    if bool((codes >= 0).any()):
        out[f"{label}_nll"] = float(LabelLoss(space)(logits.double(), codes))
    sharp = (codes >= 0) & (codes < space.n_leaves)
    if bool(sharp.any()):
        out[f"{label}_accuracy"] = _balanced(codes[sharp].numpy(), logits[sharp].argmax(1).numpy())
    return out


def _balanced(truth: npt.NDArray, told: npt.NDArray) -> float:
    """Return the mean over classes that are there of the share of their cells that was told right."""
    return float(np.mean([(told[truth == one] == one).mean() for one in np.unique(truth)]))


def _vote(known: tuple[Tensor, Tensor], asked: tuple[Tensor, Tensor], leaves: int) -> float | None:
    """Return how well the nearest known embeddings tell the leaf class of others; None where there is none to tell."""
    from sklearn.neighbors import KNeighborsClassifier  # noqa: PLC0415 - takes a second to import

    (x, y), (x_asked, y_asked) = (
        (some[(codes >= 0) & (codes < leaves)].numpy(), codes[(codes >= 0) & (codes < leaves)].numpy())
        for some, codes in (known, asked)
    )
    if not len(y) or not len(y_asked):
        return None
    voters = KNeighborsClassifier(min(NEAREST, len(y))).fit(x, y)
    return _balanced(y_asked, voters.predict(x_asked))
