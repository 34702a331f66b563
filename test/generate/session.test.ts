// Decode sessions: rows of different lengths are as each is alone, rows are replaced, forked and reordered while the others
// go on, and what is generated does not depend on the row it is generated in.

import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { Device } from "../../src/core/device.js";
import { OptionError } from "../../src/core/errors.js";
import { AutoModelForCausalLM } from "../../src/generate/auto.js";
import { NgramDrafter } from "../../src/generate/drafters/ngram.js";
import type { PreTrainedModel } from "../../src/generate/model.js";
import type { RequestConfig, RowToken } from "../../src/generate/sequence.js";
import { DecodeSession } from "../../src/generate/session.js";
import type { SessionOptions } from "../../src/generate/session-options.js";
import { ALL_DEVICES, expectNoLeaks, requestTestDevice } from "../support/devices.js";
import { FIXTURES } from "../support/fixtures.js";

const GREEDY: RequestConfig = {
  do_sample: false,
  temperature: 1,
  top_k: 0,
  top_p: 1,
  min_p: 0,
  repetition_penalty: 1,
  seed: 0,
  max_new_tokens: 10,
  eos_token_ids: [],
};
const SAMPLED: RequestConfig = { ...GREEDY, do_sample: true, temperature: 0.9, top_k: 40, top_p: 0.95, seed: 17 };
const PENALIZED: RequestConfig = { ...SAMPLED, repetition_penalty: 1.3, presence_penalty: 0.4, frequency_penalty: 0.2 };

const text = (length: number, from: number): number[] =>
  Array.from({ length }, (_, i) => 3 + ((from * 41 + i * 37 + i * i) % 150));
const PROMPTS = [text(11, 1), text(1, 2), text(40, 3), text(5, 4)];
const CAPACITY = 64;

/** The tokens that each row is given until all have ended. */
async function run(session: DecodeSession, into: Map<number, number[]> = new Map()): Promise<Map<number, number[]>> {
  for (let step = session.step(); step; step = session.step()) collect(await step, into);
  return into;
}

function collect(tokens: readonly RowToken[], into: Map<number, number[]>): void {
  for (const { row, id } of tokens) into.set(row, [...(into.get(row) ?? []), id]);
}

describe.each(ALL_DEVICES)("%s", (name) => {
  let device: Device;
  let model: PreTrainedModel;
  beforeAll(async () => {
    device = await requestTestDevice(name);
    model = await AutoModelForCausalLM.from_pretrained(join(FIXTURES, "models", "llama"), { device });
  });
  afterAll(async () => {
    model.dispose();
    expectNoLeaks(device);
    await device.close();
  });

  const open = (rows: number, more: Partial<SessionOptions> = {}): DecodeSession =>
    new DecodeSession(device, model.module, { rows, capacity: CAPACITY, cache_dtype: "f32", ...more });

  /** What a request is given alone, in the first row of a session of one. */
  const alone = async (prompt: readonly number[], config: RequestConfig, sequence = 0): Promise<number[]> => {
    using session = open(1);
    await session.add([{ row: 0, prompt, config, sequence }]);
    return (await run(session)).get(0)!;
  };

  test("rows of different lengths are as each is alone", async () => {
    const want: number[][] = [];
    for (const prompt of PROMPTS) want.push(await alone(prompt, GREEDY));
    for (const chunk of [undefined, 7]) {
      using session = open(PROMPTS.length);
      await session.add(
        PROMPTS.map((prompt, row) => ({ row, prompt, config: GREEDY })),
        { chunk },
      );
      const got = await run(session);
      expect(PROMPTS.map((_, row) => got.get(row))).toEqual(want);
    }
  });

  test("their logits too, to the last of what a sum in another order changes", async () => {
    const seen = async (rows: readonly (readonly number[])[]): Promise<number[][]> => {
      const logits: number[][] = rows.map(() => []);
      const processors = [{ process: (own: Float32Array, { row }: { row: number }) => void logits[row]!.push(...own) }];
      using session = open(rows.length, { processors });
      await session.add(rows.map((prompt, row) => ({ row, prompt, config: { ...GREEDY, max_new_tokens: 4 } })));
      for (let step = session.step(); step && (await step).length > 0; ) step = session.step();
      return logits;
    };
    const together = await seen(PROMPTS);
    for (const [row, prompt] of PROMPTS.entries()) {
      const [own] = await seen([prompt]);
      expect(own!.length).toBeGreaterThan(300);
      expect(together[row]!.length).toBe(own!.length);
      // f32 throughout: logits below 10 of 64 terms a sum; kernels for one row and for many add in another order.
      expect(together[row]!.every((x, i) => Math.abs(x - own![i]!) < 2e-5)).toBe(true);
    }
  });

  test("a request is given the same tokens in any row, whatever the others do", async () => {
    const want = await alone(PROMPTS[0]!, PENALIZED, 5);
    expect(await alone(PROMPTS[0]!, PENALIZED, 6)).not.toEqual(want);
    expect(await alone(PROMPTS[0]!, { ...PENALIZED, seed: 18 }, 5)).not.toEqual(want);
    for (const row of [0, 2]) {
      using session = open(3);
      await session.add([
        { row, prompt: PROMPTS[0]!, config: PENALIZED, sequence: 5 },
        { row: 1, prompt: PROMPTS[2]!, config: SAMPLED, sequence: 1 },
      ]);
      const got = new Map<number, number[]>();
      for (let n = 0; n < 3; n++) collect((await session.step())!, got);
      // A third request comes while the two are under way: greedy, and without penalties.
      await session.add([{ row: 2 - row, prompt: PROMPTS[3]!, config: GREEDY }]);
      await run(session, got);
      expect(got.get(row)).toEqual(want);
      expect(got.get(1)).toEqual(await alone(PROMPTS[2]!, SAMPLED, 1));
      expect(got.get(2 - row)).toEqual(await alone(PROMPTS[3]!, GREEDY));
    }
  });

  test("a row is replaced while the others go on, and the recordings stay", async () => {
    using session = open(2);
    const short = { ...SAMPLED, max_new_tokens: 3 };
    await session.add([
      { row: 0, prompt: PROMPTS[0]!, config: { ...GREEDY, max_new_tokens: 24 } },
      { row: 1, prompt: PROMPTS[2]!, config: short, sequence: 1 },
    ]);
    const got = new Map<number, number[]>();
    for (let n = 0; n < 3; n++) collect((await session.step())!, got);
    expect(session.sequences.map(Boolean)).toEqual([true, false]);
    expect(got.get(1)).toEqual(await alone(PROMPTS[2]!, short, 1));
    // The next step is under way when the row that ended is replaced, and gives it nothing.
    const under = session.step()!;
    const live = device.memory.live;
    await session.replace({ row: 1, prompt: PROMPTS[3]!, config: SAMPLED, sequence: 2 });
    const tokens = await under;
    expect(tokens.map(({ row }) => row)).toEqual([0]);
    collect(tokens, got);
    got.delete(1);
    collect((await session.step())!, got);
    // Not a byte more than before: nothing was recorded anew.
    expect(device.memory.live).toBe(live);
    await run(session, got);
    expect(got.get(1)).toEqual(await alone(PROMPTS[3]!, SAMPLED, 2));
    expect(got.get(0)).toEqual(await alone(PROMPTS[0]!, { ...GREEDY, max_new_tokens: 24 }));
  });

  test("a row that is replaced before its step was read gives none of its tokens", async () => {
    using session = open(1);
    await session.add([{ row: 0, prompt: PROMPTS[0]!, config: GREEDY }]);
    await session.step();
    const under = session.step()!;
    await session.replace({ row: 0, prompt: PROMPTS[3]!, config: GREEDY });
    expect(await under).toEqual([]);
    expect((await run(session)).get(0)).toEqual(await alone(PROMPTS[3]!, GREEDY));
  });

  test("forks of a prompt, and of a text under way, go on by themselves", async () => {
    using session = open(3);
    await session.add([{ row: 1, prompt: PROMPTS[0]!, config: PENALIZED, sequence: 1 }]);
    session.fork(1, 0, PENALIZED, 0);
    const got = await (async () => {
      const into = new Map<number, number[]>();
      for (let n = 0; n < 4; n++) collect((await session.step())!, into);
      return into;
    })();
    session.fork(1, 2, { ...PENALIZED, do_sample: false }, 2);
    const begun = got.get(1)!.slice();
    await run(session, got);
    for (const sequence of [0, 1]) expect(got.get(sequence)).toEqual(await alone(PROMPTS[0]!, PENALIZED, sequence));
    // The fork writes on greedily behind four sampled tokens, which count as generated for the penalties.
    expect(got.get(2)!).toHaveLength(PENALIZED.max_new_tokens - 4);
    using again = open(2);
    await again.add([{ row: 0, prompt: PROMPTS[0]!, config: PENALIZED, sequence: 1 }]);
    const other = new Map<number, number[]>();
    for (let n = 0; n < 4; n++) collect((await again.step())!, other);
    expect(other.get(0)).toEqual(begun);
    again.fork(0, 1, { ...PENALIZED, do_sample: false }, 9);
    again.remove(0);
    await run(again, other);
    expect(other.get(1)).toEqual(got.get(2));
  });

  test("reordered rows go on from their parents", async () => {
    using session = open(3);
    await session.add(PROMPTS.slice(0, 3).map((prompt, row) => ({ row, prompt, config: GREEDY, sequence: row })));
    const before = new Map<number, number[]>();
    for (let n = 0; n < 2; n++) collect((await session.step())!, before);
    session.reorder([2, 0, 0]);
    const after = await run(session);
    for (const [row, parent] of [2, 0, 0].entries()) {
      expect([...before.get(parent)!, ...after.get(row)!]).toEqual(await alone(PROMPTS[parent]!, GREEDY));
    }
  });

  test("ends by any of its own ids, and says why", async () => {
    const want = await alone(PROMPTS[0]!, GREEDY);
    const at = want.findIndex((id, n) => n > 1 && !want.slice(0, n).includes(id));
    using session = open(2);
    await session.add([
      { row: 0, prompt: PROMPTS[0]!, config: { ...GREEDY, eos_token_ids: [want[at]!] } },
      { row: 1, prompt: PROMPTS[0]!, config: GREEDY },
    ]);
    const reasons: string[] = [];
    for (let step = session.step(); step; step = session.step()) {
      for (const { row, finish_reason } of await step) if (finish_reason) reasons.push(`${row} ${finish_reason}`);
    }
    expect(reasons).toEqual(["0 eos", "1 length"]);
  });

  test("scores are log-probabilities of the tokens", async () => {
    using session = open(1, { scores: true });
    await session.add([{ row: 0, prompt: PROMPTS[0]!, config: { ...GREEDY, max_new_tokens: 2 } }]);
    const [{ id, score }] = (await session.step()) as [RowToken];
    const { logits } = model.forward({ input_ids: [PROMPTS[0]!] });
    const last = (await logits.readFloats()).slice(-model.module.geometry.vocab);
    logits.dispose();
    const high = Math.max(...last);
    const total = last.reduce((sum, x) => sum + Math.exp(x - high), 0);
    expect(score).toBeCloseTo(last[id]! - high - Math.log(total), 4);
  });

  test("drafts of several rows are checked in one pass, each row for itself", async () => {
    const want: number[][] = [];
    for (const prompt of PROMPTS) want.push(await alone(prompt, { ...GREEDY, max_new_tokens: 20 }));
    const oracle = { propose: (texts: readonly (readonly number[] | undefined)[]) => texts.map(() => [] as number[]) };
    for (const drafter of ["right", "wrong", "lookup", "none"]) {
      using session = open(PROMPTS.length);
      await session.addForDrafts(
        PROMPTS.map((prompt, row) => ({ row, prompt, config: { ...GREEDY, max_new_tokens: 20 } })),
      );
      const got = new Map<number, number[]>();
      let passes = 0;
      while (session.sequences.some(Boolean)) {
        const texts = session.sequences.map((sequence) => sequence?.ids);
        const drafts = texts.map((ids, row) => {
          if (!ids) return [];
          const made = ids.length - PROMPTS[row]!.length;
          const next = want[row]!.slice(made, Math.min(made + 3, 19));
          // Row r's guesses are right but for the one at place r.
          if (drafter === "wrong") return next.map((id, n) => (n === row ? (id + 1) % 150 : id));
          if (drafter === "lookup") return [...new NgramDrafter().propose([ids], [Math.min(3, 19 - made)])[0]!];
          return drafter === "right" ? next : oracle.propose([ids])[0]!;
        });
        collect(await session.verify(drafts), got);
        passes++;
      }
      expect(
        PROMPTS.map((_, row) => got.get(row)),
        drafter,
      ).toEqual(want);
      if (drafter === "right") expect(passes).toBe(5);
      if (drafter === "none") expect(passes).toBe(20);
    }
  });

  test("what does not fit is refused, and leaves the row free", async () => {
    using session = open(2);
    const fits = { row: 0, prompt: PROMPTS[0]!, config: GREEDY };
    await expect(session.add([{ ...fits, prompt: [] }])).rejects.toThrow(OptionError);
    await expect(session.add([{ ...fits, row: 2 }])).rejects.toThrow(/row 2 is not/);
    await expect(session.add([{ ...fits, config: { ...GREEDY, max_new_tokens: 60 } }])).rejects.toThrow(/71 tokens/);
    await expect(session.add([fits, fits])).rejects.toThrow(/given twice/);
    expect(session.step()).toBeUndefined();
    const controller = new AbortController();
    controller.abort();
    await expect(session.add([fits], { signal: controller.signal })).rejects.toThrow();
    const adding = session.add([fits]);
    expect(() => session.remove(0)).toThrow(/still being processed/);
    await adding;
    await expect(session.add([fits])).rejects.toThrow(/not a free row/);
    expect((await run(session)).get(0)).toEqual(await alone(PROMPTS[0]!, GREEDY));
  });
});
