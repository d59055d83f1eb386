"""NCBITaxon as far as panatlas needs it: the lineages of its organisms, from data/taxa.tsv.

The full taxonomy costs 13 s and 3.2 GB and, in the guide, knows animals only. Here are some 200 taxa, so that organisms
have ancestors and distances like every other label. A user's own organism whose taxon is not among them hangs under the
root: its distances to others then say nothing, and `Ontology.faults` names it. terms.py serves it.
"""

from __future__ import annotations

from functools import cache
from importlib import resources
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from .organisms import Organism

TAXA = "v2026-05-13 (panatlas lineages 1)"
"""Release: the NCBITaxon release of the animals, and the version of our extract."""
ROOT = 1


def taxon_records(organisms: Sequence[Organism]) -> dict[str, dict[str, Any]]:
    """Return the taxa as records of an `Ontology`: the shipped ones, then organisms that they lack.

    Parameters
    ----------
    organisms
        Those to include; the names people call them by become synonyms.
    """
    rows = dict(_rows())
    names: dict[int, tuple[str, ...]] = {}
    for organism in organisms:
        rows.setdefault(organism.taxon, (ROOT, organism.label))
        names[organism.taxon] = tuple(dict.fromkeys((organism.name, *organism.aliases)))
    return {
        _curie(taxon): {
            "label": name,
            "deprecated": False,
            "synonyms": names.get(taxon, ()),
            "parents": (_curie(above),) if above else (),
        }
        for taxon, (above, name) in rows.items()
    }


def without_lineage(organisms: Sequence[Organism]) -> tuple[str, ...]:
    """Return the taxa of organisms that hang under the root because no lineage is shipped."""
    return tuple(_curie(organism.taxon) for organism in organisms if organism.taxon not in _rows())


def _curie(taxon: int) -> str:
    return f"NCBITaxon:{taxon}"


@cache
def _rows() -> Mapping[int, tuple[int, str]]:
    text = resources.files(__package__).joinpath("data/taxa.tsv").read_text(encoding="utf-8")
    lines = [line.split("\t") for line in text.splitlines() if not line.startswith("#")]
    return MappingProxyType({int(taxon): (int(above), name) for taxon, above, name in lines[1:]})
