// Names that people from Python write before a dtype.

/** torch's names of float dtypes: `dtype: torch.bfloat16` is `dtype: "bfloat16"`. Nothing else of torch is here. */
export const torch = /* @__PURE__ */ Object.freeze({
  bfloat16: "bfloat16",
  float16: "float16",
  half: "float16",
  float32: "float32",
  float: "float32",
} as const);
