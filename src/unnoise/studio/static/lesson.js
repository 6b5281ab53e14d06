/* A lesson: words, one control, and the pictures, numbers and plot that follow it. A page of its own
   holds the lesson as data. */

import { Command, html, render, useLayoutEffect, useMemo, useRef, useState } from "./lib.js";
import { number } from "./format.js";
import { extent, linearTicks, logTicks, nearest, range } from "./panels.js";
import { Wall } from "./wall.js";

const HIGH = 230; // of a plot, with these margins for its numbers
const [LEFT, RIGHT, TOP, BOTTOM] = [58, 16, 10, 42];

/* `href(name)` is where another lesson is. */
export function Lesson({ lesson, href }) {
  const { all, values, facts, plot, name } = lesson;
  const [at, setAt] = useState(lesson.start);
  const place = all.findIndex(([key]) => key === name);
  const walls = useMemo(() => lesson.pictures.map(unpacked), [lesson]);
  const to = (i, text) => all[i] && html`<a href=${href(all[i][0])}>${text}: ${all[i][1]}</a>`;
  const link = lesson.maths_page && `${lesson.maths_page}#${lesson.anchor}`;
  const chapter = `docs/maths.md, ${lesson.maths}`;
  return html`<article class="lesson">
    <nav class="lesson-all" aria-label="lessons">
      ${all.map(
        ([key, title], i) => html`<a href=${href(key)} aria-current=${i === place ? "page" : undefined}>
          ${i + 1}<span> ${title}</span>
        </a>`,
      )}
    </nav>
    <header>
      <p class="dim">Lesson ${place + 1} of ${all.length}</p>
      <h1>${lesson.title}</h1>
      ${lesson.text.split("\n").map((line) => html`<p>${line}</p>`)}
      <pre><code>${lesson.formula}</code></pre>
    </header>
    <div class="lesson-control"><${Setting} lesson=${lesson} at=${at} onChange=${setAt} /></div>
    <section class="stage" aria-label="what the control shows">
      ${facts.length > 0 &&
      html`<dl aria-live="polite">
        ${facts.map((one) => html`<div><dt>${one.name}</dt><dd>${one.values[at]}</dd></div>`)}
      </dl>`}
      ${lesson.pictures.map(
        ({ caption, classes }, i) => html`<figure>
          <figcaption>${caption}</figcaption>
          <${Rows} images=${walls[i](at)} classes=${classes} label=${caption} />
        </figure>`,
      )}
      ${plot && html`<${Plot} plot=${plot} at=${at} value=${values[at]} />`}
    </section>
    <section class="lesson-question" aria-label="question">
      <h2>${lesson.question}</h2>
      <details>
        <summary>Answer</summary>
        <p>${lesson.answer}</p>
      </details>
      <details>
        <summary>The same in Python</summary>
        <${Command} line=${lesson.code.replaceAll("{value}", values[at])} />
      </details>
      <p>The mathematics: ${link ? html`<a href=${link}>${chapter}</a>` : chapter}</p>
      <p class="row lesson-next">${to(place - 1, "Before")} ${to(place + 1, "Next")}</p>
      <p class="dim">${lesson.made}</p>
    </section>
  </article>`;
}

function Setting({ lesson: { control: label, values, choice }, at, onChange }) {
  if (!choice) {
    return html`<div class="field">
      <label for="lesson-slider">${label}: <output>${values[at]}</output></label>
      <input
        id="lesson-slider" type="range" min="0" max=${values.length - 1} value=${at}
        aria-valuetext=${values[at]} onInput=${(event) => onChange(+event.target.value)}
      />
    </div>`;
  }
  const chip = (name, i) => html`<button
    type="button" class="chip" aria-pressed=${String(i === at)} onClick=${() => onChange(i)}
  >${name}</button>`;
  return html`<fieldset class="field chips"><legend>${label}</legend>${values.map(chip)}</fieldset>`;
}

/* The pictures for value i, from base64 of (k, n, c, h, w). */
function unpacked({ pixels, shape: [k, n, c, h, w] }) {
  const data = Uint8Array.from(atob(pixels), (one) => one.charCodeAt(0));
  const size = n * c * h * w;
  const made = Array.from({ length: k }, (_, i) => {
    return { n, c, h, w, data: data.subarray(i * size, (i + 1) * size) };
  });
  return (i) => made[Math.min(i, k - 1)];
}

/* Pictures in rows of one of each class; up to ten that have none are in one row. */
function Rows({ images, classes, label }) {
  const { n } = images;
  const columns = Array.from({ length: n }, (_, i) => classes[i % classes.length] ?? i);
  const high = n > 10 ? 300 : n > 5 ? 160 : 76;
  return html`<${Wall} images=${images} labels=${columns} label=${label} high=${high} />`;
}

/* A position on an axis from `from` to `to`, linear or logarithmic. */
function axis([low, high], log, from, to) {
  const place = log ? Math.log : (value) => value;
  return (value) => from + ((to - from) * (place(value) - place(low))) / (place(high) - place(low));
}

/* Curves with a mark at the control's value; where a value chooses a curve, the others are faint. */
function Plot({ plot: { title, across, lines, at: marks, log }, at, value }) {
  const box = useRef();
  const [wide, setWide] = useState(480);
  useLayoutEffect(() => {
    const watch = new ResizeObserver(([entry]) => setWide(entry.contentRect.width || 480));
    watch.observe(box.current);
    return () => watch.disconnect();
  }, []);
  const [logX, logY] = [log.includes("x"), log.includes("y")];
  const ends = extent(lines.flatMap(({ x }) => x));
  const heights = range(lines.flatMap(({ y }) => y), logY);
  const x = axis(ends, logX, LEFT, wide - RIGHT);
  const y = axis(heights, logY, HIGH - BOTTOM, TOP);
  const mark = marks[at];
  const here = (line) => line.y[nearest(line.x, mark)];
  const said = ({ name, y }, i) => (mark === undefined ? name : `${name} ${number(here(lines[i]), 3)}`);
  const faint = (i) => mark === undefined && i !== at;
  const ticks = (own, [low, high], most) => (own ? logTicks(low, high) : linearTicks(low, high, most));
  const words = mark === undefined ? `${value} is marked` : lines.map(said).join(", ");
  return html`<figure class="lesson-plot" ref=${box}>
    <figcaption aria-live="polite">
      ${title}:
      ${lines.map(
        (line, i) => html`<span class=${faint(i) ? "faint" : ""}>
          <i style=${{ background: `var(--c${i})` }}></i>${said(line, i)}
        </span>`,
      )}
    </figcaption>
    <svg width=${wide} height=${HIGH} role="img" aria-label=${`${title}, at ${value}: ${words}`}>
      ${ticks(logX, ends, wide < 420 ? 4 : 6).map(
        (tick) => html`<g>
          <path d=${`M${x(tick)} ${TOP}V${HIGH - BOTTOM}`} />
          <text x=${x(tick)} y=${HIGH - BOTTOM + 16} text-anchor="middle">${number(tick)}</text>
        </g>`,
      )}
      ${ticks(logY, heights, 5).map(
        (tick) => html`<g>
          <path d=${`M${LEFT} ${y(tick)}H${wide - RIGHT}`} />
          <text x=${LEFT - 6} y=${y(tick) + 4} text-anchor="end">${number(tick)}</text>
        </g>`,
      )}
      <text x=${(LEFT + wide - RIGHT) / 2} y=${HIGH - 6} text-anchor="middle">${across}</text>
      ${mark !== undefined && html`<path class="mark" d=${`M${x(mark)} ${TOP}V${HIGH - BOTTOM}`} />`}
      ${lines.map(
        (line, i) => html`<g style=${{ color: `var(--c${i})` }} class=${faint(i) ? "faint" : ""}>
          <path class="line" d=${line.x.map((v, j) => `${j ? "L" : "M"}${x(v)} ${y(line.y[j])}`).join("")} />
          ${mark !== undefined && html`<circle cx=${x(mark)} cy=${y(here(line))} r="4.5" />`}
        </g>`,
      )}
    </svg>
  </figure>`;
}

const own = document.getElementById("lesson");
if (own) {
  const lesson = JSON.parse(own.textContent);
  document.title = `${lesson.title} · unnoise`;
  render(
    html`
      <header class="top"><strong class="brand">unnoise <b>lessons</b></strong></header>
      <main><${Lesson} lesson=${lesson} href=${(name) => `${name}.html`} /></main>
    `,
    document.body,
  );
}
