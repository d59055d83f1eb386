"""Preflight: structure that points elsewhere, at itself or declares too much is refused before any data is read."""

from __future__ import annotations

import os
import re

import h5py
import numpy as np
import pytest

from atlas.errors import ContractError
from atlas.preflight import MAX_OBJECTS, open_hdf5
from atlas.preflight_mtx import check_mtx
from atlas.preflight_zarr import check_zarr
from tests import hostile, hostile_folders

STRUCTURE = {name: build for name, build in hostile.HDF5.items() if name.startswith(("hdf5-", "truncated", "not-hdf5"))}


@pytest.mark.parametrize("name", STRUCTURE)
def test_hostile_structure_is_refused_with_its_own_code(name, tmp_path):
    path = STRUCTURE[name](tmp_path)
    with pytest.raises(ContractError) as caught:
        open_hdf5(path, "the file")
    finding = caught.value.findings[0]
    assert finding.code == name.split()[0]
    assert finding.severity == "error"
    assert finding.remedy
    assert "secret" not in str(finding).replace("secret.txt", "")  # nothing of the file behind the link is repeated


def test_table_has_a_file_for_every_code_the_walk_can_raise():
    documented = set(re.findall(r"`((?:hdf5-|truncated|damaged|not-hdf5)[a-z0-9-]*)`", open_hdf5.__doc__))
    built = {name.split()[0] for name in STRUCTURE}
    assert documented - built == {"damaged-hdf5", "hdf5-too-many-objects", "hdf5-unknown-filter"}  # tested below


def test_references_inside_the_tree_are_fine(tmp_path):
    path = hostile.good_file(tmp_path)
    with h5py.File(path, "r+") as file:
        file["obs/age"].attrs.create("categories", file["obs/donor"].ref, dtype=h5py.ref_dtype)
    open_hdf5(path, "x").close()


def test_good_file_passes_and_stays_open(tmp_path):
    with open_hdf5(hostile.good_file(tmp_path), "x") as file:
        assert file["X/data"].shape[0] > 0


def test_too_many_objects(tmp_path):
    path = tmp_path / "many.h5"
    with h5py.File(path, "w", libver="latest") as file:
        for i in range(MAX_OBJECTS + 2):
            h5py.h5g.create(file.id, f"g{i}".encode())
    with pytest.raises(ContractError) as caught:
        open_hdf5(path, "x")
    assert caught.value.findings[0].code == "hdf5-too-many-objects"


def test_unknown_filter(tmp_path):
    path = tmp_path / "filter.h5"
    with h5py.File(path, "w") as file:
        plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plist.set_chunk((4,))
        plist.set_filter(399, h5py.h5z.FLAG_OPTIONAL)
        h5py.h5d.create(file.id, b"x", h5py.h5t.NATIVE_INT32, h5py.h5s.create_simple((8,)), plist)
    with pytest.raises(ContractError) as caught:
        open_hdf5(path, "x")
    assert caught.value.findings[0].code == "hdf5-unknown-filter"


def test_damaged_structure_is_refused_not_raised(tmp_path):
    whole = hostile.good_file(tmp_path).read_bytes()
    rng = np.random.default_rng(0)
    codes = set()
    for _ in range(60):
        raw = bytearray(whole)
        for place in rng.integers(48, 4_000, 30):
            raw[place] = rng.integers(256)
        path = tmp_path / "damaged.h5ad"
        path.write_bytes(bytes(raw))
        try:
            open_hdf5(path, "x").close()
        except ContractError as error:
            codes.add(error.findings[0].code)
    assert "damaged-hdf5" in codes


def test_a_pipe_is_not_a_file(tmp_path):
    os.mkfifo(tmp_path / "pipe.h5ad")
    with pytest.raises(ContractError, match="not-a-file"):
        open_hdf5(tmp_path / "pipe.h5ad", "x")


FOLDER_STRUCTURE = {
    name: build
    for name, build in hostile_folders.FOLDERS.items()
    if name.split()[0] not in ("shape-mismatch", "duplicate-coordinates", "unreadable-data", "fractional-count")
}


@pytest.mark.parametrize("name", FOLDER_STRUCTURE)
def test_hostile_folder_is_refused_with_its_own_code(name, tmp_path):
    path = FOLDER_STRUCTURE[name](tmp_path)
    with pytest.raises(ContractError) as caught:
        (check_zarr if path.suffix == ".zarr" else check_mtx)(path, "the folder")
    finding = caught.value.findings[0]
    assert finding.code == name.split()[0]
    assert finding.remedy


@pytest.mark.parametrize(("version", "shards"), [(2, False), (3, False), (3, True)])
def test_good_zarr_passes(tmp_path, version, shards):
    assert check_zarr(hostile_folders.zarr_folder(tmp_path, version, shards=shards), "x")["X/data"].shape[0] > 0


def test_links_inside_an_mtx_folder_are_fine(tmp_path):
    place = hostile_folders.mtx_folder(tmp_path)
    (place / "features.tsv.gz").rename(place / "other.gz")
    (place / "features.tsv.gz").symlink_to("other.gz")
    assert check_mtx(place, "x").shape == (8, 12)
