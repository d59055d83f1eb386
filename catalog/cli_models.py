"""The commands about models: train one, go on with a run, ask what it has seen. Words in, values out.

Declared here and hung under `panatlas` by cli.py, because they have a flag per need; their bodies are in
model_commands.py, loaded when one runs, so that `--help` does not wait for torch.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path  # noqa: TC003 - cyclopts reads the annotations
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from .cli_references import Repeatable, Switch  # noqa: TC001 - cyclopts reads the annotations

if TYPE_CHECKING:
    from types import ModuleType

Changes = Annotated[list[str], Parameter(name="--set", negative=(), show_default=False, consume_multiple=False)]


@Parameter(name="*")
@dataclass(frozen=True)
class MachineOptions:
    """Where and how long a run computes; only the number of devices changes what is trained."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """cpu, cuda, or whichever there is."""
    devices: int = 1
    """Devices of this machine that share the work; another number draws other cells."""
    strategy: Literal["ddp", "fsdp"] = "ddp"
    """Each device with the whole network (ddp), or with a part of every weight (fsdp)."""
    precision: Literal["auto", "32-true", "bf16-mixed"] = "auto"
    """auto is bf16-mixed on a GPU, 32-true on a CPU."""
    compile: Switch = False
    """Compile the trunk."""
    workers: int = 0
    """Processes that make batches, per device."""
    minutes: float = 0.0
    """Stop after this time, to be resumed; 0 for none."""
    save_every: int = 500
    """Steps between states to resume from."""
    tensorboard: Switch = False
    """Log for TensorBoard instead of CSV."""

    @property
    def facts(self) -> dict[str, Any]:
        """Return the options as `model.Machine` takes them."""
        facts = {name: value for name, value in asdict(self).items() if name != "tensorboard"}
        return {**facts, "logger": "tensorboard" if self.tensorboard else "csv"}


PLAIN = MachineOptions()


def _commands() -> ModuleType:
    """Return the commands' bodies, loaded on first use."""
    return import_module(".model_commands", __package__)


def train(
    size: Literal["tiny", "small", "medium", "large"],
    /,
    *,
    release: str | None = None,
    pack: str | None = None,
    atlas: str | None = None,
    organism: Repeatable = (),
    output: Path | None = None,
    max_steps: int | None = None,
    batch_size: int | None = None,
    length: int | None = None,
    learning_rate: float | None = None,
    patience: int | None = None,
    seed: int = 0,
    changes: Changes = (),
    start: Path | None = None,
    regulators: Path | None = None,
    prior: Path | None = None,
    vectors: str | None = None,
    machine: MachineOptions = PLAIN,
    dry_run: Switch = False,
    json: Switch = False,
) -> int:
    """Train a network on the cells of a release; the same command again goes on with an unfinished run.

    Parameters
    ----------
    size
        Of the network, and of the recipe that suits it.
    release
        Name of a release of the atlas; its newest unless named.
    pack
        Train on this pack instead.
    atlas
        Folder of the atlas; PANATLAS_HOME/atlas unless named.
    organism
        Draw only cells of this organism. Repeatable.
    output
        Folder of the run; PANATLAS_HOME/models/SIZE-RELEASE-SEED unless named, with 8 digits for other choices; of a
        run with --start it is start-MODEL-RELEASE-SEED-DIGITS.
    max_steps
        Steps of the optimiser; 10,000 unless given.
    batch_size
        Cells per step and device; 64 unless given.
    length
        Genes of a cell's context; 2,200 unless given.
    learning_rate
        The highest; the size's unless given.
    patience
        Validations without a better loss after which training ends; 0 goes on to the last step.
    seed
        Of first weights, order of cells, choice of genes, noise.
    changes
        Change one choice of the network, e.g. --set trunk.attention=criss-cross. Repeatable.
    start
        A run or model to begin with: its weights, network and genes.
    regulators
        Text file of transcription factors, an id or symbol a line; masks of `tf` need it.
    prior
        Table of a gene network: regulator, target and, if there are, weight; biases attention.
    vectors
        Protein vectors by this embedder, or none; those at hand unless named.
    dry_run
        Say what would be trained, and train nothing.
    json
        Print the run's facts as JSON on stdout.
    """
    where = {"release": release, "pack": pack, "atlas": atlas, "output": output}
    recipe = {"steps": max_steps, "batch_size": batch_size, "learning_rate": learning_rate, "patience": patience}
    draws = {"seed": seed, "length": length, "organisms": tuple(organism)}
    begin = {"changes": changes, "start": start, "regulators": regulators, "prior": prior, "vectors": vectors}
    return _commands().train(size, where, (recipe, draws), machine.facts, begin, dry_run=dry_run, json=json)


def resume(
    run: Path,
    /,
    *,
    atlas: str | None = None,
    pack: str | None = None,
    machine: MachineOptions = PLAIN,
    json: Switch = False,
) -> int:
    """Go on with a run where its last saved state stands.

    Parameters
    ----------
    run
        Its folder.
    atlas
        Where the atlas of its cells is now, if it was moved.
    pack
        Where the pack of its cells is now, or a pack of the same release.
    json
        Print the run's facts as JSON on stdout.
    """
    return _commands().resume(run, atlas, pack, machine.facts, json=json)


def was_trained_on(
    file: Path, /, *, model: Path, organism: str = "human", layer: str | None = None, json: Switch = False
) -> int:
    """Say which cells of a file a model has seen, by the hash of their counts or by their id.

    A cell that is not found may have been seen all the same: a missing gene or a recount changes the hash.

    Parameters
    ----------
    file
        h5ad with raw counts.
    model
        Folder of a run or of a model.
    organism
        Whose cells they are.
    layer
        Layer with the counts, raw for .raw, X for X; chosen as an ingest does unless named.
    json
        Print the answer as JSON on stdout.
    """
    return _commands().was_trained_on(file, model, organism, layer, json=json)
