// The bias explorer's picture: thumbnails of all groups, the weights of all keys for one query
// token, and the table that they are read from. `render` runs as an anywidget; `openPage` in a page
// that BiasExplorer.save wrote, with this same file inside. Offsets are query - key, in the order
// dt, dy, dx; tokens are [t, y, x]; a unit's window is [T, h, w], 1 on an axis that it lacks. Cells
// of a table are counted as drawn: by offset, or from the token, which turns all axes round.

const CHOICES = ["stage", "block", "branch", "group"];
const SYNCED = [...CHOICES, "query", "view"];
const FROM_TOKEN = "from the token", VIEWS = [FROM_TOKEN, "by offset"];
const MOVES = {
  ArrowLeft: [0, 0, -1], ArrowRight: [0, 0, 1], ArrowUp: [0, -1, 0], ArrowDown: [0, 1, 0],
  PageUp: [-1, 0, 0], PageDown: [1, 0, 0],
};
const HELP = "Point at a cell to read it out; click a token of the row to make it the query. On a "
  + "touch screen a tap reads a cell out, and a second tap on a token of the row makes it the query. "
  + "Keys: arrows move the query, Page Up and Page Down change its frame; with Shift they move the "
  + "key that is read out. A thumbnail chooses its group.";
const READING = {
  [FROM_TOKEN]: "The table is seen from the token that mixes: keys stand before or after it, above "
    + "or below, left or right, as in the clip. Dashed: what this query's row reads.",
  "by offset": "Offsets are query - key: in the table, right (dx > 0) is a key to the left, down "
    + "(dy > 0) a key above, dt > 0 a key in the past. Dashed: what this query's row reads.",
};
const SCALE = "Colours end at the 99th percentile of |weight| that is not 0, over all groups of "
  + "the unit and all models shown. Weights are exact to 1/65,534 of their group's largest.";
const QUERY = "#009e73", PROBE = "#e69f00", GAP = 6, TICKS = 22, STACKED = 600;
const THUMB = { wide: 110, gap: 10, label: 13, most: 160 };
const CSS = `
.bias-explorer { padding: 5px; font: 13px/1.5 system-ui, sans-serif;
  color: var(--jp-ui-font-color1, light-dark(#222, #eee)); }
.bias-explorer .choices { display: flex; flex-wrap: wrap; gap: 4px 16px; margin-bottom: 8px; }
.bias-explorer label { display: inline-flex; gap: 6px; align-items: center; }
.bias-explorer select { font: inherit; }
.bias-explorer h2 { font-size: 1.15rem; margin: 0 0 2px; display: inline; }
.bias-explorer canvas { display: block; width: 100%; margin-bottom: 8px; }
.bias-explorer .help { float: right; max-width: min(100%, 34rem); }
.bias-explorer .help[open] { float: none; margin: 6px 0; }
.bias-explorer summary { cursor: pointer; list-style: none; width: 1.6em; line-height: 1.6em;
  margin-left: auto; text-align: center; border: 1px solid currentColor; border-radius: 50%; }
.bias-explorer :is(canvas, select):focus { outline: 3px solid #0072b2; outline-offset: 2px; }
.bias-explorer .bar { display: inline-block; width: 160px; height: 12px; vertical-align: middle;
  margin: 0 6px; }
.bias-explorer output { display: block; font-weight: 600; font-variant-numeric: tabular-nums; }
.bias-explorer p { margin: 4px 0 0; }
.bias-explorer canvas.films { max-width: 40rem; image-rendering: pixelated; }`;

function render({ model, el }) {
  const data = model.get("data");
  const weights = new Int16Array(data.weights.buffer.slice(data.weights.byteOffset,
    data.weights.byteOffset + data.weights.byteLength));
  const parts = build(el, data, choose, press, point, pick);
  let choice = null;  // stage, block, branch, group, query, and the unit that they name
  let probe = null;  // the cell that is read out, {kind, at, y, x}; null: the query itself
  let shown = null;  // the unit and group that the select boxes and notes are of
  let base = null;  // the part of the picture that no query changes
  let tapped = null;  // the cell that was tapped last
  let pushing = false;

  function pull() {
    if (pushing) return;
    choice = fitted(data.units, Object.fromEntries(SYNCED.map((name) => [name, model.get(name)])));
    draw();
  }

  function choose(changes) {
    choice = fitted(data.units, { ...choice, ...changes });
    draw();
    pushing = true;
    for (const name of SYNCED) model.set(name, choice[name]);
    model.save_changes();
    pushing = false;
  }

  function press(event) {
    if (!(event.key in MOVES) || event.ctrlKey || event.altKey || event.metaKey) return;
    event.preventDefault();
    event.stopPropagation();
    const from = event.shiftKey ? pairOf(choice, probe).key ?? choice.query : choice.query;
    const token = moved(from, MOVES[event.key], choice.unit.window);
    if (!event.shiftKey) return choose({ query: token });
    probe = { kind: "row", at: token[0], y: token[1], x: token[2] };
    draw();
  }

  function point(event) {
    const found = base && hit(base.slices, event.offsetX, event.offsetY);
    const touch = event.pointerType === "touch";
    if (event.type === "click") {
      const again = JSON.stringify(found) === JSON.stringify(tapped);
      tapped = found;
      if (found?.kind === "row" && (!touch || again)) {
        return choose({ query: [found.at, found.y, found.x] });
      }
      if (!touch) return;
    } else if (touch) return;  // a tap is the click above; its pointer leaves with the finger
    probe = event.type === "pointerleave" ? null : found;
    draw();
  }

  function pick({ offsetX, offsetY }) {
    const found = base?.thumbs.places.find(({ x, y, wide, high }) =>
      offsetX >= x && offsetX < x + wide && offsetY >= y && offsetY < y + high);
    if (found) choose({ group: found.group });
  }

  function draw() {
    const { unit, group, query, view } = choice;
    if (probe && !inside(probe, unit.window)) probe = null;
    if (shown?.unit !== unit || shown.group !== group || shown.view !== view) describe();
    const { clientWidth: width } = parts.canvas;
    if (!width) return;  // not laid out yet: the observer below draws
    const { color } = getComputedStyle(parts.canvas);
    if (base?.unit !== unit || base.group !== group || base.width !== width || base.view !== view
      || base.color !== color || base.ratio !== devicePixelRatio) {
      base = still(choice, width, color, weights, data);
      drawThumbs(parts.thumbs, base, group, unit, weights, data.names);
    }
    const rows = unit.models.map((_, m) => rowOf(weights, unit, m, group, query));
    const context = prepared(parts.canvas, width, base.height);
    context.drawImage(base.canvas, 0, 0, width, base.height);
    for (const [m, row] of rows.entries()) {
      const slices = base.slices.filter((slice) => slice.m === m && slice.kind === "row");
      paint(context, slices, row, unit.limit, base.palette);
    }
    for (const slice of base.slices) mark(context, slice, choice, probe, color);
    const weight = (m, { kind, at, y, x }) => kind === "row"
      ? entry(rows[m], unit.window, at, y, x)
      : entry(base.tables[m], unit.window.map((side) => 2 * side - 1),
        at + unit.window[0] - 1, y, x);
    parts.readout.textContent = readout(data.names, choice, probe, weight);
  }

  // What changes with the unit or the group only: the choices, the scale and the notes.
  function describe() {
    const { unit, group, view } = choice;
    shown = { unit, group, view };
    fillChoices(parts, data.units, choice);
    parts.what.textContent = `Stage ${unit.stage}, block ${unit.block}, ${unit.branch}, `
      + `group ${group} of ${unit.num_groups}: ${data.names.join(" and ")}`;
    parts.reading.textContent = READING[view];
    const bound = significant(unit.limit);
    parts.quantity.textContent = `${unit.quantity} `;
    parts.low.textContent = -bound;
    parts.high.textContent = bound;
    const notes = unit.models.map(({ note }, m) => note && `${data.names[m]}: ${note}. `);
    parts.notes.textContent = notes.join("");
    if (data.clips) drawFilms(parts.films, data.clips, unit.exemplars[group]);
  }

  const resized = new ResizeObserver(draw), scheme = matchMedia("(prefers-color-scheme: dark)");
  for (const name of SYNCED) model.on(`change:${name}`, pull);
  pull();
  resized.observe(parts.canvas.parentElement);
  scheme.addEventListener("change", draw);
  return () => {
    resized.disconnect();
    scheme.removeEventListener("change", draw);
    for (const name of SYNCED) model.off(`change:${name}`, pull);
  };
}

// Choices made to fit each other, coarse to fine, as BiasExplorer does it: what the unit lacks
// becomes its last stage, block or group, its first branch, or the centre of its window.
function fitted(units, wanted) {
  const choice = {};
  let left = units;
  for (const name of ["stage", "block", "branch"]) {
    const values = left.map((unit) => unit[name]);
    const fallback = name === "branch" ? values[0] : values.at(-1);
    choice[name] = values.includes(wanted[name]) ? wanted[name] : fallback;
    left = left.filter((unit) => unit[name] === choice[name]);
  }
  const [unit] = left;
  const fits = wanted.query.every((place, axis) => place < unit.window[axis]);
  choice.query = fits ? [...wanted.query] : unit.window.map((side) => Math.floor(side / 2));
  choice.group = Math.min(wanted.group, unit.num_groups - 1);
  choice.view = VIEWS.includes(wanted.view) ? wanted.view : FROM_TOKEN;
  return { ...choice, unit };
}

// A token one step on; over the side of a frame lies the next frame, as on the screen.
function moved([t, y, x], [dt, dy, dx], [T, h, w]) {
  const over = x + dx < 0 || x + dx >= w;
  const next = [t + dt + (over ? dx : 0), y + dy, (x + dx + w) % w];
  return next[0] < 0 || next[0] >= T || next[1] < 0 || next[1] >= h ? [t, y, x] : next;
}

// Weights as integers and the scale that makes numbers of them; `scale * values[i]` is one weight.
function tableOf(weights, { window, models }, m, group) {
  const { start, scales } = models[m].table;
  const size = window.reduce((product, side) => product * (2 * side - 1), 1);
  const from = start + group * size;
  return { values: weights.subarray(from, from + size), scale: scales[group] };
}

// A table in the order in which it is drawn.
function seenTable(table, view) {
  if (view !== FROM_TOKEN) return table;
  return { ...table, values: table.values.slice().reverse() };  // all offsets negated
}

// The offset of a cell [at, line, column] of a drawn table; its own inverse, but for the middle.
function offsetOf([at, y, x], [, h, w], view) {
  const offset = [at, y - h + 1, x - w + 1];
  return view === FROM_TOKEN ? offset.map((n) => -n || 0) : offset;
}

// The axes that a unit has, for words.
function axesOf(window, names) {
  const found = names.filter((_, axis) => window[axis] > 1);
  return found.length ? found : names.slice(0, 1);
}

// The weights of all keys for one query: the relation's row, or the offsets that it reads.
function rowOf(weights, unit, m, group, query) {
  const [T, h, w] = unit.window, size = T * h * w, [qt, qy, qx] = query;
  const { relation } = unit.models[m];
  if (relation) {
    const from = relation.start + (group * size + (qt * h + qy) * w + qx) * size;
    return { values: weights.subarray(from, from + size), scale: relation.scales[group] };
  }
  const table = tableOf(weights, unit, m, group), values = new Int16Array(size);
  for (let t = 0, i = 0; t < T; t++) {
    for (let y = 0; y < h; y++) {
      const line = (qt - t + T - 1) * (2 * h - 1) + qy - y + h - 1;
      const first = line * (2 * w - 1) + qx + w - 1;  // of the key at x = 0
      for (let x = 0; x < w; x++, i++) values[i] = table.values[first - x];
    }
  }
  return { values, scale: table.scale };
}

const entry = ({ values, scale }, [, rows, columns], at, y, x) =>
  scale * values[(at * rows + y) * columns + x];

// The offset of the cell that is read out, and its key where this query has one there.
function pairOf({ query, view, unit: { window } }, probe) {
  if (!probe) return { offset: [0, 0, 0], key: query };
  const cell = [probe.at, probe.y, probe.x];
  if (probe.kind === "row") return { offset: query.map((q, i) => q - cell[i]), key: cell };
  const offset = offsetOf(cell, window, view);
  const key = query.map((q, i) => q - offset[i]);
  return { offset, key: key.every((k, i) => k >= 0 && k < window[i]) ? key : null };
}

function readout(names, choice, probe, weight) {
  const { offset, key } = pairOf(choice, probe), { window } = choice.unit;
  const cell = probe ?? { kind: "row", at: key[0], y: key[1], x: key[2] };
  const values = names.map((name, m) => {
    const value = significant(weight(m, cell));
    return names.length > 1 ? `${name} ${value}` : value;
  });
  const place = (token, names) => axesOf(window, ["t", "y", "x"].map((axis, i) => [axis, i]))
    .map(([axis, i]) => `${names}${axis} ${token[i]}`).join(", ");
  const where = key ? `key ${place(key, "")}` : "no key there";
  const pair = `query ${place(choice.query, "")}; ${where}; ${place(offset, "d")}`;
  return `${pair}; weight ${values.join(", ")}`;
}

const significant = (value) => String(Number(value.toPrecision(4)));

function inside({ kind, at, y, x }, [T, h, w]) {
  if (kind === "row") return at < T && y < h && x < w;
  return Math.abs(at) < T && y < 2 * h - 1 && x < 2 * w - 1;
}

// Where each slice stands: a panel a model, in it the row frame by frame, then the table by frame.
// Panels stand side by side, or one below the other where the page is narrow.
function layOut(unit, width, names, view) {
  const stacked = width < STACKED, [, h, w] = unit.window;
  const panel = stacked ? width : (width - 24 * (names.length - 1)) / names.length;
  const across = h > 1 ? TICKS : 0, below = w > 1 ? 14 : 0;  // room for ticks
  const slices = [], headings = [];
  let height = 0;
  names.forEach((name, m) => {
    const left = 2 + (stacked ? 0 : m * (panel + 24));
    let top = (stacked ? height : 0) + 20;
    headings.push([name, left, top - 8, "bold 13px"]);
    for (const kind of ["row", "table"]) {
      const isRow = kind === "row", first = isRow ? 0 : 1 - unit.window[0];
      const [count, rows, columns] = unit.window.map((side) => (isRow ? side : 2 * side - 1));
      const room = panel - 4 - across;
      const fits = Math.floor((room - GAP * (count - 1)) / (count * columns));
      const least = Math.min(8, Math.ceil(75 / columns));  // below that, several lines of slices
      const cell = Math.max(least, Math.min(26, fits));
      const wide = columns * cell + GAP, high = rows * cell + GAP + 14;
      const perLine = Math.max(1, Math.floor((room + GAP) / wide));
      headings.push([title(kind, view, unit.window[0] > 1), left, top + 10]);
      for (let i = 0; i < count; i++) {
        const x = left + across + (i % perLine) * wide, y = top + 28 + Math.floor(i / perLine) * high;
        const at = i + first, named = at % Math.ceil(24 / wide) === 0;  // numbers must not overlap
        slices.push({ m, kind, at, rows, columns, cell, x, y, named: named && count > 1, first: !i });
      }
      top += 28 + Math.ceil(count / perLine) * high + below;
    }
    height = Math.max(height, top);
  });
  return { slices, headings, height };
}

// What stands above a row, or a table, of a unit with or without time; as in draw.py.
function title(kind, view, inTime) {
  if (kind === "row") return `weights of all keys${inTime ? ", by frame" : ""}`;
  if (view !== FROM_TOKEN) return `table by offset${inTime ? ", by dt" : ""} = query - key`;
  return `table from the token${inTime ? ": frames before (-), after (+)" : ""}`;
}

// The cell under a point of the canvas, or null.
function hit(slices, px, py) {
  for (const { kind, at, rows, columns, cell, x, y } of slices) {
    const column = Math.floor((px - x) / cell), line = Math.floor((py - y) / cell);
    if (column >= 0 && column < columns && line >= 0 && line < rows) {
      return { kind, at, y: line, x: column };
    }
  }
  return null;
}

// The part of the picture that no query changes, on a canvas of its own: headings, slices' numbers,
// ticks, and the tables with their frames.
function still({ unit, group, view }, width, color, weights, data) {
  const canvas = document.createElement("canvas");
  const { slices, headings, height } = layOut(unit, width, data.names, view);
  const context = prepared(canvas, width, height);
  const palette = Uint32Array.from(data.colours, ([r, g, b]) => 0xff000000 | b << 16 | g << 8 | r);
  context.fillStyle = color;
  for (const heading of headings) write(context, ...heading);
  for (const slice of slices) {
    const { at, x, y, named, first, kind } = slice, signed = kind === "table" && at > 0;
    if (named) write(context, signed ? `+${at}` : at, x, y - 4);
    if (first) ticks(context, slice);
  }
  const tables = unit.models.map((_, m) => seenTable(tableOf(weights, unit, m, group), view));
  const [, h, w] = unit.window;
  for (const [m, table] of tables.entries()) {
    const own = slices.filter((slice) => slice.m === m && slice.kind === "table");
    paint(context, own, table, unit.limit, palette);
    for (const slice of own) {
      const { at, rows, columns } = slice;
      box(context, slice, 0, 0, rows, columns, at ? "#999" : color, at ? 0.5 : 1.5);
      if (rows > 1) box(context, slice, h - 0.5, 0, 0, columns, "#2228", 0.5);
      if (columns > 1) box(context, slice, 0, w - 0.5, rows, 0, "#2228", 0.5);
    }
  }
  const ratio = devicePixelRatio, thumbs = layOutThumbs(unit, width, data.names.length);
  return { unit, group, view, width, color, ratio, canvas, slices, height, palette, tables, thumbs };
}

// Numbers at the ends of a slice's axes, and at 0 of a table's.
function ticks(context, { kind, rows, columns, cell, x, y }) {
  const numbered = (side) => kind === "row" ? [[0, 0], [side - 1, side - 1]]
    : [[0, (1 - side) / 2], [(side - 1) / 2, 0], [side - 1, (side - 1) / 2]];
  context.textAlign = "right";
  for (const [line, n] of rows > 1 ? numbered(rows) : []) {
    write(context, n, x - 4, y + (line + 0.5) * cell + 4, "10px");
  }
  context.textAlign = "center";
  for (const [column, n] of columns > 1 ? numbered(columns) : []) {
    write(context, n, x + (column + 0.5) * cell, y + rows * cell + 11, "10px");
  }
  context.textAlign = "left";
}

// Where the thumbnails stand: a group's tables, a line a model, slices of time side by side; of
// large ones the slice of the same frame alone.
function layOutThumbs({ window, num_groups: count }, width, lines) {
  let [slices, rows, columns] = window.map((side) => 2 * side - 1);
  if (slices * columns > THUMB.most && columns > 1) slices = 1;
  const most = slices > 1 && rows > 1 ? 2 * THUMB.wide : THUMB.wide;
  const cell = Math.max(1, Math.min(7, Math.floor(most / (slices * columns))));
  const wide = Math.max(24, slices * columns * cell), high = THUMB.label + lines * (rows * cell + 3);
  const perLine = Math.max(1, Math.floor((width - 4 + THUMB.gap) / (wide + THUMB.gap)));
  const places = Array.from({ length: count }, (_, group) => ({
    group, wide, high,
    x: 2 + (group % perLine) * (wide + THUMB.gap), y: 2 + Math.floor(group / perLine) * (high + 6),
  }));
  return { places, slices, rows, columns, cell, height: places.at(-1).y + high + 4 };
}

// Thumbnails of all groups on the unit's scale; the chosen one has a frame.
function drawThumbs(canvas, { thumbs, color, palette, width, view }, chosen, unit, weights, names) {
  const { places, slices, rows, columns, cell, height } = thumbs;
  const context = prepared(canvas, width, height), size = rows * columns;
  context.fillStyle = color;
  for (const { group, x, y, wide, high } of places) {
    write(context, group, x, y + 10, "10px");
    for (let m = 0; m < names.length; m++) {
      const table = seenTable(tableOf(weights, unit, m, group), view);
      const from = slices === 1 ? size * (unit.window[0] - 1) : 0;
      const values = table.values.subarray(from, from + slices * size);
      const top = y + THUMB.label + m * (rows * cell + 3);
      const own = Array.from({ length: slices }, (_, i) =>
        ({ rows, columns, cell, x: x + i * columns * cell, y: top }));
      paint(context, own, { ...table, values }, unit.limit, palette);
    }
    if (group !== chosen) continue;
    context.lineWidth = 2;
    context.strokeStyle = QUERY;
    context.strokeRect(x - 1, y - 1, wide + 2, high + 2);
  }
}

// A line a clip, its frames side by side, and framed the one that the group changes most.
function drawFilms(canvas, { pixels, shape: [, frames, rows, columns] }, best) {
  Object.assign(canvas, { width: frames * columns, height: best.length * rows });
  const context = canvas.getContext("2d"), image = context.createImageData(columns, rows);
  Object.assign(context, { strokeStyle: PROBE, lineWidth: 2 });
  for (const [line, [clip, marked]] of best.entries()) {
    for (let t = 0; t < frames; t++) {
      for (let n = 0, from = 3 * (clip * frames + t) * rows * columns; n < rows * columns; n++) {
        for (let c = 0; c < 3; c++) image.data[4 * n + c] = pixels.getUint8(from + 3 * n + c);
        image.data[4 * n + 3] = 255;
      }
      context.putImageData(image, t * columns, line * rows);
    }
    context.strokeRect(marked * columns + 1, line * rows + 1, columns - 2, rows - 2);
  }
}

// The canvas at this size and empty; coordinates are in CSS pixels.
function prepared(canvas, width, height) {
  const ratio = devicePixelRatio;
  const sides = { width: Math.round(width * ratio), height: Math.round(height * ratio) };
  if (canvas.width !== sides.width || canvas.height !== sides.height) {
    Object.assign(canvas, sides);
    canvas.style.height = `${height}px`;
  }
  const context = canvas.getContext("2d");
  context.setTransform(1, 0, 0, 1, 0, 0);
  context.clearRect(0, 0, canvas.width, canvas.height);
  context.setTransform(canvas.width / width, 0, 0, canvas.height / height, 0, 0);
  context.imageSmoothingEnabled = false;
  return context;
}

function write(context, text, x, y, size = "11px") {
  context.font = `${size} system-ui, sans-serif`;
  context.fillText(text, x, y);
}

const scratch = document.createElement("canvas");

// Slices of one array, a pixel a weight, enlarged; colours end at `limit`.
function paint(context, slices, { values, scale }, limit, palette) {
  const [{ rows, columns }] = slices;
  const image = new ImageData(columns, rows * slices.length);
  const pixels = new Uint32Array(image.data.buffer);
  const middle = (palette.length - 1) / 2, steps = middle * scale / limit;
  for (let i = 0; i < pixels.length; i++) {
    const clipped = Math.max(-middle, Math.min(middle, steps * values[i]));
    pixels[i] = palette[Math.round(middle + clipped)];
  }
  Object.assign(scratch, { width: image.width, height: image.height });
  scratch.getContext("2d").putImageData(image, 0, 0);
  slices.forEach(({ x, y, cell }, i) => context.drawImage(
    scratch, 0, i * rows, columns, rows, x, y, columns * cell, rows * cell));
}

// The outline of some cells of a slice.
function box(context, { x, y, cell }, line, column, high, wide, colour, thick, dash = []) {
  context.setLineDash(dash);
  context.lineWidth = thick;
  context.strokeStyle = colour;
  context.strokeRect(x + column * cell, y + line * cell, wide * cell, high * cell);
}

// On the row: frames and the query; on the table: what the query's row reads; on both: the probe.
function mark(context, slice, choice, probe, color) {
  const { kind, at, rows, columns } = slice;
  const { query: [t, y, x], view, unit: { window: [T, h, w] } } = choice, seen = view === FROM_TOKEN;
  if (kind === "row") {
    const now = at === t;
    box(context, slice, 0, 0, rows, columns, now ? color : "#999", now ? 1.5 : 0.5);
    if (now) box(context, slice, y, x, 1, 1, QUERY, 3);
  } else if (seen ? at >= -t && at < T - t : at <= t && at > t - T) {
    box(context, slice, seen ? h - 1 - y : y, seen ? w - 1 - x : x, h, w, "#222", 1, [3, 3]);
  }
  if (!probe) return;
  const { offset, key } = pairOf(choice, probe), sign = seen ? -1 : 1;
  const cell = kind === "row" ? key
    : [sign * offset[0], sign * offset[1] + h - 1, sign * offset[2] + w - 1];
  if (cell?.[0] === at) box(context, slice, cell[1], cell[2], 1, 1, PROBE, 2);
}

// The page's parts; `choose`, `press`, `point` and `pick` answer the select boxes, keys, the pointer
// and the thumbnails.
function build(el, data, choose, press, point, pick) {
  const add = (parent, tag, properties = {}) =>
    parent.appendChild(Object.assign(document.createElement(tag), properties));
  const root = add(el, "div", { className: "bias-explorer" });
  root.dataset.lmSuppressShortcuts = "true";  // else JupyterLab takes the arrow keys
  add(root, "style", { textContent: CSS });
  const help = add(root, "details", { className: "help" });
  add(help, "summary", { textContent: "?", ariaLabel: "help" });
  add(root, "h2", { textContent: "Mixing weights" });
  const what = add(root, "p"), bar = add(root, "div", { className: "choices" });
  const selects = {};
  for (const name of CHOICES) {
    const label = add(bar, "label", { textContent: name });
    selects[name] = add(label, "select", { ariaLabel: name });
    selects[name].addEventListener("change", ({ target: { value } }) =>
      choose({ [name]: name === "branch" ? value : Number(value) }));
  }
  const views = selects.view = add(add(bar, "label", { textContent: "view" }), "select",
    { ariaLabel: "view" });
  views.replaceChildren(...VIEWS.map((view) => new Option(view)));
  views.addEventListener("change", ({ target: { value } }) => choose({ view: value }));
  const thumbs = add(root, "canvas", { className: "thumbs" });
  thumbs.setAttribute("role", "img");
  thumbs.setAttribute("aria-label", "all groups, the chosen one framed; choose one by its number");
  thumbs.addEventListener("click", pick);
  const canvas = add(add(root, "div"), "canvas", { tabIndex: 0, className: "map" });
  canvas.setAttribute("role", "application");
  canvas.setAttribute("aria-label", `Mixing weights of one query token. ${HELP}`);
  canvas.addEventListener("keydown", press);
  for (const type of ["pointermove", "pointerleave", "click"]) canvas.addEventListener(type, point);
  const readout = add(root, "output");
  readout.setAttribute("aria-live", "polite");
  const scale = add(root, "p"), quantity = add(scale, "span");
  const low = add(scale, "span"), strip = add(scale, "span", { className: "bar" });
  const high = add(scale, "span");
  const stops = data.colours.map((rgb) => `rgb(${rgb.join()})`);
  strip.style.background = `linear-gradient(to right, ${stops.join()})`;
  const notes = add(root, "p");
  if (data.clips) add(root, "p", { textContent: `Clips in which this group of the ${data.names[0]} `
    + "model says most; framed: where its knock-out changes most." });
  const films = data.clips && add(root, "canvas", { className: "films" });
  add(help, "p", { textContent: HELP });
  const reading = add(help, "p");
  add(help, "p", { textContent: SCALE });
  return { selects, canvas, thumbs, readout, quantity, low, high, notes, what, reading, films };
}

function fillChoices({ selects }, units, choice) {
  let left = units;
  for (const name of CHOICES) {
    const numbers = [...Array(choice.unit.num_groups).keys()];
    const values = name === "group" ? numbers : [...new Set(left.map((unit) => unit[name]))];
    const options = selects[name].options;
    if (values.join() !== [...options].map((option) => option.value).join()) {
      selects[name].replaceChildren(...values.map((value) => new Option(value)));
    }
    selects[name].value = choice[name];
    left = left.filter((unit) => unit[name] === choice[name]);
  }
  selects.view.value = choice.view;
}

// A saved page has no kernel: a model that answers as anywidget's does, from what is on the page.
function openPage(state, decoded) {
  const { data } = state;
  data.weights = new DataView(decoded(data.weights).buffer);
  if (data.clips) data.clips.pixels = new DataView(decoded(data.clips.pixels).buffer);
  const model = {
    get: (name) => state[name],
    set: (name, value) => { state[name] = value; },
    save_changes() {}, on() {}, off() {},
  };
  render({ model, el: document.getElementById("explorer") });
}

export default { render };
