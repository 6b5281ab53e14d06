/* The ways of some seeds from noise to pictures, in the plane where they differ most. */

import { html, useMemo, useStored, useState } from "./lib.js";
import { Classes, Slider, labelFor } from "./fields.js";
import { Settings } from "./settings.js";
import { Wall } from "./wall.js";
import { plane } from "./pca.js";
import {
  MakeOrStop,
  Pixels,
  Problem,
  SeedField,
  Switches,
  noiseText,
  progress,
  single,
  useMade,
} from "./pieces.js";

const MOST_POINTS = 400;
const MARGIN = 0.09;

export function Paths({ model, fields, children }) {
  const [asked, setAsked] = useStored(`explore.paths.${model.id}`, {
    num: 10,
    seed: 0,
    classes: null,
    of: "x0",
    settings: { steps: 30 },
  });
  const [at, setAt] = useState(null);
  const change = (changes) => setAsked((old) => ({ ...old, ...changes }));
  const { num, seed } = asked;
  const label = labelFor(model, asked.classes, num);
  const body = { kind: "sample", model: model.id, num, seed, label, settings: asked.settings };
  const { job, make, stop } = useMade("explore.paths", body);
  const done = job?.end?.state === "done" ? job.id : null;
  const found = useMemo(() => (done ? project(job.frames, asked.of) : null), [done, asked.of]);
  return html`<div class="screen">
    <form class="controls" onSubmit=${(event) => event.preventDefault()} aria-label="whose paths">
      ${children}
      <${Classes} model=${model} value=${asked.classes} onChange=${(classes) => change({ classes })} />
      <${Slider} label="Seeds" value=${num} min=${2} max=${16} least=${1} most=${64} onChange=${(num) => change({ num })} />
      <${SeedField} label="First seed" value=${seed} onChange=${(seed) => change({ seed })} />
      <${Settings} model=${model} fields=${fields} value=${asked.settings} onChange=${(settings) => change({ settings })} />
      <div class="row">
        <${MakeOrStop} job=${job} make=${make} stop=${stop} />
      </div>
    </form>
    <section class="stage" aria-label="paths">
      <${Problem} error=${job?.error} />
      <div class="row">
        <${Switches}
          label="paths of"
          value=${asked.of}
          choices=${[
            ["x0", html`Prediction x<sub>0</sub>`],
            ["x", html`Noisy x<sub>t</sub>`],
          ]}
          onChange=${(of) => change({ of })}
        />
      </div>
      ${found
        ? html`<${Drawing} found=${found} header=${job.header} at=${at} onChange=${setAt} />`
        : html`<${Wall} images=${job?.frames.at(-1)?.[asked.of]} labels=${job?.header?.labels} label="on their way" />
            <p class="dim caption">${progress(job)}</p>`}
    </section>
  </div>`;
}

/* The frames' pictures in the plane: {paths: one list of points per seed, frames, shares}. */
function project(frames, of) {
  const { n } = frames[0].x0;
  const every = Math.ceil((frames.length * n) / MOST_POINTS);
  const kept = frames.filter((_, i) => (frames.length - 1 - i) % every === 0);
  const rows = kept.flatMap((frame) => Array.from({ length: n }, (_, i) => single(frame[of], i).data));
  const { points, shares } = plane(rows);
  const xs = points.map(([x]) => x);
  const ys = points.map(([, y]) => y);
  const [left, top] = [Math.min(...xs), Math.max(...ys)];
  const size = Math.max(Math.max(...xs) - left, top - Math.min(...ys)) || 1;
  const middle = [(size - (Math.max(...xs) - left)) / 2, (size - (top - Math.min(...ys))) / 2];
  const inside = (share) => MARGIN + (1 - 2 * MARGIN) * share;
  const placed = points.map(([x, y]) => [
    inside((x - left + middle[0]) / size),
    inside((top - y + middle[1]) / size),
  ]);
  const paths = Array.from({ length: n }, (_, i) => kept.map((_, k) => placed[k * n + i]));
  return { of, shares, paths, frames: kept };
}

function Drawing({ found, header, at, onChange }) {
  const { of, paths, frames, shares } = found;
  const last = frames.length - 1;
  const index = Math.min(at ?? last, last);
  const { step, noise } = frames[index];
  const percent = (share) => `${Math.round(100 * share)} %`;
  const line = (some) => some.map(([x, y]) => `${(1000 * x).toFixed(1)},${(1000 * y).toFixed(1)}`).join(" ");
  const colour = (i) => `explore-line${(header.labels?.[i] ?? i) % 6}`;
  const name = (i) => `seed ${header.seeds[i]}${header.names ? `, ${header.names[i]}` : ""}`;
  const place = ([x, y]) => ({ left: `${100 * x}%`, top: `${100 * y}%` });
  const words = `step ${step}, noise ${noiseText(noise)}`;
  const start = frames[0];
  return html`
    <div class="explore-plane">
      <svg viewBox="0 0 1000 1000" role="img" aria-label=${`paths of ${paths.length} seeds, ${words}`}>
        ${paths.map(
          (path, i) =>
            html`<g class=${colour(i)}>
              <polyline class="faint" points=${line(path)} />
              <polyline points=${line(path.slice(0, index + 1))} />
              ${path.slice(0, index + 1).map(([x, y]) => html`<circle cx=${1000 * x} cy=${1000 * y} r="4" />`)}
            </g>`,
        )}
      </svg>
      ${paths.map(
        (path, i) => html`<${Pixels} images=${single(start[of], i)} kind="explore-start" style=${place(path[0])} />`,
      )}
      ${paths.map(
        (path, i) =>
          html`<span class="explore-end" style=${place(path[index])} title=${name(i)}>
            <${Pixels} images=${single(frames[index][of], i)} label=${name(i)} />
          </span>`,
      )}
    </div>
    <div class="scrubber">
      <input
        type="range"
        aria-label="step"
        aria-valuetext=${words}
        min="0"
        max=${last}
        value=${index}
        onInput=${(event) => onChange(+event.target.value)}
      />
      <p class="dim">
        ${words}. The two directions hold ${percent(shares[0])} and ${percent(shares[1])} of the variance
        of all ${paths.length * frames.length} pictures. Small: where a path begins.
      </p>
    </div>
  `;
}
