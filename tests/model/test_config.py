"""A configuration comes back from JSON as it was, and what cannot be built is refused by name."""

from __future__ import annotations

import json
from typing import get_args

import pytest

from model.config import COMPRESSED, ModelConfig, Size, preset
from model.errors import ModelInputError


@pytest.mark.parametrize("size", get_args(Size))
def test_presets_come_back_from_json(size: str) -> None:
    config = preset(size)
    assert ModelConfig.from_json(config.to_json()) == config


def test_every_cell_token_has_a_compressed_size() -> None:
    assert set(COMPRESSED) == {*preset("small").cell.labels, "base"}


@pytest.mark.parametrize(
    ("part", "change", "named"),
    [
        ("trunk", {"width": 100, "heads": 3}, "trunk.width"),
        ("trunk", {"heads": 4, "kv_heads": 3}, "trunk.kv_heads"),
        ("trunk", {"attention": "criss-cross", "prior": True}, "trunk.prior"),
        ("tasks", {"noise": (1.5,)}, "tasks.noise"),
        ("tasks", {"nose": (0.5,)}, "changed"),
        ("cell", {"labels": ("sex", "sex")}, "cell.labels"),
    ],
)
def test_what_cannot_be_built_is_refused_by_name(part: str, change: dict, named: str) -> None:
    with pytest.raises(ModelInputError) as error:
        preset("tiny").changed(**{part: change})
    assert error.value.field == named


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("trunk", "layers"), "8"),
        (("trunk", "layers"), True),
        (("trunk", "attention"), "magic"),
        (("trunk", "wdith"), 3),
        (("tasks", "noise"), 0.5),
        (("losses",), 3),
    ],
)
def test_json_of_other_shape_is_refused(path: tuple[str, ...], value: object) -> None:
    said = json.loads(preset("tiny").to_json())
    part = said
    for name in path[:-1]:
        part = part[name]
    part[path[-1]] = value
    with pytest.raises(ModelInputError, match=r"config\." + path[0]):
        ModelConfig.from_json(json.dumps(said))


def test_text_that_is_no_json_is_refused() -> None:
    with pytest.raises(ModelInputError, match="JSON"):
        ModelConfig.from_json("{" * 100_000)
