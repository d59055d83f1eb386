"""The ontologies of this machine: `load_ontology("CL")`, from the pinned guide, our own lineages, or a snapshot.

Most come from compressed assets inside the installed cellxgene-ontology-guide, opened by pinned name and digest; its
Python code is not imported and its NCBITaxon never touched. What an ontology answers is in terms.py, how files become
one in ontology_files.py; here they are found, read once per process and kept in a compact cache.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import OntologyInputError, ReferenceMismatchError, ReferenceMissingError, SourceUnavailableError
from .ontology_files import read_ontology
from .organisms import Organism, list_organisms
from .places import cache_dir
from .references import OntologyPin, guide_requirement, ontology_file_pins, ontology_pins
from .snapshots import find_snapshot, references_dir
from .taxa import TAXA, taxon_records, without_lineage
from .term_table import FORM, cached_table, count_fault, make_table
from .terms import Ontology

if TYPE_CHECKING:
    from collections.abc import Mapping


def load_ontology(prefix: str) -> Ontology:
    """Return the ontology that serves a CURIE prefix; read once per process, and fast from the cache ever after.

    Parameters
    ----------
    prefix
        Name or prefix, such as `CL`, `UBERON`, or `ZFS` (whose terms live in ZFA). `NCBITaxon` holds the lineages of
        our organisms only. `PO` and others are there once their file was fetched or imported.

    Raises
    ------
    OntologyInputError
        When no ontology of that prefix is known.
    ReferenceMissingError
        When it is known and its file is not on this machine; the message says what to run.
    SourceUnavailableError
        When the installed guide does not carry the pinned release.
    ReferenceMismatchError
        When its bytes are not the pinned ones.
    """
    if pin := ontology_pins().get(prefix):
        return _load(pin)
    if prefix == "NCBITaxon":
        return _load_taxa(list_organisms())
    if _has_snapshot(prefix):
        # The record's identity stands for its content: another home or a renewed snapshot is read anew.
        record = references_dir() / "ontology" / f"{prefix}.json"
        state = record.stat()
        return _load_snapshot(prefix, record, (state.st_mtime_ns, state.st_ino))
    if prefix in ontology_file_pins():
        raise ReferenceMissingError("ontology", prefix, f"run panatlas references fetch ontology {prefix}")
    known = (*ontology_pins(), *ontology_file_pins(), "NCBITaxon")
    raise OntologyInputError("prefix", prefix, f"one of {', '.join(known)}, or one that was imported")


def _has_snapshot(prefix: str) -> bool:
    plain = isinstance(prefix, str) and re.fullmatch(r"[A-Za-z][A-Za-z0-9]{0,31}", prefix, re.ASCII)
    return bool(plain) and (references_dir() / "ontology" / f"{prefix}.json").is_file()


@cache
def _load(pin: OntologyPin) -> Ontology:
    # The digest is in the name, so what another release left behind is never believed.
    place = cache_dir() / "ontologies" / f"{pin.name}-{pin.version}-{pin.sha256[:12]}-{FORM}.npz"
    return Ontology(pin.name, pin.version, cached_table(place, lambda: make_table(_records(pin))))


@cache
def _load_taxa(organisms: tuple[Organism, ...]) -> Ontology:
    faults = count_fault("no lineage", without_lineage(organisms))
    return Ontology("NCBITaxon", TAXA, make_table(taxon_records(organisms), faults), ("is_a",))


@cache
def _load_snapshot(prefix: str, record: Path, state: tuple[int, int]) -> Ontology:
    snapshot = find_snapshot("ontology", prefix)
    assert snapshot is not None
    place = cache_dir() / "ontologies" / f"{prefix}-{snapshot.sha256[:12]}-{FORM}.npz"
    table = cached_table(place, lambda: read_ontology(snapshot.path, prefix, snapshot.release)._table)
    return Ontology(prefix, snapshot.release, table)


def _records(pin: OntologyPin) -> Mapping[str, Mapping[str, Any]]:
    """Return the records of an asset, proved by digest."""
    import zstandard  # noqa: PLC0415 - 20 ms that callers without an ontology need not pay

    data = _asset(pin).read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    if digest != pin.sha256:
        raise ReferenceMismatchError(f"{pin.file} of {guide_requirement()}", f"sha256 {pin.sha256}", f"sha256 {digest}")
    with zstandard.ZstdDecompressor().stream_reader(io.BytesIO(data)) as stream:
        return json.load(io.TextIOWrapper(stream, encoding="utf-8"))


def _asset(pin: OntologyPin) -> Path:
    try:
        guide = metadata.distribution("cellxgene-ontology-guide")
    except metadata.PackageNotFoundError as error:
        raise SourceUnavailableError(pin.file, "cellxgene-ontology-guide is not installed", _remedy()) from error
    path = Path(str(guide.locate_file(f"cellxgene_ontology_guide/data/{pin.file}")))
    if not path.is_file():
        raise SourceUnavailableError(pin.file, f"cellxgene-ontology-guide {guide.version} lacks it", _remedy())
    return path


def _remedy() -> str:
    return f"install {guide_requirement()}"
