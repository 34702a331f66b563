// Special tokens by the names that Python gives them, and their ids.

import { Callable } from "../core/callable.js";
import { OptionError, suggestion } from "../core/errors.js";
import { show } from "../core/show.js";
import type { Tokenizer } from "./engine.js";
import type { Infilling } from "./infill.js";
import type { SpecialName, TokenizerCall, TokenizerSettings } from "./options.js";

/** What a tokenizer says of its special tokens. */
export abstract class NamedTokens extends (Callable as new () => TokenizerCall) {
  /** The engine: text to ids and back, without Python's conveniences. Another one once tokens are added. */
  abstract get backend(): Tokenizer;
  /** @internal how holes in texts are filled, if they are */
  protected readonly infilling: Infilling | undefined;
  readonly #special: Partial<Record<SpecialName, string>>;
  #additional: readonly string[];
  readonly #ofModel: readonly string[];

  constructor({ special, additional_special_tokens, model_special_tokens = [], infilling }: TokenizerSettings) {
    super();
    this.#special = { ...special };
    this.#additional = additional_special_tokens;
    this.#ofModel = model_special_tokens;
    this.infilling = infilling;
  }

  /** Special tokens without a name; not those with names of the model's own, such as image_token. */
  get additional_special_tokens(): readonly string[] {
    return this.#additional;
  }

  get bos_token(): string | null {
    return this.#special.bos_token ?? null;
  }
  set bos_token(token: string | null) {
    this.#setSpecial("bos_token", token);
  }
  get eos_token(): string | null {
    return this.#special.eos_token ?? null;
  }
  set eos_token(token: string | null) {
    this.#setSpecial("eos_token", token);
  }
  get pad_token(): string | null {
    return this.#special.pad_token ?? null;
  }
  set pad_token(token: string | null) {
    this.#setSpecial("pad_token", token);
  }
  get unk_token(): string | null {
    return this.#special.unk_token ?? null;
  }
  get sep_token(): string | null {
    return this.#special.sep_token ?? null;
  }
  get cls_token(): string | null {
    return this.#special.cls_token ?? null;
  }
  get mask_token(): string | null {
    return this.#special.mask_token ?? null;
  }
  get bos_token_id(): number | null {
    return this.#specialId("bos_token");
  }
  get eos_token_id(): number | null {
    return this.#specialId("eos_token");
  }
  get pad_token_id(): number | null {
    return this.#specialId("pad_token");
  }
  get unk_token_id(): number | null {
    return this.#specialId("unk_token");
  }
  get sep_token_id(): number | null {
    return this.#specialId("sep_token");
  }
  get cls_token_id(): number | null {
    return this.#specialId("cls_token");
  }
  get mask_token_id(): number | null {
    return this.#specialId("mask_token");
  }
  /** The token before what stands before a hole, of tokenizers that fill holes (Code Llama); null for others. */
  get prefix_id(): number | null {
    return this.infilling?.id(this, "prefix_token") ?? null;
  }
  /** The token before what fills a hole. */
  get middle_id(): number | null {
    return this.infilling?.id(this, "middle_token") ?? null;
  }
  /** The token before what stands behind a hole. */
  get suffix_id(): number | null {
    return this.infilling?.id(this, "suffix_token") ?? null;
  }
  /** The token that ends what fills a hole. */
  get eot_id(): number | null {
    return this.infilling?.id(this, "eot_token") ?? null;
  }
  get special_tokens_map(): Partial<Record<SpecialName, string>> {
    return { ...this.#special };
  }
  get all_special_tokens(): string[] {
    return [...new Set([...Object.values(this.#special), ...this.#ofModel, ...this.#additional])];
  }
  get all_special_ids(): number[] {
    return this.all_special_tokens.flatMap((token) => this.backend.token_to_id(token) ?? []);
  }
  #specialId(name: SpecialName): number | null {
    const token = this.#special[name];
    return token === undefined ? null : (this.backend.token_to_id(token) ?? null);
  }

  #setSpecial(name: SpecialName, token: string | null): void {
    if (token === null) {
      delete this.#special[name];
      return;
    }
    if (typeof token !== "string" || this.backend.token_to_id(token) === undefined) {
      const near = typeof token === "string" ? suggestion(token, this.all_special_tokens) : undefined;
      throw new OptionError(
        `tokenizer.${name}: ${show(token)} is not in the vocabulary` + (near ? `; did you mean ${near}?` : ""),
        { details: { option: name }, hint: `tokenizer.add_special_tokens({ ${name}: "..." }) adds a new one` },
      );
    }
    this.#special[name] = token;
  }

  /**
   * Names tokens of the vocabulary.
   * @internal
   * @param others those without a name, beside or in place of those that there are
   */
  protected nameTokens(
    named: ReadonlyMap<SpecialName, { readonly content: string }>,
    others: readonly { readonly content: string }[] | undefined,
    replace: boolean,
  ): void {
    for (const [name, { content }] of named) this.#special[name] = content;
    if (!others?.length) return;
    this.#additional = [...new Set([...(replace ? [] : this.#additional), ...others.map(({ content }) => content)])];
  }
}
