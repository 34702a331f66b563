// The adapter that a trainer puts on its model.

import { type DrawnLora, loraConfig } from "../adapters/config.js";
import { isDecomposition } from "../adapters/first-values.js";
import { OptionError } from "../core/errors.js";
import type { PreTrainedModel } from "../generate/model.js";
import { get_peft_model } from "../generate/peft.js";

/**
 * Checks a config at once.
 * @returns what puts its adapter on the model, if there is a config; it throws as get_peft_model
 * @throws OptionError, for first values that are waited for too
 */
export function adapting(model: PreTrainedModel, peft_config: DrawnLora | null | undefined): (() => void) | undefined {
  if (peft_config === undefined || peft_config === null) return undefined;
  const config = loraConfig("peft_config", peft_config);
  const { init_lora_weights } = config.fields;
  if (isDecomposition(init_lora_weights)) {
    throw new OptionError(
      `peft_config: ${init_lora_weights} takes parts of the weights, which a constructor cannot wait for`,
      {
        details: { option: "peft_config" },
        hint: "model = await get_peft_model(model, config), and no peft_config",
      },
    );
  }
  return () => void get_peft_model(model, config);
}
