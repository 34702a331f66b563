// octavo bench --kernels: single kernels in the sizes of a shape, each beside its limit.

import { attentionSpeed, KERNEL_SCHEMES, linearSpeed } from "../eval/kernels.js";
import { measureMachine } from "../eval/machine.js";
import { shapeConfig } from "../eval/shapes.js";
import { requestDevice } from "../load/device.js";
import { kernelTable } from "./bench-report.js";
import { note, print, printJson } from "./output.js";

export interface KernelFlags {
  shape?: string;
  device?: string;
  threads?: number;
  quick?: boolean;
  json?: boolean;
  quiet?: boolean;
}

export async function benchKernels(flags: KernelFlags): Promise<void> {
  const shape = shapeConfig(flags.shape ?? "M");
  await using device = await requestDevice(flags.device, { threads: flags.threads });
  if (!flags.quiet) note("measuring the machine");
  const limits = await measureMachine(device);
  const rows = [];
  const { hidden_size: hidden, intermediate_size: ffn, vocab_size: vocab } = shape;
  const steps: [rows: number, inputs: number, outputs: number][] = [
    [1, hidden, ffn],
    [1, ffn, hidden],
    [1, hidden, vocab],
    [8, hidden, ffn],
  ];
  const sizes = [...(flags.quick ? steps.slice(0, 1) : steps), [512, hidden, ffn] as const];
  for (const name of Object.keys(KERNEL_SCHEMES)) {
    if (!flags.quiet) note(`${name}: linear`);
    for (const [m, k, n] of sizes) rows.push(await linearSpeed(device, name, m, k, n));
  }
  const { num_attention_heads: heads, num_key_value_heads: groups } = shape;
  const layout = { heads, groups, head_dim: hidden / heads, batch: 1 };
  for (const dtype of ["f32", "bf16", "i8"] as const) {
    if (!flags.quiet) note(`attention ${dtype}`);
    rows.push(await attentionSpeed(device, { ...layout, steps: 1, context: 2048, dtype }));
    rows.push(await attentionSpeed(device, { ...layout, steps: 512, context: 0, dtype }));
  }
  if (flags.json) printJson({ machine: device.backend.description, limits, kernels: rows });
  else print(kernelTable(device.backend.description, limits, rows));
}
