// The unit of the machine that limits a kernel, for comparison with its speed. If no probe measures that unit, no share is
// reported.

import type { Device } from "../core/device.js";
import type { Unit } from "./machine.js";

/** Rows up to which a product, or a step of attention, waits for memory rather than for arithmetic. */
const FEW_ROWS = 8;

/** The limit of a kernel at a number of rows; undefined if it is not measured. */
export function limitOf(device: Device, kernel: string, rows: number): "read" | Unit | undefined {
  return rows <= FEW_ROWS ? "read" : unitOf(device, kernel);
}

/**
 * The unit that does the arithmetic of a kernel over many rows, by the kernel's name in `octavo bench --kernels`; undefined
 * for units without a probe: AMX tiles, ARM's dot products, a GPU's matrix units.
 */
export function unitOf(device: Device, kernel: string): Unit | undefined {
  const {
    isa = "",
    matrices = false,
    matrices8 = false,
  } = device.backend as { isa?: string; matrices?: boolean; matrices8?: boolean };
  if (device.name === "webgpu") {
    // Products that may round use f16; exact products with f16 weights do so only on matrix units.
    if (kernel === "int8") return matrices8 ? undefined : "int8";
    const rounded = ["bf16", "nf4 bf16", "nf4 int8", "o4 int8"].includes(kernel);
    if (matrices && (rounded || kernel === "f16")) return undefined;
    return rounded && device.supports("probe_f16") ? "f16" : "f32";
  }
  switch (kernel) {
    case "int8":
    case "nf4 int8":
    case "o4 int8":
      return isa === "amx" || isa === "dotprod" ? undefined : "int8";
    case "bf16":
    case "nf4 bf16":
    case "attention bf16":
      if (isa === "amx") return undefined;
      return device.supports("probe_bf16") ? "bf16" : "f32";
    case "attention i8":
      // On 8-bit units each counted product takes two or three products of bytes.
      if (isa === "amx") return undefined;
      return isa.startsWith("avx512") ? "int8" : "f32";
    case "attention f32":
      return isa === "amx" ? undefined : "f32";
    default:
      return "f32";
  }
}
