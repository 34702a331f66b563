// Files and decoders in Node: files of the disk or a server; images by sharp, or PNG and JPEG by pngjs and jpeg-js, whichever is installed.

import { readFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import { FormatError, NotFoundError, OptionError } from "../core/errors.js";
import { listed, show } from "../core/show.js";
import { fetched } from "./fetched.js";
import type { RawImage } from "./image.js";
import { coloursOf, fromSamples, isYCbCr } from "./jpeg.js";
import { orientationOf, upright } from "./orientation.js";
import { lowered, plainPng } from "./png.js";
import type { MediaReader } from "./reader.js";

/** What is used of the packages. */
type Sharp = (bytes: Uint8Array, options: { ignoreIcc: true }) => SharpImage;
interface SharpImage {
  metadata(): Promise<{ space?: string }>;
  pipelineColourspace(space: "cmyk"): SharpImage;
  toColourspace(space: "cmyk" | "grey16"): SharpImage;
  raw(options?: { depth: "ushort" }): SharpRaw;
}
interface SharpRaw {
  toBuffer(options: { resolveWithObject: true }): Promise<{
    data: Uint8Array;
    info: { width: number; height: number; channels: number };
  }>;
}
interface PngJs {
  readonly PNG: {
    readonly sync: {
      read(
        bytes: Uint8Array,
        options: { skipRescale: boolean },
      ): { width: number; height: number; data: Uint8Array | Uint16Array };
    };
  };
}
interface JpegJs {
  decode(
    bytes: Uint8Array,
    options: { useTArray: true; formatAsRGBA: false; maxResolutionInMP: number; colorTransform?: boolean },
  ): { width: number; height: number; data: Uint8Array };
}

const RESOLVED = { resolveWithObject: true } as const;

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

async function bySharp(sharp: Sharp, bytes: Uint8Array, kind: Kind): Promise<RawImage> {
  const png = kind === "PNG" ? plainPng(bytes) : undefined;
  // Colours as they are stored, like everywhere else: no profile is applied.
  const image = sharp(png?.bytes ?? bytes, { ignoreIcc: true });
  if (png?.deep && png.gray) {
    const { data, info } = await image.toColourspace("grey16").raw({ depth: "ushort" }).toBuffer(RESOLVED);
    const samples = new Uint16Array(data.buffer, data.byteOffset, data.byteLength / 2);
    return { width: info.width, height: info.height, data: lowered(samples, true) };
  }
  const inks = (await image.metadata()).space === "cmyk";
  const source = inks ? image.pipelineColourspace("cmyk").toColourspace("cmyk") : image;
  const { data, info } = await source.raw().toBuffer(RESOLVED);
  const { width, height, channels } = info;
  return inks ? { data: fromInks(data), width, height, channels: 3 } : { data, width, height, channels };
}

function byPngJs({ PNG }: PngJs, bytes: Uint8Array): RawImage {
  const plain = plainPng(bytes);
  const { data, width, height } = PNG.sync.read(plain.bytes, { skipRescale: plain.deep });
  return { data: data instanceof Uint16Array ? lowered(data, plain.gray) : data, width, height, channels: 4 };
}

function byJpegJs(jpeg: JpegJs, bytes: Uint8Array): RawImage {
  const options = { useTArray: true, formatAsRGBA: false, maxResolutionInMP: 500 } as const;
  const colours = coloursOf(bytes);
  // Gray needs nothing; four inks come as RGB alone.
  if (colours?.components.length !== 3) return { ...jpeg.decode(bytes, options), channels: 3 };
  const transform = colours.adobe === undefined ? undefined : bytes[colours.adobe];
  // The note outweighs the option.
  const untold = new Uint8Array(bytes);
  if (colours.adobe !== undefined) untold[colours.adobe] = 0;
  const { width, height, data } = jpeg.decode(untold, { ...options, colorTransform: false });
  return fromSamples({ width, height, data }, colours.components, isYCbCr(colours, transform));
}

async function decode(bytes: Uint8Array, kind: Kind, small: boolean): Promise<RawImage> {
  const sharp = small ? undefined : await installed<Sharp>("sharp");
  if (sharp) return bySharp(sharp, bytes, kind);
  if (kind === "PNG") {
    const png = await installed<PngJs>("pngjs");
    if (png) return byPngJs(png, bytes);
  } else if (kind === "JPEG") {
    const jpeg = await installed<JpegJs>("jpeg-js");
    if (jpeg) return byJpegJs(jpeg, bytes);
  }
  throw new OptionError(`no decoder for ${kind} files is installed`, {
    hint: `npm install sharp${OWN[kind] ? `, or npm install ${OWN[kind]}` : ""}; or pass { width, height, data }`,
  });
}

/** Node's files and decoders. @param small whether only the small decoders are used, even where sharp is installed */
export function nodeMedia(small: boolean): MediaReader {
  return {
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
        return upright(await decode(bytes, kind, small), orientationOf(bytes));
      } catch (cause) {
        if (cause instanceof OptionError) throw cause;
        throw new FormatError(`a ${kind} file cannot be decoded`, { cause });
      }
    },
  };
}

export const NODE_MEDIA: MediaReader = nodeMedia(false);
