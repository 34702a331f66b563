// Which part of a machine a kernel keeps busy: what its speed is drawn beside. Where no probe measures that part, there is
// nothing honest to draw beside, and no share.

import type { Device } from "../core/device.js";
import type { Unit } from "./machine.js";

/** Rows up to which a product, or a step of attention, waits for memory rather than for arithmetic. */
const FEW_ROWS = 8;

/** What limits a kernel at so many rows; undefined where nobody measures it. */
export function limitOf(device: Device, kernel: string, rows: number): "read" | Unit | undefined {
  return rows <= FEW_ROWS ? "read" : unitOf(device, kernel);
}

/**
 * The unit that does the arithmetic of a kernel over many rows, by its name in `octavo bench --kernels`; undefined for
 * units that no probe measures: tiles of AMX, dot products of ARM, a GPU's matrices.
 */
export function unitOf(device: Device, kernel: string): Unit | undefined {
  const {
    isa = "",
    matrices = false,
    matrices8 = false,
  } = device.backend as { isa?: string; matrices?: boolean; matrices8?: boolean };
  if (device.name === "webgpu") {
    // Products that may round go through f16; those with f16 weights, which are exact, only on matrices.
    if (kernel === "int8") return matrices8 ? undefined : "int8";
    const rounded = kernel === "bf16" || kernel === "nf4 bf16" || kernel === "nf4 int8";
    if (matrices && (rounded || kernel === "f16")) return undefined;
    return rounded && device.supports("probe_f16") ? "f16" : "f32";
  }
  switch (kernel) {
    case "int8":
    case "nf4 int8":
      return isa === "amx" || isa === "dotprod" ? undefined : "int8";
    case "bf16":
    case "nf4 bf16":
    case "attention bf16":
      if (isa === "amx") return undefined;
      return device.supports("probe_bf16") ? "bf16" : "f32";
    case "attention i8":
      // Bytes where they multiply: two or three products of bytes for each one that is counted.
      if (isa === "amx") return undefined;
      return isa.startsWith("avx512") ? "int8" : "f32";
    case "attention f32":
      return isa === "amx" ? undefined : "f32";
    default:
      return "f32";
  }
}
