"""The body of `annotate`: what a model tells of each cell's labels, how new a cell is, neighbours asked if wanted.

cli_tasks.py declares the arguments, task_commands.py goes through the cells; what is told lives in `model`. A
calibration lies beside its model and is used unless somebody says otherwise: within the model's folder it would be a
file that nobody sealed, and under a name of one's own most would forget it.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from atlas import Finding, frames, preflight
from model import Annotation, annotate_blocks, context_of, nearest_cells, smooth_annotation

from . import model_places as places
from . import task_inputs as inputs
from .errors import CatalogInputError
from .task_commands import Said, digest_of, perform

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    import numpy.typing as npt
    import scipy.sparse as sp

    from model import Calibration, InferenceOptions, LabelAnnotation, TrainedModel

    from .cli_tasks import TaskOptions
    from .finished_blocks import Rows
    from .task_commands import Job


def annotate(
    source: str, output: Path | None, labels: Sequence[str], how: Mapping[str, Any], options: TaskOptions
) -> int:
    """Name cells."""
    file, smooth = how["calibration"], how["smooth"]
    if smooth is not None and how["alpha"] is not None:
        raise CatalogInputError("smooth", smooth, "none with --alpha: smoothed probabilities are not calibrated")
    if how["graph"] is not None and smooth is None:
        raise CatalogInputError("graph", how["graph"], "none without --smooth, which uses it")
    if smooth is not None and not 0 <= smooth < 1:
        raise CatalogInputError("smooth", smooth, "a share from 0 to below 1")
    if not 0 < how["novelty"] < 1:
        raise CatalogInputError("novelty", how["novelty"], "a share above 0 and below 1")
    graph = None if how["graph"] is None else _read_graph(source, how["graph"])
    folder = inputs.find_model(options.model)

    def work(job: Job) -> Said:
        if wrong := [label for label in labels if label not in job.model.vocabulary.labels]:
            raise CatalogInputError("label", wrong[0], f"one of {', '.join(job.model.vocabulary.labels)}")
        calibration, used, findings = find_calibration(file, folder, job.model, job.options)
        if how["alpha"] is not None and findings:
            allowed = f"none: the calibration beside the model was {findings[0].found}; {findings[0].remedy}"
            raise CatalogInputError("alpha", how["alpha"], allowed)
        if calibration is not None and how["unit"] is not None:
            calibration = replace(calibration, unit=how["unit"])
        asked = {"calibration": calibration, "alpha": how["alpha"], "threshold": how["threshold"]}
        found: dict[str, LabelAnnotation] = {}

        def made(first: int) -> Iterator[Rows]:
            for block in annotate_blocks(
                job.model, job.asked.cells, job.asked.numbers, options=job.reading(first), **asked
            ):
                found.update({label: block.of(label) for label in labels or block.labels})
                yield _rows(block, found, whole=smooth is not None, embedding=options.plots)

        drawn = len(job.asked.numbers) if options.plots else 0
        rows, shown = _gather(job.finished(made), drawn, whole=smooth is not None)
        by = None if used is None else {"file": str(used), "sha256": digest_of(used)}
        facts: dict[str, Any] = {"calibration": by}
        if smooth is not None:
            near = nearest_cells(rows["embedding"]) if graph is None else graph
            changed = _smooth(rows, found, job.asked.numbers, near, smooth)
            facts["smoothing"] = {"strength": smooth, "graph": how["graph"] or "embedding", "changed": changed}
        columns, tally = _columns(rows, found)
        if "novelty" in rows:
            rate = how["novelty"]
            columns |= {"panatlas_novelty_p": rows["novelty"], "panatlas_novel": rows["novelty"] <= rate}
            facts["novelty"] = calibration.novelty.told(rate, calibration.unit)
            facts["novelty"]["cells"] = int(columns["panatlas_novel"].sum())
        facts["thresholds"] = {
            label: {"threshold": one.threshold.value, "promise": one.threshold.promise, "temperature": one.temperature}
            for label, one in found.items()
        }
        return Said(columns, facts={**facts, "labels": tally}, uns=facts, findings=findings, embedding=shown)

    used = beside_model(folder) if file is None else file
    decides = {**how, "calibration": digest_of(used), "labels": list(labels), "unnamed": file is None}
    decides["plots"] = options.plots  # of which more is kept
    decides["graph"] = None if graph is None else [how["graph"], digest_of(Path(source))]
    return perform("annotate", source, output, options, work, decides)


def beside_model(folder: Path) -> Path:
    """Return where the calibration of a model lies unless somebody says otherwise."""
    folder = folder.absolute()
    return folder.with_name(f"{folder.name}.calibration.json")


def find_calibration(
    file: Path | None, folder: Path, model: TrainedModel, reading: InferenceOptions
) -> tuple[Calibration | None, Path | None, tuple[Finding, ...]]:
    """Return the calibration that is meant and its file: the named one, else that beside the model where it fits.

    A named one that does not fit is refused when it is used; of one beside the model it is told. `none` names none.
    """
    if file is not None:
        return (None, None, ()) if str(file) == places.NONE else (inputs.read_calibration(file), file, ())
    if not (path := beside_model(folder)).is_file():
        return None, None, ()
    found = inputs.read_calibration(path)
    if found.fits(model, reading):
        return found, path, ()
    said = f"made for length {found.length}, neighbours {found.neighbours}"
    said = said if found.model == model.digest else f"made for another model, {found.model[:12]}"
    wanted = f"length {context_of(model, reading).length}, neighbours {reading.neighbours}, model {model.digest[:12]}"
    remedy = "show the cells so, calibrate as they are shown, or say --calibration none"
    return None, None, (Finding("calibration-unused", "warning", str(path), said, wanted, remedy),)


def _rows(
    block: Annotation, found: Mapping[str, LabelAnnotation], *, whole: bool, embedding: bool
) -> dict[str, npt.NDArray]:
    """Return what is kept of a block: terms and their probabilities, all that smoothing needs, and what figures do."""
    rows = {f"said {label}": one.said for label, one in found.items()}
    rows |= {f"sure {label}": one.said_probability for label, one in found.items()}
    if block.novelty is not None:
        rows["novelty"] = block.novelty
    if whole:
        rows |= {f"shares {label}": one.probabilities for label, one in found.items()}
    return rows | ({"embedding": block.embedding} if whole or embedding else {})


def _gather(
    parts: Iterable[Rows], drawn: int, *, whole: bool
) -> tuple[dict[str, npt.NDArray], npt.NDArray[np.float32] | None]:
    """Return the rows of all cells, and the embedding of those that figures draw of so many, None of 0.

    Embeddings are large: those of other cells are held only for smoothing.
    """
    kept, shown, start = [], [], 0
    if drawn:
        from .task_figures import drawn_rows  # noqa: PLC0415 - matplotlib, which only figures need

        places = drawn_rows(drawn)
    for part in parts:
        end = start + len(next(iter(part.values())))
        if drawn:
            shown.append(part["embedding"][places[(places >= start) & (places < end)] - start])
        kept.append({name: one for name, one in part.items() if whole or name != "embedding"})
        start = end
    rows = {name: np.concatenate([part[name] for part in kept]) for name in kept[0]}
    return rows, np.concatenate(shown) if shown else None


def _smooth(
    rows: dict[str, npt.NDArray],
    found: dict[str, LabelAnnotation],
    numbers: npt.NDArray[np.int64],
    graph: sp.csr_matrix,
    strength: float,
) -> dict[str, int]:
    """Replace terms by those of smoothed probabilities; return how many cells have another one, by label."""
    labels = {
        label: replace(
            one, probabilities=rows[f"shares {label}"], said=rows[f"said {label}"],
            said_probability=rows[f"sure {label}"],
        )
        for label, one in found.items()
    }  # fmt: skip
    found |= smooth_annotation(Annotation(numbers, labels, rows["embedding"]), graph, strength).labels
    changed = {label: int((one.said != rows[f"said {label}"]).sum()) for label, one in found.items()}
    rows |= {f"said {label}": one.said for label, one in found.items()}
    rows |= {f"sure {label}": one.said_probability for label, one in found.items()}
    return changed


def _columns(
    rows: Mapping[str, npt.NDArray], found: Mapping[str, LabelAnnotation]
) -> tuple[dict[str, Any], dict[str, dict[str, int]]]:
    """Return the columns of the labels, and how many cells are told each name."""
    columns: dict[str, Any] = {}
    tally: dict[str, dict[str, int]] = {}
    for label, one in found.items():
        said = rows[f"said {label}"]
        names = _categories(said, one.space.labels)
        columns[f"panatlas_{label}"] = names
        columns[f"panatlas_{label}_ontology_term_id"] = _categories(said, one.space.classes)
        columns[f"panatlas_{label}_probability"] = rows[f"sure {label}"]
        tally[label] = dict(Counter(names).most_common())
    return columns, tally


def _categories(codes: npt.NDArray, words: Sequence[str]) -> pd.Categorical:
    """Return codes as text, `unknown` for -1; classes that share a name are one, and those without cells none."""
    texts = np.array([*words, "unknown"], dtype=object)[codes]
    return pd.Categorical(texts, categories=pd.Index(sorted(set(texts)), dtype=object))


def _read_graph(source: str, name: str) -> sp.csr_matrix:
    """Return a graph of the cells of an h5ad, of which nothing is run or followed: as near as 0 or more says."""
    import scipy.sparse as sp  # noqa: PLC0415 - only this flag needs it
    from anndata.io import read_elem  # noqa: PLC0415 - half a second

    path = Path(source)
    if not path.is_file():
        raise CatalogInputError("graph", name, "an h5ad that has it in obsp, as the input")
    with preflight.open_hdf5(path, path.name) as file:
        there = sorted(file["obsp"]) if hasattr(file.get("obsp"), "keys") else []
        if name not in there:
            raise CatalogInputError("graph", name, f"one of obsp: {', '.join(there) or 'it has none'}")
        cells = len(frames.read_frame(file["obs"], path.name, "obs")) if "obs" in file else 0
        try:
            found = sp.csr_matrix(read_elem(file["obsp"][name]), dtype=np.float32)
            found.check_format()
        except (LookupError, ValueError, TypeError, AttributeError, OSError, RuntimeError) as error:
            raise CatalogInputError("graph", name, f"a matrix of numbers ({error})"[:300]) from error
    if found.shape != (cells, cells):
        raise CatalogInputError("graph", f"{name} {found.shape}", f"neighbours of these cells, {(cells, cells)}")
    if not (np.isfinite(found.data) & (found.data >= 0)).all():
        raise CatalogInputError("graph", name, "finite numbers, 0 or more: connectivities, say")
    return found
