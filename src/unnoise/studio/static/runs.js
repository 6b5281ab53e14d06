/* The runs: a list, what the ticked ones look like side by side, one of them in full, a new one. */

import { html, useEffect, useRef, useState, useStored } from "./lib.js";
import { get, post } from "./api.js";
import { Curves } from "./curves.js";
import { duration, images, number, text } from "./format.js";
import { Grids } from "./grids.js";
import { NewRun } from "./new_run.js";
import { longer } from "./panels.js";
import { Bar, State, Table } from "./parts.js";
import { RunView } from "./run_view.js";

const POLL_MS = 2000;
const QUIET_MS = 6000; // between two looks while nothing trains
const DONE = ["finished", "stopped", "failed"];
const MOST_TICKED = 6;

/* Do something, and again after as many ms as it gives, while the page is looked at. Gives a way to
   do it at once. */
function usePoll(work) {
  const newest = useRef();
  newest.current = work;
  const again = useRef(() => {});
  useEffect(() => {
    let [timer, gone, asked] = [null, false, 0];
    const ask = async () => {
      clearTimeout(timer);
      if (document.hidden || gone) return;
      const mine = ++asked;
      const pause = await newest.current();
      if (mine === asked) timer = setTimeout(ask, pause);
    };
    again.current = ask;
    ask();
    document.addEventListener("visibilitychange", ask);
    return () => {
      gone = true;
      clearTimeout(timer);
      document.removeEventListener("visibilitychange", ask);
    };
  }, []);
  return () => again.current();
}

/* The records of some runs. One is read whole where more than its curves has changed; else only the
   lines that are new. */
function useRecords(ids, entries) {
  const [records, set] = useState(new Map());
  const known = useRef(records);
  const busy = useRef(new Set());
  const keep = (id, record) => {
    known.current = new Map(known.current).set(id, record);
    set(known.current);
  };
  const read = async (id, stamp) => keep(id, { ...(await get(`/api/runs/${id}`)), stamp });
  const update = async ({ id, version, state, nimg }) => {
    const [stamp, record] = [`${version} ${state}`, known.current.get(id)];
    if (record?.stamp !== stamp) return read(id, stamp);
    if (record.reach === nimg) return undefined;
    const { next, file } = record.metrics;
    const more = await get(`/api/runs/${id}/metrics?from=${next}&file=${file}`);
    if (more.from !== next || more.file !== file) return read(id, stamp);
    const curves = more.lines.length ? longer(record.curves, more.lines) : record.curves;
    return keep(id, { ...record, curves, metrics: more, reach: nimg });
  };
  useEffect(() => {
    for (const entry of entries.filter(({ id }) => ids.includes(id))) {
      if (["starting", "failed"].includes(entry.state)) continue; // there is nothing to read yet
      if (busy.current.has(entry.id)) continue;
      busy.current.add(entry.id);
      update(entry)
        .catch((error) => keep(entry.id, { error: error.message, stamp: null }))
        .finally(() => busy.current.delete(entry.id));
    }
  }, [ids.join(), entries]);
  return records;
}

const openedNow = () => location.hash.split("/")[1] ?? null;

export function RunsScreen({ models, goTo }) {
  const [list, setList] = useState(null);
  const [error, setError] = useState(null);
  const [opened, open] = useState(openedNow());
  const [chosen, choose] = useStored("runs.ticked", null);
  const [plan, setPlan] = useState(null);
  const poll = usePoll(async () => {
    try {
      const found = await get("/api/runs");
      setList(found);
      setError(null);
      return found.runs.every(({ state }) => DONE.includes(state)) ? QUIET_MS : POLL_MS;
    } catch (problem) {
      setError(problem.message);
      return QUIET_MS;
    }
  });
  useEffect(() => {
    const change = () => open(openedNow());
    addEventListener("hashchange", change);
    return () => removeEventListener("hashchange", change);
  }, []);

  const entries = list?.runs ?? [];
  const there = new Set(entries.map(({ id }) => id));
  const ticked = (chosen ?? entries.slice(0, 1).map(({ id }) => id)).filter((id) => there.has(id));
  const records = useRecords(opened ? [opened] : ticked, entries);
  const act = async (path) => {
    try {
      await post(path);
    } catch (problem) {
      setError(problem.message);
      return;
    }
    poll();
  };
  const play = (id) =>
    models.some((model) => model.id === id) ? () => goTo("play", { model: id }) : null;
  const tick = (id) =>
    choose(ticked.includes(id) ? ticked.filter((one) => one !== id) : [...ticked, id]);
  const started = (id) => {
    choose([id, ...ticked].slice(0, MOST_TICKED));
    poll();
  };

  const said = error && html`<p class="error" role="alert">${error}</p>`;
  if (list === null) return said || html`<p class="dim">Looking for runs …</p>`;
  if (opened) {
    const entry = entries.find(({ id }) => id === opened);
    return html`${said}<${One} entry=${entry} record=${records.get(opened)} act=${act}
      play=${play} />`;
  }
  const compared = ticked.map((id) => records.get(id)).filter((run) => run?.curves);
  return html`
    ${said}
    <h1 class="unseen">Runs</h1>
    <div class="runs">
      <div class="side">
        ${entries.length === 0 && html`<${NoRun} folder=${list.folder} />`}
        <ul class="entries" aria-label="runs">
          ${entries.map((entry) => {
            const place = ticked.indexOf(entry.id);
            const full = place < 0 && ticked.length >= MOST_TICKED;
            const more = { place, full, tick, act, several: ticked.length > 1 };
            return html`<${Entry} key=${entry.id} entry=${entry} ...${more} />`;
          })}
        </ul>
        <${NewRun} ...${{ list, plan, setPlan, started }} />
      </div>
      <div class="beside">
        ${plan?.text && html`<${Plan} text=${plan.text} />`}
        ${entries.length > 0 && html`<${Compared} runs=${compared} />`}
      </div>
    </div>
  `;
}

function NoRun({ folder }) {
  return html`<p>
    No run yet in <code>${folder}</code>. Train on a folder of pictures here, or with
    <code> unnoise train</code> on a terminal.
  </p>`;
}

function Plan({ text }) {
  return html`<section aria-label="Plan">
    <h2>Plan</h2>
    <pre class="plan" role="status">${text}</pre>
  </section>`;
}

/* Stop or resume, whichever makes sense. */
function Actions({ entry, act }) {
  const { id, name, state, preset } = entry;
  const button = (what, path, label) =>
    html`<button
      type="button" class="small" disabled=${state === "stopping"}
      aria-label=${`${label}: ${name}`} onClick=${() => act(`/api/runs/${id}/${path}`)}
    >${what}</button>`;
  if (["starting", "running", "stopping"].includes(state)) {
    return button(state === "stopping" ? "Saving …" : "Stop", "stop", "stop and save");
  }
  return state === "stopped" && preset ? button("Resume", "resume", "resume") : null;
}

function left({ state, progress, train_sec: sec }) {
  if (state !== "running" || !progress || typeof sec !== "number") return "";
  return `${duration((sec * (1 - progress)) / progress)} left`;
}

function Entry({ entry, place, full, tick, act, several }) {
  const { id, name, state, progress, nimg, loss, held_out_loss: held, newest, error } = entry;
  const losses = typeof held === "number" ? `held-out ${number(held)}` : `loss ${number(loss)}`;
  const far = progress === null || state === "finished" ? "" : `${Math.floor(100 * progress)} %`;
  const facts =
    nimg === null || nimg === undefined
      ? [state === "failed" ? "did not begin" : "no measurement yet"]
      : [far, left(entry), images(nimg), losses].filter((fact) => fact);
  return html`
    <li class="entry">
      <input
        type="checkbox" checked=${place >= 0} disabled=${full} aria-label=${`show ${name}`}
        onChange=${() => tick(id)}
      />
      <a class="thumb" href=${`#runs/${id}`} tabindex="-1" aria-hidden="true">
        ${newest && html`<img class="pixels" src=${newest} alt="" />`}
      </a>
      <div class="facts">
        <p class="row">
          ${several && place >= 0 && html`<i class=${`swatch c${place % MOST_TICKED}`}></i>`}
          <a href=${`#runs/${id}`}>${name}</a> <${State} state=${state} />
        </p>
        ${state !== "finished" && html`<${Bar} share=${progress} name=${`progress of ${name}`} />`}
        <p class="dim">${facts.join(" · ")}</p>
      </div>
      <${Actions} entry=${entry} act=${act} />
      ${error && html`<pre class="log">${error}</pre>`}
    </li>
  `;
}

/* The ticked runs side by side. */
function Compared({ runs }) {
  const [at, show] = useStored("runs.at", null);
  if (!runs.length) {
    return html`<p class="dim">
      Tick runs to see their samples, curves and settings side by side.
    </p>`;
  }
  const grids = runs.some((run) => run.samples.length);
  const curves = runs.some((run) => Object.keys(run.curves).length);
  return html`
      <section aria-label="Samples">
        <h2>Samples</h2>
        ${grids
          ? html`<${Grids} runs=${runs} at=${at} show=${show} />`
          : html`<p class="dim">The first samples come after half a minute of training.</p>`}
      </section>
      <section aria-label="Curves">
        <h2>Curves</h2>
        ${curves
          ? html`<${Curves} runs=${runs} />`
          : html`<p class="dim">The first measurement comes within half a minute.</p>`}
      </section>
      ${runs.length > 1 && html`<${Differences} runs=${runs} />`}
  `;
}

function Differences({ runs }) {
  const settings = runs.map((run) => run.settings.values);
  const keys = [...new Set(settings.flatMap(Object.keys))];
  const rows = keys
    .map((key) => [key, ...settings.map((own) => text(Object.hasOwn(own, key) ? own[key] : null))])
    .filter(([, first, ...others]) => others.some((other) => other !== first));
  return html`
    <section aria-label="Differences">
      <h2>Settings that differ</h2>
      ${rows.length
        ? html`<${Table} head=${["setting", ...runs.map(({ name }) => name)]} rows=${rows} />`
        : html`<p class="dim">They have the same settings.</p>`}
    </section>
  `;
}

function One({ entry, record, act, play }) {
  const back = html`<a href="#runs">All runs</a>`;
  if (!entry) return html`<p>${back}</p><p>This run is not here any more.</p>`;
  const { state, progress, nimg, epoch, train_sec, loss, held_out_loss } = entry;
  const seen = { nimg, epoch, train_sec, loss, held_out_loss };
  return html`
    <p class="row">
      ${back}<${Actions} entry=${entry} act=${act} />
      ${play(entry.id) &&
      html`<button type="button" class="small" onClick=${play(entry.id)}>Play with its model</button>`}
      <span class="dim">${left(entry)}</span>
    </p>
    ${entry.error && html`<pre class="log">${entry.error}</pre>`}
    ${record?.curves
      ? html`<div class="page"><${RunView} run=${{ ...record, state, progress, seen }} /></div>`
      : html`<p class="dim">${record?.error ?? "Reading …"}</p>`}
  `;
}
