"""A BioMart on this machine: real sockets, a small mart made by hand or the recorded payloads, and faults on demand.

`HAND_MADE` payloads are invented for the tests: ids, names and positions mean nothing. What is recorded comes from the
shared folder and is passed in by the test that asks for it. Faults are taken from `server.faults`, one per request that
`server.fault_on` lets through, before the server answers soundly again.
"""

from __future__ import annotations

import gzip
import itertools
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit
from xml.etree import ElementTree as ET

if TYPE_CHECKING:
    from collections.abc import Iterator

FEATURES = {
    "ensembl_gene_id": "Gene stable ID",
    "ensembl_transcript_id": "Transcript stable ID",
    "chromosome_name": "Chromosome/scaffold name",
    "start_position": "Gene start (bp)",
    "strand": "Strand",
    "external_gene_name": "Gene name",
    "gene_biotype": "Gene type",
    "external_synonym": "Gene Synonym",
    "transcript_length": "Transcript length (including UTRs and CDS)",
}
"""Attribute and heading of the page `feature_page`, spelled as Ensembl 111 spells them."""


def homolog_columns(species: str, title: str) -> dict[str, str]:
    """Return attribute and heading of what a dataset says of one other species."""
    return {
        f"{species}_homolog_ensembl_gene": f"{title} gene stable ID",
        f"{species}_homolog_orthology_type": f"{title} homology type",
        f"{species}_homolog_orthology_confidence": f"{title} orthology confidence [0 low, 1 high]",
    }


@dataclass
class Table:
    """One dataset: its pages, and its genes as plain values and groups of alternatives."""

    title: str
    pages: dict[str, dict[str, str]]
    genes: list[dict[str, object]] = field(default_factory=list)
    contig_filter: bool = True
    listings: dict[str, str] = field(default_factory=dict)  # recorded payloads that replace the made ones

    def listing(self, kind: str, name: str) -> str:
        if kind in self.listings:
            return self.listings[kind]
        if kind == "attributes":
            rows = [(a, h, "", page, "tsv", "t", "c") for page, names in self.pages.items() for a, h in names.items()]
        elif kind == "filters":
            names = ["ensembl_gene_id", *(["chromosome_name"] if self.contig_filter else [])]
            rows = [(n, n, "[]", "", "filters", "id_list", "=", "t", "c") for n in names]
        else:
            pages = "".join(f'<AttributePage internalName="{page}" displayName="{page}"/>' for page in self.pages)
            return (
                f'<?xml version="1.0"?><!DOCTYPE DatasetConfig><DatasetConfig dataset="{name}">{pages}</DatasetConfig>'
            )
        return "".join("\t".join(row) + "\n" for row in rows)

    def headings(self) -> dict[str, str]:
        if "attributes" in self.listings:
            rows = (line.split("\t") for line in self.listings["attributes"].split("\n") if line.strip())
            return {row[0]: row[1] for row in rows}
        return {a: h for names in self.pages.values() for a, h in names.items()}


def rows_of(gene: dict[str, object], asked: list[str]) -> list[tuple[str, ...]]:
    """Return a gene's rows as BioMart joins them: each group of alternatives multiplies the others."""
    groups = [alts for alts in gene["groups"] if any(a in alt for alt in alts for a in asked)]
    rows = []
    for chosen in itertools.product(*groups):
        values = dict(gene["plain"]) | {k: v for alt in chosen for k, v in alt.items()}
        rows.append(tuple(str(values.get(a, "")) for a in asked))
    return rows


class MartHandler(BaseHTTPRequestHandler):
    """Answer /biomart/martservice from `server.tables`, after whatever fault is due."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # head and body are two writes; else each answer waits 40 ms for an acknowledgement

    def log_message(self, *args):
        """Stay silent."""

    def do_GET(self):
        """Answer a listing."""
        params = {k: v[0] for k, v in parse_qs(urlsplit(self.path).query).items()}
        self.server.seen.append(params)
        if not self._faulty(params.get("type", "")):
            self._send(self.server.answer(params).encode())

    def do_POST(self):
        """Answer a query."""
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        params = {k: v[0] for k, v in parse_qs(body).items()}
        self.server.seen.append(params)
        kind = "count" if ET.fromstring(params["query"]).get("count") else "query"
        if not self._faulty(kind):
            self._send(self.server.answer(params).encode())

    def _faulty(self, kind: str) -> bool:
        server = self.server
        if not server.faults or kind not in server.fault_on:
            return False
        self._misbehave(server.faults.pop(0), server.answer(server.seen[-1]).encode())
        return True

    def _misbehave(self, fault: object, sound: bytes) -> None:
        if isinstance(fault, int):
            self._send(sound, status=fault)
        elif callable(fault):
            self._send(fault(sound))
        elif fault == "hang":
            self.server.closing.wait(20)
            self.close_connection = True
        elif fault == "drip":
            self._head(len(sound))
            for byte in sound:
                if self.server.closing.wait(0.05):
                    break
                self.wfile.write(bytes([byte]))
        elif fault == "drop":
            self._head(len(sound))
            self.wfile.write(sound[: len(sound) // 2])
            self.close_connection = True
        elif fault == "bomb":
            self._send(gzip.compress(bytes(40 << 20)), encoding="gzip")
        elif fault == "chop":
            squeezed = gzip.compress(sound)
            self._send(squeezed[: len(squeezed) - 20], encoding="gzip")
        else:
            self._send(b"", status=302, location=fault)

    def _head(self, length: int, status: int = 200, encoding: str = "", location: str = "") -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(length))
        if encoding:
            self.send_header("Content-Encoding", encoding)
        if location:
            self.send_header("Location", location)
        self.end_headers()

    def _send(self, body: bytes, status: int = 200, encoding: str = "", location: str = "") -> None:
        self._head(len(body), status, encoding, location)
        self.wfile.write(body)


class MartServer(ThreadingHTTPServer):
    """One mart with its datasets; `seen` lists every request."""

    def __init__(self, tables: dict[str, Table], mart: tuple[str, str, str], listings: dict[str, str]) -> None:
        super().__init__(("127.0.0.1", 0), MartHandler)
        self.tables, self.mart, self.listings = tables, mart, listings
        self.faults, self.fault_on, self.seen = [], {"query"}, []
        self.closing = threading.Event()

    @property
    def host(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, *args):
        """Stay silent about clients that hang up."""

    def queries(self) -> list[ET.Element]:
        """Return the queries that were asked, parsed."""
        return [ET.fromstring(p["query"]) for p in self.seen if "query" in p]

    def answer(self, params: dict[str, str]) -> str:
        """Return the sound answer to a request."""
        if "query" in params:
            return self._table(ET.fromstring(params["query"]))
        kind = params["type"]
        if kind in self.listings:
            return self.listings[kind]
        name, title, schema = self.mart
        if kind == "registry":
            at = f'host="x" path="/p" port="80" serverVirtualSchema="{schema}" visible="1"'
            return f'\n<MartRegistry>\n<MartURLLocation name="{name}" displayName="{title}" {at} />\n</MartRegistry>\n'
        if kind == "datasets":
            lines = [f"TableSet\t{n}\t{t.title}\t1\tv\t200\t50000\tdefault\tday" for n, t in self.tables.items()]
            return "\n" + "\n\n".join(lines) + "\n"
        return self.tables[params["dataset"]].listing(kind, params["dataset"])

    def _table(self, query: ET.Element) -> str:
        node = query.find("Dataset")
        table = self.tables[node.get("name")]
        if query.get("virtualSchemaName") != self.mart[2]:
            schema = query.get("virtualSchemaName")
            return (
                f"Query ERROR: caught BioMart::Exception::Usage: WITHIN Virtual Schema : {schema}, Dataset NOT FOUND\n"
            )
        if query.get("count"):
            return f"{len(table.genes)}\n"
        wanted = {f.get("name"): set(f.get("value").split(",")) for f in node.findall("Filter")}
        asked = [a.get("name") for a in node.findall("Attribute")]
        genes = [g for g in table.genes if all(g["plain"][name] in values for name, values in wanted.items())]
        lines = [row for gene in reversed(genes) for row in rows_of(gene, asked)]
        head = "\t".join(table.headings()[a] for a in asked)
        stamp = "[success]\n" if query.get("completionStamp") else ""
        return "".join([head + "\n", *("\t".join(row) + "\n" for row in lines), stamp])


@contextmanager
def biomart_serving(
    tables: dict[str, Table],
    mart: tuple[str, str, str] = ("ENSEMBL_MART_ENSEMBL", "Ensembl Genes 114", "default"),
    listings: dict[str, str] | None = None,
) -> Iterator[MartServer]:
    """Run a mart (its name, title and virtual schema) on a free port; `listings` are recorded payloads by type."""
    server = MartServer(tables, mart, listings or {})
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.closing.set()
        server.shutdown()
        server.server_close()
        thread.join()


def hand_made(
    form: str, species: str, title: str, *, names: bool = True, contigs: tuple[str, ...] = ("1", "X", "MT")
) -> Table:
    """Return a HAND-MADE dataset of three genes per contig; `form` spells an id, e.g. `ENSOARG{:011d}`.

    Gene n starts at 1000 n (1-based), has transcripts of 100 n, 100 n and 900 n bp, and homologs by its number modulo
    3: one2one sure, one2many unsure twice, none. `names=False` leaves out synonyms and transcript lengths.
    """
    features = (
        FEATURES if names else {k: v for k, v in FEATURES.items() if k not in ("external_synonym", "transcript_length")}
    )
    homologs = homolog_columns(species, title)
    first = {"ensembl_gene_id": FEATURES["ensembl_gene_id"]}
    pages = {"feature_page": features, "homologs": first | homologs}
    gene_, type_, sure_ = homologs
    genes = []
    for n in range(1, 3 * len(contigs) + 1):
        plain = {
            "ensembl_gene_id": form.format(n),
            "chromosome_name": contigs[(n - 1) // 3],
            "start_position": 1000 * n,
            "strand": (-1) ** n,
            "external_gene_name": f"NAME{n}" if n % 3 else "",
            "gene_biotype": "protein_coding" if n % 2 else "lncRNA",
        }
        lengths = [
            {"ensembl_transcript_id": f"T{n}.{i}", "transcript_length": b * n} for i, b in enumerate((100, 100, 900))
        ]
        synonyms = [{"external_synonym": s} for s in ((f"OLD{n}", f"ALSO{n}") if n % 3 == 1 else ("",))]
        pairs = {
            1: [{gene_: f"OTHER{n}", type_: "ortholog_one2one", sure_: 1}],
            2: [{gene_: f"OTHER{n}{x}", type_: "ortholog_one2many", sure_: 0} for x in "BA"],
            0: [{gene_: "", type_: "", sure_: ""}],
        }[n % 3]
        genes.append({"plain": plain, "groups": [lengths, synonyms, pairs]})
    return Table(f"{title} genes (made-by-hand)", pages, genes)
