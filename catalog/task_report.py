"""A job's folder of figures and its report: what was asked of a trained model, of which cells, what came of it.

One switch, `--plots`, makes both, as a report without figures says little more than the receipt: `OUTPUT.plots` beside
OUTPUT.h5ad, with each figure as PNG and SVG, `figures.json` that says what they show, and `report.html`, one file with
everything in it that reads without a script. The folder is there whole or not at all. task_commands.py calls
`write_figures` once a result is written; what is drawn is decided in task_figures.py, the layout in
data/task_report.html.jinja.
"""

from __future__ import annotations

import base64
import json
import secrets
import shutil
from typing import TYPE_CHECKING, Any

from .errors import CatalogInputError
from .pages import render_page
from .result_files import PART

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import numpy as np
    import numpy.typing as npt

    from model import TrainedModel

    from .figures import Plot
    from .task_inputs import TaskInput

INDEX, PAGE = "figures.json", "report.html"
FORMAT = "panatlas figures 1"
CSS_PIXELS = 96
"""An inch, by definition."""
MOST_TALLIED = 12
"""Terms of a label that the page counts cells of."""


def figures_folder(output: Path) -> Path:
    """Return where the figures of a result are."""
    return output.with_suffix(".plots")


def check_figures(output: Path | None, *, force: bool) -> None:
    """Refuse a folder that is there, unless it is one of figures alone and may be written over; or no output at all.

    Raises
    ------
    CatalogInputError
        When figures cannot go there.
    """
    if output is None:
        raise CatalogInputError("plots", "no output", "--output: figures are beside it")
    folder = figures_folder(output)
    if not (folder.exists() or folder.is_symlink()):
        return
    if not force:
        raise CatalogInputError("plots", str(folder), "a folder that does not exist yet; --force writes over it")
    try:
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        drawn = {f"{one['name']}.{kind}" for one in index["figures"] for kind in ("png", "svg")}
        ours = index["format"] == FORMAT and {one.name for one in folder.iterdir()} <= {INDEX, PAGE, *drawn}
    except (OSError, ValueError, LookupError, TypeError):
        ours = False
    if not ours or folder.is_symlink():
        raise CatalogInputError("plots", str(folder), "no folder of other things; move it elsewhere")


def write_figures(
    output: Path,
    facts: Mapping[str, Any],
    model: TrainedModel,
    asked: TaskInput,
    embedding: npt.NDArray[np.float32] | None = None,
) -> Path:
    """Draw a result that was written, and write its report; return their folder, replaced where there was one.

    Parameters
    ----------
    output
        The result.
    facts
        Its receipt.
    model
        The model that made it.
    asked
        The cells it is of.
    embedding
        What figures show of cells that the result holds no embedding of; see `draw_figures`.

    Raises
    ------
    CatalogInputError
        As `check_figures`.
    """
    from .task_figures import draw_figures  # noqa: PLC0415 - matplotlib, which only figures need

    plots = draw_figures(output, model, asked, embedding)
    folder = figures_folder(output)
    part = folder.with_name(f"{PART}{secrets.token_hex(4)}-{folder.name}"[:200])
    try:
        part.mkdir(parents=True)
        for plot in plots:
            (part / f"{plot.name}.png").write_bytes(plot.png)
            (part / f"{plot.name}.svg").write_bytes(plot.svg)
        rows = [{"name": one.name, "title": one.title, "note": one.note, "marks": one.marks} for one in plots]
        index = {"format": FORMAT, "result_sha256": facts["sha256"], "figures": rows}
        (part / INDEX).write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")
        (part / PAGE).write_text(render_task_report(facts, describe_model(model), plots), encoding="utf-8")
        check_figures(output, force=True)
        if folder.exists():
            shutil.rmtree(folder)
        part.replace(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return folder


def describe_model(model: TrainedModel) -> dict[str, str]:
    """Return what a reader should know of a model, in words: what it is, and what it learnt from."""
    facts, vocabulary = model.facts, model.vocabulary
    weights = sum(one.numel() for one in model.network.parameters())
    genes = ", ".join(f"{name} {len(ids):,}" for name, ids in zip(vocabulary.organisms, vocabulary.genes, strict=True))
    classes = ", ".join(f"{label} {len(space):,}" for label, space in vocabulary.labels.items())
    roles = facts.get("roles") or {}
    said = {
        "digest": model.digest or "never saved",
        "release": facts.get("release") or "none named",
        "cells it was trained on": f"{roles['trained']:,}" if "trained" in roles else "",
        "cells it was chosen by": f"{roles['validation']:,}" if "validation" in roles else "",
        "content of its training data": facts.get("content_sha256") or "",
        "steps": f"{facts['steps']:,}" if isinstance(facts.get("steps"), int) else "",
        "weights": f"{weights:,}",
        "genes": genes,
        "classes": classes,
    }
    return {name: str(value) for name, value in said.items() if value != ""}


def render_task_report(facts: Mapping[str, Any], model: Mapping[str, str], plots: Sequence[Plot]) -> str:
    """Return a job's report as HTML; the same input gives the same text.

    Parameters
    ----------
    facts
        The receipt.
    model
        What to say of the model, by name.
    plots
        The figures.
    """
    findings = sorted(facts["findings"], key=lambda one: ("error", "warning", "info").index(one["severity"]))
    tallies = [
        {
            "label": label,
            "rows": list(tally.items())[:MOST_TALLIED],
            "more": max(len(tally) - MOST_TALLIED, 0),
            **{name: facts["thresholds"][label][name] for name in ("threshold", "promise", "temperature")},
        }
        for label, tally in facts.get("labels", {}).items()
        if label in facts.get("thresholds", {})
    ]
    figures = [
        {"plot": plot, "data": base64.b64encode(plot.png).decode(), "width": round(plot.inches * CSS_PIXELS)}
        for plot in plots
    ]
    return render_page(
        "task_report.html.jinja",
        facts=facts, model=model, figures=figures, findings=findings, tallies=tallies, asked=_asked(facts),
        loud=[one for one in findings if one["severity"] != "info"],
        receipt=json.dumps(facts, indent=2, ensure_ascii=False, default=str),
    )  # fmt: skip


def _asked(facts: Mapping[str, Any]) -> dict[str, str]:
    """Return what was asked for, in words."""
    options = {name: value for name, value in facts["options"].items() if value is not None}
    return {
        "task": str(facts["command"]),
        "input": str(facts["input"]),
        "output": str(facts["output"]),
        **({"counts from": str(facts["matrix"])} if facts.get("matrix") else {}),
        "model": str(facts.get("model_folder", "")),
        **{name.replace("_", " "): str(value) for name, value in options.items()},
    }
