"""Proof of counts: every value is looked at, every fault has its own code, the digest is of content alone.

Faults come from the tables in tests/hostile.py and tests/hostile_folders.py.
"""

from __future__ import annotations

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from atlas.errors import ContractError
from atlas.read import prove_counts
from tests import hostile, hostile_folders
from tests.reading import layouts, opened, written


def test_digest_is_of_content_not_of_bytes(tmp_path):
    digests = {}
    for name, (adata, options) in layouts().items():
        if name != "explicit zeros":
            with opened(written(tmp_path, adata, f"{name}.h5ad", **options)) as cells:
                digests[name] = prove_counts(cells).sha256
    with opened(hostile_folders.zarr_folder(tmp_path)) as cells:
        small = prove_counts(cells).sha256
    with opened(hostile.good_file(tmp_path)) as cells:
        assert prove_counts(cells).sha256 == small
    assert len(set(digests.values())) == 1
    assert small not in digests.values()


@pytest.mark.parametrize("change", ["count", "gene", "cell", "column", "value", "order"])
def test_digest_sees_every_change(tmp_path, change):
    adata = hostile.good()
    if change == "count":
        adata.X.data[0] += 1
    elif change == "gene":
        adata.var_names = ["other", *adata.var_names[1:]]
    elif change == "cell":
        adata.obs_names = ["other", *adata.obs_names[1:]]
    elif change == "column":
        adata.obs = adata.obs.rename(columns={"donor": "sample"})
    elif change == "value":
        adata.obs["donor"] = ["other", *adata.obs["donor"].tolist()[1:]]
    else:
        adata = adata[::-1].copy()
    path = written(tmp_path, adata, "changed.h5ad")
    with opened(path) as changed, opened(hostile.good_file(tmp_path)) as cells:
        assert prove_counts(changed).sha256 != prove_counts(cells).sha256


def test_refusal_names_the_element_that_holds_counts(tmp_path):
    adata = hostile.good()
    adata.layers["umis"] = adata.X.copy()
    adata.X = adata.X * 0.5
    with opened(written(tmp_path, adata)) as cells, pytest.raises(ContractError, match="layers/umis of the same file"):
        prove_counts(cells)


@pytest.mark.parametrize("name", {**hostile.HDF5, **{f"{k} (folder)": v for k, v in hostile_folders.FOLDERS.items()}})
def test_every_fault_has_its_code(name, tmp_path):
    folder = name.endswith(" (folder)")
    path = (hostile_folders.FOLDERS[name.removesuffix(" (folder)")] if folder else hostile.HDF5[name])(tmp_path)
    with pytest.raises(ContractError) as caught, opened(path, id="the-source") as cells:
        prove_counts(cells)
    assert name.split()[0] in [finding.code for finding in caught.value.findings]
    assert all(f.severity == "error" and f.where and f.expected and f.remedy for f in caught.value.findings)
    assert "the-source" in str(caught.value)
    assert "a secret" not in str(caught.value)


def test_each_kind_of_bad_value_is_counted(tmp_path):
    adata = hostile.good()
    adata.X = adata.X.toarray().astype(np.float64)
    adata.X[0, :4], adata.X[5, 2], adata.X[7, 1] = [-1, 0.5, np.nan, 2**25], -2, 0.25
    with opened(written(tmp_path, adata)) as cells, pytest.raises(ContractError) as caught:
        prove_counts(cells)
    found = {f.code: (f.count, f.where) for f in caught.value.findings}
    assert found["negative-count"] == (2, "X cell cell0, gene gene0")
    assert found["non-finite-count"] == (1, "X cell cell0, gene gene2")
    assert found["count-too-large"] == (1, "X cell cell0, gene gene3")
    assert sum(count for count, _ in found.values()) == 6


def test_one_bad_value_anywhere_is_found(tmp_path):
    adata = hostile.good(5_000, 8)
    adata.X = adata.X.astype(np.float64)
    adata.X.data[-1] = 1.5
    with opened(written(tmp_path, adata)) as cells, pytest.raises(ContractError, match=r"fractional-count .*cell4999"):
        prove_counts(cells)


def test_largest_count_is_accepted(tmp_path):
    adata = hostile.good()
    adata.X.data[0] = 2**24
    with opened(written(tmp_path, adata)) as cells:
        assert prove_counts(cells).maximum == 2**24


def test_unknown_formats(tmp_path):
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(ContractError, match="unknown-format"):
        opened(tmp_path)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["table"] = [1]
    with pytest.raises(ContractError, match="unknown-format"):
        opened(tmp_path / "a.h5")
    with pytest.raises(ContractError, match="not-anndata"):
        opened(tmp_path / "a.h5", format="h5ad")


def test_declared_format_and_path_must_agree(tmp_path):
    path = hostile.good_file(tmp_path)
    for kind, code in (("zarr", "not-a-folder"), ("10x-mtx", "not-a-folder"), ("10x-h5", "unknown-format")):
        with pytest.raises(ContractError, match=code):
            opened(path, format=kind)
    with pytest.raises(ContractError, match="not-a-file"):
        opened(tmp_path, format="h5ad")


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Bytes of a compressed and a plain good file, with their digest."""
    folder = tmp_path_factory.mktemp("images")
    found = []
    for compression in (None, "gzip"):
        path = written(folder, hostile.good(300, 20), compression=compression)
        with opened(path) as cells:
            found.append((path.read_bytes(), prove_counts(cells).sha256))
    return found


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 1), st.floats(0, 1, exclude_max=True))
def test_a_truncated_file_is_never_read_as_other_data(tmp_path, images, which, share):
    raw, digest = images[which]
    path = tmp_path / "cut.h5ad"
    path.write_bytes(raw[: int(share * len(raw))])
    try:
        with opened(path) as cells:
            assert prove_counts(cells).sha256 == digest
    except ContractError:
        return


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(["matrix.mtx", "barcodes.tsv", "features.tsv"]), st.booleans(), st.integers(1, 400))
def test_a_truncated_folder_is_never_read_as_other_data(tmp_path_factory, name, packed, lost):
    folder = tmp_path_factory.mktemp("cut")
    path = hostile_folders.mtx_folder(folder, packed=packed)
    with opened(path) as cells:
        digest = prove_counts(cells).sha256
    file = path / (f"{name}.gz" if packed else name)
    raw = file.read_bytes()
    file.write_bytes(raw[: max(0, len(raw) - lost)])
    try:
        with opened(path) as cells:
            found = prove_counts(cells).sha256
    except ContractError:
        return
    assert found == digest
