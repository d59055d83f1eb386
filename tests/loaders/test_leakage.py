"""The guard finds every cell and donor that two selections share, by name and hash, and nothing they do not share."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pytest
import scipy.sparse as sp

from atlas import IngestOptions, ingest, open_atlas
from catalog import make_release
from loaders import LoaderInputError, Pack, leakage, make_pack
from loaders.anndata_cells import AnnDataCells
from loaders.errors import LeakageError
from loaders.leakage import find_leaks, refuse_leaks
from tests.factories import make_adata, write_source
from tests.loaders.toy_cells import ToyCells


def study(n: int = 40, seed: int = 0, name: str = "one") -> ad.AnnData:
    """Return cells with a study, donors by threes, and names of their own."""
    adata = make_adata(n, 200, seed=seed)
    adata.obs["study"] = name
    return adata


def cells_of(adata: ad.AnnData, **columns: str) -> AnnDataCells:
    return AnnDataCells(adata, "human", {"dataset": "study", **columns})


def joined(*parts: ad.AnnData) -> ad.AnnData:
    return ad.concat(parts, join="outer", merge="same")


def test_selections_that_share_nothing_have_no_leaks() -> None:
    assert find_leaks(cells_of(study()), cells_of(study(seed=1, name="two"))) == ()
    assert refuse_leaks(cells_of(study()), cells_of(study(seed=1, name="two"))) == ()


def test_copies_under_other_names_are_found_by_their_counts() -> None:
    first, other = study(), study(30, seed=1, name="two")
    copies = first[[7, 3, 20, 4]].copy()
    counts = copies.X.toarray()
    counts[3] = counts[1]
    copies.X = sp.csr_matrix(counts)
    copies.obs_names, copies.obs["study"] = ["a", "b", "c", "d"], "two"
    copies.obs["donor_id"] = ["x", "y", "x", "x"]
    second = joined(other[:10], copies, other[10:])
    (leak,) = find_leaks(cells_of(first), cells_of(second))
    assert (leak.kind, leak.cells, leak.refused) == ("counts", (3, 4), True)
    assert leak.examples == ((7, 10), (3, 11), (20, 12))
    assert (leak.datasets, leak.donors) == (("two",), ("two/x", "two/y"))
    with pytest.raises(
        LeakageError, match=r"(?s)overlap:.*4 cells of the second side have the counts.*\(3 there\)"
    ) as e:
        refuse_leaks(cells_of(first), cells_of(second))
    assert e.value.leaks == (leak,)
    assert "donors two/x, two/y; e.g. cells 10 (there 7), 11 (there 3), 12 (there 20); leave them out" in str(e.value)


def test_the_same_cell_with_other_counts_is_found_by_its_id() -> None:
    first, second = study(), study(30, seed=1)
    names = second.obs_names.tolist()
    names[4], names[9] = first.obs_names[11], first.obs_names[2]
    second.obs_names = names
    second.obs["donor_id"] = "stranger"
    (leak,) = find_leaks(cells_of(first), cells_of(second))
    assert (leak.kind, leak.cells, leak.examples) == ("cell", (2, 2), ((11, 4), (2, 9)))
    second.obs["study"] = "two"
    assert find_leaks(cells_of(first), cells_of(second)) == (), "names are a dataset's own"


def test_donors_are_compared_by_name_within_their_dataset() -> None:
    first, second = study(), study(31, seed=1)
    second.obs["donor_id"] = ["new"] * 20 + ["donor2"] * 6 + ["donor0"] * 5
    (leak,) = find_leaks(cells_of(first), cells_of(second))
    there = int(first.obs["donor_id"].isin(["donor0", "donor2"]).sum())
    assert (leak.kind, leak.cells) == ("donor", (there, 11))
    assert (leak.datasets, leak.donors) == (("one",), ("one/donor2", "one/donor0"))
    assert leak.examples == ((2, 20),)
    assert "split by donor" in str(leak)
    with pytest.raises(LeakageError, match="11 cells of the second side are of 2 donors that the first side has too"):
        refuse_leaks(cells_of(first), cells_of(second))


def test_cells_of_few_genes_are_counted_apart_and_not_refused() -> None:
    first, second = study(), study(30, seed=1, name="two")
    counts = [one.X.toarray() for one in (first, second)]
    place = {name: at for at, name in enumerate(first.var_names)}
    shared = [name for name in second.var_names if name in place][:30]
    for rows, adata, matrix in (([1, 2], first, counts[0]), ([5, 6, 7], second, counts[1])):
        at = [adata.var_names.get_loc(name) for name in shared]
        matrix[rows] = 0
        matrix[np.ix_(rows, at[:23])] = 1
        matrix[rows[0], at[:24]] = 1
        adata.X = sp.csr_matrix(matrix)
    (sure, few) = find_leaks(cells_of(first), cells_of(second))
    assert (sure.kind, sure.cells, sure.examples) == ("counts", (1, 1), ((1, 5),))
    assert (few.kind, few.cells, few.examples, few.refused) == ("few counts", (1, 2), ((2, 6), (2, 7)), False)
    assert refuse_leaks(cells_of(first[2:]), cells_of(second[6:])) == (
        *find_leaks(cells_of(first[2:]), cells_of(second[6:])),
    )
    assert "fewer than 24 genes" in str(few)


def test_splits_of_the_same_cells_are_compared() -> None:
    adata = study(60)
    adata.obs["part"] = ["train"] * 30 + ["validation"] * 20 + ["test"] * 10
    adata.obs["donor_id"] = ["a"] * 30 + ["b"] * 20 + ["c"] * 9 + ["a"]
    counts = adata.X.toarray()
    counts[35] = counts[3]
    adata.X = sp.csr_matrix(counts)
    cells = cells_of(adata, split="part")
    (leak,) = find_leaks(cells, cells, first_splits=["train"], second_splits=["validation"])
    assert (leak.kind, leak.cells, leak.examples) == ("counts", (1, 1), ((3, 35),))
    (leak,) = find_leaks(cells, cells, first_splits=["train"], second_splits=["test"])
    assert (leak.kind, leak.cells, leak.examples) == ("donor", (30, 1), ((0, 59),))
    assert find_leaks(cells, cells, first_splits=["validation"], second_splits=["test"]) == ()
    kinds = [
        leak.kind for leak in find_leaks(cells, cells, first_splits=["train"], second_splits=["validation", "test"])
    ]
    assert kinds == ["counts", "donor"]


@pytest.mark.parametrize("at_once", [1, 7, 1 << 24])
@pytest.mark.parametrize("block", [5, 1 << 20])
def test_blocks_and_ranges_change_nothing(at_once: int, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    first, other = study(50), study(40, seed=1)
    rng = np.random.default_rng(3)
    taken = np.sort(rng.choice(50, 17, replace=False))
    second = joined(other, first[taken])
    order = rng.permutation(57)
    second = second[order].copy()
    sides = cells_of(first), cells_of(second)
    expected = find_leaks(*sides)
    monkeypatch.setattr(leakage, "AT_ONCE", at_once)
    monkeypatch.setattr(leakage, "BLOCK", block)
    monkeypatch.setattr(leakage, "READ", 3)
    assert find_leaks(*sides) == expected
    place = {int(cell): at for at, cell in enumerate(order)}
    pairs = sorted((place[40 + at], int(cell)) for at, cell in enumerate(taken))
    for leak in expected[:2]:
        assert leak.cells == (17, 17)
        assert leak.examples == tuple((one, two) for two, one in pairs[:3])
    assert [leak.kind for leak in expected] == ["counts", "cell", "donor"]


def test_hashes_at_both_ends_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    ends = np.array([0, 2**64 - 1, 2**63, 2**63 - 1, 2**32, 2**32 - 1], dtype=np.uint64)
    sides = cells_of(study(6)), cells_of(study(8, seed=1, name="two"))
    sides[0]._values["count_hash_high"] = ends
    sides[1]._values["count_hash_high"] = np.append(ends[::-1], np.array([5, 6], np.uint64))
    for at_once in (1, 2, 3, 100):
        monkeypatch.setattr(leakage, "AT_ONCE", at_once)
        (leak,) = find_leaks(*sides)
        assert leak.cells == (6, 6)
        assert leak.examples == ((5, 0), (4, 1), (3, 2))


@pytest.mark.parametrize(("first", "second"), [((), ()), (("train",), ()), (("train", "test"), ("test",))])
def test_the_same_cells_twice_are_no_two_selections(first: tuple[str, ...], second: tuple[str, ...]) -> None:
    cells = cells_of(study())
    with pytest.raises(LoaderInputError, match="splits of these cells that the first selection leaves out"):
        find_leaks(cells, cells, first_splits=first, second_splits=second)


class Hashless(ToyCells):
    columns = ("split", "dataset", "donor", "cell_id_high")


def test_what_cannot_be_compared_is_said() -> None:
    cells = cells_of(study())
    with pytest.raises(LoaderInputError, match="some of train, validation, test"):
        find_leaks(cells, cells, first_splits=["dev"])
    with pytest.raises(LoaderInputError, match=r"without count_hash_high.*pack again"):
        find_leaks(Hashless(10), cells)


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Pack:
    """Return the pack of a release of two studies."""
    folder = tmp_path_factory.mktemp("leakage")
    uri = str(folder / "atlas")
    for name, seed in (("one", 0), ("two", 1)):
        adata = make_adata(60, 200, seed=seed)
        ingest(write_source(folder / f"{name}.h5ad", adata, id=name), uri, IngestOptions(doublets=False))
    make_release(uri, "r1")
    return make_pack(uri, "r1", folder / "pack")


def test_a_file_is_checked_against_the_cells_of_a_release(pack: Pack) -> None:
    again, fresh = make_adata(60, 200, seed=1), make_adata(20, 200, seed=2)
    mine = joined(fresh, again[:25, ::-1])
    mine.obs["study"] = "mine"
    (leak,) = find_leaks(pack, cells_of(mine))
    assert (leak.kind, leak.cells) == ("counts", (25, 25))
    assert leak.examples[0][1] == 20
    there = pack.codes("dataset", np.array([one for one, _ in leak.examples]))
    assert [pack.about["vocabulary"]["dataset"][code] for code in there] == ["two"] * 3
    mine.obs["study"] = "two"
    mine.obs["donor_id"] = mine.obs["donor_id"].astype(str)
    kinds = {leak.kind: leak.cells for leak in find_leaks(pack, cells_of(mine))}
    assert set(kinds) == {"counts", "cell", "donor"}
    assert kinds["cell"] == (25, 25), "the same names in a dataset of the same name"
    fresh.obs["study"] = "fresh"
    assert find_leaks(pack, cells_of(fresh)) == ()


def test_a_releases_own_splits_are_clean(pack: Pack) -> None:
    assert find_leaks(pack, pack, first_splits=["train"], second_splits=["validation", "test"]) == ()


def test_cells_queried_from_an_atlas_are_known_by_id_donor_and_counts(pack: Pack) -> None:
    queried = open_atlas(str(pack.path.parent / "atlas")).query("human").to_anndata()
    leaks = find_leaks(pack, AnnDataCells(queried, "human"))
    assert [(leak.kind, leak.cells) for leak in leaks if leak.kind != "few counts"] == [
        (kind, (120, 120)) for kind in ("counts", "cell", "donor")
    ]


def test_a_person_of_two_datasets_is_found_by_the_name_of_either() -> None:
    first, second = study(), study(20, seed=1, name="two")
    first.obs["donor_id"], second.obs["donor_id"] = "ada", ["ada"] * 15 + ["ben"] * 5
    both = joined(first, second)
    assert set(cells_of(both).about["vocabulary"]["donor"]) == {"one/ada", "two/ben"}
    there = study(25, seed=2, name="two")
    there.obs["donor_id"] = ["eve"] * 18 + ["ada"] * 7
    (leak,) = find_leaks(cells_of(both), cells_of(there))
    assert (leak.kind, leak.cells, leak.donors) == ("donor", (55, 7), ("two/ada",)), "in all her 55 cells"
    assert leak.examples == ((0, 18),)
    (leak,) = find_leaks(cells_of(there), cells_of(both))
    assert (leak.kind, leak.cells, leak.donors) == ("donor", (7, 55), ("one/ada",))
    assert find_leaks(cells_of(study(seed=3, name="three")), cells_of(both)) == ()


def test_unknown_donors_are_told_and_not_refused() -> None:
    first, second = study(), study(31, seed=1)
    first.obs["donor_id"] = ["unknown"] * 30 + ["ann"] * 10
    second.obs["donor_id"] = ["unknown"] * 31
    (leak,) = refuse_leaks(cells_of(first), cells_of(second))
    assert (leak.kind, leak.cells, leak.examples) == ("unknown donor", (30, 31), ((0, 0),))
    assert "columns={'donor': ...}" in str(leak)
    second.obs.loc[second.obs_names[3], "donor_id"] = "ann"
    with pytest.raises(LeakageError, match="1 cells of the second side are of 1 donors") as e:
        refuse_leaks(cells_of(first), cells_of(second))
    assert [leak.kind for leak in e.value.leaks] == ["donor"]


def test_only_cells_of_the_organisms_that_are_named_are_compared() -> None:
    cells = ToyCells(500)
    shared = {"first_splits": ("train",), "second_splits": ("test",)}
    mouse = cells.column("organism") == 0
    donors = np.where(mouse, 0, cells.column("donor"))
    cells.__dict__["_values"] = {**cells._values, "donor": donors}
    (leak,) = find_leaks(cells, cells, **shared)
    assert leak.cells[1] == (mouse & (cells.column("split") == 2)).sum()
    (same,) = find_leaks(cells, cells, **shared, organisms=("mouse",))
    assert same.cells == ((mouse & (cells.column("split") == 0)).sum(), leak.cells[1])
    assert find_leaks(cells, cells, **shared, organisms=("homo_sapiens",)) == ()
    with pytest.raises(LoaderInputError, match="organisms"):
        find_leaks(cells, cells, **shared, organisms=("zebrafish",))
