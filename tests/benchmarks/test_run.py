"""The registry of benchmarks: every script is there, and a run leaves a record a reader can judge."""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import json
import re

import pytest

from benchmarks import bench_data


@pytest.fixture
def registry(repo):
    spec = importlib.util.spec_from_file_location("benchmarks_run", repo / "benchmarks" / "run.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def toy(registry, tmp_path, monkeypatch):
    (tmp_path / "toy.py").write_text(
        '"""A toy."""\nSEED = 7\ndef main(*, quick):\n    return [{"side": "ours", "s": 1 + quick}]\n'
    )
    monkeypatch.setattr(registry, "HERE", tmp_path)
    monkeypatch.setattr(registry, "REGISTRY", {"toy": "toy.py"})
    return registry


def test_every_registered_script_can_be_run(registry):
    for name in registry.REGISTRY:
        module = registry.load(name)
        assert isinstance(module.SEED, int)
        assert inspect.signature(module.main).parameters["quick"].kind is inspect.Parameter.KEYWORD_ONLY


@pytest.mark.shared
@pytest.mark.index
def test_the_benchmark_of_labels_still_runs(registry):
    # The one that looks deepest into the floors; the others take longer than they would find.
    rows = registry.run("labels", quick=True)["rows"]
    assert {"mapped", "ids", "suggestions, synonyms held out"} <= {row["what"] for row in rows}


def test_a_run_is_recorded_with_what_it_takes_to_judge_it(toy, tmp_path):
    toy.run("toy", tmp_path / "results")
    record = json.loads((tmp_path / "results" / "toy.json").read_text())
    assert record["rows"] == [{"side": "ours", "s": 1}]
    assert (record["benchmark"], record["about"], record["seed"]) == ("toy", "A toy.", 7)
    assert record["command"] == "just bench toy"
    assert record["machine"]["cores"] >= 1
    assert record["machine"]["memory_gib"] > 0
    assert record["machine"]["libraries"]["numpy"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", record["date"])
    assert [p.name for p in (tmp_path / "results").iterdir()] == ["toy.json"]


def test_a_quick_run_writes_nothing_unless_a_folder_is_named(toy, tmp_path, capsys):
    assert toy.main(["toy", "--quick"]) == 0
    assert not (tmp_path / "results").exists()
    assert toy.main(["toy", "--quick", "--results", str(tmp_path / "elsewhere")]) == 0
    record = json.loads((tmp_path / "elsewhere" / "toy.json").read_text())
    assert record["rows"] == [{"side": "ours", "s": 2}]
    assert record["command"] == "just bench toy --quick"
    assert not (tmp_path / "results").exists()
    assert "elsewhere" in capsys.readouterr().out


def test_a_full_run_writes_where_the_page_is_made_from(toy, tmp_path):
    assert toy.main(["toy"]) == 0
    assert json.loads((tmp_path / "results" / "toy.json").read_text())["command"] == "just bench toy"


def test_without_a_name_they_are_listed_and_a_wrong_one_is_refused(toy, capsys):
    assert toy.main([]) == 0
    assert "toy" in capsys.readouterr().out
    with pytest.raises(SystemExit) as refused:
        toy.main(["nonsense"])
    assert refused.value.code == 2
    assert "there are: toy" in capsys.readouterr().err


def test_digests_of_data_follow_names_and_bytes_and_count_what_is_missing(tmp_path, monkeypatch):
    monkeypatch.setattr(bench_data, "SHARED", tmp_path)
    monkeypatch.setattr(bench_data, "HERE", tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.h5ad").write_bytes(b"1")
    (tmp_path / "list.toml").write_text('[[source]]\nuri = "{data}/a.h5ad"\n[[source]]\nuri = "{data}/b.h5ad"\n')
    first = bench_data.digest_of(["data/*.h5ad"])
    line = f"data/a.h5ad {hashlib.sha256(b'1').hexdigest()}\n"
    assert first == {"files": 1, "sha256": hashlib.sha256(line.encode()).hexdigest()}
    assert bench_data.digest_of(["list.toml"]) == first | {"missing": 1}
    (tmp_path / "data" / "b.h5ad").write_bytes(b"1")
    whole = bench_data.digest_of(["list.toml"])
    assert whole["files"] == 2
    assert whole["sha256"] != first["sha256"]
    (tmp_path / "data" / "a.h5ad").write_bytes(b"2")
    assert bench_data.digest_of(["list.toml"])["sha256"] != whole["sha256"]
