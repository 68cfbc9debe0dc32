// Single images with keypoints, concentration and attention.
const RAMP = ["#000004", "#1b0c41", "#4a0c6b", "#781c6d", "#a52c60", "#cf4446", "#ed6925", "#fb9b06", "#f7d13d", "#fcffa4"]
  .map((color) => [1, 3, 5].map((i) => parseInt(color.slice(i, i + 2), 16)));
function rampColor(t) {
  const place = Math.min(1, Math.max(0, t)) * (RAMP.length - 1);
  const i = Math.min(RAMP.length - 2, Math.floor(place));
  return RAMP[i].map((value, c) => value + (RAMP[i + 1][c] - value) * (place - i));
}

const unpacked = new Map();
function bytesOf(part) {
  if (!unpacked.has(part)) unpacked.set(part, Uint8Array.from(atob(part.bytes), (character) => character.charCodeAt(0)));
  return unpacked.get(part);
}

// One head's map, or the mean over heads, as shares of attention.
function attentionOf(image, part) {
  const [bytes, patches] = [bytesOf(part), image.rows * image.cols];
  const heads = state.head === MEAN ? data.heads.map((_, head) => head) : [state.head];
  const values = new Float64Array(patches);
  for (const head of heads) {
    const start = (state.layer * data.heads.length + head) * patches;
    const scale = (part.scale[state.layer][head] ?? 0) / 255 / heads.length;
    for (let i = 0; i < patches; i++) values[i] += bytes[start + i] * scale;
  }
  return Array.from(values);
}

function paint(canvas, image, values, top) {
  canvas.width = image.cols;
  canvas.height = image.rows;
  const context = canvas.getContext("2d");
  const pixels = context.createImageData(image.cols, image.rows);
  values.forEach((value, i) => pixels.data.set([...rampColor(value / top), 255], 4 * i));
  context.putImageData(pixels, 0, 0);
}

// The scale ends at the 98th percentile, so that one sink does not blacken the rest, but not below `least`.
function topOf(values, least) {
  const sorted = [...values].sort((a, b) => a - b);
  const top = sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * 0.98))];
  return Math.max(top, least);
}

function view(image, title, overlay, scale) {
  const cursor = svg("rect", { class: "cursor", width: image.width / image.cols, height: image.height / image.rows, visibility: "hidden" });
  const over = svg("svg", { viewBox: `0 0 ${image.width} ${image.height}`, "aria-hidden": "true" },
    ...(overlay ? [] : image.points.map(([x, y, size]) => svg("circle", { class: "keypoint", cx: x, cy: y, r: Math.max(1, size / 2) }))), cursor);
  const stack = html("div", { class: `stack ${overlay ? "under" : ""}`, tabindex: 0, role: "application",
    "aria-label": `${title}: arrow keys move over the patches` }, html("img", { src: image.source, alt: "" }), overlay, over);
  const choose = (patch) => pick({ patch });
  stack.addEventListener("mousemove", (event) => {
    const box = stack.getBoundingClientRect();
    const col = Math.min(image.cols - 1, Math.floor(((event.clientX - box.left) / box.width) * image.cols));
    const row = Math.min(image.rows - 1, Math.floor(((event.clientY - box.top) / box.height) * image.rows));
    if (row * image.cols + col !== state.patch) choose(Math.max(0, row * image.cols + col));
  });
  stack.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
    if (!step) return;
    const patch = Math.max(0, state.patch);
    const row = Math.min(image.rows - 1, Math.max(0, Math.floor(patch / image.cols) + step[0]));
    const col = Math.min(image.cols - 1, Math.max(0, (patch % image.cols) + step[1]));
    choose(row * image.cols + col);
    event.preventDefault();
  });
  return { figure: html("figure", { class: "panel" }, html("h3", {}, title), stack, scale), cursor };
}

const percent = (value) => `${(100 * value).toFixed(100 * value < 1 ? 2 : 1)} %`;

function drawGallery() {
  if (!data.gallery.length) return;
  const buttons = data.gallery.map((image, i) => html("button", { type: "button", title: image.name, onclick: () => pick({ image: i, patch: -1 }) },
    html("img", { src: image.source, alt: image.name })));
  at("thumbs").append(...buttons);
  let shown = null; // the image whose panels stand
  let panels = [];
  watch(["layer", "head", "image", "patch"], () => {
    const image = data.gallery[state.image];
    buttons.forEach((button, i) => button.setAttribute("aria-pressed", i === state.image));
    if (shown !== image) {
      shown = image;
      const sheet = (title, of) => {
        const [canvas, legend] = [html("canvas"), html("figcaption", { class: "scale heat" })];
        return { ...view(image, title, canvas, legend), canvas, legend, of, title };
      };
      const points = html("figcaption", {}, `${image.points.length} keypoints; circles show position and size`);
      panels = [
        { ...view(image, "Keypoints", null, points), of: null, title: "Keypoints" },
        sheet("Concentration", null),
        ...image.attention.map((part) => sheet(part.label, part)),
      ];
      at("views").replaceChildren(...panels.map((panel) => panel.figure));
    }
    const even = 1 / (image.rows * image.cols);
    for (const panel of panels) {
      if (!panel.canvas) continue;
      const key = panel.of ? `${state.layer} ${state.head}` : "always";
      if (panel.key === key) continue;
      panel.key = key;
      panel.values = panel.of ? attentionOf(image, panel.of) : image.concentration;
      const top = topOf(panel.values, panel.of ? 2 * even : 1e-9);
      paint(panel.canvas, image, panel.values, top);
      const text = panel.of ? percent(top) : number(top, top < 10 ? 1 : 0);
      panel.legend.replaceChildren(html("i"), html("div", {}, html("span", {}, "0"), html("span", {}, `${text} or more`)),
        html("em", {}, panel.of ? `share of attention; an even share is ${percent(even)}` : data.measure === "count" ? "keypoints per patch" : `${data.measure} per patch`));
    }
    const [row, col] = [Math.floor(state.patch / image.cols), state.patch % image.cols];
    for (const { cursor } of panels) {
      cursor.setAttribute("visibility", state.patch < 0 ? "hidden" : "visible");
      cursor.setAttribute("x", (col * image.width) / image.cols);
      cursor.setAttribute("y", (row * image.height) / image.rows);
    }
    const parts = panels.filter((panel) => panel.values).map((panel) =>
      `${panel.title.toLowerCase()} ${panel.of ? percent(panel.values[state.patch]) : number(panel.values[state.patch], 2)}`);
    at("patch").textContent = state.patch < 0 ? `${image.name}: no patch chosen.` : `${image.name}, patch in row ${row}, column ${col}: ${parts.join("; ")}.`;
  });
}
