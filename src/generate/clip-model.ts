// Loaded models of texts and images as users hold them: embeddings of both, and how well they match.

import type { Device } from "../core/device.js";
import { OptionError } from "../core/errors.js";
import { scope, Tensor } from "../core/tensor.js";
import type { Loaded } from "../load/index.js";
import { type DualModel, unitRows } from "../nn/dual.js";
import type { PassOptions } from "../nn/pass.js";
import { readCall } from "./arguments.js";
import { LoadedModel } from "./base.js";
import { type FeatureValues, readFeatures } from "./features.js";
import { type Ids, readBatch } from "./inputs.js";
import {
  CLIP_FORWARD,
  CLIP_IMAGE,
  CLIP_TEXT,
  type ClipForwardOptions,
  type ClipImageOptions,
  type ClipTextOptions,
} from "./options.js";

/** The result of one forward pass; the caller disposes all of it. */
export interface ClipOutput {
  /** f32[texts,images]: scaled similarities. */
  logits_per_text: Tensor;
  /** f32[images,texts] */
  logits_per_image: Tensor;
  /** f32[texts,embedding], of length one. */
  text_embeds: Tensor;
  /** f32[images,embedding], of length one. */
  image_embeds: Tensor;
  text_hidden_states?: Tensor[];
  vision_hidden_states?: Tensor[];
  text_attentions?: Tensor[];
  vision_attentions?: Tensor[];
}

/** An embedding, and hidden states and attention's weights if they are captured. */
interface Embedded {
  readonly embeds: Tensor;
  readonly states: Tensor[];
  readonly attentions: Tensor[];
}

/** A call is a forward pass. */
interface Call {
  (options: ClipForwardOptions): ClipOutput;
  (inputs: ClipForwardOptions, options?: Partial<ClipForwardOptions>): ClipOutput;
}
export interface PreTrainedClipModel extends Call {}

// biome-ignore lint/suspicious/noUnsafeDeclarationMerging: `Called` makes instances that can be called
export class PreTrainedClipModel extends LoadedModel<DualModel> {
  /** For `from_pretrained`. @throws OptionError for anything but a model that was loaded */
  constructor(loaded: Loaded<"clip">, device: Device, ownsDevice: boolean) {
    super(loaded, device, ownsDevice);
  }

  /**
   * Records one forward pass over texts and images, which need not be as many.
   * @throws ShapeError, OptionError (an id outside the vocabulary, a text longer than the positions, images of another size)
   */
  forward(options: ClipForwardOptions): ClipOutput;
  /** The same with the options after the inputs. */
  forward(inputs: ClipForwardOptions, options?: Partial<ClipForwardOptions>): ClipOutput;
  forward(...args: readonly unknown[]): ClipOutput {
    this.checkUsable();
    const given = readCall("forward", CLIP_FORWARD, args);
    const { output_hidden_states = false, output_attentions = false } = given;
    const attention = this.attending(output_attentions);
    const capture: PassOptions = { capture: output_hidden_states, capture_attentions: output_attentions, attention };
    return scope(() => {
      const texts = this.#text(given, capture);
      const images = this.#image(given, capture);
      const [text_embeds, image_embeds] = [unitRows(texts.embeds), unitRows(images.embeds)];
      const logits_per_text = this.module.similarities(text_embeds, image_embeds);
      const logits_per_image = this.module.similarities(image_embeds, text_embeds);
      const output: ClipOutput = { logits_per_text, logits_per_image, text_embeds, image_embeds };
      if (output_hidden_states) {
        output.text_hidden_states = texts.states;
        output.vision_hidden_states = images.states;
      }
      if (output_attentions) {
        output.text_attentions = texts.attentions;
        output.vision_attentions = images.attentions;
      }
      return { ...output };
    });
  }

  /** Embeddings of texts, f32[B,embedding], not normalised. @throws as `forward` */
  get_text_features(options: ClipTextOptions | Ids): Tensor;
  get_text_features(...args: readonly unknown[]): Tensor {
    this.checkUsable();
    const given = readCall("get_text_features", CLIP_TEXT, args);
    const attention = this.attending();
    return scope(() => this.#text(given, { attention }).embeds);
  }

  /** Embeddings of images, f32[B,embedding], not normalised. @throws as `forward` */
  get_image_features(options: ClipImageOptions | FeatureValues): Tensor;
  get_image_features(...args: readonly unknown[]): Tensor {
    this.checkUsable();
    const given = readCall("get_image_features", CLIP_IMAGE, args, "pixel_values");
    const attention = this.attending();
    return scope(() => this.#image(given, { attention }).embeds);
  }

  #text({ input_ids, attention_mask }: Partial<ClipTextOptions>, capture: PassOptions): Embedded {
    const { device, module } = this;
    const { vocab, max_positions } = module.geometry;
    const { rows, steps, ids, mask } = readBatch(input_ids, attention_mask, vocab);
    if (steps > max_positions) {
      throw new OptionError(`${steps} tokens are more than the ${max_positions} positions of this model`, {
        hint: "shorten the text, or tokenize with truncation: true",
      });
    }
    const shape = [rows, steps];
    const places = ids.map((_, at) => at % steps);
    const pooled = module.pooledAt(ids, rows, steps).map((t, r) => r * steps + t);
    const input = {
      positions: Tensor.from(device, places, shape),
      mask: mask && Tensor.from(device, mask, shape, "u8"),
    };
    using pass = module.pass(input, capture);
    const embeds = module.text(pass, Tensor.from(device, ids, shape), Tensor.from(device, pooled, [rows]));
    return { embeds, states: pass.take_hidden_states(), attentions: pass.take_attentions("self") };
  }

  #image({ pixel_values }: Partial<ClipImageOptions>, capture: PassOptions): Embedded {
    const { device, module } = this;
    const features = readFeatures(pixel_values, module.input);
    const rows = features.shape[0]!;
    using pass = module.pass({ positions: Tensor.from(device, new Int32Array(rows), [rows, 1]) }, capture);
    const embeds = module.image(pass, features.on(device));
    return { embeds, states: pass.take_hidden_states(), attentions: pass.take_attentions("self") };
  }
}
