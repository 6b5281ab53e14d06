/* Values as text. */

export function text(value) {
  if (value === null || value === undefined) return "none";
  if (Array.isArray(value)) return `[${value.map(text).join(", ")}]`;
  return typeof value === "object" ? JSON.stringify(value) : String(value);
}

/* A number of a few significant digits, without needless zeros. */
export function number(value, digits = 4) {
  if (typeof value !== "number") return "unknown";
  const size = Math.abs(value);
  if (size >= 1e6 || (size < 1e-4 && size > 0)) {
    const short = value.toExponential(digits - 1);
    return short.replace(/\.?0+e/, "e").replace("e+", "e");
  }
  return String(Number(value.toPrecision(digits)));
}

export const count = (value) =>
  typeof value === "number" ? Math.round(value).toLocaleString("en-US") : "unknown";
export const images = (nimg) => `${count(nimg)} images`;

export function duration(sec) {
  if (typeof sec !== "number") return "unknown";
  const [hours, minutes, rest] = [sec / 3600, (sec / 60) % 60, sec % 60].map(Math.floor);
  const two = (value) => String(value).padStart(2, "0");
  if (hours) return `${hours}h ${two(minutes)}m`;
  return minutes ? `${minutes}m ${two(rest)}s` : `${rest}s`;
}

export function bytes(size) {
  const unit = Math.min(3, Math.floor(Math.log10(Math.max(size, 1)) / 3));
  return `${number(size / 1000 ** unit, 3)} ${["B", "kB", "MB", "GB"][unit]}`;
}
