/* Small things that Explore and Edit share: pictures, seeds, bytes, and a job as a promise. */

import { html, useEffect, useLayoutEffect, useRef } from "./lib.js";
import { follow, post } from "./api.js";
import { busy, useJob } from "./job.js";
import { draw } from "./wall.js";
import { NumberField } from "./fields.js";

export const newSeed = () => Math.floor(Math.random() * 1e6);

/* Image i of some, without a copy. */
export function single({ c, h, w, data }, i) {
  const size = c * h * w;
  return { n: 1, c, h, w, data: data.subarray(i * size, (i + 1) * size) };
}

/* Images on a canvas that is as wide as its style says; decoration where it has no label. Null blanks
   it; undefined (not there yet) leaves what was drawn. */
export function Pixels({ images, columns = 1, label, style, kind = "" }) {
  const canvas = useRef();
  useLayoutEffect(() => {
    if (images) draw(canvas.current, images, columns);
    else if (images === null) canvas.current.width = canvas.current.height = 1;
  }, [images, columns]);
  const seen = label ? { role: "img", "aria-label": label } : { "aria-hidden": "true" };
  const back = images?.c === 4 ? "chequered" : "";
  return html`<canvas ref=${canvas} width="1" height="1" class=${`pixels ${back} ${kind}`} style=${style} ...${seen}></canvas>`;
}

export function SeedField({ label = "Seed", help, value, onChange }) {
  return html`<${NumberField}
    label=${label}
    help=${help}
    value=${value}
    least=${0}
    most=${Number.MAX_SAFE_INTEGER}
    onChange=${onChange}
  >
    <button type="button" onClick=${() => onChange(newSeed())} title="Another seed">Dice</button>
  <//>`;
}

/* A chosen one of a few, as buttons side by side: [[key, text], ..]. */
export function Switches({ label, value, choices, onChange }) {
  return html`<span class="choice" role="group" aria-label=${label}>
    ${choices.map(
      ([key, text]) =>
        html`<button type="button" aria-pressed=${String(key === value)} onClick=${() => onChange(key)}>
          ${text}
        </button>`,
    )}
  </span>`;
}

export function encode(bytes) {
  let text = "";
  for (let at = 0; at < bytes.length; at += 8192) {
    text += String.fromCharCode(...bytes.subarray(at, at + 8192));
  }
  return btoa(text);
}

export const decode = (text) => Uint8Array.from(atob(text), (one) => one.charCodeAt(0));

/* Do a job: {ended, stop}. `ended` gives {header, frames, end}; a job that `known` names is followed
   instead, if the server still has it. Refused where the job is; a failed one gives its error. */
export function doing(body, tell = () => {}, known = null) {
  let [id, leave, stopped] = [null, () => {}, false];
  const halt = () => id && post(`/api/jobs/${id}/stop`).catch(() => {});
  const watch = (one, quiet = false) =>
    new Promise((done) => {
      id = one;
      leave = follow(one, (job) => {
        if (!stopped && !quiet) tell(job);
        if (!job.end) return;
        leave(); // nothing is told after the end
        done(job);
      });
    });
  const run = async () => {
    if (known) {
      const old = await watch(known, true);
      if (old.header && old.end.state === "done") return old;
    }
    const { id: made } = await post("/api/jobs", body);
    id = made;
    if (stopped) halt();
    return watch(made);
  };
  const stop = () => {
    stopped = true;
    halt();
  };
  return { ended: run(), stop, leave: () => leave() };
}

/* Do the newest of the works that are asked for, one at a time: an older one may end within
   `patience` ms, so that a quick model shows whole pictures while one drags, and is then stopped. */
export function newest(tell, patience = 150) {
  let [running, waiting, timer] = [null, null, null];
  const next = async () => {
    const { body, note } = waiting;
    waiting = null;
    const own = (running = doing(body, (job) => tell(job, note)));
    try {
      await own.ended;
    } catch (error) {
      tell({ frames: [], end: { state: "failed", error: error.message } }, note);
    }
    clearTimeout(timer);
    timer = null;
    running = null;
    if (waiting) next();
  };
  return {
    ask(body, note) {
      waiting = { body, note };
      if (!running) next();
      else timer ??= setTimeout(() => waiting && running?.stop(), patience);
    },
    stop() {
      waiting = null;
      running?.stop();
    },
  };
}

const WAIT_MS = 150;

/* A job that is made anew a moment after its body changes, if `auto`, and that a reload finds again.
   `fresh` says whether the newest is of the body as it is now; `made` is the body of the job that is
   seen. A refusal stands alone. Whoever leaves the job for another part of the page stops it, unless
   it `outlives` that. */
export function useMade(key, body, { auto = true, outlives = false } = {}) {
  const { job, start, stop } = useJob(key);
  const end = useRef(null);
  end.current = !outlives && job && !job.end ? stop : null;
  const text = JSON.stringify(body);
  const asked = `${key}.asked`;
  const restored = useRef(sessionStorage.getItem(key) !== null);
  const last = useRef(restored.current ? sessionStorage.getItem(asked) : null);
  const bodies = useRef(null); // by the id of their job
  bodies.current ??= { [sessionStorage.getItem(key)]: JSON.parse(last.current) };
  const newestBody = useRef(null);
  const make = async () => {
    restored.current = false;
    last.current = text;
    newestBody.current = body;
    sessionStorage.removeItem(key); // the old job is not of this body
    sessionStorage.setItem(asked, text);
    const header = await start(body);
    if (header) bodies.current[header.id] = body;
  };
  const refused = Boolean(job?.error && !job.end.error);
  const made = refused ? newestBody.current : bodies.current[job?.id];
  const gone = restored.current && job?.end?.state === "failed" && !job.header;
  useEffect(() => {
    if (!body || !auto || last.current === text) return;
    const timer = setTimeout(make, last.current === null ? 0 : WAIT_MS);
    return () => clearTimeout(timer);
  }, [text, auto]);
  useEffect(() => {
    if (gone && body && auto) make();
  }, [gone]);
  const leave = () => {
    if (!end.current) return;
    end.current();
    sessionStorage.removeItem(key);
  };
  useEffect(() => leave, []);
  const { end: failure, error } = job ?? {};
  const seen = refused ? { header: null, frames: [], end: failure, error } : job;
  return { job: gone ? null : seen, made, make, stop, fresh: last.current === text };
}

/* A noise level, sigma / alpha; "only" where nothing of the picture is left. */
export function noiseText(noise) {
  if (!Number.isFinite(noise)) return "only";
  return noise === 0 ? "0" : noise.toPrecision(2);
}

/* How far a job is, in words. */
export function progress(job) {
  if (!job) return "";
  if (!job.header) return job.end ? "" : "Waiting …";
  const last = job.frames.at(-1);
  if (!last && job.end) return job.end.state === "stopped" ? "Stopped before the first step" : "";
  if (!last) return "Waiting for the first step …";
  const ended = { done: `, ${(job.end?.seconds ?? 0).toFixed(2)} s`, stopped: ", stopped" };
  const how = ended[job.end?.state] ?? "";
  return `step ${last.step} of ${job.header.steps}, ${last.nfe} network evaluations${how}`;
}

/* Make, or stop what is being made. The two are different elements: a click on one that has just
   become the other does nothing. */
export function MakeOrStop({ job, make, stop, label = "Make again", disabled = false }) {
  return busy(job)
    ? html`<button key="stop" type="button" class="main" onClick=${stop}>Stop</button>`
    : html`<button key="make" type="button" class="main" disabled=${disabled} onClick=${make}>
        ${label}
      </button>`;
}

export function Problem({ error }) {
  return error ? html`<p class="error" role="alert">${error}</p>` : null;
}
