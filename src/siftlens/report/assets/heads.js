// Layers x heads heat maps; the last column is the mean over heads.
function headGrid(panel, { title = panel.label, meaning = panel.meaning, heads = [...data.heads.map(String), "avg"], numbers = data.heads.length <= 8, scale = true } = {}) {
  const diverging = panel.tested || panel.rival;
  const places = panel.reach >= 10 ? 0 : 2;
  const { table, cells } = cellGrid(
    `${title}, layers by heads`,
    data.layers.map(String),
    heads,
    (layer, head) => {
      const value = read(panel, panel.tested ? "effect" : "value", layer, head);
      return {
        t: value === null ? null : value / panel.reach,
        text: numbers && value !== null ? number(value, panel.tested && places === 2 && besideRelevant(value) ? 3 : places, diverging) : "",
        mark: panel.verdicts[layer][head],
        lines: describe(panel, layer, head),
        choose: () => pick({ layer, head }),
      };
    },
    { corner: "layer", rowTitles: data.layerNames },
  );
  table.classList.add(diverging ? "diverging" : "sequential", heads.length > MEAN ? "by-head" : "by-head-alone");
  watch(["layer", "head"], () => {
    cells.forEach((line, layer) =>
      line.forEach((cell, head) => {
        cell.setAttribute("aria-selected", layer === state.layer && head === state.head);
      }),
    );
  });
  const bar = scale ? scaleOf(panel, diverging) : null;
  const caption = `${panel.tested ? "effect, " : ""}${panel.axis}; n = ${counts(panel)} images`;
  return html("figure", { class: "panel" }, html("h3", {}, title), meaning ? html("p", { class: "meaning" }, meaning) : null,
    html("div", { class: "scroll" }, table),
    html("figcaption", {}, ...[bar, html("span", {}, scale ? caption : `n = ${counts(panel, heads.length)} images`)].filter((part) => part)));
}

const scaleOf = (panel, diverging) => scaleBar(panel.reach, panel.unit || panel.axis, diverging, panel.reach >= 10 ? 0 : panel.reach < 0.1 ? 3 : 2);

// The main statistic in every group of images, on one scale.
function drawGroups() {
  if (!data.groups) return;
  at("group-scale").append(scaleOf(data.groups[0], true));
  at("group-grids").append(...data.groups.map((panel) => headGrid(panel, { title: panel.group, meaning: "", heads: data.heads.map(String), numbers: false, scale: false })));
}

function drawHeads() {
  at("grids").append(...data.panels.filter((panel) => panel.tested).map((panel) => headGrid(panel)));
  const rest = data.panels.filter((panel) => !panel.tested);
  if (!rest.length) return;
  const more = html("div", { class: "grids" });
  const details = html("details", {
    ontoggle: () => more.childElementCount || more.append(...rest.map((panel) => headGrid(panel))),
  }, html("summary", {}, "More heat maps: what is described, not tested"), more);
  at("grids").after(details);
}
