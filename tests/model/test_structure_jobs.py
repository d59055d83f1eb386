"""Pairs of proteins as jobs, in the forms the predictors document, and their scores back on the edges."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest
import yaml

from model import ModelInputError, read_structure_scores, with_structure_scores, write_structure_jobs
from ontology import read_proteins
from tests.model.small_network import of_edges

if TYPE_CHECKING:
    from pathlib import Path

A, B, C, D = (f"ENSG{number:011d}" for number in (1, 2, 3, 4))
SEQUENCES = {A: "MKTAYIAKQR", B: "MSDNGPQNQR", C: "MUBCDEFGHI", D: "M" * 40}


@pytest.fixture
def network():
    edges = [(D, A, 9.0), (A, B, -5.0), (B, A, 2.0), (C, B, 3.0), (A, "ENSG00000000099", 4.0), (B, D, 1.0)]
    return of_edges(edges)


@pytest.fixture
def proteins() -> pd.DataFrame:
    rows = [(gene, f"P{number}", letters) for number, (gene, letters) in enumerate(SEQUENCES.items())]
    return pd.DataFrame(rows, columns=["gene", "protein", "sequence"])


def test_pairs_are_written_strongest_first_once_for_both_directions(network, proteins, tmp_path: Path) -> None:
    jobs = write_structure_jobs(network, proteins, tmp_path / "jobs", top=2, most_residues=45)
    assert jobs.pairs[["gene_a", "gene_b", "weight", "residues"]].values.tolist() == [[A, B, -5.0, 20], [B, C, 3.0, 20]]
    assert jobs.skipped == {"no_protein": 1, "too_long": 1}
    first = jobs.pairs["job"][0]
    assert (tmp_path / f"jobs/fasta/{first}.fasta").read_text() == f">{A} P0\nMKTAYIAKQR\n>{B} P1\nMSDNGPQNQR\n"
    said = yaml.safe_load((tmp_path / f"jobs/boltz/{first}.yaml").read_text())
    assert said == {
        "version": 1,
        "sequences": [
            {"protein": {"id": "A", "sequence": "MKTAYIAKQR"}},
            {"protein": {"id": "B", "sequence": "MSDNGPQNQR"}},
        ],
    }
    table = pd.read_csv(tmp_path / "jobs/colabfold.csv")
    assert table.values.tolist()[0] == [first, "MKTAYIAKQR:MSDNGPQNQR"]
    assert table["sequence"][1] == "MSDNGPQNQR:MXXCDEFGHI"  # letters beyond the twenty


def test_the_manifest_has_the_digest_of_every_file(network, proteins, tmp_path: Path) -> None:
    write_structure_jobs(network, proteins, tmp_path / "jobs", top=3)
    about = json.loads((tmp_path / "jobs/manifest.json").read_text())
    there = {str(p.relative_to(tmp_path / "jobs")) for p in (tmp_path / "jobs").rglob("*") if p.is_file()}
    assert there == {*about["files"], "manifest.json"}
    for name, digest in about["files"].items():
        assert hashlib.sha256((tmp_path / "jobs" / name).read_bytes()).hexdigest() == digest
    assert about["network_sha256"] == network.digest
    assert list(tmp_path.iterdir()) == [tmp_path / "jobs"]


def test_what_cannot_be_asked_is_refused_and_leaves_nothing(network, proteins, tmp_path: Path) -> None:
    with pytest.raises(ModelInputError, match="two proteins"):
        write_structure_jobs(network, proteins.iloc[:1], tmp_path / "jobs")
    (tmp_path / "there").mkdir()
    with pytest.raises(ModelInputError, match="does not exist"):
        write_structure_jobs(network, proteins, tmp_path / "there")
    assert list((tmp_path).iterdir()) == [tmp_path / "there"]


def test_proteins_come_from_a_fasta_by_the_rule_of_protein_vectors(network, tmp_path: Path) -> None:
    records = [
        (f"ENSP{number:011d}.1 pep gene:{gene}.2 transcript:ENST{number:011d}.1 gene_biotype:protein_coding", letters)
        for number, (gene, letters) in enumerate([(A, "MKT" * 20), (A, "MKT" * 30), (B, "MSD" * 20)])
    ]
    (tmp_path / "p.fa").write_text("".join(f">{name}\n{letters}\n" for name, letters in records))
    frame = read_proteins("human", tmp_path / "p.fa").frame
    jobs = write_structure_jobs(network, frame, tmp_path / "jobs")
    assert jobs.pairs[["protein_a", "protein_b", "residues"]].values.tolist() == [
        ["ENSP00000000001", "ENSP00000000002", 150]
    ]


def results(folder: Path, jobs: pd.DataFrame) -> Path:
    """Write what three predictors write, by their documentation; scores are made up."""
    first, second = jobs["job"][:2]
    boltz = folder / "out" / f"boltz_results_{first}" / "predictions" / first
    boltz.mkdir(parents=True)
    said = {
        "confidence_score": 0.8,
        "ptm": 0.7,
        "iptm": 0.5,
        "protein_iptm": 0.5,
        "pair_chains_iptm": {"0": {"1": 0.5}},
    }
    (boltz / f"confidence_{first}_model_0.json").write_text(json.dumps(said))
    (boltz / f"confidence_{first}_model_1.json").write_text(json.dumps(said | {"iptm": 0.9}))
    (folder / "cf").mkdir()
    name = f"{first}_scores_rank_001_alphafold2_multimer_v3_model_4_seed_000.json"
    (folder / "cf" / name).write_text(json.dumps({"plddt": [90.0], "ptm": 0.6, "iptm": 0.25, "pae": [[0.5]]}))
    (folder / second).mkdir()
    ranking = {"iptm+ptm": {"model_1_multimer_v3_pred_0": 0.4, "model_2_multimer_v3_pred_0": 0.6}, "order": []}
    (folder / second / "ranking_debug.json").write_text(json.dumps(ranking))
    return folder


def test_scores_of_three_predictors_become_layers(network, proteins, tmp_path: Path) -> None:
    jobs = write_structure_jobs(network, proteins, tmp_path / "jobs", most_residues=45)
    scores = read_structure_scores(tmp_path / "jobs", results(tmp_path / "results", jobs.pairs))
    assert scores["tool"].tolist() == ["boltz", "colabfold", "alphafold-multimer"]
    assert scores["iptm"].tolist()[:2] == [0.5, 0.25]
    assert scores["iptm_ptm"].to_numpy() == pytest.approx([0.54, 0.32, 0.6])
    edges = with_structure_scores(network, scores).edges().set_index(["regulator", "target"])
    assert edges.loc[(A, B), "iptm"] == edges.loc[(B, A), "iptm"] == 0.5
    assert edges.loc[(C, B), "iptm_ptm"] == pytest.approx(0.6)
    assert np.isnan(edges.loc[(C, B), "iptm"])
    assert edges["iptm"].notna().sum() == 2


@pytest.mark.parametrize("said", ["{", '{"iptm": NaN}', '{"iptm": 2}', '{"iptm": true}', '{"ptm": 0.5}', "[]"])
def test_results_that_are_no_scores_are_named(said: str, network, proteins, tmp_path: Path) -> None:
    jobs = write_structure_jobs(network, proteins, tmp_path / "jobs")
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / f"confidence_{jobs.pairs['job'][0]}_model_0.json").write_text(said)
    with pytest.raises(ModelInputError, match="confidence_"):
        read_structure_scores(tmp_path / "jobs", tmp_path / "r")


def test_results_of_other_jobs_and_no_results_give_no_rows(network, proteins, tmp_path: Path) -> None:
    write_structure_jobs(network, proteins, tmp_path / "jobs")
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / "confidence_other_model_0.json").write_text("not read")
    scores = read_structure_scores(tmp_path / "jobs", tmp_path / "r")
    assert len(scores) == 0
    assert with_structure_scores(network, scores).layers == network.layers
