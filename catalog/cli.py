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
from typing import TYPE_CHECKING, Literal

from cyclopts import App, CycloptsError

from . import cli_references
from .cli_references import Repeatable, Switch  # noqa: TC001 - cyclopts reads the annotations
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
def ingest(
    organism: str,
    /,
    *,
    source: Repeatable = (),
    manifest: Path | None = None,
    atlas: str | None = None,
    dry_run: Switch = False,
    doublets: bool = True,
    json: Switch = False,
) -> int:
    """Add sources to the atlas: read, prove counts, standardise, measure, screen, append, verify, record.

    Parameters
    ----------
    organism
        Any spelling: human, "Mus musculus", 9606. Without a source its starter sources are ingested.
    source
        h5ad, 10x h5, 10x mtx folder or zarr: a path, https://, s3://, pypi: or census: address. Repeatable.
    manifest
        A TOML file that declares sources; those of the organism are taken.
    atlas
        Folder of the atlas; PANATLAS_HOME/atlas unless named.
    dry_run
        Say what would be read, mapped, dropped and written, and write nothing.
    doublets
        Score doublets, the slowest stage.
    json
        Print the receipts as JSON on stdout.
    """
    return _commands().ingest(organism, source, manifest, atlas, dry_run=dry_run, doublets=doublets, json=json)


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
    query: str, /, *, atlas: str | None = None, timeout: float = 120.0, memory: str = "2GB", json: Switch = False
) -> int:
    """Run one SELECT over the read-only views obs (a row per cell) and datasets.

    Parameters
    ----------
    query
        One statement in DuckDB's dialect, e.g. "SELECT cell_type, count(*) FROM obs GROUP BY 1".
    atlas
        Folder of the atlas; PANATLAS_HOME/atlas unless named.
    timeout
        Seconds after which it is stopped.
    memory
        Most memory it may use.
    json
        Print the rows as JSON on stdout.
    """
    return _commands().sql(query, atlas, timeout_s=timeout, memory=memory, json=json)


@app.command
def release(
    name: str,
    /,
    *,
    split_by: Literal["donor", "dataset"] = "donor",
    seed: int = 0,
    atlas: str | None = None,
    dry_run: Switch = False,
    json: Switch = False,
) -> int:
    """Freeze the atlas under a name, with its splits, joint-label counts and content hash.

    Parameters
    ----------
    name
        1-64 letters, digits, ".", "_", "-".
    split_by
        Keep the cells of a donor, or of a dataset, in one split.
    seed
        Seed of the splits.
    atlas
        Folder of the atlas; PANATLAS_HOME/atlas unless named.
    dry_run
        Work everything out and freeze nothing; only the tables that queries use are kept.
    json
        Print the manifest as JSON on stdout.
    """
    return _commands().release(name, split_by, seed, atlas, dry_run=dry_run, json=json)


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
    cli_references.organisms,
    cli_references.add_organism,
    cli_references.gene,
    cli_references.curate,
    cli_references.embed_proteins,
    cli_references.references,
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
