// First values of adapters that are parts of the model's weights, against peft (test/fixtures/make_lora_init.py).

import { join } from "node:path";
import { afterEach, describe, expect, test } from "vitest";
import type { LoraOptions } from "../../src/adapters/config.js";
import { storedAs } from "../../src/adapters/matrices.js";
import { firstOfQR, largestSingular, randomSingular, type Singular } from "../../src/adapters/svd.js";
import type { LoraLayer } from "../../src/adapters/weight.js";
import type { Device } from "../../src/core/device.js";
import { OutOfMemoryError } from "../../src/core/errors.js";
import { scope } from "../../src/core/tensor.js";
import { Turns } from "../../src/core/turns.js";
import {
  AutoModelForCausalLM,
  type FromPretrainedOptions,
  get_peft_model,
  LoftQConfig,
  LoraConfig,
  PeftModel,
  type PreTrainedModel,
} from "../../src/index.js";
import type { Linear, Parameter } from "../../src/nn/module.js";
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
async function close(): Promise<void> {
  if (!model) return;
  model.dispose();
  model = undefined;
  expectNoLeaks(device);
  await device.close();
}
afterEach(close);

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
  await close();
  const again = await load("cpu");
  expect(off(await logitsOf(again), whole)).toBe(0);
  for (const one of [to, folder("converted")]) {
    await again.load_adapter(one);
    expect(again.peft_config.default!.fields).toMatchObject({ r: 6, lora_alpha: 12, init_lora_weights: true });
    expect(off(await logitsOf(again), golden)).toBeLessThan(1e-3);
    again.delete_adapter("default");
  }
});

/** Moves what is trained a little. */
async function move(of: PreTrainedModel): Promise<void> {
  let n = 0;
  for (const [name, { data }] of of.adapters!.named_parameters() as Iterable<[string, Parameter]>) {
    if (!name.includes("lora_")) continue;
    const values = await data.readFloats();
    await data.write(values.map((value) => value + 0.05 * Math.sin(++n)));
  }
}

test.each(["pissa", "pissa_niter_2"] as const)(
  "%s of all matrices, an embedding and the head among them",
  async (init) => {
    const base = await load("cpu");
    const [began, trained, converted] = [temporary("began"), temporary("trained"), temporary("converted")];
    await base.add_adapter({
      ...{ init_lora_weights: init, r: 3, lora_alpha: 6, rank_pattern: { embed_tokens: 5, down_proj: 2 } },
      target_modules: ["embed_tokens", "lm_head", ...TARGETS],
    });
    await base.save_pretrained(began);
    await move(base);
    const golden = await logitsOf(base);
    await base.save_pretrained(trained);
    await base.save_pretrained(converted, { path_initial_model_for_weight_conversion: began });
    await close();
    const again = await load("cpu");
    // A plain adapter, then one that takes the same parts out of the weights once more: random ones are drawn alike.
    for (const folder of [converted, trained]) {
      await again.load_adapter(folder);
      expect(off(await logitsOf(again), golden)).toBeLessThan(1e-4);
      const plain = folder === converted;
      const rank_pattern = plain ? { embed_tokens: 10, down_proj: 4 } : { embed_tokens: 5, down_proj: 2 };
      expect(again.peft_config.default!.fields).toMatchObject({ r: plain ? 6 : 3, rank_pattern });
      again.delete_adapter("default");
    }
  },
);

test("what is converted to an adapter over the whole weights, and what is not", async () => {
  const base = await load("cpu");
  const [began, other, to] = [temporary("began"), temporary("other"), temporary("to")];
  const how = { r: 2, target_modules: ["q_proj"] };
  const convert = (from: string) => base.save_pretrained(to, { path_initial_model_for_weight_conversion: from });
  await base.add_adapter({ ...how, lora_alpha: 4, init_lora_weights: "olora" }, "other");
  await base.save_pretrained(other, { selected_adapters: ["other"] });
  base.delete_adapter("other");
  await base.add_adapter({ ...how, init_lora_weights: "olora" });
  base.peft_config.default!.init_lora_weights = true; // so that the beginning is read as it is, as PEFT's guide has it
  await base.save_pretrained(began);
  await convert(began);
  await expect(convert(join(other, "other"))).rejects.toThrow(/is not like default/); // of another scale
  base.delete_adapter("default");
  for (const init_lora_weights of [false, "gaussian"] as const) {
    base.add_adapter({ ...how, init_lora_weights });
    await expect(convert(began)).rejects.toThrow(/is for what began with "pissa" or "olora", and default began with/);
    base.delete_adapter("default");
  }
});

test("beside merged adapters no matrix of the model is saved, nothing begins with parts of the weights, and what began so is not summed", async () => {
  const base = await load("cpu");
  base.add_adapter({ r: 2, target_modules: ["q_proj"] }, "plain");
  await base.merge_adapter();
  const olora = { r: 2, target_modules: ["q_proj"], init_lora_weights: "olora" } as const;
  await expect(async () => base.add_adapter(olora)).rejects.toThrow(/with plain merged into them/);
  await expect(base.load_adapter(join(FIXTURES, ...INIT, "pissa"))).rejects.toThrow(/with plain merged into them/);
  base.unmerge_adapter();
  base.add_adapter({ r: 2, target_modules: ["lm_head"] }, "head");
  await base.merge_adapter(["head"]);
  await expect(base.save_pretrained(temporary("head"))).rejects.toThrow(/a head, into which head are merged/);
  await expect(base.get_adapter_state_dict("head")).rejects.toThrow(/a head, into which head are merged/);
  expect((await base.get_adapter_state_dict("plain")).size).toBe(4);
  base.delete_adapter("head");
  await base.add_adapter(olora);
  const sum = () => base.add_weighted_adapter(["default", "plain"], [1, 1], "sum", { combination_type: "cat" });
  expect(sum).toThrow(/default is over weights that lack its beginning/);
});

test("memory that runs out leaves the weights as they were", async () => {
  const base = await load("cpu");
  const matrices = [...base.module.named_modules()].flatMap(([path, module]) =>
    /q_proj|down_proj/.test(path) ? [(module as Linear).weight] : [],
  );
  const before = matrices.map(({ inner }) => inner);
  const { live } = device.memory;
  const allocate = device.allocate.bind(device);
  let left = 0;
  device.allocate = (bytes, label) => {
    if (--left === 0) throw new OutOfMemoryError(`${label} is refused`);
    return allocate(bytes, label);
  };
  for (let n = 1; ; n++) {
    left = n;
    const added = base.add_adapter({ r: 1, target_modules: TARGETS, init_lora_weights: "olora", use_dora: true });
    const error = await added.then(
      () => undefined,
      (e: unknown) => e,
    );
    if (error === undefined) break;
    expect(error).toBeInstanceOf(OutOfMemoryError);
    expect(device.memory.live, `allocation ${n}`).toBe(live);
    expect(matrices.every(({ inner }, i) => inner === before[i])).toBe(true);
    expect(base.adapters).toBeUndefined();
  }
  expect(matrices.some(({ inner }, i) => inner === before[i])).toBe(false);
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
  expect(() => {
    made.peft_config.default!.init_lora_weights = "loftq";
  }).toThrow(/needs a loftq_config/);
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

  test("by a scale, by numbers that are none, and by a signal", async () => {
    const base = await load("cpu");
    const how = { target_modules: ["q_proj"], init_lora_weights: "pissa" } as const;
    await expect(async () => base.add_adapter({ ...how, lora_alpha: -1 })).rejects.toThrow(/lora_alpha of at least 0/);
    const reading = base.load_adapter(join(FIXTURES, ...INIT, "pissa"), { signal: AbortSignal.abort() });
    await expect(reading).rejects.toMatchObject({ code: "ERR_ABORTED" });
    const { weight } = [...base.module.named_modules()].find(([path]) => path.endsWith("q_proj"))![1] as Linear;
    using rows = weight.inner!.dense("f32");
    const values = await rows.readFloats();
    values[3] = Number.NaN;
    await rows.write(values);
    weight.refill(storedAs(weight.inner!, rows, "broken"));
    await expect(async () => base.add_adapter(how)).rejects.toThrow(
      /layers.0.self_attn.q_proj: row 0 of its matrix holds NaN/,
    );
    expect(base.adapters).toBeUndefined();
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
  const turns = new Turns("a test");
  let state = 1;
  const draw = (): number => {
    state = (state * 16807) % 2147483647;
    return state / 2147483647;
  };
  const matrix = (rows: number, columns: number) => {
    return { rows, columns, data: Float32Array.from({ length: rows * columns }, () => 2 * draw() - 1) };
  };
  /** Largest element of W - Σ values left rightᵀ. */
  const rest = ({ data, columns }: ReturnType<typeof matrix>, { values, left, right }: Singular): number =>
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
  ])("%i x %i: all singular values make the matrix", async (rows, columns) => {
    const w = matrix(rows, columns);
    const all = await largestSingular(w, Math.min(rows, columns), draw, turns);
    expect(rest(w, all)).toBeLessThan(1e-12);
    expect(rest(w, await randomSingular(w, Math.min(rows, columns), 3, draw, turns))).toBeLessThan(1e-9);
    const { q, r } = await firstOfQR(w, Math.min(rows, columns), turns);
    expect(rest({ ...w, columns }, { values: new Float64Array(q.length).fill(1), left: q, right: r })).toBeLessThan(
      1e-12,
    );
  });

  test("values that are alike, and none", async () => {
    const unit = { rows: 3, columns: 3, data: Float32Array.of(2, 0, 0, 0, 2, 0, 0, 0, 2) };
    expect([...(await largestSingular(unit, 2, draw, turns)).values]).toEqual([2, 2]);
    expect([...(await largestSingular({ ...unit, data: new Float32Array(9) }, 2, draw, turns)).values]).toEqual([0, 0]);
  });

  test("timers fire while they run, and a signal ends them", async () => {
    const w = matrix(9, 8);
    const all = (how: () => Turns) => [
      largestSingular(w, 2, draw, how()),
      randomSingular(w, 2, 1, draw, how()),
      firstOfQR(w, 2, how()),
    ];
    const end = new AbortController();
    const running = all(() => new Turns("it", end.signal, 0));
    setTimeout(() => end.abort(), 1);
    for (const one of await Promise.allSettled(running)) {
      expect(one).toMatchObject({ status: "rejected", reason: { code: "ERR_ABORTED", message: "it was aborted" } });
    }
    await Promise.all(all(() => new Turns("it", undefined, 0)));
  });
});
