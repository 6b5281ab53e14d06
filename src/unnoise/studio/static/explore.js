/* Explore: four ways to look at what a model does with its noise. */

import { html, useStored } from "./lib.js";
import { ModelSelect, modelOf } from "./fields.js";
import { Plot } from "./explore_plot.js";
import { Walk } from "./explore_walk.js";
import { SeedsByClass } from "./explore_classes.js";
import { Paths } from "./explore_paths.js";

const PARTS = [
  ["plot", "Sampler × steps", Plot],
  ["walk", "Latent walk", Walk],
  ["classes", "Class × seed", SeedsByClass],
  ["paths", "Paths", Paths],
];

export function ExploreScreen({ models, fields }) {
  const [chosen, setChosen] = useStored("explore.model", null);
  const [part, setPart] = useStored("explore.part", "plot");
  const model = modelOf(models, chosen);
  const [key, , Part] = PARTS.find(([name]) => name === part) ?? PARTS[0];
  return html`<div class="explore">
    <nav class="explore-parts" aria-label="ways to explore">
      ${PARTS.map(
        ([name, title]) =>
          html`<button
            type="button"
            aria-current=${name === key ? "true" : undefined}
            onClick=${() => setPart(name)}
          >
            ${title}
          </button>`,
      )}
    </nav>
    <${Part} key=${`${key} ${model.id}`} model=${model} fields=${fields}>
      <${ModelSelect} models=${models} value=${model.id} onChange=${setChosen} />
    <//>
  </div>`;
}
