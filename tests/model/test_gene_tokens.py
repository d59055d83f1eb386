"""Tokens of genes: positions binned as stated, references looked up by id, old genes unmoved when new ones come."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from loaders.vocabulary import Vocabulary
from model.config import TokenConfig
from model.errors import CheckpointError, ModelInputError
from model.gene_tokens import GeneTokens
from model.positions import position_bins, sinusoid
from model.token_table import BIOTYPES, TokenTable, make_token_table
from ontology import load_gene_table, ortholog_groups

if TYPE_CHECKING:
    from pathlib import Path


def plain_bins(genes: list[tuple[str, int]], step: int) -> list[int]:
    out, now, last = [-1] * len(genes), 0, None
    for place in sorted((p for p, (c, s) in enumerate(genes) if c and s >= 0), key=lambda p: (genes[p], p)):
        contig, start = genes[place]
        if last is not None:
            now += 100 if contig != last[0] else int(start - last[1] > step)
        out[place], last = now, (contig, start)
    return out


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["", "1", "X"]), st.integers(-1, 200)), max_size=30), st.integers(1, 50))
def test_bins_follow_the_stated_rule(genes: list[tuple[str, int]], step: int) -> None:
    contigs, starts = np.array([c for c, _ in genes], dtype=str), np.array([s for _, s in genes], dtype=np.int64)
    assert position_bins(contigs, starts, step).tolist() == plain_bins(genes, step)


def test_sinusoids_are_the_formula_and_nowhere_is_zero() -> None:
    found = sinusoid(torch.tensor([3, -1, 40_000]), 6).double()
    for row, place in ((0, 3), (2, 40_000)):
        expected = [f(place / 10_000 ** (2 * i / 6)) for i in range(3) for f in (np.sin, np.cos)]
        assert np.allclose(found[row], expected, atol=1e-6)
    assert not found[1].any()


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    """Return 300 human and 200 mouse genes, some of them each other's orthologs."""
    groups = ortholog_groups()
    pairs = groups[groups["organism"].isin(["human", "mouse"])]
    pairs = pairs[pairs.groupby("group")["gene"].transform("size") == 2][:200]
    human, mouse = (pairs.loc[pairs["organism"] == name, "gene"].tolist() for name in ("human", "mouse"))
    other = np.setdiff1d(load_gene_table("human").ids, groups["gene"].to_numpy(dtype=str))[:200].tolist()
    return Vocabulary(("homo_sapiens", "mus_musculus"), (tuple(sorted([*human, *other])), tuple(mouse)))


@pytest.fixture(scope="module")
def table(vocabulary: Vocabulary) -> TokenTable:
    """Return their table, without protein vectors."""
    return make_token_table(vocabulary)


def with_vectors(table: TokenTable) -> TokenTable:
    """Return the table with made-up vectors for every other gene."""
    has = np.arange(len(table)) % 2 == 0
    vectors = np.random.default_rng(0).normal(size=(len(table), 12)).astype(np.float32) * has[:, None]
    return replace(table, vectors=vectors, has_vector=has)


def test_the_table_holds_what_the_references_say(vocabulary: Vocabulary, table: TokenTable) -> None:
    human = load_gene_table("human")
    place = {gene: at for at, gene in enumerate(human.ids.tolist())}
    bins = position_bins(human.contigs, human.starts)
    tokens = vocabulary.organism_tokens("homo_sapiens")
    for gene, token in list(zip(vocabulary.genes[0], tokens, strict=True))[::17]:
        assert table.position[token] == bins[place[gene]]
        coding = human.biotypes[place[gene]] == "protein_coding"
        assert not coding or BIOTYPES[table.biotype[token]] == "protein_coding"
    groups = ortholog_groups().set_index("gene")["group"]
    for gene, token in zip(vocabulary.genes[1], vocabulary.organism_tokens("mus_musculus"), strict=True):
        assert table.groups[table.group[token]] == groups[gene]


def test_orthologs_share_a_group_vector_and_differ_elsewhere(vocabulary: Vocabulary, table: TokenTable) -> None:
    torch.manual_seed(0)
    config = TokenConfig(position=False)
    tokens = GeneTokens(config, table, 16)
    both = [np.flatnonzero(table.group == group) for group in np.unique(table.group[table.group >= 0])[:20]]
    others = np.flatnonzero(table.group < 0)
    found = tokens(torch.from_numpy(np.arange(len(table))))
    of_pairs = [torch.cosine_similarity(found[a], found[b], 0).item() for a, b in (p for p in both if len(p) == 2)]
    of_others = torch.cosine_similarity(found[others[:-1]], found[others[1:]], 1).tolist()
    assert np.mean(of_pairs) > np.mean(of_others) + 0.1
    assert len({tuple(row) for row in found.detach().numpy().round(6).tolist()}) == len(table), "no two genes alike"
    assert vocabulary.n_genes == len(table)


@pytest.mark.parametrize("source", ["protein", "learned"])
def test_every_parameter_gets_a_gradient(source: str, table: TokenTable) -> None:
    tokens = GeneTokens(TokenConfig(source=source), with_vectors(table), 16)
    tokens(torch.arange(len(table))).square().sum().backward()
    silent = [n for n, p in tokens.named_parameters() if p.grad is None or not p.grad.abs().sum()]
    assert silent == ([] if source == "protein" else ["hashed.weight"])


def test_repeated_genes_and_their_order_change_nothing(table: TokenTable) -> None:
    tokens = GeneTokens(TokenConfig(), with_vectors(table), 16).double()
    genes = torch.tensor([5, 299, 5, 0, 17])
    assert torch.allclose(tokens(genes), torch.cat([tokens(gene[None]) for gene in genes]), atol=1e-12)


def test_a_table_comes_back_mapped_and_tampering_is_refused(tmp_path: Path, table: TokenTable) -> None:
    made = with_vectors(table)
    made.save(tmp_path / "table")
    back = TokenTable.load(tmp_path / "table")
    assert back.digest == made.digest
    assert isinstance(back.vectors, np.memmap)
    with pytest.raises(ModelInputError, match="folder"):
        made.save(tmp_path / "table")
    file = tmp_path / "table" / "vectors.npy"
    file.write_bytes(file.read_bytes()[:-1] + b"\x01")
    with pytest.raises(CheckpointError, match="not those that were saved"):
        TokenTable.load(tmp_path / "table")
    with pytest.raises(CheckpointError, match="no table"):
        TokenTable.load(tmp_path)


@pytest.mark.parametrize("source", ["protein", "learned"])
def test_a_new_organism_leaves_every_old_token_as_it_was(
    source: str, vocabulary: Vocabulary, table: TokenTable
) -> None:
    rat = load_gene_table("zebrafish").ids[:50].tolist()
    longer = make_token_table(vocabulary.with_organism("danio_rerio", rat))
    vectors = np.zeros((len(longer), 12), np.float32)
    vectors[: len(table)] = with_vectors(table).vectors
    has = np.concatenate([with_vectors(table).has_vector, np.zeros(50, bool)])
    longer = replace(longer, vectors=vectors, has_vector=has)
    torch.manual_seed(0)
    old = GeneTokens(TokenConfig(source=source), with_vectors(table), 16)
    new = old.extended(longer)
    genes = torch.arange(len(table))
    assert torch.equal(new(genes), old(genes))
    assert torch.isfinite(new(torch.arange(len(longer)))).all()
    with pytest.raises(ModelInputError, match="table"):
        new.extended(with_vectors(table))
