"""Simulated regulons, and small models of each kind of attention, for tests of gene networks."""

from __future__ import annotations

from functools import cache

import anndata as ad
import numpy as np
import pandas as pd
import torch

from loaders import AnnDataCells
from model import InferenceOptions, Network, TrainedModel
from model.grn_query import ReadoutOptions
from ontology import load_gene_table
from tests.model.small_runs import small_cells, small_config, small_start

IDS = tuple(load_gene_table("human").ids[:40].tolist())
"""Genes of the simulation: four regulators, six targets of each, and the rest on their own."""
FACTORS = IDS[:4]
ON_CPU = ReadoutOptions(inference=InferenceOptions(batch_size=32, device="cpu"), trees=60)


def regulon_of(factor: int) -> tuple[str, ...]:
    """Return the planted targets; the last of each is repressed."""
    return IDS[4 + 6 * factor : 10 + 6 * factor]


@cache
def regulon_cells() -> AnnDataCells:
    """Return 400 cells in which four regulators drive six genes each, five up and one down."""
    rng = np.random.default_rng(3)
    activity = rng.normal(size=(400, 4))
    logs = rng.normal(0, 0.2, (400, len(IDS)))
    logs[:, :4] += activity
    for factor in range(4):
        for place in range(6):
            logs[:, 4 + 6 * factor + place] += (-0.9 if place == 5 else 0.9) * activity[:, factor]
    counts = rng.poisson(np.exp(logs + 2.0)).astype(np.float32)
    return AnnDataCells(ad.AnnData(counts, pd.DataFrame(index=[f"c{i}" for i in range(400)]), _var()), "human")


def _var() -> pd.DataFrame:
    return pd.DataFrame(index=list(IDS))


@cache
def model_with(attention: str, layers: int = 2) -> TrainedModel:
    """Return an untrained model of `small_cells` whose genes read each other so; weights are large, maps not flat."""
    start = small_start().model
    config = small_config().changed(
        trunk={"attention": attention, "layers": layers, "latents": 6, "stochastic_depth": 0.0, "dropout": 0.0,
               "kv_heads": 1 if attention == "exact" else 2},
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        network = Network(config, start.vocabulary, start.table).eval()
        with torch.no_grad():
            for name, weight in network.named_parameters():
                if "read_genes" in name and name.endswith("weight") and weight.ndim == 2:
                    weight.mul_(4)
            if config.expression.linear:  # such a head begins with next to nothing to add, and nothing to measure
                network.head.layers[-1].weight.mul_(100)
    return TrainedModel(network, start.vocabulary, start.ledger, {})


def genes_of_small(count: int, first: int = 0) -> tuple[str, ...]:
    """Return genes that `small_cells` measured."""
    return tuple(small_cells().genes()["feature_id"][first : first + count])
