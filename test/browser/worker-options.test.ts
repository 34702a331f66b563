// Options that a page sends: the Worker refuses what is wrong before it opens or fetches anything, in the library's words.

import { afterEach, expect, test, vi } from "vitest";
import { type FromWorker, revive } from "../../src/browser/protocol.js";
import { type Port, serve } from "../../src/browser/worker.js";
import { OptionError } from "../../src/core/errors.js";

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
])("%s of %j", async (call, args, words) => {
  const error = await refusal(call, args);
  expect(error).toBeInstanceOf(OptionError);
  expect(error.message).toContain(words);
});
