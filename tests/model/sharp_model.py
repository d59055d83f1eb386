"""A network of random weights whose codes hold cells apart and whose decoder heeds them, for tests of swapped codes."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from model import InferenceOptions, TrainedModel, read_cells

if TYPE_CHECKING:
    from loaders import Cells


def sharpened(model: TrainedModel, cells: Cells) -> TrainedModel:
    """Return a model whose codes have mean 0 and deviation 1 over cells, read with all their genes."""
    network = deepcopy(model.network).eval()
    options = InferenceOptions(length=10_000, batch_size=len(cells), device="cpu")
    (read,) = read_cells(replace(model, network=network), cells, None, options)
    tokens = read.encoded.cells
    with torch.no_grad():
        for place, squeeze in enumerate(network.compressor.into):
            into, last = (squeeze.squeeze, squeeze.mean) if hasattr(squeeze, "mean") else squeeze.squeeze
            codes = last(into(tokens[:, place]))
            last.bias.copy_((last.bias - codes.mean(0)) / codes.std(0))
            last.weight /= codes.std(0)[:, None]
        for block in network.trunk.blocks:
            block.read_cells.out.weight *= 20
        network.head.layers[-1].weight *= 5
    return replace(model, network=network)
