// What guides for Python import and Octavo does not have yet: one line for each name, with the sentence that says what is so here.
// Whoever builds one of them deletes its line. The package exports all of this file.

import { OctavoError } from "../core/errors.js";

const NO_CLASSES = "models are loaded by their task: AutoModelForCausalLM.from_pretrained(name)";

/** Exports of the package. */
const EXPORTS = {
  BloomForCausalLM: NO_CLASSES,
  LlamaForCausalLM: NO_CLASSES,
  OPTForCausalLM: NO_CLASSES,
  T5ForConditionalGeneration: "models are loaded by their task: AutoModelForSeq2SeqLM.from_pretrained(name)",
} as const;

/** A name that only refuses, however it is used: called, made with `new`, or asked for a checkpoint. */
export interface Later {
  (...args: readonly unknown[]): never;
  new (...args: readonly unknown[]): never;
  from_pretrained(...args: readonly unknown[]): never;
}

/** A name that refuses with the sentence `why`. */
export function later(name: string, why: string): Later {
  // Declared, because `new` cannot call an arrow.
  function refuse(): never {
    throw new OctavoError("ERR_UNSUPPORTED", `${name} is not in Octavo: ${why}`, { details: { name } });
  }
  return Object.assign(refuse, { from_pretrained: refuse }) as unknown as Later;
}

function all<T extends Readonly<Record<string, string>>>(table: T): { readonly [Name in keyof T]: Later } {
  return Object.fromEntries(Object.entries(table).map(([name, why]) => [name, later(name, why)])) as {
    readonly [Name in keyof T]: Later;
  };
}

export const { BloomForCausalLM, LlamaForCausalLM, OPTForCausalLM, T5ForConditionalGeneration } =
  /* @__PURE__ */ all(EXPORTS);
