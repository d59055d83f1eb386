"""The body of `panatlas study`: find cells and files, call the model floor, show the table.

cli_study.py declares the arguments, model_places.py finds what they name; what is compared and how lives in `model`.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from model import Beginning, Machine, ModelInputError, recipe_for
from model import study as studies
from model import variants as choices
from ontology import home

from . import console as show
from . import model_places as places
from .errors import DONE
from .workflows import default_atlas

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from rich.console import Console

TOLD_S = 60.0
"""Seconds between lines on how far a run is."""
NEEDS = {"": "", "regulators": "--regulators", "prior": "--prior", "vectors": "protein vectors"}
"""What a variant needs, in the command line's words."""


def list_variants(*, json: bool) -> int:
    """Show every variant: what it changes, and what it needs."""
    rows = [
        {"variant": one.name, "group": one.group, "needs": NEEDS[one.needs], "about": one.about}
        for one in choices.VARIANTS
    ]
    show.print_json(rows) if json else show.print_table(rows, rows[0])
    return DONE


def study(
    where: Mapping[str, Any],
    planned: tuple[Mapping[str, Any], Sequence[str], int | None, int | None],
    files: Mapping[str, Any],
    machine: Mapping[str, Any],
    *,
    json: bool,
) -> int:
    """Train and score what is missing, then show the whole table."""
    people = show.people()
    said, names, batch_size, length = planned
    plan = studies.StudyPlan(
        **said, variants=studies.find_variants(names), recipe=_recipe(said["size"], batch_size, length)
    )
    place = places.find_cells(where["release"], where["pack"], where["atlas"], default_atlas())
    beginning = _beginning(people, files, place.organisms)
    folder = where["output"] or home() / "studies" / f"{plan.size}-{place.label}-{plan.steps}"
    _tell_plan(people, plan, beginning, folder)
    try:
        rows = studies.run_study(
            place.cells, plan, folder, machine=Machine(**machine, show=_Steps(people)), beginning=beginning,
            place=place.place, show=lambda done: _tell(people, done),
        )  # fmt: skip
    except ModelInputError as error:
        if error.field == "folder":
            error.add_note("--output FOLDER names another one")
        raise
    if json:
        show.print_json(rows)
    elif lines := studies.side_by_side(rows):
        people.print("the base's scores; of variants the difference to it, ± half of its 95% interval")
        show.print_table(lines, lines[0])
    return DONE


def _recipe(size: str, batch_size: int | None, length: int | None) -> dict[str, Any]:
    """Return the changes of the size's recipe; the shortest context keeps its share of the longest."""
    out: dict[str, Any] = {} if batch_size is None else {"batch_size": batch_size}
    if length is not None:
        usual = recipe_for(size).data.collate  # type: ignore[arg-type]
        shortest = max(1, min(length, round(length * usual.shortest / usual.length)))
        out["data"] = {"collate": {"length": length, "shortest": shortest}}
    return out


def _beginning(people: Console, files: Mapping[str, Any], organisms: list[str]) -> Beginning:
    """Return what is known of genes: protein vectors, regulators, and a prior gene network."""
    regulators: list[str] = []
    if files["regulators"]:
        regulators, unknown = places.read_genes(files["regulators"], organisms)
        if unknown:
            people.print(f"[yellow]note[/] {len(unknown):,} regulators are no known gene")
    network = places.read_network(files["prior"], organisms) if files["prior"] else None
    vectors, left_out = places.find_vectors(organisms, files["vectors"])
    for name in left_out:
        people.print(f"[yellow]note[/] the protein vectors of {show.plain(name)} have another width and are not used")
    return Beginning(vectors, regulators, network)


def _tell_plan(people: Console, plan: studies.StudyPlan, beginning: Beginning, folder: Path) -> None:
    """Print what can be trained, and which variants are left out and why."""
    able = studies.find_able(plan, beginning)
    people.print(f"study of the base and {len(able)} of {len(plan.variants)} variants in {show.plain(folder)}")
    have = {"regulators": beginning.regulators, "prior": beginning.prior, "vectors": beginning.vectors, "": True}
    for one in plan.variants:
        if one not in able:
            why = f"needs {NEEDS[one.needs]}" if not have[one.needs] else "is what the base is"
            people.print(f"[yellow]left out[/] {show.plain(one.name)}: {why}")


def _tell(people: Console, done: Mapping[str, Any]) -> None:
    """Print what became of one run."""
    colour = {"scored": "green", "failed": "red"}.get(done["state"], "yellow")
    name = f"{show.plain(done['variant'])}, seed {done['seed']}"
    people.print(f"[{colour}]{done['state']}[/] {done['done']} of {done['runs']}: {name} ({done['seconds']} s)")


class _Steps:
    """Says now and then how far a run is."""

    def __init__(self, people: Console) -> None:
        self.people, self.told = people, time.monotonic()

    def __call__(self, row: Mapping[str, float]) -> None:
        """Print a row of the log, if the last one was a while ago."""
        if time.monotonic() - self.told > TOLD_S:
            self.told = time.monotonic()
            self.people.print(f"  step {row['step']:,.0f} of {row['steps']:,.0f}: loss {row['loss']:.4g}")
