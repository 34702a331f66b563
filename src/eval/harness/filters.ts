// What is taken of a model's answers before they are scored: the filters of task files.

import { isWhole } from "../../core/checks.js";
import { ConfigError, suggestion } from "../../core/errors.js";
import { listed, show } from "../../core/show.js";
import { strip } from "../../tokenizer/chat/blanks.js";
import { pythonRegex } from "./python-regex.js";
import type { Response } from "./types.js";

/** Of the answers to one request, one for each repeat: those that are left, or the one that is. */
export type Filter = (responses: readonly Response[] | Response) => readonly Response[] | Response;
type Given = Readonly<Record<string, unknown>>;

const isMany = (value: readonly Response[] | Response): value is readonly Response[] =>
  Array.isArray(value) && typeof value[1] !== "boolean";
const many = (value: readonly Response[] | Response): readonly Response[] => (isMany(value) ? value : [value]);
const each =
  (change: (text: string) => string): Filter =>
  (responses) =>
    many(responses).map((one) => {
      if (typeof one === "string") return change(one);
      throw new ConfigError(`a filter of texts is for output_type generate_until, got the answer ${show(one)}`);
    });

function regexFilter(place: string, given: Given): Filter {
  const { regex_pattern = "#### (\\-?[0-9\\.\\,]+)", group_select = 0, fallback = "[invalid]" } = given;
  if (typeof regex_pattern !== "string" || !Number.isSafeInteger(group_select) || typeof fallback !== "string") {
    throw new ConfigError(`${place}: regex needs a regex_pattern, and may have a group_select and a fallback`);
  }
  const regex = pythonRegex(place, regex_pattern);
  return each((text) => {
    // As re.findall: the match, its one group, or the first of its groups that is not empty.
    const found = [...text.matchAll(regex)].at(group_select as number);
    if (!found) return fallback;
    const match = found.length === 1 ? found[0] : found.length === 2 ? (found[1] ?? "") : found.slice(1).find(Boolean);
    return strip(match ?? fallback, undefined, true, true);
  });
}

const FILTERS: Readonly<Record<string, (place: string, given: Given) => Filter>> = {
  take_first: () => (responses) => many(responses)[0]!,
  take_first_k: (place, { k }) => {
    if (!isWhole(k) || k < 1)
      throw new ConfigError(`${place}: take_first_k needs k, a whole number above 0, got ${show(k)}`);
    return (responses) => {
      const list = many(responses);
      if (list.length < k)
        throw new ConfigError(`${place}: take_first_k of ${k} of ${list.length} answers; raise repeats`);
      return list.slice(0, k);
    };
  },
  majority_vote: () => (responses) => {
    const counts = new Map<Response, number>();
    for (const one of many(responses)) counts.set(one, (counts.get(one) ?? 0) + 1);
    return [[...counts].reduce((best, entry) => (entry[1] > best[1] ? entry : best))[0]];
  },
  regex: regexFilter,
  remove_whitespace: () => each((text) => strip(text, undefined, true, true)),
  lowercase: () => each((text) => text.toLowerCase()),
  uppercase: () => each((text) => text.toUpperCase()),
  map: (place, { mapping_dict, default_value = "" }) => {
    if (typeof mapping_dict !== "object" || mapping_dict === null) {
      throw new ConfigError(`${place}: map needs a mapping_dict, got ${show(mapping_dict)}`);
    }
    const entries = new Map(Object.entries(mapping_dict));
    return each((text) => String(entries.get(text) ?? default_value));
  },
};

/** A filter of a task's file. @throws ConfigError for one that is not known, and wrong settings */
export function filterOf(place: string, given: unknown): Filter {
  const { function: name, ...settings } = (typeof given === "object" && given !== null ? given : {}) as Given;
  const made = typeof name === "string" && Object.hasOwn(FILTERS, name) ? FILTERS[name] : undefined;
  if (made) return made(place, settings);
  const near = typeof name === "string" ? suggestion(name, Object.keys(FILTERS)) : undefined;
  throw new ConfigError(`${place}: the filter ${show(name)} is not known${near ? `; did you mean "${near}"?` : ""}`, {
    hint: `known: ${listed(Object.keys(FILTERS), 12)}`,
  });
}
