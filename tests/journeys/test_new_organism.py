"""An organism no model was trained on: from its GTF and protein FASTA to labelled cells, at the command line.

All of it is made up and tiny: random proteins, vectors of an untrained embedder, a model of a few steps. It shows that
the way is whole and what is told on it, not how good a model is.
"""

from __future__ import annotations

from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from model import Beginning, Machine, embed_proteins, load_model, load_protein_vectors, seeded_esm2, train
from ontology import import_proteins, load_gene_table
from tests.model.small_runs import N_GENES, small_adata, small_cells, small_config, small_recipe

pytestmark = pytest.mark.index
SHORT = ("--length", 64, "--device", "cpu")
RESIDUES = np.array(list("ACDEFGHIKLMNPQRSTVWY"))
AXOLOTL = [f"AMEX{i:04d}" for i in range(N_GENES)]


@pytest.fixture(scope="module")
def home(session_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with a model of human cells and made-up human proteins, and an axolotl's files."""
    folder = tmp_path_factory.mktemp("organism")
    (folder / "cache").mkdir()
    for part in (session_home / "cache").iterdir():
        if part.name != "protein_vectors":
            (folder / "cache" / part.name).symlink_to(part.resolve())
    human = load_gene_table("human").ids[:N_GENES].tolist()
    rng = np.random.default_rng(0)
    proteins = ["".join(rng.choice(RESIDUES, 30)) for _ in human]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PANATLAS_HOME", str(folder))
        for name, ids in (("human", human), ("axolotl", AXOLOTL)):
            text = "".join(f">{one}\n{protein}\n" for one, protein in zip(ids, proteins, strict=True))
            (folder / f"{name}.fa").write_text(text)
        import_proteins("human", folder / "human.fa", {"release": "made up", "licence": "CC0-1.0", "source": "hand"})
        embedder = seeded_esm2(2, 64)
        embed_proteins("human", embedder, orthologs=False)
        beginning = Beginning(vectors={"homo_sapiens": load_protein_vectors("human", embedder.name)})
        recipe = small_recipe(steps=4, validate_every=0)
        train(small_cells(), small_config(), recipe, folder / "models" / "base", machine=Machine(device="cpu"),
              beginning=beginning)  # fmt: skip
    line = 'chr{0}\thand\tgene\t{1}\t{2}\t.\t+\t.\tgene_id "{3}"; gene_name "{3}"; gene_biotype "protein_coding";\n'
    (folder / "axolotl.gtf").write_text(
        "".join(line.format(i % 3, 20_000 * i + 1, 20_000 * i + 900, one) for i, one in enumerate(AXOLOTL))
    )
    small_adata().write_h5ad(folder / "human.h5ad")
    axolotl = small_adata(seed=1)
    axolotl.var = pd.DataFrame(index=AXOLOTL)
    axolotl.obs_names = [f"axolotl{i}" for i in range(axolotl.n_obs)]
    axolotl.write_h5ad(folder / "axolotl.h5ad")
    return folder


def test_from_a_fasta_to_labelled_cells(desk, home, monkeypatch, tmp_path):
    monkeypatch.setenv("PANATLAS_HOME", str(home))
    monkeypatch.chdir(tmp_path)
    words = ("--label", "Ambystoma mexicanum", "--taxon", 8296, "--release", "made up")
    added = desk("add-organism", "axolotl", *words, "--gtf", home / "axolotl.gtf", "--proteins", home / "axolotl.fa")
    assert added.code == 0, added.err
    files = (home / "human.h5ad", home / "axolotl.h5ad")
    asked = ("transfer", *files, "--organism", "axolotl", "--output", "out.h5ad", *SHORT)
    before = desk(*asked)
    assert before.code == 2
    assert "homo_sapiens" in before.err

    grown = desk("grow", "axolotl", "--output", "grown", "--json")
    assert grown.code == 0, grown.err
    assert (grown.json["genes"], grown.json["protein_vectors"]) == (N_GENES, N_GENES)
    base, model = load_model(home / "models" / "base" / "model"), load_model(Path("grown"))
    assert grown.json["base"] == base.digest == model.facts["grown_from"]
    mine = model.vocabulary.organism_tokens("ambystoma_mexicanum")
    human = model.vocabulary.gene_tokens("homo_sapiens", load_gene_table("human").ids[:N_GENES].tolist())
    np.testing.assert_array_equal(model.table.vectors[mine], model.table.vectors[human])  # of the same proteins

    moved = desk(
        "transfer", *files, "--organism", "axolotl", "--model", "grown", "--output", "out.h5ad", *SHORT, "--json"
    )
    assert moved.code == 0, moved.err
    assert "no comparison with orthologs" in moved.err
    assert (set(moved.json["methods"]), moved.json["cells"]) == ({"panatlas"}, 144)
    assert "axolotl" in moved.json["no_orthologs"]
    found = ad.read_h5ad("out.h5ad").obs
    assert set(found["panatlas_transfer_cell_type"]) <= {"T cell", "B cell", "monocyte"}
    sure = found["panatlas_transfer_cell_type_probability"]
    assert ((sure > 1 / 3 - 1e-6) & (sure <= 1)).all(), "the most of three"

    tuned = desk(
        "finetune", home / "axolotl.h5ad", "--organism", "axolotl", "--model", home / "models" / "base",
        "--output", "tuned", "--steps", 4, "--batch-size", 16, *SHORT, "--json",
    )  # fmt: skip
    assert tuned.code == 0, tuned.err
    taught = load_model(Path("tuned") / "model")
    assert taught.vocabulary.organisms == ("homo_sapiens", "ambystoma_mexicanum")
    assert taught.facts["base"] == base.digest
    assert taught.facts["added"][0]["vectors"]["embedder"] == model.facts["added"][0]["vectors"]["embedder"]
    assert {"tuned"} == set(tuned.json["scores"]["validation"]), "the base did not know the organism"
    done = desk(
        "annotate", home / "axolotl.h5ad", "--organism", "axolotl", "--model", "tuned", "--output", "named.h5ad", *SHORT
    )
    assert done.code == 0, done.err
    assert len(ad.read_h5ad("named.h5ad")) == 144
