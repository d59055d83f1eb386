"""What commands on gene networks begin and end with: a network of a file or of the atlas, its genes by name, a result.

network_commands.py infers networks, network_tools.py works with them.
"""

from __future__ import annotations

import secrets
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from atlas import AtlasInputError, ResultKey, layout, list_networks, open_atlas
from model import load_stored_network, read_network
from ontology import OntologyError, load_gene_table, resolve_genes

from .errors import CatalogInputError
from .result_files import PART
from .workflows import default_atlas

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from model import GeneNetwork


def find_network(said: str, atlas: str | None = None, organism: str | None = None) -> GeneNetwork:
    """Return a network of a file, or the one of an atlas that has a key.

    Parameters
    ----------
    said
        An .h5ad or .parquet that `panatlas grn` wrote, or KIND/RELEASE/MODEL/POPULATION as `panatlas info` lists it.
    atlas
        Folder of the atlas; the default one unless named.
    organism
        Whose, where several have a network of that key.

    Raises
    ------
    CatalogInputError
        When there is neither such a file nor such a key.
    """
    if Path(said).expanduser().is_file() or not said.startswith(layout.NETWORK):
        return read_network(Path(said).expanduser())
    opened = open_atlas(atlas or default_atlas())
    there = list_networks(opened, organism)
    try:
        found = [one for one in there if one.key == ResultKey.parse(said)]
    except AtlasInputError:
        found = []
    if len(found) != 1:
        names = [str(one.key) for one in there]
        has = f"{', '.join(names[:5])}{' and more' if len(names) > 5 else ''}" if names else "none"
        allowed = "--organism with one of " + ", ".join(one.organism for one in found) if found else \
            f"a file, or a network of the atlas; it has {has}"  # fmt: skip
        raise CatalogInputError("network", said, allowed)
    return load_stored_network(opened, found[0])


def names_of(network: GeneNetwork) -> dict[str, str]:
    """Return the names of a network's genes by id: what it says itself, else the organism's gene table at hand.

    Raises
    ------
    CatalogInputError
        When the network says something else there than names.
    """
    said = network.facts.get("feature_names")
    if not isinstance(said, dict | None):
        raise CatalogInputError("network", f"feature_names that is a {type(said).__name__}", "names by feature id")
    if said:
        return {gene: str(said.get(gene, gene)) for gene in network.genes}
    try:
        table = load_gene_table(network.organism)
    except OntologyError:
        return {gene: gene for gene in network.genes}
    names = dict(zip(table.ids.tolist(), table.symbols.tolist(), strict=True))
    return {gene: names.get(gene) or gene for gene in network.genes}


def find_gene(network: GeneNetwork, said: str, names: dict[str, str]) -> str:
    """Return the id of a gene of a network that is named by id, name, or anything its gene table knows it by.

    Raises
    ------
    CatalogInputError
        When the network has no such gene.
    """
    if said in names:
        return said
    if len(found := [gene for gene, name in names.items() if name == said]) == 1:
        return found[0]
    try:
        table = load_gene_table(network.organism)
        index = int(resolve_genes([said], table).index[0])
    except OntologyError:
        index = -1
    if index >= 0 and (gene := str(table.ids[index])) in names:
        return gene
    first = ", ".join(names[gene] for gene in network.genes[:5])
    raise CatalogInputError("gene", said, f"a gene of the network, such as {first}")


@contextmanager
def new_file(path: Path, suffixes: Sequence[str], *, force: bool) -> Iterator[Path]:
    """Give a file to write in, which becomes `path` at the end, or vanishes where writing fails.

    Raises
    ------
    CatalogInputError
        As `check_file`.
    """
    check_file(path, suffixes, force=force)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{PART}{secrets.token_hex(4)}-{path.name[-100:]}")
    try:
        yield part
        check_file(path, suffixes, force=force)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def check_file(path: Path, suffixes: Sequence[str], *, force: bool) -> None:
    """Raise CatalogInputError where a result cannot go: another kind of name, a folder, or a file that is there."""
    if path.suffix not in suffixes or path.is_dir():
        raise CatalogInputError("output", str(path), f"a file whose name ends in {' or '.join(suffixes)}")
    if path.exists() and not force:
        raise CatalogInputError("output", str(path), "a file that does not exist yet; --force writes over it")
