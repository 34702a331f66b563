// activation: an elementwise nonlinearity. Every op with an `act` attribute uses its codes.

import type { Tensor } from "../core/tensor.js";
import { Op } from "./op.js";

/** Codes of the `act` attribute; native/simd/act.h uses the same numbers. */
export const ACT = { none: 0, relu: 1, gelu: 2, gelu_tanh: 3, silu: 4, quick_gelu: 5, tanh: 6, sigmoid: 7 } as const;
export type Act = keyof typeof ACT;

/** The error function, to double precision (Abramowitz and Stegun 7.1.5 below 3, the continued fraction 7.1.14 above). */
export function erf(x: number): number {
  const a = Math.abs(x);
  let value: number;
  if (a < 3) {
    let term = a;
    let total = a;
    for (let n = 1; n < 80; n++) {
      term *= (-a * a) / n;
      total += term / (2 * n + 1);
    }
    value = (2 / Math.sqrt(Math.PI)) * total;
  } else if (a < 6) {
    let fraction = 0;
    for (let n = 60; n > 0; n--) fraction = n / 2 / (a + fraction);
    value = 1 - Math.exp(-a * a) / (Math.sqrt(Math.PI) * (a + fraction));
  } else value = 1;
  return x < 0 ? -value : value;
}

/** The activation with code `act` of one number. */
export function activate(act: number, x: number): number {
  switch (act) {
    case ACT.relu:
      return Math.max(x, 0);
    case ACT.gelu:
      return 0.5 * x * (1 + erf(x / Math.SQRT2));
    case ACT.gelu_tanh:
      return 0.5 * x * (1 + Math.tanh(0.7978845608028654 * (x + 0.044715 * x ** 3)));
    case ACT.silu:
      return x / (1 + Math.exp(-x));
    case ACT.quick_gelu:
      return x / (1 + Math.exp(-1.702 * x));
    case ACT.tanh:
      return Math.tanh(x);
    case ACT.sigmoid:
      return 1 / (1 + Math.exp(-x));
    default:
      return x;
  }
}

const densityAtZero = 1 / Math.sqrt(2 * Math.PI);

/** The derivative of `activate(act, x)` by x; 0 for relu at 0. */
export function activateBack(act: number, x: number): number {
  const sigmoid = (z: number): number => 1 / (1 + Math.exp(-z));
  switch (act) {
    case ACT.relu:
      return x > 0 ? 1 : 0;
    case ACT.gelu:
      return 0.5 * (1 + erf(x / Math.SQRT2)) + x * densityAtZero * Math.exp((-x * x) / 2);
    case ACT.gelu_tanh: {
      const t = Math.tanh(0.7978845608028654 * (x + 0.044715 * x ** 3));
      return 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * 0.7978845608028654 * (1 + 0.134145 * x * x);
    }
    case ACT.silu:
      return sigmoid(x) * (1 + x * sigmoid(-x));
    case ACT.quick_gelu:
      return sigmoid(1.702 * x) * (1 + 1.702 * x * sigmoid(-1.702 * x));
    case ACT.tanh:
      return 1 - Math.tanh(x) ** 2;
    case ACT.sigmoid:
      return sigmoid(x) * sigmoid(-x);
    default:
      return 1;
  }
}

export const activationOp = new Op({
  signature: "activation: x[..]:f32 ; act:i32 -> y[..]:f32",
  reference({ x, y }, { act }) {
    for (let i = 0; i < x!.data.length; i++) y!.data[i] = activate(act!, x!.data[i]!);
    return undefined;
  },
  gradient: ({ inputs: [x], attributes: [act], dy: [dy] }) => [activationBack(x!, dy!, act!)],
  keeps: () => ["x"],
  cheap: true,
});

/** `act(x)`, elementwise. */
export function activation(x: Tensor, act: Act): Tensor {
  return activationOp.run([x], [ACT[act]]);
}

export const activationBackOp = new Op({
  signature: "activation_back: x[..]:f32 dy[..]:f32 ; act:i32 -> dx[..]:f32",
  reference({ x, dy, dx }, { act }) {
    for (let i = 0; i < x!.data.length; i++) dx!.data[i] = activateBack(act!, x!.data[i]!) * dy!.data[i]!;
    return undefined;
  },
});

/** `act'(x) * dy`, elementwise; `act` is a code of ACT. */
export function activationBack(x: Tensor, dy: Tensor, act: number): Tensor {
  return activationBackOp.run([x, dy], [act]);
}
