/* The settings of sampling as controls: sampler, steps and guidance first, the rest if asked for. */

import { html } from "./lib.js";
import { Choice, Field, Slider, isTuned, samplers } from "./fields.js";

const SHOWN_ALONE = ["sampler", "steps", "guidance_scale", "sampler_options"];

/* What the settings are where nothing is changed: a tuned sampler where there is one. */
export const usualSettings = (model) =>
  model.tuned.includes("balanced") ? { sampler: "balanced" } : {};

export function Settings({ model, fields, value, onChange }) {
  const own = model.settings;
  const now = { ...own, ...value };
  const tuned = isTuned(model, now.sampler); // which brings settings of its own
  const set = (name, to) => {
    const { [name]: _, ...rest } = value;
    if (name === "sampler" && isTuned(model, to)) return onChange({ sampler: to });
    const usual = !tuned && JSON.stringify(to) === JSON.stringify(own[name]);
    onChange(usual ? rest : { ...rest, [name]: to });
  };
  const help = (name) => fields?.find((field) => field.name === name)?.help ?? "";
  const names = samplers(model, fields);
  const others = (fields ?? []).filter(({ name }) => !SHOWN_ALONE.includes(name));
  return html`
    <${Choice}
      label="Sampler"
      help=${help("sampler")}
      value=${now.sampler}
      choices=${names.length ? names : [now.sampler]}
      onChange=${(to) => set("sampler", to)}
    />
    ${tuned && value.steps === undefined
      ? html`<p class="dim field">
          ${now.sampler} has time steps of its own, found for this model.${" "}
          <button type="button" class="small" onClick=${() => set("steps", own.steps)}>
            Choose steps
          </button>
        </p>`
      : html`<${Slider}
          label="Steps"
          help=${help("steps")}
          value=${now.steps}
          min=${1}
          max=${100}
          least=${1}
          most=${1000}
          onChange=${(to) => set("steps", to)}
        />`}
    ${model.shape.num_classes > 0 &&
    html`<${Slider}
      label="Guidance"
      help=${help("guidance_scale")}
      value=${now.guidance_scale}
      min=${0}
      max=${8}
      step=${0.1}
      least=${-1000}
      most=${1000}
      onChange=${(to) => set("guidance_scale", to)}
    />`}
    ${fields &&
    html`<details>
      <summary>More settings</summary>
      ${others.map(
        (field) =>
          html`<${Field} field=${field} value=${now[field.name]} onChange=${(to) => set(field.name, to)} />`,
      )}
    </details>`}
  `;
}
