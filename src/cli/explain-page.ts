// The report of `octavo explain` as one page: no scripts, nothing loaded. Every number of a chart is in a table as well, for readers
// who do not see the charts; lines differ in dashes and marks, not only in colour; long tables scroll by keyboard.

import type { MethodName } from "../eval/explain-methods.js";
import { escaped } from "./chart-svg.js";
import { columnsText, type ExplainFacts, percent } from "./explain-text.js";
import { bytes, plural } from "./output.js";

/** Okabe and Ito's palette, darker on light ground and lighter on dark; dashes and marks of a line in a chart. */
const LOOKS: Readonly<Record<MethodName, { light: string; dark: string; dash: string; mark: Mark }>> = {
  absmax_tensor: { light: "#a34700", dark: "#ff9d52", dash: "2 3", mark: "square" },
  absmax_row: { light: "#00527f", dark: "#6cc6ff", dash: "8 4", mark: "circle" },
  llm_int8: { light: "#006b4e", dark: "#3fd9a6", dash: "none", mark: "diamond" },
  nf4: { light: "#8a3d6c", dark: "#f0a8d0", dash: "10 3 2 3", mark: "triangle" },
  fp4: { light: "#6b5400", dark: "#f0d25a", dash: "4 2", mark: "cross" },
  o4: { light: "#4b3fa3", dark: "#b3a9ff", dash: "12 3", mark: "peak" },
};
type Mark = "square" | "circle" | "diamond" | "triangle" | "peak" | "cross";

/** A mark about a point, in the colour of its method. */
function mark(name: MethodName, x: number, y: number, r = 4.5): string {
  const at = (dx: number, dy: number): string => `${(x + dx * r).toFixed(1)},${(y + dy * r).toFixed(1)}`;
  const points = (...list: readonly (readonly [number, number])[]): string =>
    `<polygon class="m ${name}" points="${list.map(([dx, dy]) => at(dx, dy)).join(" ")}"/>`;
  switch (LOOKS[name].mark) {
    case "square":
      return points([-0.9, -0.9], [0.9, -0.9], [0.9, 0.9], [-0.9, 0.9]);
    case "diamond":
      return points([0, -1.3], [1.3, 0], [0, 1.3], [-1.3, 0]);
    case "triangle":
      return points([0, -1.2], [1.1, 0.9], [-1.1, 0.9]);
    case "peak":
      return points([0, 1.2], [1.1, -0.9], [-1.1, -0.9]);
    case "cross":
      return `<path class="x ${name}" d="M${at(-1, -1)}L${at(1, 1)}M${at(-1, 1)}L${at(1, -1)}"/>`;
    default:
      return `<circle class="m ${name}" cx="${x.toFixed(1)}" cy="${y.toFixed(1)}" r="${r}"/>`;
  }
}

const label = (x: number, y: number, content: string, anchor = "start"): string =>
  `<text x="${x.toFixed(1)}" y="${y.toFixed(1)}" text-anchor="${anchor}">${escaped(content)}</text>`;

/** A picture with the words that stand for it. */
function picture(id: string, width: number, height: number, title: string, words: string, body: string): string {
  return (
    `<svg viewBox="0 0 ${width} ${height}" role="img" aria-labelledby="${id}-t ${id}-d">` +
    `<title id="${id}-t">${escaped(title)}</title><desc id="${id}-d">${escaped(words)}</desc>${body}</svg>`
  );
}

/** An axis of powers of ten that holds all values above zero. */
interface Axis {
  readonly ticks: readonly number[];
  /** The share of the axis below a value, 0 to 1; values of zero lie at its beginning. */
  at(value: number): number;
}

function logAxis(values: readonly number[]): Axis {
  const known = values.filter((value) => value > 0 && Number.isFinite(value));
  const low = Math.floor(Math.log10(Math.min(...known, 1)));
  const high = Math.max(low + 1, Math.ceil(Math.log10(Math.max(...known, 10 ** (low + 1)))));
  return {
    ticks: Array.from({ length: high - low + 1 }, (_, i) => 10 ** (low + i)),
    at: (value) => (value > 0 ? Math.min(1, Math.max(0, (Math.log10(value) - low) / (high - low))) : 0),
  };
}

const WIDTH = 860;

/** One row for each method, a mark on an axis of powers of ten. */
function divergenceChart({ methods }: ExplainFacts): string {
  const [left, right, row, top] = [170, WIDTH - 90, 34, 12];
  const axis = logAxis(methods.map(({ kl }) => kl));
  const x = (value: number): number => left + axis.at(value) * (right - left);
  const bottom = top + methods.length * row;
  const grid = axis.ticks.map(
    (tick) =>
      `<line class="grid" x1="${x(tick).toFixed(1)}" y1="${top}" x2="${x(tick).toFixed(1)}" y2="${bottom}"/>` +
      label(x(tick), bottom + 18, tick.toExponential(0), "middle"),
  );
  const rows = methods.map(({ name, title, kl }, i) => {
    const y = top + (i + 0.5) * row;
    return (
      label(left - 14, y + 4.5, title, "end") +
      `<line class="thin ${name}" x1="${left}" y1="${y}" x2="${x(kl).toFixed(1)}" y2="${y}"/>` +
      mark(name, x(kl), y, 6) +
      label(x(kl) + 12, y + 4.5, kl.toPrecision(2))
    );
  });
  const words = methods.map(({ title, kl }) => `${title}: ${kl.toPrecision(2)}`).join(", ");
  return picture(
    "kl",
    WIDTH,
    bottom + 28,
    "KL divergence of the logits, in nats, on a scale of powers of ten",
    words,
    [...grid, ...rows].join(""),
  );
}

/** A line for each method over the linears. */
function layerChart({ methods, linears }: ExplainFacts): string {
  const [left, right, top, bottom] = [64, WIDTH - 16, 12, 300];
  const axis = logAxis(linears.flatMap(({ errors }) => Object.values(errors)));
  const y = (value: number): number => bottom - axis.at(value) * (bottom - top);
  const x = (i: number): number => left + ((i + 0.5) * (right - left)) / (linears.length || 1);
  const grid = axis.ticks.map(
    (tick) =>
      `<line class="grid" x1="${left}" y1="${y(tick).toFixed(1)}" x2="${right}" y2="${y(tick).toFixed(1)}"/>` +
      label(left - 8, y(tick) + 4.5, percentOfPower(tick), "end"),
  );
  const lines = methods.map(({ name }) => {
    const points = linears.map(({ errors }, i) => `${x(i).toFixed(1)},${y(errors[name]).toFixed(1)}`);
    const marks = linears.length <= 60 ? linears.map(({ errors }, i) => mark(name, x(i), y(errors[name]), 3)) : [];
    return `<polyline class="line ${name}" points="${points.join(" ")}"/>${marks.join("")}`;
  });
  const words = methods.map(({ title, error }) => `${title}: ${percent(error)} in the root mean square`).join(", ");
  const ends =
    linears.length > 0
      ? [label(left, bottom + 20, linears[0]!.path), label(right, bottom + 40, linears.at(-1)!.path, "end")]
      : [];
  return picture(
    "layers",
    WIDTH,
    bottom + 50,
    "Relative error of each linear's output, first to last",
    words,
    [...grid, ...lines, ...ends].join(""),
  );
}

function percentOfPower(tick: number): string {
  return `${Number((100 * tick).toPrecision(1))} %`;
}

/** A bar for each linear: its outlier columns. */
function outlierChart({ linears }: ExplainFacts): string {
  const [left, right, top, bottom] = [64, WIDTH - 16, 16, 180];
  const most = Math.max(1, ...linears.map(({ outlier_columns }) => outlier_columns));
  const step = (right - left) / (linears.length || 1);
  const bars = linears.map(({ path, outlier_columns: count, largest }, i) => {
    const height = ((bottom - top) * count) / most;
    const title = `<title>${escaped(`${path}: ${plural(count, "outlier column")}, largest input ${largest.toFixed(1)}`)}</title>`;
    return `<rect class="bar" x="${(left + i * step + step * 0.15).toFixed(1)}" y="${(bottom - height).toFixed(1)}" width="${(step * 0.7).toFixed(1)}" height="${height.toFixed(1)}">${title}</rect>`;
  });
  const body = [
    `<line class="grid" x1="${left}" y1="${top}" x2="${right}" y2="${top}"/><line class="axis" x1="${left}" y1="${bottom}" x2="${right}" y2="${bottom}"/>`,
    label(left - 8, top + 4.5, String(most), "end"),
    label(left - 8, bottom + 4.5, "0", "end"),
    ...bars,
  ];
  const some = linears.filter(({ outlier_columns }) => outlier_columns > 0).length;
  const words = `${some} of ${plural(linears.length, "linear")} have outlier columns, at most ${most === 1 && some === 0 ? 0 : most}`;
  return picture("outliers", WIDTH, bottom + 14, "Outlier columns in the inputs of each linear", words, body.join(""));
}

function legend({ methods }: ExplainFacts): string {
  const items = methods.map(
    ({ name, title }) =>
      `<li><svg viewBox="0 0 40 14" width="40" height="14" aria-hidden="true"><line class="line ${name}" x1="1" y1="7" x2="39" y2="7"/>${mark(name, 20, 7, 4)}</svg> ${escaped(title)}</li>`,
  );
  return `<ul class="legend">${items.join("")}</ul>`;
}

/** A table: the first cell of each row names it. */
function dataTable(id: string, caption: string, head: readonly string[], rows: readonly (readonly string[])[]): string {
  const cells = rows.map(
    ([first = "", ...rest]) =>
      `<tr><th scope="row">${escaped(first)}</th>${rest.map((cell) => `<td>${escaped(cell)}</td>`).join("")}</tr>`,
  );
  return (
    `<div class="scroll" role="region" aria-labelledby="${id}" tabindex="0"><table class="${id}"><caption id="${id}">${escaped(caption)}</caption>` +
    `<thead><tr>${head.map((one) => `<th scope="col">${escaped(one)}</th>`).join("")}</tr></thead><tbody>${cells.join("")}</tbody></table></div>`
  );
}

function style(): string {
  const vars = (shade: "light" | "dark"): string =>
    Object.entries(LOOKS)
      .map(([name, look]) => `--${name}:${look[shade]}`)
      .join(";");
  const looks = Object.entries(LOOKS).map(
    ([name, { dash }]) =>
      `.m.${name}{fill:var(--${name})}.x.${name},.thin.${name},.line.${name}{stroke:var(--${name})}.line.${name}{stroke-dasharray:${dash}}`,
  );
  return (
    `:root{color-scheme:light dark;--ground:#fff;--ink:#1a1a1a;--faint:#595959;--rule:#c4c4c4;--bar:#00527f;--focus:#b00057;${vars("light")}}` +
    `@media (prefers-color-scheme:dark){:root{--ground:#161616;--ink:#ececec;--faint:#b0b0b0;--rule:#4d4d4d;--bar:#6cc6ff;--focus:#ff7ab8;${vars("dark")}}}` +
    "body{background:var(--ground);color:var(--ink);font:16px/1.5 system-ui,'DejaVu Sans',sans-serif;max-width:920px;margin:0 auto;padding:24px}" +
    "h1{font-size:1.7rem;line-height:1.2}h2{font-size:1.25rem;margin-top:2.2rem}p,figcaption,.faint{color:var(--faint)}" +
    ".skip{position:absolute;left:-999px}.skip:focus{position:static}:focus-visible{outline:3px solid var(--focus);outline-offset:2px}" +
    "a{color:inherit}figure{margin:1rem 0}svg{max-width:100%;height:auto}svg text{fill:currentColor;font-size:13px}" +
    ".grid{stroke:var(--rule)}.axis{stroke:currentColor}.bar{fill:var(--bar)}.line,.thin,.x{fill:none;stroke-width:2}.thin{stroke-width:1.5}" +
    ".legend{list-style:none;display:flex;flex-wrap:wrap;gap:.3rem 1.4rem;padding:0}.scroll{overflow:auto;max-height:32rem}" +
    "table{border-collapse:collapse;font-size:.88rem;white-space:nowrap}caption{text-align:left;font-weight:600;padding:.4rem 0}" +
    "th,td{padding:.25rem .7rem;border-bottom:1px solid var(--rule);text-align:right}th:first-child,.all td:last-child{text-align:left}" +
    `thead th{position:sticky;top:0;background:var(--ground)}${looks.join("")}`
  );
}

/** The page. */
export function reportPage(facts: ExplainFacts): string {
  const { methods, linears, threshold } = facts;
  const title = `What quantization does to ${facts.model}`;
  const about = `${plural(facts.tokens, "token")} of ${facts.text}; the whole model takes ${bytes(facts.bytes)} in ${facts.dtype}.`;
  const whole = methods.map((one) => [
    one.title,
    bytes(one.bytes),
    percent(one.error),
    percent(one.logits_error),
    one.kl.toPrecision(3),
    percent(one.same_top),
  ]);
  const each = linears.map((one) => [
    one.path,
    `${one.shape[0]} × ${one.shape[1]}`,
    one.largest.toFixed(1),
    `${one.outlier_columns} of ${one.shape[1]}`,
    percent(one.outlier_share),
    ...methods.map(({ name }) => percent(one.errors[name])),
    columnsText(one, 5),
  ]);
  const head = ["linear", "shape", "largest input", "outlier columns", "tokens with outliers"];
  return `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>${escaped(title)}</title>
<style>${style()}</style>
</head>
<body>
<a class="skip" href="#linears">Skip to the table of all linears</a>
<main>
<h1>${escaped(title)}</h1>
<p>${escaped(about)} Errors are those against exact products of the original weights.</p>
<h2>The whole model</h2>
${dataTable("whole", "All linears but the output head quantized", ["quantization", "memory", "error of a linear", "error of the logits", "KL, nats", "same most likely token"], whole)}
<figure>${divergenceChart(facts)}<figcaption>KL(exact || quantized) of the next token, mean over the text. Each step of the scale is ten times the last.</figcaption></figure>
<h2>Linear by linear</h2>
<figure>${legend(facts)}${layerChart(facts)}<figcaption>Relative error of each linear's output, on its exact inputs.</figcaption></figure>
<h2>Outliers</h2>
<figure>${outlierChart(facts)}<figcaption>Columns of the inputs that reach a magnitude of ${threshold} in some token. LLM.int8() multiplies them in floats.</figcaption></figure>
<h2 id="linears" tabindex="-1">All linears</h2>
${dataTable("all", `Inputs of at least ${threshold} are outliers; the last column names the columns with the largest, and the share of tokens`, [...head, ...methods.map((one) => one.title), "largest outlier columns"], each)}
</main>
</body>
</html>
`;
}
