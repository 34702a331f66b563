// The tables of `octavo bench`, and what its charts show.

import type { ModelSpeed } from "../eval/bench.js";
import type { KernelSpeed } from "../eval/kernels.js";
import type { MachineLimits } from "../eval/machine.js";
import type { ChartText, Panel } from "./chart.js";
import { bytes, table } from "./output.js";

/** What was measured of one storage. */
export interface VariantReport extends ModelSpeed {
  readonly storage: string;
  readonly weight_bytes: number;
  /** What keys and values were kept in: "float32", "bfloat16" or "int8". */
  readonly kv_cache: string;
  /** Loading from a checkpoint, where there was one. */
  readonly load?: { readonly load_s: number; readonly load_gb_per_s: number; readonly load_peak_rss: number };
  readonly peak_rss: number;
}

function limitsLine({ read, f32, int8, bf16 }: MachineLimits): string {
  const units = [`reads ${read.toFixed(1)} GB/s`, `f32 ${f32.toFixed(0)} GFLOP/s`, `int8 ${int8.toFixed(0)} GOP/s`];
  if (bf16 > 0) units.push(`bf16 ${bf16.toFixed(0)} GFLOP/s`);
  return units.join(", ");
}

/** One column a storage; rows as in the announcement of LLM.int8(): milliseconds per token at batch 1, 8 and 32. */
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
        line("  GB/s", (r) => r.decode[i]!.bandwidth.toFixed(1)),
        line(
          "  of memory's GB/s",
          (r) => `${(100 * r.decode[i]!.share).toFixed(0)} % of ${r.decode[i]!.read.toFixed(0)}`,
        ),
      );
    }
  }
  for (const [i, { tokens }] of reports[0]!.prefill.entries()) {
    rows.push(line(`prefill ${tokens}: tokens/s`, (r) => r.prefill[i]!.tokens_per_s.toFixed(0)));
    rows.push(line("  first token", (r) => `${r.prefill[i]!.first_token_ms.toFixed(0)} ms`));
  }
  rows.push(
    line("JavaScript per step", (r) => `${r.replay_ms.toFixed(3)} ms`),
    line("  to record it once", (r) => `${r.record_ms.toFixed(2)} ms`),
    line("peak memory", ({ peak_rss }) => bytes(peak_rss)),
  );
  const right = reports.map((_, i) => i + 1);
  return `${machine}\n${limitsLine(limits)}\n\n${table(rows, right)}`;
}

/** What charts show: prefill and decode of one text as tokens/s, and milliseconds per token by batch. */
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
      title: "Decode, one text",
      unit: "tokens/s",
      better: "more",
      groups: groups(
        ({ decode }) => decode.filter(({ batch }) => batch === 1),
        ({ context }) => (context === 0 ? "empty context" : `context of ${context}`),
        ({ ms }) => 1000 / ms,
      ),
    },
    {
      title: "Time per token",
      unit: "ms/token",
      better: "less",
      groups: groups(
        ({ decode }) => decode.filter(({ context }) => context === 0),
        ({ batch }) => `batch ${batch}`,
        ({ ms, batch }) => ms / batch,
      ),
    },
  ];
}

/** Title and notes of the chart. */
export function benchChartText(
  title: string,
  { machine, limits }: { machine: string; limits: MachineLimits },
): ChartText {
  return { title: `octavo bench, ${title}`, notes: [machine, `this machine at most: ${limitsLine(limits)}`] };
}

/** One row a kernel, with its share of the machine's limit: bandwidth for a few rows, operations for many. */
export function kernelTable(machine: string, limits: MachineLimits, kernels: readonly KernelSpeed[]): string {
  const rows = kernels.map(({ kernel, shape, microseconds, bandwidth, operations }) => {
    const peak = kernel === "int8" ? limits.int8 : kernel === "nf4 bf16" && limits.bf16 > 0 ? limits.bf16 : limits.f32;
    return [
      kernel,
      shape,
      microseconds.toFixed(0),
      bandwidth.toFixed(1),
      limits.read > 0 ? `${((100 * bandwidth) / limits.read).toFixed(0)} %` : "",
      operations.toFixed(0),
      peak > 0 ? `${((100 * operations) / peak).toFixed(0)} %` : "",
    ];
  });
  const head = ["kernel", "rows x K x N", "µs", "GB/s", "of read", "GOP/s", "of peak"];
  return `${machine}\n${limitsLine(limits)}\n\n${table([head, ...rows], [2, 3, 4, 5, 6])}`;
}
