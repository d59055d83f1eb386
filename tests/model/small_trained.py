"""A network that has learnt the expression of `small_cells`, for tests of what a trained model is good for."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch

from loaders import CollateConfig, Collator
from model import Network, Objective, Ragged, TrainedModel, seeded
from tests.model.small_runs import small_cells, small_config, small_start

STEPS, BATCH, RATE = 80, 32, 1e-2


@cache
def small_trained() -> TrainedModel:
    """Return the model, trained once a session in a few seconds: thinned cells and generation, no labels."""
    start, cells = small_start().model, small_cells()
    config = small_config().changed(
        trunk={"stochastic_depth": 0.0, "dropout": 0.0},
        losses={"expression": "nb", "labels": 0.0, "contrastive": 0.0, "elastic": 0.0, "kl": 0.0},
        tasks={"noise": (0.8,), "masks": ()},
    )
    collator = Collator(start.vocabulary, cells, CollateConfig(length=120, neighbours=0))
    train = np.flatnonzero(cells.column("split") == 0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = Network(config, start.vocabulary, start.table)
        objective = Objective(config, network, start.vocabulary)
        optimizer = torch.optim.Adam(network.parameters(), lr=RATE)
        for step in range(STEPS):
            some = np.random.default_rng(step).permutation(train)[:BATCH]
            batch = collator.collate(some, np.arange(BATCH), epoch=step)
            rows = Ragged(batch.offsets, tuple(batch.lengths.tolist()))
            loss = objective(network, batch, rows, seeded(0, step), step)["loss"]
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return TrainedModel(network.eval(), start.vocabulary, start.ledger, {})
