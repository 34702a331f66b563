// Fields of adapter_config.json for kinds of adapters that are not here: refused by name, unless they ask for nothing.

import { checkedLater } from "../core/options.js";

/** Fields for kinds of adapters that are not here, with the value that asks for none of them, and the kind's name. */
export const OTHERS = {
  alora_invocation_tokens: [null, "activated LoRA"],
  arrow_config: [null, "Arrow routing"],
  corda_config: [null, "CorDA"],
  ensure_weight_tying: [false, "an adapter over tied weights"],
  eva_config: [null, "EVA"],
  kasa_config: [null, "KaSA"],
  layer_replication: [null, "replicated layers"],
  lora_bias: [false, "a bias of B"],
  lora_ga_config: [null, "LoRA-GA"],
  megatron_config: [null, "Megatron"],
  megatron_core: ["megatron.core", "Megatron"],
  monteclora_config: [null, "MonteCLoRA"],
  qalora_group_size: [16, "QALoRA"],
  use_bdlora: [null, "block-diagonal LoRA"],
  use_qalora: [false, "QALoRA"],
  velora_config: [null, "VeLoRA"],
} as const satisfies Readonly<Record<string, readonly [unknown, string]>>;

export type Other = keyof typeof OTHERS;
export const OTHER_NAMES = Object.keys(OTHERS) as Other[];
export const OTHER_OPTIONS = Object.fromEntries(OTHER_NAMES.map((name) => [name, checkedLater()]));

/** True for a value by which no adapter of another kind is asked for. */
export function asksNothing(name: Other, value: unknown): boolean {
  return value === OTHERS[name][0] || saysNothing(value);
}

/** null, false, and what is empty. */
export function saysNothing(value: unknown): boolean {
  try {
    return (
      value === null || value === false || (typeof value === "object" && Object.keys(value as object).length === 0)
    );
  } catch {
    return false; // a proxy
  }
}
