// set_module_tensor_to_device: one parameter at a time, in accelerate's words.

import { expect, test } from "vitest";
import { Linear8bitLt } from "../../src/bnb/index.js";
import { Tensor } from "../../src/core/tensor.js";
import { OptionError, openDevice, set_module_tensor_to_device } from "../../src/index.js";
import { Linear, Sequential } from "../../src/nn/index.js";

test("a parameter gets a device and values", async () => {
  const device = openDevice("cpu", { threads: 1 });
  try {
    using plain = new Sequential(new Linear(3, 2), new Linear(2, 2, { bias: false }));
    const values = Float32Array.of(1, 2, 3, 4, 5, 6);
    using value = Tensor.from(device, values, [2, 3]).keep();
    await set_module_tensor_to_device(plain, "0.weight", device, { value });
    const state = await plain.state_dict();
    expect([...new Float32Array((await state.get("0.weight")!.bytes()).slice().buffer)]).toEqual([...values]);
    // Its own values, in another dtype.
    await set_module_tensor_to_device(plain, "0.bias", device, { dtype: "bfloat16" });
    expect((await plain.state_dict()).get("0.bias")!.dtype).toBe("BF16");
    using narrow = Tensor.from(device, Float32Array.of(1, 2), [1, 2]).keep();
    for (const [call, says] of [
      [
        () => set_module_tensor_to_device(plain, "0.scale", device),
        /does not have a parameter or a buffer named "0.scale"/,
      ],
      [
        () => set_module_tensor_to_device(plain, "0.weight", device, { value: narrow }),
        /tensor of shape \[1, 2\] in "0.weight" \(which has shape \[2, 3\]\), this looks incorrect/,
      ],
      [() => set_module_tensor_to_device(plain, "0.weight", "cpu" as never), /expected a Device/],
      [() => set_module_tensor_to_device({} as never, "0.weight", device), /expected a module/],
      [() => set_module_tensor_to_device(plain, "0.weight", device, { dtype: "int3" }), /dtype must be/],
    ] as const) {
      await expect(call()).rejects.toThrow(OptionError);
      await expect(call()).rejects.toThrow(says);
    }
    // Floats for a module of codes are quantized by the move.
    using coded = new Linear8bitLt(3, 2, { has_fp16_weights: false });
    await set_module_tensor_to_device(coded, "weight", device, { value });
    expect((await coded.state_dict()).get("weight")!.dtype).toBe("I8");
  } finally {
    await device.close();
  }
});
