// The bytes that each token adds to a text, by the vocabulary's decoder: what a grammar's automaton reads. Not here: the automaton
// (generate/grammar/), and texts of whole lists of ids (decode.ts).

import { OctavoError } from "../core/errors.js";
import type { Components } from "./components.js";
import { fallbackByte, partOf, stripOf, wordPieceOf } from "./decode.js";
import type { JsonObject } from "./json-file.js";
import { byteLevelBytes } from "./pre-tokenize.js";
import { longest } from "./text.js";

export interface TokenBytes {
  /** By id: the bytes of a token in the middle of a text; undefined for what is no text, such as special tokens. */
  readonly bytes: readonly (Uint8Array | undefined)[];
  /**
   * A space with which a text's first token begins: part of the text, left out of it, or left out and always there (tokens are
   * words, and a space precedes each).
   */
  readonly begin: "kept" | "dropped" | "needed";
  /** Ids that are something else as the first token of a text. */
  readonly notFirst: ReadonlySet<number>;
}

type Change = (token: string) => string | Uint8Array;

const UTF8 = new TextEncoder();

function refuse(file: string, type: unknown): never {
  const what = type === undefined ? "its decoder" : `its decoder's step ${String(type)}`;
  throw new OctavoError(
    "ERR_UNSUPPORTED",
    `${file}: what a token adds to a text depends on the tokens around it (${what})`,
    {
      details: { file, key: "decoder" },
      hint: "structured output needs a tokenizer whose tokens each have a text of their own",
    },
  );
}

/**
 * @param tokens all tokens, by id
 * @param without ids that are no text
 * @param suffix a mark at the end of words, as CLIP's has
 * @throws OctavoError for a decoder whose tokens have no bytes of their own
 */
export function tokenBytes(
  file: string,
  components: Components | null,
  tokens: ReadonlyMap<number, string>,
  without: ReadonlySet<number>,
  suffix: string | undefined,
): TokenBytes {
  if (suffix !== undefined) refuse(file, undefined);
  let begin: TokenBytes["begin"] = "kept";
  let mark: string | undefined; // what the first token loses wherever it stands
  let joined = false;
  const changes: Change[] = [];
  const text = (change: (token: string) => string): void => void changes.push(change);
  if (components === null) {
    begin = "needed";
    text((token) => ` ${token}`);
  }
  for (const config of components ?? []) {
    switch (config.type) {
      case "ByteFallback":
        if (joined) refuse(file, config.type);
        changes.push((token) => {
          const byte = fallbackByte(token);
          return byte === undefined ? token : Uint8Array.of(byte);
        });
        break;
      case "ByteLevel":
        if (joined) refuse(file, config.type);
        joined = true;
        changes.push((token) => byteLevelBytes([token]));
        break;
      case "Fuse":
        joined = true;
        break;
      case "Metaspace": {
        const { prepend_scheme, add_prefix_space } = config;
        const keep = prepend_scheme === "never" || (typeof prepend_scheme !== "string" && add_prefix_space === false);
        const own = String(config.replacement ?? "\u2581");
        text((token) => token.replaceAll(own, joined && !keep ? "" : " "));
        if (keep || joined) break;
        begin = "dropped";
        mark = own;
        break;
      }
      case "Replace": {
        const { pattern, run } = partOf(file, config);
        if (joined && !(typeof pattern === "string" && [...pattern].length === 1)) refuse(file, config.type);
        text((token) => run(token, longest(token.length)));
        break;
      }
      case "Strip":
        if (!joined) text(stripOf(config));
        else if (stripsOneSpace(config)) begin = "dropped";
        else refuse(file, config.type);
        break;
      case "WordPiece":
        begin = "needed";
        text((token) => wordPieceOf(config)(token, 1));
        break;
      default:
        refuse(file, config.type);
    }
  }
  const bytes: (Uint8Array | undefined)[] = [];
  const notFirst = new Set<number>();
  for (const [id, token] of tokens) {
    if (without.has(id)) continue;
    let now: string | Uint8Array = token;
    for (const change of changes) if (typeof now === "string") now = change(now);
    bytes[id] = typeof now === "string" ? UTF8.encode(now) : now;
    if (mark !== undefined && token.lastIndexOf(mark) > 0) notFirst.add(id);
  }
  return { bytes, begin, notFirst };
}

/** True if a step takes one space from a text's begin, and nothing else. */
function stripsOneSpace(config: JsonObject): boolean {
  return String(config.content ?? " ") === " " && Number(config.start ?? 0) === 1 && Number(config.stop ?? 0) === 0;
}
