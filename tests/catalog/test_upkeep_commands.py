"""`panatlas retract` and `consolidate` through the command line: what is done and said, and the exit codes."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from atlas import IngestOptions, StoreError, ingest, open_atlas
from catalog import sql, upkeep_commands
from catalog.cli import run
from catalog.errors import STORE
from tests.factories import make_adata, write_source

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.index


def ask(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, dict]:
    """Run a command with --json; return its exit code and what it printed."""
    capsys.readouterr()
    code = run([*words, "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_releases_that_cannot_be_listed_stop_a_retraction_before_it_is_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, grow: Callable[..., object]
) -> None:
    grow(tmp_path, "lungs", "human", 5)

    def lost(*_: object) -> list[str]:
        raise StoreError("s3://bucket/atlas", "list", "503 SlowDown")

    monkeypatch.setattr(upkeep_commands, "releases_with", lost)
    monkeypatch.setattr(upkeep_commands, "retract_dataset", lambda *_, **__: pytest.fail("it would be published"))
    assert run(["retract", "lungs", "--reason", "why", "--atlas", str(tmp_path)]) == STORE


@pytest.mark.slow
def test_a_release_keeps_what_is_taken_out_of_the_atlas(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    atlas = str(tmp_path / "atlas")
    for seed, name in enumerate("ab"):
        source = write_source(tmp_path / f"{name}.h5ad", make_adata(30, 150, seed=seed), id=name)
        assert ingest(source, atlas, IngestOptions(doublets=False, neighbours=False)).status == "written"
    assert run(["release", "v1", "--atlas", atlas]) == 0
    words = ["retract", "a", "--reason", "consent withdrawn", "--atlas", atlas]
    code, planned = ask(capsys, *words, "--dry-run")
    assert (code, planned["status"], planned["cells"], planned["rewritten"]) == (0, "planned", 30, 30)
    assert len(open_atlas(atlas).datasets) == 2
    code, done = ask(capsys, *words)
    assert (code, done["status"], done["releases"], done["reason"]) == (0, "retracted", ["v1"], "consent withdrawn")
    count = "SELECT dataset_id, count(*) AS n FROM obs GROUP BY ALL ORDER BY ALL"
    assert sql(atlas, count).to_pylist() == [{"dataset_id": "b", "n": 30}]
    assert sql(atlas, count, release="v1").to_pylist() == [{"dataset_id": "a", "n": 30}, {"dataset_id": "b", "n": 30}]
    assert run(["validate", "--release", "v1", "--atlas", atlas]) == 0
    assert run(["release", "v2", "--atlas", atlas]) == 0
    for wrong in (["nothing", "--reason", "why"], ["b", "--reason", "the only one"], ["b", "--reason", " "]):
        assert run(["retract", *wrong, "--atlas", atlas]) == 2
    code, done = ask(capsys, "consolidate", "--atlas", atlas)
    assert (code, done["status"], done["rewritten"]) == (0, "consolidated", {})
    assert "census_data/homo_sapiens/obs" in done["joined"]
    code, done = ask(capsys, "consolidate", "--atlas", atlas, "--dry-run")
    assert (code, done["status"], done["joined"]) == (0, "planned", {})
