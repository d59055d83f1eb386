"""The bodies of `panatlas counterfactual` and `panatlas embed-genes`: find model and cells, call the verb, write.

cli_generate.py declares the arguments, counterfactual_inputs.py finds who is changed and what they are compared with;
what a model does with cells lives in `model`.
"""

from __future__ import annotations

import time
from contextlib import ExitStack, closing
from dataclasses import asdict
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from model import (
    Swap,
    compare_changes,
    context_of,
    control_swaps,
    decoded_means,
    embed_genes_in_cells,
    enrich,
    load_model,
    seen_before,
)
from model import embed_genes as embed_all_genes

from . import console as show
from . import task_inputs as inputs
from .counterfactual_inputs import Asked, ask, chosen_cells
from .counterfactual_steps import open_steps
from .errors import DONE, CatalogInputError
from .gene_set_files import open_gene_sets
from .result_files import check_output, digest_of_file, new_result, refuse_same_file
from .task_progress import TaskProgress

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from model import ChangeReport, Counterfactual

    from .cli_generate import CounterfactualOptions
    from .cli_reading import ReadingOptions
    from .result_files import ResultFile

VERSIONS = ("panatlas", "torch", "anndata")
"""Whose versions a result names."""
LAYERS = ("panatlas_factual", "panatlas_counterfactual")


def counterfactual(source: str, output: Path, how: CounterfactualOptions, options: ReadingOptions) -> int:
    """Swap tokens of cells, write what they would express, and compare it with what is observed."""
    people, began = show.people(), time.monotonic()
    _check_places(output, source, how.reference, force=options.force)
    if not 0 <= how.mix <= 1:
        raise CatalogInputError("mix", how.mix, "0 to 1")
    folder = inputs.find_model(options.model)
    model, reading = load_model(folder), inputs.plain_options(options)
    with ExitStack() as open_:
        given = open_.enter_context(closing(inputs.open_input(source, model, options.organism, options.layer)))
        other = given
        if how.reference is not None:
            species = how.reference_organism or options.organism
            other = open_.enter_context(closing(inputs.open_input(how.reference, model, species, None)))
        counted, seen = inputs.count_genes(given, model), seen_before(model.ledger, given.cells, given.numbers)
        findings = [*given.findings, *inputs.warnings_of(given, counted, seen, context_of(model, reading).length)]
        show.show_findings(people, [one for one in findings if one.severity == "warning"])
        asked = ask(model, given, other, how)
        sets = {} if how.gene_sets is None else open_gene_sets(how.gene_sets, asked.organisms[0])
        halves, n = asked.halves, len(given.numbers)
        about = {
            "command": "counterfactual", "model": model.digest, "release": model.facts.get("release"),
            "options": {name: one for name, one in asdict(reading).items() if name != "first"},
            "set": list(how.to), "mix": how.mix, "seed": how.seed,
            "content_sha256": given.cells.about["content_sha256"], "matrix": given.matrix,
            "versions": {name: version(name) for name in VERSIONS},
        }  # fmt: skip
        on_gpu = options.device != "cpu" and torch.cuda.is_available()
        cells = [given.cells.fingerprint, other.cells.fingerprint]
        steps = open_steps(open_, model, asked, reading, {**about, "cells": cells, "gpu": on_gpu})
        with (
            new_result(output, n, force=options.force, key=steps.key) as result,
            TaskProgress(people, "counterfactual", steps.n_cells) as tell,
        ):
            codes = steps.codes(how.seed, tell)
            swaps = [Swap(token, codes["target"][token], how.mix) for token in asked.tokens]
            kept = _Rows(result, given.numbers)
            made = decoded_means(kept.through(steps.decoded("changed", swaps, tell)), halves.source, halves.groups)
            kept.fill(n)
            controls = steps.decoded("compared", control_swaps(swaps, codes), tell)
            report = compare_changes(halves, made, decoded_means(controls, halves.source, halves.groups), asked.genes)
            pathways = _pathways(report, sets)
            facts = {**about, **asked.facts}
            tables = {"changes": report.changes, "scores": report.scores, "pathways": pathways}
            columns = {name: {str(one): table[one].tolist() for one in table} for name, table in tables.items()}
            obs = given.obs.assign(panatlas_counterfactual=asked.roles)
            result.finish(obs, _var(given, asked), {"panatlas": {**facts, **columns}})
    told = {
        "input": source, "output": str(output), "sha256": digest_of_file(output), **facts,
        "model_folder": str(folder), "cells": n, "genes": asdict(counted), "seen": seen,
        "scores": report.scores.to_dict("records"), "pathways": pathways.to_dict("records"),
        "findings": [asdict(one) for one in findings], "seconds": round(time.monotonic() - began, 3),
    }  # fmt: skip
    _tell(people, told)
    if options.json:
        show.print_json(told)
    return DONE


def embed_genes(source: str | None, output: Path, chosen: tuple[Sequence[str], int], options: ReadingOptions) -> int:
    """Write genes as vectors."""
    people, began, (only, least) = show.people(), time.monotonic(), chosen
    _check_places(output, source, force=options.force)
    folder = inputs.find_model(options.model)
    model, facts = load_model(folder), {"cells": None}
    if source is None:
        if only:
            raise CatalogInputError("only", list(only), "cells to choose from: name an input")
        found = embed_all_genes(model, options.organism)
    else:
        with closing(inputs.open_input(source, model, options.organism, options.layer)) as given:
            numbers = given.numbers[chosen_cells(given.obs, only)]
            reading = inputs.plain_options(options)
            found = embed_genes_in_cells(model, given.cells, numbers, least_cells=least, options=reading)
            facts = {"cells": len(numbers), "content_sha256": given.cells.about["content_sha256"]}
    obs = pd.DataFrame({"organism": found.organisms}, index=pd.Index(found.ids, dtype=object))
    obs["feature_name"] = _symbols(found.ids, found.organisms)
    if found.cells is not None:
        obs["n_cells"] = found.cells
    about = {
        "command": "embed-genes", "model": model.digest, "release": model.facts.get("release"), "only": list(only),
        "least_cells": None if source is None else least, **facts,
        "versions": {name: version(name) for name in VERSIONS},
    }  # fmt: skip
    with new_result(output, len(found), force=options.force) as result:
        result.append("obsm/X_panatlas", found.values)
        result.finish(obs, None, {"panatlas": about})
    told = {
        "input": source, "output": str(output), "sha256": digest_of_file(output), **about, "model_folder": str(folder),
        "genes": len(found), "dimensions": found.values.shape[1], "seconds": round(time.monotonic() - began, 3),
    }  # fmt: skip
    where = "" if source is None else f" in {told['cells']:,} cells"
    people.print(f"[green]embed-genes[/] {len(found):,} genes{where}: {show.plain(output)}")
    if options.json:
        show.print_json(told)
    return DONE


class _Rows:
    """Writes layers as blocks pass by; cells that are not changed get NaN."""

    def __init__(self, result: ResultFile, numbers: np.ndarray) -> None:
        self._result, self._done, self._width = result, 0, 0
        self._place = pd.Series(np.arange(len(numbers)), index=numbers)

    def through(self, blocks: Iterator[Counterfactual]) -> Iterator[Counterfactual]:
        """Give the blocks on, which come in the order of the cells."""
        for block in blocks:
            self._width = len(block.genes)
            places = self._place[block.numbers].to_numpy()
            at = 0
            while at < len(places):  # runs of cells side by side
                end = at + 1
                while end < len(places) and places[end] == places[end - 1] + 1:
                    end += 1
                self.fill(int(places[at]))
                self._append(block.factual[at:end], block.expected[at:end])
                at = end
            yield block

    def fill(self, until: int) -> None:
        """Write NaN for the cells up to one."""
        if until > self._done:
            gap = np.full((until - self._done, self._width), np.nan, dtype=np.float32)
            self._append(gap, gap)

    def _append(self, *rows: np.ndarray) -> None:
        for name, part in zip(LAYERS, rows, strict=True):
            self._result.append(f"layers/{name}", part)
        self._done += len(rows[0])


def _check_places(output: Path, *sources: str | None, force: bool) -> None:
    """Refuse what cannot be right before anything is read."""
    check_output(output, force=force)
    refuse_same_file(output, *sources)


def _pathways(report: ChangeReport, sets: dict[str, frozenset[str]]) -> pd.DataFrame:
    """Return what gene sets are in counterfactual and observed changes, group by group."""
    parts = []
    for group, rows in report.changes.groupby("group", sort=False) if sets else ():
        for of, column in (
            ("counterfactual", "change"), ("over own class", "change_over_own"), ("observed", "observed_change"),
        ):  # fmt: skip
            found = enrich(rows["gene"].tolist(), rows[column].to_numpy(), sets)
            parts.append(found.assign(group=group, of=of))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def _var(given: inputs.TaskInput, asked: Asked) -> pd.DataFrame:
    table = given.cells.genes()
    names = pd.Series(table["feature_name"].to_numpy(dtype=object), index=table["feature_id"].astype(str))
    ids = pd.Index(asked.genes[0], dtype=object)
    var = pd.DataFrame({"feature_name": names[~names.index.duplicated()].reindex(ids).to_numpy()}, index=ids)
    return var if asked.orthologs is None else var.assign(counterfactual_gene=list(asked.genes[1]))


def _symbols(ids: np.ndarray, organisms: np.ndarray) -> np.ndarray:
    from ontology import load_gene_table  # noqa: PLC0415 - only here

    out = np.empty(len(ids), dtype=object)
    for organism in np.unique(organisms):
        table, mine = load_gene_table(str(organism)), organisms == organism
        names = pd.Series(np.asarray(table.symbols, dtype=object), index=table.ids.astype(str))
        out[mine] = names.reindex(ids[mine]).to_numpy()
    return out


def _tell(people: Any, told: dict[str, Any]) -> None:
    """Print how far the counterfactual changes are those observed."""
    people.print(
        f"[green]counterfactual[/] {told['changed']:,} of {told['cells']:,} cells, "
        f"{show.plain(', '.join(told['set']))}: {show.plain(told['output'])}"
    )
    rows = [row for row in told["scores"] if row["group"] == "all"]
    for row in rows:
        said = "nothing" if row["spearman"] != row["spearman"] else f"{row['spearman']:+.3f}"
        people.print(
            f"  {row['method']}: Spearman {said}, {row['overlap']:.0%} of the genes that change most, "
            f"{row['explained']:+.2f} of the squared changes explained"
        )
