// Conformance in a real browser: the same cases, on WebGPU and on WebAssembly of a headless Chromium, in a Worker as a
// page would run them. A validation error of WebGPU fails the case after which it was found.

import type { Browser, Worker } from "playwright-core";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { FAMILIES } from "../conformance/cases/index.js";
import { describeChromium, launchChromium } from "../support/chromium.js";
import { type Family, floatsOf, SLOW_TO_COMPILE } from "../support/conformance.js";
import { whyNoWasm } from "../support/devices.js";
import { type Site, serveWorker, startWorker } from "./bundle.js";
import type { Suite } from "./conformance-worker.js";

/** Fuzzed cases per op: a software adapter compiles a second per shader. The Node suites look longer. */
const RUNS = { webgpu: 1, wasm: 2 };
const SEED = 20_260;
/**
 * Each case runs with one of its float dtypes; on WebGPU one case in three, and one in 30 of the ops with the most shader variants.
 * test/conformance runs all cases through the same Dawn and the same module in Node. OCTAVO_BROWSER_CASES=all runs all here, too.
 */
function stepOf(family: Family, target: string): number {
  if (process.env.OCTAVO_BROWSER_CASES === "all") return 1;
  if (target !== "webgpu") return floatsOf(family).length;
  return SLOW_TO_COMPILE.includes(family.op.name) ? 30 : 3 * floatsOf(family).length;
}

describeChromium("in Chromium", () => {
  let site: Site;
  let browser: Browser;
  beforeAll(async () => {
    site = await serveWorker("conformance-worker.ts");
    browser = await launchChromium();
  });
  afterAll(async () => {
    await browser?.close();
    await site?.stop();
  });

  for (const target of ["webgpu", "wasm"] as const) {
    if (target === "wasm" && whyNoWasm) {
      test.skip(`${target}: ${whyNoWasm}`);
      continue;
    }
    describe(target, () => {
      let worker: Worker;
      /** Calls the suite in the Worker. */
      const call = <Name extends keyof Suite>(name: Name, ...args: Parameters<Suite[Name]>) =>
        worker.evaluate(
          ([method, values]) => {
            const { suite } = globalThis as unknown as { suite: Record<string, (...args: unknown[]) => unknown> };
            return suite[method as string]!(...(values as unknown[]));
          },
          [name, args] as const,
        ) as ReturnType<Suite[Name]>;

      beforeAll(async () => {
        worker = await startWorker(browser, site, "suite");
        const { description, lacks } = await call("open", target);
        console.log(`Chromium ${browser.version()}: ${description}`);
        expect(lacks).toEqual([]);
      });
      afterAll(async () => expect(await call("close"), "memory left").toEqual([]));

      for (const family of FAMILIES) {
        const { op } = family;
        for (const floats of floatsOf(family)) {
          test(`${op.name} ${floats}`, async () => {
            const problems = await call("table", op.name, floats, stepOf(family, target));
            expect(problems.slice(0, 12), `${problems.length} problems`).toEqual([]);
          });
        }
        test(`${op.name} fuzzed`, async () => {
          expect(await call("fuzz", op.name, RUNS[target], SEED)).toBeUndefined();
        });
      }
    });
  }
});
