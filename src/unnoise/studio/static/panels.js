/* Which curves there are, and where their values are on a chart. */

const PANELS = [
  // title, label of the values, fields of metrics.jsonl, whether always linear
  ["Loss", "loss", /^(loss|held_out_loss(_\w+)?)$/, false],
  ["Held-out loss by noise level", "loss", /^held_out_q\d+$/, false],
  ["Learning rate", "learning rate", /^lr$/, true],
  ["Gradient norm", "norm", /^grad_norm$/, false],
  ["Speed", "images per second", /^img_per_sec$/, true],
];
const LABELS = new Map(
  Object.entries({
    loss: "training loss",
    held_out_loss: "held-out loss (averaged weights)",
    held_out_loss_raw: "held-out loss (raw weights)",
    held_out_q1: "quarter 1 (least noise)",
    held_out_q2: "quarter 2",
    held_out_q3: "quarter 3",
    held_out_q4: "quarter 4 (most noise)",
    lr: "learning rate",
    grad_norm: "gradient norm",
    img_per_sec: "images per second",
    sample_sec: "seconds to sample a grid",
    skipped_steps: "steps not applied",
  }),
);

export const label = (name) => LABELS.get(name) ?? name;

export function extent(values) {
  const wider = ([low, high], v) => [Math.min(low, v), Math.max(high, v)];
  return values.reduce(wider, [Infinity, -Infinity]);
}

/* The curves of some runs, {run, name, nimg, values}, in panels: known fields in theirs; others
   that change in their own, numbered ones together. */
export function panels(curves) {
  const of = (title, unit, linear, own) => ({ title, unit, linear, curves: own });
  const known = PANELS.map(([title, unit, pattern, linear]) =>
    of(
      title,
      unit,
      linear,
      curves.filter(({ name }) => pattern.test(name)),
    ),
  );
  const groups = new Map();
  for (const curve of curves) {
    const [low, high] = extent(curve.values);
    if (low === high || PANELS.some((panel) => panel[2].test(curve.name))) continue;
    const group = curve.name.replace(/_?\d+$/, "");
    groups.set(group, [...(groups.get(group) ?? []), curve]);
  }
  const others = [...groups].map(([group, own]) => {
    const names = new Set(own.map(({ name }) => name));
    return of(names.size > 1 ? group : label(own[0].name), "value", false, own);
  });
  return [...known, ...others].filter((panel) => panel.curves.length);
}

/* An exponential moving average that starts without bias. */
export function smoothed(values, keep) {
  let [sum, weight] = [0, 0];
  return values.map((value) => {
    sum = keep * sum + (1 - keep) * value;
    weight = keep * weight + (1 - keep);
    return sum / weight;
  });
}

/* A round step, 1, 2, 2.5 or 5 times a power of ten, that fits three to six times. */
function roundStep(low, high, most) {
  const rough = Math.max((high - low) / most, 1e-300);
  const power = 10 ** Math.floor(Math.log10(rough));
  return [1, 2, 2.5, 5, 10].map((m) => m * power).find((step) => step >= rough * (1 - 1e-9));
}

export function linearTicks(low, high, most = 6) {
  const step = roundStep(low, high, most);
  const first = Math.ceil(low / step - 1e-9);
  const length = Math.floor(high / step + 1e-9) - first + 1;
  return Array.from({ length }, (_, i) => (first + i) * step);
}

/* Powers of ten, every few where there are many, with more between where there are few. */
export function logTicks(low, high) {
  const first = Math.floor(Math.log10(low));
  const length = Math.ceil(Math.log10(high)) - first + 1;
  const every = Math.ceil(length / 8);
  const powers = Array.from({ length }, (_, i) => first + i).filter((_, i) => i % every === 0);
  const factors = high / low < 10 ? [1, 2, 3, 4, 5, 6, 8] : length <= 4 ? [1, 2, 5] : [1];
  const ticks = powers.flatMap((power) => factors.map((factor) => Number(`${factor}e${power}`)));
  return ticks.filter((tick) => tick >= low && tick <= high);
}

/* The lowest and highest value of an axis: whole steps, from 0 where that is near. */
export function range(values, log) {
  let [low, high] = extent(values);
  if (log) return low < high ? [low / 1.05, high * 1.05] : [low / 2, high * 2];
  if (low >= 0 && low < high / 2) low = 0;
  if (high - low <= 1e-9 * Math.max(Math.abs(low), Math.abs(high))) {
    const around = Math.abs(low) / 2 || 1;
    [low, high] = [low - around, high + around];
  }
  const step = roundStep(low, high, 6);
  return [Math.floor(low / step + 1e-9) * step, Math.ceil(high / step - 1e-9) * step];
}

/* The index of the x nearest to a value, or of the last; x rises. */
export function nearest(x, value) {
  if (value === null) return x.length - 1;
  let [low, high] = [0, x.length - 1];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (x[middle] < value) low = middle + 1;
    else high = middle;
  }
  return low > 0 && value - x[low - 1] <= x[low] - value ? low - 1 : low;
}

/* Curves with more lines of metrics.jsonl; a curve never doubles back. */
export function longer(curves, lines) {
  const found = new Map(Object.entries(curves));
  for (const { nimg, step, epoch, train_sec, ...values } of lines) {
    for (const [name, value] of Object.entries(values)) {
      const old = found.get(name) ?? { count: 0, nimg: [], values: [] };
      if (nimg <= (old.nimg.at(-1) ?? -1)) continue;
      found.set(name, {
        count: old.count + 1,
        nimg: [...old.nimg, nimg],
        values: [...old.values, value],
      });
    }
  }
  return Object.fromEntries(found);
}
