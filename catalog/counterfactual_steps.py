"""The long steps of a counterfactual, each kept block by block, so that a job that was stopped goes on.

Cells are read four times: those whose mean tokens are needed, twice; those that are changed; and those that are
compared, for the baselines. What a step has finished stays on disk until the job ends (finished_blocks.py), under a
digest of all that decides it. Used by generate_commands.py.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from model import Counterfactual, Embedding, class_codes, counterfactual_blocks, embed_blocks

from .finished_blocks import finished_blocks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from contextlib import ExitStack

    import numpy.typing as npt

    from model import InferenceOptions, Population, Swap, TrainedModel

    from .counterfactual_inputs import Asked
    from .finished_blocks import FinishedBlocks, Rows

    Numbers = npt.NDArray[np.int64]
    Codes = dict[str, dict[str, npt.NDArray[np.float32]]]


@dataclass(frozen=True, eq=False)
class Steps:
    """The steps of one job."""

    model: TrainedModel
    """The model."""
    asked: Asked
    """What is to be done."""
    reading: InferenceOptions
    """What is shown of the cells."""
    key: str
    """Digest of the job."""
    finished: Mapping[str, FinishedBlocks]
    """What there is of each step."""

    @property
    def n_cells(self) -> int:
        """Return how many cells are read in all, those of several steps each time."""
        return sum(one.n_cells for one in self.finished.values())

    def codes(self, seed: int, tell: Callable[[int, bool], None]) -> Codes:
        """Return the mean tokens that swaps are made of, as `class_codes` does."""

        def read(name: str, part: Population) -> Iterator[Embedding]:
            columns: dict[str, slice] = {}

            def make(first: int) -> Iterator[Rows]:
                how = replace(self.reading, first=first)
                for block in embed_blocks(self.model, part.cells, part.numbers, options=how):
                    columns.update(block.columns)
                    yield {"values": block.values}

            start = 0
            for rows in self.finished[name].rows(make, tell):
                end = start + len(rows["values"])
                yield Embedding(part.numbers[start:end], rows["values"], columns)
                start = end

        return class_codes(self.asked.halves, read, seed)

    def decoded(self, name: str, swaps: Sequence[Swap], tell: Callable[[int, bool], None]) -> Iterator[Counterfactual]:
        """Give the cells of a step, `changed` or `compared`, with tokens swapped, in order."""
        genes: list[tuple[str, ...]] = []
        cells, numbers = self.asked.halves.source.cells, numbers_of(self.asked)[name]

        def make(first: int) -> Iterator[Rows]:
            for block in counterfactual_blocks(
                self.model, cells, swaps, numbers, genes=self.asked.genes[0], orthologs=self.asked.orthologs,
                options=replace(self.reading, first=first),
            ):  # fmt: skip
                genes[:] = block.genes, block.genes_after
                yield {"factual": block.factual, "expected": block.expected, "depth": block.depth}

        start = 0
        for rows in self.finished[name].rows(make, tell):
            end = start + len(rows["depth"])
            yield Counterfactual(numbers[start:end], *genes, rows["factual"], rows["expected"], rows["depth"])
            start = end


def numbers_of(asked: Asked) -> dict[str, Numbers]:
    """Return the cells of each step."""
    halves = asked.halves
    return {
        "others": halves.others.numbers, "reference": halves.reference.numbers, "changed": asked.changed,
        "compared": halves.source.numbers,
    }  # fmt: skip


def open_steps(
    open_: ExitStack, model: TrainedModel, asked: Asked, reading: InferenceOptions, decides: Mapping[str, Any]
) -> Steps:
    """Return the steps of a job; what they have finished goes when the stack is unwound without an error.

    Parameters
    ----------
    open_
        Holds the job's folders.
    model
        The model.
    asked
        What is to be done: genes and all cells that have a part in it decide every step, so they need not be told.
    reading
        What is shown of the cells.
    decides
        What else does, as JSON values.

    Raises
    ------
    CatalogInputError
        When another process is at this very job.
    ModelInputError
        When the model cannot decode what is asked for: at once, before anything is kept.
    """
    counterfactual_blocks(
        model, asked.halves.source.cells, [], asked.changed, genes=asked.genes[0], orthologs=asked.orthologs,
        options=reading,
    )  # fmt: skip
    cells, steps = hashlib.sha256(), numbers_of(asked)
    for numbers in (*steps.values(), asked.halves.target.numbers):
        cells.update(f"{len(numbers)}\n".encode() + np.ascontiguousarray(numbers, dtype="<i8").tobytes())
    genes = hashlib.sha256(json.dumps([[list(one) for one in asked.genes], asked.organisms]).encode())
    more = {**decides, "tokens": asked.tokens, "part in it": cells.hexdigest(), "genes": genes.hexdigest()}
    found = {
        name: open_.enter_context(finished_blocks({**more, "step": name}, numbers, reading.batch_size))
        for name, numbers in steps.items()
    }
    return Steps(model, asked, reading, found["changed"][0], {name: one for name, (_, one) in found.items()})
