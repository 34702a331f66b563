// A row of small bars for a terminal: how a number has changed.

const BARS = "▁▂▃▄▅▆▇█";

/** The last numbers as bars between the least and the largest of them; at most `width` of them. */
export function sparkline(values: readonly number[], width: number): string {
  const shown = values.slice(-width).filter(Number.isFinite);
  const least = Math.min(...shown);
  const range = Math.max(...shown) - least;
  return shown.map((value) => BARS[range > 0 ? Math.round((7 * (value - least)) / range) : 0]).join("");
}
