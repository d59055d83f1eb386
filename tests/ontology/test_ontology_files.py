"""Files of every format are read, hostile ones refused within bounds, a fetched ontology is the pinned one or none."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import json
import socket
import time
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING

import pytest

from ontology import (
    OntologyInputError,
    ReferenceMismatchError,
    ReferenceMissingError,
    SourceUnavailableError,
    harmonise,
    load_ontology,
    ontology_files,
    ontology_release,
)
from ontology.ontology_files import fetch_ontology, import_ontology, read_ontology
from ontology.references import OntologyFilePin, ontology_file_pins, ontology_pins
from ontology.snapshots import list_snapshots
from tests.servers import serving

if TYPE_CHECKING:
    from pathlib import Path

SMALL = b"""format-version: 1.2
data-version: 2020-01-01
ontology: xx

[Term]
id: XX:1
name: top

[Term]
id: XX:2
name: low
synonym: "deep" EXACT []
is_a: XX:1
"""
OWL = """<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE rdf:RDF [ <!ENTITY obo "http://purl.obolibrary.org/obo/" > ]>
<rdf:RDF xmlns="http://purl.obolibrary.org/obo/xx.owl#"
  xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#" xmlns:owl="http://www.w3.org/2002/07/owl#"
  xmlns:rdfs="http://www.w3.org/2000/01/rdf-schema#"
  xmlns:oboInOwl="http://www.geneontology.org/formats/oboInOwl#" xmlns:obo="http://purl.obolibrary.org/obo/">
<owl:Ontology rdf:about="http://purl.obolibrary.org/obo/xx.owl">
  <owl:versionIRI rdf:resource="http://purl.obolibrary.org/obo/xx/2020-01-01/xx.owl"/>
  <owl:imports rdf:resource="http://localhost:9/never.owl"/>
</owl:Ontology>
<owl:ObjectProperty rdf:about="&obo;BFO_0000050"><rdfs:label>part of</rdfs:label></owl:ObjectProperty>
<owl:Class rdf:about="&obo;XX_1"><rdfs:label>top</rdfs:label></owl:Class>
<owl:Class rdf:about="&obo;XX_2"><rdfs:label>low</rdfs:label>
  <rdfs:subClassOf rdf:resource="&obo;XX_1"/>
  <oboInOwl:hasExactSynonym>deep</oboInOwl:hasExactSynonym>
</owl:Class>
<owl:Class rdf:about="&obo;XX_3"><rdfs:label>part</rdfs:label>
  <rdfs:subClassOf><owl:Restriction><owl:onProperty rdf:resource="&obo;BFO_0000050"/>
    <owl:someValuesFrom rdf:resource="&obo;XX_2"/></owl:Restriction></rdfs:subClassOf>
</owl:Class>
<owl:Class rdf:about="&obo;XX_4"><rdfs:label>obsolete old</rdfs:label>
  <owl:deprecated rdf:datatype="http://www.w3.org/2001/XMLSchema#boolean">true</owl:deprecated>
  <obo:IAO_0100001 rdf:resource="&obo;XX_2"/>
</owl:Class>
</rdf:RDF>
"""
OBO_URL = "http://purl.obolibrary.org/obo/"
GRAPH = {
    "graphs": [
        {
            "id": f"{OBO_URL}xx.owl",
            "meta": {"version": f"{OBO_URL}xx/2020-01-01/xx.owl"},
            "nodes": [
                {"id": f"{OBO_URL}XX_1", "lbl": "top", "type": "CLASS"},
                {
                    "id": f"{OBO_URL}XX_2", "lbl": "low", "type": "CLASS",
                    "meta": {"synonyms": [{"pred": "hasExactSynonym", "val": "deep"}]},
                },
                {"id": f"{OBO_URL}XX_3", "lbl": "part", "type": "CLASS"},
                {"id": f"{OBO_URL}BFO_0000050", "lbl": "part of", "type": "PROPERTY"},
            ],
            "edges": [
                {"sub": f"{OBO_URL}XX_2", "pred": "is_a", "obj": f"{OBO_URL}XX_1"},
                {"sub": f"{OBO_URL}XX_3", "pred": f"{OBO_URL}BFO_0000050", "obj": f"{OBO_URL}XX_2"},
            ],
        }
    ]
}  # fmt: skip


def written(folder: Path, data: bytes | str, name: str = "x.obo") -> Path:
    path = folder / name
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> None:
        raise AssertionError("a file made the reader ask the network")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.mark.parametrize("data", [SMALL, gzip.compress(SMALL), gzip.compress(SMALL[:100]) + gzip.compress(SMALL[100:])])
def test_plain_and_packed_files_are_the_same(tmp_path: Path, data: bytes) -> None:
    made = read_ontology(written(tmp_path, data))
    assert (made.release, list(made), made.faults) == ("XX 2020-01-01", ["XX:1", "XX:2"], ())
    assert made.ancestors("XX:2") == {"XX:1": 1}
    assert read_ontology(str(tmp_path / "x.obo"), "mine", "v9").release == "mine v9"


@pytest.mark.parametrize("text", [OWL, json.dumps(GRAPH)], ids=["owl", "json"])
def test_owl_and_obographs_are_read_by_content(tmp_path: Path, text: str, no_network: None) -> None:
    made = read_ontology(written(tmp_path, text))
    assert made.version == f"{OBO_URL}xx/2020-01-01/xx.owl"
    assert made.name == "XX"
    assert made.label("XX:2") == "low"
    assert made["XX:2"].synonyms == ("deep",)
    assert made.ancestors("XX:3") == {"XX:2": 1, "XX:1": 2}
    alone = read_ontology(written(tmp_path, text), relations=("is_a",))
    assert (alone.parents("XX:3"), alone.parents("XX:2")) == ((), ("XX:1",))


def test_obsolete_classes_of_owl_move_to_their_replacement(tmp_path: Path) -> None:
    made = read_ontology(written(tmp_path, OWL))
    assert made["XX:4"].obsolete
    assert made.current("XX:4") == "XX:2"


LAUGHS = "".join(f'<!ENTITY l{i} "{f"&l{i - 1};" * 10}">' for i in range(1, 12))
HOSTILE = {
    "laughs": (f'<?xml version="1.0"?><!DOCTYPE r [<!ENTITY l0 "ha">{LAUGHS}]><r>&l11;</r>', "names other"),
    "outside": ('<!DOCTYPE r [<!ENTITY x SYSTEM "file:///etc/passwd">]><r>&x;</r>', "names other entities or files"),
    "parameter": ('<!DOCTYPE r [<!ENTITY % x "y"> %x;]><r/>', "names other entities or files"),
    "quadratic": ('<!DOCTYPE r [<!ENTITY a "' + "a" * 100_000 + '">]><r>' + "&a;" * 1_000 + "</r>", "expand to"),
    "odd entity": ("<!DOCTYPE r [<!ENTITY a>]><r/>", "plain XML entities"),
    "utf-16": ('<?xml version="1.0" encoding="utf-16"?><r/>', "it says utf-16"),
    "latin": ('<?xml version="1.0" encoding="iso-8859-1"?><r>é</r>'.encode("latin-1"), "UTF-8"),
    "cut xml": (OWL[:1500], "OWL in RDF/XML that pronto reads"),
    "other xml": ("<html><body>moved</body></html>", "path="),
    "deep xml": ("<a>" * 50_000, "path="),
    "deep json": ('{"graphs": ' + "[" * 100_000, "nested too deeply"),
    "other json": ("{}", "obograph JSON with a list"),
    "no graph": ('{"graphs": []}', "obograph JSON with a list"),
    "odd graph": ('{"graphs": [{"nodes": [3]}]}', "obograph JSON that pronto reads"),
    "cut json": (json.dumps(GRAPH)[:400], "obograph JSON"),
    "cut gzip": (gzip.compress(SMALL * 9)[:-20], "whole gzip"),
    "bad gzip": (b"\x1f\x8b\x08" + b"\xff" * 40, "whole gzip"),
    "png": (b"\x89PNG\r\n\x1a\n\0\0\0", "UTF-8"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_files_are_refused_quickly(tmp_path: Path, case: str, no_network: None) -> None:
    data, said = HOSTILE[case]
    start = time.process_time()
    with pytest.raises(OntologyInputError, match=said) as caught:
        read_ontology(written(tmp_path, data))
    assert time.process_time() - start < 5
    assert "x.obo" in str(caught.value)
    assert len(str(caught.value)) < 1_000


def test_a_gzip_bomb_and_a_giant_stop_at_the_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ontology_files, "SIZE_LIMIT", 1 << 20)
    for data in (gzip.compress(b"\n" * (64 << 20)), b"\n" * (2 << 20), gzip.compress(b"\n" * (1 << 19)) * 3):
        with pytest.raises(OntologyInputError, match="at most 1048576 bytes"):
            read_ontology(written(tmp_path, data))


def test_many_entities_are_counted_in_one_pass() -> None:
    entities = b"".join(b'<!ENTITY a%d "xy">' % i for i in range(40_000))
    start = time.process_time()
    ontology_files.check_xml(b"<!DOCTYPE r [" + entities + b"]><r>&a1;&a39999;</r>", "x")
    assert time.process_time() - start < 2  # a pass for each took 15 s


def test_what_entities_grow_to_is_the_sum_over_their_uses(monkeypatch: pytest.MonkeyPatch) -> None:
    data = b'<!DOCTYPE r [<!ENTITY a "12345"><!ENTITY b "123">]><r>&a;&b;&a;&ab;&amp;</r>'
    monkeypatch.setattr(ontology_files, "ENTITY_LIMIT", 13)
    ontology_files.check_xml(data, "x")
    monkeypatch.setattr(ontology_files, "ENTITY_LIMIT", 12)
    with pytest.raises(OntologyInputError, match="at most 12 bytes"):
        ontology_files.check_xml(data, "x")


def test_no_file_is_a_bad_call(tmp_path: Path) -> None:
    for path in (tmp_path / "none.obo", tmp_path):
        with pytest.raises(OntologyInputError, match="a file that exists"):
            read_ontology(path)


def test_an_absent_ontology_says_what_to_run(own_home: Path) -> None:
    assert not list_snapshots("ontology")
    assert "PO" not in ontology_pins()
    with pytest.raises(ReferenceMissingError, match="run panatlas references fetch ontology PO"):
        load_ontology("PO")
    for wrong in ("XX", "../x", "", "no such"):
        with pytest.raises(OntologyInputError, match="prefix"):
            load_ontology(wrong)


def test_an_imported_ontology_is_served_and_named(own_home: Path, tmp_path: Path) -> None:
    before = ontology_release()
    made = import_ontology(written(tmp_path, gzip.compress(SMALL)), "XX", {"licence": "CC0", "release": "unstated"})
    assert (made.kind, made.name, made.release, made.licence, made.rows) == ("ontology", "XX", "2020-01-01", "CC0", 2)
    assert made.path.read_bytes() == SMALL
    assert load_ontology("XX").label("XX:2") == "low"
    assert load_ontology("XX") is load_ontology("XX")
    assert [kept.name for kept in list_snapshots("ontology")] == ["XX"]
    assert set(ontology_release().split(";")) - set(before.split(";")) == {f"XX 2020-01-01 {made.sha256[:12]}"}
    # A renewed file is read anew, in the same process.
    import_ontology(written(tmp_path, SMALL.replace(b"name: low", b"name: lower")), "XX", {"release": "mine"})
    assert load_ontology("XX").label("XX:2") == "lower"
    assert load_ontology("XX").version == "mine"


def test_a_damaged_snapshot_is_refused(own_home: Path, tmp_path: Path) -> None:
    made = import_ontology(written(tmp_path, SMALL), "XX")
    made.path.write_bytes(SMALL + b"\n")
    with pytest.raises(ReferenceMismatchError, match="fetch or import it again"):
        load_ontology("XX")


@pytest.mark.parametrize(
    ("prefix", "said"), [("CL", "not pinned"), ("NCBITaxon", "not pinned"), ("X:", "letters"), ("YY", "such as XX:1")]
)
def test_wrong_prefixes_are_refused(own_home: Path, tmp_path: Path, prefix: str, said: str) -> None:
    with pytest.raises(OntologyInputError, match=said):
        import_ontology(written(tmp_path, SMALL), prefix)
    assert not (own_home / "references").exists()


class Site(BaseHTTPRequestHandler):
    """Serve one file well at /good, and badly elsewhere."""

    def log_message(self, *args: object) -> None:
        """Stay silent."""

    def do_GET(self) -> None:
        """Answer."""
        body, name = self.server.files["po"], self.path.lstrip("/")
        if name == "missing":
            self.send_error(404)
            return
        if name == "hang":
            time.sleep(1.5)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if name == "drip":
            for i in range(40):
                self.wfile.write(body[i : i + 1])
                self.wfile.flush()
                time.sleep(0.05)
            return
        self.wfile.write(body[: len(body) // 2] if name == "cut" else body)


@pytest.fixture
def site(own_home: Path, monkeypatch: pytest.MonkeyPatch):
    """Pin SMALL as the ontology XX of a server on this machine; the value sets which of its paths is pinned."""
    with serving(Site, {"po": SMALL}) as server:

        def pin(path: str, sha256: str = hashlib.sha256(SMALL).hexdigest()) -> None:
            url = f"http://127.0.0.1:{server.server_port}/{path}"
            made = OntologyFilePin("XX", "v1", url, sha256, "CC0")
            monkeypatch.setattr(ontology_files, "ontology_file_pins", lambda: {"XX": made})

        yield pin


def test_a_fetched_ontology_is_kept(site) -> None:
    site("good")
    made = fetch_ontology("XX")
    assert (made.release, made.licence, made.sha256) == ("v1", "CC0", hashlib.sha256(SMALL).hexdigest())
    assert made.source.startswith("http://127.0.0.1:")
    assert load_ontology("XX").release == "XX v1"


@pytest.mark.parametrize(
    ("path", "said"),
    [("missing", "404"), ("cut", r"cut short|IncompleteRead"), ("hang", "timed out"), ("drip", "not done within")],
)
def test_a_fetch_that_fails_leaves_nothing(site, own_home: Path, path: str, said: str, monkeypatch) -> None:
    monkeypatch.setattr(ontology_files, "FETCH_TIMEOUT", 0.5)
    monkeypatch.setattr(ontology_files, "FETCH_DEADLINE", 0.5)
    site(path)
    with pytest.raises(SourceUnavailableError, match=said) as caught:
        fetch_ontology("XX")
    assert "panatlas references import ontology XX FILE" in str(caught.value)
    assert not (own_home / "references").exists()


def test_other_bytes_are_refused(site, own_home: Path) -> None:
    site("good", "0" * 64)
    with pytest.raises(ReferenceMismatchError, match="0" * 64):
        fetch_ontology("XX")
    assert not (own_home / "references").exists()


def test_a_file_beyond_the_bound_is_not_read_to_its_end(site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ontology_files, "FETCH_LIMIT", 10)
    site("good")
    with pytest.raises(SourceUnavailableError, match="more than 10 bytes"):
        fetch_ontology("XX")


def test_nobody_listening_is_unavailable(site, monkeypatch: pytest.MonkeyPatch) -> None:
    made = OntologyFilePin("XX", "v1", "http://127.0.0.1:9/x", "0" * 64, "CC0")
    monkeypatch.setattr(ontology_files, "ontology_file_pins", lambda: {"XX": made})
    with pytest.raises(SourceUnavailableError, match="refused"):
        fetch_ontology("XX")


def test_only_pinned_files_are_fetched() -> None:
    with pytest.raises(OntologyInputError, match="one of PO"):
        fetch_ontology("CL")


@pytest.mark.shared
def test_the_real_plant_ontology_comes_over_http_and_maps_plants(
    shared: Path, own_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = gzip.decompress((shared / "bio/obo_real/po.obo.gz").read_bytes())
    pin = ontology_file_pins()["PO"]
    assert harmonise("tissue", ["leaf"], "arabidopsis")["leaf"].how == "unmapped"
    with serving(Site, {"po": real}) as server:
        local = dataclasses.replace(pin, url=f"http://127.0.0.1:{server.server_port}/good")
        monkeypatch.setattr(ontology_files, "ontology_file_pins", lambda: {"PO": local})
        made = fetch_ontology("PO")  # the digest is the shipped one
    assert made.release == pin.version
    plants = load_ontology("PO")
    assert plants.label("PO:0025034") == "leaf"
    assert "PO:0025131" in plants.ancestors("PO:0025034")  # plant anatomical entity
    assert plants.current("PO:0006445") == "PO:0000002"  # an alternative id
    assert "PO:0000015" in plants.by_synonym("cotyledon primordia") or plants.by_label("cotyledon primordium")
    assert harmonise("tissue", ["leaf"], "arabidopsis")["leaf"].term_id == "PO:0025034"
    assert f"PO {pin.version} {pin.sha256[:12]}" in ontology_release().split(";")


@pytest.mark.shared
def test_the_real_plant_ontology_may_be_imported(shared: Path, own_home: Path) -> None:
    made = import_ontology(shared / "bio/obo_real/po.obo.gz", "PO", {"release": "whatever"})
    pin = ontology_file_pins()["PO"]
    assert (made.sha256, made.release, made.licence) == (pin.sha256, pin.version, pin.licence)
    assert made.source == "po.obo.gz"


@pytest.mark.parametrize("page", ["<!DOCTYPE html><html><body>maintenance</body></html>", "\n <HTML>moved</HTML>"])
def test_a_web_page_is_called_one(tmp_path: Path, page: str) -> None:
    (tmp_path / "po.obo").write_text(page)
    with pytest.raises(OntologyInputError, match="this is a web page"):
        read_ontology(tmp_path / "po.obo")
