"""The commands that look after an atlas: `panatlas validate`, `doctor`, `retract`, `consolidate`, `diff`.

Declared here and hung under `panatlas` by cli.py; their bodies are in care_commands.py and, of those that write cells
again, in upkeep_commands.py, loaded when one runs.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from .cli_references import Switch  # noqa: TC001 - cyclopts reads the annotations

if TYPE_CHECKING:
    from types import ModuleType


def _commands() -> ModuleType:
    """Return the commands' bodies, loaded on first use."""
    return import_module(".care_commands", __package__)


def validate(
    *, atlas: str | None = None, release: str | None = None, sources: Switch = False, json: Switch = False
) -> int:
    """Read a published atlas again, derive anew what can be derived, and say what is not as it should be.

    Prints the hash of its content, which is the same for the same sources in any order. Exit code 3 where anything is
    wrong; nothing is changed.

    Parameters
    ----------
    atlas
        Folder of the atlas; PANATLAS_HOME/atlas unless named.
    release
        Read it as this release froze it, and check the release's own files too.
    sources
        Read the sources again as well, where they can be had, and compare their content.
    json
        Print result and findings as JSON on stdout.
    """
    return _commands().validate(atlas, release, sources=sources, json=json)


def doctor(*, atlas: str | None = None, repair: Switch = False, json: Switch = False) -> int:
    """Name what stopped ingests, releases and packs left behind, and lost or damaged ledgers; changes nothing.

    Exit code 4 where something is left that needs a hand.

    Parameters
    ----------
    atlas
        Folder of the atlas; PANATLAS_HOME/atlas unless named.
    repair
        Take the atlas back to its published moment, and remove leftovers that nobody is writing.
    json
        Print findings, and what was done, as JSON on stdout.
    """
    return _commands().doctor(atlas, repair=repair, json=json)


def retract(
    dataset: str, /, *, reason: str, atlas: str | None = None, dry_run: Switch = False, json: Switch = False
) -> int:
    """Publish a state of the atlas that is without a dataset; releases and earlier moments keep it.

    The organism's other cells are written once more, since joinids are dense, and take their space a second time.
    Results of models follow their cells. Ingesting the dataset again as it was is refused from then on.

    Parameters
    ----------
    dataset
        Its id, as `panatlas info` lists it.
    reason
        Why, in a few words; kept in the ledger.
    atlas
        Folder of the atlas; PANATLAS_HOME/atlas unless named.
    dry_run
        Say what would be taken out and written again; change nothing.
    json
        Print the result as JSON on stdout.
    """
    commands = import_module(".upkeep_commands", __package__)
    return commands.retract(dataset, reason, atlas, dry_run=dry_run, json=json)


def consolidate(*, atlas: str | None = None, dry_run: Switch = False, json: Switch = False) -> int:
    """Make an atlas of many datasets open as quickly as one of few; what it holds, at every moment, stays as it is.

    Tables that each ingest rewrites are written anew, and published as a moment of their own; of the large arrays only
    the metadata of fragments are joined. Nothing is removed that a release reads.

    Parameters
    ----------
    atlas
        Folder of the atlas; PANATLAS_HOME/atlas unless named.
    dry_run
        Say what would be written; change nothing.
    json
        Print the result as JSON on stdout.
    """
    commands = import_module(".upkeep_commands", __package__)
    return commands.consolidate(atlas, dry_run=dry_run, json=json)


def diff(a: str, b: str, /, *, atlas: str | None = None, json: Switch = False) -> int:
    """Compare two releases: datasets, cells, labels, genes and splits that came, went or changed.

    Parameters
    ----------
    a
        Name of a release, or its folder: ATLAS/releases/NAME.
    b
        The release it is compared with.
    atlas
        Folder of the atlas whose releases the names are; PANATLAS_HOME/atlas unless named.
    json
        Print the differences as JSON on stdout.
    """
    return _commands().diff(a, b, atlas, json=json)
