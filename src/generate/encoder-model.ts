// Loaded encoders as users hold them: masked language models and text classifiers. One forward pass, no generation.

import type { Device } from "../core/device.js";
import { OptionError } from "../core/errors.js";
import { scope, Tensor } from "../core/tensor.js";
import type { Loaded } from "../load/index.js";
import type { EncoderModel } from "../nn/encoder.js";
import { type After, type Inputs, readCall } from "./arguments.js";
import { LoadedModel } from "./base.js";
import { readBatch } from "./inputs.js";
import { ENCODER_FORWARD, type EncoderForwardOptions } from "./options.js";

export class PreTrainedEncoder extends LoadedModel<EncoderModel> {
  /** For `from_pretrained`. @throws OptionError for anything but a model that was loaded */
  constructor(loaded: Loaded<"masked-lm" | "sequence-classification">, device: Device, ownsDevice: boolean) {
    super(loaded, device, ownsDevice);
  }

  /**
   * Records one forward pass over a batch: logits f32[B,T,vocab] of a masked language model, f32[B,labels] of a classifier.
   * Padding may be on either side; positions count from the first column, as in transformers. The caller disposes all results.
   * @throws ShapeError, OptionError (an id outside the vocabulary, a text longer than the positions of the model)
   */
  forward(options: EncoderForwardOptions): { logits: Tensor; hidden_states?: Tensor[] };
  /** The same with the options after the inputs. */
  forward(
    inputs: Inputs<EncoderForwardOptions>,
    options?: After<EncoderForwardOptions>,
  ): { logits: Tensor; hidden_states?: Tensor[] };
  forward(...given: readonly unknown[]): { logits: Tensor; hidden_states?: Tensor[] } {
    this.checkUsable();
    const inputs = readCall("forward", ENCODER_FORWARD, given);
    const { device, module } = this;
    const { vocab, max_positions, token_types } = module.geometry;
    const batch = readBatch(inputs.input_ids, inputs.attention_mask, vocab);
    const { rows, steps } = batch;
    if (steps > max_positions) {
      throw new OptionError(`${steps} tokens are more than the ${max_positions} positions of this model`, {
        hint: "shorten the text, or tokenize with truncation: true",
      });
    }
    const types =
      inputs.token_type_ids === undefined
        ? undefined
        : readBatch(inputs.token_type_ids, undefined, token_types, "token_type_ids");
    if (types && (types.rows !== rows || types.steps !== steps)) {
      throw new OptionError(`token_type_ids must have the shape of input_ids, [${rows}, ${steps}]`);
    }
    return scope(() => {
      const shape = [rows, steps];
      const positions = Int32Array.from({ length: rows * steps }, (_, at) => at % steps);
      const input = {
        positions: Tensor.from(device, positions, shape),
        mask: batch.mask && Tensor.from(device, batch.mask, shape, "u8"),
        token_types: types && Tensor.from(device, types.ids, shape),
      };
      using pass = module.pass(input, { capture: inputs.output_hidden_states });
      const hidden = module.hidden(pass, Tensor.from(device, batch.ids, shape));
      pass.capture(hidden);
      const logits = module.head(hidden);
      return inputs.output_hidden_states ? { logits, hidden_states: pass.take_hidden_states() } : { logits };
    });
  }
}
