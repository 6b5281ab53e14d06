/* Play: a wall of pictures that denoises as one changes what is asked for. */

import { html, useEffect, useMemo, useState, useStored, Command } from "./lib.js";
import { MakeOrStop, Problem, noiseText, progress, single, useMade } from "./pieces.js";
import { Wall } from "./wall.js";
import { Nearest } from "./nearest.js";
import { Settings, usualSettings } from "./settings.js";
import {
  Classes,
  ModelSelect,
  NumberField,
  Slider,
  labelFor,
  modelOf,
  numberOf,
} from "./fields.js";

const FIRST = { model: null, num: null, seed: 0, seeds: null, locked: false, classes: null, settings: {},
  branch: null };

/* The number of images that suits a model: whole rows of its classes. */
function usualNum(model) {
  const count = model.shape.num_classes;
  if (model.shape.height * model.shape.width > 64 * 64) return 4;
  return count > 1 && count <= 12 ? 2 * count : 16;
}

const bodyOf = (model, asked) => {
  const num = asked.seeds?.length ?? asked.num ?? usualNum(model);
  return {
    kind: "sample",
    model: model.id,
    ...(asked.seeds ? { seeds: asked.seeds } : { num, seed: asked.seed }),
    label: labelFor(model, asked.classes, num),
    settings: asked.settings,
  };
};

/* The choices that a request for a job says again, the branch among them if there is one. */
function choicesOf(asked, model) {
  const branches = asked.branches ?? [];
  const last = branches.at(-1);
  const { label = null, settings } = last ?? asked;
  const labels = Array.isArray(label) ? label : label === null ? [] : [label];
  const classes = [...new Set(labels.map((one) => numberOf(model, one)))];
  const seeds = asked.seeds ?? [asked.seed ?? 0];
  const inRow = seeds.every((seed, i) => seed === seeds[0] + i);
  const body = { ...asked, branches: branches.slice(0, -1) };
  return {
    model: model.id,
    num: asked.seeds ? seeds.length : (asked.num ?? 1),
    seed: seeds[0],
    seeds: inRow ? null : seeds,
    locked: false,
    classes: classes.length ? classes : null,
    settings: settings ?? {},
    branch: last ? { step: last.step, body, choices: choicesOf(body, model) } : null,
  };
}

const TYPING = "select, textarea, input:not([type=range]):not([type=checkbox])";
const OWN = { ArrowLeft: "input", ArrowRight: "input", Enter: "button, a, summary, input" };
let handled = null; // the number of what was handed over and taken

export function PlayScreen({ models, fields, given, goTo }) {
  const [stored, setStored] = useStored("play", FIRST);
  const [noisy, setNoisy] = useStored("play.noisy", false);
  const [at, setAt] = useState(null);
  const [picked, setChosen] = useState(null);
  const [near, setNear] = useState(false);
  const model = modelOf(models, stored.model);
  const first = (of) => ({ ...FIRST, model: of.id, settings: usualSettings(of) });
  const asked = stored.model === model.id ? { ...FIRST, ...stored } : first(model);
  const { branch } = asked;
  const change = (changes) => setStored({ ...asked, ...changes });

  const body = useMemo(() => {
    const own = bodyOf(model, asked);
    if (!branch) return own;
    const label = own.label;
    const next = { step: branch.step, settings: own.settings, ...(label === null ? {} : { label }) };
    return { ...branch.body, branches: [...(branch.body.branches ?? []), next] };
  }, [model.id, JSON.stringify(asked)]);
  const { job, make, stop, fresh } = useMade("play.job", body);
  useEffect(() => setAt(null), [job?.id]);
  const of = given && models.find(({ id }) => id === given.model);
  useEffect(() => {
    if (!of || handled === given.number) return;
    handled = given.number;
    setStored(given.asked ? choicesOf(given.asked, of) : first(of));
  }, [given?.number, Boolean(of)]);

  const header = job?.header;
  const frames = job?.frames ?? [];
  const index = at === null ? frames.length - 1 : Math.min(at, frames.length - 1);
  const frame = frames[index];
  const images = frame && (noisy ? frame.x : frame.x0);
  const chosen = images && picked !== null && picked < images.n ? picked : null;
  const dice = () => change({ seed: Math.floor(Math.random() * 1e6), seeds: null });
  const step = (by) =>
    setAt((old) => Math.max(0, Math.min(frames.length - 1, (old ?? frames.length - 1) + by)));
  const keys = {
    x: () => setNoisy((on) => !on),
    r: () => !asked.locked && dice(),
    Enter: make,
    ArrowLeft: () => step(-1),
    ArrowRight: () => step(1),
    Escape: stop,
  };
  useEffect(() => {
    const press = (event) => {
      const within = (what) => event.target.closest?.(what);
      if (!keys[event.key] || within(TYPING) || within(OWN[event.key] ?? "none")) return;
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      event.preventDefault();
      keys[event.key]();
    };
    addEventListener("keydown", press);
    return () => removeEventListener("keydown", press);
  });
  const heads = header?.labels && Object.fromEntries(header.labels.map((l, i) => [l, header.names[i]]));
  const nameOf = (i) => {
    const named = header?.names ? `, ${header.names[i]}` : "";
    return header ? `seed ${header.seeds[i]}${named}` : "";
  };
  const canBranch =
    frame && header && fresh && frame.step > (branch?.step ?? 0) && frame.step < header.steps;
  const branchHere = () => change({ branch: { step: frame.step, body, choices: asked } });
  const done = job?.end?.state === "done";
  return html`<div class="screen play">
    <form class="controls" onSubmit=${(event) => event.preventDefault()} aria-label="what to make">
      <${ModelSelect}
        models=${models}
        value=${model.id}
        onChange=${(id) => {
          const { seed, locked } = asked;
          setStored({ ...first(modelOf(models, id)), seed, locked });
        }}
      />
      <${Classes} model=${model} value=${asked.classes} onChange=${(classes) => change({ classes })} />
      ${!branch &&
      html`<${Slider}
          label="Pictures"
          value=${body.num ?? asked.seeds.length}
          min=${1}
          max=${64}
          onChange=${(num) => change({ num, seeds: null })}
        />
        <${NumberField}
          label="First seed"
          help="Every picture has a seed of its own, from this one on: the same seed gives the same picture"
          value=${asked.seed}
          least=${0}
          most=${Number.MAX_SAFE_INTEGER}
          onChange=${(seed) => change({ seed, seeds: null })}
        >
          <button type="button" onClick=${dice} disabled=${asked.locked} title="Another seed (r)">
            Dice
          </button>
          <button
            type="button"
            aria-pressed=${String(asked.locked)}
            title="Keep this seed"
            onClick=${() => change({ locked: !asked.locked })}
          >
            Lock
          </button>
        <//>`}
      <${Settings} model=${model} fields=${fields} value=${asked.settings} onChange=${(settings) => change({ settings })} />
      <div class="row">
        <${MakeOrStop} job=${job} make=${make} stop=${stop} />
        <button
          type="button"
          onClick=${() => setStored(first(model))}
        >
          Reset
        </button>
      </div>
    </form>
    <section class="stage" aria-label="pictures">
      ${branch &&
      html`<p class="branch" role="status">
        Branch from step ${branch.step}: what you change now applies from there on.${" "}
        <button type="button" class="small" onClick=${() => setStored(branch.choices)}>
          Leave the branch
        </button>
      </p>`}
      <${Problem} error=${job?.error} />
      <${Wall}
        images=${images}
        labels=${header?.labels}
        chosen=${chosen}
        onChoose=${setChosen}
        names=${nameOf}
        heads=${heads}
        label=${noisy ? "noisy pictures" : "predicted pictures"}
      />
      <p class="dim caption">${chosen !== null && header ? nameOf(chosen) : job ? progress(job) : "Loading the model …"}</p>
      <${Scrubber} frames=${frames} steps=${header?.steps} index=${index} onChange=${setAt} />
      <div class="row">
        <span class="choice" role="group" aria-label="what is shown">
          <button type="button" aria-pressed=${String(!noisy)} onClick=${() => setNoisy(false)}>
            Prediction x<sub>0</sub>
          </button>
          <button type="button" aria-pressed=${String(noisy)} onClick=${() => setNoisy(true)}>
            Noisy x<sub>t</sub>
          </button>
        </span>
        <button type="button" disabled=${!canBranch} onClick=${branchHere}>Branch from here</button>
        ${done &&
        html`<a class="button" href=${`/api/jobs/${job.id}/png${chosen === null ? "" : `?index=${chosen}`}`} download>
            Save ${chosen === null ? "all" : "this"} as PNG
          </a>
          <button
            type="button"
            disabled=${chosen === null && header.shape[0] > 1}
            title="Choose a picture first"
            onClick=${() => goTo("edit", { model: model.id, image: single(frames.at(-1).x0, chosen ?? 0) })}
          >
            Edit this
          </button>`}
      </div>
      ${done &&
      chosen !== null &&
      html`<details open=${near} onToggle=${(event) => setNear(event.target.open)}>
        <summary>Is it a copy? The nearest training pictures</summary>
        ${near && html`<${Nearest} job=${job} index=${chosen} />`}
      </details>`}
      ${header && html`<${Recipe} header=${header} job=${job} />`}
    </section>
  </div>`;
}

/* A slider over the steps. Each step is as wide as any, and as high as the noise that is left. */
function Scrubber({ frames, steps, index, onChange }) {
  if (!frames.length) return html`<div class="scrubber empty"></div>`;
  const last = frames.length - 1;
  const share = (noise) => (Number.isFinite(noise) ? noise / (1 + noise) : 1);
  const words = `step ${frames[index].step}, noise ${noiseText(frames[index].noise)}`;
  // a long job keeps every second, third, .. step, of which the first says which
  const room = Math.max(Math.ceil((steps ?? 0) / frames[0].step), frames.length);
  return html`<div class="scrubber">
    <div class="noise" aria-hidden="true">
      ${Array.from({ length: room }, (_, i) => {
        const height = { height: i < frames.length ? `${6 + 94 * share(frames[i].noise)}%` : "0" };
        return html`<i class=${i === index ? "on" : ""} style=${height}></i>`;
      })}
    </div>
    <input
      type="range"
      aria-label="step"
      aria-valuetext=${words}
      min="0"
      max=${room - 1}
      value=${index}
      onInput=${(event) => onChange(Math.min(+event.target.value, last))}
    />
    <p class="dim">
      ${words} <span>(sigma / alpha; use the arrow keys, and x for x<sub>t</sub>)</span>
    </p>
  </div>`;
}

function Recipe({ header, job }) {
  const link = header.command && html`<${Command} about="On the command line" line=${header.command} />`;
  return html`<details class="recipe">
    <summary>How this is made</summary>
    ${link || html`<p class="dim">The command line has no words for this; Python has.</p>`}
    <${Command} about="In Python" line=${header.python} />
    <${Command} about="The recipe, which is also in every PNG" line=${JSON.stringify(header.recipe)} />
    ${job.end && html`<p class="dim">Job ${job.id}: ${job.end.state}.</p>`}
  </details>`;
}
