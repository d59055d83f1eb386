"""What an ingest would come to: cells, bytes, hours and cost, before anything is fetched. `panatlas plan` shows it.

Cells are stated by the corpora's own publishers (atlas/data/corpora), or counted in the files of a manifest. Time and
bytes are what the ingest benchmark measured, per non-zero count. Every figure says which of these it is and whence.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from atlas import AtlasError, list_corpora, load_corpus, load_manifest, measure_source
from ontology import OntologyError, get_organism, list_organisms

from .errors import CatalogInputError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from atlas import Source

Kind = Literal["measured", "stated", "assumed", "extrapolated"]

TYPICAL_NONZEROS = 1_560  # genes with counts a cell: mean of 500 real 10x v3 blood cells, where a corpus states none
CORE_HOUR = 0.05  # US dollars, about what clouds ask for a general-purpose core on demand
GB_MONTH = 0.023  # US dollars, list price of S3 standard storage
GB = 1e9


@dataclass(frozen=True)
class Figure:
    """One number of a plan."""

    name: str
    """What it is of."""
    value: float
    """The number."""
    unit: str
    """cells, counts, GB, core-hours, hours, GiB or USD."""
    kind: Kind
    """`measured` here or in the benchmark, `stated` by who publishes it, `assumed`, or `extrapolated` from these."""
    whence: str
    """Where it comes from."""


@dataclass(frozen=True)
class Part:
    """One corpus or source of a plan."""

    name: str
    """Corpus, or id of the source."""
    organism: str
    """Short organism name."""
    cells: int
    """Its cells."""
    nonzeros: float
    """Its counts that are not zero."""
    read_bytes: float
    """Bytes to bring here, or to read."""
    kinds: Mapping[str, Kind]
    """Of `cells`, `nonzeros` and `read_bytes`."""
    whence: str
    """Who states the cells, or the file."""


@dataclass(frozen=True)
class Machine:
    """What a plan takes for granted about where it runs."""

    cores: int = 16
    """Processes that work at once."""
    core_hour: float = CORE_HOUR
    """US dollars."""
    gb_month: float = GB_MONTH
    """US dollars for a gigabyte stored a month."""
    doublets: bool = True
    """Whether doublets are scored."""


@dataclass(frozen=True)
class IngestPlan:
    """What an ingest would come to."""

    what: str
    """What was asked for."""
    parts: tuple[Part, ...]
    """Corpora or sources, the largest first."""
    figures: tuple[Figure, ...]
    """Totals, each with its kind."""
    notes: tuple[str, ...]
    """What the figures leave out."""

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain values for JSON."""
        return asdict(self)


def plan_ingest(what: str, machine: Machine | None = None) -> IngestPlan:
    """Return what it would take to ingest an organism's cells of all corpora, all organisms, or a manifest.

    Parameters
    ----------
    what
        An organism in any spelling, `all`, or the path of a TOML manifest, whose local files are opened and counted.
    machine
        Cores and prices.

    Raises
    ------
    CatalogInputError
        If no corpus has cells of the organism, or a choice is not positive.
    UnknownOrganismError, AtlasInputError
        If it is neither an organism nor a manifest that can be read.
    """
    machine = machine or Machine()
    if machine.cores < 1 or machine.core_hour < 0 or machine.gb_month < 0:
        raise CatalogInputError("machine", asdict(machine), "at least one core, and prices that are not negative")
    notes: list[str] = []
    if what.endswith(".toml"):
        parts = [part for source in load_manifest(Path(what)) if (part := _of_source(source, notes)) is not None]
        if not parts:
            raise CatalogInputError("manifest", what, f"a source whose cells are known beforehand; {'; '.join(notes)}")
    else:
        names = [o.name for o in list_organisms()] if what == "all" else [get_organism(what).name]
        parts = [part for name in names for part in _of_corpora(name)]
        if not parts:
            raise CatalogInputError("organism", what, "one that a corpus has; pass a manifest of your own sources")
        notes.append("cells that several corpora hold are counted each time; filters of the recipes take some away")
        notes.append("corpora in Google's buckets are billed to the reader beyond 2 TB a month")
    parts.sort(key=lambda part: (-part.cells, part.name, part.organism))
    notes.append("doublets are scored" if machine.doublets else "doublets are not scored")
    notes.append("a dataset costs 1 to 3 core-seconds more, whatever its size, and more in an atlas of very many")
    notes.append("not in the hours: download, and the search for neighbours (docs/neighbours.md has its rate)")
    return IngestPlan(what, tuple(parts), _figures(parts, machine), tuple(notes))


def _of_corpora(organism: str) -> list[Part]:
    """Return what every corpus has of an organism."""
    parts = []
    for name in list_corpora():
        corpus = load_corpus(name)
        if organism not in corpus.cells:
            continue
        cells = corpus.cells[organism]
        per_cell = corpus.size.get("nonzeros_per_cell")
        nonzeros = cells * float(per_cell or TYPICAL_NONZEROS)
        stated = corpus.size.get("download_bytes")
        rate = _rates("with_doublets")
        read = float(stated) if stated else nonzeros * rate["h5ad_mib"] * 2**20 / _nonzeros(rate)
        kinds: dict[str, Kind] = {
            "cells": "stated",
            "nonzeros": "extrapolated" if per_cell else "assumed",
            "read_bytes": "stated" if stated else "extrapolated",
        }
        parts.append(Part(name, organism, cells, nonzeros, read, kinds, corpus.cells_source))
    return parts


def _of_source(source: Source, notes: list[str]) -> Part | None:
    """Return what a manifest's source has, or None with a note where that is not known before it is fetched."""
    name = str(source.id or source.uri)
    try:
        size = measure_source(source)
    except (AtlasError, OntologyError) as error:
        notes.append(f"left out, {name}: {error}")
        return None
    if size is None:
        notes.append(f"left out, {name}: its cells are known once it is fetched")
        return None
    kinds: dict[str, Kind] = {
        "cells": "measured",
        "nonzeros": "measured" if size.counted else "extrapolated",
        "read_bytes": "measured",
    }
    return Part(name, source.organism, size.cells, float(size.nonzeros), float(size.bytes_read), kinds, source.uri)


def _figures(parts: Sequence[Part], machine: Machine) -> tuple[Figure, ...]:
    """Return the totals."""
    rate = _rates("with_doublets" if machine.doublets else "without_doublets")
    told = _told(rate)
    cells, nonzeros = sum(p.cells for p in parts), sum(p.nonzeros for p in parts)
    share = nonzeros / _nonzeros(rate)
    store = share * rate["store_mib"] * 2**20 / GB
    hours = share * rate["cpu_s"] / 3600
    assumed = f"{TYPICAL_NONZEROS:,} a cell where a corpus states none"
    prices = f"{machine.core_hour} USD a core-hour, {machine.gb_month} USD a GB and month: assumed, pass your own"
    return (
        Figure("cells", cells, "cells", _weakest(parts, "cells"), "sum of the parts"),
        Figure(
            "non-zero counts", nonzeros, "counts", _weakest(parts, "nonzeros"),
            "sum of the parts" if _weakest(parts, "nonzeros") == "measured" else assumed,
        ),
        Figure(
            "input", sum(p.read_bytes for p in parts) / GB, "GB", _weakest(parts, "read_bytes"),
            "files as they are; unstated ones as uncompressed h5ad",
        ),
        Figure("store", store, "GB", "extrapolated", f"bytes per non-zero, {told}"),
        Figure("work", hours, "core-hours", "extrapolated", f"seconds per non-zero, {told}"),
        Figure(
            "time", hours / machine.cores, "hours", "extrapolated",
            f"on {machine.cores} cores that never wait: datasets are ingested side by side",
        ),
        Figure("memory", rate["peak_mib"] / 1024, "GiB", "measured", f"peak of one process, one dataset, {told}"),
        Figure("computing", hours * machine.core_hour, "USD", "assumed", prices),
        Figure("storing a month", store * machine.gb_month, "USD", "assumed", prices),
    )  # fmt: skip


def _weakest(parts: Sequence[Part], name: str) -> Kind:
    """Return the kind of a sum: that of its least certain part."""
    order: tuple[Kind, ...] = ("measured", "stated", "extrapolated", "assumed")
    return max((part.kinds[name] for part in parts), key=order.index)


def _rates(row: str) -> dict[str, Any]:
    """Return one measured row with its provenance."""
    text = files(__package__).joinpath("data", "rates.json").read_text("utf-8")
    record = json.loads(text)
    return record["rows"][row] | {key: record[key] for key in ("benchmark", "commit", "date", "machine")}


def _nonzeros(rate: Mapping[str, Any]) -> float:
    """Return the non-zero counts of a measured row."""
    return float(rate["cells"] * rate["nnz_per_cell"])


def _told(rate: Mapping[str, Any]) -> str:
    """Return a measured row's provenance in words."""
    return (
        f"{rate['cells']:,} cells of {rate['nnz_per_cell']:,.0f} counts, {rate['benchmark']} of {rate['date']}, "
        f"commit {rate['commit'][:10]}, {rate['machine']}"
    )
