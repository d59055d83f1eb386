"""`Vocabulary`: what the numbers of a batch mean: organisms, gene tokens, classes. Hashed, and in every checkpoint.

A token is a gene of an organism; tokens are numbered in the order in which organisms, and later further genes, came.
Nothing already numbered ever moves: a checkpoint takes a new organism by adding rows at the end. Classes of a label
are ordered by LabelSpace, leaves first, so new classes do move old ones: `moved_classes` says where to. Made of cells
by cell_vocabulary.py; the collator encodes with it, and the model builds its tables and heads after it.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from ontology import LabelSpace, write_whole

from .errors import LoaderInputError, VocabularyError
from .label_classes import NO_CLASS, check_classes, make_classes

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import torch

Codes = npt.NDArray[np.int32]
FORMAT = "panatlas vocabulary 1"
MOST_GENES = 2**31 - 1
"""Tokens are int32."""


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """Organisms, genes and classes by number. Equal where the digest is equal.

    Raises
    ------
    VocabularyError
        When an organism or a gene of one is named twice, or the parts do not fit each other.

    Examples
    --------
    >>> words = Vocabulary(("homo_sapiens", "mus_musculus"), (("ENSG01", "ENSG02"), ("ENSMUSG01",)))
    >>> words.n_genes, words.gene_tokens("mus_musculus", ["ENSMUSG01", "ENSG01"])
    (3, array([ 2, -1], dtype=int32))
    >>> more = words.with_organism("homo_sapiens", ["ENSG03"])
    >>> more.gene_tokens("homo_sapiens", ["ENSG02", "ENSG03"]), more.gene_tokens("mus_musculus", ["ENSMUSG01"])
    (array([1, 3], dtype=int32), array([2], dtype=int32))
    """

    organisms: tuple[str, ...]
    """Experiment names, such as homo_sapiens; the number of an organism is its position."""
    genes: tuple[tuple[str, ...], ...]
    """Feature ids of each organism, in the order of their tokens."""
    labels: Mapping[str, LabelSpace] = field(default_factory=dict)
    """Classes by label; the order is that of the columns of a batch's labels."""
    tokens: Mapping[str, Any] | None = None
    """Which file of gene tokens a model reads (name, sha256), set by the model; JSON values."""
    blocks: tuple[tuple[int, int], ...] | None = None
    """(number of the organism, genes) of each run of tokens; None for one run per organism, in order."""

    def __post_init__(self) -> None:
        if self.blocks is None:
            runs = tuple((number, len(ids)) for number, ids in enumerate(self.genes))
            object.__setattr__(self, "blocks", runs)
        object.__setattr__(self, "labels", MappingProxyType(dict(self.labels)))
        if self.tokens is not None:
            object.__setattr__(self, "tokens", MappingProxyType(dict(self.tokens)))
        _check_genes(self)
        for label, space in self.labels.items():
            check_classes(label, space)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle by content: read-only mappings do not pickle, and lookups are made anew."""
        tokens = None if self.tokens is None else dict(self.tokens)
        return Vocabulary, (self.organisms, self.genes, dict(self.labels), tokens, self.blocks)

    def __eq__(self, other: object) -> bool:
        """Compare content."""
        return isinstance(other, Vocabulary) and self.digest == other.digest

    def __hash__(self) -> int:
        """Hash by digest."""
        return hash(self.digest)

    def __repr__(self) -> str:
        """Return a one-line summary; the genes would fill a screen."""
        sizes = ", ".join(f"{label} {len(space)}" for label, space in self.labels.items())
        genes = ", ".join(f"{name} {len(ids)}" for name, ids in zip(self.organisms, self.genes, strict=True))
        return f"Vocabulary({self.digest[:12]}; genes: {genes}; classes: {sizes})"

    @property
    def n_genes(self) -> int:
        """Return the number of tokens, over all organisms."""
        return len(self.organism_of_tokens)

    @cached_property
    def organism_of_tokens(self) -> npt.NDArray[np.int64]:
        """Return the number of each token's organism, int64 [n_genes]."""
        numbers, sizes = np.array(self.blocks, dtype=np.int64).reshape(-1, 2).T
        return np.repeat(numbers, sizes)

    @cached_property
    def digest(self) -> str:
        """Return a sha256 of everything numbers depend on; releases of ontologies and names of classes do not count."""
        spaces = [[label, space.digest] for label, space in self.labels.items()]
        said = [FORMAT, self.organisms, self.genes, self.blocks, spaces, self._plain_tokens]
        return hashlib.sha256(json.dumps(said, sort_keys=True, separators=(",", ":")).encode()).hexdigest()

    def organism_tokens(self, organism: str) -> Codes:
        """Return the tokens of an organism's genes in the order of `genes`, int32, rising."""
        return np.flatnonzero(self.organism_of_tokens == self._number(organism)).astype(np.int32)

    def gene_tokens(self, organism: str, feature_ids: Sequence[str]) -> Codes:
        """Return the token of each gene of an organism, int32; -1 where it has none.

        Raises
        ------
        LoaderInputError
            When the vocabulary does not have the organism.
        """
        number = self._number(organism)
        if number not in self._lookups:
            index = pd.Index(np.array(self.genes[number], dtype=object), dtype=object)
            self._lookups[number] = index, np.append(self.organism_tokens(organism), np.int32(-1))
        index, tokens = self._lookups[number]
        return tokens[index.get_indexer(pd.Index(feature_ids, dtype=object))]

    def encode(self, label: str, term_ids: Iterable[str | None]) -> Codes:
        """Return the class of each value of a label, int32; -1 where it is unknown or no class.

        Raises
        ------
        LoaderInputError
            When the vocabulary does not have the label.
        """
        return self._space(label).encode(term_ids, strict=False)

    def label_targets(self, label: str, codes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return what cells of these classes say of every class; what is neither is negative.

        Parameters
        ----------
        label
            One of the vocabulary's.
        codes
            Integers [cell], -1 for unknown, of which everything is unknown.

        Returns
        -------
        (positive, unknown), bool [cell, class], where the codes are: see `LabelSpace.targets`.

        Raises
        ------
        LoaderInputError
            When there is no such label, or, on the CPU, a code is no class; a GPU is not waited for to tell.
        """
        import torch  # noqa: PLC0415 - whoever only reads or writes a vocabulary needs none

        space, key = self._space(label), (label, codes.device)
        if codes.device.type == "cpu" and len(codes) and not -1 <= int(codes.min()) <= int(codes.max()) < len(space):
            found = f"{int(codes.min())} to {int(codes.max())}"
            raise LoaderInputError("codes", found, f"-1 to {len(space) - 1}, the classes of {label}")
        if key not in self._targets:
            # The last row answers for -1.
            positive = np.vstack([space.positive, np.zeros(len(space), dtype=bool)])
            unknown = np.vstack([space.unknown, np.ones(len(space), dtype=bool)])
            self._targets[key] = tuple(torch.from_numpy(one).to(codes.device) for one in (positive, unknown))
        positive, unknown = self._targets[key]
        return positive[codes.long()], unknown[codes.long()]

    def with_organism(self, organism: str, feature_ids: Sequence[str]) -> Vocabulary:
        """Return the vocabulary with an organism, or with the genes an organism lacks, as the last tokens."""
        mine = dict(zip(self.organisms, self.genes, strict=True))
        known = mine.get(organism, ())
        have = set(known)
        new = tuple(one for one in feature_ids if one not in have)
        number = list(mine).index(organism) if organism in mine else len(mine)
        mine[organism] = (*known, *new)
        assert self.blocks is not None
        blocks = (*self.blocks, (number, len(new))) if new or number == len(self.organisms) else self.blocks
        return replace(self, organisms=tuple(mine), genes=tuple(mine.values()), blocks=blocks)

    def with_classes(self, label: str, values: Iterable[str], apart: Iterable[str] = ()) -> Vocabulary:
        """Return the vocabulary with further classes of a label, which is made if there is none.

        How classes lie above each other is asked anew of the ontologies at hand, which may be of a later release. What
        was a leaf in spite of its kinds remains one.

        Parameters
        ----------
        label
            One of the nine, or a user's own.
        values
            Values in use; those that are classes already are passed over.
        apart
            Those of them that are leaves whatever lies below them: see `label_classes.apart_values`.

        Raises
        ------
        VocabularyError
            When a value is no id, or not in its ontology.
        OntologyError
            When the ontology is not at hand.
        """
        old = self.labels[label].classes if label in self.labels else ()
        new = sorted(set(values) - set(old) - NO_CLASS)
        if label in self.labels and not new:
            return self
        apart = {*self.apart(label), *set(apart).intersection(new)}
        return replace(self, labels={**self.labels, label: make_classes(label, [*old, *new], apart)})

    def apart(self, label: str) -> set[str]:
        """Return the leaves of a label that have classes of it below them, by the ontologies at hand."""
        if label not in self.labels:
            return set()
        space = self.labels[label]
        return set(space.leaves).difference(make_classes(label, space.classes).leaves)

    def extended(self, other: Vocabulary) -> Vocabulary:
        """Return the vocabulary with the organisms, genes and classes that another has besides."""
        whole = self
        for organism, ids in zip(other.organisms, other.genes, strict=True):
            whole = whole.with_organism(organism, ids)
        for label, space in other.labels.items():
            whole = whole.with_classes(label, space.classes, other.apart(label))
        return whole

    def moved_classes(self, older: Vocabulary) -> dict[str, Codes]:
        """Return where the classes of a vocabulary that this one extends went: for its model's rows.

        Returns
        -------
        Per label of `older`, int32 [its classes]: the code here. Tokens need none, they keep their numbers.

        Raises
        ------
        VocabularyError
            When this vocabulary lacks a class of it, or a token means another gene.
        """
        remedy = "extend the older one: older.extended(newer)"
        for number, (organism, ids) in enumerate(zip(older.organisms, older.genes, strict=True)):
            same = number < len(self.organisms) and self.organisms[number] == organism
            tokens = self.gene_tokens(organism, ids) if same else np.empty(0, np.int32)
            if not np.array_equal(tokens, older.organism_tokens(organism)):
                raise VocabularyError(f"genes of {organism}", "other tokens than in the older vocabulary", remedy)
        moved = {}
        for label, space in older.labels.items():
            if label not in self.labels:
                raise VocabularyError("labels", f"no {label}", remedy)
            moved[label] = self.encode(label, space.classes)
            if (moved[label] < 0).any():
                raise VocabularyError(f"label {label}", f"no class {space.classes[moved[label].argmin()]}", remedy)
        return moved

    def to_json(self) -> str:
        """Return the vocabulary as JSON text, the same for the same content and releases."""
        said = {
            "format": FORMAT,
            "digest": self.digest,
            "organisms": self.organisms,
            "genes": self.genes,
            "blocks": self.blocks,
            "labels": [[label, json.loads(space.to_json())] for label, space in self.labels.items()],
            "tokens": self._plain_tokens,
        }
        return json.dumps(said, separators=(",", ":")) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Vocabulary:
        """Return the vocabulary that `to_json` wrote.

        Raises
        ------
        VocabularyError
            When the text is no vocabulary, contradicts itself, or is not the one its digest names.
        """
        try:
            said = json.loads(text)
            if not isinstance(said, dict) or said.get("format") != FORMAT:
                raise VocabularyError("the text", f"{text[:40]!r}...", f"expected the JSON of {FORMAT}")
            labels = {str(label): LabelSpace.from_json(json.dumps(space)) for label, space in _items(said["labels"])}
            if len(labels) != len(said["labels"]):
                raise VocabularyError("labels", "one twice", "take a text that to_json wrote")
            genes = tuple(_items(ids) for ids in _items(said["genes"]))
            blocks = tuple((number, size) for number, size in _items(said["blocks"]))
            made = cls(_items(said["organisms"]), genes, labels, said["tokens"], blocks)
            digest = said["digest"]
        except (ValueError, LookupError, TypeError, ArithmeticError, RecursionError, MemoryError) as error:
            if isinstance(error, VocabularyError):
                raise
            remedy = "take a text that to_json wrote"
            raise VocabularyError("the text", f"{type(error).__name__}: {error}"[:200], remedy) from error
        if made.digest != digest:
            raise VocabularyError(
                "the text", f"content {made.digest}, not {digest}", "copy it again from its checkpoint"
            )
        return made

    def save(self, path: Path) -> None:
        """Write the vocabulary to a file, whole or not at all."""
        write_whole(Path(path), self.to_json().encode())

    @classmethod
    def load(cls, path: Path) -> Vocabulary:
        """Return the vocabulary of a file; raises VocabularyError where it is none."""
        try:
            text = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise VocabularyError(str(path), str(error), "name a file that save wrote") from error
        return cls.from_json(text)

    @property
    def _plain_tokens(self) -> dict[str, Any] | None:
        return None if self.tokens is None else dict(self.tokens)

    @cached_property
    def _lookups(self) -> dict[int, tuple[pd.Index, Codes]]:
        return {}

    @cached_property
    def _targets(self) -> dict[Any, Any]:
        return {}

    def _number(self, organism: str) -> int:
        if organism not in self.organisms:
            raise LoaderInputError("organism", organism, f"one of the vocabulary's: {', '.join(self.organisms)}")
        return self.organisms.index(organism)

    def _space(self, label: str) -> LabelSpace:
        if label not in self.labels:
            raise LoaderInputError("label", label, f"one of the vocabulary's: {', '.join(self.labels)}")
        return self.labels[label]


def _items(value: object) -> tuple[Any, ...]:
    """Return what a JSON list holds; a text would fall into letters."""
    if not isinstance(value, list):
        raise TypeError(f"a list was expected, not {type(value).__name__}")
    return tuple(value)


def _check_genes(vocabulary: Vocabulary) -> None:
    """Prove that organisms and genes are distinct texts and that the runs of tokens cover them."""
    organisms, genes, blocks = vocabulary.organisms, vocabulary.genes, vocabulary.blocks
    texts = all(isinstance(name, str) and name for name in organisms)
    if not texts or len(set(organisms)) != len(organisms) or len(organisms) != len(genes):
        remedy = "name each organism once, with its genes"
        raise VocabularyError("organisms", f"{organisms!r:.80} with {len(genes)} lists of genes", remedy)
    for name, ids in zip(organisms, genes, strict=True):
        if not all(type(one) is str and one for one in ids):
            raise VocabularyError(f"genes of {name}", "one that is no text, or empty", "name each gene by its id")
        if len(set(ids)) != len(ids):
            twice = pd.Index(ids)[pd.Index(ids).duplicated()][0]
            raise VocabularyError(f"genes of {name}", f"{twice} twice", "name each gene once")
    assert blocks is not None
    plain = all(type(number) is int and type(size) is int and size >= 0 for number, size in blocks)
    sizes = [sum(size for number, size in blocks if number == mine) for mine in range(len(genes))] if plain else []
    inside = plain and all(0 <= number < len(genes) for number, _ in blocks)
    if not inside or sizes != [len(ids) for ids in genes] or sum(sizes) > MOST_GENES:
        raise VocabularyError("blocks", f"{blocks!r:.80}", f"runs of tokens that add up to {list(map(len, genes))}")
