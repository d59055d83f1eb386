"""The loaders we are compared with, each at the best settings found for these cells.

Every function opens its loader and returns an iterator of (batch, cell numbers, whether a buffer began). A batch holds
counts in the cheapest form the loader hands out, and the cell types of its cells; both are carried by all. `draw` is
"shuffled" (each cell once an epoch) or "weighted" (with replacement, at `cells.npz`'s weights); what a peer cannot do
is a row that says so in loaders.py. Run in environments without our floors: loader_environments.py.
"""

from __future__ import annotations

import itertools
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    Batches = Iterator[tuple[Any, np.ndarray, bool]]

BATCH = 128
SEED = 11


def facts(folder: Path) -> dict[str, np.ndarray]:
    """Return what is known of the cells, by cell number."""
    return dict(np.load(folder / "cells.npz"))


def tiledbsoma_ml(folder: Path, *, draw: str, workers: int, io: int, chunk: int) -> Batches:
    """Open the official loader; with workers it hands out dense arrays only (its own words: NotImplementedError)."""
    import tiledbsoma as soma
    from tiledbsoma_ml import ExperimentDataset, experiment_dataloader

    assert draw == "shuffled"
    joinids = facts(folder)["joinid"]
    experiment = soma.Experiment.open(str(folder / "atlas" / "census_data" / "homo_sapiens"))
    passing = soma.AxisQuery(value_filter="qc_pass == True and is_primary_data == True")
    with experiment.axis_query("RNA", obs_query=passing) as query:
        dataset = ExperimentDataset(
            query, layer_name="raw", obs_column_names=["soma_joinid", "cell_type"], batch_size=BATCH, seed=SEED,
            io_batch_size=io, shuffle_chunk_size=chunk, return_sparse_X=not workers,
        )  # fmt: skip
    loader = experiment_dataloader(dataset, num_workers=workers)

    def batches() -> Batches:
        for epoch in itertools.count():
            dataset.set_epoch(epoch)
            for i, (counts, obs) in enumerate(loader):
                numbers = np.searchsorted(joinids, obs["soma_joinid"].to_numpy())
                yield (counts, obs["cell_type"]), numbers, i == 0

    return batches()


def annbatch(folder: Path, *, draw: str, workers: int, chunk: int, preload: int, how: str = "") -> Batches:
    """Open annbatch over its own preshuffled copy, or, for its class sampler, over a copy sorted by class.

    Weighted draws of single cells go through its interface for samplers; its own weighted sampler reads runs of one
    class.
    """
    import zarr
    from annbatch import DatasetCollection, Loader

    assert not workers  # its environment has no torch
    zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline", "threading.max_workers": 1})
    known = facts(folder)
    collection = DatasetCollection(folder / ("by_class.zarr" if how == "classes" else "shuffled.zarr"), mode="r")
    if draw == "shuffled":
        rng = np.random.default_rng(SEED)
        settings = {"chunk_size": chunk, "preload_nchunks": preload, "batch_size": BATCH, "shuffle": True, "rng": rng}
    elif how == "classes":
        settings = {"batch_sampler": class_sampler(collection, known, chunk, preload)}
    else:
        order = collection.obs(columns=["cell"])["cell"].to_numpy()
        settings = {"batch_sampler": cell_sampler(known["weight"][order], preload)}
    loader = Loader(preload_to_gpu=False, **settings).use_collection(collection)

    def batches() -> Batches:
        while True:
            for i, batch in enumerate(loader):
                obs = batch["obs"]
                yield (batch["X"], obs["cell_type"]), obs["cell"].to_numpy(), i == 0

    return batches()


def class_sampler(collection: Any, known: dict[str, np.ndarray], chunk: int, preload: int) -> Any:
    """Return annbatch's weighted sampler: chunks of one class each, mixed in a window; runs must be a chunk long."""
    import pandas as pd
    from annbatch.samplers import WeightedClassSampler

    groups = collection.obs(columns=["group"])["group"].to_numpy()
    while chunk > 1 and np.bincount(groups)[np.unique(groups)].min() < chunk:
        chunk, preload = chunk // 2, preload * 2
    classes = pd.Categorical(groups, categories=np.arange(len(known["shares"])))
    return WeightedClassSampler(
        chunk_size=chunk, preload_nchunks=preload, batch_size=BATCH, classes=classes, num_samples=len(groups),
        class_weights=known["shares"], rng=np.random.default_rng(SEED),
    )  # fmt: skip


def cell_sampler(weights: np.ndarray, window: int) -> Any:
    """Return a sampler of single cells at these weights: a window of draws is fetched in the order of the file."""
    from annbatch.abc import Sampler

    cumulated = np.cumsum(weights) / weights.sum()

    class CellSampler(Sampler):
        batch_size, shuffle = BATCH, True

        def n_batches(self, n_obs: int) -> int:
            return n_obs // BATCH

        def validate(self, n_obs: int) -> None:
            assert n_obs == len(cumulated)

        def _sample(self, n_obs: int) -> Iterator[Any]:
            rng = np.random.default_rng(SEED)
            for _ in range(0, n_obs, window):
                draws = np.minimum(np.searchsorted(cumulated, rng.random(window), side="right"), n_obs - 1)
                rows, places = np.unique(draws, return_inverse=True)
                yield {"requests": rows, "splits": np.split(places, range(BATCH, window, BATCH))}

    return CellSampler()


def scdataset(folder: Path, *, draw: str, workers: int, block: int, fetch: int) -> Batches:
    """Open scDataset over an uncompressed h5ad, sparse rows kept sparse."""
    import anndata as ad
    from scdataset import BlockShuffling, BlockWeightedSampling, scDataset
    from torch.utils.data import DataLoader

    adata = ad.read_h5ad(folder / "x.h5ad", backed="r")
    if draw == "weighted":
        strategy = BlockWeightedSampling(block, weights=facts(folder)["weight"], total_size=adata.n_obs)
    else:
        strategy = BlockShuffling(block)
    # Whole batches only: what is left over would be a short batch in every worker.
    dataset = scDataset(
        adata, strategy, BATCH, fetch_factor=fetch, fetch_transform=fetched_arrays, batch_callback=batch_of, seed=SEED,
        drop_last=True,
    )  # fmt: skip
    loader = DataLoader(dataset, batch_size=None, num_workers=workers)

    def batches() -> Batches:
        while True:
            for i, batch in enumerate(loader):
                yield (batch["X"], batch["cell_type"]), batch["cell"], i % fetch == 0

    return batches()


def fetched_arrays(fetched: Any) -> dict[str, Any]:
    """Return what scDataset fetched, in memory and cheap to take batches from; its own transform makes it dense."""
    cells = fetched.to_memory()
    codes = cells.obs["cell_type"].cat.codes.to_numpy()
    return {"X": cells.X, "cell": cells.obs["cell"].to_numpy(), "cell_type": codes}


def batch_of(fetched: dict[str, Any], rows: np.ndarray) -> dict[str, Any]:
    """Return some of the fetched cells."""
    return {name: values[rows] for name, values in fetched.items()}


def torch_order(folder: Path, draw: str) -> Any:
    """Return torch's own sampler over cell numbers: what map-style loaders are given."""
    import torch
    from torch.utils.data import RandomSampler, WeightedRandomSampler

    torch.manual_seed(SEED)
    known = facts(folder)
    if draw == "weighted":
        return WeightedRandomSampler(torch.from_numpy(known["weight"]), len(known["weight"]))
    return RandomSampler(known["weight"])


def annloader(folder: Path, *, draw: str, workers: int, backed: bool) -> Batches:
    """Open anndata's own loader, sparse: its converter to dense tensors is left out, its rows are asked for."""
    import anndata as ad
    from anndata.experimental import AnnLoader

    warnings.simplefilter("ignore", FutureWarning)  # deprecated for annbatch, which needs Python 3.12
    assert not workers
    adata = ad.read_h5ad(folder / "x.h5ad", backed="r" if backed else None)
    loader = AnnLoader(adata, batch_size=BATCH, use_default_converter=False, sampler=torch_order(folder, draw))

    def batches() -> Batches:
        while True:
            for batch in loader:
                yield (batch.X, batch.obs["cell_type"]), np.asarray(batch.obs["cell"]), True

    return batches()


def mapped_rows(folder: Path, *, draw: str, workers: int) -> Batches:
    """Read as scDataLoader does (lamindb's MappedCollection): one row at a time from h5ad, made dense, then stacked."""
    from torch.utils.data import DataLoader

    dataset = MappedRows(str(folder / "x.h5ad"), len(facts(folder)["cell"]))
    loader = DataLoader(dataset, batch_size=BATCH, sampler=torch_order(folder, draw), num_workers=workers)

    def batches() -> Batches:
        while True:
            for batch in loader:
                yield (batch["X"], batch["cell_type"]), batch["cell"].numpy(), True

    return batches()


class MappedRows:
    """Rows of an h5ad by number, each read when it is asked for; the file is opened in the process that reads."""

    def __init__(self, path: str, size: int) -> None:
        self.path, self.size, self.file = path, size, None

    def __len__(self) -> int:
        """Return the number of rows."""
        return self.size

    def __getitem__(self, row: int) -> dict[str, Any]:
        """Return one row: dense counts and its labels."""
        import h5py

        if self.file is None:
            self.file = h5py.File(self.path, "r")
        matrix, obs = self.file["X"], self.file["obs"]
        start, stop = matrix["indptr"][row : row + 2]
        counts = np.zeros(matrix.attrs["shape"][1], dtype=np.float32)
        counts[matrix["indices"][start:stop]] = matrix["data"][start:stop]
        return {"X": counts, "cell_type": int(obs["cell_type"]["codes"][row]), "cell": int(obs["cell"][row])}


def scdl(folder: Path, *, draw: str, workers: int) -> Batches:
    """Open BioNeMo's single-cell memory map, with its own collation into a sparse tensor."""
    from bionemo.scdl.io.single_cell_memmap_dataset import SingleCellMemMapDataset
    from bionemo.scdl.util.torch_dataloader_utils import collate_sparse_matrix_batch
    from torch.utils.data import BatchSampler, DataLoader

    warnings.simplefilter("ignore", UserWarning)  # torch: sparse CSR tensors are in beta
    known = facts(folder)
    asked: list[list[int]] = []  # batches come back in the order they were asked for, which says whose cells they are

    class Noted(BatchSampler):
        def __iter__(self) -> Iterator[list[int]]:
            for rows in super().__iter__():
                asked.append(rows)
                yield rows

    order = Noted(torch_order(folder, draw), BATCH, drop_last=False)
    dataset = SingleCellMemMapDataset(str(folder / "scdl"))
    loader = DataLoader(dataset, batch_sampler=order, collate_fn=collate_sparse_matrix_batch, num_workers=workers)

    def batches() -> Batches:
        while True:
            for batch in loader:
                cells = np.array(asked.pop(0))
                yield (batch, known["cell_type"][cells]), cells, True

    return batches()


def in_memory(folder: Path, *, draw: str, workers: int) -> Batches:
    """Take rows of a scipy matrix in memory: no disk, no decoding, the ceiling."""
    import anndata as ad

    assert not workers
    counts = ad.read_h5ad(folder / "x.h5ad").X.tocsr()
    known, rng = facts(folder), np.random.default_rng(SEED)
    cumulated = np.cumsum(known["weight"]) / known["weight"].sum()

    def batches() -> Batches:
        while True:
            cells = rng.permutation(len(cumulated))
            if draw == "weighted":
                cells = np.minimum(np.searchsorted(cumulated, rng.random(len(cells))), len(cells) - 1)
            for first in range(0, len(cells), BATCH):
                batch = cells[first : first + BATCH]
                yield (counts[batch], known["cell_type"][batch]), batch, True

    return batches()


def write_annbatch(folder: Path) -> None:
    """Write annbatch's copies of the cells: preshuffled, as it wants them, and sorted by class for one sampler."""
    from annbatch import DatasetCollection

    for name, groupby in (("shuffled.zarr", None), ("by_class.zarr", "group")):
        DatasetCollection(folder / name).add_adatas(
            [folder / "x.h5ad"], groupby=groupby, rng=np.random.default_rng(SEED)
        )


def write_scdl(folder: Path) -> None:
    """Write BioNeMo's memory map of the cells."""
    from bionemo.scdl.io.single_cell_memmap_dataset import SingleCellMemMapDataset

    SingleCellMemMapDataset(str(folder / "scdl"), h5ad_path=str(folder / "x.h5ad"), use_X_not_raw=True).save()
