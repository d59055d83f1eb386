"""The classes of a label: `LabelSpace`, made of an ontology and the ids in use, the same wherever it is made.

A leaf is an id in use with no other id in use below it; every other class is coarse, the set of its leaves. A cell
labelled `T cell` where `CD4 T cell` and `CD8 T cell` are in use may be either of them, and is no `B cell`: `targets`
says what such a cell teaches. A study that names T cells beside CD4 T cells means those that are no CD4 T cells: such
ids can be set `apart`, and are leaves. Ids come from terms.py; the model's classifier and the release manifests use the
space.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from .errors import OntologyInputError, ReferenceMismatchError, UnknownTermError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from .terms import Ontology

UNKNOWN = -1
"""Code of a cell without a class."""
WITHOUT_TERM = frozenset({"unknown", "na", ""})
"""What the schema writes where no term is known; never a class, always `UNKNOWN`."""
_Ids = TypeVar("_Ids", tuple[str, ...], list[str])
FORMAT = "panatlas label space 1"
CLASS_LIMIT = 20_000
"""Most classes of a space, whose matrix then has 400 MB; CL has 3,596 terms in all."""


@dataclass(frozen=True, eq=False)
class LabelSpace:
    """The classes of one label, leaves first, with what lies above what. Equal where the digest is equal.

    Examples
    --------
    >>> from ontology import load_ontology
    >>> space = make_label_space(load_ontology("CL"), ["CL:0000084", "CL:0000624", "CL:0000625", "CL:0000236"])
    >>> space.leaves, space.classes[3:]
    (('CL:0000236', 'CL:0000624', 'CL:0000625'), ('CL:0000084',))
    >>> space.encode(["CL:0000625", "unknown", "CL:0000084"])
    array([ 2, -1,  3], dtype=int32)
    >>> space.below.astype(int)
    array([[1, 0, 0],
           [0, 1, 0],
           [0, 0, 1],
           [0, 1, 1]])
    """

    classes: tuple[str, ...]
    """Term ids by code: the leaves in ascending order, then the coarse ones in ascending order."""
    labels: tuple[str, ...]
    """Preferred name per class, for people; no part of the digest."""
    n_leaves: int
    """How many classes are leaves."""
    above: np.ndarray
    """bool [class, class]: column is an ancestor of row; nothing is its own."""
    release: str
    """Ontologies it was made from, e.g. `CL v2026-03-26`; no part of the digest."""

    def __len__(self) -> int:
        """Return the number of classes."""
        return len(self.classes)

    def __eq__(self, other: object) -> bool:
        """Compare classes and hierarchy."""
        return isinstance(other, LabelSpace) and self.digest == other.digest

    def __hash__(self) -> int:
        """Hash by digest."""
        return hash(self.digest)

    @property
    def leaves(self) -> tuple[str, ...]:
        """Return the ids of the leaves, by code."""
        return self.classes[: self.n_leaves]

    @cached_property
    def below(self) -> np.ndarray:
        """Return bool [class, leaf]: the leaf is the class, or lies below it."""
        below = self.above.T[:, : self.n_leaves].copy()
        below[np.arange(self.n_leaves), np.arange(self.n_leaves)] = True
        return below

    @cached_property
    def digest(self) -> str:
        """Return a sha256 of classes and hierarchy: the same ids and links give it in any process, in any order."""
        rows = [[self.classes[c] for c in np.flatnonzero(row)] for row in self.above]
        said = json.dumps([FORMAT, self.n_leaves, list(zip(self.classes, rows, strict=True))], separators=(",", ":"))
        return hashlib.sha256(said.encode()).hexdigest()

    def encode(self, term_ids: Iterable[str | None], *, strict: bool = True) -> np.ndarray:
        """Return codes, int32; `UNKNOWN` for `unknown`, `na`, empty and None.

        Parameters
        ----------
        term_ids
            One per cell.
        strict
            Refuse ids that are no class; otherwise they are `UNKNOWN` too.

        Raises
        ------
        UnknownTermError
            When `strict`, naming the first id that is no class.
        """
        return np.array([self._code(term_id, strict=strict) for term_id in term_ids], dtype=np.int32)

    def decode(self, codes: Iterable[int]) -> tuple[str, ...]:
        """Return the ids of codes; `unknown` for `UNKNOWN`.

        Raises
        ------
        OntologyInputError
            When a code is no class.
        """
        found = [int(code) for code in codes]
        if wrong := [code for code in found if not UNKNOWN <= code < len(self)]:
            raise OntologyInputError("codes", wrong[0], f"-1 to {len(self) - 1}")
        return tuple("unknown" if code == UNKNOWN else self.classes[code] for code in found)

    def targets(self, term_id: str | None) -> tuple[np.ndarray, np.ndarray]:
        """Return what a cell of this label says of each class: (positive, unknown), bool [class]; the rest is negative.

        Positive are the class and its ancestors in use. Unknown is what the cell may be besides: the classes below it,
        and those that share a leaf with it. Of a cell without a term everything is unknown.
        """
        code = self._code(term_id, strict=True)
        if code == UNKNOWN:
            return np.zeros(len(self), bool), np.ones(len(self), bool)
        return self.positive[code], self.unknown[code]

    def leaf_targets(self, term_id: str | None) -> np.ndarray:
        """Return bool [leaf]: the leaves a cell of this label may be; their probabilities add up to the label's."""
        code = self._code(term_id, strict=True)
        return np.ones(self.n_leaves, bool) if code == UNKNOWN else self.below[code]

    @cached_property
    def positive(self) -> np.ndarray:
        """Return bool [class, class]: a cell of the row's class is of the column's too."""
        return self.above | np.eye(len(self), dtype=bool)

    @cached_property
    def unknown(self) -> np.ndarray:
        """Return bool [class, class]: a cell of the row's class may or may not be of the column's."""
        leaves = self.below.astype(np.float32)
        return (leaves @ leaves.T > 0) & ~self.positive

    def to_json(self) -> str:
        """Return the space as JSON text, the same for equal spaces of one release."""
        rows = [np.flatnonzero(row).tolist() for row in self.above]
        said = {
            "format": FORMAT,
            "digest": self.digest,
            "release": self.release,
            "n_leaves": self.n_leaves,
            "classes": list(self.classes),
            "labels": list(self.labels),
            "above": rows,
        }
        return json.dumps(said, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> LabelSpace:
        """Return the space that `to_json` wrote.

        Raises
        ------
        OntologyInputError
            When the text is no label space.
        ReferenceMismatchError
            When it is not the one its digest names.
        """
        try:
            said = json.loads(text)
            if said["format"] != FORMAT:
                raise OntologyInputError("format", said["format"], FORMAT)
            classes = _few(tuple(map(str, said["classes"])))
            above = np.zeros((len(classes), len(classes)), bool)
            for code, row in enumerate(said["above"]):
                above[code, row] = True
            made = cls(classes, tuple(map(str, said["labels"])), int(said["n_leaves"]), above, str(said["release"]))
            digest = str(said["digest"])
        except (ValueError, LookupError, TypeError, RecursionError) as error:
            if isinstance(error, OntologyInputError):
                raise
            raise OntologyInputError("label space", text[:40], f"JSON of LabelSpace.to_json ({error})"[:200]) from error
        if made.digest != digest or len(made.labels) != len(made):
            raise ReferenceMismatchError("the label space", f"sha256 {digest}", f"sha256 {made.digest}")
        return made

    @cached_property
    def _codes(self) -> dict[str, int]:
        return {term_id: code for code, term_id in enumerate(self.classes)}

    def _code(self, term_id: str | None, *, strict: bool) -> int:
        # What tables turn an empty cell into is not a string: None, NaN, NA.
        if not isinstance(term_id, str) or term_id in WITHOUT_TERM:
            return UNKNOWN
        code = self._codes.get(term_id)
        if code is None and strict:
            raise UnknownTermError(term_id, f"the label space of {self.release}")
        return UNKNOWN if code is None else code


def make_label_space(
    ontology: Ontology | Sequence[Ontology], term_ids: Iterable[str | None], apart: Iterable[str] = ()
) -> LabelSpace:
    """Return the label space of the ids in use.

    Parameters
    ----------
    ontology
        Where their ancestors stand; several for a label that draws on several (cell types of fly: CL and FBbt). Nothing
        of one lies above anything of another.
    term_ids
        Ids in use, repeated or not, in any order; `unknown`, `na`, empty and missing ones are left out.
    apart
        Those among them that mean what is left beside their kinds: leaves, with nothing below them.

    Raises
    ------
    UnknownTermError
        When an id is in none of the ontologies.
    OntologyInputError
        When there are more than `CLASS_LIMIT` ids.
    """
    # A mapping is the ontology itself; anything else is several.
    ontologies = (ontology,) if hasattr(ontology, "ancestors") else tuple(ontology)
    used = _few(sorted({i for i in term_ids if isinstance(i, str) and i not in WITHOUT_TERM}))
    release = "; ".join(one.release for one in ontologies)
    higher = set(used).difference(apart)
    lines: dict[str, set[str]] = {}
    labels: dict[str, str] = {}
    for term_id in used:
        home = next((one for one in ontologies if term_id in one), None)
        if home is None:
            raise UnknownTermError(term_id, release)
        lines[term_id] = set(home.ancestors(term_id)).intersection(higher)
        labels[term_id] = home.label(term_id)
    coarse = set().union(*lines.values())
    classes = tuple([i for i in used if i not in coarse] + [i for i in used if i in coarse])
    codes = {term_id: code for code, term_id in enumerate(classes)}
    above = np.zeros((len(classes), len(classes)), bool)
    for term_id, line in lines.items():
        above[codes[term_id], [codes[i] for i in line]] = True
    return LabelSpace(classes, tuple(labels[i] for i in classes), len(used) - len(coarse), above, release)


def _few(classes: _Ids) -> _Ids:
    """Return the classes, or refuse more than a matrix can hold."""
    if len(classes) > CLASS_LIMIT:
        raise OntologyInputError("term_ids", f"{len(classes)} ids", f"at most {CLASS_LIMIT}")
    return classes
