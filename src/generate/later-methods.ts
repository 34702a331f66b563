// Methods of Python's models that Octavo does not have yet: one line for each, with the sentence that says what is so here. Whoever
// builds one of them deletes its line. Exports of that kind are in later.ts.

import { OctavoError } from "../core/errors.js";

/** Methods of models. */
const METHODS = {
  resize_token_embeddings: "the embeddings have the size that the checkpoint gives them",
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

type Methods = { readonly [Name in keyof typeof METHODS]: (...args: readonly unknown[]) => never };

/** A class whose methods are those that models do not have yet. */
export const LaterMethods = /* @__PURE__ */ (() => {
  class Base {}
  for (const [name, why] of Object.entries(METHODS)) {
    Object.defineProperty(Base.prototype, name, {
      value: later(`model.${name}`, why),
      configurable: true,
      writable: true,
    });
  }
  return Base as new () => Methods;
})();
