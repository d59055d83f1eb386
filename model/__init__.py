"""The workshop: the network, its objectives, training, and the tasks a trained model answers.

- `ModelConfig`, `preset`: every choice of network and pre-training as data.
- `Network`, `Objective`: the network, and one step's losses by name; `make_ragged`, `make_view`, `seeded`: what they
  are given. `TokenTable`, `make_token_table`: what is known of each gene before training.
- `ProteinEmbedder`: the seam behind which a protein language model sits; `esm2` and `seeded_esm2` make one.
- `embed_proteins`, `load_protein_vectors`: one vector per gene of an organism, kept as a reference snapshot.

- `Recipe`, `Machine`, `recipe_for`, `train`, `resume`: from cells to a trained model, in one leg or many, to the byte.
- `TrainedModel`, `load_model`, `save_model`, `Ledger`, `seen_before`: a model on disk, and which cells it has seen.
  `with_organism`, `with_classes` let it grow.
- `held_out_scores`, `run_study`, `VARIANTS`, `tabulate`: every design choice beside the base, scored alike.
- `embed`, `annotate`, `denoise`, `impute`: one verb per task of a trained model, over one loop, `read_cells`; the
  `*_blocks` go batch by batch. `calibrate`, `score_annotation`: how far an annotation is to be trusted.

May import `loaders`, `atlas` and `ontology`. Its models and values go to `catalog`, which remembers them. Names load
on first use; torch is imported when a network or an embedder is made.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .annotation import Annotation, LabelAnnotation, Threshold, annotate, annotate_blocks
    from .annotation_score import LabelScore, score_annotation
    from .calibration import Calibration, LabelCalibration, calibrate
    from .checkpoint import TrainedModel, load_model, save_model
    from .config import ModelConfig, preset
    from .denoising import Denoised, denoise, denoise_blocks
    from .embedding import Embedding, GeneEmbedding, embed, embed_blocks, gene_embeddings
    from .errors import CheckpointError, ModelError, ModelInputError, TrainingDivergedError, WeightsUnavailableError
    from .growth import with_classes, with_organism
    from .held_out import held_out_scores
    from .imputation import Imputed, impute, impute_blocks
    from .inference import InferenceOptions, ReadCells, context_of, read_cells
    from .ledger import Ledger, seen_before
    from .network import Encoded, Network
    from .objective import Objective, make_view
    from .pretrain import Beginning, TrainingRun, resume, train
    from .protein_embedder import Esm2Embedder, ProteinEmbedder, esm2, seeded_esm2
    from .protein_vectors import ProteinVectors, embed_proteins, load_protein_vectors, vectors_name
    from .ragged import Ragged, make_ragged
    from .recipe import DataRecipe, Machine, Recipe, recipe_for
    from .study import StudyPlan, find_variants, run_study, side_by_side, tabulate
    from .token_table import TokenTable, make_token_table
    from .variants import VARIANTS, Variant
    from .views import View, seeded

_HOMES = {
    "annotation": ("Annotation", "LabelAnnotation", "Threshold", "annotate", "annotate_blocks"),
    "annotation_score": ("LabelScore", "score_annotation"),
    "calibration": ("Calibration", "LabelCalibration", "calibrate"),
    "checkpoint": ("TrainedModel", "load_model", "save_model"),
    "config": ("ModelConfig", "preset"),
    "denoising": ("Denoised", "denoise", "denoise_blocks"),
    "embedding": ("Embedding", "GeneEmbedding", "embed", "embed_blocks", "gene_embeddings"),
    "errors": ("CheckpointError", "ModelError", "ModelInputError", "TrainingDivergedError", "WeightsUnavailableError"),
    "growth": ("with_classes", "with_organism"),
    "held_out": ("held_out_scores",),
    "imputation": ("Imputed", "impute", "impute_blocks"),
    "inference": ("InferenceOptions", "ReadCells", "context_of", "read_cells"),
    "ledger": ("Ledger", "seen_before"),
    "network": ("Encoded", "Network"),
    "objective": ("Objective", "make_view"),
    "pretrain": ("Beginning", "TrainingRun", "resume", "train"),
    "protein_embedder": ("Esm2Embedder", "ProteinEmbedder", "esm2", "seeded_esm2"),
    "protein_vectors": ("ProteinVectors", "embed_proteins", "load_protein_vectors", "vectors_name"),
    "ragged": ("Ragged", "make_ragged"),
    "recipe": ("DataRecipe", "Machine", "Recipe", "recipe_for"),
    "study": ("StudyPlan", "find_variants", "run_study", "side_by_side", "tabulate"),
    "token_table": ("TokenTable", "make_token_table"),
    "variants": ("VARIANTS", "Variant"),
    "views": ("View", "seeded"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "VARIANTS",
    "Annotation",
    "Beginning",
    "Calibration",
    "CheckpointError",
    "DataRecipe",
    "Denoised",
    "Embedding",
    "Encoded",
    "Esm2Embedder",
    "GeneEmbedding",
    "Imputed",
    "InferenceOptions",
    "LabelAnnotation",
    "LabelCalibration",
    "LabelScore",
    "Ledger",
    "Machine",
    "ModelConfig",
    "ModelError",
    "ModelInputError",
    "Network",
    "Objective",
    "ProteinEmbedder",
    "ProteinVectors",
    "Ragged",
    "ReadCells",
    "Recipe",
    "StudyPlan",
    "Threshold",
    "TokenTable",
    "TrainedModel",
    "TrainingDivergedError",
    "TrainingRun",
    "Variant",
    "View",
    "WeightsUnavailableError",
    "annotate",
    "annotate_blocks",
    "calibrate",
    "context_of",
    "denoise",
    "denoise_blocks",
    "embed",
    "embed_blocks",
    "embed_proteins",
    "esm2",
    "find_variants",
    "gene_embeddings",
    "held_out_scores",
    "impute",
    "impute_blocks",
    "load_model",
    "load_protein_vectors",
    "make_ragged",
    "make_token_table",
    "make_view",
    "preset",
    "read_cells",
    "recipe_for",
    "resume",
    "run_study",
    "save_model",
    "score_annotation",
    "seeded",
    "seeded_esm2",
    "seen_before",
    "side_by_side",
    "tabulate",
    "train",
    "vectors_name",
    "with_classes",
    "with_organism",
]


def __getattr__(name: str) -> Any:
    """Import a public name from the file it lives in, once."""
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_HOME_OF[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names, loaded or not."""
    return sorted(__all__)
