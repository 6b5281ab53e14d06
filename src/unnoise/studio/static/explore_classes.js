/* Rows of seeds by columns of classes: what the class changes, and what the noise does. */

import { html, useStored } from "./lib.js";
import { Classes, Slider, className } from "./fields.js";
import { Settings, usualSettings } from "./settings.js";
import { MakeOrStop, Pixels, Problem, SeedField, progress, single, useMade } from "./pieces.js";

const MOST = 64;
const MOST_COLUMNS = 16;

export function SeedsByClass({ model, fields, children }) {
  const count = model.shape.num_classes;
  const [asked, setAsked] = useStored(`explore.classes.${model.id}`, {
    seed: 0,
    rows: 6,
    classes: null,
    settings: usualSettings(model),
  });
  const change = (changes) => setAsked((old) => ({ ...old, ...changes }));
  const all = Array.from({ length: Math.min(count, MOST_COLUMNS) }, (_, i) => i);
  const columns = count ? (asked.classes ?? all).slice(0, MOST) : null;
  const width = columns?.length ?? 1;
  const most = Math.max(1, Math.floor(MOST / width));
  const rows = Array.from({ length: Math.min(asked.rows, most) }, (_, i) => asked.seed + i);
  const word = (label) => (label === count ? "none" : label);
  const body = {
    kind: "sample",
    model: model.id,
    seeds: rows.flatMap((seed) => Array(width).fill(seed)),
    label: columns && rows.flatMap(() => columns.map(word)),
    settings: asked.settings,
  };
  const { job, make, stop } = useMade("explore.classes", body);
  const images = job?.frames.at(-1)?.x0;
  const shown = images || !job?.error; // an error without pictures stands alone
  return html`<div class="screen">
    <form class="controls" onSubmit=${(event) => event.preventDefault()} aria-label="what to show">
      ${children}
      <${Classes} model=${model} value=${asked.classes} onChange=${(classes) => change({ classes })} />
      <${Slider}
        label=${columns ? "Seeds (rows)" : "Seeds"}
        help=${`At most ${MOST} pictures`}
        value=${rows.length}
        min=${1}
        max=${most}
        onChange=${(rows) => change({ rows })}
      />
      <${SeedField} label="First seed" value=${asked.seed} onChange=${(seed) => change({ seed })} />
      <${Settings} model=${model} fields=${fields} value=${asked.settings} onChange=${(settings) => change({ settings })} />
      <div class="row">
        <${MakeOrStop} job=${job} make=${make} stop=${stop} />
      </div>
    </form>
    <section class="stage" aria-label="class by seed">
      <${Problem} error=${job?.error} />
      ${columns
        ? html`<p class="dim">
            In a row the noise is the same, in a column the class is.
            ${count > MOST_COLUMNS && asked.classes === null ? `The first ${MOST_COLUMNS} of ${count} classes.` : ""}
          </p>`
        : html`<p>${model.name} was trained without classes: here are its seeds alone.</p>`}
      ${shown && columns
        ? html`<${Table} model=${model} columns=${columns} rows=${rows} job=${job} images=${images} />`
        : shown && html`<ul class="explore-seeds">
            ${rows.map(
              (seed, i) =>
                html`<li>
                  <${Pixels} images=${of(images, i)} label=${`seed ${seed}`} />
                  <span class="dim">${seed}</span>
                </li>`,
            )}
          </ul>`}
      <p class="dim caption">${progress(job)}</p>
    </section>
  </div>`;
}

const of = (images, i) => (images && i < images.n ? single(images, i) : undefined);

function Table({ model, columns, rows, images }) {
  const name = (one) => className(model, one);
  return html`<div class="wide" tabindex="0" role="region" aria-label="class by seed, pictures">
    <table class="explore-table">
      <thead>
        <tr>
          <th scope="col">Seed</th>
          ${columns.map((one) => html`<th scope="col" title=${name(one)}>${name(one)}</th>`)}
        </tr>
      </thead>
      <tbody>
        ${rows.map(
          (seed, row) =>
            html`<tr>
              <th scope="row">${seed}</th>
              ${columns.map(
                (one, i) =>
                  html`<td>
                    <${Pixels} images=${of(images, row * columns.length + i)} label=${`${name(one)}, seed ${seed}`} />
                  </td>`,
              )}
            </tr>`,
        )}
      </tbody>
    </table>
  </div>`;
}
