// Image processors of transformers: an image is resized, cropped, rescaled and normalised as preprocessor_config.json says.

import { isList } from "../core/checks.js";
import { ConfigError, OptionError, ShapeError, UnsupportedModelError } from "../core/errors.js";
import { flag, type Options, readOptions } from "../core/options.js";
import * as z from "../core/schema.js";
import { show } from "../core/show.js";
import { CallableBase } from "./callable.js";
import { type Image, type RawImage, toRGB } from "./image.js";
import { cropOf, cropSize, type ImageSize, imageSize, resizedTo } from "./image-size.js";
import { bytesOf, isFile, type MediaFile, type MediaReader } from "./reader.js";
import { centerCrop, FILTERS, type Filter, resize } from "./resize.js";

const colours = z.union([z.number(), z.array(z.number()).length(3)]);

const schema = z.object({
  do_resize: z.boolean().nullish(),
  size: imageSize.nullish(),
  default_to_square: z.boolean().nullish(),
  resample: z.int().min(0).max(5).nullish(),
  do_center_crop: z.boolean().nullish(),
  crop_size: cropSize.nullish(),
  do_rescale: z.boolean().nullish(),
  rescale_factor: z.number().nullish(),
  do_normalize: z.boolean().nullish(),
  image_mean: colours.nullish(),
  image_std: colours.nullish(),
  // Every image is RGB here, whether a file asks for it or not: so it is in transformers, where a file of an image is read.
  do_convert_rgb: z.boolean().nullish(),
});

type Fields = z.infer<typeof schema>;

interface Defaults {
  readonly size: ImageSize;
  /** Whether a size that is one number means both sides. */
  readonly square: boolean;
  readonly filter: Filter;
  readonly crop: number | undefined;
  readonly mean: readonly number[];
  readonly std: readonly number[];
}

const CLIP: Defaults = {
  size: { shortest_edge: 224 },
  square: false,
  filter: "bicubic",
  crop: 224,
  mean: [0.48145466, 0.4578275, 0.40821073],
  std: [0.26862954, 0.26130258, 0.27577711],
};
const VIT: Defaults = {
  size: { height: 224, width: 224 },
  square: true,
  filter: "bilinear",
  crop: undefined,
  mean: [0.5, 0.5, 0.5],
  std: [0.5, 0.5, 0.5],
};
const SIGLIP: Defaults = { ...VIT, square: false, filter: "bicubic" };

/** What each processor does where its file says nothing. */
const DEFAULTS: ReadonlyMap<string, Defaults> = new Map([
  ["ViTImageProcessor", VIT],
  ["CLIPImageProcessor", CLIP],
  ["BitImageProcessor", CLIP],
  ["SiglipImageProcessor", SIGLIP],
]);

/** The processor of files that name none. */
const BY_MODEL: ReadonlyMap<string, string> = new Map([
  ["vit", "ViTImageProcessor"],
  ["clip", "CLIPImageProcessor"],
  ["dinov2", "BitImageProcessor"],
  ["siglip", "SiglipImageProcessor"],
]);

/** A switch of a file: null is off, as in transformers, and no word of it what the kind of processor does. */
function told(value: boolean | null | undefined, otherwise: boolean): boolean {
  return value === undefined ? otherwise : value === true;
}

/** What a file asks for and no processor here does; keys of files that change nothing are not looked at. */
function unknownIn(config: Readonly<Record<string, unknown>>): string | undefined {
  return Object.keys(config).find((key) => /^do_/.test(key) && !(key in schema.shape) && config[key]);
}

/** Numbers with a shape, as the calls of models take them. */
export interface FloatTensor {
  readonly data: Float32Array;
  readonly shape: readonly number[];
}

export type ImageInput = MediaFile | RawImage;

/** Options of a call. */
export const PROCESS_IMAGES = {
  /** Resize images; by default as the file says. */
  do_resize: flag(),
  /** Cut the middle out of images; by default as the file says. */
  do_center_crop: flag(),
  /** Multiply bytes by `rescale_factor`; by default as the file says. */
  do_rescale: flag(),
  /** Subtract the mean and divide by the deviation; by default as the file says. */
  do_normalize: flag(),
};

export interface ImageProcessorOptions extends Options<typeof PROCESS_IMAGES> {}

export class ImageProcessor extends CallableBase<
  readonly [images: ImageInput | readonly ImageInput[], options?: ImageProcessorOptions],
  Promise<{ pixel_values: FloatTensor }>
> {
  /** preprocessor_config.json. */
  readonly config: Readonly<Record<string, unknown>>;
  readonly #fields: Fields;
  readonly #defaults: Defaults;
  readonly #reader: MediaReader;

  /** @throws UnsupportedModelError for another kind of processor, ConfigError for a value that it does not take */
  constructor(config: Readonly<Record<string, unknown>>, model_type: unknown, reader: MediaReader) {
    super();
    const { image_processor_type, feature_extractor_type } = config;
    const named = image_processor_type ?? feature_extractor_type ?? BY_MODEL.get(String(model_type));
    // Names of older and of faster versions.
    const type =
      typeof named === "string" ? named.replace(/FeatureExtractor$/, "ImageProcessor").replace(/Fast$/, "") : "";
    const defaults = DEFAULTS.get(type);
    if (!defaults) {
      throw new UnsupportedModelError(`image processor ${show(named ?? type)} is not supported`, {
        hint: `supported: ${[...DEFAULTS.keys()].join(", ")}`,
        details: { image_processor_type: show(named) },
      });
    }
    const result = schema.safeParse(config);
    if (!result.success) {
      const [issue] = result.issues;
      const path = issue!.path.join(".");
      throw new ConfigError(
        `preprocessor_config.json: ${path}: ${issue!.message} (got ${show(config[String(issue!.path[0])])})`,
      );
    }
    const unknown = unknownIn(config);
    if (unknown) {
      throw new ConfigError(`preprocessor_config.json: ${show(type)} cannot do what ${unknown} asks for`, {
        hint: `set ${unknown} to false, or prepare images before and pass their pixels`,
      });
    }
    this.config = config;
    this.#fields = result.data;
    this.#defaults = defaults;
    this.#reader = reader;
  }

  /**
   * Images as a model's `pixel_values`, [B,3,height,width].
   * @throws ShapeError (no image, images of different sizes at the end), OptionError, FormatError, NotFoundError
   */
  override async run(
    images: ImageInput | readonly ImageInput[],
    options: ImageProcessorOptions = {},
  ): Promise<{ pixel_values: FloatTensor }> {
    const asked = readOptions("an image processor", PROCESS_IMAGES, options);
    const list: readonly unknown[] = isList(images) ? images : [images];
    if (list.length === 0) throw new ShapeError("an image processor got no image");
    const done: Image[] = [];
    for (const image of list) done.push(this.#shaped(await this.#read(image), asked));
    const { height, width } = done[0]!;
    if (done.some((image) => image.height !== height || image.width !== width)) {
      throw new ShapeError("images of different sizes do not fit into one batch", {
        hint: "leave do_resize and do_center_crop as they are, or pass one image at a time",
      });
    }
    const plane = height * width;
    const data = new Float32Array(done.length * 3 * plane);
    for (const [b, image] of done.entries()) this.#fill(data.subarray(b * 3 * plane), image, asked);
    return { pixel_values: { data, shape: [done.length, 3, height, width] } };
  }

  async #read(image: unknown): Promise<Image> {
    if (!isFile(image)) return toRGB(image);
    return toRGB(await this.#reader.image(await bytesOf(this.#reader, image)));
  }

  #shaped(image: Image, asked: ImageProcessorOptions): Image {
    const fields = this.#fields;
    let shaped = image;
    if (asked.do_resize ?? told(fields.do_resize, true)) {
      const square = fields.default_to_square ?? this.#defaults.square;
      const [height, width] = resizedTo(image, fields.size ?? this.#defaults.size, square);
      const number = fields.resample ?? FILTERS[this.#defaults.filter];
      const filter = (Object.keys(FILTERS) as Filter[]).find((name) => FILTERS[name] === number)!;
      shaped = resize(image, height, width, filter);
    }
    const { crop } = this.#defaults;
    if (asked.do_center_crop ?? told(fields.do_center_crop, crop !== undefined)) {
      const to = fields.crop_size ?? crop;
      if (to === undefined) throw new OptionError("do_center_crop needs a crop_size in preprocessor_config.json");
      shaped = centerCrop(shaped, ...cropOf(to));
    }
    return shaped;
  }

  /** Bytes as f32 planes, in the order and the rounding of numpy. */
  #fill(into: Float32Array, { data, width, height }: Image, asked: ImageProcessorOptions): void {
    const fields = this.#fields;
    const rescales = asked.do_rescale ?? told(fields.do_rescale, true);
    const normalizes = asked.do_normalize ?? told(fields.do_normalize, true);
    const factor = fields.rescale_factor ?? 1 / 255;
    const three = (value: number | readonly number[]): readonly number[] =>
      typeof value === "number" ? [value, value, value] : value;
    const mean = three(fields.image_mean ?? this.#defaults.mean);
    const std = three(fields.image_std ?? this.#defaults.std);
    const plane = width * height;
    for (let c = 0; c < 3; c++) {
      // A byte has few values: each is converted once.
      const table = Float32Array.from({ length: 256 }, (_, byte) => {
        const value = rescales ? Math.fround(byte * factor) : byte;
        if (!normalizes) return value;
        return Math.fround(Math.fround(value - Math.fround(mean[c]!)) / Math.fround(std[c]!));
      });
      for (let p = 0; p < plane; p++) into[c * plane + p] = table[data[3 * p + c]!]!;
    }
  }
}
