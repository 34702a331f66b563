// From measurements to text: medians, the table of tokens per second, and the ratios that the comparison is about.

import { CASES, RATIOS, tokenBytes } from "./shapes.mjs";

/** @param {readonly number[]} values */
export function median(values) {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}

/**
 * @typedef {object} Result One variant over all rounds.
 * @property {string} name
 * @property {string} [info]
 * @property {string} [error]
 * @property {Record<string, number[]>} samples Tokens per second by case.
 * @property {number[]} load_ms
 * @property {number} peak_rss Bytes.
 * @property {number} [peak_rss_loaded] The same when loading had ended.
 */

/** Medians by case. @param {Result} result @returns {Record<string, number>} */
export const medians = ({ samples }) =>
  Object.fromEntries(Object.entries(samples).map(([name, values]) => [name, median(values)]));

/** @param {number | undefined} value */
const rate = (value) => (value === undefined ? "-" : value >= 100 ? value.toFixed(0) : value.toFixed(1));

/** @param {string[][]} rows The first is the header; the first column is flushed left. */
function align(rows) {
  const widths = rows[0].map((_, column) => Math.max(...rows.map((row) => row[column].length)));
  const line = (row) => row.map((cell, i) => (i ? cell.padStart(widths[i]) : cell.padEnd(widths[i]))).join("  ");
  return [line(rows[0]), widths.map((w) => "-".repeat(w)).join("  "), ...rows.slice(1).map(line)].join("\n");
}

/**
 * The table of speeds. The column GB/s is what decoding reads of the weights per second, with the share of the limit.
 * @param {Result[]} results @param {import("./shapes.mjs").Shape} shape @param {number | undefined} limit GB/s
 * @returns {string}
 */
export function speeds(results, shape, limit) {
  const done = results.filter(({ error }) => error === undefined);
  const cases = Object.keys(CASES).filter((name) => done.some(({ samples }) => samples[name]));
  const rows = [["tokens/s", ...cases.map((name) => CASES[name]), "decode GB/s", "spread", "load s", "peak MiB"]];
  for (const result of done) {
    const middle = medians(result);
    rows.push([
      result.name,
      ...cases.map((name) => rate(middle[name])),
      bandwidth(tokenBytes(shape, result.name), middle.decode, limit),
      `±${(100 * spreadOf(result)).toFixed(0)}%`,
      (median(result.load_ms) / 1000).toFixed(2),
      (result.peak_rss / 2 ** 20).toFixed(0),
    ]);
  }
  const failed = results.filter(({ error }) => error !== undefined).map(({ name, error }) => `${name}: ${error}`);
  return [align(rows), ...failed].join("\n");
}

/** @param {number | undefined} bytes @param {number | undefined} rate @param {number | undefined} limit */
function bandwidth(bytes, rate, limit) {
  if (bytes === undefined || rate === undefined) return "-";
  const used = (bytes * rate) / 1e9;
  return `${used.toFixed(1)}${limit ? ` (${((100 * used) / limit).toFixed(0)}%)` : ""}`;
}

/** Half the range of the samples over their median, the median of the cases. @param {Result} result */
function spreadOf({ samples }) {
  const spreads = Object.values(samples).map((v) => (Math.max(...v) - Math.min(...v)) / 2 / median(v));
  return spreads.length ? median(spreads) : 0;
}

/**
 * Ratios of medians, with what was to be reached.
 * @param {Result[]} results @param {boolean} targets Whether the targets are for this shape.
 */
export function ratios(results, targets) {
  const byName = new Map(results.filter(({ error }) => error === undefined).map((r) => [r.name, medians(r)]));
  const list = [];
  for (const [ours, theirs, wanted] of RATIOS) {
    const [a, b] = [byName.get(ours), byName.get(theirs)];
    if (!a || !b) continue;
    const cases = Object.keys(CASES).filter((name) => a[name] !== undefined && b[name] !== undefined);
    list.push({
      ours,
      theirs,
      ratios: Object.fromEntries(cases.map((name) => [name, a[name] / b[name]])),
      targets: targets ? wanted : {},
    });
  }
  return list;
}

/** @param {ReturnType<typeof ratios>} list */
export function ratioTable(list) {
  if (list.length === 0) return "";
  const cases = Object.keys(CASES).filter((name) => list.some((entry) => entry.ratios[name] !== undefined));
  const rows = [["ratio", ...cases.map((name) => CASES[name])]];
  for (const { ours, theirs, ratios: values, targets } of list) {
    const cell = (name) => {
      const value = values[name];
      if (value === undefined) return "-";
      const wanted = targets[name];
      return `${value.toFixed(2)}×${wanted === undefined ? "" : ` (${value >= wanted ? "≥" : "<"} ${wanted})`}`;
    };
    rows.push([`${ours} / ${theirs}`, ...cases.map(cell)]);
  }
  return align(rows);
}
