// The text of stream(): whole characters, the spaces of a whole decode, and all of it at the end.

import { afterAll, describe, expect, test } from "vitest";
import type { Device } from "../../src/core/device.js";
import { OptionError } from "../../src/core/errors.js";
import { AutoModelForCausalLM, AutoTokenizer } from "../../src/generate/auto.js";
import type { Step } from "../../src/generate/loop.js";
import { withTexts } from "../../src/generate/texts.js";
import { openDevice } from "../../src/load/device.js";
import type { PreTrainedTokenizer } from "../../src/tokenizer/api.js";
import { StreamDecoder } from "../../src/tokenizer/stream.js";
import { expectNoLeaks } from "../support/devices.js";
import { STORYTELLER } from "../support/models.js";
import { goldens } from "../tokenizer/golden.js";

/** The steps of rows of ids; shorter rows have ended with their last id. */
async function* steps(rows: readonly (readonly number[])[]): AsyncGenerator<Step> {
  const longest = Math.max(...rows.map(({ length }) => length));
  for (let t = 0; t < longest; t++) {
    const finished = rows.map(({ length }) => t >= length - 1);
    yield {
      token_ids: rows.map((row) => row[t] ?? 0),
      finished,
      finish_reasons: finished.map((end) => (end ? "length" : undefined)),
    };
  }
}

describe.each(goldens.map((one) => [one.name, one] as const))("%s", (_, { tokenizer, cases }) => {
  const source = { backend: tokenizer, clean_up_tokenization_spaces: false } as unknown as PreTrainedTokenizer;

  test("prompt and texts are the decoded whole, wherever the prompt ends", async () => {
    for (const [, ids] of cases.slice(0, 60)) {
      for (const cut of [0, 1, ids.length >> 1, ids.length - 1]) {
        if (cut < 0 || cut >= ids.length) continue;
        const said: string[] = [];
        for await (const step of withTexts(steps([ids.slice(cut)]), source, [ids.slice(0, cut)], false)) {
          expect(step.texts).toEqual([step.text]);
          said.push(step.text);
        }
        // What the prompt makes final by itself is not said again.
        const before = new StreamDecoder(source).push(ids.slice(0, cut));
        expect(before + said.join("")).toBe(tokenizer.decode(ids));
      }
    }
  });
});

describe("the storyteller", () => {
  const device: Device = openDevice("cpu", { threads: 1 });
  afterAll(async () => {
    expectNoLeaks(device);
    await device.close();
  });

  test("rows of a batch have each its text, and it ends where the row ends", async () => {
    const tokenizer = await AutoTokenizer.from_pretrained(STORYTELLER, { padding_side: "left" });
    const model = await AutoModelForCausalLM.from_pretrained(STORYTELLER, { device });
    const inputs = tokenizer(["Once upon a time", "Far away", "The king"], { padding: true });
    const options = { ...inputs, max_new_tokens: 25, do_sample: false, eos_token_id: tokenizer("\n").input_ids[0] };
    const texts = ["", "", ""];
    let first = "";
    for await (const step of model.stream({ ...options, tokenizer })) {
      first += step.text;
      for (const [r, text] of step.texts.entries()) texts[r] += text;
    }
    const ids = await model.generate(options);
    const prompt = inputs.input_ids[0]!.length;
    expect(texts).toEqual(ids.map((row) => tokenizer.decode(row.slice(prompt), { skip_special_tokens: true })));
    expect(first).toBe(texts[0]);
    // Options may come after the inputs, and special tokens may be kept.
    const kept: string[] = [];
    const [text] = [tokenizer("Once upon a time")];
    const eos = { max_new_tokens: 3, do_sample: false, eos_token_id: null, tokenizer, skip_special_tokens: false };
    for await (const step of model.stream(text, eos)) kept.push(step.text);
    expect(kept).toHaveLength(3);
    for await (const step of model.stream(text, { max_new_tokens: 1, do_sample: false })) {
      expect(step).not.toHaveProperty("text");
    }
    model.dispose();
  });

  test("what is no tokenizer is refused", async () => {
    const tokenizer = await AutoTokenizer.from_pretrained(STORYTELLER);
    const model = await AutoModelForCausalLM.from_pretrained(STORYTELLER, { device });
    const inputs = tokenizer("Once");
    expect(() => model.stream({ ...inputs, tokenizer: {} as never })).toThrow(/tokenizer must be a tokenizer/);
    await expect(model.generate({ ...inputs, tokenizer: 3 as never })).rejects.toThrow(OptionError);
    model.dispose();
  });
});
