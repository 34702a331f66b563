// The list of ops. A new op is one file and one line here; backends, the conformance suite and the signature check of
// the native add-on walk this list.

import { activationOp } from "./activation.js";
import { addOp } from "./add.js";
import { advanceLanesOp, advanceOp } from "./advance.js";
import { appendTokenOp } from "./append-token.js";
import { argmaxOp } from "./argmax.js";
import { attentionOp } from "./attention.js";
import { copyOp } from "./copy.js";
import { embeddingOp } from "./embedding.js";
import { expertLinearOp, fourBitExpertLinearOp, llmInt8ExpertLinearOp, mixOp, routeOp } from "./experts.js";
import {
  doubleQuantizeOp,
  fourBitDequantizeOp,
  fourBitEmbeddingOp,
  fourBitLinearOp,
  fourBitQuantizeOp,
} from "./four-bit.js";
import { gatedOp } from "./gated.js";
import { kvAppendOp } from "./kv-append.js";
import { layerNormOp } from "./layer-norm.js";
import { linearOp } from "./linear.js";
import { llmInt8DequantizeOp, llmInt8EmbeddingOp, llmInt8LinearOp, llmInt8QuantizeOp } from "./llm-int8.js";
import type { Op } from "./op.js";
import { packOp, unpackOp } from "./pack.js";
import { penalizeOp } from "./penalize.js";
import { rmsNormOp } from "./rms-norm.js";
import { ropeOp, ropeTableOp } from "./rope.js";
import { sampleOp } from "./sample.js";
import { scaleOp } from "./scale.js";
import { tokenLogprobsOp } from "./token-logprobs.js";

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
  addOp,
  scaleOp,
  copyOp,
  advanceOp,
  advanceLanesOp,
  argmaxOp,
  penalizeOp,
  sampleOp,
  appendTokenOp,
  llmInt8QuantizeOp,
  llmInt8DequantizeOp,
  llmInt8EmbeddingOp,
  fourBitQuantizeOp,
  fourBitDequantizeOp,
  fourBitEmbeddingOp,
  doubleQuantizeOp,
  packOp,
  unpackOp,
];

/** Signature texts by op name: what a backend's kernels must have been written for. */
export function signatures(): Map<string, string> {
  return new Map(OPS.map((op) => [op.name, op.signature.text]));
}
