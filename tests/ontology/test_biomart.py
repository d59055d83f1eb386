"""The BioMart client: registry, listings and queries over real sockets; every fault is a clear error, and in time.

Payloads are hand-made (tests/biomart_server.py) unless a test says recorded.
"""

from __future__ import annotations

import gzip
import json
import time
from typing import TYPE_CHECKING

import pytest

from ontology import OntologyInputError, ReferenceMismatchError, ReferenceMissingError, SourceUnavailableError
from ontology.biomart import BioMart, dataset_name
from ontology.biomart_http import Limits, _same_house
from ontology.organisms import get_organism
from tests.biomart_server import MartServer, Table, biomart_serving, hand_made

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SHEEP = "oarambouillet_gene_ensembl"
QUICK = Limits(connect=1, idle=0.5, total=1, tries=3, pause=0.01, max_bytes=4 << 20)


@pytest.fixture
def server() -> Iterator[MartServer]:
    with biomart_serving({SHEEP: hand_made("ENSOARG{:011d}", "hsapiens", "Human")}) as running:
        yield running


def names(client: BioMart) -> list[tuple[str, ...]]:
    return client.query(SHEEP, ("ensembl_gene_id", "external_gene_name"), {"chromosome_name": "1"})


WANTED = [
    ("ENSOARG00000000003", ""),
    ("ENSOARG00000000002", "NAME2"),
    ("ENSOARG00000000001", "NAME1"),
]


def test_a_query_is_posted_with_filter_header_and_stamp(server: MartServer) -> None:
    client = BioMart(server.host, limits=QUICK)
    assert names(client) == WANTED
    (query,) = server.queries()
    assert query.get("completionStamp") == "1"
    assert query.get("header") == "1"
    assert [(f.get("name"), f.get("value")) for f in query.iter("Filter")] == [("chromosome_name", "1")]
    assert client.release == "Ensembl Genes 114"
    assert client.count(SHEEP) == 9


def test_listings_are_asked_once_and_one_mart_only(server: MartServer) -> None:
    client = BioMart(server.host, limits=QUICK)
    names(client)
    names(client)
    kinds = [p["type"] for p in server.seen if "type" in p]
    assert sorted(kinds) == ["attributes", "configuration", "datasets", "registry"]


def test_the_virtual_schema_comes_from_the_registry() -> None:
    maize = {"zmays_eg_gene": hand_made("Zm00001eb{:06d}", "athaliana_eg", "Arabidopsis thaliana")}
    with biomart_serving(maize, ("plants_mart", "Ensembl Plants Genes 61", "plants_mart")) as server:
        rows = BioMart(server.host, "plants", limits=QUICK).query("zmays_eg_gene", ("ensembl_gene_id",))
        assert len(rows) == 9
        assert server.queries()[0].get("virtualSchemaName") == "plants_mart"
        assert {p.get("virtualSchema") for p in server.seen if "dataset" in p} == {"plants_mart"}


def web_page(_: bytes) -> bytes:
    return b"<!DOCTYPE html>\n<html><body>Ensembl is down for maintenance</body></html>"


PASSING = {
    "status 500": 500,
    "status 503": 503,
    "web page": web_page,
    "dropped": "drop",
    "hangs": "hang",
    "drips": "drip",
    "cut mid-line": lambda sound: sound[:-25],
    "cut at a line": lambda sound: sound.removesuffix(b"[success]\n"),
    "half a gzip": "chop",
    "empty": lambda sound: b"",
    "database away": lambda sound: b"Query ERROR: caught BioMart::Exception::Database: Error during query execution\n",
}


@pytest.mark.parametrize("fault", PASSING.values(), ids=PASSING)
def test_a_passing_fault_is_tried_again(server: MartServer, fault: object) -> None:
    server.faults = [fault]
    assert names(BioMart(server.host, limits=QUICK)) == WANTED
    assert len(server.queries()) == 2


@pytest.mark.parametrize("fault", PASSING.values(), ids=PASSING)
def test_a_fault_that_stays_is_named_in_bounded_tries_and_time(server: MartServer, fault: object) -> None:
    server.faults = [fault] * 9
    client = BioMart(server.host, limits=Limits(connect=1, idle=0.3, total=0.6, tries=2, pause=0.01))
    start = time.monotonic()
    with pytest.raises(SourceUnavailableError, match=f"external_gene_name of {SHEEP} from BioMart.*--host"):
        names(client)
    assert time.monotonic() - start < 3
    assert len(server.queries()) == 2


LASTING = {
    "usage": (
        lambda _: b"Query ERROR: caught BioMart::Exception::Usage: Attribute x NOT FOUND\n",
        "Usage: Attribute x",
    ),
    "error after rows": (lambda sound: sound[:40] + b"\nQuery ERROR: caught BioMart::Exception: gone\n", "gone"),
    "bomb": ("bomb", "more than 4194304 bytes"),
    "latin-1": (lambda sound: sound.replace(b"NAME", b"N\xe4ME"), "not UTF-8"),
    "elsewhere": ("http://198.51.100.1/x", "198.51.100.1, another house"),
    "file": ("file:///etc/passwd", "another house"),
    "forbidden": (403, "status 403"),
}


@pytest.mark.parametrize(("fault", "words"), LASTING.values(), ids=LASTING)
def test_a_lasting_fault_is_not_tried_again(server: MartServer, fault: object, words: str) -> None:
    server.faults = [fault]
    with pytest.raises(SourceUnavailableError, match=words):
        names(BioMart(server.host, limits=QUICK))
    assert len(server.queries()) == 1


def test_a_redirect_repeats_the_post_and_a_loop_ends(server: MartServer) -> None:
    here = f"{server.host}/biomart/martservice?redirect=no"
    server.faults = [here, here]
    assert names(BioMart(server.host, limits=QUICK)) == WANTED
    assert all("query" in p for p in server.seen[-3:])
    server.faults = [here] * 99
    with pytest.raises(SourceUnavailableError, match="more than 5 redirects"):
        names(BioMart(server.host, limits=QUICK))


@pytest.mark.parametrize(
    ("former", "target", "stays"),
    [
        ("https://www.ensembl.org/a", "https://may2025.archive.ensembl.org/a", True),
        ("http://www.ensembl.org/a", "https://www.ensembl.org/a", True),
        ("https://www.ensembl.org/a", "http://www.ensembl.org/a", False),
        ("https://www.ensembl.org/a", "https://ensembl.org.example.com/a", False),
        ("http://10.0.0.1/a", "http://127.0.0.1/a", False),
        ("http://localhost/a", "http://127.0.0.1/a", False),
    ],
)
def test_redirects_stay_with_their_makers(former: str, target: str, stays: bool) -> None:
    assert _same_house(former, target) is stays


def test_columns_in_another_order_are_put_in_order(server: MartServer) -> None:
    def swapped(sound: bytes) -> bytes:
        lines = sound.decode().split("\n")
        return "\n".join("\t".join(reversed(line.split("\t"))) for line in lines).encode()

    server.faults = [swapped]
    assert names(BioMart(server.host, limits=QUICK)) == WANTED


def test_repeated_rows_come_once_and_windows_line_ends_are_read(server: MartServer) -> None:
    def doubled(sound: bytes) -> bytes:
        head, *rows = sound.decode().removesuffix("[success]\n").splitlines()
        return ("\r\n".join([head, *rows, *rows, "[success]"]) + "\r\n").encode()

    server.faults = [doubled]
    assert names(BioMart(server.host, limits=QUICK)) == WANTED


CHANGED = {
    "renamed": (lambda s: s.replace(b"Gene name", b"Gene symbol"), r"not there: external_gene_name \(Gene name\)"),
    "missing": (lambda s: b"".join(line.split(b"\t")[0] + b"\n" for line in s.splitlines()), "external_gene_name"),
    "added": (lambda s: s.replace(b"Gene name\n", b"Gene name\tNew\n"), "New"),
    "twice": (lambda s: s.replace(b"Gene stable ID\tGene name", b"Gene name\tGene name"), "ensembl_gene_id"),
    "narrow row": (lambda s: s.replace(b"\tNAME2", b""), "1 in line 3"),
    "wide row": (lambda s: s.replace(b"\tNAME2", b"\tNAME2\tNAME2"), "3 in line 3"),
}


@pytest.mark.parametrize(("change", "words"), CHANGED.values(), ids=CHANGED)
def test_changed_columns_are_refused_by_name(server: MartServer, change: object, words: str) -> None:
    server.faults = [change]
    with pytest.raises(ReferenceMismatchError, match=words) as raised:
        names(BioMart(server.host, limits=QUICK))
    assert SHEEP in str(raised.value)


BAD_LISTINGS = {
    "registry page": ("registry", web_page, "web page"),
    "registry bomb": (
        "registry",
        lambda _: b'<!DOCTYPE r [<!ENTITY a "b">]><MartRegistry>&a;</MartRegistry>',
        "entities",
    ),
    "registry half": ("registry", lambda s: s[:60], "no whole XML"),
    "registry other": ("registry", lambda _: b"<Other/>", "root is <Other>"),
    "registry bare": ("registry", lambda _: b"<MartRegistry><MartURLLocation name='x'/></MartRegistry>", "lack a name"),
    "datasets half": ("datasets", lambda s: s[:40], "cut short"),
    "datasets problem": (
        "datasets",
        lambda _: b"Problem retrieving datasets for mart X, check\n",
        "Problem retrieving",
    ),
    "attributes half": ("attributes", lambda s: s[:-20], "cut short"),
    "attributes page": ("attributes", web_page, "web page"),
    "configuration half": ("configuration", lambda s: s[:-20], "no whole XML"),
}


@pytest.mark.parametrize(("kind", "fault", "words"), BAD_LISTINGS.values(), ids=BAD_LISTINGS)
def test_a_bad_listing_never_reaches_the_package(server: MartServer, kind: str, fault: object, words: str) -> None:
    server.faults, server.fault_on = [fault] * 9, {kind}
    with pytest.raises(SourceUnavailableError, match=words):
        names(BioMart(server.host, limits=QUICK))


def test_a_count_is_a_number(server: MartServer) -> None:
    server.faults, server.fault_on = [lambda _: b"nine\n"], {"count"}
    with pytest.raises(SourceUnavailableError, match="'nine' where a count"):
        BioMart(server.host, limits=QUICK).count(SHEEP)


def test_nobody_there() -> None:
    with biomart_serving({}) as server:
        host = server.host
    with pytest.raises(SourceUnavailableError, match="refused"):
        BioMart(host, limits=Limits(connect=1, tries=2, pause=0)).count(SHEEP)


def test_attributes_must_share_a_page_and_exist(server: MartServer) -> None:
    client = BioMart(server.host, limits=QUICK)
    with pytest.raises(OntologyInputError, match="one page"):
        client.query(SHEEP, ("gene_biotype", "hsapiens_homolog_ensembl_gene"))
    with pytest.raises(ReferenceMismatchError, match="attributes hgnc_symbol"):
        client.query(SHEEP, ("ensembl_gene_id", "hgnc_symbol"))
    with pytest.raises(ReferenceMissingError, match="nowhere_gene_ensembl"):
        client.query("nowhere_gene_ensembl", ("ensembl_gene_id",))


def test_the_release_is_pinned(server: MartServer) -> None:
    with pytest.raises(ReferenceMismatchError, match=r"release 113.*'Ensembl Genes 114'"):
        _ = BioMart(server.host, release=113, limits=QUICK).release
    assert BioMart(server.host, release=114, limits=QUICK).release == "Ensembl Genes 114"
    with pytest.raises(SourceUnavailableError, match="it has the marts ENSEMBL_MART_ENSEMBL"):
        _ = BioMart(server.host, "plants", limits=QUICK).release


@pytest.mark.parametrize(
    ("division", "release", "host"),
    [
        ("vertebrates", None, "https://may2025.archive.ensembl.org"),
        ("vertebrates", 111, "https://jan2024.archive.ensembl.org"),
        ("plants", None, "https://eg61-plants.ensembl.org"),
        ("metazoa", 58, "https://eg58-metazoa.ensembl.org"),
    ],
)
def test_archives_hold_the_releases(division: str, release: int | None, host: str) -> None:
    assert BioMart(division=division, release=release).host == host


@pytest.mark.parametrize(
    ("given", "host"),
    [
        ("www.ensembl.org", "https://www.ensembl.org"),
        ("http://localhost:8000/biomart/martservice", "http://localhost:8000"),
        ("https://plants.ensembl.org/", "https://plants.ensembl.org"),
    ],
)
def test_hosts_may_be_spelled_as_people_do(given: str, host: str) -> None:
    assert BioMart(given).host == host


@pytest.mark.parametrize("host", ["ftp://x.org", "https://", "https://me:secret@x.org", "file:///etc"])
def test_odd_hosts_are_refused(host: str) -> None:
    with pytest.raises(OntologyInputError, match="a server such as"):
        BioMart(host)


def test_bad_calls() -> None:
    with pytest.raises(OntologyInputError, match="vertebrates, plants, metazoa"):
        BioMart(division="fungi")
    with pytest.raises(OntologyInputError, match="release=54"):
        BioMart(release=54)
    with pytest.raises(OntologyInputError, match="tries"):
        Limits(tries=0)
    with pytest.raises(OntologyInputError, match="pause"):
        Limits(pause=-1)


def test_dataset_names() -> None:
    assert dataset_name(get_organism("worm"), "vertebrates") == "celegans_gene_ensembl"
    assert dataset_name(get_organism("worm"), "metazoa") == "celegans_eg_gene"
    assert dataset_name(get_organism("sheep"), "vertebrates") == SHEEP


# Recorded payloads of Ensembl 111 and 84.


def recorded(shared: Path, name: str) -> str:
    return gzip.decompress((shared / "bio" / "biomart_fixtures" / name).read_bytes()).decode()


@pytest.fixture
def ensembl(shared: Path) -> Iterator[MartServer]:
    listings = {
        "attributes": recorded(shared, "e111_attributes_hsapiens.tsv.gz"),
        "filters": recorded(shared, "e111_filters_hsapiens.tsv.gz"),
        "configuration": recorded(shared, "e84_configuration_mmusculus.xml.gz"),
    }
    whole = {
        "registry": recorded(shared, "e111_registry.xml.gz"),
        "datasets": recorded(shared, "e111_datasets_ENSEMBL_MART_ENSEMBL.tsv.gz"),
    }
    human = Table("", {}, [], listings=listings)
    with biomart_serving({"hsapiens_gene_ensembl": human}, ("", "", "default"), whole) as server:
        yield server


@pytest.mark.shared
def test_recorded_listings_are_read(ensembl: MartServer) -> None:
    client = BioMart(ensembl.host, limits=QUICK)
    assert client.release == "Ensembl Genes 111"
    assert len(client.database.datasets) == 214
    for name in ("sheep", "naked-mole-rat", "fly", "worm"):
        assert dataset_name(get_organism(name), "vertebrates") in client.database.datasets
    human = client.dataset("hsapiens_gene_ensembl")
    assert {"feature_page", "homologs", "sequences"} <= set(human.attribute_pages)
    assert len(human.attribute_pages["homologs"].attributes) > 2000
    assert "MT" in human.filters["chromosome_name"].accepted_values
    wanted = ("ensembl_gene_id", "external_synonym", "transcript_length")
    assert [h for _, h in client.headings("hsapiens_gene_ensembl", wanted)] == [
        "Gene stable ID", "Gene Synonym", "Transcript length (including UTRs and CDS)",
    ]  # fmt: skip
    with pytest.raises(OntologyInputError, match="one page"):
        client.headings("hsapiens_gene_ensembl", ("gene_biotype", "mmusculus_homolog_ensembl_gene"))


@pytest.mark.shared
def test_a_recorded_query_without_a_stamp_is_refused(ensembl: MartServer, shared: Path) -> None:
    """The recorded answer was asked for without a completion stamp and under an older heading."""
    body = recorded(shared, "e84_query_mmusculus_gene_ids.tsv.gz").encode()
    client = BioMart(ensembl.host, limits=QUICK)
    ensembl.faults = [lambda _: body] * 3
    with pytest.raises(SourceUnavailableError, match="cut short"):
        client.query("hsapiens_gene_ensembl", ("ensembl_gene_id",))
    ensembl.faults = [lambda _: body + b"[success]\n"]
    with pytest.raises(ReferenceMismatchError, match="Ensembl Gene ID"):
        client.query("hsapiens_gene_ensembl", ("ensembl_gene_id",))
    ensembl.faults = [lambda _: body.replace(b"Ensembl Gene ID", b"Gene stable ID", 1) + b"[success]\n"]
    rows = client.query("hsapiens_gene_ensembl", ("ensembl_gene_id",))
    assert len(rows) == len(set(body.decode().splitlines()[1:]))


@pytest.mark.shared
def test_a_recorded_500_is_an_error_though_its_body_looks_sound(ensembl: MartServer, shared: Path) -> None:
    assert "status_code = 500L" in recorded(shared, "e111_post_query_500.R.gz")
    ensembl.faults = [500] * 3
    with pytest.raises(SourceUnavailableError, match="status 500"):
        BioMart(ensembl.host, limits=QUICK).query("hsapiens_gene_ensembl", ("ensembl_gene_id",))


@pytest.mark.shared
def test_recorded_dataset_names_cover_every_organism(shared: Path) -> None:
    text = (shared / "bio" / "biomart_fixtures" / "biomart_datasets_718.tsv").read_text()
    known = {line.split("\t")[0]: line.split("\t")[6] for line in text.splitlines()[1:]}
    marts = {"plants": "plants_mart", "metazoa": "metazoa_mart", "vertebrates": "genes_mart"}
    for name in ("maize", "arabidopsis", "fly", "worm", "naked-mole-rat", "sheep"):
        organism = get_organism(name)
        assert known[organism.dataset] == marts[organism.division], json.dumps(organism.dataset)
