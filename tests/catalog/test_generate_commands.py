"""Counterfactual, verdict and embed-genes at the command line: files hold what the verbs say, slips have a remedy."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import spearmanr

from catalog import finished_blocks
from catalog.cli import run
from catalog.errors import INTERRUPTED, REJECTED, USAGE
from catalog.model_places import read_adata
from loaders import AnnDataCells, Vocabulary, make_vocabulary
from model import (
    InferenceOptions,
    Network,
    Swap,
    TrainedModel,
    counterfactual_blocks,
    embed,
    embed_genes,
    embed_genes_in_cells,
    load_model,
    make_token_table,
    mean_codes,
    save_model,
)
from model.ledger import Ledger
from ontology import load_gene_table, one_to_one_orthologs
from tests.model.sharp_model import sharpened
from tests.model.small_runs import small_config

pytestmark = pytest.mark.index
N, N_GENES, N_PAIRED = 160, 110, 100
OPTIONS = InferenceOptions(length=200, batch_size=32, device="cpu")


@cache
def gene_ids(organism: str) -> list[str]:
    """Return 100 genes with an ortholog in the other organism, in the same order, and 10 without."""
    pairs = one_to_one_orthologs("homo_sapiens", "mus_musculus").sort_values("first").head(N_PAIRED)
    mine = pairs["first" if organism == "human" else "second"].tolist()
    paired = set(one_to_one_orthologs("homo_sapiens", "mus_musculus")["first" if organism == "human" else "second"])
    return mine + [gene for gene in load_gene_table(organism).ids.tolist() if gene not in paired][:10]


def make_cells(organism: str = "human") -> ad.AnnData:
    """Return cells of two types, eight donors and two diseases, which add to some genes."""
    rng = np.random.default_rng(0 if organism == "human" else 1)
    kinds, ill, donors = rng.integers(0, 2, N), np.arange(N) % 2, (np.arange(N) // 2) % 8
    profiles = np.random.default_rng(7).gamma(0.5, 4.0, (2, N_GENES))
    more = np.where(np.arange(N_GENES) < 15, 8.0, 1.0)
    counts = rng.poisson(profiles[kinds] * np.where(ill[:, None], more, 1.0) + 0.1)
    obs = pd.DataFrame(
        {
            "kind": np.array(["T cell", "B cell"])[kinds],
            "state": np.array(["normal", "flu"])[ill],
            "donor": [f"d{one}" for one in donors],
        },
        index=[f"{organism}{i}" for i in range(N)],
    )
    return ad.AnnData(counts.astype(np.float32), obs, pd.DataFrame(index=gene_ids(organism)))


@pytest.fixture(scope="module")
def home(session_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with a model of two organisms, and a file of cells of each."""
    folder = tmp_path_factory.mktemp("generate")
    (folder / "cache").symlink_to((session_home / "cache").resolve(), target_is_directory=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PANATLAS_HOME", str(folder))
        for organism in ("human", "mouse"):
            make_cells(organism).write_h5ad(folder / f"{organism}.h5ad")
        cells = AnnDataCells(make_cells(), "human")
        words = Vocabulary(
            ("homo_sapiens", "mus_musculus"), (tuple(gene_ids("human")), tuple(gene_ids("mouse"))),
            make_vocabulary(cells).labels,
        )  # fmt: skip
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            network = Network(small_config(), words, make_token_table(words))
        empty = Ledger(np.zeros(0, np.uint64), np.zeros(0, np.uint64), np.zeros(0, np.uint8))
        save_model(folder / "models" / "mine", sharpened(TrainedModel(network, words, empty, {"release": "r1"}), cells))
    return folder


@pytest.fixture(autouse=True)
def own_home(home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Work in that home, and write elsewhere."""
    monkeypatch.setenv("PANATLAS_HOME", str(home))
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def model(home: Path) -> TrainedModel:
    return load_model(home / "models" / "mine")


@pytest.fixture(scope="module")
def cells(home: Path, session_home: Path):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PANATLAS_HOME", str(home))
        return read_adata(home / "human.h5ad", "human").cells


@pytest.fixture
def ask(capsys, home):
    """Run a command; returns exit code, receipt and what people are told."""

    def call(verb: str, *words: object) -> tuple[int, dict, str]:
        capsys.readouterr()
        usual = {} if verb == "verdict" else {"--output": "out.h5ad"}
        if verb != "verdict":
            usual |= {"--length": 200, "--batch-size": 32, "--device": "cpu"}
        rest = [str(word) for name, value in usual.items() if name not in words for word in (name, value)]
        code = run([verb, *map(str, words), "--json", *rest])
        out, err = capsys.readouterr()
        return code, json.loads(out) if out else {}, err

    return call


FLU = ("--set", "disease:state=flu", "--by", "kind", "--donors", "donor")


def test_cells_are_changed_as_the_verb_changes_them_and_the_others_are_left_open(ask, home, model, cells):
    code, told, err = ask("counterfactual", home / "human.h5ad", *FLU, "--set", "base:state=flu", "--mix", "0.5")
    assert code == 0, err
    found, given = ad.read_h5ad("out.h5ad"), make_cells()
    well = np.flatnonzero(given.obs["state"] == "normal")
    assert found.obs_names.tolist() == given.obs_names.tolist()
    assert {*found.layers} == {"panatlas_factual", "panatlas_counterfactual"}
    assert sorted(found.var_names) == sorted(gene_ids("human"))
    compared = found.obs["panatlas_counterfactual"] == "changed, compared"
    donors = set(found.obs["donor"][compared])
    assert len(donors) == 4, "half of the donors"
    assert (found.obs["panatlas_counterfactual"] == "not changed").tolist() == (given.obs["state"] == "flu").tolist()
    reference = np.flatnonzero((given.obs["state"] == "flu") & ~given.obs["donor"].isin(donors))
    codes = mean_codes(model, cells, reference, options=OPTIONS)
    swaps = [Swap(token, codes[token], 0.5) for token in ("disease", "base")]
    blocks = list(counterfactual_blocks(model, cells, swaps, well, genes=found.var_names.tolist(), options=OPTIONS))
    for layer, name in (("panatlas_factual", "factual"), ("panatlas_counterfactual", "expected")):
        truth = np.concatenate([getattr(block, name) for block in blocks])
        np.testing.assert_allclose(found.layers[layer][well], truth, rtol=1e-3)
        assert np.isnan(np.delete(found.layers[layer], well, axis=0)).all()
    assert (told["changed"], told["compared"], told["target"], told["reference"]) == (80, compared.sum(), 40, 40)
    assert (told["groups"], told["halves_by"], told["mix"]) == (["all"], "donor", 0.5)
    uns = found.uns["panatlas"]
    assert (uns["model"], uns["command"], uns["set"].tolist()) == (
        model.digest, "counterfactual", ["disease:state=flu", "base:state=flu"],
    )  # fmt: skip
    changes = pd.DataFrame(uns["changes"])
    assert changes["gene"].tolist() == found.var_names.tolist()
    shares = given.X / given.X.sum(1, keepdims=True) * 1e4
    means = [
        shares[(given.obs["state"] == state) & given.obs["donor"].isin(donors)].mean(0) for state in ("normal", "flu")
    ]
    truth = pd.Series(np.log2((means[1] + 1) / (means[0] + 1)), index=given.var_names)
    np.testing.assert_allclose(changes["observed_change"], truth[changes["gene"]], rtol=1e-4)
    scores = pd.DataFrame(told["scores"]).set_index("method")
    assert scores.loc["counterfactual", "spearman"] == pytest.approx(
        spearmanr(changes["change"], changes["observed_change"]).statistic
    )
    assert scores.loc["mean shift", "explained"] > 0.5
    assert "mean shift" in err


def test_the_same_command_twice_writes_the_same_bytes_and_weight_0_changes_nothing(ask, home):
    first = ask("counterfactual", home / "human.h5ad", *FLU)[1]["sha256"]
    assert ask("counterfactual", home / "human.h5ad", *FLU)[0] == USAGE
    assert ask("counterfactual", home / "human.h5ad", *FLU, "--force")[1]["sha256"] == first
    assert ask("counterfactual", home / "human.h5ad", *FLU, "--force", "--mix", "0")[1]["sha256"] != first
    found = ad.read_h5ad("out.h5ad").layers
    np.testing.assert_array_equal(found["panatlas_factual"], found["panatlas_counterfactual"])


@pytest.mark.parametrize(("keeps", "before"), [(1, [1, 0, 0, 0]), (6, [2, 2, 2, 0]), (9, [2, 2, 4, 1])])
def test_a_stopped_counterfactual_goes_on_and_writes_the_same_bytes(ask, home, monkeypatch, keeps, before):
    words = (home / "human.h5ad", *FLU, "--batch-size", "16", "--n-genes", "20")
    monkeypatch.setattr(finished_blocks, "BLOCK_CELLS", 16)
    whole = ask("counterfactual", *words, "--output", "whole.h5ad")[1]
    real, kept = finished_blocks.FinishedBlocks._keep, []

    def stop(self, number, rows):
        real(self, number, rows)
        kept.append(number)
        if len(kept) == keeps:
            raise KeyboardInterrupt

    monkeypatch.setattr(finished_blocks.FinishedBlocks, "_keep", stop)
    assert ask("counterfactual", *words)[0] == INTERRUPTED
    assert list(Path().iterdir()) == [Path("whole.h5ad")]
    found = [len(list(folder.glob("*.npz"))) for folder in (home / "tasks").iterdir()]
    assert sorted(found) == sorted(one for one in before if one), "of others, reference, changed and compared cells"
    monkeypatch.setattr(finished_blocks.FinishedBlocks, "_keep", real)
    read, encode = [], Network.encode

    def counted(self, view, **how):
        read.append(len(view.rows))
        return encode(self, view, **how)

    monkeypatch.setattr(Network, "encode", counted)
    code, told, err = ask("counterfactual", *words)
    assert (code, told["sha256"]) == (0, whole["sha256"]), err
    assert sum(read) == 40 + 40 + 80 + 40 - 16 * sum(before), "cells of finished blocks are not read again"
    assert f"{16 * before[0]} of 200 cells were done before" in err
    assert Path("out.h5ad").read_bytes() == Path("whole.h5ad").read_bytes()
    assert list((home / "tasks").iterdir()) == []


def test_what_a_stopped_counterfactual_left_is_not_taken_for_another(ask, home, monkeypatch):
    monkeypatch.setattr(finished_blocks, "BLOCK_CELLS", 16)
    real, words = finished_blocks.FinishedBlocks._keep, (home / "human.h5ad", *FLU, "--batch-size", "16", "--force")
    few = ("--n-genes", "20")
    others = ((*few, "--mix", "0.5"), (*few, "--seed", "1"), ("--n-genes", "21"), (*few, "--set", "base:state=flu"))
    truth = [ask("counterfactual", *words, *more)[1]["sha256"] for more in others]

    def stop(self, number, rows):
        real(self, number, rows)
        if self.n_cells == 80 and number == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(finished_blocks.FinishedBlocks, "_keep", stop)
        assert ask("counterfactual", *words, *few)[0] == INTERRUPTED
    assert [ask("counterfactual", *words, *more)[1]["sha256"] for more in others] == truth
    assert len(list((home / "tasks").iterdir())) == 3, "which are that of the stopped one"
    assert ask("counterfactual", *words, *few)[0] == 0
    assert list((home / "tasks").iterdir()) == []


def test_groups_genes_and_gene_sets_are_those_that_are_asked_for(ask, home):
    table = load_gene_table("human")
    symbols = dict(zip(table.ids.tolist(), table.symbols, strict=True))
    lines = {"up": gene_ids("human")[:15], "other": gene_ids("human")[30:60]}
    Path("sets.gmt").write_text("".join(f"{name}\t\t" + "\t".join(ids) + "\n" for name, ids in lines.items()))
    Path("genes.txt").write_text("\n".join(gene_ids("human")[:90]))
    words = ("--set", "disease:state=flu", "--by", "kind", "--gene-sets", "sets.gmt", "--genes", "genes.txt")
    code, told, err = ask("counterfactual", home / "human.h5ad", *words)
    assert code == 0, err
    assert told["groups"] == ["all"] or told["groups"] == ["all", "B cell", "T cell"]
    assert (told["decoded_genes"], told["halves_by"]) == (90, "cells")
    rows = pd.DataFrame(told["pathways"])
    seen = rows[(rows["of"] == "observed") & (rows["group"] == "all")].set_index("set")
    assert seen.loc["up", "q_rank"] < 0.001
    assert seen.loc["up", "auc"] > 0.8
    assert set(rows["of"]) == {"counterfactual", "over own class", "observed"}
    assert ad.read_h5ad("out.h5ad").var["feature_name"].tolist() == [
        symbols[gene] for gene in ad.read_h5ad("out.h5ad").var_names
    ]
    code, told, _ = ask("counterfactual", home / "human.h5ad", *FLU, "--n-genes", "20", "--force")
    assert told["decoded_genes"] == ad.read_h5ad("out.h5ad").n_vars == 20


def test_another_organism_is_compared_by_orthologs(ask, home):
    words = ("--set", "organism=mus_musculus", "--reference", home / "mouse.h5ad", "--reference-organism", "mouse")
    code, told, err = ask("counterfactual", home / "human.h5ad", *words)
    assert code == 0, err
    found = ad.read_h5ad("out.h5ad")
    pairs = dict(zip(gene_ids("human")[:N_PAIRED], gene_ids("mouse")[:N_PAIRED], strict=True))
    assert found.n_vars == N_PAIRED
    assert found.var["counterfactual_gene"].tolist() == [pairs[gene] for gene in found.var_names]
    changes = pd.DataFrame(found.uns["panatlas"]["changes"]).set_index("gene")
    mouse = make_cells("mouse")
    shares = pd.DataFrame(mouse.X / mouse.X.sum(1, keepdims=True) * 1e4, columns=mouse.var_names).mean()
    rough = changes["target"] / shares[changes["gene_after"]].to_numpy()
    assert abs(np.median(rough) - 1) < 0.1, "half of the mouse cells, gene by gene"
    assert told["changed"] == N
    code, _, err = ask("counterfactual", home / "human.h5ad", *words[2:], "--set", "disease:state=flu", "--force")
    assert (code, "--set organism=mus_musculus" in err) == (USAGE, True)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--set", "colour=red"), "base, cell_type"),
        (("--set", "disease"), "TOKEN=VALUE"),
        (("--set", "disease:state=plague"), "flu, normal"),
        (("--set", "disease:mood=flu"), "kind, state, donor"),
        (("--set", "disease:state=flu", "--by", "mood"), "kind, state, donor"),
        (("--set", "disease:state=flu", "--donors", "mood"), "kind, state, donor"),
        (("--set", "disease:state=flu", "--donors", "state"), "two or more"),
        (("--set", "disease:state=flu", "--mix", "2"), "0 to 1"),
        (("--set", "disease:state=flu", "--n-genes", "1"), "2 or more"),
        (("--set", "disease:state=flu", "--output", "x.csv"), ".h5ad"),
        (("--set", "organism=homo_sapiens"), "another"),
    ],
)
def test_a_slip_is_told_with_its_remedy_and_leaves_nothing(ask, home, words, said):
    code, told, err = ask("counterfactual", home / "human.h5ad", *words)
    assert (code, told) == (USAGE, {}), err
    assert said in err
    assert list(Path().iterdir()) == []


def test_genes_are_embedded_before_any_cell_and_in_some(ask, home, model, cells):
    code, told, err = ask("embed-genes")
    assert code == 0, err
    found, truth = ad.read_h5ad("out.h5ad"), embed_genes(model)
    np.testing.assert_array_equal(found.obsm["X_panatlas"], truth.values)
    assert found.obs_names.tolist() == truth.ids.tolist()
    assert found.obs["organism"].value_counts().to_dict() == {"homo_sapiens": N_GENES, "mus_musculus": N_GENES}
    assert (told["genes"], found.uns["panatlas"]["model"]) == (2 * N_GENES, model.digest)
    assert (
        found.obs["feature_name"].astype(str).iloc[0]
        == load_gene_table("human").symbols[load_gene_table("human").ids.tolist().index(gene_ids("human")[0])]
    )
    words = (home / "human.h5ad", "--only", "kind=T cell", "--only", "state=flu", "--least-cells", "5", "--force")
    code, told, err = ask("embed-genes", *words)
    assert code == 0, err
    found, obs = ad.read_h5ad("out.h5ad"), make_cells().obs
    mine = np.flatnonzero((obs["kind"] == "T cell") & (obs["state"] == "flu"))
    truth = embed_genes_in_cells(model, cells, mine, least_cells=5, options=OPTIONS)
    np.testing.assert_array_equal(found.obsm["X_panatlas"], truth.values)
    assert found.obs["n_cells"].tolist() == truth.cells.tolist()
    assert told["cells"] == len(mine)
    for wrong, said in (((home / "human.h5ad", "--only", "kind=T"), "T cell"), (("--only", "kind=T"), "name an input")):
        code, _, err = ask("embed-genes", *wrong, "--force")
        assert (code, said in err) == (USAGE, True)


def test_a_verdict_is_said_of_an_embedding_beside_pca_of_its_counts(ask, home, model, cells):
    assert ask("embed", home / "human.h5ad")[0] == 0
    words = ("out.h5ad", "--label", "kind", "--batch", "donor")
    code, told, err = ask("verdict", *words, "--counts", home / "human.h5ad")
    assert code == 0, err
    assert told["verdict"].split(":")[0] in ("Not collapsed", "Collapsed")
    assert {row["evidence"] for row in told["evidence"]} >= {"naming", "purity", "silhouette", "connectivity", "lisi"}
    naming = next(row for row in told["evidence"] if row["evidence"] == "naming")
    assert naming["baseline"] > 0.9, "types are far apart in these counts"
    parts = [row["part"] for row in told["variance"]]
    assert parts[0] == "all"
    assert {"base", "cell_type", "disease", "baseline"} <= set(parts)
    assert told["shape"]["distinct"] == 1
    values = embed(model, cells, options=OPTIONS).values
    shares = np.linalg.svd(values - values.mean(0), compute_uv=False) ** 2
    assert told["shape"]["first_component"] == pytest.approx(shares[0] / shares.sum(), rel=1e-3)
    code, alone, _ = ask("verdict", *words)
    assert (code, alone["beats_pca"]) == (0, None)
    assert "no counts were given" in alone["verdict"]
    twisted = make_cells()[::-1].copy()
    twisted.write_h5ad("twisted.h5ad")
    again = ask("verdict", *words, "--counts", "twisted.h5ad")[1]
    assert again["evidence"] == told["evidence"], "cells are matched by name"


def test_a_file_with_counts_of_its_own_needs_no_other_and_any_embedding_will_do(ask, capsys):
    adata = make_cells()
    adata.obsm["X_mine"] = np.random.default_rng(0).normal(size=(N, 4))
    adata.write_h5ad("mine.h5ad")
    code, told, err = ask("verdict", "mine.h5ad", "--key", "X_mine", "--label", "kind", "--batch", "donor")
    assert code == 0, err
    assert told["beats_pca"] is False
    assert "does not beat PCA" in told["verdict"]
    assert run(["verdict", "mine.h5ad", "--key", "X_mine", "--label", "kind"]) == 0
    out, err = capsys.readouterr()
    assert "does not beat PCA" in err
    assert "naming" in out
    adata.X = np.log1p(adata.X / adata.X.sum(1, keepdims=True) * 1e4)
    adata.write_h5ad("logs.h5ad")
    code, told, _ = ask("verdict", "logs.h5ad", "--key", "X_mine", "--label", "kind")
    assert (code, told["beats_pca"]) == (0, None)
    assert "no raw counts" in told["note"]


def test_cells_to_compare_with_are_never_written_over(ask, home):
    make_cells().write_h5ad("other.h5ad")
    before = Path("other.h5ad").read_bytes()
    words = ("--reference", "other.h5ad", "--output", "other.h5ad", "--force")
    code, _, err = ask("counterfactual", home / "human.h5ad", *FLU, *words)
    assert (code, "another file than the input" in err) == (USAGE, True), err
    assert Path("other.h5ad").read_bytes() == before


def test_slips_of_a_verdict_are_told(ask, home):
    adata = make_cells()
    adata.obsm["X_panatlas"] = np.random.default_rng(0).normal(size=(N, 4))
    adata.write_h5ad("mine.h5ad")
    adata[:50].write_h5ad("few.h5ad")
    for words, code, said in (
        (("nowhere.h5ad",), USAGE, "exists"),
        (("mine.h5ad", "--key", "X_pca"), USAGE, "X_panatlas"),
        (("mine.h5ad", "--label", "mood"), USAGE, "kind, state, donor"),
        (("mine.h5ad", "--counts", "few.h5ad"), USAGE, "110 of 160"),
        (("mine.h5ad", "--neighbours", "0"), USAGE, "neighbours=0"),
    ):
        found, told, err = ask("verdict", *words)
        assert (found, told, said in err) == (code, {}, True), err
    with h5py.File("mine.h5ad", "a") as file:
        file["obsm/elsewhere"] = h5py.ExternalLink("/etc/passwd", "/")
    assert ask("verdict", "mine.h5ad")[0] == REJECTED
