// What a choice among kernels of attention holds for; that they give the same is in sdpa.test.ts.

import { afterEach, describe, expect, test, vi } from "vitest";
import type { Device } from "../../src/core/device.js";
import { OptionError } from "../../src/core/errors.js";
import { Tensor } from "../../src/core/tensor.js";
import { functional, type Kernels, SDPBackend, sdp_kernel, sdpa_kernel } from "../../src/nn/index.js";
import { normals } from "../support/random.js";
import { onDevice } from "../support/suites.js";

const { scaled_dot_product_attention: sdpa } = functional;

afterEach(() => void vi.restoreAllMocks());

describe("a choice of kernels", () => {
  let device: Device;
  onDevice("reference", (opened) => (device = opened));

  test("holds for what its body calls, and for nobody else", async () => {
    vi.spyOn(console, "warn").mockImplementation(() => {});
    const q = Tensor.from(device, normals(13, 8), [1, 1, 2, 4]);
    const dropping = (): void => sdpa(q, q, q, { dropout_p: 0.5 }).dispose();
    const chosen = async (kernels: Kernels): Promise<void> => {
      expect(dropping).toThrow(/^No available kernel/);
      await Promise.resolve();
      // Behind an await, a call is inside by `run` alone.
      dropping();
      expect(() => kernels.run(dropping)).toThrow(/^No available kernel/);
    };
    const running = sdpa_kernel(SDPBackend.FLASH_ATTENTION, chosen);
    dropping();
    await Promise.all([running, sdpa_kernel([SDPBackend.MATH, SDPBackend.FLASH_ATTENTION], dropping)]);
    sdpa_kernel(SDPBackend.FLASH_ATTENTION, () => sdpa_kernel(SDPBackend.MATH, dropping));
    q.dispose();
  });
});

describe("refused", () => {
  test.each<[string, () => unknown]>([
    ["no kernel", () => sdpa_kernel("flash" as never, () => 1)],
    ["an error for a kernel", () => sdpa_kernel(SDPBackend.ERROR, () => 1)],
    ["no body", () => sdpa_kernel(SDPBackend.MATH, undefined as never)],
    ["an unknown kernel", () => sdp_kernel({ enable_triton: true } as never, () => 1)],
  ])("%s", (_, call) => {
    expect(call).toThrow(OptionError);
  });
});
