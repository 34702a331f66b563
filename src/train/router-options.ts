// The option of TRL's trainers for models with experts.

import { number } from "../core/options.js";
import type { PreTrainedModel } from "../generate/model.js";

export const ROUTER = {
  /**
   * Of models with experts: what the loss for their even use is multiplied by before it is added; 0 for none, whatever config.json says.
   * Default 0.001.
   */
  router_aux_loss_coef: number(Number.isFinite, "a number"),
};

/** TRL's default. */
export const ROUTER_AUX_LOSS_COEF = 0.001;

/** What the forward of a model gets for it, beside a batch. */
export function routerInputs(model: PreTrainedModel, router_aux_loss_coef: number): object {
  if (!model.module.even_use) return {};
  return { output_router_logits: router_aux_loss_coef !== 0, router_aux_loss_coef };
}
