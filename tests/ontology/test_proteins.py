"""One protein per gene: which one by which rule, from which files, and what is told of the rest."""

from __future__ import annotations

import gzip
import logging

import pandas as pd
import pytest

from ontology import (
    OntologyInputError,
    ReferenceMissingError,
    add_organism_row,
    get_organism,
    import_gtf,
    import_proteins,
    load_gene_table,
    load_proteins,
    proteins_by_ortholog,
    read_proteins,
)
from ontology.snapshots import save_table

ABOUT = {"release": "made by hand", "licence": "CC0-1.0"}
G1, G2, G3 = "ENSG00000000001", "ENSG00000000002", "ENSG00000000003"
CODING = "gene_biotype:protein_coding transcript_biotype:protein_coding"


def header(protein, gene, transcript, more=CODING, symbol="ABC1"):
    return (
        f">{protein}.2 pep chromosome:GRCh38:1:100:200:1 gene:{gene}.7 transcript:{transcript}.3 {more} "
        f"gene_symbol:{symbol} description:made of gene:ENSG99999999999.1 [Source:HGNC Symbol;Acc:HGNC:1]"
    )


def write(tmp_path, text, name="pep.all.fa"):
    path = tmp_path / name
    path.write_text(text)
    return path


@pytest.fixture
def pep(tmp_path):
    """Three genes: the first with a short canonical and a long other, the second a tie, the third not coding."""
    records = [
        (header("ENSP00000000011", G1, "ENST00000000011", CODING + " tag:Ensembl_canonical"), "MKLVW"),
        (header("ENSP00000000012", G1, "ENST00000000012"), "MKLVWQERTY"),
        (header("ENSP00000000022", G2, "ENST00000000022"), "MKLVWA"),
        (header("ENSP00000000021", G2, "ENST00000000021"), "MKLVWC"),
        (header("ENSP00000000023", G2, "ENST00000000023",
                "gene_biotype:protein_coding transcript_biotype:nonsense_mediated_decay"), "MKLVWCCCCCC"),
        (header("ENSP00000000031", G3, "ENST00000000031",
                "gene_biotype:TR_J_gene transcript_biotype:TR_J_gene"), "MKLVW"),
    ]  # fmt: skip
    return write(tmp_path, "".join(f"{head}\n{sequence}\n" for head, sequence in records))


def chosen(proteins):
    return {row.gene: (row.protein, row.rule) for row in proteins.frame.itertuples()}


def test_a_tag_comes_before_length_and_ties_go_to_the_smallest_id(pep):
    found = read_proteins("human", pep)
    assert chosen(found) == {G1: ("ENSP00000000011", "tagged"), G2: ("ENSP00000000021", "longest")}
    assert found.rules == {"tagged": 1, "longest": 1}
    assert found.frame.to_dict("list") == {
        "gene": [G1, G2],
        "protein": ["ENSP00000000011", "ENSP00000000021"],
        "symbol": ["ABC1", "ABC1"],
        "length": [5, 6],
        "rule": ["tagged", "longest"],
        "sequence": ["MKLVW", "MKLVWC"],
    }
    assert (found.report.read, found.report.kept) == (6, 2)
    assert dict(found.report.faults) == {"protein whose gene or transcript is not protein_coding, left out": 2}


@pytest.mark.parametrize(
    ("told", "rule"),
    [("tag:basic,MANE_Select", "tagged"), ("MANE Select", "tagged"), ("canonical:1", "tagged"),
     ("canonical:0", "longest"), ("non_canonical:1x", "longest"), ("", "longest")],
)  # fmt: skip
def test_tags(tmp_path, told, rule):
    long = header("ENSP00000000012", G1, "ENST00000000012")
    short = header("ENSP00000000011", G1, "ENST00000000011", f"{CODING} {told}")
    found = read_proteins("human", write(tmp_path, f"{long}\nMKLVWQERTY\n{short}\nMKLVW\n"))
    assert chosen(found) == {G1: ("ENSP00000000011" if rule == "tagged" else "ENSP00000000012", rule)}


def test_longest_reads_no_tag(pep):
    assert chosen(read_proteins("human", pep, "longest"))[G1] == ("ENSP00000000012", "longest")


@pytest.mark.parametrize(
    "listing",
    [
        "ENST00000000012\n",
        "ENSP00000000012.9\n",
        "#gene\tEnsembl_nuc\tEnsembl_prot\tMANE_status\nABC\tENST00000000012.4\tENSP00000000012.4\tMANE Select\n"
        "ABC\tENST00000000011.4\tENSP00000000011.4\tMANE Plus Clinical\n",
    ],
)
def test_a_list_comes_before_tag_and_length(pep, tmp_path, listing):
    path = write(tmp_path, listing, "canonical.txt")
    found = read_proteins("human", pep, path)
    assert chosen(found) == {G1: ("ENSP00000000012", "listed"), G2: ("ENSP00000000021", "longest")}


def test_what_a_list_leaves_open_the_next_rules_decide(pep, tmp_path):
    both = "ENSP00000000011 ENSP00000000012 ENSP00000000022,ENST00000000021"
    found = read_proteins("human", pep, write(tmp_path, both, "list"))
    assert chosen(found) == {G1: ("ENSP00000000011", "listed"), G2: ("ENSP00000000021", "listed")}
    assert found.report.faults["gene with several listed proteins"] == 2


def test_a_list_that_is_none_is_refused(pep, tmp_path):
    with pytest.raises(OntologyInputError, match="exists"):
        read_proteins("human", pep, "cannonical")
    path = tmp_path / "list"
    path.write_bytes(b"\0\0")
    with pytest.raises(OntologyInputError, match="list of canonical ids"):
        read_proteins("human", pep, path)


@pytest.mark.parametrize(
    ("organism", "head", "gene", "protein", "symbol"),
    [
        ("arabidopsis", "AT3G05780.1 pep chromosome:TAIR10:3:1714941:1719608:-1 gene:AT3G05780 transcript:AT3G05780.1 "
         f"{CODING} gene_symbol:LON3 description:Lon protease", "AT3G05780", "AT3G05780.1", "LON3"),
        ("fly", f"FBpp0070000 pep primary_assembly:BDGP6:X:19961689:19968479:1 gene:FBgn0031081 "
         f"transcript:FBtr0070000 {CODING} gene_symbol:Nep3", "FBgn0031081", "FBpp0070000", "Nep3"),
        ("worm", f"2L52.1a.1 pep chromosome:WBcel235:II:1867:4663:1 gene:WBGene00007063.1 transcript:2L52.1a.1 "
         f"{CODING}", "WBGene00007063", "2L52.1a.1", ""),
        ("maize", f"Zm00001eb000010_P001 pep chromosome:B73:1:34617:40204:1 gene:Zm00001eb000010 "
         f"transcript:Zm00001eb000010_T001 {CODING}", "Zm00001eb000010", "Zm00001eb000010_P001", ""),
        ("tomato", f"Solyc01g005000.3.1 pep chromosome:SL3.0:1:1:9:1 gene:Solyc01g005000.3 "
         f"transcript:Solyc01g005000.3.1 {CODING}", "Solyc01g005000", "Solyc01g005000.3.1", ""),
        ("human", "ENSP00000493376.2|ENST00000641515.2|ENSG00000186092.7|OTTHUMG00000001094.4|"
         "OTTHUMT00000003223.4|OR4F5-201|OR4F5|326", "ENSG00000186092", "ENSP00000493376", "OR4F5"),
        ("human", "ENSG00000186092.7", "ENSG00000186092", "ENSG00000186092", ""),
    ],
)  # fmt: skip
def test_headers_of_the_world(tmp_path, organism, head, gene, protein, symbol):
    [row] = read_proteins(organism, write(tmp_path, f">{head}\nMKLVW\n")).frame.itertuples(index=False)
    assert (row.gene, row.protein, row.symbol, row.sequence) == (gene, protein, symbol, "MKLVW")


def test_repeats_are_told(tmp_path):
    rows = [("ENSP1", G1, "MKL"), ("ENSP1", G1, "MKL"), ("ENSP1", G2, "MKLVWWWW"), ("ENSP1", G3, "MKL")]
    text = "".join(f"{header(protein, gene, 'ENST1')}\n{sequence}\n" for protein, gene, sequence in rows)
    found = read_proteins("human", write(tmp_path, text))
    assert chosen(found) == {G1: ("ENSP1", "longest"), G3: ("ENSP1", "longest")}  # one protein may be of two genes
    assert dict(found.report.faults) == {"protein named twice": 1, "protein id with two sequences, the first kept": 1}
    assert found.report.read == 4


def test_another_organisms_file_is_refused(tmp_path, pep):
    with pytest.raises(OntologyInputError, match="proteins of mouse"):
        read_proteins("mouse", pep)
    mixed = write(tmp_path, ">ENSG00000000001\nMKLVW\n>ENSMUSG00000000001\nMKLVW\n>x\nMKLVW\n", "mixed.fa")
    with pytest.raises(OntologyInputError, match="1 fit, 2 do not"):
        read_proteins("human", mixed)


def test_a_few_strangers_are_told(tmp_path):
    path = write(tmp_path, f">{G1}\nMKLVW\n>{G2}\nMKLVW\n>LRG_1p1\nMKLVW\n")
    found = read_proteins("human", path)
    assert chosen(found) == {G1: (G1, "longest"), G2: (G2, "longest")}
    assert dict(found.report.faults) == {"protein whose gene is not of this organism, left out": 1}
    assert found.report.read == 3


def test_a_table_will_do(tmp_path):
    rows = {"taxon": [9606, 9606, 10090, 9606], "gid": [G1, G1, "ENSMUSG00000000001", G2],
            "acc": ["P1", "P2", "P3", None], "seq": ["MKL", "MKLV", "MKL", ""]}  # fmt: skip
    pd.DataFrame(rows).to_parquet(tmp_path / "t.parquet")
    pd.DataFrame(rows).to_csv(tmp_path / "t.tsv.gz", sep="\t", index=False)
    pd.DataFrame(rows).to_csv(tmp_path / "t.csv", index=False)
    for name in ("t.parquet", "t.tsv.gz", "t.csv"):
        found = read_proteins(
            "human",
            tmp_path / name,
            columns={"gene": "gid", "protein": "acc", "sequence": "seq"},
            where={"taxon": 9606},
        )
        assert found.frame.values.tolist() == [[G1, "P2", "", 4, "longest", "MKLV"]]
        assert dict(found.report.faults) == {"empty sequence, left out": 1}


@pytest.mark.parametrize(
    ("columns", "where"),
    [
        ({"gene": "gid"}, {}),
        ({"gene": "gid", "sequence": "nope"}, {}),
        ({"gene": "gid", "sequence": "seq", "x": "y"}, {}),
        ({"gene": "gid", "sequence": "seq"}, {"nope": 1}),
        ({"gene": "gid", "sequence": "seq"}, {"taxon": 1}),
    ],
)
def test_a_table_without_what_is_asked_is_refused(tmp_path, columns, where):
    pd.DataFrame({"taxon": [9606], "gid": [G1], "seq": ["MKL"]}).to_parquet(tmp_path / "t.parquet")
    with pytest.raises(OntologyInputError):
        read_proteins("human", tmp_path / "t.parquet", columns=columns, where=where)


def test_import_keeps_the_same_bytes(own_home, pep, tmp_path):
    with pytest.raises(ReferenceMissingError, match="panatlas references import proteins human FILE"):
        load_proteins("human")
    kept = import_proteins("human", pep, ABOUT)
    assert (kept.kind, kept.name, kept.rows, kept.source) == ("proteins", "human", 2, "pep.all.fa")
    assert kept.report.read == 6
    packed = tmp_path / "other.fa.gz"
    packed.write_bytes(gzip.compress(pep.read_bytes()))
    assert import_proteins("human", packed, ABOUT).sha256 == kept.sha256
    assert load_proteins("Homo sapiens")["gene"].tolist() == [G1, G2]


RAT = "ENSRNOG0000000000"


def rats(tmp_path, *genes):
    """Keep a gene table of an organism of the user's own, from a GTF file of GENCODE's way, versions and all."""
    add_organism_row("rat", "Rattus norvegicus", 10116)
    text = "".join(f'1\te\tgene\t1\t9\t.\t+\t.\tgene_id "{gene}";\n' for gene in genes)
    import_gtf("rat", write(tmp_path, text, "rat.gtf"), ABOUT)
    return load_gene_table("rat").ids.tolist()


def test_genes_and_proteins_of_an_own_organism_meet(own_home, tmp_path):
    ids = rats(tmp_path, f"{RAT}1.7", f"{RAT}2.1")
    text = "".join(f"{header(f'ENSRNOP{i}', f'{RAT}{i}', 'ENSRNOT1')}\nMKL{'V' * i}\n" for i in (2, 1))
    kept = import_proteins("rat", write(tmp_path, text), ABOUT)
    assert load_proteins("rat")[["gene", "length"]].to_numpy().tolist() == [[ids[0], 4], [ids[1], 5]]
    assert ids == [f"{RAT}1", f"{RAT}2"]
    assert dict(kept.report.faults) == {}


def test_dots_that_are_part_of_a_name_stay_where_the_gene_table_has_them(own_home, tmp_path):
    assert rats(tmp_path, "x.1", "x.2", "y.1") == ["x.1", "x.2", "y.1"]
    import_proteins("rat", write(tmp_path, ">x.1\nMKL\n>y.1\nMKV\n"), ABOUT)  # alone these two could do without
    assert load_proteins("rat")["gene"].tolist() == ["x.1", "y.1"]


@pytest.mark.parametrize(("strangers", "told"), [(1, 0), (2, 2)])
def test_a_file_most_of_whose_genes_are_not_in_the_gene_table_is_told(own_home, tmp_path, strangers, told, caplog):
    rats(tmp_path, f"{RAT}1", f"{RAT}2")
    genes = [f"{RAT}1", *[f"LOC{i}" for i in range(strangers)]]
    kept = import_proteins("rat", write(tmp_path, "".join(f">{gene}\nMKL\n" for gene in genes)), ABOUT)
    assert kept.report.faults.get("gene that is not in the gene table, kept", 0) == told
    assert ("'LOC0'" in caplog.text) == bool(told)
    assert len(load_proteins("rat")) == 1 + strangers


def test_a_refused_file_leaves_the_former(own_home, pep, tmp_path):
    kept = import_proteins("human", pep, ABOUT)
    (tmp_path / "cut.fa.gz").write_bytes(gzip.compress(pep.read_bytes())[:-9])
    with pytest.raises(OntologyInputError, match="whole gzip"):
        import_proteins("human", tmp_path / "cut.fa.gz", ABOUT)
    with pytest.raises(OntologyInputError, match="release"):
        import_proteins("human", pep, {})
    assert kept.path.is_file()
    assert len(load_proteins("human")) == 2


class Pairs:
    """Orthologs by hand, in the shape of an `OrthologTable`."""

    def __init__(self, rows):
        self.rows = pd.DataFrame(rows, columns=["gene", "human_gene", "type"])

    def linked(self):
        return self.rows


def test_stand_ins_come_from_one2one_orthologs_of_genes_without_a_protein(own_home, pep, monkeypatch):
    sheep = [f"ENSOARG0000000000{i}" for i in range(1, 5)]
    rows = [(sheep[3], G2, "one2one"), (sheep[0], G1, "one2one"), (sheep[1], G2, "one2many"), (sheep[2], G3, "one2one")]
    monkeypatch.setattr("ontology.orthologs.load_orthologs", lambda organism: Pairs(rows))
    assert proteins_by_ortholog("sheep").empty  # no human proteins yet
    import_proteins("human", pep, ABOUT)
    own = pd.DataFrame([(sheep[0], "P", "", 3, "longest", "MKL")], columns=list(load_proteins("human").columns))
    assert proteins_by_ortholog("sheep")["gene"].tolist() == [sheep[0], sheep[3]]
    save_table("proteins", "sheep", own, {**ABOUT, "source": "hand"})
    found = proteins_by_ortholog("sheep")
    assert found.values.tolist() == [[sheep[3], "ENSP00000000021", "ABC1", 6, "ortholog", "MKLVWC"]]
    assert list(found.columns) == list(load_proteins("human").columns)
    assert proteins_by_ortholog("human").empty


def test_without_orthologs_there_are_no_stand_ins(own_home, pep, monkeypatch, caplog):
    def missing(organism):
        raise ReferenceMissingError("ortholog table", organism.name, "run panatlas references fetch orthologs sheep")

    monkeypatch.setattr("ontology.orthologs.load_orthologs", missing)
    import_proteins("human", pep, ABOUT)
    with caplog.at_level(logging.INFO):
        assert proteins_by_ortholog("sheep").empty
    assert "fetch orthologs sheep" in caplog.text


@pytest.mark.shared
def test_real_sequences_of_twelve_organisms(own_home, shared):
    table = shared / "bio" / "proteins_linked_1022aa.parquet"
    whole = pd.read_parquet(table)
    names = ("human", "mouse", "rhesus", "zebrafish", "pig", "fly", "chicken", "rabbit", "cow", "chimpanzee", "worm",
             "marmoset")  # fmt: skip
    for name in names:
        organism = get_organism(name)
        expected = whole[whole["taxon_id"] == organism.taxon].set_index("gene_id")["sequence"].sort_index()
        import_proteins(
            name, table, {"release": "2014-01"}, where={"taxon_id": organism.taxon},
            columns={"gene": "gene_id", "protein": "uniprot", "sequence": "sequence"},
        )  # fmt: skip
        pd.testing.assert_series_equal(
            load_proteins(name).set_index("gene")["sequence"], expected, check_names=False, check_dtype=False
        )
