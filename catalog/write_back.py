"""What a task found, written into the atlas its cells are of: `AtlasResult`, which takes what a `ResultFile` takes.

An embedding becomes `obsm`, columns of obs a table of labels, layers become layers of X, each named
`<kind>/<release>/<model hash>/<population>` (atlas/model_results.py). Nothing is locked while a model works: rows come
once all are worked out (finished_blocks.py), and are then written and published in one go. task_commands.py fills it.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from atlas import ResultKey, open_atlas, refuse_present, write_results
from loaders import StoreCells

from .errors import CatalogInputError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt

    from atlas import ResultWriter

    from .task_inputs import TaskInput

KINDS = {
    "embed": ("embedding",),
    "annotate": ("labels",),
    "denoise": ("denoised", "denoised_variance"),
    "impute": ("imputed", "imputed_variance"),
}
"""Kinds of result by command; those after the first are parts of it, and may be missing."""
ELEMENTS = {
    "obsm/X_panatlas": "embedding",
    "layers/panatlas_denoised": "denoised",
    "layers/panatlas_denoised_variance": "denoised_variance",
    "layers/panatlas_imputed": "imputed",
    "layers/panatlas_imputed_variance": "imputed_variance",
}
"""Kind of result by element of a file; others are parts of these."""
HASH_DIGITS = 12
"""Of a model's digest in a key."""
MOST_GENES = 5_000
"""Of a layer: 20 kB a cell."""


class AtlasResult:
    """What a task writes into an atlas; use it as a context manager, as a `ResultFile` is used.

    Parameters
    ----------
    asked
        Cells of a release.
    model
        Digest of the model.
    verb
        The command.
    force
        Write in place of what is there.

    Raises
    ------
    CatalogInputError
        When the cells are of no release.
    AtlasInputError
        When the atlas holds such a result.
    """

    def __init__(self, asked: TaskInput, model: str, verb: str, *, force: bool) -> None:
        cells = asked.cells
        if not isinstance(cells, StoreCells) or not cells.about.get("release"):
            raise CatalogInputError("to_atlas", asked.said, "release:NAME: what the atlas holds is of its own cells")
        self.uri, self.written = cells.atlas.uri, []  # type: list[dict[str, Any]]
        self._asked, self._verb, self._force = asked, verb, force
        self._release, self._model = str(cells.about["release"]), model
        names = [str(one["organism"]) for one in cells.about["organisms"]]
        codes, joinids = cells.codes("organism", asked.numbers), cells.codes("joinid", asked.numbers).astype(np.int64)
        self._rows = {names[code]: np.flatnonzero(codes == code) for code in np.unique(codes)}
        self._joinids = joinids
        self._stack, self._writer = ExitStack(), None
        self._matrices: dict[tuple[str, str], Any] = {}
        self._columns: dict[str, npt.NDArray[np.int64] | None] = {}
        self._places: dict[str, int] = {}
        self._sizes = {}  # type: dict[str, tuple[int, pd.Index]]
        self._waiting: list[dict[str, Any]] = []
        refuse_present(open_atlas(self.uri).results, self._keys(), force=force)

    def __enter__(self) -> AtlasResult:
        """Return the result itself."""
        return self

    def __exit__(self, *error: Any) -> None:
        """Publish what was written, or undo it."""
        self._stack.__exit__(*error)

    def refuse_many(self, genes: Sequence[str] | None) -> None:
        """Raise CatalogInputError where a layer would have more genes than an atlas should hold; None is all."""
        if genes is None or len(genes) > MOST_GENES:
            said = "all genes" if genes is None else f"{len(genes):,} genes"
            allowed = f"a file of at most {MOST_GENES:,} genes for --to-atlas; --output takes all"
            raise CatalogInputError("genes", said, allowed)

    def append(self, element: str, rows: npt.NDArray, genes: Sequence[str] = ()) -> None:
        """Add the next cells of an element, as to a file; parts of an embedding are in the embedding."""
        kind = ELEMENTS.get(element)
        if kind is None:
            return
        start = self._places.get(element, 0)
        self._places[element] = start + len(rows)
        for organism, mine in self._rows.items():
            first, last = np.searchsorted(mine, [start, start + len(rows)])
            if first == last:
                continue
            matrix = self._matrix(kind, organism, rows.shape[1], genes)
            some = mine[first:last]
            matrix.append(self._joinids[some], rows[some - start], self._columns.get(organism))

    def finish(self, obs: pd.DataFrame, var: pd.DataFrame | None, uns: Mapping[str, Any]) -> None:
        """Write columns that were added to obs as a table, and tell of the result what a file's uns tells."""
        about = dict(uns["panatlas"])
        new = [name for name in obs.columns if name not in self._asked.obs.columns]
        for organism, mine in self._rows.items() if new else ():
            frame = obs.iloc[mine][new].reset_index(drop=True)
            frame.insert(0, "soma_joinid", self._joinids[mine])
            self._begin().table(self._key("labels"), organism, frame, about)
            self._tell("labels", organism, len(frame))
        for one in self._waiting:
            one.update(about)

    def _matrix(self, kind: str, organism: str, width: int, genes: Sequence[str]) -> Any:
        """Return the matrix of a kind and organism, made on first use."""
        if (kind, organism) not in self._matrices:
            writer = self._begin()
            n_cells, known = self._sizes[organism]
            if kind != "embedding":
                self._columns[organism] = known.get_indexer(list(genes)).astype(np.int64)
            shape = (n_cells, width if kind == "embedding" else len(known))
            about: dict[str, Any] = {}
            self._waiting.append(about)  # what is to be told of it is known at the end
            self._matrices[kind, organism] = writer.matrix(self._key(kind), organism, shape, about)
            self._tell(kind, organism, len(self._rows[organism]))
        return self._matrices[kind, organism]

    def _begin(self) -> ResultWriter:
        """Return the writer; from here on the atlas is locked, until all is published."""
        if self._writer is None:
            self._writer = self._stack.enter_context(write_results(self.uri, self._keys(), force=self._force))
            atlas = open_atlas(self.uri)  # as it is from now on: cells may have come while the model worked
            for name in self._rows:
                genes = atlas.genes(name)["feature_id"].astype(str)
                self._sizes[name] = (atlas.n_cells(name), pd.Index(genes.to_numpy(dtype=object)))
        return self._writer

    def _keys(self) -> list[tuple[ResultKey, str]]:
        """Return what is written, or goes where it is not: a variance that is of other counts."""
        return [(self._key(kind), organism) for kind in KINDS[self._verb] for organism in self._rows]

    def _key(self, kind: str) -> ResultKey:
        return ResultKey(kind, self._release, self._model[:HASH_DIGITS])

    def _tell(self, kind: str, organism: str, cells: int) -> None:
        key = self._key(kind)
        self.written.append({"organism": organism, "key": str(key), "name": key.member, "cells": cells})
