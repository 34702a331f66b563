// The list of ops. A new op is one file and one line here; backends, the conformance suite and the signature check of
// the native add-on walk this list.

import { autograd } from "../core/autograd.js";
import { activationBackOp, activationOp } from "./activation.js";
import { addOp } from "./add.js";
import { advanceLanesOp, advanceOp } from "./advance.js";
import { affineDequantizeOp, affineQuantizeOp } from "./affine.js";
import { appendTokenOp } from "./append-token.js";
import { argmaxOp } from "./argmax.js";
import { attentionOp } from "./attention.js";
import { attentionBackOp } from "./attention-back.js";
import { blockwiseDequantizeOp, blockwiseQuantizeOp } from "./blockwise.js";
import { copyOp } from "./copy.js";
import { crossEntropyBackOp, crossEntropyOp } from "./cross-entropy.js";
import { doubleQuantizeOp } from "./double-quantize.js";
import { editOp } from "./edit.js";
import { embeddingBackOp, embeddingOp } from "./embedding.js";
import { expertLinearOp, fourBitExpertLinearOp, llmInt8ExpertLinearOp, mixOp, routeOp } from "./experts.js";
import {
  expertLinearBackOp,
  expertOuterOp,
  fourBitExpertBackOp,
  llmInt8ExpertBackOp,
  routeBackOp,
} from "./experts-back.js";
import { fillOp } from "./fill.js";
import { fourBitBackOp, fourBitDequantizeOp, fourBitEmbeddingOp, fourBitLinearOp } from "./four-bit.js";
import { fourBitQuantizeOp } from "./four-bit-quantize.js";
import { clampedGatedBackOp, clampedGatedOp, gatedOp } from "./gated.js";
import { GRAPH } from "./graph.js";
import { int8MatmulOp, int8QuantizeOp } from "./int8.js";
import { kvAppendOp } from "./kv-append.js";
import { layerNormBackOp, layerNormOp } from "./layer-norm.js";
import { linearBackOp, linearOp } from "./linear.js";
import {
  llmInt8BackOp,
  llmInt8DequantizeOp,
  llmInt8EmbeddingOp,
  llmInt8LinearOp,
  llmInt8QuantizeOp,
} from "./llm-int8.js";
import { maxRowsBackOp, maxRowsOp } from "./max-rows.js";
import { o4LevelsOp, o4QuantizeOp } from "./o4.js";
import type { Op } from "./op.js";
import { optimizerClipOp, optimizerStep8bitOp, optimizerStepOp } from "./optimizer.js";
import { packOp, unpackOp } from "./pack.js";
import { penalizeOp } from "./penalize.js";
import { rmsNormBackOp, rmsNormOp } from "./rms-norm.js";
import { ropeOp, ropeTableOp } from "./rope.js";
import { sampleOp } from "./sample.js";
import { scaleOp } from "./scale.js";
import { sumRowsOp } from "./sum-rows.js";
import { tokenLogprobsOp } from "./token-logprobs.js";
import { warpOp } from "./warp.js";

autograd.engine = GRAPH;

export const OPS: readonly Op[] = [
  linearOp,
  llmInt8LinearOp,
  fourBitLinearOp,
  expertLinearOp,
  llmInt8ExpertLinearOp,
  fourBitExpertLinearOp,
  routeOp,
  mixOp,
  embeddingOp,
  tokenLogprobsOp,
  attentionOp,
  kvAppendOp,
  ropeTableOp,
  ropeOp,
  rmsNormOp,
  layerNormOp,
  activationOp,
  gatedOp,
  clampedGatedOp,
  addOp,
  scaleOp,
  copyOp,
  advanceOp,
  advanceLanesOp,
  argmaxOp,
  penalizeOp,
  editOp,
  sampleOp,
  warpOp,
  appendTokenOp,
  llmInt8QuantizeOp,
  llmInt8DequantizeOp,
  llmInt8EmbeddingOp,
  fourBitQuantizeOp,
  fourBitDequantizeOp,
  fourBitEmbeddingOp,
  doubleQuantizeOp,
  o4QuantizeOp,
  o4LevelsOp,
  packOp,
  unpackOp,
  fillOp,
  maxRowsOp,
  maxRowsBackOp,
  sumRowsOp,
  linearBackOp,
  llmInt8BackOp,
  fourBitBackOp,
  expertLinearBackOp,
  llmInt8ExpertBackOp,
  fourBitExpertBackOp,
  expertOuterOp,
  routeBackOp,
  embeddingBackOp,
  attentionBackOp,
  rmsNormBackOp,
  layerNormBackOp,
  activationBackOp,
  clampedGatedBackOp,
  crossEntropyOp,
  crossEntropyBackOp,
  int8QuantizeOp,
  int8MatmulOp,
  affineQuantizeOp,
  affineDequantizeOp,
  blockwiseQuantizeOp,
  blockwiseDequantizeOp,
  optimizerStepOp,
  optimizerStep8bitOp,
  optimizerClipOp,
];

/** Signature texts by op name; a backend's kernels must match them. */
export function signatures(): Map<string, string> {
  return new Map(OPS.map((op) => [op.name, op.signature.text]));
}
