"""Releases of an atlas on object storage: every machine has them whole, and those of this very atlas alone.

Against a real S3 server on this machine (`tests.object_server`). Nothing is read here but names and bytes, so the
atlas is no more than the object its SOMA tree is made with.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest

from atlas import StoreError, mirror, release_part, side_folder, upload_release
from atlas.object_store import ObjectPlace
from tests.object_server import BUCKET, ObjectServer, served

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.index
FILES = {"joint_labels.parquet": b"labels", "splits.parquet": b"splits", "manifest.json": b"{}"}


@pytest.fixture(scope="module")
def server() -> Iterator[ObjectServer]:
    with served() as running:
        yield running


@pytest.fixture(autouse=True)
def _fresh(server: ObjectServer, tmp_path: Path, monkeypatch) -> None:
    server.faults()
    monkeypatch.setattr(mirror, "cache_dir", lambda: tmp_path / "cache")


@pytest.fixture
def uri(request) -> str:
    uri = f"s3://{BUCKET}/{request.node.name}"
    make_tree(uri, "__1_1_a")
    return uri


def make_tree(uri: str, name: str) -> None:
    (ObjectPlace.parse(uri) / "__group" / name).write(b"", None)


def put_release(uri: str, name: str) -> None:
    for file, data in FILES.items():
        (ObjectPlace.parse(uri) / "releases" / name / file).write(data, None)


def held(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_a_release_that_is_being_fetched_is_not_swept_by_one_that_is_made(uri: str, monkeypatch) -> None:
    put_release(uri, "v1")
    real, read = ObjectPlace.read, []

    def read_while_another_makes(place: ObjectPlace) -> object:
        read.append(place.name)
        if len(read) == 3:
            monkeypatch.setattr(ObjectPlace, "read", real)
            with release_part(next(mirror.cache_dir().glob("atlases/*/releases"))):
                pass
        return real(place)

    monkeypatch.setattr(ObjectPlace, "read", read_while_another_makes)
    folder = side_folder(uri)
    assert len(read) == 3
    assert held(folder) == {f"releases/v1/{name}": data for name, data in FILES.items()}


def test_a_mirrored_release_without_a_manifest_is_fetched_again(uri: str) -> None:
    put_release(uri, "v1")
    folder = side_folder(uri)
    (folder / "releases" / "v1" / "manifest.json").unlink()
    assert held(side_folder(uri)) == {f"releases/v1/{name}": data for name, data in FILES.items()}


def test_another_atlas_at_the_same_address_has_releases_of_its_own(uri: str, server: ObjectServer, monkeypatch) -> None:
    put_release(uri, "v1")
    first = side_folder(uri)
    root = ObjectPlace.parse(uri)
    root.remove(root.inside())
    make_tree(uri, "__2_2_b")
    assert held(side_folder(uri)) == {}
    root.remove(root.inside())
    make_tree(uri, "__1_1_a")
    assert side_folder(uri) == first
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.endpoint.replace("127.0.0.1", "localhost"))
    assert side_folder(uri) != first, "two servers may have buckets of one name"


def test_an_upload_that_failed_is_finished_by_the_next_and_seen_by_nobody_until_then(
    uri: str, server: ObjectServer, tmp_path: Path
) -> None:
    part = tmp_path / "part"
    part.mkdir()
    for name, data in FILES.items():
        (part / name).write_bytes(data)
    there = ObjectPlace.parse(uri) / "releases" / "v1"
    server.faults({"fault": "AccessDenied", "method": "PUT", "part": "/releases/", "after": 1})
    with pytest.raises(StoreError, match="the server refuses"):
        upload_release(uri, part, "v1")
    server.faults()
    assert there.inside() == ["joint_labels.parquet"]
    assert held(side_folder(uri)) == {}
    upload_release(uri, part, "v1")
    assert held(side_folder(uri)) == {f"releases/v1/{name}": data for name, data in FILES.items()}
    upload_release(uri, part, "v1")
    (part / "splits.parquet").write_bytes(b"others")
    with pytest.raises(StoreError, match=r"a release v1 is there already.*another splits\.parquet"):
        upload_release(uri, part, "v1")


def test_two_who_fetch_at_once_both_have_the_release(uri: str) -> None:
    put_release(uri, "v1")
    found: list[dict[str, bytes]] = []
    threads = [threading.Thread(target=lambda: found.append(held(side_folder(uri) / "releases"))) for _ in range(4)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert [{k: v for k, v in one.items() if k[0] != "."} for one in found] == [
        {f"v1/{name}": data for name, data in FILES.items()}
    ] * 4
