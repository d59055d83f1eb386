"""The content hash: the same for the same sources in any order, file and block size, another for any other value."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest

from atlas import IngestOptions, content_hash, ingest, open_atlas, schema
from atlas.content import CellDigests, SortedRows, cell_blocks, row_bytes, table_digest
from tests.factories import make_adata, write_source

if TYPE_CHECKING:
    from pathlib import Path

    from atlas import Source
    from atlas.content import CellBlock

pytestmark = pytest.mark.index
OPTIONS = IngestOptions(doublets=False)


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> list[Source]:
    folder = tmp_path_factory.mktemp("sources")
    sizes = {"a": 40, "b": 70}
    return [write_source(folder / f"{name}.h5ad", make_adata(n, 300, seed=n), id=name) for name, n in sizes.items()]


def made(root: Path, sources: list[Source]) -> str:
    for source in sources:
        assert ingest(source, str(root), OPTIONS).status == "written"
    return str(root)


@pytest.fixture(scope="module")
def atlas(sources, tmp_path_factory):
    return open_atlas(made(tmp_path_factory.mktemp("atlas") / "atlas", sources))


def test_another_order_other_files_and_other_blocks_hold_the_same(
    atlas, sources, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("atlas.prepare", "atlas.look"):
        monkeypatch.setattr(sys.modules[module], "ROWS_PER_BLOCK", 7)
    moved = [replace(source, uri=str(tmp_path / f"other {source.id}.h5ad")) for source in sources]
    for source, n in zip(moved, (40, 70), strict=True):
        make_adata(n, 300, seed=n).write_h5ad(source.uri, compression="gzip")
    other = open_atlas(made(tmp_path / "atlas", moved[::-1]))
    firsts = [{d.dataset_id: d.first_joinid for d in each.datasets} for each in (atlas, other)]
    assert firsts[0] != firsts[1], "joinids must differ, or the test shows nothing"
    graphs = [each.neighbours("human", 0, 110).nnz for each in (atlas, other)]
    assert graphs == [110 * 15] * 2
    assert content_hash(other) == content_hash(atlas)


def test_one_dataset_less_or_another_count_is_other_content(atlas, tmp_path: Path) -> None:
    adata = make_adata(70, 300, seed=70)
    adata.X.data[0] += 1
    changed = write_source(tmp_path / "b.h5ad", adata, id="b")
    alone = open_atlas(made(tmp_path / "atlas", [changed]))
    first = open_atlas(atlas.uri, at=atlas.datasets[0].published_ms)
    both = content_hash(replace(atlas, datasets=atlas.datasets[1:])), content_hash(alone)
    assert len({content_hash(atlas), content_hash(first), *both}) == 4


def test_blocks_cover_every_cell_once_and_their_size_changes_nothing(atlas) -> None:
    genes = atlas.genes("human")["feature_id"].to_numpy(dtype=str)
    seen = []
    for rows in (9, 4096):
        digests, cells, counts = CellDigests(genes), [], []
        for block in cell_blocks(atlas, "homo_sapiens", rows):
            assert len(block.obs) <= rows
            digests.add(block)
            cells += block.obs["soma_joinid"].tolist()
            counts.append(block.counts.sum())
        seen.append((digests.hexdigest(), cells, sum(counts)))
    assert seen[0] == seen[1]
    assert seen[0][1] == list(range(110))
    whole = atlas.query("human", every_cell=True).to_anndata().X
    assert seen[0][2] == whole.sum()


def test_any_changed_value_of_a_cell_changes_the_digest(atlas) -> None:
    """One value of one of 40 cells, in every column of obs, in X, and in the graph."""
    block = next(cell_blocks(atlas, "homo_sapiens"))
    shown = np.unique(block.counts.indices)
    genes = atlas.genes("human")["feature_id"].to_numpy(dtype=str)[shown]
    block = replace(block, counts=block.counts[:, shown])

    def digest(changed: CellBlock) -> str:
        digests = CellDigests(genes)
        digests.add(changed)
        return digests.hexdigest()

    variants = {"as it was": block}
    for field in schema.OBS:
        values = block.obs[field.name].astype(object).to_numpy(copy=True)
        values[7] = "other" if isinstance(values[7], str) else 0.5 if values[7] != values[7] else values[7] + 1
        if field.name in ("is_primary_data", "qc_pass"):
            values[7] = not block.obs[field.name].iloc[7]
        frame = block.obs.assign(**{field.name: pd.Series(values).infer_objects()})
        variants[field.name] = replace(block, obs=frame)
    for part in ("counts", "neighbours"):
        for change in ("data", "indices"):
            matrix = getattr(block, part).copy()
            array = getattr(matrix, change)
            taken = set(matrix.indices[: matrix.indptr[1]].tolist())
            array[0] = array[0] + 1 if change == "data" else next(i for i in range(40) if i not in taken)
            matrix.has_sorted_indices = False
            matrix.sort_indices()
            variants[f"{part} {change}"] = replace(block, **{part: matrix})
    found = {name: digest(variant) for name, variant in variants.items()}
    assert found.pop("soma_joinid") == found["as it was"], "joinids are no content"
    assert len(set(found.values())) == len(found)


def test_genes_in_another_order_name_the_same_counts(atlas) -> None:
    """Counts are known by gene id: columns swapped together with their ids are the same content."""
    genes = atlas.genes("human")["feature_id"].to_numpy(dtype=str)
    order = np.random.default_rng(0).permutation(len(genes))
    digests = []
    for swap in (False, True):
        digest = CellDigests(genes[order] if swap else genes)
        for block in cell_blocks(atlas, "homo_sapiens"):
            digest.add(replace(block, counts=block.counts[:, order]) if swap else block)
        digests.append(digest.hexdigest())
    assert digests[0] == digests[1]


def test_repeated_ids_are_counted(atlas) -> None:
    digests = CellDigests(atlas.genes("human")["feature_id"].to_numpy(dtype=str))
    block = next(cell_blocks(atlas, "homo_sapiens"))
    digests.add(block)
    digests.hexdigest()
    assert digests.repeated == 0
    digests.add(block)
    digests.hexdigest()
    assert digests.repeated == 40


@pytest.mark.parametrize("run", [1, 10, 1000])
def test_rows_are_sorted_whatever_fits_into_memory(run: int) -> None:
    rng = np.random.default_rng(3)
    rows = rng.integers(0, 256, (137, 5), dtype=np.uint8)
    rows[::3, 2:] = 0  # bytes of zero at the end are bytes like any other
    given = SortedRows(5, run)
    for part in np.array_split(rows, 9):
        given.add(part)
    assert np.concatenate(list(given)).tolist() == sorted(rows.tolist())
    assert np.concatenate(list(given)).tolist() == sorted(rows.tolist()), "they can be asked for again"


def test_tables_do_not_depend_on_the_order_of_rows_or_on_where_things_lie() -> None:
    frame = pd.DataFrame({"soma_joinid": [0, 1], "name": ["a", "b"], "n": [1, 2], "dataset_h5ad_path": ["x", "y"]})
    other = frame.iloc[::-1].assign(soma_joinid=[0, 1], dataset_h5ad_path="elsewhere")
    assert table_digest(frame) == table_digest(other)
    assert table_digest(frame) != table_digest(frame.assign(n=[2, 1]))
    assert table_digest(frame) != table_digest(frame.rename(columns={"name": "title"}))
    assert table_digest(frame) != table_digest(pd.concat([frame, frame.iloc[:1]]))


def test_values_cannot_pass_for_each_other() -> None:
    texts = pd.DataFrame({"a": ["ab", "a", ""], "b": ["c", "bc", "abc"], "n": [0.0, 0.0, np.nan]})
    rows = row_bytes(texts, ["a", "b", "n"])
    assert len(np.unique(rows, axis=0)) == 3
    as_category = texts.assign(a=texts["a"].astype("category"))
    assert np.array_equal(row_bytes(as_category, ["a", "b", "n"]), rows), "how a text is stored is not content"
