"""One step's losses: the views of a batch, the passes through the network, and every term by name.

The full pass carries independence, divergence and, decoded from its cell tokens alone, generation; each denoising and
masking pass carries expression and is a second view for the contrastive term; all passes carry labels. Losses are means
over cells of means over genes, so that long contexts weigh like short ones; generation, which is of all measured genes
whatever the context, is a mean over cells of sums over the expressed genes' number. `LossConfig` holds the weights; a
fine-tuning (tuning.py) takes some of the terms, and may add the discrepancy between batches.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from .adversary import Adversary
from .config import LossConfig
from .embedding_losses import contrastive, elastic_similarity, independence
from .label_loss import LabelLoss
from .likelihoods import mean_among, mean_per_cell, nb_log_likelihood, share_error, zinb_log_likelihood
from .mmd import mmd_between
from .tuning import Tuning
from .views import View, mask, only_neighbours, random_shares, thin

if TYPE_CHECKING:
    from loaders import CellBatch, Vocabulary

    from .config import ModelConfig
    from .heads import ExpressionValues
    from .network import Encoded, Network
    from .ragged import Ragged

OPPONENTS = ("assay", "organism")
"""Labels that the cell-type token must not tell, where the adversarial term is on."""


class Objective(nn.Module):
    """Losses of a network; has parameters of its own where the adversary is on.

    Parameters
    ----------
    config
        Tasks and weights.
    network
        Whose losses.
    vocabulary
        Classes and their hierarchy.
    regulators
        Bool per token: transcription factors, for `tf` masks.
    trust
        Weight of a dataset's labels, by its code and the label's column, [datasets, labels]; None trusts all alike.
    tuning
        Which terms are taken; None for all of the configuration's.
    batches
        Code of the batch of each cell by its number, int64 [cells]; what `tuning.mmd` looks at.
    """

    regulators: Tensor | None
    trust: Tensor | None
    batches: Tensor | None

    def __init__(
        self,
        config: ModelConfig,
        network: Network,
        vocabulary: Vocabulary,
        regulators: Tensor | None = None,
        trust: Tensor | None = None,
        tuning: Tuning | None = None,
        batches: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.config, self.tuning = config, tuning or Tuning()
        self.columns = {name: column for column, name in enumerate(vocabulary.labels)}
        # Whoever names labels wants them learnt, also of a base that was trained without any.
        self.label_weight = config.losses.labels or (LossConfig().labels if self.tuning.labels else 0.0)
        taken = [name for name in network.labels.read if not self.tuning.labels or name in self.tuning.labels]
        self.of_label = nn.ModuleDict({name: LabelLoss(vocabulary.labels[name]) for name in taken})
        self.opponents = nn.ModuleDict()
        if config.losses.adversarial and "cell_type" in network.reader.names:
            size = network.compressor.sizes[network.reader.names.index("cell_type")]
            for name in OPPONENTS:
                if (classes := len(vocabulary.labels.get(name, ()))) > 1:
                    self.opponents[name] = Adversary(size, classes)
        self.register_buffer("regulators", regulators, persistent=False)
        self.register_buffer("trust", trust, persistent=False)
        self.register_buffer("batches", batches, persistent=False)

    def forward(
        self, network: Network, batch: CellBatch, rows: Ragged, generator: torch.Generator, step: int
    ) -> dict[str, Tensor]:
        """Return every term times its weight, and `loss`, their sum.

        Parameters
        ----------
        network
            The network, or what a strategy wrapped it in.
        batch, rows
            Cells, and their borders.
        generator
            Of thinning and masking.
        step
            Steps taken so far, for the warm-up of the divergence.
        """
        weights, tasks = self.config.losses, self.config.tasks
        full = make_view(batch, rows)
        encoded = network.encode(full, sample=self.training)
        terms: dict[str, Tensor] = {}
        views, taught = [encoded.embedding], [dict(self._labels(network, encoded, batch))]
        total = rows.sum(batch.counts)
        # What is read off the genes of a frozen trunk teaches nothing.
        noise, masks = ((), ()) if self.tuning.parts == "cells" else (tasks.noise, tasks.masks)
        for kind, view in self._passes(full, noise, masks, generator):
            seen = network.encode(view, sample=self.training)
            values = network.express(seen, rows, batch.depth, total)
            terms[kind] = weights.denoise * self.expression(values, batch.counts, rows, only=view.hidden)
            views.append(seen.embedding)
            taught.append(dict(self._labels(network, seen, batch)))
        for name in taught[0]:  # a cell of fewer molecules is of the same type
            terms[f"labels/{name}"] = self.label_weight * torch.stack([one[name] for one in taught]).mean()
        if tasks.generate and weights.generate:
            terms["generate"] = weights.generate * self._generation(network, encoded, batch, rows)
        terms |= self._of_embedding(encoded, views, step)
        if self.tuning.mmd and self.batches is not None:
            terms["mmd"] = self.tuning.mmd * self._between(network, encoded, batch, self.batches[batch.cell])
        if self.training:
            code = encoded.compressed.codes[network.reader.names.index("cell_type")] if self.opponents else None
            for name, opponent in self.opponents.items():
                terms[f"adversary/{name}"] = weights.adversarial * opponent(code, batch.labels[:, self.columns[name]])
        return terms | {"loss": torch.stack([value.double() for value in terms.values()]).sum()}

    def _passes(self, full: View, noise: tuple, masks: tuple, generator: torch.Generator) -> list[tuple[str, View]]:
        """Return the corrupted views by name."""
        out = []
        for share in noise:
            if share == 1:
                out.append(("neighbours", only_neighbours(full)))
            else:
                lost = random_shares(share, len(full.rows), generator, random=self.config.tasks.random_noise)
                out.append((f"denoise/{share:g}", thin(full, lost, generator)))
        for kind in masks:
            spared = self.regulators if kind == "tf" else None
            out.append((f"mask/{kind}", mask(full, self.config.tasks.masked, generator, spared)))
        return out

    def expression(self, values: ExpressionValues, counts: Tensor, rows: Ragged, only: Tensor | None = None) -> Tensor:
        """Return the loss of predicted expression, a scalar.

        Parameters
        ----------
        values
            Predicted.
        counts
            Observed, [rows].
        rows
            Borders of the cells.
        only
            Bool [rows]: genes the loss is taken over, the hidden ones; None for all.
        """
        kind, out = self.config.losses.expression, 0.0
        if kind != "mse":
            found = self._likelihood(values, counts)
            out = -(mean_per_cell(found, rows) if only is None else mean_among(found, rows, only)).mean()
        if kind in ("mse", "zinb+mse"):
            predicted = values.mean if kind == "mse" else values.expected
            weight = 1.0 if kind == "mse" else self.config.losses.mse
            out = out + weight * share_error(counts, predicted, rows, only).mean()
        return out

    def _generation(self, network: Network, encoded: Encoded, batch: CellBatch, rows: Ragged) -> Tensor:
        """Return the loss of what is decoded from cell tokens, as if of all genes that the cells' datasets measured.

        A context has more of the expressed genes than of others, which would teach that rare genes are common. It is
        the likelihood alone, without the squared error of `zinb+mse`, which is of shares among the genes of a context.
        """
        cells, kind = encoded.compressed.restored, self.config.losses.expression
        if kind == "mse":
            values = network.generate(cells, batch.genes, rows, batch.depth, rows.sum(batch.counts))
            return self.expression(values, batch.counts, rows)
        each = genes_stood_for(batch, rows)
        values = network.generate(cells, batch.genes, rows, batch.depth, rows.sum(each * batch.counts), each)
        found = self._likelihood(values, batch.counts) * each
        return -(rows.sum(found) / rows.sum(each * batch.expressed).clamp(min=1)).mean()

    def _likelihood(self, values: ExpressionValues, counts: Tensor) -> Tensor:
        if self.config.losses.expression == "nb":
            return nb_log_likelihood(counts, values.mean, values.theta)
        return zinb_log_likelihood(counts, values.mean, values.theta, values.zero_logit)

    def _labels(self, network: Network, encoded: Encoded, batch: CellBatch) -> list[tuple[str, Tensor]]:
        if not self.label_weight:
            return []
        found = network.classify(encoded)
        trust = None if self.trust is None else self.trust[batch.dataset]
        return [
            (n, loss(found[n], batch.labels[:, column], None if trust is None else trust[:, column]))
            for n, loss in self.of_label.items()
            for column in (self.columns[n],)
        ]

    def _between(self, network: Network, encoded: Encoded, batch: CellBatch, batches: Tensor) -> Tensor:
        """Return how far apart batches lie: of the token of `within`, its classes each with itself."""
        within, codes = self.tuning.within, encoded.embedding
        if within in network.reader.names:
            codes = encoded.compressed.codes[network.reader.names.index(within)]
        known = within in self.columns
        kinds = batch.labels[:, self.columns[within]] if known else torch.full_like(batches, -1)
        return mmd_between(codes, batches, kinds)

    def _of_embedding(self, encoded: Encoded, views: list[Tensor], step: int) -> dict[str, Tensor]:
        """Return the terms about the shape of the embedding."""
        weights, out = self.config.losses, {}
        if weights.independence:
            out["independence"] = weights.independence * independence(encoded.cells)
        if weights.contrastive and len(views) > 1:
            pairs = [contrastive(a, b) for i, a in enumerate(views) for b in views[i + 1 :]]
            out["contrastive"] = weights.contrastive * torch.stack(pairs).mean()
        if weights.elastic:
            out["elastic"] = weights.elastic * elastic_similarity(views[0])
        if weights.kl and self.config.cell.compression == "vae":
            ramp = min(1.0, (step + 1) / max(weights.kl_warm_up, 1))
            out["kl"] = ramp * weights.kl * encoded.compressed.kl.mean()
        return out


def genes_stood_for(batch: CellBatch, rows: Ragged) -> Tensor:
    """Return how many of the genes that its dataset measured each gene of a context stands for, float32 [rows].

    Expressed genes stand for the cell's expressed ones, the others for the others, so that sums over a context times
    these are estimates of sums over all genes (Horvitz and Thompson 1952, post-stratified).
    """
    expressed = batch.expressed
    shown = rows.sum(expressed.int())
    others = rows.offsets.diff() - shown
    there = batch.n_expressed.maximum(shown).minimum(batch.n_measured - others)
    of_expressed, of_others = there / shown.clamp(min=1), (batch.n_measured - there) / others.clamp(min=1)
    return torch.where(expressed, rows.spread(of_expressed), rows.spread(of_others))


def make_view(batch: CellBatch, rows: Ragged) -> View:
    """Return a batch as measured."""
    shown = len(batch.neighbour_counts) > 0  # no slots, no neighbours: their attention has nothing to be over
    near, far = (batch.neighbour_counts, batch.neighbour_distances) if shown else (None, None)
    return View(batch.genes, batch.counts, rows, batch.depth, None, near, far)
