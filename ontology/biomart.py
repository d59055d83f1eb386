"""BioMart: `BioMart(division="plants")` asks one Ensembl mart, through the `biomart` package behind a fence.

The package reads the registry, the datasets, and the attributes and filters of a dataset. It cannot be trusted with
the rest (https, timeouts, errors sent as status 200, long lists, truncation), so its requests go over our own wire
(biomart_http.py), its answers are proved first (biomart_answers.py), and queries are spelled here. Whole tables page by
page: biomart_pages.py; genes: biomart_genes.py; homologs: biomart_homologs.py.
"""

from __future__ import annotations

import re
from functools import cached_property
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from xml.etree.ElementTree import Element, SubElement, tostring

from .biomart_answers import check_complete, check_count, check_listing, read_rows
from .biomart_http import Limits, Wire
from .errors import OntologyInputError, ReferenceMismatchError, ReferenceMissingError, SourceUnavailableError
from .references import reference_rows

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import biomart
    import requests

    from .organisms import Organism

SERVICE = "/biomart/martservice"


class BioMart:
    """One mart of one Ensembl division; nothing is asked before it is needed, and listings are asked once.

    Parameters
    ----------
    host
        Server, e.g. `https://www.ensembl.org`; by default the archive of the pinned release of the division.
    division
        `vertebrates`, `plants` or `metazoa`.
    release
        Release as the division counts it; by default the pinned one, or with `host` whatever that server has.
    limits
        Timeouts, tries and sizes.
    session
        A session of requests with its own proxies or certificates.

    Raises
    ------
    OntologyInputError
        When the division is unknown, the host no address, or no archive of the release is known.
    """

    def __init__(
        self,
        host: str | None = None,
        division: str = "vertebrates",
        release: int | None = None,
        limits: Limits | None = None,
        session: requests.Session | None = None,
    ) -> None:
        if division not in _divisions():
            raise OntologyInputError("division", division, f"one of {', '.join(_divisions())}")
        row = _divisions()[division]
        self.division, self.mart = division, str(row["mart"])
        self.pinned = release if release is not None or host else int(row["release"])
        self.host = _clean_host(host or _archive(division, row, int(self.pinned or 0)))
        self._wire = Wire(self.host + SERVICE, limits or Limits(), session)

    def __repr__(self) -> str:
        """Return the mart and its server."""
        return f"BioMart({self.mart} at {self.host})"

    @cached_property
    def database(self) -> biomart.BiomartDatabase:
        """The division's mart as the registry lists it, of the release that was pinned.

        Raises
        ------
        SourceUnavailableError
            When the server cannot be reached or has no such mart.
        ReferenceMismatchError
            When it has another release.
        """
        server = _fenced_server(self._wire, self.host)
        found = server.databases.get(self.mart)
        if found is None:
            have = ", ".join(sorted(server.databases)) or "none"
            raise SourceUnavailableError(repr(self), f"it has the marts {have}", "name the division's server by --host")
        server.schema = found.virtual_schema
        if self.pinned is not None and not re.search(rf"\b{self.pinned}$", found.display_name):
            raise ReferenceMismatchError(
                repr(self), f"release {self.pinned}", f"{found.display_name!r}; name its server with --host"
            )
        return found

    @property
    def release(self) -> str:
        """The release as the registry spells it, e.g. `Ensembl Genes 114`."""
        return str(self.database.display_name)

    def dataset(self, name: str) -> biomart.BiomartDataset:
        """Return a dataset of the mart, with its attributes and filters.

        Raises
        ------
        ReferenceMissingError
            When the mart has no such dataset.
        SourceUnavailableError
            When it cannot be listed.
        """
        found = self.database.datasets.get(name)
        if found is None:
            raise ReferenceMissingError("BioMart dataset", name, f"{self} has {len(self.database.datasets)} others")
        return found

    def has_attribute(self, dataset: str, attribute: str) -> bool:
        """Tell whether any page of a dataset carries an attribute."""
        return any(attribute in page.attributes for page in self.dataset(dataset).attribute_pages.values())

    def headings(self, dataset: str, attributes: Sequence[str]) -> list[tuple[str, str]]:
        """Return (attribute, display name) pairs from the one page that carries them all.

        Raises
        ------
        ReferenceMismatchError
            When the dataset lacks an attribute.
        OntologyInputError
            When no single page has all: BioMart refuses such a query.
        """
        pages = self.dataset(dataset).attribute_pages
        for page in pages.values():
            if all(name in page.attributes for name in attributes):
                return [(name, page.attributes[name].display_name) for name in attributes]
        lost = [name for name in attributes if not self.has_attribute(dataset, name)]
        if lost:
            raise ReferenceMismatchError(
                f"{dataset} of {self}",
                f"attributes {', '.join(lost)}",
                "a dataset without; pin a release that has them",
            )
        raise OntologyInputError("attributes", list(attributes), f"attributes of one page ({', '.join(pages)})")

    def query(
        self, dataset: str, attributes: Sequence[str], filters: Mapping[str, str] | None = None
    ) -> list[tuple[str, ...]]:
        """Return the rows of a query, as text, in the order of `attributes`; repeated rows once.

        Parameters
        ----------
        dataset
            Name, e.g. `oarambouillet_gene_ensembl`.
        attributes
            Names from one page.
        filters
            Value by filter; several values are joined by commas.

        Raises
        ------
        SourceUnavailableError
            When the server fails, or answers anything but a whole table.
        ReferenceMismatchError
            When the table's columns are not those that were asked for.
        """
        columns = self.headings(dataset, attributes)
        what = f"{', '.join(attributes)} of {dataset} from {self}"
        xml = self._xml(dataset, attributes, filters or {}, count=False)
        return read_rows(self._wire.post(xml, what, check_complete), columns, what)

    def count(self, dataset: str) -> int:
        """Return how many genes a dataset has, as the server counts them.

        Raises
        ------
        SourceUnavailableError
            When the server does not answer with a number.
        """
        xml = self._xml(dataset, (), {}, count=True)
        return int(self._wire.post(xml, f"the count of {dataset} from {self}", check_count))

    def _xml(self, dataset: str, attributes: Sequence[str], filters: Mapping[str, str], *, count: bool) -> str:
        query = Element(
            "Query",
            virtualSchemaName=self.database.virtual_schema,
            formatter="TSV",
            header="0" if count else "1",
            uniqueRows="1",
            count="1" if count else "",
            datasetConfigVersion="0.6",
        )
        if not count:
            query.set("completionStamp", "1")  # without it half an answer looks like a whole one
        node = SubElement(query, "Dataset", name=dataset, interface=self.dataset(dataset).interface)
        for name, value in filters.items():
            SubElement(node, "Filter", name=name, value=value)
        for name in attributes:
            SubElement(node, "Attribute", name=name)
        return f'<?xml version="1.0" encoding="UTF-8"?><!DOCTYPE Query>{tostring(query, encoding="unicode")}'


def dataset_name(organism: Organism, division: str) -> str:
    """Return an organism's dataset in a division's mart; fly and worm are in the vertebrates' mart too.

    Examples
    --------
    >>> from ontology import get_organism
    >>> dataset_name(get_organism("fly"), "metazoa"), dataset_name(get_organism("fly"), "vertebrates")
    ('dmelanogaster_eg_gene', 'dmelanogaster_gene_ensembl')
    """
    if division == "vertebrates" and organism.division == "metazoa":
        return f"{organism.dataset.removesuffix('_eg_gene')}_gene_ensembl"
    return organism.dataset


def _divisions() -> dict[str, dict[str, Any]]:
    return reference_rows()["biomart"]


def _archive(division: str, row: dict[str, Any], release: int) -> str:
    if "archive" in row:
        return str(row["archive"]).format(release=release)
    known = row["archives"]
    if str(release) not in known:
        raise OntologyInputError("release", release, f"one of {', '.join(known)} for {division}, or a --host")
    return str(known[str(release)])


def _clean_host(host: str) -> str:
    """Return scheme, name and port of a server; https where no scheme is given."""
    parts = urlsplit(host if "://" in host else f"https://{host}")
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.query:
        raise OntologyInputError("host", host, "a server such as https://www.ensembl.org")
    path = parts.path.rstrip("/").removesuffix(SERVICE).removesuffix("/biomart")
    return f"{parts.scheme}://{parts.netloc}{path}"


def _fenced_server(wire: Wire, host: str) -> Any:
    """Return the package's server with its requests replaced by ours; listings are asked once."""
    from biomart import BiomartServer  # noqa: PLC0415 - it imports requests

    class Answer:
        """What the package needs of a response."""

        def __init__(self, text: str) -> None:
            self.text = text

        def iter_lines(self) -> list[bytes]:
            # The package takes a line of one blank, which marts do send, for a row.
            return [line.encode() for line in self.text.split("\n") if line.strip()]

    class FencedServer(BiomartServer):
        """Its parent's constructor would turn https:// into http://https:// and call home without a timeout."""

        def __init__(self) -> None:
            self.url, self.is_alive, self._verbose = wire.url, True, False
            self._databases, self._datasets, self._heard = {}, {}, {}
            self.schema = "default"

        def get_request(self, **params: str) -> Answer:
            if "dataset" in params:
                params["virtualSchema"] = self.schema
            key = tuple(sorted(params.items()))
            if key not in self._heard:
                kind = params["type"]
                what = f"{kind} of {params.get('dataset') or params.get('mart') or 'BioMart'} at {host}"
                self._heard[key] = wire.get(params, what, lambda text: check_listing(kind, text))
            return Answer(self._heard[key])

    return FencedServer()
