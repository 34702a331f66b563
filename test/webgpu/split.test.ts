// Operands above the limits of one binding and of one buffer: a model with every matrix cut, and a real head with WebGPU's
// default limits. The conformance suite covers every op (target "webgpu, small bindings").

import { join } from "node:path";
import { expect, test } from "vitest";
import { openWebGPU } from "../../src/backends/webgpu/index.js";
import { Device } from "../../src/core/device.js";
import { Tensor } from "../../src/core/tensor.js";
import { AutoModelForCausalLM, type FromPretrainedOptions } from "../../src/generate/auto.js";
import { denseScheme } from "../../src/nn/weight.js";
import { expectNoLeaks } from "../support/devices.js";
import { sharedGPU } from "../support/shared-gpu.js";
import { describeGPU } from "../support/webgpu.js";

const STORYTELLER = join(import.meta.dirname, "..", "..", "models", "storyteller");

describeGPU("WebGPU splits", () => {
  const ways: [string, FromPretrainedOptions][] = [
    ["float32", { dtype: "float32" }],
    ["int8", { load_in_8bit: true }],
    [
      "nf4 twice",
      { quantization_config: { load_in_4bit: true, bnb_4bit_quant_type: "nf4", bnb_4bit_use_double_quant: true } },
    ],
  ];
  test.each(ways)("with cut matrices the text is the same in %s", { timeout: 240_000 }, async (_, options) => {
    const texts: number[][] = [];
    for (const limits of [{}, { binding: 16384, buffer: 49152 }]) {
      const backend = await openWebGPU(sharedGPU!, limits);
      await using device = new Device(backend);
      const model = await AutoModelForCausalLM.from_pretrained(STORYTELLER, { ...options, device });
      const [ids] = await model.generate({ input_ids: [[1, 20, 30, 41, 52]], max_new_tokens: 5, do_sample: false });
      texts.push(ids!);
      model.dispose();
      expectNoLeaks(device);
    }
    expect(texts[0]).toEqual(texts[1]);
  });

  test("a head of 32000 x 4096 in bf16 at WebGPU's default limits", { timeout: 240_000 }, async () => {
    await using device = new Device(await openWebGPU(sharedGPU!, { limits: "default", buffer: 160 << 20 }));
    const [outputs, inputs, rows] = [32000, 4096, 640];
    const values = Float32Array.from({ length: rows * inputs }, (_, i) => (((i * 2654435761) >>> 9) % 1001) / 500 - 1);
    const piece = Tensor.from(device, values, [rows, inputs], "bf16");
    const build = (n: number) => {
      const builder = denseScheme("bf16").begin(device, [n, inputs], "head");
      for (let at = 0; at < n; at += rows) builder.put(piece, at);
      return builder.finish();
    };
    const head = build(outputs);
    const alone = build(rows);
    expect(head.nbytes).toBe(262_144_000);
    const x = Tensor.from(device, values.slice(0, inputs), [1, inputs]);
    const [whole, part] = [head.linear(x), alone.linear(x)];
    const [got, want] = [await whole.readFloats(), await part.readFloats()];
    expect(new Set(want).size).toBeGreaterThan(rows / 2);
    expect(got.length).toBe(outputs);
    expect(got.findIndex((value, i) => value !== want[i % rows])).toBe(-1);
    const ids = Tensor.from(device, Int32Array.of(0, 16383, 16384, 31999), [4]);
    const looked = head.rows(ids);
    const found = await looked.readFloats();
    const stored = await piece.readFloats();
    [0, 16383, 16384, 31999].forEach((id, i) => {
      const at = (id % rows) * inputs;
      expect(found.slice(i * inputs, (i + 1) * inputs)).toEqual(stored.slice(at, at + inputs));
    });
    for (const tensor of [piece, x, whole, part, ids, looked, head, alone]) tensor.dispose();
    device.arena.trim();
    expectNoLeaks(device);
  });
});
