"""An organism nobody shipped, from files to queries; a curator's decision that the next ingest follows; a pack."""

from __future__ import annotations

import csv
import json
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest

from atlas import open_atlas
from loaders import Pack
from tests.factories import make_adata

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from .conftest import Done

N_GENES = 60
RESIDUES = np.array(list("ACDEFGHIKLMNPQRSTVWY"))


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """Return a folder with a made-up axolotl: GTF, proteins, ortholog pairs, and cells with the author's own words."""
    rng = np.random.default_rng(1)
    genes = [f"ENSAMXG{i:011}" for i in range(N_GENES)]
    lines, proteins = [], []
    for i, gene in enumerate(genes):
        contig, name = ("MT", f"mt-{i}") if i < 3 else ("1", f"gene{i}")
        attributes = f'gene_id "{gene}"; gene_version "2"; gene_name "{name}"; gene_biotype "protein_coding";'
        start = 100 * i + 1
        lines.append(f"{contig}\tensembl\tgene\t{start}\t{start + 90}\t.\t+\t.\t{attributes}")
        lines.append(f'{contig}\tensembl\texon\t{start}\t{start + 80}\t.\t+\t.\t{attributes} transcript_id "T{i}";')
        proteins.append(f">P{i}.1 pep gene:{gene}.2 gene_biotype:protein_coding\n{''.join(rng.choice(RESIDUES, 40))}\n")
    (tmp_path / "axolotl.gtf").write_text("\n".join(lines) + "\n")
    (tmp_path / "axolotl.fa").write_text("".join(proteins))
    pairs = pd.DataFrame({"mine": [genes[5], genes[6]], "theirs": ["ENSG00000141510", "ENSG00000254647"]})
    pairs.to_csv(tmp_path / "pairs.csv", index=False)
    adata = make_adata(40, N_GENES)
    adata.var_names = genes
    adata.obs = adata.obs[["donor_id"]].assign(cell_type="limb bud thing", tissue="UBERON:0002101")
    adata.write_h5ad(tmp_path / "cells.h5ad")
    return tmp_path


ADD = ("axolotl", "--label", "Ambystoma mexicanum", "--taxon", 8296, "--mito-contig", "MT", "--release", "1")


@pytest.mark.index
def test_an_own_organism_from_files_to_a_pack(
    desk: Callable[..., Done], starter_home: Path, files: Path, monkeypatch
) -> None:
    home = files / "home"
    home.mkdir()
    (home / "cache").symlink_to(starter_home / "cache", target_is_directory=True)
    monkeypatch.setenv("PANATLAS_HOME", str(home))

    failed = desk("add-organism", *ADD, "--gtf", files / "axolotl.fa")
    assert failed.code == 2
    assert desk("ingest", "axolotl", "--source", files / "cells.h5ad").code == 2, "a failed add leaves no organism"

    added = desk("add-organism", *ADD, "--gtf", files / "axolotl.gtf", "--proteins", files / "axolotl.fa", "--json")
    assert added.code == 0, added.err
    row = json.loads(added.out)
    assert (row["genes"], row["with_position"], row["proteins"]) == (N_GENES, N_GENES, N_GENES)
    assert "untrained" in added.err

    columns = ("--column", "gene=mine", "--column", "human_gene=theirs", "--release", "1")
    assert desk("references", "import", "orthologs", "axolotl", files / "pairs.csv", *columns).code == 0
    found = desk("gene", "TP53", "--json").json
    assert [r["gene"] for r in found if r["organism"] == "axolotl"] == ["ENSAMXG00000000005"]
    listed = desk("references", "list", "--json").json
    assert {r["kind"] for r in listed} == {"genes", "orthologs", "proteins", "protein_vectors"}

    assert desk("ingest", "axolotl", "--source", files / "cells.h5ad", "--source", files / "cells.h5ad").code == 0
    atlas = open_atlas(str(home / "atlas"))
    assert atlas.n_cells("axolotl") == 40
    assert len(atlas.table("orthologs")) == 2
    provenance = atlas.table("label_provenance").set_index("label")
    assert (provenance.loc["cell_type", "how"], provenance.loc["tissue", "how"]) == ("unmapped", "id")

    assert desk("release", "r1").code == 0
    packed = desk("pack", "r1", files / "pack", "--json")
    assert packed.code == 0, packed.err
    pack = Pack(files / "pack")
    assert pack.about["vocabulary"]["organism"] == ["NCBITaxon:8296"]
    assert pack.read(np.arange(len(pack))).decode().counts.sum() == pack.column("depth").sum()

    other = desk(
        "add-organism", "axolotl", "--label", "Ambystoma tigrinum", "--taxon", 8305, "--gtf", files / "axolotl.gtf"
    )
    assert other.code == 2
    assert "another organism takes another name" in other.err
    assert open_atlas(str(home / "atlas")).n_cells("axolotl") == 40


@pytest.mark.index
def test_a_curators_decision_is_followed(
    desk: Callable[..., Done], starter_home: Path, tmp_path: Path, monkeypatch
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "cache").symlink_to(starter_home / "cache", target_is_directory=True)
    monkeypatch.setenv("PANATLAS_HOME", str(home))
    (tmp_path / "labels.csv").write_text("cell_type,n\nT cell,3\nour weird T cell,7\n=1+1,1\n")
    shown = desk("curate", tmp_path / "labels.csv", "--json")
    assert shown.code == 0, shown.err
    table = tmp_path / "labels.curated.csv"
    with table.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    for row in rows:
        if row["text"] == "our weird T cell":
            row |= {"accept": "CL:0000084", "who": "ada", "why": "the paper's figure 2"}
    with table.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    taken = desk("curate", table, "--accept")
    assert taken.code == 0, taken.err

    adata = make_adata(30, 100)
    adata.obs = adata.obs.drop(columns="cell_type_ontology_term_id").assign(cell_type="our weird T cell")
    adata.write_h5ad(tmp_path / "a.h5ad")
    assert desk("ingest", "human", "--source", tmp_path / "a.h5ad").code == 0
    obs = open_atlas(str(home / "atlas")).query("human", every_cell=True).obs(["cell_type", "cell_type_match"])
    assert set(obs["cell_type"]) == {"T cell"}
    assert set(obs["cell_type_match"]) == {"override"}
