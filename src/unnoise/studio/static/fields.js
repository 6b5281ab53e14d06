/* Controls, made from the fields of a configuration: label, type, range and help come with them. */

import { html, useEffect, useRef, useState } from "./lib.js";

const TUNED = ["fast", "balanced", "best"];
let ids = 0;
const useId = (name) => useRef(`${name}-${++ids}`).current;

export function Control({ label, help, id, children }) {
  return html`<div class="field" title=${help ?? ""}>
    <label for=${id}>${label}</label>${children}
  </div>`;
}

/* A text of numbers that is kept while it is being written and sent once it can be read. */
function useText(value, write, read, onChange, expected) {
  const [text, setText] = useState(write(value));
  const [wrong, setWrong] = useState(null);
  const own = useRef(value);
  useEffect(() => {
    if (own.current !== value) setText(write(value));
    own.current = value;
  }, [value]);
  const change = (event) => {
    setText(event.target.value);
    const found = read(event.target.value);
    setWrong(found === undefined ? `expected ${expected}` : null);
    if (found !== undefined) {
      own.current = found;
      onChange(found);
    }
  };
  const leave = () => (setText(write(own.current)), setWrong(null));
  const input = { value: text, onInput: change, onBlur: leave, "aria-invalid": String(!!wrong) };
  return [input, wrong && html`<span class="wrong" role="status">${wrong}</span>`];
}

const readNumber = (least, most, whole) => (text) => {
  const value = Number(text);
  if (text.trim() === "" || !Number.isFinite(value) || (whole && !Number.isInteger(value))) return;
  if ((least ?? -Infinity) <= value && value <= (most ?? Infinity)) return value;
};

const words = (least, most, whole) => {
  const shown = (one) => one.toLocaleString("en-US");
  const range = [least, most].filter(Number.isFinite).map(shown).join(" to ");
  return `${whole ? "a whole number" : "a number"}${range && `, ${range}`}`;
};

export function NumberField({ label, help, value, least, most, whole = true, onChange, children }) {
  const id = useId("number");
  const read = readNumber(least, most, whole);
  const [text, wrong] = useText(value, String, read, onChange, words(least, most, whole));
  return html`<${Control} label=${label} help=${help} id=${id}>
    <span class="row"><input id=${id} type="text" inputmode="decimal" ...${text} />${children}</span>
    ${wrong}
  <//>`;
}

/* A slider with its number, which can go beyond the slider's ends. */
export function Slider({ label, help, value, min, max, step = 1, least, most, onChange }) {
  const id = useId("slider");
  const whole = Number.isInteger(step);
  const [low, high] = [least ?? min, most ?? max];
  const expected = words(low, high, whole);
  const read = readNumber(low, high, whole);
  const [text, wrong] = useText(value, String, read, onChange, expected);
  const slide = (event) => onChange(Number(event.target.value));
  return html`<${Control} label=${label} help=${help} id=${id}>
    <span class="row">
      <input id=${id} type="range" min=${min} max=${max} step=${step} value=${value} onInput=${slide} />
      <input class="short" type="text" inputmode="decimal" aria-label=${`${label}, number`} ...${text} />
    </span>
    ${wrong}
  <//>`;
}

export function Choice({ label, help, value, choices, onChange }) {
  const id = useId("choice");
  return html`<${Control} label=${label} help=${help} id=${id}>
    <select id=${id} value=${value} onChange=${(event) => onChange(event.target.value)}>
      ${choices.map((one) => {
        const [key, name] = Array.isArray(one) ? one : [one, one];
        return html`<option value=${key} selected=${key === value}>${name}</option>`;
      })}
    </select>
  <//>`;
}

export function Switch({ label, help, value, onChange }) {
  const id = useId("switch");
  const flip = (event) => onChange(event.target.checked);
  return html`<div class="field switch" title=${help ?? ""}>
    <input id=${id} type="checkbox" checked=${value} onChange=${flip} />
    <label for=${id}>${label}</label>
  </div>`;
}

/* Any field of a configuration. */
export function Field({ field, value, onChange }) {
  const { label, help, type, least, most, count, choices } = field;
  const common = { label, help, value, onChange };
  if (type === "choice") return html`<${Choice} ...${common} choices=${choices} />`;
  if (type === "bool") return html`<${Switch} ...${common} />`;
  if (type === "int" || type === "float") {
    const whole = type === "int";
    return html`<${NumberField} ...${common} least=${least} most=${most} whole=${whole} />`;
  }
  if (type === "numbers") return html`<${NumbersField} ...${common} count=${count} />`;
  return null;
}

/* A list of numbers as text. */
function NumbersField({ label, help, value, count, onChange }) {
  const id = useId("numbers");
  const short = (one) => (one >= 1e6 ? one.toExponential() : String(Number(one.toPrecision(4))));
  const write = (some) => some.map(short).join(", ");
  const read = (text) => {
    const parts = text.split(/[\s,]+/).filter(Boolean).map(Number);
    if (parts.every(Number.isFinite) && (count ?? parts.length) === parts.length) return parts;
  };
  const expected = count ? `${count} numbers` : "numbers, with commas between";
  const [text, wrong] = useText(value, write, read, onChange, expected);
  return html`<${Control} label=${label} help=${help} id=${id}>
    <input id=${id} type="text" ...${text} />${wrong}
  <//>`;
}

export function ModelSelect({ models, value, onChange, label = "Model" }) {
  const id = useId("model");
  const groups = [
    ["Bundled", "bundled"],
    ["Your runs", "run"],
    ["Checkpoints", "checkpoint"],
  ].map(([title, kind]) => [title, models.filter((model) => model.kind === kind)]);
  return html`<${Control} label=${label} id=${id}>
    <select id=${id} value=${value} onChange=${(event) => onChange(event.target.value)}>
      ${groups
        .filter(([, some]) => some.length)
        .map(
          ([title, some]) => html`<optgroup label=${title}>
            ${some.map(
              (model) => html`<option value=${model.id} selected=${model.id === value}>
                ${model.name} (${model.shape.height} × ${model.shape.width})
              </option>`,
            )}
          </optgroup>`,
        )}
    </select>
  <//>`;
}

/* The model of an id, or the first bundled one to look at. */
export const modelOf = (models, id) =>
  models.find((model) => model.id === id) ??
  models.find((model) => model.id === "emoji") ??
  models[0];

export const className = (model, number) =>
  number === model.shape.num_classes ? "no class" : (model.class_names[number] ?? `class ${number}`);

const FEW_CLASSES = 24;

/* Chips of classes. `value` is null for all in turn, or a list of numbers; `one` lets one be chosen. */
export function Classes({ model, value, onChange, one = false, label = "Classes" }) {
  const count = model.shape.num_classes;
  const id = useId("classes");
  if (!count) return null;
  const numbers = Array.from({ length: count }, (_, i) => i);
  const chosen = new Set(value ?? []);
  if (count > FEW_CLASSES) {
    const pick = (event) => {
      const picked = [...event.target.selectedOptions].map((option) => +option.value);
      onChange(picked.length ? picked : null);
    };
    return html`<${Control} label=${label} id=${id}>
      <select id=${id} multiple=${!one} size=${one ? 1 : 6} onChange=${pick}>
        ${numbers.map(
          (i) => html`<option value=${i} selected=${chosen.has(i)}>${className(model, i)}</option>`,
        )}
      </select>
    <//>`;
  }
  const flip = (i) => {
    if (one) return onChange(chosen.has(i) ? null : [i]);
    chosen.has(i) ? chosen.delete(i) : chosen.add(i);
    onChange(chosen.size ? [...chosen].sort((a, b) => a - b) : null);
  };
  const chip = (on, text, flip) =>
    html`<button type="button" class="chip" aria-pressed=${String(on)} onClick=${flip}>${text}</button>`;
  return html`<fieldset class="field chips">
    <legend>${label}</legend>
    ${!one && chip(value === null, "all in turn", () => onChange(null))}
    ${numbers.map((i) => chip(chosen.has(i), className(model, i), () => flip(i)))}
    ${chip(chosen.has(count), "no class", () => flip(count))}
  </fieldset>`;
}

/* The number of a class from a label of a job. */
export function numberOf(model, label) {
  const named = model.class_names.indexOf(label);
  if (named >= 0) return named;
  return label === "none" || label === "no class" ? model.shape.num_classes : Number(label);
}

/* The label of a job for chosen classes: null, "none", a number, or a list for n images. */
export function labelFor(model, classes, n) {
  if (!classes || !model.shape.num_classes) return null;
  const word = (i) => (i === model.shape.num_classes ? "none" : i);
  if (classes.length === 1) return word(classes[0]);
  return Array.from({ length: n }, (_, i) => word(classes[i % classes.length]));
}

/* The names of samplers for a model, its tuned ones first. */
export function samplers(model, fields) {
  const all = fields?.find((field) => field.name === "sampler")?.choices ?? [];
  return [...TUNED.filter((name) => model.tuned.includes(name)), ...all];
}

/* What a sampler's name means for steps: tuned ones bring their own. */
export const isTuned = (model, sampler) => model.tuned.includes(sampler);
