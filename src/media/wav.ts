// WAV files: PCM in 8 to 32 bits, and floats.

import { FormatError } from "../core/errors.js";

/** Sound on the host: one channel. */
export interface Sound {
  readonly samples: Float32Array;
  readonly sampling_rate: number;
}

const PCM = 1;
const FLOAT = 3;
const EXTENSIBLE = 0xfffe;

interface Format {
  readonly kind: number;
  readonly channels: number;
  readonly rate: number;
  readonly bits: number;
}

/** Samples of a WAV file, from -1 to 1; several channels are averaged. @throws FormatError */
export function readWav(bytes: Uint8Array): Sound {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const tag = (at: number): string => String.fromCharCode(...bytes.subarray(at, at + 4));
  if (bytes.length < 12 || tag(0) !== "RIFF" || tag(8) !== "WAVE") {
    throw new FormatError("sound must be a WAV file, or samples", { hint: "other formats are converted first" });
  }
  let format: Format | undefined;
  for (let at = 12; at + 8 <= bytes.length; ) {
    const [name, size] = [tag(at), view.getUint32(at + 4, true)];
    const body = at + 8;
    if (name === "fmt " && size >= 16 && body + size <= bytes.length) format = readFormat(view, body, size);
    if (name === "data") {
      if (!format) throw new FormatError("WAV file: the samples come before their format");
      // Writers of streams leave a size that is too large.
      return samplesOf(view, body, Math.min(size, bytes.length - body), format);
    }
    at = body + size + (size % 2);
  }
  throw new FormatError("WAV file: there are no samples in it");
}

function readFormat(view: DataView, at: number, size: number): Format {
  const named = view.getUint16(at, true);
  const kind = named === EXTENSIBLE && size >= 26 ? view.getUint16(at + 24, true) : named;
  const format = {
    kind,
    channels: view.getUint16(at + 2, true),
    rate: view.getUint32(at + 4, true),
    bits: view.getUint16(at + 14, true),
  };
  const known = kind === PCM ? [8, 16, 24, 32] : kind === FLOAT ? [32, 64] : [];
  if (known.includes(format.bits) && format.channels > 0 && format.rate > 0) return format;
  throw new FormatError(
    `WAV file: format ${kind} with ${format.bits} bits and ${format.channels} channels is not supported`,
    { hint: "PCM with 8, 16, 24 or 32 bits, or floats with 32 or 64" },
  );
}

function samplesOf(view: DataView, begin: number, size: number, { kind, channels, rate, bits }: Format): Sound {
  const width = bits / 8;
  const count = Math.floor(size / (width * channels));
  const read = (at: number): number => {
    if (kind === FLOAT) return bits === 32 ? view.getFloat32(at, true) : view.getFloat64(at, true);
    if (bits === 8) return (view.getUint8(at) - 128) / 128;
    if (bits === 16) return view.getInt16(at, true) / 32_768;
    if (bits === 24) return (view.getUint16(at, true) | (view.getInt8(at + 2) << 16)) / 8_388_608;
    return view.getInt32(at, true) / 2_147_483_648;
  };
  const samples = new Float32Array(count);
  for (let t = 0; t < count; t++) {
    let sum = 0;
    for (let c = 0; c < channels; c++) sum += read(begin + (t * channels + c) * width);
    samples[t] = sum / channels;
  }
  return { samples, sampling_rate: rate };
}
