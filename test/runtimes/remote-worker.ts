// The Worker of a page in a browser that nobody drives: asks the page's server for calls, one after the other, and posts
// what comes of them (test/support/remote.ts is the other side). The calls are those of the browser suites and some of its own.

import { relaxedSimd } from "../../src/backends/wasm/api.js";
import { chooseDevice } from "../../src/browser/platform.js";
import { WEB } from "../../src/browser/web.js";
import { AutoModelForCausalLM, AutoTokenizer, type FromPretrainedOptions } from "../../src/browser.js";
import { type Caching, caching } from "../browser/cache-worker.js";
import { type Suite, suite } from "../browser/conformance-worker.js";
import type { Answer, Wanted } from "../support/remote.js";
import { type Looked, lookAtShaders } from "./shaders.js";

interface Own {
  /** What this browser has, and what "auto" takes in it. */
  facts(): Promise<{ isolated: boolean; relaxed: boolean; gpu: boolean; auto: { name: string; reason: string } }>;
  lookAtShaders(): Promise<Looked[]>;
  /** The greedy text of a model that is loaded from an address, and the device that it ran on. */
  tell(model: string, tokens: number, options: FromPretrainedOptions): Promise<{ text: string; description: string }>;
}

export type Remote = Own & Caching & Suite;

const own: Own = {
  lookAtShaders,
  async facts() {
    const { crossOriginIsolated } = globalThis as unknown as { crossOriginIsolated: boolean };
    const { name, reason } = await chooseDevice();
    return {
      isolated: crossOriginIsolated,
      relaxed: relaxedSimd(),
      gpu: WEB.navigator?.gpu !== undefined,
      auto: { name, reason },
    };
  },
  async tell(model, tokens, options) {
    const loaded = await AutoModelForCausalLM.from_pretrained(model, options);
    const tokenizer = await AutoTokenizer.from_pretrained(model);
    const { input_ids } = tokenizer("Once upon a time");
    const [ids] = await loaded.generate({ input_ids: [input_ids], max_new_tokens: tokens, do_sample: false });
    const { description } = loaded.device.backend;
    loaded.dispose();
    return { text: tokenizer.decode(ids!), description };
  },
};

/** The server answers within seconds. */
const PATIENCE_MS = 15_000;

const calls = { ...caching, ...suite, ...own } as Record<string, (...args: unknown[]) => Promise<unknown>>;

/** Posts to the page's server until it answers, and gives the JSON of the answer; undefined if there is none. */
async function post(path: string, body: Wanted | Answer): Promise<unknown> {
  for (;;) {
    try {
      const signal = AbortSignal.timeout(PATIENCE_MS);
      const response = await fetch(path, { method: "POST", body: JSON.stringify(body), signal });
      return response.status === 204 ? undefined : await response.json();
    } catch {
      await new Promise((resolve) => setTimeout(resolve, 200));
    }
  }
}

for (let number = 1; ; number++) {
  let given: unknown;
  do given = await post("./call", { number });
  while (given === undefined);
  const { name, args } = given as { name: string; args: unknown[] };
  const answer = await (async () => calls[name]!(...args))().then(
    (result) => ({ result }),
    (error: Error) => ({ error: `${error.name}: ${error.message}` }),
  );
  await post("./answer", { number, ...answer });
}
