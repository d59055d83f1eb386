"""Cells of types above and below each other, of many donors, and a model whose label heads learned them."""

from __future__ import annotations

from functools import cache

import anndata as ad
import numpy as np
import pandas as pd
import torch

from loaders import AnnDataCells, make_vocabulary
from model import Network, TrainedModel, make_token_table
from model.embedding import embed
from model.inference import InferenceOptions
from model.label_loss import LabelLoss
from model.ledger import Ledger
from ontology import load_gene_table
from tests.model.small_runs import small_config

LYMPHOCYTE, T, CD4, CD8, B, MONOCYTE = (
    "CL:0000542", "CL:0000084", "CL:0000624", "CL:0000625", "CL:0000236", "CL:0000576",
)  # fmt: skip
OPTIONS = InferenceOptions(length=80, batch_size=60, device="cpu")
N_DONORS = 36


@cache
def annotated_cells() -> AnnDataCells:
    """Return 432 cells of four leaf types, a fifth labelled coarsely, and two sexes; a third of the donors each split.

    Profiles of CD4 and CD8 T cells are alike, so that they are hard to tell apart.
    """
    rng, n = np.random.default_rng(5), 12 * N_DONORS
    leaves = rng.integers(0, 4, n)
    profiles = np.random.default_rng(6).gamma(0.3, 5.0, (4, 90))
    profiles[1] = 0.6 * profiles[0] + 0.4 * profiles[1]
    counts = rng.poisson(profiles[leaves] * rng.gamma(4.0, 0.1, (n, 1)))
    types = np.array([CD4, CD8, B, MONOCYTE], dtype=object)[leaves]
    coarse, far = rng.random(n) < 0.2, rng.random(n) < 0.5
    types[coarse & (leaves < 2)] = T
    types[coarse & (leaves < 3) & far] = LYMPHOCYTE
    donors = rng.permutation(np.arange(n) % N_DONORS)
    obs = pd.DataFrame(
        {
            "cell_type": types,
            "sex": np.where(donors % 2, "female", "male"),
            # Beside its kinds, in one study, a coarse type would be a leaf.
            "dataset_id": np.where(np.isin(types, [T, LYMPHOCYTE]), "coarse " + types, "fine"),
            "donor_id": [f"d{one:02d}" for one in donors],
            "split": np.array(["train", "validation", "test"])[donors // (N_DONORS // 3)],
        },
        index=[f"c{i}" for i in range(n)],
    )
    adata = ad.AnnData(counts.astype(np.float32), obs, pd.DataFrame(index=load_gene_table("human").ids[:90]))
    return AnnDataCells(adata, "human", {"donor": "donor_id", "split": "split"})


@cache
def annotating_model() -> TrainedModel:
    """Return a model of random weights but for its label heads, which learned the training cells by heart."""
    cells = annotated_cells()
    vocabulary = make_vocabulary(cells)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        network = Network(small_config(), vocabulary, make_token_table(vocabulary)).eval()
    empty = Ledger(np.zeros(0, np.uint64), np.zeros(0, np.uint64), np.zeros(0, np.uint8))
    model = TrainedModel(network, vocabulary, empty, {})
    train = np.flatnonzero(cells.column("split") == 0)
    codes = embed(model, cells, train, options=OPTIONS)
    for label, head in network.labels.read.items():
        names = cells.about["vocabulary"][label]
        truth = vocabulary.encode(label, [names[one] for one in cells.codes(label, train)])
        loss, x = LabelLoss(vocabulary.labels[label]), torch.from_numpy(codes.part(label).copy())
        with torch.no_grad():
            head[0].weight /= x.std(0) + 1e-6  # codes of random tokens are close to each other
            head[0].bias -= head[0].weight @ x.mean(0)
        optimizer = torch.optim.Adam(head.parameters(), lr=0.02)
        for _ in range(150):
            optimizer.zero_grad()
            loss(head(x), torch.from_numpy(truth.astype(np.int64))).backward()
            optimizer.step()
    return model
