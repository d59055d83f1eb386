"""GTF and GFF3: the genes that went into a file come out of it, in every flavour, and a hostile line stops nothing."""

from __future__ import annotations

import gzip
import time
from statistics import median
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ontology import GeneTable, OntologyInputError, load_gene_table
from ontology import gtf as module
from ontology.gtf import import_gtf
from ontology.snapshots import read_table

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd

S = "ENSOARG0000000000"
ABOUT = {"release": "Ensembl 114", "licence": "none"}
ENSEMBL = """\
#!genome-build ARS-UI_Ramb_v2.0
1	ensembl	gene	101	900	.	-	.	gene_id "ENSOARG00000000002"; gene_version "4"; gene_name "ACTB"; gene_source "ensembl"; gene_biotype "protein_coding";
1	ensembl	transcript	101	900	.	-	.	gene_id "ENSOARG00000000002"; transcript_id "ENSOART01"; gene_name "ACTB";
1	ensembl	exon	101	200	.	-	.	gene_id "ENSOARG00000000002"; transcript_id "ENSOART01"; exon_number "1";
1	ensembl	exon	801	900	.	-	.	gene_id "ENSOARG00000000002"; transcript_id "ENSOART01"; exon_number "2";
1	ensembl	exon	101	151	.	-	.	gene_id "ENSOARG00000000002"; transcript_id "ENSOART02"; exon_number "1";
MT	ensembl	gene	1	70	.	+	.	gene_id "ENSOARG00000000001"; gene_biotype "Mt_tRNA";
"""  # noqa: E501 - lines as they are
GENCODE = """\
##description: made by hand in GENCODE's way
chr1	HAVANA	gene	101	900	.	-	.	gene_id "ENSOARG00000000002.4"; gene_type "protein_coding"; gene_name "ACTB"; level 2;
chr1	HAVANA	exon	101	200	.	-	.	gene_id "ENSOARG00000000002.4"; transcript_id "ENSOART01.1"; exon_number 1; level 2;
chr1	HAVANA	exon	801	900	.	-	.	gene_id "ENSOARG00000000002.4"; transcript_id "ENSOART01.1"; exon_number 2; level 2;
chr1	HAVANA	exon	101	151	.	-	.	gene_id "ENSOARG00000000002.4"; transcript_id "ENSOART02.1"; exon_number 1; level 2;
chrM	ENSEMBL	gene	1	70	.	+	.	gene_id "ENSOARG00000000001.1"; gene_type "Mt_tRNA"; gene_name "ENSOARG00000000001";
"""  # noqa: E501 - lines as they are
GFF3 = """\
##gff-version 3
1	ensembl	gene	101	900	.	-	.	ID=gene:ENSOARG00000000002;Name=ACTB;biotype=protein_coding;description=actin%3B beta;gene_id=ENSOARG00000000002
1	ensembl	mRNA	101	900	.	-	.	ID=transcript:ENSOART01;Parent=gene:ENSOARG00000000002;biotype=protein_coding
1	ensembl	exon	101	200	.	-	.	Parent=transcript:ENSOART01;Name=E1
1	ensembl	exon	801	900	.	-	.	Parent=transcript:ENSOART01;Name=E2
1	ensembl	mRNA	101	151	.	-	.	ID=transcript:ENSOART02;Parent=gene:ENSOARG00000000002
1	ensembl	exon	101	151	.	-	.	Parent=transcript:ENSOART02;Name=E1
MT	ensembl	ncRNA_gene	1	70	.	+	.	ID=gene:ENSOARG00000000001;biotype=Mt_tRNA;gene_id=ENSOARG00000000001
##FASTA
>1
ACGT
"""  # noqa: E501 - lines as they are


def put(folder: Path, text: str, name: str = "x.gtf") -> Path:
    path = folder / name
    path.write_bytes(gzip.compress(text.encode(), mtime=0) if name.endswith(".gz") else text.encode())
    return path


def rows(frame: pd.DataFrame) -> list[tuple]:
    return list(frame.drop(columns="synonyms").itertuples(index=False, name=None))


@pytest.mark.parametrize(
    ("text", "contigs", "name"),
    [
        (ENSEMBL, ("MT", "1"), "x.gtf"),
        (ENSEMBL, ("MT", "1"), "x.gtf.gz"),
        (ENSEMBL.replace("\n", "\r\n"), ("MT", "1"), "x.gtf"),
        (GENCODE, ("chrM", "chr1"), "x.gtf"),
        (GFF3, ("MT", "1"), "x.gff3"),
    ],
    ids=["ensembl", "gzip", "windows", "gencode", "gff3"],
)
def test_every_flavour_gives_the_same_genes(
    text: str, contigs: tuple[str, str], name: str, own_home: Path, tmp_path: Path
) -> None:
    made = import_gtf("sheep", put(tmp_path, text, name), ABOUT)
    symbol = "ENSOARG00000000001" if text is GENCODE else ""
    assert rows(read_table(made)) == [
        ("ENSOARG00000000001", symbol, "Mt_tRNA", 0, contigs[0], 0, 1),
        # Isoforms of 200 and 51 bp: the median is 125.5, halves rounded down.
        ("ENSOARG00000000002", "ACTB", "protein_coding", 125, contigs[1], 100, -1),
    ]
    assert dict(made.report.faults) == ({"versions taken off id": 2} if text is GENCODE else {})
    table = load_gene_table("sheep")
    assert table.mito is not None  # MT, or chrM in GENCODE's spelling
    assert table.mito.tolist() == [True, False]
    assert (made.source, made.licence) == (name, "none")


def test_ncbi_names_genes_by_symbol(own_home: Path, tmp_path: Path) -> None:
    from ontology.own_organisms import add_organism_row

    add_organism_row("axolotl", "Ambystoma mexicanum", 8296)
    text = (
        "NC_1.1\tGnomon\tgene\t11\t90\t.\t+\t.\t"
        'gene_id "TP53"; transcript_id ""; db_xref "GeneID:1"; gbkey "Gene"; gene "TP53"; '
        'gene_biotype "protein_coding"; gene_synonym "P53"; gene_synonym "LFS1"; note "semi; colon"; \n'
        'NC_1.1\tGnomon\texon\t11\t20\t.\t+\t.\tgene_id "TP53"; transcript_id "XM_1.1"; gene "TP53"; \n'
    )
    frame = read_table(import_gtf("axolotl", put(tmp_path, text), ABOUT))
    assert frame.to_dict("records") == [
        {
            "id": "TP53", "symbol": "TP53", "biotype": "protein_coding", "length": 10, "contig": "NC_1.1", "start": 10,
            "strand": 1, "synonyms": "P53|LFS1",
        }
    ]  # fmt: skip
    text = (
        "NC_1.1\tGnomon\tgene\t11\t90\t.\t+\t.\tID=gene-TP53;Dbxref=GeneID:1;Name=TP53;gene_biotype=protein_coding;"
        "gene_synonym=P53,LFS1\n"
        "NC_1.1\tGnomon\tmRNA\t11\t90\t.\t+\t.\tID=rna-XM_1.1;Parent=gene-TP53;gene=TP53\n"
        "NC_1.1\tGnomon\texon\t11\t20\t.\t+\t.\tID=exon-XM_1.1-1;Parent=rna-XM_1.1;gene=TP53;transcript_id=XM_1.1\n"
    )
    assert read_table(import_gtf("axolotl", put(tmp_path, text, "x.gff"), ABOUT)).equals(frame)


def test_genes_that_only_exons_mention_are_made_from_them(own_home: Path, tmp_path: Path) -> None:
    text = "".join(line + "\n" for line in ENSEMBL.splitlines() if "\texon\t" in line)
    made = import_gtf("sheep", put(tmp_path, text), ABOUT)
    assert rows(read_table(made)) == [("ENSOARG00000000002", "", "", 125, "1", 100, -1)]
    assert dict(made.report.faults) == {"genes without a row of their own, made from their exons": 1}


HOSTILE = {
    "lines without nine fields": "garbage\n",
    "genes without an id": '1\tx\tgene\t1\t2\t.\t+\t.\tcolour "red";\n',
    "further rows of a gene left out": ENSEMBL.splitlines(keepends=True)[1],
    "exons that are no stretch of whole numbers": '1\tx\texon\t9\t2\t.\t+\t.\tgene_id "a"; transcript_id "b";\n',
    "lines that are too long": "1\tx\tgene\t" + "9" * (1 << 18) + "\n",
    "start that is no whole number from 0 on": '1\tx\tgene\tone\t2\t.\t+\t.\tgene_id "ENSOARG00000000003";\n',
    "ends before their start, position dropped": '1\tx\tgene\t9\t2\t.\t+\t.\tgene_id "ENSOARG00000000003";\n',
    "strands that are neither + nor -": '1\tx\tgene\t1\t2\t.\tup\t.\tgene_id "ENSOARG00000000003";\n',
}


@pytest.mark.parametrize("fault", HOSTILE)
def test_hostile_lines_are_counted_and_named(fault: str, own_home: Path, tmp_path: Path) -> None:
    made = import_gtf("sheep", put(tmp_path, ENSEMBL + HOSTILE[fault]), ABOUT)
    assert dict(made.report.faults) == {fault: 1}
    if "ENSOARG00000000003" not in HOSTILE[fault]:
        assert made.report.examples[fault] == ("'line 8'",)
    frame = read_table(made)
    kept = frame[frame["id"] != "ENSOARG00000000003"]
    assert kept["start"].tolist() == [0, 100]
    assert kept["length"].tolist() == [0, 125]


def lines_of(*rows: tuple[str, int, int, str]) -> str:
    return "".join(f"1\tx\t{feature}\t{a}\t{b}\t.\t+\t.\t{text}\n" for feature, a, b, text in rows)


def test_an_exon_counts_for_every_transcript_that_shares_it(own_home: Path, tmp_path: Path) -> None:
    text = lines_of(
        ("gene", 1, 1000, f"ID=gene:{S}1"),
        ("mRNA", 1, 1000, f"ID=T1;Parent=gene:{S}1"),
        ("mRNA", 1, 1000, f"ID=T2;Parent=gene:{S}1"),
        ("exon", 1, 100, "Parent=T1"),
        ("exon", 201, 1000, "Parent=T1,T2"),
    )
    made = import_gtf("sheep", put(tmp_path, text, "x.gff3"), ABOUT)
    assert read_table(made)["length"].tolist() == [850]  # the median of 900 and 800


def test_exons_without_a_transcript_are_their_own_genes(own_home: Path, tmp_path: Path) -> None:
    text = lines_of(
        ("exon", 101, 200, f'gene_id "{S}1";'),
        ("exon", 301, 310, f'gene_id "{S}1";'),
        ("exon", 501, 550, f'gene_id "{S}2";'),
        ("exon", 1, 9, 'note "of nobody";'),
    )
    made = import_gtf("sheep", put(tmp_path, text), ABOUT)
    assert read_table(made)["length"].tolist() == [110, 50]
    assert made.report.faults["exons that name neither transcript nor gene"] == 1


def test_a_line_of_one_long_word_is_read_in_no_time() -> None:
    start = time.process_time()
    named = module._attributes(f'gene_id "x;1"; {"a" * 100_000}; tag "b" ;tag c', gff=False)
    assert time.process_time() - start < 1  # from each letter anew it took a minute
    assert named == {"gene_id": "x;1", "tag": "b|c"}


@pytest.mark.parametrize("text", ["", "##gff-version 3\n", "<html>", ENSEMBL.replace("ENSOARG", "ENSBTAG")])
def test_a_file_without_its_genes_is_refused(text: str, own_home: Path, tmp_path: Path) -> None:
    with pytest.raises(OntologyInputError):
        import_gtf("sheep", put(tmp_path, text), ABOUT)
    assert not own_home.exists()


def test_too_many_genes_are_refused(own_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "GENE_LIMIT", 1)
    with pytest.raises(OntologyInputError, match="at most 1 genes"):
        import_gtf("sheep", put(tmp_path, ENSEMBL), ABOUT)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=80)
@given(data=st.lists(st.one_of(st.sampled_from(ENSEMBL.splitlines()), st.sampled_from(GFF3.splitlines()), st.text())))
def test_any_lines_are_genes_or_refused(data: list[str], own_home: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.gtf"
    path.write_bytes("\n".join(data).encode("utf-8", "surrogatepass"))
    try:
        made = import_gtf("sheep", path, ABOUT)
    except OntologyInputError:
        return
    assert set(read_table(made)["id"]) <= {"ENSOARG00000000001", "ENSOARG00000000002"}


def as_gtf(table: GeneTable, picks: np.ndarray, lengths: dict[int, list[int]]) -> str:
    """Write genes of a table the way Ensembl does, each with isoforms of the given lengths, of one exon or two."""
    lines = ["#!genome-build made from a table"]
    for i in picks.tolist():
        start, sign = int(table.starts[i]) + 1, "+" if table.strands[i] > 0 else "-"
        end = start + max(lengths[i]) + 9
        name = f' gene_name "{table.symbols[i]}";' if table.symbols[i] != table.ids[i] else ""
        head = f'gene_id "{table.ids[i]}"; gene_version "3";{name} gene_biotype "{table.biotypes[i]}";'
        lines.append(f"{table.contigs[i]}\tx\tgene\t{start}\t{end}\t.\t{sign}\t.\t{head}")
        for n, length in enumerate(lengths[i]):
            tail = f'{head} transcript_id "T{i}.{n}";'
            half = length // 2
            spans = [(start, start + half - 1), (start + half + 5, start + length + 4)] if half else [(start, start)]
            lines += [f"{table.contigs[i]}\tx\texon\t{a}\t{b}\t.\t{sign}\t.\t{tail}" for a, b in spans]
    return "\n".join(lines) + "\n"


@pytest.mark.index
def test_a_real_table_goes_there_and_back(real: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    human = load_gene_table("human")
    rng = np.random.default_rng(0)
    picks = rng.choice(len(human), 3_000, replace=False)
    lengths = {int(i): rng.integers(1, 3_000, rng.integers(1, 5)).tolist() for i in picks}
    path = put(tmp_path, as_gtf(human, picks, lengths), "human.gtf.gz")
    monkeypatch.setenv("PANATLAS_HOME", str(tmp_path / "home"))
    made = import_gtf("human", path, ABOUT)
    assert dict(made.report.faults) == {}
    frame, order = read_table(made), np.sort(picks)
    assert frame["id"].tolist() == human.ids[order].tolist()
    assert frame["start"].tolist() == human.starts[order].tolist()
    assert frame["strand"].tolist() == human.strands[order].tolist()
    assert frame["contig"].tolist() == human.contigs[order].tolist()
    assert frame["biotype"].tolist() == human.biotypes[order].tolist()
    assert frame["length"].tolist() == [int(median(lengths[i])) for i in order.tolist()]
    assert np.where(frame["symbol"] == "", frame["id"], frame["symbol"]).tolist() == human.symbols[order].tolist()
