/* Compare: two models on equal seeds, step by step, and what their numbers say. */

import { html, useEffect, useState, useStored } from "./lib.js";
import { get } from "./api.js";
import { busy } from "./job.js";
import { Problem, progress, useMade } from "./pieces.js";
import { Wall } from "./wall.js";
import { Classes, ModelSelect, NumberField, Slider, labelFor, modelOf } from "./fields.js";
import { Nearest } from "./nearest.js";
import { Settings, usualSettings } from "./settings.js";

const FIRST = { a: null, b: null, num: 12, seed: 0, classes: null, own: { a: null, b: null } };

export function CompareScreen({ models, fields }) {
  const [asked, setAsked] = useStored("compare", FIRST);
  const [at, setAt] = useState(1);
  const [marked, setChosen] = useState(null);
  const chosen = marked !== null && marked < asked.num ? marked : null;
  const change = (changes) => setAsked((old) => ({ ...FIRST, ...old, ...changes }));
  const a = modelOf(models, asked.a);
  const b = models.find(({ id }) => id === asked.b) ?? partner(models, a);

  const settings = (side, model) => asked.own?.[side] ?? usual(side, model, a.id === b.id);
  const body = (side, model) => ({
    kind: "sample",
    model: model.id,
    num: asked.num,
    seed: asked.seed,
    label: labelFor(model, same(a, b) ? asked.classes : null, asked.num),
    settings: settings(side, model),
  });
  const jobs = {
    a: useMade("compare.a", body("a", a)),
    b: useMade("compare.b", body("b", b)),
  };

  const shown = (side) => {
    const { frames } = jobs[side].job ?? { frames: [] };
    const steps = jobs[side].job?.header?.steps ?? 1;
    const wanted = Math.max(1, Math.round(at * steps));
    return frames.findLast((frame) => frame.step <= wanted) ?? frames[0];
  };
  const side = (key, model) => {
    const { job } = jobs[key];
    const frame = shown(key);
    const name = (i) =>
      job?.header ? `seed ${job.header.seeds[i]}${job.header.names ? `, ${job.header.names[i]}` : ""}` : "";
    return html`<section class="side" aria-label=${key.toUpperCase()}>
      <${ModelSelect}
        models=${models}
        label=${`Model ${key.toUpperCase()}`}
        value=${model.id}
        onChange=${(id) => change({ [key]: id, own: { ...asked.own, [key]: null } })}
      />
      <details>
        <summary>How ${key.toUpperCase()} is sampled</summary>
        <${Settings}
          model=${model}
          fields=${fields}
          value=${settings(key, model)}
          onChange=${(value) => change({ own: { ...asked.own, [key]: value } })}
        />
      </details>
      <${Problem} error=${job?.error} />
      <${Wall}
        images=${frame?.x0}
        labels=${job?.header?.labels}
        chosen=${chosen}
        onChoose=${setChosen}
        names=${name}
        label=${`pictures of ${model.name}`}
        high=${420}
      />
      <p class="dim caption">
        ${frame && frame !== job.frames.at(-1)
          ? `step ${frame.step} of ${job.header.steps}, ${frame.nfe} network evaluations`
          : progress(job)}
      </p>
    </section>`;
  };
  const picked = (key) => jobs[key].job?.end?.state === "done" && chosen !== null;
  return html`<div class="compare">
    <form class="controls row" onSubmit=${(event) => event.preventDefault()} aria-label="what both make">
      <${Slider} label="Pictures" value=${asked.num} min=${1} max=${64} onChange=${(num) => change({ num })} />
      <${NumberField}
        label="First seed"
        value=${asked.seed}
        least=${0}
        most=${Number.MAX_SAFE_INTEGER}
        onChange=${(seed) => change({ seed })}
      />
      ${same(a, b) &&
      html`<${Classes} model=${a} value=${asked.classes} onChange=${(classes) => change({ classes })} />`}
    </form>
    <div class="field together">
      <label for="together">Step of both</label>
      <input
        id="together"
        type="range"
        min="0"
        max="1"
        step="0.01"
        value=${at}
        aria-valuetext=${`${Math.round(100 * at)} % of the steps`}
        onInput=${(event) => setAt(+event.target.value)}
      />
    </div>
    <div class="sides">${side("a", a)}${side("b", b)}</div>
    ${(busy(jobs.a.job) || busy(jobs.b.job)) &&
    html`<button type="button" onClick=${() => (jobs.a.stop(), jobs.b.stop())}>Stop</button>`}
    ${chosen === null
      ? html`<p class="dim">Choose a picture to see the training pictures that are nearest to it.</p>`
      : html`<div class="sides">
          ${["a", "b"].map((key) => picked(key) && html`<${Nearest} job=${jobs[key].job} index=${chosen} />`)}
        </div>`}
    <${Judgement} a=${a} b=${b} />
  </div>`;
}

/* Whether the classes of two models mean the same. */
const same = (a, b) =>
  a.shape.num_classes === b.shape.num_classes && `${a.class_names}` === `${b.class_names}`;

/* Another model to compare with: one of the same data, or the same with another sampler. */
const partner = (models, a) =>
  models.findLast((model) => model.id !== a.id && model.data === a.data) ?? a;

/* How a model is sampled unless told: where both are the same one, in two ways. */
function usual(side, model, alone) {
  const [name] = (side === "a" ? ["best"] : ["fast"]).filter((one) => model.tuned.includes(one));
  return alone && name ? { sampler: name } : usualSettings(model);
}

/* What the evaluations of both say. */
function Judgement({ a, b }) {
  const [answer, setAnswer] = useState(null);
  useEffect(() => {
    let left = false;
    setAnswer(null);
    get(`/api/compare?a=${a.id}&b=${b.id}`)
      .catch((problem) => ({ error: problem.message }))
      .then((found) => !left && setAnswer(found));
    return () => {
      left = true;
    };
  }, [a.id, b.id]);
  if (!answer) return null;
  if (answer.error) return html`<p class="error" role="alert">${answer.error}</p>`;
  const { judged, evaluated } = answer;
  if (a.id === b.id) return null;
  if (!judged) {
    const lacking = [a, b].filter((_, i) => !evaluated[i]).map((model) => model.name);
    return html`<section>
      <h2>Judgement</h2>
      <p>No numbers to compare: not evaluated here: ${[...new Set(lacking)].join(", ")}.</p>
      <p class="dim">
        <code>unnoise evaluate RUN</code> measures a run; its numbers then stand here.
      </p>
      ${(answer.notes ?? []).map((line) => html`<p class="problems">${line}</p>`)}
    </section>`;
  }
  const mark = (better, side) =>
    better && html` <b class=${better === side ? "better" : "worse"}>${better === side ? "better" : "worse"}</b>`;
  return html`<section>
    <h2>Judgement</h2>
    ${judged.verdict.map((line) => html`<p class="verdict">${line}</p>`)}
    ${judged.warnings.map((line) => html`<p class="problems">${line}</p>`)}
    <div class="wide">
      <table>
        <thead>
          <tr><th scope="col">number</th><th scope="col">A</th><th scope="col">B</th></tr>
        </thead>
        <tbody>
          ${judged.rows.map(
            ([label, one, other, better]) => html`<tr>
              <td>${label}</td>
              <td>${one}${mark(better, "a")}</td>
              <td>${other}${mark(better, "b")}</td>
            </tr>`,
          )}
        </tbody>
      </table>
    </div>
    <p class="dim">A: ${judged.titles[0]}</p>
    <p class="dim">B: ${judged.titles[1]}</p>
  </section>`;
}
