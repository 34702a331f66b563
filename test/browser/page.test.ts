// The example page in a headless Chromium, from the first look to the last token: what it shows, what it asks the server
// for, what it keeps, and that its text is the CPU's. Prints the texts and times that nobody can assert.

import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Browser, BrowserContext, Page } from "playwright-core";
import { afterAll, beforeAll, beforeEach, expect, test, vi } from "vitest";
// @ts-expect-error a script without types
import { build as buildOf } from "../../examples/browser/build.mjs";
import { nativeAvailable } from "../../src/backends/native/index.js";
import { AutoModelForCausalLM, AutoTokenizer, type FromPretrainedOptions } from "../../src/generate/auto.js";
import { requestDevice } from "../../src/load/device.js";
import { describeChromium, launchChromium } from "../support/chromium.js";
import { whyNoWasm } from "../support/devices.js";
import { STORYTELLER } from "../support/models.js";
import { gpu, whyNoGPU } from "../support/webgpu.js";
import { type Site, serveFolder } from "./bundle.js";

const build = buildOf as (folder: string) => Promise<unknown>;
const WEIGHTS = "/models/storyteller/model.safetensors";
const SIZE = 10_957_216;
const TOKENS = 12;
/** Tokens that the page generates: an adapter in software takes most of a second for one. */
const GENERATED: Readonly<Record<string, number>> = { webgpu: 4, wasm: TOKENS };
/** Tokens of quantized models that Node's devices generate to compare with: a GPU in software takes its time. */
const COMPARED: Readonly<Record<string, number>> = { webgpu: 3, wasm: TOKENS };
const DEVICES = whyNoWasm ? ["webgpu"] : ["webgpu", "wasm"];

const folder = mkdtempSync(join(tmpdir(), "octavo-example-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

describeChromium("the example page", () => {
  let site: Site;
  let browser: Browser;
  let context: BrowserContext;
  let page: Page;
  const complaints: string[] = [];

  beforeAll(async () => {
    await build(folder);
    site = await serveFolder(folder);
    browser = await launchChromium();
    context = await browser.newContext({ viewport: { width: 880, height: 1000 } });
  });
  afterAll(async () => {
    await browser?.close();
    await site?.stop();
    expect(complaints, "errors of the page").toEqual([]);
  });
  beforeEach(() => {
    site.asked.length = 0;
    site.slowness = 0;
  });

  async function visit(): Promise<Page> {
    const opened = await context.newPage();
    opened.on("pageerror", (error) => complaints.push(String(error)));
    opened.on("console", (message) => {
      // Files that a tokenizer may have and this one has not are asked for and not found.
      if (message.type() === "error" && !/404/.test(message.text())) complaints.push(message.text());
    });
    await opened.goto(site.address);
    return opened;
  }

  const text = async (selector: string): Promise<string> => (await page.textContent(selector))!.trim();
  const enabled = (selector: string): Promise<unknown> =>
    page.waitForFunction(`!document.querySelector(${JSON.stringify(selector)}).disabled`, null, { timeout: 120_000 });
  /** Bytes of the weights that requests were for. */
  const weightsOf = (requests: Site["asked"]): number =>
    requests.reduce((sum, { path, range }) => {
      const [, start, end] = /^bytes=(\d+)-(\d+)$/.exec(range ?? "")?.map(Number) ?? [];
      return path === WEIGHTS ? sum + Math.min(SIZE, end! + 1) - start! : sum;
    }, 0);
  const weightsAsked = (): number => weightsOf(site.asked);

  async function load(device: string, bits: string): Promise<void> {
    await page.selectOption("#device", device);
    await page.check(`input[name=bits][value="${bits}"]`);
    await page.click("#load");
    await page.waitForSelector("#progress-box", { state: "hidden", timeout: 120_000 });
    await enabled("#load");
    expect(await page.isHidden("#error"), await text("#error")).toBe(true);
  }

  /** What the model adds to the prompt. */
  async function generate(tokens: number): Promise<string> {
    await page.fill("#temperature", "0");
    await page.fill("#tokens", String(tokens));
    await page.click("#generate");
    await enabled("#generate");
    return text("#output").then(async (all) => all.slice((await text("#output .prompt")).length).trim());
  }

  /** The same by the library in Node, `tokens` of it. */
  async function expectedText(
    options: FromPretrainedOptions,
    name = nativeAvailable() ? "cpu" : "reference",
    tokens = TOKENS,
  ): Promise<string> {
    await using device = await requestDevice(name);
    await using model = await AutoModelForCausalLM.from_pretrained(STORYTELLER, { device, ...options });
    const tokenizer = await AutoTokenizer.from_pretrained(STORYTELLER);
    const { input_ids } = tokenizer(await page.inputValue("#prompt"));
    const [ids] = await model.generate({ input_ids: [input_ids], max_new_tokens: tokens, do_sample: false });
    return tokenizer.decode(ids!.slice(input_ids.length), { skip_special_tokens: true }).trim();
  }

  test("says what the model takes before it is downloaded, and what the adapter offers", async () => {
    page = await visit();
    await page.waitForFunction(`/Download 11\\.0 MB/.test(document.querySelector("#size").textContent)`);
    expect(await text("#size")).toContain("6.6 MB of weights");
    await page.check('input[name=bits][value="4"]');
    expect(await text("#size")).toContain("of weights");
    expect(await text("#size")).not.toContain("6.6 MB of weights");
    expect(weightsAsked()).toBeLessThanOrEqual(1 << 20);
    await page.click("summary");
    await page.waitForSelector("#adapter dd");
    const adapter = await text("#adapter");
    expect(adapter).toContain("swiftshader (in software)");
    console.log(adapter);
    await page.click("summary");
  });

  test("loading can be cancelled; the next load asks only for what has not arrived", async () => {
    site.slowness = 400;
    await page.selectOption("#device", DEVICES.at(-1)!);
    await page.click("#load");
    await page.waitForSelector("#cancel", { state: "visible" });
    await vi.waitUntil(() => weightsOf(site.answered) > 4 << 20, { timeout: 30_000 });
    await page.click("#cancel");
    await page.waitForSelector("#cancel", { state: "hidden" });
    expect(await text("#loaded")).toContain("cancelled");
    expect(await page.isDisabled("#generate")).toBe(true);
    site.slowness = 0;
    site.asked.length = 0;
    await load(DEVICES.at(-1)!, "8");
    const asked = weightsAsked();
    console.log(`after the cancelled load, ${asked} of ${SIZE} bytes were asked for`);
    expect(asked).toBeGreaterThan(1000);
    expect(asked).toBeLessThan(SIZE - (1 << 20));
  });

  test("the second visit loads from the cache, and asks for none of the weights", async () => {
    await page.close();
    page = await visit();
    await load(DEVICES.at(-1)!, "8");
    expect(weightsAsked()).toBeLessThanOrEqual(2); // first bytes, to learn whether the file is the same
    expect(await text("#loaded")).toContain("from the cache");
    expect(await text("#cached")).toContain("11.2 MB");
  });

  test.each(DEVICES)("greedy text on %s in 32 bits is the CPU's", async (device) => {
    await load(device, "32");
    const tokens = GENERATED[device]!;
    expect(await generate(tokens)).toBe(await expectedText({ dtype: "float32" }, undefined, tokens));
    expect(await text("#speed")).toMatch(/^[\d.]+ tok\/s$/);
    expect(await text("#weights")).toBe("21.9 MB");
    expect(await text("#kv")).toMatch(/MB$/);
  });

  test.each([
    ["8", { load_in_8bit: true }],
    ["4", { quantization_config: { load_in_4bit: true, bnb_4bit_quant_type: "nf4" } }],
  ] as const)("greedy text in %s bits is that of the same device in Node", async (bits, options) => {
    // Sums in another order can tip a choice between two tokens, so the CPU's text is printed and not asked for.
    const lines = [`cpu: ${JSON.stringify(await expectedText(options))}`];
    for (const device of DEVICES) {
      await load(device, bits);
      const tokens = GENERATED[device]!;
      const said = await generate(tokens);
      lines.push(`${device}: ${JSON.stringify(said)}`);
      expect(said.length).toBeGreaterThan(tokens);
      if (device === "webgpu" && !gpu) lines.push(`webgpu is not compared: ${whyNoGPU}`);
      else expect(said.startsWith(await expectedText(options, device, COMPARED[device]))).toBe(true);
    }
    console.log(`${bits} bits\n${lines.join("\n")}`);
  });

  test("a page load with cached files: time to the first token (printed, not asserted)", async () => {
    for (const device of DEVICES) {
      await page.close();
      const begin = performance.now();
      page = await visit();
      const visited = performance.now();
      await load(device, "8");
      const loaded = performance.now();
      await generate(1);
      const end = performance.now();
      const ms = (from: number, to: number) => `${(to - from).toFixed(0)} ms`;
      console.log(
        `${device}, 8 bits: first token ${ms(begin, end)} after the page was asked for ` +
          `(page ${ms(begin, visited)}, load ${ms(visited, loaded)}, token ${ms(loaded, end)})`,
      );
    }
  });

  test("a whole story: the page is drawn (a screenshot on demand)", async () => {
    await load(DEVICES.at(-1)!, "8");
    await page.fill("#temperature", "0.7");
    await page.fill("#tokens", "120");
    await page.click("#generate");
    await enabled("#generate");
    expect((await text("#output")).length).toBeGreaterThan(200);
    // OCTAVO_SCREENSHOT=examples/browser/screenshot.png keeps it; look at it before it is committed.
    const image = await page.screenshot({ fullPage: true, path: process.env.OCTAVO_SCREENSHOT });
    expect(image.length).toBeGreaterThan(10_000);
  });

  test("Stop ends a generation that runs, and the page answers meanwhile", async () => {
    for (const device of DEVICES) {
      await load(device, "8");
      await page.fill("#tokens", "400");
      await page.fill("#temperature", "0");
      await page.evaluate("globalThis.ticks = 0; globalThis.ticker = setInterval(() => globalThis.ticks++, 5)");
      await page.click("#generate");
      // Pressed in the page itself: a fast device would be through before a click from here arrived.
      const stop = `document.querySelector("#output").textContent.length > 60 && (document.querySelector("#stop").click(), true)`;
      await page.waitForFunction(stop, null, { timeout: 60_000 });
      await enabled("#generate");
      const ticks = Number(await page.evaluate("clearInterval(globalThis.ticker), globalThis.ticks"));
      expect(ticks, `turns of the page while ${device} computed`).toBeGreaterThan(3);
      expect((await text("#output")).length).toBeLessThan(900);
      expect(await page.isHidden("#error")).toBe(true);
      // The Worker is as good as before.
      expect((await generate(2)).length).toBeGreaterThan(0);
    }
  });

  test("a storage that is full does not end a load, and the page says so", async () => {
    const session = await context.newCDPSession(page);
    await page.click("#clear");
    await page.waitForFunction(`document.querySelector("#cached").textContent === "Nothing is cached"`);
    await session.send("Storage.overrideQuotaForOrigin", { origin: site.address, quotaSize: 3_000_000 });
    try {
      await load(DEVICES.at(-1)!, "8");
      expect(await text("#loaded")).toContain("storage is full");
      expect((await generate(2)).length).toBeGreaterThan(0);
    } finally {
      await session.send("Storage.overrideQuotaForOrigin", { origin: site.address });
    }
  });

  test("Clear cache empties it: the next load asks for everything", async () => {
    await page.click("#clear");
    await page.waitForFunction(`document.querySelector("#cached").textContent === "Nothing is cached"`);
    site.asked.length = 0;
    await load(DEVICES.at(-1)!, "8");
    expect(weightsAsked()).toBeGreaterThanOrEqual(SIZE);
    expect(await text("#cached")).toContain("11.2 MB");
  });

  test("a model that is not there is a typed error with a hint, and the page goes on", async () => {
    await page.selectOption("#which", "other");
    await page.fill("#other", "./models/none/");
    await page.press("#other", "Tab");
    await page.waitForSelector("#error", { state: "visible" });
    expect(await text("#error")).toMatch(
      /^NotFoundError: .*\/models\/none\/config.json: no such config.json \(404\)\n *hint: /,
    );
    await page.selectOption("#which", "storyteller");
    await page.waitForSelector("#error", { state: "hidden" });
    await load(DEVICES.at(-1)!, "8");
  });
});
