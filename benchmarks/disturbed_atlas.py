"""What an atlas may be while its ingest is killed, starved or crossed by another: before a source or after it.

Sources are resampled from real cells of the fly, whose gene table is short: an ingest of few cells is mostly its genes.
They are small and several, so that a disturbance falls into any of the many steps of a transaction, or between two.
`Undisturbed` holds what each whole number of them gives, for panatlas' readers and the official client; `look` says
what is there now. Used by kills.py.
"""

from __future__ import annotations

import hashlib
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.bench_data import SHARED
from benchmarks.ingest import resample

if TYPE_CHECKING:
    from pathlib import Path

    from atlas import Atlas
    from benchmarks.disturbed_processes import Processes

REAL = SHARED / "data" / "drosophila_embryo_cxg7.h5ad"
ORGANISM = "fly"
NAMES = "abc"
CELLS, GENES = 120, 1_500
"""Of each source; genes are drawn anew, so that which dataset measured what is something to lose."""
ORDER = (
    ("obsp/neighbours/__commits", "while it was read back and compared"),
    ("obs/__commits", "while genes, tables and neighbours were written"),
    ("X/raw/__commits", "while records and obs were written"),
    ("", "before counts were written, arrays made and enlarged"),
)
"""Last array that is written, and where in an ingest that is."""
IDLE = "while a source was read, nothing written"
UNDOING = "before what the kill before had left was removed"
DONE = "after all was published"
STAGES = (IDLE, *(stage for _, stage in reversed(ORDER)), UNDOING, DONE)


@dataclass(frozen=True)
class State:
    """What a reader finds."""

    datasets: tuple[str, ...]
    """Ids of the published ones."""
    hash: str
    """Content hash, empty where nothing is published."""
    in_flight: bool
    """The ledger says that a writer began and did not end."""
    left: frozenset[str]
    """Files, or keys, later than the published moment."""


def make_sources(folder: Path, seed: int) -> dict[str, Path]:
    """Write the sources as h5ad files, and return where they are."""
    import anndata as ad
    import pandas as pd

    real, rng = ad.read_h5ad(REAL), np.random.default_rng(seed)
    expressed = np.flatnonzero(np.asarray(real.X.sum(axis=0)).ravel() > real.n_obs // 20)
    files = {}
    for name in NAMES:
        picks = rng.integers(0, real.n_obs, CELLS)
        genes = np.sort(rng.choice(expressed, GENES, replace=False))
        frame = real.obs.iloc[picks].reset_index(drop=True)
        frame.index = pd.Index([f"{name}{i}" for i in range(CELLS)])
        files[name] = folder / f"{name}.h5ad"
        cells = ad.AnnData(resample(real.X[:, genes], picks, rng), obs=frame, var=real.var.iloc[genes], uns=real.uns)
        cells.write_h5ad(files[name])
    return files


def manifest(folder: Path, files: dict[str, Path], names: str) -> Path:
    """Write a manifest of some sources, in this order, and return where it is."""
    path = folder / f"{names}.toml"
    path.write_text(
        "".join(f'[[source]]\nid = "{name}"\norganism = "{ORGANISM}"\nuri = "{files[name]}"\n\n' for name in names)
    )
    return path


def command(sources: Path, uri: str) -> list[str]:
    """Return the ingest that is disturbed; doublets are left out, which cost time and write nothing of their own."""
    return ["ingest", ORGANISM, "--manifest", str(sources), "--atlas", uri, "--no-doublets"]


def look(uri: str) -> State:
    """Return what a reader finds at an address."""
    from atlas import StoreError, content_hash, open_atlas, store
    from atlas.doctor import later_than
    from atlas.ledger import Ledger

    root = store.place_of(uri)
    path = root / store.LEDGER / "ledger.sqlite"
    if not path.exists():
        return State((), "", in_flight=False, left=frozenset())
    with Ledger.to_read(path) as ledger:
        moment, in_flight = ledger.published_ms(), ledger.in_flight
    left = frozenset(later_than(root, moment))
    try:
        atlas = open_atlas(uri)
    except StoreError as exc:
        if "nothing is published here yet" not in str(exc):
            raise
        return State((), "", in_flight, left)
    return State(tuple(row.dataset_id for row in atlas.datasets), content_hash(atlas), in_flight, left)


def stage(before: State, after: State) -> str:
    """Return where in an ingest it was killed, told by what it left."""
    if len(after.datasets) == len(NAMES):
        return DONE
    if not after.in_flight:
        return IDLE
    if before.in_flight and after.datasets == before.datasets and after.left <= before.left:
        return UNDOING
    return next(stage for part, stage in ORDER if any(part in name for name in after.left) or not part)


def read_officially(atlas: Atlas) -> str:
    """Return the digest of all cells as cellxgene-census reads them at the published moment."""
    import cellxgene_census
    import tiledbsoma as soma

    from atlas import object_store

    settings = object_store.tiledb_settings() if atlas.uri.startswith("s3://") else {}
    context = soma.SOMATileDBContext(tiledb_config=settings, timestamp=atlas.published_ms)
    with cellxgene_census.open_soma(uri=atlas.uri, context=context) as census:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Transforming to str index")  # the client's own
            cells = cellxgene_census.get_anndata(census, "Drosophila melanogaster")
        summary = census["census_info"]["summary_cell_counts"].read().concat().to_pandas()
    counts = cells.X.tocsr()
    counts.sort_indices()
    digest = hashlib.sha256()
    for array in (counts.indptr, counts.indices, counts.data):
        digest.update(np.ascontiguousarray(array).tobytes())
    for frame in (cells.obs, cells.var, summary):
        digest.update(frame.to_csv().encode())
    return digest.hexdigest()


class Undisturbed:
    """What ingests give that nobody disturbs, after each source.

    Parameters
    ----------
    processes
        Who ingests.
    folder
        Where the atlas is made.
    files
        The sources.
    """

    def __init__(self, processes: Processes, folder: Path, files: dict[str, Path]) -> None:
        from atlas import open_atlas

        self.uri = str(folder / "undisturbed")
        self.hashes: dict[str, str] = {"": ""}
        self.official: dict[str, str] = {}
        for n in range(1, len(NAMES) + 1):
            ended = processes.run(command(manifest(folder, files, NAMES[:n]), self.uri))
            assert ended.code == 0, ended.said
            self.hashes[NAMES[:n]] = look(self.uri).hash
            self.official[NAMES[:n]] = read_officially(open_atlas(self.uri))

    def faults(self, uri: str, before: State, after: State, *, official: bool) -> list[str]:
        """Return what is wrong with what readers find after a disturbance, nothing where all is well."""
        from atlas import open_atlas

        names = "".join(after.datasets)
        wrong = []
        if not NAMES.startswith(names) or len(names) < len(before.datasets):
            wrong.append(f"{before.datasets} became {after.datasets}")
        elif after.hash != self.hashes[names]:
            wrong.append(f"the content of {names} is another")
        elif names and official and read_officially(open_atlas(uri)) != self.official[names]:
            wrong.append(f"the official client reads {names} otherwise")
        return wrong

    def final_faults(self, uri: str) -> list[str]:
        """Return what is wrong where a disturbed ingest was run again to its end, nothing where all is well."""
        from atlas import find_leftovers, validate

        found = validate(uri)
        wrong = [f"validate: {finding}" for finding in found.findings]
        wrong += [f"doctor: {finding}" for finding in find_leftovers(uri)]
        if found.content_hash != self.hashes[NAMES]:
            wrong.append("the content is another")
        return wrong


def seconds_of(uri: str) -> dict[str, float]:
    """Return how long each dataset took to be ingested."""
    from atlas import open_atlas

    told: list[dict[str, Any]] = open_atlas(uri).receipts()
    return {row["dataset_id"]: row["seconds"] for row in told if row["status"] == "written"}
