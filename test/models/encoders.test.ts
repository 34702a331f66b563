// Encoders through the same checks against what the real libraries computed (test/fixtures/README.md): logits and hidden
// states in f32, padded batches, logits in 8 and 4 bits, footprints, quantized modules.

import { readFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { Device } from "../../src/core/device.js";
import { OptionError } from "../../src/core/errors.js";
import { Tensor } from "../../src/core/tensor.js";
import {
  AutoModel,
  AutoModelForMaskedLM,
  AutoModelForQuestionAnswering,
  AutoModelForSequenceClassification,
  AutoModelForTokenClassification,
  type FromPretrainedOptions,
} from "../../src/generate/auto.js";
import type { PreTrainedEncoder } from "../../src/generate/encoder-model.js";
import { save } from "../../src/load/state-file.js";
import { quantizedModules } from "../../src/load/storage.js";
import type { BitsAndBytesOptions } from "../../src/quant/config.js";
import { copyOf, editJson } from "../support/checkpoints.js";
import { ALL_DEVICES, expectNoLeaks, requestTestDevice } from "../support/devices.js";
import { difference, FIXTURES, type Golden, readArrays, readJson } from "../support/fixtures.js";
import { expectQuantized, QUANTIZED, type Tolerance } from "../support/golden.js";
import { temporary } from "../support/temporary.js";

const CLASSES = {
  sentence: AutoModel,
  "masked-lm": AutoModelForMaskedLM,
  "seq-cls": AutoModelForSequenceClassification,
  "token-cls": AutoModelForTokenClassification,
  qa: AutoModelForQuestionAnswering,
};

/** Folders, and those with their expected results. */
const CORE: readonly (readonly [name: string, outputs: string])[] = [
  ["bert", "bert"],
  ["bert_old", "bert"],
  ["bert-classifier", "bert-classifier"],
  ["mpnet", "mpnet"],
  ["deberta-v2", "deberta-v2"],
];
/** Other backends would run the same kernels. */
const MORE = [
  ...["bert-tokens", "bert-answers", "roberta", "roberta-mlm", "xlm-roberta", "distilbert", "distilbert-mlm"],
  ...[
    "minilm-sentence",
    "modernbert",
    "modernbert-classifier",
    "mpnet-mlm",
    "electra",
    "electra-classifier",
    "albert",
    "albert-classifier",
  ],
  ...["nomic_bert", "deberta-v3", "deberta-v2-own", "deberta-v2-tokens"],
].map((name) => [name, name] as const);

interface Case {
  input_ids: number[][];
  attention_mask?: number[][];
  token_type_ids?: number[][];
}
interface Expected {
  task: keyof typeof CLASSES;
  inputs: Record<string, Case>;
  tolerance_fp32: number;
  quantized_modules: string[];
  /** Absent where the fixture has no quantized results. */
  quantized?: Record<string, { suggested_tolerance?: Record<string, Tolerance> }>;
  memory_footprint: Record<string, { without_buffers: number }>;
}

/** Outputs by their names in the fixtures, and the names of the results. */
const OUTPUTS: Readonly<Record<string, Readonly<Record<string, string>>>> = {
  sentence: { last_hidden_state: "last_hidden_state", pooler_output: "pooler_output", embedding: "sentence_embedding" },
  qa: { start_logits: "start_logits", end_logits: "end_logits" },
};
const PER_TOKEN = /^(start|end)_logits$|^last_hidden_state$/;

for (const deviceName of ALL_DEVICES) {
  describe.each(deviceName === "cpu" ? [...CORE, ...MORE] : CORE)(`${deviceName}: %s`, (name, from) => {
    const expected = readJson<Expected>("models", from, "expected.json");
    const { task } = expected;
    const arrays = readArrays("models", from, "expected.safetensors");
    const all = Object.entries(OUTPUTS[task] ?? { logits: "logits" });
    const outputs = Object.fromEntries(all.filter(([key]) => arrays.has(`fp32.single.${key}`)));
    const main = Object.keys(outputs).at(-1)!;
    const golden = (key: string): Golden => {
      const array = arrays.get(key);
      if (!array) throw new Error(`no ${key} in the fixture`);
      return array;
    };
    let device: Device;
    let model: PreTrainedEncoder;

    const load = async (
      options: { dtype?: string; quantization?: BitsAndBytesOptions } = {},
    ): Promise<PreTrainedEncoder> => {
      const { dtype = "auto", quantization: quantization_config } = options;
      const all = { device, dtype, ...(quantization_config ? { quantization_config } : {}) } as FromPretrainedOptions;
      return (await CLASSES[task].from_pretrained(join(FIXTURES, "models", name), all)) as PreTrainedEncoder;
    };
    /** Outputs by their names in the fixture and, if they are captured, hidden states. */
    const run = async (of: PreTrainedEncoder, inputs: Case, capture = false): Promise<Record<string, Float32Array>> => {
      const {
        hidden_states = [],
        attentions: _,
        ...results
      } = of.forward({ ...inputs, output_hidden_states: capture });
      const named = Object.entries(outputs).map(([key, result]) => [key, results[result as "logits"]] as const);
      const all = [...named, ...hidden_states.map((state, i) => [`hidden.${i}`, state] as const)];
      try {
        return Object.fromEntries(
          await Promise.all(all.map(async ([key, tensor]) => [key, await tensor.readFloats()] as const)),
        );
      } finally {
        for (const tensor of [...Object.values(results), ...hidden_states]) tensor.dispose();
      }
    };
    /** True if an output has a place for each token of the batch. */
    const perToken = (key: string): boolean => PER_TOKEN.test(key) || task === "token-cls" || task === "masked-lm";

    beforeAll(async () => {
      device = await requestTestDevice(deviceName);
      model = await load();
    });
    afterAll(async () => {
      model.dispose();
      expectNoLeaks(device);
      await device.close();
    });

    test.each(["single", "batch"] as const)("f32 outputs of %s", async (key) => {
      const inputs = expected.inputs[key]!;
      const got = await run(model, inputs);
      const real = inputs.attention_mask?.flat();
      for (const output of Object.keys(outputs)) {
        const { values } = golden(`fp32.${key}.${output}`);
        // The fixture stores zeros where a token is padding.
        const width = values.length / inputs.input_ids.flat().length;
        const pick = (all: ArrayLike<number>): number[] =>
          Array.from(all).filter((_, i) => !perToken(output) || !real || real[Math.floor(i / width)] === 1);
        expect(difference(pick(got[output]!), pick(values)).max, output).toBeLessThan(expected.tolerance_fp32);
      }
    });

    test("rows of a padded batch are those of each row alone", async () => {
      const { input_ids, attention_mask, token_type_ids } = expected.inputs.batch!;
      const together = (await run(model, expected.inputs.batch!))[main]!;
      for (const [row, ids] of input_ids.entries()) {
        const length = attention_mask![row]!.reduce((sum, one) => sum + one, 0);
        const cut = (rows: number[][]): number[][] => [rows[row]!.slice(0, length)];
        const types = token_type_ids ? { token_type_ids: cut(token_type_ids) } : {};
        const alone = (await run(model, { input_ids: cut(input_ids), ...types }))[main]!;
        const width = together.length / input_ids.flat().length;
        const at = perToken(main) ? row * ids.length * width : (row * together.length) / input_ids.length;
        const part = together.subarray(at, at + alone.length);
        expect(difference(part, alone).max).toBeLessThan(expected.tolerance_fp32);
      }
    });

    test("hidden states", async () => {
      const states = await run(model, expected.inputs.single!, true);
      for (let i = 0; i <= model.module.geometry.layers; i++) {
        const { values } = golden(`fp32.single.hidden.${i}`);
        expect(difference(states[`hidden.${i}`]!, values).max).toBeLessThan(expected.tolerance_fp32);
      }
    });

    test("weights of attention", async () => {
      const { attentions = [], ...rest } = model.forward({ ...expected.inputs.single!, output_attentions: true });
      expect(attentions.length).toBe(model.module.geometry.layers);
      for (const [i, weights] of attentions.entries()) {
        const got = await weights.readFloats();
        const want = arrays.get(`fp32.single.attention.${i}`);
        if (want) expect(difference(got, want.values).max).toBeLessThan(1e-5);
        const keys = weights.shape[3]!;
        for (let row = 0; row < got.length; row += keys) {
          expect(got.subarray(row, row + keys).reduce((sum, one) => sum + one, 0)).toBeCloseTo(1, 4);
        }
        weights.dispose();
      }
      for (const tensor of Object.values(rest) as unknown as Tensor[]) tensor.dispose();
    });

    test("hidden states of a padded batch have its shape", () => {
      const {
        logits,
        hidden_states = [],
        ...rest
      } = model.forward({
        ...expected.inputs.batch!,
        output_hidden_states: true,
      });
      const [rows, steps] = [expected.inputs.batch!.input_ids.length, expected.inputs.batch!.input_ids[0]!.length];
      for (const state of hidden_states) expect(state.shape).toEqual([rows, steps, model.module.geometry.hidden]);
      for (const tensor of [
        ...(logits ? [logits] : []),
        ...hidden_states,
        ...(Object.values(rest) as unknown as Tensor[]),
      ])
        tensor.dispose();
    });

    test("a text longer than the positions", () => {
      const { max_positions } = model.module.geometry;
      if (max_positions === Number.POSITIVE_INFINITY) return; // there is none
      const input_ids = [new Array<number>(max_positions + 1).fill(5)];
      expect(() => model.forward({ input_ids })).toThrow(OptionError);
    });

    test("the same modules are quantized as in Python", () => {
      expect(quantizedModules(model.module, null).sort()).toEqual([...expected.quantized_modules].sort());
    });

    test("footprints", async () => {
      expect(model.get_memory_footprint()).toBe(expected.memory_footprint.fp32!.without_buffers);
      for (const [key, quantization] of [
        ["bf16", undefined],
        ["int8_rest_bf16", QUANTIZED.int8_t6],
        ["nf4_rest_bf16", QUANTIZED.nf4],
      ] as const) {
        const want = expected.memory_footprint[key]?.without_buffers;
        if (want === undefined) continue;
        const other = await load({ dtype: "bfloat16", quantization });
        expect(other.get_memory_footprint(), key).toBe(want);
        other.dispose();
      }
    });

    test.each(Object.keys(expected.quantized ?? {}))("%s", async (scheme) => {
      const quantized = await load({ quantization: QUANTIZED[scheme]! });
      try {
        const got = (await run(quantized, expected.inputs.single!))[main]!;
        const tolerance = expected.quantized![scheme]!.suggested_tolerance?.single;
        const [stored, full] = [golden(`${scheme}.single.${main}`).values, golden(`fp32.single.${main}`).values];
        expectQuantized(got, stored, full, tolerance, expected.tolerance_fp32);
      } finally {
        quantized.dispose();
      }
    });
  });
}

test.each([
  ["its own where it shares nothing, as in transformers", true],
  ["the head's in files that have no other", false],
])("the bias of a decoder is %s", async (_, both) => {
  const device = await requestTestDevice("reference");
  const folder = copyOf("models", "bert");
  editJson(join(folder, "config.json"), { tie_word_embeddings: false });
  const stored = readArrays("models", "bert", "model.safetensors");
  const decoder = "cls.predictions.decoder";
  const bias = stored.get("cls.predictions.bias")!;
  stored.set(`${decoder}.weight`, stored.get("bert.embeddings.word_embeddings.weight")!);
  if (both) stored.set(`${decoder}.bias`, { ...bias, values: bias.values.map((x) => x + 1) });
  const tensors = [...stored].map(([name, { shape, values }]): [string, Tensor] => [
    name,
    Tensor.from(device, Float32Array.from(values), shape),
  ]);
  await save(new Map(tensors), join(folder, "model.safetensors"));
  for (const [, tensor] of tensors) tensor.dispose();

  const model = await AutoModelForMaskedLM.from_pretrained(folder, { device });
  expect(model.warnings).toEqual([]);
  const { inputs, tolerance_fp32 } = readJson<Expected>("models", "bert", "expected.json");
  const { logits } = model.forward(inputs.single!);
  const want = readArrays("models", "bert", "expected.safetensors").get("fp32.single.logits")!;
  const got = (await logits!.readFloats()).map((x) => x - (both ? 1 : 0));
  expect(difference(got, want.values).max).toBeLessThan(tolerance_fp32);
  logits!.dispose();
  const again = temporary("untied");
  await model.save_pretrained(again);
  expect(readFileSync(join(again, "model.safetensors"), "latin1")).toContain(`"${decoder}.bias"`);
  model.dispose();
  expectNoLeaks(device);
  await device.close();
});
