"""A consolidation makes an atlas quick to open; what any client reads at any moment stays, whenever it is stopped."""

from __future__ import annotations

import multiprocessing as mp
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import cellxgene_census
import pandas as pd
import pytest
import tiledbsoma as soma

from atlas import (
    IngestOptions,
    StoreError,
    consolidate,
    content_hash,
    editions,
    find_leftovers,
    ingest,
    layout,
    open_atlas,
    repair_atlas,
    store,
    validate,
)
from atlas.ledger import writer_lock
from tests.factories import make_adata, write_source

if TYPE_CHECKING:
    from atlas import Source

pytestmark = pytest.mark.index
FAST = IngestOptions(doublets=False, neighbours=False)
HUMAN = "homo_sapiens"
MODULE = sys.modules["atlas.consolidate"]  # the facade gives the function of that name


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> list[Source]:
    folder = tmp_path_factory.mktemp("sources")
    return [write_source(folder / f"{n}.h5ad", make_adata(12, 60, seed=i), id=n) for i, n in enumerate("abc")]


@pytest.fixture(scope="module")
def base(sources: list[Source], tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("base") / "atlas"
    for source in sources[:2]:
        assert ingest(source, str(root), FAST).status == "written"
    return root


@pytest.fixture
def copy(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(MODULE, "MOST_FRAGMENTS", 1)
    return str(shutil.copytree(base, tmp_path / "atlas"))


def read_at(uri: str, at: int) -> list[pd.DataFrame]:
    """Return what tiledbsoma and the Census' client read at a moment."""
    context = soma.SOMATileDBContext(timestamp=at)
    with cellxgene_census.open_soma(uri=uri, context=context) as census:
        cells = cellxgene_census.get_anndata(census, "Homo sapiens")
        presence = cellxgene_census.get_presence_matrix(census, "Homo sapiens").tocoo()
        tables = [census["census_info"][name].read().concat().to_pandas() for name in sorted(census["census_info"])]
    counts = cells.X.tocoo()
    with soma.Experiment.open(f"{uri}/census_data/{HUMAN}", tiledb_timestamp=at) as experiment:
        records = experiment.ms["RNA"]["records"].read().concat().to_pandas()
        var = experiment.ms["RNA"].var.read().concat().to_pandas()
    triples = [pd.DataFrame({"row": m.row, "column": m.col, "value": m.data}) for m in (counts, presence)]
    return [cells.obs, cells.var, *triples, *tables, records, var]


def assert_same(a: list[pd.DataFrame], b: list[pd.DataFrame]) -> None:
    for one, other in zip(a, b, strict=True):
        pd.testing.assert_frame_equal(one, other)


def fragments(place: str) -> int:
    return len(list((Path(place) / "__fragments").iterdir()))


def test_every_moment_reads_as_before_and_what_ingests_rewrite_is_one_fragment(
    copy: str, sources: list[Source]
) -> None:
    before = open_atlas(copy)
    moments = sorted(row.published_ms for row in before.datasets)
    held = [read_at(copy, at) for at in moments]
    planned = consolidate(copy, dry_run=True)
    assert (planned.status, open_atlas(copy)) == ("planned", before)
    done = consolidate(copy)
    assert (done.status, done.rewritten) == ("consolidated", planned.rewritten)
    assert done.rewritten[f"census_data/{HUMAN}/ms/RNA/var"] == 3
    assert done.joined[f"census_data/{HUMAN}/ms/RNA/X/raw"] == 2
    after = open_atlas(copy)
    assert after.published_ms == done.published_ms > before.published_ms
    assert content_hash(after) == content_hash(before)
    for at, meant in zip([*moments, done.published_ms], [*held, held[-1]], strict=True):
        assert_same(read_at(copy, at), meant)
    assert fragments(after.array_uri(HUMAN, layout.VAR)) == 1
    assert fragments(before.array_uri(HUMAN, layout.VAR)) == 3, "what an earlier moment reads is still there"
    assert len(list((after.root / layout.DATA / HUMAN / layout.X_RAW / "__fragment_meta").iterdir())) == 1
    assert (consolidate(copy).status, find_leftovers(copy)) == ("unchanged", ())
    assert ingest(sources[2], copy, FAST).status == "written"
    assert validate(copy).findings == ()
    assert open_atlas(copy).table("datasets")["dataset_id"].tolist() == list("abc")


def die_taking_a_member(uri: str) -> None:
    """Consolidate, and be killed when the second frame has just been replaced."""
    real, seen = editions.take_member, []

    def die(*args: object) -> None:
        real(*args)
        seen.append(args)
        if len(seen) == 2:
            os.kill(os.getpid(), signal.SIGKILL)

    editions.take_member = die
    MODULE.MOST_FRAGMENTS = 1
    consolidate(uri)


def test_a_killed_one_leaves_what_readers_see_and_the_next_finishes(base: Path, copy: str) -> None:
    before, held = open_atlas(copy), content_hash(open_atlas(str(base)))
    process = mp.get_context("spawn").Process(target=die_taking_a_member, args=(copy,))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert (open_atlas(copy), content_hash(open_atlas(copy))) == (before, held)
    assert repair_atlas(copy)
    assert not find_leftovers(copy)
    assert consolidate(copy).status == "consolidated"
    assert content_hash(open_atlas(copy)) == held


def test_half_of_a_file_of_metadata_is_never_seen(copy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """TileDB writes the file in its place, and half of one makes an array unreadable: it is made apart and renamed."""
    array = Path(store.array_uri(Path(copy), HUMAN, "obs"))

    def write_half(place: Path) -> None:
        with soma.open(str(place), "w") as handle:
            handle._handle.consolidate_and_vacuum(["fragment_meta"])
        (file,) = (place / "__fragment_meta").iterdir()
        file.write_bytes(file.read_bytes()[:-8])
        raise KeyboardInterrupt

    monkeypatch.setattr(MODULE, "_consolidate", write_half)
    with pytest.raises(KeyboardInterrupt):
        consolidate(copy)
    assert not list(array.glob("__fragment_meta/*"))
    assert not list(Path(copy).glob(".part-*"))
    soma.open(str(array)).close()
    with pytest.raises(KeyboardInterrupt):
        write_half(array)
    with pytest.raises(soma.SOMAError, match="exceeds file size"):
        soma.open(str(array))


def test_it_is_refused_beside_a_writer_and_over_what_was_never_published(copy: str) -> None:
    with writer_lock(Path(copy) / store.LEDGER), pytest.raises(StoreError, match="is writing"):
        consolidate(copy)
    store.grow_frame(store.info_uri(Path(copy), "summary"), 99)
    with pytest.raises(StoreError, match="doctor --repair"):
        consolidate(copy)
