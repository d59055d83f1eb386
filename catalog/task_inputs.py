"""What a task of a trained model begins with: the model that is meant, and the cells of a file or a release.

Both are found and checked before anything is computed: an organism that the model does not know, or a panel of which it
knows too little, is told here. What is known of the cells goes into the result (result_files.py) as it came.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from atlas import Finding, StoreError
from loaders import SPLITS, CellsError, SourceCells, StoreCells
from model import Calibration, InferenceOptions, context_of, shipped_model
from ontology import LABELS, get_organism, home

from . import model_places as places
from .errors import CatalogInputError
from .workflows import default_atlas

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

    from loaders import Cells
    from model import TrainedModel

    from .cli_reading import ReadingOptions
    from .cli_tasks import TaskOptions

RELEASE = "release:"
"""Begins an input that is a release of the default atlas."""
PRESETS = {"default": (1, 64), "fast": (12, 128)}
"""Of the genes that a context has in training, one in so many is shown; cells at a time."""
SHORTEST = 200
"""Genes that a preset shows at least, as far as training did."""
FEW = 0.5
"""Share of a context's genes below which a warning tells that the model knows few of them."""


@dataclass(frozen=True, eq=False)
class TaskInput:
    """Cells a task is done on."""

    said: str
    """What was asked for: a file's path, or `release:NAME`."""
    cells: Cells
    """The cells."""
    numbers: npt.NDArray[np.int64]
    """Which of them."""
    obs: pd.DataFrame
    """What is known of them, a row each."""
    var: pd.DataFrame
    """The genes of a file in its own words; of a release, ids and symbols."""
    matrix: str | None
    """Element of the file their counts are from."""
    findings: tuple[Finding, ...]
    """What reading them found."""

    def close(self) -> None:
        """Let go of the file or store."""
        if isinstance(self.cells, (SourceCells, StoreCells)):
            self.cells.close()


@dataclass(frozen=True)
class GeneCount:
    """How many genes of an input a model knows."""

    measured: int
    """Genes of the input, those that name the same one counted once."""
    known: int
    """Those that the model knows."""
    fewest: int
    """Known genes of the dataset with the fewest."""
    of_model: int
    """Genes that the model has of these organisms; of the one with the fewest."""


def find_model(name: str | None) -> Path:
    """Return the folder of the model that is meant.

    Parameters
    ----------
    name
        Folder of a model or of a finished run, or its name in PANATLAS_HOME/models or in the package; None for the one
        that came with the package, or else the newest in PANATLAS_HOME/models.

    Raises
    ------
    CatalogInputError
        When there is no such model, none at all, or its run is not finished.
    """
    root = home() / "models"
    if name is not None:
        place = Path(name).expanduser()
        place = place if place.exists() else root / name
        if not place.exists() and (shipped := shipped_model(name)):
            return shipped
        if not place.exists():
            near = difflib.get_close_matches(name, sorted(each.name for each in root.glob("[!.]*")), cutoff=0.0)
            has = f"; nearest: {', '.join(near)}" if near else "; it has none, `panatlas train SIZE` makes one"
            raise CatalogInputError("model", name, f"a folder of a run or a model, or a name in {root}{has}")
        return places.model_folder(place)
    if shipped := shipped_model():
        return shipped
    sealed = [*root.glob("[!.]*/model/about.json"), *root.glob("[!.]*/about.json")]
    if not sealed:
        allowed = f"a trained model; {root} has none, `panatlas train SIZE` makes one, --model FOLDER names one"
        raise CatalogInputError("model", None, allowed)
    return max(sealed, key=lambda file: (file.stat().st_mtime_ns, str(file))).parent


def open_input(said: str, model: TrainedModel | None, organism: str | None, layer: str | None) -> TaskInput:
    """Return the cells of a file, or of a release of the default atlas.

    Parameters
    ----------
    said
        What an ingest takes, or `release:NAME`.
    model
        That is to read them; None where none is.
    organism
        Any spelling; of a file None is human, of a release None is every cell.
    layer
        Layer of a file with the counts; None leaves the choice to the rules of an ingest.

    Raises
    ------
    CatalogInputError
        When there is no such input, or the model does not know the organism.
    ContractError, CellsError
        When a file is hostile or damaged, or has no raw counts.
    """
    if organism is None and not said.startswith(RELEASE):
        organism = "human"
    wanted = None if organism is None else get_organism(organism)
    if wanted is not None and model is not None and wanted.experiment not in model.vocabulary.organisms:
        allowed = f"--organism with one that the model knows: {', '.join(model.vocabulary.organisms)}"
        raise CatalogInputError("organism", organism, allowed)
    if wanted is not None and not said.startswith(RELEASE):
        return _of_file(said, wanted.experiment, layer)
    if layer is not None:
        raise CatalogInputError("layer", layer, "none: a release has counts only")
    return _of_release(said, None if wanted is None else wanted.experiment)


def reading_options(options: TaskOptions, model: TrainedModel) -> InferenceOptions:
    """Return what is shown of cells: what was given, else what the preset says."""
    share, batch_size = PRESETS[options.preset]
    trained = context_of(model, InferenceOptions()).length
    length = None if share == 1 else min(max(trained // share, SHORTEST), trained)
    return InferenceOptions(
        length=length if options.length is None else options.length,
        batch_size=batch_size if options.batch_size is None else options.batch_size,
        neighbours=options.neighbours,
        device=options.device,
        least_genes=options.least_genes,
    )


def plain_options(options: ReadingOptions) -> InferenceOptions:
    """Return what is shown of cells, of commands without presets."""
    return InferenceOptions(
        length=options.length, batch_size=options.batch_size, device=options.device, least_genes=options.least_genes
    )


def count_genes(asked: TaskInput, model: TrainedModel) -> GeneCount:
    """Return how many genes of an input a model knows."""
    cells, genes = asked.cells, asked.cells.genes()
    pairs = np.stack([cells.codes(name, asked.numbers).astype(np.int64) for name in ("organism", "dataset")])
    measured: dict[int, npt.NDArray[np.bool_]] = {}
    known_of: dict[int, npt.NDArray[np.bool_]] = {}
    fewest = []
    for organism, dataset in np.unique(pairs, axis=1).T.tolist():
        if organism not in known_of:
            name = cells.about["organisms"][organism]["organism"]
            ids = genes["feature_id"][genes["organism"] == organism].tolist()
            there = name in model.vocabulary.organisms
            known_of[organism] = model.vocabulary.gene_tokens(name, ids) >= 0 if there else np.zeros(len(ids), bool)
            measured[organism] = np.zeros(len(ids), dtype=bool)
        mine = cells.measured(dataset, organism)
        measured[organism] |= mine
        fewest.append(int((mine & known_of[organism]).sum()))
    known = sum(int((measured[one] & known_of[one]).sum()) for one in measured)
    unmapped = sum(one.count for one in asked.findings if one.code == "unmapped-genes")
    whole = min(int(one.sum()) for one in known_of.values())
    return GeneCount(sum(int(one.sum()) for one in measured.values()) + unmapped, known, min(fewest), whole)


def lacking_genes(asked: TaskInput, model: TrainedModel) -> list[str]:
    """Return the genes of an input's organism that the model knows and some dataset of the input did not measure."""
    cells, genes = asked.cells, asked.cells.genes()
    organism = int(cells.codes("organism", asked.numbers[:1])[0])
    ids = genes["feature_id"][genes["organism"] == organism].to_numpy(dtype=object)
    everywhere = np.ones(len(ids), dtype=bool)
    for dataset in np.unique(cells.codes("dataset", asked.numbers)).tolist():
        everywhere &= cells.measured(dataset, organism)
    vocabulary, have = model.vocabulary, set(ids[everywhere])
    name = cells.about["organisms"][organism]["organism"]
    return [gene for gene in vocabulary.genes[vocabulary.organisms.index(name)] if gene not in have]


def read_calibration(file: Path) -> Calibration:
    """Return the calibration of a file.

    Raises
    ------
    CatalogInputError
        When it cannot be read.
    ModelInputError
        When it is none.
    """
    try:
        with file.open("rb") as stream:
            text = stream.read(places.MOST_BYTES).decode()
    except (OSError, UnicodeDecodeError) as error:
        raise CatalogInputError("calibration", str(file), f"a text file in UTF-8 ({error})"[:300]) from error
    return Calibration.from_json(text)


def warnings_of(asked: TaskInput, genes: GeneCount, seen: Mapping[str, Any], length: int) -> list[Finding]:
    """Return what people should know before they rely on a result.

    Parameters
    ----------
    asked
        The cells.
    genes
        What `count_genes` found.
    seen
        What `seen_before` found.
    length
        Genes of a context.
    """
    found, wanted = [], min(length, genes.of_model)
    if genes.fewest < FEW * wanted:
        remedy = "pass every gene that was measured; with a panel, trust results the less the smaller it is"
        found.append(
            Finding("few-genes", "warning", "var", f"{genes.fewest:,} genes the model knows",
                    f"about {wanted:,}, which a context holds", remedy, genes.fewest)
        )  # fmt: skip
    if empty := int((asked.cells.codes("depth", asked.numbers) == 0).sum()):
        remedy = "leave them out: what is said of them rests on nothing"
        where = asked.matrix or "the release"
        found.append(
            Finding("cells-without-counts", "warning", where, f"{empty:,} cells", "counts in every cell", remedy, empty)
        )
    if known := seen["trained"] + seen["validation"]:
        remedy = "do not score the model on them; `panatlas was-trained-on` names some"
        said = f"{known:,} of {len(asked.numbers):,} cells that the model learnt or was chosen from"
        found.append(seen_cells(known, said, remedy))
    return found


def seen_cells(known: int, said: str, remedy: str) -> Finding:
    """Return the finding that a model has seen some cells."""
    return Finding("trained-on-cells", "warning", "obs", said, "cells it has not seen", remedy, known)


def _of_file(said: str, organism: str, layer: str | None) -> TaskInput:
    try:
        found = places.read_adata(Path(said), organism, layer)
    except CellsError as error:
        if "panatlas ingest" in error.remedy:  # in the words of whoever makes an atlas
            error.add_note("here the organism is named by --organism")
        raise
    everything = np.arange(len(found.cells))
    return TaskInput(said, found.cells, everything, found.obs, found.var, found.matrix, found.findings)


def _of_release(said: str, organism: str | None) -> TaskInput:
    name = said.removeprefix(RELEASE)
    place = places.find_cells(name, None, None, default_atlas())
    if organism is not None and organism not in place.organisms:
        raise CatalogInputError("organism", organism, f"one of release {name}: {', '.join(place.organisms)}")
    cells: StoreCells = place.cells  # type: ignore[assignment]
    numbers = np.arange(len(cells))
    if organism is not None:
        numbers = numbers[cells.column("organism") == place.organisms.index(organism)]
    genes = cells.genes()
    genes = genes if organism is None else genes[genes["organism"] == place.organisms.index(organism)]
    var = genes[["feature_name"]].set_axis(genes["feature_id"].astype(str), axis=0)
    splits = Path(place.place[0]) / "releases" / name / "splits.parquet"
    return TaskInput(said, cells, numbers, _obs_of_release(cells, numbers, splits), var, None, ())


def _obs_of_release(cells: StoreCells, numbers: npt.NDArray[np.int64], splits: Path) -> pd.DataFrame:
    """Return organism, joinid, split, dataset, donor and labels as ids, by cell id."""
    names, words = [str(one["organism"]) for one in cells.about["organisms"]], cells.about["vocabulary"]
    organisms, joinids = cells.codes("organism", numbers), cells.codes("joinid", numbers)
    ids = np.empty(len(numbers), dtype=object)
    for code in np.unique(organisms):
        rows = organisms == code
        columns = ["soma_joinid", "cell_id"]
        label = get_organism(names[code]).label
        there = pd.read_parquet(splits, columns=columns, filters=[("organism", "==", label)])
        found = there.set_index("soma_joinid")["cell_id"].reindex(joinids[rows])
        if found.isna().any():
            raise StoreError(str(splits), "read", "it lacks cells of its release; restore it from a copy of the atlas")
        ids[rows] = found.to_numpy()
    coded = {"dataset_id": "dataset", "donor_id": "donor"}
    coded |= {label if label == "cell_culture" else f"{label}_ontology_term_id": label for label in LABELS}
    columns = {"organism": pd.Categorical.from_codes(organisms.astype(int), names), "soma_joinid": joinids}
    columns["split"] = pd.Categorical.from_codes(cells.codes("split", numbers).astype(int), SPLITS)
    for name, label in coded.items():
        values = cells.codes(label, numbers).astype(int)
        columns[name] = pd.Categorical.from_codes(values, pd.Index(words[label], dtype=object))
    return pd.DataFrame(columns, index=pd.Index(ids, dtype=object))
