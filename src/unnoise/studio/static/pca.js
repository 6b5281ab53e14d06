/* The plane of the two first principal components of some vectors, by their inner products: there
   are few vectors of many numbers. Of whole numbers these products are exact. */

const DIRECTIONS = 8;
const MOST_TURNS = 2000;
const PRECISION = 1e-11;

const dot = (a, b) => a.reduce((sum, value, i) => sum + value * b[i], 0);

/* {points: [[x, y] of each row], shares: the two shares of the variance}. The signs are those that
   make the point that is farthest out positive. */
export function plane(rows) {
  const g = centred(rows);
  const { values, vectors } = leading(g);
  let total = 0;
  for (let i = 0; i < rows.length; i++) total += g[i][i];
  const axes = [0, 1].map((k) => {
    const root = Math.sqrt(Math.max(0, values[k] ?? 0));
    const along = Array.from(rows, (_, i) => root * (vectors[k]?.[i] ?? 0));
    const far = along.reduce((best, one) => (Math.abs(one) > Math.abs(best) ? one : best), 0);
    return far < 0 ? along.map((one) => -one) : along;
  });
  return {
    points: axes[0].map((x, i) => [x, axes[1][i]]),
    shares: [0, 1].map((k) => (total ? Math.max(0, values[k] ?? 0) / total : 0)),
  };
}

/* The inner products of the rows less their mean. */
function centred(rows) {
  const n = rows.length;
  const g = rows.map(() => new Float64Array(n));
  for (let i = 0; i < n; i++) {
    for (let j = 0; j <= i; j++) {
      const [a, b] = [rows[i], rows[j]];
      let sum = 0;
      for (let k = 0; k < a.length; k++) sum += a[k] * b[k];
      g[i][j] = g[j][i] = sum;
    }
  }
  const means = g.map((row) => row.reduce((sum, one) => sum + one, 0) / n);
  const mean = means.reduce((sum, one) => sum + one, 0) / n;
  for (let i = 0; i < n; i++) for (let j = 0; j < n; j++) g[i][j] += mean - means[i] - means[j];
  return g;
}

/* The two largest eigenvalues of a symmetric matrix without negative ones, with their vectors:
   subspace iteration, until both are exact. */
function leading(g) {
  const n = g.length;
  const many = Math.min(n, DIRECTIONS);
  let basis = orthonormal(
    Array.from({ length: many }, (_, k) => Float64Array.from(g, (_, i) => Math.sin(1 + i * (k + 1) + k))),
  );
  for (let turn = 0; ; turn++) {
    const images = basis.map((v) => Float64Array.from(g, (row) => dot(row, v)));
    const small = basis.map((v) => images.map((w) => dot(v, w)));
    const { values, vectors } = jacobi(small);
    const mixed = (some) =>
      vectors.map((q) => Float64Array.from(g, (_, i) => q.reduce((sum, one, k) => sum + one * some[k][i], 0)));
    const [ritz, next] = [mixed(basis), mixed(images)];
    const wrong = [0, 1].map((k) => (k < many ? Math.hypot(...next[k].map((x, i) => x - values[k] * ritz[k][i])) : 0));
    if (Math.max(...wrong) <= PRECISION * (values[0] || 1) || turn === MOST_TURNS) {
      return { values, vectors: ritz };
    }
    basis = orthonormal(next);
  }
}

/* Gram and Schmidt, twice; a vector that depends on the others becomes zero. */
function orthonormal(some) {
  const found = [];
  for (const one of some) {
    const v = Float64Array.from(one);
    const before = Math.sqrt(dot(v, v));
    for (let twice = 0; twice < 2; twice++) {
      for (const u of found) {
        const along = dot(u, v);
        for (let i = 0; i < v.length; i++) v[i] -= along * u[i];
      }
    }
    const size = Math.sqrt(dot(v, v));
    found.push(v.map((value) => (size > 1e-13 * before ? value / size : 0)));
  }
  return found;
}

/* All eigenvalues of a small symmetric matrix, largest first, with their vectors (Jacobi). */
function jacobi(matrix) {
  const n = matrix.length;
  const a = matrix.map((row) => [...row]);
  const v = a.map((_, i) => a.map((_, j) => Number(i === j)));
  for (let sweep = 0; sweep < 60; sweep++) {
    let off = 0;
    for (let p = 0; p < n; p++) for (let q = 0; q < p; q++) off += a[p][q] ** 2;
    if (off < 1e-30 * dot(a.map((row, i) => row[i]), a.map((row, i) => row[i]))) break;
    for (let p = 0; p < n; p++) for (let q = 0; q < p; q++) rotate(a, v, p, q);
  }
  const order = a.map((row, i) => i).sort((i, j) => a[j][j] - a[i][i]);
  return { values: order.map((i) => a[i][i]), vectors: order.map((i) => v.map((row) => row[i])) };
}

/* Turn the plane of p and q so that a[p][q] becomes 0. */
function rotate(a, v, p, q) {
  if (a[p][q] === 0) return;
  const ratio = (a[q][q] - a[p][p]) / (2 * a[p][q]);
  const t = (ratio < 0 ? -1 : 1) / (Math.abs(ratio) + Math.hypot(ratio, 1));
  const c = 1 / Math.hypot(t, 1);
  const s = c * t;
  const turn = (row, i, j) => ([row[i], row[j]] = [c * row[i] - s * row[j], s * row[i] + c * row[j]]);
  for (const row of a) turn(row, p, q);
  for (let k = 0; k < a.length; k++) [a[p][k], a[q][k]] = [c * a[p][k] - s * a[q][k], s * a[p][k] + c * a[q][k]];
  for (const row of v) turn(row, p, q);
}
