"""The schema is the contract: the docs list it whole, and the Census' columns are all there."""

from pathlib import Path

import pyarrow as pa

from atlas import schema
from atlas.ortholog_tables import ORTHOLOG_GROUPS, ORTHOLOGS

DOCS = Path(__file__).parents[2] / "docs" / "store.md"
# obs columns of Census schema 2.4.0, from its published specification
CENSUS_OBS = [
    "soma_joinid",
    "dataset_id",
    "assay",
    "assay_ontology_term_id",
    "cell_type",
    "cell_type_ontology_term_id",
    "development_stage",
    "development_stage_ontology_term_id",
    "disease",
    "disease_ontology_term_id",
    "donor_id",
    "is_primary_data",
    "observation_joinid",
    "self_reported_ethnicity",
    "self_reported_ethnicity_ontology_term_id",
    "sex",
    "sex_ontology_term_id",
    "suspension_type",
    "tissue",
    "tissue_ontology_term_id",
    "tissue_type",
    "tissue_general",
    "tissue_general_ontology_term_id",
    "raw_sum",
    "nnz",
    "raw_mean_nnz",
    "raw_variance_nnz",
    "n_measured_vars",
]


def rows(fields: tuple[schema.Field, ...]) -> str:
    """Return the table docs/store.md must hold."""
    kind = {pa.float64(): "float64", pa.float32(): "float32", pa.int64(): "int64", pa.bool_(): "bool"}
    kind[pa.large_binary()] = "bytes"
    lines = ["| column | type | Census | meaning |", "|---|---|---|---|"]
    for f in fields:
        text = "categorical" if pa.types.is_dictionary(f.type) else kind.get(f.type, "text")
        lines.append(f"| `{f.name}` | {text} | {'yes' if f.census else ''} | {f.doc.replace('|', chr(92) + '|')} |")
    return "\n".join(lines)


def test_docs_list_every_column() -> None:
    text = DOCS.read_text("utf-8")
    assert rows(schema.OBS) in text
    assert rows(schema.VAR) in text
    for fields in (schema.RECORDS, schema.LABEL_PROVENANCE, ORTHOLOGS, ORTHOLOG_GROUPS):
        assert rows(fields) in text


def test_census_columns_are_all_there_and_marked() -> None:
    assert set(CENSUS_OBS) == {f.name for f in schema.OBS if f.census}


def test_names_are_unique_and_categories_have_wide_codes() -> None:
    for fields in (schema.OBS, schema.VAR, schema.RECORDS, schema.DATASETS, schema.SUMMARY_CELL_COUNTS):
        names = [f.name for f in fields]
        assert len(names) == len(set(names))
        assert all(f.type.index_type == pa.int32() for f in fields if pa.types.is_dictionary(f.type))
