// Whether a call's options say what its texts are, and what contradicts that; the grammars themselves are in constraint.ts.

import { OptionError } from "../../core/errors.js";
import type { Options } from "../../core/options.js";
import { show } from "../../core/show.js";
import { type STRUCTURED, STRUCTURED_FIELDS } from "./options.js";

export type Structured = Options<typeof STRUCTURED>;

/** The name of the option that says what the text is; undefined without one. @throws OptionError for two */
export function structuredOption(options: Structured): keyof Structured | undefined {
  const named = STRUCTURED_FIELDS.filter((name) => options[name] !== undefined);
  if (named.length < 2) return named[0];
  throw new OptionError(`${named.join(" and ")} cannot be combined: each says what the whole text is`, {
    details: { option: named[1] },
  });
}

const OTHERS = ["forced_bos_token_id", "forced_eos_token_id", "min_length", "min_new_tokens"] as const;

/** What of a generation's config may contradict a grammar. */
interface Structuring {
  readonly host: { readonly [name in (typeof OTHERS)[number]]?: unknown } | undefined;
  readonly mode: { readonly dola: unknown };
}

/** @throws OptionError for options that may forbid what the grammar needs, or ask for more than it allows */
export function checkStructured(option: keyof Structured | undefined, { host = {}, mode }: Structuring): void {
  if (!option) return;
  if (mode.dola) {
    throw new OptionError(
      `${option} cannot be combined with dola_layers, which may leave none of the tokens that it allows`,
      {
        details: { option },
        hint: "pass dola_layers: null",
      },
    );
  }
  const other = OTHERS.find((name) => host[name] !== undefined);
  if (!other) return;
  throw new OptionError(`${option} cannot be combined with ${show(other)}: both say which token comes`, {
    details: { option },
    hint: `pass ${other}: ${other.startsWith("min") ? 0 : null}`,
  });
}
