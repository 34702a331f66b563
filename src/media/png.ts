// PNG files for the decoders of Node, so that these give what PIL makes of them: colours alone. What a file says beside its pixels (a
// transparent colour, gamma, profiles) changes no colour in PIL's convert("RGB"); decoders erase pixels or colours because of it.

import { crc32 } from "node:zlib";

const HEADER = 8;
/** Chunks that hold pixels and their colours. */
const KEPT = new Set(["IHDR", "PLTE", "IDAT", "IEND"]);
const GRAY = 0;
const ENTRIES = 256;

/** A file with nothing but pixels. */
export interface PlainPng {
  readonly bytes: Uint8Array;
  /** Two bytes for each sample. */
  readonly deep: boolean;
  /** One sample for each pixel. */
  readonly gray: boolean;
}

/** Colours that a palette does not have are black, as in PIL. */
function wholePalette(chunk: Uint8Array): Uint8Array {
  const whole = new Uint8Array(12 + 3 * ENTRIES);
  const view = new DataView(whole.buffer);
  view.setUint32(0, 3 * ENTRIES);
  whole.set(chunk.subarray(4, -4), 4);
  view.setUint32(8 + 3 * ENTRIES, crc32(whole.subarray(4, -4)));
  return whole;
}

/** The file without what changes no colour; cut short where it breaks off, which decoders report. */
export function plainPng(bytes: Uint8Array): PlainPng {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const parts: Uint8Array[] = [bytes.subarray(0, HEADER)];
  for (let at = HEADER; at + 8 <= bytes.length; ) {
    const end = at + 12 + view.getUint32(at);
    const name = String.fromCharCode(...bytes.subarray(at + 4, at + 8));
    const chunk = bytes.subarray(at, end);
    // A palette that does not fit its own sum is left as it is, for the decoder to refuse.
    const sound = name === "PLTE" && end <= bytes.length && end - at <= 12 + 3 * ENTRIES;
    const right = sound && crc32(chunk.subarray(4, -4)) === view.getUint32(end - 4);
    if (KEPT.has(name)) parts.push(right ? wholePalette(chunk) : chunk);
    at = end;
  }
  return { bytes: Buffer.concat(parts), deep: bytes[24] === 16, gray: bytes[25] === GRAY };
}

/** Samples of two bytes in one, as PIL has them: gray is clipped (mode I;16), of colours the upper byte stays. */
export function lowered(samples: ArrayLike<number>, gray: boolean): Uint8Array {
  const out = new Uint8Array(samples.length);
  for (let i = 0; i < out.length; i++) out[i] = gray ? Math.min(255, samples[i]!) : samples[i]! >> 8;
  return out;
}
