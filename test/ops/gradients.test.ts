// Gradient rules against central differences in double precision: each op by itself, in odd shapes and under views.

import { afterAll, describe, expect, test } from "vitest";
import { GradientError } from "../../src/core/errors.js";
import { scope, Tensor } from "../../src/core/tensor.js";
import { ACT, type Act, activation } from "../../src/ops/activation.js";
import { add } from "../../src/ops/add.js";
import { argmax } from "../../src/ops/argmax.js";
import { attention } from "../../src/ops/attention.js";
import { contiguous, copyInto } from "../../src/ops/copy.js";
import { crossEntropy } from "../../src/ops/cross-entropy.js";
import { embedding } from "../../src/ops/embedding.js";
import { expertLinear, fourBitExpertLinear, llmInt8ExpertLinear, mix, route } from "../../src/ops/experts.js";
import { filled } from "../../src/ops/fill.js";
import { fourBitLinear } from "../../src/ops/four-bit.js";
import { clampedGated, gated, multiply } from "../../src/ops/gated.js";
import { valueAndGradients } from "../../src/ops/gradient.js";
import { layerNorm } from "../../src/ops/layer-norm.js";
import { linear, linearBack } from "../../src/ops/linear.js";
import { llmInt8Linear } from "../../src/ops/llm-int8.js";
import { rmsNorm } from "../../src/ops/rms-norm.js";
import { rope, ropeTable } from "../../src/ops/rope.js";
import { scale } from "../../src/ops/scale.js";
import { sumRows } from "../../src/ops/sum-rows.js";
import { tokenLogprobs } from "../../src/ops/token-logprobs.js";
import { expectNoLeaks } from "../support/devices.js";
import { differences, openDoubles, valuesOf } from "../support/doubles.js";
import { bytes, integers, normals, product } from "../support/random.js";

const device = openDoubles();
afterAll(() => expectNoLeaks(device));

/** Central differences with h = 1e-6 lose 1e-10 of the loss to rounding and 1e-12 to curvature, of values of about one. */
const CLOSE = 1e-6;

let seed = 1;
const random = (...shape: number[]): Tensor => Tensor.from(device, normals(seed++, product(shape)), shape);

/** A number that depends on every element of `y` in another way. */
function weighted(y: Tensor): Tensor {
  const rows = contiguous(y);
  const weights = Tensor.from(device, normals(77, y.size), [y.size]);
  return sumRows(multiply(rows.view(y.size), weights).view(-1, 1));
}

/** Compares the gradients of `weighted(f())` by all elements of all `by` with differences. */
function check(by: readonly Tensor[], f: () => Tensor): void {
  const loss = (): Tensor => scope(() => weighted(f()));
  scope(() => {
    const { gradients } = valueAndGradients(by, loss);
    by.forEach((tensor, i) => {
      const want = differences(tensor, [...Array(tensor.size).keys()], loss);
      const got = valuesOf(gradients[i]!);
      expect(gradients[i]!.shape).toEqual(tensor.shape);
      for (const [e, slope] of want.entries()) {
        const off = Math.abs(got[e]! - slope);
        expect(off, `operand ${i}, element ${e}`).toBeLessThan(CLOSE * (1 + Math.abs(slope)));
      }
    });
  });
}

describe("rules", () => {
  test.each(Object.keys(ACT) as Act[])("linear with bias, residual and %s", (act) =>
    scope(() => {
      const [x, w, bias, residual] = [random(2, 3, 5), random(7, 5), random(7), random(2, 3, 7)];
      check([x, w, bias, residual], () => linear(x, w, { bias, residual, act }));
    }),
  );

  test("linear_back", () =>
    scope(() => {
      const [dy, w] = [random(3, 5), random(5, 4)];
      check([dy, w], () => linearBack(dy, w));
    }));

  test.each(Object.keys(ACT) as Act[])("activation and gated with %s", (act) =>
    scope(() => {
      const [x, up] = [random(3, 5), random(3, 5)];
      check([x], () => activation(x, act));
      check([x, up], () => gated(x, up, act));
      check([x], () => gated(x, x, act));
      const both = random(3, 2, 5);
      check([both], () => gated(both.select(1, 0), both.select(1, 1), act));
    }),
  );

  test("add, scale, soft cap, sum_rows", () =>
    scope(() => {
      const [x, y] = [random(2, 3), random(2, 3)];
      check([x, y], () => add(x, add(y, x)));
      check([x], () => scale(x, -1.5));
      check([x], () => scale(x, 1.5, 2));
      check([x], () => sumRows(x));
    }));

  test("rms_norm and layer_norm", () =>
    scope(() => {
      const [x, w, bias] = [random(2, 3, 5), random(5), random(5)];
      check([x, w], () => rmsNorm(x, w, 1e-3, 1));
      check([x, w, bias], () => layerNorm(x, w, bias, 1e-3));
      check([x], () => layerNorm(x, undefined, undefined, 1e-3));
    }));

  test("embedding, with an id twice and one not at all", () =>
    scope(() => {
      const table = random(4, 3);
      const ids = Tensor.from(device, Int32Array.of(2, 0, 2, 3), [2, 2]);
      check([table], () => embedding(table, ids));
    }));

  test.each([false, true])("rope, interleaved %s", (interleaved) =>
    scope(() => {
      const x = random(2, 3, 2, 6);
      const positions = Tensor.from(device, Int32Array.of(0, 1, 2, 4, 5, 9), [2, 3]);
      const table = ropeTable(positions, Tensor.from(device, Float32Array.of(1, 0.3), [2]), 1.2);
      check([x], () => rope(x, table, interleaved));
    }),
  );

  test("cross_entropy: plain, smoothed, with the log-sum-exp, ignored labels", () =>
    scope(() => {
      const logits = random(4, 6);
      const targets = Tensor.from(device, Int32Array.of(5, -100, 0, 3), [4]);
      for (const smoothing of [0, 0.1]) {
        check([logits], () => crossEntropy(logits, targets, smoothing).loss);
        check([logits], () => crossEntropy(logits, targets, smoothing).lse);
        check([logits], () => {
          const { loss, lse } = crossEntropy(logits, targets, smoothing);
          return add(loss, scale(multiply(lse, lse), 0.1));
        });
      }
    }));

  test("token_logprobs is composed of cross_entropy", () =>
    scope(() => {
      const logits = random(3, 5);
      const targets = Tensor.from(device, Int32Array.of(4, 1, 1), [3]);
      check([logits], () => tokenLogprobs(logits, targets));
    }));

  test("4-bit and 8-bit products: dx is dy times the decoded matrix", () =>
    scope(() => {
      const x = random(3, 6);
      const [bias, residual] = [random(5), random(3, 5)];
      const codes = Tensor.from(device, bytes(3, 15), [5, 6], "u4");
      const w = {
        codes,
        absmax: Tensor.from(device, normals(4, 8).map(Math.abs), [8]),
        kind: "nf4",
        blocksize: 4,
        compute: "f32",
        rounding: "f16",
      } as const;
      for (const act of ["none", "silu"] as const)
        check([x, bias, residual], () => fourBitLinear(x, w, { bias, act, residual }));
      // With every activation an outlier, products with 8-bit weights are exact.
      const int8 = {
        codes: Tensor.from(device, Int8Array.from(integers(5, 30, -127, 127)), [5, 6]),
        scb: Tensor.from(device, normals(6, 5).map(Math.abs), [5]),
        threshold: 1e-9,
      };
      check([x, bias], () => llmInt8Linear(x, int8, { bias, act: "gelu" }));
    }));
});

describe("mixtures of experts", () => {
  /** Experts of five tokens: one of them twice for a token, and none that chose the second. */
  const chosen = (): Tensor => Tensor.from(device, Int32Array.of(2, 0, 3, 2, 0, 3, 2, 2, 3, 0), [5, 2]);

  test.each(["none", "silu"] as const)("products with dense stacks, %s", (act) =>
    scope(() => {
      const [w, bias, experts] = [random(4, 5, 3), random(4, 5), chosen()];
      const [token, each] = [random(5, 3), random(5, 2, 3)];
      check([token, w, bias], () => expertLinear(token, w, { experts, bias, act }));
      check([each, w], () => expertLinear(each, w, { experts, act }));
    }),
  );

  test("products with stacks in 8 and 4 bits", () =>
    scope(() => {
      const [bias, experts] = [random(4, 5), chosen()];
      const [token, each] = [random(5, 6), random(5, 2, 6)];
      // With every activation an outlier, products with 8-bit weights are exact.
      const int8 = {
        codes: Tensor.from(device, Int8Array.from(integers(5, 120, -127, 127)), [4, 5, 6]),
        scb: Tensor.from(device, normals(6, 20).map(Math.abs), [4, 5]),
        threshold: 1e-9,
      };
      check([token, bias], () => llmInt8ExpertLinear(token, int8, { experts, bias, act: "gelu" }));
      check([each], () => llmInt8ExpertLinear(each, int8, { experts }));
      const codes = Tensor.from(device, bytes(3, 60), [4, 5, 6], "u4");
      const common = { codes, blocksize: 4, compute: "f32", rounding: "bf16" } as const;
      const plain = { ...common, absmax: Tensor.from(device, normals(4, 32).map(Math.abs), [4, 8]) };
      const o4 = {
        ...common,
        absmax: Tensor.from(device, Int8Array.from(integers(7, 32, -127, 127)), [4, 8]),
        nested: random(4, 8),
        map: random(16),
        kind: "o4",
      } as const;
      const twice = {
        ...common,
        absmax: Tensor.from(device, bytes(8, 32), [4, 8]),
        nested: random(4, 1),
        map: random(256),
        offset: random(4),
        kind: "nf4",
      } as const;
      for (const w of [{ ...plain, kind: "fp4" } as const, { ...plain, kind: "e2m1" } as const, o4, twice]) {
        check([token, bias], () => fourBitExpertLinear(token, w, { experts, bias }));
        check([each, bias], () => fourBitExpertLinear(each, w, { experts, bias, act: "silu" }));
      }
    }));

  test.each([true, false])("the choice by scores, normalized %s, and the mix", (normalize) =>
    scope(() => {
      const [scores, results, residual] = [random(2, 3, 7), random(2, 3, 3, 5), random(2, 3, 5)];
      check([scores], () => route(scores, 3, normalize).weights);
      check([scores, results, residual], () => mix(results, route(scores, 3, normalize).weights, residual));
      const [all, alone] = [random(4, 2), random(4, 1)];
      check([all], () => route(all, 2, normalize).weights);
      const one = route(alone, 1, normalize).weights;
      const share = random(4, 1, 3);
      check([share], () => mix(share, one));
    }),
  );

  test("clamped_gated, with gates and ups that alternate; nothing passes beyond a limit, and all at it", () =>
    scope(() => {
      const pairs = random(3, 5, 2);
      check([pairs], () => clampedGated(pairs.select(2, 0), pairs.select(2, 1), 0.8));
      const at = (...values: number[]): Tensor => Tensor.from(device, Float32Array.from(values), [values.length]);
      const [gate, up] = [at(2, 3, 1, 1, 1), at(1, 1, 2, -2, -3)];
      const { gradients } = valueAndGradients([gate, up], () => sumRows(clampedGated(gate, up, 2).view(5, 1)));
      const [byGate, byUp] = gradients.map((one) => [...valuesOf(one)].map((slope) => slope !== 0));
      expect(byGate).toEqual([true, false, true, true, true]); // by torch.clamp, which passes at a limit
      expect(byUp).toEqual([true, true, true, true, false]);
    }));
});

describe("attention", () => {
  const [B, T, H, G, D, E] = [2, 3, 4, 2, 3, 5];
  type Options = Omit<Parameters<typeof attention>[3], "scale">;
  const cases: readonly (readonly [string, number, () => Options])[] = [
    ["causal", T, () => ({})],
    ["causal, with keys before", 5, () => ({})],
    ["not causal", 4, () => ({ causal: false })],
    ["window", 5, () => ({ window: 2 })],
    ["soft cap", T, () => ({ softcap: 0.7 })],
    ["slopes", T, () => ({ slopes: Tensor.from(device, Float32Array.of(0.5, 0.25, 0.1, 0.05), [H]) })],
    ["mask that hides all of a row", T, () => ({ mask: Tensor.from(device, Uint8Array.of(0, 1, 1, 1, 0, 1), [B, T]) })],
    ["segments", T, () => ({ segments: Tensor.from(device, Int32Array.of(0, 0, 1, 0, 1, 1), [B, T]) })],
    ["bias", T, () => ({ bias: random(B, H, T, T) })],
    ["sinks", T, () => ({ sinks: random(H) })],
    ["sinks, with keys before and a window", 5, () => ({ sinks: random(H), window: 2, softcap: 0.7 })],
    [
      "sinks, bias and a mask that hides all of a row",
      T,
      () => ({
        sinks: random(H),
        bias: random(B, H, T, T),
        mask: Tensor.from(device, Uint8Array.of(0, 1, 1, 1, 0, 1), [B, T]),
      }),
    ],
    ["distances", T, () => ({ distances: random(H, 3), causal: false })],
    ["distances, with keys before", 5, () => ({ distances: random(H, 7) })],
    [
      "all at once",
      T,
      () => ({
        window: 2,
        softcap: 2,
        slopes: Tensor.from(device, Float32Array.of(0.5, 0.25, 0.1, 0.05), [H]),
        mask: Tensor.from(device, Uint8Array.of(1, 1, 1, 1, 0, 1), [B, T]),
        segments: Tensor.from(device, Int32Array.of(0, 0, 1, 1, 1, 1), [B, T]),
        distances: random(H, 3),
        bias: random(1, H, T, T).expand(B, H, T, T),
      }),
    ],
  ];
  test.each(cases)("%s", (_, S, options) =>
    scope(() => {
      const [q, k, v] = [random(B, T, H, D), random(B, S, G, D), random(B, S, G, E)];
      const given = options();
      const bias = given.bias?.contiguous ? [given.bias] : [];
      const perHead = [given.distances, given.sinks].filter((one) => one !== undefined);
      check([q, k, v, ...bias, ...perHead], () =>
        attention(q, k.permute(0, 2, 1, 3), v.permute(0, 2, 1, 3), { scale: 0.6, ...given }),
      );
    }),
  );
});

describe("views and writes", () => {
  test("parts, repeats and permutations of one tensor, and the whole of it", () =>
    scope(() => {
      const x = random(2, 3, 4);
      const other = random(2, 3, 4);
      check([x, other], () => {
        const parts = add(contiguous(x.narrow(2, 1, 2)), contiguous(x.narrow(2, 0, 2)));
        const turned = contiguous(x.permute(2, 0, 1)).view(2, 3, 4);
        const repeated = multiply(x.narrow(1, 1, 1).expand(2, 3, 4), other);
        const sum = add(add(x, turned), repeated);
        return sumRows(add(sum.view(6, 4), contiguous(parts.view(6, 2, 1).expand(6, 2, 2)).view(6, 4)));
      });
    }));

  test("parts written into one tensor, and a part overwritten", () =>
    scope(() => {
      const [a, b] = [random(2, 3), random(2, 3)];
      check([a, b], () => {
        const both = Tensor.empty(device, [2, 6], "f32");
        copyInto(a, both.narrow(1, 0, 3));
        copyInto(b, both.narrow(1, 3, 3));
        copyInto(filled(device, [2, 1], 2), both.narrow(1, 2, 1));
        copyInto(scale(a.narrow(0, 0, 1), 3), both.narrow(0, 1, 1).narrow(1, 3, 3));
        return both;
      });
    }));

  test("a write over what a gradient still reads is refused", () =>
    scope(() => {
      const x = random(3);
      const through = (): Tensor => {
        const y = scale(x, 2);
        const z = activation(y, "silu");
        copyInto(x, y);
        return weighted(z);
      };
      expect(() => valueAndGradients([x], through)).toThrow(GradientError);
      expect(() => valueAndGradients([x], through)).toThrow(/copy: operand `y` is written in place/);
      const over = (): Tensor => {
        copyInto(scale(x, 2), x);
        return weighted(x);
      };
      expect(() => valueAndGradients([x], over)).toThrow(GradientError);
    }));

  test("an op without a rule is named, with its module", () =>
    scope(() => {
      const x = random(2, 4);
      const places = (values: number[], shape: number[]): Tensor => Tensor.from(device, Int32Array.from(values), shape);
      const cache = { scale: 1, lanes: places([0, 0, 0, 1], [2, 1, 2]), table: places([2, 0], [1, 2]) };
      const rows = x.view(1, 2, 1, 4);
      expect(() =>
        valueAndGradients([x], () =>
          weighted(attention(rows, rows.permute(0, 2, 1, 3), rows.permute(0, 2, 1, 3), cache)),
        ),
      ).toThrow(/attention: with `lanes` it has no gradient/);
      const before = device.enter("model.layers.3");
      const weights = random(4);
      const table = (): Tensor => ropeTable(Tensor.from(device, Int32Array.of(1, 2), [1, 2]), weights);
      expect(() => valueAndGradients([weights], () => weighted(table()))).toThrow(
        /rope_table in model.layers.3: this op has no gradient/,
      );
      device.enter(before);
    }));

  test("what does not depend on the result has a gradient of zero; ids have none", () =>
    scope(() => {
      const [x, unused] = [random(2, 3), random(4)];
      const { gradients } = valueAndGradients([x, unused], () => {
        argmax(x);
        return weighted(x);
      });
      expect([...valuesOf(gradients[1]!)]).toEqual([0, 0, 0, 0]);
      expect(() => valueAndGradients([unused], () => weighted(x))).toThrow(/does not depend/);
      expect(() => valueAndGradients([x], () => x)).toThrow(/one number/);
      const ids = Tensor.from(device, Int32Array.of(1), [1]);
      expect(() => valueAndGradients([ids], () => weighted(x))).toThrow(/wants floats/);
    }));

  test("an error leaves no tape open and nothing behind", () => {
    using x = random(3).keep();
    expect(() =>
      valueAndGradients([x], () => {
        throw new Error("inside");
      }),
    ).toThrow("inside");
    using y = scope(() => activation(x, "silu")).keep();
    using z = scope(() => scale(y, 2)).keep();
    void z;
    expect(device.arena.owners().reduce((n, { count }) => n + count, 0)).toBe(3);
  });
});
