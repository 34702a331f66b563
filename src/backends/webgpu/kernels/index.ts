// The kernels of the WebGPU backend. A faster one is a drop-in here; order does not matter.

import type { Kernel } from "../kernel.js";
import { attention } from "./attention.js";
import { attentionBack } from "./attention-back.js";
import { fourBitBack, linearBack, llmInt8Back } from "./back.js";
import { affineDequantize, affineQuantize, blockwiseDequantize, blockwiseQuantize } from "./blockwise.js";
import { kvAppend } from "./cache.js";
import { copy } from "./copy.js";
import { crossEntropy, crossEntropyBack } from "./cross-entropy.js";
import { edit } from "./edit.js";
import { activation, add, advance, advanceLanes, clampedGated, gated, scale } from "./elementwise.js";
import { embedding, fourBitEmbedding, llmInt8Embedding } from "./embedding.js";
import { expertLinear, fourBitExpertLinear, llmInt8ExpertLinear } from "./experts.js";
import { expertLinearBack, expertOuter, fourBitExpertBack, llmInt8ExpertBack } from "./experts-back.js";
import { fourBitDequantize, fourBitLinear } from "./four-bit.js";
import {
  activationBack,
  clampedGatedBack,
  embeddingBack,
  fill,
  layerNormBack,
  rmsNormBack,
  sumRows,
} from "./gradients.js";
import { appendToken, penalize } from "./history.js";
import { int8Matmul, int8Quantize } from "./int8-parts.js";
import { linear } from "./linear.js";
import { llmInt8Linear } from "./llm-int8.js";
import { argmax, tokenLogprobs } from "./logits.js";
import { maxRows, maxRowsBack } from "./max-rows.js";
import { layerNorm, rmsNorm } from "./norm.js";
import { o4Levels, o4Quantize } from "./o4.js";
import { optimizerClip, optimizerStep, optimizerStep8bit } from "./optimizer.js";
import { pack, unpack } from "./pack.js";
import { doubleQuantize, fourBitQuantize, llmInt8Dequantize, llmInt8Quantize } from "./quantize.js";
import { rope, ropeTable } from "./rope.js";
import { mix, route, routeBack } from "./route.js";
import { sample } from "./sample.js";
import { warp } from "./warp.js";

export const KERNELS: readonly Kernel[] = [
  linear,
  llmInt8Linear,
  fourBitLinear,
  expertLinear,
  llmInt8ExpertLinear,
  fourBitExpertLinear,
  route,
  mix,
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
  clampedGated,
  add,
  scale,
  copy,
  advance,
  advanceLanes,
  argmax,
  penalize,
  edit,
  sample,
  warp,
  appendToken,
  maxRows,
  maxRowsBack,
  llmInt8Quantize,
  llmInt8Dequantize,
  llmInt8Embedding,
  fourBitQuantize,
  fourBitDequantize,
  fourBitEmbedding,
  doubleQuantize,
  o4Quantize,
  o4Levels,
  pack,
  unpack,
  fill,
  sumRows,
  linearBack,
  llmInt8Back,
  fourBitBack,
  expertLinearBack,
  llmInt8ExpertBack,
  fourBitExpertBack,
  expertOuter,
  routeBack,
  embeddingBack,
  attentionBack,
  rmsNormBack,
  layerNormBack,
  activationBack,
  clampedGatedBack,
  crossEntropy,
  crossEntropyBack,
  int8Quantize,
  int8Matmul,
  affineQuantize,
  affineDequantize,
  blockwiseQuantize,
  blockwiseDequantize,
  optimizerStep,
  optimizerStep8bit,
  optimizerClip,
];
