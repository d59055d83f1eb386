"""A pack on S3 arrives whole and proved, or not at all; what came before is not fetched twice."""

from __future__ import annotations

import pickle
import shutil
import threading
from http.server import ThreadingHTTPServer
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from localbucket import S3Handler

from loaders import PackError, PackWriter
from loaders.pack_mirror import open_pack
from loaders.records import encode_cells

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from loaders import Pack

RNG = np.random.default_rng(4)
N_CELLS = 900


class Bucket(S3Handler):
    """An S3 server that remembers which objects were read, and can fail after so many."""

    options: str
    got: list[str]
    fail_after: int
    wfile_lock = threading.Lock()

    def log_message(self, *args: object) -> None:
        """Stay silent."""

    def do_GET(self) -> None:  # noqa: N802 - http.server's name
        """Answer, or break off."""
        with self.wfile_lock:
            if "list-type" not in self.path:
                self.got.append(self.path.partition("?")[0].removeprefix("/shelf/packs/pancreas/"))
            broken = len(self.got) > self.fail_after
        if broken:
            self.send_error(403)
        else:
            super().do_GET()


@pytest.fixture(scope="module")
def matrix() -> sp.csr_matrix:
    """Return cells that take several files of 1 MiB."""
    matrix = sp.random(N_CELLS, 20_000, 0.08, "csr", rng=RNG, data_rvs=lambda n: RNG.integers(1, 300, n).astype(float))
    matrix.sort_indices()
    return matrix


@pytest.fixture
def remote(tmp_path: Path, matrix: sp.csr_matrix, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Serve a pack at s3://shelf/packs/pancreas, and return the folder behind it; the cache is empty."""
    folder = tmp_path / "disk" / "shelf" / "packs" / "pancreas"
    with PackWriter(folder, {"release": "r1"}, piece_mib=1) as writer:
        writer.append({"label": np.arange(N_CELLS, dtype=np.int32)})
        writer.append_records(encode_cells(matrix))
        writer.write_genes(pd.DataFrame({"organism": 0, "feature_id": [f"G{i}" for i in range(20_000)]}))
    Bucket.data_root, Bucket.got, Bucket.fail_after = tmp_path / "disk", [], 1 << 30
    server = ThreadingHTTPServer(("127.0.0.1", 0), Bucket)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    for name, value in {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "testtest"}.items():
        monkeypatch.setenv(name, value)
    Bucket.options = f"?region=us-east-1&endpoint=http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr("loaders.pack_mirror.cache_dir", lambda: tmp_path / "cache")
    yield folder
    server.shutdown()
    server.server_close()


def fetch(name: str = "pancreas", *progress: Callable[[str, int, int], None]) -> Pack:
    """Open the pack on S3."""
    return open_pack(f"s3://shelf/packs/{name}{Bucket.options}", *progress)


def assert_right(pack: Pack, matrix: sp.csr_matrix) -> None:
    """Compare some cells."""
    cells = RNG.integers(0, N_CELLS, 100)
    rows = pack.read(cells).decode()
    np.testing.assert_array_equal(rows.indices, matrix[cells].indices)
    np.testing.assert_array_equal(rows.counts, matrix[cells].data)


def test_a_pack_arrives_whole_and_is_fetched_once(remote: Path, matrix: sp.csr_matrix, tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    pack = fetch("pancreas", lambda *state: told.append(state))
    assert_right(pack, matrix)
    assert tmp_path / "cache" in pack.path.parents
    assert pack.fingerprint == open_pack(remote).fingerprint == open_pack(f"file://{remote}").fingerprint
    assert len(list((pack.path / "records" / "data" / "c").iterdir())) > 3
    assert sorted(Bucket.got) == sorted([*pack.files, "zarr.json"]), "each file once"
    stage, done, total = told[-1]
    assert stage == "fetch"
    assert done == total == sum((remote / name).stat().st_size for name in pack.files)
    Bucket.got.clear()
    again = fetch()
    assert again.path == pack.path
    assert Bucket.got == ["zarr.json"]
    assert pickle.loads(pickle.dumps(again)).path == pack.path, "workers open the mirror"


def test_a_mirror_broken_off_is_taken_up(remote: Path, matrix: sp.csr_matrix, tmp_path: Path) -> None:
    Bucket.fail_after = 9
    with pytest.raises(PackError, match="not fetched"):
        fetch()
    assert not list(tmp_path.glob("cache/packs/*/pack"))
    came = {file.relative_to(part).as_posix() for part in tmp_path.glob("cache/packs/*/part")
            for file in part.rglob("*") if file.is_file() and not file.name.startswith(".")}  # fmt: skip
    assert len(came) > 3
    (victim,) = tmp_path.glob("cache/packs/*/part/zarr.json")
    damaged = next(victim.parent / name for name in sorted(came) if name != "zarr.json")
    damaged.write_bytes(b"x" * damaged.stat().st_size)
    Bucket.fail_after = 1 << 30
    Bucket.got.clear()
    assert_right(fetch(), matrix)
    again = came - {"zarr.json", damaged.relative_to(victim.parent).as_posix()}
    assert not again & set(Bucket.got), "what came and is proved is not fetched twice"
    assert damaged.relative_to(victim.parent).as_posix() in Bucket.got


@pytest.mark.parametrize("harm", ["damaged", "missing"])
def test_a_piece_that_is_not_what_was_packed_is_named(remote: Path, tmp_path: Path, harm: str) -> None:
    file = remote / "records" / "data" / "c" / "2"
    data = bytearray(file.read_bytes())
    data[100] ^= 1
    file.unlink()
    if harm == "damaged":
        file.write_bytes(data)
    with pytest.raises(PackError, match=r"s3://shelf/packs/pancreas/records/data/c/2: (other bytes|missing)"):
        fetch()
    assert not list(tmp_path.glob("cache/packs/*/pack"))


def test_another_pack_at_the_same_address_is_another_mirror(remote: Path, matrix: sp.csr_matrix) -> None:
    first = fetch()
    shutil.rmtree(remote)
    with PackWriter(remote, {"release": "r2"}) as writer:
        writer.append({"label": np.arange(5, dtype=np.int32)})
        writer.append_records(encode_cells(matrix[:5]))
    second = fetch()
    assert (len(first), len(second)) == (N_CELLS, 5)
    assert_right(first, matrix)


def test_a_place_without_a_pack_and_a_full_disk_are_said(remote: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(PackError, match="check address, region, credentials"):
        fetch("liver")
    monkeypatch.setattr("loaders.pack_mirror.SPARE_BYTES", 1 << 62)
    with pytest.raises(PackError, match="free disk space"):
        fetch()
