// The contents of a chart; chart-svg.ts draws it for files, chart-text.ts for terminals.

/** One quantity, measured for the same things at several points. */
export interface Panel {
  readonly title: string;
  /** "tokens/s". */
  readonly unit: string;
  readonly better: "more" | "less";
  readonly groups: readonly { readonly label: string; readonly bars: readonly Bar[] }[];
}

/** A bar without a finite number is drawn as a dash. */
export interface Bar {
  readonly name: string;
  readonly value: number | undefined;
}

export interface ChartText {
  readonly title: string;
  /** Lines under the charts: the machine, its limits. */
  readonly notes: readonly string[];
  /** Whether the chart follows the reader's choice of dark pages; otherwise it is always light. */
  readonly dark?: boolean;
}

/** True for a number that a bar can show. */
export function drawable(value: number | undefined): value is number {
  return value !== undefined && Number.isFinite(value) && value >= 0;
}

/** Three digits, without exponents. */
export function short(value: number): string {
  if (value >= 99.95) return Math.round(value).toLocaleString("en-US");
  return value >= 9.995 ? value.toFixed(1) : value.toFixed(2);
}

/** At most `letters` letters. */
export function cut(name: string, letters: number): string {
  return name.length > letters ? `${name.slice(0, letters - 1)}…` : name;
}

/** Names in the order in which they first appear. */
export function namesOf(panels: readonly Panel[]): string[] {
  return [...new Set(panels.flatMap(({ groups }) => groups.flatMap(({ bars }) => bars.map(({ name }) => name))))];
}

/** The largest number of a panel, or 0. */
export function highestOf({ groups }: Panel): number {
  const values = groups.flatMap(({ bars }) => bars.map(({ value }) => value)).filter(drawable);
  return values.reduce((most, value) => Math.max(most, value), 0);
}
