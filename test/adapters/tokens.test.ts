// trainable_token_indices: rows of an embedding that are trained alone, beside LoRA. Against peft on dense weights, with and without a head
// that shares the table; over quantized linears against the floats that they stand for.

import { readFileSync } from "node:fs";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import type { Device } from "../../src/core/device.js";
import { Tensor } from "../../src/core/tensor.js";
import {
  AutoModelForCausalLM,
  AutoModelForMaskedLM,
  AutoModelForSeq2SeqLM,
  get_peft_model,
  LoraConfig,
  type LoraOptions,
  type PreTrainedModel,
} from "../../src/index.js";
import { manual_seed } from "../../src/nn/init.js";
import type { BitsAndBytesOptions } from "../../src/quant/config.js";
import { largest, off, stepOf, type Training } from "../support/adapter-steps.js";
import { DEVICES, expectNoLeaks, requestTestDevice } from "../support/devices.js";
import { FIXTURES, readArrays, readJson } from "../support/fixtures.js";
import { PeftCase } from "../support/peft-case.js";
import { temporary } from "../support/temporary.js";
import { gpu } from "../support/webgpu.js";

const CASES = ["gpt2", "llama"].flatMap((base) => ["tokens", "tokens_apart"].map((kind) => [base, kind] as const));
/** With every activation an outlier, products with 8-bit weights round nothing. */
const STORED: readonly (readonly [string, BitsAndBytesOptions])[] = [
  ["LLM.int8()", { load_in_8bit: true, llm_int8_threshold: 1e-9 }],
  ["NF4", { load_in_4bit: true, bnb_4bit_quant_type: "nf4", bnb_4bit_compute_dtype: "float32" }],
];

describe.each([...DEVICES, ...(gpu ? ["webgpu"] : [])])("%s", { timeout: 240_000 }, (name) => {
  let device: Device;
  beforeEach(async () => {
    device = await requestTestDevice(name);
  });
  afterEach(async () => {
    expectNoLeaks(device);
    await device.close();
  });

  // The plain loops and a GPU in software are slow: they do the case with a shared table.
  describe.each(name === "cpu" ? CASES : CASES.slice(0, 1))("%s, %s", (base, kind) => {
    const peft = new PeftCase(base, kind);
    afterEach(() => peft.unload());

    test("three steps of AdamW give the losses and the adapters of peft", async () => {
      await peft.learnsAsPeft(device);
    });

    test.each(name === "cpu" ? STORED : [])("%s: the gradients are those with the floats", async (_, options) => {
      const loaded = await peft.load(device, options);
      const got = await stepOf(device, loaded.model, await peft.put(loaded), peft.training.batches[0]!);
      await peft.stepsAsDecoded(device, options, got);
    });
  });
});

describe("models as users hold them", () => {
  let model: PreTrainedModel;
  const open = async (base: string, options: object = {}): Promise<PreTrainedModel> => {
    model = await AutoModelForCausalLM.from_pretrained(join(FIXTURES, "models", base), {
      dtype: "float32",
      ...options,
    });
    return model;
  };
  afterEach(() => model?.dispose());
  const lastLogits = async (ids: readonly (readonly number[])[]): Promise<Float32Array> => {
    const { logits } = model.forward({ input_ids: ids, logits_to_keep: 1 });
    using _ = logits;
    return logits.readFloats();
  };
  const folderOf = (base: string, ...more: string[]): string => join(FIXTURES, "peft", base, ...more);

  test.each(CASES)(
    "%s, %s: logits and files are peft's, and merged weights give the same logits",
    async (base, kind) => {
      const { batches } = readJson<Training>("peft", base, kind, "expected.json");
      const golden = readArrays("peft", base, kind, "expected.safetensors");
      await open(base);
      const bare = await lastLogits(batches[0]!);
      await model.load_adapter(folderOf(base, kind, "final"));
      // The library's f32 logits are that far from f64's.
      const close = async (want: string): Promise<void> => {
        const { values } = golden.get(want)!;
        expect(off(await lastLogits(batches[0]!), values)).toBeLessThan(1e-4);
        expect(off(bare, values)).toBeGreaterThan(0.1);
      };
      await close("logits");
      const out = temporary("tokens");
      await model.save_pretrained(out);
      for (const file of ["adapter_config.json", "adapter_model.safetensors"]) {
        const [from, to] = [folderOf(base, kind, "final"), out].map((folder) => readFileSync(join(folder, file)));
        const own = JSON.stringify(join(FIXTURES, "models", base));
        const said = file.endsWith(".json") ? Buffer.from(`${String(to).replace(own, `"models/${base}"`)}\n`) : to!;
        expect(said.equals(from!), file).toBe(true);
      }
      model.disable_adapters();
      expect(await lastLogits(batches[0]!)).toEqual(bare);
      model.enable_adapters();
      if (base === "gpt2" && kind === "tokens_apart") {
        // In PEFT each of the two changes the shared table, so the merged model is another one than the adapted.
        await expect(model.merge_and_unload()).rejects.toThrow(/share a matrix/);
        return;
      }
      await model.merge_adapter();
      await close("merged");
      model.unmerge_adapter();
      await close("logits");
      model.disable_adapters();
      // LoRA is taken out by a subtraction, which rounds; rows come back as they were.
      expect(off(await lastLogits(batches[0]!), bare)).toBeLessThan(1e-4);
      model.enable_adapters();
      await model.merge_and_unload();
      await close("merged");
      const { module } = model;
      expect(module.output_embeddings()!.weight === module.vocabulary()!.words.weight).toBe(base === "gpt2");
    },
  );

  test("a new adapter changes nothing; with steps of training its rows change alone, and texts follow", async () => {
    await open("gpt2", { quantization_config: { load_in_4bit: true, bnb_4bit_quant_type: "nf4" } });
    const ids = [[5, 6, 7, 8, 9, 10, 11]];
    const bare = await lastLogits(ids);
    manual_seed(3);
    const peft = await get_peft_model(model, { r: 2, trainable_token_indices: { wte: [6, 60] } });
    expect(await lastLogits(ids)).toEqual(bare);
    const names = [...peft.named_parameters()].filter(([, one]) => one.requires_grad).map(([key]) => key);
    const rows = "transformer.wte.token_adapter.trainable_tokens_delta.default";
    expect(names.filter((key) => key.includes("token_adapter"))).toEqual([rows]);
    const [, parameter] = [...model.named_parameters()].find(([key]) => key === rows)!;
    // Row 60 scores highest now, whatever was read: the head has it too.
    const values = await parameter.data.readFloats();
    values.fill(0);
    const { logits, hidden_states } = model.forward({ input_ids: ids, output_hidden_states: true, logits_to_keep: 1 });
    const last = await hidden_states!.at(-1)!.readFloats();
    for (const one of [logits, ...hidden_states!]) one.dispose();
    const K = values.length / 2;
    values.set(
      last.subarray(last.length - K).map((x) => 10 * x),
      K,
    );
    parameter.data.write(values);
    const sequences = await model.generate({ input_ids: ids, max_new_tokens: 3, do_sample: false, eos_token_id: null });
    expect(sequences[0]!.slice(7)).toContain(60);
    await model.merge_and_unload();
    const merged = await model.generate({ input_ids: ids, max_new_tokens: 3, do_sample: false, eos_token_id: null });
    expect(merged).toEqual(sequences);
  });

  test.each([
    ["bert", AutoModelForMaskedLM, "query"],
    ["t5", AutoModelForSeq2SeqLM, "q"],
  ] as const)("%s: all that share the table have the rows", async (base, auto, target) => {
    const held = await (auto as typeof AutoModelForMaskedLM).from_pretrained(join(FIXTURES, "models", base), {
      dtype: "float32",
    });
    await get_peft_model(held, { r: 2, target_modules: [target], trainable_token_indices: [5, 7] });
    const parameter = [...held.named_parameters()].find(([key]) => key.includes("token_adapter"))![1];
    const ids = [[5, 7, 9, 11]];
    const loss = async (): Promise<number> => {
      const { loss, ...others } = held.forward({ input_ids: ids, labels: ids });
      for (const one of Object.values(others)) if (Tensor.is(one)) one.dispose();
      await held.backward(loss!);
      const [value] = await loss!.readFloats();
      loss!.dispose();
      return value!;
    };
    const before = await loss();
    const gradient = await parameter.grad!.readFloats();
    expect(largest(gradient)).toBeGreaterThan(1e-3);
    // A step against it: the loss falls by its square, so the gradient has the parts of all uses.
    const step = 1e-3 / gradient.reduce((sum, g) => sum + g * g, 0);
    const values = await parameter.data.readFloats();
    parameter.data.write(values.map((x, i) => x - step * gradient[i]!));
    held.zero_grad();
    expect(before - (await loss())).toBeGreaterThan(0.9e-3);
    expect(before - (await loss())).toBeLessThan(1.1e-3);
    held.dispose();
  });

  test.each<readonly [string, string, LoraOptions, RegExp]>([
    ["llama", "a row outside", { trainable_token_indices: [160] }, /row 160 is outside the 160 rows/],
    ["llama", "no such module", { trainable_token_indices: { wte: [1] } }, /wte not found in the base model/],
    [
      "llama",
      "a norm",
      { trainable_token_indices: { "model.norm": [1] } },
      /is a .*Norm; rows are those of embeddings/,
    ],
    ["gpt2", "a stored transposed", { trainable_token_indices: { c_fc: [1] } }, /rows are those of embeddings/],
    [
      "llama",
      "LoRA on it",
      { target_modules: ["embed_tokens"], trainable_token_indices: [1] },
      /one of target_modules/,
    ],
    ["gpt2", "saved whole", { modules_to_save: ["wte"], trainable_token_indices: [1] }, /one of modules_to_save/],
    [
      "gpt2",
      "a shared head, saved whole",
      { modules_to_save: ["lm_head"], trainable_token_indices: [1] },
      /modules_to_save/,
    ],
  ])("refused on %s: %s", async (base, _, options, message) => {
    await open(base);
    await expect((async () => get_peft_model(model, { r: 2, ...options }))()).rejects.toThrow(message);
    expect([...model.named_parameters()].some(([key]) => key.includes(".default"))).toBe(false);
  });

  test("what is no list of rows is refused; nothing is asked for by null and empty ones", async () => {
    for (const wrong of [[1, 1], [-1], [0.5], ["a"], 3, { wte: 5 }, { "": [1] }] as never[]) {
      expect(() => new LoraConfig({ trainable_token_indices: wrong }), JSON.stringify(wrong)).toThrow(
        /trainable_token_indices/,
      );
    }
    await open("llama");
    await get_peft_model(model, { r: 2, trainable_token_indices: {} });
    expect([...model.named_parameters()].some(([key]) => key.includes("token"))).toBe(true); // the model's own table
    expect([...model.named_parameters()].some(([key]) => key.includes("token_adapter"))).toBe(false);
  });

  test("two adapters with rows of one table are not at work together; the other's rows are not for single texts", async () => {
    await open("llama");
    await model.load_adapter(folderOf("llama", "tokens", "final"), "a");
    await model.load_adapter(folderOf("llama", "tokens_apart", "final"), "b");
    expect(() => model.set_adapter(["a", "b"])).toThrow(/a has rows of model.embed_tokens, and b changes it too/);
    await expect(model.generate({ input_ids: [[5]], adapter_names: ["a"], max_new_tokens: 1 })).rejects.toThrow(
      /rows of tokens/,
    );
  });
});
