// What ends texts beside their length and the ids that end them: strings, time, and the caller's own criteria.

import { isFunction, isOf, listOf } from "../core/checks.js";
import { OptionError } from "../core/errors.js";
import { show } from "../core/show.js";
import type { PreTrainedTokenizer } from "../tokenizer/api.js";
import { MaxTimeCriteria, StoppingCriteria, StopStringCriteria } from "./stopping.js";

/** A criterion of the caller's: true if a text ends with the tokens `ids`, prompt and new ones. */
export type StoppingRule = StoppingCriteria | ((ids: readonly number[]) => boolean);

/** Why a text ends with these tokens, prompt and new ones; undefined if it goes on. */
export type Ends = (ids: readonly number[]) => "time" | "stop" | undefined;

export interface EndingOptions {
  readonly stopping_criteria?: readonly StoppingRule[] | undefined;
  readonly tokenizer?: PreTrainedTokenizer | undefined;
}

/**
 * What a call's options end texts with; the function that it returns starts the clock.
 * @throws OptionError
 */
export function endingOf(
  config: { readonly stop_strings: string | readonly string[] | undefined; readonly max_time: number | undefined },
  { stopping_criteria, tokenizer }: EndingOptions,
): () => Ends | undefined {
  const own = criteriaOf(stopping_criteria);
  const { stop_strings, max_time } = config;
  if (stop_strings !== undefined && tokenizer === undefined) {
    throw new OptionError("stop_strings need the tokenizer", {
      details: { option: "tokenizer" },
      hint: "pass tokenizer, as from AutoTokenizer.from_pretrained",
    });
  }
  const strings = stop_strings === undefined ? [] : [new StopStringCriteria(tokenizer!, stop_strings)];
  const rules = [...strings.map((one) => (ids: readonly number[]) => one.done(ids)), ...own];
  if (rules.length === 0 && max_time === undefined) return () => undefined;
  return () => {
    const clock = max_time === undefined ? undefined : new MaxTimeCriteria(max_time);
    return (ids) => (clock?.done() ? "time" : rules.some((rule) => rule(ids)) ? "stop" : undefined);
  };
}

/** @throws OptionError */
function criteriaOf(value: unknown): readonly ((ids: readonly number[]) => boolean)[] {
  if (value === undefined) return [];
  const isRule = (one: unknown): one is StoppingRule => isFunction(one) || isOf(one, StoppingCriteria);
  const rules = listOf(value, isRule);
  if (!rules) {
    throw new OptionError(
      `stopping_criteria must be a list of StoppingCriteria or functions of a text's ids, got ${show(value)}`,
      { details: { option: "stopping_criteria" } },
    );
  }
  return rules.map((rule) => {
    const done = isFunction(rule) ? (rule as (ids: readonly number[]) => unknown) : rule.done.bind(rule);
    return (ids) => {
      const ends = done(ids);
      if (typeof ends === "boolean") return ends;
      throw new OptionError(`stopping_criteria must give true or false, one gave ${show(ends)}`, {
        details: { option: "stopping_criteria" },
      });
    };
  });
}
