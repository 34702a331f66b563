// Reading safetensors files: the header by range, then tensors by range; never the whole file. The header's rules are in
// safetensors-header.ts and exported here; the writer, which needs a disk, is safetensors-write.ts.

import { FormatError } from "../core/errors.js";
import { foreignKind, HEAD_BYTES } from "../sources/files.js";
import { type Source, withFile } from "../sources/source.js";
import { MAX_HEADER_BYTES, parseSafetensorsHeader, type SafetensorsHeader } from "./safetensors-header.js";

export {
  isSafetensorsDType,
  MAX_HEADER_BYTES,
  MAX_RANK,
  MAX_TENSORS,
  parseSafetensorsHeader,
  SAFETENSORS_DTYPES,
  type SafetensorsDType,
  type SafetensorsHeader,
} from "./safetensors-header.js";

const WHAT = "safetensors file";

/**
 * Reads and checks the header of a safetensors file: 64 bytes, then exactly the header. A length past the cap or the
 * file's end is refused before anything more is read.
 * @throws NotFoundError if there is no such file; FormatError if it is not a whole safetensors file. Files of other
 * kinds (zip, pickle, GGUF, gzip, HTML, numpy, git-lfs pointer) are named in the message.
 */
export async function readSafetensorsHeader(source: Source, file: string): Promise<SafetensorsHeader> {
  return withFile(source, file, WHAT, async (opened) => {
    const { size } = opened;
    const head = await opened.read(0, Math.min(size, HEAD_BYTES));
    if (size < 8) {
      const got = size === 0 ? "an empty file" : (foreignKind(head)?.name ?? `${size} bytes`);
      throw new FormatError(`${file}: expected a ${WHAT} of at least 8 bytes, got ${got}`, {
        details: { file, offset: 0, expected: 8, got: size },
        hint: "the file is cut short; download or copy it again",
      });
    }
    const view = new DataView(head.buffer, head.byteOffset);
    const length = view.getUint32(0, true) + view.getUint32(4, true) * 2 ** 32; // exact below 2^53, large enough above
    const limit = Math.min(MAX_HEADER_BYTES, size - 8);
    if (length > limit) {
      throwForeign(file, head);
      const exact = view.getBigUint64(0, true);
      const cap = limit === MAX_HEADER_BYTES ? "the format's cap" : "the file has no more";
      throw new FormatError(`${file}: expected a header of at most ${limit} bytes (${cap}), got ${exact}`, {
        details: { file, offset: 0, expected: limit, got: String(exact) },
        hint: "the file is cut short or is not safetensors; download or copy it again",
      });
    }
    const header = await opened.read(8, length);
    // A gzip archive can pass for a length; the first byte of the header then reveals it.
    if (header.length > 0 && ![0x7b, 0x20, 0x09, 0x0a, 0x0d].includes(header[0]!)) throwForeign(file, head);
    return parseSafetensorsHeader(header, size, file);
  });
}

function throwForeign(file: string, head: Uint8Array): void {
  const kind = foreignKind(head);
  if (kind === undefined) return;
  throw new FormatError(`${file}: expected a ${WHAT}, got ${kind.name}`, {
    details: { file, offset: 0, expected: WHAT, got: kind.name },
    hint: kind.hint,
  });
}
