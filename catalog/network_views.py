"""A gene network to look at: `ego_svg` draws a gene and its neighbours, `network_page` lets one walk from gene to gene.

Both are text that opens from disk and fetches nothing: the drawing is an `<svg>`, the page one HTML file with its
edges and our own script (data/network.js), which the page's security policy names by its digest, so that no other runs.
Names come from files and are escaped here; the script only ever sets text. Targets stand right of a gene, regulators
left, those that are both between them below.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import math
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import numpy as np

from model import degrees, ego_network

from .pages import render_page

if TYPE_CHECKING:
    from collections.abc import Mapping

    from model import GeneNetwork

WIDTH, HEIGHT = 900, 780
MIDDLE = (450.0, 410.0)
RING, STEP = 235, 46  # px from the middle, and to the second ring where there are many
MANY = 18  # neighbours from which on names follow the ray and genes stand on two rings
MOST_EDGES = 20_000
"""Edges a page carries besides those of its first gene; 0.6 MB."""
_COLOURS = {1: "#3f8a80", -1: "#b4492f", 0: "#7f94a6"}
_SAID = {1: "positive", -1: "negative", 0: "without a sign"}


def ego_svg(network: GeneNetwork, gene: str, *, most: int = 30, names: Mapping[str, str] | None = None) -> str:
    """Return a drawing of a gene, its strongest neighbours and the edges among them; the same every time.

    Parameters
    ----------
    network
        Whole.
    gene
        In the middle.
    most
        Neighbours.
    names
        Names by id; ids stand where there is none.

    Raises
    ------
    ModelInputError
        When the gene is not in the network, or has no edge.
    """
    ego, called = ego_network(network, gene, most), names or {}
    table = degrees(network)
    size, around = table["out_degree"], _neighbours(network, gene)
    places = _places(ego, gene)
    edges = _merged(_edges_of(ego))
    widest = max((abs(edge["weight"]) for edge in edges), default=0.0) or 1.0
    # Edges of the gene itself come last, above the others.
    lines = [_line(edge, places, widest, own=gene in edge["ends"], names=called)
             for edge in sorted(edges, key=lambda edge: gene in edge["ends"])]  # fmt: skip
    dots = [_dot(one, places, _radius(size, one), own=one == gene, name=called.get(one, one)) for one in ego.genes]
    title = _escaped(f"{called.get(gene, gene)}: {network.readout}, {network.population}")
    markers = "".join(_marker(sign, colour) for sign, colour in _COLOURS.items())
    legend = _legend(edges)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}"'
        f' role="img" font-family="system-ui, Helvetica, Arial, sans-serif" font-size="12"><title>{title}</title>'
        f'<defs>{markers}</defs><rect width="100%" height="100%" fill="#fff"/>'
        f'<text x="20" y="28" font-size="16" font-weight="600" fill="#1d2733">{title}</text>'
        f'<text x="20" y="47" fill="#566473">neighbours by weight: {len(ego.genes) - 1} of {around:,}; '
        f"edges: {len(ego):,} of {len(network):,}</text>"
        f'<g fill="none">{"".join(lines)}</g><g>{"".join(dots)}</g><g fill="#566473">{legend}</g></svg>\n'
    )


def network_page(network: GeneNetwork, gene: str, *, names: Mapping[str, str] | None = None) -> str:
    """Return an HTML page to walk through a network from a gene; it works without a network connection.

    Parameters
    ----------
    network
        Its strongest edges go into the page, and all of the gene's.
    gene
        Shown first.
    names
        Names by id.

    Raises
    ------
    ModelInputError
        When the gene is not in the network, or has no edge.
    """
    ego_network(network, gene, 1)
    called, place = names or {}, network.genes.index(gene)
    strong = np.zeros(len(network), dtype=bool)
    order = np.argsort(-np.abs(network.weights.data), kind="stable")[:MOST_EDGES]
    strong[order] = True
    rows = np.repeat(np.arange(len(network.genes)), np.diff(network.weights.indptr))
    strong |= (rows == place) | (network.weights.indices == place)
    shown = network.kept(strong)
    used = sorted({*np.unique(shown.weights.indices).tolist(), *rows[strong].tolist()})
    where = {number: position for position, number in enumerate(used)}
    layers = [name for name in shown.layers if name != "sign"]
    coo_rows = [where[number] for number in rows[strong].tolist()]
    coo_columns = [where[number] for number in shown.weights.indices.tolist()]
    signs = _signs(shown)
    values = [shown.weights.data, *(shown.layers[name].data for name in layers)]
    edges = [
        [row, column, int(sign), *map(_number, numbers)]
        for row, column, sign, *numbers in zip(coo_rows, coo_columns, signs, *values, strict=True)
    ]
    degree = degrees(network)
    data = {
        "genes": [[network.genes[i], called.get(network.genes[i], network.genes[i])] for i in used],
        "out": [int(degree["out_degree"][network.genes[i]]) for i in used],
        "in": [int(degree["in_degree"][network.genes[i]]) for i in used],
        "layers": layers, "edges": edges, "start": where[place],
    }  # fmt: skip
    script = files(__package__).joinpath("data", "network.js").read_text(encoding="utf-8")
    about = [
        ("read-out", network.readout), ("organism", network.organism), ("population", network.population),
        ("cells", f"{network.cells:,}"), ("genes", f"{len(network.genes):,}"), ("edges", f"{len(network):,}"),
        ("edges in this page", f"{len(shown):,}"),
    ]  # fmt: skip
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    # Inside a script element only "<" could end it, and JSON may spell it otherwise.
    text = json.dumps(data, ensure_ascii=True, separators=(",", ":")).replace("<", "\\u003c")
    title = f"{called.get(gene, gene)} · {network.readout} · {network.population}"
    return render_page("network.html.jinja", title=title, about=about, data=text, script=script, digest=digest)


def _edges_of(ego: GeneNetwork) -> list[dict[str, Any]]:
    rows = np.repeat(np.arange(len(ego.genes)), np.diff(ego.weights.indptr))
    return [
        {"ends": (ego.genes[row], ego.genes[column]), "weight": float(weight), "sign": int(sign)}
        for row, column, weight, sign in zip(rows, ego.weights.indices, ego.weights.data, _signs(ego), strict=True)
    ]


def _legend(edges: list[dict[str, Any]]) -> str:
    lines = []
    for number, sign in enumerate(sorted({edge["sign"] for edge in edges}, reverse=True)):
        x, y = 20 + 130 * number, HEIGHT - 18
        marker = "" if all(edge["mutual"] for edge in edges) else f' marker-end="url(#m{sign + 1})"'
        lines.append(f'<path d="M{x} {y}h26" stroke="{_COLOURS[sign]}" stroke-width="2.5"{marker}/>')
        lines.append(f'<text x="{x + 36}" y="{y + 4}">{_SAID[sign]}</text>')
    return "".join(lines)


def _merged(edges: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return edges where the two of a pair that say the same, as all of a symmetric read-out do, are one."""
    said = {edge["ends"]: (edge["weight"], edge["sign"]) for edge in edges}
    found = []
    for edge in edges:
        one, other = edge["ends"]
        mutual = said.get((other, one)) == (edge["weight"], edge["sign"])
        if not mutual or one < other:
            found.append({**edge, "mutual": mutual})
    return found


def _neighbours(network: GeneNetwork, gene: str) -> int:
    place = network.genes.index(gene)
    weights = network.weights
    rows = np.repeat(np.arange(len(network.genes)), np.diff(weights.indptr))
    return len({*weights.indices[rows == place].tolist(), *rows[weights.indices == place].tolist()})


def _signs(network: GeneNetwork) -> np.ndarray:
    if "sign" not in network.layers:
        return np.where(network.weights.data < 0, -1, 0)
    return np.sign(np.nan_to_num(network.layers["sign"].data.astype(np.float64))).astype(int)


def _places(ego: GeneNetwork, gene: str) -> dict[str, tuple[float, float, float]]:
    """Return x, y and the angle of each gene; neighbours in three groups, each from the strongest on."""
    edges = _edges_of(ego)
    out = {edge["ends"][1] for edge in edges if edge["ends"][0] == gene}
    into = {edge["ends"][0] for edge in edges if edge["ends"][1] == gene}
    around = ego.genes[1:]  # strongest first, as ego_network has them
    targets, both, regulators = (
        [one for one in around if one in group] for group in (out - into, out & into, into - out)
    )
    step = 2 * math.pi / len(around)
    begin = -step * (len(targets) - 1) / 2
    found = {gene: (*MIDDLE, 0.0)}
    for number, one in enumerate([*targets, *both, *regulators]):
        angle = begin + step * number
        far = RING + (STEP if len(around) > MANY and number % 2 else 0)
        found[one] = (MIDDLE[0] + far * math.cos(angle), MIDDLE[1] + far * math.sin(angle), angle)
    return found


def _radius(size: Any, gene: str) -> float:
    return 4.5 + 8 * math.sqrt(float(size[gene]) / max(float(size.max()), 1.0))


def _line(
    edge: Mapping[str, Any], places: Mapping[str, tuple[float, float, float]], widest: float, *, own: bool,
    names: Mapping[str, str],
) -> str:  # fmt: skip
    (x1, y1, _), (x2, y2, _) = (places[end] for end in edge["ends"])
    long = math.hypot(x2 - x1, y2 - y1) or 1.0
    along, across = ((x2 - x1) / long, (y2 - y1) / long), 0.0 if edge["mutual"] else 0.08 * long
    # Bent to its right, so that an edge and the one back do not cover each other.
    bend = ((x1 + x2) / 2 - along[1] * across, (y1 + y2) / 2 + along[0] * across)
    start, stop = (x1 + along[0] * 15, y1 + along[1] * 15), (x2 - along[0] * 19, y2 - along[1] * 19)
    thick = 0.8 + 4 * abs(edge["weight"]) / widest
    regulator, target = (names.get(end, end) for end in edge["ends"])
    way = "\N{EN DASH}" if edge["mutual"] else "\N{RIGHTWARDS ARROW}"
    said = _escaped(f"{regulator} {way} {target}: {edge['weight']:.4g}, {_SAID[edge['sign']]}")
    marker = f' marker-end="url(#m{edge["sign"] + 1})"' if own and not edge["mutual"] else ""
    colour, thick = (_COLOURS[edge["sign"]], thick) if own else ("#dde4ea", min(thick, 0.8))
    return (
        f'<path d="M{start[0]:.1f} {start[1]:.1f}Q{bend[0]:.1f} {bend[1]:.1f} {stop[0]:.1f} {stop[1]:.1f}"'
        f' stroke="{colour}" stroke-width="{thick:.2f}"'
        f"{marker}><title>{said}</title></path>"
    )


def _dot(gene: str, places: Mapping[str, tuple[float, float, float]], radius: float, *, own: bool, name: str) -> str:
    x, y, angle = places[gene]
    text = _escaped(name if len(name) <= 18 else f"{name[:17]}…")
    circle = (
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{13 if own else radius:.1f}" fill="{"#1d2733" if own else "#245d7c"}"'
    )
    circle += f' stroke="#fff" stroke-width="1.5"><title>{_escaped(gene)}</title></circle>'
    if own:
        return circle + f'<text x="{x:.1f}" y="{y - 19:.1f}" text-anchor="middle" font-size="14" font-weight="600"' \
            f' fill="#1d2733" stroke="#fff" stroke-width="4" paint-order="stroke">{text}</text>'  # fmt: skip
    gap, left = radius + 5, math.cos(angle) < -1e-9
    if len(places) - 1 <= MANY:
        anchor = "middle" if abs(math.cos(angle)) < 0.25 else "end" if left else "start"
        dx, dy = gap * math.cos(angle), gap * math.sin(angle) + (4 if anchor != "middle" else 9 * math.sin(angle) + 3)
        return circle + f'<text x="{x + dx:.1f}" y="{y + dy:.1f}" text-anchor="{anchor}" fill="#1d2733">{text}</text>'
    turn = math.degrees(angle) + (180 if left else 0)
    return circle + (
        f'<text transform="translate({x:.1f} {y:.1f}) rotate({turn:.1f})" x="{-gap if left else gap:.1f}" y="4"'
        f' text-anchor="{"end" if left else "start"}" fill="#1d2733">{text}</text>'
    )


def _marker(sign: int, colour: str) -> str:
    shape = "M1 0h2.4v10h-2.4z" if sign < 0 else "M0 0l9 5l-9 5z"  # a bar represses, an arrow does not
    return (
        f'<marker id="m{sign + 1}" viewBox="0 0 10 10" refX="{3 if sign < 0 else 8}" refY="5" markerWidth="11"'
        f' markerHeight="11" markerUnits="userSpaceOnUse" orient="auto"><path d="{shape}" fill="{colour}"/></marker>'
    )


def _number(value: Any) -> float | None:
    return float(f"{value:.5g}") if math.isfinite(value) else None


def _escaped(text: str) -> str:
    return html.escape("".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text))
