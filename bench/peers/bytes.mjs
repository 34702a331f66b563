// Random weights as bytes: for every storage format a tile of valid blocks, and a writer that fills files of any size
// with it. No kernel's time depends on the values, so a tile repeats; it is a prime number of blocks long, so that rows
// differ.

import { closeSync, existsSync, fstatSync, mkdirSync, openSync, renameSync, writeSync } from "node:fs";
import { dirname } from "node:path";
import { DEVIATION } from "./shapes.mjs";

let state = 0x9e3779b9;
/** A uniform 32-bit number (xorshift, fixed seed). */
function random() {
  state ^= state << 13;
  state ^= state >>> 17;
  state ^= state << 5;
  return state >>> 0;
}

const scratch = new DataView(new ArrayBuffer(4));
/** Bits of the bf16 nearest to `value`. @param {number} value */
export function bf16(value) {
  scratch.setFloat32(0, value);
  const bits = scratch.getUint32(0);
  return ((bits + 0x7fff + ((bits >>> 16) & 1)) >>> 16) & 0xffff;
}

/** Bits of an f16 near `value` > 0 (truncated; small ones are subnormal). @param {number} value */
export function f16(value) {
  if (value < 2 ** -14) return Math.floor(value * 2 ** 24);
  scratch.setFloat32(0, value);
  const bits = scratch.getUint32(0);
  return ((((bits >>> 23) & 255) - 112) << 10) | ((bits >>> 13) & 1023);
}

/** Deviation of whole numbers that are uniform in lo..hi. @param {number} lo @param {number} hi */
const spread = (lo, hi) => Math.sqrt(((hi - lo + 1) ** 2 - 1) / 12);

/** @param {Buffer} b @param {number} at @param {number} n */
const fill = (b, at, n) => {
  for (let i = 0; i < n; i++) b[at + i] = random() & 255;
};

/**
 * Formats: elements and bytes per block, and how a block is written.
 * @type {Record<string, { elements: number, bytes: number, put: (b: Buffer, at: number) => void }>}
 */
export const FORMATS = {
  F32: { elements: 1, bytes: 4, put: (b, at) => void b.writeFloatLE(normal(), at) },
  BF16: { elements: 1, bytes: 2, put: (b, at) => void b.writeUInt16LE(bf16(normal()), at) },
  // Symmetric int8 codes; the scale is in the graph.
  I8: { elements: 1, bytes: 1, put: (b, at) => void b.writeInt8((random() % 255) - 127, at) },
  // Bare nibbles, with scales elsewhere.
  U4: { elements: 2, bytes: 1, put: (b, at) => fill(b, at, 1) },
  // Scales of symmetric 4-bit blocks, never zero.
  S4: { elements: 1, bytes: 4, put: (b, at) => void b.writeFloatLE(DEVIATION / spread(-8, 7), at) },
  Q8_0: {
    elements: 32,
    bytes: 34,
    put(b, at) {
      b.writeUInt16LE(f16(DEVIATION / spread(-127, 127)), at);
      for (let i = 0; i < 32; i++) b.writeInt8((random() % 255) - 127, at + 2 + i);
    },
  },
  Q4_0: {
    elements: 32,
    bytes: 18,
    put(b, at) {
      b.writeUInt16LE(f16(DEVIATION / spread(-8, 7)), at);
      fill(b, at + 2, 16);
    },
  },
  // 256 elements: d, dmin, eight 6-bit scales and eight 6-bit minima in 12 bytes, nibbles; x = d·sc·q - dmin·m.
  // With m = sc and dmin = 7.5·d the mean is zero.
  Q4_K: {
    elements: 256,
    bytes: 144,
    put(b, at) {
      const d = DEVIATION / (48 * spread(0, 15));
      b.writeUInt16LE(f16(d), at);
      b.writeUInt16LE(f16(7.5 * d), at + 2);
      for (let j = 0; j < 4; j++) {
        const low = 32 + (random() & 31);
        const high = 32 + (random() & 31);
        b[at + 4 + j] = low | ((high >> 4) << 6);
        b[at + 8 + j] = low | ((high >> 4) << 6);
        b[at + 12 + j] = (high & 15) | ((high & 15) << 4);
      }
      fill(b, at + 16, 128);
    },
  },
  // 256 elements: low nibbles, high pairs of bits, sixteen int8 scales, d; x = d·sc·(q - 32).
  Q6_K: {
    elements: 256,
    bytes: 210,
    put(b, at) {
      fill(b, at, 192);
      for (let j = 0; j < 16; j++) b.writeInt8(48 + (random() & 31), at + 192 + j);
      b.writeUInt16LE(f16(DEVIATION / (64 * spread(-32, 31))), at + 208);
    },
  },
};

function normal() {
  const radius = Math.sqrt(-2 * Math.log((random() + 0.5) / 2 ** 32));
  return DEVIATION * radius * Math.cos((2 * Math.PI * random()) / 2 ** 32);
}

/** Blocks per tile for blocks of that many bytes: about a megabyte, and prime. */
const PRIMES = [1048573, 524287, 262139, 65537, 32749, 16381, 8191, 4999];
/** @type {Map<string, Buffer>} */
const tiles = new Map();
/** @param {string} name */
function tileOf(name) {
  let tile = tiles.get(name);
  if (tile) return tile;
  const { bytes, put } = FORMATS[name];
  const blocks = PRIMES.find((n) => n * bytes <= 1 << 20) ?? 4999;
  tile = Buffer.alloc(blocks * bytes);
  for (let i = 0; i < blocks; i++) put(tile, i * bytes);
  tiles.set(name, tile);
  return tile;
}

/** Bytes of `count` elements of a format. @param {string} format @param {number} count */
export function bytesOf(format, count) {
  const { elements, bytes } = FORMATS[format];
  if (count % elements !== 0) throw new RangeError(`${count} elements are not whole blocks of ${format}`);
  return (count / elements) * bytes;
}

/** A file under construction; it gets its name when it is complete, so a cached file is always whole. */
export class Writer {
  #handle;
  #file;
  /** Bytes written. */
  at = 0;
  /** Where in its tile the next tensor of a format begins. @type {Map<string, number>} */
  #phases = new Map();

  /** @param {string} file */
  constructor(file) {
    mkdirSync(dirname(file), { recursive: true });
    this.#file = file;
    this.#handle = openSync(`${file}.partial`, "w");
  }

  /** @param {Uint8Array} bytes */
  put(bytes) {
    for (let done = 0; done < bytes.length; ) done += writeSync(this.#handle, bytes, done);
    this.at += bytes.length;
  }

  /** Zeros up to a multiple of `alignment`. @param {number} alignment */
  align(alignment) {
    const rest = this.at % alignment;
    if (rest) this.put(Buffer.alloc(alignment - rest));
  }

  /**
   * `count` random elements. Each tensor goes on in the tile where the last one ended: equal tensors would let a peer keep
   * one for all layers. @param {string} format @param {number} count
   */
  random(format, count) {
    const tile = tileOf(format);
    let from = this.#phases.get(format) ?? 0;
    for (let left = bytesOf(format, count); left > 0; ) {
      const part = tile.subarray(from, Math.min(tile.length, from + left));
      this.put(part);
      left -= part.length;
      from = (from + part.length) % tile.length;
    }
    this.#phases.set(format, from);
  }

  finish() {
    if (fstatSync(this.#handle).size !== this.at) throw new Error(`${this.#file}: not all bytes were written`);
    closeSync(this.#handle);
    renameSync(`${this.#file}.partial`, this.#file);
  }
}

/** Runs `write` unless the file is there. @param {string} file @param {(writer: Writer) => void} write */
export function cached(file, write) {
  if (existsSync(file)) return file;
  const writer = new Writer(file);
  write(writer);
  writer.finish();
  return file;
}

/** `count` f32 ones. @param {number} count */
export const ones = (count) => Buffer.from(new Float32Array(count).fill(1).buffer);
