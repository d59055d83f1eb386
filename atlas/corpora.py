"""Big public corpora as sources: a recipe (`data/corpora/*.toml`) and a copy of its files become a manifest.

A recipe says which release is meant, how to get it, what its columns mean in the atlas' fields, which samples are left
out, and which of its labels are known to be wrong and what is done about that. Nothing is fetched here: the corpora lie
in buckets that bill whoever reads. What a recipe makes are ordinary `Source`s, ingested like any other.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pandas as pd
import pyarrow as pa

from ontology import get_organism

from .cell_labels import gather_labels
from .corpus_census import census_sources
from .errors import AtlasInputError
from .sources import SOURCE_FIELDS, Source

if TYPE_CHECKING:
    from collections.abc import Mapping

DATA = Path(__file__).parent / "data" / "corpora"
SIZE = ("nonzeros_per_cell", "nonzeros_source", "download_bytes", "download_source")
NOT_KNOWN = ("", "none", "nan", "not specified", "not applicable", "not_applicable", "unsure")


@dataclass(frozen=True)
class SampleFilter:
    """Which samples of a corpus are taken."""

    column: str
    """Column of the sample table."""
    keep: tuple[str, ...]
    """Values that are taken; "" is none given."""
    why: str
    """Why the others are not."""


@dataclass(frozen=True)
class Fault:
    """A label that the corpus is known to say wrongly or not at all."""

    field: str
    """Which label or column."""
    found: str
    """What is wrong, and who says so."""
    repair: str
    """What an ingest makes of it."""


@dataclass(frozen=True)
class Corpus:
    """The recipe of one release of a corpus."""

    name: str
    """Name of the recipe."""
    about: Mapping[str, str]
    """`title`, `version`, `licence`, and where they are known `citation` and `doi`."""
    access: Mapping[str, str]
    """`where` it lies, and `how` to bring a copy to a folder."""
    layout: Literal["samples", "files", "census"]
    """A table of samples with a file each, files that say all themselves, or a SOMA store like the Census."""
    paths: Mapping[str, str]
    """`file` and `id` as templates, and where there are any `table` of samples and `labels` of cells."""
    cells: Mapping[str, int]
    """Short organism name to the cells the release has, as stated."""
    cells_source: str
    """Who states it."""
    size: Mapping[str, Any] = field(default_factory=dict)
    """`nonzeros_per_cell` and `download_bytes`, each with its source, where they are stated."""
    columns: Mapping[str, str] = field(default_factory=dict)
    """Field of the atlas to the corpus' obs column."""
    constants: Mapping[str, str] = field(default_factory=dict)
    """Field of the atlas to a value, or to a column of the sample table in braces."""
    values: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Field of the atlas to what the corpus' words mean there; `*` is every other word, "" means unknown."""
    filters: tuple[SampleFilter, ...] = ()
    """Samples that are left out."""
    faults: tuple[Fault, ...] = ()
    """Labels known to be wrong."""


@dataclass(frozen=True)
class CorpusSources:
    """What a recipe made of a copy."""

    sources: tuple[Source, ...]
    """One per file, or per dataset of a Census, in the order of their ids."""
    dropped: Mapping[str, int]
    """Samples left out, by reason."""
    cells: int | None
    """Cells of the sources where the corpus states them; None where only the files know."""


def list_corpora() -> tuple[str, ...]:
    """Return the names of the corpora that have a recipe."""
    return tuple(sorted(path.stem for path in DATA.glob("*.toml")))


def load_corpus(name: str) -> Corpus:
    """Return a corpus' recipe.

    Raises
    ------
    AtlasInputError
        If there is none of that name.

    Examples
    --------
    >>> load_corpus("tahoe100m").cells["human"]
    100648790
    """
    if name not in list_corpora():
        raise AtlasInputError("corpus", name, f"one of {', '.join(list_corpora())}")
    said = tomllib.loads((DATA / f"{name}.toml").read_text(encoding="utf-8"))
    faults = said.pop("fault", [])
    columns, constants = dict(said.pop("columns", {})), dict(said.pop("constants", {}))
    for fault in faults:  # a repair by another column or value is part of the mapping
        columns |= fault.pop("columns", {})
        constants |= fault.pop("constants", {})
    cells = said.pop("cells")
    corpus = Corpus(
        name=name,
        about={key: said.pop(key) for key in ("title", "version", "licence", "citation", "doi") if key in said},
        access={key: said.pop(key) for key in ("where", "how")},
        layout=said.pop("layout"),
        paths={key: said.pop(key) for key in ("file", "id", "table", "labels") if key in said},
        cells=cells["figures"],
        cells_source=cells["source"],
        columns=columns,
        constants=constants,
        values=said.pop("values", {}),
        filters=tuple(SampleFilter(f["column"], tuple(f["keep"]), f["why"]) for f in said.pop("filter", [])),
        faults=tuple(Fault(**fault) for fault in faults),
        size=said,
    )
    strange = {*columns, *constants, *corpus.values} - set(SOURCE_FIELDS)
    assert not strange, f"{name}: {sorted(strange)} are no fields of the atlas"
    assert not (set(said) - set(SIZE)), f"{name}: {sorted(said)} are no keys of a recipe"
    return corpus


def corpus_sources(name: str, organism: str, root: str, labels: Path) -> CorpusSources:
    """Return the sources of one organism in a copy of a corpus.

    Parameters
    ----------
    name
        Name of the corpus, one of `list_corpora`.
    organism
        Any spelling of the organism.
    root
        Folder of the copy, laid out as the corpus is; for the Census also "" (the official store) or an s3 address.
    labels
        File to write a table of cell labels to, where the corpus keeps them beside its files: .parquet.

    Raises
    ------
    AtlasInputError
        If the corpus has no such organism, the copy is not laid out like it, or no sample is left.
    """
    corpus, known = load_corpus(name), get_organism(organism)
    if known.name not in corpus.cells:
        raise AtlasInputError("organism", organism, f"one of {name}: {', '.join(corpus.cells)}")
    if corpus.layout == "census":
        sources, cells = census_sources(known, root, corpus.about, corpus.columns, corpus.constants)
        return CorpusSources(sources, {}, cells)
    folder = Path(root).expanduser()
    if not folder.is_dir():
        raise AtlasInputError("root", root, f"a folder with a copy of {name}: {corpus.access['how']}")
    if corpus.layout == "samples":
        return _from_samples(corpus, known.name, folder)
    found = sorted(folder.glob(corpus.paths["file"]))
    if not found:
        raise AtlasInputError("root", root, f"files {corpus.paths['file']} in it: {corpus.access['how']}")
    said: dict[str, Any] = {"columns": dict(corpus.columns)}
    if "labels" in corpus.paths:
        gather_labels(folder / corpus.paths["labels"], corpus.columns, corpus.values, labels)
        said["labels"] = str(labels)
        said["columns"] = {target: target for target in corpus.columns}
    sources = [
        _source(corpus, known.name, path, {"stem": path.name.split(".")[0]}, constants=dict(corpus.constants), **said)
        for path in found
    ]
    return CorpusSources(tuple(sources), {}, None)


def _from_samples(corpus: Corpus, organism: str, folder: Path) -> CorpusSources:
    """Return a source per sample of the corpus' table that is taken."""
    place = get_organism(organism).label.replace(" ", "_")
    path = folder / corpus.paths["table"].format(organism=place)
    samples = _read_samples(path, corpus)
    dropped: dict[str, int] = {}
    for one in corpus.filters:
        kept = samples[one.column].isin(one.keep)
        if not kept.all():
            dropped[f"{one.column}: {one.why}"] = int((~kept).sum())
        samples = samples[kept].copy()
    sources = []
    missing = cells = 0
    samples["obs_count"] = pd.to_numeric(samples["obs_count"], errors="coerce").fillna(0).astype("int64")
    for row in samples.drop_duplicates("srx_accession").sort_values("srx_accession").to_dict("records"):
        words = row | {"organism": place, "file_name": row["file_path"].rpartition("/")[2]}
        file = folder / corpus.paths["file"].format(**words)
        if not file.is_file():
            missing += 1
            continue
        cells += row["obs_count"]
        said = {target: _meaning(corpus, target, text.format(**words)) for target, text in corpus.constants.items()}
        constants = {target: text for target, text in said.items() if text}
        sources.append(_source(corpus, organism, file, words, constants=constants, columns=dict(corpus.columns)))
    if missing:
        dropped["file: not in the copy"] = missing
    if not sources:
        told = "; ".join(f"{n} by {why}" for why, n in dropped.items()) or "the table is empty"
        raise AtlasInputError("root", str(folder), f"at least one sample of {organism} to take ({told})")
    return CorpusSources(tuple(sources), dropped, cells)


def _read_samples(path: Path, corpus: Corpus) -> pd.DataFrame:
    """Return the table of samples as text without nulls."""
    try:
        frame = pd.read_parquet(path)
    except (OSError, pa.ArrowException) as error:
        raise AtlasInputError("root", str(path), f"the table of samples: {corpus.access['how']} ({error})") from error
    wanted = {"srx_accession", "file_path", "obs_count", *(one.column for one in corpus.filters)}
    wanted |= {text[1:-1] for text in corpus.constants.values() if text.startswith("{")}
    missing = sorted(wanted - set(frame.columns))
    if missing:
        raise AtlasInputError("root", str(path), f"a table with the columns {', '.join(missing)}")
    frame = frame.astype(object).where(frame.notna(), "").astype(str)
    return frame.map(lambda text: text.strip())


def _meaning(corpus: Corpus, target: str, text: str) -> str:
    """Return what a word of the corpus means in a field of the atlas, "" for unknown."""
    meant = corpus.values.get(target, {})
    said = meant.get(text, meant.get("*", text))
    return "" if said.lower() in NOT_KNOWN else said


def _source(corpus: Corpus, organism: str, path: Path, words: Mapping[str, Any], **said: Any) -> Source:
    """Return the source of one file."""
    about = {key: corpus.about[key] for key in ("licence", "citation", "doi") if key in corpus.about}
    name = corpus.paths["id"].format(**words)
    title = f"{corpus.about['title']} {corpus.about['version']}: {path.name}"
    return Source(organism, str(path.absolute()), id=name, format="h5ad", title=title, **about, **said)


def write_manifest(sources: tuple[Source, ...], path: Path, remarks: tuple[str, ...] = ()) -> None:
    """Write sources as a TOML manifest, which `load_manifest` reads back to equal ones.

    Parameters
    ----------
    sources
        What to write, in this order.
    path
        File to write; its folder must be there.
    remarks
        Lines put in front as comments.
    """
    lines = [f"# {''.join(c for c in remark if c.isprintable())}" for remark in remarks]
    for source in sources:
        lines += ["", "[[source]]"]
        for one in fields(Source):
            value = getattr(source, one.name)
            if value in (None, {}, ""):
                continue
            if isinstance(value, dict):
                pairs = ", ".join(f"{key} = {_quoted(text)}" for key, text in value.items())
                lines.append(f"{one.name} = {{ {pairs} }}")
            else:
                lines.append(f"{one.name} = {_quoted(str(value))}")
    path.write_text("\n".join(lines).strip() + "\n", encoding="utf-8")


def _quoted(text: str) -> str:
    """Return text as a TOML basic string; what cannot be printed is escaped."""
    plain = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(c if c.isprintable() else f"\\U{ord(c):08X}" for c in plain) + '"'
