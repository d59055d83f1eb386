"""The bodies of `panatlas retract` and `consolidate`: ask the atlas floor, show what it did, say what releases have."""

from __future__ import annotations

from atlas import consolidate as consolidate_atlas
from atlas import open_atlas
from atlas import retract as retract_dataset

from . import console as show
from .errors import DONE
from .manifests import releases_with
from .workflows import default_atlas


def retract(dataset: str, reason: str, atlas: str | None, *, dry_run: bool, json: bool) -> int:
    """Take a dataset out; with `dry_run` say what that means."""
    uri, people = atlas or default_atlas(), show.people()
    holding = releases_with(open_atlas(uri).root, dataset)  # first: what is published must not end in an error
    with show.StageBars(people) as bars:
        told = retract_dataset(uri, dataset, reason, dry_run=dry_run, progress=bars)
    done = "would be taken out" if dry_run else "taken out"
    people.print(f"[green]{told.status}[/] {show.plain(dataset)}: {told.cells:,} cells {done} of {show.plain(uri)}")
    again = "to be written again" if dry_run else "written again"
    others = f"{told.rewritten:,} other cells of {show.plain(told.organism)}"
    people.print(f"  {again}: {others}, {len(told.results)} results of models")
    show.show_findings(people, told.findings)
    if holding:
        names = ", ".join(map(show.plain, holding))
        people.print(f"  releases that have it, as they were: {names}; `panatlas release NAME` makes one without it")
    if json:
        show.print_json(told.to_dict() | {"releases": holding})
    return DONE


def consolidate(atlas: str | None, *, dry_run: bool, json: bool) -> int:
    """Make an atlas quick to open again; with `dry_run` say what that takes."""
    uri, people = atlas or default_atlas(), show.people()
    with show.StageBars(people) as bars:
        done = consolidate_atlas(uri, dry_run=dry_run, progress=bars)
    people.print(f"[green]{done.status}[/] {show.plain(uri)}")
    verb = "to be written anew" if dry_run else "written anew"
    for name, fragments in done.rewritten.items():
        people.print(f"  {verb}: {show.plain(name)}, which had {fragments:,} fragments")
    if done.joined:
        verb = "to be joined" if dry_run else "joined"
        people.print(
            f"  metadata of fragments {verb}: {len(done.joined)} arrays, {sum(done.joined.values()):,} fragments"
        )
    if json:
        show.print_json(done.to_dict())
    return DONE
