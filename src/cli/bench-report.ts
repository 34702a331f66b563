// The tables and the contents of the charts of `octavo bench`.

import type { ModelSpeed } from "../eval/bench.js";
import type { KernelSpeed } from "../eval/kernels.js";
import { CACHED, type MachineLimits, type Share } from "../eval/machine.js";
import type { ChartText, Panel } from "./chart.js";
import { bytes, table } from "./output.js";

/** The measurements of one storage. */
export interface VariantReport extends ModelSpeed {
  readonly storage: string;
  readonly weight_bytes: number;
  /** Dtype of keys and values: "float32", "bfloat16" or "int8". */
  readonly kv_cache: string;
  /** Times of loading, if a checkpoint was loaded. */
  readonly load?: { readonly load_s: number; readonly load_gb_per_s: number; readonly load_peak_rss: number };
  readonly peak_rss: number;
}

type DecodePoint = ModelSpeed["decode"][number];
type PrefillPoint = ModelSpeed["prefill"][number];

/** A limit whose measurements differ by more than this is shown as a range. */
const SPREAD = 0.1;

function ofMemory(point: DecodePoint): string {
  const { ms, bandwidth, read, read_least } = point;
  if (bandwidth * ms * 1e6 < CACHED) return "in cache"; // not read from memory, so no share of its bandwidth
  return read > 0 ? `${percent(point)} of ${range(read_least, read)}` : "";
}

function ofUnit(point: PrefillPoint): string {
  const { unit, peak, peak_least } = point;
  return peak > 0 ? `${percent(point)} of ${unit}'s ${range(peak_least, peak)}` : "";
}

/** "86 %", or why it is more than there is. */
export function percent({ share, noisy }: Pick<Share, "share" | "noisy">): string {
  return share === null ? (noisy ? "noisy" : "in cache") : `${(100 * share).toFixed(0)} %`;
}

/** "9.9", or "8.1-9.9" where measurements differ. */
export function range(least: number, most: number): string {
  return least < (1 - SPREAD) * most ? `${few(least)}-${few(most)}` : few(most);
}

export const NOISY = "noisy: faster than the limit measured around it, so the machine was busy then; measure again";

/** What was noisy, each by its storage and point. */
function noisyPoints(reports: readonly VariantReport[]): string[] {
  return reports.flatMap(({ storage, decode, prefill }) => [
    ...decode.filter(({ noisy }) => noisy).map(({ context }) => `${storage} decode, context ${context}`),
    ...prefill.filter(({ noisy }) => noisy).map(({ tokens }) => `${storage} prefill ${tokens}`),
  ]);
}

/** GB/s or GOP/s: software adapters have little of them. */
function few(value: number): string {
  return value.toFixed(value < 1 ? 3 : value < 100 ? 1 : 0);
}

/** The limits of a machine in one line. */
export function limitsLine({ read, copy, f32, int8, bf16, f16 }: MachineLimits): string {
  const units = [`reads ${few(read)} GB/s`];
  if (copy > 0) units.push(`copies ${few(copy)} GB/s`);
  units.push(`f32 ${f32.toFixed(0)} GFLOP/s`, `int8 ${int8.toFixed(0)} GOP/s`);
  if (bf16 > 0) units.push(`bf16 ${bf16.toFixed(0)} GFLOP/s`);
  if (f16 > 0) units.push(`f16 ${f16.toFixed(0)} GFLOP/s`);
  return units.join(", ");
}

/** One column per storage; rows as in the announcement of LLM.int8(): milliseconds per token at batch 1, 8 and 32. */
export function benchTable(
  title: string,
  { machine, limits }: { machine: string; limits: MachineLimits },
  reports: readonly VariantReport[],
): string {
  const line = (name: string, cell: (report: VariantReport) => string): string[] => [name, ...reports.map(cell)];
  const rows = [
    line(title, ({ storage }) => storage),
    line("weights", ({ weight_bytes }) => bytes(weight_bytes)),
    line("keys and values", ({ kv_cache }) => kv_cache),
  ];
  if (reports.some(({ load }) => load !== undefined)) {
    rows.push(
      line("load time", ({ load }) => (load ? `${load.load_s.toFixed(2)} s` : "")),
      line("  GB/s of checkpoint", ({ load }) => (load ? load.load_gb_per_s.toFixed(2) : "")),
      line("  peak memory", ({ load }) => (load ? bytes(load.load_peak_rss) : "")),
    );
  }
  for (const [i, { batch, context }] of reports[0]!.decode.entries()) {
    const where = context > 0 ? `context ${context}` : `batch ${batch}`;
    rows.push(
      line(`decode, ${where}: ms/token`, (r) => (r.decode[i]!.ms / batch).toFixed(2)),
      line("  tokens/s", (r) => ((1000 * batch) / r.decode[i]!.ms).toFixed(1)),
    );
    if (batch === 1) {
      rows.push(
        line("  GB/s", (r) => few(r.decode[i]!.bandwidth)),
        line("  of memory's GB/s", (r) => ofMemory(r.decode[i]!)),
      );
    }
  }
  for (const tokens of new Set(reports.flatMap(({ prefill }) => prefill.map((point) => point.tokens)))) {
    const cell =
      (show: (point: PrefillPoint) => string) =>
      ({ prefill }: VariantReport): string => {
        const point = prefill.find((one) => one.tokens === tokens);
        return point ? show(point) : "too slow";
      };
    const speeds = cell(({ tokens_per_s }) => tokens_per_s.toFixed(0));
    const waits = cell(({ first_token_ms }) => `${first_token_ms.toFixed(0)} ms`);
    const shares = cell(ofUnit);
    rows.push(
      line(`prefill ${tokens}: tokens/s`, speeds),
      line("  first token", waits),
      line("  of the unit's GOP/s", shares),
    );
  }
  rows.push(
    line("JavaScript per step", (r) => `${r.replay_ms.toFixed(3)} ms`),
    line("  to record it once", (r) => `${r.record_ms.toFixed(2)} ms`),
    ...(reports.some(({ dispatches }) => dispatches > 0)
      ? [line("dispatches per step", ({ dispatches }) => dispatches.toFixed(0))]
      : []),
    line("peak memory", ({ peak_rss }) => bytes(peak_rss)),
  );
  const right = reports.map((_, i) => i + 1);
  const noisy = noisyPoints(reports).length > 0 ? `\n${NOISY}\n` : "";
  return `${machine}\n${limitsLine(limits)}\n\n${table(rows, right)}${noisy}`;
}

/** The panels of the charts: prefill and decode, both in tokens/s. */
export function benchPanels(reports: readonly VariantReport[]): Panel[] {
  /** One group for each point that any storage was measured at. */
  const groups = <P>(
    points: (report: VariantReport) => readonly P[],
    label: (point: P) => string,
    value: (point: P) => number,
  ): Panel["groups"] =>
    [...new Set(reports.flatMap((report) => points(report).map(label)))].map((name) => ({
      label: name,
      bars: reports.map((report) => {
        const point = points(report).find((one) => label(one) === name);
        return { name: report.storage, value: point && value(point) };
      }),
    }));
  return [
    {
      title: "Prefill",
      unit: "tokens/s",
      better: "more",
      groups: groups(
        ({ prefill }) => prefill,
        ({ tokens }) => `${tokens} tokens`,
        ({ tokens_per_s }) => tokens_per_s,
      ),
    },
    {
      title: "Decode, all texts together",
      unit: "tokens/s",
      better: "more",
      groups: groups(
        ({ decode }) => decode,
        ({ batch, context }) =>
          `${batch === 1 ? "one text" : `${batch} texts`}${context === 0 ? "" : `, context of ${context}`}`,
        ({ ms, batch }) => (1000 * batch) / ms,
      ),
    },
  ];
}

/** Title and notes of the chart. */
export function benchChartText(
  title: string,
  { machine, limits }: { machine: string; limits: MachineLimits },
  reports: readonly VariantReport[],
): ChartText {
  const noisy = noisyPoints(reports);
  const notes = [machine, `this machine at most: ${limitsLine(limits)}`];
  if (noisy.length > 0) notes.push(`noisy, faster than the limit measured around it: ${noisy.join("; ")}`);
  return { title: `octavo bench, ${title}`, notes };
}

/** One row per kernel, with its share of its limit: bandwidth for few rows, operations for many. */
export function kernelTable(machine: string, limits: MachineLimits, kernels: readonly KernelSpeed[]): string {
  const rows = kernels.map((row) => [
    row.kernel,
    row.shape,
    row.microseconds.toFixed(0),
    few(row.bandwidth),
    few(row.operations),
    row.most > 0 ? percent(row) : "",
    row.most > 0 ? `${range(row.least, row.most)} ${row.limit === "read" ? "GB/s read" : `GOP/s ${row.limit}`}` : "",
  ]);
  const head = ["kernel", "rows x K x N", "µs", "GB/s", "GOP/s", "share", "of"];
  const noisy = kernels.some((kernel) => kernel.noisy) ? `\n${NOISY}\n` : "";
  return `${machine}\n${limitsLine(limits)}\n\n${table([head, ...rows], [2, 3, 4, 5])}${noisy}`;
}
