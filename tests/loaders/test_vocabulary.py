"""A vocabulary gives every gene a number for ever, is the same wherever it is made, and believes no text."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from loaders import LoaderInputError
from loaders.anndata_cells import AnnDataCells
from loaders.cell_vocabulary import make_vocabulary
from loaders.errors import VocabularyError
from loaders.label_classes import apart_values, check_classes, make_classes
from loaders.vocabulary import Vocabulary
from ontology import LABELS, LabelSpace, load_gene_table, load_ontology, make_label_space
from tests.factories import make_adata

if TYPE_CHECKING:
    from pathlib import Path

T, CD4, CD8, B, LYMPHOCYTE = "CL:0000084", "CL:0000624", "CL:0000625", "CL:0000236", "CL:0000542"


@pytest.fixture(scope="module")
def cells() -> dict[str, AnnDataCells]:
    human, mouse = make_adata(30, 80), make_adata(30, 80, organism="mouse", seed=1)
    human.obs["development_stage_ontology_term_id"] = ["HsapDv:0000087", "unknown", "HsapDv:0000258"] * 10
    human.obs["tissue_type"] = "tissue"
    human.obs["sex_ontology_term_id"] = "PATO:0000383"
    human.obs["self_reported_ethnicity_ontology_term_id"] = "HANCESTRO:0590 || HANCESTRO:0568"
    human.obs["disease_ontology_term_id"] = ["MONDO:0005148 || MONDO:0005147", "PATO:0000461", "MONDO:0005015"] * 10
    mouse.obs["development_stage_ontology_term_id"] = "MmusDv:0000110"
    mouse.obs["tissue_type"] = "cell line"
    return {"human": AnnDataCells(human, "human"), "mouse": AnnDataCells(mouse, "mouse")}


@pytest.fixture(scope="module")
def vocabulary(cells: dict[str, AnnDataCells]) -> Vocabulary:
    return make_vocabulary([cells["human"], cells["mouse"]])


def small(**changes: Any) -> Vocabulary:
    """Return a vocabulary made without any ontology, as some tests are collected before there is a home for one."""
    above = np.array([[0, 0, 0], [0, 0, 1], [0, 0, 0]], dtype=bool)
    types = LabelSpace((B, CD4, T), ("B cell", "CD4-positive, alpha-beta T cell", "T cell"), 2, above, "CL")
    labels = {"cell_type": types, "cell_culture": make_classes("cell_culture", ["tissue"])}
    return replace(Vocabulary(("a", "b"), (("g1", "g2", "g3"), ("h1", "g1")), labels), **changes)


def test_the_small_vocabulary_is_the_ontologys() -> None:
    assert small().labels["cell_type"] == make_label_space(load_ontology("CL"), [T, CD4, B])


def test_tokens_are_the_genes_of_the_tables_in_their_order(vocabulary: Vocabulary) -> None:
    assert vocabulary.organisms == ("homo_sapiens", "mus_musculus")
    start = 0
    for number, name in enumerate(("human", "mouse")):
        ids = load_gene_table(name).ids
        tokens = vocabulary.gene_tokens(vocabulary.organisms[number], [*ids, "ENSG_none"])
        np.testing.assert_array_equal(tokens[:-1], np.arange(start, start + len(ids)))
        assert tokens[-1] == -1
        assert tokens.dtype == np.int32
        assert (vocabulary.organism_of_tokens[tokens[:-1]] == number).all()
        start += len(ids)
    assert vocabulary.n_genes == start


def test_classes_are_the_ids_in_use(vocabulary: Vocabulary, cells: dict[str, AnnDataCells]) -> None:
    assert tuple(vocabulary.labels) == LABELS
    for label, space in vocabulary.labels.items():
        words = {word for source in cells.values() for word in source.about["vocabulary"][label]}
        assert set(space.classes) == words - {"unknown", "na"}
    assert set(vocabulary.labels["organism"].classes) == {"NCBITaxon:9606", "NCBITaxon:10090"}
    assert vocabulary.labels["cell_culture"].classes == ("cell line", "tissue")
    assert not vocabulary.labels["cell_culture"].above.any()
    assert vocabulary.labels["sex"].labels == ("female",)
    assert {c.split(":")[0] for c in vocabulary.labels["development_stage"].classes} == {"HsapDv", "MmusDv"}


def test_the_order_of_labels_is_the_callers(cells: dict[str, AnnDataCells]) -> None:
    made = make_vocabulary(cells["human"], labels=("sex", "cell_type"))
    assert tuple(made.labels) == ("sex", "cell_type")
    assert made.digest != make_vocabulary(cells["human"], labels=("cell_type", "sex")).digest


def test_classes_of_single_ids_are_the_ontology_floors() -> None:
    used = [T, CD4, CD8, B, LYMPHOCYTE, "unknown", T]
    assert make_classes("cell_type", used) == make_label_space(load_ontology("CL"), used)


def test_a_value_of_several_ids_is_a_class_of_its_own_below_what_is_above_its_parts() -> None:
    diabetes, type2, type1, normal = "MONDO:0005015", "MONDO:0005148", "MONDO:0005147", "PATO:0000461"
    both, wide = f"{type1} || {type2}", f"{diabetes} || MONDO:0004992"
    space = make_classes("disease", [diabetes, type1, type2, normal, both, wide])
    check_classes("disease", space)
    code = {one: at for at, one in enumerate(space.classes)}
    assert space.leaves == tuple(sorted([both, wide, type1, type2, normal]))
    above = {one: {space.classes[at] for at in np.flatnonzero(space.above[code[one]])} for one in code}
    assert above[both] == above[type1] == {diabetes}, "to have both is another thing than to have one of them"
    assert above[wide] == {diabetes}, "a coarse part is above: who has it and something else has it"
    assert above[diabetes] == above[normal] == set()
    assert space.labels[code[both]] == "type 1 diabetes mellitus || type 2 diabetes mellitus"


def test_values_that_are_no_ids_are_refused_with_the_remedy() -> None:
    with pytest.raises(VocabularyError, match=r"label cell_type: 'T cell', which is no term id; .*harmonise"):
        make_classes("cell_type", ["T cell"])
    with pytest.raises(VocabularyError, match="CL:9999999"):
        make_classes("cell_type", ["CL:9999999"])
    with pytest.raises(VocabularyError, match="FOO"):
        make_classes("cell_type", ["FOO:1"])
    with pytest.raises(VocabularyError, match="CL:9999999"):
        make_classes("cell_type", [T, f"{T} || CL:9999999"])


def test_codes_are_positions_and_strangers_are_unknown(vocabulary: Vocabulary) -> None:
    classes = vocabulary.labels["cell_type"].classes
    values = [classes[1], "unknown", None, "CL:0000540", classes[0]]
    assert vocabulary.encode("cell_type", values).tolist() == [1, -1, -1, -1, 0]
    for call in (lambda: vocabulary.encode("age", []), lambda: vocabulary.gene_tokens("human", [])):
        with pytest.raises(LoaderInputError, match="one of the vocabulary's"):
            call()


def test_a_class_whose_kinds_stand_beside_it_in_a_study_is_a_leaf() -> None:
    monocyte, cd14, cd16 = "CL:0000576", "CL:0001054", "CL:0002396"
    below = load_ontology("CL").ancestors(cd16)
    assert cd14 in below, "the ontology puts the one below the other, or this test shows nothing"
    assert apart_values("cell_type", [{cd14, cd16, B, "unknown"}, {T, CD4}]) == {cd14, T}
    assert apart_values("cell_type", [{cd14, monocyte}, {cd16, B}]) == set(), "nobody used both"
    assert apart_values("cell_type", [{T, CD4}, {CD8}]) == set(), "a T cell may be of the other kind"
    assert apart_values("cell_type", [{T, CD4}, {T, CD8}]) == {T}, "each stands beside it in some study"
    assert apart_values("cell_culture", [{"cell line", "organoid"}]) == set()

    words = Vocabulary((), ()).with_classes("cell_type", [monocyte, cd14, cd16, T, CD4], {cd14})
    space = words.labels["cell_type"]
    assert space.leaves == tuple(sorted([cd14, cd16, CD4]))
    assert space.leaf_targets(cd14).sum() == 1
    assert space.leaf_targets(monocyte).sum() == 2, "what lies above both keeps both"
    assert words.apart("cell_type") == {cd14}
    more = words.with_classes("cell_type", [CD8])
    assert more.labels["cell_type"].leaves == tuple(sorted([cd14, cd16, CD4, CD8])), "it remains a leaf"
    assert Vocabulary((), ()).extended(words) == words
    again = Vocabulary((), ()).with_classes("cell_type", [T, CD4, CD8]).extended(words)
    assert again.labels["cell_type"].leaves == more.labels["cell_type"].leaves


def test_vocabularies_of_cells_look_at_each_study_by_itself() -> None:
    counts = sp.csr_matrix(np.ones((4, 2), dtype=np.int32))
    ids = ["ENSG00000000003", "ENSG00000000005"]
    types = ["CL:0001054", "CL:0002396", "CL:0001054", "CL:0002396"]
    for studies, leaves in ((["a", "a", "b", "b"], 2), (["a", "b", "a", "b"], 1)):
        obs = pd.DataFrame({"cell_type_ontology_term_id": types, "dataset_id": studies}, index=list("abcd"))
        adata = ad.AnnData(counts, obs=obs, var=pd.DataFrame(index=ids))
        made = make_vocabulary(AnnDataCells(adata, "human"), labels=("cell_type",))
        assert made.labels["cell_type"].n_leaves == leaves


def test_targets_are_those_of_the_label_space() -> None:
    whole = small().with_classes("cell_type", [CD8, LYMPHOCYTE])
    space = whole.labels["cell_type"]
    codes = torch.tensor([*range(len(space)), -1, 0], dtype=torch.int64)
    positive, unknown = whole.label_targets("cell_type", codes)
    assert positive.dtype == unknown.dtype == torch.bool
    for row, code in enumerate(codes.tolist()):
        expected = space.targets("unknown" if code == -1 else space.classes[code])
        np.testing.assert_array_equal(positive[row], expected[0])
        np.testing.assert_array_equal(unknown[row], expected[1])
    for wrong in (-2, len(space)):
        with pytest.raises(LoaderInputError, match="-1 to 4, the classes of cell_type"):
            whole.label_targets("cell_type", torch.tensor([0, wrong]))
    assert whole.label_targets("cell_type", torch.tensor([], dtype=torch.int64))[0].shape == (0, 5)


def test_json_is_the_same_bytes_in_every_process(vocabulary: Vocabulary, tmp_path: Path) -> None:
    whole = replace(vocabulary, tokens={"name": "esm2", "sha256": "ab"})
    whole.save(tmp_path / "v.json")
    code = (
        "import sys, pathlib; from loaders.vocabulary import Vocabulary;"
        "v = Vocabulary.load(pathlib.Path(sys.argv[1])); v.save(pathlib.Path(sys.argv[2])); print(v.digest)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "v.json"), str(tmp_path / "w.json")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == whole.digest
    assert (tmp_path / "v.json").read_bytes() == (tmp_path / "w.json").read_bytes()
    loaded = Vocabulary.load(tmp_path / "v.json")
    assert loaded == whole
    assert loaded.to_json() == whole.to_json()
    assert loaded.tokens == whole.tokens
    assert pickle.loads(pickle.dumps(whole)) == whole


@pytest.mark.parametrize(
    "other",
    [
        small().with_organism("a", ["g4"]),
        small().with_classes("cell_culture", ["organoid"]),
        small(organisms=("a", "c")),
        small(tokens={"name": "esm2"}),
        small(labels=dict(reversed(small().labels.items()))),
        small(genes=(("g1", "g3", "g2"), ("h1", "g1"))),
        small(blocks=((1, 2), (0, 3))),
        small(genes=(("g1", "g2"), ("h1", "g1", "g3")), blocks=None),
    ],
)
def test_whatever_changes_a_number_changes_the_digest(other: Vocabulary) -> None:
    assert small().digest == small().digest
    assert other.digest != small().digest
    assert other != small()
    assert Vocabulary.from_json(other.to_json()) == other


orders = st.lists(
    st.tuples(st.sampled_from(["a", "b", "c"]), st.lists(st.sampled_from([f"g{i}" for i in range(9)]), unique=True)),
    max_size=6,
)


@given(steps=orders)
@settings(max_examples=80, deadline=None)
def test_a_token_never_moves_however_a_vocabulary_grows(steps: list[tuple[str, list[str]]]) -> None:
    whole, expected, used = Vocabulary((), ()), {}, []
    for organism, ids in steps:
        older, whole = whole, whole.with_organism(organism, ids)
        used += [organism] * (organism not in used)
        for one in ids:
            expected.setdefault((organism, one), len(expected))
        assert whole.n_genes == len(expected)
        assert whole.moved_classes(older) == {}
    assert list(whole.organisms) == used
    for (organism, one), token in expected.items():
        assert whole.gene_tokens(organism, [one, "other"]).tolist() == [token, -1]
        assert whole.organisms[whole.organism_of_tokens[token]] == organism
    for number, organism in enumerate(whole.organisms):
        tokens = [token for (o, _), token in expected.items() if o == organism]
        assert whole.organism_tokens(organism).tolist() == tokens
        assert [expected[organism, one] for one in whole.genes[number]] == tokens
    assert Vocabulary.from_json(whole.to_json()) == whole


def test_new_classes_move_old_ones_to_where_they_are_told() -> None:
    old = small()
    new = old.with_classes("cell_type", [LYMPHOCYTE, CD8, "unknown"])
    assert old.labels["cell_type"].classes == (B, CD4, T)
    assert new.labels["cell_type"] == make_label_space(load_ontology("CL"), [T, CD4, B, LYMPHOCYTE, CD8])
    moved = new.moved_classes(old)
    assert [new.labels["cell_type"].classes[code] for code in moved["cell_type"]] == [B, CD4, T]
    assert moved["cell_culture"].tolist() == [0]
    assert new.labels["cell_culture"] is old.labels["cell_culture"]
    assert old.with_classes("cell_type", [T, "unknown"]) is old
    assert tuple(old.with_classes("sex", ["PATO:0000383"]).labels) == ("cell_type", "cell_culture", "sex")


def test_a_checkpoint_takes_a_new_organism_in_one_call(cells: dict[str, AnnDataCells]) -> None:
    old = make_vocabulary(cells["human"])
    new = old.extended(make_vocabulary(cells["mouse"]))
    both = make_vocabulary([cells["human"], cells["mouse"]])
    assert new == both
    ids = load_gene_table("human").ids[:100]
    np.testing.assert_array_equal(new.gene_tokens("homo_sapiens", ids), old.gene_tokens("homo_sapiens", ids))
    for label, moved in new.moved_classes(old).items():
        classes = new.labels[label].classes
        assert tuple(classes[code] for code in moved) == old.labels[label].classes
    assert new.extended(old) == new, "what is there already changes nothing"


def test_a_vocabulary_that_is_no_extension_is_said() -> None:
    with pytest.raises(VocabularyError, match="no class"):
        small().moved_classes(small().with_classes("cell_type", [CD8]))
    with pytest.raises(VocabularyError, match="labels: no sex"):
        small().moved_classes(small().with_classes("sex", ["PATO:0000383"]))
    with pytest.raises(VocabularyError, match="genes of b: other tokens"):
        small().moved_classes(small().with_organism("b", ["x"]))
    with pytest.raises(VocabularyError, match="genes of a: other tokens"):
        small(organisms=("b", "a"), genes=small().genes[::-1], blocks=None).moved_classes(small())


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"organisms": ("a", "a")}, "name each organism once"),
        ({"organisms": ("a",)}, "name each organism once"),
        ({"organisms": ("a", "")}, "name each organism once"),
        ({"genes": (("g1", "g1"), ())}, "genes of a: g1 twice"),
        ({"genes": (("g1", None), ())}, "genes of a: one that is no text"),
        ({"genes": ((), ("",))}, "genes of b: one that is no text, or empty"),
        ({"blocks": ((0, 3),)}, "blocks"),
        ({"blocks": ((0, 4), (1, 2), (0, -1))}, "blocks"),
        ({"blocks": ((0, 3), (1, 2), (2, 0))}, "blocks"),
        ({"blocks": ((0, 3.0), (1, 2))}, "blocks"),
    ],
)
def test_parts_that_contradict_each_other_are_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(VocabularyError, match=said):
        small(**changes)


def spoilt(**changes: Any) -> str:
    """Return the JSON of a vocabulary with other values, and the digest that such a text would claim."""
    return json.dumps(json.loads(small().to_json()) | changes)


def space_with(**changes: Any) -> str:
    said = json.loads(small().to_json())
    name, space = said["labels"][0]
    return json.dumps(said | {"labels": [[name, space | changes]]})


HOSTILE = [
    "", "null", "[]", "{}", "{", "1e999", '"x"', "[" * 100_000, '{"format": ' + "[" * 100_000,
    spoilt(format="panatlas vocabulary 2"), spoilt(digest="0" * 64), spoilt(digest=None), spoilt(organisms=None),
    spoilt(organisms="ab"), spoilt(organisms=[1, 2]), spoilt(organisms=[["a"], ["b"]]), spoilt(genes="ab"),
    spoilt(genes=["abc", "de"]), spoilt(genes=[["g1", "g2", 3], []]), spoilt(genes=[["g1", {}], []]),
    spoilt(genes=[[["g1"]], []]), spoilt(blocks=[[0, 1e999]]), spoilt(blocks=[[0]]), spoilt(blocks=5),
    spoilt(blocks=[[0, True], [1, 2]]), spoilt(blocks=[["0", "3"], ["1", "2"]]), spoilt(blocks=[[0, 10**30]]),
    spoilt(labels={}), spoilt(labels=[["x", {}]]), spoilt(labels=[["x"]]), spoilt(tokens=5), spoilt(tokens="ab"),
    spoilt(tokens=[1]), spoilt(genes=[["g1", "g3", "g2"], ["h1", "g1"]]),
    space_with(n_leaves=1e999), space_with(n_leaves=10**15), space_with(n_leaves=-1), space_with(classes=["x"] * 3),
    space_with(above=[[99], [], []]), space_with(above=[[0], [], []]), space_with(classes="x" * 30_000),
    json.dumps(json.loads(small().to_json()) | {"labels": json.loads(small().to_json())["labels"] * 2}),
]  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_a_hostile_text_is_refused_in_words(text: str) -> None:
    with pytest.raises(VocabularyError, match=r"^vocabulary, "):
        Vocabulary.from_json(text)


def test_a_file_that_is_none_is_refused_in_words(tmp_path: Path) -> None:
    (tmp_path / "bytes").write_bytes(b"\xff\xfe\x00")
    for name in ("bytes", "none"):
        with pytest.raises(VocabularyError, match=name):
            Vocabulary.load(tmp_path / name)


@pytest.mark.parametrize(
    ("classes", "above", "said"),
    [
        (("x", "y", "z"), [[0, 1, 0], [0, 0, 1], [0, 0, 0]], "a circle"),
        (("x", "y", "z"), [[0, 1, 0], [1, 0, 0], [0, 0, 0]], "a circle"),
        (("x", "y", "z"), [[1, 0, 0], [0, 0, 0], [0, 0, 0]], "above itself"),
        (("x", "x", "z"), [[0, 0, 0]] * 3, "a class twice"),
        (("x", "", "z"), [[0, 0, 0]] * 3, "without a name"),
        (("x", "y", "z"), [[0, 0, 0], [1, 0, 0], [0, 0, 0]], "leaves that are not the first"),
    ],
)
def test_a_hierarchy_that_cannot_be_is_refused_even_with_its_digest(
    classes: tuple[str, ...], above: list[list[int]], said: str
) -> None:
    matrix = np.array(above, dtype=bool)
    leaves = int((~matrix.any(axis=0)).sum())
    space = LabelSpace(classes, classes, leaves, matrix, "test")
    with pytest.raises(VocabularyError, match=said):
        Vocabulary((), (), {"cell_type": LabelSpace.from_json(space.to_json())})


@pytest.mark.parametrize("labels", [("age",), ("sex", "sex")])
def test_only_the_nine_labels_have_classes(labels: tuple[str, ...], cells: dict[str, AnnDataCells]) -> None:
    with pytest.raises(LoaderInputError, match="some of cell_type, disease"):
        make_vocabulary(cells["human"], labels=labels)
    with pytest.raises(LoaderInputError, match="at least one source"):
        make_vocabulary([])


def test_four_hundred_thousand_genes_are_read_back() -> None:
    ids = [f"ENSG{number:011d}" for number in range(400_000)]
    whole = Vocabulary((), ())
    for organism in range(8):
        whole = whole.with_organism(f"organism_{organism}", ids[organism::8])
    again = Vocabulary.from_json(whole.to_json())
    assert again == whole
    assert again.n_genes == 400_000
    assert again.gene_tokens("organism_7", [ids[-1]]).tolist() == [399_999]
