// Every shader variant that a call can ask for is valid WGSL, on what the adapter offers and on WebGPU's default limits;
// one of each op becomes a pipeline here, and those that are used do in the other suites (a software adapter takes
// seconds for the large ones).

import { expect, test } from "vitest";
import { openWebGPU } from "../../src/backends/webgpu/index.js";
import { describeGPU, gpu } from "../support/webgpu.js";

describeGPU("WGSL", () => {
  test.each([
    { limits: "adapter", dot4: true, subgroups: true },
    { limits: "adapter", dot4: true, subgroups: false },
    { limits: "default", dot4: false, subgroups: false },
  ] as const)(
    "all variants compile ($limits limits, dot4 $dot4, subgroups $subgroups)",
    { timeout: 300_000 },
    async (options) => {
      const backend = await openWebGPU(gpu!, options);
      const failures: string[] = [];
      const ops = new Set<string>();
      try {
        const shaders = backend.shaders();
        expect(shaders.length).toBeGreaterThan(300);
        for (const shader of shaders) {
          try {
            await backend.compile(shader, ops.has(shader.op) ? "check" : "pipeline");
          } catch (error) {
            failures.push(`${shader.key}: ${(error as Error).message}`);
          }
          ops.add(shader.op);
        }
        expect(failures.map((text) => text.slice(0, 400))).toEqual([]);
      } finally {
        await backend.close();
      }
    },
  );
});
