"""The bodies of `panatlas plan` and `panatlas sources`: what an ingest would come to, and manifests of big corpora."""

from __future__ import annotations

from typing import TYPE_CHECKING

from atlas import corpus_sources, list_corpora, load_corpus, write_manifest

from . import console as show
from .errors import DONE, CatalogInputError
from .planning import plan_ingest

if TYPE_CHECKING:
    from pathlib import Path

    from .planning import Machine, Part


def plan(what: str, machine: Machine, *, json: bool) -> int:
    """Show a plan: what there is, and what it comes to."""
    found = plan_ingest(what, machine)
    if json:
        show.print_json(found.to_dict())
        return DONE
    people = show.people()
    rows = [_part_row(part) for part in found.parts]
    show.print_table(rows, rows[0], title="what there is")
    figures = [
        {"figure": f.name, "value": _rounded(f.value), "unit": f.unit, "kind": f.kind, "from": f.whence}
        for f in found.figures
    ]
    show.print_table(figures, figures[0], title="what it comes to")
    for note in found.notes:
        people.print(f"[dim]note[/] {show.plain(note)}")
    return DONE


def _part_row(part: Part) -> dict[str, object]:
    """Return one part as a row of the table."""
    kinds = part.kinds
    return {
        "source": part.name,
        "organism": part.organism,
        "cells": part.cells,
        "non-zeros a cell": f"{part.nonzeros / max(part.cells, 1):,.0f}",
        "input GB": _rounded(part.read_bytes / 1e9),
        "kind": f"cells {kinds['cells']}, non-zeros {kinds['nonzeros']}, bytes {kinds['read_bytes']}",
        "from": part.whence,
    }


def _rounded(value: float) -> str:
    """Return a number to three digits: a plan knows no more."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def sources(corpus: str | None, organism: str | None, root: str, output: Path | None, *, json: bool) -> int:
    """List the corpora with their recipes, or write the manifest of one organism in a copy of one."""
    if corpus is None:
        recipes = [load_corpus(name) for name in list_corpora()]
        rows = [
            {"corpus": c.name, **{k: c.about[k] for k in ("title", "version")}, "cells": sum(c.cells.values())}
            | dict(c.access)
            for c in recipes
        ]
        if json:
            faults = [[vars(fault) for fault in c.faults] for c in recipes]
            show.print_json([row | {"faults": told} for row, told in zip(rows, faults, strict=True)])
        else:
            show.print_table(rows, rows[0])
        return DONE
    if organism is None or output is None:
        raise CatalogInputError("sources", corpus, "an organism and --output MANIFEST.toml beside the corpus")
    if output.suffix != ".toml" or output.exists():
        raise CatalogInputError("output", str(output), "a new file that ends in .toml")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CatalogInputError("output", str(output), f"a folder that can be written ({error})") from error
    recipe = load_corpus(corpus)
    found = corpus_sources(corpus, organism, root, output.absolute().with_suffix(".labels.parquet"))
    told = [f"{recipe.about['title']} {recipe.about['version']}, {organism}; {recipe.access['where']}"]
    told += [f"left out: {n} by {why}" for why, n in found.dropped.items()]
    told += [f"{fault.field}: {fault.found}; {fault.repair}" for fault in recipe.faults]
    write_manifest(found.sources, output, tuple(told))
    people = show.people()
    counted = f", {found.cells:,} cells" if found.cells is not None else ""
    people.print(f"[green]written[/] {show.plain(output)}: {len(found.sources):,} sources{counted}")
    for line in told[1:]:
        people.print(f"  {show.plain(line)}")
    people.print(
        f"  next: panatlas plan {show.plain(output)}, then panatlas ingest {show.plain(organism)} --manifest it"
    )
    if json:
        facts = {"manifest": str(output), "sources": len(found.sources), "cells": found.cells}
        show.print_json(facts | {"dropped": dict(found.dropped), "faults": [vars(f) for f in recipe.faults]})
    return DONE
