// Turns of a chat: each gives what a generation of its whole text gives, and reads only what is new.

import { join } from "node:path";
import { afterAll, describe, expect, test } from "vitest";
import { AbortError, OptionError } from "../../src/core/errors.js";
import { AutoModelForCausalLM } from "../../src/generate/auto.js";
import type { PreTrainedModel } from "../../src/generate/model.js";
import { Turns } from "../../src/generate/turns.js";
import { openDevice } from "../../src/load/device.js";
import { expectNoLeaks } from "../support/devices.js";
import { FIXTURES } from "../support/fixtures.js";

const device = openDevice("cpu", { threads: 2 });
afterAll(async () => {
  expectNoLeaks(device);
  await device.close();
});

async function take(turns: Turns, ids: readonly number[], options: object, most = 99): Promise<number[]> {
  const tokens: number[] = [];
  for await (const { id } of turns.next(ids, options)) if (tokens.push(id) === most) break;
  return tokens;
}

const whole = async (model: PreTrainedModel, ids: readonly number[], options: object): Promise<number[]> => {
  const [text] = await model.generate({ input_ids: [[...ids]], ...options });
  return text!.slice(ids.length);
};

describe.each(["llama", "mistral", "gemma3_text", "bloom", "phi3-longrope"])("%s", (name) => {
  test("turns give what generations of their texts give", async () => {
    await using model = await AutoModelForCausalLM.from_pretrained(join(FIXTURES, "models", name), { device });
    await using turns = new Turns(model);
    const greedy = { do_sample: false, max_new_tokens: 5, eos_token_id: null, pad_token_id: 0 };
    const first = [5, 9, 2, 77];
    const answer = await take(turns, first, greedy);
    expect(answer).toEqual(await whole(model, first, greedy));
    expect(turns.reused).toBe(0);
    // The chat goes on.
    const second = [...first, ...answer, 31, 8];
    expect(await take(turns, second, greedy)).toEqual(await whole(model, second, greedy));
    const grows = name.includes("longrope"); // its keys depend on how long a text may get
    if (!grows) expect(turns.reused).toBeGreaterThanOrEqual(first.length + answer.length - 1);
    // It is cut short, and goes on from there; another seed, another text.
    const sampled = { ...greedy, do_sample: true, temperature: 2, seed: 3 };
    expect(await take(turns, second, sampled, 2)).toEqual((await whole(model, second, sampled)).slice(0, 2));
    expect(await take(turns, second, sampled)).toEqual(await whole(model, second, sampled));
    // A text that shares its beginning alone, and one that shares nothing.
    for (const ids of [[5, 9, 3, 4, 1], [8, 8], [8]]) {
      expect(await take(turns, ids, greedy)).toEqual(await whole(model, ids, greedy));
    }
    // The end of a text, and processors of the host.
    const ends = { ...greedy, eos_token_id: answer[1]! };
    expect(await take(turns, first, ends)).toEqual(answer.slice(0, answer.indexOf(answer[1]!) + 1));
    const hosted = { ...greedy, no_repeat_ngram_size: 1 };
    for (const options of [hosted, greedy, hosted]) {
      expect(await take(turns, first, options)).toEqual(await whole(model, first, options));
    }
    const abort = new AbortController();
    abort.abort();
    await expect(turns.next(second, greedy, { signal: abort.signal }).next()).rejects.toThrow(AbortError);
    expect(await take(turns, second, greedy)).toEqual(await whole(model, second, greedy));
    // What was read before an abort is kept; what failed is forgotten; one turn at a time.
    const late = new AbortController();
    const long = Array.from({ length: 40 }, (_, n) => 3 + n);
    const reading = turns.next(long, greedy, { signal: late.signal });
    late.abort();
    await expect(reading.next()).rejects.toThrow(AbortError);
    expect(await take(turns, long, greedy)).toEqual(await whole(model, long, greedy));
    await expect(take(turns, [5, 9, 1e6], greedy)).rejects.toThrow();
    expect(await take(turns, [5, 9, 2], greedy)).toEqual(await whole(model, [5, 9, 2], greedy));
    const one = turns.next(first, greedy);
    await one.next();
    await expect(turns.next(first, greedy).next()).rejects.toMatchObject({ code: "ERR_IN_USE" });
    await one.return(undefined);
    if (turns.context > 1e6) return; // no end
    await expect(take(turns, new Array<number>(turns.context).fill(3), greedy)).rejects.toThrow(OptionError);
    await turns[Symbol.asyncDispose]();
    model.dispose();
    expect(() => new Turns(model)).toThrow(/dispose/);
  });
});
