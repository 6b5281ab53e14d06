/* Small parts of a page. */

import { html, useEffect, useRef, useState, useStored } from "./lib.js";
import { text } from "./format.js";

/* A table, which keys can scroll where it is wider than the page. */
export function Table({ head, rows }) {
  const box = useRef();
  const [wide, setWide] = useState(false);
  useEffect(() => setWide(box.current.scrollWidth > box.current.clientWidth), [rows.length]);
  const top = html`<thead>
    <tr>${head.map((name) => html`<th scope="col">${text(name)}</th>`)}</tr>
  </thead>`;
  const body = rows.map((row) => html`<tr>${row.map((cell) => html`<td>${text(cell)}</td>`)}</tr>`);
  const reached = wide ? { tabindex: 0, role: "region", "aria-label": "table" } : {};
  return html`<div class="wide" ref=${box} ...${reached}>
    <table>${head.some((name) => name) && top}<tbody>${body}</tbody></table>
  </div>`;
}

/* A part that is closed until the reader opens it, and stays as the reader left it. */
export function Details({ title, children }) {
  const [open, set] = useStored(`open.${title}`, false);
  return html`<details open=${open} onToggle=${(event) => set(event.currentTarget.open)}>
    <summary>${title}</summary>
    ${children}
  </details>`;
}

export function Picture({ image, caption }) {
  if (!image?.src) return null;
  return html`<figure>
    <img src=${image.src} alt=${caption} />
    <figcaption>${caption}</figcaption>
  </figure>`;
}

/* The state of a run, and how much of the way is behind it. */
export function State({ state }) {
  return html`<b class=${`state ${state}`}>${state}</b>`;
}

export function Bar({ share, name }) {
  const percent = Math.floor(100 * (share ?? 0));
  return html`<div class="bar" role="progressbar" aria-label=${name} aria-valuenow=${percent}>
    <i style=${{ width: `${100 * (share ?? 0)}%` }}></i>
  </div>`;
}
