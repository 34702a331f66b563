// Tokenizers of translators between many languages: a token beside the text says which language it is in. Where it stands depends on the
// class. Not here: the vocabulary (convert-spm.ts, tokenizer.json).

import { OptionError, suggestion } from "../core/errors.js";
import { show } from "../core/show.js";
import { type Part, template } from "./convert.js";
import type { JsonObject } from "./json-file.js";

/** M2M-100's languages, in the order of their ids. */
export const M2M_100 =
  "af am ar ast az ba be bg bn br bs ca ceb cs cy da de el en es et fa ff fi fr fy ga gd gl gu ha he hi hr ht hu hy id ig ilo is it " +
  "ja jv ka kk km kn ko lb lg ln lo lt lv mg mk ml mn mr ms my ne nl no ns oc or pa pl ps pt ro ru sd si sk sl so sq sr ss su sv sw " +
  "ta th tl tn tr uk ur uz vi wo xh yi yo zh zu";

/** How a class says the language. */
export interface LanguageRule {
  /** The source where no file names one. */
  readonly usual: string;
  /** The token stands before the text; else behind its end. */
  readonly before: boolean;
  /** The token of a code. */
  readonly token: (code: string) => string;
}

const same = (code: string): string => code;

/** The rule of a class; undefined for those that say no language. */
export function languageRule(tokenizer_class: string | undefined, config: JsonObject): LanguageRule | undefined {
  switch (tokenizer_class) {
    case "MBartTokenizer":
      return { usual: "en_XX", before: false, token: same };
    case "MBart50Tokenizer":
      return { usual: "en_XX", before: true, token: same };
    case "NllbTokenizer":
      return { usual: "eng_Latn", before: config.legacy_behaviour !== true, token: same };
    case "M2M100Tokenizer":
      return { usual: "en", before: true, token: (code) => `__${code}__` };
    default:
      return undefined;
  }
}

/** The vocabulary, as far as languages need it. */
interface Words {
  readonly added_tokens: readonly { readonly content: string }[];
  token_to_id(token: string): number | undefined;
}

/** The id of a language's token. @throws OptionError for a code that the vocabulary lacks */
export function languageId(words: Words, { token }: LanguageRule, code: unknown, option: string): number {
  const id = typeof code === "string" ? words.token_to_id(token(code)) : undefined;
  if (id !== undefined) return id;
  const known = words.added_tokens.map(({ content }) => content);
  const near = typeof code === "string" ? suggestion(token(code), known)?.replace(/^__|__$/g, "") : undefined;
  throw new OptionError(
    `tokenizer.${option}: ${show(code)} is no language of this tokenizer${near ? `; did you mean ${show(near)}?` : ""}`,
    { details: { option } },
  );
}

/** The post-processor that puts a language's token and the end around texts. */
export function languageFrame(
  words: Words,
  rule: LanguageRule,
  code: string,
  eos: readonly [token: string, id: number],
  option: string,
): JsonObject {
  const own: Part = [[rule.token(code), languageId(words, rule, code, option)]];
  const [before, after]: Part[][] = rule.before ? [[own], [[eos]]] : [[], [[eos], own]];
  return template([...before!, ["A"], ...after!], [...before!, ["A"], ["B"], ...after!]);
}
