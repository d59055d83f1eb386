"""Reference networks are read from the folder a user names, by feature id, and what is wrong with one is said."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile

import pandas as pd
import pytest

from model import ModelInputError
from model.grn_truths import SOURCES, TRUTHS, read_edge_list, read_truth
from ontology import load_gene_table


def ids(*symbols: str, organism: str = "human") -> list[str]:
    table = load_gene_table(organism)
    return [str(table.ids[list(table.symbols).index(symbol)]) for symbol in symbols]


def edges_of(truth) -> dict[tuple[str, str], int]:
    return {(r, t): int(s) for r, t, s in truth.edges.itertuples(index=False)}


def omnipath(folder, **changes) -> None:
    rows = {
        "source": ["GATA1", "GATA1", "COMPLEX:FOS_JUN", "GATA1", "SPI1", "P15407"],
        "target": ["KLF1", "HBB", "MYC", "HBB", "SPI1", "MYC"],
        "is_stimulation": [True, True, False, False, True, True],
        "is_inhibition": [False, False, True, True, False, False],
        "collectri": [True, False, True, False, True, True],
    }
    pd.DataFrame({**rows, **changes}).to_parquet(folder / "omnipath_tf_target_human.parquet")


def test_omnipath_has_regulators_first_complexes_by_member_and_no_sign_where_sources_differ(tmp_path):
    omnipath(tmp_path)
    found = read_truth(tmp_path, "omnipath")
    gata1, klf1, hbb, fos, jun, myc = ids("GATA1", "KLF1", "HBB", "FOS", "JUN", "MYC")
    assert edges_of(found) == {(gata1, klf1): 1, (gata1, hbb): 0, (fos, myc): -1, (jun, myc): -1}
    assert found.organism == "homo_sapiens"
    assert found.kind == "literature"
    assert dict(found.unplaced) == {"regulators": 1, "targets": 0, "edges": 1}
    assert found.digest == hashlib.sha256((tmp_path / "omnipath_tf_target_human.parquet").read_bytes()).hexdigest()
    assert found.regulators == tuple(sorted([gata1, fos, jun]))
    assert found.targets == tuple(sorted([klf1, hbb, myc]))
    collectri = read_truth(tmp_path, "collectri")
    assert edges_of(collectri) == {(gata1, klf1): 1, (fos, myc): -1, (jun, myc): -1}


def test_dorothea_keeps_the_confident_edges_and_their_mode(tmp_path):
    frame = pd.DataFrame(
        {"tf": ["Gata1", "Gata1", "Spi1"], "confidence": ["A", "D", "C"], "target": ["Klf1", "Myc", "Myc"],
         "mor": [-1.0, 1.0, 1.0]}
    )  # fmt: skip
    frame.to_parquet(tmp_path / "dorothea_mm_ABCD.parquet")
    gata1, klf1, spi1, myc = ids("Gata1", "Klf1", "Spi1", "Myc", organism="mouse")
    assert edges_of(read_truth(tmp_path, "dorothea_mouse")) == {(gata1, klf1): -1, (spi1, myc): 1}


def test_encode_sets_of_a_factor_are_put_together(tmp_path):
    sets = {"GATA1 K562": ["MYC", "KLF1"], "GATA1 PBDE": ["MYC", "HBB"], "NOTHING K562": ["MYC"]}
    (tmp_path / "encode_tf_chip_166sets.json.gz").write_bytes(gzip.compress(json.dumps(sets).encode()))
    gata1, myc, klf1, hbb = ids("GATA1", "MYC", "KLF1", "HBB")
    found = read_truth(tmp_path, "encode")
    assert set(edges_of(found)) == {(gata1, myc), (gata1, klf1), (gata1, hbb)}
    assert found.unplaced["regulators"] == 1


def archive(path, members: dict[str, str]) -> None:
    with tarfile.open(path, "w:xz") as file:
        for name, text in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(text)
            file.addfile(entry, io.BytesIO(text.encode()))


def test_an_archive_is_read_in_place_or_unpacked_and_former_symbols_are_known(tmp_path):
    text = "Sfpi1\tMyc\t3\nSfpi1\tKlf1\t9\n"
    archive(tmp_path / "mccalla_benchmark.tar.xz", {"./other": "x", "./gold_standards/mESC/mESC_KDUnion.txt": text})
    spi1, myc, klf1 = ids("Spi1", "Myc", "Klf1", organism="mouse")
    packed = read_truth(tmp_path, "mesc_perturbation")
    assert edges_of(packed) == {(spi1, myc): 0, (spi1, klf1): 0}
    assert packed.kind == "perturbation"
    plain = tmp_path / "plain"
    (plain / "gold_standards/mESC").mkdir(parents=True)
    (plain / "gold_standards/mESC/mESC_KDUnion.txt").write_text(text)
    unpacked = read_truth(plain, "mesc_perturbation")
    assert unpacked.digest == packed.digest
    assert edges_of(unpacked) == edges_of(packed)
    with pytest.raises(ModelInputError, match=r"mESC_ground_truth\.tsv.*an archive with this file"):
        read_truth(tmp_path, "mesc")


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".tsv.gz", ".parquet"])
def test_a_table_of_ones_own_has_the_columns_one_names(tmp_path, suffix):
    gata1, klf1 = ids("GATA1", "KLF1")
    frame = pd.DataFrame({"tf": ["GATA1"], "gene": [f"{klf1}.4"], "effect": ["-2.5"]})
    path = tmp_path / f"mine{suffix}"
    if suffix == ".parquet":
        frame.to_parquet(path)
    else:
        frame.to_csv(path, sep="," if suffix == ".csv" else "\t", index=False)
    found = read_edge_list(path, "human", regulator="tf", target="gene", sign="effect", kind="perturbation")
    assert (found.name, found.kind, found.organism) == ("mine", "perturbation", "homo_sapiens")
    assert edges_of(found) == {(gata1, klf1): -1}


def test_what_is_wrong_with_a_reference_is_said_with_its_file_and_a_remedy(tmp_path):
    with pytest.raises(ModelInputError, match=r"truth='nonsense'.*collectri.*read_edge_list"):
        read_truth(tmp_path, "nonsense")
    with pytest.raises(ModelInputError, match=r"folder with omnipath_tf_target_human\.parquet.*doi"):
        read_truth(tmp_path, "omnipath")
    pd.DataFrame({"source": ["GATA1"], "other": ["KLF1"]}).to_parquet(tmp_path / "omnipath_tf_target_human.parquet")
    with pytest.raises(ModelInputError, match=r"target.*omnipath_tf_target_human\.parquet.*it has source, other"):
        read_truth(tmp_path, "omnipath")
    (tmp_path / "omnipath_tf_target_human.parquet").write_bytes(b"PAR1 and nothing else")
    with pytest.raises(ModelInputError, match=r"omnipath_tf_target_human\.parquet.*as its source distributes it"):
        read_truth(tmp_path, "omnipath")
    (tmp_path / "mccalla_benchmark.tar.xz").write_bytes(b"no archive")
    with pytest.raises(ModelInputError, match=r"mccalla_benchmark\.tar\.xz.*as its source distributes it"):
        read_truth(tmp_path, "hesc")
    (tmp_path / "encode_tf_chip_166sets.json.gz").write_bytes(gzip.compress(b"[1, 2"))
    with pytest.raises(ModelInputError, match=r"encode_tf_chip_166sets\.json\.gz"):
        read_truth(tmp_path, "encode")
    (tmp_path / "encode_tf_chip_166sets.json.gz").write_bytes(gzip.compress(b'{"": 3}'))
    with pytest.raises(ModelInputError, match=r"encode_tf_chip_166sets\.json\.gz"):
        read_truth(tmp_path, "encode")
    (tmp_path / "mine.csv").write_text("regulator,target\nnobody,nothing\n")
    with pytest.raises(ModelInputError, match=r"mine\.csv: 1 rows.*edges between genes of mus_musculus"):
        read_edge_list(tmp_path / "mine.csv", "mouse")
    with pytest.raises(ModelInputError, match=r"there\.csv.*a table that is there"):
        read_edge_list(tmp_path / "there.csv", "mouse")


@pytest.mark.shared
def test_the_real_references_are_read_whole(shared):
    collectri = read_truth(shared / "bio/grn", "collectri")
    assert len(collectri.edges) > 30_000
    myc, gata1, klf1 = ids("MYC", "GATA1", "KLF1")
    assert edges_of(collectri)[gata1, klf1] == 1
    assert (collectri.edges["regulator"] == myc).sum() > 300
    assert (collectri.edges["target"] == myc).sum() < 300
    mesc = read_truth(shared / "bio/grn", "mesc")
    pou5f1, nanog = ids("Pou5f1", "Nanog", organism="mouse")
    assert {pou5f1, nanog} <= set(mesc.regulators)
    assert len(mesc.regulators) < 60
    assert len(mesc.targets) > 5_000
    assert sum(mesc.unplaced.values()) < 0.05 * len(mesc.edges)


def test_every_source_says_its_terms_and_where_it_is_from():
    assert tuple(SOURCES) == TRUTHS
    for source in SOURCES.values():
        assert source.licence
        assert "doi:" in source.about
        assert source.organism in ("homo_sapiens", "mus_musculus")
