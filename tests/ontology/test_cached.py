"""Cached files are whole or absent, whatever happens while they are written."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ontology.cached import intact, keep

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
