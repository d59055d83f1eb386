"""A batch is the same whether its cells come from a pack, straight from the store, or from an AnnData in memory."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from atlas import IngestOptions, ingest
from catalog import make_release
from loaders import make_pack, open_cells
from loaders.anndata_cells import AnnDataCells
from loaders.cell_vocabulary import make_vocabulary
from loaders.collate import CollateConfig, Collator
from tests.factories import make_adata, write_source

if TYPE_CHECKING:
    import anndata as ad

    from loaders.pack import Pack

SOURCES = (("one", "human", 70, 300, 1), ("two", "human", 60, 250, 2), ("mice", "mouse", 50, 200, 3))
CONFIGS = (
    CollateConfig(length=180, fewer_neighbours=True),
    CollateConfig(context="most_expressed", length=40, shorter_probability=1.0, shortest=20),
    CollateConfig(length=230, zeros="neighbours"),
)


@pytest.fixture(scope="module")
def adatas() -> dict[str, ad.AnnData]:
    return {
        name: make_adata(cells, genes, organism=organism, seed=seed) for name, organism, cells, genes, seed in SOURCES
    }


@pytest.fixture(scope="module")
def atlas(tmp_path_factory: pytest.TempPathFactory, adatas: dict[str, ad.AnnData]) -> str:
    """Return an atlas of the three sources, released as r1."""
    folder = tmp_path_factory.mktemp("sources")
    for name, organism, *_ in SOURCES:
        source = write_source(folder / f"{name}.h5ad", adatas[name], id=name, organism=organism)
        ingest(source, str(folder / "atlas"), IngestOptions(doublets=False))
    make_release(str(folder / "atlas"), "r1")
    return str(folder / "atlas")


@pytest.fixture(scope="module")
def pack(atlas: str, tmp_path_factory: pytest.TempPathFactory) -> Pack:
    return make_pack(atlas, "r1", tmp_path_factory.mktemp("packs") / "r1")


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: f"{config.context} {config.zeros}")
def test_a_store_gives_the_batches_of_its_pack(atlas: str, pack: Pack, config: CollateConfig) -> None:
    store, words = open_cells(atlas, "r1"), make_vocabulary(pack)
    wanted = np.random.default_rng(0).integers(0, len(pack), 300)
    batches = [Collator(words, cells, config).collate(wanted, np.arange(300), 1, 2) for cells in (pack, store)]
    for part in fields(batches[0]):
        assert torch.equal(getattr(batches[0], part.name), getattr(batches[1], part.name)), part.name
    batches[0].check(words)
    assert torch.isfinite(batches[0].neighbour_distances).any(), "or the neighbours were not compared"
    assert set(batches[0].organism.tolist()) == {0, 1}


def test_an_anndata_gives_the_contexts_of_its_cells_in_the_pack(pack: Pack, adatas: dict[str, ad.AnnData]) -> None:
    words, config = make_vocabulary(pack), CollateConfig(length=150, neighbours=0)
    for name, organism, *_ in SOURCES:
        adata = adatas[name].copy()
        adata.obs["study"] = name
        mine = AnnDataCells(adata, organism, {"dataset": "study"})
        place = {cell: number for number, cell in enumerate(mine.column("cell_id_high").tolist())}
        there = np.array([cell for cell, i in enumerate(pack.column("cell_id_high").tolist()) if i in place])
        here = np.array([place[i] for i in pack.column("cell_id_high")[there].tolist()])
        assert len(there) > 20
        one = Collator(words, pack, config).collate(there, np.arange(len(there)))
        other = Collator(words, mine, config).collate(here, np.arange(len(there)))
        for part in ("genes", "counts", "offsets", "depth", "n_expressed", "labels", "organism"):
            assert torch.equal(getattr(one, part), getattr(other, part)), part
        assert (one.counts == 0).any(), "or no zeros were compared"
