// Tokenizers of translators between many languages: a token beside the text says which language it is in. Where it stands depends on the
// class. Not here: the vocabulary (convert-spm.ts, tokenizer.json).

import { OptionError, suggestion } from "../core/errors.js";
import { show } from "../core/show.js";
import { type Part, template } from "./convert.js";
import type { Tokenizer } from "./engine.js";
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

/** A tokenizer, as far as languages need it. */
interface Speaker {
  readonly backend: Tokenizer;
  readonly eos_token: string | null;
  readonly eos_token_id: number | null;
}

/** The languages of a tokenizer's texts. */
export class Languages {
  /** Of texts. */
  source: string | null;
  /** Of what is written for them. */
  target: string | null;
  readonly #rule: LanguageRule | undefined;

  constructor(settings: {
    readonly languages?: LanguageRule | undefined;
    readonly src_lang: string | null;
    readonly tgt_lang: string | null;
  }) {
    this.#rule = settings.languages;
    this.source = settings.src_lang;
    this.target = settings.tgt_lang;
  }

  #known(option: string): LanguageRule {
    if (this.#rule) return this.#rule;
    throw new OptionError(`tokenizer.${option}: this tokenizer says no language`, { details: { option } });
  }

  /** The id of a language's token. @throws OptionError for a code that the vocabulary lacks, or without languages */
  id({ backend }: Speaker, option: string, code: unknown): number {
    const { token } = this.#known(option);
    const id = typeof code === "string" ? backend.token_to_id(token(code)) : undefined;
    if (id !== undefined) return id;
    const known = backend.added_tokens.map(({ content }) => content);
    const near = typeof code === "string" ? suggestion(token(code), known)?.replace(/^__|__$/g, "") : undefined;
    throw new OptionError(
      `tokenizer.${option}: ${show(code)} is no language of this tokenizer${near ? `; did you mean ${show(near)}?` : ""}`,
      { details: { option } },
    );
  }

  /** The engine that says a language beside each text. @throws OptionError as `id`, or without an end of texts */
  framed(tokenizer: Speaker, option: string, code: string): Tokenizer {
    const own: Part = [[this.#known(option).token(String(code)), this.id(tokenizer, option, code)]];
    const { backend, eos_token, eos_token_id } = tokenizer;
    if (eos_token === null || eos_token_id === null) {
      throw new OptionError(`tokenizer.${option}: there is no eos_token to stand beside the language`);
    }
    const eos: Part = [[eos_token, eos_token_id]];
    const [before, after]: [Part[], Part[]] = this.#rule!.before ? [[own], [eos]] : [[], [eos, own]];
    return backend.withPostProcessor(template([...before, ["A"], ...after], [...before, ["A"], ["B"], ...after]));
  }

  /** The engine of what is written, if the tokenizer says a language. @throws OptionError if it is not known which */
  writing(tokenizer: Speaker): Tokenizer | undefined {
    if (!this.#rule) return undefined;
    if (this.target !== null) return this.framed(tokenizer, "tgt_lang", this.target);
    throw new OptionError("tokenizer: text_target is in no language yet", {
      hint: 'tokenizer.tgt_lang = "..."',
      details: { option: "text_target" },
    });
  }
}
