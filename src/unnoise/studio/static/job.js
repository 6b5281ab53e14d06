/* A job of the server's as state of a component. */

import { useEffect, useRef, useState } from "./lib.js";
import { follow, post } from "./api.js";

/* {job, start(body), stop(), watch(id)}: a new job stops the one before it. `job` has header,
   frames, end and error; `keep` remembers its id, so that a reload finds it again. */
export function useJob(keep = null) {
  const [job, setJob] = useState(null);
  const current = useRef({ id: null, leave: () => {}, turn: 0 });

  const watch = (id) => {
    current.current.leave();
    current.current.id = id;
    current.current.leave = follow(id, (now) => {
      if (current.current.id === id) setJob({ ...now, error: now.end?.error ?? null });
    });
  };
  const stop = () => {
    const { id } = current.current;
    if (id) post(`/api/jobs/${id}/stop`).catch(() => {});
  };
  const start = async (body) => {
    const turn = ++current.current.turn;
    stop();
    try {
      const header = await post("/api/jobs", body);
      if (turn !== current.current.turn) {
        post(`/api/jobs/${header.id}/stop`).catch(() => {});
        return null;
      }
      if (keep) sessionStorage.setItem(keep, header.id);
      watch(header.id);
      return header;
    } catch (error) {
      if (turn === current.current.turn) {
        const end = { state: "failed" };
        setJob({ id: null, header: null, frames: [], end, error: error.message });
      }
      return null;
    }
  };
  useEffect(() => {
    const id = keep && sessionStorage.getItem(keep);
    if (id) watch(id);
    return () => current.current.leave();
  }, []);
  return { job, start, stop, watch };
}

export const busy = (job) => job !== null && job.end === null;
