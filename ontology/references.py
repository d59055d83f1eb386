"""The pins of data/references.toml as values: wheels with data, ontology assets, and one string that names them all.

Pure reading of a shipped file; wheels.py fetches, terms.py opens.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import cache
from importlib import resources


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


@cache
def wheel_pins() -> dict[str, WheelPin]:
    """Return the data wheels by name."""
    return {name: WheelPin(**row) for name, row in _rows()["wheels"].items()}


@cache
def ontology_pins() -> dict[str, OntologyPin]:
    """Return the ontology assets by every CURIE prefix they serve."""
    pins = {}
    for name, row in _rows()["ontologies"].items():
        pin = OntologyPin(name, row["version"], row["sha256"], tuple(row.get("also", ())))
        pins.update(dict.fromkeys((name, *pin.also), pin))
    return pins


def guide_requirement() -> str:
    """Return the exact requirement whose assets the pins describe."""
    return str(_rows()["guide"]["requirement"])


def ontology_release() -> str:
    """Return the pinned ontology versions in one string, sorted by name, for receipts and manifests.

    Examples
    --------
    >>> ontology_release().split(";")[0]
    'CL v2026-03-26'
    """
    pins = {pin.name: pin.version for pin in ontology_pins().values()}
    return ";".join(f"{name} {pins[name]}" for name in sorted(pins))


@cache
def _rows() -> dict[str, dict]:
    return tomllib.loads(resources.files(__package__).joinpath("data/references.toml").read_text(encoding="utf-8"))
