"""Taking a look at a source: fetch it, open it, prove its counts, decide what would be stored. No atlas is asked.

`ingest` looks in its own process through a `SourceLook`; a worker does so too and leaves what it saw for the process
that writes (`handover`). To `ingest.settle` both are a `Look`.
"""

from __future__ import annotations

import hashlib
import json
from contextlib import ExitStack
from typing import TYPE_CHECKING, Protocol

import numpy as np

from ontology import get_organism, ontology_release, overrides_digest

from . import schema
from .cell_labels import labels_digest
from .errors import SourceError
from .fetch import digest_of, fetch_source
from .findings import Receipt
from .prepare import ROWS_PER_BLOCK, IngestOptions, Prepared, prepare
from .read import open_source, prove_counts

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import Self

    import scipy.sparse as sp

    from .read import CountProof, RawCells
    from .sources import Source


class Look(Protocol):
    """What one source turns out to be, asked step by step; whether the atlas has it is asked in between."""

    source: Source
    """What is read."""
    blank: Receipt
    """Receipt with what is known before the source is opened, its digest for one."""
    seconds: float
    """Wall-clock time it took before it was handed over."""

    def prove(self) -> str:
        """Return the digest of the source's content, once all its values are proven to be counts."""
        ...

    def prepare(self, dataset_id: str) -> Prepared:
        """Return what would be stored; asked after `prove`."""
        ...

    def blocks(self, prepared: Prepared) -> Iterator[sp.csr_matrix]:
        """Yield the kept cells' counts over the gene table, block by block; asked after `prepare`."""
        ...

    def neighbours(self, eligible: np.ndarray) -> sp.csr_matrix | None:
        """Return the graph among the eligible cells, None where it is not known yet; asked after `prepare`."""
        ...


class SourceLook:
    """A `Look` that reads the source in this process. Use it as a context manager.

    Raises
    ------
    SourceError
        If the source cannot be fetched or is not what was pinned.
    """

    def __init__(self, source: Source, options: IngestOptions) -> None:
        path, digest = _fetch(source)
        self.source, self.seconds = source, 0.0
        self.blank = Receipt(
            source_id=source.id or source.uri, organism=get_organism(source.organism).name, status="rejected",
            uri=source.uri, input_sha256=digest, releases=releases_of(options),
        )  # fmt: skip
        self._path, self._options = path, options
        self._open = ExitStack()
        self._cells: RawCells
        self._proof: CountProof

    def __enter__(self) -> Self:
        """Return the look itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Release the source's file."""
        self._open.close()

    def prove(self) -> str:
        """Return the digest of the source's content, once all its values are proven to be counts."""
        cells = self._cells = self._open.enter_context(open_source(self.source, self._path))
        self._proof = prove_counts(cells, lambda done: self._options.progress("prove", done, cells.n_obs))
        return self._proof.sha256

    def prepare(self, dataset_id: str) -> Prepared:
        """Return what would be stored."""
        return prepare(self.source, self._cells, self._proof, dataset_id, self.blank, self._options)

    def blocks(self, prepared: Prepared) -> Iterator[sp.csr_matrix]:
        """Yield the kept cells' counts over the gene table, block by block."""
        for start, block in self._cells.stored_blocks(ROWS_PER_BLOCK):
            kept = prepared.kept[start : start + block.shape[0]]
            yield prepared.genes.project(block if kept.all() else block[np.flatnonzero(kept)])
            self._options.progress("write", start + block.shape[0], self._cells.n_obs)

    def neighbours(self, eligible: np.ndarray) -> None:
        """Return None: they are found from the records, once these are written."""
        return


def releases_of(options: IngestOptions) -> dict[str, str]:
    """Return the versions that what is stored depends on, but for the gene table's."""
    return {
        "schema": schema.SCHEMA_VERSION,
        "ontologies": ontology_release(),
        "overrides": overrides_digest()[:16],
        "policy": f"{options.policy.version} {options.policy.fingerprint()}",
        "neighbours": "yes" if options.neighbours else "no",
    }


def _fetch(source: Source) -> tuple[Path, str]:
    """Return the source's local path and digest; a fault of the system in reading it is the source's, not ours."""
    try:
        path = fetch_source(source)
        return path, hash_input(path)
    except SourceError:
        raise
    except OSError as exc:
        raise SourceError(source.uri, "a file or folder that can be read", str(exc)) from exc


def declaration_of(source: Source) -> str:
    """Return the digest of what the manifest says about a source's content."""
    said: list[object] = [source.matrix, sorted(source.columns.items()), sorted(source.constants.items())]
    if source.labels is not None:  # by its bytes: an edited table is another declaration
        said.append(labels_digest(source.labels))
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()


def hash_input(path: Path) -> str:
    """Return the sha256 of a file's bytes; of a folder, over its files' relative names and digests, sorted."""
    if path.is_file():
        return digest_of(path)
    digest = hashlib.sha256()
    for file in sorted(p for p in path.rglob("*") if p.is_file() and not p.is_symlink()):
        digest.update(f"{file.relative_to(path).as_posix()}\0{digest_of(file)}\n".encode())
    return digest.hexdigest()


def dataset_id_of(source: Source, content_sha256: str) -> str:
    """Return the id a source's dataset gets: its own, or one of its content."""
    return source.id or f"d{content_sha256[:16]}"
