// The devices of the conformance suite: one entry per backend, and per instruction set of the native one. Add a line for a
// new backend. Devices that cannot run on this machine are listed with the reason, which the suite prints.

import { machineInfo, nativeAvailable } from "../../src/backends/native/addon.js";
import { SUBGROUP_MATRIX } from "../../src/backends/webgpu/device/adapter.js";
import { openWebGPU, type WebGPUOptions } from "../../src/backends/webgpu/index.js";
import { Device } from "../../src/core/device.js";
import { openDevice } from "../../src/load/device.js";
import { FAMILIES } from "../conformance/cases/index.js";
import { type Tolerance, WGSL } from "./check.js";
import { type Case, type Floats, floatsOf, SLOW_TO_COMPILE } from "./conformance.js";
import { openWasmForm, WASM_FORMS, whyNoWasm } from "./devices.js";
import { sharedGPU } from "./shared-gpu.js";
import { features, gpu, whyNoGPU } from "./webgpu.js";

export interface Target extends Tolerance {
  open(): Device | Promise<Device>;
  /** Milliseconds for a test; a software adapter takes long to compile a shader. */
  readonly timeout?: number;
  /** Every op must have a kernel. */
  readonly complete: boolean;
  /** Fuzzed cases per op at most: a software adapter compiles a second per shader. */
  readonly fuzz?: number;
  /** Ops that this target tests; all unless given. */
  readonly only?: readonly string[];
  /** The cases of an op's table that run with these float dtypes; all unless given. */
  readonly casesOf?: (op: string, floats: Floats, all: readonly Case[]) => readonly Case[];
  /** Why it cannot run here. */
  readonly skip?: string;
}

function nativeTargets(): Target[] {
  if (!nativeAvailable()) {
    const skip = "the native add-on is not built (npm run build:native)";
    return [{ name: "cpu", open: () => openDevice("cpu"), scale: 1, panels: true, complete: true, skip }];
  }
  const { isasCompiled, isasSupported } = machineInfo();
  return isasCompiled.flatMap((isa) =>
    [false, true].map((panels) => ({
      name: `cpu ${isa}, ${panels ? "panels" : "rows"}`,
      open: () => openDevice("cpu", { isa, threads: 2 }),
      scale: 1,
      // Tiles of more rows than vector units take at once multiply bf16, which is as fast there.
      ...(isa.startsWith("amx") ? { codedRows: 12 } : {}),
      panels,
      complete: true,
      skip: isasSupported.includes(isa) ? undefined : `this machine has no ${isa}`,
    })),
  );
}

/** All forms are built from the same sources, so fuzzing one of them is enough. */
function wasmTargets(): Target[] {
  const common = { scale: 1, complete: true, skip: whyNoWasm };
  if (whyNoWasm) return [{ ...common, name: "wasm", open: () => openDevice("wasm"), panels: true }];
  return Object.keys(WASM_FORMS).flatMap((form) =>
    [false, true].map((panels) => ({
      ...common,
      name: `${form}, ${panels ? "panels" : "rows"}`,
      open: () => openWasmForm(form),
      panels,
      fuzz: form === "wasm" ? undefined : 2,
    })),
  );
}

/** OCTAVO_GPU_CASES=all runs every case with every float dtype. */
const ALL_CASES = process.env.OCTAVO_GPU_CASES === "all";

/**
 * Of the ops with the most shader variants, which a software adapter compiles slowly, every case runs with one of its float
 * dtypes: the first with the first, the second with the second, and so on. Targets that differ from the first in limits only
 * do so with all ops, begin with another dtype, and take one in six cases of the ops with the most variants.
 */
const casesFrom =
  (limited: boolean) =>
  (op: string, floats: Floats, all: readonly Case[]): readonly Case[] => {
    const slow = SLOW_TO_COMPILE.includes(op);
    if (ALL_CASES || (!slow && !limited)) return all;
    const dtypes = floatsOf(FAMILIES.find((family) => family.op.name === op)!);
    const place = dtypes.indexOf(floats);
    const share = slow && limited ? 6 : 1;
    return all.filter(
      (_, i) => (i + Number(limited)) % dtypes.length === place && Math.floor(i / dtypes.length) % share === 0,
    );
  };

/** The adapter with all it offers; and, for kernels that depend on it, with default limits and no dot product. */
function gpuTargets(): Target[] {
  const open = (options: WebGPUOptions) => async () => new Device(await openWebGPU(sharedGPU!, options));
  const common = {
    ...WGSL,
    timeout: 240_000,
    panels: false,
    complete: true,
    casesOf: casesFrom(true),
    skip: gpu ? undefined : whyNoGPU,
  };
  return [
    { ...common, name: "webgpu", open: open({}), fuzz: 6, casesOf: casesFrom(false) },
    {
      ...common,
      name: "webgpu, default limits",
      open: open({ limits: "default", dot4: false }),
      fuzz: 0,
      // The last ones need more bindings than the 8 of these limits.
      only: ["attention", "llm_int8_linear", "four_bit_linear", "four_bit_expert_linear", "four_bit_expert_back"],
    },
    // "webgpu" uses subgroup matrices if there are any; this target tests blocks of f16 without them.
    {
      ...common,
      name: "webgpu, no subgroup matrices",
      open: open({ subgroupMatrix: false }),
      fuzz: 0,
      only: ["linear", "four_bit_linear"],
      skip: common.skip ?? (features.has(SUBGROUP_MATRIX) ? undefined : "the adapter has none to do without"),
    },
    // Weights reach real limits at hundreds of megabytes; here nearly every operand is cut, or lies in two buffers.
    {
      ...common,
      name: "webgpu, small bindings",
      open: open({ binding: 1536, buffer: 2560 }),
      fuzz: 0,
      refuses: /takes \d+ bytes, and this device binds 1536 at once/,
    },
  ];
}

export const CPU_TARGETS: readonly Target[] = [...nativeTargets(), ...wasmTargets()];
export const GPU_TARGETS: readonly Target[] = gpuTargets();
