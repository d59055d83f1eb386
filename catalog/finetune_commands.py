"""The bodies of the commands that teach a trained model more: finetune, grow, and transfer.

cli_finetune.py declares the arguments, labelled_inputs.py opens cells with labels; how a model is tuned and how labels
are transferred lives in `model`.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import asdict
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from atlas import Finding
from loaders import SPLITS, organism_codes
from model import (
    InferenceOptions,
    Machine,
    ModelError,
    Tuning,
    TuningPlan,
    count_weights,
    label_accuracy,
    labelled_cells,
    load_model,
    prepare_base,
    save_model,
    seen_before,
    transfer_by_orthologs,
    transfer_labels,
    with_organism,
)
from model import finetune as tune
from ontology import LABELS, OntologyError, get_organism, load_ontology

from . import console as show
from . import model_places as places
from . import task_inputs as inputs
from .errors import DONE, CatalogInputError
from .labelled_inputs import LabelColumns, LabelledInput, open_labelled
from .result_files import check_output, digest_of_file, new_result, refuse_same_file

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from rich.console import Console

    from model import LabelledCells, ProteinVectors, TrainedModel, TransferredLabels

    from .cli_finetune import LearningOptions, SplitOptions, TransferOptions


def finetune(
    source: str,
    output: Path,
    where: Mapping[str, str | None],
    columns: Mapping[str, str | None],
    tuned: Mapping[str, Any],
    how: tuple[SplitOptions, LearningOptions],
    say: tuple[bool, bool],
) -> int:
    """Train a model further on labelled cells."""
    people, (splitting, learning), (dry_run, json) = show.people(), how, say
    base = load_model(inputs.find_model(where["model"]))
    wanted = LabelColumns(
        **columns, donor=splitting.donor, split=splitting.split, shares=(splitting.validation, splitting.test),
        seed=learning.seed,
    )  # fmt: skip
    asked = open_labelled(source, where["organism"], where["layer"], wanted, splits=True)
    tuning = _tuning(asked, tuned)
    plan = TuningPlan(
        steps=learning.steps, batch_size=learning.batch_size, learning_rate=learning.learning_rate,
        patience=learning.patience, length=learning.length, seed=learning.seed,
    )  # fmt: skip
    vectors = _vectors(base, asked, tuned["vectors"])
    start, unlearnt = prepare_base(base, asked.cells, tuning, vectors)
    about = {
        "input": source, "output": str(output), "base": base.digest, "tuning": asdict(tuning), "label": asked.label,
        "cells": _by_split(asked), "tuned_weights": count_weights(start.network, tuning.parts), "unlearnt": unlearnt,
        "added": start.facts.get("added", [])[len(base.facts.get("added", [])) if not base.digest else 0 :],
    }  # fmt: skip
    findings = [*asked.findings, *_warnings(base, asked)]
    show.show_findings(people, [one for one in findings if one.severity == "warning"])
    _tell_plan(people, about, asked.notes)
    facts: dict[str, Any] = {**about, "findings": [asdict(one) for one in findings], "dry_run": dry_run}
    if not dry_run:
        with show.TrainingLine(people) as line:
            machine = Machine(device=learning.device, minutes=learning.minutes, show=line)
            run = tune(base, asked.cells, output, tuning=tuning, plan=plan, machine=machine, vectors=vectors)
        facts |= run.facts | {"finished": run.finished}
        if run.finished:
            facts["scores"] = _scores(base, run.model, asked, learning)
        _tell(people, facts)
    if json:
        show.print_json(facts)
    return DONE


def grow(organism: str, output: Path, model: str | None, embedder: str | None, *, json: bool) -> int:
    """Give a model an organism's genes."""
    people, found = show.people(), get_organism(organism)
    base = load_model(inputs.find_model(model))
    vectors = places.find_vectors([found.experiment], embedder)[0].get(found.experiment)
    grown = save_model(output, with_organism(base, found.experiment, vectors=vectors))
    facts = {
        "output": str(output), "model": grown.digest, "base": base.digest, "organism": found.experiment,
        "genes": len(grown.vocabulary.genes[grown.vocabulary.organisms.index(found.experiment)]),
        "protein_vectors": 0 if vectors is None else len(vectors),
        "embedder": None if vectors is None else vectors.about["embedder"],
    }  # fmt: skip
    by = f"{facts['protein_vectors']:,} with a protein vector" if vectors is not None else "none with a protein vector"
    people.print(f"[green]grown[/] {show.plain(found.label)}: {facts['genes']:,} genes, {by}; in {output}")
    if json:
        show.print_json(facts)
    return DONE


def transfer(
    sources: tuple[str, str],
    output: Path,
    wanted: tuple[str | None, str | None, Sequence[str]],
    voting: tuple[str | None, int],
    options: TransferOptions,
) -> int:
    """Label cells by their nearest labelled cells."""
    people, began, (source, query) = show.people(), time.monotonic(), sources
    check_output(output, force=options.force)
    refuse_same_file(output, source, query)
    model = load_model(inputs.find_model(options.model))
    reference, matrix = _reference(source, wanted, options)
    asked = inputs.open_input(query, model, options.organism, options.layer)
    reading = InferenceOptions(length=options.length, batch_size=options.batch_size, device=options.device)
    ours = transfer_labels(
        model, reference, asked.cells, asked.numbers, token=voting[0], neighbours=voting[1], options=reading
    )
    found, why = {"panatlas": ours}, None
    try:
        found["ortholog"] = transfer_by_orthologs(reference, asked.cells, asked.numbers, neighbours=voting[1])
    except (OntologyError, ModelError) as error:  # what is asked for is there; the comparison is not
        why = str(error)
        people.print(f"[yellow]note[/] no comparison with orthologs: {show.plain(why)}")
    findings = [*asked.findings, *_copies(ours)]
    show.show_findings(people, [one for one in findings if one.severity == "warning"])
    columns = {name: value for who, one in found.items() for name, value in _columns(who, one).items()}
    about = {
        "command": "transfer", "model": model.digest, "label": reference.label, "options": asdict(reading),
        "reference": {"cells": len(reference.numbers), "content_sha256": reference.cells.about["content_sha256"]},
        "content_sha256": asked.cells.about["content_sha256"],
        "methods": {who: dict(one.facts) for who, one in found.items()},
        "versions": {name: version(name) for name in ("panatlas", "torch", "anndata")},
    }  # fmt: skip
    with new_result(output, len(asked.numbers), force=options.force) as result:
        obs = pd.DataFrame({**asked.obs, **columns}, index=asked.obs.index)
        result.finish(obs, asked.var, {"panatlas": about})
    facts = {
        **about, "input": query, "reference_input": source, "reference_matrix": matrix, "output": str(output),
        "sha256": digest_of_file(output), "cells": len(ours), "no_orthologs": why,
        "seconds": round(time.monotonic() - began, 3),
        "labels": {who: dict(Counter(one.values.tolist()).most_common()) for who, one in found.items()},
        "seen": seen_before(model.ledger, asked.cells, asked.numbers),
        "findings": [asdict(one) for one in findings],
    }  # fmt: skip
    _tell_transfer(people, facts, found)
    if options.json:
        show.print_json(facts)
    return DONE


def _tuning(asked: LabelledInput, tuned: Mapping[str, Any]) -> Tuning:
    """Return what is trained; batches are matched within cell types where these are known, else within the label."""
    types = asked.cells.about["vocabulary"]["cell_type"]
    within = "cell_type" if set(types) - {"unknown", "na", ""} else asked.label
    if asked.batch is None:
        return Tuning(tuned["parts"], (asked.label,))
    return Tuning(tuned["parts"], (asked.label,), tuned["mmd"], asked.batch, within)


def _vectors(base: TrainedModel, asked: LabelledInput, embedder: str | None) -> dict[str, ProteinVectors]:
    """Return protein vectors of the organisms the base does not know."""
    names = [str(one["organism"]) for one in asked.cells.about["organisms"]]
    new = [name for name in names if name not in base.vocabulary.organisms]
    if embedder is not None and not new:
        raise CatalogInputError("vectors", embedder, "none: the model knows the organism, and keeps its genes' vectors")
    return places.find_vectors(new, embedder)[0]


def _by_split(asked: LabelledInput) -> dict[str, dict[str, int]]:
    """Return cells and donors of each split, and cells with a value of the label."""
    cells, out = asked.cells, {}
    words = np.array([*cells.about["vocabulary"][asked.label], ""], dtype=object).astype(str)
    known = ~np.isin(words[np.asarray(cells.column(asked.label))], ["unknown", "na", ""])
    for code, split in enumerate(SPLITS):
        mine = np.asarray(cells.column("split")) == code
        donors = len(np.unique(np.asarray(cells.column("donor"))[mine]))
        out[split] = {"cells": int(mine.sum()), "donors": donors, "labelled": int((mine & known).sum())}
    return out


def _warnings(base: TrainedModel, asked: LabelledInput) -> list[Finding]:
    """Return what makes a score of held-out cells worth less: cells that the base had seen."""
    held = np.flatnonzero(np.asarray(asked.cells.column("split")) != 0).astype(np.int64)
    if not len(held):
        return []
    seen = seen_before(base.ledger, asked.cells, held)
    if not (known := seen["trained"] + seen["validation"]):
        return []
    said = f"{known:,} of {len(held):,} held-out cells that the base model learnt or was chosen from"
    remedy = "their scores flatter; hold out donors that the base never saw"
    return [inputs.seen_cells(known, said, remedy)]


def _scores(
    base: TrainedModel, tuned: TrainedModel, asked: LabelledInput, learning: LearningOptions
) -> dict[str, dict[str, Any]]:
    """Return how often base and tuned model tell the label of held-out cells, by split."""
    options = InferenceOptions(length=learning.length, device=learning.device)
    names = {str(one["organism"]) for one in asked.cells.about["organisms"]}
    out: dict[str, dict[str, Any]] = {}
    for split in ("validation", "test"):
        mine = np.flatnonzero(np.asarray(asked.cells.column("split")) == SPLITS.index(split)).astype(np.int64)
        if not len(mine) or not _by_split(asked)[split]["labelled"]:
            continue
        out[split] = {"tuned": label_accuracy(tuned, asked.cells, asked.label, mine, options)}
        if names <= set(base.vocabulary.organisms):
            out[split]["base"] = label_accuracy(base, asked.cells, asked.label, mine, options)
    return out


def _reference(
    source: str, wanted: tuple[str | None, str | None, Sequence[str]], options: TransferOptions
) -> tuple[LabelledCells, str | None]:
    """Return the labelled cells of the reference, and the element of a file their counts are from."""
    label, column, splits = wanted
    of_release = source.startswith(inputs.RELEASE)
    if wrong := sorted(set(splits) - set(SPLITS)):
        raise CatalogInputError("split", wrong[0], f"one of {', '.join(SPLITS)}")
    if splits and not of_release:
        raise CatalogInputError("split", splits[0], "none: a file's cells have no splits; a release's do")
    organism = None if of_release else options.reference_organism
    found = open_labelled(source, organism, options.reference_layer, LabelColumns(label, column))
    numbers = None
    if of_release:
        fit = np.isin(found.cells.column("organism"), organism_codes(found.cells, [options.reference_organism]))
        fit &= np.isin(found.cells.column("split"), [SPLITS.index(split) for split in splits or SPLITS])
        numbers = np.flatnonzero(fit).astype(np.int64)
    return labelled_cells(found.cells, found.label, numbers), found.matrix


def _copies(found: TransferredLabels) -> list[Finding]:
    """Return that cells are in the reference too, if some are."""
    if not (copies := int(str(found.facts["copies"]))):
        return []
    said = f"{copies:,} of {len(found):,} cells that are in the reference too"
    remedy = "their own labels had no vote; for a score, take a reference of other donors"
    return [Finding("cells-of-reference", "warning", "obs", said, "cells it does not have", remedy, copies)]


def _columns(who: str, found: TransferredLabels) -> dict[str, Any]:
    """Return what a method says as columns of obs: the value, its name where it is an id, and how sure it is."""
    stem, values = f"{who}_transfer_{found.label}", found.values.astype(str)
    names = _names(found.label, sorted(set(values)))
    out: dict[str, Any] = {stem: pd.Categorical([names.get(one, one) for one in values])}
    if names:
        out[f"{stem}_ontology_term_id"] = pd.Categorical(values)
    return {
        **out,
        f"{stem}_probability": found.probability,
        f"{stem}_agreement": found.agreement,
        f"{stem}_distance": found.distance,
    }


def _names(label: str, ids: Sequence[str]) -> dict[str, str]:
    """Return the names of term ids; nothing for words."""
    if label not in LABELS or label == "cell_culture":
        return {}
    return {one: _name(one) for one in ids}


def _name(value: str) -> str:
    return " || ".join(load_ontology(part.split(":")[0]).label(part) for part in value.split(" || "))


def _tell_plan(people: Console, about: Mapping[str, Any], notes: Sequence[str]) -> None:
    """Print what is to be trained on what."""
    for note in notes:
        people.print(f"[yellow]note[/] {show.plain(note)}")
    weights, tuning = about["tuned_weights"], about["tuning"]
    share = weights["tuned"] / weights["all"]
    together = f"; batches drawn together, weight {tuning['mmd']:g}" if tuning["mmd"] else ""
    people.print(
        f"label {show.plain(about['label'])}: {weights['tuned']:,} of {weights['all']:,} weights ({share:.0%}) are "
        f"trained, parts {tuning['parts']}{together}"
    )
    for split, found in about["cells"].items():
        if found["cells"]:
            people.print(
                f"  {split}: {found['cells']:,} cells of {found['donors']:,} donors, {found['labelled']:,} labelled"
            )
    for label, values in about["unlearnt"].items():
        people.print(f"  only held-out cells are {', '.join(map(show.plain, values[:5]))}: not learnt ({label})")


def _tell(people: Console, facts: Mapping[str, Any]) -> None:
    """Print what came of it."""
    show.show_training(people, facts | {"model": facts.get("model")}, "the same command again", before=False)
    for split, scores in facts.get("scores", {}).items():
        said = ", ".join(
            f"{who} {found['accuracy']:.3f} (classes alike {found['balanced']:.3f})" for who, found in scores.items()
        )
        chosen = " (the stopping point was chosen on them)" if split == "validation" else ""
        people.print(f"  {split} donors{chosen}, {scores['tuned']['cells']:,} cells told right: {said}")


def _tell_transfer(people: Console, facts: Mapping[str, Any], found: Mapping[str, TransferredLabels]) -> None:
    """Print what came of a transfer."""
    people.print(
        f"[green]transfer[/] {facts['cells']:,} cells from {facts['reference']['cells']:,} labelled ones in "
        f"{facts['seconds']:.1f} s: {show.plain(facts['output'])}"
    )
    for who, one in found.items():
        sure = f"mean probability {float(one.probability.mean()):.2f}, agreement {float(one.agreement.mean()):.2f}"
        names = _names(facts["label"], sorted(facts["labels"][who]))
        first = [f"{show.plain(names.get(name, name))} {n:,}" for name, n in list(facts["labels"][who].items())[:5]]
        people.print(f"  by {who} ({one.facts['metric']}): {', '.join(first)}; {sure}")
    if len(found) == 2:
        same = float((found["panatlas"].values == found["ortholog"].values).mean())
        people.print(f"  both methods say the same of {same:.0%} of the cells")
