/* Samples of one or several runs over training, under one slider: aligned by images seen. */

import { html, useEffect, useLayoutEffect, useRef, useState } from "./lib.js";
import { count, images } from "./format.js";

const FRAME_MS = 400;

/* `at` is the images seen that are shown, null for the newest; children stand beside the grids. */
export function Grids({ runs, at, show, children }) {
  const [playing, play] = useState(false);
  const grids = runs.map((run) => run.samples.filter((grid) => grid.src));
  const steps = [...new Set(grids.flat().map(({ nimg }) => nimg))].sort((a, b) => a - b);
  const last = steps.length - 1;
  const found = at === null ? last : steps.findLastIndex((step) => step <= at);
  const now = Math.max(found, 0);
  const choose = (i) => show(i >= last ? null : steps[i]);

  useEffect(() => {
    if (!playing) return undefined;
    const next = () => (now >= last ? play(false) : choose(now + 1));
    const timer = setTimeout(next, FRAME_MS);
    return () => clearTimeout(timer);
  }, [playing, now, last]);
  const start = () => {
    if (!playing && now >= last) choose(0);
    play(!playing);
  };

  if (!steps.length) return children;
  const film = grids.length === 1;
  const shown = runs.map((run, i) => {
    const grid = grids[i].findLast(({ nimg }) => nimg <= steps[now]);
    const newest = grid !== undefined && grid === grids[i].at(-1);
    const one = { run: film ? null : run, index: i, grid, newest };
    return html`<${Shown} key=${run.id} ...${one} />`;
  });
  const slide =
    last > 0 &&
    html`<div class="slide">
      <button type="button" onClick=${start}>${playing ? "Stop" : "Play"}</button>
      <input
        type="range" id="slider" min="0" max=${last} value=${now} aria-label="images seen"
        aria-valuetext=${images(steps[now])} onInput=${(event) => choose(+event.target.value)}
      />
      ${!film && html`<output class="dim">${images(steps[now])}</output>`}
    </div>`;
  if (!film) return html`${slide}<div class="pictures several">${shown}</div>`;
  return html`
    <div class="pictures">
      <div class="with-film">
        ${shown}${slide}
        ${last > 0 && html`<${Film} grids=${grids[0]} now=${now} choose=${choose} />`}
      </div>
      ${children}
    </div>
  `;
}

function Shown({ run, index, grid, newest }) {
  const name = run ? html`<b class=${`c${index % 6}`}>${run.name}</b>` : null;
  if (!grid) {
    return html`<figure class="grid"><figcaption>${name} no samples yet</figcaption></figure>`;
  }
  const said = `${run ? "after" : "Samples after"} ${images(grid.nimg)}`;
  const alt = run ? `Samples of ${run.name} ${said}` : said;
  return html`<figure class="grid">
    <img class="pixels" src=${grid.src} alt=${alt} />
    <figcaption aria-live="polite">${name} ${said}${newest ? " (the newest)" : ""}</figcaption>
  </figure>`;
}

/* All grids of a run in a row, which keeps the one that is shown in the middle. */
function Film({ grids, now, choose }) {
  const film = useRef();
  useLayoutEffect(() => {
    const frame = film.current.children[now];
    film.current.scrollLeft = frame.offsetLeft - (film.current.clientWidth - frame.clientWidth) / 2;
  }, [now, grids.length]);
  return html`<div class="film" ref=${film}>
    ${grids.map(
      (grid, i) => html`
        <button
          type="button" tabindex="-1" key=${grid.nimg} class=${i === now ? "on" : ""}
          aria-label=${`after ${images(grid.nimg)}`} onClick=${() => choose(i)}
        ><img src=${grid.src} alt="" loading="lazy" />${count(grid.nimg)}</button>
      `,
    )}
  </div>`;
}
