"use strict";
/* Elements of the page, and values as text. Data become text nodes and attributes, never HTML. */

function make(namespace, name, attributes, children) {
  const element = document.createElementNS(namespace, name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (value !== false && value !== null)
      element.setAttribute(key, value === true ? "" : value);
  }
  element.append(
    ...children.flat(Infinity).filter((child) => child !== null && child !== undefined),
  );
  return element;
}
const h = (name, attributes = {}, ...children) =>
  make("http://www.w3.org/1999/xhtml", name, attributes, children);
const s = (name, attributes = {}, ...children) =>
  make("http://www.w3.org/2000/svg", name, attributes, children);

function table(head, rows) {
  const cells = (row) => row.map((cell) => h("td", {}, text(cell)));
  const top = head.some((name) => name)
    ? h(
        "thead",
        {},
        h(
          "tr",
          {},
          head.map((name) => h("th", { scope: "col" }, text(name))),
        ),
      )
    : null;
  const body = h(
    "tbody",
    {},
    rows.map((row) => h("tr", {}, cells(row))),
  );
  return h("div", { class: "wide" }, h("table", {}, top, body));
}

/* A part that is closed until the reader opens it, and stays as the reader left it. */
function details(title, ...children) {
  const toggle = (event) => (event.target.open ? view.open.add(title) : view.open.delete(title));
  return h(
    "details",
    { open: view.open.has(title), ontoggle: toggle },
    h("summary", {}, title),
    ...children,
  );
}

function picture(image, caption) {
  if (!image?.src) return null;
  return h("figure", {}, h("img", { src: image.src, alt: caption }), h("figcaption", {}, caption));
}

// ---------------------------------------------------------------- values as text

function text(value) {
  if (value === null || value === undefined) return "none";
  if (Array.isArray(value)) return `[${value.map(text).join(", ")}]`;
  return typeof value === "object" ? JSON.stringify(value) : String(value);
}

/* A number of a few significant digits, without needless zeros. */
function number(value, digits = 4) {
  if (typeof value !== "number") return "unknown";
  const size = Math.abs(value);
  if (size >= 1e6 || (size < 1e-4 && size > 0)) {
    return value
      .toExponential(digits - 1)
      .replace(/\.?0+e/, "e")
      .replace("e+", "e");
  }
  return String(Number(value.toPrecision(digits)));
}

const count = (value) =>
  typeof value === "number" ? Math.round(value).toLocaleString("en-US") : "unknown";
const images = (nimg) => `${count(nimg)} images`;

function duration(sec) {
  if (typeof sec !== "number") return "unknown";
  const [hours, minutes, rest] = [sec / 3600, (sec / 60) % 60, sec % 60].map(Math.floor);
  const two = (value) => String(value).padStart(2, "0");
  if (hours) return `${hours}h ${two(minutes)}m`;
  return minutes ? `${minutes}m ${two(rest)}s` : `${rest}s`;
}

function bytes(size) {
  const unit = Math.min(3, Math.floor(Math.log10(Math.max(size, 1)) / 3));
  return `${number(size / 1000 ** unit, 3)} ${["B", "kB", "MB", "GB"][unit]}`;
}
