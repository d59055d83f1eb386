"""Recipes: the schedule by closed forms, what decays and what does not, and what cannot be trained."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace
from itertools import pairwise
from typing import get_args

import pytest
import torch

from model.config import ModelConfig, Size, preset, read_config
from model.errors import ModelInputError
from model.network import Network
from model.objective import Objective
from model.recipe import Machine, Recipe, fitted, make_optimizer, recipe_for
from tests.model.toy_batches import toy_table, toy_vocabulary

SCHEDULES = ("cosine", "linear", "constant")


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_rate_is_its_closed_form_at_every_step(schedule: str) -> None:
    recipe = Recipe(steps=1_001, warm_up=100, final=0.1, schedule=schedule, learning_rate=1.0)
    for step in range(100):
        assert recipe.rate_at(step) == pytest.approx((step + 1) / 100, abs=1e-12)
    for step in range(100, 1_001):
        x = (step - 100) / 900
        shape = {"cosine": 0.1 + 0.45 * (1 + math.cos(math.pi * x)), "linear": 1 - 0.9 * x, "constant": 1.0}[schedule]
        assert recipe.rate_at(step) == pytest.approx(shape, abs=1e-12)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize(("steps", "warm_up"), [(1, 5), (2, 0), (9, 5), (10, 5), (37, 2), (5_000, 500), (300, 9_999)])
def test_the_rate_rises_to_one_then_never_rises_and_ends_at_the_final_share(
    schedule: str, steps: int, warm_up: int
) -> None:
    recipe = Recipe(steps=steps, warm_up=warm_up, final=0.05, schedule=schedule)
    rates = [recipe.rate_at(step) for step in range(steps)]
    top = rates.index(1.0)
    assert all(a < b for a, b in pairwise(rates[: top + 1]))
    assert all(a >= b for a, b in pairwise(rates[top:]))
    assert top <= max(steps // 10, 1)
    assert min(rates) > 0
    if steps > 1:
        assert rates[-1] == pytest.approx(1.0 if schedule == "constant" else 0.05, abs=1e-12)
        assert recipe.rate_at(steps + 7) == rates[-1]  # a scheduler asks for one more than there are steps


def full_pair() -> tuple[Network, Objective]:
    config = preset("tiny").changed(
        trunk={"width": 16, "attention": "criss-cross", "latents": 4}, cell={"width": 16},
        expression={"scale": "binned"}, losses={"adversarial": 1.0},
    )  # fmt: skip
    network = Network(config, toy_vocabulary(), toy_table())
    return network, Objective(config, network, toy_vocabulary())


def test_every_parameter_is_in_one_group_and_only_matrices_of_linear_layers_decay() -> None:
    network, objective = full_pair()
    optimizer = make_optimizer((network, objective), Recipe(weight_decay=0.3, learning_rate=0.02))
    names = {id(p): name for part in (network, objective) for name, p in part.named_parameters()}
    listed = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(listed) == sorted(names)
    decays = {names[id(p)]: group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    linear = {
        names[id(one.weight)] for part in (network, objective) for one in part.modules()
        if isinstance(one, torch.nn.Linear) and not names[id(one.weight)].startswith("linear.")
    }  # fmt: skip
    assert {name for name, decay in decays.items() if decay == 0.3} == linear
    assert {decays[name] for name in decays if name.endswith("bias")} == {0}
    others = set(decays) - linear
    for kind in (torch.nn.Embedding, torch.nn.RMSNorm, torch.nn.LayerNorm):
        for part in (network, objective):
            for one in part.modules():
                if isinstance(one, kind) and getattr(one, "weight", None) is not None:
                    assert names[id(one.weight)] in others
    assert {"reader.start"} <= others
    rates = {names[id(p)]: group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert {rates[name] for name in rates if name.startswith("linear.")} == {0.2}
    assert {rates[name] for name in rates if not name.startswith("linear.")} == {0.02}


def test_shared_and_frozen_parameters_are_listed_once_and_not_at_all() -> None:
    network, objective = full_pair()
    frozen = next(network.trunk.parameters()).requires_grad_(False)
    optimizer = make_optimizer((network, network, objective), Recipe())
    listed = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert len(set(listed)) == len(listed)
    assert id(frozen) not in listed


def test_a_step_without_gradient_shrinks_matrices_and_nothing_else() -> None:
    network, objective = full_pair()
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    optimizer = make_optimizer((network, objective), Recipe(weight_decay=0.5, learning_rate=0.1))
    for p in network.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    layers = {name for name, one in network.named_modules() if isinstance(one, torch.nn.Linear)}
    matrices = {name for name in layers if not name.startswith("linear.")}
    for name, p in network.named_parameters():
        shrunk = name.endswith(".weight") and name.removesuffix(".weight") in matrices
        assert torch.allclose(p, before[name] * (0.95 if shrunk else 1.0), rtol=1e-6, atol=0), name


@pytest.mark.parametrize("size", get_args(Size))
def test_each_size_has_a_recipe_and_it_comes_back_from_json(size: Size) -> None:
    recipe = recipe_for(size)
    said = json.loads(json.dumps(asdict(recipe)))
    assert read_config(Recipe, said, "recipe") == recipe
    with pytest.raises(ModelInputError, match=r"recipe\.steps"):
        read_config(Recipe, {**said, "steps": "many"}, "recipe")
    with pytest.raises(ModelInputError, match="epochs"):
        read_config(Recipe, {**said, "epochs": 3}, "recipe")


def test_a_size_that_is_none_is_refused_with_those_there_are() -> None:
    with pytest.raises(ModelInputError, match="tiny, small, medium, large"):
        recipe_for("huge")


@pytest.mark.parametrize(
    "wrong",
    [
        {"steps": 0}, {"batch_size": 0}, {"accumulate": 0}, {"warm_up": -1}, {"validate_every": -1}, {"patience": -1},
        {"validation_cells": -1}, {"learning_rate": 0.0}, {"learning_rate": math.nan}, {"clip": math.inf},
        {"final": 1.5}, {"final": math.nan}, {"weight_decay": -0.1}, {"weight_decay": math.nan},
        {"schedule": "staircase"},
    ],
    ids=str,
)  # fmt: skip
def test_what_cannot_be_trained_is_refused_by_name(wrong: dict) -> None:
    with pytest.raises(ModelInputError, match=next(iter(wrong))):
        Recipe(**wrong)


@pytest.mark.parametrize(
    "wrong",
    [
        {"devices": 0}, {"save_every": 0}, {"log_every": 0}, {"workers": -1}, {"minutes": -1.0}, {"minutes": math.nan},
        {"strategy": "deepspeed", "devices": 2}, {"strategy": "fsdp"},
    ],
)  # fmt: skip
def test_what_no_machine_can_do_is_refused_by_name(wrong: dict) -> None:
    with pytest.raises(ModelInputError, match=next(iter(wrong))):
        Machine(**wrong)


@pytest.mark.parametrize(("reads", "asked", "left"), [(0, 6, 0), (2, 6, 2), (6, 4, 4)])
def test_no_more_neighbours_are_collated_than_a_network_reads(reads: int, asked: int, left: int) -> None:
    recipe, config = Recipe(), ModelConfig().changed(expression={"neighbours": reads})
    collate = replace(recipe.data.collate, neighbours=asked, fewer_neighbours=True)
    found = fitted(replace(recipe, data=replace(recipe.data, collate=collate)), config).data.collate
    assert (found.neighbours, found.fewer_neighbours) == (left, left > 0)
    assert replace(found, neighbours=asked, fewer_neighbours=True) == collate
