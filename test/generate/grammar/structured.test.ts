// generate() with json_schema, regex, grammar and choices: every way to choose tokens gives such texts, in batches and streams.

import { afterAll, beforeAll, expect, expectTypeOf, test } from "vitest";
import * as z from "zod";
import { OctavoError, OptionError } from "../../../src/core/errors.js";
import { AutoModelForCausalLM, AutoTokenizer } from "../../../src/generate/auto.js";
import type { PreTrainedModel } from "../../../src/generate/model.js";
import type { GenerateOptions } from "../../../src/generate/options.js";
import { pipeline } from "../../../src/pipelines/node.js";
import type { PreTrainedTokenizer } from "../../../src/tokenizer/api.js";
import { STORYTELLER } from "../../support/models.js";
import { valid } from "./validator.js";

let model: PreTrainedModel;
let tokenizer: PreTrainedTokenizer;
beforeAll(async () => {
  tokenizer = await AutoTokenizer.from_pretrained(STORYTELLER, { padding_side: "left" });
  model = await AutoModelForCausalLM.from_pretrained(STORYTELLER, { device: "cpu" });
});
afterAll(() => model.dispose());

const PROMPTS = ["The old king said: ", "A dog and a cat"];

async function texts(options: Partial<GenerateOptions>, prompts = PROMPTS): Promise<string[]> {
  const inputs = tokenizer(prompts, { padding: true }) as unknown as {
    input_ids: number[][];
    attention_mask: number[][];
  };
  const rows = await model.generate({
    ...inputs,
    tokenizer,
    max_new_tokens: 200,
    do_sample: false,
    seed: 5,
    ...options,
  });
  return rows.map((row) => tokenizer.decode(row.slice(inputs.input_ids[0]!.length), { skip_special_tokens: true }));
}

const PERSON = {
  type: "object",
  properties: {
    name: { type: "string", maxLength: 8 },
    age: { type: "integer", minimum: 1, maximum: 120 },
    mood: { enum: ["sad", "glad"] },
  },
  required: ["name", "age", "mood"],
  additionalProperties: false,
} as const;

test.each<[string, Partial<GenerateOptions>]>([
  ["greedy", {}],
  ["sampled", { do_sample: true, temperature: 2, top_k: 0 }],
  ["several for each prompt", { do_sample: true, num_return_sequences: 3 }],
  ["with penalties", { repetition_penalty: 1.5, suppress_tokens: [30, 31] }],
  [
    "with processors of the host",
    { no_repeat_ngram_size: 6, logits_processor: [{ process: (logits) => void logits.fill(0) }] },
  ],
  ["beams", { num_beams: 3, num_return_sequences: 2 }],
  ["contrastive search", { penalty_alpha: 0.9, top_k: 4 }],
])("%s", async (_, options) => {
  const found = await texts({ json_schema: PERSON, ...options });
  for (const text of found) expect(valid(PERSON, JSON.parse(text)), text).toBe(true);
});

test("expressions, grammars and choices; rows do not depend on each other", async () => {
  const regex = "(?:cat|dog)s? and [a-zé]{3,9}\\.";
  for (const text of await texts({ regex, do_sample: true })) expect(text).toMatch(new RegExp(`^${regex}$`, "u"));
  const grammar = 'root ::= "I " ("am" | "was") " " word ("," " " word){0,3} "."\nword ::= [a-z]{1,7}';
  for (const text of await texts({ grammar })) expect(text).toMatch(/^I (am|was) [a-z]{1,7}(, [a-z]{1,7}){0,3}\.$/);
  const choices = ["yes", "yes, of course", "no 😀"];
  for (const seed of [1, 2, 3]) {
    for (const text of await texts({ choices, do_sample: true, temperature: 3, seed })) expect(choices).toContain(text);
  }
  for (const text of await texts({ choices, num_beams: 2, do_sample: true })) expect(choices).toContain(text);
  const together = await texts({ json_schema: PERSON });
  for (const [n, prompt] of PROMPTS.entries())
    expect(await texts({ json_schema: PERSON }, [prompt])).toEqual([together[n]]);
});

test("a stream gives the same text; one that ends by its length is the beginning of such a text", async () => {
  const [whole] = await texts({ json_schema: PERSON }, [PROMPTS[0]!]);
  let text = "";
  const inputs = tokenizer(PROMPTS[0]!) as unknown as { input_ids: number[] };
  const call = { input_ids: [inputs.input_ids], tokenizer, json_schema: PERSON, do_sample: false };
  let reason: unknown;
  for await (const step of model.stream({ ...call, max_new_tokens: 200 })) {
    text += step.text;
    reason = step.finish_reasons[0];
  }
  expect([text, reason]).toEqual([whole, "eos"]);
  let cut = "";
  for await (const step of model.stream({ ...call, max_new_tokens: 6 })) {
    cut += step.text;
    reason = step.finish_reasons[0];
  }
  expect(reason).toBe("length");
  expect(whole!.startsWith(cut)).toBe(true);
  for await (const _ of model.stream({ ...call, max_new_tokens: 200 })) break; // a step in flight is dropped
});

test("the pipeline parses, with the schema's type", async () => {
  const write = await pipeline("text-generation", model, { tokenizer });
  const schema = z.object({ name: z.string().max(5), tags: z.array(z.enum(["good", "bad"])).max(2) });
  const [[one], [two]] = (await write(PROMPTS, {
    json_schema: schema,
    max_new_tokens: 200,
    return_full_text: false,
    seed: 1,
  })) as [[{ generated_text: string; parsed: unknown }], [{ generated_text: string; parsed: unknown }]];
  for (const found of [one, two]) expect(schema.parse(found.parsed)).toEqual(JSON.parse(found.generated_text));
  const short = await write("A king", { json_schema: schema, max_new_tokens: 3 });
  expect(short[0]!.parsed).toBeNull();
  expectTypeOf(short[0]!.parsed).toEqualTypeOf<z.infer<typeof schema> | null>();
});

test("calls that cannot be are refused before anything runs", async () => {
  const refused: readonly (readonly [Partial<GenerateOptions>, RegExp])[] = [
    [{ choices: ["a"], regex: "a" }, /regex and choices cannot be combined/],
    [{ choices: ["a"], tokenizer: undefined }, /choices needs the tokenizer/],
    [{ choices: ["a"], eos_token_id: null }, /needs a token that ends the text/],
    [{ choices: ["a"], prompt_lookup_num_tokens: 3 }, /cannot be combined with choices/],
    [{ choices: ["a"], assistant_model: model }, /cannot be combined with choices/],
    [{ choices: ["a"], min_new_tokens: 9 }, /cannot be combined with "min_new_tokens"/],
    [{ choices: ["a"], dola_layers: "low" }, /cannot be combined with dola_layers/],
    [{ choices: [] }, /choices must be a list of texts/],
    [{ regex: "[^\\s\\S]" }, /there is no such text/],
    [{ json_schema: { type: "string", minLength: 3, maxLength: 2 } }, /no value is valid by the schema/],
    [{ json_schema: { type: "object", dependentRequired: {} } }, /the keyword "dependentRequired" is not supported/],
    [{ grammar: 'root ::= root "a" | "a"' }, /begins with itself/],
    [{ grammar: "root ::= other" }, /there is no rule other/],
    [{ grammar: 'root ::= "a' }, /line 1: a text or a set of characters does not end/],
  ];
  for (const [options, message] of refused) {
    const error = await texts(options).catch((caught: unknown) => caught);
    expect(error, String(message)).toBeInstanceOf(OptionError);
    expect((error as Error).message).toMatch(message);
  }
});

test("if other options forbid all that is left, the call fails instead of giving another text", async () => {
  const letters = tokenizer.backend.get_vocab();
  const suppress_tokens = [...letters].filter(([token]) => /[xX]/.test(token)).map(([, id]) => id);
  for (const options of [
    { suppress_tokens },
    { begin_suppress_tokens: suppress_tokens, do_sample: true },
    { bad_words_ids: suppress_tokens.map((id) => [id]) },
  ]) {
    const error = await texts({ choices: ["x"], ...options }).catch((caught: unknown) => caught);
    expect(error).toBeInstanceOf(OctavoError);
    expect((error as Error).message).toMatch(/choices: .*no token is left that may follow/);
  }
  const few = texts({ choices: ["x"], num_beams: 3, bad_words_ids: suppress_tokens.map((id) => [id]) });
  await expect(few).rejects.toThrow(/beams found fewer texts/);
});
