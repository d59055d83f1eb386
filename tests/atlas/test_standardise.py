"""Author columns become store columns by stated rules; genes become the table's, and the books balance."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from atlas import ContractError, Source
from atlas.findings import Tally
from atlas.standardise import GeneMap, label_columns, map_genes, standardise_labels
from ontology import get_organism, load_gene_table

pytestmark = pytest.mark.index
HUMAN = get_organism("human")


@dataclass
class Opened:
    """What the standardiser reads of an open source."""

    obs: pd.DataFrame
    uns: dict[str, str] = field(default_factory=dict)
    gene_names: tuple[str, ...] = ()
    gene_fallback: tuple[str, ...] | None = None

    @property
    def n_obs(self) -> int:
        return len(self.obs)


def labels(obs: dict[str, list[object]], **source: object) -> pd.DataFrame:
    cells = Opened(pd.DataFrame(obs))
    return standardise_labels(Source(id="s", organism="human", uri="x", format="h5ad", **source), cells, HUMAN).frame


def test_ids_are_kept_verbatim_with_the_authors_words_beside_them() -> None:
    frame = labels({"cell_type_ontology_term_id": ["CL:0000084", "CL:0000236"], "author_cell_type": ["T", "B naive"]})
    assert frame["cell_type_ontology_term_id"].tolist() == ["CL:0000084", "CL:0000236"]
    assert frame["cell_type"].tolist() == ["T cell", "B cell"]
    assert frame["author_cell_type"].tolist() == ["T", "B naive"]
    assert set(frame["cell_type_match"]) == {"id"}


def test_text_maps_by_label_and_what_does_not_stays_unknown() -> None:
    frame = labels({"cell_type": ["T cell", "zorgblatt", None, "unknown"]})
    assert frame["cell_type_ontology_term_id"].tolist() == ["CL:0000084", "unknown", "unknown", "unknown"]
    assert frame["cell_type_match"].tolist() == ["label", "unmapped", "missing", "unknown"]
    assert frame["author_cell_type"].tolist() == ["T cell", "zorgblatt", "", "unknown"]


def test_the_manifest_overrides_columns_and_gives_constants() -> None:
    frame = labels(
        {"kind": ["B cell"], "cell_type": ["T cell"]},
        columns={"cell_type": "kind"},
        constants={"tissue": "UBERON:0002048"},
    )
    assert frame["cell_type"].tolist() == ["B cell"]
    assert frame["tissue"].tolist() == ["lung"]
    assert frame["tissue_general"].tolist() == ["lung"]


def test_a_column_the_manifest_names_must_exist() -> None:
    with pytest.raises(ContractError, match="no column 'kind'"):
        labels({"cell_type": ["T cell"]}, columns={"cell_type": "kind"})


@pytest.mark.parametrize(
    ("term", "organ"), [("UBERON:0008946", "lung"), ("UBERON:0001264", "pancreas"), ("UBERON:0001870", "brain")]
)
def test_tissues_are_summed_under_their_organ(term: str, organ: str) -> None:
    """Lung parenchyma, pancreas itself, frontal cortex."""
    assert labels({"tissue_ontology_term_id": [term]})["tissue_general"].tolist() == [organ]


def test_primary_data_and_suspension_keep_to_their_vocabulary() -> None:
    frame = labels({"is_primary_data": ["True", "False"], "suspension_type": ["nucleus", "soup"]})
    assert frame["is_primary_data"].tolist() == [True, False]
    assert frame["suspension_type"].tolist() == ["nucleus", "na"]


def findings(obs: dict[str, list[object]], **source: object) -> dict[str, tuple[int, str]]:
    cells = Opened(pd.DataFrame(obs))
    made = standardise_labels(Source(id="s", organism="human", uri="x", format="h5ad", **source), cells, HUMAN)
    return {f.code: (f.count, f.found) for f in made.findings if f.severity == "warning"}


def test_an_id_and_a_text_that_contradict_each_other_are_counted_and_the_id_is_kept() -> None:
    obs = {
        "cell_type_ontology_term_id": ["CL:0000084", "CL:0000084", "CL:0000583", "CL:0000084", "CL:0000236"],
        "cell_type": ["hepatocyte", "hepatocyte", "macrophage", "zorgblatt", ""],
    }
    count, found = findings(obs)["label-id-text-differ"]
    assert count == 2
    assert found == "1 ids that contradict the text beside them, e.g. CL:0000084 (T cell) beside 'hepatocyte'"
    frame = labels(obs)
    assert frame["cell_type"].tolist() == ["T cell", "T cell", "alveolar macrophage", "T cell", "B cell"]
    assert frame["author_cell_type"].tolist()[0] == "hepatocyte"


def test_a_cell_type_is_no_tissue_unless_cells_were_cultured() -> None:
    tissue = ["CL:0000084", "CL:0000084", "UBERON:0000178", "CL:0000084", "CL:0000084"]
    kind = ["tissue", "primary cell culture", "tissue", "organoid", None]
    count, found = findings({"tissue_ontology_term_id": tissue, "tissue_type": kind})["tissue-is-cell-type"]
    assert count == 2
    assert found.endswith("e.g. CL:0000084")
    assert "tissue-is-cell-type" not in findings({"tissue_ontology_term_id": tissue[1:3], "tissue_type": kind[1:3]})


def test_ages_in_years_are_the_middle_of_the_stage_or_the_start_of_an_open_one() -> None:
    said = ["23 years", "20-29 years", "80+ years", "HsapDv:0000046", "adult", "old", None, "6 months"]
    ages = labels({"development_stage": said})["age_years"]
    assert ages.dtype == np.float32
    np.testing.assert_allclose(ages, [23.5, 25, 80, np.nan, np.nan, np.nan, np.nan, 6.5 / 12], rtol=1e-6)


def test_columns_of_labels_are_found_by_name() -> None:
    found = label_columns(["CellType", "age", "cell_type_ontology_term_id", "x", "species", "disease_ontology_term_id"])
    assert found == {
        "cell_type": "CellType", "disease": "disease_ontology_term_id", "development_stage": "age",
        "organism": "species",
    }  # fmt: skip


@pytest.mark.parametrize("said", ["Mus musculus", "NCBITaxon:10090"])
def test_another_organism_is_refused(said: str) -> None:
    with pytest.raises(ContractError, match="wrong-organism"):
        labels({"organism": [said]})


def test_projection_equals_a_dense_loop() -> None:
    """Duplicate genes summed, unmapped ones dropped, columns in the table's order."""

    @settings(deadline=None, max_examples=30)
    @given(st.integers(0, 2**32 - 1))
    def check(seed: int) -> None:
        rng = np.random.default_rng(seed)
        index = rng.integers(-1, 9, 14)
        counts = sp.random(6, 14, 0.4, format="csr", random_state=seed, data_rvs=lambda n: rng.integers(1, 9, n))
        measured = np.zeros(9, bool)
        measured[index[index >= 0]] = True
        merged = int((index >= 0).sum() - measured.sum())
        kind = rng.choice([np.float32, np.float64, np.uint8, np.int64])
        stored = counts.astype(kind)
        stored.data[rng.random(stored.nnz) < 0.2] = 0  # zeros that a file stores
        counts = stored.astype(np.int64)
        got = GeneMap(index, measured, Tally(14, int(measured.sum()), merged), ()).project(stored)
        want = np.zeros((6, 9))
        for j, g in enumerate(index):
            if g >= 0:
                want[:, g] += counts.toarray()[:, j]
        np.testing.assert_array_equal(got.toarray(), want)
        assert got.has_sorted_indices
        assert got.nnz == np.count_nonzero(want)

    check()


def test_genes_of_nowhere_are_refused_and_versions_accepted() -> None:
    table = load_gene_table("human")
    names = (*(f"{g}.7" for g in table.ids[:20]), "nonsense")
    mapped = map_genes(Opened(pd.DataFrame(index=[0]), gene_names=names), table, HUMAN)
    assert mapped.tally.balanced
    assert (mapped.tally.kept, sum(mapped.tally.dropped.values())) == (20, 1)
    with pytest.raises(ContractError, match="unknown-genes"):
        map_genes(Opened(pd.DataFrame(index=[0]), gene_names=tuple(f"x{i}" for i in range(50))), table, HUMAN)
