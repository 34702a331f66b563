// JPEG as libjpeg gives it from samples that jpeg-js decodes: jpeg-js repeats the samples of reduced colours, where libjpeg weighs
// neighbours 3 to 1 ("fancy upsampling", its default and PIL's), and it takes other files for YCbCr than libjpeg does.

import type { RawImage } from "./image.js";

interface Component {
  readonly id: number;
  /** Samples of it in a unit, across and down. */
  readonly h: number;
  readonly v: number;
}

/** What a file says of its colours. */
export interface JpegColours {
  readonly components: readonly Component[];
  readonly jfif: boolean;
  /** Where Adobe's note says how colours were turned; undefined without one. */
  readonly adobe: number | undefined;
}

/** Reads the segments before the pixels; undefined where they break off. */
export function coloursOf(bytes: Uint8Array): JpegColours | undefined {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  let jfif = false;
  let adobe: number | undefined;
  for (let at = 2; at + 4 <= bytes.length && bytes[at] === 0xff; at += 2 + view.getUint16(at + 2)) {
    const marker = bytes[at + 1]!;
    const start = String.fromCharCode(...bytes.subarray(at + 4, at + 9));
    if (marker === 0xe0 && start === "JFIF\0") jfif = true;
    if (marker === 0xee && start === "Adobe" && at + 15 < bytes.length) adobe = at + 15;
    // A frame: SOF0 to SOF2 are what decoders know.
    if (marker < 0xc0 || marker > 0xc2 || at + 10 > bytes.length) continue;
    const count = bytes[at + 9]!;
    if (at + 10 + 3 * count > bytes.length) return undefined;
    const components = Array.from({ length: count }, (_, i) => {
      const sampling = bytes[at + 11 + 3 * i]!;
      return { id: bytes[at + 10 + 3 * i]!, h: sampling >> 4, v: sampling & 15 };
    });
    return { components, jfif, adobe };
  }
  return undefined;
}

/** True if three components are YCbCr to libjpeg. */
export function isYCbCr({ components, jfif }: JpegColours, transform: number | undefined): boolean {
  if (jfif) return true;
  if (transform !== undefined) return transform !== 0;
  return String.fromCharCode(...components.map(({ id }) => id)) !== "RGB";
}

/** One plane of samples. */
interface Plane {
  readonly width: number;
  readonly height: number;
  readonly data: Uint8Array;
}

/** Twice as many samples in each row of sums, whose weight is `weight`: the nearer sample counts three times. */
function widened(sums: Int32Array, into: Uint8Array, at: number, shift: number, before: number, behind: number): void {
  const last = sums.length - 1;
  for (let x = 0; x <= last; x++) {
    const own = sums[x]!;
    into[at + 2 * x] = x === 0 ? (4 * own + before) >> shift : (3 * own + sums[x - 1]! + before) >> shift;
    into[at + 2 * x + 1] = x === last ? (4 * own + behind) >> shift : (3 * own + sums[x + 1]! + behind) >> shift;
  }
}

/** A plane with `across` times `down` samples in place of each, in the rounding of libjpeg. */
function enlarged({ width, height, data }: Plane, across: number, down: number): Plane {
  const wide = width * across;
  const out = new Uint8Array(wide * height * down);
  // What libjpeg weighs: rows of more than two samples, to twice the width; and single columns to twice the height.
  const smooth = (across === 2 && down <= 2 && width > 2) || (across === 1 && down === 2);
  const sums = new Int32Array(width);
  for (let y = 0; y < height * down; y++) {
    const row = Math.floor(y / down);
    // The row that a new one also stands near: above for the first of two, below for the second; the edge's own beyond it.
    const near = down === 2 ? Math.min(height - 1, Math.max(0, row + (y % 2 === 0 ? -1 : 1))) : row;
    if (!smooth) {
      for (let x = 0; x < wide; x++) out[y * wide + x] = data[row * width + Math.floor(x / across)]!;
      continue;
    }
    for (let x = 0; x < width; x++) {
      const own = data[row * width + x]!;
      sums[x] = down === 2 ? 3 * own + data[near * width + x]! : own;
    }
    if (across === 1) for (let x = 0; x < width; x++) out[y * wide + x] = (sums[x]! + (y % 2 === 0 ? 1 : 2)) >> 2;
    else if (down === 2) widened(sums, out, y * wide, 4, 8, 7);
    else widened(sums, out, y * wide, 2, 1, 2);
  }
  return { width: wide, height: height * down, data: out };
}

const clipped = (value: number): number => (value < 0 ? 0 : value > 255 ? 255 : value);
/** A factor with 16 bits after the point. */
const fixed = (factor: number): number => Math.floor(factor * 65_536 + 0.5);
const [RED, BLUE, GREEN_BLUE, GREEN_RED] = [fixed(1.402), fixed(1.772), fixed(0.34414), fixed(0.71414)];
const HALF = 32_768;

/**
 * RGB of samples as they are stored: three in each pixel, those of reduced components repeated, as jpeg-js gives them untransformed.
 * @param ycc whether they are YCbCr
 */
export function fromSamples(stored: RawImage, components: readonly Component[], ycc: boolean): RawImage {
  const { width, height, data } = stored;
  const [most, highest] = [Math.max(...components.map(({ h }) => h)), Math.max(...components.map(({ v }) => v))];
  const planes = components.map(({ h, v }, c) => {
    const [across, down] = [most / h, highest / v];
    // What libjpeg does not know either stays as jpeg-js has it.
    const whole = Number.isInteger(across) && Number.isInteger(down);
    const [stepX, stepY] = whole ? [across, down] : [1, 1];
    const plane = { width: Math.ceil(width / stepX), height: Math.ceil(height / stepY) };
    const samples = new Uint8Array(plane.width * plane.height);
    for (let y = 0; y < plane.height; y++) {
      for (let x = 0; x < plane.width; x++) {
        samples[y * plane.width + x] = data[3 * (y * stepY * width + x * stepX) + c]!;
      }
    }
    return enlarged({ ...plane, data: samples }, stepX, stepY);
  });
  const out = new Uint8Array(data.length);
  const [one, two, three] = planes as [Plane, Plane, Plane];
  for (let y = 0, to = 0; y < height; y++) {
    for (let x = 0; x < width; x++, to += 3) {
      const first = one.data[y * one.width + x]!;
      const second = two.data[y * two.width + x]!;
      const third = three.data[y * three.width + x]!;
      if (ycc) {
        const blue = second - 128;
        const red = third - 128;
        out[to] = clipped(first + ((RED * red + HALF) >> 16));
        out[to + 1] = clipped(first + ((-GREEN_BLUE * blue - GREEN_RED * red + HALF) >> 16));
        out[to + 2] = clipped(first + ((BLUE * blue + HALF) >> 16));
      } else {
        out[to] = first;
        out[to + 1] = second;
        out[to + 2] = third;
      }
    }
  }
  return { width, height, data: out, channels: 3 };
}
