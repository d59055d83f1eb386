"""The bodies of the commands about models: find cells and files, call the model floor, show what came of it.

cli_models.py declares the arguments, model_places.py finds what they name; how a network learns lives in `model`.
"""

from __future__ import annotations

import json as json_text
import os
import shlex
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from atlas import AtlasError
from loaders import LoaderError, Vocabulary, organism_codes
from model import (
    Beginning,
    Machine,
    ModelConfig,
    ModelInputError,
    Recipe,
    TokenTable,
    load_model,
    preset,
    recipe_for,
    seen_before,
)
from model import resume as go_on
from model import train as begin_run

from . import console as show
from . import model_places as places
from .errors import DONE, CatalogInputError
from .workflows import default_atlas

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from rich.console import Console

    from model import TrainedModel, TrainingRun


@dataclass(frozen=True, eq=False)
class Plan:
    """Everything a run begins with, found and checked."""

    place: places.CellPlace
    """Its cells."""
    config: ModelConfig
    """Its network."""
    recipe: Recipe
    """How it is trained."""
    beginning: Beginning
    """What is known of genes, and a model to begin with."""
    folder: Path
    """Where it goes."""
    notes: tuple[str, ...]
    """What people should know: names that are unknown, files without use."""


def train(
    size: str,
    where: Mapping[str, Any],
    recipe: tuple[Mapping[str, Any], Mapping[str, Any]],
    machine: Mapping[str, Any],
    begin: Mapping[str, Any],
    *,
    dry_run: bool,
    json: bool,
) -> int:
    """Plan a run, then begin it or go on with it."""
    people = show.people()
    plan = _plan(size, where, recipe, begin)
    known, before = (plan.folder / "run.json").exists(), _finished(plan.folder)
    first = _first_rank()
    for note in plan.notes if first else ():
        people.print(f"[yellow]note[/] {show.plain(note)}")
    if first:
        show.show_plan(people, _facts_of_plan(plan))
    if dry_run:
        if json:
            show.print_json({**_facts_of_plan(plan), "known": known, "config": asdict(plan.config),
                             "recipe": asdict(plan.recipe), "machine": dict(machine)})  # fmt: skip
        return DONE
    with show.TrainingLine(people) as line:
        try:
            run = begin_run(
                plan.place.cells, plan.config, plan.recipe, plan.folder,
                machine=Machine(**machine, show=line), beginning=plan.beginning, place=plan.place.place,
            )  # fmt: skip
        except ModelInputError as error:
            if error.field == "folder":
                error.add_note("--output FOLDER names another one")
            raise
    return _tell(people, run, before=before, json=json)


def resume(run: Path, atlas: str | None, pack: str | None, machine: Mapping[str, Any], *, json: bool) -> int:
    """Go on with a run."""
    people, before = show.people(), _finished(run)
    try:
        cells = places.cells_of_run(run, atlas, pack)
        with show.TrainingLine(people) as line:
            done = go_on(run, cells=cells, machine=Machine(**machine, show=line))
    except (AtlasError, LoaderError) as error:
        if atlas is None and pack is None:
            error.add_note("if its cells were moved, name where they are: --atlas FOLDER or --pack FOLDER")
        raise
    return _tell(people, done, before=before, json=json)


def was_trained_on(file: Path, model: Path, organism: str, layer: str | None, *, json: bool) -> int:
    """Compare a file's cells with a model's ledger."""
    people = show.people()
    trained = load_model(places.model_folder(model))
    asked = places.read_adata(file, organism, layer)
    seen = seen_before(trained.ledger, asked.cells)
    name = asked.cells.about["organisms"][0]["organism"]
    seen["examples"] = {role: [asked.names[cell] for cell in cells] for role, cells in seen["examples"].items()}
    facts = {
        "file": str(file), "matrix": asked.matrix, "model": trained.digest, "release": trained.facts.get("release"),
        "organism": name, **seen, "findings": [asdict(one) for one in asked.findings],
    }  # fmt: skip
    show.show_findings(people, [one for one in asked.findings if one.severity == "warning"])
    show.show_seen(people, facts, known=name in trained.vocabulary.organisms)
    if json:
        show.print_json(facts)
    return DONE


def _plan(
    size: str,
    where: Mapping[str, Any],
    recipe: tuple[Mapping[str, Any], Mapping[str, Any]],
    begin: Mapping[str, Any],
) -> Plan:
    """Find what a run begins with; everything that can be refused is refused here."""
    start = load_model(places.model_folder(begin["start"])) if begin["start"] else None
    config = _config(size, start, begin)
    place = places.find_cells(where["release"], where["pack"], where["atlas"], default_atlas())
    chosen = organism_codes(place.cells, recipe[1]["organisms"]) if recipe[1]["organisms"] else []
    made = make_recipe(size, recipe[0], {**recipe[1], "organisms": tuple(place.organisms[code] for code in chosen)})
    notes: list[str] = []
    regulators: list[str] = []
    if begin["regulators"]:
        regulators, unknown = places.read_genes(begin["regulators"], place.organisms)
        if unknown:
            notes.append(f"{len(unknown):,} regulators are no known gene, such as {', '.join(unknown[:3])!r:.200}")
        if "tf" not in config.tasks.masks:
            notes.append("no mask spares the regulators; --set 'tasks.masks=[\"tf\"]' makes one")
    network = places.read_network(begin["prior"], place.organisms) if begin["prior"] else None
    if network is not None and network.unknown:
        notes.append(f"{network.unknown:,} rows of the prior network name a gene that {network.organism} does not have")
    vectors, left_out = ({}, []) if start else places.find_vectors(place.organisms, begin["vectors"])
    notes += [
        f"the protein vectors of {name} have another width than the others' and are not used" for name in left_out
    ]
    choices = _choices(size, config, made, start)
    choices |= {"regulators": regulators} if regulators else {}
    choices |= {"prior": network.digest} if network else {}
    choices |= {"vectors": begin["vectors"]} if begin["vectors"] else {}
    begun = f"start-{start.digest[:8]}" if start else size
    folder = where["output"] or places.run_folder(begun, place, made.seed, choices)
    beginning = Beginning(vectors, regulators, network, start)
    return Plan(place, config, made, beginning, folder, tuple(notes))


def make_recipe(size: str, changes: Mapping[str, Any], draws: Mapping[str, Any]) -> Recipe:
    """Return a size's recipe with some changes.

    Parameters
    ----------
    size
        Of the network.
    changes
        Fields of `Recipe`; None for the size's.
    draws
        seed, of everything that is drawn; length of contexts or None; organisms to draw cells of, empty for all.
    """
    base, seed = recipe_for(size), draws["seed"]  # type: ignore[arg-type]
    collate = replace(base.data.collate, seed=seed)
    if (length := draws["length"]) is not None:
        collate = replace(collate, length=length, shortest=min(collate.shortest, length))
    plan = replace(base.data.plan, organisms=draws["organisms"], config=replace(base.data.plan.config, seed=seed))
    said = {name: value for name, value in changes.items() if value is not None}
    return replace(base, seed=seed, data=replace(base.data, plan=plan, collate=collate), **said)


def change_config(config: ModelConfig, changes: Sequence[str]) -> ModelConfig:
    """Return a configuration with some fields changed.

    Parameters
    ----------
    config
        What is changed.
    changes
        `PART.FIELD=VALUE` each, such as `trunk.attention=criss-cross`; values are JSON, or else text.

    Raises
    ------
    CatalogInputError
        When a change is not of that form.
    ModelInputError
        When there is no such field, or it cannot have that value.
    """
    said = json_text.loads(config.to_json())
    for change in changes:
        path, given, text = change.partition("=")
        part, dot, field = path.strip().partition(".")
        if not (given and dot and part and field):
            raise CatalogInputError("set", change, "PART.FIELD=VALUE, such as trunk.attention=criss-cross")
        if part not in said:
            raise CatalogInputError("set", change, f"one of the parts {', '.join(said)} before the dot")
        if field not in said[part]:
            raise CatalogInputError("set", change, f"one of the fields of {part}: {', '.join(said[part])}")
        try:
            said[part][field] = json_text.loads(text, parse_constant=_refuse)
        except (ValueError, RecursionError):
            said[part][field] = text
    return ModelConfig.from_json(json_text.dumps(said))


def _refuse(constant: str) -> None:
    raise ValueError(constant)  # NaN and infinities are no JSON


def _config(size: str, start: TrainedModel | None, begin: Mapping[str, Any]) -> ModelConfig:
    """Return the network's choices: those of the model that is begun with, or the preset's with changes."""
    if start is not None:
        if begin["changes"] or begin["prior"] or begin["vectors"]:
            allowed = "alone, without --set, --prior and --vectors: the network and what it knows of genes are its own"
            raise CatalogInputError("start", str(begin["start"]), allowed)
        return start.config
    changes = [*begin["changes"], *(["trunk.prior=true"] if begin["prior"] else [])]
    config = change_config(preset(size), changes)  # type: ignore[arg-type]
    if config.trunk.prior and not begin["prior"]:
        raise CatalogInputError("set", "trunk.prior=true", "a gene network with it: --prior FILE")
    return config


def _choices(size: str, config: ModelConfig, recipe: Recipe, start: TrainedModel | None) -> dict[str, Any]:
    """Return what differs from the size's own choices; the seed is told apart by the folder's name."""
    said: dict[str, Any] = {}
    if start is not None:
        said |= {"start": start.digest, "size": size}  # which decides the recipe
    elif config != preset(size):  # type: ignore[arg-type]
        said["config"] = asdict(config)
    if recipe != make_recipe(size, {}, {"seed": recipe.seed, "length": None, "organisms": ()}):
        said["recipe"] = asdict(recipe)
    return said


def _facts_of_plan(plan: Plan) -> dict[str, Any]:
    about = plan.place.cells.about
    return {
        "folder": str(plan.folder), "release": about.get("release"), "place": list(plan.place.place),
        "cells": len(plan.place.cells), "organisms": list(plan.recipe.data.plan.organisms) or plan.place.organisms,
        "steps": plan.recipe.steps, "seed": plan.recipe.seed,
        "protein_vectors": {name: one.about["embedder"] for name, one in plan.beginning.vectors.items()},
        "regulators": len(plan.beginning.regulators), "prior": plan.beginning.prior is not None,
        "start": plan.beginning.model.digest if plan.beginning.model else None, "notes": list(plan.notes),
    }  # fmt: skip


def _vectors_of(folder: Path) -> dict[str, dict[str, Any]]:
    """Return which organisms' genes a run has protein vectors of, how many, and by which embedder where it knows."""
    by = json_text.loads((folder / "run.json").read_text(encoding="utf-8")).get("vectors", {})
    vocabulary = Vocabulary.load(folder / "start" / "vocabulary.json")
    has = TokenTable.load(folder / "start" / "tokens").has_vector
    found = {name: int(has[vocabulary.organism_tokens(name)].sum()) for name in vocabulary.organisms}
    return {name: {"genes": genes, "embedder": by.get(name)} for name, genes in found.items() if genes}


def _finished(folder: Path) -> bool:
    """Return whether a run has nothing left to do."""
    return all((folder / name).exists() for name in ("run.json", "receipt.json", "model"))


def _tell(people: Console, run: TrainingRun, *, before: bool, json: bool) -> int:
    """Show what came of a leg, or `before`; only one of several processes does."""
    if _first_rank():
        facts = {**run.facts, "folder": str(run.folder), "finished": run.finished}
        facts |= {"model": run.facts.get("model"), "protein_vectors": _vectors_of(run.folder)}
        show.show_training(people, facts, f"panatlas resume {shlex.quote(str(run.folder))}", before=before)
        if json:
            show.print_json(facts)
    return DONE


def _first_rank() -> bool:
    """Return whether this process is the one that talks; launchers number processes in the environment."""
    return os.environ.get("LOCAL_RANK", "0") == "0" and os.environ.get("NODE_RANK", "0") == "0"
