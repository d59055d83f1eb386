"""pip's index settings reach uv under uv's names, from the environment first and pip's files second."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ontology.package_index import index_settings

if TYPE_CHECKING:
    from pathlib import Path

NAMES = ("UV_DEFAULT_INDEX", "UV_INDEX", "UV_FIND_LINKS", "PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS")


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    return monkeypatch


def test_pip_variables_are_translated(bare: pytest.MonkeyPatch) -> None:
    bare.setenv("PIP_INDEX_URL", "https://a.example/simple")
    bare.setenv("PIP_EXTRA_INDEX_URL", "https://b.example/simple  https://c.example/simple")
    bare.setenv("PIP_FIND_LINKS", "/one /two")
    (only,) = index_settings()
    assert only["UV_DEFAULT_INDEX"] == "https://a.example/simple"
    assert only["UV_INDEX"] == "https://b.example/simple https://c.example/simple"
    assert only["UV_FIND_LINKS"] == "/one,/two"


def test_uv_variables_win(bare: pytest.MonkeyPatch) -> None:
    bare.setenv("PIP_INDEX_URL", "https://a.example/simple")
    bare.setenv("UV_DEFAULT_INDEX", "https://mine.example/simple")
    assert [env["UV_DEFAULT_INDEX"] for env in index_settings()] == ["https://mine.example/simple"]


def test_an_empty_find_links_is_fine(bare: pytest.MonkeyPatch) -> None:
    bare.setenv("UV_FIND_LINKS", "")
    (only,) = index_settings()
    assert only["UV_FIND_LINKS"] == ""


def test_pip_files_are_the_second_try(bare: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "pip.conf"
    file.write_text("[global]\nindex-url = https://file.example/simple\n[install]\nfind-links = /a\n  /b\n")
    bare.setenv("PIP_CONFIG_FILE", str(file))
    first, second = index_settings()
    assert "UV_DEFAULT_INDEX" not in first
    assert second["UV_DEFAULT_INDEX"] == "https://file.example/simple"
    assert second["UV_FIND_LINKS"] == "/a,/b"


@pytest.mark.parametrize("content", [b"no section\n", b"\xff\xfe\x00", b"[global]\nindex-url\n"])
def test_a_broken_pip_file_is_no_obstacle(bare: pytest.MonkeyPatch, tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "pip.conf"
    file.write_bytes(content)
    bare.setenv("PIP_CONFIG_FILE", str(file))
    assert len(list(index_settings())) >= 1
