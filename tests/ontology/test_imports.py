"""A user's own tables: every format gives the same snapshot, every fault is an error or counted, nothing is guessed."""

from __future__ import annotations

import gzip
import io
import re
from typing import TYPE_CHECKING

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ontology import OntologyInputError, get_organism, load_gene_table
from ontology import table_files as module
from ontology.gene_rows import GENE_COLUMNS, ORTHOLOG_COLUMNS, clean_genes
from ontology.imports import ImportedSnapshot, import_table
from ontology.snapshots import find_snapshot, read_table
from ontology.text_files import Tally

if TYPE_CHECKING:
    from pathlib import Path

    from ontology.organisms import Organism

ABOUT = {"release": "Ensembl 114"}
COLUMNS = {"id": "gene", "symbol": "name", "biotype": "kind", "contig": "chr", "start": "from", "end": "to"}
COLUMNS |= {"strand": "sense", "length": "bp", "synonyms": "other"}
ROWS = [
    ("ENSOARG00000000002", "ACTB", "protein_coding", "1", "101", "200", "-", "90", "BACT|ACTG"),
    ("ENSOARG00000000001", "", "lncRNA", "MT", "1", "50", "1", "", ""),
]
"""Two genes of the sheep, positions counted from 1."""


def table(rows: list[tuple[str, ...]] = ROWS) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=list(COLUMNS.values()))


def write(folder: Path, frame: pd.DataFrame, name: str) -> Path:
    path = folder / name
    if name.endswith(".parquet"):
        frame.to_parquet(path, index=False)
    else:
        text = frame.to_csv(index=False, sep="," if ".csv" in name else "\t").encode()
        path.write_bytes(gzip.compress(text, mtime=0) if name.endswith(".gz") else text)
    return path


def take(folder: Path, rows: list[tuple[str, ...]], organism: str = "sheep", **more: int) -> ImportedSnapshot:
    return import_table("genes", organism, write(folder, table(rows), "x.csv"), COLUMNS, ABOUT, **more)


def test_what_is_kept(own_home: Path, tmp_path: Path) -> None:
    made = take(tmp_path, ROWS)
    assert (made.kind, made.name, made.source, made.release, made.rows) == ("genes", "sheep", "x.csv", "Ensembl 114", 2)
    assert made.report.faults == {}
    frame = read_table(made)
    assert tuple(frame.columns) == GENE_COLUMNS
    assert frame.to_dict("records") == [
        {
            "id": "ENSOARG00000000001", "symbol": "", "biotype": "lncRNA", "length": 0, "contig": "MT", "start": 0,
            "strand": 1, "synonyms": "",
        },
        {
            "id": "ENSOARG00000000002", "symbol": "ACTB", "biotype": "protein_coding", "length": 90, "contig": "1",
            "start": 100, "strand": -1, "synonyms": "BACT|ACTG",
        },
    ]  # fmt: skip
    assert find_snapshot("genes", "sheep") is not None
    sheep = load_gene_table("sheep")
    assert sheep.ids.tolist() == ["ENSOARG00000000001", "ENSOARG00000000002"]
    assert sheep.release == "Ensembl 114"
    assert sheep.mito is not None
    assert sheep.mito.tolist() == [True, False]


@pytest.mark.parametrize("name", ["x.csv", "x.tsv", "x.csv.gz", "x.txt.gz", "x.parquet"])
def test_every_format_gives_the_same_bytes(name: str, own_home: Path, tmp_path: Path) -> None:
    path = write(tmp_path, table(), name)
    once = import_table("genes", "sheep", path, COLUMNS, ABOUT)
    assert once.sha256 == import_table("genes", "sheep", path, COLUMNS, ABOUT).sha256
    assert once.sha256 == take(tmp_path, ROWS[::-1]).sha256


def test_where_takes_the_rows_of_one_organism(own_home: Path, tmp_path: Path) -> None:
    both = pd.concat(
        [table().assign(taxon=9940, ok=True), table([("ENSBTAG00000000001", *ROWS[0][1:])]).assign(taxon=9913)]
    )
    path = write(tmp_path, both, "both.parquet")
    made = import_table("genes", "cow", path, COLUMNS, ABOUT, where={"taxon": 9913})
    assert read_table(made)["id"].tolist() == ["ENSBTAG00000000001"]
    made = import_table("genes", "sheep", path, COLUMNS, ABOUT, where={"taxon": 9940, "ok": True})
    assert (made.rows, made.report.read) == (2, 2)
    with pytest.raises(OntologyInputError, match="some of the 3 rows"):
        import_table("genes", "cow", path, COLUMNS, ABOUT, where={"taxon": 9606})


S = "ENSOARG0000000000"
NO_START = "start that is no whole number from 0 on"
NO_TEXT = "symbol that cannot be printed or is longer than 2000 characters blanked"
FAULTS = [
    (("", *ROWS[0][1:]), "rows without id dropped", None),
    (("-", *ROWS[0][1:]), "rows without id dropped", None),
    ((f"{S}1", "B", *ROWS[0][2:]), "further rows of an id left out", None),
    ((f"{S}3.12", *ROWS[0][1:]), "versions taken off id", (f"{S}3", 100)),
    (("ENSBTAG00000000001", *ROWS[0][1:]), "id of another form than sheep's kept", ("ENSBTAG00000000001", 100)),
    (("two words", *ROWS[0][1:]), "id with blanks or bars dropped", None),
    (("x" * 129, *ROWS[0][1:]), "id of more than 128 characters dropped", None),
    ((f"{S}3", "", "", "1", "1.5", "9", "", "", ""), NO_START, (f"{S}3", -1)),
    ((f"{S}3", "", "", "1", "-7", "9", "", "", ""), NO_START, (f"{S}3", -1)),
    ((f"{S}3", "", "", "1", "9" * 13, "", "", "", ""), NO_START, (f"{S}3", -1)),
    ((f"{S}3", "", "", "1", "1_0", "", "", "", ""), NO_START, (f"{S}3", -1)),
    ((f"{S}3", "", "", "1", "\N{ARABIC-INDIC DIGIT ONE}", "", "", "", ""), NO_START, (f"{S}3", -1)),
    ((f"{S}3", "", "", "1", "0", "9", "", "", ""), "starts before the first base, position dropped", (f"{S}3", -1)),
    ((f"{S}3", "", "", "1", "10", "9", "", "", ""), "ends before their start, position dropped", (f"{S}3", -1)),
    ((f"{S}3", "", "", "", "10", "19", "", "", ""), "starts without a contig, position dropped", (f"{S}3", -1)),
    ((f"{S}3", "", "", "1", "10", "19", "up", "", ""), "strands that are neither + nor -", (f"{S}3", 9)),
    ((f"{S}3", "", "", "1", "10", "19", "", "long", ""), "length that is no whole number from 0 on", (f"{S}3", 9)),
    ((f"{S}3", "a\x07b", "", "1", "10", "19", "", "", ""), NO_TEXT, (f"{S}3", 9)),
    ((f"{S}3", "", "", "1", "10.0", "19", ".", "NA", ""), None, (f"{S}3", 9)),
]  # fmt: skip


@pytest.mark.parametrize(("row", "fault", "kept"), FAULTS, ids=[f"{i}" for i in range(len(FAULTS))])
def test_faults_are_counted(
    row: tuple[str, ...], fault: str | None, kept: tuple[str, int] | None, own_home: Path, tmp_path: Path
) -> None:
    made = take(tmp_path, [*ROWS, row])
    assert dict(made.report.faults) == ({fault: 1} if fault else {})
    frame = read_table(made).set_index("id")["start"]
    others = frame.drop(kept[0]) if kept else frame
    assert others.to_dict() == {f"{S}1": 0, f"{S}2": 100}
    if kept:
        assert frame[kept[0]] == kept[1]
    if fault:
        assert re.search(rf"1 {re.escape(fault)} \(such as '", str(made.report))


def test_the_first_of_two_rows_is_kept(own_home: Path, tmp_path: Path) -> None:
    made = take(tmp_path, [(f"{S}1.2", "FIRST", *ROWS[0][2:]), (f"{S}1.1", "SECOND", *ROWS[0][2:])])
    assert read_table(made)["symbol"].tolist() == ["FIRST"]
    assert made.report.examples["further rows of an id left out"] == (f"'{S}1'",)


def test_bed_counts_from_zero(own_home: Path, tmp_path: Path) -> None:
    row = (f"{S}1", "", "", "1", "0", "1", "", "", "")
    made = take(tmp_path, [row], base=0)
    assert read_table(made)["start"].tolist() == [0]
    assert made.report.faults == {}


@pytest.mark.parametrize(
    ("call", "match"),
    [
        ({"kind": "proteins"}, "kind='proteins'"),
        ({"columns": {"symbol": "name"}}, "also id"),
        ({"columns": {"id": "gene", "colour": "x"}}, "colour"),
        ({"columns": {"id": "Gene"}}, r"\['Gene'\] is not allowed; expected columns of .*'gene', 'name'"),
        ({"where": {"taxon": 1}}, r"columns=\['taxon'\]"),
        ({"base": 2}, "0 or 1"),
        ({"about": {}}, "a release"),
        ({"about": {"release": "a\nb"}}, "printable"),
        ({"about": {"release": "a", "colour": "b"}}, "source, release and licence"),
        ({"path": "nowhere.csv"}, "a file that exists"),
        ({"path": "."}, "a file that exists"),
        ({"kind": "orthologs", "organism": "human", "columns": {}}, "another organism"),
        ({"kind": "orthologs", "columns": {"gene": "gene"}}, "also human_gene"),
        ({"organism": "mouse"}, r"ids of mouse, of the form ENSMUSG"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_bad_call_keeps_nothing(call: dict, match: str, own_home: Path, tmp_path: Path) -> None:
    plain = {"kind": "genes", "organism": "sheep", "path": write(tmp_path, table(), "x.csv"), "columns": COLUMNS}
    with pytest.raises(OntologyInputError, match=match):
        import_table(**(plain | {"about": ABOUT} | call))
    assert not own_home.exists()


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("empty.csv", b""),
        ("header.csv", b"gene,name,kind,chr,from,to,sense,bp,other\n"),
        ("twice.csv", b"gene,gene\nx,y\n"),
        ("ragged.csv", b"gene,name,kind,chr,from,to,sense,bp,other\n1,2,3,4,5,6,7,8,9\n1,2,3,4,5,6,7,8,9,10,11\n"),
        ("quote.csv", b'gene,name,kind,chr,from,to,sense,bp,other\n"1,2,3,4,5,6,7,8,9\n'),
        ("binary.tsv", bytes(range(256)) * 40),
        ("cut.csv.gz", gzip.compress(b"gene,name\n" * 1000)[:-20]),
        ("not.csv.gz", b"\x1f\x8b and then nothing of the kind"),
        ("cut.parquet", b"PAR1 and then nothing of the kind"),
        ("page.html", b"<html>not found</html>"),
        ("blank.csv", b"gene,name,kind,chr,from,to,sense,bp,other\n,,,,,,,,\nNA,,,,,,,,\n"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_file_that_is_no_table(name: str, data: bytes, own_home: Path, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(OntologyInputError):
        import_table("genes", "sheep", tmp_path / name, COLUMNS, ABOUT)
    assert not own_home.exists()


def test_bounds(own_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = tmp_path / "bomb.csv.gz"
    bomb.write_bytes(gzip.compress(b"gene\n" + b"x" * (64 << 20)))
    monkeypatch.setattr(module, "TABLE_LIMIT", 1 << 20)
    with pytest.raises(OntologyInputError, match="at most 1048576 bytes"):
        import_table("genes", "sheep", bomb, {"id": "gene"}, ABOUT)
    wide = write(tmp_path, pd.DataFrame({"gene": ["y" * 100 + str(i) for i in range(20_000)]}), "wide.parquet")
    with pytest.raises(OntologyInputError, match="at most 1048576 bytes"):
        import_table("genes", "sheep", wide, {"id": "gene"}, ABOUT)
    monkeypatch.setattr(module, "ROW_LIMIT", 1)
    for name in ("x.csv", "x.parquet"):
        with pytest.raises(OntologyInputError, match="at most 1 rows"):
            import_table("genes", "sheep", write(tmp_path, table(), name), COLUMNS, ABOUT)


def test_the_fly_has_genes_called_nan_and_na(own_home: Path, tmp_path: Path) -> None:
    rows = [
        ("FBgn0036414", "nan", *ROWS[1][2:]),
        ("FBgn0002917", "na", *ROWS[1][2:]),
        ("FBgn0000001", "NA", *ROWS[1][2:]),
    ]
    frame = read_table(take(tmp_path, rows, "fly"))
    assert frame["symbol"].tolist() == ["", "na", "nan"]


def test_rice_loci_of_another_project_come_as_synonyms(own_home: Path, tmp_path: Path) -> None:
    """RAP ids are the table's; MSU's LOC_Os names map only where the user's table gives them."""
    from ontology import resolve_genes

    row = ("Os01g0100100", "", "protein_coding", "1", "2449", "9297", "", "", "LOC_Os01g01010,LOC_Os01g01010.1")
    take(tmp_path, [row], "rice")
    mapping = resolve_genes(["LOC_Os01g01010", "LOC_Os01g01010.1", "LOC_Os01g01019"], load_gene_table("rice"))
    assert mapping.how.tolist() == ["synonym", "synonym", "unmapped"]
    assert mapping.unmapped == ("LOC_Os01g01019",)


PAIRS = [
    ("ENSMUSG00000000001.5", "ENSG00000000001", "ortholog_one2one", "1", "Ensembl|Panther"),
    ("ENSMUSG00000000001", "ENSG00000000001", "one2one", "1", "again"),
    ("ENSMUSG00000000002", "ENSG00000000003", "one2few", "1.5", ""),
    ("ENSMUSG00000000002", "ENSG00000000002", "one2many", "high", ""),
    ("-", "ENSG00000000002", "", "", ""),
    ("ENSMUSG00000000004", "", "", "", ""),
]


def test_orthologs(own_home: Path, tmp_path: Path) -> None:
    frame = pd.DataFrame(PAIRS, columns=list(ORTHOLOG_COLUMNS))
    columns = {name: name for name in ORTHOLOG_COLUMNS}
    made = import_table("orthologs", "mouse", write(tmp_path, frame, "o.tsv"), columns, ABOUT)
    assert dict(made.report.faults) == {
        "rows without gene dropped": 1,
        "versions taken off gene": 1,
        "rows without human_gene dropped": 1,
        "further rows of a pair left out": 1,
        "types other than one2one, one2many, many2many blanked": 1,
        "confidences outside 0 to 1 blanked": 2,
    }
    kept = read_table(made).astype(object)
    assert kept.where(kept.notna(), None).to_numpy().tolist() == [
        ["ENSMUSG00000000001", "ENSG00000000001", "one2one", 1.0, "Ensembl|Panther"],
        ["ENSMUSG00000000002", "ENSG00000000002", "one2many", None, ""],
        ["ENSMUSG00000000002", "ENSG00000000003", "", None, ""],
    ]
    swapped = columns | {"gene": "human_gene", "human_gene": "gene"}
    with pytest.raises(OntologyInputError, match="ids of mouse"):
        import_table("orthologs", "mouse", write(tmp_path, frame, "o.tsv"), swapped, ABOUT)


IDS = st.sampled_from([f"{S}{i}" for i in range(4)] + [f"{S}1.7", "", "ENSBTAG00000000001", "NA", " "])
NUMBERS = st.one_of(st.integers(-2, 12).map(str), st.sampled_from(["", "x", "3.0", "3.5", "1e3", "NA", "+4"]))
LINES = st.lists(
    st.tuples(IDS, st.sampled_from(["1", ""]), NUMBERS, NUMBERS, st.sampled_from(["+", "-", "", "1", "z"]))
)


def whole(text: str) -> int | None:
    """Return a coordinate the slow way."""
    text = text.removesuffix(".0").removeprefix("+")
    return int(text) if text.isdigit() else None


def slow(rows: list[tuple[str, ...]], base: int) -> dict[str, tuple[str, int, int]]:
    """Return contig, start and strand per id, straight from the rules."""
    out: dict[str, tuple[str, int, int]] = {}
    for spelled, contig, first, last, sense in rows:
        name = spelled.strip().partition(".")[0]
        if name in ("", "NA"):
            continue
        start, end = whole(first), whole(last)
        start = None if start is None or start < base or not contig else start - base
        if start is not None and end is not None and end <= start:
            start = None
        strand = {"+": 1, "1": 1, "-": -1}.get(sense, 0) if start is not None else 0
        out.setdefault(name, (contig, -1 if start is None else start, strand))
    return out


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(LINES, st.sampled_from([0, 1]))
def test_equals_the_slow_way(rows: list[tuple[str, ...]], base: int) -> None:
    rows = [(f"{S}9", "1", "5", "6", "+"), *rows]  # one sound row, so that the whole is no error
    frame = pd.DataFrame(rows, columns=["id", "contig", "start", "end", "strand"])
    made = clean_genes(frame, get_organism("sheep"), base, Tally())
    assert made["id"].is_monotonic_increasing
    found = {row.id: (row.contig, row.start, row.strand) for row in made.itertuples()}
    assert found == slow(rows, base)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(data=st.binary(max_size=400))
def test_any_bytes_are_a_table_or_refused(data: bytes, own_home: Path, tmp_path: Path) -> None:
    for name in ("x.csv", "x.tsv.gz"):
        (tmp_path / name).write_bytes(b"gene,name\n" + data)
        try:
            made = import_table("genes", "sheep", tmp_path / name, {"id": "gene", "symbol": "name"}, ABOUT)
        except OntologyInputError:
            continue
        assert made.rows > 0


SHARED_GENES = {"human": 86_364, "mouse": 78_317, "zebrafish": 37_241, "chicken": 30_108, "worm": 46_926, "fly": 24_254}
SHARED_GENES |= {"rhesus": 35_432, "pig": 35_682, "cow": 19_726, "chimpanzee": 33_729, "arabidopsis": 27_169}
SHARED_GENES |= {"rice": 33_266, "marmoset": 40_188, "rabbit": 29_587}
"""Genes per organism in the shared table, as its makers counted them."""
SHARED_COLUMNS = {"id": "gene_id", "symbol": "symbol", "biotype": "biotype", "contig": "chromosome", "start": "start"}
SHARED_COLUMNS |= {"end": "end", "strand": "strand", "length": "exonic_length"}


@pytest.fixture(scope="module")
def genes(shared: Path) -> pd.DataFrame:
    return pd.read_parquet(shared / "bio" / "genes.parquet")


@pytest.mark.shared
@pytest.mark.parametrize("name", SHARED_GENES)
def test_real_tables_arrive_whole(name: str, own_home: Path, shared: Path, genes: pd.DataFrame) -> None:
    organism: Organism = get_organism(name)
    where = {"taxon_id": organism.taxon}
    made = import_table("genes", name, shared / "bio" / "genes.parquet", SHARED_COLUMNS, ABOUT, where)
    assert made.rows == SHARED_GENES[name]
    # FlyBase gives 647 transposable elements and a trans-spliced gene's parts ids of their own.
    assert dict(made.report.faults) == ({"id of another form than fly's kept": 647} if name == "fly" else {})
    theirs = genes[genes["taxon_id"] == organism.taxon].sort_values("gene_id")
    mine = read_table(made)
    assert mine["id"].tolist() == theirs["gene_id"].tolist()
    assert mine["start"].tolist() == (theirs["start"].fillna(0) - 1).tolist()
    assert mine["strand"].tolist() == theirs["strand"].fillna(0).tolist()
    assert mine["contig"].tolist() == theirs["chromosome"].astype(object).fillna("").tolist()


@pytest.mark.shared
@pytest.mark.parametrize("name", ["cow", "chicken", "mouse", "worm"])
def test_real_orthologs_arrive(name: str, own_home: Path, shared: Path) -> None:
    path, taxon = shared / "bio" / "orthologs_hcop_babelgene.parquet", get_organism(name).taxon
    columns = {"gene": "ensembl", "human_gene": "human_ensembl", "support": "support"}
    made = import_table("orthologs", name, path, columns, ABOUT, {"taxon_id": taxon})
    theirs = pd.read_parquet(path).query("taxon_id == @taxon").dropna(subset=["ensembl", "human_ensembl"])
    theirs = theirs[(theirs["ensembl"] != "-") & (theirs["human_ensembl"] != "-")]
    mine = read_table(made)
    assert set(zip(mine["gene"], mine["human_gene"], strict=True)) == set(
        zip(theirs["ensembl"], theirs["human_ensembl"], strict=True)
    )
    assert set(mine["type"]) == {""}
    assert io.StringIO(mine["support"].iloc[0]).read() != ""
