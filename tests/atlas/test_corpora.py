"""Recipes of the big corpora, on hand-made copies in their documented layouts: what is taken, dropped and repaired.

The copies are made by `corpus_copies`; the Census is an atlas of ours, which has its layout.
"""

from __future__ import annotations

import hashlib

import pandas as pd
import pytest

from atlas import IngestOptions, Source, ingest, load_manifest, open_atlas, source_from_uri
from atlas.cell_labels import join_labels, labels_digest, read_labels
from atlas.corpora import corpus_sources, list_corpora, load_corpus, write_manifest
from atlas.errors import AtlasInputError
from atlas.fetch import fetch_source
from atlas.read import open_source
from atlas.standardise import standardise_labels
from catalog.cli import run
from ontology import get_organism, list_organisms
from tests.atlas.corpus_copies import make_mouse_development, make_scbasecount, make_tahoe
from tests.factories import make_adata, write_source

QUICK = IngestOptions(doublets=False, neighbours=False)


def labels_of(source: Source) -> pd.DataFrame:
    """Return what the standardiser makes of a source's labels."""
    with open_source(source, fetch_source(source)) as cells:
        return standardise_labels(source, cells, get_organism(source.organism)).frame


def test_every_recipe_says_where_from_what_is_wrong_and_who_counted():
    assert set(list_corpora()) == {"census", "scbasecount", "tahoe100m", "mouse-development"}
    names = {organism.name for organism in list_organisms()}
    for name in list_corpora():
        corpus = load_corpus(name)
        assert set(corpus.cells) <= names
        assert all(figure > 100_000 or organism == "tomato" for organism, figure in corpus.cells.items())
        assert all(text for text in (*corpus.access.values(), corpus.cells_source))
        assert corpus.faults
        assert all(fault.found and fault.repair for fault in corpus.faults)
    with pytest.raises(AtlasInputError, match="scbasecount"):
        load_corpus("scbasecamp")


@pytest.mark.index
def test_scbasecount_takes_plain_10x_samples_that_the_census_does_not_have(tmp_path):
    found = corpus_sources(
        "scbasecount", "human", str(make_scbasecount(tmp_path / "copy")), tmp_path / "labels.parquet"
    )
    assert [s.id for s in found.sources] == [f"scbasecount-SRX000000{i}" for i in (1, 2, 6)]
    assert sorted(found.dropped.values()) == [1, 1, 1, 1]
    assert found.cells == 36
    one, two, three = (labels_of(source) for source in found.sources)
    for frame in (one, two, three):  # told per study: the text must not reach a cell
        assert set(frame["disease_ontology_term_id"]) == {"unknown"}
        assert set(frame["author_disease"]) == {""}
        assert set(frame["tissue_type"]) == {"unknown"}
    assert set(one["tissue_ontology_term_id"]) == {"UBERON:0002048"}
    assert set(two["tissue_ontology_term_id"]) == set(three["tissue_ontology_term_id"]) == {"unknown"}
    assert [f["assay_ontology_term_id"][0] for f in (one, two, three)] == ["EFO:0030003", "EFO:0030004", "EFO:0030059"]
    assert [f["suspension_type"][0] for f in (one, two, three)] == ["cell", "nucleus", "na"]
    assert set(one["sample_id"]) == {"SRX0000001"}


def test_a_copy_that_is_not_one_is_told(tmp_path):
    for root, words in (("nowhere", "rsync"), ("", "sample_metadata.parquet")):
        (tmp_path / "empty").mkdir(exist_ok=True)
        with pytest.raises(AtlasInputError, match=words):
            corpus_sources("scbasecount", "human", str(tmp_path / (root or "empty")), tmp_path / "labels.parquet")
    with pytest.raises(AtlasInputError, match="files h5ad/plate"):
        corpus_sources("tahoe100m", "human", str(tmp_path / "empty"), tmp_path / "labels.parquet")
    with pytest.raises(AtlasInputError, match="one of tahoe100m: human"):
        corpus_sources("tahoe100m", "mouse", str(tmp_path), tmp_path / "labels.parquet")


@pytest.mark.index
def test_tahoe_is_cell_lines_by_their_cellosaurus_ids(tmp_path):
    found = corpus_sources("tahoe100m", "human", str(make_tahoe(tmp_path / "copy")), tmp_path / "labels.parquet")
    assert len(found.sources) == 2
    frame = labels_of(found.sources[0])
    assert set(frame["tissue_ontology_term_id"]) == set(frame["donor_id"]) == {"CVCL_1478", "CVCL_0459"}
    assert set(frame["tissue_type"]) == {"cell line"}
    assert set(frame["assay"]) == {"Parse Biosciences technology"}
    assert set(frame["sample_id"]) == {"smp_1495", "smp_2495"}
    for label in ("cell_type", "disease"):
        assert set(frame[f"{label}_ontology_term_id"]) == {"unknown"}


@pytest.mark.index
def test_mouse_development_gets_its_labels_from_the_table_beside_it(tmp_path):
    root = make_mouse_development(tmp_path / "copy")
    found = corpus_sources("mouse-development", "mouse", str(root), tmp_path / "work" / "mice.labels.parquet")
    first, second = (labels_of(source) for source in found.sources)
    days = ["Theiler stage 12", "Theiler stage 14", "Theiler stage 20", "Theiler stage 27"]
    assert list(first["development_stage"]) == days * 3
    assert list(first["tissue"]) == ["embryo", "embryo", "embryo", "multicellular organism"] * 3
    assert list(first["sex"][:2]) == ["male", "female"]
    assert set(first["cell_type"]) == {"hepatocyte"}
    assert set(second["donor_id"]) == {"embryo_2", "unknown"}
    assert second["cell_type"].iloc[-1] == "unknown"  # the table does not name it
    with open_source(found.sources[1], fetch_source(found.sources[1])) as cells:
        assert [(f.code, f.count) for f in cells.findings] == [("cells-without-labels", 1)]


@pytest.mark.index
@pytest.mark.slow
def test_an_atlas_of_ours_is_a_census_whose_datasets_come_back_one_by_one(tmp_path, monkeypatch, session_home):
    census = str(tmp_path / "census")
    for name, seed in (("one", 1), ("two", 2)):
        adata = make_adata(30, 120, seed=seed)
        adata.obs["is_primary_data"] = False  # as curators may wrongly say
        source = write_source(tmp_path / f"{name}.h5ad", adata, id=name, title=f"Study {name}", doi="10.1/x")
        assert ingest(source, census, QUICK).status == "written"
    mice = write_source(tmp_path / "m.h5ad", make_adata(9, 120, organism="mouse"), id="mice", organism="mouse")
    assert ingest(mice, census, QUICK).status == "written"
    found = corpus_sources("census", "human", census, tmp_path / "labels.parquet")
    assert [(s.id, s.title, s.doi) for s in found.sources] == [
        ("census-one", "Study one", "10.1/x"),
        ("census-two", "Study two", "10.1/x"),
    ]
    assert found.cells == 60
    manifest = tmp_path / "census.toml"
    write_manifest(found.sources, manifest)
    atlas = str(tmp_path / "atlas")
    assert ingest(load_manifest(manifest)[1], atlas, QUICK).status == "written"
    theirs, ours = (open_atlas(uri).query("human", every_cell=True).to_anndata() for uri in (census, atlas))
    theirs = theirs[theirs.obs["dataset_id"] == "two"]
    assert (theirs.X != ours.X).nnz == 0
    for column in ("cell_type_ontology_term_id", "tissue_ontology_term_id", "donor_id"):
        assert list(theirs.obs[column].astype(str)) == list(ours.obs[column].astype(str))
    assert list(theirs.obs["n_measured_vars"]) == list(ours.obs["n_measured_vars"])
    assert not theirs.obs["is_primary_data"].any()
    assert ours.obs["is_primary_data"].all()  # its own counts say that they are nowhere else


def test_a_manifest_reads_back_as_what_was_written(tmp_path):
    table = tmp_path / "labels.csv"
    odd = 'a "quoted" \\ title,\nwith ü, tab\t and \x7f'
    sources = (
        Source("human", "/data/a.h5ad", id="a", title=odd, constants={"tissue": odd}, labels=str(table)),
        Source("sheep", "synthetic:sheep?cells=9"),
        Source("mouse", "https://example.org/x.h5ad?y=1", columns={"cell_type": "odd column"}, sha256="0" * 64),
    )
    write_manifest(sources, tmp_path / "m.toml", ("a remark\nof two lines",))
    assert load_manifest(tmp_path / "m.toml") == sources


def test_each_manifest_of_a_corpus_has_a_table_of_labels_of_its_own(tmp_path, capsys):
    root = make_mouse_development(tmp_path / "copy")
    words = ["sources", "mouse-development", "mouse", "--root", str(root), "--output"]
    assert run([*words, str(tmp_path / "first.toml")]) == 0
    table = tmp_path / "first.labels.parquet"
    assert {s.labels for s in load_manifest(tmp_path / "first.toml")} == {str(table)}
    before = table.read_bytes()
    (csv,) = (p for p in root.rglob("*.csv"))
    csv.write_text(csv.read_text().replace("hepatocyte", "neuron"))
    assert run([*words, str(tmp_path / "second.toml")]) == 0
    assert table.read_bytes() == before
    assert (tmp_path / "second.labels.parquet").read_bytes() != before
    assert not list(tmp_path.glob(".part-*"))
    capsys.readouterr()


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_labels_are_joined_by_name_whatever_is_missing(tmp_path, suffix, monkeypatch):
    table = tmp_path / f"labels{suffix}"
    said = pd.DataFrame({"note": ["x", "y", "z"], "cell": ["b", "a", "c"], "cell_type": ["B", None, "7"]})
    said.to_csv(table, index=False) if suffix == ".csv" else said.to_parquet(table)
    obs = pd.DataFrame({"cell_type": "old", "kept": 1}, index=["a", "gone", "c"])
    joined, found = join_labels(obs, table)
    unknown = "" if suffix == ".csv" else None
    assert joined["cell_type"].tolist() == [unknown, None, "7"]
    assert (joined["note"].tolist(), joined["kept"].tolist()) == (["y", None, "z"], [1, 1, 1])
    assert [f.count for f in found] == [1]
    assert read_labels(table, ["cell_type", "nothing"]).columns.tolist() == ["cell_type"]
    digest = labels_digest(str(table))
    monkeypatch.setattr("atlas.cell_labels.hashlib.file_digest", lambda *_: pytest.fail("it is known"))
    assert labels_digest(str(table)) == digest
    monkeypatch.undo()
    table.write_bytes(table.read_bytes() + b"\n")
    assert labels_digest(str(table)) == hashlib.sha256(table.read_bytes()).hexdigest() != digest


@pytest.mark.index
def test_anybody_may_put_a_table_of_labels_beside_a_file(tmp_path):
    adata = make_adata(20, 120)
    adata.write_h5ad(tmp_path / "cells.h5ad")
    pd.DataFrame({"cell": adata.obs_names, "cell_type": "neuron"}).to_csv(tmp_path / "labels.csv", index=False)
    (tmp_path / "m.toml").write_text(
        '[[source]]\norganism = "human"\nuri = "cells.h5ad"\nlabels = "labels.csv"\n'
        'columns = { cell_type = "cell_type", cell_type_ontology_term_id = "none" }\n'.replace(
            ', cell_type_ontology_term_id = "none"', ""
        )
    )
    (source,) = load_manifest(tmp_path / "m.toml")
    assert source.labels == str(tmp_path / "labels.csv")
    with open_source(source, fetch_source(source)) as cells:
        assert set(cells.obs["cell_type"]) == {"neuron"}
        assert set(cells.obs["donor_id"]) == set(adata.obs["donor_id"])
    atlas = str(tmp_path / "atlas")
    assert ingest(source, atlas, QUICK).status == "written"
    assert ingest(source, atlas, QUICK).status == "unchanged"
    other = pd.DataFrame({"cell": ["another"], "cell_type": "neuron"})
    other.to_csv(tmp_path / "labels.csv", index=False)
    with pytest.raises(AtlasInputError, match="a table of these cells"), open_source(source, tmp_path / "cells.h5ad"):
        pass
    plain = source_from_uri(str(tmp_path / "cells.h5ad"), "human")
    assert plain.labels is None
