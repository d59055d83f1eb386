"""How the author labels of real files map: share of cells and of texts by rule, every miss, ids kept, suggestions.

Reads every h5ad and 10x file of a folder (by default `../shared/data` beside the checkout; where there is none, the
starter sources), with columns and constants of tests/golden/real_sources.toml where it names the file. Shares are of
cells that say something; a label nobody states is not counted. `unmapped` rows are the misses, each with its reason.

`agreement` rows hold what a rule makes of the author's text against the id the same cell carries: same, broader or
narrower, or contradicting. `suggestions` rows ask how often the right term is among the first five for texts whose
answer is known; the shorthand table of ontology/suggest.py was written with these texts in view, so they flatter.
`synonyms held out` are not: each is taken out of the index before it is asked for.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pandas as pd

    from atlas import Source

SEED = 0
READS = ("data/*",)
HELD_OUT = 400  # synonyms of CL that are asked for without themselves
ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT.parent / "shared" / "data"
MANIFEST = ROOT / "tests" / "golden" / "real_sources.toml"


def sources(folder: Path) -> Iterator[Source]:
    """Yield the files of a folder as sources of organisms that are known, the manifest's first."""
    from atlas import Source, load_manifest, starter_sources
    from atlas.provenance import read_obs
    from ontology import OntologyError, get_organism

    if not folder.is_dir():
        yield from (*starter_sources("human"), *starter_sources("mouse"))
        return
    with tempfile.TemporaryDirectory() as scratch:
        manifest = Path(scratch) / "manifest.toml"
        manifest.write_text(MANIFEST.read_text("utf-8").replace("{data}", str(folder)))
        named = [source for source in load_manifest(manifest) if Path(source.uri).exists()]
    yield from named
    for path in sorted(folder.glob("*.h5ad")):
        if str(path) in {source.uri for source in named}:
            continue
        obs = read_obs(path)
        said = next((obs[c].iloc[0] for c in ("organism_ontology_term_id", "organism") if c in obs), "")
        try:
            yield Source(organism=get_organism(str(said)).name, uri=str(path), id=path.stem)
        except OntologyError:
            continue  # an organism no table knows


def labelled(source: Source) -> tuple[pd.DataFrame, Any]:
    """Return a source's standardised labels, and its obs."""
    from atlas.fetch import fetch_source
    from atlas.read import open_source
    from atlas.standardise import standardise_labels
    from ontology import get_organism

    with open_source(source, fetch_source(source)) as cells:
        return standardise_labels(source, cells, get_organism(source.organism)), cells.obs.copy()


def main(folder: Path = DATA, *, quick: bool = False) -> list[dict[str, Any]]:
    """Return the rows: per label, per file with ids, misses, agreement, suggestions."""
    from atlas.schema import LABEL_COLUMN
    from ontology import LABELS

    cells: dict[str, Counter[str]] = {label: Counter() for label in LABELS}
    texts: dict[str, set[tuple[str, str, str]]] = {label: set() for label in LABELS}
    misses: Counter[tuple[str, str, str, str]] = Counter()
    agreed: Counter[tuple[str, str]] = Counter()
    kept: list[dict[str, Any]] = []
    for source in list(sources(folder))[: 3 if quick else None]:
        labels, obs = labelled(source)
        frame = labels.frame
        for label in LABELS[:-1]:
            how = frame[f"{label}_match"]
            said = frame[f"author_{label}"]
            pairs = frame.assign(said=said, how=how).groupby(["said", "how"], observed=True).size()
            for (text, one), n in pairs.items():
                if one == "missing":
                    continue
                cells[label][one] += int(n)
                texts[label].add((source.organism, text, one))
                if one == "unmapped":
                    misses[label, source.organism, str(source.id), text] += int(n)
            kept += _kept(source, label, obs, frame, LABEL_COLUMN.get(label, label))
        _agree(source, obs, agreed)
    return [
        *(row for label in LABELS[:-1] for row in _shares(label, cells[label], texts[label])),
        *kept,
        *_misses(misses),
        *(
            {"what": "agreement of text with id", "how": rule, "outcome": outcome, "texts": n}
            for (rule, outcome), n in sorted(agreed.items())
        ),
        *_suggestions(),
        _held_out(quick=quick),
    ]


def _shares(label: str, cells: Counter[str], texts: set[tuple[str, str, str]]) -> Iterator[dict[str, Any]]:
    """Yield one row a label and way of matching."""
    distinct = Counter(how for _, _, how in texts)
    for how, n in sorted(cells.items()):
        yield {
            "what": "mapped", "label": label, "how": how, "cells": n, "cells_share": round(n / cells.total(), 4),
            "texts": distinct[how], "texts_share": round(distinct[how] / distinct.total(), 4),
        }  # fmt: skip


def _kept(source: Source, label: str, obs: pd.DataFrame, frame: pd.DataFrame, column: str) -> Iterator[dict[str, Any]]:
    """Yield one row for a file's ids of a label: how many cells keep them, how many move to a replacement."""
    given = f"{label}_ontology_term_id"
    if given not in obs.columns or given in source.columns or given in source.constants:
        return
    ids = obs[given].astype(str).to_numpy()
    stored = frame[f"{column}_ontology_term_id"].to_numpy().astype(str)
    real = ~np.isin(ids, ["unknown", "na", "nan", ""])
    if real.any():
        yield {
            "what": "ids", "file": source.id, "label": label, "cells": int(real.sum()),
            "verbatim": round(float((ids == stored)[real].mean()), 4),
            "replaced": int((frame[f"{label}_match"].to_numpy() == "replaced")[real].sum()),
        }  # fmt: skip


def _misses(misses: Counter[tuple[str, str, str, str]]) -> Iterator[dict[str, Any]]:
    from ontology import harmonise

    for (label, organism, file, text), n in sorted(misses.items()):
        reason = harmonise(label, [text], organism)[text].reason
        yield {
            "what": "miss", "label": label, "file": file, "organism": organism, "text": text, "cells": n,
            "reason": reason,
        }  # fmt: skip


def _agree(source: Source, obs: pd.DataFrame, agreed: Counter[tuple[str, str]]) -> None:
    """Count how the author's text, by each rule, stands to the id beside it."""
    from ontology import harmonise

    text = next((c for c in ("author_cell_type", "cell_type") if c in obs.columns), None)
    if text is None or "cell_type_ontology_term_id" not in obs.columns:
        return
    pairs = obs[[text, "cell_type_ontology_term_id"]].astype(str).drop_duplicates().to_numpy().tolist()
    by_text = harmonise("cell_type", [t for t, _ in pairs], source.organism, suggestions=0)
    by_id = harmonise("cell_type", [i for _, i in pairs], source.organism, suggestions=0)
    for words, term_id in pairs:
        left, right = by_text[words], by_id[term_id]
        if left.mapped and right.mapped:
            same = left.term_id == right.term_id
            agreed[
                left.how, "same" if same else "contradicts" if left.contradicts(right) else "broader or narrower"
            ] += 1


def _suggestions() -> Iterator[dict[str, Any]]:
    """Yield one row a label: shipped overrides as texts with known answers, their own rule not used."""
    from ontology import LABELS, get_organism
    from ontology.overrides import load_overrides
    from ontology.suggest import suggest

    for label in LABELS:
        found: Counter[str] = Counter()
        for row in load_overrides(label) if label != "cell_culture" else ():
            organism = get_organism("human" if row.organism == "*" else row.organism)
            near = [i for i, _ in suggest(label, row.text, organism)]
            found.update(texts=1, first=row.term_id in near[:1], among_five=row.term_id in near)
        if found:
            yield {"what": "suggestions, overrides as answers", "label": label, **found}


def _held_out(*, quick: bool) -> dict[str, Any]:
    """Return how often a term is suggested for one of its synonyms when that synonym is not in the index."""
    from ontology import load_ontology, suggest

    cl = load_ontology("CL")
    current = [i for i in cl if not cl[i].obsolete]
    pool = [(i, s) for i in current for s in cl[i].synonyms[:20] if cl.by_synonym(s) == (i,) and not cl.by_label(s)]
    picks = np.random.default_rng(SEED).permutation(len(pool))[: 40 if quick else HELD_OUT]
    names = suggest.read_names(cl)
    found: Counter[str] = Counter()
    for term_id, text in (pool[i] for i in picks):
        own = list(dict.fromkeys((cl.label(term_id), *cl[term_id].synonyms[:20])))
        weight = names.weight.copy()
        weight[names.terms.index(term_id) + own.index(text)] = np.inf  # a name of endless weight is like nothing
        near = [i for i, _ in suggest._ranked(replace(names, weight=weight), text)][:5]
        found.update(texts=1, first=term_id in near[:1], among_five=term_id in near)
    return {"what": "suggestions, synonyms held out", "label": "cell_type", **found}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path, default=DATA)
    parser.add_argument("--quick", action="store_true")
    asked = parser.parse_args()
    json.dump(main(asked.folder, quick=asked.quick), sys.stdout, indent=1)
