/* Train on a folder: what it will cost first, then the start. */

import { html, useRef, useState, useStored } from "./lib.js";
import { post } from "./api.js";

const FIELDS = [
  // key, label, placeholder, help
  ["source", "Folder of pictures", "/home/me/photos", "Or a zip, or a preset such as digits."],
  ["name", "Name", "photos", "The run is saved under this name."],
  ["time", "Training time", "1h", "Such as 20m or 1h30m. It can be stopped and resumed."],
  ["size", "Picture size", "32", "Height and width in pixels; more takes much longer."],
];
const NOTHING = { source: "", name: "", time: "", size: "" };

/* A name for a run on a folder, which no run has yet. */
function suggested(source, runs) {
  const last = source.replace(/[/\\]+$/, "").split(/[/\\]/).at(-1);
  const base = last.replace(/\.[^.]*$/, "").replace(/[^\w.-]+/g, "-").replace(/^[^A-Za-z0-9]+/, "");
  const taken = new Set(runs.map(({ name }) => name));
  const free = (n) => (n > 1 ? `${base.slice(0, 70)}-${n}` : base.slice(0, 70));
  let n = 1;
  while (taken.has(free(n))) n += 1;
  return base && free(n);
}

/* `plan` is {of, text}, what it says of which body, or {of, error}. */
export function NewRun({ list, plan, setPlan, started }) {
  const [open, setOpen] = useStored("runs.new.open", null);
  const [given, give] = useStored("runs.new", NOTHING);
  const [working, work] = useState("");
  const asked = useRef(null);
  const name = given.name || suggested(given.source, list.runs);
  const settings = {
    ...(given.time.trim() && { "train.time": given.time.trim() }),
    ...(given.size.trim() && { "data.image_size": Number(given.size) || given.size.trim() }),
  };
  const body = { source: given.source.trim(), name, settings };
  const of = JSON.stringify(body);
  const ready = plan?.text && plan.of === of;

  const ask = async (path, then) => {
    asked.current?.abort();
    const mine = (asked.current = new AbortController());
    work(path);
    try {
      then(await post(path, body, mine.signal));
    } catch (error) {
      if (!mine.signal.aborted) setPlan({ of, error: error.message });
    }
    if (asked.current === mine) work("");
  };
  const submit = (event) => {
    event.preventDefault();
    if (!ready) return ask("/api/plan", ({ text }) => setPlan({ of, text }));
    return ask("/api/runs", ({ id }) => {
      setPlan(null);
      give(NOTHING);
      started(id);
    });
  };
  const change = (key) => (event) => {
    asked.current?.abort();
    work("");
    give({ ...given, [key]: event.target.value });
  };
  return html`
    <details
      class="new" open=${open ?? !list.runs.length}
      onToggle=${(event) => setOpen(event.currentTarget.open)}
    >
      <summary>Train on a folder</summary>
      <form onSubmit=${submit}>
        ${FIELDS.map(([key, label, placeholder, help]) => {
          const hint = key === "name" ? name || placeholder : placeholder;
          return html`
            <label class="field" key=${key}>
              ${label}
              <input
                type="text" value=${given[key]} placeholder=${hint} onInput=${change(key)}
                spellcheck="false" autocomplete="off"
                inputmode=${key === "size" ? "numeric" : "text"}
              />
              <span class="dim">${help}</span>
            </label>
          `;
        })}
        <p class="row">
          <button
            type="submit" class=${ready ? "" : "main"}
            disabled=${!body.source || working || ready}
          >
            ${working === "/api/plan" ? "Measuring …" : "Plan"}
          </button>
          <button type="submit" class=${ready ? "main" : ""} disabled=${!ready || working}>
            ${working === "/api/runs" ? "Starting …" : "Start training"}
          </button>
        </p>
        ${!plan &&
        html`<p class="dim">
          The plan tries a few steps, and says what the run takes on this machine.
        </p>`}
        ${plan?.error && html`<p class="error" role="alert">${plan.error}</p>`}
        ${plan?.text && !ready && html`<p class="dim">The plan is of other settings.</p>`}
      </form>
    </details>
  `;
}
