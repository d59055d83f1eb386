"""Which split a group of cells is in: dealt by a seeded hash of the group's own name, or pinned by hand.

Names in, splits out; `releases` counts the cells and writes them. A group is never parted, and no other group has a say
in where it goes, so adding datasets moves nothing. Loaders take these splits as they are and draw none of their own.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import re
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, get_args

from ontology import get_organism

from .errors import CatalogInputError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

SplitBy = Literal["donor", "dataset", "organism"]
SPLITS = (("train", 0.8), ("validation", 0.1), ("test", 0.1))  # shares of groups; the field's habit
SPLIT_NAMES = tuple(name for name, _ in SPLITS)
PIN = "donor:DATASET/DONOR, dataset:NAME or organism:NAME"
_NARROWEST_FIRST = get_args(SplitBy)
_RESOLVER = re.compile(r"(https?://(dx\.)?doi\.org/|doi:\s*)", re.IGNORECASE)
_SHOWN = 12  # names of a list that an error shows


@dataclass(frozen=True)
class Population:
    """The cells of one donor in one dataset: what no split parts."""

    organism: str
    """Organism, e.g. Homo sapiens."""
    dataset_id: str
    """Dataset."""
    donor_id: str
    """Donor as the dataset names it; `unknown` for cells without one."""
    publication: str
    """From `publication_of`; empty where the dataset names none."""
    cells: int
    """Cells."""
    loadable: int
    """Those that loaders draw: they pass QC and are no copies."""

    def group(self, by: SplitBy) -> tuple[str, ...]:
        """Return the name of the group it belongs to; a publication's datasets share their donors."""
        study = (self.publication, self.organism) if self.publication else (self.dataset_id,)
        return {"donor": (*study, self.donor_id), "dataset": study, "organism": (self.organism,)}[by]

    def named(self, kind: SplitBy) -> str:
        """Return the pin that names its donor, dataset or organism."""
        names = {"donor": f"{self.dataset_id}/{self.donor_id}", "dataset": self.dataset_id, "organism": self.organism}
        return f"{kind}:{names[kind]}"


@dataclass(frozen=True)
class SplitPlan:
    """How cells are parted: by what, from which seed, and what is pinned where."""

    by: SplitBy = "donor"
    """What stays together: a donor, a dataset (each over all datasets of its publication), or an organism."""
    seed: int = 0
    """The same seed puts the same group into the same split in every release."""
    pins: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Split to `donor:DATASET/DONOR`, `dataset:NAME` or `organism:NAME`; the narrower pin wins."""

    def __post_init__(self) -> None:
        """Refuse what cannot be a plan before anything is read."""
        if self.by not in _NARROWEST_FIRST:
            raise CatalogInputError("split_by", self.by, "donor, dataset or organism")
        if wrong := [name for name in self.pins if name not in SPLIT_NAMES]:
            raise CatalogInputError("pins", wrong[0], ", ".join(SPLIT_NAMES))
        describe_pins(self)


@dataclass(frozen=True)
class Place:
    """Where a population is."""

    population: Population
    """The cells."""
    group: str
    """Name of the group, its parts joined by `/`."""
    split: str
    """Split of the group."""
    pin: str = ""
    """The pin that says so; empty where it is the seed."""

    @property
    def pinned(self) -> bool:
        """True where a pin says so and not the seed."""
        return bool(self.pin)


def publication_of(doi: str, collection_id: str) -> str:
    """Return the name of a dataset's publication, the same however its DOI is written; empty where it has none.

    Examples
    --------
    >>> publication_of("https://doi.org/10.1016/J.CELS.2016.08.011", "")
    'doi:10.1016/j.cels.2016.08.011'
    """
    plain = _RESOLVER.sub("", doi.strip(), count=1).strip().lower()  # DOIs do not tell upper from lower case
    collection = collection_id.strip()
    return f"doi:{plain}" if plain else f"collection:{collection}" if collection else ""


def split_of(seed: int, group: tuple[str, ...]) -> str:
    """Return the split of a group of cells: by its own name and the seed only, so that other groups never matter.

    Examples
    --------
    >>> split_of(0, ("baron_human", "human1")) == split_of(0, ("baron_human", "human1"))
    True
    """
    digest = hashlib.sha256(json.dumps([seed, *group], ensure_ascii=True).encode()).digest()
    point = int.from_bytes(digest[:8], "big") / 2**64
    for name, share in SPLITS:
        if point < share:
            return name
        point -= share
    return SPLITS[-1][0]


def assign_splits(plan: SplitPlan, populations: Sequence[Population]) -> list[Place]:
    """Return where every population is, in the order given.

    Raises
    ------
    CatalogInputError
        If a pin names nothing of the atlas, would part a group, or contradicts another.
    """
    pinned = _pinned_groups(plan, populations)
    places = []
    for population in populations:
        group = population.group(plan.by)
        pin = pinned.get(group)
        split, said = pin or (split_of(plan.seed, group), "")
        places.append(Place(population, join_group(group), split, said))
    return places


def join_group(parts: Sequence[str]) -> str:
    """Return a group's name as one text; no two groups share it.

    Examples
    --------
    >>> join_group(("doi:10.1/x", "Homo sapiens", "donor 1"))
    'doi:10.1%2Fx/Homo sapiens/donor 1'
    """
    return "/".join(part.replace("%", "%25").replace("/", "%2F") for part in parts)


def describe_pins(plan: SplitPlan) -> dict[str, list[str]]:
    """Return the pins of each split as the manifest keeps them: spelled one way, sorted."""
    return {name: sorted({_spell(name, pin) for pin in plan.pins.get(name, ())}) for name in SPLIT_NAMES}


def describe_places(places: Sequence[Place]) -> dict[str, dict[str, int]]:
    """Return cells, loadable cells and groups per split."""
    cells, loadable = Counter[str](), Counter[str]()
    for place in places:
        cells[place.split] += place.population.cells
        loadable[place.split] += place.population.loadable
    groups = Counter(split for _, split in {(place.group, place.split) for place in places})
    return {
        what: {name: counts[name] for name in SPLIT_NAMES}
        for what, counts in (("cells", cells), ("loadable", loadable), ("groups", groups))
    }


def _pinned_groups(plan: SplitPlan, populations: Sequence[Population]) -> dict[tuple[str, ...], tuple[str, str]]:
    """Return split and pin of every group that is pinned."""
    pins = [(pin, split) for split, named in describe_pins(plan).items() for pin in named]
    pins.sort(key=lambda p: -_NARROWEST_FIRST.index(_kind(p[0])))  # a narrower pin comes later and replaces a wider one
    found: dict[tuple[str, ...], tuple[str, str]] = {}
    for pin, split in pins:
        kind = _kind(pin)
        if _NARROWEST_FIRST.index(kind) < _NARROWEST_FIRST.index(plan.by):
            raise CatalogInputError(split, pin, f"a pin of a whole {plan.by} or more, which is what stays together")
        groups = {p.group(plan.by) for p in populations if p.named(kind) == pin}
        if not groups:
            raise CatalogInputError(split, pin, _offer(pin, {p.named(kind) for p in populations}))
        for group in sorted(groups):
            before = found.get(group)
            if before and before[0] != split and _kind(before[1]) == kind:
                shared = f"one split for {join_group(group)!r}, which --{before[0]} {before[1]} pins too"
                raise CatalogInputError(split, pin, shared)
            found[group] = (split, pin)
    return found


def _kind(pin: str) -> Any:
    return pin.partition(":")[0]


def _spell(split: str, pin: str) -> str:
    """Return a pin with its organism spelled as obs does."""
    kind, _, name = pin.partition(":")
    if kind not in _NARROWEST_FIRST or not name:
        raise CatalogInputError(split, pin, PIN)
    return f"organism:{get_organism(name).label}" if kind == "organism" else pin


def _offer(pin: str, known: set[str]) -> str:
    """Return what a pin may name, the nearest first."""
    near = difflib.get_close_matches(pin, sorted(known), n=_SHOWN)
    names = [*near, *sorted(known - set(near))][:_SHOWN]
    rest = f" and {len(known) - len(names)} more" if len(known) > len(names) else ""
    return f"a name the atlas has; it has {', '.join(names)}{rest}"
