"use strict";
/* Where values are on the pixels of a chart. */

function extent(values) {
  return values.reduce(
    ([low, high], v) => [Math.min(low, v), Math.max(high, v)],
    [Infinity, -Infinity],
  );
}

/* An exponential moving average that starts without bias. */
function smoothed(values, keep) {
  let [sum, weight] = [0, 0];
  return values.map((value) => {
    sum = keep * sum + (1 - keep) * value;
    weight = keep * weight + (1 - keep);
    return sum / weight;
  });
}

/* A round step, 1, 2, 2.5 or 5 times a power of ten, that fits three to six times. */
function roundStep(low, high, most = 6) {
  const rough = Math.max((high - low) / most, 1e-300);
  const power = 10 ** Math.floor(Math.log10(rough));
  return [1, 2, 2.5, 5, 10].map((m) => m * power).find((step) => step >= rough * (1 - 1e-9));
}

function linearTicks(low, high, most) {
  const step = roundStep(low, high, most);
  const first = Math.ceil(low / step - 1e-9);
  const length = Math.floor(high / step + 1e-9) - first + 1;
  return Array.from({ length }, (_, i) => (first + i) * step);
}

/* Powers of ten, every few where there are many, with more between where there are few. */
function logTicks(low, high) {
  const first = Math.floor(Math.log10(low));
  const length = Math.ceil(Math.log10(high)) - first + 1;
  const every = Math.ceil(length / 8);
  const powers = Array.from({ length }, (_, i) => first + i).filter((_, i) => i % every === 0);
  const factors = high / low < 10 ? [1, 2, 3, 4, 5, 6, 8] : length <= 4 ? [1, 2, 5] : [1];
  const ticks = powers.flatMap((power) => factors.map((factor) => Number(`${factor}e${power}`)));
  return ticks.filter((tick) => tick >= low && tick <= high);
}

/* Where values low..high are on pixels start..end. */
function axis(low, high, start, end, log = false) {
  const place = log ? Math.log10 : (value) => value;
  const [from, to] = [place(low), place(high)];
  return {
    log,
    at: (value) => start + ((end - start) * (place(value) - from)) / (to - from),
    back: (pixel) => from + ((to - from) * (pixel - start)) / (end - start),
    ticks: (most) => (log ? logTicks(low, high) : linearTicks(low, high, most)),
  };
}

function yAxis(values, log, start, end) {
  let [low, high] = extent(values);
  if (log && logTicks(low, high).length > 1) return axis(low, high, start, end, true);
  if (low >= 0 && low < high / 2) low = 0;
  if (high - low <= 1e-9 * Math.max(Math.abs(low), Math.abs(high))) {
    const around = Math.abs(low) / 2 || 1;
    [low, high] = [low - around, high + around];
  }
  const step = roundStep(low, high);
  low = Math.floor(low / step + 1e-9) * step;
  return axis(low, Math.ceil(high / step - 1e-9) * step, start, end);
}

/* The index of the x nearest to a value; x rises. */
function nearest(x, value) {
  let [low, high] = [0, x.length - 1];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (x[middle] < value) low = middle + 1;
    else high = middle;
  }
  return low > 0 && value - x[low - 1] <= x[low] - value ? low - 1 : low;
}
