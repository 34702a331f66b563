// Names of files for messages, and the recognition of files in place of others. It opens nothing and parses no format.

import { cut, printable } from "../core/show.js";

/** A name or path as error text: quoted, control characters escaped, cut when long. */
export function quote(text: string): string {
  return printable(JSON.stringify(cut(text, 120)));
}

/** The real kind of a file, with the next thing to try. */
export interface Kind {
  readonly name: string;
  readonly hint: string;
}

const AS_BIN = "weights of PyTorch are read as pytorch_model.bin, from the folder that holds config.json";
/** What to do about a file that is damaged; for hints. */
export const AGAIN = "the download went wrong; delete the file and download it again";

const MAGIC: readonly (readonly [string, Kind])[] = [
  ["PK\x03\x04", { name: "a zip archive (torch.save writes these as .bin or .pt)", hint: AS_BIN }],
  ["GGUF", { name: "a GGUF file", hint: "use the original safetensors checkpoint of this model" }],
  ["\x1f\x8b", { name: "a gzip archive", hint: "unpack it first" }],
  ["\x93NUMPY", { name: "a numpy array file", hint: "save the arrays with safetensors.numpy.save_file" }],
  ["\x89HDF", { name: "an HDF5 file (TensorFlow weights)", hint: "use the safetensors checkpoint of this model" }],
  [
    "version https://git-lfs",
    { name: "a git-lfs pointer, not the file itself", hint: "run `git lfs pull` in that folder" },
  ],
];

/** Enough bytes for `foreignKind` to decide. */
export const HEAD_BYTES = 64;

/** True for the first bytes of an HTML or XML page. */
export function isPage(head: Uint8Array): boolean {
  const text = String.fromCharCode(...head.subarray(0, HEAD_BYTES));
  return /^(\xef\xbb\xbf)?\s*<(!doctype|!--|html|head|body|title|meta|script|error|\?xml)/i.test(text);
}

/** Recognises well-known file types by their first bytes; undefined for others. */
export function foreignKind(head: Uint8Array): Kind | undefined {
  const text = String.fromCharCode(...head.subarray(0, HEAD_BYTES));
  for (const [magic, kind] of MAGIC) if (text.startsWith(magic)) return kind;
  // Pickle protocols 2 to 5 begin with PROTO and their number.
  if (text.charCodeAt(0) === 0x80 && text.charCodeAt(1) >= 2 && text.charCodeAt(1) <= 5) {
    return { name: "a Python pickle (an old torch.save file)", hint: AS_BIN };
  }
  if (isPage(head)) return { name: "an HTML or XML page", hint: AGAIN };
  return undefined;
}
