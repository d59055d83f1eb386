"""A batch proves its types and shapes, names what is wrong in it, and is the same padded and packed again."""

from __future__ import annotations

import pickle
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from loaders import LoaderInputError
from loaders.batch import CellBatch, PaddedBatch
from loaders.errors import BatchError
from loaders.vocabulary import Vocabulary

GENES = 40
"""Tokens per organism."""


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    names = tuple(tuple(f"{o}{g}" for g in range(GENES)) for o in "ab")
    whole = Vocabulary(("a", "b"), names).with_classes("cell_type", ["CL:0000084", "CL:0000624", "CL:0000236"])
    return whole.with_classes("cell_culture", ["tissue"])


def make_batch(lengths: list[int], slots: int, seed: int = 0) -> CellBatch:
    """Return a right batch of cells with contexts of these lengths, by loops."""
    rng = np.random.default_rng(seed)
    n = len(lengths)
    organism = rng.integers(0, 2, n)
    genes = [rng.choice(GENES, length, replace=False) + GENES * o for length, o in zip(lengths, organism, strict=True)]
    counts = [rng.poisson(1.0, length) for length in lengths]
    distances = rng.gamma(2.0, 0.5, (n, slots))
    distances[rng.random((n, slots)) < 0.3] = np.inf
    around = [rng.poisson(1.0, (slots, m)) * np.isfinite(d)[:, None] for m, d in zip(lengths, distances, strict=True)]
    labels = np.stack([rng.integers(-1, 3, n), rng.integers(-1, 1, n)], axis=1)
    whole = {
        "genes": (np.concatenate([*genes, []]), torch.int32),
        "counts": (np.concatenate([*counts, []]), torch.float32),
        "offsets": (np.cumsum([0, *lengths]), torch.int64),
        "neighbour_counts": (np.concatenate([*around, np.zeros((slots, 0))], axis=1), torch.float32),
        "neighbour_distances": (distances, torch.float32),
        "depth": (np.array([c.sum() for c in counts]) + rng.integers(0, 9, n), torch.float32),
        "n_expressed": (np.array([(c > 0).sum() for c in counts]) + rng.integers(0, 9, n), torch.int32),
        "n_measured": (np.array(lengths) + rng.integers(0, 9, n), torch.int32),
        "labels": (labels, torch.int64),
        "organism": (organism, torch.int64),
        **{name: (rng.integers(0, 99, n), torch.int64) for name in ("dataset", "donor", "cell", "position")},
    }
    return CellBatch(**{name: torch.as_tensor(values).to(dtype) for name, (values, dtype) in whole.items()})


def assert_same(one: Any, other: Any) -> None:
    assert type(one) is type(other)
    for field in fields(one):
        a, b = getattr(one, field.name), getattr(other, field.name)
        assert a.dtype == b.dtype
        assert torch.equal(a, b), field.name


shapes = {"lengths": st.lists(st.integers(0, 9), max_size=6), "slots": st.integers(0, 3), "seed": st.integers(0, 99)}


@given(**shapes, spare=st.integers(0, 4))
@settings(max_examples=60, deadline=None)
def test_padded_and_packed_again_is_the_same(lengths: list[int], slots: int, seed: int, spare: int) -> None:
    batch = make_batch(lengths, slots, seed)
    assert_same(batch.padded().packed(), batch)
    assert_same(batch.padded(max(lengths, default=0) + spare).packed(), batch)


@given(**shapes)
@settings(max_examples=40, deadline=None)
def test_the_rectangle_holds_each_context_from_the_left(lengths: list[int], slots: int, seed: int) -> None:
    batch = make_batch(lengths, slots, seed)
    padded = batch.padded(11)
    assert padded.genes.shape == (len(lengths), 11)
    assert len(padded) == len(batch) == len(lengths)
    for cell, length in enumerate(lengths):
        span = slice(int(batch.offsets[cell]), int(batch.offsets[cell + 1]))
        assert padded.mask[cell].tolist() == [True] * length + [False] * (11 - length)
        assert padded.genes[cell, :length].tolist() == batch.genes[span].tolist()
        assert padded.counts[cell, :length].tolist() == batch.counts[span].tolist()
        assert padded.counts[cell, length:].tolist() == [0.0] * (11 - length)
        assert torch.equal(padded.neighbour_counts[cell, :, :length], batch.neighbour_counts[:, span])
        assert not padded.neighbour_counts[cell, :, length:].any()
        assert batch.rows[span].tolist() == [cell] * length
    assert torch.equal(padded.expressed, padded.counts > 0)


@given(**shapes)
@settings(max_examples=40, deadline=None)
def test_a_right_batch_passes_the_check(lengths: list[int], slots: int, seed: int, vocabulary: Vocabulary) -> None:
    make_batch(lengths, slots, seed).check(vocabulary)


def test_a_rectangle_shorter_than_a_context_is_refused() -> None:
    with pytest.raises(LoaderInputError, match=r"length=4.*at least 5, the longest context"):
        make_batch([2, 5], 1).padded(4)


@pytest.mark.parametrize("name", [field.name for field in fields(CellBatch)])
def test_another_type_or_shape_is_refused_at_once(name: str) -> None:
    batch = make_batch([3, 4], 2)
    tensor = getattr(batch, name)
    with pytest.raises(BatchError, match=f"^{name}: "):
        replace(batch, **{name: tensor.to(torch.float16)})
    with pytest.raises(BatchError, match=f"^{name}: "):
        replace(batch, **{name: tensor[None]})
    with pytest.raises(BatchError, match=f"^{name}: ndarray"):
        replace(batch, **{name: tensor.numpy()})


@pytest.mark.parametrize("name", sorted({field.name for field in fields(CellBatch)} - {"genes", "labels"}))
def test_lengths_that_contradict_each_other_are_refused(name: str) -> None:
    batch = make_batch([3, 4], 2)
    with pytest.raises(BatchError, match=r"as the fields before it"):
        replace(batch, **{name: getattr(batch, name)[:-1]})


def test_a_padded_batch_proves_its_shapes_too() -> None:
    padded = make_batch([3, 4], 2).padded()
    for field in fields(PaddedBatch):
        with pytest.raises(BatchError, match=f"^{field.name}: "):
            replace(padded, **{field.name: getattr(padded, field.name).to(torch.complex64)})
    with pytest.raises(BatchError, match="neighbour_counts"):
        replace(padded, neighbour_counts=padded.neighbour_counts.transpose(1, 2))


WRONG = {
    "offsets": ("offsets", lambda t: t.flip(0), "rising numbers from 0 to 7"),
    "fraction": ("counts", lambda t: t + 0.5, "counts of cell 0 of the batch: .*before any normalisation"),
    "negative": ("counts", lambda t: t.index_fill(0, torch.tensor([5]), -1.0), "counts of cell 1 .*: -1.0"),
    "nan": ("counts", lambda t: t.index_fill(0, torch.tensor([3]), torch.nan), "counts of cell 1 .*: nan"),
    "around": ("neighbour_counts", lambda t: t - 2.0, "neighbour_counts of cell 0 .*whole counts"),
    "distance": ("neighbour_distances", lambda t: -t, "neighbour_distances of cell 0"),
    "no number": ("neighbour_distances", lambda t: t * torch.nan, "neighbour_distances of cell 0"),
    "filled": ("neighbour_distances", lambda t: t + torch.inf, "neighbour_counts of cell 0 .*zeros where"),
    "token": ("genes", lambda t: t + 2 * GENES, "genes of cell 0 .*tokens from 0 to 79; collate with this vocabulary"),
    "below": ("genes", lambda t: t - 2 * GENES, "genes of cell 0 .*tokens from 0 to 79"),
    "twice": ("genes", lambda t: t.index_copy(0, torch.tensor([6]), t[[3]]), "cell 1 .*each gene once in a context"),
    "organism": ("organism", lambda t: t + 2, "organism of cell 0 .*2 organisms"),
    "stranger": ("organism", lambda t: 1 - t, "genes of cell 0 .*tokens of the cell's own organism"),
    "class": ("labels", lambda t: t + 3, r"labels \(cell_type\) of cell 0 .*codes from -1 to 2"),
    "labels": ("labels", lambda t: t[:, :1].clone(), "1 columns; expected one .*cell_type, cell_culture"),
    "donor": ("donor", lambda t: t - 1000, "donor of cell 0 .*at least 0"),
    "cell": ("cell", lambda t: t - 1000, "cell of cell 0 .*at least 0"),
    "depth": ("depth", lambda t: t * 0, "depth of cell 0 .*at least those of its context"),
    "n_expressed": ("n_expressed", lambda t: t * 0, "n_expressed of cell 0"),
    "n_measured": ("n_measured", lambda t: t * 0, "n_measured of cell 0"),
}


@pytest.mark.parametrize("fault", WRONG)
def test_the_check_names_field_cell_and_remedy(fault: str, vocabulary: Vocabulary) -> None:
    batch = make_batch([3, 4], 2, seed=5)
    batch = replace(
        batch,
        labels=torch.zeros_like(batch.labels),
        counts=batch.counts + 1,
        depth=batch.depth + 7,
        n_expressed=batch.n_expressed + 7,
        neighbour_counts=torch.ones_like(batch.neighbour_counts),
        neighbour_distances=torch.ones_like(batch.neighbour_distances),
    )
    batch.check(vocabulary)
    name, spoil, said = WRONG[fault]
    with pytest.raises(BatchError, match=said):
        replace(batch, **{name: spoil(getattr(batch, name))}).check(vocabulary)


def test_it_goes_to_a_device_whole() -> None:
    batch = make_batch([3, 4], 2)
    there = batch.to("meta", non_blocking=True)
    assert {getattr(there, field.name).device.type for field in fields(there)} == {"meta"}
    with pytest.raises(BatchError, match="all tensors on"):
        replace(batch, depth=batch.depth.to("meta"))


def test_its_size_is_that_of_its_tensors() -> None:
    n, slots, cells = 7, 2, 2
    whole = 4 * n + 4 * n + 8 * (cells + 1) + 4 * slots * n + cells * (4 * slots + 3 * 4 + 2 * 8 + 5 * 8)
    assert make_batch([3, 4], 2).nbytes == whole


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_pinned_memory_reaches_the_gpu_unchanged(vocabulary: Vocabulary) -> None:
    batch = make_batch([3, 4], 2)
    pinned = batch.pin_memory()
    assert all(getattr(pinned, field.name).is_pinned() for field in fields(pinned))
    there = pinned.to("cuda", non_blocking=True)
    assert_same(there.padded().packed().to("cpu"), batch)
    there.check(vocabulary)


def test_the_official_loader_hands_it_out_as_it_is() -> None:
    from torch.utils.data import DataLoader

    batches = [make_batch([3, 4], 2), make_batch([0, 1, 5], 2)]
    for given_, got in zip(batches, DataLoader(batches, batch_size=None), strict=True):
        assert_same(got, given_)
        assert_same(pickle.loads(pickle.dumps(got)), given_)
