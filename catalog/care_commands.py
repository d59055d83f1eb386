"""The bodies of `panatlas validate`, `doctor` and `diff`: ask the atlas, look at what lies beside it, show it.

The store and its ledger are proved by `atlas`. Here are releases, whose files a manifest vouches for, and folders that
a killed process left while it was making a release, a table, a model or an index: `.part-...`, which no reader sees.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atlas import Finding, find_leftovers, open_atlas, repair_atlas, side_folder
from atlas import validate as validate_atlas
from ontology import cache_dir, home

from . import console as show
from .diff import diff_releases
from .errors import DONE, REJECTED, STORE
from .manifests import MANIFEST, read_manifest
from .result_files import digest_of_file
from .workflows import default_atlas

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from rich.console import Console

    from .diff import ReleaseDiff

PART = ".part-"
"""How names of folders and files in the making begin."""
QUIET_S = 3600.0
"""Seconds without a change after which nobody is believed to be writing a folder in the making."""
RESTORE = "restore the release from a copy of the atlas, or make it again under another name"


def validate(atlas: str | None, release: str | None, *, sources: bool, json: bool) -> int:
    """Prove an atlas, as it is or as a release froze it."""
    uri, people = atlas or default_atlas(), show.people()
    manifest = read_manifest(open_atlas(uri).root, release) if release else None
    opened = open_atlas(uri, at=manifest["tiledb_timestamp_ms"]) if manifest else open_atlas(uri)
    with show.StageBars(people) as bars:
        done = validate_atlas(opened, sources=sources, progress=bars)
    if manifest:
        done = replace(done, findings=(*done.findings, *check_release(opened.root / "releases" / str(release))))
    cells = ", ".join(f"{n:,} {show.plain(organism)}" for organism, n in done.cells.items())
    people.print(f"{'[green]sound[/]' if done.sound else '[red]not sound[/]'} {show.plain(uri)}: {cells} cells")
    show.show_findings(people, done.findings)
    people.print(f"  content sha256 {done.content_hash or 'not known: a part could not be read'}")
    if json:
        show.print_json(done.to_dict())
    return DONE if done.sound else REJECTED


def doctor(atlas: str | None, *, repair: bool, json: bool) -> int:
    """Name leftovers; with `repair` remove those that can be."""
    uri, people = atlas or default_atlas(), show.people()
    found = _examine(uri)
    done: list[str] = []
    if repair:
        done += repair_atlas(uri)
        done += remove_parts(_workshops(uri))
        left = _examine(uri)
    else:
        left = found
    for said in done:
        people.print(f"[green]done[/] {show.plain(said)}")
    people.print(f"{show.plain(uri)}: {len(left)} left to mend" if left else f"{show.plain(uri)}: nothing to mend")
    show.show_findings(people, left)
    if json:
        show.print_json({"found": [asdict(f) for f in found], "done": done, "left": [asdict(f) for f in left]})
    return STORE if any(finding.severity == "error" for finding in left) else DONE


def diff(a: str, b: str, atlas: str | None, *, json: bool) -> int:
    """Compare two releases."""
    found = diff_releases(a, b, atlas or default_atlas())
    _show_diff(show.people(), found)
    if json:
        show.print_json(found.to_dict())
    return DONE


def check_release(folder: Path) -> list[Finding]:
    """Return what is wrong with a release's own files: each has the digest its manifest gives, or it is told."""
    where = f"releases/{folder.name}"
    try:
        files = read_manifest(folder.parent.parent, folder.name)["files"]
    except (ValueError, KeyError) as exc:
        return [Finding("release-differs", "error", where, str(exc), f"a {MANIFEST} that can be read", RESTORE)]
    out = []
    for name, facts in sorted(files.items()):
        path = folder / Path(name).name
        digest = digest_of_file(path) if path.is_file() else "no file"
        if digest != facts["sha256"]:
            out.append(
                Finding("release-differs", "error", f"{where}/{name}", digest, f"sha256 {facts['sha256']}", RESTORE)
            )
    return out


def _examine(uri: str) -> list[Finding]:
    """Return leftovers in an atlas, damaged releases, and folders that were never finished."""
    releases = side_folder(uri) / "releases"
    names = sorted(p for p in releases.glob("[!.]*") if p.is_dir()) if releases.is_dir() else []
    return [
        *find_leftovers(uri),
        *(finding for folder in names for finding in check_release(folder)),
        *find_parts(_workshops(uri)),
    ]


def _workshops(uri: str) -> list[Path]:
    """Return the folders in which this machine makes things under a passing name."""
    root = side_folder(uri)
    own = [root, *(root / name for name in ("releases", "tables", "reports"))]
    own += [home() / name for name in ("models", "packs", "studies", "references", "tasks")]
    caches = [cache_dir(), cache_dir() / "indexes", cache_dir() / "ontologies", *cache_dir().glob("indexes/*/")]
    return [p for p in dict.fromkeys([*own, *caches]) if p.is_dir()]


def find_parts(workshops: list[Path]) -> list[Finding]:
    """Return a finding per folder or file in the making: left behind where nobody writes it, else merely told."""
    out = []
    for workshop in workshops:
        for part in sorted(workshop.glob(f"{PART}*")):
            if _is_left(part):
                remedy = "`panatlas doctor --repair` removes it"
                out.append(Finding("unfinished-part", "error", str(part), "never finished", "nothing", remedy))
            else:
                found = "changed within the hour, or its folder is locked"
                remedy = "nothing, if something is being made; else ask again later"
                out.append(Finding("part-in-the-making", "info", str(part), found, "finished things", remedy))
    return out


def remove_parts(workshops: list[Path]) -> list[str]:
    """Remove what nobody is writing any more, and say what it was."""
    done = []
    for workshop in workshops:
        for part in sorted(workshop.glob(f"{PART}*")):
            with _alone(workshop) as alone:
                if not (alone and _is_quiet(part)):
                    continue
                if part.is_dir() and not part.is_symlink():
                    shutil.rmtree(part, ignore_errors=True)
                else:
                    part.unlink(missing_ok=True)
            if not part.exists():
                done.append(f"removed {part}, which was never finished")
    return done


def _is_left(part: Path) -> bool:
    """Tell whether nobody is writing a folder in the making."""
    with _alone(part.parent) as alone:
        return alone and _is_quiet(part)


def _is_quiet(part: Path) -> bool:
    """Tell whether nothing in a folder changed within the hour; makers of releases hold a lock, which tells at once."""
    if part.parent.name == "releases":
        return True
    inside = part.rglob("*") if part.is_dir() else ()
    newest = max((p.lstat().st_mtime for p in (part, *inside) if p.exists()), default=0.0)
    return time.time() - newest > QUIET_S


@contextmanager
def _alone(folder: Path) -> Iterator[bool]:
    """Say whether nobody holds a lock on a folder, and hold it for the block; makers of releases and indexes do."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
        else:
            yield True
    finally:
        os.close(handle)


def _show_diff(people: Console, found: ReleaseDiff) -> None:
    """Print what is different, for people."""
    names = " to ".join(show.plain(side["name"]) for side in (found.a, found.b))
    people.print(f"{names}: {'[green]the same content[/]' if found.same else 'different'}")
    data = found.datasets
    for kind in ("added", "removed"):
        for name in data[kind]:
            people.print(f"  dataset {kind}: {show.plain(name)}")
    for name, columns in data["changed"].items():
        people.print(f"  dataset changed: {show.plain(name)}: {show.plain(', '.join(columns))}")
    cells = found.cells
    people.print(
        f"  cells: {cells['added']:,} added, {cells['removed']:,} removed, {cells['both']:,} in both, "
        f"{cells['counts']:,} of these with other counts"
    )
    for column, facts in found.labels.items():
        people.print(f"  {show.plain(column)}: {facts['cells']:,} cells; {_pairs(facts['pairs'])}")
    for organism, kinds in found.genes.items():
        said = ", ".join(f"{facts['genes']:,} {kind}" for kind, facts in kinds.items() if facts["genes"])
        people.print(f"  genes of {show.plain(organism)}: {said}")
    for name, (was, now) in found.splits["settings"].items():
        people.print(f"  splits: {name} {show.plain(was)} to {show.plain(now)}")
    if found.splits["pairs"]:
        people.print(f"  cells in another split: {_pairs(found.splits['pairs'])}")


def _pairs(pairs: list[Mapping[str, Any]]) -> str:
    """Return the commonest changes in words."""
    return ", ".join(f"{show.plain(p['from'])} to {show.plain(p['to'])} {p['cells']:,}" for p in pairs[:5])
