"""Tensor folders: what is written comes back to the bit, whole or not at all, and what was changed is named."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
from typing import TYPE_CHECKING

import pytest
import torch

from model.errors import CheckpointError, ModelInputError
from model.tensor_files import ABOUT, load_tensors, new_folder, save_tensors, seal, unseal

if TYPE_CHECKING:
    from pathlib import Path

DTYPES = [
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8,
    torch.uint8, torch.bool,
]  # fmt: skip
KIND = "toy 1"


def bits(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


@pytest.mark.parametrize("shard_bytes", [7, 64, 1 << 20])
def test_tensors_of_any_dtype_and_shape_come_back_to_the_bit(tmp_path: Path, shard_bytes: int) -> None:
    generator = torch.Generator().manual_seed(0)
    written = {}
    for dtype in DTYPES:
        values = torch.randint(0, 100, (5, 7), generator=generator).to(dtype)
        written |= {f"{dtype}": values, f"{dtype}/empty": values[:, :0], f"{dtype}/0-d": values[2, 3]}
        written[f"{dtype}/turned"] = values.T  # not contiguous, and of the same memory
    written["odd"] = torch.tensor([torch.nan, torch.inf, -torch.inf, -0.0])
    save_tensors(tmp_path, "all", written, shard_bytes)
    read = load_tensors(tmp_path, "all")
    assert list(read) == list(written)
    for name, tensor in written.items():
        assert (read[name].dtype, read[name].shape) == (tensor.dtype, tensor.shape), name
        assert bits(read[name]) == bits(tensor), name


def test_a_tensor_larger_than_a_shard_is_cut_and_no_shard_holds_more(tmp_path: Path) -> None:
    save_tensors(tmp_path, "w", {"a": torch.arange(10.0), "b": torch.arange(1000.0), "c": torch.ones(3)}, 512)
    shards = sorted(tmp_path.glob("w-*"))
    assert len(shards) >= 1013 * 4 / 512
    for shard in shards:
        header = int.from_bytes(shard.read_bytes()[:8], "little")
        assert 0 < shard.stat().st_size - 8 - header <= 512
    assert torch.equal(load_tensors(tmp_path, "w")["b"], torch.arange(1000.0))


def test_no_tensors_at_all_are_tensors_too(tmp_path: Path) -> None:
    save_tensors(tmp_path, "none", {})
    assert load_tensors(tmp_path, "none") == {}


def test_shards_left_by_another_save_are_not_mixed_in(tmp_path: Path) -> None:
    save_tensors(tmp_path, "w", {"a": torch.zeros(100)}, 64)
    save_tensors(tmp_path, "w", {"a": torch.ones(16)}, 64)
    assert len(list(tmp_path.glob("w-*"))) > 1
    assert torch.equal(load_tensors(tmp_path, "w")["a"], torch.ones(16))


class Bomb:
    """A pickle of it would write a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize("how", ["pickle", "torch", "cut", "missing"])
def test_a_damaged_shard_is_named_and_nothing_in_it_runs(tmp_path: Path, how: str) -> None:
    save_tensors(tmp_path, "w", {"a": torch.zeros(100)}, 64)
    victim = tmp_path / "w-00003.safetensors"
    if how == "pickle":
        victim.write_bytes(pickle.dumps(Bomb(tmp_path / "ran")))
    elif how == "torch":
        torch.save({"a:3": Bomb(tmp_path / "ran")}, victim)
    elif how == "cut":
        victim.write_bytes(victim.read_bytes()[:-1])
    else:
        victim.unlink()
    with pytest.raises(CheckpointError, match="w-00003"):
        load_tensors(tmp_path, "w")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("shapes", ['{"a": [7]}', '{"b": [100]}', '{"a": "x"}', "[1]", "3"])
def test_shapes_that_do_not_fit_the_shards_are_refused(tmp_path: Path, shapes: str) -> None:
    save_tensors(tmp_path, "w", {"a": torch.zeros(100)}, 64)
    (tmp_path / "w.json").write_text(f'{{"shards": 7, "shapes": {shapes}}}')
    with pytest.raises(CheckpointError, match="w"):
        load_tensors(tmp_path, "w")


@pytest.fixture
def sealed(tmp_path: Path) -> Path:
    folder = tmp_path / "sealed"
    (folder / "inner").mkdir(parents=True)
    save_tensors(folder, "w", {"a": torch.arange(100.0)}, 128)
    (folder / "inner" / "text").write_text("words")
    seal(folder, {"format": KIND, "more": 3})
    return folder


def test_a_sealed_folder_opens_and_its_facts_are_there(sealed: Path) -> None:
    about = unseal(sealed, KIND)
    assert about["more"] == 3
    assert set(about["files"]) == {p.relative_to(sealed).as_posix() for p in sealed.rglob("*") if p.is_file()} - {ABOUT}


def test_one_flipped_bit_or_a_missing_file_is_named(sealed: Path) -> None:
    for path in [p for p in sealed.rglob("*") if p.is_file() and p.name != ABOUT]:
        before = path.read_bytes()
        flipped = bytearray(before)
        flipped[len(flipped) // 2] ^= 1
        path.write_bytes(flipped)
        with pytest.raises(CheckpointError, match=path.name):
            unseal(sealed, KIND)
        path.unlink()
        with pytest.raises(CheckpointError, match=path.name):
            unseal(sealed, KIND)
        path.write_bytes(before)
    unseal(sealed, KIND)


def sealed_again(folder: Path, files: object) -> None:
    digest = hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()
    (folder / ABOUT).write_text(json.dumps({"format": KIND, "sha256": digest, "files": files}))


def test_files_outside_the_folder_are_no_part_of_it(sealed: Path) -> None:
    secret = sealed.parent / "x"
    secret.write_text("outside")
    digest = hashlib.sha256(b"outside").hexdigest()
    (sealed / "link").symlink_to(secret)
    for name in ("../x", str(secret), "inner/../../x", "link"):
        sealed_again(sealed, {name: digest})
        with pytest.raises(CheckpointError, match="is not one of its files"):
            unseal(sealed, KIND)


@pytest.mark.parametrize("text", ["", "[]", "7", '{"files": 3}', '{"files": {}}', "[" * 100_000])
def test_a_list_of_files_that_is_none_is_refused(sealed: Path, text: str) -> None:
    (sealed / ABOUT).write_text(text)
    with pytest.raises(CheckpointError, match=ABOUT):
        unseal(sealed, KIND)


def test_a_changed_list_another_kind_and_an_impossible_name_are_refused(sealed: Path) -> None:
    about = json.loads((sealed / ABOUT).read_text())
    (sealed / ABOUT).write_text(json.dumps({**about, "files": dict(list(about["files"].items())[:-1])}))
    with pytest.raises(CheckpointError, match="list of files"):
        unseal(sealed, KIND)
    with pytest.raises(CheckpointError, match=KIND):
        unseal(sealed, "toy 2")
    sealed_again(sealed, {"a\0b": "0"})
    with pytest.raises(CheckpointError, match=ABOUT):
        unseal(sealed, KIND)


@pytest.mark.parametrize("kind", ["file", "deep file", "link", "link to a folder", "pipe"])
def test_what_was_not_sealed_is_refused_by_its_name(sealed: Path, kind: str) -> None:
    added = sealed / "added"
    if kind == "deep file":
        added.mkdir()
        (added / "deep").write_text("1")
    elif kind == "pipe":
        os.mkfifo(added)
    elif kind == "file":
        added.write_text("1")
    else:
        added.symlink_to(sealed / ABOUT if kind == "link" else sealed.parent)
    with pytest.raises(CheckpointError, match="added"):
        unseal(sealed, KIND)


def broken_off(target: Path, name: str, *, replace: bool = False) -> None:
    with new_folder(target, replace=replace) as part:
        (part / name).write_text("1")
        raise KeyboardInterrupt


def test_a_new_folder_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "target"
    with pytest.raises(KeyboardInterrupt):
        broken_off(target, "one")
    assert list((tmp_path / "deep").iterdir()) == []
    with new_folder(target) as part:
        (part / "one").write_text("1")
        assert not target.exists()
    assert [p.name for p in (tmp_path / "deep").rglob("*")] == ["target", "one"]
    with pytest.raises(ModelInputError, match="does not exist"):
        broken_off(target, "two")


def test_a_former_folder_stays_whole_until_the_new_one_is(tmp_path: Path) -> None:
    target = tmp_path / "target"
    with new_folder(target) as part:
        (part / "former").write_text("1")
    with pytest.raises(KeyboardInterrupt):
        broken_off(target, "later", replace=True)
    assert [p.name for p in tmp_path.rglob("*")] == ["target", "former"]
    with new_folder(target, replace=True) as part:
        (part / "later").write_text("2")
    assert [p.name for p in tmp_path.rglob("*")] == ["target", "later"]
