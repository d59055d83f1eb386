"""What models said of cells lies beside them: official clients read it, none sees half of it, all else stays."""

from __future__ import annotations

import multiprocessing as mp
import os
import shutil
import signal
from pathlib import Path

import cellxgene_census
import numpy as np
import pandas as pd
import pytest
import tiledbsoma as soma
import tiledbsoma.io

from atlas import (
    AtlasInputError,
    IngestOptions,
    ResultKey,
    content_hash,
    find_leftovers,
    ingest,
    model_results,
    open_atlas,
    repair_atlas,
    store,
    validate,
    write_results,
)
from tests.factories import make_adata, write_source

pytestmark = pytest.mark.index
FAST = IngestOptions(doublets=False, neighbours=False)
HUMAN, N, WIDTH = "homo_sapiens", 30, 5
MODEL = "0a1b2c3d4e5f"
EMBEDDING, LABELS, DENOISED = (ResultKey(kind, "r1", MODEL) for kind in ("embedding", "labels", "denoised"))
CELLS = np.array([0, 1, 4, 5, 9, 17, 29])
"""Not all of the atlas, as a release's cells are not."""
GENES = np.array([11, 3, 200])


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("results")
    source = write_source(folder / "a.h5ad", make_adata(N, 80, seed=1), id="a")
    assert ingest(source, str(folder / "atlas"), FAST).status == "written"
    return folder / "atlas"


@pytest.fixture
def atlas(base: Path, tmp_path: Path) -> str:
    return str(shutil.copytree(base, tmp_path / "atlas"))


def vectors(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(len(CELLS), WIDTH)).astype(np.float32)


def layer() -> np.ndarray:
    values = np.random.default_rng(1).gamma(1.0, size=(len(CELLS), len(GENES))).astype(np.float32)
    values[2, 1] = np.nan  # not measured
    values[3, 0] = 0.0
    return values


def names() -> pd.DataFrame:
    said = np.array(["B cell", "T cell", "unknown"], dtype=object)[CELLS % 3]
    sure = np.where(CELLS % 3 == 2, np.nan, 0.5).astype(np.float32)
    columns = {"panatlas_cell_type": said, "panatlas_cell_type_probability": sure, "panatlas_novel": CELLS > 9}
    return pd.DataFrame({"soma_joinid": CELLS, **columns})


def write(uri: str, seed: int = 0, *, force: bool = False) -> None:
    keys = [(key, HUMAN) for key in (EMBEDDING, LABELS, DENOISED)]
    with write_results(uri, keys, force=force) as writer:
        matrix = writer.matrix(EMBEDDING, HUMAN, (N, WIDTH), {"command": "embed", "seed": seed})
        matrix.append(CELLS[:4], vectors(seed)[:4])
        matrix.append(CELLS[4:], vectors(seed)[4:])
        n_genes = len(open_atlas(uri).genes("human"))
        writer.matrix(DENOISED, HUMAN, (N, n_genes), {"command": "denoise"}).append(CELLS, layer(), GENES)
        writer.table(LABELS, HUMAN, names(), {"command": "annotate"})


def test_official_clients_read_them_beside_the_cells(atlas):
    before = content_hash(open_atlas(atlas))
    write(atlas)
    whole = np.zeros((N, WIDTH), np.float32)
    whole[CELLS] = vectors()
    with cellxgene_census.open_soma(uri=atlas) as census:
        found = cellxgene_census.get_anndata(
            census, "Homo sapiens", obs_coords=CELLS.tolist(), obsm_layers=[EMBEDDING.member]
        )
        np.testing.assert_array_equal(found.obsm[EMBEDDING.member], vectors())
        with census["census_data"][HUMAN].axis_query("RNA") as query:
            everything = query.to_anndata("raw", X_layers=[DENOISED.member], obsm_layers=[EMBEDDING.member])
        told = census["census_data"][HUMAN].ms["RNA"]["labels"][LABELS.member].read().concat().to_pandas()
    np.testing.assert_array_equal(everything.obsm[EMBEDDING.member], whole)
    denoised = everything.layers[DENOISED.member]
    np.testing.assert_array_equal(denoised[CELLS][:, GENES].toarray(), np.nan_to_num(layer()))
    assert denoised.nnz == np.isfinite(layer()).sum(), "what is 0 is there, what was not measured is not"
    pd.testing.assert_frame_equal(told[names().columns], names(), check_dtype=False)
    with soma.Experiment.open(f"{atlas}/census_data/{HUMAN}") as experiment:
        exported = tiledbsoma.io.to_anndata(experiment, "RNA", X_layer_name="raw", obs_id_name="cell_name")
    np.testing.assert_array_equal(exported.obsm[EMBEDDING.member], whole)
    opened = open_atlas(atlas)
    assert [(row.key, row.cells) for row in opened.results] == [
        (str(key), len(CELLS)) for key in (DENOISED, EMBEDDING, LABELS)
    ]
    checked = validate(opened)
    assert (checked.sound, checked.content_hash) == (True, before), checked.findings
    assert not find_leftovers(atlas)


def test_one_that_is_there_is_replaced_only_by_force_and_stays_for_who_looks_back(atlas):
    write(atlas)
    then = open_atlas(atlas).published_ms
    with pytest.raises(AtlasInputError, match="--force"):
        write(atlas, 1)
    assert open_atlas(atlas).published_ms == then, "a refusal changes nothing"
    write(atlas, 1, force=True)
    for moment, seed in ((then, 0), (None, 1)):
        opened = open_atlas(atlas, at=moment)
        with opened.open() as tree:
            array = tree["census_data"][HUMAN].ms["RNA"]["obsm"][EMBEDDING.member]
            np.testing.assert_array_equal(array.read().tables().concat()["soma_data"], vectors(seed).ravel())
        assert len(opened.results) == 3
        assert validate(opened).sound
    assert not find_leftovers(atlas)


def test_one_that_is_named_and_not_written_again_goes_and_stays_for_who_looks_back(atlas):
    write(atlas)
    then, keys = open_atlas(atlas).published_ms, [(EMBEDDING, HUMAN), (LABELS, HUMAN)]
    with write_results(atlas, keys, force=True):
        pass
    assert len(open_atlas(atlas).results) == 3, "nothing was written, so nothing goes"
    with write_results(atlas, keys, force=True) as writer:
        writer.matrix(EMBEDDING, HUMAN, (N, WIDTH), {}).append(CELLS, vectors(1))
    for moment, held in ((then, {EMBEDDING, LABELS, DENOISED}), (None, {EMBEDDING, DENOISED})):
        opened = open_atlas(atlas, at=moment)
        assert {row.key for row in opened.results} == {str(key) for key in held}
        with opened.open() as tree:
            there = LABELS.member in tree["census_data"][HUMAN].ms["RNA"]["labels"]
        assert there == (LABELS in held)
        assert validate(opened).sound
    assert not find_leftovers(atlas)
    with write_results(atlas, [(LABELS, HUMAN)]) as writer:
        writer.table(LABELS, HUMAN, names(), {})
    assert validate(open_atlas(atlas)).sound, "what went can come again"


def test_a_later_ingest_leaves_them_readable_and_a_moment_before_does_not_have_them(atlas, tmp_path):
    before = open_atlas(atlas).published_ms
    write(atlas)
    source = write_source(tmp_path / "b.h5ad", make_adata(20, 80, seed=2), id="b")
    assert ingest(source, atlas, FAST).status == "written"
    with cellxgene_census.open_soma(uri=atlas) as census, census["census_data"][HUMAN].axis_query("RNA") as query:
        found = query.to_anndata("raw", obsm_layers=[EMBEDDING.member], X_layers=[DENOISED.member])
    assert found.n_obs == N + 20
    np.testing.assert_array_equal(found.obsm[EMBEDDING.member][CELLS], vectors())
    assert not found.obsm[EMBEDDING.member][N:].any()
    old = open_atlas(atlas, at=before)
    assert (old.results, old.published_ms) == ((), before)
    with old.open() as tree:
        assert "obsm" not in tree["census_data"][HUMAN].ms["RNA"]
    assert validate(atlas).sound


def write_and_die(uri: str) -> None:
    """Write, and be killed when all is written and a member, but not published."""
    real = model_results.ResultWriter.join

    def die(writer: model_results.ResultWriter) -> None:
        real(writer)
        os.kill(os.getpid(), signal.SIGKILL)

    model_results.ResultWriter.join = die
    write(uri)


def test_a_killed_writer_leaves_nothing_to_be_seen_and_the_next_one_finishes(atlas):
    before = open_atlas(atlas)
    content = content_hash(before)
    process = mp.get_context("spawn").Process(target=write_and_die, args=(atlas,))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert open_atlas(atlas) == before
    with before.open() as tree:
        assert "obsm" not in tree["census_data"][HUMAN].ms["RNA"]
    assert {one.code for one in find_leftovers(atlas)} >= {"unfinished-ingest", "unpublished-writes"}
    mended = Path(shutil.copytree(atlas, f"{atlas}-mended"))
    assert repair_atlas(str(mended))
    assert not find_leftovers(str(mended))
    folder = mended / "census_data" / HUMAN / "ms" / "RNA"
    assert not {"obsm", "labels"} & {path.name for path in folder.iterdir()}, "the names are free again"
    write(atlas)
    checked = validate(atlas)
    assert (checked.sound, checked.content_hash) == (True, content), checked.findings
    assert len(open_atlas(atlas).results) == 3


def test_a_result_that_was_changed_or_lost_is_told(atlas):
    write(atlas)
    uri = f"{atlas}/census_data/{HUMAN}/ms/RNA/obsm/{EMBEDDING.member}"
    moment = open_atlas(atlas).published_ms
    with soma.SparseNDArray.open(uri, "w", tiledb_timestamp=moment) as array:
        import pyarrow as pa

        array.write(pa.table({"soma_dim_0": [0], "soma_dim_1": [0], "soma_data": pa.array([9.0], pa.float32())}))
    shutil.rmtree(f"{atlas}/census_data/{HUMAN}/ms/RNA/labels/{LABELS.member}")
    found = [one for one in validate(atlas).findings if one.code == "result-differs"]
    assert [one.where.rsplit("/", 1)[1] for one in found] == [EMBEDDING.member, LABELS.member]


def test_rows_out_of_order_other_cells_and_strange_kinds_are_refused_and_leave_nothing(atlas):
    before = open_atlas(atlas)
    for cells in (CELLS[::-1], CELLS + N):
        with (
            pytest.raises(AtlasInputError, match="rising ones below 30"),
            write_results(atlas, [(EMBEDDING, HUMAN)]) as writer,
        ):
            writer.matrix(EMBEDDING, HUMAN, (N, WIDTH), {}).append(cells, vectors())
    with pytest.raises(AtlasInputError, match="kind"), write_results(atlas, [(ResultKey("x", "r1", MODEL), HUMAN)]):
        pass
    assert open_atlas(atlas) == before
    assert not find_leftovers(atlas)
    assert not (Path(store.local_root(atlas)) / "census_data" / HUMAN / "ms" / "RNA" / "obsm").exists()
