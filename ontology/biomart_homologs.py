"""Homologs from BioMart: `fetch_orthologs("sheep")` keeps the pairs with human as a snapshot for orthologs.py.

The organism's own dataset is asked for homologs of one other species, so the limit of six species a query is never
near. Ensembl compares vertebrates, fly and worm with human; plants are compared with plants only.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pandas as pd

from .biomart import BioMart, dataset_name
from .biomart_genes import LICENCE
from .biomart_pages import GENE, PagedDataset
from .errors import OntologyInputError, ReferenceMismatchError, ReferenceMissingError
from .organisms import get_organism, list_organisms
from .snapshots import save_table

if TYPE_CHECKING:
    from .organisms import Organism
    from .snapshots import Snapshot

log = logging.getLogger(__name__)

TYPES = {f"ortholog_{kind}": kind for kind in ("one2one", "one2many", "many2many")}


def fetch_orthologs(
    organism: str | int | Organism,
    client: BioMart | None = None,
    to: str | int | Organism = "human",
    host: str | None = None,
    release: int | None = None,
) -> Snapshot:
    """Fetch an organism's orthologs in another and keep them as a snapshot.

    Parameters
    ----------
    organism, to
        The two organisms; the dataset of the first is asked.
    client
        Another client than the pinned archive of the division that compares the two.
    host, release
        As in `BioMart`; not looked at with `client`.

    Returns
    -------
    Snapshot
        `orthologs/<organism>` with columns gene, human_gene, type (one2one, one2many, many2many, or empty), confidence
        (1.0 high, 0.0 low, NaN unknown) and support. For another `to` it is `orthologs/<organism>-<to>`, and
        the second column is other_gene.

    Raises
    ------
    OntologyInputError
        When both are one organism, or the client is of another division than compares the two.
    ReferenceMissingError
        When Ensembl does not compare the two; the message says whom it does compare.
    SourceUnavailableError, ReferenceMismatchError
        As `fetch_genes`.
    """
    one, other = get_organism(organism), get_organism(to)
    if one.name == other.name:
        raise OntologyInputError("to", other.name, f"another organism than {one.name}")
    if lost := [each.name for each in (one, other) if not each.dataset]:
        raise _not_compared(one, other, f"the row of {lost[0]} names no BioMart dataset")
    if "plants" in (one.division, other.division) and one.division != other.division:
        raise _not_compared(one, other, f"Ensembl compares plants with plants only: {_plants(one)}")
    both_metazoa = one.division == other.division == "metazoa"
    division = one.division if both_metazoa or one.division == "plants" else "vertebrates"
    client = client or BioMart(host, division, release)
    if client.division != division:
        raise OntologyInputError("client", repr(client), f"a client of the {division} mart, which compares the two")
    dataset, species = dataset_name(one, client.division), _species(dataset_name(other, client.division))
    gene = f"{species}_homolog_ensembl_gene"
    if not client.has_attribute(dataset, gene):
        raise _not_compared(one, other, f"{dataset} of {client} ({client.release}) has no attribute {gene}")
    name = one.name if other.name == "human" else f"{one.name}-{other.name}"
    paged = PagedDataset(client, dataset, f"orthologs-{name}")
    column = "human_gene" if other.name == "human" else "other_gene"
    frame = _pairs(paged, species).rename(columns={"homolog": column})
    source = f"{client.host} {dataset} ({species} homologs)"
    snapshot = save_table("orthologs", name, frame, {"source": source, "release": client.release, "licence": LICENCE})
    paged.drop_pages()
    return snapshot


def _pairs(paged: PagedDataset, species: str) -> pd.DataFrame:
    """Return one row per pair, ascending; genes without a homolog are asked for too, which proves no page is short."""
    gene, kind, sure = (
        f"{species}_homolog_{end}" for end in ("ensembl_gene", "orthology_type", "orthology_confidence")
    )
    asked = [gene, kind, *([sure] if paged.has(sure) else [])]
    rows = paged.columns(paged.index(), asked).reindex(columns=[GENE, gene, kind, sure], fill_value="")
    rows = rows.loc[rows[gene] != ""]
    what = paged.what(f"{gene}, {kind}")
    if rows.empty:
        raise ReferenceMismatchError(what, "homologs", "none at all; pin another release, or import a file")
    twice = rows.duplicated([GENE, gene])
    if twice.any():
        pair = rows.loc[twice, [GENE, gene]].iloc[0].tolist()
        raise ReferenceMismatchError(what, "one row per pair", f"two for {pair[0]} and {pair[1]}; fetch it again")
    odd = sorted(set(rows[kind]) - set(TYPES) - {""})
    if odd:
        log.warning("%s: types %s are kept without a type", what, ", ".join(odd))
    if strange := sorted(set(rows[sure]) - {"0", "1", ""}):
        raise ReferenceMismatchError(paged.what(sure), "0 or 1", f"{strange[0]!r}; import a file")
    return pd.DataFrame(
        {
            "gene": rows[GENE],
            "homolog": rows[gene],
            "type": rows[kind].map(TYPES).fillna(""),
            "confidence": rows[sure].map({"0": 0.0, "1": 1.0}).astype("float64"),
            "support": "Ensembl",
        }
    ).reset_index(drop=True)


def _species(dataset: str) -> str:
    """Return how homolog attributes spell a species: `hsapiens`, `athaliana_eg`."""
    return dataset.removesuffix("_ensembl").removesuffix("_gene")


def _plants(one: Organism) -> str:
    names = [o.name for o in list_organisms() if o.division == "plants" and o.name != one.name]
    return " or ".join(f"to={name!r}" for name in names) if one.division == "plants" else ", ".join(names)


def _not_compared(one: Organism, other: Organism, why: str) -> ReferenceMissingError:
    remedy = f"not available: {why}; import pairs: panatlas references import orthologs {one.name} FILE"
    return ReferenceMissingError(f"table of orthologs to {other.name}", one.name, remedy)
