/* Is it a copy? The training pictures that are nearest to a picture, by pixels. */

import { html, useEffect, useState } from "./lib.js";
import { get } from "./api.js";
import { decode, single } from "./pieces.js";
import { Wall } from "./wall.js";

export function Nearest({ job, index }) {
  const [found, setFound] = useState(null);
  const [error, setError] = useState(null);
  useEffect(() => {
    let left = false;
    setFound(null);
    setError(null);
    get(`/api/jobs/${job.id}/nearest?index=${index}`)
      .then((answer) => !left && setFound(answer))
      .catch((problem) => !left && setError(problem.message));
    return () => {
      left = true;
    };
  }, [job.id, index]);
  if (error) return html`<p class="dim nearest">${error}</p>`;
  if (!found) return html`<p class="dim nearest">Looking through the training pictures …</p>`;
  const [n, c, h, w] = found.shape;
  const others = { n, c, h, w, data: decode(found.pixels) };
  return html`<section class="nearest" aria-label="nearest training pictures">
    <h3>Nearest of ${found.of.toLocaleString("en-US")} training pictures</h3>
    <div class="row">
      <figure><${Wall} images=${single(job.frames.at(-1).x0, index)} high=${96} label="the picture" /><figcaption>made</figcaption></figure>
      ${Array.from(
        { length: n },
        (_, i) => html`<figure>
          <${Wall} images=${single(others, i)} high=${96} label="a training picture" />
          <figcaption>${found.differences[i].toFixed(1)}</figcaption>
        </figure>`,
      )}
    </div>
    <p class="dim">
      Below each: its mean (RMS) difference in values of 0 to 255; a copy is near 0.
    </p>
  </section>`;
}
