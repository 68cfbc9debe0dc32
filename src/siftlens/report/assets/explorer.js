// Single images with keypoints, concentration and attention; a click on a patch shows where it attends.
const INK = { attention: [255, 116, 20], points: [255, 210, 63] }; // over grey images, light or dark
const OPAQUE = 0.88;
const FOLDS = 4; // the attention scale runs from an even share to 2^4 times it
const STRONGEST_TOLD = 3;

// strength(value) in [0, 1]; at 0 and below, and where there is no value, the image shows through.
function paint(canvas, image, values, ink, strength) {
  canvas.width = image.cols;
  canvas.height = image.rows;
  const context = canvas.getContext("2d");
  const pixels = context.createImageData(image.cols, image.rows);
  values.forEach((value, i) => {
    const opacity = value === null ? 0 : Math.min(1, Math.max(0, strength(value)));
    pixels.data.set([...ink, 255 * OPAQUE * opacity], 4 * i);
  });
  context.putImageData(pixels, 0, 0);
}
const folds = (lift) => (lift > 0 ? Math.log2(lift) / FOLDS : 0);

// Share over an even share of what goes to patches.
function liftOf(values) {
  const even = values.reduce((sum, value) => sum + value, 0) / values.length;
  return values.map((value) => (even > 0 ? value / even : 1));
}

// A picture with an overlay; the pointer or the arrow keys read patches, a click or Enter chooses one.
function view(image, title, overlay, ...below) {
  const size = { width: image.width / image.cols, height: image.height / image.rows, visibility: "hidden" };
  const [cursor, chosen] = ["cursor", "chosen"].map((kind) => svg("rect", { class: kind, ...size }));
  const over = svg("svg", { viewBox: `0 0 ${image.width} ${image.height}`, "aria-hidden": "true" },
    ...(overlay ? [] : image.points.map(([x, y, size]) => svg("circle", { class: "keypoint", cx: x, cy: y, r: Math.max(1, size / 2) }))), chosen, cursor);
  const stack = html("div", { class: `stack ${overlay ? "under" : ""}`, tabindex: 0, role: "application",
    "aria-label": `${title}: arrow keys move over the patches, Enter chooses one` }, html("img", { src: image.source, alt: "" }), overlay, over);
  const patchAt = (event) => {
    const box = stack.getBoundingClientRect();
    const [col, row] = [[event.clientX - box.left, box.width, image.cols], [event.clientY - box.top, box.height, image.rows]]
      .map(([place, length, count]) => Math.min(count - 1, Math.max(0, Math.floor((place / length) * count))));
    return row * image.cols + col;
  };
  stack.addEventListener("mousemove", (event) => pick({ patch: patchAt(event) }));
  stack.addEventListener("click", (event) => pick({ patch: patchAt(event), query: patchAt(event) }));
  stack.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
    const patch = state.patch < 0 ? state.query : state.patch;
    if (step) {
      const row = Math.min(image.rows - 1, Math.max(0, Math.floor(patch / image.cols) + step[0]));
      const col = Math.min(image.cols - 1, Math.max(0, (patch % image.cols) + step[1]));
      pick({ patch: row * image.cols + col });
    } else if (event.key === "Enter" || event.key === " ") pick({ patch, query: patch });
    else return;
    event.preventDefault();
  });
  return { figure: html("figure", { class: "panel" }, html("h3", {}, title), stack, ...below), stack, cursor, chosen };
}

const percent = (share) => `${(100 * share).toFixed(100 * share < 1 ? 2 : 1)}\u00a0%`;
// A bound in two digits, rounded up.
function bound(share) {
  if (!share) return "0\u00a0%";
  const digit = 10 ** (Math.floor(Math.log10(100 * share)) - 1);
  return `${Number((Math.ceil((100 * share) / digit) * digit).toPrecision(2))}\u00a0%`;
}
const placeName = (image, patch) => `row ${Math.floor(patch / image.cols)}, column ${patch % image.cols}`;

const attentionScale = (unit) => [html("i", { class: "attention" }),
  html("div", {}, ...["even or less", "4 ×", "16 × or more"].map((text) => html("span", {}, text))), html("em", {}, unit)];

// The views beside the stage: keypoints, concentration, what patches receive, the class token's row.
function panelsOf(image) {
  const points = html("figcaption", {}, `${image.points.length} keypoints; circles show position and size`);
  const sheet = (title, part) => {
    const [canvas, legend] = [html("canvas"), html("figcaption", { class: "scale over" })];
    return { ...view(image, title, canvas, legend), canvas, legend, part, title };
  };
  return [{ ...view(image, "Keypoints", null, points), title: "Keypoints" }, sheet("Concentration", null),
    ...image.attention.map((part) => sheet(part.label, part))];
}
function drawPanel(panel, image) {
  const key = panel.part ? placeOf(state.layer, state.head) : "always";
  if (!panel.canvas || panel.key === key) return;
  panel.key = key;
  panel.values = panel.part ? attentionOf(image, panel.part) : image.concentration;
  if (!panel.values) {
    paint(panel.canvas, image, [], INK.attention, () => 0);
    panel.legend.replaceChildren(html("em", {}, "not in this file for this head: it would be too large"));
  } else if (panel.part) {
    panel.lift = liftOf(panel.values);
    paint(panel.canvas, image, panel.lift, INK.attention, folds);
    panel.legend.replaceChildren(...attentionScale(`share of attention over an even share, log scale; stored to ±\u00a0${bound(overviewError(panel.part))} of attention`));
  } else {
    const top = Math.max(...panel.values, 1e-9);
    paint(panel.canvas, image, panel.values, INK.points, (value) => value / top);
    panel.legend.replaceChildren(html("i", { class: "points" }), html("div", {}, html("span", {}, "0"), html("span", {}, number(top, top < 10 && top % 1 ? 2 : 0))),
      html("em", {}, data.measure === "count" ? "keypoints per patch" : `${data.measure} per patch`));
  }
}
function readout(panel) {
  const value = panel.values[state.patch];
  const words = panel.part ? `${percent(value)}, ${number(panel.lift[state.patch], 2)} times an even share` : number(value, value % 1 ? 2 : 0);
  return `${panel.title.toLowerCase()} ${words}`;
}

// The stage: where the chosen patch attends.
function stageOf(image) {
  const [canvas, legend, told] = [html("canvas"), html("figcaption", { class: "scale over" }), html("div", { class: "told", "aria-live": "polite" })];
  legend.append(...attentionScale(`share of the chosen patch's attention over an even share (1/${image.rows * image.cols}), log scale`));
  return { ...view(image, "Where the chosen patch attends", canvas, legend, told), canvas, told };
}
function drawStage(stage, image) {
  const patches = image.rows * image.cols;
  const rows = rowsOf.get(image);
  const row = rows?.get(placeOf(state.layer, state.head))?.(state.query);
  stage.row = row;
  const shares = new Array(patches).fill(null);
  row?.keys.forEach((key, i) => (shares[key] = row.shares[i]));
  stage.shares = shares;
  paint(stage.canvas, image, shares, INK.attention, (share) => folds(share * patches));
  const say = (...lines) => stage.told.replaceChildren(...lines.map((line) => html("p", {}, line)));
  if (rows === undefined) return say("Unpacking …");
  if (rows === null) return say("This browser cannot unpack the attention of single patches; a newer one can.");
  if (!row) return say(`${cellName(state.layer, state.head)}: its rows are not in this file, which would grow beyond 1.5 MB for this image. siftlens.attention_maps computes them.`);
  const strongest = row.keys.map((key, i) => [row.shares[i], key]).sort((a, b) => b[0] - a[0]).slice(0, STRONGEST_TOLD);
  const rest = data.front ? `the rest goes to ${data.front}` : "";
  return say(
    `${cellName(state.layer, state.head)}, patch in ${placeName(image, state.query)}: `
      + (row.whole ? `all ${patches} patches are shown and get ${percent(row.held)} of its attention${rest ? `; ${rest}` : ""}.`
        : `its ${row.keys.length} strongest keys are shown and get ${percent(row.held)} of its attention; the other patches${data.front ? ` and ${data.front}` : ""} share the rest.`),
    `Most goes to ${strongest.map(([share, key]) => `${key === state.query ? "itself" : placeName(image, key)} (${percent(share)})`).join("; ")}.`,
    `Stored in 8 bits: no share is off by more than ${bound(row.error)} of the patch's attention (measured on all rows of this image and head).`,
  );
}
function attended(stage) {
  if (!stage.row) return [];
  const share = stage.shares[state.patch];
  return [share !== null ? `gets ${percent(share)} of the chosen patch's attention`
    : `gets at most ${percent(Math.min(...stage.row.shares) + stage.row.error)} of the chosen patch's attention (not among its strongest)`];
}

// What of this image's attention the file carries.
function carried(image) {
  const name = ([layer, head]) => `layer ${data.layers[layer]}, head ${data.heads[head]}`;
  const whole = image.whole?.heads ?? [];
  const [heads, means] = [[], []];
  for (const cell of image.strongest?.heads ?? []) (cell[1] === MEAN ? means : heads).push(cell);
  const missing = data.layers.length * data.heads.length - whole.length - heads.length;
  const parts = [];
  if (whole.length) parts.push(`all rows in full for ${whole.map(name).join("; ")}`);
  if (heads.length) parts.push(`of every patch the ${image.strongest.kept} strongest keys for ${heads.length} other heads${means.length ? ` and for the mean over heads of ${means.length} layers` : ""}`);
  if (missing) parts.push(`no rows for ${missing} heads with small effects, so that an image takes no more than 1.5 MB`);
  return parts.length ? `Kept of this image: ${parts.join("; ")}.` : "";
}

function drawExplorer() {
  const { images } = data.explorer;
  if (!images.length) return;
  const buttons = images.map((image, i) => html("button", { type: "button", title: image.name, onclick: () => pick({ image: i }) },
    html("img", { src: image.source, alt: image.name })));
  at("thumbs").append(...buttons);
  let [shown, stage, panels] = [null, null, []];
  watch(["layer", "head", "image", "patch", "query", "opened"], () => {
    const image = images[state.image];
    buttons.forEach((button, i) => button.setAttribute("aria-pressed", i === state.image));
    if (shown !== image) {
      shown = image;
      // The patch richest in keypoints is chosen first.
      Object.assign(state, { patch: -1, query: image.concentration.indexOf(Math.max(...image.concentration)) });
      [stage, panels] = [stageOf(image), panelsOf(image)];
      at("stage").replaceChildren(stage.figure);
      at("views").replaceChildren(...panels.map((panel) => panel.figure));
      at("shown").textContent = `${image.name}: ${image.reasons.join("; ") || "chosen by chance"}.`;
      at("carried").textContent = carried(image);
      if (!rowsOf.has(image)) openRows(image).catch(() => rowsOf.set(image, null)).then(() => pick({ opened: state.opened + 1 }));
    }
    const drawn = `${state.layer} ${state.head} ${state.query} ${rowsOf.has(image)}`;
    if (stage.drawn !== drawn) drawStage(stage, image);
    stage.drawn = drawn;
    for (const panel of panels) drawPanel(panel, image);
    for (const { cursor, chosen } of [stage, ...panels]) {
      for (const [mark, patch] of [[cursor, state.patch], [chosen, state.query]]) {
        mark.setAttribute("visibility", patch < 0 ? "hidden" : "visible");
        mark.setAttribute("x", ((patch % image.cols) * image.width) / image.cols);
        mark.setAttribute("y", (Math.floor(patch / image.cols) * image.height) / image.rows);
      }
    }
    const parts = state.patch < 0 ? [] : [...attended(stage), ...panels.filter((panel) => panel.values).map(readout)];
    at("patch").textContent = parts.length ? `${image.name}, patch in ${placeName(image, state.patch)}: ${parts.join("; ")}.` : "Point at a patch to read its values.";
  });
}
