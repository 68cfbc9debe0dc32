// One layer and head: levels, nulls, the rest, the images at its ends.
function drawPickers() {
  for (const place of document.querySelectorAll("[data-picker]")) {
    const slider = html("input", { type: "range", min: 0, max: data.layers.length - 1, step: 1, "aria-label": "Layer",
      oninput: () => pick({ layer: Number(slider.value) }) });
    const output = html("output", {});
    const select = html("select", { "aria-label": "Head", onchange: () => pick({ head: Number(select.value) }) },
      html("option", { value: MEAN }, "mean over heads"),
      ...data.heads.map((head, i) => html("option", { value: i }, `head ${head}`)));
    place.append(html("label", {}, "Layer", slider, output), html("label", {}, "Head", select));
    watch(["layer", "head"], () => {
      slider.value = state.layer;
      slider.setAttribute("aria-valuetext", `layer ${data.layers[state.layer]}, ${data.layerNames[state.layer]}`);
      select.value = state.head;
      output.replaceChildren(html("b", {}, String(data.layers[state.layer])), " ", html("code", {}, data.layerNames[state.layer]));
    });
  }
}

// Heads that the findings name lead to their figures.
function linkFindings() {
  for (const link of document.querySelectorAll("[data-cell]")) {
    const [layer, head] = link.dataset.cell.split(" ").map(Number);
    link.addEventListener("click", () => pick({ layer: data.layers.indexOf(layer), head: data.heads.indexOf(head) }));
  }
}

function drawLevels() {
  const { rows, columns, n, lift, low, high } = data.levels;
  const finite = lift.flat(3).filter((value) => value !== null).map(Math.abs);
  const reach = Math.min(3, Math.max(0.5, Math.ceil(Math.max(0, ...finite) * 2) / 2));
  const dashed = (level) => level.replace("-", "–");
  const count = (value) => (value === null ? "n/a" : value.toLocaleString("en").replaceAll(",", "\u2009"));
  watch(["layer", "head"], () => {
    const { layer, head } = state;
    const { table } = cellGrid("Attention from level to level", rows.map(dashed), columns.map(dashed), (r, c) => {
      const [value, from, to] = [lift, low, high].map((grid) => grid[layer][head][r][c]);
      const lines = [`from ${r < columns.length ? "level " : ""}${rows[r]} to level ${columns[c]}`, `log2 lift ${number(value, 2, true)}`];
      if (from !== null) lines.push(`95 % interval ${number(from, 2, true)} to ${number(to, 2, true)}`);
      if (value !== null) lines.push(`${(2 ** value).toFixed(2)} times an even share`);
      lines.push(r < columns.length ? `n = ${count(n[r])} patches` : "n: all patches");
      return { t: value === null ? null : value / reach, text: value === null ? "–" : number(value, 2, true), mark: value === null ? "missing" : "", lines };
    }, { corner: "from ↓ to →" });
    table.classList.add("diverging", "levels");
    const sizes = html("p", { class: "note" }, `Patches by level, n: ${columns.map((level, i) => `${dashed(level)}: ${count(n[i])}`).join(" · ")}`);
    at("levels").replaceChildren(html("div", { class: "scroll" }, table), scaleBar(reach, "log2", true, 1), sizes);
  });
}

function strip(panel, layer, head, reach) {
  const x = (value) => `${(50 + (46 * value) / reach).toFixed(2)}%`;
  const row = (low, high, middle, y, kind) => (read(panel, middle, layer, head) === null ? null : svg("g", { class: kind },
    svg("line", { class: "bar", x1: x(read(panel, low, layer, head)), x2: x(read(panel, high, layer, head)), y1: y, y2: y }),
    svg("circle", { cx: x(read(panel, middle, layer, head)), cy: y, r: 4 })));
  const end = (value) => svg("text", { x: x(value), y: 42, class: "middle" }, number(value, 2, true));
  const small = { class: "small", x: x(-data.relevant), y: 0, height: 30, width: `${((92 * data.relevant) / reach).toFixed(2)}%` };
  return svg("svg", { class: "strip", "aria-hidden": "true" }, svg("rect", small),
    svg("line", { class: "axis", x1: "50%", x2: "50%", y1: 0, y2: 30 }),
    row("low", "high", "effect", 9, "first"), row("mirror_low", "mirror_high", "mirror_effect", 21, "second"),
    end(-reach), end(0), end(reach));
}

function drawAgainst() {
  const tested = data.panels.filter((panel) => panel.tested);
  const described = data.panels.filter((panel) => !panel.tested);
  const keys = html("ul", { class: "keys" }, html("li", { class: "first" }, html("i"), "effect against null 1, other images"),
    html("li", { class: "second" }, html("i"), "against null 2, mirror images"), html("li", { class: "band" }, html("i"), "below 0.1"));
  const ends = (panel) => ["low", "high", "mirror_low", "mirror_high"].flatMap((grid) => (panel[grid] ? panel[grid].flat() : []));
  const reaches = new Map(tested.map((panel) => [panel.key, Math.max(0.12, ...ends(panel).filter((v) => v !== null).map(Math.abs)) * 1.02]));
  watch(["layer", "head"], () => {
    const { layer, head } = state;
    const blocks = tested.map((panel) => {
      const [first, second] = [statement(panel, layer, head), statement(panel, layer, head, "mirror")];
      const verdict = panel.verdicts[layer][head];
      const chances = [chance("p", read(panel, "p", layer, head)), chance("q", read(panel, "q", layer, head))].filter((text) => text);
      const observed = `observed ${number(read(panel, "value", layer, head), 2, true)}, null 1 ${number(read(panel, "null", layer, head), 2, true)}`;
      return html("div", { class: "block" },
        html("h4", {}, panel.label, html("span", { class: `badge ${verdict}` }, VERDICTS[verdict])),
        strip(panel, layer, head, reaches.get(panel.key)),
        html("p", {}, html("b", {}, first.figure), ` (${[first.interval, ...chances, `n = ${panel.n[layer][head]}`].filter((text) => text).join("; ")}); ${observed}`),
        second.interval ? html("p", {}, `Against mirror images ${second.figure} (${second.interval})`) : null);
    });
    at("against").replaceChildren(keys, ...blocks);
    const lines = described.map((panel) => {
      const { figure, interval } = statement(panel, layer, head);
      return html("tr", {}, html("th", { scope: "row" }, (panel.rival ? "Raw pull: " : "") + panel.label), html("td", {}, figure), html("td", {}, interval));
    });
    at("described").replaceChildren(html("table", { class: "plain" }, html("thead", {}, html("tr", {}, ...["Statistic", "Value", "95 % interval"].map((text) => html("th", { scope: "col" }, text)))),
      html("tbody", {}, ...lines)));
  });
}

function drawExtremes() {
  if (!data.extremes) return;
  const pictures = new Map(data.explorer.images.map((image, i) => [image.name, i]));
  watch(["layer", "head"], () => {
    const cell = data.extremes.cells[state.layer][state.head];
    const list = (title, entries) => html("div", {}, html("h3", {}, title), html("ol", { class: "ends" }, ...entries.map(([index, value]) => {
      const name = data.extremes.names[index];
      const picture = pictures.get(name);
      return html("li", {}, html("b", {}, `${number(value, 2, true)} SD`), " ",
        picture === undefined ? html("span", {}, name) : html("a", { href: "#images", onclick: () => pick({ image: picture }) }, name));
    })));
    at("extremes").replaceChildren(html("div", { class: "split" }, list("Images with the largest pull", cell.most), list("Images with the smallest pull", cell.least)),
      html("p", { class: "note" }, "Pull of single images beyond null 1: n = 1 each, so much of it is chance."));
  });
}
