// A chart for a terminal: bars of block characters in eighths, up to the width of the terminal.

import { cut, drawable, highestOf, namesOf, type Panel, short } from "./chart.js";

export interface TextChartOptions {
  /** Columns of the terminal. */
  readonly width: number;
  readonly colour: boolean;
}

const EIGHTHS = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];
/** Cyan, yellow, green, magenta, blue, red, and their bright forms. */
const COLOURS = [36, 33, 32, 35, 34, 31, 96, 93, 92, 95];
/** Minimal width of bars; names are cut first. */
const LEAST_BAR = 8;

/** Columns of a stream: the terminal's, else COLUMNS, else 80. */
export function columnsOf(stream: { readonly columns?: number }, env: NodeJS.ProcessEnv): number {
  const said = Number(env.COLUMNS);
  return stream.columns ?? (Number.isSafeInteger(said) && said > 0 ? said : 80);
}

function bar(share: number, width: number): string {
  const eighths = Math.max(1, Math.round(share * width * 8));
  return "█".repeat(Math.floor(eighths / 8)) + EIGHTHS[eighths % 8]!;
}

/** The panels one below the other; no line is wider than `width`, which is at least 24. */
export function textChart(panels: readonly Panel[], { width, colour }: TextChartOptions): string {
  const shown = panels.filter(({ groups }) => groups.length > 0);
  const names = namesOf(shown);
  const numbers = (panel: Panel): string[] =>
    panel.groups.flatMap(({ bars }) => bars.map(({ value }) => (drawable(value) ? short(value) : "–")));
  const digits = Math.max(0, ...shown.flatMap(numbers).map((number) => number.length));
  const space = Math.max(24, width) - digits - 5; // two before the name, one on each side of the bar, one spare
  const widest = Math.max(0, ...names.map((name) => name.length));
  const label = Math.max(1, Math.min(widest, space - LEAST_BAR));
  const room = space - label;
  const out: string[] = [];
  for (const panel of shown) {
    const most = highestOf(panel);
    out.push("", `${panel.title}, ${panel.unit} (${panel.better} is better)`);
    for (const { label: group, bars } of panel.groups) {
      out.push(` ${group}`);
      for (const { name, value } of bars) {
        const blocks = drawable(value) && most > 0 ? bar(value / most, room) : "";
        const painted =
          colour && blocks ? `\x1b[${COLOURS[names.indexOf(name) % COLOURS.length]}m${blocks}\x1b[0m` : blocks;
        out.push(`  ${cut(name, label).padEnd(label)} ${painted} ${drawable(value) ? short(value) : "–"}`);
      }
    }
  }
  return `${out.join("\n")}\n`;
}
