// Shaders on this adapter, one per op, and those that only other adapters can have. variants.test.ts compiles all there are,
// without an adapter; other suites build those that they use.

import { expect, test } from "vitest";
import { openWebGPU, type WebGPUBackend } from "../../src/backends/webgpu/index.js";
import type { Shader } from "../../src/backends/webgpu/shader.js";
import { describeGPU, everything, gpu } from "../support/webgpu.js";

async function failuresOf(backend: WebGPUBackend, shaders: readonly Shader[]): Promise<string[]> {
  const failures: string[] = [];
  for (const shader of shaders) {
    try {
      await backend.compile(shader, "pipeline");
    } catch (error) {
      failures.push(`${shader.key}: ${(error as Error).message}`.slice(0, 400));
    }
  }
  return failures;
}

describeGPU("WGSL", () => {
  test("one variant of each op becomes a pipeline of this adapter", { timeout: 120_000 }, async () => {
    const backend = await openWebGPU(gpu!, { subgroups: false });
    try {
      const byOp = new Map(backend.shaders().map((shader) => [shader.op, shader]));
      expect(byOp.size).toBeGreaterThan(30);
      expect(await failuresOf(backend, [...byOp.values()])).toEqual([]);
    } finally {
      await backend.close();
    }
  });
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
        const failures = await failuresOf(backend, shaders);
        expect(failures).toEqual([]);
      } finally {
        await backend.close();
      }
    },
  );
});
