"""What a label was given to, computed from the cells: every rule by hand, and against a loop over samples."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atlas import ContractError, schema
from atlas.provenance import COLUMNS, label_provenance, read_obs
from ontology import LABELS

if TYPE_CHECKING:
    from pathlib import Path


def make_obs(donors: list[str], samples: list[str] | None = None, **labels: list[str]) -> pd.DataFrame:
    """Return obs as the standardiser leaves it; a label not given is missing, an empty text is missing."""
    n = len(donors)
    frame = pd.DataFrame({"donor_id": donors, "sample_id": samples or ["all"] * n})
    for label in LABELS:
        texts = labels.get(label, [""] * n)
        column = schema.LABEL_COLUMN.get(label, label)
        frame[f"author_{label}"] = texts
        frame[f"{label}_match"] = ["label" if t else "missing" for t in texts]
        frame[column if label == "cell_culture" else f"{column}_ontology_term_id"] = [t or "unknown" for t in texts]
    return frame


def scope_of(label: str, obs: pd.DataFrame) -> str:
    found = label_provenance(obs)
    (scope,) = set(found.loc[found["label"] == label, "scope"])
    return scope


@pytest.mark.parametrize(
    ("values", "donors", "scope"),
    [
        ("abab", "1122", "cell"),
        ("aabb", "1122", "sample"),
        ("aaaa", "1122", "study"),
        ("aaaa", "1111", "sample"),  # one sample: study cannot be told from it
        ("aaab", "1111", "cell"),
        ("abcd", "1234", "cell"),  # one cell a sample: sample cannot be told from it
        ("aaaa", "1234", "study"),
        ("aabc", "1123", "sample"),
        ("aa  ", "1122", "sample"),  # no value is a value of its own
        ("a a ", "1122", "cell"),
        ("    ", "1122", "none"),
        ("a", "1", "sample"),
    ],
)
def test_scopes(values: str, donors: str, scope: str) -> None:
    assert scope_of("disease", make_obs(list(donors), disease=[v.strip() for v in values])) == scope


def test_samples_are_told_apart_within_a_donor() -> None:
    obs = make_obs(["1"] * 4, ["x", "x", "y", "y"], tissue=["lung", "lung", "liver", "liver"])
    assert scope_of("tissue", obs) == "sample"


def test_the_same_words_with_other_terms_are_other_values() -> None:
    obs = make_obs(["1", "1", "2", "2"], cell_type=["a"] * 4)
    obs["cell_type_ontology_term_id"] = ["CL:0000084", "CL:0000236"] * 2
    assert scope_of("cell_type", obs) == "cell"


def test_one_row_a_label_and_way_of_matching() -> None:
    obs = make_obs(["1", "1", "2", "2"], cell_type=["a", "b", "", "b"])
    obs["cell_type_match"] = pd.Categorical(
        ["unmapped", "label", "missing", "label"], ["missing", "label", "unmapped", "id"]
    )
    found = label_provenance(obs)
    assert tuple(found.columns) == COLUMNS
    assert found["label"].unique().tolist() == list(LABELS)
    rows = found[found["label"] == "cell_type"].drop(columns="label").to_numpy().tolist()
    assert rows == [["cell", "label", pytest.approx(0.9), 2], ["cell", "missing", 0, 1], ["cell", "unmapped", 0, 1]]
    assert found.groupby("label")["n_cells"].sum().unique().tolist() == [4]
    assert (found["confidence"].dtype, found["n_cells"].dtype) == (np.float32, np.int64)
    pd.testing.assert_frame_equal(found, label_provenance(obs.astype("category")))


def test_no_cells_no_rows() -> None:
    assert len(label_provenance(make_obs([]))) == 0


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("12"), st.sampled_from("xy"), st.sampled_from(["", "a", "b"])), min_size=1))
def test_scope_equals_a_loop_over_samples(cells: list[tuple[str, str, str]]) -> None:
    by_sample: dict[tuple[str, str], list[str]] = {}
    for donor, sample, value in cells:
        by_sample.setdefault((donor, sample), []).append(value)
    values = {v for _, _, v in cells}
    if values == {""}:
        wanted = "none"
    elif len(values) == 1:
        wanted = "study" if len(by_sample) > 1 else "sample"
    elif any(len(set(group)) > 1 for group in by_sample.values()) or len(by_sample) == len(cells):
        wanted = "cell"
    else:
        wanted = "sample"
    donors, samples, said = (list(column) for column in zip(*cells, strict=True))
    assert scope_of("assay", make_obs(donors, samples, assay=said)) == wanted


def test_a_million_cells_take_seconds() -> None:
    n = 1_000_000
    rng = np.random.default_rng(0)
    obs = make_obs(["1"] * 4, cell_type=["a", "b", "a", "b"]).astype("category").iloc[rng.integers(0, 4, n)]
    began = time.process_time()
    found = label_provenance(obs)
    assert time.process_time() - began < 5  # 0.5 s on one idle core
    assert found["n_cells"].sum() == n * len(LABELS)


def test_obs_of_a_file_is_read_whatever_its_matrix_holds(tmp_path: Path) -> None:
    anndata = pytest.importorskip("anndata")
    cells = anndata.AnnData(
        np.array([[0.5], [-1.0]], np.float32), obs=pd.DataFrame({"age": ["23 years", "old"]}, index=["a", "b"])
    )
    cells.uns["organism"] = "Mus musculus"
    cells.write_h5ad(tmp_path / "x.h5ad")
    obs = read_obs(tmp_path / "x.h5ad")
    assert obs["age"].astype(str).tolist() == ["23 years", "old"]
    assert obs["organism"].tolist() == ["Mus musculus"] * 2
    (tmp_path / "y.h5ad").write_bytes(b"no")
    with pytest.raises(ContractError):
        read_obs(tmp_path / "y.h5ad")
