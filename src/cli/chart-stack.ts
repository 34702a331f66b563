// Bars of several parts, each up to a limit of its own: what lies on each device. For terminals, and as SVG.

import { cut, drawable } from "./chart.js";
import { escaped } from "./chart-svg.js";

/** One bar. */
export interface Stack {
  readonly name: string;
  /** Where the bar ends; by default where its parts end. */
  readonly most: number | undefined;
  readonly parts: readonly (readonly [name: string, value: number])[];
  /** Written behind it. */
  readonly text: string;
}

/** Letters and colours of the parts, in their order: shades that can be told apart without colour. */
const BLOCKS = ["█", "▓", "▒", "░"];
const COLOURS = [36, 33, 35, 32];
const FILLS = ["#0072b2", "#e69f00", "#cc79a7", "#009e73"];
const FREE = "·";
const LONGEST_NAME = 24;

/** The largest limit or sum: all bars have one scale. */
function scaleOf(stacks: readonly Stack[]): number {
  return stacks.reduce((most, stack) => Math.max(most, lengthOf(stack)), 0);
}

function lengthOf({ most, parts }: Stack): number {
  return Math.max(drawable(most) ? most : 0, sumOf(parts));
}

function sumOf(parts: Stack["parts"]): number {
  return parts.reduce((sum, [, value]) => sum + value, 0);
}

/** Names of the parts that any bar has, with their places in the lists above. */
function partsOf(stacks: readonly Stack[]): (readonly [name: string, index: number])[] {
  const names = stacks[0]?.parts.map(([name]) => name) ?? [];
  return names
    .map((name, i) => [name, i] as const)
    .filter(([, i]) => stacks.some(({ parts }) => (parts[i]?.[1] ?? 0) > 0));
}

/** The bars one below the other, and what their shades mean; no line is wider than `width`, which is at least 40. */
export function textStack(
  stacks: readonly Stack[],
  { width, colour }: { readonly width: number; readonly colour: boolean },
): string {
  const scale = scaleOf(stacks);
  const label = Math.min(LONGEST_NAME, Math.max(0, ...stacks.map(({ name }) => name.length)));
  const behind = Math.max(0, ...stacks.map(({ text }) => text.length));
  const room = Math.max(8, Math.max(40, width) - label - behind - 4);
  const painted = (blocks: string, i: number): string =>
    colour && blocks ? `\x1b[${COLOURS[i % COLOURS.length]}m${blocks}\x1b[0m` : blocks;
  const lines = stacks.map((stack) => {
    const columns = (value: number): number => (scale === 0 ? 0 : Math.round((room * value) / scale));
    let at = 0;
    let sum = 0;
    let bar = "";
    for (const [i, [, value]] of stack.parts.entries()) {
      sum += value;
      // What is there is seen, however small.
      const end = Math.max(columns(sum), value > 0 ? at + 1 : at);
      bar += painted(BLOCKS[i % BLOCKS.length]!.repeat(end - at), i);
      at = end;
    }
    const free = Math.max(0, columns(lengthOf(stack)) - at);
    const rest = " ".repeat(Math.max(0, room - at - free));
    return ` ${cut(stack.name, label).padEnd(label)} ${bar}${FREE.repeat(free)}${rest} ${stack.text}`.trimEnd();
  });
  const legend = partsOf(stacks).map(([name, i]) => `${painted(BLOCKS[i % BLOCKS.length]!, i)} ${name}`);
  return `${[...lines, ` ${[...legend, `${FREE} free`].join("  ")}`].join("\n")}\n`;
}

const PLACE = { margin: 28, row: 34, bar: 20, width: 640, name: 190, text: 190 };

function text(x: number, y: number, kind: string, content: string): string {
  return `<text x="${x.toFixed(1)}" y="${y.toFixed(1)}" class="${kind}">${escaped(content)}</text>`;
}

/** The bars as one SVG document, without scripts or fonts; all text from outside is escaped. */
export function svgStack(
  stacks: readonly Stack[],
  { title, notes }: { readonly title: string; readonly notes: readonly string[] },
): string {
  const { margin, row, bar, width, name, text: behind } = PLACE;
  const scale = scaleOf(stacks);
  const left = margin + name;
  const all = left + width + behind + margin;
  const top = 70;
  const bottom = top + stacks.length * row;
  const height = bottom + 50 + notes.length * 19;
  const out: string[] = [];
  for (const [r, stack] of stacks.entries()) {
    const y = top + r * row;
    const px = (value: number): number => (scale === 0 ? 0 : (width * value) / scale);
    out.push(
      text(left - 8, y + 14.5, "name", cut(stack.name, LONGEST_NAME)),
      `<rect x="${left}" y="${y}" width="${px(lengthOf(stack)).toFixed(1)}" height="${bar}" fill="#eee" stroke="#bbb"/>`,
    );
    let x = left;
    for (const [i, [, value]] of stack.parts.entries()) {
      if (value <= 0) continue;
      out.push(
        `<rect x="${x.toFixed(1)}" y="${y}" width="${px(value).toFixed(1)}" height="${bar}" fill="${FILLS[i % FILLS.length]}"/>`,
      );
      x += px(value);
    }
    out.push(text(left + px(lengthOf(stack)) + 8, y + 14.5, "number", stack.text));
  }
  let x = left;
  for (const [part, i] of partsOf(stacks)) {
    out.push(
      `<rect x="${x}" y="${bottom + 4}" width="12" height="12" fill="${FILLS[i % FILLS.length]}"/>`,
      text(x + 18, bottom + 14.5, "note", part),
    );
    x += 110;
  }
  const lines = [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${all} ${height}" width="${all}" height="${height}" role="img" aria-label="${escaped(title)}">`,
    "<style>text{font-family:system-ui,'DejaVu Sans',sans-serif;fill:#222}.title{font-size:22px;font-weight:600}" +
      ".note{font-size:12px;fill:#666}.name{font-size:12px;text-anchor:end}.number{font-size:12px}</style>",
    `<rect width="${all}" height="${height}" fill="#fff"/>`,
    text(margin, 44, "title", title),
    ...out,
    ...notes.map((note, i) => text(margin, bottom + 44 + i * 19, "note", note)),
    "</svg>",
  ];
  return `${lines.join("\n")}\n`;
}
