// WAV files: PCM in 8 to 32 bits, floats, and the logarithmic bytes of telephones (ITU-T G.711).

import { FormatError } from "../core/errors.js";

/** Sound on the host: one channel. */
export interface Sound {
  readonly samples: Float32Array;
  readonly sampling_rate: number;
}

const PCM = 1;
const FLOAT = 3;
const A_LAW = 6;
const MU_LAW = 7;
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
  // RF64 is the form for more than 4 GB: sizes of 2^32 - 1 stand in a part of their own.
  if (bytes.length < 12 || (tag(0) !== "RIFF" && tag(0) !== "RF64") || tag(8) !== "WAVE") {
    throw new FormatError("sound must be a WAV file, or samples", { hint: "other formats are converted first" });
  }
  let format: Format | undefined;
  let long: number | undefined;
  for (let at = 12; at + 8 <= bytes.length; ) {
    const [name, size] = [tag(at), view.getUint32(at + 4, true)];
    const body = at + 8;
    if (name === "fmt " && size >= 16 && body + size <= bytes.length) format = readFormat(view, body, size);
    if (name === "ds64" && size >= 16 && body + size <= bytes.length) long = Number(view.getBigUint64(body + 8, true));
    if (name === "data") {
      if (!format) throw new FormatError("WAV file: the samples come before their format");
      // Writers of streams leave a size that is too large.
      const told = size === 0xffffffff ? (long ?? size) : size;
      return samplesOf(view, body, Math.min(told, bytes.length - body), format);
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
  const { bits } = format;
  // Samples of 12 or 20 bits stand at the upper end of whole bytes.
  const known = kind === PCM ? bits >= 8 && bits <= 32 : kind === FLOAT ? bits === 32 || bits === 64 : bits === 8;
  const kinds = [PCM, FLOAT, A_LAW, MU_LAW];
  if (kinds.includes(kind) && known && format.channels > 0 && format.rate > 0) return format;
  throw new FormatError(`WAV file: format ${kind} with ${bits} bits and ${format.channels} channels is not supported`, {
    hint: "PCM with 8 to 32 bits, floats with 32 or 64, A-law or mu-law",
  });
}

/** A byte of A-law: sign, exponent and four bits of the mantissa, every other bit turned. */
function fromALaw(byte: number): number {
  const code = byte ^ 0x55;
  const [exponent, mantissa] = [(code >> 4) & 7, code & 15];
  const size = exponent === 0 ? mantissa * 16 + 8 : (mantissa * 16 + 264) * 2 ** (exponent - 1);
  return (code & 0x80 ? size : -size) / 32_768;
}

/** A byte of mu-law: the same with all bits turned, over a bias. */
function fromMuLaw(byte: number): number {
  const code = byte ^ 0xff;
  const size = ((code & 15) * 8 + 132) * 2 ** ((code >> 4) & 7) - 132;
  return (code & 0x80 ? -size : size) / 32_768;
}

function samplesOf(view: DataView, begin: number, size: number, { kind, channels, rate, bits }: Format): Sound {
  const width = Math.ceil(bits / 8);
  const count = Math.floor(size / (width * channels));
  const read = (at: number): number => {
    if (kind === FLOAT) return bits === 32 ? view.getFloat32(at, true) : view.getFloat64(at, true);
    if (kind === A_LAW) return fromALaw(view.getUint8(at));
    if (kind === MU_LAW) return fromMuLaw(view.getUint8(at));
    if (width === 1) return (view.getUint8(at) - 128) / 128;
    if (width === 2) return view.getInt16(at, true) / 32_768;
    if (width === 3) return (view.getUint16(at, true) | (view.getInt8(at + 2) << 16)) / 8_388_608;
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
