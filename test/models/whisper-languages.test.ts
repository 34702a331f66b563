// Languages and tasks of Whisper: the decoder's start and the ids after it, against the real library.

import { cpSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import type { Device } from "../../src/core/device.js";
import { OptionError } from "../../src/core/errors.js";
import { AutoModelForSpeechSeq2Seq } from "../../src/generate/auto.js";
import { speechStart } from "../../src/generate/speech.js";
import type { PreTrainedSpeechSeq2Seq } from "../../src/generate/speech-model.js";
import { expectNoLeaks, openTestDevice } from "../support/devices.js";
import { FIXTURES, readArrays, readJson } from "../support/fixtures.js";
import { temporary } from "../support/temporary.js";

interface Languages {
  generation_config: Record<string, unknown>;
  runs: { options: { language?: string | string[]; task?: "translate" }; sequences: number[][] }[];
}
const { generation_config, runs } = readJson<Languages>("models", "whisper", "languages.json");
const { values, shape } = readArrays("models", "whisper", "expected.safetensors").get("inputs.batch.input_features")!;
const input_features = { data: values, shape };
const common = { input_features, max_new_tokens: 8, do_sample: false, eos_token_id: 149 };

let device: Device;
const load = (more: object): Promise<PreTrainedSpeechSeq2Seq> => {
  const folder = temporary("whisper");
  cpSync(join(FIXTURES, "models", "whisper"), folder, { recursive: true });
  const file = join(folder, "generation_config.json");
  writeFileSync(file, JSON.stringify({ ...JSON.parse(readFileSync(file, "utf8")), ...more }));
  return AutoModelForSpeechSeq2Seq.from_pretrained(folder, { device });
};
beforeAll(() => {
  device = openTestDevice("cpu");
});
afterAll(async () => {
  expectNoLeaks(device);
  await device.close();
});

test.each(runs.map((run) => [JSON.stringify(run.options), run] as const))("%s", async (_, { options, sequences }) => {
  const model = await load(generation_config);
  expect(await model.generate({ ...common, ...options })).toEqual(sequences);
  const streamed: number[][] = sequences.map(() => []);
  for await (const step of model.stream({ ...common, ...options })) {
    step.token_ids.forEach((id, row) => {
      if (id !== undefined) streamed[row]!.push(id);
    });
  }
  const prompt = sequences[0]!.length - 8;
  expect(streamed).toEqual(sequences.map((row) => row.slice(prompt)));
  model.dispose();
});

test("forced ids of old files", async () => {
  // The language is to be found out, as {} above.
  const detected = await load({ ...generation_config, forced_decoder_ids: [[1, null]] });
  expect(await detected.generate(common)).toEqual(runs[0]!.sequences);
  detected.dispose();
  const english = await load({
    forced_decoder_ids: [
      [1, 121],
      [2, 131],
    ],
    no_timestamps_token_id: 140,
  });
  const german = runs.find(({ options }) => options.language === "de")!;
  expect(await english.generate(common)).toEqual(german.sequences);
  english.dispose();
});

test("a language and a task that the files name", async () => {
  const model = await load({ ...generation_config, language: "French", task: "translate", return_timestamps: false });
  expect(model.warnings).toEqual([]);
  const french = runs.find(({ options }) => options.language === "french")!;
  expect(await model.generate(common)).toEqual(french.sequences);
  expect(await model.generate({ ...common, return_timestamps: true })).toHaveLength(2);
  model.dispose();
});

test("all names that Whisper has for a language, and the platform's", () => {
  const codes = ["bn", "ca", "de", "my", "nn", "tl", "zh", "yue"];
  const lang_to_id = Object.fromEntries(codes.map((code, id) => [`<|${code}|>`, 10 + id]));
  for (const [name, code] of [
    ["Bengali", "bn"],
    ["bangla", "bn"],
    ["valencian", "ca"],
    ["German", "de"],
    ["<|DE|>", "de"],
    ["myanmar", "my"],
    ["Burmese", "my"],
    ["nynorsk", "nn"],
    ["tagalog", "tl"],
    ["mandarin", "zh"],
    ["cantonese", "yue"],
  ] as const) {
    const { decoder } = speechStart(1, 1, { language: name }, { lang_to_id }, 50);
    expect([...decoder.ids], name).toEqual([1, 10 + codes.indexOf(code)]);
  }
});

test("what a model does not have", async () => {
  const several = await load(generation_config);
  const asking = (options: object): Promise<unknown> => several.generate({ ...common, ...options });
  await expect(asking({ language: "klingon" })).rejects.toThrow(/"klingon" is none of this model's/);
  await expect(asking({ language: "fra" })).rejects.toThrow(/did you mean "fr"/);
  await expect(asking({ language: ["de"] })).rejects.toThrow(/1 entries for 2 rows/);
  await expect(asking({ language: [3] })).rejects.toThrow(OptionError);
  await expect(asking({ task: "sing" })).rejects.toThrow(OptionError);
  await expect(asking({ language: "de", decoder_input_ids: [[3], [3]] })).rejects.toThrow(/pass one of them/);
  several.dispose();
  const one = await load({});
  await expect(one.generate({ ...common, language: "de" })).rejects.toThrow(/this model knows one language/);
  expect((await one.generate(common))[0]![0]).toBe(3);
  one.dispose();
  const broken = await load({ ...generation_config, lang_to_id: { "<|en|>": 9999 } });
  await expect(broken.generate(common)).rejects.toThrow(/lang_to_id "<\|en\|>" is 9999, which is no token/);
  broken.dispose();
});
