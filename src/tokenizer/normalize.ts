// Normalizers: text before it is cut into pieces, as in Python's `tokenizers`. None may make a text many times longer.

import { Charsmap } from "./charsmap.js";
import type { Components } from "./components.js";
import { fail, isObject, type JsonObject } from "./json-file.js";
import { bounded, patternOf } from "./pattern.js";
import { longest, replacer, TooLong, trimmed } from "./text.js";

const KEY = "normalizer";

/** One step; it may stop with TooLong before it makes more than `most` characters. */
type Step = (text: string, most: number) => string;

/** Rust lowers each character by itself; JavaScript knows the sigma at the end of a word. */
function lower(text: string): string {
  return text.replaceAll("\u03A3", "\u03C3").toLowerCase();
}

const DROPPED = /\uFFFD|(?![\t\n\r])[\p{Cc}\p{Cf}\p{Co}]/gu;
const IDEOGRAPH =
  /[\u4E00-\u9FFF\u3400-\u4DBF\u{20000}-\u{2A6DF}\u{2A700}-\u{2B73F}\u{2B740}-\u{2B81F}\u{2B920}-\u{2CEAF}\uF900-\uFAFF\u{2F800}-\u{2FA1F}]/gu;

function bert(config: JsonObject): Step {
  const lowercase = config.lowercase === true;
  const strip = typeof config.strip_accents === "boolean" ? config.strip_accents : lowercase;
  return (text) => {
    // Of ASCII without controls only capitals change.
    if (/^[ -~]*$/.test(text)) return lowercase ? text.toLowerCase() : text;
    let result = text;
    if (config.clean_text === true) result = result.replace(DROPPED, "").replace(/\p{White_Space}/gu, " ");
    if (config.handle_chinese_chars === true) result = result.replace(IDEOGRAPH, " $& ");
    if (strip) result = result.normalize("NFD").replace(/\p{Mn}/gu, "");
    return lowercase ? lower(result) : result;
  };
}

function step(file: string, key: string, config: JsonObject): Step {
  switch (config.type) {
    case "BertNormalizer":
      return bert(config);
    case "Lowercase":
      return lower;
    case "NFC":
    case "NFD":
    case "NFKC":
    case "NFKD": {
      const form = config.type;
      return (text) => text.normalize(form);
    }
    case "Uppercase":
      return (text) => text.toUpperCase();
    case "Precompiled": {
      const rules = new Charsmap(file, String(config.precompiled_charsmap));
      return (text, most) => rules.apply(text, most);
    }
    case "Prepend": {
      const prepend = String(config.prepend ?? "");
      return (text) => (text === "" ? "" : prepend + text);
    }
    case "Replace": {
      const { pattern } = config;
      const found = isObject(pattern) && typeof pattern.Regex !== "string" ? String(pattern.String) : undefined;
      return replacer(found ?? patternOf(file, key, pattern), String(config.content ?? ""));
    }
    case "Strip":
      return (text) => trimmed(text, config.strip_left === true, config.strip_right === true);
    default: // StripAccents
      return (text) => text.replace(/\p{M}/gu, "");
  }
}

/** What a normalizer makes of a text. */
export interface Normalized {
  readonly text: string;
  /** The first character is gone, so that the text begins later than what it was made of. */
  readonly late: boolean;
}

/** The normalizer of a file. `work` counts the characters that its steps have read. */
export interface Normalizer {
  (text: string): Normalized;
  work: number;
}

/**
 * Builds the normalizer of a checked tokenizer.json; null if it has none.
 * @throws FormatError for a pattern that cannot be translated; the normalizer throws it for a text that it would make more
 * than 32 times longer
 */
export function buildNormalizer(file: string, components: Components | null): Normalizer | null {
  if (components === null) return null;
  const steps = components.map((config) => ({ type: String(config.type), run: step(file, KEY, config) }));
  const normalize = ((given: string) => {
    const most = longest(given.length);
    let text = given;
    let late = false;
    for (const { type, run } of steps) {
      normalize.work += text.length;
      try {
        const before = text;
        text = bounded(file, KEY, text.length, () => run(before, most));
        late ||= before !== text && dropsFirst(before, text, run, most);
      } catch (cause) {
        if (!(cause instanceof TooLong)) throw cause;
        tooLong(file, type, given.length, most, cause);
      }
      if (text.length > most) tooLong(file, type, given.length, most);
    }
    return { text, late };
  }) as Normalizer;
  normalize.work = 0;
  return normalize;
}

/** True if a step removes the first character and keeps others. */
function dropsFirst(before: string, after: string, run: Step, most: number): boolean {
  const first = String.fromCodePoint(before.codePointAt(0) ?? 0);
  return after !== "" && run(first, most) === "";
}

function tooLong(file: string, type: string, length: number, most: number, cause?: unknown): never {
  const makes = `${type} makes more than ${most} characters of a text of ${length}`;
  return fail(file, KEY, `${makes}, which is the most that is allowed`, undefined, cause);
}
