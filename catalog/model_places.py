"""Where training finds things: the cells of a release or pack, a run's folder, genes and gene networks in files.

Files are a user's own and untrusted: read as text or Parquet within bounds, names only ever looked up. What is unknown
is counted for model_commands.py to tell; nothing is guessed.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from atlas import ContractError, open_atlas
from loaders import CellsError, SourceCells, open_cells
from model import ModelInputError, load_protein_vectors, prior_bias
from ontology import (
    GeneTable,
    OntologyInputError,
    ReferenceMissingError,
    home,
    load_gene_table,
    resolve_genes,
    table_files,
    text_files,
)

from .errors import CatalogInputError
from .manifests import newest_release, read_manifest

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from atlas import Finding
    from loaders import Cells, Vocabulary
    from model import ProteinVectors

MOST_BYTES = 1 << 24
"""Of a list of genes; all genes of all organisms are 10 MB."""
NONE = "none"
"""Stands for no protein vectors."""


@dataclass(frozen=True)
class CellPlace:
    """Cells to train on, and where they are."""

    cells: Cells
    """The cells."""
    place: tuple[str, str | None]
    """Atlas and release, or pack and None: what `open_cells` takes."""
    label: str
    """The release's name, in letters a folder may have."""
    usual: bool
    """They are of the default atlas, so that the release's name says which they are."""

    @property
    def organisms(self) -> list[str]:
        """Return the experiment names of their organisms."""
        return [str(one["organism"]) for one in self.cells.about["organisms"]]


def find_cells(release: str | None, pack: str | None, atlas: str | None, default: str) -> CellPlace:
    """Return the cells of a pack, of a release, or of the atlas' newest release where neither is named.

    Raises
    ------
    CatalogInputError
        When both are named, or the atlas has no such release, or none at all.
    StoreError
        When there is no atlas.
    PackError
        When there is no pack, or a damaged one.
    """
    if pack is not None:
        if release is not None or atlas is not None:
            raise CatalogInputError("pack", pack, "either --pack, or --release and --atlas")
        place = pack if pack.startswith("s3://") else str(Path(pack).expanduser().absolute())
        cells = open_cells(place)
        return CellPlace(cells, (place, None), _tame(cells.about.get("release") or Path(place).name), usual=False)
    opened = open_atlas(atlas or default)
    root = opened.root
    name = release or newest_release(root)
    if name is None:
        allowed = f"a release; {opened.uri} has none, `panatlas release NAME` makes one"
        raise CatalogInputError("release", None, allowed)
    read_manifest(root, name)
    usual = root == Path(default).absolute()
    return CellPlace(open_cells(opened.uri, name), (opened.uri, name), _tame(name), usual)


def cells_of_run(folder: Path, atlas: str | None, pack: str | None) -> Cells | None:
    """Return a run's cells from where they are now; None where nobody says so and the run knows.

    Raises
    ------
    CatalogInputError
        When both are named, or the atlas is named and the run was not of a release.
    """
    if pack is not None:
        if atlas is not None:
            raise CatalogInputError("pack", pack, "either --pack or --atlas")
        return open_cells(pack)
    if atlas is None:
        return None
    try:
        release = json.loads((folder / "run.json").read_text(encoding="utf-8"))["cells"]["place"][1]
    except (OSError, ValueError, LookupError, TypeError):
        release = None  # no run, which `resume` says better, or one of a pack
    if not isinstance(release, str):
        raise CatalogInputError("atlas", atlas, f"--pack: the run in {folder} was not of an atlas' release")
    return find_cells(release, None, atlas, atlas).cells


def run_folder(begun: str, place: CellPlace, seed: int, choices: Mapping[str, Any]) -> Path:
    """Return the folder of a run: what it begins with, release and seed, and 8 digits where there are other choices.

    Parameters
    ----------
    begun
        Size of the network, or the model that is begun with, in letters a folder may have.
    place
        Of its cells.
    seed
        Of the recipe.
    choices
        What differs from the size's preset and recipe, as JSON values; equal choices, equal folder.
    """
    said = dict(choices) | ({} if place.usual else {"cells": place.cells.fingerprint})
    digits = hashlib.sha256(json.dumps(said, sort_keys=True, default=str).encode()).hexdigest()[:8]
    return home() / "models" / "-".join([begun, place.label, str(seed), *([digits] if said else [])])


def model_folder(path: Path) -> Path:
    """Return the folder of a model: that of a finished run, or the folder itself.

    Raises
    ------
    CatalogInputError
        When it is a run that is not finished.
    """
    if not (path / "run.json").is_file():
        return path
    if not (path / "model").is_dir():
        raise CatalogInputError("model", str(path), f"a finished run; `panatlas resume {path}` goes on with it")
    return path / "model"


def read_genes(path: Path, organisms: Sequence[str], field: str = "regulators") -> tuple[list[str], list[str]]:
    """Return the ids of the genes a file names, one a line, and the names no organism has.

    Parameters
    ----------
    path
        Ids or symbols in UTF-8; blank lines and lines that begin with # are left out.
    organisms
        In whose gene tables they are looked for; a name that several have means all of them.
    field
        What an error calls the file.

    Returns
    -------
    ids, unknown
        Ids sorted, each once; unknown names in the file's order.

    Raises
    ------
    CatalogInputError
        When it cannot be read, is no text, or names no gene.
    """
    try:
        with path.open("rb") as stream:
            lines = stream.read(MOST_BYTES + 1).decode("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise CatalogInputError(field, str(path), f"a text file in UTF-8 ({error})"[:300]) from error
    if path.stat().st_size > MOST_BYTES:
        raise CatalogInputError(field, str(path), f"a file of at most {MOST_BYTES >> 20} MiB")
    names = list(dict.fromkeys(line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")))
    ids: set[str] = set()
    found = np.zeros(len(names), dtype=bool)
    for table in _tables(organisms):
        index = resolve_genes(names, table).index
        ids.update(table.ids[index[index >= 0]].tolist())
        found |= index >= 0
    if not ids:
        first = f"{names[0]!r:.60} is none" if names else "it is empty"
        raise CatalogInputError(field, str(path), f"ids or symbols of {', '.join(organisms)}; {first}")
    return sorted(ids), [name for name, known in zip(names, found, strict=True) if not known]


@dataclass(frozen=True, eq=False)
class PriorNetwork:
    """A prior gene network of one organism."""

    organism: str
    """Experiment name."""
    edges: pd.DataFrame
    """regulator and target as ids, weight; each pair once, sorted."""
    unknown: int
    """Rows left out, as a gene of theirs is not known."""

    @property
    def digest(self) -> str:
        """Return the sha256 of the organism and its edges."""
        text = self.edges.to_csv(index=False, float_format="%.9g")
        return hashlib.sha256(f"{self.organism}\n{text}".encode()).hexdigest()

    def bias(self, vocabulary: Vocabulary) -> prior_bias.PriorBias:
        """Return the network as a bias of attention: a target reads its regulators.

        Raises
        ------
        CatalogInputError
            When no edge is between genes of the vocabulary.
        """
        ends = [vocabulary.gene_tokens(self.organism, self.edges[name].tolist()) for name in ("target", "regulator")]
        edges, kept = np.stack(ends).astype(np.int64), np.all(np.stack(ends) >= 0, axis=0)
        if not kept.any():
            raise CatalogInputError("prior", self.organism, "edges between genes of the cells")
        weights = self.edges["weight"].to_numpy(np.float32)[kept]
        return prior_bias.PriorBias(torch.from_numpy(edges[:, kept]), torch.from_numpy(weights), vocabulary.n_genes)


def read_network(path: Path, organisms: Sequence[str]) -> PriorNetwork:
    """Return the gene network of a table with the columns regulator, target and, if there are, weight.

    Parameters
    ----------
    path
        TSV, CSV (gzip or not) or Parquet; ids or symbols of one organism. Of a pair that is named twice the largest
        weight counts; without weights each is 1.
    organisms
        Among which it is that whose genes it names most.

    Raises
    ------
    CatalogInputError
        When it is no such table, a weight is no finite number, or no row names two known genes.
    """
    rows = _read_edges(path)
    weights = pd.to_numeric(rows["weight"], errors="coerce").to_numpy(dtype=np.float64)
    if len(wrong := np.flatnonzero(~np.isfinite(weights))):
        said = str(rows["weight"].iloc[wrong[0]])[:40]
        raise CatalogInputError("prior", said, f"finite numbers as weights; row {wrong[0] + 1} of {path} has none")
    best: tuple[int, str, dict[str, np.ndarray]] = (0, "", {})
    for experiment, table in zip(organisms, _tables(organisms), strict=True):
        places = {name: resolve_genes(rows[name].tolist(), table).index for name in ("regulator", "target")}
        known = int(((places["regulator"] >= 0) & (places["target"] >= 0)).sum())
        if known > best[0]:
            best = (known, experiment, {name: np.where(i < 0, "", table.ids[i]) for name, i in places.items()})
    known, organism, ends = best
    if not known:
        raise CatalogInputError("prior", str(path), f"rows with two genes, as ids or symbols of {', '.join(organisms)}")
    edges = pd.DataFrame({**ends, "weight": weights})
    edges = edges[(edges["regulator"] != "") & (edges["target"] != "")]
    edges = edges.groupby(["regulator", "target"], as_index=False)["weight"].max()
    return PriorNetwork(organism, edges, len(rows) - known)


def _read_edges(path: Path) -> pd.DataFrame:
    wanted, tally = ["regulator", "target"], text_files.Tally()
    try:
        try:
            _, rows = table_files.read_rows(path, [*wanted, "weight"], {}, tally)
        except OntologyInputError:  # it has no weights, or something the second reading tells
            _, rows = table_files.read_rows(path, wanted, {}, tally)
            rows = rows.assign(weight=1.0)
    except OntologyInputError as error:
        raise CatalogInputError("prior", str(path), f"a table of regulator, target and weight ({error})") from error
    if tally.counts:
        raise CatalogInputError("prior", str(path), f"a whole table: {tally.report(len(rows), len(rows))}")
    return rows


def find_vectors(organisms: Sequence[str], embedder: str | None) -> tuple[dict[str, ProteinVectors], list[str]]:
    """Return the protein vectors at hand, all of one width, and the organisms left without though they have some.

    Parameters
    ----------
    organisms
        Experiment names.
    embedder
        Whose vectors; `none` for none, None for those there are.

    Returns
    -------
    vectors, left_out
        Where widths differ, those of the width that most organisms have, the larger of two that are as common.

    Raises
    ------
    CatalogInputError
        When an organism has vectors by several embedders and none is named, or none has vectors by the named one.
    """
    found: dict[str, ProteinVectors] = {}
    for name in organisms if embedder != NONE else ():
        try:
            found[name] = load_protein_vectors(name, embedder)
        except ReferenceMissingError:
            continue
        except ModelInputError as error:
            raise CatalogInputError("vectors", embedder, f"{error.allowed}, or {NONE}") from error
    if embedder not in (None, NONE) and not found:
        allowed = f"an embedder that `panatlas embed-proteins` ran for {' or '.join(organisms)}, or {NONE}"
        raise CatalogInputError("vectors", embedder, allowed)
    widths = Counter(one.vectors.shape[1] for one in found.values())
    width = max(widths, key=lambda each: (widths[each], each), default=0)
    kept = {name: one for name, one in found.items() if one.vectors.shape[1] == width}
    return kept, sorted(set(found) - set(kept))


@dataclass(frozen=True)
class FileCells:
    """Cells of a user's file."""

    cells: SourceCells
    """The cells; their counts stay in the file."""
    names: list[str]
    """The file's own names of them."""
    obs: pd.DataFrame
    """What the file says of them, in its own words."""
    var: pd.DataFrame
    """What the file says of its genes."""
    matrix: str
    """Element of the file their counts are from."""
    findings: tuple[Finding, ...]
    """What reading them found: unknown genes, genes that were summed or left out."""


def read_adata(
    path: Path, organism: str, layer: str | None = None, columns: Mapping[str, str] | None = None
) -> FileCells:
    """Return the cells of a file, read as an ingest reads it: nothing in it is run or followed.

    Parameters
    ----------
    path
        What an ingest takes.
    organism
        Whose cells they are.
    layer
        Layer with the counts, `raw` for .raw, `X` for X; None leaves the choice to the rules of an ingest.
    columns
        obs column by field, as of `SourceCells`, where labels are wanted: {} finds them as an ingest does.

    Raises
    ------
    CatalogInputError
        When there is no such file, or no such layer in it.
    ContractError, CellsError
        When it is hostile or damaged, or has no raw counts.
    """
    if not path.exists():
        raise CatalogInputError("file", str(path), "an h5ad file that exists")
    matrix = None if layer is None else {"raw": "raw/X", "X": "X"}.get(layer, f"layers/{layer}")
    try:
        cells = SourceCells(path, organism, matrix, columns=columns)
    except ContractError as error:
        first = error.findings[0]
        if first.code != "no-such-matrix":
            raise
        allowed = first.expected.replace("layers/", "").replace("raw/X", "raw")
        raise CatalogInputError("layer", layer, allowed) from error
    except CellsError as error:
        if error.others and "raw counts" in error.remedy:
            names = (name.removeprefix("layers/").replace("raw/X", "raw") for name in error.others)
            error.add_note("if the file has them elsewhere: " + " or ".join(f"--layer {name}" for name in names))
        raise
    found = [one for one in cells.findings if columns is not None or not one.where.startswith("obs")]
    names = cells.obs.index.astype(str).tolist()
    return FileCells(cells, names, cells.obs, cells.var, cells.matrix, (*cells.read_findings, *found))


def _tables(organisms: Sequence[str]) -> list[GeneTable]:
    return [load_gene_table(name) for name in organisms]


def _tame(name: str) -> str:
    """Return a name as a part of a folder's name."""
    return re.sub(r"[^A-Za-z0-9._-]", "_", name)[:64].lstrip(".") or "cells"
