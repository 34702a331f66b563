// octavo doctor: the hardware and runtimes of this machine, what Octavo uses of them, and a test of the kernels.

import { execFile } from "node:child_process";
import { existsSync, statSync } from "node:fs";
import { promisify } from "node:util";
import { Command } from "commander";
import {
  type AddonOrigin,
  addonFile,
  addonHint,
  addonOrigin,
  type MachineInfo,
  machineInfo,
} from "../backends/native/addon.js";
import { relaxedSimd } from "../backends/wasm/api.js";
import { findWasm, wasmBuildHint } from "../backends/wasm/node.js";
import type { AdapterFacts } from "../backends/webgpu/device/adapter.js";
import { listAdapters } from "../backends/webgpu/node.js";
import { tokenFile } from "../hub/environment.js";
import { LOGICAL_CPUS, openDevice, requestDevice, usualDevice } from "../load/device.js";
import { cachedModels, cacheFolder } from "../sources/hub.js";
import { deviceOption, jsonOption, threadsOption } from "./arguments.js";
import { EXIT } from "./failures.js";
import { bytes, plural, print, printJson, table } from "./output.js";
import { chosen } from "./report.js";
import { type CaseResult, selfTest } from "./self-test.js";
import { PROGRAM } from "./version.js";

interface DoctorFlags {
  /** Set in the child process that lists adapters. */
  adapters?: boolean;
  device?: string;
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
  /** Version of Node, or the Node version that another runtime claims. */
  readonly node: string;
  /** The runtime: "node", "deno" or "bun", and its version. */
  readonly runtime: { readonly name: string; readonly version: string };
  readonly platform: string;
  readonly machine: MachineInfo | undefined;
  /** File of the native add-on, if there is one. */
  readonly addon: string | null;
  /** How it was found. */
  readonly origin: AddonOrigin | null;
  readonly isa: string | null;
  readonly threads: number | null;
  /** File of the WASM build, if there is one. */
  readonly wasm: string | null;
  /** Adapters of WebGPU in the order of webgpu:N, or why there are none. */
  readonly adapters: readonly AdapterFacts[] | string;
  readonly cache: { readonly folder: string; readonly exists: boolean; readonly models: number };
  readonly token: boolean;
  readonly levels: readonly LevelResult[];
  /** Problems that keep Octavo from working, besides wrong kernels. */
  readonly problems: readonly string[];
  /** Missing parts that the tested device does not need. */
  readonly notes: readonly string[];
}

export function doctorCommand(): Command {
  const command = new Command("doctor")
    .addOption(deviceOption())
    .addOption(threadsOption())
    .option("--verbose", "a line per op")
    .addOption(jsonOption())
    .addHelpText(
      "after",
      `
Examples:
  octavo doctor
  octavo doctor --verbose
  octavo doctor --device webgpu
  octavo doctor --json

Exit code 1 if something that is needed is missing, or computes wrongly.`,
    );
  return command.addOption(command.createOption("--adapters").hideHelp()).action(doctor);
}

async function doctor(flags: DoctorFlags): Promise<void> {
  if (flags.adapters) {
    print(JSON.stringify(await listHere()));
    return;
  }
  const findings = await examine(flags.device ?? usualDevice(false), flags.threads);
  if (flags.json) printJson(toJson(findings));
  else print(toText(findings, flags.verbose === true));
  if (!healthy(findings)) process.exitCode = EXIT.failure;
}

async function examine(name: string, threads: number | undefined): Promise<Findings> {
  const folder = cacheFolder();
  const problems: string[] = [];
  const notes: string[] = [];
  let machine: MachineInfo | undefined;
  let addon: string | null = null;
  let origin: AddonOrigin | null = null;
  let isa: string | null = null;
  let used: number | null = null;
  const levels: LevelResult[] = [];
  const attempt = async (work: () => Promise<void>, found: string[]): Promise<void> => {
    try {
      await work();
    } catch (error) {
      found.push(error instanceof Error ? error.message : String(error));
    }
  };
  if (name !== "cpu") {
    await attempt(async () => {
      levels.push(await testDevice(name, threads));
    }, problems);
  }
  await attempt(
    async () => {
      machine = machineInfo();
      addon = addonFile();
      origin = addonOrigin();
      await using device = openDevice("cpu", { threads: name === "cpu" ? threads : undefined });
      ({ isa, threads: used } = chosen(device));
      if (name !== "cpu") return;
      // Other machines use the lower levels, so they are tested too.
      const { isasCompiled, isasSupported } = machine;
      for (const level of isasSupported.filter((isa) => isasCompiled.includes(isa))) {
        levels.push({ isa: level, used: level === isa, results: await testLevel(level, threads) });
      }
    },
    name === "cpu" ? problems : notes,
  );
  return {
    node: process.versions.node,
    runtime: runtimeHere(),
    platform: `${process.platform} ${process.arch}`,
    machine,
    addon,
    origin,
    isa,
    threads: used,
    wasm: findWasm() ?? null,
    adapters: await adaptersOrReason(),
    cache: { folder, exists: existsSync(folder), models: (await cachedModels(folder)).length },
    token: hasToken(),
    levels,
    problems,
    notes,
  };
}

function runtimeHere(): Findings["runtime"] {
  const { deno, bun, node } = process.versions;
  return deno ? { name: "deno", version: deno } : bun ? { name: "bun", version: bun } : { name: "node", version: node };
}

/** The self-test on a device other than the native one. */
async function testDevice(name: string, threads: number | undefined): Promise<LevelResult> {
  await using device = await requestDevice(name, { threads });
  await using reference = openDevice("reference");
  const { description } = device.backend;
  const isa = device.reason ? `${description} (auto: ${device.reason})` : description;
  return { isa, used: true, results: await selfTest(device, reference) };
}

/** Lists adapters in this process, where drivers may write to stderr or crash. */
async function listHere(): Promise<AdapterFacts[] | string> {
  try {
    const adapters = await listAdapters();
    return adapters.length > 0 ? adapters.map(({ facts }) => facts) : "no adapter (no Vulkan, Metal or D3D12 driver)";
  } catch (error) {
    return (error as Error).message.split("\n")[0]!;
  }
}

/** Lists adapters in a child process, which hides the drivers' stderr. */
async function adaptersOrReason(): Promise<AdapterFacts[] | string> {
  try {
    const { stdout } = await promisify(execFile)(process.execPath, [PROGRAM, "doctor", "--adapters"], {
      timeout: 60_000,
    });
    return JSON.parse(stdout) as AdapterFacts[] | string;
  } catch {
    return "the drivers of this machine crash the process that lists adapters";
  }
}

async function testLevel(isa: string, threads: number | undefined): Promise<CaseResult[]> {
  await using device = openDevice("cpu", { isa, threads });
  await using reference = openDevice("reference");
  // Awaited here, because the devices close on return.
  return await selfTest(device, reference);
}

/** True if huggingface_hub would find a token; the token itself is not read. */
function hasToken(env: NodeJS.ProcessEnv = process.env): boolean {
  if (env.HF_TOKEN || env.HUGGING_FACE_HUB_TOKEN) return true;
  return (statSync(tokenFile(env), { throwIfNoEntry: false })?.size ?? 0) > 0;
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
    runtime: findings.runtime,
    platform: findings.platform,
    cpu: machine && {
      model: machine.model,
      features: machine.features.split(/\s+/).filter(Boolean),
      cores: machine.cores,
      memory_bytes: machine.memory,
      logical_devices: LOGICAL_CPUS,
      isas_compiled: machine.isasCompiled,
      isas_supported: machine.isasSupported,
    },
    addon: findings.addon,
    addon_origin: findings.origin,
    isa: findings.isa,
    threads: findings.threads,
    wasm: findings.wasm,
    webgpu:
      typeof findings.adapters === "string"
        ? { adapters: [], reason: findings.adapters }
        : { adapters: findings.adapters },
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
    faster: faster(findings),
    problems: findings.problems,
    notes: findings.notes,
  };
}

function byOp(results: readonly CaseResult[]): [string, CaseResult[]][] {
  const groups = new Map<string, CaseResult[]>();
  for (const result of results) groups.set(result.op, [...(groups.get(result.op) ?? []), result]);
  return [...groups];
}

/** A line per adapter; with features and limits if `all`. */
function adapterRows(adapters: Findings["adapters"], verbose: boolean): string[][] {
  if (typeof adapters === "string") return [["webgpu", adapters]];
  return adapters.flatMap(({ title, vendor, architecture, backend, software, features, limits }, n) => {
    const parts = [vendor, architecture, backend, software ? "software" : ""].filter(Boolean).join(", ");
    const useful = ["subgroups", "shader-f16", "chromium-experimental-subgroup-matrix", "timestamp-query"];
    const line = [`webgpu:${n}`, `${title} (${parts})`];
    const mib = (name: string): string => `${Math.round((limits[name] ?? 0) / 2 ** 20)} MiB`;
    const sizes = `buffers to ${mib("maxBufferSize")}, bindings to ${mib("maxStorageBufferBindingSize")}`;
    const has = useful.filter((name) => features.includes(name)).join(", ") || "no features that matter here";
    const all = [["", features.join(" ")], ...Object.entries(limits).map(([name, value]) => ["", `${name} ${value}`])];
    return [line, ["", `${has}; ${sizes}`], ...(verbose ? all : [])];
  });
}

/** What would make this machine faster, each with what to do. */
function faster({ machine, adapters, levels }: Findings): string[] {
  const found: string[] = [];
  if (!machine) found.push(`the native add-on is several times faster than WebAssembly: ${addonHint()}`);
  const missing = machine?.isasSupported.filter((isa) => !machine.isasCompiled.includes(isa)) ?? [];
  // Of a build for one CPU only the levels that it would use are there. (On arm64 no kernel uses the highest one.)
  if (process.arch === "x64" && machine && missing.includes(machine.isasSupported.at(-1)!)) {
    found.push(`this CPU has ${missing.at(-1)}, and the add-on was built without: ${addonHint()}`);
  }
  const gpu = typeof adapters !== "string" && adapters.findIndex(({ software }) => !software);
  if (gpu !== false && gpu >= 0 && !levels.some(({ isa, used }) => used && /webgpu/i.test(isa))) {
    found.push(`there is a GPU for large models: --device webgpu:${gpu}`);
  }
  return found;
}

/** Failures shown per level without --verbose. */
const FAILURES = 12;

function number(error: number | null): string {
  if (error === null || Number.isNaN(error)) return "-";
  return error === 0 ? "exact" : error.toExponential(1);
}

function toText(findings: Findings, verbose: boolean): string {
  const { machine, cache, levels, problems, notes, runtime } = findings;
  const facts: string[][] = [
    [runtime.name, runtime.version + (runtime.name === "node" ? "" : ` (as node ${findings.node})`)],
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
      ["add-on", `${findings.addon ?? "none"} (${findings.origin})`],
      ["memory", bytes(machine.memory)],
      ["logical devices", `cpu:0 to cpu:${LOGICAL_CPUS - 1} (queue, threads and memory budget of their own)`],
    );
  }
  const { wasm } = findings;
  const simd = `this ${runtime.name} has ${relaxedSimd() ? "" : "no "}relaxed SIMD`;
  facts.push(["wasm", wasm ? `${wasm} (${bytes(statSync(wasm).size)}; ${simd})` : `not built (${wasmBuildHint()})`]);
  facts.push(...adapterRows(findings.adapters, verbose));
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
  for (const one of faster(findings)) text += `faster: ${one}\n`;
  for (const one of notes) text += `note: ${one}\n`;
  for (const problem of problems) text += `problem: ${problem}\n`;
  return `${text}\n${healthy(findings) ? "all is well" : "something is wrong; see above"}\n`;
}
