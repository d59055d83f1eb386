"""From network to structure: the strongest pairs as jobs for complex predictors, and their scores as a layer.

A pair of genes is a pair of proteins, one per gene as `ontology.read_proteins` chooses them. Written are a FASTA file
per pair (AlphaFold-Multimer), one table for all (ColabFold), a YAML file per pair (Boltz) and a manifest with digests,
by whose names the results are found again. Nothing is run here: predictors want a GPU and databases of their own.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import secrets
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from .errors import ModelInputError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from .gene_network import GeneNetwork

MANIFEST = "manifest.json"
SCORES = ("iptm", "iptm_ptm")
"""Layers that scores become: ipTM, and 0.8 ipTM + 0.2 pTM, by which AlphaFold-Multimer ranks."""
MOST_RESULTS = 1_000_000
"""Files of a folder of results that are looked at."""
MOST_BYTES = 1 << 28
"""Of one result; ColabFold's hold an error for each pair of residues."""
_AMBIGUOUS = re.compile("[^ACDEFGHIKLMNPQRSTVWY]")


@dataclass(frozen=True, eq=False)
class StructureJobs:
    """What was asked of the predictors."""

    folder: Path
    """Where the files are."""
    pairs: pd.DataFrame
    """job, gene_a, gene_b, protein_a, protein_b, residues, weight; strongest first."""
    skipped: Mapping[str, int]
    """Stronger pairs that were passed over: `no_protein`, `too_long`."""


def write_structure_jobs(
    network: GeneNetwork, proteins: pd.DataFrame, folder: Path, *, top: int = 50, most_residues: int = 2_500
) -> StructureJobs:
    """Write the strongest pairs of a network as jobs.

    Parameters
    ----------
    network
        A pair's weight is the larger absolute one of its two directions.
    proteins
        One per gene: columns gene, protein, sequence, as `ontology.read_proteins(...).frame` has them.
    folder
        To be made; it is there whole or not at all.
    top
        Pairs.
    most_residues
        Of both proteins of a pair; memory of a predictor grows with its square.

    Returns
    -------
    StructureJobs
        Letters that are none of the twenty amino acids are written as X.

    Raises
    ------
    ModelInputError
        When the folder is there, or no pair has two proteins.
    """
    if top < 1:
        raise ModelInputError("top", top, "1 or more")
    if folder.exists():
        raise ModelInputError("folder", str(folder), "a folder that does not exist yet")
    pairs, skipped = _choose(network, proteins, top, most_residues)
    if not len(pairs):
        said = f"{skipped['no_protein']} pairs without two proteins, {skipped['too_long']} too long"
        raise ModelInputError("proteins", said, f"proteins of the network's genes, such as {network.genes[0]}")
    chosen = proteins.set_index("gene")["sequence"]
    letters = {gene: _AMBIGUOUS.sub("X", chosen[gene]) for gene in {*pairs["gene_a"], *pairs["gene_b"]}}
    part = folder.with_name(f".part-{secrets.token_hex(4)}-{folder.name}"[:200])
    try:
        part.mkdir(parents=True)
        files: dict[str, str] = {}
        rows = list(pairs.itertuples(index=False))
        for row in rows:
            both = letters[row.gene_a], letters[row.gene_b]
            files |= _write(part, f"fasta/{row.job}.fasta", _fasta(row, both))
            files |= _write(part, f"boltz/{row.job}.yaml", _boltz(both))
        table = "".join(f"{row.job},{letters[row.gene_a]}:{letters[row.gene_b]}\n" for row in rows)
        files |= _write(part, "colabfold.csv", f"id,sequence\n{table}")
        about = {
            "format": 1, "organism": network.organism, "readout": network.readout, "population": network.population,
            "network_sha256": network.digest, "skipped": skipped, "most_residues": most_residues,
            "jobs": pairs.to_dict("records"), "sequences": {gene: _sha256(letters[gene]) for gene in sorted(letters)},
            "files": files,
        }  # fmt: skip
        _write(part, MANIFEST, json.dumps(about, indent=2) + "\n")
        part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return StructureJobs(folder, pairs, skipped)


def read_structure_scores(jobs: Path, results: Path) -> pd.DataFrame:
    """Return what predictors said of the jobs of a folder.

    Parameters
    ----------
    jobs
        Folder that `write_structure_jobs` made.
    results
        Folder with what the predictors wrote, at any depth: Boltz' `confidence_JOB_model_0.json`, ColabFold's
        `JOB_scores_rank_001_*.json`, AlphaFold-Multimer's `JOB/ranking_debug.json`. Links are not followed.

    Returns
    -------
    A row per result: job, gene_a, gene_b, tool, `iptm`, `iptm_ptm` (NaN where a tool does not write it); in the order
    of the jobs. AlphaFold-Multimer keeps ipTM itself in pickles, which are never opened.

    Raises
    ------
    ModelInputError
        When the manifest or a result is damaged, or a score is none from 0 to 1.

    Notes
    -----
    Evans et al., Protein complex prediction with AlphaFold-Multimer, 2021, doi:10.1101/2021.10.04.463034.
    """
    about = _json(jobs / MANIFEST)
    try:
        asked = {str(job["job"]): (str(job["gene_a"]), str(job["gene_b"])) for job in about["jobs"]}
    except (KeyError, TypeError) as error:
        raise ModelInputError("jobs", str(jobs), f"a folder that `grn-structure` wrote ({error})") from error
    rows = [
        (job, *asked[job], tool, *_scores_of(path, tool)) for job, tool, path in _results_in(results) if job in asked
    ]
    table = pd.DataFrame(rows, columns=["job", "gene_a", "gene_b", "tool", *SCORES])
    table = table.astype(dict.fromkeys(SCORES, np.float64))
    order = {job: number for number, job in enumerate(asked)}
    return table.sort_values(["job", "tool"], key=lambda column: column.map(order) if column.name == "job" else column,
                             kind="stable", ignore_index=True)  # fmt: skip


def with_structure_scores(network: GeneNetwork, scores: pd.DataFrame) -> GeneNetwork:
    """Return the network with the layers `iptm` and `iptm_ptm`, as far as any result has them.

    Both edges of a pair get its score, the best one where several tools or runs told one; all others are NaN.
    """
    place = {gene: number for number, gene in enumerate(network.genes)}
    rows = np.repeat(np.arange(len(network.genes)), np.diff(network.weights.indptr))
    columns = network.weights.indices
    for layer in SCORES:
        known = scores[scores[layer].notna()]
        best: dict[tuple[int, int], float] = {}
        for row in known.itertuples(index=False):
            if row.gene_a in place and row.gene_b in place:
                pair = (place[row.gene_a], place[row.gene_b])
                for one in (pair, pair[::-1]):
                    best[one] = max(best.get(one, 0.0), float(getattr(row, layer)))
        if best:
            values = [best.get(pair, math.nan) for pair in zip(rows.tolist(), columns.tolist(), strict=True)]
            network = network.with_layer(layer, np.array(values, dtype=np.float32))
    return network


def _choose(
    network: GeneNetwork, proteins: pd.DataFrame, top: int, most_residues: int
) -> tuple[pd.DataFrame, dict[str, int]]:
    known = proteins.drop_duplicates("gene").set_index("gene")
    lengths = known["sequence"].str.len()
    edges = network.edges()
    rows: list[dict[str, Any]] = []
    skipped = {"no_protein": 0, "too_long": 0}
    met: set[tuple[str, str]] = set()
    for one, other, weight in zip(edges["regulator"], edges["target"], edges["weight"], strict=True):
        gene_a, gene_b = sorted((one, other))
        if len(rows) == top:
            break
        if (gene_a, gene_b) in met:
            continue
        met.add((gene_a, gene_b))
        if gene_a not in known.index or gene_b not in known.index:
            skipped["no_protein"] += 1
            continue
        residues = int(lengths[gene_a] + lengths[gene_b])
        if residues > most_residues:
            skipped["too_long"] += 1
            continue
        job = f"{len(rows) + 1:04d}_{_tame(gene_a)}_{_tame(gene_b)}"
        rows.append({
            "job": job, "gene_a": gene_a, "gene_b": gene_b, "protein_a": str(known.at[gene_a, "protein"]),
            "protein_b": str(known.at[gene_b, "protein"]), "residues": residues, "weight": float(weight),
        })  # fmt: skip
    return pd.DataFrame(rows), skipped


def _fasta(row: Any, sequences: tuple[str, str]) -> str:
    named = zip((row.gene_a, row.gene_b), (row.protein_a, row.protein_b), sequences, strict=True)
    return "".join(f">{_tame(gene)} {_tame(protein)}\n{letters}\n" for gene, protein, letters in named)


def _boltz(sequences: tuple[str, str]) -> str:
    chains = "".join(
        f"  - protein:\n      id: {chain}\n      sequence: {letters}\n"
        for chain, letters in zip("AB", sequences, strict=True)
    )
    return f"version: 1\nsequences:\n{chains}"


def _write(folder: Path, name: str, text: str) -> dict[str, str]:
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text(text, encoding="utf-8")
    return {name: _sha256(text)}


def _results_in(folder: Path) -> Iterator[tuple[str, str, Path]]:
    """Yield job, tool and file of everything that looks like a result."""
    if not folder.is_dir():
        raise ModelInputError("results", str(folder), "a folder with what a predictor wrote")
    seen = 0
    for place, below, names in os.walk(folder):
        below.sort()
        for name in sorted(names):
            seen += 1
            if seen > MOST_RESULTS:
                raise ModelInputError("results", str(folder), f"a folder of at most {MOST_RESULTS:,} files")
            path = Path(place) / name
            if found := re.fullmatch(r"confidence_(.+)_model_0\.json", name):
                yield found[1], "boltz", path
            elif found := re.fullmatch(r"(.+)_scores_rank_0*1_.*\.json", name):
                yield found[1], "colabfold", path
            elif name == "ranking_debug.json":
                yield path.parent.name, "alphafold-multimer", path


def _scores_of(path: Path, tool: str) -> tuple[float, float]:
    said = _json(path)
    try:
        if tool == "alphafold-multimer":
            return math.nan, _share(max(said["iptm+ptm"].values()))
        iptm = _share(said["iptm"])
        return iptm, 0.8 * iptm + 0.2 * _share(said["ptm"]) if "ptm" in said else math.nan
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ModelInputError("results", str(path), f"scores of a complex by {tool} ({error})"[:200]) from error


def _share(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise ValueError(f"{value!r} is no score from 0 to 1")
    return float(value)


def _json(path: Path) -> Any:
    if path.is_symlink() or not path.is_file() or path.stat().st_size > MOST_BYTES:
        raise ModelInputError("path", str(path), f"a file of at most {MOST_BYTES >> 20} MiB, and no link")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelInputError("path", str(path), f"a JSON file ({error})"[:200]) from error


def _tame(name: str) -> str:
    """Return a name as a part of a file's name; ids of genes stay as they are."""
    return re.sub(r"[^A-Za-z0-9.-]", "-", name)[:60] or "-"


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
