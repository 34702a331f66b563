// The adapter that a trainer puts on its model.

import { type DrawnLora, loraConfig } from "../adapters/config.js";
import { isDecomposition } from "../adapters/first-values.js";
import { OptionError } from "../core/errors.js";
import type { PreTrainedModel } from "../generate/model.js";
import { get_peft_model } from "../generate/peft.js";

/** @throws OptionError, as get_peft_model; for first values that are waited for */
export function adapt(model: PreTrainedModel, peft_config: DrawnLora | null | undefined): void {
  if (peft_config === undefined || peft_config === null) return;
  const { init_lora_weights } = loraConfig("peft_config", peft_config).fields;
  if (isDecomposition(init_lora_weights)) {
    throw new OptionError(
      `peft_config: ${init_lora_weights} takes parts of the weights, which a constructor cannot wait for`,
      {
        details: { option: "peft_config" },
        hint: "model = await get_peft_model(model, config), and no peft_config",
      },
    );
  }
  get_peft_model(model, peft_config);
}
