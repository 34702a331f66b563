// The names of quantizers whose files are read, besides bitsandbytes; how they are read is in index.ts, which programs load for such files alone.

/** Methods of `quantization_config`. */
export const PACKED_METHODS = ["gptq", "awq", "fp8", "fbgemm_fp8", "compressed-tensors", "mxfp4"] as const;
export type PackedMethod = (typeof PACKED_METHODS)[number];

export function isPackedMethod(method: unknown): method is PackedMethod {
  return (PACKED_METHODS as readonly unknown[]).includes(method);
}
