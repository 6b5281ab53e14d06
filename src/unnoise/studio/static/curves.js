"use strict";
/* The section of curves: which there are, how they are drawn, and what the reader does with them.
   Uses elements.js and axis.js. */

const PANELS = [
  // title, label of the values, fields of metrics.jsonl, whether always linear
  ["Loss", "loss", /^(loss|held_out_loss(_\w+)?)$/, false],
  ["Held-out loss by noise level", "loss", /^held_out_q\d+$/, false],
  ["Learning rate", "learning rate", /^lr$/, true],
  ["Gradient norm", "norm", /^grad_norm$/, false],
  ["Speed", "images per second", /^img_per_sec$/, true],
];
const LABELS = new Map(
  Object.entries({
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
  }),
);
const COLOURS = 6;
const LOG_RATIO = 10; // values that span more than this, all above 0, get a logarithmic axis
const FEW = 60; // a curve of at most this many points shows each as a dot

const label = (name) => LABELS.get(name) ?? name;

/* Known fields in their panels; other fields that change in their own, numbered ones together. */
function panels(series) {
  const known = PANELS.map(([title, unit, pattern, linear]) => ({
    title,
    unit,
    linear,
    names: series.map(([name]) => name).filter((n) => pattern.test(n)),
  }));
  const groups = new Map();
  for (const [name, { values }] of series) {
    const [low, high] = extent(values);
    if (low === high || PANELS.some((panel) => panel[2].test(name))) continue;
    const group = name.replace(/_?\d+$/, "");
    groups.set(group, [...(groups.get(group) ?? []), name]);
  }
  const others = [...groups].map(([group, names]) => ({
    title: names.length > 1 ? group : label(names[0]),
    unit: "value",
    linear: false,
    names,
  }));
  return [...known, ...others].filter((panel) => panel.names.length);
}

function curves(run) {
  const series = Object.entries(run.curves);
  if (!series.length) return null;
  const bySeries = new Map(series);
  const charts = panels(series).map((panel) => chart(panel, bySeries));
  const smoothing = h("input", {
    type: "range",
    id: "smoothing",
    min: 0,
    max: 0.95,
    step: 0.05,
    value: view.smoothing,
    oninput: () => {
      view.smoothing = +smoothing.value;
      charts.forEach((one) => one.draw());
    },
  });
  const rows = series.map(([name, { count: all, nimg, values }]) => {
    const [lowest, highest] = extent(values);
    const at = nimg[values.indexOf(lowest)];
    return [
      name,
      count(all),
      number(values.at(-1), 6),
      count(nimg.at(-1)),
      number(lowest, 6),
      count(at),
      number(highest, 6),
    ];
  });
  return [
    h("label", { class: "control" }, "Smoothing", smoothing),
    h(
      "div",
      { class: "charts" },
      charts.map((one) => one.figure),
    ),
    h(
      "p",
      { class: "dim" },
      "Point at a curve, or focus it and use the arrow keys, to read its ",
      "values. The training loss is the mean since the measurement before.",
    ),
    details(
      "The numbers",
      table(
        ["field", "measurements", "last", "at (images)", "lowest", "at (images)", "highest"],
        rows,
      ),
    ),
  ];
}

/* Grid lines, ticks with their numbers, and what the axes are. */
function frame({ left, right, top, bottom }, x, y, across, unit) {
  const vertical = x
    .ticks(right < 420 ? 4 : 6)
    .flatMap((tick) => [
      s("path", { class: "g", d: `M${x.at(tick)} ${top}V${bottom}` }),
      s("text", { class: "m", x: x.at(tick), y: bottom + 17 }, number(tick, 6)),
    ]);
  const horizontal = y
    .ticks(6)
    .flatMap((tick) => [
      s("path", { class: "g", d: `M${left} ${y.at(tick)}H${right}` }),
      s("text", { class: "e", x: left - 6, y: y.at(tick) + 4 }, number(tick, 6)),
    ]);
  const turned = `translate(13 ${(top + bottom) / 2}) rotate(-90)`;
  return [
    ...vertical,
    ...horizontal,
    s("path", { class: "a", d: `M${left} ${top}V${bottom}H${right}` }),
    s("text", { class: "m", x: (left + right) / 2, y: bottom + 38 }, across),
    s("text", { class: "m", transform: turned }, unit + (y.log ? " (log)" : "")),
  ];
}

/* A curve; where it is smoothed, the measurements are behind it. */
function line({ nimg, values }, x, y, colour) {
  const points = values.map((value, i) => [x.at(nimg[i]).toFixed(1), y.at(value).toFixed(1)]);
  const dots = points.length > FEW ? [] : points.map(([cx, cy]) => s("circle", { cx, cy, r: 2.5 }));
  const raw = [s("polyline", { points: points.join(" ") }), ...dots];
  if (view.smoothing === 0 || values.length < 3) return s("g", { class: `c${colour}` }, raw);
  const means = smoothed(values, view.smoothing);
  const smooth = means.map((mean, i) => `${points[i][0]},${y.at(mean).toFixed(1)}`).join(" ");
  const parts = [s("g", { class: "raw" }, raw), s("polyline", { points: smooth })];
  return s("g", { class: `c${colour}` }, parts);
}

/* A number of images is written in units that suit the last. */
function unitOfImages(last) {
  if (last >= 2e6) return [1e6, "million images seen"];
  return last >= 2000 ? [1000, "thousand images seen"] : [1, "images seen"];
}

/* A figure with curves, its legend (which hides and reads curves) and a cursor. */
function chart({ title, unit, linear, names }, bySeries) {
  const hint = `${title}. Arrow keys move the cursor.`;
  const svg = s("svg", { height: 250, tabindex: 0, role: "img", "aria-label": hint });
  const all = names.flatMap((name) => bySeries.get(name).values);
  const [low, high] = extent(all);
  const visited = new Set(names.flatMap((name) => bySeries.get(name).nimg));
  const steps = [...visited].sort((a, b) => a - b);
  const last = steps.at(-1);
  const cursor = s("g");
  const readout = h("output", { class: "dim" });
  const entries = names.map((name, i) => ({
    name,
    series: bySeries.get(name),
    colour: i % COLOURS,
    value: h("b"),
  }));
  let [x, y, cursorAt] = [null, null, null];

  const isLog = () => low > 0 && (view.log.get(title) ?? (!linear && high / low >= LOG_RATIO));
  const log = toggle("", ["log"], () => view.log.set(title, !isLog()));
  log.disabled = low <= 0;
  const legend = entries.map(({ name, colour, value }) => {
    const parts = [h("i"), h("span", {}, label(name)), value];
    return toggle(`c${colour}`, parts, () =>
      view.hidden.has(name) ? view.hidden.delete(name) : view.hidden.add(name),
    );
  });

  function toggle(kind, parts, change) {
    const onclick = () => {
      change();
      draw();
    };
    return h("button", { type: "button", class: kind, onclick }, parts);
  }

  function draw() {
    const width = svg.getBoundingClientRect().width || 480;
    const box = { left: 64, right: width - 12, top: 10, bottom: 206 };
    const shown = entries.filter(({ name }) => !view.hidden.has(name));
    const values = shown.flatMap(({ series }) => series.values);
    const [scale, across] = unitOfImages(last);
    const ticks = axis(0, (last || 1) / scale, box.left, box.right);
    x = axis(0, last || 1, box.left, box.right);
    y = yAxis(values.length ? values : all, isLog(), box.bottom, box.top);
    log.setAttribute("aria-pressed", y.log);
    legend.forEach((button, i) => {
      button.setAttribute("aria-pressed", !view.hidden.has(names[i]));
    });
    svg.setAttribute("viewBox", `0 0 ${width} 250`);
    svg.replaceChildren(
      ...frame(box, ticks, y, across, unit),
      ...shown.map(({ series, colour }) => line(series, x, y, colour)),
      cursor,
    );
    read(cursorAt);
  }

  /* Put the values after some images (or the last ones, for null) into the legend. */
  function read(at) {
    cursorAt = at;
    readout.textContent = at === null ? "" : `at ${images(at)}`;
    const marks = at === null ? [] : [s("path", { class: "cursor", d: `M${x.at(at)} 10V206` })];
    for (const { name, series, colour, value } of entries) {
      const i = nearest(series.nimg, at ?? last);
      value.textContent = number(series.values[i]);
      if (at === null || view.hidden.has(name)) continue;
      const [cx, cy] = [x.at(series.nimg[i]), y.at(series.values[i])];
      marks.push(s("circle", { class: `c${colour}`, cx, cy, r: 4 }));
    }
    cursor.replaceChildren(...marks);
  }

  function point(event) {
    const pixel = event.clientX - svg.getBoundingClientRect().left;
    read(steps[nearest(steps, x.back(pixel))]);
  }

  function press(event) {
    const now = cursorAt === null ? steps.length : nearest(steps, cursorAt);
    const far = Math.ceil(steps.length / 10);
    const moves = { ArrowLeft: -1, ArrowRight: 1, PageDown: -far, PageUp: far };
    const targets = { Home: 0, End: steps.length - 1 };
    if (event.key === "Escape") read(null);
    if (!(event.key in moves) && !(event.key in targets)) return;
    event.preventDefault();
    const next = targets[event.key] ?? now + moves[event.key];
    read(steps[Math.min(Math.max(next, 0), steps.length - 1)]);
  }

  svg.addEventListener("pointermove", point);
  svg.addEventListener("keydown", press);
  for (const leave of ["pointerleave", "blur"]) svg.addEventListener(leave, () => read(null));
  new ResizeObserver(draw).observe(svg);
  draw();
  const head = h("h3", {}, title, readout, log);
  const figure = h("figure", { class: "chart" }, head, svg, h("figcaption", {}, legend));
  return { figure, draw };
}
