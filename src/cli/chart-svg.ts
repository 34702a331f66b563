// A chart as SVG text: panels of horizontal bars side by side, each bar with its name and number. One file without scripts
// or embedded fonts; all text from outside is escaped.

import { type ChartText, cut, drawable, highestOf, namesOf, type Panel, short } from "./chart.js";

const MARGIN = 28;
const PANEL = { width: 372, gap: 36 };
const ROW = { height: 22, bar: 15 };
/** Heights above and between bars, in px. */
const HEAD = { chart: 74, panel: 52, group: 36 };
const NOTE = 19;
/** Width of the numbers right of the bars; a letter counts as 7 px. */
const NUMBERS = 62;
const LETTER = 7;
const LONGEST_NAME = 24;
/** Okabe and Ito's palette, safe for colour-blind readers. */
export const COLOURS: readonly string[] = [
  "#0072b2",
  "#d55e00",
  "#009e73",
  "#cc79a7",
  "#56b4e9",
  "#e69f00",
  "#5c4b8a",
  "#999999",
  "#3b3b3b",
  "#8b5a2b",
];

const DARK =
  "@media (prefers-color-scheme:dark){text{fill:#e6e6e6}.group{fill:#c4c4c4}.note{fill:#a8a8a8}.axis{stroke:#666}rect.ground{fill:#16181c}}";

/** Text from outside for SVG and HTML, without control characters. */
export function escaped(text: string): string {
  const plain = text.replace(/\p{Cc}/gu, " ");
  return plain.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;").replaceAll('"', "&quot;");
}

/** A line of text in a class of the document's style. */
export function text(x: number, y: number, kind: string, content: string, more = ""): string {
  return `<text x="${x.toFixed(1)}" y="${y.toFixed(1)}" class="${kind}"${more}>${escaped(content)}</text>`;
}

function panelHeight({ groups }: Panel): number {
  return HEAD.panel + groups.reduce((sum, { bars }) => sum + HEAD.group + bars.length * ROW.height, 0);
}

function drawPanel(panel: Panel, x: number, y: number, names: readonly string[]): string[] {
  const out = [
    text(x, y + 16, "panel", `${panel.title}, ${panel.unit}`),
    text(x, y + 34, "note", `${panel.better} is better`),
  ];
  const widest = Math.min(LONGEST_NAME, Math.max(0, ...names.map((name) => name.length)));
  const left = x + widest * LETTER + 12;
  const room = x + PANEL.width - NUMBERS - left;
  const most = highestOf(panel);
  let at = y + HEAD.panel;
  for (const { label, bars } of panel.groups) {
    out.push(text(x, at + 24, "group", label));
    at += HEAD.group;
    const height = bars.length * ROW.height;
    out.push(
      `<line x1="${left.toFixed(1)}" y1="${at - 2}" x2="${left.toFixed(1)}" y2="${at + height - 2}" class="axis"/>`,
    );
    for (const { name, value } of bars) {
      const middle = at + ROW.bar / 2;
      const width = drawable(value) && most > 0 ? Math.max(1, (room * value) / most) : 0;
      const colour = COLOURS[names.indexOf(name) % COLOURS.length]!;
      out.push(text(left - 8, middle + 4.5, "name", cut(name, LONGEST_NAME)));
      out.push(
        `<rect x="${left.toFixed(1)}" y="${at}" width="${width.toFixed(1)}" height="${ROW.bar}" rx="1.5" fill="${colour}"/>`,
        text(left + width + 6, middle + 4.5, "number", drawable(value) ? short(value) : "–"),
      );
      at += ROW.height;
    }
  }
  return out;
}

/** The chart as one SVG document. Panels without groups are left out. */
export function svgChart(panels: readonly Panel[], { title, notes, dark }: ChartText): string {
  const shown = panels.filter(({ groups }) => groups.length > 0);
  const names = namesOf(shown);
  const columns = Math.max(2, shown.length); // notes need the width of two
  const width = 2 * MARGIN + columns * PANEL.width + (columns - 1) * PANEL.gap;
  const bottom = HEAD.chart + Math.max(40, ...shown.map(panelHeight));
  const height = bottom + 24 + notes.length * NOTE + MARGIN / 2;
  const lines = [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" width="${width}" height="${height}" role="img" aria-label="${escaped(title)}">`,
    "<style>text{font-family:system-ui,'DejaVu Sans',sans-serif;fill:#222}.title{font-size:22px;font-weight:600}" +
      ".panel{font-size:16px;font-weight:600}.group{font-size:13px;font-weight:600;fill:#444}.note{font-size:12px;fill:#666}" +
      ".name{font-size:12px;text-anchor:end}.number{font-size:12px}.axis{stroke:#bbb}" +
      `${dark ? DARK : ""}</style>`,
    `<rect width="${width}" height="${height}" class="ground" fill="#fff"/>`,
    text(MARGIN, 44, "title", title),
    ...shown.flatMap((panel, i) => drawPanel(panel, MARGIN + i * (PANEL.width + PANEL.gap), HEAD.chart, names)),
    ...(shown.length === 0 ? [text(MARGIN, HEAD.chart + 16, "note", "nothing was measured")] : []),
    ...notes.map((note, i) => text(MARGIN, bottom + 24 + i * NOTE, "note", note)),
    "</svg>",
  ];
  return `${lines.join("\n")}\n`;
}
