/* The page of one run as a file, which holds its data. */

import { html, render } from "./lib.js";
import { RunView } from "./run_view.js";

const run = JSON.parse(document.getElementById("run").textContent);
document.title = `${run.name} · unnoise`;
render(
  html`
    <main class="page">
      <${RunView} run=${run} />
      <footer>Made ${run.made}. One file, no requests.</footer>
    </main>
  `,
  document.body,
);
