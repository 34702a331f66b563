// A page in Firefox: the library in its Worker as WebAssembly, where Firefox does not offer WebGPU, and on its WebGPU
// (wgpu, as in Deno) where it is told to.

import { cpSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
// @ts-expect-error a script without types
import { selectAdapter } from "../../scripts/webgpu-env.mjs";
import { AutoModelForCausalLM, AutoTokenizer, type FromPretrainedOptions } from "../../src/generate/auto.js";
import { type Site, serveWorker } from "../browser/bundle.js";
import { FAMILIES } from "../conformance/cases/index.js";
import { floatsOf } from "../support/conformance.js";
import { whyNoWasm } from "../support/devices.js";
import { describeFirefox, type Preferences, visitFirefox, WITH_WEBGPU } from "../support/firefox.js";
import { STORYTELLER } from "../support/models.js";
import { RemoteCalls } from "../support/remote.js";
import type { Remote } from "./remote-worker.js";

const PROMPT = "Once upon a time";
const ADDRESS = "./storyteller/";
const FORMS: Readonly<Record<string, FromPretrainedOptions>> = {
  float32: { dtype: "float32" },
  int8: { load_in_8bit: true },
  nf4: { quantization_config: { load_in_4bit: true, bnb_4bit_quant_type: "nf4" } },
};
/** A GPU in software compiles for seconds, and Firefox's checks each access to a buffer. */
const GPU_TOKENS = 4;

/** The same by the library in Node. */
async function expectedText(tokens: number, options: FromPretrainedOptions): Promise<string> {
  await using model = await AutoModelForCausalLM.from_pretrained(STORYTELLER, { device: "cpu", ...options });
  const tokenizer = await AutoTokenizer.from_pretrained(STORYTELLER);
  const { input_ids } = tokenizer(PROMPT);
  const [ids] = await model.generate({ input_ids: [input_ids], max_new_tokens: tokens, do_sample: false });
  return tokenizer.decode(ids!);
}

describeFirefox("Firefox", () => {
  let site: Site;
  let remote: RemoteCalls<Remote>;

  beforeAll(async () => {
    site = await serveWorker("../runtimes/remote-worker.ts", true, (request, response) =>
      remote.serve(request, response),
    );
    cpSync(STORYTELLER, join(site.folder, "storyteller"), { recursive: true });
  });
  afterAll(() => site?.stop());

  /** Has the tests of a suite call into a Firefox of their own. */
  function visit(preferences: Preferences = {}, isolated = true): void {
    let end: (() => Promise<void>) | undefined;
    beforeAll(async () => {
      site.isolated = isolated;
      remote = new RemoteCalls();
      end = visitFirefox(site.address, preferences);
      await remote.call("facts");
    });
    afterAll(() => end?.());
  }

  const weightsAsked = (): number =>
    site.asked.filter(({ path, range }) => path.endsWith("model.safetensors") && range !== "bytes=0-0").length;

  describe("as it comes", () => {
    visit();

    test("what it has, and why auto takes WebAssembly", async () => {
      const facts = await remote.call("facts");
      console.log(JSON.stringify(facts));
      expect(facts.isolated).toBe(true);
      expect(facts.gpu).toBe(facts.auto.reason !== "this browser has no WebGPU");
      expect(facts.auto.name).toBe("wasm");
    });

    test.each(["opfs", "cache-api"] as const)("%s: pieces are kept, resumed, replaced and cleared", async (kind) => {
      expect(await remote.call("check", kind)).toEqual([]);
    });

    if (whyNoWasm) test.skip(`WebAssembly: ${whyNoWasm}`);
    else {
      test.each(Object.entries(FORMS))("the storyteller on auto in %s: the CPU's text", async (form, options) => {
        const { text, description } = await remote.call("tell", ADDRESS, 16, { device: "auto", ...options });
        const expected = await expectedText(16, options);
        console.log(`${form}: ${description}`);
        expect(description).toMatch(/^WebAssembly with relaxed SIMD, \d+ threads?$/);
        // Sums in another order can tip a choice between two tokens of a quantized model, later.
        expect(text.slice(0, 40)).toBe(expected.slice(0, 40));
        if (form === "float32") expect(text).toBe(expected);
      });

      test("what was downloaded is kept", async () => {
        site.asked.length = 0;
        const { last } = await remote.call("story", ADDRESS, 1);
        expect(last).toMatchObject({ status: "done", network: 0 });
        expect(weightsAsked()).toBe(0);
      });

      test("conformance of every op", async () => {
        const { lacks } = await remote.call("open", "wasm");
        expect(lacks).toEqual([]);
        for (const family of FAMILIES) {
          for (const floats of floatsOf(family)) {
            const problems = await remote.call("table", family.op.name, floats, 1);
            expect(problems.slice(0, 5), `${family.op.name} ${floats}`).toEqual([]);
          }
        }
        expect(await remote.call("close"), "memory left").toEqual([]);
      });
    }
  });

  if (!whyNoWasm) {
    describe("a page that is not isolated", () => {
      visit({}, false);

      test("does without threads", async () => {
        expect((await remote.call("facts")).isolated).toBe(false);
        const { text, description } = await remote.call("tell", ADDRESS, 16, { device: "wasm", dtype: "float32" });
        expect(text).toBe(await expectedText(16, { dtype: "float32" }));
        expect(description).toBe("WebAssembly with relaxed SIMD, 1 thread");
      });
    });
  }

  const found = selectAdapter() as { driver: string } | { missing: string };
  if ("missing" in found) test.skip(`with WebGPU: ${found.missing}`);
  else {
    describe("with WebGPU", () => {
      visit(WITH_WEBGPU);

      test("the storyteller on its adapter: the CPU's text", async () => {
        const { auto, gpu } = await remote.call("facts");
        console.log(JSON.stringify(auto));
        expect(gpu).toBe(true);
        const { text, description } = await remote.call("tell", ADDRESS, GPU_TOKENS, {
          device: "webgpu",
          dtype: "float32",
        });
        console.log(description);
        expect(text).toBe(await expectedText(GPU_TOKENS, { dtype: "float32" }));
      });

      test("its compiler takes all shaders", async () => {
        for (const { description, shaders, complaints } of await remote.call("lookAtShaders")) {
          console.log(`${description}: ${shaders} shaders`);
          expect(complaints).toEqual([]);
          expect(shaders).toBeGreaterThan(300);
        }
      });
    });
  }
});
