"""The workshop: the network, its objectives, training, and the tasks a trained model answers.

- `ModelConfig`, `preset`: every choice of network and pre-training as data.
- `Network`, `Objective`: the network, and one step's losses by name; `make_ragged`, `make_view`, `seeded`: what they
  are given. `TokenTable`, `make_token_table`: what is known of each gene before training.
- `ProteinEmbedder`: the seam behind which a protein language model sits; `esm2` and `seeded_esm2` make one.
- `embed_proteins`, `load_protein_vectors`: one vector per gene of an organism, kept as a reference snapshot.

- `Recipe`, `Machine`, `recipe_for`, `train`, `resume`: from cells to a trained model, in one leg or many, to the byte.
- `TrainedModel`, `load_model`, `save_model`, `Ledger`, `seen_before`: a model on disk, and which cells it has seen;
  `shipped_model`: the one that came with the package.
  `with_organism`, `with_classes`, `with_label` let it grow.
- `finetune`, `Tuning`, `TuningPlan`: a model trained further on a user's cells, all of it or its cell tokens alone.
  `transfer_labels`, `transfer_by_orthologs`: labels from cells to cells, of another organism too.
- `held_out_scores`, `run_study`, `VARIANTS`, `tabulate`: every design choice beside the base, scored alike.
- `embed`, `annotate`, `denoise`, `impute`: one verb per task of a trained model, over one loop, `read_cells`; the
  `*_blocks` go batch by batch. `calibrate`, `score_annotation`: how far an annotation is to be trusted.
  `measured_coverage`, `compare_terms`, `audit_labels`, `smooth_annotation`: whether it holds, what was taken for what,
  labels that cannot be right, labels agreed on by neighbours.
- `sum_samples`, `compare_expression`, `compare_shares`: conditions compared with donors as the replicates.
- `report_counterfactual`, `judge_embedding`, `embed_genes`: cell tokens swapped, beside what is observed; whether an
  embedding has collapsed or beats PCA; genes as vectors. `enrich`: gene sets in a ranking.

May import `loaders`, `atlas` and `ontology`. Its models and values go to `catalog`, which remembers them. Names load
on first use; torch is imported when a network or an embedder is made.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .annotation import Annotation, LabelAnnotation, Threshold, annotate, annotate_blocks, join_annotations
    from .annotation_score import LabelScore, score_annotation
    from .attention_maps import HeadMaps, head_maps
    from .calibration import Calibration, LabelCalibration, calibrate
    from .calibration_donors import HeldOutDonors, held_out_donors
    from .checkpoint import TrainedModel, load_model, save_model
    from .config import ModelConfig, preset
    from .confusion import ConfusionReport, compare_terms
    from .counterfactual import Counterfactual, Swap, counterfactual_blocks, mean_codes
    from .counterfactual_report import (
        ChangeReport,
        Halves,
        Population,
        class_codes,
        compare_changes,
        control_swaps,
        decoded_means,
        halve,
        report_counterfactual,
        swaps_to,
    )
    from .coverage import LabelCoverage, measured_coverage
    from .denoising import Denoised, denoise, denoise_blocks
    from .donor_counts import DonorCounts
    from .embedding import Embedding, GeneEmbedding, embed, embed_blocks, gene_embeddings
    from .enrichment import enrich
    from .errors import CheckpointError, ModelError, ModelInputError, TrainingDivergedError, WeightsUnavailableError
    from .expression_change import variable_genes
    from .finetuning import TuningPlan, donor_splits, finetune, label_accuracy, prepare_base
    from .gene_embedding import GeneVectors, embed_genes, embed_genes_in_cells
    from .gene_network import GeneNetwork
    from .gene_set_files import read_gene_sets
    from .grn_genes import GeneChoice, choose_genes
    from .grn_inference import infer_grn
    from .grn_metrics import NetworkScore, hub_strengths, rank_enrichment, regulon_enrichment, score_network
    from .grn_postprocess import edges_above, known_edges, spanning_backbone, top_edges, top_per_target
    from .grn_query import ReadoutOptions
    from .grn_scores import READOUTS, EdgeScores, score_edges
    from .grn_significance import EdgeSignificance, NullOptions, assess_edges
    from .grn_tested import infer_tested_grn
    from .grn_truths import TRUTHS, EdgeTruth, read_edge_list, read_truth
    from .growth import with_classes, with_label, with_organism
    from .head_selection import HeadSelection, heads_of, nested_scores, select_heads, with_heads
    from .held_out import held_out_scores
    from .imputation import Imputed, impute, impute_blocks
    from .inference import InferenceOptions, ReadCells, context_of, read_cells
    from .label_audit import AuditOptions, LabelAudit, audit_labels
    from .label_smoothing import nearest_cells, smooth_annotation
    from .label_transfer import LabelledCells, TransferredLabels, labelled_cells, transfer_by_orthologs, transfer_labels
    from .ledger import Ledger, seen_before
    from .network import Encoded, Network
    from .network_comparison import NetworkComparison, compare_networks, permuted_difference
    from .network_files import (
        network_from_anndata,
        network_from_table,
        network_to_anndata,
        network_to_table,
        read_network,
        write_network,
    )
    from .network_store import load_stored_network, network_key, store_network
    from .network_topology import centrality, communities, degrees, ego_network, hubs, network_enrichment
    from .novelty import NoveltyCalibration
    from .objective import Objective, make_view
    from .pretrain import Beginning, TrainingRun, resume, train
    from .protein_embedder import Esm2Embedder, ProteinEmbedder, esm2, seeded_esm2
    from .protein_vectors import ProteinVectors, embed_proteins, load_protein_vectors, vectors_name
    from .pseudobulk import SampleCounts, compare_expression, compare_shares, sum_samples
    from .ragged import Ragged, make_ragged
    from .recipe import DataRecipe, Machine, Recipe, recipe_for
    from .shipped_files import shipped_model
    from .shuffled_cells import ShuffledCells
    from .structure_jobs import StructureJobs, read_structure_scores, with_structure_scores, write_structure_jobs
    from .study import StudyPlan, find_variants, run_study, side_by_side, tabulate
    from .token_table import TokenTable, make_token_table
    from .tuning import Tuning, count_weights
    from .variants import VARIANTS, Variant
    from .verdict import Verdict, VerdictOptions, judge_embedding, pca_of_counts
    from .views import View, seeded

_HOMES = {
    "annotation": ("Annotation", "LabelAnnotation", "Threshold", "annotate", "annotate_blocks", "join_annotations"),
    "annotation_score": ("LabelScore", "score_annotation"),
    "attention_maps": ("HeadMaps", "head_maps"),
    "calibration": ("Calibration", "LabelCalibration", "calibrate"),
    "calibration_donors": ("HeldOutDonors", "held_out_donors"),
    "checkpoint": ("TrainedModel", "load_model", "save_model"),
    "config": ("ModelConfig", "preset"),
    "confusion": ("ConfusionReport", "compare_terms"),
    "counterfactual": ("Counterfactual", "Swap", "counterfactual_blocks", "mean_codes"),
    "counterfactual_report": (
        "ChangeReport",
        "Halves",
        "Population",
        "class_codes",
        "compare_changes",
        "control_swaps",
        "decoded_means",
        "halve",
        "report_counterfactual",
        "swaps_to",
    ),
    "coverage": ("LabelCoverage", "measured_coverage"),
    "denoising": ("Denoised", "denoise", "denoise_blocks"),
    "donor_counts": ("DonorCounts",),
    "embedding": ("Embedding", "GeneEmbedding", "embed", "embed_blocks", "gene_embeddings"),
    "enrichment": ("enrich",),
    "errors": ("CheckpointError", "ModelError", "ModelInputError", "TrainingDivergedError", "WeightsUnavailableError"),
    "expression_change": ("variable_genes",),
    "finetuning": ("TuningPlan", "donor_splits", "finetune", "label_accuracy", "prepare_base"),
    "gene_embedding": ("GeneVectors", "embed_genes", "embed_genes_in_cells"),
    "gene_network": ("GeneNetwork",),
    "gene_set_files": ("read_gene_sets",),
    "grn_genes": ("GeneChoice", "choose_genes"),
    "grn_inference": ("infer_grn",),
    "grn_metrics": ("NetworkScore", "hub_strengths", "rank_enrichment", "regulon_enrichment", "score_network"),
    "grn_postprocess": ("edges_above", "known_edges", "spanning_backbone", "top_edges", "top_per_target"),
    "grn_query": ("ReadoutOptions",),
    "grn_scores": ("READOUTS", "EdgeScores", "score_edges"),
    "grn_significance": ("EdgeSignificance", "NullOptions", "assess_edges"),
    "grn_tested": ("infer_tested_grn",),
    "grn_truths": ("TRUTHS", "EdgeTruth", "read_edge_list", "read_truth"),
    "growth": ("with_classes", "with_label", "with_organism"),
    "head_selection": ("HeadSelection", "heads_of", "nested_scores", "select_heads", "with_heads"),
    "held_out": ("held_out_scores",),
    "imputation": ("Imputed", "impute", "impute_blocks"),
    "inference": ("InferenceOptions", "ReadCells", "context_of", "read_cells"),
    "label_audit": ("AuditOptions", "LabelAudit", "audit_labels"),
    "label_smoothing": ("nearest_cells", "smooth_annotation"),
    "label_transfer": (
        "LabelledCells",
        "TransferredLabels",
        "labelled_cells",
        "transfer_by_orthologs",
        "transfer_labels",
    ),
    "ledger": ("Ledger", "seen_before"),
    "network": ("Encoded", "Network"),
    "network_comparison": ("NetworkComparison", "compare_networks", "permuted_difference"),
    "network_files": (
        "network_from_anndata",
        "network_from_table",
        "network_to_anndata",
        "network_to_table",
        "read_network",
        "write_network",
    ),
    "network_store": ("load_stored_network", "network_key", "store_network"),
    "network_topology": ("centrality", "communities", "degrees", "ego_network", "hubs", "network_enrichment"),
    "novelty": ("NoveltyCalibration",),
    "objective": ("Objective", "make_view"),
    "pretrain": ("Beginning", "TrainingRun", "resume", "train"),
    "protein_embedder": ("Esm2Embedder", "ProteinEmbedder", "esm2", "seeded_esm2"),
    "protein_vectors": ("ProteinVectors", "embed_proteins", "load_protein_vectors", "vectors_name"),
    "pseudobulk": ("SampleCounts", "compare_expression", "compare_shares", "sum_samples"),
    "ragged": ("Ragged", "make_ragged"),
    "recipe": ("DataRecipe", "Machine", "Recipe", "recipe_for"),
    "shipped_files": ("shipped_model",),
    "shuffled_cells": ("ShuffledCells",),
    "structure_jobs": ("StructureJobs", "read_structure_scores", "with_structure_scores", "write_structure_jobs"),
    "study": ("StudyPlan", "find_variants", "run_study", "side_by_side", "tabulate"),
    "token_table": ("TokenTable", "make_token_table"),
    "tuning": ("Tuning", "count_weights"),
    "variants": ("VARIANTS", "Variant"),
    "verdict": ("Verdict", "VerdictOptions", "judge_embedding", "pca_of_counts"),
    "views": ("View", "seeded"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = sorted(_HOME_OF)  # noqa: PLE0605 - the table has every name once


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
