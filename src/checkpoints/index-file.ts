// model.safetensors.index.json and pytorch_model.bin.index.json: which tensor lies in which shard. Pure: it checks names as text and opens nothing.

import { FormatError } from "../core/errors.js";
import { quote } from "../sources/files.js";
import { isJsonObject, type JsonValue, jsonKind, parseJsonObject, scannerOf } from "../sources/json.js";
import { MAX_TENSORS } from "./safetensors-header.js";

export const INDEX_WHAT = "checkpoint index";

export interface ShardIndex {
  /** Shard file name → the tensors that it must hold. */
  readonly shards: ReadonlyMap<string, readonly string[]>;
  /** All tensor names. */
  readonly names: ReadonlySet<string>;
  /** metadata.total_size, if given: a count of bytes that some writers get wrong. */
  readonly totalSize: number | undefined;
}

function refuse(file: string, key: string, expected: string, got: string): never {
  throw new FormatError(`${file}: expected ${expected} for ${quote(key)}, got ${got}`, {
    details: { file, key, expected, got },
    hint: "an index made by save_pretrained names shards beside it; get the checkpoint from its original source",
  });
}

/** Ends of the names of weight files. */
export type WeightsEnd = ".safetensors" | ".bin";

/**
 * Why a shard name from an index must not be joined to a folder; `undefined` if it is safe. All systems' rules apply
 * everywhere: a checkpoint rejected on Windows is rejected on all systems.
 */
export function badShardName(name: string, end: WeightsEnd): string | undefined {
  if (name === "") return "an empty name";
  if (name.length > 1024) return `a name of ${name.length} characters`;
  // biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what is looked for
  if (/[\u0000-\u001f\u007f]/.test(name)) return "a name with a control character";
  if (name.includes("://")) return "a URL";
  if (name.includes("\\")) return "a name with a backslash";
  if (name.includes(":")) return "a name with a colon (a drive or a stream)";
  if (name.startsWith("/")) return "an absolute path";
  for (const part of name.split("/")) {
    if (part === "" || part === "." || part === "..") return `a path with the part ${quote(part)}`;
    if (/[. ]$/.test(part)) return "a name that ends in a dot or a space";
    if (new TextEncoder().encode(part).length > 255) return "a name of more than 255 bytes";
  }
  if (!name.endsWith(end)) return `a file that is not ${end}`;
  return undefined;
}

const COLON = 0x3a;
const [QUOTE, OPEN, CLOSE] = [0x22, 0x7b, 0x7d];

/**
 * Reads the text of an index file: `weight_map` from tensor names to shard names (each a path below the folder that ends in `end`) and
 * `metadata.total_size`. Names go from the text where they belong: an object of a million of them would take most of the time.
 * @throws FormatError with `details.file`, and `details.offset` of what is no such JSON, or `details.key` of a value that is not allowed
 */
export function parseIndex(bytes: Uint8Array, file: string, end: WeightsEnd): ShardIndex {
  const scanner = scannerOf(bytes, file, INDEX_WHAT, OPEN);
  if (scanner.peek() !== OPEN) parseJsonObject(bytes, file, INDEX_WHAT); // which says what it is instead
  const seen = new Set<string>();
  const key = (keys: Set<string>): string => {
    scanner.peek();
    const start = scanner.at;
    const { size } = keys;
    const name = scanner.string("a key in quotes");
    if (keys.add(name).size === size) scanner.fail("each key once", start, `${quote(name)} again`);
    scanner.expect(COLON, '":"');
    return name;
  };
  const names = new Set<string>();
  const shards = new Map<string, string[]>();
  // What is wrong with the names is said when the whole text is known to be JSON.
  let wrong: (() => never) | undefined;
  let map: JsonValue | undefined;
  let metadata: JsonValue | undefined;
  let isMap = false;
  const readMap = (): void => {
    isMap = true;
    scanner.expect(OPEN, "{");
    if (scanner.take(CLOSE)) return;
    let [shard, list]: [string | undefined, string[]] = [undefined, []];
    do {
      const tensor = key(names);
      if (scanner.peek() !== QUOTE) {
        const value = scanner.value(2);
        wrong ??= () => refuse(file, tensor, "a file name", jsonKind(value));
        continue;
      }
      const named = scanner.again(shard);
      if (named !== shard) {
        shard = named;
        list = shards.get(shard) ?? [];
        const problem = shards.has(shard) ? undefined : badShardName(shard, end);
        if (problem) {
          const expected = `the name of a ${end} file below the folder`;
          wrong ??= () => refuse(file, tensor, expected, `${problem}: ${quote(named)}`);
        }
        shards.set(shard, list);
      }
      list.push(tensor);
    } while (scanner.more(CLOSE));
  };
  scanner.expect(OPEN, "{");
  if (!scanner.take(CLOSE)) {
    do {
      const name = key(seen);
      if (name === "weight_map" && scanner.peek() === OPEN) readMap();
      else {
        const value = scanner.value(1);
        if (name === "weight_map") map = value;
        if (name === "metadata") metadata = value;
      }
    } while (scanner.more(CLOSE));
  }
  scanner.end();
  if (!isMap) refuse(file, "weight_map", "an object from tensor to file", jsonKind(map));
  wrong?.();
  if (names.size > MAX_TENSORS) refuse(file, "weight_map", `at most ${MAX_TENSORS} tensors`, String(names.size));
  if (names.size === 0) refuse(file, "weight_map", "at least one tensor", "none");
  return { shards, names, totalSize: totalSize(metadata, file) };
}

function totalSize(metadata: JsonValue | undefined, file: string): number | undefined {
  if (metadata === undefined || metadata === null) return undefined;
  if (!isJsonObject(metadata)) refuse(file, "metadata", "an object", jsonKind(metadata));
  const size = metadata.total_size;
  if (size === undefined || size === null) return undefined;
  // Fractions occur in real files: transformers once counted a bool as an eighth of a byte.
  if (typeof size !== "number") refuse(file, "metadata.total_size", "a number of bytes", jsonKind(size));
  if (size < 0) refuse(file, "metadata.total_size", "a number of bytes", String(size));
  return size;
}
