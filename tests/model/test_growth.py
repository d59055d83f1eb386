"""New organisms and classes: what a model knew it still knows, and what is new has tokens and can be learnt."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch

from loaders import AnnDataCells, CollateConfig, Collator, Vocabulary, VocabularyError
from loaders.label_classes import make_classes
from model import (
    Beginning,
    Ledger,
    Machine,
    ModelInputError,
    Network,
    TrainedModel,
    embed_proteins,
    load_model,
    load_protein_vectors,
    make_token_table,
    make_view,
    save_model,
    seeded_esm2,
    train,
)
from model.gene_tokens import GeneTokens
from model.growth import leaf_mixes, with_classes, with_organism
from model.label_loss import LabelLoss
from model.ragged import make_ragged
from ontology import (
    ReferenceMissingError,
    UnknownOrganismError,
    add_organism_row,
    cache_dir,
    import_gtf,
    import_proteins,
    load_gene_table,
)
from tests.model.small_runs import N_GENES, small_cells, small_config, small_recipe

if TYPE_CHECKING:
    from pathlib import Path

CPU = Machine(device="cpu", save_every=100, log_every=1)
ABOUT = {"release": "made by hand", "licence": "CC0-1.0", "source": "hand"}
TREE = {  # child: parents, as CL has them among these
    "CL:0000084": "T cell", "CL:0000624": "CD4 T cell", "CL:0000625": "CD8 T cell", "CL:0000236": "B cell",
    "CL:0000576": "monocyte", "CL:0000623": "natural killer cell",
}  # fmt: skip


def proteins_of(ids: list[str], seed: int) -> str:
    rng = np.random.default_rng(seed)
    return "".join(f">{one}\n{''.join(rng.choice(list('ACDEFGHIKLMNPQRSTVWY'), 30))}\n" for one in ids)


def embedded(organism: str, ids: list[str], folder: Path):
    """Return vectors of made-up proteins by an untrained ESM2 of 16 numbers."""
    path = folder / f"{organism}.fa"
    path.write_text(proteins_of(ids, len(organism)))
    import_proteins(organism, path, ABOUT)
    embedder = seeded_esm2(1, 16)
    embed_proteins(organism, embedder, orthologs=False)
    return load_protein_vectors(organism, embedder.name)


@pytest.fixture(scope="module")
def new_home(tmp_path_factory: pytest.TempPathFactory):
    """Point the module at a home of its own, with the cache of pinned references."""
    home = tmp_path_factory.mktemp("home")
    (home / "cache").mkdir()
    for part in cache_dir().iterdir():
        if part.name != "protein_vectors":
            (home / "cache" / part.name).symlink_to(part)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PANATLAS_HOME", str(home))
        yield home


@pytest.fixture(scope="module")
def vectors(new_home: Path):
    return {
        name: embedded(name, load_gene_table(name).ids[:N_GENES:2].tolist(), new_home) for name in ("human", "mouse")
    }


@pytest.fixture(scope="module")
def model(vectors, tmp_path_factory: pytest.TempPathFactory):
    """Return a model of four steps on human cells, with vectors for every other of the genes that are counted."""
    folder = tmp_path_factory.mktemp("runs") / "human"
    recipe, beginning = small_recipe(steps=4, validate_every=0), Beginning(vectors={"homo_sapiens": vectors["human"]})
    return train(small_cells(), small_config(), recipe, folder, machine=CPU, beginning=beginning).model


@pytest.fixture(scope="module")
def grown(model, vectors):
    return with_organism(model, "mouse", vectors=vectors["mouse"])


def untrained() -> TrainedModel:
    """Return a network of first weights, a free one for each of a few human genes."""
    words = Vocabulary(("homo_sapiens",), (tuple(load_gene_table("human").ids[:40].tolist()),))
    config = small_config().changed(tokens={"source": "learned"})
    torch.manual_seed(0)
    network = Network(config, words, make_token_table(words)).eval()
    return TrainedModel(network, words, Ledger(*(np.zeros(0, kind) for kind in ("u8", "u8", "u1"))), {}, "d" * 64)


def batch_of(vocabulary, cells):
    collator = Collator(vocabulary, cells, CollateConfig(length=64, neighbours=2))
    batch = collator.collate(np.arange(12), np.arange(12))
    return batch, make_ragged(batch.offsets.diff())


@torch.inference_mode()
def answers(model, batch, rows):
    """Return all that a model says of a batch."""
    view = make_view(batch, rows)
    encoded = model.network.encode(view)
    total = rows.sum(batch.counts)
    read = model.network.express(encoded, rows, batch.depth, total)
    made = model.network.generate(encoded.compressed.restored, batch.genes, rows, batch.depth, total)
    out = {"embedding": encoded.embedding, "genes": encoded.genes}
    for way, values in (("read", read), ("made", made)):
        out |= {f"{way} {name}": getattr(values, name) for name in ("mean", "theta", "zero_logit")}
    return out, model.network.classify(encoded)


def test_what_is_said_of_old_cells_is_the_same_to_the_bit(model, grown):
    batch, rows = batch_of(model.vocabulary, small_cells())
    again, _ = batch_of(grown.vocabulary, small_cells())
    assert torch.equal(again.genes, batch.genes)
    before, logits = answers(model, batch, rows)
    after, logits_after = answers(grown, again, rows)
    for name, value in before.items():
        assert torch.equal(after[name], value), name
    assert set(logits) == {"cell_type"}, "small cells have one class of every other label"
    assert torch.equal(logits_after["cell_type"], logits["cell_type"])


def test_every_old_weight_is_there_to_the_bit(model, grown):
    before, after = model.network.state_dict(), grown.network.state_dict()
    longer = {name for name in before if before[name].shape != after[name].shape}
    of_genes = {"linear.vectors.weight", "linear.level", "linear.share"}
    assert longer <= {"tokens.free.weight", "tokens.group.weight", *of_genes}
    assert all(torch.equal(after[name], before[name]) for name in set(before) - longer)
    assert all(name.startswith("labels.read.organism.") for name in set(after) - set(before))
    assert not any(one.data_ptr() in {p.data_ptr() for p in before.values()} for one in after.values()), (
        "no weight shared"
    )


def test_the_organism_is_in_the_vocabulary_the_table_and_the_labels(model, grown, vectors):
    mouse = load_gene_table("mouse")
    words = grown.vocabulary
    assert words.organisms == ("homo_sapiens", "mus_musculus")
    assert words.genes[1] == tuple(mouse.ids.tolist())
    assert words.tokens["sha256"] == grown.table.digest != model.table.digest
    assert words.labels["organism"].classes == ("NCBITaxon:10090", "NCBITaxon:9606")
    assert "organism" not in model.network.labels.read
    fresh = make_token_table(words, {"mus_musculus": vectors["mouse"]})
    here = words.organism_tokens("mus_musculus")
    for name in ("vectors", "has_vector", "position", "biotype", "buckets"):
        assert np.array_equal(getattr(grown.table, name)[here], getattr(fresh, name)[here]), name
    assert grown.table.has_vector[here].sum() == len(vectors["mouse"])
    names = [np.array([*table.groups, ""])[table.group[here]] for table in (grown.table, fresh)]
    assert (names[0] == names[1]).all()
    assert (names[0] != "").sum() > 1_000, "mouse genes are in groups that human genes have trained"


def test_facts_and_ledger_say_where_it_comes_from(model, grown, vectors, tmp_path):
    assert grown.digest == ""
    assert grown.facts["grown_from"] == model.digest
    n_genes = len(load_gene_table("mouse"))
    about = dict(vectors["mouse"].about)
    assert grown.facts["added"] == [{"organism": "mus_musculus", "genes": n_genes, "vectors": about}]
    assert grown.ledger is model.ledger
    further = with_classes(grown, "cell_type", ["CL:0000623"])
    assert further.facts["grown_from"] == model.digest
    assert [list(one) for one in further.facts["added"]] == [["organism", "genes", "vectors"], ["label", "classes"]]
    kept = save_model(tmp_path / "grown", grown)
    last = with_classes(kept, "cell_type", "CL:0000623")
    assert last.facts["grown_from"] == kept.digest
    assert last.facts["added"] == [{"label": "cell_type", "classes": ["CL:0000623"]}]


def test_it_is_saved_and_loaded_and_made_again_with_the_same_bytes(model, grown, vectors, tmp_path):
    kept = save_model(tmp_path / "one", grown)
    again = save_model(tmp_path / "two", with_organism(model, "mus_musculus", (), vectors["mouse"]))
    assert kept.digest == again.digest
    back = load_model(tmp_path / "one")
    assert back.vocabulary == grown.vocabulary
    assert len(back.ledger) == len(grown.ledger) > 0
    batch, rows = batch_of(grown.vocabulary, small_cells("mouse"))
    for said, expected in zip(answers(back, batch, rows), answers(grown, batch, rows), strict=True):
        assert said.keys() == expected.keys()
        assert all(torch.equal(said[name], expected[name]) for name in said)


def test_cells_of_the_new_organism_are_read_and_trained_on(model, grown, tmp_path):
    cells = small_cells("mouse")
    batch, rows = batch_of(grown.vocabulary, cells)
    assert set(grown.vocabulary.organism_of_tokens[batch.genes.numpy()]) == {1}
    said, logits = answers(grown, batch, rows)
    assert all(value.isfinite().all() for value in (*said.values(), *logits.values()))
    assert not logits["organism"].any(), "a head that was not there before tells nothing yet"
    start = save_model(tmp_path / "grown", grown)
    recipe = small_recipe(steps=3, validate_every=0)
    run = train(cells, small_config(), recipe, tmp_path / "run", machine=CPU, beginning=Beginning(model=start))
    after = run.model
    assert after.facts["start"] == start.digest
    assert len(after.ledger) > len(model.ledger)
    assert not torch.equal(
        after.network.labels.read["organism"][-1].bias, grown.network.labels.read["organism"][-1].bias
    )
    moved = (after.network.tokens(batch.genes) - grown.network.tokens(batch.genes)).abs().amax(1)
    assert (moved > 0).all(), "all tokens of the new genes learn"


def test_new_classes_leave_the_old_ones_where_they_were(model):
    more = with_classes(model, "cell_type", ["CL:0000623", "CL:0000624", "CL:0000625"])
    batch, rows = batch_of(model.vocabulary, small_cells())
    (before, logits), (after, logits_after) = answers(model, batch, rows), answers(more, batch, rows)
    assert all(torch.equal(after[name], before[name]) for name in before)
    old, new = (one.vocabulary.labels["cell_type"] for one in (model, more))
    one, two = (one.network.labels.read["cell_type"] for one in (model, more))
    for kept in ("CL:0000236", "CL:0000576"):  # still leaves
        here, there = old.classes.index(kept), new.classes.index(kept)
        assert torch.equal(one[-1].weight[here], two[-1].weight[there])
        assert torch.equal(one[-1].bias[here], two[-1].bias[there])
        # A matrix product adds up in an order that depends on its size, so logits agree to rounding.
        found, expected = logits_after["cell_type"][:, there], logits["cell_type"][:, here]
        assert (found - expected).abs().max() <= 1e-5 * logits["cell_type"].abs().max()
    # The T cells that it told, it still tells; which kind of T cell, it cannot say.
    p_old, p_new = (
        LabelLoss(space).probabilities(said["cell_type"]) for space, said in ((old, logits), (new, logits_after))
    )
    rest = 1 - p_new[:, new.classes.index("CL:0000623")]
    for name in old.classes:
        share = p_new[:, new.classes.index(name)] / rest
        assert torch.allclose(share, p_old[:, old.classes.index(name)], atol=1e-5), name
    kinds = [p_new[:, new.classes.index(name)] for name in ("CL:0000624", "CL:0000625")]
    assert torch.allclose(*kinds, atol=1e-6)
    assert (1 - rest <= 1 / (old.n_leaves + 1) + 1e-6).all()


@pytest.mark.parametrize("seed", range(8))
def test_mixes_start_new_leaves_as_stated_on_any_logits(seed):
    rng = np.random.default_rng(seed)
    ids = list(TREE)
    some = [one for one in ids if rng.random() < 0.6] or ids[:1]
    old, new = make_classes("cell_type", some), make_classes("cell_type", ids)
    moved = new.encode(some := list(old.classes))
    shares, added = leaf_mixes(old, new, moved)
    assert torch.allclose(shares.sum(1), torch.ones(new.n_leaves).double())
    logits = torch.from_numpy(rng.normal(size=(50, old.n_leaves)) * 5)
    after = logits @ shares.T + added
    split = [code for code in range(old.n_leaves) if moved[code] >= new.n_leaves]
    for code in set(range(old.n_leaves)) - set(split):
        assert torch.equal(after[:, moved[code]], logits[:, code])
    for code in split:
        below = torch.from_numpy(np.asarray(new.below)[moved[code]])
        assert torch.allclose(after[:, below].logsumexp(1), logits[:, code])
    heirs = {leaf for code in split for leaf in np.flatnonzero(np.asarray(new.below)[moved[code]])}
    strange = sorted(set(range(new.n_leaves)) - heirs - set(moved[: old.n_leaves].tolist()))
    share = after.softmax(1)[:, strange].sum(1)
    assert (share <= len(strange) / (old.n_leaves + len(strange)) + 1e-12).all()
    assert (after[:, strange] <= logits.amax(1, keepdim=True) + 1e-12).all()


def test_a_label_of_one_class_gets_a_head_with_the_second(model):
    assert "sex" not in model.network.labels.read
    more = with_classes(model, "sex", ["PATO:0000383", "PATO:0000384"])
    batch, rows = batch_of(more.vocabulary, small_cells())
    said = answers(more, batch, rows)[1]["sex"]
    assert said.shape == (12, 2)
    assert not said.any()
    assert list(more.vocabulary.labels) == list(model.vocabulary.labels), "columns of a batch keep their order"


def test_an_organism_nobody_knew_has_tokens_from_its_fasta(model, new_home, tmp_path):
    add_organism_row("axolotl", "Ambystoma mexicanum", 8296)
    with pytest.raises(ReferenceMissingError, match="panatlas references import genes axolotl"):
        with_organism(model, "axolotl")
    ids = [f"AMEX{i:04d}" for i in range(20)]
    line = 'chr{0}\thand\tgene\t{1}\t{2}\t.\t+\t.\tgene_id "{3}"; gene_name "{3}"; gene_biotype "protein_coding";\n'
    (tmp_path / "a.gtf").write_text(
        "".join(line.format(i % 3, 20_000 * i + 1, 20_000 * i + 900, one) for i, one in enumerate(ids))
    )
    import_gtf("axolotl", tmp_path / "a.gtf", {"release": "hand", "licence": "none"})
    known = embedded("axolotl", ids[:15], tmp_path)
    more = with_organism(model, "axolotl", vectors=known)
    tokens = more.network.tokens(torch.from_numpy(more.vocabulary.organism_tokens("ambystoma_mexicanum")))
    assert len({tuple(row) for row in tokens.detach().numpy().round(6).tolist()}) == 20, "no two genes alike"
    assert more.table.has_vector[-20:].tolist() == [True] * 15 + [False] * 5
    rng = np.random.default_rng(0)
    adata = ad.AnnData(rng.poisson(3, (12, 20)).astype(np.float32), pd.DataFrame(index=list("abcdefghijkl")))
    adata.var_names = ids
    batch, rows = batch_of(more.vocabulary, AnnDataCells(adata, "axolotl"))
    said, _ = answers(more, batch, rows)
    assert all(value.isfinite().all() for value in said.values())
    assert len(said["embedding"].unique(dim=0)) == 12


def test_genes_may_come_one_by_one_and_without_vectors(vectors):
    model = untrained()
    human = model.vocabulary.genes[0]
    one = with_organism(model, "mouse", ["ENSMUSG00000000001", "ENSMUSG00000000003"])
    two = with_organism(one, "mouse", ["ENSMUSG00000000003", "ENSMUSG00000000028"])
    assert two.vocabulary.genes[1] == ("ENSMUSG00000000001", "ENSMUSG00000000003", "ENSMUSG00000000028")
    assert two.vocabulary.n_genes == len(two.table) == model.vocabulary.n_genes + 3
    assert two.facts["added"][1]["genes"] == 1
    before = model.network.tokens(torch.from_numpy(model.vocabulary.gene_tokens("homo_sapiens", human)))
    after = two.network.tokens(torch.from_numpy(two.vocabulary.gene_tokens("homo_sapiens", human)))
    assert torch.equal(before, after)
    assert torch.equal(before, one.network.tokens(torch.arange(40)))
    new = two.network.tokens(torch.arange(40, 43))
    assert new.isfinite().all()
    assert len(new.unique(dim=0)) == 3
    with pytest.raises(ModelInputError, match="expected none, as it was trained"):
        with_organism(model, "mouse", (), vectors["mouse"])


def test_what_cannot_be_added_is_named(model, vectors):
    with pytest.raises(ModelInputError, match="organism='human' is not allowed; expected one that lacks genes"):
        with_organism(model, "human")
    with pytest.raises(UnknownOrganismError):
        with_organism(model, "gryphon")
    with pytest.raises(ModelInputError, match="expected vectors of mouse"):
        with_organism(model, "mouse", (), vectors["human"])
    narrow = replace(vectors["mouse"], vectors=vectors["mouse"].vectors[:, :9])
    with pytest.raises(ModelInputError, match=r"9 numbers each.*expected 36, by the model's"):
        with_organism(model, "mouse", (), narrow)
    with pytest.raises(ModelInputError, match="genes such as X1, which is added"):
        with_organism(model, "mouse", ["X1"], vectors["mouse"])
    with pytest.raises(ModelInputError, match="label='celltype' is not allowed; expected one of"):
        with_classes(model, "celltype", ["CL:0000623"])
    with pytest.raises(ModelInputError, match="a class of cell_type that the model lacks"):
        with_classes(model, "cell_type", [*model.vocabulary.labels["cell_type"].classes, "unknown"])
    for wrong in ("CL:9999999", "natural killer"):
        with pytest.raises(VocabularyError, match="cell_type"):
            with_classes(model, "cell_type", [wrong])


def test_tokens_are_not_extended_over_a_table_of_other_genes(grown):
    tokens, table = grown.network.tokens, grown.table
    with pytest.raises(ModelInputError, match="another buckets"):
        tokens.extended(replace(table, buckets=table.buckets[::-1].copy()))
    wider = GeneTokens(tokens.config, replace(table, groups=(*table.groups, "one more")), tokens.width)
    with pytest.raises(ModelInputError, match="no group one more"):
        wider.extended(table)
    with pytest.raises(ModelInputError, match="expected protein vectors of"):
        tokens.extended(replace(table, vectors=np.zeros((len(table), 5), np.float32)))
