// Single images with keypoints, concentration and attention.
const INK = { attention: [255, 116, 20], points: [255, 210, 63] }; // over grey images, light or dark
const OPAQUE = 0.88;
const FOLDS = 4; // the attention scale runs from an even share to 2^4 times it

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

// Share over an even share of what goes to patches.
function liftOf(values) {
  const even = values.reduce((sum, value) => sum + value, 0) / values.length;
  return values.map((value) => (even > 0 ? value / even : 1));
}

// strength(value) in [0, 1]; at 0 and below the image shows through.
function paint(canvas, image, values, ink, strength) {
  canvas.width = image.cols;
  canvas.height = image.rows;
  const context = canvas.getContext("2d");
  const pixels = context.createImageData(image.cols, image.rows);
  values.forEach((value, i) => pixels.data.set([...ink, 255 * OPAQUE * Math.min(1, Math.max(0, strength(value)))], 4 * i));
  context.putImageData(pixels, 0, 0);
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

const percent = (value) => `${(100 * value).toFixed(100 * value < 1 ? 2 : 1)}\u00a0%`;

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
        const [canvas, legend] = [html("canvas"), html("figcaption", { class: "scale over" })];
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
    for (const panel of panels) {
      const key = panel.of ? `${state.layer} ${state.head}` : "always";
      if (!panel.canvas || panel.key === key) continue;
      panel.key = key;
      panel.values = panel.of ? attentionOf(image, panel.of) : image.concentration;
      if (panel.of) {
        panel.lift = liftOf(panel.values);
        paint(panel.canvas, image, panel.lift, INK.attention, (lift) => Math.log2(lift) / FOLDS);
        const heads = state.head === MEAN ? data.heads.map((_, head) => head) : [state.head];
        const step = Math.max(...heads.map((head) => panel.of.scale[state.layer][head] ?? 0)) / 255;
        panel.legend.replaceChildren(html("i", { class: "attention" }), html("div", {}, ...["even or less", "4 ×", "16 × or more"].map((text) => html("span", {}, text))),
          html("em", {}, `share of attention over an even share, log scale; stored to ±\u00a0${percent(step / 2)} of attention`));
      } else {
        const top = Math.max(...panel.values, 1e-9);
        paint(panel.canvas, image, panel.values, INK.points, (value) => value / top);
        panel.legend.replaceChildren(html("i", { class: "points" }), html("div", {}, html("span", {}, "0"), html("span", {}, number(top, top < 10 && top % 1 ? 2 : 0))),
          html("em", {}, data.measure === "count" ? "keypoints per patch" : `${data.measure} per patch`));
      }
    }
    const [row, col] = [Math.floor(state.patch / image.cols), state.patch % image.cols];
    for (const { cursor } of panels) {
      cursor.setAttribute("visibility", state.patch < 0 ? "hidden" : "visible");
      cursor.setAttribute("x", (col * image.width) / image.cols);
      cursor.setAttribute("y", (row * image.height) / image.rows);
    }
    const parts = panels.filter((panel) => panel.values).map((panel) => {
      const value = panel.values[state.patch];
      const words = panel.of ? `${percent(value)}, ${number(panel.lift[state.patch], 2)} times an even share` : number(value, value % 1 ? 2 : 0);
      return `${panel.title.toLowerCase()} ${words}`;
    });
    at("patch").textContent = state.patch < 0 ? `${image.name}: no patch chosen.` : `${image.name}, patch in row ${row}, column ${col}: ${parts.join("; ")}.`;
  });
}
