// The bias explorer's picture: the weights of all keys for one query token, and the table by offset
// that they are read from. `render` runs as an anywidget; `openPage` in a page that
// BiasExplorer.save wrote, with this same file inside. Offsets are query - key, in the order
// dt, dy, dx; tokens are [t, y, x]; a unit's window is [T, h, w], 1 on an axis that it lacks.

const CHOICES = ["stage", "block", "branch", "group"];
const SYNCED = [...CHOICES, "query"];
const MOVES = {
  ArrowLeft: [0, 0, -1], ArrowRight: [0, 0, 1], ArrowUp: [0, -1, 0], ArrowDown: [0, 1, 0],
  PageUp: [-1, 0, 0], PageDown: [1, 0, 0],
};
const HELP = "Click a token of the row to make it the query, or use the keys: arrows move the "
  + "query, Page Up and Page Down change its frame; with Shift they move the key that is read out.";
const READING = "Offsets are query - key: in the table, right (dx > 0) is a key to the left, down "
  + "(dy > 0) a key above, dt > 0 a key in the past. Dashed: what this query's row reads.";
const SCALE = "Colours end at the 99th percentile of |weight| that is not 0, over all groups of "
  + "the unit and all models shown. Weights are exact to 1/65,534 of their group's largest.";
const QUERY = "#009e73", PROBE = "#e69f00", INK = "#222", GAP = 6;
const CSS = `
.bias-explorer { padding: 5px; font: 13px/1.5 system-ui, sans-serif;
  color: var(--jp-ui-font-color1, #222); }
.bias-explorer .choices { display: flex; flex-wrap: wrap; gap: 4px 16px; margin-bottom: 8px; }
.bias-explorer label { display: inline-flex; gap: 6px; align-items: center; }
.bias-explorer select { font: inherit; }
.bias-explorer canvas { display: block; width: 100%; margin-bottom: 8px; }
.bias-explorer :is(canvas, select):focus { outline: 3px solid #0072b2; outline-offset: 2px; }
.bias-explorer .bar { display: inline-block; width: 160px; height: 12px; vertical-align: middle;
  margin: 0 6px; }
.bias-explorer output { display: block; font-weight: 600; font-variant-numeric: tabular-nums; }
.bias-explorer p { margin: 4px 0 0; }`;

function render({ model, el }) {
  const data = model.get("data");
  const weights = new Int16Array(data.weights.buffer.slice(data.weights.byteOffset,
    data.weights.byteOffset + data.weights.byteLength));
  const parts = build(el, data, choose, press, point);
  let choice = null;  // stage, block, branch, group, query, and the unit that they name
  let probe = null;  // the cell that is read out, {kind, at, y, x}; null: the query itself
  let slices = [];
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
    const found = hit(slices, event.offsetX, event.offsetY);
    if (event.type === "click") {
      if (found?.kind === "row") choose({ query: [found.at, found.y, found.x] });
      return;
    }
    probe = event.type === "pointerleave" ? null : found;
    draw();
  }

  function draw() {
    const { unit, group, query } = choice;
    if (probe && !inside(probe, unit.window)) probe = null;
    fillChoices(parts, data.units, choice);
    const width = parts.canvas.clientWidth;
    if (!width) return;  // not laid out yet: the observer below draws
    const layout = layOut(unit, width, data.names);
    slices = layout.slices;
    const context = prepared(parts.canvas, width, layout.height);
    for (const heading of layout.headings) write(context, ...heading);
    const [, h, w] = unit.window;
    const weight = (m, { kind, at, y, x }) => kind === "row"
      ? rowWeight(weights, unit, m, group, query, [at, y, x])
      : tableWeight(weights, unit, m, group, [at, y - h + 1, x - w + 1]);
    for (const slice of slices) {
      const { m, kind, at } = slice;
      paint(context, slice, (y, x) => weight(m, { kind, at, y, x }) / unit.limit, data.colours);
      mark(context, slice, choice, probe);
    }
    const bound = significant(unit.limit);
    parts.low.textContent = -bound;
    parts.high.textContent = bound;
    const notes = unit.models.map(({ note }, m) => note && `${data.names[m]}: ${note}. `);
    parts.notes.textContent = notes.join("");
    parts.readout.textContent = readout(data.names, choice, probe, weight);
  }

  const resized = new ResizeObserver(draw);
  for (const name of SYNCED) model.on(`change:${name}`, pull);
  pull();
  resized.observe(parts.canvas.parentElement);
  return () => {
    resized.disconnect();
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
  return { ...choice, unit };
}

// A token one step on; over the side of a frame lies the next frame, as on the screen.
function moved([t, y, x], [dt, dy, dx], [T, h, w]) {
  const over = x + dx < 0 || x + dx >= w;
  const next = [t + dt + (over ? dx : 0), y + dy, (x + dx + w) % w];
  return next[0] < 0 || next[0] >= T || next[1] < 0 || next[1] >= h ? [t, y, x] : next;
}

function tableWeight(weights, { window: [T, h, w], models }, m, group, [dt, dy, dx]) {
  const { start, scales } = models[m].table;
  const line = ((group * (2 * T - 1) + dt + T - 1) * (2 * h - 1)) + dy + h - 1;
  return weights[start + line * (2 * w - 1) + dx + w - 1] * scales[group];
}

function rowWeight(weights, unit, m, group, query, key) {
  const { relation } = unit.models[m];
  if (!relation) return tableWeight(weights, unit, m, group, query.map((q, i) => q - key[i]));
  const [T, h, w] = unit.window;
  const number = ([t, y, x]) => (t * h + y) * w + x;
  const line = group * T * h * w + number(query);
  return weights[relation.start + line * T * h * w + number(key)] * relation.scales[group];
}

// The offset of the cell that is read out, and its key where this query has one there.
function pairOf({ query, unit: { window } }, probe) {
  if (!probe) return { offset: [0, 0, 0], key: query };
  const cell = [probe.at, probe.y, probe.x];
  if (probe.kind === "row") return { offset: query.map((q, i) => q - cell[i]), key: cell };
  const offset = [cell[0], cell[1] - window[1] + 1, cell[2] - window[2] + 1];
  const key = query.map((q, i) => q - offset[i]);
  return { offset, key: key.every((k, i) => k >= 0 && k < window[i]) ? key : null };
}

function readout(names, choice, probe, weight) {
  const { offset: [dt, dy, dx], key } = pairOf(choice, probe);
  const cell = probe ?? { kind: "row", at: key[0], y: key[1], x: key[2] };
  const values = names.map((name, m) => {
    const value = significant(weight(m, cell));
    return names.length > 1 ? `${name} ${value}` : value;
  });
  const place = ([t, y, x]) => `t ${t}, y ${y}, x ${x}`;
  const where = key ? `key ${place(key)}` : "no key there";
  const pair = `query ${place(choice.query)}; ${where}; dt ${dt}, dy ${dy}, dx ${dx}`;
  return `${pair}; weight ${values.join(", ")}`;
}

const significant = (value) => String(Number(value.toPrecision(4)));

function inside({ kind, at, y, x }, [T, h, w]) {
  if (kind === "row") return at < T && y < h && x < w;
  return Math.abs(at) < T && y < 2 * h - 1 && x < 2 * w - 1;
}

// Where each slice stands: a panel a model, in it the row frame by frame, then the table dt by dt.
function layOut(unit, width, names) {
  const panel = (width - 24 * (names.length - 1)) / names.length;
  const slices = [], headings = [];
  let height = 0;
  names.forEach((name, m) => {
    const left = 2 + m * (panel + 24);
    let top = 20;
    headings.push([name, left, 12, "bold 13px"]);
    for (const kind of ["row", "table"]) {
      const isRow = kind === "row", first = isRow ? 0 : 1 - unit.window[0];
      const [count, rows, columns] = unit.window.map((side) => (isRow ? side : 2 * side - 1));
      const fits = Math.floor((panel - 4 - GAP * (count - 1)) / (count * columns));
      const least = Math.min(8, Math.ceil(75 / columns));  // below that, several lines of slices
      const cell = Math.max(least, Math.min(26, fits));
      const wide = columns * cell + GAP, high = rows * cell + GAP + 14;
      const perLine = Math.max(1, Math.floor((panel - 4 + GAP) / wide));
      const title = isRow ? "weights of all keys, by frame t" : "table by offset, by dt";
      headings.push([title, left, top + 10]);
      for (let i = 0; i < count; i++) {
        const x = left + (i % perLine) * wide, y = top + 28 + Math.floor(i / perLine) * high;
        const named = (i + first) % Math.ceil(24 / wide) === 0;  // numbers must not overlap
        slices.push({ m, kind, at: i + first, rows, columns, cell, x, y, named });
      }
      top += 28 + Math.ceil(count / perLine) * high;
    }
    height = Math.max(height, top);
  });
  return { slices, headings, height };
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

function prepared(canvas, width, height) {
  const ratio = window.devicePixelRatio;
  const sides = { width: Math.round(width * ratio), height: Math.round(height * ratio) };
  if (canvas.width !== sides.width || canvas.height !== sides.height) Object.assign(canvas, sides);
  canvas.style.height = `${height}px`;
  const context = canvas.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, width, height);
  context.imageSmoothingEnabled = false;
  context.fillStyle = getComputedStyle(canvas).color;
  return context;
}

function write(context, text, x, y, size = "11px") {
  context.font = `${size} system-ui, sans-serif`;
  context.fillText(text, x, y);
}

const scratch = document.createElement("canvas");

// One slice, a pixel a weight, enlarged; `share` gives a weight over the limit of the scale.
function paint(context, { rows, columns, cell, x, y }, share, colours) {
  const image = new ImageData(columns, rows);
  const middle = (colours.length - 1) / 2;
  for (let i = 0; i < rows * columns; i++) {
    const clipped = Math.max(-1, Math.min(1, share(Math.floor(i / columns), i % columns)));
    image.data.set(colours[Math.round((clipped + 1) * middle)], 4 * i);
    image.data[4 * i + 3] = 255;
  }
  scratch.width = columns;
  scratch.height = rows;
  scratch.getContext("2d").putImageData(image, 0, 0);
  context.drawImage(scratch, x, y, columns * cell, rows * cell);
}

// A slice's number, frame and, on a table, cross-hair; the query, what its row reads, the probe.
function mark(context, slice, choice, probe) {
  const { kind, at, rows, columns, cell, x, y, named } = slice;
  const { query, unit: { window: [T, h, w] } } = choice;
  if (named) write(context, at, x, y - 4);
  const box = (line, column, high, wide, colour, thick, dash = []) => {
    context.setLineDash(dash);
    context.lineWidth = thick;
    context.strokeStyle = colour;
    context.strokeRect(x + column * cell, y + line * cell, wide * cell, high * cell);
  };
  const now = kind === "row" ? at === query[0] : at === 0;
  box(0, 0, rows, columns, now ? INK : "#999", now ? 1.5 : 0.5);
  if (kind === "table") {
    if (rows > 1) box(h - 0.5, 0, 0, columns, "#2228", 0.5);
    if (columns > 1) box(0, w - 0.5, rows, 0, "#2228", 0.5);
    const read = at <= query[0] && at > query[0] - T;
    if (read) box(query[1], query[2], h, w, INK, 1, [3, 3]);
  } else if (now) box(query[1], query[2], 1, 1, QUERY, 3);
  const { offset, key } = pairOf(choice, probe);
  const cellOf = kind === "row" ? key : [offset[0], offset[1] + h - 1, offset[2] + w - 1];
  if (probe && cellOf?.[0] === at) box(cellOf[1], cellOf[2], 1, 1, PROBE, 2);
}

// The page's parts; `choose`, `press` and `point` answer the select boxes, keys and the pointer.
function build(el, data, choose, press, point) {
  const add = (parent, tag, properties = {}) =>
    parent.appendChild(Object.assign(document.createElement(tag), properties));
  const root = add(el, "div", { className: "bias-explorer" });
  root.dataset.lmSuppressShortcuts = "true";  // else JupyterLab takes the arrow keys
  add(root, "style", { textContent: CSS });
  const bar = add(root, "div", { className: "choices" });
  const selects = {};
  for (const name of CHOICES) {
    const label = add(bar, "label", { textContent: name });
    selects[name] = add(label, "select", { ariaLabel: name });
    selects[name].addEventListener("change", ({ target: { value } }) =>
      choose({ [name]: name === "branch" ? value : Number(value) }));
  }
  const canvas = add(add(root, "div"), "canvas", { tabIndex: 0 });
  canvas.setAttribute("role", "application");
  canvas.setAttribute("aria-label", `Mixing weights of one query token. ${HELP}`);
  canvas.addEventListener("keydown", press);
  for (const type of ["pointermove", "pointerleave", "click"]) canvas.addEventListener(type, point);
  const readout = add(root, "output");
  readout.setAttribute("aria-live", "polite");
  const scale = add(root, "p", { textContent: "mixing weight " });
  const low = add(scale, "span"), strip = add(scale, "span", { className: "bar" });
  const high = add(scale, "span");
  const stops = data.colours.map((rgb) => `rgb(${rgb.join()})`);
  strip.style.background = `linear-gradient(to right, ${stops.join()})`;
  const notes = add(root, "p");
  for (const text of [HELP, READING, SCALE]) add(root, "p", { textContent: text });
  return { selects, canvas, readout, low, high, notes };
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
}

// A saved page has no kernel: a model that answers as anywidget's does, from what is on the page.
function openPage() {
  const state = JSON.parse(document.getElementById("state").textContent);
  const bytes = Uint8Array.from(atob(state.data.weights), (letter) => letter.charCodeAt(0));
  state.data.weights = new DataView(bytes.buffer);
  const model = {
    get: (name) => state[name],
    set: (name, value) => { state[name] = value; },
    save_changes() {}, on() {}, off() {},
  };
  render({ model, el: document.getElementById("explorer") });
}

export default { render };
