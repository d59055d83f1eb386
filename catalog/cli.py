"""The `panatlas` command: arguments in, one call of the floor below, an exit code out. No logic of its own.

People read stderr, programs read stdout; `--json` prints one JSON document there. Exit codes: docs/cli.md. Heavy floors
load inside the command that needs them, so that `panatlas --help` answers at once.
"""

from __future__ import annotations

import shlex
import sys
from importlib import import_module
from importlib.metadata import version
from pathlib import Path  # noqa: TC003 - cyclopts reads the annotations
from typing import TYPE_CHECKING

from cyclopts import App, CycloptsError

from . import cli_annotation, cli_care, cli_finetune, cli_generate, cli_models, cli_networks, cli_references, cli_tasks
from .cli_copies import duplicates
from .cli_ingest import ingest
from .cli_plan import plan, sources
from .cli_references import Repeatable, Switch  # noqa: TC001 - cyclopts reads the annotations
from .cli_releases import release
from .cli_study import study
from .console import drop_stdout, logging_to, people, plain, show_error
from .errors import BUG, INTERRUPTED, USAGE, exit_code

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import ModuleType

app = App(
    name="panatlas",
    help="A cell atlas you can ingest, query and train on.",
    version=lambda: version("panatlas"),
    result_action="return_value",
    suppress_keyboard_interrupt=False,  # `run` says how to go on
)


def _commands() -> ModuleType:
    """Return the commands' bodies, loaded on first use."""
    return import_module(".commands", __package__)


@app.command
def search(
    *text: str,
    where: Repeatable = (),
    organism: str | None = None,
    all_cells: Switch = False,
    atlas: str | None = None,
    json: Switch = False,
) -> int:
    """Count the cells that match words and conditions, by organism, dataset, tissue and cell type.

    Parameters
    ----------
    text
        Words such as: lung fibroblast. Synonyms and everything below a term count.
    where
        One condition, e.g. "cell_type=T cell", "nnz>=500", "tissue~lung", "disease*=asthma". Repeatable.
    organism
        Only this organism.
    all_cells
        Count cells that failed QC too.
    atlas
        Folder of the atlas; PANATLAS_HOME/atlas unless named.
    json
        Print JSON on stdout.
    """
    return _commands().search(" ".join(text), where, organism, atlas, all_cells=all_cells, json=json)


@app.command
def info(*, atlas: str | None = None, json: Switch = False) -> int:
    """Say what the atlas holds: organisms, datasets, cells, moment, versions.

    Parameters
    ----------
    atlas
        Folder of the atlas; PANATLAS_HOME/atlas unless named.
    json
        Print JSON on stdout.
    """
    return _commands().info(atlas, json=json)


@app.command
def sql(
    query: str,
    /,
    *,
    release: str | None = None,
    atlas: str | None = None,
    timeout: float = 120.0,
    memory: str = "2GB",
    json: Switch = False,
) -> int:
    """Run one SELECT over the read-only views obs (a row per cell), datasets, and splits of a release.

    Parameters
    ----------
    query
        One statement in DuckDB's dialect, e.g. "SELECT cell_type, count(*) FROM obs GROUP BY 1".
    release
        Read the atlas as this release froze it; otherwise as it is, with the splits of its newest release.
    atlas
        Folder of the atlas; PANATLAS_HOME/atlas unless named.
    timeout
        Seconds after which it is stopped.
    memory
        Most memory it may use.
    json
        Print the rows as JSON on stdout.
    """
    return _commands().sql(query, release, atlas, timeout_s=timeout, memory=memory, json=json)


@app.command
def pack(
    release: str,
    out: Path,
    /,
    *,
    organism: Repeatable = (),
    split: Repeatable = (),
    piece_mib: int = 256,
    atlas: str | None = None,
    json: Switch = False,
) -> int:
    """Pack a release's cells for training: memory-mapped records that need neither the atlas nor tiledbsoma.

    Parameters
    ----------
    release
        Name of a release of the atlas.
    out
        Folder of the pack; must not exist.
    organism
        Only this organism. Repeatable.
    split
        Only cells of this split: train, validation or test. Repeatable.
    piece_mib
        Largest file in MiB; 30 for packs that travel.
    atlas
        Folder of the atlas; PANATLAS_HOME/atlas unless named.
    json
        Print what was packed as JSON on stdout.
    """
    return _commands().pack(release, out, (organism, split, piece_mib), atlas, json=json)


@app.command
def report(organism: str, /, *, atlas: str | None = None, json: Switch = False) -> int:
    """Write an organism's HTML report again from what the atlas holds.

    Parameters
    ----------
    organism
        Any spelling of the organism.
    atlas
        Folder of the atlas; PANATLAS_HOME/atlas unless named.
    json
        Print where it is as JSON on stdout.
    """
    return _commands().report(organism, atlas, json=json)


for _command in (
    ingest,
    plan,
    sources,
    release,
    cli_references.organisms,
    cli_references.add_organism,
    cli_references.gene,
    cli_references.curate,
    cli_references.embed_proteins,
    cli_references.references,
    cli_models.train,
    cli_models.resume,
    cli_models.was_trained_on,
    cli_tasks.embed,
    cli_tasks.annotate,
    cli_annotation.calibrate,
    cli_annotation.audit,
    cli_annotation.score,
    cli_tasks.denoise,
    cli_tasks.impute,
    cli_generate.counterfactual,
    cli_generate.verdict,
    cli_generate.embed_genes,
    cli_finetune.finetune,
    cli_finetune.grow,
    cli_finetune.transfer,
    *cli_networks.COMMANDS,
    cli_care.validate,
    cli_care.doctor,
    duplicates,
    cli_care.retract,
    cli_care.consolidate,
    cli_care.diff,
    study,
):
    app.command(_command)


def run(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit code.

    Errors people can act on are told in a sentence; anything else keeps its traceback, because it is a bug of ours.
    """
    console = people()
    try:
        with logging_to(console):
            return int(app(arguments, exit_on_error=False, print_error=False) or 0)
    except CycloptsError as exc:
        console.print(f"[red]error[/] {plain(exc)}")
        console.print("  panatlas --help lists the commands, panatlas COMMAND --help its arguments")
        return USAGE
    except KeyboardInterrupt:
        console.print("[yellow]stopped[/] nothing is half done; to go on where it stopped, run the same command again:")
        console.print(f"  panatlas {plain(shlex.join(arguments))}")
        return INTERRUPTED
    except BrokenPipeError:
        drop_stdout()  # the reader, e.g. `head`, has seen enough
        return 0
    except Exception as exc:
        if exit_code(exc) == BUG:
            raise
        show_error(console, exc)
        return exit_code(exc)


def main() -> None:
    """Enter from the console script."""
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
