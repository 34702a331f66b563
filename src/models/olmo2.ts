// OLMo 2 (Team OLMo 2025): all layers see all keys.

import * as z from "../core/schema.js";
import type { Architecture } from "../nn/architecture.js";
import { readConfig } from "./_config.js";
import { llamaNames, resolveLlama } from "./_llama.js";
import { olmoFields, olmoForCausalLM } from "./_olmo.js";

const schema = z.object(olmoFields);

export const olmo2: Architecture = {
  model_type: "olmo2",
  tasks: { "causal-lm": (json) => olmoForCausalLM("Olmo2ForCausalLM", resolveLlama(readConfig(json, schema), json)) },
  names: llamaNames,
};
