/* Curves of one or several runs, drawn by uPlot. With several, each run has a colour. */

import { html, useEffect, useLayoutEffect, useMemo, useRef, useState, useStored } from "./lib.js";
import { count, images, number } from "./format.js";
import { Details, Table } from "./parts.js";
import { extent, label, nearest, panels, smoothed } from "./panels.js";
import { linearTicks, logTicks, range } from "./panels.js";

const COLOURS = 6;
const LOG_RATIO = 10; // values that span more than this, all above 0, get a logarithmic axis
const FEW = 60; // a curve of at most this many points shows each as a dot
const HEIGHT = 236;
const DASHES = [[], [6, 3], [2, 3], [9, 3, 2, 3]]; // of a run's curves, where colours are runs

const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const tinted = (colour, raw) => () => css(`--c${colour}`) + (raw ? "40" : "");
const flipped = (set, key) => (set.includes(key) ? set.filter((k) => k !== key) : [...set, key]);

/* The charts, a slider that smooths them and a table of their numbers. */
export function Curves({ runs }) {
  const [keep, setKeep] = useStored("curves.smoothing", 0);
  const several = runs.length > 1;
  const all = useMemo(() => curvesOf(runs), runs.flatMap((run) => [run.name, run.curves]));
  const shown = useMemo(() => panels(all), [all]);
  if (!all.length) return null;
  const named = (curve) => (several ? [curve.run] : []).concat(curve.name);
  const rows = all.map((curve) => {
    const [lowest, highest] = extent(curve.values);
    const there = curve.nimg[curve.values.indexOf(lowest)];
    const last = [number(curve.values.at(-1), 6), count(curve.nimg.at(-1))];
    const ends = [number(lowest, 6), count(there), number(highest, 6)];
    return [...named(curve), count(curve.count), ...last, ...ends];
  });
  const at = "at (images)";
  const fields = ["field", "measurements", "last", at, "lowest", at, "highest"];
  return html`
    <label class="control">
      Smoothing
      <input
        type="range" id="smoothing" min="0" max="0.95" step="0.05" value=${keep}
        onInput=${(event) => setKeep(+event.target.value)}
      />
    </label>
    <div class="charts">
      ${shown.map(
        (panel) => html`<${Chart} key=${panel.title} ...${panel} ...${{ keep, several }} />`,
      )}
    </div>
    <p class="dim">
      Point at a curve, or focus it and use the arrow keys, to read its values. The training loss is
      the mean since the measurement before.
    </p>
    <${Details} title="The numbers">
      <${Table} head=${several ? ["run", ...fields] : fields} rows=${rows} />
    <//>
  `;
}

function curvesOf(runs) {
  return runs.flatMap((run, i) =>
    Object.entries(run.curves).map(([name, curve]) => {
      return { run: run.name, colour: i % COLOURS, name, ...curve };
    }),
  );
}

/* A figure with curves, its legend (which hides and reads curves) and a cursor. */
function Chart({ title, unit, linear, curves, keep, several }) {
  const [chosen, choose] = useStored(`curves.log.${title}`, null);
  const [hidden, hide] = useStored(`curves.hidden.${title}`, []);
  const [at, setAt] = useState(null);
  const host = useRef();
  const plot = useRef();
  const entries = useMemo(() => entriesOf(curves, several), [curves, several]);
  const steps = useMemo(() => stepsOf(curves), [curves]);
  const shown = entries.filter(({ key }) => !hidden.includes(key));
  const [low, high] = extent((shown.length ? shown : entries).flatMap(({ values }) => values));
  const log = low > 0 && (chosen ?? (!linear && high / low >= LOG_RATIO));

  useLayoutEffect(() => {
    const { options, data } = drawing(entries, { hidden, log, keep, unit, steps });
    const width = host.current.clientWidth || 480;
    const made = new window.uPlot({ ...options, width, height: HEIGHT }, data, host.current);
    made.hooks.setCursor = [() => setAt(steps[made.cursor.idx] ?? null)];
    plot.current = host.current.uplot = made;
    if (at !== null) move(nearest(steps, at));
    return () => made.destroy();
  }, [entries, steps, hidden, log, keep]);

  useEffect(() => {
    const fit = () => plot.current.setSize({ width: host.current.clientWidth, height: HEIGHT });
    const watch = new ResizeObserver(fit);
    watch.observe(host.current);
    const scheme = matchMedia("(prefers-color-scheme: dark)");
    const paint = () => plot.current.redraw();
    scheme.addEventListener("change", paint);
    return () => {
      watch.disconnect();
      scheme.removeEventListener("change", paint);
    };
  }, []);

  function move(i) {
    const left = i === null ? -10 : plot.current.valToPos(steps[i], "x");
    plot.current.setCursor({ left, top: i === null ? -10 : 10 });
    setAt(i === null ? null : steps[i]);
  }
  const press = (event) => {
    const now = at === null ? steps.length : steps.indexOf(at);
    const far = Math.ceil(steps.length / 10);
    const moves = { ArrowLeft: -1, ArrowRight: 1, PageDown: -far, PageUp: far };
    const targets = { Home: 0, End: steps.length - 1 };
    if (event.key === "Escape") move(null);
    if (!(event.key in moves) && !(event.key in targets)) return;
    event.preventDefault();
    const next = targets[event.key] ?? now + moves[event.key];
    move(Math.min(Math.max(next, 0), steps.length - 1));
  };
  return html`
    <figure class="chart">
      <h3>
        ${title}
        <output class="dim">${at === null ? "" : `at ${images(at)}`}</output>
        <button
          type="button" class="small" aria-pressed=${log} disabled=${low <= 0}
          onClick=${() => choose(!log)}
        >log</button>
      </h3>
      <div
        class="plot" ref=${host} tabindex="0" role="img" onKeyDown=${press}
        onBlur=${() => move(null)} aria-label=${`${title}. Arrow keys move the cursor.`}
      ></div>
      <figcaption>
        ${entries.map(
          ({ key, name, colour, dash, nimg, values }) => html`
            <button
              type="button" key=${key} aria-pressed=${!hidden.includes(key)}
              onClick=${() => hide(flipped(hidden, key))}
            >
              <i class=${`c${colour} d${dash}`}></i> <span>${name}</span>${" "}
              <b>${number(values[nearest(nimg, at)])}</b>
            </button>
          `,
        )}
      </figcaption>
    </figure>
  `;
}

/* Each curve with its name in the legend and its colour: of its run, where there are several. */
function entriesOf(curves, several) {
  const fields = [...new Set(curves.map(({ name }) => name))];
  return curves.map((curve, i) => {
    const own = { ...curve, key: curve.name, name: label(curve.name), dash: 0 };
    if (!several) return { ...own, colour: i % COLOURS };
    const name = fields.length > 1 ? `${curve.run} · ${label(curve.name)}` : curve.run;
    const dash = fields.indexOf(curve.name) % DASHES.length;
    return { ...own, key: `${curve.run}/${curve.name}`, name, dash };
  });
}

function stepsOf(curves) {
  return [...new Set(curves.flatMap(({ nimg }) => nimg))].sort((a, b) => a - b);
}

/* What uPlot takes: a curve is one series, or two where it is smoothed, the raw one fainter. */
function drawing(entries, { hidden, log, keep, unit, steps }) {
  const place = new Map(steps.map((step, i) => [step, i]));
  const column = (nimg, values) => {
    const cells = Array(steps.length).fill(null);
    nimg.forEach((step, i) => (cells[place.get(step)] = values[i]));
    return cells;
  };
  const [series, data] = [[{}], [steps]];
  for (const { key, colour, dash, nimg, values } of entries) {
    const smooth = keep > 0 && values.length > 2;
    const line = { show: !hidden.includes(key), spanGaps: true, dash: DASHES[dash] };
    const points = { show: values.length <= FEW, size: 5 };
    const raw = tinted(colour, smooth);
    series.push({ ...line, stroke: raw, width: 1.5, points: { ...points, fill: raw, width: 0 } });
    data.push(column(nimg, values));
    if (!smooth) continue;
    series.push({ ...line, stroke: tinted(colour), width: 1.8, points: { show: false } });
    data.push(column(nimg, smoothed(values, keep)));
  }
  const [scale, across] = unitOfImages(steps.at(-1));
  const ink = { stroke: () => css("--dim"), font: "12px system-ui", labelFont: "13px system-ui" };
  const grid = { stroke: () => css("--line"), width: 1 };
  const look = { ...ink, grid, ticks: { ...grid, size: 4 }, labelSize: 20 };
  const fitted = () => {
    const of = entries.filter(({ key }) => !hidden.includes(key));
    return range((of.length ? of : entries).flatMap(({ values }) => values), log);
  };
  const options = {
    series,
    legend: { show: false },
    cursor: { drag: { x: false, y: false }, y: false, points: { size: 8 } },
    padding: [10, 14, 0, 0],
    scales: {
      x: { time: false, range: () => [0, steps.at(-1) || 1] },
      y: { distr: log ? 3 : 1, range: fitted },
    },
    axes: [
      {
        ...look,
        size: 30,
        label: across,
        splits: (self, _, low, high) =>
          linearTicks(low / scale, high / scale, self.width < 420 ? 4 : 6).map((t) => t * scale),
        values: (_, ticks) => ticks.map((tick) => number(tick / scale, 6)),
      },
      {
        ...look,
        size: 58,
        label: unit + (log ? " (log)" : ""),
        splits: (_, __, low, high) => (log ? logTicks(low, high) : linearTicks(low, high)),
        filter: (_, ticks) => ticks,
        values: (_, ticks) => ticks.map((tick) => number(tick, 6)),
      },
    ],
  };
  return { options, data };
}

/* A number of images is written in units that suit the last. */
function unitOfImages(last) {
  if (last >= 2e6) return [1e6, "million images seen"];
  return last >= 2000 ? [1000, "thousand images seen"] : [1, "images seen"];
}
