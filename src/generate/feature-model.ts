// Loaded models of images and sound as users hold them: classifiers, CTC recognizers and plain features. One forward pass, no
// generation.

import { isVariant } from "../checkpoints/checkpoint.js";
import type { Files } from "../checkpoints/folder-in-memory.js";
import type { Device } from "../core/device.js";
import { OctavoError, OptionError, ShapeError } from "../core/errors.js";
import { flag, readOptions } from "../core/options.js";
import { scope, Tensor } from "../core/tensor.js";
import type { Loaded } from "../load/index.js";
import { setLanguage } from "../load/language.js";
import type { FeatureModel, Outputs } from "../nn/features.js";
import type { PassInput } from "../nn/pass.js";
import type { LoadAdapterOptions } from "./adapter-options.js";
import { readCall } from "./arguments.js";
import { LoadedModel } from "./base.js";
import { type FeatureValues, readFeatures } from "./features.js";
import { readMask } from "./inputs.js";
import { FEATURE_FORWARD, type FeatureForwardOptions } from "./options.js";
import { featureLoss } from "./task-loss.js";

/** Options of load_adapter with a language. */
const LANGUAGE = {
  /** True: only safetensors. False: only a `.bin` file. By default safetensors where there are any. */
  use_safetensors: flag(),
};

type Result<O> = O & {
  /** With labels: f32[1]. */
  loss?: Tensor;
  hidden_states?: Tensor[];
  attentions?: Tensor[];
};

/** A call is a forward pass. */
interface Call<O> {
  (options: FeatureForwardOptions): Result<O>;
  (
    inputs: FeatureValues | FeatureForwardOptions,
    options?: Omit<FeatureForwardOptions, "pixel_values" | "input_values">,
  ): Result<O>;
}
export interface PreTrainedFeatureModel<O extends Outputs = Outputs> extends Call<O> {}

// biome-ignore lint/suspicious/noUnsafeDeclarationMerging: `Called` makes instances that can be called
export class PreTrainedFeatureModel<O extends Outputs = Outputs> extends LoadedModel<FeatureModel<O>> {
  /** For `from_pretrained`. @throws OptionError for anything but a model that was loaded */
  constructor(
    loaded: Loaded<"image-classification" | "audio-classification" | "ctc">,
    device: Device,
    ownsDevice: boolean,
  ) {
    super(loaded as never, device, ownsDevice);
  }

  /**
   * Records one forward pass over a batch of the model's own input. The results have the names that transformers gives them:
   * `logits` f32[B,labels] of a classifier and f32[B,T,vocab] of CTC, else `last_hidden_state` and, where there is one,
   * `pooler_output`. With `labels` there is a `loss`. The caller disposes all of them.
   * @throws ShapeError, OptionError (an input of another size than the model's, or that it does not have)
   */
  forward(options: FeatureForwardOptions): Result<O>;
  /** The same with the options after the inputs. */
  forward(
    inputs: FeatureValues | FeatureForwardOptions,
    options?: Omit<FeatureForwardOptions, "pixel_values" | "input_values">,
  ): Result<O>;
  forward(...given: readonly unknown[]): Result<O> {
    this.checkUsable();
    const { device, module } = this;
    const { name } = module.input;
    const options = readCall("forward", FEATURE_FORWARD, given, name);
    for (const other of ["pixel_values", "input_values"] as const) {
      if (other === name || options[other] === undefined) continue;
      throw new OptionError(`forward: this model reads ${name}, not ${other}`, { details: { option: other } });
    }
    const features = readFeatures(options[name as "pixel_values"], module.input);
    const attention = this.attending(options.output_attentions);
    const rows = features.shape[0]!;
    const hides = this.#mask(options.attention_mask, features.shape);
    const loss = featureLoss(this, options, rows, () => {
      const each = module.frames(features.shape[1]!) ?? 0;
      return Array.from({ length: rows }, (_, r) =>
        module.outputFrames(hides ? hides.subarray(r * each, (r + 1) * each).reduce((sum, one) => sum + one, 0) : each),
      );
    });
    const record = (): Result<Outputs> => {
      const shape = hides && [rows, hides.length / rows];
      const mask = shape && Tensor.from(device, hides, shape, "u8");
      const real = shape && Tensor.from(device, Float32Array.from(hides), shape);
      const input: PassInput = { positions: Tensor.from(device, new Int32Array(rows), [rows, 1]), mask };
      const { output_hidden_states: capture, output_attentions: capture_attentions } = options;
      using pass = module.pass(input, { capture, capture_attentions, attention });
      const outputs = module.outputs(pass, features.on(device), real);
      return {
        ...(loss ? { loss: loss(outputs) } : {}),
        ...outputs,
        ...(capture ? { hidden_states: pass.take_hidden_states() } : {}),
        ...(capture_attentions ? { attentions: pass.take_attentions("self") } : {}),
      } as Outputs;
    };
    return scope(record as () => never);
  }

  /**
   * Of a model with parts for each language (MMS), with the language's code, "fra": the language's parts and head, from
   * `adapter.fra.safetensors` or `.bin` beside the model's weights, as in transformers; what the tokenizer reads and writes,
   * `tokenizer.set_target_lang("fra")` says. With all else, and a path such as "./folder": an adapter, as every model takes it.
   * @throws as every model's load_adapter; OctavoError while something uses the model, or it has adapters or is offloaded
   */
  override async load_adapter(
    which: string | URL | Files,
    name?: string | LoadAdapterOptions,
    options?: LoadAdapterOptions,
  ): Promise<this> {
    const speaks = this.task === "ctc" && (this.config.adapter_attn_dim ?? null) !== null;
    if (!speaks || !isVariant(which)) return super.load_adapter(which, name, options);
    const given = readOptions("load_adapter", LANGUAGE, typeof name === "string" ? options : (name ?? options));
    this.checkUsable();
    this.checkPlain("load_adapter");
    const reopen = this.adapterHost?.origin.reopen;
    if (!reopen) {
      throw new OctavoError("ERR_UNSUPPORTED", "load_adapter needs a model that was loaded by from_pretrained");
    }
    await this.users.alone("load_adapter", async () => {
      const source = await reopen();
      try {
        this.retokened(await setLanguage(this.module, source, which as string, given));
      } finally {
        await source.close();
      }
    });
    return this;
  }

  /** The mask of positions for one of samples [B,T]: 1 for positions of real samples; undefined if all are. */
  #mask(given: FeatureForwardOptions["attention_mask"], shape: readonly number[]): Uint8Array | undefined {
    if (given === undefined) return undefined;
    const [rows = 0, steps = 0] = shape;
    const count = this.module.frames(steps);
    if (count === undefined) {
      throw new OptionError("forward: this model has no attention_mask", { details: { option: "attention_mask" } });
    }
    const samples = readMask(given, rows, steps);
    const mask = new Uint8Array(rows * count);
    for (let r = 0; r < rows; r++) {
      const real = samples.subarray(r * steps, (r + 1) * steps).reduce((sum, one) => sum + one, 0);
      const frames = this.module.frames(real)!;
      if (frames < 1)
        throw new ShapeError(`attention_mask: row ${r} has ${real} samples, fewer than one position needs`);
      mask.fill(1, r * count, r * count + frames);
    }
    return mask.includes(0) ? mask : undefined;
  }
}
