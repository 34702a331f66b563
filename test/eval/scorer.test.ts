// Scores of tokens: those of a forward pass over each text alone, on every backend and for every kind of position and cache; and the
// same bits whatever is computed together.

import { describe, expect, test } from "vitest";
import { nativeAvailable } from "../../src/backends/native/addon.js";
import type { Device } from "../../src/core/device.js";
import { AbortError } from "../../src/core/errors.js";
import { type Branch, batches, neighbours, type TokenText, treeOf } from "../../src/eval/harness/prefix-tree.js";
import { type Scored, type ScoreOptions, scoreTexts } from "../../src/eval/harness/scorer.js";
import { AutoModelForCausalLM } from "../../src/generate/auto.js";
import type { PreTrainedModel } from "../../src/generate/model.js";
import type { FromPretrainedOptions } from "../../src/index.js";
import { DEVICES } from "../support/devices.js";
import { FIXTURES } from "../support/fixtures.js";
import { onDevice } from "../support/suites.js";
import { gpu } from "../support/webgpu.js";

const run = (length: number, step: number, start: number): number[] =>
  Array.from({ length }, (_, i) => (start + step * i) % 90);
const QUESTION = run(21, 7, 3);
/** A beginning of all, questions with answers, one of one token, a text within another, one that stands alone, the same one twice. */
const TEXTS: readonly TokenText[] = [
  { ids: [...QUESTION, 5, 6, 7], from: 21 },
  { ids: [...QUESTION, 5, 9], from: 21 },
  { ids: [...QUESTION, 8], from: 21 },
  { ids: [...QUESTION, 4], from: 21 },
  { ids: [...QUESTION.slice(0, 12), ...run(20, 11, 40)], from: 12 },
  { ids: QUESTION.slice(0, 15), from: 1 },
  { ids: run(33, 5, 1), from: 30 },
  { ids: [17, 2], from: 1 },
  { ids: [...QUESTION, 5, 6, 7], from: 21 },
];

const load = (device: Device, name: string, options: FromPretrainedOptions = {}): Promise<PreTrainedModel> =>
  AutoModelForCausalLM.from_pretrained(`${FIXTURES}/models/${name}`, { device, ...options });

async function scores(model: PreTrainedModel, texts = TEXTS, options: Partial<ScoreOptions> = {}): Promise<Scored[]> {
  const found: Scored[] = [];
  await scoreTexts(model, texts, {
    rows: 64,
    ...options,
    scored: (batch) => {
      for (const [text, scored] of batch) found[text] = scored;
    },
  });
  return found;
}

/** In double precision, from the logits of a pass over the text alone. */
async function expected(model: PreTrainedModel, { ids, from }: TokenText): Promise<Scored> {
  const { logits } = model.forward({ input_ids: [ids.slice(0, -1)] });
  const values = await logits.readFloats();
  const vocab = logits.shape[2]!;
  logits.dispose();
  let [loglikelihood, is_greedy] = [0, true];
  for (let at = from; at < ids.length; at++) {
    const row = values.subarray((at - 1) * vocab, at * vocab);
    const highest = Math.max(...row);
    const sum = row.reduce((all, value) => all + Math.exp(value - highest), 0);
    loglikelihood += row[ids[at]!]! - highest - Math.log(sum);
    is_greedy &&= row.indexOf(highest) === ids[at];
  }
  return { loglikelihood, is_greedy };
}

async function check(model: PreTrainedModel, texts = TEXTS): Promise<void> {
  const found = await scores(model, texts);
  for (const [n, text] of texts.entries()) {
    const wanted = await expected(model, text);
    expect(found[n]!.is_greedy, `text ${n}`).toBe(wanted.is_greedy);
    // Sums of some 20 values of f32 of about 5: 1e-5 is far above their rounding, and far below any mistake.
    expect(Math.abs(found[n]!.loglikelihood - wanted.loglikelihood), `text ${n}`).toBeLessThan(
      1e-5 * Math.max(10, Math.abs(wanted.loglikelihood)),
    );
  }
}

describe("beginnings that are shared", () => {
  const order = neighbours(TEXTS);
  test("are in the tree once", () => {
    const tree = treeOf(TEXTS, order, true);
    const tokens = (branches: readonly Branch[]): number =>
      branches.reduce((sum, { ids, branches: inside }) => sum + ids.length + tokens(inside), 0);
    const alone = TEXTS.reduce((sum, { ids }) => sum + ids.length - 1, 0);
    expect(tokens(treeOf(TEXTS, order, false))).toBe(alone);
    // Short differences at the end are computed again rather than forked.
    expect(tokens(tree)).toBeLessThan(alone - 5 * 12);
  });
  test("are not counted twice against a batch's tokens", () => {
    const sizes = batches(TEXTS, order, { texts: 64, tokens: 60 }).map(({ length }) => length);
    expect(sizes.reduce((sum, size) => sum + size, 0)).toBe(TEXTS.length);
    expect(Math.max(...sizes)).toBeGreaterThan(4);
    expect(batches(TEXTS, order, { texts: 2, tokens: 1e9 }).every(({ length }) => length <= 2)).toBe(true);
  });
});

describe.each([...DEVICES, ...(gpu ? ["webgpu"] : [])])("on %s", { timeout: 120_000 }, (name) => {
  let device: Device;
  onDevice(name, (opened) => {
    device = opened;
  });

  test("scores are those of a pass over each text", async () => {
    await using model = await load(device, "llama");
    await check(model);
  });

  // Its tiles sum in another order from nine rows on, unless `deterministic` asks for one.
  const tiled = name === "webgpu" ? " (large products of a GPU sum in another order)" : "";
  test.skipIf(tiled !== "")(`results do not depend on what is computed together, in 8 bits too${tiled}`, async () => {
    for (const options of [{}, { load_in_8bit: true }]) {
      await using model = await load(device, "llama", options);
      const alone = (await Promise.all(TEXTS.map((text) => scores(model, [text])))).flat();
      expect(await scores(model)).toEqual(alone);
      expect(await scores(model, TEXTS, { rows: 3 })).toEqual(alone);
    }
  });
});

const why = nativeAvailable() ? "with" : "with (the native add-on is not built)";
describe.skipIf(!nativeAvailable())(why, () => {
  let device: Device;
  onDevice("cpu", (opened) => {
    device = opened;
  });

  test.each([
    ["a window", "mistral"],
    ["windows and caps", "gemma2"],
    ["ALiBi", "bloom"],
    ["learned positions", "gpt2"],
    ["experts", "mixtral"],
    ["frequencies by length", "llama-rope-dynamic"],
    ["two sets of frequencies", "phi3-longrope"],
  ])("%s", async (_, name) => {
    await using model = await load(device, name);
    await check(model, [...TEXTS, { ids: run(60, 3, 2), from: 40 }]);
  });

  test("keys and values in 8 bits, close to those in floats", async () => {
    await using model = await load(device, "llama");
    const [exact, rounded] = [await scores(model), await scores(model, TEXTS, { cache_dtype: "i8" })];
    expect(rounded).not.toEqual(exact);
    for (const [n, { loglikelihood }] of rounded.entries()) {
      expect(Math.abs(loglikelihood / exact[n]!.loglikelihood - 1)).toBeLessThan(0.05); // codes of 1/127 of a head's largest
    }
  });

  test("a signal, it stops and leaves nothing behind", async () => {
    await using model = await load(device, "llama");
    const stop = new AbortController();
    const work = scores(model, TEXTS, { rows: 1, signal: stop.signal, ran: () => stop.abort() });
    await expect(work).rejects.toThrow(AbortError);
  });
});
