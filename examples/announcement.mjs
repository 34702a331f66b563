// The step-by-step example of the announcement of LLM.int8() ("A Gentle Introduction to 8-bit Matrix Multiplication"), line by
// line: define a model in 16 bits and save it, define it in 8 bits, load, move, look at the codes, dequantize, run.
//
//     node examples/announcement.mjs [device]
//
// Its last line there, `(int8_model[0].weight.CB * int8_model[0].weight.SCB) / 127`, multiplies along the wrong axis: SCB holds a
// number for each row of codes, and the example only runs because the matrix is square. `dequantize` multiplies row by row.

import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { requestDevice, Tensor } from "octavo";
import { Linear8bitLt } from "octavo/bnb";
import { Linear, load, manual_seed, Sequential, save, text } from "octavo/nn";

const device = await requestDevice(process.argv[2] ?? "cpu");
const folder = mkdtempSync(join(tmpdir(), "octavo-announcement-"));
const file = join(folder, "model.safetensors");
try {
  // 1. A model in 16 bits, which would now be trained, and its state in a file. (The announcement saves model.pt, a pickle.)
  manual_seed(1);
  const fp16_model = new Sequential(new Linear(64, 64), new Linear(64, 64)).to("float16");
  await save(await fp16_model.state_dict(), file);

  // 2. The same model in 8 bits. `has_fp16_weights: false` makes it one for inference.
  const int8_model = new Sequential(
    new Linear8bitLt(64, 64, { has_fp16_weights: false }),
    new Linear8bitLt(64, 64, { has_fp16_weights: false }),
  );

  // 3. It takes the 16-bit values as they are, and the first move to a device quantizes them.
  await int8_model.load_state_dict(await load(file));
  console.log(`before the move: ${int8_model.at(0)}`);
  int8_model.to(device);
  console.log(`after it:        ${int8_model.at(0)}`);

  // 4. The codes, and the values that they stand for beside those of 16 bits.
  const { weight } = int8_model.at(0);
  const codes = weight.CB;
  const values = weight.dequantize();
  console.log("codes:", await text(codes));
  console.log("dequantized:", await text(values));
  fp16_model.to(device);
  console.log("in 16 bits:", await text(fp16_model.at(0).weight.data));
  const [half, back] = [await fp16_model.at(0).weight.data.readFloats(), await values.readFloats()];
  const error = half.reduce((most, value, i) => Math.max(most, Math.abs(value - back[i])), 0);
  console.log(`largest difference: ${error.toPrecision(3)}`);

  // 5. It runs on 16-bit inputs of any rank.
  const input = Float32Array.from({ length: 64 }, (_, i) => Math.sin(i));
  const x = Tensor.from(device, input, [1, 64], "f16");
  const y = int8_model.forward(x);
  const wanted = fp16_model.forward(x);
  const [got, want] = [await y.readFloats(), await wanted.readFloats()];
  const off = got.reduce((most, value, i) => Math.max(most, Math.abs(value - want[i])), 0);
  console.log(`outputs: ${y.shape.join(" x ")} ${y.dtype}, at most ${off.toPrecision(3)} from those of 16 bits`);
  // What is asked for belongs to whoever asked.
  for (const one of [codes, values, x, y, wanted, fp16_model, int8_model]) one.dispose();
  console.log(`left on the device: ${device.memory.live} bytes`);
} finally {
  rmSync(folder, { recursive: true, force: true });
  await device.close();
}
