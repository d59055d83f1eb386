"""Cells in memory that a tiny network learns in seconds, with donors on both sides of a split, and runs over them."""

from __future__ import annotations

from functools import cache

import anndata as ad
import numpy as np
import pandas as pd
import torch

from loaders import AnnDataCells, CollateConfig, SamplerConfig, SamplingPlan, make_vocabulary
from model import Beginning, DataRecipe, ModelConfig, Network, Recipe, TrainedModel, make_token_table, preset
from model.ledger import Ledger
from ontology import load_gene_table

TYPES = ["T cell", "B cell", "monocyte"]
N_GENES = 150


def small_adata(organism: str = "human", seed: int = 0) -> ad.AnnData:
    """Return 144 cells of three types and six donors: four train, one validates, one tests."""
    rng = np.random.default_rng(seed)
    kinds, donors = rng.integers(0, 3, 144), np.arange(144) % 6
    profiles = np.random.default_rng(7).gamma(0.5, 3.0, (3, N_GENES))
    obs = pd.DataFrame(
        {
            "cell_type": np.array(TYPES)[kinds],
            "donor_id": [f"d{one}" for one in donors],
            "split": np.array(["train"] * 4 + ["validation", "test"])[donors],
        },
        index=[f"{organism}{i}" for i in range(144)],
    )
    var = pd.DataFrame(index=load_gene_table(organism).ids[:N_GENES])
    return ad.AnnData(rng.poisson(profiles[kinds]).astype(np.float32), obs, var)


@cache
def small_cells(organism: str = "human", seed: int = 0) -> AnnDataCells:
    """Return the cells of `small_adata`."""
    return open_adata(small_adata(organism, seed), organism)


def open_adata(adata: ad.AnnData, organism: str = "human") -> AnnDataCells:
    """Return cells with their donors and splits."""
    return AnnDataCells(adata, organism, {"donor": "donor_id", "split": "split"}, neighbours="computed")


def small_config() -> ModelConfig:
    """Return a network of some thousand weights besides its tables."""
    return preset("tiny").changed(
        trunk={"width": 16, "layers": 1, "heads": 2, "kv_heads": 1, "stochastic_depth": 0.2, "dropout": 0.1},
        cell={"width": 16, "layers": 1, "heads": 2},
        expression={"neighbours": 2, "linear": 8},
    )


def small_recipe(**changes: object) -> Recipe:
    """Return a recipe of twelve steps over 64 genes."""
    collate = CollateConfig(length=64, shortest=20, shorter_probability=0.5, neighbours=2, fewer_neighbours=True)
    data = DataRecipe(SamplingPlan(labels=("cell_type",), config=SamplerConfig(draws=40)), collate)
    plain = {
        "steps": 12,
        "batch_size": 8,
        "warm_up": 2,
        "learning_rate": 5e-3,
        "validate_every": 4,
        "validation_cells": 16,
        "data": data,
    }
    return Recipe(**{**plain, **changes})


@cache
def small_start() -> Beginning:
    """Return an untrained network to begin with, made once: gene tokens take longer than the steps of a small run."""
    vocabulary = make_vocabulary(small_cells())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = Network(small_config(), vocabulary, make_token_table(vocabulary))
    empty = Ledger(np.zeros(0, np.uint64), np.zeros(0, np.uint64), np.zeros(0, np.uint8))
    return Beginning(model=TrainedModel(network, vocabulary, empty, {}))
