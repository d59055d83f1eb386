"""From a source's own words to the store's columns: labels to terms, gene names to the pinned gene table.

Pure: takes what `read` opened and the ontology floor's tables, returns values and findings. Nothing is guessed: a
label that no rule maps stays `unknown` beside the author's text, a gene that no rule maps is counted and dropped.
Which author column feeds which field is data (`data/columns.tsv`), overridden by the source's manifest.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import scipy.sparse as sp

from ontology import (
    LABELS,
    OntologyError,
    harmonise,
    list_organisms,
    load_gene_table,
    load_ontology,
    resolve_genes,
)

from .errors import ContractError
from .findings import Finding, Tally
from .schema import LABEL_COLUMN, UNKNOWN

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ontology import GeneTable, Match, Organism

    from .read import RawCells
    from .sources import Source

MIN_RESOLVED = 0.05  # share of gene names; below it the file is of another organism or naming scheme
PLAINLY = 0.5  # share of gene names known to another organism that names it as the right one
_SHOWN = 5  # examples a finding names


@dataclass(frozen=True)
class GeneMap:
    """How a source's genes lie in the organism's gene table."""

    index: np.ndarray
    """Position in the gene table per source gene, int64; -1 where unmapped."""
    measured: np.ndarray
    """Bool per gene of the table: the source measured it (at least one of its genes maps there)."""
    tally: Tally
    """Genes in = kept + summed duplicates + unmapped."""
    findings: tuple[Finding, ...]
    """What was unmapped or summed, with examples."""

    def project(self, counts: sp.csr_matrix) -> sp.csr_matrix:
        """Return counts over the gene table: cell x table gene, float32, sorted, duplicate genes summed."""
        from .count_kernels import project, rows_of  # noqa: PLC0415 - numba, when the first cells are read

        indptr, indices, data = project(rows_of(counts), self.index, len(self.measured))
        out = sp.csr_matrix((data, indices, indptr), shape=(counts.shape[0], len(self.measured)))
        out.has_canonical_format = True
        return out


def map_genes(cells: RawCells, genes: GeneTable, organism: Organism) -> GeneMap:
    """Map a source's gene names onto the organism's table.

    Raises
    ------
    ContractError
        If under 5 % of the names resolve: a file of another organism or naming scheme.
    """
    mapping = resolve_genes(cells.gene_names, genes, cells.gene_fallback)
    index = np.asarray(mapping.index, dtype=np.int64)
    resolved = index >= 0
    if resolved.sum() < max(1, MIN_RESOLVED * len(index)):
        _check_other_organisms(cells, organism)
        raise ContractError(
            "the gene axis",
            [
                Finding(
                    "unknown-genes",
                    "error",
                    "var",
                    f"{resolved.sum()} of {len(index)} names known, e.g. {_examples(cells.gene_names)}",
                    f"gene ids or symbols of {organism.label}",
                    "check the organism; pass Ensembl ids in var if the names follow another scheme",
                    count=int((~resolved).sum()),
                )
            ],
        )
    kept, repeats = np.unique(index[resolved], return_counts=True)
    measured = np.zeros(len(genes), dtype=bool)
    measured[kept] = True
    merged, unmapped = int(resolved.sum() - len(kept)), int((~resolved).sum())
    how = Counter(np.asarray(mapping.how)[~resolved].tolist())
    tally = Tally(len(index), len(kept), merged, dict(sorted(how.items())))
    findings = []
    if unmapped:
        found = f"{unmapped} of {len(index)} names not in the gene table, e.g. {_examples(mapping.unmapped)}"
        remedy = "their counts are left out and tallied; add ids to var to keep them"
        findings.append(Finding("unmapped-genes", "warning", "var", found, "known gene names", remedy, unmapped))
    if merged:
        found = f"{merged} columns that name a gene another column names, e.g. {genes.ids[kept[repeats > 1][0]]}"
        findings.append(
            Finding("duplicate-genes", "info", "var", found, "one column a gene", "their counts were summed", merged)
        )
    return GeneMap(index, measured, tally, tuple(findings))


def _check_other_organisms(cells: RawCells, organism: Organism) -> None:
    """Refuse a source whose genes are plainly another organism's, naming that one."""
    for other in list_organisms():
        try:
            table = load_gene_table(other) if other != organism else None
        except OntologyError:  # no gene table for it, or none at hand
            continue
        if table is None:
            continue
        known = int((np.asarray(resolve_genes(cells.gene_names, table, cells.gene_fallback).index) >= 0).sum())
        if known >= PLAINLY * len(cells.gene_names):
            finding = Finding(
                "wrong-organism", "error", "var", f"{known} of {len(cells.gene_names)} genes are of {other.label}",
                f"genes of {organism.label}", f"ingest it as that: panatlas ingest {other.name}",
            )  # fmt: skip
            raise ContractError("the gene axis", [finding])


@dataclass(frozen=True)
class Labels:
    """A source's cells in the store's columns."""

    frame: pd.DataFrame
    """One row a cell in file order: every label column, donor_id, sample_id, age_years, suspension_type,
    is_primary_data."""
    matches: dict[str, dict[str, int]]
    """Per label, cells by how the author's text was matched."""
    findings: tuple[Finding, ...]
    """One per label whose text could not be mapped, with suggestions, or contradicts what stands beside it."""


def standardise_labels(source: Source, cells: RawCells, organism: Organism) -> Labels:
    """Map a source's obs onto the store's label columns.

    Raises
    ------
    ContractError
        If the source names an organism other than `organism`.
    """
    _check_organism(cells, organism)
    out: dict[str, object] = {}
    matches: dict[str, dict[str, int]] = {}
    findings: list[Finding] = []
    for label in LABELS:
        if label == "organism":
            out |= {"organism": organism.label, "organism_ontology_term_id": organism.term_id}
            out |= {"author_organism": _author(source, cells, "organism"), "organism_match": "id"}
            matches[label] = {"id": cells.n_obs}
            continue
        columns, matches[label], missed = _standardise_label(label, source, cells, organism)
        out |= columns
        findings += missed
    frame = pd.DataFrame(out, index=pd.RangeIndex(cells.n_obs))
    codes, terms = pd.factorize(frame["tissue_ontology_term_id"])
    general = np.array([_general_tissue(term) for term in terms], dtype=object).reshape(-1, 2)
    frame["tissue_general_ontology_term_id"], frame["tissue_general"] = general[codes].T
    frame["donor_id"] = _column(source, cells, "donor_id", UNKNOWN)
    frame["sample_id"] = _column(source, cells, "sample_id", "all")
    frame["age_years"] = _age_years(frame["development_stage_ontology_term_id"], organism)
    suspension = pd.Series(_column(source, cells, "suspension_type", "na"))
    frame["suspension_type"] = suspension.where(suspension.isin(["cell", "nucleus", "na"]), "na")
    findings += _check_tissue_types(frame)
    primary = pd.Series(_column(source, cells, "is_primary_data", "True"))
    frame["is_primary_data"] = ~primary.str.lower().isin(["false", "0", "0.0", "no", "f", "n"]).to_numpy()
    return Labels(frame, matches, tuple(findings))


def _standardise_label(
    label: str, source: Source, cells: RawCells, organism: Organism
) -> tuple[dict[str, object], dict[str, int], list[Finding]]:
    """Return one label's columns, how its cells matched, and a finding where text could not be mapped."""
    text = _author(source, cells, label)
    ids = _author(source, cells, f"{label}_ontology_term_id")
    text_codes, texts = pd.factorize(text)
    id_codes, id_values = pd.factorize(ids)
    by_id = harmonise(label, [v for v in id_values if v], organism)
    by_text = harmonise(label, [v for v in texts if v], organism)
    missing = harmonise(label, [None], organism)[None]
    # Cells fall into few (id, text) pairs; everything below is decided once a pair and dealt out to its cells.
    pairs, inverse, sizes = np.unique(id_codes * len(texts) + text_codes, return_inverse=True, return_counts=True)
    said = [(id_values[p // len(texts)], texts[p % len(texts)]) for p in pairs]
    chosen = [_best(by_id.get(i), by_text.get(t)) or missing for i, t in said]

    def deal(values: list[str]) -> np.ndarray:
        return np.array(values, dtype=object)[inverse]

    column = LABEL_COLUMN.get(label, label)
    out: dict[str, object] = {
        column: deal([m.label or m.term_id for m in chosen]),
        f"author_{label}": deal([t or i for i, t in said]),
        f"{label}_match": deal([m.how for m in chosen]),
    }
    if label != "cell_culture":
        out[f"{column}_ontology_term_id"] = deal([m.term_id for m in chosen])
    how: Counter[str] = Counter()
    lost: Counter[str] = Counter()
    differ: Counter[str] = Counter()
    for match, (i, t), size in zip(chosen, said, sizes.tolist(), strict=True):
        how[match.how] += size
        if match.how == "unmapped":
            lost[match.text] += size
        if i in by_id and t in by_text and by_id[i].contradicts(by_text[t]):
            differ[f"{i} ({by_id[i].label}) beside {t!r}"] += size
    findings = _differences(label, differ)
    if lost:
        hints = {m.text: m.suggestions for m in (*by_id.values(), *by_text.values()) if m.suggestions}
        shown = [
            f"{t!r}" + (f" (near {' '.join(hints[t][0])})" if t in hints else "") for t, _ in lost.most_common(_SHOWN)
        ]
        found = f"{len(lost)} values no rule maps, e.g. {', '.join(shown)}"
        remedy = "the author's text is kept; name the term in the manifest's constants or add an override"
        where = f"obs, {label}"
        findings.append(Finding("unmapped-label", "warning", where, found, "a term", remedy, sum(lost.values())))
    elif set(how) == {"missing"} and missing.term_id == UNKNOWN:
        remedy = f"name it in the manifest: constants = {{{label} = ...}} or columns = {{{label} = ...}}"
        findings.append(Finding("missing-label", "info", f"obs, {label}", "no column", "a label", remedy, cells.n_obs))
    return out, dict(sorted(how.items())), findings


def _differences(label: str, differ: Counter[str]) -> list[Finding]:
    """Return a finding where ids and the author's words beside them name terms of different lines."""
    if not differ:
        return []
    shown = ", ".join(pair for pair, _ in differ.most_common(_SHOWN))
    found = f"{len(differ)} ids that contradict the text beside them, e.g. {shown}"
    remedy = "the id is kept and the text stays beside it; correct at the source whichever is wrong"
    expected = "one meaning"
    count = sum(differ.values())
    return [Finding("label-id-text-differ", "warning", f"obs, {label}", found, expected, remedy, count)]


def _check_tissue_types(frame: pd.DataFrame) -> list[Finding]:
    """Return a finding where a cell type stands as the tissue of cells that were not cultured, as CELLxGENE forbids."""
    terms = frame["tissue_ontology_term_id"]
    codes, distinct = pd.factorize(terms)
    of_cells = np.array([term.startswith("CL:") for term in distinct], dtype=bool)[codes]
    bad = of_cells & frame["tissue_type"].isin(["tissue", "organoid"]).to_numpy()
    if not bad.any():
        return []
    found = f"cell types as tissue where tissue_type is tissue or organoid, e.g. {terms[bad].iloc[0]}"
    remedy = "name the anatomical part, or say cell_culture = primary cell culture if they were cultured"
    return [
        Finding("tissue-is-cell-type", "warning", "obs, tissue", found, "an anatomical term", remedy, int(bad.sum()))
    ]


def _age_years(stages: pd.Series, organism: Organism) -> np.ndarray:
    """Return each cell's age in years, float32: the middle of its stage's span, where that is open its start."""
    codes, terms = pd.factorize(stages)
    spans = [match.years for match in harmonise("development_stage", terms, organism, suggestions=0).values()]
    ages = [np.nan if span is None else span[0] if np.isinf(span[1]) else sum(span) / 2 for span in spans]
    return np.array(ages, dtype=np.float32)[codes]


def _best(by_id: Match | None, by_text: Match | None) -> Match | None:
    """Return the match to keep: an id that maps, else text that maps, else whichever says most."""
    for match in (by_id, by_text):
        if match is not None and match.mapped:
            return match
    return by_text if by_text is not None and by_text.how != "missing" else by_id


def _author(source: Source, cells: RawCells, field: str) -> np.ndarray:
    """Return the author's text of a field per cell, "" where there is none; objects that share their strings."""
    obs = cells.obs
    if field in source.columns:
        column = source.columns[field]
        if column not in obs.columns:
            finding = Finding(
                "missing-column", "error", "obs", f"no column {column!r}", f"the column the manifest names for {field}",
                f"correct the manifest; the file has {', '.join(map(str, obs.columns[:20]))}",
            )  # fmt: skip
            raise ContractError(source.id or source.uri, [finding])
    elif field in source.constants:
        return np.full(len(obs), source.constants[field], dtype=object)
    else:
        column = next((c for c in _candidates().get(field, ()) if c in obs.columns), "")
    if not column:
        return np.full(len(obs), "", dtype=object)
    values = obs[column]
    if isinstance(values, pd.DataFrame):  # two columns of one name
        values = values.iloc[:, 0]
    codes, distinct = pd.factorize(values)  # -1 is missing
    return np.array([*(str(v) for v in distinct), ""], dtype=object)[codes]


def _column(source: Source, cells: RawCells, field: str, default: str) -> np.ndarray:
    """Return a field that is no label as text, `default` where a cell has none."""
    values = _author(source, cells, field)
    return np.where(values == "", default, values)


def _check_organism(cells: RawCells, organism: Organism) -> None:
    """Refuse a source that says it is of another organism."""
    said: set[str] = set()
    for key in ("organism_ontology_term_id", "organism"):
        if key in cells.obs.columns:
            said |= {str(v) for v in cells.obs[key].dropna().unique()}
        elif key in cells.uns:
            said.add(str(cells.uns[key]))
    known = {organism.name, organism.label, organism.term_id, organism.experiment, str(organism.taxon)}
    known = {k.lower() for k in known}
    other = sorted(v for v in said - {"", UNKNOWN, "na"} if v.lower() not in known)
    if other:
        finding = Finding(
            "wrong-organism", "error", "obs/uns organism", ", ".join(map(repr, other[:_SHOWN])),
            f"{organism.label} ({organism.term_id})", "ingest the file under its own organism; split mixed files first",
        )  # fmt: skip
        raise ContractError("the source", [finding])


def label_columns(columns: Sequence[str]) -> dict[str, str]:
    """Return, per label that a source's obs columns name, the column its text or else its ids are looked for in."""
    fields = {label: (label, f"{label}_ontology_term_id") for label in LABELS}
    looked = {label: [c for f in names for c in _candidates().get(f, ())] for label, names in fields.items()}
    found = {label: next((c for c in names if c in columns), None) for label, names in looked.items()}
    return {label: column for label, column in found.items() if column is not None}


@cache
def _candidates() -> dict[str, tuple[str, ...]]:
    """Return, per field, the author columns to look for, from data/columns.tsv."""
    return {field: tuple(names.split(",")) for field, names in _rows("columns.tsv")}


@cache
def _general_terms() -> dict[str, str]:
    """Return the organs and systems tissue_general sums under, id to label."""
    return dict(_rows("tissue_general.tsv"))


def _rows(name: str) -> list[tuple[str, str]]:
    """Return the two-column rows of a data file of this floor."""
    text = files(__package__).joinpath("data", name).read_text("utf-8")
    lines = (line.split("\t") for line in text.splitlines() if line and not line.startswith("#"))
    return [(a, b) for a, b in lines]


@cache
def _general_tissue(term: str) -> tuple[str, str]:
    """Return id and label of the nearest listed organ or system above a tissue term, `unknown` where none is."""
    general = _general_terms()
    if term in general:
        return term, general[term]
    if term.startswith("UBERON:"):
        above = load_ontology("UBERON").ancestors(term)
        near = sorted((d, t) for t, d in above.items() if t in general)
        if near:
            return near[0][1], general[near[0][1]]
    return UNKNOWN, UNKNOWN


def _examples(names: Sequence[str]) -> str:
    """Return the first few names, each shortened, for a message."""
    return ", ".join(repr(str(n)[:40]) for n in list(names)[:_SHOWN])
