// A report of an evaluation as one HTML page: charts, the table, and how it was made. It loads nothing and follows the reader's choice
// of light or dark pages.

import type { Panel } from "./chart.js";
import { escaped, svgChart } from "./chart-svg.js";
import { type Evaluated, resultRows, sizeRows } from "./eval-rows.js";
import { plural } from "./output.js";

const STYLE =
  ":root{color-scheme:light dark}body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:72rem;padding:0 1rem;" +
  "background:#fff;color:#222}table{border-collapse:collapse;margin:1rem 0}td,th{padding:.25rem .75rem;text-align:left;" +
  "border-bottom:1px solid #ddd;font-variant-numeric:tabular-nums}svg{max-width:100%;height:auto}.differs{font-weight:600;color:#b3261e}" +
  "@media (prefers-color-scheme:dark){body{background:#16181c;color:#e6e6e6}td,th{border-color:#3a3d44}.differs{color:#ff8a80}}";

function htmlTable([head = [], ...rows]: readonly (readonly string[])[]): string {
  const cells = (row: readonly string[], tag: string) =>
    row.map((cell) => `<${tag}${cell === "differs" ? ' class="differs"' : ""}>${escaped(cell)}</${tag}>`).join("");
  const body = rows.map((row) => `<tr>${cells(row, "td")}</tr>`).join("\n");
  return `<table><thead><tr>${cells(head, "th")}</tr></thead><tbody>\n${body}\n</tbody></table>`;
}

/** A panel for each kind of metric, and those of sizes and speeds. */
function panelsOf(done: readonly Evaluated[]): Panel[] {
  const first = done[0]!;
  const metrics = new Map<string, { label: string; key: string; task: string; higher: boolean }[]>();
  for (const [task, result] of Object.entries(first.results.results)) {
    for (const key of Object.keys(result).filter((one) => one.includes(",") && !one.includes("_stderr,"))) {
      const [metric = "", filter = ""] = key.split(/,(.*)/s);
      const higher = first.results.higher_is_better[task]?.[metric] !== false;
      const label = filter === "none" ? task : `${task}, ${filter}`;
      metrics.set(metric, [...(metrics.get(metric) ?? []), { label, key, task, higher }]);
    }
  }
  const named = (value: (one: Evaluated) => number | undefined) =>
    done.map((one) => ({ name: one.storage, value: value(one) }));
  const quality = [...metrics].map(
    ([metric, rows]): Panel => ({
      title: metric,
      unit: rows[0]!.higher ? "share" : "value",
      better: rows[0]!.higher ? "more" : "less",
      groups: rows.map(({ label, key, task }) => ({
        label,
        bars: named(({ results }) => Number(results.results[task]![key])),
      })),
    }),
  );
  const group = (value: (one: Evaluated) => number | undefined) => [{ label: "all weights", bars: named(value) }];
  return [
    ...quality,
    { title: "Size", unit: "MB", better: "less", groups: group(({ weight_bytes }) => weight_bytes / 1e6) },
    {
      title: "Writing one text",
      unit: "ms/token",
      better: "less",
      groups: group(({ ms_per_token }) => ms_per_token),
    },
    {
      title: "Speed",
      unit: "tokens/s",
      better: "more",
      groups: [{ label: "all requests", bars: named(({ tokens_per_second }) => tokens_per_second) }],
    },
  ];
}

/** The page. All text from outside is escaped. */
export function htmlReport(model: string, done: readonly Evaluated[]): string {
  const first = done[0]!;
  const items = Object.values(first.results["n-samples"]).reduce((sum, { effective }) => sum + effective, 0);
  const panels = panelsOf(done);
  const charts: string[] = [];
  for (let at = 0; at < panels.length; at += 2) {
    charts.push(svgChart(panels.slice(at, at + 2), { title: at === 0 ? model : "", notes: [], dark: true }));
  }
  return `<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>${escaped(model)}</title><style>${STYLE}</style></head>
<body>
<h1>${escaped(model)}: ${escaped(done.map(({ storage }) => storage).join(", "))}</h1>
${charts.join("\n")}
${htmlTable(resultRows(done))}
${htmlTable(sizeRows(done))}
<p>${escaped(plural(items, "item"))}, the same for each storage. Differences are against ${escaped(first.storage)}. "Within noise": a
paired test on the same items (McNemar's for answers that are right or wrong, resamples for other metrics) finds a difference as large
at least 5 times in 100 where there is none.</p>
</body>
</html>
`;
}
