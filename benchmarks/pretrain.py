"""A real pre-training run: the tiny preset on real cells of three organisms, judged on donors it never saw.

Cells are those of training_cells.py. Its rows are the validations of the run, then the scores of the weights that did
best in them, beside predictions that need no network. The run's folder, benchmarks/data/pretrain, holds the recipe, the
log and the model; a run that was cut off goes on.
"""

from __future__ import annotations

import csv
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

SEED = 0
READS = ("training_sources.toml",)
FOLDER = Path(__file__).resolve().parent / "data"
TERMS = ("loss", "denoise/0.8", "generate", "labels/cell_type", "labels/tissue", "labels/disease", "contrastive")
STEPS, BATCH, LENGTH, SHORTEST, EVERY, CELLS = 3_000, 32, 480, 120, 300, 512
COLUMNS = ("what", "step", "value", "on test donors", *TERMS)
NOTES = (
    f"{STEPS} steps of {BATCH} cells, contexts of up to {LENGTH} genes and 6 neighbours; joint labels levelled. "
    f"Validation: {CELLS} cells of donors that are not trained on, the same at every step; losses as they are weighted "
    "in training, label terms by 6.",
    "Scores: nats per unseen molecule (`denoise_nll`, `generate_nll`, `masked_nll`), less is better; shares of cells "
    "told right, classes alike (`*_accuracy`, `knn_cell_type`). `*_gene_mean` and `*_smoothed` need no network. The "
    "step was chosen on the validation cells; the test cells are of other donors again.",
)


def main(*, quick: bool) -> list[dict[str, Any]]:
    """Train, or go on, and return the validations and the scores."""
    import torch

    from benchmarks.training_cells import training_pack
    from loaders import open_cells
    from model import Machine, held_out_scores, preset, recipe_for, train

    pack = training_pack(FOLDER / "training")
    cells, torch_threads = open_cells(pack), torch.get_num_threads()
    torch.set_num_threads(1)  # the same bytes on machines of any number of cores
    plain = recipe_for("tiny")
    collate = replace(plain.data.collate, length=LENGTH, shortest=SHORTEST, seed=SEED)
    recipe = replace(
        plain, steps=4 if quick else STEPS, batch_size=BATCH, seed=SEED, validate_every=2 if quick else EVERY,
        validation_cells=BATCH if quick else CELLS, data=replace(plain.data, collate=collate),
    )  # fmt: skip
    config = preset("tiny").changed(losses={"kl_warm_up": 500})
    with tempfile.TemporaryDirectory() as short:
        folder = Path(short) / "run" if quick else FOLDER / "pretrain"
        machine = Machine(device="cpu", save_every=100, show=_tell)
        run = train(cells, config, recipe, folder, machine=machine, place=(str(pack), None))
        rows = _validations(run.folder)
        kept = ("validation_step", "loss_first", "loss_last", "cells_seen", "cells_per_s", "data_wait", "parameters")
        rows += [{"what": f"the run, {name}", "value": _short(run.facts.get(name))} for name in kept]
        most = 64 if quick else 1_024
        ours, theirs = (
            held_out_scores(run.model, cells, split=split, most=most, collate=collate)
            for split in ("validation", "test")
        )
    torch.set_num_threads(torch_threads)
    both = [
        {"what": f"score, {name}", "value": _short(ours[name]), "on test donors": _short(theirs[name])}
        for name in ours
        if name in theirs
    ]
    return [*rows, *both]


def _validations(folder: Path) -> list[dict[str, Any]]:
    """Return the held-out losses of all legs by step."""
    found: dict[int, dict[str, Any]] = {}
    for log in sorted(folder.glob("log/version_*/metrics.csv")):
        with log.open(newline="") as file:
            for row in csv.DictReader(file):
                terms = {name: value for name, value in row.items() if name.startswith("validation/") and value}
                if terms:
                    plain = {name: _short(float(terms[f"validation/{name}"])) for name in TERMS}
                    found[int(row["step"])] = {"what": "held-out donors", "step": int(row["step"]), **plain}
    return [found[step] for step in sorted(found)]


def _short(value: Any) -> Any:
    return float(f"{value:.4g}") if isinstance(value, float) else value


def _tell(row: dict[str, float]) -> None:
    if row["step"] % 50 == 0:
        print(f"step {row['step']:.0f}: loss {row['loss']:.2f}, {row['cells_per_s']:.0f} cells/s", flush=True)
