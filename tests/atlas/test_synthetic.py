"""Synthetic cells: the same every time, marked wherever they are named, and enough for 16 organisms in one atlas.

The manifest is `benchmarks/organisms.toml`, as people use it. Gene tables that no source at hand carries are made up
here, in the form of the organism's ids.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from atlas import IngestOptions, Source, ingest, load_manifest, open_atlas, source_from_uri, validate
from atlas.errors import AtlasInputError
from atlas.fetch import fetch_source
from atlas.synthetic import draw_counts
from catalog import describe_atlas
from ontology import ReferenceMissingError, list_organisms, load_gene_table
from ontology.imports import import_table

MANIFEST = Path(__file__).parents[2] / "benchmarks" / "organisms.toml"
SHARED_GENES = ("arabidopsis", "chicken", "cow")
MADE_UP_GENES = {"naked-mole-rat": "ENSHGLG{:011d}", "maize": "Zm00001eb{:06d}", "sheep": "ENSOARG{:011d}"}
QUICK = IngestOptions(doublets=False, neighbours=False)


@pytest.fixture
def home(session_home, tmp_path, monkeypatch):
    (tmp_path / "cache").mkdir()
    for part in ("genes", "wheels", "ontologies"):
        (session_home / "cache" / part).mkdir(exist_ok=True)
        (tmp_path / "cache" / part).symlink_to((session_home / "cache" / part).resolve(), target_is_directory=True)
    monkeypatch.setenv("PANATLAS_HOME", str(tmp_path))
    return tmp_path


def import_made_up(home: Path, organism: str, form: str) -> None:
    """Import a gene table of 400 ids; the numbers of 100 are the real table's way, the genes are nobody's."""
    path = home / f"{organism}.csv"
    pd.DataFrame({"id": [form.format(i + 1) for i in range(400)]}).to_csv(path, index=False)
    import_table("genes", organism, path, {"id": "id"}, {"release": "made up for a test"})


def test_every_organism_of_the_corpus_is_in_the_manifest_once():
    corpus = {organism.name for organism in list_organisms()} - {"tomato", "rice"}
    sources = load_manifest(MANIFEST)
    assert Counter(source.organism for source in sources) == dict.fromkeys(corpus, 1)
    assert len(corpus) == 16
    for source in sources:
        assert source.uri.startswith("synthetic:") == str(source.id).startswith("synthetic-")
        assert source.uri.startswith("synthetic:") or "/shared/data/" in source.uri


@pytest.mark.index
def test_the_same_address_gives_the_same_cells_and_another_seed_others(home):
    uri = "synthetic:rhesus?cells=50&seed={}"
    first = ad.read_h5ad(fetch_source(source_from_uri(uri.format(1), "rhesus")))
    for file in (home / "cache" / "sources").rglob("*.h5ad"):
        file.unlink()
    again = ad.read_h5ad(fetch_source(source_from_uri(uri.format(1), "rhesus")))
    other = ad.read_h5ad(fetch_source(source_from_uri(uri.format(2), "rhesus")))
    assert (first.X != again.X).nnz == 0
    assert list(first.var_names) == list(again.var_names)
    assert (first.X != other.X).nnz > 1000
    assert set(first.var_names) <= set(load_gene_table("rhesus").ids.tolist())
    assert first.shape == (50, 2000)
    assert np.asarray(first.X.sum(axis=1)).min() > 500
    named = [*first.obs_names, *first.obs["donor_id"], *first.obs["sample_id"]]
    assert all(name.startswith("synthetic-rhesus-") for name in named)


def test_counts_have_the_spread_of_their_distribution():
    """One gene of one donor and program: variance is mean + mean²/2, within the error of 4,000 draws."""
    rng = np.random.default_rng(0)
    counts, donor = draw_counts(rng, 8000, 1)
    depth = np.asarray(counts.sum(axis=1)).ravel()
    assert set(donor.tolist()) == {0, 1}
    # of a single gene the count is the depth: NB(3000·lognormal(0.3)), whose variance both spreads make
    expected = np.exp(0.3**2) * 1.5 - 1 + 1 / depth.mean()
    assert depth.var() / depth.mean() ** 2 == pytest.approx(expected, rel=0.15)


def test_nobody_can_name_synthetic_cells_as_if_they_were_real():
    source = Source("sheep", "synthetic:sheep?cells=24&seed=3")
    assert (source.id, source.licence) == ("synthetic-sheep-cells24-seed3", "CC0-1.0 (synthetic)")
    assert source.title.startswith("Synthetic cells of Ovis aries")
    for field, value in (("id", "atlas-of-sheep"), ("title", "A sheep"), ("licence", "CC-BY-4.0")):
        with pytest.raises(AtlasInputError, match="synthetic"):
            Source("sheep", "synthetic:sheep", **{field: value})
    constants = {"cell_type_ontology_term_id": "CL:0000084"}
    for said in ({"constants": constants}, {"columns": {"tissue": "program"}}, {"labels": "table.csv"}):
        with pytest.raises(AtlasInputError, match="of no type or tissue"):
            Source("sheep", "synthetic:sheep", **said)
    assert Source("sheep", "synthetic:sheep", id="my-synthetic-sheep").id == "my-synthetic-sheep"
    with pytest.raises(AtlasInputError, match="the organism of"):
        Source("cow", "synthetic:sheep")


@pytest.mark.index
def test_a_copied_file_keeps_its_mark_and_info_tells(home):
    made = fetch_source(source_from_uri("synthetic:zebrafish?cells=24", "zebrafish"))
    copy = home / "embryo.h5ad"
    copy.write_bytes(made.read_bytes())
    receipt = ingest(Source("zebrafish", str(copy), id="my-embryo"), str(home / "atlas"), QUICK)
    assert receipt.status == "written"
    assert [f.count for f in receipt.findings if f.code == "synthetic-cells"] == [24]
    facts = describe_atlas(str(home / "atlas"))
    assert [(d["dataset_id"], d["synthetic"]) for d in facts["datasets"]] == [("my-embryo", True)]
    assert facts["synthetic_cells"] == 24


def test_without_a_gene_table_the_remedy_is_told(home):
    with pytest.raises(ReferenceMissingError, match="panatlas references fetch genes sheep"):
        fetch_source(source_from_uri("synthetic:sheep", "sheep"))
    import_made_up(home, "sheep", MADE_UP_GENES["sheep"])
    assert ad.read_h5ad(fetch_source(source_from_uri("synthetic:sheep?cells=9", "sheep"))).shape == (9, 400)


@pytest.mark.shared
@pytest.mark.index
@pytest.mark.slow
def test_all_sixteen_organisms_live_in_one_atlas(home, shared):
    bio = pd.read_parquet(shared / "bio" / "genes.parquet", columns=["gene_id", "taxon_id"])
    for organism in list_organisms():
        if organism.name in SHARED_GENES:
            genes = home / f"{organism.name}.parquet"
            bio[bio["taxon_id"] == organism.taxon].to_parquet(genes)
            import_table("genes", organism, genes, {"id": "gene_id"}, {"release": "shared"})
    for name, form in MADE_UP_GENES.items():
        import_made_up(home, name, form)
    uri = str(home / "atlas")
    receipts = {source.organism: ingest(source, uri, QUICK) for source in load_manifest(MANIFEST)}
    assert {name: r.status for name, r in receipts.items()} == dict.fromkeys(receipts, "written")
    facts = describe_atlas(uri)
    assert len(facts["organisms"]) == len(open_atlas(uri).organisms) == 16
    real = {"human", "mouse", "arabidopsis", "fly", "worm"}
    made_up = {name for name, r in receipts.items() if any(f.code == "synthetic-cells" for f in r.findings)}
    assert made_up == set(receipts) - real
    assert facts["synthetic_cells"] == 11 * 240
    assert validate(open_atlas(uri)).sound


def test_an_organism_without_a_source_is_told_what_to_pass(home, capsys):
    from catalog.cli import run

    assert run(["ingest", "sheep", "--atlas", str(home / "atlas")]) == 2
    told = capsys.readouterr().err
    for words in ("human, mouse", "--source FILE", "--manifest FILE", "synthetic:sheep"):
        assert words in told.replace("\n", " ")
    assert not (home / "atlas").exists()
