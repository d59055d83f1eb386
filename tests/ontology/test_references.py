"""The pins: read in one place, whole, and the same for everybody who asks."""

from __future__ import annotations

import tomllib
from pathlib import Path

import ontology
from ontology.references import OntologyPin, ontology_pins, reference_rows, wheel_pins

FLOOR = Path(ontology.__file__).parent


def test_one_function_reads_the_pins() -> None:
    readers = [
        path.name for path in FLOOR.glob("*.py") if 'joinpath("data/references.toml")' in path.read_text("utf-8")
    ]
    assert readers == ["references.py"]
    assert reference_rows() == tomllib.loads((FLOOR / "data" / "references.toml").read_text("utf-8"))
    assert reference_rows() is reference_rows()


def test_pins_are_the_rows() -> None:
    rows = reference_rows()
    assert {name: pin.sha256 for name, pin in wheel_pins().items()} == {
        n: r["sha256"] for n, r in rows["wheels"].items()
    }
    zfa = rows["ontologies"]["ZFA"]
    assert ontology_pins()["ZFS"] == OntologyPin("ZFA", zfa["version"], zfa["sha256"], ("ZFS",))
