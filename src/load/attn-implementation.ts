// attn_implementation, as transformers names ways to compute attention, and what it demands of a model.

import { torchName } from "../core/dtype.js";
import { OptionError } from "../core/errors.js";
import type { FloatDType } from "../nn/weight.js";

export const ATTN_IMPLEMENTATIONS = ["sdpa", "eager", "flash_attention_2"] as const;

export type AttnImplementation = (typeof ATTN_IMPLEMENTATIONS)[number];

/**
 * @param name of the model's class
 * @param half the original would compute in 16 bits where no dtype was asked for: a model that is quantized while it is loaded
 * @throws OptionError for a model whose dtype flash attention does not take
 */
export function checkFlash(name: string, dtype: FloatDType, half: boolean): void {
  if (dtype === "f16" || dtype === "bf16" || half) return;
  throw new OptionError(
    `Flash Attention 2 only supports torch.float16 and torch.bfloat16 dtypes, but the current dtype in ${name} is torch.${torchName(dtype)}: FlashAttention only support fp16 and bf16 data type`,
    {
      details: { option: "attn_implementation" },
      hint: "dtype: torch.bfloat16; or leave it out: attention is fused in any dtype",
    },
  );
}
