// The arguments of forward, generate, stream and cache_footprint: one object of inputs and options, as spread in JavaScript, or
// inputs and then options, as Python's keyword arguments come out when they are translated.

import { OptionError } from "../core/errors.js";
import { type Options, readOptions, type Table } from "../core/options.js";
import { show } from "../core/show.js";
import { Tensor } from "../core/tensor.js";
import type { Ids } from "./inputs.js";

/** Inputs that come alone: token ids, or what a tokenizer returned (more of the call's options may be among them). */
export type Inputs<O extends { readonly input_ids: Ids }> = InputsNamed<O, "input_ids">;

/** The same for a model whose input has that name. */
export type InputsNamed<O, K extends keyof O> = O[K] | (Pick<O, K> & Partial<O>);

/** Options that come after the inputs. */
export type After<O, K extends string = "input_ids"> = Partial<Omit<O, K>>;

/**
 * The options of a call, each checked. Token ids in place of the first object are its `input_ids`.
 * @param args as the caller gave them
 * @param alone the name of an input that comes without one
 * @throws OptionError as `readOptions`; for an option in both objects, and for a third argument
 */
export function readCall<T extends Table>(
  call: string,
  table: T,
  args: readonly unknown[],
  alone = "input_ids",
): Options<T> {
  if (args.length > 2) {
    throw new OptionError(`${call} takes inputs and options, got ${args.length} arguments`, {
      hint: `name the options: ${call}({ ...inputs, max_new_tokens: 40 })`,
    });
  }
  const [first, second] = args;
  if (typeof first === "string") {
    const ids = alone === "input_ids";
    throw new OptionError(`${call} takes ${ids ? "token ids" : alone}, got the text ${show(first)}`, {
      hint: `a ${ids ? "tokenizer" : "processor"} makes them: ${call}({ ...${ids ? "tokenizer(text)" : "processor(file)"} })`,
    });
  }
  const inputs = readOptions(call, table, areIds(first) ? { [alone]: first } : first) as Record<string, unknown>;
  const options = readOptions(call, table, second) as Record<string, unknown>;
  for (const name of Object.keys(options)) {
    if (inputs[name] === undefined) continue;
    throw new OptionError(`${call}: \`${name}\` is given twice, among the inputs and among the options`, {
      details: { option: name },
      hint: "leave one of them out",
    });
  }
  return { ...inputs, ...options } as Options<T>;
}

/** True for an input without a name: a list, a typed array, data with a shape, or a tensor. */
function areIds(value: unknown): boolean {
  try {
    if (Array.isArray(value) || ArrayBuffer.isView(value)) return true;
    if (Tensor.is(value)) return true;
    return typeof value === "object" && value !== null && Object.hasOwn(value, "data") && Object.hasOwn(value, "shape");
  } catch {
    return false; // a proxy: refused where it is read
  }
}
