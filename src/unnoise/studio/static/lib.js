/* Preact and htm, which vendor/ defines as globals, under the names that components use. */

export const { html, render, Component, useState, useEffect, useLayoutEffect, useRef, useMemo } =
  window.htmPreact;
export const { useCallback } = window.htmPreact;

/* A value that lives in this browser's storage: a reload loses nothing. */
export function useStored(key, initial) {
  const [value, set] = useState(() => stored(key, initial));
  const change = (next) =>
    set((old) => {
      const made = typeof next === "function" ? next(old) : next;
      store(key, made);
      return made;
    });
  return [value, change];
}

export function store(key, value) {
  try {
    localStorage.setItem(`unnoise.${key}`, JSON.stringify(value));
  } catch {
    /* storage is full or switched off: the value lives until the page closes */
  }
}

function stored(key, initial) {
  try {
    const text = localStorage.getItem(`unnoise.${key}`);
    return text === null ? initial : (JSON.parse(text) ?? initial);
  } catch {
    return initial;
  }
}

/* Copy a text; where the browser forbids it, it is selected instead. */
export function Copy({ text, label = "Copy" }) {
  const [said, say] = useState(label);
  const copy = async (event) => {
    try {
      await navigator.clipboard.writeText(text);
      say("Copied");
    } catch {
      const code = event.target.parentElement.querySelector("code");
      if (code) getSelection().selectAllChildren(code);
      say("Selected");
    }
    setTimeout(() => say(label), 1500);
  };
  return html`<button type="button" class="small" onClick=${copy}>${said}</button>`;
}

export function Command({ about, line }) {
  return html`<div class="command">
    ${about && html`<p class="dim">${about}</p>`}
    <pre><code tabindex="0">${line}</code><${Copy} text=${line} /></pre>
  </div>`;
}
