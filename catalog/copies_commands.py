"""The body of `panatlas duplicates`: the audit of copies, shown per two datasets and written pair by pair."""

from __future__ import annotations

from typing import TYPE_CHECKING

from atlas import find_near_copies, open_atlas

from . import console as show
from .errors import DONE
from .table_files import check_tables, write_tables
from .workflows import default_atlas

if TYPE_CHECKING:
    from pathlib import Path


def duplicates(
    organism: str,
    output: Path | None,
    thresholds: tuple[float, int],
    atlas: str | None,
    *,
    force: bool,
    json: bool,
) -> int:
    """Find near-copies, write their table, and show how many there are between which datasets."""
    if output is not None:
        check_tables({"output": output}, force=force)
    people = show.people()
    with show.StageBars(people) as bars:
        found = find_near_copies(
            open_atlas(atlas or default_atlas()), organism, min_shared=thresholds[0], min_genes=thresholds[1],
            progress=bars,
        )  # fmt: skip
    if output is not None:
        write_tables({output: found.pairs})
    people.print(f"{found.cells:,} cells compared, {found.shallow:,} with too few genes left out")
    if found.untested:
        people.print(f"[yellow]up to {found.untested:,} pairs were not tested[/]: cells alike by the hundreds")
    groups = found.by_datasets().to_dict("records")
    people.print(
        f"{len(found.pairs):,} pairs of cells of different datasets share {thresholds[0]:.0%} of their molecules"
    )
    if json:
        facts = {"pairs": len(found.pairs), "cells": found.cells, "shallow": found.shallow}
        facts |= {"candidates": found.candidates, "untested": found.untested}
        show.print_json({**facts, "datasets": groups, "output": None if output is None else str(output)})
    elif groups:
        show.print_table(groups, groups[0])
    if len(found.pairs):
        told = f"written to {show.plain(output)}" if output is not None else "--output writes them one by one"
        people.print(f"nothing was changed; which cell of a pair to keep, and why, is in the table: {told}")
    return DONE
