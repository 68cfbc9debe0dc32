// Layers x heads heat maps; the last column is the mean over heads.
function headGrid(panel) {
  const diverging = panel.tested || panel.rival;
  const numbers = data.heads.length <= 8;
  const places = panel.reach >= 10 ? 0 : 2;
  const { table, cells } = cellGrid(
    `${panel.label}, layers by heads`,
    data.layers.map(String),
    [...data.heads.map(String), "avg"],
    (layer, head) => {
      const value = read(panel, panel.tested ? "effect" : "value", layer, head);
      return {
        t: value === null ? null : value / panel.reach,
        text: numbers && value !== null ? number(value, places, diverging) : "",
        mark: panel.verdicts[layer][head],
        lines: describe(panel, layer, head),
        choose: () => pick({ layer, head }),
      };
    },
    { corner: "layer", rowTitles: data.layerNames },
  );
  table.classList.add(diverging ? "diverging" : "sequential", "by-head");
  watch(["layer", "head"], () => {
    cells.forEach((line, layer) =>
      line.forEach((cell, head) => {
        cell.setAttribute("aria-selected", layer === state.layer && head === state.head);
      }),
    );
  });
  const caption = `${panel.tested ? "effect, " : ""}${panel.axis}; n = ${counts(panel)} images`;
  return html("figure", { class: "panel" }, html("h3", {}, panel.label), html("p", { class: "meaning" }, panel.meaning),
    html("div", { class: "scroll" }, table),
    html("figcaption", {}, scaleBar(panel.reach, panel.unit || panel.axis, diverging, panel.reach >= 10 ? 0 : panel.reach < 0.1 ? 3 : 2),
      html("span", {}, caption)));
}

function drawHeads() {
  at("grids").append(...data.panels.filter((panel) => panel.tested).map(headGrid));
  const rest = data.panels.filter((panel) => !panel.tested);
  if (!rest.length) return;
  const more = html("div", { class: "grids" });
  const details = html("details", {
    ontoggle: () => more.childElementCount || more.append(...rest.map(headGrid)),
  }, html("summary", {}, "More heat maps: what is described, not tested"), more);
  at("grids").after(details);
}
