/* The server, as functions: JSON in and out, and the records of a job as they come. */

export class Refused extends Error {}

async function answer(response) {
  const body = await response.json().catch(() => ({}));
  if (!response.ok) throw new Refused(body.error ?? `the server said ${response.status}`);
  return body;
}

export const get = async (path) => answer(await reach(path));

export const post = async (path, body = {}, signal = undefined) =>
  answer(
    await reach(path, {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(body),
      signal,
    }),
  );

async function reach(path, options) {
  try {
    return await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("the server does not answer: is `unnoise studio` still running?");
  }
}

/* A job's records from number `from` on: {json} or {frame}. */
export async function* records(id, from = 0, signal = undefined) {
  const response = await reach(`/api/jobs/${id}?from=${from}`, { signal });
  if (!response.ok) await answer(response);
  const reader = response.body.getReader();
  let rest = new Uint8Array(0);
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const bytes = new Uint8Array(rest.length + value.length);
    bytes.set(rest);
    bytes.set(value, rest.length);
    let at = 0;
    while (bytes.length - at >= 4) {
      const view = new DataView(bytes.buffer, at);
      const size = 4 + view.getUint32(0, true);
      if (bytes.length - at < size) break;
      yield record(new DataView(bytes.buffer, at + 4, size - 4));
      at += size;
    }
    rest = bytes.slice(at);
  }
}

function record(view) {
  const bytes = new Uint8Array(view.buffer, view.byteOffset, view.byteLength);
  if (view.getUint32(0, true) === 0) {
    return { json: JSON.parse(new TextDecoder().decode(bytes.subarray(4))) };
  }
  const [n, c, h, w] = [16, 20, 24, 28].map((at) => view.getUint32(at, true));
  const size = n * c * h * w;
  const images = (at) => ({ n, c, h, w, data: bytes.slice(at, at + size) });
  return {
    frame: {
      step: view.getUint32(4, true),
      nfe: view.getUint32(8, true),
      noise: view.getFloat32(12, true),
      x: images(32),
      x0: images(32 + size),
    },
  };
}

/* Follow a job to its end, over broken connections too. `tell(job)` is called at most once per
   painted frame: {header, frames, end}. Gives a function that leaves the job, without stopping it. */
export function follow(id, tell) {
  const job = { id, header: null, frames: [], end: null, lost: null };
  const aborted = new AbortController();
  let asked = false;
  const changed = () => {
    if (asked) return;
    asked = true;
    requestAnimationFrame(() => {
      asked = false;
      if (!aborted.signal.aborted) tell({ ...job });
    });
  };
  (async () => {
    let read = 0;
    for (let tries = 0; !job.end && tries < 5; tries++) {
      try {
        for await (const { json, frame } of records(id, read, aborted.signal)) {
          read += 1;
          tries = 0;
          if (frame) job.frames.push(frame);
          else if (job.header === null) job.header = json;
          else job.end = json;
          changed();
        }
      } catch (error) {
        if (aborted.signal.aborted) return;
        job.lost = error.message;
        if (error instanceof Refused) break;
        await new Promise((done) => setTimeout(done, 300 * 2 ** tries));
      }
    }
    if (!job.end) job.end = { state: "failed", error: job.lost ?? "the connection was lost" };
    if (!aborted.signal.aborted) tell({ ...job }); // a hidden page paints no frame
  })();
  return () => aborted.abort();
}

/* The content of a file as base64. */
export async function base64(file) {
  const url = await new Promise((done, fail) => {
    const reader = new FileReader();
    reader.onload = () => done(reader.result);
    reader.onerror = () => fail(new Error(`${file.name} cannot be read`));
    reader.readAsDataURL(file);
  });
  return url.slice(url.indexOf(",") + 1);
}
