// Curves over depth.
const PLOT = { width: 340, height: 214, left: 44, right: 10, top: 12, bottom: 34 };

function ticksOf(low, high, wanted = 4) {
  const rough = (high - low) / wanted;
  const size = 10 ** Math.floor(Math.log10(rough));
  const step = size * [1, 2, 5, 10].find((k) => k * size >= rough);
  const ticks = [];
  for (let tick = Math.ceil(low / step - 1e-9) * step; tick <= high + step * 1e-9; tick += step) ticks.push(tick);
  return { ticks, places: Math.max(0, -Math.floor(Math.log10(step) + 1e-9)) };
}

// series: {name, class, values, low?, high?, clear?}; threads: thin lines behind; least: magnitude that the axis always
// shows, so that what is tiny looks tiny.
function plot({ title, unit, note = "", series, threads = [], least = 0, shaded = false, describeLayer }) {
  const all = [...series.flatMap((line) => [...line.values, ...(line.low ?? []), ...(line.high ?? [])]), ...threads.flat()];
  const known = all.filter((value) => value !== null);
  let [low, high] = [Math.min(shaded ? -least : 0, ...known), Math.max(least, ...known)];
  if (low === high) high = low + 1;
  const pad = (high - low) * 0.06;
  [low, high] = [low < 0 ? low - pad : 0, high > 0 ? high + pad : 0];
  const count = data.layers.length;
  const x = (layer) => PLOT.left + 12 + (count < 2 ? 0.5 : layer / (count - 1)) * (PLOT.width - PLOT.left - PLOT.right - 24);
  const y = (value) => PLOT.height - PLOT.bottom - ((value - low) / (high - low)) * (PLOT.height - PLOT.top - PLOT.bottom);
  const path = (values) => {
    let pen = "M";
    let drawn = "";
    values.forEach((value, layer) => {
      drawn += value === null ? "" : `${pen}${x(layer).toFixed(1)} ${y(value).toFixed(1)}`;
      pen = value === null ? "M" : "L";
    });
    return drawn;
  };
  const band = (line) => {
    const rows = line.values.map((_, layer) => layer).filter((layer) => (line.low?.[layer] ?? null) !== null);
    const edge = (values, order) => order.map((layer) => `${x(layer).toFixed(1)} ${y(values[layer]).toFixed(1)}`);
    return rows.length ? `M${[...edge(line.low, rows), ...edge(line.high, [...rows].reverse())].join("L")}Z` : "";
  };
  const { ticks, places } = ticksOf(low, high);
  const every = Math.ceil(count / 12);
  const cursor = svg("line", { class: "cursor", y1: PLOT.top - 4, y2: PLOT.height - PLOT.bottom });
  const target = svg("rect", { class: "target", x: PLOT.left, y: 0, width: PLOT.width - PLOT.left, height: PLOT.height });
  const drawing = svg("svg", {
    viewBox: `0 0 ${PLOT.width} ${PLOT.height}`, class: "plot", role: "slider", tabindex: 0, "aria-label": `${title}, by layer`,
    "aria-valuemin": data.layers[0], "aria-valuemax": data.layers[count - 1],
  },
  shaded ? svg("rect", { class: "small", x: PLOT.left, y: y(data.relevant), width: PLOT.width - PLOT.left - PLOT.right, height: y(-data.relevant) - y(data.relevant) }) : null,
  ...ticks.map((tick) => svg("g", {}, svg("line", { class: Math.abs(tick) < 1e-9 ? "zero" : "rule", x1: PLOT.left, x2: PLOT.width - PLOT.right, y1: y(tick), y2: y(tick) }),
    svg("text", { x: PLOT.left - 6, y: y(tick) + 3.5, class: "end" }, number(tick, places)))),
  ...data.layers.map((layer, i) => (i % every ? null : svg("text", { x: x(i), y: PLOT.height - PLOT.bottom + 16, class: "middle" }, String(layer)))),
  svg("text", { x: (PLOT.left + PLOT.width) / 2, y: PLOT.height - 3, class: "middle" }, "layer"),
  cursor,
  ...threads.map((values) => svg("path", { class: "thread", d: path(values) })),
  ...series.flatMap((line) => [svg("path", { class: `band ${line.class}`, d: band(line) }), svg("path", { class: `line ${line.class}`, d: path(line.values) })]),
  ...series.flatMap((line) => line.values.map((value, layer) => (value === null || !line.clear ? null
    : svg("circle", { class: `dot ${line.signed ? (value < 0 ? "second" : "first") : line.class} ${line.clear[layer] ? "" : "hollow"}`, cx: x(layer), cy: y(value), r: count > 16 ? 2.4 : 3.4 })))),
  target);
  const layerAt = (event) => {
    const box = drawing.getBoundingClientRect();
    const place = ((event.clientX - box.left) / box.width) * PLOT.width;
    return data.layers.reduce((best, _, i) => (Math.abs(x(i) - place) < Math.abs(x(best) - place) ? i : best), 0);
  };
  const show = (layer) => showTip(cursor, describeLayer(layer));
  let hovered = null;
  const move = (layer) => {
    cursor.setAttribute("x1", x(layer));
    cursor.setAttribute("x2", x(layer));
  };
  target.addEventListener("mousemove", (event) => {
    hovered = layerAt(event);
    move(hovered);
    show(hovered);
  });
  target.addEventListener("mouseleave", () => {
    hovered = null;
    move(state.layer);
    hideTip();
  });
  target.addEventListener("click", (event) => pick({ layer: layerAt(event) }));
  drawing.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1 }[event.key];
    if (!step) return;
    pick({ layer: Math.min(count - 1, Math.max(0, state.layer + step)) });
    show(state.layer);
    event.preventDefault();
  });
  drawing.addEventListener("blur", hideTip);
  watch(["layer"], () => {
    if (hovered === null) move(state.layer);
    drawing.setAttribute("aria-valuenow", data.layers[state.layer]);
    drawing.setAttribute("aria-valuetext", describeLayer(state.layer).join(", "));
  });
  const keys = series.length > 1
    ? html("ul", { class: "keys" }, ...series.map((line) => html("li", { class: line.class }, html("i"), line.name))) : null;
  return html("figure", { class: "panel" }, html("h3", {}, title), html("p", { class: "meaning" }, unit), drawing, keys,
    note ? html("figcaption", {}, note) : null);
}

const column = (panel, grid, head) => data.layers.map((_, layer) => read(panel, grid, layer, head));

function depthPlot(panel) {
  const shown = panel.tested ? "effect" : "value";
  const mean = {
    name: "mean", class: "main", values: column(panel, shown, MEAN), low: column(panel, "low", MEAN), high: column(panel, "high", MEAN),
    signed: panel.tested,
    clear: panel.tested ? panel.verdicts.map((row) => row[MEAN] !== "unclear") : data.layers.map(() => true),
  };
  return plot({
    title: panel.label,
    unit: panel.tested ? `effect, ${panel.axis}` : panel.axis,
    series: [mean],
    threads: data.heads.map((_, head) => column(panel, shown, head)),
    least: panel.tested ? 1.2 * data.relevant : 0,
    shaded: panel.tested,
    describeLayer: (layer) => describe(panel, layer, MEAN),
  });
}

function nullPlot(panel) {
  const series = [
    { name: "observed", class: "main", values: column(panel, "value", MEAN) },
    { name: "null 1, other images", class: "first", values: column(panel, "null", MEAN) },
    { name: "null 2, mirror images", class: "second", values: column(panel, "mirror_null", MEAN) },
  ].filter((line) => line.values.some((value) => value !== null));
  const lines = (layer) => [cellName(layer, MEAN),
    ...series.map((line) => `${line.name}: ${number(line.values[layer], 3, true)} ${panel.unit}`), `n = ${panel.n[layer][MEAN]} images`];
  return plot({ title: panel.label, unit: panel.axis, series, least: 1.2 * data.relevant, describeLayer: lines });
}

function rivalPlot() {
  const [pull, rivals] = [panelOf("semantic_pull"), data.panels.filter((panel) => panel.rival)];
  if (!pull || !rivals.length) return [];
  const series = [{ name: "SIFT keypoints", class: "main", values: column(pull, "value", MEAN) },
    ...rivals.map((panel, i) => ({ name: panel.label, class: `rival${i}`, values: column(panel, "value", MEAN) }))];
  const lines = (layer) => [cellName(layer, MEAN),
    ...series.map((line) => `${line.name}: ${number(line.values[layer], 3, true)} SD`), `n = ${pull.n[layer][MEAN]} images`];
  return [plot({
    title: "Raw pull toward other maps",
    unit: "observed, standard deviations of each map",
    note: "Not corrected by a null: local and central attention alone can give these.",
    series,
    least: 1.2 * data.relevant,
    describeLayer: lines,
  })];
}

function drawDepth() {
  at("curves").append(...data.panels.filter((panel) => !panel.rival).map(depthPlot));
  at("nulls").append(...data.panels.filter((panel) => panel.tested && panel.null).map(nullPlot), ...rivalPlot());
}
