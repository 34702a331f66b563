// Loads mutants of model folders as a user does, on the reference device.

import { afterAll } from "vitest";
import { AbortError } from "../../../src/core/errors.js";
import type { FromPretrainedOptions } from "../../../src/generate/loading-options.js";
import { autoModel } from "../../../src/generate/pretrained.js";
import { openDevice } from "../../../src/load/device.js";
import type { Platform } from "../../../src/load/platform.js";
import type { Task } from "../../../src/nn/architecture.js";
import type { Chance } from "./chance.js";
import { problemOfText } from "./fuzz.js";
import { type Files, MemorySource } from "./memory-source.js";
import { TINY } from "./tiny.js";

export const device = openDevice("reference");
afterAll(() => device.close());

/** A folder that is a mutant, and how it is loaded. */
export interface Folder {
  readonly files: Files;
  readonly task: Task;
  readonly options?: FromPretrainedOptions;
  /** Read as a folder on disk is. */
  readonly local?: boolean;
}

/** Ways of loading: what is refused may differ. */
export const WAYS: readonly FromPretrainedOptions[] = [
  {},
  {},
  {},
  { load_in_8bit: true },
  { load_in_4bit: true },
  { quantization_config: { load_in_4bit: true, bnb_4bit_quant_type: "nf4", bnb_4bit_use_double_quant: true } },
  { dtype: "bfloat16" },
  { dtype: "float32" },
  { head_dtype: "int8" },
];

/** What is done with a mutant: the earlier steps find most, and take a tenth of the time. */
export interface Shares {
  /** Of all mutants: those that are loaded. Of the others nothing is read after the plan. */
  readonly loaded: number;
  /** Of those: the ones that compute something. */
  readonly computed: number;
}

const SHARES: Shares = { loaded: 0.06, computed: 0.4 };
/** Loading stops before the first weight. */
const STOPPED = AbortSignal.abort();

let source: MemorySource | undefined;

/** A platform whose only folder is the mutant. */
const platform: Platform = {
  source: async () => source!,
  requestDevice: async () => device,
  sharedDevice: async () => device,
  chooseDevice: async () => ({ name: "reference", reason: "the only one" }),
};

/** Loads a folder, or some of it; returns what is wrong with the warnings. @throws what loading throws */
export async function load(folder: Folder, chance: Chance, shares = SHARES): Promise<string | undefined> {
  const loaded = chance.is(shares.loaded);
  const { files, task, options, local } = folder;
  source = new MemorySource(files, local);
  try {
    return await use(task, { device, ...options, ...(loaded ? {} : { signal: STOPPED }) }, chance.is(shares.computed));
  } catch (error) {
    if (loaded || !(error instanceof AbortError)) throw error;
    return undefined;
  }
}

/** Models that generate, with or without an encoder. */
interface Generators {
  from_pretrained(model: string, options: FromPretrainedOptions): Promise<Generator>;
}
interface Generator extends AsyncDisposable {
  readonly warnings: readonly string[];
  generate(options: { input_ids: number[][]; max_new_tokens: number }): Promise<number[][]>;
}

async function use(task: Task, given: FromPretrainedOptions, computed: boolean): Promise<string | undefined> {
  const inputs = { input_ids: [[1, 2, 3]] };
  if (task === "causal-lm" || task === "seq2seq-lm") {
    const loading: Generators = task === "causal-lm" ? autoModel(platform, task) : autoModel(platform, task);
    await using model = await loading.from_pretrained("model", given);
    if (computed) await model.generate({ ...inputs, max_new_tokens: 2 });
    return problemOfWarnings(model.warnings);
  }
  const pixel_values = { data: new Float32Array(192), shape: [1, 3, 8, 8] };
  if (task === "image-classification") {
    await using model = await autoModel(platform, task).from_pretrained("model", given);
    if (computed) {
      using logits = model.forward({ pixel_values }).logits;
      await logits.readFloats();
    }
    return problemOfWarnings(model.warnings);
  }
  if (task === "clip") {
    await using model = await autoModel(platform, task).from_pretrained("model", given);
    if (computed) {
      using features = model.get_text_features(inputs);
      using images = model.get_image_features({ pixel_values });
      await Promise.all([features.readFloats(), images.readFloats()]);
    }
    return problemOfWarnings(model.warnings);
  }
  if (task === "ctc") {
    await using model = await autoModel(platform, task).from_pretrained("model", given);
    if (computed) {
      using logits = model.forward(new Float32Array(60)).logits;
      await logits.readFloats();
    }
    return problemOfWarnings(model.warnings);
  }
  if (task === "speech-seq2seq") {
    await using model = await autoModel(platform, task).from_pretrained("model", given);
    const input_features = { data: new Float32Array(32), shape: [1, 4, 8] };
    if (computed) await model.generate({ input_features, max_new_tokens: 2 });
    return problemOfWarnings(model.warnings);
  }
  if (task !== "masked-lm" && task !== "sequence-classification") throw new Error(`no mutants of ${task}`);
  await using model = await autoModel(platform, task).from_pretrained("model", given);
  if (computed) {
    using logits = model.forward(inputs).logits;
    await logits.readFloats();
  }
  return problemOfWarnings(model.warnings);
}

/** What is wrong with the texts that a model's files cause; undefined if nothing is. */
export function problemOfWarnings(warnings: readonly string[]): string | undefined {
  const problem = warnings.map(problemOfText).find((one) => one !== undefined);
  return problem && `a warning: ${problem}`;
}

/** What the last mutant left on the device or open. */
export function left(): string | undefined {
  if (source !== undefined && source.open_files !== 0) return `${source.open_files} files are open`;
  if (device.memory.live === 0) return undefined;
  return `on the device: ${device.arena.owners().map(({ label, bytes }) => `${label}: ${bytes} bytes`)}`;
}

/** The number of a tiny model. */
export function tinyOf(model_type: string): number {
  return TINY.findIndex(({ config }) => config.model_type === model_type);
}
