/* A walk between four seeds: a point in a square, and the picture of its noise. */

import { html, useEffect, useMemo, useRef, useState, useStored, store } from "./lib.js";
import { Classes, labelFor, numberOf } from "./fields.js";
import { Settings } from "./settings.js";
import { Pixels, Problem, newSeed, newest, progress, single, useMade } from "./pieces.js";

const SIDE = 7;
const STEP = 0.02;
const PLACES = ["up left", "up right", "down left", "down right"];
const CORNERS = [[0, 0], [1, 0], [0, 1], [1, 1]];
const MIDDLES = Array.from({ length: SIDE * SIDE }, (_, i) => [
  ((i % SIDE) + 0.5) / SIDE,
  (Math.floor(i / SIDE) + 0.5) / SIDE,
]);

/* Store what the recipe of a walk asked for, so that the part shows it. */
export function restoreWalk(model, { corners, points, label = null, settings }) {
  const at = points.length === 1 ? points[0] : [0.5, 0.5];
  const classes = label === null ? null : [numberOf(model, Array.isArray(label) ? label[0] : label)];
  store(`explore.walk.${model.id}`, { corners, at, classes, settings });
}

const bounded = (value) => Math.min(1, Math.max(0, Math.round(value * 1e4) / 1e4));

export function Walk({ model, fields, children }) {
  const [asked, setAsked] = useStored(`explore.walk.${model.id}`, {
    corners: [0, 1, 2, 3],
    at: [0.5, 0.5],
    classes: model.shape.num_classes ? [0] : null,
    settings: model.tuned.includes("fast") ? { sampler: "fast" } : {},
  });
  const change = (changes) => setAsked((old) => ({ ...old, ...changes }));
  const bodyOf = (points) => ({
    kind: "walk",
    model: model.id,
    corners: asked.corners,
    points,
    label: labelFor(model, asked.classes, points.length),
    settings: asked.settings,
  });
  const corners = useMade("explore.corners", bodyOf(CORNERS));
  const map = useMade("explore.map", bodyOf(MIDDLES), { auto: false });
  const [seen, setSeen] = useState(null);
  const walker = useMemo(() => newest((job, text) => setSeen({ job, text })), []);
  const here = bodyOf([asked.at]);
  const text = JSON.stringify(here);
  useEffect(() => walker.ask(here, text), [text]);
  useEffect(() => () => walker.stop(), []);

  const picture = useRef(null);
  const frame = seen?.job.frames.at(-1);
  if (frame || seen?.job.end?.error) picture.current = frame?.x0 ?? null;
  const failed = seen?.job.end?.error ?? corners.job?.error;
  const error = failed ?? (map.fresh ? map.job?.error : null);
  const filled = !failed && map.fresh && map.job?.frames.at(-1)?.x0;
  const ends = failed ? null : corners.job?.frames.at(-1)?.x0;
  const filling = map.fresh && map.job && !map.job.end;
  const reseed = (i) => change({ corners: asked.corners.map((one, k) => (k === i ? newSeed() : one)) });
  const saved = map.fresh && map.job?.end?.state === "done" && map.job.id;
  const link = (job, text) => html`<a class="button" href=${`/api/jobs/${job}`} download>${text}</a>`;
  const settled = seen?.text === text && seen.job.end?.state === "done";
  return html`<div class="screen">
    <form class="controls" onSubmit=${(event) => event.preventDefault()} aria-label="where to walk">
      ${children}
      <${Classes} one model=${model} value=${asked.classes} onChange=${(classes) => change({ classes })} label="Class" />
      <${Settings} model=${model} fields=${fields} value=${asked.settings} onChange=${(settings) => change({ settings })} />
      <p class="dim">
        Drag the point, or use the arrow keys. The noise between the seeds is a spherical mixture, so
        every point is as likely as a seed.
      </p>
    </form>
    <section class="stage" aria-label="latent walk">
      <${Problem} error=${error} />
      <div class="row">
        ${filling
          ? html`<button type="button" class="main" onClick=${map.stop}>Stop</button>`
          : html`<button type="button" class="main" disabled=${Boolean(filled)} onClick=${map.make}>
              Fill the square
            </button>`}
        <button type="button" onClick=${() => change({ corners: PLACES.map(newSeed) })}>Four new seeds</button>
        ${saved && link(`${saved}/png`, "Save the square as PNG")}
      </div>
      <div class="explore-walk">
        <div class="explore-square">
          ${PLACES.map(
            (place, i) =>
              html`<div class=${`explore-corner explore-corner${i}`}>
                <${Pixels} images=${ends && single(ends, i)} label=${`seed ${asked.corners[i]}, ${place}`} />
                <button type="button" class="small" onClick=${() => reseed(i)} title=${`Another seed ${place}`}>
                  Dice<span class="explore-hidden"> ${place}</span>
                </button>
                <span class="dim">${asked.corners[i]}</span>
              </div>`,
          )}
          <${Pad} at=${asked.at} onChange=${(at) => change({ at })} images=${filled} />
        </div>
        <figure class="explore-here">
          <${Pixels} images=${picture.current} label="picture at the point" />
          <figcaption>
            ${Math.round(100 * asked.at[0])} % right, ${Math.round(100 * asked.at[1])} % down
            ${settled ? `, ${seen.job.end.seconds.toFixed(2)} s` : ""}
            ${filling ? html`<br />${progress(map.job)}` : ""}
          </figcaption>
          ${settled && link(`${seen.job.id}/png?index=0`, "Save as PNG")}
        </figure>
      </div>
    </section>
  </div>`;
}

function Pad({ at, onChange, images }) {
  const pad = useRef();
  const point = (event) => {
    const { left, top, width, height } = pad.current.getBoundingClientRect();
    onChange([bounded((event.clientX - left) / width), bounded((event.clientY - top) / height)]);
  };
  const press = (event) => {
    if (event.button !== 0) return;
    pad.current.setPointerCapture(event.pointerId);
    point(event);
  };
  const drag = (event) => pad.current.hasPointerCapture(event.pointerId) && point(event);
  const keys = (event) => {
    const by = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    const to = { Home: [0, 0], End: [1, 1] }[event.key];
    if (!by && !to) return;
    event.preventDefault();
    const size = event.shiftKey ? 5 * STEP : STEP;
    onChange(to ?? by.map((one, i) => bounded(at[i] + one * size)));
  };
  const place = { left: `${100 * at[0]}%`, top: `${100 * at[1]}%` };
  const words = `${Math.round(100 * at[0])} percent right, ${Math.round(100 * at[1])} percent down`;
  return html`<div
    ref=${pad}
    class="explore-pad"
    role="slider"
    tabindex="0"
    aria-label="point between the seeds"
    aria-valuemin="0"
    aria-valuemax="100"
    aria-valuenow=${Math.round(100 * at[0])}
    aria-valuetext=${words}
    onPointerDown=${press}
    onPointerMove=${drag}
    onKeyDown=${keys}
  >
    ${images && html`<${Pixels} images=${images} columns=${SIDE} />`}
    <i style=${place}></i>
  </div>`;
}
