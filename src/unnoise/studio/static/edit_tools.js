/* What one edits with: the mask and its past, the tools to paint it, and before beside after. */

import { html, useEffect, useMemo, useState, useStored } from "./lib.js";
import { Slider } from "./fields.js";
import { MaskCanvas } from "./edit_mask.js";
import { Pixels, Switches, decode, encode } from "./pieces.js";

const MOST_UNDO = 100;

/* The mask with its past: values, and what can be done with them. It is stored as base64. */
export function useMask(stored, images, store) {
  const [past, setPast] = useState([]);
  const [future, setFuture] = useState([]);
  const size = images ? images.w * images.h : 0;
  const values = useMemo(() => {
    const found = stored ? decode(stored) : null;
    return found?.length === size ? found : new Uint8Array(size);
  }, [stored, size]);
  useEffect(() => {
    setPast([]);
    setFuture([]);
  }, [images]);
  const put = (made) => store(encode(made));
  const set = (made) => {
    setPast([...past, values].slice(-MOST_UNDO));
    setFuture([]);
    put(made);
  };
  const go = (from, setFrom, to, setTo) => () => {
    if (!from.length) return;
    setFrom(from.slice(0, -1));
    setTo([...to, values]);
    put(from.at(-1));
  };
  return {
    values,
    some: values.some(Boolean),
    set,
    undo: past.length > 0 && go(past, setPast, future, setFuture),
    redo: future.length > 0 && go(future, setFuture, past, setPast),
    clear: () => set(new Uint8Array(size)),
    invert: () => set(values.map((on) => 1 - on)),
  };
}

export function Tools({ images, mask, painting }) {
  const [tool, setTool] = useState("brush");
  const [size, setSize] = useStored("edit.size", 3);
  const most = Math.max(2, Math.round(Math.max(images.w, images.h) / 2));
  const sized = (by) => () => setSize((old) => Math.min(most, Math.max(1, old + by)));
  const keys = {
    b: () => setTool("brush"),
    e: () => setTool("eraser"),
    "[": sized(-1),
    "]": sized(1),
    "Ctrl+z": () => mask.undo && mask.undo(),
    "Shift+Ctrl+z": () => mask.redo && mask.redo(),
    "Ctrl+y": () => mask.redo && mask.redo(),
  };
  return html`<div class="edit-tools">
    <${MaskCanvas}
      images=${images}
      mask=${mask.values}
      painting=${painting}
      tool=${tool}
      size=${Math.min(size, most)}
      onStroke=${mask.set}
      keys=${painting ? keys : {}}
      label=${painting ? "picture; paint where it is to change" : "picture"}
    />
    ${painting &&
    html`<div class="row">
        <${Switches}
          label="tool"
          value=${tool}
          choices=${[
            ["brush", "Brush"],
            ["eraser", "Eraser"],
          ]}
          onChange=${setTool}
        />
        <button type="button" class="small" disabled=${!mask.undo} onClick=${mask.undo || null}>Undo</button>
        <button type="button" class="small" disabled=${!mask.redo} onClick=${mask.redo || null}>Redo</button>
        <button type="button" class="small" disabled=${!mask.some} onClick=${mask.clear}>Clear</button>
        <button type="button" class="small" onClick=${mask.invert}>Invert</button>
      </div>
      <${Slider} label="Size of the brush" value=${Math.min(size, most)} min=${1} max=${most} onChange=${setSize} />
      <details class="dim">
        <summary>Keys and fingers</summary>
        Arrow keys move the brush and Space paints; b brush, e eraser, [ and ] its size, Ctrl+Z undo. The wheel
        or two fingers zoom, Shift and drag moves.
      </details>`}
  </div>`;
}

/* Before on the left of a line, after on the right: a range input over both moves it. */
export function Divider({ before, after }) {
  const [at, setAt] = useState(50);
  const back = after.c === 4 ? "chequered" : "";
  return html`<div class=${`edit-divider ${back}`} style=${{ aspectRatio: `${before.w} / ${before.h}` }}>
    <${Pixels} images=${after} style=${{ clipPath: `inset(0 0 0 ${at}%)` }} label="after" />
    <${Pixels} images=${before} style=${{ clipPath: `inset(0 ${100 - at}% 0 0)` }} label="before" />
    <i style=${{ left: `${at}%` }}></i>
    <input
      type="range"
      min="0"
      max="100"
      value=${at}
      aria-label="line between before and after"
      aria-valuetext=${`${at} percent before`}
      onInput=${(event) => setAt(+event.target.value)}
    />
  </div>`;
}
