"""The model that ships with the package: the pre-training benchmark's in half precision, calibrated, with its card.

Written into model/shipped, which `panatlas annotate` and the other verbs read where no model is named. Its rows are
what halving costs, what the files weigh, and how far its labels are to be trusted on donors that calibrated nothing.
"""

from __future__ import annotations

import copy
import json
import os
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from loaders import Cells
    from model import Calibration, TrainedModel

SEED, PANELS = 0, ("osmfish-cortex",)
READS = ("training_sources.toml",)
FOLDER = Path(__file__).resolve().parent / "data"
SHIPPED = Path(__file__).resolve().parents[1] / "model" / "shipped"
NAME, MOST, CALIBRATING, RISK = "tiny", 512, 1_500, 0.1
LENGTHS = (480, 1_000, 2_200)
"""Genes that cells of validation donors are read with, to find how many are best; the first is training's."""
COLUMNS = ("what", "as trained", "as shipped", "temperature", "wrong", "covered", "donors", "MB")
NOTES = (
    "Scores on validation donors as in `pretrain`, before and after weights are rounded to half precision; every other "
    "benchmark of a trained model reads the shipped files. They are read with as many genes as do best here.",
    f"Labels: temperature and thresholds of alpha {RISK} chosen on cells of some held-out donors; `wrong`: share of "
    "the cells of other held-out donors that were told a wrong term, `covered`: share that was told any. A promise for "
    "new donors takes nine of them; there are four, so that `--alpha` tells nothing unless `--unit cell` is said.",
)
LIMITS = """\
- Three organisms, few donors, few tissues: it has never seen most cell types, and says `unknown` or something wrong
  where it meets one. Look at `covered` and at the novelty flag before labels are used.
- Calibrated on four held-out donors, too few to promise anything of new ones: the shares below are of the cells of
  three more, at alpha 0.1 with cells as the unit.
- Labels given to whole studies (tissue, assay, disease) are as much the study as the label.
- No protein language model: genes are told apart by ortholog group, place and hashed ids, so an organism without
  ortholog links is read no better than by chance.
- Scores on held-out donors, also where simple methods win, are in docs/benchmarks.md.
"""


def main(*, quick: bool) -> list[dict[str, Any]]:
    """Write the shipped files, unless quick, and return what they cost and are worth."""
    import torch

    from benchmarks.training_cells import training_pack
    from loaders import open_cells
    from model import (
        InferenceOptions,
        calibrate,
        context_of,
        held_out_donors,
        held_out_scores,
        load_model,
        save_model,
    )

    torch.set_num_threads(1)
    trained = load_model(os.environ.get("PANATLAS_BENCH_MODEL", FOLDER / "pretrain" / "model"))
    cells = open_cells(os.environ.get("PANATLAS_BENCH_PACK") or training_pack(FOLDER / "training"))
    with tempfile.TemporaryDirectory() as short:
        place = Path(short) / NAME
        tried = _tried(trained, cells, 64 if quick else 256)
        best = max(tried, key=lambda length: (tried[length], -length))
        trained = replace(trained, facts={**trained.facts, "read_length": best})
        save_model(place, replace(trained, network=copy.deepcopy(trained.network).half()))
        shipped = load_model(place)
        most = 64 if quick else MOST
        shown = context_of(shipped, InferenceOptions())
        scores = [held_out_scores(one, cells, most=most, collate=shown) for one in (trained, shipped)]
        rows = [
            {"what": f"cell types told right, classes alike, of {length:,} genes", "as trained": _short(score)}
            for length, score in tried.items()
        ]
        rows += [
            {"what": f"score, {name}", "as trained": _short(scores[0][name]), "as shipped": _short(scores[1][name])}
            for name in scores[0]
        ]
        held = held_out_donors(shipped, cells, _whole(cells), most=most if quick else CALIBRATING)
        calibration = calibrate(shipped, cells, held)
        Path(short, f"{NAME}.calibration.json").write_text(calibration.to_json(), encoding="utf-8")
        rows += _labels(calibration)
        Path(short, "README.md").write_text(_card(shipped, cells, scores[1], rows), encoding="utf-8")
        rows += _sizes(Path(short))
        if not quick:
            shutil.rmtree(SHIPPED, ignore_errors=True)
            shutil.copytree(short, SHIPPED)
    return rows


def _tried(model: TrainedModel, cells: Cells, most: int) -> dict[int, float]:
    """Return how many cell types of validation donors are told right by the genes that are shown."""
    from model import InferenceOptions, context_of, held_out_scores

    found = {}
    for length in LENGTHS:
        shown = context_of(model, InferenceOptions(length=length))
        found[length] = held_out_scores(model, cells, most=most, collate=shown)["cell_type_accuracy"]
    return found


def _whole(cells: Cells) -> np.ndarray:
    """Return the cells of which more than a panel of some tens of genes was measured."""
    panels = [code for code, name in enumerate(cells.about["vocabulary"]["dataset"]) if name in PANELS]
    return np.flatnonzero(~np.isin(cells.codes("dataset", np.arange(len(cells))), panels))


def _labels(calibration: Calibration) -> list[dict[str, Any]]:
    """Return a row per label: how far it is to be trusted on donors that calibrated nothing."""
    from model import measured_coverage

    found = measured_coverage(replace(calibration, unit="cell"), RISK)
    return [
        {
            "what": f"label, {name}", "temperature": _short(calibration.labels[name].temperature),
            "wrong": _short(one.wrong), "covered": _short(one.told),
            "donors": one.donors,
        }
        for name, one in found.items()
    ]  # fmt: skip


def _sizes(folder: Path) -> list[dict[str, Any]]:
    """Return a row per part of the shipped files, and one of all."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    parts: dict[str, int] = {}
    for path in files:
        name = path.relative_to(folder / NAME).parts[0] if path.is_relative_to(folder / NAME) else path.name
        parts[name] = parts.get(name, 0) + path.stat().st_size
    parts["all files"] = sum(parts.values())
    return [{"what": f"size, {name}", "MB": _short(size / 1e6)} for name, size in sorted(parts.items())]


def _card(model: TrainedModel, cells: Cells, scores: dict[str, float], rows: list[dict[str, Any]]) -> str:
    """Return the model's card."""
    facts = model.facts
    lines = [
        f"# {NAME}", "",
        f"A panatlas network of {sum(one.numel() for one in model.network.parameters()):,} weights in half precision; "
        f"sha256 over its files `{model.digest}`. Made by `just bench pretrain` and `just bench shipped`.", "",
        "## Data", "",
        f"Cells that were seen, chose the step, or were held out, by the ledger in the checkpoint: "
        f"{json.dumps(facts.get('roles', {}))}. Splits are by donor (benchmarks/training_cells.py), the seed is "
        f"{facts.get('seed')}. It is read with {facts.get('read_length'):,} genes of a cell. "
        "Sources, each with its licence:", "",
        *(f"- {line}" for line in SOURCES), "",
        f"Organisms: {', '.join(model.vocabulary.organisms)}. Labels: {', '.join(model.network.labels.read)}.", "",
        "## Scores", "", "On validation donors, from these files as they are loaded.", "",
        "| score | value |", "|---|---|",
        *(f"| {name} | {_short(value)} |" for name, value in scores.items()), "",
        "## Labels", "", "| label | temperature | wrong | covered |", "|---|---|---|---|",
        *(f"| {row['what'].removeprefix('label, ')} | {row['temperature']} | {row['wrong']} | {row['covered']} |"
          for row in rows if row["what"].startswith("label, ")), "",
        "## Limits", "", LIMITS,
    ]  # fmt: skip
    return "\n".join(lines)


SOURCES = (
    "human and mouse pancreas, Baron 2016, as in PyPI came 0.1.13 (MIT)",
    "human heart sino-atrial node and human retina multiome, CELLxGENE (CC-BY)",
    "human PBMC 3k, 10x Genomics (CC-BY), with tutorial labels (MIT)",
    "human cell lines, sc_mixology (MIT)",
    "human lung adenocarcinoma, Laughney 2020, GSE123904 (BSD-3 carrier)",
    "human lavage of COVID-19, Liao 2020, donor C144, GSE145926 (BSD-3 carrier)",
    "mouse cortex, osmFISH (MIT); mouse brain, Xenium, 10x Genomics (CC-BY)",
    "C. elegans embryo, Packer 2019, as in monocle3 (MIT)",
)


def _short(value: Any) -> Any:
    return float(f"{value:.4g}") if isinstance(value, float) else value
