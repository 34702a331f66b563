// The browser's caches in a headless Chromium, and the library in a Worker without the example around it.

import { cpSync } from "node:fs";
import { join } from "node:path";
import type { Browser, Worker } from "playwright-core";
import { afterAll, beforeAll, expect, test } from "vitest";
import { describeChromium, launchChromium } from "../support/chromium.js";
import { whyNoWasm } from "../support/devices.js";
import { STORYTELLER } from "../support/models.js";
import { FileServer } from "../support/server.js";
import { type Site, serveWorker, startWorker } from "./bundle.js";
import type { Caching } from "./cache-worker.js";

describeChromium("caches", () => {
  let site: Site;
  let browser: Browser;
  let worker: Worker;
  const call = <Name extends keyof Caching>(name: Name, ...args: Parameters<Caching[Name]>) =>
    worker.evaluate(
      ([method, values]) => {
        const { caching } = globalThis as unknown as { caching: Record<string, (...args: unknown[]) => unknown> };
        return caching[method as string]!(...(values as unknown[]));
      },
      [name, args] as const,
    ) as ReturnType<Caching[Name]>;

  beforeAll(async () => {
    site = await serveWorker("cache-worker.ts");
    cpSync(STORYTELLER, join(site.folder, "storyteller"), { recursive: true });
    browser = await launchChromium();
    worker = await startWorker(browser, site, "caching");
  });
  afterAll(async () => {
    await browser?.close();
    await site?.stop();
  });

  test.each(["opfs", "cache-api"] as const)("%s: pieces are kept, resumed, replaced and cleared", async (kind) => {
    expect(await call("check", kind)).toEqual([]);
  });

  if (whyNoWasm) test.skip(`the library by itself: ${whyNoWasm}`);
  const withWasm = test.runIf(!whyNoWasm);

  withWasm("the library by itself: a relative address, quantized on arrival", async () => {
    const first = await call("story", "./storyteller/", 16);
    expect(first.statuses[0]).toBe("initiate");
    expect(first.last).toMatchObject({ status: "done", progress: 100, total: 10_951_168 });
    expect(first.last.network).toBeGreaterThan(10_900_000);
    const second = await call("story", "./storyteller/", 16);
    expect(second.last.network).toBe(0);
    expect(second.text).toBe(first.text);
  });

  withWasm("a server on another origin that shows nothing, and one that shows least", async () => {
    const other = await new FileServer(STORYTELLER).start();
    try {
      const refused = await call("story", other.address, 1).catch((error: Error) => error.message);
      expect(refused).toMatch(/NetworkError.*cannot be reached, or it does not allow/);
      // Neither Content-Range nor ETag can be seen: sizes come from HEAD.
      other.misbehave = (_, response) => !response.setHeader("Access-Control-Allow-Origin", "*");
      other.asked.length = 0;
      const { text, last } = await call("story", other.address, 16);
      expect(text).toContain("The Fox");
      expect(last.network).toBeGreaterThan(10_900_000);
      const methods = new Set(other.asked.map(({ method }) => method));
      expect([...methods].sort()).toEqual(["GET", "HEAD"]); // no questions beforehand (OPTIONS)
      expect((await call("story", other.address, 16)).last.network).toBe(0);
    } finally {
      await other.stop();
    }
  });
});
