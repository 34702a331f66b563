// Models whose rotary frequencies depend on a text's length: the length is that of each text alone, whatever shares its pass,
// its row or its cache.

import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { Device } from "../../src/core/device.js";
import { ShapeError } from "../../src/core/errors.js";
import { Tensor } from "../../src/core/tensor.js";
import { perplexity } from "../../src/eval/perplexity.js";
import { AutoModelForCausalLM } from "../../src/generate/auto.js";
import type { PreTrainedModel } from "../../src/generate/model.js";
import type { RequestConfig } from "../../src/generate/sequence.js";
import { DecodeSession } from "../../src/generate/session.js";
import { TextLengths } from "../../src/nn/text-lengths.js";
import { expectNoLeaks, requestTestDevice } from "../support/devices.js";
import { difference, FIXTURES } from "../support/fixtures.js";

const GREEDY: RequestConfig = {
  do_sample: false,
  temperature: 1,
  top_k: 0,
  top_p: 1,
  min_p: 0,
  repetition_penalty: 1,
  seed: 0,
  max_new_tokens: 6,
  eos_token_ids: [],
};
const text = (length: number, from: number): number[] =>
  Array.from({ length }, (_, i) => 3 + ((from * 41 + i * 37 + i * i) % 90));

describe.each(["llama-rope-dynamic", "phi3-longrope"])("%s", (name) => {
  let device: Device;
  let model: PreTrainedModel;
  beforeAll(async () => {
    device = await requestTestDevice("cpu");
    model = await AutoModelForCausalLM.from_pretrained(join(FIXTURES, "models", name), { device });
  });
  afterAll(async () => {
    model.dispose();
    expectNoLeaks(device);
    await device.close();
  });

  const logitsOf = async (inputs: Parameters<PreTrainedModel["forward"]>[0]): Promise<Float32Array> => {
    const { logits } = model.forward(inputs);
    const values = await logits.readFloats();
    logits.dispose();
    return values;
  };
  /** The tokens of a session's rows until all have ended, each with its log-probability: they show other frequencies. */
  const finish = async (session: DecodeSession): Promise<(readonly [id: number, score: number])[][]> => {
    const tokens: (readonly [number, number])[][] = [];
    for (let step = session.step(); step; step = session.step()) {
      for (const { row, id, score } of await step) (tokens[row] ??= []).push([id, score!]);
    }
    return tokens;
  };
  const open = (rows: number): DecodeSession =>
    new DecodeSession(device, model.module, { rows, capacity: 64, cache_dtype: "f32", scores: true });
  const alone = async (prompt: number[], max_new_tokens: number) => {
    using session = open(1);
    await session.add([{ row: 0, prompt, config: { ...GREEDY, max_new_tokens } }]);
    return (await finish(session))[0]!;
  };

  test("texts in one row have lengths of their own", async () => {
    const [short, long] = [text(5, 1), text(14, 2)];
    const together = await logitsOf({
      input_ids: [[...short, ...long]],
      position_ids: [[...short.keys(), ...long.keys()]],
    });
    const apart = [...(await logitsOf({ input_ids: [short] })), ...(await logitsOf({ input_ids: [long] }))];
    expect(difference(together, apart).max).toBeLessThan(1e-5); // sums in another order
  });

  test("a batch in chunks is as each row alone", async () => {
    const rows = Array.from({ length: 40 }, (_, r) => text(20, r));
    for (const row of [3, 7]) {
      rows[row] = rows[row]!.slice(0, 6); // of the short kind
    }
    const input_ids = rows.map((ids) => [...ids, ...new Array<number>(20 - ids.length).fill(0)]);
    const attention_mask = rows.map((ids) => Array.from({ length: 20 }, (_, t) => (t < ids.length ? 1 : 0)));
    const all = await logitsOf({ input_ids, attention_mask });
    for (const row of [0, 3, 7, 39]) {
      const own = await logitsOf({ input_ids: [rows[row]!] });
      const vocab = all.length / 800;
      const part = all.subarray(row * 20 * vocab, row * 20 * vocab + own.length);
      expect(difference(part, own).max).toBeLessThan(1e-4); // sums in another order
    }
  });

  test("a request's tokens do not depend on its mates, nor on who had its row before", async () => {
    const requests = [
      { row: 0, prompt: text(3, 1), config: { ...GREEDY, max_new_tokens: 5 } }, // never long
      { row: 1, prompt: text(12, 2), config: { ...GREEDY, max_new_tokens: 20 } },
      { row: 2, prompt: text(4, 3), config: { ...GREEDY, max_new_tokens: 30 } }, // becomes long
    ];
    using session = open(3);
    await session.add(requests);
    const together = await finish(session);
    for (const { row, prompt, config } of requests) {
      expect(together[row]).toEqual(await alone(prompt, config.max_new_tokens));
    }
    await session.add([{ ...requests[0]!, row: 1 }]);
    expect((await finish(session))[1]).toEqual(together[0]);
  });

  test("the first of a request's tokens is that of a forward pass, if it asks for no more", async () => {
    const prompt = text(13, 5);
    const last = (await logitsOf({ input_ids: [prompt], logits_to_keep: 1 })) as ArrayLike<number>;
    const likeliest = Array.from(last).indexOf(Math.max(...Array.from(last)));
    expect((await alone(prompt, 1)).map(([id]) => id)).toEqual([likeliest]);
  });

  test("resumed texts keep no keys of another length", async () => {
    const first = text(4, 6);
    using session = open(2);
    await session.add([{ row: 0, prompt: first, config: { ...GREEDY, max_new_tokens: 4 } }]);
    await session.step();
    const prompt = [...first, ...text(9, 7)];
    const config = { ...GREEDY, max_new_tokens: 12 };
    await session.resume([{ row: 0, prompt, config }]);
    await session.step();
    session.fork(0, 1, config, 0);
    const wanted = (await alone(prompt, 12)).slice(1);
    expect(await finish(session)).toEqual([wanted, wanted]);
  });

  test("perplexity is the same through a cache", async () => {
    const ids = text(40, 8);
    const options = { window: 20, stride: 10 };
    const without = await perplexity(model, ids, options);
    const cached = await perplexity(model, ids, { ...options, cache_dtype: "f32" });
    expect(cached.loss).toBeCloseTo(without.loss, 4);
  });

  test("a pass that does not say its lengths is refused", () => {
    const ids = Tensor.from(device, Int32Array.of(4, 5), [1, 2]);
    const positions = Tensor.from(device, Int32Array.of(0, 1), [1, 2]);
    expect(() => model.module.forward({ ids, positions })).toThrow(ShapeError);
    expect(() => model.module.forward({ ids, positions })).toThrow(/depend on a text's length: give `lengths`/);
    using lengths = new TextLengths([2]);
    model.module.forward({ ids, positions, lengths }).dispose();
    ids.dispose();
    positions.dispose();
  });
});
