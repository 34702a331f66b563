// Checks the components of a tokenizer.json (normalizer, pre-tokenizer, post-processor, decoder): their types, and the type of
// every value that the parts read. So whoever builds a part gets values of the right kind. Not here: what the parts do.

import { show } from "../core/show.js";
import { fail, isObject, type Json, type JsonObject, kind } from "./json-file.js";
import { checkRegex } from "./pattern.js";

/** Levels of sequences in each other, and components of one section; published files have 2 and some 10. */
const MAX_LEVELS = 16;
const MAX_COMPONENTS = 64;
/** Characters of a text in a component, such as a prefix or a replacement. Published ones have a few. */
const MAX_PART_TEXT = 4096;
/** Largest token id; real vocabularies stay under 2^19. */
export const MAX_ID = 1 << 24;

export function isId(value: unknown): value is number {
  return typeof value === "number" && Number.isInteger(value) && value >= 0 && value <= MAX_ID;
}

/** A kind of value: what a message calls it, and its check. Checks may explain more by failing themselves. */
interface Kind {
  readonly wanted: string;
  readonly check: (value: Json, file: string, key: string) => boolean;
}

const flag: Kind = { wanted: "true or false", check: (value) => typeof value === "boolean" };
const text: Kind = {
  wanted: "text",
  check: (value, file, key) => {
    if (typeof value !== "string") return false;
    if (value.length <= MAX_PART_TEXT) return true;
    return fail(file, key, `text of ${value.length} characters, at most ${MAX_PART_TEXT} are taken`);
  },
};
const character: Kind = {
  wanted: "one character",
  check: (value) => typeof value === "string" && value.length <= 2 && [...value].length === 1,
};
const count: Kind = { wanted: "a whole number", check: (value) => Number.isSafeInteger(value) && Number(value) >= 0 };
const positive: Kind = {
  wanted: "a whole number above 0",
  check: (value) => Number.isSafeInteger(value) && Number(value) > 0,
};
const blob: Kind = { wanted: "text", check: (value) => typeof value === "string" };
const list: Kind = { wanted: "an array", check: (value) => Array.isArray(value) };
const table: Kind = { wanted: "an object", check: isObject };
const tokenAndId: Kind = {
  wanted: "[token, id]",
  check: (value) => Array.isArray(value) && value.length === 2 && typeof value[0] === "string" && isId(value[1]),
};
const pattern: Kind = {
  wanted: '{"String": ...} or {"Regex": ...}',
  check: (value, file, key) => {
    if (!isObject(value)) return false;
    if (typeof value.Regex === "string") {
      checkRegex(file, key, value.Regex);
      return true;
    }
    return value.Regex === undefined && text.check(value.String ?? null, file, `${key}.String`);
  },
};
function oneOf(...words: string[]): Kind {
  const wanted = `one of ${words.map((word) => JSON.stringify(word)).join(", ")}`;
  return { wanted, check: (value) => typeof value === "string" && words.includes(value) };
}
/** The others may be absent or null. */
function needed(of: Kind): Kind & { readonly needed: true } {
  return { ...of, needed: true };
}

const behavior = oneOf("Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous");
const scheme = oneOf("first", "never", "always");
const replace = { pattern: needed(pattern), content: text };
const byteLevel = { add_prefix_space: flag, trim_offsets: flag, use_regex: flag };
const metaspace = {
  replacement: character,
  prepend_scheme: scheme,
  add_prefix_space: flag,
  split: flag,
  str_rep: text,
};
const around = { sep: needed(tokenAndId), cls: needed(tokenAndId), trim_offsets: flag, add_prefix_space: flag };

type Fields = Readonly<Record<string, Kind & { readonly needed?: true }>>;

/** Values of models that are read, beside the vocabulary and the merges. */
const MODELS: Readonly<Record<string, Fields>> = {
  BPE: {
    unk_token: blob,
    continuing_subword_prefix: text,
    end_of_word_suffix: text,
    fuse_unk: flag,
    byte_fallback: flag,
    ignore_merges: flag,
  },
  Pieces: { unk_token: blob },
  Unigram: { byte_fallback: flag },
  WordLevel: { unk_token: blob },
  WordPiece: { unk_token: blob, continuing_subword_prefix: text, max_input_chars_per_word: count },
};

/** The components that exist, and the values of each that are read. */
const COMPONENTS: Readonly<Record<string, Readonly<Record<string, Fields>>>> = {
  normalizer: {
    BertNormalizer: { clean_text: flag, handle_chinese_chars: flag, strip_accents: flag, lowercase: flag },
    Lowercase: {},
    NFC: {},
    NFD: {},
    NFKC: {},
    NFKD: {},
    Precompiled: { precompiled_charsmap: needed(blob) },
    Prepend: { prepend: text },
    Replace: replace,
    Sequence: { normalizers: list },
    Strip: { strip_left: flag, strip_right: flag },
    StripAccents: {},
  },
  pre_tokenizer: {
    BertPreTokenizer: {},
    ByteLevel: byteLevel,
    CharDelimiterSplit: { delimiter: character },
    Digits: { individual_digits: flag },
    FixedLength: { length: positive },
    Metaspace: metaspace,
    Punctuation: { behavior },
    Sequence: { pretokenizers: list },
    Split: { pattern: needed(pattern), behavior, invert: flag },
    Whitespace: {},
    WhitespaceSplit: {},
  },
  post_processor: {
    BertProcessing: around,
    ByteLevel: byteLevel,
    RobertaProcessing: around,
    Sequence: { processors: list },
    TemplateProcessing: { single: list, pair: list, special_tokens: table },
  },
  decoder: {
    BPEDecoder: { suffix: text },
    ByteFallback: {},
    ByteLevel: byteLevel,
    CTC: { pad_token: text, word_delimiter_token: text, cleanup: flag },
    Fuse: {},
    Metaspace: metaspace,
    Replace: replace,
    Sequence: { decoders: list },
    Strip: { content: character, start: count, stop: count },
    WordPiece: { prefix: text, cleanup: flag },
  },
};
/** Components that conversions make of older files, and that no tokenizer.json has. */
const OURS: typeof COMPONENTS = {
  normalizer: { Uppercase: {} },
  decoder: {
    Frames: { pad_token: text, word_delimiter_token: text, content: text, lowercase: flag },
    Pieces: { after: text },
  },
};
/** The key under which a Sequence of each section lists its parts. */
const CHILDREN: Readonly<Record<string, string>> = {
  normalizer: "normalizers",
  pre_tokenizer: "pretokenizers",
  post_processor: "processors",
  decoder: "decoders",
};

/** A checked component without sequences: the parts one after the other. */
export type Components = readonly JsonObject[];

/**
 * Checks one section of a tokenizer.json and gives its components in order; null if the file has none.
 * @param converted whether a conversion made it
 * @throws FormatError for an unknown component, a value of the wrong kind, and what is nested too deeply or too long
 */
export function checkComponents(
  file: string,
  section: string,
  value: Json | undefined,
  converted = false,
): Components | null {
  if (value === undefined || value === null) return null;
  const found: JsonObject[] = [];
  const known = converted ? { ...COMPONENTS[section], ...OURS[section] } : COMPONENTS[section]!;
  collect(file, section, known, section, value, 0, found);
  return found;
}

/** @throws FormatError for a value of a model that is of the wrong kind */
export function checkModelFields(file: string, type: string, model: JsonObject): void {
  checkFields(file, "model", model, MODELS[type]!);
}

function checkFields(file: string, key: string, value: JsonObject, fields: Fields): void {
  for (const [name, field] of Object.entries(fields)) {
    const given = value[name];
    const at = `${key}.${name}`;
    const absent = given === undefined || given === null;
    if (absent ? field.needed : !field.check(given, file, at)) {
      fail(file, at, `expected ${field.wanted}, got ${show(given)}`);
    }
  }
}

function collect(
  file: string,
  section: string,
  known: Readonly<Record<string, Fields>>,
  key: string,
  value: Json | undefined,
  depth: number,
  found: JsonObject[],
): void {
  if (!isObject(value)) fail(file, key, `expected an object, got ${kind(value)}`);
  if (depth > MAX_LEVELS) fail(file, key, `nested too deeply: at most ${MAX_LEVELS} levels are read`);
  const { type } = value;
  if (typeof type !== "string" || !Object.hasOwn(known, type)) {
    fail(file, key, `type ${show(type)} is not supported`, `known: ${Object.keys(known).join(", ")}`);
  }
  checkFields(file, key, value, known[type]!);
  if (type !== "Sequence") {
    if (found.length === MAX_COMPONENTS) fail(file, section, `more than ${MAX_COMPONENTS} components`);
    found.push(value);
    return;
  }
  const name = CHILDREN[section]!;
  const parts = value[name];
  (Array.isArray(parts) ? parts : []).forEach((part, i) => {
    collect(file, section, known, `${key}.${name}[${i}]`, part, depth + 1, found);
  });
}
