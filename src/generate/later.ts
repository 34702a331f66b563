// What guides for Python import and Octavo does not have yet: one line for each name, with the sentence that says what is so here.
// Whoever builds one of them deletes its line. The package exports all of this file.

import { type Later, later } from "./later-methods.js";

const NO_CLASSES = "models are loaded by their task: AutoModelForCausalLM.from_pretrained(name)";

/** Exports of the package. */
const EXPORTS = {
  BloomForCausalLM: NO_CLASSES,
  LlamaForCausalLM: NO_CLASSES,
  OPTForCausalLM: NO_CLASSES,
  T5ForConditionalGeneration: "models are loaded by their task: AutoModelForSeq2SeqLM.from_pretrained(name)",
} as const;

function all<T extends Readonly<Record<string, string>>>(table: T): { readonly [Name in keyof T]: Later } {
  return Object.fromEntries(Object.entries(table).map(([name, why]) => [name, later(name, why)])) as {
    readonly [Name in keyof T]: Later;
  };
}

export const { BloomForCausalLM, LlamaForCausalLM, OPTForCausalLM, T5ForConditionalGeneration } =
  /* @__PURE__ */ all(EXPORTS);
