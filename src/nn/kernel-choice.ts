// Which kernels attention may use, as torch lets one choose them: `sdpa_kernel` around calls of scaled_dot_product_attention and of
// models. In torch the choice is one for the process; here it holds for the calls that are made inside, and concurrent ones do
// not see it: what is called while the body runs takes the choice along into its asynchronous part. JavaScript cannot know, in a
// page, what a call after an `await` belongs to (AsyncLocalStorage is Node's alone), so the body is given the choice, and
// `kernels.run` makes such a call with it.

import { isFunction, listOf } from "../core/checks.js";
import { OctavoError, OptionError } from "../core/errors.js";
import { show } from "../core/show.js";

/** torch's names of kernels, with its numbers. */
export const SDPBackend = /* @__PURE__ */ Object.freeze({
  ERROR: -1,
  /** Holds the weights, T x S for each head; in models, which never do: exact products in f32. */
  MATH: 0,
  /** The fused kernel, without a mask but one of keys. */
  FLASH_ATTENTION: 1,
  /** The fused kernel with any mask. */
  EFFICIENT_ATTENTION: 2,
  /** Never usable here. */
  CUDNN_ATTENTION: 3,
  /** Never usable here. */
  OVERRIDEABLE: 4,
} as const);
export type SDPBackend = (typeof SDPBackend)[keyof typeof SDPBackend];

const NAMES: Readonly<Record<number, string>> = {
  [SDPBackend.MATH]: "Math",
  [SDPBackend.FLASH_ATTENTION]: "Flash attention",
  [SDPBackend.EFFICIENT_ATTENTION]: "Memory efficient",
  [SDPBackend.CUDNN_ATTENTION]: "cuDNN attention",
  [SDPBackend.OVERRIDEABLE]: "Overrideable",
};

/** In which order kernels are tried. */
export const KERNEL_ORDER: readonly SDPBackend[] = [
  SDPBackend.FLASH_ATTENTION,
  SDPBackend.EFFICIENT_ATTENTION,
  SDPBackend.MATH,
  SDPBackend.CUDNN_ATTENTION,
  SDPBackend.OVERRIDEABLE,
];

/** The kernels that the calls being made may use; undefined: all of them. */
let inner: Kernels | undefined;

/** A choice of kernels: what `sdpa_kernel` gives its body. */
export class Kernels {
  /** The kernels that may be used, in the order in which they are tried. */
  readonly backends: readonly SDPBackend[];

  /** @throws OptionError for what is no list of kernels */
  constructor(backends: readonly SDPBackend[]) {
    const list = listOf(backends, isBackend);
    if (!list) {
      throw new OptionError(`Backend must be an SDPBackend or a list of them, got ${show(backends)}`, {
        hint: "SDPBackend.FLASH_ATTENTION, or [SDPBackend.FLASH_ATTENTION, SDPBackend.MATH]",
      });
    }
    this.backends = Object.freeze([...new Set(list)]);
  }

  /**
   * Runs `body`: the calls that it makes before it returns, or first awaits, use this choice.
   * @throws OptionError for what is no function
   */
  run<T>(body: () => T): T {
    if (!isFunction(body)) throw new OptionError(`run: it takes a function, got ${show(body)}`);
    const before = inner;
    inner = this;
    try {
      return body();
    } finally {
      inner = before;
    }
  }
}

function isBackend(value: unknown): value is SDPBackend {
  return typeof value === "number" && Object.hasOwn(NAMES, value);
}

/**
 * For calls that do not carry a choice to the models that they use.
 * @throws OptionError inside of `sdpa_kernel`
 */
export function refuseKernels(call: string, instead: string): void {
  if (!inner) return;
  throw new OptionError(`${call}: a choice of kernels (sdpa_kernel, sdp_kernel) does not reach into it`, {
    hint: instead,
  });
}

/** Why kernels cannot serve a call; those that can are not in it. */
export type Reasons = { readonly [Backend in SDPBackend]?: string };

const NEVER: Reasons = {
  [SDPBackend.CUDNN_ATTENTION]: "there is no cuDNN on this device.",
  [SDPBackend.OVERRIDEABLE]: "no kernel of another library is registered.",
};

/**
 * The kernel for a call: the first one that is allowed and can serve it.
 * @throws OctavoError if there is none; the reasons are warnings on the console, and in `details`
 */
export function chosenKernel(reasons: Reasons = {}): SDPBackend {
  const against: Reasons = { ...NEVER, ...reasons };
  const allowed = inner?.backends ?? KERNEL_ORDER;
  const found = allowed.find((one) => against[one] === undefined);
  if (found !== undefined) return found;
  const lines = allowed.map((one) => `${NAMES[one]} kernel not used because: ${against[one]}`);
  for (const line of lines) console.warn(line);
  throw new OctavoError("ERR_NO_KERNEL", "No available kernel. Aborting execution.", {
    details: { reasons: lines },
    hint: "allow one more: sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.MATH], body)",
  });
}
