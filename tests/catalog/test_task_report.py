"""`--plots`: a folder of figures of what was written, and a page that opens from disk, escapes and names findings."""

from __future__ import annotations

import base64
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from catalog import finished_blocks, task_figures
from catalog.cli import run
from catalog.errors import REJECTED, USAGE
from catalog.figures import Plot
from catalog.model_places import read_adata
from catalog.task_figures import drawn_rows, own_groups, term_name, umap_places
from catalog.task_report import describe_model, render_task_report
from model import InferenceOptions, Network, embed, load_model, save_model
from model.ledger import Ledger
from tests.catalog.test_report import HOSTILE, Page
from tests.model.small_runs import small_adata, small_start

if TYPE_CHECKING:
    from model.network import Encoded
    from model.views import View

N = 48
PLOT = Plot("umap", "Embedding", "All cells.", 3, 4.5, b"\x89PNG", b"<svg/>")


@pytest.fixture(scope="module")
def home(session_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with a model that has seen some cells, and a file of cells with hostile names."""
    folder = tmp_path_factory.mktemp("plots")
    (folder / "cache").symlink_to((session_home / "cache").resolve(), target_is_directory=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PANATLAS_HOME", str(folder))
        cells = small_adata()[:N].copy()
        cells.obs["lab <b>"] = [HOSTILE.replace("\x00", "").replace("\ud800", ""), "2"] * (N // 2)
        cells.obs_names = [f"<script>{i}</script>" for i in range(N)]
        cells.write_h5ad(folder / "cells.h5ad")
        hashes = read_adata(folder / "cells.h5ad", "human").cells.codes("count_hash_high", np.arange(15))
        order = np.argsort(hashes)
        ledger = Ledger(hashes[order], np.arange(15, dtype=np.uint64), np.full(15, 2, np.uint8))
        facts = {"release": "r1", "roles": {"trained": 15, "validation": 0}, "steps": 12}
        save_model(folder / "models" / "mine", replace(small_start().model, ledger=ledger, facts=facts))
    return folder


@pytest.fixture
def ask(capsys, home, monkeypatch, tmp_path):
    """Run a task on that file, elsewhere; returns exit code, receipt and what people are told."""
    monkeypatch.setenv("PANATLAS_HOME", str(home))
    monkeypatch.chdir(tmp_path)

    def call(verb: str, *words: object) -> tuple[int, dict, str]:
        capsys.readouterr()
        size = () if "--batch-size" in words else ("--batch-size", "48")
        usual = ("--output", "out.h5ad", "--length", "64", *size, "--device", "cpu", "--json", "--plots")
        code = run([verb, str(home / "cells.h5ad"), *usual, *map(str, words)])
        out, err = capsys.readouterr()
        return code, json.loads(out) if out else {}, err

    return call


def looked_at(folder: str = "out.plots") -> tuple[dict[str, dict], Page, str]:
    """Return the figures by name and the page, after proving that the folder holds what it says."""
    place = Path(folder)
    index = json.loads((place / "figures.json").read_text())
    figures = {one["name"]: one for one in index["figures"]}
    files = {f"{name}.{kind}" for name in figures for kind in ("png", "svg")}
    assert {one.name for one in place.iterdir()} == files | {"figures.json", "report.html"}
    text = (place / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    images = [value for tag, name, value in page.attributes if (tag, name) == ("img", "src")]
    assert [base64.b64decode(one.partition("base64,")[2]) for one in images] == [
        (place / f"{name}.png").read_bytes() for name in figures
    ]
    return figures, page, text


@pytest.mark.index
def test_an_embedding_is_drawn_by_what_is_known_of_the_cells_and_twice_alike(ask):
    code, told, err = ask("embed")
    assert code == 0, err
    assert (told["plots"], "out.plots" in err) == ("out.plots", True)
    figures, page, text = looked_at()
    shown = [one for one in figures if one.startswith("umap")]
    assert shown[0] == "umap-1-cell-type"
    assert "umap-4-lab-b" in shown or "umap-3-lab-b" in shown
    assert {figures[one]["marks"] for one in shown} == {N}
    assert "top-genes-cell-type" in figures
    said = "".join(page.text)
    for part in (told["model"], told["sha256"], "trained-on-cells", "15", "r1", told["versions"]["torch"], "release"):
        assert part in said
    assert not re.search(r"https?:|url\(|@import|javascript:", text)
    first = {one.name: one.read_bytes() for one in Path("out.plots").iterdir()}
    assert ask("embed", "--force")[0] == 0
    again = {one.name: one.read_bytes() for one in Path("out.plots").iterdir()}
    assert set(first) == set(again)
    assert [name for name in first if first[name] != again[name]] == ["report.html"], "which tells the seconds"


@pytest.mark.index
def test_an_annotation_is_drawn_by_what_is_told_and_beside_the_cells_own_labels(ask):
    code, told, err = ask("annotate", "--threshold", "0.2", "--label", "cell_type")
    assert code == 0, err
    figures, page, _ = looked_at()
    assert {"umap-told-cell-type", "probabilities", "reliability", "confusion-cell-type"} <= set(figures)
    assert figures["umap-told-cell-type"]["marks"] == N
    obs = ad.read_h5ad("out.h5ad").obs
    pairs = obs.groupby(["cell_type", "panatlas_cell_type"], observed=True).size()
    assert figures["confusion-cell-type"]["marks"] == len(pairs)
    assert f"{N} cells whose label is known" in figures["confusion-cell-type"]["note"]
    said = "".join(page.text)
    assert told["thresholds"]["cell_type"]["promise"] in said
    assert all(name in said for name in told["labels"]["cell_type"])


@pytest.mark.index
def test_cells_that_are_named_and_drawn_are_read_once(ask, home, monkeypatch):
    read, drawn = [], []
    encode, places = Network.encode, task_figures.umap_places

    def counted(self: Network, view: View, **how: object) -> Encoded:
        read.append(len(view.rows))
        return encode(self, view, **how)

    monkeypatch.setattr(Network, "encode", counted)
    monkeypatch.setattr(task_figures, "umap_places", lambda values: drawn.append(values) or places(values))
    monkeypatch.setattr(task_figures, "MOST_CELLS", 30)
    monkeypatch.setattr(finished_blocks, "BLOCK_CELLS", 16)
    code, _, err = ask("annotate", "--threshold", "0.2", "--batch-size", "16")
    assert code == 0, err
    assert sum(read) == N
    assert len(drawn[0]) == 30
    cells, model = read_adata(home / "cells.h5ad", "human").cells, load_model(home / "models" / "mine")
    truth = embed(model, cells, drawn_rows(N), options=InferenceOptions(length=64, device="cpu")).values
    np.testing.assert_allclose(drawn[0], truth, rtol=1e-3, atol=1e-5)
    assert ask("annotate", "--threshold", "0.2", "--batch-size", "16", "--smooth", "0.3", "--force")[0] == 0
    np.testing.assert_array_equal(drawn[1], drawn[0])


@pytest.mark.index
def test_counts_are_drawn_before_and_after_and_their_totals_are_kept(ask):
    code, _, err = ask("denoise", "--depth", "2")
    assert code == 0, err
    figures, _, _ = looked_at()
    assert list(figures) == ["before-and-after", "totals"]
    assert figures["before-and-after"]["marks"] == 8 * N
    assert figures["totals"]["marks"] == N
    off = [float(one) for one in re.findall(r"by ([\d.e-]+) %", figures["totals"]["note"])]
    assert len(off) == 2
    assert max(off) < 0.1, "twice the counts, to a tenth of a percent"


@pytest.mark.index
def test_unmeasured_genes_are_drawn_with_their_spread(ask, home):
    model = load_model(home / "models" / "mine")
    here = set(ad.read_h5ad(home / "cells.h5ad").var_names)
    Path("genes.txt").write_text("\n".join([one for one in model.vocabulary.genes[0] if one not in here][:3]))
    code, _, err = ask("impute", "--genes", "genes.txt")
    assert code == 0, err
    figures, _, _ = looked_at()
    assert list(figures) == ["imputed-genes", "imputed-by-cell-type"]
    assert figures["imputed-genes"]["marks"] == 3
    kinds = ad.read_h5ad("out.h5ad").obs["cell_type"].nunique()
    assert figures["imputed-by-cell-type"]["marks"] == 3 * kinds


@pytest.mark.index
def test_a_folder_of_other_things_is_never_written_over(ask):
    Path("out.plots").mkdir()
    Path("out.plots/mine.txt").write_text("mine")
    for words in ((), ("--force",)):
        code, told, err = ask("embed", *words)
        assert (code, told) == (USAGE, {})
        assert "plots" in err
    assert [one.name for one in Path("out.plots").iterdir()] == ["mine.txt"]
    assert not Path("out.h5ad").exists(), "it is told before anything is read"
    Path("out.plots/figures.json").write_text('{"format": "panatlas figures 1", "figures": []}')
    assert ask("embed", "--force")[0] == USAGE, "something of ours beside something else"
    Path("out.plots").rename("kept")
    Path("out.plots").symlink_to("kept", target_is_directory=True)
    assert ask("embed", "--force")[0] == USAGE
    assert (Path("kept") / "mine.txt").exists()
    assert ask("embed", "--to-atlas")[0] == USAGE


@pytest.mark.index
def test_what_is_refused_leaves_no_figures(ask, home):
    code, _, _ = ask("embed", "--organism", "mouse")
    assert code in (USAGE, REJECTED)
    assert list(Path().iterdir()) == []


def receipt(**changes: object) -> dict:
    """Return a receipt as a task makes one."""
    finding = {"severity": "warning", "where": "var", "expected": "more", "count": 1}
    base = {
        "command": "embed", "input": "x.h5ad", "output": "o.h5ad", "sha256": "a" * 64, "model": "b" * 64,
        "release": None, "options": {"length": None, "batch_size": 64}, "content_sha256": "c" * 64, "matrix": "X",
        "versions": {"panatlas": "1"}, "model_folder": "m", "cells": 7, "genes": {"known": 5, "measured": 6},
        "seen": {"trained": 1, "validation": 2}, "seconds": 1.5,
        "findings": [
            {**finding, "code": f"code-{i}", "found": f"found {i}", "remedy": f"remedy {i}", "severity": severity}
            for i, severity in enumerate(("info", "warning", "error"))
        ],
    }  # fmt: skip
    return base | changes


def test_the_page_names_every_finding_with_its_remedy_the_gravest_first():
    text = render_task_report(receipt(), {"digest": "d"}, [PLOT])
    page = Page(text)
    assert [value for _, name, value in page.attributes if name == "data-finding"] == ["code-2", "code-1", "code-0"]
    said = "".join(page.text)
    assert all(f"{kind} {i}" in said for i in range(3) for kind in ("found", "remedy"))
    assert text == render_task_report(receipt(), {"digest": "d"}, [PLOT])
    assert "length" not in said.split("Receipt")[0], "what was not asked is not told"
    assert {value[1:] for tag, name, value in page.attributes if name == "href"} <= set(page.ids)
    assert not {"script", "link", "iframe", "object", "form"} & set(page.tags)
    csp = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    assert ("meta", "content", csp) in page.attributes


def test_a_job_without_figures_or_findings_is_a_page_too():
    page = Page(render_task_report(receipt(findings=[]), {}, []))
    assert "img" not in page.tags
    assert "Nothing was found" in "".join(page.text)


def test_what_strangers_wrote_stays_text():
    finding = dict.fromkeys(("code", "where", "found", "expected", "remedy"), HOSTILE) | {"severity": "warning"}
    limits = {"cell_type": {"threshold": 0.5, "promise": HOSTILE, "temperature": 1.0}}
    facts = receipt(
        input=HOSTILE, output=HOSTILE, command=HOSTILE, matrix=HOSTILE, findings=[finding], thresholds=limits,
        labels={"cell_type": {HOSTILE: 3}}, options={HOSTILE: HOSTILE}, versions={HOSTILE: HOSTILE},
    )  # fmt: skip
    text = render_task_report(facts, {HOSTILE: HOSTILE}, [replace(PLOT, title=HOSTILE, note=HOSTILE)])
    page = Page(text)
    assert "script" not in page.tags
    assert page.tags.count("img") == 1
    assert not [one for one in page.attributes if one[1].startswith("on")]
    assert "<script>alert('x')</script>" in "".join(page.text)
    assert not re.search("[\x00\x1b\ud800]", text)
    text.encode("utf-8")


def test_places_are_the_same_again_and_keep_groups_apart():
    rng = np.random.default_rng(0)
    groups = np.arange(120) % 3
    values = (rng.standard_normal((120, 30)) + 12 * np.eye(3, 30)[groups]).astype(np.float32)
    values[1] = values[4]
    one = umap_places(values)
    np.testing.assert_array_equal(one, umap_places(values.copy()))
    middles = np.stack([one[groups == group].mean(0) for group in range(3)])
    nearest = np.linalg.norm(one[:, None] - middles[None], axis=2).argmin(1)
    assert (nearest == groups).all()
    for few in (values[:1], values[:3], np.zeros((30, 1), np.float32), np.zeros((5, 4), np.float32)):
        assert np.isfinite(umap_places(few)).all()
        assert umap_places(few).shape == (len(few), 2)


def test_what_groups_cells_are_labels_first_and_never_names():
    n = 40
    obs = pd.DataFrame(
        {
            "note": pd.Categorical(["x", "y"] * 20), "name": pd.Categorical([f"c{i}" for i in range(n)]),
            "depth": np.arange(n), "one": pd.Categorical(["same"] * n), "donor_id": pd.Categorical(["d1", "d2"] * 20),
            "panatlas_cell_type": pd.Categorical(["t", "u"] * 20), "sex": pd.Categorical(["male", None] * 20),
            "cell_type_ontology_term_id": pd.Categorical(["CL:1", "CL:2"] * 20),
        }
    )  # fmt: skip
    model = small_start().model
    ids = model.vocabulary.labels["cell_type"].classes[:2]
    obs["cell_type_ontology_term_id"] = pd.Categorical(list(ids) * 20)
    found = own_groups(obs, model)
    assert list(found) == ["cell_type", "sex", "donor_id", "note"]
    assert set(found["cell_type"]) == set(model.vocabulary.labels["cell_type"].labels[:2])
    assert set(found["sex"]) == {"male", "unknown"}


@pytest.mark.index
@pytest.mark.parametrize(
    ("term", "name"),
    [
        ("CL:0000583", "alveolar macrophage"), ("CL:0000583 || CL:0000084", "alveolar macrophage || T cell"),
        ("CL:9999999", "CL:9999999"), ("mine", "mine"), ("", ""), (":", ":"), ("unknown", "unknown"),
        ("NOSUCH:1 || CL:0000084", "NOSUCH:1 || CL:0000084"),
    ],
)  # fmt: skip
def test_terms_that_the_model_does_not_know_are_named_by_their_ontology(term, name):
    assert term_name(term) == name


def test_the_model_is_described_by_what_it_learnt_from(home):
    model = load_model(home / "models" / "mine")
    said = describe_model(model)
    weights = sum(one.numel() for one in model.network.parameters())
    assert said["digest"] == model.digest
    assert (said["release"], said["cells it was trained on"], said["weights"]) == ("r1", "15", f"{weights:,}")
    assert "homo_sapiens" in said["genes"]
