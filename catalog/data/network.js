"use strict";
// Draws a gene and its neighbours; a click on a gene goes there. All text is set as text, never as markup.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const NS = "http://www.w3.org/2000/svg";
  const RING = 235, STEP = 46, MANY = 18;
  const COLOURS = { "1": "var(--up)", "-1": "var(--down)", "0": "var(--plain)" };
  const el = (id) => document.getElementById(id);
  const drawing = el("drawing");
  const outgoing = data.genes.map(() => []), incoming = data.genes.map(() => []);
  data.edges.forEach((edge, number) => { outgoing[edge[0]].push(number); incoming[edge[1]].push(number); });
  const largest = data.out.reduce((a, b) => Math.max(a, b), 1);
  const byWord = new Map();
  data.genes.forEach(([id, name], number) => { byWord.set(name.toLowerCase(), number); });
  data.genes.forEach(([id], number) => { byWord.set(id.toLowerCase(), number); });

  let middle = data.start, view = null, moved = new Map();
  const trail = [];

  const make = (kind, attributes, parent) => {
    const node = document.createElementNS(NS, kind);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    if (parent) parent.appendChild(node);
    return node;
  };
  const pairs = new Map(data.edges.map((edge, number) => [edge[0] + " " + edge[1], number]));
  // The two edges of a pair that say the same, as all of a symmetric read-out do, are drawn as one line.
  const mutual = (number) => {
    const [from, to, sign, value] = data.edges[number], back = data.edges[pairs.get(to + " " + from)];
    return back !== undefined && back[2] === sign && back[3] === value;
  };
  const weight = (number) => Math.abs(data.edges[number][3]);
  const label = (number) => { const name = data.genes[number][1]; return name.length > 18 ? name.slice(0, 17) + "…" : name; };
  const shown = (value) => value === null ? "–" : Math.abs(value) >= 1e5 || (value !== 0 && Math.abs(value) < 1e-3) ? value.toExponential(1) : String(Number(value.toPrecision(3)));

  function neighbourhood() {
    const way = el("way").value, strength = new Map(), kinds = new Map();
    const meet = (other, number, bit) => {
      strength.set(other, Math.max(strength.get(other) || 0, weight(number)));
      kinds.set(other, (kinds.get(other) || 0) | bit);
    };
    if (way !== "in") outgoing[middle].forEach((number) => meet(data.edges[number][1], number, 1));
    if (way !== "out") incoming[middle].forEach((number) => meet(data.edges[number][0], number, 2));
    const near = [...strength.keys()].sort((a, b) => strength.get(b) - strength.get(a) || (data.genes[a][0] < data.genes[b][0] ? -1 : 1)).slice(0, Number(el("most").value));
    return { near, ordered: [1, 3, 2].flatMap((kind) => near.filter((other) => kinds.get(other) === kind)), targets: near.filter((other) => kinds.get(other) === 1).length, all: strength.size };
  }

  function place(ordered, targets) {
    const step = 2 * Math.PI / Math.max(ordered.length, 1), begin = -step * (targets - 1) / 2;
    const places = new Map([[middle, { x: 0, y: 0, angle: 0 }]]);
    ordered.forEach((other, number) => {
      const angle = begin + step * number, far = RING + (ordered.length > MANY && number % 2 ? STEP : 0);
      places.set(other, { x: far * Math.cos(angle), y: far * Math.sin(angle), angle });
    });
    for (const [other, at] of moved) if (places.has(other)) Object.assign(places.get(other), at);
    return places;
  }

  function route(from, to, straight) {
    const long = Math.hypot(to.x - from.x, to.y - from.y) || 1, ax = (to.x - from.x) / long, ay = (to.y - from.y) / long;
    const across = straight ? 0 : 0.08 * long, bx = (from.x + to.x) / 2 - ay * across, by = (from.y + to.y) / 2 + ax * across;
    return `M${from.x + ax * 15} ${from.y + ay * 15}Q${bx} ${by} ${to.x - ax * 19} ${to.y - ay * 19}`;
  }

  function draw() {
    const { near, ordered, targets, all } = neighbourhood(), places = place(ordered, targets);
    const inside = new Set([middle, ...near]);
    const edges = [];
    inside.forEach((gene) => outgoing[gene].forEach((number) => {
      const own = gene === middle || data.edges[number][1] === middle;
      const way = el("way").value;
      if (!inside.has(data.edges[number][1]) || (!own && !el("among").checked)) return;
      if (own && ((way === "out" && gene !== middle) || (way === "in" && gene === middle))) return;
      if (mutual(number) && gene > data.edges[number][1] && (!own || way === "both")) return;
      edges.push([number, own]);
    }));
    edges.sort((a, b) => a[1] - b[1]);
    const widest = edges.reduce((most, [number]) => Math.max(most, weight(number)), 0) || 1;
    drawing.replaceChildren();
    const defs = make("defs", {}, drawing);
    for (const sign of ["1", "-1", "0"]) {
      const marker = make("marker", { id: "m" + sign, viewBox: "0 0 10 10", refX: sign === "-1" ? 3 : 8, refY: 5, markerWidth: 11, markerHeight: 11, markerUnits: "userSpaceOnUse", orient: "auto" }, defs);
      make("path", { d: sign === "-1" ? "M1 0h2.4v10h-2.4z" : "M0 0l9 5l-9 5z", style: `fill: ${COLOURS[sign]}` }, marker);
    }
    const lines = make("g", {}, drawing), dots = make("g", {}, drawing), drawn = [];
    for (const [number, own] of edges) {
      const [from, to, sign] = data.edges[number], one = mutual(number), thick = 0.8 + 4 * weight(number) / widest;
      const path = make("path", { class: "edge", d: route(places.get(from), places.get(to), one), style: `stroke: ${own ? COLOURS[sign] : "#dde4ea"}; stroke-width: ${own ? thick : Math.min(thick, 0.8)}` }, lines);
      if (own && !one) path.setAttribute("marker-end", `url(#m${sign})`);
      make("title", {}, path).textContent = `${data.genes[from][1]} ${one ? "–" : "→"} ${data.genes[to][1]}: ${shown(data.edges[number][3])}`;
      drawn.push({ one, from, to, path });
    }
    for (const gene of [...near, middle]) dot(gene, places, drawn, near.length);
    el("said").textContent = String(near.length);
    panel(all, near.length);
    if (!view) { view = { x: -450, y: -350, w: 900, h: 700 }; }
    drawing.setAttribute("viewBox", `${view.x} ${view.y} ${view.w} ${view.h}`);
  }

  function dot(gene, places, drawn, many) {
    const at = places.get(gene), own = gene === middle, parent = drawing.lastChild;
    const node = make("g", { class: own ? "gene middle" : "gene", tabindex: 0, role: "button" }, parent);
    const radius = own ? 13 : 4.5 + 8 * Math.sqrt(data.out[gene] / largest);
    const circle = make("circle", { r: radius }, node), text = make("text", {}, node);
    make("title", {}, node).textContent = `${data.genes[gene][1]} (${data.genes[gene][0]}): ${data.out[gene]} targets, ${data.in[gene]} regulators`;
    text.textContent = label(gene);
    const put = () => {
      circle.setAttribute("cx", at.x); circle.setAttribute("cy", at.y);
      const angle = own ? -Math.PI / 2 : Math.atan2(at.y, at.x), left = Math.cos(angle) < -1e-9, gap = radius + 5;
      if (own || many <= MANY) {
        const anchor = Math.abs(Math.cos(angle)) < 0.25 ? "middle" : left ? "end" : "start";
        text.setAttribute("text-anchor", anchor);
        text.setAttribute("x", at.x + gap * Math.cos(angle));
        text.setAttribute("y", at.y + gap * Math.sin(angle) + (anchor === "middle" ? (own ? 0 : 9 * Math.sin(angle) + 3) : 4));
      } else {
        text.setAttribute("transform", `translate(${at.x} ${at.y}) rotate(${angle * 180 / Math.PI + (left ? 180 : 0)})`);
        text.setAttribute("text-anchor", left ? "end" : "start");
        text.setAttribute("x", left ? -gap : gap); text.setAttribute("y", 4);
      }
    };
    put();
    const mark = (on) => drawn.forEach(({ path, from, to }) => path.classList.toggle("faint", on && from !== gene && to !== gene));
    node.addEventListener("pointerenter", () => mark(true));
    node.addEventListener("pointerleave", () => mark(false));
    node.addEventListener("keydown", (event) => { if (event.key === "Enter" || event.key === " ") { event.preventDefault(); go(gene); } });
    node.addEventListener("pointerdown", (event) => {
      event.stopPropagation();
      node.setPointerCapture(event.pointerId);
      const start = point(event);
      let dragged = false;
      const move = (next) => {
        const now = point(next);
        if (!dragged && Math.hypot(now.x - start.x, now.y - start.y) < 4) return;
        dragged = true;
        at.x = now.x; at.y = now.y;
        if (!own) moved.set(gene, { x: now.x, y: now.y });
        put();
        drawn.forEach(({ path, from, to, one }) => { if (from === gene || to === gene) path.setAttribute("d", route(places.get(from), places.get(to), one)); });
      };
      node.addEventListener("pointermove", move);
      node.addEventListener("pointerup", () => { node.removeEventListener("pointermove", move); if (!dragged) go(gene); }, { once: true });
    });
  }

  function panel(all, drawn) {
    const [id, name] = data.genes[middle];
    el("name").textContent = name;
    el("about").textContent = (id === name ? "" : id + " · ") + `${data.out[middle]} targets and ${data.in[middle]} regulators in the network; ${drawn} of ${all} neighbours drawn`;
    const head = document.createElement("tr");
    for (const word of ["regulator", "target", "weight", ...data.layers]) {
      const cell = document.createElement("th");
      cell.textContent = word.replaceAll("_", " ");
      if (word !== "regulator" && word !== "target") cell.className = "n";
      head.appendChild(cell);
    }
    el("head").replaceChildren(head);
    const way = el("way").value;
    const numbers = [...(way === "in" ? [] : outgoing[middle]), ...(way === "out" ? [] : incoming[middle])];
    numbers.sort((a, b) => weight(b) - weight(a));
    el("rows").replaceChildren(...numbers.slice(0, 300).map((number) => {
      const [from, to, sign, ...values] = data.edges[number], row = document.createElement("tr");
      for (const gene of [from, to]) {
        const cell = document.createElement("td");
        if (gene === middle) cell.textContent = label(gene);
        else {
          const button = document.createElement("button");
          button.type = "button"; button.textContent = label(gene); button.title = data.genes[gene][0];
          button.addEventListener("click", () => go(gene));
          cell.appendChild(button);
        }
        row.appendChild(cell);
      }
      values.forEach((value, place) => {
        const cell = document.createElement("td");
        cell.className = "n"; cell.textContent = shown(value);
        if (place === 0) cell.style.color = COLOURS[sign];
        row.appendChild(cell);
      });
      return row;
    }));
  }

  function go(gene) {
    if (gene === middle) return;
    trail.push(middle);
    show(gene);
  }
  function show(gene) {
    middle = gene; moved = new Map(); view = null;
    el("back").hidden = trail.length === 0;
    draw();
  }
  function point(event) {
    const at = new DOMPoint(event.clientX, event.clientY).matrixTransform(drawing.getScreenCTM().inverse());
    return { x: at.x, y: at.y };
  }

  drawing.addEventListener("pointerdown", (event) => {
    drawing.setPointerCapture(event.pointerId);
    const start = point(event);
    const move = (next) => {
      const now = point(next);
      view.x -= now.x - start.x; view.y -= now.y - start.y;
      drawing.setAttribute("viewBox", `${view.x} ${view.y} ${view.w} ${view.h}`);
    };
    drawing.addEventListener("pointermove", move);
    drawing.addEventListener("pointerup", () => drawing.removeEventListener("pointermove", move), { once: true });
  });
  drawing.addEventListener("wheel", (event) => {
    event.preventDefault();
    const at = point(event), by = Math.exp(event.deltaY * 0.0015);
    if (view.w * by < 120 || view.w * by > 6000) return;
    view = { x: at.x + (view.x - at.x) * by, y: at.y + (view.y - at.y) * by, w: view.w * by, h: view.h * by };
    drawing.setAttribute("viewBox", `${view.x} ${view.y} ${view.w} ${view.h}`);
  }, { passive: false });
  el("find").addEventListener("input", () => {
    const word = el("find").value.trim().toLowerCase();
    el("known").replaceChildren(...(word ? data.genes.filter(([id, name]) => name.toLowerCase().startsWith(word) || id.toLowerCase().startsWith(word)).slice(0, 30).map(([id, name]) => {
      const option = document.createElement("option");
      option.value = name; option.label = id === name ? name : `${name} (${id})`;
      return option;
    }) : []));
  });
  el("find").addEventListener("change", () => {
    const gene = byWord.get(el("find").value.trim().toLowerCase());
    el("find").setCustomValidity(gene === undefined && el("find").value ? "not in this page" : "");
    el("find").reportValidity();
    if (gene !== undefined) { el("find").value = ""; go(gene); }
  });
  el("way").addEventListener("change", () => { moved = new Map(); draw(); });
  el("most").addEventListener("input", () => { moved = new Map(); draw(); });
  el("among").addEventListener("change", draw);
  el("back").addEventListener("click", () => { const gene = trail.pop(); if (gene !== undefined) show(gene); });
  draw();
})();
