"""Fixtures of the ontology tests: a cache of their own, a package index made of local wheels, and small gene tables."""

from __future__ import annotations

import base64
import hashlib
import io
import zipfile
from typing import TYPE_CHECKING

import pandas as pd
import pytest

from ontology import GeneTable, get_organism, make_gene_table

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give the test an empty panatlas home."""
    monkeypatch.setenv("PANATLAS_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture(scope="session")
def reference_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Share one panatlas home among tests that need real gene tables, so that each wheel is fetched once."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("references")
        patch.setenv("PANATLAS_HOME", str(folder))
        yield folder


@pytest.fixture
def real(reference_home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Point the test at the shared home of real references, whatever other fixtures set."""
    monkeypatch.setenv("PANATLAS_HOME", str(reference_home))
    return reference_home


MEMBERS = {
    "pandemo/table.csv": b"id,symbol\nENSG1,A\n",
    "pandemo/pack.zip/inner/data.bin": bytes(range(256)) * 64,
}


@pytest.fixture
def demo_wheel(tmp_path: Path, own_home: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    """Put one small wheel into a local folder that serves as the only package index; return requirement and sha256."""
    shop = tmp_path / "shop"
    shop.mkdir()
    wheel = shop / "pandemo-1.0-py3-none-any.whl"
    wheel.write_bytes(make_wheel())
    monkeypatch.setenv("UV_FIND_LINKS", str(shop))
    monkeypatch.setenv("UV_OFFLINE", "1")
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "uv-cache"))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    return "pandemo==1.0", hashlib.sha256(wheel.read_bytes()).hexdigest()


def make_wheel() -> bytes:
    """Return the bytes of a valid wheel that holds `MEMBERS`, one of them inside a zip archive."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as inner:
        inner.writestr("inner/data.bin", MEMBERS["pandemo/pack.zip/inner/data.bin"])
    info = "pandemo-1.0.dist-info"
    files = {
        "pandemo/table.csv": MEMBERS["pandemo/table.csv"],
        "pandemo/pack.zip": packed.getvalue(),
        f"{info}/METADATA": b"Metadata-Version: 2.1\nName: pandemo\nVersion: 1.0\n",
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = [
        f"{name},sha256={base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b'=').decode()},{len(data)}"
        for name, data in files.items()
    ]
    files[f"{info}/RECORD"] = "\n".join([*record, f"{info}/RECORD,,", ""]).encode()
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as wheel:
        for name, data in files.items():
            wheel.writestr(name, data)
    return out.getvalue()


@pytest.fixture(scope="session")
def small() -> GeneTable:
    """Return a human table of nine genes with every awkward case of naming in it."""
    rows = [
        ("ENSG00000000009", "TWIN", "protein_coding", "OLDTWIN", "", True),  # shares its symbol, and owns it
        ("ENSG00000000008", "TWIN", "lncRNA", "", "", False),
        ("ENSG00000000001", "GAPDH", "protein_coding", "G3PD|GAPD", "", True),
        ("ENSG00000000002", "SEPTIN2", "protein_coding", "SEPT2|NEDD5", "SEPT2", True),
        ("ENSG00000000003", "NEDD5L", "protein_coding", "SHARED|SEPT2", "", True),  # an alias of one, formerly another
        ("ENSG00000000004", "Y_RNA", "misc_RNA", "SHARED", "", False),  # two genes, no owner
        ("ENSG00000000005", "Y_RNA", "misc_RNA", "GAPDH", "", False),  # alias that is another gene's symbol
        ("ENSG00000000006", "", "lncRNA", "MOVED", "MOVED", True),  # no symbol
        ("ENSG00000000010", "FRESH", "lncRNA", "MOVED", "MOVED", True),  # a former symbol of two genes
    ]
    frame = pd.DataFrame(rows, columns=["id", "symbol", "biotype", "synonyms", "former", "primary"])
    return make_gene_table(get_organism("human"), frame, "made by hand")
