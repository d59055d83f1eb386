"""From the process that looked at a source to the one that writes it: files in a scratch folder, read block by block.

A worker calls `hand_over`: it reads, proves, prepares, and finds neighbours, and leaves the kept cells' obs, counts and
graph as three files; what is small travels as the returned `HandedOver`, by which the writing process goes on as if it
had looked itself. Counts are records (`cell_records`), so neither side holds more than a block of them. No worker ever
sees the atlas; the writer compares what it stored with the hashes that the worker took from the source.
"""

from __future__ import annotations

import errno
import shutil
import socket
import tempfile
import time
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import scipy.sparse as sp

from ontology import OntologyError, get_organism, load_gene_table

from . import schema
from .allocation import reusing_memory
from .cell_records import encode_records
from .errors import AtlasError, ClusterError, ContractError, StoreError
from .ingest import mark_copies, with_neighbours
from .look import SourceLook, dataset_id_of, declaration_of, releases_of
from .neighbours import NeighbourOptions, find_neighbours
from .record_store import from_arrow, to_arrow

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .findings import Finding, Receipt
    from .ledger import Ledger
    from .prepare import IngestOptions, Prepared
    from .sources import Source

_PACKING = pa.ipc.IpcWriteOptions(compression="zstd")
_FILES = {"obs": "obs.arrow", "counts": "counts.arrow", "graph": "graph.npz"}
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # what the system says where a file may not grow


@dataclass(frozen=True)
class Asked:
    """What a worker is told beside the source: nothing of it can be changed by the worker."""

    options: IngestOptions
    """Policy and switches, without a progress of their own."""
    scratch: Path
    """Folder that the worker and the writing process share."""
    versions: dict[str, str]
    """Versions and pins of the writing process, which the worker's must equal."""
    inputs: frozenset[tuple[str, str]] = frozenset()
    """Digests of the inputs, and of what was said about them, that the atlas has: these need no second look."""
    contents: frozenset[str] = frozenset()
    """Digests of the contents that the atlas has."""


@dataclass(frozen=True)
class HandedOver:
    """What a worker saw of a source; a `Look` to the process that writes."""

    source: Source
    """What was read."""
    blank: Receipt
    """Receipt with what was known before the source was opened."""
    seconds: float
    """Wall-clock time the worker took."""
    content_sha256: str | None = None
    """Digest of the content; None where that was not needed, or could not be proven to be counts."""
    refused: tuple[Finding, ...] = ()
    """Why the source cannot be stored, if so: not proven to be counts where it has no digest, else not prepared."""
    prepared: Prepared | None = None
    """What would be stored, its obs left out; None where that was not needed."""
    folder: Path | None = None
    """Where obs, counts and graph are; None where there is none."""

    def prove(self) -> str:
        """Return the digest of the source's content."""
        if self.content_sha256 is None:
            raise ContractError(self.source.id or self.source.uri, list(self.refused))
        return self.content_sha256

    def prepare(self, dataset_id: str) -> Prepared:
        """Return what would be stored, with its obs."""
        if self.prepared is None:
            raise ContractError(dataset_id, list(self.refused))
        with pa.OSFile(str(self._at("obs"))) as file:
            return replace(self.prepared, obs=pa.ipc.open_file(file).read_pandas())

    def blocks(self, prepared: Prepared) -> Iterator[sp.csr_matrix]:
        """Yield the kept cells' counts over the gene table, block by block."""
        return _read_counts(self._at("counts"), len(prepared.genes.measured))

    def neighbours(self, eligible: np.ndarray) -> sp.csr_matrix | None:
        """Return the graph among the eligible cells; None where others were eligible to the worker."""
        if not self._at("graph").exists():
            return None
        with np.load(self._at("graph"), allow_pickle=False) as held:
            if not np.array_equal(held["eligible"], eligible):
                return None  # some are copies of cells in the atlas, which no worker knows
            n = len(eligible)
            return sp.csr_matrix((held["data"], held["indices"], held["indptr"]), shape=(n, n))

    def _at(self, name: str) -> Path:
        """Return the path of one of the files."""
        assert self.folder is not None, "asked for what was not needed"
        return self.folder / _FILES[name]

    def clear(self) -> None:
        """Remove the files."""
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)


@dataclass(frozen=True)
class Failed:
    """An error that a worker raised on purpose, in parts: pickle cannot make ours again from their messages."""

    kind: type[Exception]
    """Its class."""
    args: tuple[Any, ...]
    """Its arguments."""
    state: dict[str, Any]
    """Its attributes."""

    def error(self) -> Exception:
        """Return the error again."""
        error = self.kind.__new__(self.kind)
        error.args = self.args
        error.__dict__.update(self.state)
        return error


def versions_of(options: IngestOptions, organism: str) -> dict[str, str]:
    """Return what must be the same wherever a source of `organism` is looked at."""
    try:
        genes = load_gene_table(get_organism(organism)).order_sha256
    except OntologyError:
        genes = "none"  # which the look itself will meet, and say
    return {"panatlas": version("panatlas"), "genes": genes, **releases_of(options)}


def ask(options: IngestOptions, organism: str, scratch: Path, ledger: Ledger | None) -> Asked:
    """Return what a worker is told who looks at a source of `organism`."""
    experiment = get_organism(organism).experiment
    held = [row for row in ledger.datasets() if row.organism == experiment] if ledger else []
    return Asked(
        replace(options, progress=_quiet), scratch, versions_of(options, organism),
        frozenset((row.input_sha256, row.declaration) for row in held),
        frozenset(row.content_sha256 for row in held),
    )  # fmt: skip


def _quiet(_stage: str, _done: int, _total: int) -> None:
    """Tell nobody: a worker has no terminal."""


def hand_over(source: Source, asked: Asked) -> HandedOver | Failed:
    """Look at a source in a worker, and leave what was seen for the process that writes.

    Parameters
    ----------
    source
        What to read.
    asked
        How, where to leave it, and what the atlas has already.

    Returns
    -------
    What was seen, or the error of panatlas that stopped it. Whatever stops it, no file is left behind but by a worker
    that vanished; those are in a folder of their own and go with `asked.scratch`.
    """
    began = time.monotonic()
    try:
        _check_setting(source, asked)
        with reusing_memory(), SourceLook(source, asked.options) as look:
            seen = _look(look, asked)
    except (AtlasError, OntologyError) as exc:
        return Failed(type(exc), exc.args, exc.__dict__)
    return replace(seen, seconds=time.monotonic() - began)


def _check_setting(source: Source, asked: Asked) -> None:
    """Refuse to work where the result would be another, or nobody would find it."""
    here = socket.gethostname()
    own = versions_of(asked.options, source.organism)
    other = [f"{name} {own.get(name)}, not {said}" for name, said in asked.versions.items() if own.get(name) != said]
    if other:
        remedy = "install the same version there, and share PANATLAS_HOME or its references and overrides"
        raise ClusterError(f"a worker on {here}", f"it has {'; '.join(other)}; {remedy}")
    if not asked.scratch.is_dir():
        remedy = "pass --scratch with a folder that all workers and this machine share"
        raise ClusterError(f"a worker on {here}", f"it does not see {asked.scratch}; {remedy}")


def _look(look: SourceLook, asked: Asked) -> HandedOver:
    """Return what is seen of a source, and leave its files."""
    seen = HandedOver(look.source, look.blank, 0.0)
    if (str(look.blank.input_sha256), declaration_of(look.source)) in asked.inputs:
        return seen
    try:
        seen = replace(seen, content_sha256=look.prove())
        if seen.content_sha256 in asked.contents:
            return seen
        prepared = look.prepare(dataset_id_of(look.source, seen.prove()))
    except ContractError as exc:
        return replace(seen, refused=tuple(exc.findings))
    folder = Path(tempfile.mkdtemp(dir=asked.scratch))
    try:
        _leave(look, prepared, asked.options, folder)
    except BaseException as exc:
        shutil.rmtree(folder, ignore_errors=True)
        if isinstance(exc, OSError) and exc.errno in _FULL:
            remedy = "free space there, or pass --scratch with another folder"
            raise StoreError(str(asked.scratch), "hand over", f"{exc} on {socket.gethostname()}; {remedy}") from exc
        raise
    return replace(seen, prepared=replace(prepared, obs=prepared.obs.iloc[:0]), folder=folder)


def _leave(look: SourceLook, prepared: Prepared, options: IngestOptions, folder: Path) -> None:
    """Write obs, and but for a dry run the counts and the graph, as the process that stores them will read them."""
    obs = pa.Table.from_pandas(prepared.obs, preserve_index=False)
    with pa.ipc.new_file(str(folder / _FILES["obs"]), obs.schema, options=_PACKING) as file:
        file.write_table(obs)
    if options.dry_run:
        return
    rows = schema.arrow_schema(schema.RECORDS)
    with pa.ipc.new_file(str(folder / _FILES["counts"]), rows, options=_PACKING) as file:
        first = 0
        for block in look.blocks(prepared):
            if block.shape[0]:  # a block none of whose cells is kept has no row
                file.write_table(to_arrow(encode_records(block), first))
            first += block.shape[0]
    if not options.neighbours:
        return
    n_genes = len(prepared.genes.measured)
    eligible = with_neighbours(mark_copies(folder, (), prepared))  # copies of the source's own earlier cells alone
    graph = find_neighbours(
        lambda: _numbered(_read_counts(folder / _FILES["counts"], n_genes)), eligible,
        NeighbourOptions(seed=options.seed),
    )  # fmt: skip
    arrays = {"data": graph.data, "indices": graph.indices, "indptr": graph.indptr, "eligible": eligible}
    np.savez(folder / _FILES["graph"], **arrays)


def _read_counts(path: Path, n_genes: int) -> Iterator[sp.csr_matrix]:
    """Yield the blocks of a file of records as counts over the gene table."""
    with pa.OSFile(str(path)) as file:
        batches = pa.ipc.open_file(file)
        for number in range(batches.num_record_batches):
            yield from_arrow(pa.Table.from_batches([batches.get_batch(number)])).decode(n_genes)


def _numbered(blocks: Iterator[sp.csr_matrix]) -> Iterator[tuple[int, sp.csr_matrix]]:
    """Yield blocks with the number of their first row."""
    first = 0
    for block in blocks:
        yield first, block
        first += block.shape[0]
