"use strict";
const byId = (id) => document.getElementById(id);
const report = JSON.parse(byId("data").textContent);
const { columns, rows } = report.grid;
let { width, height } = report.shown[0];
const packed = report.maps.map((_, m) => byId(`values-${m}`).textContent);
const depth = report.depth ?? 1;
const state = { image: 0, slice: 0, view: "over", sign: "signed", scaling: "", opacity: 0.85, threshold: 0, at: null };

function element(tag, text = "", attributes = {}) {
  const made = document.createElement(tag);
  made.textContent = text;
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}
function name(text) { return element("bdi", text); }
function number(value) {
  // like Python's .4g: four significant digits, an exponent for very large and very small numbers
  if (value === 0) return "0";
  const power = Number(value.toExponential(3).split("e")[1]);
  const text = power < -4 || power > 3
    ? value.toExponential(3).replace(/\.?0+e/, "e").replace(/e([+-])(\d)$/, "e$10$2")
    : value.toFixed(3 - power).replace(/(\.\d*?)0+$/, "$1").replace(/\.$/, "");
  return text.replaceAll("-", "−");
}
function bytes(text) { return Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0)); }
const colors = { signed: bytes(report.colors.signed), sequential: bytes(report.colors.sequential) };
const ramp = () => (state.sign === "signed" ? colors.signed : colors.sequential);

// Numbers ---------------------------------------------------------------------------------------
function values(m) {
  // of a volume, those of the slice
  const all = whole(m), size = all.length / depth;
  return depth > 1 ? all.subarray(state.slice * size, (state.slice + 1) * size) : all;
}
function whole(m) {
  const map = report.maps[m];
  if (map.cached === state.image) return map.values;
  const start = state.image * map.length;
  const raw = bytes(packed[m].slice(start, start + map.length)).buffer;
  const unit = map.units[state.image];
  const size = report.input[0] * report.input[1];
  const numbers = map.kind === "f4" ? new Float32Array(raw, 0, size) : new Int16Array(raw, 0, size);
  map.values = placed(Float64Array.from(numbers, map.kind === "f4" ? (n) => n * unit : (n) => (n / 32767) * unit));
  map.cached = state.image;
  return map.values;
}
const hat = (end) => (end < 0 ? Math.max(0, 1 + end) ** 2 / 2 : 1 - Math.max(0, 1 - end) ** 2 / 2);
function weights({ scale, offset, content }, axis, length) {
  // of the input's rows or columns in each row or column of the image; null where it was not seen
  const s = scale[axis], from = offset[axis], half = Math.max(0, (s - 1) / 2), slack = 1e-6;
  const first = Math.ceil(content[axis] - 0.5 - slack), last = Math.floor(content[axis + 2] - 0.5 + slack);
  const [start, stop] = [content[axis], content[axis + 2]].map((end) => Math.ceil((end - from) / s - 0.5 - slack));
  return Array.from({ length }, (_, i) => {
    if (i < start || i >= stop) return null;
    const center = (i + 0.5) * s + from - 0.5, found = [];
    for (let j = Math.max(first, Math.ceil(center - half - 1)); j <= Math.min(last, center + half + 1); j += 1) {
      found.push([j, half ? hat(center - j + half) - hat(center - j - half) : Math.max(0, 1 - Math.abs(center - j))]);
    }
    const sum = found.reduce((all, [, weight]) => all + weight, 0);
    return found.map(([j, weight]) => [j, weight / sum]);
  });
}
function placed(numbers) {
  const { geometry } = report.shown[state.image];
  if (!geometry) return numbers;
  const [high, wide] = report.input, across = weights(geometry, 1, width), down = weights(geometry, 0, height);
  const wider = new Float64Array(high * width), found = new Float64Array(height * width).fill(NaN);
  across.forEach((row, x) => row?.forEach(([j, weight]) => {
    for (let y = 0; y < high; y += 1) wider[y * width + x] += weight * numbers[y * wide + j];
  }));
  down.forEach((column, y) => {
    for (let x = 0; column && x < width; x += 1) {
      if (across[x]) found[y * width + x] = column.reduce((sum, [j, weight]) => sum + weight * wider[j * width + x], 0);
    }
  });
  return found;
}
const limit = (m) => report.maps[m].limits[state.scaling][state.sign][state.image];
function share(value, full) {
  // as a fraction of full color, −1 to 1
  const mapped = state.sign === "absolute" ? Math.abs(value) : state.sign === "positive" ? Math.max(value, 0) : value;
  return full > 0 ? Math.max(-1, Math.min(1, mapped / full)) : 0;
}
const entry = (s) => 3 * Math.min(255, Math.floor(256 * (state.sign === "signed" ? (s + 1) / 2 : s)));

// Images --------------------------------------------------------------------------------------
function cell(figure, image, slice) {
  const sheets = figure.querySelectorAll(".sheet");
  const place = image * depth + slice;
  const index = place % (columns * rows);
  return [sheets[Math.floor(place / (columns * rows))], (index % columns) * report.grid.width, Math.floor(index / columns) * report.grid.height];
}
function copy(context, figure, image, slice) {
  const { width: wide, height: high } = report.shown[image];
  context.drawImage(...cell(figure, image, slice), wide, high, 0, 0, wide, high);
}
function resize() {
  ({ width, height } = report.shown[state.image]);
  for (const { view } of panels) if (view.width !== width || view.height !== height) {
    Object.assign(view, { width, height });
    state.at = null;
  }
}
function canvas(parent, wide = width, high = height) {
  const made = element("canvas");
  Object.assign(made, { width: wide, height: high });
  parent.append(made);
  return made.getContext("2d", { willReadFrequently: true });
}
const panels = [...document.querySelectorAll("figure")].map((figure, p) => {
  const stage = figure.querySelector(".stage");
  const context = canvas(stage);
  const cross = element("div", "", { class: "cross", hidden: "" });
  stage.append(cross);
  const view = context.canvas;
  view.tabIndex = 0;
  view.setAttribute("role", "img");
  view.addEventListener("pointermove", (event) => follow(view, event));
  view.addEventListener("pointerdown", (event) => follow(view, event));
  view.addEventListener("keydown", (event) => step(event));
  const bar = figure.querySelector(".bar");
  bar.replaceChildren();
  const scale = p ? canvas(bar, 256, 1) : null;
  if (p) { scale.canvas.setAttribute("role", "img"); bar.append(element("div")); }
  return { figure, context, view, cross, bar, scale };
});

const legend = byId("legend").querySelector("span");
const legends = {
  signed: legend.textContent,
  positive: "The brighter the color, the larger the value. Negative values count as 0.",
  absolute: "The brighter the color, the larger the absolute value.",
};
function draw() {
  const base = panels[0].context;
  copy(base, panels[0].figure, state.image, state.slice);
  const pixels = base.getImageData(0, 0, width, height).data;
  report.maps.forEach((map, m) => {
    const { context, view } = panels[m + 1];
    const full = limit(m), numbers = values(m), table = ramp();
    const image = context.createImageData(width, height);
    const period = Math.max(Math.max(width, height) / 30, 3);
    for (let i = 0, o = 0; i < numbers.length; i += 1, o += 4) {
      if (Number.isNaN(numbers[i])) {
        const stripe = (Math.floor(i / width) + (i % width)) % period < period / 3;
        image.data.fill(0.1 * (pixels[o] + pixels[o + 1] + pixels[o + 2]) + (stripe ? 145 : 168), o, o + 3);
        image.data[o + 3] = 255;
        continue;
      }
      const s = share(numbers[i], full), size = Math.abs(s), at = entry(s);
      const gray = (pixels[o] + pixels[o + 1] + pixels[o + 2]) / 3;
      const shown = size >= state.threshold;
      let cover = shown ? state.opacity * size ** 0.7 : 0;
      let under = gray;
      if (state.view === "map") { cover = shown ? 1 : 0; under = 128; }
      for (let c = 0; c < 3; c += 1) image.data[o + c] = Math.round((1 - cover) * under + cover * table[at + c]);
      image.data[o + 3] = 255;
    }
    context.putImageData(image, 0, 0);
    view.setAttribute("aria-label", `${map.name}, ${shownName()}; target: ${target(m)}; full color at ${number(full)}`);
    drawBar(m, full);
  });
  panels[0].view.setAttribute("aria-label", shownName());
  legend.textContent = legends[state.sign];
  tell();
}
function drawBar(m, full) {
  const { bar, scale } = panels[m + 1];
  const low = state.sign === "signed" ? -1 : 0, table = ramp(), image = scale.createImageData(256, 1);
  for (let x = 0; x < 256; x += 1) {
    const s = low + ((1 - low) * x) / 255, at = entry(s), hidden = Math.abs(s) < state.threshold;
    image.data.set(hidden ? [128, 128, 128, 255] : [table[at], table[at + 1], table[at + 2], 255], 4 * x);
  }
  scale.putImageData(image, 0, 0);
  const ticks = low ? [-full, 0, full] : [0, full];
  bar.querySelector("div").replaceChildren(...(full ? ticks.map((tick) => element("span", number(tick))) : [element("span", "zero everywhere")]));
  scale.canvas.setAttribute("aria-label", full ? `color bar from ${number(low * full)} to ${number(full)}` : "zero everywhere");
}

// Slices ----------------------------------------------------------------------------------------
const slider = byId("slice");
const shownName = () => report.names[state.image] + (slider ? `, slice ${state.slice}` : "");
function strongest(image) {
  const shares = report.maps[0].profile?.[image] ?? [0];
  return shares.indexOf(Math.max(...shares));
}
function cut(slice) {
  state.slice = Math.max(0, Math.min(depth - 1, slice));
  if (!slider) return;
  slider.value = state.slice;
  slider.setAttribute("aria-valuetext", `slice ${state.slice} of ${depth}`);
  byId("slice-value").textContent = `${state.slice} (0 to ${depth - 1})`;
  report.maps.forEach(({ profile }, m) => profiles(panels[m + 1].figure.querySelector("svg"), profile[state.image]));
}
function profiles(svg, shares) {
  const most = Math.max(...shares) || 1;
  svg.setAttribute("aria-label", `slice ${state.slice} has ${(100 * shares[state.slice]).toFixed(1)}% of the map`);
  svg.replaceChildren(...shares.map((share, i) => {
    const bar = document.createElementNS("http://www.w3.org/2000/svg", "rect");
    const place = { x: i + 0.1, y: 1 - share / most, width: 0.8, height: share / most };
    for (const [name, value] of Object.entries(place)) bar.setAttribute(name, value.toFixed(3));
    bar.classList.toggle("here", i === state.slice);
    return bar;
  }));
}

// The pointer -----------------------------------------------------------------------------------
function follow(view, event) {
  const box = view.getBoundingClientRect();
  const x = Math.floor(((event.clientX - box.left) / box.width) * width);
  const y = Math.floor(((event.clientY - box.top) / box.height) * height);
  state.at = [Math.max(0, Math.min(width - 1, x)), Math.max(0, Math.min(height - 1, y))];
  tell();
}
function step(event) {
  const turned = { PageUp: -1, PageDown: 1 }[event.key];
  if (turned && slider) {
    event.preventDefault();
    cut(state.slice + turned);
    draw();
    byId("spoken").textContent = shownName();
    return;
  }
  const move = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
  if (!move) return;
  event.preventDefault();
  const far = event.shiftKey ? 5 : 1;
  const [x, y] = state.at ?? [Math.floor(width / 2), Math.floor(height / 2)];
  state.at = [Math.max(0, Math.min(width - 1, x + far * move[0])), Math.max(0, Math.min(height - 1, y + far * move[1]))];
  tell();
  const texts = report.maps.map((map, m) => `${map.name} ${known(values(m)[state.at[1] * width + state.at[0]])}`);
  byId("spoken").textContent = `${place()}: ${texts.join(", ")}`;
}
const known = (value) => (Number.isNaN(value) ? "not seen by the model" : number(value));
function place() {
  // in pixels of the original, which may be shown reduced
  const [high, wide] = report.shown[state.image].original, [x, y] = state.at;
  return `${slider ? `slice ${state.slice}, ` : ""}row ${Math.floor(((y + 0.5) * high) / height)}, column ${Math.floor(((x + 0.5) * wide) / width)}`;
}
function tell() {
  const table = byId("pointer"), point = state.at;
  const head = element("tr");
  head.append(element("th", point ? place() : "no pixel selected", { scope: "col" }), element("th", "value", { scope: "col" }), element("th", "% of full color", { scope: "col" }));
  const body = element("tbody");
  report.maps.forEach((map, m) => {
    const line = element("tr");
    const value = point ? values(m)[point[1] * width + point[0]] : null;
    line.append(element("th", caption(m), { scope: "row" }), element("td", point ? known(value) : "–"), element("td", point && !Number.isNaN(value) ? `${Math.round(100 * share(value, limit(m)))}`.replace("-", "−") : "–"));
    body.append(line);
  });
  const top = element("thead");
  top.append(head);
  table.replaceChildren(top, body);
  for (const { cross } of panels) {
    cross.hidden = !point;
    if (!point) continue;
    Object.assign(cross.style, {
      left: `${(100 * point[0]) / width}%`, top: `${(100 * point[1]) / height}%`,
      width: `max(8px, ${100 / width}%)`, height: `max(8px, ${100 / height}%)`,
    });
  }
}

// Texts -----------------------------------------------------------------------------------------
const caption = (m) => panels[m + 1].figure.querySelector("figcaption b").textContent;
function target(m) {
  const map = report.maps[m];
  if (map.expression !== null) return map.expression;
  return map.one ? "the output" : report.classes[map.target[state.image]];
}
function outcome(i) {
  const label = report.labels[i], prediction = report.predictions[0];
  if (label === null || prediction.confidence[i] === null) return "unknown";
  return prediction.predicted[i].includes(label) ? "correct" : "wrong";
}
function describe() {
  const i = state.image, prediction = report.predictions[0], verdict = byId("verdict");
  byId("name").replaceChildren(name(report.names[i]));
  verdict.className = outcome(i);
  verdict.replaceChildren();
  if (prediction.confidence[i] !== null) verdict.append("predicted: ", name(prediction.predicted[i].map((label) => report.classes[label]).join(", ") || "no label"));
  if (outcome(i) === "correct") verdict.append(" (correct)");
  if (outcome(i) === "wrong") verdict.append(" (true class: ", name(report.classes[report.labels[i]]), ")");
  report.maps.forEach((_, m) => panels[m + 1].figure.querySelector(".note").replaceChildren("target: ", name(target(m))));
  report.maps.forEach(({ card }, m) => {
    if (!card.length) return;
    const [verdict, sentence, kind] = card[i];
    panels[m + 1].figure.querySelector(".card").replaceChildren(element("b", verdict, { class: kind }), ` ${sentence}`);
  });
  report.predictions.forEach((one, r) => bars(byId(`bars-${r}`), one));
  const found = new Map();
  report.maps.forEach((map, m) => Object.entries(map.numbers).forEach(([what, all]) => {
    // a number that all maps share is listed once
    const shared = report.maps.every((other) => other.numbers[what]?.[i] === all[i]);
    found.set(shared ? what : `${caption(m)}: ${what}`, all[i]);
  }));
  byId("numbers").replaceChildren(...[...found].map(([what, text]) => {
    const line = element("tr");
    line.append(element("th", what, { scope: "row" }), element("td", text));
    return line;
  }));
}
function bars(table, prediction) {
  const i = state.image, targets = new Set(report.maps.map((map) => map.target[i]));
  if (!prediction.top[i].length) return;
  const lines = prediction.top[i].map(([label, probability]) => {
    const line = element("tr", "", { class: `${targets.has(label) ? "explained " : ""}${label === report.labels[i] ? "true" : ""}` });
    const head = element("th", "", { scope: "row" }), middle = element("td");
    head.append(name(report.classes[label]));
    const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    const bar = document.createElementNS("http://www.w3.org/2000/svg", "rect");
    svg.setAttribute("viewBox", "0 0 100 8");
    svg.setAttribute("preserveAspectRatio", "none");
    svg.setAttribute("aria-hidden", "true");
    bar.setAttribute("width", (100 * probability).toFixed(2));
    bar.setAttribute("height", "8");
    svg.append(bar);
    middle.append(svg);
    line.append(head, middle, element("td", probability.toFixed(3)));
    return line;
  });
  table.replaceChildren(...lines);
}

// The index -------------------------------------------------------------------------------------
const cards = byId("cards");
const items = cards ? [...cards.children] : [];
function visible() {
  const of = (id) => byId(id)?.value ?? "";
  const prediction = report.predictions[0], wanted = of("outcome");
  const chosen = items.map((_, i) => i).filter((i) => {
    const confidence = prediction.confidence[i] ?? 1;
    return (!wanted || wanted === outcome(i))
      && (!of("true") || Number(of("true")) === report.labels[i])
      && (!of("predicted") || prediction.predicted[i].includes(Number(of("predicted"))))
      && confidence >= Number(of("least")) && confidence <= Number(of("most") || 1);
  });
  const keys = {
    sure: (i) => -(prediction.confidence[i] ?? 0), unsure: (i) => prediction.confidence[i] ?? 0,
    predicted: (i) => prediction.predicted[i][0] ?? Infinity, true: (i) => report.labels[i] ?? Infinity,
  };
  const key = keys[of("sort")];
  return key ? chosen.sort((a, b) => key(a) - key(b) || a - b) : chosen;
}
let order = report.names.map((_, i) => i);
function list() {
  const before = order;
  order = visible();
  // on the first call the cards are in order already
  if (order.length !== before.length || order.some((i, position) => i !== before[position])) cards.replaceChildren(...order.map((i) => items[i]));
  byId("found").textContent = `${order.length.toLocaleString("en")} of ${report.count.toLocaleString("en")}`;
  turnable();
}
function turnable() {
  const position = order.indexOf(state.image);
  byId("back").disabled = position <= 0;
  byId("next").disabled = position < 0 ? !order.length : position >= order.length - 1;
}
function turn(by) {
  const next = order[order.indexOf(state.image) + by];
  if (next !== undefined) location.hash = `image-${next + 1}`;
}
function open() {
  const wanted = Number(/^#image-(\d+)$/.exec(location.hash)?.[1] ?? 1) - 1;
  items[state.image]?.querySelector("a").removeAttribute("aria-current");
  state.image = wanted < report.count ? wanted : 0;
  items[state.image]?.querySelector("a").setAttribute("aria-current", "true");
  resize();
  cut(strongest(state.image));
  describe();
  draw();
  if (cards) turnable();
}
function thumbnails() {
  const seen = new IntersectionObserver((entries) => {
    for (const { isIntersecting, target } of entries) {
      if (!isIntersecting) continue;
      seen.unobserve(target);
      const link = target.querySelector("a"), i = items.indexOf(target);
      const context = canvas(link, report.shown[i].width, report.shown[i].height);
      context.canvas.setAttribute("aria-hidden", "true");
      link.prepend(context.canvas);
      copy(context, panels[1].figure, i, strongest(i));
    }
  }, { root: cards, rootMargin: "200px" });
  items.forEach((item) => seen.observe(item));
}

// Start -----------------------------------------------------------------------------------------
function listen() {
  for (const radio of document.querySelectorAll(".switch input")) {
    radio.addEventListener("change", () => { state[radio.name] = radio.value; draw(); });
  }
  const scaling = byId("scaling");
  state.scaling = scaling.value;
  scaling.addEventListener("change", () => { state.scaling = scaling.value; draw(); });
  for (const what of ["opacity", "threshold"]) {
    byId(what).addEventListener("input", (event) => {
      state[what] = event.target.value / 100;
      byId(`${what}-value`).textContent = `${event.target.value}%`;
      draw();
    });
  }
  slider?.addEventListener("input", () => { cut(Number(slider.value)); draw(); });
  if (!cards) return;
  byId("index").querySelector("form").addEventListener("input", list);
  byId("index").querySelector("form").addEventListener("submit", (event) => event.preventDefault());
  byId("back").addEventListener("click", () => turn(-1));
  byId("next").addEventListener("click", () => turn(1));
  window.addEventListener("hashchange", open);
}
// filters and sorting need no images, so they work while the sheets are being decoded
listen();
if (cards) list();
Promise.all([...document.querySelectorAll(".sheet")].map((sheet) => sheet.decode())).then(() => {
  if (cards) thumbnails();
  open();
  document.documentElement.classList.add("scripted");
  document.documentElement.dataset.ready = "true";
});
