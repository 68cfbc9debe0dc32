// Data, shared state, elements, numbers, the tooltip.
const data = JSON.parse(document.getElementById("figures").textContent);
const MEAN = data.heads.length; // column of the mean over heads
const panelOf = (key) => data.panels.find((panel) => panel.key === key);

// What is picked; a figure redraws itself when a name that it watches changes.
// patch: pointed at; query: chosen, its attention is shown; opened: images unpacked.
const state = { layer: 0, head: MEAN, image: 0, patch: -1, query: -1, opened: 0 };
const watchers = [];
function watch(names, redraw) {
  watchers.push({ names, redraw });
  redraw();
}
function pick(change) {
  const changed = Object.keys(change).filter((name) => state[name] !== change[name]);
  Object.assign(state, change);
  for (const { names, redraw } of watchers) if (names.some((name) => changed.includes(name))) redraw();
}

// Elements: text always goes in as text, never as markup.
function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name.startsWith("--")) element.style.setProperty(name, value);
    else if (value !== null && value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}
const html = (tag, attributes = {}, ...children) => fill(document.createElement(tag), attributes, children);
const svg = (tag, attributes = {}, ...children) =>
  fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
const at = (id) => document.getElementById(id);

// Numbers, as in the sentences: a real minus, decimals that the interval supports.
function number(value, places = 2, signed = false) {
  if (value === null || value === undefined) return "n/a";
  const text = Math.abs(value).toFixed(places);
  if (Number(text) === 0) return text;
  return (value < 0 ? "−" : signed ? "+" : "") + text;
}
// So near to the smallest relevant effect two decimals do not tell on which side a value lies.
const besideRelevant = (value) => Math.abs(Math.abs(value) - data.relevant) < 0.005;
function placesFor(...values) {
  return besideRelevant(values[0]) || values.some((value) => value && Math.abs(value) < 0.02) ? 3 : 2;
}
function chance(name, value) {
  if (value === null || value === undefined) return null;
  return value < 0.001 ? `${name} < 0.001` : `${name} = ${value.toFixed(3)}`;
}
const headName = (head) => (head === MEAN ? "mean over heads" : `head ${data.heads[head]}`);
const cellName = (layer, head) => `Layer ${data.layers[layer]}, ${headName(head)}`;
const read = (panel, grid, layer, head) => (panel[grid] ? panel[grid][layer][head] : null);
const VERDICTS = {
  relevant: "clear",
  small: "clear, but too small to matter",
  unclear: "cannot be told from the null",
  missing: "no value",
};

// Images behind the first columns of a panel: one number, or the range over heads.
function counts(panel, columns) {
  const all = panel.n.flatMap((row) => row.slice(0, columns));
  const [low, high] = [Math.min(...all), Math.max(...all)];
  return low === high ? String(low) : `${low} to ${high}`;
}

// A figure with its unit, its interval and n: the one way in which the report states a number.
function statement(panel, layer, head, kind = "shown") {
  const tested = panel.tested && kind !== "value";
  const [center, low, high] =
    kind === "mirror"
      ? ["mirror_effect", "mirror_low", "mirror_high"].map((grid) => read(panel, grid, layer, head))
      : [tested ? "effect" : "value", "low", "high"].map((grid) => read(panel, grid, layer, head));
  if (center === null) return { figure: "no value", interval: "" };
  const places = low === null ? 2 : placesFor(center, low, high);
  const unit = panel.unit ? ` ${panel.unit}` : "";
  return {
    figure: number(center, places, panel.tested) + unit,
    interval: low === null ? "" : `${number(low, places, panel.tested)} to ${number(high, places, panel.tested)}`,
  };
}
function describe(panel, layer, head) {
  const { figure, interval } = statement(panel, layer, head);
  const lines = [cellName(layer, head), `${panel.tested ? "effect " : ""}${figure}`];
  if (interval) lines.push(`95 % interval ${interval}`);
  if (panel.tested) {
    const chances = [chance("p", read(panel, "p", layer, head)), chance("q", read(panel, "q", layer, head))];
    const known = chances.filter((text) => text !== null);
    if (known.length) lines.push(known.join(", "));
    lines.push(VERDICTS[panel.verdicts[layer][head]]);
  }
  lines.push(`n = ${panel.n[layer][head]} images`);
  return lines;
}

// One tooltip for pointer and keyboard; it stays with its target while the page scrolls.
const tip = at("tip");
let tipped = null;
function placeTip() {
  if (!tipped) return;
  const box = tipped.getBoundingClientRect();
  const [width, height] = [tip.offsetWidth, tip.offsetHeight];
  const left = Math.min(Math.max(8, box.left + box.width / 2 - width / 2), document.documentElement.clientWidth - width - 8);
  const above = box.top - height - 10;
  tip.style.left = `${left}px`;
  tip.style.top = `${above > 8 ? above : box.bottom + 10}px`;
}
function showTip(target, lines) {
  tip.replaceChildren(html("b", {}, lines[0]), ...lines.slice(1).map((line) => html("span", {}, line)));
  tip.hidden = false;
  tipped = target;
  placeTip();
}
function hideTip() {
  tip.hidden = true;
  tipped = null;
}
document.addEventListener("keydown", (event) => event.key === "Escape" && hideTip());
document.addEventListener("scroll", placeTip, { passive: true, capture: true });

// Share of the pole's colour at a magnitude of 0 to 1: below linear, so that small effects keep a colour.
const shade = (magnitude) => (Math.min(1, magnitude) ** 0.7).toFixed(3);

// A grid of cells, one tab stop: arrow keys move, Enter picks.
// cell(row, column) -> {t in [-1, 1] or null, text, mark, lines, choose}
function cellGrid(name, rows, columns, cell, { corner = "", rowTitles = [], columnTitles = [] } = {}) {
  const cells = [];
  const body = rows.map((row, r) => {
    const line = columns.map((_, c) => {
      const { t, text = "", mark = "", lines, choose } = cell(r, c);
      const td = html("td", {
        role: "gridcell",
        class: `cell ${mark ? `mark-${mark}` : ""} ${t < 0 ? "down" : "up"}`,
        tabindex: r + c ? -1 : 0,
        "aria-label": lines.join(", "),
        "--t": shade(Math.abs(t ?? 0)),
        onmouseenter: () => showTip(td, lines),
        onmouseleave: hideTip,
        onfocus: () => showTip(td, lines),
        onblur: hideTip,
        onclick: () => choose && choose(),
        onkeydown: (event) => {
          const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
          if (step) {
            const next = cells[r + step[0]]?.[c + step[1]];
            if (next) {
              td.tabIndex = -1;
              next.tabIndex = 0;
              next.focus();
            }
            event.preventDefault();
          } else if (choose && (event.key === "Enter" || event.key === " ")) {
            choose();
            event.preventDefault();
          }
        },
      }, html("span", {}, text));
      return td;
    });
    cells.push(line);
    return html("tr", {}, html("th", { scope: "row", title: rowTitles[r] ?? null }, row), ...line);
  });
  const head = html("tr", {}, html("td", { class: "corner" }, corner),
    ...columns.map((column, c) => html("th", { scope: "col", title: columnTitles[c] ?? null }, column)));
  const table = html("table", { class: "grid", role: "grid", "aria-label": name }, html("thead", {}, head),
    html("tbody", {}, ...body));
  return { table, cells };
}

// Scale bar of a diverging or a sequential colour scale, shaded as the cells are.
function scaleBar(reach, unit, diverging, places) {
  const ends = diverging ? [-reach, 0, reach] : [0, reach];
  const stops = [-1, -0.75, -0.5, -0.25, -0.1, 0, 0.1, 0.25, 0.5, 0.75, 1].filter((t) => diverging || t >= 0).map((t) => {
    const pole = diverging ? (t < 0 ? "--away" : "--toward") : "--plain";
    return `color-mix(in oklab, var(${pole}) ${100 * shade(Math.abs(t))}%, var(--zero)) ${diverging ? 50 + 50 * t : 100 * t}%`;
  });
  return html("div", { class: "scale", "aria-hidden": "true" }, html("i", { "--bar": `linear-gradient(to right, ${stops.join(", ")})` }),
    html("div", {}, ...ends.map((end) => html("span", {}, number(end, places, diverging)))), html("em", {}, unit));
}
