"""`panatlas study` at the command line: what it lists, and what it refuses before anything is trained."""

from __future__ import annotations

import json

import pytest

from catalog.cli import run
from catalog.errors import USAGE
from catalog.study_commands import _recipe
from model.variants import VARIANTS


def test_every_variant_is_listed_with_what_it_needs(capsys):
    assert run(["study", "--list", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["variant"] for row in rows] == [one.name for one in VARIANTS]
    assert {row["variant"]: row["needs"] for row in rows if row["needs"]} == {
        "prior": "--prior", "tf-masks": "--regulators",
    }  # fmt: skip


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
