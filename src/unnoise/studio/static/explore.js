/* Explore: four ways to look at what a model does with its noise. */

import { html, useLayoutEffect, useState, useStored } from "./lib.js";
import { ModelSelect, modelOf } from "./fields.js";
import { Plot } from "./explore_plot.js";
import { Walk, restoreWalk } from "./explore_walk.js";
import { SeedsByClass } from "./explore_classes.js";
import { Paths } from "./explore_paths.js";

const PARTS = [
  ["plot", "Sampler × steps", Plot],
  ["walk", "Latent walk", Walk],
  ["classes", "Class × seed", SeedsByClass],
  ["paths", "Paths", Paths],
];

let handled = null; // what was handed over last: a tab that comes back does not take it again

export function ExploreScreen({ models, fields, given }) {
  const [chosen, setChosen] = useStored("explore.model", null);
  const [part, setPart] = useStored("explore.part", "plot");
  const [turn, setTurn] = useState(0);
  const model = modelOf(models, chosen);
  useLayoutEffect(() => {
    const of = models.find(({ id }) => id === given?.model);
    if (!of || given.asked?.kind !== "walk" || handled === given.number) return;
    handled = given.number;
    restoreWalk(of, given.asked);
    setChosen(of.id);
    setPart("walk");
    setTurn(given.number);
  }, [given?.number]);
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
    <${Part} key=${`${key} ${model.id} ${turn}`} model=${model} fields=${fields}>
      <${ModelSelect} models=${models} value=${model.id} onChange=${setChosen} />
    <//>
  </div>`;
}
