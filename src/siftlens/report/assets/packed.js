// Attention as the file carries it: bytes in base64, rows of single patches deflated.
function bytesOf(text) {
  const [characters, bytes] = [atob(text), new Uint8Array((text.length / 4) * 3)];
  for (let i = 0; i < characters.length; i++) bytes[i] = characters.charCodeAt(i);
  return bytes.subarray(0, characters.length);
}

const overviews = new Map();
function overviewBytes(part) {
  if (!overviews.has(part)) overviews.set(part, bytesOf(part.bytes));
  return overviews.get(part);
}

const placeOf = (layer, head) => layer * (data.heads.length + 1) + head;
const overviewAt = new Map(data.explorer.overview.map(([layer, head], i) => [placeOf(layer, head), i]));

// One head's map, or the mean over heads, as shares of attention; null where the file does not carry it.
function attentionOf(image, part) {
  const [bytes, patches] = [overviewBytes(part), image.rows * image.cols];
  const heads = state.head === MEAN ? data.heads.map((_, head) => head) : [state.head];
  const places = heads.map((head) => overviewAt.get(placeOf(state.layer, head)));
  if (places.includes(undefined)) return null;
  const values = new Float64Array(patches);
  for (const place of places) {
    const scale = (part.scale[place] ?? 0) / 255 / heads.length;
    for (let i = 0; i < patches; i++) values[i] += bytes[place * patches + i] * scale;
  }
  return Array.from(values);
}

// Largest difference of a stored share from the exact one.
function overviewError(part) {
  const heads = state.head === MEAN ? data.heads.map((_, head) => head) : [state.head];
  return Math.max(...heads.map((head) => part.scale[overviewAt.get(placeOf(state.layer, head))] ?? 0)) / 255 / 2;
}

async function inflated(text) {
  const stream = new Blob([bytesOf(text)]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Response(stream).arrayBuffer();
}

// One kind of kept rows: shares 0-255 of each row's scale, which keys they go to (null: all), and what that is off by.
async function unpacked(kind, patches) {
  if (!kind) return new Map();
  const buffer = await inflated(kind.packed);
  const rows = kind.heads.length * patches;
  const count = rows * kind.kept;
  const keyBytes = kind.keyBytes * count;
  const values = new Uint8Array(buffer, 0, count);
  const keys = kind.keyBytes ? new (kind.keyBytes === 1 ? Uint8Array : Uint16Array)(buffer.slice(count, count + keyBytes)) : null;
  const floats = new Float32Array(buffer.slice(count + keyBytes));
  const [scale, held] = [floats.subarray(0, rows), floats.subarray(rows)];
  return new Map(kind.heads.map(([layer, head], map) => [placeOf(layer, head), (query) => {
    const row = map * patches + query;
    const shares = Array.from(values.subarray(row * kind.kept, (row + 1) * kind.kept), (value) => (value / 255) * scale[row]);
    const to = keys ? Array.from(keys.subarray(row * kind.kept, (row + 1) * kind.kept)) : shares.map((_, key) => key);
    return { keys: to, shares, whole: !keys, held: held[row], error: kind.error[map] };
  }]));
}

// Rows of an image by layer and head, (query) -> row; resolved once, then at hand.
const rowsOf = new Map();
function openRows(image) {
  const patches = image.rows * image.cols;
  return Promise.all([unpacked(image.whole, patches), unpacked(image.strongest, patches)])
    .then(([whole, strongest]) => rowsOf.set(image, new Map([...strongest, ...whole])));
}
