// Resampling of images as PIL does it: a filter whose support grows with the reduction, one axis after the other, with weights
// in fixed point and 8-bit values between the two.

import type { Image } from "./image.js";

/** The filters by PIL's numbers, as preprocessor_config.json has them. */
export const FILTERS = { nearest: 0, lanczos: 1, bilinear: 2, bicubic: 3, box: 4, hamming: 5 } as const;
export type Filter = keyof typeof FILTERS;

const sinc = (x: number): number => (x === 0 ? 1 : Math.sin(Math.PI * x) / (Math.PI * x));

/** Support and weight of each filter at a distance. */
const KERNELS: Readonly<Record<Exclude<Filter, "nearest">, { support: number; at: (x: number) => number }>> = {
  box: { support: 0.5, at: (x) => (x > -0.5 && x <= 0.5 ? 1 : 0) },
  bilinear: { support: 1, at: (x) => Math.max(0, 1 - Math.abs(x)) },
  hamming: {
    support: 1,
    at: (x) => (Math.abs(x) >= 1 ? 0 : sinc(x) * (0.54 + 0.46 * Math.cos(Math.PI * x))),
  },
  bicubic: {
    support: 2,
    at(x) {
      const a = -0.5;
      const d = Math.abs(x);
      if (d < 1) return ((a + 2) * d - (a + 3)) * d * d + 1;
      return d < 2 ? (((d - 5) * d + 8) * d - 4) * a : 0;
    },
  },
  lanczos: { support: 3, at: (x) => (x >= -3 && x < 3 ? sinc(x) * sinc(x / 3) : 0) },
};

/** Bits after the point of a weight. */
const BITS = 22;

/** For each output pixel the first input pixel, and the weights of those from there on. */
function weightsOf(from: number, to: number, filter: Exclude<Filter, "nearest">): [first: number, weights: number[]][] {
  const { support, at } = KERNELS[filter];
  const step = from / to;
  const spread = Math.max(1, step);
  return Array.from({ length: to }, (_, i) => {
    const center = (i + 0.5) * step;
    const first = Math.max(0, Math.trunc(center - support * spread + 0.5));
    const end = Math.min(from, Math.trunc(center + support * spread + 0.5));
    const shares = Array.from({ length: end - first }, (_, k) => at((k + first - center + 0.5) / spread));
    const sum = shares.reduce((total, share) => total + share, 0);
    const weights = shares.map((share) => {
      const weight = (sum === 0 ? share : share / sum) * 2 ** BITS;
      return Math.trunc(weight < 0 ? weight - 0.5 : weight + 0.5);
    });
    return [first, weights];
  });
}

/** Resamples lines of pixels: `count` of them, whose pixels are `step` bytes apart, and the lines `line` bytes. */
function pass(
  source: Uint8Array,
  target: Uint8Array,
  weights: readonly [number, readonly number[]][],
  count: number,
  strides: { from: number; fromLine: number; to: number; toLine: number },
): void {
  const half = 2 ** (BITS - 1);
  for (const [i, [first, shares]] of weights.entries()) {
    for (let n = 0; n < count; n++) {
      for (let c = 0; c < 3; c++) {
        let sum = half;
        let at = n * strides.fromLine + first * strides.from + c;
        for (const share of shares) {
          sum += source[at]! * share;
          at += strides.from;
        }
        const value = Math.floor(sum / 2 ** BITS);
        target[n * strides.toLine + i * strides.to + c] = value < 0 ? 0 : value > 255 ? 255 : value;
      }
    }
  }
}

/** An image in another size. */
export function resize(image: Image, height: number, width: number, filter: Filter): Image {
  if (height === image.height && width === image.width) return image;
  if (filter === "nearest") return nearest(image, height, width);
  let { data } = image;
  if (width !== image.width) {
    const wide = new Uint8Array(image.height * width * 3);
    const strides = { from: 3, fromLine: 3 * image.width, to: 3, toLine: 3 * width };
    pass(data, wide, weightsOf(image.width, width, filter), image.height, strides);
    data = wide;
  }
  if (height !== image.height) {
    const high = new Uint8Array(height * width * 3);
    const strides = { from: 3 * width, fromLine: 3, to: 3 * width, toLine: 3 };
    pass(data, high, weightsOf(image.height, height, filter), width, strides);
    data = high;
  }
  return { width, height, data };
}

function nearest(image: Image, height: number, width: number): Image {
  const data = new Uint8Array(height * width * 3);
  const columns = nearestPlaces(image.width, width);
  nearestPlaces(image.height, height).forEach((row, y) => {
    columns.forEach((column, x) => {
      const from = 3 * (row * image.width + column);
      data.set(image.data.subarray(from, from + 3), 3 * (y * width + x));
    });
  });
  return { width, height, data };
}

/** Where each of `to` pixels comes from: steps are summed up as PIL sums them, so that ties between two pixels end on the same one. */
function nearestPlaces(from: number, to: number): number[] {
  const step = from / to;
  let at = step / 2;
  return Array.from({ length: to }, () => {
    const place = Math.min(from - 1, Math.floor(at));
    at += step;
    return place;
  });
}

/** The middle of an image; black where it is smaller than asked for, as in transformers. */
export function centerCrop(image: Image, height: number, width: number): Image {
  const data = new Uint8Array(height * width * 3);
  const offset = (have: number, want: number): number =>
    have >= want ? Math.floor((have - want) / 2) : -Math.ceil((want - have) / 2);
  const [top, left] = [offset(image.height, height), offset(image.width, width)];
  for (let y = 0; y < height; y++) {
    const row = y + top;
    if (row < 0 || row >= image.height) continue;
    const [begin, end] = [Math.max(0, -left), Math.min(width, image.width - left)];
    const from = 3 * (row * image.width + begin + left);
    data.set(image.data.subarray(from, from + 3 * (end - begin)), 3 * (y * width + begin));
  }
  return { width, height, data };
}
