"""What benchmarks read: the data folder beside the checkout, the model that is scored, and the digest of all of it.

A benchmark names what it reads in `READS`; run.py stores the digest beside the numbers, so that whoever runs it again
knows whether it was the same data.
"""

from __future__ import annotations

import hashlib
import json
import os
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

HERE = Path(__file__).resolve().parent
SHARED = HERE.parent.parent / "shared"
"""The folder beside the checkout with real cells (`data`) and references (`bio`)."""
MODEL = "model"
"""Stands in `READS` for the model that is scored."""
STARTER = "starter:"
"""Begins, in `READS`, the name of an organism whose starter sources are read."""


def scored_model() -> Path:
    """Return the folder of the model that benchmarks score: the shipped one, or another in PANATLAS_BENCH_MODEL."""
    from model import shipped_model

    found = os.environ.get("PANATLAS_BENCH_MODEL") or shipped_model()
    if found is None:
        raise FileNotFoundError("no model came with the package: name one in PANATLAS_BENCH_MODEL")
    return Path(found).absolute()


def scored_cells() -> Path:
    """Return the pack of the cells that model was trained on; another one is named by PANATLAS_BENCH_PACK."""
    from benchmarks.training_cells import training_pack

    return Path(os.environ.get("PANATLAS_BENCH_PACK") or training_pack(HERE / "data" / "training"))


def digest_of(reads: Sequence[str]) -> dict[str, str | int]:
    """Return how many files these are, their sha256 in one, and that of the model.

    Parameters
    ----------
    reads
        Patterns of files in the data folder; manifests of this folder (`.toml`), for the files they name; `starter:`
        with an organism; `model`. What is not there is counted as missing.
    """
    found = dict(line for one in reads if one != MODEL for line in _digests(one))
    there = {name: digest for name, digest in sorted(found.items()) if digest}
    lines = "".join(f"{name} {digest}\n" for name, digest in there.items())
    out: dict[str, str | int] = {}
    if found:
        out = {"files": len(there), "sha256": hashlib.sha256(lines.encode()).hexdigest()}
    if len(there) < len(found):
        out["missing"] = len(found) - len(there)
    if MODEL in reads:
        out["model"] = json.loads((scored_model() / "about.json").read_text("utf-8"))["sha256"]
    return out


def _digests(one: str) -> Iterator[tuple[str, str]]:
    """Yield names and digests of what an entry of `READS` names; an empty digest where it is not there."""
    if one.startswith(STARTER):
        from atlas import starter_sources

        for source in starter_sources(one.removeprefix(STARTER)):
            yield f"{STARTER}{source.id}", str(source.sha256)
    elif one.endswith(".toml"):
        for source in tomllib.loads((HERE / one).read_text("utf-8"))["source"]:
            yield from _digests(source["uri"].replace("{data}", "data"))
    else:
        paths = sorted(path for path in SHARED.glob(one) if path.is_file())
        if not paths:
            yield one, ""
        for path in paths:
            with path.open("rb") as file:
                yield path.relative_to(SHARED).as_posix(), hashlib.file_digest(file, "sha256").hexdigest()
