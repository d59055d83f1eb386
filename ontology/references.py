"""The pins of data/references.toml as values: wheels with data, ontology assets, and one string that names them all.

Pure reading of a shipped file (`reference_rows`, here alone), and of the list of snapshots where the releases in use
are named; wheels.py, biomart.py and ontology_files.py fetch, ontologies.py opens.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from .snapshots import list_snapshots


@dataclass(frozen=True)
class WheelPin:
    """One data wheel, by exact version and digest."""

    requirement: str
    """Name and exact version."""
    sha256: str
    """Hex digest of the wheel."""
    licence: str
    """Licence of the data inside."""
    release: str
    """What the data is a snapshot of."""


@dataclass(frozen=True)
class OntologyPin:
    """One ontology asset of the installed guide."""

    name: str
    """Ontology, which is also the main CURIE prefix of its terms."""
    version: str
    """Release as its makers name it."""
    sha256: str
    """Hex digest of the compressed asset."""
    also: tuple[str, ...] = ()
    """Further prefixes whose terms live in the same asset."""

    @property
    def file(self) -> str:
        """Return the asset's file name inside the guide."""
        return f"{self.name}-ontology-{self.version}.json.zst"


@dataclass(frozen=True)
class OntologyFilePin:
    """One ontology that no package carries; its file is fetched on request."""

    name: str
    """Ontology, which is also the CURIE prefix of its terms."""
    version: str
    """Release as its makers name it."""
    url: str
    """Where the file lies, at a fixed commit."""
    sha256: str
    """Hex digest of the file, unpacked."""
    licence: str
    """Licence of the ontology."""


@cache
def wheel_pins() -> dict[str, WheelPin]:
    """Return the data wheels by name."""
    return {name: WheelPin(**row) for name, row in reference_rows()["wheels"].items()}


@cache
def ontology_pins() -> dict[str, OntologyPin]:
    """Return the ontology assets by every CURIE prefix they serve."""
    pins = {}
    for name, row in reference_rows()["ontologies"].items():
        pin = OntologyPin(name, row["version"], row["sha256"], tuple(row.get("also", ())))
        pins.update(dict.fromkeys((name, *pin.also), pin))
    return pins


@cache
def ontology_file_pins() -> dict[str, OntologyFilePin]:
    """Return the ontologies that are fetched as files, by prefix; usable only once a snapshot is there."""
    return {name: OntologyFilePin(name, **row) for name, row in reference_rows()["ontology_files"].items()}


def guide_requirement() -> str:
    """Return the exact requirement whose assets the pins describe."""
    return str(reference_rows()["guide"]["requirement"])


def ontology_release() -> str:
    """Return the ontology versions in use in one string, sorted by name, for receipts and manifests.

    The pinned ones, and those this machine keeps as snapshots, each with the first 12 digits of its digest: what its
    release is called is the user's word. NCBITaxon is no part of it: its lineages map no label.

    Examples
    --------
    >>> ontology_release().split(";")[0]
    'CL v2026-03-26'
    """
    pins = {pin.name: pin.version for pin in ontology_pins().values()}
    pins |= {kept.name: f"{kept.release} {kept.sha256[:12]}" for kept in list_snapshots("ontology")}
    return ";".join(f"{name} {pins[name]}" for name in sorted(pins))


@cache
def reference_rows() -> dict[str, dict[str, Any]]:
    """Return data/references.toml as it is; not to be changed."""
    return tomllib.loads(resources.files(__package__).joinpath("data/references.toml").read_text(encoding="utf-8"))
