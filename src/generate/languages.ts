// Languages by their names in English: those of the platform, and Whisper's where they differ (LANGUAGES and TO_LANGUAGE_CODE of
// OpenAI's tokenizer.py).

/** Whisper's names of languages that the platform calls otherwise, by their codes. */
const NAMES: ReadonlyMap<string, string> = new Map([
  ["bn", "bengali"],
  ["mi", "maori"],
  ["my", "myanmar"],
  ["nn", "nynorsk"],
  ["tl", "tagalog"],
]);

/** Codes by other names that Whisper knows, and the platform does not. */
const OTHERS: ReadonlyMap<string, string> = new Map([
  ["castilian", "es"],
  ["flemish", "nl"],
  ["haitian", "ht"],
  ["letzeburgesch", "lb"],
  ["mandarin", "zh"],
  ["moldavian", "ro"],
  ["moldovan", "ro"],
  ["panjabi", "pa"],
  ["pushto", "ps"],
  ["sinhalese", "si"],
  ["valencian", "ca"],
]);

function platformName(code: string): string | undefined {
  try {
    return new Intl.DisplayNames("en", { type: "language", fallback: "none" }).of(code)?.toLowerCase();
  } catch {
    return undefined; // no code of a language
  }
}

/** Whisper's name of a language, as "german" for "de"; undefined for what is no code of one. */
export function languageName(code: string): string | undefined {
  return NAMES.get(code) ?? platformName(code);
}

/** The one of `codes` that `name`, in lower case, is a name of; undefined for none. */
export function languageCode(name: string, codes: readonly string[]): string | undefined {
  const other = OTHERS.get(name);
  return codes.find((code) => code === other || NAMES.get(code) === name || platformName(code) === name);
}
