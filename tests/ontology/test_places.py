"""Places come from one variable, and nothing is made by asking."""

from __future__ import annotations

from pathlib import Path

import pytest

from ontology import cache_dir, home
from ontology.places import environment


def test_home_follows_the_variable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PANATLAS_HOME", str(tmp_path / "x"))
    assert home() == tmp_path / "x"
    assert cache_dir() == tmp_path / "x" / "cache"
    assert not home().exists()


@pytest.mark.parametrize("value", [None, ""])
def test_home_defaults_to_the_user(monkeypatch: pytest.MonkeyPatch, value: str | None) -> None:
    if value is None:
        monkeypatch.delenv("PANATLAS_HOME", raising=False)
    else:
        monkeypatch.setenv("PANATLAS_HOME", value)
    assert home() == Path.home() / ".panatlas"


def test_a_relative_home_is_made_absolute(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PANATLAS_HOME", "here")
    assert home() == tmp_path / "here"


def test_environment_is_a_copy() -> None:
    environment()["PANATLAS_TEST_ONLY"] = "x"
    assert "PANATLAS_TEST_ONLY" not in environment()
