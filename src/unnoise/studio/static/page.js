"use strict";
/* Draws a run. `render(run)` can be called again with newer data: what the reader chose stays.
   Data become text nodes and attributes only, never HTML. */

const view = { grid: null, smoothing: 0, log: new Map(), hidden: new Set(), open: new Set() };
/* grid: images seen of the grid that is shown, null for the newest. */

// ---------------------------------------------------------------- elements

function make(namespace, name, attributes, children) {
  const element = document.createElementNS(namespace, name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (value !== false && value !== null) element.setAttribute(key, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}
const h = (name, attributes = {}, ...children) =>
  make("http://www.w3.org/1999/xhtml", name, attributes, children);
const s = (name, attributes = {}, ...children) =>
  make("http://www.w3.org/2000/svg", name, attributes, children);

function table(head, rows, kind = "") {
  const cells = (row) => row.map((cell) => h("td", {}, text(cell)));
  const top = head.some((name) => name) ? h("thead", {}, h("tr", {}, head.map((name) =>
    h("th", { scope: "col" }, text(name))))) : null;
  const body = h("tbody", {}, rows.map((row) => h("tr", {}, cells(row))));
  return h("div", { class: "wide" }, h("table", { class: kind }, top, body));
}

/* A part that is closed until the reader opens it, and stays as the reader left it. */
function details(title, ...children) {
  const toggle = (event) =>
    event.target.open ? view.open.add(title) : view.open.delete(title);
  return h("details", { open: view.open.has(title), ontoggle: toggle },
    h("summary", {}, title), ...children);
}

function picture(image, alt, caption = alt) {
  if (!image || !image.src) return null;
  const shown = h("img", { src: image.src, alt });
  return h("figure", {}, shown, h("figcaption", {}, caption));
}

// ---------------------------------------------------------------- values as text

function text(value) {
  if (value === null || value === undefined) return "none";
  if (Array.isArray(value)) return `[${value.map(text).join(", ")}]`;
  return typeof value === "object" ? JSON.stringify(value) : String(value);
}

/* A number of a few significant digits, without needless zeros. */
function number(value, digits = 4) {
  if (typeof value !== "number") return "unknown";
  const size = Math.abs(value);
  if (size >= 1e6 || (size < 1e-4 && size > 0)) {
    return value.toExponential(digits - 1).replace(/\.?0+e/, "e").replace("e+", "e");
  }
  return String(Number(value.toPrecision(digits)));
}

const count = (value) =>
  typeof value === "number" ? Math.round(value).toLocaleString("en-US") : "unknown";
const images = (nimg) => `${count(nimg)} images`;

function duration(sec) {
  if (typeof sec !== "number") return "unknown";
  const [hours, minutes, rest] = [sec / 3600, (sec / 60) % 60, sec % 60].map(Math.floor);
  const two = (value) => String(value).padStart(2, "0");
  if (hours) return `${hours}h ${two(minutes)}m`;
  return minutes ? `${minutes}m ${two(rest)}s` : `${rest}s`;
}

function bytes(size) {
  const unit = Math.min(3, Math.floor(Math.log10(Math.max(size, 1)) / 3));
  return `${number(size / 1000 ** unit, 3)} ${["B", "kB", "MB", "GB"][unit]}`;
}

// ---------------------------------------------------------------- head

function head(run) {
  const { seen, shape, data } = run;
  const share = run.progress === null ? "" : ` · ${Math.floor(100 * run.progress)} % of the way`;
  const facts = [
    ["Images seen", count(seen.nimg)],
    ["Epochs", number(seen.epoch)],
    ["Time trained", duration(seen.train_sec)],
    ["Training loss", number(seen.loss)],
    ["Held-out loss", number(seen.held_out_loss)],
    ["Preset", text(run.settings.preset ?? "unknown")],
    ["Parameters", count(run.parameters)],
  ];
  if (data.name !== undefined) {
    const size = typeof data.num_train === "number" ? `, ${images(data.num_train)}` : "";
    facts.push(["Data", text(data.name) + size]);
  }
  if (shape.height !== undefined) {
    facts.push(["Size", [shape.channels, shape.height, shape.width].map(text).join(" × ")]);
    facts.push(["Classes", text(shape.num_classes || "none")]);
  }
  if (run.weights !== null) facts.push(["Model hash", text(run.weights).slice(0, 12)]);
  const bar = h("div", { class: "bar", role: "progressbar", "aria-label": "progress",
    "aria-valuenow": Math.floor(100 * (run.progress ?? 0)) }, h("i"));
  bar.firstChild.style.width = `${100 * (run.progress ?? 0)}%`;
  return [
    h("h1", {}, run.name),
    h("p", {}, h("b", { class: `state ${run.state}` }, run.state), run.state === "finished" ? "" : share),
    run.progress === null ? null : bar,
    h("dl", {}, facts.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value)))),
    run.problems.length === 0 ? null : h("section", { class: "problems", "aria-label": "problems" },
      "Missing, broken or worth knowing:", h("ul", {}, run.problems.map((one) => h("li", {}, one)))),
  ];
}

// ---------------------------------------------------------------- samples

function samples(run) {
  const grids = run.samples.filter((grid) => grid.src);
  const data = picture(run.data.picture, "Training images");
  if (!grids.length) return data && [data];
  const shown = h("img", { id: "grid" });
  const label = h("figcaption", { id: "grid-label" });
  const slider = h("input", { type: "range", id: "slider", min: 0, max: grids.length - 1,
    "aria-label": "images seen", oninput: () => show(+slider.value) });
  const frames = grids.map((grid, i) => h("button", { type: "button", tabindex: -1,
    onclick: () => show(i) }, h("img", { src: grid.src, alt: "" }), count(grid.nimg)));
  const film = h("div", { class: "film" }, frames);
  let playing = null;
  const play = h("button", { type: "button", onclick: () => (playing ? stop() : start()) }, "Play");

  function show(i) {
    const last = i === grids.length - 1;
    view.grid = last ? null : grids[i].nimg;
    shown.src = grids[i].src;
    shown.alt = `Samples after ${images(grids[i].nimg)}`;
    label.textContent = `Samples after ${images(grids[i].nimg)}${last ? " (the newest)" : ""}`;
    slider.value = i;
    slider.setAttribute("aria-valuetext", images(grids[i].nimg));
    frames.forEach((frame, j) => frame.classList.toggle("on", i === j));
    film.scrollLeft = frames[i].offsetLeft - (film.clientWidth - frames[i].clientWidth) / 2;
  }
  function start() {
    let i = +slider.value === grids.length - 1 ? 0 : +slider.value;
    show(i);
    play.textContent = "Stop";
    playing = setInterval(() => {
      if (!play.isConnected || i >= grids.length - 1) stop();
      else show(++i);
    }, 400);
  }
  function stop() {
    clearInterval(playing);
    playing = null;
    play.textContent = "Play";
  }

  const several = grids.length > 1;
  const chosen = grids.findIndex((grid) => grid.nimg === view.grid);
  show(chosen < 0 ? grids.length - 1 : chosen);
  requestAnimationFrame(() => show(+slider.value)); // once it has a width, the film scrolls
  const all = run.grids ?? grids.length;
  const some = grids.length === all ? `${all} grids` : `${grids.length} of ${all} grids, evenly chosen`;
  return [
    h("div", { class: "pictures" },
      h("figure", {}, shown, label,
        several ? [h("div", { class: "slide" }, play, slider), film] : null), data),
    h("p", { class: "dim" }, `The seeds are the same throughout; ${some}.`),
  ];
}

// ---------------------------------------------------------------- curves

const PANELS = [ // title, label of the values, fields of metrics.jsonl, whether always linear
  ["Loss", "loss", /^(loss|held_out_loss(_\w+)?)$/, false],
  ["Held-out loss by noise level", "loss", /^held_out_q\d+$/, false],
  ["Learning rate", "learning rate", /^lr$/, true],
  ["Gradient norm", "norm", /^grad_norm$/, false],
  ["Speed", "images per second", /^img_per_sec$/, true],
];
const LABELS = new Map(Object.entries({
  loss: "training loss",
  held_out_loss: "held-out loss (averaged weights)",
  held_out_loss_raw: "held-out loss (raw weights)",
  held_out_q1: "quarter 1 (least noise)",
  held_out_q2: "quarter 2",
  held_out_q3: "quarter 3",
  held_out_q4: "quarter 4 (most noise)",
  lr: "learning rate",
  grad_norm: "gradient norm",
  img_per_sec: "images per second",
  sample_sec: "seconds to sample a grid",
  skipped_steps: "steps not applied",
}));
const COLOURS = 6;
const LOG_RATIO = 10; // values that span more than this, all above 0, get a logarithmic axis
const FEW = 60; // a curve of at most this many points shows each as a dot

const label = (name) => LABELS.get(name) ?? name;

/* Known fields in their panels; other fields that change in their own, numbered ones together. */
function panels(series) {
  const known = PANELS.map(([title, unit, pattern, linear]) =>
    ({ title, unit, linear, names: series.map(([name]) => name).filter((n) => pattern.test(n)) }));
  const groups = new Map();
  for (const [name, { values }] of series) {
    if (PANELS.some((panel) => panel[2].test(name)) || Math.min(...values) === Math.max(...values)) {
      continue;
    }
    const group = name.replace(/_?\d+$/, "");
    groups.set(group, [...(groups.get(group) ?? []), name]);
  }
  const others = [...groups].map(([group, names]) =>
    ({ title: names.length > 1 ? group : label(names[0]), unit: "value", linear: false, names }));
  return [...known, ...others].filter((panel) => panel.names.length);
}

function curves(run) {
  const series = Object.entries(run.curves);
  if (!series.length) return null;
  const bySeries = new Map(series);
  const charts = panels(series).map((panel) => chart(panel, bySeries));
  const smoothing = h("input", { type: "range", id: "smoothing", min: 0, max: 0.95, step: 0.05,
    value: view.smoothing, oninput: () => {
      view.smoothing = +smoothing.value;
      charts.forEach((one) => one.draw());
    } });
  const rows = series.map(([name, { count: all, nimg, values }]) => {
    const low = values.indexOf(Math.min(...values));
    return [name, count(all), number(values.at(-1), 6), count(nimg.at(-1)), number(values[low], 6),
      count(nimg[low]), number(Math.max(...values), 6)];
  });
  return [
    h("label", { class: "control" }, "Smoothing", smoothing),
    h("div", { class: "charts" }, charts.map((one) => one.figure)),
    h("p", { class: "dim" }, "Point at a curve, or focus it and use the arrow keys, to read its ",
      "values. The training loss is the mean since the measurement before."),
    details("The numbers", table(["field", "measurements", "last", "at (images)", "lowest",
      "at (images)", "highest"], rows, "numbers")),
  ];
}

/* An exponential moving average that starts without bias. */
function smoothed(values, keep) {
  let [sum, weight] = [0, 0];
  return values.map((value) => {
    sum = keep * sum + (1 - keep) * value;
    weight = keep * weight + (1 - keep);
    return sum / weight;
  });
}

/* A round step, 1, 2, 2.5 or 5 times a power of ten, that fits three to six times. */
function roundStep(low, high, most = 6) {
  const rough = Math.max((high - low) / most, 1e-300);
  const power = 10 ** Math.floor(Math.log10(rough));
  return [1, 2, 2.5, 5, 10].map((m) => m * power).find((step) => step >= rough * (1 - 1e-9));
}

function linearTicks(low, high, most) {
  const step = roundStep(low, high, most);
  const first = Math.ceil(low / step - 1e-9);
  const length = Math.floor(high / step + 1e-9) - first + 1;
  return Array.from({ length }, (_, i) => (first + i) * step);
}

/* Powers of ten, every few where there are many, with more between where there are few. */
function logTicks(low, high) {
  const first = Math.floor(Math.log10(low));
  const length = Math.ceil(Math.log10(high)) - first + 1;
  const every = Math.ceil(length / 8);
  const powers = Array.from({ length }, (_, i) => first + i).filter((_, i) => i % every === 0);
  const factors = high / low < 10 ? [1, 2, 3, 4, 5, 6, 8] : length <= 4 ? [1, 2, 5] : [1];
  const ticks = powers.flatMap((power) => factors.map((factor) => Number(`${factor}e${power}`)));
  return ticks.filter((tick) => tick >= low && tick <= high);
}

/* Where values low..high are on pixels start..end. */
function axis(low, high, start, end, log = false) {
  const place = log ? Math.log10 : (value) => value;
  const [from, to] = [place(low), place(high)];
  return {
    log,
    at: (value) => start + ((end - start) * (place(value) - from)) / (to - from),
    back: (pixel) => from + ((to - from) * (pixel - start)) / (end - start),
    ticks: (most) => (log ? logTicks(low, high) : linearTicks(low, high, most)),
  };
}

function yAxis(values, log, start, end) {
  let [low, high] = [Math.min(...values), Math.max(...values)];
  if (log && logTicks(low, high).length > 1) return axis(low, high, start, end, true);
  if (low >= 0 && low < high / 2) low = 0;
  if (high - low <= 1e-9 * Math.max(Math.abs(low), Math.abs(high))) {
    const around = Math.abs(low) / 2 || 1;
    [low, high] = [low - around, high + around];
  }
  const step = roundStep(low, high);
  low = Math.floor(low / step + 1e-9) * step;
  return axis(low, Math.ceil(high / step - 1e-9) * step, start, end);
}

/* The index of the x nearest to a value; x rises. */
function nearest(x, value) {
  let [low, high] = [0, x.length - 1];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (x[middle] < value) low = middle + 1;
    else high = middle;
  }
  return low > 0 && value - x[low - 1] <= x[low] - value ? low - 1 : low;
}

/* A figure with curves, its legend (which hides and reads curves) and a cursor. */
function chart({ title, unit, linear, names }, bySeries) {
  const height = 250;
  const [left, top, bottom] = [64, 10, height - 44];
  const svg = s("svg", { height, tabindex: 0, role: "img",
    "aria-label": `${title}. Arrow keys move the cursor.` });
  const all = names.flatMap((name) => bySeries.get(name).values);
  const [low, high] = [Math.min(...all), Math.max(...all)];
  const steps = [...new Set(names.flatMap((name) => bySeries.get(name).nimg))].sort((a, b) => a - b);
  const last = steps.at(-1);
  const [scale, across] = last >= 2e6 ? [1e6, "million images seen"]
    : last >= 2000 ? [1000, "thousand images seen"] : [1, "images seen"];
  const auto = !linear && low > 0 && high / low >= LOG_RATIO;
  const isLog = () => low > 0 && (view.log.get(title) ?? auto);
  const log = h("button", { type: "button", disabled: low <= 0, onclick: () => {
    view.log.set(title, !isLog());
    draw();
  } }, "log");
  const readout = h("output", { class: "dim" });
  const entries = names.map((name, i) => {
    const value = h("b", {}, "");
    const button = h("button", { type: "button", class: `c${i % COLOURS}`, onclick: () => {
      view.hidden.has(name) ? view.hidden.delete(name) : view.hidden.add(name);
      draw();
    } }, h("i"), h("span", {}, label(name)), value);
    return { name, colour: i % COLOURS, button, value };
  });
  const cursor = s("g");
  let [x, y, cursorAt] = [null, null, null];

  function draw() {
    const width = svg.clientWidth || 480;
    const right = width - 12;
    const shown = entries.filter(({ name }) => !view.hidden.has(name));
    const values = shown.flatMap(({ name }) => bySeries.get(name).values);
    x = axis(0, last || 1, left, right);
    y = yAxis(values.length ? values : all, isLog(), bottom, top);
    log.setAttribute("aria-pressed", y.log);
    for (const { name, button } of entries) {
      button.setAttribute("aria-pressed", !view.hidden.has(name));
    }
    const middle = `translate(13 ${(top + bottom) / 2}) rotate(-90)`;
    const x_ticks = axis(0, (last || 1) / scale, left, right);
    svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    svg.replaceChildren(
      ...x_ticks.ticks(width < 420 ? 4 : 6).flatMap((tick) => [
        s("path", { class: "g", d: `M${x_ticks.at(tick)} ${top}V${bottom}` }),
        s("text", { class: "m", x: x_ticks.at(tick), y: bottom + 17 }, number(tick, 6))]),
      ...y.ticks().flatMap((tick) => [
        s("path", { class: "g", d: `M${left} ${y.at(tick)}H${right}` }),
        s("text", { class: "e", x: left - 6, y: y.at(tick) + 4 }, number(tick, 6))]),
      s("path", { class: "a", d: `M${left} ${top}V${bottom}H${right}` }),
      s("text", { class: "m", x: (left + right) / 2, y: height - 6 }, across),
      s("text", { class: "m", transform: middle }, unit + (y.log ? " (log)" : "")),
      ...shown.map(({ name, colour }) => line(name, colour)),
      cursor,
    );
    read();
  }

  function line(name, colour) {
    const { nimg, values } = bySeries.get(name);
    const points = (some) => some.map((v, i) => `${x.at(nimg[i]).toFixed(1)},${y.at(v).toFixed(1)}`);
    const smooth = view.smoothing > 0 && values.length > 2;
    const raw = points(values);
    const dots = nimg.length > FEW ? [] : nimg.map((at, i) => s("circle", { cx: x.at(at).toFixed(1),
      cy: y.at(values[i]).toFixed(1), r: 2.5 }));
    return s("g", { class: `c${colour}` },
      s("g", { class: smooth ? "raw" : "" }, s("polyline", { points: raw.join(" ") }), dots),
      smooth ? s("polyline", { points: points(smoothed(values, view.smoothing)).join(" ") }) : null);
  }

  /* Put the values at the cursor (or the last ones) into the legend. */
  function read() {
    const at = cursorAt ?? last;
    readout.textContent = cursorAt === null ? "" : `at ${images(at)}`;
    cursor.replaceChildren();
    if (cursorAt !== null) {
      cursor.append(s("path", { class: "cursor", d: `M${x.at(at)} ${top}V${bottom}` }));
    }
    for (const { name, colour, value } of entries) {
      const { nimg, values } = bySeries.get(name);
      const i = nearest(nimg, at);
      value.textContent = number(values[i]);
      if (cursorAt !== null && !view.hidden.has(name)) {
        cursor.append(s("circle", { class: `c${colour}`, cx: x.at(nimg[i]), cy: y.at(values[i]), r: 4 }));
      }
    }
  }

  function moveTo(at) {
    cursorAt = at;
    read();
  }
  svg.addEventListener("pointermove", (event) => {
    moveTo(steps[nearest(steps, x.back(event.clientX - svg.getBoundingClientRect().left))]);
  });
  svg.addEventListener("pointerleave", () => moveTo(null));
  svg.addEventListener("blur", () => moveTo(null));
  svg.addEventListener("keydown", (event) => {
    const now = cursorAt === null ? steps.length : nearest(steps, cursorAt);
    const far = Math.ceil(steps.length / 10);
    const next = { ArrowLeft: now - 1, ArrowRight: now + 1, PageDown: now - far, PageUp: now + far,
      Home: 0, End: steps.length - 1 }[event.key];
    if (event.key === "Escape") moveTo(null);
    if (next === undefined) return;
    event.preventDefault();
    moveTo(steps[Math.min(Math.max(next, 0), steps.length - 1)]);
  });
  new ResizeObserver(draw).observe(svg);
  draw();
  const figure = h("figure", { class: "chart" }, h("h3", {}, title, readout, log), svg,
    h("figcaption", {}, entries.map(({ button }) => button)));
  return { figure, draw };
}

// ---------------------------------------------------------------- the other sections

function evaluation(run) {
  const found = run.evaluation;
  if (!found) return null;
  return [
    h("p", {}, found.title),
    found.tables.map((one) => [
      table(one.head, one.rows, "numbers"), one.about ? h("p", { class: "dim" }, one.about) : null]),
    found.notes.length ? h("ul", {}, found.notes.map((note) => h("li", {}, note))) : null,
    h("div", { class: "pictures" }, found.pictures.map((one) => picture(one, one.caption))),
  ].flat(2);
}

function data(run) {
  const rows = run.data.fingerprint ? [["fingerprint", text(run.data.fingerprint).slice(0, 16)]] : [];
  if (Array.isArray(run.class_names)) {
    const few = run.class_names.slice(0, 40).map(text).join(", ");
    rows.push(["classes", few + (run.class_names.length > 40 ? ", .." : "")]);
  }
  return rows.length ? [table(["", ""], rows)] : null;
}

function tuned(run) {
  const rows = Object.entries(run.tuned).filter(([, row]) => row && typeof row === "object");
  if (!rows.length) return null;
  const fields = [...new Set(rows.flatMap(([, row]) => Object.keys(row)))].filter((f) => f !== "noises");
  const noises = ({ noises: some }) => (Array.isArray(some)
    ? some.map((v) => (typeof v === "number" ? number(v) : text(v))).join("  ") : "");
  return [table(
    ["name", ...fields.map((field) => field.replaceAll("_", " ")), "sigma / alpha of the steps"],
    rows.map(([name, row]) => [name, ...fields.map((field) => row[field]), noises(row)]))];
}

function settings(run) {
  const { preset, values, differs } = run.settings;
  const rows = Object.entries(values);
  if (!rows.length) return null;
  const changed = rows.filter(([key]) => differs && Object.hasOwn(differs, key));
  const first = !differs ? h("p", {}, `There is no preset ${text(preset)} to compare with.`)
    : !changed.length ? h("p", {}, `They are those of the preset ${preset}.`)
    : [h("p", {}, `What differs from the preset ${preset}:`), table(["setting", "this run", "preset"],
      changed.map(([key, value]) => [key, value, differs[key]]))];
  return [first, details("All settings", table(["setting", "value"], rows))].flat();
}

/* What is the same at every start once, the rest start by start. */
function environment(run) {
  const starts = run.environment.filter((start) => start && typeof start === "object");
  if (!starts.length) return null;
  const fields = [...new Set(starts.flatMap((start) => Object.keys(start)))];
  const own = fields.filter((field) => ["started", "step"].includes(field)
    || starts.some((start) => text(start[field]) !== text(starts[0][field])));
  const same = fields.filter((field) => !own.includes(field));
  return [
    table(own, starts.map((start) => own.map((field) => start[field]))),
    same.length ? details("The same at every start",
      table(["", ""], same.map((field) => [field, starts[0][field]]))) : null,
  ];
}

function checkpoints(run) {
  const rows = run.checkpoints.map((one) =>
    [one.name, count(one.nimg), bytes(one.bytes), one.state]);
  return rows.length ? [table(["checkpoint", "images seen", "size", "state"], rows)] : null;
}

function commands(run) {
  return [
    h("p", { class: "dim" }, "In the folder from which this page was made."),
    run.commands.map(({ about, line }) => {
      const code = h("code", { tabindex: 0 }, line);
      return h("div", { class: "command" }, h("p", {}, about), h("pre", {}, code, copyButton(code)));
    }),
  ].flat();
}

function copyButton(code) {
  const copy = async () => {
    getSelection().selectAllChildren(code);
    try {
      await navigator.clipboard.writeText(code.textContent);
      button.textContent = "Copied";
    } catch {
      button.textContent = "Selected"; // the browser does not let a page write the clipboard
    }
  };
  const button = h("button", { type: "button", onclick: copy }, "Copy");
  return button;
}

// ---------------------------------------------------------------- the page

const SECTIONS = [["Samples", samples], ["Curves", curves], ["Evaluation", evaluation],
  ["Data", data], ["Tuned samplers", tuned], ["Settings", settings],
  ["Environment", environment], ["Checkpoints", checkpoints], ["Commands", commands]];

function render(run) {
  const shown = SECTIONS.map(([title, draw]) => [title, title.toLowerCase().replace(" ", "-"), draw(run)])
    .filter(([, , body]) => body);
  const links = shown.map(([title, id]) => h("a", { href: `#${id}` }, title));
  const focused = document.activeElement?.id;
  document.title = `${run.name} · unnoise`;
  document.querySelector("header").replaceChildren(
    ...head(run).filter((part) => part), h("nav", { "aria-label": "sections" }, links));
  document.querySelector("main").replaceChildren(...shown.map(([title, id, body]) =>
    h("section", { id }, h("h2", {}, title), body)));
  document.querySelector("footer").textContent = run.made ? `Made ${run.made}. One file, no requests.` : "";
  if (focused) document.getElementById(focused)?.focus();
}

/* A report holds its data. A live page has none here: it calls render(run) whenever there are new. */
const embedded = document.getElementById("run");
if (embedded) render(JSON.parse(embedded.textContent));
