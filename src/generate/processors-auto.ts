// from_pretrained of processors of images and sound, for any platform.

import { ConfigError, NotFoundError, OptionError, UnsupportedModelError } from "../core/errors.js";
import { checkedLater, type Options, omit, pick, readOptions } from "../core/options.js";
import { show } from "../core/show.js";
import { readConfigJson } from "../load/index.js";
import { SOURCE } from "../load/options.js";
import { type Platform, reopening } from "../load/platform.js";
import {
  EXTRACT_FEATURES,
  FeatureExtractor,
  type FeatureExtractorOptions,
  type SoundFeatures,
  type SoundInput,
} from "../media/feature-extractor.js";
import {
  type FloatTensor,
  type ImageInput,
  ImageProcessor,
  type ImageProcessorOptions,
  PROCESS_IMAGES,
} from "../media/image-processor.js";
import type { MediaReader } from "../media/reader.js";
import { type JsonObject, readJsonFile } from "../sources/json.js";
import type { Source } from "../sources/source.js";
import type { PreTrainedTokenizer } from "../tokenizer/api.js";
import { loadTokenizer, type TokenizerOrigin } from "../tokenizer/load.js";
import { LOAD_TOKENIZER } from "../tokenizer/options.js";
import { TOKENIZER_FROM_PRETRAINED, type TokenizerOptions } from "./loading-options.js";
import { nameOf } from "./pretrained.js";

export interface AutoProcessors<P> {
  /**
   * Loads a processor of a model, found as `AutoModelForCausalLM` finds the model.
   * @throws OptionError, NotFoundError, FormatError, ConfigError, UnsupportedModelError, NetworkError, AbortError
   */
  from_pretrained(model: string | URL, options?: TokenizerOptions): Promise<P>;
}

/** The files of a processor. */
interface Opened {
  readonly source: Source;
  readonly config: JsonObject;
  readonly model_type: unknown;
  readonly reader: MediaReader;
  readonly asked: Pick<TokenizerOptions, "padding_side" | "target_lang">;
  readonly origin: TokenizerOrigin;
}

function auto<P>(platform: Platform, make: (opened: Opened) => Promise<P>): AutoProcessors<P> {
  return {
    async from_pretrained(which, given = {}) {
      const model = nameOf(which);
      const options = readOptions("from_pretrained", TOKENIZER_FROM_PRETRAINED, given);
      const { media } = platform;
      if (!media) throw new OptionError("this platform has no decoders");
      const source = await platform.source(model, { ...pick(SOURCE, options), signal: options.signal });
      try {
        const path = source.path("preprocessor_config.json");
        const config = await readJsonFile(source, path, { what: "preprocessor_config.json", python: true });
        const { model_type } = await modelConfig(source);
        const reopen = reopening(platform, model, source, options);
        const origin: TokenizerOrigin = { reopen, folders: platform.folders };
        const asked = pick(
          { padding_side: LOAD_TOKENIZER.padding_side, target_lang: LOAD_TOKENIZER.target_lang },
          options,
        );
        return await make({ source, config, model_type, reader: media, asked, origin });
      } finally {
        await source.close();
      }
    },
  };
}

/** config.json, or nothing: a folder may hold a processor alone. */
async function modelConfig(source: Source): Promise<Readonly<Record<string, unknown>>> {
  try {
    return await readConfigJson(source);
  } catch (error) {
    if (error instanceof NotFoundError) return {};
    throw error;
  }
}

export function autoImageProcessor(platform: Platform): AutoProcessors<ImageProcessor> {
  return auto(platform, async ({ config, model_type, reader }) => new ImageProcessor(config, model_type, reader));
}

export function autoFeatureExtractor(platform: Platform): AutoProcessors<FeatureExtractor> {
  return auto(platform, async ({ config, model_type, reader }) => new FeatureExtractor(config, model_type, reader));
}

const KINDS = {
  /** A text, or several. */
  text: checkedLater<string | readonly string[]>(),
  /** An image, or several. */
  images: checkedLater<ImageInput | readonly ImageInput[]>(),
  /** A sound, or several. */
  audio: checkedLater<SoundInput | readonly SoundInput[]>(),
};

/** What a processor of several kinds of input takes. */
const PROCESS = { ...KINDS, ...PROCESS_IMAGES, ...omit(EXTRACT_FEATURES, ["padding"]) };

export interface ProcessorInputs
  extends Options<typeof KINDS>,
    ImageProcessorOptions,
    Omit<FeatureExtractorOptions, "padding"> {}

/** What it makes of them: the inputs of a model's calls. */
export interface ProcessorOutputs extends Partial<SoundFeatures> {
  pixel_values?: FloatTensor;
  input_ids?: readonly (readonly number[])[];
}

/** A model's processors together. */
export class Processor {
  readonly tokenizer: PreTrainedTokenizer | undefined;
  readonly image_processor: ImageProcessor | undefined;
  readonly feature_extractor: FeatureExtractor | undefined;

  /** For `from_pretrained`. */
  constructor(parts: Partial<Pick<Processor, "tokenizer" | "image_processor" | "feature_extractor">>) {
    this.tokenizer = parts.tokenizer;
    this.image_processor = parts.image_processor;
    this.feature_extractor = parts.feature_extractor;
  }

  /**
   * The inputs of a model: `input_ids` and `attention_mask` of text (padded to the longest), `pixel_values` of images, and what the
   * feature extractor makes of sound.
   * @throws OptionError for a kind of input that the model does not have; what the processors throw
   */
  async process(inputs: ProcessorInputs): Promise<ProcessorOutputs> {
    const given = readOptions("a processor", PROCESS, inputs);
    const { text, images, audio, do_resize, do_center_crop, do_rescale, do_normalize, ...sound } = given;
    const outputs: ProcessorOutputs = {};
    if (text !== undefined) {
      const rows = typeof text === "string" ? [text] : (text as string[]);
      const { input_ids, attention_mask } = need(this.tokenizer, "text")(rows, { padding: true, truncation: true });
      Object.assign(outputs, { input_ids, attention_mask });
    }
    if (images !== undefined) {
      const own = { do_resize, do_center_crop, do_rescale, do_normalize };
      Object.assign(outputs, await need(this.image_processor, "images").run(images, own));
    }
    if (audio !== undefined) {
      Object.assign(outputs, await need(this.feature_extractor, "audio").run(audio, { ...sound, do_normalize }));
    }
    return outputs;
  }

  /** Texts of ids. @throws OptionError without a tokenizer */
  batch_decode(...args: Parameters<PreTrainedTokenizer["batch_decode"]>): string[] {
    return need(this.tokenizer, "text").batch_decode(...args);
  }

  /** The text of ids. @throws OptionError without a tokenizer */
  decode(...args: Parameters<PreTrainedTokenizer["decode"]>): string {
    return need(this.tokenizer, "text").decode(...args);
  }
}

function need<P>(part: P | undefined, kind: string): P {
  if (part !== undefined) return part;
  throw new OptionError(`this model has no processor for ${kind}`);
}

/** Processors of these classes, by what `preprocessor_config.json` holds. */
const SOUND: ReadonlySet<unknown> = new Set(["whisper", "wav2vec2", "hubert"]);

export function autoProcessor(platform: Platform): AutoProcessors<Processor> {
  return auto(platform, async ({ source, config, model_type, reader, asked, origin }) => {
    const type = config.feature_extractor_type;
    const hears = SOUND.has(model_type) || (typeof type === "string" && /^(Whisper|Wav2Vec2)/.test(type));
    const parts = hears
      ? { feature_extractor: new FeatureExtractor(config, model_type, reader) }
      : { image_processor: new ImageProcessor(config, model_type, reader) };
    try {
      return new Processor({ ...parts, tokenizer: await loadTokenizer(source, asked, origin) });
    } catch (error) {
      // Models of images alone have none, and those of CTC one of another kind.
      if (error instanceof NotFoundError || error instanceof UnsupportedModelError) return new Processor(parts);
      throw error instanceof ConfigError ? new ConfigError(`${show(source.location)}: ${error.message}`) : error;
    }
  });
}
