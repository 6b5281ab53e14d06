/* A picture enlarged on a canvas, and the mask that one paints on it, a value per picture's pixel. */

import { html, useLayoutEffect, useRef } from "./lib.js";
import { draw } from "./wall.js";

const MOST_ZOOM = 16;
const TINT = 0.5;

/* The mask as base64 of a PNG, white where it is set; and a PNG's mask. */
export function maskPng(mask, w, h) {
  const canvas = layer(w, h);
  const pixels = new ImageData(w, h);
  mask.forEach((on, i) => pixels.data.set([255 * on, 255 * on, 255 * on, 255], 4 * i));
  canvas.getContext("2d").putImageData(pixels, 0, 0);
  return canvas.toDataURL("image/png").split(",")[1];
}

export async function pngMask(png, w, h) {
  const image = new Image();
  image.src = `data:image/png;base64,${png}`;
  await image.decode();
  const context = layer(w, h).getContext("2d");
  context.drawImage(image, 0, 0, w, h);
  const { data } = context.getImageData(0, 0, w, h);
  return Uint8Array.from({ length: w * h }, (_, i) => Number(data[4 * i] > 127));
}

function layer(width, height) {
  return Object.assign(document.createElement("canvas"), { width, height });
}

/* The canvas outside the virtual DOM. `done(mask)` is called after each stroke that changed it. */
class Painter {
  constructor(canvas, done) {
    Object.assign(this, { canvas, done, zoom: 1, left: 0, top: 0, tool: "brush", size: 3 });
    this.cursor = null; // the middle of the brush, in pixels of the picture
    this.held = false; // the space bar
    this.stroke = null; // where the stroke is
    this.panned = null;
    this.fingers = new Map();
    this.watch = new ResizeObserver(() => this.resize());
    this.watch.observe(canvas);
  }

  show(images, mask, painting) {
    if (this.images !== images) {
      this.picture = layer(images.w, images.h);
      draw(this.picture, images, 1);
      this.images = images;
      this.fit();
    }
    this.mask = Uint8Array.from(mask);
    this.painting = painting;
    this.resize();
  }

  resize() {
    const { clientWidth, clientHeight } = this.canvas;
    this.canvas.width = clientWidth * devicePixelRatio;
    this.canvas.height = clientHeight * devicePixelRatio;
    this.draw();
  }

  get scale() {
    return (this.zoom * this.canvas.clientWidth) / this.images.w;
  }

  draw() {
    if (!this.images || !this.canvas.width) return;
    const { w, h } = this.images;
    const context = this.canvas.getContext("2d");
    const style = getComputedStyle(this.canvas);
    const scale = this.scale * devicePixelRatio;
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, this.canvas.width, this.canvas.height);
    context.imageSmoothingEnabled = false;
    context.setTransform(scale, 0, 0, scale, -scale * this.left, -scale * this.top);
    context.drawImage(this.picture, 0, 0);
    if (!this.painting) return;
    context.fillStyle = context.strokeStyle = style.getPropertyValue("--accent");
    context.globalAlpha = TINT;
    const edges = new Path2D();
    const on = (x, y) => x >= 0 && y >= 0 && x < w && y < h && this.mask[y * w + x];
    const line = (...[x, y, dx, dy]) => (edges.moveTo(x, y), edges.lineTo(x + dx, y + dy));
    for (let y = 0; y < h; y++) {
      for (let x = 0; x < w; x++) {
        if (!on(x, y)) continue;
        context.fillRect(x, y, 1, 1);
        if (!on(x - 1, y)) line(x, y, 0, 1);
        if (!on(x + 1, y)) line(x + 1, y, 0, 1);
        if (!on(x, y - 1)) line(x, y, 1, 0);
        if (!on(x, y + 1)) line(x, y + 1, 1, 0);
      }
    }
    context.globalAlpha = 1;
    context.lineWidth = 2 / this.scale;
    context.stroke(edges);
    if (this.cursor) this.ring(context);
  }

  /* The brush, seen on light and on dark pictures. */
  ring(context) {
    for (const [colour, width] of [["#000", 3], ["#fff", 1.5]]) {
      context.strokeStyle = colour;
      context.lineWidth = width / this.scale;
      context.beginPath();
      context.arc(...this.cursor, Math.max(this.size, 1) / 2, 0, 2 * Math.PI);
      context.stroke();
    }
  }

  dab([cx, cy]) {
    const { w, h } = this.images;
    const value = Number(this.tool === "brush");
    const r = this.size / 2;
    const set = (x, y) => x >= 0 && y >= 0 && x < w && y < h && (this.mask[y * w + x] = value);
    for (let y = Math.floor(cy - r); y <= cy + r; y++) {
      for (let x = Math.floor(cx - r); x <= cx + r; x++) {
        if ((x + 0.5 - cx) ** 2 + (y + 0.5 - cy) ** 2 <= r * r) set(x, y);
      }
    }
    set(Math.floor(cx), Math.floor(cy));
  }

  begin(at) {
    this.before = Uint8Array.from(this.mask);
    this.stroke = at;
    this.dab(at);
  }

  strokeTo(at) {
    const [dx, dy] = [at[0] - this.stroke[0], at[1] - this.stroke[1]];
    const parts = Math.max(1, Math.ceil(2 * Math.hypot(dx, dy)));
    for (let i = 1; i <= parts; i++) {
      this.dab([this.stroke[0] + (dx * i) / parts, this.stroke[1] + (dy * i) / parts]);
    }
    this.stroke = at;
  }

  end(keep = true) {
    if (!this.stroke) return;
    this.stroke = null;
    if (!keep) this.mask = this.before;
    else if (this.mask.some((on, i) => on !== this.before[i])) this.done(Uint8Array.from(this.mask));
  }

  at(event) {
    const { left, top } = this.canvas.getBoundingClientRect();
    return [this.left + (event.clientX - left) / this.scale, this.top + (event.clientY - top) / this.scale];
  }

  fit() {
    Object.assign(this, { zoom: 1, left: 0, top: 0 });
    this.draw();
  }

  /* Zoom so that a point of the picture stays where it is. */
  zoomBy(factor, at = [this.left + this.images.w / this.zoom / 2, this.top + this.images.h / this.zoom / 2]) {
    const zoom = Math.min(MOST_ZOOM, Math.max(1, this.zoom * factor));
    const share = this.zoom / zoom;
    this.zoom = zoom;
    this.move(at[0] - share * (at[0] - this.left), at[1] - share * (at[1] - this.top));
  }

  move(left, top) {
    const { w, h } = this.images;
    this.left = Math.min(w - w / this.zoom, Math.max(0, left));
    this.top = Math.min(h - h / this.zoom, Math.max(0, top));
    this.draw();
  }

  down(event) {
    this.canvas.setPointerCapture(event.pointerId);
    this.fingers.set(event.pointerId, [event.clientX, event.clientY]);
    if (this.fingers.size > 1) return this.end(false);
    if (event.button === 1 || event.shiftKey || !this.painting) this.panned = true;
    else if (event.button === 0) this.begin(this.at(event));
    this.draw();
  }

  drag(event) {
    this.cursor = this.at(event);
    const old = this.fingers.get(event.pointerId);
    const now = [event.clientX, event.clientY];
    if (old && (this.panned || this.fingers.size > 1)) this.pan(event.pointerId, old, now);
    else if (this.stroke) this.strokeTo(this.cursor);
    if (old) this.fingers.set(event.pointerId, now);
    this.draw();
  }

  /* One finger moves the picture; of two, the way between them zooms it too. */
  pan(id, old, now) {
    const count = this.fingers.size;
    const other = [...this.fingers].find(([one]) => one !== id)?.[1];
    const [dx, dy] = [now[0] - old[0], now[1] - old[1]];
    this.move(this.left - dx / this.scale / count, this.top - dy / this.scale / count);
    if (!other) return;
    const far = (at) => Math.hypot(at[0] - other[0], at[1] - other[1]) || 1;
    const middle = { clientX: (now[0] + other[0]) / 2, clientY: (now[1] + other[1]) / 2 };
    this.zoomBy(far(now) / far(old), this.at(middle));
  }

  up(event) {
    this.fingers.delete(event.pointerId);
    this.panned = null;
    this.end();
    this.draw();
  }

  leave() {
    if (!this.stroke) this.cursor = null;
    this.draw();
  }

  /* The arrow keys and the space bar; true where the key was one of them. */
  key(event) {
    const by = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    const { w, h } = this.images;
    if (!by && event.key !== " ") return false;
    this.cursor ??= [Math.floor(w / 2) + 0.5, Math.floor(h / 2) + 0.5];
    if (by) {
      const far = event.shiftKey ? Math.max(2, this.size) : 1;
      const bounded = (value, most) => Math.min(most - 0.5, Math.max(0.5, Math.floor(value) + 0.5));
      this.cursor = [bounded(this.cursor[0] + far * by[0], w), bounded(this.cursor[1] + far * by[1], h)];
      this.keepInView();
      if (this.stroke && this.held) this.strokeTo(this.cursor);
    } else if (this.painting && !this.held) {
      this.held = true;
      this.begin(this.cursor);
    }
    this.draw();
    return true;
  }

  release(event) {
    if (event && event.key !== " ") return;
    this.held = false;
    this.end();
    this.draw();
  }

  keepInView() {
    const [w, h] = [this.images.w / this.zoom, this.images.h / this.zoom];
    const inside = (low, size, at) => Math.min(Math.max(low, at + 0.5 - size), at - 0.5);
    this.move(inside(this.left, w, this.cursor[0]), inside(this.top, h, this.cursor[1]));
  }
}

/* The canvas as a component. `keys` are further keys: {"b": () => .., ..}. */
export function MaskCanvas({ images, mask, painting, tool, size, onStroke, keys, label }) {
  const canvas = useRef();
  const painter = useRef(null);
  const done = useRef(onStroke);
  done.current = onStroke;
  useLayoutEffect(() => {
    const own = (painter.current = new Painter(canvas.current, (made) => done.current(made)));
    const wheel = (event) => {
      event.preventDefault();
      own.zoomBy(Math.exp(-event.deltaY / 400), own.at(event));
    };
    const scheme = matchMedia("(prefers-color-scheme: dark)");
    const again = () => own.draw();
    canvas.current.addEventListener("wheel", wheel, { passive: false });
    scheme.addEventListener("change", again);
    return () => {
      own.watch.disconnect();
      scheme.removeEventListener("change", again);
    };
  }, []);
  useLayoutEffect(() => painter.current.show(images, mask, painting), [images, mask, painting]);
  useLayoutEffect(() => {
    Object.assign(painter.current, { tool, size });
    painter.current.draw();
  }, [tool, size]);
  const call = (name) => (event) => painter.current[name](event);
  const press = (event) => {
    const own = { "+": () => painter.current.zoomBy(1.5), "-": () => painter.current.zoomBy(1 / 1.5), 0: () => painter.current.fit() };
    const modified = event.ctrlKey || event.metaKey;
    const name = `${modified ? "Ctrl+" : ""}${event.key.length === 1 ? event.key.toLowerCase() : event.key}`;
    const other = (event.shiftKey && keys[`Shift+${name}`]) || keys[name] || own[name];
    if (other) other();
    else if (modified || !painter.current.key(event)) return;
    event.preventDefault();
  };
  return html`
    <canvas
      ref=${canvas}
      class=${`edit-canvas ${images.c === 4 ? "chequered" : ""}`}
      style=${{ aspectRatio: `${images.w} / ${images.h}` }}
      tabindex="0"
      role="application"
      aria-label=${label}
      onPointerDown=${call("down")}
      onPointerMove=${call("drag")}
      onPointerUp=${call("up")}
      onPointerCancel=${call("up")}
      onPointerLeave=${call("leave")}
      onKeyDown=${press}
      onKeyUp=${call("release")}
      onBlur=${() => painter.current.release()}
    ></canvas>
    <div class="row">
      <button type="button" class="small" aria-label="zoom out" onClick=${() => painter.current.zoomBy(1 / 1.5)}>−</button>
      <button type="button" class="small" aria-label="zoom in" onClick=${() => painter.current.zoomBy(1.5)}>+</button>
      <button type="button" class="small" onClick=${() => painter.current.fit()}>Whole picture</button>
    </div>
  `;
}
