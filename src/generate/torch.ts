// Names that people from Python write behind `torch.`.

import { sdp_kernel } from "../nn/sdpa-kernel.js";

/** torch's names of float dtypes: `dtype: torch.bfloat16` is `dtype: "bfloat16"`; and its way to `sdp_kernel`. Nothing else of torch is here. */
export const torch = /* @__PURE__ */ Object.freeze({
  bfloat16: "bfloat16",
  float16: "float16",
  half: "float16",
  float32: "float32",
  float: "float32",
  backends: Object.freeze({ cuda: Object.freeze({ sdp_kernel }) }),
} as const);
