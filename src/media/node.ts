// Files and decoders in Node: files of the disk or a server; images by sharp, or by pngjs and jpeg-js, whichever is installed.

import { readFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import { FormatError, NotFoundError, OptionError } from "../core/errors.js";
import { show } from "../core/show.js";
import { fetched } from "./fetched.js";
import type { RawImage } from "./image.js";
import type { MediaReader } from "./reader.js";

/** What is used of the packages. */
type Sharp = (bytes: Uint8Array) => { raw(): SharpRaw };
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

const PNG = [0x89, 0x50, 0x4e, 0x47];
const JPEG = [0xff, 0xd8, 0xff];
const begins = (bytes: Uint8Array, with_: readonly number[]): boolean => with_.every((byte, at) => bytes[at] === byte);

async function decode(bytes: Uint8Array, kind: "PNG" | "JPEG"): Promise<RawImage> {
  const sharp = await installed<Sharp>("sharp");
  if (sharp) {
    const { data, info } = await sharp(bytes).raw().toBuffer({ resolveWithObject: true });
    return { data, width: info.width, height: info.height, channels: info.channels };
  }
  const buffer = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (kind === "PNG") {
    const png = await installed<PngJs>("pngjs");
    if (png) {
      const { data, width, height } = png.PNG.sync.read(buffer);
      return { data, width, height, channels: 4 };
    }
  } else {
    const jpeg = await installed<JpegJs>("jpeg-js");
    if (jpeg) {
      const options = { useTArray: true, formatAsRGBA: false, maxResolutionInMP: 500 } as const;
      const { data, width, height } = jpeg.decode(buffer, options);
      return { data, width, height, channels: 3 };
    }
  }
  throw new OptionError(`no decoder for ${kind} files is installed`, {
    hint: `npm install sharp, or npm install ${kind === "PNG" ? "pngjs" : "jpeg-js"}; or pass { width, height, data }`,
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
    const kind = begins(bytes, PNG) ? "PNG" : begins(bytes, JPEG) ? "JPEG" : undefined;
    if (!kind)
      throw new FormatError("an image must be a PNG or JPEG file", { hint: "or pass { width, height, data }" });
    try {
      return await decode(bytes, kind);
    } catch (cause) {
      if (cause instanceof OptionError) throw cause;
      throw new FormatError(`a ${kind} file cannot be decoded`, { cause });
    }
  },
};
