"""Gene sets come from .gmt files and tables; what is none is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from catalog.errors import CatalogInputError
from catalog.gene_set_files import open_gene_sets
from ontology import load_gene_table


def test_gene_sets_are_read_from_gmt_and_tables_and_nothing_else(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ids = load_gene_table("human").ids[:6].tolist()
    Path("a.csv").write_text("set,gene\n" + "".join(f"s,{one}\n" for one in ids) + "t,nonsense\n")
    Path("b.gmt").write_text("s\thttp://x\t" + "\t".join(ids) + "\n")
    assert open_gene_sets(Path("a.csv"), "human") == {"s": frozenset(ids)} == open_gene_sets(Path("b.gmt"), "human")
    for name, text in (("c.csv", "set,gene\ns,nonsense\n"), ("d.csv", "a,b\n1,2\n"), ("e.csv", "")):
        Path(name).write_text(text)
        with pytest.raises(CatalogInputError, match="gene_sets"):
            open_gene_sets(Path(name), "human")
    with pytest.raises(CatalogInputError, match="gene_sets"):
        open_gene_sets(Path("nowhere.gmt"), "human")
