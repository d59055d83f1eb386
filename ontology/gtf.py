"""Annotations become gene tables: `import_gtf("rat", "Rattus_norvegicus.gtf.gz", {"release": "Ensembl 114"})`.

GTF and GFF3, plain or gzip, of Ensembl, GENCODE and NCBI. Lines are streamed; what is held is one record per gene and
one length per transcript (a quarter of a million of each in human, some 300 MB). A line that is none is counted and
named, never fatal. Rows go through gene_rows.py and are kept by imports.py.
"""

from __future__ import annotations

import re
from pathlib import Path
from statistics import median
from typing import IO, TYPE_CHECKING, Any
from urllib.parse import unquote

import pandas as pd

from .errors import OntologyInputError
from .gene_rows import clean_genes
from .imports import ImportedSnapshot, check_about, keep_import
from .organisms import Organism, get_organism
from .text_files import Tally, open_text

if TYPE_CHECKING:
    from collections.abc import Mapping

LINE_LIMIT = 1 << 17
"""Characters of one line; NCBI's longest are some 10,000."""
GENE_LIMIT, TRANSCRIPT_LIMIT = 2_000_000, 20_000_000
"""Records held; wheat has 270,000 genes, human half a million transcripts in the fullest annotation."""
GENES = frozenset({"gene", "ncRNA_gene", "pseudogene", "transposable_element_gene"})
"""Features that are genes: GTF has the first, Ensembl's and TAIR's GFF3 the others."""
PARTS = frozenset({"exon"})
"""Features whose lengths make up a transcript."""
_WHOLE = re.compile(r"\d{1,12}", re.ASCII)  # bp
# Tried only where an attribute may begin, or a long word would be tried from each of its letters.
_QUOTED = re.compile(r'(?:^|;)\s*([\w.-]+)[ \t]+(?:"([^"]*)"|([^";\s]+))')


class _Found:
    """What a file has shown so far."""

    def __init__(self) -> None:
        self.genes: dict[str, dict[str, str]] = {}  # row of each gene, by id as the file spells it
        self.spans: dict[str, list[Any]] = {}  # contig, start, end and strand over the exons of each gene id
        self.lengths: dict[str, int] = {}  # summed exons in bp, by transcript
        self.owner: dict[str, str] = {}  # gene, by transcript


def import_gtf(organism: str | int | Organism, path: str | Path, about: Mapping[str, str]) -> ImportedSnapshot:
    """Keep the genes of a GTF or GFF3 file as the organism's table.

    Parameters
    ----------
    organism
        Whose genes they are.
    path
        The file, plain or gzip.
    about
        `release`, and any of `source` (default: the file's name) and `licence`.

    Returns
    -------
    ImportedSnapshot
        Kind genes: id, symbol, biotype, contig, 0-based start and strand of every gene; length is the median of its
        transcripts' summed exons in bp, halves rounded down, 0 where the file has no exons. `report` says what was
        dropped or mended.

    Raises
    ------
    OntologyInputError
        When the file is too large, is damaged gzip, holds no gene, or none of the organism's form of id.

    Notes
    -----
    Attributes read, first found first: gene_id, else ID; gene_name, symbol, Name or gene; gene_biotype, gene_type or
    biotype; gene_synonym. NCBI's files name genes by symbol (GTF) or `gene-SYMBOL` (GFF3): ids are symbols then, and
    contigs accessions. Genes that only exons mention (rows of their own left out) are made from them and counted.
    """
    found = get_organism(organism)
    check_about(about)
    source, tally = Path(path), Tally()
    with open_text(source) as stream:
        read, held = _scan(stream, tally)
    rows = _rows(held, tally)
    if rows.empty:
        raise OntologyInputError("path", str(source), f"GTF or GFF3 with genes; {tally.report(read, 0)}")
    frame = clean_genes(rows, found, 1, tally)
    return keep_import("genes", found, frame, {"source": source.name, **about}, tally.report(read, len(frame)))


def _scan(stream: IO[str], tally: Tally) -> tuple[int, _Found]:
    """Read every line; return how many are no comments, and what they hold."""
    held, number, read = _Found(), 0, 0
    while line := stream.readline(LINE_LIMIT):
        number += 1
        if not line.endswith("\n") and len(line) == LINE_LIMIT:
            tally.add("lines that are too long", [f"line {number}"])
            while (rest := stream.readline(LINE_LIMIT)) and not rest.endswith("\n"):
                pass
            continue
        if line.startswith("##FASTA"):
            break  # sequence from here on
        if line.startswith("#") or not line.strip():
            continue
        read += 1
        if fault := _take(line, held):
            tally.add(fault, [f"line {number}"])
        transcripts = max(len(held.owner), len(held.lengths))
        if len(held.genes) + len(held.spans) > GENE_LIMIT or transcripts > TRANSCRIPT_LIMIT:
            raise OntologyInputError("path", f"{number} lines", f"at most {GENE_LIMIT:,} genes")
    return read, held


def _take(line: str, held: _Found) -> str:
    """Take in one line; return what is wrong with it, or an empty string."""
    fields = line.rstrip("\r\n").split("\t")
    if len(fields) != 9:
        return "lines without nine fields"
    contig, _, feature, start, end, _, strand, _, text = fields
    is_gene, is_exon = feature in GENES, feature in PARTS
    gff = "=" in text and not _QUOTED.match(text.lstrip())
    if not is_gene and not is_exon and not (gff and "Parent=" in text):
        return ""
    names = _attributes(text, gff=gff)
    if is_gene:
        gene = names.get("gene_id") or _bare(names.get("ID", ""))
        if not gene:
            return "genes without an id"
        if gene in held.genes:
            return "further rows of a gene left out"  # NCBI has one per place, e.g. on X and Y
        held.genes[gene] = _gene_row(gene, names, contig, start, end, strand)
        return ""
    parents = [each for each in dict.fromkeys(names.get("Parent", "").split(",")) if each]
    if not is_exon:  # a transcript of GFF3: whose it is
        held.owner.setdefault(names.get("ID", ""), _bare(parents[0] if parents else ""))
        return ""
    if not (_WHOLE.fullmatch(start) and _WHOLE.fullmatch(end) and 0 < int(start) <= int(end)):
        return "exons that are no stretch of whole numbers"
    if gff and parents:  # GFF3 writes an exon that several transcripts share once
        transcripts = parents
    else:
        gene = names.get("gene_id", "")
        # Exons that name no transcript make up one of their gene's; a tab keeps its name apart from every id.
        transcripts = [names.get("transcript_id") or (f"\t{gene}" if gene else "")]
        if transcripts == [""]:
            return "exons that name neither transcript nor gene"
        if gene:
            held.owner.setdefault(transcripts[0], gene)
            _extend(held.spans, gene, contig, int(start), int(end), strand)
    for transcript in transcripts:
        held.lengths[transcript] = held.lengths.get(transcript, 0) + int(end) - int(start) + 1
    return ""


def _extend(spans: dict[str, list[Any]], gene: str, contig: str, start: int, end: int, strand: str) -> None:
    span = spans.setdefault(gene, [contig, start, end, strand])
    if span[0] == contig:
        span[1], span[2] = min(span[1], start), max(span[2], end)


def _attributes(text: str, *, gff: bool) -> dict[str, str]:
    """Return the last field as a mapping; several values of one name are joined by `|`."""
    if gff:
        pairs = [part.strip().partition("=")[::2] for part in text.split(";") if "=" in part]
        return {name: unquote(value) for name, value in pairs}
    names: dict[str, list[str]] = {}
    for name, quoted, plain in _QUOTED.findall(text):
        names.setdefault(name, []).append(quoted or plain)
    return {name: "|".join(values) for name, values in names.items()}


def _bare(identifier: str) -> str:
    """Return an id of GFF3 without the kind that Ensembl and NCBI put before it (`gene:`, `gene-`)."""
    return re.sub(r"^(?:gene|transcript|rna)[:-]", "", identifier)


def _gene_row(gene: str, names: Mapping[str, str], contig: str, start: str, end: str, strand: str) -> dict[str, str]:
    symbol = names.get("gene_name") or names.get("symbol") or names.get("Name") or names.get("gene") or ""
    biotype = names.get("gene_biotype") or names.get("gene_type") or names.get("biotype") or ""
    synonyms = names.get("gene_synonym", "").replace(",", "|")
    return {
        "id": gene, "symbol": symbol, "biotype": biotype, "contig": contig, "start": start, "end": end,
        "strand": strand, "synonyms": synonyms,
    }  # fmt: skip


def _rows(held: _Found, tally: Tally) -> pd.DataFrame:
    """Return one text row per gene, lengths joined on."""
    alone = [gene for gene in held.spans if gene not in held.genes]
    tally.add("genes without a row of their own, made from their exons", alone)
    for gene in alone:
        contig, start, end, strand = held.spans[gene]
        held.genes[gene] = _gene_row(gene, {}, contig, str(start), str(end), strand)
    by_gene: dict[str, list[int]] = {}
    for transcript, length in held.lengths.items():
        # Exons of GFF3 hang below transcripts; those of NCBI's tRNAs and pseudogenes may hang below the gene itself.
        gene = held.owner.get(transcript) or _bare(transcript)
        by_gene.setdefault(gene, []).append(length)
    for gene, row in held.genes.items():
        row["length"] = str(int(median(by_gene[gene]))) if gene in by_gene else ""
    return pd.DataFrame(list(held.genes.values()))
