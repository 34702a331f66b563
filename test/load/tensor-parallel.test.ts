// from_pretrained with tp_plan: matrices cut over logical devices. The same bits as on one device, whatever the number of devices, in
// every form of storage, because every output is summed on one device over all inputs.

import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { nativeAvailable } from "../../src/backends/native/addon.js";
import { OptionError, OutOfMemoryError } from "../../src/core/errors.js";
import { scope, Tensor } from "../../src/core/tensor.js";
import {
  AutoModelForCausalLM,
  AutoModelForMaskedLM,
  AutoModelForSeq2SeqLM,
  type FromPretrainedOptions,
  LoraConfig,
  type PreTrainedModel,
} from "../../src/index.js";
import { manual_seed } from "../../src/nn/init.js";
import { type Linear, type Module, within } from "../../src/nn/module.js";
import { argmax } from "../../src/ops/argmax.js";
import { contiguous, copyInto } from "../../src/ops/copy.js";
import { difference, FIXTURES, largest } from "../support/fixtures.js";
import { STORYTELLER } from "../support/models.js";
import { temporary } from "../support/temporary.js";

const IDS = [
  [3, 1, 4, 1, 5, 9, 2, 6],
  [2, 7, 1, 8, 2, 8, 1, 8],
];
const fixture = (name: string): string => join(FIXTURES, "models", name);
const load = (name: string, options: FromPretrainedOptions): Promise<PreTrainedModel> =>
  AutoModelForCausalLM.from_pretrained(name, options);

async function logitsOf(model: PreTrainedModel): Promise<Float32Array> {
  using logits = model.forward({ input_ids: IDS }).logits;
  return await logits.readFloats();
}

/** Logits, tokens and sampled tokens. */
async function results(model: PreTrainedModel): Promise<unknown[]> {
  const values = await logitsOf(model);
  const tokens = await model.generate({ input_ids: IDS, max_new_tokens: 8, do_sample: false });
  const sampled = await model.generate({ input_ids: IDS, max_new_tokens: 8, do_sample: true, seed: 7 });
  return [values, tokens, sampled];
}

describe.skipIf(!nativeAvailable())("tp_plan", () => {
  test.each<[string, string, FromPretrainedOptions, number]>([
    ["in 8 bits, with outliers", STORYTELLER, { load_in_8bit: true, llm_int8_threshold: 2 }, 3],
    [
      "in fp4, quantized twice",
      STORYTELLER,
      { load_in_4bit: true, bnb_4bit_use_double_quant: true, bnb_4bit_quant_type: "fp4" },
      2,
    ],
    ["in bfloat16", fixture("qwen2"), { dtype: "bfloat16" }, 3],
    ["in nf4", fixture("mistral"), { load_in_4bit: true, bnb_4bit_quant_type: "nf4" }, 2],
    ["in o4", STORYTELLER, { load_in_4bit: true, bnb_4bit_quant_type: "o4" }, 2],
    ["gpt2", fixture("gpt2"), {}, 2],
    ["opt", fixture("opt"), { load_in_8bit: true }, 2],
    ["bloom", fixture("bloom"), {}, 4],
    ["more devices than rows of panels", fixture("llama"), {}, 7],
    ["codes of another quantizer with zero points", join(FIXTURES, "packed", "awq"), {}, 2],
  ])("%s: the same bits", async (_, name, how, tp_size) => {
    await using alone = await load(name, { device: "cpu", threads: 1, ...how });
    await using model = await load(name, { tp_plan: "auto", tp_size, ...how });
    expect(await results(model)).toEqual(await results(alone));
    const devices = model.module.placement?.devices ?? [];
    expect([model.tp_size, model.hf_device_map]).toEqual([tp_size, { "": "cpu:0" }]);
    expect(devices.map(({ name }) => name)).toEqual(Array.from({ length: tp_size }, (_, n) => `cpu:${n}`));
    const cut = (path: string): boolean => {
      const { weight } = model.module.get_submodule(path) as Linear;
      return new Set(weight.tensors.map(({ device }) => device)).size > 1;
    };
    // Blocks that are quantized twice end where a piece may begin, in narrow matrices nowhere.
    const whole = model.quantized_modules.filter((path) => !cut(path));
    expect(new Set(whole.map((path) => path.split(".").at(-1)))).toEqual(
      new Set(how.bnb_4bit_use_double_quant ? ["down_proj"] : []),
    );
    for (const { memory } of devices) {
      expect(memory.live).toBeGreaterThan(0);
      expect(memory.live).toBeLessThan(alone.device.memory.live);
    }
  });

  test("saved, it is the model that was loaded; made floats again, it stays cut", async () => {
    for (const how of [{ load_in_8bit: true }, { load_in_4bit: true }, {}]) {
      const folder = temporary("cut");
      const name = fixture("gpt2"); // whose files hold transposed matrices
      await using model = await load(name, { tp_plan: "auto", ...how });
      await model.save_pretrained(folder);
      const saved = await load(folder, { device: "cpu" });
      const wanted = await results(model);
      expect(await results(saved)).toEqual(wanted);
      const [, second] = model.module.placement!.devices;
      const { live } = second!.memory;
      model.dequantize();
      expect(second!.memory.live >= live).toBe(true);
      expect(await results(model)).toEqual(await results(saved.dequantize()));
      await saved[Symbol.asyncDispose]();
    }
  });

  test("new values arrive on every device, and matrices stay cut", async () => {
    type Attention = Module & { readonly q_proj: Linear; readonly v_proj: Linear };
    const attentionOf = (model: PreTrainedModel): Attention =>
      model.module.get_submodule("model.layers.0.self_attn") as Attention;
    const wave = (size: number, by: number): Float32Array =>
      Float32Array.from({ length: size }, (_, i) => Math.sin(i * by));
    const change = async (how: FromPretrainedOptions, options: FromPretrainedOptions): Promise<unknown[]> => {
      await using model = await load(fixture("qwen2"), { ...how, ...options });
      const attention = attentionOf(model);
      const bias = attention.q_proj.bias!.data;
      bias.write(wave(bias.size, 1));
      const written = await logitsOf(model);
      await using other = await load(fixture("qwen2"), { device: "cpu", threads: 1, ...how });
      const [weight, shape] = ["v_proj.weight", attention.v_proj.weight.shape];
      using values = Tensor.from(other.device, wave(shape[0] * shape[1], 3), shape);
      if (how.dtype) await attentionOf(other).load_state_dict({ [weight]: values }, { strict: false });
      const held = weightsOf(model);
      await attention.load_state_dict(await attentionOf(other).state_dict());
      expect(weightsOf(model)).toEqual(held);
      return [written, await logitsOf(model)];
    };
    for (const how of [
      { dtype: "float32" },
      { dtype: "bfloat16", compute_dtype: "float32" },
      { load_in_8bit: true },
    ] as const) {
      const cut = await change(how, { tp_plan: "auto" });
      expect(cut[0]).not.toEqual(cut[1]);
      expect(cut).toEqual(await change(how, { device: "cpu" }));
    }
  });

  /** Bytes of the weights by device. */
  function weightsOf(model: PreTrainedModel): number[] {
    return model.memory().devices.map(({ weights }) => weights);
  }

  test("a vocabulary of another size: the head stays cut while it is large enough", async () => {
    const resize = async (options: FromPretrainedOptions): Promise<unknown[]> => {
      manual_seed(3);
      await using model = await load(fixture("llama"), { dtype: "float32", ...options });
      const head = model.module.output_embeddings() as Linear;
      const places = (): number => new Set(head.weight.tensors.map(({ device }) => device)).size;
      const found: unknown[] = [];
      const before = places();
      model.resize_token_embeddings(model.module.vocabulary()!.geometry.vocab + 50);
      expect(places()).toBe(before);
      found.push(await results(model));
      model.resize_token_embeddings(10); // less than a panel for each
      expect(places()).toBe(1);
      found.push(await logitsOf(model));
      return found;
    };
    expect(await resize({ tp_plan: "auto" })).toEqual(await resize({ device: "cpu" }));
  });

  test("an adapter learns the same over it, and is merged into it", async () => {
    const learn = async (options: FromPretrainedOptions): Promise<unknown[]> => {
      await using model = await load(fixture("llama"), { dtype: "float32", ...options });
      model.add_adapter(new LoraConfig({ target_modules: ["q_proj", "down_proj"], r: 4 }));
      for (const [, { data: value }] of model.adapters!.named_parameters()) {
        value.write(Float32Array.from({ length: value.size }, (_, i) => Math.sin(i) / 8));
      }
      const { loss } = model.forward({ input_ids: IDS, labels: IDS, skip_logits: true });
      const value = await model.backward(loss!);
      loss!.dispose();
      const gradients: unknown[] = [];
      for (const [, { grad }] of model.adapters!.named_parameters()) if (grad) gradients.push(await grad.readFloats());
      model.zero_grad();
      await model.merge_and_unload();
      return [value, gradients, await results(model)];
    };
    const cut = await learn({ tp_plan: "auto", tp_size: 3 });
    expect((cut[1] as unknown[]).length).toBeGreaterThan(0);
    const one = await learn({ device: "cpu" });
    expect(cut[0]).toBe(one[0]);
    expect(cut[2]).toEqual(one[2]);
    // Gradients of inputs are sums over outputs, which lie on several devices: the same numbers in another order of sums.
    for (const [i, grad] of (cut[1] as Float32Array[]).entries()) {
      const { max } = difference(grad, (one[1] as Float32Array[])[i]!);
      expect(max).toBeLessThan(1e-5 * Math.max(1e-3, largest(grad)) + 1e-8);
    }
  });

  test("encoders and encoder-decoders, too", async () => {
    const masked = async (options: FromPretrainedOptions): Promise<unknown> => {
      await using model = await AutoModelForMaskedLM.from_pretrained(fixture("bert"), options);
      const { logits } = model.forward({ input_ids: IDS });
      const values = await logits.readFloats();
      logits.dispose();
      return values;
    };
    expect(await masked({ tp_plan: "auto" })).toEqual(await masked({ device: "cpu" }));
    const spoken = async (options: FromPretrainedOptions): Promise<unknown> => {
      await using model = await AutoModelForSeq2SeqLM.from_pretrained(fixture("t5"), {
        load_in_8bit: true,
        ...options,
      });
      return await model.generate({ input_ids: IDS, max_new_tokens: 6, num_beams: 2, do_sample: false });
    };
    expect(await spoken({ tp_plan: "auto" })).toEqual(await spoken({ device: "cpu" }));
  });

  test.each<[string, string, FromPretrainedOptions, RegExp]>([
    ["a plan of one's own", "llama", { tp_plan: { q_proj: "colwise" } as never }, /tp_plan must be "auto"/],
    ["two ways at once", "llama", { tp_plan: "auto", device_map: "auto" }, /mutually exclusive/],
    ["a size without a plan", "llama", { tp_size: 2 }, /tp_plan has to be set when tp_size is passed/],
    ["two sizes", "llama", { tp_plan: "auto", tp_size: 3, device_mesh: ["cpu:0", "cpu:1"] }, /device_mesh names 2/],
    ["a device twice", "llama", { tp_plan: "auto", device_mesh: ["cpu:0", "cpu:0"] }, /"cpu:0" is there twice/],
    ["a disk", "llama", { tp_plan: "auto", device_mesh: ["cpu:0", "disk"] }, /where no model can run/],
    ["a device beside", "llama", { tp_plan: "auto", device: "reference" }, /device "reference" is given/],
    ["too many", "llama", { tp_plan: "auto", tp_size: 65 }, /at most 64/],
    ["experts", "mixtral", { tp_plan: "auto" }, /does not cut models with experts: model\.layers\.0.* of Mixtral/],
    ["a bound of another device", "llama", { tp_plan: "auto", max_memory: { "cpu:7": "1GB" } }, /goes to "cpu:7"/],
    [
      "a bound of a number that is no device of the mesh",
      "llama",
      { tp_plan: "auto", device_mesh: ["cpu:3", "cpu:5"], max_memory: { 0: "1GB" } },
      /no part of the model goes to 0/,
    ],
    ["two bounds", "llama", { tp_plan: "auto", max_memory: { 1: "1GB", "cpu:1": "2GB" } }, /cpu:1 is there twice/],
    ["a bound of nothing", "llama", { tp_plan: "auto", max_memory: { 1: 0 } }, /may take nothing/],
  ])("%s: refused", async (_, name, options, message) => {
    const error = await load(fixture(name), options).catch((thrown: unknown) => thrown);
    expect(error).toBeInstanceOf(OptionError);
    expect((error as Error).message).toMatch(message);
  });

  test("bounds of its devices hold, and a load that does not fit leaves nothing", async () => {
    const name = fixture("llama");
    await using model = await load(name, { tp_plan: "auto", max_memory: { 0: "1MB", "cpu:1": "300kB" } });
    const [first, second] = model.module.placement!.devices;
    expect([first!.memory.budget, second!.memory.budget]).toEqual([1e6, 3e5]);
    expect(() => model.checkTrainable()).toThrow(/trained by adapters alone/);
    expect(() => model.requires_grad_()).toThrow(/a matrix that tp_plan cuts takes no gradient/);
    expect([...model.parameters()].some((one) => one.requires_grad)).toBe(false);
    expect(() => (model.module.output_embeddings() as Linear).weight.data).toThrow(/is no single tensor/);
    await expect(load(name, { tp_plan: "auto", device: first! })).rejects.toThrow(/and device "cpu:0" is given/);
    await expect(load(name, { tp_plan: "auto", max_memory: { 0: "1MB", 1: "60kB" } })).rejects.toThrow(
      OutOfMemoryError,
    );
  });

  test("numbers of bounds mean what they mean in a mesh; a cast that does not fit one device changes nothing", async () => {
    const max_memory = { 0: "3MB", 1: "2MB" };
    await using model = await load(fixture("llama"), {
      ...{ tp_plan: "auto", device_mesh: ["cpu:1", "cpu:0"], max_memory, dtype: "bfloat16" },
    });
    const [first, second] = model.module.placement!.devices;
    expect([first!.memory.budget, second!.memory.budget]).toEqual([2e6, 3e6]);
    const wanted = await results(model);
    second!.arena.trim();
    const { live } = second!.memory;
    second!.limit(live + 1000);
    expect(() => model.float()).toThrow(OutOfMemoryError);
    expect([second!.memory.live, model.dtype]).toEqual([live, "bf16"]);
    second!.limit(3e6);
    expect(await results(model)).toEqual(wanted);
    expect(model.float().dtype).toBe("f32");
  });

  test("a failure on one device is told with the module, and the next pass is well", async () => {
    await using model = await load(fixture("llama"), { tp_plan: "auto", load_in_8bit: true });
    const wanted = await results(model);
    const layer = model.module.get_submodule("model.layers.1.mlp.down_proj") as Linear;
    const scales = layer.weight.tensors.find((one) => one.dtype === "f32" && one.device.name === "cpu:1")!;
    const values = await scales.readFloats();
    // A command that fails on the second device spoils what it holds.
    within(scales.device, "somewhere", () =>
      scope(() => {
        const none = argmax(Tensor.from(scales.device, [Number.NaN, 0], [1, 2]));
        copyInto(contiguous(none.expand(scales.size), "f32"), scales);
      }),
    );
    await expect(results(model)).rejects.toThrow(/argmax in somewhere/);
    scales.write(values);
    expect(await results(model)).toEqual(wanted);
  });
});
