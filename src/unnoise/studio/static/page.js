"use strict";
/* Draws a run. `render(run)` can be called again with newer data: what the reader chose stays. */

/* What the reader chose; grid is the images seen of the grid that is shown, null for the newest. */
const view = { grid: null, smoothing: 0, log: new Map(), hidden: new Set(), open: new Set() };

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
  const bar = h(
    "div",
    {
      class: "bar",
      role: "progressbar",
      "aria-label": "progress",
      "aria-valuenow": Math.floor(100 * (run.progress ?? 0)),
    },
    h("i"),
  );
  bar.firstChild.style.width = `${100 * (run.progress ?? 0)}%`;
  return [
    h("h1", {}, run.name),
    h(
      "p",
      {},
      h("b", { class: `state ${run.state}` }, run.state),
      run.state === "finished" ? "" : share,
    ),
    run.progress === null ? null : bar,
    run.verdict.map((line) => h("p", { class: "verdict" }, line)),
    h(
      "dl",
      {},
      facts.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))),
    ),
    run.problems.length === 0
      ? null
      : h(
          "section",
          { class: "problems", "aria-label": "problems" },
          "Missing, broken or worth knowing:",
          h(
            "ul",
            {},
            run.problems.map((one) => h("li", {}, one)),
          ),
        ),
  ];
}

// ---------------------------------------------------------------- samples

function samples(run) {
  const grids = run.samples.filter((grid) => grid.src);
  const data = picture(run.data.picture, "Training images");
  if (!grids.length) return data && [data];
  const shown = h("img", { id: "grid" });
  const label = h("figcaption", { id: "grid-label" });
  const slider = h("input", {
    type: "range",
    id: "slider",
    min: 0,
    max: grids.length - 1,
    "aria-label": "images seen",
    oninput: () => show(+slider.value),
  });
  const frames = grids.map((grid, i) =>
    h(
      "button",
      { type: "button", tabindex: -1, onclick: () => show(i) },
      h("img", { src: grid.src, alt: "" }),
      count(grid.nimg),
    ),
  );
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
  const some =
    grids.length === all ? `${all} grids` : `${grids.length} of ${all} grids, evenly chosen`;
  return [
    h(
      "div",
      { class: "pictures" },
      h(
        "figure",
        {},
        shown,
        label,
        several ? [h("div", { class: "slide" }, play, slider), film] : null,
      ),
      data,
    ),
    h("p", { class: "dim" }, `The seeds are the same throughout; ${some}.`),
  ];
}

// ---------------------------------------------------------------- the other sections

function evaluation(run) {
  const found = run.evaluation;
  if (!found) return null;
  return [
    h("p", {}, found.title),
    found.tables.map((one) => [
      table(one.head, one.rows),
      one.about ? h("p", { class: "dim" }, one.about) : null,
    ]),
    found.notes.length
      ? h(
          "ul",
          {},
          found.notes.map((note) => h("li", {}, note)),
        )
      : null,
    h(
      "div",
      { class: "pictures" },
      picture(found.samples, "Samples"),
      picture(
        found.neighbours,
        "Samples and their nearest training images: in each row a sample, its nearest, the next three",
      ),
    ),
  ].flat(2);
}

function data(run) {
  const rows = run.data.fingerprint
    ? [["fingerprint", text(run.data.fingerprint).slice(0, 16)]]
    : [];
  if (Array.isArray(run.class_names)) {
    const few = run.class_names.slice(0, 40).map(text).join(", ");
    rows.push(["classes", few + (run.class_names.length > 40 ? ", .." : "")]);
  }
  return rows.length ? [table(["", ""], rows)] : null;
}

function tuned(run) {
  const rows = Object.entries(run.tuned).filter(([, row]) => row && typeof row === "object");
  if (!rows.length) return null;
  const fields = [...new Set(rows.flatMap(([, row]) => Object.keys(row)))].filter(
    (f) => f !== "noises",
  );
  const noises = ({ noises: some }) =>
    Array.isArray(some)
      ? some.map((v) => (typeof v === "number" ? number(v) : text(v))).join("  ")
      : "";
  return [
    table(
      ["name", ...fields.map((field) => field.replaceAll("_", " ")), "sigma / alpha of the steps"],
      rows.map(([name, row]) => [name, ...fields.map((field) => row[field]), noises(row)]),
    ),
  ];
}

function settings(run) {
  const { preset, values, differs } = run.settings;
  const rows = Object.entries(values);
  if (!rows.length) return null;
  const changed = rows.filter(([key]) => differs && Object.hasOwn(differs, key));
  const first = !differs
    ? h("p", {}, `There is no preset ${text(preset)} to compare with.`)
    : !changed.length
      ? h("p", {}, `They are those of the preset ${preset}.`)
      : [
          h("p", {}, `What differs from the preset ${preset}:`),
          table(
            ["setting", "this run", "preset"],
            changed.map(([key, value]) => [key, value, differs[key]]),
          ),
        ];
  return [first, details("All settings", table(["setting", "value"], rows))].flat();
}

/* What is the same at every start once, the rest start by start. */
function environment(run) {
  const starts = run.environment.filter((start) => start && typeof start === "object");
  if (!starts.length) return null;
  const fields = [...new Set(starts.flatMap((start) => Object.keys(start)))];
  const own = fields.filter(
    (field) =>
      ["started", "step"].includes(field) ||
      starts.some((start) => text(start[field]) !== text(starts[0][field])),
  );
  const same = fields.filter((field) => !own.includes(field));
  return [
    table(
      own,
      starts.map((start) => own.map((field) => start[field])),
    ),
    same.length
      ? details(
          "The same at every start",
          table(
            ["", ""],
            same.map((field) => [field, starts[0][field]]),
          ),
        )
      : null,
  ];
}

function checkpoints(run) {
  const rows = run.checkpoints.map((one) => [
    one.name,
    count(one.nimg),
    bytes(one.bytes),
    one.state,
  ]);
  return rows.length ? [table(["checkpoint", "images seen", "size", "state"], rows)] : null;
}

function commands(run) {
  return [
    h("p", { class: "dim" }, "In the folder from which this page was made."),
    run.commands.map(({ about, line }) => {
      const code = h("code", { tabindex: 0 }, line);
      return h(
        "div",
        { class: "command" },
        h("p", {}, about),
        h("pre", {}, code, copyButton(code)),
      );
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

const SECTIONS = [
  ["Samples", samples],
  ["Curves", curves],
  ["Evaluation", evaluation],
  ["Data", data],
  ["Tuned samplers", tuned],
  ["Settings", settings],
  ["Environment", environment],
  ["Checkpoints", checkpoints],
  ["Commands", commands],
];

function render(run) {
  const shown = SECTIONS.map(([title, draw]) => [
    title,
    title.toLowerCase().replace(" ", "-"),
    draw(run),
  ]).filter(([, , body]) => body);
  const links = shown.map(([title, id]) => h("a", { href: `#${id}` }, title));
  const focused = document.activeElement?.id;
  document.title = `${run.name} · unnoise`;
  document
    .querySelector("header")
    .replaceChildren(
      ...head(run).filter((part) => part),
      h("nav", { "aria-label": "sections" }, links),
    );
  document
    .querySelector("main")
    .replaceChildren(
      ...shown.map(([title, id, body]) => h("section", { id }, h("h2", {}, title), body)),
    );
  document.querySelector("footer").textContent = run.made
    ? `Made ${run.made}. One file, no requests.`
    : "";
  if (focused) document.getElementById(focused)?.focus();
}

/* A report holds its data. A live page has none here: it calls render(run) as new ones come. */
const embedded = document.getElementById("run");
if (embedded) render(JSON.parse(embedded.textContent));
