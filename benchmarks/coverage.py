"""What is there for each organism: genes, positions, mito/ribo lists, ortholog links, proteins, label ontologies.

Counted by `ontology.coverage_releases` in a home of its own, which shares only the cache of pinned references. Where a
folder `shared` lies beside the checkout its tables are imported first, as a user would: gene positions of 13 organisms,
orthologs of 9, proteins, and the Plant Ontology. Every number comes with source and release. Run as a script with
`--import`, it takes those tables into `PANATLAS_HOME` for good, and `panatlas organisms` counts them.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from pathlib import Path
from typing import Any

SEED = 0  # nothing is drawn
READS = (
    "bio/genes.parquet",
    "bio/orthologs_hcop_babelgene.parquet",
    "bio/proteins_linked_1022aa.parquet",
    "bio/obo_real/po.obo.gz",
)
SHARED = Path(__file__).resolve().parents[2] / "shared"
GENES = {
    "id": "gene_id", "symbol": "symbol", "biotype": "biotype", "length": "exonic_length", "contig": "chromosome",
    "start": "start", "end": "end", "strand": "strand",
}  # fmt: skip
RELEASES = {
    "annotables-E114": "Ensembl 114 (annotables)",
    "ideogram-E102": "Ensembl 102 (ideogram 1.53.0)",
    "MCScanX-TAIR": "TAIR10 (MCScanX)",
    "MCScanX-RAPDB": "RAP-DB (MCScanX)",
}
"""Releases of the gene table by its column `source`; its other sources carry no positions."""


def import_shared() -> None:
    """Import every table of the shared folder that applies, as a user would his own."""
    import pandas as pd

    from ontology import list_organisms
    from ontology.imports import import_table

    bio = SHARED / "bio"
    sources = pd.read_parquet(bio / "genes.parquet", columns=["taxon_id", "source", "start"]).dropna()
    pairs = set(pd.read_parquet(bio / "orthologs_hcop_babelgene.parquet", columns=["taxon_id"])["taxon_id"])
    by_taxon = sources.drop_duplicates(["taxon_id", "source"]).set_index("taxon_id")["source"].astype(str).to_dict()
    for organism in list_organisms():
        where = {"taxon_id": organism.taxon}
        if organism.taxon in by_taxon:
            about = {"release": RELEASES[by_taxon[organism.taxon]]}
            import_table("genes", organism, bio / "genes.parquet", GENES, about, where)
        if organism.taxon in pairs and organism.name != "mouse":  # whose pinned table is Ensembl's own
            columns = {"gene": "ensembl", "human_gene": "human_ensembl", "support": "support"}
            about = {"release": "HCOP (babelgene 22.9)", "licence": "MIT"}
            import_table("orthologs", organism, bio / "orthologs_hcop_babelgene.parquet", columns, about, where)
    import_proteins_and_terms(bio)


def import_proteins_and_terms(bio: Path) -> None:
    """Import the proteins of every organism that the shared table has any of, and the Plant Ontology."""
    import pandas as pd

    from ontology import list_organisms
    from ontology.ontology_files import import_ontology
    from ontology.proteins import import_proteins

    path = bio / "proteins_linked_1022aa.parquet"
    have = set(pd.read_parquet(path, columns=["taxon_id"])["taxon_id"])
    about = {"release": "Swiss-Prot 2014-01, at most 1,022 residues", "licence": "CC-BY 4.0"}
    columns = {"gene": "gene_id", "protein": "uniprot", "sequence": "sequence"}
    for organism in list_organisms():
        if organism.taxon in have:
            where = {"taxon_id": organism.taxon}
            import_proteins(organism, path, about, columns=columns, where=where)
    import_ontology(bio / "obo_real" / "po.obo.gz", "PO")


COUNTS = {
    "genes": "genes", "with_position": "positions", "mito_genes": "mito", "ribo_genes": "ribo",
    "orthologs_to_human": "orthologs", "proteins": "proteins",
}  # fmt: skip
"""What is counted, and what it is called among the releases."""


def widen(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return one row per organism: its counts, where each is from, and what serves its labels."""
    wide: dict[str, dict[str, Any]] = {}
    for row in rows:
        out = wide.setdefault(
            row["organism"], {"what": row["organism"], "taxon": row["taxon"], "from": "", "labels": ""}
        )
        if row["what"] in COUNTS:
            out[row["what"]] = row["value"]
            if isinstance(row["value"], int):
                release = row["release"].partition("; ")[0] or "itself"
                out["from"] += f"{COUNTS[row['what']]}: {release} in {row['source']}. "
        else:
            out["labels"] += f"{row['what'].removeprefix('label ')}: {row['value']}. "
    return [row | {"from": row["from"].strip(), "labels": row["labels"].strip()} for row in wide.values()]


def main(*, quick: bool = False) -> list[dict[str, Any]]:
    """Return one row per organism; `quick` imports nothing and counts two of them."""
    from ontology import cache_dir
    from ontology.coverage_table import coverage_releases

    cache, former = cache_dir(), os.environ.get("PANATLAS_HOME")
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as tmp:
        (Path(tmp) / "cache").symlink_to(cache.resolve(), target_is_directory=True)
        os.environ["PANATLAS_HOME"] = tmp
        try:
            if SHARED.is_dir() and not quick:
                import_shared()
            return widen(coverage_releases(["human", "sheep"] if quick else None))
        finally:
            os.environ.pop("PANATLAS_HOME") if former is None else os.environ.update(PANATLAS_HOME=former)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="two organisms, nothing imported")
    parser.add_argument("--import", action="store_true", dest="take", help="take the shared tables into your own home")
    asked = parser.parse_args()
    if asked.take:
        import_shared()
    else:
        print(json.dumps(main(quick=asked.quick), indent=1))
