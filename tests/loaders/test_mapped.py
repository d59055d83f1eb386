"""Mapped arrays are the arrays that zarr reads, however many files they lie in, and hold no file open."""

from __future__ import annotations

import hashlib
import json
import os
from math import lcm
from pathlib import Path

import numpy as np
import pytest
import zarr

from loaders import PackError
from loaders.mapped import ALIGNMENT, MappedArray, PlainWriter

RNG = np.random.default_rng(3)


def write(folder: Path, name: str, values: np.ndarray, limit: int | None, block: int = 1000) -> PlainWriter:
    """Write an array in blocks."""
    group = zarr.open_group(folder, mode="a", zarr_format=3)
    width = 1 if values.ndim == 1 else values.shape[1]
    writer = PlainWriter(folder, name, values.dtype, width=width, limit=limit)
    for start in range(0, len(values), block):
        writer.append(values[start : start + block])
    writer.close(group)
    return writer


@pytest.mark.parametrize("limit", [None, ALIGNMENT, 3 * ALIGNMENT + 17])
@pytest.mark.parametrize("dtype", ["u1", "<i4", "<u8", "<f4"])
@pytest.mark.parametrize("shape", [(0,), (1,), (70_001,), (3 * ALIGNMENT,), (20_000, 15)])
def test_what_is_written_is_what_zarr_and_the_map_read(
    tmp_path: Path, limit: int | None, dtype: str, shape: tuple[int, ...]
) -> None:
    values = RNG.integers(0, 200, shape).astype(dtype)
    writer = write(tmp_path, "some/values", values, limit)
    mapped = MappedArray(tmp_path / "some" / "values")
    assert mapped.values.dtype == values.dtype
    np.testing.assert_array_equal(mapped.values, values)
    np.testing.assert_array_equal(zarr.open_group(tmp_path, mode="r")["some/values"][:], values)
    assert writer.content == hashlib.sha256(values.tobytes()).hexdigest(), "however it is cut"
    row = values[:1].nbytes
    most = len(values) * row if limit is None else max(limit, lcm(row or 1, ALIGNMENT))
    for name, digest in writer.files.items():
        data = (tmp_path / name).read_bytes()
        assert len(data) <= most
        assert hashlib.sha256(data).hexdigest() == digest


def test_nobody_can_write_into_a_mapped_array(tmp_path: Path) -> None:
    write(tmp_path, "x", np.arange(100_000), ALIGNMENT)
    with pytest.raises(ValueError, match="read-only"):
        MappedArray(tmp_path / "x").values[3] = 1


@pytest.mark.skipif(not Path("/proc/self/maps").is_file(), reason="looks at mappings in /proc")
def test_many_files_hold_no_descriptor_and_are_let_go(tmp_path: Path) -> None:
    values = np.arange(300 * ALIGNMENT // 8)
    write(tmp_path, "x", values, ALIGNMENT, block=len(values))

    def state() -> tuple[int, int]:
        maps = Path("/proc/self/maps").read_text()
        return len(list(Path("/proc/self/fd").iterdir())), maps.count(str(tmp_path))

    before = state()
    mapped = MappedArray(tmp_path / "x")
    index = RNG.integers(0, len(values), 5000)
    np.testing.assert_array_equal(mapped.values[index], index)
    assert state() == (before[0], before[1] + 300)
    column = mapped.values
    del mapped
    np.testing.assert_array_equal(column[index], index), "an array keeps its files mapped"
    del column
    assert state() == before


def test_hints_go_to_pages_and_change_nothing(tmp_path: Path) -> None:
    values = np.arange(3 * ALIGNMENT // 4, dtype="<i4")
    write(tmp_path, "x", values, ALIGNMENT)
    mapped = MappedArray(tmp_path / "x")
    mapped.will_need([(0, 4), (ALIGNMENT - 1, 2 * ALIGNMENT + 1), (3 * ALIGNMENT - 4, 3 * ALIGNMENT)])
    np.testing.assert_array_equal(mapped.values, values)


def test_a_hint_about_files_that_are_gone_raises_nothing(tmp_path: Path) -> None:
    values = np.arange(3 * ALIGNMENT // 4, dtype="<i4")
    write(tmp_path, "x", values, ALIGNMENT)
    mapped = MappedArray(tmp_path / "x")
    (tmp_path / "x").rename(tmp_path / "y")
    assert not mapped.in_memory(np.array([0]))
    mapped.will_need([(0, 4), (1 << 50, (1 << 50) + 1)])
    np.testing.assert_array_equal(mapped.values, values)


@pytest.mark.skipif(not hasattr(os, "RWF_NOWAIT"), reason="the system does not tell what is in memory")
def test_what_was_just_read_is_in_memory(tmp_path: Path) -> None:
    values = np.arange(3 * ALIGNMENT // 4, dtype="<i4")
    write(tmp_path, "x", values, ALIGNMENT)
    mapped = MappedArray(tmp_path / "x")
    assert int(mapped.values.sum()) == values.sum()
    assert mapped.in_memory(np.array([0, ALIGNMENT, 3 * ALIGNMENT - 1]))


@pytest.mark.parametrize("number", [0, 2])
def test_a_missing_or_short_file_is_named(tmp_path: Path, number: int) -> None:
    write(tmp_path, "x", np.arange(3 * ALIGNMENT // 8), ALIGNMENT)
    file = tmp_path / "x" / "c" / str(number)
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(PackError, match=f"x/c/{number}: missing or cut short"):
        MappedArray(tmp_path / "x")
    file.unlink()
    with pytest.raises(PackError, match=f"x/c/{number}: missing or cut short"):
        MappedArray(tmp_path / "x")


def test_what_is_not_plain_is_refused(tmp_path: Path) -> None:
    group = zarr.open_group(tmp_path, mode="w", zarr_format=3)
    group.create_array("packed", shape=(10,), dtype="i4")  # compressed, which is zarr's default
    group.create_array("big", shape=(10,), dtype="i4", compressors=None, filters=None)
    facts = json.loads((tmp_path / "big" / "zarr.json").read_text())
    facts["codecs"] = [{"name": "bytes", "configuration": {"endian": "big"}}]
    (tmp_path / "big" / "zarr.json").write_text(json.dumps(facts))
    group.create_array("cube", shape=(2, 2, 2), dtype="i4", compressors=None, filters=None)
    for name in ("packed", "big", "cube"):
        with pytest.raises(PackError, match="codecs"):
            MappedArray(tmp_path / name)
    (tmp_path / "cube" / "zarr.json").write_text("{}")
    with pytest.raises(PackError, match="no array"):
        MappedArray(tmp_path / "cube")
