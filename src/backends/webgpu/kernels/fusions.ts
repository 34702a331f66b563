// Pairs of kernels that fuse (fusion.ts), in the order in which they are tried.

import type { Fusion } from "../schedule/fusion.js";
import { fourBitLinear, joinFourBit } from "./four-bit.js";
import { gatedProducts } from "./gated-products.js";
import { quantizingToo } from "./int8-rows.js";
import { joinLinear, linear } from "./linear.js";
import { joinInt8, llmInt8Linear } from "./llm-int8.js";
import { layerNorm, recordLayerNorm, recordRmsNorm, rmsNorm } from "./norm.js";
import { ropeAppend } from "./rope-append.js";

export const FUSIONS: readonly Fusion[] = [
  quantizingToo(rmsNorm, llmInt8Linear, recordRmsNorm),
  quantizingToo(layerNorm, llmInt8Linear, recordLayerNorm),
  ropeAppend,
  gatedProducts(linear, joinLinear),
  gatedProducts(fourBitLinear, joinFourBit),
  gatedProducts(llmInt8Linear, joinInt8),
];
