"""Proving the cells of one organism: what X says of them against everything else the store says of them.

`CellCheck` takes the blocks of `content.cell_blocks` one after another, notes what is wrong in `Faults`, and counts on
the way what `validate` then compares with the tables. It trusts X and the pinned references, and nothing that was
derived from them.
"""

from __future__ import annotations

from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import tiledbsoma as soma

from ontology import LABELS, OntologyError, get_organism, load_gene_table, ontology_release

from . import layout, schema
from .cell_records import MOST_COUNT
from .content import CellDigests, SortedRows, cell_blocks, text_digests
from .contexts import opened
from .errors import StoreError
from .findings import Finding
from .identity import MIN_GENES, cell_ids, count_hashes, gene_keys
from .measure import measurable, measure_block
from .policy import REASONS, QCPolicy
from .record_store import wrong_records

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .content import CellBlock
    from .findings import Severity
    from .handle import Atlas

DAMAGE = (soma.SOMAError, pa.ArrowException, StoreError, OSError, KeyError)
"""What reading a damaged store raises."""
RESTORE = "restore the atlas from a copy, or ingest its sources into a new one"
EXPECTED = {
    "unreadable-array": "an array that can be read",
    "wrong-columns": "the columns of the schema",
    "joinids-not-dense": "one row for each published cell, and no other",
    "ledger-differs": "contiguous ranges, each with its receipt",
    "datasets-differ": "a row for each dataset of the ledger, and no other",
    "genes-differ": "the gene table the atlas was made with",
    "gene-totals-differ": "what X and the presence matrix add up to",
    "presence-differs": "the genes the dataset measured",
    "values-no-counts": f"whole counts from 1 to {MOST_COUNT}",
    "counts-differ": "counts with the hash that obs has",
    "metrics-differ": "what the counts give",
    "record-differs": "the cell's row of X",
    "neighbours-astray": "eligible cells of the same dataset at distances above 0, as many for each",
    "cell-ids-differ": "the hash of dataset and cell name, once in the atlas",
    "obs-differs": "what ledger, presence matrix and flags say",
    "primary-data-differs": "is_primary_data False for all but the first of equal cells",
    "unknown-term": "a current term of the pinned ontology that the label may have, or unknown",
    "term-name-differs": "the term's own label",
    "mapping-differs": "what the term stands for in the pinned ontology",
    "summary-differs": "what the cells add up to",
    "source-differs": "the content that was ingested",
    "source-unreachable": "the source where it was",
    "result-differs": "what the ledger says was written",
    "terms-not-checked": "ontologies at hand",
}
"""Finding codes, with what each expects."""
MILD: dict[str, tuple[Severity, str]] = {
    "source-unreachable": ("warning", "nothing, if it was moved; the store itself was checked without it"),
    "result-differs": ("error", "write it again with --force: the command is in the result's `about`"),
    "terms-not-checked": ("info", "fetch the ontologies: panatlas references fetch ontology NAME"),
}
"""Codes that are no fault of the store, with severity and remedy."""
OF_TERMS = ("unknown-term", "term-name-differs", "mapping-differs")
"""Codes that mean a fault only where the same ontologies are pinned."""
CLOSE = 1e-12  # of variances, the only metric whose sum may round differently

GROUPS = {
    **{label: [label, f"{label}_ontology_term_id"] for label in LABELS},
    "cell_culture": [schema.LABEL_COLUMN["cell_culture"]],
    "tissue_general": ["tissue_general", "tissue_general_ontology_term_id", "tissue_ontology_term_id"],
    "age_years": ["age_years", "development_stage_ontology_term_id"],
    "suspension_type": ["suspension_type"],
}
"""Columns of obs whose values belong together, by what they are about."""


class Faults:
    """What was found, counted by code and place; the first case of each is the example."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, str], tuple[str, int]] = {}
        self.other_ontologies = False

    def note(self, code: str, where: str, found: str, count: int = 1) -> None:
        """Add cases of a fault; none for a count of 0."""
        if count:
            said, before = self._found.get((code, where), (found, 0))
            self._found[code, where] = (said, before + count)

    def cells(self, code: str, where: str, block: CellBlock, wrong: np.ndarray, said: str = "") -> None:
        """Add the cells of a block for which `wrong` is True."""
        if wrong.any():
            first = f"cell {block.first + int(np.argmax(wrong))} of {block.dataset.dataset_id}"
            self.note(code, where, f"{first}{said and ': '}{said}", int(wrong.sum()))

    @contextmanager
    def unreadable(self, where: str) -> Iterator[None]:
        """Turn what a damaged array raises inside the block into a finding."""
        try:
            yield
        except DAMAGE as exc:
            self.note("unreadable-array", where, f"{type(exc).__name__}: {exc}"[:300])

    def findings(self) -> tuple[Finding, ...]:
        """Return a finding per code and place, in the order they were met."""
        out = []
        for (code, where), (found, count) in self._found.items():
            severity, remedy = MILD.get(code, ("error", RESTORE))
            if code in OF_TERMS and self.other_ontologies:
                severity, remedy = "warning", "another release of the ontologies is installed than the labels are from"
            out.append(Finding(code, severity, where, found, EXPECTED[code], remedy, count))
        return tuple(out)


class CellCheck:
    """Everything about one organism's cells, counted and compared as blocks come."""

    def __init__(self, atlas: Atlas, organism: str, faults: Faults) -> None:
        """Read var, the presence matrix and what the receipts say."""
        self.atlas, self.name, self.faults = atlas, organism, faults
        self.organism = get_organism(organism)
        self.root = f"{layout.DATA}/{organism}"
        self.var = atlas.genes(organism)
        ids = self.var["feature_id"].to_numpy(dtype=str)
        self._keys = gene_keys(ids)
        self._core = self._check_genes(ids)
        self._presence = self._read_presence()
        self.matched: Counter[tuple[str, str, str]] = Counter()
        self.groups: dict[str, Counter[tuple[object, ...]]] = {name: Counter() for name in GROUPS}
        self._primary: dict[str, Counter[tuple[object, ...]]] = {name: Counter() for name in GROUPS}
        self._nnz = np.zeros(len(ids), np.int64)
        self._books: dict[str, Counter[str]] = {}
        self._degrees: dict[str, int] = {}
        self._copies = {"count_hash": SortedRows(25), "core_hash": SortedRows(25)}
        self._digests = CellDigests(ids)
        self._receipts = atlas.written()
        self._note_ontologies()

    def run(self, progress: Callable[[str, int, int], None]) -> None:
        """Check every cell of the organism."""
        total = self.atlas.n_cells(self.name)
        with self.atlas.records(self.name) as records:
            for block in cell_blocks(self.atlas, self.name):
                with np.errstate(invalid="ignore"):  # damaged values are told of, not warned of
                    self._check_counts(block)
                    wrong = wrong_records(records, block.first, block.counts)
                told = np.isin(np.arange(block.first, block.first + len(block.obs)), wrong)
                self.faults.cells("record-differs", f"{self.root}/{layout.RECORDS}", block, told)
                self._check_neighbours(block)
                self._check_obs(block)
                self._count(block)
                self._digests.add(block)
                progress(self.name, block.first + len(block.obs), total)

    def finish(self) -> str:
        """Compare what was counted with var, the ontologies and the receipts; return the digest of all cells."""
        self._check_totals()
        self._check_copies()
        self._check_receipts()
        digest = self._digests.hexdigest()
        self.faults.note("cell-ids-differ", f"{self.root}/obs", "ids that several cells have", self._digests.repeated)
        return digest

    def summarised(self) -> dict[tuple[str, str, str], tuple[int, int]]:
        """Return cells and primary cells by category, label and term id, as census_info counts them."""
        out = {}
        total = primary = 0
        for category in schema.CELL_COUNT_CATEGORIES:
            for key, n in self.groups[category].items():
                term = str(key[1]) if category != "suspension_type" else "na"
                unique = self._primary[category][key]
                had = out.get((category, str(key[0]), term), (0, 0))
                out[category, str(key[0]), term] = (had[0] + n, had[1] + unique)
                if category == "assay":
                    total, primary = total + n, primary + unique
        return out | {("all", "na", "na"): (total, primary)}

    def _check_genes(self, ids: np.ndarray) -> np.ndarray | None:
        """Check var against the pinned table; return its core genes, None where another table is pinned."""
        where = f"{self.root}/{layout.VAR}"
        if not np.array_equal(self.var["soma_joinid"], np.arange(len(ids))):
            self.faults.note("joinids-not-dense", where, "joinids that are not 0, 1, 2 ...")
        repeated = len(ids) - len(np.unique(ids))
        self.faults.note("genes-differ", where, "ids that several genes have", repeated)
        with self.atlas.open() as tree:
            made = dict(tree[layout.DATA][self.name].metadata)
        try:
            table = load_gene_table(self.organism)
        except OntologyError:
            return None
        if made.get("gene_order_sha256") != table.order_sha256:
            return None
        columns = {"feature_id": table.ids, "is_mito": table.mito, "is_ribo": table.ribo}
        if made.get("gene_sha256") == table.sha256:
            names = np.where(np.asarray(table.symbols) == "", table.ids, table.symbols)
            columns |= {"feature_name": names, "feature_type": table.biotypes, "feature_length": table.lengths}
        for name, values in columns.items():
            meant = np.zeros(len(ids), bool) if values is None else np.asarray(values)
            if len(meant) != len(ids):
                self.faults.note("genes-differ", where, f"{len(ids)} genes")
                return None
            wrong = self.var[name].to_numpy(dtype=meant.dtype) != meant
            if wrong.any():
                self.faults.note("genes-differ", where, f"{name} of {ids[np.argmax(wrong)]}", int(wrong.sum()))
        return table.core

    def _read_presence(self) -> dict[str, np.ndarray]:
        """Return which genes each dataset measured, a bit a gene; note rows of no dataset."""
        rows = {d.dataset_joinid: d.dataset_id for d in self.atlas.datasets if d.organism == self.name}
        found = {name: np.packbits(np.zeros(len(self.var), bool)) for name in rows.values()}
        where = f"{self.root}/{layout.PRESENCE}"
        uri = self.atlas.array_uri(self.name, layout.PRESENCE)
        with opened(soma.SparseNDArray, uri, at=self.atlas.published_ms) as array:
            for part in array.read().tables():
                held, genes = part["soma_dim_0"].to_numpy(), part["soma_dim_1"].to_numpy()
                for joinid in np.unique(held).tolist():
                    if joinid not in rows:
                        self.faults.note("presence-differs", where, f"row {joinid} of no dataset")
                        continue
                    more = np.zeros(len(self.var), bool)
                    more[genes[(held == joinid) & part["soma_data"].to_numpy()]] = True
                    found[rows[joinid]] |= np.packbits(more)
        return found

    def _measured(self, dataset_id: str) -> np.ndarray:
        """Return a bool per gene: the dataset measured it."""
        return np.unpackbits(self._presence[dataset_id], count=len(self.var)).astype(bool)

    def _check_counts(self, block: CellBlock) -> None:
        """Derive hashes and metrics of a block's cells from X."""
        counts, obs, where = block.counts, block.obs, f"{self.root}/{layout.X_RAW}"
        rows = np.repeat(np.arange(len(obs)), np.diff(counts.indptr))
        sound = (counts.data >= 1) & (counts.data <= MOST_COUNT) & (counts.data == np.floor(counts.data))
        self.faults.cells("values-no-counts", where, block, _any_of(rows, ~sound, len(obs)))
        measured = self._measured(block.dataset.dataset_id)
        self.faults.cells(
            "presence-differs", where, block, _any_of(rows, ~measured[counts.indices], len(obs)),
            "counts of a gene its dataset did not measure",
        )  # fmt: skip
        core = np.zeros(len(self.var), bool) if self._core is None else self._core
        whole, inner = count_hashes(counts, self._keys, core)
        wrong = whole != obs["count_hash"].to_numpy()
        if self._core is not None:
            wrong |= inner != obs["core_hash"].to_numpy()
        self.faults.cells("counts-differ", where, block, wrong)
        self._nnz += np.bincount(counts.indices, minlength=len(self.var))
        policy = QCPolicy()
        said = self._receipts.get(block.dataset.dataset_id, {}).get("releases", {}).get("policy")
        least = policy.mito.min_genes if said == f"{policy.version} {policy.fingerprint()}" else None
        masks = [self.var[name].to_numpy() for name in ("is_mito", "is_ribo")]
        mito, ribo = (measurable(m, measured, n) for m, n in zip(masks, (least or 1, 1), strict=True))
        for name, meant in measure_block(counts, mito, ribo).items():
            if name == "pct_mito" and least is None:  # screened under another policy, whose minimum is not known
                continue
            found = obs[name].to_numpy()
            same = np.isclose(found, meant, rtol=CLOSE if name == "raw_variance_nnz" else 0, atol=0, equal_nan=True)
            self.faults.cells("metrics-differ", f"{self.root}/obs", block, ~same, name)

    def _check_neighbours(self, block: CellBlock) -> None:
        """Look at whose neighbours there are, and at how many."""
        graph, dataset = block.neighbours, block.dataset
        rows = np.repeat(np.arange(len(block.obs)), np.diff(graph.indptr))
        offsets = graph.indices.astype(np.int64) - dataset.first_joinid
        inside = (offsets >= 0) & (offsets < dataset.n_cells)
        fit = inside & block.eligible[np.where(inside, offsets, 0)] & (graph.data > 0) & np.isfinite(graph.data)
        fit &= offsets != rows + block.first - dataset.first_joinid
        mine = block.eligible[block.first - dataset.first_joinid :][: len(block.obs)]
        many = np.diff(graph.indptr)
        if mine.any():
            self._degrees.setdefault(dataset.dataset_id, int(np.median(many[mine])))
        wrong = _any_of(rows, ~fit, len(block.obs)) | (many != mine * self._degrees.get(dataset.dataset_id, 0))
        self.faults.cells("neighbours-astray", f"{self.root}/{layout.NEIGHBOURS}", block, wrong)

    def _check_obs(self, block: CellBlock) -> None:
        """Check what obs says of cells beside their counts and labels."""
        obs, where, dataset = block.obs, f"{self.root}/obs", block.dataset
        ids = cell_ids(dataset.dataset_id, obs["cell_name"].tolist())
        self.faults.cells("cell-ids-differ", where, block, ids != obs["observation_joinid"].to_numpy())
        flags = obs["qc_flags"].astype(str).to_numpy(dtype=object)
        scores = obs["doublet_score"].to_numpy()
        known = {flag: set(flag.split("|")) <= {*REASONS, ""} for flag in set(flags)}
        wrong = {
            "dataset_id": obs["dataset_id"].astype(str).to_numpy(dtype=object) != dataset.dataset_id,
            "n_measured_vars": obs["n_measured_vars"].to_numpy() != self._measured(dataset.dataset_id).sum(),
            "qc_pass": obs["qc_pass"].to_numpy() != (flags == ""),
            "qc_flags": ~np.array([known[flag] for flag in flags], dtype=bool),
            "doublet_score": ~(np.isnan(scores) | ((scores >= 0) & (scores <= 1))),
        }
        for name, mask in wrong.items():
            self.faults.cells("obs-differs", where, block, mask, name)

    def _count(self, block: CellBlock) -> None:
        """Add a block to what is compared at the end."""
        obs, dataset = block.obs, block.dataset.dataset_id
        for name, columns in GROUPS.items():
            sizes = obs.groupby(columns, observed=True, dropna=False)["is_primary_data"].agg(["size", "sum"])
            for key, size, primary in sizes.itertuples(name=None):
                whole = key if isinstance(key, tuple) else (key,)
                self.groups[name][whole] += int(size)
                self._primary[name][whole] += int(primary)
        for label in LABELS:
            for how, n in obs[f"{label}_match"].value_counts().items():
                if n:
                    self.matched[dataset, label, str(how)] += int(n)
        books = self._books.setdefault(dataset, Counter())
        books["counts"] += int(obs["raw_sum"].sum())
        for flags, n in obs["qc_flags"].value_counts().items():
            books.update({f"flag {flag}": int(n) for flag in str(flags).split("|") if flag and n})
        joinids = np.arange(block.first, block.first + len(obs)).astype(">u8")[:, None].view(np.uint8)
        primary = obs["is_primary_data"].to_numpy().astype(np.uint8)[:, None]
        for name, rows in self._copies.items():
            told = (obs["nnz"].to_numpy() >= MIN_GENES) & (obs[name].to_numpy() != "")
            rows.add(np.concatenate([text_digests(obs[name]), joinids, primary], axis=1)[told])

    def _note_ontologies(self) -> None:
        """Remember whether labels were mapped with other ontologies than those installed."""
        used = {str(r["releases"].get("ontologies")) for r in self._receipts.values()}
        self.faults.other_ontologies |= used != {ontology_release()}

    def _check_totals(self) -> None:
        """Compare var's totals with X and the presence matrix."""
        where = f"{self.root}/{layout.VAR}"
        cells = np.zeros(len(self.var), np.int64)
        for dataset in (d for d in self.atlas.datasets if d.organism == self.name):
            cells += self._measured(dataset.dataset_id) * dataset.n_cells
        for name, meant in (("nnz", self._nnz), ("n_measured_obs", cells)):
            wrong = self.var[name].to_numpy() != meant
            if wrong.any():
                i = int(np.argmax(wrong))
                said = f"{name} {self.var[name].iloc[i]} of {self.var['feature_id'].iloc[i]}, counted {meant[i]}"
                self.faults.note("gene-totals-differ", where, said, int(wrong.sum()))

    def _check_copies(self) -> None:
        """Find primary cells that repeat the counts of a cell before them."""
        for name, rows in self._copies.items():
            for part in rows:
                later = np.flatnonzero((part[1:, :16] == part[:-1, :16]).all(axis=1)) + 1
                wrong = later[part[later, 24] == 1]
                if len(wrong):
                    cell = int.from_bytes(part[wrong[0], 16:24].tobytes(), "big")
                    said = f"primary cell {cell} has the {name} of an earlier cell"
                    self.faults.note("primary-data-differs", f"{self.root}/obs", said, len(wrong))

    def _check_receipts(self) -> None:
        """Compare counts and flags with the books of each dataset's receipt."""
        for dataset, books in self._books.items():
            receipt = self._receipts.get(dataset)
            if receipt is None:
                continue
            meant = Counter({f"flag {flag}": n for flag, n in receipt["flagged"].items()})
            meant["counts"] = receipt["counts"]["kept"]
            for name in sorted(meant | books):
                if meant[name] != books[name]:
                    said = f"{dataset}: {name} {books[name]}, receipt {meant[name]}"
                    self.faults.note("ledger-differs", "receipts", said)


def _any_of(rows: np.ndarray, wrong: np.ndarray, n: int) -> np.ndarray:
    """Return which of n rows have a wrong value."""
    return np.bincount(rows[wrong], minlength=n) > 0
