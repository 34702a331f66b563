// The kernels of the WebGPU backend. A faster one is a drop-in here; order does not matter.

import type { Kernel } from "../kernel.js";
import { attention } from "./attention.js";
import { kvAppend } from "./cache.js";
import { copy } from "./copy.js";
import { activation, add, advance, advanceLanes, gated, scale } from "./elementwise.js";
import { embedding } from "./embedding.js";
import { fourBitDequantize, fourBitLinear } from "./four-bit.js";
import { appendToken, penalize } from "./history.js";
import { linear } from "./linear.js";
import { llmInt8Linear } from "./llm-int8.js";
import { argmax, tokenLogprobs } from "./logits.js";
import { layerNorm, rmsNorm } from "./norm.js";
import { pack, unpack } from "./pack.js";
import { doubleQuantize, fourBitQuantize, llmInt8Dequantize, llmInt8Quantize } from "./quantize.js";
import { rope, ropeTable } from "./rope.js";
import { sample } from "./sample.js";

export const KERNELS: readonly Kernel[] = [
  linear,
  llmInt8Linear,
  fourBitLinear,
  embedding,
  tokenLogprobs,
  attention,
  kvAppend,
  ropeTable,
  rope,
  rmsNorm,
  layerNorm,
  activation,
  gated,
  add,
  scale,
  copy,
  advance,
  advanceLanes,
  argmax,
  penalize,
  sample,
  appendToken,
  llmInt8Quantize,
  llmInt8Dequantize,
  fourBitQuantize,
  fourBitDequantize,
  doubleQuantize,
  pack,
  unpack,
];
