"""The body of each command: call a workflow, show its result to people or to programs, return the exit code.

`cli` declares the arguments and loads this file when a command runs, because tiledbsoma and duckdb take a second that
`--help` should not cost. The rules live in `workflows`, `search`, `views` and `releases`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from atlas import IngestOptions, Workers, parse_where

from . import console as show
from .errors import DONE, REJECTED
from .info import describe_atlas
from .releases import make_release
from .search import search_cells
from .views import sql as run_sql
from .workflows import default_atlas, ingest_organism, list_starters, resolve_sources, rewrite_report

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from atlas import Receipt

    from .splits import SplitBy


def ingest(
    organism: str,
    uris: Sequence[str],
    manifest: Path | None,
    atlas: str | None,
    switches: Mapping[str, bool],
    chosen: tuple[int, str | None, Path | None],
    *,
    json: bool,
) -> int:
    """Ingest, showing each receipt as it comes; with `json` the receipts go to stdout in one document."""
    people = show.people()
    sources = resolve_sources(organism, uris, manifest)
    count, scheduler, scratch = chosen
    workers = Workers(count, scheduler or "", scratch) if any(chosen) else None
    with show.StageBars(people) as bars:

        def on_receipt(receipt: Receipt) -> None:
            bars.clear()
            show.show_receipt(people, receipt)

        options = IngestOptions(**switches, progress=bars)
        run = ingest_organism(organism, sources, atlas, options, workers=workers, on_receipt=on_receipt)
    show.show_run(people, run, atlas or default_atlas())
    if json:
        show.print_json(run.to_dict())
    return run.exit_code


def organisms(*, json: bool) -> int:
    """List every organism with its id and its starter sources."""
    rows = list_starters()
    show.print_json(rows) if json else show.print_table(rows, rows[0])
    return DONE


def search(
    text: str, where: Sequence[str], organism: str | None, atlas: str | None, *, all_cells: bool, json: bool
) -> int:
    """Count matching cells; the table is the result, what the text matched is for people."""
    query = parse_where(*where)
    found = search_cells(atlas or default_atlas(), text, query, organism=organism, every_cell=all_cells)
    people = show.people()
    show.show_found(people, found)
    if json:
        show.print_json(found.to_dict())
    elif found.groups:
        show.print_table(found.groups[: show.SHOWN_GROUPS], found.groups[0])
        if len(found.groups) > show.SHOWN_GROUPS:
            people.print(f"and {len(found.groups) - show.SHOWN_GROUPS} more rows; --json has all")
    return DONE


def info(atlas: str | None, *, json: bool) -> int:
    """Describe the atlas."""
    facts = describe_atlas(atlas or default_atlas())
    if json:
        show.print_json(facts)
        return DONE
    show.show_info(show.people(), facts)
    show.print_table(facts["organisms"], facts["organisms"][0])
    show.print_table(facts["datasets"], facts["datasets"][0])
    if facts["results"]:
        show.print_table(facts["results"], facts["results"][0])
    return DONE


def sql(query: str, release: str | None, atlas: str | None, *, timeout_s: float, memory: str, json: bool) -> int:
    """Run a query; its rows are the result."""
    table = run_sql(atlas or default_atlas(), query, release=release, timeout_s=timeout_s, memory_limit=memory)
    rows = show.as_rows(table)
    show.print_json(rows) if json else show.print_table(rows, rows[0] if rows else table.column_names)
    return DONE


def release(
    name: str,
    chosen: tuple[SplitBy, int, bool],
    pins: Mapping[str, Sequence[str]],
    atlas: str | None,
    *,
    dry_run: bool,
    json: bool,
) -> int:
    """Make a release; one whose splits share cells is shown and refused."""
    split_by, seed, allow_leaks = chosen
    made = make_release(
        atlas or default_atlas(),
        name,
        split_by=split_by,
        seed=seed,
        pins=pins,
        allow_leaks=allow_leaks,
        dry_run=dry_run,
    )
    show.show_release(show.people(), made)
    if json:
        show.print_json(made.to_dict())
    return REJECTED if made.status == "rejected" else DONE


def pack(
    name: str, out: Path, chosen: tuple[Sequence[str], Sequence[str], int], atlas: str | None, *, json: bool
) -> int:
    """Pack a release."""
    from loaders import PackOptions, make_pack  # noqa: PLC0415 - zarr, which no other command needs

    organisms, splits, piece_mib = chosen
    people = show.people()
    with show.StageBars(people) as bars:
        everything = PackOptions()
        options = PackOptions(tuple(organisms), tuple(splits) or everything.splits, piece_mib, bars)
        made = make_pack(atlas or default_atlas(), name, out, options)
    facts = {"pack": str(out), "cells": len(made), "fingerprint": made.fingerprint, **made.about}
    people.print(f"[green]packed[/] {len(made):,} cells of release {show.plain(name)} in {show.plain(out)}")
    people.print(f"  fingerprint {made.fingerprint}")
    if around := made.about.get("neighbours"):
        kept, dropped = around["kept"], around["dropped"]
        people.print(f"  neighbours: {kept:,} kept, {dropped:,} of another split or not loaded")
    if json:
        show.print_json(facts)
    return DONE


def report(organism: str, atlas: str | None, *, json: bool) -> int:
    """Write the organism's report again."""
    path = rewrite_report(organism, atlas or default_atlas())
    if json:
        show.print_json({"report": str(path)})
    show.people().print(f"report {show.plain(path)}")
    return DONE
