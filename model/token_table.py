"""What is known of each gene token before training: `TokenTable`, one row per token of a vocabulary, mapped from files.

Protein vectors (protein_vectors.py), ortholog group, position bin and biotype. A gene without a protein vector is told
apart by its group, its position and two buckets that its id hashes to. gene_tokens.py learns on top of these; the
table's digest is in the vocabulary that a checkpoint carries.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from .errors import CheckpointError, ModelInputError
from .positions import DENSE, DENSE_STEP, STEP, position_bins
from .tensor_files import new_folder

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from loaders import Vocabulary

    from .protein_vectors import ProteinVectors

FORMAT = "panatlas gene tokens 1"
BIOTYPES = ("protein_coding", "lncRNA", "pseudogene", "small RNA", "other")
"""Kinds of gene that a token tells apart; `biotype_codes` sorts Ensembl's biotypes into them."""
SMALL = frozenset(
    ("miRNA", "snRNA", "snoRNA", "scaRNA", "rRNA", "Mt_rRNA", "Mt_tRNA", "tRNA", "misc_RNA", "vault_RNA", "Y_RNA")
)
BUCKETS = 8_192
"""Buckets ids hash to; two per gene make 33 million pairs."""
ARRAYS = ("vectors", "has_vector", "group", "position", "biotype", "buckets")


@dataclass(frozen=True, eq=False)
class TokenTable:
    """One row per token; arrays may be mapped files."""

    vectors: npt.NDArray[np.float32]
    """[tokens, dim]; zeros where there is none."""
    has_vector: npt.NDArray[np.bool_]
    """The gene has a protein vector."""
    group: npt.NDArray[np.int32]
    """Number of the gene's ortholog group; -1 for none."""
    position: npt.NDArray[np.int32]
    """Bin on its genome; -1 unknown."""
    biotype: npt.NDArray[np.int32]
    """Position in `BIOTYPES`."""
    buckets: npt.NDArray[np.int32]
    """Two buckets of the gene's id, [tokens, 2]."""
    groups: tuple[str, ...]
    """Names of the ortholog groups, by number."""

    def __len__(self) -> int:
        """Return the number of tokens."""
        return len(self.group)

    @property
    def digest(self) -> str:
        """Return the sha256 of all arrays and group names."""
        digest = hashlib.sha256(json.dumps([FORMAT, self.groups]).encode())
        for name in ARRAYS:
            array = np.ascontiguousarray(getattr(self, name))
            digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode() + array.tobytes())
        return digest.hexdigest()

    def save(self, folder: Path) -> None:
        """Write the table as plain .npy files, there whole or not at all; the folder must not exist."""
        with new_folder(folder) as part:
            for name in ARRAYS:
                np.save(part / f"{name}.npy", getattr(self, name), allow_pickle=False)
            about = {"format": FORMAT, "groups": list(self.groups), "sha256": self.digest}
            (part / "about.json").write_text(json.dumps(about), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> TokenTable:
        """Return a saved table, its vectors mapped.

        Raises
        ------
        CheckpointError
            When files are missing, do not fit together, or are not what was saved.
        """
        try:
            about = json.loads((folder / "about.json").read_text(encoding="utf-8"))
            arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False) for name in ARRAYS}
            table = cls(**arrays, groups=tuple(map(str, about["groups"])))
            sound = about["format"] == FORMAT and len({len(a) for a in arrays.values()}) == 1
        except (OSError, ValueError, LookupError, TypeError) as error:
            remedy = "take the folder that was saved whole"
            raise CheckpointError(str(folder), f"it is no table of gene tokens ({error})"[:200], remedy) from error
        if not sound or table.digest != about.get("sha256"):
            raise CheckpointError(str(folder), "its files are not those that were saved", "copy it again")
        return table


def make_token_table(
    vocabulary: Vocabulary, vectors: Mapping[str, ProteinVectors] | None = None, dim: int = 0
) -> TokenTable:
    """Return what the references at hand know of a vocabulary's genes.

    Parameters
    ----------
    vocabulary
        Its tokens.
    vectors
        Protein vectors by experiment name, all of one width; None for no protein vectors at all.
    dim
        Width of the vectors when there are none; 0 makes a table without.

    Raises
    ------
    ModelInputError
        When vectors have several widths.
    """
    from ontology import get_organism, load_gene_table, ortholog_groups  # noqa: PLC0415 - importing a model is light

    vectors = vectors or {}
    if len(widths := {each.vectors.shape[1] for each in vectors.values()} | ({dim} if dim else set())) > 1:
        raise ModelInputError("vectors", sorted(widths), "vectors of one width")
    total, found = vocabulary.n_genes, ortholog_groups()
    out = TokenTable(
        np.zeros((total, max(widths, default=0)), np.float32), np.zeros(total, bool), np.full(total, -1, np.int32),
        np.full(total, -1, np.int32), np.full(total, BIOTYPES.index("other"), np.int32),
        np.zeros((total, 2), np.int32), tuple(sorted(set(found["group"]))),
    )  # fmt: skip
    numbers = {name: number for number, name in enumerate(out.groups)}
    for experiment, ids in zip(vocabulary.organisms, vocabulary.genes, strict=True):
        organism, tokens = get_organism(experiment), vocabulary.organism_tokens(experiment)
        table = load_gene_table(organism)
        here, there = _matched(np.array(ids), table.ids)
        step = DENSE_STEP if organism.name in DENSE else STEP
        out.position[tokens[here]] = position_bins(table.contigs, table.starts, step)[there]
        out.biotype[tokens[here]] = biotype_codes(table.biotypes)[there]
        out.buckets[tokens] = [_hash(gene) for gene in ids]
        mine = found[found["organism"] == organism.name]
        here, there = _matched(np.array(ids), mine["gene"].to_numpy(dtype=str))
        out.group[tokens[here]] = [numbers[name] for name in mine["group"].to_numpy()[there]]
        if experiment in vectors:
            here, there = _matched(np.array(ids), vectors[experiment].genes)
            out.vectors[tokens[here]] = vectors[experiment].vectors[there]
            out.has_vector[tokens[here]] = True
    return out


def _matched(ids: npt.NDArray[np.str_], among: npt.NDArray[np.str_]) -> tuple[npt.NDArray, npt.NDArray]:
    """Return the places of the ids that are found, and where."""
    _, here, there = np.intersect1d(ids, among, return_indices=True)
    return here, there


def biotype_codes(biotypes: npt.NDArray[np.str_]) -> npt.NDArray[np.int32]:
    """Return the position in `BIOTYPES` of Ensembl's biotypes.

    Examples
    --------
    >>> biotype_codes(np.array(["protein_coding", "IG_V_gene", "processed_pseudogene", "miRNA", "TEC"])).tolist()
    [0, 0, 2, 3, 4]
    """
    known: dict[str, int] = {}
    for name in np.unique(biotypes).tolist():
        if "pseudogene" in name:
            kind = "pseudogene"
        elif name == "protein_coding" or name.startswith(("IG_", "TR_")):
            kind = "protein_coding"
        elif name in SMALL:
            kind = "small RNA"
        else:
            kind = "lncRNA" if name in ("lncRNA", "lincRNA", "antisense", "ncRNA") else "other"
        known[name] = BIOTYPES.index(kind)
    return np.array([known[name] for name in biotypes.tolist()], dtype=np.int32)


def _hash(gene: str) -> tuple[int, int]:
    """Return two buckets of a gene id, the same on every machine."""
    digest = hashlib.blake2b(gene.encode(), digest_size=8).digest()
    return tuple(int.from_bytes(digest[i : i + 4], "little") % BUCKETS for i in (0, 4))  # type: ignore[return-value]
