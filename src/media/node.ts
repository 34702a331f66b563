// Files and decoders in Node: files of the disk or a server; images by sharp, or PNG and JPEG by pngjs and jpeg-js, whichever is installed.

import { readFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import { FormatError, NotFoundError, OptionError } from "../core/errors.js";
import { listed, show } from "../core/show.js";
import { fetched } from "./fetched.js";
import type { RawImage } from "./image.js";
import { orientationOf, upright } from "./orientation.js";
import type { MediaReader } from "./reader.js";

/** What is used of the packages. */
type Sharp = (bytes: Uint8Array, options: { ignoreIcc: true }) => SharpImage;
interface SharpImage {
  metadata(): Promise<{ space?: string }>;
  pipelineColourspace(space: "cmyk"): SharpImage;
  toColourspace(space: "cmyk"): SharpImage;
  raw(): SharpRaw;
}
interface SharpRaw {
  toBuffer(options: { resolveWithObject: true }): Promise<{
    data: Uint8Array;
    info: { width: number; height: number; channels: number };
  }>;
}
interface PngJs {
  readonly PNG: { readonly sync: { read(bytes: Uint8Array): { width: number; height: number; data: Uint8Array } } };
}
interface JpegJs {
  decode(
    bytes: Uint8Array,
    options: { useTArray: true; formatAsRGBA: false; maxResolutionInMP: number },
  ): { width: number; height: number; data: Uint8Array };
}

/** A package that may not be installed; undefined if it is not. */
async function installed<T>(name: string): Promise<T | undefined> {
  try {
    // Not a literal: bundlers would look for what need not be there.
    const module = (await import(name)) as { default?: T } & T;
    return module.default ?? module;
  } catch {
    return undefined;
  }
}

/** How files begin. */
const KINDS = {
  PNG: /^\x89PNG/,
  JPEG: /^\xff\xd8\xff/,
  WebP: /^RIFF....WEBP/s,
  GIF: /^GIF8/,
  TIFF: /^(II\*\0|MM\0\*)/,
  AVIF: /^....ftypavi[fs]/s,
} as const;
type Kind = keyof typeof KINDS;

function kindOf(bytes: Uint8Array): Kind | undefined {
  const start = String.fromCharCode(...bytes.subarray(0, 12));
  return (Object.keys(KINDS) as Kind[]).find((kind) => KINDS[kind].test(start));
}

/** The packages that decode a kind alone. */
const OWN: Partial<Readonly<Record<Kind, string>>> = { PNG: "pngjs", JPEG: "jpeg-js" };

/** RGB of cyan, magenta, yellow and black: a colour is what its ink and the black let through, as PIL and jpeg-js have it. */
function fromInks(data: Uint8Array): Uint8Array {
  const rgb = new Uint8Array((data.length / 4) * 3);
  for (let from = 0, to = 0; from < data.length; from += 4) {
    const light = 255 - data[from + 3]!;
    for (let c = 0; c < 3; c++) rgb[to++] = Math.round(((255 - data[from + c]!) * light) / 255);
  }
  return rgb;
}

async function decode(bytes: Uint8Array, kind: Kind): Promise<RawImage> {
  const sharp = await installed<Sharp>("sharp");
  if (sharp) {
    // Colours as they are stored, like everywhere else: no profile is applied.
    const image = sharp(bytes, { ignoreIcc: true });
    const inks = (await image.metadata()).space === "cmyk";
    const source = inks ? image.pipelineColourspace("cmyk").toColourspace("cmyk") : image;
    const { data, info } = await source.raw().toBuffer({ resolveWithObject: true });
    const { width, height, channels } = info;
    return inks ? { data: fromInks(data), width, height, channels: 3 } : { data, width, height, channels };
  }
  const buffer = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (kind === "PNG") {
    const png = await installed<PngJs>("pngjs");
    if (png) {
      const { data, width, height } = png.PNG.sync.read(buffer);
      return { data, width, height, channels: 4 };
    }
  } else if (kind === "JPEG") {
    const jpeg = await installed<JpegJs>("jpeg-js");
    if (jpeg) {
      const options = { useTArray: true, formatAsRGBA: false, maxResolutionInMP: 500 } as const;
      const { data, width, height } = jpeg.decode(buffer, options);
      return { data, width, height, channels: 3 };
    }
  }
  throw new OptionError(`no decoder for ${kind} files is installed`, {
    hint: `npm install sharp${OWN[kind] ? `, or npm install ${OWN[kind]}` : ""}; or pass { width, height, data }`,
  });
}

export const NODE_MEDIA: MediaReader = {
  async bytes(where) {
    if (/^https?:\/\//i.test(where)) return fetched(where);
    try {
      return await readFile(/^file:/i.test(where) ? fileURLToPath(where) : where);
    } catch (cause) {
      throw new NotFoundError(`file ${show(where)} cannot be read`, { cause });
    }
  },
  async image(bytes) {
    const kind = kindOf(bytes);
    if (!kind) {
      throw new FormatError(`an image must be a file of one of these kinds: ${listed(Object.keys(KINDS))}`, {
        hint: "or pass { width, height, data }",
      });
    }
    try {
      return upright(await decode(bytes, kind), orientationOf(bytes));
    } catch (cause) {
      if (cause instanceof OptionError) throw cause;
      throw new FormatError(`a ${kind} file cannot be decoded`, { cause });
    }
  },
};
