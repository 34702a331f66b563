// Every shader variant that a call can use is valid WGSL, with the adapter's limits and with WebGPU's defaults. Here one
// shader per op becomes a pipeline; other suites build those that they use (a software adapter takes seconds for the large
// ones).

import { expect, test } from "vitest";
import { openWebGPU, type WebGPUBackend } from "../../src/backends/webgpu/index.js";
import type { Shader } from "../../src/backends/webgpu/shader.js";
import { describeGPU, everything, gpu } from "../support/webgpu.js";

async function failuresOf(
  backend: WebGPUBackend,
  shaders: readonly Shader[],
  how: (shader: Shader) => "check" | "pipeline",
): Promise<string[]> {
  const failures: string[] = [];
  for (const shader of shaders) {
    try {
      await backend.compile(shader, how(shader));
    } catch (error) {
      failures.push(`${shader.key}: ${(error as Error).message}`.slice(0, 400));
    }
  }
  return failures;
}

describeGPU("WGSL", () => {
  // The other forms: variants.test.ts compiles them without an adapter, test/conformance runs them.
  test.each([{ limits: "adapter", dot4: true, subgroups: false }] as const)(
    "all variants compile ($limits limits, dot4 $dot4, subgroups $subgroups)",
    { timeout: 300_000 },
    async (options) => {
      const backend = await openWebGPU(gpu!, options);
      const ops = new Set<string>();
      try {
        const shaders = backend.shaders();
        expect(shaders.length).toBeGreaterThan(300);
        const failures = await failuresOf(backend, shaders, ({ op }) => {
          const how = ops.has(op) ? "check" : "pipeline";
          ops.add(op);
          return how;
        });
        expect(failures).toEqual([]);
      } finally {
        await backend.close();
      }
    },
  );
});

// Dawn's null backend has every feature and computes nothing. It checks WGSL that no adapter here may support, and WebGPU's
// default limits of workgroup memory and invocations.
describeGPU("WGSL with every feature", () => {
  test.each([false, "8x8x8", "16x16x16", "8x16x16", "16x8x8", "16x16x32", "8x16x32"])(
    "blocks of f16, subgroup matrices of %s",
    { timeout: 120_000 },
    async (subgroupMatrix) => {
      const backend = await openWebGPU(await everything(), { subgroupMatrix });
      try {
        const shaders = backend.shaders().filter(({ key }) => /half=|matrix=|^halves|^exponents/.test(key));
        expect(shaders.length).toBeGreaterThan(10);
        const matrices = shaders.filter(({ key }) => key.includes(`matrix=${subgroupMatrix} `));
        const ops = new Set(matrices.map(({ op }) => op));
        const some = ["four_bit_linear", "linear", "llm_int8_linear"];
        expect([...ops].sort()).toEqual(subgroupMatrix === false ? [] : some);
        const failures = await failuresOf(backend, shaders, () => "pipeline");
        expect(failures).toEqual([]);
      } finally {
        await backend.close();
      }
    },
  );
});
