// All families of conformance cases. A new op adds its family to one of the files beside this one; the suite fails
// while an op has none.

import type { Family } from "../../support/conformance.js";
import { ATTENTION } from "./attention.js";
import { ATTENTION_BACK } from "./attention-back.js";
import { BLOCKWISE } from "./blockwise.js";
import { ELEMENTWISE } from "./elementwise.js";
import { EXPERTS } from "./experts.js";
import { EXPERTS_BACK } from "./experts-back.js";
import { FOUR_BITS } from "./four-bit.js";
import { GRADIENTS } from "./gradients.js";
import { INT8 } from "./int8.js";
import { MATRIX } from "./matrix.js";
import { MATRIX_BACK } from "./matrix-back.js";
import { NORM_ROPE } from "./norm-rope.js";
import { O4 } from "./o4.js";
import { OPTIMIZER } from "./optimizer.js";
import { POOLING } from "./pooling.js";
import { SAMPLING } from "./sampling.js";
import { WARPING } from "./warping.js";

export const FAMILIES: readonly Family[] = [
  ...MATRIX,
  ...INT8,
  ...FOUR_BITS,
  ...O4,
  ...EXPERTS,
  ...EXPERTS_BACK,
  ...ATTENTION,
  ...NORM_ROPE,
  ...ELEMENTWISE,
  ...SAMPLING,
  ...WARPING,
  ...MATRIX_BACK,
  ...ATTENTION_BACK,
  ...GRADIENTS,
  ...POOLING,
  ...BLOCKWISE,
  ...OPTIMIZER,
];
