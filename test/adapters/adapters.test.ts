// Adapters on loaded models, against peft: several at once, DoRA, whole modules, embeddings; and what happens to the model around them.

import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import { inverses, rowNorms } from "../../src/adapters/dora.js";
import type { LoraLayer } from "../../src/adapters/weight.js";
import type { Device } from "../../src/core/device.js";
import { OctavoError, OptionError } from "../../src/core/errors.js";
import { scope, Tensor } from "../../src/core/tensor.js";
import {
  AutoModelForCausalLM,
  DynamicCache,
  type FromPretrainedOptions,
  get_peft_model,
  LoraConfig,
  PeftModel,
  type PreTrainedModel,
  prepare_model_for_kbit_training,
} from "../../src/index.js";
import { DEVICES, expectNoLeaks, requestTestDevice } from "../support/devices.js";
import { FIXTURES, readArrays, readJson } from "../support/fixtures.js";
import { temporary } from "../support/temporary.js";
import { gpu } from "../support/webgpu.js";

const LLAMA = join(FIXTURES, "models", "llama");
const adapterOf = (...name: string[]): string => join(FIXTURES, "peft", "llama", ...name);
const TWO = adapterOf("two_adapters");
const { inputs } = readJson<{
  inputs: Record<"single" | "batch", { input_ids: number[][]; attention_mask: number[][] }>;
}>("models", "llama", "expected.json");
const IDS = inputs.single.input_ids;
const BATCH = { input_ids: inputs.batch.input_ids, attention_mask: inputs.batch.attention_mask };
const GENERATE = { input_ids: IDS, max_new_tokens: 6, do_sample: false, eos_token_id: null } as const;
const NF4 = { load_in_4bit: true, bnb_4bit_quant_type: "nf4" } as const;

/** Logits of a pass. */
async function logitsOf(model: PreTrainedModel, more: object = {}): Promise<Float32Array> {
  const { logits } = model.forward({ input_ids: IDS, ...more });
  using _ = logits;
  return logits.readFloats();
}

const off = (a: ArrayLike<number>, b: ArrayLike<number>): number =>
  Array.from(a).reduce((most, x, i) => Math.max(most, Math.abs(x - b[i]!)), 0);

/** What the library's own f32 passes differ by from f64 is up to 1e-5; the fixture's tolerance. */
const TOLERANCE = 1e-4;

describe.each([...DEVICES, ...(gpu ? ["webgpu"] : [])])("%s", { timeout: 120_000 }, (name) => {
  // A software adapter takes half a minute for what others do in a second.
  const full = name !== "webgpu";
  const slow = full ? "" : " (minutes on a GPU in software, whose ops the conformance suite tests)";
  let device: Device;
  let model: PreTrainedModel;
  const load = async (options: FromPretrainedOptions = {}): Promise<PreTrainedModel> => {
    model = await AutoModelForCausalLM.from_pretrained(LLAMA, { device, ...options });
    return model;
  };
  beforeEach(async () => {
    device = await requestTestDevice(name);
  });
  afterEach(async () => {
    model.dispose();
    expectNoLeaks(device);
    await device.close();
  });

  test("two adapters: each, both, none, their weighted sums, and one for each row", async () => {
    const want = readArrays("peft", "llama", "two_adapters", "expected.safetensors");
    const { weights, per_row } = readJson<{ weights: number[]; per_row: { adapter_names: string[] } }>(
      "peft",
      "llama",
      "two_adapters",
      "expected.json",
    );
    await PeftModel.from_pretrained(await load(), TWO);
    const bare = await logitsOf(model, { adapter_names: ["__base__"] });
    await model.load_adapter(join(TWO, "second"), "second");
    expect(model.active_adapters()).toEqual(["default"]);
    const both = ["default", "second"];
    for (const combination_type of ["linear", "cat"] as const) {
      model.add_weighted_adapter(both, weights, `w_${combination_type}`, { combination_type });
    }
    for (const [key, active] of [
      ["default", "default"],
      ["second", "second"],
      ["both", both],
      ["weighted_linear", "w_linear"],
      ["weighted_cat", "w_cat"],
    ] as const) {
      model.set_adapter(active);
      expect(off(await logitsOf(model), want.get(key)!.values), key).toBeLessThan(TOLERANCE);
    }
    const rows = await logitsOf(model, { ...BATCH, adapter_names: per_row.adapter_names });
    const { values } = want.get("per_row")!;
    // Positions under padding are zeros in the fixture.
    expect(
      off(
        rows.filter((_, i) => values[i] !== 0),
        [...values].filter((x) => x !== 0),
      ),
    ).toBeLessThan(TOLERANCE);
    {
      using _ = model.disable_adapter();
      expect(off(await logitsOf(model), bare)).toBe(0);
    }
    expect(off(await logitsOf(model), bare)).toBeGreaterThan(0.1);
  });

  test.each(full ? ["dora", "modules_to_save", "embedding"] : ["dora"])(
    "%s: at work, merged, and taken away",
    async (kind) => {
      const want = readArrays("peft", "llama", kind, "expected.safetensors");
      await load();
      const bytes = device.memory.live;
      const bare = await logitsOf(model);
      for (let time = 0; time < 3; time++) {
        await model.load_adapter(adapterOf(kind));
        expect(off(await logitsOf(model), want.get("active")!.values)).toBeLessThan(TOLERANCE);
        model.delete_adapter("default");
        expect(device.memory.live).toBe(bytes);
        expect(off(await logitsOf(model), bare)).toBe(0);
      }
      await model.load_adapter(adapterOf(kind));
      expect(await model.merge_adapter()).toEqual({ errors: [] });
      expect(off(await logitsOf(model), want.get("merged")!.values)).toBeLessThan(TOLERANCE);
      model.unmerge_adapter();
      expect(off(await logitsOf(model), want.get("active")!.values)).toBeLessThan(TOLERANCE);
      await model.merge_and_unload();
      expect(model.adapters).toBeUndefined();
      expect(device.memory.live).toBe(bytes);
      expect(off(await logitsOf(model), want.get("merged")!.values)).toBeLessThan(TOLERANCE);
    },
  );

  test("generation follows the adapters, one text or a padded batch, and waits for no recording of others", async () => {
    await load(full ? NF4 : {});
    const short = { ...GENERATE, max_new_tokens: full ? 6 : 2 };
    const bare = await model.generate(short);
    await model.load_adapter(TWO);
    await model.load_adapter(join(TWO, "second"), "second");
    const texts: unknown[] = [];
    for (const active of full ? ["default", "second"] : ["default"]) {
      model.set_adapter(active);
      const [text] = await model.generate(short);
      texts.push(text);
      // What forward gives for the whole text chooses the same tokens.
      const { logits } = model.forward({ input_ids: [text!] });
      const values = await logits.readFloats();
      logits.dispose();
      const vocab = values.length / text!.length;
      const row = (t: number): Float32Array => values.subarray(t * vocab, (t + 1) * vocab);
      for (let t = IDS[0]!.length; t < text!.length; t++) {
        expect(row(t - 1).indexOf(Math.max(...row(t - 1)))).toBe(text![t]);
      }
      const rows = await model.generate({ ...short, ...BATCH });
      for (const [r, mask] of (full ? BATCH.attention_mask : []).entries()) {
        const alone = BATCH.input_ids[r]!.filter((_, t) => mask[t] === 1);
        const [single] = await model.generate({ ...GENERATE, input_ids: [alone] });
        expect(rows[r]!.slice(-6)).toEqual(single!.slice(-6));
      }
    }
    model.disable_adapters();
    expect(await model.generate(short)).toEqual(bare);
    if (!full) return;
    expect(texts[0]).not.toEqual(texts[1]);
    let steps = 0;
    for await (const _ of model.stream(GENERATE)) {
      if (++steps === 2) expect(() => model.set_adapter("default")).toThrow(/generating/);
    }
    expect(steps).toBe(6);
  });

  test.runIf(full)(`a batch is generated with an adapter for each text${slow}`, async () => {
    await PeftModel.from_pretrained(await load({ load_in_8bit: true }), TWO);
    await model.load_adapter(join(TWO, "second"), "second");
    const prompts = [
      [1, 5, 9, 2, 40],
      [7, 3],
      [1, 5, 9, 2, 40],
      [1, 5, 9, 2, 40],
    ];
    const adapter_names = ["default", "second", "__base__", "second"];
    const steps = 5;
    const batch = {
      input_ids: prompts.map((ids) => [...new Array<number>(steps - ids.length).fill(0), ...ids]),
      attention_mask: prompts.map((ids) => Array.from({ length: steps }, (_, t) => Number(t >= steps - ids.length))),
    };
    const limits = { max_new_tokens: 6, eos_token_id: null, pad_token_id: 0 };
    for (const options of [
      { do_sample: false },
      { do_sample: true, seed: 3, temperature: 1.5, num_return_sequences: 2 },
      { do_sample: false, num_beams: 3 },
      { do_sample: false, prompt_lookup_num_tokens: 2 },
      { do_sample: false, guidance_scale: 1.5 },
      { penalty_alpha: 0.4, top_k: 3 },
    ]) {
      const together = await model.generate({ ...batch, adapter_names, ...limits, ...options });
      const copies = together.length / prompts.length;
      for (const [row, name] of adapter_names.entries()) {
        using _ = name === "__base__" ? model.disable_adapter() : undefined;
        if (name !== "__base__") model.set_adapter(name);
        const alone = { input_ids: [prompts[row]!], sequence_numbers: [row], ...limits, ...options };
        const texts = await model.generate(alone);
        const own = together
          .slice(row * copies, (row + 1) * copies)
          .map((ids) => ids.slice(steps - prompts[row]!.length));
        expect(own, `${JSON.stringify(options)}, ${name}`).toEqual(texts);
      }
    }
    // Keys and values of another adapter are void.
    using cache = new DynamicCache();
    for (const name of ["default", "second", "default"]) {
      model.set_adapter(name);
      const one = { input_ids: [prompts[0]!], do_sample: false, ...limits };
      expect(await model.generate({ ...one, past_key_values: cache })).toEqual(await model.generate(one));
      expect(cache.reused).toEqual([0]);
    }
    const refused = (names: unknown) => model.generate({ ...batch, ...limits, adapter_names: names as string[] });
    await expect(refused(["default"])).rejects.toThrow(/there are 1 names for 4 rows/);
    await expect(refused(["default", "third", "default", "default"])).rejects.toThrow(/third/);
    await expect(refused("default")).rejects.toThrow(/must be a list of names/);
  });

  test.runIf(full)(`merging into codes says what it costs${slow}`, async () => {
    const warned = vi.spyOn(console, "warn").mockImplementation(() => {}); // once per process
    for (const options of [NF4, { load_in_8bit: true }]) {
      await load(options);
      await model.load_adapter(TWO);
      const active = await logitsOf(model);
      const { errors } = await model.merge_adapter();
      expect(errors).toHaveLength(4);
      for (const { error, of_change } of errors) {
        // Rounding to 16 values in blocks costs some 8 % of a weight; to 255 in rows less than 1 %.
        expect(error).toBeGreaterThan(0);
        expect(error).toBeLessThan("load_in_4bit" in options ? 0.12 : 0.01);
        expect(of_change).toBeLessThan(1);
      }
      const merged = await logitsOf(model);
      expect(off(merged, active)).toBeGreaterThan(0);
      model.dispose();
    }
    warned.mockRestore();
  });

  test("norms and their inverses", async () => {
    const rows = [3, 4, 0, 0, -2e-3, 0, 500, 1];
    using norms = scope(() => rowNorms(Tensor.from(device, rows, [4, 2])));
    const want = [5, 0, 2e-3, Math.hypot(500, 1)];
    const got = await norms.readFloats();
    want.forEach((norm, i) => void expect(Math.abs(got[i]! - norm)).toBeLessThanOrEqual(2e-6 * norm));
    using inverse = scope(() => inverses(Tensor.from(device, [4, -0.5, 0, 1e-6], [4])));
    const parts = await inverse.readFloats();
    [0.25, -2, 0, 1e6].forEach((x, i) => void expect(Math.abs(parts[i]! - x)).toBeLessThanOrEqual(2e-6 * Math.abs(x)));
  });
});

describe("on the CPU", () => {
  let device: Device;
  let model: PreTrainedModel;
  beforeEach(async () => {
    device = await requestTestDevice("reference");
    model = await AutoModelForCausalLM.from_pretrained(LLAMA, { device });
  });
  afterEach(async () => {
    model.dispose();
    expectNoLeaks(device);
    await device.close();
  });

  test("a new adapter changes nothing until it is trained, counts as PEFT counts, and is saved as PEFT saves it", async () => {
    const bare = await logitsOf(model);
    const config = new LoraConfig({
      r: 4,
      lora_alpha: 8,
      target_modules: ["q_proj", "v_proj"],
      task_type: "CAUSAL_LM",
    });
    const peft = get_peft_model(prepare_model_for_kbit_training(model), config);
    expect(peft).toBe(model);
    expect(model instanceof PeftModel).toBe(true);
    expect(off(await logitsOf(model), bare)).toBe(0);
    const [trainable, all] = model.get_nb_trainable_parameters();
    // Two layers of q [64, 64] and v [32, 64] with rank 4.
    expect(trainable).toBe(2 * (4 * 64 + 64 * 4 + 4 * 64 + 32 * 4));
    const said = vi.spyOn(console, "log").mockImplementation(() => {});
    model.print_trainable_parameters();
    expect(said.mock.lastCall?.[0]).toBe(
      `trainable params: 1,792 || all params: ${all.toLocaleString("en-US")} || trainable%: ${((100 * trainable) / all).toFixed(4)}`,
    );
    said.mockRestore();
    const folder = temporary("adapter");
    await model.save_pretrained(folder);
    const text = readFileSync(join(folder, "adapter_config.json"), "utf8");
    const { base_model_name_or_path: base } = readJson<{ base_model_name_or_path: string }>(
      ...["peft", "llama", "two_adapters", "adapter_config.json"],
    );
    const golden = readFileSync(join(TWO, "adapter_config.json"), "utf8").trimEnd();
    expect(text.replace(JSON.stringify(LLAMA), JSON.stringify(base))).toBe(golden);
    await expect(model.save_pretrained(folder, { variant: "fp16" })).rejects.toThrow(/variant is for models/);
    model.unload();
    expect(model instanceof PeftModel).toBe(false);
    await model.load_adapter(folder, { is_trainable: true });
    expect(off(await logitsOf(model), bare)).toBe(0);
  });

  test("what is saved is what was loaded, byte for byte", async () => {
    await model.load_adapter(TWO);
    await model.load_adapter(join(TWO, "second"), "second");
    await model.load_adapter(adapterOf("embedding"), "third");
    const folder = temporary("adapters");
    const { files } = await model.save_pretrained(folder);
    expect(files).toHaveLength(6);
    for (const [from, to] of [
      [TWO, ""],
      [join(TWO, "second"), "second"],
      [adapterOf("embedding"), "third"],
    ] as const) {
      for (const file of ["adapter_config.json", "adapter_model.safetensors"]) {
        const [a, b] = [join(from, file), join(folder, to, file)].map((path) => readFileSync(path));
        // The fixture's JSON ends with a line end.
        const want = file.endsWith(".json") ? a!.subarray(0, a!.length - 1) : a!;
        expect(b!.equals(want), `${to}/${file}`).toBe(true);
      }
    }
  });

  test("a file of torch.save, and the folder of an adapter in place of its model's", async () => {
    await model.load_adapter(adapterOf("bin"));
    const want = readArrays("peft", "llama", "two_adapters", "expected.safetensors").get("second")!;
    expect(off(await logitsOf(model), want.values)).toBeLessThan(TOLERANCE);
    model.unload();
    model.add_adapter({ r: 2 });
    const folder = temporary("base");
    await model.save_pretrained(folder);
    const loaded = await AutoModelForCausalLM.from_pretrained(folder, { device });
    expect(loaded.active_adapters()).toEqual(["default"]);
    expect(off(await logitsOf(loaded), await logitsOf(model))).toBe(0);
    loaded.dispose();
    const config = join(folder, "adapter_config.json");
    writeFileSync(config, readFileSync(config, "utf8").replace(JSON.stringify(LLAMA), '"https://localhost:1/llama"'));
    await expect(AutoModelForCausalLM.from_pretrained(folder, { device })).rejects.toThrow(
      /base_model_name_or_path is/,
    );
  });

  test("names: taken, unknown, none", async () => {
    expect(() => model.set_adapter("x")).toThrow("no adapter loaded");
    expect(() => model.active_adapters()).toThrow(OptionError);
    await model.load_adapter(TWO);
    await expect(model.load_adapter(TWO)).rejects.toThrow(/already exists/);
    expect(() => model.set_adapter(["default", "x"])).toThrow(/not found\n.*there are default/);
    for (const name of ["", "a.b", "../x", "a/b", "__base__", "x\0"]) {
      await expect(model.load_adapter(TWO, name)).rejects.toThrow(OctavoError);
    }
    expect(model.active_adapters()).toEqual(["default"]);
    expect(() => model.forward({ input_ids: IDS, adapter_names: ["default", "default"] })).toThrow(
      /2 names for 1 rows/,
    );
    model.add_adapter({ r: 2, target_modules: "all-linear" }, "mine");
    expect(model.active_adapters()).toEqual(["mine"]);
    model.delete_adapter(["default", "mine"]);
  });

  test("what was off is on again once all adapters are others", async () => {
    const bare = await logitsOf(model);
    await model.load_adapter(TWO);
    model.disable_adapters().unload();
    await model.load_adapter(TWO);
    expect(off(await logitsOf(model), bare)).toBeGreaterThan(0.1);
  });

  test("a safe merge refuses what is no number, also where no names are given", async () => {
    model.add_adapter({ r: 2 });
    for (const { data } of model.adapters!.get("default").places.map(({ layer }) => (layer as LoraLayer).b)) {
      data.write(new Float32Array(data.size).fill(Number.NaN));
    }
    await expect(model.merge_adapter({ safe_merge: true })).rejects.toThrow(/no numbers/);
    await expect(model.merge_adapter(undefined, true)).rejects.toThrow(/no numbers/);
    await expect(model.merge_adapter(null, true)).rejects.toThrow(/no numbers/);
  });

  test("only one adapter at work has a module whole, and none is given twice", async () => {
    model.add_adapter({ r: 2, modules_to_save: ["lm_head", "model.norm"] }, "whole");
    model.add_adapter({ r: 2, modules_to_save: ["model.norm"] }, "norm");
    model.add_adapter({ r: 2, target_modules: ["lm_head"] }, "head");
    expect(() => model.set_adapter(["whole", "norm"])).toThrow(/whole has model\.norm\.weight whole, and norm/);
    expect(() => model.set_adapter(["head", "whole"])).toThrow(/whole has lm_head\.weight whole, and head/);
    expect(model.active_adapters()).toEqual(["head"]);
    await expect(model.merge_and_unload({ adapter_names: ["norm", "whole"] })).rejects.toThrow(/norm has/);
    await expect(model.merge_adapter(["head", "head"])).rejects.toThrow(/given twice/);
    model.set_adapter(["head", "norm"]);
  });

  test("of deleted adapters, the first that is left takes the place", async () => {
    const warned = vi.spyOn(console, "warn").mockImplementation(() => {});
    for (const name of ["a", "b", "c"]) model.add_adapter({ r: 2 }, name);
    model.delete_adapter("b");
    expect(model.active_adapters()).toEqual(["c"]);
    expect(warned).not.toHaveBeenCalled();
    model.delete_adapter("c");
    expect(model.active_adapters()).toEqual(["a"]);
    expect(warned).toHaveBeenCalledExactlyOnceWith(expect.stringMatching(/c worked and is deleted now; a works/));
    warned.mockRestore();
    model.delete_adapter("a");
    expect(model.adapters).toBeUndefined();
  });

  test("a trained bias is one parameter", async () => {
    await using bloom = await AutoModelForCausalLM.from_pretrained(join(FIXTURES, "models", "bloom"), { device });
    const [, before] = bloom.get_nb_trainable_parameters();
    const names = [...bloom.named_parameters()].map(([name]) => name);
    const biases = names.filter((name) => name.endsWith("bias"));
    bloom.add_adapter({ r: 2, bias: "all" });
    const layers = [...bloom.named_parameters()].filter(([name]) => name.includes("lora_"));
    const [, after] = bloom.get_nb_trainable_parameters();
    expect(after - before).toBe(layers.reduce((n, [, { shape }]) => n + shape[0]! * shape[1]!, 0));
    const asking = [...bloom.named_parameters()].filter(([, { requires_grad }]) => requires_grad).map(([name]) => name);
    expect(asking.sort()).toEqual([...layers.map(([name]) => name), ...biases].sort());
  });

  test("labels give the loss that is trained on, and generation beside it records nothing", async () => {
    model.add_adapter({ r: 2, lora_dropout: 0.5 });
    model.train();
    const { loss, logits } = model.forward({ input_ids: IDS, labels: IDS });
    loss!.backward();
    const gradients = [...model.parameters()].filter(({ requires_grad, grad }) => requires_grad && grad);
    // B is 0, so nothing reaches A; both have gradients.
    expect(gradients).toHaveLength(8);
    logits.dispose();
    loss!.dispose();
    expect(await model.generate(GENERATE)).toHaveLength(1);
    expect(() => model.forward({ input_ids: IDS, labels: [[1]] })).toThrow(/labels must have the shape/);
    expect(() => model.forward({ input_ids: [[5, 6]], labels: [[5, -100]] })).toThrow(/none of them counts/);
    expect(() => model.forward({ input_ids: [[5, 6]], labels: [[5, 160]] })).toThrow(/labels\[0\]\[1\] is 160/);
  });
});
