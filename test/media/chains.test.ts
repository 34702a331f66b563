// From a file to a model's output, as users go: a PNG and a JPEG to a classifier's logits, a WAV to the ids of a transcription.

import { join } from "node:path";
import { expect, test } from "vitest";
import {
  AutoFeatureExtractor,
  AutoImageProcessor,
  AutoModelForImageClassification,
  AutoModelForSpeechSeq2Seq,
} from "../../src/generate/auto.js";
import { difference, FIXTURES, readJson } from "../support/fixtures.js";

interface Expected {
  images: { file: string; logits: number[]; tolerance?: number }[];
  sound: { file: string; ids: number[]; encoder_row: number[] };
}
const expected = readJson<Expected>("chains", "expected.json");
const chain = (name: string): string => join(FIXTURES, "chains", name);
const model = (name: string): string => join(FIXTURES, "models", name);
const file = (name: string): string => join(FIXTURES, "processors", name);
const { tolerance_fp32 } = readJson<{ tolerance_fp32: number }>("models", "vit", "expected.json");

test.each(expected.images)("$file", async ({ file: name, logits, tolerance = tolerance_fp32 }) => {
  const processor = await AutoImageProcessor.from_pretrained(chain("vit"));
  const vit = await AutoModelForImageClassification.from_pretrained(model("vit"), { device: "cpu" });
  const output = vit.forward(await processor(file(name)));
  expect(difference(await output.logits.readFloats(), logits).max).toBeLessThan(tolerance);
  output.logits.dispose();
  vit.dispose();
});

test("a WAV", async () => {
  const extractor = await AutoFeatureExtractor.from_pretrained(chain("whisper"));
  const whisper = await AutoModelForSpeechSeq2Seq.from_pretrained(model("whisper"), { device: "cpu" });
  const { input_features } = await extractor(file(expected.sound.file));
  const ids = await whisper.generate({ input_features: input_features!, max_new_tokens: 8, do_sample: false });
  expect(ids).toEqual([expected.sound.ids]);
  const output = whisper.forward({ input_features: input_features!, decoder_input_ids: [[3]] });
  const encoded = await output.encoder_last_hidden_state.readFloats();
  // Log-mel features may differ by 1e-4; the row's largest value is 3.3.
  expect(difference(encoded.subarray(3 * 48, 4 * 48), expected.sound.encoder_row).max).toBeLessThan(1e-3);
  for (const tensor of Object.values(output).flat()) tensor.dispose();
  whisper.dispose();
});
