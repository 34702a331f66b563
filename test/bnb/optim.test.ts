// Optimizers on every device, against the fixtures; states in 8 bits, groups, and what bitsandbytes' own get wrong (D numbers as in
// functional.test.ts).

import { describe, expect, test } from "vitest";
import * as optim from "../../src/bnb/optim/index.js";
import type { Device } from "../../src/core/device.js";
import type { DType } from "../../src/core/dtype.js";
import { GradientError, OptionError, ShapeError } from "../../src/core/errors.js";
import { scope, Tensor } from "../../src/core/tensor.js";
import { add } from "../../src/ops/add.js";
import { contiguous } from "../../src/ops/copy.js";
import { multiply } from "../../src/ops/gated.js";
import { valueAndGradients } from "../../src/ops/gradient.js";
import { sumRows } from "../../src/ops/sum-rows.js";
import { ALL_DEVICES } from "../support/devices.js";
import { difference, readArrays, readJson } from "../support/fixtures.js";
import { normals } from "../support/random.js";
import { onDevice } from "../support/suites.js";

interface Entry {
  name: string;
  rule: string;
  arguments: Record<string, unknown>;
}
const fixture = readJson<{ count: number; steps: number; optimizers: Entry[] }>("optim", "steps.json");
const arrays = readArrays("optim", "steps.safetensors");
const golden = (name: string): Float32Array => {
  const found = arrays.get(name);
  if (!found) throw new Error(`no ${name} in the fixture`);
  return found.values as Float32Array;
};

type Class = new (params: Iterable<optim.Trained>, options?: object) => optim.Optimizer;
const CLASSES = optim as unknown as Readonly<Record<string, Class>>;
const NAMES: Readonly<Record<string, string>> = {
  adam: "Adam",
  adamw: "AdamW",
  adamw_decay: "AdamW",
  sgd_momentum: "SGD",
  lion: "Lion",
  rmsprop: "RMSprop",
  adagrad: "Adagrad",
  lamb: "LAMB",
  lars: "LARS",
  ademamix: "AdEMAMix",
};
const KINDS = [...new Set(Object.values(NAMES))];
/** Options of a kind that needs some. */
const needed = (kind: string): object =>
  kind === "SGD" || kind === "LARS" ? { lr: 0.01, momentum: 0.9 } : { lr: 0.01 };

describe.each(ALL_DEVICES)("on %s", (name) => {
  let device: Device;
  onDevice(name, (opened) => (device = opened));

  const tensor = (values: ArrayLike<number>, dtype: DType = "f32"): Tensor =>
    Tensor.from(device, Float32Array.from(values), [values.length], dtype);

  /** Runs steps with the given gradients; the values afterwards, and what `look` reads after the first step. */
  const run = async (
    kind: string,
    start: ArrayLike<number>,
    grads: readonly ArrayLike<number>[],
    options: object,
    look?: (state: optim.ParameterState) => Promise<void>,
  ): Promise<Float32Array> => {
    const param = new optim.Parameter(tensor(start));
    const optimizer = new CLASSES[kind]!([param], options);
    for (const [t, gradient] of grads.entries()) {
      param.grad = tensor(gradient);
      optimizer.step();
      optimizer.zero_grad();
      if (t === 0) await look?.(optimizer.state.get(param)!);
    }
    expect(param.grad).toBeUndefined();
    const values = await param.value.readFloats();
    optimizer.dispose();
    param.dispose();
    return values;
  };

  const { count, steps } = fixture;
  test.each(fixture.optimizers)(
    "$name against the fixture",
    async ({ name, arguments: { max_unorm: _, ...options } }) => {
      if (name === "lamb" || name === "lars") {
        const grads = Array.from({ length: 25 }, (_, t) => golden("small.grads").subarray(t * 1000, (t + 1) * 1000));
        // Below 4096 elements: states in f32.
        const values = await run(`${NAMES[name]}8bit`, golden("small.param"), grads, options);
        expect(difference(values, golden(`${name}.small.step25`)).max).toBeLessThan(1e-6);
        return;
      }
      const grads = Array.from({ length: steps }, (_, t) => golden("large.grads").subarray(t * count, (t + 1) * count));
      const wide = await run(NAMES[name]!, golden("large.param"), grads, options);
      expect(difference(wide, golden(`${name}.32bit.step5`)).max).toBeLessThan(1e-6);
      const narrow = await run(
        `${NAMES[name]}8bit`,
        golden("large.param"),
        grads,
        { ...options, min_8bit_size: count },
        async (state) => {
          for (const slot of [1, 2, 3] as const) {
            const codes = state[`state${slot}`];
            if (!codes) continue;
            expect(codes.dtype).toBe("u8");
            const want = golden(`${name}.codes${slot}`);
            const wrong = (await codes.read()).filter((code, i) => code !== want[i]).length;
            // Codes next to a midpoint.
            expect(wrong).toBeLessThanOrEqual(Math.ceil(count / 1000));
            const absmax = await state[`absmax${slot}`]!.readFloats();
            expect(difference(absmax, golden(`${name}.absmax${slot}`)).max).toBeLessThan(1e-6);
          }
        },
      );
      const want = golden(`${name}.8bit.step5`);
      expect(narrow.filter((v, i) => !(Math.abs(v - want[i]!) <= 1e-6)).length).toBeLessThanOrEqual(
        Math.ceil(count / 1000),
      );
    },
  );

  test("states are saved and loaded: the next step gives the same bits", async () => {
    for (const kind of ["AdamW8bit", "AdEMAMix8bit", "LAMB32bit", "SGD8bit"]) {
      const options = { ...needed(kind.replace(/\d+bit/, "")), min_8bit_size: 0 };
      if (kind === "LAMB32bit") Object.assign(options, { max_unorm: 0.5 });
      const param = tensor(normals(1, 700));
      const optimizer = new CLASSES[kind]!([param], options);
      const step = (of: optim.Optimizer, seed: number): void => {
        using gradient = tensor(normals(seed, 700));
        of.step([gradient]);
      };
      step(optimizer, 2);
      step(optimizer, 3);
      const twin = tensor(await param.readFloats());
      const other = new CLASSES[kind]!([twin], { ...options, lr: 5 });
      const saved = optimizer.state_dict();
      other.load_state_dict(saved);
      const held = saved.state[0]!.__bnb_optimizer_quant_state__ as Record<string, Tensor>;
      expect(saved.state[0]!.step).toBe(2);
      // The layout without the inner record is read too.
      other.load_state_dict({ ...saved, state: { 0: { step: 2, ...held } } });
      step(optimizer, 4);
      step(other, 4);
      expect(await twin.readFloats()).toEqual(await param.readFloats());
      expect(other.param_groups[0]!.lr).toBe(0.01);
      expect(() => other.load_state_dict({ ...saved, state: { 0: { step: 1 } } })).toThrow(ShapeError);
      expect(() => other.load_state_dict({ ...saved, state: { 4: {} } })).toThrow(OptionError);
      for (const one of Object.values(held)) one.dispose();
      for (const one of [optimizer, other, param, twin]) one.dispose();
    }
  });

  test("tensors as the tape has them, in groups, in f16, and some without a gradient", async () => {
    const [a, b, c] = [tensor(normals(1, 40)), tensor(normals(2, 40), "bf16"), tensor(normals(3, 8))];
    const before = await c.readFloats();
    const optimizer = new optim.SGD([{ params: [a], lr: 0.5 }, { params: [b, c] }], { lr: 0.25, momentum: 0.9 });
    const { gradients, value } = scope(() => valueAndGradients([a], () => sumRows(multiply(a, a).view(-1, 1))));
    const [x, y] = [await a.readFloats(), await b.readFloats()];
    using other = tensor(new Float32Array(40).fill(1), "f16");
    optimizer.step([gradients[0], other, undefined]);
    expect(
      difference(
        await a.readFloats(),
        x.map((v) => v - 0.5 * 2 * v),
      ).max,
    ).toBeLessThan(1e-6);
    expect(
      difference(
        await b.readFloats(),
        y.map((v) => v - 0.25),
      ).max,
    ).toBeLessThan(0.02);
    expect(await c.readFloats()).toEqual(before);
    expect(optimizer.state.has(c)).toBe(false);
    for (const one of [a, b, c, value, ...gradients, optimizer]) one.dispose();
  });

  test.each([
    ["AdamW8bit", "f32"],
    ["LAMB", "bf16"],
  ] as const)("%s in a loop of forward, backward and step: %s", async (kind, dtype) => {
    const [start, target] = [normals(4, 600), normals(5, 600)];
    using x = tensor(start, dtype).requires_grad_();
    using wanted = tensor(target.map((v) => -v));
    const optimizer = new CLASSES[kind]!(new Set([x]), { lr: 0.05, min_8bit_size: 0 });
    const losses: Tensor[] = [];
    for (let t = 0; t < 4; t++) {
      const loss = scope(() => {
        const values = contiguous(x, "f32");
        return sumRows(add(multiply(values, values), multiply(values, wanted)).view(-1, 1));
      });
      if (dtype === "f32") expect(() => optimizer.step([wanted])).toThrow(GradientError); // its values are still needed
      loss.backward();
      optimizer.step();
      optimizer.zero_grad();
      losses.push(loss);
    }
    const values = await Promise.all(losses.map(async (loss) => (await loss.readFloats())[0]!));
    expect(values.every((loss, t) => t === 0 || loss < values[t - 1]!)).toBe(true);
    for (const one of [...losses, optimizer]) one.dispose();
  });

  test("a state of the other form replaces what was there", async () => {
    using p = tensor(normals(6, 300));
    const step = (optimizer: optim.Optimizer): void => {
      using gradient = tensor(normals(7, 300));
      optimizer.step([gradient]);
    };
    for (const [from, into] of [
      [8, 32],
      [32, 8],
    ] as const) {
      const [a, b] = [from, into].map((optim_bits) => new optim.AdamW([p], { optim_bits, min_8bit_size: 0 }));
      step(a!);
      step(b!);
      scope(() => b!.load_state_dict(a!.state_dict()));
      expect(b!.param_groups[0]!.optim_bits).toBe(from);
      expect(b!.state.get(p)!.state1.dtype).toBe(from === 8 ? "u8" : "f32");
      expect(await b!.state.get(p)!.state1.readBytes()).toEqual(await a!.state.get(p)!.state1.readBytes());
      using fixed = new optim.AdamW8bit([p]);
      if (from === 32) expect(() => scope(() => fixed.load_state_dict(a!.state_dict()))).toThrow("optim_bits");
      a!.dispose();
      b!.dispose();
    }
  });

  test("zeros: D1 without a gradient nothing moves; skip_zeros", async () => {
    const grads = Array.from({ length: 3 }, (_, t) => normals(t, 512).map((v, i) => (i % 2 ? 0 : v ** 3)));
    for (const kind of KINDS) {
      const options = { ...needed(kind), weight_decay: 0, min_8bit_size: 0 };
      // Weights of one: what is limited by their norm would not move zeros at all.
      const moved = await run(`${kind}8bit`, new Float32Array(512).fill(1), grads, options);
      expect(moved.filter((v, i) => i % 2 && v !== 1).length, kind).toBe(0);
      expect(moved.filter((v) => v !== 1).length, kind).toBeGreaterThan(100);
    }
    const kept = await run(
      "Adam",
      new Float32Array(4).fill(1),
      [
        [1, 1],
        [0, 1],
      ].map((g) => [...g, 1, 0]),
      {
        skip_zeros: true,
      },
    );
    const plain = await run(
      "Adam",
      new Float32Array(4).fill(1),
      [
        [1, 1],
        [0, 1],
      ].map((g) => [...g, 1, 0]),
      {},
    );
    expect([kept[0]! > plain[0]!, kept[1] === plain[1], kept[3]]).toEqual([true, true, 1]);
  });

  test("gradients of many sizes: no step of Adam is longer than its states allow", async () => {
    // Of the second moments of a block most are rounded to zero beside the largest, and not all of the first moments.
    const grads = Array.from({ length: 20 }, (_, t) =>
      normals(t, 512).map((v, i) => (t > 0 && i % 5 ? 0 : v * 10 ** -((i * 7) % 6))),
    );
    for (const kind of ["Adam8bit", "AdEMAMix8bit"]) {
      const options = { lr: 1e-3, weight_decay: 0, min_8bit_size: 0 };
      const moved = await run(kind, new Float32Array(512), grads, options);
      expect(Math.max(...moved.map(Math.abs)), kind).toBeLessThan(20 * (kind === "Adam8bit" ? 0.015 : 0.5));
    }
  });

  test("D11: LAMB and LARS clip in 8 bits too; D13: each state has its own scales", async () => {
    const grads = [normals(1, 5000), normals(2, 5000)];
    for (const kind of ["LAMB8bit", "LARS8bit"]) {
      const options = { ...needed(kind.slice(0, 4)), lr: 1, max_unorm: 0.01 };
      const moved = await run(kind, new Float32Array(5000).fill(1), grads.slice(0, 1), options);
      const norm = Math.sqrt(moved.reduce((sum, v) => sum + (v - 1) ** 2, 0));
      // Adam's corrections of the first step come behind the limit.
      const limit = 0.01 * Math.sqrt(5000) * (kind === "LAMB8bit" ? Math.sqrt(0.001) / 0.1 : 1);
      expect(Math.abs(norm / limit - 1), kind).toBeLessThan(1e-3);
    }
    const options = { min_8bit_size: 0 };
    const whole = await run(
      "AdEMAMix8bit",
      normals(3, 612),
      grads.map((g) => g.subarray(0, 612)),
      options,
    );
    const first = await run(
      "AdEMAMix8bit",
      normals(3, 612).subarray(0, 512),
      grads.map((g) => g.subarray(0, 512)),
      options,
    );
    const rest = await run(
      "AdEMAMix8bit",
      normals(3, 612).subarray(512),
      grads.map((g) => g.subarray(512, 612)),
      options,
    );
    expect([...whole]).toEqual([...first, ...rest]);
  });

  test("D12: weights decay before the update, and into the gradient where the rule says so", async () => {
    const start = [1, -2];
    const decay = { lr: 0.1, weight_decay: 0.5 };
    const lion = await run("Lion", start, [[1, 1]], decay);
    expect(difference(lion, [1 - 0.05 - 0.1, -2 + 0.1 - 0.1]).max).toBeLessThan(1e-6);
    const sgd = await run("SGD", start, [[1, 1]], { ...decay, momentum: 0.9 });
    expect(difference(sgd, [1 - 0.1 * 1.5, -2]).max).toBeLessThan(1e-6);
    const rms = await run("RMSprop", start, [[1, 1]], { ...decay, alpha: 0.75, eps: 1e-8 });
    expect(difference(rms, [1 - 0.2, -2]).max).toBeLessThan(1e-6);
  });

  test("what is refused leaves nothing behind", () => {
    using p = tensor([1, 2]);
    using g = tensor([1]);
    const made = (params: unknown, options: object = {}) => new optim.AdamW8bit(params as Tensor[], options);
    expect(() => made([])).toThrow(OptionError);
    expect(() => made([p, p])).toThrow("twice");
    expect(() => made([p], { amsgrad: true })).toThrow("amsgrad");
    expect(() => made([p], { block_wise: false })).toThrow("block_wise");
    expect(() => made([p], { optim_bits: 32 })).toThrow("optim_bits");
    expect(() => made([p], { betas: [0.9, 1] })).toThrow("betas");
    expect(() => new optim.SGD([p], { lr: 1 })).toThrow("momentum is needed");
    expect(() => new optim.AdEMAMix([p], { betas: [0, 0.9, 0.99], t_beta3: 5 })).toThrow("betas above 0");
    const endless = (function* () {
      for (;;) yield p;
    })();
    expect(() => made(endless)).toThrow("must be a list");
    const optimizer = made([p]);
    expect(() => optimizer.step([g])).toThrow(ShapeError);
    expect(() => optimizer.step([])).toThrow(OptionError);
    optimizer.step();
    expect(optimizer.state.size).toBe(0);
    optimizer.dispose();
  });

  test("options that stopped fitting together are refused before any parameter changes", async () => {
    using first = tensor([1, 2]);
    using second = tensor([3, 4]);
    const groups = new Set([
      { params: new Set([first]) },
      {
        params: (function* () {
          yield second;
        })(),
        lr: 0.5,
        t_beta3: 5,
      },
    ]);
    using optimizer = new optim.AdEMAMix(groups);
    optimizer.param_groups[1]!.betas = [0, 0.999, 0.9999];
    using g = tensor([1, 1]);
    expect(() => optimizer.step([g, g])).toThrow("betas above 0");
    expect(optimizer.state.size).toBe(0);
    expect([...(await first.read())]).toEqual([1, 2]);
  });
});
