"""The body of `panatlas verdict`: an embedding, its labels and the counts of the same cells, for `judge_embedding`.

The file is a user's own: its structure is looked at before anything in it is read (atlas/preflight.py). Cells of the
embedding and of the counts are matched by name.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp

from atlas import ContractError, frames, preflight
from loaders import CellsError
from model import VerdictOptions, judge_embedding, pca_of_counts
from ontology import get_organism

from . import console as show
from .errors import DONE, CatalogInputError
from .task_inputs import RELEASE, _of_file, _of_release

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt
    import pandas as pd

    from loaders import Cells
    from model import Verdict

AT_ONCE = 4_096
"""Cells whose counts are read at a time."""


@dataclass(frozen=True, eq=False)
class EmbeddedFile:
    """An embedding as a file has it."""

    obs: pd.DataFrame
    """What is known of the cells."""
    values: npt.NDArray[np.float32]
    """[cells, dimensions]."""
    parts: dict[str, npt.NDArray[np.float32]]
    """Its parts by name."""
    has_counts: bool
    """There is a matrix in the file that may hold counts."""


def verdict(
    embedded: Path,
    columns: tuple[str | None, str | None, str],
    counts: tuple[str | None, str | None, str | None],
    options: tuple[int, int, int],
    *,
    json: bool,
) -> int:
    """Judge an embedding."""
    people, (label, batch, key), (source, organism, layer) = show.people(), columns, counts
    found = read_embedded(embedded, key)
    names = {"label": label, "batch": batch}
    for field, name in names.items():
        if name is not None and name not in found.obs:
            raise CatalogInputError(field, name, f"a column of obs: {', '.join(map(str, found.obs.columns))}")
    baseline, note = None, None
    if source is not None or found.has_counts:
        try:
            matrix = _counts_of(source or str(embedded), organism, layer, found.obs.index)
            baseline = pca_of_counts(matrix)
        except (CellsError, ContractError) as error:
            if source is not None:
                raise
            note = f"its own matrix holds no raw counts ({error})"[:300]
    k, most, seed = options
    said = judge_embedding(
        found.values, labels=None if label is None else found.obs[label],
        batches=None if batch is None else found.obs[batch], baseline=baseline, parts=found.parts,
        options=VerdictOptions(neighbours=k, most=most, seed=seed),
    )  # fmt: skip
    facts = {
        "input": str(embedded), "key": key, "counts": source, "verdict": said.sentence, "collapsed": said.collapsed,
        "beats_pca": said.beats, "shape": dict(said.shape), "evidence": said.table.to_dict("records"),
        "variance": said.variance.to_dict("records"), **said.facts, "note": note,
    }  # fmt: skip
    if json:
        show.print_json(facts)
        return DONE
    _tell(people, said, note)
    return DONE


def _tell(people: Any, said: Verdict, note: str | None) -> None:
    """Print the sentence for people, and the tables as the result."""
    people.print(show.plain(said.sentence))
    if note:
        people.print(f"[yellow]no baseline[/] {show.plain(note)}; --counts names the file that was embedded")
    for table, title in ((said.table, "evidence, mean over labels"), (said.variance, "variance told")):
        if len(table):
            show.print_table(_rounded(table), table.columns, title)


def _rounded(table: pd.DataFrame) -> list[dict[str, Any]]:
    rows = table.to_dict("records")
    return [
        {str(name): "" if one != one else round(one, 4) if isinstance(one, float) else one for name, one in row.items()}  # noqa: PLR0124 - NaN
        for row in rows
    ]


def read_embedded(path: Path, key: str) -> EmbeddedFile:
    """Return an embedding of a file, with its parts and what is known of its cells.

    Raises
    ------
    CatalogInputError
        When there is no such file, or no such embedding in it.
    ContractError
        When it is hostile or damaged.
    """
    if not path.exists():
        raise CatalogInputError("embedded", str(path), "an h5ad file that exists")
    with preflight.open_hdf5(path, path.name) as file:
        held = file.get("obsm", {})
        there = sorted(name for name in held if _is_matrix(held[name]))
        if "obs" not in file or key not in there:
            has = f"it has {', '.join(there)}" if there else "it has none"
            raise CatalogInputError("key", key, f"an embedding in obsm of {path.name}; {has}")
        obs = frames.read_frame(file["obs"], path.name, "obs")
        names = [name for name in there if name.startswith(f"{key}_")]
        arrays = {name: np.asarray(held[name][:], dtype=np.float32) for name in (key, *names)}
        counts = "X" in file or "raw" in file or bool(len(file.get("layers", ())))
    if wrong := [name for name, values in arrays.items() if len(values) != len(obs)]:
        raise CatalogInputError("key", wrong[0], f"an embedding of its {len(obs)} cells")
    parts = {name.removeprefix(f"{key}_"): arrays[name] for name in names}
    return EmbeddedFile(obs, arrays[key], parts, counts)


def _is_matrix(element: Any) -> bool:
    return len(getattr(element, "shape", ())) == 2 and element.dtype.kind in "fiu"


def _counts_of(said: str, organism: str | None, layer: str | None, names: pd.Index) -> sp.csr_matrix:
    """Return the counts of cells by name, [cells, genes]."""
    wanted = get_organism(organism or "human").experiment
    opened = _of_release(said, wanted) if said.startswith(RELEASE) else _of_file(said, wanted, layer)
    with closing(opened) as asked:
        index = asked.obs.index.astype(str)
        if not index.is_unique:
            raise CatalogInputError("counts", said, "cells with a name of their own each, to be matched by")
        place = index.get_indexer(names.astype(str))
        if missing := int((place < 0).sum()):
            raise CatalogInputError(
                "counts", said, f"the cells that were embedded; {missing} of {len(names)} are not there"
            )
        whole = _read(asked.cells, asked.numbers[place])
    return whole[:, np.flatnonzero(np.asarray(whole.sum(0)).ravel() > 0)]


def _read(cells: Cells, rows: npt.NDArray[np.int64]) -> sp.csr_matrix:
    """Return the counts of cells of one organism over its whole gene table."""
    width = int((cells.genes()["organism"] == int(cells.codes("organism", rows[:1])[0])).sum())
    parts = []
    for start in range(0, len(rows), AT_ONCE):
        found = cells.read(rows[start : start + AT_ONCE]).decode()
        parts.append(sp.csr_matrix((found.counts, found.indices, found.indptr), shape=(len(found.indptr) - 1, width)))
    return sp.vstack(parts, format="csr")
