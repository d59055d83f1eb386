"""Vectors of an organism's proteins: `embed_proteins("human", seeded_esm2())` makes them, `load_protein_vectors` reads.

Proteins go through the embedder from the shortest to the longest; finished vectors are cached by the digest of the
sequence and of everything the embedder depends on, so that a stopped run goes on, a changed file costs only what
changed, and the same protein in two organisms is embedded once. The result is a snapshot of kind `protein_vectors`.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import re
import time
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pandas as pd

from .errors import ModelInputError
from .vector_cache import VectorCache

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from ontology import Organism, Snapshot

    from .protein_embedder import ProteinEmbedder

log = logging.getLogger(__name__)

KIND = "protein_vectors"
LAYOUT = "vectors-1"
"""Version of how a vector follows from a sequence and an embedder; part of the cache's key."""
MAX_NAME = 64  # letters of a snapshot's name
SHARD = 256  # vectors kept at once: 1.3 MB at 1,280 numbers
SHARD_SECONDS = 60.0  # work lost at most when the process is killed, a batch aside


@dataclass(frozen=True, eq=False)
class ProteinVectors:
    """One vector per gene. Arrays are read-only."""

    organism: Organism
    """Whose genes they are."""
    genes: npt.NDArray[np.str_]
    """Gene ids without version, ascending."""
    vectors: npt.NDArray[np.float32]
    """`[len(genes), dim]`."""
    rules: npt.NDArray[np.str_]
    """Why its protein stands for each gene; `ortholog` where it is the human ortholog's."""
    about: Mapping[str, str]
    """Embedder, weights, seed, pooling, and digest of the proteins."""

    def __len__(self) -> int:
        """Return the number of genes."""
        return len(self.genes)

    def __repr__(self) -> str:
        """Return a one-line summary."""
        shape = f"{len(self)} genes x {self.vectors.shape[1]}"
        return f"ProteinVectors({self.organism.name}, {shape}, {self.about['embedder']})"


def embed_proteins(
    organism: str | int | Organism,
    embedder: ProteinEmbedder,
    *,
    orthologs: bool = True,
    batch_tokens: int | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> Snapshot:
    """Embed the protein of every gene and keep the vectors as a snapshot named `vectors_name(organism, embedder.name)`.

    Parameters
    ----------
    organism
        Whose proteins; they were imported before.
    embedder
        What embeds them.
    orthologs
        Genes without a protein take their one2one human ortholog's, marked by rule `ortholog`.
    batch_tokens
        Residues and padding of a batch; None for what the embedder prefers, 0 for one protein at a time. Batches follow
        from the proteins alone, so that a run that was stopped ends with the same bytes as one that was not.
    progress
        Called with (stage, distinct proteins done, all) after each batch.

    Raises
    ------
    ReferenceMissingError
        When there are neither proteins nor stand-ins; the message says what to run.
    SourceUnavailableError
        When orthologs are wanted and cannot be fetched; `orthologs=False` does without.
    ModelInputError
        When the embedder's name is too long, another embedder's vectors are kept under the same plain name, or it
        returns anything but finite numbers of its own shape.
    """
    from ontology import get_organism, save_bytes  # noqa: PLC0415 - pandas tables; the facade stays light

    found = get_organism(organism)
    name = vectors_name(found.name, embedder.name)
    if len(name) > MAX_NAME:  # told before hours of work, not after
        raise ModelInputError("embedder", embedder.name, f"a name of at most {MAX_NAME - len(found.name) - 1} letters")
    former = _kept_by(name)
    if former not in (None, embedder.name):
        allowed = f"a name that differs from {former}'s in letters, digits, '.', '_' or '-'"
        raise ModelInputError("embedder", embedder.name, allowed)
    frame, about = _proteins(found, orthologs=orthologs)
    cut = [sequence[: embedder.longest] for sequence in frame["sequence"]]
    keys = [hashlib.sha256(sequence.encode()).hexdigest() for sequence in cut]
    vectors = _embed(dict(zip(keys, cut, strict=True)), embedder, batch_tokens, progress)
    shortened = int((frame["length"] > embedder.longest).sum())
    facts = {
        **embedder.facts, "embedder": embedder.name, "dim": str(embedder.dim), "cut": f"{shortened} of {len(frame)}",
        "proteins_sha256": about["sha256"],
    }  # fmt: skip
    data = _to_parquet(frame, np.array([vectors[key] for key in keys], dtype=np.float32), facts)
    standing_in = int((frame["rule"] == "ortholog").sum())
    whose = f"{len(frame) - standing_in:,} of its own" + (f", {standing_in:,} of orthologs" if standing_in else "")
    record = {
        "source": f"{about['source']} ({whose}), embedded by {embedder.name}", "release": about["release"],
        "licence": about["licence"], "rows": str(len(frame)),
    }  # fmt: skip
    return save_bytes(KIND, name, data, ".parquet", record)


def load_protein_vectors(organism: str | int | Organism, embedder_name: str | None = None) -> ProteinVectors:
    """Return an organism's vectors.

    Parameters
    ----------
    organism
        Whose.
    embedder_name
        Name of the embedder; None where only one has embedded this organism.

    Raises
    ------
    ModelInputError
        When no name is given and several embedders have been there, or the vectors kept under the name, as a
        snapshot spells it, are another embedder's.
    ReferenceMissingError
        When there are none; the message says what to run.
    """
    import pyarrow.parquet as pq  # noqa: PLC0415 - as above

    from ontology import (  # noqa: PLC0415 - as above
        ReferenceMissingError,
        find_snapshot,
        get_organism,
        list_organisms,
        list_snapshots,
    )

    found = get_organism(organism)
    name = vectors_name(found.name, embedder_name or "")
    if embedder_name is None:
        # `x-` also begins the names of an organism called x-y.
        longer = tuple(f"{o.name}-" for o in list_organisms() if o.name.startswith(f"{found.name}-"))
        names = [snapshot.name for snapshot in list_snapshots(KIND)]
        there = [each for each in names if each.startswith(name) and not each.startswith(longer)]
        if len(there) > 1:
            allowed = ", ".join(_kept_by(each) or each.removeprefix(name) for each in there)
            raise ModelInputError("embedder_name", None, f"one of {allowed}")
        name = there[0] if there else name
    snapshot = find_snapshot(KIND, name) if name[-1] != "-" else None
    if snapshot is None:
        what = "table of protein vectors" + (f" by {embedder_name}" if embedder_name else "")
        raise ReferenceMissingError(what, found.name, f"run panatlas embed-proteins {found.name}")
    table = pq.read_table(snapshot.path)
    about = json.loads(table.schema.metadata[b"panatlas"])
    if embedder_name not in (None, about["embedder"]):
        raise ModelInputError("embedder_name", embedder_name, f"{about['embedder']}, which made what is kept as {name}")
    flat = table.column("vector").combine_chunks().flatten().to_numpy(zero_copy_only=False)
    arrays = {
        "genes": table.column("gene").to_numpy().astype(str),
        "vectors": flat.reshape(len(table), int(about["dim"])),
        "rules": table.column("rule").to_numpy().astype(str),
    }
    for array in arrays.values():
        array.setflags(write=False)
    return ProteinVectors(organism=found, **arrays, about=MappingProxyType(about))


def vectors_name(organism: str, embedder_name: str) -> str:
    """Return the name of a snapshot of vectors; letters that a snapshot may not have become `_`."""
    return re.sub(r"[^A-Za-z0-9._-]", "_", f"{organism}-{embedder_name}")


def _kept_by(name: str) -> str | None:
    """Return the embedder that made the vectors kept under a snapshot's name; None where there are none, or damaged."""
    import pyarrow.parquet as pq  # noqa: PLC0415 - as above

    from ontology import OntologyError, find_snapshot  # noqa: PLC0415 - as above

    try:
        snapshot = find_snapshot(KIND, name)
    except OntologyError:  # making them again mends it
        return None
    return json.loads(pq.read_schema(snapshot.path).metadata[b"panatlas"])["embedder"] if snapshot else None


def _proteins(organism: Organism, *, orthologs: bool) -> tuple[pd.DataFrame, dict[str, str]]:
    """Return the proteins to embed, ascending by gene, and where they are from."""
    from ontology import (  # noqa: PLC0415 - as above
        ReferenceMissingError,
        find_snapshot,
        load_proteins,
        proteins_by_ortholog,
    )

    parts, missing = [], None
    try:
        parts.append(load_proteins(organism))
    except ReferenceMissingError as error:
        missing = error
    stand_ins = proteins_by_ortholog(organism) if orthologs else None
    if stand_ins is not None and len(stand_ins):
        parts.append(stand_ins)
    if not parts:
        assert missing is not None
        raise missing
    frame = pd.concat(parts, ignore_index=True).sort_values("gene", kind="stable", ignore_index=True)
    digest = hashlib.sha256()
    for column in ("gene", "protein", "rule", "sequence"):
        digest.update("\n".join([column, *frame[column], ""]).encode())
    snapshots = [find_snapshot("proteins", organism.name)]
    if stand_ins is not None and len(stand_ins):
        snapshots.append(find_snapshot("proteins", "human"))
    about = {
        field: "; ".join(dict.fromkeys(getattr(snapshot, field) for snapshot in snapshots if snapshot is not None))
        for field in ("source", "release", "licence")
    }
    return frame, {**about, "sha256": digest.hexdigest()}


def _embed(
    sequences: Mapping[str, str],
    embedder: ProteinEmbedder,
    batch_tokens: int | None,
    progress: Callable[[str, int, int], None] | None,
) -> dict[str, npt.NDArray[np.float32]]:
    """Return the vector of every key, from the cache or from the embedder."""
    from ontology import cache_dir  # noqa: PLC0415 - as above

    budget = embedder.batch_tokens if batch_tokens is None else batch_tokens
    told = json.dumps([LAYOUT, embedder.name, embedder.dim, embedder.longest, dict(embedder.facts)], sort_keys=True)
    folder = f"{vectors_name('', embedder.name)[1:]}-{hashlib.sha256(told.encode()).hexdigest()[:16]}"
    cache = VectorCache(cache_dir() / KIND / folder, embedder.dim)
    done = cache.read(sequences)
    if done:
        log.info("%d of %d proteins are embedded already", len(done), len(sequences))
    fresh: dict[str, npt.NDArray[np.float32]] = {}
    kept = time.monotonic()
    for batch in plan_batches(sequences, budget):
        # A batch is computed whole or not at all: its padding is part of how its vectors are rounded.
        if all(key in done for key in batch):
            continue
        vectors = _checked(embedder, [sequences[key] for key in batch])
        new = {key: vector for key, vector in zip(batch, vectors, strict=True) if key not in done}
        done.update(new)
        fresh.update(new)
        if len(fresh) >= SHARD or time.monotonic() - kept >= SHARD_SECONDS:
            cache.add(list(fresh), np.array(list(fresh.values())))
            fresh, kept = {}, time.monotonic()
        if progress is not None:
            progress("proteins", len(done), len(sequences))
    if fresh:
        cache.add(list(fresh), np.array(list(fresh.values())))
    return done


def plan_batches(sequences: Mapping[str, str], budget: int) -> Iterator[list[str]]:
    """Yield keys in batches of like length whose padded size stays within `budget` tokens; alone where it is 0."""
    batch: list[str] = []
    # The shortest first: each new one is the longest of its batch and so tells the batch's size.
    for key in sorted(sequences, key=lambda each: (len(sequences[each]), each)):
        if batch and (len(batch) + 1) * (len(sequences[key]) + 2) > budget:
            yield batch
            batch = []
        batch.append(key)
    if batch:
        yield batch


def _checked(embedder: ProteinEmbedder, sequences: Sequence[str]) -> npt.NDArray[np.float32]:
    vectors = embedder.embed(sequences)
    if vectors.shape != (len(sequences), embedder.dim) or not np.isfinite(vectors).all():
        allowed = f"one that returns finite numbers of shape ({len(sequences)}, {embedder.dim})"
        raise ModelInputError("embedder", f"{embedder.name} returning {vectors.shape}", allowed)
    return vectors.astype(np.float32, copy=False)


def _to_parquet(frame: pd.DataFrame, vectors: npt.NDArray[np.float32], facts: Mapping[str, str]) -> bytes:
    import pyarrow as pa  # noqa: PLC0415 - as above
    import pyarrow.parquet as pq  # noqa: PLC0415

    columns = {name: pa.array(frame[name].astype(str), pa.string()) for name in ("gene", "protein", "rule")}
    columns["vector"] = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), vectors.shape[1])
    table = pa.table(columns).replace_schema_metadata({"panatlas": json.dumps(dict(facts), sort_keys=True)})
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    return buffer.getvalue()
