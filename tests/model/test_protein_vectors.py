"""Embedding an organism: every gene its own protein's vector, the same bytes however often the run was stopped."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model import ModelInputError, embed_proteins, load_protein_vectors, seeded_esm2, vectors_name
from model.protein_vectors import plan_batches
from model.vector_cache import VectorCache
from ontology import ReferenceMissingError, import_proteins, list_snapshots

ABOUT = {"release": "made by hand", "licence": "CC0-1.0", "source": "hand"}


class Letters:
    """An embedder whose vector is the number of M and of residues; it counts what it was asked."""

    name, dim, longest, batch_tokens = "letters", 2, 50, 0

    def __init__(self, facts=None):
        self.facts, self.calls = facts or {"weights": "none"}, []

    def embed(self, sequences):
        self.calls.append(list(sequences))
        return np.array([[each.count("M"), len(each)] for each in sequences], dtype=np.float32)


def gene(number):
    return f"ENSG{number:011d}"


def give(tmp_path, sequences, organism="human"):
    path = tmp_path / "pep.fa"
    path.write_text("".join(f">{name}\n{sequence}\n" for name, sequence in sequences.items()))
    return import_proteins(organism, path, ABOUT)


@pytest.fixture
def five(own_home, tmp_path):
    sequences = {gene(5): "MMKLV", gene(1): "MKLVWMMM", gene(3): "MKLV" * 40, gene(4): "MMKLV", gene(2): "WWW"}
    give(tmp_path, sequences)
    return sequences


def test_each_gene_has_its_proteins_vector(five):
    told = []
    kept = embed_proteins("human", embedder := Letters(), progress=lambda *event: told.append(event))
    found = load_protein_vectors("human", "letters")
    assert found.genes.tolist() == [gene(i) for i in range(1, 6)]
    expected = [[five[name][:50].count("M"), len(five[name][:50])] for name in found.genes]
    assert found.vectors.tolist() == expected
    assert found.vectors.dtype == np.float32
    assert set(found.rules) == {"longest"}
    assert not found.vectors.flags.writeable
    # One call a distinct sequence, the shortest first; genes 4 and 5 share theirs.
    assert [call[0] for call in embedder.calls] == ["WWW", "MMKLV", "MKLVWMMM", ("MKLV" * 40)[:50]]
    assert told == [("proteins", done, 4) for done in (1, 2, 3, 4)]
    assert (kept.kind, kept.name, kept.rows, kept.release) == ("protein_vectors", "human-letters", 5, "made by hand")
    assert (found.about["embedder"], found.about["cut"], found.about["weights"]) == ("letters", "1 of 5", "none")


def test_a_second_run_asks_nothing_and_gives_the_same_bytes(five):
    first = embed_proteins("human", Letters())
    again = embed_proteins("human", embedder := Letters())
    assert embedder.calls == []
    assert again.sha256 == first.sha256


def test_only_what_is_new_is_embedded(five, tmp_path):
    embed_proteins("human", Letters())
    give(tmp_path, {**five, gene(9): "MWMW"})
    embed_proteins("human", embedder := Letters())
    assert embedder.calls == [["MWMW"]]
    assert load_protein_vectors("human", "letters").vectors[-1].tolist() == [2, 4]


def test_other_weights_are_another_cache(five):
    embed_proteins("human", Letters())
    embed_proteins("human", other := Letters({"weights": "others"}))
    assert len(other.calls) == 4


def test_damaged_shards_are_made_again(five, own_home, caplog):
    first = embed_proteins("human", Letters())
    [shard] = (own_home / "cache" / "protein_vectors").rglob("*.npy")
    data = bytearray(shard.read_bytes())
    data[-3] ^= 1
    shard.write_bytes(data)
    again = embed_proteins("human", embedder := Letters())
    assert len(embedder.calls) == 4
    assert "is damaged" in caplog.text
    assert again.sha256 == first.sha256


def test_without_proteins_the_message_says_what_to_run(own_home):
    with pytest.raises(ReferenceMissingError, match="panatlas references import proteins human"):
        embed_proteins("human", Letters())
    for name in ("letters", None):
        with pytest.raises(ReferenceMissingError, match="panatlas embed-proteins human"):
            load_protein_vectors("human", name)


def test_a_name_is_needed_only_among_several(five):
    embed_proteins("human", Letters())
    assert load_protein_vectors("human").about["embedder"] == "letters"
    more = Letters()
    more.name = "other+letters"
    embed_proteins("human", more)
    assert load_protein_vectors("human", "other+letters").about["embedder"] == "other+letters"
    with pytest.raises(ModelInputError, match=r"one of letters, other\+letters"):
        load_protein_vectors("human")


def test_two_embedders_of_one_plain_name_are_told_apart(five):
    one, other = Letters(), Letters()
    one.name, other.name = "esm2+a", "esm2 a"
    made = embed_proteins("human", one)
    with pytest.raises(ModelInputError, match=r"a name that differs from esm2\+a's"):
        embed_proteins("human", other)
    assert other.calls == []
    assert load_protein_vectors("human", "esm2+a").about["embedder"] == "esm2+a"
    for name in ("esm2 a", "esm2_a"):
        with pytest.raises(ModelInputError, match=r"expected esm2\+a, which made what is kept as human-esm2_a"):
            load_protein_vectors("human", name)
    assert embed_proteins("human", one) == made
    made.path.write_bytes(b"damaged")  # nobody can tell whose they were: making them again is the remedy
    assert embed_proteins("human", other).name == "human-esm2_a"


def test_names_of_snapshots_are_plain():
    assert (
        vectors_name("human", "esm2-untrained-2x64-seed0+composition") == "human-esm2-untrained-2x64-seed0_composition"
    )
    assert vectors_name("x", "a/../b") == "x-a_.._b"


@pytest.mark.parametrize(
    "answer", [np.zeros((1, 3)), np.zeros((2, 2)), np.full((1, 2), np.nan), np.full((1, 2), np.inf)]
)
def test_an_embedder_that_answers_nonsense_is_refused(five, answer):
    embedder = Letters()
    embedder.embed = lambda sequences: answer
    with pytest.raises(ModelInputError, match="finite numbers"):
        embed_proteins("human", embedder)
    assert not [s for s in list_snapshots() if s.kind == "protein_vectors"]


def test_a_name_too_long_is_told_before_the_work(five):
    embedder = Letters()
    embedder.name = "x" * 59
    with pytest.raises(ModelInputError, match="at most 58 letters"):
        embed_proteins("human", embedder)
    assert embedder.calls == []


def test_stand_ins_are_flagged(five, monkeypatch):
    stand_in = pd.DataFrame(
        [("ENSOARG00000000001", gene(2), "X", 3, "ortholog", "WWW")],
        columns=["gene", "protein", "symbol", "length", "rule", "sequence"],
    )
    monkeypatch.setattr("ontology.proteins_by_ortholog", lambda organism: stand_in)
    with pytest.raises(ReferenceMissingError):
        embed_proteins("sheep", Letters(), orthologs=False)
    embed_proteins("sheep", Letters())
    found = load_protein_vectors("sheep")
    assert found.rules.tolist() == ["ortholog"]
    assert found.vectors.tolist() == [[0, 3]]
    assert embed_proteins("sheep", Letters()).release == "made by hand"  # human's: where the sequence is from


SEQUENCES = st.dictionaries(
    st.text("abcdef", min_size=1, max_size=4), st.text("MK", min_size=1, max_size=60), max_size=40
)


@given(sequences=SEQUENCES, budget=st.integers(0, 300))
def test_batches_hold_each_protein_once_within_the_budget(sequences, budget):
    batches = list(plan_batches(sequences, budget))
    assert sorted(key for batch in batches for key in batch) == sorted(sequences)
    for batch in batches:
        longest = max(len(sequences[key]) for key in batch)
        assert len(batch) == 1 or len(batch) * (longest + 2) <= budget
    lengths = [len(sequences[key]) for batch in batches for key in batch]
    assert lengths == sorted(lengths)
    if budget == 0:
        assert len(batches) == len(sequences)


def test_batched_or_alone_the_vectors_agree(own_home, tmp_path):
    random = np.random.default_rng(0)
    proteins = {gene(i): "".join(random.choice(list("ACDEFGHIKLMNPQRSTVWY"), 5 + 9 * i)) for i in range(15)}
    give(tmp_path, proteins)
    embedder = seeded_esm2()
    embed_proteins("human", embedder)
    alone = load_protein_vectors("human").vectors
    for path in (own_home / "cache" / "protein_vectors").rglob("*.npy"):
        path.unlink()
    embed_proteins("human", embedder, batch_tokens=500)
    together = load_protein_vectors("human").vectors
    np.testing.assert_allclose(alone, together, atol=2e-5)


RUN = """
    import os, signal, sys
    import numpy as np
    from model import embed_proteins, seeded_esm2

    sys.modules["model.protein_vectors"].SHARD = 8
    kind, batch, stop = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])

    class Letters:
        name, dim, longest, batch_tokens, facts = "letters", 2, 50, 0, {"weights": "none"}
        embed = lambda self, batch: np.array([[s.count("M"), len(s)] for s in batch], dtype=np.float32)

    def progress(stage, done, total):
        if done >= stop:
            os.kill(os.getpid(), signal.SIGKILL)

    embedder = seeded_esm2(1, 16) if kind == "esm2" else Letters()
    print(embed_proteins("human", embedder, batch_tokens=batch, progress=progress).sha256)
"""


@pytest.mark.parametrize(("kind", "batch", "stops"), [("letters", 0, (11, 30, 50)), ("esm2", 500, (30,))])
def test_a_killed_run_goes_on_and_ends_with_the_same_bytes(tmp_path, monkeypatch, kind, batch, stops):
    random = np.random.default_rng(1)
    proteins = {gene(i): "".join(random.choice(list("ACDEFGHIKLMNPQRSTVWY"), 20 + i)) for i in range(60)}
    embedder = Letters() if kind == "letters" else seeded_esm2(1, 16)
    monkeypatch.setenv("PANATLAS_HOME", str(tmp_path / "whole"))
    give(tmp_path, proteins)
    whole = embed_proteins("human", embedder, batch_tokens=batch)
    monkeypatch.setenv("PANATLAS_HOME", str(tmp_path / "killed"))
    give(tmp_path, proteins)
    shards = []
    for stop in stops:
        command = [sys.executable, "-c", textwrap.dedent(RUN), kind, str(batch), str(stop)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=dict(os.environ))
        assert done.returncode == -signal.SIGKILL, done.stderr
        shards.append(len(list((tmp_path / "killed").rglob("*.npy"))))
        assert not list_snapshots()[1:]  # the proteins alone
    asked = []
    count = embedder.embed
    monkeypatch.setattr(embedder, "embed", lambda batch: asked.extend(batch) or count(batch))
    assert embed_proteins("human", embedder, batch_tokens=batch).sha256 == whole.sha256
    assert 0 < len(asked) <= 60 - stops[-1] + 8  # what was finished is not made again, a shard aside
    assert all(earlier < later for earlier, later in zip([0, *shards], shards, strict=False))


def test_the_cache_gives_back_what_it_was_given(tmp_path):
    cache = VectorCache(tmp_path / "c", 3)
    assert cache.read(["0" * 64]) == {}
    keys = [f"{i:064x}" for i in range(5)]
    vectors = np.arange(15, dtype=np.float32).reshape(5, 3)
    cache.add(keys[:2], vectors[:2])
    cache.add(keys[2:], vectors[2:])
    cache.add(keys[2:], vectors[2:])  # the same shard again is the same file
    assert len(list((tmp_path / "c").iterdir())) == 2
    found = cache.read({*keys[1:4], "f" * 64})
    assert sorted(found) == keys[1:4]
    assert [found[key].tolist() for key in keys[1:4]] == vectors[1:4].tolist()
    assert VectorCache(tmp_path / "c", 4).read(keys) == {}  # another width is another embedder
