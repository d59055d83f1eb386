"""The guard between splits: equal cells on two sides, donors nobody named, sides without a cell. Findings, not silence.

Runs over the view `cells` of a release in the making (`releases`), with one grouping by hash whose state is of fixed
size, so that DuckDB can spill it at any number of cells. What it cannot see, near-copies above all: docs/cli.md.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from atlas import Finding, identity, schema

from .splits import SPLIT_NAMES, SPLITS, describe_places

if TYPE_CHECKING:
    from collections.abc import Sequence

    import duckdb

    from .splits import Place, SplitBy

MIN_GENES = identity.MIN_GENES  # what makes two cells copies at ingest makes them equal here
SPLIT_BITS = 32  # `place` = split << 32 | number of the population, so that its smallest and largest tell splits apart
_SHOWN = 3

_PARTED = f"""
CREATE TEMP TABLE parted AS
SELECT min(place) AS first, max(place) AS last,
       min(place) FILTER (is_primary_data) AS first_loaded, max(place) FILTER (is_primary_data) AS last_loaded,
       count(*) FILTER (is_primary_data) AS loaded, count(*) FILTER (NOT is_primary_data) AS copies
FROM cells WHERE qc_pass AND nnz >= {MIN_GENES} AND count_hash <> ''
GROUP BY CASE core_hash WHEN '' THEN count_hash ELSE core_hash END
HAVING min(place) >> {SPLIT_BITS} <> max(place) >> {SPLIT_BITS}
"""  # noqa: S608 - constants; equal counts have equal core hashes, so one key finds copies of both kinds
_LOADED = f"first_loaded >> {SPLIT_BITS} <> last_loaded >> {SPLIT_BITS}"
_COPIED = "copies > 0"


@dataclass(frozen=True)
class Leaks:
    """Equal cells in several splits."""

    primary_cells: int
    """Cells loaders would draw whose counts another such cell, in another split, has too."""
    copies: int
    """Copies that pass QC whose counts a cell of another split has; loaders leave them out."""
    primary_pairs: tuple[tuple[int, int, int], ...]
    """The commonest pairs behind `primary_cells`: numbers of two populations, and cells."""
    copy_pairs: tuple[tuple[int, int, int], ...]
    """The same for `copies`."""


def find_leaks(connection: duckdb.DuckDBPyConnection) -> Leaks:
    """Compare every passing cell with those of other splits, by core hash, or by count hash where it has none."""
    connection.execute(_PARTED)
    totals = connection.sql(
        f"SELECT coalesce(sum(loaded) FILTER ({_LOADED}), 0), coalesce(sum(copies), 0) FROM parted"  # noqa: S608
    ).fetchall()[0]
    primary = _pairs(connection, "first_loaded", "last_loaded", "loaded", _LOADED)
    return Leaks(int(totals[0]), int(totals[1]), primary, _pairs(connection, "first", "last", "copies", _COPIED))


def _pairs(
    connection: duckdb.DuckDBPyConnection, first: str, last: str, cells: str, condition: str
) -> tuple[tuple[int, int, int], ...]:
    """Return the commonest pairs of populations among the parted hashes, with the cells of each."""
    number = 2**SPLIT_BITS - 1
    query = (
        f"SELECT {first} & {number} AS a, {last} & {number} AS b, sum({cells}) AS n FROM parted "  # noqa: S608 - ours
        f"WHERE {condition} GROUP BY ALL ORDER BY n DESC, a, b LIMIT {_SHOWN}"
    )
    return tuple((int(a), int(b), int(n)) for a, b, n in connection.sql(query).fetchall())


def describe_leakage(leaks: Leaks, places: Sequence[Place]) -> dict[str, int]:
    """Return the guard's counts as the manifest keeps them."""
    nameless = [p for p in places if p.population.donor_id == schema.UNKNOWN]
    return {
        "min_genes": MIN_GENES,
        "primary_cells": leaks.primary_cells,
        "copies": leaks.copies,
        "joined_groups": len(_joined(places)),
        "unknown_donor_cells": sum(p.population.cells for p in nameless),
    }


def find_faults(leaks: Leaks, places: Sequence[Place], by: SplitBy, *, allow_leaks: bool) -> tuple[Finding, ...]:
    """Return what a person should know of the splits, the refusal first."""
    findings = [*_leaking(leaks, places, by, allow_leaks=allow_leaks), *_copied(leaks, places)]
    findings += _empty(places, by)
    joined = _joined(places)
    if by != "organism" and joined:
        found = f"{len(joined)} groups of several datasets of one publication, e.g. {joined[0]}"
        findings.append(
            Finding("joined-datasets", "info", "groups", found, "no donor in two splits", "nothing", len(joined))
        )
    return (*findings, *(_nameless(places) if by == "donor" else ()))


def _nameless(places: Sequence[Place]) -> list[Finding]:
    """Return the finding of cells without a donor: a warning where their donors may be named in another split."""
    nameless = [p for p in places if p.population.donor_id == schema.UNKNOWN]
    if not nameless:
        return []
    found = (
        f"no donor in {_some(list(dict.fromkeys(p.population.dataset_id for p in nameless)))}; its cells are one group"
    )
    splits: dict[tuple[str, ...], set[str]] = {}
    for place in places:
        if place.population.donor_id != schema.UNKNOWN:
            splits.setdefault(place.population.group("dataset"), set()).add(place.split)
    apart = [p for p in nameless if splits.get(p.population.group("dataset"), set()) - {p.split}]
    severity: Any = "warning" if apart else "info"
    if apart:
        names = _some(list(dict.fromkeys(p.population.dataset_id for p in apart)))
        found += f"; named donors of the same study as {names} are in other splits and may be the same"
    remedy = "name donors in the manifest (columns = {donor_id = ...}), or split by dataset"
    count = sum(p.population.cells for p in nameless)
    return [Finding("unknown-donors", severity, "obs, donor_id", found, "a donor per cell", remedy, count)]


def _leaking(leaks: Leaks, places: Sequence[Place], by: SplitBy, *, allow_leaks: bool) -> list[Finding]:
    if not leaks.primary_cells:
        return []
    first, last = (places[n] for n in leaks.primary_pairs[0][:2])
    advice = _bring_together(first, last, by)
    found = f"{leaks.primary_cells} cells equal to a cell in another split: {_spell(leaks.primary_pairs, places)}"
    remedy = f"{advice}, or pass --allow-leaks"
    severity: Any = "warning" if allow_leaks else "error"
    return [Finding("leaking-cells", severity, "cells", found, "equal cells in one split", remedy, leaks.primary_cells)]


def _bring_together(first: Place, last: Place, by: SplitBy) -> str:
    """Return the pins that put two groups into one split and are not refused beside those given already."""
    fixed = [place for place in (first, last) if place.pin.startswith(f"{by}:")]  # a wider pin gives way to a new one
    split = (fixed or [first])[0].split
    pins = [f"--{split} {shlex.quote(place.population.named(by))}" for place in (first, last)]
    if len(fixed) < 2:
        return f"pin both to one split ({' '.join(pins)})"
    return f"pin both to one split ({pins[1]} in the place of --{last.split} {shlex.quote(last.pin)})"


def _copied(leaks: Leaks, places: Sequence[Place]) -> list[Finding]:
    if not leaks.copies:
        return []
    found = f"{leaks.copies} copies of cells in another split: {_spell(leaks.copy_pairs, places)}"
    remedy = "loaders leave copies out; their donors' other cells may be related, so pin both to one split if in doubt"
    expected = "copies beside their original"
    return [Finding("copies-across-splits", "warning", "cells", found, expected, remedy, leaks.copies)]


def _empty(places: Sequence[Place], by: SplitBy) -> list[Finding]:
    """Return a finding per split without a loadable cell, with a group that could be pinned there."""
    loadable = describe_places(places)["loadable"]
    total, findings, taken = sum(loadable.values()), [], set[str]()
    for name, share in SPLITS:
        if loadable[name]:
            continue
        free = [(size, place) for size, place in _spare(places, taken) if size]
        near = min(free, key=lambda f: (abs(f[0] / total - share), f[1].group), default=None)
        remedy = "none can be spared; add datasets" + ("" if by == "donor" else ", or split by donor")
        if near:
            taken.add(near[1].group)
            remedy = f"pin some, e.g. --{name} {shlex.quote(near[1].population.named(by))}, here and in later releases"
        found = f"no cell to load in {name}: too few {by}s for the seed to reach it"
        findings.append(Finding("empty-split", "warning", f"split {name}", found, "cells in every split", remedy))
    return findings


def _spare(places: Sequence[Place], taken: set[str]) -> list[tuple[int, Place]]:
    """Return the groups a split can give away and keep another, each with its loadable cells."""
    sizes: dict[str, int] = {}
    for place in places:
        sizes[place.group] = sizes.get(place.group, 0) + place.population.loadable
    first = {place.group: place for place in reversed(places)}
    spare = []
    for name in SPLIT_NAMES:
        groups = [g for g, p in first.items() if p.split == name and sizes[g] and g not in taken]
        spare += [(sizes[g], first[g]) for g in groups if len(groups) > 1 and not first[g].pinned]
    return spare


def _joined(places: Sequence[Place]) -> list[str]:
    """Return the groups that hold cells of several datasets because these are of one publication."""
    datasets: dict[str, set[str]] = {}
    for place in places:
        if place.population.publication:
            datasets.setdefault(place.group, set()).add(place.population.dataset_id)
    return sorted(group for group, found in datasets.items() if len(found) > 1)


def _spell(pairs: Sequence[tuple[int, int, int]], places: Sequence[Place]) -> str:
    """Return pairs of populations in words."""
    words = []
    for first, last, cells in pairs:
        ends = [f"{places[n].population.named('donor')[6:]} ({places[n].split})" for n in (first, last)]
        words.append(f"{cells} of {' and '.join(ends)}")
    return "; ".join(words)


def _some(names: Sequence[str]) -> str:
    """Return the first few names and how many more there are."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
