// Every shader variant that a call can ask for compiles into a pipeline, on what the adapter offers and on WebGPU's
// default limits.

import { expect, test } from "vitest";
import { openWebGPU } from "../../src/backends/webgpu/index.js";
import { describeGPU, gpu } from "../support/webgpu.js";

describeGPU("WGSL", () => {
  test.each([
    { limits: "adapter", dot4: true },
    { limits: "default", dot4: false },
  ] as const)("all variants compile ($limits limits, dot4 $dot4)", { timeout: 300_000 }, async (options) => {
    const backend = await openWebGPU(gpu!, options);
    const failures: string[] = [];
    try {
      const shaders = backend.shaders();
      expect(shaders.length).toBeGreaterThan(100);
      for (const shader of shaders) {
        try {
          await backend.compile(shader);
        } catch (error) {
          failures.push(`${shader.key}: ${(error as Error).message}`);
        }
      }
      expect(failures.map((text) => text.slice(0, 400))).toEqual([]);
      console.log(`${shaders.length} shaders`);
    } finally {
      await backend.close();
    }
  });
});
