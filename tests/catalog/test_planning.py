"""The planner: figures add up and say their kind, files are counted, the shipped rates are those of the benchmark."""

from __future__ import annotations

import importlib.util
import inspect
import json
from pathlib import Path

import pytest

from atlas import Source, measure_source, write_manifest
from catalog.cli_plan import plan
from catalog.errors import CatalogInputError
from catalog.planning import Machine, plan_ingest
from ontology import UnknownOrganismError, list_organisms
from tests.atlas.corpus_copies import make_scbasecount
from tests.factories import make_adata

ROOT = Path(__file__).resolve().parents[2]


def figures(plan) -> dict[str, tuple[float, str]]:
    return {figure.name: (figure.value, figure.kind) for figure in plan.figures}


def test_the_command_asks_for_the_machine_that_a_plan_takes_for_granted():
    said = inspect.signature(plan).parameters
    assert {name: said[name].default for name in vars(Machine())} == vars(Machine())


def test_the_shipped_rates_are_those_of_the_benchmark():
    spec = importlib.util.spec_from_file_location("rates", ROOT / "benchmarks" / "rates.py")
    rates = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(rates)
    told = (ROOT / "catalog" / "data" / "rates.json").read_text("utf-8")
    assert told == rates.render_rates(), "run `python benchmarks/rates.py`"


def test_human_is_the_sum_of_its_corpora_and_says_what_is_only_assumed():
    plan = plan_ingest("Homo sapiens", Machine(cores=10, core_hour=0.1, gb_month=0.02))
    assert {part.name: part.cells for part in plan.parts} == {
        "census": 162_000_000,
        "scbasecount": 112_968_089,
        "tahoe100m": 100_648_790,
    }
    said = figures(plan)
    assert said["cells"] == (375_616_879, "stated")
    nonzeros = (162_000_000 + 112_968_089) * 1_560 + 100_648_790 * 1_382
    assert said["non-zero counts"] == (pytest.approx(nonzeros), "assumed")
    rate = json.loads((ROOT / "catalog/data/rates.json").read_text())["rows"]["with_doublets"]
    hours = rate["cpu_s"] / (rate["cells"] * rate["nnz_per_cell"]) * nonzeros / 3600
    assert said["work"] == (pytest.approx(hours), "extrapolated")
    assert said["time"] == (pytest.approx(hours / 10), "extrapolated")
    assert said["computing"][0] == pytest.approx(hours * 0.1)
    assert said["storing a month"][0] == pytest.approx(said["store"][0] * 0.02)
    assert said["memory"][1] == "measured"
    assert all(figure.whence for figure in plan.figures)


def test_every_organism_of_the_corpus_has_a_plan_and_all_is_their_sum():
    names = [organism.name for organism in list_organisms()]
    parts = [plan_ingest(name).figures[0].value for name in names]
    assert min(parts) > 0
    assert plan_ingest("all").figures[0].value == sum(parts)


def test_no_doublets_is_less_work():
    assert figures(plan_ingest("pig", Machine(doublets=False)))["work"] < figures(plan_ingest("pig"))["work"]


def test_a_manifest_is_counted_in_its_files(tmp_path):
    adata = make_adata(60, 120)
    adata.write_h5ad(tmp_path / "a.h5ad")
    sources = (
        Source("human", "a.h5ad", id="a"),
        Source("human", "https://example.org/b.h5ad", id="b"),
        Source("human", "missing.h5ad", id="c"),
    )
    write_manifest(sources, tmp_path / "m.toml")
    plan = plan_ingest(str(tmp_path / "m.toml"))
    (part,) = plan.parts
    assert (part.cells, part.nonzeros) == (60, adata.X.nnz)
    assert part.read_bytes == (tmp_path / "a.h5ad").stat().st_size
    assert figures(plan)["cells"] == (60, "measured")
    assert figures(plan)["non-zero counts"] == (adata.X.nnz, "measured")
    assert [note.split(":")[0] for note in plan.notes[:2]] == ["left out, b", "left out, c"]


def test_a_large_file_is_counted_in_part_and_the_plan_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr("atlas.source_size.ROWS", 10)
    adata = make_adata(400, 120)
    adata.write_h5ad(tmp_path / "a.h5ad")
    size = measure_source(Source("human", str(tmp_path / "a.h5ad")))
    assert (size.cells, size.counted) == (400, False)
    assert size.nonzeros == pytest.approx(adata.X.nnz, rel=0.1)


def test_what_is_no_plan_is_told():
    with pytest.raises(UnknownOrganismError, match="human"):
        plan_ingest("humann")
    with pytest.raises(CatalogInputError, match="at least one core"):
        plan_ingest("human", Machine(cores=0))


@pytest.mark.index
def test_from_a_copy_of_a_corpus_to_a_manifest_to_a_plan(tmp_path, capsys):
    from catalog.cli import run

    copy, manifest = make_scbasecount(tmp_path / "copy"), tmp_path / "out" / "m.toml"
    words = ["sources", "scbasecount", "human", "--root", str(copy), "--output", str(manifest), "--json"]
    assert run(words) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["sources"], told["cells"], sum(told["dropped"].values())) == (3, 36, 4)
    assert {fault["field"] for fault in told["faults"]} == {"disease", "cell_culture", "tissue"}
    assert run(["plan", str(manifest), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["figures"][0]["value"] == 36
    assert run(words) == 2  # the manifest is there
    assert run(["sources", "scbasecount"]) == 2
    assert run(["plan", "human"]) == 0
    assert "extrapolated" in capsys.readouterr().out
    assert run(["sources", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == 4
