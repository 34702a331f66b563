// Normalizers: text before it is cut into pieces, as in Python's `tokenizers`. None may make a text many times longer.

import type { Aligned } from "./aligned.js";
import { Charsmap } from "./charsmap.js";
import type { Components } from "./components.js";
import { fail, isObject, type JsonObject } from "./json-file.js";
import { type NormalForm, normalForm } from "./normal-forms.js";
import { bounded, literally, patternOf } from "./pattern.js";
import { longest, replacer, TooLong, trimmed } from "./text.js";

const KEY = "normalizer";

/** One step. */
interface Step {
  /** It may stop with TooLong before it makes more than `most` characters. */
  readonly run: (text: string, most: number) => string;
  /** The same for a text whose characters are followed. */
  readonly align: (given: Aligned) => Aligned;
}

/** Rust lowers each character by itself; JavaScript knows the sigma at the end of a word. */
function lower(text: string): string {
  return text.replaceAll("\u03A3", "\u03C3").toLowerCase();
}

/** A step that changes each character by itself. */
function each(change: (text: string) => string): Step {
  const size = (text: string, at: number) => change(String.fromCodePoint(text.codePointAt(at)!)).length;
  return { run: change, align: (given) => given.spread(change(given.text), size) };
}

const LOWER = each(lower);
const UPPER = each((text) => text.toUpperCase());

/** A step that puts a text in place of every match of a pattern. */
function replacing(pattern: RegExp, content: string): Step {
  return { run: replacer(pattern, content), align: (given) => given.replaced(pattern, () => content) };
}

function formed(form: NormalForm): Step {
  return { run: (text) => text.normalize(form), align: (given) => normalForm(given, form) };
}

const DROPPED = replacing(/\uFFFD|(?![\t\n\r])[\p{Cc}\p{Cf}\p{Co}]/gu, "");
const SPACES = replacing(/\p{White_Space}/gu, " ");
const IDEOGRAPH =
  /[\u4E00-\u9FFF\u3400-\u4DBF\u{20000}-\u{2A6DF}\u{2A700}-\u{2B73F}\u{2B740}-\u{2B81F}\u{2B920}-\u{2CEAF}\uF900-\uFAFF\u{2F800}-\u{2FA1F}]/gu;
const APART: Step = {
  run: (text) => text.replace(IDEOGRAPH, " $& "),
  align: (given) => given.replaced(IDEOGRAPH, (found) => ` ${found} `),
};
// The first were not marks without width when the tables of Python's library were made, and the last one was.
const ACCENTS = [formed("NFD"), replacing(/(?![\u1885\u1886\uA9BD])\p{Mn}|\u1734/gu, "")];

function bert(config: JsonObject): Step {
  const lowercase = config.lowercase === true;
  const strip = typeof config.strip_accents === "boolean" ? config.strip_accents : lowercase;
  const steps: Step[] = [];
  if (config.clean_text === true) steps.push(DROPPED, SPACES);
  if (config.handle_chinese_chars === true) steps.push(APART);
  if (strip) steps.push(...ACCENTS);
  if (lowercase) steps.push(LOWER);
  return {
    run: (text, most) => {
      // Of ASCII without controls only capitals change.
      if (/^[ -~]*$/.test(text)) return lowercase ? text.toLowerCase() : text;
      return steps.reduce((result, { run }) => run(result, most), text);
    },
    align: (given) => steps.reduce((result, { align }) => align(result), given),
  };
}

function step(file: string, key: string, config: JsonObject): Step {
  switch (config.type) {
    case "BertNormalizer":
      return bert(config);
    case "Lowercase":
      return LOWER;
    case "NFC":
    case "NFD":
    case "NFKC":
    case "NFKD":
      return formed(config.type);
    case "Uppercase":
      return UPPER;
    case "Precompiled": {
      const rules = new Charsmap(file, String(config.precompiled_charsmap));
      return { run: (text, most) => rules.apply(text, most), align: (given) => rules.align(given) };
    }
    case "Prepend": {
      const prepend = String(config.prepend ?? "");
      return {
        run: (text) => (text === "" ? "" : prepend + text),
        align: (given) => (given.text === "" ? given : given.prepended(prepend)),
      };
    }
    case "Replace": {
      const { pattern } = config;
      const content = String(config.content ?? "");
      if (!isObject(pattern) || typeof pattern.Regex === "string")
        return replacing(patternOf(file, key, pattern), content);
      const found = String(pattern.String);
      if (found === "") return { run: (text) => text, align: (given) => given };
      return { ...replacing(literally(found), content), run: replacer(found, content) };
    }
    case "Strip": {
      const [left, right] = [config.strip_left === true, config.strip_right === true];
      return {
        run: (text) => trimmed(text, left, right),
        align: (given) => {
          const { text } = given;
          const start = text.length - trimmed(text, left, false).length;
          return given.trimmed(start, start + trimmed(text, left, right).length);
        },
      };
    }
    default: // StripAccents
      return replacing(/\p{M}/gu, "");
  }
}

/** What a normalizer makes of a text. */
export interface Normalized<T> {
  readonly text: T;
  /** The first character is gone, so that the text begins later than what it was made of. */
  readonly late: boolean;
}

/** The normalizer of a file. `work` counts the characters that its steps have read. */
export interface Normalizer {
  (text: string): Normalized<string>;
  align(given: Aligned): Normalized<Aligned>;
  work: number;
}

/**
 * Builds the normalizer of a checked tokenizer.json; null if it has none.
 * @throws FormatError for a pattern that cannot be translated; the normalizer throws it for a text that it would make more
 * than 32 times longer
 */
export function buildNormalizer(file: string, components: Components | null): Normalizer | null {
  if (components === null) return null;
  const steps = components.map((config) => ({ type: String(config.type), ...step(file, KEY, config) }));
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
  normalize.align = (given) => {
    const { text, late } = normalize(given.text); // which says if the text grows too long
    let aligned = given;
    for (const { align } of steps) aligned = bounded(file, KEY, aligned.text.length, () => align(aligned));
    if (aligned.text !== text)
      fail(file, KEY, "gives another text where characters are followed, so that there are no offsets");
    return { text: aligned, late };
  };
  normalize.work = 0;
  return normalize;
}

/** True if a step removes the first character and keeps others. */
function dropsFirst(before: string, after: string, run: Step["run"], most: number): boolean {
  const first = String.fromCodePoint(before.codePointAt(0) ?? 0);
  return after !== "" && run(first, most) === "";
}

function tooLong(file: string, type: string, length: number, most: number, cause?: unknown): never {
  const makes = `${type} makes more than ${most} characters of a text of ${length}`;
  return fail(file, KEY, `${makes}, which is the most that is allowed`, undefined, cause);
}
