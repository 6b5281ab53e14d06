/* Samplers by numbers of steps, on the same seeds: one small wall per cell, and each made once. */

import { html, useEffect, useRef, useState, useStored } from "./lib.js";
import { Classes, Field, Slider, className, isTuned, labelFor, samplers } from "./fields.js";
import { Pixels, Problem, SeedField, doing } from "./pieces.js";
import { Wall, columnsFor } from "./wall.js";

const USUAL = ["ddim", "dpmpp_2m", "unipc_3"];
const MOST_COLUMNS = 10;
const MOST_CELLS = 200;
const KEPT = "explore.cells";

/* Cells by what they show: {images, labels, nfe, seconds, error}. They live as long as the page, and
   a reload asks the server for the jobs that it still has. */
const cells = new Map();

function keep(key, cell) {
  cells.set(key, cell);
  if (cells.size > MOST_CELLS) cells.delete(cells.keys().next().value);
}

function known() {
  try {
    return JSON.parse(sessionStorage.getItem(KEPT)) ?? {};
  } catch {
    return {};
  }
}

function remember(key, id) {
  const all = Object.entries({ ...known(), [key]: id }).slice(-64);
  sessionStorage.setItem(KEPT, JSON.stringify(Object.fromEntries(all)));
}

const FIRST = { num: 9, seed: 0, classes: null, guidance: null, samplers: USUAL, steps: [5, 10, 20, 50] };

function firstFor(model) {
  const count = model.shape.num_classes;
  return { ...FIRST, num: count > 1 && count <= 12 ? count : FIRST.num };
}

/* What a cell asks for; a tuned sampler has steps of its own. */
function cellOf(model, asked, sampler, steps) {
  const settings = { sampler };
  if (steps !== null) settings.steps = steps;
  if (asked.guidance !== null) settings.guidance_scale = asked.guidance;
  const { num, seed } = asked;
  const label = labelFor(model, asked.classes, num);
  const body = { kind: "sample", model: model.id, num, seed, label, settings };
  return { sampler, steps, body, key: JSON.stringify([model.weights, body]) };
}

export function Plot({ model, fields, children }) {
  const [asked, setAsked] = useStored(`explore.plot.${model.id}`, firstFor(model));
  const [live, setLive] = useState(null);
  const [open, setOpen] = useState(null);
  const work = useRef(null);
  const change = (changes) => setAsked((old) => ({ ...old, ...changes }));

  const names = samplers(model, fields);
  const chosen = names.length ? names.filter((name) => asked.samplers.includes(name)) : asked.samplers;
  const columns = [...new Set(asked.steps)].sort((a, b) => a - b).slice(0, MOST_COLUMNS);
  const rows = chosen.map((sampler) => ({
    sampler,
    cells: (isTuned(model, sampler) ? [null] : columns).map((n) => cellOf(model, asked, sampler, n)),
  }));
  const all = rows.flatMap((row) => row.cells);
  const wanted = useRef(all);
  wanted.current = all;
  const missing = all.filter(({ key }) => !cells.has(key));
  const failed = all.map(({ key }) => cells.get(key)?.error).find(Boolean);

  const make = async () => {
    const own = (work.current = { stopped: false });
    for (const { key } of all) if (cells.get(key)?.error) cells.delete(key);
    for (;;) {
      const cell = wanted.current.find(({ key }) => !cells.has(key));
      if (!cell || own.stopped) break;
      setLive({ key: cell.key });
      own.job = doing(cell.body, (job) => setLive({ key: cell.key, job }), known()[cell.key]);
      try {
        const { id, header, frames, end } = await own.job.ended;
        if (end.state === "stopped") break;
        if (end.state !== "done") throw new Error(end.error);
        remember(cell.key, id);
        const { x0, nfe } = frames.at(-1);
        keep(cell.key, { images: x0, labels: header.labels, nfe, seconds: end.seconds });
      } catch (error) {
        keep(cell.key, { error: error.message });
      }
    }
    work.current = null;
    if (!own.left) setLive(null);
  };
  const stop = () => {
    if (!work.current) return;
    work.current.stopped = true;
    work.current.job?.stop();
  };
  useEffect(
    () => () => {
      if (work.current) work.current.left = true;
      stop();
    },
    [],
  );
  useEffect(() => {
    if (all.some(({ key }) => known()[key] && !cells.has(key))) make();
  }, []);

  const flip = (name) =>
    change({
      samplers: chosen.includes(name) ? chosen.filter((one) => one !== name) : [...chosen, name],
    });
  const wide = Math.max(1, columns.length);
  return html`<div class="screen">
    <form class="controls" onSubmit=${(event) => event.preventDefault()} aria-label="what to plot">
      ${children}
      <fieldset class="field chips">
        <legend>Samplers</legend>
        ${names.map(
          (name) =>
            html`<button
              type="button"
              class="chip"
              aria-pressed=${String(chosen.includes(name))}
              onClick=${() => flip(name)}
            >
              ${name}
            </button>`,
        )}
      </fieldset>
      <${Field}
        field=${{ label: "Steps", type: "numbers", help: `At most ${MOST_COLUMNS} numbers of steps` }}
        value=${asked.steps}
        onChange=${(steps) => change({ steps })}
      />
      <${Classes} model=${model} value=${asked.classes} onChange=${(classes) => change({ classes })} />
      <${Slider} label="Pictures" value=${asked.num} min=${1} max=${64} onChange=${(num) => change({ num })} />
      <${SeedField} label="First seed" value=${asked.seed} onChange=${(seed) => change({ seed })} />
      ${model.shape.num_classes > 0 &&
      html`<${Slider}
        label="Guidance"
        value=${asked.guidance ?? model.settings.guidance_scale}
        min=${0}
        max=${8}
        step=${0.1}
        onChange=${(guidance) => change({ guidance })}
      />`}
    </form>
    <section class="stage" aria-label="sampler by steps">
      <${Problem} error=${failed} />
      <div class="row">
        ${live
          ? html`<button type="button" class="main" onClick=${stop}>Stop</button>`
          : html`<button type="button" class="main" disabled=${!missing.length && !failed} onClick=${make}>
              ${missing.length || !all.length ? `Make ${missing.length} cell${missing.length === 1 ? "" : "s"}` : failed ? "Try again" : "All are made"}
            </button>`}
      </div>
      <p class="dim">
        The same ${asked.num} seeds in every cell. Below each: its number of network evaluations per
        picture (NFE), and the time that all of its pictures took.
      </p>
      ${all.length === 0 && html`<p>Choose a sampler and a number of steps.</p>`}
      ${all.length > 0 &&
      html`<div class="wide" tabindex="0" role="region" aria-label="plot">
        <table class="explore-plot">
          <thead>
            <tr>
              <th scope="col">Sampler</th>
              ${columns.map((n) => html`<th scope="col">${n} ${n === 1 ? "step" : "steps"}</th>`)}
            </tr>
          </thead>
          <tbody>
            ${rows.map(
              (row) =>
                html`<tr key=${row.sampler}>
                  <th scope="row">${row.sampler}</th>
                  ${row.cells.map(
                    (cell) =>
                      html`<td key=${cell.key} colspan=${cell.steps === null ? wide : 1}>
                        <${Cell} cell=${cell} live=${live?.key === cell.key ? live : null} onOpen=${setOpen} />
                      </td>`,
                  )}
                </tr>`,
            )}
          </tbody>
        </table>
      </div>`}
      ${open && html`<${Large} model=${model} cell=${open} onClose=${() => setOpen(null)} />`}
    </section>
  </div>`;
}

const titleOf = ({ sampler, steps }) => (steps === null ? `${sampler}, its own steps` : `${sampler}, ${steps} steps`);

function Cell({ cell, live, onOpen }) {
  const made = cells.get(cell.key);
  const images = made?.images ?? live?.job?.frames.at(-1)?.x0;
  const frame = live?.job?.frames.at(-1);
  const said = made?.images
    ? `${made.nfe} NFE · ${made.seconds.toFixed(2)} s`
    : made?.error
      ? "failed"
      : frame
        ? `step ${frame.step} of ${live.job.header.steps}`
        : live
          ? "waiting …"
          : "";
  const labels = made?.labels ?? live?.job?.header?.labels;
  const columns = images && columnsFor(images.n, labels);
  const wide = images && columns === images.n && images.n > 4 ? Math.ceil(Math.sqrt(images.n)) : columns;
  return html`<button
    type="button"
    class="explore-cell"
    disabled=${!made?.images}
    aria-label=${`${titleOf(cell)}: ${said || "not made"}`}
    title=${made?.error ?? ""}
    onClick=${() => onOpen(cell)}
  >
    ${images ? html`<${Pixels} images=${images} columns=${wide} />` : html`<span class="explore-none"></span>`}
    <span class="dim">${said || " "}</span>
  </button>`;
}

function Large({ model, cell, onClose }) {
  const dialog = useRef();
  const { images, labels, nfe, seconds } = cells.get(cell.key);
  const heads = labels && Object.fromEntries(labels.map((one) => [one, className(model, one)]));
  useEffect(() => dialog.current.showModal(), []);
  return html`<dialog ref=${dialog} class="explore-large" aria-label=${titleOf(cell)} onClose=${onClose}>
    <p class="row">
      <b>${titleOf(cell)}</b>
      <span class="dim">${nfe} NFE, ${seconds.toFixed(2)} s, seeds from ${cell.body.seed}</span>
      <button type="button" class="small" onClick=${() => dialog.current.close()}>Close</button>
    </p>
    <${Wall} images=${images} labels=${labels} heads=${heads} label=${titleOf(cell)} />
  </dialog>`;
}
