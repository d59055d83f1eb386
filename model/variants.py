"""What the additive study changes, one design choice at a time: `VARIANTS`.

Each is the preset with one thing another way. Sizes (widths, layers, bins, latents, levels) are no design choices here:
the preset's one dial sets them. study.py trains them; a test asserts that no other field of the configuration is left
without a variant.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

Needs = Literal["", "regulators", "prior", "vectors"]
Changes = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Variant:
    """One change."""

    name: str
    """Of the row, and of the folder."""
    group: str
    """Part of the network or of training it belongs to."""
    about: str
    """What changes; with the reference study's finding where it has the like."""
    network: Changes = field(default_factory=dict)
    """Fields of `ModelConfig`, by part."""
    recipe: Mapping[str, Any] = field(default_factory=dict)
    """Fields of `Recipe`, nested as they are."""
    context: float = 1.0
    """Times the base's genes per context, the shortest as well."""
    needs: Needs = ""
    """What the caller has to bring; without it the variant is left out."""


BASE = Variant("base", "base", "The preset as it is.")


def _draw(**changes: Any) -> dict[str, Any]:
    return {"data": {"plan": changes}}


def _show(**changes: Any) -> dict[str, Any]:
    return {"data": {"collate": changes}}


VARIANTS: tuple[Variant, ...] = (
    Variant("criss-cross", "attention", "Genes read and write learned latents, not each other; scPRINT-2, longer "
            "contexts too: cell types .46 for .62.", {"trunk": {"attention": "criss-cross"}}),
    Variant("performer", "attention", "Random features stand for the softmax.", {"trunk": {"attention": "performer"}}),
    Variant("four-kv-heads", "attention", "Four heads of keys and values: in small networks, one for every head.",
            {"trunk": {"kv_heads": 4}}),
    Variant("one-kv-head", "attention", "All heads share keys and values.", {"trunk": {"kv_heads": 1}}),
    Variant("prior", "attention", "A prior gene network biases the logits; scPRINT-2: embedding .43 for .52.",
            {"trunk": {"prior": True}}, needs="prior"),
    Variant("dropout", "trunk", "A tenth of the features is dropped; scPRINT-2, leaving dropout out: cell types .71 "
            "for .62.", {"trunk": {"dropout": 0.1}}),
    Variant("stochastic-depth", "trunk", "A tenth of the cells skips the last block.",
            {"trunk": {"stochastic_depth": 0.1}}),
    Variant("learned-tokens", "tokens", "A free vector per gene instead of its protein's; scPRINT-2: no change beyond "
            "the spread of seeds.", {"tokens": {"source": "learned"}}),
    Variant("no-adapter", "tokens", "Projected protein vectors without an adapter; scPRINT-2, with one: cell types .71 "
            "for .62.", {"tokens": {"adapter": False}}, needs="vectors"),
    Variant("no-orthologs", "tokens", "No vector per ortholog group.", {"tokens": {"orthologs": False}}),
    Variant("no-position", "tokens", "No place on the genome; scPRINT-2: cell types .73 for .62.",
            {"tokens": {"position": False}}),
    Variant("sum-scale", "expression", "Shares of the context instead of counts; scPRINT-2: cell types .73 for .62, "
            "gene networks worse.", {"expression": {"scale": "sum"}}),
    Variant("both-scales", "expression", "Counts and shares side by side.", {"expression": {"scale": "both"}}),
    Variant("binned", "expression", "Quantile bins; scPRINT-2: cell types .43 for .62.",
            {"expression": {"scale": "binned"}}),
    Variant("not-gated", "expression", "Tokens do not grow with the gene's share; features are only added.",
            {"expression": {"gated": False}}),
    Variant("no-linear", "expression", "No linear path past the trunk.", {"expression": {"linear": 0}}),
    Variant("no-neighbours", "expression", "No neighbouring cells; scPRINT-2, with them: denoising .44 for .02, cell "
            "types .38 for .62.", {"expression": {"neighbours": 0}}),
    Variant("fsq", "cell", "All cell tokens quantised.", {"cell": {"compression": "fsq"}}),
    Variant("no-compression", "cell", "Cell tokens keep their width; scPRINT-2, Gaussian ones: cell types .38 for .62.",
            {"cell": {"compression": "none"}}),
    Variant("one-label", "cell", "Tokens for cell type and the base only.", {"cell": {"labels": ("cell_type",)}}),
    Variant("nb", "losses", "Negative binomial counts.", {"losses": {"expression": "nb"}}),
    Variant("zinb", "losses", "Zero-inflated counts without the squared error; scPRINT-2, with it and denoising: "
            "denoising .30 for .02.", {"losses": {"expression": "zinb"}}),
    Variant("mse", "losses", "Squared error alone; scPRINT-2: denoising -.04 for .02.",
            {"losses": {"expression": "mse"}}),
    Variant("no-denoise", "losses", "Denoising weighs nothing; scPRINT-2, with it: denoising .22 for .02.",
            {"losses": {"denoise": 0.0}}),
    Variant("no-labels", "losses", "No label is predicted; scPRINT-2: embedding .50 for .52.",
            {"losses": {"labels": 0.0}}),
    Variant("study-labels", "losses", "A label given to a whole study weighs half.", {"losses": {"study_labels": 0.5}}),
    Variant("no-independence", "losses", "Cell tokens may say the same.", {"losses": {"independence": 0.0}}),
    Variant("no-contrastive", "losses", "Two views of a cell need not agree.", {"losses": {"contrastive": 0.0}}),
    Variant("no-elastic", "losses", "No elastic similarity.", {"losses": {"elastic": 0.0}}),
    Variant("adversarial", "losses", "The cell-type token must not tell assay and organism; scPRINT-2: cell types .48 "
            "for .62.", {"losses": {"adversarial": 0.5}}),
    Variant("no-kl", "losses", "Gaussian tokens without divergence.", {"losses": {"kl": 0.0}}),
    Variant("no-generate", "tasks", "Nothing is decoded from cell tokens alone; scPRINT-2: embedding .48 for .52.",
            {"tasks": {"generate": False}}),
    Variant("from-neighbours", "tasks", "One more pass that tells cells from their neighbours alone.",
            {"tasks": {"noise": (0.8, 1.0)}}),
    Variant("fixed-noise", "tasks", "Every cell loses the same share of molecules.",
            {"tasks": {"random_noise": False}}),
    Variant("uniform-masks", "tasks", "One more pass with 30% of the genes hidden.",
            {"tasks": {"masks": ("uniform",)}}),
    Variant("tf-masks", "tasks", "The same, sparing transcription factors; scPRINT-2, instead of uniform ones: no "
            "change beyond the spread of seeds.", {"tasks": {"masks": ("tf",)}}, needs="regulators"),
    Variant("uniform-sampler", "data", "Every cell alike, no levelling of labels; scPRINT-2: cell types .36 for .62.",
            recipe=_draw(config={"kind": "uniform"})),
    Variant("expressed-weights", "data", "Cells with more expressed genes are drawn more often, as scPRINT-2 does.",
            recipe=_draw(expressed_weights=True)),
    Variant("ontology-aware", "data", "Cells of a coarse or unknown label come as often as those they may be one of.",
            recipe=_draw(ontology_aware=True)),
    Variant("fixed-context", "data", "No shorter contexts; scPRINT-2, variable and longer: cell types .75 for .62.",
            recipe=_show(shorter_probability=0.0)),
    Variant("half-context", "data", "Contexts of half as many genes.", context=0.5),
    Variant("double-context", "data", "Contexts of twice as many genes.", context=2.0),
    Variant("most-expressed", "data", "The highest counts instead of random expressed genes.",
            recipe=_show(context="most_expressed")),
    Variant("expressed-only", "data", "No measured zeros; scPRINT-2: cell types .52 for .62.",
            recipe=_show(zeros="none", from_all=0.0)),
    Variant("all-neighbours", "data", "As many neighbours as there are, every time.",
            recipe=_show(fewer_neighbours=False)),
)  # fmt: skip
"""Figures are of scPRINT-2's study: mean cell-type score (lung), its scIB score, or its gain in denoising,
beside its base; one run each, the base's own spread over seeds being .07, .02 and .02."""
