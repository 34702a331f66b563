// First values of adapters that are parts of the model's weights, against peft (test/fixtures/make_lora_init.py).

import { join } from "node:path";
import { afterEach, describe, expect, test } from "vitest";
import type { LoraOptions } from "../../src/adapters/config.js";
import { firstOfQR, largestSingular, randomSingular } from "../../src/adapters/svd.js";
import type { LoraLayer } from "../../src/adapters/weight.js";
import type { Device } from "../../src/core/device.js";
import { scope } from "../../src/core/tensor.js";
import {
  AutoModelForCausalLM,
  type FromPretrainedOptions,
  get_peft_model,
  LoftQConfig,
  LoraConfig,
  PeftModel,
  type PreTrainedModel,
} from "../../src/index.js";
import { linearBack } from "../../src/ops/linear.js";
import { scale } from "../../src/ops/scale.js";
import { DEVICES, expectNoLeaks, requestTestDevice } from "../support/devices.js";
import { FIXTURES, readArrays, readJson } from "../support/fixtures.js";
import { temporary } from "../support/temporary.js";

interface Summary {
  readonly norm: number;
  readonly dot: number;
}
interface Case {
  readonly config: LoraOptions;
  readonly layers: Readonly<Record<string, { product: Summary; left: Summary }>>;
  readonly logits: Summary;
}
const INIT = ["peft", "llama", "init"] as const;
const CASES = readJson<Case[]>(...INIT, "cases.json");
const LLAMA = join(FIXTURES, "models", "llama");
const { inputs } = readJson<{ inputs: { single: { input_ids: number[][] } } }>("models", "llama", "expected.json");
const IDS = inputs.single.input_ids;
const TARGETS = ["q_proj", "down_proj"];

function summary(x: ArrayLike<number>): Summary {
  let [squares, dot] = [0, 0];
  for (let i = 0; i < x.length; i++) {
    squares += x[i]! ** 2;
    dot += x[i]! * Math.sin(i + 1);
  }
  return { norm: Math.sqrt(squares), dot };
}

/** f32 rounds products of this size by some 1e-6 of their norm. */
function expectNear(got: Summary, golden: Summary, what: string, tolerance = 2e-5): void {
  expect(Math.abs(got.norm - golden.norm), what).toBeLessThan(tolerance * golden.norm);
  expect(Math.abs(got.dot - golden.dot), what).toBeLessThan(tolerance * golden.norm);
}

let device: Device;
let model: PreTrainedModel | undefined;
async function load(name: string, options: FromPretrainedOptions = {}): Promise<PreTrainedModel> {
  device = await requestTestDevice(name);
  model = await AutoModelForCausalLM.from_pretrained(LLAMA, { device, ...options });
  return model;
}
afterEach(async () => {
  model?.dispose();
  model = undefined;
  if (!device) return;
  expectNoLeaks(device);
  await device.close();
});

async function logitsOf(of: PreTrainedModel): Promise<Float32Array> {
  const { logits } = of.forward({ input_ids: IDS });
  using _ = logits;
  return (await logits.readFloats()).slice();
}

const off = (a: ArrayLike<number>, b: ArrayLike<number>): number =>
  Array.from(a).reduce((most, x, i) => Math.max(most, Math.abs(x - b[i]!)), 0);

const runs = CASES.flatMap((one, n) =>
  (n === 0 ? DEVICES : ["cpu"]).map((name) => [name, `${n} ${one.config.init_lora_weights}`, one] as const),
);
test.each(runs)("%s: %s", async (name, _, { config, layers, logits }) => {
  const base = await load(name);
  const made = await get_peft_model(base, new LoraConfig({ target_modules: TARGETS, ...config }));
  expect(made).toBe(base);
  const { places } = base.adapters!.get("default");
  expect(places.map(({ path }) => path).sort()).toEqual(Object.keys(layers).sort());
  for (const { path, layer, matrix } of places) {
    const { a, b, scale: s } = layer as LoraLayer;
    using product = scope(() => linearBack(scale(b.value, s), a.value));
    expectNear(summary(await product.readFloats()), layers[path]!.product, `${path}, the product`);
    using left = matrix.inner!.dense("f32");
    expectNear(summary(await left.readFloats()), layers[path]!.left, `${path}, what is left`);
  }
  expectNear(summary(await logitsOf(base)), logits, "logits", 1e-4);
});

test("a trained adapter takes its beginning out of the weights when it is loaded, and is converted to a plain one", async () => {
  const golden = readArrays(...INIT, "logits.safetensors").get("logits")!.values;
  const folder = (name: string): string => join(FIXTURES, ...INIT, name);
  const base = await load("cpu");
  const whole = await logitsOf(base);
  await PeftModel.from_pretrained(base, folder("pissa"));
  expect(off(await logitsOf(base), golden)).toBeLessThan(1e-3); // the tolerance of logits of up to 30 after another decomposition
  const to = temporary("converted");
  await base.save_pretrained(to, { path_initial_model_for_weight_conversion: folder("began") });
  await expect(
    base.save_pretrained(to, { path_initial_model_for_weight_conversion: folder("nowhere") }),
  ).rejects.toThrow(/nowhere/);
  base.dispose();
  await device.close();
  const again = await load("cpu");
  expect(off(await logitsOf(again), whole)).toBe(0);
  for (const one of [to, folder("converted")]) {
    await again.load_adapter(one);
    expect(again.peft_config.default!.fields).toMatchObject({ r: 6, lora_alpha: 12, init_lora_weights: true });
    expect(off(await logitsOf(again), golden)).toBeLessThan(1e-3);
    again.delete_adapter("default");
  }
});

test("a first save says how it began, or that it is a plain one", async () => {
  const base = await load("cpu");
  const config = new LoraConfig({ r: 2, target_modules: ["q_proj"], init_lora_weights: "pissa_niter_4" });
  const pending: Promise<PreTrainedModel> = get_peft_model(base, config);
  const made = await pending;
  expect(made.peft_config.default!.init_lora_weights).toBe("pissa_niter_4");
  made.peft_config.default!.init_lora_weights = true;
  expect(made.peft_config.default!.to_dict().init_lora_weights).toBe(true);
  expect(() => {
    made.peft_config.default!.init_lora_weights = "best" as never;
  }).toThrow(/init_lora_weights must be/);
});

describe("what is refused, before anything changes", () => {
  test("by weights", async () => {
    const base = await load("cpu", { load_in_8bit: true });
    const before = await logitsOf(base);
    const refused = (config: LoraOptions, message: RegExp) =>
      expect(async () => base.add_adapter({ target_modules: ["q_proj"], ...config })).rejects.toThrow(message);
    await refused({ init_lora_weights: "pissa" }, /q_proj is in llm_int8, and pissa begins with floats/);
    await refused({ init_lora_weights: "loftq", loftq_config: { loftq_bits: 4 } }, /loftq begins with floats/);
    await refused({ init_lora_weights: "olora", r: 65 }, /a rank of 65 is more than its matrix \[64, 64\] has/);
    expect(off(await logitsOf(base), before)).toBe(0);
    // What is left is quantized anew, which costs about what quantizing the first time did.
    await base.add_adapter({ target_modules: ["q_proj"], init_lora_weights: "olora", r: 4 });
    expect(off(await logitsOf(base), before)).toBeLessThan(1);
  });

  test("by values", () => {
    const made = (options: object) => () => new LoraConfig(options as LoraOptions as never);
    expect(made({ init_lora_weights: "eva" })).toThrow(/EVA is not supported/);
    expect(made({ init_lora_weights: "corda" })).toThrow(/CorDA is not supported/);
    expect(made({ init_lora_weights: "pissa_niter_x" })).toThrow(/init_lora_weights must be true, false/);
    expect(made({ init_lora_weights: "loftq" })).toThrow(/needs a loftq_config/);
    expect(made({ init_lora_weights: "loftq", loftq_config: { loftq_bits: 2 } })).toThrow(/loftq_config must be/);
    expect(() => new LoftQConfig({ loftq_iter: 0 })).toThrow(/LoftQConfig/);
    expect(
      new LoraConfig({ init_lora_weights: "loftq", loftq_config: new LoftQConfig() }).to_dict().loftq_config,
    ).toEqual({
      loftq_bits: 4,
      loftq_iter: 1,
    });
  });
});

describe("decompositions", () => {
  let state = 1;
  const draw = (): number => {
    state = (state * 16807) % 2147483647;
    return state / 2147483647;
  };
  const matrix = (rows: number, columns: number) => {
    return { rows, columns, data: Float32Array.from({ length: rows * columns }, () => 2 * draw() - 1) };
  };
  /** Largest element of W - Σ values left rightᵀ. */
  const rest = (
    { data, columns }: ReturnType<typeof matrix>,
    { values, left, right }: ReturnType<typeof largestSingular>,
  ): number =>
    data.reduce((most, one, at) => {
      const [n, k] = [Math.floor(at / columns), at % columns];
      return Math.max(
        most,
        Math.abs(values.reduce((sum, value, i) => sum - value * left[i]![n]! * right[i]![k]!, one)),
      );
    }, 0);

  test.each([
    [7, 5],
    [5, 7],
    [1, 4],
    [12, 12],
  ])("%i x %i: all singular values make the matrix", (rows, columns) => {
    const w = matrix(rows, columns);
    const all = largestSingular(w, Math.min(rows, columns), draw);
    expect(rest(w, all)).toBeLessThan(1e-12);
    expect(rest(w, randomSingular(w, Math.min(rows, columns), 3, draw))).toBeLessThan(1e-9);
    const { q, r } = firstOfQR(w, Math.min(rows, columns));
    expect(rest({ ...w, columns }, { values: new Float64Array(q.length).fill(1), left: q, right: r })).toBeLessThan(
      1e-12,
    );
  });

  test("values that are alike, and none", () => {
    const unit = { rows: 3, columns: 3, data: Float32Array.of(2, 0, 0, 0, 2, 0, 0, 0, 2) };
    expect([...largestSingular(unit, 2, draw).values]).toEqual([2, 2]);
    expect([...largestSingular({ ...unit, data: new Float32Array(9) }, 2, draw).values]).toEqual([0, 0]);
  });
});
