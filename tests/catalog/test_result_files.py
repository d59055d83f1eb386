"""Results as h5ad: what was appended is what anndata reads, equal results have equal bytes, failures leave nothing."""

from __future__ import annotations

import hashlib

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest

from catalog.errors import CatalogInputError
from catalog.result_files import CHUNK_BYTES, check_output, digest_of_file, new_result, refuse_same_file, storable

N = 700


def frame(n: int = N) -> pd.DataFrame:
    return pd.DataFrame({"cell_type": ["T cell", "B cell"] * (n // 2)}, index=[f"cell{i}" for i in range(n)])


def write(path, values: np.ndarray, step: int, **kwargs) -> None:
    with new_result(path, len(values), **kwargs) as result:
        for start in range(0, len(values), step):
            result.append("layers/made", values[start : start + step])
            result.append("obsm/X_made", values[start : start + step, :3])
        var = pd.DataFrame({"feature_name": "x"}, index=[f"gene{i}" for i in range(values.shape[1])])
        uns = {"model": "abc", "nothing": None, "deep": {"n": 3, "labels": ["a", "b"], "no": None}, "yes": True}
        result.finish(frame(len(values)), var, {"panatlas": uns})


@pytest.mark.parametrize("step", [1_000, 64, 13])
def test_what_was_appended_is_what_anndata_reads(tmp_path, step):
    values = np.random.default_rng(0).gamma(1.0, 2.0, (N, 900)).astype(np.float32)
    values[3, 5] = np.nan
    write(tmp_path / "deep" / "a.h5ad", values, step)
    found = ad.read_h5ad(tmp_path / "deep" / "a.h5ad")
    assert found.layers["made"].dtype == np.float32
    np.testing.assert_array_equal(found.layers["made"], values)
    np.testing.assert_array_equal(found.obsm["X_made"], values[:, :3])
    assert found.X is None
    assert found.obs_names.tolist() == [f"cell{i}" for i in range(N)]
    assert found.obs["cell_type"].tolist() == ["T cell", "B cell"] * (N // 2)
    assert found.var_names.tolist() == [f"gene{i}" for i in range(900)]
    uns = found.uns["panatlas"]
    assert (uns["model"], uns["deep"]["n"], uns["deep"]["labels"].tolist(), bool(uns["yes"])) == (
        "abc", 3, ["a", "b"], True,
    )  # fmt: skip
    assert not {"nothing", "no"} & {*uns, *uns["deep"]}
    with h5py.File(tmp_path / "deep" / "a.h5ad") as file:
        layer = file["layers/made"]
        assert layer.compression == "gzip"
        assert layer.chunks[1] == 900, "whole cells"
        assert np.prod(layer.chunks) * 4 <= CHUNK_BYTES
        assert layer.chunks[0] < N


def test_equal_results_have_equal_bytes_and_others_have_not(tmp_path):
    values = np.random.default_rng(0).random((N, 50), dtype=np.float32)
    for name, shift in (("a", 0), ("b", 0), ("c", 1)):
        write(tmp_path / f"{name}.h5ad", values + shift, 64)
    a, b, c = (digest_of_file(tmp_path / f"{name}.h5ad") for name in "abc")
    assert a == b != c
    assert a == hashlib.sha256((tmp_path / "a.h5ad").read_bytes()).hexdigest()


@pytest.mark.parametrize(("rows", "said"), [(6, "6 rows for 4"), (3, "3 rows for 4")])
def test_a_failure_leaves_nothing_behind(tmp_path, rows, said):
    def fail() -> None:
        with new_result(tmp_path / "a.h5ad", 4) as result:
            for _ in range(rows // 3):
                result.append("obsm/X", np.zeros((3, 2), np.float32))
            result.finish(frame(4), None, {})

    with pytest.raises(ValueError, match=said):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_written_over_only_when_forced_and_only_by_a_whole_one(tmp_path):
    path = tmp_path / "a.h5ad"
    write(path, np.zeros((4, 3), np.float32), 2)
    before = path.read_bytes()
    with pytest.raises(CatalogInputError, match="--force"):
        write(path, np.ones((4, 3), np.float32), 2)

    def stop() -> None:
        with new_result(path, 4, force=True) as result:
            result.append("obsm/X", np.ones((2, 2), np.float32))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stop()
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
    write(path, np.ones((4, 3), np.float32), 2, force=True)
    assert ad.read_h5ad(path).layers["made"].sum() == 12


def test_a_file_that_appears_meanwhile_is_kept(tmp_path):
    path = tmp_path / "a.h5ad"

    def meet() -> None:
        with new_result(path, 2) as result:
            path.write_text("mine")
            result.finish(frame(2), None, {})

    with pytest.raises(CatalogInputError, match="--force"):
        meet()
    assert path.read_text() == "mine"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["a.h5", "a", "folder.h5ad"])
def test_a_result_is_an_h5ad(tmp_path, name):
    (tmp_path / "folder.h5ad").mkdir()
    with pytest.raises(CatalogInputError, match=r"\.h5ad"):
        check_output(tmp_path / name, force=True)


def test_what_authors_wrote_comes_through_whatever_it_is(tmp_path):
    obs = pd.DataFrame(
        {
            "text": ["a", None, "\N{GREEK SMALL LETTER BETA}"],
            "nothing": [None, None, None],
            "nul": ["x\0y", "x", None],
            "mixed": [1, "one", None],
            "a/b": [1.5, np.nan, np.inf],
            "nullable": pd.array([1, None, 3], dtype="Int64"),
            "flags": [True, False, True],
            "bytes": np.array([1, 2, 3], dtype=np.uint8),
            "category": pd.Categorical(["z", "a", None], categories=["z", "a", "unused"]),
        },
        index=["\N{GREEK SMALL LETTER ALPHA}", "2", "3"],
    )
    with new_result(tmp_path / "a.h5ad", 3) as result:
        result.finish(obs, None, {})
    found = ad.read_h5ad(tmp_path / "a.h5ad").obs
    assert found.index.tolist() == obs.index.tolist()
    assert found["text"].astype(object).where(found["text"].notna(), None).tolist() == obs["text"].tolist()
    assert found["nothing"].isna().all()
    assert found["nul"].tolist()[:2] == ["x\N{REPLACEMENT CHARACTER}y", "x"]
    assert found["mixed"].tolist()[:2] == ["1", "one"]
    np.testing.assert_array_equal(found["a_b"], obs["a/b"])
    assert found["nullable"].tolist()[::2] == ["1", "3"]
    assert found["flags"].tolist() == [True, False, True]
    assert found["bytes"].dtype == np.uint8
    assert found["category"].tolist()[:2] == ["z", "a"]
    assert storable(obs)["category"].cat.categories.tolist() == ["z", "a", "unused"]


def test_what_a_result_is_made_of_is_never_its_output(tmp_path):
    one, link, other = tmp_path / "one.h5ad", tmp_path / "link.h5ad", tmp_path / "other.h5ad"
    one.write_bytes(b"1")
    link.symlink_to(one)
    other.write_bytes(b"2")
    for given in ((one,), (None, str(link)), (other, str(one))):
        with pytest.raises(CatalogInputError, match="another file than the input"):
            refuse_same_file(one, *given)
    refuse_same_file(one, other, None, "release:r1")
    refuse_same_file(None, one)
    refuse_same_file(tmp_path / "new.h5ad", one)
