"""States of a run: a checkpoint comes back as it was given, in shards that can be sent, and nothing else is taken."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from model.errors import CheckpointError, ModelInputError
from model.resume_state import NEEDED, STATE_FORMAT, ShardedState
from model.tensor_files import seal

GIVEN = {
    "epoch": 3,
    "global_step": 40,
    "loops": {},
    "lr_schedulers": [],
    "flags": [True, False, None, 1, 0, 1.0],
    "pair": (1, (2, [3, {"deep": ()}])),
    "numbers": {0: "int", "0": "text", -7: {True: "bool"}, None: "none", 2.5: "float", (1, "a"): "tuple"},
    "texts": ["", 'quotes " and \\', "Zürich \u2028 \0"],
    "state_dict": {"a/b:0": torch.arange(6.0).reshape(2, 3), "empty": torch.zeros(0, 4), "whole": torch.tensor(3)},
    "optimizer_states": [{"state": {0: {"step": torch.tensor(5.0), "exp_avg": torch.ones(3, dtype=torch.bfloat16)}}}],
    "empty": {},
}


STATE = {name: {} for name in NEEDED}
"""What every checkpoint has."""


def alike(one: object, two: object) -> bool:
    """Return whether two values are the same in kind, order and content."""
    if type(one) is not type(two):
        return False
    if isinstance(one, torch.Tensor):
        return one.dtype == two.dtype and torch.equal(one, two)
    if isinstance(one, dict):
        return alike(list(one.items()), list(two.items()))
    if isinstance(one, list | tuple):
        return len(one) == len(two) and all(map(alike, one, two))
    return one == two


def test_a_checkpoint_comes_back_as_it_was_given(tmp_path: Path) -> None:
    ShardedState().save_checkpoint(GIVEN, tmp_path / "state")
    assert alike(ShardedState().load_checkpoint(tmp_path / "state"), GIVEN)


def test_floats_come_back_to_the_bit(tmp_path: Path) -> None:
    floats = [0.1, 1e-320, 1.7976931348623157e308, -0.0, math.inf, -math.inf, math.nan]
    ShardedState().save_checkpoint(STATE | {"floats": floats}, tmp_path / "state")
    read = ShardedState().load_checkpoint(tmp_path / "state")["floats"]
    assert np.array(read).tobytes() == np.array(floats).tobytes()


def test_a_state_of_the_same_name_is_replaced(tmp_path: Path) -> None:
    for step in (1, 2):
        ShardedState().save_checkpoint(STATE | {"step": step}, tmp_path / "state")
    assert ShardedState().load_checkpoint(tmp_path / "state")["step"] == 2
    assert [p.name for p in tmp_path.iterdir()] == ["state"]
    ShardedState().remove_checkpoint(tmp_path / "state")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("stranger", [Path("x"), {1, 2}, b"bytes", np.int64(3), np.zeros(2), object(), len])
def test_what_is_no_plain_value_is_refused_by_where_it_stands(tmp_path: Path, stranger: object) -> None:
    with pytest.raises(ModelInputError, match=f"loops/fit: {type(stranger).__name__}"):
        ShardedState().save_checkpoint({"loops": {"fit": stranger}}, tmp_path / "state")
    assert not list(tmp_path.iterdir())


def test_the_state_of_four_million_weights_takes_few_files_that_can_be_sent(tmp_path: Path) -> None:
    sizes = [(50_000, 32), *[(640, 640)] * 5, *[(64,)] * 300, (333_333,)]
    network = torch.nn.ParameterList([torch.nn.Parameter(torch.ones(size)) for size in sizes])
    total = sum(one.numel() for one in network)
    assert 3.9e6 < total < 4.1e6
    optimizer = torch.optim.AdamW(network)
    sum(one.sum() for one in network).backward()
    optimizer.step()
    state = STATE | {"state_dict": network.state_dict(), "optimizer_states": [optimizer.state_dict()]}
    ShardedState().save_checkpoint(state, tmp_path / "state")
    shards = list((tmp_path / "state").glob("*.safetensors"))
    assert 3 * 4 * total / 2**24 <= len(shards) <= 8
    assert max(path.stat().st_size for path in (tmp_path / "state").iterdir()) < 16 << 20
    read = ShardedState().load_checkpoint(tmp_path / "state")
    assert alike(read["optimizer_states"][0]["state"], optimizer.state_dict()["state"])


@pytest.mark.parametrize(
    "values",
    [
        "{}", '{"dict": 3}', '{"tensor": "none such"}', '{"tensor": []}', '{"call": ["os.system", "true"]}', '{"dict":',
        "[" * 50_000, '{"dict": [[{"list": []}, 1]]}', '{"dict": [["epoch", 3]]}', '{"list": []}', "7",
    ],
    ids=range(11),
)  # fmt: skip
def test_values_that_are_none_are_refused(tmp_path: Path, values: str) -> None:
    folder = tmp_path / "state"
    ShardedState().save_checkpoint(STATE, folder)
    (folder / "values.json").write_text(values)
    (folder / "about.json").unlink()
    seal(folder, {"format": STATE_FORMAT})
    with pytest.raises(CheckpointError, match="state was refused"):
        ShardedState().load_checkpoint(folder)


def test_a_changed_or_missing_file_and_a_folder_that_is_no_state_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    ShardedState().save_checkpoint(GIVEN, folder)
    (folder / "values.json").write_text(json.dumps({"dict": []}))
    with pytest.raises(CheckpointError, match=r"values\.json"):
        ShardedState().load_checkpoint(folder)
    with pytest.raises(CheckpointError, match="nowhere"):
        ShardedState().load_checkpoint(tmp_path / "nowhere")
