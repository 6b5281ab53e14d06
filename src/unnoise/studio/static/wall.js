/* A wall of pictures on one canvas, outside the virtual DOM: raw uint8 values, no decoding. */

import { html, useLayoutEffect, useRef, useState } from "./lib.js";

const NARROW = 44; // pixels of the screen that a picture has at least
const WHOLE = 24; // narrower pictures are enlarged by whole factors, so that all pixels are equal

/* The columns for n images: one per class where the labels repeat in order. */
export function columnsFor(n, labels, most = Infinity) {
  const kinds = labels ? new Set(labels).size : 0;
  const inTurn = kinds > 1 && kinds <= 12 && labels.every((l, i) => l === labels[i % kinds]);
  if (inTurn && n >= kinds) return Math.ceil(kinds / Math.max(1, Math.ceil(kinds / most)));
  return Math.min(most, Math.ceil(Math.sqrt(n)));
}

/* Image i of {n, c, h, w, data} (planes, RGBA premultiplied) into RGBA bytes, a row every `stride`
   pixels. Of 2 or more than 4 channels the first three are shown. */
export function paint(images, i, pixels, stride, at) {
  const { c, h, w, data } = images;
  const plane = h * w;
  const start = i * c * plane;
  const colours = c === 4 || c === 3 || c > 4;
  for (let y = 0; y < h; y++) {
    for (let x = 0; x < w; x++) {
      const from = start + y * w + x;
      const to = 4 * (at + y * stride + x);
      const alpha = c === 4 ? data[from + 3 * plane] : 255;
      for (let k = 0; k < 3; k++) {
        const value = data[from + (colours ? k * plane : 0)];
        pixels[to + k] = c === 4 && alpha ? Math.min(255, (255 * value) / alpha) : value;
      }
      pixels[to + 3] = alpha;
    }
  }
}

/* Draw images on a canvas at one pixel per value, with a gap of one. */
export function draw(canvas, images, columns) {
  const { n, h, w } = images;
  const gap = n > 1 ? 1 : 0;
  const rows = Math.ceil(n / columns);
  const [width, height] = [columns * (w + gap) - gap, rows * (h + gap) - gap];
  if (canvas.width !== width || canvas.height !== height) {
    canvas.width = width;
    canvas.height = height;
  }
  const context = canvas.getContext("2d");
  const picture = context.createImageData(width, height);
  for (let i = 0; i < n; i++) {
    const at = Math.floor(i / columns) * (h + gap) * width + (i % columns) * (w + gap);
    paint(images, i, picture.data, width, at);
  }
  context.putImageData(picture, 0, 0);
}

/* The wall as a component: as large as its place allows, tiny pictures by whole factors. `chosen` is
   the number of a picture that is marked, `names(i)` says what it is, and `heads[label]` stand above
   the columns where each is of one label. */
export function Wall({ images, labels, chosen, onChoose, names, heads, label, high = 620 }) {
  const canvas = useRef();
  const box = useRef();
  const [room, setRoom] = useState(0);
  const most = Math.max(1, Math.floor((room || 1000) / NARROW));
  const columns = images ? columnsFor(images.n, labels, most) : 1;
  useLayoutEffect(() => {
    const watch = new ResizeObserver(([entry]) => setRoom(entry.contentRect.width));
    watch.observe(box.current);
    return () => watch.disconnect();
  }, []);
  useLayoutEffect(() => {
    if (images) draw(canvas.current, images, columns);
  }, [images, columns]);
  if (!images) return html`<div class="wall empty" ref=${box}></div>`;
  const gap = images.n > 1 ? 1 : 0;
  const [w, h] = [images.w + gap, images.h + gap];
  const rows = Math.ceil(images.n / columns);
  const natural = columns * w - gap;
  const fit = Math.min(room / natural, Math.max(1, high / (rows * h - gap)));
  const scale = fit >= 1 && images.w < WHOLE ? Math.floor(fit) : fit || 1;
  const titled = heads && labels && columns > 1 && new Set(labels).size === columns;
  const style = { width: `${scale * natural}px`, height: `${scale * (rows * h - gap)}px` };
  const mark = (i) => ({
    left: `${(i % columns) * w * scale - 2}px`,
    top: `${Math.floor(i / columns) * h * scale - 2}px`,
    width: `${images.w * scale + 4}px`,
    height: `${images.h * scale + 4}px`,
  });
  const choose = (event) => {
    const area = canvas.current.getBoundingClientRect();
    const column = Math.floor((event.clientX - area.left) / scale / w);
    const row = Math.floor((event.clientY - area.top) / scale / h);
    const i = row * columns + Math.min(column, columns - 1);
    if (i >= 0 && i < images.n) onChoose?.(i === chosen ? null : i);
  };
  const move = (event) => {
    const by = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns }[event.key];
    if (!by || !onChoose) return;
    event.preventDefault();
    event.stopPropagation();
    onChoose(Math.max(0, Math.min(images.n - 1, (chosen ?? -1 * (by > 0)) + by)));
  };
  const said = names && chosen !== null && chosen !== undefined ? `, ${names(chosen)}` : "";
  return html`<div class="wall" ref=${box}>
    ${titled &&
    html`<div class="heads" style=${{ width: style.width }}>
      ${labels.slice(0, columns).map((one) => html`<span title=${heads[one]}>${heads[one]}</span>`)}
    </div>`}
    <div
      class="canvas ${images.c === 4 ? "chequered" : ""}"
      style=${style}
      role="img"
      tabindex=${onChoose ? 0 : -1}
      aria-label=${`${label ?? "pictures"}: ${images.n}${said}`}
      onClick=${choose}
      onKeyDown=${move}
    >
      <canvas ref=${canvas} style=${style}></canvas>
      ${Number.isInteger(chosen) && html`<i class="mark" style=${mark(chosen)}></i>`}
    </div>
  </div>`;
}
