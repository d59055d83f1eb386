"""Cached files are whole or absent, whatever happens while they are written."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from ontology.cached import intact, keep, locked, whole_file, write_together, write_whole

if TYPE_CHECKING:
    from pathlib import Path


def write(target: Path, data: bytes) -> None:
    with keep(target) as out:
        out.write(data)


def write_half(target: Path) -> None:
    with keep(target) as out:
        out.write(b"half")
        raise RuntimeError("midway")


def test_a_kept_file_is_intact(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "a.bin"
    write(target, b"abc")
    assert target.read_bytes() == b"abc"
    assert intact(target)


def test_a_failure_leaves_nothing(tmp_path: Path) -> None:
    target = tmp_path / "a.bin"
    with pytest.raises(RuntimeError, match="midway"):
        write_half(target)
    assert list(tmp_path.iterdir()) == []
    assert not intact(target)


def test_a_failure_leaves_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "a.bin"
    write(target, b"old")
    with pytest.raises(RuntimeError, match="midway"):
        write_half(target)
    assert target.read_bytes() == b"old"
    assert intact(target)


@pytest.mark.parametrize("damage", [b"", b"ab", b"abd", b"abcd"])
def test_damage_is_noticed(tmp_path: Path, damage: bytes) -> None:
    target = tmp_path / "a.bin"
    write(target, b"abc")
    target.write_bytes(damage)
    assert not intact(target)


def test_a_file_without_its_digest_counts_as_absent(tmp_path: Path) -> None:
    target = tmp_path / "a.bin"
    target.write_bytes(b"abc")
    assert not intact(target)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_written_whole_and_replaced(tmp_path: Path) -> None:
    target = tmp_path / "new folder" / "a.bin"
    write_whole(target, b"one")
    write_whole(target, b"two")
    assert target.read_bytes() == b"two"
    assert names(target.parent) == ["a.bin"]
    with pytest.raises(ZeroDivisionError), whole_file(target) as out:
        out.write(bytes(1 // 0))
    assert target.read_bytes() == b"two"
    assert names(target.parent) == ["a.bin"]


def test_of_several_files_none_is_replaced_where_one_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = os.fsync, []

    def full(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) == 2:
            raise OSError(28, "no space left")
        real(descriptor)

    (tmp_path / "a").write_bytes(b"old")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space"):
        write_together({tmp_path / "a": b"new", tmp_path / "b": b"new"})
    assert names(tmp_path) == ["a"]
    assert (tmp_path / "a").read_bytes() == b"old"


def test_one_writer_at_a_time(tmp_path: Path) -> None:
    count = tmp_path / "count"
    write_whole(count, b"0")

    def more(_: int) -> None:
        with locked(tmp_path):
            write_whole(count, str(int(count.read_bytes()) + 1).encode())

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(more, range(60)))
    assert count.read_bytes() == b"60"
