/* The frame of the page: tabs, what the server does, and pictures that are dropped anywhere. */

import { html, render, useEffect, useRef, useState } from "./lib.js";
import { base64, get, post } from "./api.js";
import { CompareScreen } from "./compare.js";
import { EditScreen } from "./edit.js";
import { ExploreScreen } from "./explore.js";
import { LearnScreen } from "./learn.js";
import { PlayScreen } from "./play.js";
import { RunsScreen } from "./runs.js";

const TABS = [
  ["play", "Play", PlayScreen],
  ["explore", "Explore", ExploreScreen],
  ["edit", "Edit", EditScreen],
  ["compare", "Compare", CompareScreen],
  ["runs", "Runs", RunsScreen],
  ["learn", "Learn", LearnScreen],
];

const SCREENS = { sample: "play", walk: "explore", inpaint: "edit", image: "edit" };

const tabOf = () => {
  const name = location.hash.slice(1).split("/")[0];
  return TABS.find(([key]) => key === name)?.[0] ?? TABS[0][0];
};

/* What the server does, asked for every few seconds while the page is looked at. */
function useServer() {
  const [state, setState] = useState({ worker: "starting" });
  useEffect(() => {
    const ask = async () => {
      if (document.hidden) return;
      const away = (error) => ({ worker: "away", error: error.message });
      const now = await get("/api/state").catch(away);
      setState((old) => (JSON.stringify(old) === JSON.stringify(now) ? old : now));
    };
    ask();
    const timer = setInterval(ask, 3000);
    document.addEventListener("visibilitychange", ask);
    return () => {
      clearInterval(timer);
      document.removeEventListener("visibilitychange", ask);
    };
  }, []);
  return state;
}

const SAID = { starting: "loading PyTorch …", ready: "ready", away: "no answer" };

function App() {
  const [tab, setTab] = useState(tabOf());
  const [models, setModels] = useState(null);
  const [fields, setFields] = useState(null);
  const [given, setGiven] = useState(null);
  const [error, setError] = useState(null);
  const [dropping, setDropping] = useState(false);
  const server = useServer();
  const there = server.worker !== "away";
  const returns = useRef(0); // how often the server came back: the screen then begins anew
  const before = useRef(there);
  if (there && !before.current) returns.current += 1;
  before.current = there;

  const fail = (what) => setError(what.message);
  const reload = () =>
    get("/api/models")
      .then(({ models }) => setModels(models))
      .catch(fail);
  useEffect(() => {
    if (!there) return;
    reload();
    get("/api/fields")
      .then(({ fields }) => setFields(fields))
      .catch(fail);
  }, [there]);
  useEffect(() => {
    const change = () => {
      setTab(tabOf());
      if (models) reload(); // a run may have ended meanwhile
    };
    addEventListener("hashchange", change);
    return () => removeEventListener("hashchange", change);
  }, [models]);

  /* Hand something to a screen: goTo("edit", {model, image}). */
  const goTo = (name, what = null) => {
    setGiven(what && { ...what, screen: name, number: Date.now() });
    location.hash = name;
  };
  const dropped = async (file) => {
    setError(null);
    try {
      const picture = await base64(file);
      const { recipe, model, asked } = await post("/api/recipe", { picture });
      if (model === null) {
        throw new Error(`${file.name}: no model here has the weights ${recipe.model}`);
      }
      if (asked === null) throw new Error(`${file.name}: its recipe does not say how to make it`);
      await reload(); // the model may be newer than the list
      goTo(SCREENS[asked.kind], { model, recipe, asked, file });
    } catch (problem) {
      const foreign = problem.message.includes("has no recipe") || file.type !== "image/png";
      if (foreign && file.type.startsWith("image/")) goTo("edit", { file });
      else fail(problem);
    }
  };
  useEffect(() => {
    const files = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");
    const over = (event) => {
      if (!files(event)) return;
      event.preventDefault();
      setDropping(true);
    };
    const leave = (event) => !event.relatedTarget && setDropping(false);
    const drop = (event) => {
      setDropping(false);
      if (!files(event)) return;
      event.preventDefault();
      const [file] = event.dataTransfer.files;
      if (file) dropped(file);
    };
    const all = { dragover: over, dragleave: leave, drop };
    for (const [name, listener] of Object.entries(all)) addEventListener(name, listener);
    return () => {
      for (const [name, listener] of Object.entries(all)) removeEventListener(name, listener);
    };
  });

  const Screen = TABS.find(([key]) => key === tab)[2];
  const title = TABS.find(([key]) => key === tab)[1];
  useEffect(() => {
    document.title = `${title} · unnoise studio`;
  }, [title]);
  const waiting = server.waiting ? `, ${server.waiting} waiting` : "";
  const said = server.running ? `working${waiting}` : (SAID[server.worker] ?? server.worker);
  const mine = given?.screen === tab ? given : null;
  const all = { models, fields, goTo, given: mine };
  return html`
    <header class="top">
      <a class="brand" href="#play">unnoise <b>studio</b></a>
      <nav aria-label="screens">
        ${TABS.map(
          ([key, name]) =>
            html`<a href=${`#${key}`} aria-current=${key === tab ? "page" : undefined}>${name}</a>`,
        )}
      </nav>
      <span class="server ${server.running ? "working" : server.worker}" role="status">${said}</span>
    </header>
    ${error &&
    html`<p class="error" role="alert">
      ${error} <button type="button" class="small" onClick=${() => setError(null)}>Close</button>
    </p>`}
    ${!there && html`<p class="error" role="alert">${server.error}</p>`}
    <main>
      ${models === null
        ? html`<p class="dim">Looking for models …</p>`
        : models.length
          ? html`<${Screen} key=${`${tab} ${returns.current}`} ...${all} />`
          : html`<p>There is no model here.</p>`}
    </main>
    ${dropping && html`<div class="drop">Drop a picture to restore how it was made</div>`}
  `;
}

render(html`<${App} />`, document.body);
