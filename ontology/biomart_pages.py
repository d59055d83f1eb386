"""Whole tables out of BioMart, page by page: a fetch that broke goes on where it stopped, and nothing is missed.

BioMart has no offsets. An index (gene, contig) is asked first and held against the server's own count; pages are runs
of contigs, or of ids where a dataset has no contig filter; each page must bring exactly the index's genes. Finished
pages wait in the cache until the table is whole. Used by biomart_genes.py and biomart_homologs.py.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd

from .cached import intact, keep
from .errors import ReferenceMismatchError, SourceUnavailableError
from .places import cache_dir

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from .biomart import BioMart

log = logging.getLogger(__name__)

GENE, CONTIG = "ensembl_gene_id", "chromosome_name"
PAGE_GENES = 5000  # aim of a page of contigs: some MB of transcripts, well inside a mart's five minutes
PAGE_IDS = 500  # what BioMart's own help advises for lists


@dataclass(frozen=True)
class Page:
    """One filter, and the genes its answer must hold."""

    filter: str
    """Name of the filter."""
    value: str
    """Its values, joined by commas."""
    genes: tuple[str, ...]
    """Ids, ascending."""


@dataclass(frozen=True)
class PagedDataset:
    """One dataset of a client, read whole for one purpose."""

    client: BioMart
    """Who is asked."""
    dataset: str
    """Name of the dataset."""
    purpose: str
    """Folder of the finished pages, e.g. `genes-sheep`; two purposes never touch each other's pages."""

    def index(self) -> pd.DataFrame:
        """Return every gene with its contig (columns gene, contig), ascending by gene.

        Raises
        ------
        SourceUnavailableError
            When the server fails.
        ReferenceMismatchError
            When the list is empty, names a gene on two contigs, or is shorter than the server's own count.
        """
        rows = self.client.query(self.dataset, (GENE, CONTIG))
        index = pd.DataFrame(rows, columns=["gene", "contig"], dtype=object).sort_values("gene", ignore_index=True)
        what = self.what(GENE)
        if index.empty or (index == "").any(axis=None):
            raise ReferenceMismatchError(
                what, "genes on contigs", "none, or empty ones; pin another release, or import"
            )
        twice = index.loc[index["gene"].duplicated(), "gene"]
        if len(twice):
            raise ReferenceMismatchError(what, "one contig per gene", f"two for {twice.iloc[0]}; import a file instead")
        try:
            total = self.client.count(self.dataset)
        except SourceUnavailableError as error:
            log.warning("%s: not held against a count (%s)", what, error)
            return index
        if len(index) < total:
            raise ReferenceMismatchError(what, f"{total} genes, as the server counts", f"{len(index)}; fetch it again")
        if len(index) > total:
            log.warning("%s: %d genes where the server counts %d", what, len(index), total)
        return index

    def columns(self, index: pd.DataFrame, attributes: Sequence[str], *, partial: bool = False) -> pd.DataFrame:
        """Return attributes of every gene of an index, all text, rows ascending, whatever the order of answers.

        Parameters
        ----------
        index
            As `index()` returns it.
        attributes
            Names from one page of the dataset; the gene id comes first and is not named.
        partial
            True where the server may leave out a gene without a value.

        Raises
        ------
        SourceUnavailableError
            When the server fails; finished pages are kept, and the next call goes on after them.
        ReferenceMismatchError
            When a page brings other genes than the index names.
        """
        names = (GENE, *attributes)
        headings = self.client.headings(self.dataset, names)
        pages = list(_plan(index, by_contig=CONTIG in self.client.dataset(self.dataset).filters))
        found: set[tuple[str, ...]] = set()
        for number, page in enumerate(pages, start=1):
            asked = [self.client.host, self.client.release, self.dataset, headings, page.filter, page.value, page.genes]
            kept = self.folder / f"{hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:24]}.json"
            rows = _read(kept)
            if rows is None:
                log.info("%s: %s, page %d of %d", self.dataset, attributes[0], number, len(pages))
                rows = self.client.query(self.dataset, names, {page.filter: page.value})
                _prove(rows, page, self.what(", ".join(attributes)), partial=partial)
                with keep(kept) as out:
                    out.write(json.dumps(rows).encode())
            found.update(rows)
        return pd.DataFrame(sorted(found), columns=list(names), dtype=object)

    def has(self, attribute: str) -> bool:
        """Tell whether the dataset carries an attribute, and say in the log where it does not."""
        there = self.client.has_attribute(self.dataset, attribute)
        if not there:
            log.warning("%s; it stays empty", self.what(f"no {attribute}"))
        return there

    def what(self, attributes: str) -> str:
        """Return the words an error names this by."""
        return f"{attributes} of {self.dataset} from {self.client}"

    @property
    def folder(self) -> Path:
        """Where finished pages wait."""
        return cache_dir() / "biomart" / self.purpose

    def drop_pages(self) -> None:
        """Forget the finished pages: the table is whole and kept, and the next fetch shall ask anew."""
        shutil.rmtree(self.folder, ignore_errors=True)


def _plan(index: pd.DataFrame, *, by_contig: bool) -> Iterator[Page]:
    """Yield pages in a fixed order: contigs by name, gathered up to `PAGE_GENES`; a larger contig is a page alone."""
    if not by_contig:
        genes = list(index["gene"])
        for start in range(0, len(genes), PAGE_IDS):
            some = genes[start : start + PAGE_IDS]
            yield Page(GENE, ",".join(some), tuple(some))
        return
    contigs: list[str] = []
    genes = []
    for contig, rows in index.groupby("contig", sort=True):
        if genes and len(genes) + len(rows) > PAGE_GENES:
            yield Page(CONTIG, ",".join(contigs), tuple(sorted(genes)))
            contigs, genes = [], []
        contigs.append(str(contig))
        genes.extend(rows["gene"])
    if genes:
        yield Page(CONTIG, ",".join(contigs), tuple(sorted(genes)))


def _read(kept: Path) -> list[tuple[str, ...]] | None:
    return [tuple(row) for row in json.loads(kept.read_bytes())] if intact(kept) else None


def _prove(rows: list[tuple[str, ...]], page: Page, what: str, *, partial: bool) -> None:
    got, wanted = {row[0] for row in rows}, set(page.genes)
    if strange := sorted(got - wanted):
        raise ReferenceMismatchError(what, "genes of that page", f"{len(strange)} others such as {strange[0]}")
    if not partial and (lost := sorted(wanted - got)):
        raise ReferenceMismatchError(
            what, f"{len(wanted)} genes", f"{len(got)}, without {lost[0]}; fetch it again, or import a file"
        )
