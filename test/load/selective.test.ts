// Selective quantization: a scheme for each linear by its path, from loading to saving and back, and plans chosen by error.

import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, describe, expect, test } from "vitest";
import { replace_with_bnb_linear } from "../../src/bnb/replace.js";
import { openCheckpoint } from "../../src/checkpoints/checkpoint.js";
import { FOLDERS } from "../../src/checkpoints/folder-write.js";
import { CheckpointError, ConfigError, OptionError, UnsupportedModelError } from "../../src/core/errors.js";
import type { Tensor } from "../../src/core/tensor.js";
import { AutoModelForCausalLM, AutoModelForSeq2SeqLM } from "../../src/generate/auto.js";
import { choose, choosePlan } from "../../src/load/choose.js";
import { openDevice } from "../../src/load/device.js";
import { quantizeCheckpoint } from "../../src/load/quantize.js";
import { surveyModel } from "../../src/load/survey.js";
import { Linear } from "../../src/nn/module.js";
import * as nn from "../../src/nn.js";
import { SelectiveConfig, type SelectiveOptions } from "../../src/quant/selective.js";
import { Disk } from "../../src/sources/disk.js";
import { expectNoLeaks } from "../support/devices.js";
import { FIXTURES } from "../support/fixtures.js";
import { temporary } from "../support/temporary.js";

const device = openDevice("cpu", { threads: 2 });
afterAll(async () => {
  expectNoLeaks(device);
  await device.close();
});

/** Its matrices are plain rows without padding: sizes are exact on it. */
const reference = openDevice("reference");
afterAll(async () => {
  expectNoLeaks(reference);
  await reference.close();
});

const folder = (name: string): string => join(FIXTURES, "models", name);
const PLAN: SelectiveOptions = { modules: { self_attn: "int8", mlp: "nf4-dq", lm_head: "bfloat16" } };

/** How each linear is stored: its scheme, or its dtype. */
function stored(tree: nn.Module): Record<string, string> {
  const found: Record<string, string> = {};
  for (const [path, one] of tree.named_modules()) if (one instanceof Linear) found[path] = one.weight.stored;
  return found;
}

/** Logits of a short text. */
async function logits(model: {
  forward(inputs: { input_ids: number[][] }): { logits: Tensor };
}): Promise<Float32Array> {
  using out = model.forward({ input_ids: [[5, 9, 3, 20, 7]] }).logits;
  return out.readFloats();
}

describe("the config", () => {
  const first = (modules: SelectiveOptions["modules"], path: string): string =>
    new SelectiveConfig({ modules, default: "fp4" }).said(path).scheme;

  test("whole components anywhere in a path; the first pattern counts", () => {
    expect(first({ mlp: "int8" }, "model.layers.0.mlp.up_proj")).toBe("int8");
    expect(first({ mlp: "int8" }, "model.layers.0.mlp2.up_proj")).toBe("fp4");
    expect(first({ "layers.1": "int8" }, "model.layers.11.mlp")).toBe("fp4");
    expect(first({ "layers.*.mlp": "int8" }, "model.layers.11.mlp.fc")).toBe("int8");
    expect(first({ "layers.*.fc": "int8" }, "model.layers.11.mlp.fc")).toBe("fp4");
    expect(first({ "*_proj": "nf4", mlp: "int8" }, "mlp.up_proj")).toBe("nf4");
    expect(first({ "a+b(c": "int8" }, "x.a+b(c")).toBe("int8");
    expect(first({ lm_head: "torch.bfloat16" as "bf16" }, "lm_head")).toBe("bf16");
  });

  test("to_dict gives the config again", () => {
    const config = new SelectiveConfig({ ...PLAN, llm_int8_threshold: 5, bnb_4bit_compute_dtype: "int8" });
    expect(new SelectiveConfig(JSON.parse(JSON.stringify(config.to_dict()))).to_dict()).toEqual(config.to_dict());
    expect(config.to_dict()).toMatchObject({ quant_method: "octavo", modules: PLAN.modules, default: "auto" });
  });

  test.each([
    [{}, /neither modules nor default/],
    [{ modules: { mlp: "int4" } }, /scheme of "mlp" must be one of int8, nf4.*got "int4"/],
    [{ modules: { "a..b": "int8" } }, /no path of modules/],
    [{ modules: { "*a*": "int8" } }, /no path of modules/],
    [{ modules: { "0": "int8" } }, /is a number/],
    [{ modules: { mlp: "int8" }, quant_method: "bitsandbytes" }, /quant_method must be/],
    [{ modul: { mlp: "int8" } }, /did you mean `modules`/],
    [{ modules: [["mlp", "int8"]] }, /modules must be an object/],
    [{ default: "int9" }, /default must be one of/],
  ] as const)("%o is refused", (fields, message) => {
    expect(() => new SelectiveConfig(fields as never)).toThrow(message);
  });
});

describe("loading", () => {
  test("each linear is what its path says, in the layout of its scheme, and is found again", async () => {
    const into = temporary("selective");
    await using model = await AutoModelForCausalLM.from_pretrained(folder("llama"), {
      device,
      quantization_config: PLAN,
    });
    const kinds = stored(model.module);
    expect(kinds["model.layers.1.self_attn.v_proj"]).toBe("llm_int8");
    expect(kinds["model.layers.0.mlp.up_proj"]).toBe("nf4");
    expect(kinds.lm_head).toBe("bf16");
    await model.save_pretrained(into);
    const config = JSON.parse(readFileSync(join(into, "config.json"), "utf8"));
    expect(config.quantization_config).toMatchObject({ ...PLAN, quant_method: "octavo" });
    const { tensors } = await openCheckpoint(new Disk(into), {});
    expect(tensors.get("lm_head.weight")?.dtype).toBe("BF16");
    expect(tensors.get("model.layers.0.self_attn.q_proj.SCB")?.dtype).toBe("F32");
    expect(tensors.get("model.layers.0.mlp.up_proj.weight.nested_absmax")?.dtype).toBe("F32");
    expect(tensors.has("model.layers.0.mlp.up_proj.weight.quant_state.bitsandbytes__nf4")).toBe(true);

    await using again = await AutoModelForCausalLM.from_pretrained(into, { device });
    expect(stored(again.module)).toEqual(kinds);
    expect(again.warnings).toEqual([]);
    expect(await logits(again)).toEqual(await logits(model));
    // The same plan may be asked for; another one, or another kind, is refused.
    const asking = (quantization_config: object) =>
      AutoModelForCausalLM.from_pretrained(into, { device, quantization_config });
    await using same = await asking(PLAN);
    expect(stored(same.module)).toEqual(kinds);
    await expect(asking({ modules: { mlp: "int8" } })).rejects.toThrow(/is quantized already/);
    await expect(asking({ load_in_8bit: true })).rejects.toThrow(/is quantized already/);

    const survey = await surveyModel(new Disk(into));
    expect(survey.sizes).toMatchObject([{ name: "selective", bytes: again.weight_bytes }]);
    expect(survey.shares.map(({ scheme, linears }) => [scheme, linears])).toEqual([
      ["int8", 8],
      ["nf4-dq", 6],
      ["bfloat16", 1],
    ]);
  });

  test("sizes are exact before anything is loaded", async () => {
    for (const [name, plan] of [
      ["llama", PLAN],
      ["gpt2", { modules: { attn: "fp4", lm_head: "int8" }, default: "nf4" }],
      ["mixtral", { modules: { self_attn: "bf16", "layers.0": "nf4-dq" }, default: "int8" }],
    ] as const) {
      const { sizes, ...survey } = await surveyModel(new Disk(folder(name)), { plan: new SelectiveConfig(plan) });
      expect(survey.checkpoint_bytes).toBe((await surveyModel(new Disk(folder(name)))).checkpoint_bytes);
      await using model = await AutoModelForCausalLM.from_pretrained(folder(name), {
        device: reference,
        quantization_config: plan,
      });
      expect([name, sizes.at(-1)!.bytes]).toEqual([name, model.weight_bytes]);
    }
  });

  test.each([
    ["gpt2", { modules: { attn: "fp4", lm_head: "int8" }, default: "nf4" }], // transposed matrices, a tied head
    ["mixtral", { modules: { self_attn: "int8", "layers.0": "nf4-dq" }, default: "fp4" }], // stacks of experts
    ["t5", { modules: { encoder: "int8", "decoder.block.*.layer.*.SelfAttention": "nf4" } }],
    ["mixtral", { modules: { self_attn: "nf4", "layers.0": "int8" }, default: "o4" }],
    ["gpt2", { modules: { lm_head: "int8" }, default: "o4" }],
  ] as const)("%s: a checkpoint is quantized as the loaded model is, and both are found again", async (name, plan) => {
    const [streamed, whole] = [temporary(name), temporary(name)];
    const quantization = new SelectiveConfig(plan);
    await quantizeCheckpoint(new Disk(folder(name)), streamed, FOLDERS, { device, name, dtype: "auto", quantization });
    const loader = name === "t5" ? AutoModelForSeq2SeqLM : AutoModelForCausalLM;
    await using model = await loader.from_pretrained(folder(name), { device, quantization_config: quantization });
    await model.save_pretrained(whole);
    for (const file of ["model.safetensors", "config.json"]) {
      expect(readFileSync(join(streamed, file)).equals(readFileSync(join(whole, file)))).toBe(true);
    }
    await using again = await loader.from_pretrained(streamed, { device });
    expect(stored(again.module)).toEqual(stored(model.module));
  });

  test("one scheme with codes is said in the words of bitsandbytes, and is ours when Octavo reads it", async () => {
    const into = temporary("one");
    const plan: SelectiveOptions = { modules: { self_attn: "int8", "layers.0": "bf16" } };
    await using model = await AutoModelForCausalLM.from_pretrained(folder("llama"), {
      device,
      quantization_config: plan,
    });
    await model.save_pretrained(into);
    const { quantization_config: block } = JSON.parse(readFileSync(join(into, "config.json"), "utf8"));
    expect(block).toMatchObject({ quant_method: "bitsandbytes", load_in_8bit: true });
    expect([...block.llm_int8_skip_modules].sort()).toEqual(
      [
        ...["gate_proj", "up_proj", "down_proj"].flatMap((one) => [
          `model.layers.0.mlp.${one}`,
          `model.layers.1.mlp.${one}`,
        ]),
        "lm_head",
      ].sort(),
    );
    await using again = await AutoModelForCausalLM.from_pretrained(into, { device });
    expect(stored(again.module)).toEqual(stored(model.module));
    // As Python reads it.
    delete block.octavo;
    const file = join(into, "config.json");
    writeFileSync(file, JSON.stringify({ ...JSON.parse(readFileSync(file, "utf8")), quantization_config: block }));
    await using python = await AutoModelForCausalLM.from_pretrained(into, { device });
    expect(stored(python.module)["model.layers.1.self_attn.q_proj"]).toBe("llm_int8");
  });

  test("patterns without effect are told; none with effect is an error", async () => {
    const load = (modules: SelectiveOptions["modules"]) =>
      AutoModelForCausalLM.from_pretrained(folder("llama"), { device, quantization_config: { modules } });
    await expect(load({ self_atn: "int8" })).rejects.toThrow(/did you mean "self_attn"/);
    await using model = await load({ mlp: "int8", up_proj: "nf4" });
    expect(model.warnings.join()).toContain("up_proj");
    await expect(
      AutoModelForCausalLM.from_pretrained(folder("mixtral"), {
        device,
        quantization_config: { modules: { "experts.1": "int8", experts: "nf4" } },
      }),
    ).rejects.toBeInstanceOf(UnsupportedModelError);
  });

  test("a config.json that lies about its weights is refused", async () => {
    const into = temporary("lies");
    const quantization = new SelectiveConfig(PLAN);
    await quantizeCheckpoint(new Disk(folder("llama")), into, FOLDERS, {
      device,
      name: "x",
      dtype: "auto",
      quantization,
    });
    const file = join(into, "config.json");
    const config = JSON.parse(readFileSync(file, "utf8"));
    const load = (fields: object) => {
      const block = { ...config.quantization_config, ...fields };
      writeFileSync(file, JSON.stringify({ ...config, quantization_config: block }));
      return AutoModelForCausalLM.from_pretrained(into, { device });
    };
    await expect(load({ modules: { self_attn: "nf4", mlp: "nf4-dq" } })).rejects.toBeInstanceOf(CheckpointError);
    await expect(load({ modules: { self_attn: "int8", mlp: "nf4" } })).rejects.toThrow(/double quantization/);
    await expect(load({ modules: { self_attn: "int8" } })).rejects.toBeInstanceOf(CheckpointError);
    await expect(load({ modules: { mlp: "int9" } })).rejects.toBeInstanceOf(ConfigError);
    await expect(load({ newer: 1 })).rejects.toBeInstanceOf(ConfigError);
  });
});

test("searched scales: asked for in any way they are the same, and stay when the model is saved", async () => {
  const nf4 = { load_in_4bit: true, bnb_4bit_quant_type: "nf4" } as const;
  const load = (options: object) => AutoModelForCausalLM.from_pretrained(folder("llama"), { device, ...options });
  await using plain = await load(nf4);
  await using searched = await load({ ...nf4, bnb_4bit_scale_search: true });
  await using selective = await load({
    quantization_config: { modules: {}, default: "nf4", bnb_4bit_scale_search: true },
  });
  await using replaced = await load({});
  replace_with_bnb_linear(replaced, { quantization_config: { ...nf4, bnb_4bit_scale_search: true } });
  const want = await logits(searched);
  expect(await logits(plain)).not.toEqual(want);
  for (const model of [selective, replaced]) expect(await logits(model)).toEqual(want);
  for (const model of [searched, selective]) {
    const into = temporary("searched");
    await model.save_pretrained(into);
    await using again = await AutoModelForCausalLM.from_pretrained(into, { device });
    expect(await logits(again)).toEqual(want);
  }
  const stored = join(FIXTURES, "checkpoints", "llama", "bnb-fp4");
  await expect(
    AutoModelForCausalLM.from_pretrained(stored, { device, load_in_4bit: true, bnb_4bit_scale_search: true }),
  ).rejects.toThrow(/scale_search/);
});

describe("replace_with_bnb_linear", () => {
  test("a model of one's own", async () => {
    class Net extends nn.Module {
      body = new nn.Sequential(new nn.Linear(16, 16), new nn.Linear(16, 8));
      side = new nn.Linear(16, 8);
      lm_head = new nn.Linear(8, 4);
    }
    using net = new Net();
    const modules = { "body.0": "int8", body: "nf4", side: "bf16" } as const;
    replace_with_bnb_linear(net, { quantization_config: { modules, default: "fp4" } }).to(device);
    expect(stored(net)).toEqual({ "body.0": "llm_int8", "body.1": "nf4", side: "bf16", lm_head: "f32" });
    expect(() => replace_with_bnb_linear(net, { quantization_config: { modules: { nose: "int8" } } })).toThrow(
      OptionError,
    );
  });

  test("a loaded model is what from_pretrained gives, and can be saved", async () => {
    await using ours = await AutoModelForCausalLM.from_pretrained(folder("llama"), { device });
    await using model = await AutoModelForCausalLM.from_pretrained(folder("llama"), {
      device,
      quantization_config: PLAN,
    });
    replace_with_bnb_linear(ours, { quantization_config: new SelectiveConfig(PLAN) });
    expect(stored(ours.module)).toEqual(stored(model.module));
    expect(await logits(ours)).toEqual(await logits(model));
    const into = temporary("replaced");
    await ours.save_pretrained(into);
    await using again = await AutoModelForCausalLM.from_pretrained(into, { device });
    expect(stored(again.module)).toEqual(stored(model.module));
    expect(await logits(again)).toEqual(await logits(model));
  });
});

describe("a number of bytes", () => {
  const cost = (scheme: "auto" | "int8" | "nf4", bytes: number, error: number) => ({ scheme, bytes, error });

  test("the least error per byte is given up first, and nothing more than needed", () => {
    const costs = (scale: number) => [cost("auto", 100, 0), cost("int8", 50, 1 * scale), cost("nf4", 25, 10 * scale)];
    const measured = [
      { path: "a", costs: costs(1) },
      { path: "b", costs: costs(2) },
    ];
    const schemes = (needed: number): string[] => choose(measured, needed).map(({ scheme }) => scheme);
    expect(schemes(50)).toEqual(["int8", "auto"]);
    expect(schemes(51)).toEqual(["int8", "int8"]);
    expect(schemes(101)).toEqual(["nf4", "int8"]);
    expect(schemes(150)).toEqual(["nf4", "nf4"]);
    // The last step saved more than was needed: a dearer one before it is taken back.
    const uneven = [
      { path: "small", costs: [cost("auto", 10, 0), cost("int8", 5, 1)] },
      { path: "large", costs: [cost("auto", 100, 0), cost("int8", 50, 20)] },
    ];
    expect(choose(uneven, 48).map(({ scheme }) => scheme)).toEqual(["auto", "int8"]);
  });

  test("the chosen plan fits exactly as it says, and measures what the schemes do", async () => {
    const source = new Disk(folder("mixtral"));
    const dense = (await surveyModel(source)).sizes.find(({ name }) => name === "float32")!.bytes;
    const target_bytes = Math.round(0.3 * dense);
    const chosen = await choosePlan(source, { device, dtype: "auto", target_bytes });
    expect(chosen.bytes).toBeLessThanOrEqual(target_bytes);
    expect(new Set(chosen.linears.map(({ scheme }) => scheme)).size).toBeGreaterThan(1);
    await using model = await AutoModelForCausalLM.from_pretrained(folder("mixtral"), {
      device: reference,
      quantization_config: chosen.config,
    });
    expect(model.weight_bytes).toBe(chosen.bytes);
    await using exact = await AutoModelForCausalLM.from_pretrained(folder("mixtral"), { device });
    const one = chosen.linears.find(({ scheme }) => scheme === "nf4") ?? chosen.linears.find(({ error }) => error > 0)!;
    const [is, was] = await Promise.all(
      [model, exact].map(async ({ module }) => {
        using values = (module.get_submodule(one.path) as Linear).weight.dequantize();
        return values.readFloats();
      }),
    );
    let [off, norm] = [0, 0];
    was!.forEach((value, i) => {
      off += (value - is![i]!) ** 2;
      norm += value ** 2;
    });
    expect(one.error).toBeCloseTo(off / norm, 6);
    const head = chosen.linears.find(({ path }) => path === "lm_head")!;
    expect(["auto", "bf16", "int8"]).toContain(head.scheme);

    const asking = (bytes: number) => choosePlan(source, { device, dtype: "auto", target_bytes: bytes });
    await expect(asking(1000)).rejects.toThrow(/do not fit into/);
    await expect(asking(dense)).rejects.toThrow(/as they are/);
    const packed = new Disk(join(FIXTURES, "checkpoints", "llama", "bnb-int8"));
    await expect(choosePlan(packed, { device, dtype: "auto", target_bytes })).rejects.toBeInstanceOf(OptionError);
  });
});
