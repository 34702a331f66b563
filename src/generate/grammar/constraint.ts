// What a call's options say about its texts, as masks of the tokens that may follow each row.

import { OctavoError, OptionError } from "../../core/errors.js";
import { pick } from "../../core/options.js";
import type { PreTrainedTokenizer } from "../../tokenizer/api.js";
import type { Tokenizer } from "../../tokenizer/engine.js";
import type { HostProcessor } from "../processors/host-processor.js";
import type { RowText, TokenMasks } from "../processors/masked.js";
import { automatonOf } from "./automaton.js";
import type { Grammar } from "./expr.js";
import { literal } from "./expr.js";
import { gbnfGrammar } from "./gbnf.js";
import { schemaGrammar } from "./json-schema.js";
import { Machine, type Stacks } from "./machine.js";
import { Masks } from "./masks.js";
import { STRUCTURED } from "./options.js";
import { regexExpr } from "./regex.js";
import { jsonSchemaOf } from "./standard-schema.js";
import { type Structured, structuredOption } from "./structured.js";
import { Vocabulary } from "./vocabulary.js";

/** Grammars of a tokenizer that stay ready, the least recently used forgotten first. */
const KEPT = 4;
const kept = new WeakMap<Tokenizer, Map<string, Masks>>();
const vocabularies = new WeakMap<Tokenizer, Map<string, Vocabulary>>();

/**
 * The masks that a call's options ask for; undefined if they ask for none.
 * @param vocab token ids are below this
 * @throws OptionError for what is no schema, expression or grammar, is too large, or cannot be fulfilled; without a tokenizer, or ids
 * that end a text; OctavoError for a tokenizer whose tokens have no text of their own
 */
export function constraintOf(
  options: Structured & { readonly tokenizer?: PreTrainedTokenizer | undefined },
  vocab: number,
  ends: readonly number[],
): Constraint | undefined {
  const option = structuredOption(options);
  if (!option) return undefined;
  const { tokenizer } = options;
  const refuse = (message: string, hint: string): never => {
    throw new OptionError(`${option} needs ${message}`, { details: { option }, hint });
  };
  if (!tokenizer) return refuse("the tokenizer", "pass tokenizer, as from AutoTokenizer.from_pretrained");
  if (!ends.some((id) => id < vocab)) return refuse("a token that ends the text", "pass eos_token_id");
  const { backend } = tokenizer;
  const schema = option === "json_schema" ? jsonSchemaOf(options.json_schema) : undefined;
  const key = JSON.stringify([option, schema ?? options[option], vocab, ends]);
  const own = kept.get(backend) ?? new Map<string, Masks>();
  kept.set(backend, own);
  const known = own.get(key);
  own.delete(key);
  const masks = known ?? made(option, { ...pick(STRUCTURED, options), json_schema: schema }, backend, vocab, ends);
  own.set(key, masks);
  if (own.size > KEPT) own.delete(own.keys().next().value!);
  return new Constraint(option, masks, ends);
}

function made(
  option: keyof Structured,
  options: Structured,
  tokenizer: Tokenizer,
  vocab: number,
  ends: readonly number[],
): Masks {
  const vocabulary = vocabularyOf(tokenizer, vocab, ends);
  const automaton = automatonOf(grammarOf(option, options), option, vocabulary.usable);
  if (!automaton.possible) {
    const what = option === "json_schema" ? "no value is valid by the schema" : "there is no such text";
    throw new OptionError(`${option}: ${what}, or none that this tokenizer can write`, { details: { option } });
  }
  return new Masks(new Machine(automaton), vocabulary, ends);
}

function grammarOf(option: keyof Structured, { json_schema, regex, grammar, choices }: Structured): Grammar {
  switch (option) {
    case "json_schema":
      return schemaGrammar(json_schema as boolean);
    case "regex":
      return { rules: [{ name: "root", body: regexExpr(regex!, option) }] };
    case "grammar":
      return gbnfGrammar(grammar!);
    default:
      return { rules: [{ name: "root", body: { oneOf: choices!.map(literal) } }] };
  }
}

function vocabularyOf(tokenizer: Tokenizer, vocab: number, ends: readonly number[]): Vocabulary {
  const own = vocabularies.get(tokenizer) ?? new Map<string, Vocabulary>();
  vocabularies.set(tokenizer, own);
  const key = `${vocab} ${ends.join()}`;
  const vocabulary = own.get(key) ?? new Vocabulary(tokenizer.token_bytes(), vocab, ends);
  if (own.size > 1) own.clear();
  own.set(key, vocabulary);
  return vocabulary;
}

/** How far a text is. */
interface Progress {
  /** New tokens that were read. */
  read: number;
  state: Stacks | undefined;
  first: boolean;
  ended: boolean;
}

export class Constraint implements TokenMasks {
  readonly option: keyof Structured;
  readonly #masks: Masks;
  readonly #ends: ReadonlySet<number>;
  /** By the list of a text's ids, which grows. */
  readonly #texts = new WeakMap<readonly number[], Progress>();

  constructor(option: keyof Structured, masks: Masks, ends: readonly number[]) {
    this.option = option;
    this.#masks = masks;
    this.#ends = new Set(ends);
  }

  /** @throws OctavoError if no token of the vocabulary may follow */
  of(text: RowText): Uint32Array {
    const { state, first } = this.#progress(text);
    const bits = state && (first ? this.#masks.first() : this.#masks.of(state));
    if (bits?.some((word) => word !== 0)) return bits;
    return this.nothingLeft(state ? "no token of the vocabulary goes on with the text" : "the text is none of it");
  }

  /** @throws OctavoError if beams ended with a text that is none: the grammar has fewer texts than were asked for */
  checkBeams(texts: readonly (readonly number[])[], prompts: readonly (readonly number[])[]): void {
    const good = texts.every((text, n) => {
      const ids = [...prompts[n]!, ...text];
      return text.length > 0 && this.#progress({ ids, prompt: prompts[n]!.length }).state !== undefined;
    });
    if (!good) this.nothingLeft("beams found fewer texts than num_return_sequences that are allowed");
  }

  nothingLeft(why: string): never {
    throw new OctavoError("ERR_UNSUPPORTED", `${this.option}: ${why}`, {
      details: { option: this.option },
      hint: "other options or processors may forbid all tokens that it allows",
    });
  }

  /** The same on the host. Of beams each text may come to its end: it has no likelihood then. */
  processor(beams: boolean): HostProcessor {
    return {
      process: (logits, at) => {
        const { state, first } = this.#progress(at);
        const bits = state ? (first ? this.#masks.first() : this.#masks.of(state)) : new Uint32Array(0);
        let left = false;
        for (let id = 0; id < logits.length; id++) {
          if (((bits[id >>> 5] ?? 0) >>> (id & 31)) & 1) left ||= logits[id]! > Number.NEGATIVE_INFINITY;
          else logits[id] = Number.NEGATIVE_INFINITY;
        }
        if (!left && !beams) this.nothingLeft("no token is left that may follow");
      },
    };
  }

  #progress({ ids, prompt }: RowText): Progress {
    const { bytes } = this.#masks.vocabulary;
    let at = this.#texts.get(ids);
    if (!at) {
      const first = !ids.slice(0, prompt).some((id) => bytes[id] !== undefined);
      at = { read: 0, state: this.#masks.machine.start, first, ended: false };
      this.#texts.set(ids, at);
    }
    for (; at.read < ids.length - prompt && !at.ended; at.read++) {
      const id = ids[prompt + at.read]!;
      if (this.#ends.has(id)) {
        at.ended = true;
        if (!at.state?.done) at.state = undefined;
        break;
      }
      at.state &&= this.#masks.next(at.state, id, at.first);
      at.first = false;
    }
    return at;
  }
}
