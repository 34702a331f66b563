// optimum's BetterTransformer: a state of a model (attention-state.ts), under optimum's name.

import { OptionError } from "../core/errors.js";
import { option, readOptions, such } from "../core/options.js";
import * as z from "../core/schema.js";
import { show } from "../core/show.js";
import type { Model } from "../nn/model.js";
import { LoadedModel } from "./base.js";

const TRANSFORM = {
  /** Only false: weights are not copied. */
  keep_original_model: option<false>(z.literal(false), "false", {
    hint: "weights are not copied, and conversion changes none: reverse() gives the model back, or load it twice",
  }),
  /** No effect: nothing moves. */
  max_memory: such<object>((value) => typeof value === "object" && value !== null, "a map of devices to bytes"),
};

/** The model, checked. @throws OptionError for what is none */
function checked<M extends LoadedModel<Model>>(call: string, model: M): M {
  if (LoadedModel.is(model)) return model;
  throw new OptionError(`BetterTransformer.${call}: it takes a loaded model, got ${show(model)}`);
}

export const BetterTransformer = /* @__PURE__ */ Object.freeze({
  /** `model.to_bettertransformer()`. @throws as that; OptionError */
  transform<M extends LoadedModel<Model>>(
    model: M,
    options: { keep_original_model?: false; max_memory?: object } = {},
  ): M {
    readOptions("BetterTransformer.transform", TRANSFORM, options);
    return checked("transform", model).to_bettertransformer();
  },

  /** `model.reverse_bettertransformer()`. @throws as that; OptionError */
  reverse<M extends LoadedModel<Model>>(model: M): M {
    return checked("reverse", model).reverse_bettertransformer();
  },
});
