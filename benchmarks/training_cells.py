"""The real cells of training benchmarks: every file that may train shipped weights, as an atlas, release and pack.

Three organisms, split by donor; pinned donors are held out where a study has several, so that validation and test hold
labelled cells of more than one study. Files are read from the data folder beside the checkout, never from elsewhere.
"""

from __future__ import annotations

import os
from pathlib import Path

from benchmarks.bench_data import SHARED

HERE = Path(__file__).resolve().parent
DATA = SHARED / "data"
RELEASE = "train-1"
PINS: dict[str, tuple[str, ...]] = {
    "validation": (
        "donor:baron-human/human4",
        "donor:baron-mouse/mouse1",
        "donor:laughney-luad/GSM3516662",
        "donor:packer-embryo/Waterston_500_minutes_batch_2",
    ),
    "test": (
        "donor:baron-human/human2",
        "donor:laughney-luad/GSM3516674",
        "donor:packer-embryo/Waterston_300_minutes",
    ),
}
"""Donors that are held out."""


def training_pack(folder: Path) -> Path:
    """Return the pack of the real training cells, made in a folder unless it is there.

    Raises
    ------
    FileNotFoundError
        When the data folder is not beside the checkout.
    """
    return pack_of(folder, "training_sources.toml", RELEASE, PINS)


def unseen_pack(folder: Path) -> Path:
    """Return the pack of real studies that no shipped weights were trained on; errors as of `training_pack`."""
    return pack_of(folder, "unseen_sources.toml", "unseen-1", {})


def pack_of(folder: Path, sources: str, release: str, pins: dict[str, tuple[str, ...]]) -> Path:
    """Return the pack of a manifest's sources, made in a folder unless it is there."""
    from atlas import IngestOptions, ingest, load_manifest
    from catalog import make_release
    from loaders import make_pack

    pack = folder / "pack"
    if pack.exists():
        return pack
    if not DATA.exists():
        raise FileNotFoundError(f"{DATA}: the folder of real cells, which this benchmark reads")
    folder.mkdir(parents=True, exist_ok=True)
    manifest = folder / "sources.toml"
    manifest.write_text((HERE / sources).read_text("utf-8").replace("{data}", os.fspath(DATA)))
    for source in load_manifest(manifest):
        receipt = ingest(source, str(folder / "atlas"), IngestOptions(doublets=False))
        assert receipt.status in ("written", "unchanged"), (source.id, receipt.findings)
    made = make_release(str(folder / "atlas"), release, pins=pins)
    assert made.status != "rejected", made.findings
    make_pack(str(folder / "atlas"), release, pack)
    return pack
