"""The command that compares design choices: `panatlas study`. Words in, values out.

Hung under `panatlas` by cli.py; its body is in study_commands.py, loaded when it runs.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path  # noqa: TC003 - cyclopts reads the annotations
from typing import TYPE_CHECKING, Literal

from .cli_references import Repeatable, Switch  # noqa: TC001 - cyclopts reads the annotations

if TYPE_CHECKING:
    from types import ModuleType


def _commands() -> ModuleType:
    """Return the command's body, loaded on first use."""
    return import_module(".study_commands", __package__)


def study(
    *,
    size: Literal["tiny", "small", "medium", "large"] = "tiny",
    release: str | None = None,
    pack: str | None = None,
    atlas: str | None = None,
    output: Path | None = None,
    steps: int = 1_000,
    seeds: int = 3,
    variant: Repeatable = (),
    batch_size: int | None = None,
    length: int | None = None,
    scored: int = 2_048,
    minutes: float = 0.0,
    regulators: Path | None = None,
    prior: Path | None = None,
    vectors: str | None = None,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    workers: int = 0,
    save_every: int = 500,
    list: Switch = False,  # noqa: A002 - what people type
    json: Switch = False,
) -> int:
    """Train a preset and its one-change variants alike, and score them on held-out cells; goes on where it stopped.

    All variants of a seed come before the next seed. Every run keeps its weights. Several processes may work on one
    study at once.

    Parameters
    ----------
    size
        Preset that is the base.
    release
        Name of a release of the atlas; its newest unless named.
    pack
        Cells of this pack instead.
    atlas
        Folder of the atlas; PANATLAS_HOME/atlas unless named.
    output
        Folder of the study; PANATLAS_HOME/studies/SIZE-RELEASE-STEPS unless named.
    steps
        Steps of every run.
    seeds
        Runs per variant; more may be asked for later.
    variant
        Only this variant, besides the base. Repeatable.
    batch_size
        Cells per step; 64 unless given.
    length
        Genes of a cell's context; 2,200 unless given.
    scored
        Most held-out cells that are scored.
    minutes
        Stop after this time; the same command goes on. 0 for none.
    regulators
        Text file of transcription factors, an id or symbol a line; the variant tf-masks needs it.
    prior
        Table of a gene network: regulator, target and, if there are, weight; the variant prior needs it.
    vectors
        Protein vectors by this embedder, or none; those at hand unless named. The variant no-adapter needs some.
    device
        cpu, cuda, or whichever there is.
    workers
        Processes that make batches.
    save_every
        Steps between states to resume from.
    list
        Say which variants there are, and train nothing.
    json
        Print the table as JSON on stdout: a row per variant and score.
    """
    if list:
        return _commands().list_variants(json=json)
    where = {"release": release, "pack": pack, "atlas": atlas, "output": output}
    files = {"regulators": regulators, "prior": prior, "vectors": vectors}
    plan = {"size": size, "steps": steps, "seeds": seeds, "scored": scored}
    machine = {"device": device, "workers": workers, "minutes": minutes, "save_every": save_every}
    return _commands().study(where, (plan, variant, batch_size, length), files, machine, json=json)
