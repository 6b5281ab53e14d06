/* A model of unnoise in a browser: onnxruntime-web computes the network, and a plan of model.json
   says how it is called (docs/export.md). No request goes anywhere but to the files beside. */

"use strict";

const CALL_PIXELS = 4096; // of one call of the network, so that the page stays awake in between
const NARROW = 44; // pixels of the screen that a picture has at least
const LOADER = "ort-wasm-simd-threaded.mjs";
const $ = (id) => document.getElementById(id);
let record, session, kept; // model.json, the network, the command line's noise
let busy = Promise.resolve();

/* A file of the export: inside this page, gzipped and in base64, or beside it. */
async function part(name) {
  const inside = $(name);
  if (!inside) {
    const response = await fetch(name);
    if (!response.ok) throw new Error(`${name}: ${response.status}`);
    return response.arrayBuffer();
  }
  const text = atob(inside.textContent);
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  inside.remove();
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).arrayBuffer();
}

async function load() {
  record = JSON.parse(new TextDecoder().decode(await part("model.json")));
  const noise = await part("noise.npy"); // a header of the length that its bytes 8 and 9 say
  kept = new Float32Array(noise.slice(10 + new DataView(noise).getUint16(8, true)));
  const loader = $(LOADER) && new Blob([await part(LOADER)], { type: "text/javascript" });
  const mjs = loader ? URL.createObjectURL(loader) : new URL(LOADER, document.baseURI).href;
  const wasmBinary = await part("ort-wasm-simd-threaded.wasm");
  Object.assign(ort.env.wasm, { numThreads: 1, wasmBinary, wasmPaths: { mjs } });
  session = await ort.InferenceSession.create(await part("model.onnx"));
}

// ---------------------------------------------------------------- sampling

const sizeOf = ({ channels, height, width }) => channels * height * width;

/* The network's output for images x, guided towards their labels, a few images at a call. */
async function output(x, t, labels, scale) {
  const { channels, height, width, num_classes } = record.shape;
  const [shape, size] = [[channels, height, width], sizeOf(record.shape)];
  const guided = scale !== 1;
  const most = Math.max(1, Math.floor(CALL_PIXELS / (height * width * (guided ? 2 : 1))));
  const found = new Float32Array(x.length);
  for (let from = 0; from < x.length / size; from += most) {
    const some = x.subarray(from * size, (from + most) * size);
    const n = some.length / size;
    const all = guided ? 2 * n : n;
    const given = {
      x: new ort.Tensor("float32", guided ? joined([some, some]) : some, [all, ...shape]),
      t: new ort.Tensor("float32", new Float32Array(all).fill(t)),
    };
    if (labels) {
      const kinds = new BigInt64Array(all).fill(BigInt(num_classes));
      labels.slice(from, from + n).forEach((label, i) => (kinds[i] = BigInt(label)));
      given.label = new ort.Tensor("int64", kinds);
    }
    busy = busy.catch(() => {}).then(() => session.run(given)); // one call at a time
    const out = (await busy).output.data;
    for (let i = 0; i < some.length; i++) {
      const without = guided ? out[some.length + i] : 0;
      found[from * size + i] = guided ? without + scale * (out[i] - without) : out[i];
    }
    await new Promise((resume) => setTimeout(resume)); // the page draws and listens
  }
  return found;
}

function sum(weights, states) {
  const total = new Float64Array(states[0].length);
  weights.forEach((weight, k) => {
    if (weight) states[k].forEach((value, i) => (total[i] += weight * value));
  });
  return total;
}

/* Every predicted image of a walk along a plan, and the picture in the end: values in [-1, 1]. */
async function* walk(plan, noise, labels) {
  const states = [noise];
  const none = labels?.every((label) => label === record.shape.num_classes);
  for (const call of plan.calls) {
    const x = sum(call.weights, states);
    const scaled = Float32Array.from(x, (value) => call.input_scale * value);
    const out = await output(scaled, call.t, labels, !labels || none ? 1 : call.guidance);
    const bound = plan.clip ?? Infinity;
    const x0 = x.map((value, i) => call.x0_of_x * value + call.x0_of_output * out[i]);
    states.push(x0.map((value) => Math.max(-bound, Math.min(bound, value))));
    yield states.at(-1);
  }
  yield sum(plan.weights, states);
}

/* Noise of this page's own: mulberry32, and Box-Muller's normal numbers of it. */
function drawn(seed, count) {
  let state = Math.imul(seed + 1, 0x9e3779b1);
  const uniform = () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
  const normal = () =>
    Math.sqrt(-2 * Math.log(1 - uniform())) * Math.cos(2 * Math.PI * uniform());
  return Float32Array.from({ length: count }, normal);
}

/* The noise of a seed: the command line's as far as the export keeps it. */
function noiseOf(seed) {
  const size = sizeOf(record.shape);
  const own = (seed + 1) * size <= kept.length;
  return own ? kept.slice(seed * size, (seed + 1) * size) : drawn(seed, size);
}

function joined(noises) {
  const all = new Float32Array(noises.length * noises[0].length);
  noises.forEach((noise, i) => all.set(noise, i * noise.length));
  return all;
}

/* Spherical interpolation from a to b, as `unnoise edit interpolate` does it. */
function slerp(a, b, share) {
  const dot = (u, v) => u.reduce((total, value, i) => total + value * v[i], 0);
  const cosine = dot(a, b) / Math.sqrt(dot(a, a) * dot(b, b));
  const angle = Math.acos(Math.max(-1, Math.min(1, cosine)));
  if (angle < 1e-6) return a;
  const [u, v] = [1 - share, share].map((part) => Math.sin(part * angle) / Math.sin(angle));
  return a.map((value, i) => u * value + v * b[i]);
}

// ---------------------------------------------------------------- pictures

/* Draw images on a canvas, one pixel per value, with a gap of one. RGBA is premultiplied; of 2 or
   more than 4 channels the first three are shown. */
function paint(canvas, images, columns) {
  const { channels: c, height: h, width: w } = record.shape;
  const n = images.length / sizeOf(record.shape);
  canvas.width = columns * (w + 1) - 1;
  canvas.height = Math.ceil(n / columns) * (h + 1) - 1;
  const context = canvas.getContext("2d");
  const picture = context.createImageData(canvas.width, canvas.height);
  const byte = (at) => Math.max(0, Math.min(255, Math.round((images[at] + 1) * 127.5)));
  for (let at = 0; at < n * h * w; at++) {
    const [i, y, x] = [Math.floor(at / (h * w)), Math.floor(at / w) % h, at % w];
    const from = i * c * h * w + y * w + x;
    const row = Math.floor(i / columns) * (h + 1) + y;
    const to = 4 * (row * canvas.width + (i % columns) * (w + 1) + x);
    const alpha = c === 4 ? byte(from + 3 * h * w) : 255;
    for (let k = 0; k < 3; k++) {
      const value = byte(from + (c > 2 ? k * h * w : 0));
      picture.data[to + k] = c === 4 && alpha ? Math.min(255, (255 * value) / alpha) : value;
    }
    picture.data[to + 3] = alpha;
  }
  context.putImageData(picture, 0, 0);
}

/* Small pictures by whole factors, as large as there is room. */
function fit() {
  const wall = $("wall");
  const room = Math.min($("wall").parentElement.clientWidth / wall.width, 560 / wall.height);
  wall.style.width = `${wall.width * (room > 1 ? Math.floor(room) : room)}px`;
}

function save() {
  const [wall, large] = [$("wall"), document.createElement("canvas")];
  const scale = Math.ceil(Math.max(64 / record.shape.width, 256 / wall.width));
  [large.width, large.height] = [wall.width * scale, wall.height * scale];
  const context = large.getContext("2d");
  context.imageSmoothingEnabled = false;
  context.drawImage(wall, 0, 0, large.width, large.height);
  large.toBlob((blob) => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(blob);
    link.download = `${record.name}-seed-${$("seed").value}.png`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
  });
}

// ---------------------------------------------------------------- what one asks for

/* Runs `work` when asked, once more if asked meanwhile; it is given whether it was. */
function latest(work) {
  let [wanted, running] = [false, false];
  return async () => {
    wanted = true;
    if (running || !session) return;
    running = true;
    while (wanted) {
      wanted = false;
      await work(() => wanted).catch(complain);
    }
    running = false;
  };
}

function complain(error) {
  $("error").textContent = `This page cannot go on: ${error.message ?? error}`;
  $("error").hidden = false;
}

const plan = () => record.plans[$("plan").value];
const number = (id) => Math.floor(Number($(id).value));

/* The labels of some seeds, or null for a model without classes. */
function labelsOf(seeds) {
  const { num_classes } = record.shape;
  const asked = $("label").value;
  if (!num_classes) return null;
  return seeds.map((seed) => (asked === "" ? seed % num_classes : Number(asked)));
}

const make = latest(async (stale) => {
  if (!$("controls").reportValidity()) return;
  const seeds = Array.from({ length: number("count") }, (_, i) => number("seed") + i);
  const { num_classes: classes } = record.shape;
  const inTurn = $("label").value === "" && classes > 1 && classes <= 12 && seeds.length >= classes;
  const room = Math.max(1, Math.floor($("caption").clientWidth / NARROW));
  const wanted = inTurn ? classes : Math.ceil(Math.sqrt(seeds.length));
  const columns = Math.ceil(wanted / Math.ceil(wanted / room)); // rows of the same classes
  const [chosen, named] = [plan(), $("plan").value];
  const start = performance.now();
  let done = 0;
  $("save").disabled = true;
  $("caption").textContent = "Denoising ..";
  $("progress").max = chosen.calls.length;
  for await (const images of walk(chosen, joined(seeds.map(noiseOf)), labelsOf(seeds))) {
    if (stale()) return;
    paint($("wall"), images, columns);
    fit();
    $("progress").value = done++;
  }
  const seconds = (performance.now() - start) / 1000;
  const what = `seeds ${seeds[0]} to ${seeds.at(-1)}`;
  const foreign = seeds.at(-1) >= kept.length / sizeOf(record.shape);
  const whose = foreign ? "; noise of this page's own" : "; the command line's pictures";
  $("caption").textContent = `${what}, ${named}, ${seconds.toFixed(2)} s${whose}`;
  $("wall").ariaLabel = `${seeds.length} pictures: ${what}, class ${$("label").selectedOptions[0].text}`;
  $("save").disabled = false;
});

const between = latest(async () => {
  if (!$("walk").reportValidity()) return;
  const share = number("share") / 100;
  $("said").textContent = `${number("share")} %`;
  const noise = slerp(noiseOf(number("a")), noiseOf(number("b")), share);
  let picture;
  for await (const images of walk(plan(), noise, labelsOf([number("a")]))) picture = images;
  paint($("between"), picture, 1);
  $("between").ariaLabel = `${number("share")} % of the way from seed ${$("a").value} to ${$("b").value}`;
});

function offer() {
  const { shape, classes, plans, name } = record;
  document.title = `${name} · unnoise`;
  $("name").textContent = name;
  const named = classes.map((text, i) => [text, i]);
  const labels = [["each seed's own", ""], ...named, ["no class", shape.num_classes]];
  const choose = (id, options) =>
    $(id).append(...options.map(([text, value]) => new Option(text, value)));
  choose("label", labels);
  $("label").parentElement.hidden = !shape.num_classes;
  choose("plan", Object.keys(plans).map((text) => [text, text]));
  const [pixels, per] = [shape.height * shape.width, shape.num_classes];
  const row = per > 1 && per <= 12 ? per : 8;
  $("count").value = pixels > 64 * 64 ? 1 : pixels > 16 * 16 ? 4 : 2 * row;
  for (const id of ["wall", "between"]) $(id).classList.toggle("chequered", shape.channels === 4);
  $("about").textContent =
    `The seeds 0 to ${kept.length / sizeOf(shape) - 1} give the pictures of unnoise's command line. ` +
    "Other seeds use noise of this page's own. Everything is computed here: nothing is sent anywhere.";
}

$("controls").addEventListener("submit", (event) => event.preventDefault() || make());
$("controls").addEventListener("change", make);
$("plan").addEventListener("change", between);
$("label").addEventListener("change", between);
$("walk").addEventListener("submit", (event) => event.preventDefault());
$("walk").addEventListener("input", between);
$("save").addEventListener("click", save);
$("dice").addEventListener("click", () => {
  $("seed").value = Math.floor(Math.random() * 1e6);
  make();
});
addEventListener("resize", fit);
load().then(() => offer() || make().then(between), complain);
