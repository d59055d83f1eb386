"""The bodies of the commands that use a trained model: find it and the cells, call its verb, write what it says.

cli_tasks.py declares the arguments, task_inputs.py finds what they name, result_files.py writes; what a model does with
cells lives in `model`. Each verb goes through the cells once, batch by batch, and so does its result.
"""

from __future__ import annotations

import time
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from model import (
    InferenceOptions,
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
from .finished_blocks import finished_blocks
from .result_files import ResultFile, check_output, digest_of_file, new_result, refuse_same_file
from .task_progress import TaskProgress
from .task_report import check_figures, write_figures
from .write_back import AtlasResult

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    import numpy.typing as npt
    from rich.console import Console

    from atlas import Finding
    from model import Denoised, TrainedModel

    from .cli_tasks import TaskOptions
    from .finished_blocks import Make, Rows

VERSIONS = ("panatlas", "torch", "anndata")
"""Whose versions a result names."""


@dataclass(frozen=True, eq=False)
class Job:
    """What a verb is given."""

    model: TrainedModel
    """The model."""
    asked: inputs.TaskInput
    """The cells."""
    options: InferenceOptions
    """What is shown of them."""
    result: ResultFile | AtlasResult
    """Takes what comes."""
    finished: Callable[[Make], Iterator[Rows]]
    """Gives a verb's rows of all cells once they are worked out; `FinishedBlocks.rows` says how."""

    def reading(self, first: int) -> InferenceOptions:
        """Return what is shown of the cells when a verb begins with one of them."""
        return replace(self.options, first=first)


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
    findings: tuple[Finding, ...] = ()
    """Warnings that only the verb knows of."""
    embedding: npt.NDArray[np.float32] | None = None
    """For figures, where they are asked for and the result holds no embedding: of the cells that are drawn."""


def embed(source: str, output: Path | None, options: TaskOptions) -> int:
    """Embed cells."""

    def work(job: Job) -> Said:
        columns: dict[str, slice] = {}

        def made(first: int) -> Iterator[Rows]:
            for block in embed_blocks(job.model, job.asked.cells, job.asked.numbers, options=job.reading(first)):
                columns.update(block.columns)
                yield {"values": block.values}

        for rows in job.finished(made):
            job.result.append("obsm/X_panatlas", rows["values"])
            for token, where in columns.items():
                job.result.append(f"obsm/X_panatlas_{token}", rows["values"][:, where])
        sizes = {"dimensions": {name: one.stop - one.start for name, one in columns.items()}}
        return Said(facts=sizes, uns=sizes)

    return perform("embed", source, output, options, work, {})


def denoise(
    source: str, output: Path | None, chosen: tuple[Path | None, bool, Mapping[str, Any]], options: TaskOptions
) -> int:
    """Write the counts that cells would be expected to have."""
    file, variance, how = chosen

    def work(job: Job) -> Said:
        genes, unknown = _genes_of(job, file)

        def made(first: int) -> Iterator[Denoised]:
            cells, numbers = job.asked.cells, job.asked.numbers
            return denoise_blocks(job.model, cells, numbers, genes=genes, **how, options=job.reading(first))

        said = _write_layers(job, made, "panatlas_denoised", variance=variance)
        return replace(said, facts={**said.facts, "unknown_genes": unknown}, uns={**said.uns, **how})

    return perform("denoise", source, output, options, work, {**how, "genes": digest_of(file), "variance": variance})


def impute(
    source: str, output: Path | None, chosen: tuple[Path | None, bool, Mapping[str, Any]], options: TaskOptions
) -> int:
    """Write the counts that genes would be expected to have that were not measured."""
    file, variance, how = chosen

    def work(job: Job) -> Said:
        genes, unknown = _genes_of(job, file)
        genes = inputs.lacking_genes(job.asked, job.model) if genes is None else genes

        def made(first: int) -> Iterator[Denoised]:
            cells, numbers = job.asked.cells, job.asked.numbers
            return impute_blocks(job.model, cells, genes, numbers, **how, options=job.reading(first))

        said = _write_layers(job, made, "panatlas_imputed", variance=variance)
        return replace(said, facts={**said.facts, "unknown_genes": unknown}, uns={**said.uns, **how})

    return perform("impute", source, output, options, work, {**how, "genes": digest_of(file), "variance": variance})


def _genes_of(job: Job, file: Path | None) -> tuple[list[str] | None, list[str]]:
    """Return the genes a file names, None for no file, and the names that are unknown."""
    found: tuple[list[str] | None, list[str]] = (None, [])
    if file is not None:
        names = job.asked.cells.about["organisms"]
        there = np.unique(job.asked.cells.codes("organism", job.asked.numbers))
        found = places.read_genes(file, [str(names[code]["organism"]) for code in there], "genes")
    if isinstance(job.result, AtlasResult):
        job.result.refuse_many(found[0])
    return found


def _write_layers(job: Job, blocks: Callable[[int], Iterator[Denoised]], name: str, *, variance: bool) -> Said:
    """Write expected counts, and their variances."""
    genes: list[str] = []

    def made(first: int) -> Iterator[Rows]:
        for block in blocks(first):
            genes[:] = block.genes
            if variance and block.variance is None:
                raise CatalogInputError("variance", variance, "none: the model was trained without one")
            yield {name: block.expected, **({f"{name}_variance": block.variance} if variance else {})}

    for rows in job.finished(made):
        for layer, values in rows.items():
            job.result.append(f"layers/{layer}", values, genes)
    table = job.asked.cells.genes()
    symbols = pd.Series(table["feature_name"].to_numpy(dtype=object), index=table["feature_id"].astype(str))
    ids = pd.Index(genes, dtype=object)
    var = pd.DataFrame({"feature_name": symbols[~symbols.index.duplicated()].reindex(ids).to_numpy()}, index=ids)
    return Said(var=var, facts={"layer": name, "n_vars": len(ids)}, uns={"layer": name})


def perform(
    verb: str,
    source: str,
    output: Path | None,
    options: TaskOptions,
    work: Callable[[Job], Said],
    how: Mapping[str, Any],
) -> int:
    """Find model and cells, let a verb work on them, write its result, and tell what came of it.

    `how` is what a verb was told besides the options of all, as JSON values: it decides the rows too.
    """
    people, began = show.people(), time.monotonic()
    _check_places(source, output, options)
    folder = inputs.find_model(options.model)
    model = load_model(folder)
    with closing(inputs.open_input(source, model, options.organism, options.layer)) as asked, ExitStack() as open_:
        genes, seen = inputs.count_genes(asked, model), seen_before(model.ledger, asked.cells, asked.numbers)
        reading = inputs.reading_options(options, model)
        findings = [*asked.findings, *inputs.warnings_of(asked, genes, seen, context_of(model, reading).length)]
        show.show_findings(people, [one for one in findings if one.severity == "warning"])
        about = {
            "command": verb, "model": model.digest, "release": model.facts.get("release"),
            "options": {name: one for name, one in asdict(reading).items() if name != "first"},
            "content_sha256": asked.cells.about["content_sha256"], "matrix": asked.matrix,
            "versions": {name: version(name) for name in VERSIONS},
        }  # fmt: skip
        on_gpu = options.device != "cpu" and torch.cuda.is_available()
        decides = {**about, "how": how, "cells": asked.cells.fingerprint, "gpu": on_gpu}
        key, finished = open_.enter_context(finished_blocks(decides, asked.numbers, reading.batch_size))
        n = len(asked.numbers)
        if output is None:
            result: Any = open_.enter_context(AtlasResult(asked, model.digest, verb, force=options.force))
        else:
            result = open_.enter_context(new_result(output, n, force=options.force, key=key))
        progress = open_.enter_context(TaskProgress(people, verb, n))
        said = work(Job(model, asked, reading, result, lambda make: finished.rows(make, progress)))
        findings += said.findings
        obs = pd.DataFrame({**asked.obs, **said.obs}, index=asked.obs.index)
        result.finish(obs, asked.var if said.var is None else said.var, {"panatlas": {**about, **said.uns}})
    facts = {
        "input": source, **_written(output, result), **about,
        "model_folder": str(folder), "cells": n, "genes": asdict(genes), "seen": seen, **said.facts,
        "findings": [asdict(one) for one in findings],
        "seconds": round(time.monotonic() - began, 3),
    }  # fmt: skip
    if options.plots and output is not None:
        with closing(inputs.open_input(source, model, options.organism, options.layer)) as asked:
            facts["plots"] = str(write_figures(output, facts, model, asked, said.embedding))
    show.show_findings(people, said.findings)
    _tell(people, facts)
    if options.json:
        show.print_json(facts)
    return DONE


def _check_places(source: str, output: Path | None, options: TaskOptions) -> None:
    """Refuse what cannot be right before anything is read."""
    if (output is None) != options.to_atlas:
        raise CatalogInputError("output", output and str(output), "either --output FILE.h5ad, or --to-atlas")
    if options.to_atlas and not source.startswith(inputs.RELEASE):
        raise CatalogInputError("to_atlas", source, "release:NAME: what the atlas holds is of its own cells")
    if output is not None:
        check_output(output, force=options.force)
    if options.plots:
        check_figures(output, force=options.force)
    if source.startswith(inputs.RELEASE):
        return
    refuse_same_file(output, source)
    if options.neighbours:
        raise CatalogInputError("neighbours", options.neighbours, "0 for a file, which stores none; a release does")


def _written(output: Path | None, result: Any) -> dict[str, Any]:
    """Return where a result is, for the receipt."""
    if output is not None:
        return {"output": str(output), "sha256": digest_of_file(output)}
    return {"output": result.uri, "results": result.written}


def digest_of(file: Path | None) -> str | None:
    """Return the digest of a file that a verb was told; None for none, or for one it will say it cannot read."""
    return digest_of_file(file) if file is not None and file.is_file() else None


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
    if "plots" in facts:
        people.print(f"  figures and report: {show.plain(facts['plots'])}")
