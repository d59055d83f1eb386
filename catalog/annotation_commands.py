"""The bodies of the commands about labels: calibrate and score what a model tells, audit what cells have.

cli_annotation.py declares the arguments; what is worked out lives in `model`. `annotate` itself is in
annotate_command.py.
"""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from atlas import Finding, frames, preflight
from loaders import RelabelledCells
from model import (
    AuditOptions,
    audit_labels,
    compare_terms,
    held_out_donors,
    load_model,
    measured_coverage,
    seen_before,
)
from model import calibrate as calibrate_model
from ontology import LABELS, get_organism, harmonise, write_whole

from . import console as show
from . import model_places as places
from . import task_inputs as inputs
from .annotate_command import beside_model, find_calibration
from .errors import DONE, CatalogInputError
from .result_files import digest_of_file
from .table_files import beside, check_tables, write_tables
from .workflows import default_atlas

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt
    import pandas as pd
    from rich.console import Console

    from loaders import Cells
    from model import Calibration, LabelAudit, LabelCoverage, TrainedModel

    from .cli_annotation import LabelledOptions

PACK = "pack:"
"""Begins an input that is a pack."""
TOLD_GROUPS = 10
"""Groups of doubted cells, and confusions, that people are shown; tables have all."""


@dataclass(frozen=True, eq=False)
class _Asked:
    """Labelled cells that a command is about."""

    cells: Cells
    """The cells of the input."""
    numbers: npt.NDArray[np.int64]
    """Which of them."""
    matrix: str | None
    """Element of a file their counts are from."""
    findings: tuple[Finding, ...]
    """What reading them found."""
    names: Sequence[str] | None
    """What they are called, one for each of the numbers; None for those of a pack, which keeps no names."""
    in_file: bool
    """They are of a file, which has no splits."""
    opened: Any
    """What holds a file or store open; None for a pack."""

    def close(self) -> None:
        """Let go of the file or store."""
        if self.opened is not None:
            self.opened.close()


def calibrate(
    source: str,
    output: Path | None,
    held: Mapping[str, Any],
    sureness: tuple[float, str],
    options: LabelledOptions,
) -> int:
    """Calibrate a model and write what came of it."""
    people, began, (risk, unit) = show.people(), time.monotonic(), sureness
    folder = inputs.find_model(options.model)
    path = beside_model(folder) if output is None else output
    if path.suffix != ".json" or path.is_dir():
        raise CatalogInputError("output", str(path), "a file whose name ends in .json")
    if path.exists() and not options.force:
        raise CatalogInputError("output", str(path), "a file that does not exist yet; --force writes over it")
    model, reading = load_model(folder), inputs.plain_options(options)
    with closing(_open(source, model, options, {})) as asked:
        show.show_findings(people, [one for one in asked.findings if one.severity == "warning"])
        splits = held["splits"] or (None if asked.in_file else ("validation", "test"))
        donors = held_out_donors(model, asked.cells, asked.numbers, **{**held, "splits": splits})
        made = replace(calibrate_model(model, asked.cells, donors, options=reading), unit=unit)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, made.to_json().encode())
    coverage = measured_coverage(made, risk)
    facts = {
        "command": "calibrate", "input": source, "output": str(path), "sha256": digest_of_file(path),
        "model": model.digest, "release": model.facts.get("release"), "options": asdict(reading),
        "content_sha256": asked.cells.about["content_sha256"], "matrix": asked.matrix, "unit": unit, "alpha": risk,
        "cells": {"calibrating": len(donors.calibrating), "testing": len(donors.testing)},
        "left_out": {"donors": donors.seen_donors, "cells": donors.seen_cells},
        "labels": {label: _facts_of_label(made, label, one) for label, one in coverage.items()},
        "novelty": _facts_of_novelty(made, risk),
        "versions": {name: version(name) for name in ("panatlas", "torch")},
        "findings": [asdict(one) for one in asked.findings],
        "seconds": round(time.monotonic() - began, 3),
    }  # fmt: skip
    _tell_calibration(people, facts)
    if options.json:
        show.print_json(facts)
    return DONE


def audit(
    source: str,
    output: Path,
    which: tuple[str, str | None, Path | None],
    how: Mapping[str, Any],
    options: LabelledOptions,
) -> int:
    """Look for labels that cannot be right."""
    people, began, (label, column, file) = show.people(), time.monotonic(), which
    tables = {"cells": output, **{name: beside(output, name) for name in ("groups", "genes")}}
    check_tables(tables, force=options.force)
    if label not in LABELS:
        raise CatalogInputError("label", label, f"one of {', '.join(LABELS)}")
    folder = inputs.find_model(options.model)
    model, reading = load_model(folder), inputs.plain_options(options)
    with closing(_open(source, model, options, {} if column is None else {label: column})) as asked:
        seen = seen_before(model.ledger, asked.cells, asked.numbers)
        calibration, _, unused = find_calibration(file, folder, model, reading)
        found = audit_labels(
            model, asked.cells, label, asked.numbers, options=reading, calibration=calibration,
            audit=AuditOptions(**how),
        )  # fmt: skip
    shown = found.cells
    if asked.names is not None:
        places_of = np.searchsorted(asked.numbers, shown["cell"].to_numpy())
        shown = shown.assign(name=[asked.names[one] for one in places_of])
    findings = [*asked.findings, *unused, *_findings(found, column or label), *_learnt(seen, len(asked.numbers))]
    show.show_findings(people, [one for one in findings if one.severity == "warning"][:TOLD_GROUPS])
    write_tables(dict(zip(tables.values(), (shown, found.groups, found.genes), strict=True)))
    facts = {
        "command": "audit", "input": source, "label": label, "model": model.digest, "options": asdict(reading),
        "content_sha256": asked.cells.about["content_sha256"], "matrix": asked.matrix, "how": dict(how),
        "outputs": {name: {"path": str(path), "sha256": digest_of_file(path)} for name, path in tables.items()},
        "calibrated": calibration is not None, "audited": found.audited, "left_out": found.left_out,
        "in_doubt": len(found.cells), "contradicted": found.contradicted, "groups": len(found.groups), "seen": seen,
        "findings": [asdict(one) for one in findings], "seconds": round(time.monotonic() - began, 3),
    }  # fmt: skip
    people.print(
        f"[green]audit[/] {found.audited:,} cells with a {show.plain(label)} the model knows, {len(found.cells):,} in "
        f"doubt, {found.contradicted:,} contradicted by their markers too: {show.plain(output)}"
    )
    if options.json:
        show.print_json(facts)
    return DONE


def score(
    annotated: Path,
    which: tuple[str, str, str | None, str | None],
    organism: str,
    write: tuple[Path | None, bool],
    *,
    json: bool,
) -> int:
    """Compare told labels with true ones."""
    people, (label, truth, told, donor), (output, force) = show.people(), which, write
    if label not in LABELS:
        raise CatalogInputError("label", label, f"one of {', '.join(LABELS)}")
    if output is not None:
        check_tables({"output": output}, force=force)
    obs = _read_obs(annotated)
    told = told or f"panatlas_{label}_ontology_term_id"
    columns = [_column(obs, name, field) for name, field in ((truth, "truth"), (told, "told"))]
    terms = [_terms(label, values, organism) for values in columns]
    people_of = None if donor is None else _column(obs, donor, "donor").astype(str).tolist()
    found = compare_terms(label, terms[0], terms[1], people_of)
    if output is not None:
        write_tables({output: found.table})
    facts = {
        "command": "score", "input": str(annotated), "label": label, "truth": truth, "told": told,
        "cells": found.cells, "unlabelled": found.unlabelled, "donors": found.donors, "scores": found.scores,
        "relations": found.relations, "exact_interval": list(found.exact_interval),
        "unmapped": {name: _unmapped(*pair) for name, *pair in zip((truth, told), columns, terms, strict=True)},
        "classes": found.classes.to_dict("records"), "output": None if output is None else str(output),
    }  # fmt: skip
    _tell_score(people, facts, found.table)
    if json:
        show.print_json(facts)
    return DONE


def _open(source: str, model: TrainedModel, options: LabelledOptions, columns: Mapping[str, str]) -> _Asked:
    """Return labelled cells of a release, a pack or a file, whose columns may be named by label."""
    if not source.startswith((inputs.RELEASE, PACK)):
        organism = _known(options.organism or "human", model)
        donor = {} if options.donor is None else {"donor": options.donor}
        found = places.read_adata(Path(source), organism, options.layer, donor)
        own = {label: _terms(label, _column(found.obs, name, "column"), organism) for label, name in columns.items()}
        cells = RelabelledCells(found.cells, own) if own else found.cells
        every = np.arange(len(cells))
        return _Asked(cells, every, found.matrix, found.findings, found.names, in_file=True, opened=found.cells)
    if own := [name for name in (*columns.values(), options.donor) if name is not None]:
        raise CatalogInputError("column", own[0], "none: a release or pack has labels and donors")
    if source.startswith(inputs.RELEASE):
        said = inputs.open_input(source, model, options.organism, options.layer)
        names = said.obs.index.tolist()
        return _Asked(said.cells, said.numbers, None, said.findings, names, in_file=False, opened=said)
    if options.layer is not None:
        raise CatalogInputError("layer", options.layer, "none: a pack has counts only")
    cells = places.find_cells(None, source.removeprefix(PACK), None, default_atlas()).cells
    names = [str(one["organism"]) for one in cells.about["organisms"]]
    known = model.vocabulary.organisms if options.organism is None else (_known(options.organism, model),)
    numbers = np.flatnonzero(np.isin(cells.column("organism"), [names.index(one) for one in known if one in names]))
    return _Asked(cells, numbers, None, (), None, in_file=False, opened=None)


def _known(organism: str, model: TrainedModel) -> str:
    """Return the experiment name of an organism that the model knows."""
    name = get_organism(organism).experiment
    if name not in model.vocabulary.organisms:
        allowed = f"--organism with one that the model knows: {', '.join(model.vocabulary.organisms)}"
        raise CatalogInputError("organism", organism, allowed)
    return name


def _facts_of_label(made: Calibration, label: str, found: LabelCoverage) -> dict[str, Any]:
    one = made.labels[label]
    return {
        "temperature": one.temperature, "nll": list(one.nll), "ece": None if one.ece is None else list(one.ece),
        "donors": len(one.calibrated.donors), "threshold": found.threshold.value, "promise": found.threshold.promise,
        "tested_donors": found.donors, "tested_cells": found.cells, "coverage": found.coverage, "wrong": found.wrong,
        "wrong_interval": list(found.interval), "told": found.told, "holds": found.holds,
        "new_datasets": dict(found.new_datasets), "plainly": list(found.plainly),
    }  # fmt: skip


def _facts_of_novelty(made: Calibration, risk: float) -> dict[str, Any] | None:
    return None if made.novelty is None else made.novelty.told(risk, made.unit)


def _findings(found: LabelAudit, column: str) -> list[Finding]:
    """Return a finding per group of contradicted labels, the largest first."""
    remedy = "look at the genes of the group, and label these cells again where they are right"
    return [
        Finding(
            "label-contradicted", "warning", f"obs {column}",
            f"{row.by_markers:,} cells labelled {row.given_name} whose expression is that of {row.told_name}",
            "one label", remedy, int(row.by_markers),
        )
        for row in found.groups.itertuples() if row.by_markers
    ]  # fmt: skip


def _learnt(seen: Mapping[str, Any], cells: int) -> list[Finding]:
    """Return that the model learnt from the cells, if it did."""
    if not (known := seen["trained"] + seen["eligible"]):
        return []
    said = f"{known:,} of {cells:,} cells that the model may have learnt from, labels and all"
    remedy = "audit them with a model that has not seen them: what was learnt by heart is not contradicted"
    return [inputs.seen_cells(known, said, remedy)]


def _read_obs(path: Path) -> pd.DataFrame:
    """Return obs of an h5ad, of which nothing is run or followed."""
    if not path.exists():
        raise CatalogInputError("annotated", str(path), "an h5ad file that exists")
    with preflight.open_hdf5(path, path.name) as file:
        if "obs" not in file:
            raise CatalogInputError("annotated", str(path), "an h5ad with obs")
        return frames.read_frame(file["obs"], path.name, "obs")


def _column(obs: pd.DataFrame, name: str, field: str) -> pd.Series:
    if name not in obs.columns:
        raise CatalogInputError(field, name, f"a column of obs: {', '.join(map(str, obs.columns))}"[:600])
    return obs[name]


def _terms(label: str, values: pd.Series, organism: str) -> list[str]:
    """Return the term of each value, `unknown` for what says none."""
    texts = values.astype(object).where(values.notna(), None).map(lambda one: None if one is None else str(one))
    matches = harmonise(label, texts.drop_duplicates().tolist(), organism)
    return [matches[one].term_id for one in texts]


def _unmapped(values: pd.Series, ids: Sequence[str]) -> dict[str, int]:
    """Return the texts that are no term, with their cells; `unknown` is none on purpose."""
    texts = values.astype(str).to_numpy(dtype=object)
    none = texts[(np.array(ids, dtype=object) == "unknown") & values.notna().to_numpy() & (texts != "unknown")]
    names, counts = np.unique(none.astype(str), return_counts=True)
    return dict(zip(names.tolist(), counts.tolist(), strict=True))


def _tell_calibration(people: Console, facts: Mapping[str, Any]) -> None:
    """Print what came of a calibration, label by label, in sentences."""
    cells, out = facts["cells"], facts["left_out"]
    people.print(
        f"[green]calibrated[/] on {cells['calibrating']:,} cells, tested on {cells['testing']:,} of other donors in "
        f"{facts['seconds']:.1f} s: {show.plain(facts['output'])}"
    )
    if out["donors"]:
        people.print(f"  {out['donors']} donors with {out['cells']:,} cells left out: the model was trained on them")
    for label, one in facts["labels"].items():
        before, after = one["nll"]
        people.print(f"  {show.plain(label)}: temperature {one['temperature']:.2f}, nll {before:.2f} to {after:.2f}")
        for sentence in one["plainly"]:
            people.print(f"    {show.plain(sentence)}")
    if facts["novelty"] is not None:
        people.print("  cells of a new kind:")
        for sentence in facts["novelty"]["plainly"]:
            people.print(f"    {show.plain(sentence)}")


def _tell_score(people: Console, facts: Mapping[str, Any], table: pd.DataFrame) -> None:
    """Print scores side by side, and what was most often taken for what."""
    people.print(f"[green]scored[/] {facts['cells']:,} cells; {facts['unlabelled']:,} have no true {facts['label']}")
    people.print("  " + ", ".join(f"{name.replace('_', ' ')} {one:.3f}" for name, one in facts["scores"].items()))
    people.print("  of the cells: " + ", ".join(f"{name} {one:.3f}" for name, one in facts["relations"].items()))
    if facts["donors"]:
        low, high = facts["exact_interval"]
        people.print(f"  exact, mean over {facts['donors']} donors: 95% {low:.3f} to {high:.3f}")
    for name, texts in facts["unmapped"].items():
        if texts:
            people.print(
                f"  {show.plain(name)}: {len(texts)} texts are no term, such as {show.plain(next(iter(texts)))}"
            )
    wrong = table[table["relation"] != "exact"].head(TOLD_GROUPS)
    for row in wrong.itertuples():
        people.print(
            f"  {row.cells:,} of {show.plain(row.true_name)} told {show.plain(row.told_name)} ({row.relation})"
        )
