/* One run: what it is, its samples, curves, evaluation, settings and so on, and what to run next.
   `run` is what run_folder.read gives, and a `src` on each picture. */

import { Command, html, useState } from "./lib.js";
import { Curves } from "./curves.js";
import { bytes, count, duration, images, number, text } from "./format.js";
import { Grids } from "./grids.js";
import { Bar, Details, Picture, State, Table } from "./parts.js";

const SECTIONS = [
  ["Samples", samples],
  ["Curves", curves],
  ["Evaluation", evaluation],
  ["Data", data],
  ["Tuned samplers", tuned],
  ["Settings", settings],
  ["Environment", environment],
  ["Checkpoints", checkpoints],
];

/* A section is shown where its function gives something. */
export function RunView({ run }) {
  const shown = SECTIONS.map(([title, draw]) => [title, draw(run)]).filter(([, body]) => body);
  const id = (title) => title.toLowerCase().replace(" ", "-");
  const go = (event) => {
    event.preventDefault(); // the address stays that of the page's own screens
    document.getElementById(event.target.hash.slice(1)).focus();
  };
  return html`
    <div class="run">
      <header>
        <${Head} run=${run} />
        <nav aria-label="sections">
          ${shown.map(([title]) => html`<a href=${`#${id(title)}`} onClick=${go}>${title}</a>`)}
        </nav>
      </header>
      ${shown.map(
        ([title, body]) => html`
          <section key=${title} id=${id(title)} tabindex="-1" aria-label=${title}>
            <h2>${title}</h2>
            ${body}
          </section>
        `,
      )}
    </div>
  `;
}

function Head({ run }) {
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
  return html`
    <h1>${run.name}</h1>
    <p><${State} state=${run.state} />${run.state === "finished" ? "" : share}</p>
    ${run.progress !== null && html`<${Bar} share=${run.progress} name="progress" />`}
    ${run.verdict.map((line) => html`<p class="verdict">${line}</p>`)}
    <dl>
      ${facts.map(([name, value]) => html`<div><dt>${name}</dt><dd>${value}</dd></div>`)}
    </dl>
    ${run.problems.length > 0 &&
    html`<section class="problems" aria-label="problems">
      Missing, broken or worth knowing:
      <ul>${run.problems.map((one) => html`<li>${one}</li>`)}</ul>
    </section>`}
    <${Commands} run=${run} />
  `;
}

function Commands({ run }) {
  return html`<div class="commands">
    <${Details} title="What to run next">
      <p class="dim">In the folder from which this page was made.</p>
      ${run.commands.map((one) => html`<${Command} ...${one} />`)}
    <//>
  </div>`;
}

function samples(run) {
  const some = run.samples.some((grid) => grid.src);
  return some || run.data.picture?.src ? html`<${Samples} run=${run} />` : null;
}

function Samples({ run }) {
  const [at, show] = useState(null);
  const [shown, all] = [run.samples.length, run.grids ?? run.samples.length];
  const some = shown === all ? `${all} grids` : `${shown} of ${all} grids, evenly chosen`;
  return html`
    <${Grids} runs=${[run]} at=${at} show=${show}>
      <${Picture} image=${run.data.picture} caption="Training images" />
    <//>
    ${shown > 0 && html`<p class="dim">The seeds are the same throughout; ${some}.</p>`}
  `;
}

function curves(run) {
  return Object.keys(run.curves).length ? html`<${Curves} runs=${[run]} />` : null;
}

function evaluation(run) {
  const found = run.evaluation;
  if (!found) return null;
  const near =
    "Samples and their nearest training images: in each row a sample, its nearest, the next three";
  return html`
    <p>${found.title}</p>
    ${found.tables.map(
      (one) => html`
        <${Table} head=${one.head} rows=${one.rows} />
        ${one.about && html`<p class="dim">${one.about}</p>`}
      `,
    )}
    ${found.notes.length > 0 && html`<ul>${found.notes.map((note) => html`<li>${note}</li>`)}</ul>`}
    <div class="pictures">
      <${Picture} image=${found.samples} caption="Samples" />
      <${Picture} image=${found.neighbours} caption=${near} />
    </div>
  `;
}

function data(run) {
  const rows = run.data.fingerprint
    ? [["fingerprint", text(run.data.fingerprint).slice(0, 16)]]
    : [];
  if (Array.isArray(run.class_names)) {
    const few = run.class_names.slice(0, 40).map(text).join(", ");
    rows.push(["classes", few + (run.class_names.length > 40 ? ", .." : "")]);
  }
  return rows.length ? html`<${Table} head=${["", ""]} rows=${rows} />` : null;
}

function tuned(run) {
  const found = Object.entries(run.tuned).filter(([, row]) => row && typeof row === "object");
  if (!found.length) return null;
  const every = new Set(found.flatMap(([, row]) => Object.keys(row)));
  const fields = [...every].filter((field) => field !== "noises");
  const short = (value) => (typeof value === "number" ? number(value) : text(value));
  const noises = (some) => (Array.isArray(some) ? some.map(short).join("  ") : "");
  const names = fields.map((field) => field.replaceAll("_", " "));
  const rows = found.map(([name, row]) => {
    return [name, ...fields.map((field) => row[field]), noises(row.noises)];
  });
  return html`<${Table} head=${["name", ...names, "sigma / alpha of the steps"]} rows=${rows} />`;
}

function settings(run) {
  const { preset, values, differs } = run.settings;
  const rows = Object.entries(values);
  if (!rows.length) return null;
  const changed = rows
    .filter(([key]) => differs && Object.hasOwn(differs, key))
    .map(([key, value]) => [key, value, differs[key]]);
  const said = !differs
    ? `There is no preset ${text(preset)} to compare with.`
    : changed.length
      ? `What differs from the preset ${preset}:`
      : `They are those of the preset ${preset}.`;
  const head = ["setting", "this run", "preset"];
  return html`
    <p>${said}</p>
    ${changed.length > 0 && html`<${Table} head=${head} rows=${changed} />`}
    <${Details} title="All settings"><${Table} head=${["setting", "value"]} rows=${rows} /><//>
  `;
}

/* What is the same at every start once, the rest start by start. */
function environment(run) {
  const starts = run.environment.filter((start) => start && typeof start === "object");
  if (!starts.length) return null;
  const fields = [...new Set(starts.flatMap((start) => Object.keys(start)))];
  const differ = (field) => starts.some((one) => text(one[field]) !== text(starts[0][field]));
  const own = fields.filter((field) => ["started", "step"].includes(field) || differ(field));
  const same = fields.filter((field) => !own.includes(field));
  const once = same.map((field) => [field, starts[0][field]]);
  return html`
    <${Table} head=${own} rows=${starts.map((start) => own.map((field) => start[field]))} />
    ${same.length > 0 &&
    html`<${Details} title="The same at every start">
      <${Table} head=${["", ""]} rows=${once} />
    <//>`}
  `;
}

function checkpoints(run) {
  const head = ["checkpoint", "images seen", "size", "state"];
  const rows = run.checkpoints.map((one) => {
    return [one.name, count(one.nimg), bytes(one.bytes), one.state];
  });
  return rows.length ? html`<${Table} head=${head} rows=${rows} />` : null;
}
