// Curves over the steps of a training run as SVG text. One file without scripts or fonts; all text from outside is escaped.

import { short } from "./chart.js";
import { COLOURS, escaped, text } from "./chart-svg.js";

/** Numbers at steps, in their order. */
export interface Curve {
  readonly name: string;
  readonly points: readonly { readonly step: number; readonly value: number }[];
}

const SIZE = { width: 760, height: 420 };
const EDGE = { left: 70, right: 28, top: 76, bottom: 64 };
/** About as many lines across the picture. */
const LINES = 5;

/** Round distances of about `span / LINES`. */
function stepOf(span: number): number {
  const rough = span / LINES;
  const power = 10 ** Math.floor(Math.log10(rough));
  return power * ([1, 2, 5, 10].find((one) => one * power >= rough) ?? 10);
}

function ticks(from: number, to: number): number[] {
  const step = stepOf(to - from);
  const first = Math.ceil(from / step - 1e-9);
  const count = Math.floor(to / step + 1e-9) - first + 1;
  return Array.from({ length: count }, (_, i) => (first + i) * step);
}

/** The range of some numbers, never empty. */
function rangeOf(values: readonly number[]): readonly [from: number, to: number] {
  // A long run has more points than a call may have arguments.
  const [least, most] = values.reduce(([low, high], value) => [Math.min(low, value), Math.max(high, value)], [
    Number.POSITIVE_INFINITY,
    Number.NEGATIVE_INFINITY,
  ] as readonly [number, number]);
  return least < most ? [least, most] : [least - 0.5, most + 0.5];
}

/** The picture of some curves, each with its name; numbers that are none are left out. */
export function svgCurves(
  curves: readonly Curve[],
  { title, notes }: { title: string; notes: readonly string[] },
): string {
  const shown = curves
    .map(({ name, points }) => ({ name, points: points.filter(({ value }) => Number.isFinite(value)) }))
    .filter(({ points }) => points.length > 0);
  const { width } = SIZE;
  const height = SIZE.height + notes.length * 19;
  const out: string[] = [];
  if (shown.length > 0) {
    const all = shown.flatMap(({ points }) => points);
    const [x0, x1] = rangeOf(all.map(({ step }) => step));
    const [y0, y1] = rangeOf(all.map(({ value }) => value));
    const x = (step: number): number => EDGE.left + ((width - EDGE.left - EDGE.right) * (step - x0)) / (x1 - x0);
    const y = (value: number): number =>
      SIZE.height - EDGE.bottom - ((SIZE.height - EDGE.top - EDGE.bottom) * (value - y0)) / (y1 - y0);
    for (const value of ticks(y0, y1)) {
      out.push(
        `<line x1="${EDGE.left}" y1="${y(value).toFixed(1)}" x2="${width - EDGE.right}" y2="${y(value).toFixed(1)}" class="grid"/>`,
        text(EDGE.left - 8, y(value) + 4, "name", short(value)),
      );
    }
    for (const step of ticks(x0, x1).filter(Number.isInteger)) {
      out.push(text(x(step), SIZE.height - EDGE.bottom + 20, "tick", step.toLocaleString("en-US")));
    }
    out.push(text((width + EDGE.left - EDGE.right) / 2, SIZE.height - EDGE.bottom + 40, "tick", "step"));
    let legend = EDGE.left;
    for (const [i, { name, points }] of shown.entries()) {
      const colour = COLOURS[i % COLOURS.length]!;
      const path = points.map(({ step, value }) => `${x(step).toFixed(1)},${y(value).toFixed(1)}`).join(" ");
      out.push(`<polyline points="${path}" fill="none" stroke="${colour}" stroke-width="2" stroke-linejoin="round"/>`);
      // Few points are seen one by one.
      for (const { step, value } of points.length <= 40 ? points : []) {
        out.push(`<circle cx="${x(step).toFixed(1)}" cy="${y(value).toFixed(1)}" r="2.6" fill="${colour}"/>`);
      }
      const label = `${name} ${short(points.at(-1)!.value)}`;
      out.push(
        `<rect x="${legend}" y="54" width="14" height="4" fill="${colour}"/>`,
        text(legend + 20, 60, "number", label),
      );
      legend += 36 + label.length * 7;
    }
  } else out.push(text(EDGE.left, EDGE.top, "note", "nothing was logged"));
  const lines = [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" width="${width}" height="${height}" role="img" aria-label="${escaped(title)}">`,
    "<style>text{font-family:system-ui,'DejaVu Sans',sans-serif;fill:#222}.title{font-size:22px;font-weight:600}" +
      ".note{font-size:12px;fill:#666}.name{font-size:12px;text-anchor:end}.tick{font-size:12px;text-anchor:middle}" +
      ".number{font-size:12px}.grid{stroke:#ddd}</style>",
    `<rect width="${width}" height="${height}" fill="#fff"/>`,
    text(EDGE.left, 36, "title", title),
    ...out,
    ...notes.map((note, i) => text(EDGE.left, SIZE.height - 2 + i * 19, "note", note)),
    "</svg>",
  ];
  return `${lines.join("\n")}\n`;
}
