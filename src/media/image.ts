// Images on the host: 8-bit RGB, and what callers give for one.

import { OctavoError, ShapeError } from "../core/errors.js";
import { shapeText, show } from "../core/show.js";

/** An image with three bytes for each pixel, row by row. */
export interface Image {
  readonly width: number;
  readonly height: number;
  readonly data: Uint8Array;
}

/** An image as a decoder or a canvas gives it: gray, gray and alpha, RGB or RGBA. */
export interface RawImage {
  readonly width: number;
  readonly height: number;
  readonly data: Uint8Array | Uint8ClampedArray;
  /** Bytes of a pixel, 1 to 4; by default what `data` holds. */
  readonly channels?: number;
}

/** Sides of an image at most. */
const MOST = 65_536;

/**
 * An image in RGB: gray is repeated, alpha is dropped, as PIL's convert("RGB") does.
 * @throws ShapeError for what is no image
 */
export function toRGB(value: unknown): Image {
  try {
    const { width, height, data, channels: given } = value as RawImage;
    if ([width, height].every((side) => Number.isInteger(side) && side > 0 && side <= MOST) && isBytes(data)) {
      const channels = given ?? data.length / (width * height);
      if (![1, 2, 3, 4].includes(channels) || data.length !== width * height * channels) {
        throw new ShapeError(`an image of ${shapeText([height, width])} has ${data.length} bytes`, {
          hint: "1 to 4 bytes for each pixel, row by row",
        });
      }
      if (channels === 3) return { width, height, data: new Uint8Array(data) };
      return { width, height, data: recoloured(data, width * height, channels) };
    }
  } catch (cause) {
    if (cause instanceof OctavoError) throw cause;
    throw new ShapeError("an image cannot be read", { cause });
  }
  throw new ShapeError(`an image must be { width, height, data } or a file, got ${show(value)}`);
}

function isBytes(value: unknown): value is Uint8Array | Uint8ClampedArray {
  return value instanceof Uint8Array || value instanceof Uint8ClampedArray;
}

function recoloured(data: Uint8Array | Uint8ClampedArray, pixels: number, channels: number): Uint8Array {
  const rgb = new Uint8Array(3 * pixels);
  const colours = channels > 2 ? [0, 1, 2] : [0, 0, 0];
  for (let p = 0; p < pixels; p++) for (let c = 0; c < 3; c++) rgb[3 * p + c] = data[p * channels + colours[c]!]!;
  return rgb;
}
