"""`panatlas study` at the command line: what it lists, and what it refuses before anything is trained."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from catalog import study_commands
from catalog.cli import run
from catalog.errors import USAGE
from catalog.study_commands import _recipe, _tell_plan
from model import Beginning, Machine, StudyPlan, find_variants
from model.variants import VARIANTS

GATA1 = "ENSG00000102145"


def test_every_variant_is_listed_with_what_it_needs(capsys):
    assert run(["study", "--list", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["variant"] for row in rows] == [one.name for one in VARIANTS]
    assert {row["variant"]: row["needs"] for row in rows if row["needs"]} == {
        "prior": "--prior", "tf-masks": "--regulators", "no-adapter": "protein vectors",
    }  # fmt: skip


def test_what_cannot_be_trained_is_named_with_its_reason():
    stream = io.StringIO()
    names = ["tf-masks", "prior", "no-adapter", "no-neighbours", "no-position"]
    plan = StudyPlan(
        steps=2, seeds=1, variants=find_variants(names), network={"expression": {"neighbours": 0}}
    )  # fmt: skip
    _tell_plan(Console(file=stream, width=200), plan, Beginning(regulators=[GATA1]), Path("here"))
    assert stream.getvalue().splitlines() == [
        "study of the base and 2 of 5 variants in here",
        "left out prior: needs --prior",
        "left out no-adapter: needs protein vectors",
        "left out no-neighbours: is what the base is",
    ]


def test_a_study_saves_states_as_often_as_it_is_told(monkeypatch):
    told = {}
    monkeypatch.setattr(study_commands, "study", lambda *words, **said: told.update(words[3]) or 0)
    assert run(["study", "--save-every", "7"]) == 0
    assert told["save_every"] == 7
    assert Machine(**told).save_every == 7


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--variant", "crisscross"], "criss-cross"),
        (["--seeds", "0"], "seeds=0"),
        (["--steps", "0"], "steps=0"),
        (["--pack", "p", "--release", "r"], "either --pack"),
    ],
)
def test_what_is_no_study_is_refused(words, said, capsys):
    assert run(["study", *words]) == USAGE
    assert said in capsys.readouterr().err


def test_the_shortest_context_keeps_its_share_of_the_longest():
    assert _recipe("tiny", 32, 400) == {"batch_size": 32, "data": {"collate": {"length": 400, "shortest": 145}}}
    assert _recipe("tiny", None, None) == {}
    assert _recipe("tiny", None, 1)["data"]["collate"] == {"length": 1, "shortest": 1}
