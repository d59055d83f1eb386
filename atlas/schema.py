"""Every column the store holds, as data: name, Arrow type, unit and meaning. The contract of the atlas.

Writers, readers, the validator and docs/store.md iterate these lists; nothing repeats them. The layout (tiles,
filters, where arrays lie) is in `layout`; how author columns become these columns is in `standardise`.
Layout and Census columns follow the CELLxGENE Census schema 2.4.0, so its official clients read the store unchanged.
"""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

from ontology import LABELS

SCHEMA_VERSION = "1.2.0"  # of panatlas' own additions; an atlas of another version is refused, with the remedy
CENSUS_SCHEMA_VERSION = "2.4.0"  # what the official clients find under census_info/summary
DATASET_SCHEMA_VERSION = "7.1.0"  # CELLxGENE dataset schema whose vocabulary the labels use

CATEGORY = pa.dictionary(pa.int32(), pa.large_string())  # int32 index: int8 refuses the 128th category
TEXT = pa.large_string()  # 64-bit offsets: a 32-bit string array overflows at 2 GiB of text


@dataclass(frozen=True)
class Field:
    """One column: its name, type and meaning."""

    name: str
    """Column name in the store."""
    type: pa.DataType
    """Arrow type; dictionaries are categorical columns."""
    doc: str
    """Meaning, with unit or range."""
    census: bool = False
    """True where the Census schema defines the column; the others are ignored by its clients."""


def _label_fields() -> tuple[Field, ...]:
    """Return the columns of the nine labels: term, id, the author's words, and how they were matched."""
    fields = []
    for label in LABELS:
        name = LABEL_COLUMN.get(label, label)
        census = label != "organism"
        fields.append(Field(name, CATEGORY, f"Harmonised {label}: the term's label.", census))
        if label != "cell_culture":  # a closed vocabulary of four words, which has no term ids
            fields.append(Field(f"{name}_ontology_term_id", CATEGORY, f"Harmonised {label}: the term's id.", census))
        fields.append(Field(f"author_{label}", CATEGORY, f"The {label} in the source's own words; empty if none."))
        fields.append(Field(f"{label}_match", CATEGORY, f"How author_{label} was matched; see docs/labels.md."))
    return tuple(fields)


LABEL_COLUMN = {"cell_culture": "tissue_type"}  # Census' name of that label's column
UNKNOWN = "unknown"  # what the Census vocabulary has for a label nobody gave

OBS: tuple[Field, ...] = (
    Field("soma_joinid", pa.int64(), "Row in the organism's obs and X, dense from 0.", census=True),
    Field("dataset_id", CATEGORY, "Dataset the cell came from.", census=True),
    *_label_fields(),
    Field("tissue_general", CATEGORY, "Organ or system the tissue belongs to.", census=True),
    Field("tissue_general_ontology_term_id", CATEGORY, "UBERON id of tissue_general.", census=True),
    Field("donor_id", CATEGORY, "Donor as named by the source; `unknown` if not given.", census=True),
    Field("suspension_type", CATEGORY, "`cell`, `nucleus` or `na`.", census=True),
    Field("is_primary_data", pa.bool_(), "False for copies: said by the source or found by hash.", census=True),
    Field("observation_joinid", TEXT, "Stable id of the cell: 32 hex digits, same in every release.", census=True),
    Field("raw_sum", pa.float64(), "Counts in the cell.", census=True),
    Field("nnz", pa.int64(), "Genes with at least one count.", census=True),
    Field("raw_mean_nnz", pa.float64(), "Mean of the cell's non-zero counts.", census=True),
    Field("raw_variance_nnz", pa.float64(), "Variance (ddof 1) of the cell's non-zero counts.", census=True),
    Field("n_measured_vars", pa.int64(), "Genes the dataset measured; the others are not zeros.", census=True),
    Field("cell_name", TEXT, "Cell name (barcode) in the source."),
    Field("sample_id", CATEGORY, "Sample (library, batch) the QC is done within."),
    Field("age_years", pa.float32(), "Age in years, the middle of the stage's span; NaN where it states none."),
    Field("count_hash", TEXT, "128-bit hash of the cell's (gene id, count) pairs, 32 hex digits."),
    Field("core_hash", TEXT, "The same over the fixed core genes; empty where too few of them have counts."),
    Field("qc_pass", pa.bool_(), "True where the cell carries no QC reason; the default view."),
    Field("qc_flags", CATEGORY, "QC reason codes joined by `|`; empty where the cell passes."),
    Field("pct_mito", pa.float32(), "Counts in mitochondrial genes, percent; NaN where not measurable."),
    Field("pct_ribo", pa.float32(), "Counts in ribosomal protein genes, percent; NaN where not measurable."),
    Field("pct_top20", pa.float32(), "Counts in the cell's 20 largest genes, percent."),
    Field("doublet_score", pa.float32(), "Scrublet score, 0-1; NaN where not measured."),
    Field("source_row", pa.int64(), "Row of the cell in its source, from 0."),
)

VAR: tuple[Field, ...] = (
    Field("soma_joinid", pa.int64(), "Column in X, dense from 0.", census=True),
    Field("feature_id", TEXT, "Gene id of the pinned release, without version.", census=True),
    Field("feature_name", TEXT, "Gene symbol; the id where it has none. Not unique.", census=True),
    Field("feature_type", TEXT, "Biotype, e.g. protein_coding.", census=True),
    Field("feature_length", pa.int64(), "Length in bp; 0 unknown.", census=True),
    Field("nnz", pa.int64(), "Cells with at least one count of the gene.", census=True),
    Field("n_measured_obs", pa.int64(), "Cells of the datasets that measured the gene.", census=True),
    Field("is_mito", pa.bool_(), "On the mitochondrial genome; False throughout where no list exists."),
    Field("is_ribo", pa.bool_(), "Cytosolic ribosomal protein gene."),
)

RECORDS: tuple[Field, ...] = (
    Field("soma_joinid", pa.int64(), "Row in obs and X."),
    Field("genes", pa.large_binary(), "Which genes have counts in the cell, as bytes; see Records."),
    Field("counts", pa.large_binary(), "Their counts, in the same order."),
)

DATASETS: tuple[Field, ...] = (
    Field("soma_joinid", pa.int64(), "Row of the dataset; also its row in the presence matrices.", census=True),
    *(
        Field(name, TEXT, doc, census=True)
        for name, doc in (
            ("citation", "How to cite the dataset."),
            ("collection_id", "Collection the dataset belongs to; empty if none."),
            ("collection_name", "Name of the collection."),
            ("collection_doi", "DOI of the publication."),
            ("collection_doi_label", "Readable form of the DOI."),
            ("dataset_id", "Identity of the dataset."),
            ("dataset_version_id", "sha256 of the dataset's content as read."),
            ("dataset_title", "Title."),
            ("dataset_h5ad_path", "Where the source came from."),
        )
    ),
    Field("dataset_total_cell_count", pa.int64(), "Cells of the dataset in the atlas.", census=True),
    Field("organism", TEXT, "Organism, e.g. Homo sapiens."),
    Field("licence", TEXT, "Licence of the data as its source states it."),
    Field("input_sha256", TEXT, "sha256 of the input's bytes."),
)

SUMMARY: tuple[Field, ...] = (
    Field("soma_joinid", pa.int64(), "Row.", census=True),
    Field("label", TEXT, "Name of the fact.", census=True),
    Field("value", TEXT, "Its value, as text.", census=True),
)

SUMMARY_CELL_COUNTS: tuple[Field, ...] = (
    Field("soma_joinid", pa.int64(), "Row.", census=True),
    Field("organism", TEXT, "Organism, e.g. Homo sapiens.", census=True),
    Field("category", TEXT, "Label the count is over; `all` for the total.", census=True),
    Field("label", TEXT, "Value of the label.", census=True),
    Field("ontology_term_id", TEXT, "Its term id; `na` where it has none.", census=True),
    Field("total_cell_count", pa.int64(), "Cells.", census=True),
    Field("unique_cell_count", pa.int64(), "Cells with is_primary_data.", census=True),
)

ORGANISMS: tuple[Field, ...] = (
    Field("soma_joinid", pa.int64(), "Row.", census=True),
    Field("organism_ontology_term_id", TEXT, "NCBITaxon id.", census=True),
    Field("organism_label", TEXT, "Scientific name.", census=True),
    Field("organism", TEXT, "Name of the experiment under census_data.", census=True),
)

LABEL_PROVENANCE: tuple[Field, ...] = (
    Field("soma_joinid", pa.int64(), "Row; a dataset's rows are contiguous."),
    Field("dataset_id", TEXT, "Dataset the row is about."),
    Field("label", TEXT, "One of the nine labels."),
    Field("scope", TEXT, "What the label was given to: `cell`, `sample` or `study`; see docs/labels.md."),
    Field("how", TEXT, "Rule by which the cells' labels were matched."),
    Field("confidence", pa.float32(), "Confidence of that rule, 0-1."),
    Field("n_cells", pa.int64(), "Cells of the dataset matched so."),
)

CELL_COUNT_CATEGORIES = (
    "assay",
    "cell_type",
    "disease",
    "self_reported_ethnicity",
    "sex",
    "suspension_type",
    "tissue",
    "tissue_general",
)  # the categories of the Census' summary_cell_counts


def arrow_schema(fields: tuple[Field, ...]) -> pa.Schema:
    """Return `fields` as an Arrow schema, in order."""
    return pa.schema([pa.field(f.name, f.type, nullable=False) for f in fields])


def categories(fields: tuple[Field, ...]) -> tuple[str, ...]:
    """Return the names of the categorical columns among `fields`."""
    return tuple(f.name for f in fields if pa.types.is_dictionary(f.type))
