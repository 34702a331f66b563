// `sdpa_kernel` and `sdp_kernel`, torch's ways to choose kernels of attention (kernel-choice.ts).

import { isFunction, isList } from "../core/checks.js";
import { OptionError } from "../core/errors.js";
import { flag, type Options, readOptions } from "../core/options.js";
import { show } from "../core/show.js";
import { KERNEL_ORDER, Kernels, SDPBackend } from "./kernel-choice.js";

export { type Kernels, SDPBackend } from "./kernel-choice.js";

const SDPA_KERNEL = { set_priority: flag() };

/**
 * Runs `body` with these kernels alone, and gives what it gives: scaled_dot_product_attention and models (with attention "sdpa", or
 * as a BetterTransformer) that are called inside use the first one that can serve them. A call that `body` makes after an `await`
 * is only inside by `kernels.run(() => call)`, of the choice that `body` gets.
 * @param options `set_priority`: the order of the list is the order in which they are tried
 * @throws OptionError; what `body` throws: an OctavoError "No available kernel. Aborting execution." if none can serve a call
 */
export function sdpa_kernel<T>(
  backends: SDPBackend | readonly SDPBackend[],
  body: (kernels: Kernels) => T,
  options: Options<typeof SDPA_KERNEL> = {},
): T {
  const { set_priority } = readOptions("sdpa_kernel", SDPA_KERNEL, options);
  const given = new Kernels(isList(backends) ? (backends as readonly SDPBackend[]) : [backends as SDPBackend]);
  return enter(
    "sdpa_kernel",
    set_priority ? given : new Kernels(KERNEL_ORDER.filter((one) => given.backends.includes(one))),
    body,
  );
}

const SDP_KERNEL = { enable_flash: flag(), enable_math: flag(), enable_mem_efficient: flag(), enable_cudnn: flag() };

/**
 * `sdpa_kernel` in torch's older form: each kernel is allowed unless it is false.
 * @throws as `sdpa_kernel`
 */
export function sdp_kernel<T>(options: Options<typeof SDP_KERNEL>, body: (kernels: Kernels) => T): T {
  const given = readOptions("sdp_kernel", SDP_KERNEL, options);
  const { enable_flash = true, enable_math = true, enable_mem_efficient = true, enable_cudnn = true } = given;
  const allowed = new Map<SDPBackend, boolean>([
    [SDPBackend.FLASH_ATTENTION, enable_flash],
    [SDPBackend.EFFICIENT_ATTENTION, enable_mem_efficient],
    [SDPBackend.MATH, enable_math],
    [SDPBackend.CUDNN_ATTENTION, enable_cudnn],
  ]);
  return enter("sdp_kernel", new Kernels(KERNEL_ORDER.filter((one) => allowed.get(one))), body);
}

function enter<T>(call: string, kernels: Kernels, body: (kernels: Kernels) => T): T {
  if (!isFunction(body)) {
    throw new OptionError(`${call}: it takes a function, inside of which the choice holds, got ${show(body)}`, {
      hint: `${call}(kernels, () => model.generate({ ...inputs }))`,
    });
  }
  return kernels.run(() => body(kernels));
}
