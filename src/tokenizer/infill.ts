// Code Llama's infilling: a text with a hole becomes what stands before the hole and what stands behind it, each behind a token of its own,
// and the model writes the middle. As transformers 5 has it: both parts begin like texts, with a mark of space, of which the part behind
// gets none if it begins with a space. Not here: the vocabulary.

import { OptionError } from "../core/errors.js";
import { show } from "../core/show.js";
import { type Part, template } from "./convert.js";
import type { Tokenizer } from "./engine.js";
import type { JsonObject } from "./json-file.js";

const NAMES = ["prefix_token", "middle_token", "suffix_token", "eot_token", "fill_token"] as const;
export type InfillName = (typeof NAMES)[number];
const USUAL: Readonly<Record<InfillName, string>> = {
  prefix_token: "\u2581<PRE>",
  middle_token: "\u2581<MID>",
  suffix_token: "\u2581<SUF>",
  eot_token: "\u2581<EOT>",
  fill_token: "<FILL_ME>",
};

/** How a tokenizer fills holes: its tokens, null for those that its files rule out, and what stands around texts. */
interface InfillRule {
  readonly tokens: Readonly<Record<InfillName, string | null>>;
  readonly bos: boolean;
  readonly eos: boolean;
  readonly prefixed: boolean;
}

/** How a tokenizer_config.json says it. */
function ruleOf(config: JsonObject): InfillRule {
  const content = (name: InfillName): string | null => {
    const value = config[name];
    if (value === undefined) return USUAL[name];
    const token = typeof value === "object" && value !== null ? (value as JsonObject).content : value;
    return typeof token === "string" && token !== "" ? token : null;
  };
  return {
    tokens: Object.fromEntries(NAMES.map((name) => [name, content(name)])) as Record<InfillName, string | null>,
    bos: config.add_bos_token !== false,
    eos: config.add_eos_token === true,
    prefixed: config.add_prefix_space !== false,
  };
}

/** The options of a call that say how holes are filled, and those that change with it. */
interface Asked {
  readonly suffix?: string | readonly string[] | undefined;
  readonly suffix_first?: boolean | undefined;
  readonly add_special_tokens?: boolean | undefined;
  readonly text_pair?: string | readonly string[] | undefined;
  readonly truncation?: boolean | "longest_first" | "only_first" | "only_second" | "do_not_truncate" | undefined;
}

/** The parts of texts, in the order in which a model reads them, and the engine that puts tokens around them. */
export interface Infilled<O> {
  readonly backend: Tokenizer;
  readonly texts: string[];
  readonly pairs: string[];
  readonly options: O;
}

interface Named {
  readonly special_tokens_map: { readonly bos_token?: string; readonly eos_token?: string };
  readonly backend: Tokenizer;
}

export class Infilling {
  readonly #rule: InfillRule;
  readonly #engines = new Map<string, readonly [from: Tokenizer, engine: Tokenizer]>();

  /** @param config tokenizer_config.json */
  constructor(config: JsonObject) {
    this.#rule = ruleOf(config);
  }

  /** The id of one of the tokens; null where there is none. */
  id({ backend }: Named, name: InfillName): number | null {
    const token = this.#rule.tokens[name];
    return token === null ? null : (backend.token_to_id(token) ?? null);
  }

  /**
   * The parts of what a call gives; undefined where there is no hole.
   * @throws OptionError for several holes, and where tokens are missing
   */
  parts<O extends Asked>(tokenizer: Named, text: string | readonly string[], options: O): Infilled<O> | undefined {
    const { suffix, suffix_first = false, add_special_tokens = true, text_pair, truncation } = options;
    const rule = this.#rule;
    let before = text;
    let behind = suffix;
    const hole = rule.tokens.fill_token;
    if (behind === undefined && text_pair === undefined && hole !== null && typeof text === "string") {
      const [first, second, ...more] = text.split(hole);
      if (second === undefined) return undefined;
      if (more.length > 0) throw new OptionError(`tokenizer: a text has one ${hole}, got ${more.length + 1}`);
      [before, behind] = [first!, second];
    }
    // With nothing behind the hole a text goes on as any other does.
    if (behind === undefined) return undefined;
    if (behind.length === 0)
      return { backend: tokenizer.backend, texts: [before].flat() as string[], pairs: [], options };
    const [texts, pairs] = [[before].flat() as string[], [behind].flat() as string[]];
    if (texts.length !== pairs.length || (typeof before === "string") !== (typeof behind === "string")) {
      throw new OptionError(`tokenizer: suffix must match text: ${texts.length} texts, ${pairs.length} suffixes`);
    }
    const backend = this.#engine(tokenizer, rule, suffix_first, add_special_tokens);
    const starts = texts.map((one) => ` ${one}`);
    const turned =
      truncation === "only_first" ? "only_second" : truncation === "only_second" ? "only_first" : truncation;
    return {
      backend,
      ...(suffix_first ? { texts: pairs, pairs: starts } : { texts: starts, pairs }),
      options: { ...options, add_special_tokens: true, truncation: suffix_first ? turned : truncation },
    };
  }

  #engine(tokenizer: Named, rule: InfillRule, suffix_first: boolean, framed: boolean): Tokenizer {
    const key = `${suffix_first} ${framed}`;
    const { backend, special_tokens_map } = tokenizer;
    const known = this.#engines.get(key);
    if (known && known[0] === backend) return known[1];
    const token = (content: string | null | undefined, name: string): Part => {
      const id = content ? backend.token_to_id(content) : undefined;
      if (id !== undefined) return [[content!, id]];
      throw new OptionError(`tokenizer: filling holes needs a ${name}, got ${show(content ?? null)}`, {
        hint: "Code Llama 7B and 13B fill holes, 34B and the Python models do not",
      });
    };
    const own = (name: InfillName): Part => token(rule.tokens[name], name);
    const around = (name: "bos_token" | "eos_token", wanted: boolean): Part[] =>
      wanted && framed ? [token(special_tokens_map[name], name)] : [];
    const [pre, mid, suf] = [own("prefix_token"), own("middle_token"), own("suffix_token")];
    // The first sequence of the engine is what comes first, whichever part that is.
    const inner: Part[] = suffix_first ? [pre, suf, ["A"], mid, ["B"]] : [pre, ["A"], suf, ["B"], mid];
    const pair = [...around("bos_token", rule.bos), ...inner, ...around("eos_token", rule.eos)];
    const engine = backend.withText(
      { type: "Replace", pattern: { String: " " }, content: "\u2581" },
      { type: "Metaspace", replacement: "\u2581", prepend_scheme: rule.prefixed ? "first" : "never", split: false },
      template([["A"]], pair),
    );
    this.#engines.set(key, [backend, engine]);
    return engine;
  }
}
