// Whatever is passed to what octavo/bnb exports: it works, or it is refused with a typed error, and nothing stays on the device.

import { describe, expect, test } from "vitest";
import * as bnb from "../../src/bnb/index.js";
import type { Device } from "../../src/core/device.js";
import { scope, Tensor } from "../../src/core/tensor.js";
import { all } from "../support/odd-calls.js";
import { onDevice } from "../support/suites.js";

let device: Device;
onDevice("reference", (opened) => (device = opened));

type Call = (...args: readonly unknown[]) => unknown;
const exports = Object.entries(bnb) as [string, unknown][];
const isClass = (value: unknown): boolean => typeof value === "function" && /^class\b/.test(String(value));

/** Runs a call in a scope, which frees what it makes; promises are waited for behind it. */
const scoped = (call: () => unknown): unknown => {
  let result: unknown;
  scope(() => void (result = call()));
  return result;
};

/** Arguments with which each function works, made anew for each call. */
function usual(): Readonly<Record<string, readonly unknown[]>> {
  const f = Tensor.from(device, [1, 2, 3, 4], [2, 2]);
  const i8 = Tensor.from(device, [1, 2, 3, 4], [2, 2], "i8");
  const i32 = Tensor.from(device, [1, 2, 3, 4], [2, 2], "i32");
  const two = Tensor.from(device, [1, 2], [2]);
  const [packed, state] = bnb.quantize_4bit(f);
  const [codes, blocks] = bnb.quantize_blockwise(f);
  const [, affine] = bnb.quantize_zeropoint(f);
  return {
    quantize_4bit: [f, { blocksize: 64, compress_statistics: false, quant_type: "nf4", quant_storage: "uint8" }],
    quantize_nf4: [f, { blocksize: 64 }],
    quantize_fp4: [f, { blocksize: 64 }],
    dequantize_4bit: [packed, state],
    dequantize_nf4: [packed, { absmax: two, blocksize: 64, shape: [2, 2], dtype: "f32" }],
    dequantize_fp4: [packed, state],
    matmul_4bit: [f, packed, state, { bias: two }],
    gemv_4bit: [f, packed, state, { bias: two }],
    quantize_blockwise: [f, { code: bnb.create_dynamic_map(), blocksize: 64, nested: false }],
    dequantize_blockwise: [codes, blocks],
    quantize_absmax: [f, { granularity: "block", blocksize: 3 }],
    quantize_zeropoint: [f, { granularity: "row", symmetric: false, range: [-1, 1] }],
    dequantize_absmax: [i8, affine],
    dequantize_zeropoint: [i8, affine],
    int8_vectorwise_quant: [f, { threshold: 6 }],
    int8_vectorwise_dequant: [i8, two],
    int8_vectorwise_matmul: [f, f, { threshold: 6, bias: two }],
    int8_linear_matmul: [i8, i8],
    int8_mm_dequant: [i32, two, two, { bias: two, dtype: "f16" }],
    int8_scaled_mm: [i8, i8, two, two, { bias: two, dtype: "f16" }],
    int8_mixed_scaled_mm: [f, i8, i8, two, two, { outlier_cols: [1], bias: two }],
    create_dynamic_map: [true, 7, 8],
    create_linear_map: [true, 8, true],
    create_fp8_map: [true, 5, 2, 8],
    create_normal_map: [0.9677083, true],
    get_4bit_type: ["nf4"],
    finfo: ["float16"],
    iinfo: ["int8"],
    round_to: [[1, 2], "float16", { saturate: true }],
    to_bits: [[1, 2], "float16", { saturate: true }],
    from_bits: [[1, 2], "float16"],
  };
}

describe("functions", () => {
  // Those of modules are in laws/module-arguments.test.ts.
  const ofModules = ["load_and_quantize_model", "replace_8bit_linear", "replace_with_bnb_linear"];
  const functions = exports.filter(
    ([name, value]) => typeof value === "function" && !isClass(value) && !ofModules.includes(name),
  );

  test("each has its usual call here", () => {
    const known = scope(() => Object.keys(usual()));
    expect(functions.map(([name]) => name).sort()).toEqual(known.sort());
  });

  test.each(functions)("%s", async (name, value) => {
    const call = value as Call;
    const count = scope(() => usual()[name]!.length);
    for (let at = 0; at < count; at++) {
      await all(`${name}, argument ${at}`, (odd) => scoped(() => call(...usual()[name]!.with(at, odd))));
    }
    const options = scope(() => {
      const last: unknown = usual()[name]!.at(-1);
      return Object.getPrototypeOf(Object(last)) === Object.prototype ? Object.keys(Object(last)) : [];
    });
    for (const option of options) {
      await all(`${name}({ ${option} })`, (odd) =>
        scoped(() => {
          const args = usual()[name]!;
          return call(...args.with(-1, { ...(args.at(-1) as object), [option]: odd }));
        }),
      );
    }
  });
});

test("states and outlier columns", async () => {
  await all("new OutlierColumns(it)", (odd) => new bnb.OutlierColumns(odd as Tensor));
  await all("new QuantState(it)", (odd) => new bnb.QuantState(odd as bnb.QuantStateFields));
  await all("from_dict(it)", (odd) => bnb.QuantState.from_dict(odd as object as Record<string, unknown>));
  for (const key of ["absmax", "code", "shape", "blocksize", "quant_type", "dtype", "offset", "state2"]) {
    await all(`new QuantState({ ${key} })`, (odd) =>
      scoped(() => {
        const { absmax, code, shape, blocksize } = bnb.quantize_4bit(Tensor.from(device, [1, 2], [2]))[1];
        new bnb.QuantState({ absmax, code, shape, blocksize, [key]: odd });
      }),
    );
    await all(`from_dict({ ${key} })`, (odd) => bnb.QuantState.from_dict({ quant_type: "nf4", [key]: odd }));
  }
  const state = scope(() => bnb.quantize_4bit(Tensor.from(device, [1, 2], [2])));
  await all("as_dict(it)", (odd) => state[1].as_dict(odd as object).then(free));
  await all("as_dict({ packed })", (odd) => state[1].as_dict({ packed: odd as boolean }).then(free));
  await all("to(it)", (odd) => state[1].to(odd as Device));
  state[0].dispose();
  state[1].dispose();
});

function free(dict: Record<string, unknown>): void {
  for (const one of Object.values(dict)) if (Tensor.is(one)) one.dispose();
}

describe("optimizers", () => {
  const classes = Object.entries(bnb.optim).filter(([, value]) => isClass(value));
  test.each(classes)("%s", async (name, value) => {
    const Class = value as unknown as new (...args: readonly unknown[]) => bnb.optim.Optimizer;
    await all(`new ${name}(it)`, (odd) => void new Class(odd));
    if (name === "Optimizer" || name === "Parameter") return;
    const options: Record<string, unknown> = /SGD|LARS/.test(name) ? { lr: 1, momentum: 0.5 } : { lr: 1 };
    using p = Tensor.from(device, [1, 2], [2]);
    using g = Tensor.from(device, [1, 2], [2]);
    await all(`new ${name}([it])`, (odd) => void new Class([odd], options));
    await all(`new ${name}([p], it)`, (odd) => void new Class([p], odd));
    await all(`new ${name}([{ params: it }])`, (odd) => void new Class([{ params: odd }], options));
    for (const option of [
      "lr",
      "betas",
      "eps",
      "weight_decay",
      "min_8bit_size",
      "alpha",
      "t_alpha",
      "momentum",
      "odd",
    ]) {
      await all(`new ${name}([p], { ${option} })`, (odd) => {
        using made = new Class([p], { ...options, [option]: odd });
        made.step([g]);
      });
    }
    using made = new Class([p], options);
    made.step([g]);
    await all("step(it)", (odd) => made.step(odd as Tensor[]));
    await all("step([it])", (odd) => made.step([odd as Tensor]));
    await all("grad", (odd) => {
      using other = new Class([{ value: p, grad: odd }], options);
      other.step();
      other.zero_grad();
    });
    await all("add_param_group(it)", (odd) => made.add_param_group(odd as never));
    await all("load_state_dict(it)", (odd) => made.load_state_dict(odd as never));
    const saved = made.state_dict();
    for (const key of ["state", "param_groups"]) {
      await all(`load_state_dict({ ${key} })`, (odd) => made.load_state_dict({ ...saved, [key]: odd } as never));
      await all(`load_state_dict({ ${key}: [it] })`, (odd) =>
        made.load_state_dict({ ...saved, [key]: [odd] } as never),
      );
    }
    for (const { __bnb_optimizer_quant_state__: held } of Object.values(saved.state))
      free(held as Record<string, unknown>);
  });
});
