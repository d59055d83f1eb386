"""Which model is meant: the one that is named, else the shipped one, else the newest at home."""

from __future__ import annotations

import os

import pytest

from catalog import CatalogInputError
from catalog.task_inputs import find_model
from model import save_model
from tests.model.small_runs import small_start


def test_the_shipped_model_comes_before_those_at_home_and_after_one_that_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("PANATLAS_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("model.shipped_files.SHIPPED", tmp_path / "shipped")
    with pytest.raises(CatalogInputError, match="panatlas train SIZE"):
        find_model(None)
    home = tmp_path / "home" / "models"
    for age, name in enumerate(("new", "old")):
        save_model(home / name, small_start().model)
        os.utime(home / name / "about.json", (1_000_000 - age, 1_000_000 - age))
    assert find_model(None) == home / "new"
    save_model(tmp_path / "shipped" / "tiny", small_start().model)
    assert find_model(None) == find_model("tiny") == tmp_path / "shipped" / "tiny"
    assert find_model("old") == home / "old"
    save_model(home / "tiny", small_start().model)
    assert find_model("tiny") == home / "tiny", "one's own comes first where it has the name"
    with pytest.raises(CatalogInputError, match="nearest: "):
        find_model("tinny")
