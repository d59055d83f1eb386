"""The additive study: the base and its one-change variants, trained alike and scored alike; a queue that takes days.

A study's folder holds `study.json` (what all its runs share) and, per variant and seed, a run's folder with the weights
and `scores.json`. Whatever is in it stays: a later call, with more seeds or variants or in another process beside the
first, does what is missing and nothing twice. `panatlas study` and benchmarks/study.py run it.
"""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from operator import methodcaller
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from loaders import LoaderError
from ontology import write_whole

from .config import Size, preset
from .errors import CheckpointError, ModelError, ModelInputError, TrainingDivergedError
from .held_out import HIGHER_IS_BETTER, held_out_scores
from .pretrain import Beginning, train
from .recipe import Machine, Recipe, fitted, recipe_for
from .run_lock import alone, write_changed
from .variants import BASE, VARIANTS, Variant

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from loaders import Cells, CollateConfig

    from .config import ModelConfig
    from .variants import Needs

STUDY_FORMAT = "panatlas study 1"
LEVEL = 0.95
"""Of the intervals."""
HEADLINES = (
    "denoise_nll", "denoise_nll_neighbours", "generate_nll", "masked_nll", "denoise_error",
    "cell_type_nll", "cell_type_accuracy", "knn_cell_type",
)  # fmt: skip
"""Scores people see side by side."""


@dataclass(frozen=True)
class StudyPlan:
    """What is trained, and for how long."""

    size: Size = "tiny"
    """Of the preset that is the base."""
    steps: int = 1_000
    """Of every run: the budget."""
    seeds: int = 3
    """Runs per variant; a folder may get more later."""
    variants: tuple[Variant, ...] = VARIANTS
    """Besides the base; a folder may get more later."""
    network: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Changes to the preset that all runs share."""
    recipe: Mapping[str, Any] = field(default_factory=dict)
    """Changes to the size's recipe that all runs share, nested as it is."""
    scored: int = 2_048
    """Held-out cells that are scored at most."""

    def __post_init__(self) -> None:
        """Refuse what cannot be compared."""
        for name in ("steps", "seeds", "scored"):
            if getattr(self, name) < 1:
                raise ModelInputError(name, getattr(self, name), "1 or more")
        names = [BASE.name, *(one.name for one in self.variants)]
        if len(set(names)) < len(names):
            raise ModelInputError("variants", names, "each name once, and none called base")

    @property
    def shared(self) -> tuple[ModelConfig, Recipe]:
        """Return the base's network and recipe, for seed 0.

        Runs are not validated while they train: weights are not chosen on the cells that are scored.
        """
        recipe = _changed(recipe_for(self.size), {"steps": self.steps, "validate_every": 0, **self.recipe})
        config = preset(self.size)
        ramp = min(config.losses.kl_warm_up, recipe.steps // 2)  # or variants would meet a base hardly regularised
        config = config.changed(losses={"kl_warm_up": ramp})
        return config.changed(**{part: dict(new) for part, new in self.network.items()}), recipe


def find_variants(names: Sequence[str]) -> tuple[Variant, ...]:
    """Return variants by name; all where none is named.

    Raises
    ------
    ModelInputError
        When there is no such variant.
    """
    known = {one.name: one for one in VARIANTS}
    if unknown := [name for name in names if name not in known and name != BASE.name]:
        raise ModelInputError("variant", unknown[0], ", ".join(known))
    return tuple(known[name] for name in dict.fromkeys(names) if name != BASE.name) if names else VARIANTS


def configure(plan: StudyPlan, variant: Variant, seed: int) -> tuple[ModelConfig, Recipe]:
    """Return network and recipe of one run; runs of one seed draw alike."""
    config, recipe = plan.shared
    config = config.changed(**variant.network)
    recipe = _changed(recipe, variant.recipe)
    collate = recipe.data.collate
    if variant.context != 1:
        short = max(1, round(collate.shortest * variant.context))
        collate = replace(collate, length=max(1, round(collate.length * variant.context)), shortest=short)
    order = replace(recipe.data.plan, config=replace(recipe.data.plan.config, seed=seed))
    data = replace(recipe.data, plan=order, collate=replace(collate, seed=seed))
    return config, replace(recipe, seed=seed, data=data)


def find_able(plan: StudyPlan, beginning: Beginning) -> list[Variant]:
    """Return the variants that can be trained: they have what they need, and are not just the base."""
    have: dict[Needs, bool] = {
        "": True, "regulators": bool(beginning.regulators), "prior": beginning.prior is not None,
        "vectors": bool(beginning.vectors),
    }  # fmt: skip
    return [one for one in plan.variants if have[one.needs] and _differs(plan, one)]


def run_study(
    cells: Cells,
    plan: StudyPlan,
    folder: Path | str,
    *,
    machine: Machine | None = None,
    beginning: Beginning | None = None,
    place: tuple[str, str | None] | None = None,
    show: Callable[[dict[str, Any]], None] | None = None,
) -> list[dict[str, Any]]:
    """Train and score what is missing in a study's folder, all variants of a seed before the next seed.

    A run that diverges is recorded as such and not tried again; one that fails otherwise is recorded, does not stop
    the others, and is tried again by the next call. What another process is at work on is left to it.

    Parameters
    ----------
    cells
        A pack, a store or an AnnData with training and validation cells.
    plan
        What is trained.
    folder
        Of the study; one that exists must be of the same cells and plan but for seeds and variants.
    machine
        Where; its `minutes` are those of the whole call, after which the run at hand keeps its state.
    beginning
        Protein vectors, and the regulators and prior gene network that some variants need.
    place
        Where the cells are, for the runs' own files.
    show
        Called after each run: variant, seed, state (scored, failed, stopped, or elsewhere), done, runs, seconds.

    Returns
    -------
    list of dict
        `tabulate(folder)`.

    Raises
    ------
    ModelInputError
        When the folder is of another study.
    """
    folder, machine, beginning = Path(folder), machine or Machine(), beginning or Beginning()
    _lay_out(folder, cells, plan, beginning)
    end = time.monotonic() + 60 * machine.minutes if machine.minutes else float("inf")
    able = find_able(plan, beginning)
    if plan.variants and not able:
        raise ModelInputError(
            "variants", [one.name for one in plan.variants], "some that differ and have what they need"
        )
    runs = [(variant, seed) for seed in range(plan.seeds) for variant in (BASE, *able)]
    for number, (variant, seed) in enumerate(runs):
        left = end - time.monotonic()
        if left <= 0:
            break
        place_of, began = folder / variant.name / f"seed-{seed}", time.monotonic()
        with alone(place_of.with_name(f"{place_of.name}.item")) as mine:
            if not mine:
                state = "elsewhere"
            elif _is_done(place_of):
                continue
            else:
                leg = replace(machine, minutes=left / 60 if machine.minutes else 0.0)
                state = _run(cells, plan, (variant, seed), place_of, leg, beginning, place)
        if show is not None:
            seconds = round(time.monotonic() - began, 1)
            said = {"variant": variant.name, "seed": seed, "state": state, "done": number + 1, "runs": len(runs)}
            show(said | {"seconds": seconds})
        if state == "stopped":
            break
    return tabulate(folder)


def _run(
    cells: Cells,
    plan: StudyPlan,
    which: tuple[Variant, int],
    folder: Path,
    machine: Machine,
    beginning: Beginning,
    place: tuple[str, str | None] | None,
) -> str:
    """Train and score one run, and write down what came of it."""
    variant, seed = which
    said: dict[str, Any] = {"variant": variant.name, "group": variant.group, "seed": seed}
    if variant.needs != "regulators":
        beginning = replace(beginning, regulators=())
    try:
        config, recipe = configure(plan, variant, seed)
        run = train(cells, config, recipe, folder, machine=machine, beginning=beginning, place=place)
        if not run.finished:
            return "stopped"
        kept = ("steps", "parameters", "cells_per_s", "loss_first", "loss_last", "device", "model")
        collate = _scored_genes(plan)
        scores = held_out_scores(run.model, cells, most=plan.scored, collate=collate, batch_size=recipe.batch_size)
        said |= {"scores": scores, **{name: run.facts.get(name) for name in kept}}
    except TrainingDivergedError as error:
        said |= {"error": str(error), "diverged": True}
    except (ModelError, LoaderError, RuntimeError) as error:  # out of memory is a RuntimeError
        if variant is BASE:
            raise  # what the base cannot do, no variant can be compared with
        said |= {"error": f"{type(error).__name__}: {error}"[:500], "diverged": False}
    write_whole(folder / "scores.json", (json.dumps(said, indent=1) + "\n").encode())
    return "failed" if "error" in said else "scored"


def tabulate(folder: Path | str) -> list[dict[str, Any]]:
    """Return the table of a study so far: a row per variant and score.

    Returns
    -------
    list of dict
        variant, group, score, mean over seeds, seeds, parameters, cells_per_s (median); and for variants difference
        (mean over the seeds that the base has too), low and high (its 95% t interval; None of one seed), and verdict:
        better or worse where 0 lies outside, otherwise even. A variant with failed runs has a row with failed, their
        number, and error. One interval in twenty misses by chance.
    """
    found = [_read(path) for path in sorted(Path(folder).glob("*/seed-*/scores.json"))]
    by_name: dict[str, list[dict[str, Any]]] = {}
    for one in sorted(found, key=lambda one: one["seed"]):
        by_name.setdefault(one["variant"], []).append(one)
    order = [name for name in (BASE.name, *(one.name for one in VARIANTS)) if name in by_name]
    order += sorted(set(by_name) - set(order))
    base = {one["seed"]: one["scores"] for one in by_name.get(BASE.name, ()) if "scores" in one}
    rows: list[dict[str, Any]] = []
    for name in order:
        runs = [one for one in by_name[name] if "scores" in one]
        about = {"variant": name, "group": by_name[name][0]["group"]}
        if failed := [one["error"] for one in by_name[name] if "error" in one]:
            rows.append({**about, "failed": len(failed), "error": failed[0]})
        for score in dict.fromkeys(score for one in runs for score in one["scores"]):
            having = [one for one in runs if score in one["scores"]]
            row = {**about, "score": score, "mean": float(np.mean([one["scores"][score] for one in having]))}
            row |= {"seeds": len(having), "parameters": having[0]["parameters"]}
            row["cells_per_s"] = float(np.median([one["cells_per_s"] or np.nan for one in having]))
            if name != BASE.name:
                both = [one for one in having if score in base.get(one["seed"], {})]
                row |= compare([one["scores"][score] - base[one["seed"]][score] for one in both], score)
            rows.append(row)
    return rows


def compare(differences: Sequence[float], score: str) -> dict[str, Any]:
    """Return difference, low, high and verdict of a variant's score minus the base's, seed by seed.

    The interval is mean -+ t s / sqrt(n), t being Student's quantile with n - 1 degrees of freedom.
    """
    from scipy.stats import t  # noqa: PLC0415 - takes a second to import

    values = np.array(differences)
    out: dict[str, Any] = {"difference": None, "low": None, "high": None, "verdict": ""}
    if len(values):
        out["difference"] = float(values.mean())
    if len(values) > 1:
        half = float(t.ppf((1 + LEVEL) / 2, len(values) - 1) * values.std(ddof=1) / len(values) ** 0.5)
        out["low"], out["high"] = out["difference"] - half, out["difference"] + half
        up = score.endswith(HIGHER_IS_BETTER)
        out["verdict"] = "even"
        if out["low"] > 0 or out["high"] < 0:
            out["verdict"] = "better" if (out["low"] > 0) == up else "worse"
    return out


def side_by_side(rows: Sequence[Mapping[str, Any]], scores: Sequence[str] = HEADLINES) -> list[dict[str, Any]]:
    """Return a row per variant of a table: the base's means, and differences with their intervals as text."""
    out: dict[str, dict[str, Any]] = {}
    for row in rows:
        line = out.setdefault(row["variant"], {"variant": row["variant"], "seeds": 0, "parameters": ""})
        if "failed" in row:
            line["note"] = f"{row['failed']} failed: {row['error'][:80]}"
            continue
        line |= {"seeds": row["seeds"], "parameters": row["parameters"], "cells/s": round(row["cells_per_s"], 1)}
        if row["score"] not in scores:
            continue
        text = f"{row['mean']:.4f}"
        if row.get("difference") is not None:
            text = f"{row['difference']:+.4f}"
        if row.get("low") is not None:
            mark = {"better": " better", "worse": " worse"}.get(row["verdict"], "")
            text += f" ± {(row['high'] - row['low']) / 2:.4f}{mark}"
        line[row["score"]] = text
    columns = list(dict.fromkeys(column for line in out.values() for column in line))
    return [{column: line.get(column, "") for column in columns} for line in out.values()]


def _lay_out(folder: Path, cells: Cells, plan: StudyPlan, beginning: Beginning) -> None:
    """Write what all runs share, or compare it with what is there."""
    if beginning.model is not None:
        raise ModelInputError("beginning.model", "a model", "none: variants have networks of their own")
    config, recipe = plan.shared
    regulators = "\n".join(sorted(beginning.regulators))
    said = {
        "format": STUDY_FORMAT, "cells": cells.fingerprint, "size": plan.size, "scored": plan.scored,
        "network": json.loads(config.to_json()),
        "recipe": json.loads(json.dumps(asdict(recipe), default=methodcaller("item"))),
        "vectors": {name: one.about["embedder"] for name, one in sorted(beginning.vectors.items())},
        "regulators": hashlib.sha256(regulators.encode()).hexdigest() if regulators else None,
        "prior": beginning.prior.digest if beginning.prior else None,
    }  # fmt: skip
    path = folder / "study.json"
    if path.exists():
        former = _read(path)
        for name in ("regulators", "prior"):  # may come later, or be left out, but not be others
            said[name] = said[name] or former.get(name)
            former[name] = former.get(name) or said[name]
        if other := [name for name in said if former.get(name) != said[name]]:
            allowed = f"a new one: the study in it has another {' and '.join(other)}"
            raise ModelInputError("folder", str(folder), allowed)
        said = former
    elif folder.exists() and any(one.is_file() for one in folder.iterdir()):
        raise ModelInputError("folder", str(folder), "that of a study, an empty one, or one that does not exist yet")
    write_changed(path, said)


def _read(path: Path) -> dict[str, Any]:
    """Return a JSON file of a study."""
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(str(path), f"it is no JSON ({error})"[:200], "delete it, and run again") from error
    return said


def _differs(plan: StudyPlan, variant: Variant) -> bool:
    """Return whether a variant is not just the base, which has some of the choices already."""
    try:
        return configure(plan, variant, 0) != configure(plan, BASE, 0)
    except (ModelError, LoaderError):
        return True  # told when it is its turn


def _scored_genes(plan: StudyPlan) -> CollateConfig:
    """Return the genes and neighbours that all variants are scored on: the base's, of one length, always alike."""
    config, recipe = plan.shared
    collate = fitted(recipe, config).data.collate
    return replace(collate, shorter_probability=0.0, fewer_neighbours=False, seed=0)


def _is_done(folder: Path) -> bool:
    """Return whether a run is scored, or diverged, which it would again."""
    if not (folder / "scores.json").exists():
        return False
    said = _read(folder / "scores.json")
    return "scores" in said or said["diverged"]


def _changed(value: Any, changes: Mapping[str, Any]) -> Any:
    """Return a dataclass with fields changed, nested ones by mappings."""
    known = {one.name for one in fields(value)}
    if unknown := sorted(set(changes) - known):
        raise ModelInputError("recipe", unknown[0], f"one of {', '.join(sorted(known))}")
    new = {}
    for name, change in changes.items():
        before = getattr(value, name)
        new[name] = _changed(before, change) if is_dataclass(before) and isinstance(change, dict) else change
    return replace(value, **new)
