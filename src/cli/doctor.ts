// octavo doctor: what this machine offers, what Octavo makes of it, and whether the kernels compute what they should.

import { existsSync, statSync } from "node:fs";
import { homedir } from "node:os";
import { join } from "node:path";
import { Command } from "commander";
import { type MachineInfo, machineInfo } from "../backends/native/index.js";
import { relaxedSimd } from "../backends/wasm/api.js";
import { findWasm } from "../backends/wasm/node.js";
import { cachedModels, cacheFolder } from "../formats/hub.js";
import { openDevice } from "../load/device.js";
import { jsonOption, threadsOption } from "./arguments.js";
import { bytes, EXIT, plural, print, printJson, table } from "./output.js";
import { chosen } from "./report.js";
import { type CaseResult, selfTest } from "./self-test.js";

interface DoctorFlags {
  threads?: number;
  verbose?: boolean;
  json?: boolean;
}

/** The self-test at one instruction set level. */
interface LevelResult {
  readonly isa: string;
  readonly used: boolean;
  readonly results: readonly CaseResult[];
}

interface Findings {
  readonly node: string;
  readonly platform: string;
  readonly machine: MachineInfo | undefined;
  readonly isa: string | null;
  readonly threads: number | null;
  /** File of the WASM build, if there is one. */
  readonly wasm: string | null;
  readonly cache: { readonly folder: string; readonly exists: boolean; readonly models: number };
  readonly token: boolean;
  readonly levels: readonly LevelResult[];
  /** What keeps Octavo from working, beside kernels that compute wrongly. */
  readonly problems: readonly string[];
}

export function doctorCommand(): Command {
  return new Command("doctor")
    .description("show what this machine offers and test the kernels against the reference")
    .addOption(threadsOption())
    .option("--verbose", "a line per op")
    .addOption(jsonOption())
    .addHelpText(
      "after",
      `
Examples:
  octavo doctor
  octavo doctor --verbose
  octavo doctor --json

Exit code 1 if something is missing or computes wrongly.`,
    )
    .action(doctor);
}

async function doctor(flags: DoctorFlags): Promise<void> {
  const findings = await examine(flags.threads);
  if (flags.json) printJson(toJson(findings));
  else print(toText(findings, flags.verbose === true));
  if (!healthy(findings)) process.exitCode = EXIT.failure;
}

async function examine(threads: number | undefined): Promise<Findings> {
  const folder = cacheFolder();
  const problems: string[] = [];
  let machine: MachineInfo | undefined;
  let isa: string | null = null;
  let used: number | null = null;
  const levels: LevelResult[] = [];
  try {
    machine = machineInfo();
    await using device = openDevice("cpu", { threads });
    ({ isa, threads: used } = chosen(device));
    // A level that this CPU has but that is not used here is what others will run.
    const compiled = machine.isasCompiled;
    for (const level of machine.isasSupported.filter((name) => compiled.includes(name))) {
      levels.push({ isa: level, used: level === isa, results: await testLevel(level, threads) });
    }
  } catch (error) {
    problems.push(error instanceof Error ? error.message : String(error));
  }
  return {
    node: process.versions.node,
    platform: `${process.platform} ${process.arch}`,
    machine,
    isa,
    threads: used,
    wasm: findWasm() ?? null,
    cache: { folder, exists: existsSync(folder), models: (await cachedModels(folder)).length },
    token: hasToken(),
    levels,
    problems,
  };
}

async function testLevel(isa: string, threads: number | undefined): Promise<CaseResult[]> {
  await using device = openDevice("cpu", { isa, threads });
  await using reference = openDevice("reference");
  // Awaited here: the devices close when this returns.
  return await selfTest(device, reference);
}

/** True if huggingface_hub would find a token; which one is nobody's business here. */
function hasToken(env: NodeJS.ProcessEnv = process.env): boolean {
  if (env.HF_TOKEN || env.HUGGING_FACE_HUB_TOKEN) return true;
  const home = env.HF_HOME || join(env.XDG_CACHE_HOME || join(homedir(), ".cache"), "huggingface");
  const file = env.HF_TOKEN_PATH || join(home, "token");
  return (statSync(file, { throwIfNoEntry: false })?.size ?? 0) > 0;
}

function healthy({ levels, problems }: Findings): boolean {
  return problems.length === 0 && levels.length > 0 && levels.every(({ results }) => results.every((r) => r.passed));
}

/** The largest error of the results that have one; null if none has. */
function worst(results: readonly CaseResult[]): number | null {
  const errors = results.map(({ error }) => error).filter((error) => !Number.isNaN(error));
  return errors.length > 0 ? Math.max(...errors) : null;
}

function toJson(findings: Findings): unknown {
  const { machine } = findings;
  return {
    ok: healthy(findings),
    node: findings.node,
    platform: findings.platform,
    cpu: machine && {
      model: machine.model,
      features: machine.features.split(/\s+/).filter(Boolean),
      cores: machine.cores,
      memory_bytes: machine.memory,
      isas_compiled: machine.isasCompiled,
      isas_supported: machine.isasSupported,
    },
    isa: findings.isa,
    threads: findings.threads,
    wasm: findings.wasm,
    hf_cache: findings.cache,
    hf_token: findings.token,
    self_test: findings.levels.map(({ isa, used, results }) => ({
      isa,
      used,
      cases: results.length,
      failed: results.filter((result) => !result.passed),
      largest_error: worst(results),
      ops: byOp(results).map(([op, own]) => ({ op, cases: own.length, largest_error: worst(own) })),
    })),
    problems: findings.problems,
  };
}

function byOp(results: readonly CaseResult[]): [string, CaseResult[]][] {
  const groups = new Map<string, CaseResult[]>();
  for (const result of results) groups.set(result.op, [...(groups.get(result.op) ?? []), result]);
  return [...groups];
}

/** Lines of failures per level where nobody asked for all. */
const FAILURES = 12;

function number(error: number | null): string {
  if (error === null || Number.isNaN(error)) return "-";
  return error === 0 ? "exact" : error.toExponential(1);
}

function toText(findings: Findings, verbose: boolean): string {
  const { machine, cache, levels, problems } = findings;
  const facts: string[][] = [
    ["node", findings.node],
    ["platform", findings.platform],
  ];
  if (machine) {
    facts.push(
      ["cpu", machine.model],
      ["instruction sets", `${machine.isasSupported.join(", ")} (add-on built for ${machine.isasCompiled.join(", ")})`],
      [
        "used",
        `${findings.isa ?? "none"}, ${plural(findings.threads ?? 0, "thread")} (${plural(machine.cores, "core")})`,
      ],
      ["memory", bytes(machine.memory)],
    );
  }
  const { wasm } = findings;
  const simd = `this Node has ${relaxedSimd() ? "" : "no "}relaxed SIMD`;
  facts.push(["wasm", wasm ? `${wasm} (${bytes(statSync(wasm).size)}; ${simd})` : "not built (npm run build:wasm)"]);
  const models = cache.exists ? plural(cache.models, "model") : "not there yet";
  facts.push(["hf cache", `${cache.folder} (${models})`], ["hf token", findings.token ? "yes" : "no"]);
  let text = `${table(facts)}\n`;
  if (levels.length > 0) {
    const rows = levels.map(({ isa, used, results }) => {
      const failed = results.filter((result) => !result.passed).length;
      return [
        isa,
        plural(results.length, "case"),
        `largest error ${number(worst(results))}`,
        failed === 0 ? "ok" : `${failed} FAILED`,
        used ? "(used)" : "",
      ];
    });
    text += `kernels against the reference, relative errors\n${table(rows, [1], "  ")}`;
  }
  for (const { isa, results } of levels) {
    const shown = verbose ? byOp(results) : byOp(results.filter((result) => !result.passed));
    if (shown.length === 0) continue;
    const rows = shown.flatMap(([op, own]) => {
      const failed = own.filter((result) => !result.passed);
      const line = [op, plural(own.length, "case"), number(worst(own)), failed.length === 0 ? "ok" : "FAILED"];
      return [
        ...(verbose ? [line] : []),
        ...failed.map(({ what, error, problem }) => [verbose ? "" : op, what, number(error), problem ?? ""]),
      ];
    });
    const hidden = verbose ? 0 : Math.max(0, rows.length - FAILURES);
    text += `\n${isa}\n${table(rows.slice(0, rows.length - hidden), [], "  ")}`;
    if (hidden > 0) text += `  and ${hidden} more; --verbose shows all\n`;
  }
  for (const problem of problems) text += `problem: ${problem}\n`;
  return `${text}\n${healthy(findings) ? "all is well" : "something is wrong; see above"}\n`;
}
