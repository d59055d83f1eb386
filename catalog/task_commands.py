"""The bodies of the commands that use a trained model: find it and the cells, call its verb, write what it says.

cli_tasks.py declares the arguments, task_inputs.py finds what they name, result_files.py writes; what a model does with
cells lives in `model`. Each verb goes through the cells once, batch by batch, and so does its result.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from model import (
    InferenceOptions,
    annotate_blocks,
    context_of,
    denoise_blocks,
    embed_blocks,
    impute_blocks,
    load_model,
    seen_before,
)

from . import console as show
from . import model_places as places
from . import task_inputs as inputs
from .errors import DONE, CatalogInputError
from .result_files import ResultFile, check_output, digest_of_file, new_result

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from rich.console import Console

    from model import Denoised, TrainedModel

    from .cli_tasks import TaskOptions

VERSIONS = ("panatlas", "torch", "anndata")
"""Whose versions a result names."""
TOLD_S = 30.0
"""Seconds between lines of progress where there is no terminal."""


@dataclass(frozen=True, eq=False)
class Job:
    """What a verb is given."""

    model: TrainedModel
    """The model."""
    asked: inputs.TaskInput
    """The cells."""
    options: InferenceOptions
    """What is shown of them."""
    result: ResultFile
    """Takes what comes."""
    tell: Callable[[int], None]
    """Called with the number of cells that were done."""


@dataclass(frozen=True, eq=False)
class Said:
    """What a verb leaves besides the blocks it wrote."""

    obs: Mapping[str, Any] = field(default_factory=dict)
    """Columns that cells get."""
    var: pd.DataFrame | None = None
    """Genes of the layers; None for those of the input."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """For the receipt."""
    uns: Mapping[str, Any] = field(default_factory=dict)
    """For the file, besides what every result says of itself."""


def embed(source: str, output: Path, options: TaskOptions) -> int:
    """Embed cells."""

    def work(job: Job) -> Said:
        for block in embed_blocks(job.model, job.asked.cells, job.asked.numbers, options=job.options):
            job.result.append("obsm/X_panatlas", block.values)
            for token in block.columns:
                job.result.append(f"obsm/X_panatlas_{token}", block.part(token))
            job.tell(len(block))
        return Said(facts={"dimensions": {name: one.stop - one.start for name, one in block.columns.items()}})

    return _perform("embed", source, output, options, work)


def annotate(
    source: str,
    output: Path,
    labels: Sequence[str],
    sureness: tuple[float, Path | None, float | None],
    options: TaskOptions,
) -> int:
    """Name cells."""
    threshold, file, alpha = sureness
    calibration = None if file is None else inputs.read_calibration(file)

    def work(job: Job) -> Said:
        if wrong := [label for label in labels if label not in job.model.vocabulary.labels]:
            raise CatalogInputError("label", wrong[0], f"one of {', '.join(job.model.vocabulary.labels)}")
        codes: dict[str, list[Any]] = {}
        sure: dict[str, list[Any]] = {}
        blocks = annotate_blocks(
            job.model, job.asked.cells, job.asked.numbers, options=job.options, calibration=calibration, alpha=alpha,
            threshold=threshold,
        )  # fmt: skip
        for block in blocks:
            found = {label: block.of(label) for label in labels or block.labels}
            for label, one in found.items():
                codes.setdefault(label, []).append(one.said)
                sure.setdefault(label, []).append(one.said_probability)
            job.tell(len(block))
        columns: dict[str, Any] = {}
        tally: dict[str, dict[str, int]] = {}
        for label, one in found.items():
            said = np.concatenate(codes[label])
            names = _categories(said, one.space.labels)
            columns[f"panatlas_{label}"] = names
            columns[f"panatlas_{label}_ontology_term_id"] = _categories(said, one.space.classes)
            columns[f"panatlas_{label}_probability"] = np.concatenate(sure[label])
            tally[label] = dict(Counter(names).most_common())
        limits = {
            label: {"threshold": one.threshold.value, "promise": one.threshold.promise, "temperature": one.temperature}
            for label, one in found.items()
        }
        return Said(columns, facts={"labels": tally, "thresholds": limits}, uns={"thresholds": limits})

    return _perform("annotate", source, output, options, work)


def denoise(
    source: str, output: Path, chosen: tuple[Path | None, bool, Mapping[str, Any]], options: TaskOptions
) -> int:
    """Write the counts that cells would be expected to have."""
    file, variance, how = chosen

    def work(job: Job) -> Said:
        genes, unknown = _genes_of(job, file)
        blocks = denoise_blocks(job.model, job.asked.cells, job.asked.numbers, genes=genes, **how, options=job.options)
        said = _write_layers(job, blocks, "panatlas_denoised", variance=variance)
        return replace(said, facts={**said.facts, "unknown_genes": unknown}, uns={**said.uns, **how})

    return _perform("denoise", source, output, options, work)


def impute(source: str, output: Path, chosen: tuple[Path | None, bool, Mapping[str, Any]], options: TaskOptions) -> int:
    """Write the counts that genes would be expected to have that were not measured."""
    file, variance, how = chosen

    def work(job: Job) -> Said:
        genes, unknown = _genes_of(job, file)
        genes = inputs.lacking_genes(job.asked, job.model) if genes is None else genes
        blocks = impute_blocks(job.model, job.asked.cells, genes, job.asked.numbers, **how, options=job.options)
        said = _write_layers(job, blocks, "panatlas_imputed", variance=variance)
        return replace(said, facts={**said.facts, "unknown_genes": unknown}, uns={**said.uns, **how})

    return _perform("impute", source, output, options, work)


def _genes_of(job: Job, file: Path | None) -> tuple[list[str] | None, list[str]]:
    """Return the genes a file names, None for no file, and the names that are unknown."""
    if file is None:
        return None, []
    names = job.asked.cells.about["organisms"]
    there = np.unique(job.asked.cells.codes("organism", job.asked.numbers))
    return places.read_genes(file, [str(names[code]["organism"]) for code in there], "genes")


def _write_layers(job: Job, blocks: Iterator[Denoised], name: str, *, variance: bool) -> Said:
    """Write expected counts, and their variances, as they come."""
    for block in blocks:
        job.result.append(f"layers/{name}", block.expected)
        if variance:
            if block.variance is None:
                raise CatalogInputError("variance", variance, "none: the model was trained without one")
            job.result.append(f"layers/{name}_variance", block.variance)
        job.tell(len(block.numbers))
    table = job.asked.cells.genes()
    symbols = pd.Series(table["feature_name"].to_numpy(dtype=object), index=table["feature_id"].astype(str))
    ids = pd.Index(block.genes, dtype=object)
    var = pd.DataFrame({"feature_name": symbols[~symbols.index.duplicated()].reindex(ids).to_numpy()}, index=ids)
    return Said(var=var, facts={"layer": name, "n_vars": len(ids)}, uns={"layer": name})


def _categories(codes: np.ndarray, words: Sequence[str]) -> pd.Categorical:
    """Return codes as text, `unknown` for -1; classes that share a name are one, and those without cells none."""
    texts = np.array([*words, "unknown"], dtype=object)[codes]
    return pd.Categorical(texts, categories=pd.Index(sorted(set(texts)), dtype=object))


def _perform(
    verb: str,
    source: str,
    output: Path,
    options: TaskOptions,
    work: Callable[[Job], Said],
) -> int:
    """Find model and cells, let a verb work on them, write its result, and tell what came of it."""
    people, began = show.people(), time.monotonic()
    _check_places(source, output, options)
    folder = inputs.find_model(options.model)
    model = load_model(folder)
    asked = inputs.open_input(source, model, options.organism, options.layer)
    genes, seen = inputs.count_genes(asked, model), seen_before(model.ledger, asked.cells, asked.numbers)
    reading = InferenceOptions(
        length=options.length, batch_size=options.batch_size, neighbours=options.neighbours, device=options.device,
        least_genes=options.least_genes,
    )  # fmt: skip
    findings = [*asked.findings, *inputs.warnings_of(asked, genes, seen, context_of(model, reading).length)]
    show.show_findings(people, [one for one in findings if one.severity == "warning"])
    about = {
        "command": verb, "model": model.digest, "release": model.facts.get("release"), "options": asdict(reading),
        "content_sha256": asked.cells.about["content_sha256"], "matrix": asked.matrix,
        "versions": {name: version(name) for name in VERSIONS},
    }  # fmt: skip
    with (
        new_result(output, len(asked.numbers), force=options.force) as result,
        _Progress(people, verb, len(asked.numbers)) as progress,
    ):
        said = work(Job(model, asked, reading, result, progress))
        obs = pd.DataFrame({**asked.obs, **said.obs}, index=asked.obs.index)
        result.finish(obs, asked.var if said.var is None else said.var, {"panatlas": {**about, **said.uns}})
    facts = {
        "input": source, "output": str(output), "sha256": digest_of_file(output), **about,
        "model_folder": str(folder), "cells": len(asked.numbers), "genes": asdict(genes), "seen": seen, **said.facts,
        "findings": [asdict(one) for one in findings],
        "seconds": round(time.monotonic() - began, 3),
    }  # fmt: skip
    _tell(people, facts)
    if options.json:
        show.print_json(facts)
    return DONE


def _check_places(source: str, output: Path, options: TaskOptions) -> None:
    """Refuse what cannot be right before anything is read."""
    check_output(output, force=options.force)
    if source.startswith(inputs.RELEASE):
        return
    if output.exists() and Path(source).exists() and output.samefile(source):
        raise CatalogInputError("output", str(output), "another file than the input")
    if options.neighbours:
        raise CatalogInputError("neighbours", options.neighbours, "0 for a file, which stores none; a release does")


def _tell(people: Console, facts: Mapping[str, Any]) -> None:
    """Print what came of it."""
    of = f"model {show.plain(facts['model'][:12])}"
    of += f" of release {show.plain(facts['release'])}" if facts["release"] else ""
    people.print(
        f"[green]{facts['command']}[/] {facts['cells']:,} cells by {of} in {facts['seconds']:.1f} s: "
        f"{show.plain(facts['output'])}"
    )
    genes = facts["genes"]
    people.print(f"  {genes['known']:,} of {genes['measured']:,} genes are known to the model")
    for label, tally in facts.get("labels", {}).items():
        first = ", ".join(f"{show.plain(name)} {cells:,}" for name, cells in list(tally.items())[:5])
        more = f" and {len(tally) - 5} more" if len(tally) > 5 else ""
        people.print(f"  {show.plain(label)}: {first}{more}")


class _Progress:
    """How far a verb is: a bar at a terminal, elsewhere a line every half minute."""

    def __init__(self, people: Console, verb: str, total: int) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._bar = Progress(*columns, console=people, transient=True, disable=not people.is_terminal)
        self._task = self._bar.add_task(verb, total=total)
        self._people, self._verb, self._total = people, verb, total
        self._done, self._began = 0, time.monotonic()
        self._told = self._began

    def __enter__(self) -> _Progress:
        """Start drawing."""
        self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        """Stop drawing."""
        self._bar.stop()

    def __call__(self, cells: int) -> None:
        """Add cells that were done."""
        self._done, now = self._done + cells, time.monotonic()
        self._bar.update(self._task, completed=self._done)
        if not self._people.is_terminal and now - self._told > TOLD_S:
            self._told = now
            left = (now - self._began) / self._done * (self._total - self._done)
            self._people.print(f"{self._verb}: {self._done:,} of {self._total:,} cells, {left:,.0f} s left")
