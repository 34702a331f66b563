// Options that a page sends: the Worker refuses what is wrong before it opens or fetches anything, in the library's words.

import { afterEach, describe, expect, test, vi } from "vitest";
import { WorkerHost } from "../../src/browser/client.js";
import { type FromWorker, revive } from "../../src/browser/protocol.js";
import { type Port, serve } from "../../src/browser/worker.js";
import { OctavoError, OptionError } from "../../src/core/errors.js";
import { ODD } from "../support/odd.js";

afterEach(() => vi.unstubAllGlobals());

/** What the Worker answers to one call, as the page would throw it. */
async function refusal(call: string, args: unknown): Promise<Error> {
  vi.stubGlobal("fetch", () => {
    throw new Error("something was fetched");
  });
  const answer = await new Promise<FromWorker>((resolve) => {
    const port: Port = { onmessage: null, postMessage: (message) => resolve(structuredClone(message) as FromWorker) };
    serve(port);
    port.onmessage!({ data: structuredClone({ id: 1, call, args }) });
  });
  if (!("error" in answer)) throw new Error("it was answered");
  return revive(answer.error);
}

const load = (options: object) => ({ model: "https://example.org/model", options });

test.each<[string, unknown, string]>([
  ["load", load({ load_in_8bits: true }), "load: unknown option `load_in_8bits`; did you mean `load_in_8bit`?"],
  ["load", load({ head_dtype: "int4" }), 'head_dtype must be "auto" or "int8", got "int4"'],
  ["load", load({ device: "webgp" }), 'got "webgp"; did you mean "webgpu"?'],
  ["load", load({ threads: 0 }), "threads must be a whole number above 0, got 0"],
  ["load", load({ cache_dir: "/tmp" }), "load: unknown option `cache_dir`"],
  ["survey", load({ dtype: "int8" }), 'dtype must be "auto" or one of'],
  ["generate", { prompt: "x", temprature: 1 }, "generate: unknown option `temprature`; did you mean `temperature`?"],
  ["generate", { prompt: "x", input_ids: [[1]] }, "generate: unknown option `input_ids`"],
  ["generate", { prompt: 5 }, "prompt must be text, got 5"],
  ["generate", {}, "the prompt is missing"],
  ["train", { train_dataset: [{ text: "x" }], lora: {} }, "train: unknown option `lora`"],
  ["train", { train_dataset: "x" }, "train_dataset must be a list of examples"],
  ["train", { train_dataset: [{ text: "x" }] }, "no model is loaded in this Worker"],
  ["train", {}, "the train_dataset is missing"],
  ["load_adapter", { which: "x", adapter_name: "a" }, "no model is loaded in this Worker"],
])("%s of %j", async (call, args, words) => {
  const error = await refusal(call, args);
  expect(error).toBeInstanceOf(OptionError);
  expect(error.message).toContain(words);
});

describe("the page's side", () => {
  /** A Worker that answers each call at once. */
  function answering(): { host: WorkerHost; sent: unknown[] } {
    const sent: unknown[] = [];
    let receive: (event: { data: unknown }) => void = () => {};
    const host = new WorkerHost({
      postMessage(message) {
        const { id, call, args } = structuredClone(message) as { id: number; call: string; args: unknown };
        sent.push({ call, args });
        queueMicrotask(() => receive({ data: { id, result: { text: "done" } } }));
      },
      terminate() {},
      addEventListener(type: string, listener: (event: never) => void) {
        if (type === "message") receive = listener as typeof receive;
      },
    });
    return { host, sent };
  }

  test("a prompt and its options may come in two arguments", async () => {
    const { host, sent } = answering();
    const args = { max_new_tokens: 3, prompt: "Once" };
    await host.generate(args);
    await host.generate("Once", { max_new_tokens: 3, step: () => {}, signal: new AbortController().signal });
    await host.generate("Once");
    expect(sent).toEqual([args, args, { prompt: "Once" }].map((one) => ({ call: "generate", args: one })));
    await expect(host.generate("Once", { prompt: "Twice" } as object)).rejects.toThrow(/takes one object, or a prompt/);
    await expect(host.generate({ prompt: "x" } as never, { max_new_tokens: 3 })).rejects.toThrow(/takes one object/);
  });

  test("whatever a page passes is sent, or refused with a typed error, and no call is left waiting", async () => {
    for (const [name, make] of Object.entries(ODD)) {
      expect(() => new WorkerHost(make() as never), name).toThrow(OctavoError);
      const { host } = answering();
      const odd = host as unknown as Record<string, (...args: readonly unknown[]) => Promise<unknown>>;
      for (const call of [
        () => odd.load!(make()),
        () => odd.load!("a/b", make()),
        () => odd.load!("a/b", { dtype: make() }),
        () => odd.load!("a/b", { progress_callback: make() }),
        () => odd.survey!("a/b", { signal: make() }),
        () => odd.generate!(make()),
        () => odd.generate!("x", make()),
        () => odd.generate!({ prompt: make() }),
        () => odd.generate!("x", { step: make(), signal: make() }),
        () => odd.train!(make()),
        () => odd.train!({ train_dataset: make(), args: make(), peft_config: make() }),
        () => odd.train!({ step: make(), signal: make() }),
        () => odd.load_adapter!(make(), make()),
        () => odd.set_adapter!(make()),
        () => odd.delete_adapter!(make()),
      ]) {
        const error: unknown = await call().then(
          () => undefined,
          (thrown: unknown) => thrown,
        );
        if (error !== undefined) expect(error, `${name}: ${call}`).toBeInstanceOf(OctavoError);
      }
    }
  });
});
