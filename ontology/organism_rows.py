"""Rows of organisms, shipped and a user's own, as checked dictionaries.

Shipped rows are data/organisms.toml; a user's are home()/"references"/"organisms.toml" in the same form, read beside
them and written by own_organisms.py. organisms.py turns rows into `Organism` values; nothing here opens a gene table.
"""

from __future__ import annotations

import logging
import re
import tomllib
from functools import cache, lru_cache
from importlib import resources
from typing import TYPE_CHECKING, Any

from .errors import OntologyInputError, ReferenceMismatchError
from .snapshots import references_dir

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

log = logging.getLogger(__name__)

ANY_ID = r"[^\s|]{1,128}?"
"""Pattern of an organism whose gene ids have no stated form: any word, shortest first so that a version comes off."""
FILE_LIMIT = 1 << 20
"""Bytes a user's file of organisms may have; a row takes some 500."""
DIVISION_LABELS: dict[str, dict[str, dict[str, tuple[str, ...]]]] = {
    "vertebrates": {
        "cell_type": {"CL": ()},
        "tissue": {"UBERON": (), "CL": (), "CVCL": ()},
        "development_stage": {"UBERON": ("UBERON:0000105",)},  # life cycle stage
    },
    "metazoa": {
        "cell_type": {"CL": ()},
        "tissue": {"UBERON": (), "CL": (), "CVCL": ()},
        "development_stage": {"UBERON": ("UBERON:0000105",)},
    },
    "plants": {
        "cell_type": {"PO": ("PO:0009002",), "CL": ()},
        "tissue": {"PO": ("PO:0025131",)},
        "development_stage": {"PO": ("PO:0009012",)},
    },
    "fungi": {"cell_type": {"CL": ()}, "tissue": {}, "development_stage": {}},
    "protists": {"cell_type": {"CL": ()}, "tissue": {}, "development_stage": {}},
}
"""Which ontologies serve a division's labels where a row does not say; the shared labels are added to them."""
TEXTS = ("label", "assembly", "division", "dataset", "id_pattern", "mito_contig", "plastid_contig", "ribo_pattern")
FIELDS = {*TEXTS, "taxon", "aliases", "symbol_case", "extra", "labels"}


@cache
def shipped_rows() -> dict[str, Any]:
    """Return data/organisms.toml: `organisms`, the shared `labels` and the `forbidden` terms."""
    text = resources.files(__package__).joinpath("data/organisms.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)


def own_rows_path() -> Path:
    """Return the file of a user's own organisms; it need not exist."""
    return references_dir() / "organisms.toml"


def own_rows() -> dict[str, dict[str, Any]]:
    """Return a user's own rows by short name, read again whenever the home or the file changes.

    Raises
    ------
    ReferenceMismatchError
        When the file is not what `add_organism_row` writes; it says which row and why.
    """
    path = own_rows_path()
    try:
        state = path.stat()
    except OSError:
        return {}
    return _read_own(str(path), state.st_mtime_ns, state.st_size, state.st_ino)


def stored_rows() -> dict[str, dict[str, Any]]:
    """Return the rows of a user's file as it is now, also those that give way to shipped ones.

    Raises
    ------
    ReferenceMismatchError
        As `own_rows`.
    """
    path = own_rows_path()
    if not path.is_file():
        return {}
    if (size := path.stat().st_size) > FILE_LIMIT:
        raise ReferenceMismatchError(str(path), f"at most {FILE_LIMIT} bytes of organisms", f"{size} bytes")
    try:
        rows = tomllib.loads(path.read_text(encoding="utf-8")).get("organisms", {})
        for name, row in rows.items():
            check_row(name, row)
    except (ValueError, TypeError, AttributeError, RecursionError) as error:  # TOML and UTF-8 errors are ValueErrors
        wrong = f"{error}; correct the file or remove it"
        raise ReferenceMismatchError(str(path), "rows of organisms", wrong) from error
    return rows


@lru_cache(maxsize=4)
def _read_own(path: str, _changed_ns: int, _size: int, _inode: int) -> dict[str, dict[str, Any]]:
    rows = stored_rows()
    taken = {key: name for name, row in shipped_rows()["organisms"].items() for key in keys_of(name, row)}
    kept: dict[str, dict[str, Any]] = {}
    for name, row in rows.items():
        # A later panatlas may ship what a user added first; the shipped row wins, and the atlas still opens.
        if clash := sorted(key for key in keys_of(name, row) if key in taken):
            log.warning("%s: row %s is left out, %s is %s already", path, name, clash[0], taken[clash[0]])
            continue
        taken |= dict.fromkeys(keys_of(name, row), name)
        kept[name] = row
    return kept


def key_of(name: object) -> str:
    """Return the form in which names of organisms are compared: no case, one blank, no NCBITaxon prefix."""
    text = " ".join(str(name).replace("_", " ").split()).casefold()
    return text.removeprefix("ncbitaxon:").removeprefix("ncbitaxon ")


def keys_of(name: str, row: Mapping[str, Any]) -> set[str]:
    """Return every key under which a row answers."""
    return {key_of(each) for each in (name, row["label"], row["taxon"], *row.get("aliases", ()))}


def check_row(name: str, row: Mapping[str, Any]) -> None:
    """Refuse a row that is not one.

    Raises
    ------
    OntologyInputError
        Naming the field, what it holds and what it may hold.
    """
    if not isinstance(name, str) or not re.fullmatch(r"[a-z][a-z0-9-]{0,47}", name):
        raise OntologyInputError("name", name, "lower-case letters, digits and hyphens, at most 48, a letter first")
    if unknown := sorted(set(row) - FIELDS):
        raise OntologyInputError("field", unknown[0], f"one of {', '.join(sorted(FIELDS))}")
    for field in ("label", "taxon", "division"):
        if field not in row:
            raise OntologyInputError(field, None, f"a value in the row of {name}")
    for field in TEXTS:
        text = row.get(field, "")
        if not isinstance(text, str) or len(text) > 500 or not text.isprintable():
            raise OntologyInputError(field, text, "printable text of at most 500 characters")
    # The label names the organism's folder in a store.
    if not re.fullmatch(r"[A-Z][A-Za-z]+( [A-Za-z0-9.-]+){1,4}", row["label"]) or ".." in row["label"]:
        raise OntologyInputError("label", row["label"], "a scientific name such as Rattus norvegicus")
    taxon = row["taxon"]
    if not isinstance(taxon, int) or isinstance(taxon, bool) or not 0 < taxon < 1 << 31:
        raise OntologyInputError("taxon", taxon, "an NCBI taxonomy id, a whole number above 0")
    if row["division"] not in DIVISION_LABELS:
        raise OntologyInputError("division", row["division"], f"one of {', '.join(DIVISION_LABELS)}")
    if row.get("symbol_case", "exact") not in ("exact", "fold"):
        raise OntologyInputError("symbol_case", row["symbol_case"], "exact or fold")
    if row.get("extra", True) is not True:
        raise OntologyInputError("extra", row["extra"], "true: the reference corpus of 16 is fixed")
    aliases = row.get("aliases", [])
    if not isinstance(aliases, list) or not all(isinstance(a, str) and a.strip() and a.isprintable() for a in aliases):
        raise OntologyInputError("aliases", aliases, "a list of names")
    for field in ("id_pattern", "ribo_pattern"):
        try:
            re.compile(row.get(field, ""))
        except re.error as error:
            raise OntologyInputError(field, row[field], f"a regular expression ({error})") from error
    if re.compile(row.get("id_pattern", "")).groups:
        raise OntologyInputError("id_pattern", row["id_pattern"], "no capturing groups; write (?:...)")
    _check_labels(row.get("labels", {}))


def _check_labels(labels: Any) -> None:
    known = {*shipped_rows()["labels"], "cell_type", "tissue", "development_stage"}
    wanted = "label to prefixes to lists of root terms, e.g. {'tissue': {'UBERON': []}}"
    if not isinstance(labels, dict) or not set(labels) <= known:
        raise OntologyInputError("labels", labels, f"{wanted}; labels are {', '.join(sorted(known))}")
    for prefixes in labels.values():
        sound = isinstance(prefixes, dict) and all(
            re.fullmatch(r"[A-Za-z]{1,24}", prefix)
            and isinstance(roots, list | tuple)
            and all(isinstance(root, str) and re.fullmatch(r"[\w.:-]{1,64}", root, re.ASCII) for root in roots)
            for prefix, roots in prefixes.items()
        )
        if not sound:
            raise OntologyInputError("labels", labels, wanted)
