// The page with the knob: a small model runs on a clip in the browser, and its arrow of time turns.
// `openPage` builds it from the state on the page; `Model` is the forward pass of posmlp/model.py
// for gate lrpe, in plain loops. Arrays are channel-last, [T, H, W, C] flat. Offsets are query - key,
// as everywhere; pictures are seen from the token, so that earlier frames stand on the left.

const INK = { own: "#0072b2", other: "#d55e00", trained: "#888" };
const CSS = `
:root { --line: #8886; --soft: #8882; }
body { margin: 0; } main { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 0 auto;
  padding: 12px; } h1 { font-size: 1.4rem; margin: 0 0 4px; } h2 { font-size: 1.05rem; margin: 0; }
p { margin: 4px 0 10px; } .panels { display: grid; gap: 16px; grid-template-columns: 1fr 1fr; }
.panels .knob { grid-column: 1 / -1; order: 3; } .answer { order: 2; }
section { box-sizing: border-box; border: 1px solid var(--line); border-radius: 8px; padding: 12px; min-width: 0; }
canvas { display: block; width: 100%; }
canvas.film { image-rendering: pixelated; aspect-ratio: 1; max-width: 288px; margin: 8px auto; }
canvas.table { touch-action: none; }
canvas:focus-visible, button:focus-visible, input:focus-visible, select:focus-visible {
  outline: 3px solid #0072b2; outline-offset: 2px; }
.row { display: flex; flex-wrap: wrap; gap: 6px 10px; align-items: center; margin: 6px 0; }
button, select { font: inherit; padding: 4px 10px; min-height: 34px; }
button[aria-pressed=true] { outline: 2px solid #0072b2; }
input[type=range] { width: 100%; margin: 8px 0; }
output { font-weight: 600; font-variant-numeric: tabular-nums; }
.bars { display: grid; grid-template-columns: max-content 1fr 3.2rem; gap: 2px 8px;
  font-size: .85rem; align-items: center; margin-top: 6px; }
.bars .track { position: relative; height: 14px; background: var(--soft); }
.bars .fill { position: absolute; inset: 0 auto 0 0; background: #999; }
.bars .was { position: absolute; top: -2px; bottom: -2px; width: 2px; background: currentColor; }
.bars .own { background: ${INK.own}; } .bars .other { background: ${INK.other}; }
.note { font-size: .85rem; opacity: .8; }
@media (max-width: 640px) { .panels { grid-template-columns: minmax(0, 1fr); }
  .panels .knob { order: 1; } canvas.film { max-width: 120px; margin: 4px auto; }
  p { font-size: .9rem; line-height: 1.4; } .bars { font-size: .75rem; gap: 0 8px; } }`;

// ---- the model ----------------------------------------------------------------------------------

class Model {
  constructor({ config, tensors }, weights) {
    this.config = config;
    this.tensors = {};
    for (const [name, { start, shape }] of Object.entries(tensors)) {
      const size = shape.reduce((product, side) => product * side, 1);
      this.tensors[name] = weights.subarray(start, start + size);
    }
    this.painted = {};  // tables in place of the trained ones, by name
  }

  get(name) { return this.painted[name] ?? this.tensors[name]; }

  // Logits of normalised pixels [T, S, S, 3], or of what `stem` made of them.
  run(stem, strength) {
    const { dims, frames, sides, eps } = this.config;
    let x = stem, side = sides[0];
    for (const [i, layout] of this.config.layouts.entries()) {
      const at = `stages.${i}`;
      if (i && this.config.halves[i - 1]) {
        const down = `downsamples.${i - 1}`;
        x = this.conv(x, `${down}.conv`, side, dims[i - 1], dims[i]);
        this.norm(x, `${down}.norm`, dims[i], this.config.downsample_norm, eps);
      }
      side = sides[i];
      for (let b = 0; b < this.config.depths[i]; b++) {
        for (const [k, step] of layout.entries()) {
          const sum = x.slice();
          for (const axes of step) {
            const name = `${at}.blocks.${b}.steps.${k}.${axes}`;
            this.branch(x, sum, name, i, axes, side, strength);
          }
          x = sum;
        }
      }
    }
    const C = dims.at(-1), tokens = frames * side * side, mean = new Float32Array(C);
    x = x.slice();
    this.norm(x, "norm", C, "layer", eps);
    for (let n = 0; n < x.length; n++) mean[n % C] += x[n] / tokens;
    return this.linear(mean, 1, "head", C);
  }

  stem(pixels) {
    const { dims, size, eps } = this.config, [C] = dims;
    let x = this.conv(pixels, "stem.convs.0", size, 3, C / 2);
    this.norm(x, "stem.norms.0", C / 2, this.config.stem_norm, eps);
    gelu(x);
    x = this.conv(x, "stem.convs.1", Math.ceil(size / 2), C / 2, C);
    this.norm(x, "stem.norms.1", C, this.config.stem_norm, eps);
    return x;
  }

  // Adds to `sum` what a branch makes of x.
  branch(x, sum, name, stage, axes, side, strength) {
    const { dims, frames, eps } = this.config, C = dims[stage], tokens = frames * side * side;
    const normed = x.slice();
    this.norm(normed, `${name}.norm`, C, "layer", eps);
    const h = this.linear(normed, tokens, `${name}.fc1`, C);
    gelu(h);
    const z = this.gate(h, name, stage, axes, side, strength);
    const out = this.linear(z, tokens, `${name}.fc2`, z.length / tokens);
    for (let n = 0; n < sum.length; n++) sum[n] += out[n];
  }

  // (P u + b) v over windows of t frames of k x k places, which `axes` says.
  gate(h, name, stage, axes, side, strength) {
    const { frames, groups, windows, temporal_windows } = this.config;
    const t = axes.includes("T") ? temporal_windows[stage] : 1;
    const k = axes.includes("S") ? windows[stage] : 1, G = groups[stage];
    const M = h.length / (frames * side * side) / 2, N = t * k * k, wide = 2 * k - 1;
    const key = `${name}.gate.positions.table`, bias = this.get(`${name}.gate.token_bias`);
    const table = axes.includes("T") ? turned(this.get(key), G, 2 * t - 1, strength) : this.get(key);
    const added = bias && t > 1 ? turned(bias, 1, t, strength) : bias;
    const offsets = table.length / G, places = new Int32Array(N), index = new Int32Array(N);
    const z = new Float32Array(h.length / 2), mixed = new Float32Array(M);
    for (let n = 0; n < N; n++) {
      const time = Math.floor(n / (k * k)), y = Math.floor(n / k) % k;
      places[n] = (time * side + y) * side + n % k;
      index[n] = (time * wide + y) * wide + n % k;  // offsets are differences of these
    }
    const middle = ((t - 1) * wide + k - 1) * wide + k - 1;
    for (let t0 = 0; t0 < frames; t0 += t) {
      for (let y0 = 0; y0 < side; y0 += k) {
        for (let x0 = 0; x0 < side; x0 += k) {
          const first = (t0 * side + y0) * side + x0;
          for (let m = 0; m < N; m++) {
            mixed.fill(added ? added[m] : 0);
            for (let n = 0; n < N; n++) {
              const from = 2 * M * (first + places[n]), at = index[m] - index[n] + middle;
              for (let g = 0; g < G; g++) {
                const weight = table[g * offsets + at];
                for (let c = g; c < M; c += G) mixed[c] += weight * h[from + c];
              }
            }
            const to = first + places[m];
            for (let c = 0; c < M; c++) z[M * to + c] = mixed[c] * h[2 * M * to + M + c];
          }
        }
      }
    }
    return z;
  }

  linear(x, rows, name, inputs) {
    const weight = this.get(`${name}.weight`), bias = this.get(`${name}.bias`);
    const outputs = bias.length, y = new Float32Array(rows * outputs);
    for (let r = 0; r < rows; r++) {
      for (let o = 0; o < outputs; o++) {
        let sum = bias[o];
        for (let i = 0, a = r * inputs, w = o * inputs; i < inputs; i++) sum += x[a + i] * weight[w + i];
        y[r * outputs + o] = sum;
      }
    }
    return y;
  }

  // 3 x 3, stride 2, padding 1, a frame at a time.
  conv(x, name, side, inputs, outputs) {
    const weight = this.get(`${name}.weight`), bias = this.get(`${name}.bias`);
    const half = Math.ceil(side / 2), frames = x.length / (side * side * inputs);
    const y = new Float32Array(frames * half * half * outputs);
    for (let place = 0; place < frames * half * half; place++) {
      const t = Math.floor(place / (half * half)), row = Math.floor(place / half) % half;
      const column = place % half;
      for (let o = 0; o < outputs; o++) {
        let sum = bias[o];
        for (let j = 0; j < 9; j++) {
          const r = 2 * row + Math.floor(j / 3) - 1, c = 2 * column + j % 3 - 1;
          if (r < 0 || c < 0 || r >= side || c >= side) continue;
          const from = ((t * side + r) * side + c) * inputs, w = o * inputs * 9 + j;
          for (let i = 0; i < inputs; i++) sum += x[from + i] * weight[w + 9 * i];
        }
        y[place * outputs + o] = sum;
      }
    }
    return y;
  }

  // In place: `layer` over the C channels of each token, or `batch` by what was kept in training.
  norm(x, name, C, kind, eps) {
    const weight = this.get(`${name}.weight`), bias = this.get(`${name}.bias`);
    const means = this.get(`${name}.running_mean`), variances = this.get(`${name}.running_var`);
    for (let from = 0; from < x.length; from += C) {
      let mean = 0, variance = 0;
      if (kind === "layer") {
        for (let c = 0; c < C; c++) mean += x[from + c] / C;
        for (let c = 0; c < C; c++) variance += (x[from + c] - mean) ** 2 / C;
      }
      const scale = 1 / Math.sqrt(variance + eps);
      for (let c = 0; c < C; c++) {
        const centred = kind === "layer" ? (x[from + c] - mean) * scale
          : (x[from + c] - means[c]) / Math.sqrt(variances[c] + eps);
        x[from + c] = centred * weight[c] + bias[c];
      }
    }
  }
}

// Values [groups, along, rest] whose odd part along time is multiplied by the strength.
function turned(values, groups, along, strength) {
  const rest = values.length / groups / along, result = new Float32Array(values.length);
  const kept = (1 + strength) / 2, swapped = (1 - strength) / 2;
  for (let i = 0; i < values.length; i++) {
    const group = Math.floor(i / (along * rest)), t = Math.floor(i / rest) % along;
    const mirror = (group * along + along - 1 - t) * rest + i % rest;
    result[i] = kept * values[i] + swapped * values[mirror];
  }
  return result;
}

function gelu(x) {
  for (let n = 0; n < x.length; n++) x[n] *= 0.5 * (1 + erf(x[n] * Math.SQRT1_2));
}

// To 1.5e-7; source: Abramowitz and Stegun, Handbook of Mathematical Functions, 7.1.26.
function erf(x) {
  const t = 1 / (1 + 0.3275911 * Math.abs(x));
  const sum = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741
    + t * (-1.453152027 + t * 1.061405429))));
  return Math.sign(x) * (1 - sum * Math.exp(-x * x));
}

function softmax(logits) {
  const largest = Math.max(...logits), powers = [...logits].map((x) => Math.exp(x - largest));
  const total = powers.reduce((sum, x) => sum + x, 0);
  return powers.map((x) => x / total);
}

function fromHalves(bytes) {
  const view = new DataView(bytes.buffer), values = new Float32Array(bytes.length / 2);
  for (let i = 0; i < values.length; i++) {
    const bits = view.getUint16(2 * i, true), power = (bits >> 10) & 31, part = bits & 1023;
    const size = power ? (1 + part / 1024) * 2 ** (power - 15) : part * 2 ** -24;
    values[i] = bits >> 15 ? -size : size;
  }
  return values;
}

// ---- the page -----------------------------------------------------------------------------------

function openPage(state, decoded) {
  const model = new Model(state, fromHalves(decoded(state.weights)));
  const clips = state.clips.map((clip) => ({ ...clip, pixels: decoded(clip.pixels), stems: [] }));
  const { frames, size } = state.config;
  const now = { clip: 0, backwards: false, strength: 1, unit: 0, group: 0, cell: 0, playing: true };
  const parts = build(document.getElementById("explorer"), state);
  let trained = null, jobs = 0, swing = [], frame = 0;

  // What the stem makes of a clip, which no knob changes.
  function stemOf(clip, backwards) {
    return clip.stems[Number(backwards)] ??= model.stem(Float32Array.from(
      framesOf(clip, backwards), (value) => (value / 255 - state.mean) / state.std));
  }

  function framesOf(clip, backwards) {
    if (!backwards) return clip.pixels;
    const one = size * size * 3, result = new Uint8Array(clip.pixels.length);
    for (let t = 0; t < frames; t++) {
      result.set(clip.pixels.subarray(t * one, (t + 1) * one), (frames - 1 - t) * one);
    }
    return result;
  }

  function answer(strength = now.strength) {
    return model.run(stemOf(clips[now.clip], now.backwards), strength);
  }

  // The answer, then, when there is time, the curve over all strengths.
  function update(changed = true) {
    const start = performance.now();
    const shares = softmax(answer());
    if (!trained) {
      const { painted } = model;
      model.painted = {};
      trained = softmax(answer(1));
      model.painted = painted;
    }
    drawBars(parts, state, clips[now.clip], now.backwards, shares, trained);
    parts.root.dataset.ms = (performance.now() - start).toFixed(1);
    parts.strength.textContent = parts.knob.ariaValueText = now.strength.toFixed(2);
    if (changed) {
      swing = [];
      const job = ++jobs;
      const next = () => {
        if (job !== jobs) return;
        if (swing.length < 21) {
          const s = 1 - swing.length / 10;
          swing.push([s, softmax(answer(s))]);
          setTimeout(next);
        }
        drawSwing();
      };
      setTimeout(next, 60);
    }
    drawSwing();
    drawTable();
  }

  function drawSwing() {
    const { context, width, height } = prepared(parts.swing, 120);
    const { label, reverse } = clips[now.clip];
    const x = (s) => 8 + (width - 16) * (1 - s) / 2, y = (p) => height - 18 - (height - 26) * p;
    context.strokeStyle = "#8886";
    for (const p of [0, 0.5, 1]) line(context, [[x(1), y(p)], [x(-1), y(p)]]);
    for (const [own, name] of [[label, "own"], [reverse, "other"]]) {
      context.strokeStyle = INK[name];
      context.lineWidth = 2;
      line(context, swing.map(([s, shares]) => [x(s), y(shares[own])]));
    }
    context.strokeStyle = "#888";
    context.lineWidth = 1;
    line(context, [[x(now.strength), 4], [x(now.strength), height - 18]]);
    context.fillStyle = getComputedStyle(parts.swing).color;
    context.font = "12px system-ui";
    const words = [["1: as learned", x(1), "left"], ["0: blind", x(0), "center"],
      ["-1: reversed", x(-1), "right"]];
    for (const [text, at, align] of words) {
      context.textAlign = align;
      context.fillText(text, at, height - 4);
    }
  }

  function film() {
    const shown = framesOf(clips[now.clip], now.backwards);
    const image = new ImageData(size, size), one = size * size;
    for (let n = 0; n < one; n++) {
      const from = 3 * (frame * one + n);
      image.data.set([shown[from], shown[from + 1], shown[from + 2], 255], 4 * n);
    }
    parts.film.getContext("2d").putImageData(image, 0, 0);
    parts.frame.textContent = `frame ${frame + 1} of ${frames}`;
  }

  // ---- painting ----

  const unit = () => state.units[now.unit];
  const tableName = () => unit().table;
  function groupOf(values) {
    const length = values.length / unit().groups;
    return values.subarray(now.group * length, (now.group + 1) * length);
  }

  function paint(change) {
    put(change);
    update();
  }

  function put(change) {
    const name = tableName();
    model.painted[name] ??= model.tensors[name].slice();
    change(groupOf(model.painted[name]), groupOf(model.tensors[name]),
      groupOf(model.tensors[`initial.${name}`]));
  }

  function limit() {
    const values = [...model.tensors[tableName()], ...model.get(tableName())];
    return 1.3 * Math.max(...values.map(Math.abs)) || 1;
  }

  // Cells from the token: column 0 is the earliest frame, or the place furthest left and up.
  function drawTable() {
    const { sides } = unit(), values = groupOf(model.get(tableName()));
    const was = groupOf(model.tensors[tableName()]), bound = limit();
    const over = sides.length > 1, high = over ? Math.min(320, parts.table.clientWidth) : 190;
    const { context, width, height } = prepared(parts.table, high);
    context.font = "12px system-ui";
    const ink = getComputedStyle(parts.table).color;
    const last = values.length - 1;
    if (over) {
      const [rows, columns] = sides, cell = Math.min(height / rows, width / columns);
      for (let i = 0; i <= last; i++) {
        const value = values[last - i], x = (i % columns) * cell, y = Math.floor(i / columns) * cell;
        context.fillStyle = value > 0 ? "#c0392b" : "#2166ac";
        context.globalAlpha = Math.min(1, Math.abs(value) / bound * 1.3);
        context.fillRect(x, y, cell - 1, cell - 1);
        context.globalAlpha = 1;
        context.strokeStyle = i === now.cell ? ink : "#8886";
        context.lineWidth = i === now.cell ? 2 : 1;
        context.strokeRect(x + 0.5, y + 0.5, cell - 2, cell - 2);
        if (i === last / 2) context.strokeRect(x + cell / 3, y + cell / 3, cell / 3, cell / 3);
      }
    } else {
      const wide = width / (last + 1), middle = (height - 18) / 2;
      for (let i = 0; i <= last; i++) {
        const value = values[last - i], top = middle * (1 - value / bound);
        context.fillStyle = i === now.cell ? INK.other : INK.own;
        context.fillRect(i * wide + 1, Math.min(top, middle), wide - 2, Math.abs(top - middle) || 1);
        context.fillStyle = INK.trained;
        context.fillRect(i * wide + 1, middle * (1 - was[last - i] / bound) - 1, wide - 2, 2);
      }
      context.fillStyle = ink;
      for (const [text, at, align] of [["earlier", 2, "left"], ["this frame", width / 2, "center"],
        ["later", width - 2, "right"]]) {
        context.textAlign = align;
        context.fillText(text, at, height - 3);
      }
    }
    const value = values[last - now.cell];
    parts.value.textContent = `${cellName()}: ${value.toFixed(3)}`;
  }

  function cellName() {
    const { sides } = unit(), middle = sides.map((side) => (side - 1) / 2);
    if (sides.length === 1) {
      const by = now.cell - middle[0];
      return by ? `${Math.abs(by)} ${by < 0 ? "earlier" : "later"}` : "this frame";
    }
    const dy = Math.floor(now.cell / sides[1]) - middle[0], dx = now.cell % sides[1] - middle[1];
    return `key ${dy < 0 ? `${-dy} above` : `${dy} below`}, ${dx < 0 ? `${-dx} left` : `${dx} right`}`;
  }

  let from = null;  // where a cell's drag began, and its value there
  function point(event) {
    const { sides } = unit(), box = parts.table.getBoundingClientRect(), bound = limit();
    const x = event.clientX - box.left, y = event.clientY - box.top;
    const count = sides.reduce((a, b) => a * b, 1), pick = (i, n) => Math.max(0, Math.min(n - 1, i));
    if (sides.length === 1) {
      if (event.type === "pointerdown") from = { bound };
      if (!from) return;
      now.cell = pick(Math.floor(x / box.width * count), count);
      const middle = (box.height - 18) / 2;
      const value = from.bound * Math.max(-1, Math.min(1, 1 - y / middle));
      paint((values) => { values[count - 1 - now.cell] = value; });
    } else if (event.type === "pointerdown") {
      const cell = Math.min(box.height / sides[0], box.width / sides[1]);
      const row = pick(Math.floor(y / cell), sides[0]);
      now.cell = row * sides[1] + pick(Math.floor(x / cell), sides[1]);
      from = { y, value: groupOf(model.get(tableName()))[count - 1 - now.cell], bound };
      drawTable();
    } else if (from) {
      const value = from.value + from.bound * (from.y - y) / 80;
      paint((values) => { values[count - 1 - now.cell] = value; });
    }
  }

  function press(event) {
    const { sides } = unit(), count = sides.reduce((a, b) => a * b, 1), wide = sides[1] ?? 1;
    const move = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    const along = { ArrowUp: 1, ArrowDown: -1 }[event.key];
    if (!move && !along) return;
    event.preventDefault();
    if (along && event.shiftKey && wide > 1) now.cell = (now.cell - along * wide + count) % count;
    else if (move) now.cell = (now.cell + move + count) % count;
    else return paint((values) => { values[count - 1 - now.cell] += along * limit() / 20; });
    drawTable();
  }

  const edits = {
    zero: (values) => values.fill(0),
    mirror: (values) => values.set(mirrored(values, unit().sides)),
    initial: (values, was, first) => values.set(first),
    reset: (values, was) => values.set(was),
  };
  for (const [name, change] of Object.entries(edits)) {
    parts.edits[name].addEventListener("click", () => {
      const chosen = now.group, every = [...Array(unit().groups).keys()];
      for (now.group of parts.every.checked ? every : [chosen]) put(change);
      now.group = chosen;
      update();
    });
  }
  parts.edits["reset all"].addEventListener("click", () => { model.painted = {}; update(); });
  for (const type of ["pointerdown", "pointermove"]) parts.table.addEventListener(type, point);
  parts.table.addEventListener("pointerdown", (event) => {
    parts.table.setPointerCapture(event.pointerId);
  });
  for (const type of ["pointerup", "pointercancel"]) {
    parts.table.addEventListener(type, () => { from = null; });
  }
  parts.table.addEventListener("keydown", press);

  // ---- choices ----

  function chooseUnit() {
    now.unit = parts.unit.selectedIndex;
    const numbers = [...Array(unit().groups).keys()];
    parts.group.replaceChildren(...numbers.map((g) => new Option(`group ${g}`, g)));
    now.group = 0;
    now.cell = (unit().sides.reduce((a, b) => a * b, 1) - 1) / 2;
    drawTable();
  }

  function turn(strength) {
    now.strength = strength;
    parts.knob.value = -strength;
    update(false);
  }

  parts.unit.addEventListener("change", chooseUnit);
  parts.group.addEventListener("change", () => { now.group = Number(parts.group.value); drawTable(); });
  parts.clip.addEventListener("change", () => {
    now.clip = parts.clip.selectedIndex;
    [trained, frame] = [null, 0];
    film();
    update();
  });
  parts.backwards.addEventListener("click", () => {
    now.backwards = !now.backwards;
    parts.backwards.setAttribute("aria-pressed", now.backwards);
    trained = null;
    film();
    update();
  });
  parts.play.addEventListener("click", () => {
    now.playing = !now.playing;
    parts.play.textContent = now.playing ? "pause" : "play";
  });
  parts.knob.addEventListener("input", () => turn(-Number(parts.knob.value)));
  for (const [s, button] of parts.stops) button.addEventListener("click", () => turn(s));
  parts.automatic.addEventListener("click", () => {
    const start = performance.now();
    const step = (time) => {
      const way = Math.min(1, (time - start) / 6000);
      turn(Math.cos(2 * Math.PI * way));
      if (way < 1) requestAnimationFrame(step);
    };
    requestAnimationFrame(step);
  });
  setInterval(() => {
    if (!now.playing) return;
    frame = (frame + 1) % frames;
    film();
  }, 250);
  new ResizeObserver(() => { drawSwing(); drawTable(); }).observe(parts.swing.parentElement);
  if (state.units.length) chooseUnit();
  film();
  update();
  globalThis.knob = {  // for tests
    logits(clip, backwards, strength) {
      return [...model.run(stemOf(clips[clip], backwards), strength)];
    },
  };
}

function mirrored(values, sides) {
  const wide = sides.at(-1);
  return values.map((_, i) => values[i - i % wide + wide - 1 - i % wide]);
}

function drawBars({ bars }, { classes }, { label, reverse }, backwards, shares, trained) {
  for (const [i, { fill, was, text }] of bars.entries()) {
    fill.className = `fill ${i === label ? "own" : i === reverse ? "other" : ""}`;
    fill.style.width = `${100 * shares[i]}%`;
    was.style.left = `calc(${100 * trained[i]}% - 1px)`;
    text.textContent = `${(100 * shares[i]).toFixed(0)}%`;
    text.ariaLabel = `${classes[i]} ${text.textContent}`;
  }
}

function line(context, points) {
  context.beginPath();
  for (const [x, y] of points) context.lineTo(x, y);
  context.stroke();
}

function prepared(canvas, height) {
  const ratio = devicePixelRatio, width = canvas.clientWidth;
  canvas.style.height = `${height}px`;
  Object.assign(canvas, { width: Math.round(width * ratio), height: Math.round(height * ratio) });
  const context = canvas.getContext("2d");
  context.scale(ratio, ratio);
  return { context, width, height };
}

function build(root, state) {
  const add = (parent, tag, properties = {}) =>
    parent.appendChild(Object.assign(document.createElement(tag), properties));
  add(root, "style", { textContent: CSS });
  add(root, "h1", { textContent: "Turn the arrow of time" });
  add(root, "p", { textContent: state.words[0] });
  const panels = add(root, "div", { className: "panels" });

  const left = add(panels, "section");
  add(left, "h2", { textContent: "The clip" });
  const film = add(left, "canvas", { className: "film", width: state.config.size,
    height: state.config.size });
  film.setAttribute("role", "img");
  film.setAttribute("aria-label", "the clip, playing");
  const choices = add(left, "div", { className: "row" });
  const clip = add(choices, "select", { ariaLabel: "clip" });
  clip.replaceChildren(...state.clips.map((each) => new Option(state.classes[each.label])));
  const backwards = add(choices, "button", { textContent: "backwards" });
  backwards.setAttribute("aria-pressed", false);
  const play = add(choices, "button", { textContent: "pause" });
  const frame = add(choices, "span", { className: "note" });

  const right = add(panels, "section", { className: "answer" });
  add(right, "h2", { textContent: "The answer" });
  const grid = add(right, "div", { className: "bars" });
  const bars = state.classes.map((name) => {
    add(grid, "span", { textContent: name });
    const track = add(grid, "span", { className: "track" });
    const fill = add(track, "span"), was = add(track, "span", { className: "was" });
    return { fill, was, text: add(grid, "span") };
  });
  add(right, "p", { className: "note",
    textContent: "Blue: the clip's class. Orange: its reversal. Thin line: as trained, knob at 1." });

  const knobs = add(panels, "section", { className: "knob" });
  add(knobs, "h2", { textContent: "The knob" });
  const swing = add(add(knobs, "div"), "canvas");
  swing.setAttribute("role", "img");
  swing.setAttribute("aria-label", "share of the clip's class and of its reversal, by strength");
  const knob = add(knobs, "input",
    { type: "range", min: -1, max: 1, step: 0.01, value: -1, ariaLabel: "arrow of time" });
  const row = add(knobs, "div", { className: "row" });
  add(row, "span", { textContent: "strength" });
  const strength = add(row, "output");
  const stops = [[1, "as learned"], [0, "blind"], [-1, "reversed"]].map(([s, textContent]) =>
    [s, add(row, "button", { textContent })]);
  const automatic = add(row, "button", { textContent: "swing" });
  add(knobs, "p", { className: "note", textContent: "The curves are the shares of the clip's class "
    + `(blue) and of its reversal (orange), from 0 to 100%. ${state.words[1]}` });

  const painting = add(root, "section");
  painting.style.marginTop = "16px";
  painting.hidden = !state.units.length;
  add(painting, "h2", { textContent: "Paint a table" });
  add(painting, "p", { className: "note", textContent: "Press zero for all groups of a table over "
    + "time: does the answer survive? Drag a bar; of a map over space, drag a cell "
    + "up or down. With the keyboard: left and right choose, up and down change. Seen from the token "
    + "that mixes; grey marks are the trained values." });
  const tools = add(painting, "div", { className: "row" });
  const unit = add(tools, "select", { ariaLabel: "table" });
  unit.replaceChildren(...state.units.map((each) => new Option(each.label)));
  const group = add(tools, "select", { ariaLabel: "group" });
  const every = add(add(tools, "label", { textContent: "buttons change all groups of the table " }), "input",
    { type: "checkbox" });
  const table = add(painting, "canvas", { tabIndex: 0, className: "table" });
  table.setAttribute("role", "application");
  table.setAttribute("aria-label", "the table; arrow keys choose and change a value");
  const value = add(painting, "output");
  value.setAttribute("aria-live", "polite");
  const line = add(painting, "div", { className: "row" }), edits = {};
  for (const name of ["zero", "mirror", "initial", "reset", "reset all"]) {
    edits[name] = add(line, "button", { textContent: name });
  }
  return { root, film, clip, backwards, play, frame, bars, swing, knob, strength, stops, automatic,
    unit, group, every, table, value, edits };
}
