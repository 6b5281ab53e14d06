/* Edit: a picture, a mask painted on it, and versions of it that a model paints. */

import { html, useEffect, useMemo, useRef, useState, useStored, Command } from "./lib.js";
import { base64, post } from "./api.js";
import { Classes, ModelSelect, Slider, labelFor, modelOf, numberOf } from "./fields.js";
import { busy } from "./job.js";
import { Settings, usualSettings } from "./settings.js";
import { Wall } from "./wall.js";
import { maskPng, pngMask } from "./edit_mask.js";
import { Divider, Tools, useMask } from "./edit_tools.js";
import {
  MakeOrStop,
  Problem,
  SeedField,
  Switches,
  decode,
  doing,
  encode,
  newSeed,
  progress,
  single,
  useMade,
} from "./pieces.js";

const MODES = [
  ["inpaint", "Inpaint"],
  ["image", "Image to image"],
];
const FIRST = {
  model: null,
  picture: null,
  mask: null,
  mode: "inpaint",
  num: 8,
  seed: 0,
  seeds: null,
  strength: 0.6,
  resample: 1,
  classes: null,
  settings: {},
};

let handled = null; // what was handed over last: a tab that comes back does not take it again

export function EditScreen({ models, fields, given }) {
  const [asked, setAsked] = useStored("edit", FIRST);
  const [error, setError] = useState(null);
  const [chosen, setChosen] = useState(0);
  const [due, setDue] = useState(false); // made once, without the button
  const source = useRef(null); // the file as it came, for another model's size
  const model = modelOf(models, asked.model);
  const change = (changes) => setAsked((old) => ({ ...old, ...changes }));
  const { shape, pixels, file } = asked.picture ?? {};
  const images = useMemo(() => {
    if (!pixels) return null;
    const [c, h, w] = shape;
    return { n: 1, c, h, w, data: decode(pixels) };
  }, [pixels]);
  const mask = useMask(asked.mask, images, (mask) => change({ mask }));

  /* Take a picture: {picture: a file as base64} or {pixels}, with further changes. True where it is
     one. */
  const turn = useRef(0); // of two quick choices the later one counts
  const take = async (of, what, changes = {}) => {
    setError(null);
    const mine = (turn.current += 1);
    try {
      const picture = await post("/api/fit", { model: of.id, ...what });
      if (mine !== turn.current) return false;
      source.current = what.picture ?? picture.file;
      change({ model: of.id, picture, mask: null, ...changes });
      setChosen(0);
      return true;
    } catch (problem) {
      setError(problem.message);
      return false;
    }
  };
  const takeFile = async (one) => {
    try {
      await take(model, { picture: await base64(one) });
    } catch (problem) {
      setError(problem.message);
    }
  };
  const takeSample = async () => {
    const { shape } = model;
    const classes = shape.num_classes ? [Math.floor(Math.random() * shape.num_classes)] : null;
    const settings = usualSettings(model);
    const label = labelFor(model, classes, 1);
    const body = { kind: "sample", model: model.id, num: 1, seed: newSeed(), label, settings };
    try {
      const { frames, end } = await doing(body).ended;
      if (end.state !== "done") throw new Error(end.error ?? "the sample was stopped");
      await take(model, { pixels: encode(frames.at(-1).x0.data) }, { classes });
    } catch (problem) {
      setError(problem.message);
    }
  };
  /* All that a picture's recipe asked for. */
  const restore = async (of, again) => {
    const { kind: mode, seeds = null, seed = seeds?.[0], num = seeds?.length, label = null } = again;
    const { strength, resample, settings, picture, mask } = again;
    const found = { mode, seeds, seed, num, strength, resample, settings };
    const said = Object.fromEntries(Object.entries(found).filter(([, value]) => value !== undefined));
    const { height, width } = of.shape;
    const taken = await take(of, { picture }, {
      ...said,
      mask: mask ? encode(await pngMask(mask, width, height)) : null,
      classes: label === null ? null : [numberOf(of, label)],
    });
    setDue(taken && mode === "inpaint"); // the other mode follows what is asked for
  };
  useEffect(() => {
    if (!given || handled === given.number) return;
    handled = given.number;
    const of = models.find(({ id }) => id === given.model) ?? model;
    if (given.image) take(of, { pixels: encode(given.image.data) });
    else if (given.asked) restore(of, given.asked).catch((problem) => setError(problem.message));
    else if (given.file) takeFile(given.file);
  }, [given?.number]);

  const png = useMemo(
    () => (mask.some ? maskPng(mask.values, images.w, images.h) : null),
    [mask.values, images],
  );
  const painting = asked.mode === "inpaint";
  const ready = images !== null && (png !== null || !painting);
  const of = { kind: asked.mode, model: model.id, picture: file };
  const body = ready && {
    ...of,
    ...(asked.seeds ? { seeds: asked.seeds } : { num: asked.num, seed: asked.seed }),
    label: labelFor(model, asked.classes, 1),
    settings: asked.settings,
    ...(painting ? { mask: png, resample: asked.resample } : { strength: asked.strength }),
  };
  const { job: last, made, make, stop } = useMade("edit", body, { auto: !painting, outlives: true });
  const job = Object.keys(of).every((key) => made?.[key] === of[key]) ? last : null;
  useEffect(() => {
    if (busy(last)) stop(); // nobody sees its end
  }, Object.values(of));
  useEffect(() => {
    if (!due || !body) return;
    setDue(false);
    make();
  }, [due, ready]);
  const versions = job?.frames.at(-1)?.x0;
  const fits = versions && images && versions.h === images.h && versions.w === images.w;
  const index = Math.min(chosen ?? 0, (versions?.n ?? 1) - 1);
  const canEdit = [1, 3, 4].includes(model.shape.channels);
  const another = (id) => {
    const next = modelOf(models, id);
    const changes = { classes: null, settings: {} };
    if (asked.picture) take(next, { picture: source.current ?? file }, changes);
    else change({ model: id, ...changes });
  };
  return html`<div class="screen edit">
    <form class="controls" onSubmit=${(event) => event.preventDefault()} aria-label="how to edit">
      <${ModelSelect} models=${models} value=${model.id} onChange=${another} />
      ${images && html`<${Source} model=${model} onFile=${takeFile} onSample=${takeSample} />`}
      <${Switches} label="kind of edit" value=${asked.mode} choices=${MODES} onChange=${(mode) => change({ mode })} />
      ${painting
        ? html`<${Slider}
            label="Passes"
            help="Walk each part of the way this many times (RePaint): what is painted fits better, and costs as much more"
            value=${asked.resample}
            min=${1}
            max=${10}
            most=${20}
            onChange=${(resample) => change({ resample })}
          />`
        : html`<${Slider}
            label="Strength"
            help="How far from the picture: from nearly 0 (the same) to 1 (another one)"
            value=${asked.strength}
            min=${0.05}
            max=${1}
            step=${0.05}
            onChange=${(strength) => change({ strength })}
          />`}
      <${Classes} one model=${model} value=${asked.classes} onChange=${(classes) => change({ classes })} label="Class" />
      <${Slider} label="Versions" value=${asked.num} min=${1} max=${64} onChange=${(num) => change({ num, seeds: null })} />
      <${SeedField} label="First seed" value=${asked.seed} onChange=${(seed) => change({ seed, seeds: null })} />
      <${Settings} model=${model} fields=${fields} value=${asked.settings} onChange=${(settings) => change({ settings })} />
    </form>
    <section class="stage" aria-label="picture">
      <${Problem} error=${error ?? job?.error} />
      ${!canEdit && html`<p>${model.name} makes pictures of ${model.shape.channels} channels, which cannot be edited here.</p>`}
      ${!images && canEdit && html`<${Empty} model=${model} onFile=${takeFile} onSample=${takeSample} />`}
      ${images &&
      html`<div class="edit-pair">
        <div>
          <${Tools} images=${images} mask=${mask} painting=${painting} />
          <div class="row">
            <${MakeOrStop}
              job=${job}
              make=${make}
              stop=${stop}
              label=${painting ? "Paint it anew" : "Make again"}
              disabled=${!ready}
            />
            <span class="dim">${!ready ? "First paint over what is to change." : progress(job)}</span>
          </div>
        </div>
        ${versions &&
        html`<div class="edit-versions">
          ${fits &&
          html`<${Divider} before=${images} after=${single(versions, index)} />
            <p class="dim">Version ${index + 1} of ${versions.n}: drag the line, or use the arrow keys.</p>`}
          <${Wall}
            images=${versions}
            chosen=${index}
            onChoose=${(i) => setChosen(i ?? index)}
            names=${(i) => `seed ${job.header?.seeds[i]}`}
            label="versions"
            high=${280}
          />
          ${job.end?.state === "done" &&
          html`<div class="row edit-save">
            <a class="button" href=${`/api/jobs/${job.id}/png?index=${index}`} download>Save this as PNG</a>
            <a class="button" href=${`/api/jobs/${job.id}/png`} download>Save all as a sheet</a>
            <button type="button" onClick=${() => take(model, { pixels: encode(single(versions, index).data) })}>
              Use as picture
            </button>
          </div>`}
        </div>`}
      </div>`}
      ${job?.header && html`<${Lines} header=${job.header} />`}
    </section>
  </div>`;
}

function Source({ model, onFile, onSample, main = false }) {
  const input = useRef();
  const pick = (event) => {
    const [file] = event.target.files;
    event.target.value = "";
    if (file) onFile(file);
  };
  return html`<div class="row">
    <input ref=${input} type="file" accept="image/*" hidden aria-label="picture file" onChange=${pick} />
    <button type="button" onClick=${() => input.current.click()}>Choose a picture …</button>
    <button type="button" class=${main ? "main" : ""} onClick=${onSample}>Use a sample of ${model.name}</button>
  </div>`;
}

function Empty({ model, onFile, onSample }) {
  const { height, width } = model.shape;
  return html`<div class="edit-empty">
    <p><b>Choose a picture, or drop one here.</b> It is fitted to the ${width} × ${height} pixels that ${model.name} knows.</p>
    <p class="dim">
      Then paint over what is to change, and ${model.name} paints it anew; or let it make the whole picture
      again, near the one you gave.
    </p>
    <${Source} main model=${model} onFile=${onFile} onSample=${onSample} />
  </div>`;
}

function Lines({ header }) {
  const { picture, mask } = header.recipe;
  const link = (name, content) =>
    html`<a href=${`data:image/png;base64,${content}`} download=${name}>${name}</a>`;
  return html`<details class="recipe">
    <summary>How this is made</summary>
    <p class="dim">
      With ${link("picture.png", picture)}${mask ? html` and ${link("mask.png", mask)}` : ""} as you see them:
    </p>
    ${header.command && html`<${Command} about="On the command line" line=${header.command} />`}
    <${Command} about="In Python" line=${header.python} />
  </details>`;
}
