"""Batches hold what plain loops over the cells say they hold; draws are even and depend on nothing beside them."""

from __future__ import annotations

import pickle
from dataclasses import fields, replace
from typing import TYPE_CHECKING

import anndata as ad
import numpy as np
import pytest
import scipy.sparse as sp
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from loaders import LoaderInputError, PackError
from loaders import choices as choices_file
from loaders.batch import CellBatch
from loaders.collate import CollateConfig, Collator
from loaders.records import PackedCells
from loaders.vocabulary import Vocabulary
from tests.loaders.made_cells import Expected, MadeCells, expect, make_cells, make_words

if TYPE_CHECKING:
    from pathlib import Path

LIKELY = 1e-4
"""Smallest probability of a statistic that is believed; seeds are fixed, so a test passes always or never."""


def assert_same(one: CellBatch, other: CellBatch) -> None:
    for part in fields(CellBatch):
        a, b = getattr(one, part.name), getattr(other, part.name)
        assert a.dtype == b.dtype
        assert torch.equal(a, b), part.name


def assert_expected(batch: CellBatch, words: Vocabulary, expected: list[Expected]) -> None:
    tokens = [
        dict(zip(g, words.organism_tokens(o).tolist(), strict=True))
        for o, g in zip(words.organisms, words.genes, strict=True)
    ]
    assert len(batch) == len(expected)
    for cell, one in enumerate(expected):
        part = slice(int(batch.offsets[cell]), int(batch.offsets[cell + 1]))
        assert batch.genes[part].tolist() == [tokens[int(batch.organism[cell])][gene] for gene in one.genes]
        assert batch.counts[part].tolist() == one.counts
        assert batch.neighbour_counts[:, part].tolist() == one.around
        np.testing.assert_array_equal(batch.neighbour_distances[cell], np.array(one.distances, dtype=np.float32))


@st.composite
def configs(draw: st.DrawFn, words: Vocabulary) -> CollateConfig:
    context = draw(st.sampled_from(["random_expressed", "most_expressed", "variable", "list"]))
    genes: tuple[str, ...] = ()
    if context in ("variable", "list"):
        ids = [gene for mine in words.genes for gene in mine]
        genes = tuple(draw(st.lists(st.sampled_from(ids), min_size=1, max_size=40, unique=True)))
    length = draw(st.sampled_from([1, 2, 5, 17, 40, 400]))
    zeros = draw(st.sampled_from(["random", "neighbours", "none"]))
    some = zeros == "random" and context.endswith("expressed")
    return CollateConfig(
        context=context,
        length=length,
        zeros=zeros,
        from_all=draw(st.sampled_from([0.0, 0.2, 0.95])) if some else 0.0,
        shorter_probability=0.0 if context == "list" else draw(st.sampled_from([0.0, 0.5, 1.0])),
        shortest=draw(st.integers(1, length)),
        neighbours=draw(st.integers(1, 6)),
        fewer_neighbours=draw(st.booleans()),
        genes=genes,
        seed=draw(st.integers(0, 3)),
    )


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_a_batch_is_what_plain_loops_make_of_the_cells(data: st.DataObject) -> None:
    cells = make_cells(data.draw(st.integers(0, 20)))
    words = make_words(cells, share=data.draw(st.sampled_from([0.1, 0.8, 1.0])))
    config = data.draw(configs(words))
    wanted = data.draw(st.lists(st.integers(0, len(cells) - 1), max_size=10))
    places = data.draw(st.lists(st.integers(0, 2**40), min_size=len(wanted), max_size=len(wanted)))
    stream = data.draw(st.tuples(st.integers(0, 3), st.integers(0, 2**64 - 1)))
    batch = Collator(words, cells, config).collate(np.array(wanted, np.int64), np.array(places, np.int64), *stream)
    batch.check(words)
    assert_expected(batch, words, expect(cells, words, config, wanted, places, stream))


def test_labels_and_numbers_are_the_cells() -> None:
    cells = make_cells(0)
    words = make_words(cells)
    batch = Collator(words, cells).collate(np.arange(12), np.arange(12) + 100)
    assert words.labels["cell_culture"].classes == ("cell line", "tissue")
    assert batch.labels.tolist() == [[[0, -1, 1][cell % 3]] for cell in range(12)], "unknown is -1"
    assert batch.organism.tolist() == (1 - cells.organism).tolist(), "as the vocabulary orders them"
    assert batch.dataset.tolist() == cells.dataset.tolist()
    assert batch.donor.tolist() == [cell % 7 for cell in range(12)]
    assert batch.cell.tolist() == list(range(12))
    assert batch.position.tolist() == list(range(100, 112))
    assert batch.depth.tolist() == [float(np.float32(sum(counts.values()))) for counts in cells.counts]
    assert batch.n_expressed.tolist() == [len(counts) for counts in cells.counts]


def test_a_label_that_the_cells_lack_is_unknown() -> None:
    cells = replace(make_cells(0), columns=("organism", "dataset", "donor", "depth"))
    batch = Collator(make_words(cells), cells).collate(np.arange(12), np.arange(12))
    assert (batch.labels == -1).all()


@pytest.mark.parametrize("zeros", ["random", "neighbours", "none"])
def test_batch_mates_change_nothing(zeros: str) -> None:
    cells = make_cells(5)
    collator = Collator(make_words(cells), cells, CollateConfig(length=12, zeros=zeros, fewer_neighbours=True))
    whole = collator.collate(np.arange(12), np.arange(50, 62), 2, 7)
    for cell in range(12):
        alone = collator.collate(np.array([cell]), np.array([50 + cell]), 2, 7)
        part = slice(int(whole.offsets[cell]), int(whole.offsets[cell + 1]))
        assert torch.equal(alone.genes, whole.genes[part])
        assert torch.equal(alone.counts, whole.counts[part])
        assert torch.equal(alone.neighbour_counts, whole.neighbour_counts[:, part])
        assert torch.equal(alone.neighbour_distances[0], whole.neighbour_distances[cell])


def test_another_epoch_key_seed_or_position_draws_other_genes_and_the_same_draws_the_same() -> None:
    cells = make_cells(2, n=4, widths=(300, 300))
    words, ids, places = make_words(cells, share=1.0), np.arange(4), np.arange(4)
    config = CollateConfig(length=20)

    def genes(config: CollateConfig, places: np.ndarray, *stream: int) -> list[int]:
        return Collator(words, cells, config).collate(ids, places, *stream).genes.tolist()

    first = genes(config, places, 1, 5)
    assert first == genes(config, places, 1, 5)
    others = [
        genes(config, places, 2, 5),
        genes(config, places, 1, 6),
        genes(config, places + 4, 1, 5),
        genes(replace(config, seed=1), places, 1, 5),
    ]
    assert all(other != first for other in others)


def test_a_collator_is_the_same_in_another_process() -> None:
    cells = make_cells(4)
    collator = Collator(make_words(cells), cells, CollateConfig(length=9))
    before = collator.collate(np.arange(12), np.arange(12), 1, 2)
    assert_same(pickle.loads(pickle.dumps(collator)).collate(np.arange(12), np.arange(12), 1, 2), before)
    assert_same(collator.fill(pickle.loads(pickle.dumps(collator.gather(np.arange(12), np.arange(12), 1, 2)))), before)


def uniform_cells(n_genes: int, expressed: list[int], k: int = 0) -> MadeCells:
    """Return one cell, with counts of 1 in some genes of those all measured, and copies of it as its neighbours."""
    has = {(0, 1): np.ones(n_genes, dtype=bool)}
    near = np.tile(np.arange(1, k + 1), (k + 1, 1))
    far = np.tile(np.arange(1, k + 1, dtype=np.float32), (k + 1, 1))
    zeros = np.zeros(k + 1, dtype=np.int64)
    return MadeCells([dict.fromkeys(expressed, 1)] * (k + 1), zeros + 1, zeros, (1, n_genes), has, near, far)


def draw_often(cells: MadeCells, config: CollateConfig, times: int = 20_000) -> CellBatch:
    words = make_words(cells, share=1.0)
    words = replace(words, genes=(tuple(cells.genes().query("organism == 1")["feature_id"]), words.genes[1]))
    return Collator(words, cells, config).collate(np.zeros(times, dtype=np.int64), np.arange(times))


def assert_even(drawn: np.ndarray, n: int, per_cell: int) -> None:
    """Check that each of n genes was drawn alike; `per_cell` of them without replacement makes chi squared smaller."""
    seen = np.bincount(drawn, minlength=n)
    spread = 1 - (per_cell - 1) / (n - 1)
    statistic = ((seen - seen.mean()) ** 2 / seen.mean()).sum() / spread
    assert LIKELY < scipy.stats.chi2.sf(statistic, n - 1) < 1 - LIKELY


@pytest.mark.parametrize("context", ["random_expressed", "most_expressed"])
def test_genes_that_are_alike_are_drawn_alike_whatever_their_number(context: str) -> None:
    batch = draw_often(uniform_cells(100, list(range(40, 90))), CollateConfig(context=context, length=20, neighbours=0))
    assert (batch.counts == 1).all()
    assert_even(batch.genes.numpy() - 40, 50, 20)


@pytest.mark.parametrize("length", [10, 30, 57])
def test_zeros_are_drawn_alike_and_in_pairs_alike(length: int) -> None:
    expressed = [0, 1, 2, 30, 31]  # in runs, which a walk by strides would show
    batch = draw_often(uniform_cells(60, expressed), CollateConfig(length=length, neighbours=0))
    free = np.setdiff1d(np.arange(60), expressed)
    zeros = batch.genes.numpy().reshape(-1, length)[:, 5:]
    assert set(np.unique(zeros)) == set(free)
    assert_even(np.searchsorted(free, zeros.ravel()), 55, length - 5)
    assert_even(np.searchsorted(free, zeros[:, 0]), 55, 1)
    follows = (np.searchsorted(free, zeros[:, 1]) - np.searchsorted(free, zeros[:, 0])) % 55
    assert_even(follows - 1, 54, 1)


def test_lengths_are_drawn_alike_before_the_genes() -> None:
    cells = uniform_cells(100, list(range(50)))
    collator = Collator(
        make_words(cells, share=1.0), cells,
        CollateConfig(length=60, shortest=41, shorter_probability=0.5, neighbours=0),
    )  # fmt: skip
    lengths, expressed = [], []
    for batch in range(2000):
        made = collator.collate(np.array([0, 0, 0]), 3 * batch + np.arange(3))
        assert len(set(made.lengths.tolist())) == 1, "one length per batch"
        lengths.append(int(made.lengths[0]))
        expressed.append(int(made.expressed[: lengths[-1]].sum()))
    full = np.array(lengths) == 60
    assert scipy.stats.binomtest(int(full.sum()), 2000, 0.5 + 0.5 / 20).pvalue > LIKELY
    assert_even(np.array(lengths)[~full] - 41, 19, 1)
    assert expressed == [min(length, 50) for length in lengths], "expressed genes stay, as far as there is room"


def test_a_shorter_context_is_not_a_cut_of_low_gene_numbers() -> None:
    batch = draw_often(uniform_cells(90, list(range(60))), CollateConfig(length=30, neighbours=0))
    assert_even(batch.genes.numpy(), 60, 30)


def test_fewer_neighbours_are_drawn_alike_from_all_and_stay_in_order() -> None:
    cells = uniform_cells(20, [1], k=15)
    batch = draw_often(cells, CollateConfig(length=4, neighbours=6, fewer_neighbours=True))
    there = np.isfinite(batch.neighbour_distances.numpy())
    assert_even(there.sum(axis=1), 7, 1)
    assert (there[:, :-1] >= there[:, 1:]).all(), "slots fill from the left"
    shown = batch.neighbour_distances.numpy()[there].astype(int) - 1
    ordered = np.where(there, batch.neighbour_distances.numpy(), 99)
    assert (np.diff(ordered, axis=1) >= 0).all(), "nearest first"
    assert scipy.stats.chisquare(np.bincount(shown, minlength=15)).pvalue > LIKELY


def test_the_nearest_neighbours_are_shown_where_none_are_left_out() -> None:
    batch = draw_often(uniform_cells(20, [1], k=15), CollateConfig(length=4, neighbours=6), times=3)
    assert batch.neighbour_distances.tolist() == [[1, 2, 3, 4, 5, 6]] * 3
    few = draw_often(uniform_cells(20, [1], k=2), CollateConfig(length=4, neighbours=4), times=1)
    assert few.neighbour_distances.tolist() == [[1, 2, float("inf"), float("inf")]]
    assert not few.neighbour_counts[2:].any(), "an empty slot has no counts"
    assert few.neighbour_counts[:2].sum() == 2


def test_gaps_among_neighbours_are_closed() -> None:
    cells = uniform_cells(20, [1], k=3)
    cells.near[0, 1], cells.far[0, 1] = -1, np.inf
    assert draw_often(cells, CollateConfig(length=4, neighbours=2), times=1).neighbour_distances.tolist() == [[1, 3]]


def test_genes_and_counts_beyond_two_bytes_and_one() -> None:
    edge = [0, 65_535, 65_536, 65_537, 131_071]
    cells = make_cells(0, n=3, widths=(40, 131_072), k=1)
    cells.organism[:], cells.dataset[:] = 1, 0
    cells.has[0, 1] = np.isin(np.arange(131_072), [*edge, 7, 70_000])
    cells.counts[:] = [dict(zip(edge, [1, 255, 1 << 24, 254, 256], strict=True)), {65_536: 300, 131_071: 2}, {}]
    cells.near[:], cells.far[:] = [[1], [0], [-1]], [[0.5], [0.5], [np.inf]]
    words = make_words(cells, share=1.0)
    for config in (
        CollateConfig(),
        CollateConfig(context="most_expressed", length=2),
        CollateConfig(zeros="neighbours", length=4),
    ):
        batch = Collator(words, cells, config).collate(np.arange(3), np.arange(3))
        assert_expected(batch, words, expect(cells, words, config, [0, 1, 2], [0, 1, 2], (0, 0)))


def test_an_empty_batch_and_an_empty_cell() -> None:
    cells = make_cells(0)
    cells.counts[:] = [{}] * 12
    words = make_words(cells)
    none = Collator(words, cells).collate(np.empty(0, np.int64), np.empty(0, np.int64))
    assert (len(none), none.neighbour_counts.shape) == (0, (6, 0))
    batch = Collator(words, cells, CollateConfig(length=5)).collate(np.arange(12), np.arange(12))
    assert not batch.counts.any()
    assert batch.lengths.tolist() == [5] * 12, "measured zeros"
    assert (
        Collator(words, cells, CollateConfig(zeros="none")).collate(np.arange(12), np.arange(12)).genes.tolist() == []
    )


def test_no_array_of_the_caller_is_held() -> None:
    cells = make_cells(0)
    ids, places = np.arange(12), np.arange(12)
    batch = Collator(make_words(cells), cells).collate(ids, places)
    ids[:], places[:] = 0, 0
    assert batch.cell.tolist() == batch.position.tolist() == list(range(12))


def test_choices_are_shared_by_datasets_that_measured_the_same_and_forgotten_when_they_are_too_many(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cells = make_cells(6)
    cells.has[1, 0] = cells.has[0, 0]
    cells.counts[:] = [{}] * 12
    words = make_words(cells)
    collator = Collator(words, cells, CollateConfig(length=10))
    before = collator.collate(np.arange(12), np.arange(12))
    first, sizes = collator.choices.find(np.array([1, 1, 1]), np.array([0, 1, 2]))
    assert first[0] == first[1] != first[2]
    known = words.gene_tokens("mus_musculus", [f"mus{g}" for g in range(30)]) >= 0
    assert sizes.tolist() == [int((cells.has[d, 0] & known).sum()) for d in range(3)]
    monkeypatch.setattr(choices_file, "POOL", 1)
    assert_same(collator.collate(np.arange(12), np.arange(12)), before)
    assert_same(collator.collate(np.arange(12), np.arange(12)), before)
    assert collator.choices.find(np.array([1]), np.array([2]))[0] == [0], "the lists began anew"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"context": "random"}, "random_expressed, most_expressed, variable, list"),
        ({"zeros": "some"}, "random, neighbours, none"),
        ({"length": 0}, "at least 1 gene"),
        ({"shorter_probability": 1.5}, "from 0 to 1"),
        ({"shorter_probability": 0.1, "shortest": 2201}, "1 to length"),
        ({"shorter_probability": 0.1, "shortest": 0}, "1 to length"),
        ({"shorter_probability": 0.1, "context": "list", "genes": ("a",)}, "a list has the length it has"),
        ({"neighbours": -1}, "0 to 127"),
        ({"neighbours": 128}, "0 to 127"),
        ({"neighbours": 0, "zeros": "neighbours"}, "at least 1"),
        ({"context": "list"}, "feature ids for the contexts"),
        ({"genes": ("a",)}, "none for others"),
        ({"context": "list", "genes": "ENSG1"}, "feature ids for the contexts"),
    ],
)
def test_a_configuration_that_cannot_be_is_refused(options: dict, said: str) -> None:
    with pytest.raises(LoaderInputError, match=said):
        CollateConfig(**options)


def test_genes_that_the_vocabulary_lacks_are_named() -> None:
    cells = make_cells(0)
    words = make_words(cells)
    here = words.genes[0][0]
    with pytest.raises(LoaderInputError, match="ENSG1, TP53"):
        Collator(words, cells, CollateConfig(context="list", genes=(here, "ENSG1", "TP53")))
    many = tuple(f"no{i}" for i in range(8))
    with pytest.raises(LoaderInputError, match="no4 and 3 more"):
        Collator(words, cells, CollateConfig(context="variable", genes=many))
    with pytest.raises(LoaderInputError, match="each gene once"):
        Collator(words, cells, CollateConfig(context="list", genes=(here, here)))


@pytest.mark.parametrize(("ids", "places"), [([12], [0]), ([-1], [0]), ([0, 1], [0]), ([[0]], [[0]]), ([0], [-1])])
def test_cells_and_positions_that_are_none_are_refused(ids: list, places: list) -> None:
    cells = make_cells(0)
    with pytest.raises(LoaderInputError, match=r"cells|positions"):
        Collator(make_words(cells), cells).collate(np.array(ids), np.array(places))


def test_cells_of_an_organism_without_vocabulary_are_refused_and_others_are_not() -> None:
    cells = make_cells(0)
    words = make_words(cells)
    human = Vocabulary(("homo_sapiens",), (words.genes[0],), words.labels)
    collator = Collator(human, cells)
    people = np.flatnonzero(cells.organism == 1)
    assert len(collator.collate(people, people)) == len(people)
    with pytest.raises(LoaderInputError, match="homo_sapiens"):
        collator.collate(np.arange(12), np.arange(12))


def test_a_damaged_record_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    cells = make_cells(0)
    packed = cells.read(np.arange(12))
    short = PackedCells(packed.data[:-8], packed.starts, packed.nnz, packed.low, packed.large)
    monkeypatch.setattr(MadeCells, "read", lambda _, __: short)
    with pytest.raises(PackError, match="of the batch"):
        Collator(make_words(cells), cells, CollateConfig(neighbours=0)).collate(np.arange(12), np.arange(12))


def test_bytes_that_may_only_be_read_are_fine(monkeypatch: pytest.MonkeyPatch) -> None:
    cells = make_cells(0)
    collator = Collator(make_words(cells), cells)
    before = collator.collate(np.arange(12), np.arange(12))
    real = MadeCells.read

    def read(self: MadeCells, wanted: np.ndarray) -> PackedCells:
        packed = real(self, wanted)
        packed.data.flags.writeable = False
        return packed

    monkeypatch.setattr(MadeCells, "read", read)
    assert_same(collator.collate(np.arange(12), np.arange(12)), before)


@pytest.mark.shared
def test_real_cells_are_what_plain_loops_make_of_them(shared: Path) -> None:
    adata = ad.read_h5ad(shared / "data" / "human_pancreas_baron_cxg7.h5ad")
    matrix = sp.csr_matrix(adata.X if adata.raw is None else adata.raw.X)[::300]
    n, width = matrix.shape
    matrix.eliminate_zeros()
    counts = [dict(zip(row.indices.tolist(), row.data.astype(int).tolist(), strict=True)) for row in matrix]
    counts = [dict(sorted(cell.items())) for cell in counts]
    assert max(max(cell.values()) for cell in counts) >= 255
    near = np.stack([np.roll(np.arange(n), -shift) for shift in (1, 2, 3)], axis=1)
    far = np.tile(np.float32([0.5, 1, 2]), (n, 1))
    ones = np.ones(n, dtype=np.int64)
    cells = MadeCells(counts, ones, 0 * ones, (1, width), {(0, 1): np.ones(width, bool)}, near, far)
    words = make_words(cells, share=0.95)
    for config in (CollateConfig(neighbours=2), CollateConfig(context="most_expressed", length=500, neighbours=3)):
        batch = Collator(words, cells, config).collate(np.arange(n), np.arange(n), 1, 2)
        batch.check(words)
        assert_expected(batch, words, expect(cells, words, config, list(range(n)), list(range(n)), (1, 2)))
