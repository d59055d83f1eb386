"""An analyst with gene networks: infer, test, store, compare, look at, and hand pairs to structure predictors."""

from __future__ import annotations

import json
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import tiledbsoma as soma

from atlas import list_networks, open_atlas
from catalog import cli
from model import load_model, read_network, save_model
from ontology import load_gene_table
from tests.factories import write_source
from tests.model.small_runs import N_GENES, small_start

pytestmark = pytest.mark.index
N, REGULONS, SIZE = 240, 4, 7
T, B = "CL:0000084", "CL:0000236"
# A panel is too small to shuffle its genes within a cell, and few pairs need many shuffles.
FAST = ["--null", "cells", "--permutations", "40", "--json"]


def planted() -> ad.AnnData:
    """Return cells of two types with four regulons; the last works in T cells alone. Genes 0-3 regulate."""
    rng = np.random.default_rng(0)
    types = np.where(np.arange(N) % 2, T, B)
    rates = np.tile(np.random.default_rng(1).gamma(2.0, 2.0, N_GENES), (N, 1))
    for regulon in range(REGULONS):
        activity = rng.gamma(1.0, 1.0, N)
        rates[:, regulon] = 12 * activity
        members = slice(REGULONS + regulon * SIZE, REGULONS + (regulon + 1) * SIZE)
        own = activity if regulon < REGULONS - 1 else np.where(types == T, activity, 1.0)
        rates[:, members] = 6 * own[:, None]
    obs = pd.DataFrame(
        {
            "cell_type_ontology_term_id": types,
            "tissue_ontology_term_id": "UBERON:0000178",
            "assay_ontology_term_id": "EFO:0009922",
            "disease_ontology_term_id": "PATO:0000461",
            "donor_id": [f"donor {i % 6}" for i in range(N)],
            "suspension_type": "cell",
        },
        index=[f"cell {i}" for i in range(N)],
    )
    var = pd.DataFrame(index=load_gene_table("human").ids[:N_GENES])
    return ad.AnnData(rng.poisson(rates).astype(np.float32), obs, var)


def regulon(number: int) -> set[str]:
    first = REGULONS + number * SIZE
    return set(load_gene_table("human").ids[first : first + SIZE])


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, session_home: Path) -> Path:
    """A home with a released atlas of these cells, the file they came from, and a small model."""
    folder = tmp_path_factory.mktemp("networks")
    (session_home / "cache").mkdir(exist_ok=True)
    (folder / "cache").symlink_to((session_home / "cache").resolve(), target_is_directory=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PANATLAS_HOME", str(folder))
        write_source(folder / "mine.h5ad", planted())
        (folder / "factors.txt").write_text("\n".join(load_gene_table("human").ids[:REGULONS]) + "\nnobody\n")
        flags = ("--no-doublets", "--no-neighbours")
        assert cli.run(["ingest", "human", "--source", str(folder / "mine.h5ad"), *flags]) == 0
        assert cli.run(["release", "first"]) == 0
        save_model(folder / "models" / "small", small_start().model)
    return folder


@pytest.fixture
def ask(desk, home, monkeypatch, tmp_path):
    """Run a command in that home, somewhere else."""
    monkeypatch.setenv("PANATLAS_HOME", str(home))
    monkeypatch.chdir(tmp_path)
    return desk


def test_a_baseline_finds_planted_regulons_in_a_file_and_says_what_it_did(ask, home):
    words = ("--readout", "pearson", "--genes", "150", "--regulators", home / "factors.txt", "--fdr", "0.05", *FAST)
    done = ask("grn", home / "mine.h5ad", *words, "--output", "all.h5ad")
    assert done.code == 0, done.err
    said = done.json
    assert [said[name] for name in ("readout", "fdr", "regulators", "cells")] == ["pearson", 0.05, REGULONS, N]
    assert said["unknown_genes"] == ["nobody"]
    network = read_network(Path("all.h5ad"))
    assert (len(network), network.digest) == (said["edges"], said["network_sha256"])
    ids = load_gene_table("human").ids
    edges = network.edges()
    for number in range(REGULONS):
        told = set(edges.loc[edges["regulator"] == ids[number], "target"])
        assert regulon(number) <= told
    planted_edges = sum(
        target in regulon(list(ids).index(one)) for one, target in zip(edges["regulator"], edges["target"], strict=True)
    )
    assert planted_edges == REGULONS * SIZE >= 0.7 * len(edges)
    assert (edges["q_value"] <= 0.05).all()
    again = ask("grn", home / "mine.h5ad", *words, "--output", "again.h5ad").json
    assert Path("again.h5ad").read_bytes() == Path("all.h5ad").read_bytes()
    assert {**again, "seconds": 0, "output": ""} == {**said, "seconds": 0, "output": ""}


def test_a_model_reads_a_network_too(ask, home):
    words = ("--readout", "attention", "--genes", "40", "--cells", "60", "--per-target", "5")
    done = ask("grn", home / "mine.h5ad", *words, "--output", "a.parquet", "--device", "cpu", "--json")
    assert done.code == 0, done.err
    network = read_network(Path("a.parquet"))
    assert done.json["edges"] == len(network) == 40 * 5
    assert np.bincount(network.weights.indices).max() == 5
    assert network.facts["model"]["digest"] == done.json["model"]["digest"] == load_model(home / "models/small").digest
    assert network.population == "cells=60"


def test_networks_of_two_populations_go_into_the_atlas_and_are_compared_and_seen(ask, home, monkeypatch):
    keys = {}
    for name, term in (("T", T), ("B", B)):
        words = ("--readout", "pearson", "--genes", "150", "--regulators", home / "factors.txt", "--json")
        words += ("--population", f"cell_type={term}", "--to-atlas")
        done = ask("grn", "release:first", *words)
        assert done.code == 0, done.err
        keys[name] = done.json["key"]
    assert keys["T"] == f"grn-pearson/first/none/cell_type={T}"
    listed = {row["key"] for row in ask("info", "--json").json["results"]}
    assert set(keys.values()) <= listed
    with monkeypatch.context() as patch:  # what cannot be stored is refused before it is inferred
        patch.setattr("catalog.network_commands.infer_grn", lambda *_, **__: pytest.fail("inferred"))
        twice = ask("grn", "release:first", *words)
        assert (twice.code, "--force" in twice.err) == (2, True)
        fields = ("tissue=UBERON:0000178", "assay=EFO:0009922", "disease=PATO:0000461")
        more = [word for field in fields * 2 for word in ("--population", field)]
        long = ask("grn", "release:first", *words, *more)
        assert (long.code, "fewer or shorter --population" in " ".join(long.err.split())) == (2, True), long.err

    found = ask("grn-compare", keys["T"], keys["B"], "--output", "moved.tsv", "--json")
    assert found.code == 0, found.err
    table = load_gene_table("human")
    names = {gene: symbol or gene for gene, symbol in zip(table.ids[:4], table.symbols[:4], strict=True)}
    moved = pd.read_csv("moved.tsv", sep="\t").head(3 * SIZE)
    right = (moved["regulator"] == table.ids[REGULONS - 1]) & moved["target"].isin(regulon(REGULONS - 1))
    assert right.sum() >= SIZE - 2
    assert (moved["weight_a"] > moved["weight_b"])[right].all()
    assert set(found.json["hubs"]["shared"]) == set(names.values())

    atlas = open_atlas(str(home / "atlas"))
    members = [one.members[0] for one in list_networks(atlas)]
    with (
        soma.Experiment.open(f"{atlas.uri}/census_data/homo_sapiens", tiledb_timestamp=atlas.published_ms) as opened,
        opened.axis_query("RNA") as query,
    ):
        assert set(query.to_anndata("raw", varp_layers=members).varp) == set(members)

    done = ask("grn-view", keys["T"], "--gene", names[table.ids[0]], "--output", "view.html", "--json")
    assert (done.code, done.json["gene"]) == (0, table.ids[0])
    assert names[table.ids[0]] in Path("view.html").read_text(encoding="utf-8")
    assert ask("grn-view", keys["T"], "--gene", table.ids[0], "--output", "view.svg").code == 0


def test_genes_unlike_all_others_are_unlike_other_populations_whatever_is_drawn(ask, home):
    words = ("--readout", "pearson", "--choose", "across", "--genes", "10", "--cells", "60")
    done = ask("grn", home / "mine.h5ad", *words, "--output", "none.h5ad")
    assert (done.code, "2 cells on both sides" in done.err) == (2, True), "the cells not drawn are of this population"
    words += ("--population", f"cell_type={T}", "--output", "t.h5ad", "--json")
    assert ask("grn", home / "mine.h5ad", *words).code == 0
    assert read_network(Path("t.h5ad")).facts["genes"]["against"] == N // 2


def test_hubs_are_the_planted_regulators_and_their_gene_sets_are_met(ask, home):
    words = ("--readout", "pearson", "--genes", "150", "--regulators", home / "factors.txt", "--fdr", "0.05", *FAST)
    assert ask("grn", home / "mine.h5ad", *words, "--output", "n.parquet").code == 0
    rows = [f"regulon {number}\tplanted\t" + "\t".join(sorted(regulon(number))) for number in range(REGULONS)]
    Path("sets.gmt").write_text("\n".join(rows) + "\n")
    done = ask("grn-hubs", "n.parquet", "--top", "4", "--gene-sets", "sets.gmt", "--output", "genes.tsv", "--json")
    assert done.code == 0, done.err
    assert {row["gene"] for row in done.json["hubs"]} == set(load_gene_table("human").ids[:REGULONS])
    best = {row["set"] for row in done.json["enrichment"] if row["q_overlap"] < 0.01 and row["group"] != "hubs"}
    assert len(best) >= 3
    assert len(pd.read_csv("genes.tsv", sep="\t")) == len(read_network(Path("n.parquet")).genes)


def test_pairs_become_structure_jobs_and_scores_come_back(ask, home):
    words = ("--readout", "pearson", "--genes", "60", "--fdr", "0.05", *FAST)
    assert ask("grn", home / "mine.h5ad", *words, "--output", "n.h5ad").code == 0
    letters = np.array(list("ACDEFGHIKLMNPQRSTVWY"))
    rng, ids = np.random.default_rng(0), load_gene_table("human").ids[:N_GENES]
    records = [
        f">ENSP{number:011d}.1 pep gene:{gene}.1 gene_biotype:protein_coding\n{''.join(rng.choice(letters, 60))}\n"
        for number, gene in enumerate(ids)
    ]
    Path("pep.fa").write_text("".join(records))
    done = ask("grn-structure", "n.h5ad", "--fasta", "pep.fa", "--output", "jobs", "--top", "3", "--json")
    assert (done.code, done.json["jobs"]) == (0, 3), done.err
    job = done.json["pairs"][0]
    place = Path("out") / "predictions" / job["job"]
    place.mkdir(parents=True)
    (place / f"confidence_{job['job']}_model_0.json").write_text(json.dumps({"iptm": 0.75, "ptm": 0.5}))
    done = ask("grn-scores", "n.h5ad", "--jobs", "jobs", "--results", "out", "--output", "s.h5ad", "--json")
    assert (done.code, done.json["layers"]) == (0, ["iptm", "iptm_ptm"]), done.err
    assert ask("grn", home / "mine.h5ad", *words[:3], "50", *words[4:], "--output", "other.h5ad").code == 0
    other = ask("grn-scores", "other.h5ad", "--jobs", "jobs", "--results", "out", "--output", "o.h5ad")
    assert (other.code, Path("o.h5ad").exists()) == (2, False)
    assert read_network(Path("n.h5ad")).digest in "".join(other.err.split())
    edges = read_network(Path("s.h5ad")).edges()
    scored = edges[edges["iptm"].notna()]
    assert {frozenset(pair) for pair in zip(scored["regulator"], scored["target"], strict=True)} == {
        frozenset((job["gene_a"], job["gene_b"]))
    }
    assert (scored["iptm"] == 0.75).all()


def pairs_of(name: str) -> dict[tuple[str, str], float]:
    edges = read_network(Path(name)).edges()
    return dict(zip(zip(edges["regulator"], edges["target"], strict=True), edges["weight"], strict=True))


def known_edges_of(names: bool) -> str:
    """Return the planted edges of the first two regulons as a table, by symbol or by id."""
    table = load_gene_table("human")
    said = {gene: symbol or gene for gene, symbol in zip(table.ids, table.symbols, strict=True)}
    rows = [(table.ids[number], gene) for number in range(2) for gene in sorted(regulon(number))]
    shown = [(said[one], said[other]) if names else (one, other) for one, other in rows]
    return "regulator\ttarget\n" + "".join(f"{one}\t{other}\n" for one, other in shown)


def test_edges_are_kept_as_asked_step_by_step_and_the_receipt_counts_them(ask, home):
    words = ("grn", home / "mine.h5ad", "--readout", "pearson", "--genes", "60", "--json")
    assert ask(*words, "--output", "all.parquet").code == 0
    every = pairs_of("all.parquet")
    Path("known.tsv").write_text(known_edges_of(names=True))
    ids = load_gene_table("human").ids
    planted_edges = {(ids[number], gene) for number in range(2) for gene in regulon(number)}

    done = ask(*words, "--known", "known.tsv", "--above", "0.3", "--top", "6", "--output", "few.parquet")
    assert done.code == 0, done.err
    wanted = sorted((weight, pair) for pair, weight in every.items() if pair in planted_edges and weight > 0.3)[-6:]
    assert pairs_of("few.parquet") == {pair: weight for weight, pair in wanted}
    assert [step["kept"] for step in done.json["steps"]] == ["known", "above", "top"]
    assert done.json["steps"][-1]["edges"] == done.json["edges"] == len(wanted) == 6
    assert done.json["chosen"]["known"]["edges"] == len(planted_edges)
    assert read_network(Path("few.parquet")).facts["steps"] == done.json["steps"]

    done = ask(*words, "--backbone", "--output", "tree.h5ad")
    assert (done.code, done.json["steps"]) == (0, [{"kept": "backbone", "edges": 2 * 59}]), done.err
    strongest = {}
    for (one, other), weight in every.items():
        strongest[other] = max(strongest.get(other, (0.0, "")), (weight, one))
    tree = pairs_of("tree.h5ad")
    assert all((one, gene) in tree for gene, (_, one) in strongest.items()), "each gene's strongest edge is in the tree"

    tested = (*words[:5], "150", "--regulators", home / "factors.txt", "--fdr", "0.05", *FAST)
    done = ask(*tested, "--known", "few.parquet", "--output", "both.h5ad")
    assert done.code == 0, done.err
    assert set(pairs_of("both.h5ad")) <= {pair for _, pair in wanted}
    assert done.json["pairs_tested"] > 6

    done = ask(*words, "--adjust", "symmetrise", "--adjust", "apc", "--per-target", "3", "--output", "apc.h5ad")
    assert (done.json["chosen"]["adjust"], done.json["chosen"]["per_target"]) == (["symmetrise", "apc"], 3)
    assert len(pairs_of("apc.h5ad")) == 60 * 3


def test_heads_are_chosen_on_known_edges_travel_with_the_model_and_read_networks(ask, home):
    Path("planted.tsv").write_text(known_edges_of(names=False))
    words = ("--population", f"cell_type={T}", "--genes", "40", "--json")
    done = ask("grn-heads", home / "mine.h5ad", "--truth", "planted.tsv", "--output", "heads.json", *words,
               "--save-model", "with-heads", "--method", "top", "--top", "1")  # fmt: skip
    assert done.code == 0, done.err
    said = done.json
    assert [said[name] for name in ("truth", "method", "regulators")] == ["planted", "top", 2]
    assert said["population"] == f"cell_type={T}"
    assert len(said["heads"]) == 1
    assert said["fair"] is None, "two regulators are too few to leave some out"

    words = ("grn", home / "mine.h5ad", "--readout", "attention", "--genes", "30", "--json", "--device", "cpu")
    words += ("--population", f"cell_type={B}", "--cells", "40")
    ways = {
        "file": ("--heads", "heads.json"),
        "model": ("--model", "with-heads", "--heads", "planted"),
        "named": ("--heads", said["heads"][0]["head"]),
        "both": ("--heads", "0:0", "--heads", "0:1"),
        "mean": ("--layers", "0"),
        "max": ("--heads", "max"),
    }
    found, told = {}, {}
    for name, more in ways.items():
        done = ask(*words, *more, "--output", f"{name}.parquet")
        assert done.code == 0, done.err
        found[name], told[name] = pairs_of(f"{name}.parquet"), done.json["chosen"]["heads"]
    assert found["file"] == found["model"] == found["named"] != found["mean"] == pytest.approx(found["both"], rel=1e-5)
    assert all(found["max"][pair] >= found["mean"][pair] for pair in found["mean"])
    assert told["file"] == told["model"] == {"selection": said["selection"], "truth": "planted", "method": "top"}
    assert (told["mean"], told["max"], told["both"]["method"]) == ("mean", "max", "given")

    held = ask("grn-heads", home / "mine.h5ad", "--truth", "planted.tsv", "--genes", "40", "--output", "part.json",
               "--hold-out", home / "factors.txt")  # fmt: skip
    assert (held.code, "not held out" in " ".join(held.err.split())) == (2, True), held.err
    other = ask(*words, "--model", "small", "--heads", "planted", "--output", "o.parquet")
    assert (other.code, "carries: none" in " ".join(other.err.split())) == (2, True), other.err


def test_a_count_is_set_to_zero_or_doubled(ask, home):
    words = ("grn", home / "mine.h5ad", "--readout", "perturbation", "--genes", "6", "--cells", "8", "--json")
    found = {}
    for kind in ("zero", "double"):
        done = ask(*words, "--perturbation", kind, "--output", f"{kind}.parquet")
        assert (done.code, done.json["chosen"]["perturbation"]) == (0, kind), done.err
        found[kind] = pairs_of(f"{kind}.parquet")
    assert found["zero"] != found["double"]


def test_targets_in_parts_make_the_same_network(ask, home):
    words = ("grn", home / "mine.h5ad", "--readout", "attention", "--genes", "30", "--cells", "60", "--json")
    words += ("--contexts", "trained", "--length", "60", "--per-target", "4")
    assert ask(*words, "--output", "once.parquet").code == 0
    done = ask(*words, "--targets-at-once", "7", "--output", "parts.parquet")
    assert (done.code, done.json["chosen"]["targets_at_once"]) == (0, 7), done.err
    assert pairs_of("parts.parquet") == pytest.approx(pairs_of("once.parquet"), rel=1e-5)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--readout", "pearson", "--heads", "max"), "mean_cell_attention"),
        (("--readout", "pearson", "--perturbation", "double"), "it is of perturbation"),
        (("--readout", "attention", "--trees", "9"), "grnboost2"),
        (("--readout", "attention", "--expression", "counts"), "no --expression with attention"),
        (("--readout", "pearson", "--over-cells", "sum"), "no --over-cells with pearson"),
        (("--readout", "token_similarity", "--contexts", "trained"), "it is of attention"),
        (("--readout", "attention", "--heads", "9:9"), "0:0 to 0:1"),
        (("--readout", "attention", "--heads", "max", "--heads", "0:1"), "only as single heads"),
        (("--readout", "attention", "--heads", "0:1", "--layers", "0"), "say themselves"),
        (("--readout", "attention", "--heads", "mine.h5ad"), "grn-heads"),
        (("--readout", "attention", "--layers", "4"), "0 to 0, the layers"),
        (("--readout", "pearson", "--known", "nowhere.tsv"), "that is there"),
        (("--readout", "pearson", "--known", "mine.h5ad"), "varp"),
        (("--readout", "pearson", "--known", "elsewhere.tsv"), "edges between the"),
        (("--readout", "pearson", "--top", "0"), "1 or more"),
        (("--readout", "pearson", "--above", "nan"), "a number"),
        (("--readout", "pearson", "--adjust", "apc", "--adjust", "sinkhorn"), "sinkhorn before apc"),
        (("--readout", "pearson", "--adjust", "symmetrise", "--regulators", "factors.txt"), "against themselves"),
        (("--readout", "pidc", "--targets-at-once", "3"), "depend on all genes"),
        (("--readout", "attention", "--targets-at-once", "3"), "contexts as in training"),
        (("--readout", "pearson", "--targets-at-once", "3", "--adjust", "apc"), "needs them at a time"),
    ],
)
def test_choices_that_do_not_go_together_are_told_before_anything_is_scored(ask, home, monkeypatch, words, told):
    ids = load_gene_table("human").ids
    (home / "elsewhere.tsv").write_text(f"regulator\ttarget\n{ids[5000]}\t{ids[6000]}\n")
    places = [home / word if word.endswith((".h5ad", "elsewhere.tsv", ".txt")) else word for word in words]
    monkeypatch.setattr("model.grn_inference.score_edges", lambda *_, **__: pytest.fail("scored"))
    done = ask("grn", home / "mine.h5ad", "--genes", "20", *places, "--output", "o.h5ad")
    assert done.code == 2, done.err
    assert told in " ".join(done.err.replace("│", " ").split()), done.err
    assert "Traceback" not in done.err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("grn", "mine.h5ad", "--readout", "magic", "--output", "o.h5ad"), "grnboost2"),
        (("grn", "mine.h5ad", "--readout", "pearson", "--output", "o.csv"), ".parquet"),
        (("grn", "mine.h5ad", "--readout", "pearson"), "--to-atlas"),
        (("grn", "mine.h5ad", "--readout", "pearson", "--to-atlas"), "release:NAME"),
        (("grn", "mine.h5ad", "--readout", "pearson", "--genes", "tfs", "--output", "o.h5ad"), "--regulators"),
        (("grn", "mine.h5ad", "--readout", "pearson", "--genes", "few", "--output", "o.h5ad"), "a number"),
        (("grn", "mine.h5ad", "--readout", "pearson", "--genes", "0", "--output", "o.h5ad"), "at least 1 gene"),
        (("grn", "mine.h5ad", "--readout", "pearson", "--fdr", "2", "--output", "o.h5ad"), "below 1"),
        (("grn", "mine.h5ad", "--readout", "pearson", "--population", "mood=good", "--output", "o.h5ad"), "donor_id"),
        (("grn", "mine.h5ad", "--readout", "pearson", "--population", "cell_type=x", "--output", "o.h5ad"), T),
        (("grn", "mine.h5ad", "--readout", "attention", "--model", "smal", "--output", "o.h5ad"), "nearest: small"),
        (("grn-compare", "none.h5ad", "mine.h5ad"), "a file that is there"),
        (("grn-hubs", "mine.h5ad"), "varp"),
        (("grn-hubs", "grn-x/first/none/all"), "a network of the atlas"),
        (("grn-view", "mine.h5ad", "--gene", "x", "--output", "o.png"), ".svg"),
    ],
)
def test_slips_are_told_with_what_is_allowed_and_nothing_is_written(ask, home, words, told):
    named = [home / word if str(word) == "mine.h5ad" else word for word in words]
    done = ask(*named)
    assert done.code == 2, done.err
    assert told in done.err
    assert "Traceback" not in done.err
    assert not list(Path().iterdir())
