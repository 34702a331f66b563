// How a camera was held (Exif 2.32, tag 0x0112), and images turned as it says. As transformers does for every file; Node's decoders
// give pixels as they are stored, browsers turn them themselves.

import type { RawImage } from "./image.js";

const ORIENTATION = 0x0112;

const ascii = (bytes: Uint8Array, at: number, text: string): boolean =>
  at + text.length <= bytes.length && [...text].every((char, i) => bytes[at + i] === char.charCodeAt(0));

/** The Exif block of a JPEG, PNG or WebP file, from its byte order on; undefined if there is none. */
function exifOf(bytes: Uint8Array): Uint8Array | undefined {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const { length } = bytes;
  if (ascii(bytes, 0, "\xff\xd8")) {
    // Segments, until the image's own data.
    for (let at = 2; at + 4 <= length && bytes[at] === 0xff && bytes[at + 1] !== 0xda; ) {
      const end = at + 2 + view.getUint16(at + 2);
      if (bytes[at + 1] === 0xe1 && ascii(bytes, at + 4, "Exif\0\0")) return bytes.subarray(at + 10, end);
      at = end;
    }
  } else if (ascii(bytes, 0, "\x89PNG")) {
    for (let at = 8; at + 8 <= length; at += 12 + view.getUint32(at)) {
      if (ascii(bytes, at + 4, "eXIf")) return bytes.subarray(at + 8, at + 8 + view.getUint32(at));
    }
  } else if (ascii(bytes, 0, "RIFF") && ascii(bytes, 8, "WEBP")) {
    for (let at = 12; at + 8 <= length; ) {
      const size = view.getUint32(at + 4, true);
      const from = at + 8;
      if (ascii(bytes, at, "EXIF")) return bytes.subarray(from + (ascii(bytes, from, "Exif\0\0") ? 6 : 0), from + size);
      at = from + size + (size % 2);
    }
  }
  return undefined;
}

/** 1 to 8; 1, as it is stored, where a file says nothing that can be read. */
export function orientationOf(bytes: Uint8Array): number {
  const exif = exifOf(bytes);
  if (!exif || exif.length < 10) return 1;
  const little = ascii(exif, 0, "II");
  if (!little && !ascii(exif, 0, "MM")) return 1;
  const view = new DataView(exif.buffer, exif.byteOffset, exif.byteLength);
  const first = view.getUint32(4, little);
  if (first + 2 > exif.length) return 1;
  const count = view.getUint16(first, little);
  for (let i = 0, at = first + 2; i < count && at + 12 <= exif.length; i++, at += 12) {
    if (view.getUint16(at, little) !== ORIENTATION) continue;
    const value = view.getUint16(at + 8, little);
    return value >= 1 && value <= 8 ? value : 1;
  }
  return 1;
}

/** An image of any number of bytes for each pixel, turned and mirrored so that it stands upright. */
export function upright(image: RawImage, orientation: number): RawImage {
  if (orientation === 1) return image;
  const { width, height, data } = image;
  const size = data.length / (width * height);
  const turned = orientation >= 5;
  const [columns, rows] = turned ? [height, width] : [width, height];
  /** Mirrored along its stored width, and along its stored height. */
  const [fromRight, fromBottom] = [[2, 3, 7, 8].includes(orientation), [3, 4, 6, 7].includes(orientation)];
  const out = new Uint8Array(data.length);
  for (let y = 0, to = 0; y < rows; y++) {
    for (let x = 0; x < columns; x++) {
      const [u, v] = turned ? [y, x] : [x, y];
      const from = size * ((fromBottom ? height - 1 - v : v) * width + (fromRight ? width - 1 - u : u));
      for (let c = 0; c < size; c++) out[to++] = data[from + c]!;
    }
  }
  return { ...image, width: columns, height: rows, data: out };
}
