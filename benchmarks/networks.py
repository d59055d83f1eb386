"""How good gene networks are: every read-out and baseline beside public references, pooled and per regulator.

The model is the shipped one, or another in PANATLAS_BENCH_MODEL. Cells and references
are in network_cells.py, methods in network_methods.py, intervals and words in network_verdicts.py. Answers are kept
one by one in benchmarks/data/networks, so a run that was stopped goes on.
"""

from __future__ import annotations

import tempfile
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from benchmarks.network_cells import NetworkStudy
    from benchmarks.network_methods import Bench
    from benchmarks.network_verdicts import Told

SEED = 0
READS = ("data/human_pancreas_baron_cxg7.h5ad", "data/mouse_bonemarrow_paul2015.h5ad", "bio/grn/*", "model")
FOLDER = Path(__file__).resolve().parent / "data" / "networks"
SEEDS, CELLS, REGULATORS, TARGETS = 3, 250, 80, 500
QUICK = (1, 24, 8, 40)
"""Runs, cells of a run, regulators and targets; and those of a quick run."""
PERMUTATIONS, NULL_CELLS = 10, 100
RANDOM = 10
"""Draws of three heads, beside which chosen ones are put."""
RATES = (0.05, 0.2)
"""False discovery rates at which edges are called."""
SIMPLE = ("pearson", "spearman", "partial_correlation", "mean_product", "pidc", "extra_trees", "grnboost2")
ARGUMENTS = {
    "logs of shares of a cell against counts": (
        ("pearson", "pearson, counts"),
        ("mean_product", "mean_product, counts"),
    ),
    "z beyond shuffled cells against raw attention": (("attention, z", "attention"),),
    "mean attention against summed": (("attention, own contexts, mean", "attention, own contexts, sum"),),
    "attention of the mean cell against mean attention": (("mean_cell_attention", "attention"),),
}
"""Which methods settle which argument."""
WHOLE = ("mean_product", "pearson", "spearman", "token_similarity")
"""Read-outs that are also asked of all genes."""
COLUMNS = (
    "cells", "reference", "method", "AP / chance per regulator", "AP / chance", "AUPRC / density", "EPR",
    "odds ratio", "regulons enriched", "s",
)  # fmt: skip
NOTES = (
    f"Each of {SEEDS} seeds draws {CELLS} cells. Scored are {TARGETS} targets that some reference names, drawn from "
    f"the expressed genes, and the {REGULATORS} regulators with most of them; beside each reference, the "
    "regulators that it knows by targets that it names, no gene with itself. AP, average precision, over what random "
    "order has on average (exact: with few known edges that is well above their density); EPR and odds ratio are of as "
    "many strongest edges as are known.",
    "Pooled columns rank all edges together and reward who knows the hubs; ± is half of the 95% t interval over seeds, "
    "which share cells. `per regulator` is the mean over regulators with 5 or more known targets, with its 95% t "
    "interval; verdicts rest on it. `regulons enriched`: share of regulators whose known targets stand before the "
    "others in their row, q < 0.05.",
    "`hub degree` knows no edge: the product of degrees, in the other references (but for those that this one is a "
    "part of, or that are a part of it), or in this one (which no method may see). `shuffled` rows are the same "
    "read-out on shuffled cells: what is left there is not from the cells.",
    "extra_trees has 30 trees and grnboost2 at most 60, against 1,000 and 5,000 of their authors; gradient is read "
    "from 3 cells, perturbation from 20. The model of `just bench pretrain` has learnt from the Baron cells.",
    "References are not independent. `hesc`, `mesc` and `mdc` (ChIP and knock-down) are parts of `_perturbation` and "
    "`_binding`, `_logof` and `_nishiyama` are the two parts of `_perturbation`, `collectri` is a part of `omnipath`: "
    "of such a pair, one witness. `collectri` has 28 % of the edges of `dorothea_human`, which rests on ChIP as well. "
    "The human lists of McCalla et al. are to a large part orthologs of mouse experiments: hESC and mESC are no two "
    "witnesses. A claim is made where two references of which none is a part of the other show a difference per "
    "regulator, and none shows the opposite.",
    f"Edges are called in {NULL_CELLS} cells; `called edges beside references` has their precision over the share that "
    "is known of all edges (chance) and Fisher's exact test, where any is called that the reference can judge.",
    "The expressed targets of `_literature`, which names about a hundred, are all scored.",
    "Heads are carried over between the two largest cell types of a set that has several: chosen on one, scored on the "
    "other, each pair by a choice that learnt from neither of its genes; random ones are three, the mean of "
    f"{RANDOM} draws.",
    "Hubs and markers are looked for among genes that 5 % of the cells express, factors and others alike.",
)
Table = dict[str, "Told"]


def main(*, quick: bool) -> list[dict[str, Any]]:
    """Return a row per set of cells, reference and method, then what they say."""
    import torch

    from benchmarks.bench_data import scored_model
    from benchmarks.network_cells import network_studies, some_cells
    from benchmarks.network_methods import VARIANTS, Bench, main_methods, some_of
    from model import load_model
    from model.checkpoint import weights_digest

    model = load_model(scored_model())
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # one core for all methods alike
    seeds, cells, regulators, targets = QUICK if quick else (SEEDS, CELLS, REGULATORS, TARGETS)
    rows: dict[str, list[dict[str, Any]]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) if quick else FOLDER
        folder.mkdir(parents=True, exist_ok=True)
        bench = Bench(model, weights_digest(model), folder)
        for place, study in enumerate(network_studies(model, regulators, targets)):
            if quick and place > 1:
                break
            drawn = [some_cells(study, cells, seed) for seed in range(seeds)]
            answers = {one.label: _answers(bench, study, one, drawn) for one in (*main_methods(), *VARIANTS)}
            maps = _maps(bench, study, drawn)
            tables = {truth: _told(study, truth, answers, maps) for truth in study.truths}
            for truth, told in tables.items():
                if told:
                    _rows(rows, study, truth, told)
            rows["claims"] += [{"table": "claims", "cells": study.name, **row} for row in _claims(study, tables)]
            _transfer(rows, bench, study, cells)
            _hubs(rows, bench, study, drawn[0])
            if not quick:
                _whole(rows, bench, study)
            few = some_of(drawn[0], 20 if quick else NULL_CELLS)
            _called(rows, bench, study, few, (3 if quick else PERMUTATIONS, not place))
            print(f"{study.name} done", flush=True)
    torch.set_num_threads(threads)
    return [row for found in rows.values() for row in found]


def _answers(bench: Bench, study: NetworkStudy, method: Any, drawn: list[Any]) -> tuple[list[Any], float] | str:
    """Return scores seed by seed with the seconds of one; or why there are none."""
    from model import ModelInputError

    try:
        found = [bench.ask(study, method, numbers) for numbers in drawn]
    except ModelInputError as error:
        return str(error)
    seconds = float(np.mean([second for _, second in found]))
    print(f"  {study.name}: {method.label} {seconds:.2g} s", flush=True)
    return [scores for scores, _ in found], seconds


def _maps(bench: Bench, study: NetworkStudy, drawn: list[Any]) -> list[Any]:
    """Return the attention of every head, seed by seed; nothing for a model whose attention has no such maps."""
    from model import ModelInputError

    try:
        return [bench.head_maps(study, numbers) for numbers in drawn]
    except ModelInputError:
        return []


def _told(study: NetworkStudy, truth: str, answers: dict[str, Any], maps: list[Any]) -> Table:
    """Return what each method is worth beside a reference; nothing where the two have no edges in common."""
    from benchmarks.network_cells import narrowed, other_truths
    from benchmarks.network_methods import HEADS, chosen_heads, hub_degree
    from benchmarks.network_verdicts import Told
    from model import ModelInputError
    from model.grn_metrics import regulon_enrichment, score_network

    known = narrowed(study.truths[truth], study)
    listed = {label: found for label, found in answers.items() if not isinstance(found, str)}
    heads = [found for one in maps if (found := chosen_heads(one, known)) is not None]
    if heads:
        listed[HEADS] = (heads, listed["attention"][1] if "attention" in listed else 0.0)
    if others := other_truths(study.truths, truth):
        listed["hub degree of the other references"] = ([hub_degree(study, truth, others)], 0.0)
    listed["hub degree of this reference"] = ([hub_degree(study, truth, [])], 0.0)
    out: Table = {}
    for label, (found, seconds) in listed.items():
        try:
            scored = [score_network(scores, known) for scores in found]
        except ModelInputError:
            return {}
        q_values = [regulon_enrichment(scores, known)["q"].to_numpy(dtype=np.float64) for scores in found]
        out[label] = Told(scored, [float((q < 0.05).mean()) if len(q) else 0.0 for q in q_values], seconds)
    return out


def _rows(rows: dict[str, list[dict[str, Any]]], study: NetworkStudy, truth: str, told: Table) -> None:
    """Add the rows of one set of cells beside one reference."""
    from benchmarks.network_methods import HEADS, VARIANTS
    from benchmarks.network_verdicts import compared, verdict, words
    from model.grn_scores import BY_NAME

    where = {"cells": study.name, "reference": truth}
    first, variants = next(iter(told.values())).scores[0], {one.label for one in VARIANTS}
    rows["what is scored"].append({
        "table": "what is scored", **where, "kind": study.truths[truth].kind, **first.universe,
        "density": f"{first.density:.4f}", "licence": study.truths[truth].licence,
    })  # fmt: skip
    for label, one in told.items():
        if label not in variants:
            rows["all"].append({"table": f"{study.name}: {truth}", "method": label, **one.row()})
    for title, pairs in ARGUMENTS.items():
        for one, other in pairs:
            if one in told and other in told:
                rows[title].append({
                    "table": title, **where, "kind": study.truths[truth].kind, "this": one, "against": other,
                    **{name: told[label].row()["AP / chance"] for name, label in
                       (("AP / chance of this", one), ("AP / chance of the other", other))},
                    "text": f"per regulator {words(compared(told[one], told[other]))}",
                })  # fmt: skip
    ours = [name for name in BY_NAME if BY_NAME[name].needs_model] + [HEADS]
    rows["verdict"].append({"table": "verdict", **where, "text": verdict(told, ours, SIMPLE)})


def _whole(rows: dict[str, list[dict[str, Any]]], bench: Bench, study: NetworkStudy) -> None:
    """Add what methods that take seconds say of all genes and cells, beside the first two references."""
    from benchmarks.network_methods import Method
    from benchmarks.network_verdicts import Told
    from model.grn_metrics import regulon_enrichment, score_network
    from model.grn_query import usable_genes

    numbers = np.arange(len(study.cells), dtype=np.int64)
    usable = set(usable_genes(bench.model, study.cells, numbers))
    for truth in list(study.truths)[:2]:
        known = study.truths[truth]
        sides = {side: tuple(g for g in getattr(known, side) if g in usable) for side in ("regulators", "targets")}
        whole = replace(study, **sides)
        for readout in WHOLE:
            scores, seconds = bench.ask(whole, Method(f"{readout}, whole", readout), numbers)
            enriched = float((regulon_enrichment(scores, known)["q"] < 0.05).mean())
            told = Told([score_network(scores, known)], [enriched], seconds)
            size = told.scores[0].universe
            where = {"cells": study.name, "reference": f"{truth}: {size['regulators']} x {size['targets']}"}
            rows["whole"].append({"table": "all genes and cells", **where, "method": readout, **told.row()})


def _hubs(rows: dict[str, list[dict[str, Any]]], bench: Bench, study: NetworkStudy, numbers: Any) -> None:
    """Add whether transcription factors are the hubs, and markers of a cell type the most regulated genes.

    Among genes of one cut of expression: factors that fewer cells express would be told by that.
    """
    from benchmarks.network_cells import alike_expressed, factors, markers
    from benchmarks.network_methods import SQUARES, Method
    from model import ModelInputError
    from model.enrichment import enrich
    from model.grn_metrics import hub_strengths, rank_enrichment

    study = alike_expressed(study)
    known = np.isin(np.array(study.genes, dtype=object), list(factors(study.organism)))
    sets = markers(study.organism)
    for readout in SQUARES:
        try:
            scores, _ = bench.ask(study, Method(f"{readout}, hubs", readout, square=True), numbers)
        except ModelInputError:
            continue
        out, into = hub_strengths(scores), hub_strengths(scores, "targets")
        row: dict[str, Any] = {"table": "hubs and markers", "cells": study.name, "method": readout}
        for name, strength in (("as regulators", out), ("as targets", into)):
            found = rank_enrichment(strength, known)
            row[f"factors {name}"] = f"{found['auroc']:.2f} (p = {found['p']:.2g})"
        told = enrich(study.genes, into, sets) if sets else None
        called = 0 if told is None else int(((told["q_rank"] < 0.05) & (told["auc"] > 0.5)).sum())
        row["marker sets with q < 0.05"] = "no list" if told is None else f"{called} of {len(told)}"
        rows["hubs"].append(row)


def _transfer(rows: dict[str, list[dict[str, Any]]], bench: Bench, study: NetworkStudy, most: int) -> None:
    """Add what heads chosen on one of the two largest cell types are worth on the other, on genes they never saw."""
    from benchmarks.network_cells import narrowed
    from benchmarks.network_methods import some_of
    from benchmarks.network_verdicts import Told, compared, words
    from model import ModelInputError
    from model.grn_metrics import score_network
    from model.grn_scores import EdgeScores
    from model.head_transfer import transferred_scores

    names, sizes = np.unique(np.array(study.types, dtype=object), return_counts=True)
    largest = [str(name) for name in names[np.argsort(-sizes, kind="stable")][:2]]
    numbers = {name: np.flatnonzero(np.array(study.types, dtype=object) == name) for name in largest}
    if len(largest) < 2 or not (maps := _maps(bench, study, [some_of(numbers[name], most) for name in largest])):
        return
    for truth in study.truths:
        known = narrowed(study.truths[truth], study)
        for here, there in ((0, 1), (1, 0)):
            try:
                values, _ = transferred_scores(maps[here], known, maps[there])
                heads = maps[there].values.reshape(-1, *values.shape)
                drawn = [heads[np.random.default_rng(seed).permutation(len(heads))[:3]] for seed in range(RANDOM)]
                every = {"chosen": [values], "all": [heads.mean(0)], "random": [some.mean(0) for some in drawn]}
                told = {
                    name: Told([score_network(EdgeScores(study.regulators, study.targets, one, None), known)
                                for one in found], [0.0], 0.0)
                    for name, found in every.items()
                }  # fmt: skip
            except ModelInputError as error:
                print(f"  heads of {largest[here]} for {largest[there]}, {truth}: {error}", flush=True)
                continue
            rows["transfer"].append({
                "table": "heads chosen on one cell type, scored on another", "cells": study.name, "reference": truth,
                "chosen on": largest[here], "scored on": largest[there],
                **{f"{name} heads": one.row()["AP / chance per regulator"] for name, one in told.items()},
                "text": f"chosen against all: {words(compared(told['chosen'], told['all']))}; "
                f"against random: {words(compared(told['chosen'], told['random']))}",
            })  # fmt: skip


def _called(
    rows: dict[str, list[dict[str, Any]]], bench: Bench, study: NetworkStudy, numbers: Any, how: tuple[int, bool]
) -> None:
    """Add how many edges are called on real cells and, of some sets, on shuffled ones; and what is known of them."""
    from benchmarks.network_cells import narrowed
    from benchmarks.network_methods import TESTED, Method, Significance
    from benchmarks.network_verdicts import called_beside
    from model import ModelInputError
    from model.grn_scores import EdgeScores

    permutations, shuffled_too = how
    known = {name: narrowed(truth, study) for name, truth in study.truths.items()}
    for readout in TESTED:
        for name in ("real", "shuffled") if shuffled_too else ("real",):
            way = Significance(permutations, name == "shuffled")
            try:
                found = bench.significance(study, Method(readout, readout), numbers, way)
            except ModelInputError:
                continue
            p_values, there = found["p_values"], np.isfinite(found["p_values"])
            called = {rate: np.nan_to_num(found["q_values"], nan=np.inf) <= rate for rate in RATES}
            rows["nulls"].append({
                "table": "edges that are called", "cells": f"{study.name}, {len(numbers)} {name}", "method": readout,
                "edges": int(there.sum()), "p at most 0.05": f"{(p_values[there] <= 0.05).mean():.3f}",
                **{f"called at {rate:.0%}": int(one.sum()) for rate, one in called.items()},
            })  # fmt: skip
            for truth, mine in known.items() if name == "real" else ():
                of = {rate: EdgeScores(study.regulators, study.targets, np.where(there, one, np.nan), None)
                      for rate, one in called.items()}  # fmt: skip
                rows["called"] += [
                    {"table": "called edges beside references", "cells": study.name, "reference": truth,
                     "method": readout, "at": f"{rate:.0%}", **told}
                    for rate, scores in of.items() if (told := called_beside(scores, mine))
                ]  # fmt: skip


def _claims(study: NetworkStudy, tables: Mapping[str, Table]) -> list[dict[str, Any]]:
    """Return what two references or more bear out of the model's read-outs against two that are named beforehand."""
    from benchmarks.network_cells import other_truths
    from benchmarks.network_methods import HEADS
    from benchmarks.network_verdicts import claim
    from model.grn_scores import BY_NAME

    tables = {truth: told for truth, told in tables.items() if told}
    apart = {truth: set(other_truths(study.truths, truth)) for truth in tables}
    ours = [name for name in BY_NAME if BY_NAME[name].needs_model] + [HEADS]
    pairs = [(name, "pearson") for name in ours] + [(name, "mean_product") for name in (*ours, "pearson")]
    return [
        {"this": one, "against": other, "text": claim(tables, (one, other), apart)}
        for one, other in pairs
        if any(one in told and other in told for told in tables.values())
    ]
